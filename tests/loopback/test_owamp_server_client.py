"""An OWAMP server and client on loopback: real sockets, threads and files. RFC 4656."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ippm_control_peers import derived_provider, passphrases

from ippm.core.control_events import Endpoint
from ippm.core.fetched_session import FetchedSession
from ippm.core.limits import LimitUsage
from ippm.core.owamp_client import OwampWish
from ippm.core.owamp_events import AllStopped
from ippm.crypto import KeyProvider, PassphraseProvider
from ippm.errors import ConfigurationError, ConnectionFailed, IppmError, ServerRefused
from ippm.iana import OWAMP_PORT, Accept, Mode
from ippm.io.clock import now_ntp
from ippm.io.limit_tables import parse_limits
from ippm.io.owamp_client import OwampTcpClient, fetch, owping, run_owping, slots_of
from ippm.io.owamp_options import OwampServerOptions, OwpingOptions
from ippm.io.owamp_server import OwampServer
from ippm.io.pacing import StopSignal
from ippm.report.one_way import format_one_way
from ippm.timestamps import ntp_add_ns
from ippm.wire.stop_descriptions import SessionDescription

OPTIONS = OwampServerOptions(address="127.0.0.1", port=0, test_ports=(28300, 28699), count=1024)
PING = OwpingOptions(
    "127.0.0.1", count=20, interval_s=0.001, timeout_s=0.5, start_delay_s=0.05, local_address="127.0.0.1"
)


@asynccontextmanager
async def serving(
    options: OwampServerOptions = OPTIONS, provider: KeyProvider | None = None
) -> AsyncIterator[OwampServer]:
    server = OwampServer(options, provider)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def both_ways(server: OwampServer, packets: int, *, sending: bool = True) -> None:
    """Until the server has received so many packets, and sent as many."""

    def passed() -> list[int]:
        assert server._receivers is not None
        assert server._senders is not None
        counts = [channel.session.received for channel in server._receivers._by_sid.values()]
        return counts + [stream.session.sent for stream in server._senders._streams.values()]

    await until(lambda: len(passed()) == 1 + sending and min(passed()) >= packets)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


@pytest.mark.req("rfc4656-s3.7-04")
@pytest.mark.parametrize("mode", ["open", "authenticated", "encrypted"])
def test_a_thousand_packets_each_way(mode: str) -> None:
    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            options = replace(PING, port=server.port, mode=mode, count=1000, interval_s=0.0005, padding=30)
            ran = await run_owping(options, passphrases())
            assert ran.errors == ()
            assert len(ran.results) == 2
            for result in ran.results:
                assert (result.sent, result.lost, result.duplicates) == (1000, 0, 0)
                assert result.mode == mode
                assert result.session.finished == 1
                assert result.delay is not None
                assert result.delay.minimum > 0
                assert result.session.next_seqno == 1000
                assert sorted(p.sequence_number for p in result.session.packets) == list(range(1000))
                assert {p.ttl for p in result.session.packets} == {255}
                schedule = result.session.schedule
                start = result.session.request.start_time
                assert all(
                    p.send_timestamp >= start + schedule.offset(p.sequence_number) - (1 << 22)
                    for p in result.session.packets
                )
                assert "1000 sent, 0 lost" in format_one_way(result)
            assert len(ran.sent.session.late_ns) == 1000
            await until(lambda: server.sessions == 0)

    run(test)


@pytest.mark.parametrize("mode", ["authenticated", "encrypted"])
def test_a_session_with_a_derived_key(mode: str) -> None:
    async def test() -> None:
        client_side = derived_provider()
        async with serving(provider=derived_provider()) as server:
            options = replace(PING, port=server.port, mode=mode, require_ikev2=True)
            ran = await run_owping(options, client_side)
            assert ran.connected.ikev2_derived
            assert [result.lost for result in ran.results] == [0, 0]
            assert client_side.given[0].closed == 1

    run(test)


@pytest.mark.parametrize(("to", "back"), [(True, False), (False, True)])
def test_one_way_alone(to: bool, back: bool) -> None:
    async def test() -> None:
        async with serving() as server:
            options = replace(PING, port=server.port, to_server=to, from_server=back, exponential=False)
            results = await owping(options)
            assert [result.direction for result in results] == (["to"] if to else ["from"])
            assert results[0].lost == 0

    run(test)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, address="::1")) as server:
            results = await owping(replace(PING, host="::1", port=server.port, local_address="::1"))
            assert [result.lost for result in results] == [0, 0]
            assert {packet.ttl for packet in results[0].session.packets} == {255}

    run(test)


def test_a_schedule_of_several_slots() -> None:
    async def test() -> None:
        async with serving() as server:
            schedule = ((True, 0.002), (False, 0.0), (False, 0.001))
            results = await owping(replace(PING, port=server.port, schedule=schedule, count=30))
            assert [result.sent for result in results] == [30, 30]
            assert len(results[0].session.request.slots) == 3

    run(test)


def test_a_start_in_the_servers_past_is_told_at_both_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        ahead = lambda: ntp_add_ns(now_ntp(), 3600 * 10**9)  # noqa: E731
        monkeypatch.setattr("ippm.io.control_server.now_ntp", ahead)
        async with serving() as server:
            with pytest.raises(
                ServerRefused, match=r"Accept 3 .*; a start at 2.*Z by this host's clock was asked for"
            ):
                await owping(replace(PING, port=server.port))
        words = (
            r"Accept 3: the Start Time is 3(599|600)\.\d s in the past, and so is the whole session; do the clocks"
        )
        assert re.search(words, caplog.text)

    caplog.set_level("INFO")
    run(test)


class TestStored:
    def test_a_keyed_session_is_fetched_again_by_its_user_and_nobody_else(self) -> None:
        async def test() -> None:
            users = PassphraseProvider({"alice": "correct horse", "bob": "battery"}, "alice")
            async with serving(provider=users) as server:
                options = replace(PING, port=server.port, mode="encrypted", from_server=False)
                ran = await run_owping(options, users)
                assert ran.to_server is not None
                sid = ran.to_server.sid
                again, mode = await fetch(options, sid, users)
                assert mode.word == options.mode
                assert again == ran.to_server
                part, _ = await fetch(options, sid, users, begin=3, end=5)
                assert [packet.sequence_number for packet in part.packets] == [3, 4, 5]
                bob = PassphraseProvider({"alice": "correct horse", "bob": "battery"}, "bob")
                for other, provider in ((options, bob), (replace(options, mode="authenticated"), users)):
                    with pytest.raises(ServerRefused):
                        await fetch(other, sid, provider)
                with pytest.raises(ServerRefused):
                    await fetch(replace(options, mode="open"), sid)

        run(test)

    @pytest.mark.req("rfc4656-s6.5-04")
    def test_an_open_session_goes_with_its_connection(self) -> None:
        async def test() -> None:
            async with serving() as server:
                await owping(replace(PING, port=server.port))
                await until(lambda: server.connections == 0)
                await until(lambda: server.stored == 0)

        run(test)

    def test_sessions_outlive_the_server_in_a_directory(self, tmp_path: Path) -> None:
        async def test() -> None:
            options = replace(OPTIONS, directory=str(tmp_path))
            async with serving(options, passphrases()) as server:
                ping = replace(PING, port=server.port, mode="authenticated", from_server=False)
                ran = await run_owping(ping, passphrases())
            assert ran.to_server is not None
            async with serving(options, passphrases()) as server:
                again, _ = await fetch(replace(ping, port=server.port), ran.to_server.sid, passphrases())
            assert again == ran.to_server

        run(test)

    @pytest.mark.req("rfc4656-s6.5-01")
    def test_the_disk_has_a_limit(self) -> None:
        async def test() -> None:
            async with serving(replace(OPTIONS, open_disk_octets=60_000)) as server:
                options = replace(PING, port=server.port, from_server=False)
                await owping(options)
                with pytest.raises(ServerRefused) as refused:
                    await owping(replace(options, count=2000))
                assert refused.value.accept == 4

        run(test)

    @pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s3.3-01")
    def test_a_class_has_its_own_disk_and_a_line_says_which_is_full(self, caplog: pytest.LogCaptureFixture) -> None:
        async def test() -> None:
            tables = {"root": {}, "small": {"parent": "root", "disk": 60_000}}
            usage = LimitUsage(parse_limits(tables, {"default": "small", "user": {"bob": "root"}}))
            users = PassphraseProvider({"alice": "correct horse", "bob": "battery"}, "alice")
            async with serving(replace(OPTIONS, usage=usage), users) as server:
                options = replace(PING, port=server.port, mode="encrypted", from_server=False)
                ran = await run_owping(options, users)
                assert ran.to_server is not None
                # A session in progress counts the room that it may need, an ended one its two files.
                await until(lambda: usage.used("small", "disk") == 2 * 4096 == usage.used("root", "disk"))
                for count, accept in ((2000, Accept.PERMANENT_LIMITATION), (900, Accept.TEMPORARY_LIMITATION)):
                    with pytest.raises(ServerRefused) as refused:
                        await owping(replace(options, count=count), users)
                    assert refused.value.accept == accept
                assert "Accept 4: class small: disk is limited to 60000 octets, 94208 are asked for" in caplog.text
                assert "Accept 5: class small: disk is limited to 60000 octets, 8192 are taken" in caplog.text
                bob = PassphraseProvider({"alice": "correct horse", "bob": "battery"}, "bob")
                await owping(replace(options, count=2000, interval_s=0.0001), bob)

        run(test)

    def test_what_a_class_has_on_the_disk_is_counted_when_the_server_starts_again(self, tmp_path: Path) -> None:
        async def test() -> None:
            limits = parse_limits({"small": {"disk": 60_000}}, {"default": "small"})
            options = replace(OPTIONS, directory=str(tmp_path))
            for number in (1, 2):
                usage = LimitUsage(limits)
                async with serving(replace(options, usage=usage), passphrases()) as server:
                    assert usage.used("small", "disk") == (number - 1) * 2 * 4096
                    ping = replace(PING, port=server.port, mode="authenticated", from_server=False)
                    await run_owping(ping, passphrases())

        run(test)

    def test_delete_on_fetch(self) -> None:
        async def test() -> None:
            usage = LimitUsage(parse_limits({"root": {"delete_on_fetch": "on"}}, {"default": "root"}))
            async with serving(replace(OPTIONS, usage=usage), passphrases()) as server:
                options = replace(PING, port=server.port, mode="encrypted", from_server=False)
                ran = await run_owping(options, passphrases())
                assert ran.to_server is not None
                await until(lambda: server.stored == 0)
                assert usage.used("root", "disk") == 0
                with pytest.raises(ServerRefused):
                    await fetch(options, ran.to_server.sid, passphrases())

        run(test)

    def test_a_temporary_directory_goes_with_the_server(self) -> None:
        async def test() -> None:
            async with serving() as server:
                assert server._store is not None
                directory = server._store.directory
                assert directory.exists()
            assert not directory.exists()

        run(test)


def wish_of(options: OwpingOptions, port: int) -> OwampWish:
    return OwampWish(
        here=Endpoint("127.0.0.1", port),
        server_sends=False,
        count=options.count,
        slots=slots_of(options),
        start_time=ntp_add_ns(now_ntp(), 10_000_000),
        timeout_ns=int(options.timeout_s * 1e9),
    )


class TestEndings:
    def test_what_never_comes_is_recorded_as_lost(self) -> None:
        async def test() -> None:
            async with serving() as server, await OwampTcpClient.connect(replace(PING, port=server.port)) as client:
                session = await client.request_session(wish_of(PING, 28299))
                await client.start_sessions()
                stop = await client.stop_received()
                assert stop.accept == 0
                client.role.stop_sessions([SessionDescription(session.sid, 20)], client._loop.time())
                data = await fetch_after_stop(client, session.sid)
                packets = list(data.packets)
                assert [packet.lost for packet in packets] == [True] * 20
                assert {(packet.ttl, packet.send_error) for packet in packets} == {(255, 1)}

        run(test)

    @pytest.mark.req("rfc4656-s3.8-09")
    def test_a_session_whose_sender_sent_less_than_came_is_invalid(self) -> None:
        async def test() -> None:
            async with serving() as server, await OwampTcpClient.connect(replace(PING, port=server.port)) as client:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind(("127.0.0.1", 0))
                    session = await client.request_session(wish_of(PING, sock.getsockname()[1]))
                    await client.start_sessions()
                    packet = (5).to_bytes(4, "big") + now_ntp().to_bytes(8, "big") + b"\x8a\x20"
                    sock.sendto(packet, session.receiver)
                    await client.stop_received()
                client.role.stop_sessions([SessionDescription(session.sid, 3)], client._loop.time())
                with pytest.raises(ServerRefused):
                    await fetch_after_stop(client, session.sid)

        run(test)

    @pytest.mark.req("rfc4656-s3.8-12")
    @pytest.mark.req("rfc4656-s3.8-13")
    def test_a_premature_stop_of_ours_ends_with_what_there_is(self) -> None:
        async def test() -> None:
            async with serving() as server:
                stop = StopSignal()
                task = asyncio.ensure_future(
                    run_owping(replace(PING, port=server.port, count=100_000, timeout_s=0.3), stop=stop)
                )
                # What was sent less than Timeout before the stop does not count: these take longer.
                await both_ways(server, 600)
                stop.set()
                ran = await task
                stop.close()
                assert ran.stopped
                assert ran.errors == ()
                for result in ran.results:
                    assert 0 < result.sent < 100_000
                    assert result.session.finished == 1
                    assert result.sent <= result.session.next_seqno
                    assert result.lost == 0

        run(test)

    @pytest.mark.req("rfc4656-s3.8-03")
    def test_a_stop_that_says_failure_makes_the_results_invalid(self) -> None:
        async def test() -> None:
            async with serving() as server, await OwampTcpClient.connect(replace(PING, port=server.port)) as client:
                session = await client.request_session(wish_of(PING, 28299))
                await client.start_sessions()
                description = SessionDescription(session.sid, 0)
                client.role.stop_sessions([description], client._loop.time(), Accept.FAILURE)
                await client.stop_received()
                for begin in (0, 1):
                    with pytest.raises(ServerRefused):
                        await (
                            fetch_after_stop(client, session.sid) if not begin else client.fetch(session.sid, 1, 5)
                        )

        run(test)

    def test_a_server_that_stops_ends_a_measurement_with_an_error(self) -> None:
        async def test() -> None:
            async with serving() as server:
                task = asyncio.ensure_future(owping(replace(PING, port=server.port, count=10_000)))
                await until(lambda: server.sessions == 2)
                await server.stop()
                with pytest.raises(ConnectionFailed, match="closed the connection"):
                    await task

        run(test)

    @pytest.mark.req("rfc4656-s3.8-08")
    def test_of_a_broken_connection_what_came_is_kept(self) -> None:
        async def test() -> None:
            async with serving(provider=passphrases()) as server:
                options = replace(PING, port=server.port, mode="authenticated", count=100_000)
                task = asyncio.ensure_future(run_owping(replace(options, from_server=False), passphrases()))
                await until(lambda: server.sessions == 1)
                sid = next(iter(server._owners))
                await both_ways(server, 50, sending=False)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await until(lambda: server.sessions == 0)
                with pytest.raises(ServerRefused):
                    await fetch(options, sid, passphrases())
                data, _ = await fetch(options, sid, passphrases(), begin=0, end=99_999)
                numbers = [packet.sequence_number for packet in data.packets if not packet.lost]
                assert data.finished == 2
                assert data.next_seqno == max(numbers) + 1

        run(test)

    def test_nothing_is_left_of_a_run(self) -> None:
        async def test() -> None:
            before = threading.active_count()
            async with serving() as server:
                await owping(replace(PING, port=server.port))
            await until(lambda: threading.active_count() <= before + 2)  # the executor's own

        run(test)


async def fetch_after_stop(client: OwampTcpClient, sid: bytes) -> FetchedSession:
    await client._await(AllStopped)
    return await client.fetch(sid)


@pytest.mark.req("rfc4656-s2-01")
def test_the_well_known_port() -> None:
    assert OwampServerOptions().port == OwpingOptions("127.0.0.1").port == OWAMP_PORT == 861


def test_mixed_mode_is_no_mode_of_owamp() -> None:
    with pytest.raises(ConfigurationError):
        OwpingOptions("127.0.0.1", mode="mixed")
    with pytest.raises(ConfigurationError):
        OwampServerOptions(modes=Mode.MIXED)


def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    async def test() -> None:
        async with serving() as server:
            with pytest.raises(IppmError, match=r"cannot listen on 127\.0\.0\.1"):
                await OwampServer(replace(OPTIONS, port=server.port)).start()

    run(test)
