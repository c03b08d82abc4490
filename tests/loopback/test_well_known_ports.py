"""Ports that are asked for, well-known ones among them, and addresses and ports that are taken from the packets.

The clients are made by hand. RFC 8545 section 5, RFC 5357 section 3.5 with erratum 1587, RFC 4656 section 3.5.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from decoder.fake_peer import (
    SECOND,
    FakeClient,
    description,
    fetch_session,
    request_session,
    request_tw_session,
    sender_packet,
    slot,
    start_sessions,
    stop_sessions,
)
from decoder.twamp_decoder import decode_test

from ippm import OwampServerOptions, ServerOptions
from ippm.iana import OWAMP_PORT, TWAMP_PORT
from ippm.io.clock import now_ntp
from ippm.io.light import LightSender
from ippm.io.options import TwpingOptions
from ippm.io.owamp_client import run_owping
from ippm.io.owamp_options import OwpingOptions
from ippm.io.owamp_server import OwampServer
from ippm.io.twamp_client import run_twping
from ippm.io.twamp_server import TwampServer

LOCAL = "127.85.45.1"
TWAMP = ServerOptions(address=LOCAL, port=0, test_ports=(31100, 31199), count=1024)
OWAMP = OwampServerOptions(address=LOCAL, port=0, test_ports=(31200, 31299), count=1024)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((LOCAL, 0))
        made.settimeout(10)
        yield made


def may_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        try:
            made.bind((LOCAL, port))
        except PermissionError:
            return False
    return True


async def asked(server: TwampServer | OwampServer, messages: list[bytes]) -> dict[str, int | bytes]:
    """The Accept-Session that a client in open mode gets for a request."""

    def ask() -> dict[str, int | bytes]:
        client = FakeClient((LOCAL, server.port), 1)
        client.set_up()
        client.send(b"".join(client.sealer.message(message) for message in messages))
        answer = client.accept_session()
        client.close()
        return answer

    return await asyncio.to_thread(ask)


def test_the_ports_are_those_of_the_registry() -> None:
    """RFC 8545 section 7: TCP and UDP 861 are OWAMP's, 862 TWAMP's, the UDP ones for Test."""
    assert (OWAMP_PORT, TWAMP_PORT) == (861, 862)
    assert (OwampServerOptions().port, ServerOptions().port) == (861, 862)
    assert (OwpingOptions("host").port, TwpingOptions("host").port) == (861, 862)
    assert LightSender("host").port == 862


@pytest.mark.req("rfc5357-s3.5-13")
def test_a_twamp_server_that_does_not_serve_port_862_gives_another_with_accept_0() -> None:
    async def test() -> None:
        server = TwampServer(TWAMP)
        await server.start()
        try:
            answer = await asked(server, [request_tw_session(sender_port=9, receiver_port=TWAMP_PORT)])
            assert answer["accept"] == 0
            assert 31100 <= int(answer["port"]) <= 31199
            options = TwpingOptions(
                LOCAL, server.port, count=3, interval_s=0.001, reflector_port=TWAMP_PORT, local_address=LOCAL
            )
            assert (await run_twping(options)).result.lost == 0
        finally:
            await server.stop()

    asyncio.run(test())


def test_a_twamp_server_that_serves_port_862_gives_it() -> None:
    if not may_bind(TWAMP_PORT):
        pytest.skip("port 862 takes a privilege")

    async def test() -> None:
        server = TwampServer(replace(TWAMP, test_ports=(TWAMP_PORT, TWAMP_PORT)))
        await server.start()
        try:
            options = TwpingOptions(
                LOCAL, server.port, count=3, interval_s=0.001, reflector_port=TWAMP_PORT, local_address=LOCAL
            )
            ran = await run_twping(options)
            assert (ran.session.reflector.port, ran.result.lost) == (TWAMP_PORT, 0)
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.req("rfc4656-s3.5-06")
def test_an_owamp_server_gives_another_port_than_861_with_accept_0() -> None:
    async def test() -> None:
        server = OwampServer(OWAMP)
        await server.start()
        try:
            head = request_session(port=9, receiver_port=OWAMP_PORT, start_time=now_ntp())
            answer = await asked(server, [head, slot(SECOND // 100)])
            assert answer["accept"] == 0
            assert 31200 <= int(answer["port"]) <= 31299
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.req("rfc5357-s3.5-14", "rfc5357-s3.5-15")
def test_a_refusal_suggests_no_port() -> None:
    async def test() -> None:
        server = TwampServer(TWAMP)
        await server.start()
        try:
            request = request_tw_session(sender_port=9, receiver_port=TWAMP_PORT, conf=(1, 1))
            answer = await asked(server, [request])
            assert (answer["accept"], answer["port"], answer["sid"]) == (3, 0, bytes(16))
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.parametrize("behind_nat", [False, True])
def test_a_reflector_answers_to_where_packets_come_from_when_it_is_asked_to(
    sock: socket.socket, behind_nat: bool
) -> None:
    """The Sender Port of the request is 9; the packets come from another, as through a NAT."""

    async def test() -> None:
        server = TwampServer(replace(TWAMP, check_peer=not behind_nat))
        await server.start()
        try:
            await asyncio.to_thread(exchange, server.port)
        finally:
            await server.stop()

    def exchange(port: int) -> None:
        client = FakeClient((LOCAL, port), 1)
        client.set_up()
        client.command(request_tw_session(sender_port=9))
        answer = client.accept_session()
        client.command(start_sessions())
        assert client.start_ack() == 0
        sock.sendto(sender_packet(1, None, 7, now_ntp()), (LOCAL, answer["port"]))
        if behind_nat:
            assert decode_test(sock.recv(2048), None, "reflector", 1)["sender_sequence_number"] == 7
        else:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(2048)
        client.close()

    asyncio.run(test())


@pytest.mark.parametrize("behind_nat", [False, True])
def test_a_receiver_records_what_comes_from_elsewhere_when_it_is_asked_to(
    sock: socket.socket, behind_nat: bool
) -> None:
    async def test() -> None:
        server = OwampServer(replace(OWAMP, any_receiver=behind_nat))
        await server.start()
        try:
            numbers = await asyncio.to_thread(exchange, server.port)
            assert numbers == ([0, 1, 2] if behind_nat else [])
        finally:
            await server.stop()

    def exchange(port: int) -> list[int]:
        client = FakeClient((LOCAL, port), 1)
        client.set_up()
        start = now_ntp() - 3 * SECOND
        head = request_session(port=9, packets=4, slots=4, start_time=start, timeout=SECOND * 5 // 2)
        client.request(head, slot(0) * 3 + slot(3 * SECOND))
        answer = client.accept_session()
        client.command(start_sessions())
        assert client.start_ack() == 0
        for n in range(3):
            sock.sendto(sender_packet(1, None, n, start + SECOND * 5 // 2), (LOCAL, answer["port"]))
        client.command(stop_sessions(1) + description(answer["sid"], 4, [(3, 3)]))
        assert client.stop_of_server() == []
        client.command(fetch_session(answer["sid"]))
        fetched = client.fetched()
        client.close()
        assert isinstance(fetched, dict)
        return [n for n, one in zip(fetched["numbers"], fetched["records"], strict=True) if any(one[16:24])]

    asyncio.run(test())


@pytest.mark.parametrize("slots", [1, 2, 3, 1000, 65_536])
def test_a_session_each_way_with_a_schedule_of_so_many_slots(slots: int) -> None:
    """RFC 4656 section 3.5: from one slot to as many as a server reads, cycled."""

    async def test() -> None:
        server = OwampServer(OWAMP)
        await server.start()
        try:
            schedule = tuple((n % 2 == 0, 0.0005 + n % 7 * 0.0001) for n in range(slots))
            options = OwpingOptions(
                LOCAL,
                server.port,
                count=25,
                schedule=schedule,
                timeout_s=0.2,
                # Of 65,536 slots each request has 1 MiB: it has to be through before the first packet is due.
                start_delay_s=10.0 if slots > 1000 else 0.5,
                local_address=LOCAL,
            )
            ran = await run_owping(options)
            assert ran.errors == ()
            for result in ran.results:
                # What a busy machine could not send in time is in a Skip Range.
                assert (result.sent + result.metrics.skipped, result.lost) == (25, 0)
                assert len(result.session.request.slots) == slots
        finally:
            await server.stop()

    asyncio.run(test())
