"""The system clock: stamps, and what the kernel knows of their error (adjtimex(2)).

An unsynchronized kernel (STA_UNSYNC) reports a maxerror of 16 s; that is what then goes into the packets, with the
S bit clear. RFC 4656 section 4.1.2.
"""

from __future__ import annotations

import ctypes
import time

from ippm.timestamps import DEFAULT_UTC_OFFSET_S, NS_PER_S, ClockState, ErrorEstimate, ntp_from_unix_ns

STA_UNSYNC = 0x0040
TIME_ERROR = 5
UNKNOWN_ERROR_NS = 16 * NS_PER_S
"""What the kernel itself says when nothing disciplines its clock (NTP_PHASE_LIMIT)."""

REFRESH_NS = NS_PER_S


class _Timeval(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long)]


class _Timex(ctypes.Structure):
    """`struct timex` of <sys/timex.h>."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    ]


def clock_state() -> ClockState:
    """What the kernel says of CLOCK_REALTIME now. Never raises: a system without adjtimex is not synchronized."""
    result, timex = _adjtimex()
    if result < 0:
        return ClockState(False, UNKNOWN_ERROR_NS, "unknown")
    return state_of_timex(result, timex.status, timex.maxerror)


def utc_offset_s() -> int:
    """TAI less UTC, as the kernel knows it, else as it has been since 2017: for stamps in PTP format."""
    result, timex = _adjtimex()
    return int(timex.tai) if result >= 0 and timex.tai else DEFAULT_UTC_OFFSET_S


def _adjtimex() -> tuple[int, _Timex]:
    timex = _Timex()
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return -1, timex
    return int(adjtimex(ctypes.byref(timex))), timex


def state_of_timex(result: int, status: int, maxerror_us: int) -> ClockState:
    """The state of adjtimex's answer: its return value, `status`, and `maxerror` in microseconds.

    Where nothing synchronizes the clock, a `maxerror` that somebody left behind is no bound of its error.
    """
    synchronized = result != TIME_ERROR and not status & STA_UNSYNC
    error_ns = max(0, maxerror_us) * 1000
    if not synchronized:
        error_ns = max(error_ns, UNKNOWN_ERROR_NS)
    return ClockState(synchronized, error_ns or UNKNOWN_ERROR_NS, "adjtimex")


def now_ntp() -> int:
    """The time as an NTP stamp, of the era that it lies in."""
    return ntp_from_unix_ns(time.time_ns())


class SystemClock:
    """Stamps and the error estimate that goes with them, read anew at most once a second (`refresh`).

    The estimate is of a stamp: the error of the clock, and how far the stamp may be from the event that it is for
    (`stamp_error_ns`). RFC 4656 section 4.1.2.
    """

    def __init__(self, stamp_error_ns: int = 0) -> None:
        self.state = clock_state()
        self.stamp_error_ns = stamp_error_ns
        self.error_estimate = 0
        self._estimate()
        self._read_at = time.monotonic_ns()

    now_ntp = staticmethod(now_ntp)

    def refresh(self, now: int) -> None:
        """Reads the clock's state again when the last reading is a second old; `now` is monotonic nanoseconds."""
        if now - self._read_at >= REFRESH_NS:
            self._read_at = now
            self.state = clock_state()
            self._estimate()

    def set_stamp_error(self, error_ns: int) -> None:
        """How far stamps may be from their events, from now on."""
        if error_ns != self.stamp_error_ns:
            self.stamp_error_ns = error_ns
            self._estimate()

    def _estimate(self) -> None:
        state = self.state
        error_ns = state.error_ns + self.stamp_error_ns
        # rfc4656-s4.1.2-05: from_ns makes no Multiplier of zero
        self.error_estimate = ErrorEstimate.from_ns(error_ns, synchronized=state.synchronized).to_int()
