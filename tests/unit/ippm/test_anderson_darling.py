"""The Anderson-Darling k-sample test against published values, another implementation, and its own definition."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from ippm.metrics.anderson_darling import LEVELS_PPM, AndersonDarling, anderson_darling

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "anderson-darling.json").read_text())

SMOOTHNESS = (
    (387, 415, 438, 445, 455, 460, 477, 580),
    (392, 393, 397, 414, 418, 429, 433, 458),
    (340, 350, 390, 400, 430, 430, 440, 450),
    (340, 348, 348, 354, 372, 378, 412, 428),
)
"""The example of Scholz and Stephens (1987): the smoothness of paper in four laboratories, in tenths."""


def test_the_example_of_the_paper() -> None:
    found = anderson_darling(SMOOTHNESS)
    assert round(found.sigma, 4) == 1.2038
    assert (round(found.continuous, 3), round(found.statistic, 3)) == (4.449, 4.480)
    assert found.differ(10_000)
    # Published with it: 0.0021 and 0.0020; here both lie beyond the table.
    assert not found.p_value_is_tabulated
    assert 0.0015 < found.p_value < 0.0030


def test_the_example_of_the_r_package_adk() -> None:
    """Its documentation has these figures for samples of 5, 6 and 5 values, 11 of 16 distinct."""
    found = anderson_darling(((1, 3, 2, 5, 7), (2, 8, 1, 6, 9, 4), (12, 5, 7, 9, 11)))
    assert (found.sizes, found.distinct) == ((5, 6, 5), 11)
    assert round(found.sigma, 5) == 0.92837
    assert (round(found.continuous, 5), round(found.statistic, 5)) == (1.41756, 1.62856)
    assert found.p_value == pytest.approx(0.07084, abs=5e-5)


@pytest.mark.parametrize(
    ("shift", "continuous", "statistic", "p_value"),
    [(405, 41.105, 41.235, 0.0), (5, -1.2824, -1.2944, 1.0), (75, 1.4923, None, 0.077501), (60, None, 0.63892, 0.17981),
     (115, 4.5042, None, 0.00545)],
)  # fmt: skip
def test_the_values_of_the_r_package_ksamples(
    shift: int, continuous: float | None, statistic: float | None, p_value: float
) -> None:
    """1 to 100 against the same shifted, in tenths. kSamples has a finer table: its p-values are near, not the same."""
    one = range(10, 1010, 10)
    found = anderson_darling((one, [value + shift for value in one]))
    if continuous is not None:
        assert found.continuous == pytest.approx(continuous, abs=5e-4)
    if statistic is not None:
        assert found.statistic == pytest.approx(statistic, abs=5e-4)
    assert found.p_value == pytest.approx(p_value, abs=0.01 if found.p_value_is_tabulated else 0.31)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_scipy_finds_the_same(case: dict[str, object]) -> None:
    found = anderson_darling(case["samples"])  # type: ignore[arg-type]
    assert found.statistic == pytest.approx(case["midrank"], abs=1e-9)
    assert found.continuous == pytest.approx(case["right"], abs=1e-9)
    assert [found.critical_value(level) for level in LEVELS_PPM] == pytest.approx(case["critical"], abs=1e-9)


def by_definition(samples: Sequence[Sequence[int]]) -> Fraction:
    """A2akN, term by term: the sum over samples and distinct values of Scholz and Stephens' equation 7, exactly."""
    pooled = sorted(itertools.chain(*samples))
    n = len(pooled)
    total = Fraction(0)
    for sample in samples:
        inner = Fraction(0)
        for z in sorted(set(pooled)):
            ties = pooled.count(z)
            below = sum(x < z for x in pooled) + Fraction(ties, 2)
            of_this = sum(x < z for x in sample) + Fraction(sample.count(z), 2)
            inner += (
                Fraction(ties, n)
                * (n * of_this - len(sample) * below) ** 2
                / (below * (n - below) - Fraction(n * ties, 4))
            )
        total += inner / len(sample)
    return total * Fraction(n - 1, n)


@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_is_what_its_definition_says(seed: int) -> None:
    draw = random.Random(seed)
    samples = [[draw.randrange(12) for _ in range(draw.randrange(5, 12))] for _ in range(draw.randrange(2, 5))]
    found = anderson_darling(samples)
    assert found.statistic * found.sigma + len(samples) - 1 == pytest.approx(
        float(by_definition(samples)), abs=1e-9
    )


def test_sigma_is_the_spread_over_all_ways_to_divide_the_values() -> None:
    """Exactly: all 252 ways to take five of ten distinct values have mean k - 1 and this variance."""
    values = range(10)
    statistics = []
    for chosen in itertools.combinations(values, 5):
        found = anderson_darling((chosen, [value for value in values if value not in chosen]))
        statistics.append(found.continuous * found.sigma + 1)
    mean = sum(statistics) / len(statistics)
    variance = sum((one - mean) ** 2 for one in statistics) / len(statistics)
    assert mean == pytest.approx(1)
    assert math.sqrt(variance) == pytest.approx(found.sigma)


@pytest.mark.parametrize(("level", "least", "most"), [(250_000, 0.19, 0.31), (50_000, 0.02, 0.08)])
def test_samples_of_one_distribution_differ_about_as_seldom_as_said(level: int, least: float, most: float) -> None:
    draw = random.Random(2330)
    found = [
        anderson_darling([[round(draw.lognormvariate(13, 0.4)) for _ in range(40)] for _ in range(2)]).differ(level)
        for _ in range(400)
    ]
    assert least < sum(found) / len(found) < most


def test_the_order_of_samples_and_values_and_any_rising_scale_do_not_matter() -> None:
    first = anderson_darling(SMOOTHNESS)
    second = anderson_darling([[value**3 + 7 for value in reversed(sample)] for sample in reversed(SMOOTHNESS)])
    assert first.statistic == pytest.approx(second.statistic)


def test_the_p_value_falls_with_the_statistic() -> None:
    def p(statistic: float) -> float:
        return AndersonDarling((50, 50), 100, statistic, statistic, 0.75).p_value

    values = [p(t / 4) for t in range(-6, 200)]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value < 1 for value in values)
    assert p(1.961) == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([[1, 2, 3, 4, 5]], "needs two samples"),
        ([[1, 2, 3, 4, 5], [1, 2, 3, 4]], "a sample of 4: at least 5"),
        ([[7] * 5, [7] * 9], "all values of all samples are the same"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples: list[list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        anderson_darling(samples)


def test_a_level_that_the_table_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no critical value"):
        anderson_darling(SMOOTHNESS).critical_value(30_000)
