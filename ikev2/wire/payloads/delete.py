"""Delete payload. RFC 7296 section 3.11."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.iana import PayloadType, ProtocolId
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

CHILD_SPI_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Delete(PlainPayload):
    """The SAs that the sender has removed: its inbound SPIs of one protocol, or, for IKE, the IKE SA itself.

    RFC 7296 section 3.11.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.D
    protocol: ProtocolId
    spi_octets: int
    spis: tuple[bytes, ...]

    @classmethod
    def ike(cls) -> Self:
        """The deletion of the IKE SA that carries the message."""
        return cls(ProtocolId.IKE, 0, ())

    @classmethod
    def esp(cls, *spis: bytes) -> Self:
        """The deletion of Child SAs by the four octets of the SPIs on which the sender receives ESP."""
        return cls(ProtocolId.ESP, CHILD_SPI_OCTETS, spis)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        protocol = ProtocolId(cursor.uint8())
        spi_octets = cursor.uint8()
        count = cursor.uint16()
        if count and not spi_octets:
            raise cursor.error(f"{count} SPIs of no octets")
        if count * spi_octets != cursor.remaining:
            raise cursor.error(f"{count} SPIs of {spi_octets} octets in {cursor.remaining} octets")
        return cls(protocol, spi_octets, tuple(cursor.octets(spi_octets) for _ in range(count)))

    def encode_body(self) -> bytes:
        """Protocol, SPI size, count, SPIs."""
        return struct.pack("!BBH", self.protocol, self.spi_octets, len(self.spis)) + b"".join(self.spis)

    def problem(self, *, sending: bool) -> str | None:
        """The SPI size is that of the protocol, and all SPIs are of that size."""
        # rfc7296-s3.11-03
        if self.protocol == ProtocolId.IKE and (self.spi_octets or self.spis):
            return "SPIs in the deletion of an IKE SA"
        if self.protocol in (ProtocolId.AH, ProtocolId.ESP) and self.spi_octets != CHILD_SPI_OCTETS:
            return f"SPIs of {self.spi_octets} octets for {self.protocol}"
        if any(len(spi) != self.spi_octets for spi in self.spis):  # rfc7296-s3.11-01, rfc7296-s3.11-02
            return f"an SPI that is not of {self.spi_octets} octets"
        return None
