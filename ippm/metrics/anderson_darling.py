"""The Anderson-Darling k-sample test: do samples of singletons come from one distribution, whatever it is?

It looks at ranks alone, so it assumes nothing of the distribution. It does assume that the values of a sample are
independent of one another and that the samples are. RFC 6576 compares the results of implementations by it.

F. W. Scholz and M. A. Stephens, K-Sample Anderson-Darling Tests, JASA 82 (1987), 918-924: "SS" below.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE_PPM = 50_000
"""5 %, unless somebody says otherwise: RFC 2330 section 11.4."""

_TABLE = {
    250_000: (0.675, -0.245, -0.105),
    100_000: (1.281, 0.250, -0.305),
    50_000: (1.645, 0.678, -0.362),
    25_000: (1.960, 1.149, -0.391),
    10_000: (2.326, 1.822, -0.396),
}
"""SS table 2: the coefficients b0, b1, b2 of the critical value for each significance, in millionths."""

LEVELS_PPM = tuple(_TABLE)
MINIMUM_SAMPLE = 5
"""For smaller samples the critical values, which are those of large ones, do not serve."""


@dataclass(frozen=True, slots=True)
class AndersonDarling:
    """The outcome for `samples` of these sizes, of which `distinct` values differ.

    `statistic` is standardized: (A2akN - (k - 1)) / sigma, with midranks for ties (SS equation 7); `continuous` is
    the same without an adjustment for ties (SS equation 6). `sigma` is the standard deviation of A2kN.
    """

    sizes: tuple[int, ...]
    distinct: int
    statistic: float
    continuous: float
    sigma: float

    def critical_value(self, significance_ppm: int = SIGNIFICANCE_PPM) -> float:
        """What the statistic exceeds by chance with this probability. ValueError when SS table 2 does not have it."""
        if significance_ppm not in _TABLE:
            raise ValueError(f"no critical value for {significance_ppm} of a million: {LEVELS_PPM}")
        b0, b1, b2 = _TABLE[significance_ppm]
        m = len(self.sizes) - 1
        return b0 + b1 / math.sqrt(m) + b2 / m

    def differ(self, significance_ppm: int = SIGNIFICANCE_PPM) -> bool:
        """True when samples of one distribution would seldom be as far apart."""
        return self.statistic > self.critical_value(significance_ppm)

    @property
    def p_value(self) -> float:
        """How often samples of one distribution are at least as far apart: a curve through SS table 2.

        log(p / (1 - p)) as a quadratic function of the critical values, by least squares; beyond the table its tangent.
        """
        levels = [level / 1_000_000 for level in LEVELS_PPM]
        points = [
            (self.critical_value(level), math.log(p / (1 - p))) for level, p in zip(LEVELS_PPM, levels, strict=True)
        ]
        a, b, c = _quadratic(points)
        t = self.statistic
        at = min(max(t, points[0][0]), points[-1][0])
        logit = a + b * at + c * at * at + (b + 2 * c * at) * (t - at)
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    @property
    def p_value_is_tabulated(self) -> bool:
        """Whether the p-value lies where SS table 2 has values; beyond, it is an extrapolation."""
        return self.critical_value(LEVELS_PPM[0]) <= self.statistic <= self.critical_value(LEVELS_PPM[-1])


def anderson_darling(samples: Sequence[Sequence[int]]) -> AndersonDarling:
    """The test of two or more samples. ValueError when one is too small, or all values are the same. SS."""
    if len(samples) < 2:
        raise ValueError("a comparison needs two samples")
    sizes = tuple(map(len, samples))
    if min(sizes) < MINIMUM_SAMPLE:
        raise ValueError(f"a sample of {min(sizes)}: at least {MINIMUM_SAMPLE} values are needed")
    counts = [Counter(sample) for sample in samples]
    values = sorted(set().union(*counts))
    if len(values) < 2:
        raise ValueError("all values of all samples are the same: there is nothing to compare")
    total = sum(sizes)
    midrank = [0.0] * len(samples)
    continuous = [0.0] * len(samples)
    below = [0] * len(samples)
    pooled = 0
    for value in values:
        here = [count[value] for count in counts]
        ties = sum(here)
        middle = pooled + ties / 2
        pooled += ties
        weight = middle * (total - middle) - total * ties / 4
        for i, of_this in enumerate(here):
            distance = total * (below[i] + of_this / 2) - sizes[i] * middle
            midrank[i] += ties * distance * distance / weight
            below[i] += of_this
            if pooled < total:
                distance = total * below[i] - sizes[i] * pooled
                continuous[i] += ties * distance * distance / (pooled * (total - pooled))
    a2 = sum(term / size for term, size in zip(continuous, sizes, strict=True)) / total
    a2a = sum(term / size for term, size in zip(midrank, sizes, strict=True)) * (total - 1) / total**2
    sigma = _sigma(sizes)
    m = len(sizes) - 1
    return AndersonDarling(sizes, len(values), (a2a - m) / sigma, (a2 - m) / sigma, sigma)


def _sigma(sizes: Sequence[int]) -> float:
    """The standard deviation of A2kN under one distribution, by SS's formula for its variance."""
    k, n = len(sizes), sum(sizes)
    inverse_sizes = sum(1 / size for size in sizes)
    h = sum(1 / i for i in range(1, n))
    # g is the sum over i < j < n of 1 / ((n - i) j); the inner sums are the tails of h.
    g = tail = 0.0
    for i in range(n - 2, 0, -1):
        tail += 1 / (i + 1)
        g += tail / (n - i)
    a = (4 * g - 6) * (k - 1) + (10 - 6 * g) * inverse_sizes
    b = (2 * g - 4) * k * k + 8 * h * k + (2 * g - 14 * h - 4) * inverse_sizes - 8 * h + 4 * g - 6
    c = (6 * h + 2 * g - 2) * k * k + (4 * h - 4 * g + 6) * k + (2 * h - 6) * inverse_sizes + 4 * h
    d = (2 * h + 6) * k * k - 4 * h * k
    return math.sqrt((a * n**3 + b * n**2 + c * n + d) / ((n - 1) * (n - 2) * (n - 3)))


def _quadratic(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The coefficients of y = a + b x + c x**2 by least squares."""
    powers = [sum(x**n for x, _ in points) for n in range(5)]
    rows = [[*powers[i : i + 3], sum(y * x**i for x, y in points)] for i in range(3)]
    for i in range(3):
        pivot = rows[i][i]
        rows[i] = [value / pivot for value in rows[i]]
        for j in range(3):
            if j != i:
                factor = rows[j][i]
                rows[j] = [value - factor * own for value, own in zip(rows[j], rows[i], strict=True)]
    return rows[0][3], rows[1][3], rows[2][3]
