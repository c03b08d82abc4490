"""Sender loop and reflector loop over the loopback interface: real sockets, kernel stamps, TTLs, threads.

Session-Sender                    Session-Reflector
  T1 ---- Sequence Number n ------> T2 (kernel)
  T4 (kernel) <-- n, T2, T3 ------- T3
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from decoder.twamp_decoder import decode_test

from ippm.core.schedule import FixedSchedule
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import SessionKeys
from ippm.crypto_packet import open_reflector, seal_sender
from ippm.errors import LocalProtocolError, PortRangeExhausted
from ippm.io.batch import Receiver
from ippm.io.clock import SystemClock, clock_state, now_ntp
from ippm.io.pacing import StopSignal, Waiter
from ippm.io.reflector_loop import Reflector, _Channel
from ippm.io.sender_loop import SenderLoop, run_sender
from ippm.io.sockopts import IP_TOS, IP_TTL, SO_TIMESTAMPNS
from ippm.io.test_socket import open_test_socket
from ippm.report import RunResult
from ippm.timestamps import ntp_add_ns, ntp_difference_ns
from ippm.wire.test_packet import SenderPacket

MODES = [1, 2, 4]
KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
SID = bytes(range(16))


class Session:
    """A reflector with one session, and the plan and socket of its sender."""

    def __init__(self, mode: int, host: str = "127.0.0.1", io: str = "auto", **plan: object) -> None:
        self.closed: dict[bytes, dict[str, int]] = {}
        self.ended = threading.Event()
        self.reflector = Reflector(on_closed=self._on_closed, io=io)
        reflector_socket = open_test_socket(host)
        self.socket = open_test_socket(host)
        self.local, self.remote = self.socket.getsockname()[:2], reflector_socket.getsockname()[:2]
        self.plan = SenderPlan(
            SID, mode, KEYS, self.local, self.remote, 20, FixedSchedule(200_000), timeout_ns=10**9
        )
        self.plan = replace(self.plan, **plan)  # type: ignore[arg-type]
        self.reflector_plan = ReflectorPlan(SID, mode, KEYS, self.remote, self.local, timeout_ns=50_000_000)
        self.reflector.add_session(self.reflector_plan, reflector_socket)

    def _on_closed(self, sid: bytes, counters: dict[str, int]) -> None:
        self.closed[sid] = counters
        self.ended.set()

    def close(self) -> None:
        self.reflector.close()
        self.socket.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def make_session(*args: object, **options: object) -> Session:
        made.append(Session(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_session
    for session in made:
        session.close()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.req("rfc5357-s4.2-01", "rfc5357-s4.2-06", "rfc5357-s4.2.1-01")
@pytest.mark.parametrize("io", ["portable", "linux"])
@pytest.mark.parametrize("mode", MODES)
def test_a_thousand_packets(make: Callable[..., Session], mode: int, io: str) -> None:
    session = make(mode, io=io, count=1000, padding_octets=100)
    session.reflector.start(SID)
    records = run_sender(session.plan, session.socket, io=io)
    assert (records.sent, records.received, records.duplicates, records.rejected) == (1000, 1000, 0, {})
    assert session.reflector.stop(SID) == {"received": 1000, "reflected": 1000}
    assert set(records.reflector_ttl) == set(records.reply_ttl) == {255}
    assert list(records.reflector_sequence) == list(range(1000))
    for t1, t2, t3, t4 in zip(records.t1, records.t2, records.t3, records.t4, strict=True):
        assert ntp_difference_ns(t4, t1) > 0
        assert 0 < ntp_difference_ns(t3, t2) < ntp_difference_ns(t4, t1)
    result = RunResult.of(session.plan, records, clock_state())
    assert result.lost == result.reordered == 0
    assert result.round_trip is not None
    assert 0 < result.round_trip.minimum < result.round_trip.maximum


@pytest.mark.req("rfc5357-s4.2-02")
@pytest.mark.parametrize("io", ["portable", "linux"])
def test_the_ttl_in_a_reply_is_that_of_the_header_of_its_packet(make: Callable[..., Session], io: str) -> None:
    session = make(1, io=io)
    session.socket.setsockopt(socket.IPPROTO_IP, IP_TTL, 17)
    session.reflector.start(SID)
    records = run_sender(session.plan, session.socket, io=io)
    assert records.received == 20
    assert set(records.reflector_ttl) == {17}
    assert set(records.reply_ttl) == {255}


def test_over_ipv6(make: Callable[..., Session]) -> None:
    if not has_ipv6():
        pytest.skip("this host has no IPv6 loopback")
    session = make(4, "::1")
    session.reflector.start(SID)
    records = run_sender(session.plan, session.socket)
    assert records.received == 20
    assert set(records.reflector_ttl) == set(records.reply_ttl) == {255}


@pytest.mark.req("rfc4656-s4.1.2-01", "rfc5357-s4.2.1-03")
def test_sockets_send_with_ttl_255_and_the_dscp() -> None:
    with open_test_socket("127.0.0.1", dscp=46) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, IP_TTL) == 255
        assert sock.getsockopt(socket.IPPROTO_IP, IP_TOS) == 46 << 2
        assert sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS) == 1


def test_ports_come_from_the_range_until_it_is_used_up() -> None:
    seen: list[socket.socket] = []
    first = open_test_socket("127.0.0.1")
    port = first.getsockname()[1]
    with pytest.raises(PortRangeExhausted):
        open_test_socket("127.0.0.1", (port, port), seen.append)
    with pytest.raises(PortRangeExhausted):
        open_test_socket("127.0.0.1", (port, port - 1))
    first.close()
    with open_test_socket("127.0.0.1", (port, port), seen.append) as sock:
        assert sock.getsockname()[1] == port
        assert sock is seen[-1]
    with pytest.raises(ValueError, match="DSCP"):
        open_test_socket("127.0.0.1", dscp=64)


@pytest.mark.req("rfc4656-s4.1.1-02", "rfc4656-s4.1.1-03", "rfc4656-s4.1.1-04")
def test_packets_too_far_in_the_past_are_not_sent_the_others_at_once(make: Callable[..., Session]) -> None:
    """Start Time lies 2 s in the past, packets are 0.1 s apart, Timeout is 1 s: some ten packets are too late."""
    session = make(1, count=20, schedule=FixedSchedule(100_000_000))
    session.reflector.start(SID)
    plan = replace(session.plan, start_time=ntp_add_ns(now_ntp(), -1_950_000_000))
    records = run_sender(plan, session.socket)
    assert records.skip_ranges[0][0] == 0
    assert len(records.skip_ranges) == 1
    assert len(records.skipped) >= 10
    assert records.sent + len(records.skipped) == 20
    assert records.received == records.sent


@pytest.mark.req("rfc4656-s4.1.1-06", "rfc5357-s4.1.1-01")
def test_a_packet_that_goes_out_late_carries_the_time_at_which_it_went(make: Callable[..., Session]) -> None:
    session = make(1, count=5, schedule=FixedSchedule(1_000_000))
    session.reflector.start(SID)
    before = now_ntp()
    records = run_sender(replace(session.plan, start_time=ntp_add_ns(before, -300_000_000)), session.socket)
    after = now_ntp()
    assert records.sent == 5
    assert before <= records.t1[0] < records.t1[1] < records.t1[2] < records.t1[3] < records.t1[4] <= after


def test_a_packet_that_is_handed_over_twice_carries_the_later_time() -> None:
    """The system reports an ICMP error of before instead of taking the packet; it is stamped again."""
    with open_test_socket("127.0.0.1") as sock:
        plan = SenderPlan(SID, 1, None, sock.getsockname(), ("127.0.0.1", 9), 1, timeout_ns=1)
        loop = SenderLoop(SessionSender(plan), sock, None, SystemClock(), "auto")
        fake = RefusesOnce()
        loop._sock = fake  # type: ignore[assignment]
        loop._send(0, time.monotonic_ns(), 0)
        first, second = fake.packets
        assert first[4:12] < second[4:12] == loop.session.records.t1[0].to_bytes(8, "big")
        assert loop.session.records.sent == 1


def test_a_packet_that_is_not_taken_the_second_time_does_not_end_the_run() -> None:
    """First an ICMP error of before, then a queue that is full for the moment."""
    with open_test_socket("127.0.0.1") as sock:
        plan = SenderPlan(SID, 1, None, sock.getsockname(), ("127.0.0.1", 9), 1, timeout_ns=1)
        loop = SenderLoop(SessionSender(plan), sock, None, SystemClock(), "auto")
        loop._sock = RefusesOnce(OSError(errno.ENOBUFS, "no room"))  # type: ignore[assignment]
        loop._send(0, time.monotonic_ns(), 0)
        assert (loop.session.records.sent, loop.session.records.send_failed) == (0, 1)


class RefusesOnce:
    """A socket that takes a packet only when it is sent again; `then` is raised when it is."""

    def __init__(self, then: OSError | None = None) -> None:
        self.packets: list[bytes] = []
        self._then = then

    def send(self, packet: memoryview) -> int:
        self.packets.append(bytes(packet))
        if len(self.packets) == 1:
            raise ConnectionRefusedError
        if self._then is not None:
            raise self._then
        return len(packet)


@pytest.mark.req("rfc4656-s3.7-05")
def test_the_first_packet_waits_for_the_start_time(make: Callable[..., Session]) -> None:
    session = make(1, count=2)
    session.reflector.start(SID)
    start = ntp_add_ns(now_ntp(), 60_000_000)
    records = run_sender(replace(session.plan, start_time=start), session.socket)
    assert ntp_difference_ns(records.t1[0], start) >= -1_000_000  # two clocks are read one after the other
    assert records.received == 2


@pytest.mark.req("rfc4656-s4.1.2-08", "rfc5357-s4.2.1-06")
def test_padding_is_drawn_for_itself_and_anew_for_each_session(
    make: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but this draw is in the padding, and nothing else is made of the draw."""
    drawn: list[bytes] = []

    def urandom(octets: int) -> bytes:
        drawn.append(bytes(octets - 1) + bytes([len(drawn) + 1]))
        return drawn[-1].replace(b"\0", bytes([0xB0 + len(drawn)]))

    monkeypatch.setattr(os, "urandom", urandom)
    for number in (1, 2):
        receiver = open_test_socket("127.0.0.1")
        with receiver, open_test_socket("127.0.0.1") as sock:
            plan = SenderPlan(
                SID, 2, KEYS, sock.getsockname(), receiver.getsockname(), 1, padding_octets=40, timeout_ns=10**8
            )
            run_sender(plan, sock)
            receiver.settimeout(30)
            assert receiver.recv(1000)[48:] == bytes([0xB0 + number]) * 40
    assert len(drawn) == 2


def test_an_unanswered_session_ends_after_timeout_with_its_packets_lost(make: Callable[..., Session]) -> None:
    session = make(2, timeout_ns=20_000_000)
    records = run_sender(session.plan, session.socket)  # not started: dropped
    assert (records.sent, records.received) == (20, 0)
    assert session.reflector.counters(SID)["not_started"] == 20


def test_a_port_that_nobody_listens_on_is_loss_not_failure() -> None:
    with open_test_socket("127.0.0.1") as gone:
        port = gone.getsockname()[1]
    with open_test_socket("127.0.0.1") as sock:
        plan = SenderPlan(
            SID, 1, None, sock.getsockname(), ("127.0.0.1", port), 20, FixedSchedule(100_000), timeout_ns=10_000_000
        )
        records = run_sender(plan, sock)
    assert records.received == 0
    assert records.sent + records.send_failed + len(records.skipped) == 20


def test_keys_that_differ_are_seen_at_the_reflector_by_name(make: Callable[..., Session]) -> None:
    session = make(4, keys=SessionKeys(KEYS.aes, bytes(32)), timeout_ns=20_000_000)
    session.reflector.start(SID)
    records = run_sender(session.plan, session.socket)
    assert records.received == 0
    assert session.reflector.counters(SID) == {"received": 20, "reflected": 0, "hmac_mismatch": 20}


@pytest.mark.parametrize("wakes_up", [True, False])
def test_a_stop_ends_a_session_that_would_last_for_hours(make: Callable[..., Session], wakes_up: bool) -> None:
    session = make(1, count=10, schedule=FixedSchedule(3_600_000_000_000))
    session.reflector.start(SID)
    signal = StopSignal()
    stop: StopSignal | Callable[[], bool] = signal if wakes_up else (lambda: signal())
    timer = threading.Timer(0.5, signal.set)
    timer.start()
    records = run_sender(session.plan, session.socket, stop)
    timer.join()
    signal.close()
    assert records.stopped
    assert (records.sent, records.received) == (1, 1)


@pytest.mark.req("rfc5357-s4.2-07")
def test_a_stopped_session_closes_by_itself_and_tells_its_counters(make: Callable[..., Session]) -> None:
    session = make(1)
    session.reflector.start(SID)
    run_sender(session.plan, session.socket)
    session.reflector.stop(SID)
    assert session.ended.wait(60)
    assert session.closed == {SID: {"received": 20, "reflected": 20}}
    assert session.reflector.sessions == 0
    assert session.reflector.counters(SID) == {"received": 20, "reflected": 20}
    with pytest.raises(LocalProtocolError):
        session.reflector.start(SID)


class Delayed(Receiver):
    """One datagram, read `age_ns` after it arrived, on each call until `left` of them are gone."""

    way, batch = "delayed", 1

    def __init__(self, packet: bytes, address: tuple[str, int], ages_ns: list[int]) -> None:
        self.packet, self.peer, self.ages_ns = packet, address, ages_ns

    def receive(self, sock: socket.socket, limit: int = 1) -> int:
        return 1 if self.ages_ns else 0

    def datagram(self, number: int) -> memoryview:
        return memoryview(self.packet)

    def dscp_ecn(self, number: int) -> int | None:
        return None

    def stamp_and_ttl(self, number: int) -> tuple[int | None, int | None]:
        return ntp_add_ns(now_ntp(), -self.ages_ns.pop(0)), 255

    def address(self, number: int) -> tuple[str, int]:
        return self.peer


@pytest.mark.req("rfc5357-s3.5-10", "rfc5357-s3.5-11", "rfc5357-s3.8-06", "rfc5357-s4.2-07")
def test_a_packet_that_waited_is_reflected_when_it_came_within_timeout_and_not_when_after() -> None:
    """The reflector's thread comes 50 ms too late to the end of a session; what waits has its kernel stamps."""
    reflector = Reflector()
    peer, own = open_test_socket("127.0.0.1"), open_test_socket("127.0.0.1")
    try:
        address = peer.getsockname()[:2]
        plan = ReflectorPlan(SID, 1, None, own.getsockname()[:2], address, timeout_ns=1_000_000_000)
        session = SessionReflector(plan, now_ntp, 0x8A01)
        channel = _Channel(session, own)
        now = time.monotonic_ns()
        session.start(now - 3_000_000_000)
        session.stop(now - 1_050_000_000)
        packet = seal_sender(SenderPacket(0, now_ntp(), 0x8A01), 1, None)
        reflector._receiver = Delayed(packet, address, [60_000_000_000, 500_000_000, 0])
        reflector._serve(channel)
        assert session.counters == {"received": 3, "reflected": 2, "after_stop": 1, "slow_batches": 1}
    finally:
        own.close()
        peer.close()
        reflector.close()


def test_a_callback_that_fails_does_not_end_the_reflector(
    make: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    session = make(1)
    failed = threading.Event()

    def fail(sid: bytes, counters: dict[str, int]) -> None:
        failed.set()
        raise RuntimeError("not today")

    session.reflector._on_closed = fail
    other = replace(session.reflector_plan, sid=bytes(16), remote=session.local)
    sock = open_test_socket("127.0.0.1")
    target = sock.getsockname()
    session.reflector.add_session(other, sock)
    session.reflector.abort(SID)
    assert failed.wait(60)
    session.reflector.start(bytes(16))
    assert run_sender(replace(session.plan, remote=target), session.socket).received == 20
    assert "not today" in caplog.text


def test_an_abort_closes_at_once(make: Callable[..., Session]) -> None:
    session = make(1)
    session.reflector.start(SID)
    assert session.reflector.abort(SID) == {"received": 0, "reflected": 0}
    assert session.ended.wait(60)


def test_many_sessions_on_one_reflector() -> None:
    reflector = Reflector()
    sessions = []
    for number in range(8):
        sid = bytes([number]) * 16
        sockets = open_test_socket("127.0.0.1"), open_test_socket("127.0.0.1")
        local, remote = (sock.getsockname() for sock in sockets)
        keys = SessionKeys(os.urandom(16), os.urandom(32))
        reflector.add_session(ReflectorPlan(sid, 4, keys, remote, local), sockets[1])
        with pytest.raises(LocalProtocolError, match="already"):
            reflector.add_session(ReflectorPlan(sid, 4, keys, remote, local), sockets[1])
        reflector.start(sid)
        plan = SenderPlan(sid, 4, keys, local, remote, 20, FixedSchedule(500_000))
        sessions.append((plan, sockets[0]))
    results = []
    threads = [
        threading.Thread(target=lambda p=plan, s=sock: results.append(run_sender(p, s))) for plan, sock in sessions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [records.received for records in results] == [20] * 8
    assert reflector.sessions == 8
    reflector.close()
    reflector.close()
    with open_test_socket("127.0.0.1") as late, pytest.raises(LocalProtocolError, match="closed"):
        reflector.add_session(ReflectorPlan(SID, 1, None, ("", 0), ("", 0)), late)
    for _, sock in sessions:
        sock.close()


@pytest.mark.parametrize("mode", MODES)
def test_short_datagrams_never_bring_back_octets_of_others(make: Callable[..., Session], mode: int) -> None:
    session = make(mode)
    session.reflector.start(SID)
    sock = session.socket
    sock.connect(session.remote)
    sock.settimeout(10)
    secret = b"do not tell " * 60
    sock.send(seal_sender(SenderPacket(0, now_ntp(), 1, secret), mode, KEYS))
    assert secret[:200] in sock.recv(4096)
    for octets in (0, 1, 5, 13):
        sock.send(bytes(octets))
    sock.send(seal_sender(SenderPacket(1, now_ntp(), 1), mode, KEYS))
    reply = sock.recv(4096)
    assert len(reply) == (41 if mode == 1 else 112)
    assert b"tell" not in reply
    assert open_reflector(reply, mode, KEYS).sender_sequence_number == 1
    assert session.reflector.counters(SID) == {"received": 6, "reflected": 2, "too_short": 4}


@pytest.mark.parametrize("mode", MODES)
def test_the_second_decoder_reads_the_reply_from_the_wire(make: Callable[..., Session], mode: int) -> None:
    session = make(mode)
    session.reflector.start(SID)
    session.socket.connect(session.remote)
    session.socket.settimeout(10)
    session.socket.setsockopt(socket.IPPROTO_IP, IP_TTL, 17)
    t1 = now_ntp()
    session.socket.send(seal_sender(SenderPacket(9, t1, 0x8A01, bytes(100)), mode, KEYS))
    fields = decode_test(session.socket.recv(4096), (KEYS.aes, KEYS.hmac), "reflector", mode)
    t4 = now_ntp()
    assert (fields["sender_sequence_number"], fields["sender_timestamp"], fields["sender_ttl"]) == (9, t1, 17)
    assert t1 < fields["receive_timestamp"] < fields["timestamp"] < t4


def test_the_stranger_is_not_answered(make: Callable[..., Session]) -> None:
    session = make(1)
    session.reflector.start(SID)
    with open_test_socket("127.0.0.1") as stranger:
        stranger.connect(session.remote)
        stranger.send(seal_sender(SenderPacket(0, now_ntp(), 1), 1, None))
        run_sender(session.plan, session.socket)
        with pytest.raises(BlockingIOError):
            stranger.recv(4096, socket.MSG_DONTWAIT)
    assert session.reflector.counters(SID)["other_address"] == 1


def test_a_wait_sees_what_is_ready() -> None:
    with open_test_socket("127.0.0.1") as sock:
        signal = StopSignal()
        waiter = Waiter(sock.fileno(), signal.fileno())
        assert waiter.wait(0) == (False, False)
        sock.sendto(b"x", sock.getsockname())
        assert waiter.wait(10**10) == (True, False)
        signal.set()
        assert waiter.wait(10**10) == (True, True)
        assert signal()
        signal.close()


# RFC 6673 section 4.4.
@pytest.mark.parametrize(("late_ns", "slow"), [(900_000_000, False), (1_100_000_000, True)])
def test_a_reflector_that_takes_more_than_a_second_says_so_once(
    make: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    late_ns: int,
    slow: bool,
) -> None:
    monkeypatch.setattr("ippm.io.reflector_loop.now_ntp", lambda: ntp_add_ns(now_ntp(), late_ns))
    session = make(1)
    session.reflector.start(SID)
    session.socket.settimeout(20)
    for number in range(3):
        session.socket.sendto(seal_sender(SenderPacket(number, now_ntp(), 0x8A01), 1, None), session.remote)
        session.socket.recv(100)
    assert session.reflector.counters(SID).get("slow_batches", 0) == (3 if slow else 0)
    assert caplog.text.count("more than a second after it came") == slow
