"""Delays of a two-way session from its four stamps, in nanoseconds.

T1 sent and T4 received by the Session-Sender's clock; T2 received and T3 sent by the Session-Reflector's.

- round trip, total: T4 - T1. Type-P-Round-trip-Delay, RFC 2681 section 2: what the reflector took is part of it.
- round trip: (T4 - T1) - (T3 - T2). What TWAMP reports: without the time in the reflector; no clock need be right.
- forward: T2 - T1, backward: T4 - T3. Type-P-One-way-Delay, RFC 7679 section 3: as good as the two clocks agree.

Differences are rounded each to the nearest nanosecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ippm.timestamps import ntp_difference_ns


class Stamps(Protocol):
    """The stamps of a session by sequence number, NTP, 0 for none: `ippm.core.session_sender.SenderRecords`."""

    @property
    def t1(self) -> Sequence[int]:
        """Sent."""

    @property
    def t2(self) -> Sequence[int]:
        """Received by the reflector."""

    @property
    def t3(self) -> Sequence[int]:
        """Sent by the reflector."""

    @property
    def t4(self) -> Sequence[int]:
        """Reply received."""


def _answered(stamps: Stamps) -> Iterator[tuple[int, int, int, int]]:
    for t1, t2, t3, t4 in zip(stamps.t1, stamps.t2, stamps.t3, stamps.t4, strict=True):
        if t4:
            yield t1, t2, t3, t4


def round_trip_total(stamps: Stamps) -> list[int]:
    """T4 - T1 of each answered packet. RFC 2681 section 2.4."""
    return [ntp_difference_ns(t4, t1) for t1, _, _, t4 in _answered(stamps)]


def round_trip(stamps: Stamps) -> list[int]:
    """(T4 - T1) - (T3 - T2) of each answered packet: T3 - T2 was not in the network. RFC 5357 section 4.2.1."""
    return [ntp_difference_ns(t4, t1) - ntp_difference_ns(t3, t2) for t1, t2, t3, t4 in _answered(stamps)]


def forward(stamps: Stamps) -> list[int]:
    """T2 - T1 of each answered packet. RFC 7679 section 3.4."""
    return [ntp_difference_ns(t2, t1) for t1, t2, _, _ in _answered(stamps)]


def backward(stamps: Stamps) -> list[int]:
    """T4 - T3 of each answered packet. RFC 7679 section 3.4."""
    return [ntp_difference_ns(t4, t3) for _, _, t3, t4 in _answered(stamps)]


def reflector_turnaround(stamps: Stamps) -> list[int]:
    """T3 - T2 of each answered packet: the time in the reflector."""
    return [ntp_difference_ns(t3, t2) for _, t2, t3, _ in _answered(stamps)]
