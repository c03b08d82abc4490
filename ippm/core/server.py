"""The TWAMP Server role of one Control connection, sans-IO.

Connection setup is `ippm.core.server_connection`'s. Between Start-Sessions and Stop-Sessions ("conducting active
measurements") the only command is Stop-Sessions. Whatever the client sends, nothing is raised here: it gets the
Accept value that the RFC has for it, or its connection is closed, and an event says why.

    client                          server
      <- Server Greeting              |  GREETED
      Set-Up-Response ->              |
      <- Server-Start                 |  READY (or CLOSED)
      Request-TW-Session ->           |
      <- Accept-Session               |  READY
      Start-Sessions ->               |
      <- Start-Ack                    |  ACTIVE
      Stop-Sessions ->                |  READY

RFC 5357 section 3, RFC 4656 sections 3 and 6, RFC 7717 section 5.
"""

from __future__ import annotations

from collections.abc import Callable

from ippm.core.control_events import (
    Endpoint,
    ServerEvent,
    ServerHooks,
    SessionDenied,
    SessionOpened,
    SessionsStarted,
    SessionsStopped,
    TestSession,
)
from ippm.core.server_connection import ServerConnection, ServerState, Transition
from ippm.core.server_policy import ControlServerConfig, bare_address, check_request
from ippm.crypto import Entropy, KeyProvider
from ippm.errors import ProtocolError, RefuseSession
from ippm.iana import Accept, Command
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import command_parts
from ippm.wire.octets import Address
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.start_ack import StartAck
from ippm.wire.stop_sessions import StopSessions

__all__ = ["TRANSITIONS", "ControlServer", "ServerState", "Transition"]


class ControlServer(ServerConnection[ServerEvent]):
    """One Control connection of a TWAMP Server. Raises nothing on what the peer sends.

    RFC 5357 section 3.
    """

    PROTOCOL = "twamp"

    def __init__(
        self,
        config: ControlServerConfig,
        provider: KeyProvider,
        hooks: ServerHooks,
        entropy: Entropy,
        *,
        local: Endpoint,
        remote: Endpoint,
        now: float,
    ) -> None:
        self._opener = hooks
        self._timeouts: dict[bytes, int] = {}
        self._requested: list[bytes] = []
        self._started: list[bytes] = []
        self._expired: set[bytes] = set()
        super().__init__(config, provider, hooks, entropy, local=local, remote=remote, now=now)

    # What the driver tells.

    def session_expired(self, sid: bytes, now: float) -> None:
        """REFWAIT ran out for a session that runs. When it has for all, SERVWAIT is watched again.

        RFC 5357 section 3.1.
        """
        if sid in self._started:
            self._expired.add(sid)
            if self.state is ServerState.ACTIVE and self._expired.issuperset(self._started):
                self._deadline = now + self.config.servwait_s  # rfc5357-s3.1-04

    def session_ended(self, sid: bytes) -> None:
        """A test session is over, its Timeout has passed. The last one of a closed connection frees the secret."""
        self._timeouts.pop(sid, None)
        self._release()

    # Commands.

    def _part_octets(self, first_block: bytes, parts: list[bytes], body: bytes) -> int:
        return command_parts(first_block)[len(parts)]

    def _part_count(self, first_block: bytes) -> int:
        return len(command_parts(first_block))

    def _dispatch(self, parts: list[bytes], now: float) -> None:
        body = parts[0]
        transition = TRANSITIONS.get((self.state, Command(body[0])))
        if transition is None:
            self._deny(  # rfc5357-s3.5-02
                Accept.NOT_SUPPORTED, f"{Command(body[0])} is not expected when {self.state.value}"
            )
            return
        transition.handler(self, body, now)

    def _request_tw_session(self, body: bytes, now: float) -> None:
        request = RequestTwSession.parse(body)
        try:
            session = self._open_session(request)
        except RefuseSession as error:
            self._deny(error.accept, error.reason)
            return
        except Exception as error:
            self._deny(Accept.INTERNAL_ERROR, f"the session could not be opened: {error}")
            return
        self._timeouts[session.sid] = session.timeout_ns
        self._requested.append(session.sid)
        self._reply(AcceptSession(Accept.OK, session.reflector.port, session.sid).encode())  # rfc5357-s3.5-13
        self._events.append(SessionOpened(session))

    def _open_session(self, request: RequestTwSession) -> TestSession:
        check_request(request, self.config, self.local, self.remote)
        self._check_session_limit(len(self._timeouts))
        sid = self._new_sid()
        # rfc5357-s3.5-07
        sender = Endpoint(_host(request.sender_address, self.remote), request.sender_port)
        host = _host(request.receiver_address, self.local)
        wished = TestSession(
            sid=sid,
            mode=self.mode,
            keys=self._test_keys(sid),
            sender=sender,
            reflector=Endpoint(host, request.receiver_port),
            padding_octets=request.padding_length,
            start_time=request.start_time,
            timeout_ns=ns_from_fixed_point(request.timeout),
            dscp=request.dscp or 0,
        )
        port = self._opener.open_session(wished)
        return TestSession(
            sid=sid,
            mode=wished.mode,
            keys=wished.keys,
            sender=sender,
            reflector=Endpoint(host, port),
            padding_octets=wished.padding_octets,
            start_time=wished.start_time,
            timeout_ns=wished.timeout_ns,
            dscp=wished.dscp,
        )

    def _start_sessions(self, body: bytes, now: float) -> None:
        if not self._requested:
            self._reply(StartAck(Accept.FAILURE).encode())
            return
        self._started, self._requested = self._requested, []
        self._expired.clear()
        self.state = ServerState.ACTIVE
        self._deadline = None  # rfc5357-s3.1-02
        self._events.append(SessionsStarted(tuple(self._started)))
        self._reply(StartAck(Accept.OK).encode())  # rfc4656-s3.7-01

    def _start_while_active(self, body: bytes, now: float) -> None:
        self._reply(StartAck(Accept.NOT_SUPPORTED).encode())

    def _stop_sessions(self, body: bytes, now: float) -> None:
        stop = StopSessions.parse(body)
        if stop.number_of_sessions != len(self._started):
            # rfc5357-s3.8-05
            text = f"Stop-Sessions is for {stop.number_of_sessions} sessions, {len(self._started)} are in progress"
            self._close(text, ProtocolError(text))
            return
        stopped, self._started = tuple(self._started), []
        self.state = ServerState.READY
        self._deadline = now + self.config.servwait_s  # rfc5357-s3.1-03
        if stopped:
            self._events.append(SessionsStopped(stopped, int(stop.accept), valid=stop.accept == Accept.OK))

    # Helpers.

    def _deny(self, accept: int, reason: str) -> None:
        # The port is zero in a refusal.  rfc5357-s3.5-14, rfc5357-s3.5-15
        self._reply(AcceptSession(Accept(accept)).encode())
        self._events.append(SessionDenied(accept, reason))

    def _open_sids(self) -> tuple[bytes, ...]:
        return tuple(self._requested + self._started)

    def _in_use(self) -> bool:
        return bool(self._timeouts)


def _host(address: Address | None, own: Endpoint) -> str:
    """An address of a request as text; that of the connection keeps its IPv6 zone, for which the field has no room.

    RFC 5357 section 3.5.
    """
    return own.host if address is None or address == bare_address(own.host) else str(address)


TRANSITIONS: dict[tuple[ServerState, Command], Transition[Callable[[ControlServer, bytes, float], None]]] = {
    (ServerState.READY, Command.REQUEST_TW_SESSION): Transition(
        "the client asks for a session and gets a port, or a refusal",
        ControlServer._request_tw_session,
        (ServerState.READY,),
    ),
    (ServerState.READY, Command.START_SESSIONS): Transition(
        "what was accepted starts; with nothing accepted it is refused",
        ControlServer._start_sessions,
        (ServerState.ACTIVE, ServerState.READY),
    ),
    (ServerState.READY, Command.STOP_SESSIONS): Transition(
        "nothing is in progress: right when it says zero sessions",
        ControlServer._stop_sessions,
        (ServerState.READY, ServerState.CLOSED),
    ),
    (ServerState.ACTIVE, Command.STOP_SESSIONS): Transition(
        "all sessions in progress end after their Timeout",
        ControlServer._stop_sessions,
        (ServerState.READY, ServerState.CLOSED),
    ),
    (ServerState.ACTIVE, Command.START_SESSIONS): Transition(
        "refused: while measurements are active the only command is Stop-Sessions",
        ControlServer._start_while_active,
        (ServerState.ACTIVE,),
    ),
}
"""Everything else is answered with an Accept-Session of Accept 3. RFC 5357 section 3.5."""
