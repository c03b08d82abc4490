"""Set-Up-Response. RFC 4656 section 3.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self

from ippm.wire.octets import exactly, fits

_FORMAT = struct.Struct(">I 80s 64s 16s")


@dataclass(frozen=True, slots=True)
class SetUpResponse:
    """Set-Up-Response: 164 octets in the clear, no HMAC. In open mode only `mode` is used.

    Figure 3 of RFC 7717 draws a Token of 16 and a Client-IV of 12 octets; RFC 4656 and RFC 7717's own text have
    64 and 16, which is what is meant.
    RFC 4656 section 3.1, RFC 7717 section 5.3.
    """

    OCTETS: ClassVar[int] = _FORMAT.size

    mode: int
    key_id: bytes = bytes(80)
    token: bytes = field(default=bytes(64), repr=False)
    client_iv: bytes = bytes(16)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 164 octets. Raises InvalidMessage."""
        return cls(*_FORMAT.unpack(exactly(data, cls.OCTETS, "Set-Up-Response")))

    def encode(self) -> bytes:
        """164 octets."""
        token, iv = fits("Token", self.token, 64), fits("Client-IV", self.client_iv, 16)
        return _FORMAT.pack(self.mode, fits("KeyID", self.key_id, 80), token, iv)
