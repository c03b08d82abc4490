"""Traffic selectors, bypasses and the flows that they look at."""

from __future__ import annotations

import ipaddress

import pytest
from esp_support import child_pair, udp_packet
from hypothesis import given
from hypothesis import strategies as st

from ikev2.errors import LocalProtocolError
from ikev2.iana import TsType
from ikev2.ipsec.backend import Bypass
from ikev2.ipsec.ipv4 import (
    NO_PORT,
    TYPED,
    Flow,
    MalformedPacket,
    build_header,
    flow,
    flow_of,
    fragmentation_needed,
    ones_complement_sum,
    readdressed,
    with_tos,
)
from ikev2.ipsec.spd import Policy, Selector, bypasses, is_ike
from ikev2.wire.payloads.ts import TrafficSelector

A, B = (int(ipaddress.IPv4Address(address)) for address in ("192.0.2.1", "192.0.2.2"))
TCP, UDP, ICMP, DCCP, MOBILITY = 6, 17, 1, 33, 135


def selector(network: str, ip_protocol: int = 0, first: int = 0, last: int = 65535) -> Selector:
    found = Selector.of(TrafficSelector.from_network(network, ip_protocol, first, last))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("chosen", "address", "ip_protocol", "port", "expected"),
    [
        (selector("192.0.2.0/30"), A, UDP, 7, True),
        (selector("192.0.2.0/30"), A + 3, UDP, 7, False),
        (selector("192.0.2.1/32", UDP), A, TCP, 7, False),
        (selector("192.0.2.1/32", UDP, 7, 9), A, UDP, 9, True),
        (selector("192.0.2.1/32", UDP, 7, 9), A, UDP, 10, False),
        (selector("192.0.2.1/32", UDP, 7, 9), A, UDP, NO_PORT, False),
        (selector("192.0.2.1/32", UDP), A, UDP, NO_PORT, True),
        (selector("192.0.2.1/32", UDP, 65535, 0), A, UDP, NO_PORT, True),
        (selector("192.0.2.1/32", UDP, 65535, 0), A, UDP, 7, False),
        (selector("192.0.2.1/32", ICMP, 0x0800, 0x08FF), A, ICMP, 0x0800, True),
        (selector("192.0.2.1/32", ICMP, 0x0800, 0x08FF), A, ICMP, 0x0000, False),
        (selector("192.0.2.1/32", ICMP, 65535, 0), A, ICMP, 0x0800, False),
        (selector("192.0.2.1/32", ICMP, 65535, 0), A, ICMP, TYPED, True),
        (selector("192.0.2.1/32", MOBILITY, 0x0500, 0x05FF), A, MOBILITY, 0x0500, True),
        (selector("192.0.2.1/32", MOBILITY, 0x0500, 0x05FF), A, MOBILITY, 0x0600, False),
        (selector("192.0.2.1/32", MOBILITY, 0x0500, 0x05FF), A, MOBILITY, NO_PORT, False),
    ],
)
def test_selectors(chosen: Selector, address: int, ip_protocol: int, port: int, expected: bool) -> None:
    assert chosen.matches(address, ip_protocol, port) is expected


@pytest.mark.parametrize("protocol", [ICMP, 58, MOBILITY])
@pytest.mark.parametrize(
    ("local", "remote", "sends", "receives"),
    [
        ((0x0500, 0x05FF), (0x0500, 0x05FF), True, True),
        ((0x0500, 0x05FF), (65535, 0), True, False),
        ((65535, 0), (0x0500, 0x05FF), False, True),
        ((0x0500, 0x05FF), (0x0700, 0x07FF), True, False),
    ],
    ids=["both", "sent-only", "received-only", "another-comes-back"],
)
def test_what_the_selector_of_a_side_says_of_types_is_what_it_sends(
    protocol: int, local: tuple[int, int], remote: tuple[int, int], sends: bool, receives: bool
) -> None:
    """The examples of RFC 4301 section 4.4.1.3, B to D, for messages of type 5; RFC 7296 section 3.13.1."""
    policy = Policy((selector("192.0.2.1/32", protocol, *local),), (selector("192.0.2.2/32", protocol, *remote),))
    ends = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
    message = bytes((59, 0, 5, 0)) if protocol == MOBILITY else bytes((5, 0, 0, 0))
    assert policy.protects(flow(*ends, protocol, message)) is sends
    assert policy.accepts(flow(*reversed(ends), protocol, message)) is receives


def test_a_selector_of_fibre_channel_is_none_of_ours() -> None:
    six = Selector.of(TrafficSelector.from_network("2001:db8::/64"))
    assert six is not None
    assert (six.version, [str(network) for network in six.networks()]) == (6, ["2001:db8::/64"])
    assert Selector.of(TrafficSelector(TsType.TS_FC_ADDR_RANGE, 0, 0, 0, b"octets", b"")) is None


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_the_networks_of_a_range_hold_its_addresses_and_no_more(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    networks = Selector(0, first, last, 0, 65535).networks()
    assert sum(network.num_addresses for network in networks) == last - first + 1
    assert all(first <= int(network[0]) and int(network[-1]) <= last for network in networks)


def test_a_policy_turns_round_with_the_direction() -> None:
    of_a, _ = child_pair(
        ts_a=(TrafficSelector.from_network("192.0.2.1/32", UDP, 1000, 1000),),
        ts_b=(TrafficSelector.from_network("192.0.2.2/32", UDP, 7, 7),),
    )
    policy = Policy.of(of_a)
    out, back = Flow(A, B, UDP, 1000, 7), Flow(B, A, UDP, 7, 1000)
    assert policy.protects(out)
    assert policy.accepts(back)
    assert not policy.protects(back)
    assert not policy.accepts(out)
    assert not policy.protects(Flow(A, B, UDP, 7, 1000))


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (Flow(A, B, UDP, 18700, 40000), True),
        (Flow(A, B, UDP, 40000, 18751), True),
        (Flow(B, A, UDP, 40000, 18688), True),
        (Flow(A, B, UDP, 18687, 18752), False),
        (Flow(A, B, TCP, 18700, 40000), False),
        (Flow(A, B + 1, UDP, 18700, 40000), False),
        (Flow(A, B, UDP, NO_PORT, NO_PORT), False),
    ],
)
def test_a_bypass_is_for_either_sides_port(flow: Flow, expected: bool) -> None:
    assert bypasses(Bypass(UDP, (18688, 18751), "192.0.2.1", "192.0.2.2"), flow) is expected


@pytest.mark.parametrize("ports", [(18688, 18750), (18689, 18752), (0, 63), (10, 5), (65472, 65536)])
def test_bypass_ports_are_a_power_of_two_aligned_to_it(ports: tuple[int, int]) -> None:
    with pytest.raises(LocalProtocolError):
        Bypass(UDP, ports, "192.0.2.1", "192.0.2.2")


def test_the_mask_of_a_bypass_covers_its_range_and_no_more() -> None:
    bypass = Bypass(UDP, (18688, 18751), "192.0.2.1", "192.0.2.2")
    assert [port for port in range(1 << 16) if port & bypass.mask == 18688] == list(range(18688, 18752))


def test_a_bypass_is_for_protocols_with_ports() -> None:
    with pytest.raises(LocalProtocolError):
        Bypass(ICMP, (18688, 18751), "192.0.2.1", "192.0.2.2")


def test_ike_is_known_by_its_ports() -> None:
    assert is_ike(Flow(A, B, UDP, 500, 500))
    assert is_ike(Flow(A, B, UDP, 34567, 4500))
    assert not is_ike(Flow(A, B, TCP, 500, 500))


def test_the_flow_of_a_packet() -> None:
    assert flow_of(udp_packet(ports=(40000, 7))) == Flow(A, B, UDP, 40000, 7)
    ends = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
    assert flow_of(build_header(*ends, ICMP, 8) + bytes((8, 3)) + bytes(6)) == Flow(A, B, ICMP, 0x0803, TYPED)
    assert flow_of(build_header(*ends, 47, 4) + bytes(4)) == Flow(A, B, 47, NO_PORT, NO_PORT)
    assert flow_of(build_header(*ends, UDP, 3) + bytes(3)).source_port == NO_PORT


def test_a_fragment_that_is_not_the_first_has_no_ports() -> None:
    first, later = udp_packet(flags=0x2000), udp_packet(flags=0x0001)
    assert flow_of(first).source_port == 40000
    assert flow_of(later).source_port == NO_PORT


@given(st.binary(max_size=64))
def test_octets_are_a_packet_or_malformed(octets: bytes) -> None:
    try:
        flow_of(octets)
    except MalformedPacket:
        return
    assert octets[0] >> 4 == 4


def checksum_holds(packet: bytes) -> bool:
    """Whether the UDP checksum of a packet is right for its own addresses."""
    datagram = packet[20:]
    pseudo = packet[12:20] + bytes((0, UDP)) + datagram[4:6]
    return ones_complement_sum(pseudo + datagram) == 0xFFFF


@given(st.binary(max_size=40), st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_a_checksum_made_for_other_addresses_is_put_right(data: bytes, old: bytes, new: bytes) -> None:
    there, here = (tuple(str(ipaddress.IPv4Address(a)) for a in (ends[:4], ends[4:])) for ends in (old, new))
    made = udp_packet(*there, data=data)
    assert checksum_holds(made)
    arrived = udp_packet(*here, data=data)[:20] + readdressed(made[20:], UDP, old, new)
    assert checksum_holds(arrived)


def test_an_absent_udp_checksum_stays_absent() -> None:
    datagram = bytes.fromhex("0007000700080000")
    assert readdressed(datagram, UDP, bytes(8), bytes(range(8))) == datagram


def test_changing_the_tos_keeps_the_header_checksum_right() -> None:
    changed = with_tos(udp_packet(tos=2), 3)
    assert changed[1] == 3
    assert ones_complement_sum(changed[:20]) == 0xFFFF


def test_the_answer_to_a_packet_that_does_not_fit_quotes_it() -> None:
    packet = udp_packet(data=bytes(100), flags=0x4000)
    answer = fragmentation_needed(packet, 1280)
    assert flow_of(answer) == Flow(B, A, ICMP, 0x0304, TYPED)
    assert ones_complement_sum(answer[20:]) == 0xFFFF
    assert answer[26:28] == (1280).to_bytes(2, "big")
    assert answer[28:] == packet[:28]
