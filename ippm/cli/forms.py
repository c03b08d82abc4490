"""The forms in which `twping`, `owping`, `fetch` and `stats` print results, and the options that choose one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ippm.core.session_sender import SenderPlan, SenderRecords
    from ippm.report.one_way import OneWayResult
    from ippm.report.result import RunResult

WORDS = ("text", "json", "csv", "openmetrics", "pscheduler")
OWPING_BUCKET_NS = 100_000
PSCHEDULER_BUCKET_NS = 1_000_000

FORM_PARAMETERS = {
    "--format": "form_word",
    "-R": "raw",
    "-M": "machine",
    "-v": "verbose",
    "-n": "unit",
    "-a": "percentiles",
    "-b": "bucket_width",
}
"""The options of forms other than JSON, and the names of their parameters."""


@dataclass(frozen=True, slots=True)
class Form:
    """`kind` is one of WORDS, `raw` or `machine`; `percentiles` are millionths; `width_ns` None is the form's own."""

    kind: str = "text"
    verbose: bool = False
    unit: str = "m"
    percentiles: tuple[int, ...] = ()
    width_ns: int | None = None


def form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the command gets them as `form`. ConfigurationError when they do not go together."""

    @wraps(command)
    def run(
        *args: Any,
        as_json: bool,
        form_word: str | None,
        raw: bool,
        machine: bool,
        verbose: bool,
        unit: str,
        percentiles: str | None,
        bucket_width: float | None,
        **rest: Any,
    ) -> Any:
        from ippm.errors import ConfigurationError

        kinds = [form_word, "json" if as_json else None, "raw" if raw else None, "machine" if machine else None]
        given = [kind for kind in kinds if kind is not None]
        if len(given) > 1:
            raise ConfigurationError("--format, --json, -R and -M exclude each other")
        kind = given[0] if given else "text"
        if verbose and kind not in ("text", "pscheduler"):
            raise ConfigurationError("-v is for text and for pscheduler; -R has a line for each packet")
        width_ns = None if bucket_width is None else max(1, round(bucket_width * 1e9))
        form = Form(kind, verbose, unit, parse_percentiles(percentiles), width_ns)
        return command(*args, form=form, **rest)

    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "--format", "form_word", type=click.Choice(WORDS), help="Form of the result; text by default."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document: --format json."),
        click.option("-R", "raw", is_flag=True, help="Print a line for each packet, for programs."),
        click.option(
            "-M", "machine", is_flag=True, help="Print a summary for programs, a name and a value a line."
        ),
        click.option("-v", "verbose", is_flag=True, help="Print each packet, too (pscheduler: raw-packets)."),
        click.option(
            "-n", "unit", type=click.Choice(["n", "u", "m", "s"]), default="m", help="Unit of text: ns, us, ms, s."
        ),
        click.option("-a", "percentiles", metavar="P[,P...]", help="More percentiles in text, 0 to 100."),
        click.option(
            "-b",
            "bucket_width",
            type=click.FloatRange(1e-9, 1),
            metavar="SECONDS",
            help="Width of histogram buckets: 0.0001 in -M, 0.001 in pscheduler.",
        ),
    ]
    decorated: Callable[..., Any] = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def parse_percentiles(text: str | None) -> tuple[int, ...]:
    """`50,99.9` in millionths. Raises ConfigurationError."""
    from ippm.errors import ConfigurationError

    if text is None:
        return ()
    made = []
    for word in text.split(","):
        if not re.fullmatch(r"\d{1,3}(\.\d{1,4})?", word) or float(word) > 100:
            raise ConfigurationError(f"-a {text}: percentiles from 0 to 100, four decimals at most, between commas")
        made.append(round(float(word) * 10_000))
    return tuple(made)


def refuse_two_way(form: Form) -> None:
    """Raise ConfigurationError when the form has no place for a two-way result."""
    from ippm.errors import ConfigurationError

    if form.kind == "pscheduler":
        raise ConfigurationError("--format pscheduler: its latency result is one-way; ippm owping has it")


def print_one_way(results: Sequence[OneWayResult], form: Form, document: Callable[[], dict[str, Any]]) -> None:
    """Print the results of one-way sessions; `document` makes the JSON document."""
    if form.kind == "json":
        click.echo(json.dumps(document(), indent=2))
    elif form.kind == "pscheduler":
        from ippm.report.pscheduler import latency_result

        width_ns = form.width_ns or PSCHEDULER_BUCKET_NS
        _lines(json.dumps(latency_result(result, width_ns, raw=form.verbose)) for result in results)
    elif form.kind == "raw":
        from ippm.report.owping_forms import raw_one_way

        for result in results:
            _lines(raw_one_way(result))
    elif form.kind == "machine":
        from ippm.report.owping_forms import machine_one_way

        width_ns = form.width_ns or OWPING_BUCKET_NS
        click.echo("\n".join(machine_one_way(result, width_ns) for result in results), nl=False)
    elif form.kind != "text":
        _print_table(results, form)
    else:
        _print_text(results, form)


def _print_text(results: Sequence[OneWayResult], form: Form) -> None:
    from ippm.report.one_way import format_one_way
    from ippm.report.owping_forms import heading, lines_one_way
    from ippm.report.packets import delay_ns, first_copies
    from ippm.report.text import percentile_lines

    for number, result in enumerate(results):
        if number:
            click.echo()
        if form.verbose:
            click.echo(heading(result))
            _lines(lines_one_way(result, form.unit))
        click.echo(format_one_way(result, form.unit), nl=False)
        if form.percentiles:
            delays = [delay_ns(packet) for packet in first_copies(result.measured) if not packet.lost]
            _lines(percentile_lines(delays, form.percentiles, form.unit))


def print_two_way(
    result: RunResult,
    plan: SenderPlan,
    records: SenderRecords,
    form: Form,
    document: Callable[[], dict[str, Any]],
) -> None:
    """Print the result of a two-way session; `document` makes the JSON document."""
    from ippm.report.owping_forms import heading, lines_two_way, machine_two_way, raw_two_way
    from ippm.report.text import format_result, percentile_lines

    if form.kind == "json":
        click.echo(json.dumps(document(), indent=2))
    elif form.kind == "raw":
        _lines(raw_two_way(records))
    elif form.kind == "machine":
        click.echo(machine_two_way(result, plan, records, form.width_ns or OWPING_BUCKET_NS), nl=False)
    elif form.kind != "text":
        _print_table([result], form)
    else:
        if form.verbose:
            click.echo(heading(result))
            _lines(lines_two_way(records, form.unit))
        click.echo(format_result(result, form.unit), nl=False)
        if form.percentiles:
            from ippm.metrics.delay import round_trip
            from ippm.metrics.packet_age import measured_stamps

            _lines(percentile_lines(round_trip(measured_stamps(records)), form.percentiles, form.unit))


def _print_table(results: Sequence[OneWayResult | RunResult], form: Form) -> None:
    from ippm.report.tables import csv_table, openmetrics

    click.echo(csv_table(results) if form.kind == "csv" else openmetrics(results), nl=False)


def _lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
