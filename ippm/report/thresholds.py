"""Thresholds that a caller set, and whether a result exceeds them. What was not measured is within none of them.

The loss ratio of an empty sample is undefined (RFC 7680 section 4.1, RFC 6673 section 6.1), and so is its delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ippm.report.one_way import OneWayResult
    from ippm.report.result import RunResult


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is not to be exceeded: lost packets in per cent of those sent, the median delay in ms; None: anything."""

    loss_percent: float | None = None
    delay_ms: float | None = None

    def exceeded(self, result: RunResult) -> str | None:
        """Which one a two-way result exceeds, in a sentence; None when it does not."""
        if (reason := self._loss(result)) is not None:
            return reason
        if self.delay_ms is None:
            return None
        if result.round_trip is None:
            return "no packet was answered, so no delay is known"
        if result.round_trip.median > self.delay_ms * 1e6:
            return self._delay("median round-trip time", result.round_trip.median)
        return None

    def exceeded_one_way(self, result: OneWayResult) -> str | None:
        """The same of one direction."""
        way = f"{result.direction} the server"
        if (reason := self._loss(result)) is not None:
            return f"{way}, {reason}"
        if self.delay_ms is None:
            return None
        if result.delay is None:
            return f"{way}, no packet arrived, so no delay is known"
        if result.delay.median > self.delay_ms * 1e6:
            return f"{way}, {self._delay('median delay', result.delay.median)}"
        return None

    def _loss(self, result: RunResult | OneWayResult) -> str | None:
        if self.loss_percent is None:
            return None
        if not result.sent:
            return "no packet was sent, so no loss is known"
        if result.lost * 100 > self.loss_percent * result.sent:
            return f"{result.lost} of {result.sent} packets lost: more than {self.loss_percent:g} %"
        return None

    def _delay(self, what: str, median_ns: int) -> str:
        return f"{what} {median_ns / 1e6:.3f} ms: more than {self.delay_ms:g} ms"
