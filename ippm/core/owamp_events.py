"""What the two OWAMP-Control roles tell their drivers, and what they ask of them. RFC 4656 section 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionDenied,
    SessionRejected,
    SessionsStarted,
    Started,
)
from ippm.core.fetched_session import FetchedSession
from ippm.crypto import SessionKeys
from ippm.errors import IppmError
from ippm.iana import Mode
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription

SECURITY = Mode.OPEN | Mode.AUTHENTICATED | Mode.ENCRYPTED
"""The security modes of OWAMP: there is no mixed mode. RFC 4656 section 3.1."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asked for a session: the user whose secret set up the connection (None in open mode), and in which mode."""

    user: str | None
    mode: Mode


@dataclass(frozen=True, slots=True)
class OwampSession:
    """An OWAMP-Test session as the two ends agreed on it. `keys` is None where Test has no keys.

    `request` has the port numbers that are used. `server_sends`: the server is the Session-Sender and the client the
    Session-Receiver; else the other way round. `limit_class` is what it counts in. RFC 4656 section 3.5.
    """

    sid: bytes
    mode: Mode
    keys: SessionKeys | None = field(repr=False)
    request: RequestSession
    sender: Endpoint
    receiver: Endpoint
    limit_class: str | None = None

    @property
    def server_sends(self) -> bool:
        """True when packets go from the server to the client."""
        return self.request.conf_sender

    @property
    def timeout_ns(self) -> int:
        """Timeout, nanoseconds."""
        return ns_from_fixed_point(self.request.timeout)


class StoredSession(Protocol):
    """The data of a session as it stood when it was opened; more may come in meanwhile and is not seen.

    RFC 4656 section 3.9.
    """

    @property
    def request(self) -> RequestSession:
        """Request-Session with the ports that were used."""
        ...

    @property
    def finished(self) -> int:
        """0: in progress, 1: ended normally, 2: ended in another way."""
        ...

    @property
    def next_seqno(self) -> int:
        """The next sequence number that would have been sent; counts when it has ended."""
        ...

    @property
    def skip_ranges(self) -> tuple[SkipRange, ...]:
        """What was not sent; counts when it has ended."""
        ...

    def count(self, begin: int, end: int) -> int:
        """How many records there are of packets from `begin` to `end`."""
        ...

    def records(self, begin: int, end: int) -> Iterator[bytes]:
        """These records, in the order of arrival, some at a time."""
        ...

    def close(self) -> None:
        """Give back what was opened."""
        ...


class OwampServerHooks(Protocol):
    """What an OWAMP server role asks of its surroundings, answered at once."""

    def ntp_time(self) -> int:
        """The time of day as a 64-bit NTP timestamp."""
        ...

    def open_owamp_session(self, session: OwampSession, owner: Owner) -> int:
        """Open a test socket, and room for the records when the server receives; the port. Raises RefuseSession."""
        ...

    def fetch(self, sid: bytes, owner: Owner) -> StoredSession:
        """The data of a session that this user may have. Raises RefuseSession."""
        ...


# Events of the server.


@dataclass(frozen=True, slots=True)
class OwampSessionOpened:
    """A Request-Session was accepted. RFC 4656 section 3.5."""

    session: OwampSession
    owner: Owner


@dataclass(frozen=True, slots=True)
class StopReceived:
    """The other side stops: end what we send, and what we receive by the `descriptions` of what it has sent.

    With a non-zero `accept` all results are invalid. RFC 4656 section 3.8.
    """

    accept: int
    sids: tuple[bytes, ...]
    descriptions: dict[bytes, SessionDescription]


@dataclass(frozen=True, slots=True)
class AllStopped:
    """Both sides have stopped. RFC 4656 section 3.4."""

    sids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SessionFetched:
    """Records of a session are sent to the client. RFC 4656 section 3.9."""

    sid: bytes
    records: int


@dataclass(frozen=True, slots=True)
class SessionDelivered:
    """The complete data of a session that has ended is sent. RFC 4656 section 3.9."""

    sid: bytes


OwampServerEvent = (
    ClientSetUp
    | ClientRefused
    | OwampSessionOpened
    | SessionDenied
    | SessionsStarted
    | StopReceived
    | AllStopped
    | SessionFetched
    | SessionDelivered
    | ConnectionClosed
)


# Events of the client.


@dataclass(frozen=True, slots=True)
class OwampSessionAccepted:
    """The server accepted the oldest request that had no answer yet. RFC 4656 section 3.5."""

    session: OwampSession


@dataclass(frozen=True, slots=True)
class Fetched:
    """The data of a session, verified. RFC 4656 section 3.9."""

    session: FetchedSession


@dataclass(frozen=True, slots=True)
class FetchRefused:
    """The server refused Fetch-Session; the connection stays. RFC 4656 section 3.9."""

    error: IppmError


OwampClientEvent = (
    Connected
    | OwampSessionAccepted
    | SessionRejected
    | Started
    | StopReceived
    | AllStopped
    | Fetched
    | FetchRefused
    | ConnectionClosed
)
