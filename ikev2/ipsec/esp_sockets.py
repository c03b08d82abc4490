"""The sockets that ESP goes through: raw ones of protocol 50, and the UDP 4500 socket that belongs to IKE.

RFC 4303 section 1, RFC 3948 section 2.1; ip(7), ipv6(7), raw(7).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from ikev2.errors import BackendError
from ikev2.ipsec.backend import OnIke
from ikev2.ipsec.icmp import OnPathMtu, ask_for_errors
from ikev2.ipsec.mmsg import Ancillary
from ikev2.ipsec.routing import SOCKET_MARK

SO_MARK = getattr(socket, "SO_MARK", 36)
IPV6_HOPLIMIT, IPV6_TCLASS = 52, 67
_IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS = 8, 12, 13
_IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS = 51, 66
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_SOCKET_BUFFER_OCTETS = 8 << 20
_OUTER_TTL = 64

_PKTINFO = struct.Struct("=I4s4s")
_INT = struct.Struct("=i")


@dataclass(slots=True, eq=False)
class EncapSocket:
    """The UDP 4500 socket of the caller, and whom IKE datagrams go to; `host` is "" when it is bound to all."""

    sock: socket.socket
    on_ike: OnIke
    host: str
    port: int
    on_path_mtu: OnPathMtu | None = None

    @classmethod
    def of(cls, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None) -> EncapSocket:
        """A bound socket; from now on it tells of every datagram to which address of ours, with what TOS and TTL."""
        host, port = sock.getsockname()[:2]
        if sock.family == socket.AF_INET:
            for option in (_IP_PKTINFO, _IP_RECVTOS, _IP_RECVTTL):
                sock.setsockopt(socket.IPPROTO_IP, option, 1)
        else:
            for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
                sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        large_buffers(sock)
        return cls(sock, on_ike, "" if host in ("0.0.0.0", "::") else host, port, on_path_mtu)


def open_esp_socket() -> socket.socket:
    """The socket on which ESP of protocol 50 comes in. Raises BackendError."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ESP)
    except OSError as error:
        raise BackendError(f"a raw socket for ESP cannot be opened: {error.strerror}") from error
    large_buffers(sock)
    return sock


def open_esp6_socket() -> socket.socket | None:
    """The same for IPv6, on which ESP is sent, too; None where the system has no IPv6.

    The kernel heeds Packet Too Big only for raw sockets that ask for errors, so `read_errors` has to be called.
    """
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ESP)
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        ask_for_errors(sock)
    except OSError:
        return None
    large_buffers(sock)
    return sock


def open_packet_socket(family: int) -> socket.socket:
    """A socket that sends whole packets, header and all, and receives nothing. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        large_buffers(sock)
    except OSError:
        sock.close()
        raise
    return sock


def large_buffers(sock: socket.socket) -> None:
    """Room for the bursts that come while the thread does not run; as much as the system grants."""
    for force, option in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, _SOCKET_BUFFER_OCTETS)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_OCTETS)


def scope(zone: str) -> int:
    """The number of the interface that a zone names, 0 for "". Raises OSError when there is none."""
    if not zone:
        return 0
    return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)


def local_host(host: str, ancillary: Ancillary) -> str:
    """The address of ours to which a datagram came: that of the socket, or, where it has none, of the datagram."""
    for level, kind, value in ancillary:
        if host:
            break
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            host = socket.inet_ntoa(_PKTINFO.unpack_from(value)[2])
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            host = socket.inet_ntop(socket.AF_INET6, value[:16])
    return host


def tos_and_ttl(ancillary: Ancillary) -> tuple[int, int]:
    """DS field with ECN, and TTL or hop limit, of the datagram that these control messages came with."""
    tos, ttl = 0, _OUTER_TTL
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP:
            if kind == socket.IP_TOS:
                tos = value[0]
            elif kind == socket.IP_TTL:
                ttl = _INT.unpack_from(value)[0]
        elif level == socket.IPPROTO_IPV6:
            if kind == IPV6_TCLASS:
                tos = _INT.unpack_from(value)[0]
            elif kind == IPV6_HOPLIMIT:
                ttl = _INT.unpack_from(value)[0]
    return tos, ttl
