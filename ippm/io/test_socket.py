"""UDP sockets for test packets: bound in a port range, stamped by the kernel, TTL 255. RFC 4656 section 4.1.2."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ippm.errors import PortRangeExhausted
from ippm.io import sockopts

if TYPE_CHECKING:
    from ippm.core.impair import Impairments
    from ippm.crypto import SessionKeys

RECEIVE_BUFFER_OCTETS = 4 * 1024 * 1024


def open_test_socket(
    local: str,
    port: int | tuple[int, int] = 0,
    mark_callback: Callable[[socket.socket], None] | None = None,
    *,
    dscp: int = 0,
    ttl: int = 255,
    monitor_dscp_ecn: bool = False,
) -> socket.socket:
    """A bound socket; `local` is an address literal of either family, `port` a port (0: any) or (first, last).

    `monitor_dscp_ecn` makes it tell the DSCP and the ECN of what arrives.
    `mark_callback` gets the socket before it is bound (SO_MARK, SO_BINDTODEVICE ...). PortRangeExhausted when every
    port of the range is taken; OSError for anything else.
    """
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sockopts.set_ttl_and_dscp(sock, ttl, dscp)  # rfc4656-s4.1.2-01, rfc5357-s4.2.1-03
        sockopts.enable_receive_stamps(sock)
        sockopts.enable_receive_ttl(sock)  # rfc4656-s4.2-02, rfc5357-s4.2-02
        if monitor_dscp_ecn:
            sockopts.enable_receive_dscp_ecn(sock)
        sockopts.set_receive_buffer(sock, RECEIVE_BUFFER_OCTETS)
        if mark_callback is not None:
            mark_callback(sock)
        _bind(sock, local, port)
    except BaseException:
        sock.close()
        raise
    return sock


def impaired(
    sock: socket.socket,
    impairments: Impairments | None,
    mode: int,
    keys: SessionKeys | None,
    *,
    reply: bool = False,
    reflected_octets: int = 0,
) -> socket.socket:
    """The socket, or one in its place when there are impairments of test packets; `reply`: it is a reflector's.

    `mode`, `keys` and `reflected_octets` are those of the session.
    """
    if impairments is None or not impairments.touches_packets:
        return sock
    from ippm.core.impair import PacketContext
    from ippm.io.impaired_socket import ImpairedSocket

    return ImpairedSocket(sock, impairments, PacketContext(mode, keys, reply, reflected_octets))


def is_own_address(host: str) -> bool:
    """True for a unicast address of this host: what is sent to it leaves from it. No packet is sent.

    Being able to bind says less: broadcast and multicast addresses can be bound, too. RFC 4656 section 6.2.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(resolved(family, host, 9))
            return ip_address(sock.getsockname()[0]) == ip_address(host)
    except OSError:
        return False


def _bind(sock: socket.socket, local: str, port: int | tuple[int, int]) -> None:
    if isinstance(port, int):
        sock.bind(resolved(sock.family, local, port))
        return
    first, last = port
    ports = list(range(first, last + 1))
    start = random.randrange(len(ports)) if ports else 0
    for candidate in ports[start:] + ports[:start]:
        try:
            sock.bind(resolved(sock.family, local, candidate))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            return
    raise PortRangeExhausted(f"no UDP port is free on {local} from {first} to {last}")


def resolved(family: int, host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address of an address literal; for IPv6 with its scope (`fe80::1%eth0`)."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM, 0, flags)[0][4]  # type: ignore[return-value]
