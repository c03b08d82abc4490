"""The command `lab` in the shells of a running lab: it changes the impairments, shows what they did, enters hosts.

It finds the lab by the environment variable IPPM_LAB. Only the standard library, so that it answers at once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from interop.lab.leftovers import VARIABLE

SOCKET = "console"
HOST = "host.json"
"""What `lab on` needs of a host: its namespace, directory and environment."""

DIRECTIONS = ("to-b", "to-a", "both")

USAGE = """\
lab impair [to-b|to-a|both] KNOB=VALUE...   change the path; what is not named stays (KNOB=none undoes one)
lab clear [to-b|to-a|both]                  a good path again
lab show                                    the impairments, and what they did so far
lab knobs                                   all knobs
lab rebind                                  the NAT forgets its mappings (with --nat)
lab on A|B COMMAND...                       run a command on a host; without one, a shell
lab log [A|B]                               follow the logs of the hosts
lab help                                    what to type first"""


def ask(directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A request to the lab and its answer. OSError when no lab runs there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(directory / SOCKET))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            answer: dict[str, Any] = json.loads(stream.readline())
    return answer


def enter(directory: Path, host: str, command: list[str]) -> NoReturn:
    """Becomes a command on a host: its namespace, directory and environment."""
    description = json.loads((directory / host.lower() / HOST).read_text())
    os.chdir(directory / host.lower())
    argv = ["nsenter", f"--net={description['namespace']}", "--", *(command or description["shell"])]
    os.execvpe(argv[0], argv, os.environ | description["environment"])


def main(arguments: list[str]) -> int:
    """The command line; the exit status."""
    if VARIABLE not in os.environ:
        return _wrong("this is for the shells of a running lab: make lab")
    directory = Path(os.environ[VARIABLE])
    match arguments:
        case ["impair", *words]:
            where, knobs = _direction(words)
            if not knobs:
                return _wrong("lab impair [to-b|to-a|both] KNOB=VALUE..., such as lab impair delay=20ms loss=1%")
            return _tell(directory, {"do": "impair", "where": where, "knobs": knobs})
        case ["clear", *words]:
            where, rest = _direction(words)
            if rest:
                return _wrong(f"no direction {rest[0]!r}: to-b, to-a or both")
            return _tell(directory, {"do": "clear", "where": where})
        case ["show" | "knobs" | "rebind" | "help" as word]:
            return _tell(directory, {"do": word})
        case ["on", host, *command] if host.upper() in ("A", "B"):
            enter(directory, host, command)
        case ["log", *hosts] if {host.upper() for host in hosts} <= {"A", "B"}:
            files = [str(directory / host.lower() / "log") for host in hosts or ("A", "B")]
            os.execvp("tail", ["tail", "-n", "20", "-F", *files])
    print(USAGE, file=sys.stderr)
    return 2


def _direction(words: list[str]) -> tuple[str, list[str]]:
    return (words[0], words[1:]) if words and words[0] in DIRECTIONS else ("both", words)


def _tell(directory: Path, request: dict[str, Any]) -> int:
    try:
        answer = ask(directory, request)
    except OSError as error:
        return _wrong(f"the lab of {directory} does not answer: {error.strerror}", 1)
    print(answer["text"], file=sys.stdout if answer["ok"] else sys.stderr)
    return 0 if answer["ok"] else 2


def _wrong(sentence: str, status: int = 2) -> int:
    print(f"lab: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
