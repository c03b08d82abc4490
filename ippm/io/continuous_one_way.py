"""A one-way measurement without an end: sessions that follow each other without a gap, a period each.

OWAMP fixes the number of packets and their schedule before a session starts (RFC 4656 section 3.5), and its records are
fetched when it has ended (section 3.9). So each period is a session each way, with its Start Time at the last packet of
the one before: the stream goes on with the same mean interval, and `packets_of_period` keeps both ways together. A
Control connection ends all of its sessions at once (section 3.8). So while one period runs, and the one before waits
for Timeout and is fetched, the next is asked for on another connection; a few take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ippm.core.session_schedule import mean_interval
from ippm.crypto import Entropy, KeyProvider
from ippm.errors import ConfigurationError, IppmError
from ippm.io.clock import now_ntp
from ippm.io.entropy import SystemEntropy
from ippm.io.interrupt import unless_stopped
from ippm.io.owamp_client import OwampTcpClient, SessionPair, slots_of
from ippm.io.owamp_options import OwpingOptions
from ippm.io.pacing import StopSignal
from ippm.io.realtime import check_realtime
from ippm.io.reporter import Reporter
from ippm.report.rolling_one_way import OneWayPeriod, RollingOneWayReport
from ippm.timestamps import first_and_last, ntp_add_ns, ntp_difference_ns

LEAD_S = 1.0
"""How long before its Start Time a session is asked for; half a period where that is shorter."""

SHORTEST_PERIOD_S = 1.0

IDLE_S = 300.0
"""A Control connection that was idle for longer is not used again: the server may end it after SERVWAIT."""


async def run_continuous_owping(
    options: OwpingOptions,
    provider: KeyProvider | None = None,
    *,
    report: Callable[[dict[str, Any]], None],
    period_s: float = 10.0,
    stop: StopSignal | None = None,
    entropy: Entropy | None = None,
) -> None:
    """Measure until `stop`, and call `report`, in another thread, with each period and at last with the end.

    `options.count` says nothing here: `packets_of_period` says how many packets a session has.
    Raises IppmError, after the last report, and what `report` raises.
    """
    if not SHORTEST_PERIOD_S <= period_s <= 86400:
        raise ConfigurationError(f"period = {period_s:g}: {SHORTEST_PERIOD_S:g} second to a day")
    mean_s = mean_interval(slots_of(options))
    if not mean_s:
        raise ConfigurationError("an interval of 0 has no period")
    if options.realtime and options.to_server:
        check_realtime(mean_s * 1e9)
    reporter = Reporter(RollingOneWayReport(options.host, options.path), report, stop)
    chain = _Chain(options, provider, entropy or SystemEntropy(), reporter, period_s, mean_s)
    async with reporter.reporting():
        try:
            await chain.run(min(LEAD_S, period_s / 2), reporter.stop)
        finally:
            await chain.close()


def packets_of_period(starts: Mapping[bool, int], end: int, mean_ns: float) -> dict[bool, int]:
    """How many packets the session of each way has that starts then (NTP): as many as take it to `end` on average.

    With exponential intervals the two ways part, as any two Poisson streams do: what one was ahead or behind is made
    up for in its next session, so that they end together and not ever more sessions overlap. How many packets are still
    to be sent depends on nothing but the past: each stream stays a Poisson stream.
    """
    _, latest = first_and_last((*starts.values(), end))
    return {way: max(1, round(ntp_difference_ns(latest, start) / mean_ns)) for way, start in starts.items()}


@dataclass(slots=True)
class _Running:
    """A period that runs: `stop` ends its sessions; the last packet of any is due at `last_due`, NTP."""

    stop: StopSignal
    last_due: int


class _Chain:
    """The periods, one after the other, and the Control connections that serve them."""

    def __init__(
        self,
        options: OwpingOptions,
        provider: KeyProvider | None,
        entropy: Entropy,
        reporter: Reporter[OneWayPeriod],
        period_s: float,
        mean_s: float,
    ) -> None:
        self._options = options
        self._period_ns = round(period_s * 1e9)
        self._mean_ns = mean_s * 1e9
        self._provider = provider
        self._entropy = entropy
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._idle: list[tuple[OwampTcpClient, float]] = []
        self._running: dict[asyncio.Task[None], _Running] = {}
        self._changed = asyncio.Event()

    async def run(self, lead_s: float, stop: StopSignal | None) -> None:
        """Until `stop`, or an error of a connection. What still sends then is ended, with what it has."""
        if stop is not None:
            self._loop.add_reader(stop.fileno(), self._changed.set)
        try:
            await self._periods(lead_s, stop)
        except IppmError:
            with contextlib.suppress(IppmError):
                await self._end()
            raise
        finally:
            if stop is not None:
                self._loop.remove_reader(stop.fileno())
        await self._end()

    async def close(self) -> None:
        """End what runs, and close the connections."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for client, _ in self._idle:
            await client.close()

    async def _periods(self, lead_s: float, stop: StopSignal | None) -> None:
        beginning = ntp_add_ns(now_ntp(), round(self._options.start_delay_s * 1e9))
        starts, sent = (dict.fromkeys(self._options.ways, value) for value in (beginning, 0))
        number = 0
        while stop is None or not stop():
            before = None if number else stop  # ends the waits while nothing has been measured
            client = await unless_stopped(before, self._client())
            pair = SessionPair(client, self._options, self._entropy)
            try:
                counts = packets_of_period(
                    starts, ntp_add_ns(beginning, (number + 1) * self._period_ns), self._mean_ns
                )
                await unless_stopped(before, pair.begin(starts, counts))
            except BaseException:
                await pair.close()
                await client.close()
                raise
            starts = {server_sends: pair.last_due(server_sends=server_sends) for server_sends in starts}
            soonest, latest = first_and_last(starts.values())
            self._start(number, client, pair, latest, sent)
            sent = {way: sent[way] + counts[way] for way in sent}
            number += 1
            await self._until(soonest, lead_s, stop)

    async def _client(self) -> OwampTcpClient:
        while self._idle:
            client, since = self._idle.pop()
            if self._loop.time() - since < IDLE_S:
                return client
            await client.close()
        return await OwampTcpClient.connect(self._options, self._provider, self._entropy)

    def _start(
        self, number: int, client: OwampTcpClient, pair: SessionPair, last_due: int, packets_before: dict[bool, int]
    ) -> None:
        signal, before = StopSignal(), list(self._running)
        task = asyncio.ensure_future(self._period(number, client, pair, signal, before, packets_before))
        self._running[task] = _Running(signal, last_due)
        task.add_done_callback(lambda _: self._changed.set())

    async def _period(
        self,
        number: int,
        client: OwampTcpClient,
        pair: SessionPair,
        signal: StopSignal,
        before: list[asyncio.Task[None]],
        packets_before: dict[bool, int],
    ) -> None:
        try:
            run = await pair.finish(signal)
        except BaseException:
            await client.close()
            raise
        finally:
            await pair.close()
        self._idle.append((client, self._loop.time()))
        results = tuple(result for result in run.results if result.metrics.sent or result.metrics.skipped)
        if before:  # lines keep the order of the periods
            await asyncio.wait(before)
        if results or run.errors:
            first = {"from" if server_sends else "to": packets for server_sends, packets in packets_before.items()}
            self._reporter.take(OneWayPeriod(number, results, run.errors, first))

    async def _until(self, start: int, lead_s: float, stop: StopSignal | None) -> None:
        """Until the next sessions are to be asked for, or `stop`. Raises what ended a period."""
        due = self._loop.time() + ntp_difference_ns(start, now_ntp()) / 1e9 - lead_s
        self._take_done()
        while (wait_s := due - self._loop.time()) > 0 and (stop is None or not stop()):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
            self._take_done()

    def _take_done(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.pop(task).stop.close()
            task.result()

    async def _end(self) -> None:
        """Stop-Sessions for what still sends; what has sent all waits for Timeout. Raises what ended a period."""
        now = now_ntp()
        for running in self._running.values():
            if ntp_difference_ns(running.last_due, now) > 0:
                running.stop.set()
        if self._running:
            await asyncio.wait(self._running)
        self._take_done()
