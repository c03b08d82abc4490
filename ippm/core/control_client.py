"""The TWAMP Control-Client role of one Control connection, sans-IO.

Connection setup is `ippm.core.client_connection`'s. Commands are answered in the order in which they were sent.
With Individual Session Control Start-N-Sessions and Stop-N-Sessions take the place of Start-Sessions and
Stop-Sessions, and are acknowledged each, session by session.
RFC 5357 section 3, RFC 4656 section 3, RFC 5938 section 3, RFC 6038 section 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ippm.core.client_connection import ClientConnection, ClientState, ControlClientConfig
from ippm.core.control_events import (
    ClientEvent,
    ControlRefused,
    Endpoint,
    SessionAccepted,
    Started,
    Stopped,
    TestSession,
)
from ippm.core.server_policy import bare_address
from ippm.crypto import HMAC_OCTETS, Entropy, KeyProvider
from ippm.errors import InvalidMessage, LocalProtocolError, ServerRefused, UnexpectedMessage
from ippm.iana import FEATURE_BITS, Accept, Command, Mode
from ippm.timestamps import fixed_point_from_ns
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import BLOCK_OCTETS
from ippm.wire.n_sessions import NSessions
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions
from ippm.wire.test_packet import PacketLayout

__all__ = [
    "ClientState",
    "ControlClient",
    "ControlClientConfig",
    "SessionWish",
]


@dataclass(frozen=True, slots=True)
class SessionWish:
    """What a client asks of a server in a Request-TW-Session.

    `sender` is where test packets come from; `reflector_port` is a wish (0: any). `start_time` is an NTP timestamp,
    zero for at once. `zero_addresses` leaves the addresses to the Control connection, for a client behind a NAT.
    With Reflect Octets `reflected_octets` of the padding are to come back in test packets, and the two octets of
    `octets_to_be_reflected` in Accept-Session. RFC 5357 section 3.5, RFC 6038 section 4.2.
    """

    sender: Endpoint
    reflector_port: int = 0
    padding_octets: int = 0
    start_time: int = 0
    timeout_ns: int = 2_000_000_000
    dscp: int = 0
    zero_addresses: bool = False
    reflected_octets: int = 0
    octets_to_be_reflected: int = 0


@dataclass(slots=True)
class _AwaitedAcks:
    """The acknowledgements of a Start-N-Sessions or Stop-N-Sessions: which are to come, and of what."""

    command: Command
    sids: set[bytes]


_ACKS = {Command.START_N_SESSIONS: Command.START_N_ACK, Command.STOP_N_SESSIONS: Command.STOP_N_ACK}


class ControlClient(ClientConnection[ClientEvent]):
    """One Control connection of a TWAMP Control-Client. RFC 5357 section 3."""

    PROTOCOL = "twamp"
    FEATURES = FEATURE_BITS

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
        self._awaited: deque[SessionWish | _AwaitedAcks] = deque()
        self._first_block: bytes | None = None
        self._accepted: list[bytes] = []
        self._started: list[bytes] = []
        super().__init__(config, provider, entropy, local=local, remote=remote, now=now)

    @property
    def individual(self) -> bool:
        """True with Individual Session Control. RFC 5938 section 3.1."""
        return bool(self.mode & Mode.INDIVIDUAL_SESSION_CONTROL)

    @property
    def awaited_sids(self) -> frozenset[bytes]:
        """The sessions whose Start-N-Ack or Stop-N-Ack has not come yet."""
        return frozenset(sid for one in self._awaited if isinstance(one, _AwaitedAcks) for sid in one.sids)

    # What our user asks for.

    def request_session(self, wish: SessionWish, now: float) -> None:
        """Ask for a test session; the answer is SessionAccepted or SessionRejected. Raises LocalProtocolError.

        RFC 5357 section 3.5.
        """
        self._expect_commands()
        self._check_wish(wish)
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
            octets_to_be_reflected=wish.octets_to_be_reflected,
            length_of_padding_to_reflect=wish.reflected_octets,
        )
        self._awaited.append(wish)
        self._command(request.encode(), now)

    def _check_wish(self, wish: SessionWish) -> None:
        """Raises LocalProtocolError for what no server could accept. RFC 5357 section 3.5, RFC 6038 section 4.2."""
        if not 0 < wish.sender.port < 65536 or not 0 <= wish.reflector_port < 65536:
            raise LocalProtocolError("a port is out of range")
        if not 0 <= wish.dscp < 64:
            raise LocalProtocolError(f"a DSCP has six bits, {wish.dscp} has not")
        reflected = wish.reflected_octets
        if not self.mode & Mode.REFLECT_OCTETS:
            if reflected or wish.octets_to_be_reflected:
                raise LocalProtocolError("octets come back only with the feature reflect-octets")
            return
        if not 0 <= reflected <= 0xFFFF or not 0 <= wish.octets_to_be_reflected <= 0xFFFF:
            raise LocalProtocolError("what is to be reflected, and its length, are two octets each")
        layout = PacketLayout.of(self.mode, reflected, self.config.tw_auth_pad)
        # rfc6038-s4.2-07, rfc6038-s4.2-08, rfc6038-s4.2-09, rfc6038-s5.1.3-04, rfc6038-s5.1.3-05
        least = max(layout.least_padding_octets, reflected + 1)
        if wish.padding_octets < least:
            raise LocalProtocolError(
                f"padding of {wish.padding_octets} octets: to reflect {reflected} of it takes at least {least}"
            )

    def start_sessions(self, now: float, sids: Iterable[bytes] | None = None) -> None:
        """Start what was accepted; the answer is Started. Raises LocalProtocolError.

        With Individual Session Control only `sids` when they are given, and the answer may be ControlRefused, or one of
        each. RFC 4656 section 3.7, RFC 5938 section 3.2.
        """
        self._expect_commands()
        if self.individual:  # rfc5938-s2-01, rfc5938-s2-02
            self._about_sessions(Command.START_N_SESSIONS, self._accepted, sids, now)
            return
        if self._awaited or not self._accepted:
            raise LocalProtocolError("no session was accepted yet" if not self._awaited else "a request is open")
        if sids is not None and set(sids) != set(self._accepted):
            raise LocalProtocolError("single sessions start only with the feature session-control")
        self.state = ClientState.STARTING
        self._command(StartSessions().encode(), now)

    def stop_sessions(self, now: float, accept: Accept = Accept.OK, sids: Iterable[bytes] | None = None) -> None:
        """Stop what runs. Raises LocalProtocolError.

        There is no answer, but with Individual Session Control: Stopped or ControlRefused, and then only `sids` are
        stopped when they are given. RFC 5357 section 3.8, RFC 5938 section 3.4.
        """
        self._expect(ClientState.ACTIVE)
        if self.individual:
            self._about_sessions(Command.STOP_N_SESSIONS, self._started, sids, now)
            return
        if sids is not None and set(sids) != set(self._started):
            raise LocalProtocolError("single sessions stop only with the feature session-control")
        # rfc5357-s3.8-03, rfc5357-s3.8-04
        stop = StopSessions(number_of_sessions=len(self._started), accept=accept)
        self._outbox += self._sealed("stop-sessions", stop.encode())
        self._started = []
        self.state = ClientState.READY

    def _about_sessions(
        self, command: Command, known: list[bytes], sids: Iterable[bytes] | None, now: float
    ) -> None:
        wanted = tuple(known if sids is None else dict.fromkeys(sids))
        asked = self.awaited_sids
        wanted = tuple(sid for sid in wanted if sids is not None or sid not in asked)
        if not wanted or not set(wanted) <= set(known) - asked:
            raise LocalProtocolError(f"{command}: no session, or one that is not there for it")
        self._awaited.append(_AwaitedAcks(_ACKS[command], set(wanted)))
        # rfc5938-s3.1-03, rfc5938-s3.2-01, rfc5938-s3.4-02
        self._command(NSessions(command, wanted).encode(), now)

    # Answers to commands.

    def _read_answer(self, now: float) -> bool:
        """The answer to the oldest command that has none yet; False when more octets are needed."""
        awaited = self._awaited[0] if self._awaited else None
        if isinstance(awaited, SessionWish):
            body = self._read(AcceptSession.OCTETS)
            if body is not None:
                self._session_answer(AcceptSession.parse(body), awaited)
        elif awaited is not None:
            return self._read_acks(awaited)
        elif self.state is ClientState.STARTING:
            body = self._read(StartAck.OCTETS)
            if body is not None:
                self._start_ack(StartAck.parse(body))
        elif len(self._inbox):
            raise UnexpectedMessage("the server sent something that nobody asked for")
        else:
            return False
        return body is not None

    def _answered(self) -> None:
        self._awaited.popleft()
        if not self._awaited:
            self._deadline = None

    def _session_answer(self, answer: AcceptSession, wish: SessionWish) -> None:
        self._answered()
        if not self._is_accepted(answer):
            return
        reflects = bool(self.mode & Mode.REFLECT_OCTETS)
        if reflects and answer.reflected_octets != wish.octets_to_be_reflected:
            raise InvalidMessage("the server does not reflect the octets of the request in Accept-Session")
        if answer.sid in self._accepted or answer.sid in self._started:
            raise InvalidMessage("the server gave two sessions one SID")
        self._accepted.append(answer.sid)
        session = TestSession(
            sid=answer.sid,
            mode=self.mode,
            keys=self._test_keys(answer.sid),
            sender=wish.sender,
            reflector=Endpoint(self.remote.host, answer.port),
            padding_octets=wish.padding_octets,
            start_time=wish.start_time,
            timeout_ns=wish.timeout_ns,
            dscp=wish.dscp,
            reflected_octets=wish.reflected_octets,
            server_octets=answer.server_octets if reflects else 0,  # rfc6038-s1-02
        )
        self._log_test_keys(session.sid, session.keys, session.sender, session.reflector)
        self._events.append(SessionAccepted(session))

    def _start_ack(self, ack: StartAck) -> None:
        self._become_active(ack)
        self._started, self._accepted = self._accepted, []
        self._events.append(Started(tuple(self._started)))

    def _read_acks(self, awaited: _AwaitedAcks) -> bool:
        """A Start-N-Ack or Stop-N-Ack, in two steps: its length is in its first block. RFC 5938 section 3.3."""
        if self._first_block is None:
            data = self._inbox.take(BLOCK_OCTETS)
            if data is None:
                return False
            self._first_block = self._receive.decrypt(data)
        octets = NSessions.octets(self._first_block)
        data = self._inbox.take(octets - BLOCK_OCTETS + HMAC_OCTETS)
        if data is None:
            return False
        plain = self._receive.decrypt(data)
        body, self._first_block = self._first_block + plain[:-HMAC_OCTETS], None
        self._receive.verify(body, plain[-HMAC_OCTETS:])  # rfc5938-s1-03
        ack = NSessions.parse(body)
        if ack.command != awaited.command:
            raise UnexpectedMessage(f"the server sent {ack.command} where {awaited.command} is due")
        if not ack.sids or len(set(ack.sids)) != len(ack.sids) or not set(ack.sids) <= awaited.sids:
            raise InvalidMessage(f"{ack.command} is not about the sessions of the command")
        awaited.sids.difference_update(ack.sids)
        if not awaited.sids:
            self._answered()
        self._take_ack(ack)
        return True

    def _take_ack(self, ack: NSessions) -> None:
        starts = ack.command == Command.START_N_ACK
        if ack.accept != Accept.OK:
            refused = ServerRefused(ack.accept, Accept(ack.accept).words, "Start-N-Ack" if starts else "Stop-N-Ack")
            self._events.append(ControlRefused(ack.sids, refused))
            return
        if starts:
            self._accepted = [sid for sid in self._accepted if sid not in ack.sids]
            self._started += ack.sids  # rfc5938-s4.1-01
        else:
            self._started = [sid for sid in self._started if sid not in ack.sids]
        self.state = ClientState.ACTIVE if self._started else ClientState.READY
        self._events.append(Started(ack.sids) if starts else Stopped(ack.sids))

    # Helpers.

    def _expect_commands(self) -> None:
        """Raises LocalProtocolError unless this is a time for commands other than Stop-Sessions."""
        if not (self.individual and self.state is ClientState.ACTIVE):
            self._expect(ClientState.READY)

    def _doing(self) -> str:
        awaited = self._awaited[0] if self._awaited else None
        if isinstance(awaited, SessionWish):
            return "waiting for Accept-Session"
        return self.state.value if awaited is None else f"waiting for {awaited.command}"

    def _open_sids(self) -> tuple[bytes, ...]:
        return tuple(self._accepted + self._started)
