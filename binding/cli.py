"""The `ippm-ipsec` command. Each command imports what it needs when it runs, so that `--help` starts fast.

Exit status: 0 done, 1 the operation failed or the peer refused, 2 usage or configuration, 3 a threshold was exceeded.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

from binding.switches import (
    CLIENT,
    DERIVATIONS,
    ONE_WAY_CLIENT,
    SERVER,
    Switch,
    given_switches,
    switch_options,
)

if TYPE_CHECKING:
    from binding.twping import Outcome, PingRequest
    from ippm import Form

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_THRESHOLD = 3


def _end(message: str, status: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"ippm-ipsec: {line}", err=True)
    sys.exit(status)


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors that are a person's or the peer's into one line and the right exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from ikev2.embedding import ConfigurationError as IkeConfigurationError
        from ikev2.embedding import IkeError
        from ippm import ConfigurationError, IppmError

        try:
            return command(*args, **kwargs)
        except (IkeConfigurationError, ConfigurationError) as error:
            _end(str(error), EXIT_USAGE)
        except (IkeError, IppmError) as error:
            _end(str(error), EXIT_FAILED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(EXIT_FAILED)
        except OSError as error:
            _end((f"{error.filename}: " if error.filename else "") + (error.strerror or str(error)), EXIT_FAILED)
        except KeyboardInterrupt:
            _end("interrupted", EXIT_FAILED)

    return run


class HexOctets(click.ParamType[bytes]):
    """Octets in hex on the command line; a fixed length is checked by the command."""

    name = "HEX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            octets = bytes.fromhex(value)
        except ValueError:
            octets = b""
        if not octets:  # an empty key is a key, too, and most likely a variable of a script that is not set
            self.fail(f"{value!r} is not hex octets", param, ctx)
        return octets


HEX = HexOctets()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ippm-ipsec")
def main() -> None:
    """Performance measurement keyed by IKEv2 (RFC 7717)."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-report"),
              show_default=True, help="The folder for captures, key logs and JSON.")  # fmt: skip
@click.option(
    "--backend", type=click.Choice(["auto", "xfrm", "userspace", "memory"]), default="auto", show_default=True
)
@click.option("--mode", type=click.Choice(["tunnel", "transport"]), default="tunnel", show_default=True)
@click.option(
    "--count", type=click.IntRange(1), default=100, show_default=True, help="Packets of each measurement."
)
@one_line_errors
def demo(as_json: bool, report: Path, backend: str, mode: str, count: int) -> None:
    """Two hosts, an IKE SA, three measurements and a refusal."""
    from binding.demo import DemoOptions, run_demo

    sys.exit(run_demo(DemoOptions(report=report, backend=backend, mode=mode, count=count, as_json=as_json)))


@main.command(hidden=True)
@click.argument("role", type=click.Choice(["a", "b"]))
@click.option("--config", "config_file", required=True, type=click.Path(path_type=Path))
@click.option("--backend", required=True)
@click.option("--directory", required=True, type=click.Path(path_type=Path))
@click.option("--address", required=True)
@click.option("--count", type=int, required=True)
@click.option("--interface")
def demo_host(role: str, **options: Any) -> None:
    """One host of the demo, started by `ippm-ipsec demo` in a namespace."""
    from binding.demo_hosts import main as run

    sys.exit(run(role, **options))


@main.command()
@click.option("--local", "local_address", required=True, metavar="ADDR", help="This host's address.")
@click.option("--peer", "peer_address", required=True, metavar="ADDR", help="The other host's address.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), default=Path("."), show_default=True)
@click.option("--certs", is_flag=True, hidden=True)
@one_line_errors
def init(local_address: str, peer_address: str, directory: Path, certs: bool) -> None:
    """Write the two hosts' configuration files and a fresh PSK."""
    from binding.init import write_pair

    if certs:
        raise click.UsageError("--certs: this version authenticates by PSK only")
    for line in write_pair(local_address, peer_address, directory):
        click.echo(line)


CONFIG = click.option(
    "-c", "config_file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The host's TOML."
)
KEYLOG = click.option(
    "--keylog",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the keys of IKE and ESP here, for Wireshark, and those of O/TWAMP, for `ippm decode`.",
)
VERBOSE = click.option("-v", "verbose", is_flag=True, help="Say on stderr what is going on.")


def _backend(*more: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kinds = click.Choice(["auto", "xfrm", "userspace", "memory", *more])
    return click.option("--backend", type=kinds, help="What carries the Child SAs; the file's by default.")


def _log_to_stderr(verbose: bool) -> None:
    """Warnings of all, and what is ours to say: that an IKE SA is brought up, that a client was refused."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("ippm-ipsec").setLevel(logging.INFO)


@main.command()
@CONFIG
@_backend("dry-run")
@KEYLOG
@click.option(
    "--pcap", type=click.Path(path_type=Path, dir_okay=False), help="Write the host's IKE datagrams here."
)
@VERBOSE
@switch_options(SERVER)
@one_line_errors
def host(
    config_file: Path, backend: str | None, keylog: Path | None, pcap: Path | None, verbose: bool, **options: Any
) -> None:
    """An IKE endpoint and an O/TWAMP server in one process, until a signal ends it.

    `ikev2 list` and the like work on it, and `ippm-ipsec owping` and `twping` take their keys from it.
    """
    from binding.host import run_host
    from ikev2.embedding import DaemonOptions

    _log_to_stderr(verbose)
    logging.getLogger("ippm").setLevel(logging.INFO)
    daemon = DaemonOptions(backend=backend, keylog=keylog, pcap=pcap, verbose=verbose)
    run_host(config_file, given_switches(SERVER, options), daemon, click.echo)


def _ping_options(switches: tuple[Switch, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that `owping` and `twping` share, after those that only one of them has."""
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option("-s", "padding", default=0, show_default=True, help="Octets of padding."),
        click.option("-L", "timeout_s", default=2.0, show_default=True,
                     help="Seconds after which a packet is lost."),
        click.option("-D", "dscp", default=0, show_default=True, help="DSCP of the test packets."),
        click.option("--io", "io", type=click.Choice(["auto", "portable", "linux"]), default="auto",
                     show_default=True, help="How sockets are used, as in ippm."),
        click.option("--realtime", is_flag=True, help="Send with precedence over all other work, as in ippm."),
        click.option("--ike-sa", metavar="SPIi:SPIr", help="Take the keys of this IKE SA."),
        click.option("--ike-peer", metavar="ID", help="Take the keys of the newest IKE SA with this identity."),
        click.option("--max-loss", type=click.FloatRange(0, 100), metavar="PERCENT",
                     help="Exit with 3 when more is lost, or nothing was sent."),
        click.option("--continuous", is_flag=True,
                     help="Measure on one path until interrupted: one line of JSON for each period."),
        click.option("--period", "period_s", type=click.FloatRange(0.1, 86400), default=10.0, show_default=True,
                     metavar="SECONDS", help="How long a period of --continuous is; of owping a second or more."),
        click.option("--impair", "knobs", multiple=True, metavar="KNOB",
                     help="Spoil what is sent, as drop:test:3; `ippm impairments` lists the knobs."),
        _backend(),
        KEYLOG,
        *FORM_OPTIONS,
        VERBOSE,
        switch_options(switches),
    ]  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command = _with_form(command)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


FORM_OPTIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    click.option("--format", "form_word", type=click.Choice(["text", "json", "csv", "openmetrics", "pscheduler"]),
                 help="Form of the result; text by default."),
    click.option("-R", "raw", is_flag=True, help="Print a line for each packet, for programs."),
    click.option("-M", "machine", is_flag=True, help="Print a summary for programs, a name and a value a line."),
    click.option("--packets", is_flag=True, help="Print each packet, too (pscheduler: raw-packets)."),
    click.option("--unit", type=click.Choice(["n", "u", "m", "s"]), default="m",
                 help="Unit of text: ns, us, ms, s."),
    click.option("-a", "percentiles", metavar="P[,P...]", help="More percentiles in text, 0 to 100."),
    click.option("-b", "bucket_width", type=click.FloatRange(1e-9, 1), metavar="SECONDS",
                 help="Width of histogram buckets: 0.0001 in -M, 0.001 in pscheduler."),
]  # fmt: skip
"""Those of `ippm`; `-n` and `-v` mean something else here, so it is `--unit` and `--packets`."""


def _with_form(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command gets FORM_OPTIONS as `form`."""

    @wraps(command)
    def run(*args: Any, packets: bool, **options: Any) -> Any:
        from ippm import ConfigurationError, Form

        words = ("as_json", "form_word", "raw", "machine", "unit", "percentiles", "bucket_width")
        given = {word: options.pop(word) for word in words}
        try:
            form = Form.of_options(**given, verbose=packets, verbose_option="--packets")
        except ConfigurationError as error:
            _end(str(error), EXIT_USAGE)
        return command(*args, form=form, **options)

    return run


COUNT = click.option(
    "--count", "-n", type=click.IntRange(1), default=100, show_default=True, help="Packets to send."
)


NO_END = {
    "count": "-n", "directory": "-d", "max_loss": "--max-loss", "max_delay": "--max-delay", "form_word": "--format",
    "raw": "-R", "machine": "-M", "packets": "--packets", "unit": "--unit", "percentiles": "-a", "bucket_width": "-b",
}  # fmt: skip
"""Parameters, and the options of them, that a measurement without an end has no use for."""


def _is_without_end(options: dict[str, Any]) -> bool:
    """Whether `--continuous` is there; ends with status 2 when another option does not go with it."""
    from click.core import ParameterSource

    def given(parameter: str) -> bool:
        return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE

    if not options["continuous"]:
        if given("period_s"):
            _end("--period is that of --continuous", EXIT_USAGE)
        return False
    for parameter, option in NO_END.items():
        if given(parameter):
            _end(f"--continuous and {option} exclude each other", EXIT_USAGE)
    return True


def _go_on(request: PingRequest, period_s: float) -> None:
    """Lines of JSON until a signal."""
    from binding.measurement import WithoutEnd
    from binding.twping import run_without_end

    run_without_end(request, WithoutEnd(lambda line: click.echo(json.dumps(line)), period_s))


def _tell(outcome: Outcome, form: Form) -> None:
    """What was measured on stdout, and the exit status."""
    from binding.twping import present

    if form.kind == "json":
        click.echo(json.dumps(outcome.to_dict(), indent=2))
    elif outcome.measurements:
        for piece in present(outcome.measurements, form):
            click.echo(piece, nl=False)
    if outcome.error is not None:
        _end(str(outcome.error), EXIT_FAILED)
    if outcome.exceeded is not None:
        _end(outcome.exceeded, EXIT_THRESHOLD)


@main.command()
@click.argument("destination", metavar="HOST[:PORT]")
@CONFIG
@click.option("-A", "security", metavar="O|A|E|M", help="Open, authenticated, encrypted or mixed.")
@COUNT
@click.option("-i", "interval_s", default="0.1", show_default=True, metavar="SECONDS[e|f]",
              help="Between packets: fixed (f, the default here), or exponential with this mean (e).")  # fmt: skip
@click.option("--equal-size", is_flag=True, help="At least the padding that makes both directions equally long.")
@click.option("--max-delay", type=click.FloatRange(0), metavar="MS",
              help="Exit with 3 when the median round-trip time is longer.")  # fmt: skip
@_ping_options(CLIENT)
@one_line_errors
def twping(destination: str, config_file: Path, form: Form, verbose: bool, **options: Any) -> None:
    """Measure both ways with keys from the IKE SA, which is brought up if there is none."""
    from binding.twping import run_ping, twping_request

    _log_to_stderr(verbose)
    form.refuse_two_way()
    if _is_without_end(options):
        _go_on(twping_request(destination, config_file, options), options["period_s"])
        return
    _tell(run_ping(twping_request(destination, config_file, options)), form)


@main.command()
@click.argument("destination", metavar="HOST[:PORT]")
@CONFIG
@click.option("-f", "from_server", is_flag=True, help="Measure from the server only.")
@click.option("-t", "to_server", is_flag=True, help="Measure to the server only.")
@click.option("-A", "security", metavar="O|A|E", help="Open, authenticated or encrypted.")
@COUNT
@click.option("-i", "interval", default="0.1", show_default=True, metavar="SECONDS[e|f][,...]",
              help="Between packets: exponential with this mean (e, the default), or fixed (f).")  # fmt: skip
@click.option("-z", "start_delay_s", type=click.FloatRange(0), default=0.25, show_default=True,
              help="Seconds from the request to the first packet.")  # fmt: skip
@click.option("-d", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Save the data of each session here, in a file SID.owp.")  # fmt: skip
@click.option("--max-delay", type=click.FloatRange(0), metavar="MS",
              help="Exit with 3 when the median delay of a direction is longer.")  # fmt: skip
@_ping_options(ONE_WAY_CLIENT)
@one_line_errors
def owping(
    destination: str, config_file: Path, directory: Path | None, form: Form, verbose: bool, **options: Any
) -> None:
    """Measure one way, to the server and from it, with keys from the IKE SA, which is brought up if there is none."""
    from binding.owping import owping_request, prepare, save
    from binding.twping import run_ping

    _log_to_stderr(verbose)
    request = owping_request(destination, config_file, options)
    if _is_without_end(options):
        _go_on(request, options["period_s"])
        return
    if directory is not None:
        prepare(directory)
    outcome = run_ping(request)
    if directory is not None:
        save(outcome.measurements, directory)
    _tell(outcome, form)


@main.command()
@click.option(
    "--derivation", type=click.Choice(DERIVATIONS), default="rfc7717", show_default=True,
    help="keymat-sid and skd-sid are unverified readings of a draft.",
)  # fmt: skip
@click.option("--prf", default="hmac-sha2-256", show_default=True, metavar="NAME")
@click.option("--protocol", type=click.Choice(["owamp", "twamp"]), default="twamp", show_default=True)
@click.option("--key-count", type=click.Choice(["4", "2"]), default="4", show_default=True)
@click.option("--token-key", type=click.Choice(["pbkdf2", "truncate16"]), default="pbkdf2", show_default=True)
@click.option("--secret-encoding", type=click.Choice(["raw", "hex"]), default="raw", show_default=True)
@click.option("--sk-d", type=HEX, help="SK_d of the IKE SA.")
@click.option("--keymat", type=HEX, help="KEYMAT of the Child SA (keymat-sid).")
@click.option("--spi-i", type=HEX, help="SPIi, 8 octets.")
@click.option("--spi-r", type=HEX, help="SPIr, 8 octets.")
@click.option("--esp-spi", type=HEX, help="The ESP SPI on which the server receives, 4 octets (keymat-sid).")
@click.option("--salt", type=HEX, help="16 octets, from the Server Greeting.")
@click.option("--label", default="IPPM", show_default=True, help="The string of the shared secret (rfc7717).")
@click.option("--count", type=int, help="PBKDF2's Count, from the Server Greeting.")
@click.option("--challenge", type=HEX, help="16 octets, from the Server Greeting.")
@click.option("--aes-session-key", type=HEX, help="16 octets, from the Token.")
@click.option("--hmac-session-key", type=HEX, help="32 octets, from the Token.")
@click.option("--sid", type=HEX, help="The Session ID, 16 octets, from Accept-Session.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def derive(as_json: bool, derivation: str, key_count: str, token_key: str, **inputs: Any) -> None:
    """The key chain, step by step, from given inputs."""
    from binding.derivation import Derivation
    from binding.derive import DeriveInputs
    from binding.derive import derive as run

    chosen = Derivation(derivation)
    answer = run(
        DeriveInputs(derivation=chosen, key_count=int(key_count), token_key_rule=token_key, **inputs)  # type: ignore[arg-type]
    )
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    answer["derivation"] = chosen.described
    for name, value in answer.items():
        click.echo(f"{name:>16}  {value}")
