"""OWAMP-Control messages against octets written down from the figures of RFC 4656."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ippm.core.fetched_session import MAGIC, FetchedSession, saved_mode
from ippm.errors import InvalidMessage, LocalProtocolError
from ippm.iana import Accept, Mode
from ippm.wire.fetch_session import LAST_SEQNO, FetchAck, FetchSession
from ippm.wire.packet_record import PacketRecord, packet_records, records_octets
from ippm.wire.request_session import MAXIMUM_SLOTS, RequestSession
from ippm.wire.schedule_slot import Slot, SlotType, unpack_slots
from ippm.wire.skip_ranges import SkipRange, pack_skip_ranges, padded
from ippm.wire.stop_descriptions import SessionDescription, StopSessionsWithDescriptions

SID = bytes.fromhex("c0000202e0000000000000005eed5eed")
REQUEST = RequestSession(
    conf_sender=False,
    conf_receiver=True,
    number_of_packets=1000,
    slots=(Slot(SlotType.EXPONENTIAL, 0x19999999), Slot(SlotType.FIXED, 0)),
    sender_port=18700,
    receiver_port=18760,
    sender_address=ip_address("192.0.2.1"),
    receiver_address=ip_address("192.0.2.2"),
    sid=SID,
    padding_length=27,
    start_time=0xE000000080000000,
    timeout=2 << 32,
    type_p=46 << 24,
)
REQUEST_OCTETS = bytes.fromhex(
    "01040001" "00000002" "000003e8" "490c4948"  # command, IPVN, Conf-Sender, Conf-Receiver, slots, packets, ports
    "c0000201" "000000000000000000000000"  # Sender Address
    "c0000202" "000000000000000000000000"  # Receiver Address
    "c0000202e0000000000000005eed5eed"  # SID
    "0000001b" "e000000080000000" "0000000200000000" "2e000000"  # padding, Start Time, Timeout, Type-P
    "0000000000000000"  # MBZ
)  # fmt: skip
SLOT_OCTETS = bytes.fromhex("0000000000000000000000001999999901000000000000000000000000000000")
STOP = StopSessionsWithDescriptions(
    (
        SessionDescription(SID, 1000),
        SessionDescription(bytes(15) + b"\x01", 20, (SkipRange(0, 9), SkipRange(12, 12))),
    )
)
STOP_OCTETS = bytes.fromhex(
    "03000000" "00000002" "0000000000000000"
    "c0000202e0000000000000005eed5eed" "000003e8" "00000000" "0000000000000000"  # padded to a block
    "00000000000000000000000000000001" "00000014" "00000002"
    "00000000" "00000009" "0000000c" "0000000c" "0000000000000000"
)  # fmt: skip
RECORD = PacketRecord(7, 0x8A20, 0x0B21, 0xE000000180000000, 0xE000000180100000, 250)
RECORD_OCTETS = bytes.fromhex("000000078a200b21e000000180000000e000000180100000fa")


@pytest.mark.req("rfc4656-s3.5-02")
@pytest.mark.req("rfc4656-s3.5-04")
def test_request_session() -> None:
    assert REQUEST.encode() == (REQUEST_OCTETS, SLOT_OCTETS)
    assert RequestSession.parse(REQUEST_OCTETS, SLOT_OCTETS) == REQUEST
    assert RequestSession.slots_octets(REQUEST_OCTETS[:16]) == 32
    assert REQUEST.dscp == 46
    assert replace(REQUEST, type_p=0x40010000).dscp is None


@pytest.mark.req("rfc4656-s3.5-03")
@pytest.mark.req("rfc4656-s3.1-23")
def test_what_must_be_zero_is_ignored() -> None:
    octets = bytearray(REQUEST_OCTETS)
    octets[1] |= 0xF0
    octets[20:32] = octets[36:48] = b"\xff" * 12
    octets[88:96] = b"\xff" * 8
    slots = SLOT_OCTETS[:1] + b"\xff" * 7 + SLOT_OCTETS[8:]
    assert RequestSession.parse(bytes(octets), slots) == REQUEST


def test_ipv6_addresses_have_all_sixteen_octets() -> None:
    six = replace(
        REQUEST, ipvn=6, sender_address=ip_address("2001:db8::1"), receiver_address=ip_address("2001:db8::2")
    )
    head, slots = six.encode()
    assert head[16:48].hex() == "20010db8000000000000000000000001" + "20010db8000000000000000000000002"
    assert RequestSession.parse(head, slots) == six


@pytest.mark.parametrize("slots", [MAXIMUM_SLOTS + 1, 0xFFFFFFFF])
def test_more_slots_than_are_read(slots: int) -> None:
    with pytest.raises(InvalidMessage) as caught:
        RequestSession.slots_octets(REQUEST_OCTETS[:4] + slots.to_bytes(4, "big") + bytes(8))
    assert caught.value.accept == Accept.PERMANENT_LIMITATION


@pytest.mark.req("rfc4656-s3.8-01")
@pytest.mark.req("rfc4656-s3.8-02")
def test_stop_sessions() -> None:
    assert STOP.encode() == STOP_OCTETS
    assert StopSessionsWithDescriptions.parse(STOP_OCTETS) == STOP
    swapped = replace(STOP.descriptions[1], skip_ranges=STOP.descriptions[1].skip_ranges[::-1])
    assert StopSessionsWithDescriptions((STOP.descriptions[0], swapped)).encode() == STOP_OCTETS


def test_the_length_of_a_stop_is_told_bit_by_bit() -> None:
    body, seen = STOP_OCTETS[:16], []
    while (octets := StopSessionsWithDescriptions.octets(body, 2, 2)) > len(body):
        seen.append(octets)
        body = STOP_OCTETS[:octets]
    assert body == STOP_OCTETS
    assert seen == [48, 80, 96]
    for limits in ((1, 2), (2, 1)):
        with pytest.raises(InvalidMessage):
            StopSessionsWithDescriptions.octets(STOP_OCTETS, *limits)


def test_fetch_session() -> None:
    fetch = FetchSession(SID, 5, 0x1234)
    octets = bytes.fromhex("04000000000000000000000500001234") + SID
    assert fetch.encode() == octets
    assert FetchSession.parse(octets) == fetch
    assert not fetch.complete
    assert FetchSession(SID).complete
    assert FetchSession(SID).encode()[8:16] == bytes(4) + b"\xff\xff\xff\xff"
    assert LAST_SEQNO == 0xFFFFFFFF


@pytest.mark.req("rfc4656-s3.9-04")
@pytest.mark.req("rfc4656-s3.9-05")
@pytest.mark.req("rfc4656-s3.9-06")
@pytest.mark.req("rfc4656-s3.9-07")
def test_fetch_ack() -> None:
    ack = FetchAck(Accept.OK, 1, 1000, 2, 998)
    octets = bytes.fromhex("00010000000003e800000002000003e6")
    assert ack.encode() == octets
    assert FetchAck.parse(octets) == ack
    assert replace(ack, accept=Accept.FAILURE).encode() == b"\x01" + bytes(15)
    assert FetchAck.parse(b"\x01" + b"\xff" * 15) == FetchAck(Accept.FAILURE)
    assert replace(ack, finished=0).encode() == bytes(12) + octets[12:]


def test_packet_records() -> None:
    assert RECORD.encode() == RECORD_OCTETS
    assert PacketRecord.parse(RECORD_OCTETS) == RECORD
    assert list(packet_records(RECORD_OCTETS * 2)) == [RECORD, RECORD]
    assert not RECORD.lost
    lost = PacketRecord.of_lost(3, 0xE000000180000000, 0x0B21)
    assert lost.encode().hex() == "0000000300010b21e0000001800000000000000000000000ff"
    assert lost.lost
    assert [records_octets(n) for n in (0, 1, 16, 17)] == [0, 32, 400, 432]


def test_a_saved_session() -> None:
    session = FetchedSession(REQUEST, 1, 1000, (SkipRange(1, 2),), RECORD_OCTETS * 3)
    octets = session.encode()
    assert octets.startswith(MAGIC)
    assert FetchedSession.decode(octets) == session
    assert session.sid == SID
    assert saved_mode(octets) == 0
    assert saved_mode(session.encode(Mode.ENCRYPTED)) == Mode.ENCRYPTED
    assert session.encode(Mode.ENCRYPTED)[8:16].hex() == "0000000400000000"
    without_mode = b"OWAMPfs1" + octets[16:]
    assert FetchedSession.decode(without_mode) == session
    assert saved_mode(without_mode) == 0
    for wrong in (3, 8, 1 << 31):
        with pytest.raises(InvalidMessage):
            FetchedSession.decode(session.encode(wrong))
    for cut in (0, 4, 8, 15, 30, 150, len(octets) - 1):
        with pytest.raises(InvalidMessage):
            FetchedSession.decode(octets[:cut])


def test_of_a_session_in_progress_nothing_is_known_that_its_end_makes_known() -> None:
    """A server that says more all the same is not believed."""
    ack = FetchAck(Accept.OK, 0, 1000, 1, 1)
    session = FetchedSession.of_parts(REQUEST, ack, padded(pack_skip_ranges([SkipRange(1, 2)])), RECORD_OCTETS)
    assert (session.finished, session.next_seqno, session.skip_ranges) == (0, 0, ())
    assert FetchedSession.decode(session.encode()) == session


@pytest.mark.parametrize("octets", [0, 1, 15, 95, 97])
def test_wrong_lengths(octets: int) -> None:
    data = bytes(octets)
    for parse in (FetchSession.parse, FetchAck.parse, PacketRecord.parse, StopSessionsWithDescriptions.parse):
        with pytest.raises(InvalidMessage):
            parse(data)
    with pytest.raises(InvalidMessage):
        RequestSession.parse(data, b"")
    with pytest.raises(InvalidMessage):
        unpack_slots(bytes(17))


def test_a_sid_has_sixteen_octets() -> None:
    for message in (FetchSession(b"short"), SessionDescription(b"short", 1), replace(REQUEST, sid=b"short")):
        with pytest.raises(LocalProtocolError):
            message.encode()
