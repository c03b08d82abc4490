"""A TWAMP server on asyncio: the Server role on TCP, the Session-Reflector in its thread.

Events of a Control connection are handled before its answer goes out, so a session's socket is open, and its
reflector started, before the client can know.
RFC 5357 sections 3 and 4.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

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
from ippm.errors import LocalProtocolError, RefuseSession
from ippm.iana import Accept, Mode
from ippm.io.clock import now_ntp, utc_offset_s
from ippm.io.control_server import ControlConnection, ControlTcpServer, log_denied, log_set_up, session_socket
from ippm.io.control_tcp import own_ipv4
from ippm.io.entropy import SystemEntropy
from ippm.io.options import ServerOptions
from ippm.io.reflector_loop import Reflector
from ippm.io.test_socket import impaired, is_own_address

log = logging.getLogger("ippm.server")


class TwampServer(ControlTcpServer):
    """A TWAMP server: `await start()`, then `port` says where; `await stop()` ends everything.

    `provider` finds the shared secrets; without one only open mode is offered. Raises ConfigurationError.
    RFC 5357 section 3.
    """

    NAME = "TWAMP"

    def __init__(
        self,
        options: ServerOptions | None = None,
        provider: KeyProvider | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        super().__init__(self.options)
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
            features=self.options.feature_bits,
            server_octets=self.options.server_octets,
            tw_auth_pad=self.options.tw_auth_pad,
            usage=self.options.usage,
            key_log=self.options.key_log,
            impairments=self.options.impairments,
        )
        self._refusing = ControlServerConfig(modes=Mode(0))
        self._owners: dict[bytes, _Connection] = {}
        self._in_open_mode: set[bytes] = set()
        self._reflector: Reflector | None = None

    @property
    def sessions(self) -> int:
        """How many test sessions there are."""
        return len(self._owners)

    async def start(self) -> None:
        """Listen. Raises IppmError when the address or port cannot be had."""
        await self._open()
        self._reflector = Reflector(
            on_closed=self._later(self._session_closed),
            io=self.options.io,
            correct_stamps=self.options.correct_stamps,
        )
        self._log_listening(self._config.modes)

    async def stop(self) -> None:
        """Close every connection, end every session, stop listening."""
        await self._shut()
        if self._reflector is not None:
            await asyncio.to_thread(self._reflector.close)
            self._reflector = None
        for sid, owner in list(self._owners.items()):
            owner.role.session_ended(sid)
        self._owners.clear()
        self._in_open_mode.clear()

    def _make_connection(
        self, sock: socket.socket, local: Endpoint, remote: Endpoint, *, refuse: bool
    ) -> ControlConnection:
        return _Connection(self, sock, local, remote, self._refusing if refuse else self._config)

    # Sessions.

    def open_session(self, connection: _Connection, session: TestSession) -> int:
        """Open a test socket and give it to the reflector; the port. Raises RefuseSession."""
        if self._reflector is None or len(self._owners) >= self.options.maximum_sessions:
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "the server has no room for another session")
        keyed = session.mode.keyed
        if not keyed and len(self._in_open_mode) >= self.options.maximum_open_sessions:
            # rfc4656-s6.5-02
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, "no room for another session in open mode")
        host = session.reflector.host
        if host != connection.role.local.host and not is_own_address(host):
            # rfc4656-s6.2-02
            raise RefuseSession(Accept.NOT_SUPPORTED, f"the Receiver Address {host} is not the server's")
        sock = session_socket(  # rfc5357-s3.5-12
            self.options,
            session.reflector.host,
            session.reflector.port,
            session.dscp,
            monitor_dscp_ecn=bool(session.mode & Mode.DSCP_ECN_MONITORING),
        )
        port = int(sock.getsockname()[1])
        sock = impaired(
            sock,
            self.options.impairments,
            int(session.mode),
            session.keys,
            reply=True,
            reflected_octets=session.reflected_octets,
        )
        plan = ReflectorPlan(
            sid=session.sid,
            mode=int(session.mode),
            keys=session.keys,
            local=(session.reflector.host, port),
            remote=session.sender,
            timeout_ns=session.timeout_ns,
            refwait_ns=round(self.options.refwait_s * 1e9),
            dscp=session.dscp,
            check_peer=self.options.check_peer,
            hmac_counter=self.options.hmac_counter,
            reflected_octets=session.reflected_octets,
            tw_auth_pad=self.options.tw_auth_pad,
            utc_offset_s=utc_offset_s(),
        )
        try:
            self._reflector.add_session(plan, sock)
        except LocalProtocolError as error:
            sock.close()
            raise RefuseSession(Accept.INTERNAL_ERROR, str(error)) from None
        self._owners[session.sid] = connection
        if not keyed:
            self._in_open_mode.add(session.sid)
        return port

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

    def _session_closed(self, sid: bytes, counters: dict[str, int]) -> None:
        owner = self._owners.pop(sid, None)
        self._in_open_mode.discard(sid)
        log.info("session %s ended: %s", sid.hex(), ", ".join(f"{name} {n}" for name, n in counters.items()))
        if owner is not None:
            owner.session_closed(sid, expired="refwait_expired" in counters)


class _Connection(ControlConnection):
    """One Control connection: its role, its socket, and the wait for octets or the timer."""

    _server: TwampServer

    def __init__(
        self,
        server: TwampServer,
        sock: socket.socket,
        local: Endpoint,
        remote: Endpoint,
        config: ControlServerConfig,
    ) -> None:
        super().__init__(server, sock, server.options.servwait_s)
        self.role: ControlServer = ControlServer(
            config,
            server._provider,
            self,
            server._entropy,
            local=local,
            remote=remote,
            now=self._loop.time(),
        )

    # ServerHooks.

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

    def _handle(self, event: ServerEvent) -> None:
        host = self.role.remote.host
        match event:
            case ClientSetUp() | ClientRefused():
                log_set_up(host, event)
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
                log_denied(host, event)
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
