"""A router between two hosts whose further link is narrow: what ESP makes of the ICMP errors that it sends.

    a 192.0.2.1 -- v0 == r0 -- router -- r1 == v0 -- 198.51.100.1 b

The router is a Linux kernel that forwards; it answers what does not fit and must not be cut. RFC 4301 section 8.2.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from userspace_hosts import RemoteHost, why_not

from ikev2.ipsec.routing import SOCKET_MARK

_reason = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(_reason), reason=_reason)]

A, B = "192.0.2.1", "198.51.100.1"
A6, B6 = "2001:db8:1::1", "2001:db8:2::1"
PORT = 7


@contextmanager
def routed() -> Iterator[tuple[RemoteHost, RemoteHost, RemoteHost]]:
    """Hosts a and b, and the router between them; links of 1500 octets."""
    with ExitStack() as stack:
        a, router, b = hosts = [RemoteHost("unshare", "-n") for _ in range(3)]
        for host in hosts:
            stack.callback(host.kill)
            host.run(command="ip link set lo up")
        for end, far, address, near in ((a, "r0", A, "192.0.2.254"), (b, "r1", B, "198.51.100.254")):
            end.run(command=f"ip link add v0 type veth peer name {far} netns {router.pid}")
            end.run(command=f"ip addr add {address}/24 dev v0")
            end.run(command="ip link set v0 up")
            router.run(command=f"ip addr add {near}/24 dev {far}")
            router.run(command=f"ip link set {far} up")
            end.run(command=f"ip route add default via {near}")
            address6, near6 = (A6, "2001:db8:1::fe") if end is a else (B6, "2001:db8:2::fe")
            end.run(command=f"ip addr add {address6}/64 dev v0 nodad")
            router.run(command=f"ip addr add {near6}/64 dev {far} nodad")
            end.run(command=f"ip route add default via {near6}")
        router.sysctl(name="net.ipv6.conf.all.forwarding", value="1")
        router.sysctl(name="net.ipv6.icmp.ratelimit", value="0")
        router.sysctl(name="net.ipv4.ip_forward", value="1")
        # Each answer counts: the kernel gives one a second to one host by default.
        router.sysctl(name="net.ipv4.icmp_ratelimit", value="0")
        yield a, router, b


OUTSIDE = {4: (A, B), 6: (A6, B6)}


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize(
    ("outside", "inside"), [(6, 6), (6, 4), (4, 6)], ids=["ipv6", "ipv4-in-ipv6", "ipv6-in-ipv4"]
)
def test_a_host_is_told_what_fits_whichever_family_is_inside_the_other(
    outside: int, inside: int, udp: bool
) -> None:
    """Its packets must not be cut, so they go whole or not at all. RFC 4301 section 8.2.1, cases 1 and 3."""
    hosts_inside = ("10.1.0.1/32", "10.2.0.1/32") if inside == 4 else ("2001:db8:a::1/128", "2001:db8:b::1/128")
    to = hosts_inside[1].partition("/")[0]
    (out_a, out_b), own = OUTSIDE[outside], 28 if inside == 4 else 48
    with routed() as (a, router, b):
        ts_a, ts_b = ([[network]] for network in hosts_inside)
        for host, side, address, own_network in (
            (a, "a", out_a, hosts_inside[0]),
            (b, "b", out_b, hosts_inside[1]),
        ):
            host.run(command=f"ip addr add {own_network} dev lo")
            host.open()
            if udp:
                host.attach(host=address)
            host.install(side=side, udp=udp, a=out_a, b=out_b, ts_a=ts_a, ts_b=ts_b)
        b.udp_echo(host=to, port=PORT)
        assert a.udp_ask(to=to, port=PORT, octets=1300)[:2] == [to, 1300]
        for mtu in (1400, 1370):
            router.run(command=f"ip link set r1 mtu {mtu}")
            b.run(command=f"ip link set v0 mtu {mtu}")
            a.capture_start(interface="v0", ipv6=outside == 6)
            told, answered = a.udp_whole(to=to, port=PORT, octets=1380)
            seen = [bytes.fromhex(packet) for packet in a.capture_stop()]
            overhead = (20 if outside == 4 else 40) + 8 * udp + 8 + 8 + 2 + 16
            assert mtu - overhead - 3 <= told <= mtu - overhead
            assert answered == told - own
            assert not any(is_piece(packet) for packet in seen)
        # Nobody is told less than 1280 in IPv6: those packets are cut outside, where that is allowed.
        router.run(command="ip link set r1 mtu 1300")
        b.run(command="ip link set v0 mtu 1300")
        octets = 1232 if inside == 6 else 4000
        a.udp_send(to=to, port=PORT, octets=octets)
        assert a.udp_ask(to=to, port=PORT, octets=octets)[:2] == [to, octets]


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("df", ["copy", "set", "clear"])
def test_what_may_be_cut_is_cut_inside_or_outside_as_the_pair_has_it(df: str, udp: bool) -> None:
    """RFC 4301 sections 8.1 and 8.2.1, case 2."""
    with routed() as (a, router, b):
        for host, side, address in ((a, "a", A), (b, "b", B)):
            host.open()
            if udp:
                host.attach(host=address)
            host.install(side=side, udp=udp, a=A, b=B, df=df)
        b.listen(host=B, port=PORT)
        router.run(command="ip link set r1 mtu 1000")
        a.udp_send(to=B, port=PORT, octets=1300, cut=True)
        end = time.monotonic() + 10
        while df == "set" and "mtu 1000" not in a.run(command=f"ip route get {B} mark {SOCKET_MARK}"):
            assert time.monotonic() < end, "the router's answer has not come"
        assert df == "set" or b.heard() == 1300
        a.capture_start(interface="v0")
        a.udp_send(to=B, port=PORT, octets=1200, cut=True)
        assert b.heard() == 1200
        seen = [bytes.fromhex(packet) for packet in a.capture_stop()]
        sent = [packet for packet in seen if packet[12:16] == bytes((192, 0, 2, 1))]
        assert all(bool(packet[6] & 0x40) is (df == "set") for packet in sent)
        assert max(map(len, sent)) <= (1000 if df == "set" else 1500)
        assert any(map(is_piece, sent)) is False or df != "set"


def is_piece(packet: bytes) -> bool:
    """Whether it is a fragment."""
    return packet[6] == 44 if packet[0] >> 4 == 6 else bool((packet[6] << 8 | packet[7]) & 0x3FFF)


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_router_that_says_how_narrow_the_way_is_is_believed_each_time(mode: str, udp: bool) -> None:
    with routed() as (a, router, b):
        for host, side, address in ((a, "a", A), (b, "b", B)):
            host.open()
            if udp:
                host.attach(host=address)
            host.install(side=side, mode=mode, udp=udp, a=A, b=B)
        b.udp_echo(host=B, port=PORT)
        assert a.udp_ask(to=B, port=PORT, octets=1300) == [B, 1300, A]
        for mtu in (1300, 1000):
            router.run(command=f"ip link set r1 mtu {mtu}")
            b.run(command=f"ip link set v0 mtu {mtu}")
            told, answered = a.udp_whole(to=B, port=PORT, octets=1350)
            overhead = 20 * (mode == "tunnel") + 8 * udp + 8 + 8 + 2 + 16
            assert mtu - overhead - 3 <= told <= mtu - overhead
            assert answered == told - 28
        # What may be cut is, however long it is.
        assert a.udp_ask(to=B, port=PORT, octets=4000) == [B, 4000, A]
