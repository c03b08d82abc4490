"""Two hosts on one machine: network namespaces joined by a veth pair, without names and so without leftovers.

A namespace here is a thread that lives in it and a descriptor that holds it. Nothing is written to /run/netns:
when the process ends, also by kill -9, the kernel takes namespaces, veth pair, policies and routes with it.

    with TwoHosts() as hosts:                          # 192.0.2.1/24 and 192.0.2.2/24
        server = hosts.popen("b", ["sleep", "10"])
        hosts.run("a", ["ping", "-c", "1", hosts.address_b])

Needs CAP_SYS_ADMIN and CAP_NET_ADMIN: root, or any user inside `unshare -Urnm` (see `can_unshare`).
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute

from ikev2.errors import IkeError

CLONE_NEWNET = 0x40000000
UNSHARE = ("unshare", "-Urnm")
_STOP_S = 5.0

T = TypeVar("T")


class NamespaceError(IkeError):
    """A namespace, or something in one, could not be made; the text is the sentence for a person."""


@dataclass(frozen=True, slots=True)
class NamespaceProbe:
    """Whether namespaces with a veth pair can be made here; `reason` is a sentence in either case."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok


def _unshare_network() -> int:
    """Moves the calling thread, and it alone, into a new network namespace; a descriptor of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise NamespaceError(f"cannot make a network namespace: {os.strerror(number)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """A network namespace of our own. `fd` names it to the kernel (netlink's net_ns_fd, setns).

    Processes started here are stopped at `close`, and killed when this process dies.
    """

    def __init__(self, label: str) -> None:
        """`label` is for messages only."""
        self.label = label
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netns-{label}")
        self._processes: list[subprocess.Popen[Any]] = []
        self._wrapper = die_with_parent()
        try:
            self.fd = self.call(_unshare_network)
        except BaseException:
            self._thread.shutdown()
            raise
        self.call(_loopback_up)

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function inside the namespace: a socket that it makes belongs there for good."""
        return self._thread.submit(function).result()

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a process inside; `options` are those of `subprocess.Popen`. No shell."""
        process: subprocess.Popen[Any] = self.call(lambda: subprocess.Popen([*self._wrapper, *argv], **options))
        self._processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        capture_output: bool = False,
        input: Any = None,  # noqa: A002 (the name in subprocess.run)
        timeout: float | None = None,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` inside the namespace; other calls are not held up meanwhile."""
        if capture_output:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.popen(argv, **options)
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            self._processes.remove(process)
        done = subprocess.CompletedProcess(list(argv), process.returncode, output, errors)
        if check:
            done.check_returncode()
        return done

    def close(self) -> None:
        """Stops what still runs (SIGTERM, then SIGKILL) and lets the namespace go. Safe to call twice."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._thread.shutdown()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def die_with_parent() -> tuple[str, ...]:
    """`setpriv` (util-linux) asks the kernel to kill the process with its parent; without it pipes must do."""
    return ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


def _loopback_up() -> None:
    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")


def _configure(name: str, addresses: Sequence[str], mtu: int | None) -> None:
    _without_dad(name)
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        for text in addresses:
            interface = ipaddress.ip_interface(text)
            # NODAD: an IPv6 address is there to bind at once.
            flags = {"flags": 0x02} if interface.version == 6 else {}
            netlink.addr(
                "add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **flags
            )
        settings = {} if mtu is None else {"mtu": mtu}
        netlink.link("set", index=index, state="up", **settings)


def _without_dad(name: str) -> None:
    """The link-local address serves at once, too: neighbours are asked for from it. RFC 4861 section 7.2.2."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv6/conf", name, "accept_dad").write_text("0")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair: where, its name there, its addresses as `192.0.2.1/24`."""

    namespace: Namespace
    interface: str
    addresses: tuple[str, ...] = ()
    mtu: int | None = None


def join(one: End, other: End) -> None:
    """Joins two namespaces by a veth pair, up and with addresses. NamespaceError when the kernel has no veth."""

    def make() -> None:
        with IPRoute() as netlink:
            peer = {"ifname": other.interface, "net_ns_fd": other.namespace.fd}
            netlink.link("add", ifname=one.interface, kind="veth", peer=peer)

    try:
        one.namespace.call(make)
        for end in (one, other):
            end.namespace.call(lambda end=end: _configure(end.interface, end.addresses, end.mtu))  # type: ignore[misc]
    except Exception as error:
        # pyroute2's NetlinkError is no OSError; whatever it is, nothing can be done but say so.
        raise NamespaceError(f"cannot make a veth pair: {error}") from error


class TwoHosts:
    """Hosts A and B, joined by a veth pair: a context manager. Host names are "a" and "b"."""

    def __init__(
        self,
        addresses_a: Sequence[str] = ("192.0.2.1/24",),
        addresses_b: Sequence[str] = ("192.0.2.2/24",),
        *,
        mtu: int | None = None,
    ) -> None:
        self._addresses = {"a": tuple(addresses_a), "b": tuple(addresses_b)}
        self._mtu = mtu
        self._hosts: dict[str, Namespace] = {}

    @property
    def address_a(self) -> str:
        """The first address of host A, without its prefix length."""
        return self._addresses["a"][0].partition("/")[0]

    @property
    def address_b(self) -> str:
        """The first address of host B, without its prefix length."""
        return self._addresses["b"][0].partition("/")[0]

    @staticmethod
    def interface(host: str) -> str:
        """The name of the veth interface inside a host."""
        return f"veth-{host.lower()}"

    def host(self, name: str) -> Namespace:
        """The namespace of host "a" or "b"."""
        found = self._hosts.get(name.lower())
        if found is None:
            raise NamespaceError(f"there is no host {name!r}, or it is closed")
        return found

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """`Namespace.popen` on a host."""
        return self.host(host).popen(argv, **options)

    def run(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """`Namespace.run` on a host."""
        return self.host(host).run(argv, **options)

    def call(self, host: str, function: Callable[[], T]) -> T:
        """`Namespace.call` on a host."""
        return self.host(host).call(function)

    def open(self) -> None:
        """Makes both hosts; NamespaceError, with nothing left behind, when that cannot be."""
        try:
            for name in self._addresses:
                self._hosts[name] = Namespace(name)
            ends = [
                End(namespace, self.interface(name), self._addresses[name], self._mtu)
                for name, namespace in self._hosts.items()
            ]
            join(*ends)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops the processes in both hosts and lets the namespaces go."""
        for namespace in self._hosts.values():
            with contextlib.suppress(ProcessLookupError):
                namespace.close()
        self._hosts.clear()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probe_namespaces() -> NamespaceProbe:
    """Really makes two namespaces and a veth pair between them, in this process, and lets them go."""
    try:
        with TwoHosts():
            pass
    except (NamespaceError, OSError) as error:
        return NamespaceProbe(False, f"network namespaces do not serve here: {error}")
    return NamespaceProbe(True, "two network namespaces with a veth pair were made")


def probe_unshare() -> NamespaceProbe:
    """The same in a child inside `unshare -Urnm`: what an unprivileged user can have."""
    if shutil.which(UNSHARE[0]) is None:
        return NamespaceProbe(False, "there is no unshare command (util-linux)")
    argv = [*UNSHARE, sys.executable, "-m", "ikev2.io.netns"]
    try:
        child = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return NamespaceProbe(False, f"{' '.join(UNSHARE)} does not serve here: {error}")
    words = (child.stdout or child.stderr).strip().splitlines()
    said = words[-1] if words else f"it ended with status {child.returncode}"
    return NamespaceProbe(child.returncode == 0, f"inside {' '.join(UNSHARE)}: {said}")


def can_unshare() -> bool:
    """True when a child inside `unshare -Urnm` can make namespaces and a veth pair. Costs half a second."""
    return probe_unshare().ok


if __name__ == "__main__":
    _found = probe_namespaces()
    sys.stdout.write(_found.reason + "\n")
    sys.exit(0 if _found.ok else 1)
