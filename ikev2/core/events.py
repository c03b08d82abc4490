"""What the core tells its driver. Events are handled before the datagrams of the same turn are sent."""

from __future__ import annotations

from dataclasses import dataclass

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.exchange import Ask
from ikev2.core.info import IkeSaInfo
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Notify, Payload


@dataclass(frozen=True, slots=True)
class IkeSaEstablished:
    """Both ends have proved who they are; the IKE SA can be used."""

    ike_sa: IkeSaInfo


@dataclass(frozen=True, slots=True)
class IkeSaFailed:
    """An IKE SA did not come up. `reason` is a sentence; `notify_type` what the peer, or we, said if anything."""

    ike_sa: IkeSaInfo
    reason: str
    notify_type: NotifyType | None = None


@dataclass(frozen=True, slots=True)
class IkeSaDeleted:
    """An established IKE SA is gone, with all its Child SAs (each has had its own ChildSaDeleted before)."""

    ike_sa: IkeSaInfo
    reason: str


@dataclass(frozen=True, slots=True)
class IkeSaRekeyed:
    """A new IKE SA has taken the place of the old one, and has its Child SAs. IkeSaDeleted of the old one follows.

    RFC 7296 section 2.18.
    """

    old: IkeSaInfo
    new: IkeSaInfo


@dataclass(frozen=True, slots=True)
class IkeSaRekeyFailed:
    """There is no new IKE SA; the old one stays until its lifetime is over. RFC 7296 section 2.8."""

    ike_sa: IkeSaInfo
    reason: str
    notify_type: NotifyType | None = None


@dataclass(frozen=True, slots=True)
class ChildSaReady:
    """A Child SA pair is negotiated: install it now.

    `standby`: it replaces another pair, and the peer may not be ready for it: accept what comes on it, but send on
    the other one until ChildSaRekeyed. RFC 7296 section 2.8.
    """

    child: ChildSaParameters
    standby: bool = False


@dataclass(frozen=True, slots=True)
class ChildSaRekeyed:
    """From now on what went out on the old pair goes out on the new one. ChildSaDeleted of the old one follows.

    RFC 7296 section 2.8.
    """

    old: ChildSaParameters
    new: ChildSaParameters


@dataclass(frozen=True, slots=True)
class ChildSaHalfClosed:
    """Both ends delete this pair at once: the outgoing SA goes now, ChildSaDeleted follows. Section 1.4.1."""

    child: ChildSaParameters


@dataclass(frozen=True, slots=True)
class ChildSaMoved:
    """The peer's address or port changed behind a NAT: update the installed SAs. RFC 7296 section 2.23."""

    old: ChildSaParameters
    new: ChildSaParameters


@dataclass(frozen=True, slots=True)
class ChildSaDeleted:
    """Remove this pair and its policies."""

    child: ChildSaParameters
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChildSaFailed:
    """A Child SA did not come up; the IKE SA stays. RFC 7296 section 2.21.2."""

    ike_sa: IkeSaInfo
    name: str
    reason: str
    notify_type: NotifyType | None = None


@dataclass(frozen=True, slots=True)
class AddressesTaken:
    """The peer has assigned these addresses to us: they are this host's from now on, before any Child SA is installed.

    `dns`: the servers that go with them. RFC 7296 section 2.19.
    """

    ike_sa: IkeSaInfo
    addresses: tuple[str, ...]
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressesReleased:
    """The IKE SA with which these addresses came is gone; another one may still have them. RFC 7296 section 3.15.1."""

    ike_sa: IkeSaInfo
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddressesLeased:
    """The peer has got these addresses from our pools. RFC 7296 section 2.19."""

    ike_sa: IkeSaInfo
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerAlive:
    """The peer answered a liveness check. RFC 7296 section 2.4."""

    ike_sa: IkeSaInfo


@dataclass(frozen=True, slots=True)
class Answered:
    """The peer has answered a request that the driver made itself: `ask` is what was asked, `payloads` the answer."""

    ike_sa: IkeSaInfo
    ask: Ask
    message_id: int
    payloads: tuple[Payload, ...]

    def notify(self, notify_type: NotifyType) -> Notify | None:
        """The first Notify payload of this type."""
        found = (payload for payload in self.payloads if isinstance(payload, Notify))
        return next((notify for notify in found if notify.notify_type == notify_type), None)


Event = (
    IkeSaEstablished
    | IkeSaFailed
    | IkeSaDeleted
    | IkeSaRekeyed
    | IkeSaRekeyFailed
    | ChildSaReady
    | ChildSaRekeyed
    | ChildSaHalfClosed
    | ChildSaMoved
    | ChildSaDeleted
    | ChildSaFailed
    | AddressesTaken
    | AddressesReleased
    | AddressesLeased
    | PeerAlive
    | Answered
)
