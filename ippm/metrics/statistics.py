"""The statistics of a sample of singletons, in integers.

Percentile: the smallest observed value x for which the empirical distribution function F(x) >= p; no interpolation.
Median: the 50th percentile when the count is odd, else the mean of the two central values, rounded down to a whole
nanosecond. Lost packets have no delay and are not in the sample: the statistics of `DelayStatistics` are those of the
packets that arrived within Timeout (RFC 6703 section 5.1.2, RFC 8912 section 4.4.1). RFC 7679 section 5 and RFC 2681
section 4 take the delay of a lost packet for infinitely large instead: that is `QuantilesWithLosses`.
Of more than a million values quantiles come from a histogram, and their error is stated. RFC 2330 section 11.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import isqrt
from typing import Self

from ippm.metrics.histogram import Histogram

EXACT_LIMIT = 1_000_000
"""Of samples up to this size all values are sorted; of larger ones a histogram is made."""

QUANTILE_DEFINITION = (
    "of the packets that arrived: smallest x with F(x) >= p (RFC 2330 section 11.3); median of an even count: mean of "
    "the central two"
)


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The percentile of values in ascending order; `percent` from 1 to 100. ValueError for an empty sample."""
    if not ordered:
        raise ValueError("a percentile of nothing")
    if not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent}")
    return ordered[-(-percent * len(ordered) // 100) - 1]


def median(ordered: Sequence[int]) -> int:
    """The median of values in ascending order. ValueError for an empty sample."""
    if not ordered:
        raise ValueError("a median of nothing")
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2


def standard_deviation(count: int, total: int, squares: int) -> int:
    """Of a population of `count` values with these sums, rounded down. RFC 8912 section 7.4.2.5."""
    return isqrt(count * squares - total * total) // count


def ascending(values: Sequence[int]) -> Sequence[int]:
    """The values in ascending order where they will be sorted, so that it is done once; else as they are."""
    return sorted(values) if len(values) <= EXACT_LIMIT else values


@dataclass(frozen=True, slots=True)
class DelayStatistics:
    """Statistics of a delay sample; every value in nanoseconds, `count` is the size of the sample.

    `mean` and `standard_deviation` (of the population, RFC 8912 section 7.4.2.5) are rounded down. `relative_error_ppm`
    is what median and percentiles may be off by, in millionths of their magnitude (the median of an even count, of that
    of the central two): 0 where all values were sorted; all else is always exact.
    """

    count: int
    minimum: int
    median: int
    p95: int
    p99: int
    maximum: int
    p999: int
    mean: int
    relative_error_ppm: int = 0
    standard_deviation: int = 0

    @classmethod
    def of(cls, values: Iterable[int], exact_limit: int = EXACT_LIMIT) -> Self | None:
        """The statistics of a sample; None when it is empty: then they are undefined."""
        stream = iter(values)
        ordered = sorted(islice(stream, exact_limit))
        if not ordered:
            return None
        more = next(stream, None)
        if more is not None:
            return cls._of_many(chain(ordered, (more,), stream))
        return cls(
            len(ordered),
            ordered[0],
            median(ordered),
            percentile(ordered, 95),
            percentile(ordered, 99),
            ordered[-1],
            ordered[-(-999 * len(ordered) // 1000) - 1],
            sum(ordered) // len(ordered),
            standard_deviation=standard_deviation(
                len(ordered), sum(ordered), sum(value * value for value in ordered)
            ),
        )

    @classmethod
    def _of_many(cls, values: Iterable[int]) -> Self:
        histogram = Histogram()
        total = squares = 0
        for value in values:
            histogram.add(value)
            total += value
            squares += value * value
        return cls.of_histogram(histogram, total, squares)

    @classmethod
    def of_histogram(cls, histogram: Histogram, total: int, squares: int) -> Self:
        """The statistics of what a histogram counted. ValueError when it is empty.

        `total` is the sum of its values, `squares` that of their squares.
        """
        return cls(
            histogram.count,
            histogram.minimum,
            histogram.median(),
            histogram.quantile_ppm(950_000),
            histogram.quantile_ppm(990_000),
            histogram.maximum,
            histogram.quantile_ppm(999_000),
            total // histogram.count,
            histogram.relative_error_ppm,
            standard_deviation(histogram.count, total, squares),
        )

    def to_dict(self) -> dict[str, int]:
        """As reports print it, the unit in each name."""
        return {
            "count": self.count,
            "minimum_ns": self.minimum,
            "median_ns": self.median,
            "p95_ns": self.p95,
            "p99_ns": self.p99,
            "p999_ns": self.p999,
            "maximum_ns": self.maximum,
            "mean_ns": self.mean,
            "standard_deviation_ns": self.standard_deviation,
            "quantile_error_ppm": self.relative_error_ppm,
        }


@dataclass(frozen=True, slots=True)
class QuantilesWithLosses:
    """Quantiles of all packets sent, the delay of a lost one being infinitely large.

    `count` are packets sent; nanoseconds; None is undefined: it lies among the lost ones, as does one of the central
    two of an even count where the median has none. `relative_error_ppm` as in DelayStatistics.
    RFC 7679 section 5, RFC 2681 section 4.
    """

    count: int
    median: int | None
    p95: int | None
    p99: int | None
    p999: int | None
    relative_error_ppm: int = 0

    @classmethod
    def of(cls, values: Iterable[int], lost: int, exact_limit: int = EXACT_LIMIT) -> Self | None:
        """Of the delays of packets that arrived, and how many did not; None of an empty sample: all is undefined."""
        stream = iter(values)
        ordered = sorted(islice(stream, exact_limit))
        more = next(stream, None)
        if more is None:
            return cls._of(len(ordered), lost, lambda rank: ordered[rank - 1])
        histogram = Histogram.of(chain(ordered, (more,), stream))
        return cls._of(histogram.count, lost, histogram.of_rank, histogram.relative_error_ppm)

    @classmethod
    def beside(cls, statistics: DelayStatistics | None, values: Iterable[int], lost: int) -> Self | None:
        """Of the same delays as `statistics`, which has them already when nothing was lost."""
        if statistics is None or lost:
            return cls.of(values, lost)
        return cls(
            statistics.count,
            statistics.median,
            statistics.p95,
            statistics.p99,
            statistics.p999,
            statistics.relative_error_ppm,
        )

    @classmethod
    def _of(cls, arrived: int, lost: int, of_rank: Callable[[int], int], error_ppm: int = 0) -> Self | None:
        """`of_rank` gives the value with a place from 1 on among those that arrived, in ascending order."""
        count = arrived + lost
        if not count:
            return None

        def quantile(ppm: int) -> int | None:
            rank = -(-ppm * count // 1_000_000)
            return of_rank(rank) if rank <= arrived else None

        upper = count // 2 + 1
        median_of_all = None
        if upper <= arrived:
            median_of_all = of_rank(upper) if count % 2 else (of_rank(upper - 1) + of_rank(upper)) // 2
        return cls(count, median_of_all, quantile(950_000), quantile(990_000), quantile(999_000), error_ppm)

    def to_dict(self) -> dict[str, int | None]:
        """As reports print it, the unit in each name."""
        return {
            "count": self.count,
            "median_ns": self.median,
            "p95_ns": self.p95,
            "p99_ns": self.p99,
            "p999_ns": self.p999,
            "quantile_error_ppm": self.relative_error_ppm,
        }
