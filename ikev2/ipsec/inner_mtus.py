"""The MTU of the one device that all Child SAs share: what fits through each of them, counted."""

from __future__ import annotations

from collections import Counter

from ikev2.ipsec import ipv6


class InnerMtus:
    """What fits into each pair, by its inbound SPI; a change costs the same however many pairs there are."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, bool]] = {}
        self._counts: Counter[int] = Counter()
        self._of_ipv6 = 0

    def note(self, spi: int, octets: int, *, carries_ipv6: bool) -> None:
        """Packets of `octets` fit into the pair of this SPI, which takes IPv6, too, or not."""
        self.forget(spi)
        self._of[spi] = octets, carries_ipv6
        self._counts[octets] += 1
        self._of_ipv6 += carries_ipv6

    def forget(self, spi: int) -> None:
        """The pair is gone, or was never there."""
        found = self._of.pop(spi, None)
        if found is None:
            return
        octets, carries_ipv6 = found
        self._counts[octets] -= 1
        if not self._counts[octets]:
            del self._counts[octets]
        self._of_ipv6 -= carries_ipv6

    def clear(self) -> None:
        """All pairs are gone."""
        self._of.clear()
        self._counts.clear()
        self._of_ipv6 = 0

    def least(self, otherwise: int) -> int:
        """The MTU in octets that suits all of them; `otherwise` where there is none.

        Never less than 1280 where one carries IPv6: the kernel would take that off the device. RFC 8200 section 5.
        """
        octets = min(self._counts, default=otherwise)
        return max(octets, ipv6.LEAST_MTU) if self._of_ipv6 else octets
