"""The schedule of an OWAMP session, as both its ends compute it, in 32.32 fixed point.

Fixed slots need no more than the sums over one round. With an exponential slot the offsets are computed as they are
asked for and kept, 8 octets a packet: a session of a million packets costs nothing until it runs.
RFC 4656 sections 3.6 and 5.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ippm.core.schedule import Slot, SlotType, slot_offsets
from ippm.errors import LocalProtocolError
from ippm.timestamps import ns_from_fixed_point

_MAXIMUM = (1 << 63) - 1


class SessionSchedule:
    """When packet 0, 1, ... `count` - 1 of a session are sent, after Start Time. Raises LocalProtocolError.

    RFC 4656 section 3.6.
    """

    __slots__ = ("_more", "_offsets", "_round", "_sums", "count", "slots")

    def __init__(self, slots: Sequence[Slot], sid: bytes, count: int) -> None:
        if not slots:
            raise LocalProtocolError("a schedule has at least one slot")
        self.slots = tuple(slots)
        self.count = count
        self._offsets = array("Q")
        self._more: Iterator[int] | None = None
        self._sums: tuple[int, ...] = ()
        self._round = 0
        if all(slot.slot_type is SlotType.FIXED for slot in slots):
            self._sums = tuple(accumulate(slot.parameter for slot in slots))
            self._round = self._sums[-1]
        else:
            self._more = slot_offsets(self.slots, sid)

    @property
    def mean_interval(self) -> float:
        """The mean time between packets in seconds, over a round of the slots."""
        return mean_interval(self.slots)

    def offset(self, index: int) -> int:
        """The time of packet `index` after Start Time, 32.32 fixed point."""
        if self._more is None:
            return index // len(self._sums) * self._round + self._sums[index % len(self._sums)]
        if index >= len(self._offsets):
            self._extend(index, _MAXIMUM)
        return self._offsets[index]

    def offset_ns(self, index: int) -> int:
        """The time of packet `index` after Start Time, in nanoseconds."""
        return ns_from_fixed_point(self.offset(index))

    def offset_within(self, index: int, limit: int) -> int | None:
        """`offset(index)`, or None when it is after `limit`; no offset beyond `limit` is computed to find out."""
        if self._more is not None and index >= len(self._offsets):
            self._extend(index, limit)
            if index >= len(self._offsets):
                return None
        offset = self.offset(index)
        return offset if offset <= limit else None

    def first_from(self, limit: int) -> int:
        """The first packet whose offset is `limit` or later; `count` when there is none."""
        if self._more is None:
            return bisect_left(range(self.count), limit, key=self.offset)
        self._extend(self.count - 1, limit)
        return min(self.count, bisect_left(self._offsets, limit))

    def _extend(self, index: int, limit: int) -> None:
        if self._more is None:
            return
        offsets = self._offsets
        while len(offsets) <= index and (not offsets or offsets[-1] <= limit):
            offsets.append(next(self._more))


def mean_interval(slots: Sequence[Slot]) -> float:
    """The mean time between packets in seconds, over a round of the slots."""
    return sum(slot.parameter for slot in slots) / len(slots) / (1 << 32) if slots else 0.0
