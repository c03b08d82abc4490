"""`ippm serve` and `ippm twping` as processes on loopback: texts, JSON, exit status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "ippm"]
SCHEMA = Path(__file__).resolve().parents[2] / "share" / "ippm.schema.json"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.pfs"
    path.write_text("alice 636f7272656374\nbob 686f727365\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def port(key_file: Path) -> Iterator[str]:
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "-P", "29000-29099", "-k", str(key_file), "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        match = re.fullmatch(r"TWAMP server on 127\.0\.0\.1 port (\d+)\n", line)
        assert match, line
        yield match[1]
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "correct" not in log
        assert "636f7272656374" not in log
        assert "set up in encrypted mode" in log
        assert "Traceback" not in log


def ippm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def twping(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "twping", "-c", "5", "-i", "0.001f", "-L", "0.5", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_text_for_a_person(port: str) -> None:
    done = twping(f"127.0.0.1:{port}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "5 sent, 0 lost" in done.stdout
    assert twping("-Q", f"127.0.0.1:{port}").stdout == ""


def test_json_is_one_document(port: str, key_file: Path) -> None:
    done = twping("--json", "-k", str(key_file), "-u", "bob", f"127.0.0.1:{port}")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["mode"] == "encrypted"
    assert document["ikev2_derived"] is False
    assert document["result"]["sent"] == 5
    assert document["result"]["lost"] == 0
    assert isinstance(document["result"]["delay"]["median_ns"], int)


def test_other_forms(port: str) -> None:
    raw = twping("-R", f"127.0.0.1:{port}").stdout.splitlines()
    assert [line.split(" ")[0] for line in raw] == ["0", "1", "2", "3", "4"]
    assert {len(line.split(" ")) for line in raw} == {16}
    assert twping("-M", f"127.0.0.1:{port}").stdout.startswith("SUMMARY\t3.00\nSID\t")
    assert twping("--format", "csv", f"127.0.0.1:{port}").stdout.splitlines()[0].startswith("sid,direction,")
    assert twping("--format", "openmetrics", f"127.0.0.1:{port}").stdout.endswith("# EOF\n")
    text = twping("-v", "-n", "u", "-a", "99.9", f"127.0.0.1:{port}").stdout
    assert text.count("\nseq_no=") == 5
    assert re.search(r"\n\t99\.9: [0-9.]+ us\n$", text)
    assert twping("-R", "-Q", f"127.0.0.1:{port}").stdout == ""


def test_json_is_what_the_schema_says(port: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(twping("--json", f"127.0.0.1:{port}").stdout), schema)
    features = twping("--json", "--feature", "dscp-ecn", f"127.0.0.1:{port}")
    jsonschema.validate(json.loads(features.stdout), schema)
    jsonschema.validate(json.loads(twping("--json", "127.0.0.1:1").stdout), schema)


def test_letters(port: str, key_file: Path) -> None:
    done = twping(
        "--json", "-A", "A", "-k", str(key_file), "-u", "alice", "-s", "10", "--equal-size", "-Z", "-D", "10", "-4",
        "-S", "127.0.0.1", "-P", "29200-29299", "-z", "0.01", f"127.0.0.1:{port}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result["mode"] == "authenticated"
    assert result["payload_octets"] == 48 + 64
    assert result["dscp"] == 10
    assert 29200 <= result["local"]["port"] <= 29299
    assert 29000 <= result["remote"]["port"] <= 29099


def test_a_refusal_is_exit_status_1_and_one_line(port: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pfs"
    wrong.write_text("alice 77726f6e67\n")
    wrong.chmod(0o600)
    done = twping("-k", str(wrong), f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ippm: server refused: Accept 1 (failure, reason unspecified")
    assert done.stderr.count("\n") == 1
    done = twping("--json", "-k", str(wrong), f"127.0.0.1:{port}")
    assert json.loads(done.stdout)["accept"] == 1
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-k", "/nonexistent", "host"], "/nonexistent: No such file or directory"),
        (["-A", "X", "host"], "no security mode is called"),
        (["-4", "-6", "host"], "exclude each other"),
        (["-i", "x", "host"], "interval"),
        (["-P", "9-1", "host"], "first and last port"),
        (["host:port"], "is not HOST"),
        (["-u", "alice", "host"], "no terminal to ask at"),
        (["-A", "AE", "host"], "-A: authenticated, encrypted needs keys: a passphrase (-u NAME, -k FILE)"),
        (["-B", "nosuch", "127.0.0.1:1"], "ippm: -B nosuch: No such device"),
        (["-D", "64", "host"], "64 is not in the range"),
        (["-R", "--json", "host"], "exclude each other"),
        (["-v", "-M", "host"], "-v is for text"),
        (["-a", "101", "host"], "percentiles from 0 to 100"),
        (["--format", "pscheduler", "host"], "latency result is one-way"),
        ([], "Missing argument"),
    ],
)
def test_usage_is_exit_status_2(arguments: list[str], said: str) -> None:
    done = twping(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("address", "why"), [("nosuch.invalid", ""), ("192.0.2.77", "Cannot assign requested")])
def test_an_address_that_is_not_ours_is_blamed_and_not_the_server(address: str, why: str) -> None:
    done = ippm("twping", "-S", address, "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"ippm: {address} is no address to send from: {why}")
    assert "Unknown error" not in done.stderr


@pytest.mark.parametrize("command", [["twping"], ["owping"], ["fetch"]])
def test_a_failure_is_one_document_of_json_and_accept_is_the_servers_alone(
    command: list[str], tmp_path: Path
) -> None:
    sid = ["00" * 16] if command == ["fetch"] else []
    done = ippm(*command, "--json", "127.0.0.1:1", *sid)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["ok"], document["accept"]) == (False, None)
    assert done.stderr == f"ippm: {document['error']}\n"


def test_keys_that_are_missing_here_are_no_answer_of_the_server(port: str, tmp_path: Path) -> None:
    done = ippm("twping", "--json", "--key-agent", str(tmp_path / "none"), f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert json.loads(done.stdout)["accept"] is None


def test_which_of_several_keyids_is_asked_before_the_server_is(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice 636f\nbob 686f\n")
    keys.chmod(0o600)
    done = ippm("twping", "-k", str(keys), "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (2, f"ippm: {keys}: 2 KeyIDs are in it: say which one, -u NAME\n")


@pytest.mark.parametrize(("octets", "why"), [("c3a9", "is not ASCII"), ("610a", "has a newline in it")])
def test_a_forbidden_passphrase_is_told_with_its_file(tmp_path: Path, octets: str, why: str) -> None:
    """RFC 4656 section 3.1, RFC 5357 section 3.1."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice {octets}\n")
    keys.chmod(0o600)
    for words in (
        ["twping", "-k", str(keys), "127.0.0.1:1"],
        ["serve", "--listen", "127.0.0.1:0", "-k", str(keys)],
    ):
        done = ippm(*words)
        assert (done.returncode, done.stderr) == (2, f"ippm: {keys}: the passphrase of KeyID 'alice' {why}\n")


@pytest.mark.parametrize("words", [["-A", "E"], ["-A", "AEM"]])
def test_a_server_that_has_no_mode_to_offer_does_not_start(words: list[str]) -> None:
    done = ippm("serve", "--listen", "127.0.0.1:0", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "needs keys: a key file (-k FILE, key_file) or --key-agent SOCKET" in done.stderr


def test_thresholds_are_exit_status_3(port: str) -> None:
    done = twping("--max-delay", "0", f"127.0.0.1:{port}")
    assert done.returncode == 3
    assert "5 sent" in done.stdout
    assert "more than 0 ms" in done.stderr
    assert twping("--max-delay", "10000", "--max-loss", "0", f"127.0.0.1:{port}").returncode == 0


def test_an_interrupt_stops_and_reports(port: str) -> None:
    command = [*COMMAND, "twping", "-c", "100000", "-i", "0.01f", f"127.0.0.1:{port}", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        # Its session is open when its UDP socket is: then the interrupt comes in the midst of it.
        sockets = Path(f"/proc/{client.pid}/net/udp")
        while client.poll() is None and not _has_udp_peer(sockets, client.pid):
            pass
        client.send_signal(signal.SIGINT)
        out, error = client.communicate(timeout=60)
    assert client.returncode == 0, error
    document = json.loads(out)
    assert document["result"]["sent"] < 100000
    assert "stopped before its end" in document["result"]["notes"]


def _has_udp_peer(table: Path, pid: int) -> bool:
    """Whether the process has a connected UDP socket: the sender connects it just before the first packet."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(entry.readlink()))
        except OSError:
            continue
    for line in table.read_text().splitlines()[1:]:
        words = line.split()
        if f"socket:[{words[9]}]" in inodes and words[2] != "00000000:0000":
            return True
    return False


def test_serve_with_a_configuration_file(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[twamp]\naddress = "127.0.0.1"\nport = 0\nmodes = "O"\nmaximum = 3\n')
    done = subprocess.run(
        [*COMMAND, "serve", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert done.stderr == f"ippm: {config}: twamp.maximum: not known\n"


def test_help_imports_neither_asyncio_nor_cryptography() -> None:
    code = (
        "import sys, ippm.cli.main; print([m for m in ('asyncio', 'cryptography', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n"
