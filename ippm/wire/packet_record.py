"""Packet records: what a Session-Receiver keeps of each packet, received or lost. RFC 4656 section 3.9."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from ippm.errors import InvalidMessage

RECORD = struct.Struct(">IHHQQB")
"""Seq Number, Send Error Estimate, Receive Error Estimate, Send Timestamp, Receive Timestamp, TTL: 25 octets."""

RECORD_OCTETS = RECORD.size
LOST_SEND_ERROR = 0x0001
"""The Send Error Estimate of a lost packet: Multiplier 1, S 0, and Scale 64, of which the six bits of the field hold 0.

The next bit would be the one that MUST be zero (section 4.1.2). A record is one of a lost packet by its Receive
Timestamp, which is zero, not by this."""
LOST_TTL = 255


@dataclass(frozen=True, slots=True)
class PacketRecord:
    """A packet record of 25 octets; stamps are NTP, error estimates their 16 bits. RFC 4656 section 3.9."""

    sequence_number: int
    send_error: int
    receive_error: int
    send_timestamp: int
    receive_timestamp: int
    ttl: int

    @property
    def lost(self) -> bool:
        """True for a packet that did not come in time."""
        return self.receive_timestamp == 0

    @classmethod
    def of_lost(cls, sequence_number: int, send_timestamp: int, receive_error: int) -> Self:
        """The record of a packet that did not come; `send_timestamp` is the presumed one of the schedule."""
        return cls(sequence_number, LOST_SEND_ERROR, receive_error, send_timestamp, 0, LOST_TTL)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 25 octets. Raises InvalidMessage."""
        if len(data) != RECORD_OCTETS:
            raise InvalidMessage(f"a packet record has {len(data)} octets, not {RECORD_OCTETS}")
        return cls(*RECORD.unpack(data))

    def encode(self) -> bytes:
        """25 octets."""
        return RECORD.pack(
            self.sequence_number,
            self.send_error,
            self.receive_error,
            self.send_timestamp,
            self.receive_timestamp,
            self.ttl,
        )


def packet_records(data: bytes) -> Iterator[PacketRecord]:
    """The records in whole 25 octets each. Raises InvalidMessage."""
    if len(data) % RECORD_OCTETS:
        raise InvalidMessage(f"{len(data)} octets are no whole number of packet records")
    return (PacketRecord(*fields) for fields in RECORD.iter_unpack(data))


def records_octets(number: int) -> int:
    """The octets of so many records on the wire, padded to whole blocks of 16."""
    octets = number * RECORD_OCTETS
    return octets + -octets % 16
