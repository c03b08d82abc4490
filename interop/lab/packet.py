"""What the impairments need to know of the packets that they meet: which ones are meant, and where a bit may flip."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Self

from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.ipv4 import MalformedPacket, header_octets, readdressed

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "esp": 50, "ah": 51, "icmpv6": 58}
_HEADER_OCTETS = {socket.IPPROTO_TCP: 20, socket.IPPROTO_UDP: 8}


@dataclass(frozen=True, slots=True)
class Selection:
    """IP packets of one protocol and, where given, with a port at either end."""

    protocol: int
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `udp`, `esp`, `50`, `tcp:862`. ValueError with a sentence for anything else."""
        name, colon, port = text.partition(":")
        protocol = PROTOCOLS.get(name.lower(), int(name) if name.isdecimal() else -1)
        if not 0 <= protocol <= 255:
            raise ValueError(f"only={text}: no protocol, such as {', '.join(PROTOCOLS)} or a number up to 255")
        if not colon:
            return cls(protocol)
        if protocol not in _HEADER_OCTETS or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"only={text}: a port is one of udp or tcp, as in udp:4500")
        return cls(protocol, int(port))

    def takes(self, packet: bytes) -> bool:
        """Whether a whole IP packet is meant; a later fragment shows no port, and is not when one is asked for."""
        try:
            flow = ip.flow_of(packet)
        except MalformedPacket:
            return False
        if flow.ip_protocol != self.protocol:
            return False
        return self.port is None or self.port in (flow.source_port, flow.destination_port)


def flip_bit(datagram: bytes, place: float, *, whole: bool, repair: bool = False) -> bytes:
    """The datagram with one bit turned, which `place` (0 to 1) chooses.

    In a `whole` IP packet it lies behind the IP header, so that the packet still arrives; with `repair` behind the
    header of TCP or UDP, too, whose checksum then fits, so that the program gets it.
    """
    first, protocol, upper = 0, 0, 0
    if whole:
        first = upper = _upper_layer(datagram)
        protocol = datagram[9] if datagram[0] >> 4 == 4 else datagram[6]
        if repair and not ip.is_fragment(datagram):
            first += _HEADER_OCTETS.get(protocol, 0)
    if first >= len(datagram):
        return datagram
    bit = 8 * first + int(place * 8 * (len(datagram) - first))
    changed = bytearray(datagram)
    changed[bit // 8] ^= 1 << bit % 8
    if not (whole and repair) or ip.is_fragment(datagram):
        return bytes(changed)
    word = (bit // 8 - upper) // 2 * 2 + upper
    before, after = datagram[word : word + 2].ljust(2, b"\0"), bytes(changed[word : word + 2]).ljust(2, b"\0")
    return bytes(changed[:upper]) + readdressed(bytes(changed[upper:]), protocol, before, after)


def _upper_layer(packet: bytes) -> int:
    """Where the IP header ends; the whole length of what is no IP packet."""
    try:
        return header_octets(packet) if ip.version(packet) == 4 else ipv6.HEADER_OCTETS
    except MalformedPacket:
        return len(packet)
