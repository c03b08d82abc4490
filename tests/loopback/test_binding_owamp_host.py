"""OWAMP between two whole hosts in this process: IKE, key exporters, Control, Test and Fetch over real sockets.

The memory backend carries nothing of what these sockets send, so every measurement is outside a tunnel.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ikev2_pair import HOST_A, HOST_B, until
from test_binding_host import Pair, run, running

from binding.agent import RunningHost
from binding.cli import main
from binding.demo_hosts import UnknownSpis
from binding.host import Host, ServingHost, load_host_config
from binding.measurement import OneWayMeasurement, OneWayRequest, measure_one_way
from binding.policy import SaChoice
from binding.provider import IkeKeyProvider
from ikev2.embedding import DaemonOptions, IkeError, MemoryBackend
from ippm import IppmError, OwpingOptions, owping

QUICK: dict[str, Any] = {"count": 5, "interval_s": 0.002, "timeout_s": 0.5, "start_delay_s": 0.02}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def request(pair: Pair, host: Host, **options: Any) -> OneWayRequest:
    how = {"port": pair.owamp, **QUICK, "mode": "encrypted", "require_ikev2": True, **options}
    bit = host.config.measurement.owamp_ikev2_mode
    return OneWayRequest(OwpingOptions(HOST_B, ikev2_bit=bit, **how), host.config.measurement, "bypass")


async def one_way(host: Host, wish: OneWayRequest) -> OneWayMeasurement:
    done = await host.perform(wish)
    assert isinstance(done, OneWayMeasurement)
    return done


@pytest.mark.req("rfc7717-s5.1-01")
@pytest.mark.parametrize("mode", ["authenticated", "encrypted"])
@pytest.mark.parametrize("derivation", ["rfc7717", "keymat-sid", "skd-sid"])
def test_every_mode_and_derivation_both_ways_with_fetched_records(pair: Pair, derivation: str, mode: str) -> None:
    async def scenario() -> None:
        a, b = (
            Host(
                load_host_config(pair.file(role), {"derivation": derivation}),
                MemoryBackend(pair.network),
                serve=role == "b",
            )
            for role in "ab"
        )
        async with running(b, a):
            done = await one_way(a, request(pair, a, mode=mode))
            to, back = done.results
            assert (to.direction, back.direction) == ("to", "from")
            for result in done.results:
                assert (result.sent, result.lost, result.mode) == (5, 0, mode)
                assert result.session.finished == 1
                assert sorted(record.sequence_number for record in result.session.packets) == list(range(5))
            assert (done.mode, done.derivation, done.path) == (mode, derivation, "bypass")
            assert done.ike_sa is not None
            assert done.record is not None
            (there,) = b.providers[0].records
            assert there.fingerprints == done.record.fingerprints
            sids = {result.session.sid.hex() for result in done.results}
            assert {name.split()[1] for name in there.fingerprints if name.startswith("test_keys")} == sids
            assert any(name.startswith("test_secret") for name in there.fingerprints) == (derivation != "rfc7717")
            runs = done.to_dicts()
            assert [(one["protocol"], one["result"]["direction"]) for one in runs] == [
                ("owamp", "to"), ("owamp", "from"),
            ]  # fmt: skip
            assert {one["ike"]["spi_i"] for one in runs} == {done.ike_sa.spi_i.hex()}

    run(scenario)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_one_direction_in_open_mode_needs_no_ike_sa(pair: Pair, direction: str) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            how = {"to_server": direction == "to", "from_server": direction == "from"}
            done = await one_way(a, request(pair, a, mode="open", require_ikev2=False, **how))
            assert [(result.direction, result.lost) for result in done.results] == [(direction, 0)]
            assert (done.derivation, done.ike_sa, done.record) == (None, None, None)
            assert a.sas() == []

    run(scenario)


@pytest.mark.req("rfc7717-s5.1-03")
def test_the_ike_sa_is_deleted_in_the_middle_of_both_sessions_which_go_on_to_their_end(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            sending = asyncio.create_task(one_way(a, request(pair, a, count=200, interval_s=0.005)))
            await until(lambda: b.providers and b.providers[0].records and sum(
                name.startswith("test_keys") for name in b.providers[0].records[-1].fingerprints
            ) == 2, 20)  # fmt: skip
            await a.endpoint.down("lab")
            await until(lambda: not b.sas())
            assert not sending.done()
            done = await sending
            assert [(result.sent, result.lost) for result in done.results] == [(200, 0), (200, 0)]
            assert all(not any(result.rejected.values()) for result in done.results)

    run(scenario)


@pytest.mark.req("rfc7717-s5.3-07", "rfc7717-s5.3-08")
def test_a_refusal_for_want_of_the_sa_is_logged_and_accept_6(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            await a.up("lab")
            client = IkeKeyProvider(UnknownSpis(a.exporter.open(HOST_B)), a.config.measurement.key_options())
            with pytest.raises(IppmError, match="Accept 6"):
                await owping(request(pair, a).destination, client)
            line = next(record for record in caplog.records if "refused: no IKEv2 SA" in record.getMessage())
            assert line.levelno == logging.WARNING
            assert UnknownSpis.SPI_I.hex() in line.getMessage()

    run(scenario)


def test_bit_7_at_both_ends_works_and_at_one_end_alone_is_no_ikev2(pair: Pair) -> None:
    """Reading A6. Nothing weaker is taken in its place."""

    async def scenario() -> None:
        a, b = pair.host("a", "owamp_ikev2_bit = 7"), pair.host("b", "owamp_ikev2_bit = 7")
        async with running(b, a):
            assert [result.lost for result in (await one_way(a, request(pair, a))).results] == [0, 0]
        for ours, theirs in ((4, 7), (7, 4)):
            a, b = pair.host("a", f"owamp_ikev2_bit = {ours}"), pair.host("b", f"owamp_ikev2_bit = {theirs}")
            async with running(b, a):
                with pytest.raises(IppmError, match="IKEv2"):
                    await one_way(a, request(pair, a))
                assert not b.providers[0].records

    run(scenario)


def test_owamp_port_0_serves_twamp_alone(pair: Pair) -> None:
    async def scenario() -> None:
        pair.file("b")
        config = load_host_config(pair.directory / "b.toml", {"owamp_port": 0})
        a, b = pair.host("a"), Host(config, MemoryBackend(pair.network))
        async with running(b, a):
            with pytest.raises(IppmError, match="refused"):
                await one_way(a, request(pair, a, mode="open", require_ikev2=False))
            assert (await a.measure(pair.request(a))).result.lost == 0

    run(scenario)


def test_a_server_with_token_key_auto_logs_what_the_client_uses(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", 'token_key = "truncate16"'), pair.host("b", 'token_key = "auto"')
        async with running(b, a):
            assert [result.lost for result in (await one_way(a, request(pair, a))).results] == [0, 0]

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert "makes its token key by truncate16" in caplog.text


def test_key_count_at_one_end_alone_loses_every_packet_and_the_log_asks_why(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", "key_count = 2"), pair.host("b")
        async with running(b, a):
            done = await one_way(a, request(pair, a))
            assert [(result.sent, result.lost) for result in done.results] == [(5, 5), (5, 5)]
            assert done.results[1].rejected["hmac_mismatch"] == 5

    run(scenario)
    assert "the HMAC of every packet from the server is wrong (key_count differs?)" in caplog.text


def test_another_process_takes_its_keys_from_the_key_agent(pair: Pair) -> None:
    async def scenario() -> None:
        b = pair.host("b")
        config = load_host_config(pair.file("a"))
        a = ServingHost(config, MemoryBackend(pair.network), DaemonOptions())
        a._serve = False
        async with running(b, a):
            await asyncio.to_thread(_as_another_process, config, pair, a)
            text = [record.text for record in a.daemon.log.records()]
            assert any("key agent: opened a rfc7717 handle" in line for line in text)

    run(scenario)


def _as_another_process(config: Any, pair: Pair, host: Host) -> None:
    wish = request(pair, host)
    side = RunningHost(config.file)
    wish = OneWayRequest(wish.destination, config.measurement, "bypass", SaChoice(peer_identity="b.example"))
    done = asyncio.run(measure_one_way(side, wish))
    assert [result.lost for result in done.results] == [0, 0]
    assert done.ike_sa is not None
    assert done.ike_sa.remote_id == "b.example"
    with pytest.raises(IkeError, match="memory backend carries no traffic"):
        asyncio.run(measure_one_way(side, OneWayRequest(wish.destination, config.measurement, "tunnel")))


# The command.


def command(pair: Pair, *arguments: str) -> Result:
    """`ippm-ipsec owping` as a host of its own, in a thread with a loop of its own."""
    words = ["owping", f"{HOST_B}:{pair.owamp}", "-c", str(pair.directory / "a.toml"), "--backend", "memory"]
    return CliRunner().invoke(main, [*words, "-n", "5", "-i", "0.002f", "-L", "0.2", "-z", "0.02", *arguments])


def test_a_directory_that_cannot_be_made_is_told_before_anything_is_measured(pair: Pair) -> None:
    pair.file("a")
    done = command(pair, "-d", "/proc/none")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("ippm-ipsec: -d /proc/none: cannot make the directory: ")


def test_the_command_measures_reports_and_saves(pair: Pair, tmp_path: Path) -> None:
    async def scenario() -> None:
        pair.file("a")
        async with running(pair.host("b")):
            done = await asyncio.to_thread(command, pair, "--json", "-d", str(tmp_path / "saved"))
            assert done.exit_code == 0, done.stderr
            document = json.loads(done.stdout)
            assert document["ok"] is True
            runs = document["runs"]
            assert [one["result"]["direction"] for one in runs] == ["to", "from"]
            for one in runs:
                assert (one["protocol"], one["mode"], one["path"]) == ("owamp", "encrypted", "bypass")
                assert (one["result"]["sent"], one["result"]["lost"]) == (5, 0)
                assert one["result"]["schedule"] == [{"type": "fixed", "parameter_ns": 2_000_000}]
                local = one["result"]["sender" if one["result"]["direction"] == "to" else "receiver"]
                assert local["address"] == HOST_A
                assert 18688 <= local["port"] <= 18751
                saved = (tmp_path / "saved" / f"{one['result']['sid']}.owp").read_bytes()
                assert saved.startswith(b"OWAMPfs2")

            done = await asyncio.to_thread(command, pair, "-t", "--max-delay", "0")
            assert done.exit_code == 3
            assert "5 sent, 0 lost" in done.stdout
            assert "keys by rfc7717" in done.stdout
            assert "median delay" in done.stderr.splitlines()[-1]

    run(scenario)


def test_the_command_says_why_there_is_no_result(pair: Pair) -> None:
    async def scenario() -> None:
        pair.file("a")
        async with running(pair.host("b", "owamp_ikev2_bit = 7")):
            done = await asyncio.to_thread(command, pair, "--json")
            assert done.exit_code == 1
            document = json.loads(done.stdout)
            assert (document["ok"], document["runs"]) == (False, [])
            assert document["error"] in done.stderr.splitlines()[-1]
            done = await asyncio.to_thread(command, pair, "--no-sa", "fail")
            assert done.exit_code == 1
            assert done.stdout == ""
            assert 'no_sa = "fail"' in done.stderr.splitlines()[-1]

    run(scenario)
