"""Which DSCP and ECN packets had when they arrived: what the network made of those that they were sent with.

RFC 7750 section 2.2.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marking:
    """How many packets arrived with one DSCP (six bits) and ECN (two bits)."""

    dscp: int
    ecn: int
    packets: int

    def to_dict(self) -> dict[str, int]:
        """As reports print it."""
        return {"dscp": self.dscp, "ecn": self.ecn, "packets": self.packets}


def markings(octets: Iterable[int]) -> tuple[Marking, ...]:
    """The markings among the octets of IP headers that hold DSCP and ECN, the most frequent first."""
    counted = Counter(octets).most_common()
    return tuple(Marking(octet >> 2, octet & 3, packets) for octet, packets in counted)
