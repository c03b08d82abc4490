"""Impairments and fragments over real UDP sockets: knobs given to an endpoint and on the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ikev2_pair import Pair

from ikev2.core.impair import Knob
from ikev2.errors import IkeError

FAST = {"retransmit_timeout": "20ms", "retransmit_base": 1, "retransmit_tries": 30}


def knobs(*texts: str) -> list[Knob]:
    return [Knob.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        (["drop:IKE_AUTH:request:1"], []),
        (["bad-icv:IKE_AUTH:request:1"], ["delay:IKE_AUTH:response:1:0.05"]),
        (["duplicate:*:*:*", "replay:IKE_AUTH:request:1"], ["duplicate:*:*:*"]),
        (["add:*:*:*", "reorder:*:*:*"], ["add:*:*:*", "reorder:*:*:*"]),
        (["truncate:IKE_SA_INIT:request:1:9"], ["corrupt:IKE_SA_INIT:response:1:length"]),
        (["padding:*:*:*:64"], ["critical-bit:*:*:*:SA"]),
    ],
)
def test_endpoints_live_with(tmp_path: Path, of_a: list[str], of_b: list[str]) -> None:
    pair = Pair(tmp_path, connection=FAST)

    async def scenario() -> None:
        a, b = pair.endpoint("a", impairments=knobs(*of_a)), pair.endpoint("b", impairments=knobs(*of_b))
        async with pair.running(a, b):
            assert (await a.up("lab", 30)).state == "ESTABLISHED"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("of_a", "of_b", "reason"),
    [
        (["change:IKE_AUTH:request:1:AUTH@4"], [], "AUTHENTICATION_FAILED"),
        (["critical:IKE_AUTH:request:1"], [], "UNSUPPORTED_CRITICAL_PAYLOAD"),
        (["bad-padding:IKE_AUTH:request:1"], [], "INVALID_SYNTAX"),
        (["message-id:IKE_AUTH:request:1"], [], "does not answer"),
        ([], ["change:IKE_AUTH:response:1:AUTH@4"], "AUTH"),
        ([], ["drop:*:*:*"], "does not answer"),
    ],
)
def test_endpoints_refuse(tmp_path: Path, of_a: list[str], of_b: list[str], reason: str) -> None:
    pair = Pair(tmp_path, connection=FAST)

    async def scenario() -> None:
        a, b = pair.endpoint("a", impairments=knobs(*of_a)), pair.endpoint("b", impairments=knobs(*of_b))
        async with pair.running(a, b):
            with pytest.raises(IkeError, match=reason):
                await a.up("lab", 30)

    asyncio.run(scenario())


@pytest.mark.parametrize("encap", [False, True])
def test_fragments_over_sockets(tmp_path: Path, encap: bool) -> None:
    """The first fragment of the request and the last one of the response are lost once."""
    pair = Pair(tmp_path, connection={**FAST, "fragmentation": "force", "fragment_size": 200, "encap": encap})

    async def scenario() -> None:
        a = pair.endpoint("a", impairments=knobs("drop:IKE_AUTH:request:1"))
        b = pair.endpoint("b", impairments=knobs("drop:IKE_AUTH:response:2"))
        async with pair.running(a, b):
            assert (await a.up("lab", 30)).state == "ESTABLISHED"
            assert a.socket_counters()["datagrams_sent"] > 6
            await a.down("lab")

    asyncio.run(scenario())


@contextlib.contextmanager
def running(directory: Path, toml: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ikev2 run` in a process of its own, from when it is ready."""
    path = directory / "b.toml"
    path.write_text(toml)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "ikev2", "run", "-c", str(path), *arguments],
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert manager.recv(100) == b"READY=1"
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def test_knobs_on_the_command_line(tmp_path: Path) -> None:
    """A responder in another process answers with a wrong proof, and says at its start that it will."""
    pair = Pair(tmp_path, connection=FAST)
    pair.configuration("b")  # writes its secret
    toml = f"""
[connections.lab]
local_addrs = ["127.0.0.2"]
remote_addrs = ["127.0.0.1"]
local = {{ id = "b.example" }}
remote = {{ id = "a.example" }}
ike_port = {pair.ports[0]}
nat_port = {pair.ports[1]}
[connections.lab.children.net]
[secrets.lab]
file = "b.psk"
[endpoint]
control_socket = "control"
key_agent_socket = "keys"
backend = "memory"
"""
    knob = "change:IKE_AUTH:response:1:AUTH@4"

    async def scenario() -> None:
        a = pair.endpoint("a")
        async with pair.running(a):
            with pytest.raises(IkeError, match="AUTH"):
                await a.up("lab", 30)
            assert (await a.up("lab", 30)).state == "ESTABLISHED"  # the knob was for the first one

    with running(tmp_path, toml, "--impair", knob) as process:
        asyncio.run(scenario())
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"WARNING: messages are spoiled on purpose: {knob}" in stderr
    assert "Traceback" not in stderr
