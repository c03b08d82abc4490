"""Between the core and a Child SA backend: what events ask of the backend, and what the backend tells the core."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ikev2.core.events import (
    AddressesReleased,
    AddressesTaken,
    ChildSaDeleted,
    ChildSaHalfClosed,
    ChildSaMoved,
    ChildSaReady,
    ChildSaRekeyed,
    Event,
)
from ikev2.core.manager import SaManager
from ikev2.core.types import Address
from ikev2.errors import BackendError, IkeError
from ikev2.io.describe import describe_event
from ikev2.io.log import LogRing
from ikev2.io.traps import Traps
from ikev2.ipsec.backend import IKE_PORT, Acquire, Backend, PeerMoved, UnknownSpi, WrongSelectors

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.core.ike_sa import IkeSa


class Installer:
    """Carries out the events of a manager on its backend, and takes the backend's own events to the manager.

    Faults of the backend are logged and counted in `counters`; a Child SA that it refuses is deleted again.
    """

    def __init__(self, backend: Backend, manager: SaManager, log: LogRing, counters: Counter[str]) -> None:
        self.traps = Traps(backend, manager, log)
        self.backend = backend
        self.manager = manager
        self.log = log
        self.counters = counters
        self._inbound_packets: dict[int, int] = {}
        self._virtual_addresses: Counter[str] = Counter()

    def carry_out(self, event: Event, now: float) -> bool:
        """Do what an event asks for; False when it has come to nothing, as a Child SA that cannot be installed has."""
        try:
            match event:
                case ChildSaReady(child, standby):
                    if standby:
                        self.backend.install_standby(child)
                    else:
                        self.backend.install(child)
                case ChildSaRekeyed(_, new):
                    self.backend.activate(new)
                case ChildSaMoved(old, new):
                    self.backend.update_address(old, new)
                case ChildSaDeleted(child):
                    self._inbound_packets.pop(child.spi_in, None)
                    self.backend.delete(child)
                case AddressesTaken(_, addresses):
                    self._take_addresses(addresses)
                case AddressesReleased(_, addresses):
                    self._release_addresses(addresses)
                case ChildSaHalfClosed(child):
                    self.backend.delete_outbound(child)  # rfc7296-s1.4.1-04; the rest goes with ChildSaDeleted
                case _:
                    pass
        except IkeError as error:  # also what a backend takes for nonsense: a peer may have asked for it
            self.log.log("KNL", f"{describe_event(event)}: {error}")
            self.counters["backend_errors"] += 1
            if isinstance(event, ChildSaReady):
                self.manager.child_install_failed(event.child, str(error), now)
                return False
            if isinstance(event, ChildSaMoved):
                # It may be gone from the backend, with its policies: it must not seem to protect anything.
                with contextlib.suppress(IkeError):
                    self.backend.delete(event.new)
                self.manager.child_install_failed(event.new, str(error), now)
                return False
        return True

    def note_inbound_traffic(self, sa: IkeSa, now: float) -> None:
        """A peer whose packets arrive lives: no need to ask. RFC 7296 section 2.4."""
        if not sa.connection.dpd_delay_s:
            return
        for spi_in, child in sa.children.items():
            with contextlib.suppress(BackendError):
                packets = self.backend.query(child.params).packets_in
                if packets > self._inbound_packets.get(spi_in, 0):
                    sa.note_inbound_traffic(now)
                self._inbound_packets[spi_in] = packets

    def _take_addresses(self, addresses: Sequence[str]) -> None:
        """Make these addresses this host's; several IKE SAs may have one, as when one replaces the other."""
        for address in addresses:
            self._virtual_addresses[address] += 1
            if self._virtual_addresses[address] == 1:
                self._attempt(self.backend.add_address, address)

    def _release_addresses(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            self._virtual_addresses[address] -= 1
            if not self._virtual_addresses[address]:
                del self._virtual_addresses[address]
                self._attempt(self.backend.remove_address, address)

    def _attempt(self, action: Callable[[str], None], address: str) -> None:
        """One address that the system refuses does not keep the others from their place."""
        try:
            action(address)
        except IkeError as error:
            self.log.log("KNL", str(error))
            self.counters["backend_errors"] += 1

    def take_events(self, now: float) -> None:
        """Tell the core whatever the backend has to say."""
        while (event := self.backend.next_event()) is not None:
            if isinstance(event, PeerMoved):
                self._peer_moved(event, now)
                continue
            if isinstance(event, UnknownSpi):
                self._stray_esp(event, now)
                continue
            if isinstance(event, WrongSelectors):
                child = self.find_child(event.spi)
                name = child.label if child is not None else f"{event.spi:08x}"
                self.log.log("KNL", f"{name}: a packet that its selectors do not mean was dropped")
                self.manager.wrong_selectors(event.spi, event.packet, now)
                continue
            if isinstance(event, Acquire):
                self.traps.spring(event, now)
                continue
            self.log.log(
                "KNL", f"the Child SA with SPI {event.spi:08x} reached its {'hard' if event.hard else 'soft'} limit"
            )
            for child in [child.params for sa in self.manager.sas for child in sa.children.values()]:
                if event.spi not in (child.spi_in, child.spi_out):
                    continue
                if event.hard:
                    self.manager.expire_child(child, now)
                else:
                    self.manager.rekey_child(child, now)

    def _stray_esp(self, event: UnknownSpi, now: float) -> None:
        """ESP for nobody: its sender is told, from the port to which it came, or from that of IKE."""
        in_udp = event.remote.port != 0
        port = next((one.ike_port for one in self.manager.connections), IKE_PORT)
        local = event.local if in_udp else Address(event.local.host, port)
        remote = event.remote if in_udp else Address(event.remote.host, port)
        self.log.log("KNL", f"ESP with SPI {event.spi:08x} from {event.remote.host}: no such Child SA")
        self.manager.stray_esp(event.spi, local, remote, now, in_udp=in_udp)

    def _peer_moved(self, event: PeerMoved, now: float) -> None:
        """ESP of a peer comes by another mapping of its NAT: IKE goes there, too. RFC 7296 section 2.23."""
        child = self.find_child(event.spi)
        if child is not None:  # else gone by now
            self.manager.peer_moved(child, Address(event.remote, event.remote_port), now)

    def find_child(self, spi_in: int) -> ChildSaParameters | None:
        """The parameters of an installed Child SA by its inbound SPI; None when there is none."""
        for sa in self.manager.sas:
            found = sa.children.get(spi_in)
            if found is not None:
                return found.params
        return None
