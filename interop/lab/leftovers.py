"""What a lab leaves in the system while it runs, and how it is found again when its process was killed.

Namespaces, cables, routes and TUN devices go with the processes that hold them. What stays is a directory (below the
one for temporary files, `ippm-lab-*`), processes that a person started in the lab and that survived it, and the state
files that a killed endpoint with the xfrm backend has for a namespace that is gone. The lab
holds a lock on its directory (flock), which the kernel lets go when the lab ends, however it ends; each process that
the lab starts has the directory's name, which is never used again, in its environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "ippm-lab-"
VARIABLE = "IPPM_LAB"
"""Holds the lab's directory in the environment of all that the lab starts."""

_OWNER = "pid"
_NAMESPACES = "namespaces"
_YOUNG_S = 60.0
_STOP_S = 2.0
_POLL_S = 0.02


class LabDirectory:
    """The directory of one lab, locked; a context manager that removes it, and the processes of the lab."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.path / _OWNER).write_text(f"{os.getpid()}\n")

    def note_namespace(self, name: str) -> None:
        """One of the lab's network namespaces, as `ikev2.ipsec.xfrm.state.namespace_name` calls it."""
        with (self.path / _NAMESPACES).open("a") as file:
            file.write(f"{name}\n")

    def close(self) -> None:
        """Ends what still runs in the lab, and removes the directory. Safe to call twice."""
        if self._lock < 0:
            return
        _remove(self.path)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_stale() -> list[str]:
    """Removes what labs of this user have left whose process is gone; sentences about it."""
    said: list[str] = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with suppress(OSError):
            if path.is_symlink() or path.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # One without an owner that is this young is being made right now.
                if not (path / _OWNER).exists() and time.time() - path.stat().st_mtime < _YOUNG_S:
                    continue
                killed = _remove(path)
            finally:
                os.close(lock)
            number = f"{killed} process{'es' if killed > 1 else ''}"
            processes = f", and ended {number} of it" if killed else ""
            said.append(f"removed {path}, which a lab had left{processes}")
    return said


def processes_of(path: Path) -> list[int]:
    """The processes that were started in the lab of that directory, or by them."""
    wanted = f"{VARIABLE}={path}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _remove(path: Path) -> int:
    """Ends the processes (SIGHUP, SIGTERM, then SIGKILL), removes the directory; how many processes there were."""
    first = processes_of(path)
    _signal(first, signal.SIGHUP, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while (running := processes_of(path)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    while running:
        _signal(running, signal.SIGKILL)
        time.sleep(_POLL_S)
        running = processes_of(path)
    with suppress(OSError):
        for name in (path / _NAMESPACES).read_text().split():
            _remove_state(name)
    shutil.rmtree(path, ignore_errors=True)
    return len(first)


def _remove_state(namespace: str) -> None:
    """Removes the state files of a namespace that is gone: no process is in one of that number (BOOT-NUMBER)."""
    number = namespace.rpartition("-")[2]
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            if str(entry.stat().st_ino) == number:
                return
    directories = [Path("/run/ikev2"), *Path("/tmp").glob("ikev2-*")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        directories.append(Path(runtime) / "ikev2")
    for directory in directories:
        for file in directory.glob(f"xfrm-{namespace}-*.state"):
            with suppress(OSError):
                file.unlink()


def _signal(processes: list[int], *signals: signal.Signals) -> None:
    for process in processes:
        for number in signals:
            with suppress(OSError):
                os.kill(process, number)
