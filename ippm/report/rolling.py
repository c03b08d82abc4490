"""Reports of a measurement without an end: a dictionary a period, with all since the start, and one at the end.

Of the time since the start counts and histograms are kept, which do not grow with the packets: quantiles have the error
that `quantile_error_ppm` states. Reordering, loss periods and delay variation are those within a period; a copy of a
reply that comes after its period was reported is in `rejected`, as `unknown_sequence_number`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from ippm.core.rolling_sender import Period
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.metrics import delay
from ippm.metrics.histogram import Histogram
from ippm.metrics.packet_age import measured_stamps
from ippm.metrics.statistics import QUANTILE_DEFINITION, DelayStatistics
from ippm.metrics.two_way import TwoWayMetrics, two_way_metrics, worst_clock
from ippm.report.result import loss_pattern_dict, stamp_report, statistics_dict, with_losses_dict
from ippm.report.stream import StreamWords
from ippm.timestamps import ClockState

COUNTS = ("sent", "received", "lost", "duplicates", "reordered", "skipped", "late", "send_failed")
"""What is counted in a period and since the start. In packets, copies and late replies apart."""


@dataclass(frozen=True, slots=True)
class SessionWords:
    """What the reports say of the session that a period belongs to; `start_unix_ns` is when it started.

    `stream` is what is sent in it.
    """

    sid: bytes
    mode: str
    local: tuple[str, int]
    remote: tuple[str, int]
    start_unix_ns: int
    stream: StreamWords

    @classmethod
    def of(cls, plan: SenderPlan, mode: str, start_unix_ns: int) -> Self:
        """Of the plan of a session; `mode` is a word."""
        stream = StreamWords(
            plan.layout.sender_octets + plan.padding_octets, plan.dscp, plan.schedule.slots, plan.timeout_ns
        )
        return cls(plan.sid, mode, plan.local, plan.remote, start_unix_ns, stream)


class RollingSample:
    """Statistics of a sample of which no value is kept."""

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._total = self._squares = 0

    def add(self, values: Iterable[int]) -> None:
        """Count these values."""
        for value in values:
            self._histogram.add(value)
            self._total += value
            self._squares += value * value

    def to_dict(self) -> dict[str, int] | None:
        """The statistics as in the JSON reports; None of nothing."""
        if not self._histogram.count:
            return None
        return DelayStatistics.of_histogram(self._histogram, self._total, self._squares).to_dict()


class RollingReport:
    """Makes the dictionaries, each after the other. `path` is the caller's word for the way, or None."""

    def __init__(self, host: str, path: str | None = None) -> None:
        self._host = host
        self._path = path
        self._periods = 0
        self._last_sid = b""
        self._sessions = 0
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._round_trip, self._forward, self._backward = RollingSample(), RollingSample(), RollingSample()
        self._local: ClockState | None = None
        self._peer: ClockState | None = None

    def line(self, item: tuple[SessionWords, Period]) -> dict[str, Any]:
        """A period that is complete, of its session, and `total`, all up to its end."""
        session, period = item
        records = period.records
        metrics = two_way_metrics(records)
        counts = _counts(metrics, records)
        self._take(session, counts, records)
        local = worst_clock(error for error, t1 in zip(records.sender_error, records.t1, strict=True) if t1)
        peer = metrics.peer_clock
        self._local, self._peer = worse_clock(self._local, local), worse_clock(self._peer, peer)
        stamps = stamp_report(records)
        made = {
            "kind": "period",
            "period": self._periods,
            "host": self._host,
            "path": self._path,
            "sid": session.sid.hex(),
            "mode": session.mode,
            "local": {"address": session.local[0], "port": session.local[1]},
            "remote": {"address": session.remote[0], "port": session.remote[1]},
            "payload_octets": session.stream.payload_octets,
            "dscp": session.stream.dscp,
            "schedule": session.stream.schedule_dicts(),
            "timeout_ns": session.stream.timeout_ns,
            "start_unix_ns": session.start_unix_ns + period.start_ns,
            "end_unix_ns": session.start_unix_ns + period.end_ns,
            "first_sequence": period.first_sequence if records.count else None,
            **counts,
            "rejected": dict(records.rejected),
            "duplication": metrics.duplication.to_dict(),
            "delay": statistics_dict(metrics.round_trip),
            "delay_with_losses": with_losses_dict(metrics.round_trip_with_losses),
            "forward": statistics_dict(metrics.forward),
            "backward": statistics_dict(metrics.backward),
            "ipdv": statistics_dict(metrics.round_trip_ipdv),
            "reflector_turnaround": statistics_dict(metrics.reflector_turnaround),
            "loss_pattern": loss_pattern_dict(metrics.loss_pattern),
            "clock": clock_dict(local=local, peer=peer),
            "stamps": stamps.to_dict(),
            "send_error": statistics_dict(stamps.send_error),
            "total": self._total(),
        }
        self._periods += 1
        return made

    def end(self, error: str | None = None, periods_dropped: int = 0) -> dict[str, Any]:
        """The last one: all there was, and why it ended when an error ended it."""
        return {
            "kind": "end",
            "ok": error is None,
            "error": error,
            "host": self._host,
            "path": self._path,
            "periods": self._periods,
            "periods_dropped": periods_dropped,
            "total": self._total(),
            "quantiles": QUANTILE_DEFINITION,
        }

    def _take(self, session: SessionWords, counts: dict[str, int], records: SenderRecords) -> None:
        if session.sid != self._last_sid:
            self._last_sid = session.sid
            self._sessions += 1
        self._counts.update(counts)
        self._rejected.update(records.rejected)
        stamps = measured_stamps(records)
        self._round_trip.add(delay.round_trip(stamps))
        self._forward.add(delay.forward(stamps))
        self._backward.add(delay.backward(stamps))

    def _total(self) -> dict[str, Any]:
        return {
            "sessions": self._sessions,
            **{name: self._counts[name] for name in COUNTS},
            "rejected": dict(self._rejected),
            "delay": self._round_trip.to_dict(),
            "forward": self._forward.to_dict(),
            "backward": self._backward.to_dict(),
            "clock": clock_dict(local=self._local, peer=self._peer),
        }


def worse_clock(one: ClockState | None, other: ClockState | None) -> ClockState | None:
    """The worse of two states, as `worst_clock` has it; None where nothing is known."""
    if one is None or other is None:
        return one or other
    return ClockState(one.synchronized and other.synchronized, max(one.error_ns, other.error_ns), other.source)


def clock_dict(**ends: ClockState | None) -> dict[str, Any]:
    """The `clock` of a report: the state of each end, and whether both are synchronized."""
    return {
        **{end: None if state is None else state.to_dict() for end, state in ends.items()},
        "both_synchronized": all(state is not None and state.synchronized for state in ends.values()),
    }


def _counts(metrics: TwoWayMetrics, records: SenderRecords) -> dict[str, int]:
    values = (
        metrics.sent,
        metrics.received,
        metrics.lost,
        metrics.duplicates,
        metrics.reordered,
        len(records.skipped),
        records.late,
        records.send_failed,
    )
    return dict(zip(COUNTS, values, strict=True))
