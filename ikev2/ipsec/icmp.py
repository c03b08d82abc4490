"""What the kernel keeps for a UDP socket of ICMP errors (IP_RECVERR): read, and asked for path MTUs.

The kernel has compared the quoted packet's addresses and ports with the socket's before it keeps an error.
ip(7), ipv6(7); RFC 1191 section 4, RFC 8201 section 4.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import TypeAlias

OnPathMtu: TypeAlias = Callable[[str, int], None]
"""Called with a host, and the octets that an IP datagram to it may have."""

_IP_RECVERR, _IPV6_RECVERR = 11, 25
_MSG_ERRQUEUE = 0x2000
_CONTROL_OCTETS = 512
_FROM_ICMP = (1, 2, 3)  # SO_EE_ORIGIN_LOCAL, ICMP, ICMP6

_SOCK_EXTENDED_ERR = struct.Struct("@IBBBBII")
"""struct sock_extended_err: ee_errno, ee_origin, ee_type, ee_code, ee_pad, ee_info, ee_data."""


def ask_for_errors(sock: socket.socket) -> None:
    """Have ICMP errors kept for the socket; `read_errors` has to be called from then on, or it is ready for ever."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def read_errors(sock: socket.socket, on_path_mtu: OnPathMtu | None) -> None:
    """Take every error that waits; those that say how large a datagram may be go to `on_path_mtu`."""
    with contextlib.suppress(OSError):
        while True:
            _, ancillary, _, name = sock.recvmsg(0, _CONTROL_OCTETS, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            mtu = path_mtu(ancillary)
            if mtu and on_path_mtu is not None and name:
                on_path_mtu(name[0], mtu)


def path_mtu(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The MTU in octets that one error names; 0 when it is about something else."""
    for level, kind, value in ancillary:
        if (level, kind) not in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
            continue
        if len(value) >= _SOCK_EXTENDED_ERR.size:
            number, origin, _, _, _, info, _ = _SOCK_EXTENDED_ERR.unpack_from(value)
            return info if number == errno.EMSGSIZE and origin in _FROM_ICMP else 0
    return 0
