"""Skip Ranges: runs of packets that a sender did not send. RFC 4656 sections 3.8 and 3.9."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from ippm.errors import InvalidMessage

SKIP_RANGE = struct.Struct(">II")
_BLOCK = 16


class SkipRange(NamedTuple):
    """The first and the last sequence number of a run of packets that were not sent."""

    first: int
    last: int


def padded(data: bytes) -> bytes:
    """`data` with zeros up to a whole number of blocks of 16 octets. RFC 4656 section 3.8."""
    return data + bytes(-len(data) % _BLOCK)  # rfc4656-s3.8-02


def pack_skip_ranges(ranges: Iterable[SkipRange]) -> bytes:
    """8 octets a range, in order, without padding."""
    return b"".join(SKIP_RANGE.pack(first, last) for first, last in sorted(ranges))  # rfc4656-s3.8-01


def unpack_skip_ranges(data: bytes, next_seqno: int) -> tuple[SkipRange, ...]:
    """The ranges in 8 octets each. InvalidMessage when out of order, overlapping, or not before `next_seqno`.

    RFC 4656 sections 3.8 and 3.9.
    """
    ranges = tuple(SkipRange(first, last) for first, last in SKIP_RANGE.iter_unpack(data))
    previous = -1
    for first, last in ranges:
        if first <= previous or last < first:  # rfc4656-s3.8-01, rfc4656-s3.9-09
            raise InvalidMessage(f"the Skip Range {first} to {last} overlaps or is out of order")
        previous = last
    if previous >= next_seqno:
        raise InvalidMessage(f"a Skip Range ends at {previous}, and the next packet would have been {next_seqno}")
    return ranges
