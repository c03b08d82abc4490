"""`ippm serve`, `owping`, `fetch` and `stats` as processes on loopback: texts, JSON, files, exit status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
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
    """The OWAMP port of a process that serves both."""
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "29300-29399"]
    command += ["-k", str(key_file), "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.fullmatch(r"OWAMP server on 127\.0\.0\.1 port (\d+)\n", server.stdout.readline())
        assert match
        assert server.stdout.readline().startswith("TWAMP server on 127.0.0.1 port ")
        yield match[1]
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "Traceback" not in log
        assert "636f7272656374" not in log


def ippm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def owping(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ippm("owping", "-c", "5", "-i", "0.001f", "-L", "0.2", "-S", "127.0.0.1", *arguments)


def test_text_for_a_person(port: str) -> None:
    done = owping(f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("5 sent, 0 lost (0.000%), 0 duplicates") == 2
    assert done.stdout.count("--- owping statistics from [127.0.0.1]:") == 2
    assert owping("-Q", "-f", f"127.0.0.1:{port}").stdout == ""


def test_one_way_in_json(port: str) -> None:
    done = owping("--json", "-t", "-s", "20", f"127.0.0.1:{port}")
    document = json.loads(done.stdout)
    assert document["ok"]
    (result,) = document["results"]
    assert (result["direction"], result["sent"], result["lost"], result["payload_octets"]) == ("to", 5, 0, 34)
    assert result["clock"]["both_synchronized"] in (True, False)
    assert result["schedule"] == [{"type": "fixed", "parameter_ns": 1_000_000}]


def test_a_registered_stream_has_its_names(port: str) -> None:
    """RFC 8912 section 8: 142 octets every 20 ms, Timeout 3 s."""
    done = ippm("owping", "-t", "-c", "3", "-i", "0.02f", "-L", "3", "-s", "128", f"127.0.0.1:{port}", "--json")
    (result,) = json.loads(done.stdout)["results"]
    assert result["payload_octets"] == 142
    assert len(result["registry_names"]) == 6
    assert all(name.split(".")[0] in result for name in result["registry_names"])
    assert json.loads(owping("--json", "-t", f"127.0.0.1:{port}").stdout)["results"][0]["registry_names"] == {}


def test_other_forms(port: str) -> None:
    raw = owping("-R", "-t", f"127.0.0.1:{port}").stdout.splitlines()
    assert sorted(line.split(" ")[0] for line in raw) == ["0", "1", "2", "3", "4"]
    assert {len(line.split(" ")) for line in raw} == {8}
    assert owping("-M", f"127.0.0.1:{port}").stdout.count("SUMMARY\t3.00\n") == 2
    assert len(owping("--format", "csv", f"127.0.0.1:{port}").stdout.splitlines()) == 3
    assert owping("--format", "openmetrics", f"127.0.0.1:{port}").stdout.count("# EOF\n") == 1
    lines = owping("--format", "pscheduler", f"127.0.0.1:{port}").stdout.splitlines()
    assert [json.loads(line)["packets-received"] for line in lines] == [5, 5]
    assert owping("-v", "-t", f"127.0.0.1:{port}").stdout.count("\nseq_no=") == 5


def test_json_is_what_the_schema_says(port: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(owping("--json", f"127.0.0.1:{port}").stdout), schema)


@pytest.mark.parametrize("directory", ["/proc/none", "/proc", "/dev/null"])
def test_a_directory_that_cannot_be_written_is_told_before_anything_is_measured(directory: str) -> None:
    done = owping("-d", directory, "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"ippm: -d {directory}: ")


def test_the_directory_of_saved_sessions_is_made(port: str, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "before"
    done = owping("-t", "-d", str(directory), f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in directory.iterdir()] == [".owp"]


def test_a_session_is_saved_fetched_and_read_back(port: str, key_file: Path, tmp_path: Path) -> None:
    keys = ("-k", str(key_file), "-u", "alice")
    done = owping(*keys, "-A", "E", "-t", "--json", "-d", str(tmp_path), f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    sid = json.loads(done.stdout)["results"][0]["sid"]
    saved = tmp_path / f"{sid}.owp"
    other = tmp_path / "again"
    done = ippm("fetch", *keys, "-A", "E", "-o", str(other), f"127.0.0.1:{port}", sid)
    assert done.returncode == 0, done.stderr
    assert "5 sent, 0 lost" in done.stdout
    assert other.read_bytes() == saved.read_bytes()
    assert "5 sent, 0 lost" in ippm("stats", str(saved)).stdout
    (read,) = json.loads(ippm("stats", "--json", str(saved)).stdout)["results"]
    assert (read["sid"], read["mode"], read["payload_octets"]) == (sid, "encrypted", 48)
    assert "mode:  encrypted\n" in ippm("stats", str(saved)).stdout
    older = tmp_path / "older"
    older.write_bytes(b"OWAMPfs1" + saved.read_bytes()[16:])
    (read,) = json.loads(ippm("stats", "--json", str(older)).stdout)["results"]
    assert (read["sid"], read["mode"], read["payload_octets"]) == (sid, "unknown", None)
    assert len(ippm("stats", "-R", str(saved)).stdout.splitlines()) == 5
    assert f"SID\t{sid}\n" in ippm("stats", "-M", str(saved)).stdout
    refused = ippm("fetch", "-k", str(key_file), "-u", "bob", "-A", "E", f"127.0.0.1:{port}", sid)
    assert refused.returncode == 1
    assert refused.stderr.startswith("ippm: server refused: Accept 1")
    saved.write_bytes(saved.read_bytes()[:-40])
    assert ippm("stats", str(saved)).returncode == 2


@pytest.mark.parametrize("mode", ["A", "E"])
def test_records_of_every_keyed_mode_are_fetched_whole_and_in_part(
    port: str, key_file: Path, tmp_path: Path, mode: str
) -> None:
    keys = ("-k", str(key_file), "-u", "alice", "-A", mode)
    done = owping(*keys, "-t", "--json", "-d", str(tmp_path), f"127.0.0.1:{port}")
    sid = json.loads(done.stdout)["results"][0]["sid"]
    part = ippm("fetch", *keys, "--begin", "1", "--end", "3", "-R", f"127.0.0.1:{port}", sid.upper())
    assert [line.split()[0] for line in part.stdout.splitlines()] == ["1", "2", "3"]
    told = json.loads(ippm("fetch", *keys, "--begin", "1", "--json", f"127.0.0.1:{port}", sid).stdout)["results"][0]
    assert "only packets 1 to the last were asked for" in told["notes"]
    whole = ippm("fetch", *keys, "-R", f"127.0.0.1:{port}", sid)
    assert whole.stdout == ippm("stats", "-R", str(tmp_path / f"{sid}.owp")).stdout
    # Of several modes the one that was taken is told, and kept in the file.
    several = ("-k", str(key_file), "-u", "alice", "-A", f"O{mode}")
    done = ippm("fetch", *several, "--json", "-o", str(tmp_path / "kept"), f"127.0.0.1:{port}", sid)
    word = {"A": "authenticated", "E": "encrypted"}[mode]
    assert json.loads(done.stdout)["mode"] == word
    assert json.loads(ippm("stats", "--json", str(tmp_path / "kept")).stdout)["mode"] == word
    for others in (("-A", "AE".replace(mode, ""), *keys[:4]), ("-A", "O")):
        refused = ippm("fetch", *others, f"127.0.0.1:{port}", sid)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "for the user who made it, in the mode in which it was made" in refused.stderr


def test_in_open_mode_the_records_go_with_their_connection_and_that_is_said(port: str) -> None:
    sid = json.loads(owping("-t", "--json", f"127.0.0.1:{port}").stdout)["results"][0]["sid"]
    refused = ippm("fetch", f"127.0.0.1:{port}", sid)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "in open mode as long as its Control connection" in refused.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--begin", "3", "--end", "1"], "--begin 3 --end 1: the first is behind the last"),
        (["-o", "/nowhere/at/all"], "-o /nowhere/at/all: there is no such directory"),
        (["-o", "/proc"], "-o /proc: a directory; a file is wanted"),
        (["-o", "/proc/file"], "-o /proc/file: no file can be made in the directory"),
        (["-A", "M"], "OWAMP has no mixed mode"),
    ],
)
def test_a_fetch_that_cannot_be_is_told_before_anybody_is_asked(words: list[str], what: str) -> None:
    done = ippm("fetch", *words, "127.0.0.1:1", "00" * 16)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert what in done.stderr


@pytest.mark.parametrize("mode", ["O", "E"])
def test_a_twamp_server_has_nothing_to_fetch(mode: str, key_file: Path) -> None:
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "-P", "29300-29399", "-k", str(key_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        where = f"127.0.0.1:{server.stdout.readline().split()[-1]}"
        done = ippm("fetch", "-A", mode, "-k", str(key_file), "-u", "alice", where, "00" * 16)
        server.send_signal(signal.SIGTERM)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is this an OWAMP server?" in done.stderr


def test_files_that_are_no_saved_sessions(port: str, tmp_path: Path) -> None:
    done = owping("-t", "-d", str(tmp_path), f"127.0.0.1:{port}")
    assert done.returncode == 0
    (saved,) = tmp_path.iterdir()
    good = saved.read_bytes()
    for octets, what in (
        (None, "No such file or directory"),
        (b"", "this is no saved OWAMP session"),
        (b"hello", "this is no saved OWAMP session"),
        (good[:-1], "the saved session ends before its time"),
        (good + b"x", "1 octets follow the end of the saved session"),
    ):
        saved.unlink(missing_ok=True)
        if octets is not None:
            saved.write_bytes(octets)
        done = ippm("stats", str(saved))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert what in done.stderr


@pytest.mark.parametrize("arguments", [("-A", "M"), ("-4", "-6"), ("-i", "x")])
def test_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    done = owping(*arguments, "127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith("ippm: ")
    assert ippm("fetch", "127.0.0.1", "abc").returncode == 2


def test_ctrl_c_ends_a_run_with_what_there_is(tmp_path: Path) -> None:
    """When records are in the server's files, packets go both ways: the sessions start at one time."""
    serve = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "29400-29409"]
    with subprocess.Popen([*serve, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split()[-1]
        command = [*COMMAND, "owping", "-c", "100000", "-i", "0.001", "-L", "0.1", "--json", f"127.0.0.1:{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            deadline = time.monotonic() + 60
            while not any(path.stat().st_size > 10_000 for path in tmp_path.rglob("*") if path.is_file()):
                assert time.monotonic() < deadline
                assert client.poll() is None
                time.sleep(0.02)
            client.send_signal(signal.SIGINT)
            text, log = client.communicate(timeout=60)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert client.returncode == 0, log
    results = json.loads(text)["results"]
    assert len(results) == 2
    assert all("stopped before its end" in result["notes"] for result in results)
