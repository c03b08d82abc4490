"""What has come out of ESP becomes a packet for the host, if its SA may carry it.

RFC 4301 section 5.2, steps 4 and 5; RFC 6040 section 4.2, RFC 3948 section 3.1.
"""

from __future__ import annotations

from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.backend import DropReason
from ikev2.ipsec.esp import NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, EspDrop
from ikev2.ipsec.ipv4 import (
    build_header,
    flow,
    flow_of,
    fragment_offset,
    header_octets,
    is_plain,
    readdressed,
    total_length,
    with_protocol_and_length,
)
from ikev2.ipsec.pair import Pair

FLOW_CACHE = 4096
_LEAST_OFFSET_OCTETS = 128
"""Where the second fragment begins at the earliest, behind every header with ports. RFC 4301 appendix D.3."""
_ECN_MASK = 0x03
_ECN_ECT_1 = 0x01
_ECN_CE = 0x03


def from_tunnel(pair: Pair, inner: bytes, next_header: int, tos: int) -> bytes:
    """The packet inside a tunnel; `tos` is that of the header outside. Raises EspDrop and MalformedPacket."""
    if next_header == NEXT_HEADER_IPV6:
        return _marked(_ipv6_from_tunnel(pair, inner), tos)
    if next_header != NEXT_HEADER_IPV4:
        raise EspDrop(DropReason.NEXT_HEADER, f"next header {next_header} in a tunnel of IP")
    plain = is_plain(inner)
    if not plain:
        header_octets(inner)
        inner = inner[: total_length(inner)]  # RFC 4303 section 2.7: what follows is TFC padding
        plain = is_plain(inner)
    key = inner[9:10] + inner[12:24]
    # Taken before the policy: if the pair moves meanwhile, the key goes into a cache that is gone.
    accepted = pair.accepted
    if not plain or key not in accepted:
        if not pair.policy.accepts(flow_of(inner)):
            return _marked(_about_the_pair(pair, inner), tos)
        if 0 < fragment_offset(inner) < _LEAST_OFFSET_OCTETS and pair.policy.looks_at_ports:
            raise EspDrop(DropReason.FRAGMENT, "a fragment that could lie over ports: RFC 4301 section 7.2")
        if plain:
            _remember(accepted, key)
    return _marked(inner, tos) if tos & _ECN_MASK else inner


def _ipv6_from_tunnel(pair: Pair, inner: bytes) -> bytes:
    inner = ipv6.checked(inner)  # RFC 4303 section 2.7: what follows is traffic flow confidentiality padding
    key = b"" if ipv6.has_extensions(inner) or len(inner) < 44 else inner[6:7] + inner[8:44]
    accepted = pair.accepted
    if not key or key not in accepted:
        if not pair.policy.accepts(ipv6.flow_of(inner)):
            return _about_the_pair(pair, inner)
        if key:
            _remember(accepted, key)
    return inner


def _about_the_pair(pair: Pair, packet: bytes) -> bytes:
    """A packet that the selectors do not take, if it is an ICMP error about one that they do. RFC 4301 section 6.2."""
    if not pair.takes_about(packet):
        raise EspDrop(DropReason.SELECTOR_MISMATCH)
    return packet


def _marked(inner: bytes, tos: int) -> bytes:
    """The packet with the more severe ECN codepoint of its own and the outer header; what cannot be marked is dropped.

    CE is more severe than ECT(1), which is more severe than ECT(0). RFC 6040 section 4.2, figure 4.
    """
    outer = tos & _ECN_MASK
    if outer not in (_ECN_ECT_1, _ECN_CE):
        return inner
    own = ip.tos(inner)
    if not own & _ECN_MASK:
        if outer == _ECN_CE:
            raise EspDrop(DropReason.ECN, "congestion experienced by a packet that is not ECN-capable")
        return inner
    if own & _ECN_MASK in (outer, _ECN_CE):
        return inner
    return ip.with_tos(inner, own & ~_ECN_MASK | outer)


def from_transport(pair: Pair, payload: bytes, next_header: int, tos: int, ttl: int, header: bytes) -> bytes:
    """The packet of transport mode, under `header` or one made of tos and ttl. Raises EspDrop and MalformedPacket.

    The addresses of `header` are not authentic: they have to be those of the SA. RFC 4301 section 5.2, step 5.
    """
    if len(pair.local) == 16:
        return _ipv6_from_transport(pair, payload, next_header, tos, ttl)
    if header and header[12:20] != pair.checksum_new:
        raise EspDrop(DropReason.SELECTOR_MISMATCH, "a packet in transport mode between other addresses")
    key = bytes((next_header,)) + payload[:4]
    accepted = pair.accepted
    known = key in accepted
    if not known and pair.policy.accepts(flow(pair.remote, pair.local, next_header, payload[:4])):
        _remember(accepted, key)
        known = True
    if pair.checksum_old != pair.checksum_new:
        payload = readdressed(payload, next_header, pair.checksum_old, pair.checksum_new)
    if header:
        packet = with_protocol_and_length(header, next_header, len(payload)) + payload
    else:
        packet = build_header(pair.remote, pair.local, next_header, len(payload), tos=tos, ttl=ttl) + payload
    return packet if known else _about_the_pair(pair, packet)


def _ipv6_from_transport(pair: Pair, payload: bytes, next_header: int, tos: int, hop_limit: int) -> bytes:
    """A header between the addresses of the pair: the kernel has taken the one that came, extensions and all."""
    packet = (
        ipv6.build_header(pair.remote, pair.local, next_header, len(payload), tos=tos, hop_limit=hop_limit)
        + payload
    )
    if pair.checksum_old != pair.checksum_new:
        chain = ipv6.chain_of(packet)
        upper = readdressed(packet[chain.offset :], chain.upper, pair.checksum_old, pair.checksum_new)
        packet = packet[: chain.offset] + upper
    return packet if pair.policy.accepts(ipv6.flow_of(packet)) else _about_the_pair(pair, packet)


def _remember(accepted: set[bytes], key: bytes) -> None:
    if len(accepted) >= FLOW_CACHE:
        accepted.clear()
    accepted.add(key)
