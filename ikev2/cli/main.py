"""The `ikev2` command. Each command imports what it needs when it runs, so that `--help` starts fast.

Exit status: 0 done, 1 the operation failed or the peer refused, 2 usage or configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

P = ParamSpec("P")
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
LOG_INDENT = 19
"""What goes on below the text of a line of the log, behind its time and subsystem."""
BACKENDS = ("auto", "xfrm", "userspace", "memory", "dry-run")


def _end(message: str, status: int) -> NoReturn:
    for line in message.splitlines() or [""]:
        click.echo(f"ikev2: {line}", err=True)
    sys.exit(status)


def _one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors that are a person's or the peer's into lines and the right exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from ikev2.errors import ConfigurationError, IkeError

        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            _end(str(error), EXIT_USAGE)
        except IkeError as error:
            _end(str(error), EXIT_FAILED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(EXIT_FAILED)
        except OSError as error:
            _end((f"{error.filename}: " if error.filename else "") + (error.strerror or str(error)), EXIT_FAILED)
        except KeyboardInterrupt:
            _end("interrupted", EXIT_FAILED)

    return run


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def _print_folded(lines: Iterable[str]) -> None:
    """Text for people, at most as wide as the terminal."""
    from ikev2.cli.show import columns, folded

    width = columns()
    for line in lines:
        for part in folded(line, width):
            click.echo(part)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ippm-ipsec")
def main() -> None:
    """IKEv2 (RFC 7296): an endpoint, and the commands that steer a running one."""


_CONFIG = click.option(
    "-c",
    "--config",
    "config_path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The TOML file.",
)
_SOCKET = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="IKEV2_SOCKET",
    show_envvar=True,
    help="The endpoint's control socket.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _complete_name(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Connections and Child SAs of the running endpoint, for the shell; none when it does not answer."""
    from ikev2.errors import IkeError
    from ikev2.io.control import call, default_path

    path = context.params.get("socket_path")
    try:
        result = call(Path(path) if path else default_path(), "list", timeout_s=1.0)
    except (IkeError, OSError):
        return []
    names = {*result["connections"], *(child["name"] for sa in result["ike_sas"] for child in sa["children"])}
    return sorted(name for name in names if name.startswith(incomplete))


def _complete_knob(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from ikev2.cli.impairments import ROWS

    return [f"{row.action}:" for row in ROWS if row.action.startswith(incomplete)]


_NAME = click.argument("name", shell_complete=_complete_name)


@main.command()
@_CONFIG
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="What happens to Child SAs (default: as configured, else auto)."
)
@click.option("--keylog", "keylog_path", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write every key there, for Wireshark.")  # fmt: skip
@click.option("--pcap", "pcap_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a pcapng capture of the IKE messages.")  # fmt: skip
@click.option("--pcap-interface", metavar="NAME", help="Capture this interface into --pcap instead, ESP included.")
@click.option(
    "--pcap-esp", is_flag=True, help="Add to --pcap every packet before and after ESP (userspace backend)."
)
@click.option("--impair", "impairments", multiple=True, metavar="KNOB",
              shell_complete=_complete_knob,
              help="Spoil messages, as drop:IKE_AUTH:request:1; `ikev2 impairments` lists them.")  # fmt: skip
@_SOCKET
@click.option("-v", "--verbose", is_flag=True, help="The log on stderr, too.")
@_one_line_errors
def run(
    config_path: Path,
    backend: str | None,
    keylog_path: Path | None,
    pcap_path: Path | None,
    pcap_interface: str | None,
    pcap_esp: bool,
    impairments: tuple[str, ...],
    socket_path: Path | None,
    verbose: bool,
) -> None:
    """Run an endpoint in the foreground.

    It answers peers, begins what start_action says, and obeys the other commands over its control socket.
    """
    import asyncio

    from ikev2.cli.config import load
    from ikev2.io.daemon import Daemon, DaemonOptions

    if pcap_interface is not None and pcap_path is None:
        raise click.UsageError("--pcap-interface needs --pcap FILE")
    if pcap_esp and pcap_path is None:
        raise click.UsageError("--pcap-esp needs --pcap FILE")
    options = DaemonOptions(
        backend=backend,
        keylog=keylog_path,
        pcap=pcap_path,
        pcap_interface=pcap_interface,
        pcap_esp=pcap_esp,
        impairments=impairments,
        control_socket=socket_path,
        verbose=verbose,
    )
    asyncio.run(Daemon(load(config_path), options, reload=lambda: load(config_path)).run())


@main.command(name="check-config")
@click.argument("config_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@_one_line_errors
def check_config(config_path: Path) -> None:
    """Check a configuration: every error with its full path."""
    from ikev2.cli.config import load

    configuration = load(config_path)
    connections = configuration.endpoint.connections
    children = sum(len(connection.children) for connection in connections)
    click.echo(
        f"{config_path}: {_count(len(connections), 'connection')}, {_count(children, 'child', 'children')}: OK"
    )


@main.command()
@click.option("--kernel", is_flag=True, help="Try which of them ESP of this kernel has (root).")
@_JSON
@_one_line_errors
def algorithms(kernel: bool, as_json: bool) -> None:
    """The algorithms, their keywords, and the levels of RFC 8247 and 8221."""
    from ikev2.cli.algorithms import kernel_rows, rows

    found = list(kernel_rows() if kernel else rows())
    if as_json:
        _print_json([row.to_dict() for row in found])
        return
    tried = f"{'kernel':8}" if kernel else ""
    click.echo(f"{'type':6}{'no.':>4}  {'name':24}{'keyword':18}{tried}{'IKE (RFC 8247)':16}ESP (RFC 8221)")
    for row in found:
        has = f"{ {True: 'yes', False: 'no', None: ''}[row.kernel]:8}" if kernel else ""
        click.echo(f"{row.type:6}{row.number:>4}  {row.name:24}{row.keyword:18}{has}{row.ike:16}{row.esp}".rstrip())


@main.command()
@_JSON
@_one_line_errors
def impairments(as_json: bool) -> None:
    """The knobs of `run --impair`, and what each one does."""
    from ikev2.cli.impairments import ROWS, SYNTAX
    from ikev2.cli.show import columns, folded

    if as_json:
        _print_json([row.to_dict() for row in ROWS])
        return
    click.echo(f"--impair {SYNTAX}")
    click.echo("  EXCHANGE: IKE_AUTH, ..., a number or *; DIRECTION: request, response or *; NUMBER: from 1, or *")
    click.echo("  PAYLOAD: SA, KE, IDi, AUTH, ..., a number, or N(COOKIE), N(16500)")
    for acts_on, when in (("datagram", "each time that it goes out"), ("message", "once, before its protection")):
        click.echo(f"of a {acts_on}, {when}:")
        for row in ROWS:
            if row.acts_on == acts_on:
                for line in folded(f"  {row.knob:34}{row.text}", columns(), 36):
                    click.echo(line)


@main.command()
@click.argument("pcap_path", metavar="PCAP", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--keys", "keys_path", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="The key log of either end.")  # fmt: skip
@_JSON
@_one_line_errors
def decode(pcap_path: Path, keys_path: Path | None, as_json: bool) -> None:
    """The IKE messages of a capture, decrypted with a key log.

    PCAP is a pcap or pcapng file of any program; the key log is that of `ikev2 run --keylog`, or Wireshark's own
    ikev2_decryption_table in a directory.
    """
    from ikev2.errors import DamagedCapture
    from ikev2.io.decode import decode_packets

    shown: list[dict[str, object]] = []
    try:
        messages = decode_packets(pcap_path, keys_path)
        if as_json:
            shown.extend(message.to_dict() for message in messages)
        else:
            _print_folded(line for message in messages for line in message.lines())
    except DamagedCapture as error:
        if as_json:
            _print_json(shown)
        _end(str(error), EXIT_FAILED)
    if as_json:
        _print_json(shown)


def _endpoint(socket_path: Path | None, command: str, **arguments: object) -> Any:
    from ikev2.errors import IkeError
    from ikev2.io.control import call, default_path

    path = socket_path or default_path()
    if not path.exists():
        raise IkeError(
            f"no endpoint is running at {path}: start one with `ikev2 run -c FILE`, or name its control_socket with "
            "--socket or IKEV2_SOCKET"
        )
    return call(path, command, **arguments)  # type: ignore[arg-type]


def _print_log(record: Mapping[str, Any], *, err: bool = False) -> None:
    """A line of the log: folded on a terminal, whole for a program that reads it."""
    from ikev2.cli.show import columns, folded
    from ikev2.io.log import LogRecord

    line = str(LogRecord(**record))
    stream = sys.stderr if err else sys.stdout
    for part in folded(line, columns(), LOG_INDENT) if stream.isatty() else (line,):
        click.echo(part, err=err)


def _operation(name: str, text: str) -> None:
    """up, down and rekey: a name, the log while it happens, the outcome."""

    @main.command(name=name, help=text)
    @_NAME
    @_SOCKET
    @_JSON
    @_one_line_errors
    def operation(name: str, socket_path: Path | None, as_json: bool) -> None:
        command = click.get_current_context().info_name or ""
        show = None if as_json else lambda record: _print_log(record, err=True)
        result = _endpoint(socket_path, command, name=name, on_log=show)
        if as_json:
            _print_json(result)
        else:
            click.echo(f"{command} {name}: done")


_operation("up", "Bring up a connection, or one Child SA of it, by name.")
_operation("down", "Take down a connection, or one Child SA of it, by name.")
_operation("rekey", "Rekey a connection or a Child SA, by name.")


@main.command(name="list")
@_SOCKET
@_JSON
@_one_line_errors
def list_(socket_path: Path | None, as_json: bool) -> None:
    """The IKE SAs and their Child SAs."""
    from ikev2.cli.show import sa_lines

    result = _endpoint(socket_path, "list")
    if as_json:
        _print_json(result)
        return
    _print_folded(sa_lines(result))


@main.command()
@_SOCKET
@_JSON
@_one_line_errors
def stats(socket_path: Path | None, as_json: bool) -> None:
    """Counters of the endpoint and of each Child SA."""
    from ikev2.cli.show import stats_lines

    result = _endpoint(socket_path, "stats")
    if as_json:
        _print_json(result)
        return
    for line in stats_lines(result):
        click.echo(line)


@main.command()
@_SOCKET
@_JSON
@_one_line_errors
def reload(socket_path: Path | None, as_json: bool) -> None:
    """Read the configuration again; SAs that are up stay."""
    result = _endpoint(socket_path, "reload")
    if as_json:
        _print_json(result)
        return
    for word in ("added", "changed", "removed"):
        for name in result[word]:
            click.echo(f"{word} {name}")
    if not any(result.values()):
        click.echo("reload: no connection is other than before")


@main.command()
@click.option("-n", "--last", type=click.IntRange(min=0), help="Only the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@_SOCKET
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --follow, one on each line.")
@_one_line_errors
def log(last: int | None, follow: bool, socket_path: Path | None, as_json: bool) -> None:
    """The log of the endpoint."""
    records: list[Mapping[str, Any]] = []

    def show(record: Mapping[str, Any]) -> None:
        if as_json and not follow:
            records.append(record)
        elif as_json:
            click.echo(json.dumps(record))
        else:
            _print_log(record)

    _endpoint(socket_path, "log", on_log=show, last=last, follow=follow)
    if as_json and not follow:
        _print_json(records)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
