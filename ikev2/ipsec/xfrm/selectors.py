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
    def is_icmp(self) -> bool:
        """For ICMP the two blocks are the type and the code, in both directions."""
        return self.protocol in ICMP_PROTOCOLS

    def selector(self, direction: PolicyDirection) -> Selector:
        """As the kernel matches it in that list: our side is the source of what goes out."""
        outbound = direction is PolicyDirection.OUT
        source, destination = (self.local, self.remote) if outbound else (self.remote, self.local)
        straight = outbound or self.is_icmp
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
    """Pairs of port blocks of both sides; for ICMP (type, code), which either side's selector may hold."""
    for selector in (local, remote):
        if selector.start_port > selector.end_port:
            raise BackendError(f"the kernel has no policy for OPAQUE ports ({selector})")
    if protocol not in ICMP_PROTOCOLS:
        return list(
            product(cover_ports(local.start_port, local.end_port), cover_ports(remote.start_port, remote.end_port))
        )
    selector = local if _is_any(remote) else remote
    if _is_any(selector):
        return [((0, 0), (0, 0))]
    first_type, first_code = divmod(selector.start_port, 256)
    last_type, last_code = divmod(selector.end_port, 256)
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
