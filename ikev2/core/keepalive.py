"""When a host behind a NAT has to remind it of its mapping: after silence of its own, and only then.

A mapping is one pair of addresses and ports, which several IKE SAs and their Child SAs may share. What IKE sends is
told with its time. What ESP sends is only counted (by the backend), so that it is looked at several times in an
interval, and counts from the look before the one that saw it: silence is never longer than the interval.
RFC 3948 section 4, RFC 7296 section 2.23.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ikev2.core.types import Address

if TYPE_CHECKING:
    from ikev2.core.child_sa import ChildSaParameters
    from ikev2.core.ike_sa import IkeSa

LOOKS = 4
"""How many times in an interval the packets of ESP are looked at."""

Path: TypeAlias = tuple[Address, Address]
"""Our address and the peer's, each with its port."""


@dataclass(slots=True)
class Mapping:
    """What a NAT keeps for us: since when we are silent, and what ESP had sent when it was looked at last."""

    interval_s: float
    silent_since: float
    looked_at: float
    spis: dict[int, int] = field(default_factory=dict)

    def next_timer(self) -> float:
        """When it is to be reminded, or what ESP has sent to be looked at."""
        at = self.silent_since + self.interval_s
        return min(at, self.looked_at + self.interval_s / LOOKS) if self.spis else at


class Keepalives:
    """The mappings of one endpoint, sans I/O. Seconds of the driver's clock."""

    def __init__(self) -> None:
        self._mappings: dict[Path, Mapping] = {}

    def sent(self, local: Address, remote: Address, now: float) -> None:
        """Something went out this way: an IKE message, or a keepalive."""
        mapping = self._mappings.get((local, remote))
        if mapping is not None:
            mapping.silent_since = now

    def add(self, sa: IkeSa, now: float) -> float | None:
        """Take the mapping of one more IKE SA beside those that are there; when `due` is to be called for it."""
        interval_s = _interval_s(sa)
        if not interval_s:
            return None
        path = (sa.local, sa.remote)
        mapping = self._mappings.get(path)
        if mapping is None:
            mapping = self._mappings[path] = Mapping(interval_s, now, now)
        mapping.interval_s = min(mapping.interval_s, interval_s)
        for spi in sa.children:
            mapping.spis.setdefault(spi, 0)
        return mapping.next_timer()

    def follow(self, sas: Iterable[IkeSa], now: float) -> list[ChildSaParameters]:
        """Take the mappings that these IKE SAs need now; the Child SAs whose packets `due` asks for.

        Only where it is we who are behind the NAT (rfc7296-s2.23-11), and where `keep_alive_s` is not 0.
        """
        found: dict[Path, Mapping] = {}
        children: list[ChildSaParameters] = []
        for sa in sas:
            interval_s = _interval_s(sa)
            if not interval_s:
                continue
            path = (sa.local, sa.remote)
            before = self._mappings.get(path)
            mapping = found.get(path)
            if mapping is None:
                since, looked_at = (now, now) if before is None else (before.silent_since, before.looked_at)
                mapping = found[path] = Mapping(interval_s, since, looked_at)
            mapping.interval_s = min(mapping.interval_s, interval_s)
            known = {} if before is None else before.spis
            mapping.spis |= {spi: known.get(spi, 0) for spi in sa.children}
            children += [child.params for child in sa.children.values()]
        self._mappings = found
        return children

    def due(self, packets_out: dict[int, int], now: float) -> list[Path]:
        """Where a keepalive is to go now. `packets_out`: what ESP has sent by the SPIs of `follow`."""
        silent = []
        for path, mapping in self._mappings.items():
            counted = {spi: packets_out.get(spi, before) for spi, before in mapping.spis.items()}
            if counted != mapping.spis:
                mapping.silent_since = max(mapping.silent_since, mapping.looked_at)
            mapping.spis, mapping.looked_at = counted, now
            if now - mapping.silent_since >= mapping.interval_s:
                silent.append(path)  # rfc7296-s2.23-11
                mapping.silent_since = now
        return silent

    def next_timer(self) -> float | None:
        """When `follow` and `due` are to be called again, None while there is no mapping to keep."""
        return min((mapping.next_timer() for mapping in self._mappings.values()), default=None)


def _interval_s(sa: IkeSa) -> float:
    """How long the NAT before us may hear nothing of this SA; 0 where there is none, or it needs no reminder."""
    return sa.connection.keep_alive_s if sa.nat.local and sa.established_at is not None else 0.0
