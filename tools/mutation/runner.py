"""A copy of the tree per processor, a worker in each, and the verdict on one requirement id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.mutation.operators import Mutant, mutants
from tools.mutation.sites import Site

COPIED = ("ikev2", "ippm", "binding", "tests", "tools", "interop", "fuzz", "examples", "docs", "bench")
_COST = {"unit": 0, "property": 1, "vectors": 1, "sim": 1, "oracle": 2, "decoder": 2, "fuzz": 2, "loopback": 3}
HEAVY = 9
"""Namespaces, guests and foreign daemons: only for an id that nothing else carries."""


def cost(test: str) -> int:
    """How dear a test is, by its folder: 0 to 3, or HEAVY."""
    return _COST.get(test.split("/")[1], HEAVY)


@dataclass(slots=True)
class Tried:
    """One site: what was done there, and the first change that a test noticed."""

    site: Site
    killed_by: str = ""
    test: str = ""
    mutants: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """What came of one id: `killed`, `survived`, `no line` (none is named), or `not run` (its tests are skipped)."""

    id: str
    outcome: str
    tried: list[Tried] = field(default_factory=list)
    tests: int = 0


class Bench:
    """One copy of the tree and its worker."""

    def __init__(self, root: Path, copy: Path) -> None:
        self.copy = copy
        copy.mkdir(parents=True)
        for name in COPIED:
            if (root / name).exists():
                ignored = shutil.ignore_patterns("__pycache__", "findings")
                shutil.copytree(root / name, copy / name, ignore=ignored, symlinks=True)
        for path in root.glob("*"):
            if path.is_file():
                shutil.copy2(path, copy / path.name)
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONUNBUFFERED": "1"}
        self._worker = subprocess.Popen(
            [*_own_network(), sys.executable, "-m", "tools.mutation.worker"],
            cwd=copy,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, tests: list[str], *, stop: bool, seconds: float, whole_s: float, write: bool = False) -> dict:
        """Run tests as they are here now."""
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        order = {"tests": tests, "stop": stop, "seconds": seconds, "all": whole_s, "write": write}
        print(json.dumps(order), file=self._worker.stdin, flush=True)
        answer: dict = json.loads(self._worker.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(timeout=30)
        shutil.rmtree(self.copy, ignore_errors=True)

    def kills(self, site: Site, mutant: Mutant, tests: list[str], durations: dict[str, float]) -> tuple[str, str]:
        """(how it ended, the test that failed): `killed`, `crash`, `survived` or `timeout`."""
        path = self.copy / site.file
        original, stat = path.read_text(encoding="utf-8"), path.stat()
        longest = max(durations[test] for test in tests)
        try:
            path.write_text(mutant.source, encoding="utf-8")
            os.utime(path, (stat.st_atime, stat.st_mtime + 1000))  # no byte code of the original fits
            whole = 30 + 4 * sum(durations[test] for test in tests)
            answer = self.run(tests, stop=True, seconds=20 + 4 * longest, whole_s=whole)
        finally:
            path.write_text(original, encoding="utf-8")
            os.utime(path, (stat.st_atime, stat.st_mtime))
        if answer["ended"] == "timeout":
            return "timeout", tests[0]
        noticed = [name for name, kind in answer["failed"] if kind == "test"]
        if noticed:
            return "killed", noticed[0]
        return ("crash", answer["failed"][0][0]) if answer["failed"] else ("survived", "")


def _own_network() -> list[str]:
    """Root runs a worker in its own network namespace, so that ports of two workers do not meet."""
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return []
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else []


def judge(
    bench: Bench, identifier: str, sites: list[Site], tests: list[str], durations: dict[str, float]
) -> Verdict:
    """Try the changes of every site of an id until one is noticed; `durations` has the tests that pass unchanged."""
    usable = [test for test in tests if test in durations]
    light = [test for test in usable if cost(test) < HEAVY] or usable
    light.sort(key=lambda test: (cost(test), durations[test], test))
    verdict = Verdict(identifier, "no line", tests=len(light))
    if not light:
        verdict.outcome = "not run"
        return verdict
    for site in sites:
        tried = Tried(site)
        for mutant in mutants((bench.copy / site.file).read_text(encoding="utf-8"), site):
            ended, test = bench.kills(site, mutant, light, durations)
            tried.mutants.append(f"{mutant.what}: {ended}")
            if ended in {"killed", "timeout"}:
                tried.killed_by, tried.test = mutant.what, test
                break
        if tried.mutants:
            verdict.tried.append(tried)
    if verdict.tried:
        verdict.outcome = "killed" if any(tried.killed_by for tried in verdict.tried) else "survived"
    return verdict
