"""The IP packet that carries an ESP packet: raw, or in UDP; in a header of its own, or in that of the packet protected.

RFC 4303 section 3.1, RFC 3948 section 3, RFC 4301 section 5.1.2.
"""

from __future__ import annotations

import socket
import struct

from ikev2.ipsec import ip, ipv4, ipv6
from ikev2.ipsec.pair import Pair

TTL = 64
UDP_HEADER = struct.Struct("!HHHH")


def outer_packet(pair: Pair, esp: bytes, inner: bytes) -> bytes:
    """The whole packet that carries `esp`: made of the inner packet's header as the mode says.

    Tunnel mode copies DS, ECN and, to IPv4, DF from inside, where the pair has nothing else for them, and sets a TTL of
    its own; transport mode keeps header and extension headers.
    RFC 4301 sections 5.1.2.1 and 5.1.2.2, RFC 6040 section 4.1.
    """
    protocol, payload = socket.IPPROTO_ESP, esp
    if pair.child.encap is not None:
        protocol, payload = socket.IPPROTO_UDP, udp(pair, esp)
    if not pair.tunnel:
        if len(pair.remote) == 16:
            chain = ipv6.chain_of(inner)
            return ipv6.with_payload(inner[: chain.cut], chain.cut_name, protocol, len(payload)) + payload
        header = inner[: (inner[0] & 0x0F) * 4]
        return ipv4.with_protocol_and_length(header, protocol, len(payload)) + payload
    tos = pair.outer_tos(ip.tos(inner))
    if len(pair.remote) == 16:
        return ipv6.build_header(pair.local, pair.remote, protocol, len(payload), tos=tos, hop_limit=TTL) + payload
    flags = ipv4.FLAG_DF if pair.outer_df(inner=pair.keeps_whole(inner)) else 0
    header = ipv4.build_header(pair.local, pair.remote, protocol, len(payload), tos=tos, ttl=TTL, flags=flags)
    return header + payload


def udp(pair: Pair, esp: bytes) -> bytes:
    """ESP in UDP: without a checksum over IPv4, because the ICV says more; over IPv6 there must be one.

    RFC 3948 section 2.1, RFC 8200 section 8.1.
    """
    encap = pair.child.encap
    assert encap is not None  # noqa: S101 - decided by the caller
    octets = UDP_HEADER.size + len(esp)
    datagram = UDP_HEADER.pack(encap.local_port, encap.remote_port, octets, 0) + esp
    if len(pair.remote) == 4:
        return datagram
    checksum = ipv6.upper_checksum(pair.local, pair.remote, socket.IPPROTO_UDP, datagram)
    return datagram[:6] + checksum.to_bytes(2, "big") + esp


def inner_mtu(pair: Pair, outer_mtu: int) -> int:
    """The largest packet whose ESP packet, in UDP or not, fits an outer MTU; in octets. RFC 4301 section 8.2."""
    room = pair.room(outer_mtu)
    if pair.tunnel:
        return room
    return room + (ipv6.HEADER_OCTETS if len(pair.remote) == 16 else ipv4.HEADER_OCTETS)


def dummy_packet(pair: Pair) -> bytes:
    """The IP packet that a dummy packet of a pair stands for: a header between its addresses, and nothing in it."""
    if len(pair.remote) == 16:
        return ipv6.build_header(pair.local, pair.remote, ipv6.NO_NEXT_HEADER, 0, hop_limit=TTL)
    return ipv4.build_header(pair.local, pair.remote, ipv6.NO_NEXT_HEADER, 0, ttl=TTL)
