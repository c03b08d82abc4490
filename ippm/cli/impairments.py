"""`--impair`, and `ippm impairments`, which lists its knobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ippm.cli.common import one_line_errors

if TYPE_CHECKING:
    from ippm.core.impair import Impairments


def _complete_knob(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from ippm.cli.impairment_table import ROWS

    return list(dict.fromkeys(f"{row.action}:" for row in ROWS if row.action.startswith(incomplete)))


impair_option = click.option(
    "--impair",
    "knobs",
    multiple=True,
    metavar="KNOB",
    shell_complete=_complete_knob,
    help="Spoil what is sent, as hmac:start-sessions:1 or drop:test:3; `ippm impairments` lists them.",
)


def impairments_of(knobs: tuple[str, ...]) -> Impairments | None:
    """The knobs of the command line, said on stderr; None without any. Raises ConfigurationError."""
    if not knobs:
        return None
    from ippm.core.impair import Impairments

    made = Impairments.parse(knobs)
    for text in knobs:
        click.echo(f"ippm: impaired on purpose: {text}", err=True)
    return made


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def impairments(as_json: bool) -> None:
    """The knobs of --impair, and what each one does."""
    from ippm.cli.impairment_table import ROWS, SYNTAX
    from ippm.core.impair import MESSAGES

    if as_json:
        click.echo(
            json.dumps(
                {"syntax": SYNTAX, "messages": [*MESSAGES, "test"], "knobs": [row.to_dict() for row in ROWS]},
                indent=2,
            )
        )
        return
    click.echo(f"--impair {SYNTAX}")
    click.echo("  NUMBER: from 1, over all connections and sessions of the process, or *")
    click.echo(f"  MESSAGE: control (any of them), test (packets), or\n    {', '.join(MESSAGES)}")
    for acts_on, words in (("control", "of a Control message:"), ("test", "of a test packet (MESSAGE is test):")):
        click.echo(words)
        for row in ROWS:
            if row.acts_on == acts_on:
                click.echo(f"  {row.knob:26}{row.text}")
