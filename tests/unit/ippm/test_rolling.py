"""A session without an end, without sockets and by a virtual clock: periods, memory, reports. RFC 5357 section 3.8."""

from __future__ import annotations

import json
import os

import pytest

from ippm.core.rolling_sender import LINGER_NS, Period, RollingSender
from ippm.core.schedule import Slot, SlotType, StreamSchedule, poisson_schedule, poisson_stream
from ippm.core.session_sender import SenderPlan, SenderRecords, SessionSender
from ippm.crypto import SessionKeys
from ippm.crypto_packet import seal_reflector
from ippm.errors import LocalProtocolError
from ippm.metrics import two_way_metrics
from ippm.report.rolling import COUNTS, RollingReport, SessionWords
from ippm.timestamps import ErrorEstimate, ntp_add_ns
from ippm.wire.test_packet import ReflectorPacket

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
T0 = 0xE0000000_00000000
MS = 1_000_000
S = 1_000 * MS


def plan(mode: int = 1, **more: object) -> SenderPlan:
    options: dict[str, object] = {
        "sid": bytes(16),
        "mode": mode,
        "keys": KEYS,
        "local": ("192.0.2.1", 18700),
        "remote": ("192.0.2.2", 18760),
        "count": 1 << 32,
        "timeout_ns": 2 * S,
    }
    return SenderPlan(**{**options, **more})  # type: ignore[arg-type]


WORDS = SessionWords.of(
    plan(sid=bytes(range(16)), dscp=46, padding_octets=6, schedule=poisson_stream(20 * MS, bytes(16))),
    "open",
    1_700_000_000 * S,
)


class Run:
    """A path of 5 ms there and back, a packet every `interval_ns`, by a clock that only moves when it is told to."""

    def __init__(self, session: SessionSender, interval_ns: int, mode: int = 1) -> None:
        self.session = session
        self.interval_ns = interval_ns
        self.mode = mode
        self.periods: list[Period] = []

    def reply(self, sequence: int, sent_ns: int, delay_ns: int = 5 * MS) -> None:
        t1, t2 = ntp_add_ns(T0, sent_ns), ntp_add_ns(T0, sent_ns + 2 * MS)
        number = sequence & 0xFFFFFFFF
        packet = ReflectorPacket(number, ntp_add_ns(t2, MS), 0x8A01, t2, sequence, t1, 0x8A01, 255)
        self.session.handle_reply(seal_reflector(packet, self.mode, KEYS), 255, ntp_add_ns(T0, sent_ns + delay_ns))

    def send(self, sequence: int, *, answered: bool = True) -> None:
        now = sequence * self.interval_ns
        if isinstance(self.session, RollingSender):
            self.periods += self.session.tick(now)
        self.session.prepare(sequence)
        self.session.pack(sequence, ntp_add_ns(T0, now), 0x8A01)
        if answered:
            self.reply(sequence, now)


@pytest.mark.parametrize("mode", [1, 4])
def test_a_packet_belongs_to_the_period_in_which_it_was_sent(mode: int) -> None:
    session = RollingSender(plan(mode), period_ns=S)
    run = Run(session, 100 * MS, mode)
    for sequence in range(20):
        run.send(sequence, answered=sequence != 9)
    # Sent 100 ms before the end of its period, answered 1 s after that: its period still takes it.
    run.reply(9, 900 * MS, 1100 * MS)
    assert run.periods == []
    periods = session.tick(3 * S + LINGER_NS)
    assert [(p.index, p.start_ns, p.end_ns, p.first_sequence) for p in periods] == [(0, 0, S, 0)]
    assert (periods[0].records.sent, periods[0].records.received) == (10, 10)
    assert list(periods[0].records.arrivals) == [*range(9), 9]


def test_a_period_is_given_away_timeout_after_its_end_and_not_before() -> None:
    session = RollingSender(plan(), period_ns=S)
    Run(session, 100 * MS).send(0, answered=False)
    assert session.tick(3 * S + LINGER_NS - 1) == []
    assert session.outstanding == 1
    (period,) = session.tick(3 * S + LINGER_NS)
    assert (period.records.sent, period.records.received, period.records.count) == (1, 0, 1)
    assert session.outstanding == 0


def test_what_comes_after_that_is_no_reply_of_the_period() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 100 * MS)
    run.send(0)
    run.send(50)
    assert len(run.periods) == 2
    run.reply(0, 0)
    assert session.records.rejected == {"unknown_sequence_number": 1}
    assert session.outstanding == 0


def test_numbers_in_no_period_are_no_replies() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 100 * MS)
    run.send(0)
    run.reply(1, 100 * MS)
    run.reply(70, 7 * S)
    assert session.records.rejected == {"unknown_sequence_number": 2}


def test_periods_without_a_packet_are_periods() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 5 * S)
    run.send(0)
    run.send(1)
    run.periods += session.finish(5 * S + 1)
    assert [(p.index, p.records.sent) for p in run.periods] == [(0, 1), (1, 0), (2, 0), (3, 0), (4, 0), (5, 1)]
    assert run.periods[5].end_ns == 5 * S + 1


def test_a_loss_is_in_its_own_period_and_copies_with_their_packet() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 250 * MS)
    for sequence in range(8):
        run.send(sequence, answered=sequence != 5)
    run.reply(2, 500 * MS)
    run.periods += session.finish(2 * S)
    first, second = (period.records for period in run.periods)
    assert (first.sent, first.received, first.duplicates) == (4, 4, 1)
    assert (second.sent, second.received, second.duplicates) == (4, 3, 0)


@pytest.mark.req("rfc4656-s4.1.1-03")
def test_what_was_not_sent_is_no_loss() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 100 * MS)
    run.send(0)
    session.skip(1)
    run.send(2)
    session.unsent(2)
    (period,) = session.finish(300 * MS)
    assert (period.records.sent, period.records.skipped, period.records.send_failed) == (1, [1], 1)
    assert session.outstanding == 0


def octets(session: RollingSender) -> int:
    kept = 0
    for period in session._open:
        arrays = [getattr(period.records, name) for name in SenderRecords.__slots__]
        kept += sum(len(one) * one.itemsize for one in arrays if hasattr(one, "itemsize"))
    return kept


def test_memory_does_not_grow_with_time() -> None:
    session = RollingSender(plan(), period_ns=S)
    run = Run(session, 10 * MS)
    report = RollingReport("host")
    largest = []
    for minute in range(3):
        kept = 0
        for second in range(60):
            for packet in range(100):
                run.send((minute * 60 + second) * 100 + packet, answered=packet % 10 != 3)
            kept = max(kept, octets(session))
            for period in run.periods:
                json.dumps(report.line((WORDS, period)))
            run.periods.clear()
        assert session.open_periods == 3  # its own, and those of which Timeout and LINGER_NS have not passed
        largest.append((kept, len(report._round_trip._histogram.buckets())))
    assert largest[0] == largest[1] == largest[2]


def test_a_session_with_all_sequence_numbers_ends_at_the_last() -> None:
    session = RollingSender(plan(), period_ns=S)
    last = (1 << 32) - 1
    session._open[0] = Period(0, 0, S, last - 1, session.records)
    for sequence in (last - 1, last):
        session.prepare(sequence)
        session.pack(sequence, ntp_add_ns(T0, sequence), 0x8A01)
        Run(session, MS).reply(sequence, sequence)
    assert session.records.received == 2


def test_the_same_packets_in_one_session_and_in_periods_give_the_same_sums() -> None:
    rolling, whole = RollingSender(plan(), period_ns=S), SessionSender(plan(count=40))
    lost = {3, 4, 17, 29}
    report = RollingReport("host", "tunnel")
    run = Run(rolling, 100 * MS)
    for each in (run, Run(whole, 100 * MS)):
        for sequence in range(40):
            each.send(sequence, answered=sequence not in lost)
    run.periods += rolling.finish(4 * S)
    lines = [report.line((WORDS, period)) for period in run.periods]
    metrics = two_way_metrics(whole.records)
    assert [line["sent"] for line in lines] == [10, 10, 10, 10]
    assert [line["lost"] for line in lines] == [2, 1, 1, 0]
    assert [line["first_sequence"] for line in lines] == [0, 10, 20, 30]
    assert [line["period"] for line in lines] == [0, 1, 2, 3]
    assert lines[1]["start_unix_ns"] == lines[0]["end_unix_ns"] == WORDS.start_unix_ns + S
    # What was sent, and when a packet is lost, stand in each line. RFC 7679 section 3.8, RFC 6673 section 5.
    for line in lines:
        assert (line["payload_octets"], line["dscp"], line["timeout_ns"]) == (20, 46, 2 * S)
        assert line["schedule"] == [{"type": "exponential", "parameter_ns": 20 * MS}]
    assert lines[0]["delay_with_losses"]["count"] == 10
    assert lines[0]["delay_with_losses"]["p95_ns"] is None
    total = lines[-1]["total"]
    assert (total["sent"], total["received"], total["lost"]) == (metrics.sent, metrics.received, metrics.lost)
    assert metrics.round_trip is not None
    assert total["delay"]["count"] == metrics.round_trip.count
    assert total["delay"]["maximum_ns"] == metrics.round_trip.maximum
    assert total["delay"]["quantile_error_ppm"] > 0
    assert abs(total["delay"]["median_ns"] - metrics.round_trip.median) <= metrics.round_trip.median // 1000
    for name in COUNTS:
        assert total[name] == sum(line[name] for line in lines)
    end = report.end()
    assert (end["kind"], end["ok"], end["periods"], end["total"]) == ("end", True, 4, total)
    assert report.end("broken", 3)["periods_dropped"] == 3
    assert json.loads(json.dumps(lines)) == lines


def test_a_report_of_nothing() -> None:
    (period,) = RollingSender(plan(), period_ns=S).finish(0)
    line = RollingReport("host").line((WORDS, period))
    assert (line["sent"], line["delay"], line["first_sequence"], line["clock"]["local"]) == (0, None, None, None)
    assert line["total"]["delay"] is None


def test_the_worst_state_of_the_clocks_stands_beside_all_delays_since_the_start() -> None:
    report = RollingReport("host")
    bad = ErrorEstimate.from_ns(3 * S, synchronized=False).to_int()
    lines = []
    for number in range(3):
        records = SenderRecords(1)
        records.t1[0], records.t4[0] = T0, ntp_add_ns(T0, 5 * MS)
        records.t2[0], records.t3[0] = ntp_add_ns(T0, 2 * MS), ntp_add_ns(T0, 3 * MS)
        records.sender_error[0] = 0x8A01
        records.reflector_error[0] = bad if number == 1 else 0x8A01
        records.departure[0] = ntp_add_ns(T0, 1_000)
        records.send_error_ns[0] = 7
        records.arrivals.append(0)
        records.arrival_reflector_sequence.append(number)
        lines.append(report.line((WORDS, Period(number, number * S, (number + 1) * S, number, records))))
    assert [line["clock"]["both_synchronized"] for line in lines] == [True, False, True]
    assert [line["total"]["clock"]["both_synchronized"] for line in lines] == [True, False, False]
    assert lines[2]["total"]["clock"]["peer"] == {"synchronized": False, "error_ns": 3 * S, "source": "packet"}
    assert lines[2]["total"]["clock"]["local"]["synchronized"] is True
    assert report.end()["total"] == lines[2]["total"]
    assert lines[0]["stamps"]["local_transmit"] == "kernel"
    assert lines[0]["stamps"]["packet_age"]["median_ns"] == 1_000
    assert lines[0]["send_error"]["maximum_ns"] == 7
    assert lines[0]["forward"]["median_ns"] == 2 * MS - 1_000


def test_sessions_are_told_apart() -> None:
    report = RollingReport("host")
    for sid in (bytes(16), bytes(16), bytes(range(16))):
        (period,) = RollingSender(plan(), period_ns=S).finish(0)
        line = report.line((SessionWords.of(plan(sid=sid), "open", 0), period))
    assert line["total"]["sessions"] == 2
    assert line["sid"] == bytes(range(16)).hex()


def test_a_stream_has_the_times_of_the_schedule() -> None:
    sid = bytes.fromhex("2872979303ab47eeac028dab3829dab2")
    stream, schedule = poisson_stream(100 * MS, sid), poisson_schedule(100 * MS, sid, 500)
    assert [stream.offset_ns(n) for n in range(0, 500, 7)] == [schedule.offset_ns(n) for n in range(0, 500, 7)]
    with pytest.raises(LocalProtocolError):
        stream.offset_ns(3)
    with pytest.raises(LocalProtocolError):
        StreamSchedule([], sid).offset_ns(0)
    assert StreamSchedule([Slot(SlotType.FIXED, 1 << 31)], sid).offset_ns(1_000_000) == 1_000_001 * S // 2


def test_a_period_is_longer_than_nothing() -> None:
    with pytest.raises(LocalProtocolError):
        RollingSender(plan(), os.urandom(16), period_ns=0)
