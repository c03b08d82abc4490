"""Batches of datagrams against the socket module: what one sends the other receives, octet for octet."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from ikev2.ipsec import mmsg
from ikev2.ipsec.esp_sockets import local_host, tos_and_ttl

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
OPTIONS = {
    socket.AF_INET: ((socket.IPPROTO_IP, 8), (socket.IPPROTO_IP, 12), (socket.IPPROTO_IP, 13)),
    socket.AF_INET6: (
        (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
        (socket.IPPROTO_IPV6, 51),
        (socket.IPPROTO_IPV6, 66),
    ),
}
TOS = {socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS), socket.AF_INET6: (socket.IPPROTO_IPV6, 67)}


def bound(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((LOOPBACK[socket.AddressFamily(family)], 0))
    except OSError:
        sock.close()
        pytest.skip("no IPv6 on the loopback device")
    return sock


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A receiver that tells of address, TTL and TOS, and a sender with a TOS of its own."""
    with bound(request.param) as receiver, bound(request.param) as sender:
        for level, option in OPTIONS[request.param]:
            receiver.setsockopt(level, option, 1)
        sender.setsockopt(*TOS[request.param], 0xB8)
        yield receiver, sender


def address(sock: socket.socket) -> bytes:
    host, port = sock.getsockname()[:2]
    return mmsg.sockaddr(socket.inet_pton(sock.family, host), port)


def test_a_batch_receives_what_recvmsg_does(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    datagrams = [bytes([number]) * octets for number, octets in enumerate((0, 1, 64, 1400, 60000))]
    for datagram in datagrams * 2:
        sender.sendto(datagram, receiver.getsockname())
    expected = [receiver.recvmsg(65536, 256) for _ in datagrams]
    batch = mmsg.ReceiveBatch(8)
    assert batch.receive(receiver.fileno()) == len(datagrams)
    assert batch.datagrams(len(datagrams)) == [data for data, _, _, _ in expected]
    for meta, (_, ancillary, _, name) in zip(batch.metas(len(datagrams)), expected, strict=True):
        assert mmsg.sender(meta) == name[:2]
        assert mmsg.ancillary(meta) == ancillary
        assert tos_and_ttl(mmsg.ancillary(meta)) == (0xB8, 64)
        assert local_host("", mmsg.ancillary(meta)) == name[0]
    assert batch.receive(receiver.fileno()) == 0


def test_no_more_than_a_batch_holds_is_taken_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    for number in range(5):
        sender.sendto(bytes([number]), receiver.getsockname())
    batch = mmsg.ReceiveBatch(3)
    assert batch.datagrams(batch.receive(receiver.fileno())) == [b"\x00", b"\x01", b"\x02"]
    assert batch.datagrams(batch.receive(receiver.fileno())) == [b"\x03", b"\x04"]


def test_a_shorter_datagram_shows_nothing_of_the_one_before(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    batch = mmsg.ReceiveBatch(1)
    sender.sendto(b"long and secret", receiver.getsockname())
    batch.receive(receiver.fileno())
    before = batch.metas(1)[0]
    for level, option in OPTIONS[socket.AddressFamily(receiver.family)]:
        receiver.setsockopt(level, option, 0)
    sender.sendto(b"short", receiver.getsockname())
    batch.receive(receiver.fileno())
    assert batch.datagrams(1) == [b"short"]
    assert mmsg.ancillary(before)
    assert mmsg.ancillary(batch.metas(1)[0]) == []


def test_what_the_kernel_reports_is_raised() -> None:
    with bound(socket.AF_INET) as gone, bound(socket.AF_INET) as sock:
        sock.connect(gone.getsockname())
        gone.close()
        sock.send(b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            mmsg.ReceiveBatch(1).receive(sock.fileno())


def test_a_batch_sends_in_order_and_to_each_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    first, sender = pair
    with bound(first.family) as second:
        batch = mmsg.SendBatch(6, 2048)
        for number in range(6):
            batch.add(b"head", bytes([number]) * (number * 100), address((first, second)[number % 2]))
        assert batch.waiting == batch.count
        assert batch.send(sender.fileno()) == []
        assert batch.waiting == 0
        for number in range(6):
            data, name = (first, second)[number % 2].recvfrom(4096)
            assert data == b"head" + bytes([number]) * (number * 100)
            assert name == sender.getsockname()


def test_control_messages_go_with_their_datagram_only(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    family = socket.AddressFamily(receiver.family)
    marked = mmsg.control([(*TOS[family], struct.pack("=i", 0x28))])
    batch = mmsg.SendBatch(2, 64)
    for control in (marked, b""):
        batch.add(b"", b"one", address(receiver), control)
        batch.add(b"", b"two", address(receiver))
        assert batch.send(sender.fileno()) == []
        seen = [tos_and_ttl(receiver.recvmsg(64, 256)[1])[0] for _ in range(2)]
        assert seen == [0x28 if control else 0xB8, 0xB8]


def test_what_cannot_be_sent_is_named_and_the_rest_goes(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    batch = mmsg.SendBatch(4, 65536)
    too_long = bytes(65536)  # more than any UDP datagram holds
    for data in (b"first", too_long, b"third", too_long):
        batch.add(b"", data, address(receiver))
    assert batch.send(sender.fileno()) == [1, 3]
    assert [receiver.recv(65536) for _ in range(2)] == [b"first", b"third"]
