"""From where to where an initiator begins: its connection's addresses, names of hosts and routes, to a pair of them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

from ikev2.core.config import ConnectionConfig
from ikev2.core.types import Address
from ikev2.errors import IkeError, LocalProtocolError
from ikev2.io.udp import source_address

ANY = "%any"


async def first_addresses(connection: ConnectionConfig) -> tuple[Address, Address]:
    """Local and remote address to begin with. Raises IkeError when the peer has no address."""
    loop = asyncio.get_running_loop()
    hosts = [host for host in connection.remote_addrs if host != ANY and "/" not in host]
    if not hosts:
        raise LocalProtocolError(f"{connection.name}: remote_addrs names no host: only the peer can begin")
    failure = ""
    for host in hosts:
        try:
            found = await _resolve(loop, host)
        except OSError as error:
            failure = f"{host}: {error.strerror or error}"
            continue
        for text in found:
            remote = Address(text, connection.first_ports[1])
            local = _local_for(connection, remote)
            if local is not None:
                return local, remote
            failure = f"no local address or route towards {remote.host}"
    raise IkeError(f"{connection.name}: {failure}")


def _local_for(connection: ConnectionConfig, remote: Address) -> Address | None:
    for host in connection.local_addrs or (ANY,):
        if host == ANY:
            with contextlib.suppress(OSError):
                return Address(source_address(remote.host, remote.port), connection.first_ports[0])
        elif (":" in host) == (":" in remote.host):
            return Address(host, connection.first_ports[0])
    return None


async def _resolve(loop: asyncio.AbstractEventLoop, host: str) -> list[str]:
    """The IP addresses of a host; a literal address is its own. Raises OSError when the name is not known."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        return [str(name[0]) for *_, name in found]
