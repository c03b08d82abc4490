"""A TWAMP server on asyncio: the Server role on TCP, the Session-Reflector in its thread.

Events of a Control connection are handled before its answer goes out, so a session's socket is open, and its
reflector started, before the client can know.
RFC 5357 sections 3 and 4.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable

from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    ConnectionClosed,
    Endpoint,
    ServerEvent,
    SessionDenied,
    SessionOpened,
    SessionsStarted,
    SessionsStopped,
    TestSession,
)
from ippm.core.server import ControlServer
from ippm.core.server_policy import ControlServerConfig, check_count
from ippm.core.session_reflector import ReflectorPlan
from ippm.crypto import Entropy, KeyProvider, NoProvider
from ippm.errors import IppmError, LocalProtocolError, PortRangeExhausted, RefuseSession
from ippm.iana import Accept, Mode
from ippm.io.clock import now_ntp
from ippm.io.control_tcp import dscp_of_syn, endpoint_of, listen, own_ipv4, set_dscp
from ippm.io.entropy import SystemEntropy
from ippm.io.options import ServerOptions
from ippm.io.reflector_loop import Reflector
from ippm.io.test_socket import is_own_address, open_test_socket

log = logging.getLogger("ippm.server")

_READ_OCTETS = 4096
_GOODBYE_READS = 32
EventCallback = Callable[[Endpoint, ServerEvent], None]


class TwampServer:
    """A TWAMP server: `await start()`, then `port` says where; `await stop()` ends everything.

    `provider` finds the shared secrets; without one only open mode is offered. Raises ConfigurationError.
    RFC 5357 section 3.
    """

    def __init__(
        self,
        options: ServerOptions | None = None,
        provider: KeyProvider | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self._provider: KeyProvider = provider or NoProvider()
        self._entropy = entropy or SystemEntropy()
        modes = self.options.modes
        if provider is None:
            modes &= Mode.OPEN
        self._config = ControlServerConfig(
            modes=modes,
            count=check_count(self._provider.count or self.options.count),
            servwait_s=self.options.servwait_s,
            setup_wait_s=self.options.setup_wait_s,
            start_time=now_ntp(),
            strict_modes=self.options.strict_modes,
            any_sender=self.options.any_sender,
            sessions_per_connection=self.options.sessions_per_connection,
            open_sessions_per_connection=self.options.open_sessions_per_connection,
            sid_address=own_ipv4(),
        )
        self._refusing = ControlServerConfig(modes=Mode(0))
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._per_address: Counter[str] = Counter()
        self._owners: dict[bytes, _Connection] = {}
        self._reflector: Reflector | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: list[EventCallback] = []

    def subscribe(self, callback: EventCallback) -> None:
        """Have `callback(client, event)` called in the event loop for each event of each Control connection."""
        self._watchers.append(callback)

    def notify(self, client: Endpoint, event: ServerEvent) -> None:
        """Tell the subscribers."""
        for callback in self._watchers:
            callback(client, event)

    @property
    def port(self) -> int:
        """The TCP port that is listened on; 0 before `start`."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    @property
    def sessions(self) -> int:
        """How many test sessions there are."""
        return len(self._owners)

    @property
    def connections(self) -> int:
        """How many Control connections there are."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises IppmError when the address or port cannot be had."""
        self._loop = asyncio.get_running_loop()
        address, port = self.options.address, self.options.port
        try:
            self._listeners = listen(address, port, self.options.mark_callback)
        except OSError as error:
            where = f"{address or 'all addresses'}, port {port}"
            raise IppmError(f"cannot listen on {where}: {error.strerror or error}") from None
        self._reflector = Reflector(on_closed=self._on_session_closed)
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._listeners]
        words = ", ".join(bit.word for bit in Mode if bit & self._config.modes) or "none"
        log.info("TWAMP server on port %d, modes: %s", self.port, words)

    async def stop(self) -> None:
        """Close every connection, end every session, stop listening."""
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
        if self._reflector is not None:
            await asyncio.to_thread(self._reflector.close)
            self._reflector = None
        for sid, owner in list(self._owners.items()):
            owner.role.session_ended(sid)
        self._owners.clear()

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
        full = len(self._connections) >= self.options.maximum_connections
        full = full or self._per_address[remote.host] >= self.options.connections_per_address
        if full:
            # Modes zero: the server does not wish to communicate.
            log.warning("%s: too many connections", remote.host)
        connection = _Connection(self, sock, local, remote, self._refusing if full else self._config)
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

    # Sessions.

    def open_session(self, connection: _Connection, session: TestSession) -> int:
        """Open a test socket and give it to the reflector; the port. Raises RefuseSession."""
        if self._reflector is None or len(self._owners) >= self.options.maximum_sessions:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "the server has no room for another session")
        if not session.mode.keyed and self._open_sessions() >= self.options.maximum_open_sessions:
            # rfc4656-s6.5-02
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "no room for another session in open mode")
        host = session.reflector.host
        if host != connection.role.local.host and not is_own_address(host):
            # rfc4656-s6.2-02
            raise RefuseSession(Accept.NOT_SUPPORTED, f"the Receiver Address {host} is not the server's")
        sock = self._test_socket(session)
        port = int(sock.getsockname()[1])
        plan = ReflectorPlan(
            sid=session.sid,
            mode=int(session.mode),
            keys=session.keys,
            local=(session.reflector.host, port),
            remote=session.sender,
            timeout_ns=session.timeout_ns,
            refwait_ns=int(self.options.refwait_s * 1e9),
            dscp=session.dscp,
            check_peer=self.options.check_peer,
            hmac_counter=self.options.hmac_counter,
        )
        try:
            self._reflector.add_session(plan, sock)
        except LocalProtocolError as error:
            sock.close()
            raise RefuseSession(Accept.INTERNAL_ERROR, str(error)) from None
        self._owners[session.sid] = connection
        return port

    def _open_sessions(self) -> int:
        return sum(not owner.role.mode.keyed for owner in self._owners.values())

    def _test_socket(self, session: TestSession) -> socket.socket:
        first, last = self.options.test_ports
        wished, host = session.reflector.port, session.reflector.host
        mark, dscp = self.options.mark_callback, session.dscp
        try:
            if first <= wished <= last:
                try:
                    return open_test_socket(host, wished, mark, dscp=dscp)
                except OSError as error:
                    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                        raise
            return open_test_socket(host, (first, last), mark, dscp=dscp)
        except PortRangeExhausted as error:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, str(error)) from None
        except OSError as error:
            accept = Accept.NOT_SUPPORTED if error.errno == errno.EADDRNOTAVAIL else Accept.INTERNAL_ERROR
            raise RefuseSession(accept, f"no test socket on {host}: {error.strerror}") from None

    def start_session(self, sid: bytes) -> None:
        """Start-Sessions has come."""
        if self._reflector is not None:
            with contextlib.suppress(LocalProtocolError):
                self._reflector.start(sid)

    def stop_session(self, sid: bytes, *, at_once: bool) -> None:
        """Stop-Sessions has come, or (`at_once`) the connection broke. RFC 4656 section 6.5."""
        if self._reflector is not None:
            with contextlib.suppress(LocalProtocolError):
                if at_once:
                    self._reflector.abort(sid)  # rfc4656-s6.5-04
                else:
                    self._reflector.stop(sid)

    def _on_session_closed(self, sid: bytes, counters: dict[str, int]) -> None:
        # In the reflector's thread.
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._session_closed, sid, counters)

    def _session_closed(self, sid: bytes, counters: dict[str, int]) -> None:
        owner = self._owners.pop(sid, None)
        log.info("session %s ended: %s", sid.hex(), ", ".join(f"{name} {n}" for name, n in counters.items()))
        if owner is not None:
            owner.session_closed(sid, expired="refwait_expired" in counters)


def say_goodbye(sock: socket.socket) -> None:
    """Half-close, so that what we sent is not lost to a reset when the client's octets lie unread.

    A client that sends on and on is not read to its end.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_GOODBYE_READS):
            if not sock.recv(_READ_OCTETS):
                return


class _Connection:
    """One Control connection: its role, its socket, and the wait for octets or the timer."""

    def __init__(
        self,
        server: TwampServer,
        sock: socket.socket,
        local: Endpoint,
        remote: Endpoint,
        config: ControlServerConfig,
    ) -> None:
        self._server = server
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None
        self.role = ControlServer(
            config,
            server._provider,
            self,
            server._entropy,
            local=local,
            remote=remote,
            now=self._loop.time(),
        )

    # ServerHooks.

    def ntp_time(self) -> int:
        """The time of day as an NTP timestamp."""
        return now_ntp()

    def open_session(self, session: TestSession) -> int:
        """A test socket for a session. Raises RefuseSession."""
        return self._server.open_session(self, session)

    def session_closed(self, sid: bytes, *, expired: bool) -> None:
        """The reflector ended a session: REFWAIT when `expired`, else Timeout after Stop-Sessions."""
        if expired:
            self.role.session_expired(sid, self._loop.time())
            if self._timeout is not None:
                self._timeout.reschedule(self.role.next_timer())
        self.role.session_ended(sid)

    async def run(self) -> None:
        """Serve until the connection ends; never raises for what the client does."""
        role, loop = self.role, self._loop
        try:
            while True:
                self._handle_events()
                data = role.data_to_send()
                if data:
                    async with asyncio.timeout(self._server.options.servwait_s):
                        await loop.sock_sendall(self._sock, data)
                if role.closed:
                    say_goodbye(self._sock)
                    return
                try:
                    async with asyncio.timeout_at(role.next_timer()) as self._timeout:
                        octets = await loop.sock_recv(self._sock, _READ_OCTETS)
                except TimeoutError:
                    role.handle_timer(loop.time())
                    continue
                finally:
                    self._timeout = None
                if octets:
                    role.receive_data(octets, loop.time())
                else:
                    role.receive_eof(loop.time())
        except (OSError, TimeoutError) as error:
            role.close(f"the connection broke: {error or 'nothing can be sent'}")
        finally:
            role.close()
            self._handle_events()
            self._sock.close()

    def _handle_events(self) -> None:
        while (event := self.role.next_event()) is not None:
            self._handle(event)
            self._server.notify(self.role.remote, event)

    def _handle(self, event: ServerEvent) -> None:
        host = self.role.remote.host
        match event:
            case ClientSetUp():
                keys = "IKEv2-derived keys" if event.ikev2_derived else "no IKEv2-derived keys"
                peer = f", peer {event.peer_identity}" if event.peer_identity else ""
                log.info("%s: set up in %s mode, %s%s", host, event.mode.word, keys, peer)
            case ClientRefused():
                # rfc7717-s5.3-07
                log.warning("%s: set-up refused, Accept %d: %s", host, event.accept, event.reason)
            case SessionOpened():
                session = event.session
                log.info(
                    "%s: session %s, %s:%d to port %d",
                    host,
                    session.sid.hex(),
                    session.sender.host,
                    session.sender.port,
                    session.reflector.port,
                )
            case SessionDenied():
                log.info("%s: session refused, Accept %d: %s", host, event.accept, event.reason)
            case SessionsStarted():
                for sid in event.sids:
                    self._server.start_session(sid)
            case SessionsStopped():
                # Whatever its Accept says, packets under way are answered until Timeout.  rfc5357-s3.5-10
                for sid in event.sids:
                    self._server.stop_session(sid, at_once=False)
            case ConnectionClosed():
                log.info("%s: closed: %s", host, event.reason)
                for sid in event.sids:
                    self._server.stop_session(sid, at_once=True)
