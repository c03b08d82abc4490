"""The system's entropy, as the object that core takes.

RFC 7296 section 2.10 (nonces) and section 2.6 (SPIs) ask for randomness; nothing else in ikev2 draws any.
"""

from __future__ import annotations

import os


class SystemEntropy:
    """Octets of the kernel's random number generator."""

    def octets(self, n: int) -> bytes:
        """`n` octets that nobody can foresee."""
        return os.urandom(n)
