"""A TWAMP client on asyncio: the Control-Client role on TCP, and a run of the Session-Sender in a thread.

RFC 5357 sections 3 and 4.1.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from ippm.core.control_client import ClientState, ControlClient, SessionWish
from ippm.core.control_events import (
    Connected,
    ControlRefused,
    Endpoint,
    SessionAccepted,
    Started,
    Stopped,
    TestSession,
)
from ippm.core.schedule import FixedSchedule, Schedule, poisson_schedule
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.crypto import Entropy, KeyProvider, NoProvider
from ippm.errors import IppmError, LocalProtocolError
from ippm.iana import Accept, Mode
from ippm.io.clock import clock_state, now_ntp, utc_offset_s
from ippm.io.control_client_tcp import ControlTcpClient, client_config, connect_any
from ippm.io.control_tcp import endpoint_of
from ippm.io.entropy import SystemEntropy
from ippm.io.interrupt import unless_stopped
from ippm.io.options import TwpingOptions
from ippm.io.pacing import StopSignal, frozen_heap
from ippm.io.realtime import check_realtime
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import impaired, open_test_socket
from ippm.report.result import RunResult
from ippm.timestamps import ClockState, ntp_add_ns
from ippm.wire.test_packet import PacketLayout

T = TypeVar("T")


class TwampClient(ControlTcpClient):
    """A Control connection to a TWAMP server, for one or more test sessions. Use `async with TwampClient.connect(...)`.

    RFC 5357 section 3.
    """

    def __init__(self, role: ControlClient, sock: socket.socket) -> None:
        super().__init__(role, sock)
        self.role = role

    @classmethod
    async def connect(
        cls, options: TwpingOptions, provider: KeyProvider | None = None, entropy: Entropy | None = None
    ) -> Self:
        """Connect and set up. Raises IppmError: ServerRefused, ConnectionFailed, NoSecret, PortRangeExhausted."""
        config = replace(client_config(options), features=options.feature_bits, tw_auth_pad=options.tw_auth_pad)
        sock = await connect_any(options)
        role = ControlClient(
            config,
            provider or NoProvider(),
            entropy or SystemEntropy(),
            local=endpoint_of(sock.getsockname()),
            remote=endpoint_of(sock.getpeername()),
            now=asyncio.get_running_loop().time(),
        )
        client = cls(role, sock)
        await client._set_up(provider)
        return client

    async def request_session(self, wish: SessionWish) -> TestSession:
        """Ask for a test session. Raises ServerRefused when the server does not want it; the connection stays."""
        self.role.request_session(wish, self._loop.time())
        return (await self._session_answer(SessionAccepted)).session

    async def start_sessions(self, sids: Iterable[bytes] | None = None) -> None:
        """Start all sessions that were accepted, or `sids`; returns when they have. Raises ServerRefused.

        Single ones start with the feature session-control only. RFC 4656 section 3.7, RFC 5938 section 3.2.
        """
        wanted = None if sids is None else list(sids)
        self.role.start_sessions(self._loop.time(), wanted)
        await self._acknowledged(Started, self.role.awaited_sids)

    async def stop_sessions(self, accept: Accept = Accept.OK, sids: Iterable[bytes] | None = None) -> None:
        """Stop all sessions that run, or `sids`. Raises ServerRefused, with the feature session-control only.

        RFC 5357 section 3.8, RFC 5938 section 3.4.
        """
        self.role.stop_sessions(self._loop.time(), accept, sids)
        await self._flush()
        if self.role.individual:
            await self._acknowledged(Stopped, self.role.awaited_sids)

    async def _acknowledged(self, kind: type[Started | Stopped], sids: frozenset[bytes]) -> None:
        """Wait until the server has said what it does with each session: there may be an event for each of them."""
        done: set[bytes] = set()
        while True:
            event = await self._next()
            if isinstance(event, ControlRefused):
                raise event.error
            if not isinstance(event, kind):
                raise LocalProtocolError(f"{type(event).__name__} was not awaited")
            done.update(event.sids)
            if done >= sids:
                return


@dataclass(frozen=True, slots=True)
class TwampRun:
    """All that is known of one run of a client: the set-up, the session, what was sent, and the records."""

    options: TwpingOptions
    connected: Connected
    session: TestSession
    plan: SenderPlan
    records: SenderRecords
    clock: ClockState

    @property
    def result(self) -> RunResult:
        """What was measured."""
        return RunResult.of(
            self.plan, self.records, self.clock, path=self.options.path, mode=self.session.mode.word
        )


async def run_twping(
    options: TwpingOptions,
    provider: KeyProvider | None = None,
    *,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
) -> TwampRun:
    """One session on one Control connection, from greeting to Stop-Sessions.

    `stop` ends it early, with what there is. Raises IppmError. RFC 5357 sections 3 and 4.1.
    """
    if options.realtime:
        check_realtime(options.interval_s * 1e9)
    async with AsyncExitStack() as stack:
        stack.enter_context(frozen_heap())
        connecting = TwampClient.connect(options, provider, entropy)
        client = await stack.enter_async_context(await unless_stopped(stop, connecting))
        sock, session = await unless_stopped(stop, open_session(client, options, stack))
        plan = sender_plan(options, session)
        await unless_stopped(stop, client.start_sessions())
        clock = clock_state()
        records = await while_watched(
            client,
            lambda end: run_sender(
                plan, sock, end, io=options.io, stamps=options.stamps, in_realtime=options.realtime
            ),
            stop,
        )
        # Packets under way are reflected for Timeout after this.
        await client.stop_sessions()
        if client.connected is None:
            raise LocalProtocolError("the connection is not set up")
        return TwampRun(options, client.connected, session, plan, records, clock)


async def open_session(
    client: TwampClient, options: TwpingOptions, stack: ExitStack | AsyncExitStack
) -> tuple[socket.socket, TestSession]:
    """A socket for test packets, which `stack` closes, and a session that was accepted for it. Raises IppmError."""
    local = client.role.local.host
    ports = options.test_port_range or options.local_port_range or 0
    monitor = bool(client.role.mode & Mode.DSCP_ECN_MONITORING)
    sock = stack.enter_context(
        open_test_socket(local, ports, options.mark_callback, dscp=options.dscp, monitor_dscp_ecn=monitor)
    )
    sender = Endpoint(local, int(sock.getsockname()[1]))
    session = await client.request_session(session_wish(options, sender, client.role.mode))
    spoilt = impaired(
        sock, options.impairments, int(session.mode), session.keys, reflected_octets=session.reflected_octets
    )
    return (sock if spoilt is sock else stack.enter_context(spoilt)), session


def session_wish(options: TwpingOptions, sender: Endpoint, mode: Mode | None = None) -> SessionWish:
    """What to ask of the server; `mode` is that of the connection: it tells how much padding is needed at least."""
    padding = options.padding
    layout = PacketLayout.of(int(mode or options.security.strictest), options.reflected_octets, options.tw_auth_pad)
    needs = bool(mode and mode & (Mode.REFLECT_OCTETS | Mode.SYMMETRICAL_SIZE))
    if options.equal_size or needs:
        # rfc5357-s4.1.2-02, rfc6038-s4.2-05, rfc6038-s4.2-06
        # rfc6038-s5.1.3-01, rfc6038-s5.1.3-02, rfc6038-s5.1.3-03
        padding = max(padding, layout.least_padding_octets)
    if mode and mode & Mode.REFLECT_OCTETS:
        padding = max(padding, options.reflected_octets + 1)
    return SessionWish(
        sender=sender,
        reflector_port=options.reflector_port,
        padding_octets=padding,
        start_time=ntp_add_ns(now_ntp(), round(options.start_delay_s * 1e9)),
        timeout_ns=round(options.timeout_s * 1e9),
        dscp=options.dscp,
        zero_addresses=options.zero_addresses,
        reflected_octets=options.reflected_octets,
    )


def sender_plan(options: TwpingOptions, session: TestSession) -> SenderPlan:
    """What the Session-Sender does for an accepted session."""
    interval_ns = round(options.interval_s * 1e9)
    schedule: Schedule = FixedSchedule(interval_ns)
    if options.exponential:
        schedule = poisson_schedule(interval_ns, session.sid, options.count)
    return SenderPlan(
        sid=session.sid,
        mode=int(session.mode),
        keys=session.keys,
        local=session.sender,
        remote=session.reflector,
        count=options.count,
        schedule=schedule,
        start_time=session.start_time if options.start_delay_s else 0,
        padding_octets=session.padding_octets,
        timeout_ns=session.timeout_ns,
        dscp=session.dscp,
        zero_padding=options.zero_padding,
        reflected_octets=session.reflected_octets,
        server_octets=session.server_octets,
        tw_auth_pad=options.tw_auth_pad,
        utc_offset_s=utc_offset_s(),
    )


async def while_watched(client: TwampClient, send: Callable[[StopSignal], T], stop: StopSignal | None) -> T:
    """Run a sender in a thread while the Control connection is watched, and give its result. Raises IppmError."""
    own_stop = stop or StopSignal()
    sending = asyncio.ensure_future(asyncio.to_thread(send, own_stop))
    watching = asyncio.ensure_future(client.watch())
    try:
        await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            # The connection broke: its sessions are over at the server, too.
            own_stop.set()
            await watching
        return await sending
    except OSError as error:
        if client.role.state is ClientState.ACTIVE:
            await client.stop_sessions(Accept.FAILURE)
        raise IppmError(f"test packets cannot be sent: {error.strerror or error}") from None
    finally:
        watching.cancel()
        if not sending.done():
            own_stop.set()
        await asyncio.gather(sending, watching, return_exceptions=True)
        if stop is None:
            own_stop.close()


async def twping(
    options: TwpingOptions,
    provider: KeyProvider | None = None,
    *,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
) -> RunResult:
    """Measure, two ways, to a TWAMP server, and give the result. Raises IppmError. RFC 5357."""
    return (await run_twping(options, provider, stop=stop, entropy=entropy)).result
