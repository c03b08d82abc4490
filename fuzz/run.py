"""Coverage-guided fuzzing with atheris: `python fuzz/run.py TARGET [--runs N | --seconds S]`; `make fuzz` runs all.

A finding is written to fuzz/findings and ends the run with status 77. Inputs that reached new code are kept in
fuzz/corpus/TARGET, which the tests run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=0, help="end after this time instead")
    arguments = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["ikev2", "ippm"]):
        from fuzz.targets import TARGETS
    if arguments.target not in TARGETS:
        parser.error(f"there is no target {arguments.target!r}; there are {', '.join(TARGETS)}")
    corpus, findings = ROOT / "fuzz" / "corpus" / arguments.target, ROOT / "fuzz" / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    limit = [f"-max_total_time={arguments.seconds}"] if arguments.seconds else [f"-runs={arguments.runs}"]
    options = [
        sys.argv[0],
        str(corpus),
        *limit,
        f"-artifact_prefix={findings}/",
        "-max_len=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup(options, TARGETS[arguments.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
