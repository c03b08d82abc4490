"""The OWAMP Control-Client role of one Control connection, sans-IO.

Connection setup is `ippm.core.client_connection`'s. Between Start-Ack and the server's Stop-Sessions the server says
nothing else; measurements are over when Stop-Sessions has gone both ways. RFC 4656 section 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ippm.core.client_connection import ClientConnection, ClientState, ControlClientConfig
from ippm.core.control_events import Endpoint, Started
from ippm.core.fetched_session import FetchedSession
from ippm.core.owamp_events import (
    SECURITY,
    AllStopped,
    Fetched,
    FetchRefused,
    OwampClientEvent,
    OwampSession,
    OwampSessionAccepted,
    StopReceived,
)
from ippm.core.server_policy import bare_address
from ippm.crypto import HMAC_OCTETS, Entropy, KeyProvider
from ippm.errors import ConfigurationError, InvalidMessage, LocalProtocolError, ServerRefused, UnexpectedMessage
from ippm.iana import OWAMP_IKEV2_DERIVED, Accept
from ippm.timestamps import fixed_point_from_ns
from ippm.wire.accept_session import AcceptSession
from ippm.wire.fetch_session import LAST_SEQNO, FetchAck, FetchSession
from ippm.wire.layout import BLOCK_OCTETS
from ippm.wire.packet_record import RECORD_OCTETS, records_octets
from ippm.wire.request_session import RequestSession
from ippm.wire.schedule_slot import Slot
from ippm.wire.skip_ranges import SKIP_RANGE
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_descriptions import SessionDescription, StopSessionsWithDescriptions

MAXIMUM_RECORDS = 8_000_000
"""More records than this in an answer to Fetch-Session are not taken: 200 MB."""


@dataclass(frozen=True, slots=True)
class OwampWish:
    """What a client asks of a server in a Request-Session.

    `here` is our end of the test packets, with its port. `server_sends`: packets come to us, and `sid` is the SID,
    which the receiver makes; else they go to the server. `start_time` is an NTP timestamp. RFC 4656 section 3.5.
    """

    here: Endpoint
    server_sends: bool
    count: int
    slots: tuple[Slot, ...]
    start_time: int
    sid: bytes = bytes(16)
    padding_octets: int = 0
    timeout_ns: int = 2_000_000_000
    dscp: int = 0


class OwampClient(ClientConnection[OwampClientEvent]):
    """One Control connection of an OWAMP Control-Client. RFC 4656 section 3."""

    PROTOCOL = "owamp"
    SECURITY = SECURITY

    def __init__(
        self,
        config: ControlClientConfig,
        provider: KeyProvider,
        entropy: Entropy,
        *,
        local: Endpoint,
        remote: Endpoint,
        now: float,
        ikev2_bit: int = OWAMP_IKEV2_DERIVED,
    ) -> None:
        if config.mode & ~SECURITY:
            raise ConfigurationError("OWAMP has no mixed mode: open, authenticated, encrypted")
        self.derived_bit = ikev2_bit
        self._requests: deque[RequestSession] = deque()
        self._fetches: deque[FetchSession] = deque()
        self._accepted: dict[bytes, OwampSession] = {}
        self._started: dict[bytes, OwampSession] = {}
        self._stop_sent = False
        self._stop_received = False
        self._body = b""
        self._parts: list[bytes] = []
        self._records = bytearray()
        super().__init__(config, provider, entropy, local=local, remote=remote, now=now)

    # What our user asks for.

    def request_session(self, wish: OwampWish, now: float) -> None:
        """Ask for a test session; the answer is OwampSessionAccepted or SessionRejected. Raises LocalProtocolError.

        RFC 4656 section 3.5.
        """
        self._expect(ClientState.READY)
        if not 0 < wish.here.port < 65536 or not 0 <= wish.dscp < 64 or not wish.slots:
            raise LocalProtocolError("a port from 1 to 65535, a DSCP of six bits and a schedule slot are needed")
        here, there = bare_address(wish.here.host), bare_address(self.remote.host)
        sends = wish.server_sends
        request = RequestSession(
            conf_sender=sends,
            conf_receiver=not sends,
            number_of_packets=wish.count,
            slots=wish.slots,
            sender_port=0 if sends else wish.here.port,
            receiver_port=wish.here.port if sends else 0,
            sender_address=there if sends else here,
            receiver_address=here if sends else there,
            sid=wish.sid,
            padding_length=wish.padding_octets,
            start_time=wish.start_time,
            timeout=fixed_point_from_ns(wish.timeout_ns),
            type_p=wish.dscp << 24,
            ipvn=there.version,
        )
        self._requests.append(request)
        head, slots = request.encode()
        self._outbox += self._sealed("request-session", head)
        self._command(slots, now, "schedule-slots")

    def start_sessions(self, now: float) -> None:
        """Start what was accepted; Start-Ack is the Started event. Raises LocalProtocolError. RFC 4656 section 3.7."""
        self._expect(ClientState.READY)
        if self._requests or self._fetches or not self._accepted:
            raise LocalProtocolError("no session was accepted yet" if not self._requests else "a request is open")
        self.state = ClientState.STARTING
        self._command(StartSessions().encode(), now)

    def stop_sessions(
        self, descriptions: Iterable[SessionDescription], now: float, accept: Accept = Accept.OK
    ) -> None:
        """Say what was sent in each session that we send, which must have ended. Raises LocalProtocolError.

        RFC 4656 section 3.8.
        """
        self._expect(ClientState.ACTIVE)
        made = tuple(descriptions)
        ours = {sid for sid, session in self._started.items() if not session.server_sends}
        # rfc4656-s3.8-04, rfc4656-s3.8-05, rfc4656-s3.8-12
        if self._stop_sent or {d.sid for d in made} != ours or len(made) != len(ours):
            raise LocalProtocolError("Stop-Sessions is sent once, and describes exactly the sessions that we send")
        self._stop_sent = True
        self._command(StopSessionsWithDescriptions(made, accept).encode(), now)
        self._end_measurements()

    def fetch_session(self, sid: bytes, now: float, begin: int = 0, end: int = LAST_SEQNO) -> None:
        """Ask for the data of a session; the answer is Fetched or FetchRefused. Raises LocalProtocolError.

        RFC 4656 section 3.9.
        """
        self._expect(ClientState.READY)
        if self._requests:
            raise LocalProtocolError("a request is open")
        fetch = FetchSession(sid, begin, end)
        self._fetches.append(fetch)
        self._command(fetch.encode(), now)

    # Answers to commands.

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets from the server; acts on every whole message among them. A long answer may take its time."""
        if self._fetches and self._deadline is not None:
            self._deadline = now + self.config.response_wait_s
        super().receive_data(data, now)

    def _read_answer(self, now: float) -> bool:
        if self._requests:
            body = self._read(AcceptSession.OCTETS)
            if body is not None:
                self._session_answer(AcceptSession.parse(body))
        elif self._fetches:
            return self._read_fetch()
        elif self.state is ClientState.STARTING:
            body = self._read(StartAck.OCTETS)
            if body is not None:
                self._start_ack(StartAck.parse(body))
        elif self.state is ClientState.ACTIVE and not self._stop_received:
            return self._read_stop()
        elif len(self._inbox):
            raise UnexpectedMessage("the server sent something that nobody asked for")
        else:
            return False
        return body is not None

    def _session_answer(self, answer: AcceptSession) -> None:
        request = self._requests.popleft()
        if not self._requests:
            self._deadline = None
        if not self._is_accepted(answer):
            return
        if request.conf_sender:
            request = replace(request, sender_port=answer.port)
        else:
            request = replace(request, receiver_port=answer.port, sid=answer.sid)
        here, there = self.local.host, self.remote.host
        session = OwampSession(
            sid=request.sid,
            mode=self.mode,
            keys=self._test_keys(request.sid),
            request=request,
            sender=Endpoint(there if request.conf_sender else here, request.sender_port),
            receiver=Endpoint(here if request.conf_sender else there, request.receiver_port),
        )
        if session.sid in self._accepted:
            raise InvalidMessage("the server gave two sessions one SID")
        self._accepted[session.sid] = session
        self._log_test_keys(session.sid, session.keys, session.sender, session.receiver)
        self._events.append(OwampSessionAccepted(session))

    def _start_ack(self, ack: StartAck) -> None:
        self._become_active(ack)
        self._started, self._accepted = self._accepted, {}
        self._stop_sent = self._stop_received = False
        self._events.append(Started(tuple(self._started)))

    def _read_stop(self) -> bool:
        """The server's Stop-Sessions, a part at a time: its length is in it."""
        sent = {sid: session for sid, session in self._started.items() if session.server_sends}
        if len(self._body) < 16:
            wanted = 16
        else:
            if self._body[0] != StopSessionsWithDescriptions.COMMAND:
                raise UnexpectedMessage("the server sent something that nobody asked for")
            ranges = sum(session.request.number_of_packets // 2 + 1 for session in sent.values())
            wanted = StopSessionsWithDescriptions.octets(self._body, len(sent), ranges) - len(self._body)
        data = self._inbox.take(wanted or HMAC_OCTETS)
        if data is None:
            return False
        plain = self._receive.decrypt(data)
        if wanted:
            self._body += plain
            return True
        self._receive.verify(self._body, plain)
        body, self._body = self._body, b""
        stop = StopSessionsWithDescriptions.parse(body)
        described = {description.sid: description for description in stop.descriptions}
        if set(described) != set(sent) or len(described) != len(stop.descriptions):  # rfc4656-s3.8-07
            raise InvalidMessage("Stop-Sessions does not describe exactly the sessions that the server sends")
        self._stop_received = True
        self._events.append(StopReceived(int(stop.accept), tuple(self._started), described))
        self._end_measurements()
        return True

    def _end_measurements(self) -> None:
        if self._stop_sent and self._stop_received:
            self._events.append(AllStopped(tuple(self._started)))
            self._started = {}
            self._deadline = None
            self.state = ClientState.READY

    def _read_fetch(self) -> bool:
        """Fetch-Ack and what follows it, a part at a time, each verified before it is used. RFC 4656 section 3.9."""
        parts = self._parts
        if not parts:
            octets = FetchAck.OCTETS
        elif len(parts) == 1:
            octets = RequestSession.OCTETS
        elif len(parts) == 2:
            octets = RequestSession.slots_octets(parts[1])
        elif len(parts) == 3:
            ranges = SKIP_RANGE.size * FetchAck.parse(parts[0]).number_of_skip_ranges
            octets = ranges + -ranges % 16
        else:
            return self._read_records(parts)
        part = self._read(octets)
        if part is None:
            return False
        parts.append(part)
        if len(parts) == 1:
            self._check_fetch_ack(FetchAck.parse(part))
        return True

    def _read_records(self, parts: list[bytes]) -> bool:
        """The records as they come, so that many of them are in memory once."""
        ack = FetchAck.parse(parts[0])
        wanted = records_octets(ack.number_of_records) - len(self._records)
        if wanted:
            some = self._inbox.take(min(wanted, len(self._inbox) // BLOCK_OCTETS * BLOCK_OCTETS))
            if not some:
                return False
            plain = self._receive.decrypt(some)
            self._receive.cover(plain)
            self._records += plain
            return True
        tag = self._inbox.take(HMAC_OCTETS)
        if tag is None:
            return False
        self._receive.verify(b"", self._receive.decrypt(tag))
        del self._records[ack.number_of_records * RECORD_OCTETS :]
        records, self._records, self._parts = bytes(self._records), bytearray(), []
        self._end_fetch(parts, ack, records)
        return True

    def _check_fetch_ack(self, ack: FetchAck) -> None:
        if ack.accept != Accept.OK:
            self._parts = []
            self._fetch_done()
            self._events.append(FetchRefused(ServerRefused(ack.accept, Accept(ack.accept).words, "Fetch-Ack")))
        elif ack.number_of_records > MAXIMUM_RECORDS or ack.number_of_skip_ranges > MAXIMUM_RECORDS:
            raise InvalidMessage(f"{ack.number_of_records} records are more than are taken")

    def _end_fetch(self, parts: list[bytes], ack: FetchAck, records: bytes) -> None:
        fetch = self._fetches[0]
        self._fetch_done()
        request = RequestSession.parse(parts[1], parts[2])
        if request.sid == bytes(16):
            # The command as it was sent may stand there, and then had no SID yet.
            request = replace(request, sid=fetch.sid)
        elif request.sid != fetch.sid:
            raise InvalidMessage(f"the server sent session {request.sid.hex()} instead of {fetch.sid.hex()}")
        # Skip Ranges that overlap or are out of order: all is invalid, the connection is closed.  rfc4656-s3.9-09
        session = FetchedSession.of_parts(request, ack, parts[3], records)
        last = min(fetch.end, request.number_of_packets - 1)
        if not session.is_within(fetch.begin, last):
            raise InvalidMessage(f"the server sent records of packets that are not from {fetch.begin} to {last}")
        self._events.append(Fetched(session))

    def _fetch_done(self) -> None:
        self._fetches.popleft()
        if not self._fetches:
            self._deadline = None

    # Helpers.

    def _doing(self) -> str:
        if self._requests:
            return "waiting for Accept-Session"
        if self._fetches:
            return "waiting for the data of a session"
        return "waiting for Stop-Sessions" if self._stop_sent else self.state.value

    def _open_sids(self) -> tuple[bytes, ...]:
        return (*self._accepted, *self._started)


__all__ = ["MAXIMUM_RECORDS", "ClientState", "ControlClientConfig", "OwampClient", "OwampWish"]
