"""The `ikev2` command: exit statuses, texts for people, JSON, and never a traceback for a person's mistake."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ikev2_pair import free_ports

import ikev2.embedding
from ikev2.cli.main import main
from ikev2.cli.show import sa_lines, stats_lines
from ikev2.io.pcap import PcapWriter

COMMANDS = ("run", "up", "down", "rekey", "list", "stats", "reload", "log", "check-config", "algorithms", "decode")


def invoke(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def config(tmp_path: Path) -> Path:
    secret = tmp_path / "lab.psk"
    secret.touch(mode=0o600)
    secret.write_text("a secret")
    ike_port, nat_port = free_ports()
    path = tmp_path / "host.toml"
    path.write_text(
        f"""
[connections.lab]
local_addrs = ["127.0.0.1"]
remote_addrs = ["127.0.0.2"]
ike_port = {ike_port}
nat_port = {nat_port}
[connections.lab.children.net]
[secrets.lab]
file = "lab.psk"
[endpoint]
control_socket = "control"
key_agent_socket = "keys"
backend = "memory"
"""
    )
    return path


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output
        assert invoke(command, "--help").exit_code == 0


def test_help_imports_no_heavy_module() -> None:
    code = (
        "import sys; from ikev2.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'cryptography', 'pydantic', 'pyroute2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_every_public_name_is_there() -> None:
    for module in (ikev2, ikev2.embedding):
        assert set(module.__all__) == set(module._WHERE)
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert set(module.__all__) <= set(dir(module))
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_those_who_write_tests_need_about_a_dozen_names() -> None:
    assert len(ikev2.__all__) <= 14
    assert all(name in (ikev2.__doc__ or "") for name in ikev2.__all__)


def test_check_config(config: Path) -> None:
    result = invoke("check-config", config)
    assert (result.exit_code, result.output) == (0, f"{config}: 1 connection, 1 child: OK\n")
    config.write_text(config.read_text().replace("remote_addrs", "remote_adrs").replace("memory", "memry"))
    result = invoke("check-config", config)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert sorted(result.stderr.splitlines()) == [
        "ikev2: connections.lab.remote_adrs: unknown key; did you mean remote_addrs?",
        "ikev2: endpoint.backend: 'memry' is not one of auto, xfrm, userspace, memory, dry-run; did you mean memory?",
    ]


def test_algorithms() -> None:
    text = invoke("algorithms")
    assert text.exit_code == 0
    assert "aes256gcm16" in text.output
    rows = json.loads(invoke("algorithms", "--json").output)
    by_keyword = {(row["type"], row["keyword"]): row for row in rows}
    assert by_keyword["ENCR", "aes256gcm16"]["esp"] == "MUST"
    assert by_keyword["ENCR", "aes192"]["ike"] == "MAY"
    assert by_keyword["ENCR", "null"]["ike"] == ""
    assert by_keyword["PRF", "prfsha256"]["ike"] == "MUST"
    assert by_keyword["INTEG", "sha1"]["ike"] == "MUST-"
    assert by_keyword["KE", "modp2048"]["ike"] == "MUST"
    from ikev2.crypto.keywords import KEYWORDS

    assert {row["keyword"] for row in rows} <= {*KEYWORDS, ""}


def test_decode_of_what_is_no_capture(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    result = invoke("decode", tmp_path / "text")
    assert (result.exit_code, result.stderr) == (2, f"ikev2: {tmp_path}/text: neither a pcap nor a pcapng file\n")
    PcapWriter(tmp_path / "empty").close()
    assert json.loads(invoke("decode", tmp_path / "empty", "--json").output) == []


@pytest.mark.parametrize("command", [("list",), ("stats",), ("reload",), ("log",), ("up", "lab"), ("down", "lab")])
def test_without_an_endpoint_there_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, "--socket", tmp_path / "nobody")
    assert result.exit_code == 1
    assert result.stderr.startswith("ikev2: no endpoint is running at ")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--impair", "explode:now"), 2, "impairment 'explode:now': write drop|duplicate"),
        (("--pcap-interface", "lo"), 2, "--pcap-interface needs --pcap FILE"),
        (("--backend", "magic"), 2, "'magic' is not one of"),
        (("--pcap", "/nowhere/at/all"), 2, "cannot write a capture there"),
    ],
)
def test_mistakes_on_the_command_line_of_run(
    config: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    result = invoke("run", "-c", config, *arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_run_serves_until_it_is_told_to_stop(config: Path) -> None:
    """As a service manager sees it: READY=1, the control socket, the key log's warning, SIGTERM, status 0."""
    directory = config.parent
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "ikev2", "run", "-c", str(config), "--keylog", str(directory / "log"), "-v"],
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert manager.recv(100) == b"READY=1"
            control = directory / "control"
            listed = json.loads(invoke("list", "--json", "--socket", control).output)
            assert listed == {"backend": "memory", "connections": ["lab"], "ike_sas": [], "pools": {}}
            assert invoke("list", "--socket", control).output == "no IKE SA\n"
            assert "backend: memory" in invoke("stats", "--socket", control).output
            assert "backend memory" in invoke("log", "--socket", control).output
            assert isinstance(json.loads(invoke("log", "--json", "-n", "1", "--socket", control).output), list)
            assert invoke("reload", "--socket", control).exit_code == 0
            rekey = invoke("rekey", "lab", "--socket", control)
            assert (rekey.exit_code, "no such SA is up" in rekey.stderr) == (1, True)
            second = subprocess.run(
                [sys.executable, "-m", "ikev2", "run", "-c", str(config)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert second.returncode == 2
            assert second.stderr.startswith("ikev2: connections.lab.local_addrs: cannot bind UDP 127.0.0.1:")
        finally:
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "WARNING: the keys of every IKE and ESP SA are being written" in stderr
    assert "Traceback" not in stderr
    assert not (directory / "control").exists()
    assert not (directory / "keys").exists()


def test_the_texts_of_list_and_stats() -> None:
    child = {
        "name": "net", "suite": "aes256gcm16", "mode": "tunnel", "spi_in": "00001001", "spi_out": "00002002",
        "ts_local": ["192.0.2.1/32"], "ts_remote": ["192.0.2.2/32"], "encap": True, "age_s": 3,
        "packets_in": 1, "octets_in": 84, "packets_out": 2, "octets_out": 168,
    }  # fmt: skip
    sa = {
        "name": "lab", "state": "ESTABLISHED", "role": "responder", "spi_i": "01" * 8, "spi_r": "02" * 8,
        "suite": "aes256gcm16-prfsha384-curve25519", "local": "192.0.2.1:4500", "remote": "192.0.2.2:4500",
        "local_id": "a", "remote_id": "b", "nat_local": True, "nat_remote": False, "age_s": 4, "children": [child],
        "local_vips": ["10.9.0.1", "2001:db8::1"], "remote_vips": ["10.8.0.1"], "dns": ["10.2.0.53"],
    }  # fmt: skip
    leases = [
        {"address": "10.8.0.1", "identity": "b", "online": True, "ike_sas": 1},
        {"address": "10.8.0.2", "identity": "c", "online": False, "ike_sas": 0},
    ]
    pools = {"road": {"size": 254, "online": 1, "leases": leases}}
    text = "\n".join(sa_lines({"ike_sas": [sa], "pools": pools}))
    assert "our virtual addresses 10.9.0.1 2001:db8::1, DNS 10.2.0.53" in text
    assert "the peer's virtual addresses 10.8.0.1" in text
    assert "pool road: 254 addresses, 1 in use\n  10.8.0.1 online 'b'\n  10.8.0.2 offline 'c'" in text
    assert f"{'01' * 8}_i {'02' * 8}_r*" in text
    assert "'a' @ 192.0.2.1:4500 (behind NAT)" in text
    assert "net: TUNNEL, ESP-in-UDP:aes256gcm16" in text
    assert "in  00001001,     84 octets,     1 packets" in text
    assert list(stats_lines({"a": 1, "b": {"c": 2}, "d": {}})) == ["a: 1", "b:", "  c: 2"]
