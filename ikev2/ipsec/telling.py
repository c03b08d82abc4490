"""What the engine of ESP has to tell of its SAs, each once or once in a while: the events of a backend.

RFC 4301 sections 4.4.2.1 and 5.2, RFC 7296 sections 2.21.4 and 2.23.
"""

from __future__ import annotations

import time
from collections import deque

from ikev2.core.types import Address
from ikev2.ipsec import ipv4, ipv6
from ikev2.ipsec.backend import SPI_MINIMUM, BackendEvent, Expire, PeerMoved, UnknownSpi, WrongSelectors
from ikev2.ipsec.pair import Pair

TELL_INTERVAL_S = 1.0
"""How often packets under an SPI that is not ours, or against selectors, are worth an event."""
_QUOTED_OCTETS = 128


class Telling:
    """Makes the events in `events`, which another thread takes."""

    def __init__(self) -> None:
        self.events: deque[BackendEvent] = deque()
        self._stray_at = self._mismatch_at = float("-inf")

    def limit(self, pair: Pair, *, hard: bool, inbound: bool) -> None:
        """An SA of the pair has reached a limit: told once."""
        if (hard, inbound) in pair.told:
            return
        pair.told.add((hard, inbound))
        child = pair.child
        spi = child.spi_in if inbound else child.spi_out
        self.events.append(Expire(spi, child.local, child.remote, hard=hard, inbound=inbound))

    def mismatch(self, pair: Pair, payload: bytes, next_header: int) -> None:
        """What came out of an SA is not of its selectors: told once in a while."""
        now = time.monotonic()
        if now - self._mismatch_at < TELL_INTERVAL_S:
            return
        self._mismatch_at = now
        if not pair.tunnel:
            make = ipv4.build_header if len(pair.remote) == 4 else ipv6.build_header
            payload = make(pair.remote, pair.local, next_header, len(payload)) + payload
        self.events.append(WrongSelectors(pair.inbound.spi, payload[:_QUOTED_OCTETS]))

    def stray(self, spi: int, local: Address, remote: Address) -> None:
        """ESP came under an SPI that is not ours: told once in a while."""
        now = time.monotonic()
        if spi >= SPI_MINIMUM and now - self._stray_at >= TELL_INTERVAL_S:
            self._stray_at = now
            self.events.append(UnknownSpi(spi, local, remote))

    def moved(self, pair: Pair, remote: str, remote_port: int) -> None:
        """An authentic packet in UDP came from this address: told when the peer was not there before.

        Never without a replay window: an old packet, sent again from elsewhere, must not move anything.
        RFC 7296 section 2.23.
        """
        if pair.child.encap is None or not pair.child.replay_window:
            return
        if (pair.child.remote, pair.child.encap.remote_port) != (remote, remote_port):
            self.events.append(PeerMoved(pair.inbound.spi, remote, remote_port))
