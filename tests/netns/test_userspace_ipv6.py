"""The userspace backend over IPv6, and IPv6 inside IPv4 and the other way round.

    a 2001:db8::1  TUN -- ESP --  v0 ===== v0  -- ESP -- TUN  2001:db8::2 b

scapy's ESP layer opens and closes what is seen on the link. RFC 4303, RFC 8200.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair
from userspace_hosts import A6, B6, A, B, HostError, RemoteHost, two_hosts, why_not

_reason = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(_reason), reason=_reason)]

Hosts = tuple[RemoteHost, RemoteHost]
OUTER6 = {"a": A6, "b": B6}
UDP_PORT = 4500
ESP_PROTOCOL, UDP_PROTOCOL, ICMPV6, FRAGMENT = 50, 17, 58, 44


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        for host in both:
            host.open()
        yield both


def install(hosts: Hosts, **options: object) -> None:
    hosts[0].install(side="a", **options)
    hosts[1].install(side="b", **options)


def between_hosts(packets: list[str]) -> list[bytes]:
    """Without neighbour discovery and reports of multicast listeners."""
    seen = [bytes.fromhex(packet) for packet in packets]
    return [packet for packet in seen if packet[0] >> 4 == 4 or (packet[6] != ICMPV6 and packet[24] != 0xFF)]


def next_headers(packets: list[str]) -> set[int]:
    return {packet[6] for packet in between_hosts(packets)}


def opened(packet: bytes, *, mode: str = "transport", from_a: bool = True) -> object:
    """What scapy finds inside, with the keys of the pair that `esp_support` makes; it checks the ICV."""
    of_a, of_b = child_pair(mode=mode, **OUTER6)  # type: ignore[arg-type]
    child = of_a if from_a else of_b
    association = SecurityAssociation(
        ESP, spi=child.spi_out, crypt_algo="AES-GCM", crypt_key=child.encr_key_out.octets,
        tunnel_header=IPv6(src=child.local, dst=child.remote) if mode == "tunnel" else None,
        nat_t_header=None,
    )  # fmt: skip
    seen = IPv6(packet)
    if UDP in seen:
        # RFC 8200 section 8.1: over IPv6 the UDP checksum is there, and right.
        again = IPv6(bytes(seen))
        del again[UDP].chksum
        assert IPv6(bytes(again))[UDP].chksum == seen[UDP].chksum != 0
        esp = bytes(seen[UDP].payload)
        seen = IPv6(src=seen.src, dst=seen.dst, nh=ESP_PROTOCOL) / ESP(esp)
    return association.decrypt(IPv6(bytes(seen)))


def same_counters(hosts: Hosts) -> None:
    """Nothing was dropped, and what one sent the other has, as soon as the last of it (a TCP FIN) is there."""
    deadline = time.monotonic() + 60
    while True:
        a, b = (host.query() for host in hosts)
        assert a["errors"] == a["drops"] == b["errors"] == b["drops"] == {}
        out, there = [(one["packets_out"], one["octets_out"]) for one in (a, b)], (b, a)
        if out == [(other["packets_in"], other["octets_in"]) for other in there]:
            return
        assert time.monotonic() < deadline, (a, b)


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_all_traffic_passes_and_scapy_opens_every_packet(hosts: Hosts, mode: str, udp: bool) -> None:
    a, b = hosts
    if udp:
        a.attach(host=A6)
        b.attach(host="::")
    install(hosts, mode=mode, udp=udp, **OUTER6)
    b.udp_echo(host=B6, port=7)
    b.tcp_serve(host=B6, port=7)
    for host in hosts:
        host.real_checksums(interface="v0")
    a.capture_start(interface="v0", ipv6=True)
    assert a.udp_ask(to=B6, port=7, octets=1000, tos=0x2C) == [B6, 1000, A6]
    seen = between_hosts(a.capture_stop())
    assert len(seen) == 2
    for packet, source in zip(seen, (A6, B6), strict=True):
        outer = IPv6(packet)
        assert outer.nh == (UDP_PROTOCOL if udp else ESP_PROTOCOL)
        assert outer.src == source
        inner = opened(packet, mode=mode, from_a=source == A6)
        assert (inner.src, len(inner[UDP].payload)) == (source, 1000)  # type: ignore[attr-defined,index]
    assert IPv6(seen[0]).tc == 0x2C
    header = 40 if mode == "tunnel" else 0
    count = a.query()
    assert (count["packets_out"], count["octets_out"]) == (1, header + 8 + 1000)
    assert (count["packets_in"], count["octets_in"]) == (1, header + 8 + 1000)
    assert a.tcp_ask(to=B6, port=7, octets=300_000) == 300_000
    same_counters(hosts)


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_full_packets_fit_the_link_and_larger_datagrams_arrive(hosts: Hosts, mode: str, udp: bool) -> None:
    a, b = hosts
    if udp:
        a.attach(host=A6)
        b.attach(host=B6)
    install(hosts, mode=mode, udp=udp, **OUTER6)
    b.udp_echo(host=B6, port=7)
    mtu = int(a.run(command="ip -o link show ikesp0").split("mtu ")[1].split()[0])
    a.capture_start(interface="v0", ipv6=True)
    assert a.udp_ask(to=B6, port=7, octets=mtu - 48) == [B6, mtu - 48, A6]
    sizes = {len(packet) for packet in between_hosts(a.capture_stop())}
    assert len(sizes) == 1
    assert 1500 - 4 < sizes.pop() <= 1500
    before = a.query()["packets_out"]
    assert a.udp_ask(to=B6, port=7, octets=6000) == [B6, 6000, A6]
    assert a.query()["packets_out"] - before == (5 if mode == "tunnel" else 1)


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_extension_headers_go_through(hosts: Hosts, mode: str) -> None:
    """In transport mode Hop-by-Hop stays in front of ESP, Destination Options go behind it: RFC 4303 section 3.1.1."""
    a, b = hosts
    install(hosts, mode=mode, **OUTER6)
    b.udp_echo(host=B6, port=7)
    a.capture_start(interface="v0", ipv6=True)
    assert a.ask_with_options(to=B6, port=7, octets=100) == 100
    first = between_hosts(a.capture_stop())[0]
    assert b.query()["errors"] == b.query()["drops"] == {}
    if mode == "transport":
        assert (first[6], first[40]) == (0, ESP_PROTOCOL)
    else:
        assert first[6] == ESP_PROTOCOL


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize(
    ("outer", "inner"),
    [({"a": A, "b": B}, ("2001:db8:a::1", "2001:db8:b::1")), (OUTER6, ("10.1.0.1", "10.2.0.1"))],
    ids=["6in4", "4in6"],
)
def test_one_family_inside_the_other(
    hosts: Hosts, outer: dict[str, str], inner: tuple[str, str], udp: bool
) -> None:
    a, b = hosts
    for host, address, outside in ((a, inner[0], outer["a"]), (b, inner[1], outer["b"])):
        host.run(
            command=f"ip addr add {address}/{128 if ':' in address else 32} dev lo{' nodad' if ':' in address else ''}"
        )
        if udp:
            host.attach(host=outside)
    prefix = 128 if ":" in inner[0] else 32
    ts = {"ts_a": [[f"{inner[0]}/{prefix}"]], "ts_b": [[f"{inner[1]}/{prefix}"]]}
    install(hosts, udp=udp, **outer, **ts)
    b.udp_echo(host=inner[1], port=7)
    six = outer is OUTER6
    a.capture_start(interface="v0", ipv6=six)
    assert a.udp_ask(to=inner[1], port=7, octets=500) == [inner[1], 500, inner[0]]
    assert a.udp_ask(to=inner[1], port=7, octets=4000) == [inner[1], 4000, inner[0]]
    seen = between_hosts(a.capture_stop())
    assert {packet[6 if six else 9] for packet in seen} - {FRAGMENT} == {UDP_PROTOCOL if udp else ESP_PROTOCOL}
    if udp and not six:
        assert {IP(packet)[UDP].chksum for packet in seen} == {0}  # RFC 3948 section 2.1
    same_counters(hosts)


def test_both_families_in_one_child_sa(hosts: Hosts) -> None:
    a, b = hosts
    ts = {"ts_a": [[f"{A}/32"]], "ts_b": [[f"{B}/32"], [f"{B6}/128"]]}
    ts["ts_a"].append([f"{A6}/128"])
    install(hosts, **OUTER6, **ts)
    for address in (B, B6):
        b.udp_echo(host=address, port=7)
        assert a.udp_ask(to=address, port=7, octets=100)[:2] == [address, 100]
    assert a.query()["packets_out"] == 2


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
def test_packets_that_wait_together_go_each_its_own_way(udp: bool) -> None:
    """What the loop finds at once, more than it takes at once: Child SAs over both families, packets short and long."""
    six = {"key": "six", "spis": [0x3001, 0x3002], "seed": 2, **OUTER6}
    with two_hosts(mtu=40_000) as both:
        a, b = both
        for host, address, address6 in ((a, A, A6), (b, B, B6)):
            host.open()
            if udp:
                host.attach(host=address)
                host.attach(host=address6)
        install(both, udp=udp)
        install(both, udp=udp, **six)
        a.hold()
        for number in range(40):
            for to in (B, B6):
                assert a.udp_send(to=to, port=9, octets=30_000 if number % 8 == 7 else 100 + number) == ""
        a.capture_start(interface="v0", ipv6=True)
        a.release()
        deadline = time.monotonic() + 60
        while any(b.query(key=key)["packets_in"] < 40 for key in ("one", "six")):
            assert time.monotonic() < deadline, [b.query(key=key) for key in ("one", "six")]
        assert max(len(packet) for packet in between_hosts(a.capture_stop())) > 30_000
        for host in both:
            for key in ("one", "six"):
                assert host.query(key=key)["errors"] == host.query(key=key)["drops"] == {}
        assert a.query()["packets_out"] == a.query(key="six")["packets_out"] == 40


def test_ports_of_later_fragments_are_known(hosts: Hosts) -> None:
    a, b = hosts
    install(hosts, ts_a=[[f"{A6}/128", UDP_PROTOCOL]], ts_b=[[f"{B6}/128", UDP_PROTOCOL, 7, 7]], **OUTER6)
    b.udp_echo(host=B6, port=7)
    b.udp_echo(host=B6, port=8)
    a.capture_start(interface="v0", ipv6=True)
    assert a.udp_ask(to=B6, port=7, octets=5000) == [B6, 5000, A6]
    assert next_headers(a.capture_stop()) <= {ESP_PROTOCOL, FRAGMENT}
    before = a.query()["packets_out"]
    assert a.udp_ask(to=B6, port=8, octets=100) == [B6, 100, A6]
    assert a.query()["packets_out"] == before


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_an_icmp_error_about_what_is_protected_is_protected_and_others_pass_as_ever(
    hosts: Hosts, mode: str
) -> None:
    """It quotes what was protected. RFC 4301 section 6.2."""
    a, b = hosts
    install(hosts, mode=mode, ts_a=[[A6 + "/128", 17]], ts_b=[[B6 + "/128", 17, 7, 7]], **OUTER6)
    a.capture_start(interface="v0", ipv6=True)
    for port in (7, 8):  # nobody listens there
        with pytest.raises(HostError, match="refused"):
            a.udp_ask(to=B6, port=port, octets=10)
    seen = [bytes.fromhex(packet) for packet in a.capture_stop()]
    errors = [packet for packet in seen if packet[6] == ICMPV6 and packet[40] == 1]
    assert [int.from_bytes(packet[90:92], "big") for packet in errors] == [8]
    assert [packet[6] for packet in seen].count(ESP_PROTOCOL) == 2
    assert a.query()["packets_in"] == b.query()["packets_out"] == 1
    assert a.query()["drops"] == b.query()["drops"] == {}


def test_closing_takes_rules_and_routes_of_ipv6_away(hosts: Hosts) -> None:
    a, _ = hosts
    install(hosts, **OUTER6)
    a.bypass(ip_protocol=UDP_PROTOCOL, first=18688, last=18751, local=A6, remote=B6)
    assert "18700" in a.run(command="ip -6 rule")
    assert "ikesp0" in a.run(command="ip -6 route show table 18700")
    a.close()
    assert "1870" not in a.run(command="ip -6 rule")
    assert a.run(command="ip -6 route show table all proto 73") == ""


def test_a_bypass_of_ipv6_passes_in_clear(hosts: Hosts) -> None:
    a, b = hosts
    install(hosts, **OUTER6)
    for host, local, remote in ((a, A6, B6), (b, B6, A6)):
        host.bypass(ip_protocol=UDP_PROTOCOL, first=18688, last=18751, local=local, remote=remote)
    b.udp_echo(host=B6, port=7)
    a.capture_start(interface="v0", ipv6=True)
    assert a.udp_ask(to=B6, port=7, octets=100, local_port=18700) == [B6, 100, A6]
    assert next_headers(a.capture_stop()) == {UDP_PROTOCOL}
    assert a.query()["packets_out"] == 0


def test_link_local_outside_is_used_and_inside_is_refused(hosts: Hosts) -> None:
    a, b = hosts
    for host, address, inner in ((a, "fe80::a", "2001:db8:a::1"), (b, "fe80::b", "2001:db8:b::1")):
        host.run(command=f"ip addr add {address}/64 dev v0 nodad")
        host.run(command=f"ip addr add {inner}/128 dev lo")
    outer = {"a": "fe80::a%v0", "b": "fe80::b%v0"}
    install(hosts, ts_a=[["2001:db8:a::1/128"]], ts_b=[["2001:db8:b::1/128"]], **outer)
    b.udp_echo(host="2001:db8:b::1", port=7)
    assert a.udp_ask(to="2001:db8:b::1", port=7, octets=100) == ["2001:db8:b::1", 100, "2001:db8:a::1"]
    with pytest.raises(HostError, match="link-local"):
        a.install(
            side="a", key="two", ts_a=[["fe80::a/128"]], ts_b=[["fe80::b/128"]], spis=[0x3001, 0x3002], **outer
        )


def test_ipv6_of_the_kernel_itself_does_not_reach_the_device(hosts: Hosts) -> None:
    """No router solicitation, no multicast report: nothing is dropped for want of an SA."""
    a, b = hosts
    install(hosts, **OUTER6)
    b.udp_echo(host=B6, port=7)
    assert a.udp_ask(to=B6, port=7, octets=10) == [B6, 10, A6]
    assert a.query()["drops"] == b.query()["drops"] == {}
