"""When dummy packets are due: each pair that wants them sends one at random moments, of a random length.

RFC 4303 section 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import SystemRandom

from ikev2.core.child_sa import ChildSaParameters

_random = SystemRandom()


class DummySchedule:
    """Moments are seconds of one clock. Between two packets of a pair lies anything up to twice its interval.

    `uniform` draws from between two figures.
    """

    def __init__(self, uniform: Callable[[float, float], float] = _random.uniform) -> None:
        self._uniform = uniform
        self._due: dict[int, tuple[float, ChildSaParameters]] = {}
        self._next = math.inf

    def __bool__(self) -> bool:
        """Whether there are any to be sent."""
        return bool(self._due)

    def add(self, child: ChildSaParameters, now: float) -> None:
        """A pair begins to send them."""
        self._due[child.spi_in] = now + self._uniform(0, 2 * child.dummies.interval_s), child
        self._settle()

    def drop(self, spi_in: int) -> None:
        """The pair of this inbound SPI sends them no more, if it did."""
        if self._due.pop(spi_in, None) is not None:
            self._settle()

    def wait_ms(self, now: float) -> int | None:
        """How long until the next one, rounded up; None for ever."""
        return None if self._next == math.inf else max(0, math.ceil((self._next - now) * 1000))

    def due(self, now: float) -> list[tuple[ChildSaParameters, int]]:
        """Whose moment has come, with the octets that each is to send."""
        if now < self._next:
            return []
        ready = [child for at, child in self._due.values() if at <= now]
        for child in ready:
            self.add(child, now)
        return [(child, round(self._uniform(*child.dummies.octets))) for child in ready]

    def _settle(self) -> None:
        self._next = min((at for at, _ in self._due.values()), default=math.inf)
