"""ESP in this process, over a TUN device: for kernels without ESP, and for seeing every packet.

Rules of our own (see `ikev2.ipsec.routing`) send what a Child SA protects into the device, where `DataPlane` takes
it; what comes out of ESP is written to the device and enters the host. Three kinds of traffic stay outside: what
our own sockets send (they carry a mark), IKE and ESP between the outer addresses, and the bypasses. Host to host,
where inner and outer addresses are the same, works for that reason. It needs CAP_NET_ADMIN and CAP_NET_RAW in its
network namespace: root, or root in a user namespace (`unshare -Urnm`).

What comes in clear enters the host by the kernel's own way, past this process: a packet that should have been
protected and was not is dropped by rules of nftables (see `ikev2.ipsec.clear_traffic`), where the kernel has that.
RFC 4301 sections 5.1 and 5.2, RFC 4303.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Hashable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import ClassVar, TypeAlias

from ikev2.core.child_sa import ChildCounters, ChildSaParameters, UdpEncap
from ikev2.errors import BackendError
from ikev2.iana import TsType
from ikev2.ipsec import ipv6
from ikev2.ipsec.backend import (
    IKE_PORT,
    NAT_PORT,
    Backend,
    BackendEvent,
    Bypass,
    DropReason,
    OnIke,
    ProbeResult,
    Trap,
)
from ikev2.ipsec.claims import Claims
from ikev2.ipsec.clear_traffic import Arriving, ClearTraffic, mirrored, protected, to_socket
from ikev2.ipsec.dataplane import DataPlane
from ikev2.ipsec.esp_sockets import SO_MARK, open_esp_socket
from ikev2.ipsec.icmp import OnPathMtu
from ikev2.ipsec.inner_mtus import InnerMtus
from ikev2.ipsec.outer import inner_mtu
from ikev2.ipsec.pair import Pair
from ikev2.ipsec.routing import (
    INSTANCES,
    MAIN_TABLE,
    PRIORITY_MARK,
    PRIORITY_OUTSIDE,
    PRIORITY_PROTECT,
    SOCKET_MARK,
    TABLE,
    HostRouting,
)
from ikev2.ipsec.rules import ICMP_ERRORS, IpNetwork, Ports, Route, Rule, Wanted
from ikev2.ipsec.sad import Engine
from ikev2.ipsec.spd import Policy, Selector, selectors_of
from ikev2.ipsec.trace import EspTrace, PacketSink
from ikev2.ipsec.traps import policy_of
from ikev2.ipsec.tun import SourceCheck, TunDevice, has_ipv6

log = logging.getLogger(__name__)

DEVICE_PREFIX = "ikesp"

_LEAST_MTU = 68
_MOST_MTU = 65535
_UNSPECIFIED = IPv4Network("0.0.0.0/32")
_EVERYWHERE = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
IpAddress = IPv4Address | IPv6Address

_OLDEST_KERNEL = (4, 17)  # rules by protocol and port


_Alike: TypeAlias = tuple[Policy, bool, str, str, UdpEncap | None]
"""By what the rules and routes of a pair are told from those of another: see `_alike`."""


class UserspaceBackend(Backend):
    """RFC 4303 in a thread of this process."""

    name: ClassVar[str] = "userspace"
    makes_outer_headers: ClassVar[bool] = True
    sends_dummies: ClassVar[bool] = True
    wants_encap_socket = True

    def __init__(self, *, trace: PacketSink | None = None) -> None:
        """`trace` gets every packet before and after ESP."""
        self._engine = Engine()
        self._trace = EspTrace(self._engine, trace) if trace is not None else None
        self._routing = HostRouting()
        self._claims = Claims()
        self._clear = ClearTraffic()
        self._ike_ports: dict[Arriving, None] = {}
        self._sharing: dict[_Alike, dict[int, Pair]] = {}
        self._alike_of: dict[int, _Alike] = {}
        self._sources = SourceCheck()
        self._checked: set[str] = set()
        self._tun: TunDevice | None = None
        self._plane: DataPlane | None = None
        self._instance = 0
        self._device_index = 0
        self._mtu = 0
        self._inner_mtus = InnerMtus()
        self._event_fd = -1

    @classmethod
    def probe(cls) -> ProbeResult:
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        if release < _OLDEST_KERNEL:
            return ProbeResult(cls.name, False, "the kernel is older than 4.17 and has no rules by port")
        try:
            open_esp_socket().close()
            tun, _ = TunDevice.first_free(DEVICE_PREFIX, INSTANCES)
        except BackendError as error:
            return ProbeResult(cls.name, False, str(error))
        routing = HostRouting()
        try:
            routing.open()
            routing.device_up(tun.name)
        except BackendError as error:
            return ProbeResult(cls.name, False, str(error))
        finally:
            routing.close()
            tun.close()
        return ProbeResult(cls.name, True, "a TUN device and a raw socket for ESP can be opened")

    @property
    def device(self) -> str:
        """The name of the TUN device; "" when the backend is not open."""
        return self._tun.name if self._tun is not None else ""

    @property
    def kernel_requests(self) -> int:
        """How often the host's routing was asked of, or changed in, the kernel since the backend was opened."""
        return self._routing.requests

    def open(self) -> None:
        if self._tun is not None:
            return
        try:
            self._tun, self._instance = TunDevice.first_free(DEVICE_PREFIX, INSTANCES)
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._routing = HostRouting()
            self._routing.open()
            self._routing.clean_stale(DEVICE_PREFIX, self._instance)
            self._tun.without_ipv6()
            self._sources.relax(self._tun.name)
            self._device_index = self._routing.device_up(self._tun.name)
            self._plane = DataPlane(self._engine, self._tun.fd, self._signal, self._trace)
            if self.drops_clear:
                self._clear.open(DEVICE_PREFIX, self._instance)
                self._clear.want("sockets", outside=self._ike_ports)
            else:
                self._clear.clean(DEVICE_PREFIX, self._instance)
            self._claim("mark", [self._marked(network) for network in _EVERYWHERE[: 1 + has_ipv6()]])
            self._plane.start()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        if self._tun is None:
            return
        # Whatever else fails, the device goes, and the routes through it.
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_device)
            stack.callback(self._sources.restore)
            stack.callback(self._routing.close)
            stack.callback(self._clear.close)
            if self._plane is not None:
                stack.callback(self._plane.stop)
            self._engine.clear()
            self._claims.clear()
            self._sharing.clear()
            self._alike_of.clear()
            self._checked.clear()
            self._inner_mtus.clear()
            self._ike_ports.clear()

    def _close_device(self) -> None:
        if self._tun is not None:
            self._tun.close()
        if self._event_fd >= 0:
            os.close(self._event_fd)
        self._tun, self._plane, self._event_fd, self._mtu = None, None, -1, 0

    def allocate_spi(self, local: str, remote: str) -> int:
        return self._engine.allocate_spi()

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        self._engine.release_spi(spi)

    def install(self, child: ChildSaParameters) -> None:
        self._install(child, standby=False)

    def install_standby(self, child: ChildSaParameters) -> None:
        self._install(child, standby=True)

    def activate(self, child: ChildSaParameters) -> None:
        self._engine.activate(child)

    def _install(self, child: ChildSaParameters, *, standby: bool) -> None:
        plane = self._opened()
        if child.encap is not None and not plane.can_encapsulate(child.remote):
            raise BackendError(f"Child SA {child.label} wants ESP in UDP, and no UDP {NAT_PORT} socket is attached")
        self._check_scopes(child)
        pair = self._engine.install(child, standby=standby)
        try:
            self._settle(pair)
        except BackendError:
            self._engine.delete(child)
            self._inner_mtus.forget(child.spi_in)
            raise
        if child.dummies.interval_s:
            plane.send_dummies(child)

    def _check_scopes(self, of: ChildSaParameters | Trap) -> None:
        """Routes of ours lead a destination into the device, whatever link it is on: link-local ones cannot be told."""
        of_ipv6 = [ts for ts in (*of.ts_local, *of.ts_remote) if ts.ts_type == TsType.TS_IPV6_ADDR_RANGE]
        for selector in selectors_of(of_ipv6):
            if any(network.is_link_local for network in selector.networks()):
                label = of.name if isinstance(of, Trap) else of.label
                raise BackendError(
                    f"Child SA {label} protects link-local addresses: routes cannot say on which link"
                )

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        self._opened()
        self._settle(self._engine.replace(old, new))

    def delete(self, child: ChildSaParameters) -> None:
        # What the peer sent before it knew of the deletion may lie in a socket, unread: it is not lost.
        if self._engine.delete(child, leaving=self._plane is not None) is not None and self._tun is not None:
            if self._plane is not None:
                self._plane.after_reading(lambda: self._engine.forget(child.spi_in))
                if child.dummies.interval_s:
                    self._plane.stop_dummies(child.spi_in)
            self._inner_mtus.forget(child.spi_in)
            self._set_mtu()
            self._unshare(child.spi_in)

    def delete_outbound(self, child: ChildSaParameters) -> None:
        self._engine.delete_outbound(child)

    def query(self, child: ChildSaParameters) -> ChildCounters:
        return self._engine.counters(child)

    def drops(self) -> dict[str, int]:
        came_in_clear = self._clear.dropped()
        return dict(self._engine.drops) | ({DropReason.CLEAR: came_in_clear} if came_in_clear else {})

    def add_bypass(self, bypass: Bypass) -> None:
        self._opened()
        if self._engine.add_bypass(bypass):
            try:
                self._claim(bypass, self._outside(bypass.remote, bypass.ip_protocol, bypass.ports))
            except BackendError:
                self._engine.remove_bypass(bypass)
                raise

    def remove_bypass(self, bypass: Bypass) -> None:
        if self._engine.remove_bypass(bypass) and self._tun is not None:
            self._claim(bypass, ())

    def add_trap(self, trap: Trap) -> None:
        self._opened()
        self._check_scopes(trap)
        if self._engine.add_trap(trap):
            try:
                self._lay(trap)
            except BackendError:
                self._engine.remove_trap(trap)
                raise

    def remove_trap(self, trap: Trap) -> None:
        if self._engine.remove_trap(trap) and self._tun is not None:
            self._claim(trap, ())

    def _lay(self, trap: Trap) -> None:
        """Lead the traffic of a trap into the device, where it is met; again when the host has changed."""
        policy = policy_of(trap)
        if any(selector.version == 6 for selector in policy.local) and self._tun is not None:
            self._tun.with_ipv6()
        self._claim(trap, self._wanted(policy, trap), protected(policy))

    def add_address(self, address: str) -> None:
        self._opened()
        if ":" in address and self._tun is not None:
            self._tun.with_ipv6()
        self._routing.add_address(self._device_index, address)

    def remove_address(self, address: str) -> None:
        if self._tun is not None:
            self._routing.remove_address(self._device_index, address)

    def prepare_ike_socket(self, sock: socket.socket, *, encap: bool = False) -> None:
        """Mark the socket: a rule sends marked traffic by the main table. Needs CAP_NET_ADMIN."""
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        except OSError as error:
            raise BackendError(f"an IKE socket cannot be marked: {error.strerror}") from error
        self._ike_ports[to_socket(sock)] = None
        self._clear.want("sockets", outside=self._ike_ports)

    def attach_encap_socket(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        plane = self._opened()
        self.prepare_ike_socket(sock, encap=True)
        plane.attach(sock, on_ike, on_path_mtu)

    def next_event(self) -> BackendEvent | None:
        events = self._engine.events
        if not events and self._event_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        return events.popleft() if events else None

    def event_fd(self) -> int | None:
        return self._event_fd if self._event_fd >= 0 else None

    def _signal(self) -> None:
        os.eventfd_write(self._event_fd, 1)

    def _opened(self) -> DataPlane:
        if self._plane is None:
            raise BackendError("the userspace backend is not open")
        return self._plane

    # --- what the host's routing has to say -------------------------------------------------------------------

    def _settle(self, pair: Pair) -> None:
        """Make MTU, rules and routes what this pair wants, and the others, too, if the host has changed."""
        if self._routing.host_changed():
            self._checked.clear()
            for alike, sharing in self._sharing.items():
                self._claim_again(alike, next(iter(sharing.values())))
            for trap in self._engine.traps.traps:
                self._lay(trap)
        carries_ipv6 = _carries_ipv6(pair)
        most = self._inner_mtu(pair)
        self._inner_mtus.note(pair.inbound.spi, most, carries_ipv6=carries_ipv6)
        pair.limit(most)
        self._set_mtu()
        if carries_ipv6 and self._tun is not None:
            self._tun.with_ipv6()
        self._share(pair)

    def _share(self, pair: Pair) -> None:
        """Claim the rules and routes of a pair, unless another that wants the same has them already."""
        spi, alike = pair.inbound.spi, _alike(pair)
        before = self._alike_of.get(spi)
        if before == alike:
            return
        sharing = self._sharing.get(alike)
        if sharing is None:
            self._claim(alike, self._wanted(pair.policy, pair.child), protected(pair.policy))
            sharing = self._sharing[alike] = {}
        sharing[spi] = pair
        if before is not None:
            self._unshare(spi)
        self._alike_of[spi] = alike

    def _unshare(self, spi: int) -> None:
        """A pair no longer wants the rules and routes that it had."""
        alike = self._alike_of.pop(spi, None)
        if alike is None:
            return
        del self._sharing[alike][spi]
        if not self._sharing[alike]:
            del self._sharing[alike]
            self._claim(alike, ())

    def _claim_again(self, alike: _Alike, pair: Pair) -> None:
        """The addresses of the host are others than when the pair was installed; what it has stays where that fails."""
        try:
            self._claim(alike, self._wanted(pair.policy, pair.child), protected(pair.policy))
        except BackendError as error:
            log.warning("the routes of Child SA %s stay as they were: %s", pair.child.label, error)

    def _set_mtu(self) -> None:
        mtu = self._inner_mtus.least(self._mtu)
        if mtu != self._mtu:
            self._routing.set_mtu(self._device_index, mtu)
            self._mtu = mtu

    def _claim(self, owner: Hashable, wanted: Collection[Wanted], refused: Collection[Arriving] = ()) -> None:
        """Note what an owner wants, and make the kernel's rules and routes follow. Raises BackendError.

        What its rules lead outside may come from there, too; what is `refused` must not come in clear.
        """
        before = self._claims.of(owner)
        outside = [
            mirrored(one) for one in wanted if isinstance(one, Rule) and one.priority == self._outside_priority
        ]
        add, remove = self._claims.want(owner, wanted)
        try:
            self._routing.change(add, remove)
            try:
                self._clear.want(owner, outside, refused)
            except BackendError:
                self._routing.change(remove, add)
                raise
        except BackendError:
            self._claims.want(owner, before)
            raise

    @property
    def _outside_priority(self) -> int:
        return PRIORITY_OUTSIDE + self._instance

    def _inner_mtu(self, pair: Pair) -> int:
        """The largest packet whose ESP packet fits the outer MTU."""
        link = self._routing.outer_link(pair.child.remote)
        if link.interface not in self._checked and len(pair.remote) == 4:
            self._sources.relax(link.interface)
            self._checked.add(link.interface)
        room = inner_mtu(pair, link.mtu)
        # Where less than 1280 is left for IPv6, ESP packets go in fragments. RFC 8200 section 5.
        least = ipv6.LEAST_MTU if _carries_ipv6(pair) else _LEAST_MTU
        return max(least, min(room, _MOST_MTU))

    def _wanted(self, policy: Policy, of: ChildSaParameters | Trap) -> set[Wanted]:
        """The rules and routes of one pair, or of a trap."""
        wanted: set[Wanted] = set(self._keep_outside(of))
        routes: dict[IpNetwork, Route] = {}
        own = [ip_address(address) for address in self._routing.own_addresses()]
        for local in policy.local:
            for remote in policy.remote:
                wanted.update(self._protect(of.local, local, remote, own, routes))
        for destination, route in routes.items():
            wanted |= {route, Route(destination, route.table, None)}
        return wanted

    def _outside(self, remote: str, ip_protocol: int, ports: Ports) -> set[Rule]:
        """Both directions of the conversation: our own port lies in the range, or the peer's."""
        priority, to = self._outside_priority, _network(remote)
        return {
            Rule(priority, MAIN_TABLE, destination=to, ip_protocol=ip_protocol, source_ports=ports),
            Rule(priority, MAIN_TABLE, destination=to, ip_protocol=ip_protocol, destination_ports=ports),
        }

    def _keep_outside(self, of: ChildSaParameters | Trap) -> set[Rule]:
        """IKE and ESP between two hosts: what our sockets' mark says, for IKE of others on this host too."""
        to = _network(of.remote)
        esp = Rule(self._outside_priority, MAIN_TABLE, destination=to, ip_protocol=socket.IPPROTO_ESP)
        ports = {IKE_PORT, NAT_PORT}
        if isinstance(of, ChildSaParameters) and of.encap is not None:
            ports |= {of.encap.local_port, of.encap.remote_port}
        udp = (self._outside(of.remote, socket.IPPROTO_UDP, (port, port)) for port in ports)
        return {esp}.union(*udp)

    def _protect(
        self,
        outer: str,
        local: Selector,
        remote: Selector,
        own: list[IpAddress],
        routes: dict[IpNetwork, Route],
    ) -> set[Rule]:
        """The rules of one pair of selectors; the routes that they lead to are added to `routes`.

        Where a rule cannot say what the selectors say, it says more: what it catches beyond them has no SA and is
        dropped, never sent in clear.
        """
        if local.version != remote.version:
            return set()
        icmp, errors = ICMP_ERRORS[local.version]
        if local.ip_protocol and remote.ip_protocol and local.ip_protocol != remote.ip_protocol:
            return set()
        ip_protocol = local.ip_protocol or remote.ip_protocol or None
        here = _preferred(outer, local, own)
        sources: list[IpNetwork | None] = [
            None if network in _EVERYWHERE else network for network in local.networks()
        ]
        unbound = here is not None and None not in sources
        if unbound and local.version == 4:
            # A socket that is not bound is routed before it has an address.
            sources.append(_UNSPECIFIED)
        source_ports = destination_ports = None
        if _only_own(local, own):
            # What this host forwards in fragments shows a rule no ports, and would pass it by.
            source_ports, destination_ports = _rule_ports(local), _rule_ports(remote)
        kinds = [(ip_protocol, source_ports, destination_ports)]
        if ip_protocol not in (None, icmp):
            # Errors about what is protected go with it, and others on to where they would have gone.
            kinds += [(icmp, None, types) for types in errors]
        rules = set()
        for destination in remote.networks():
            routes.setdefault(destination, Route(destination, TABLE + self._instance, self._device_index, here))
            rules |= {
                Rule(
                    PRIORITY_PROTECT + self._instance,
                    TABLE + self._instance,
                    source=source,
                    destination=destination,
                    ip_protocol=of_protocol,
                    source_ports=from_ports,
                    destination_ports=to_ports,
                )
                for source in sources
                for of_protocol, from_ports, to_ports in kinds
            }
            if unbound and local.version == 6:
                # No rule of IPv6 with a source matches before there is one: whatever this host sends goes there.
                rules.add(
                    Rule(
                        PRIORITY_PROTECT + self._instance,
                        TABLE + self._instance,
                        destination=destination,
                        ip_protocol=ip_protocol,
                        source_ports=source_ports,
                        destination_ports=destination_ports,
                        from_here=True,
                    )
                )
        return rules

    def _marked(self, network: IpNetwork) -> Rule:
        """What our own sockets send goes its usual way, in the family of `network`."""
        return Rule(PRIORITY_MARK + self._instance, MAIN_TABLE, destination=network, mark=SOCKET_MARK)


def _alike(pair: Pair) -> _Alike:
    child = pair.child
    return pair.policy, pair.tunnel, child.local, child.remote, child.encap


def _network(host: str) -> IpNetwork:
    """A host's address, without its zone, as a network."""
    return ip_network(host.partition("%")[0])


def _carries_ipv6(pair: Pair) -> bool:
    return any(selector.version == 6 for selector in pair.policy.local)


def _preferred(outer: str, selector: Selector, own: list[IpAddress]) -> str | None:
    """The address of ours to send from: the outer one if the selector holds it, or any of the host's that it holds."""
    candidates = sorted(own, key=lambda address: str(address) != outer)
    found = next((a for a in candidates if selector.holds_address(a) and not a.is_loopback), None)
    return str(found) if found is not None else None


def _only_own(selector: Selector, own: list[IpAddress]) -> bool:
    """Whether all addresses of a selector are this host's: nothing that it protects is forwarded."""
    held = {address for address in own if selector.holds_address(address)}
    return len(held) == selector.last_address - selector.first_address + 1


def _rule_ports(selector: Selector) -> Ports | None:
    """The ports as a rule of the kernel takes them (1 to 65534), or all."""
    icmp = selector.ip_protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
    if icmp or not selector.ip_protocol or selector.any_port or selector.opaque or selector.last_port == 0xFFFF:
        return None
    return max(selector.first_port, 1), max(selector.last_port, 1)
