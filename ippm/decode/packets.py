"""TCP segments and UDP datagrams in IP packets, and IP fragments put together again.

RFC 791 sections 3.1 and 3.2, RFC 8200 sections 3 and 4.5, RFC 9293 section 3.1, RFC 768.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from ippm.core.control_events import Endpoint
from ippm.io.keylog import canonical

TCP, UDP = 6, 17
_address = lru_cache(4096)(canonical)
"""A capture has the same few addresses again and again."""

_FRAGMENT = 44
_EXTENSION_HEADERS = frozenset((0, 43, 60, 135))
_SYN, _FIN, _RST, _ACK = 0x02, 0x01, 0x04, 0x10
_MAXIMUM_FRAGMENTED = 256
"""Packets that are waited for at once; the oldest goes when there are more."""


@dataclass(frozen=True, slots=True)
class TcpSegment:
    """A TCP segment as far as it was captured."""

    source: Endpoint
    destination: Endpoint
    sequence: int
    flags: int
    data: bytes

    @property
    def is_syn(self) -> bool:
        """The first segment of its direction."""
        return bool(self.flags & _SYN)

    @property
    def opens(self) -> bool:
        """The first segment of its connection."""
        return self.flags & (_SYN | _ACK) == _SYN


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A UDP datagram. `octets` is its length; `data` is shorter when less was captured."""

    source: Endpoint
    destination: Endpoint
    octets: int
    data: bytes
    ttl: int
    dscp_ecn: int


@dataclass(frozen=True, slots=True)
class _IpPacket:
    protocol: int
    source: str
    destination: str
    ttl: int
    dscp_ecn: int
    octets: int
    """The octets of `data` that the header says there are."""
    data: bytes
    identification: tuple[str, str, int, int] | None = None
    fragment_at: int = 0
    more: bool = False


class Dissector:
    """From IP packets to segments and datagrams; remembers fragments until their packet is complete."""

    def __init__(self) -> None:
        self._fragmented: dict[tuple[str, str, int, int], _Pieces] = {}

    def feed(self, packet: bytes) -> TcpSegment | UdpDatagram | None:
        """What a packet carries, or completes; None when it carries something else, or makes no sense."""
        version = packet[0] >> 4 if packet else 0
        found = _ipv4(packet) if version == 4 else _ipv6(packet) if version == 6 else None
        if found is not None and found.identification is not None:
            found = self._put_together(found, found.identification)
        if found is None:
            return None
        return _tcp(found) if found.protocol == TCP else _udp(found) if found.protocol == UDP else None

    def _put_together(self, fragment: _IpPacket, identification: tuple[str, str, int, int]) -> _IpPacket | None:
        pieces = self._fragmented.pop(identification, None) or _Pieces()
        whole = pieces.add(fragment)
        if whole is None:
            self._fragmented[identification] = pieces
            while len(self._fragmented) > _MAXIMUM_FRAGMENTED:
                del self._fragmented[next(iter(self._fragmented))]
        return whole


class _Pieces:
    """The fragments of one packet; a part that comes twice is taken once."""

    def __init__(self) -> None:
        self._parts: dict[int, _IpPacket] = {}
        self._octets = 0
        self._end: int | None = None

    def add(self, fragment: _IpPacket) -> _IpPacket | None:
        """The whole packet, when this was the last part that was missing."""
        if fragment.fragment_at not in self._parts:
            self._parts[fragment.fragment_at] = fragment
            self._octets += len(fragment.data)
        if not fragment.more:
            self._end = fragment.fragment_at + len(fragment.data)
        if self._end is None or self._octets < self._end:
            return None
        data = bytearray()
        for at in sorted(self._parts):
            if at > len(data):
                return None
            data[at:] = self._parts[at].data
        first = self._parts[0]
        whole = bytes(data[: self._end])
        return _IpPacket(
            first.protocol, first.source, first.destination, first.ttl, first.dscp_ecn, self._end, whole
        )


@lru_cache(4096)
def _ipv4_text(octets: bytes) -> str:
    return str(IPv4Address(octets))


@lru_cache(4096)
def _ipv6_text(octets: bytes) -> str:
    return str(IPv6Address(octets))


def _ipv4(packet: bytes) -> _IpPacket | None:
    if len(packet) < 20:
        return None
    header_octets = (packet[0] & 0x0F) * 4
    total, identification, fragment = struct.unpack_from("!HHH", packet, 2)
    if total == 0:  # segmentation by the network card: the length is that of what was captured
        total = len(packet)
    if not 20 <= header_octets <= total:
        return None
    source, destination = _ipv4_text(packet[12:16]), _ipv4_text(packet[16:20])
    at, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    named = (source, destination, identification, packet[9]) if at or more else None
    data = packet[header_octets:total]
    return _IpPacket(
        packet[9], source, destination, packet[8], packet[1], total - header_octets, data, named, at, more
    )


def _ipv6(packet: bytes) -> _IpPacket | None:
    if len(packet) < 40:
        return None
    first, length, header, hop_limit = struct.unpack_from("!IHBB", packet)
    end = 40 + length if length else len(packet)
    source, destination = _ipv6_text(packet[8:24]), _ipv6_text(packet[24:40])
    offset, at, more, named = 40, 0, False, None
    while header in _EXTENSION_HEADERS or header == _FRAGMENT:
        if offset + 8 > min(end, len(packet)):
            return None
        if header == _FRAGMENT:
            field, identification = struct.unpack_from("!HI", packet, offset + 2)
            at, more = field & 0xFFF8, bool(field & 1)
            # An atomic fragment is a whole packet. RFC 8200 section 4.5.
            named = (source, destination, identification, packet[offset]) if at or more else None
        octets = 8 if header == _FRAGMENT else 8 * (packet[offset + 1] + 1)
        header, offset = packet[offset], offset + octets
        if at:
            break  # what follows is the middle of the packet
    if offset > end:
        return None
    traffic_class = (first >> 20) & 0xFF
    data = packet[offset:end]
    return _IpPacket(header, source, destination, hop_limit, traffic_class, end - offset, data, named, at, more)


def _tcp(packet: _IpPacket) -> TcpSegment | None:
    data = packet.data
    if len(data) < 20:
        return None
    source, destination, sequence, _ack, offset, flags = struct.unpack_from("!HHIIBB", data)
    octets = (offset >> 4) * 4
    if not 20 <= octets <= len(data):
        return None
    ends = Endpoint(_address(packet.source), source), Endpoint(_address(packet.destination), destination)
    return TcpSegment(*ends, sequence, flags, data[octets:])


def _udp(packet: _IpPacket) -> UdpDatagram | None:
    data = packet.data
    if len(data) < 8:
        return None
    source, destination, length, _checksum = struct.unpack_from("!HHHH", data)
    if length == 0:  # a jumbogram, or segmentation by the network card
        length = packet.octets
    if not 8 <= length <= packet.octets:
        return None
    ends = Endpoint(_address(packet.source), source), Endpoint(_address(packet.destination), destination)
    return UdpDatagram(*ends, length - 8, data[8:length], packet.ttl, packet.dscp_ecn)
