"""Authentication payload. RFC 7296 section 3.8."""

from __future__ import annotations

from typing import ClassVar, Self

from ikev2.iana import AuthMethod, PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload


@value(frozen=True, slots=True)
class Auth(PlainPayload):
    """The proof of identity: a MIC or a signature, as `method` says. RFC 7296 section 3.8."""

    payload_type: ClassVar[PayloadType] = PayloadType.AUTH
    method: AuthMethod
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        method = AuthMethod.of(cursor.uint8())
        cursor.skip(3)  # rfc7296-s3.8-04
        return cls(method, cursor.rest())

    def encode_body(self) -> bytes:
        """Method, RESERVED, data."""
        # rfc7296-s3.8-03
        return self.method.to_bytes(1, "big") + bytes(3) + self.data
