"""One port, two sockets: the kernel tells ESP from IKE. RFC 3948 section 2.2."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from ikev2.core.config import ConnectionConfig
from ikev2.core.types import Address
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import BackendError, ConfigurationError
from ikev2.io import udp
from ikev2.io.port_sharing import share
from ikev2.io.sockets import SocketSet
from ikev2.io.udp import IkeSocket
from ikev2.ipsec.backend import OnIke
from ikev2.ipsec.icmp import OnPathMtu
from ikev2.ipsec.memory import MemoryBackend

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
IKE = [bytes(4) + b"an IKE message", bytes(4), bytes(3), b"\xff", b""]
ESP = [b"\x00\x00\x01\x00" + bytes(20), b"\xff" * 30, b"\x01\x00\x00\x00"]


def arrived(sock: socket.socket) -> list[bytes]:
    """What lies in a socket; over loopback all is there when sendto returns."""
    found = []
    try:
        while True:
            found.append(sock.recv(1000, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return found


@pytest.mark.parametrize(("family", "host"), HOSTS, ids=["IPv4", "IPv6"])
def test_esp_comes_to_one_socket_and_all_else_to_the_other(family: int, host: str) -> None:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as ike,
        socket.socket(family, socket.SOCK_DGRAM) as esp,
        socket.socket(family, socket.SOCK_DGRAM) as peer,
    ):
        ike.bind((host, 0))
        assert share(ike, esp)
        assert esp.getsockname() == ike.getsockname()
        for one, other in zip(IKE, [*ESP, *ESP], strict=False):
            peer.sendto(one, ike.getsockname())
            peer.sendto(other, ike.getsockname())
        assert arrived(ike) == IKE
        assert arrived(esp) == [*ESP, *ESP][: len(IKE)]


def test_the_port_of_another_stays_an_error() -> None:
    """SO_REUSEPORT is asked for when the port is ours: two endpoints do not share one by mistake."""
    with closing(IkeSocket("127.0.0.1", 0, nat_traversal=True)) as first:
        beside = first.esp_beside()
        assert beside is not None
        with beside, pytest.raises(OSError, match="in use") as refused:
            IkeSocket("127.0.0.1", first.local.port, nat_traversal=True)
        assert refused.value.errno == errno.EADDRINUSE


def test_where_the_kernel_cannot_one_socket_has_it_all() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ike,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as esp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        ike.bind(("127.0.0.1", 0))
        assert not share(ike, esp)
        assert not ike.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        peer.sendto(ESP[0], ike.getsockname())
        assert arrived(ike) == [ESP[0]]


class EspBackend(MemoryBackend):
    """A backend that wants ESP in UDP; it has what it was given."""

    wants_encap_socket = True

    def __init__(self) -> None:
        super().__init__()
        self.attached: list[tuple[socket.socket, OnIke]] = []

    def attach_encap_socket(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        self.attached.append((sock, on_ike))


@pytest.fixture
def ports() -> tuple[int, int]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def connection(ports: tuple[int, int]) -> ConnectionConfig:
    secret = SecretOctets("PSK", b"secret")
    return ConnectionConfig(
        "lab", ("127.0.0.1",), ("%any",), (), None, None, secret, ike_port=ports[0], nat_port=ports[1]
    )


def scenario(ports: tuple[int, int], check: Callable[[SocketSet, EspBackend, list[bytes]], None]) -> None:
    """Bind for one connection, send IKE and ESP to the NAT traversal port, wait for the IKE message, check."""

    async def run() -> None:
        taken: list[bytes] = []
        came = asyncio.Event()

        def on_message(sock: IkeSocket, data: bytes, local: Address, remote: Address) -> None:
            taken.append(data)
            came.set()

        backend = EspBackend()
        sockets = SocketSet(backend, on_message, lambda host, octets: None)
        sockets.bind([connection(ports)], asyncio.get_running_loop())
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.sendto(ESP[0], ("127.0.0.1", ports[1]))
                peer.sendto(IKE[0], ("127.0.0.1", ports[1]))
                if backend.attached[0][0] is sockets_of(sockets)[ports[1]].sock:
                    hand_over(backend, peer.getsockname())
                async with asyncio.timeout(5):
                    await came.wait()
            check(sockets, backend, taken)
        finally:
            sockets.close()

    asyncio.run(run())


def sockets_of(sockets: SocketSet) -> dict[int, IkeSocket]:
    return {sock.local.port: sock for sock in sockets.all()}


def hand_over(backend: EspBackend, peer: tuple[str, int]) -> None:
    """What the thread of a backend does that reads both."""
    sock, on_ike = backend.attached[0]
    for data in arrived(sock):
        if data.startswith(bytes(4)):
            on_ike(data[4:], Address(*sock.getsockname()), Address(*peer))


def test_the_loop_reads_ike_and_the_backend_has_esp_alone(ports: tuple[int, int]) -> None:
    def check(sockets: SocketSet, backend: EspBackend, taken: list[bytes]) -> None:
        ((sock, _),) = backend.attached
        assert sock is not sockets_of(sockets)[ports[1]].sock
        assert sock.getsockname() == ("127.0.0.1", ports[1])
        assert arrived(sock) == [ESP[0]]
        assert taken == [IKE[0][4:]]
        assert sockets_of(sockets)[ports[1]].counters.received == 1
        sockets.close()
        assert sock.fileno() == -1

    scenario(ports, check)


def test_without_sharing_the_backend_hands_ike_over(
    ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "share", lambda bound, other: False)

    def check(sockets: SocketSet, backend: EspBackend, taken: list[bytes]) -> None:
        ((sock, _),) = backend.attached
        assert sock is sockets_of(sockets)[ports[1]].sock
        assert taken == [IKE[0][4:]]

    scenario(ports, check)


def test_a_backend_that_refuses_the_socket_leaves_the_port_free(ports: tuple[int, int]) -> None:
    class Refusing(EspBackend):
        def attach_encap_socket(
            self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None
        ) -> None:
            raise BackendError("not today")

    async def run() -> None:
        sockets = SocketSet(Refusing(), lambda *message: None, lambda host, octets: None)
        with pytest.raises(BackendError, match="not today"):
            sockets.bind([connection(ports)], asyncio.get_running_loop())
        IkeSocket("127.0.0.1", ports[1], nat_traversal=True).close()
        sockets.close()

    asyncio.run(run())


def test_a_second_endpoint_is_told_that_the_port_is_taken(ports: tuple[int, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]

    def check(sockets: SocketSet, backend: EspBackend, taken: list[bytes]) -> None:
        other = SocketSet(EspBackend(), lambda *message: None, lambda host, octets: None)
        refusal = f"cannot bind UDP 127.0.0.1:{ports[1]}: Address already in use"
        with pytest.raises(ConfigurationError, match=refusal):
            other.bind([replace(connection(ports), ike_port=free)], asyncio.get_running_loop())
        other.close()

    scenario(ports, check)
