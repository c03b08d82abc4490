"""docs/index.md lists every page, `make help` every target; what README names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCENARIOS = ROOT / "interop" / "scenarios"


def test_the_index_lists_every_page() -> None:
    tree = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("```")[1]
    listed = [line for line in tree.splitlines()[1:] if re.fullmatch(r"[a-z0-9-]+", line)]
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)


def test_make_help_has_every_target() -> None:
    made = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    shown = set(re.findall(r"^  make ([a-z-]+)\t", made.stdout, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert shown | {"help"} == set(phony[1].split())


def named_files() -> list[str]:
    """Files and folders in backquotes; one without a folder is beside the one before it."""
    found: list[str] = []
    for word in re.findall(r"`((?:tests|fuzz|docs|examples)/[\w./-]+|test_\w+\.py)`", README):
        found.append(word if "/" in word else f"{Path(found[-1]).parent}/{word}")
    return found


@pytest.mark.parametrize("path", named_files())
def test_what_readme_names_as_proof_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_scenarios_that_readme_names_are_there() -> None:
    named = re.findall(r"scenario `([a-z0-9-]+)`", README)
    assert len(named) >= 5
    assert [name for name in named if not (SCENARIOS / name / "scenario.toml").exists()] == []


def test_readme_has_the_number_of_pairwise_cases() -> None:
    from interop.pairwise import load_cases

    assert f"`python -m interop.pairwise`: {len(load_cases())} cases" in README
