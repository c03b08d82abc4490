"""Socket options that Python's socket module does not name, and the ancillary data that they bring.

Values are those of Linux on every architecture that uses asm-generic/socket.h. socket(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

from ippm.timestamps import ntp_from_timespec

SO_TIMESTAMPNS = 35
SCM_TIMESTAMPNS = 35
SO_TIMESTAMPING = 37
SCM_TIMESTAMPING = 37
SO_RCVBUFFORCE = 33
SO_BUSY_POLL = 46
IP_TTL = 2
IP_TOS = 1
IP_RECVERR = 11
IP_RECVTTL = 12
IP_RECVTOS = 13
IPV6_RECVTCLASS = 66
IPV6_RECVERR = 25
IPV6_HOPLIMIT = 52
IPV6_RECVHOPLIMIT = 51
IPV6_UNICAST_HOPS = 16
IPV6_TCLASS = 67

TIMESPEC = struct.Struct("@ll")
_INT = struct.Struct("@i")

CONTROL_OCTETS = 256
"""Room for all ancillary data that is on; too little silently loses the TTL."""

Ancillary = list[tuple[int, int, bytes]]


def enable_receive_stamps(sock: socket.socket) -> bool:
    """Asks the kernel to stamp datagrams when they arrive (CLOCK_REALTIME); False when it cannot."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def enable_receive_ttl(sock: socket.socket) -> None:
    """Asks for the TTL or Hop Limit of datagrams that arrive. RFC 5357 section 4.2."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        # A dual-stack socket gives the TTL of IPv4 datagrams at the IP level.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)


def enable_receive_dscp_ecn(sock: socket.socket) -> None:
    """Asks for the octet of datagrams that arrive which holds the DSCP and the ECN. RFC 7750 section 2.2.1."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)


def set_ttl_and_dscp(sock: socket.socket, ttl: int, dscp: int) -> None:
    """Sets the TTL or Hop Limit, and the six bits of the DSCP, of what is sent."""
    if not 0 <= dscp <= 63:
        raise ValueError(f"DSCP {dscp} does not fit six bits")
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TCLASS, dscp << 2)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, IP_TOS, dscp << 2)


def set_receive_buffer(sock: socket.socket, octets: int) -> None:
    """A larger receive buffer, beyond the system's limit where we may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
    except OSError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def read_ancillary(ancillary: list[tuple[int, int, Any]]) -> tuple[int | None, int | None]:
    """The kernel's receive stamp (NTP) and the TTL of a datagram; None for what is not there."""
    stamp = ttl = None
    for level, kind, data in ancillary:
        if kind == SCM_TIMESTAMPNS and level == socket.SOL_SOCKET:
            seconds, nanoseconds = TIMESPEC.unpack_from(data)
            stamp = ntp_from_timespec(seconds, nanoseconds)
        elif (kind == IP_TTL and level == socket.IPPROTO_IP) or (
            kind == IPV6_HOPLIMIT and level == socket.IPPROTO_IPV6
        ):
            ttl = _INT.unpack_from(data)[0]
    return stamp, ttl


def read_dscp_ecn(ancillary: list[tuple[int, int, Any]]) -> int | None:
    """The octet that holds the DSCP and the ECN; None where `enable_receive_dscp_ecn` was not asked for."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_TOS:
            return int(data[0])
        if level == socket.IPPROTO_IPV6 and kind == IPV6_TCLASS:
            return int(_INT.unpack_from(data)[0])
    return None
