"""As much of IPv4 as ESP needs: headers, checksums, and what a selector looks at.

RFC 791, RFC 768, RFC 1624.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

HEADER_OCTETS = 20
FLAG_DF = 0x4000
NO_ADDRESS = bytes(4)
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_OFFSET = 0x1FFF
_FRAGMENT_BITS = _FRAGMENT >> 8
_PLAIN_FIRST = 0x45
_PLAIN_OCTETS = HEADER_OCTETS + 4

_HEADER = struct.Struct("!BBHHHBBH4s4s")
_U16 = struct.Struct("!H")

_DCCP, _MOBILITY, _UDPLITE = 33, 135, 136
_PORTS = frozenset((socket.IPPROTO_TCP, socket.IPPROTO_UDP, _DCCP, socket.IPPROTO_SCTP, _UDPLITE))
"""The protocols whose header begins with two ports."""
_CHECKSUM_AT = {
    socket.IPPROTO_TCP: 16,
    socket.IPPROTO_UDP: 6,
    _DCCP: 6,
    _UDPLITE: 6,
    socket.IPPROTO_ICMPV6: 2,
    _MOBILITY: 4,
}
"""Where the checksum is of protocols that have addresses in it. RFC 9293, 768, 4340 section 9.1, 3828, 4443, 6275."""

_ICMP = frozenset((socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6))

NO_PORT = -1
"""The port of a packet that shows none: "OPAQUE" of RFC 4301 section 4.4.1.1."""
TYPED = -2
"""In the place of the receiver's port where there is one type of message, which the sender's selector is asked for."""


class MalformedPacket(ValueError):
    """Octets that are no IPv4 packet."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What selectors match of one packet, seen from its sender; addresses as integers.

    ICMP's type and code stand for the sender's port, as type times 256 plus code, and so does the type of a Mobility
    Header, times 256; the receiver's is TYPED then: what a side's selector says is what it may send.
    RFC 4301 sections 4.4.1.1 and 4.4.1.3.
    """

    source: int
    destination: int
    ip_protocol: int
    source_port: int
    destination_port: int
    version: int = 4


def header_octets(packet: bytes | memoryview) -> int:
    """The length of the header of a whole packet; MalformedPacket when it, or the total length, is wrong."""
    if len(packet) < HEADER_OCTETS:
        raise MalformedPacket(f"{len(packet)} octets are shorter than an IPv4 header")
    first = packet[0]
    octets = (first & 0x0F) * 4
    if first >> 4 != 4 or octets < HEADER_OCTETS:
        raise MalformedPacket(f"version and header length {first:#04x}")
    total = packet[2] << 8 | packet[3]
    if not octets <= total <= len(packet):
        raise MalformedPacket(f"a total length of {total} in {len(packet)} octets with a header of {octets}")
    return octets


def total_length(packet: bytes | memoryview) -> int:
    """The Total Length field."""
    return packet[2] << 8 | packet[3]


def is_fragment(packet: bytes | memoryview) -> bool:
    """True for any fragment, the first included."""
    return bool((packet[6] << 8 | packet[7]) & _FRAGMENT)


def fragment_offset(packet: bytes | memoryview) -> int:
    """Where the payload of a fragment lies in its datagram, in octets; 0 in the first one, and in what is none."""
    return ((packet[6] << 8 | packet[7]) & _OFFSET) * 8


def is_plain(packet: bytes | memoryview) -> bool:
    """Whether an IPv4 packet is a whole datagram of the length that it says, in a header without options, with ports.

    Octets 9 and 12 to 24 then say everything that selectors look at.
    """
    return (
        len(packet) >= _PLAIN_OCTETS
        and packet[0] == _PLAIN_FIRST
        and packet[2] << 8 | packet[3] == len(packet)
        and not packet[6] & _FRAGMENT_BITS
        and not packet[7]
    )


def flow_of(packet: bytes | memoryview) -> Flow:
    """The flow of a whole IPv4 packet; MalformedPacket when there is none."""
    octets = header_octets(packet)
    offset = (packet[6] << 8 | packet[7]) & _OFFSET
    payload = b"" if offset else bytes(packet[octets : octets + 4])
    return flow(bytes(packet[12:16]), bytes(packet[16:20]), packet[9], payload)


def flow(source: bytes, destination: bytes, ip_protocol: int, payload: bytes) -> Flow:
    """The flow of a payload (its first four octets are enough) between two addresses; no ports if it is shorter."""
    source_port = destination_port = NO_PORT
    if ip_protocol in _PORTS:
        if len(payload) >= 4:
            source_port, destination_port = struct.unpack_from("!HH", payload)
    elif ip_protocol in _ICMP and len(payload) >= 2:
        source_port, destination_port = _U16.unpack_from(payload)[0], TYPED
    elif ip_protocol == _MOBILITY and len(payload) >= 3:
        source_port, destination_port = payload[2] << 8, TYPED
    return Flow(
        int.from_bytes(source, "big"),
        int.from_bytes(destination, "big"),
        ip_protocol,
        source_port,
        destination_port,
        4 if len(source) == 4 else 6,
    )


ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
"""ICMP messages about a packet: unreachable, source quench, redirect, time exceeded, parameter problem. RFC 792."""
ICMP_HEADER_OCTETS = 8


def flow_in_error(message: bytes | memoryview) -> Flow | None:
    """The flow of the packet that an ICMP message is about, as that was sent; None of a message about none.

    What is quoted may end anywhere behind the header: without ports it has none. RFC 4301 section 6.2.
    """
    quoted = bytes(message[ICMP_HEADER_OCTETS:])
    if not message or message[0] not in ICMP_ERRORS or len(quoted) < HEADER_OCTETS or quoted[0] >> 4 != 4:
        return None
    octets = (quoted[0] & 0x0F) * 4
    if not HEADER_OCTETS <= octets <= len(quoted):
        return None
    payload = b"" if fragment_offset(quoted) else quoted[octets : octets + 4]
    return flow(quoted[12:16], quoted[16:20], quoted[9], payload)


def ones_complement_sum(octets: bytes | bytearray | memoryview) -> int:
    """The 16-bit one's complement sum, an odd octet padded with zero. RFC 1071."""
    if len(octets) & 1:
        octets = bytes(octets) + b"\0"
    # 2**16 is 1 modulo 2**16 - 1, so the whole as one number has the remainder of the sum of its words.
    total = int.from_bytes(octets, "big")
    return total % 0xFFFF or (0xFFFF if total else 0)


def build_header(
    source: bytes,
    destination: bytes,
    ip_protocol: int,
    payload_octets: int,
    *,
    tos: int = 0,
    ttl: int = 64,
    identification: int = 0,
    flags: int = 0,
) -> bytes:
    """A header of 20 octets with its checksum."""
    head = _HEADER.pack(
        0x45,
        tos,
        HEADER_OCTETS + payload_octets,
        identification,
        flags,
        ttl,
        ip_protocol,
        0,
        source,
        destination,
    )
    checksum = 0xFFFF ^ ones_complement_sum(head)
    return head[:10] + _U16.pack(checksum) + head[12:]


def with_protocol_and_length(header: bytes, ip_protocol: int, payload_octets: int) -> bytes:
    """The same header (options and all) in front of another payload: protocol, total length, checksum."""
    head = bytearray(header)
    head[9] = ip_protocol
    _U16.pack_into(head, 2, len(head) + payload_octets)
    head[10:12] = b"\0\0"
    _U16.pack_into(head, 10, 0xFFFF ^ ones_complement_sum(head))
    return bytes(head)


def with_tos(packet: bytes, tos: int) -> bytes:
    """The same packet with another DS and ECN octet, the header checksum made new."""
    octets = (packet[0] & 0x0F) * 4
    head = bytearray(packet[:octets])
    head[1] = tos
    head[10:12] = b"\0\0"
    _U16.pack_into(head, 10, 0xFFFF ^ ones_complement_sum(head))
    return bytes(head) + packet[octets:]


def readdressed(payload: bytes, ip_protocol: int, old: bytes, new: bytes) -> bytes:
    """A payload of TCP, UDP or the like whose pseudo-header addresses (source and destination) become others.

    For transport mode through a NAT: the checksum was made over the addresses before translation. A UDP checksum
    of zero stays zero. RFC 3948 section 3.1.2, RFC 1624.
    """
    at = _CHECKSUM_AT.get(ip_protocol)
    if at is None or len(payload) < at + 2 or old == new:
        return payload
    checksum = _U16.unpack_from(payload, at)[0]
    if checksum == 0 and ip_protocol == socket.IPPROTO_UDP:
        return payload
    total = (0xFFFF ^ checksum) + (0xFFFF ^ ones_complement_sum(old)) + ones_complement_sum(new)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    fresh = 0xFFFF ^ total
    if fresh == 0 and ip_protocol in (socket.IPPROTO_UDP, _UDPLITE):
        fresh = 0xFFFF
    return payload[:at] + _U16.pack(fresh) + payload[at + 2 :]


_ICMP_UNREACHABLE = struct.Struct("!BBHHH")
_ICMP_QUOTED_OCTETS = 8


def fragmentation_needed(packet: bytes, mtu: int) -> bytes:
    """What a router answers to `packet` that does not fit: an ICMP Destination Unreachable, code 4.

    It comes from the packet's own destination, the only address that is surely routed here. RFC 1191 section 4.
    """
    octets = (packet[0] & 0x0F) * 4
    quoted = packet[: octets + _ICMP_QUOTED_OCTETS]
    checksum = 0xFFFF ^ ones_complement_sum(_ICMP_UNREACHABLE.pack(3, 4, 0, 0, mtu) + quoted)
    message = _ICMP_UNREACHABLE.pack(3, 4, checksum, 0, mtu) + quoted
    return build_header(packet[16:20], packet[12:16], socket.IPPROTO_ICMP, len(message)) + message
