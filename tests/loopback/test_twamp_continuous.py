"""Two-way measurement without an end, on loopback, bounded by its own lines. RFC 5357 sections 3.5 to 3.8."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ippm import ConnectionFailed, PassphraseProvider, ServerOptions, TwampServer, TwpingOptions
from ippm.errors import ConfigurationError
from ippm.io.continuous import run_continuous
from ippm.io.pacing import StopSignal

COMMAND = [sys.executable, "-m", "ippm"]
OPTIONS = ServerOptions(address="127.0.0.1", port=0, test_ports=(27760, 27860), count=1024)
PING = TwpingOptions("127.0.0.1", interval_s=0.002, timeout_s=0.8)
KEYS = PassphraseProvider({"alice": b"correct"}, "alice")


class Lines:
    """Takes lines, and stops the measurement when `enough` says so."""

    def __init__(self, stop: StopSignal, enough: int) -> None:
        self.stop = stop
        self.enough = enough
        self.lines: list[dict[str, Any]] = []

    def __call__(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if len(self.lines) >= self.enough:
            self.stop.set()


def measured(options: TwpingOptions, enough: int = 3, **more: Any) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        server = TwampServer(OPTIONS, KEYS)
        await server.start()
        stop = StopSignal()
        lines = Lines(stop, enough)
        try:
            async with asyncio.timeout(60):
                await run_continuous(
                    replace(options, port=server.port), KEYS, report=lines, period_s=0.1, stop=stop, **more
                )
            return lines.lines
        finally:
            stop.close()
            await server.stop()

    return asyncio.run(run())


@pytest.mark.parametrize("mode", ["open", "encrypted"])
@pytest.mark.parametrize("exponential", [False, True])
def test_periods_of_one_session(mode: str, exponential: bool) -> None:
    *periods, end = measured(replace(PING, mode=mode, exponential=exponential))
    assert [line["kind"] for line in periods] == ["period"] * len(periods)
    assert len(periods) >= 3
    assert len({line["sid"] for line in periods}) == 1
    assert periods[0]["mode"] == mode
    sent = 0
    for number, line in enumerate(periods):
        assert line["period"] == number
        assert line["first_sequence"] in (sent, None)
        sent += line["sent"] + line["skipped"]
    assert end["kind"] == "end"
    assert end["ok"] is True
    assert end["total"]["sessions"] == 1
    assert end["total"]["sent"] == sum(line["sent"] for line in periods) > 0
    assert end["total"]["lost"] == 0
    assert end["total"]["delay"]["count"] == end["total"]["received"]


def test_periods_begin_with_the_session_when_that_was_to_begin_later() -> None:
    before = time.time_ns()
    *periods, _ = measured(replace(PING, start_delay_s=0.3))
    assert periods[0]["start_unix_ns"] >= before + 300_000_000 - 1_000
    assert periods[1]["start_unix_ns"] == periods[0]["end_unix_ns"]


def test_one_session_after_the_other_on_one_connection() -> None:
    *periods, end = measured(PING, enough=6, session_packets=20)
    sids = list(dict.fromkeys(line["sid"] for line in periods))
    assert len(sids) == end["total"]["sessions"] > 1
    for sid in sids[:-1]:
        own = [line for line in periods if line["sid"] == sid]
        assert sum(line["sent"] + line["skipped"] for line in own) == 20
        assert own[0]["first_sequence"] == 0


def test_a_server_that_goes_is_an_error_with_a_last_line() -> None:
    lines: list[dict[str, Any]] = []

    async def run() -> None:
        server = TwampServer(OPTIONS)
        await server.start()
        loop = asyncio.get_running_loop()
        going: list[asyncio.Task[None]] = []

        def gone() -> None:
            if not going:
                going.append(asyncio.ensure_future(server.stop()))

        def report(line: dict[str, Any]) -> None:
            lines.append(line)
            loop.call_soon_threadsafe(gone)

        async with asyncio.timeout(60):
            await run_continuous(replace(PING, port=server.port), report=report, period_s=0.1)

    with pytest.raises(ConnectionFailed):
        asyncio.run(run())
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["ok"] is False
    assert lines[-1]["error"]
    assert lines[-1]["total"]["sent"] > 0


def test_a_measurement_that_is_cancelled_has_a_last_line() -> None:
    lines: list[dict[str, Any]] = []

    async def run() -> None:
        server = TwampServer(OPTIONS)
        await server.start()
        loop = asyncio.get_running_loop()
        first = asyncio.Event()

        def report(line: dict[str, Any]) -> None:
            lines.append(line)
            loop.call_soon_threadsafe(first.set)

        measuring = asyncio.ensure_future(
            run_continuous(replace(PING, port=server.port), report=report, period_s=0.1)
        )
        async with asyncio.timeout(60):
            await first.wait()
            measuring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await measuring
            await server.stop()

    asyncio.run(run())
    assert (lines[-1]["kind"], lines[-1]["ok"], lines[-1]["error"]) == ("end", False, "interrupted")


@pytest.mark.parametrize("given", [True, False])
def test_what_the_reader_of_the_lines_raises_ends_it(given: bool) -> None:
    async def run() -> None:
        server = TwampServer(OPTIONS)
        await server.start()
        stop = StopSignal() if given else None

        def report(line: dict[str, Any]) -> None:
            raise BrokenPipeError

        try:
            async with asyncio.timeout(60) as limit:
                await run_continuous(replace(PING, port=server.port), report=report, period_s=0.1, stop=stop)
        finally:
            if stop is not None:
                stop.close()
            await server.stop()
            assert not limit.expired()

    with pytest.raises(BrokenPipeError):
        asyncio.run(run())


def test_a_period_has_a_length() -> None:
    with pytest.raises(ConfigurationError, match="period"):
        asyncio.run(run_continuous(PING, report=print, period_s=0))


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "-P", "27100-27199", "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.fullmatch(r"TWAMP server on 127\.0\.0\.1 port (\d+)\n", server.stdout.readline())
        assert match
        yield match[1]
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
        assert "Traceback" not in log


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_the_statistics_so_far(port: str, ending: signal.Signals) -> None:
    command = [*COMMAND, "twping", "--continuous", "--period", "0.1", "-i", "0.005f", "-L", "0.2"]
    with subprocess.Popen(
        [*command, f"127.0.0.1:{port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        first = json.loads(client.stdout.readline())
        client.send_signal(ending)
        out, error = client.communicate(timeout=60)
    assert client.returncode == 0, error
    assert error == ""
    lines = [first, *map(json.loads, out.splitlines())]
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["ok"] is True
    assert lines[-1]["periods"] == len(lines) - 1
    assert lines[-1]["total"]["sent"] == lines[-1]["total"]["received"] > 0


@pytest.mark.parametrize("arguments", [["-c", "5"], ["--max-loss", "1"], ["-Q"], ["-R"], ["--format", "csv"]])
def test_options_of_an_end_are_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, "twping", "--continuous", *arguments, "127.0.0.1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == f"ippm: --continuous and {arguments[0]} exclude each other\n"
