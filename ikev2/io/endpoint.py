"""The IKE endpoint: the sans-IO core between UDP sockets, a clock and a Child SA backend.

One turn is always the same: hand the core what came (a datagram, the time, a wish), carry out its events (install and
remove Child SAs), then send its datagrams, then set the one timer. Events come first, so that an inbound SA exists
before the peer can use it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

from ikev2.core.config import ConnectionConfig
from ikev2.core.events import (
    Answered,
    Event,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyed,
)
from ikev2.core.exporter import KeyExporter
from ikev2.core.manager import SaManager
from ikev2.core.transitions import State
from ikev2.core.types import Address, Datagram
from ikev2.errors import IkeError, LocalProtocolError
from ikev2.io.configuration import EndpointConfig
from ikev2.io.describe import CHILD_EVENTS, describe_event
from ikev2.io.entropy import SystemEntropy
from ikev2.io.first_addresses import first_addresses
from ikev2.io.installer import Installer
from ikev2.io.log import LogRing
from ikev2.io.mapping_keeper import MappingKeeper
from ikev2.io.sockets import SocketSet
from ikev2.io.udp import IkeSocket
from ikev2.io.wish import Wish
from ikev2.ipsec.backend import NON_ESP_MARKER, Backend, Trap
from ikev2.ipsec.memory import MemoryBackend
from ikev2.ipsec.probe import installable

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildCounters, ChildSaParameters
    from ikev2.core.ike_sa import IkeSa
    from ikev2.core.impair import Impairment
    from ikev2.core.info import IkeSaInfo
    from ikev2.core.keylog import KeyLog
    from ikev2.core.tracer import Tracer
    from ikev2.crypto.entropy import Entropy
    from ikev2.iana import ExchangeType
    from ikev2.io.recorder import Recorder
    from ikev2.wire.payloads import Payload

STOP_S = 2.0
"""How long stop() waits for the peers to acknowledge the deletion of their SAs."""


class Capture(Protocol):
    """Takes every datagram of an endpoint: a PcapWriter, or a Recorder."""

    def datagram(self, data: bytes, local: Address, remote: Address, *, outbound: bool) -> None:
        """A datagram as it is on the wire, with its marker, if any. OSError or ValueError end the capture."""
        ...

    def flush(self) -> None:
        """The datagrams of this turn are complete."""
        ...


class Endpoint:
    """Runs IKE on the current asyncio loop for a set of connections and one Child SA backend.

    `config` may be one connection alone; without a backend Child SAs are negotiated and carry nothing. `tracer`, `log`,
    `keylog` and `pcap` see what happens, a `recorder` is the last two in one; `impairments` spoil it on purpose. Used
    with `async with`, it is started and stopped. The methods raise IkeError with the reason when the peer or the system
    refuses, LocalProtocolError for a name that is not configured.
    RFC 7296 section 1.
    """

    def __init__(
        self,
        config: EndpointConfig | ConnectionConfig,
        backend: Backend | None = None,
        *,
        keylog: KeyLog | None = None,
        pcap: Capture | None = None,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        impairments: Sequence[Impairment] = (),
        log: LogRing | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.config = config = EndpointConfig((config,)) if isinstance(config, ConnectionConfig) else config
        self.backend = backend = MemoryBackend() if backend is None else backend
        self.log = log if log is not None else LogRing(config.log_lines)
        self.counters: Counter[str] = Counter()
        self.manager = SaManager(
            config.connections,
            entropy or SystemEntropy(),
            backend,
            config.limits,
            pools=config.pools,
            impairments=impairments,
            tracer=tracer if tracer is not None else self.log,
            keylog=keylog if recorder is None else recorder,
            before_timer=self._note_inbound_traffic,
        )
        self._installer = Installer(backend, self.manager, self.log, self.counters)
        self.exporter = KeyExporter(self.manager, label=config.label, sa_grace_s=config.sa_grace_s)
        self._pcap: Capture | None = pcap if recorder is None else recorder
        self._sockets = SocketSet(backend, self._received, self._path_mtu_told)
        self._subscribers: list[Callable[[Event], None]] = []
        self._wishes: list[Wish] = []
        self._timer: asyncio.TimerHandle | None = None
        self._mappings = MappingKeeper(self.manager, backend, self._sockets, self.counters)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_turn = False
        self._translated: list[tuple[bytes, bytes]] = []

    # --- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the backend and bind the sockets. Nothing stays open when this raises."""
        loop = asyncio.get_running_loop()
        self.backend.drops_clear = self.config.drop_clear
        self.backend.open()
        try:
            self._take_connections(self.config, loop)
            await self._installer.traps.settle(self.config.connections)
            if (descriptor := self.backend.event_fd()) is not None:
                loop.add_reader(descriptor, self._backend_events)
        except BaseException:
            self._sockets.stop_reading()
            self.backend.close()
            self._sockets.close()
            raise
        self._loop = loop
        self._mappings.start(loop)
        self._turn()

    async def stop(self) -> None:
        """Delete every SA, telling the peers, for at most STOP_S; then close sockets and backend."""
        loop = self._loop
        if loop is None:
            return
        try:
            self._installer.traps.take_up_all()
            await self._delete_all()
        finally:
            self._loop = None
            self._mappings.stop()
            if self._timer is not None:
                self._timer.cancel()
            if (descriptor := self.backend.event_fd()) is not None:
                loop.remove_reader(descriptor)
            self._sockets.stop_reading()
            # The backend's own thread may read a socket: it ends before the socket goes.
            self.backend.close()
            self._sockets.close()

    async def _delete_all(self) -> None:
        wishes = [Wish(sa, up=False) for sa in self.manager.sas if sa.established_at is not None]
        self._wishes.extend(wishes)
        for sa in list(self.manager.sas):
            self.manager.delete(sa, self._now(), "the endpoint stops")
        self._turn()
        waiting = [wish.future for wish in wishes if not wish.future.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_S)
        for wish in wishes:
            if wish.future.done():
                wish.future.exception()  # the reason does not matter any more
            else:
                wish.future.cancel()
                self.log.log("IKE", f"{wish.sa.name}: the peer did not acknowledge the deletion")

    async def reload(self, config: EndpointConfig) -> None:
        """Take other connections: new SAs use them, SAs that are up stay as they are.

        Raises ConfigurationError, and changes nothing, when an address cannot be bound or the backend has nothing of
        what a Child SA proposes.
        A trap that cannot be laid raises IkeError, when all else is as it is to be.
        """
        self._take_connections(config, self._running())
        self.manager.pools.configure(config.pools)
        await self._installer.traps.settle(config.connections)

    def _take_connections(self, config: EndpointConfig, loop: asyncio.AbstractEventLoop) -> None:
        """Bind their addresses; what the backend cannot install is neither offered nor taken."""
        connections, left_out = installable(self.backend, config.connections)
        self._sockets.bind(connections, loop)
        for text in left_out:
            self.log.log("CFG", text)
        self.config = config
        self.manager.connections = list(connections)

    # --- wishes --------------------------------------------------------------------------------------------------

    async def up(self, name: str, timeout_s: float | None = None) -> IkeSaInfo:
        """Bring up the connection `name`, or the connection that has the child `name`; what is up already stays.

        Waits for the outcome, at most `timeout_s`. Raises IkeError with the reason when it is not up then.
        """
        connection = self._connection(name)
        child = name if name != connection.name else None
        sa = self._established(connection)
        if sa is not None:
            if child is not None and all(one.params.name != name for one in sa.children.values()):
                await self._up_child(sa, name, timeout_s)
            return sa.info()
        wish = self._coming(connection)
        if wish is None:
            local, remote = await first_addresses(connection)
            wish = self._coming(connection)  # somebody else may have been quicker
        if wish is None:
            begun = self.manager.initiate(connection.name, remote, local, self._now(), child=child)
            wish = Wish(begun, up=True)
            self._wishes.append(wish)
            self.log.log("IKE", f"initiating IKE_SA {wish.sa.name} to {remote.host}")
            self._turn()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(wish.future)
        except TimeoutError:
            raise IkeError(f"{name}: not up after {timeout_s} s") from None
        return wish.sa.info()

    async def _up_child(self, sa: IkeSa, name: str, timeout_s: float | None) -> None:
        wish = Wish(sa, up=True, child=name)
        self.manager.make_child(sa, name, self._now())
        self._wishes.append(wish)
        await self._settled(name, [wish], timeout_s)

    async def _settled(self, name: str, wishes: Sequence[Wish], timeout_s: float | None) -> None:
        self._turn()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(asyncio.shield(wish.future) for wish in wishes))
        except TimeoutError:
            raise IkeError(f"{name}: not done after {timeout_s} s") from None

    async def rekey(self, name: str, timeout_s: float | None = None) -> None:
        """Rekey the IKE SAs of the connection `name`, or the Child SAs `name`, and wait for the outcome.

        Raises IkeError with the reason when there is none, or when one could not be rekeyed. RFC 7296 section 2.8.
        """
        wishes = []
        for sa in [sa for sa in self.manager.sas if sa.state in (State.ESTABLISHED, State.REKEYING)]:
            if sa.connection.name == name:
                wishes.append(Wish(sa, up=False, rekey=True))
                self.manager.rekey(sa, self._now())
                continue
            for spi_in, child in list(sa.children.items()):
                if child.params.name == name and not sa.is_closing_child(child):
                    wishes.append(Wish(sa, up=False, child=name, spi_in=spi_in, rekey=True))
                    self.manager.rekey_child(child.params, self._now())
        self._wishes.extend(wishes)
        if not wishes:
            self._connection(name)
            raise IkeError(f"{name}: no such SA is up")
        await self._settled(name, wishes, timeout_s)

    async def down(self, name: str) -> None:
        """Take down every SA of the connection `name`, or the Child SAs `name`, and wait until the peer knows.

        Raises IkeError when there is none.
        """
        wishes = []
        for sa in list(self.manager.sas):
            if sa.connection.name == name:
                wishes.append(Wish(sa, up=False))
                self.manager.delete(sa, self._now())
                continue
            for spi_in, child in list(sa.children.items()):
                if child.params.name == name:
                    wishes.append(Wish(sa, up=False, spi_in=spi_in))
                    self.manager.delete_child(child.params, self._now())
        self._wishes.extend(wishes)
        self._turn()
        if not wishes:
            self._connection(name)
            raise IkeError(f"{name}: no such SA is up")
        await asyncio.gather(*(asyncio.shield(wish.future) for wish in wishes))

    async def ask(
        self, name: str, exchange: ExchangeType, *payloads: Payload, timeout_s: float | None = None
    ) -> Answered:
        """Send a request of these payloads on the newest IKE SA of the connection `name`; what the peer answers.

        For tests and experiments: the answer is reported and changes nothing. Raises LocalProtocolError when a payload
        cannot be encoded, IkeError when the IKE SA is not up, or goes before the answer, or when the time is over.
        """
        sa = self._established(self._connection(name))
        if sa is None:
            raise IkeError(f"{name}: no such SA is up")
        asked = self.manager.ask(sa, exchange, payloads, self._now())
        answer: asyncio.Future[Answered] = self._running().create_future()

        def hear(event: Event) -> None:
            if answer.done():
                return
            if isinstance(event, Answered) and event.ask is asked:
                answer.set_result(event)
            elif isinstance(event, IkeSaDeleted) and event.ike_sa.spi_i == sa.spi_i:
                answer.set_exception(IkeError(f"{name}: no answer: {event.reason}"))

        unsubscribe = self.subscribe(hear)
        self._turn()
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise IkeError(f"{name}: no answer after {timeout_s} s") from None
        finally:
            unsubscribe()

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call `callback` with each event, after the backend has been told; the result ends that."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    # --- what there is -------------------------------------------------------------------------------------------

    def addresses(self) -> list[Address]:
        """Where it listens."""
        return sorted(sock.local for sock in self._sockets.all())

    def sa_infos(self) -> list[IkeSaInfo]:
        """Snapshots of all IKE SAs that are not closed."""
        return [sa.info() for sa in self.manager.sas if sa.state is not State.CLOSED]

    def traps(self) -> list[tuple[str, Trap]]:
        """What waits for traffic, each with the name of its connection."""
        return self._installer.traps.laid()

    def child_counters(self, child: ChildSaParameters | int) -> ChildCounters:
        """What the backend counted for a Child SA, given as parameters or as its inbound SPI."""
        return self.backend.query(self.find_child(child) if isinstance(child, int) else child)

    def find_child(self, spi_in: int) -> ChildSaParameters:
        """The parameters of an installed Child SA. LocalProtocolError when there is none."""
        found = self._installer.find_child(spi_in)
        if found is None:
            raise LocalProtocolError(f"no Child SA has the inbound SPI {spi_in:08x}")
        return found

    def now(self) -> float:
        """The clock of `to_dict(now)` of the snapshots."""
        return self._now()

    def socket_counters(self) -> dict[str, int]:
        """Datagrams of all sockets together."""
        total: Counter[str] = Counter(self.counters)
        for sock in self._sockets.all():
            counters = sock.counters
            total["datagrams_received"] += counters.received
            total["datagrams_sent"] += counters.sent
            total["nat_keepalives_received"] += counters.keepalives
            total["esp_in_udp_ignored"] += counters.esp
            total["runts_ignored"] += counters.runts
            total["overruns"] += counters.overruns
            for reason, number in counters.send_errors.items():
                total[f"send_error_{reason}"] += number
        return dict(total)

    # --- the turn ------------------------------------------------------------------------------------------------

    def _received(self, sock: IkeSocket, data: bytes, local: Address, remote: Address) -> None:
        if self._loop is None:
            return
        if self.log.heard:
            self.log.datagram(outbound=False, octets=len(data), local=local, remote=remote)
        if self._pcap is not None:
            self._record(NON_ESP_MARKER + data if sock.nat_traversal else data, local, remote, outbound=False)
        self.manager.receive_datagram(data, local, remote, self._loop.time())
        self._turn()

    def _path_mtu_told(self, host: str, octets: int) -> None:
        """ICMP says that the way to a host takes so much and no more. RFC 7383 section 2.5.2."""
        if self._loop is None:
            return
        self.log.log("NET", f"the path to {host} takes IP datagrams of {octets} octets")
        self.counters["path_mtu_told"] += 1
        self.manager.note_path_mtu(host, octets, self._now())
        self._turn()

    def _turn(self) -> None:
        """Events, then datagrams, then the timer, until nothing is left."""
        if self._in_turn:  # a subscriber's wish: the turn that called it goes on
            return
        self._in_turn = True
        try:
            while True:
                while (event := self.manager.next_event()) is not None:
                    self._carry_out(event)
                datagrams = self.manager.datagrams_to_send()
                if not datagrams:
                    break
                for datagram in datagrams:
                    self._send(datagram)
        finally:
            self._in_turn = False
        while self._translated:  # when their first Child SAs are there, too
            self._mappings.add(*self._translated.pop())
        if self._wishes:
            for wish in list(self._wishes):
                wish.settle()
            self._wishes = [wish for wish in self._wishes if not wish.future.done()]
        self._arm()

    def _arm(self) -> None:
        """Set the one timer; one that rings too early stays, and is set anew then."""
        when = self.manager.next_timer()
        if self._timer is not None:
            if when is not None and self._timer.when() <= when:
                return
            self._timer.cancel()
            self._timer = None
        if when is not None and self._loop is not None:
            self._timer = self._loop.call_at(when, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self.manager.handle_timer(self._now())
        self._turn()

    def _note_inbound_traffic(self, sa: IkeSa) -> None:
        self._installer.note_inbound_traffic(sa, self._now())

    def _backend_events(self) -> None:
        self._installer.take_events(self._now())
        self._turn()

    def _carry_out(self, event: Event) -> None:
        if not self._installer.carry_out(event, self._now()):
            return
        match event:
            case IkeSaEstablished(sa) | IkeSaRekeyed(_, sa) if sa.nat_local:
                self._translated.append((sa.spi_i, sa.spi_r))
            case _:
                pass
        if self.log.heard and (text := describe_event(event)):
            self.log.log("CHD" if isinstance(event, CHILD_EVENTS) else "IKE", text)
        for wish in self._wishes:
            wish.hear(event)
        for callback in tuple(self._subscribers):
            callback(event)

    def _send(self, datagram: Datagram) -> None:
        sock = self._sockets.find(datagram.local)
        if sock is None:
            self.counters["no_socket"] += 1
            self.log.log("NET", f"no socket for {datagram.local}: the datagram is dropped")
            return
        if self.log.heard:
            length = len(datagram.data)
            self.log.datagram(outbound=True, octets=length, local=datagram.local, remote=datagram.remote)
        if self._pcap is not None:
            octets = NON_ESP_MARKER + datagram.data if sock.nat_traversal else datagram.data
            self._record(octets, datagram.local, datagram.remote, outbound=True)
        self._mappings.sent(datagram.local, datagram.remote, self._now())
        if not sock.send(datagram.data, datagram.local, datagram.remote, path_mtu_wanted=datagram.path_mtu_wanted):
            self.log.log("NET", f"the system refused to send to {datagram.remote}")

    def _record(self, octets: bytes, local: Address, remote: Address, *, outbound: bool) -> None:
        if self._pcap is None:
            return
        try:
            self._pcap.datagram(octets, local, remote, outbound=outbound)
            self._pcap.flush()
        except (OSError, ValueError) as error:
            self.log.log("LIB", f"the capture ends here: {error}")
            self._pcap = None

    # --- small things --------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._running().time()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise LocalProtocolError("the endpoint is not running")
        return self._loop

    def _connection(self, name: str) -> ConnectionConfig:
        for connection in self.config.connections:
            if connection.name == name:
                return connection
        for connection in self.config.connections:
            if any(child.name == name for child in connection.children):
                return connection
        known = ", ".join(connection.name for connection in self.config.connections) or "none"
        raise LocalProtocolError(f"there is no connection or child {name!r}; connections: {known}")

    def _established(self, connection: ConnectionConfig) -> IkeSa | None:
        """The newest IKE SA of a connection that is up."""
        up = [
            sa
            for sa in self.manager.sas
            if sa.connection.name == connection.name and str(sa.state) == "ESTABLISHED"
        ]
        return max(up, key=lambda sa: sa.established_at or 0.0, default=None)

    def _coming(self, connection: ConnectionConfig) -> Wish | None:
        """What waits already for this connection to come up."""
        return next((one for one in self._wishes if one.up and one.sa.connection.name == connection.name), None)
