"""The TWAMP Control-Client role of one Control connection, sans-IO.

The server speaks first. The client takes the mode that its user wants or none: the Greeting is not authenticated,
so a weaker mode is never chosen because of it. Commands are answered in the order in which they were sent.
What goes wrong is a ConnectionClosed event with the error in it; only our own caller's mistakes are raised.
RFC 5357 section 3, RFC 4656 section 3, RFC 7717 section 5.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from ippm.core.control_events import (
    ClientEvent,
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionAccepted,
    SessionRejected,
    Started,
    TestSession,
)
from ippm.core.inbox import Inbox
from ippm.core.server_policy import bare_address
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
    seal_token,
    test_session_keys,
)
from ippm.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidMessage,
    IppmError,
    LocalProtocolError,
    ServerRefused,
    UnacceptableCount,
    UnexpectedMessage,
)
from ippm.iana import DEFAULT_MAXIMUM_COUNT, MINIMUM_COUNT, Accept, Mode
from ippm.timestamps import fixed_point_from_ns
from ippm.wire.accept_session import AcceptSession
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions


@dataclass(frozen=True, slots=True)
class ControlClientConfig:
    """What the Control-Client wants. `mode` is one security mode, or several of which the strictest offered is taken.

    `require_ikev2`: no passphrase, and no server that does not offer IKEv2-derived keys. `response_wait_s` bounds
    the wait for each of the server's messages. Raises ConfigurationError. RFC 4656 section 3.1, RFC 5357 section 6.
    """

    mode: Mode = Mode.OPEN
    require_ikev2: bool = False
    maximum_count: int = DEFAULT_MAXIMUM_COUNT
    response_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.mode.security != self.mode or not self.mode:
            raise ConfigurationError(f"mode = {self.mode!r}: a security mode is wanted, and nothing else")
        if self.require_ikev2 and not self.mode.keyed:
            raise ConfigurationError("open mode has no keys, so none that could come from IKEv2")
        if self.maximum_count < MINIMUM_COUNT:
            raise ConfigurationError(f"maximum_count = {self.maximum_count}: at least {MINIMUM_COUNT}")


@dataclass(frozen=True, slots=True)
class SessionWish:
    """What a client asks of a server in a Request-TW-Session.

    `sender` is where test packets come from; `reflector_port` is a wish (0: any). `start_time` is an NTP timestamp,
    zero for at once. `zero_addresses` leaves the addresses to the Control connection, for a client behind a NAT.
    RFC 5357 section 3.5.
    """

    sender: Endpoint
    reflector_port: int = 0
    padding_octets: int = 0
    start_time: int = 0
    timeout_ns: int = 2_000_000_000
    dscp: int = 0
    zero_addresses: bool = False


class ClientState(Enum):
    """Where a Control connection stands, seen by the client."""

    GREETING = "waiting for the Server Greeting"
    SERVER_START = "waiting for Server-Start"
    READY = "ready"
    STARTING = "waiting for Start-Ack"
    ACTIVE = "active"
    CLOSED = "closed"


class ControlClient:
    """One Control connection of a TWAMP Control-Client. RFC 5357 section 3."""

    def __init__(
        self,
        config: ControlClientConfig,
        provider: KeyProvider,
        entropy: Entropy,
        *,
        local: Endpoint,
        remote: Endpoint,
        now: float,
    ) -> None:
        self.config = config
        self.local = local
        self.remote = remote
        self.state = ClientState.GREETING
        self.mode = config.mode
        self._provider = provider
        self._entropy = entropy
        self._inbox = Inbox()
        self._outbox = bytearray()
        self._events: deque[ClientEvent] = deque()
        self._secret: ControlSecret | None = None
        self._keys: SessionKeys | None = None
        self._count = 0
        self._offered = Mode(0)
        self._send: SendStream = OpenSender()
        self._receive: ReceiveStream = OpenReceiver()
        self._server_start_clear: bytes | None = None
        self._requests: deque[SessionWish] = deque()
        self._accepted: list[bytes] = []
        self._started: list[bytes] = []
        self._deadline: float | None = now + config.response_wait_s

    # The five methods of a sans-IO role.

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the server; acts on every whole message among them."""
        if self.closed:
            return
        self._inbox.add(data)
        try:
            while not self.closed and self._step(now):
                pass
        except IppmError as error:
            self._close(error)

    def receive_eof(self, now: float) -> None:
        """The server closed the connection."""
        if not self.closed:
            self._close(ConnectionFailed(f"the server closed the connection while we were {self._doing()}"))

    def data_to_send(self) -> bytes:
        """What is to go to the server now; empty when there is nothing."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, or None."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Give up when the server's answer has not come in time."""
        if self._deadline is not None and now >= self._deadline and not self.closed:
            self._close(ConnectionFailed(f"no answer in {self.config.response_wait_s:g} s, while {self._doing()}"))

    def next_event(self) -> ClientEvent | None:
        """The oldest event that was not taken yet, or None."""
        return self._events.popleft() if self._events else None

    @property
    def closed(self) -> bool:
        """True when the connection is to be closed after `data_to_send` has gone out."""
        return self.state is ClientState.CLOSED

    # What our user asks for.

    def request_session(self, wish: SessionWish, now: float) -> None:
        """Ask for a test session; the answer is SessionAccepted or SessionRejected. Raises LocalProtocolError.

        RFC 5357 section 3.5.
        """
        self._expect(ClientState.READY)
        if not 0 < wish.sender.port < 65536 or not 0 <= wish.reflector_port < 65536:
            raise LocalProtocolError("a port is out of range")
        if not 0 <= wish.dscp < 64:
            raise LocalProtocolError(f"a DSCP has six bits, {wish.dscp} has not")
        sender, receiver = bare_address(wish.sender.host), bare_address(self.remote.host)
        request = RequestTwSession(  # rfc5357-s3.5-03, rfc5357-s3.5-06, rfc5357-s3.5-08
            sender_port=wish.sender.port,
            receiver_port=wish.reflector_port,
            sender_address=None if wish.zero_addresses else sender,
            receiver_address=None if wish.zero_addresses else receiver,
            padding_length=wish.padding_octets,
            start_time=wish.start_time,
            timeout=fixed_point_from_ns(wish.timeout_ns),
            type_p=wish.dscp << 24,
            ipvn=receiver.version,
        )
        self._requests.append(wish)
        self._command(request.encode(), now)

    def start_sessions(self, now: float) -> None:
        """Start what was accepted; Start-Ack is the Started event. Raises LocalProtocolError. RFC 4656 section 3.7."""
        self._expect(ClientState.READY)
        if self._requests or not self._accepted:
            raise LocalProtocolError("no session was accepted yet" if not self._requests else "a request is open")
        self.state = ClientState.STARTING
        self._command(StartSessions().encode(), now)

    def stop_sessions(self, now: float, accept: Accept = Accept.OK) -> None:
        """Stop all sessions that run; there is no answer. Raises LocalProtocolError. RFC 5357 section 3.8."""
        self._expect(ClientState.ACTIVE)
        # rfc5357-s3.8-01, rfc5357-s3.8-03, rfc5357-s3.8-04
        stop = StopSessions(number_of_sessions=len(self._started), accept=accept)
        self._outbox += self._send.seal(stop.encode(), with_hmac=True)
        self._started = []
        self.state = ClientState.READY

    def close(self) -> None:
        """Our side ends the connection; the secret is let go. Call when the last session has ended."""
        if not self.closed:
            self._close(None)

    # Connection setup.

    def _step(self, now: float) -> bool:
        """One message or part of one; False when more octets are needed."""
        if self.state is ClientState.GREETING:
            data = self._inbox.take(ServerGreeting.OCTETS)
            if data is None:
                return False
            self._respond(ServerGreeting.parse(data), now)
            return True
        if self.state is ClientState.SERVER_START:
            return self._read_server_start()
        if self._requests:
            body = self._read(AcceptSession.OCTETS)
            if body is not None:
                self._session_answer(AcceptSession.parse(body))
        elif self.state is ClientState.STARTING:
            body = self._read(StartAck.OCTETS)
            if body is not None:
                self._start_ack(StartAck.parse(body))
        elif len(self._inbox):
            raise UnexpectedMessage("the server sent something that nobody asked for")
        else:
            return False
        return body is not None

    def _respond(self, greeting: ServerGreeting, now: float) -> None:
        offered = self._offered = Mode(
            greeting.modes
        )  # bits that have no meaning here are ignored: rfc4656-s3.1-02
        wanted = (offered & self.config.mode).strictest  # one bit: rfc4656-s3.1-09, rfc4656-s3.1-10
        if not greeting.modes:  # rfc4656-s3.1-07
            raise ServerRefused(Accept.FAILURE, "the greeting offers no mode")
        if not wanted:
            ours = _words(self.config.mode)
            raise ConnectionFailed(f"the server does not offer {ours} mode, but {_words(offered)}")
        self.mode = wanted
        if self.config.require_ikev2 and not (wanted.keyed and offered & Mode.IKEV2_DERIVED):
            raise ConnectionFailed("the server does not offer IKEv2-derived keys, and they are required")
        response = self._keyed_response(greeting, offered) if wanted.keyed else SetUpResponse(wanted)
        self._outbox += response.encode()  # rfc4656-s3.1-08
        self.state = ClientState.SERVER_START
        self._deadline = now + self.config.response_wait_s

    def _keyed_response(self, greeting: ServerGreeting, offered: Mode) -> SetUpResponse:
        """Find the secret, make the keys and the Token. RFC 4656 section 3.1, RFC 7717 section 5.3."""
        self._check_count(greeting.count)
        secret = self._secret = self._provider.for_client(self.remote.host, "twamp")
        if secret.ikev2_derived:
            if not offered & Mode.IKEV2_DERIVED:
                raise ConnectionFailed("the secret is derived from IKEv2, which the server does not offer")
            self.mode |= Mode.IKEV2_DERIVED  # rfc7717-s5.3-01
        elif self.config.require_ikev2:
            raise ConnectionFailed("there is no IKEv2-derived secret for this server, and it is required")
        self._count = greeting.count
        # rfc4656-s3.1-17, rfc4656-s3.1-18, rfc4656-s3.2-01
        self._keys = SessionKeys(self._entropy.octets(16), self._entropy.octets(32))
        client_iv = self._entropy.octets(16)
        token = seal_token(secret.token_keys(greeting.salt, greeting.count)[0], greeting.challenge, self._keys)
        self._send = CbcSender(self._keys, client_iv)
        return SetUpResponse(self.mode, secret.key_id, token, client_iv)

    def _check_count(self, count: int) -> None:
        """Raises UnacceptableCount. RFC 4656 section 3.1, RFC 5357 section 6."""
        if count > self.config.maximum_count:
            raise UnacceptableCount(f"the server's Count {count} is above our maximum {self.config.maximum_count}")
        if count < MINIMUM_COUNT or count & (count - 1):
            raise UnacceptableCount(f"the server's Count {count} is no power of two from {MINIMUM_COUNT} up")

    def _read_server_start(self) -> bool:
        if self._server_start_clear is None:
            clear = self._inbox.take(ServerStart.CLEAR_OCTETS)
            if clear is None:
                return False
            self._server_start_clear = clear
            # A refusal is not encrypted; it is acted on without waiting for the rest.
            accept = Accept(clear[15])
            if accept != Accept.OK:  # rfc4656-s3.1-24
                raise ServerRefused(accept, self._why(accept), "Server-Start")
        rest = self._inbox.take(ServerStart.OCTETS - ServerStart.CLEAR_OCTETS)
        if rest is None:
            return False
        if self._keys is not None:
            self._receive = CbcReceiver(self._keys, self._server_start_clear[16:])
        plain = self._receive.decrypt(rest)
        self._receive.cover(plain)
        start = ServerStart.parse(self._server_start_clear + plain)
        self.state = ClientState.READY
        self._deadline = None
        secret = self._secret
        self._events.append(
            Connected(
                mode=self.mode,
                ikev2_derived=secret is not None and secret.ikev2_derived,
                derivation=None if secret is None else secret.derivation,
                peer_identity=None if secret is None else secret.peer_identity,
                count=self._count,
                server_start_time=start.start_time,
                offered=self._offered,
            )
        )
        return True

    def _why(self, accept: Accept) -> str:
        """What a refused Server-Start means, for a person. RFC 7717 section 5.3."""
        if accept == Accept.NO_IKEV2_SA and self._secret is not None and self._secret.ikev2_derived:
            spi_i, spi_r = self._secret.key_id[:8].hex(), self._secret.key_id[8:16].hex()
            return f"no IKEv2 SA with SPIi {spi_i} SPIr {spi_r} at the server"
        if accept == Accept.FAILURE and self.mode.keyed:
            return f"{accept.words}: most often the KeyID or the secret"
        return accept.words

    # Answers to commands.

    def _read(self, octets: int) -> bytes | None:
        """The next message, decrypted and verified, without its HMAC; None while it is not all there."""
        data = self._inbox.take(octets + HMAC_OCTETS)
        if data is None:
            return None
        plain = self._receive.decrypt(data)
        self._receive.verify(plain[:octets], plain[octets:])  # rfc4656-s3.2-02
        return plain[:octets]

    def _session_answer(self, answer: AcceptSession) -> None:
        wish = self._requests.popleft()
        if not self._requests:
            self._deadline = None
        if answer.accept != Accept.OK:
            reason = Accept(answer.accept).words
            self._events.append(SessionRejected(ServerRefused(answer.accept, reason, "Accept-Session")))
            return
        if answer.port == 0:
            raise InvalidMessage("the server accepted a session on port 0")
        self._accepted.append(answer.sid)
        self._events.append(
            SessionAccepted(
                TestSession(
                    sid=answer.sid,
                    mode=self.mode,
                    keys=self._test_keys(answer.sid),
                    sender=wish.sender,
                    reflector=Endpoint(self.remote.host, answer.port),
                    padding_octets=wish.padding_octets,
                    start_time=wish.start_time,
                    timeout_ns=wish.timeout_ns,
                    dscp=wish.dscp,
                )
            )
        )

    def _test_keys(self, sid: bytes) -> SessionKeys | None:
        """Keys of a Test session; none where Test is unauthenticated. RFC 4656 section 4.1.2, RFC 5618."""
        if self._keys is None or self._secret is None or self.mode & Mode.MIXED:
            return None
        return self._secret.test_keys("twamp", sid, self._keys) or test_session_keys(self._keys, sid)

    def _start_ack(self, ack: StartAck) -> None:
        if ack.accept != Accept.OK:  # rfc4656-s3.7-03
            raise ServerRefused(ack.accept, Accept(ack.accept).words, "Start-Ack")
        self._deadline = None
        self.state = ClientState.ACTIVE
        self._started, self._accepted = self._accepted, []
        self._events.append(Started(tuple(self._started)))

    # Helpers.

    def _expect(self, state: ClientState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"the connection is {self.state.value}, not {state.value}")

    def _command(self, body: bytes, now: float) -> None:
        self._outbox += self._send.seal(body, with_hmac=True)
        self._deadline = now + self.config.response_wait_s

    def _doing(self) -> str:
        return "waiting for Accept-Session" if self._requests else self.state.value

    def _close(self, error: IppmError | None) -> None:
        sids = tuple(self._accepted + self._started)
        self.state = ClientState.CLOSED
        self._deadline = None
        self._inbox.clear()
        self._events.append(ConnectionClosed("closed" if error is None else str(error), error, sids))
        if self._secret is not None:
            self._secret.close()


def _words(offered: Mode) -> str:
    words = [bit.word for bit in Mode if bit & offered.security]
    return ", ".join(words) if words else "no mode that is known here"


__all__ = [
    "ClientState",
    "ControlClient",
    "ControlClientConfig",
    "SessionWish",
]
