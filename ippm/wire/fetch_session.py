"""Fetch-Session and Fetch-Ack. RFC 4656 section 3.9."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage
from ippm.iana import Accept, Command
from ippm.wire.octets import exactly, fits

_FETCH = struct.Struct(">B 7x I I 16s")
_ACK = struct.Struct(">B B 2x I I I")
LAST_SEQNO = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FetchSession:
    """Fetch-Session: 32 octets and an HMAC. From `begin` to `end`, both included; 0 to all ones is all of a session.

    RFC 4656 section 3.9.
    """

    COMMAND: ClassVar[Command] = Command.FETCH_SESSION
    OCTETS: ClassVar[int] = _FETCH.size

    sid: bytes
    begin: int = 0
    end: int = LAST_SEQNO

    @property
    def complete(self) -> bool:
        """True when the complete session is requested."""
        return self.begin == 0 and self.end == LAST_SEQNO

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 32 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        command, begin, end, sid = _FETCH.unpack(exactly(data, cls.OCTETS, "Fetch-Session"))
        if command != cls.COMMAND:
            raise InvalidMessage(f"Command Number {command} is not Fetch-Session")
        return cls(sid, begin, end)

    def encode(self) -> bytes:
        """32 octets, not encrypted, without the HMAC."""
        return _FETCH.pack(self.COMMAND, self.begin, self.end, fits("SID", self.sid, 16))


@dataclass(frozen=True, slots=True)
class FetchAck:
    """Fetch-Ack: 16 octets and an HMAC. In a refusal everything but `accept` is zero.

    `finished` is not zero when the session has ended: 1 normally, 2 in another way. RFC 4656 section 3.9.
    """

    OCTETS: ClassVar[int] = _ACK.size

    accept: Accept
    finished: int = 0
    next_seqno: int = 0
    number_of_skip_ranges: int = 0
    number_of_records: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 16 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        accept, *rest = _ACK.unpack(exactly(data, cls.OCTETS, "Fetch-Ack"))
        return cls(Accept(accept), *rest) if accept == 0 else cls(Accept(accept))  # rfc4656-s3.9-05

    def encode(self) -> bytes:
        """16 octets, not encrypted, without the HMAC."""
        if self.accept != Accept.OK:
            return _ACK.pack(self.accept, 0, 0, 0, 0)  # rfc4656-s3.9-04
        ended = self.finished != 0
        return _ACK.pack(
            self.accept,
            self.finished,
            self.next_seqno if ended else 0,  # rfc4656-s3.9-06
            self.number_of_skip_ranges if ended else 0,  # rfc4656-s3.9-07
            self.number_of_records,
        )
