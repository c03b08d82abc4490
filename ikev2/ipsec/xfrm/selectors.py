"""From the ranges of IKE's traffic selectors to the prefixes and port masks of the kernel's.

A range that is no prefix, or no aligned block of ports, becomes several selectors that together cover it exactly.
RFC 7296 section 3.13.1, RFC 4301 section 4.4.1.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
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
    """One block of traffic between our side and the peer's, direction left open."""

    local: IpNetwork
    remote: IpNetwork
    protocol: int = 0
    local_port: PortBlock = (0, 0)
    remote_port: PortBlock = (0, 0)

    @property
    def is_typed(self) -> bool:
        """For ICMP the two blocks are the type and the code, in both directions; mobility headers have a type only."""
        return self.protocol in TYPED_PROTOCOLS

    def selector(self, direction: PolicyDirection) -> Selector:
        """As the kernel matches it in that list: our side is the source of what goes out."""
        outbound = direction is PolicyDirection.OUT
        source, destination = (self.local, self.remote) if outbound else (self.remote, self.local)
        straight = outbound or self.is_typed
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


def _ports(local: TrafficSelector, remote: TrafficSelector, protocol: int) -> list[tuple[PortBlock, PortBlock]]:
    """Pairs of port blocks of both sides; for ICMP (type, code), for mobility headers (type, any)."""
    for selector in (local, remote):
        if selector.start_port > selector.end_port:
            raise BackendError(f"the kernel has no policy for OPAQUE ports ({selector})")
    if protocol in TYPED_PROTOCOLS:
        return _types(local, remote, protocol)
    if protocol not in PORTED_PROTOCOLS and not (_is_any(local) and _is_any(remote)):
        # Its policy would match nothing, and what it should protect would leave in clear.
        raise BackendError(f"the kernel looks at no ports of protocol {protocol} ({local}, {remote})")
    return list(
        product(cover_ports(local.start_port, local.end_port), cover_ports(remote.start_port, remote.end_port))
    )


def _types(local: TrafficSelector, remote: TrafficSelector, protocol: int) -> list[tuple[PortBlock, PortBlock]]:
    """What either side's selector says of the message's type, the same for both directions.

    The type is in the upper eight bits, the code in the lower ones. RFC 4301 sections 4.4.1.1 and 4.4.1.3.
    """
    told = [selector for selector in (local, remote) if not _is_any(selector)]
    if not told:
        return [((0, 0), (0, 0))]
    selector = told[0]
    if any((other.start_port, other.end_port) != (selector.start_port, selector.end_port) for other in told):
        raise BackendError(
            f"the kernel has no policy for types of messages that differ by direction ({local}, {remote})"
        )
    first_type, first_code = divmod(selector.start_port, 256)
    last_type, last_code = divmod(selector.end_port, 256)
    if protocol == MOBILITY_HEADER:
        if first_code or last_code not in (0, 255):
            raise BackendError(f"a mobility header has a type and no code ({selector})")
        return [(block, (0, 0)) for block in cover_ports(first_type, last_type)]
    if first_type == last_type:
        codes = [(0, 0)] if (first_code, last_code) == (0, 255) else cover_ports(first_code, last_code)
        return [((first_type, FULL_MASK), code) for code in codes]
    if (first_code, last_code) == (0, 255):
        return [(block, (0, 0)) for block in cover_ports(first_type, last_type)]
    raise BackendError(f"the kernel has no policy for the range of ICMP types and codes of {selector}")


def _pair_flows(local: TrafficSelector, remote: TrafficSelector) -> Iterator[Flow]:
    if local.ts_type != remote.ts_type:
        return
    if local.ip_protocol and remote.ip_protocol and local.ip_protocol != remote.ip_protocol:
        return
    protocol = local.ip_protocol or remote.ip_protocol
    ports = _ports(local, remote, protocol)
    for local_net, remote_net in product(_networks(local), _networks(remote)):
        for local_port, remote_port in ports:
            yield Flow(local_net, remote_net, protocol, local_port, remote_port)


def flows(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector]) -> list[Flow]:
    """All blocks between two lists of traffic selectors; BackendError when there are none or absurdly many."""
    found: dict[Flow, None] = {}
    for pair in product(local, remote):
        for flow in _pair_flows(*pair):
            found[flow] = None
            if len(found) > MAXIMUM_SELECTORS:
                raise BackendError(
                    f"the traffic selectors need more than {MAXIMUM_SELECTORS} policies: use prefixes and aligned ports"
                )
    if not found:
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
