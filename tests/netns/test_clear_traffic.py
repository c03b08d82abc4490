"""What arrives in clear although a Child SA protects it: dropped before the host has it, and counted.

    a 192.0.2.1 (sends in clear)  v0 ===== v0  192.0.2.2 b (with a userspace backend, and a policy)

b's kernel is the judge: it counts what its table refuses, and hands on the rest. RFC 4301 sections 4.4.1 and 5.2.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import MIP6MH_BRR, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from userspace_hosts import A6, B6, A, B, RemoteHost, two_hosts, why_not

NOTHING_ELSE = 4711
"""A port that is nobody's."""


def why_no_nftables() -> str:
    if reason := why_not():
        return reason
    script = "from ikev2.ipsec.nftables import *; NftSocket().add_table('probe', TableFlag.NONE)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


_reason = why_no_nftables()
_reason_user = why_not(user_namespace=True)
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(_reason), reason=_reason)]

Hosts = tuple[RemoteHost, RemoteHost]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        both[1].open()
        yield both


def dropped(host: RemoteHost) -> int:
    return int(host.query()["drops"].get("not-protected", 0))


@pytest.mark.parametrize("user_namespace", [False, True], ids=["root", "userns"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_datagram_in_clear_is_dropped_and_counted_and_under_esp_it_arrives(
    mode: str, user_namespace: bool
) -> None:
    if user_namespace and _reason_user:
        pytest.skip(_reason_user)
    with two_hosts(user_namespace=user_namespace) as (a, b):
        b.open()
        b.listen(host=B, port=7)
        a.udp_send(to=B, port=7, octets=1)
        assert b.heard() == 1  # nothing protects it yet
        b.install(side="b", mode=mode)
        for octets in (10, 3000):  # the other in fragments
            a.udp_send(to=B, port=7, octets=octets)
        b.after_dropping(packets=2)
        assert b.query()["drops"] == {"not-protected": 2}
        assert b.query()["errors"] == {}
        a.open()
        a.install(side="a", mode=mode)
        a.udp_send(to=B, port=7, octets=20)
        assert b.heard() == 20
        assert b.heard_nothing()
        assert dropped(b) == 2
        b.delete()
        a.close()
        a.udp_send(to=B, port=7, octets=30)
        assert b.heard() == 30  # what protected it has gone


def test_ipv6_in_clear_is_dropped_and_neighbours_are_found_all_the_same(hosts: Hosts) -> None:
    a, b = hosts
    options = {"a": A6, "b": B6}
    b.install(side="b", **options)
    a.open()
    a.install(side="a", **options)
    b.udp_echo(host=B6, port=7)
    for host in hosts:
        host.run(command="ip -6 neigh flush dev v0")
    assert a.udp_ask(to=B6, port=7, octets=3000) == [B6, 3000, A6]
    assert dropped(b) == 0
    ends = {"src": A6, "dst": B6}
    a.send_packets(
        packets=[
            bytes(packet).hex()
            for packet in (
                IPv6(**ends) / UDP(sport=1, dport=7),
                IPv6(**ends) / IPv6ExtHdrHopByHop() / TCP(sport=1, dport=7),
                IPv6(**ends) / ICMPv6EchoRequest(),
                IPv6(**ends) / IPv6ExtHdrFragment(offset=2, m=1, nh=17) / bytes(16),  # goes on, to no end
                IPv6(**ends) / IPv6ExtHdrFragment(offset=0, m=1) / UDP(sport=1, dport=7) / bytes(8),
                IPv6(**ends) / IPv6ExtHdrFragment(offset=0, m=0) / UDP(sport=1, dport=7),
            )
        ]
    )
    b.after_dropping(packets=5)
    assert b.query()["drops"] == {"not-protected": 5}


def ts(*entry: object) -> list[list[object]]:
    return [list(entry)]


_V4, _V6 = {"src": A, "dst": B}, {"src": A6, "dst": B6}


@pytest.mark.parametrize(
    ("ts_a", "ts_b", "inside", "outside"),
    [
        pytest.param(
            ts(f"{A}/32", 17),
            ts(f"{B}/32", 17, 862, 863),
            [IP(**_V4) / UDP(sport=1, dport=862), IP(**_V4) / UDP(sport=1, dport=863)],
            [IP(**_V4) / UDP(sport=1, dport=861), IP(**_V4) / UDP(dport=864), IP(**_V4) / TCP(dport=862)],
            id="ports-of-ours",
        ),
        pytest.param(
            ts(f"{A}/32", 6, 1024, 65535),
            ts(f"{B}/32"),
            [IP(**_V4) / TCP(sport=1024, dport=1), IP(**_V4) / TCP(sport=65535)],
            [IP(**_V4) / TCP(sport=1023, dport=1), IP(**_V4) / UDP(sport=1024), IP(**_V4) / ICMP()],
            id="ports-of-the-peer",
        ),
        pytest.param(
            ts(f"{A}/32", 1, 0x0800, 0x08FF),
            ts(f"{B}/32", 1),
            [IP(**_V4) / ICMP(type=8, code=0), IP(**_V4) / ICMP(type=8, code=255)],
            [IP(**_V4) / ICMP(type=13), IP(**_V4) / UDP()],
            id="icmp-type",
        ),
        pytest.param(
            ts(f"{A6}/128", 135, 0x0500, 0x0600),
            ts(f"{B6}/128", 135),
            [IPv6(**_V6) / MIP6MH_BRR(mhtype=kind) for kind in (5, 6)],
            [IPv6(**_V6) / MIP6MH_BRR(mhtype=kind) for kind in (4, 7)],
            id="mobility-type",
        ),
        pytest.param(
            ts("192.0.2.0/31"),
            ts(f"{B}/32"),
            [IP(**_V4) / UDP(), IP(src="192.0.2.0", dst=B) / UDP()],
            [IP(src="192.0.2.3", dst=B) / UDP(), IPv6(**_V6) / UDP()],
            id="network-of-the-peer",
        ),
        pytest.param(
            ts("0.0.0.0/0"),
            ts("10.9.0.0/16"),
            [IP(src=A, dst="10.9.0.1") / UDP(), IP(src="198.51.100.9", dst="10.9.255.255") / TCP()],
            [IP(src=A, dst="10.8.255.255") / UDP(), IP(**_V4) / UDP()],
            id="network-of-ours",
        ),
        pytest.param(
            ts(f"{A}/32", 17, 65535, 0),
            ts(f"{B}/32", 17),
            [],
            [IP(**_V4) / UDP(), IP(frag=1, **_V4, proto=17) / bytes(16)],
            id="opaque-of-a-protocol-with-ports",
        ),
        pytest.param(
            ts(f"{A}/32", 47, 65535, 0),
            ts(f"{B}/32", 47),
            [IP(proto=47, **_V4) / bytes(16)],
            [IP(**_V4) / UDP()],
            id="opaque-of-a-protocol-without",
        ),
    ],
)
def test_the_kernel_refuses_what_the_selectors_name_and_nothing_else(
    hosts: Hosts, ts_a: object, ts_b: object, inside: list[IP], outside: list[IP]
) -> None:
    a, b = hosts
    a.run(command="ip route add 10.8.0.0/15 via 192.0.2.2")
    b.sysctl(name="net.ipv4.conf.all.rp_filter", value="0")
    b.sysctl(name="net.ipv4.conf.v0.rp_filter", value="0")
    b.install(side="b", ts_a=ts_a, ts_b=ts_b)
    a.send_packets(packets=[bytes(packet).hex() for packet in outside])
    a.send_packets(packets=[bytes(packet).hex() for packet in inside])
    # In the order in which they were sent: with the last of these all are counted that ever will be.
    last = IP(**_V4) / UDP(sport=NOTHING_ELSE, dport=NOTHING_ELSE)
    b.install(
        side="b",
        key="two",
        spis=(0x3001, 0x3002),
        seed=2,
        ts_a=ts(A, 17, NOTHING_ELSE, NOTHING_ELSE),
        ts_b=ts(B, 17),
    )
    before = dropped(b)
    a.send_packets(packets=[bytes(last).hex()])
    b.after_dropping(packets=before + 1)
    assert dropped(b) == len(inside) + 1


def test_bypasses_and_errors_of_icmp_come_in_clear(hosts: Hosts) -> None:
    a, b = hosts
    b.install(side="b")
    b.bypass(ip_protocol=17, first=18688, last=18751, local=B, remote=A)
    b.udp_echo(host=B, port=18700)
    b.udp_echo(host=B, port=18752)
    assert a.udp_ask(to=B, port=18700, octets=3000) == [B, 3000, A]
    assert b.refused_by(to=A, port=18701, local_port=0) == "ConnectionRefusedError"
    assert dropped(b) == 0
    a.udp_send(to=B, port=18752, octets=1)
    b.after_dropping(packets=1)
    b.bypass(ip_protocol=17, first=18688, last=18751, local=B, remote=A, add=False)
    a.udp_send(to=B, port=18700, octets=1)
    b.after_dropping(packets=2)
    assert dropped(b) == 2


def test_a_trap_lets_nothing_of_its_traffic_in(hosts: Hosts) -> None:
    a, b = hosts
    b.listen(host=B, port=7)
    b.trap(side="b")
    a.udp_send(to=B, port=7, octets=10)
    assert b.dropped_in_clear() == 1
    assert b.heard_nothing()


def test_ike_comes_to_the_ports_that_it_has(hosts: Hosts) -> None:
    a, b = hosts
    b.install(side="b")
    b.attach(host=B)
    a.open()
    a.attach(host=A)
    a.send_ike(data="01" * 28, to=B)
    assert b.wait_ike()[0] == "01" * 28
    assert dropped(b) == 0


def test_nothing_is_left_when_it_ends(hosts: Hosts) -> None:
    _, b = hosts
    assert b.tables() == ["ikesp0"]
    b.install(side="b")
    b.close()
    assert b.tables() == []
    b.open()
    assert b.tables() == ["ikesp0"]


def test_after_a_crash_nothing_comes_in_clear_and_the_next_run_cleans_up() -> None:
    with two_hosts() as (a, b):
        crashing = RemoteHost("nsenter", "-n", "-t", str(b.pid))
        try:
            crashing.open()
            crashing.install(side="b")
        finally:
            crashing.kill()
        b.listen(host=B, port=7)
        a.udp_send(to=B, port=7, octets=10)
        assert b.tables() == ["ikesp0"]
        assert b.dropped_in_clear() == 1
        assert b.heard_nothing()
        b.open()
        assert b.tables() == ["ikesp0"]
        a.udp_send(to=B, port=7, octets=20)
        assert b.heard() == 20
        b.close()
        assert b.tables() == []


def test_what_a_crash_left_goes_also_when_the_next_run_makes_no_table() -> None:
    with two_hosts() as (_, b):
        crashing = RemoteHost("nsenter", "-n", "-t", str(b.pid))
        try:
            crashing.open()
        finally:
            crashing.kill()
        assert b.tables() == ["ikesp0"]
        b.open(drops_clear=False)
        assert b.tables() == []


def test_two_in_one_namespace_leave_each_other_alone(hosts: Hosts) -> None:
    a, b = hosts
    b.install(side="b")
    second = RemoteHost("nsenter", "-n", "-t", str(b.pid))
    try:
        assert second.open() == "ikesp1"
        assert sorted(b.tables()) == ["ikesp0", "ikesp1"]
        second.close()
        assert b.tables() == ["ikesp0"]
        a.udp_send(to=B, port=7, octets=10)
        b.after_dropping(packets=1)
    finally:
        second.kill()


def test_what_somebody_has_emptied_is_made_again_with_the_next_change(hosts: Hosts) -> None:
    a, b = hosts
    b.install(side="b")
    b.empty_nftables()
    assert b.tables() == []
    b.install(side="b", key="two", spis=(0x3001, 0x3002), seed=2, ts_a=ts("192.0.2.7/32"))
    assert b.tables() == ["ikesp0"]
    a.udp_send(to=B, port=7, octets=10)
    b.after_dropping(packets=1)
    b.empty_nftables()
    b.delete(key="two")
    a.udp_send(to=B, port=7, octets=10)
    b.after_dropping(packets=1)  # it counts anew
    b.empty_nftables()
    b.close()
    assert b.tables() == []


def test_who_wants_it_otherwise_has_it(hosts: Hosts) -> None:
    a, b = hosts
    b.close()
    b.open(drops_clear=False)
    assert b.tables() == []
    b.install(side="b")
    b.listen(host=B, port=7)
    a.udp_send(to=B, port=7, octets=10)
    assert b.heard() == 10
    assert b.query()["drops"] == {}
