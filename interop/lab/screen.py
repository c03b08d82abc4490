"""The shells of a lab on a person's terminal, beside one another or one above the other, by tmux.

The tmux server is a child of the lab with a socket in the lab's directory: it knows nothing of a person's own tmux, and
ends with the lab, also when that is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ikev2.io.netns import die_with_parent
from interop.lab.console import HOST
from interop.lab.leftovers import VARIABLE

SOCKET = "tmux"
_START_S = 10.0
_WIDE = 158
"""A terminal of so many columns has room for two shells beside one another."""
_POLL_S = 0.02


class NoScreen(Exception):
    """Why there can be no shells on this terminal, and what would be right."""


def why_no_screen() -> str | None:
    """The sentence; None when the shells can be shown."""
    instead = "without one: python -m interop.lab --run COMMAND"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return f"two shells need a terminal; {instead}"
    if shutil.which("tmux") is None:
        return f"two shells beside one another need tmux: as root, apt-get install tmux; {instead}"
    if os.environ.get("TERM", "dumb") == "dumb":
        return (
            f"two shells need a terminal that tmux can draw on, and TERM says {os.environ.get('TERM')!r}; {instead}"
        )
    return None


def show(directory: Path) -> None:
    """Two shells until both have ended or the person leaves (Ctrl-b d). NoScreen when tmux does not start."""
    socket = directory / SOCKET
    tmux = ("tmux", "-S", str(socket), "-f", "/dev/null")
    environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE")}
    environment |= json.loads((directory / "a" / HOST).read_text())["environment"] | {VARIABLE: str(directory)}
    lab = str(directory / "bin" / "lab")
    # A server that has the terminal itself refuses to serve it.
    nothing = subprocess.DEVNULL
    server = subprocess.Popen(
        [*die_with_parent(), *tmux, "-D"], env=environment, stdin=nothing, stdout=nothing, stderr=nothing
    )
    try:
        _await(socket, server)
        size = shutil.get_terminal_size()
        for command in (
            ["new-session", "-d", "-s", "lab", "-n", "hosts", "-x", str(size.columns), "-y", str(size.lines),
             lab, "on", "A"],
            ["split-window", "-h" if size.columns >= _WIDE else "-v", "-t", "lab", lab, "on", "B"],
            ["select-pane", "-t", "lab:hosts.0", "-T", "host A"],
            ["select-pane", "-t", "lab:hosts.1", "-T", "host B"],
            ["set-option", "-g", "pane-border-status", "top"],
            ["set-option", "-g", "mouse", "on"],
            # Keys that come within a millisecond count as pasted text otherwise, and Ctrl-b d among them as a letter.
            ["set-option", "-g", "assume-paste-time", "0"],
            ["set-option", "-g", "default-command", f"{lab} on A"],
            ["set-option", "-g", "status-right", "lab help; Ctrl-b d ends the lab"],
            ["select-pane", "-t", "lab:hosts.0"],
        ):  # fmt: skip
            _tell(tmux, command, environment)
        subprocess.run([*tmux, "-N", "attach-session", "-t", "lab"], env=environment, check=False)
    finally:
        _end(server)


def _await(socket: Path, server: subprocess.Popen[Any]) -> None:
    """Until the server listens."""
    deadline = time.monotonic() + _START_S
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise NoScreen(f"tmux did not start (status {server.poll()}): see what `tmux -S {socket} -D` says")
        time.sleep(_POLL_S)


def _tell(tmux: Sequence[str], command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*tmux, "-N", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise NoScreen(f"tmux {command[0]}: {done.stderr.strip()}")


def _end(server: subprocess.Popen[Any]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
