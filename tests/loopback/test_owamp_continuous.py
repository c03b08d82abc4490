"""One-way measurement without an end, on loopback, bounded by its own lines. RFC 4656 sections 3.5 to 3.9."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ippm import ConnectionFailed, OwampServer, OwampServerOptions, OwpingOptions, PassphraseProvider, ServerRefused
from ippm.core.schedule import Slot, SlotType, slot_offsets
from ippm.errors import ConfigurationError
from ippm.io.batch import Receiver
from ippm.io.continuous_one_way import packets_of_period, run_continuous_owping
from ippm.io.owamp_client import run_owping
from ippm.io.pacing import StopSignal

COMMAND = [sys.executable, "-m", "ippm"]
SCHEMA = Path(__file__).resolve().parents[2] / "share" / "ippm.schema.json"
OPTIONS = OwampServerOptions(address="127.0.0.1", port=0, test_ports=(27360, 27460), count=1024)
PING = OwpingOptions("127.0.0.1", interval_s=0.004, timeout_s=0.4)
KEYS = PassphraseProvider({"alice": b"correct"}, "alice")


def measured(
    options: OwpingOptions, enough: int = 3, server_options: OwampServerOptions = OPTIONS
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    async def run() -> None:
        server = OwampServer(server_options, KEYS)
        await server.start()
        stop = StopSignal()

        def report(line: dict[str, Any]) -> None:
            lines.append(line)
            if len(lines) >= enough:
                stop.set()

        try:
            async with asyncio.timeout(60):
                await run_continuous_owping(
                    replace(options, port=server.port), KEYS, report=report, period_s=1.0, stop=stop
                )
        finally:
            stop.close()
            await server.stop()

    try:
        asyncio.run(run())
    except ServerRefused:
        assert lines[-1]["ok"] is False
    return lines


@pytest.mark.parametrize(("mode", "exponential"), [("open", True), ("encrypted", False)])
def test_sessions_follow_each_other(mode: str, exponential: bool) -> None:
    *periods, end = measured(replace(PING, mode=mode, exponential=exponential))
    assert [line["kind"] for line in periods] == ["one_way_period"] * len(periods)
    assert [line["period"] for line in periods] == list(range(len(periods)))
    assert len(periods) >= 3
    sids = [session["result"]["sid"] for line in periods for session in line["sessions"]]
    assert len(set(sids)) == len(sids)
    before = {"to": 0, "from": 0}
    for line in periods[:3]:
        assert line["errors"] == []
        assert [session["result"]["direction"] for session in line["sessions"]] == ["to", "from"]
        for session in line["sessions"]:
            result = session["result"]
            assert session["first_sequence"] == before[result["direction"]]
            assert result["mode"] == mode
            before[result["direction"]] += result["sent"] + result["skipped"]
            assert exponential or result["sent"] + result["skipped"] == 250
    assert (end["kind"], end["ok"], end["periods"], end["failed"]) == ("one_way_end", True, len(periods), 0)
    for way in ("to", "from"):
        results = [s["result"] for line in periods for s in line["sessions"] if s["result"]["direction"] == way]
        total = end["total"][way]
        assert total["sessions"] == len(results)
        assert total["sent"] == sum(result["sent"] for result in results) > 0
        assert total["delay"]["count"] == total["received"] == sum(result["received"] for result in results)


@pytest.mark.parametrize("mean_s", [0.05, 1.0, 30.0])
def test_the_two_ways_do_not_part(mean_s: float) -> None:
    """A thousand periods of 10 seconds: both ways start together but for the chance of one period."""
    second = 1 << 32
    starts = {False: 0, True: 0}
    sent = {False: 0, True: 0}
    for number in range(1000):
        counts = packets_of_period(starts, (number + 1) * 10 * second, mean_s * 1e9)
        for way, count in counts.items():
            sid = bytes([way]) + number.to_bytes(15, "big")
            slots = [Slot(SlotType.EXPONENTIAL, int(mean_s * second))]
            starts[way] += next(islice(slot_offsets(slots, sid), count - 1, None))
            sent[way] += count
        apart_s = abs(starts[True] - starts[False]) / second
        # Ten standard deviations of the difference of two sessions as long as a period, or as two packets.
        assert apart_s < 10 * (2 * max(10 * mean_s, 2 * mean_s**2)) ** 0.5
    mean_period_s = starts[False] / second / 1000
    if mean_s <= 10:
        assert mean_period_s == pytest.approx(10, rel=0.01)
    for way, count in sent.items():
        assert starts[way] / second / count == pytest.approx(mean_s, rel=0.15)


def test_fixed_intervals_fill_the_periods() -> None:
    """0.3 s does not go into a second: 3 packets or 4, ten in three periods."""
    third, start, counts = int(0.3 * (1 << 32)), 0, []
    for number in range(6):
        counts.append(packets_of_period({False: start}, (number + 1) << 32, 0.3e9)[False])
        start += counts[-1] * third
    assert counts == [3, 4, 3, 3, 4, 3]


def test_a_run_leaves_nothing_to_be_collected() -> None:
    """The buffers of a receiver are two megabytes: they go with the session, not when garbage is next looked for."""

    async def run() -> None:
        server = OwampServer(OPTIONS, KEYS)
        await server.start()
        try:
            before = receivers()
            await run_owping(replace(PING, port=server.port, count=2))
            assert receivers() == before
        finally:
            await server.stop()

    def receivers() -> int:
        return sum(isinstance(one, Receiver) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_a_session_starts_where_the_last_packet_of_the_one_before_was_due() -> None:
    """With fixed slots the send times of both go on in one grid."""
    *periods, _ = measured(replace(PING, exponential=False, interval_s=0.02, from_server=False))
    one, two = (line["sessions"][0]["result"] for line in periods[:2])
    assert (one["skipped"], two["skipped"]) == (0, 0)
    # 50 packets of each at 20 ms: from the first of one to the first of two is a second, but for how late each was.
    late = max(one["send_error"]["maximum_ns"], two["send_error"]["maximum_ns"])
    assert abs(two["first_sent_unix_ns"] - one["first_sent_unix_ns"] - 1_000_000_000) <= late + 1000


def test_lines_are_what_the_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    *periods, end = json.loads(json.dumps(measured(PING, enough=2)))
    for line, name in (*((line, "one_way_period") for line in periods), (end, "one_way_end")):
        jsonschema.Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{name}"}]}).validate(line)
        jsonschema.Draft202012Validator(schema).validate(line)


def test_a_session_that_the_server_refuses_ends_it_with_what_there_is() -> None:
    """The second period is asked for while the first one runs: one session too many for this server."""
    lines = measured(replace(PING, mode="open"), server_options=replace(OPTIONS, maximum_sessions=2))
    assert lines[-1]["kind"] == "one_way_end"
    assert lines[-1]["ok"] is False
    assert "Accept 5" in lines[-1]["error"]
    assert lines[0]["sessions"][0]["result"]["sent"] > 0


def test_a_server_that_goes_is_an_error_with_a_last_line() -> None:
    lines: list[dict[str, Any]] = []

    async def run() -> None:
        server = OwampServer(OPTIONS)
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
            await run_continuous_owping(replace(PING, port=server.port), report=report, period_s=1.0)

    with pytest.raises(ConnectionFailed):
        asyncio.run(run())
    assert (lines[-1]["kind"], lines[-1]["ok"]) == ("one_way_end", False)
    assert lines[-1]["error"]
    assert lines[-1]["total"]["to"]["sent"] > 0


def test_what_the_reader_of_the_lines_raises_ends_it() -> None:
    async def run() -> None:
        server = OwampServer(OPTIONS)
        await server.start()

        def report(line: dict[str, Any]) -> None:
            raise BrokenPipeError

        try:
            async with asyncio.timeout(60) as limit:
                await run_continuous_owping(replace(PING, port=server.port), report=report, period_s=1.0)
        finally:
            await server.stop()
            assert not limit.expired()

    with pytest.raises(BrokenPipeError):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "period_s", "words"),
    [
        (lambda options: options, 0.5, "period = 0.5"),
        (lambda options: replace(options, exponential=False, interval_s=0), 1.0, "an interval of 0"),
    ],
)
def test_what_has_no_period_is_refused(
    change: Callable[[OwpingOptions], OwpingOptions], period_s: float, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        asyncio.run(run_continuous_owping(change(PING), report=print, period_s=period_s))


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    command = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--owamp-port", "0", "-P", "27500-27599", "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.fullmatch(r"OWAMP server on 127\.0\.0\.1 port (\d+)\n", server.stdout.readline())
        assert match
        yield match[1]
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
        assert "Traceback" not in log


def test_an_interrupt_ends_it_with_the_statistics_so_far(port: str) -> None:
    command = [*COMMAND, "owping", "--continuous", "--period", "1", "-i", "0.005f", "-L", "0.2"]
    with subprocess.Popen(
        [*command, f"127.0.0.1:{port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        first = json.loads(client.stdout.readline())
        client.send_signal(signal.SIGINT)
        out, error = client.communicate(timeout=60)
    assert client.returncode == 0, error
    assert error == ""
    lines = [first, *map(json.loads, out.splitlines())]
    assert (lines[-1]["kind"], lines[-1]["ok"], lines[-1]["periods"]) == ("one_way_end", True, len(lines) - 1)
    assert lines[-1]["total"]["to"]["sent"] >= 200


@pytest.mark.parametrize("arguments", [["-c", "5"], ["-d", "."], ["-Q"], ["-M"]])
def test_options_of_an_end_are_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, "owping", "--continuous", *arguments, "127.0.0.1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == f"ippm: --continuous and {arguments[0]} exclude each other\n"
