"""Receiving datagrams with their stamps and TTLs: one interface, two ways.

`portable` is recvmsg(2), one datagram a call. `linux` is recvmmsg(2) through ctypes, up to 32 a call into buffers that
are used again and again: cheaper when datagrams wait in a queue. `auto` takes `linux` where its structures are the
ones that we know (64-bit Linux), else `portable`. What they give is the same, octet by octet.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from abc import ABC, abstractmethod

from ippm.errors import ConfigurationError
from ippm.io.sockopts import (
    CONTROL_OCTETS,
    IP_TTL,
    IPV6_HOPLIMIT,
    SCM_TIMESTAMPNS,
    read_ancillary,
    read_dscp_ecn,
)
from ippm.timestamps import ntp_from_timespec

SLOTS = 32
SLOT_OCTETS = 65_536
NAME_OCTETS = 32
WAYS = ("auto", "portable", "linux")

CMSG = struct.Struct("@Qii")
STAMP_THEN_TTL = struct.Struct("@16sll16si")
"""struct cmsghdr and timespec, then struct cmsghdr and int: the order in which Linux writes them for UDP."""

_STAMP_HEAD = CMSG.pack(32, socket.SOL_SOCKET, SCM_TIMESTAMPNS)
_TTL_HEADS = (
    CMSG.pack(20, socket.IPPROTO_IP, IP_TTL),
    CMSG.pack(20, socket.IPPROTO_IPV6, IPV6_HOPLIMIT),
)

LENGTHS = struct.Struct("@8xI28xQ8xI")
"""msg_namelen, msg_controllen and msg_len in a `struct mmsghdr` of 64 octets."""

_IPV4_NAME = struct.Struct("!2xH4s")
_IPV6_NAME = struct.Struct("!2xHI16s")

Address = tuple[str, int]


class Receiver(ABC):
    """Datagrams of one call to `receive`: number 0, 1, ...; each is valid until the next call."""

    way: str
    batch: int
    """How many datagrams a call takes at most; fewer mean that no more wait."""

    @abstractmethod
    def receive(self, sock: socket.socket, limit: int = SLOTS) -> int:
        """Takes at most `limit` datagrams without waiting; how many there were. OSError as the socket says."""

    @abstractmethod
    def datagram(self, number: int) -> memoryview:
        """Its octets, and no octet more."""

    @abstractmethod
    def stamp_and_ttl(self, number: int) -> tuple[int | None, int | None]:
        """The kernel's receive stamp (NTP) and the TTL or Hop Limit; None for what is not known."""

    @abstractmethod
    def dscp_ecn(self, number: int) -> int | None:
        """The octet of its IP header with the DSCP and the ECN; None where the socket was not told to give it."""

    @abstractmethod
    def address(self, number: int) -> Address:
        """Where it came from, as the socket layer writes it (for IPv6 with flow and scope)."""

    def item(self, number: int) -> tuple[memoryview, int | None, int | None, Address]:
        """Its octets, the stamp, the TTL and where it came from, all at once."""
        return self.datagram(number), *self.stamp_and_ttl(number), self.address(number)


class PortableReceiver(Receiver):
    """recvmsg(2)."""

    way = "portable"
    batch = 1

    def __init__(self) -> None:
        self._buffer = bytearray(SLOT_OCTETS)
        self._view = memoryview(self._buffer)
        self._octets = 0
        self._ancillary: list[tuple[int, int, bytes]] = []
        self._address: Address = ("", 0)

    def receive(self, sock: socket.socket, limit: int = SLOTS) -> int:
        """One datagram or none."""
        try:
            self._octets, self._ancillary, _, self._address = sock.recvmsg_into(
                [self._buffer], CONTROL_OCTETS, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return 0
        return 1

    def datagram(self, number: int) -> memoryview:
        """The octets."""
        return self._view[: self._octets]

    def stamp_and_ttl(self, number: int) -> tuple[int | None, int | None]:
        """From the ancillary data."""
        return read_ancillary(self._ancillary)

    def dscp_ecn(self, number: int) -> int | None:
        """From the ancillary data."""
        return read_dscp_ecn(self._ancillary)

    def address(self, number: int) -> Address:
        """As recvmsg gave it."""
        return self._address


class Iovec(ctypes.Structure):
    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint32),
        ("msg_iov", ctypes.POINTER(Iovec)),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    _fields_ = [("msg_hdr", Msghdr), ("msg_len", ctypes.c_uint32)]


class LinuxReceiver(Receiver):
    """recvmmsg(2). The headers are put back from a template before each call: the kernel overwrites their lengths."""

    way = "linux"
    batch = SLOTS

    def __init__(self) -> None:
        self._octets = (ctypes.c_char * (SLOTS * SLOT_OCTETS))()
        self._control = (ctypes.c_char * (SLOTS * CONTROL_OCTETS))()
        self._names = (ctypes.c_char * (SLOTS * NAME_OCTETS))()
        self._iovecs = (Iovec * SLOTS)()
        self._headers = (Mmsghdr * SLOTS)()
        for number in range(SLOTS):
            self._iovecs[number].iov_base = ctypes.addressof(self._octets) + number * SLOT_OCTETS
            self._iovecs[number].iov_len = SLOT_OCTETS
            header = self._headers[number].msg_hdr
            header.msg_name = ctypes.addressof(self._names) + number * NAME_OCTETS
            header.msg_namelen = NAME_OCTETS
            header.msg_iov = ctypes.pointer(self._iovecs[number])
            header.msg_iovlen = 1
            header.msg_control = ctypes.addressof(self._control) + number * CONTROL_OCTETS
            header.msg_controllen = CONTROL_OCTETS
        self._template = bytes(self._headers)
        self._headers_at = ctypes.addressof(self._headers)
        self._data_view = memoryview(self._octets).cast("B")
        self._control_view = memoryview(self._control).cast("B")
        self._name_view = memoryview(self._names).cast("B")
        self._header_view = memoryview(self._headers).cast("B")
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._known: dict[bytes, Address] = {}

    @classmethod
    def is_known_here(cls) -> bool:
        """True on a system whose structures have the sizes and offsets that this class reads."""
        return (
            sys.platform == "linux"
            and ctypes.sizeof(Mmsghdr) == 64
            and Msghdr.msg_controllen.offset == 40
            and Mmsghdr.msg_len.offset == 56
            and STAMP_THEN_TTL.size == 52
            and hasattr(ctypes.CDLL(None), "recvmmsg")
        )

    def receive(self, sock: socket.socket, limit: int = SLOTS) -> int:
        """Up to 32 datagrams."""
        limit = min(limit, SLOTS)
        ctypes.memmove(self._headers_at, self._template, limit * 64)
        count: int = self._recvmmsg(sock.fileno(), self._headers, limit, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        return count

    def datagram(self, number: int) -> memoryview:
        """The octets."""
        octets = LENGTHS.unpack_from(self._header_view, number * 64)[2]
        start = number * SLOT_OCTETS
        return self._data_view[start : start + octets]

    def stamp_and_ttl(self, number: int) -> tuple[int | None, int | None]:
        """From the control buffer, only as far as the kernel wrote it."""
        written = LENGTHS.unpack_from(self._header_view, number * 64)[1]
        return read_control(self._control_view, number * CONTROL_OCTETS, written)

    def dscp_ecn(self, number: int) -> int | None:
        """From the control buffer, only as far as the kernel wrote it."""
        start = number * CONTROL_OCTETS
        written = LENGTHS.unpack_from(self._header_view, number * 64)[1]
        return read_dscp_ecn(walk_control(self._control_view, start, start + written))

    def item(self, number: int) -> tuple[memoryview, int | None, int | None, Address]:
        """All at once: the lengths are read once."""
        name_octets, written, octets = LENGTHS.unpack_from(self._header_view, number * 64)
        at = number * NAME_OCTETS
        address = self._known.get(bytes(self._name_view[at : at + name_octets]))
        at = number * SLOT_OCTETS
        return (
            self._data_view[at : at + octets],
            *read_control(self._control_view, number * CONTROL_OCTETS, written),
            self.address(number) if address is None else address,
        )

    def address(self, number: int) -> Address:
        """Decoded once for each peer."""
        octets = LENGTHS.unpack_from(self._header_view, number * 64)[0]
        start = number * NAME_OCTETS
        name = bytes(self._name_view[start : start + octets])
        known = self._known.get(name)
        if known is None:
            if len(self._known) > 4096:
                self._known.clear()
            known = self._known[name] = address_of_name(name)
        return known


def read_control(octets: memoryview | bytes, start: int, written: int) -> tuple[int | None, int | None]:
    """The receive stamp (NTP) and the TTL in the control octets from `start` on, of which the kernel wrote so many."""
    if written >= STAMP_THEN_TTL.size:
        head, seconds, nanoseconds, head_2, ttl = STAMP_THEN_TTL.unpack_from(octets, start)
        if head == _STAMP_HEAD and head_2 in _TTL_HEADS:
            return ntp_from_timespec(seconds, nanoseconds), ttl
    return read_ancillary(walk_control(octets, start, start + written))


def walk_control(octets: memoryview | bytes, at: int, end: int) -> list[tuple[int, int, bytes]]:
    """The control messages between two offsets, as recvmsg(2) of Python gives them."""
    found = []
    while at + CMSG.size <= end:
        length, level, kind = CMSG.unpack_from(octets, at)
        if length < CMSG.size or at + length > end:
            break
        found.append((level, kind, bytes(octets[at + CMSG.size : at + length])))
        at += (length + 7) & ~7
    return found


def address_of_name(name: bytes) -> Address:
    """The address of a `struct sockaddr_in` or `sockaddr_in6`, as Python's socket module writes it."""
    family = int.from_bytes(name[:2], sys.byteorder)
    if family == socket.AF_INET:
        port, host = _IPV4_NAME.unpack_from(name)
        return socket.inet_ntop(socket.AF_INET, host), port
    if family == socket.AF_INET6:
        port, flow, host = _IPV6_NAME.unpack_from(name)
        scope = int.from_bytes(name[24:28], sys.byteorder)
        return (socket.inet_ntop(socket.AF_INET6, host), port, flow & 0xFFFFF, scope)  # type: ignore[return-value]
    raise OSError(errno.EAFNOSUPPORT, f"address family {family}")


def is_linux(way: str) -> bool:
    """Whether `way` is `linux` here. ConfigurationError for no way at all, and for `linux` where it cannot be."""
    if way not in WAYS:
        raise ConfigurationError(f"no way to receive is called {way!r}: {', '.join(WAYS)}")
    if way != "portable" and LinuxReceiver.is_known_here():
        return True
    if way == "linux":
        raise ConfigurationError("recvmmsg is not usable on this system: take `portable`")
    return False


def make_receiver(way: str = "auto") -> Receiver:
    """A receiver of its own for each loop. ConfigurationError for `linux` where it cannot be."""
    return LinuxReceiver() if is_linux(way) else PortableReceiver()
