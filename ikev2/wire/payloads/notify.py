"""Notify payload. RFC 7296 section 3.10."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

from ikev2.iana import NotifyType, PayloadType, ProtocolId
from ikev2.registration import Registration, register_row
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

NOTIFY_HEADER = struct.Struct("!BBH")
"""Protocol ID, SPI Size, Notify Message Type. Figure 16."""
CHILD_SPI_OCTETS = 4

DATA_OCTETS: dict[int, tuple[int, int]] = {
    NotifyType.INVALID_KE_PAYLOAD: (2, 2),
    NotifyType.SET_WINDOW_SIZE: (4, 4),  # rfc7296-s2.3-01
    NotifyType.IPCOMP_SUPPORTED: (3, 3),
    NotifyType.NAT_DETECTION_SOURCE_IP: (20, 20),
    NotifyType.NAT_DETECTION_DESTINATION_IP: (20, 20),
    NotifyType.COOKIE: (1, 64),  # rfc7296-s2.6-03
}
"""Least and most octets of data, for the types where RFC 7296 fixes them.

Sections 2.7, 2.3, 2.22, 2.23 and 2.6.
"""


def register_data_octets(notify_type: NotifyType, least: int, most: int) -> Registration:
    """Refuse notifies of this type, ours and the peer's, with less or more data. Clash when that is said already."""
    return register_row(DATA_OCTETS, int(notify_type), (least, most), f"the length of {notify_type}")


WITH_SPI = frozenset({NotifyType.INVALID_SELECTORS, NotifyType.REKEY_SA, NotifyType.CHILD_SA_NOT_FOUND})
"""The types that name a Child SA by its SPI. RFC 7296 section 3.10."""


@value(frozen=True, slots=True)
class Notify(PlainPayload):
    """An error or a status. `protocol` and `spi` name the Child SA that it concerns, where it concerns one.

    RFC 7296 section 3.10.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.N
    notify_type: NotifyType
    data: bytes = b""
    protocol: ProtocolId = ProtocolId.NONE
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        """True when the type lies in the range for errors, known or not. RFC 7296 section 3.10.1."""
        return self.notify_type.is_error

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        protocol, spi_octets, notify_type = cursor.unpack(NOTIFY_HEADER)
        if not spi_octets:
            return cls(NotifyType.of(notify_type), cursor.rest())  # rfc7296-s3.10-03
        spi = cursor.octets(spi_octets)
        return cls(NotifyType.of(notify_type), cursor.rest(), ProtocolId.of(protocol), spi)

    def encode_body(self) -> bytes:
        """Protocol, SPI size, type, SPI, data."""
        if not self.spi:
            return NOTIFY_HEADER.pack(ProtocolId.NONE, 0, self.notify_type) + self.data  # rfc7296-s3.10-02
        return NOTIFY_HEADER.pack(self.protocol, len(self.spi), self.notify_type) + self.spi + self.data

    def problem(self, *, sending: bool) -> str | None:
        """The SPI suits the protocol, and the data has the length that the type prescribes."""
        if self.spi:
            # rfc7296-s3.10-04
            if self.protocol == ProtocolId.IKE:
                return f"{self.notify_type} for an IKE SA with an SPI"
            if self.protocol in (ProtocolId.AH, ProtocolId.ESP):
                if len(self.spi) != CHILD_SPI_OCTETS:
                    return f"{self.notify_type} with an SPI of {len(self.spi)} octets for {self.protocol}"
            elif sending or self.notify_type in WITH_SPI:
                # rfc7296-s3.10-01
                return f"{self.notify_type} with an SPI for {self.protocol}"
        elif self.notify_type == NotifyType.REKEY_SA:
            return f"{self.notify_type} without an SPI"
        limits = DATA_OCTETS.get(self.notify_type)
        if limits is not None and not limits[0] <= len(self.data) <= limits[1]:
            return f"{self.notify_type} with {len(self.data)} octets of data"
        return None
