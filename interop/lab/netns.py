"""Topologies of any number of hosts in network namespaces, for foreign peers and scenarios.

    with Lab() as lab:
        lab.host("moon"), lab.host("sun")
        lab.link("moon", "192.0.2.1/24", "sun", "192.0.2.2/24")
        lab.run("moon", ["ping", "-c1", "192.0.2.2"])

Built on `ikev2.io.netns`, whose namespaces have no names and leave nothing behind. With `named=True` each host can
also be entered by hand (`ip netns exec lab-PID-moon ...`); those names are removed at the end, at SIGTERM, and, when
the process was killed, by the next `Lab(named=True)` or `python -m interop.lab.netns clean`.

`python -m interop.lab.netns probe` says whether namespaces can be made here, and how.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute

from ikev2.io.netns import (
    UNSHARE,
    End,
    Namespace,
    NamespaceError,
    can_unshare,
    join,
    probe_namespaces,
    probe_unshare,
)

__all__ = [
    "Lab",
    "can_unshare",
    "interrupted_by_signals",
    "probe_namespaces",
    "probe_unshare",
    "remove_stale_names",
    "unshare_argv",
    "why_no_namespaces",
]

NAMES = Path("/run/netns")
PREFIX = "lab-"
_MS_BIND = 4096
_MNT_DETACH = 2

T = TypeVar("T")


def why_no_namespaces() -> str | None:
    """Why no test here can have namespaces in this very process; None when it can."""
    found = probe_namespaces()
    return None if found.ok else found.reason


def unshare_argv(argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` where namespaces can be made: as it is, or inside `unshare -Urnm`.

    Raises NamespaceError, with both reasons, when neither works.
    """
    here = probe_namespaces()
    if here.ok:
        return list(argv)
    inside = probe_unshare()
    if inside.ok:
        return [*UNSHARE, *argv]
    raise NamespaceError(f"{here.reason}; {inside.reason}")


def _mount(source: str, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(target).encode(), b"none", _MS_BIND, None) != 0:
        raise NamespaceError(f"cannot name a namespace {target}: {os.strerror(ctypes.get_errno())}")


def _unname(name: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.umount2(str(name).encode(), _MNT_DETACH)
    with suppress(OSError):
        name.unlink()


def remove_stale_names() -> list[str]:
    """Removes the names of labs whose process is gone; what they were."""
    stale: list[str] = []
    for name in sorted(NAMES.glob(f"{PREFIX}*-*")):
        pid = name.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            _unname(name)
            stale.append(name.name)
    return stale


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt, so that `with` blocks clean up as at Ctrl-C.

    For the main thread of a program; restores what was before.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Lab:
    """Hosts and links between them; a context manager. Host names are free words."""

    def __init__(self, *, named: bool = False) -> None:
        self._named = named
        self._hosts: dict[str, Namespace] = {}
        self._interfaces: dict[str, int] = {}
        self._names: list[Path] = []

    def host(self, name: str) -> Namespace:
        """The host of that name; made at the first call."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = Namespace(name)
            if self._named:
                self._give_name(name, found)
        return found

    def link(
        self,
        one: str,
        one_address: str | Sequence[str],
        other: str,
        other_address: str | Sequence[str],
        mtu: int | None = None,
    ) -> tuple[str, str]:
        """A cable between two hosts, addresses as `192.0.2.1/24`; the names of its interfaces (eth0, eth1, ...)."""
        ends = []
        for host, given in ((one, one_address), (other, other_address)):
            number = self._interfaces.get(host, 0)
            self._interfaces[host] = number + 1
            addresses = (given,) if isinstance(given, str) else tuple(given)
            ends.append(End(self.host(host), f"eth{number}", addresses, mtu))
        join(*ends)
        return ends[0].interface, ends[1].interface

    def route(self, host: str, destination: str, gateway: str) -> None:
        """A route on a host; "default" is a destination."""

        def add() -> None:
            with IPRoute() as netlink:
                netlink.route("add", dst=destination, gateway=gateway)

        self.call(host, add)

    def forward(self, host: str) -> None:
        """Makes the host a router, IPv4 and IPv6."""

        def enable() -> None:
            for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                path = Path("/proc/sys/net") / setting
                if path.exists():
                    path.write_text("1")

        self.call(host, enable)

    def call(self, host: str, function: Callable[[], T]) -> T:
        """Runs a function inside a host: a socket that it makes belongs there."""
        return self.host(host).call(function)

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a process on a host; it is stopped with the lab."""
        return self.host(host).popen(argv, **options)

    def run(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` on a host."""
        return self.host(host).run(argv, **options)

    def close(self) -> None:
        """Stops every process, removes the names, lets the namespaces go."""
        for namespace in self._hosts.values():
            namespace.close()
        self._hosts.clear()
        for name in self._names:
            _unname(name)
        self._names.clear()

    def __enter__(self) -> Self:
        if self._named:
            remove_stale_names()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_name(self, host: str, namespace: Namespace) -> None:
        name = NAMES / f"{PREFIX}{os.getpid()}-{host}"
        NAMES.mkdir(parents=True, exist_ok=True)
        name.touch(mode=0o444)
        self._names.append(name)
        _mount(f"/proc/self/fd/{namespace.fd}", name)


def main(arguments: Sequence[str]) -> int:
    """`probe` or `clean`."""
    match list(arguments):
        case ["clean"]:
            for name in remove_stale_names():
                print(f"removed {name}")
            return 0
        case ["probe"]:
            here = probe_namespaces()
            print(here.reason)
            if here.ok:
                return 0
            inside = probe_unshare()
            print(inside.reason)
            return 0 if inside.ok else 1
        case _:
            print("usage: python -m interop.lab.netns probe|clean", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
