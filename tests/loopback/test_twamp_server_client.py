"""A TWAMP server and client on loopback: real sockets, the real reflector and sender. RFC 5357."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from ippm_control_peers import SPI_I, SPI_R, DerivedProvider, derived_provider, passphrases

from ippm import (
    ConnectionFailed,
    IppmError,
    KeyProvider,
    PassphraseProvider,
    ServerOptions,
    ServerRefused,
    TwampServer,
    TwpingOptions,
    twping,
)
from ippm.core.control_client import SessionWish
from ippm.core.control_events import Endpoint
from ippm.core.session_sender import SenderPlan
from ippm.errors import ConfigurationError, PortRangeExhausted
from ippm.iana import Accept
from ippm.io.clock import now_ntp
from ippm.io.control_server import say_goodbye
from ippm.io.control_tcp import endpoint_of
from ippm.io.pacing import StopSignal
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import open_test_socket
from ippm.io.twamp_client import TwampClient, run_twping, sender_plan
from ippm.timestamps import ntp_add_ns
from ippm.wire.accept_session import AcceptSession
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.set_up_response import SetUpResponse

OPTIONS = ServerOptions(address="127.0.0.1", port=0, test_ports=(28760, 28960), count=1024)
PING = TwpingOptions("127.0.0.1", count=5, interval_s=0.001, timeout_s=1.5)


@asynccontextmanager
async def serving(
    options: ServerOptions = OPTIONS, provider: KeyProvider | None = None
) -> AsyncIterator[TwampServer]:
    server = TwampServer(options, provider)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


@pytest.mark.req("rfc5618-s4.1.2-02", "rfc5618-s4.2-02")
@pytest.mark.parametrize("mode", ["open", "authenticated", "encrypted", "mixed"])
def test_a_session_in_each_mode_with_a_passphrase(mode: str) -> None:
    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            result = await twping(replace(PING, port=server.port, mode=mode), passphrases())
            assert (result.sent, result.lost, result.duplicates) == (5, 0, 0)
            assert result.mode == mode
            assert result.round_trip is not None
            assert result.round_trip.minimum > 0
            assert 28760 <= result.remote[1] <= 28960
            await until(lambda: server.connections == 0)

    run(test)


@pytest.mark.parametrize("mode", ["authenticated", "encrypted", "mixed"])
def test_a_session_in_each_mode_with_a_derived_key(mode: str) -> None:
    async def test() -> None:
        server_side, client_side = derived_provider(), derived_provider()
        async with serving(provider=server_side) as server:
            options = replace(PING, port=server.port, mode=mode, require_ikev2=True)
            ran = await run_twping(options, client_side)
            assert ran.connected.ikev2_derived
            assert ran.connected.peer_identity == "peer.example"
            assert ran.result.lost == 0
            assert client_side.given[0].closed == 1
            # The server's is held until the session's Timeout has passed.
            await until(lambda: server.sessions == 0 and server_side.given[0].closed == 1)

    run(test)


@pytest.mark.req("rfc7717-s5.3-07", "rfc7717-s5.3-08")
def test_a_refusal_is_one_line_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(provider=DerivedProvider({bytes(16): b"another"})) as server:
            with pytest.raises(ServerRefused) as caught:
                await twping(replace(PING, port=server.port, mode="encrypted"), derived_provider())
            assert str(caught.value) == (
                f"server refused: Accept 6 (no IKEv2 SA with SPIi {SPI_I.hex()} SPIr {SPI_R.hex()} at the server)"
            )

    run(test)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.name == "ippm.server"
    assert warning.getMessage() == (
        f"127.0.0.1: set-up refused, Accept 6: no IKE SA with SPIi {SPI_I.hex()} SPIr {SPI_R.hex()}"
    )


def test_a_greeting_without_the_ikev2_bit_is_logged_by_a_client_that_could_use_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Both(PassphraseProvider):
        offers_ikev2 = True

    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            await twping(replace(PING, port=server.port, mode="A"), Both({"alice": "correct horse"}))

    run(test)
    assert "127.0.0.1 does not offer IKEv2-derived keys" in caplog.messages


def test_subscribers_see_every_event_of_a_connection() -> None:
    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            seen: list[str] = []
            server.subscribe(lambda client, event: seen.append(f"{client.host} {type(event).__name__}"))
            await twping(replace(PING, port=server.port, mode="A"), passphrases())
            await until(lambda: server.connections == 0)
            names = ["ClientSetUp", "SessionOpened", "SessionsStarted", "SessionsStopped", "ConnectionClosed"]
            assert seen == [f"127.0.0.1 {name}" for name in names]

    run(test)


@pytest.mark.req("rfc5357-s3.5-12")
def test_the_reflector_sends_with_the_dscp_that_was_asked_for() -> None:
    async def test() -> None:
        async with serving() as server, await TwampClient.connect(replace(PING, port=server.port)) as client:
            with open_test_socket("127.0.0.1") as sock:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
                sender = Endpoint("127.0.0.1", sock.getsockname()[1])
                session = await client.request_session(SessionWish(sender, dscp=26, padding_octets=27))
                await client.start_sessions()
                sock.settimeout(20)
                packet = bytes(12) + b"\x00\x01" + bytes(27)
                await asyncio.to_thread(sock.sendto, packet, session.reflector)
                _, ancillary, _, _ = await asyncio.to_thread(sock.recvmsg, 2048, 256)
                tos = [
                    data[0]
                    for level, kind, data in ancillary
                    if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)
                ]
                assert tos == [26 << 2]

    run(test)


def test_ipv6() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, address="::1"), passphrases()) as server:
            result = await twping(replace(PING, host="::1", port=server.port, mode="A"), passphrases())
            assert result.lost == 0
            assert result.remote[0] == "::1"

    run(test)


def test_a_server_on_all_addresses_serves_both_families() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, address=None)) as server:
            for host in ("127.0.0.1", "::1"):
                assert (await twping(replace(PING, host=host, port=server.port))).lost == 0

    run(test)


def test_several_sessions_on_one_connection() -> None:
    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            options = replace(PING, port=server.port, mode="encrypted")
            async with await TwampClient.connect(options, passphrases()) as client:
                socks = [open_test_socket("127.0.0.1") for _ in range(3)]
                plans: list[SenderPlan] = []
                for sock in socks:
                    sender = Endpoint("127.0.0.1", sock.getsockname()[1])
                    session = await client.request_session(SessionWish(sender, timeout_ns=200_000_000))
                    plans.append(sender_plan(options, session))
                assert server.sessions == 3
                await client.start_sessions()
                records = await asyncio.gather(
                    *(asyncio.to_thread(run_sender, plan, sock) for plan, sock in zip(plans, socks, strict=True))
                )
                await client.stop_sessions()
                assert [record.received for record in records] == [5, 5, 5]
                for sock in socks:
                    sock.close()
                assert len({plan.keys for plan in plans}) == 3
                await until(lambda: server.sessions == 0)

    run(test)


def test_local_ports_are_bound_in_their_range() -> None:
    async def test() -> None:
        async with serving() as server:
            seen: list[Endpoint] = []
            options = replace(PING, port=server.port, local_port_range=(28700, 28703))
            async with await TwampClient.connect(options) as client:
                seen.append(client.role.local)
                async with await TwampClient.connect(options) as other:
                    seen.append(other.role.local)
            assert {endpoint.port for endpoint in seen} <= set(range(28700, 28704))
            assert len({endpoint.port for endpoint in seen}) == 2
            # The ports of ended connections are in TIME_WAIT: the next one is tried.
            result = await twping(replace(options, local_port_range=(28700, 28731)))
            assert 28700 <= result.local[1] <= 28731
            assert result.lost == 0

    run(test)


def test_a_range_without_a_free_port_is_an_error_in_one_line() -> None:
    async def test() -> None:
        async with serving() as server:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 28740))
                taken.listen()
                options = replace(
                    PING, port=server.port, local_address="127.0.0.1", local_port_range=(28740, 28740)
                )
                with pytest.raises(PortRangeExhausted, match=r"no TCP port from 28740 to 28740 can reach 127\.0"):
                    await twping(options)

    run(test)


def test_the_server_takes_a_wished_port_of_its_range_or_gives_another() -> None:
    async def test() -> None:
        async with serving() as server:
            wished = await twping(replace(PING, port=server.port, reflector_port=28800))
            assert wished.remote[1] == 28800
            outside = await twping(replace(PING, port=server.port, reflector_port=29999))
            assert 28760 <= outside.remote[1] <= 28960

    run(test)


def test_a_server_without_a_free_test_port_answers_accept_5(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        options = replace(OPTIONS, test_ports=(28750, 28750))
        async with serving(options) as server, await TwampClient.connect(replace(PING, port=server.port)) as client:
            wish = SessionWish(Endpoint("127.0.0.1", 28749))
            await client.request_session(wish)
            with pytest.raises(
                ServerRefused, match=r"Accept 5 \(temporary resource limitations\); .* test ports of"
            ):
                await client.request_session(wish)
        assert "the test ports are exhausted: no UDP port is free on 127.0.0.1 from 28750 to 28750" in caplog.text

    run(test)


def test_a_server_that_began_in_our_future_has_another_clock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Server-Start has the time at which the server began. RFC 4656 section 3.1."""

    async def test() -> None:
        with monkeypatch.context() as ahead:
            ahead.setattr("ippm.io.twamp_server.now_ntp", lambda: ntp_add_ns(now_ntp(), 3_600_000_000_000))
            server = TwampServer(OPTIONS)
        await server.start()
        try:
            assert (await twping(replace(PING, port=server.port))).lost == 0
        finally:
            await server.stop()
        assert re.search(r"127\.0\.0\.1: clocks differ by at least 3(599|600)\.\d s", caplog.text)

    run(test)


@pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s6.5-03")
def test_a_server_has_limits_of_connections_and_sessions() -> None:
    async def test() -> None:
        options = replace(OPTIONS, maximum_connections=2, maximum_sessions=1)
        async with serving(options) as server:
            ping = replace(PING, port=server.port)
            async with await TwampClient.connect(ping) as one, await TwampClient.connect(ping):
                with pytest.raises(ServerRefused, match="offers no mode"):
                    await TwampClient.connect(ping)
                wish = SessionWish(Endpoint("127.0.0.1", 28749))
                await one.request_session(wish)
                with pytest.raises(ServerRefused, match="Accept 5"):
                    await one.request_session(wish)
            await until(lambda: server.connections == 0 and server.sessions == 0)
            assert (await twping(ping)).lost == 0

    run(test)


def test_one_address_cannot_take_all_connections() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, connections_per_address=1)) as server:
            ping = replace(PING, port=server.port)
            async with await TwampClient.connect(ping):
                with pytest.raises(ServerRefused, match="offers no mode"):
                    await TwampClient.connect(ping)
                assert (await twping(replace(ping, local_address="127.0.0.2"))).lost == 0

    run(test)


@pytest.mark.req("rfc4656-s6.5-04")
def test_the_sessions_of_a_broken_connection_end() -> None:
    async def test() -> None:
        async with serving() as server:
            async with await TwampClient.connect(replace(PING, port=server.port)) as client:
                await client.request_session(SessionWish(Endpoint("127.0.0.1", 28749), timeout_ns=10**11))
                await client.start_sessions()
                assert server.sessions == 1
            await until(lambda: server.sessions == 0 and server.connections == 0)

    run(test)


@pytest.mark.req("rfc5357-s3.5-10")
def test_a_stop_that_says_failure_still_lets_packets_under_way_come_back() -> None:
    """Accept in Stop-Sessions makes results invalid; the Timeout holds all the same."""

    async def test() -> None:
        async with serving() as server, await TwampClient.connect(replace(PING, port=server.port)) as client:
            sock = open_test_socket("127.0.0.1", (28761, 28960))
            with sock:
                wish = SessionWish(endpoint_of(sock.getsockname()), timeout_ns=10**11)
                session = await client.request_session(wish)
                await client.start_sessions()
                await client.stop_sessions(Accept.FAILURE)
                # Accept-Session comes after Stop-Sessions has been acted on.
                await client.request_session(wish)
                sock.settimeout(30)
                sock.sendto(bytes(12) + b"\x00\x01", session.reflector)
                assert len(await asyncio.to_thread(sock.recv, 100)) == 41
                assert server.sessions == 2

    run(test)


@pytest.mark.req("rfc4656-s6.2-02", "rfc4656-s6.2-03")
@pytest.mark.parametrize("receiver", ["224.0.0.1", "255.255.255.255", "127.255.255.255", "192.0.2.1"])
def test_a_receiver_address_that_is_not_the_servers_own_gets_accept_3(receiver: str) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await reader.readexactly(64)
            writer.write(SetUpResponse(1).encode())
            await reader.readexactly(48)
            for address, accept in ((receiver, Accept.NOT_SUPPORTED), ("127.0.0.1", Accept.OK)):
                request = RequestTwSession(28749, 0, receiver_address=ip_address(address))
                writer.write(request.encode() + bytes(16))
                answer = await reader.readexactly(48)
                assert AcceptSession.parse(answer[:32]).accept == accept
            writer.close()

    run(test)


@pytest.mark.req("rfc4656-s6.5-02")
def test_sessions_in_open_mode_cannot_take_what_is_kept_for_clients_with_a_key() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, maximum_open_sessions=1), passphrases()) as server:
            ping = replace(PING, port=server.port)
            wish = SessionWish(Endpoint("127.0.0.1", 28749))
            async with await TwampClient.connect(ping) as one, await TwampClient.connect(ping) as two:
                await one.request_session(wish)
                with pytest.raises(ServerRefused, match="Accept 5"):
                    await two.request_session(wish)
                assert (await twping(replace(ping, mode="authenticated"), passphrases())).lost == 0

    run(test)


def test_a_client_that_floods_a_connection_which_is_over_does_not_hold_the_server() -> None:
    class Flood:
        """A socket that always has more to read."""

        def __init__(self) -> None:
            self.reads = 0

        def shutdown(self, how: int) -> None:
            assert how == socket.SHUT_WR

        def recv(self, octets: int) -> bytes:
            self.reads += 1
            assert self.reads < 1000
            return bytes(octets)

    flood = Flood()
    say_goodbye(flood)  # type: ignore[arg-type]
    assert flood.reads > 1


@pytest.mark.req("rfc5357-s3.1-04", "rfc5357-s3.1-05")
def test_when_refwait_has_run_out_servwait_ends_the_connection() -> None:
    async def test() -> None:
        async with serving(replace(OPTIONS, refwait_s=0.05, servwait_s=0.2)) as server:
            async with await TwampClient.connect(replace(PING, port=server.port)) as client:
                await client.request_session(SessionWish(Endpoint("127.0.0.1", 28749)))
                await client.start_sessions()
                with pytest.raises(ConnectionFailed, match="closed the connection"):
                    await client.watch()
            assert server.sessions == 0

    run(test)


def test_servwait_ends_a_silent_connection() -> None:
    async def test() -> None:
        options = replace(OPTIONS, servwait_s=0.05)
        async with serving(options) as server, await TwampClient.connect(replace(PING, port=server.port)) as client:
            with pytest.raises(ConnectionFailed):
                await client.watch()

    run(test)


def test_a_server_that_stops_ends_a_measurement_with_an_error() -> None:
    async def test() -> None:
        async with serving() as server:
            options = replace(PING, port=server.port, count=1000, interval_s=0.1)
            task = asyncio.ensure_future(twping(options))
            await until(lambda: server.sessions == 1)
            await server.stop()
            with pytest.raises(ConnectionFailed, match="closed the connection"):
                await task

    run(test)


def test_a_measurement_that_is_stopped_reports_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def begin(*arguments: Any, **named: Any) -> Any:
        began.set()
        return run_sender(*arguments, **named)

    monkeypatch.setattr("ippm.io.twamp_client.run_sender", begin)

    async def test() -> None:
        async with serving() as server:
            stop = StopSignal()
            options = replace(PING, port=server.port, count=100_000, interval_s=0.001)
            task = asyncio.ensure_future(twping(options, stop=stop))
            await until(began.is_set)
            stop.set()
            result = await task
            assert result.sent < 100_000
            assert "stopped before its end" in result.notes
            stop.close()

    run(test)


def test_a_measurement_that_is_cancelled_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with serving() as server:
            task = asyncio.ensure_future(twping(replace(PING, port=server.port, count=1000, interval_s=1.0)))
            await until(lambda: server.sessions == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.sessions == 0 and server.connections == 0)

    run(test)


def test_clients_that_break_the_protocol_do_not_harm_others() -> None:
    async def test() -> None:
        async with serving(provider=passphrases()) as server:
            for rubbish in (
                b"",
                b"GET / HTTP/1.0\r\n\r\n",
                bytes(500),
                b"\x00\x00\x00\x04" + bytes(160),
                b"\xff" * 4000,
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                greeting = ServerGreeting.parse(await reader.readexactly(64))
                assert greeting.modes & 15 == 15
                writer.write(rubbish)
                writer.write_eof()
                await reader.read()
                writer.close()
            await until(lambda: server.connections == 0)
            assert (await twping(replace(PING, port=server.port, mode="E"), passphrases())).lost == 0

    run(test)


@pytest.mark.req("rfc5357-s3.1-01")
def test_the_server_answers_with_the_dscp_of_the_syn() -> None:
    async def test() -> None:
        taken: list[int] = []

        class Watched(TwampServer):
            def _take(self, sock: socket.socket, remote: Endpoint) -> None:
                super()._take(sock, remote)
                taken.append(sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> 2)

        server = Watched(OPTIONS)
        await server.start()

        def mark(sock: socket.socket) -> None:
            if sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 46 << 2)

        try:
            await twping(replace(PING, port=server.port, mark_callback=mark))
            await twping(replace(PING, port=server.port))
        finally:
            await server.stop()
        assert taken == [46, 0]

    run(test)


def test_no_server_is_an_error_in_one_line() -> None:
    async def test() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            with pytest.raises(ConnectionFailed, match=f"no connection to 127.0.0.1:{port}: Connection refused"):
                await twping(replace(PING, port=port))
        with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
            await twping(replace(PING, host="nowhere.invalid"))

    run(test)


def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    async def test() -> None:
        async with serving() as server:
            with pytest.raises(
                IppmError, match=f"cannot listen on 127.0.0.1, port {server.port}: Address already in use"
            ):
                await TwampServer(replace(OPTIONS, port=server.port)).start()

    run(test)


def test_socket_addresses_as_text() -> None:
    assert endpoint_of(("::ffff:192.0.2.1", 5, 0, 0)) == ("192.0.2.1", 5)
    assert endpoint_of(("fe80::1", 5, 0, 3)) == ("fe80::1%3", 5)
    assert endpoint_of(("192.0.2.1", 5)) == ("192.0.2.1", 5)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "secret"},
        {"count": 0},
        {"interval_s": -1.0},
        {"start_delay_s": -1.0},
        {"padding": 70000},
        {"dscp": 64},
        {"local_port_range": (2, 1)},
        {"test_port_range": (0, 5)},
        {"port": 65536},
        {"tw_auth_pad": 60},
    ],
    ids=str,
)
@pytest.mark.req("rfc4656-s4.1.1-05")
def test_options_are_checked(change: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(change))):
        replace(PING, **change)  # type: ignore[arg-type]
