"""What the clients of OWAMP and TWAMP share on asyncio: the TCP connection, and waiting for events of a role."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from ippm.core.client_connection import ControlClientConfig
from ippm.core.control_events import Connected, ConnectionClosed, Endpoint, SessionRejected, Started
from ippm.core.key_log import KeyLog
from ippm.crypto import KeyProvider
from ippm.errors import ConnectionFailed, IppmError, LocalProtocolError
from ippm.iana import Mode
from ippm.io.clock import now_ntp
from ippm.io.control_tcp import connect, resolve
from ippm.io.options import MarkCallback
from ippm.timestamps import ntp_difference_ns

if TYPE_CHECKING:
    from ippm.core.impair import Impairments

log = logging.getLogger("ippm.client")

_CLOCKS_DIFFER_S = 1.0
_READ_OCTETS = 65536
Event = TypeVar("Event")


class ClientRole(Protocol):
    """A client role of one Control connection, sans-IO: `ippm.core.client_connection.ClientConnection`."""

    mode: Mode
    remote: Endpoint

    def start_sessions(self, now: float) -> None:
        """Start what was accepted."""

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the server."""

    def receive_eof(self, now: float) -> None:
        """The server closed the connection."""

    def data_to_send(self) -> bytes:
        """What is to go to the server now; empty when there is nothing."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, or None."""

    def handle_timer(self, now: float) -> None:
        """The time has come."""

    def next_event(self) -> object | None:
        """The oldest event that was not taken yet, or None."""

    def close(self) -> None:
        """Our side ends the connection."""


class ConnectOptions(Protocol):
    """Where to connect to, and from where: `TwpingOptions`, `OwpingOptions`."""

    @property
    def host(self) -> str:
        """The server's name or address."""

    @property
    def port(self) -> int:
        """Its TCP port."""

    @property
    def family(self) -> int:
        """The address family, or 0."""

    @property
    def local_address(self) -> str | None:
        """Our address, or None for any."""

    @property
    def local_port_range(self) -> tuple[int, int] | None:
        """The range of our port, or None for any."""

    @property
    def connect_wait_s(self) -> float:
        """How long to try."""

    @property
    def mark_callback(self) -> MarkCallback | None:
        """Called with the socket before it is bound."""

    @property
    def security(self) -> Mode:
        """The security modes that are wanted."""

    @property
    def require_ikev2(self) -> bool:
        """No other keys."""

    @property
    def maximum_count(self) -> int:
        """The largest PBKDF2 Count."""

    @property
    def response_wait_s(self) -> float:
        """How long to wait for each of the server's messages."""

    @property
    def key_log(self) -> KeyLog | None:
        """Who is told the keys."""

    @property
    def impairments(self) -> Impairments | None:
        """What spoils what is sent."""


class ControlTcpClient:
    """A role and its TCP connection."""

    def __init__(self, role: ClientRole, sock: socket.socket) -> None:
        self._its_role = role
        self.connected: Connected | None = None
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start_sessions(self) -> None:
        """Start all sessions that were accepted; returns when Start-Ack is here. Raises ServerRefused."""
        self._its_role.start_sessions(self._loop.time())
        await self._await(Started)

    async def watch(self) -> None:
        """Returns never, but raises IppmError when the server closes the connection or breaks the protocol."""
        await self._next()

    async def close(self) -> None:
        """End the connection and let go of the secret."""
        self._its_role.close()
        self._sock.close()

    async def _set_up(self, provider: KeyProvider | None) -> None:
        """Wait for the end of the connection setup; when it fails, the connection is closed. Raises IppmError."""
        role = self._its_role
        try:
            self.connected = await self._await(Connected)
            lead_s = ntp_difference_ns(self.connected.server_start_time, now_ntp()) / 1e9
            if self.connected.server_start_time and lead_s > _CLOCKS_DIFFER_S:
                # Start-Time is when the server began: one that is to come is a clock that is ahead.
                log.warning(
                    "%s: clocks differ by at least %.1f s: the server says that it began at a time that is yet to come",
                    role.remote.host,
                    lead_s,
                )
            ikev2_here = role.mode.keyed and provider is not None and provider.offers_ikev2
            if ikev2_here and not self.connected.offered & Mode.IKEV2_DERIVED:
                # The Greeting is not authenticated: the bit may have been taken out of it.
                log.warning("%s does not offer IKEv2-derived keys", role.remote.host)
        except BaseException:
            await self.close()
            raise

    async def _session_answer(self, kind: type[Event]) -> Event:
        """The answer to a request for a session, of this kind when it is accepted. Raises ServerRefused."""
        answer = await self._next()
        if isinstance(answer, SessionRejected):
            raise answer.error
        if not isinstance(answer, kind):
            raise LocalProtocolError(f"{type(answer).__name__} was not awaited")
        return answer

    async def _await(self, kind: type[Event]) -> Event:
        """The next event, which must be of this kind."""
        event = await self._next()
        if not isinstance(event, kind):
            raise LocalProtocolError(f"{type(event).__name__} was not awaited")
        return event

    async def _next(self) -> object:
        """The next event. Raises the error of a ConnectionClosed."""
        while True:
            event = self._its_role.next_event()
            if isinstance(event, ConnectionClosed):
                raise event.error or ConnectionFailed(event.reason)
            if event is not None:
                return event
            await self._flush()
            await self._receive()

    async def _flush(self) -> None:
        data = self._its_role.data_to_send()
        if data:
            try:
                await self._loop.sock_sendall(self._sock, data)
            except OSError as error:
                raise ConnectionFailed(f"the connection broke: {error.strerror or error}") from None

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout_at(self._its_role.next_timer()):
                octets = await self._loop.sock_recv(self._sock, _READ_OCTETS)
        except TimeoutError:
            self._its_role.handle_timer(self._loop.time())
            return
        except OSError as error:
            raise ConnectionFailed(f"the connection broke: {error.strerror or error}") from None
        if octets:
            self._its_role.receive_data(octets, self._loop.time())
        else:
            self._its_role.receive_eof(self._loop.time())


def client_config(options: ConnectOptions) -> ControlClientConfig:
    """What the options say to the role. Raises ConfigurationError."""
    return ControlClientConfig(
        mode=options.security,
        require_ikev2=options.require_ikev2,
        maximum_count=options.maximum_count,
        response_wait_s=options.response_wait_s,
        key_log=options.key_log,
        impairments=options.impairments,
    )


async def connect_any(options: ConnectOptions) -> socket.socket:
    """A TCP connection to the first address of the host that answers. Raises the last address's error."""
    family = options.family
    if not family and options.local_address is not None:
        family = socket.AF_INET6 if ":" in options.local_address else socket.AF_INET
    error: IppmError = ConnectionFailed(f"{options.host} has no address")
    for its_family, address in await resolve(options.host, options.port, family, wait_s=options.connect_wait_s):
        try:
            return await connect(
                address,
                its_family,
                local_address=options.local_address,
                ports=options.local_port_range,
                wait_s=options.connect_wait_s,
                mark_callback=options.mark_callback,
            )
        except IppmError as failed:
            error = failed
    raise error
