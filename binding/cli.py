"""The `ippm-ipsec` command. Each command imports what it needs when it runs, so that `--help` starts fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2


def _end(message: str, status: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"ippm-ipsec: {line}", err=True)
    sys.exit(status)


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors that are a person's or the peer's into one line and the right exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from ikev2 import ConfigurationError as IkeConfigurationError
        from ikev2 import IkeError
        from ippm import ConfigurationError, IppmError

        try:
            return command(*args, **kwargs)
        except (IkeConfigurationError, ConfigurationError) as error:
            _end(str(error), EXIT_USAGE)
        except (IkeError, IppmError) as error:
            _end(str(error), EXIT_FAILED)
        except OSError as error:
            _end(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), EXIT_FAILED)
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
            return bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hex octets", param, ctx)


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
@click.option("--count", default=100, show_default=True, help="Packets of each measurement.")
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
@one_line_errors
def init(local_address: str, peer_address: str, directory: Path) -> None:
    """Write the two hosts' configuration files and a fresh PSK."""
    from binding.init import write_pair

    for line in write_pair(local_address, peer_address, directory):
        click.echo(line)


@main.command()
@click.option(
    "-c", "config_file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The host's TOML."
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "xfrm", "userspace", "memory", "dry-run"]),
    default="auto",
    show_default=True,
)
@click.option("--keylog", type=click.Path(path_type=Path, file_okay=False), help="Write keys for Wireshark here.")
@click.option(
    "--pcap", type=click.Path(path_type=Path, dir_okay=False), help="Write the host's IKE datagrams here."
)
@one_line_errors
def host(config_file: Path, backend: str, keylog: Path | None, pcap: Path | None) -> None:
    """An IKE endpoint and an O/TWAMP server in one process, until a signal ends it."""
    from binding.host import run_host

    run_host(config_file, backend=backend, keylog=keylog, pcap=pcap)


def _measurement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--derivation", type=click.Choice(["rfc7717", "keymat-sid", "skd-sid"])),
        click.option("--path", "path_", type=click.Choice(["tunnel", "bypass", "both"])),
        click.option("--ike-sa", metavar="SPIi:SPIr", help="Take the keys of this IKE SA."),
        click.option("--ike-peer", metavar="ID", help="Take the keys of the newest IKE SA with this identity."),
        click.option("--token-key", type=click.Choice(["pbkdf2", "truncate16"])),
        click.option("--secret-encoding", type=click.Choice(["raw", "hex"])),
        click.option("--key-count", type=click.Choice(["4", "2"])),
        click.option("--no-sa", type=click.Choice(["initiate", "fail", "fallback"])),
        click.option("--require-ikev2/--no-require-ikev2", default=None),
        click.option("--tw-auth-pad", type=click.Choice(["64", "56"])),
        click.option("--label", metavar="TEXT"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("destination", metavar="HOST[:PORT]")
@click.option(
    "-c", "config_file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The host's TOML."
)
@click.option("-A", "security", metavar="O|A|E", help="Open, authenticated or encrypted.")
@click.option("--count", "-n", default=100, show_default=True, help="Packets to send.")
@click.option("-i", "interval_s", default=0.1, show_default=True, help="Seconds between packets.")
@click.option("-s", "padding", default=0, show_default=True, help="Octets of padding.")
@click.option("-L", "timeout_s", default=2.0, show_default=True, help="Seconds after which a packet is lost.")
@click.option("-D", "dscp", default=0, show_default=True, help="DSCP of the test packets.")
@click.option(
    "--backend", type=click.Choice(["auto", "xfrm", "userspace", "memory"]), default="auto", show_default=True
)
@click.option("--keylog", type=click.Path(path_type=Path, file_okay=False), help="Write keys for Wireshark here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@_measurement_options
@one_line_errors
def twping(destination: str, config_file: Path, as_json: bool, **options: Any) -> None:
    """Measure both ways with keys from the IKE SA, which is brought up if there is none."""
    from binding.twping import TwpingRequest, run_twping

    documents, text = run_twping(TwpingRequest.from_command_line(destination, config_file, options))
    if as_json:
        click.echo(json.dumps(documents, indent=2))
    else:
        click.echo(text)


@main.command()
@click.option(
    "--derivation", type=click.Choice(["rfc7717", "keymat-sid", "skd-sid"]), default="rfc7717", show_default=True
)
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
