"""TCP for Control connections: sockets bound in a port range, DSCP, and addresses as text.

RFC 5357 section 3.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from ippm.core.control_events import Endpoint
from ippm.errors import ConnectionFailed, PortRangeExhausted
from ippm.io.options import MarkCallback

TCP_SAVE_SYN = 27
TCP_SAVED_SYN = 28
_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


def endpoint_of(address: tuple[object, ...]) -> Endpoint:
    """An Endpoint of a socket address: IPv4-mapped ones as IPv4, link-local ones with their zone."""
    host, port = str(address[0]), address[1]
    if not isinstance(port, int):
        raise TypeError(f"no socket address: {address!r}")
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    if len(address) == 4 and address[3] and "%" not in host:
        host = f"{host}%{address[3]}"
    return Endpoint(host, port)


async def resolve(
    host: str, port: int, family: int = 0, *, wait_s: float = 10.0
) -> list[tuple[int, tuple[object, ...]]]:
    """(family, socket address) of a host in order of preference. Raises ConnectionFailed."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(wait_s):
            found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise ConnectionFailed(f"{host}: its address was not found in {wait_s:g} s") from None
    except OSError as error:
        raise ConnectionFailed(f"{host}: {error.strerror or error}") from None
    return [(int(entry[0]), tuple(entry[4])) for entry in found]


async def connect(
    address: tuple[object, ...],
    family: int,
    *,
    local_address: str | None,
    ports: tuple[int, int] | None,
    wait_s: float,
    mark_callback: MarkCallback | None = None,
) -> socket.socket:
    """A connected TCP socket, its local port in `ports` (first, last) when they are given.

    Each port of the range is tried, as one may be taken, or may still be in TIME_WAIT with this very server.
    Raises PortRangeExhausted, ConnectionFailed.
    """
    remote = endpoint_of(address)
    candidates = range(ports[0], ports[1] + 1) if ports is not None else (0,)
    for port in candidates:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if mark_callback is not None:
                mark_callback(sock)
            if local_address is not None or port:
                _bind(sock, family, local_address, port)
            async with asyncio.timeout(wait_s):
                await asyncio.get_running_loop().sock_connect(sock, address)
            return sock
        except TimeoutError:
            sock.close()
            raise ConnectionFailed(f"no connection to {_text(remote)} in {wait_s:g} s") from None
        except OSError as error:
            sock.close()
            if ports is None or error.errno not in _TAKEN:
                raise ConnectionFailed(f"no connection to {_text(remote)}: {_reason(error)}") from None
        except BaseException:
            sock.close()
            raise
    first, last = (ports or (0, 0))[:2]
    raise PortRangeExhausted(f"no TCP port from {first} to {last} can reach {_text(remote)}")


def listen(address: str | None, port: int, mark_callback: MarkCallback | None = None) -> list[socket.socket]:
    """Listening sockets on an address, or on all addresses of both families; `port` 0 takes one port for all.

    Raises OSError.
    """
    wanted: list[tuple[int, str]] = []
    if address is None:
        wanted = [(socket.AF_INET, "0.0.0.0")]
        if socket.has_ipv6:
            wanted.append((socket.AF_INET6, "::"))
    else:
        wanted = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address)]
    socks: list[socket.socket] = []
    try:
        for family, host in wanted:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            except OSError:
                if address is None and socks:
                    continue  # a kernel without IPv6
                raise
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if mark_callback is not None:
                mark_callback(sock)
            sock.setblocking(False)
            sock.bind(_local(family, host, port))
            sock.listen(128)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


def dscp_of_syn(sock: socket.socket) -> int | None:
    """The DSCP of the SYN that made an accepted connection, or None when the kernel did not keep it.

    RFC 5357 section 3.1.
    """
    try:
        header = sock.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 64)
    except OSError:
        return None
    if len(header) < 2:
        return None
    if header[0] >> 4 == 4:
        return header[1] >> 2
    return ((header[0] << 4 | header[1] >> 4) & 0xFF) >> 2


def set_dscp(sock: socket.socket, dscp: int) -> None:
    """The DSCP of what a socket sends; the ECN bits stay TCP's own. RFC 2474."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)


def own_ipv4() -> bytes:
    """An IPv4 address of this host that is no loopback, in 4 octets, else the end of an IPv6 one, else zeros.

    No packet is sent. RFC 4656 section 3.5.
    """
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect((target, 9))
                return socket.inet_pton(family, sock.getsockname()[0].partition("%")[0])[-4:]
        except OSError:
            continue
    return bytes(4)


def _local(family: int, host: str | None, port: int) -> tuple[object, ...]:
    if host is None:
        host = "::" if family == socket.AF_INET6 else "0.0.0.0"
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return tuple(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags)[0][4])


def _bind(sock: socket.socket, family: int, address: str | None, port: int) -> None:
    """Raises ConnectionFailed for an address that cannot be this host's, OSError for a port that cannot be had."""
    try:
        sock.bind(_local(family, address, port))
    except OSError as error:
        if address is None or not (isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL):
            raise
        raise ConnectionFailed(f"{address} is no address to send from: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno) if error.errno else str(error)


def _text(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"
