"""Runs tests in a copy of the tree: `python -m tools.mutation.worker`, started there, one order a line on stdin.

An order is {"tests": [node ids], "stop": stop at the first failure, "seconds": for one test, "all": for the run,
"write": byte code}; the answer is a line {"failed": [[node id, kind]], "passed": {node id: seconds}, "skipped": [node
ids], "ended": how}. The modules that no mutation touches are imported once: each order is a fork. A failure is of the
kind "crash" when what came out of the packages is a stumble of the changed code over itself, and "test" when the test
noticed.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import sys
import traceback
import types
from pathlib import Path

import pytest

_STUMBLES = {
    "NameError", "UnboundLocalError", "TypeError", "AttributeError", "SyntaxError", "IndentationError",
    "ImportError", "ModuleNotFoundError", "error", "RecursionError",
}  # fmt: skip
_PACKAGES = ("ikev2", "ippm", "binding")


def _stumbled(error: BaseException) -> bool:
    """Whether an exception is the changed code's own stumble: of such a type, and raised in the packages."""
    name = type(error).__name__
    if name not in _STUMBLES and not (name == "ValueError" and "to unpack" in str(error)):
        return False
    here = Path.cwd()
    ours = [
        Path(frame.filename).relative_to(here).parts[0]
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(here)
    ]
    return bool(ours) and ours[-1] in _PACKAGES


class Watch:
    """The pytest plugin: keeps the wanted tests, in their order, and notes how each ended."""

    def __init__(self, tests: list[str]) -> None:
        self.rank = {name: i for i, name in enumerate(tests)}
        self.failed: list[tuple[str, str]] = []
        self.passed: dict[str, float] = {}
        self.skipped: list[str] = []
        self.swallowed = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda it: self.rank[it.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append((report.nodeid, "crash"))

    def pytest_runtest_setup(self) -> None:
        """The manager takes every exception for what a datagram did: a stumble must not look like a refusal."""
        self.swallowed = False
        module = sys.modules.get("ikev2.core.manager")
        manager = getattr(module, "SaManager", None)
        if manager is None or isinstance(manager.__dict__.get("internal_errors"), property):
            return

        def note(instance: object, value: int) -> None:
            error = sys.exc_info()[1]
            self.swallowed = self.swallowed or (error is not None and _stumbled(error))
            instance.__dict__["internal_errors"] = value

        manager.internal_errors = property(lambda instance: instance.__dict__["internal_errors"], note)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> object:
        report = yield
        if report.failed:
            error = call.excinfo.value if call.excinfo is not None else None
            crash = self.swallowed or (error is not None and _stumbled(error))
            self.failed.append((item.nodeid, "crash" if crash else "test"))
        elif report.skipped:
            self.skipped.append(item.nodeid)
        elif report.when == "call":
            self.passed[item.nodeid] = report.duration
        return report


def _run(order: dict, out: int) -> None:
    """In the child: run the tests and write the answer."""
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    watch = Watch(order["tests"])
    files = sorted({name.split("::")[0] for name in order["tests"]})
    options = ["-q", "-p", "no:cacheprovider", "--timeout", str(order["seconds"]), "--hypothesis-seed", "1"]
    ended = pytest.main([*options, *(["-x"] if order["stop"] else []), *files], plugins=[watch])
    answer = {"failed": watch.failed, "passed": watch.passed, "skipped": watch.skipped, "ended": int(ended)}
    with os.fdopen(out, "w") as pipe:
        pipe.write(json.dumps(answer))


def _answer(order: dict) -> str:
    """Fork, wait until the answer is there or the time is over, end what is left of the child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            _run(order, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    text = b""
    timeout = order["all"]
    while select.select([read_end], [], [], timeout)[0] and (part := os.read(read_end, 65536)):
        text += part
    os.close(read_end)
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return text.decode() or json.dumps({"failed": [], "passed": {}, "skipped": [], "ended": "timeout"})


def main() -> None:
    for name in (
        "asyncio", "click", "cryptography.hazmat.primitives.asymmetric.x25519", "cryptography.x509", "hypothesis",
        "cryptography.hazmat.primitives.ciphers.aead", "pydantic", "pyroute2", "rich", "rich.console", "_pytest.python",
    ):  # fmt: skip
        assert isinstance(builtins.__import__(name), types.ModuleType)
    for line in sys.stdin:
        order = json.loads(line)
        sys.dont_write_bytecode = not order["write"]
        print(_answer(order), flush=True)


if __name__ == "__main__":
    main()
