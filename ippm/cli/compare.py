"""`ippm compare`: whether the delays of kept runs can come from one distribution."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ippm.cli.common import EXIT_THRESHOLD, FiniteRange, end, octets_of, one_line_errors

LEVELS = {"25": 250_000, "10": 100_000, "5": 50_000, "2.5": 25_000, "1": 10_000}
"""Percent as they are written, and millionths."""


@click.command()
@click.argument("files", metavar="FILE FILE...", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--way",
    type=click.Choice(["round-trip", "forward", "backward"]),
    default="round-trip",
    show_default=True,
    help="Which delay of two-way runs.",
)
@click.option(
    "--of",
    "series",
    type=click.Choice(["delay", "ipdv"]),
    default="delay",
    show_default=True,
    help="Compare delays, or the differences between those of packets sent one after the other.",
)
@click.option(
    "--centre",
    type=click.Choice(["none", "mean", "median", "minimum"]),
    default="none",
    show_default=True,
    help="Subtract this from each run first: the offset of clocks goes, and so does a difference in level.",
)
@click.option(
    "--resolution",
    "resolution_s",
    type=FiniteRange(1e-9, 1),
    default=1e-9,
    metavar="SECONDS",
    help="Round to this first: what the stamps cannot tell is no difference. 1e-9 by default.",
)
@click.option(
    "--significance",
    type=click.Choice(list(LEVELS)),
    default="5",
    show_default=True,
    help="Percent of comparisons of the same that find a difference all the same.",
)
@click.option("--expect", type=click.Choice(["same", "different"]), help="Exit with 3 when it is otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "-n", "unit", type=click.Choice(["n", "u", "m", "s"]), default="m", help="Unit of text: ns, us, ms, s."
)
@one_line_errors
def compare(
    files: tuple[Path, ...],
    way: str,
    series: str,
    centre: str,
    resolution_s: float,
    significance: str,
    expect: str | None,
    as_json: bool,
    unit: str,
) -> None:
    """Compare kept runs: can their delays come from one distribution?

    Files are saved sessions (owping -d, fetch -o), or lines of owping -R or twping -R. The Anderson-Darling k-sample
    test of RFC 6576, and the statistics of each run.
    """
    from ippm.errors import ConfigurationError
    from ippm.report.comparison import compare as run
    from ippm.report.comparison import format_comparison
    from ippm.report.saved_runs import read_run

    if len(files) < 2:
        raise ConfigurationError("two files, or more, are compared")
    runs = [read_run(str(file), octets_of(file), way) for file in files]
    outcome = run(
        runs,
        series=series,
        centre=centre,
        resolution_ns=max(1, round(resolution_s * 1e9)),
        significance_ppm=LEVELS[significance],
    )
    if as_json:
        click.echo(json.dumps({"ok": True, "comparison": outcome.to_dict()}, indent=2))
    else:
        click.echo(format_comparison(outcome, unit), nl=False)
    if expect is not None and (expect == "different") != outcome.differ:
        end(
            f"the runs {'differ' if outcome.differ else 'do not differ'}, at {significance}% significance",
            EXIT_THRESHOLD,
        )
