"""What an exchange's handler is given, and the words in which it says what comes of a message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from ikev2.core.config import ChildConfig
from ikev2.core.types import Address
from ikev2.errors import InvalidSyntax
from ikev2.iana import ExchangeType, KeId, NotifyType
from ikev2.value import value
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify, Payload, TrafficSelector

P = TypeVar("P", bound=Payload)

PacketSelectors = tuple[TrafficSelector, TrafficSelector]
"""The two ends of one packet that goes out, ours first, with its protocol and ports."""


class Ignored(Exception):
    """This message changes nothing: it may be a forgery, or a duplicate. The text says why."""


@value(frozen=True, slots=True)
class Inbound:
    """A message that has passed the checks of its transition: `payloads` are what was encrypted, if anything was.

    `purpose` is what our request was for when this is its response. Of a message that came in fragments, `content` is
    the decrypted content, put together, `fragment_octets` the largest of its IP datagrams (0: it came whole), and
    `data` the octets of its first fragment.
    """

    message: Message
    payloads: tuple[Payload, ...]
    data: bytes
    local: Address
    remote: Address
    now: float
    purpose: object = None
    content: bytes | None = None
    fragment_octets: int = 0
    by_kind: dict[type[Payload], Payload] = field(init=False, repr=False, compare=False)
    """The first payload of each class."""
    notifies: tuple[Notify, ...] = field(init=False, repr=False, compare=False)
    """All Notify payloads."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_kind", {type(payload): payload for payload in reversed(self.payloads)})
        notifies = [payload for payload in self.payloads if isinstance(payload, Notify)]
        object.__setattr__(self, "notifies", tuple(notifies))

    def opened(self, payloads: tuple[Payload, ...]) -> Inbound:
        """The same message with what was sealed in it."""
        return Inbound(
            self.message,
            payloads,
            self.data,
            self.local,
            self.remote,
            self.now,
            self.purpose,
            self.content,
            self.fragment_octets,
        )

    def first(self, kind: type[P]) -> P | None:
        """The first payload of this class."""
        found: Any = self.by_kind.get(kind)
        payload: P | None = found
        return payload

    def required(self, kind: type[P]) -> P:
        """The first payload of this kind; InvalidSyntax when there is none."""
        payload = self.first(kind)
        if payload is None:
            raise InvalidSyntax(f"there is no {kind.payload_type} payload")
        return payload

    def notify(self, notify_type: NotifyType) -> Notify | None:
        """The first Notify payload of this type."""
        for notify in self.notifies:
            if notify.notify_type == notify_type:
                return notify
        return None

    @property
    def error(self) -> Notify | None:
        """The first notify of the error range. RFC 7296 section 3.10.1."""
        return next((notify for notify in self.notifies if notify.notify_type.is_error), None)

    @property
    def unknown_error(self) -> Notify | None:
        """The first notify of the error range that has no name here: of a response, it fails the whole request.

        RFC 7296 section 3.10.1 (rfc7296-s3.10.1-01).
        """
        errors = (notify for notify in self.notifies if notify.notify_type.is_error)
        return next((notify for notify in errors if not notify.notify_type.known), None)


@dataclass(frozen=True, slots=True)
class Establish:
    """The purpose of IKE_SA_INIT and IKE_AUTH requests."""


@dataclass(frozen=True, slots=True)
class CloseIkeSa:
    """Delete the IKE SA; with a notify type, say that instead of a Delete payload. RFC 7296 section 2.21.2."""

    reason: str
    notify_type: NotifyType | None = None


@dataclass(frozen=True, slots=True)
class CloseChildSa:
    """Delete the Child SA on whose `spi_in` we receive."""

    spi_in: int
    reason: str


@dataclass(frozen=True, slots=True)
class CheckLiveness:
    """An empty INFORMATIONAL request. RFC 7296 section 2.4."""


@dataclass(frozen=True, slots=True)
class MakeChildSa:
    """Make a Child SA; `group` is the one that the peer wants after an INVALID_KE_PAYLOAD. RFC 7296 section 1.3.1.

    `selectors`, TSi and TSr, are the part of the configured ones that is asked for; None: all. `packet` are those of
    the packet for which it is wanted (section 2.9).
    """

    config: ChildConfig
    group: KeId | None = None
    selectors: tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None = None
    packet: PacketSelectors | None = None


@dataclass(frozen=True, slots=True)
class RekeyChildSa:
    """Replace the Child SA on whose `spi_in` we receive. RFC 7296 section 1.3.3."""

    spi_in: int
    group: KeId | None = None


@dataclass(frozen=True, slots=True)
class RekeyIkeSa:
    """Replace the IKE SA. RFC 7296 section 1.3.2."""

    group: KeId | None = None


@dataclass(frozen=True, slots=True)
class CloseReplaced:
    """This IKE SA has all that the one has which it replaces: delete that one. RFC 7296 section 2.8.3."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Send a request of the driver's own making, under protection; what answers it is reported, and changes nothing.

    For tests and experiments: any exchange type, any payloads that can be encoded.
    """

    exchange: ExchangeType
    payloads: tuple[Payload, ...]


@dataclass(frozen=True, slots=True)
class AskForAddresses:
    """Ask again for the addresses that the peer did not give, and then for these Child SAs. RFC 7296 section 3.15.4."""

    children: tuple[ChildConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the peer of something that came outside of any exchange. RFC 7296 section 2.21.4."""

    notify: Notify


CreateTask = MakeChildSa | RekeyChildSa | RekeyIkeSa
"""What needs a CREATE_CHILD_SA exchange."""

Task = CloseIkeSa | CloseChildSa | CheckLiveness | Report | CreateTask | CloseReplaced | Ask | AskForAddresses
