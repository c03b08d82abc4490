"""IPv4 and IPv6 packets alike: what the packet path asks of either."""

from __future__ import annotations

import socket

from ikev2.ipsec import ipv4, ipv6
from ikev2.ipsec.ipv4 import Flow, MalformedPacket


def packed(address: str) -> bytes:
    """The octets of an address in text, its zone (`%eth0`) left away. ValueError when it is none."""
    host = address.partition("%")[0]
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        raise ValueError(f"{address!r} is no IP address") from None


def version(packet: bytes) -> int:
    """4 or 6; MalformedPacket for anything else."""
    found = packet[0] >> 4 if packet else 0
    if found not in (4, 6):
        raise MalformedPacket(f"{len(packet)} octets are no IP packet")
    return found


def checked(packet: bytes) -> bytes:
    """The packet without what follows it; MalformedPacket when it is none, or not whole."""
    if version(packet) == 6:
        return ipv6.checked(packet)
    ipv4.header_octets(packet)
    return packet[: ipv4.total_length(packet)]


def flow_of(packet: bytes) -> Flow:
    """The flow of a whole packet; MalformedPacket when there is none."""
    return ipv6.flow_of(packet) if version(packet) == 6 else ipv4.flow_of(packet)


def flow_in_error(packet: bytes) -> Flow | None:
    """The flow that an ICMP error is about, as its packet was sent; None when the (whole) packet is none.

    None, too, of one that does not go to who has sent that packet.
    """
    if version(packet) == 4:
        octets = ipv4.header_octets(packet)
        if packet[9] != socket.IPPROTO_ICMP or ipv4.is_fragment(packet):
            return None
        found = ipv4.flow_in_error(packet[octets:])
    else:
        chain = ipv6.chain_of(ipv6.checked(packet))
        if chain.upper != ipv6.ICMPV6 or chain.fragment_at:
            return None
        found = ipv6.flow_in_error(packet[chain.offset :])
    if found is None or found.source != int.from_bytes(destination(packet), "big"):
        return None
    return found


def is_icmp_error(packet: bytes) -> bool:
    """Whether a whole packet is an ICMP message about another one, whatever it quotes. Raises MalformedPacket."""
    flow = flow_of(packet)
    protocol, errors = (
        (socket.IPPROTO_ICMP, ipv4.ICMP_ERRORS) if flow.version == 4 else (ipv6.ICMPV6, ipv6.ICMP_ERRORS)
    )
    return flow.ip_protocol == protocol and flow.source_port >> 8 in errors


def is_fragment(packet: bytes) -> bool:
    """True for any fragment, the first included. The packet is `checked`."""
    if packet[0] >> 4 == 4:
        return ipv4.is_fragment(packet)
    return ipv6.has_extensions(packet) and bool(ipv6.chain_of(packet).fragment_at)


def tos(packet: bytes) -> int:
    """DS field and ECN: Type of Service, or Traffic Class."""
    return packet[1] if packet[0] >> 4 == 4 else ipv6.traffic_class(packet)


def with_tos(packet: bytes, value: int) -> bytes:
    """The same packet with another DS field and ECN."""
    return ipv4.with_tos(packet, value) if packet[0] >> 4 == 4 else ipv6.with_traffic_class(packet, value)


def must_not_be_cut(packet: bytes) -> bool:
    """Whether no router may fragment the packet: Don't Fragment, and every IPv6 packet."""
    return packet[0] >> 4 == 6 or bool(packet[6] << 8 & ipv4.FLAG_DF)


def destination(packet: bytes) -> bytes:
    """The destination address of a checked packet."""
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def ends(packet: bytes) -> bytes:
    """Source and destination address of a checked packet."""
    return packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
