"""From the ranges of IKE's traffic selectors to the prefixes and port masks of the kernel's.

A range that is no prefix, or no aligned block of ports, becomes several selectors that together cover it exactly.
RFC 7296 section 3.13.1, RFC 4301 section 4.4.1.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from ikev2.errors import BackendError
from ikev2.iana import TsType
from ikev2.ipsec.xfrm.structs import IpNetwork, Selector
from ikev2.ipsec.xfrm.uapi import PolicyDirection

if TYPE_CHECKING:
    from ikev2.wire.payloads.ts import TrafficSelector

MAXIMUM_SELECTORS = 256
ICMP_PROTOCOLS = frozenset({1, 58})
MOBILITY_HEADER = 135
TYPED_PROTOCOLS = ICMP_PROTOCOLS | {MOBILITY_HEADER}
"""Whose messages have a type in the place of a source port, and ICMP's a code in that of a destination port."""
PORTED_PROTOCOLS = frozenset({0, 6, 17, 132, 136})
"""Any protocol, TCP, UDP, SCTP and UDP-Lite: of no other does the kernel look at ports."""
FULL_MASK = 0xFFFF

PortBlock = tuple[int, int]
"""A port and its mask; (0, 0) is any port."""


def cover_ports(first: int, last: int) -> list[PortBlock]:
    """The fewest (port, mask) blocks that cover first..last and nothing else."""
    blocks: list[PortBlock] = []
    while first <= last:
        size = first & -first or 0x10000
        while size > last - first + 1:
            size >>= 1
        blocks.append((first, FULL_MASK & ~(size - 1)))
        first += size
    return blocks


@dataclass(frozen=True, slots=True)
class Flow:
    """One block of traffic between our side and the peer's, direction left open.

    Of messages that have a type the two blocks are type and code, and belong to one direction.
    """

    local: IpNetwork
    remote: IpNetwork
    protocol: int = 0
    local_port: PortBlock = (0, 0)
    remote_port: PortBlock = (0, 0)

    def selector(self, direction: PolicyDirection) -> Selector:
        """As the kernel matches it in that list: our side is the source of what goes out."""
        outbound = direction is PolicyDirection.OUT
        source, destination = (self.local, self.remote) if outbound else (self.remote, self.local)
        straight = outbound or self.protocol in TYPED_PROTOCOLS
        source_port, destination_port = (
            (self.local_port, self.remote_port) if straight else (self.remote_port, self.local_port)
        )
        return Selector(source, destination, self.protocol, *source_port, *destination_port)

    @property
    def specificity(self) -> int:
        """Larger for smaller blocks: address bits count before port bits, those before the protocol."""
        port_bits = self.local_port[1].bit_count() + self.remote_port[1].bit_count()
        return (self.local.prefixlen + self.remote.prefixlen) * 128 + port_bits * 2 + (self.protocol != 0)


def _networks(selector: TrafficSelector) -> list[IpNetwork]:
    if selector.ts_type == TsType.TS_IPV4_ADDR_RANGE:
        return list(
            ipaddress.summarize_address_range(
                ipaddress.IPv4Address(selector.start_address), ipaddress.IPv4Address(selector.end_address)
            )
        )
    if selector.ts_type == TsType.TS_IPV6_ADDR_RANGE:
        return list(
            ipaddress.summarize_address_range(
                ipaddress.IPv6Address(selector.start_address), ipaddress.IPv6Address(selector.end_address)
            )
        )
    raise BackendError(f"the xfrm backend has no selectors of type {selector.ts_type}")


def _is_any(selector: TrafficSelector) -> bool:
    return (selector.start_port, selector.end_port) == (0, 0xFFFF)


def _is_opaque(selector: TrafficSelector) -> bool:
    return selector.start_port > selector.end_port


def _ports(local: TrafficSelector, remote: TrafficSelector, protocol: int) -> list[tuple[PortBlock, PortBlock]]:
    """Pairs of port blocks of both sides; BackendError when the kernel cannot match them."""
    both = (local, remote)
    if protocol not in PORTED_PROTOCOLS:
        # OPAQUE is what such a protocol has. RFC 4301 section 4.4.1.3.
        if all(_is_any(one) or _is_opaque(one) for one in both):
            return [((0, 0), (0, 0))]
        # A policy would match nothing, and what it should protect would leave in clear.
        raise BackendError(f"the kernel looks at no ports of protocol {protocol} ({local}, {remote})")
    for selector in both:
        if _is_opaque(selector):
            raise BackendError(f"the kernel has no policy for OPAQUE ports ({selector})")
    ours, theirs = (cover_ports(one.start_port, one.end_port) for one in both)
    return list(product(ours, theirs))


def _messages(sender: TrafficSelector, protocol: int) -> list[tuple[PortBlock, PortBlock]]:
    """Blocks of type and code that a side sends; none when it sends no message at all (OPAQUE).

    The type is in the upper eight bits, the code in the lower ones; mobility headers have no code, which stands as 0.
    RFC 4301 sections 4.4.1.1 and 4.4.1.3.
    """
    if _is_any(sender):
        return [((0, 0), (0, 0))]
    first, last = sender.start_port, sender.end_port
    if protocol == MOBILITY_HEADER:
        return [(block, (0, 0)) for block in cover_ports(-(-first // 256), last // 256)]
    return [
        # The kernel compares each of the two as a number of 16 bits.
        ((port >> 8, 0xFF00 | mask >> 8), (port & 0xFF, 0xFF00 | mask & 0xFF) if mask & 0xFF else (0, 0))
        for port, mask in cover_ports(first, last)
    ]


def _common_protocol(local: TrafficSelector, remote: TrafficSelector) -> int | None:
    """The protocol of both, 0 for any; None when the two have none, or no address family, in common."""
    if local.ts_type != remote.ts_type:
        return None
    if local.ip_protocol and remote.ip_protocol and local.ip_protocol != remote.ip_protocol:
        return None
    return local.ip_protocol or remote.ip_protocol


def flows(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], *, outbound: bool = True
) -> list[Flow]:
    """All blocks between two lists of traffic selectors, of what is sent or of what is received.

    BackendError when there is nothing in common, or absurdly much.
    """
    found: dict[Flow, None] = {}
    common = False
    for here, there in product(local, remote):
        protocol = _common_protocol(here, there)
        if protocol is None:
            continue
        common = True
        typed = protocol in TYPED_PROTOCOLS
        ports = _messages(here if outbound else there, protocol) if typed else _ports(here, there, protocol)
        for local_net, remote_net in product(_networks(here), _networks(there)):
            for local_port, remote_port in ports:
                found[Flow(local_net, remote_net, protocol, local_port, remote_port)] = None
                if len(found) > MAXIMUM_SELECTORS:
                    raise BackendError(
                        f"the traffic selectors need more than {MAXIMUM_SELECTORS} policies: "
                        "use prefixes and aligned ports"
                    )
    if not common:
        raise BackendError("the traffic selectors of the two sides have no protocol and address family in common")
    return list(found)


def hull(blocks: Sequence[Flow], version: int, direction: PolicyDirection) -> Selector:
    """The smallest selector of one address family that holds all the blocks of it; any traffic when there is none.

    An SA in transport mode has one: what comes on it and is not inside is dropped. RFC 4301 section 5.2, step 5.
    """
    own = [flow for flow in blocks if flow.local.version == version]
    if not own:
        return Selector()
    if len(own) == 1:
        return own[0].selector(direction)
    protocols = {flow.protocol for flow in own}
    protocol = protocols.pop() if len(protocols) == 1 else 0
    return Flow(
        _around([flow.local for flow in own]),
        _around([flow.remote for flow in own]),
        protocol,
        _common_block([flow.local_port for flow in own]) if protocol else (0, 0),
        _common_block([flow.remote_port for flow in own]) if protocol else (0, 0),
    ).selector(direction)


def _around(networks: Sequence[IpNetwork]) -> IpNetwork:
    """The smallest network that holds all of one family."""
    lowest = min(int(network.network_address) for network in networks)
    highest = max(int(network.broadcast_address) for network in networks)
    length = networks[0].max_prefixlen - (lowest ^ highest).bit_length()
    return ipaddress.ip_network((networks[0].network_address, length), strict=False)


def _common_block(blocks: Sequence[PortBlock]) -> PortBlock:
    """The smallest port and mask that hold all the blocks."""
    mask = FULL_MASK
    for port, of_one in blocks:
        mask &= of_one & (FULL_MASK << (port ^ blocks[0][0]).bit_length())
    return blocks[0][0] & mask, mask
