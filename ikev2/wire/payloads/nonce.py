"""Nonce payload. RFC 7296 section 3.9."""

from __future__ import annotations

from typing import ClassVar, Self

from ikev2.iana import PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

MIN_NONCE_OCTETS = 16
MAX_NONCE_OCTETS = 256


@value(frozen=True, slots=True)
class Nonce(PlainPayload):
    """Ni or Nr: 16 to 256 random octets. RFC 7296 section 3.9."""

    payload_type: ClassVar[PayloadType] = PayloadType.NONCE
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        """The nonce."""
        return self.data

    def problem(self, *, sending: bool) -> str | None:
        """The size is within the RFC's limits."""
        # rfc7296-s3.9-01
        if not MIN_NONCE_OCTETS <= len(self.data) <= MAX_NONCE_OCTETS:
            return f"a nonce of {len(self.data)} octets"
        return None
