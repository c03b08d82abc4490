"""Server-Start. RFC 4656 section 3.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.iana import Accept
from ippm.wire.octets import exactly, fits

_FORMAT = struct.Struct(">15x B 16s Q 8x")


@dataclass(frozen=True, slots=True)
class ServerStart:
    """Server-Start: 48 octets; `start_time` is a timestamp in the NTP format.

    The first 32 octets are always in the clear. The last 16 are in the encrypted stream when there is one (so
    Accept is 0), and the HMAC of the message that comes next covers them, as this one has none.
    RFC 4656 sections 3.1 and 3.4, RFC 5357 section 3.2.
    """

    OCTETS: ClassVar[int] = _FORMAT.size
    CLEAR_OCTETS: ClassVar[int] = 32

    accept: Accept
    server_iv: bytes = bytes(16)
    start_time: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 48 octets, decrypted. Raises InvalidMessage."""
        accept, server_iv, start_time = _FORMAT.unpack(exactly(data, cls.OCTETS, "Server-Start"))
        return cls(Accept(accept), server_iv, start_time)

    def encode(self) -> bytes:
        """48 octets, not encrypted."""
        return _FORMAT.pack(self.accept, fits("Server-IV", self.server_iv, 16), self.start_time)
