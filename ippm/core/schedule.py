"""When packets are sent: the schedules of O/TWAMP-Test, in integers that every implementation computes alike.

A schedule is a list of slots that is gone round again and again: slot *i* says how long after packet *i - 1* (for
packet 0: after Start Time) packet *i* is sent. A slot is fixed, or exponentially distributed with a given mean; the
pseudo-random numbers come from AES in counter mode under the Session ID, so both ends compute the same times.
TWAMP does not send its schedule to the peer (RFC 5357 section 4.1.1); the sender may still use these.
RFC 4656 sections 3.6 and 5, appendices A and B.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol

from ippm.crypto_packet import aes_counter_blocks
from ippm.errors import LocalProtocolError
from ippm.timestamps import fixed_point_from_ns, ns_from_fixed_point
from ippm.wire.schedule_slot import Slot, SlotType

__all__ = [
    "FixedSchedule",
    "Q",
    "Schedule",
    "Slot",
    "SlotSchedule",
    "SlotType",
    "StreamSchedule",
    "exponential_deviates",
    "poisson_schedule",
    "poisson_stream",
    "slot_offsets",
    "uniform_numbers",
]

Q = (  # rfc4656-s5.1-01, rfc4656-s5.2-01, rfc4656-sA-01, rfc4656-sA-02
    0,
    0xB17217F8,
    0xEEF193F7,
    0xFD271862,
    0xFF9D6DD0,
    0xFFF4CFD0,
    0xFFFEE819,
    0xFFFFE7FF,
    0xFFFFFE2B,
    0xFFFFFFE0,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
"""Q[1] to Q[11] as every implementation MUST have them (Q[0] is a placeholder). RFC 4656 section 5.2."""

_LN2 = Q[1]
_MASK_32 = 0xFFFFFFFF
_BIT_31 = 0x80000000
_BLOCKS_AT_ONCE = 1024


class Schedule(Protocol):
    """When packet `index` is due, in nanoseconds after the start of the session."""

    @property
    def slots(self) -> Sequence[Slot]:
        """What is gone round: its kind and parameter tell the stream's distribution."""
        ...

    def offset_ns(self, index: int) -> int:
        """Never decreases with `index`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSchedule:
    """A packet every `interval_ns`; the first at the start. The periodic stream of RFC 3432."""

    interval_ns: int

    def __post_init__(self) -> None:
        if self.interval_ns < 0:
            raise LocalProtocolError("an interval cannot be negative")

    @property
    def slots(self) -> tuple[Slot]:
        """One slot of this length."""
        return (Slot(SlotType.FIXED, fixed_point_from_ns(self.interval_ns)),)

    def offset_ns(self, index: int) -> int:
        """`index * interval_ns`."""
        return index * self.interval_ns


class SlotSchedule:
    """The schedule of a list of slots and a Session ID, computed for `count` packets. RFC 4656 section 3.6."""

    __slots__ = ("_offsets", "slots")

    def __init__(self, slots: Sequence[Slot], sid: bytes, count: int) -> None:
        self.slots = tuple(slots)
        self._offsets = array("q", map(ns_from_fixed_point, islice(slot_offsets(slots, sid), count)))

    def offset_ns(self, index: int) -> int:
        """The offset of packet `index`, `index < count`."""
        return self._offsets[index]


class StreamSchedule:
    """The schedule of a list of slots for as many packets as wanted, none of them kept: asked for in ascending order.

    RFC 4656 section 3.6.
    """

    __slots__ = ("_index", "_offset_ns", "_offsets", "slots")

    def __init__(self, slots: Sequence[Slot], sid: bytes) -> None:
        self.slots = tuple(slots)
        self._offsets = slot_offsets(slots, sid)
        self._index = -1
        self._offset_ns = 0

    def offset_ns(self, index: int) -> int:
        """The offset of packet `index`. LocalProtocolError for one before that asked for last."""
        if index < self._index:
            raise LocalProtocolError("the schedule of a stream is not gone back in")
        while self._index < index:
            self._offset_ns = ns_from_fixed_point(next(self._offsets))
            self._index += 1
        return self._offset_ns


def poisson_stream(mean_ns: int, sid: bytes) -> StreamSchedule:
    """A Poisson stream without an end. RFC 4656 section 3.6, RFC 2330 section 11.1.1."""
    return StreamSchedule([Slot(SlotType.EXPONENTIAL, fixed_point_from_ns(mean_ns))], sid)


def poisson_schedule(mean_ns: int, sid: bytes, count: int) -> SlotSchedule:
    """A Poisson stream: exponential intervals with this mean. RFC 4656 section 3.6, RFC 2330 section 11.1.1."""
    return SlotSchedule([Slot(SlotType.EXPONENTIAL, fixed_point_from_ns(mean_ns))], sid, count)


def slot_offsets(slots: Sequence[Slot], sid: bytes) -> Iterator[int]:
    """Without end, the offset of packet 0, 1, 2, ... after Start Time, 32.32 fixed point. RFC 4656 section 3.6."""
    if not slots:
        raise LocalProtocolError("a schedule has at least one slot")
    deviates = exponential_deviates(sid)
    offset = 0
    for slot in cycle(slots):
        if slot.slot_type is SlotType.EXPONENTIAL:
            offset += (next(deviates) * slot.parameter) >> 32
        else:
            offset += slot.parameter
        yield offset


def uniform_numbers(seed: bytes) -> Iterator[int]:
    """Algorithm Unif: 32-bit numbers without end from a 16-octet seed. RFC 4656 section 5.3.

    The counter goes up by one for each number and is encrypted for every fourth: blocks 0, 4, 8, ...
    """
    counter = 0
    while True:
        octets = aes_counter_blocks(seed, counter, _BLOCKS_AT_ONCE, 4)  # rfc4656-s6.4-01
        yield from memoryview_of_words(octets)
        counter += 4 * _BLOCKS_AT_ONCE


def memoryview_of_words(octets: bytes) -> array[int]:
    """The big-endian 32-bit words of `octets`."""
    words = array("I", octets)
    if words.itemsize != 4 or array("H", [1]).tobytes() == b"\x01\x00":
        words.byteswap()
    return words


def exponential_deviates(sid: bytes) -> Iterator[int]:
    """Exponential deviates with mean 1, 32.32 fixed point, without end, of a Session ID. RFC 4656 section 5.

    Algorithm S: U is shifted left to beyond its first zero bit (at place j); X = j ln2 + U when U < ln2, else
    (j + min(U1 .. Uk)) ln2 with the least k for which U < Q[k].
    """
    uniform = uniform_numbers(sid)
    for number in uniform:
        u, j = number, 0
        while u & _BIT_31 and j < 32:  # S1
            u = (u << 1) & _MASK_32
            j += 1
        u = (u << 1) & _MASK_32
        if u < _LN2:  # S2
            yield j * _LN2 + u
            continue
        k = next((k for k in range(2, len(Q)) if u < Q[k]), len(Q))  # S3
        v = min(islice(uniform, k))
        # rfc4656-s5.2-02, rfc4656-sB-01, rfc4656-sB-02
        yield (((j << 32) + v) * _LN2) >> 32  # S4
