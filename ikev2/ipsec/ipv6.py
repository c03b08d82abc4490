"""As much of IPv6 as ESP needs: headers, the chain of extension headers, and what a selector looks at.

RFC 8200, RFC 4443.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ikev2.ipsec.ipv4 import Flow, MalformedPacket, flow, ones_complement_sum

HEADER_OCTETS = 40
LEAST_MTU = 1280
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT_HEADER, DESTINATION = 0, 43, 44, 59, 60
ICMPV6 = 58
_EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION))
_MOST_HEADERS = 16

_HEADER = struct.Struct("!IHBB16s16s")
_U16 = struct.Struct("!H")
_PSEUDO = struct.Struct("!16s16sII")
_ICMP = struct.Struct("!BBHI")
_PACKET_TOO_BIG = 2
ICMP_ERRORS = frozenset((1, 2, 3, 4))
"""Unreachable, packet too big, time exceeded, parameter problem. RFC 4443 section 2.1."""


class Chain(NamedTuple):
    """Where a packet's headers are. `upper` is the protocol that follows them, and begins at `offset`.

    `cut` is where ESP's or a fragment's own header goes: behind what routers look at; `cut_protocol` follows there,
    as the octet at `cut_name` says. `fragment_at` is the place of the Fragment header, 0 without one; then `upper` is
    what the whole datagram has, `fragment_name` the octet that names the header, and `first` whether it is the first.
    RFC 8200 section 4.
    """

    upper: int
    offset: int
    cut: int
    cut_protocol: int
    cut_name: int
    fragment_at: int
    fragment_name: int
    first: bool


def checked(packet: bytes) -> bytes:
    """The packet without what follows it; MalformedPacket when it is none, or not whole."""
    if len(packet) < HEADER_OCTETS or packet[0] >> 4 != 6:
        raise MalformedPacket(f"{len(packet)} octets are no IPv6 packet")
    octets = HEADER_OCTETS + _U16.unpack_from(packet, 4)[0]
    if octets > len(packet):
        raise MalformedPacket(f"a payload of {octets - HEADER_OCTETS} octets in a packet of {len(packet)}")
    return packet[:octets]


def has_extensions(packet: bytes) -> bool:
    """True when something stands between the header and the upper layer."""
    return packet[6] in _EXTENSIONS


def chain_of(packet: bytes) -> Chain:
    """The chain of headers of a whole packet; MalformedPacket when it does not end in it."""
    name_at, at = 6, HEADER_OCTETS
    cut_name, cut = 6, HEADER_OCTETS
    fragment_at, fragment_name, first = 0, 0, True
    for _ in range(_MOST_HEADERS):
        protocol = packet[name_at]
        if protocol not in _EXTENSIONS or not first:
            return Chain(protocol, at, cut, packet[cut_name], cut_name, fragment_at, fragment_name, first)
        if at + 8 > len(packet):
            raise MalformedPacket(f"extension header {protocol} goes beyond the packet")
        if protocol == FRAGMENT:
            fragment_at, fragment_name, length = at, name_at, 8
            first = not _U16.unpack_from(packet, at + 2)[0] & 0xFFF8
        else:
            length = 8 * (packet[at + 1] + 1)
        name_at, at = at, at + length
        if at > len(packet):
            raise MalformedPacket(f"extension header {protocol} goes beyond the packet")
        if protocol in (HOP_BY_HOP, ROUTING) and not fragment_at:
            cut_name, cut = name_at, at
    raise MalformedPacket(f"more than {_MOST_HEADERS} extension headers")


def flow_of(packet: bytes) -> Flow:
    """The flow of a whole packet, its ports behind all extension headers; MalformedPacket when there is none."""
    packet = checked(packet)
    chain = chain_of(packet)
    payload = packet[chain.offset : chain.offset + 4] if chain.first else b""
    return flow(packet[8:24], packet[24:40], chain.upper, payload)


def flow_in_error(message: bytes) -> Flow | None:
    """The flow of the packet that an ICMPv6 error is about, as that was sent; None of a message about none.

    What is quoted may end anywhere behind the header: without ports it has none. RFC 4301 section 6.2, RFC 4443.
    """
    quoted = message[_ICMP.size :]
    if not message or message[0] not in ICMP_ERRORS or len(quoted) < HEADER_OCTETS or quoted[0] >> 4 != 6:
        return None
    try:
        chain = chain_of(quoted)
    except MalformedPacket:
        return None
    payload = quoted[chain.offset : chain.offset + 4] if chain.first else b""
    return flow(quoted[8:24], quoted[24:40], chain.upper, payload)


def traffic_class(packet: bytes) -> int:
    """DS field and ECN."""
    return (packet[0] & 0x0F) << 4 | packet[1] >> 4


def with_traffic_class(packet: bytes, value: int) -> bytes:
    """The same packet with another DS field and ECN."""
    return bytes((0x60 | value >> 4, (value & 0x0F) << 4 | packet[1] & 0x0F)) + packet[2:]


def build_header(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload_octets: int,
    *,
    tos: int = 0,
    hop_limit: int = 64,
) -> bytes:
    """A header of 40 octets; `tos` is its traffic class."""
    return _HEADER.pack(6 << 28 | tos << 20, payload_octets, next_header, hop_limit, source, destination)


def with_payload(headers: bytes, name_at: int, next_header: int, payload_octets: int) -> bytes:
    """Header and extension headers in front of another payload; `name_at` is where they name it."""
    head = bytearray(headers)
    head[name_at] = next_header
    return with_payload_octets(bytes(head), payload_octets)


def with_payload_octets(headers: bytes, payload_octets: int) -> bytes:
    """Header and extension headers in front of a payload of another length."""
    return headers[:4] + _U16.pack(len(headers) - HEADER_OCTETS + payload_octets) + headers[6:]


def upper_checksum(source: bytes, destination: bytes, protocol: int, payload: bytes) -> int:
    """The checksum of an upper layer whose own field is zero; never zero itself. RFC 8200 section 8.1."""
    pseudo = _PSEUDO.pack(source, destination, len(payload), protocol)
    return (0xFFFF ^ ones_complement_sum(pseudo + payload)) or 0xFFFF


def packet_too_big(packet: bytes, mtu: int) -> bytes:
    """What a router answers to `packet` that does not fit; it comes from the packet's own destination.

    RFC 4443 section 3.2.
    """
    quoted = packet[: LEAST_MTU - HEADER_OCTETS - _ICMP.size]
    source, destination = packet[24:40], packet[8:24]
    body = _ICMP.pack(_PACKET_TOO_BIG, 0, 0, max(mtu, LEAST_MTU)) + quoted
    checksum = upper_checksum(source, destination, ICMPV6, body)
    body = body[:2] + _U16.pack(checksum) + body[4:]
    return build_header(source, destination, ICMPV6, len(body)) + body


def fragments(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """A packet cut to pieces of at most `mtu` octets. MalformedPacket when not even eight fit behind the headers.

    RFC 8200 section 4.5.
    """
    chain = chain_of(packet)
    headers, payload = packet[: chain.cut], packet[chain.cut :]
    room = (mtu - chain.cut - 8) // 8 * 8
    if room <= 0:
        raise MalformedPacket(f"headers of {chain.cut} octets in an MTU of {mtu}")
    pieces = []
    for at in range(0, len(payload), room):
        piece = payload[at : at + room]
        place = at | (at + room < len(payload))
        header = struct.pack("!BBHI", chain.cut_protocol, 0, place, identification)
        pieces.append(with_payload(headers, chain.cut_name, FRAGMENT, 8 + len(piece)) + header + piece)
    return pieces
