"""Vendor ID payload. RFC 7296 section 3.12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload


@dataclass(frozen=True, slots=True)
class VendorId(PlainPayload):
    """A vendor-defined constant; one that is not known is ignored. RFC 7296 section 3.12."""

    payload_type: ClassVar[PayloadType] = PayloadType.V
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        """The constant."""
        return self.data
