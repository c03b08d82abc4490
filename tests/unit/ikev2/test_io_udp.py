"""IKE's sockets: the marker, keepalives, ESP beside IKE, addresses of wildcard sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from ikev2.core.config import ConnectionConfig
from ikev2.core.types import Address
from ikev2.crypto.secret import SecretOctets
from ikev2.io.sockets import SocketSet
from ikev2.io.udp import DATAGRAM_OVERHEAD_OCTETS, RECEIVE_BUFFER_OCTETS, IkeSocket, source_address
from ikev2.ipsec.backend import OnIke
from ikev2.ipsec.icmp import OnPathMtu
from ikev2.ipsec.memory import MemoryBackend

MESSAGE = b"an IKE message, as far as a socket knows"
Received = tuple[bytes, Address, Address]


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def receive(sock: IkeSocket, count: int) -> list[Received]:
    """Read on a loop until `count` messages came."""

    async def scenario() -> list[Received]:
        received: list[Received] = []
        done = asyncio.Event()

        def on_datagram(data: bytes, local: Address, remote: Address) -> None:
            received.append((data, local, remote))
            if len(received) == count:
                done.set()

        sock.start(asyncio.get_running_loop(), on_datagram)
        async with asyncio.timeout(30):
            await done.wait()
        sock.stop()
        return received

    return asyncio.run(scenario())


@pytest.mark.req("rfc7296-s2-03")
def test_what_is_sent_on_the_nat_traversal_port_begins_with_four_zeros(peer: socket.socket) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=True)
    try:
        assert sock.send(MESSAGE, sock.local, Address(*peer.getsockname()))
        assert peer.recv(1000) == bytes(4) + MESSAGE
    finally:
        sock.close()


@pytest.mark.req("rfc7296-s2.23-05")
def test_on_the_ike_port_there_is_neither_a_marker_nor_esp(peer: socket.socket) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    try:
        sock.send(MESSAGE, sock.local, Address(*peer.getsockname()))
        assert peer.recv(1000) == MESSAGE
        esp: list[bytes] = []
        sock.on_esp = lambda data, local, remote: esp.append(data)
        peer.sendto(b"\x00\x00\x01\x00not ESP here", sock.local)
        assert [data for data, _, _ in receive(sock, 1)] == [b"\x00\x00\x01\x00not ESP here"]
        assert esp == []
    finally:
        sock.close()


def test_ike_esp_and_keepalives_are_told_apart(peer: socket.socket) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=True)
    esp: list[bytes] = []
    sock.on_esp = lambda data, local, remote: esp.append(data)
    try:
        for octets in (b"\xff", b"\x00\x00\x01\x00ESP", b"", bytes(4), b"\x01", bytes(4) + MESSAGE):
            peer.sendto(octets, sock.local)
        assert receive(sock, 1) == [(MESSAGE, sock.local, Address(*peer.getsockname()))]
        assert esp == [b"\x00\x00\x01\x00ESP"]
        counters = sock.counters
        assert (counters.received, counters.keepalives, counters.esp, counters.runts) == (1, 1, 1, 3)
    finally:
        sock.close()


@pytest.mark.req("rfc7296-s2-01", "rfc7296-s2-02")
@pytest.mark.parametrize("octets", [1280, 3000, 20_000])
def test_large_messages_pass(peer: socket.socket, octets: int) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    message = os.urandom(octets)
    try:
        sock.send(message, sock.local, Address(*peer.getsockname()))
        assert peer.recv(65535) == message
        peer.sendto(message, sock.local)
        assert receive(sock, 1)[0][0] == message
    finally:
        sock.close()


def test_a_wildcard_socket_knows_and_keeps_the_address(peer: socket.socket) -> None:
    sock = IkeSocket("0.0.0.0", 0, nat_traversal=False)
    called = Address("127.0.0.9", sock.local.port)
    try:
        peer.sendto(MESSAGE, called)
        ((data, local, remote),) = receive(sock, 1)
        assert (data, local) == (MESSAGE, called)
        sock.send(b"back", local, remote)
        assert peer.recvfrom(100) == (b"back", called)
    finally:
        sock.close()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(host: str) -> None:
    try:
        sock = IkeSocket(host, 0, nat_traversal=True)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(30)
        called = Address("::1", sock.local.port)
        try:
            peer.sendto(bytes(4) + MESSAGE, called)
            ((data, local, remote),) = receive(sock, 1)
            assert (data, local, remote) == (MESSAGE, called, Address("::1", peer.getsockname()[1]))
            sock.send(b"back", local, remote)
            assert peer.recvfrom(100)[0] == bytes(4) + b"back"
        finally:
            sock.close()


def test_a_refused_send_is_counted_not_raised() -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    try:
        assert not sock.send(bytes(70_000), sock.local, Address("127.0.0.1", 9))
        assert sock.counters.send_errors == {"EMSGSIZE": 1}
    finally:
        sock.close()


def test_the_source_address_is_the_routes() -> None:
    assert source_address("127.0.0.2") == "127.0.0.1"


def test_receive_buffer_is_as_large_as_the_system_grants() -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    try:
        with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
            most = int(file.read())
        # The kernel doubles what it is asked for; beyond its maximum only with CAP_NET_ADMIN.
        assert sock.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * min(RECEIVE_BUFFER_OCTETS, most)
    finally:
        sock.close()


def test_largest_datagram_and_a_short_one_behind_it_come_as_they_were_sent(peer: socket.socket) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    try:
        large = os.urandom(65507)
        for octets in (large, MESSAGE):
            peer.sendto(octets, sock.local)
        assert [data for data, _, _ in receive(sock, 2)] == [large, MESSAGE]
    finally:
        sock.close()


def test_what_waits_together_is_read_together_and_an_empty_datagram_stops_nothing(peer: socket.socket) -> None:
    sock = IkeSocket("127.0.0.1", 0, nat_traversal=False)
    try:
        wanted = [b"one", b"two", b"", b"three"]
        for data in wanted:
            peer.sendto(data, sock.local)
        assert [data for data, _, _ in receive(sock, len(wanted))] == wanted
    finally:
        sock.close()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class ReadingBackend(MemoryBackend):
    """A backend that reads the socket of ESP and IKE on a thread of its own."""

    wants_encap_socket = True

    def attach_encap_socket(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        self.on_ike = on_ike


def test_what_a_backend_reads_for_ike_waits_in_bounded_memory() -> None:
    """Its thread reads as fast as anybody sends: the loop is given as much as a socket would keep, and no more.

    So it is where the kernel does not tell ESP from IKE.
    """
    large, sent = bytes(10_000), 2 * RECEIVE_BUFFER_OCTETS // 10_000
    taken: list[bytes] = []
    backend = ReadingBackend()

    async def flood() -> None:
        sockets = SocketSet(backend, lambda sock, data, local, remote: taken.append(data), lambda host, mtu: None)
        connection = ConnectionConfig(
            "lab",
            ("127.0.0.1",),
            ("%any",),
            (),
            None,
            None,
            SecretOctets("PSK", b"secret"),
            ike_port=free_port(),
            nat_port=free_port(),
        )
        sockets.bind([connection], asyncio.get_running_loop())
        nat = next(sock for sock in sockets.all() if sock.nat_traversal)
        try:
            for round_number in (1, 2):
                for _ in range(sent):
                    backend.on_ike(large, nat.local, Address("192.0.2.1", 500))
                await asyncio.sleep(0)  # what waits is taken
                waited = RECEIVE_BUFFER_OCTETS // (len(large) + DATAGRAM_OVERHEAD_OCTETS)
                assert len(taken) == nat.counters.received == round_number * waited
                assert nat.counters.overruns == round_number * (sent - waited)
        finally:
            sockets.close()

    asyncio.run(flood())
