"""Stop-Sessions of TWAMP. RFC 5357 section 3.8."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage
from ippm.iana import Accept, Command
from ippm.wire.octets import exactly

_FORMAT = struct.Struct(">B B 2x I 8x")


@dataclass(frozen=True, slots=True)
class StopSessions:
    """Stop-Sessions: 16 octets and an HMAC; in TWAMP no session description records follow.

    RFC 5357 section 3.8, RFC 4656 section 3.8.
    """

    COMMAND: ClassVar[Command] = Command.STOP_SESSIONS
    OCTETS: ClassVar[int] = _FORMAT.size

    number_of_sessions: int
    accept: Accept = Accept.OK

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 16 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        command, accept, number = _FORMAT.unpack(exactly(data, cls.OCTETS, "Stop-Sessions"))
        if command != cls.COMMAND:
            raise InvalidMessage(f"Command Number {command} is not Stop-Sessions")
        return cls(number, Accept(accept))

    def encode(self) -> bytes:
        """16 octets, not encrypted, without the HMAC."""
        return _FORMAT.pack(self.COMMAND, self.accept, self.number_of_sessions)
