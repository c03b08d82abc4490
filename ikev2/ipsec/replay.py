"""The anti-replay window of an inbound SA, with the recovery of extended sequence numbers.

`check` comes before the ICV is verified and `update` after it: a forged packet never moves the window.
RFC 4303 section 3.4.3 and appendix A.
"""

from __future__ import annotations

_LOW_32 = 0xFFFFFFFF
_LEAST_SIZE = 32


class ReplayWindow:
    """Remembers which of the last `size` sequence numbers below the highest one have come.

    A window of 0 switches the service off: every number passes, also 0, with which a sender may go on when its count
    is full (RFC 4303 section 3.3.3). Section 3.4.3 wants at least 32 and prefers 64; the size is the receiver's choice.
    """

    __slots__ = ("_mask", "_seen", "size", "top")

    def __init__(self, size: int = 64) -> None:
        if size < 0:
            raise ValueError(f"a replay window of {size} packets")
        self.size = size
        self.top = 0
        self._seen = 0
        self._mask = (1 << size) - 1

    def check(self, sequence: int) -> bool:
        """True when the number is neither seen nor left of the window; the first number of an SA is 1."""
        if sequence > self.top:
            return True
        if not self.size:
            return sequence >= 0
        if sequence <= 0:
            return False
        behind = self.top - sequence
        return behind < self.size and not (self._seen >> behind) & 1

    def update(self, sequence: int) -> None:
        """Take a number that `check` passed and whose ICV verified."""
        ahead = sequence - self.top
        if ahead > 0:
            self.top = sequence
            # The guard keeps a jump of 2**32 from building a number of that many bits.
            self._seen = ((self._seen << ahead) | 1) & self._mask if ahead < self.size else 1
        elif self.size:  # without a window a packet may be 2**32 numbers late
            self._seen |= 1 << -ahead

    def extended(self, low: int) -> int:
        """The 64-bit sequence number that `low` most likely stands for; under 0 when there is none.

        A window that is switched off counts as one of 32: section 3.4.3 wants no ESN there, and a peer that has it all
        the same may have its packets come out of order. RFC 4303 appendix A2.2.
        """
        top_high, top_low = self.top >> 32, self.top & _LOW_32
        span = (self.size or _LEAST_SIZE) - 1
        if top_low >= span:
            # Case A: the window lies within one subspace of numbers.
            high = top_high if low >= top_low - span else top_high + 1
        else:
            # Case B: its left end lies in the subspace before.
            high = top_high - 1 if low >= (top_low - span) & _LOW_32 else top_high
        return high << 32 | low if high <= _LOW_32 else -1
