"""Both ways to receive give the same octets, TTLs and addresses, and the kernel's stamps."""

from __future__ import annotations

import socket
import sys

import pytest

from ippm.errors import ConfigurationError
from ippm.io.batch import SLOTS, LinuxReceiver, PortableReceiver, Receiver, address_of_name, make_receiver
from ippm.io.clock import now_ntp
from ippm.io.sockopts import IP_TTL, IPV6_UNICAST_HOPS, SO_TIMESTAMPNS
from ippm.io.test_socket import open_test_socket

DATAGRAMS = [b"", b"x", bytes(range(256)) * 8, b"\xff" * 65_000, b"short", *(bytes([n]) * n for n in range(40))]

pytestmark = pytest.mark.skipif(
    not LinuxReceiver.is_known_here(), reason="recvmmsg's structures are not known here"
)


def received(receiver: Receiver, sock: socket.socket, count: int) -> list[tuple[object, ...]]:
    """(octets, TTL, address, stamp) of `count` datagrams."""
    out: list[tuple[object, ...]] = []
    while len(out) < count:
        for number in range(receiver.receive(sock)):
            stamp, ttl = receiver.stamp_and_ttl(number)
            out.append((bytes(receiver.datagram(number)), ttl, receiver.address(number), stamp))
    return out


@pytest.mark.req("rfc4656-s4.2-02")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_same_from_both(host: str) -> None:
    try:
        source = open_test_socket(host, ttl=33)
    except OSError:
        pytest.skip(f"this host has no {host}")
    before = now_ntp()
    results = []
    for receiver in (PortableReceiver(), LinuxReceiver()):
        with open_test_socket(host) as sock:
            for datagram in DATAGRAMS:
                source.sendto(datagram, sock.getsockname())
            results.append(received(receiver, sock, len(DATAGRAMS)))
            assert receiver.receive(sock) == 0
    portable, linux = results
    assert [row[:3] for row in portable] == [row[:3] for row in linux]
    assert [row[0] for row in linux] == DATAGRAMS
    assert {row[1] for row in linux} == {33}
    assert {row[2] for row in linux} == {source.getsockname()}
    stamps = [row[3] for row in portable + linux]
    assert all(isinstance(stamp, int) and before < stamp < now_ntp() for stamp in stamps)
    assert stamps == sorted(stamps)  # type: ignore[type-var]
    source.close()


def test_a_batch_is_at_most_what_was_asked_for() -> None:
    receiver = LinuxReceiver()
    with open_test_socket("127.0.0.1") as sock:
        for _ in range(SLOTS + 5):
            sock.sendto(b"x", sock.getsockname())
        assert [receiver.receive(sock, limit) for limit in (3, 100, 100, 100)] == [3, SLOTS, 2, 0]


@pytest.mark.parametrize("receiver", [PortableReceiver(), LinuxReceiver()], ids=["portable", "linux"])
def test_what_the_kernel_does_not_say_is_none(receiver: Receiver) -> None:
    """After a datagram that had both: nothing of it is left over."""
    with open_test_socket("127.0.0.1") as full, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bare:
        full.sendto(b"x", full.getsockname())
        assert receiver.receive(full) == 1
        assert None not in receiver.stamp_and_ttl(0)
        bare.bind(("127.0.0.1", 0))
        full.sendto(b"x", bare.getsockname())
        assert receiver.receive(bare) == 1
        assert receiver.stamp_and_ttl(0) == (None, None)
        bare.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        full.sendto(b"x", bare.getsockname())
        assert receiver.receive(bare) == 1
        stamp, ttl = receiver.stamp_and_ttl(0)
        assert stamp is not None
        assert ttl is None


@pytest.mark.parametrize("receiver", [PortableReceiver(), LinuxReceiver()], ids=["portable", "linux"])
def test_errors_of_the_socket_are_raised(receiver: Receiver) -> None:
    with open_test_socket("127.0.0.1") as gone:
        port = gone.getsockname()[1]
    with open_test_socket("127.0.0.1") as sock:
        sock.connect(("127.0.0.1", port))
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            receiver.receive(sock)


def test_addresses_as_the_socket_layer_writes_them() -> None:
    family = socket.AF_INET6.to_bytes(2, sys.byteorder)
    name = (
        family + (862).to_bytes(2, "big") + bytes(4) + socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(4)
    )
    assert address_of_name(name) == ("2001:db8::1", 862, 0, 0)
    scoped = name[:8] + socket.inet_pton(socket.AF_INET6, "fe80::1") + (1).to_bytes(4, sys.byteorder)
    assert address_of_name(scoped) == ("fe80::1", 862, 0, 1)
    with pytest.raises(OSError, match="family"):
        address_of_name(bytes(16))
    assert (IP_TTL, IPV6_UNICAST_HOPS) == (socket.IP_TTL, socket.IPV6_UNICAST_HOPS)


def test_the_way_is_chosen_by_name() -> None:
    assert [make_receiver(way).way for way in ("auto", "portable", "linux")] == ["linux", "portable", "linux"]
    with pytest.raises(ConfigurationError, match="auto, portable, linux"):
        make_receiver("fast")
