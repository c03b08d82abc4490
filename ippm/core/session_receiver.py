"""The Session-Receiver of OWAMP-Test, sans-IO: takes packets, makes the records of a session.

Records of packets come out of `take_records` as they arrive; those of lost packets at the end, when the sender has
said which packets it sent. All times are NTP stamps and 32.32 fixed point, as in the packets and the schedule.
RFC 4656 section 4.2, sections 3.8 and 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from ippm.core.session_schedule import SessionSchedule
from ippm.crypto_packet import Octets, PacketKeys, TestProtection
from ippm.errors import IntegrityError, InvalidMessage
from ippm.timestamps import MASK_64
from ippm.wire.packet_record import LOST_SEND_ERROR, LOST_TTL, RECORD
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription

TTL_UNKNOWN = 255
_CHUNK = 4096
_HALF = 1 << 63
_AHEAD = 3 << 32


class SessionEnd(IntEnum):
    """How a session stands or ended: the Finished field of Fetch-Ack, and whether its results are valid at all."""

    RUNNING = 0
    NORMAL = 1
    BROKEN = 2
    INVALID = 3


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """All that a Session-Receiver needs to know of a session.

    `mode` is a Modes word; `start_time` is NTP, `timeout` 32.32 fixed point. RFC 4656 section 3.5.
    """

    sid: bytes
    mode: int
    keys: PacketKeys | None = field(repr=False)
    schedule: SessionSchedule = field(repr=False)
    start_time: int
    timeout: int


@dataclass(frozen=True, slots=True)
class ReceiverResult:
    """How a session ended. Records of packets from `keep_below` on are to be discarded. RFC 4656 section 3.8."""

    end: SessionEnd
    next_seqno: int
    skip_ranges: tuple[SkipRange, ...]
    keep_below: int
    reason: str = ""


def maximum_records(packets: int) -> int:
    """How many records a session of so many packets may have: one each, and some for copies."""
    return packets + packets // 4 + 1000


class SessionReceiver:
    """One session's state; raises nothing on what arrives. RFC 4656 section 4.2.

    `counters` says what was discarded, by name. `error_estimate` is that of our clock, kept fresh by the driver.
    """

    def __init__(self, plan: ReceiverPlan, error_estimate: int) -> None:
        self.plan = plan
        self.error_estimate = error_estimate
        self.counters: dict[str, int] = {}
        self.highest = -1
        self.received = 0
        self._count = plan.schedule.count
        self._copies_left = maximum_records(self._count) - self._count
        self._seen = bytearray(min(self._count, _CHUNK))
        self._records = bytearray()
        self._protection = TestProtection.of(plan.mode, plan.keys)
        self._unpack = self._protection.unpack_sender

    def handle(self, data: Octets, ttl: int | None, stamp: int) -> bool:
        """Takes a datagram that arrived at `stamp`; True when it is recorded."""
        try:
            sequence, sent, send_error = self._unpack(data)
        except IntegrityError:
            return self._discard("hmac_mismatch")  # rfc4656-s4.2-01, rfc4656-s4.2-07c, rfc4656-s4.2-07
        except InvalidMessage as error:
            return self._discard("too_short" if len(data) < self._protection.sender_octets else _name(error))
        if sequence >= self._count:
            return self._discard("unknown_sequence_number")
        timeout = self.plan.timeout
        if timeout < (stamp - sent) & MASK_64 < MASK_64 + 1 - timeout:  # rfc4656-s4.2-07a
            return self._discard("too_old_or_new")
        # When the packet should have been sent; only as much of the schedule as may be due is computed.
        since_start = (sent - self.plan.start_time) & MASK_64
        if since_start >= _HALF:
            since_start -= MASK_64 + 1
        offset = self.plan.schedule.offset_within(sequence, since_start + timeout)
        if offset is None or since_start - offset > timeout:  # rfc4656-s4.2-07b
            return self._discard("off_schedule")
        if sequence < len(self._seen) and self._seen[sequence]:
            if not self._copies_left:
                # One packet that is played again and again neither fills the disk nor ends the session.
                return self._discard("copies_beyond_room")
            self._copies_left -= 1
        # Duplicates, and packets from the future, are recorded like any other.  rfc4656-s4.2-05, rfc4656-s4.2-06
        self._records += RECORD.pack(
            sequence,
            send_error,
            self.error_estimate,
            sent,
            stamp,
            TTL_UNKNOWN if ttl is None else ttl,  # rfc4656-s4.2-03
        )
        if sequence >= len(self._seen):
            self._seen.extend(bytes(min(self._count, max(sequence + 1, 2 * len(self._seen))) - len(self._seen)))
        self._seen[sequence] = 1
        if sequence > self.highest:
            self.highest = sequence
        self.received += 1
        return True

    def take_records(self) -> bytes:
        """The records since the last call, 25 octets each."""
        records = bytes(self._records)
        self._records.clear()
        return records

    def complete_at(self, now: int) -> int | None:
        """The NTP time at which the session is complete: Timeout after its last packet. RFC 4656 section 3.8.

        None while the last packet is due more than some seconds after `now`: ask again in a second.
        """
        elapsed = (now - self.plan.start_time) & MASK_64
        if elapsed >= _HALF:
            elapsed -= MASK_64 + 1
        last = self.plan.schedule.offset_within(self._count - 1, max(0, elapsed) + _AHEAD)
        return None if last is None else (self.plan.start_time + last + self.plan.timeout) & MASK_64

    def finish(self, description: SessionDescription | None, now: int) -> ReceiverResult:
        """The end of a session by what its sender said, or (None) without it: the Control connection broke.

        `now` is NTP. RFC 4656 section 3.8.
        """
        if description is None:
            # What follows the last packet that came may never have been sent.  rfc4656-s3.8-08
            return ReceiverResult(SessionEnd.BROKEN, self.highest + 1, (), self.highest + 1, "no Stop-Sessions")
        if description.next_seqno > self._count:
            return self.invalid(f"Next Seqno {description.next_seqno} of {self._count} packets")
        if self.highest >= description.next_seqno:  # rfc4656-s3.8-09
            return self.invalid(f"packet {self.highest} came, and {description.next_seqno} was never sent")
        # Packets of the last Timeout may still be on their way: neither received nor lost.  rfc4656-s3.8-10
        limit = (now - self.plan.timeout - self.plan.start_time) & MASK_64
        keep_below = 0 if limit >= _HALF else self.plan.schedule.first_from(limit)
        return ReceiverResult(SessionEnd.NORMAL, description.next_seqno, description.skip_ranges, keep_below)

    def lost_records(self, result: ReceiverResult) -> Iterator[bytes]:
        """The records of lost packets, some at a time. RFC 4656 section 3.9."""
        if result.end is SessionEnd.INVALID:
            return
        end = min(result.next_seqno, result.keep_below)
        skipped = iter((*result.skip_ranges, SkipRange(end, end)))
        first, last = next(skipped)
        seen, offset, start = self._seen, self.plan.schedule.offset, self.plan.start_time
        chunk = bytearray()
        for sequence in range(end):
            while sequence > last:
                first, last = next(skipped)
            if sequence >= first or (sequence < len(seen) and seen[sequence]):
                continue
            presumed = (start + offset(sequence)) & MASK_64
            # rfc4656-s3.9-10, rfc4656-s4.2-04
            chunk += RECORD.pack(sequence, LOST_SEND_ERROR, self.error_estimate, presumed, 0, LOST_TTL)
            if len(chunk) >= _CHUNK * RECORD.size:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)

    def invalid(self, reason: str) -> ReceiverResult:
        """The result of a session whose data is worth nothing, and why."""
        return ReceiverResult(SessionEnd.INVALID, 0, (), 0, reason)

    def _discard(self, name: str) -> bool:
        self.counters[name] = self.counters.get(name, 0) + 1
        return False


def _name(error: InvalidMessage) -> str:
    return str(error).lower().replace(" ", "_")
