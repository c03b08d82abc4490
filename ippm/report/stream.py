"""What was sent: Type-P as far as a measurement chooses it, the schedule, and the time after which a packet is lost.

No result stands without them: RFC 7679 section 3.8, RFC 7680 section 2.8, RFC 2681 section 2.8, RFC 3393 section 1.3,
RFC 6673 section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ippm.report.text import UNITS, in_unit
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.schedule_slot import Slot, SlotType

SLOTS_IN_JSON = 64
SLOTS_IN_TEXT = 4
SLOTS_IN_TABLE = 8
"""More slots than these are not in reports."""

_KINDS = {SlotType.EXPONENTIAL: "exponential", SlotType.FIXED: "fixed"}


@dataclass(frozen=True, slots=True)
class StreamWords:
    """UDP packets of so many octets of payload (None: not known), at the times of `slots`.

    `dscp` is six bits, None when Type-P named something else.
    """

    payload_octets: int | None
    dscp: int | None
    slots: Sequence[Slot]
    timeout_ns: int

    def schedule_dicts(self) -> list[dict[str, Any]]:
        """The `schedule` of the JSON reports: for an exponential slot the parameter is the mean."""
        return [
            {"type": _KINDS[slot.slot_type], "parameter_ns": ns_from_fixed_point(slot.parameter)}
            for slot in self.slots[:SLOTS_IN_JSON]
        ]

    def schedule_text(self) -> str:
        """The schedule in a field of a table: kind and nanoseconds of each slot."""
        words = [f"{_KINDS[slot.slot_type]} {ns_from_fixed_point(slot.parameter)}" for slot in self.slots]
        return "; ".join([*words[:SLOTS_IN_TABLE], *(["..."] if len(words) > SLOTS_IN_TABLE else [])])

    def line(self, unit: str = "m") -> str:
        """The line of a text for a person; `unit` is a letter of `text.UNITS`."""
        octets = "a payload of unknown length" if self.payload_octets is None else f"{self.payload_octets} octets"
        dscp = "no DSCP" if self.dscp is None else f"DSCP {self.dscp}"
        name = UNITS[unit][1]
        slots = [
            ("mean " if slot.slot_type is SlotType.EXPONENTIAL else "")
            + f"{in_unit(ns_from_fixed_point(slot.parameter), unit)} {name} {_KINDS[slot.slot_type]}"
            for slot in self.slots[:SLOTS_IN_TEXT]
        ]
        if (more := len(self.slots) - SLOTS_IN_TEXT) > 0:
            slots.append(f"and {more} more")
        timeout = f"{in_unit(self.timeout_ns, unit)} {name}"
        return f"sent:  UDP with {octets}, {dscp}; intervals {', '.join(slots)}; lost after {timeout}"
