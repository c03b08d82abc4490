"""The Child SAs of one IKE SA: those that are there, those that are to go, and the SPIs of those that may come.

RFC 7296 sections 1.3.1, 1.4.1 and 2.8.
"""

from __future__ import annotations

from collections import deque

from ikev2.core import lifetime
from ikev2.core.child_negotiation import ChildSa
from ikev2.core.events import ChildSaDeleted, ChildSaReady, ChildSaRekeyed, Event
from ikev2.core.exchange import CloseChildSa, Task
from ikev2.core.exchanges import rekey_ike_sa
from ikev2.core.keylog import KeyLog
from ikev2.core.purposes import ChildRequest
from ikev2.core.types import Address, ChildSpiSource
from ikev2.core.window import Requests
from ikev2.crypto.entropy import Entropy


class ChildTable:
    """The part of an IKE SA that keeps its Child SAs, by the SPI on which we receive.

    `unwanted_spis` are of pairs that the peer has, or may have, and of which we have nothing. `replacing` has, for the
    SPI of a pair that the driver is to install, the SPI of the one whose place it takes: that one is deleted when
    the driver has done it, so that a system that refuses leaves the old pair as it is. RFC 7296 section 2.8.
    """

    local: Address
    remote: Address
    entropy: Entropy
    spi_source: ChildSpiSource
    keylog: KeyLog | None
    requests: Requests
    tasks: deque[Task]

    def __init__(self) -> None:
        self.children: dict[int, ChildSa] = {}
        self.unwanted_spis: set[int] = set()
        self.replacing: dict[int, int] = {}
        self._reserved_spis: dict[int, tuple[str, str]] = {}
        self._events: deque[Event] = deque()

    # --- SPIs that wait for their Child SA -----------------------------------------------------------------------

    def reserve_spi(self) -> int:
        """An SPI of the backend, for a Child SA that may come of an exchange."""
        hosts = self.local.host, self.remote.host
        spi = self.spi_source.allocate_spi(*hosts)
        self._reserved_spis[spi] = hosts
        return spi

    def release_spi(self, spi: int) -> None:
        """The exchange is over: give the SPI back, unless a Child SA has come of it."""
        hosts = self._reserved_spis.pop(spi, None)
        if hosts is not None:
            self.spi_source.release_spi(spi, *hosts)

    def release_all_spis(self) -> None:
        """No exchange goes on any more."""
        for spi in list(self._reserved_spis):
            self.release_spi(spi)

    # --- coming and going ----------------------------------------------------------------------------------------

    def add_child(self, child: ChildSa, now: float, *, standby_for: int | None = None) -> None:
        """A Child SA is negotiated; with `standby_for` another one is still to be sent on."""
        self._reserved_spis.pop(child.params.spi_in, None)
        child.installed_at = now
        child.standby_for = standby_for
        child.soft_at, child.hard_at = lifetime.draw(child.config.lifetime, self.entropy, now)
        self.children[child.params.spi_in] = child
        if self.keylog is not None:
            self.keylog.child_sa(child.params)
        self.add_event(ChildSaReady(child.params, standby=standby_for is not None))

    def add_replacement(self, child: ChildSa, old: ChildSa, now: float) -> None:
        """A Child SA is negotiated that takes the place of another, as soon as it is installed."""
        self.add_child(child, now)
        self.replacing[child.params.spi_in] = old.params.spi_in

    def take_place(self, spi_in: int) -> bool:
        """The pair of this SPI is installed: the one whose place it takes is to go. False when there is none."""
        new, old = self.children.get(spi_in), self.children.get(self.replacing.pop(spi_in, 0))
        if new is None or old is None:
            return False
        self.add_event(ChildSaRekeyed(old.params, new.params))
        self.tasks.appendleft(CloseChildSa(old.params.spi_in, "rekeyed"))
        return True

    def remove_child(self, child: ChildSa, reason: str) -> None:
        """A Child SA is gone at both ends; what stood by for it takes over."""
        del self.children[child.params.spi_in]
        self.replacing.pop(child.params.spi_in, None)
        for other in self.children.values():
            if other.standby_for == child.params.spi_in:
                other.standby_for = None
                self.add_event(ChildSaRekeyed(child.params, other.params))
        self.add_event(ChildSaDeleted(child.params, reason))

    def delete_unwanted(self, spi_in: int, reason: str) -> None:
        """Delete at the peer a pair of which we have nothing, or nothing any more."""
        self.unwanted_spis.add(spi_in)
        self.tasks.append(CloseChildSa(spi_in, reason))

    def add_event(self, event: Event) -> None:
        """Queue an event for the driver."""
        self._events.append(event)

    # --- what is known of them -----------------------------------------------------------------------------------

    def child_by_spi_out(self, spi_out: int) -> ChildSa | None:
        """The Child SA on whose SPI the peer receives."""
        return next((child for child in self.children.values() if child.params.spi_out == spi_out), None)

    def is_closing_child(self, child: ChildSa) -> bool:
        """True when we have sent a Delete for it, or are going to."""
        spi_in = child.params.spi_in
        if child.closing or spi_in in self.replacing.values():
            return True
        return any(isinstance(task, CloseChildSa) and task.spi_in == spi_in for task in self.tasks)

    def replacement_of(self, child: ChildSa) -> ChildSa | None:
        """What the peer has made to replace this Child SA, which it has still to delete."""
        spi_in = child.params.spi_in
        return next((other for other in self.children.values() if other.standby_for == spi_in), None)

    def is_busy_with_children(self) -> bool:
        """True while a request of ours makes, rekeys or closes a Child SA."""
        return any(rekey_ike_sa.is_about_children(purpose) for purpose in self.purposes())

    def purposes(self) -> list[object]:
        """What our outstanding requests are for, the oldest first."""
        return [request.purpose for request in self.requests.outstanding.values()]

    def child_requests(self) -> list[ChildRequest]:
        """Those that make or rekey a Child SA."""
        return [purpose for purpose in self.purposes() if isinstance(purpose, ChildRequest)]
