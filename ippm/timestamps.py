"""Timestamps and error estimates of O/TWAMP, as integers; no float comes near the wire.

An NTP timestamp is held as one unsigned 64-bit integer: 32 bits of seconds since 1 January 1900, 32 bits of
fraction. Two stamps are compared by their difference modulo 2**64, so a change of era between them does no harm.
RFC 4656 section 4.1.2; the PTP format is RFC 8186 section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

NTP_UNIX_OFFSET_S = 2_208_988_800
"""Seconds from 1 January 1900 to 1 January 1970. RFC 5905 section 6."""

NS_PER_S = 1_000_000_000
PTP_FLAG = 0x4000
"""The Z bit of an Error Estimate: the stamp beside it is in the truncated PTP format. RFC 8186 section 2.3."""
DEFAULT_UTC_OFFSET_S = 37
"""TAI less UTC since 2017, where the kernel does not know better."""
MASK_64 = (1 << 64) - 1
_OFFSET_64 = NTP_UNIX_OFFSET_S << 32
_HALF_64 = 1 << 63


def ntp_from_unix_ns(unix_ns: int) -> int:
    """An NTP timestamp of nanoseconds since 1970, rounded down to 2**-32 s. RFC 4656 section 4.1.2."""
    seconds, nanoseconds = divmod(unix_ns, NS_PER_S)
    return (_OFFSET_64 + (seconds << 32) + (nanoseconds << 32) // NS_PER_S) & MASK_64


def ntp_from_timespec(seconds: int, nanoseconds: int) -> int:
    """An NTP timestamp of a `struct timespec` of CLOCK_REALTIME. RFC 4656 section 4.1.2."""
    return (_OFFSET_64 + (seconds << 32) + (nanoseconds << 32) // NS_PER_S) & MASK_64


def unix_ns_from_ntp(timestamp: int) -> int:
    """Nanoseconds since 1970 of an NTP timestamp, to the nearest.

    A stamp whose first bit is clear is taken to lie in era 1 (from 7 February 2036), as RFC 4330 section 3 does.
    """
    if timestamp < _HALF_64:
        timestamp += 1 << 64
    return _ns_of_fixed_point(timestamp - _OFFSET_64)


def ntp_difference_ns(later: int, earlier: int) -> int:
    """`later - earlier` in nanoseconds, signed, to the nearest; right for stamps less than 68 years apart."""
    difference = (later - earlier) & MASK_64
    if difference >= _HALF_64:
        difference -= 1 << 64
    return _ns_of_fixed_point(difference)


def first_and_last(stamps: Iterable[int]) -> tuple[int, int]:
    """The earliest and the latest of NTP stamps that lie less than 68 years apart; twice 0 of none.

    Not the least and the greatest: the stamps of 2036 go on from 0. RFC 4656 section 4.1.2.
    """
    found = iter(stamps)
    first = last = next(found, 0)
    for stamp in found:
        if (stamp - first) & MASK_64 >= _HALF_64:
            first = stamp
        elif (stamp - last) & MASK_64 < _HALF_64:
            last = stamp
    return first, last


def ntp_add_ns(timestamp: int, nanoseconds: int) -> int:
    """The NTP timestamp that lies `nanoseconds` (may be negative) after `timestamp`."""
    return (timestamp + ((nanoseconds << 32) // NS_PER_S)) & MASK_64


def fixed_point_from_ns(nanoseconds: int) -> int:
    """A duration as 32.32 fixed point: the form of Timeout and of a schedule slot. RFC 4656 section 3.5."""
    if nanoseconds < 0:
        raise ValueError("a duration cannot be negative")
    return (nanoseconds << 32) // NS_PER_S


def ns_from_fixed_point(duration: int) -> int:
    """Nanoseconds of a duration in 32.32 fixed point, to the nearest. RFC 4656 section 3.5."""
    return _ns_of_fixed_point(duration)


def _ns_of_fixed_point(value: int) -> int:
    return (value * NS_PER_S + (1 << 31)) >> 32


def ptp_from_ntp(timestamp: int, utc_offset_s: int) -> int:
    """The truncated PTP format: 32 bits of seconds since 1970, 32 bits of nanoseconds, of an NTP timestamp.

    IEEE 1588 counts TAI, which is `utc_offset_s` ahead of UTC. RFC 8186 section 2.3, RFC 6374 section 3.4.
    """
    nanoseconds = _ns_of_fixed_point(timestamp & 0xFFFFFFFF)
    carry, nanoseconds = divmod(nanoseconds, NS_PER_S)
    seconds = (timestamp >> 32) - NTP_UNIX_OFFSET_S + utc_offset_s + carry
    return ((seconds & 0xFFFFFFFF) << 32) | nanoseconds


def ntp_from_ptp(timestamp: int, utc_offset_s: int) -> int:
    """The NTP timestamp of one in the truncated PTP format. RFC 8186 section 2.3, RFC 6374 section 3.4."""
    seconds = (timestamp >> 32) + NTP_UNIX_OFFSET_S - utc_offset_s
    # Rounded up, so that there and back again gives the same nanoseconds.
    fraction = -(-((timestamp & 0xFFFFFFFF) << 32) // NS_PER_S)
    return ((seconds << 32) + fraction) & MASK_64


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """The 16-bit Error Estimate: Multiplier * 2**-32 * 2**Scale seconds, and whether the clock is synchronized.

    `z` is zero in NTP format; RFC 8186 section 2.3 makes it say "PTP". RFC 4656 section 4.1.2.
    """

    synchronized: bool
    scale: int
    multiplier: int
    z: bool = False  # rfc4656-s4.1.2-04

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 63:
            raise ValueError(f"Scale {self.scale} does not fit six bits")
        if not 0 <= self.multiplier <= 255:
            raise ValueError(f"Multiplier {self.multiplier} does not fit eight bits")

    @classmethod
    def from_ns(cls, error_ns: int, *, synchronized: bool) -> Self:
        """The smallest estimate that is not below `error_ns`: an error is never understated, Multiplier never 0."""
        units = max(1, -((-error_ns << 32) // NS_PER_S))  # rfc4656-s4.1.2-05
        scale = max(0, units.bit_length() - 8)
        multiplier = -(-units >> scale)
        if multiplier > 255:
            scale, multiplier = scale + 1, 128
        if scale > 63:
            scale, multiplier = 63, 255
        return cls(synchronized, scale, multiplier)

    @classmethod
    def from_int(cls, value: int) -> Self:
        """The estimate of the 16 bits as they stand in a packet; a zero Multiplier is kept: see `is_valid`."""
        return cls(bool(value & 0x8000), (value >> 8) & 0x3F, value & 0xFF, bool(value & 0x4000))

    def to_int(self) -> int:
        """The 16 bits as they stand in a packet."""
        return (self.synchronized << 15) | (self.z << 14) | (self.scale << 8) | self.multiplier

    @property
    def is_valid(self) -> bool:
        """False when Multiplier is zero: such a packet is corrupt."""
        return self.multiplier != 0

    @property
    def error_ns(self) -> int:
        """The estimated error in nanoseconds, rounded up."""
        return -((-(self.multiplier << self.scale) * NS_PER_S) >> 32)


@dataclass(frozen=True, slots=True)
class ClockState:
    """What one end's clock says of itself: `error_ns` bounds its error against UTC only when `synchronized`.

    `source` says where this was learnt: `adjtimex`, `packet` (the peer's Error Estimate), `unknown`.
    """

    synchronized: bool
    error_ns: int
    source: str = "unknown"

    @classmethod
    def from_error_estimate(cls, value: int) -> Self:
        """The state that a peer claims in the Error Estimate of a packet (16 bits)."""
        estimate = ErrorEstimate.from_int(value)
        return cls(estimate.synchronized, estimate.error_ns, "packet")

    def error_estimate(self) -> ErrorEstimate:
        """What to write in packets: the S bit only for an externally synchronized clock."""
        return ErrorEstimate.from_ns(self.error_ns, synchronized=self.synchronized)  # rfc4656-s4.1.2-02, -03

    def to_dict(self) -> dict[str, bool | int | str]:
        """As reports print it."""
        return {"synchronized": self.synchronized, "error_ns": self.error_ns, "source": self.source}
