"""What all tests share: the `req` marker's bookkeeping, the count of skips, and time for Hypothesis."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# An example that takes longer than 200 ms fails by default: on a busy machine that says nothing of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TABLES = Path(__file__).parent / "requirements"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--req-json", help="write {requirement id: [tests]} of the collected tests to this file")
    parser.addoption(
        "--max-skips", type=int, default=None, help="fail the run when more tests than this were skipped"
    )


def requirement_ids() -> set[str]:
    ids: set[str] = set()
    for path in TABLES.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            ids.update(row["id"] for row in csv.DictReader(file))
    return ids


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = requirement_ids()
    found: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for marker in item.iter_markers("req"):
            for identifier in marker.args:
                if identifier not in known:
                    raise pytest.UsageError(f"{item.nodeid}: no table has requirement {identifier!r}")
                found[identifier].append(item.nodeid)
    if out := config.getoption("--req-json"):
        Path(out).write_text(json.dumps(found))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    limit = session.config.getoption("--max-skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if limit is None or reporter is None:
        return
    skips = len(reporter.stats.get("skipped", []))
    if skips > limit and session.exitstatus == 0:
        reporter.write_line(f"{skips} tests were skipped, at most {limit} may be", red=True)
        session.exitstatus = 1


@pytest.fixture
def messages_fit_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds all that `ippm decode` makes of a capture in a test to share/ippm-decode.schema.json."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    from ippm.decode.decoder import Decoder

    schema = json.loads(
        (Path(__file__).parents[1] / "share" / "ippm-decode.schema.json").read_text(encoding="utf-8")
    )
    of_a_message = {"$ref": "#/$defs/message", "$defs": schema["$defs"]}
    validator = jsonschema.Draft202012Validator(of_a_message)
    decode = Decoder.decode

    def decode_and_check(self: Decoder, frames: Any) -> Iterator[Any]:
        for message in decode(self, frames):
            validator.validate(json.loads(json.dumps(message.to_dict())))
            yield message

    monkeypatch.setattr(Decoder, "decode", decode_and_check)
