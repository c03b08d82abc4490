"""Delay variation in its two forms. RFC 3393, RFC 5481 section 4.

- IPDV: the delay of a packet less that of the packet sent just before it; undefined when either was lost.
- PDV: the delay of a packet less the least delay of the sample.

A constant offset between the clocks drops out of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def inter_packet_delay_variation(delays: Iterable[int | None]) -> list[int]:
    """IPDV in nanoseconds, signed, of delays in the order of sending (None: lost). RFC 3393 section 2, RFC 5481 4.1."""
    variation: list[int] = []
    before: int | None = None
    for delay in delays:
        if delay is not None and before is not None:
            variation.append(delay - before)
        before = delay
    return variation


def packet_delay_variation(delays: Sequence[int]) -> list[int]:
    """PDV in nanoseconds: each delay less the least of the sample. RFC 5481 section 4.2."""
    least = min(delays, default=0)
    return [delay - least for delay in delays]
