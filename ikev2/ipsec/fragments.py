"""Fragments of IPv4 and IPv6: whole datagrams out of them, and them out of whole packets.

Transport mode protects whole datagrams only, and a selector with ports cannot see a later fragment's, while a TUN
device hands out what the host has cut to its MTU already, and what networks behind the host have cut. Of a datagram
whose fragments overlap nothing passes, also what comes of it later; a fragment that came twice is one. What is
unfinished goes after a minute, and the oldest when too many are.
RFC 791 section 3.2, RFC 8200 section 4.5, RFC 4303 section 3.3.4, RFC 4301 section 7.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from ikev2.ipsec import ipv6
from ikev2.ipsec.ipv4 import HEADER_OCTETS, MalformedPacket, header_octets, ones_complement_sum, total_length

_MORE = 0x2000
_OFFSET = 0x1FFF
_UNIT = 8
_LONGEST = 65535
_TIMEOUT_S = 60.0
"""From the first fragment on that came. RFC 8200 section 4.5."""
_COPIED = 0x80
_END_OF_OPTIONS, _NO_OPERATION = 0, 1
_U16 = struct.Struct("!H")


class _Datagram:
    """The pieces of one datagram so far."""

    __slots__ = ("end", "header", "pieces", "refused", "since")

    def __init__(self, since: float) -> None:
        self.header = b""
        self.pieces: dict[int, bytes] = {}
        self.end = -1
        self.since = since
        self.refused = False

    def payload(self) -> bytes | None:
        """The octets of all pieces; None while some are missing. Raises MalformedPacket when pieces overlap."""
        at = 0
        whole = self.end >= 0 and bool(self.header)
        for offset in sorted(self.pieces):
            octets = len(self.pieces[offset])
            if offset < at or (self.end >= 0 and offset + octets > self.end):
                raise MalformedPacket("fragments overlap")
            whole = whole and offset == at
            at = offset + octets
        if not whole:
            return None
        return b"".join(self.pieces[offset] for offset in sorted(self.pieces)) if at == self.end else None


class Reassembler:
    """Takes fragments and gives datagrams; remembers at most `limit` unfinished ones. `clock` gives seconds."""

    def __init__(self, limit: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._datagrams: dict[bytes, _Datagram] = {}
        self.given_up = 0
        """Unfinished datagrams that were forgotten."""

    def add(self, packet: bytes) -> bytes | None:
        """The datagram that this fragment completes; None while there is none.

        Raises MalformedPacket when fragments overlap or come to too much, and for all that comes of such a datagram.
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
        if not field & 0xFFF9:
            # Whole in one fragment, it has nothing to do with others of its number. RFC 8200 section 4.5, RFC 6946.
            return ipv6.with_payload_octets(headers, len(packet) - at - 8) + packet[at + 8 :]
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
        now = self._clock()
        self._give_up(now)
        datagram = self._datagrams.get(key) or self._begin(key, now)
        if (
            not datagram.refused
            and datagram.pieces.get(offset) == piece
            and more == (datagram.end != offset + len(piece))
        ):
            return None  # the same once more
        try:
            payload = self._completed(datagram, header, piece, offset, more=more)
        except MalformedPacket:
            datagram.refused = True
            datagram.pieces.clear()
            raise
        if payload is None:
            return None
        del self._datagrams[key]
        return datagram.header, payload

    def _completed(
        self, datagram: _Datagram, header: bytes, piece: bytes, offset: int, *, more: bool
    ) -> bytes | None:
        end = offset + len(piece)
        if datagram.refused or not piece or len(header) + end > _LONGEST:
            raise MalformedPacket(f"a fragment of {len(piece)} octets at {offset}")
        if offset in datagram.pieces or (not more and datagram.end not in (-1, end)):
            raise MalformedPacket("fragments overlap")
        datagram.pieces[offset] = piece
        if not more:
            datagram.end = end
        if not offset:
            datagram.header = header
        payload = datagram.payload()
        if payload is not None and len(datagram.header) + len(payload) > _LONGEST:
            # The first fragment's header may be longer than that of the last.
            raise MalformedPacket(f"fragments of {len(payload)} octets")
        return payload

    def _give_up(self, now: float) -> None:
        datagrams = self._datagrams
        while datagrams and datagrams[oldest := next(iter(datagrams))].since + _TIMEOUT_S <= now:
            del datagrams[oldest]
            self.given_up += 1

    def _begin(self, key: bytes, now: float) -> _Datagram:
        if len(self._datagrams) >= self._limit:
            del self._datagrams[next(iter(self._datagrams))]
            self.given_up += 1
        self._datagrams[key] = fresh = _Datagram(now)
        return fresh


def fragments(packet: bytes, mtu: int) -> list[bytes]:
    """A packet cut to pieces of at most `mtu` octets; the first has the header of the whole.

    The others lack the options that are not to be copied. Raises MalformedPacket when not even eight octets fit
    behind the header. RFC 791 sections 3.1 and 3.2.
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
        if not at and octets > HEADER_OCTETS:
            header = _with_copied_options(header)
    return pieces


def _with_copied_options(header: bytes) -> bytes:
    """The header of a later fragment: without options whose copied flag is off."""
    options, kept, at = header[HEADER_OCTETS:], b"", 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        octets = 1
        if options[at] != _NO_OPERATION:
            octets = options[at + 1] if at + 1 < len(options) else 0
            if not 2 <= octets <= len(options) - at:
                raise MalformedPacket(f"option {options[at]} of an IPv4 header has {octets} octets")
            if options[at] & _COPIED:
                kept += options[at : at + octets]
        at += octets
    kept += bytes(-len(kept) % 4)
    return bytes((0x40 | (HEADER_OCTETS + len(kept)) // 4,)) + header[1:HEADER_OCTETS] + kept


def _header(header: bytes, payload_octets: int, field: int) -> bytes:
    head = bytearray(header)
    _U16.pack_into(head, 2, len(head) + payload_octets)
    _U16.pack_into(head, 6, field)
    head[10:12] = b"\0\0"
    _U16.pack_into(head, 10, 0xFFFF ^ ones_complement_sum(bytes(head)))
    return bytes(head)
