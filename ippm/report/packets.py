"""The packets of a session, one by one, for reports: those of a two-way session as two crossings each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ippm.core.fetched_session import FetchedSession
from ippm.core.session_sender import SenderRecords
from ippm.metrics.packet_age import sent_times
from ippm.timestamps import ErrorEstimate, ntp_difference_ns
from ippm.wire.packet_record import LOST_TTL, PacketRecord


def first_copies(session: FetchedSession) -> list[PacketRecord]:
    """The records of a one-way session without those of further copies, and of packets said to be lost that came."""
    came: dict[int, PacketRecord] = {}
    lost: dict[int, PacketRecord] = {}
    for packet in session.packets:
        (lost if packet.lost else came).setdefault(packet.sequence_number, packet)
    return [*came.values(), *(packet for number, packet in lost.items() if number not in came)]


def crossings(records: SenderRecords) -> Iterator[tuple[PacketRecord, PacketRecord | None]]:
    """Each packet of a two-way session on its way there and back, by number; one that is lost has no way back.

    The time of sending is the kernel's where it said so. The second has the reflector's Sequence Number. Of a lost
    packet nothing is known but that it was sent.
    """
    sent = sent_times(records.t1, records.departure)
    for number in range(records.count):
        t1, t4 = sent[number], records.t4[number]
        if not t1:
            continue
        ours, theirs = records.sender_error[number], records.reflector_error[number]
        if not t4:
            yield PacketRecord(number, ours, ours, t1, 0, LOST_TTL), None
            continue
        t2, t3 = records.t2[number], records.t3[number]
        there = PacketRecord(number, ours, theirs, t1, t2, records.reflector_ttl[number])
        yield (
            there,
            PacketRecord(records.reflector_sequence[number], theirs, ours, t3, t4, records.reply_ttl[number]),
        )


def delay_ns(packet: PacketRecord) -> int:
    """What a packet that arrived took, by the two clocks."""
    return ntp_difference_ns(packet.receive_timestamp, packet.send_timestamp)


def synchronized(packet: PacketRecord) -> bool:
    """True when both ends said that their clock is synchronized; of a lost packet, the receiver."""
    both = (packet.receive_error,) if packet.lost else (packet.send_error, packet.receive_error)
    return all(ErrorEstimate.from_int(value).synchronized for value in both)


def error_s(error_estimate: int) -> float:
    """The seconds of an Error Estimate. RFC 4656 section 4.1.2."""
    estimate = ErrorEstimate.from_int(error_estimate)
    return math.ldexp(estimate.multiplier, estimate.scale - 32)


def clock_error_s(packet: PacketRecord) -> float:
    """The sum of both ends' Error Estimates, in seconds; of a lost packet that of the receiver."""
    receiver = error_s(packet.receive_error)
    return receiver if packet.lost else error_s(packet.send_error) + receiver
