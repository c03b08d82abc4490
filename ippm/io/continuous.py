"""A two-way measurement without an end: one session after the other on one Control connection, reported by period.

A session ends when its sequence numbers are used up (2**32 packets) and the next one is asked for on the same
connection; what ends the measurement is `stop`, or an error. RFC 5357 sections 3.5 to 3.8.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

from ippm.core.rolling_sender import Period, RollingSender
from ippm.core.schedule import poisson_stream
from ippm.core.session_sender import SenderPlan
from ippm.crypto import Entropy, KeyProvider
from ippm.errors import ConfigurationError
from ippm.io.clock import SystemClock
from ippm.io.interrupt import unless_stopped
from ippm.io.options import TwpingOptions
from ippm.io.pacing import StopSignal, Waiter, exact_timers, frozen_heap
from ippm.io.realtime import check_realtime, realtime
from ippm.io.reporter import Reporter
from ippm.io.sender_loop import STOP_CHECK_NS, SenderLoop, padding_of
from ippm.io.twamp_client import TwampClient, open_session, sender_plan, while_watched
from ippm.report.rolling import RollingReport, SessionWords
from ippm.timestamps import unix_ns_from_ntp

MOST_PACKETS = 1 << 32
"""As many as there are sequence numbers. RFC 4656 section 4.1.2."""

_PeriodReporter: TypeAlias = Reporter[tuple[SessionWords, Period]]


async def run_continuous(
    options: TwpingOptions,
    provider: KeyProvider | None = None,
    *,
    report: Callable[[dict[str, Any]], None],
    period_s: float = 10.0,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
    session_packets: int = MOST_PACKETS,
) -> None:
    """Measure until `stop`, and call `report`, in another thread, with each period and at last with the end.

    `options.count` says nothing here; a session has `session_packets`. Raises IppmError, after the last report, and
    what `report` raises.
    """
    if not 0 < period_s <= 86400:
        raise ConfigurationError(f"period = {period_s:g}: seconds, more than 0, up to a day")
    if options.realtime:
        check_realtime(options.interval_s * 1e9)
    lines = RollingReport(options.host, options.path)
    reporter: _PeriodReporter = Reporter(lines, report, stop)
    async with reporter.reporting():
        with frozen_heap():
            connecting = TwampClient.connect(options, provider, entropy)
            async with await unless_stopped(reporter.stop, connecting) as client:
                before: StopSignal | None = reporter.stop
                while True:
                    await _one_session(client, options, session_packets, round(period_s * 1e9), reporter, before)
                    before = None
                    if reporter.stop():
                        break


async def _one_session(
    client: TwampClient,
    options: TwpingOptions,
    packets: int,
    period_ns: int,
    reporter: _PeriodReporter,
    before: StopSignal | None,
) -> None:
    """`before` ends the wait for the session, while nothing has been measured."""
    with ExitStack() as stack:
        sock, session = await unless_stopped(before, open_session(client, options, stack))
        plan = replace(sender_plan(replace(options, count=1), session), count=packets)
        if options.exponential:
            plan = replace(plan, schedule=poisson_stream(round(options.interval_s * 1e9), session.sid))
        await unless_stopped(before, client.start_sessions())
        start_unix_ns = unix_ns_from_ntp(plan.start_time) if plan.start_time else time.time_ns()
        words = SessionWords.of(plan, session.mode.word, start_unix_ns)
        await while_watched(
            client,
            lambda end: _run(plan, sock, end, period_ns, lambda period: reporter.take((words, period)), options),
            reporter.stop,
        )
        await client.stop_sessions()


def _run(
    plan: SenderPlan,
    sock: socket.socket,
    stop: StopSignal,
    period_ns: int,
    give: Callable[[Period], None],
    options: TwpingOptions,
) -> None:
    session = RollingSender(plan, padding_of(plan), period_ns=period_ns)
    with exact_timers(), realtime() if options.realtime else nullcontext():
        _RollingLoop(session, sock, stop, give, options).run()


class _RollingLoop(SenderLoop):
    """The Session-Sender's loop, with time told to the session and periods given away.

    A stop ends the sending; replies are taken for Timeout after that, so that what was under way is not called lost.
    """

    def __init__(
        self,
        session: RollingSender,
        sock: socket.socket,
        stop: StopSignal,
        give: Callable[[Period], None],
        options: TwpingOptions,
    ) -> None:
        super().__init__(session, sock, stop, SystemClock(), options.io, options.stamps)
        self._rolling = session
        self._give = give
        self._slice_ns = STOP_CHECK_NS
        self._start = 0
        self._sending = True

    def run(self) -> None:
        """Send until the stop or the last sequence number."""
        self._start = self._start_ns()
        offset_ns = self._plan.schedule.offset_ns
        try:
            for sequence in range(self._plan.count):
                self.session.prepare(sequence)
                due = self._start + offset_ns(sequence)
                if not self._wait_until(due, sequence):
                    break
                self._tick()
                self._at_its_time(sequence, due)
        finally:
            self._end()

    def _end(self) -> None:
        self._sending = False
        ended = time.monotonic_ns()
        self._stop = None
        self._waiter = Waiter(self._sock.fileno())
        self._wait_for_replies(ended + self._plan.timeout_ns)
        self._finish()
        for period in self._rolling.finish(ended - self._start):
            self._give(period)

    def _tick(self) -> None:
        now = time.monotonic_ns()
        self._clock.refresh(now)
        if self._rolling.completes_at <= now - self._start:
            self._read_all()
        for period in self._rolling.tick(now - self._start):
            self._give(period)

    def _sleep(self, timeout_ns: int) -> tuple[bool, bool]:
        woken = super()._sleep(timeout_ns)
        if self._sending:
            self._tick()
        return woken
