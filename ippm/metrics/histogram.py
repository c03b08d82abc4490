"""A histogram of signed integers with buckets of a bounded relative width, for samples too large to be kept.

Values of up to 2**(P + 1) - 1 in magnitude have a bucket each; above that each power of two is cut into 2**P buckets.
What a quantile gives is the least value of the bucket that holds it (for negative values the one farthest from zero),
except that it is never outside what was observed: so it is off by less than 1 part in 2**P of its magnitude. Histograms
of the same precision are merged by adding; merging in any order gives the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Self

DEFAULT_PRECISION = 10
"""Buckets of less than 1/1024 of their value: 0.1 %."""


class Histogram:
    """Counts of values, of which none is kept. `precision` is the P above. ValueError when it is not 1 to 20."""

    __slots__ = ("_buckets", "_maximum", "_minimum", "count", "precision")

    def __init__(self, precision: int = DEFAULT_PRECISION) -> None:
        if not 1 <= precision <= 20:
            raise ValueError(f"precision {precision}: 1 to 20")
        self.precision = precision
        self.count = 0
        self._buckets: Counter[int] = Counter()
        self._minimum = self._maximum = 0

    @classmethod
    def of(cls, values: Iterable[int], precision: int = DEFAULT_PRECISION) -> Self:
        """A histogram of these values."""
        histogram = cls(precision)
        for value in values:
            histogram.add(value)
        return histogram

    @property
    def relative_error_ppm(self) -> int:
        """What a quantile may be off by, in parts per million of its magnitude, rounded up."""
        return -(-1_000_000 >> self.precision)

    @property
    def minimum(self) -> int:
        """The least value, exact. ValueError when there is none."""
        self._need_values()
        return self._minimum

    @property
    def maximum(self) -> int:
        """The greatest value, exact. ValueError when there is none."""
        self._need_values()
        return self._maximum

    def add(self, value: int) -> None:
        """Count one value."""
        if not self.count:
            self._minimum = self._maximum = value
        elif value < self._minimum:
            self._minimum = value
        elif value > self._maximum:
            self._maximum = value
        self.count += 1
        self._buckets[self._bucket(value)] += 1

    def merge(self, other: Histogram) -> None:
        """Count what another one has counted. ValueError when its precision is another."""
        if other.precision != self.precision:
            raise ValueError(f"precisions {self.precision} and {other.precision} do not merge")
        if not other.count:
            return
        self._minimum = min(self._minimum, other._minimum) if self.count else other._minimum
        self._maximum = max(self._maximum, other._maximum) if self.count else other._maximum
        self.count += other.count
        self._buckets.update(other._buckets)

    def quantile_ppm(self, ppm: int) -> int:
        """The smallest x with F(x) >= ppm / 1,000,000, to the bucket's width. ValueError when there are no values."""
        self._need_values()
        if not 0 < ppm <= 1_000_000:
            raise ValueError(f"no quantile {ppm} of a million")
        return self.of_rank(-(-ppm * self.count // 1_000_000))

    def median(self) -> int:
        """The median, of an even count the mean of the central two rounded down, each to its bucket's width.

        ValueError when there are no values.
        """
        self._need_values()
        middle = self.count // 2
        if self.count % 2:
            return self.of_rank(middle + 1)
        return (self.of_rank(middle) + self.of_rank(middle + 1)) // 2

    def of_rank(self, rank: int) -> int:
        """What stands for the value with this place among all in ascending order, from 1 to `count`."""
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(max(self._least(bucket), self._minimum), self._maximum)
        raise AssertionError("the counts do not add up")

    def buckets(self) -> list[tuple[int, int, int]]:
        """(least value, greatest value, count) of each bucket that has any, in ascending order."""
        return [
            (self._least(bucket), self._greatest(bucket), self._buckets[bucket]) for bucket in sorted(self._buckets)
        ]

    def _need_values(self) -> None:
        if not self.count:
            raise ValueError("there are no values")

    def _bucket(self, value: int) -> int:
        """The number of a value's bucket: ascending with the values, those of negative ones negative."""
        magnitude = value if value >= 0 else -value
        shift = max(0, magnitude.bit_length() - self.precision - 1)
        bucket = (shift << self.precision) + (magnitude >> shift)
        return bucket if value >= 0 else -bucket

    def _bounds(self, bucket: int) -> tuple[int, int]:
        """The least and the greatest magnitude in a bucket."""
        number = bucket if bucket >= 0 else -bucket
        shift = max(0, (number >> self.precision) - 1)
        first = (number - (shift << self.precision)) << shift
        return first, first + (1 << shift) - 1

    def _least(self, bucket: int) -> int:
        first, last = self._bounds(bucket)
        return first if bucket >= 0 else -last

    def _greatest(self, bucket: int) -> int:
        first, last = self._bounds(bucket)
        return last if bucket >= 0 else -first
