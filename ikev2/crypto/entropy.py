"""Where random octets come from: an object that the caller hands in, so that a handshake can be replayed."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """A source of unpredictable octets. Outside of tests: the operating system's."""

    def octets(self, count: int, /) -> bytes:
        """`count` fresh octets."""
        ...
