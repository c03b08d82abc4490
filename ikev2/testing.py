"""One end of IKEv2 for a test: an SaManager with a clock, a name for everything that happened, and nothing hidden.

    a, b = Peer(connection(...)), Peer(connection(...))
    sa = a.initiate()
    roundtrip(a, b)
    assert a.event(events.IkeSaEstablished)

No sockets and no real time: datagrams are values that the test moves, drops or changes, and `advance` is the clock.
`Endpoint` drives the same core over UDP. docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from ikev2.core.config import Limits
from ikev2.core.manager import SaManager
from ikev2.core.state import WITH_PEER
from ikev2.core.types import Address, Datagram
from ikev2.errors import LocalProtocolError
from ikev2.io.entropy import SystemEntropy

if TYPE_CHECKING:
    from ikev2.core.config import ConnectionConfig
    from ikev2.core.events import Event
    from ikev2.core.exchange import Ask
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.impair import Impairment
    from ikev2.core.keylog import KeyLog
    from ikev2.core.pools import PoolConfig
    from ikev2.core.tracer import Tracer
    from ikev2.crypto.entropy import Entropy
    from ikev2.iana import ExchangeType
    from ikev2.io.recorder import Recorder
    from ikev2.wire.payloads import Payload

E = TypeVar("E")

ROUNDTRIP_LIMIT = 1000
"""Datagrams that one roundtrip moves: two ends that say more to each other never come to rest."""


class _Spis:
    """Child SAs of a Peer are negotiated and installed nowhere, so any SPI is free."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def allocate_spi(self, local: str, remote: str) -> int:
        return 0xC000_0000 | int.from_bytes(self._entropy.octets(4), "big")

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        """Nobody else wants it."""


class Peer:
    """One end without I/O. `connections` are from `connection`; the first one's first local address is our address.

    `events` are all so far, oldest first; `now` is its clock in seconds; `manager` is the core itself, for what is not
    here. `pools` are from `pool`; `impairments` are knobs; a `recorder` gets every message. Its Child SAs are
    negotiated, and carry nothing.
    """

    def __init__(
        self,
        *connections: ConnectionConfig,
        pools: Sequence[PoolConfig] = (),
        impairments: Sequence[Impairment] = (),
        recorder: Recorder | None = None,
        keylog: KeyLog | None = None,
        tracer: Tracer | None = None,
        limits: Limits | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        if not connections or "%any" in connections[0].local_addrs:
            raise LocalProtocolError("a Peer needs a connection with an address in local_addrs")
        self.address = Address(connections[0].local_addrs[0], connections[0].ike_port)
        self.now = 0.0
        self.events: list[Event] = []
        entropy = entropy or SystemEntropy()
        self.manager = SaManager(
            connections,
            entropy,
            _Spis(entropy),
            limits,
            pools=pools,
            impairments=impairments,
            tracer=tracer,
            keylog=keylog if recorder is None else recorder,
        )
        self._recorder = recorder

    def initiate(self, name: str | None = None, *, impairments: Sequence[Impairment] = ()) -> IkeSa:
        """Begin an IKE SA of a connection, the first one when none is named; its first request waits to be sent."""
        wanted = self.manager.connections[0].name if name is None else name
        return self.manager.initiate(wanted, None, self.address, self.now, impairments=impairments)

    def ask(self, exchange: ExchangeType, *payloads: Payload) -> Ask:
        """Send a request of these payloads on the newest IKE SA; the event Answered has what comes back.

        LocalProtocolError when a payload cannot be encoded or there is no established IKE SA.
        """
        return self.manager.ask(self.sa, exchange, payloads, self.now)

    @property
    def sa(self) -> IkeSa:
        """The newest IKE SA with an authenticated peer. LocalProtocolError when there is none."""
        found = [sa for sa in self.manager.sas if sa.state in WITH_PEER]
        if not found:
            raise LocalProtocolError("no IKE SA is established")
        return found[-1]

    def event(self, kind: type[E]) -> E:
        """The newest event of this kind. LookupError, with what did happen, when there is none."""
        self._take_events()
        for event in reversed(self.events):
            if isinstance(event, kind):
                return event
        happened = ", ".join(type(event).__name__ for event in self.events) or "nothing"
        raise LookupError(f"no {kind.__name__}; happened: {happened}")

    def receive(self, datagram: Datagram) -> None:
        """Take a datagram that another peer sends to this one."""
        if self._recorder is not None:
            self._recorder.datagram(
                datagram.data, datagram.remote, datagram.local, outbound=False, time_ns=self._now_ns()
            )
        self.manager.receive_datagram(datagram.data, datagram.remote, datagram.local, self.now)
        self._take_events()

    def send(self) -> list[Datagram]:
        """What goes out now; each datagram is given once."""
        self._take_events()
        datagrams = self.manager.datagrams_to_send()
        if self._recorder is not None:
            for one in datagrams:
                self._recorder.datagram(one.data, one.local, one.remote, outbound=True, time_ns=self._now_ns())
        return datagrams

    def advance(self, seconds: float) -> None:
        """Let time pass: timers that are due on the way fire, in order."""
        until = self.now + seconds
        while (at := self.manager.next_timer()) is not None and at <= until:
            self.now = max(self.now, at)
            self.manager.handle_timer(self.now)
        self.now = until
        self._take_events()

    def _take_events(self) -> None:
        while (event := self.manager.next_event()) is not None:
            self.events.append(event)

    def _now_ns(self) -> int:
        return int(self.now * 1e9)


def roundtrip(*peers: Peer) -> list[Datagram]:
    """Carry datagrams between the peers, by their addresses, until nobody has anything to say; what was carried.

    A datagram to an address that no peer has is lost. No time passes.
    """
    by_address = {peer.address.host: peer for peer in peers}
    carried: list[Datagram] = []
    while datagrams := [one for peer in peers for one in peer.send()]:
        for datagram in datagrams:
            carried.append(datagram)
            if (receiver := by_address.get(datagram.remote.host)) is not None:
                receiver.receive(datagram)
        if len(carried) > ROUNDTRIP_LIMIT:
            raise LocalProtocolError(f"after {len(carried)} datagrams the peers do not come to rest")
    return carried
