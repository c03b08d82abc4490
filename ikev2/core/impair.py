"""Impairments of our own sending, for tests and demonstrations: named knobs on named messages.

    drop:IKE_AUTH:request:1          the first IKE_AUTH request that we send is lost
    duplicate:IKE_SA_INIT:response:* every IKE_SA_INIT response goes out twice
    delay:INFORMATIONAL:request:2:1.5   the second INFORMATIONAL request goes out 1.5 s late
    corrupt:IKE_AUTH:response:1:40   the octet 40 of the first IKE_AUTH response is changed

Retransmissions count: a knob for message 1 leaves the second transmission alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ikev2.errors import ConfigurationError
from ikev2.iana import ExchangeType
from ikev2.wire.header import HEADER_OCTETS, Header

ACTIONS = ("drop", "duplicate", "delay", "corrupt")
_DEFAULT_ARGUMENTS = {"delay": 1.0, "corrupt": float(HEADER_OCTETS)}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One datagram to send `delay_s` from now."""

    data: bytes
    delay_s: float = 0.0


class Impairment(Protocol):
    """Decides what becomes of a datagram that goes out."""

    def apply(self, data: bytes) -> list[Delivery] | None:
        """The deliveries in its place (none: lost), or None to leave it alone."""
        ...


@dataclass(slots=True)
class Knob:
    """One `ACTION:EXCHANGE:request|response:N|*[:ARGUMENT]`. RFC 7296 section 3.1 names the exchanges."""

    action: str
    exchange: ExchangeType
    is_response: bool
    ordinal: int | None
    argument: float
    seen: int = 0

    @classmethod
    def parse(cls, text: str) -> Knob:
        """Read a knob; ConfigurationError that says what is wrong with it."""
        parts = text.split(":")
        usage = f"impairment {text!r}: write {'|'.join(ACTIONS)}:EXCHANGE:request|response:N|*[:ARGUMENT]"
        if len(parts) not in (4, 5) or parts[0] not in ACTIONS or parts[2] not in ("request", "response"):
            raise ConfigurationError(usage)
        if parts[1] not in ExchangeType.__members__:
            raise ConfigurationError(f"impairment {text!r}: there is no exchange {parts[1]!r}")
        try:
            ordinal = None if parts[3] == "*" else int(parts[3])
            argument = (
                float(parts[4])
                if len(parts) == 5
                else {"delay": 1.0, "corrupt": float(HEADER_OCTETS)}.get(parts[0], 0.0)
            )
        except ValueError:
            raise ConfigurationError(usage) from None
        if argument < 0 or (ordinal is not None and ordinal < 1):
            raise ConfigurationError(usage)
        return cls(parts[0], ExchangeType[parts[1]], parts[2] == "response", ordinal, argument)

    def apply(self, data: bytes) -> list[Delivery] | None:
        """Count the message when it is of our kind, and do to it what the knob says when it is its turn."""
        header = Header.parse(data)
        if (header.exchange_type, header.is_response) != (self.exchange, self.is_response):
            return None
        self.seen += 1
        if self.ordinal not in (None, self.seen):
            return None
        match self.action:
            case "drop":
                return []
            case "duplicate":
                return [Delivery(data), Delivery(data)]
            case "delay":
                return [Delivery(data, self.argument)]
            case _:
                at = int(self.argument) % len(data)
                return [Delivery(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])]
