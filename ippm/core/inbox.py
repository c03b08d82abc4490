"""Octets that came over TCP, until there are as many as the next message needs."""

from __future__ import annotations


class Inbox:
    """A queue of octets, taken in exact amounts."""

    __slots__ = ("_octets",)

    def __init__(self) -> None:
        self._octets = bytearray()

    def __len__(self) -> int:
        return len(self._octets)

    def add(self, data: bytes) -> None:
        """More octets from the peer."""
        self._octets += data

    def take(self, n: int) -> bytes | None:
        """The first `n` octets, or None while there are fewer."""
        if len(self._octets) < n:
            return None
        taken = bytes(self._octets[:n])
        del self._octets[:n]
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._octets.clear()
