"""`make lab`, and the same without a terminal.

    python -m interop.lab [delay=20ms loss=1% ...]                      two shells, A and B, on this terminal
    python -m interop.lab --nat --run 'ippm-ipsec twping -c a.toml $B'  a command on A, and its exit status
    python -m interop.lab --clean                                       remove what a killed lab left

Exit status: 0 done (with --run, the command's), 1 the lab could not be made, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ikev2.errors import IkeError
from interop.lab.knobs import KnobError, change, help_text
from interop.lab.leftovers import remove_stale
from interop.lab.netns import interrupted_by_signals, unshare_argv
from interop.lab.playground import Playground, PlaygroundOptions
from interop.lab.relay import Impairments
from interop.lab.screen import NoScreen, show, why_no_screen

UNSHARED = "IPPM_LAB_UNSHARED"
"""Set in the copy of this process that runs inside `unshare`."""


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        options = PlaygroundOptions(
            change(Impairments(), given.knobs), given.seed, given.nat or given.mapping is not None, given.mapping,
            given.mode, given.backend,
        )  # fmt: skip
    except KnobError as error:
        return _end(str(error), 2)
    if UNSHARED not in os.environ:
        for sentence in remove_stale():
            _say(sentence)
    if given.clean:
        return 0
    if given.run is None and (reason := why_no_screen()) is not None:
        return _end(reason, 2)
    if shutil.which("nsenter") is None:
        return _end("there is no nsenter: as root, apt-get install util-linux", 1)
    try:
        with interrupted_by_signals():
            _where_namespaces_can_be_made(arguments)
            return _play(options, given.run, given.on.lower())
    except KeyboardInterrupt:
        return _end("interrupted; all of the lab is removed", 128 + signal.SIGINT)
    except (IkeError, NoScreen) as error:
        return _end(str(error), 1)
    except OSError as error:
        return _end((f"{error.filename}: " if error.filename else "") + (error.strerror or str(error)), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m interop.lab",
        description="Two hosts with an IKE SA between them and a path that is as bad as you want, to play with.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("knobs", nargs="*", metavar="KNOB=VALUE", help="the path, both ways, once the hosts are up")
    parser.add_argument("--run", metavar="COMMAND", help="no terminal: run this shell command on a host, and end")
    parser.add_argument("--on", choices=["A", "B"], default="A", help="the host of --run")
    parser.add_argument("--nat", action="store_true", help="A is behind a NAT of addresses and ports")
    parser.add_argument(
        "--mapping", type=_seconds, metavar="SECONDS", help="so long its mappings live unused (a NAT)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the impairments and of the NAT's ports")
    parser.add_argument("--mode", choices=["tunnel", "transport"], default="tunnel", help="of the Child SA")
    parser.add_argument("--backend", choices=["auto", "xfrm", "userspace"], default="auto")
    parser.add_argument("--clean", action="store_true", help="only remove what a killed lab left")
    return parser


def _seconds(text: str) -> float:
    """A time that a mapping can live. ArgumentTypeError for another: nothing would ever come back through the NAT."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not seconds above zero, such as 30")
    return seconds


def _where_namespaces_can_be_made(arguments: Sequence[str]) -> None:
    """Becomes `unshare -Urnm` with this command inside, where that is needed. IkeError when it does not help."""
    argv = [sys.executable, "-m", "interop.lab", *arguments]
    wanted = unshare_argv(argv)
    if wanted == argv:
        return
    if UNSHARED in os.environ:
        raise IkeError("namespaces cannot be made, not even inside unshare -Urnm")
    _say("going on inside an unprivileged user namespace")
    root = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {UNSHARED: "1", "PYTHONPATH": f"{root}:{before}" if before else root}
    os.execvpe(wanted[0], wanted, environment)


def _play(options: PlaygroundOptions, command: str | None, host: str) -> int:
    with Playground(options, _say) as playground:
        try:
            if command is not None:
                return playground.run(host, command)
            show(playground.path)
        finally:
            # From here on all is taken down, whatever else is asked for.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
    _say("all of the lab is removed")
    return 0


def _say(sentence: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"lab: {sentence}", file=sys.stderr, flush=True)


def _end(sentence: str, status: int) -> int:
    _say(sentence)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
