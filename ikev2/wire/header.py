"""The IKE header. RFC 7296 section 3.1."""

from __future__ import annotations

import struct

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.value import value

HEADER_OCTETS = 28
SPI_OCTETS = 8
MAJOR_VERSION = 2
MINOR_VERSION = 0

FLAG_INITIATOR = 0x08
FLAG_VERSION = 0x10
FLAG_RESPONSE = 0x20
RESERVED_FLAGS = 0xFF & ~(FLAG_INITIATOR | FLAG_VERSION | FLAG_RESPONSE)

_LAYOUT = struct.Struct("!8s8sBBBBII")


@value(frozen=True, slots=True)
class Header:
    """The 28 octets that begin every IKE message.

    `higher_version` (V), `reserved_flags` (the X bits) and `minor_version` are as received and mean nothing; they are
    zero in what is sent, whatever they are here. Any major version parses; whether one is too high is for the core
    to say.

    RFC 7296 section 3.1.
    """

    initiator_spi: bytes
    responder_spi: bytes
    next_payload: PayloadType
    exchange_type: ExchangeType
    message_id: int
    length: int
    is_initiator: bool
    is_response: bool
    higher_version: bool = False
    reserved_flags: int = 0
    major_version: int = MAJOR_VERSION  # rfc7296-s3.1-05
    minor_version: int = MINOR_VERSION

    @classmethod
    def to_send(
        cls,
        initiator_spi: bytes,
        responder_spi: bytes,
        exchange_type: ExchangeType,
        message_id: int,
        *,
        is_initiator: bool,
        is_response: bool,
    ) -> Header:
        """A header for `Message.encode`, which fills in `next_payload` and `length`."""
        return cls(
            initiator_spi,
            responder_spi,
            PayloadType.NO_NEXT_PAYLOAD,
            exchange_type,
            message_id,
            0,
            is_initiator,
            is_response,
        )

    @property
    def flags(self) -> int:
        """The Flags octet as it is sent."""
        # rfc7296-s3.1-10, rfc7296-s3.1-15: no X bit and no V
        return (FLAG_INITIATOR if self.is_initiator else 0) | (FLAG_RESPONSE if self.is_response else 0)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header at the start of `data`. Errors: InvalidSyntax when there are fewer than 28 octets."""
        if len(data) < HEADER_OCTETS:
            raise InvalidSyntax(f"an IKE header has {HEADER_OCTETS} octets, here are {len(data)}", offset=len(data))
        spi_i, spi_r, next_payload, version, exchange, flags, message_id, length = _LAYOUT.unpack_from(data)
        return cls(
            spi_i,
            spi_r,
            PayloadType.of(next_payload),
            ExchangeType.of(exchange),
            message_id,
            length,
            is_initiator=bool(flags & FLAG_INITIATOR),
            is_response=bool(flags & FLAG_RESPONSE),
            higher_version=bool(flags & FLAG_VERSION),
            reserved_flags=flags & RESERVED_FLAGS,
            major_version=version >> 4,
            minor_version=version & 0x0F,
        )

    def encode(self) -> bytes:
        """The 28 octets. Errors: LocalProtocolError when a value does not fit its field."""
        return self.encode_with(self.next_payload, self.length)

    def encode_with(self, next_payload: PayloadType, length: int) -> bytes:
        """The same with another Next Payload and Length, which are known when the rest of the message is."""
        if len(self.initiator_spi) != SPI_OCTETS or len(self.responder_spi) != SPI_OCTETS:
            raise LocalProtocolError("an IKE SPI has 8 octets")
        if not 0 <= self.major_version <= 15:
            raise LocalProtocolError("a version number has 4 bits")
        try:
            return _LAYOUT.pack(
                self.initiator_spi,
                self.responder_spi,
                next_payload,
                self.major_version << 4 | MINOR_VERSION,  # rfc7296-s3.1-08, rfc7296-s2.5-05
                self.exchange_type,
                self.flags,
                self.message_id,
                length,
            )
        except struct.error as error:
            raise LocalProtocolError(f"a header field is out of range: {error}") from error
