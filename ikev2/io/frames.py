"""IPv4, IPv6 and UDP headers around a datagram, with right checksums, for captures; and the way back.

RFC 791, RFC 8200, RFC 768, RFC 1071.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

IPPROTO_UDP = 17
IPPROTO_ESP = 50
IPPROTO_FRAGMENT = 44
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_UDP_HEADER = struct.Struct("!HHHH")
_EXTENSION_HEADERS = frozenset((0, 43, 60))
HOP_LIMIT = 64


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A UDP datagram found in a captured packet."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes


def checksum(octets: bytes) -> int:
    """The Internet checksum: 16 bits, ones' complement. RFC 1071 section 1."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_packet(
    source: str, source_port: int, destination: str, destination_port: int, payload: bytes, identification: int = 0
) -> bytes:
    """The IP packet of a UDP datagram. Raises ValueError when the payload does not fit into one packet."""
    source_address = ipaddress.ip_address(source)
    destination_address = ipaddress.ip_address(destination)
    length = _UDP_HEADER.size + len(payload)
    if length + (_IPV4_HEADER.size if source_address.version == 4 else 0) > 0xFFFF:
        raise ValueError("the datagram is larger than an IP packet")
    pseudo = source_address.packed + destination_address.packed + struct.pack("!II", length, IPPROTO_UDP)
    header = _UDP_HEADER.pack(source_port, destination_port, length, 0)
    # A sum of zero is sent as all ones: zero means "no checksum". RFC 768.
    udp_sum = checksum(pseudo + header + payload) or 0xFFFF
    datagram = _UDP_HEADER.pack(source_port, destination_port, length, udp_sum) + payload
    if source_address.version == 6:
        return (
            _IPV6_HEADER.pack(
                6 << 28, length, IPPROTO_UDP, HOP_LIMIT, source_address.packed, destination_address.packed
            )
            + datagram
        )
    fields = (0x45, 0, _IPV4_HEADER.size + length, identification & 0xFFFF, 0, HOP_LIMIT, IPPROTO_UDP)
    addresses = (source_address.packed, destination_address.packed)
    ip_sum = checksum(_IPV4_HEADER.pack(*fields, 0, *addresses))
    return _IPV4_HEADER.pack(*fields, ip_sum, *addresses) + datagram


def find_udp(packet: bytes) -> UdpDatagram | None:
    """The UDP datagram in an IP packet; None when there is none, or only a fragment of one."""
    if len(packet) < 1:
        return None
    version = packet[0] >> 4
    if version == 4:
        return _find_udp4(packet)
    return _find_udp6(packet) if version == 6 else None


def _find_udp4(packet: bytes) -> UdpDatagram | None:
    if len(packet) < _IPV4_HEADER.size:
        return None
    header_octets = (packet[0] & 0x0F) * 4
    total, fragment = struct.unpack_from("!H2xH", packet, 2)
    if header_octets < _IPV4_HEADER.size or packet[9] != IPPROTO_UDP or fragment & 0x3FFF:
        return None
    source = str(ipaddress.IPv4Address(packet[12:16]))
    destination = str(ipaddress.IPv4Address(packet[16:20]))
    return _udp(source, destination, packet[header_octets:total])


def _find_udp6(packet: bytes) -> UdpDatagram | None:
    if len(packet) < _IPV6_HEADER.size:
        return None
    length, next_header = struct.unpack_from("!HB", packet, 4)
    end = min(len(packet), _IPV6_HEADER.size + length)
    offset = _IPV6_HEADER.size
    while next_header in _EXTENSION_HEADERS and offset + 8 <= end:
        next_header, offset = packet[offset], offset + 8 * (packet[offset + 1] + 1)
    if next_header != IPPROTO_UDP or offset > end:
        return None
    source = str(ipaddress.IPv6Address(packet[8:24]))
    destination = str(ipaddress.IPv6Address(packet[24:40]))
    return _udp(source, destination, packet[offset:end])


def _udp(source: str, destination: str, octets: bytes) -> UdpDatagram | None:
    if len(octets) < _UDP_HEADER.size:
        return None
    source_port, destination_port, length, _sum = _UDP_HEADER.unpack_from(octets)
    if not _UDP_HEADER.size <= length <= len(octets):
        return None
    return UdpDatagram(source, source_port, destination, destination_port, octets[_UDP_HEADER.size : length])
