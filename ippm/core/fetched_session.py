"""The data of an OWAMP session as Fetch-Session gives it, and as it is kept in a file.

The file is the octets of the answer to Fetch-Session as they are in open mode, with zeros for HMACs, after eight octets
that say what it is. RFC 4656 section 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from ippm.core.session_schedule import SessionSchedule
from ippm.errors import InvalidMessage
from ippm.iana import Accept
from ippm.wire.fetch_session import FetchAck
from ippm.wire.packet_record import RECORD_OCTETS, PacketRecord, packet_records
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SKIP_RANGE, SkipRange, pack_skip_ranges, padded, unpack_skip_ranges

MAGIC = b"OWAMPfs1"
_HMAC = bytes(16)


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

    def encode(self) -> bytes:
        """The octets of a file."""
        ack = FetchAck(
            Accept.OK, self.finished, self.next_seqno, len(self.skip_ranges), len(self.records) // RECORD_OCTETS
        )
        head, slots = self.request.encode()
        parts = (ack.encode(), head, slots, padded(pack_skip_ranges(self.skip_ranges)), padded(self.records))
        return MAGIC + b"".join(part + _HMAC for part in parts)

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
        return cls.of_parts(request, ack, skips, records)

    @classmethod
    def of_parts(cls, request: RequestSession, ack: FetchAck, skips: bytes, records: bytes) -> Self:
        """Of the parts of the answer. InvalidMessage when a Skip Range is not in order."""
        ranges = unpack_skip_ranges(skips[: SKIP_RANGE.size * ack.number_of_skip_ranges], ack.next_seqno)
        return cls(request, ack.finished, ack.next_seqno, ranges, records)


class _Parts:
    def __init__(self, data: bytes) -> None:
        if data[: len(MAGIC)] != MAGIC:
            raise InvalidMessage("this is no saved OWAMP session")
        self._data, self._at = data, len(MAGIC)

    def take(self, octets: int) -> bytes:
        end = self._at + octets
        if len(self._data) < end + len(_HMAC):
            raise InvalidMessage("the saved session ends before its time")
        part, self._at = self._data[self._at : end], end + len(_HMAC)
        return part
