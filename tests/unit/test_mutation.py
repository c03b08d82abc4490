"""What `make mutate` does to a line, and what it takes for a proof."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tools.mutation import sites
from tools.mutation.operators import mutants
from tools.mutation.runner import Bench, judge
from tools.mutation.sites import Site

ROOT = Path(__file__).resolve().parent.parent.parent

SOURCE = '''
def check(value, limit):
    """A docstring names no line (rfc7296-s2.1-04)."""
    # rfc7296-s2.1-01: a comment above
    # and its second line
    if value > limit:
        raise ValueError(value)
    table = {
        1: "one",
        # rfc7296-s2.1-02, -03
        2: "two",
    }
    return table.get(value, limit)  # rfc7383-s2.4-01


class Kept:
    kept = 0

    def keep(self, value):
        self.kept = value  # rfc7296-s2.1-06
        text = str(value)  # rfc7296-s2.1-05
        return text.upper()
'''


def changes(line: int) -> list[str]:
    return [mutant.what for mutant in mutants(SOURCE, Site("module.py", line))]


def line_of(text: str) -> int:
    return SOURCE[: SOURCE.index(text)].count("\n") + 1


def test_a_comment_names_the_line_that_it_stands_on_or_above() -> None:
    assert dict(sites.of_source(SOURCE)) == {
        "rfc7296-s2.1-01": line_of("if value"),
        "rfc7296-s2.1-02": line_of('2: "two"'),
        "rfc7296-s2.1-03": line_of('2: "two"'),
        "rfc7383-s2.4-01": line_of("return table"),
        "rfc7296-s2.1-06": line_of("self.kept"),
        "rfc7296-s2.1-05": line_of("text = str"),
    }


def test_a_guard_is_switched_off_and_never_on() -> None:
    assert "`if value > limit` never" in changes(line_of("if value"))
    assert "`if value > limit` always" not in changes(line_of("if value"))


def test_only_the_named_entry_of_a_table_is_touched() -> None:
    found = changes(line_of('2: "two"'))
    assert any(what.endswith("without `2`") for what in found)
    assert not any(what.endswith("without `1`") for what in found)


def test_given_changes_are_of_known_ids_and_compile() -> None:
    """One that does not fit its file any more is for `make mutate` to say: its ids have no line then."""
    known: set[str] = set()
    for table in (ROOT / "tests" / "requirements").glob("*.csv"):
        with table.open(encoding="utf-8", newline="") as file:
            known.update(row["id"] for row in csv.DictReader(file))
    for change in sites.given_changes(ROOT):
        assert set(change["ids"]) <= known, change["ids"]
        text = (ROOT / change["file"]).read_text(encoding="utf-8")
        compile(text.replace(change["was"], change["becomes"]), change["file"], "exec")


TESTS = """
import pytest
from ikev2.module import Kept, check


def test_checks():
    with pytest.raises(ValueError):
        check(3, 2)


def test_nothing():
    check(1, 2)


def test_keeps():
    Kept().keep("four")
"""


def test_a_change_counts_when_the_test_notices_it_and_not_when_the_code_stumbles(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "ikev2").mkdir(parents=True)
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "tools").symlink_to(ROOT / "tools")
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (root / "ikev2" / "__init__.py").write_text("")
    (root / "ikev2" / "module.py").write_text(SOURCE)
    (root / "tests" / "unit" / "test_module.py").write_text(TESTS)
    bench = Bench(root, tmp_path / "copy")
    try:
        names = [f"tests/unit/test_module.py::{name}" for name in ("test_checks", "test_nothing", "test_keeps")]
        durations = bench.run(names, stop=False, seconds=30, whole_s=60)["passed"]
        assert sorted(durations) == sorted(names)

        def outcome(text: str, test: str) -> str:
            return judge(bench, "an id", [Site("ikev2/module.py", line_of(text))], [test], durations).outcome

        assert outcome("if value", names[0]) == "killed"
        assert outcome("if value", names[1]) == "survived"
        # None has no `upper`: that shows that the line is run, and nothing else.
        assert outcome("text = str", names[2]) == "survived"
    finally:
        bench.close()


@pytest.mark.parametrize("text", ["if value", "self.kept", "return table"])
def test_every_change_differs_and_compiles(text: str) -> None:
    found = mutants(SOURCE, Site("module.py", line_of(text)))
    assert found
    assert len({mutant.source for mutant in found} | {SOURCE}) == len(found) + 1
