"""A payload of a type that has no class here: octets. RFC 7296 section 2.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ikev2.errors import LocalProtocolError
from ikev2.iana import PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload


@dataclass(frozen=True, slots=True)
class Unknown(PlainPayload):
    """Octets under a type we do not understand. When `critical` is set the core refuses the message.

    RFC 7296 section 2.5.
    """

    payload_type: PayloadType  # type: ignore[misc]
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Not for this class: a body does not say its type. Errors: always LocalProtocolError."""
        raise LocalProtocolError("an unknown payload is made from its type and its octets")

    @classmethod
    def parse_body(cls, data: bytes, critical: bool = False, reserved: int = 0) -> Self:
        """Not for this class, as `read`."""
        return cls.read(Cursor(data))

    def encode_body(self) -> bytes:
        """The octets."""
        return self.data
