"""Two whole hosts in this process on loopback: IKE, key exporters and TWAMP over real sockets.

The memory backend carries nothing of what these sockets send, so every measurement is outside a tunnel.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ikev2_pair import HOST_A, HOST_B, free_ports, until
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from binding.agent import RunningHost, runs_at
from binding.cli import main
from binding.demo_hosts import UnknownSpis
from binding.derivation import Derivation
from binding.host import Host, ServingHost, load_host_config
from binding.init import host_toml, write_psk
from binding.measurement import Measurement, MeasureRequest, OneWayRequest, WithoutEnd, measure
from binding.policy import SaChoice
from binding.provider import IkeKeyProvider
from binding.twping import present
from ikev2.embedding import (
    BackendError,
    Bypass,
    DaemonOptions,
    IkeError,
    MemoryBackend,
    MemoryNetwork,
    NoSuchSa,
    control_call,
)
from ippm import Form, IppmError, NoSecret, OwpingOptions, StopSignal, TwpingOptions, twping
from ippm.io.sender_loop import run_sender

QUICK = {"count": 5, "interval_s": 0.002, "timeout_s": 1.5}


class Pair:
    """The files of hosts A and B, on ports of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ike, self.nat, self.twamp, self.second, self.owamp = free_ports(5)
        self.network = MemoryNetwork()
        write_psk(directory / "lab.psk")

    def file(self, role: str, measurement: str = "", extra: str = "") -> Path:
        local, remote = (HOST_A, HOST_B) if role == "a" else (HOST_B, HOST_A)
        ports = f"ike_port = {self.ike}\nnat_port = {self.nat}\nretransmit_timeout = 0.5"
        text = host_toml(f"{role}.example", "b.example" if role == "a" else "a.example", local, remote, "lab.psk")
        text = text.replace("[connections.lab]\n", f"[connections.lab]\n{ports}\n")
        path = self.directory / f"{role}.toml"
        sockets = f'[endpoint]\ncontrol_socket = "control.{role}"\nkey_agent_socket = "keys.{role}"\n'
        path.write_text(f"{text}port = {self.twamp}\nowamp_port = {self.owamp}\n{measurement}\n{extra}\n{sockets}")
        return path

    def host(
        self, role: str, measurement: str = "", backend: MemoryBackend | None = None, **arguments: Any
    ) -> Host:
        config = load_host_config(self.file(role, measurement))
        return Host(config, backend or MemoryBackend(self.network), serve=role == "b", **arguments)

    def request(self, host: Host, **options: Any) -> MeasureRequest:
        wish = host.config.measurement
        how = {"port": self.twamp, **QUICK, "mode": "encrypted", "require_ikev2": True, **options}
        return MeasureRequest(TwpingOptions(HOST_B, **how), wish, "bypass")


@asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    started: list[Host] = []
    try:
        for host in hosts:
            await host.start()
            started.append(host)
        yield
    finally:
        for host in reversed(started):
            await host.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("mode", ["authenticated", "encrypted", "mixed"])
@pytest.mark.parametrize("derivation", ["rfc7717", "keymat-sid", "skd-sid"])
def test_every_mode_and_derivation(pair: Pair, derivation: str, mode: str) -> None:
    async def scenario() -> None:
        how = {"derivation": derivation, "mode": mode}
        client, server = (
            Host(load_host_config(pair.file(role), how), MemoryBackend(pair.network), serve=role == "b")
            for role in "ab"
        )
        async with running(server, client):
            done = await client.measure(pair.request(client, mode=mode))
            assert (done.result.sent, done.result.lost) == (5, 0)
            assert (done.mode, done.derivation) == (mode, derivation)
            assert done.ike_sa is not None
            assert done.record is not None
            (there,) = server.providers[0].records
            assert there.fingerprints == done.record.fingerprints
            assert there.spi_i == done.ike_sa.spi_i.hex() == done.record.spi_i

    run(scenario)


@pytest.mark.req("rfc7717-s5.1-03")
def test_the_ike_sa_is_deleted_in_the_middle_of_a_session_which_goes_on_to_its_end(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            sending = asyncio.create_task(a.measure(pair.request(a, count=200, interval_s=0.005)))
            # Accept-Session has come when the keys of the session have been made at both ends.
            await until(lambda: b.providers and b.providers[0].records and any(
                name.startswith("test_keys") for name in b.providers[0].records[-1].fingerprints
            ), 20)  # fmt: skip
            await a.endpoint.down("lab")
            await until(lambda: not b.sas())
            assert not sending.done()  # a second's worth of packets is still to be sent
            done = await sending
            assert (done.result.sent, done.result.lost) == (200, 0)
            assert done.result.rejected == {}

    run(scenario)


@pytest.mark.parametrize(("grace", "accepted"), [("60s", True), ("0s", False)])
def test_sa_grace_of_the_file_reaches_the_exporter(pair: Pair, grace: str, accepted: bool) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b", f'sa_grace = "{grace}"')
        async with running(b, a):
            await a.up("lab")
            secret = a.provider(a.config.measurement.key_options()).for_client(HOST_B, "twamp")
            await a.endpoint.down("lab")
            await until(lambda: not b.sas())
            if accepted:
                b.providers[0].for_server(secret.key_id, True, HOST_A, "twamp").close()
            else:
                with pytest.raises(NoSecret) as caught:
                    b.providers[0].for_server(secret.key_id, True, HOST_A, "twamp")
                assert caught.value.accept == 6

    run(scenario)


def test_label_of_the_file_reaches_the_exporter_and_must_be_the_same_at_both_ends(pair: Pair) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", 'label = "LAB"'), pair.host("b", 'label = "LAB"')
        async with running(b, a):
            assert a.exporter.label == b"LAB"
            assert (await a.measure(pair.request(a))).result.lost == 0
        a, b = pair.host("a", 'label = "LAB"'), pair.host("b")
        async with running(b, a):
            with pytest.raises(IppmError, match="Accept 1"):
                await a.measure(pair.request(a))

    run(scenario)


def test_key_count_at_one_end_alone_loses_every_packet_and_the_servers_log_asks_why(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", "key_count = 2"), pair.host("b")
        async with running(b, a):
            done = await a.measure(pair.request(a, timeout_s=0.5))
            assert (done.result.sent, done.result.lost) == (5, 5)
            await until(lambda: "key_count differs?" in caplog.text, 60)
        assert "hmac_mismatch (key_count differs?) 5" in caplog.text

    with caplog.at_level(logging.INFO):
        run(scenario)


@pytest.mark.parametrize("rule", ["pbkdf2", "truncate16"])
def test_a_server_with_token_key_auto_logs_what_the_client_uses(
    pair: Pair, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", f'token_key = "{rule}"'), pair.host("b", 'token_key = "auto"')
        async with running(b, a):
            assert (await a.measure(pair.request(a))).result.lost == 0

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert f"makes its token key by {rule}" in caplog.text


@pytest.mark.req("rfc7717-s5.3-07", "rfc7717-s5.3-08")
def test_a_refusal_for_want_of_the_sa_is_logged_and_accept_6(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            await a.up("lab")
            handle = a.exporter.open(HOST_B)
            client = IkeKeyProvider(UnknownSpis(handle), a.config.measurement.key_options())
            with pytest.raises(IppmError, match="Accept 6"):
                await twping(pair.request(a).destination, client)
            line = next(record for record in caplog.records if "refused: no IKEv2 SA" in record.getMessage())
            assert line.levelno == logging.WARNING
            assert UnknownSpis.SPI_I.hex() in line.getMessage()
            assert UnknownSpis.SPI_R.hex() in line.getMessage()

    run(scenario)


def test_two_servers_of_one_host_have_derivations_of_their_own(pair: Pair) -> None:
    async def scenario() -> None:
        table = f'[[measurement.servers]]\nport = {pair.second}\nderivation = "skd-sid"'
        pair.file("b", extra=table)
        b = Host(load_host_config(pair.directory / "b.toml"), MemoryBackend(pair.network))
        a = pair.host("a")
        async with running(b, a):
            assert (await a.measure(pair.request(a))).result.lost == 0
            with pytest.raises(IppmError, match="Accept 1"):
                await a.measure(pair.request(a, port=pair.second))
            draft = a.config.measurement.model_copy(update={"derivation": Derivation.SKD_SID})
            done = await a.measure(replace(pair.request(a, port=pair.second), measurement=draft))
            assert (done.result.lost, done.derivation) == (0, "skd-sid")

    run(scenario)


# The host as a service.


def test_control_socket_and_key_agent_show_another_process_what_the_host_has(pair: Pair) -> None:
    async def scenario() -> None:
        b = pair.host("b")
        config = load_host_config(pair.file("a"))
        a = ServingHost(config, MemoryBackend(pair.network), DaemonOptions())
        assert not runs_at(config.file.control_socket)
        async with running(b):
            await a.start()
            try:
                assert await asyncio.to_thread(runs_at, config.file.control_socket)
                await asyncio.to_thread(_as_another_process, config, pair)
                mine, seen = a.sas(), await asyncio.to_thread(RunningHost(config.file).sas)
                assert [sa.spis for sa in seen] == [sa.spis for sa in mine]
                assert [sa.children for sa in seen] == [sa.children for sa in mine]
                assert (seen[0].remote_id, seen[0].proposal, seen[0].auth) == (
                    mine[0].remote_id, mine[0].proposal, mine[0].auth,
                )  # fmt: skip
                logging.getLogger("ippm-ipsec").warning("a line of the O/TWAMP side")
                text = [record.text for record in a.daemon.log.records()]
                assert "ippm-ipsec: a line of the O/TWAMP side" in text
                assert any("key agent: opened a rfc7717 handle" in line for line in text)
            finally:
                await a.stop()
        assert not runs_at(config.file.control_socket)
        logging.getLogger("ippm-ipsec").warning("after the end")
        assert all("after the end" not in record.text for record in a.daemon.log.records())

    run(scenario)


def _as_another_process(config: Any, pair: Pair) -> None:
    """What `ippm-ipsec twping` does beside a running host, in a loop of its own."""
    side = RunningHost(config.file)
    assert side.backend_name == "memory"
    assert [connection.name for connection in side.connections] == ["lab"]
    options = TwpingOptions(HOST_B, pair.twamp, mode="encrypted", require_ikev2=True, **QUICK)
    wish = MeasureRequest(options, config.measurement, "bypass", SaChoice(peer_identity="b.example"))
    done = asyncio.run(measure(side, wish))
    assert done.result.lost == 0
    assert done.ike_sa is not None
    assert done.ike_sa.remote_id == "b.example"
    tunnel = MeasureRequest(options, config.measurement, "tunnel")
    with pytest.raises(IkeError, match="memory backend carries no traffic"):
        asyncio.run(measure(side, tunnel))
    unknown = MeasureRequest(options, config.measurement, "bypass", SaChoice(spis=(bytes(8), bytes(8))))
    with pytest.raises(NoSuchSa):
        asyncio.run(measure(side, unknown))


def test_what_answers_nonsense_at_the_control_socket_is_an_error_in_one_line(pair: Pair) -> None:
    async def scenario() -> None:
        config = load_host_config(pair.file("a"))

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b'{"ok": true, "result": {"backend": "x", "connections": [], "ike_sas": [{}]}}\n')
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(nonsense, config.file.control_socket):
            with pytest.raises(IkeError, match="makes no sense"):
                await asyncio.to_thread(RunningHost(config.file).sas)

    run(scenario)


def test_reload_takes_new_connections_and_a_faulty_file_changes_nothing(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path = pair.file("a")
        a = ServingHost(
            load_host_config(path),
            MemoryBackend(pair.network),
            DaemonOptions(),
            lambda: load_host_config(path).file,
        )
        await a.start()
        try:
            good = path.read_text()
            path.write_text(good.replace('path = "bypass"', 'path = "sideways"'))
            await a.reload()
            assert "stays as it was: measurement.path" in caplog.text
            path.write_text(good.replace("connections.lab", "connections.other"))
            await a.reload()
            listed = await asyncio.to_thread(control_call, a.config.file.control_socket, "list")
            assert listed["connections"] == ["other"]
        finally:
            await a.stop()

    run(scenario)


def test_a_host_that_cannot_start_leaves_nothing_open(pair: Pair) -> None:
    async def scenario() -> None:
        b = pair.host("b")
        with socket.create_server((HOST_B, pair.twamp)), pytest.raises(IppmError, match=f"port {pair.twamp}"):
            await b.start()
        with pytest.raises(IkeError, match="not running"):
            _ = b.endpoint.exporter
        async with running(pair.host("b")):  # the same IKE ports, the same TCP port
            pass

    run(scenario)


# Bypass.


class Recording(MemoryBackend):
    """A backend that tells what was asked to bypass, and refuses when told to."""

    def __init__(self, network: MemoryNetwork, *, refuse: bool = False) -> None:
        super().__init__(network)
        self.refuse = refuse
        self.asked: list[Bypass] = []

    def add_bypass(self, bypass: Bypass) -> None:
        self.asked.append(bypass)
        if self.refuse:
            raise BackendError("no room for a policy")


@pytest.mark.parametrize(("path", "policies"), [("bypass", 2), ("both", 2), ("tunnel", 0)])
def test_a_pair_of_hosts_has_its_bypass_once_unless_all_goes_into_the_tunnel(
    pair: Pair, path: str, policies: int
) -> None:
    async def scenario() -> None:
        backend = Recording(pair.network)
        pair.file("a")
        config = load_host_config(pair.directory / "a.toml", {"path": path})  # as --path does
        a, b = Host(config, backend, serve=False), pair.host("b")
        async with running(b, a):
            for _ in range(2):
                await a.up("lab")
                await a.endpoint.down("lab")
        assert len(backend.asked) == policies
        assert {bypass.ip_protocol for bypass in backend.asked} <= {6, 17}
        assert all((bypass.local, bypass.remote) == (HOST_A, HOST_B) for bypass in backend.asked)
        assert all(bypass.ports == (18688, 18751) for bypass in backend.asked)

    run(scenario)


def test_a_bypass_that_cannot_be_made_is_an_error_in_the_log_and_no_end(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        a, b = pair.host("a", backend=Recording(pair.network, refuse=True)), pair.host("b")
        async with running(b, a):
            await a.up("lab")
            assert len(a.sas()) == 1

    run(scenario)
    assert "no room for a policy" in caplog.text


@pytest.mark.req("rfc7717-s1-01")
@pytest.mark.parametrize(("prefer", "derivation"), [("ikev2", "rfc7717"), ("passphrase", None)])
def test_where_both_can_be_had_the_preferred_key_is_taken(pair: Pair, prefer: str, derivation: str | None) -> None:
    """With passphrases beside the IKE SA; a passphrase brings no IKE SA up. Reading A34."""
    (pair.directory / "keys.pfs").write_text("alice 636f7272656374\nbob 686f727365\n")
    (pair.directory / "keys.pfs").chmod(0o600)
    words = f'key_file = "keys.pfs"\nkey_id = "bob"\nprefer = "{prefer}"\nrequire_ikev2 = false'

    async def scenario() -> None:
        a, b = pair.host("a", words), pair.host("b", 'key_file = "keys.pfs"')
        async with running(b, a):
            done = await a.measure(pair.request(a, require_ikev2=False))
            assert (done.result.sent, done.result.lost) == (5, 0)
            assert (done.mode, done.derivation) == ("encrypted", derivation)
            assert len(a.sas()) == (1 if prefer == "ikev2" else 0)
            assert bool(b.providers[0].records) == (prefer == "ikev2")

    run(scenario)


def test_without_an_ike_sa_a_passphrase_stands_in_when_it_may(pair: Pair) -> None:
    """`no_sa = "fallback"` with passphrases: the keyed mode stays. RFC 7717 section 5.1."""
    (pair.directory / "keys.pfs").write_text("alice 636f7272656374\n")
    (pair.directory / "keys.pfs").chmod(0o600)
    words = 'key_file = "keys.pfs"\nno_sa = "fallback"\nrequire_ikev2 = false'

    async def scenario() -> None:
        a, b = pair.host("a", words), pair.host("b", 'key_file = "keys.pfs"')
        async with running(b, a):
            done = await a.measure(pair.request(a, require_ikev2=False))
            assert (done.mode, done.derivation, done.result.lost) == ("encrypted", None, 0)
            assert not a.sas()

    run(scenario)


def test_a_key_id_that_the_key_file_does_not_have(pair: Pair) -> None:
    (pair.directory / "keys.pfs").write_text("alice 636f7272656374\n")
    (pair.directory / "keys.pfs").chmod(0o600)

    async def scenario() -> None:
        a = pair.host(
            "a", 'key_file = "keys.pfs"\nkey_id = "mallory"\nprefer = "passphrase"\nrequire_ikev2 = false'
        )
        async with running(a):
            with pytest.raises(IppmError, match="no passphrase for mallory"):
                await a.measure(pair.request(a, require_ikev2=False))

    run(scenario)


def test_a_measurement_is_printed_in_every_form_that_ippm_has(pair: Pair) -> None:
    """The forms themselves are ippm's, and judged there."""

    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            done = await a.measure(pair.request(a))
            wish = a.config.measurement
            port = pair.owamp
            options = OwpingOptions(HOST_B, port=port, mode="encrypted", count=5, schedule=((False, 0.002),),
                                    timeout_s=0.5, require_ikev2=True)  # fmt: skip
            one_way = await a.perform(OneWayRequest(options, wish, "bypass"))

        def text(*measurements: Any, **form: Any) -> str:
            return "".join(present(measurements, Form(**form)))

        both = (done, one_way)
        assert "path bypass, encrypted mode, keys by" in text(*both)
        assert text(*both).count("5 sent, 0 lost") == 3
        assert text(done, verbose=True).count("seq_no") == 5
        assert [line.split()[0] for line in text(done, kind="raw").splitlines()] == ["0", "1", "2", "3", "4"]
        assert len(text(one_way, kind="raw").splitlines()) == 10
        assert text(*both, kind="machine").count("SUMMARY\t3.00") == 3
        rows = list(csv.DictReader(io.StringIO(text(*both, kind="csv"))))
        assert [(row["sent"], row["lost"]) for row in rows] == [("5", "0")] * 3
        families = list(text_string_to_metric_families(text(*both, kind="openmetrics")))
        (sent,) = [family for family in families if family.name == "ippm_sent_packets"]
        assert [sample.value for sample in sent.samples] == [5.0] * 3
        latency = [json.loads(line) for line in text(one_way, kind="pscheduler").splitlines()]
        assert [one["packets-received"] for one in latency] == [5, 5]

    run(scenario)


@pytest.mark.parametrize("protocol", ["twamp", "owamp"])
def test_a_measurement_without_an_end_goes_on_until_it_is_stopped(pair: Pair, protocol: str) -> None:
    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        stop, lines = StopSignal(), list[dict[str, Any]]()

        def report(line: dict[str, Any]) -> None:
            lines.append(line)
            if len(lines) == 2:
                stop.set()

        wish = WithoutEnd(report, 1.0)
        async with running(b, a):
            if protocol == "twamp":
                how = await a.perform_without_end(pair.request(a, interval_s=0.02, timeout_s=3.0), wish, stop)
            else:
                options = OwpingOptions(HOST_B, port=pair.owamp, mode="encrypted", interval_s=0.02, timeout_s=3.0,
                                        require_ikev2=True)  # fmt: skip
                how = await a.perform_without_end(
                    OneWayRequest(options, a.config.measurement, "bypass"), wish, stop
                )
        stop.close()
        kinds = [line["kind"] for line in lines]
        one = "period" if protocol == "twamp" else "one_way_period"
        assert kinds[:2] == [one, one]
        assert (kinds[-1], lines[-1]["ok"]) == (one.replace("period", "end"), True)
        total = lines[-1]["total"] if protocol == "twamp" else lines[-1]["total"]["to"]
        assert (total["sent"] > 40, total["lost"]) == (True, 0)
        assert how.ike_sa is not None
        told = how.circumstances_dict(protocol)
        assert (told["derivation"], told["mode"], told["path"]) == ("rfc7717", "encrypted", "bypass")
        assert told["ike"]["spi_i"] == how.ike_sa.spi_i.hex()

    run(scenario)


def test_a_stop_ends_a_measurement_with_what_there_is(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first packet is to be sent."""
    stop = StopSignal()

    def stop_and_send(*arguments: Any, **named: Any) -> Any:
        stop.set()
        return run_sender(*arguments, **named)

    monkeypatch.setattr("ippm.io.twamp_client.run_sender", stop_and_send)

    async def scenario() -> None:
        a, b = pair.host("a"), pair.host("b")
        async with running(b, a):
            done = await a.perform(pair.request(a, count=10_000, interval_s=1.0), stop)
            assert isinstance(done, Measurement)
            assert done.result.sent < 10_000
            assert "stopped before its end" in done.result.notes

    run(scenario)
    stop.close()


def test_a_stop_ends_the_wait_for_an_ike_sa(pair: Pair) -> None:
    """B is not there: the retransmissions would go on for a while."""

    async def scenario() -> None:
        a = pair.host("a")
        async with running(a):
            stop = StopSignal()
            waiting = asyncio.create_task(a.perform(pair.request(a), stop))
            await asyncio.sleep(0)
            stop.set()
            with pytest.raises(IppmError, match="interrupted before the measurement began"):
                await waiting
            stop.close()

    run(scenario)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--continuous", "-n", "5"], "--continuous and -n exclude each other"),
        (["--continuous", "--max-loss", "5"], "--continuous and --max-loss exclude each other"),
        (["--continuous", "-R"], "--continuous and -R exclude each other"),
        (["--continuous", "--path", "both"], "--continuous is on one path"),
        (["--period", "5"], "--period is that of --continuous"),
        (["--impair", "drop:nothing:1"], "there is no message 'nothing'"),
    ],
)
@pytest.mark.parametrize("command", ["owping", "twping"])
def test_options_of_a_measurement_without_an_end(pair: Pair, command: str, words: list[str], what: str) -> None:
    result = CliRunner().invoke(main, [command, HOST_B, "-c", str(pair.file("a")), *words])
    assert result.exit_code == 2
    assert what in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "words", "what"),
    [
        ("twping", ["-R", "-M"], "exclude each other"),
        ("owping", ["--json", "--format", "csv"], "exclude each other"),
        ("twping", ["--format", "pscheduler"], "its latency result is one-way"),
        ("owping", ["-R", "--packets"], "--packets is for text and for pscheduler"),
        ("twping", ["-a", "101"], "percentiles from 0 to 100"),
    ],
)
def test_forms_that_do_not_go_together(pair: Pair, command: str, words: list[str], what: str) -> None:
    result = CliRunner().invoke(main, [command, HOST_B, "-c", str(pair.file("a")), *words])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert what in result.stderr
