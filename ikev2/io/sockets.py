"""The UDP sockets of an endpoint: which addresses and ports its connections need, and which socket sends what."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

from ikev2.core.config import ConnectionConfig
from ikev2.core.types import Address
from ikev2.errors import BackendError, ConfigurationError
from ikev2.io.udp import DATAGRAM_OVERHEAD_OCTETS, RECEIVE_BUFFER_OCTETS, IkeSocket
from ikev2.ipsec.backend import Backend
from ikev2.ipsec.icmp import OnPathMtu

ANY = "%any"
_WILDCARDS = ("0.0.0.0", "::")

OnMessage: TypeAlias = Callable[[IkeSocket, bytes, Address, Address], None]


class _Waiting:
    """What the backend's thread has read of one socket and the loop has not yet taken: no more than a socket holds.

    The thread reads as fast as anybody sends; without a bound a flood would grow in memory. Each side has a number of
    its own, so that neither waits for the other.
    """

    def __init__(self) -> None:
        self._came = 0
        self._went = 0

    def put(self, octets: int) -> bool:
        """The thread's side: False when there is no room."""
        if self._came - self._went + octets + DATAGRAM_OVERHEAD_OCTETS > RECEIVE_BUFFER_OCTETS:
            return False
        self._came += octets + DATAGRAM_OVERHEAD_OCTETS
        return True

    def take(self, octets: int) -> None:
        """The loop's side."""
        self._went += octets + DATAGRAM_OVERHEAD_OCTETS


class SocketSet:
    """The bound sockets, by address and port. Addresses that are no longer needed stay bound until close()."""

    def __init__(self, backend: Backend, on_message: OnMessage, on_path_mtu: OnPathMtu) -> None:
        self._backend = backend
        self._on_message = on_message
        self._on_path_mtu = on_path_mtu
        self._sockets: dict[tuple[str, int], IkeSocket] = {}
        self._beside: list[socket.socket] = []

    def all(self) -> list[IkeSocket]:
        """Every bound socket."""
        return list(self._sockets.values())

    def bind(self, connections: Iterable[ConnectionConfig], loop: asyncio.AbstractEventLoop) -> None:
        """Bind what these connections need and is not bound yet.

        Raises ConfigurationError with connection and address when the system refuses.
        """
        wanted = _wanted(connections)
        for (host, port), (nat_traversal, name) in wanted.items():
            if (host, port) in self._sockets or ((_wildcard_of(host), port) in wanted and host not in _WILDCARDS):
                continue
            try:
                sock = IkeSocket(host, port, nat_traversal=nat_traversal, on_path_mtu=self._on_path_mtu)
            except OSError as error:
                if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # a system without IPv6: IPv4 is bound
                raise ConfigurationError(
                    f"connections.{name}.local_addrs: cannot bind UDP {Address(host, port)}: {error.strerror}"
                ) from None
            try:
                self._open(sock, loop)
            except BackendError:
                sock.close()
                raise
            self._sockets[host, port] = sock

    def _open(self, sock: IkeSocket, loop: asyncio.AbstractEventLoop) -> None:
        def deliver(data: bytes, local: Address, remote: Address) -> None:
            self._on_message(sock, data, local, remote)

        waiting = _Waiting()

        def from_thread(data: bytes, local: Address, remote: Address) -> None:
            if not waiting.put(len(data)):
                sock.counters.overruns += 1
                return
            sock.counters.received += 1
            loop.call_soon_threadsafe(taken, data, local, remote)

        def taken(data: bytes, local: Address, remote: Address) -> None:
            waiting.take(len(data))
            deliver(data, local, remote)

        def mtu_from_thread(host: str, octets: int) -> None:
            loop.call_soon_threadsafe(self._on_path_mtu, host, octets)

        self._backend.prepare_ike_socket(sock.sock, encap=sock.nat_traversal)
        if not sock.nat_traversal or not self._backend.wants_encap_socket:
            sock.start(loop, deliver)
            return
        beside = sock.esp_beside()
        if beside is None:
            # The backend's thread reads this socket: ESP is its own, IKE comes back to the loop.
            self._backend.attach_encap_socket(sock.sock, from_thread, mtu_from_thread)
            return
        # The backend's thread gets ESP alone, but for what came in between, and the loop all else.
        try:
            self._backend.attach_encap_socket(beside, from_thread, mtu_from_thread)
        except BackendError:
            beside.close()  # or the port would stay taken
            raise
        self._beside.append(beside)
        sock.start(loop, deliver)

    def find(self, local: Address) -> IkeSocket | None:
        """The socket that sends from this address and port."""
        found = self._sockets.get((local.host, local.port))
        return found if found is not None else self._sockets.get((_wildcard_of(local.host), local.port))

    def stop_reading(self) -> None:
        """Leave the loop; the sockets stay bound while the backend closes."""
        for sock in self._sockets.values():
            sock.stop()

    def close(self) -> None:
        """Close every socket."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        for beside in self._beside:
            beside.close()
        self._beside.clear()


def _wildcard_of(host: str) -> str:
    return "::" if ":" in host else "0.0.0.0"


def _wanted(connections: Iterable[ConnectionConfig]) -> dict[tuple[str, int], tuple[bool, str]]:
    """Address and port -> (is it the NAT traversal port, the connection that wants it).

    Raises ConfigurationError when one connection's IKE port is another's NAT traversal port.
    """
    wanted: dict[tuple[str, int], tuple[bool, str]] = {}
    for connection in connections:
        hosts: list[str] = []
        for host in connection.local_addrs or (ANY,):
            hosts.extend(_WILDCARDS if host == ANY else (_literal(connection.name, host),))
        for host in hosts:
            for port, nat_traversal in ((connection.ike_port, False), (connection.nat_port, True)):
                known = wanted.setdefault((host, port), (nat_traversal, connection.name))
                if known[0] != nat_traversal:
                    raise ConfigurationError(
                        f"connections.{connection.name}: port {port} is an IKE port here and the NAT traversal "
                        f"port of connection {known[1]}"
                    )
    return wanted


def _literal(name: str, host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ConfigurationError(
            f"connections.{name}.local_addrs: {host!r} is not an IP address of this host or %any"
        ) from None
