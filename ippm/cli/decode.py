"""`ippm decode`: what a capture holds of OWAMP and TWAMP."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ippm.cli.common import EXIT_FAILED, EXIT_USAGE, end, one_line_errors

if TYPE_CHECKING:
    from ippm.decode.messages import Decoded
    from ippm.errors import IppmError


@click.command()
@click.argument("capture", metavar="PCAP", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The key log of either end, as --keylog wrote it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def decode(capture: Path, keys: Path | None, as_json: bool) -> None:
    """The Control messages and Test packets of a capture, decrypted with a key log.

    PCAP is a pcap or pcapng file of any program. What is malformed is named with its place; the capture of which the
    end is missing is shown up to there.
    """
    from ippm.decode.decoder import decode_capture

    messages = decode_capture(capture, keys)
    error = _print_json(messages) if as_json else _print_text(messages)
    if error is not None:
        from ippm.errors import ConfigurationError

        end(str(error), EXIT_USAGE if isinstance(error, ConfigurationError) else EXIT_FAILED)


def _print_text(messages: Iterable[Decoded]) -> IppmError | None:
    from ippm.decode.text import lines_of
    from ippm.errors import IppmError

    try:
        for message in messages:
            for line in lines_of(message):
                click.echo(line)
    except IppmError as error:
        return error
    return None


def _print_json(messages: Iterable[Decoded]) -> IppmError | None:
    """One document, written as the messages come: a capture may be long."""
    from ippm.errors import IppmError

    failed: IppmError | None = None
    count = malformed = 0
    click.echo('{"messages": [', nl=False)
    try:
        for message in messages:
            click.echo(",\n" if count else "\n", nl=False)
            click.echo(json.dumps(message.to_dict()), nl=False)
            count += 1
            malformed += bool(message.problems)
    except IppmError as error:
        failed = error
    tail = {"ok": failed is None, "count": count, "with_problems": malformed, "error": failed and str(failed)}
    click.echo(f"\n], {json.dumps(tail)[1:]}")
    return failed
