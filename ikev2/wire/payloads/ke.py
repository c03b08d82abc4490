"""Key Exchange payload. RFC 7296 section 3.4."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

from ikev2.iana import KeId, PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

KE_HEADER = struct.Struct("!HH")
"""Diffie-Hellman Group Num, RESERVED. Figure 10."""


@value(frozen=True, slots=True)
class Ke(PlainPayload):
    """A public value of the key exchange method `group`; its length is for the method to check.

    RFC 7296 section 3.4.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.KE
    group: KeId
    data: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        group, _ = cursor.unpack(KE_HEADER)
        return cls(KeId.of(group), cursor.rest())

    def encode_body(self) -> bytes:
        """Group number, RESERVED, public value."""
        return KE_HEADER.pack(self.group, 0) + self.data
