"""Octets from the system's generator."""

from __future__ import annotations

import os


class SystemEntropy:
    """An Entropy over getrandom(2). RFC 4656 section 3.1: keys need all of their entropy."""

    def octets(self, n: int) -> bytes:
        """`n` octets."""
        return os.urandom(n)
