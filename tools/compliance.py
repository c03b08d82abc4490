"""Every requirement id of tests/requirements with its standing: covered, superseded, not testable, later or open.

    python tools/compliance.py [--write docs/compliance.md] [--check] [RFC ...]

Covered means that a collected test carries the id (`@pytest.mark.req`). Superseded and not testable are stated, with
by what and why, in tests/requirements/dispositions.toml; so is later, which is a requirement on something that this
version does not do, and open is one that nobody has looked at. `--check` fails on an id that no table has, or one that
is both covered and declared not testable.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "tests" / "requirements"
STANDINGS = ("superseded", "not testable", "later")
"""What dispositions.toml may say of a requirement."""
MUTATION = TABLES / "mutation.json"


def load_tables() -> dict[str, dict[str, str]]:
    """id -> row, from every table of this project; rows marked (unverified) are not from the text and do not count."""
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(TABLES.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if "(unverified)" in row["text"]:
                    continue
                rows[row["id"]] = {**row, "rfc": path.stem}
    return rows


def collect() -> dict[str, list[str]]:
    """id -> the tests that carry it, from pytest's own collection."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "req.json"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "--req-json", str(out), "tests"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        # A module that cannot be imported would take its requirement ids away unnoticed.
        if not out.exists() or done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
            raise SystemExit("pytest could not collect the tests")
        collected: dict[str, list[str]] = json.loads(out.read_text())
        return collected


def render(rows: dict[str, dict[str, str]], tests: dict[str, list[str]], stated: dict[str, dict[str, str]]) -> str:
    """The Markdown report: a summary table, then each RFC's requirements."""
    by_rfc: dict[str, list[tuple[dict[str, str], str, str]]] = defaultdict(list)
    for identifier, row in rows.items():
        if identifier in tests:
            names = sorted({name.split("[")[0] for name in tests[identifier]})
            by_rfc[row["rfc"]].append((row, "covered", "<br>".join(f"`{name}`" for name in names)))
        elif identifier in stated:
            entry = stated[identifier]
            by_rfc[row["rfc"]].append((row, entry["standing"], entry["why"]))
        else:
            by_rfc[row["rfc"]].append((row, "open", ""))
    lines = [
        "# Requirements and the tests that prove them",
        "",
        "Made by `make compliance` from tests/requirements and the `req` markers of the tests.",
        "",
        "| RFC | requirements | covered | superseded | not testable | later | open |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for rfc, entries in sorted(by_rfc.items()):
        count = Counter(standing for _, standing, _ in entries)
        lines.append(
            f"| {rfc} | {len(entries)} | {count['covered']} | {count['superseded']} | "
            f"{count['not testable']} | {count['later']} | {count['open']} |"
        )
    for rfc, entries in sorted(by_rfc.items()):
        if all(standing == "open" for _, standing, _ in entries):
            continue
        later = [entry for entry in entries if entry[1] == "later"]
        entries = [entry for entry in entries if entry[1] != "later"]
        lines += ["", f"## {rfc}", "", "| id | level | standing | tests, or why |", "| --- | --- | --- | --- |"]
        lines += [f"| {row['id']} | {row['level']} | {standing} | {why} |" for row, standing, why in entries]
        if later:
            lines += ["", f"Of {rfc} this is left out so far:", "", "| id | level | why |", "| --- | --- | --- |"]
            lines += [f"| {row['id']} | {row['level']} | {why} |" for row, _, why in later]
    lines += proved_by_mutation()
    return "\n".join(lines) + "\n"


def proved_by_mutation() -> list[str]:
    """The section that the last `make mutate` left its record for."""
    if not MUTATION.exists():
        return []
    record = json.loads(MUTATION.read_text(encoding="utf-8"))
    count = Counter(entry["outcome"] for entry in record["ids"])
    lines = [
        "",
        "## Markers proved by mutation",
        "",
        "`make mutate` draws ids that a test carries, changes the lines that enforce them, one at a time, and runs",
        "these tests. Killed: a test fails by what it asserts. Survived: all stay green, so the marker proves nothing.",
        "No line: no comment in the code names the id. Not run: its tests are skipped where this ran.",
        "",
        f"Drawn: {len(record['ids'])} ({record['drawn']}). "
        + ", ".join(f"{name.capitalize()}: {count[name]}" for name in ("killed", "survived", "no line", "not run"))
        + ".",
        "",
        "| id | outcome | line, what was done there, and the test that noticed |",
        "| --- | --- | --- |",
    ]
    for entry in record["ids"]:
        # A bar would end the cell.
        cells = [
            f"{tried['line']}: {tried['change'] or 'not noticed'}".replace("|", "\\|")
            + (f" (`{tried['test'].split('[')[0]}`)" if tried["test"] else "")
            for tried in entry["lines"]
        ]
        lines.append(f"| {entry['id']} | {entry['outcome']} | {'<br>'.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rfc", nargs="*", help="only these, for example rfc7717")
    parser.add_argument("--write", type=Path, help="write the whole report here")
    parser.add_argument("--check", action="store_true", help="fail on unknown ids and contradictions")
    arguments = parser.parse_args()
    rows = load_tables()
    tests = collect()
    stated_file = TABLES / "dispositions.toml"
    stated = tomllib.loads(stated_file.read_text()) if stated_file.exists() else {}
    for identifier, entry in stated.items():
        if entry.get("standing") not in STANDINGS or not entry.get("why"):
            raise SystemExit(f"{identifier}: its standing is one of {', '.join(STANDINGS)}, and there is a why")
    unknown = sorted((set(tests) | set(stated)) - set(rows))
    both = sorted(set(tests) & set(stated))
    if arguments.rfc:
        rows = {key: row for key, row in rows.items() if row["rfc"] in arguments.rfc}
    report = render(rows, tests, stated)
    if arguments.write:
        arguments.write.write_text(report)
    print(
        "\n".join(line for line in report.splitlines()[4:] if line.startswith("|"))
        if arguments.rfc
        else report.split("\n## ")[0].split("\n\n", 2)[2]
    )
    for identifier in unknown:
        print(f"no table has {identifier}")
    for identifier in both:
        print(f"{identifier} is covered and yet declared {stated[identifier]['standing']}")
    return 1 if arguments.check and (unknown or both) else 0


if __name__ == "__main__":
    sys.exit(main())
