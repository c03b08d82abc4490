"""Two or more runs beside one another, and whether their delays can come from one distribution. RFC 6576."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from ippm.errors import ConfigurationError
from ippm.metrics.anderson_darling import LEVELS_PPM, SIGNIFICANCE_PPM, AndersonDarling, anderson_darling
from ippm.metrics.delay_variation import inter_packet_delay_variation
from ippm.metrics.statistics import DelayStatistics, median
from ippm.report.result import statistics_dict
from ippm.report.saved_runs import SavedRun
from ippm.report.text import UNITS, delay_words, in_unit, loss_percent

CENTRES: dict[str, Callable[[Sequence[int]], int]] = {
    "none": lambda values: 0,
    "mean": lambda values: sum(values) // len(values),
    "median": lambda values: median(sorted(values)),
    "minimum": min,
}
"""What is subtracted from each sample before the test, by name."""

SERIES = ("delay", "ipdv")
_CORRELATED = 0.2
"""A sample of independent values with some hundred packets seldom has a lag-1 correlation beyond it."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """`statistics` are of the values before anything was subtracted; `subtracted_ns` was, for the test.

    `correlation` is that of each value with the one before it, -1 to 1; None when all are the same.
    """

    run: SavedRun
    statistics: DelayStatistics
    subtracted_ns: int
    correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON document."""
        return {
            "name": self.run.name,
            "sent": self.run.sent,
            "lost": self.run.lost,
            "statistics": statistics_dict(self.statistics),
            "subtracted_ns": self.subtracted_ns,
            "lag_1_correlation": None if self.correlation is None else round(self.correlation, 6),
            "conditions": dict(self.run.conditions),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome. `resolution_ns` is to what values were rounded, 1 for not at all."""

    metric: str
    runs: tuple[ComparedRun, ...]
    test: AndersonDarling
    significance_ppm: int
    centre: str
    resolution_ns: int
    notes: tuple[str, ...]

    @property
    def differ(self) -> bool:
        """Whether the distributions differ, at this significance."""
        return self.test.differ(self.significance_ppm)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document's `comparison`."""
        return {
            "metric": self.metric,
            "runs": [run.to_dict() for run in self.runs],
            "test": "Anderson-Darling k-sample (RFC 6576)",
            "statistic": round(self.test.statistic, 6),
            "statistic_without_ties": round(self.test.continuous, 6),
            "sigma": round(self.test.sigma, 6),
            "distinct_values": self.test.distinct,
            "significance_ppm": self.significance_ppm,
            "critical_value": round(self.test.critical_value(self.significance_ppm), 6),
            "p_value": self.test.p_value,
            "p_value_extrapolated": not self.test.p_value_is_tabulated,
            "differ": self.differ,
            "centre": self.centre,
            "resolution_ns": self.resolution_ns,
            "notes": list(self.notes),
        }


def compare(
    runs: Sequence[SavedRun],
    *,
    series: str = "delay",
    centre: str = "none",
    resolution_ns: int = 1,
    significance_ppm: int = SIGNIFICANCE_PPM,
) -> Comparison:
    """The comparison of runs of one metric. Raises ConfigurationError when they cannot be compared."""
    if len(metrics := sorted({run.metric for run in runs})) > 1:
        raise ConfigurationError(
            f"{' and '.join(metrics)} cannot be compared with one another: give runs of one kind"
        )
    samples, compared = [], []
    for run in runs:
        values = [value for value in run.delays if value is not None]
        if series == "ipdv":
            values = inter_packet_delay_variation(run.delays)
        statistics = DelayStatistics.of(values)
        if statistics is None:
            raise ConfigurationError(f"{run.name}: no value to compare: {run.lost} of {run.sent} packets were lost")
        subtracted = CENTRES[centre](values)
        samples.append([_rounded(value - subtracted, resolution_ns) for value in values])
        compared.append(ComparedRun(run, statistics, subtracted, _correlation(values)))
    try:
        test = anderson_darling(samples)
    except ValueError as error:
        raise ConfigurationError(f"nothing to test: {error}") from None
    metric = metrics[0] if series == "delay" else f"IPDV of {metrics[0]}"
    notes = tuple(_notes(compared, series, centre))
    return Comparison(metric, tuple(compared), test, significance_ppm, centre, resolution_ns, notes)


def format_comparison(comparison: Comparison, unit: str = "m") -> str:
    """Some lines for a person, the last with a line end; `unit` is a letter of `text.UNITS`."""
    test, percent = comparison.test, f"{comparison.significance_ppm / 10_000:g}%"
    lines = [f"--- comparison of {len(comparison.runs)} runs: {comparison.metric} ---"]
    for one in comparison.runs:
        lines.append(
            f"{one.run.name}: {one.run.sent} sent, {one.run.lost} lost ({loss_percent(one.run.lost, one.run.sent)})"
        )
        lines.append("  " + delay_words(comparison.metric, one.statistics, unit))
        if one.subtracted_ns:
            subtracted = f"{in_unit(one.subtracted_ns, unit)} {UNITS[unit][1]}"
            lines.append(f"  its {comparison.centre}, {subtracted}, is subtracted for the test")
    lines += [
        f"Anderson-Darling k-sample test: T = {test.statistic:.3f} (without the adjustment for ties "
        f"{test.continuous:.3f}), critical value {test.critical_value(comparison.significance_ppm):.3f} at {percent}, "
        f"{_p_words(test)}",
        f"the distributions differ, at {percent} significance"
        if comparison.differ
        else f"no difference between the distributions is found, at {percent} significance",
    ]
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(lines) + "\n"


def _p_words(test: AndersonDarling) -> str:
    """The p-value, and of one beyond the table only on which side it lies."""
    if test.p_value_is_tabulated:
        return f"p = {test.p_value:.3f}"
    least, most = min(LEVELS_PPM) / 1_000_000, max(LEVELS_PPM) / 1_000_000
    return f"p < {least:g}" if test.statistic > test.critical_value(min(LEVELS_PPM)) else f"p > {most:g}"


def _rounded(value: int, resolution_ns: int) -> int:
    return (value + resolution_ns // 2) // resolution_ns * resolution_ns


def _correlation(values: Sequence[int]) -> float | None:
    """The lag-1 autocorrelation."""
    mean = fmean(values)
    deviations = [value - mean for value in values]
    power = sum(deviation * deviation for deviation in deviations)
    if not power:
        return None
    return sum(a * b for a, b in pairwise(deviations)) / power


def _notes(compared: Sequence[ComparedRun], series: str, centre: str) -> list[str]:
    notes = []
    for condition in {name: None for one in compared for name in one.run.conditions}:
        values = [one.run.conditions.get(condition, "?") for one in compared]
        if len(set(values)) > 1:
            notes.append(f"the runs were not measured alike: {condition} {' and '.join(values)}")
    if series == "delay" and centre == "none" and not all(one.run.synchronized for one in compared):
        notes.append(
            "delays contain the offset between clocks that are not both synchronized: a difference may be theirs "
            "(--centre compares what is left without it)"
        )
    for one in compared:
        if series == "delay" and one.correlation is not None and one.correlation > _CORRELATED:
            notes.append(
                f"{one.run.name}: delays go with those just before them (lag-1 correlation {one.correlation:.2f}), and "
                "the test takes them for independent: it finds a difference more often than it should"
            )
    return notes
