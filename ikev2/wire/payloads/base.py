"""What all payloads share: the generic payload header's bits and the two ways in and out. RFC 7296 section 3.2.

A payload class says three things: how its body is read (`read`), how it is written (`encode_body`), and what
the RFC forbids in its values (`problem`). The same check speaks to both sides: what `problem` names is an
`InvalidSyntax` when a peer sent it and a `LocalProtocolError` when our caller wants to send it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from ikev2.errors import InvalidSyntax
from ikev2.iana import PayloadType
from ikev2.wire.cursor import Cursor

GENERIC_HEADER_OCTETS = 4
MAX_PAYLOAD_OCTETS = 0xFFFF


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload of an IKE message.

    `critical` and `reserved` (7 bits) are the generic header's second octet as it was received. For every payload
    type that has a class here both mean nothing, and both are zero in what is sent, whatever they are here; only
    an `Unknown` is sent with its critical bit.

    RFC 7296 section 3.2.
    """

    payload_type: ClassVar[PayloadType]
    critical: bool = field(default=False, kw_only=True)
    reserved: int = field(default=0, kw_only=True)

    @classmethod
    @abstractmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor. What is left over there is an error that the caller of `read` finds."""

    @abstractmethod
    def encode_body(self) -> bytes:
        """The octets after the generic payload header."""

    def problem(self, *, sending: bool) -> str | None:
        """What RFC 7296 forbids in these values, or None. `sending` adds the rules that bind the sender alone."""
        return None

    @classmethod
    def parse_body(cls, data: bytes, critical: bool = False, reserved: int = 0) -> Self:
        """The payload whose body is `data`. Errors: InvalidSyntax, with an offset into `data`."""
        cursor = Cursor(data, payload=cls.payload_type)
        payload = cls.read(cursor)
        cursor.expect_end()
        return payload.received(critical, reserved)

    def received(self, critical: bool, reserved: int) -> Self:
        """This payload with its generic header's bits, after the checks that hold for received values."""
        complaint = self.problem(sending=False)
        if complaint is not None:
            raise InvalidSyntax(complaint, payload=self.payload_type)
        if critical or reserved:
            return replace(self, critical=critical, reserved=reserved)
        return self


@dataclass(frozen=True, slots=True)
class PlainPayload(Payload):
    """A payload that is not itself a container of encrypted ones."""

    def body(self) -> bytes:
        """The octets after the generic payload header."""
        return self.encode_body()
