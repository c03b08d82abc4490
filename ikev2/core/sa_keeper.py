"""Who owns the IKE SAs of one endpoint: makes them, finds them, and is told and asked what one SA cannot know.

RFC 7296 sections 2.1, 2.4, 2.6 and 2.8.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from ikev2.core import reauthentication, suspicion
from ikev2.core.config import ConnectionConfig, Limits
from ikev2.core.events import ChildSaDeleted, Event
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI
from ikev2.core.ike_sa import IkeSa
from ikev2.core.impair import Impairment, Outlet
from ikev2.core.keylog import KeyLog
from ikev2.core.observer import SPI_OCTETS
from ikev2.core.path_mtu import PathMtus
from ikev2.core.pools import AddressPools, PoolConfig
from ikev2.core.sa_table import SaTable, own_spi
from ikev2.core.state import State
from ikev2.core.strangers import Strangers
from ikev2.core.tracer import NullTracer, Tracer
from ikev2.core.types import Address, ChildSpiSource, Datagram, Role
from ikev2.crypto.entropy import Entropy

REQID_BASE = 0x4950_0001
REQID_COUNT = 0xFFFE


class SaListener(Protocol):
    """Told when an IKE SA gets and loses its authenticated keys."""

    def sa_established(self, sa: IkeSa, now: float) -> None:
        """The SA is established."""
        ...

    def sa_closing(self, sa: IkeSa, now: float) -> None:
        """The SA still has its keys, for the last time."""
        ...

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        ...

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        ...


class SaKeeper:
    """The IKE SAs of one endpoint, their Observer, and the outbox and the events of all of them."""

    def __init__(
        self,
        entropy: Entropy,
        spi_source: ChildSpiSource,
        limits: Limits,
        *,
        pools: Sequence[PoolConfig] = (),
        impairments: Sequence[Impairment] = (),
        tracer: Tracer | None = None,
        keylog: KeyLog | None = None,
    ) -> None:
        self.limits = limits
        self.pools = AddressPools(tuple(pools))
        self.listeners: list[SaListener] = []
        self.now = 0.0
        self._outlet = Outlet(impairments)
        self.impairments = self._outlet.impairments
        self._entropy = entropy
        self._spi_source = spi_source
        self._tracer: Tracer = tracer or NullTracer()
        self._keylog = keylog
        self._table = SaTable()
        self._path_mtus = PathMtus(limits.unprotected_replies_per_s)
        self._strangers = Strangers(entropy, limits)
        self._retired = suspicion.RetiredSpis()
        self._events: deque[Event] = deque()
        self._outbox: list[Datagram] = []
        self._reqid = 0
        self._touched: list[IkeSa] = []

    # --- what others see -----------------------------------------------------------------------------------------

    @property
    def sas(self) -> list[IkeSa]:
        """All IKE SAs that are not closed, oldest first."""
        return [sa for sa in self._table if sa.state is not State.CLOSED]

    @property
    def half_open_count(self) -> int:
        """How many responder SAs there are whose initiator has proved nothing."""
        return len(self._strangers.half_open)

    @property
    def remembered(self) -> int:
        """How many SAs are kept in all, with those that are closed and only answer retransmissions."""
        return len(self._table)

    def find(self, spi_i: bytes, spi_r: bytes) -> IkeSa | None:
        """The established IKE SA of these SPIs, in the order of the IKE header."""
        return self._table.established(spi_i, spi_r)

    def find_by_peer(self, host: str) -> list[IkeSa]:
        """Established IKE SAs whose peer has this address, or whose Child SAs lead to it; the newest first.

        An SA whose peer itself has the address goes before one that only leads there.
        """
        return self._table.by_peer(host)

    # --- Observer ------------------------------------------------------------------------------------------------

    def is_only_sa(self, sa: IkeSa) -> bool:
        """True when no other SA that may be of this connection's identities is there, or on its way."""
        return self._table.is_only_sa(sa)

    def others_behind(self, sa: IkeSa) -> list[IkeSa]:
        """The IKE SAs of other peers that are seen under the address of this one's, behind a NAT."""
        return self._table.others_behind(sa)

    def next_reqid(self) -> int:
        """The next number of our range."""
        self._reqid = (self._reqid + 1) % REQID_COUNT
        return REQID_BASE + self._reqid

    def new_ike_spi(self) -> bytes:
        """An IKE SPI that is unique here (rfc7296-s2.6-01)."""
        while (spi := self._entropy.octets(SPI_OCTETS)) == ZERO_SPI or spi in self._table:
            continue
        return spi

    def is_taken(self, spi_i: bytes, spi_r: bytes) -> bool:
        """True when an SA has both of these SPIs, whichever of them is ours."""
        return self._table.has_pair(spi_i, spi_r)

    def established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """Tell the listeners; after INITIAL_CONTACT drop the SAs that the peer has forgotten.

        Those that came up after the new one was begun are spared: the peer may have made both at once.
        """
        for listener in self.listeners:
            listener.sa_established(sa, now)
        self._table.authenticated(sa)
        for other in self._table.others_between(sa) if initial_contact else ():
            if other.established_at is not None and other.established_at < sa.created_at:
                other.close("the peer has started anew (INITIAL_CONTACT)", now)  # rfc7296-s2.4-04
                self._collect(other, now)

    def adopted(self, sa: IkeSa, now: float) -> None:
        """Keep what came of the rekeying of another."""
        self._table.add(sa)
        self._table.authenticated(sa)
        self._touched.append(sa)
        for listener in self.listeners:
            listener.sa_established(sa, now)

    def touched(self, sa: IkeSa) -> None:
        """Look at this one, too, at the end of the turn."""
        self._touched.append(sa)

    def reauthenticate(self, sa: IkeSa, now: float) -> None:
        """Begin the IKE SA that is to replace this one. RFC 7296 section 2.8.3."""
        new = self._make(sa.connection, Role.INITIATOR, *reauthentication.endpoints(sa), ())
        reauthentication.begin(sa, new, now)
        self._table.add(new)
        self._touched.append(new)

    def replaced(self, sa: IkeSa, now: float) -> None:
        """Delete what this one replaces, when it has all of its Child SAs."""
        old = reauthentication.finish(sa, now)
        if old is not None:
            self._touched.append(old)

    def closing(self, sa: IkeSa, now: float) -> None:
        """Tell the listeners, while there are keys."""
        old = reauthentication.failed(sa, now)
        if old is not None:
            self._touched.append(old)
        if sa.established_at is not None:
            for listener in self.listeners:
                listener.sa_closing(sa, now)

    # --- keeping order -------------------------------------------------------------------------------------------

    def _make(
        self,
        connection: ConnectionConfig,
        role: Role,
        local: Address,
        remote: Address,
        candidates: Iterable[ConnectionConfig],
        impairments: Sequence[Impairment] = (),
    ) -> IkeSa:
        sa = IkeSa(
            connection,
            role,
            self._entropy,
            self._spi_source,
            local=local,
            remote=remote,
            candidates=tuple(candidates),
            limits=self.limits,
            observer=self,
            tracer=self._tracer,
            keylog=self._keylog,
            impairments=impairments,
            shared_impairments=self.impairments,
        )
        sa.fragmentation.path_mtu = self._path_mtus.get(remote.host, self.now)
        return sa

    def _collect(self, sa: IkeSa, now: float) -> None:
        """Take what an SA has to say, and whoever was touched by it, and keep the tables in step with their states."""
        self._collect_one(sa, now)
        while self._touched:
            self._collect_one(self._touched.pop(0), now)

    def _collect_one(self, sa: IkeSa, now: float) -> None:
        while (event := sa.next_event()) is not None:
            self._events.append(event)
            if isinstance(event, ChildSaDeleted):
                self._retired.add(event.child.spi_in, now)
        self._queue(sa.datagrams_to_send(), now)
        spi = own_spi(sa)
        if sa.finished:
            self._table.forget(sa)
            self._strangers.half_open.set(spi, "", half_open=False)
            return
        self._strangers.half_open.set(spi, sa.remote.host, half_open=sa.is_half_open)
        self._table.place(sa)
        self._table.arm(sa)

    def _queue(self, datagrams: Iterable[Datagram], now: float) -> None:
        for datagram in datagrams:
            self._outbox += self._outlet.send(datagram, now)
