"""The Session-Sender of TWAMP-Test, sans-IO: makes packets, takes replies, keeps the records of a session.

Times are stamps that the caller took (NTP, 64 bits); nothing here waits, reads a clock or touches a socket.
A packet is matched to its reply by Sender Sequence Number and by the exact copy of its stamp. The records are flat
arrays, one element a packet, so that a million packets cost tens of megabytes and no objects.
RFC 5357 section 4.1, RFC 4656 section 4.1, RFC 6038 section 5.1, RFC 7750 section 2.2, RFC 8186 section 2.3.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from ippm.core.schedule import FixedSchedule, Schedule
from ippm.crypto_packet import Octets, PacketKeys, ReflectorFields, TestProtection
from ippm.errors import IntegrityError, InvalidMessage, LocalProtocolError
from ippm.timestamps import DEFAULT_UTC_OFFSET_S, PTP_FLAG, ntp_difference_ns, ntp_from_ptp, ptp_from_ntp
from ippm.wire.test_packet import PacketLayout, PacketMode

_POOL_OCTETS = 4096
_SERVER_OCTETS = 2
_EVERY_10_MS = FixedSchedule(10_000_000)
_EARLIEST_NS = 1_000_000
"""A stamp that was put forward, by the age that packets have when they are sent, may lie so much after the sending."""

TTL_UNKNOWN = 255
"""The TTL that is recorded when it could not be read. RFC 4656 section 4.2."""


@dataclass(frozen=True, slots=True)
class SenderPlan:
    """All that a Session-Sender needs to know of a session; no part of it changes while the session runs.

    `mode` is a TWAMP-Modes word; `local` and `remote` are (address, UDP port); `start_time` is NTP, 0 means at once;
    `padding_octets` is Padding Length: octets beyond the 14 or 48 of the packet itself. `zero_padding` makes them
    all zeros. A reply that takes longer than `timeout_ns` counts as lost. `dscp` is the six bits. With Reflect Octets
    the first `reflected_octets` of the padding are to come back as they are, and begin with `server_octets` unless
    these are zero. `tw_auth_pad` are the MBZ octets of Symmetrical Size in a keyed mode; `utc_offset_s` is TAI less
    UTC, for PTP stamps. Without `numbered_replies` the reflector has no numbers of its own (TWAMP Light).
    """

    sid: bytes
    mode: int
    keys: PacketKeys | None = field(repr=False)
    local: tuple[str, int]
    remote: tuple[str, int]
    count: int
    schedule: Schedule = _EVERY_10_MS
    start_time: int = 0
    padding_octets: int = 0
    timeout_ns: int = 2_000_000_000
    dscp: int = 0
    zero_padding: bool = False
    reflected_octets: int = 0
    server_octets: int = 0
    tw_auth_pad: int = 64
    utc_offset_s: int = DEFAULT_UTC_OFFSET_S
    numbered_replies: bool = True

    @property
    def layout(self) -> PacketLayout:
        """Where the parts of this session's packets lie."""
        return PacketLayout.of(self.mode, self.reflected_octets, self.tw_auth_pad)


_ELEMENTS = {
    "t1": 8,
    "t2": 8,
    "t3": 8,
    "t4": 8,
    "departure": 8,
    "send_error_ns": 8,
    "sender_error": 2,
    "reflector_error": 2,
    "reflector_sequence": 4,
    "reflector_ttl": 1,
    "reply_ttl": 1,
    "reflector_dscp_ecn": 1,
    "reply_dscp_ecn": 1,
}
"""The arrays of SenderRecords with one element a packet, and the octets of one."""


class SenderRecords:
    """What a session left behind, one element per sequence number; a stamp of 0 means "never happened".

    t1 sent (sender's clock), t2 received and t3 sent again (reflector's clock), t4 reply received (sender's clock);
    all NTP, whatever they were in the packets. `reflector_ttl` is the TTL with which the packet arrived at the
    reflector (its "Sender TTL"), `reply_ttl` that of the reply here; `reflector_dscp_ecn` and `reply_dscp_ecn` are
    octets of the IP headers in the same places, the first where it is monitored (RFC 7750), the second where the system
    tells. `departure` is when the kernel sent the packet, NTP, where it said so; `send_error_ns` is how much later than
    scheduled the program sent it; `transmit_refused` says why the kernel stamps none. `arrivals` has the sequence
    number of every reply in the order of arrival, copies too; `arrival_reflector_sequence` goes with it. `rejected`
    counts what was no valid reply, by name.
    `copies_answered` are the reflector's numbers of replies to copies of a packet that it had answered.
    `user_stamps` counts replies that the kernel did not stamp: their T4 was read after the fact.
    """

    __slots__ = (
        "arrival_reflector_sequence",
        "arrivals",
        "copies_answered",
        "count",
        "departure",
        "late",
        "reflect_duplicates",
        "reflector_dscp_ecn",
        "reflector_error",
        "reflector_sequence",
        "reflector_ttl",
        "rejected",
        "reply_dscp_ecn",
        "reply_ttl",
        "send_duplicates",
        "send_error_ns",
        "send_failed",
        "sender_error",
        "skipped",
        "stopped",
        "t1",
        "t2",
        "t3",
        "t4",
        "transmit_refused",
        "user_stamps",
    )

    def __init__(self, count: int) -> None:
        self.count = 0
        self.t1, self.t2, self.t3, self.t4, self.departure = (array("Q") for _ in range(5))
        self.send_error_ns = array("q")
        self.sender_error = array("H")
        self.reflector_error = array("H")
        self.reflector_sequence = array("I")
        self.reflector_ttl = array("B")
        self.reply_ttl = array("B")
        self.reflector_dscp_ecn = array("B")
        self.reply_dscp_ecn = array("B")
        self.grow(count)
        self.arrivals = array("I")
        self.arrival_reflector_sequence = array("I")
        self.rejected: dict[str, int] = {}
        self.late = 0
        self.send_duplicates = 0
        self.reflect_duplicates = 0
        self.copies_answered: set[int] = set()
        self.skipped: list[int] = []
        self.send_failed = 0
        self.user_stamps = 0
        self.transmit_refused = ""
        self.stopped = False

    def grow(self, more: int) -> None:
        """Room for `more` packets behind the others."""
        self.count += more
        for name, octets in _ELEMENTS.items():
            getattr(self, name).frombytes(bytes(octets * more))

    def shrink(self, count: int) -> None:
        """Forgets what is behind the first `count` packets."""
        for name in _ELEMENTS:
            del getattr(self, name)[count:]
        self.count = len(self.t1)

    @property
    def sent(self) -> int:
        """How many packets were sent."""
        return self.count - self.t1.count(0)

    @property
    def received(self) -> int:
        """How many packets were answered in time; copies do not count."""
        return self.count - self.t4.count(0)

    @property
    def duplicates(self) -> int:
        """Replies beyond the first for a packet."""
        return self.send_duplicates + self.reflect_duplicates

    @property
    def skip_ranges(self) -> list[tuple[int, int]]:
        """First and last number of each run of packets that were not sent. RFC 4656 section 3.8."""
        ranges: list[tuple[int, int]] = []
        for sequence in self.skipped:
            if ranges and ranges[-1][1] == sequence - 1:
                ranges[-1] = (ranges[-1][0], sequence)
            else:
                ranges.append((sequence, sequence))
        return ranges

    def __repr__(self) -> str:
        return f"SenderRecords(count={self.count}, sent={self.sent}, received={self.received})"


def _copies_of(packets: int) -> int:
    """How many copies of replies are taken in a session of so many packets."""
    return packets // 4 + 1000


class SessionSender:
    """One session's state. Per packet: `prepare(n)`, then at its time `pack(n, stamp, error)` and send what it gives.

    `padding_source` is at least `padding_octets` + 4096 pseudo-random octets drawn for this session alone; without
    it, or with `zero_padding`, the padding is all zeros.
    """

    def __init__(self, plan: SenderPlan, padding_source: bytes = b"", records: SenderRecords | None = None) -> None:
        if not 0 <= plan.count <= 1 << 32 or plan.padding_octets < 0:
            raise LocalProtocolError("a session has 0 to 2**32 packets and no negative padding")
        self.plan = plan
        self.records = SenderRecords(plan.count) if records is None else records
        self._protection = TestProtection.of(plan.mode, plan.keys)
        self._layout = layout = plan.layout
        if plan.padding_octets < layout.reflected_octets:
            raise LocalProtocolError("more padding is to be reflected than there is")
        self._ptp = layout.ptp
        self._fixed = layout.sender_octets
        self._buffer = bytearray(self._fixed + plan.padding_octets)
        self._view = memoryview(self._buffer)
        self._padding = self._view[self._fixed :]
        self._padding_octets = plan.padding_octets
        random_padding = plan.padding_octets and padding_source and not plan.zero_padding  # rfc5357-s4.2.1-07
        self._pool = memoryview(padding_source) if random_padding else None
        if self._pool is not None and len(self._pool) < plan.padding_octets + _POOL_OCTETS:
            raise ValueError(f"padding_source is shorter than {plan.padding_octets + _POOL_OCTETS} octets")
        # rfc6038-s4.3-07, rfc6038-s4.3-08, rfc6038-s5.1.2-03
        wanted = plan.server_octets and layout.reflected_octets >= _SERVER_OCTETS
        self._server_octets = plan.server_octets.to_bytes(_SERVER_OCTETS, "big") if wanted else b""
        self._lay_out_padding(0)
        self._received = 0
        self._sent = 0

    @property
    def mode(self) -> PacketMode:
        """How this session's packets are protected."""
        return self._protection.mode

    @property
    def outstanding(self) -> int:
        """Packets sent and not answered so far."""
        return self._sent - self._received

    def prepare(self, sequence: int) -> None:
        """Does the work for a packet that can be done before its time: padding, and what the mode allows."""
        if self._pool is not None:
            self._lay_out_padding(sequence)
        self._protection.prepare(sequence)

    def rehearse(self, sequence: int, timestamp: int, error_estimate: int) -> None:
        """Does what `pack` does, for nothing: so that it is in the caches when the packet's time comes."""
        self._protection.pack_sender_into(self._buffer, sequence, timestamp, error_estimate)

    def _lay_out_padding(self, sequence: int) -> None:
        if self._pool is not None:  # rfc5357-s4.2.1-05, rfc4656-s4.1.2-07, -09
            start = (sequence * 61) % _POOL_OCTETS
            self._padding[:] = self._pool[start : start + self._padding_octets]
        if self._server_octets:
            self._view[self._fixed : self._fixed + _SERVER_OCTETS] = self._server_octets

    def _expected_back(self, sequence: int) -> bytes:
        """What of this packet's padding is to be reflected."""
        octets = self._layout.reflected_octets
        if self._pool is None:
            padding = bytes(octets)
        else:
            start = (sequence * 61) % _POOL_OCTETS
            padding = bytes(self._pool[start : start + octets])
        return self._server_octets + padding[len(self._server_octets) :]

    def pack(self, sequence: int, timestamp: int, error_estimate: int, late_ns: int = 0) -> memoryview:
        """The datagram, stamped; valid until the next call. The packet counts as sent, so much after its time."""
        stamp = timestamp
        if self._ptp:
            stamp, error_estimate = self._on_the_wire(timestamp), error_estimate | PTP_FLAG
        self._protection.pack_sender_into(self._buffer, sequence, stamp, error_estimate)
        records, index = self._new_element(sequence)
        records.t1[index] = timestamp
        records.sender_error[index] = error_estimate
        records.send_error_ns[index] = late_ns
        self._sent += 1
        return self._view

    def repack(self, sequence: int, timestamp: int, error_estimate: int) -> memoryview:
        """`pack` once more with a new stamp, when the system did not take the packet the first time.

        How late it is stays what the first time said: the second follows at once.
        """
        self._sent -= 1
        records, index = self._new_element(sequence)
        return self.pack(sequence, timestamp, error_estimate, records.send_error_ns[index])

    def unsent(self, sequence: int) -> None:
        """Takes back `pack`: the system did not take the packet."""
        records, index = self._new_element(sequence)
        records.t1[index] = 0
        records.send_failed += 1
        self._sent -= 1

    def skip(self, sequence: int) -> None:
        """Notes that a packet is not sent: its time is further in the past than Timeout."""
        self.records.skipped.append(sequence)  # rfc4656-s4.1.1-03

    def _new_element(self, sequence: int) -> tuple[SenderRecords, int]:
        """Where the packet that is being sent is recorded."""
        return self.records, sequence

    def _element(self, sequence: int) -> tuple[SenderRecords, int] | None:
        """Where a packet that was sent is recorded; None when there was none with this number."""
        records = self.records
        return (records, sequence) if sequence < records.count and records.t1[sequence] else None

    def note_departure(self, sequence: int, timestamp: int) -> int | None:
        """The kernel sent a packet at this time; how old the packet's own stamp was then, nanoseconds.

        None, and nothing noted, for a time that cannot be that of this packet.
        """
        element = self._element(sequence)
        if element is None:
            return None
        records, index = element
        age_ns = ntp_difference_ns(timestamp, records.t1[index])
        if not -_EARLIEST_NS <= age_ns <= self.plan.timeout_ns + _EARLIEST_NS:
            return None
        records.departure[index] = timestamp
        return age_ns

    def _on_the_wire(self, timestamp: int) -> int:
        """Our stamp as packets have it."""
        return ptp_from_ntp(timestamp, self.plan.utc_offset_s) if self._ptp else timestamp

    def handle_reply(
        self, data: Octets, ttl: int | None, receive_timestamp: int, dscp_ecn: int | None = None
    ) -> bool:
        """Takes a datagram from the reflector; True when it is the first valid reply to a packet of ours.

        `dscp_ecn` is the octet of its IP header that holds the DSCP and the ECN.
        """
        try:
            fields = self._protection.unpack_reflector(data)
        except IntegrityError:
            return self._reject("hmac_mismatch")
        except InvalidMessage as error:
            return self._reject("too_short" if len(data) < self._protection.reflector_octets else str(error))
        sequence = fields[4]
        element = self._element(sequence)
        if element is None:
            return self._reject("unknown_sequence_number")
        records, index = element
        if fields[5] != self._on_the_wire(records.t1[index]):
            return self._reject("sender_timestamp_differs")
        if self._layout.reflected_octets and not self._came_back(data, sequence):
            return self._reject("reflected_octets_differ")
        if ntp_difference_ns(receive_timestamp, records.t1[index]) > self.plan.timeout_ns:
            records.late += 1
            return False
        if records.t4[index]:
            if records.duplicates >= _copies_of(records.count):
                return self._reject("copies_beyond_room")  # one reply played again and again fills no memory
            records.arrivals.append(index)
            records.arrival_reflector_sequence.append(fields[0])
            if fields[0] == records.reflector_sequence[index] or fields[0] in records.copies_answered:
                records.reflect_duplicates += 1
            else:
                records.send_duplicates += 1
                records.copies_answered.add(fields[0])
            return False
        records.arrivals.append(index)
        records.arrival_reflector_sequence.append(fields[0])
        self._record(records, index, fields, ttl, receive_timestamp)
        records.reply_dscp_ecn[index] = dscp_ecn or 0
        return True

    def _came_back(self, data: Octets, sequence: int) -> bool:
        at, octets = self._layout.reflector_octets, self._layout.reflected_octets
        return data[at : at + octets] == self._expected_back(sequence)

    def _record(
        self, records: SenderRecords, index: int, fields: ReflectorFields, ttl: int | None, receive_timestamp: int
    ) -> None:
        t2, t3 = fields[3], fields[1]
        if self._layout.ptp and fields[2] & PTP_FLAG:
            offset_s = self.plan.utc_offset_s
            t2, t3 = ntp_from_ptp(t2, offset_s), ntp_from_ptp(t3, offset_s)
        records.reflector_sequence[index] = fields[0]
        records.t3[index] = t3
        records.reflector_error[index] = fields[2]
        records.t2[index] = t2
        if self._layout.monitored:
            records.reflector_dscp_ecn[index] = fields[8]
        records.reflector_ttl[index] = fields[7]
        records.reply_ttl[index] = TTL_UNKNOWN if ttl is None else ttl  # rfc4656-s4.2-03
        records.t4[index] = receive_timestamp
        self._received += 1

    def _reject(self, name: str) -> bool:
        self.records.rejected[name] = self.records.rejected.get(name, 0) + 1
        return False
