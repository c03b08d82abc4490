"""What the servers of OWAMP and TWAMP share on asyncio: listening, limits of connections, a Control connection's loop.

Events of a Control connection are handled before its answer goes out, so a session's socket is open before the client
can know. RFC 4656 section 3, RFC 5357 section 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, Protocol

from ippm.core.control_events import ClientRefused, ClientSetUp, Endpoint, SessionDenied
from ippm.errors import IppmError, PortRangeExhausted, RefuseSession
from ippm.iana import Accept, Mode, mode_words
from ippm.io.clock import now_ntp
from ippm.io.control_tcp import dscp_of_syn, endpoint_of, listen, set_dscp
from ippm.io.options import MarkCallback
from ippm.io.test_socket import open_test_socket

log = logging.getLogger("ippm.server")
P = ParamSpec("P")

_READ_OCTETS = 4096
_GOODBYE_READS = 32


class Role(Protocol):
    """A server role of one Control connection, sans-IO: `ippm.core.server_connection.ServerConnection`."""

    local: Endpoint
    remote: Endpoint

    @property
    def closed(self) -> bool:
        """True when the connection is to be closed after `data_to_send` has gone out."""

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the client."""

    def receive_eof(self, now: float) -> None:
        """The client closed its half."""

    def data_to_send(self) -> bytes:
        """What is to go to the client now; empty when there is nothing."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, or None."""

    def handle_timer(self, now: float) -> None:
        """The time has come."""

    def next_event(self) -> object | None:
        """The oldest event that was not taken yet, or None."""

    def close(self, reason: str = "the server is closing") -> None:
        """Our side ends the connection."""


class ListenOptions(Protocol):
    """What every server is told: `ippm.io.options.ServerOptions`."""

    @property
    def address(self) -> str | None:
        """Where to listen; None is everywhere."""

    @property
    def port(self) -> int:
        """The TCP port; 0 is any."""

    @property
    def test_ports(self) -> tuple[int, int]:
        """The inclusive range of UDP ports for test sessions."""

    @property
    def servwait_s(self) -> float:
        """SERVWAIT."""

    @property
    def maximum_connections(self) -> int:
        """Control connections at once."""

    @property
    def connections_per_address(self) -> int:
        """Control connections at once of one client address."""

    @property
    def mark_callback(self) -> MarkCallback | None:
        """Called with each socket before it is bound."""


class ControlTcpServer(ABC):
    """Listens, and runs a ControlConnection for each client. `await start()`, then `port` says where.

    `NAME` is what the log calls it. RFC 4656 section 3, RFC 5357 section 3.
    """

    NAME: str

    def __init__(self, options: ListenOptions) -> None:
        self._listen = options
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], ControlConnection] = {}
        self._per_address: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[Callable[[Endpoint, object], None]] = []

    @abstractmethod
    def _make_connection(
        self, sock: socket.socket, local: Endpoint, remote: Endpoint, *, refuse: bool
    ) -> ControlConnection:
        """A connection with its role; with `refuse` one that greets with no mode."""

    def subscribe(self, callback: Callable[[Endpoint, object], None]) -> None:
        """Have `callback(client, event)` called in the event loop for each event of each Control connection."""
        self._watchers.append(callback)

    def notify(self, client: Endpoint, event: object) -> None:
        """Tell the subscribers."""
        for callback in self._watchers:
            callback(client, event)

    @property
    def port(self) -> int:
        """The TCP port that is listened on; 0 before `start`."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    @property
    def connections(self) -> int:
        """How many Control connections there are."""
        return len(self._connections)

    async def _open(self) -> None:
        """Listen. Raises IppmError when the address or port cannot be had."""
        self._loop = asyncio.get_running_loop()
        address, port = self._listen.address, self._listen.port
        try:
            self._listeners = listen(address, port, self._listen.mark_callback)
        except OSError as error:
            where = f"{address or 'all addresses'}, port {port}"
            raise IppmError(f"cannot listen on {where}: {error.strerror or error}") from None
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._listeners]

    def _log_listening(self, modes: Mode) -> None:
        log.info("%s server on port %d, modes: %s", self.NAME, self.port, mode_words(modes))

    def _later(self, callback: Callable[P, None]) -> Callable[P, None]:
        """The callback, called in the event loop from whichever thread."""

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            if self._loop is not None and not self._loop.is_closed():
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(partial(callback, *args, **kwargs))

        return call

    async def _shut(self) -> None:
        """Stop listening, end every connection."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for sock in self._listeners:
            sock.close()
        self._listeners = []
        tasks = list(self._connections)
        for connection in self._connections.values():
            connection.role.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or a client that has gone already: others may still come.
                log.warning("accept: %s", error)
                await asyncio.sleep(0.05)
                continue
            self._take(sock, endpoint_of(address))

    def _take(self, sock: socket.socket, remote: Endpoint) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            dscp = dscp_of_syn(sock)
            if dscp:
                set_dscp(sock, dscp)  # rfc5357-s3.1-01
            local = endpoint_of(sock.getsockname())
        except OSError:
            sock.close()
            return
        full = len(self._connections) >= self._listen.maximum_connections
        full = full or self._per_address[remote.host] >= self._listen.connections_per_address
        if full:
            # Modes zero: the server does not wish to communicate.
            log.warning("%s: too many connections", remote.host)
        connection = self._make_connection(sock, local, remote, refuse=full)
        self._per_address[remote.host] += 1
        task = asyncio.create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        host = connection.role.remote.host
        self._per_address[host] -= 1
        if not self._per_address[host]:
            del self._per_address[host]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", host, error, exc_info=error)


def session_socket(
    options: ListenOptions, host: str, wished: int, dscp: int, *, monitor_dscp_ecn: bool = False
) -> socket.socket:
    """A test socket on the wished port when it is in the range and free, else on another. Raises RefuseSession."""
    first, last = options.test_ports
    mark = options.mark_callback
    try:
        if first <= wished <= last:
            try:
                return open_test_socket(host, wished, mark, dscp=dscp, monitor_dscp_ecn=monitor_dscp_ecn)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
        return open_test_socket(host, (first, last), mark, dscp=dscp, monitor_dscp_ecn=monitor_dscp_ecn)
    except PortRangeExhausted as error:
        raise RefuseSession(Accept.TEMPORARY_LIMITATION, f"the test ports are exhausted: {error}") from None
    except OSError as error:
        accept = Accept.NOT_SUPPORTED if error.errno == errno.EADDRNOTAVAIL else Accept.INTERNAL_ERROR
        raise RefuseSession(accept, f"no test socket on {host}: {error.strerror}") from None


class ControlConnection(ABC):
    """One Control connection: its role, its socket, and the wait for octets or the timer."""

    role: Role

    def __init__(self, server: ControlTcpServer, sock: socket.socket, servwait_s: float) -> None:
        self._server = server
        self._sock = sock
        self._servwait_s = servwait_s
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None
        self._poke = asyncio.Event()

    @abstractmethod
    def _handle(self, event: Any) -> None:
        """Act on an event of the role."""

    def _handle_events(self) -> None:
        while (event := self.role.next_event()) is not None:
            self._handle(event)
            self._server.notify(self.role.remote, event)

    def ntp_time(self) -> int:
        """The time of day as an NTP timestamp, for the role."""
        return now_ntp()

    def wake(self) -> None:
        """Something is to be sent, or the timer has changed, and no octets came for it."""
        self._poke.set()

    async def _receive(self) -> bytes | None:
        """What has come, no octets at the end of the stream, None when the timer or `wake` was first.

        Not loop.sock_recv with a timeout: octets that it has read when it is cancelled are lost.
        """
        self._poke.clear()
        self._loop.add_reader(self._sock, self._poke.set)
        try:
            async with asyncio.timeout_at(self.role.next_timer()) as self._timeout:
                await self._poke.wait()
        except TimeoutError:
            return None
        finally:
            self._timeout = None
            self._loop.remove_reader(self._sock)
        try:
            return self._sock.recv(_READ_OCTETS)
        except BlockingIOError:
            return None

    async def run(self) -> None:
        """Serve until the connection ends; never raises for what the client does."""
        role, loop = self.role, self._loop
        try:
            while True:
                self._handle_events()
                while data := role.data_to_send():
                    async with asyncio.timeout(self._servwait_s):
                        await loop.sock_sendall(self._sock, data)
                    self._handle_events()
                    # Where the system takes all at once nothing was waited for: now others have their turn.
                    await asyncio.sleep(0)
                self._handle_events()
                if role.closed:
                    say_goodbye(self._sock)
                    return
                octets = await self._receive()
                if octets is None:
                    role.handle_timer(loop.time())
                elif octets:
                    role.receive_data(octets, loop.time())
                else:
                    role.receive_eof(loop.time())
        except (OSError, TimeoutError) as error:
            role.close(f"the connection broke: {error or 'nothing can be sent'}")
        finally:
            role.close()
            self._handle_events()
            self._sock.close()


def log_set_up(client: str, event: ClientSetUp | ClientRefused) -> None:
    """How the setup of a connection ended."""
    if isinstance(event, ClientRefused):
        # rfc7717-s5.3-07
        log.warning("%s: set-up refused, Accept %d: %s", client, event.accept, event.reason)
        return
    keys = "IKEv2-derived keys" if event.ikev2_derived else "no IKEv2-derived keys"
    peer = f", peer {event.peer_identity}" if event.peer_identity else ""
    limits = f", class {event.limit_class}" if event.limit_class else ""
    log.info("%s: set up in %s mode, %s%s%s", client, event.mode.word, keys, peer, limits)


def log_denied(client: str, event: SessionDenied) -> None:
    """A request was refused; that a limit was reached is told without being asked. RFC 4656 section 3.3."""
    limited = event.accept in (Accept.PERMANENT_LIMITATION, Accept.TEMPORARY_LIMITATION)
    log.log(
        logging.WARNING if limited else logging.INFO,
        "%s: session refused, Accept %d: %s",
        client,
        event.accept,
        event.reason,
    )


def say_goodbye(sock: socket.socket) -> None:
    """Half-close, so that what we sent is not lost to a reset when the client's octets lie unread.

    A client that sends on and on is not read to its end.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_GOODBYE_READS):
            if not sock.recv(_READ_OCTETS):
                return
