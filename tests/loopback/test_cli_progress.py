"""Progress of a long run: on a terminal, and nowhere else."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

COMMAND = [sys.executable, "-m", "ippm"]
LONG = ["-c", "22", "-i", "0.1f", "-L", "0.2"]


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[str, str]]:
    """Those of OWAMP and TWAMP."""
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "27300-27399"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = [re.search(r"port (\d+)\n", server.stdout.readline()) for _ in range(2)]
        assert found[0]
        assert found[1]
        yield found[0][1], found[1][1]
        server.send_signal(signal.SIGTERM)


def on_a_terminal(*arguments: str, term: str = "xterm", interrupted: bool = False) -> tuple[str, str]:
    """stdout, which is a pipe, and what a terminal got as stderr."""
    main, other = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=other, text=True, env={**os.environ, "TERM": term}
    ) as client:
        os.close(other)
        assert client.stdout is not None
        first = ""
        if interrupted:
            first = client.stdout.readline()
            client.send_signal(signal.SIGINT)
        got = b""
        try:
            while octets := os.read(main, 4096):
                got += octets
        except OSError:  # EIO: the other end of the terminal is closed
            pass
        finally:
            os.close(main)
        out = first + client.stdout.read()
    assert client.returncode == 0, got
    return out, got.decode()


def test_a_long_run_on_a_terminal(ports: tuple[str, str]) -> None:
    out, shown = on_a_terminal("twping", "--json", *LONG, f"127.0.0.1:{ports[1]}")
    assert json.loads(out)["result"]["sent"] == 22
    assert "measuring" in shown
    assert "of about 2 s" in shown
    _, shown = on_a_terminal("owping", "-t", *LONG, f"127.0.0.1:{ports[0]}")
    assert "of about 3 s" in shown


def test_a_measurement_without_an_end_tells_what_it_counted(ports: tuple[str, str]) -> None:
    options = ["--continuous", "--period", "0.1", "-i", "0.01f", "-L", "0.1"]
    out, shown = on_a_terminal("twping", *options, f"127.0.0.1:{ports[1]}", interrupted=True)
    assert json.loads(out.splitlines()[-1])["kind"] == "end"
    assert "measuring" in shown


@pytest.mark.parametrize(("arguments", "term"), [(["-c", "2"], "xterm"), (["-Q", *LONG], "xterm"), (LONG, "dumb")])
def test_nothing_is_shown(ports: tuple[str, str], arguments: list[str], term: str) -> None:
    assert on_a_terminal("twping", *arguments, f"127.0.0.1:{ports[1]}", term=term)[1] == ""


def test_nothing_is_shown_where_there_is_no_terminal(ports: tuple[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "twping", "--json", *LONG, f"127.0.0.1:{ports[1]}"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FORCE_COLOR": "1"},
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["ok"] is True
