"""Start-Ack. RFC 4656 section 3.7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.iana import Accept
from ippm.wire.octets import exactly


@dataclass(frozen=True, slots=True)
class StartAck:
    """Start-Ack: 16 octets and an HMAC. RFC 4656 section 3.7."""

    OCTETS: ClassVar[int] = 16

    accept: Accept

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 16 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        return cls(Accept(exactly(data, cls.OCTETS, "Start-Ack")[0]))

    def encode(self) -> bytes:
        """16 octets, not encrypted, without the HMAC."""
        return bytes([self.accept]) + bytes(15)
