"""Transmit stamps, pacing and ways of input over the loopback interface, whose driver stamps what it sends.

Session-Sender                                Session-Reflector
  T1 (packet) <= T1 (kernel) -- Sequence Number n --> T2 (kernel)
  T4 (kernel) <-------------------- n, T2, T3 ------- T3
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ippm.core.schedule import FixedSchedule
from ippm.core.session_reflector import ReflectorPlan
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.errors import ConfigurationError
from ippm.io import realtime as realtime_module
from ippm.io import sender_loop, transmit_stamps
from ippm.io.batch import LinuxReceiver
from ippm.io.clock import clock_state, now_ntp
from ippm.io.options import ServerOptions, TwpingOptions
from ippm.io.owamp_client import OwampRun, run_owping
from ippm.io.owamp_options import OwampServerOptions, OwpingOptions
from ippm.io.owamp_server import OwampServer
from ippm.io.pacing import frozen_heap
from ippm.io.realtime import check_realtime, realtime
from ippm.io.reflector_loop import Reflector
from ippm.io.replies import LinuxReplies, PortableReplies, Replies, make_replies
from ippm.io.sender_loop import run_sender
from ippm.io.sockopts import IP_RECVTTL, SO_TIMESTAMPING, SO_TIMESTAMPNS
from ippm.io.test_socket import open_test_socket
from ippm.io.transmit_stamps import UNMEASURED_ERROR_NS, StampOptions, open_transmit_stamps
from ippm.report import RunResult, format_result
from ippm.timestamps import ErrorEstimate, ntp_add_ns, ntp_difference_ns

SID = bytes(range(16))


def why_no_stamps() -> str:
    with open_test_socket("127.0.0.1") as sock:
        return open_transmit_stamps(sock)[1]


needs_stamps = pytest.mark.skipif(bool(why_no_stamps()), reason=f"no transmit stamps: {why_no_stamps()}")


def measured(io: str = "auto", count: int = 200, *, correct: bool = False, **options: bool) -> SenderRecords:
    """A session to a reflector of ours."""
    reflector = Reflector(io=io, correct_stamps=correct)
    there = open_test_socket("127.0.0.1")
    try:
        with open_test_socket("127.0.0.1") as sock:
            local, remote = sock.getsockname(), there.getsockname()
            reflector.add_session(ReflectorPlan(SID, 1, None, remote, local), there)
            reflector.start(SID)
            plan = SenderPlan(SID, 1, None, local, remote, count, FixedSchedule(200_000), padding_octets=27)
            return run_sender(plan, sock, io=io, stamps=StampOptions(correct=correct, **options))
    finally:
        reflector.close()


def plan_of(records: SenderRecords) -> SenderPlan:
    return SenderPlan(SID, 1, None, ("127.0.0.1", 1), ("127.0.0.1", 2), records.count, FixedSchedule(200_000))


@needs_stamps
@pytest.mark.req("rfc5357-s4.1.1-01", "rfc5357-s4.2-01", "rfc5357-s4.2-06")
@pytest.mark.parametrize("io", ["portable", "linux"])
def test_the_stamps_of_each_packet_are_in_order(io: str) -> None:
    records = measured(io)
    assert records.received == records.sent == 200
    assert all(records.departure)
    for t1, sent, t2, t3, t4 in zip(records.t1, records.departure, records.t2, records.t3, records.t4, strict=True):
        assert t1 <= sent <= t2 < t3 <= t4
    result = RunResult.of(plan_of(records), records, clock_state())
    fields = result.to_dict()
    assert (fields["stamps"]["local_transmit"], fields["stamps"]["local_receive"]) == ("kernel", "kernel")
    assert fields["stamps"]["transmit_stamped"] == fields["stamps"]["packet_age"]["count"] == 200
    assert fields["send_error"]["count"] == 200
    assert fields["send_error"]["minimum_ns"] >= 0
    # A delay is from the kernel's stamp, and so shorter than from the packet's by the packet's age.
    assert result.forward is not None
    assert result.forward.count == 200
    ages = {ntp_difference_ns(sent, t1) for sent, t1 in zip(records.departure, records.t1, strict=True)}
    assert fields["stamps"]["packet_age"]["minimum_ns"] == min(ages)
    text = format_result(result)
    assert "stamps: sent by the kernel, received by the kernel" in text
    assert "a packet's own stamp was older than its departure by median/p99/max" in text
    assert "sent late by median/p99/max" in text


@needs_stamps
def test_both_ends_correct_their_stamps_and_every_packet_is_answered() -> None:
    records = measured(correct=True)
    assert records.received == 200
    assert records.rejected == {}
    for t2, t3 in zip(records.t2, records.t3, strict=True):
        assert t2 < t3


def test_without_the_kernels_stamps_the_programs_are_taken_and_the_report_says_so() -> None:
    records = measured(count=20, transmit=False)
    assert not any(records.departure)
    stamps = RunResult.of(plan_of(records), records, clock_state()).stamps
    assert (stamps.transmit, stamps.refused, stamps.packet_age) == ("user", "", None)


def test_a_kernel_that_refuses_is_told_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transmit_stamps, "open_transmit_stamps", lambda _: (None, "SO_TIMESTAMPING: nothing here"))
    records = measured(count=20)
    assert records.received == 20
    result = RunResult.of(plan_of(records), records, clock_state())
    words = "packets were not stamped by the kernel when it sent them: T1 is the program's"
    assert f"{words} (SO_TIMESTAMPING: nothing here)" in result.notes
    assert result.to_dict()["stamps"]["transmit_refused"] == "SO_TIMESTAMPING: nothing here"
    assert result.stamps.transmit == "user"


@pytest.mark.req("rfc4656-s4.1.2-05")
def test_the_error_estimates_in_packets_have_the_clocks_error_and_that_of_the_stamps() -> None:
    records = measured(count=20, transmit=False)
    least = clock_state().error_ns + UNMEASURED_ERROR_NS
    for estimates in (records.sender_error, records.reflector_error):
        for value in estimates:
            estimate = ErrorEstimate.from_int(value)
            assert estimate.multiplier
            # The clock's error grows while nothing disciplines it, so it was no larger before.
            assert UNMEASURED_ERROR_NS < estimate.error_ns < least + least // 64 + 1_000_000_000


def one_way(**options: Any) -> OwampRun:
    async def run() -> OwampRun:
        server = OwampServer(OwampServerOptions(address="127.0.0.1", port=0))
        await server.start()
        try:
            return await run_owping(
                OwpingOptions(
                    "127.0.0.1", port=server.port, count=30, interval_s=0.001, exponential=False,
                    timeout_s=0.3, start_delay_s=0.2, **options,
                )
            )  # fmt: skip
        finally:
            await server.stop()

    return asyncio.run(run())


@needs_stamps
@pytest.mark.req("rfc4656-s4.1.1-06")
def test_one_way_the_senders_result_has_the_kernels_times_and_the_servers_records_stay() -> None:
    run = one_way()
    to, back = run.results
    assert to.lost == back.lost == 0
    assert to.stamps is not None
    assert run.sent is not None
    assert (to.stamps.transmit, to.stamps.stamped) == ("kernel", 30)
    sending = run.sent.session
    for packet, better in zip(to.session.packets, to.measured.packets, strict=True):
        number = packet.sequence_number
        assert packet.send_timestamp == sending.stamps[number]
        assert better.send_timestamp == sending.departure[number] > packet.send_timestamp
        assert packet.receive_timestamp == better.receive_timestamp > better.send_timestamp
    assert to.to_dict()["stamps"]["transmit"] == "kernel"
    assert back.measured is back.session
    assert back.to_dict()["stamps"]["transmit"] == "packet"


def test_one_way_without_the_kernels_stamps() -> None:
    to, _ = one_way(stamps=StampOptions(transmit=False)).results
    assert to.stamps is not None
    assert (to.stamps.transmit, to.stamps.refused) == ("user", "")
    assert to.measured is to.session


# Ways to take replies.

DATAGRAMS = [b"", b"x", bytes(range(256)) * 8, b"\xff" * 65_000, *(bytes([n]) * n for n in range(80))]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; the first receives."""
    with open_test_socket("127.0.0.1") as sock, open_test_socket("127.0.0.1", ttl=33) as peer:
        sock.connect(peer.getsockname())
        peer.connect(sock.getsockname())
        yield sock, peer


Row = tuple[bytes, int | None, int | None, int | None]


def read(replies: Replies, most: int = 1 << 62) -> list[Row]:
    rows: list[Row] = []
    replies.read(lambda data, ttl, stamp, dscp_ecn: rows.append((bytes(data), ttl, stamp, dscp_ecn)), most)
    return rows


@pytest.mark.skipif(not LinuxReceiver.is_known_here(), reason="recvmmsg's structures are not known here")
@pytest.mark.parametrize("monitored", [False, True])
@pytest.mark.parametrize("longest", [48, 65_536])
def test_replies_are_the_same_from_both_ways(longest: int, monitored: bool) -> None:
    results = []
    before = now_ntp()
    for kind in (PortableReplies, LinuxReplies):
        with (
            open_test_socket("127.0.0.1", monitor_dscp_ecn=monitored) as sock,
            open_test_socket("127.0.0.1", ttl=33, dscp=10) as peer,
        ):
            sock.connect(peer.getsockname())
            for datagram in DATAGRAMS:
                peer.sendto(datagram, sock.getsockname())
            replies = kind(sock, longest)
            taken = 0
            while count := replies.take():
                taken += count
            assert replies.waiting == taken == len(DATAGRAMS)
            results.append(read(replies, 3) + read(replies, 40) + read(replies))
            assert replies.waiting == 0
    portable, linux = results
    assert [(data, ttl, tos) for data, ttl, _, tos in portable] == [(data, ttl, tos) for data, ttl, _, tos in linux]
    assert [row[0] for row in linux] == [datagram[:longest] for datagram in DATAGRAMS]
    assert {(row[1], row[3]) for row in linux} == {(33, 40 if monitored else None)}
    stamps = [row[2] for row in portable + linux]
    assert all(stamp is not None and before < stamp < now_ntp() for stamp in stamps)


@pytest.mark.parametrize("io", ["portable", "linux"])
def test_what_was_taken_is_read_in_the_order_of_arrival_whatever_comes_between(
    pair: tuple[socket.socket, socket.socket], io: str
) -> None:
    sock, peer = pair
    replies = make_replies(sock, io, 100)
    expected = []
    got: list[bytes] = []
    for number in range(100):
        datagram = bytes([number]) * (number % 50)
        expected.append(datagram)
        peer.send(datagram)
        if number % 7 == 0:
            replies.take(1 + number % 5)
        if number % 11 == 0:
            got += [row[0] for row in read(replies, number % 4)]
    while replies.take():
        pass
    got += [row[0] for row in read(replies)]
    assert got == expected


@pytest.mark.parametrize("io", ["portable", "linux"])
def test_what_the_kernel_does_not_say_of_a_reply_is_none(
    pair: tuple[socket.socket, socket.socket], io: str
) -> None:
    sock, peer = pair
    replies = make_replies(sock, io, 100)
    peer.send(b"both")
    assert replies.take() == 1
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 0)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 0)
    peer.send(b"none")
    assert replies.take() == 1
    (_, ttl, stamp, _), none = read(replies)
    assert ttl == 33
    assert stamp is not None
    assert none == (b"none", None, None, None)


@pytest.mark.parametrize("io", ["portable", "linux"])
def test_errors_of_the_socket_are_raised(io: str) -> None:
    with open_test_socket("127.0.0.1") as gone:
        address = gone.getsockname()
    with open_test_socket("127.0.0.1") as sock:
        sock.connect(address)
        replies = make_replies(sock, io, 100)
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            replies.take()
        assert replies.take() == replies.waiting == 0


@needs_stamps
def test_a_socket_with_transmit_stamps_gives_replies_as_before(pair: tuple[socket.socket, socket.socket]) -> None:
    """Kernels before 6.12 give the receive stamp twice then; here it is made to."""
    sock, peer = pair
    flags = transmit_stamps.TX_SOFTWARE | transmit_stamps.SOFTWARE | transmit_stamps.OPT_ID
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags | transmit_stamps.OPT_TSONLY)
    replies = make_replies(sock, "auto", 100)
    before = now_ntp()
    peer.send(b"reply")
    assert replies.take() == 1
    ((data, ttl, stamp, _),) = read(replies)
    assert (data, ttl) == (b"reply", 33)
    assert stamp is not None
    assert before < stamp < now_ntp()


def test_a_way_that_is_not_known_is_named_where_it_is_given() -> None:
    for options in (
        lambda: TwpingOptions("h", io="fast"),
        lambda: OwpingOptions("h", io="fast"),
        lambda: ServerOptions(io="fast"),
        lambda: OwampServerOptions(io="fast"),
    ):
        with pytest.raises(ConfigurationError, match="auto, portable, linux"):
            options()


@pytest.mark.parametrize("octets", [0, 3_000, 1 << 30])
def test_replies_that_wait_to_be_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch, octets: int) -> None:
    """Packets without a pause: there is no time to look at a reply before the last one is sent."""
    waiting: list[int] = []

    class Watched(LinuxReplies if LinuxReceiver.is_known_here() else PortableReplies):  # type: ignore[misc]
        def take(self, limit: int = 32) -> int:
            waiting.append(self.waiting)
            return int(super().take(limit))

    monkeypatch.setattr(sender_loop, "MOST_UNREAD_OCTETS", octets)
    monkeypatch.setattr(sender_loop, "make_replies", lambda sock, _io, longest, _control: Watched(sock, longest))
    reflector = Reflector()
    there = open_test_socket("127.0.0.1")
    with open_test_socket("127.0.0.1") as sock:
        local, remote = sock.getsockname(), there.getsockname()
        reflector.add_session(ReflectorPlan(SID, 1, None, remote, local), there)
        reflector.start(SID)
        start = ntp_add_ns(now_ntp(), -1_000_000)
        plan = SenderPlan(SID, 1, None, local, remote, 2_000, FixedSchedule(0), start, timeout_ns=20 * 10**9)
        records = run_sender(plan, sock)
    reflector.close()
    assert records.received == records.sent == 2_000
    most = octets // (41 + sender_loop.UNREAD_OCTETS)
    # While packets are sent at most one call more than the bound waits.
    assert max(waiting) <= most + 32


# Pacing.


@pytest.mark.req("rfc4656-s4.1.1-02", "rfc4656-s4.1.1-03", "rfc4656-s4.1.1-04")
@pytest.mark.parametrize("interval_ns", [20_000, 1_000_000])
def test_of_packets_in_the_past_those_within_timeout_are_sent_and_the_others_skipped(interval_ns: int) -> None:
    """Start Time lies 2 s in the past, with Timeout 1 s, at a rate with sleeps between packets and at one without."""
    count = 2_100_000_000 // interval_ns
    with open_test_socket("127.0.0.1") as there, open_test_socket("127.0.0.1") as sock:
        start = ntp_add_ns(now_ntp(), -2_000_000_000)
        plan = SenderPlan(
            SID, 1, None, sock.getsockname(), there.getsockname(), count, FixedSchedule(interval_ns), start,
            timeout_ns=1_000_000_000,
        )  # fmt: skip
        ended = threading.Event()
        records = run_sender(plan, sock, lambda: ended.is_set(), stamps=StampOptions(transmit=False))
    assert records.skip_ranges[0][0] == 0
    assert len(records.skipped) >= 900_000_000 // interval_ns
    assert records.sent + len(records.skipped) + records.send_failed == count
    late = [error for error, t1 in zip(records.send_error_ns, records.t1, strict=True) if t1]
    assert all(0 <= error <= 1_000_000_000 for error in late)


def test_garbage_of_before_is_not_looked_at_while_packets_are_timed() -> None:
    with frozen_heap():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def may_realtime() -> bool:
    try:
        check_realtime(10**6)
    except ConfigurationError:
        return False
    return True


@pytest.mark.skipif(not may_realtime(), reason="SCHED_FIFO is not permitted here")
def test_realtime_is_the_threads_for_as_long_as_it_sends() -> None:
    seen: list[int] = []

    def run() -> None:
        with realtime():
            seen.append(os.sched_getscheduler(0))
        seen.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [os.SCHED_FIFO, os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_realtime_without_permission_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(realtime_module.os, "sched_setscheduler", refuse)
    with pytest.raises(ConfigurationError, match="CAP_SYS_NICE"):
        check_realtime(10**6)


def test_realtime_is_refused_where_the_thread_would_never_sleep() -> None:
    with pytest.raises(ConfigurationError, match="50 us apart: at least 100 us"):
        check_realtime(50_000)
