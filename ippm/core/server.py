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

With Individual Session Control (RFC 5938) sessions start and stop one by one, Start-N-Sessions and Stop-N-Sessions take
the place of the two commands above, and ACTIVE is the state as long as any session is in progress. Sessions may be
requested at any time then: the RFC does not say when, and who starts them at will needs it.

RFC 5357 section 3, RFC 4656 sections 3 and 6, RFC 5938 section 3, RFC 6038 section 4, RFC 7717 section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
from ippm.iana import FEATURE_BITS, Accept, Command, Mode
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import command_parts
from ippm.wire.n_sessions import NSessions
from ippm.wire.octets import Address
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.start_ack import StartAck
from ippm.wire.stop_sessions import StopSessions

__all__ = ["INDIVIDUAL_TRANSITIONS", "TRANSITIONS", "ControlServer", "ServerState", "Transition"]


class ControlServer(ServerConnection[ServerEvent]):
    """One Control connection of a TWAMP Server. Raises nothing on what the peer sends.

    RFC 5357 section 3.
    """

    PROTOCOL = "twamp"
    FEATURES = FEATURE_BITS

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
        self._give_back(sid)
        self._release()

    # Commands.

    def _part_octets(self, first_block: bytes, parts: list[bytes], body: bytes) -> int:
        return command_parts(first_block)[len(parts)]

    def _part_count(self, first_block: bytes) -> int:
        return len(command_parts(first_block))

    def _dispatch(self, parts: list[bytes], now: float) -> None:
        body = parts[0]
        # rfc5938-s2-01, rfc5938-s2-02, rfc5938-s3.1-01, rfc5938-s3.1-03, rfc5938-s3.1-04
        table = INDIVIDUAL_TRANSITIONS if self.mode & Mode.INDIVIDUAL_SESSION_CONTROL else TRANSITIONS
        transition = table.get((self.state, Command(body[0])))
        if transition is None:
            self._deny(  # rfc5357-s3.5-02
                Accept.NOT_SUPPORTED, f"{Command(body[0])} is not expected when {self.state.value}"
            )
            return
        transition.handler(self, body, now)

    def _request_tw_session(self, body: bytes, now: float) -> None:
        request = RequestTwSession.parse(body)
        # rfc6038-s4.2-02, rfc6038-s4.3-01
        reflected = request.octets_to_be_reflected if self.mode & Mode.REFLECT_OCTETS else 0
        try:
            session = self._open_session(request)
        except RefuseSession as error:
            self._deny(error.accept, error.reason, reflected)
            return
        except Exception as error:
            self._deny(Accept.INTERNAL_ERROR, f"the session could not be opened: {error}", reflected)
            return
        self._log_test_keys(session.sid, session.keys, session.sender, session.reflector)
        self._timeouts[session.sid] = session.timeout_ns
        self._requested.append(session.sid)
        answer = AcceptSession(Accept.OK, session.reflector.port, session.sid, reflected, session.server_octets)
        self._reply("accept-session", answer.encode())  # rfc5357-s3.5-13
        self._events.append(SessionOpened(session))

    def _open_session(self, request: RequestTwSession) -> TestSession:
        check_request(request, self.config, self.mode, self.local, self.remote)
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
            **self._reflection(request),
        )
        # How fast a client will send is not in a Request-TW-Session: only the session is counted.
        self._take(sid)
        try:
            port = self._opener.open_session(wished)
        except BaseException:
            self._give_back(sid)
            raise
        return replace(wished, reflector=Endpoint(host, port))

    def _reflection(self, request: RequestTwSession) -> dict[str, int]:
        """What is to come back of each packet's padding, and what of that is ours. RFC 6038 section 4.3."""
        if not self.mode & Mode.REFLECT_OCTETS:  # rfc6038-s1-02
            return {}
        octets = request.length_of_padding_to_reflect
        # rfc6038-s4.3-05, rfc6038-s4.3-06, rfc6038-s5.1.2-02: ours are two octets within what is reflected.
        return {"reflected_octets": octets, "server_octets": self.config.server_octets if octets >= 2 else 0}

    def _start_sessions(self, body: bytes, now: float) -> None:
        if not self._requested:
            self._reply("start-ack", StartAck(Accept.FAILURE).encode())
            return
        self._started, self._requested = self._requested, []
        self._expired.clear()
        self.state = ServerState.ACTIVE
        self._deadline = None  # rfc5357-s3.1-02
        self._events.append(SessionsStarted(tuple(self._started)))
        self._reply("start-ack", StartAck(Accept.OK).encode())  # rfc4656-s3.7-01, rfc4656-s3.7-02

    def _start_while_active(self, body: bytes, now: float) -> None:
        self._reply("start-ack", StartAck(Accept.NOT_SUPPORTED).encode())

    def _stop_sessions(self, body: bytes, now: float) -> None:
        stop = StopSessions.parse(body)
        if stop.number_of_sessions != len(self._started):
            text = f"Stop-Sessions is for {stop.number_of_sessions} sessions, {len(self._started)} are in progress"
            self._close(text, ProtocolError(text))  # rfc5357-s3.8-05
            return
        stopped, self._started = tuple(self._started), []
        self.state = ServerState.READY
        self._deadline = now + self.config.servwait_s  # rfc5357-s3.1-03
        if stopped:
            # rfc5357-s3.8-02
            self._events.append(SessionsStopped(stopped, int(stop.accept), valid=stop.accept == Accept.OK))

    # Commands of Individual Session Control.

    def _start_n_sessions(self, body: bytes, now: float) -> None:
        message = NSessions.parse(body)
        if not message.sids:  # rfc5938-s3.2-03
            self._deny(Accept.NOT_SUPPORTED, "Start-N-Sessions without a SID")
            return
        # rfc5938-s4.2-01
        started = [sid for sid in dict.fromkeys(message.sids) if sid in self._requested]
        self._requested = [sid for sid in self._requested if sid not in started]
        self._started += started
        if started:
            self._events.append(SessionsStarted(tuple(started)))
        self._acknowledge(Command.START_N_ACK, message.sids, started)
        self._watch(now)

    def _stop_n_sessions(self, body: bytes, now: float) -> None:
        message = NSessions.parse(body)
        if not message.sids:
            self._deny(Accept.NOT_SUPPORTED, "Stop-N-Sessions without a SID")
            return
        stopped = [sid for sid in dict.fromkeys(message.sids) if sid in self._started]
        self._started = [sid for sid in self._started if sid not in stopped]
        self._expired.difference_update(stopped)
        if stopped:
            self._events.append(SessionsStopped(tuple(stopped)))
        self._acknowledge(Command.STOP_N_ACK, message.sids, stopped)
        self._watch(now)

    def _acknowledge(self, command: Command, asked: Sequence[bytes], done: Sequence[bytes]) -> None:
        """One message for what was done, one for what was not: a SID that is unknown, or in another state, or twice.

        RFC 5938 sections 3.3 and 3.5.
        """
        name = "start-n-ack" if command == Command.START_N_ACK else "stop-n-ack"
        refused = list(asked)
        for sid in done:
            refused.remove(sid)
        # rfc5938-s3.2-06, rfc5938-s3.3-01, rfc5938-s3.4-06, rfc5938-s3.5-01, rfc5938-s3.5-02
        if done:
            self._reply(name, NSessions(command, tuple(done)).encode())
        if refused:
            self._reply(name, NSessions(command, tuple(refused), Accept.FAILURE).encode())

    def _watch(self, now: float) -> None:
        """SERVWAIT is suspended while any session is in progress that has not expired. RFC 5938 section 3.6."""
        self.state = ServerState.ACTIVE if self._started else ServerState.READY
        in_progress = not self._expired.issuperset(self._started)
        self._deadline = None if in_progress else now + self.config.servwait_s  # rfc5938-s3.6-01, rfc5938-s3.6-02

    # Helpers.

    def _deny(self, accept: int, reason: str, reflected: int = 0) -> None:
        # The port is zero in a refusal.  rfc5357-s3.5-14, rfc5357-s3.5-15
        self._reply("accept-session", AcceptSession(Accept(accept), reflected_octets=reflected).encode())
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
    (ServerState.READY, Command.REQUEST_TW_SESSION): Transition(  # rfc5357-s3.5-01
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

_Handler = Callable[[ControlServer, bytes, float], None]
_EITHER = (ServerState.READY, ServerState.ACTIVE)
_REQUEST: Transition[_Handler] = Transition(
    "the client asks for a session and gets a port, or a refusal", ControlServer._request_tw_session, _EITHER
)
_START_N: Transition[_Handler] = Transition(
    "the sessions that are named start; those that cannot are refused", ControlServer._start_n_sessions, _EITHER
)
_STOP_N: Transition[_Handler] = Transition(
    "the sessions that are named end after their Timeout; others go on", ControlServer._stop_n_sessions, _EITHER
)
INDIVIDUAL_TRANSITIONS: dict[tuple[ServerState, Command], Transition[_Handler]] = {
    (state, command): transition
    for state in _EITHER
    for command, transition in (
        (Command.REQUEST_TW_SESSION, _REQUEST),
        (Command.START_N_SESSIONS, _START_N),
        (Command.STOP_N_SESSIONS, _STOP_N),
    )
}
"""The same with Individual Session Control: Start-Sessions and Stop-Sessions have no row. RFC 5938 section 3.1."""
