"""Reordering and duplication of a stream, from the sequence numbers in the order of arrival.

RFC 4737 section 3: a packet is reordered when its number is less than the next expected one. Copies are not counted as
reordered: only the first of each number is looked at. RFC 5560 counts the copies.
"""

from __future__ import annotations

from collections.abc import Iterable


def reordered(arrivals: Iterable[int]) -> int:
    """How many packets have Type-P-Reordered TRUE. RFC 4737 section 3.3."""
    next_expected = 0
    count = 0
    seen: set[int] = set()
    for number in arrivals:
        if number in seen:
            continue
        seen.add(number)
        if number >= next_expected:
            next_expected = number + 1
        else:
            count += 1
    return count


def duplicates(arrivals: Iterable[int]) -> int:
    """How many arrivals were copies of a packet that had arrived before. RFC 5560 section 4."""
    seen: set[int] = set()
    count = 0
    for number in arrivals:
        if number in seen:
            count += 1
        seen.add(number)
    return count


def arrival_order(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The sender's numbers in the order in which the reflector saw them, of (reflector number, sender number)."""
    return [sender for _, sender in sorted(pairs)]
