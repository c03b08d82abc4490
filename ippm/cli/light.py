"""`ippm light`: TWAMP Light, both ends. RFC 5357 appendix I."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ippm.cli.client import (
    MAX_ROUND_TRIP,
    address_options,
    correct_option,
    io_option,
    packet_options,
    sending_options,
    stamps_of,
    threshold_options,
)
from ippm.cli.common import EXIT_THRESHOLD, end, one_line_errors
from ippm.cli.forms import form_options, print_two_way
from ippm.cli.impairments import impair_option, impairments_of
from ippm.cli.keys import keylog_option, open_key_log

if TYPE_CHECKING:
    from ippm.io.light import LightAgreement
    from ippm.report.forms import Form

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def light() -> None:
    """TWAMP Light (RFC 5357 appendix I): no Control connection; both ends are given the same options."""


def _agreed(command: F) -> F:
    """The options that both ends must have alike."""
    for option in (
        click.option(
            "--reflect",
            "reflected_octets",
            type=click.IntRange(0, 65535),
            default=0,
            metavar="N",
            help="So many octets of padding come back unchanged (implies the feature reflect-octets).",
        ),
        click.option(
            "--feature",
            "features",
            multiple=True,
            metavar="NAME",
            help="More than once for several: reflect-octets, symmetrical-size, dscp-ecn, ptp-timestamps.",
        ),
        click.option("-k", "key_file", metavar="FILE", help="Passphrases: lines of `identity hex`, mode 0600."),
        click.option("-u", "user", metavar="NAME", help="The identity in the file whose passphrase is taken."),
        click.option(
            "-A", "mode", metavar="MODE", default="O", show_default=True, help="O, A or E; A and E with -u and -k."
        ),
    ):
        command = option(command)
    return command


def _agreement(
    mode: str, user: str | None, key_file: str | None, features: tuple[str, ...], reflected_octets: int
) -> LightAgreement:
    from ippm.cli.common import modes_of
    from ippm.errors import ConfigurationError
    from ippm.io.keyfile import read_key_file
    from ippm.io.light import LightAgreement, light_keys
    from ippm.io.options import feature_bits

    keys = None
    security = modes_of(mode)
    if security.keyed:
        if user is None or key_file is None:
            raise ConfigurationError(f"-A {mode}: needs a passphrase: -u NAME -k FILE")
        passphrases = read_key_file(key_file)
        if user not in passphrases:
            raise ConfigurationError(f"{key_file}: no passphrase for {user}")
        keys = light_keys(user, passphrases[user])
    words = (*features, *(["reflect-octets"] if reflected_octets else []))
    return LightAgreement(security | feature_bits(words), keys, reflected_octets)


@light.command()
@_agreed
@click.option(
    "--listen",
    metavar="ADDR[:PORT]",
    default="0.0.0.0:862",
    show_default=True,
    help="Where to receive; [::] for IPv6 and, where the system does so, IPv4.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NETWORK",
    help="Answer packets from here only, more than once for several. Without it anybody who can send here is answered.",
)
@click.option("-D", "dscp", type=click.IntRange(0, 63), default=0, help="DSCP of replies.")
@click.option("-Z", "zero_padding", is_flag=True, help="Pad replies with zeros instead of the sender's padding.")
@click.option("-B", "interface", metavar="INTERFACE", help="Receive and send through this interface.")
@io_option
@correct_option
@keylog_option
@impair_option
@one_line_errors
def reflect(
    listen: str,
    allow: tuple[str, ...],
    dscp: int,
    zero_padding: bool,
    interface: str | None,
    io: str,
    correct_stamps: bool,
    keylog: str | None,
    knobs: tuple[str, ...],
    **agreed: Any,
) -> None:
    """The reflector, in the foreground until Ctrl-C or SIGTERM; then it says what it counted."""
    import signal

    from ippm.core.session_reflector import PaddingRule
    from ippm.io.light import LightReflector

    address, port = _listen(listen)
    networks = tuple(_network(text) for text in allow)
    padding = PaddingRule.ZERO if zero_padding else PaddingRule.REUSE
    agreement, spoilt = _agreement(**agreed), impairments_of(knobs)
    signals = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the reflector's thread is there, so that `sigwait` gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with LightReflector(
        address,
        port,
        agreement,
        allow=networks,
        dscp=dscp,
        padding=padding,
        interface=interface,
        io=io,
        correct_stamps=correct_stamps,
        key_log=open_key_log(keylog),
        impairments=spoilt,
    ) as reflector:
        click.echo(f"TWAMP Light reflector on {address} port {reflector.port}")
        sys.stdout.flush()
        signal.sigwait(signals)
        counters = reflector.counters
    click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counters.items()))


def _listen(text: str) -> tuple[str, int]:
    from ippm.cli.words import parse_host
    from ippm.errors import ConfigurationError
    from ippm.iana import TWAMP_PORT

    if text.endswith(":0") and text.count(":") == 1:
        address, port = text[:-2], 0
    elif text.startswith("[") and text.endswith("]:0"):
        address, port = text[1:-3], 0
    else:
        address, port = parse_host(text, TWAMP_PORT)
    from ipaddress import ip_address

    try:
        ip_address(address.partition("%")[0])
    except ValueError:
        raise ConfigurationError(f"--listen {text}: an address of this host is wanted") from None
    return address, port


def _network(text: str) -> Any:
    from ipaddress import ip_network

    from ippm.errors import ConfigurationError

    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"--allow {text}: an address or a network is wanted: {error}") from None


@light.command()
@_agreed
@packet_options
@click.option(
    "-i",
    "interval",
    default="0.1",
    show_default=True,
    metavar="SECONDS[e|f]",
    help="Time between packets: exponential with this mean (e, the default), or fixed (f).",
)
@click.option("-P", "test_ports", metavar="A-B", help="Local UDP ports to send from.")
@address_options
@sending_options
@click.option(
    "--numbered", is_flag=True, help="The reflector numbers its replies itself: tell losses of the two ways apart."
)
@threshold_options(MAX_ROUND_TRIP)
@click.option("-Q", "quiet", is_flag=True, help="Print no result.")
@keylog_option
@impair_option
@click.argument("host", metavar="HOST[:PORT]")
@one_line_errors
@form_options
def send(
    host: str,
    interval: str,
    test_ports: str | None,
    ipv4: bool,
    ipv6: bool,
    max_loss: float | None,
    max_delay: float | None,
    quiet: bool,
    form: Form,
    keylog: str | None,
    knobs: tuple[str, ...],
    mode: str,
    user: str | None,
    key_file: str | None,
    features: tuple[str, ...],
    reflected_octets: int,
    **rest: Any,
) -> None:
    """The sender: measures to a reflector that is there already."""
    import socket

    from ippm.cli.client import run_here
    from ippm.cli.words import parse_host, parse_interval, parse_ports
    from ippm.errors import ConfigurationError
    from ippm.iana import TWAMP_PORT
    from ippm.io.light import LightSender, run_light_sender

    form.refuse_two_way()
    if ipv4 and ipv6:
        raise ConfigurationError("-4 and -6 exclude each other")
    name, port = parse_host(host, TWAMP_PORT)
    interval_s, exponential = parse_interval(interval)
    spoilt = impairments_of(knobs)
    options = LightSender(
        name,
        port,
        _agreement(mode, user, key_file, features, reflected_octets),
        interval_s=interval_s,
        exponential=exponential,
        test_port_range=None if test_ports is None else parse_ports(test_ports, "-P"),
        family=int(socket.AF_INET if ipv4 else socket.AF_INET6 if ipv6 else 0),
        key_log=open_key_log(keylog),
        impairments=spoilt,
        **stamps_of(rest, spoilt),
    )

    run = run_here(lambda stop: run_light_sender(options, stop), as_json=form.kind == "json")
    from ippm.report.thresholds import Thresholds

    result = run.result
    if not quiet:
        head = {"ok": True, "host": name, "port": port, "mode": result.mode, "protocol": "twamp-light"}
        print_two_way(result, run.plan, run.records, form, lambda: {**head, "result": result.to_dict()})
    if (reason := Thresholds(max_loss, max_delay).exceeded(result)) is not None:
        end(reason, EXIT_THRESHOLD)
