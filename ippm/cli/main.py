"""The `ippm` command. Each command imports what it needs when it runs, so that `--help` starts fast.

Exit status: 0 done, 1 the operation failed or the peer refused, 2 usage or configuration, 3 a threshold was exceeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ippm.cli.client import (
    MAX_ROUND_TRIP,
    address_options,
    check_continuous,
    connection_of,
    continuous_options,
    document_head,
    packet_options,
    run_client,
    run_without_end,
    sending_options,
    stamps_of,
    threshold_options,
)
from ippm.cli.common import EXIT_THRESHOLD, FiniteRange, end, one_line_errors
from ippm.cli.compare import compare
from ippm.cli.decode import decode
from ippm.cli.forms import FORM_PARAMETERS, form_options, print_two_way
from ippm.cli.impairments import impairments
from ippm.cli.keys import Keys, client_keys
from ippm.cli.light import light
from ippm.cli.owamp import fetch, owping, stats
from ippm.cli.serve import serve

if TYPE_CHECKING:
    from ippm.io.options import TwpingOptions
    from ippm.io.twamp_client import TwampRun
    from ippm.report.forms import Form
    from ippm.report.result import RunResult


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ippm-ipsec")
def cli() -> None:
    """Measure network paths with OWAMP (RFC 4656) and TWAMP (RFC 5357)."""


# twping

NO_END = {**FORM_PARAMETERS, "-c": "count", "-Q": "quiet", "--max-loss": "max_loss", "--max-delay": "max_delay"}
"""What a measurement without an end has no use for: options, and the names of their parameters."""


@cli.command()
@packet_options
@click.option(
    "-i",
    "interval",
    default="0.1",
    show_default=True,
    metavar="SECONDS[e|f]",
    help="Time between packets: exponential with this mean (e, the default), or fixed (f).",
)
@click.option("--equal-size", is_flag=True, help="At least the padding that makes both directions equally long.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    help="Want this of the server, more than once for several: session-control, reflect-octets, symmetrical-size, "
    "dscp-ecn, ptp-timestamps.",
)
@click.option(
    "--reflect",
    "reflected_octets",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="So many octets of padding are to come back unchanged (implies the feature reflect-octets).",
)
@click.option("-z", "start_delay_s", type=FiniteRange(0), default=0.0, help="Seconds to wait before the start.")
@click.option(
    "-A",
    "mode",
    metavar="MODES",
    help="Modes to accept, letters of OAEM; the strictest that the server offers is taken. O, or AE with keys.",
)
@click.option("-P", "test_ports", metavar="A-B", help="Local UDP ports to send test packets from.")
@click.option("--local-ports", metavar="A-B", help="Local ports of the Control connection and of test packets.")
@click.option("--reflector-port", type=click.IntRange(0, 65535), default=0, help="UDP port to ask the server for.")
@click.option(
    "--nat",
    "zero_addresses",
    is_flag=True,
    help="This host is behind a NAT: leave the addresses to the Control connection (the server needs --nat, too).",
)
@address_options
@sending_options
@click.option(
    "--max-count",
    "maximum_count",
    type=click.IntRange(1024),
    default=32768,
    show_default=True,
    help="Largest PBKDF2 Count to take from a server.",
)
@threshold_options(MAX_ROUND_TRIP)
@click.option("-Q", "quiet", is_flag=True, help="Print no result.")
@continuous_options
@click.argument("host", metavar="HOST[:PORT]")
@one_line_errors
@form_options
@client_keys
def twping(
    host: str,
    quiet: bool,
    form: Form,
    continuous: bool,
    period_s: float,
    max_loss: float | None,
    max_delay: float | None,
    keys: Keys,
    **letters: Any,
) -> None:
    """Two-way measurement to a TWAMP server."""
    from ippm.io.twamp_client import run_twping

    options = _twping_options(host, keys=keys, **letters)
    provider = keys.provider(options.security)
    check_continuous(continuous, NO_END)
    if continuous:
        from ippm.io.continuous import run_continuous

        run_without_end(
            lambda report, stop: run_continuous(options, provider, report=report, period_s=period_s, stop=stop)
        )
        return
    form.refuse_two_way()
    run = run_client(
        lambda stop: run_twping(options, provider, stop=stop),
        as_json=form.kind == "json",
        expected_s=None if quiet else options.start_delay_s + options.count * options.interval_s,
    )
    result = run.result
    if not quiet:
        print_two_way(result, run.plan, run.records, form, lambda: _document(run, result))
    from ippm.report.thresholds import Thresholds

    if (reason := Thresholds(max_loss, max_delay).exceeded(result)) is not None:
        end(reason, EXIT_THRESHOLD)


def _twping_options(
    host: str,
    *,
    keys: Keys,
    interval: str,
    mode: str | None,
    test_ports: str | None,
    local_ports: str | None,
    ipv4: bool,
    ipv6: bool,
    interface: str | None,
    **rest: Any,
) -> TwpingOptions:
    from ippm.cli.words import parse_interval
    from ippm.iana import TWAMP_PORT
    from ippm.io.options import TwpingOptions

    connection = connection_of(
        host,
        TWAMP_PORT,
        keys=keys,
        mode=mode,
        test_ports=test_ports,
        local_ports=local_ports,
        ipv4=ipv4,
        ipv6=ipv6,
        interface=interface,
    )
    interval_s, exponential = parse_interval(interval)
    features = dict.fromkeys((*rest.pop("features"), *(["reflect-octets"] if rest["reflected_octets"] else [])))
    return TwpingOptions(
        interval_s=interval_s,
        exponential=exponential,
        features=tuple(features),
        **connection,
        **stamps_of(rest, keys.impairments),
    )


def _document(run: TwampRun, result: RunResult) -> dict[str, Any]:
    head = document_head(run.options, run.connected, run.session.mode.word)
    return {"ok": True, **head, "result": result.to_dict()}


cli.add_command(serve)
cli.add_command(light)
cli.add_command(owping)
cli.add_command(fetch)
cli.add_command(stats)
cli.add_command(compare)
cli.add_command(decode)
cli.add_command(impairments)


def main() -> None:
    """The console script."""
    cli(prog_name="ippm")
