"""Extensible Authentication Protocol payload. RFC 7296 section 3.16."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import EapCode, PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

EAP_HEADER_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Eap(PlainPayload):
    """One EAP message; `data` is what follows its Length field: Type and Type_Data, in requests and responses.

    RFC 7296 section 3.16.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.EAP
    code: EapCode
    identifier: int
    data: bytes = b""

    @property
    def eap_type(self) -> int | None:
        """The Type of a request or response, else None."""
        return self.data[0] if self.data else None

    @property
    def message(self) -> bytes:
        """The whole EAP message, for an EAP method or a RADIUS server."""
        return self.encode_body()

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        available = cursor.remaining
        code, identifier, length = EapCode(cursor.uint8()), cursor.uint8(), cursor.uint16()
        # rfc7296-s3.16-02
        if length != available:
            raise cursor.error(f"an EAP message of {length} octets in {available}")
        return cls(code, identifier, cursor.rest())

    def encode_body(self) -> bytes:
        """The EAP message."""
        return struct.pack("!BBH", self.code, self.identifier, EAP_HEADER_OCTETS + len(self.data)) + self.data

    def problem(self, *, sending: bool) -> str | None:
        """A Type in requests and responses, and nothing in the other messages."""
        if self.code in (EapCode.REQUEST, EapCode.RESPONSE):
            return None if self.data else f"an EAP {self.code} without a type"
        # rfc7296-s3.16-03, rfc7296-s3.16-04
        return f"an EAP {self.code} of {EAP_HEADER_OCTETS + len(self.data)} octets" if self.data else None
