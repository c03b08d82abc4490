"""The OWAMP Server role of one Control connection, sans-IO.

Connection setup is `ippm.core.server_connection`'s. Stop-Sessions goes both ways: each side says what the sessions
that it sends have sent. Ours goes out when all sessions are complete, or when the client's has come and our senders
have ended; measurements are over when both have been exchanged. The records of a session go out some at a time, as
`data_to_send` is asked, so that a client that reads slowly costs no memory.

    client                          server
      Request-Session ->              |
      <- Accept-Session               |  READY
      Start-Sessions ->               |
      <- Start-Ack                    |  ACTIVE
      Stop-Sessions ->                |
      <- Stop-Sessions                |  READY (in either order)
      Fetch-Session ->                |
      <- Fetch-Ack, session data      |  READY

RFC 4656 section 3, RFC 7717 section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ippm.core.control_events import Endpoint, SessionDenied, SessionsStarted
from ippm.core.owamp_events import (
    SECURITY,
    AllStopped,
    OwampServerEvent,
    OwampServerHooks,
    OwampSession,
    OwampSessionOpened,
    Owner,
    SessionDelivered,
    SessionFetched,
    StopReceived,
    StoredSession,
)
from ippm.core.owamp_policy import OwampServerConfig, check_owamp_request, endpoints, mean_bits_per_second
from ippm.core.server_connection import ServerConnection, ServerState, Transition
from ippm.crypto import Entropy, KeyProvider
from ippm.errors import InvalidMessage, ProtocolError, RefuseSession
from ippm.iana import Accept, Command
from ippm.wire.accept_session import AcceptSession
from ippm.wire.fetch_session import FetchAck, FetchSession
from ippm.wire.packet_record import RECORD_OCTETS
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import pack_skip_ranges, padded
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_descriptions import SessionDescription, StopSessionsWithDescriptions

_CHUNK = 16 * RECORD_OCTETS * 64
"""Octets of records that are sealed at once: a whole number of blocks and of records."""


class OwampServer(ServerConnection[OwampServerEvent]):
    """One Control connection of an OWAMP Server. Raises nothing on what the peer sends. RFC 4656 section 3."""

    PROTOCOL = "owamp"
    SECURITY = SECURITY

    def __init__(
        self,
        config: OwampServerConfig,
        provider: KeyProvider,
        hooks: OwampServerHooks,
        entropy: Entropy,
        *,
        local: Endpoint,
        remote: Endpoint,
        now: float,
    ) -> None:
        self.derived_bit = config.ikev2_bit
        self.limits = config
        self._opener = hooks
        self._sessions: set[bytes] = set()
        self._requested: dict[bytes, OwampSession] = {}
        self._started: dict[bytes, OwampSession] = {}
        self._complete: dict[bytes, SessionDescription | None] = {}
        self._stop_sent = False
        self._stop_received = False
        self._source: Iterator[bytes] | None = None
        self._stored: StoredSession | None = None
        self._delivering: bytes | None = None
        self._delivered = False
        self._parked: FetchSession | None = None
        self._now = now
        super().__init__(config, provider, hooks, entropy, local=local, remote=remote, now=now)

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the client; acts on every whole message among them."""
        self._now = now
        super().receive_data(data, now)

    def data_to_send(self) -> bytes:
        """What is to go to the client now; empty when there is nothing. Ask again until it is."""
        while True:
            data = super().data_to_send()
            if data or self._source is None:
                return data
            chunk = next((part for part in self._source if part), b"")
            if chunk:
                return chunk
            self._end_source()
            super().receive_data(b"", self._now)  # a command that has waited, maybe a Fetch-Session again

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, or None; at once when records have gone out, however long that took."""
        return self._now if self._delivered and not self.closed else super().next_timer()

    def handle_timer(self, now: float) -> None:
        """SERVWAIT begins anew when records have gone out, and does not run while they do. RFC 4656 section 3.1."""
        if self._delivered:
            self._delivered = False
            if self._deadline is not None:
                self._deadline = now + self.config.servwait_s
        elif self._source is None:
            super().handle_timer(now)

    @property
    def owner(self) -> Owner:
        """Whose connection it is: what it may fetch is what it has made."""
        if self._secret is None or not self.mode.keyed:
            return Owner(None, self.mode.security)
        identity = self._secret.peer_identity
        user = f"ike:{identity}" if identity else self._secret.key_id.rstrip(bytes(1)).hex()
        return Owner(user, self.mode.security)

    # What the driver tells.

    def session_complete(self, sid: bytes, description: SessionDescription | None, now: float) -> None:
        """A session that runs is complete here: one that we send with its description, one that we receive with None.

        When all are, Stop-Sessions goes out. RFC 4656 section 3.8.
        """
        session = self._started.get(sid)
        if session is None or self.closed or self._stop_sent:
            return
        self._complete[sid] = description
        if len(self._complete) < len(self._started):  # rfc4656-s3.8-11, rfc4656-s3.8-12
            return
        # rfc4656-s3.8-04, rfc4656-s3.8-06
        descriptions = tuple(made for made in self._complete.values() if made is not None)
        self._reply("stop-sessions", StopSessionsWithDescriptions(descriptions).encode())
        self._stop_sent = True
        self._deadline = now + self.config.servwait_s
        self._end_measurements(now)

    def session_ended(self, sid: bytes) -> None:
        """A test session needs no keys any more. The last one of a closed connection frees the secret."""
        self._sessions.discard(sid)
        self._give_back(sid)
        if self._parked is not None and self._parked.sid == sid and not self.closed:
            fetch, self._parked = self._parked, None
            self._answer_fetch(fetch)
            super().receive_data(b"", self._now)
        self._release()

    # Commands.

    def _step(self, now: float) -> bool:
        # While records go out, or are about to, the next command waits.
        return self._source is None and self._parked is None and super()._step(now)

    def _part_octets(self, first_block: bytes, parts: list[bytes], body: bytes) -> int:
        command = first_block[0]
        if command == Command.REQUEST_SESSION:
            slots = RequestSession.slots_octets(first_block)
            return slots if parts else RequestSession.OCTETS
        if command == Command.START_SESSIONS:
            return StartSessions.OCTETS
        if command == Command.STOP_SESSIONS:
            received = [session for session in self._started.values() if not session.server_sends]
            ranges = sum(session.request.number_of_packets // 2 + 1 for session in received)
            ranges = min(ranges, self.limits.maximum_skip_ranges)
            return StopSessionsWithDescriptions.octets(body, len(received), ranges)
        if command == Command.FETCH_SESSION:
            return FetchSession.OCTETS
        raise InvalidMessage(f"Command Number {command} has no length known here")

    def _part_count(self, first_block: bytes) -> int:
        return 2 if first_block[0] == Command.REQUEST_SESSION else 1

    def _dispatch(self, parts: list[bytes], now: float) -> None:
        command = Command(parts[0][0])
        transition = TRANSITIONS.get((self.state, command))
        if transition is None:
            self._deny_command(command, Accept.NOT_SUPPORTED, f"{command} is not expected when {self.state.value}")
            return
        transition.handler(self, parts, now)

    def _request_session(self, parts: list[bytes], now: float) -> None:
        # To each an Accept-Session.  rfc4656-s3.5-01, rfc4656-s3.5-10, rfc4656-s3.5-11
        try:
            session = self._open_session(RequestSession.parse(parts[0], parts[1]))
        except (RefuseSession, ProtocolError) as error:
            self._deny(int(error.accept), error.reason if isinstance(error, RefuseSession) else str(error))
            return
        except Exception as error:
            self._deny(Accept.INTERNAL_ERROR, f"the session could not be opened: {error}")
            return
        self._log_test_keys(session.sid, session.keys, session.sender, session.receiver)
        self._sessions.add(session.sid)
        self._requested[session.sid] = session
        port = session.sender.port if session.server_sends else session.receiver.port
        sid = bytes(16) if session.server_sends else session.sid
        self._reply("accept-session", AcceptSession(Accept.OK, port, sid).encode())
        self._events.append(OwampSessionOpened(session, self.owner))

    def _open_session(self, request: RequestSession) -> OwampSession:
        now_ntp = self._opener.ntp_time()
        check_owamp_request(request, self.limits, self.mode, local=self.local, remote=self.remote, now_ntp=now_ntp)
        self._check_session_limit(len(self._sessions))
        # The SID is the receiver's: ours, unless the client receives.
        sid = request.sid if request.conf_sender else self._new_sid()
        if sid in self._sessions:
            raise RefuseSession(Accept.NOT_SUPPORTED, "the SID is that of another session")
        sender, receiver = endpoints(request, self.local, self.remote)
        if request.conf_sender:  # the port of what the server configures is the server's choice: rfc4656-s3.5-06
            sender = Endpoint(sender.host, 0)
        else:
            receiver = Endpoint(receiver.host, 0)
        wished = OwampSession(
            sid,
            self.mode,
            self._test_keys(sid),
            replace(request, sid=sid),
            sender,
            receiver,
            None if self.terms is None else self.terms.name,
        )
        self._take(sid, round(mean_bits_per_second(request, self.mode)))
        try:
            port = self._opener.open_owamp_session(wished, self.owner)
        except BaseException:
            self._give_back(sid)
            raise
        return with_port(wished, port)

    def _start_sessions(self, parts: list[bytes], now: float) -> None:
        if not self._requested:
            self._reply("start-ack", StartAck(Accept.FAILURE).encode())
            return
        self._started, self._requested = self._requested, {}
        self._complete = {}
        self._stop_sent = self._stop_received = False
        self.state = ServerState.ACTIVE
        self._deadline = None
        self._events.append(SessionsStarted(tuple(self._started)))
        self._reply("start-ack", StartAck(Accept.OK).encode())  # rfc4656-s3.7-01

    def _stop_sessions(self, parts: list[bytes], now: float) -> None:
        stop = StopSessionsWithDescriptions.parse(parts[0])
        expected = {sid for sid, session in self._started.items() if not session.server_sends}
        described = {description.sid: description for description in stop.descriptions}
        if set(described) != expected or len(described) != len(stop.descriptions):  # rfc4656-s3.8-07
            raise InvalidMessage("Stop-Sessions does not describe exactly the sessions that the client sends")
        if self._stop_received:
            raise InvalidMessage("a second Stop-Sessions")
        if self.state is not ServerState.ACTIVE:
            return
        self._stop_received = True
        self._events.append(StopReceived(int(stop.accept), tuple(self._started), described))
        self._end_measurements(now)

    def _end_measurements(self, now: float) -> None:
        """Ready for other commands once Stop-Sessions has gone both ways. RFC 4656 section 3.4."""
        if self._stop_sent and self._stop_received:
            self._events.append(AllStopped(tuple(self._started)))
            self._started = {}
            self._stop_received = False
            self.state = ServerState.READY
            self._deadline = now + self.config.servwait_s

    def _fetch_session(self, parts: list[bytes], now: float) -> None:
        fetch = FetchSession.parse(parts[0])
        if fetch.sid in self._sessions and fetch.sid not in self._requested:
            self._parked = fetch  # it has been stopped, and its last records are being written
        else:
            self._answer_fetch(fetch)

    def _answer_fetch(self, fetch: FetchSession) -> None:
        try:
            stored = self._open_stored(fetch)
        except RefuseSession as error:
            self._deny_command(Command.FETCH_SESSION, error.accept, error.reason)
            return
        except Exception as error:
            self._deny_command(Command.FETCH_SESSION, Accept.INTERNAL_ERROR, f"the session cannot be read: {error}")
            return
        self._stored = stored
        self._delivering = fetch.sid if fetch.complete and stored.finished else None
        records = stored.count(fetch.begin, fetch.end)
        self._events.append(SessionFetched(fetch.sid, records))
        self._source = self._session_data(stored, fetch, records)  # rfc4656-s3.9-03, rfc4656-s3.9-08

    def _open_stored(self, fetch: FetchSession) -> StoredSession:
        if fetch.begin > fetch.end:
            raise RefuseSession(Accept.NOT_SUPPORTED, f"there is no packet from {fetch.begin} to {fetch.end}")
        stored = self._opener.fetch(fetch.sid, self.owner)
        if fetch.complete and stored.finished != 1:  # rfc4656-s3.9-01
            stored.close()
            words = "is in progress" if not stored.finished else "did not end normally"
            raise RefuseSession(Accept.FAILURE, f"the session {words}: it cannot be had complete")
        return stored

    def _session_data(self, stored: StoredSession, fetch: FetchSession, records: int) -> Iterator[bytes]:
        """The answer to Fetch-Session, sealed, some at a time. RFC 4656 section 3.9."""
        seal = self._send.seal
        ranges = stored.skip_ranges if stored.finished else ()
        ack = FetchAck(Accept.OK, stored.finished, stored.next_seqno, len(ranges), records)
        yield self._sealed("fetch-ack", ack.encode())
        head, slots = stored.request.encode()
        yield self._sealed("request-session", head)
        yield self._sealed("schedule-slots", slots)
        yield self._sealed("skip-ranges", padded(pack_skip_ranges(ranges)))
        rest = b""
        for some in stored.records(fetch.begin, fetch.end):  # rfc4656-s3.9-02
            rest += some
            whole = len(rest) - len(rest) % _CHUNK
            for at in range(0, whole, _CHUNK):
                yield seal(rest[at : at + _CHUNK], with_hmac=False)
            rest = rest[whole:]
        yield self._sealed("packet-records", padded(rest))

    def _end_source(self) -> None:
        self._source = None
        self._delivered = True
        if self._stored is not None:
            self._stored.close()
            self._stored = None
        if self._delivering is not None:
            self._events.append(SessionDelivered(self._delivering))
            self._delivering = None

    # Helpers.

    def _deny(self, accept: int, reason: str) -> None:
        first = self._first_block
        self._deny_command(Command.REQUEST_SESSION if first is None else Command(first[0]), accept, reason)

    def _deny_command(self, command: Command, accept: int, reason: str) -> None:
        """The answer that belongs to the command, with this Accept; nothing answers Stop-Sessions."""
        if command == Command.FETCH_SESSION:
            self._reply("fetch-ack", FetchAck(Accept(accept)).encode())  # rfc4656-s3.9-03
        elif command == Command.START_SESSIONS:
            self._reply("start-ack", StartAck(Accept(accept)).encode())
        elif command != Command.STOP_SESSIONS:
            self._reply("accept-session", AcceptSession(Accept(accept)).encode())
        self._events.append(SessionDenied(accept, reason))

    def _open_sids(self) -> tuple[bytes, ...]:
        return (*self._requested, *self._started)

    def _in_use(self) -> bool:
        return bool(self._sessions)


def with_port(session: OwampSession, port: int) -> OwampSession:
    """The session with the port that the server opened, and the request with both ports that are used."""
    sender, receiver = session.sender, session.receiver
    if session.server_sends:
        sender = Endpoint(sender.host, port)
    else:
        receiver = Endpoint(receiver.host, port)
    request = replace(session.request, sender_port=sender.port, receiver_port=receiver.port)
    return replace(session, request=request, sender=sender, receiver=receiver)


TRANSITIONS: dict[tuple[ServerState, Command], Transition[Callable[[OwampServer, list[bytes], float], None]]] = {
    (ServerState.READY, Command.REQUEST_SESSION): Transition(
        "the client asks for a session and gets a port, or a refusal",
        OwampServer._request_session,
        (ServerState.READY,),
    ),
    (ServerState.READY, Command.START_SESSIONS): Transition(
        "what was accepted starts; with nothing accepted it is refused",
        OwampServer._start_sessions,
        (ServerState.ACTIVE, ServerState.READY),
    ),
    (ServerState.READY, Command.STOP_SESSIONS): Transition(
        "nothing is in progress: right when it describes no session",
        OwampServer._stop_sessions,
        (ServerState.READY, ServerState.CLOSED),
    ),
    (ServerState.READY, Command.FETCH_SESSION): Transition(
        "the client gets the records of a session of its own, or a refusal",
        OwampServer._fetch_session,
        (ServerState.READY,),
    ),
    (ServerState.ACTIVE, Command.STOP_SESSIONS): Transition(
        "the client's sessions have ended; ready when ours have, too",
        OwampServer._stop_sessions,
        (ServerState.ACTIVE, ServerState.READY, ServerState.CLOSED),
    ),
}
"""Everything else is refused with Accept 3 in the answer that the command has. RFC 4656 section 3.4."""

__all__ = ["TRANSITIONS", "OwampServer", "ServerState", "Transition", "with_port"]
