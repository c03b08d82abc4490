"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

Both batches keep all their octets in memory of their own, which the kernel reads and writes where it lies; a batch
belongs to one thread. recvmmsg(2), sendmmsg(2), cmsg(3).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from typing import Literal

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)

_MMSGHDR = struct.Struct("@PIPNPNi0PI0P")
"""struct mmsghdr: msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags; msg_len."""
_NAMELEN_AT = struct.calcsize("@P")
_CONTROLLEN_AT = struct.calcsize("@PIPNPN") - struct.calcsize("@N")
_LEN_AT = struct.calcsize("@PIPNPNi0P")
_IOVEC = struct.Struct("@PN")
_CMSGHDR = struct.Struct("@Nii")
_CMSG_ALIGNMENT = struct.calcsize("@N")

_NAME_OCTETS = 28
"""Of struct sockaddr_in6, the longest that is used."""
_CONTROL_OCTETS = 160
_META_OCTETS = _NAME_OCTETS + _CONTROL_OCTETS
_LONGEST = 65536
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2s4x16sI")

Ancillary = list[tuple[int, int, bytes]]


class ReceiveBatch:
    """Takes up to `count` datagrams of a socket at once; each call of `receive` overwrites those of the call before."""

    def __init__(self, count: int) -> None:
        self._count = count
        # Slices of an mmap are bytes, with nothing in between.
        self._data = mmap.mmap(-1, count * _LONGEST)
        self._meta = mmap.mmap(-1, count * _META_OCTETS)
        self._vectors = bytearray(count * _IOVEC.size)
        data, meta, vectors = _address(self._data), _address(self._meta), _address(self._vectors)
        self._fresh = bytearray()
        for at in range(count):
            name, vector = meta + at * _META_OCTETS, vectors + at * _IOVEC.size
            _IOVEC.pack_into(self._vectors, at * _IOVEC.size, data + at * _LONGEST, _LONGEST)
            self._fresh += _MMSGHDR.pack(name, _NAME_OCTETS, vector, 1, name + _NAME_OCTETS, _CONTROL_OCTETS, 0, 0)
        self._headers = bytearray(self._fresh)
        self._headers_address = _address(self._headers)
        self._lengths = _fields(self._headers, "I", _LEN_AT)
        self._control_lengths = _fields(self._headers, "P", _CONTROLLEN_AT)
        self._starts = range(0, count * _LONGEST, _LONGEST)
        self._meta_starts = range(0, count * _META_OCTETS, _META_OCTETS)

    def receive(self, fd: int) -> int:
        """How many datagrams have been taken; 0 when none waits. Raises OSError for what else stands in the way."""
        self._headers[:] = self._fresh
        came = _recvmmsg(fd, self._headers_address, self._count, socket.MSG_DONTWAIT, None)
        if came >= 0:
            return int(came)
        number = ctypes.get_errno()
        if number in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(number, os.strerror(number))

    def datagrams(self, came: int) -> list[bytes]:
        """The octets of the first `came` datagrams."""
        data, lengths = self._data, self._lengths[:came].tolist()
        return [data[start : start + octets] for start, octets in zip(self._starts, lengths, strict=False)]

    def metas(self, came: int) -> list[bytes]:
        """Whence and how each of them came, as octets to compare; `sender` and `ancillary` read them."""
        meta, lengths = self._meta, self._control_lengths[:came].tolist()
        return [
            meta[start : start + _NAME_OCTETS + octets]
            for start, octets in zip(self._meta_starts, lengths, strict=False)
        ]


def sender(meta: bytes) -> tuple[str, int]:
    """Host and port from which a datagram came; a link-local host has its zone."""
    if int.from_bytes(meta[:2], sys.byteorder) == socket.AF_INET:
        _, port, host = _SOCKADDR_IN.unpack_from(meta)
        return socket.inet_ntoa(host), int.from_bytes(port, "big")
    _, port, host, scope = _SOCKADDR_IN6.unpack_from(meta)
    name = socket.inet_ntop(socket.AF_INET6, host)
    if scope:
        name += f"%{_interface(scope)}"
    return name, int.from_bytes(port, "big")


def _interface(scope: int) -> str:
    try:
        return socket.if_indextoname(scope)
    except OSError:  # gone by now
        return str(scope)


def ancillary(meta: bytes) -> Ancillary:
    """The control messages of a datagram, as `socket.recvmsg` gives them. cmsg(3)."""
    found, at = [], _NAME_OCTETS
    while at + _CMSGHDR.size <= len(meta):
        octets, level, kind = _CMSGHDR.unpack_from(meta, at)
        if octets < _CMSGHDR.size:
            break
        found.append((level, kind, meta[at + _CMSGHDR.size : at + octets]))
        at += -(-octets // _CMSG_ALIGNMENT) * _CMSG_ALIGNMENT
    return found


def control(messages: Ancillary) -> bytes:
    """Control messages as octets, for `SendBatch.add`. cmsg(3)."""
    octets = b""
    for level, kind, value in messages:
        octets += _CMSGHDR.pack(_CMSGHDR.size + len(value), level, kind) + value
        octets += bytes(-len(octets) % _CMSG_ALIGNMENT)
    return octets


def sockaddr(host: bytes, port: int = 0, scope: int = 0) -> bytes:
    """A destination as octets, for `SendBatch.add`. ip(7), ipv6(7)."""
    if len(host) == 4:
        return _SOCKADDR_IN.pack(socket.AF_INET, port.to_bytes(2, "big"), host)
    return _SOCKADDR_IN6.pack(socket.AF_INET6, port.to_bytes(2, "big"), host, scope)


class SendBatch:
    """Collects up to `count` datagrams of at most `octets` each for a socket, and sends them at once."""

    def __init__(self, count: int, octets: int) -> None:
        self.count = count
        self.octets = octets
        self.waiting = 0
        """How many datagrams wait for `send`."""
        self._data = bytearray(count * octets)
        self._meta = bytearray(count * _META_OCTETS)
        self._vectors = bytearray(count * _IOVEC.size)
        self._headers = bytearray(count * _MMSGHDR.size)
        self._headers_address = _address(self._headers)
        data, meta, vectors = _address(self._data), _address(self._meta), _address(self._vectors)
        for at in range(count):
            name, vector = meta + at * _META_OCTETS, vectors + at * _IOVEC.size
            _IOVEC.pack_into(self._vectors, at * _IOVEC.size, data + at * octets, 0)
            _MMSGHDR.pack_into(self._headers, at * _MMSGHDR.size, name, 0, vector, 1, name + _NAME_OCTETS, 0, 0, 0)
        self._view = memoryview(self._data)
        self._lengths = memoryview(self._vectors).cast("P")[1::2]
        self._name_lengths = _fields(self._headers, "I", _NAMELEN_AT)
        self._control_lengths = _fields(self._headers, "P", _CONTROLLEN_AT)
        self._written = [(b"", b"")] * count

    def add(self, head: bytes, data: bytes, to: bytes, control_octets: bytes = b"") -> None:
        """Put a datagram, `head` and `data` together, behind fewer than `count` others; `to` is of `sockaddr`."""
        at = self.waiting
        self.waiting = at + 1
        start = at * self.octets
        middle = start + len(head)
        end = middle + len(data)
        view = self._view
        view[start:middle] = head
        view[middle:end] = data
        self._lengths[at] = end - start
        before = self._written[at]
        # Where the one before in this place went, the next one goes mostly, too.
        if before[0] is not to or before[1] is not control_octets:
            self._write_meta(at, to, control_octets)

    def _write_meta(self, at: int, to: bytes, control_octets: bytes) -> None:
        start = at * _META_OCTETS
        self._meta[start : start + len(to)] = to
        self._name_lengths[at] = len(to)
        start += _NAME_OCTETS
        self._meta[start : start + len(control_octets)] = control_octets
        self._control_lengths[at] = len(control_octets)
        self._written[at] = to, control_octets

    def send(self, fd: int) -> list[int]:
        """Send what waits, in order; the places of those that could not be sent, for the caller to look at."""
        waiting, at = self.waiting, 0
        refused: list[int] = []
        while at < waiting:
            sent = _sendmmsg(fd, self._headers_address + at * _MMSGHDR.size, waiting - at, socket.MSG_DONTWAIT)
            if sent > 0:
                at += sent
            else:
                refused.append(at)
                at += 1
        self.waiting = 0
        return refused


def _fields(headers: bytearray, kind: Literal["I", "P"], at: int) -> memoryview[int]:
    """One field of every struct mmsghdr, to be read and written by its number."""
    octets = struct.calcsize(kind)
    return memoryview(headers).cast(kind)[at // octets :: _MMSGHDR.size // octets]


def _address(buffer: bytearray | mmap.mmap) -> int:
    """Where a buffer lies; it must not be resized as long as the kernel may look there."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
