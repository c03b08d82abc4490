"""Server Greeting. RFC 4656 section 3.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.wire.octets import exactly, fits

_FORMAT = struct.Struct(">12x I 16s 16s I 12x")


@dataclass(frozen=True, slots=True)
class ServerGreeting:
    """Server Greeting: 64 octets in the clear, no HMAC. `modes` is the OR of what the server is willing to do.

    RFC 4656 section 3.1, RFC 7717 section 5.2.
    """

    OCTETS: ClassVar[int] = _FORMAT.size

    modes: int
    challenge: bytes
    salt: bytes
    count: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 64 octets. Raises InvalidMessage."""
        return cls(*_FORMAT.unpack(exactly(data, cls.OCTETS, "Server Greeting")))

    def encode(self) -> bytes:
        """64 octets."""
        challenge = fits("Challenge", self.challenge, 16)
        return _FORMAT.pack(self.modes, challenge, fits("Salt", self.salt, 16), self.count)
