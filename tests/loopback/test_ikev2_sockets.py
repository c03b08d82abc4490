"""The control socket and the key agent, with real unix sockets and, for the agent, a real IKE SA behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ikev2_pair import Pair

from ikev2.core.exporter import NoSuchSa
from ikev2.errors import ConfigurationError, IkeError, LocalProtocolError
from ikev2.io import key_agent
from ikev2.io.control import call
from ikev2.io.daemon import Daemon, DaemonOptions
from ikev2.io.key_agent import KeyAgentClient, KeyAgentServer
from ikev2.io.unix_socket import MAX_REQUEST_OCTETS, bind_private
from ikev2.ipsec.memory import MemoryBackend


@contextlib.asynccontextmanager
async def daemons(pair: Pair, options: DaemonOptions | None = None) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Both hosts as daemons, with control socket and key agent."""
    async with contextlib.AsyncExitStack() as stack:
        hosts = []
        for host in ("b", "a"):
            daemon = Daemon(
                pair.configuration(host),
                options if host == "a" else None,
                reload=lambda host=host: pair.configuration(host),
                backend=MemoryBackend(pair.network),
            )
            await daemon.start(stack)
            hosts.append(daemon)
        yield hosts[1], hosts[0]


async def ask(daemon: Daemon, command: str, **arguments: Any) -> Any:
    """A control command as `ikev2` gives it: blocking, from another thread."""
    return await asyncio.to_thread(call, daemon.configuration.control_socket, command, timeout_s=10, **arguments)


async def speak(path: Path, octets: bytes) -> list[dict[str, Any]]:
    """What the server answers to raw octets until it closes or we have said all."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(octets)
    with contextlib.suppress(ConnectionError):
        writer.write_eof()
        await writer.drain()
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    return [json.loads(line) for line in answer.splitlines()]


def test_the_control_socket_steers_the_endpoint(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        async with daemons(pair) as (a, b):
            path = a.configuration.control_socket
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            lines: list[dict[str, Any]] = []
            info = await ask(a, "up", name="lab", on_log=lines.append)
            assert info["state"] == "ESTABLISHED"
            assert any("established between" in line["text"] for line in lines)
            (listed,) = (await ask(a, "list"))["ike_sas"]
            assert listed["spi_i"] == info["spi_i"]
            assert listed["children"][0]["packets_out"] == 0
            stats = await ask(b, "stats")
            assert stats["ike_sas"] == {"ESTABLISHED": 1}
            assert stats["io"]["datagrams_received"] == 2
            assert stats["core"]["internal_errors"] == 0
            kept: list[dict[str, Any]] = []
            await ask(a, "log", on_log=kept.append, last=2)
            assert [line["number"] for line in kept] == [len(a.log.records()) - 1, len(a.log.records())]
            assert await ask(a, "rekey", name="lab") == {"name": "lab"}
            (listed,) = (await ask(a, "list"))["ike_sas"]
            assert listed["spi_i"] != info["spi_i"]
            with pytest.raises(IkeError, match="there is no connection or child 'nobody'"):
                await ask(a, "up", name="nobody")
            assert await ask(b, "down", name="lab") == {"name": "lab"}
            assert (await ask(b, "list"))["ike_sas"] == []
        assert not path.exists()

    asyncio.run(scenario())


def test_reload_reads_the_configuration_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        async with daemons(pair) as (a, _):
            assert await ask(a, "reload") == {"added": [], "changed": [], "removed": []}
            pair.connection = {"dpd_delay": "10s"}
            assert await ask(a, "reload") == {"added": [], "changed": ["lab"], "removed": []}
            pair.connection = {"dpd_delay": "soon"}
            with pytest.raises(IkeError, match=r"connections\.lab\.dpd_delay: 'soon' is not a time"):
                await ask(a, "reload")
            assert a.endpoint.config.connections[0].dpd_delay_s == 10.0

    asyncio.run(scenario())


def test_a_connection_with_start_action_comes_up_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path, child={"start_action": "start"})
        async with daemons(pair) as (a, _), asyncio.timeout(30):
            while not any("established" in str(record) for record in a.log.records()):  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(scenario())


def test_the_log_is_followed_until_the_client_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        async with daemons(pair) as (a, _), asyncio.timeout(30):
            reader, writer = await asyncio.open_unix_connection(a.configuration.control_socket)
            writer.write(b'{"command":"log","follow":true,"last":0}\n')
            listeners = len(a.log._listeners)
            while len(a.log._listeners) == listeners:  # noqa: ASYNC110
                await asyncio.sleep(0)
            a.log.log("LIB", "a new line")
            assert json.loads(await reader.readline())["log"]["text"] == "a new line"
            writer.close()
            while len(a.log._listeners) > listeners:  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"hello\n", "the line is not JSON"),
        (b"[1]\n", "the line is not a JSON object"),
        (b"[" * 60_000 + b"\n", "the line is not JSON"),
        (b'{"command":"up"}\n', "`name` is the name of a connection"),
        (
            b'{"command":"dance"}\n',
            "unknown command 'dance'; this control_socket has down, list, log, rekey, reload, stats, up",
        ),
        (b'{"command":"log","last":-1}\n', "`last` is a number of lines"),
        (b"x" * (MAX_REQUEST_OCTETS + 2) + b"\n", f"a request has at most {MAX_REQUEST_OCTETS} octets"),
    ],
    ids=["text", "array", "nested", "nameless", "unknown", "number", "long"],
)
def test_bad_requests_are_answered_in_a_sentence(tmp_path: Path, octets: bytes, message: str) -> None:
    async def scenario() -> None:
        async with daemons(Pair(tmp_path)) as (a, _):
            (reply,) = await speak(a.configuration.control_socket, octets)
            assert reply["ok"] is False
            assert message in reply["error"]
            assert (await ask(a, "list"))["connections"] == ["lab"]

    asyncio.run(scenario())


def test_each_socket_says_what_it_is_to_who_takes_it_for_the_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemons(Pair(tmp_path)) as (a, _):
            agent, control = a.configuration.key_agent_socket, a.configuration.control_socket
            with pytest.raises(IkeError, match="this key_agent_socket has open, secret, close"):
                await asyncio.to_thread(call, agent, "list")
            with pytest.raises(IkeError, match="this control_socket has down, list"):
                await asyncio.to_thread(KeyAgentClient(control).open, "127.0.0.1")

    asyncio.run(scenario())


def test_sockets_are_bound_with_care(tmp_path: Path) -> None:
    with (
        bind_private(tmp_path / "mine"),
        pytest.raises(
            ConfigurationError, match=r"another endpoint is running there; give this one .*key_agent_socket"
        ),
    ):
        bind_private(tmp_path / "mine")
    bind_private(tmp_path / "mine").close()  # what a dead process left is replaced
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="exists and is not a socket"):
        bind_private(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="at most 107 octets"):
        bind_private(tmp_path / ("x" * 120))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write this directory"):
        bind_private(tmp_path / "open" / "socket")
    with pytest.raises(IkeError, match="no endpoint is running at"):
        call(tmp_path / "nobody", "list")


def test_the_key_agent_gives_prf_outputs_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        async with daemons(pair) as (a, b):
            info = await a.endpoint.up("lab", 30)
            path = a.configuration.key_agent_socket
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            spis = (info.spi_i, info.spi_r)
            for sa, derivation, context in (
                (spis, "rfc7717", b"IPPM"),
                ("127.0.0.2", "rfc7717", b"IPPM"),
                (spis, "keymat-sid", bytes(16)),
                (spis, "skd-sid", bytes(range(16))),
            ):
                ours = b.endpoint.exporter.open(spis, derivation, server_is_local=True)
                client = KeyAgentClient(path)
                handle = await asyncio.to_thread(client.open, sa, derivation)
                secret = await asyncio.to_thread(handle.secret, context)
                assert secret == ours.secret(context)
                assert (handle.spi_i, handle.spi_r, handle.prf_name) == (*spis, "hmac-sha2-384")
                assert (handle.local_identity, handle.peer_identity) == ("a.example", "b.example")
                assert handle.child_spi == ours.child_spi
                assert secret.hex() not in repr(handle)
                with pytest.raises(LocalProtocolError):
                    await asyncio.to_thread(handle.secret, b"fifteen octets!")
                handle.close()
                handle.close()
            with pytest.raises(NoSuchSa):
                await asyncio.to_thread(client.open, (bytes(8), bytes(8)))
            with pytest.raises(LocalProtocolError, match="unknown derivation"):
                await asyncio.to_thread(client.open, spis, "sk_d")

    asyncio.run(scenario())


def test_a_key_agents_handle_outlives_its_sa(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemons(Pair(tmp_path)) as (a, _):
            info = await a.endpoint.up("lab", 30)
            handle = await asyncio.to_thread(
                KeyAgentClient(a.configuration.key_agent_socket).open, (info.spi_i, info.spi_r)
            )
            before = await asyncio.to_thread(handle.secret, b"IPPM")
            await a.endpoint.down("lab")
            assert await asyncio.to_thread(handle.secret, b"IPPM") == before
            handle.close()

    asyncio.run(scenario())


class FakeHandle:
    derivation, prf_name, spi_i, spi_r = "rfc7717", "hmac-sha2-256", bytes(8), bytes(8)
    local_identity, peer_identity, peer_address = "a", "b", "192.0.2.1"
    child_spi, label = None, b"IPPM"

    def __init__(self, closed: list[int]) -> None:
        self.closed = closed

    def secret(self, context: bytes) -> bytes:
        return context

    def close(self) -> None:
        self.closed.append(1)


class FakeExporter:
    def __init__(self) -> None:
        self.closed: list[int] = []

    def open(self, sa: object, derivation: str = "", **arguments: object) -> FakeHandle:
        return FakeHandle(self.closed)


def test_the_key_agents_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_agent, "MAX_HANDLES", 2)
    opening = b'{"op":"open","peer":"192.0.2.1"}\n'

    async def scenario() -> None:
        exporter = FakeExporter()
        server = KeyAgentServer(tmp_path / "keys", exporter)
        server.max_connections = 1
        await server.start()
        try:
            replies = await speak(server.path, opening * 3 + b'{"op":"close","handle":1}\n' + opening)
            assert [reply["ok"] for reply in replies] == [True, True, False, True, True]
            assert "at most 2 handles" in replies[2]["error"]
            assert len(exporter.closed) == 3  # one by itself, two with the connection
            _, writer = await asyncio.open_unix_connection(server.path)
            writer.write(opening)
            while not server._tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            (reply,) = await speak(server.path, opening)
            assert "too many connections" in reply["error"]
            writer.close()
        finally:
            await server.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "request_line",
    [
        b'{"op":"secret","handle":7,"context":"00"}',
        b'{"op":"open"}',
        b'{"op":"open","spi_i":"00","spi_r":"00"}',
        b'{"op":"open","peer":5}',
        b'{"op":"open","peer":"x","derivation":5}',
        b'{"op":"sk_d"}',
        b"{",
    ],
)
def test_bad_requests_to_the_key_agent(tmp_path: Path, request_line: bytes) -> None:
    async def scenario() -> None:
        server = KeyAgentServer(tmp_path / "keys", FakeExporter())
        await server.start()
        try:
            (reply,) = await speak(server.path, request_line + b"\n")
            assert reply["ok"] is False
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_an_idle_connection_to_the_key_agent_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_agent, "IDLE_S", 0.01)

    async def scenario() -> None:
        server = KeyAgentServer(tmp_path / "keys", FakeExporter())
        await server.start()
        reader, writer = await asyncio.open_unix_connection(server.path)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
        await server.stop()

    asyncio.run(scenario())


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ikev2.io.notify import sd_notify

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not sd_notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert sd_notify("READY=1")
        assert manager.recv(100) == b"READY=1"
