"""What the Servers of OWAMP and TWAMP share of one Control connection, sans-IO: from the Greeting to Server-Start, and
commands read from the protected stream.

The server speaks first: its Greeting offers modes. The Set-Up-Response chooses one; from then on, unless the mode
is open, everything is encrypted. A command is one or more parts, each with an HMAC of its own that is checked before
anything in the part is used.
RFC 4656 section 3, RFC 5357 section 3, RFC 7717 section 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, Protocol, TypeVar

from ippm.core.control_events import ClientRefused, ClientSetUp, ConnectionClosed, Endpoint
from ippm.core.inbox import Inbox
from ippm.core.key_log import ControlKeys, TestKeys
from ippm.core.limits import Terms
from ippm.core.server_policy import ControlServerConfig, bare_address, check_count, check_mode
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
from ippm.iana import KEYED_BITS, NO_FEATURES, SECURITY_BITS, Accept, Mode
from ippm.wire.layout import BLOCK_OCTETS
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse


class ServerState(Enum):
    """Where a Control connection stands, seen by the server."""

    GREETED = "greeted"
    READY = "ready"
    ACTIVE = "active"
    CLOSED = "closed"


Handler = TypeVar("Handler")


@dataclass(frozen=True, slots=True)
class Transition(Generic[Handler]):
    """What a command does in a state."""

    story: str
    handler: Handler
    next_states: tuple[ServerState, ...]


class TimeHooks(Protocol):
    """What every server role asks of its surroundings."""

    def ntp_time(self) -> int:
        """The time of day as a 64-bit NTP timestamp."""
        ...


Event = TypeVar("Event")
ConnectionEvent = ClientSetUp | ClientRefused | ConnectionClosed


class ServerConnection(ABC, Generic[Event]):
    """One Control connection of a Server. Raises nothing on what the peer sends.

    `PROTOCOL` is `owamp` or `twamp`; `SECURITY` are its security modes, `FEATURES` the bits of its other modes,
    `derived_bit` its bit for IKEv2-derived keys.
    RFC 4656 section 3.1, RFC 5357 section 3.1.
    """

    PROTOCOL: ClassVar[str]
    SECURITY: ClassVar[Mode] = SECURITY_BITS
    FEATURES: ClassVar[Mode] = NO_FEATURES
    derived_bit: int = Mode.IKEV2_DERIVED

    def __init__(
        self,
        config: ControlServerConfig,
        provider: KeyProvider,
        hooks: TimeHooks,
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
        self._events: deque[Event | ConnectionEvent] = deque()
        self.terms: Terms | None = None
        self._taken: dict[bytes, int] = {}
        self._secret: ControlSecret | None = None
        self._keys: SessionKeys | None = None
        self._modes = 0
        self._send: SendStream = OpenSender()
        self._receive: ReceiveStream = OpenReceiver()
        self._first_block: bytes | None = None
        self._parts: list[bytes] = []
        self._body = b""
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
            awaited = "Set-Up-Response" if self.state is ServerState.GREETED else "command"
            self._close(f"no {awaited} came in time")  # rfc4656-s3-01, rfc4656-s3-02

    def next_event(self) -> Event | ConnectionEvent | None:
        """The oldest event that was not taken yet, or None. Take them before sending `data_to_send`."""
        return self._events.popleft() if self._events else None

    # What the driver tells.

    @property
    def closed(self) -> bool:
        """True when the connection is to be closed after `data_to_send` has gone out."""
        return self.state is ServerState.CLOSED

    def close(self, reason: str = "the server is closing") -> None:
        """Our side ends the connection."""
        if self.state is not ServerState.CLOSED:
            self._close(reason)

    # What a protocol adds.

    @abstractmethod
    def _part_octets(self, first_block: bytes, parts: list[bytes], body: bytes) -> int:
        """The length of the part that `body` begins, as far as it can be told yet: at least that of `body`.

        When `body` is that long, the part is whole. `parts` are the parts before it. Raises ProtocolError.
        """

    @abstractmethod
    def _part_count(self, first_block: bytes) -> int:
        """How many parts the command has."""

    @abstractmethod
    def _dispatch(self, parts: list[bytes], now: float) -> None:
        """Act on a whole, verified command."""

    @abstractmethod
    def _deny(self, accept: int, reason: str) -> None:
        """Answer a command that is not served."""

    @abstractmethod
    def _open_sids(self) -> tuple[bytes, ...]:
        """The sessions that were not stopped."""

    @abstractmethod
    def _in_use(self) -> bool:
        """True while a Test session needs the secret to be held."""

    # Connection setup.

    def _greet(self) -> None:
        modes = int(self.config.modes & self.SECURITY)  # rfc4656-s3.1-01
        usage = self.config.usage
        if usage is not None and not usage.limits.of_address(self.remote.host).modes & Mode.OPEN:
            modes &= ~int(Mode.OPEN)
        if self._provider.offers_ikev2 and self.config.modes & self.SECURITY & KEYED_BITS:
            modes |= self.derived_bit  # rfc7717-s5.2-01, rfc7717-s5.2-m1, rfc7717-s5.2-m1
        if modes:
            modes |= self.config.features & self.FEATURES
        self._greeting = ServerGreeting(
            modes=modes,
            challenge=self._entropy.octets(16),
            salt=self._entropy.octets(16),  # rfc4656-s3.1-03
            count=check_count(self._provider.count or self.config.count),
        )
        self._outbox += self._unsealed("server-greeting", self._greeting.encode())
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
        chosen = self._mode_of(response.mode)
        if not chosen:
            self._close("the client does not wish to continue")  # rfc4656-s3.1-14
            return
        try:
            if not chosen.keyed:
                self._admit(chosen)
            self.mode = check_mode(chosen, self._mode_of(self._greeting.modes), strict=self.config.strict_modes)
            token_key_index = self._open_secret(response) if self.mode.keyed else None
            self._admit(self.mode)
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
            if self.config.key_log is not None:
                self._modes = response.mode
                entry = ControlKeys(self.PROTOCOL, response.mode, response.client_iv, server_iv, self._keys)
                self.config.key_log.control(entry)
        if self.config.impairments is None:
            self._outbox += self._start_octets(start)
        else:
            self._outbox += self.config.impairments.control(
                "server-start", start, lambda o, _: self._start_octets(o)
            )
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
                limit_class=None if self.terms is None else self.terms.name,
            )
        )

    def _start_octets(self, start: bytes) -> bytes:
        """Server-Start as it goes out: its last block is in the encrypted stream. RFC 4656 section 3.1."""
        clear, rest = start[: ServerStart.CLEAR_OCTETS], start[ServerStart.CLEAR_OCTETS :]
        return clear + self._send.seal(rest, with_hmac=False)

    def _admit(self, mode: Mode) -> None:
        """Find the limit class of the client, as far as it is known. Raises ProtocolError when it excludes the mode.

        RFC 4656 sections 3.1 and 6.5.
        """
        if self.config.usage is None:
            return
        limits, secret = self.config.usage.limits, self._secret
        if secret is None:
            self.terms = limits.of_address(self.remote.host)
        elif secret.ikev2_derived:
            self.terms = limits.of_identity(secret.peer_identity)
        else:
            self.terms = limits.of_user(secret.key_id.rstrip(bytes(1)).decode(errors="replace"), self.remote.host)
        if not mode.security & self.terms.modes:
            words = f"class {self.terms.name}: {mode.security.word} mode is not allowed"
            raise ProtocolError(words, accept=Accept.NOT_SUPPORTED)

    def _mode_of(self, bits: int) -> Mode:
        """What the bits of this protocol's Modes field say; in OWAMP and TWAMP they have not the same places."""
        derived = Mode.IKEV2_DERIVED if bits & self.derived_bit else Mode(0)
        # A server that offers no feature is one of RFC 5357 alone: these bits have no meaning for it.
        known = self.SECURITY | (self.FEATURES if self.config.features else NO_FEATURES)
        return Mode(bits & known) | derived

    def _open_secret(self, response: SetUpResponse) -> int:
        """Find the secret, open the Token; the index of the token key that fits. Raises NoSecret, IntegrityError."""
        derived = bool(self.mode & Mode.IKEV2_DERIVED)
        salt, count = self._greeting.salt, self._greeting.count
        try:
            secret = self._provider.for_server(response.key_id, derived, self.remote.host, self.PROTOCOL)
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
        self._outbox += self._unsealed("server-start", ServerStart(Accept(accept)).encode())  # rfc4656-s3.1-19
        self._events.append(ClientRefused(accept, reason))
        self._close(f"set-up refused: {reason}")

    # Commands.

    def _read_command(self, now: float) -> bool:
        """Read the next block, or more of the command that it began; the HMAC is checked before any use."""
        if self._first_block is None:
            data = self._inbox.take(BLOCK_OCTETS)
            if data is None:
                return False
            self._first_block = self._body = self._receive.decrypt(data)
            self._parts = []
        try:
            length = self._part_octets(self._first_block, self._parts, self._body)
        except ProtocolError as error:
            # Without a length the rest cannot be read: refused, then closed.  rfc5357-s3.5-02
            self._deny(int(error.accept), str(error))
            self._close(str(error), error)
            return False
        wanted = length - len(self._body)
        data = self._inbox.take(wanted or HMAC_OCTETS)
        if data is None:
            return False
        plain = self._receive.decrypt(data)
        if wanted:
            self._body += plain
            return True
        # rfc4656-s3.2-02, rfc4656-s6.10-01, rfc4656-s6.10-02; rfc5938-s3.2-05: so it is with a wrong Number of Sessions
        self._receive.verify(self._body, plain)
        self._parts.append(self._body)
        self._body = b""
        if len(self._parts) == self._part_count(self._first_block):
            parts, self._parts = self._parts, []
            self._first_block = None
            self._command_is_whole(now)
            self._dispatch(parts, now)
        return True

    def _command_is_whole(self, now: float) -> None:
        """SERVWAIT begins anew with each whole command, unless measurements are active."""
        if self.state is not ServerState.ACTIVE:
            self._deadline = now + self.config.servwait_s

    # Helpers.

    def _test_keys(self, sid: bytes) -> SessionKeys | None:
        """Keys of a Test session; none where Test is unauthenticated. RFC 4656 section 4.1.2, RFC 5618."""
        # rfc5618-s1-01, rfc5618-s3.1-01, rfc5618-s3.1-02, rfc5618-s4-01
        if self._keys is None or self._secret is None or self.mode & Mode.MIXED:
            return None
        return self._secret.test_keys(self.PROTOCOL, sid, self._keys) or test_session_keys(self._keys, sid)

    def _log_test_keys(self, sid: bytes, keys: SessionKeys | None, sender: Endpoint, receiver: Endpoint) -> None:
        if keys is not None and self.config.key_log is not None:
            entry = TestKeys(self.PROTOCOL, self._modes, sid, sender, receiver, keys)
            self.config.key_log.test(entry)

    def _check_session_limit(self, sessions: int) -> None:
        """Raises RefuseSession when this connection may not have more than the `sessions` that it has."""
        limit = self.config.sessions_per_connection if self.mode.keyed else self.config.open_sessions_per_connection
        if sessions >= limit:  # rfc4656-s6.5-01
            # rfc4656-s3.3-01
            raise RefuseSession(Accept.TEMPORARY_LIMITATION, f"a connection may have {limit} sessions")

    def _take(self, sid: bytes, bits_per_second: int = 0) -> None:
        """Count a session in the client's limit class. Raises RefuseSession. RFC 4656 section 6.5."""
        if self.config.usage is not None and self.terms is not None:
            self.config.usage.take(self.terms, test_sessions=1, bandwidth=bits_per_second)
            self._taken[sid] = bits_per_second

    def _give_back(self, sid: bytes) -> None:
        """A session is over, or it did not come about."""
        if self.config.usage is not None and self.terms is not None and sid in self._taken:
            self.config.usage.give_back(self.terms, test_sessions=1, bandwidth=self._taken.pop(sid))

    def _new_sid(self) -> bytes:
        """An IPv4 address of ours, a timestamp, a random value. RFC 4656 section 3.5."""
        local = bare_address(self.local.host)
        own = local.packed if local.version == 4 and not local.is_loopback else self.config.sid_address
        # rfc4656-s3.5-12, rfc4656-s3.5-13
        return own + self._hooks.ntp_time().to_bytes(8, "big") + self._entropy.octets(4)

    def _reply(self, name: str, body: bytes) -> None:
        self._outbox += self._sealed(name, body)

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

    def _close(self, reason: str, error: IppmError | None = None) -> None:
        sids = self._open_sids()
        self.state = ServerState.CLOSED
        self._deadline = None
        self._inbox.clear()
        self._events.append(ConnectionClosed(reason, error, sids))
        self._release()

    def _release(self) -> None:
        """Let go of the secret when the connection and its last Test session have ended. RFC 7717 section 5.1."""
        # rfc7717-s5.1-03
        if self.state is ServerState.CLOSED and not self._in_use() and self._secret is not None:
            self._secret.close()
            self._secret = None
