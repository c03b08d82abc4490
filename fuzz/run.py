"""Coverage-guided fuzzing with atheris: `python fuzz/run.py TARGET|all [--runs N | --seconds S | --keep]`.

`make fuzz` runs all. A finding is written to fuzz/findings and ends the run with status 77. Inputs that reach new code
are written to fuzz/found/TARGET; `--keep` takes those of them that reach code which nothing smaller reaches into
fuzz/corpus/TARGET, which the tests run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
KEPT_MAX = 150


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="or all, one after the other")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=0, help="end after this time instead, all targets together")
    parser.add_argument("--keep", action="store_true", help="take what was found into the corpus")
    arguments = parser.parse_args()
    if arguments.keep:
        return keep(arguments.target, *directories(arguments.target))
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzz: skipped: atheris cannot be had for this Python ({sys.version.split()[0]})")
        return 0
    if arguments.target == "all":
        return run_all(arguments)
    import atheris

    with atheris.instrument_imports(include=["ikev2", "ippm"]):
        from fuzz.targets import TARGETS
    if arguments.target not in TARGETS:
        parser.error(f"there is no target {arguments.target!r}; there are all, {', '.join(TARGETS)}")
    corpus, found = directories(arguments.target)
    findings = ROOT / "fuzz" / "findings"
    findings.mkdir(exist_ok=True)
    limit = [f"-max_total_time={arguments.seconds}"] if arguments.seconds else [f"-runs={arguments.runs}"]
    options = [f"-artifact_prefix={findings}/", "-max_len=2048", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(found), str(corpus), *limit, *options], TARGETS[arguments.target])
    atheris.Fuzz()
    return 0


def directories(target: str) -> tuple[Path, Path]:
    """Where a target's kept inputs are, and those that were found."""
    both = ROOT / "fuzz" / "corpus" / target, ROOT / "fuzz" / "found" / target
    for directory in both:
        directory.mkdir(parents=True, exist_ok=True)
    return both


def run_all(arguments: argparse.Namespace) -> int:
    """Each target in a process of its own; `--seconds` is shared among them."""
    from fuzz.targets import TARGETS

    for target in TARGETS:
        limit = ["--runs", str(arguments.runs)]
        if arguments.seconds:
            limit = ["--seconds", str(max(1, arguments.seconds // len(TARGETS)))]
        print(f"== {target}", flush=True)
        done = subprocess.run([sys.executable, __file__, target, *limit], check=False)
        if done.returncode:
            return done.returncode
    return 0


def keep(target: str, corpus: Path, found: Path) -> int:
    """A few inputs that together reach what all of them reach, in place of the corpus: whoever reaches most goes first.

    Reached is a step from one line of the packages to another.
    """
    from fuzz.targets import TARGETS

    reached: dict[bytes, set[tuple[str, int, int]]] = {}
    for path in (*corpus.iterdir(), *found.iterdir()):
        reached.setdefault(path.read_bytes(), set())
    for data, steps in reached.items():
        sys.settrace(tracer(steps))
        try:
            TARGETS[target](data)
        finally:
            sys.settrace(None)
    kept: list[bytes] = []
    missing = set().union(*reached.values())
    while missing and len(kept) < KEPT_MAX:
        best = max(reached, key=lambda data: (len(reached[data] & missing), -len(data)))
        kept.append(best)
        missing -= reached.pop(best)
    shutil.rmtree(corpus)
    corpus.mkdir()
    for data in kept:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    print(f"fuzz: {target}: {len(kept)} inputs kept; {len(missing)} steps are reached by others only")
    return 0


def tracer(steps: set[tuple[str, int, int]]) -> Callable[[FrameType, str, object], object]:
    """For sys.settrace: notes the steps of ikev2 and ippm."""
    ours = (str(ROOT / "ikev2"), str(ROOT / "ippm"))

    def enter(frame: FrameType, event: str, argument: object) -> object:
        name = frame.f_code.co_filename
        if not name.startswith(ours):
            return None
        before = 0

        def line(frame: FrameType, event: str, argument: object) -> object:
            nonlocal before
            if event == "line":
                steps.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    return enter


if __name__ == "__main__":
    sys.exit(main())
