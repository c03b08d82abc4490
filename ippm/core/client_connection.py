"""What the Control-Clients of OWAMP and TWAMP share of one Control connection, sans-IO.

From the Greeting to Server-Start, and answers read from the protected stream.

The server speaks first. The client takes the mode that its user wants or none: the Greeting is not authenticated,
so a weaker mode is never chosen because of it. What goes wrong is a ConnectionClosed event with the error in it; only
our own caller's mistakes are raised.
RFC 4656 section 3, RFC 5357 section 3, RFC 7717 section 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ippm.core.control_events import Connected, ConnectionClosed, Endpoint, SessionRejected
from ippm.core.inbox import Inbox
from ippm.core.key_log import ControlKeys, KeyLog, TestKeys
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
)
from ippm.iana import (
    DEFAULT_MAXIMUM_COUNT,
    FEATURE_BITS,
    MINIMUM_COUNT,
    NO_FEATURES,
    SECURITY_BITS,
    Accept,
    Command,
    Mode,
    feature_words,
)
from ippm.wire.accept_session import AcceptSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck

if TYPE_CHECKING:
    from ippm.core.impair import Impairments


@dataclass(frozen=True, slots=True)
class ControlClientConfig:
    """What the Control-Client wants. `mode` is one security mode, or several of which the strictest offered is taken.

    `require_ikev2`: no passphrase, and no server that does not offer IKEv2-derived keys. `response_wait_s` bounds
    the wait for each of the server's messages. `features` of RFC 5938, 6038, 7750 and 8186 are chosen, and a server
    that does not offer all of them is left (TWAMP only); `tw_auth_pad` is that of the server. `key_log` is
    told the keys; `impairments` spoil what is sent. Raises ConfigurationError. RFC 4656 section 3.1, RFC 5357
    section 6.
    """

    mode: Mode = Mode.OPEN
    require_ikev2: bool = False
    maximum_count: int = DEFAULT_MAXIMUM_COUNT  # rfc5357-s6-02, rfc5357-s6-02
    response_wait_s: float = 30.0
    features: Mode = NO_FEATURES
    tw_auth_pad: int = 64
    key_log: KeyLog | None = None
    impairments: Impairments | None = None

    def __post_init__(self) -> None:
        if self.mode.security != self.mode or not self.mode:
            raise ConfigurationError(f"mode = {self.mode!r}: a security mode is wanted, and nothing else")
        if self.require_ikev2 and not self.mode.keyed:
            raise ConfigurationError("open mode has no keys, so none that could come from IKEv2")
        if self.features & ~FEATURE_BITS:
            raise ConfigurationError(f"features = {self.features!r}: only features of TWAMP are wanted there")
        if self.maximum_count < MINIMUM_COUNT:
            raise ConfigurationError(f"maximum_count = {self.maximum_count}: at least {MINIMUM_COUNT}")


_HINTS = {
    Accept.PERMANENT_LIMITATION: "the request is beyond what the server allows this client",
    Accept.TEMPORARY_LIMITATION: "sessions, bandwidth, disk or test ports of the server are exhausted for now",
}
"""What the values of Accept in an answer to a request may mean; the protocol carries no more than the value."""


_NAMES = {
    Command.REQUEST_SESSION: "request-session",
    Command.START_SESSIONS: "start-sessions",
    Command.STOP_SESSIONS: "stop-sessions",
    Command.FETCH_SESSION: "fetch-session",
    Command.REQUEST_TW_SESSION: "request-tw-session",
    Command.START_N_SESSIONS: "start-n-sessions",
    Command.STOP_N_SESSIONS: "stop-n-sessions",
}
"""The names of commands in impairments."""


class ClientState(Enum):
    """Where a Control connection stands, seen by the client."""

    GREETING = "waiting for the Server Greeting"
    SERVER_START = "waiting for Server-Start"
    READY = "ready"
    STARTING = "waiting for Start-Ack"
    ACTIVE = "active"
    CLOSED = "closed"


Event = TypeVar("Event")
ConnectionEvent = Connected | SessionRejected | ConnectionClosed


class ClientConnection(ABC, Generic[Event]):
    """One Control connection of a Control-Client.

    `PROTOCOL` is `owamp` or `twamp`; `SECURITY` are its security modes, `derived_bit` its bit for IKEv2-derived keys.
    RFC 4656 section 3.1, RFC 5357 section 3.1.
    """

    PROTOCOL: ClassVar[str]
    SECURITY: ClassVar[Mode] = SECURITY_BITS
    FEATURES: ClassVar[Mode] = NO_FEATURES
    derived_bit: int = Mode.IKEV2_DERIVED

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
        self._events: deque[Event | ConnectionEvent] = deque()
        self._secret: ControlSecret | None = None
        self._keys: SessionKeys | None = None
        self._client_iv = b""
        self._count = 0
        self._offered = Mode(0)
        self._send: SendStream = OpenSender()
        self._receive: ReceiveStream = OpenReceiver()
        self._server_start_clear: bytes | None = None
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

    def next_event(self) -> Event | ConnectionEvent | None:
        """The oldest event that was not taken yet, or None."""
        return self._events.popleft() if self._events else None

    @property
    def closed(self) -> bool:
        """True when the connection is to be closed after `data_to_send` has gone out."""
        return self.state is ClientState.CLOSED

    def close(self) -> None:
        """Our side ends the connection; the secret is let go. Call when the last session has ended."""
        if not self.closed:
            self._close(None)

    # What a protocol adds.

    @abstractmethod
    def _read_answer(self, now: float) -> bool:
        """Read what the server sent after set-up; False when more octets are needed. Raises IppmError."""

    @abstractmethod
    def _open_sids(self) -> tuple[bytes, ...]:
        """The sessions that were not stopped."""

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
        return self._read_answer(now)

    def _mode_of(self, bits: int) -> Mode:
        """The Modes field of a Greeting; the bit for IKEv2-derived keys has not the same place in OWAMP and TWAMP."""
        other = (
            Mode(0)
            if self.derived_bit != Mode.IKEV2_DERIVED
            else Mode(bits) & ~(self.SECURITY | Mode.IKEV2_DERIVED)
        )
        derived = Mode.IKEV2_DERIVED if bits & self.derived_bit else Mode(0)
        return Mode(bits & self.SECURITY) | derived | other

    def _bits_of(self, mode: Mode) -> int:
        """The Mode field for what was chosen."""
        # rfc4656-s3.1-12
        return int(mode & (self.SECURITY | self.FEATURES)) | (self.derived_bit if mode & Mode.IKEV2_DERIVED else 0)

    def _respond(self, greeting: ServerGreeting, now: float) -> None:
        # Bits that have no meaning here are ignored.  rfc4656-s3.1-02
        offered = self._offered = self._mode_of(greeting.modes)
        # rfc5618-s3.1-03, rfc7717-s5.2-m2, rfc5618-s3.1-03, rfc7717-s5.2-m2
        wanted = (offered & self.config.mode).strictest  # one bit: rfc4656-s3.1-09, rfc4656-s3.1-10
        if not greeting.modes:  # rfc4656-s3.1-07
            raise ServerRefused(Accept.FAILURE, "the greeting offers no mode")
        if not wanted:
            ours = _words(self.config.mode)
            raise ConnectionFailed(f"the server does not offer {ours} mode, but {_words(offered)}")
        if missing := self.config.features & ~offered:
            raise ConnectionFailed(f"the server does not offer {feature_words(missing)}")
        wanted |= self.config.features  # rfc5938-s3.1-02, rfc5938-s3.1-05, rfc6038-s4.1-01
        self.mode = wanted
        if self.config.require_ikev2 and not (wanted.keyed and offered & Mode.IKEV2_DERIVED):
            raise ConnectionFailed("the server does not offer IKEv2-derived keys, and they are required")
        response = self._keyed_response(greeting, offered) if wanted.keyed else SetUpResponse(self._bits_of(wanted))
        self._outbox += self._unsealed("set-up-response", response.encode())  # rfc4656-s3.1-08
        self.state = ClientState.SERVER_START
        self._deadline = now + self.config.response_wait_s

    def _keyed_response(self, greeting: ServerGreeting, offered: Mode) -> SetUpResponse:
        """Find the secret, make the keys and the Token. RFC 4656 section 3.1, RFC 7717 section 5.3."""
        self._check_count(greeting.count)
        ikev2_offered = bool(offered & Mode.IKEV2_DERIVED)
        secret = self._provider.for_client(self.remote.host, self.PROTOCOL, ikev2_offered=ikev2_offered)
        self._secret = secret
        if secret.ikev2_derived:
            if not ikev2_offered:
                raise ConnectionFailed("the secret is derived from IKEv2, which the server does not offer")
            self.mode |= Mode.IKEV2_DERIVED  # rfc7717-s5.3-01, rfc7717-s5.3-m1, rfc7717-s5.3-m1
        elif self.config.require_ikev2:
            raise ConnectionFailed("there is no IKEv2-derived secret for this server, and it is required")
        self._count = greeting.count
        # rfc4656-s3.1-17, rfc4656-s3.1-18, rfc4656-s3.2-01
        self._keys = SessionKeys(self._entropy.octets(16), self._entropy.octets(32))
        client_iv = self._client_iv = self._entropy.octets(16)
        token = seal_token(secret.token_keys(greeting.salt, greeting.count)[0], greeting.challenge, self._keys)
        self._send = CbcSender(self._keys, client_iv)
        return SetUpResponse(self._bits_of(self.mode), secret.key_id, token, client_iv)

    def _check_count(self, count: int) -> None:
        """Raises UnacceptableCount. RFC 4656 section 3.1, RFC 5357 section 6."""
        if count > self.config.maximum_count:  # rfc5357-s6-01, rfc5357-s6-03, rfc5357-s6-01, rfc5357-s6-03
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
            server_iv = self._server_start_clear[16:]
            self._receive = CbcReceiver(self._keys, server_iv)
            if self.config.key_log is not None:
                modes = self._bits_of(self.mode)
                self.config.key_log.control(
                    ControlKeys(self.PROTOCOL, modes, self._client_iv, server_iv, self._keys)
                )
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

    # Helpers.

    def _read(self, octets: int) -> bytes | None:
        """The next message, decrypted and verified, without its HMAC; None while it is not all there."""
        data = self._inbox.take(octets + HMAC_OCTETS)
        if data is None:
            return None
        plain = self._receive.decrypt(data)
        self._receive.verify(plain[:octets], plain[octets:])  # rfc4656-s3.2-02
        return plain[:octets]

    def _test_keys(self, sid: bytes) -> SessionKeys | None:
        """Keys of a Test session; none where Test is unauthenticated. RFC 4656 section 4.1.2, RFC 5618."""
        # rfc5618-s1-01, rfc5618-s3.1-01, rfc5618-s3.1-02, rfc5618-s4-01
        if self._keys is None or self._secret is None or self.mode & Mode.MIXED:
            return None
        return self._secret.test_keys(self.PROTOCOL, sid, self._keys) or test_session_keys(self._keys, sid)

    def _log_test_keys(self, sid: bytes, keys: SessionKeys | None, sender: Endpoint, receiver: Endpoint) -> None:
        if keys is not None and self.config.key_log is not None:
            modes = self._bits_of(self.mode)
            self.config.key_log.test(TestKeys(self.PROTOCOL, modes, sid, sender, receiver, keys))

    def _expect(self, state: ClientState) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"the connection is {self.state.value}, not {state.value}")

    def _is_accepted(self, answer: AcceptSession) -> bool:
        """Whether the server accepts a session; the event of a refusal is made here. Raises InvalidMessage."""
        if answer.accept != Accept.OK:
            reason = Accept(answer.accept).words
            hint = _HINTS.get(Accept(answer.accept), "")
            self._events.append(SessionRejected(ServerRefused(answer.accept, reason, "Accept-Session", hint)))
            return False
        if answer.port == 0:
            raise InvalidMessage("the server accepted a session on port 0")
        return True

    def _become_active(self, ack: StartAck) -> None:
        """Start-Ack is here. Raises ServerRefused."""
        if ack.accept != Accept.OK:  # rfc4656-s3.7-03
            raise ServerRefused(ack.accept, Accept(ack.accept).words, "Start-Ack")
        self._deadline = None
        self.state = ClientState.ACTIVE

    def _command(self, body: bytes, now: float, name: str = "") -> None:
        self._outbox += self._sealed(name or _NAMES[Command(body[0])], body)
        self._deadline = now + self.config.response_wait_s

    def _sealed(self, name: str, body: bytes) -> bytes:
        """A message, or a part of one, with its HMAC, as it goes out: spoilt where that was asked for."""
        if self.config.impairments is None:
            return self._send.seal(body, with_hmac=True)
        return self.config.impairments.control(
            name, body, lambda octets, wrong: self._send.seal(octets, with_hmac=True, wrong_hmac=wrong)
        )

    def _unsealed(self, name: str, message: bytes) -> bytes:
        """The same of a message that is sent in clear."""
        if self.config.impairments is None:
            return message
        return self.config.impairments.control(name, message, lambda octets, _: octets)

    def _doing(self) -> str:
        """What the connection waits for, for a person."""
        return self.state.value

    def _close(self, error: IppmError | None) -> None:
        sids = self._open_sids()
        self.state = ClientState.CLOSED
        self._deadline = None
        self._inbox.clear()
        self._events.append(ConnectionClosed("closed" if error is None else str(error), error, sids))
        if self._secret is not None:
            self._secret.close()


def _words(offered: Mode) -> str:
    words = [bit.word for bit in Mode if bit & offered.security]
    return ", ".join(words) if words else "no mode that is known here"
