"""The `ikev2` command: exit statuses, texts for people, JSON, and never a traceback for a person's mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ikev2_pair import free_ports

import ikev2.embedding
from ikev2 import Peer, connection, roundtrip
from ikev2.cli.impairments import ROWS
from ikev2.cli.main import main
from ikev2.cli.show import duration, folded, sa_lines, stats_lines
from ikev2.core.ike_sa import IkeSa
from ikev2.core.impair import ACTIONS, DATAGRAMS
from ikev2.core.info import child_sa_info
from ikev2.core.progress import child_sa_progress, ike_sa_progress
from ikev2.iana import ExchangeType
from ikev2.io.pcap import PcapWriter

COMMANDS = (
    "run",
    "up",
    "down",
    "rekey",
    "list",
    "stats",
    "reload",
    "log",
    "check-config",
    "algorithms",
    "impairments",
    "decode",
)


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
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_every_public_name_is_there() -> None:
    for module in (ikev2, ikev2.embedding):
        assert set(module.__all__) == set(module._WHERE)
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert set(module.__all__) <= set(dir(module))
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_those_who_write_tests_need_about_a_dozen_names() -> None:
    assert len(ikev2.__all__) <= 15
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
        (("--impair", "explode:now"), 2, "impairment 'explode:now': there is no 'explode'"),
        (("--pcap-interface", "lo"), 2, "--pcap-interface needs --pcap FILE"),
        (("--pcap-esp",), 2, "--pcap-esp needs --pcap FILE"),
        (
            ("--pcap-esp", "--pcap", "/dev/null", "--backend", "memory"),
            2,
            "--pcap-esp needs ESP in userspace (--backend userspace), not memory",
        ),
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
            assert listed == {"backend": "memory", "connections": ["lab"], "ike_sas": [], "pools": {}, "traps": []}
            assert invoke("list", "--socket", control).output == "no IKE SA; connections: lab\n"
            assert "backend: memory" in invoke("stats", "--socket", control).output
            assert "backend memory, as configured: " in invoke("log", "--socket", control).output
            assert isinstance(json.loads(invoke("log", "--json", "-n", "1", "--socket", control).output), list)
            unchanged = invoke("reload", "--socket", control)
            assert (unchanged.exit_code, unchanged.output) == (0, "reload: no connection is other than before\n")
            rekey = invoke("rekey", "lab", "--socket", control)
            assert (rekey.exit_code, "no such SA is up" in rekey.stderr) == (1, True)
            second = subprocess.run(
                [sys.executable, "-m", "ikev2", "run", "-c", str(config)],
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert second.returncode == 2
            assert second.stderr.startswith("ikev2: connections.lab.local_addrs: cannot bind UDP 127.0.0.1:")
        finally:
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "WARNING: the keys of every IKE and ESP SA are being written" in stderr
    assert "Traceback" not in stderr
    assert not (directory / "control").exists()
    assert not (directory / "keys").exists()


def listed(sa: IkeSa, now: float) -> dict[str, object]:
    """An entry of the reply of `list`, as the daemon makes it, for backends that count."""
    counted = {"packets_in": 1, "octets_in": 84, "packets_out": 2, "octets_out": 168}
    children = [
        {**child_sa_info(child).to_dict(now), **child_sa_progress(child, now).to_dict(), **counted}
        for child in sa.children.values()
    ]
    return {**sa.info().to_dict(now), **ike_sa_progress(sa, now).to_dict(), "children": children}


def reply(*sas: dict[str, object], **more: object) -> dict[str, object]:
    return {"connections": ["lab"], "ike_sas": list(sas), "pools": {}, "traps": [], **more}


def peers(**words: object) -> tuple[Peer, Peer]:
    a, b = "192.0.2.1", "192.0.2.2"
    ends = [
        connection("lab", psk="x", local_addrs=local, remote_addrs=remote, local_id=name, **words)
        for local, remote, name in ((a, b, "a.example"), (b, a, "b.example"))
    ]
    return Peer(ends[0]), Peer(ends[1])


def test_the_text_of_list() -> None:
    a, b = peers(rand_time=0, reauth_time="1d", encap=True, children={"net": {"rand_time": 0}})
    a.initiate()
    roundtrip(a, b)
    a.advance(200)
    sa = a.sa
    (spi_in,) = sa.children
    assert list(sa_lines(reply(listed(sa, a.now)))) == [
        f"lab: ESTABLISHED, initiator, {sa.spi_i.hex()}_i* {sa.spi_r.hex()}_r",
        "  local  'a.example' @ 192.0.2.1:4500 (behind NAT)",
        "  remote 'b.example' @ 192.0.2.2:4500 (behind NAT)",
        "  aes256gcm16-prfsha384-curve25519, authentication by psk",
        "  established 3m 20s ago, rekeying in 3h 56m, reauthentication in 21h 32m, expires in 6h 20m,"
        " authentication expires in 1d 2h",
        "  fragmentation of datagrams above 576 octets",
        "  net: INSTALLED, TUNNEL, ESP-in-UDP:aes256gcm16",
        "    installed 3m 20s ago, rekeying in 56m 40s, expires in 1h 2m",
        f"    in  {spi_in:08x},     84 octets,     1 packets",
        f"    out {sa.children[spi_in].params.spi_out:08x},    168 octets,     2 packets",
        "    local  192.0.2.1/32",
        "    remote 192.0.2.2/32",
    ]


def test_list_tells_what_is_going_on_and_what_waits() -> None:
    a, b = peers(fragmentation="no")
    half = a.initiate()
    begun = list(sa_lines(reply(listed(half, 0.0))))
    assert "  begun 0s ago" in begun
    assert "  remote (not known yet) @ 192.0.2.2:500" in begun
    roundtrip(a, b)
    (child,) = a.sa.children.values()
    a.manager.rekey_child(child.params, a.now)
    a.ask(ExchangeType.INFORMATIONAL)
    a.advance(3)
    shown = listed(a.sa, a.now)
    assert shown["active_tasks"] == [
        f"CREATE_CHILD_SA 2: rekey the Child SA {child.params.spi_in:08x}, sent 2 times"
    ]
    assert shown["queued_tasks"] == ["ask INFORMATIONAL"]
    assert (shown["next_request_id"], shown["expected_request_id"], shown["fragmentation"]) == (3, 0, False)
    lines = list(sa_lines(reply(shown)))
    assert "  queued: ask INFORMATIONAL" in lines
    assert "  net: REKEYING, TUNNEL, ESP:aes256gcm16" in lines
    roundtrip(a, b)
    a.manager.delete(a.sa, a.now)
    assert listed(a.sa, a.now)["active_tasks"] == ["INFORMATIONAL 5: delete the IKE SA (deleted here)"]
    assert list(sa_lines(reply())) == ["no IKE SA; connections: lab"]


def test_list_shows_what_waits_for_traffic() -> None:
    ends = {
        "local": "192.0.2.1",
        "remote": "192.0.2.2",
        "ts_local": ["192.0.2.1/32"],
        "ts_remote": ["10.0.0.0/8[udp]"],
    }
    text = "\n".join(sa_lines(reply(traps=[{"name": "net", "connection": "lab", "mode": "tunnel", **ends}])))
    assert "net of lab: TRAP, TUNNEL, 192.0.2.1 to 192.0.2.2\n    local  192.0.2.1/32\n" in text
    assert text.endswith("    remote 10.0.0.0/8[udp]")


def test_list_shows_virtual_addresses_and_pools() -> None:
    a, b = peers()
    a.initiate()
    roundtrip(a, b)
    virtual = {"local_vips": ["10.9.0.1", "2001:db8::1"], "remote_vips": ["10.8.0.1"], "dns": ["10.2.0.53"]}
    leases = [
        {"address": "10.8.0.1", "identity": "b", "online": True, "ike_sas": 1},
        {"address": "10.8.0.2", "identity": "c", "online": False, "ike_sas": 0},
    ]
    pools = {"road": {"size": 254, "online": 1, "leases": leases}}
    text = "\n".join(sa_lines(reply({**listed(a.sa, a.now), **virtual}, pools=pools)))
    assert "our virtual addresses 10.9.0.1 2001:db8::1, DNS 10.2.0.53" in text
    assert "the peer's virtual addresses 10.8.0.1" in text
    assert "pool road: 254 addresses, 1 in use\n  10.8.0.1 online 'b'\n  10.8.0.2 offline 'c'" in text


def test_the_text_of_stats() -> None:
    assert list(stats_lines({"a": 1, "b": {"c": 2}, "d": {}})) == ["a: 1", "b:", "  c: 2"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (200, "3m 20s"), (3600, "1h"), (93784, "1d 2h")]
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_long_lines_are_folded_between_words() -> None:
    line = "  remote " + " ".join(f"10.{number}.0.0/16" for number in range(12))
    parts = folded(line, 60)
    assert max(map(len, parts)) <= 60
    assert " ".join(part.strip() for part in parts) == line.strip()
    assert [len(part) - len(part.lstrip()) for part in parts] == [2, 6, 6]
    assert folded("", 60) == [""]
    assert folded("x" * 80, 60) == ["x" * 80]


def test_the_impairments_are_listed_as_the_documentation_has_them() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "impairments.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", page, re.M)
    assert documented == [(row.knob, row.text) for row in ROWS]
    assert {row.action for row in ROWS} == set(ACTIONS)
    assert {row.action for row in ROWS if row.acts_on == "datagram"} == set(DATAGRAMS)
    lines = invoke("impairments").output.splitlines()
    assert max(map(len, lines)) <= 100
    assert "  unprotected                       the payloads go without an Encrypted payload around them" in lines
    assert [row["action"] for row in json.loads(invoke("impairments", "--json").output)] == [r.action for r in ROWS]


def test_the_shell_completes_names_and_knobs(config: Path) -> None:
    """As bash asks: names come from the running endpoint, and there are none without one."""

    def completed(*words: str) -> list[str]:
        line, last = " ".join(("ikev2", *words)), str(len(words))
        environment = {**os.environ, "_IKEV2_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": last}
        command = [sys.executable, "-c", "from ikev2.cli.main import main; main(prog_name='ikev2')"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.stderr == ""
        return [line.split(",")[1] for line in done.stdout.split()]

    assert "impairments" in completed("imp")
    assert completed("run", "--impair", "dup") == ["duplicate:"]
    assert completed("up", "--socket", str(config.parent / "nobody"), "") == []
