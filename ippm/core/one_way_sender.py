"""The Session-Sender of OWAMP-Test, sans-IO: makes packets, and keeps what Stop-Sessions has to say of them.

RFC 4656 sections 4.1 and 3.8.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from ippm.core.session_schedule import SessionSchedule
from ippm.crypto_packet import PacketKeys, TestProtection
from ippm.errors import LocalProtocolError
from ippm.timestamps import ntp_difference_ns
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription

POOL_OCTETS = 4096
_EARLIEST_NS = 1_000_000
"""A stamp that was put forward, by the age that packets have when they are sent, may lie so much after the sending."""


@dataclass(frozen=True, slots=True)
class OneWayPlan:
    """All that a Session-Sender needs to know of a session; no part of it changes while the session runs.

    `mode` is a Modes word; `remote` is (address, UDP port); `start_time` is NTP. `measure` keeps of each packet how
    late it was sent, its stamp, and when the kernel sent it. RFC 4656 section 3.5.
    """

    sid: bytes
    mode: int
    keys: PacketKeys | None = field(repr=False)
    remote: tuple[str, int]
    schedule: SessionSchedule = field(repr=False)
    start_time: int
    timeout_ns: int
    padding_octets: int = 0
    zero_padding: bool = False
    measure: bool = False


class OneWaySender:
    """One session's state. Per packet: `prepare(n)`, then at its time `pack(n, stamp, error)` and send what it gives.

    `padding_source` is at least `padding_octets` + 4096 pseudo-random octets drawn for this session alone; without it
    the padding is all zeros. RFC 4656 section 4.1.
    """

    def __init__(self, plan: OneWayPlan, padding_source: bytes = b"") -> None:
        self.plan = plan
        self.count = plan.schedule.count
        self.next_seqno = 0
        self.sent = 0
        self.late_ns = array("q")
        self.stamps = array("Q")
        self.departure = array("Q")
        self._measure = plan.measure
        self._stamp = 0
        self._skips: list[SkipRange] = []
        self._protection = TestProtection.of(plan.mode, plan.keys)
        self._fixed = self._protection.sender_octets
        self._buffer = bytearray(self._fixed + plan.padding_octets)
        self._view = memoryview(self._buffer)
        random_padding = plan.padding_octets and padding_source and not plan.zero_padding
        self._pool = memoryview(padding_source) if random_padding else None
        if self._pool is not None and len(self._pool) < plan.padding_octets + POOL_OCTETS:
            raise LocalProtocolError(f"padding_source is shorter than {plan.padding_octets + POOL_OCTETS} octets")

    @property
    def ended(self) -> bool:
        """True when no packet is left."""
        return self.next_seqno >= self.count

    def prepare(self) -> None:
        """Does the work for the next packet that can be done before its time: padding, and what the mode allows."""
        sequence = self.next_seqno
        if self._pool is not None:  # rfc4656-s4.1.2-07, -09
            start = (sequence * 61) % POOL_OCTETS
            self._view[self._fixed :] = self._pool[start : start + self.plan.padding_octets]
        self._protection.prepare(sequence)

    def pack(self, timestamp: int, error_estimate: int) -> memoryview:
        """The datagram of the next packet, stamped; valid until the next call."""
        self._protection.pack_sender_into(self._buffer, self.next_seqno, timestamp, error_estimate)
        self._stamp = timestamp
        return self._view

    def was_sent(self, late_ns: int = 0) -> None:
        """The next packet has gone out, so much after its time."""
        self.next_seqno += 1
        self.sent += 1
        if self._measure:
            self.late_ns.append(late_ns)
            self.stamps.append(self._stamp)
            self.departure.append(0)

    def note_departure(self, sequence: int, timestamp: int) -> int | None:
        """The kernel sent a packet at this time; how old the packet's own stamp was then, nanoseconds.

        None, and nothing noted, for a time that cannot be that of this packet.
        """
        if sequence >= len(self.stamps) or not self.stamps[sequence]:
            return None
        age_ns = ntp_difference_ns(timestamp, self.stamps[sequence])
        if not -_EARLIEST_NS <= age_ns <= self.plan.timeout_ns + _EARLIEST_NS:
            return None
        self.departure[sequence] = timestamp
        return age_ns

    def skip(self) -> None:
        """The next packet is not sent: its time is too far in the past, or the system did not take it."""
        sequence = self.next_seqno  # rfc4656-s4.1.1-03
        if self._skips and self._skips[-1].last == sequence - 1:
            self._skips[-1] = SkipRange(self._skips[-1].first, sequence)
        else:
            self._skips.append(SkipRange(sequence, sequence))
        self.next_seqno += 1
        if self._measure:
            self.stamps.append(0)
            self.departure.append(0)

    def description(self) -> SessionDescription:
        """What Stop-Sessions says of the session. RFC 4656 section 3.8."""
        return SessionDescription(self.plan.sid, self.next_seqno, tuple(self._skips))
