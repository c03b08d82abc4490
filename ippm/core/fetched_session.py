"""The data of an OWAMP session as Fetch-Session gives it, and as it is kept in a file.

The file is eight octets that say what it is, the session's security mode (four octets as in Set-Up-Response, four that
are zero), and the octets of the answer to Fetch-Session as they are in open mode, with zeros for HMACs. An older form
has no mode. RFC 4656 section 3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from ippm.core.session_schedule import SessionSchedule
from ippm.errors import InvalidMessage
from ippm.iana import Accept, Mode
from ippm.wire.fetch_session import FetchAck
from ippm.wire.packet_record import RECORD_OCTETS, PacketRecord, packet_records
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SKIP_RANGE, SkipRange, pack_skip_ranges, padded, unpack_skip_ranges

MAGIC = b"OWAMPfs2"
MAGIC_WITHOUT_MODE = b"OWAMPfs1"
_MODE = struct.Struct("!II")
_HMAC = bytes(16)
_NUMBER = struct.Struct(">I21x")


@dataclass(frozen=True, slots=True)
class FetchedSession:
    """`finished`: 0 in progress, 1 ended normally, 2 in another way. `records` are 25 octets a packet, as they arrived.

    RFC 4656 section 3.9.
    """

    request: RequestSession
    finished: int
    next_seqno: int
    skip_ranges: tuple[SkipRange, ...]
    records: bytes = field(repr=False)

    @property
    def sid(self) -> bytes:
        """The session identifier."""
        return self.request.sid

    @property
    def packets(self) -> Iterator[PacketRecord]:
        """The records one by one."""
        return packet_records(self.records)

    @property
    def schedule(self) -> SessionSchedule:
        """When its packets were to be sent."""
        return SessionSchedule(self.request.slots, self.sid, self.request.number_of_packets)

    def is_within(self, begin: int, end: int) -> bool:
        """Whether all records are of packets from `begin` to `end`."""
        return all(begin <= number <= end for (number,) in _NUMBER.iter_unpack(self.records))

    def part(self, begin: int, end: int) -> Self:
        """The data of packets from `begin` to `end`; an answer to Fetch-Session has all Skip Ranges of the session.

        RFC 4656 section 3.9.
        """
        ranges = (SkipRange(max(first, begin), min(last, end)) for first, last in self.skip_ranges)
        return replace(self, skip_ranges=tuple(one for one in ranges if one.first <= one.last))

    def encode(self, mode: int = 0) -> bytes:
        """The octets of a file; `mode` is the security mode of the session, 0 when it is not known."""
        ack = FetchAck(
            Accept.OK, self.finished, self.next_seqno, len(self.skip_ranges), len(self.records) // RECORD_OCTETS
        )
        head, slots = self.request.encode()
        parts = (ack.encode(), head, slots, padded(pack_skip_ranges(self.skip_ranges)), padded(self.records))
        return MAGIC + _MODE.pack(mode, 0) + b"".join(part + _HMAC for part in parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Of the octets of a file. Raises InvalidMessage."""
        reader = _Parts(data)
        ack = FetchAck.parse(reader.take(FetchAck.OCTETS))
        head = reader.take(RequestSession.OCTETS)
        request = RequestSession.parse(head, reader.take(RequestSession.slots_octets(head)))
        ranges = SKIP_RANGE.size * ack.number_of_skip_ranges
        skips = reader.take(ranges + -ranges % 16)
        octets = ack.number_of_records * RECORD_OCTETS
        records = reader.take(octets + -octets % 16)[:octets]
        reader.end()
        return cls.of_parts(request, ack, skips, records)

    @classmethod
    def of_parts(cls, request: RequestSession, ack: FetchAck, skips: bytes, records: bytes) -> Self:
        """Of the parts of the answer. InvalidMessage when a Skip Range is not in order.

        What only the end of a session makes known is not taken from one in progress. RFC 4656 section 3.9.
        """
        ranges = unpack_skip_ranges(skips[: SKIP_RANGE.size * ack.number_of_skip_ranges], ack.next_seqno)
        if not ack.finished:
            return cls(request, 0, 0, (), records)
        return cls(request, ack.finished, ack.next_seqno, ranges, records)


def saved_mode(data: bytes) -> Mode:
    """The security mode of a saved session, as the octets of its file say; 0 when they do not. InvalidMessage."""
    return _Parts(data).mode


class _Parts:
    def __init__(self, data: bytes) -> None:
        magic, mode_octets = data[: len(MAGIC)], _MODE.size
        if magic == MAGIC_WITHOUT_MODE:
            mode_octets = 0
        elif magic != MAGIC:
            raise InvalidMessage("this is no saved OWAMP session")
        self._data, self._at = data, len(MAGIC) + mode_octets
        if len(data) < self._at:
            raise InvalidMessage("the saved session ends before its time")
        mode, zero = _MODE.unpack_from(data, len(MAGIC)) if mode_octets else (0, 0)
        if zero or mode not in (0, Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED):
            raise InvalidMessage(f"the saved session has the security mode {mode}")
        self.mode = Mode(mode)

    def take(self, octets: int) -> bytes:
        end = self._at + octets
        if len(self._data) < end + len(_HMAC):
            raise InvalidMessage("the saved session ends before its time")
        part, self._at = self._data[self._at : end], end + len(_HMAC)
        return part

    def end(self) -> None:
        """Raises InvalidMessage when there is more."""
        if self._at != len(self._data):
            raise InvalidMessage(f"{len(self._data) - self._at} octets follow the end of the saved session")
