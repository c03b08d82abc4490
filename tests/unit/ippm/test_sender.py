"""The Session-Sender, without sockets: packets, replies, records. RFC 5357 section 4.1."""

from __future__ import annotations

import os

import pytest

from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import SessionKeys
from ippm.crypto_packet import open_sender, seal_reflector
from ippm.errors import LocalProtocolError
from ippm.timestamps import ntp_add_ns
from ippm.wire.test_packet import ReflectorPacket

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
T0 = 0xE0000000_00000000
MODES = [1, 2, 4]


def plan(mode: int = 1, count: int = 4, **more: object) -> SenderPlan:
    options: dict[str, object] = {
        "sid": bytes(16),
        "mode": mode,
        "keys": KEYS,
        "local": ("192.0.2.1", 18700),
        "remote": ("192.0.2.2", 18760),
        "count": count,
    }
    return SenderPlan(**{**options, **more})  # type: ignore[arg-type]


def reply(mode: int, sequence: int, *, own: int | None = None, t1: int | None = None) -> bytes:
    stamp = ntp_add_ns(T0, sequence * 1_000_000) if t1 is None else t1
    own = sequence if own is None else own
    packet = ReflectorPacket(
        own, ntp_add_ns(stamp, 300_000), 0x0A05, ntp_add_ns(stamp, 200_000), sequence, stamp, 0x8A01, 60
    )
    return seal_reflector(packet, mode, KEYS)


def sender(mode: int = 1, count: int = 4, sent: int | None = None, **more: object) -> SessionSender:
    session = SessionSender(plan(mode, count, **more))
    for sequence in range(count if sent is None else sent):
        session.prepare(sequence)
        session.pack(sequence, ntp_add_ns(T0, sequence * 1_000_000), 0x8A01)
    return session


def at(sequence: int, delay_ns: int = 500_000) -> int:
    return ntp_add_ns(T0, sequence * 1_000_000 + delay_ns)


@pytest.mark.parametrize("mode", MODES)
def test_packets_are_numbered_from_zero_and_stamped_as_told(mode: int) -> None:
    session = SessionSender(plan(mode))
    for sequence in range(4):
        session.prepare(sequence)
        packet = open_sender(bytes(session.pack(sequence, T0 + sequence, 0x8A01)), mode, KEYS)
        assert (packet.sequence_number, packet.timestamp, packet.error_estimate) == (
            sequence,
            T0 + sequence,
            0x8A01,
        )
    assert session.records.sent == 4
    assert session.outstanding == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_fills_the_record_of_its_packet(mode: int) -> None:
    session = sender(mode)
    assert session.handle_reply(reply(mode, 2, own=0), 59, at(2))
    records = session.records
    assert records.received == 1
    assert records.t1[2] == at(2, 0)
    assert records.t2[2] == ntp_add_ns(at(2, 0), 200_000)
    assert records.t3[2] == ntp_add_ns(at(2, 0), 300_000)
    assert records.t4[2] == at(2)
    assert (records.reflector_ttl[2], records.reply_ttl[2]) == (60, 59)
    assert (records.sender_error[2], records.reflector_error[2]) == (0x8A01, 0x0A05)
    assert session.outstanding == 3
    assert repr(records) == "SenderRecords(count=4, sent=4, received=1)"


@pytest.mark.req("rfc4656-s4.2-03")
def test_a_ttl_that_could_not_be_read_is_255() -> None:
    session = sender()
    session.handle_reply(reply(1, 0), None, at(0))
    assert session.records.reply_ttl[0] == 255


@pytest.mark.parametrize("mode", MODES)
def test_copies_are_counted_by_where_they_were_made_and_change_nothing(mode: int) -> None:
    session = sender(mode)
    assert session.handle_reply(reply(mode, 0, own=0), 64, at(0))
    assert not session.handle_reply(reply(mode, 0, own=0), 64, at(0, 600_000))
    assert not session.handle_reply(reply(mode, 0, own=1), 64, at(0, 700_000))
    records = session.records
    assert (records.reflect_duplicates, records.send_duplicates, records.duplicates) == (1, 1, 2)
    # A copy of the reply to a copy was made on the way back, too.
    assert not session.handle_reply(reply(mode, 0, own=1), 64, at(0, 800_000))
    assert (records.reflect_duplicates, records.send_duplicates, records.duplicates) == (2, 1, 3)
    assert records.t4[0] == at(0)
    assert list(records.arrivals) == [0, 0, 0, 0]
    assert list(records.arrival_reflector_sequence) == [0, 0, 1, 1]


def test_a_reply_after_timeout_counts_as_lost() -> None:
    session = sender(timeout_ns=1_000_000)
    assert session.handle_reply(reply(1, 0), 64, at(0, 1_000_000))
    assert not session.handle_reply(reply(1, 1), 64, at(1, 1_000_001))
    assert (session.records.received, session.records.late) == (1, 1)
    assert list(session.records.arrivals) == [0]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_reply_of_ours_is_counted_by_name(mode: int) -> None:
    session = sender(mode, sent=2)
    assert not session.handle_reply(b"", 64, at(0))
    assert not session.handle_reply(reply(mode, 3), 64, at(3))  # not sent yet
    assert not session.handle_reply(reply(mode, 400), 64, at(0))
    assert not session.handle_reply(reply(mode, 1, t1=T0 + 1), 64, at(1))
    expected = {"too_short": 1, "unknown_sequence_number": 2, "sender_timestamp_differs": 1}
    if mode != 1:
        broken = bytearray(reply(mode, 0))
        broken[3] ^= 1
        assert not session.handle_reply(broken, 64, at(0))
        expected["hmac_mismatch"] = 1
    assert session.records.rejected == expected
    assert session.records.received == 0


@pytest.mark.req("rfc4656-s4.1.1-03")
def test_packets_that_were_not_sent_are_known_as_skip_ranges() -> None:
    session = SessionSender(plan(count=9))
    for sequence in range(9):
        if sequence in (0, 1, 5, 8):
            session.skip(sequence)
        else:
            session.pack(sequence, T0 + sequence, 0x8A01)
    assert session.records.skip_ranges == [(0, 1), (5, 5), (8, 8)]
    assert session.records.sent == 5


def test_a_packet_that_the_system_did_not_take_was_not_sent() -> None:
    session = sender(count=2)
    session.unsent(1)
    assert (session.records.sent, session.records.send_failed, session.outstanding) == (1, 1, 1)
    session.pack(1, T0 + 4, 0x8A01, late_ns=7_000)
    session.repack(1, T0 + 5, 0x8A01)
    assert session.records.t1[1] == T0 + 5
    assert session.records.send_error_ns[1] == 7_000  # as late as it was
    assert session.outstanding == 2


@pytest.mark.req("rfc4656-s4.1.2-09", "rfc5357-s4.2.1-07")
@pytest.mark.parametrize("mode", MODES)
def test_padding_is_zeros_when_asked_for(mode: int) -> None:
    session = SessionSender(plan(mode, zero_padding=True, padding_octets=40), os.urandom(4136))
    session.prepare(0)
    packet = session.pack(0, T0, 0x8A01)
    assert bytes(packet[-40:]) == bytes(40)
    assert len(packet) == (14 if mode == 1 else 48) + 40


@pytest.mark.req("rfc4656-s4.1.2-07", "rfc5357-s4.2.1-05")
@pytest.mark.parametrize("mode", MODES)
def test_padding_is_from_its_own_random_octets_and_differs_from_packet_to_packet(mode: int) -> None:
    pool = os.urandom(4096 + 40)
    session = SessionSender(plan(mode, padding_octets=40), pool)
    seen = set()
    for sequence in range(4):
        session.prepare(sequence)
        padding = bytes(session.pack(sequence, T0, 0x8A01)[-40:])
        assert padding in pool
        seen.add(padding)
    assert len(seen) == 4


def test_a_padding_source_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="padding_source"):
        SessionSender(plan(padding_octets=40), bytes(50))
    assert "keys" not in repr(plan(2))
    for wrong in ({"count": -1}, {"padding_octets": -1}):
        with pytest.raises(LocalProtocolError):
            SessionSender(plan(**wrong))  # type: ignore[arg-type]
