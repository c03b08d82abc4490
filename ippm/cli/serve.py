"""`ippm serve`: the servers of OWAMP and TWAMP in one process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ippm.cli.client import correct_option
from ippm.cli.common import modes_of, one_line_errors
from ippm.cli.impairments import impair_option, impairments_of
from ippm.cli.keys import agent_of, key_agent_option, key_file_option, keylog_option, open_key_log, provider_of

if TYPE_CHECKING:
    from ippm.crypto import KeyProvider
    from ippm.io.key_agent import KeyAgentProvider
    from ippm.io.options import ServerOptions
    from ippm.io.owamp_options import OwampServerOptions
    from ippm.io.owamp_server import OwampServer
    from ippm.io.privileges import RunAs


@click.command()
@click.option(
    "-c", "config", metavar="FILE", help="TOML file with [twamp] and [owamp] tables, or one; options override it."
)
@click.option(
    "--listen",
    metavar="ADDR[:PORT]",
    help="Address to listen on, and the port of TWAMP; all addresses, port 862, by default. "
    "With a port, OWAMP is served only with --owamp-port.",
)
@click.option("--owamp-port", type=click.IntRange(0, 65535), help="Port of OWAMP: 861 by default.")
@click.option("-P", "test_ports", metavar="A-B", help="UDP ports of test sessions (18760-18960).")
@click.option("-A", "modes", metavar="MODES", help="Modes to offer, letters of OAEM (M is TWAMP's alone).")
@key_file_option
@key_agent_option
@click.option("--count", type=int, metavar="N", help="PBKDF2 Count, a power of two from 1024 up.")
@click.option(
    "--data",
    "directory",
    metavar="DIR",
    help="Keep the records of OWAMP sessions here; a temporary one by default.",
)
@click.option(
    "--user",
    metavar="NAME[:GROUP]",
    help="Go on as this user when the ports are bound; the server ends when that fails.",
)
@click.option(
    "--nat",
    is_flag=True,
    help="Answer TWAMP test packets to where they come from, whatever the session names: for clients behind a NAT.",
)
@keylog_option
@impair_option
@click.option("--io", "io", type=click.Choice(["auto", "portable", "linux"]), help="How sockets are used; auto.")
@correct_option
@click.option("-v", "verbose", is_flag=True, help="Log each connection and session.")
@one_line_errors
def serve(
    config: str | None,
    key_file: str | None,
    agent_path: str | None,
    user: str | None,
    keylog: str | None,
    knobs: tuple[str, ...],
    verbose: bool,
    **overrides: Any,
) -> None:
    """OWAMP server on port 861, TWAMP server on port 862, in the foreground."""
    import asyncio
    import logging
    from dataclasses import replace

    logging.basicConfig(
        stream=sys.stderr, format="%(name)s: %(message)s", level=logging.INFO if verbose else logging.WARNING
    )
    twamp, owamp, its_key_file = server_options(config, **overrides)
    agent = agent_of(agent_path)
    if agent is not None:
        _check_agent(agent)
    provider = provider_of(key_file or its_key_file, None, agent)
    if provider is None:
        _check_open(twamp, owamp)
    key_log = open_key_log(keylog)
    spoilt = impairments_of(knobs)
    twamp = None if twamp is None else replace(twamp, key_log=key_log, impairments=spoilt)
    owamp = None if owamp is None else replace(owamp, key_log=key_log, impairments=spoilt)
    _raise_descriptors(twamp, owamp)
    asyncio.run(_serve(twamp, owamp, provider, None if user is None else _run_as(user, twamp, owamp), agent))


def _check_agent(agent: KeyAgentProvider) -> None:
    """A warning when no key agent answers: it may come later, and clients are refused until then.

    Raises ConfigurationError when it is not for this user.
    """
    from ippm.io.key_agent import AgentError

    try:
        agent.check()
    except AgentError as error:
        click.echo(f"ippm: warning: {error}; clients with IKEv2-derived keys are refused until it is", err=True)


def _check_open(twamp: ServerOptions | None, owamp: OwampServerOptions | None) -> None:
    """Without keys a server has open mode alone to offer. Raises ConfigurationError when it is not to."""
    from ippm.errors import ConfigurationError
    from ippm.iana import Mode, mode_words

    for name, options in (("twamp", twamp), ("owamp", owamp)):
        if options is not None and not options.modes & Mode.OPEN:
            raise ConfigurationError(
                f"{name}: {mode_words(options.modes)} needs keys: a key file (-k FILE, key_file) or --key-agent SOCKET"
            )


def _raise_descriptors(twamp: ServerOptions | None, owamp: OwampServerOptions | None) -> None:
    """As many open files as may be, and a warning when the limits of the servers ask for more."""
    from ippm.io.descriptors import check_descriptors, raise_descriptor_limit

    wanted = 0 if twamp is None else twamp.maximum_connections + twamp.maximum_sessions
    wanted += 0 if owamp is None else owamp.maximum_connections + 2 * owamp.maximum_sessions
    check_descriptors(raise_descriptor_limit(), wanted)


def _run_as(user: str, twamp: ServerOptions | None, owamp: OwampServerOptions | None) -> RunAs:
    """The user to go on as. Raises ConfigurationError."""
    from ippm.io.privileges import check_unprivileged_ports, parse_user

    who = parse_user(user)
    for name, options in (("twamp.test_ports", twamp), ("owamp.test_ports", owamp)):
        if options is not None:
            check_unprivileged_ports(who, name, options.test_ports)
    return who


def server_options(
    config: str | None,
    listen: str | None,
    owamp_port: int | None,
    test_ports: str | None,
    modes: str | None,
    count: int | None,
    directory: str | None,
    io: str | None = None,
    correct_stamps: bool = False,
    nat: bool = False,
) -> tuple[ServerOptions | None, OwampServerOptions | None, Any]:
    """Both servers' options, None for one that is not to run, and the key file. Raises ConfigurationError."""
    from dataclasses import replace

    from ippm.cli.settings import ServerTables, read_server_file
    from ippm.cli.words import parse_host, parse_ports
    from ippm.core.owamp_events import SECURITY
    from ippm.iana import TWAMP_PORT
    from ippm.io.options import ServerOptions
    from ippm.io.owamp_options import OwampServerOptions

    tables = (
        ServerTables(ServerOptions(), OwampServerOptions(), None) if config is None else read_server_file(config)
    )
    twamp, owamp = tables.twamp, tables.owamp
    changes: dict[str, Any] = {}
    port: int | None = None
    if listen is not None:
        if listen.startswith(":") and listen[1:].isdecimal():
            port = int(listen[1:])
        elif listen.endswith(":0"):
            changes["address"], port = listen[:-2].strip("[]"), 0
        else:
            changes["address"], given = parse_host(listen, TWAMP_PORT)
            port = given if listen.count(":") == 1 or "]:" in listen else None
    if test_ports is not None:
        changes["test_ports"] = parse_ports(test_ports, "-P")
    if modes is not None:
        changes["modes"] = modes_of(modes)
    if count is not None:
        changes["count"] = count
    if io is not None:
        changes["io"] = io
    if correct_stamps:
        changes["correct_stamps"] = True
    if twamp is not None:
        twamp = replace(twamp, **changes)
        twamp = twamp if port is None else replace(twamp, port=port)
        twamp = replace(twamp, check_peer=False) if nat else twamp
    if port is not None and owamp_port is None and config is None:
        owamp = None
    if owamp is None and owamp_port is not None:
        owamp = OwampServerOptions()
    if owamp is not None:
        if "modes" in changes:
            changes["modes"] &= SECURITY
        if directory is not None:
            changes["directory"] = directory
        owamp = replace(owamp, **changes)
        owamp = owamp if owamp_port is None else replace(owamp, port=owamp_port)
    return twamp, owamp, tables.key_file


async def _serve(
    twamp: ServerOptions | None,
    owamp: OwampServerOptions | None,
    provider: KeyProvider | None,
    who: RunAs | None = None,
    agent: KeyAgentProvider | None = None,
) -> None:
    import asyncio
    import gc
    import signal
    from contextlib import AsyncExitStack

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    lines: list[str] = []
    one_way: OwampServer | None = None
    async with AsyncExitStack() as stack:
        if owamp is not None:
            from ippm.io.owamp_server import OwampServer as Server

            one_way = Server(owamp, provider)
            await one_way.start()
            stack.push_async_callback(one_way.stop)
            lines.append(f"OWAMP server on {owamp.address or 'all addresses'} port {one_way.port}")
        if twamp is not None:
            from ippm.io.twamp_server import TwampServer

            two_way = TwampServer(twamp, provider)
            await two_way.start()
            stack.push_async_callback(two_way.stop)
            lines.append(f"TWAMP server on {twamp.address or 'all addresses'} port {two_way.port}")
        if who is not None:
            from ippm.io.privileges import drop_privileges, give

            # Starting does not wait for anything, so no client has been served as root.
            if one_way is not None and one_way.directory is not None and one_way.made_directory:
                give(who, [one_way.directory])
            drop_privileges(who, None if one_way is None else one_way.directory)
            lines.append(f"running as {who}")
            if agent is not None:
                _check_agent(agent)
        for line in lines:
            click.echo(line)
        sys.stdout.flush()
        # What there is by now stays: collecting garbage takes the less time from packets.
        gc.collect()
        gc.freeze()
        await ended.wait()
