"""The octets of one direction of a TCP connection, in order, from segments in any order. RFC 9293 section 3.4."""

from __future__ import annotations

from ippm.decode.packets import TcpSegment

_MAXIMUM_WAITING = 4 << 20
"""Octets that are kept behind a gap; with more of them the gap is taken to stay."""


class Stream:
    """Takes segments, gives octets. What comes twice is taken once, the first copy."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._waiting: dict[int, tuple[int, bytes]] = {}
        self._waiting_octets = 0
        self.from_the_start = False
        """True when the direction's first segment was captured."""
        self.broken = False
        """True when octets are missing for good."""

    @property
    def missing(self) -> int:
        """How many octets the first gap has that later segments lie behind; 0 when there is none."""
        if not self._waiting or self._next is None:
            return 0
        return min((sequence - self._next) & 0xFFFFFFFF for sequence in self._waiting)

    def feed(self, segment: TcpSegment, time_ns: int) -> list[tuple[int, bytes]]:
        """The octets that are in order now, each with the time of the segment that brought them."""
        sequence = segment.sequence
        if segment.is_syn:
            self._next = sequence = (sequence + 1) & 0xFFFFFFFF
            self.from_the_start = True
        if self._next is None:
            self._next = sequence
        if not segment.data or self.broken:
            return []
        self._keep(sequence, time_ns, segment.data)
        return self._in_order(self._next)

    def _keep(self, sequence: int, time_ns: int, data: bytes) -> None:
        known = self._waiting.get(sequence)
        if known is None or len(known[1]) < len(data):
            self._waiting_octets += len(data) - (len(known[1]) if known else 0)
            self._waiting[sequence] = time_ns, data

    def _in_order(self, following: int) -> list[tuple[int, bytes]]:
        taken = []
        while True:
            best = self._best(following)
            if best is None:
                break
            time_ns, data = self._waiting.pop(best)
            self._waiting_octets -= len(data)
            data = data[(following - best) & 0xFFFFFFFF :]
            if data:
                following = (following + len(data)) & 0xFFFFFFFF
                taken.append((time_ns, data))
        self._next = following
        if self._waiting_octets > _MAXIMUM_WAITING:
            self.broken = True
        return taken

    def _best(self, following: int) -> int | None:
        """The segment that begins at, or before, the next octet."""
        if following in self._waiting:
            return following
        return next((at for at in self._waiting if (following - at) & 0xFFFFFFFF < 1 << 31), None)
