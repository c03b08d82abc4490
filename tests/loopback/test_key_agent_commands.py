"""`ippm serve`, `twping` and `owping` with keys by the key agents of two `ikev2 run`, all processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from decoder.twamp_decoder import decode_control
from ikev2_pair import HOST_A, HOST_B, free_ports
from ippm_control_peers import Connected, Pair

from binding.init import host_toml, write_psk
from ikev2.embedding import LocalProtocolError, control_call
from ikev2.io.key_agent import KeyAgentClient
from ippm.core.control_client import ControlClientConfig
from ippm.iana import Mode
from ippm.io.key_agent import KeyAgentProvider


@dataclass
class Endpoints:
    """Two `ikev2 run` with an IKE SA between them, and a third one that knows nobody."""

    directory: Path
    spis: tuple[bytes, bytes]

    def agent(self, role: str) -> Path:
        return self.directory / f"keys.{role}"


@contextmanager
def ikev2_run(directory: Path, role: str, local: str, remote: str, ports: list[int]) -> Iterator[None]:
    """An endpoint, from when it is ready."""
    text = host_toml(f"{role}.example", "b.example" if role == "a" else "a.example", local, remote, "lab.psk")
    own = f"[connections.lab]\nike_port = {ports[0]}\nnat_port = {ports[1]}\nretransmit_timeout = 0.5\n"
    text = text.replace("[connections.lab]\n", own)
    path = directory / f"{role}.toml"
    path.write_text(f'{text}\n[endpoint]\ncontrol_socket = "control.{role}"\nkey_agent_socket = "keys.{role}"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / f"notify.{role}"))
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "ikev2", "run", "-c", str(path), "--backend", "memory"],
            env={**os.environ, "NOTIFY_SOCKET": str(directory / f"notify.{role}")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(100) == b"READY=1"
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def running_endpoints(directory: Path) -> Iterator[Endpoints]:
    ports = free_ports(4)
    write_psk(directory / "lab.psk")
    with ExitStack() as stack:
        for role, local, remote, its in (
            ("a", HOST_A, HOST_B, ports[:2]),
            ("b", HOST_B, HOST_A, ports[:2]),
            ("c", HOST_B, HOST_A, ports[2:]),
        ):
            stack.enter_context(ikev2_run(directory, role, local, remote, its))
        control_call(directory / "control.a", "up", name="lab", timeout_s=30)
        (sa,) = control_call(directory / "control.a", "list", timeout_s=10)["ike_sas"]
        yield Endpoints(directory, (bytes.fromhex(sa["spi_i"]), bytes.fromhex(sa["spi_r"])))


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    with running_endpoints(tmp_path_factory.mktemp("agents")) as made:
        yield made


@contextmanager
def serving(*more: str) -> Iterator[tuple[str, str]]:
    """`ippm serve` on HOST_B: the addresses of its OWAMP and TWAMP servers."""
    command = [sys.executable, "-m", "ippm", "serve", "--listen", f"{HOST_B}:0", "--owamp-port", "0"]
    server = subprocess.Popen(
        [*command, "-P", "29700-29799", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        ports = [re.search(r"port (\d+)$", server.stdout.readline().strip()) for _ in range(2)]
        assert all(ports)
        yield tuple(f"{HOST_B}:{port[1]}" for port in ports if port)  # type: ignore[misc]
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
        assert "Traceback" not in log


def ippm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ippm", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


QUICK = ["-c", "5", "-i", "0.001f", "-L", "0.2", "-S", HOST_A]


def test_both_measure_with_keys_of_the_ike_sa_and_both_ends_have_the_same(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    with serving("--key-agent", str(endpoints.agent("b")), "--keylog", str(tmp_path / "b")) as (owamp, twamp):
        for command, where, mode in (("twping", twamp, "E"), ("twping", twamp, "M"), ("owping", owamp, "A")):
            done = ippm(
                command, *QUICK, "-A", mode, "--key-agent", str(endpoints.agent("a")), "--json",
                "--keylog", str(tmp_path / "a"), where,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            document = json.loads(done.stdout)
            assert (document["ikev2_derived"], document["derivation"]) == (True, "rfc7717")
            assert document["peer_identity"] == "b.example"
            results = document.get("results", [document.get("result")])
            assert all((result["sent"], result["lost"]) == (5, 0) for result in results)
    logs = [(tmp_path / side / "o_twamp_keys").read_text().splitlines()[1:] for side in "ab"]
    assert sorted(logs[0]) == sorted(logs[1])
    assert [line.split()[:3] for line in logs[0] if line.startswith("control")] == [
        ["control", "twamp", "00000084"],
        ["control", "twamp", "00000088"],
        ["control", "owamp", "00000012"],
    ]


def test_the_secret_is_that_of_the_sa_by_the_second_decoder(endpoints: Endpoints) -> None:
    """Each end asks its own agent; the decoder has what ikev2's own client of the agent gives."""
    provider = KeyAgentProvider(endpoints.agent("a"), endpoints.spis)
    pair = Pair(ControlClientConfig(Mode.ENCRYPTED), None, provider, KeyAgentProvider(endpoints.agent("b")))
    pair.run()
    (connected,) = pair.client_events()
    assert isinstance(connected, Connected)
    handle = KeyAgentClient(endpoints.agent("a")).open(endpoints.spis)
    control = decode_control(pair.to_server, pair.to_client, handle.secret(b"IPPM"))
    handle.close()
    assert control.client[0].fields["key_id"] == endpoints.spis[0] + endpoints.spis[1] + bytes(64)


@pytest.mark.parametrize("derivation", ["rfc7717", "skd-sid"])
@pytest.mark.parametrize("context", [b"", b"IPP", b"IPPM2", bytes(15), bytes(17), bytes(32), bytes(64)])
def test_the_agent_refuses_every_other_context(endpoints: Endpoints, derivation: str, context: bytes) -> None:
    handle = KeyAgentClient(endpoints.agent("a")).open(endpoints.spis, derivation)
    with pytest.raises(LocalProtocolError):
        handle.secret(context)
    handle.close()


def test_the_sockets_are_for_their_owner_alone(endpoints: Endpoints) -> None:
    for role in "ab":
        assert stat.S_IMODE(endpoints.agent(role).stat().st_mode) == 0o600


def test_a_server_whose_endpoint_does_not_know_the_sa_answers_accept_6(endpoints: Endpoints) -> None:
    with serving("--key-agent", str(endpoints.agent("c"))) as (owamp, twamp):
        for command, where in (("twping", twamp), ("owping", owamp)):
            done = ippm(command, *QUICK, "--key-agent", str(endpoints.agent("a")), "--json", where)
            assert done.returncode == 1
            assert json.loads(done.stdout)["accept"] == 6
            spis = f"SPIi {endpoints.spis[0].hex()} SPIr {endpoints.spis[1].hex()}"
            assert f"no IKEv2 SA with {spis} at the server" in done.stderr


def test_an_sa_that_our_own_agent_does_not_know_is_said_in_one_line(endpoints: Endpoints) -> None:
    with serving("--key-agent", str(endpoints.agent("b"))) as (_, twamp):
        unknown = "0000000000000001:0000000000000002"
        done = ippm("twping", *QUICK, "--key-agent", str(endpoints.agent("a")), "--ike-sa", unknown, twamp)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert unknown in done.stderr


def test_an_agent_that_is_not_there_yet_and_one_that_goes_away(tmp_path: Path) -> None:
    """Before: Accept 2 for clients of the server, a line for the client's user. After set-up: the session goes on."""
    agent_a, agent_b = tmp_path / "keys.a", tmp_path / "keys.b"
    with serving("--key-agent", str(agent_b)) as (_, twamp), ExitStack() as stack:
        done = ippm("twping", *QUICK, "--key-agent", str(agent_a), twamp)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"no key agent is running at {agent_a}" in done.stderr
        endpoints = stack.enter_context(running_endpoints(tmp_path))
        assert ippm("twping", *QUICK, "--key-agent", str(endpoints.agent("a")), twamp).returncode == 0
        moved = agent_b.rename(tmp_path / "moved")
        done = ippm("twping", *QUICK, "--key-agent", str(endpoints.agent("a")), "--json", twamp)
        assert json.loads(done.stdout)["accept"] == 2
        moved.rename(agent_b)
        long = subprocess.Popen(
            [sys.executable, "-m", "ippm", "twping", "-c", "200", "-i", "0.02f", "-L", "1", "--json", "--key-agent",
             str(endpoints.agent("a")), "--keylog", str(tmp_path / "log"), twamp],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        log = tmp_path / "log" / "o_twamp_keys"
        while not (log.exists() and "\ntest " in log.read_text()):
            assert long.poll() is None
        stack.close()  # both endpoints, their agents and the IKE SA have gone
        document: dict[str, Any] = json.loads(long.communicate(timeout=60)[0])
    assert (document["result"]["sent"], document["result"]["lost"]) == (200, 0)


def test_what_does_not_go_together(endpoints: Endpoints) -> None:
    agent = ["--key-agent", str(endpoints.agent("a"))]
    for words, what in (
        (["--ike-sa", "0000000000000001:0000000000000002"], "--ike-sa names an IKE SA of a key agent"),
        (["--prefer", "ikev2"], "--prefer chooses between"),
        ([*agent, "--prefer", "ikev2"], "--prefer chooses between"),
        ([*agent, "-A", "O"], "open mode has no keys"),
        ([*agent, "--ike-sa", "1:2"], "SPIi:SPIr are wanted"),
    ):
        done = ippm("twping", *words, "127.0.0.1:1")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert what in done.stderr
