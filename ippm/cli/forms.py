"""The forms in which `twping`, `owping`, `fetch` and `stats` print results, and the options that choose one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from ippm.cli.common import FiniteRange

if TYPE_CHECKING:
    from ippm.core.session_sender import SenderPlan, SenderRecords
    from ippm.report.forms import Form
    from ippm.report.one_way import OneWayResult
    from ippm.report.result import RunResult

WORDS = ("text", "json", "csv", "openmetrics", "pscheduler")
"""As `ippm.report.forms.FORM_WORDS`, which is not imported for `--help`."""

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
        from ippm.report.forms import Form

        form = Form.of_options(
            form_word=form_word,
            as_json=as_json,
            raw=raw,
            machine=machine,
            verbose=verbose,
            unit=unit,
            percentiles=percentiles,
            bucket_width=bucket_width,
        )
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
            type=FiniteRange(1e-9, 1),
            metavar="SECONDS",
            help="Width of histogram buckets: 0.0001 in -M, 0.001 in pscheduler.",
        ),
    ]
    decorated: Callable[..., Any] = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def print_one_way(results: Sequence[OneWayResult], form: Form, document: Callable[[], dict[str, Any]]) -> None:
    """Print the results of one-way sessions; `document` makes the JSON document."""
    from ippm.report.forms import one_way_form

    if form.kind == "json":
        click.echo(json.dumps(document(), indent=2))
        return
    for piece in one_way_form(results, form):
        click.echo(piece, nl=False)


def print_two_way(
    result: RunResult,
    plan: SenderPlan,
    records: SenderRecords,
    form: Form,
    document: Callable[[], dict[str, Any]],
) -> None:
    """Print the result of a two-way session; `document` makes the JSON document."""
    from ippm.report.forms import two_way_form

    if form.kind == "json":
        click.echo(json.dumps(document(), indent=2))
        return
    for piece in two_way_form((result, plan, records), form):
        click.echo(piece, nl=False)
