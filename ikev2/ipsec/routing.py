"""What makes the host route packets into a TUN device: rules and routes, as data, and their way into the kernel.

`HostRouting.change` adds and takes away what a Child SA changes (`ikev2.ipsec.claims` knows what that is), and
remembers what is in force: `close` takes all of it away. Everything is marked with a route protocol number of ours
and lies in tables and priorities of ours; what a crashed run left is found by those marks, because its TUN device is
gone. What the kernel said about ways and addresses is kept until it announces a change of them.

pyroute2 (0.9) cannot be used on a thread that runs an asyncio loop, so that all of it runs on one worker thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, TypeVar

from ikev2.errors import BackendError
from ikev2.ipsec.notices import HostNotices

if TYPE_CHECKING:
    from pyroute2 import IPRoute

OUR_PROTOCOL = 0x49
"""The `proto` that `ip rule` and `ip route` show for what is ours (73)."""

INSTANCES = 10
"""So many userspace backends can be open in one network namespace."""

SOCKET_MARK = 0x494B4532
"""SO_MARK of our own sockets ("IKE2"): what they send never goes into a tunnel."""

TABLE = 18700
PRIORITY_MARK = 18700
PRIORITY_OUTSIDE = 18710
PRIORITY_PROTECT = 18720
MAIN_TABLE = 254

_LAST_METRIC = 0xFFFFFFFF
_UNREACHABLE = 7  # RTN_UNREACHABLE
_DEVICE_METRIC = 100
_TX_QUEUE = 2000
_REMEMBERED_LINKS = 4096

AF_INET, AF_INET6 = 2, 10
_LINK_SCOPE = 253
_NO_DUPLICATE_ADDRESS_DETECTION = 0x02  # IFA_F_NODAD

IpNetwork = IPv4Network | IPv6Network
Ports = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """One `ip rule`; None in a field: any. Ports are first and last. `from_here`: only what this host sends itself."""

    priority: int
    table: int
    source: IpNetwork | None = None
    destination: IpNetwork | None = None
    ip_protocol: int | None = None
    source_ports: Ports | None = None
    destination_ports: Ports | None = None
    mark: int | None = None
    from_here: bool = False

    def attributes(self) -> dict[str, Any]:
        """As pyroute2 takes it."""
        found: dict[str, Any] = {"priority": self.priority, "table": self.table, "protocol": OUR_PROTOCOL}
        found["family"] = _family(self.source or self.destination)
        if self.source is not None:
            found |= {"src": str(self.source.network_address), "src_len": self.source.prefixlen}
        if self.destination is not None and self.destination.prefixlen:
            found |= {"dst": str(self.destination.network_address), "dst_len": self.destination.prefixlen}
        if self.ip_protocol is not None:
            found["ip_proto"] = self.ip_protocol
        if self.source_ports is not None:
            found["sport_range"] = f"{self.source_ports[0]}:{self.source_ports[1]}"
        if self.destination_ports is not None:
            found["dport_range"] = f"{self.destination_ports[0]}:{self.destination_ports[1]}"
        if self.from_here:
            found["iifname"] = "lo"
        if self.mark is not None:
            found |= {"fwmark": self.mark, "fwmask": 0xFFFFFFFF}
        return found


@dataclass(frozen=True, slots=True)
class Route:
    """One `ip route` in a table of ours: through the device (and a gateway), or unreachable when there is none.

    Every route through the device has an unreachable one behind it: when a crash takes the device away, what was to
    be protected is not sent in clear. RFC 4301 section 5.1.
    """

    destination: IpNetwork
    table: int
    device_index: int | None
    preferred_source: str | None = None
    gateway: str | None = None

    @property
    def place(self) -> tuple[IpNetwork, int, bool]:
        """What tells it from other routes in the kernel: another with the same place takes its place."""
        return self.destination, self.table, self.device_index is None

    def attributes(self) -> dict[str, Any]:
        """As pyroute2 takes it."""
        found: dict[str, Any] = {"dst": str(self.destination), "table": self.table, "proto": OUR_PROTOCOL}
        found["family"] = _family(self.destination)
        if self.device_index is None:
            return found | {"type": _UNREACHABLE, "priority": _LAST_METRIC}
        found |= {"oif": self.device_index, "priority": _DEVICE_METRIC}
        if self.gateway is not None:
            found["gateway"] = self.gateway
        elif self.destination.version == 4:
            found["scope"] = 253
        if self.preferred_source is not None:
            found["prefsrc"] = self.preferred_source
        return found


Wanted = Rule | Route


def _family(network: IpNetwork | None) -> int:
    return AF_INET6 if network is not None and network.version == 6 else AF_INET


@dataclass(frozen=True, slots=True)
class Way:
    """How packets reach a peer: the index of the interface, and the gateway, None on the link itself."""

    interface_index: int
    gateway: str | None


@dataclass(frozen=True, slots=True)
class OuterLink:
    """The interface behind which a peer lies; the MTU in octets is that of the way to it."""

    interface: str
    mtu: int


class HostRouting:
    """The rules and routes of one backend instance. Raises BackendError with what the kernel said."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ikev2-netlink")
        self.requests = 0
        """How often the kernel was asked or told anything."""
        self._in_force: dict[Wanted, None] = {}
        self._link: IPRoute | None = None
        self._notices: HostNotices | None = None
        self._outer_links: dict[str, OuterLink] = {}
        self._own_addresses: list[str] | None = None

    def open(self) -> None:
        """Open the netlink sockets."""
        self._link = self._call("a netlink socket cannot be opened", _open_link)
        self._notices = HostNotices(OUR_PROTOCOL)

    def close(self) -> None:
        """Take everything away that was applied, and close the socket; a second call does nothing."""
        try:
            if self._link is not None:
                self.change((), tuple(self._in_force))
        finally:
            if self._notices is not None:
                self._notices.close()
                self._notices = None
            link, self._link = self._link, None
            if link is not None:
                self._worker.submit(link.close).result()
            self._worker.shutdown()

    def device_up(self, name: str) -> int:
        """Bring a link up; its index."""

        def up(link: IPRoute) -> int:
            index = int(link.link_lookup(ifname=name)[0])
            link.link("set", index=index, state="up", txqlen=_TX_QUEUE)
            return index

        return self._with_link(f"the device {name} does not come up", up)

    def set_mtu(self, index: int, mtu: int) -> None:
        """Set the MTU of a link."""
        self._with_link(f"an MTU of {mtu} cannot be set", lambda link: link.link("set", index=index, mtu=mtu))

    def host_changed(self) -> bool:
        """Whether links, addresses, rules or routes of others have changed since the last call: ask again then."""
        if self._notices is None or not self._notices.any_of_others():
            return False
        self._outer_links.clear()
        self._own_addresses = None
        return True

    def outer_link(self, remote: str) -> OuterLink:
        """The link, and the MTU of the way, that our own sockets take to `remote`."""
        found = self._outer_links.get(remote)
        if found is None:
            if len(self._outer_links) >= _REMEMBERED_LINKS:
                self._outer_links.clear()
            found = self._outer_links[remote] = self._ask_outer_link(remote)
        return found

    def _ask_outer_link(self, remote: str) -> OuterLink:
        def ask(link: IPRoute) -> OuterLink:
            host, _, zone = remote.partition("%")
            family = AF_INET6 if ":" in host else AF_INET
            through = {"oif": link.link_lookup(ifname=zone)[0]} if zone else {}
            route = link.route("get", dst=host, family=family, mark=SOCKET_MARK, **through)[0]
            found = link.get_links(route.get_attr("RTA_OIF"))[0]
            metrics = route.get_attr("RTA_METRICS")
            mtu = metrics.get_attr("RTAX_MTU") if metrics else None
            return OuterLink(str(found.get_attr("IFLA_IFNAME")), int(mtu or found.get_attr("IFLA_MTU")))

        return self._with_link(f"there is no route to {remote}", ask)

    def way_to(self, remote: str) -> Way:
        """The way that packets to `remote` take by the main table and whatever stands before our rules."""

        def ask(link: IPRoute) -> Way:
            route = link.route("get", dst=remote, family=AF_INET6 if ":" in remote else AF_INET)[0]
            return Way(int(route.get_attr("RTA_OIF")), route.get_attr("RTA_GATEWAY"))

        return self._with_link(f"there is no route to {remote}", ask)

    def add_address(self, index: int, address: str) -> None:
        """Give a link one more address, which stands for itself alone."""
        self._change_address("add", index, address, f"the address {address} cannot be set")

    def remove_address(self, index: int, address: str) -> None:
        """Take an `add_address` back; it may be gone already, with its device."""
        with contextlib.suppress(BackendError):
            self._change_address("del", index, address, f"the address {address} cannot be removed")

    def _change_address(self, command: str, index: int, address: str, failure: str) -> None:
        fields: dict[str, Any] = {"index": index, "address": address, "prefixlen": 32, "family": AF_INET}
        if ip_address(address).version == 6:
            fields |= {"prefixlen": 128, "family": AF_INET6}
            if command == "add":
                fields["flags"] = _NO_DUPLICATE_ADDRESS_DETECTION
        self._with_link(failure, lambda link: link.addr(command, **fields))
        self._own_addresses = None

    def own_addresses(self) -> list[str]:
        """The addresses of this host that mean the same on every link, IPv4 and IPv6."""
        if self._own_addresses is None:
            self._own_addresses = self._with_link(
                "the addresses of this host cannot be read",
                lambda link: [
                    str(a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS"))
                    for a in link.get_addr()
                    if a["family"] in (AF_INET, AF_INET6) and a["scope"] != _LINK_SCOPE
                ],
            )
        return self._own_addresses

    def clean_stale(
        self,
        device_prefix: str,
        own_instance: int | None,
        *,
        tables: int = TABLE,
        priorities: tuple[int, int] = (PRIORITY_MARK, PRIORITY_PROTECT + INSTANCES - 1),
    ) -> None:
        """Remove rules and routes of ours whose device is gone, and any of our own instance's.

        They lie in the tables from `tables` on and in the first to the last of `priorities`.
        """

        def clean(link: IPRoute) -> None:
            alive = {link_.get_attr("IFLA_IFNAME") for link_ in link.get_links()}
            dead = {
                number
                for number in range(INSTANCES)
                if number == own_instance or f"{device_prefix}{number}" not in alive
            }
            for family in (AF_INET, AF_INET6):
                for rule in _rules(link, family):
                    priority = rule.get_attr("FRA_PRIORITY") or 0
                    ours = priorities[0] <= priority <= priorities[1]
                    if ours and rule.get_attr("FRA_PROTOCOL") == OUR_PROTOCOL and priority % INSTANCES in dead:
                        _delete_dumped_rule(link, rule)
                for number in dead:
                    link.flush_routes(family=family, table=tables + number, proto=OUR_PROTOCOL)

        self._with_link("what an earlier run left cannot be removed", clean)

    def change(self, add: Collection[Wanted], remove: Collection[Wanted]) -> None:
        """Put some into force and take others away. When an addition fails, the additions before are undone.

        An added route takes the place of a removed one with the same place in one step.
        """
        if not add and not remove:
            return
        places = {item.place for item in add if isinstance(item, Route)}
        replaced = {item for item in remove if isinstance(item, Route) and item.place in places}

        def carry_out(link: IPRoute) -> None:
            done: list[Wanted] = []
            try:
                for item in _routes_first(add):
                    _command(link, "add", item)
                    done.append(item)
            except Exception:
                for item in reversed(done):
                    with contextlib.suppress(Exception):
                        _command(link, "del", item)
                for item in replaced:
                    with contextlib.suppress(Exception):
                        _command(link, "add", item)
                raise
            # A removal says less than the route: it would hit the one that has taken the place.
            for item in reversed([item for item in _routes_first(remove) if item not in replaced]):
                # Gone already is as good: with its device, or by another's hand.
                with contextlib.suppress(Exception):
                    _command(link, "del", item)

        self._with_link("the rules and routes of a Child SA cannot be set", carry_out)
        for item in remove:
            self._in_force.pop(item, None)
        self._in_force |= dict.fromkeys(add)

    def _with_link(self, failure: str, function: Callable[[IPRoute], T]) -> T:
        link = self._link
        if link is None:
            raise BackendError(f"{failure}: the backend is not open")
        self.requests += 1
        return self._call(failure, lambda: function(link))

    def _call(self, failure: str, function: Callable[[], T]) -> T:
        try:
            return self._worker.submit(function).result()
        except Exception as error:
            raise BackendError(f"{failure}: {_reason(error)}") from error


def _open_link() -> IPRoute:
    from pyroute2 import IPRoute  # a quarter of a second: only who opens the backend pays for it

    return IPRoute()


def _reason(error: Exception) -> str:
    # NetlinkError carries (code, text); both are worth less than the text alone.
    text = error.args[-1] if error.args else ""
    return str(text) or type(error).__name__


def _routes_first(items: Iterable[Wanted]) -> Iterator[Wanted]:
    """Routes, then rules with the ones that let traffic pass outside first: no packet meets half a policy."""
    ordered = list(items)
    yield from (item for item in ordered if isinstance(item, Route))
    yield from sorted((item for item in ordered if isinstance(item, Rule)), key=lambda rule: rule.priority)


def _command(link: IPRoute, command: str, item: Wanted) -> None:
    if isinstance(item, Rule):
        link.rule(command, **item.attributes())
    else:
        # A route whose preferred source changes takes the place of the old one.
        link.route("replace" if command == "add" else command, **item.attributes())


def _rules(link: IPRoute, family: int) -> list[Any]:
    """The rules of a family; none where the kernel does not have it."""
    try:
        return list(link.get_rules(family=family))
    except Exception:
        if family == AF_INET:
            raise
        return []


def _delete_dumped_rule(link: IPRoute, rule: Any) -> None:
    fields: dict[str, Any] = {"family": rule["family"], "src_len": rule["src_len"], "dst_len": rule["dst_len"]}
    for name in (
        "PRIORITY",
        "TABLE",
        "SRC",
        "DST",
        "IP_PROTO",
        "SPORT_RANGE",
        "DPORT_RANGE",
        "FWMARK",
        "FWMASK",
        "PROTOCOL",
        "IIFNAME",
    ):
        value = rule.get_attr(f"FRA_{name}")
        if value is not None:
            fields[name.lower()] = value
    with contextlib.suppress(Exception):
        link.rule("del", **fields)
