"""When the kernel handed packets to the device: software transmit stamps of SO_TIMESTAMPING, from the error queue.

The kernel queues a stamp, with a number that counts the packets it was asked to stamp, on the socket that sent the
packet. Reading one costs several microseconds, so it is done between packets, never while one is due. Above some
20,000 packets a second one packet of 64 is stamped. Where the kernel refuses, `open_transmit_stamps` says why.

Linux, Documentation/networking/timestamping.rst; RFC 4656 section 4.1.1 and RFC 5357 section 4.2 for what it is for:
the best possible approximation of the real time of departure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ippm.io.clock import SystemClock
from ippm.io.sockopts import IP_RECVERR, IPV6_RECVERR, SCM_TIMESTAMPING, SO_TIMESTAMPING
from ippm.metrics.packet_age import RunningAge
from ippm.timestamps import fixed_point_from_ns, ntp_from_timespec

TX_SOFTWARE = 1 << 1
SOFTWARE = 1 << 4
OPT_ID = 1 << 7
OPT_TSONLY = 1 << 11
OPT_RX_FILTER = 1 << 17
"""Linux 6.12 and later: datagrams that arrive do not bring a second copy of their stamp."""

SAMPLE = 64
"""One packet of so many is stamped at high rates."""

SAMPLING_GAP_NS = 50_000
"""With less than this between packets, in the mean of SAMPLE packets, they are sampled: 20,000/s."""

_ERROR = struct.Struct("@IBBBBII")
"""struct sock_extended_err: ee_errno, ee_origin, ee_type, ee_code, ee_pad, ee_info, ee_data."""

_ORIGIN_TIMESTAMPING = 4
_SCM_TSTAMP_SND = 0
_TIMESPEC = struct.Struct("@ll")
_CONTROL_OCTETS = 512
_ERROR_KINDS = {(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)}

MOST_WAITING = 512
"""With so many stamps unread no more are asked for: they fill the buffer that what arrives needs, too."""

_PRESSING = 4

UNMEASURED_ERROR_NS = 20_000
"""What a stamp of the program may be older than the packet's departure, until or unless the kernel tells."""

LEAST_ERROR_NS = 1_000
"""What a stamp of the kernel may be off the wire by: no driver is asked to do better in software."""


def read_transmit_stamp(ancillary: list[tuple[int, int, Any]]) -> tuple[int, int] | None:
    """(number, NTP stamp) of a message of the error queue; None for one that is no software transmit stamp."""
    stamp = number = None
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SCM_TIMESTAMPING) and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            stamp = ntp_from_timespec(seconds, nanoseconds) if seconds else None
        elif (level, kind) in _ERROR_KINDS and len(data) >= _ERROR.size:
            code, origin, _, _, _, info, count = _ERROR.unpack_from(data)
            if (code, origin, info) == (errno.ENOMSG, _ORIGIN_TIMESTAMPING, _SCM_TSTAMP_SND):
                number = count
    return None if stamp is None or number is None else (number, stamp)


@dataclass(frozen=True, slots=True)
class StampOptions:
    """`transmit` asks the kernel for transmit stamps; `correct` puts packets' stamps forward by their median age."""

    transmit: bool = True
    correct: bool = False

    @property
    def wanted(self) -> bool:
        """True when the kernel is to be asked."""
        return self.transmit or self.correct


DEFAULT_STAMPS = StampOptions()


class TransmitStamps:
    """The transmit stamps of what one socket sends. Make one with `open_transmit_stamps`.

    Before each packet `expect(key)`, after one that was not sent `failed(give)`; `drain` gives (key, NTP stamp) of
    those that are there. A key is whatever the caller knows its packet by.
    """

    def __init__(self, sock: socket.socket, flags: int) -> None:
        self._sock = sock
        self._flags = flags
        self._armed = True
        self._keys: deque[Any] = deque()
        self._first = 0
        self._sampled = False
        self._block_due = -(1 << 62)
        self._block = 0
        self.unmatched = 0
        """Stamps that belong to no packet that is waited for."""

    @property
    def waiting(self) -> int:
        """Packets whose stamp has not been read yet."""
        return len(self._keys)

    @property
    def sampled(self) -> bool:
        """True when not every packet is stamped now."""
        return self._sampled

    @property
    def doubled(self) -> bool:
        """True when what arrives at the socket brings its receive stamp twice: the kernel is older than 6.12."""
        return not self._flags & OPT_RX_FILTER

    def expect(self, key: Any, due_ns: int) -> None:
        """The next packet that is sent is `key`; it is due at `due_ns`, of any clock. OSError as setsockopt says."""
        first = self._block == 0
        self._block = (self._block + 1) % SAMPLE
        if first:
            self._sampled = due_ns - self._block_due < SAMPLE * SAMPLING_GAP_NS
            self._block_due = due_ns
        if (self._sampled and not first) or len(self._keys) >= MOST_WAITING:
            if self._armed:
                self._arm(False)
            return
        if not self._armed:
            self._arm(True)
        self._keys.append(key)

    def failed(self, give: Callable[[Any, int], object]) -> None:
        """The system did not take the packet: count anew, since the kernel may have counted it or not.

        Stamps that are there are given before; those that are not are not waited for.
        """
        self.drain(give)
        self._keys.clear()
        self._first = 0
        with contextlib.suppress(OSError):
            self._set(self._flags & ~(OPT_ID | TX_SOFTWARE))
            self._arm(False)

    def drain(self, give: Callable[[Any, int], object], most: int = 1 << 30) -> int:
        """Calls `give(key, stamp)` for at most `most` stamps that are there; how many messages there were."""
        for count in range(most):
            try:
                _, ancillary, _, _ = self._sock.recvmsg(
                    0, _CONTROL_OCTETS, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
                )
            except OSError:
                return count
            found = read_transmit_stamp(ancillary)
            if found is not None:
                self._take(*found, give)
        return most

    def _take(self, number: int, stamp: int, give: Callable[[Any, int], object]) -> None:
        index = (number - self._first) & 0xFFFFFFFF
        if index >= len(self._keys):
            self.unmatched += 1
            return
        for _ in range(index):  # their stamps were lost
            self._keys.popleft()
        self._first = (number + 1) & 0xFFFFFFFF
        give(self._keys.popleft(), stamp)

    def _arm(self, on: bool) -> None:
        self._set(self._flags if on else self._flags & ~TX_SOFTWARE)
        self._armed = on

    def _set(self, flags: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)

    def close(self) -> None:
        """No more stamps from this socket."""
        with contextlib.suppress(OSError):
            self._set(0)


def open_transmit_stamps(sock: socket.socket) -> tuple[TransmitStamps | None, str]:
    """The transmit stamps of a socket; or None, and why the kernel gives none."""
    if not hasattr(socket, "MSG_ERRQUEUE"):
        return None, "this system has no error queue"
    flags = TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
    error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    for more in (OPT_RX_FILTER, 0):
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags | more)
        except OSError as refused:
            error = refused
        else:
            return TransmitStamps(sock, flags | more), ""
    return None, f"SO_TIMESTAMPING: {error.strerror or error}"


class OwnStamps:
    """The transmit stamps of what one session sends, where they are wanted and where the kernel gives them.

    `note(key, NTP stamp)` keeps one and says how old the packet's own stamp was then, nanoseconds, or None.
    `forward` is what is added to the clock for the stamp of a packet, 32.32 fixed point. The error estimate of the
    clock follows what is measured. `refused` says why there are none, if they were wanted.
    """

    def __init__(
        self, sock: socket.socket, options: StampOptions, clock: SystemClock, note: Callable[[Any, int], int | None]
    ) -> None:
        self._stamps: TransmitStamps | None = None
        self.refused = ""
        if options.wanted:
            self._stamps, self.refused = open_transmit_stamps(sock)
        self._given = 0
        self._asked = False
        self._correct = options.correct
        self._clock = clock
        self._note = note
        self._ages = RunningAge()
        self.forward = 0
        self._forward_ns = 0
        self.mismatched = 0
        """Stamps that could not be those of their packets."""
        clock.set_stamp_error(UNMEASURED_ERROR_NS)

    @property
    def waiting(self) -> int:
        """Packets whose stamp has not been read yet."""
        return 0 if self._stamps is None else self._stamps.waiting

    @property
    def doubled(self) -> bool:
        """True when what arrives brings its stamp twice."""
        return self._stamps is not None and self._stamps.doubled

    @property
    def pressing(self) -> bool:
        """True when one is to be read whether there is time or not: packets are sampled, and it is one of 64."""
        return self._stamps is not None and self._stamps.sampled and self._stamps.waiting > _PRESSING

    def expect(self, key: Any, due_ns: int) -> None:
        """The next packet that is sent is `key`, due at `due_ns`."""
        if self._stamps is not None:
            self._asked = True
            self._stamps.expect((key, self._forward_ns) if self._correct else key, due_ns)

    def failed(self) -> None:
        """It was not sent."""
        if self._stamps is not None:
            self._stamps.failed(self._take)

    def drain(self, most: int = 1 << 30) -> int:
        """Takes at most `most` stamps from the kernel; how many."""
        if self._stamps is None:
            return 0
        return self._stamps.drain(self._take, most)

    def _take(self, key: Any, stamp: int) -> None:
        self._given += 1
        forward_ns = 0
        if self._correct:
            key, forward_ns = key
        age_ns = self._note(key, stamp)
        if age_ns is None:
            self.mismatched += 1
            return
        # Of a stamp that was put forward the age is what is left: the whole of it is measured.
        self._ages.add(age_ns + forward_ns)
        median, spread, largest = self._ages.median, self._ages.spread, self._ages.largest
        if median is None or spread is None or largest is None:
            return
        if self._correct:
            self._forward_ns = max(0, median)
            self.forward = fixed_point_from_ns(self._forward_ns)
        self._clock.set_stamp_error(max(LEAST_ERROR_NS, spread if self._correct else largest))

    def close(self) -> None:
        """No more of them."""
        if self._stamps is not None:
            self._stamps.close()
            if self._asked and not self._given:
                self.refused = "the device gave none"
