"""`--impair` of `ippm serve`, `twping` and `owping`: what the other end, which is not impaired, makes of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.pfs"
    path.write_text("alice 636f7272656374\n")
    path.chmod(0o600)
    return path


@contextmanager
def serving(key_file: Path, *knobs: str) -> Iterator[tuple[str, str, list[str]]]:
    """The OWAMP and the TWAMP server, and where the log is at the end."""
    command = [sys.executable, "-m", "ippm", "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0"]
    more = [word for knob in knobs for word in ("--impair", knob)]
    server = subprocess.Popen(
        [*command, "-P", "29800-29899", "-k", str(key_file), "-v", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log: list[str] = []
    assert server.stdout is not None
    try:
        ports = [re.search(r"port (\d+)$", server.stdout.readline().strip()) for _ in range(2)]
        assert all(ports)
        owamp, twamp = (f"127.0.0.1:{port[1]}" for port in ports if port)
        yield owamp, twamp, log
    finally:
        server.send_signal(signal.SIGTERM)
        log += server.communicate(timeout=60)[1].splitlines()
    assert not [line for line in log if "Traceback" in line]


def ippm(command: str, where: str, key_file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["-c", "6", "-i", "0.01f", "-L", "0.3", "-S", "127.0.0.1", "-k", str(key_file), "--json", *more, where]
    return subprocess.run(
        [sys.executable, "-m", "ippm", command, *words], capture_output=True, text=True, timeout=120
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return document["result"] if "result" in document else document["results"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["O", "A", "E"])
def test_packets_of_the_sender(mode: str, key_file: Path) -> None:
    with serving(key_file) as (owamp, twamp, _):
        done = ippm(
            "twping", twamp, key_file, "-A", mode, "--impair", "drop:test:2", "--impair", "duplicate:test:3"
        )
        result = result_of(done)
        assert "ippm: impaired on purpose: drop:test:2" in done.stderr
        assert (result["sent"], result["lost"], result["duplicates"]) == (6, 1, 1)
        result = result_of(ippm("twping", twamp, key_file, "-A", mode, "--impair", "delay:test:2:0.1"))
        assert (result["lost"], result["reordered"]) == (0, 1)
        result = result_of(ippm("twping", twamp, key_file, "-A", mode, "--impair", "multiplier:test:1"))
        assert result["lost"] == 1
        result = result_of(ippm("owping", owamp, key_file, "-t", "-A", mode, "--impair", "drop:test:2"))
        assert (result["sent"], result["lost"]) == (6, 1)


def test_packets_of_the_reflector(key_file: Path) -> None:
    with serving(key_file, "hmac:test:1", "drop:test:3", "truncate:test:4:100") as (_, twamp, log):
        result = result_of(ippm("twping", twamp, key_file, "-A", "E"))
        assert (result["sent"], result["lost"]) == (6, 3)
        assert result["rejected"]["hmac_mismatch"] == 1
    assert [line for line in log if line.startswith("ippm: impaired")] == [
        "ippm: impaired on purpose: hmac:test:1",
        "ippm: impaired on purpose: drop:test:3",
        "ippm: impaired on purpose: truncate:test:4:100",
    ]


def test_control_messages_of_the_client(key_file: Path) -> None:
    with serving(key_file) as (owamp, twamp, log):
        for command, where, message in (
            ("twping", twamp, "request-tw-session"),
            ("owping", owamp, "schedule-slots"),
        ):
            done = ippm(command, where, key_file, "-A", "E", "--impair", f"hmac:{message}:1")
            assert done.returncode == 1
            assert "closed the connection" in done.stderr
    assert len([line for line in log if "HMAC of a Control message does not verify" in line]) == 2


def test_control_messages_of_the_server(key_file: Path) -> None:
    with serving(key_file, "accept:accept-session:1:5", "count:server-greeting:2", "hmac:packet-records:1") as (
        owamp,
        twamp,
        _,
    ):
        done = ippm("twping", twamp, key_file, "-A", "E")
        assert (done.returncode, json.loads(done.stdout)["accept"]) == (1, 5)
        done = ippm("twping", twamp, key_file, "-A", "E")
        assert done.returncode == 1
        assert "the server's Count 1023 is no power of two" in done.stderr
        done = ippm("owping", owamp, key_file, "-t", "-A", "E")
        assert done.returncode == 1
        assert "HMAC" in done.stderr


def test_a_knob_that_is_none_is_told_before_anything_is_done(key_file: Path) -> None:
    done = ippm("twping", "127.0.0.1:1", key_file, "--impair", "hmac:start-session:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is start-sessions meant?" in done.stderr
