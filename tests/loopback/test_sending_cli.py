"""`--io`, `--realtime`, `--no-transmit-stamps` and `--correct-stamps` of the commands, as processes on loopback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ippm.cli.settings import read_server_file
from ippm.errors import ConfigurationError
from ippm.io.test_socket import open_test_socket
from ippm.io.transmit_stamps import open_transmit_stamps

COMMAND = [sys.executable, "-m", "ippm"]
SENDING = {
    "twping": ["-c", "20", "-i", "0.001f", "-L", "0.5"],
    "owping": ["-c", "20", "-i", "0.001f", "-L", "0.3"],
    "light": ["send", "-c", "20", "-i", "0.001f", "-L", "0.5"],
}


def has_stamps() -> bool:
    with open_test_socket("127.0.0.1") as sock:
        return open_transmit_stamps(sock)[0] is not None


STAMPED = "kernel" if has_stamps() else "user"


def ippm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module", params=["portable", "linux"])
def ports(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The ports of servers and a TWAMP Light reflector, each with this `--io` and `--correct-stamps`."""
    how = ["--io", request.param, "--correct-stamps"]
    serve = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "29100-29199", *how]
    light = [*COMMAND, "light", "reflect", "--listen", "127.0.0.1:0", *how]
    with (
        subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server,
        subprocess.Popen(light, stdout=subprocess.PIPE, text=True) as reflector,
    ):
        assert server.stdout is not None
        assert reflector.stdout is not None
        lines = [server.stdout.readline(), server.stdout.readline(), reflector.stdout.readline()]
        found = [re.search(r" port (\d+)\n", line) for line in lines]
        owamp, twamp, alone = (match[1] for match in found if match)
        yield {"owping": owamp, "twping": twamp, "light": alone}
        for process in (server, reflector):
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def results(command: str, port: str, *more: str) -> list[dict[str, Any]]:
    done = ippm(command, *SENDING[command], "--json", *more, f"127.0.0.1:{port}")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    return document["results"] if command == "owping" else [document["result"]]


@pytest.mark.parametrize("command", SENDING)
@pytest.mark.parametrize(
    ("more", "transmit"),
    [
        (["--io", "portable"], STAMPED),
        (["--io", "linux", "--correct-stamps"], STAMPED),
        (["--no-transmit-stamps"], "user"),
    ],
    ids=["portable", "corrected", "user"],
)
def test_every_way_measures(ports: dict[str, str], command: str, more: list[str], transmit: str) -> None:
    first, *_ = results(command, ports[command], *more)
    assert (first["sent"], first["lost"]) == (20, 0)
    stamps = first["stamps"]
    assert stamps["transmit" if command == "owping" else "local_transmit"] == transmit
    assert stamps["transmit_stamped"] == (20 if transmit == "kernel" else 0)
    assert first["send_error"]["count"] == 20
    assert stamps["error_ns"] == (1_000 if transmit == "kernel" else 20_000)


def test_the_clocks_and_the_stamps_are_told_to_a_person(ports: dict[str, str]) -> None:
    done = ippm("twping", *SENDING["twping"], f"127.0.0.1:{ports['twping']}")
    for name in ("send time", "reflect time"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{name} min"))
        assert re.search(r"\((clocks NOT synchronized, )?err=[\d.e+]+ ms\)$", line), line
    assert re.search(r"^stamps: sent by the (kernel|program), received by the kernel, error ", done.stdout, re.M)
    assert re.search(r"^sent late by median/p99/max = ", done.stdout, re.M)


@pytest.mark.parametrize("command", SENDING)
def test_realtime_at_a_rate_without_sleeps_is_one_line(command: str) -> None:
    arguments = ["0.00005f" if word == "0.001f" else word for word in SENDING[command]]
    done = ippm(command, *arguments, "--realtime", "127.0.0.1:9")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "ippm: --realtime: packets 50 us apart: at least 100 us are needed, since 70 us before each packet are spun "
        "away\n"
    )


def test_a_way_that_is_none_is_a_usage_error() -> None:
    done = ippm("twping", "--io", "fast", "127.0.0.1")
    assert done.returncode == 2
    assert "'fast' is not one of 'auto', 'portable', 'linux'" in done.stderr


def test_a_servers_file_says_it_too(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[twamp]\nio = "portable"\ncorrect_stamps = true\n[owamp]\nio = "portable"\n')
    tables = read_server_file(path)
    assert tables.twamp is not None
    assert tables.owamp is not None
    assert (tables.twamp.io, tables.twamp.correct_stamps) == ("portable", True)
    assert (tables.owamp.io, tables.owamp.correct_stamps) == ("portable", False)
    path.write_text('[twamp]\nio = "fast"\n')
    with pytest.raises(ConfigurationError, match=r"server\.toml: twamp\.no way to receive is called 'fast'"):
        read_server_file(path)
