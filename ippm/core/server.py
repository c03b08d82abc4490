"""The TWAMP Server role of one Control connection, sans-IO.

The server speaks first: its Greeting offers modes. The Set-Up-Response chooses one; from then on, unless the mode
is open, everything is encrypted. Between Start-Sessions and Stop-Sessions ("conducting active measurements") the
only command is Stop-Sessions. Whatever the client sends, nothing is raised here: it gets the Accept value that
the RFC has for it, or its connection is closed, and an event says why.

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

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    ConnectionClosed,
    Endpoint,
    ServerEvent,
    ServerHooks,
    SessionDenied,
    SessionOpened,
    SessionsStarted,
    SessionsStopped,
    TestSession,
)
from ippm.core.inbox import Inbox
from ippm.core.server_policy import ControlServerConfig, bare_address, check_count, check_mode, check_request
from ippm.crypto import (
    HMAC_OCTETS,
    CbcReceiver,
    CbcSender,
    ControlSecret,
    Entropy,
    KeyProvider,
    OpenReceiver,
    OpenSender,
    ReceiveStream,
    SendStream,
    SessionKeys,
    open_token,
    pbkdf2_token_key,
    test_session_keys,
)
from ippm.errors import IppmError, NoSecret, ProtocolError, RefuseSession
from ippm.iana import SECURITY_BITS, Accept, Command, Mode
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import BLOCK_OCTETS, command_parts
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck
from ippm.wire.stop_sessions import StopSessions


class ServerState(Enum):
    """Where a Control connection stands, seen by the server."""

    GREETED = "greeted"
    READY = "ready"
    ACTIVE = "active"
    CLOSED = "closed"


class ControlServer:
    """One Control connection of a TWAMP Server. Raises nothing on what the peer sends.

    RFC 5357 section 3.
    """

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
        self.config = config
        self.local = local
        self.remote = remote
        self.state = ServerState.GREETED
        self.mode = Mode(0)
        self._provider = provider
        self._hooks = hooks
        self._entropy = entropy
        self._inbox = Inbox()
        self._outbox = bytearray()
        self._events: deque[ServerEvent] = deque()
        self._secret: ControlSecret | None = None
        self._keys: SessionKeys | None = None
        self._send: SendStream = OpenSender()
        self._receive: ReceiveStream = OpenReceiver()
        self._first_block: bytes | None = None
        self._parts: list[bytes] = []
        self._timeouts: dict[bytes, int] = {}
        self._requested: list[bytes] = []
        self._started: list[bytes] = []
        self._expired: set[bytes] = set()
        self._deadline: float | None = now + config.setup_wait_s
        self._greet()

    # The five methods of a sans-IO role.

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the client; acts on every whole message among them."""
        if self.closed:
            return
        self._inbox.add(data)
        try:
            while not self.closed and self._step(now):
                pass
        except ProtocolError as error:
            self._close(str(error), error)  # rfc4656-s6.10-03

    def receive_eof(self, now: float) -> None:
        """The client closed its half: nothing more can come, so the connection is over."""
        if self.state is not ServerState.CLOSED:
            partial = len(self._inbox) > 0 or self._first_block is not None
            self._close("the client closed the connection" + (" within a message" if partial else ""))

    def data_to_send(self) -> bytes:
        """What is to go to the client now; empty when there is nothing."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, or None."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Close the connection when what was awaited has not come in time. RFC 5357 section 3.1, SERVWAIT."""
        if self._deadline is not None and now >= self._deadline and self.state is not ServerState.CLOSED:
            # rfc4656-s3-01, rfc4656-s3-02
            awaited = "Set-Up-Response" if self.state is ServerState.GREETED else "command"
            self._close(f"no {awaited} came in time")

    def next_event(self) -> ServerEvent | None:
        """The oldest event that was not taken yet, or None. Take them before sending `data_to_send`."""
        return self._events.popleft() if self._events else None

    # What the driver tells.

    @property
    def closed(self) -> bool:
        """True when the connection is to be closed after `data_to_send` has gone out."""
        return self.state is ServerState.CLOSED

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

    def close(self, reason: str = "the server is closing") -> None:
        """Our side ends the connection."""
        if self.state is not ServerState.CLOSED:
            self._close(reason)

    # Connection setup.

    def _greet(self) -> None:
        modes = self.config.modes
        if self._provider.offers_ikev2 and modes.keyed:
            modes |= Mode.IKEV2_DERIVED  # rfc7717-s5.2-01
        self._greeting = ServerGreeting(
            modes=modes,
            challenge=self._entropy.octets(16),
            salt=self._entropy.octets(16),  # rfc4656-s3.1-03
            count=check_count(self._provider.count or self.config.count),
        )
        self._outbox += self._greeting.encode()
        if not modes:
            self._close("no mode is offered")

    def _step(self, now: float) -> bool:
        """One message or part of one; False when more octets are needed."""
        if self.state is ServerState.GREETED:
            data = self._inbox.take(SetUpResponse.OCTETS)
            if data is None:
                return False
            self._set_up(SetUpResponse.parse(data), now)
            return True
        return self._read_command(now)

    def _set_up(self, response: SetUpResponse, now: float) -> None:
        # The bits that have no meaning here are ignored.  rfc4656-s3.1-13
        chosen = Mode(response.mode & (SECURITY_BITS | Mode.IKEV2_DERIVED))
        if not chosen:
            self._close("the client does not wish to continue")  # rfc4656-s3.1-14
            return
        try:
            self.mode = check_mode(chosen, Mode(self._greeting.modes), strict=self.config.strict_modes)
            token_key_index = self._open_secret(response) if self.mode.keyed else None
        except NoSecret as error:
            # rfc7717-s5.3-07, rfc7717-s5.3-08
            self._refuse(error.accept, error.reason, now)
            return
        except ProtocolError as error:
            self._refuse(error.accept, str(error), now)
            return
        except Exception as error:
            # A key provider is not ours: whatever goes wrong in it, the client gets an answer.
            self._refuse(Accept.INTERNAL_ERROR, f"the key provider failed: {error}", now)
            return
        server_iv = self._entropy.octets(16)
        start = ServerStart(Accept.OK, server_iv, self.config.start_time).encode()  # rfc4656-s3.1-26
        if self._keys is not None:
            self._send = CbcSender(self._keys, server_iv)
            self._receive = CbcReceiver(self._keys, response.client_iv)
        clear, rest = start[: ServerStart.CLEAR_OCTETS], start[ServerStart.CLEAR_OCTETS :]
        self._outbox += clear + self._send.seal(rest, with_hmac=False)
        self.state = ServerState.READY
        self._deadline = now + self.config.servwait_s
        secret = self._secret
        self._events.append(
            ClientSetUp(
                mode=self.mode,
                ikev2_derived=secret is not None and secret.ikev2_derived,
                key_id=response.key_id if self.mode.keyed else b"",
                derivation=None if secret is None else secret.derivation,
                peer_identity=None if secret is None else secret.peer_identity,
                token_key_index=token_key_index,
            )
        )

    def _open_secret(self, response: SetUpResponse) -> int:
        """Find the secret, open the Token; the index of the token key that fits. Raises NoSecret, IntegrityError."""
        derived = bool(self.mode & Mode.IKEV2_DERIVED)
        salt, count = self._greeting.salt, self._greeting.count
        try:
            secret = self._provider.for_server(response.key_id, derived, self.remote.host, "twamp")
        except NoSecret:
            # An unknown KeyID takes as long as a wrong passphrase: who guesses does not learn which it was.
            pbkdf2_token_key(response.token, salt, count)
            raise
        self._secret = secret
        token_keys = secret.token_keys(salt, count)
        index, self._keys = open_token(token_keys, response.token, self._greeting.challenge)
        return index

    def _refuse(self, accept: int, reason: str, now: float) -> None:
        # Start-Time is zero in a refusal, and the message is not encrypted.  rfc4656-s3.1-25
        self._outbox += ServerStart(Accept(accept)).encode()
        self._events.append(ClientRefused(accept, reason))
        self._close(f"set-up refused: {reason}")

    # Commands.

    def _read_command(self, now: float) -> bool:
        """Read the next block, or the rest of the command that it began; the HMAC is checked before any use."""
        if self._first_block is None:
            data = self._inbox.take(BLOCK_OCTETS)
            if data is None:
                return False
            self._first_block = self._receive.decrypt(data)
            self._parts = []
        try:
            lengths = command_parts(self._first_block)
        except ProtocolError as error:
            # Without a length the rest cannot be read: refused, then closed.  rfc5357-s3.5-02
            self._deny(Accept.NOT_SUPPORTED, str(error))
            self._close(str(error), error)
            return False
        # A part's length counts the first block, which is here already.
        head = self._first_block if not self._parts else b""
        wanted = lengths[len(self._parts)] - len(head)
        data = self._inbox.take(wanted + HMAC_OCTETS)
        if data is None:
            return False
        plain = self._receive.decrypt(data)
        body = head + plain[:wanted]
        self._receive.verify(body, plain[wanted:])  # rfc4656-s3.2-02, rfc4656-s6.10-01
        self._parts.append(body)
        if len(self._parts) == len(lengths):
            command = self._parts[0]
            self._first_block = None
            self._parts = []
            if self.state is not ServerState.ACTIVE:
                self._deadline = now + self.config.servwait_s
            self._dispatch(command, now)
        return True

    def _dispatch(self, body: bytes, now: float) -> None:
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
        limit = self.config.sessions_per_connection if self.mode.keyed else self.config.open_sessions_per_connection
        if len(self._timeouts) >= limit:  # rfc4656-s6.5-01
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, f"a connection may have {limit} sessions")
        sid = self._new_sid()
        sender = Endpoint(str(request.sender_address or bare_address(self.remote.host)), request.sender_port)
        receiver = request.receiver_address
        ours = receiver is None or receiver == bare_address(self.local.host)  # rfc5357-s3.5-07
        host = self.local.host if ours else str(receiver)
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
        port = self._hooks.open_session(wished)
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

    def _test_keys(self, sid: bytes) -> SessionKeys | None:
        """Keys of a Test session; none where Test is unauthenticated. RFC 4656 section 4.1.2, RFC 5618."""
        if self._keys is None or self._secret is None or self.mode & Mode.MIXED:
            return None
        return self._secret.test_keys("twamp", sid, self._keys) or test_session_keys(self._keys, sid)

    def _new_sid(self) -> bytes:
        """An IPv4 address of ours, a timestamp, a random value. RFC 4656 section 3.5."""
        local = bare_address(self.local.host)
        own = local.packed if local.version == 4 and not local.is_loopback else self.config.sid_address
        # rfc4656-s3.5-12, rfc4656-s3.5-13
        return own + self._hooks.ntp_time().to_bytes(8, "big") + self._entropy.octets(4)

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

    def _reply(self, body: bytes) -> None:
        self._outbox += self._send.seal(body, with_hmac=True)

    def _close(self, reason: str, error: IppmError | None = None) -> None:
        sids = tuple(self._requested + self._started)
        self.state = ServerState.CLOSED
        self._deadline = None
        self._inbox.clear()
        self._events.append(ConnectionClosed(reason, error, sids))
        self._release()

    def _release(self) -> None:
        """Let go of the secret when the connection and its last Test session have ended. RFC 7717 section 5.1."""
        if self.state is ServerState.CLOSED and not self._timeouts and self._secret is not None:
            self._secret.close()
            self._secret = None


@dataclass(frozen=True, slots=True)
class Transition:
    """What a command does in a state."""

    story: str
    handler: Callable[[ControlServer, bytes, float], None]
    next_states: tuple[ServerState, ...]


TRANSITIONS: dict[tuple[ServerState, Command], Transition] = {
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
