"""Stop-Sessions of OWAMP, with its session description records. RFC 4656 section 3.8."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage
from ippm.iana import Accept, Command
from ippm.wire.octets import exactly, fits
from ippm.wire.skip_ranges import SKIP_RANGE, SkipRange, pack_skip_ranges, padded, unpack_skip_ranges

_HEADER = struct.Struct(">B B 2x I 8x")
_DESCRIPTION = struct.Struct(">16s I I")


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a sender says of a session: the next sequence number, and which packets it did not send.

    RFC 4656 section 3.8.
    """

    sid: bytes
    next_seqno: int
    skip_ranges: tuple[SkipRange, ...] = ()

    def encode(self) -> bytes:
        """24 octets and 8 a Skip Range, padded to whole blocks."""
        ranges = pack_skip_ranges(self.skip_ranges)
        return padded(_DESCRIPTION.pack(fits("SID", self.sid, 16), self.next_seqno, len(self.skip_ranges)) + ranges)


@dataclass(frozen=True, slots=True)
class StopSessionsWithDescriptions:
    """Stop-Sessions as OWAMP has it: 16 octets, a description of each session that its sender sends, and an HMAC.

    RFC 4656 section 3.8.
    """

    COMMAND: ClassVar[Command] = Command.STOP_SESSIONS

    descriptions: tuple[SessionDescription, ...] = ()
    accept: Accept = Accept.OK

    def encode(self) -> bytes:
        """Whole blocks, not encrypted, without the HMAC."""
        head = _HEADER.pack(self.COMMAND, self.accept, len(self.descriptions))
        return head + b"".join(description.encode() for description in self.descriptions)

    @staticmethod
    def octets(body: bytes, maximum_sessions: int, maximum_skip_ranges: int) -> int:
        """How long the message is, as far as `body`, its beginning, tells: at least `len(body)`.

        InvalidMessage when there are more sessions, or in all of them together more Skip Ranges, than there can be.
        `body` has 16 octets or more.
        """
        _, _, number = _HEADER.unpack_from(body)
        if number > maximum_sessions:
            raise InvalidMessage(f"Stop-Sessions describes {number} sessions, and there are {maximum_sessions}")
        at, left = _HEADER.size, maximum_skip_ranges
        for _ in range(number):
            if len(body) < at + _DESCRIPTION.size:
                return at + len(padded(bytes(_DESCRIPTION.size)))
            _, _, ranges = _DESCRIPTION.unpack_from(body, at)
            if ranges > left:
                raise InvalidMessage(f"a session with {ranges} Skip Ranges: there can be {left}")
            left -= ranges
            octets = _DESCRIPTION.size + ranges * SKIP_RANGE.size
            at += octets + -octets % 16
        return max(at, len(body))

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """From exactly the whole message, decrypted, without the HMAC. Raises InvalidMessage."""
        if len(body) < _HEADER.size:
            raise InvalidMessage(f"Stop-Sessions has {len(body)} octets")
        command, accept, number = _HEADER.unpack_from(body)
        if command != cls.COMMAND:
            raise InvalidMessage(f"Command Number {command} is not Stop-Sessions")
        exactly(body, cls.octets(body, len(body) // 32, len(body) // SKIP_RANGE.size), "Stop-Sessions")
        at = _HEADER.size
        descriptions = []
        for _ in range(number):
            sid, next_seqno, ranges = _DESCRIPTION.unpack_from(body, at)
            octets = _DESCRIPTION.size + ranges * SKIP_RANGE.size
            skips = unpack_skip_ranges(body[at + _DESCRIPTION.size : at + octets], next_seqno)
            descriptions.append(SessionDescription(sid, next_seqno, skips))
            at += octets + -octets % 16
        exactly(body, at, "Stop-Sessions")
        return cls(tuple(descriptions), Accept(accept))
