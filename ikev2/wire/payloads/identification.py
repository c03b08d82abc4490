"""Identification payloads, IDi and IDr. RFC 7296 section 3.5."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from ikev2.iana import IdType, PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

ID_OCTETS = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16, IdType.ID_NULL: 0}
"""The length of the data of the types that have one; ID_NULL is RFC 7619 section 2.2."""


@dataclass(frozen=True, slots=True)
class Id(PlainPayload):
    """An identity. `data` is as the type says: address octets, a name's octets, a DER encoding, opaque octets.

    `id_reserved` keeps the three RESERVED octets as received: they mean nothing, but the AUTH payload is computed
    over them (`body()` is RestOfInitIDPayload of section 2.15). Zero in what is built here.

    RFC 7296 section 3.5.
    """

    id_type: IdType
    data: bytes
    id_reserved: bytes = field(default=bytes(3), kw_only=True)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        id_type = IdType.of(cursor.uint8())
        reserved = cursor.octets(3)
        return cls(id_type, cursor.rest(), id_reserved=reserved)

    def encode_body(self) -> bytes:
        """Type, RESERVED, data."""
        return self.id_type.to_bytes(1, "big") + self.id_reserved + self.data

    def problem(self, *, sending: bool) -> str | None:
        """The data has the form that the type prescribes."""
        octets = ID_OCTETS.get(self.id_type)
        if octets is not None and len(self.data) != octets:
            return f"{self.id_type} of {len(self.data)} octets"
        if self.id_type in (IdType.ID_FQDN, IdType.ID_RFC822_ADDR):
            # rfc7296-s3.5-03, rfc7296-s3.5-04
            data = self.data
            if b"\0" in data or b"\n" in data or b"\r" in data:
                return f"{self.id_type} contains a terminator"
            if sending and self.id_type == IdType.ID_FQDN and not self.data.isascii():
                return f"{self.id_type} is not ASCII"
        if sending and any(self.id_reserved):
            # rfc7296-s3.5-01
            return "RESERVED is not zero"
        return None


@value(frozen=True, slots=True)
class IdI(Id):
    """The initiator's identity. RFC 7296 section 3.5."""

    payload_type: ClassVar[PayloadType] = PayloadType.IDi


@value(frozen=True, slots=True)
class IdR(Id):
    """The responder's identity. RFC 7296 section 3.5."""

    payload_type: ClassVar[PayloadType] = PayloadType.IDr
