"""Does the test of a requirement fail when the line that enforces it is removed?

    python -m tools.mutate [--count 50] [--seed N] [--rfc rfc7296] [--id ID] [--all] [--write | --add]

Draws requirement ids among those that a test carries, finds the lines whose comment names them, changes these lines
one at a time in a copy of the tree and runs the tests that carry the id. An id counts (`killed`) when one of its
tests notices the change by what it asserts. It does not count when all stay green (`survived`) or when no line names
it (`no line`). Namespaces, guests and foreign daemons run only where nothing else carries the id.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tools import compliance
from tools.mutation import sites
from tools.mutation.runner import HEAVY, Bench, Verdict, cost, judge

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "requirements" / "mutation.json"


def draw(ids: list[str], arguments: argparse.Namespace) -> list[str]:
    """The ids to try: those named, all, or `count` of them by the seed."""
    wanted = [identifier for identifier in ids if not arguments.rfc or identifier.split("-")[0] in arguments.rfc]
    if arguments.id:
        if strange := sorted(set(arguments.id) - set(ids)):
            raise SystemExit(f"mutate: no test carries {', '.join(strange)}")
        return sorted(set(arguments.id))
    if arguments.all:
        return wanted
    return sorted(random.Random(arguments.seed).sample(wanted, min(arguments.count, len(wanted))))


def tests_of(drawn: list[str], carried: dict[str, list[str]]) -> list[str]:
    """What has to pass unchanged first: the light tests of every drawn id, its heavy ones if it has no other."""
    wanted: set[str] = set()
    for identifier in drawn:
        light = [test for test in carried[identifier] if cost(test) < HEAVY]
        wanted.update(light or carried[identifier])
    return sorted(wanted)


def run(drawn: list[str], carried: dict[str, list[str]], jobs: int, *, verbose: bool) -> list[Verdict]:
    """Judge all ids, `jobs` at a time."""
    found = sites.find(ROOT)
    scratch = Path(tempfile.mkdtemp(prefix="mutate-"))
    benches = [Bench(ROOT, scratch / str(i)) for i in range(jobs)]
    verdicts: list[Verdict] = []
    waiting: queue.Queue[str] = queue.Queue()
    for identifier in drawn:
        waiting.put(identifier)
    durations: dict[str, float] = {}
    wanted = tests_of([identifier for identifier in drawn if identifier in found], carried)

    def first(bench: Bench, some: list[str]) -> None:
        if some:
            answer = bench.run(some, stop=False, seconds=300, whole_s=3600, write=True)
            failed = {name for name, _ in answer["failed"]}
            durations.update({name: took for name, took in answer["passed"].items() if name not in failed})
            for name in sorted(failed):
                print(f"mutate: {name} fails unchanged and is left out", file=sys.stderr)

    def work(bench: Bench) -> None:
        while True:
            try:
                identifier = waiting.get_nowait()
            except queue.Empty:
                return
            verdict = judge(bench, identifier, found.get(identifier, []), carried[identifier], durations)
            if not found.get(identifier):
                verdict.outcome = "no line"
            verdicts.append(verdict)
            if verbose or verdict.outcome != "killed":
                print(words(verdict, everything=verbose), flush=True)

    try:
        modules = sorted({test.split("::")[0] for test in wanted})
        shares = [[test for test in wanted if modules.index(test.split("::")[0]) % jobs == i] for i in range(jobs)]
        in_parallel([threading.Thread(target=first, args=(bench, shares[i])) for i, bench in enumerate(benches)])
        in_parallel([threading.Thread(target=work, args=(bench,)) for bench in benches])
    finally:
        for bench in benches:
            bench.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(verdicts, key=lambda verdict: verdict.id)


def in_parallel(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def words(verdict: Verdict, *, everything: bool = False) -> str:
    """One line of an id, and one for each of its sites."""
    lines = [f"{verdict.outcome}: {verdict.id} ({verdict.tests} tests)"]
    for tried in verdict.tried:
        where = f"  {tried.site.file}:{tried.site.line}"
        lines.append(f"{where}: {tried.killed_by or 'nothing that was done here was noticed'}")
        if everything or not tried.killed_by:
            lines += [f"    {mutant}" for mutant in tried.mutants]
        if tried.test:
            lines.append(f"    by {tried.test}")
    return "\n".join(lines)


def write(verdicts: list[Verdict], arguments: argparse.Namespace) -> None:
    """The record that tools/compliance.py puts into its report."""
    entries = [
        {
            "id": verdict.id,
            "outcome": verdict.outcome,
            "lines": [
                {"line": f"{tried.site.file}:{tried.site.line}", "change": tried.killed_by, "test": tried.test}
                for tried in verdict.tried
            ],
        }
        for verdict in verdicts
    ]
    ids = {entry["id"]: entry for entry in entries}
    how = "every id" if arguments.all else f"{len(ids)} by seed {arguments.seed}"
    drawn = f"{how} of {' and '.join(arguments.rfc or ['all tables'])}"
    if arguments.add and RECORD.exists():
        before = json.loads(RECORD.read_text(encoding="utf-8"))
        ids = {entry["id"]: entry for entry in before["ids"]} | ids
        again = {entry["id"] for entry in before["ids"]}.issuperset(arguments.id or ["none"])
        drawn = before["drawn"] if again else f"{before['drawn']}; {drawn}"
    record = {"drawn": drawn, "ids": [ids[identifier] for identifier in sorted(ids)]}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="how many ids to draw")
    parser.add_argument("--seed", type=int, help="of the draw; without it another one each time")
    parser.add_argument("--rfc", action="append", help="only ids of this one, for example rfc7296; may be repeated")
    parser.add_argument("--id", action="append", help="this id; may be repeated")
    parser.add_argument("--all", action="store_true", help="every id that a test carries")
    parser.add_argument("--unnamed", action="store_true", help="only list the ids that no line names")
    parser.add_argument("--jobs", type=int, default=2, help="how many changes are tried at a time")
    parser.add_argument("--write", action="store_true", help="keep the result for docs/compliance.md")
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep it beside what is kept already; of an id that was tried before, instead of it",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say every change that was tried")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1_000_000)
    began = time.monotonic()
    carried = compliance.collect()
    for change in sites.given_changes(ROOT):
        if (ROOT / change["file"]).read_text(encoding="utf-8").count(change["was"]) != 1:
            print(
                f"mutate: mutations.toml: {change['ids'][0]}: `was` is not in {change['file']} once",
                file=sys.stderr,
            )
    drawn = draw(sorted(carried), arguments)
    if arguments.unnamed:
        found = sites.find(ROOT)
        print("\n".join(identifier for identifier in drawn if identifier not in found))
        return 0
    verdicts = run(drawn, carried, arguments.jobs, verbose=arguments.verbose)
    counts = Counter(verdict.outcome for verdict in verdicts)
    print(
        f"mutate: seed {arguments.seed}, {len(verdicts)} ids: "
        + ", ".join(f"{counts[name]} {name}" for name in ("killed", "survived", "no line", "not run"))
        + f"; {time.monotonic() - began:.0f} s"
    )
    if arguments.write or arguments.add:
        write(verdicts, arguments)
    return 1 if counts["survived"] or counts["no line"] else 0


if __name__ == "__main__":
    sys.exit(main())
