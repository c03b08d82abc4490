"""The forms of results, as pieces of text: what `--format`, `-R`, `-M` and `-v` print. docs/output.md.

JSON is not here: a document has more in it than results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ippm.errors import ConfigurationError

if TYPE_CHECKING:
    from ippm.core.session_sender import SenderPlan, SenderRecords
    from ippm.report.one_way import OneWayResult
    from ippm.report.result import RunResult

    TwoWay = tuple[RunResult, SenderPlan, SenderRecords]

FORM_WORDS = ("text", "json", "csv", "openmetrics", "pscheduler")
OWPING_BUCKET_NS = 100_000
PSCHEDULER_BUCKET_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Form:
    """`kind` is one of FORM_WORDS, `raw` or `machine`; `percentiles` are millionths; `width_ns` None is the form's own.

    `verbose`: with each packet; `unit` is n, u, m or s.
    """

    kind: str = "text"
    verbose: bool = False
    unit: str = "m"
    percentiles: tuple[int, ...] = ()
    width_ns: int | None = None

    @classmethod
    def of_options(
        cls,
        *,
        form_word: str | None,
        as_json: bool,
        raw: bool,
        machine: bool,
        verbose: bool,
        unit: str,
        percentiles: str | None,
        bucket_width: float | None,
        verbose_option: str = "-v",
    ) -> Self:
        """What the options of a command say. ConfigurationError when they do not go together."""
        kinds = [form_word, "json" if as_json else None, "raw" if raw else None, "machine" if machine else None]
        given = [kind for kind in kinds if kind is not None]
        if len(given) > 1:
            raise ConfigurationError("--format, --json, -R and -M exclude each other")
        kind = given[0] if given else "text"
        if verbose and kind not in ("text", "pscheduler"):
            raise ConfigurationError(
                f"{verbose_option} is for text and for pscheduler; -R has a line for each packet"
            )
        width_ns = None if bucket_width is None else max(1, round(bucket_width * 1e9))
        return cls(kind, verbose, unit, parse_percentiles(percentiles), width_ns)

    def refuse_two_way(self) -> None:
        """Raise ConfigurationError when the form has no place for a two-way result."""
        if self.kind == "pscheduler":
            raise ConfigurationError("--format pscheduler: its latency result is one-way; owping has it")


def parse_percentiles(text: str | None) -> tuple[int, ...]:
    """`50,99.9` in millionths. Raises ConfigurationError."""
    if text is None:
        return ()
    made = []
    for word in text.split(","):
        if not re.fullmatch(r"\d{1,3}(\.\d{1,4})?", word) or float(word) > 100:
            raise ConfigurationError(f"-a {text}: percentiles from 0 to 100, four decimals at most, between commas")
        made.append(round(float(word) * 10_000))
    return tuple(made)


def one_way_form(results: Sequence[OneWayResult], form: Form) -> Iterator[str]:
    """The results of one-way sessions in any form but JSON."""
    if form.kind == "pscheduler":
        from ippm.report.pscheduler import latency_result

        width_ns = form.width_ns or PSCHEDULER_BUCKET_NS
        yield from _lines(json.dumps(latency_result(result, width_ns, raw=form.verbose)) for result in results)
    elif form.kind == "raw":
        from ippm.report.owping_forms import raw_one_way

        for result in results:
            yield from _lines(raw_one_way(result))
    elif form.kind == "machine":
        from ippm.report.owping_forms import machine_one_way

        width_ns = form.width_ns or OWPING_BUCKET_NS
        yield "\n".join(machine_one_way(result, width_ns) for result in results)
    elif form.kind != "text":
        yield form_table(results, form)
    else:
        yield from _one_way_text(results, form)


def _one_way_text(results: Sequence[OneWayResult], form: Form) -> Iterator[str]:
    from ippm.report.one_way import format_one_way
    from ippm.report.owping_forms import heading, lines_one_way
    from ippm.report.packets import delay_ns, first_copies
    from ippm.report.text import percentile_lines

    for number, result in enumerate(results):
        if number:
            yield "\n"
        if form.verbose:
            yield from _lines([heading(result)])
            yield from _lines(lines_one_way(result, form.unit))
        yield format_one_way(result, form.unit)
        if form.percentiles:
            delays = [delay_ns(packet) for packet in first_copies(result.measured) if not packet.lost]
            yield from _lines(percentile_lines(delays, form.percentiles, form.unit))


def two_way_form(run: TwoWay, form: Form) -> Iterator[str]:
    """The result, the plan and the records of a two-way session in any form but JSON."""
    from ippm.report.owping_forms import machine_two_way, raw_two_way

    result, plan, records = run
    if form.kind == "raw":
        yield from _lines(raw_two_way(records))
    elif form.kind == "machine":
        yield machine_two_way(result, plan, records, form.width_ns or OWPING_BUCKET_NS)
    elif form.kind != "text":
        yield form_table([result], form)
    else:
        yield from _two_way_text(run, form)


def _two_way_text(run: TwoWay, form: Form) -> Iterator[str]:
    from ippm.report.owping_forms import heading, lines_two_way
    from ippm.report.text import format_result, percentile_lines

    result, _, records = run
    if form.verbose:
        yield from _lines([heading(result)])
        yield from _lines(lines_two_way(records, form.unit))
    yield format_result(result, form.unit)
    if form.percentiles:
        from ippm.metrics.delay import round_trip
        from ippm.metrics.packet_age import measured_stamps

        yield from _lines(percentile_lines(round_trip(measured_stamps(records)), form.percentiles, form.unit))


def form_table(results: Sequence[OneWayResult | RunResult], form: Form) -> str:
    """CSV or OpenMetrics: one table of all results."""
    from ippm.report.tables import csv_table, openmetrics

    return csv_table(results) if form.kind == "csv" else openmetrics(results)


def _lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line + "\n"
