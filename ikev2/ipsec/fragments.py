"""Fragments of IPv4 and IPv6: whole datagrams out of them, and them out of whole packets.

Transport mode protects whole datagrams only, and a selector with ports cannot see a later fragment's, while a TUN
device hands out what the host has cut to its MTU already. Fragments from the host come complete and together, so
that there is no timer: the oldest unfinished datagram goes when too many are unfinished.
RFC 791 section 3.2, RFC 8200 section 4.5, RFC 4303 section 3.3.4, RFC 4301 section 7.
"""

from __future__ import annotations

import struct

from ikev2.ipsec import ipv6
from ikev2.ipsec.ipv4 import MalformedPacket, header_octets, ones_complement_sum, total_length

_MORE = 0x2000
_OFFSET = 0x1FFF
_UNIT = 8
_LONGEST = 65535
_U16 = struct.Struct("!H")


class _Datagram:
    """The pieces of one datagram so far."""

    __slots__ = ("end", "header", "pieces")

    def __init__(self) -> None:
        self.header = b""
        self.pieces: dict[int, bytes] = {}
        self.end = -1

    def payload(self) -> bytes | None:
        """The octets of all pieces; None while some are missing. Raises MalformedPacket when pieces overlap."""
        if self.end < 0 or not self.header:
            return None
        at = 0
        for offset in sorted(self.pieces):
            if offset < at or offset + len(self.pieces[offset]) > self.end:
                raise MalformedPacket("fragments overlap")
            if offset > at:
                return None
            at += len(self.pieces[offset])
        return b"".join(self.pieces[offset] for offset in sorted(self.pieces)) if at == self.end else None


class Reassembler:
    """Takes fragments and gives datagrams; remembers at most `limit` unfinished ones."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._datagrams: dict[bytes, _Datagram] = {}
        self.given_up = 0
        """Unfinished datagrams that were forgotten."""

    def add(self, packet: bytes) -> bytes | None:
        """The datagram that this fragment completes; None while there is none.

        Raises MalformedPacket, and forgets the datagram, when fragments overlap or come to too much.
        """
        if packet[0] >> 4 == 6:
            return self._add6(packet)
        octets = header_octets(packet)
        field = packet[6] << 8 | packet[7]
        offset = (field & _OFFSET) * _UNIT
        piece = packet[octets : total_length(packet)]
        key = packet[4:6] + packet[9:10] + packet[12:20]
        found = self._put(key, packet[:octets], piece, offset, more=bool(field & _MORE))
        if found is None:
            return None
        header, payload = found
        return _header(header, len(payload), field & ~(_MORE | _OFFSET)) + payload

    def _add6(self, packet: bytes) -> bytes | None:
        """The same for IPv6: the headers before the Fragment header, and what it names, become those of the whole."""
        chain = ipv6.chain_of(packet)
        at = chain.fragment_at
        headers = ipv6.with_payload(packet[:at], chain.fragment_name, packet[at], 0)
        field = packet[at + 2] << 8 | packet[at + 3]
        found = self._put(
            packet[at + 4 : at + 8] + packet[8:40], headers, packet[at + 8 :], field & 0xFFF8, more=bool(field & 1)
        )
        if found is None:
            return None
        header, payload = found
        return ipv6.with_payload_octets(header, len(payload)) + payload

    def _put(
        self, key: bytes, header: bytes, piece: bytes, offset: int, *, more: bool
    ) -> tuple[bytes, bytes] | None:
        """Header and payload of the datagram that this piece completes."""
        octets = len(header)
        datagram = self._datagrams.get(key) or self._begin(key)
        if offset in datagram.pieces or octets + offset + len(piece) > _LONGEST or not piece:
            del self._datagrams[key]
            raise MalformedPacket(f"a fragment of {len(piece)} octets at {offset}")
        datagram.pieces[offset] = piece
        if not more:
            datagram.end = offset + len(piece)
        if not offset:
            datagram.header = header
        try:
            payload = datagram.payload()
            if payload is not None and len(datagram.header) + len(payload) > _LONGEST:
                # The first fragment's header may be longer than that of the last.
                raise MalformedPacket(f"fragments of {len(payload)} octets")
        except MalformedPacket:
            del self._datagrams[key]
            raise
        if payload is None:
            return None
        del self._datagrams[key]
        return datagram.header, payload

    def _begin(self, key: bytes) -> _Datagram:
        if len(self._datagrams) >= self._limit:
            del self._datagrams[next(iter(self._datagrams))]
            self.given_up += 1
        self._datagrams[key] = fresh = _Datagram()
        return fresh


def fragments(packet: bytes, mtu: int) -> list[bytes]:
    """A packet cut to pieces of at most `mtu` octets, every one with the header of the whole.

    Raises MalformedPacket when not even eight octets fit behind the header.
    """
    octets = header_octets(packet)
    room = (mtu - octets) // _UNIT * _UNIT
    if room <= 0:
        raise MalformedPacket(f"a header of {octets} octets in an MTU of {mtu}")
    header, payload = packet[:octets], packet[octets : total_length(packet)]
    field = packet[6] << 8 | packet[7]
    pieces = []
    for at in range(0, len(payload), room):
        piece = payload[at : at + room]
        more = _MORE if at + room < len(payload) else field & _MORE
        place = (field & _OFFSET) + at // _UNIT
        pieces.append(_header(header, len(piece), field & ~(_MORE | _OFFSET) | more | place) + piece)
    return pieces


def _header(header: bytes, payload_octets: int, field: int) -> bytes:
    head = bytearray(header)
    _U16.pack_into(head, 2, len(head) + payload_octets)
    _U16.pack_into(head, 6, field)
    head[10:12] = b"\0\0"
    _U16.pack_into(head, 10, 0xFFFF ^ ones_complement_sum(bytes(head)))
    return bytes(head)
