"""What arrives at one connected socket, taken from it now and looked at later.

A Session-Sender that has a packet to send every ten microseconds has no time to read replies, and need not: the kernel
stamped them when they arrived. `take` moves them out of the socket, which costs a microsecond each, and `read`
hands them over when there is time. Two ways as in `ippm.io.batch`, which give the same, octet by octet.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from ippm.io.batch import (
    LENGTHS,
    SLOT_OCTETS,
    SLOTS,
    Iovec,
    Mmsghdr,
    is_linux,
    read_control,
    walk_control,
)
from ippm.io.sockopts import CONTROL_OCTETS, read_ancillary, read_dscp_ecn

CONTROL_LEAST_OCTETS = 96
"""Room for a stamp and a TTL (56 octets) and something more; what is beyond it is lost."""

CONTROL_MOST_OCTETS = 192
"""Room for a stamp that comes twice, a TTL, and the octet of DSCP and ECN: 32 + 64 + 24 + 24."""

_NO_TOS = 56
"""Control octets of a stamp and a TTL, and nothing else."""


class Handler(Protocol):
    """Takes a datagram: its octets, TTL, the kernel's receive stamp (NTP), and where monitored the DSCP and ECN."""

    def __call__(self, data: memoryview, ttl: int | None, stamp: int | None, dscp_ecn: int | None) -> object:
        """None for what is not known."""


class Replies(ABC):
    """Datagrams of a connected socket. `longest` is how many octets of each are kept."""

    way: str
    waiting = 0
    """How many were taken and not read."""

    @abstractmethod
    def take(self, limit: int = SLOTS) -> int:
        """Takes at most `limit` datagrams, without waiting; how many. OSError as the socket says."""

    @abstractmethod
    def read(self, handle: Handler, most: int = 1 << 62) -> int:
        """Calls `handle` for the oldest that were taken, at most `most`; for how many."""


class PortableReplies(Replies):
    """recvmsg(2), one datagram a call."""

    way = "portable"

    def __init__(self, sock: socket.socket, longest: int) -> None:
        self._sock = sock
        self._longest = min(longest, SLOT_OCTETS)
        self._taken: deque[tuple[bytes, list[tuple[int, int, bytes]]]] = deque()

    def take(self, limit: int = SLOTS) -> int:
        """As many calls as there are datagrams."""
        for count in range(limit):
            try:
                octets, ancillary, _, _ = self._sock.recvmsg(self._longest, CONTROL_OCTETS, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count
            self._taken.append((octets, ancillary))
            self.waiting += 1
        return limit

    def read(self, handle: Handler, most: int = 1 << 62) -> int:
        """From the ancillary data."""
        done = 0
        while self._taken and done < most:
            octets, ancillary = self._taken.popleft()
            stamp, ttl = read_ancillary(ancillary)
            self.waiting -= 1
            handle(memoryview(octets), ttl, stamp, read_dscp_ecn(ancillary))
            done += 1
        return done


class LinuxReplies(Replies):
    """recvmmsg(2), up to 32 a call. Of each call one copy is made, of control octets and data side by side."""

    way = "linux"

    def __init__(self, sock: socket.socket, longest: int, control_octets: int = CONTROL_MOST_OCTETS) -> None:
        longest = (min(longest, SLOT_OCTETS) + 7) & ~7
        self._control_octets = control_octets = (control_octets + 7) & ~7
        self._stride = control_octets + longest
        self._slots = (ctypes.c_char * (SLOTS * self._stride))()
        self._iovecs = (Iovec * SLOTS)()
        self._headers = (Mmsghdr * SLOTS)()
        base = ctypes.addressof(self._slots)
        for number in range(SLOTS):
            at = base + number * self._stride
            self._iovecs[number].iov_base = at + control_octets
            self._iovecs[number].iov_len = longest
            header = self._headers[number].msg_hdr
            header.msg_iov = ctypes.pointer(self._iovecs[number])
            header.msg_iovlen = 1
            header.msg_control = at
            header.msg_controllen = control_octets
        self._template = bytes(self._headers)
        self._headers_at = ctypes.addressof(self._headers)
        self._slot_view = memoryview(self._slots).cast("B")
        self._header_view = memoryview(self._headers).cast("B")
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._fd = sock.fileno()
        self._sock = sock  # its descriptor is ours as long as we are
        self._usual = b""
        self._taken: deque[tuple[int, bytes, bytes]] = deque()
        self._next = 0

    def take(self, limit: int = SLOTS) -> int:
        """One call."""
        limit = min(limit, SLOTS)
        ctypes.memmove(self._headers_at, self._template, limit * 64)
        count: int = self._recvmmsg(self._fd, self._headers, limit, socket.MSG_DONTWAIT, None)
        if count <= 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        # Most batches have the same lengths as one before: their headers are kept once.
        headers = bytes(self._header_view[: count * 64])
        if not self._usual.startswith(headers):
            self._usual = headers
        self._taken.append((count, self._usual, bytes(self._slot_view[: count * self._stride])))
        self.waiting += count
        return count

    def read(self, handle: Handler, most: int = 1 << 62) -> int:
        """From the copies."""
        done = 0
        while self._taken and done < most:
            count, headers, slots = self._taken[0]
            view, first = memoryview(slots), self._next
            last = min(count, first + most - done)
            for number in range(first, last):
                _, written, octets = LENGTHS.unpack_from(headers, number * 64)
                at = number * self._stride
                stamp, ttl = read_control(slots, at, written)
                dscp_ecn = read_dscp_ecn(walk_control(slots, at, at + written)) if written > _NO_TOS else None
                data = at + self._control_octets
                handle(view[data : data + octets], ttl, stamp, dscp_ecn)
            done += last - first
            self.waiting -= last - first
            self._next = last
            if last == count:
                self._taken.popleft()
                self._next = 0
        return done


def make_replies(sock: socket.socket, way: str, longest: int, control_octets: int = CONTROL_MOST_OCTETS) -> Replies:
    """The datagrams of a connected socket, by a way of `ippm.io.batch`. ConfigurationError as `make_receiver`.

    Of each at most `longest` octets are kept, and of its control messages what fits `control_octets`.
    """
    return LinuxReplies(sock, longest, control_octets) if is_linux(way) else PortableReplies(sock, longest)
