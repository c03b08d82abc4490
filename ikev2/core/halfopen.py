"""What peers that have proved nothing may cost: counts of half-open SAs, and a bucket for unprotected answers.

RFC 7296 sections 2.4, 2.6 and 2.21.4.
"""

from __future__ import annotations

from ikev2.core.config import Limits


class HalfOpenTable:
    """Counts half-open responder SAs, in all and by address. Bounded by the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_spi: dict[bytes, str] = {}
        self._of_host: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._of_spi)

    @property
    def wants_cookies(self) -> bool:
        """True from the threshold on. RFC 7296 section 2.6."""
        return len(self._of_spi) >= self._limits.cookie_threshold  # rfc7296-s2.6-02

    def has_room(self, host: str) -> bool:
        """True when one more from this address is within the limits."""
        return (
            len(self._of_spi) < self._limits.half_open_limit
            and self._of_host.get(host, 0) < self._limits.half_open_per_address
        )

    def set(self, spi: bytes, host: str, *, half_open: bool) -> None:
        """Note whether the SA of this SPI of ours is half-open."""
        if half_open and spi not in self._of_spi:
            self._of_spi[spi] = host
            self._of_host[host] = self._of_host.get(host, 0) + 1
        elif not half_open and (known := self._of_spi.pop(spi, None)) is not None:
            left = self._of_host[known] - 1
            if left:
                self._of_host[known] = left
            else:
                del self._of_host[known]


class TokenBucket:
    """At most `per_s` a second on average, and that many at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._tokens = per_s
        self._at = 0.0

    def take(self, now: float) -> bool:
        """True when one more is allowed now."""
        if self.is_empty(now):
            return False
        self._tokens -= 1
        return True

    def is_empty(self, now: float) -> bool:
        """True when none is allowed now."""
        self._tokens = min(self._per_s, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        return self._tokens < 1
