"""Start-Sessions. RFC 4656 section 3.7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage
from ippm.iana import Command
from ippm.wire.octets import exactly


@dataclass(frozen=True, slots=True)
class StartSessions:
    """Start-Sessions: 16 octets and an HMAC; nothing but its Command Number. RFC 4656 section 3.7."""

    COMMAND: ClassVar[Command] = Command.START_SESSIONS
    OCTETS: ClassVar[int] = 16

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 16 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        if exactly(data, cls.OCTETS, "Start-Sessions")[0] != cls.COMMAND:
            raise InvalidMessage(f"Command Number {data[0]} is not Start-Sessions")
        return cls()

    def encode(self) -> bytes:
        """16 octets, not encrypted, without the HMAC."""
        return bytes([self.COMMAND]) + bytes(15)
