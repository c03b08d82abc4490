"""Runs a command in a User-Mode-Linux guest: a kernel with real ESP, over this machine's own file system.

    python -m interop.lab.uml [-m MEM] [-t SECONDS] [-w DIR]... [-p] [-v] -- CMD [ARG...]

The guest's root is an overlay: it sees every file of the host, and what it writes goes to memory, except below the
folders given with -w. Modules for XFRM, ESP, veth, TUN and netem are loaded. CMD's output streams to standard
output, both channels in one. The exit status is CMD's; 124 when the time is up; 125 when the guest died.
Works for any user; in the guest CMD is root, on the host its files are still read and written as that user.

The guest has one CPU, and a system call costs there some 60 times what it costs here. It dies with the process that
runs it, also by kill -9; the folder that is left then goes with the next start.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ikev2.io.netns import die_with_parent
from interop.lab.leftovers import LabDirectory, remove_stale

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
TIMED_OUT = 124
DIED = 125

_INIT = Path(__file__).with_name("guest_init.sh")
_POLL_S = 0.05
_PASSED_ON = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
_PASSED_ON_PREFIXES = ("PYTHON", "UML_", "IKE", "LC_")


def why_not() -> str | None:
    """Why no guest can run here, in one sentence; None when it can."""
    if shutil.which(KERNEL) is None:
        return f"there is no {KERNEL}: install the package user-mode-linux"
    if not MODULES.is_dir():
        return f"{MODULES} is missing: the package user-mode-linux brings it"
    if shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        return "there is no modprobe: install the package kmod"
    return None


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """`memory` in the kernel's words; `timeout_s` covers boot and command; `writable` folders are the host's own.

    `prewarm` loads the usual ESP algorithms before the command (1.5 s, once), so that the first SA of each does not
    wait for a module. `environment` is added to what is passed on: PATH, HOME, LANG, PYTHON*, UML_*, IKE*.
    """

    memory: str = "512M"
    timeout_s: float = 120.0
    writable: tuple[Path, ...] = ()
    prewarm: bool = False
    working_directory: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuestResult:
    """`status` is the command's exit status, 124 or 125; `output` what it wrote; `console` the kernel's own words.

    `boot_s` is the guest's uptime when the command began, None when it never did.
    """

    status: int
    output: bytes
    console: str
    boot_s: float | None

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode("utf-8", "replace")


def _environment(options: GuestOptions) -> dict[str, str]:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    return passed | dict(options.environment)


def _main_script(argv: Sequence[str], options: GuestOptions) -> str:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(_environment(options).items())]
    return "\n".join(
        (f"cd {shlex.quote(str(options.working_directory))}", *exports, f"exec {shlex.join(argv)}", "")
    )


def _write_job(job: Path, argv: Sequence[str], options: GuestOptions) -> None:
    (job / "uml").mkdir()
    shutil.copyfile(_INIT, job / "init")
    (job / "init").chmod(0o755)
    (job / "main").write_text(_main_script(argv, options))
    (job / "writable").write_text("".join(f"{folder.resolve()}\n" for folder in options.writable))
    (job / "out").touch()
    if options.prewarm:
        (job / "prewarm").touch()


def _follow(path: Path, sink: BinaryIO | None, done: threading.Event) -> None:
    """Copies what is appended to a file, until `done` and the end."""
    if sink is None:
        return
    with path.open("rb") as source:
        while True:
            last_round = done.wait(_POLL_S)
            while chunk := source.read(1 << 16):
                sink.write(chunk)
                sink.flush()
            if last_round:
                return


def _boot(job: Path, options: GuestOptions, console: BinaryIO) -> bool:
    """Runs the guest to its end; False when the time was up first. Nothing of it is left behind in either case."""
    argv = [
        *die_with_parent(),
        KERNEL,
        f"mem={options.memory}",
        *("root=none", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
        f"init={job / 'init'}",
        f"uml_dir={job / 'uml'}/",
        *("con=null", "con0=null,fd:1", "ssl=null"),
    ]
    # A session of its own: the guest's processes are host processes, and go together.
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        process.wait(options.timeout_s)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def run_in_guest(
    argv: Sequence[str], options: GuestOptions | None = None, *, stream: BinaryIO | None = None
) -> GuestResult:
    """Boots a guest, runs `argv` in it as root, shuts it down. `stream` gets the output as it comes.

    Raises RuntimeError with the sentence of `why_not` when there is no guest to boot.
    """
    options = GuestOptions() if options is None else options
    if (reason := why_not()) is not None:
        raise RuntimeError(reason)
    remove_stale()
    with LabDirectory() as directory:
        job = directory.path.resolve()
        _write_job(job, argv, options)
        done = threading.Event()
        follower = threading.Thread(target=_follow, args=(job / "out", stream, done))
        follower.start()
        try:
            with (job / "console").open("wb") as console:
                in_time = _boot(job, options, console)
        finally:
            done.set()
            follower.join()
        return _result(job, in_time=in_time)


def _result(job: Path, *, in_time: bool) -> GuestResult:
    def number(name: str) -> float | None:
        try:
            return float((job / name).read_text())
        except (OSError, ValueError):
            return None

    status = number("rc")
    if status is None:
        status = DIED if in_time else TIMED_OUT
    console = (job / "console").read_bytes().decode("utf-8", "replace")
    return GuestResult(int(status), (job / "out").read_bytes(), console, number("up"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the head of this module."""
    parser = argparse.ArgumentParser(prog="python -m interop.lab.uml", description="Run a command in a UML guest.")
    parser.add_argument("-m", dest="memory", default="512M", help="memory of the guest (512M)")
    parser.add_argument("-t", dest="timeout_s", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("-w", dest="writable", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("-p", dest="prewarm", action="store_true", help="load the usual ESP algorithms first")
    parser.add_argument("-v", dest="verbose", action="store_true", help="show the console at the end")
    parser.add_argument("command", nargs="+", metavar="CMD")
    given = parser.parse_args(arguments)
    for folder in given.writable:
        if not folder.is_dir():
            parser.error(f"-w {folder}: no such folder")
    options = GuestOptions(given.memory, given.timeout_s, tuple(given.writable), given.prewarm)
    try:
        result = run_in_guest(given.command, options, stream=sys.stdout.buffer)
    except RuntimeError as error:
        print(f"uml: {error}", file=sys.stderr)
        return DIED
    except KeyboardInterrupt:
        return 130
    if given.verbose or result.status == DIED:
        print(result.console[-4000:], file=sys.stderr)
    if result.status == TIMED_OUT:
        print(f"uml: not done after {given.timeout_s:g} s", file=sys.stderr)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
