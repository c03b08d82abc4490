"""What the clients share: options, where to connect to, a run that SIGINT ends, the head of the JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ippm.cli.common import FiniteRange, bind_to_device

if TYPE_CHECKING:
    from ippm.cli.keys import Keys
    from ippm.core.control_events import Connected
    from ippm.core.impair import Impairments
    from ippm.io.options import TwpingOptions
    from ippm.io.owamp_options import OwpingOptions
    from ippm.io.pacing import StopSignal

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def packet_options(command: Command) -> Command:
    """The options of the packets that every sender has."""
    for option in (
        click.option("-D", "dscp", type=click.IntRange(0, 63), default=0, help="DSCP of test packets."),
        click.option(
            "-L",
            "timeout_s",
            type=FiniteRange(0),
            default=2.0,
            show_default=True,
            help="Seconds until a packet counts as lost.",
        ),
        click.option("-Z", "zero_padding", is_flag=True, help="Pad with zeros instead of random octets."),
        click.option(
            "-s", "padding", type=click.IntRange(0, 65000), default=0, show_default=True, help="Padding, octets."
        ),
        click.option(
            "-c", "count", type=click.IntRange(1), default=100, show_default=True, help="Packets to send."
        ),
    ):
        command = option(command)
    return command


def threshold_options(delay_help: str) -> Callable[[Command], Command]:
    """`--max-loss` and `--max-delay`."""

    def decorate(command: Command) -> Command:
        command = click.option("--max-delay", type=FiniteRange(0), metavar="MS", help=delay_help)(command)
        return click.option(
            "--max-loss",
            type=FiniteRange(0, 100),
            metavar="PERCENT",
            help="Exit with 3 when more is lost, or nothing was sent.",
        )(command)

    return decorate


MAX_ROUND_TRIP = "Exit with 3 when the median round-trip time is longer, or no packet was answered."
MAX_ONE_WAY = "Exit with 3 when the median delay of a direction is longer, or no packet arrived."


def continuous_options(command: Command) -> Command:
    """`--continuous` and `--period`."""
    for option in (
        click.option(
            "--period",
            "period_s",
            type=FiniteRange(0.1, 86400),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="How long a period of --continuous is; of owping a second or more.",
        ),
        click.option(
            "--continuous",
            is_flag=True,
            help="Measure until interrupted: one line of JSON for each period.",
        ),
    ):
        command = option(command)
    return command


def check_continuous(continuous: bool, options: dict[str, str]) -> None:
    """Raise ConfigurationError for an option that a measurement with an end, or one without, has no use for.

    `options` are those that do not go with --continuous, and the names of their parameters.
    """
    from click.core import ParameterSource

    from ippm.errors import ConfigurationError

    context = click.get_current_context()
    if not continuous:
        if context.get_parameter_source("period_s") is ParameterSource.COMMANDLINE:
            raise ConfigurationError("--period is that of --continuous")
        return
    for option, name in options.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigurationError(f"--continuous and {option} exclude each other")


def run_without_end(
    run: Callable[[Callable[[dict[str, Any]], None], StopSignal], Coroutine[Any, Any, None]],
) -> None:
    """Run a measurement that reports lines, printed as JSON, until SIGINT or SIGTERM ends it."""
    from ippm.cli.progress import counted

    with counted() as tell:

        def report(line: dict[str, Any]) -> None:
            click.echo(json.dumps(line))
            tell(line)

        run_client(lambda stop: run(report, stop), as_json=False, until_terminated=True)


def io_option(command: Command) -> Command:
    """How sockets are read and written."""
    return click.option(
        "--io",
        "io",
        type=click.Choice(["auto", "portable", "linux"]),
        default="auto",
        show_default=True,
        help="How sockets are used: recvmmsg (linux), or one call a packet (portable); auto looks what works.",
    )(command)


def correct_option(command: Command) -> Command:
    """Stamps in packets put forward."""
    return click.option(
        "--correct-stamps",
        is_flag=True,
        help="Put the stamps in packets forward by the median time from stamp to departure, as the kernel tells it.",
    )(command)


def sending_options(command: Command) -> Command:
    """How every sender sends: the command gets `io`, `realtime`, and for `stamps_of` two more."""
    command = click.option(
        "--realtime",
        is_flag=True,
        help="Send with precedence over all other work (SCHED_FIFO, locked memory); from 100 us between packets.",
    )(command)
    command = click.option(
        "--no-transmit-stamps",
        is_flag=True,
        help="Do not ask the kernel when it sent packets: times of sending are those in the packets.",
    )(command)
    return io_option(correct_option(command))


def stamps_of(letters: dict[str, Any], impairments: Impairments | None = None) -> dict[str, Any]:
    """The letters with `stamps` in place of what `sending_options` has for it.

    What impairments do to packets the kernel's stamps do not know: they would be given to other packets.
    """
    from ippm.io.transmit_stamps import StampOptions

    transmit = not letters.pop("no_transmit_stamps", False)
    transmit = transmit and not (impairments is not None and impairments.touches_packets)
    correct = letters.pop("correct_stamps", False)
    return {**letters, "stamps": StampOptions(transmit, correct)}


def address_options(command: Command) -> Command:
    """The options that say from where every client sends."""
    for option in (
        click.option("-S", "local_address", metavar="ADDR", help="Local address."),
        click.option("-B", "interface", metavar="INTERFACE", help="Send through this interface."),
        click.option("-6", "ipv6", is_flag=True, help="IPv6 only."),
        click.option("-4", "ipv4", is_flag=True, help="IPv4 only."),
    ):
        command = option(command)
    return command


def connection_of(
    host: str,
    default_port: int,
    *,
    keys: Keys,
    mode: str | None,
    test_ports: str | None,
    local_ports: str | None,
    ipv4: bool,
    ipv6: bool,
    interface: str | None,
) -> dict[str, Any]:
    """Of the options of a client, those that its letters for the connection give. Raises ConfigurationError."""
    import socket

    from ippm.cli.words import parse_host, parse_ports
    from ippm.errors import ConfigurationError

    if ipv4 and ipv6:
        raise ConfigurationError("-4 and -6 exclude each other")
    name, port = parse_host(host, default_port)
    return {
        "host": name,
        "port": port,
        "mode": mode or ("AE" if keys.given else "O"),
        "require_ikev2": keys.require_ikev2,
        "key_log": keys.key_log,
        "impairments": keys.impairments,
        "test_port_range": None if test_ports is None else parse_ports(test_ports, "-P"),
        "local_port_range": None if local_ports is None else parse_ports(local_ports, "--local-ports"),
        "family": int(socket.AF_INET if ipv4 else socket.AF_INET6 if ipv6 else 0),
        "mark_callback": None if interface is None else bind_to_device(interface),
    }


def run_client(
    run: Callable[[StopSignal], Coroutine[Any, Any, T]],
    *,
    as_json: bool,
    until_terminated: bool = False,
    expected_s: float | None = None,
) -> T:
    """Run a client in an event loop of its own. An IppmError is raised, and printed before when `as_json`.

    SIGINT ends it, and SIGTERM when `until_terminated`. `expected_s` is how long it will take, to be shown.
    """
    import asyncio

    from ippm.cli.progress import shown
    from ippm.io.interrupt import until_interrupted

    with errors_as_json(as_json), shown(expected_s):
        return asyncio.run(until_interrupted(run, until_terminated=until_terminated))


def run_here(run: Callable[[StopSignal], T], *, as_json: bool) -> T:
    """Run what needs no event loop in this thread, and so without importing one: like `run_client`."""
    import signal

    from ippm.io.pacing import StopSignal

    stop = StopSignal()

    def interrupt(*_: object) -> None:
        """The first time: stop sending, and report what there is. The second time: end at once."""
        if stop():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with errors_as_json(as_json):
            return run(stop)
    finally:
        signal.signal(signal.SIGINT, before)
        stop.close()


@contextmanager
def errors_as_json(as_json: bool) -> Iterator[None]:
    """An IppmError is printed before it is raised when `as_json`; a fault of the options is not."""
    from ippm.errors import ConfigurationError, IppmError, ServerRefused

    try:
        yield
    except ConfigurationError:
        raise
    except IppmError as error:
        if as_json:
            accept = error.accept if isinstance(error, ServerRefused) else None  # what the server answered
            click.echo(json.dumps({"ok": False, "error": str(error), "accept": accept}))
        raise


def document_head(options: TwpingOptions | OwpingOptions, connected: Connected, mode: str) -> dict[str, Any]:
    """What the JSON document says of the server and of the Control connection."""
    return {
        "host": options.host,
        "port": options.port,
        "mode": mode,
        "ikev2_derived": connected.ikev2_derived,
        "derivation": connected.derivation,
        "peer_identity": connected.peer_identity,
        "count": connected.count,
    }
