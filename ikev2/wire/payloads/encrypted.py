"""Encrypted payload and Encrypted Fragment payload, still sealed. RFC 7296 section 3.14, RFC 7383 section 2.5."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import Payload


@value(frozen=True, slots=True)
class Encrypted(Payload):
    """SK: `body` is IV, ciphertext and ICV; `first_payload` is the type of the first payload inside.

    RFC 7296 section 3.14.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.SK
    first_payload: PayloadType
    body: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor; `first_payload` is the generic header's to say (see `wire.message`)."""
        return cls(PayloadType.NO_NEXT_PAYLOAD, cursor.rest())

    def before(self, first_payload: PayloadType) -> Encrypted:
        """The same with the type of the first payload inside."""
        return Encrypted(first_payload, self.body)

    def encode_body(self) -> bytes:
        """IV, ciphertext, ICV."""
        return self.body


@dataclass(frozen=True, slots=True)
class EncryptedFragment(Payload):
    """SKF: one fragment; `body` is IV, ciphertext and ICV. Numbers count from 1.

    RFC 7383 section 2.5.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.SKF
    first_payload: PayloadType
    fragment_number: int
    total_fragments: int
    body: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor; `first_payload` is the generic header's to say (see `wire.message`)."""
        return cls(PayloadType.NO_NEXT_PAYLOAD, cursor.uint16(), cursor.uint16(), cursor.rest())

    def before(self, first_payload: PayloadType) -> EncryptedFragment:
        """The same with the type of the first payload inside."""
        return EncryptedFragment(first_payload, self.fragment_number, self.total_fragments, self.body)

    def encode_body(self) -> bytes:
        """Fragment Number, Total Fragments, IV, ciphertext, ICV."""
        return struct.pack("!HH", self.fragment_number, self.total_fragments) + self.body

    def problem(self, *, sending: bool) -> str | None:
        """The numbers make sense, and only the first fragment names a payload type."""
        # rfc7383-s2.5-04, rfc7383-s2.5-05, rfc7383-s2.5-06
        if not 1 <= self.fragment_number <= self.total_fragments:
            return f"fragment {self.fragment_number} of {self.total_fragments}"
        if sending and self.fragment_number > 1 and self.first_payload:
            # rfc7383-s2.5-03
            return f"fragment {self.fragment_number} names a first payload"
        return None
