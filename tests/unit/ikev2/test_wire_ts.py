"""Traffic Selector payloads. RFC 7296 section 3.13."""

from __future__ import annotations

import ipaddress

import pytest

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import PayloadType, TsType
from ikev2.wire.message import encode_payload, parse_payloads
from ikev2.wire.payloads import TrafficSelector, TsI, TsR

# The example of section 3.13: TSi = ((17, 100, 198.51.100.66-198.51.100.66), (17, 200, 198.51.100.66-198.51.100.66))
RFC_TSI = TsI(
    (
        TrafficSelector.from_network("198.51.100.66/32", 17, 100, 100),
        TrafficSelector.from_network("198.51.100.66/32", 17, 200, 200),
    )
)
RFC_TSI_OCTETS = bytes.fromhex(
    "00 00 0028  02 000000"  # figure 19: Number of TSs, RESERVED
    "07 11 0010  0064 0064  c6336442 c6336442"  # figure 20: type, protocol, length, ports, addresses
    "07 11 0010  00c8 00c8  c6336442 c6336442"
)
# The IPv6 example of section 3.15.3: (0, 0-65535, :: - FFFF:...)
RFC_TSR = TsR((TrafficSelector.from_network("::/0"),))
RFC_TSR_OCTETS = bytes.fromhex("00 00 0030  01 000000  08 00 0028  0000 ffff" + "00" * 16 + "ff" * 16)


def ts_octets(count: int, *selectors: str) -> bytes:
    body = bytes([count, 0, 0, 0]) + bytes.fromhex("".join(selectors))
    return b"\x00\x00" + (4 + len(body)).to_bytes(2, "big") + body


def selector(
    start: str, end: str, protocol: int = 0, start_port: int = 0, end_port: int = 65535
) -> TrafficSelector:
    first, last = ipaddress.ip_address(start), ipaddress.ip_address(end)
    ts_type = TsType.TS_IPV4_ADDR_RANGE if first.version == 4 else TsType.TS_IPV6_ADDR_RANGE
    return TrafficSelector(ts_type, protocol, start_port, end_port, first.packed, last.packed)


V4 = "07 00 0010 0000 ffff c0000201 c0000201"


@pytest.mark.req("rfc7296-s3.13-01")
@pytest.mark.parametrize(("payload", "octets"), [(RFC_TSI, RFC_TSI_OCTETS), (RFC_TSR, RFC_TSR_OCTETS)])
def test_the_examples_of_the_rfc_are_written_and_read(payload: TsI | TsR, octets: bytes) -> None:
    assert encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD) == octets
    assert parse_payloads(payload.payload_type, octets) == (payload,)


@pytest.mark.req("rfc7296-s3.13-02")
def test_reserved_octets_are_ignored() -> None:
    octets = RFC_TSI_OCTETS[:5] + b"\xff\xff\xff" + RFC_TSI_OCTETS[8:]
    assert parse_payloads(PayloadType.TSi, octets) == (RFC_TSI,)


@pytest.mark.req("rfc7296-s3.13.1-01", "rfc7296-s3.13.1-02", "rfc7296-s3.13.1-03")
def test_any_port_is_0_to_65535_and_nothing_else_is_made_for_any_protocol() -> None:
    everything = TrafficSelector.from_network("192.0.2.0/24")
    assert (everything.start_port, everything.end_port, everything.any_port) == (0, 65535, True)
    for ports in ((0, 0), (1, 65535), (0, 65534), (500, 500), (65535, 0)):
        with pytest.raises(LocalProtocolError):
            TrafficSelector.from_network("192.0.2.0/24", 0, *ports)
    with pytest.raises(LocalProtocolError):
        TrafficSelector.from_network("192.0.2.0/24", 6, 2, 1)


def test_ports_for_any_protocol_are_read_and_answered_in_kind() -> None:
    (payload,) = parse_payloads(PayloadType.TSi, ts_octets(1, "07 00 0010 01f4 01f4 c0000201 c0000201"))
    assert isinstance(payload, TsI)
    assert payload.selectors[0].start_port == 500
    assert encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)[4:] == payload.body()


@pytest.mark.req("rfc7296-s3.13.1-04")
def test_opaque_ports_run_from_65535_to_0() -> None:
    opaque = selector("192.0.2.1", "192.0.2.1", 6, 65535, 0)
    assert opaque.is_opaque
    assert not opaque.any_port
    octets = encode_payload(TsR((opaque,)), PayloadType.NO_NEXT_PAYLOAD)
    assert octets[12:16] == b"\xff\xff\x00\x00"
    assert parse_payloads(PayloadType.TSr, octets) == (TsR((opaque,)),)


REFUSED = {
    "no selector": ts_octets(0),
    "count too small": ts_octets(1, V4, V4),
    "count too large": ts_octets(2, V4),
    "no reserved octets": b"\x00\x00\x00\x06\x01\x00",
    "a selector of three octets": ts_octets(1, "070000"),
    "a selector length below its header": ts_octets(1, "07000003"),
    "an ipv4 selector a little short": ts_octets(1, "07 00 000f 0000 ffff c0000201 c00002"),
    "an ipv4 selector a little long": ts_octets(1, "07 00 0011 0000 ffff c0000201 c0000201 00"),
    "an ipv6 selector of ipv4 size": ts_octets(1, "08 00 0010 0000 ffff c0000201 c0000201"),
    "an ipv4 selector of ipv6 size": ts_octets(1, "07 00 0028 0000 ffff" + "00" * 32),
    "addresses that run backwards": ts_octets(1, "07 00 0010 0000 ffff c0000202 c0000201"),
    "ports that run backwards": ts_octets(1, "07 11 0010 0002 0001 c0000201 c0000201"),
    "an unknown type beyond the end": ts_octets(1, "09 00 0009 00000000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_selector_is_invalid_syntax(name: str) -> None:
    with pytest.raises(InvalidSyntax) as caught:
        parse_payloads(PayloadType.TSr, REFUSED[name])
    assert caught.value.payload == PayloadType.TSr


def test_selectors_of_unknown_types_are_kept_as_octets_among_the_others() -> None:
    octets = ts_octets(3, "0a 5a 0006 0102", V4, "63 00 0004")
    (payload,) = parse_payloads(PayloadType.TSi, octets)
    assert isinstance(payload, TsI)
    label, network, empty = payload.selectors
    assert (label.ts_type, label.ip_protocol, label.start_address) == (10, 0x5A, b"\x01\x02")
    assert not label.is_address_range
    assert network == TrafficSelector.from_network("192.0.2.1/32")
    assert empty.start_address == b""
    assert encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD) == octets


def test_from_network_takes_text_and_networks_of_both_versions() -> None:
    four = TrafficSelector.from_network(ipaddress.ip_network("192.0.2.0/30"), 6, 22, 23)
    assert (four.start_ip, four.end_ip) == (
        ipaddress.ip_address("192.0.2.0"),
        ipaddress.ip_address("192.0.2.3"),
    )
    assert (four.ip_protocol, four.start_port, four.end_port) == (6, 22, 23)
    six = TrafficSelector.from_network("2001:db8::/64")
    assert six.ts_type == TsType.TS_IPV6_ADDR_RANGE
    assert str(six.end_ip) == "2001:db8::ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (selector("192.0.2.1", "192.0.2.1", 17, 500, 500), "192.0.2.1/32[udp/500]"),
        (selector("192.0.2.0", "192.0.2.255"), "192.0.2.0/24"),
        (selector("0.0.0.0", "255.255.255.255"), "0.0.0.0/0"),
        (selector("192.0.2.1", "192.0.2.9"), "192.0.2.1..192.0.2.9"),
        (selector("192.0.2.1", "192.0.2.2", 6), "192.0.2.1..192.0.2.2[tcp]"),
        (selector("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"), "2001:db8::/64"),
        (selector("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::/0"),
        (selector("192.0.2.1", "192.0.2.1", 6, 1, 1023), "192.0.2.1/32[tcp/1-1023]"),
        (selector("192.0.2.1", "192.0.2.1", 6, 65535, 0), "192.0.2.1/32[tcp/OPAQUE]"),
        (selector("192.0.2.1", "192.0.2.1", 1, 0x0800, 0x0800), "192.0.2.1/32[icmp/8]"),
        (selector("192.0.2.1", "192.0.2.1", 1, 0x0301, 0x0301), "192.0.2.1/32[icmp/3(1)]"),
        (selector("192.0.2.1", "192.0.2.1", 1, 0x0300, 0x03FF), "192.0.2.1/32[icmp/3]"),
        (selector("192.0.2.1", "192.0.2.1", 1, 0x0300, 0x0402), "192.0.2.1/32[icmp/3-4(2)]"),
        (selector("192.0.2.1", "192.0.2.1", 253), "192.0.2.1/32[253]"),
        (TrafficSelector(TsType.TS_SECLABEL, 0, 0, 0, b"\x01", b""), "TS_SECLABEL(0001)"),
    ],
)
def test_text_is_strongswans(value: TrafficSelector, text: str) -> None:
    assert str(value) == text


def test_text_of_a_selector_whose_addresses_are_no_addresses_does_not_raise() -> None:
    assert "0102" in str(TrafficSelector(TsType.TS_IPV4_ADDR_RANGE, 0, 0, 65535, b"\x01\x02", b"\x03"))


def test_up_to_255_selectors_fit() -> None:
    one = TrafficSelector.from_network("192.0.2.1/32")
    octets = encode_payload(TsI((one,) * 255), PayloadType.NO_NEXT_PAYLOAD)
    assert parse_payloads(PayloadType.TSi, octets) == (TsI((one,) * 255),)
    with pytest.raises(LocalProtocolError):
        encode_payload(TsI((one,) * 256), PayloadType.NO_NEXT_PAYLOAD)
