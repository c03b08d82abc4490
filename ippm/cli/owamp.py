"""`ippm owping`, `ippm fetch` and `ippm stats`: one-way measurement, and the data of sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ippm.cli.client import (
    MAX_ONE_WAY,
    address_options,
    check_continuous,
    connection_of,
    continuous_options,
    document_head,
    errors_as_json,
    packet_options,
    run_client,
    run_without_end,
    sending_options,
    stamps_of,
    threshold_options,
)
from ippm.cli.common import (
    EXIT_FAILED,
    EXIT_THRESHOLD,
    FiniteRange,
    check_directory,
    end,
    octets_of,
    one_line_errors,
)
from ippm.cli.forms import FORM_PARAMETERS, form_options, print_one_way
from ippm.cli.keys import Keys, client_keys

if TYPE_CHECKING:
    from ippm.core.fetched_session import FetchedSession
    from ippm.io.owamp_client import OwampRun
    from ippm.io.owamp_options import OwpingOptions
    from ippm.report.forms import Form
    from ippm.report.one_way import OneWayResult

NO_END = {
    **FORM_PARAMETERS,
    "-c": "count",
    "-Q": "quiet",
    "--max-loss": "max_loss",
    "--max-delay": "max_delay",
    "-d": "save",
}
"""What a measurement without an end has no use for: options, and the names of their parameters."""


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how to reach the server, of `owping` and `fetch` alike."""
    for option in reversed(
        [
            click.option("-A", "mode", metavar="MODES", help="Modes to accept, letters of OAE: the strictest."),
            address_options,
            click.option("--local-ports", metavar="A-B", help="Local ports of Control and of test packets."),
            click.option(
                "--max-count",
                "maximum_count",
                type=click.IntRange(1024),
                default=32768,
                show_default=True,
                help="Largest PBKDF2 Count to take from a server.",
            ),
            click.option("-Q", "quiet", is_flag=True, help="Print no result."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.option("-f", "from_server", is_flag=True, help="Measure from the server only.")
@click.option("-t", "to_server", is_flag=True, help="Measure to the server only.")
@packet_options
@click.option(
    "-i",
    "interval",
    default="0.1",
    show_default=True,
    metavar="SECONDS[e|f][,...]",
    help="Time between packets: exponential with this mean (e, the default), or fixed (f); several are gone round.",
)
@click.option(
    "-z",
    "start_delay_s",
    type=FiniteRange(0),
    default=0.25,
    show_default=True,
    help="Seconds from the request to the first packet.",
)
@click.option("-P", "test_ports", metavar="A-B", help="Local UDP ports of test packets.")
@sending_options
@click.option("-d", "save", metavar="DIR", help="Save the data of each session here, in a file SID.owp.")
@threshold_options(MAX_ONE_WAY)
@continuous_options
@connection_options
@click.argument("host", metavar="HOST[:PORT]")
@one_line_errors
@form_options
@client_keys
def owping(
    host: str,
    quiet: bool,
    form: Form,
    save: str | None,
    max_loss: float | None,
    max_delay: float | None,
    continuous: bool,
    period_s: float,
    keys: Keys,
    **letters: Any,
) -> None:
    """One-way measurement to an OWAMP server, and from it."""
    from ippm.io.owamp_client import run_owping

    options = owping_options(host, keys=keys, **letters)
    provider = keys.provider(options.security)
    check_continuous(continuous, NO_END)
    if continuous:
        from ippm.io.continuous_one_way import run_continuous_owping

        run_without_end(
            lambda report, stop: run_continuous_owping(
                options, provider, report=report, period_s=period_s, stop=stop
            )
        )
        return
    if save is not None:
        check_directory(f"-d {save}", Path(save), make=True)
    mean_s = sum(seconds for _, seconds in options.schedule) / len(options.schedule)
    run = run_client(
        lambda stop: run_owping(options, provider, stop=stop),
        as_json=form.kind == "json",
        expected_s=None if quiet else options.start_delay_s + options.count * mean_s + options.timeout_s,
    )
    results = run.results
    if save is not None:
        for result in results:
            _save(Path(save) / f"{result.session.sid.hex()}.owp", result.saved())
    if not quiet:
        print_one_way(results, form, lambda: _document(run, results))
    if run.errors:
        end("\n".join(run.errors), EXIT_FAILED)
    from ippm.report.thresholds import Thresholds

    for result in results:
        if (reason := Thresholds(max_loss, max_delay).exceeded_one_way(result)) is not None:
            end(reason, EXIT_THRESHOLD)


@click.command()
@click.option("--begin", type=click.IntRange(0, 0xFFFFFFFF), default=0, help="First sequence number.")
@click.option("--end", "last", type=click.IntRange(0, 0xFFFFFFFF), help="Last sequence number; all by default.")
@click.option("-o", "output", metavar="FILE", help="Save the data here.")
@connection_options
@click.argument("host", metavar="HOST[:PORT]")
@click.argument("sid", metavar="SID")
@one_line_errors
@form_options
@client_keys
def fetch(
    host: str,
    sid: str,
    begin: int,
    last: int | None,
    output: str | None,
    quiet: bool,
    form: Form,
    keys: Keys,
    **letters: Any,
) -> None:
    """The data of a session, from the OWAMP server that received it."""
    import asyncio

    from ippm.errors import ConfigurationError
    from ippm.io.owamp_client import fetch as fetch_session
    from ippm.wire.fetch_session import LAST_SEQNO

    try:
        octets = bytes.fromhex(sid)
    except ValueError:
        octets = b""
    if len(octets) != 16:
        raise ConfigurationError(f"{sid!r} is no SID: 32 hexadecimal digits")
    if last is not None and begin > last:
        raise ConfigurationError(f"--begin {begin} --end {last}: the first is behind the last")
    if output is not None:
        if Path(output).is_dir():
            raise ConfigurationError(f"-o {output}: a directory; a file is wanted")
        check_directory(f"-o {output}", Path(output).parent)
    options = owping_options(host, keys=keys, **letters)
    provider = keys.provider(options.security)
    with errors_as_json(form.kind == "json"):
        session, security = asyncio.run(
            fetch_session(options, octets, provider, begin=begin, end=LAST_SEQNO if last is None else last)
        )
    result = _result(session, security.word)
    if begin or last is not None:
        words = f"only packets {begin} to {'the last' if last is None else last} were asked for"
        result = replace(result, notes=(*result.notes, words))
    if output is not None:
        _save(Path(output), result.saved())
    if not quiet:
        _report(result, form)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@one_line_errors
@form_options
def stats(file: Path, form: Form) -> None:
    """The statistics of a saved session."""
    from ippm.core.fetched_session import FetchedSession, saved_mode
    from ippm.errors import ConfigurationError, InvalidMessage
    from ippm.report.one_way import UNKNOWN_MODE

    octets = octets_of(file)
    try:
        session, mode = FetchedSession.decode(octets), saved_mode(octets)
    except InvalidMessage as error:
        raise ConfigurationError(f"{file}: {error}") from None
    _report(_result(session, mode.word if mode else UNKNOWN_MODE), form)


def owping_options(
    host: str,
    *,
    keys: Keys,
    mode: str | None,
    interval: str = "0.1",
    test_ports: str | None = None,
    local_ports: str | None = None,
    from_server: bool = False,
    to_server: bool = False,
    ipv4: bool = False,
    ipv6: bool = False,
    interface: str | None = None,
    **rest: Any,
) -> OwpingOptions:
    """The options of the letters. Raises ConfigurationError."""
    from ippm.cli.words import parse_interval
    from ippm.iana import OWAMP_PORT
    from ippm.io.owamp_options import OwpingOptions

    connection = connection_of(
        host,
        OWAMP_PORT,
        keys=keys,
        mode=mode,
        test_ports=test_ports,
        local_ports=local_ports,
        ipv4=ipv4,
        ipv6=ipv6,
        interface=interface,
    )
    both = from_server == to_server
    return OwpingOptions(
        schedule=tuple((kind, seconds) for seconds, kind in map(parse_interval, interval.split(","))),
        to_server=to_server or both,
        from_server=from_server or both,
        **connection,
        **stamps_of(rest, keys.impairments),
    )


def _document(run: OwampRun, results: tuple[OneWayResult, ...]) -> dict[str, Any]:
    head = document_head(run.options, run.connected, run.connected.mode.word)
    return {
        "ok": not run.errors,
        **head,
        "errors": list(run.errors),
        "results": [result.to_dict() for result in results],
    }


def _result(session: FetchedSession, mode: str) -> OneWayResult:
    from ippm.report.one_way import OneWayResult

    return OneWayResult.of(session, "from" if session.request.conf_sender else "to", mode)


def _report(result: OneWayResult, form: Form) -> None:
    print_one_way((result,), form, lambda: {"ok": True, "mode": result.mode, "results": [result.to_dict()]})


def _save(path: Path, octets: bytes) -> None:
    """Write a file as a whole: a name that is there has all of its octets."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(octets)
    new.replace(path)
