"""The states of an IKE SA as docs/states.md: a diagram and a table, made of the tables that drive the core.

python tools/states.py [--write docs/states.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ikev2.core.transitions import LOCAL, TRANSITIONS, Key  # noqa: E402
from ikev2.core.types import Role  # noqa: E402

HEAD = """\
# The states of an IKE SA

RFC 7296 names no states; these follow its exchanges. This page is made by `python tools/states.py --write
docs/states.md` of the tables in `ikev2/core/transitions.py`, which drive the dispatch of messages, the log, and the
tests that try every exchange in every state and role.

An arrow with an exchange is a message of the peer: a request that we answer, or the response to a request of ours. An
arrow with a word is what we do by ourselves. Besides, every state leads to CLOSED when the time is over for which the
peer may be silent. What has no row is dropped, or refused with INVALID_SYNTAX when it is a request under the protection
of an established IKE SA.
"""


def _message(key: Key) -> str:
    _, exchange, role = key
    return f"{exchange} {'request' if role is Role.RESPONDER else 'response'}"


def arrows() -> dict[tuple[str, str], list[str]]:
    """(from, to) -> what leads there, for all changes of state."""
    found: dict[tuple[str, str], list[str]] = {}
    for (before, after), what in LOCAL.items():
        found.setdefault((str(before), str(after)), []).append(what)
    for key, row in TRANSITIONS.items():
        for after in row.leads_to:
            if after is not key[0]:
                found.setdefault((str(key[0]), str(after)), []).append(_message(key))
    return found


def lines() -> Iterator[str]:
    """The page."""
    yield from HEAD.splitlines()
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> IDLE"
    for (before, after), labels in sorted(arrows().items()):
        yield f"    {before} --> {after}: {', '.join(labels)}"
    yield "    CLOSED --> [*]"
    yield "```"
    yield ""
    yield "| State | Message of the peer | What it means | Of the kinds | Leads to |"
    yield "|---|---|---|---|---|"
    for key, row in TRANSITIONS.items():
        kinds = ", ".join(row.variants)
        yield f"| {key[0]} | {_message(key)} | {row.story} | {kinds} | {', '.join(map(str, row.leads_to))} |"
    yield ""
    yield "The first of the states is where it leads when all goes well; the kinds are those of the payload rules in"
    yield "`ikev2/wire/rules.py`."


def page() -> str:
    """The whole file."""
    return "\n".join(lines()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    path = parser.parse_args().write
    if path is None:
        sys.stdout.write(page())
    else:
        path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
