"""Virtual addresses beside the kernel's ESP: where they are set, and the routes that make the host send from them.

The addresses lie on a TUN device of ours through which no packet goes: it ends with the process, and the addresses
with it, also after a crash. What the Child SAs carry is routed as the packets to the peer are, in a table of ours,
with the virtual address as its source; policies then protect it. Rules lead there what comes from that address, and
what has no address yet (IPv6 cannot tell the latter, and takes all to the same destinations). Rules and routes that
a crashed run left are found by their protocol number and their table, as those of `ikev2.ipsec.routing`.

RFC 7296 section 2.19.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ikev2.errors import BackendError
from ikev2.ipsec.routing import INSTANCES, MAIN_TABLE, HostRouting
from ikev2.ipsec.rules import IpNetwork, Route, Rule, Wanted
from ikev2.ipsec.tun import TunDevice

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.wire.payloads import TrafficSelector

DEVICE_PREFIX = "ikevip"
TABLE = 18740
PRIORITY_OUTSIDE = 18740
PRIORITY_INSIDE = 18750

_UNSPECIFIED = ipaddress.IPv4Network("0.0.0.0/32")
_ANY_IPV6 = ipaddress.IPv6Network("::/0")
_UNICAST_IPV6 = (ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("fc00::/7"))
"""What stands for all of IPv6: the neighbours' own addresses and multicast stay on their link."""


class VirtualAddresses:
    """The virtual addresses of one backend; takes nothing from the system before the first one."""

    def __init__(self) -> None:
        self._tun: TunDevice | None = None
        self._routing: HostRouting | None = None
        self._instance = 0
        self._index = 0
        self._addresses: list[str] = []
        self._in_force: frozenset[Wanted] = frozenset()

    def add(self, address: str) -> None:
        """Set an address. Raises BackendError when the system refuses."""
        if address in self._addresses:
            return
        try:
            self._routing_opened().add_address(self._index, address)
        except BackendError:
            if not self._addresses:
                self.close()
            raise
        self._addresses.append(address)

    def remove(self, address: str) -> None:
        """Take an address away; the device goes with the last one."""
        if address not in self._addresses or self._routing is None:
            return
        self._addresses.remove(address)
        self._routing.remove_address(self._index, address)
        if not self._addresses:
            self.close()

    def settle(self, children: Iterable[ChildSaParameters]) -> None:
        """Make the routes what these Child SAs want."""
        if self._routing is not None:
            wanted = frozenset(self._wanted(self._routing, children))
            self._routing.change(wanted - self._in_force, self._in_force - wanted)
            self._in_force = wanted

    def clean(self) -> None:
        """Remove what a crashed run left."""
        routing = HostRouting()
        try:
            routing.open()
            _clean(routing, None)
        finally:
            routing.close()

    def close(self) -> None:
        """Take everything away; a second call does nothing."""
        routing, tun = self._routing, self._tun
        self._routing = self._tun = None
        self._addresses = []
        self._in_force = frozenset()
        try:
            if routing is not None:
                routing.close()
        finally:
            if tun is not None:
                tun.close()

    def _routing_opened(self) -> HostRouting:
        if self._routing is None:
            self._tun, self._instance = TunDevice.first_free(DEVICE_PREFIX, INSTANCES)
            self._routing = HostRouting()
            self._routing.open()
            _clean(self._routing, self._instance)
            self._tun.with_ipv6()
            self._index = self._routing.device_up(self._tun.name)
        return self._routing

    def _wanted(self, routing: HostRouting, children: Iterable[ChildSaParameters]) -> Iterator[Wanted]:
        routes: dict[IpNetwork, Route] = {}
        table = TABLE + self._instance
        for child in children:
            for address in self._addresses:
                own = ipaddress.ip_address(address)
                if not any(_holds(selector, own) for selector in child.ts_local):
                    continue
                way = routing.way_to(child.remote)
                yield Rule(
                    PRIORITY_OUTSIDE + self._instance, MAIN_TABLE, destination=ipaddress.ip_network(child.remote)
                )
                for destination in _destinations(child.ts_remote, own.version):
                    # A gateway is of the outer family: towards another one the link alone has to do.
                    gateway = way.gateway if way.gateway and (":" in way.gateway) == (own.version == 6) else None
                    routes.setdefault(destination, Route(destination, table, way.interface_index, address, gateway))
                    for source in (ipaddress.ip_network(address), _UNSPECIFIED) if own.version == 4 else (None,):
                        yield Rule(PRIORITY_INSIDE + self._instance, table, source=source, destination=destination)
        yield from routes.values()


def _clean(routing: HostRouting, instance: int | None) -> None:
    last = PRIORITY_INSIDE + INSTANCES - 1
    routing.clean_stale(DEVICE_PREFIX, instance, tables=TABLE, priorities=(PRIORITY_OUTSIDE, last))


def _holds(selector: TrafficSelector, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    packed = address.packed
    return len(selector.start_address) == len(packed) and selector.start_address <= packed <= selector.end_address


def _destinations(selectors: Iterable[TrafficSelector], version: int) -> Iterator[IpNetwork]:
    """The networks of a family to which selectors lead."""
    for selector in selectors:
        first, last = ipaddress.ip_address(selector.start_address), ipaddress.ip_address(selector.end_address)
        if first.version != version or last.version != version:
            continue
        for network in ipaddress.summarize_address_range(first, last):
            yield from _UNICAST_IPV6 if network == _ANY_IPV6 else (network,)
