"""Reordering and duplication of a stream, from the sequence numbers in the order of arrival.

RFC 4737 section 3: a packet is reordered when its number is less than the next expected one. Of each number only the
first arrival is looked at, here as in every metric that follows: "only the first to arrive is considered for further
analysis (copies would be declared reordered)" (section 3.6). Section 5.2 lets copies make its l greater than k, so
n-reordering read by itself would count them; the MUST of section 3.6 goes before. RFC 5560 counts the copies.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reordering:
    """The reordering of a stream. `received` and `reordered` are packets, copies not counted.

    `extents`, in order of arrival, belong to the reordered packets (section 4.2), as do `late_times_ns`, None where no
    times are known (section 4.3). `n_reordered` says how many packets are n-reordered for n = 1, 2, ... (section 5.2).
    `gaps` are the distances between reordering discontinuities (section 4.5), `free_runs` the lengths of the runs of
    packets in order that a reordered one ends (section 4.6). RFC 4737.
    """

    received: int
    extents: tuple[int, ...]
    late_times_ns: tuple[int, ...] | None
    n_reordered: tuple[int, ...]
    gaps: tuple[int, ...]
    free_runs: tuple[int, ...]

    @property
    def reordered(self) -> int:
        """Packets with Type-P-Reordered TRUE. Section 3.3."""
        return len(self.extents)

    @property
    def extent_counts(self) -> dict[int, int]:
        """How many packets have each extent, by the extent."""
        return dict(sorted(Counter(self.extents).items()))

    def degree_ppm(self, n: int) -> int | None:
        """The degree of n-reordering in parts per million, rounded down; None when nothing arrived. Section 5.2."""
        if not self.received:
            return None
        return 1_000_000 * (self.n_reordered[n - 1] if 0 < n <= len(self.n_reordered) else 0) // self.received


def reordering(arrivals: Iterable[int], times_ns: Sequence[int] | None = None) -> Reordering:
    """All of it, from the numbers in the order of arrival; `times_ns` are the times of these arrivals. RFC 4737."""
    numbers: list[int] = []
    times: list[int] = []
    seen: set[int] = set()
    for index, number in enumerate(arrivals):
        if number not in seen:
            seen.add(number)
            numbers.append(number)
            if times_ns is not None:
                times.append(times_ns[index])
    extents: list[int] = []
    late: list[int] = []
    discontinuities: list[int] = []
    runs: list[int] = []
    run = 0
    # The packets in order: their numbers grow, and so do the indexes at which they arrived.
    heads: list[int] = []
    heads_at: list[int] = []
    for index, number in enumerate(numbers):
        if not heads or number > heads[-1]:
            heads.append(number)
            heads_at.append(index)
            run += 1
            continue
        earliest = heads_at[bisect_right(heads, number)]
        extents.append(index - earliest)
        if times_ns is not None:
            late.append(times[index] - times[earliest])
        discontinuities.append(earliest)
        runs.append(run)
        run = 0
    # A reordered packet may belong to a discontinuity that is earlier than one which was found before.
    found = sorted(set(discontinuities))
    return Reordering(
        received=len(numbers),
        extents=tuple(extents),
        late_times_ns=None if times_ns is None else tuple(late),
        n_reordered=_n_reordered(numbers),
        gaps=tuple(after - before for before, after in itertools.pairwise(found)),
        free_runs=tuple(runs),
    )


def _n_reordered(numbers: Sequence[int]) -> tuple[int, ...]:
    """How many packets are n-reordered, for n from 1: all n arrivals just before have greater numbers. Section 5.1."""
    lower: list[
        int
    ] = []  # indexes of arrivals with growing numbers, the last ones that were lower than what followed
    degrees: Counter[int] = Counter()
    for index, number in enumerate(numbers):
        while lower and numbers[lower[-1]] > number:
            lower.pop()
        greater = index - 1 - lower[-1] if lower else index
        if greater:
            degrees[greater] += 1
        lower.append(index)
    counts = []
    at_least = degrees.total()
    for n in range(1, max(degrees, default=0) + 1):
        counts.append(at_least)
        at_least -= degrees[n]
    return tuple(counts)


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


def replicated(arrivals: Iterable[int]) -> int:
    """How many packets arrived more than once. RFC 5560 section 5.2."""
    return sum(copies > 1 for copies in Counter(arrivals).values())


@dataclass(frozen=True, slots=True)
class Duplication:
    """`received` are packets, `copies` what arrived of them beyond the first, `replicated` packets that had copies.

    The two statistics are in millionths, rounded down, None when nothing arrived: then they are undefined. RFC 5560.
    """

    received: int
    copies: int
    replicated: int

    @property
    def fraction_ppm(self) -> int | None:
        """Type-P-one-way-packet-duplication-fraction. Section 5.1."""
        return 1_000_000 * self.copies // self.received if self.received else None

    @property
    def replicated_rate_ppm(self) -> int | None:
        """Type-P-one-way-replicated-packet-rate. Section 5.2."""
        return 1_000_000 * self.replicated // self.received if self.received else None

    def to_dict(self) -> dict[str, int | None]:
        """As reports print it."""
        return {
            "replicated": self.replicated,
            "fraction_ppm": self.fraction_ppm,
            "replicated_rate_ppm": self.replicated_rate_ppm,
        }


def arrival_order(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The sender's numbers in the order in which the reflector saw them, of (reflector number, sender number)."""
    return [sender for _, sender in sorted(pairs)]
