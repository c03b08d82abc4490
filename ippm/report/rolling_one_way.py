"""Reports of a one-way measurement without an end: a dictionary a period, with all since the start, and a last one.

A period is a session each way. Of the time since the start counts and histograms are kept, as in `rolling`. Reordering,
loss periods and delay variation are those within a session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ippm.metrics.statistics import QUANTILE_DEFINITION
from ippm.report.one_way import OneWayResult
from ippm.report.packets import delay_ns, first_copies
from ippm.report.rolling import RollingSample, clock_dict, worse_clock
from ippm.timestamps import ClockState

COUNTS = ("sent", "received", "lost", "duplicates", "reordered", "skipped")
"""What is counted in a session and since the start, in packets."""


@dataclass(frozen=True, slots=True)
class OneWayPeriod:
    """What the sessions of one period gave, a result a way, and what went wrong with a way that has none.

    `number` counts periods from 0; `first_sequence` is how many packets were scheduled before it, by direction.
    """

    number: int
    results: tuple[OneWayResult, ...]
    errors: tuple[str, ...]
    first_sequence: Mapping[str, int]


class RollingOneWayReport:
    """Makes the dictionaries. `path` is the caller's word for the way, or None."""

    def __init__(self, host: str, path: str | None = None) -> None:
        self._host = host
        self._path = path
        self._periods = 0
        self._failed = 0
        self._ways: dict[str, _Way] = {}

    def line(self, period: OneWayPeriod) -> dict[str, Any]:
        """A period: its sessions, and `total` of each way, all up to its end."""
        self._periods += 1
        self._failed += len(period.errors)
        sessions = []
        for result in period.results:
            way = self._ways.setdefault(result.direction, _Way())
            way.take(result)
            sessions.append({"first_sequence": period.first_sequence[result.direction], "result": result.to_dict()})
        return {
            "kind": "one_way_period",
            "period": period.number,
            "host": self._host,
            "path": self._path,
            "errors": list(period.errors),
            "sessions": sessions,
            "total": self._total(),
        }

    def end(self, error: str | None = None, periods_dropped: int = 0) -> dict[str, Any]:
        """The last one: all there was, and why it ended when an error ended it."""
        return {
            "kind": "one_way_end",
            "ok": error is None,
            "error": error,
            "host": self._host,
            "path": self._path,
            "periods": self._periods,
            "periods_dropped": periods_dropped,
            "failed": self._failed,
            "total": self._total(),
            "quantiles": QUANTILE_DEFINITION,
        }

    def _total(self) -> dict[str, Any]:
        return {
            direction: None if (way := self._ways.get(direction)) is None else way.to_dict()
            for direction in ("to", "from")
        }


class _Way:
    """All sessions of one direction since the start."""

    def __init__(self) -> None:
        self._sessions = 0
        self._counts: Counter[str] = Counter()
        self._delay = RollingSample()
        self._sender: ClockState | None = None
        self._receiver: ClockState | None = None

    def take(self, result: OneWayResult) -> None:
        self._sessions += 1
        self._sender = worse_clock(self._sender, result.metrics.sender_clock)
        self._receiver = worse_clock(self._receiver, result.metrics.receiver_clock)
        for name in COUNTS:
            self._counts[name] += getattr(result.metrics, name)
        self._delay.add(delay_ns(packet) for packet in first_copies(result.measured) if not packet.lost)

    def to_dict(self) -> dict[str, Any]:
        counts = {name: self._counts[name] for name in COUNTS}
        clock = clock_dict(sender=self._sender, receiver=self._receiver)
        return {"sessions": self._sessions, **counts, "delay": self._delay.to_dict(), "clock": clock}
