"""Child SAs that wait for traffic: `start_action = "trap"`, swanctl's word.

A trap lies in the backend as long as its connection is configured: a packet that matches it, and that no Child SA
carries, is dropped and begins the negotiation. When the Child SA goes, or its IKE SA is lost, the trap is there again.
RFC 4301 section 4.4.1, RFC 7296 sections 1.3.1 and 2.9.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from ikev2.core import narrowing
from ikev2.core.config import ChildConfig, ConnectionConfig
from ikev2.core.exchange import MakeChildSa, PacketSelectors
from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager
from ikev2.core.state import State
from ikev2.core.types import Address
from ikev2.errors import BackendError, IkeError, LocalProtocolError
from ikev2.io.first_addresses import first_addresses
from ikev2.io.log import LogRing
from ikev2.ipsec.backend import Acquire, Backend, Trap
from ikev2.wire.payloads import TrafficSelector

_PORTED = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP and UDP-Lite. What stands in the place of ports elsewhere (a type, a key of GRE) is none."""


@dataclass(frozen=True, slots=True)
class _Set:
    """A trap in the backend, and between which addresses its IKE SA is begun."""

    connection: ConnectionConfig
    trap: Trap
    local: Address
    remote: Address


class Traps:
    """The traps of one endpoint."""

    def __init__(self, backend: Backend, manager: SaManager, log: LogRing) -> None:
        self.backend = backend
        self.manager = manager
        self.log = log
        self._set: dict[tuple[str, str], _Set] = {}

    async def settle(self, connections: Iterable[ConnectionConfig]) -> None:
        """Lay the traps that these connections want, take up the others.

        Raises IkeError when a peer has no address, or the backend refuses: those that were laid before stay.
        """
        wanted = {
            (one.name, child.name): (one, child) for one in connections for child in one.children if child.traps
        }
        for key, laid in list(self._set.items()):
            if key not in wanted or wanted[key][0] != laid.connection:
                self._take_up(key)
        for key, (connection, child) in wanted.items():
            if key not in self._set:
                self._set[key] = await self._lay(connection, child)

    def take_up_all(self) -> None:
        """The endpoint stops: traffic begins nothing any more."""
        for key in list(self._set):
            with contextlib.suppress(BackendError):  # the backend is closed next
                self._take_up(key)

    def laid(self) -> list[tuple[str, Trap]]:
        """Each trap with the name of its connection."""
        return [(connection, laid.trap) for (connection, _), laid in self._set.items()]

    async def _lay(self, connection: ConnectionConfig, child: ChildConfig) -> _Set:
        local, remote = await first_addresses(connection)
        here, there = (one.host.partition("%")[0] for one in (local, remote))
        trap = Trap(
            child.name,
            self.manager.next_reqid(),
            child.mode,
            here,
            there,
            narrowing.resolve(child.local_ts, here),
            narrowing.resolve(child.remote_ts, there),
            child.kernel,
        )
        self.backend.add_trap(trap)
        self.log.log("KNL", f"{child.name}: traffic to {remote.host} will begin it")
        return _Set(connection, trap, local, remote)

    def _take_up(self, key: tuple[str, str]) -> None:
        self.backend.remove_trap(self._set.pop(key).trap)

    def spring(self, event: Acquire, now: float) -> None:
        """Traffic wants a Child SA: begin it, unless it is on its way."""
        laid = next((one for one in self._set.values() if one.trap.reqid == event.reqid), None)
        what = f"traffic from {event.source} to {event.destination}"
        if laid is None:
            self.log.log("KNL", f"{what} wants a Child SA to {event.remote}; bring it up with `ikev2 up`")
            return
        name = laid.trap.name
        ours = [sa for sa in self.manager.sas if sa.connection.name == laid.connection.name]
        if any(is_making(sa, name) for sa in ours):
            return
        self.log.log("KNL", f"{what} wants {name}")
        usable = (sa for sa in ours if sa.state in (State.ESTABLISHED, State.REKEYING) and not sa.is_closing())
        up = max(usable, key=_age, default=None)
        packet = packet_selectors(event)
        try:
            if up is not None:
                self.manager.make_child(up, name, now, packet=packet)
            else:
                self.manager.initiate(laid.connection.name, laid.remote, laid.local, now, child=name, packet=packet)
        except IkeError as error:
            self.log.log("IKE", f"{name}: {error}")


def _age(sa: IkeSa) -> float:
    return sa.established_at or 0.0


def is_making(sa: IkeSa, name: str) -> bool:
    """Whether a Child SA of this name is on its way: with its IKE SA, asked for, or about to be."""
    if sa.state is State.CLOSED:
        return False
    if sa.established_at is None:
        return any(config.name == name for config in sa.wanted)
    tasks = (*sa.tasks, *(request.task for request in sa.child_requests()))
    return any(isinstance(task, MakeChildSa) and task.config.name == name for task in tasks)


def packet_selectors(event: Acquire) -> PacketSelectors | None:
    """The two ends of the packet as traffic selectors; None when the backend does not say which it was.

    Of protocols without ports only the protocol: the answer to a message of ICMP, or of a mobility header, is of
    another type, and is to pass, too. RFC 7296 section 2.9.
    """

    def one(host: str, port: int) -> TrafficSelector:
        protocol = event.ip_protocol
        portless = protocol not in _PORTED or not (event.source_port or event.destination_port)
        return TrafficSelector.from_network(host, protocol, *((0, 0xFFFF) if portless else (port, port)))

    try:
        ends = ipaddress.ip_address(event.source), ipaddress.ip_address(event.destination)
    except ValueError:
        return None
    if any(end.is_unspecified for end in ends):
        return None
    try:
        return one(event.source, event.source_port), one(event.destination, event.destination_port)
    except LocalProtocolError:
        return None
