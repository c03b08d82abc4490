"""How old the stamp in a packet was when the kernel sent the packet, and the times of sending that follow from it.

A program stamps a packet, and some microseconds later the kernel hands it to the device. Where the kernel says when
(a transmit stamp), results take that time instead of the stamp in the packet: what a Session-Sender records of a
session is its own affair (RFC 5357 section 4.1). Of packets between those that the kernel stamped the time is the
packet's own stamp and the median of the last ages before it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ippm.metrics.delay import Stamps
from ippm.timestamps import ntp_add_ns, ntp_difference_ns


class RunningAge:
    """The ages of the last WINDOW packets when the kernel sent them, nanoseconds: their median and the largest."""

    WINDOW = 63
    LEAST = 8
    """With fewer ages than this there is no median."""

    __slots__ = ("_last", "_ordered")

    def __init__(self) -> None:
        self._last: deque[int] = deque()
        self._ordered: list[int] = []

    def add(self, age_ns: int) -> None:
        """One more."""
        if len(self._last) == self.WINDOW:
            del self._ordered[bisect_left(self._ordered, self._last.popleft())]
        self._last.append(age_ns)
        insort(self._ordered, age_ns)

    @property
    def median(self) -> int | None:
        """The median, or None while too few are known."""
        return self._ordered[len(self._ordered) // 2] if len(self._ordered) >= self.LEAST else None

    @property
    def spread(self) -> int | None:
        """How far the ages lie from their median at most, or None."""
        median = self.median
        if median is None:
            return None
        return max(self._ordered[-1] - median, median - self._ordered[0])

    @property
    def largest(self) -> int | None:
        """The largest, or None while too few are known."""
        return self._ordered[-1] if len(self._ordered) >= self.LEAST else None


class SentStamps(Stamps, Protocol):
    """Stamps of a session, `t1` as they are in the packets, and what the kernel says of their sending."""

    @property
    def departure(self) -> Sequence[int]:
        """The kernel's transmit stamps."""


@dataclass(frozen=True, slots=True)
class MeasuredStamps:
    """The four stamps that delays are made of; `t1` is the time of sending as well as it is known."""

    t1: Sequence[int]
    t2: Sequence[int]
    t3: Sequence[int]
    t4: Sequence[int]


def measured_stamps(records: SentStamps) -> MeasuredStamps:
    """The stamps of a session with the times of sending as well as they are known. RFC 5357 section 4.1."""
    return MeasuredStamps(sent_times(records.t1, records.departure), records.t2, records.t3, records.t4)


def sent_times(packet_stamps: Sequence[int], departures: Sequence[int]) -> Sequence[int]:
    """When packets were sent: by the kernel, else by their own stamps and the running median age, or by these alone.

    NTP, 0 for a packet that was not sent. The two have the same length.
    """
    if not any(departures):
        return packet_stamps
    ages = RunningAge()
    sent = array("Q")
    for stamp, departure in zip(packet_stamps, departures, strict=True):
        if stamp and departure:
            ages.add(ntp_difference_ns(departure, stamp))
            sent.append(departure)
        else:
            sent.append(ntp_add_ns(stamp, ages.median or 0) if stamp else 0)
    return sent


def packet_ages(packet_stamps: Sequence[int], departures: Sequence[int]) -> Iterator[int]:
    """How old each packet's own stamp was when the kernel sent it, nanoseconds, of those that the kernel stamped."""
    for stamp, departure in zip(packet_stamps, departures, strict=True):
        if stamp and departure:
            yield ntp_difference_ns(departure, stamp)
