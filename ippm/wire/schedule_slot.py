"""Schedule slots: how long a sender waits before its next packet. RFC 4656 sections 3.5 and 3.6."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ippm.errors import InvalidMessage

SLOT = struct.Struct(">B7xQ")
"""Slot Type, MBZ 7, Slot Parameter: 16 octets."""


class SlotType(IntEnum):
    """RFC 4656 section 3.6."""

    EXPONENTIAL = 0
    FIXED = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """A schedule slot; `parameter` (the mean, or the interval) is 32.32 fixed point seconds. RFC 4656 section 3.6."""

    slot_type: SlotType
    parameter: int


def pack_slots(slots: Iterable[Slot]) -> bytes:
    """16 octets a slot, without the HMAC. RFC 4656 section 3.5."""
    return b"".join(SLOT.pack(slot.slot_type, slot.parameter) for slot in slots)


def unpack_slots(data: bytes) -> tuple[Slot, ...]:
    """The slots in whole blocks of 16 octets. Raises InvalidMessage, also for a Slot Type that is not known."""
    if len(data) % SLOT.size:
        raise InvalidMessage(f"{len(data)} octets are no whole number of schedule slots")
    try:
        return tuple(Slot(SlotType(kind), parameter) for kind, parameter in SLOT.iter_unpack(data))
    except ValueError as error:
        raise InvalidMessage(f"a schedule slot: {error}") from None
