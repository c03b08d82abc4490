"""The TWAMP Control-Client role of one Control connection, sans-IO.

Connection setup is `ippm.core.client_connection`'s. Commands are answered in the order in which they were sent.
RFC 5357 section 3, RFC 4656 section 3.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ippm.core.client_connection import ClientConnection, ClientState, ControlClientConfig
from ippm.core.control_events import ClientEvent, Endpoint, SessionAccepted, Started, TestSession
from ippm.core.server_policy import bare_address
from ippm.crypto import Entropy, KeyProvider
from ippm.errors import LocalProtocolError, UnexpectedMessage
from ippm.iana import Accept
from ippm.timestamps import fixed_point_from_ns
from ippm.wire.accept_session import AcceptSession
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions

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
    RFC 5357 section 3.5.
    """

    sender: Endpoint
    reflector_port: int = 0
    padding_octets: int = 0
    start_time: int = 0
    timeout_ns: int = 2_000_000_000
    dscp: int = 0
    zero_addresses: bool = False


class ControlClient(ClientConnection[ClientEvent]):
    """One Control connection of a TWAMP Control-Client. RFC 5357 section 3."""

    PROTOCOL = "twamp"

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
        self._requests: deque[SessionWish] = deque()
        self._accepted: list[bytes] = []
        self._started: list[bytes] = []
        super().__init__(config, provider, entropy, local=local, remote=remote, now=now)

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

    # Answers to commands.

    def _read_answer(self, now: float) -> bool:
        """The answer to the oldest command that has none yet; False when more octets are needed."""
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

    def _session_answer(self, answer: AcceptSession) -> None:
        wish = self._requests.popleft()
        if not self._requests:
            self._deadline = None
        if not self._is_accepted(answer):
            return
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

    def _start_ack(self, ack: StartAck) -> None:
        self._become_active(ack)
        self._started, self._accepted = self._accepted, []
        self._events.append(Started(tuple(self._started)))

    # Helpers.

    def _doing(self) -> str:
        return "waiting for Accept-Session" if self._requests else self.state.value

    def _open_sids(self) -> tuple[bytes, ...]:
        return tuple(self._accepted + self._started)
