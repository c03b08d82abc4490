"""Which packets belong to which Child SA: traffic selectors, bypass rules, and the security policy database.

A flow is always seen from its sender: on the way out the source is matched against the local selectors and the
destination against the remote ones, on the way in the other way round.
RFC 4301 section 4.4.1, RFC 7296 section 3.13.1.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ikev2.iana import TsType
from ikev2.ipsec.backend import IKE_PORT, NAT_PORT, Bypass
from ikev2.ipsec.ipv4 import NO_PORT, TYPED, Flow
from ikev2.value import value

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.wire.payloads.ts import TrafficSelector

_LAST_PORT = 0xFFFF
_VERSIONS = {TsType.TS_IPV4_ADDR_RANGE: 4, TsType.TS_IPV6_ADDR_RANGE: 6}


@value(frozen=True, slots=True)
class Selector:
    """One traffic selector as integers, both ends included; `ip_protocol` 0 means any.

    Ports 0 to 65535 mean any, opaque ones included; 65535 to 0 mean only packets without ports (OPAQUE).
    """

    ip_protocol: int
    first_address: int
    last_address: int
    first_port: int
    last_port: int
    version: int = 4

    @classmethod
    def of(cls, selector: TrafficSelector) -> Selector | None:
        """The selector of a payload's; None for one that is neither of IPv4 nor of IPv6."""
        version = _VERSIONS.get(selector.ts_type)
        if version is None:
            return None
        return cls(
            selector.ip_protocol,
            int.from_bytes(selector.start_address, "big"),
            int.from_bytes(selector.end_address, "big"),
            selector.start_port,
            selector.end_port,
            version,
        )

    @property
    def any_port(self) -> bool:
        """True when ports do not matter."""
        return self.first_port == 0 and self.last_port == _LAST_PORT

    @property
    def opaque(self) -> bool:
        """True for OPAQUE: only packets that show no port."""
        return self.first_port == _LAST_PORT and self.last_port == 0

    def matches(self, address: int, ip_protocol: int, port: int) -> bool:
        """Whether one end of a flow lies inside."""
        if not self.first_address <= address <= self.last_address:
            return False
        if self.ip_protocol not in (0, ip_protocol):
            return False
        if self.any_port or port == TYPED:
            return True
        if port == NO_PORT:
            return self.opaque
        return self.first_port <= port <= self.last_port

    @property
    def breadth(self) -> tuple[int, int]:
        """How much it takes in: the bits of its addresses that are open, and those of its ports."""
        ports = 0 if self.opaque else self.last_port - self.first_port
        return (self.last_address - self.first_address).bit_length(), ports.bit_length()

    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The address range as prefixes, for routes."""
        if self.version == 6:
            first, last = ipaddress.IPv6Address(self.first_address), ipaddress.IPv6Address(self.last_address)
            return tuple(ipaddress.summarize_address_range(first, last))
        lowest, highest = ipaddress.IPv4Address(self.first_address), ipaddress.IPv4Address(self.last_address)
        return tuple(ipaddress.summarize_address_range(lowest, highest))

    def holds_address(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether an address lies inside, whatever the ports."""
        return self.version == address.version and self.first_address <= int(address) <= self.last_address


def selectors_of(selectors: Iterable[TrafficSelector]) -> tuple[Selector, ...]:
    """Those of the selectors that are of IPv4 or IPv6."""
    found = (Selector.of(selector) for selector in selectors)
    return tuple(selector for selector in found if selector is not None)


@dataclass(frozen=True, slots=True)
class Policy:
    """The traffic of one Child SA. RFC 4301 section 4.4.1 (PROTECT)."""

    local: tuple[Selector, ...]
    remote: tuple[Selector, ...]

    @classmethod
    def of(cls, child: ChildSaParameters) -> Policy:
        """The policy that a Child SA's negotiated selectors make."""
        return cls(selectors_of(child.ts_local), selectors_of(child.ts_remote))

    @property
    def looks_at_ports(self) -> bool:
        """Whether fragments have to be put together before it can be asked."""
        return not all(selector.any_port for selector in (*self.local, *self.remote))

    def protects(self, flow: Flow) -> bool:
        """Whether a packet on its way out belongs to it."""
        return _both(self.local, self.remote, flow)

    def breadth(self, flow: Flow) -> tuple[int, int, bool]:
        """How much besides a flow that it protects its selectors take in: the less, the more they mean that flow.

        Addresses count before ports, those before the protocol, as for the policies in the kernel.
        """
        ends = (
            (self.local, flow.source, flow.source_port),
            (self.remote, flow.destination, flow.destination_port),
        )
        matching = [
            [one for one in side if one.version == flow.version and one.matches(address, flow.ip_protocol, port)]
            for side, address, port in ends
        ]
        addresses, ports = map(sum, zip(*(min(one.breadth for one in side) for side in matching), strict=True))
        return addresses, ports, not any(one.ip_protocol for side in matching for one in side)

    def accepts(self, flow: Flow) -> bool:
        """Whether a packet that came out of the SA belongs to it. RFC 4301 section 5.2, step 4."""
        return _both(self.remote, self.local, flow)


def _both(source: Sequence[Selector], destination: Sequence[Selector], flow: Flow) -> bool:
    return any(
        s.version == flow.version and s.matches(flow.source, flow.ip_protocol, flow.source_port) for s in source
    ) and any(
        d.version == flow.version and d.matches(flow.destination, flow.ip_protocol, flow.destination_port)
        for d in destination
    )


def bypasses(bypass: Bypass, flow: Flow) -> bool:
    """Whether a flow, in either direction, passes outside because of a bypass."""
    if flow.ip_protocol != bypass.ip_protocol:
        return False
    ends = {ipaddress.ip_address(bypass.local), ipaddress.ip_address(bypass.remote)}
    if {end.version for end in ends} != {flow.version} or {flow.source, flow.destination} != {
        int(end) for end in ends
    }:
        return False
    first, last = bypass.ports
    return first <= flow.source_port <= last or first <= flow.destination_port <= last


def is_ike(flow: Flow) -> bool:
    """Whether a flow is of IKE itself, which never goes into a tunnel that it makes. RFC 7296 section 2.23."""
    return flow.ip_protocol == socket.IPPROTO_UDP and (
        flow.source_port in (IKE_PORT, NAT_PORT) or flow.destination_port in (IKE_PORT, NAT_PORT)
    )
