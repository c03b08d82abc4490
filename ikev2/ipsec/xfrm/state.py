"""What survives a crash: which instance we are, and the file that says what was put into the kernel.

An instance is a number (0 to 255) that is held by a bound abstract Unix socket. Such names belong to a network
namespace, exactly as XFRM's tables do, and vanish with the process, also on kill -9. What carries the number of
an instance that nobody holds is left over, and the next start removes it.

The state file is written before each install, so that it never knows less than the kernel does. It holds SPIs and
selectors, never a key.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from ikev2.errors import BackendError
from ikev2.ipsec.xfrm.plan import MAXIMUM_INSTANCE
from ikev2.ipsec.xfrm.structs import PolicyId, SaId

_LOCK_NAME = "\0ikev2-xfrm-{}"
_COMPACT_LINES = 512

Entry = SaId | PolicyId


class InstanceLock:
    """The bound socket that holds an instance number in this network namespace until the process ends."""

    def __init__(self, number: int, lock: socket.socket) -> None:
        self.number = number
        self._lock = lock

    @classmethod
    def take(cls, number: int) -> InstanceLock | None:
        """None when somebody else holds it."""
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            lock.bind(_LOCK_NAME.format(number))
        except OSError as error:
            lock.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise BackendError(f"cannot take XFRM instance {number}: {error.strerror}") from error
        return cls(number, lock)

    @classmethod
    def take_lowest(cls) -> InstanceLock:
        """The lowest free number; BackendError when all are taken."""
        for number in range(MAXIMUM_INSTANCE + 1):
            lock = cls.take(number)
            if lock is not None:
                return lock
        raise BackendError(f"all {MAXIMUM_INSTANCE + 1} XFRM instances of this network namespace are in use")

    def release(self) -> None:
        self._lock.close()


def default_directory() -> Path:
    """`/run/ikev2` when it is ours to write, else the user's runtime directory, else a private one under /tmp."""
    candidates = [Path("/run/ikev2")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime) / "ikev2")
    candidates.append(Path(f"/tmp/ikev2-{os.geteuid()}"))  # noqa: S108 (made 0700 and checked for its owner)
    for directory in candidates:
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.stat().st_uid == os.geteuid() and os.access(directory, os.W_OK):
                return directory
    raise BackendError(f"no directory for the XFRM state file is writable ({', '.join(map(str, candidates))})")


def namespace_name() -> str:
    """This network namespace of this boot, as part of a file name."""
    number = os.stat("/proc/thread-self/ns/net").st_ino
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    return f"{boot}-{number}"


class StateFile:
    """The entries that one instance has, or is about to have, in the kernel.

    A file of lines: `{"add": ENTRY}` and `{"drop": ENTRY}`; a line cut short by a crash is skipped.
    """

    def __init__(self, path: Path) -> None:
        """Takes over a file that is there, with its entries; makes one otherwise. Mode 0600."""
        self.path = path
        self._entries: dict[Entry, None] = dict.fromkeys(_read(path))
        self._lines = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BackendError(f"cannot write the XFRM state file {path}: {error.strerror}") from error
        self._compact()

    @staticmethod
    def path_for(directory: Path, instance: int) -> Path:
        """The file of an instance of the calling thread's network namespace."""
        return directory / f"xfrm-{namespace_name()}-{instance}.state"

    @staticmethod
    def instances(directory: Path) -> list[int]:
        """The instances of this network namespace that have a file."""
        found = directory.glob(f"xfrm-{namespace_name()}-*.state")
        numbers = (path.stem.rpartition("-")[2] for path in found)
        return sorted(int(number) for number in numbers if number.isdecimal())

    @property
    def entries(self) -> list[Entry]:
        return list(self._entries)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._entries

    def add(self, *entries: Entry) -> None:
        """To be called before the kernel is."""
        fresh = [entry for entry in entries if entry not in self._entries]
        self._entries.update(dict.fromkeys(fresh))
        self._write("add", fresh)

    def drop(self, *entries: Entry) -> None:
        """To be called after the kernel has forgotten them."""
        gone = [entry for entry in entries if entry in self._entries]
        for entry in gone:
            del self._entries[entry]
        self._write("drop", gone)

    def close(self, *, remove: bool) -> None:
        """`remove` when nothing of ours is left in the kernel."""
        os.close(self._fd)
        if remove:
            self.path.unlink(missing_ok=True)

    def _write(self, verb: str, entries: list[Entry]) -> None:
        if not entries:
            return
        os.write(self._fd, b"".join(_line(verb, entry) for entry in entries))
        self._lines += len(entries)
        if self._lines > _COMPACT_LINES + 4 * len(self._entries):
            self._compact()

    def _compact(self) -> None:
        os.ftruncate(self._fd, 0)
        os.write(self._fd, b"".join(_line("add", entry) for entry in self._entries))
        self._lines = len(self._entries)


def _line(verb: str, entry: Entry) -> bytes:
    kind = "sa" if isinstance(entry, SaId) else "policy"
    return f'{{"{verb}": {{"{kind}": "{entry.encode().hex()}"}}}}\n'.encode("ascii")


def _read(path: Path) -> Iterator[Entry]:
    """The entries that were added and not dropped."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    entries: dict[Entry, None] = {}
    for line in lines:
        try:
            ((verb, named),) = json.loads(line).items()
            ((kind, octets),) = named.items()
            data = bytes.fromhex(octets)
            entry: Entry = SaId.parse(data) if kind == "sa" else PolicyId.parse(data)
        except (ValueError, AttributeError, TypeError, struct.error):
            continue
        if verb == "add":
            entries[entry] = None
        else:
            entries.pop(entry, None)
    yield from entries
