"""Configuration files with faults that nobody makes on purpose: each is a line, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ikev2.cli.config import load
from ikev2.cli.main import main
from ikev2.cli.secrets import read_secret
from ikev2.cli.selectors import parse_duration
from ikev2.errors import ConfigurationError

GOOD = """
[connections.lab]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.2"]
local = { id = "a.example" }
remote = { id = "b.example" }
[secrets.lab]
file = "lab.psk"
"""

FAULTS = {
    "arrays without end": ("a = " + "[" * 20_000 + "]" * 20_000, "not TOML"),
    "number without end": ("a = " + "9" * 5000, "not TOML"),
    "secret's file with NUL": (GOOD.replace("lab.psk", "lab\\u0000psk"), "secrets.lab.file: "),
    "control socket with NUL": (GOOD + '[endpoint]\ncontrol_socket = "a\\u0000b"\n', "endpoint.control_socket: "),
    "key agent's socket with NUL": (
        GOOD + '[endpoint]\nkey_agent_socket = "a\\u0000b"\n',
        "endpoint.key_agent_socket: ",
    ),
    "identity with a newline": (GOOD.replace("a.example", "a\\nb"), "connections.lab.local.id: "),
    "identity that is not ASCII": (GOOD.replace("a.example", "b\u00fccher"), "connections.lab.local.id: "),
    "name with an escape": (
        GOOD.replace("connections.lab", 'connections."\\u001b[2J"').replace("[secrets", "x = 1\n[secrets"),
        "connections.\\x1b[2J.x: ",
    ),
    "local name": (GOOD.replace('"192.0.2.1"', '"host.example"'), "connections.lab.local_addrs.0: "),
    "local network": (GOOD.replace('"192.0.2.1"', '"192.0.2.0/24"'), "connections.lab.local_addrs.0: "),
    "remote with NUL": (GOOD.replace('"192.0.2.2"', '"a\\u0000b"'), "connections.lab.remote_addrs.0: "),
    "remote network that is none": (
        GOOD.replace('"192.0.2.2"', '"192.0.2.0/33"'),
        "connections.lab.remote_addrs.0: ",
    ),
    "time without end": (
        GOOD.replace("[secrets", f'dpd_delay = "{"9" * 400}d"\n[secrets'),
        "connections.lab.dpd_delay: ",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_is_one_line_and_status_2(tmp_path: Path, kind: str) -> None:
    text, wanted = FAULTS[kind]
    secret = tmp_path / "lab.psk"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    path = tmp_path / "host.toml"
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["check-config", str(path)])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if wanted in line]
    assert lines
    assert all(line.startswith("ikev2: ") and line.isprintable() for line in result.stderr.splitlines())


def test_the_file_that_the_faults_are_made_of_is_good(tmp_path: Path) -> None:
    secret = tmp_path / "lab.psk"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    path = tmp_path / "host.toml"
    for good in (
        GOOD,
        GOOD.replace('"192.0.2.1"', '"%any"'),
        GOOD.replace('"192.0.2.1"', '"2001:db8::1", "192.0.2.1"'),
        GOOD.replace('"192.0.2.2"', '"198.51.100.0/24", "peer.example", "%any", "2001:db8::/32"'),
    ):
        path.write_text(good)
        assert CliRunner().invoke(main, ["check-config", str(path)]).exit_code == 0


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000 + "d", "11y", "4000d"])
def test_time_has_an_end(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_duration(text)
    assert parse_duration("3660d") == 3660 * 86400


@pytest.mark.req("rfc7296-s2.15-01", "rfc7296-s2.15-03")
@pytest.mark.parametrize("octets", [1, 64, 65, 1024])
def test_shared_secret_is_taken_as_it_stands_or_in_hex(tmp_path: Path, octets: int) -> None:
    """Every printable ASCII character, as many as anybody wants, and no terminator behind them."""
    text = (bytes(range(33, 127)) * 11)[:octets]
    path = tmp_path / "psk"
    path.touch(mode=0o600)
    for content in (text + b"\n", text, b"0x" + text.hex().encode() + b"\n"):
        path.write_bytes(content)
        assert read_secret(path, "PSK").octets == text


@pytest.mark.req("rfc7296-s2.4-01")
@pytest.mark.parametrize(("line", "said"), [("", True), ('unique = "no"', True), ('unique = "never"', False)])
def test_unique_never_is_for_an_identity_that_several_hosts_share(tmp_path: Path, line: str, said: bool) -> None:
    secret = tmp_path / "lab.psk"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    path = tmp_path / "host.toml"
    path.write_text(GOOD.replace("[secrets", f"{line}\n[secrets"))
    (connection,) = load(path).endpoint.connections
    assert connection.send_initial_contact is said
