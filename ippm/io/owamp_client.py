"""An OWAMP client on asyncio: the Control-Client role on TCP, and a run with a session each way.

What the server receives is fetched from it when the sessions have ended; what we receive we have. RFC 4656 section 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, Self

from ippm.core.control_events import Connected, Endpoint
from ippm.core.fetched_session import FetchedSession
from ippm.core.one_way_sender import OneWayPlan
from ippm.core.owamp_client import OwampClient, OwampWish
from ippm.core.owamp_events import (
    AllStopped,
    Fetched,
    FetchRefused,
    OwampSession,
    OwampSessionAccepted,
    StopReceived,
)
from ippm.core.session_receiver import ReceiverPlan, ReceiverResult, SessionEnd
from ippm.core.session_schedule import SessionSchedule, mean_interval
from ippm.crypto import Entropy, KeyProvider, NoProvider
from ippm.errors import ConnectionFailed, IntegrityError, IppmError, LocalProtocolError, ServerRefused
from ippm.iana import Accept, Mode
from ippm.io.clock import now_ntp
from ippm.io.control_client_tcp import ControlTcpClient, client_config, connect_any
from ippm.io.control_tcp import endpoint_of, own_ipv4
from ippm.io.entropy import SystemEntropy
from ippm.io.interrupt import unless_stopped
from ippm.io.one_way_loop import OneWayLoop, SenderEnding
from ippm.io.owamp_options import OwpingOptions
from ippm.io.pacing import StopSignal, frozen_heap
from ippm.io.realtime import check_realtime
from ippm.io.receiver_loop import Ending, ReceiverLoop
from ippm.io.session_store import MemorySink
from ippm.io.test_socket import impaired, open_test_socket, resolved
from ippm.report.one_way import OneWayResult, OwnSending
from ippm.report.text import time_words
from ippm.timestamps import fixed_point_from_ns, ntp_add_ns, unix_ns_from_ntp
from ippm.wire.fetch_session import LAST_SEQNO
from ippm.wire.schedule_slot import Slot, SlotType
from ippm.wire.stop_descriptions import SessionDescription

P = ParamSpec("P")

_FETCH_HINTS = {
    Accept.FAILURE: "a session is there for the user who made it, in the mode in which it was made, when it has ended "
    "normally, and in open mode as long as its Control connection",
    Accept.NOT_SUPPORTED: "is this an OWAMP server?",
}
"""What may be behind a refused Fetch-Session; the protocol carries no more than the value. RFC 4656 section 3.9."""

_INVALID = ReceiverResult(SessionEnd.INVALID, 0, (), 0, "the server stopped the sessions as a failure")


class OwampTcpClient(ControlTcpClient):
    """A Control connection to an OWAMP server. Use `async with await OwampTcpClient.connect(...)`.

    RFC 4656 section 3.
    """

    def __init__(self, role: OwampClient, sock: socket.socket) -> None:
        super().__init__(role, sock)
        self.role = role

    @classmethod
    async def connect(
        cls, options: OwpingOptions, provider: KeyProvider | None = None, entropy: Entropy | None = None
    ) -> Self:
        """Connect and set up. Raises IppmError: ServerRefused, ConnectionFailed, NoSecret, PortRangeExhausted."""
        config = client_config(options)
        sock = await connect_any(options)
        role = OwampClient(
            config,
            provider or NoProvider(),
            entropy or SystemEntropy(),
            local=endpoint_of(sock.getsockname()),
            remote=endpoint_of(sock.getpeername()),
            now=asyncio.get_running_loop().time(),
            ikev2_bit=options.ikev2_bit,
        )
        client = cls(role, sock)
        await client._set_up(provider)
        return client

    async def request_session(self, wish: OwampWish) -> OwampSession:
        """Ask for a test session. Raises ServerRefused when the server does not want it; the connection stays."""
        self.role.request_session(wish, self._loop.time())
        try:
            return (await self._session_answer(OwampSessionAccepted)).session
        except ServerRefused as error:
            if error.accept != Accept.NOT_SUPPORTED:
                raise
            # The answer says no more, and the greeting has no time: only the server's log knows.
            start = time_words(unix_ns_from_ntp(wish.start_time))
            hint = f"a start at {start} by this host's clock was asked for: do the clocks differ?"
            raise ServerRefused(error.accept, error.reason, error.message, hint) from None

    async def stop_received(self) -> StopReceived:
        """The server's Stop-Sessions. Raises IppmError when the connection ends before it."""
        return await self._await(StopReceived)

    async def stop_sessions(
        self, descriptions: Iterable[SessionDescription], server_stop: asyncio.Future[StopReceived] | None = None
    ) -> StopReceived:
        """Send Stop-Sessions, and wait for the server's; `server_stop` is a wait for it that has begun."""
        self.role.stop_sessions(descriptions, self._loop.time())
        await self._flush()
        wait_s = self.role.config.response_wait_s
        try:
            stop = await asyncio.wait_for(server_stop or self.stop_received(), wait_s)
        except TimeoutError:
            raise ConnectionFailed(f"no Stop-Sessions in {wait_s:g} s") from None
        await self._await(AllStopped)
        return stop

    async def fetch(self, sid: bytes, begin: int = 0, end: int = LAST_SEQNO) -> FetchedSession:
        """The data of a session. Raises ServerRefused; the connection stays. RFC 4656 section 3.9."""
        self.role.fetch_session(sid, self._loop.time(), begin, end)
        answer = await self._next()
        if isinstance(answer, FetchRefused):
            raise answer.error
        if not isinstance(answer, Fetched):
            raise LocalProtocolError(f"{type(answer).__name__} was not awaited")
        return answer.session


@dataclass(frozen=True, slots=True)
class OwampRun:
    """All that is known of one run of a client. `to_server` and `from_server` are None for a way not asked for.

    `sent` is the end of the session that we sent. `errors` says what went wrong with a way that has no data.
    """

    options: OwpingOptions
    connected: Connected
    to_server: FetchedSession | None
    from_server: FetchedSession | None
    sessions: tuple[OwampSession, ...]
    sent: SenderEnding | None = field(default=None, repr=False)
    counters: dict[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def results(self) -> tuple[OneWayResult, ...]:
        """What was measured, first to the server."""
        mode = self.connected.mode.word
        made = []
        for direction, session in (("to", self.to_server), ("from", self.from_server)):
            if session is not None:
                ours = direction == "to"
                own = self.sent.session if ours and self.sent is not None else None
                made.append(
                    OneWayResult.of(
                        session,
                        direction,
                        mode,
                        path=self.options.path,
                        own=None if own is None else OwnSending(own.stamps, own.departure, own.late_ns),
                        transmit_refused="" if own is None or self.sent is None else self.sent.transmit_refused,
                        rejected={} if ours else self.counters,
                        stopped=self.stopped,
                    )
                )
        return tuple(made)


class SessionPair:
    """One run, from the requests to the data: a session each way that is asked for. `close` ends its threads."""

    def __init__(self, client: OwampTcpClient, options: OwpingOptions, entropy: Entropy) -> None:
        self._client = client
        self._options = options
        self._entropy = entropy
        self._loop = asyncio.get_running_loop()
        self._senders = OneWayLoop(
            self._later(self._sender_ended), stamps=options.stamps, in_realtime=options.realtime
        )
        self._receivers = ReceiverLoop(
            on_complete=self._later(self._receiver_complete),
            on_finished=self._later(self._receiver_finished),
            io=options.io,
        )
        self._sinks: dict[bytes, MemorySink] = {}
        self._sessions: dict[bytes, OwampSession] = {}
        self._descriptions: dict[bytes, SessionDescription] = {}
        self._complete: set[bytes] = set()
        self._endings: dict[bytes, Ending] = {}
        self._sent: SenderEnding | None = None
        self._errors: list[str] = []
        self._changed = asyncio.Event()
        self._stopped = False

    async def begin(self, starts: Mapping[bool, int], counts: Mapping[bool, int]) -> None:
        """Request the sessions and start them. Raises IppmError.

        `starts` has the Start Time (NTP) of each way asked for, by whether the server sends; `counts` its packets.
        """
        for server_sends, start_time in sorted(starts.items()):
            await self._request(start_time, counts[server_sends], server_sends=server_sends)
        await self._client.start_sessions()
        for sid, session in self._sessions.items():
            (self._receivers if session.server_sends else self._senders).start(sid)

    async def finish(self, stop: StopSignal | None) -> OwampRun:
        """Until the sessions have ended, or `stop` ends them; their data. Raises IppmError."""
        return await self._collect(await self._measure(stop))

    async def close(self) -> None:
        """End what still runs."""
        await asyncio.to_thread(self._senders.close)
        await asyncio.to_thread(self._receivers.close)
        # They call this object, which has them: without a cycle their buffers go at once, not at the next collection.
        del self._senders, self._receivers

    def last_due(self, *, server_sends: bool) -> int:
        """When the last packet of a way is due, an NTP timestamp. LocalProtocolError for a way not asked for."""
        for session in self._sessions.values():
            if session.server_sends is server_sends:
                request = session.request
                schedule = SessionSchedule(request.slots, session.sid, request.number_of_packets)
                return (request.start_time + schedule.offset(request.number_of_packets - 1)) % (1 << 64)
        raise LocalProtocolError("there is no session of this way")

    async def _request(self, start_time: int, count: int, *, server_sends: bool) -> None:
        options = self._options
        local = self._client.role.local.host
        ports = options.test_port_range or options.local_port_range or 0
        sock = open_test_socket(local, ports, options.mark_callback, dscp=0 if server_sends else options.dscp)
        try:
            session = await self._client.request_session(
                OwampWish(
                    here=Endpoint(local, int(sock.getsockname()[1])),
                    server_sends=server_sends,
                    count=count,
                    slots=slots_of(options),
                    start_time=start_time,
                    sid=new_sid(self._entropy) if server_sends else bytes(16),
                    padding_octets=options.padding,
                    timeout_ns=round(options.timeout_s * 1e9),
                    dscp=options.dscp,
                )
            )
            self._sessions[session.sid] = session
            self._add(session, sock)
        except BaseException:
            sock.close()
            raise

    def _add(self, session: OwampSession, sock: socket.socket) -> None:
        request = session.request
        schedule = SessionSchedule(request.slots, session.sid, request.number_of_packets)
        mode = int(session.mode)
        if session.server_sends:
            sock.connect(resolved(sock.family, *session.sender))
            sink = self._sinks[session.sid] = MemorySink(request)
            plan = ReceiverPlan(session.sid, mode, session.keys, schedule, request.start_time, request.timeout)
            self._receivers.add_session(plan, sock, sink)
            return
        self._senders.add_session(
            OneWayPlan(
                sid=session.sid,
                mode=mode,
                keys=session.keys,
                remote=(session.receiver.host, session.receiver.port),
                schedule=schedule,
                start_time=request.start_time,
                timeout_ns=session.timeout_ns,
                padding_octets=request.padding_length,
                zero_padding=self._options.zero_padding,
                measure=True,
            ),
            impaired(sock, self._options.impairments, mode, session.keys),
        )

    async def _measure(self, stop: StopSignal | None) -> asyncio.Future[StopReceived]:
        """Until all sessions are complete here, or the server or our user stops. Raises IppmError."""
        server_stop = asyncio.ensure_future(self._client.stop_received())
        server_stop.add_done_callback(lambda _: self._changed.set())
        if stop is not None:
            self._loop.add_reader(stop.fileno(), self._changed.set)
        try:
            while len(self._complete) < len(self._sessions):
                self._changed.clear()
                if server_stop.done() or (stop is not None and stop()):
                    break
                await self._changed.wait()
        except BaseException:
            server_stop.cancel()
            raise
        finally:
            if stop is not None:
                self._loop.remove_reader(stop.fileno())
        self._stopped = stop is not None and stop() and len(self._complete) < len(self._sessions)
        if server_stop.done() and server_stop.exception() is not None:
            await server_stop
        # What we send ends before Stop-Sessions goes out.  rfc4656-s3.8-12
        ours = [sid for sid, session in self._sessions.items() if not session.server_sends]
        for sid in ours:
            self._senders.stop(sid)
        await self._until(lambda: all(sid in self._descriptions for sid in ours))
        return server_stop

    async def _collect(self, server_stop: asyncio.Future[StopReceived]) -> OwampRun:
        """Stop-Sessions both ways, and the data of both ways."""
        stop = await self._client.stop_sessions(self._descriptions.values(), server_stop)
        for sid in self._sinks:
            # With the server's description, not before: rfc4656-s3.8-13
            self._receivers.finish(sid, stop.descriptions[sid] if stop.accept == Accept.OK else _INVALID)
        await self._until(lambda: all(sid in self._endings for sid in self._sinks))
        to_server = from_server = None
        counters: dict[str, int] = {}
        for sid, session in self._sessions.items():
            if session.server_sends:
                from_server = self._received(sid)
                counters = self._endings[sid].counters
            elif stop.accept == Accept.OK:
                with self._noted("to the server"):
                    to_server = await self._client.fetch(sid)
        if stop.accept != Accept.OK:  # rfc4656-s3.8-03
            self._errors.append(f"the server stopped with Accept {int(stop.accept)}: all results are invalid")
        connected = self._client.connected
        if connected is None:
            raise LocalProtocolError("the connection is not set up")
        return OwampRun(
            options=self._options,
            connected=connected,
            to_server=to_server,
            from_server=from_server,
            sessions=tuple(self._sessions.values()),
            sent=self._sent,
            counters=counters,
            errors=tuple(self._errors),
            stopped=self._stopped,
        )

    def _received(self, sid: bytes) -> FetchedSession | None:
        sink, ending = self._sinks[sid], self._endings[sid]
        if ending.result.end is SessionEnd.INVALID:
            self._errors.append(f"from the server: {ending.result.reason}")
            return None
        result = ending.result
        return FetchedSession(
            sink.request, int(result.end), result.next_seqno, result.skip_ranges, bytes(sink.records)
        )

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except IppmError as error:
            self._errors.append(f"{what}: {error}")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # From the threads, by way of the event loop.

    def _later(self, callback: Callable[P, None]) -> Callable[P, None]:
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(callback, *args, **kwargs))

        return call

    def _sender_ended(self, sid: bytes, ending: SenderEnding) -> None:
        self._descriptions[sid] = ending.session.description()
        self._sent = ending
        if ending.error:
            self._errors.append(f"to the server: {ending.error}")
        self._receiver_complete(sid)

    def _receiver_complete(self, sid: bytes) -> None:
        self._complete.add(sid)
        self._changed.set()

    def _receiver_finished(self, sid: bytes, ending: Ending) -> None:
        self._endings[sid] = ending
        self._changed.set()


def slots_of(options: OwpingOptions) -> tuple[Slot, ...]:
    """The schedule slots that the options ask for."""
    wanted = options.schedule or ((options.exponential, options.interval_s),)
    return tuple(
        Slot(SlotType.EXPONENTIAL if exponential else SlotType.FIXED, fixed_point_from_ns(round(seconds * 1e9)))
        for exponential, seconds in wanted
    )


def new_sid(entropy: Entropy) -> bytes:
    """A SID of ours as a receiver: an IPv4 address, the time, a random value. RFC 4656 section 3.5."""
    return own_ipv4() + now_ntp().to_bytes(8, "big") + entropy.octets(4)


async def run_owping(
    options: OwpingOptions,
    provider: KeyProvider | None = None,
    *,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
) -> OwampRun:
    """A session each way that is asked for, on one Control connection, and their data.

    `stop` ends them early, with what there is. Raises IppmError. RFC 4656 sections 3 and 4.
    """
    if options.realtime and options.to_server:
        check_realtime(mean_interval(slots_of(options)) * 1e9)
    with frozen_heap():
        connecting = OwampTcpClient.connect(options, provider, entropy)
        async with await unless_stopped(stop, connecting) as client:
            pair = SessionPair(client, options, entropy or SystemEntropy())
            try:
                start_time = ntp_add_ns(now_ntp(), round(options.start_delay_s * 1e9))
                ways = (dict.fromkeys(options.ways, value) for value in (start_time, options.count))
                await unless_stopped(stop, pair.begin(*ways))
                return await pair.finish(stop)
            finally:
                await pair.close()


async def owping(
    options: OwpingOptions,
    provider: KeyProvider | None = None,
    *,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
) -> tuple[OneWayResult, ...]:
    """Measure one way, to an OWAMP server and from it, and give the results. Raises IppmError. RFC 4656."""
    run = await run_owping(options, provider, stop=stop, entropy=entropy)
    if run.errors and not run.results:
        raise ConnectionFailed("; ".join(run.errors))
    return run.results


async def fetch(
    options: OwpingOptions,
    sid: bytes,
    provider: KeyProvider | None = None,
    *,
    begin: int = 0,
    end: int = LAST_SEQNO,
) -> tuple[FetchedSession, Mode]:
    """The data of a session of ours from a server, or of a part of it, and the security mode.

    Raises IppmError. RFC 4656 section 3.9.
    """
    async with await OwampTcpClient.connect(options, provider) as client:
        try:
            session = await client.fetch(sid, begin, end)
            return session.part(begin, end), client.role.mode.security
        except ServerRefused as error:
            raise ServerRefused(
                error.accept, error.reason, error.message, _FETCH_HINTS.get(Accept(error.accept), "")
            ) from None
        except IntegrityError:
            raise ConnectionFailed(
                "the answer to Fetch-Session does not verify: is this an OWAMP server?"
            ) from None
