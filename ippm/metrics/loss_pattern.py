"""How losses are spread over a stream: the distances between them, and the periods that they make. RFC 3357."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossPattern:
    """`lost` are packets; `period_lengths` how many were lost in each loss period, in order (section 6.3).

    `distances` has one entry a lost packet: how far the last lost one lies back, 0 for the first (section 5.4.1).
    `inter_period_lengths` has one entry a period: from its first lost packet back to the last of the period before, 0
    for the first (section 6.4). RFC 3357.
    """

    period_lengths: tuple[int, ...]
    distances: tuple[int, ...]
    inter_period_lengths: tuple[int, ...]

    @property
    def lost(self) -> int:
        """Lost packets."""
        return len(self.distances)

    @property
    def periods(self) -> int:
        """Loss periods. Section 6.2."""
        return len(self.period_lengths)

    def noticeable(self, delta: int) -> int:
        """Losses that are noticeable: not farther than `delta` from the loss before. Section 6.1."""
        return sum(0 < distance <= delta for distance in self.distances)


def loss_pattern(lost: Iterable[int]) -> LossPattern:
    """The pattern of lost packets, given by their places among the packets sent, in ascending order.

    These are the sequence numbers of section 5.4.1, which go up by one from a packet to the next. RFC 3357.
    """
    lengths: list[int] = []
    distances: list[int] = []
    between: list[int] = []
    last: int | None = None
    for number in lost:
        distance = 0 if last is None else number - last
        distances.append(distance)
        if distance == 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
            between.append(distance)
        last = number
    return LossPattern(tuple(lengths), tuple(distances), tuple(between))
