"""The Session-Receiver and the Session-Sender of OWAMP-Test, without a socket. RFC 4656 sections 3.8, 3.9, 4.1, 4.2."""

from __future__ import annotations

from dataclasses import replace

import pytest
from owamp_control_peers import FIXED_10_MS, NTP_NOW, POISSON_10_MS, SECOND, SYNCHRONIZED

from ippm.core.one_way_sender import POOL_OCTETS, OneWayPlan, OneWaySender
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_receiver import ReceiverPlan, ReceiverResult, SessionEnd, SessionReceiver
from ippm.core.session_schedule import SessionSchedule
from ippm.crypto import SessionKeys
from ippm.errors import LocalProtocolError
from ippm.timestamps import ntp_add_ns
from ippm.wire.packet_record import PacketRecord, packet_records
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription

SID = bytes(range(16))
KEYS = SessionKeys(bytes(16), bytes(32))
TIMEOUT = 1 << 32
START = ntp_add_ns(NTP_NOW, SECOND)


def pair(
    mode: int = 1, count: int = 20, slots: tuple[Slot, ...] = FIXED_10_MS
) -> tuple[OneWaySender, SessionReceiver]:
    schedule = SessionSchedule(slots, SID, count)
    keys = KEYS if mode != 1 else None
    sender = OneWaySender(OneWayPlan(SID, mode, keys, ("192.0.2.2", 1), schedule, START, SECOND, 4))
    return sender, SessionReceiver(ReceiverPlan(SID, mode, keys, schedule, START, TIMEOUT), SYNCHRONIZED)


def packet(sender: OneWaySender, number: int, late_ns: int = 0) -> tuple[bytes, int]:
    """The packet with this number, and when it was sent."""
    sender.next_seqno = number
    sent = ntp_add_ns(START + sender.plan.schedule.offset(number), late_ns)
    sender.prepare()
    return bytes(sender.pack(sent, SYNCHRONIZED)), sent


def records(receiver: SessionReceiver, result: ReceiverResult | None = None) -> list[PacketRecord]:
    octets = receiver.take_records()
    if result is not None:
        octets += b"".join(receiver.lost_records(result))
    return list(packet_records(octets))


@pytest.mark.parametrize("mode", [1, 2, 4])
@pytest.mark.parametrize("slots", [FIXED_10_MS, POISSON_10_MS])
def test_a_packet_is_recorded_as_it_came(mode: int, slots: tuple[Slot, ...]) -> None:
    sender, receiver = pair(mode, slots=slots)
    data, sent = packet(sender, 3)
    assert receiver.handle(data, 61, sent + 500)
    assert records(receiver) == [PacketRecord(3, SYNCHRONIZED, SYNCHRONIZED, sent, sent + 500, 61)]
    assert records(receiver) == []


@pytest.mark.req("rfc4656-s4.2-03")
def test_a_ttl_that_could_not_be_read_is_255() -> None:
    sender, receiver = pair()
    data, sent = packet(sender, 0)
    receiver.handle(data, None, sent)
    assert records(receiver)[0].ttl == 255


@pytest.mark.req("rfc4656-s4.2-06")
def test_copies_and_reordered_packets_are_recorded_in_order_of_arrival() -> None:
    sender, receiver = pair()
    for number in (5, 2, 5, 5, 0):
        data, sent = packet(sender, number)
        assert receiver.handle(data, 255, sent + 9)
    assert [record.sequence_number for record in records(receiver)] == [5, 2, 5, 5, 0]


@pytest.mark.req("rfc4656-s4.2-05")
def test_a_packet_from_the_future_keeps_its_stamp() -> None:
    sender, receiver = pair()
    data, sent = packet(sender, 0)
    assert receiver.handle(data, 255, sent - TIMEOUT // 2)
    (record,) = records(receiver)
    assert (record.send_timestamp, record.receive_timestamp) == (sent, sent - TIMEOUT // 2)


@pytest.mark.req("rfc4656-s4.2-07")
@pytest.mark.req("rfc4656-s4.2-07a")
@pytest.mark.parametrize(
    ("delay", "kept"), [(TIMEOUT, True), (TIMEOUT + 1, False), (-TIMEOUT, True), (-TIMEOUT - 1, False)]
)
def test_what_is_more_than_timeout_in_the_past_or_future_is_discarded(delay: int, kept: bool) -> None:
    sender, receiver = pair()
    data, sent = packet(sender, 0)
    assert receiver.handle(data, 255, sent + delay) == kept
    assert len(records(receiver)) == kept
    assert receiver.counters == ({} if kept else {"too_old_or_new": 1})


@pytest.mark.req("rfc4656-s4.2-07")
@pytest.mark.req("rfc4656-s4.2-07b")
@pytest.mark.parametrize("slots", [FIXED_10_MS, POISSON_10_MS])
@pytest.mark.parametrize("late_ns", [-1_100_000_000, 1_100_000_000, -(10**12), 10**12])
def test_what_is_more_than_timeout_off_the_schedule_is_discarded(slots: tuple[Slot, ...], late_ns: int) -> None:
    sender, receiver = pair(slots=slots)
    data, sent = packet(sender, 7, late_ns)
    assert not receiver.handle(data, 255, sent)
    assert receiver.counters == {"off_schedule": 1}
    data, sent = packet(sender, 7, late_ns // 1_000_000)
    assert receiver.handle(data, 255, sent)


@pytest.mark.req("rfc4656-s4.2-01")
@pytest.mark.req("rfc4656-s4.2-07")
@pytest.mark.req("rfc4656-s4.2-07c")
@pytest.mark.parametrize("mode", [2, 4])
def test_what_fails_its_hmac_is_discarded(mode: int) -> None:
    sender, receiver = pair(mode)
    data, sent = packet(sender, 0)
    assert not receiver.handle(data[:5] + bytes([data[5] ^ 1]) + data[6:], 255, sent)
    assert not receiver.handle(data[:40], 255, sent)
    assert receiver.counters == {"hmac_mismatch": 1, "too_short": 1}


@pytest.mark.req("rfc4656-s4.1.2-06")
def test_multiplier_zero_and_numbers_beyond_the_session_are_discarded_and_the_session_goes_on() -> None:
    sender, receiver = pair()
    data, sent = packet(sender, 0)
    assert not receiver.handle(data[:13] + b"\x00" + data[14:], 255, sent)
    assert not receiver.handle((20).to_bytes(4, "big") + data[4:], 255, sent)
    assert not receiver.handle(b"\xff" * 4 + data[4:], 255, sent)
    assert receiver.handle(data, 255, sent)
    assert receiver.counters == {"multiplier_is_zero": 1, "unknown_sequence_number": 2}
    assert receiver.highest == 0


def test_a_forged_number_does_not_make_the_whole_schedule_computed() -> None:
    sender, receiver = pair(count=1_000_000, slots=POISSON_10_MS)
    data, sent = packet(sender, 0)
    assert not receiver.handle((999_999).to_bytes(4, "big") + data[4:], 255, sent)
    assert receiver.counters == {"off_schedule": 1}
    assert len(receiver.plan.schedule._offsets) < 1000


def received(numbers: tuple[int, ...], **options: object) -> SessionReceiver:
    sender, receiver = pair(**options)  # type: ignore[arg-type]
    for number in numbers:
        data, sent = packet(sender, number)
        assert receiver.handle(data, 255, sent + 5)
    return receiver


AFTER = ntp_add_ns(START, 100 * SECOND)


class TestFinish:
    @pytest.mark.req("rfc4656-s3.9-10")
    @pytest.mark.req("rfc4656-s4.2-04")
    def test_lost_packets_have_records_at_the_end(self) -> None:
        receiver = received((0, 1, 4, 7))
        result = receiver.finish(SessionDescription(SID, 10, (SkipRange(5, 6), SkipRange(9, 9))), AFTER)
        assert result == ReceiverResult(SessionEnd.NORMAL, 10, (SkipRange(5, 6), SkipRange(9, 9)), 20)
        made = records(receiver, result)
        assert [record.sequence_number for record in made] == [0, 1, 4, 7, 2, 3, 8]
        for record in made[4:]:
            presumed = START + receiver.plan.schedule.offset(record.sequence_number)
            assert record == PacketRecord.of_lost(record.sequence_number, presumed, SYNCHRONIZED)

    @pytest.mark.req("rfc4656-s3.8-08")
    def test_without_a_stop_nothing_is_known_after_the_last_packet_that_came(self) -> None:
        receiver = received((0, 3))
        result = receiver.finish(None, AFTER)
        assert (result.end, result.next_seqno) == (SessionEnd.BROKEN, 4)
        assert [record.sequence_number for record in records(receiver, result)] == [0, 3, 1, 2]
        assert received(()).finish(None, AFTER).next_seqno == 0

    @pytest.mark.req("rfc4656-s3.8-09")
    @pytest.mark.parametrize(
        ("next_seqno", "end"), [(3, SessionEnd.INVALID), (4, SessionEnd.NORMAL), (21, SessionEnd.INVALID)]
    )
    def test_a_sender_that_sent_less_than_came_invalidates_all(self, next_seqno: int, end: SessionEnd) -> None:
        receiver = received((0, 3))
        result = receiver.finish(SessionDescription(SID, next_seqno), AFTER)
        assert result.end is end
        if end is SessionEnd.INVALID:
            assert list(receiver.lost_records(result)) == []

    @pytest.mark.req("rfc4656-s3.8-10")
    @pytest.mark.parametrize("slots", [FIXED_10_MS, POISSON_10_MS])
    def test_what_was_sent_in_the_last_timeout_is_neither_received_nor_lost(self, slots: tuple[Slot, ...]) -> None:
        receiver = received((0, 150, 199), count=200, slots=slots)
        schedule = receiver.plan.schedule
        now = START + schedule.offset(120) + TIMEOUT
        result = receiver.finish(SessionDescription(SID, 200), now)
        assert result.keep_below == 120
        lost = [r.sequence_number for chunk in receiver.lost_records(result) for r in packet_records(chunk)]
        assert lost == list(range(1, 120))
        early = receiver.finish(SessionDescription(SID, 200), START)
        assert early.keep_below == 0

    def test_the_end_is_timeout_after_the_last_packet(self) -> None:
        receiver = received(())
        assert receiver.complete_at(START) == START + receiver.plan.schedule.offset(19) + TIMEOUT
        long = received((), count=1_000_000, slots=POISSON_10_MS)
        assert long.complete_at(START) is None


class TestSender:
    @pytest.mark.req("rfc4656-s4.1.1-03")
    def test_what_is_not_sent_is_in_skip_ranges(self) -> None:
        sender, _ = pair()
        for number in range(20):
            if number in (0, 1, 2, 7, 19):
                sender.skip()
            else:
                sender.was_sent()
        assert sender.ended
        assert sender.sent == 15
        ranges = (SkipRange(0, 2), SkipRange(7, 7), SkipRange(19, 19))
        assert sender.description() == SessionDescription(SID, 20, ranges)

    def test_a_sender_that_ends_early_says_where(self) -> None:
        sender, _ = pair()
        sender.was_sent()
        assert sender.description() == SessionDescription(SID, 1)

    @pytest.mark.req("rfc4656-s4.1.2-07")
    @pytest.mark.req("rfc4656-s4.1.2-09")
    def test_padding_is_pseudo_random_or_zeros_when_asked_for(self) -> None:
        plan = pair()[0].plan
        pool = bytes(n % 251 for n in range(POOL_OCTETS + 4))
        sender = OneWaySender(plan, pool)
        paddings = {packet(sender, n)[0][14:] for n in range(5)}
        assert len(paddings) == 5
        zeros = OneWaySender(replace(plan, zero_padding=True), pool)
        assert {packet(zeros, n)[0][14:] for n in range(5)} == {bytes(4)}
        with pytest.raises(LocalProtocolError):
            OneWaySender(plan, pool[:-1])


class TestSchedule:
    def test_fixed_slots_need_no_list(self) -> None:
        slots = (Slot(SlotType.FIXED, 5), Slot(SlotType.FIXED, 0), Slot(SlotType.FIXED, 7))
        schedule = SessionSchedule(slots, SID, 1 << 32)
        assert [schedule.offset(n) for n in range(7)] == [5, 5, 12, 17, 17, 24, 29]
        assert schedule.offset(3_000_000_000) == 1_000_000_000 * 12 + 5
        assert [schedule.first_from(limit) for limit in (0, 5, 6, 13, 30)] == [0, 0, 2, 3, 8]

    def test_offsets_are_computed_as_far_as_they_are_needed(self) -> None:
        schedule = SessionSchedule(POISSON_10_MS, SID, 1000)
        whole = [SessionSchedule(POISSON_10_MS, SID, 1000).offset(n) for n in range(1000)]
        assert schedule.offset_within(10, whole[10]) == whole[10]
        assert schedule.offset_within(500, whole[20]) is None
        assert len(schedule._offsets) == 22
        assert schedule.first_from(whole[30]) == 30
        assert schedule.first_from(whole[999] + 1) == 1000
        with pytest.raises(LocalProtocolError):
            SessionSchedule((), SID, 1)
