"""The features of TWAMP beyond RFC 5357 over real sockets, in every security mode and both address families."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from ippm_control_peers import passphrases

from ippm import ServerOptions, ServerRefused, TwampServer, TwpingOptions, twping
from ippm.core.control_client import SessionWish
from ippm.core.control_events import Endpoint
from ippm.errors import ConnectionFailed
from ippm.iana import FEATURE_WORDS
from ippm.io.batch import LinuxReceiver, PortableReceiver, Receiver
from ippm.io.pacing import Waiter
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import open_test_socket
from ippm.io.twamp_client import TwampClient, sender_plan
from ippm.metrics.marking import Marking

OPTIONS = ServerOptions(
    address="127.0.0.1", port=0, test_ports=(28760, 28960), count=1024, server_octets=0x5A5B, refwait_s=60
)
PING = TwpingOptions("127.0.0.1", count=5, interval_s=0.001, timeout_s=1.5)
SETS = [
    ("session-control",),
    ("reflect-octets",),
    ("symmetrical-size",),
    ("reflect-octets", "symmetrical-size"),
    ("dscp-ecn",),
    ("ptp-timestamps",),
    tuple(FEATURE_WORDS),
]


@pytest.mark.parametrize("features", SETS, ids="+".join)
@pytest.mark.parametrize("mode", ["open", "authenticated", "encrypted", "mixed"])
def test_a_session_with_features(mode: str, features: tuple[str, ...]) -> None:
    async def test() -> None:
        server = TwampServer(OPTIONS, passphrases())
        await server.start()
        try:
            reflected = 16 if "reflect-octets" in features else 0
            options = replace(
                PING, port=server.port, mode=mode, features=features, reflected_octets=reflected, dscp=10
            )
            result = await twping(options, passphrases())
        finally:
            await server.stop()
        assert (result.sent, result.lost, result.rejected) == (5, 0, {})
        assert set(result.features.split(", ")) == set(features)
        expected = (Marking(10, 0, 5),) if "dscp-ecn" in features else None
        assert result.marked_forward == result.marked_backward == expected
        assert result.forward is not None
        assert (
            abs(result.forward.median) < 1_000_000_000
        )  # one clock: a stamp read in the wrong format is decades off

    asyncio.run(test())


def test_over_ipv6() -> None:
    async def test() -> None:
        server = TwampServer(replace(OPTIONS, address="::1"))
        await server.start()
        try:
            options = replace(
                PING, host="::1", port=server.port, features=tuple(FEATURE_WORDS), reflected_octets=9, dscp=46
            )
            result = await twping(options)
        finally:
            await server.stop()
        assert (result.lost, result.rejected) == (0, {})
        assert result.marked_forward == result.marked_backward == (Marking(46, 0, 5),)

    asyncio.run(test())


def test_a_server_that_lacks_a_feature() -> None:
    async def test() -> None:
        server = TwampServer(replace(OPTIONS, features=("dscp-ecn",)))
        await server.start()
        try:
            with pytest.raises(ConnectionFailed, match="the server does not offer session-control, ptp-timestamps"):
                await twping(
                    replace(PING, port=server.port, features=("dscp-ecn", "session-control", "ptp-timestamps"))
                )
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.req("rfc5938-s4.2-01", "rfc5938-s4.2-02", "rfc5938-s4.2-03", "rfc5938-s4.1-01", "rfc5938-s3.1-01")
def test_sessions_of_one_connection_start_and_stop_one_by_one() -> None:
    """The second runs on after the first has stopped; packets of the first are not answered after its Timeout."""

    async def test() -> None:
        server = TwampServer(OPTIONS)
        await server.start()
        options = replace(PING, port=server.port, features=("session-control",), timeout_s=0.5)
        try:
            async with await TwampClient.connect(options) as client:
                socks = [open_test_socket("127.0.0.1") for _ in range(2)]
                plans = []
                for sock in socks:
                    sender = Endpoint("127.0.0.1", sock.getsockname()[1])
                    session = await client.request_session(SessionWish(sender, timeout_ns=500_000_000))
                    plans.append(sender_plan(options, session))
                sids = [plan.sid for plan in plans]
                await client.start_sessions(sids[:1])
                assert (await asyncio.to_thread(run_sender, plans[0], socks[0])).received == 5
                assert (await asyncio.to_thread(run_sender, plans[1], socks[1])).received == 0
                await client.start_sessions(sids[1:])
                await client.stop_sessions(sids=sids[:1])
                async with asyncio.timeout(60):
                    while server.sessions != 1:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert (await asyncio.to_thread(run_sender, plans[0], socks[0])).received == 0
                assert (await asyncio.to_thread(run_sender, plans[1], socks[1])).received == 5
                client.role._started.append(sids[0])  # asks for what the server does not have any more
                with pytest.raises(ServerRefused, match="server refused"):
                    await client.stop_sessions(sids=sids[:1])
                await client.stop_sessions(sids=sids[1:])
                for sock in socks:
                    sock.close()
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", [PortableReceiver, LinuxReceiver])
def test_the_marking_of_a_datagram_with_its_ecn(family: int, kind: type[Receiver]) -> None:
    """RFC 7750 section 2.2.1: six bits and two bits, as they are in the IP header."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with (
        open_test_socket(host, monitor_dscp_ecn=True) as receiving,
        socket.socket(family, socket.SOCK_DGRAM) as sending,
    ):
        level, option = (
            (socket.IPPROTO_IP, socket.IP_TOS)
            if family == socket.AF_INET
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        )
        receiver = kind()
        for octet in (0, 46 << 2 | 2, 0xFF - 1):
            sending.setsockopt(level, option, octet)
            sending.sendto(b"x", receiving.getsockname())
            assert Waiter(receiving.fileno(), -1).wait(5_000_000_000)[0]
            assert receiver.receive(receiving) == 1
            assert receiver.dscp_ecn(0) == octet
            stamp, ttl = receiver.stamp_and_ttl(0)
            assert stamp is not None
            assert ttl is not None
    with (
        open_test_socket(host) as receiving,
        socket.socket(family, socket.SOCK_DGRAM) as sending,
    ):
        sending.sendto(b"x", receiving.getsockname())
        assert Waiter(receiving.fileno(), -1).wait(5_000_000_000)[0]
        receiver = kind()
        assert receiver.receive(receiving) == 1
        assert receiver.dscp_ecn(0) is None


def test_on_the_command_line() -> None:
    async def test() -> None:
        server = TwampServer(OPTIONS)
        await server.start()
        command = [sys.executable, "-m", "ippm", "twping", "-c", "3", "-i", "0.001f", "-L", "0.5", "-D", "46"]
        address = f"127.0.0.1:{server.port}"
        try:
            more = ["--reflect", "12", "--feature", "dscp-ecn", "--json", address]
            done = await asyncio.to_thread(subprocess.run, [*command, *more], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
            result = json.loads(done.stdout)["result"]
            assert result["features"] == ["reflect-octets", "dscp-ecn"]
            assert result["marking_forward"] == [{"dscp": 46, "ecn": 0, "packets": 3}]
            assert result["payload_octets"] == 14 + 30 + 12
            more = ["--feature", "dscp-ecn", address]
            done = await asyncio.to_thread(subprocess.run, [*command, *more], capture_output=True, text=True)
            assert "mode:  open, with dscp-ecn\n" in done.stdout
            assert "send marking (sent with DSCP 46 ECN 0): DSCP 46 ECN 0 in 3\n" in done.stdout
            more = ["--feature", "reflect", address]
            done = await asyncio.to_thread(subprocess.run, [*command, *more], capture_output=True, text=True)
            assert done.returncode == 2
            assert done.stderr.startswith("ippm: features: no feature is called 'reflect': session-control, ")
        finally:
            await server.stop()

    asyncio.run(test())
