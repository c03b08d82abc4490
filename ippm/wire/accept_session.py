"""Accept-Session. RFC 4656 section 3.5, RFC 6038 section 4.3."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.iana import Accept
from ippm.wire.octets import exactly, fits

_FORMAT = struct.Struct(">B x H 16s H H 8x")


@dataclass(frozen=True, slots=True)
class AcceptSession:
    """Accept-Session: 32 octets and an HMAC. `port` is where test packets are awaited, zero in a refusal.

    `reflected_octets` and `server_octets`, two octets each, have a meaning with Reflect Octets only; else they are MBZ.
    RFC 4656 section 3.5, RFC 5357 section 3.5, RFC 6038 section 4.3.
    """

    OCTETS: ClassVar[int] = _FORMAT.size

    accept: Accept
    port: int = 0
    sid: bytes = bytes(16)
    reflected_octets: int = 0
    server_octets: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 32 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        accept, port, sid, reflected, server = _FORMAT.unpack(exactly(data, cls.OCTETS, "Accept-Session"))
        return cls(Accept(accept), port, sid, reflected, server)

    def encode(self) -> bytes:
        """32 octets, not encrypted, without the HMAC."""
        sid = fits("SID", self.sid, 16)
        # rfc6038-s4.3-02, rfc6038-s4.3-03, rfc6038-s4.3-04
        return _FORMAT.pack(self.accept, self.port, sid, self.reflected_octets, self.server_octets)
