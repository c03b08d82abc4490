"""What the two TWAMP-Control roles tell their drivers, and what they ask of them.

RFC 5357 section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ippm.crypto import SessionKeys
from ippm.errors import IppmError
from ippm.iana import Mode


class Endpoint(NamedTuple):
    """An address as text, and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class TestSession:
    """A TWAMP-Test session as the two ends agreed on it. `keys` is None where Test has no keys.

    `start_time` is a timestamp in the NTP format, zero for "at once". `reflector.port` is the port that the
    server chose. With Reflect Octets `reflected_octets` of the padding come back, and `server_octets` (two octets, 0:
    none) are their beginning. RFC 5357 section 3.5, RFC 6038 sections 4.2 and 4.3.
    """

    __test__ = False

    sid: bytes
    mode: Mode
    keys: SessionKeys | None = field(repr=False)
    sender: Endpoint
    reflector: Endpoint
    padding_octets: int
    start_time: int
    timeout_ns: int
    dscp: int
    reflected_octets: int = 0
    server_octets: int = 0


class ServerHooks(Protocol):
    """What a server role asks of its surroundings, answered at once."""

    def ntp_time(self) -> int:
        """The time of day as a 64-bit NTP timestamp."""
        ...

    def open_session(self, session: TestSession) -> int:
        """Open a test socket for the session, whose `reflector.port` is the port that the client wishes (0: any).

        Returns the port that is open. Raises RefuseSession.
        """
        ...


# Events of the server.


@dataclass(frozen=True, slots=True)
class ClientSetUp:
    """A client has set up its connection. RFC 4656 section 3.1."""

    mode: Mode
    ikev2_derived: bool
    key_id: bytes
    derivation: str | None
    peer_identity: str | None
    token_key_index: int | None
    limit_class: str | None = None


@dataclass(frozen=True, slots=True)
class ClientRefused:
    """A Set-Up-Response was refused with this Accept. RFC 4656 section 3.1, RFC 7717 section 5.3."""

    accept: int
    reason: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A Request-TW-Session was accepted. RFC 5357 section 3.5."""

    session: TestSession


@dataclass(frozen=True, slots=True)
class SessionDenied:
    """A request was refused with this Accept; the connection stays. RFC 5357 section 3.5."""

    accept: int
    reason: str


@dataclass(frozen=True, slots=True)
class SessionsStarted:
    """Start-Sessions: these sessions are to run now. RFC 4656 section 3.7."""

    sids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SessionsStopped:
    """These sessions end after their Timeout; results are invalid when `valid` is false. RFC 5357 section 3.8."""

    sids: tuple[bytes, ...]
    accept: int = 0
    valid: bool = True


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection is over; `sids` are sessions that were not stopped, `error` None means an orderly end."""

    reason: str
    error: IppmError | None = None
    sids: tuple[bytes, ...] = ()


ServerEvent = (
    ClientSetUp
    | ClientRefused
    | SessionOpened
    | SessionDenied
    | SessionsStarted
    | SessionsStopped
    | ConnectionClosed
)


# Events of the client.


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is set up. `offered` are the Modes of the Greeting, `server_start_time` is in the NTP format.

    RFC 4656 section 3.1.
    """

    mode: Mode
    ikev2_derived: bool
    derivation: str | None
    peer_identity: str | None
    count: int
    server_start_time: int
    offered: Mode


@dataclass(frozen=True, slots=True)
class SessionAccepted:
    """The server accepted the oldest request that had no answer yet. RFC 5357 section 3.5."""

    session: TestSession


@dataclass(frozen=True, slots=True)
class SessionRejected:
    """The server refused the oldest request that had no answer yet. RFC 5357 section 3.5."""

    error: IppmError


@dataclass(frozen=True, slots=True)
class Started:
    """Start-Ack, or Start-N-Ack: the sender may send now. RFC 4656 section 3.7, RFC 5938 section 3.3."""

    sids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Stop-N-Ack: these sessions end after their Timeout. RFC 5938 section 3.5."""

    sids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ControlRefused:
    """A Start-N-Ack or Stop-N-Ack refuses this for these sessions; for others it may be done. RFC 5938 section 3.3."""

    sids: tuple[bytes, ...]
    error: IppmError


ClientEvent = Connected | SessionAccepted | SessionRejected | Started | Stopped | ControlRefused | ConnectionClosed
