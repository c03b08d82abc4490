"""Key Exchange payload. RFC 7296 section 3.4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import KeId, PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload


@dataclass(frozen=True, slots=True)
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
        group = KeId(cursor.uint16())
        cursor.skip(2)
        return cls(group, cursor.rest())

    def encode_body(self) -> bytes:
        """Group number, RESERVED, public value."""
        return struct.pack("!HH", self.group, 0) + self.data
