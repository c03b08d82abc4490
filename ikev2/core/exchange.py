"""What an exchange's handler is given, and the words in which it says what comes of a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from ikev2.core.types import Address
from ikev2.errors import InvalidSyntax
from ikev2.iana import NotifyType
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify, Payload

P = TypeVar("P", bound=Payload)


class Ignored(Exception):
    """This message changes nothing: it may be a forgery, or a duplicate. The text says why."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message that has passed the checks of its transition: `payloads` are what was encrypted, if anything was.

    `purpose` is what our request was for when this is its response.
    """

    message: Message
    payloads: tuple[Payload, ...]
    data: bytes
    local: Address
    remote: Address
    now: float
    purpose: object = None

    def first(self, kind: type[P]) -> P | None:
        """The first payload of this kind."""
        for payload in self.payloads:
            if isinstance(payload, kind):
                return payload
        return None

    def required(self, kind: type[P]) -> P:
        """The first payload of this kind; InvalidSyntax when there is none."""
        payload = self.first(kind)
        if payload is None:
            raise InvalidSyntax(f"there is no {kind.payload_type} payload")
        return payload

    @property
    def notifies(self) -> tuple[Notify, ...]:
        """All Notify payloads."""
        return tuple(payload for payload in self.payloads if isinstance(payload, Notify))

    def notify(self, notify_type: NotifyType) -> Notify | None:
        """The first Notify payload of this type."""
        return next((notify for notify in self.notifies if notify.notify_type == notify_type), None)

    @property
    def error(self) -> Notify | None:
        """The first notify of the error range. RFC 7296 section 3.10.1."""
        return next((notify for notify in self.notifies if notify.notify_type.is_error), None)


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


Task = CloseIkeSa | CloseChildSa | CheckLiveness
