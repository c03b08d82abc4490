"""What makes the host route packets into a TUN device: the way of rules and routes into the kernel.

`HostRouting.change` adds and takes away what a Child SA changes (`ikev2.ipsec.claims` knows what that is), and
remembers what is in force: `close` takes all of it away. Everything is marked with a route protocol number of ours
and lies in tables and priorities of ours; what a crashed run left is found by those marks, because its TUN device is
gone. What the kernel said about ways and addresses is kept until it announces a change of them.

What a Child SA asks for goes over a socket of our own (`ikev2.ipsec.rtnetlink`), many changes at once; pyroute2 does
what is rare. As it (0.9) cannot be used on a thread that runs an asyncio loop, all of it runs on one worker thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

from ikev2.errors import BackendError
from ikev2.ipsec.notices import HostNotices
from ikev2.ipsec.rtnetlink import RouteSocket
from ikev2.ipsec.rules import AF_INET, AF_INET6, OUR_PROTOCOL, Route, Rule, Wanted

if TYPE_CHECKING:
    from pyroute2 import IPRoute

INSTANCES = 10
"""So many userspace backends can be open in one network namespace."""

SOCKET_MARK = 0x494B4532
"""SO_MARK of our own sockets ("IKE2"): what they send never goes into a tunnel."""

TABLE = 18700
PRIORITY_MARK = 18700
PRIORITY_OUTSIDE = 18710
PRIORITY_PROTECT = 18720
MAIN_TABLE = 254

_TX_QUEUE = 2000
_REMEMBERED_LINKS = 4096

_LINK_SCOPE = 253
_NO_DUPLICATE_ADDRESS_DETECTION = 0x02  # IFA_F_NODAD

T = TypeVar("T")


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
        self._sock: RouteSocket | None = None
        self._notices: HostNotices | None = None
        self._outer_links: dict[str, OuterLink] = {}
        self._own_addresses: list[str] | None = None

    def open(self) -> None:
        """Open the netlink sockets."""
        self._link = self._call("a netlink socket cannot be opened", _open_link)
        try:
            self._sock = RouteSocket()
        except OSError as error:
            raise BackendError(f"a netlink socket cannot be opened: {error.strerror}") from error
        self._notices = HostNotices(OUR_PROTOCOL)

    def close(self) -> None:
        """Take everything away that was applied, and close the socket; a second call does nothing."""
        try:
            if self._sock is not None:
                self.change((), tuple(self._in_force))
        finally:
            if self._sock is not None:
                self._sock.close()
                self._sock = None
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
        failure = f"there is no route to {remote}"
        sock = self._opened(failure)
        self.requests += 1
        host, _, zone = remote.partition("%")
        try:
            route = sock.route_to(host, SOCKET_MARK, socket.if_nametoindex(zone) if zone else 0)
            name, mtu = sock.link(route.interface_index)
        except OSError as error:
            raise BackendError(f"{failure}: {error.strerror}") from error
        return OuterLink(name, route.mtu or mtu)

    def way_to(self, remote: str) -> Way:
        """The way that packets to `remote` take by the main table and whatever stands before our rules."""
        failure = f"there is no route to {remote}"
        sock = self._opened(failure)
        self.requests += 1
        try:
            route = sock.route_to(remote)
        except OSError as error:
            raise BackendError(f"{failure}: {error.strerror}") from error
        return Way(route.interface_index, route.gateway)

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

        sock = self._opened("the rules and routes of a Child SA cannot be set")
        self.requests += 1
        ordered = list(_routes_first(add))
        answers = sock.add(ordered)
        if any(answers):
            done = [item for item, answer in zip(ordered, answers, strict=True) if not answer]
            sock.delete(done[::-1])
            sock.add(list(replaced))
            why = os.strerror(next(answer for answer in answers if answer))
            raise BackendError(f"the rules and routes of a Child SA cannot be set: {why}")
        # A removal says less than the route: it would hit the one that has taken the place. Gone already, with its
        # device or by another's hand, is as good.
        sock.delete([item for item in _routes_first(remove) if item not in replaced][::-1])
        for item in remove:
            self._in_force.pop(item, None)
        self._in_force |= dict.fromkeys(add)

    def _opened(self, failure: str) -> RouteSocket:
        if self._sock is None:
            raise BackendError(f"{failure}: the backend is not open")
        return self._sock

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
