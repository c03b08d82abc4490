"""The IKE SAs of one endpoint: found by SPI, by the request that began them, by peer; and which of them is due next.

RFC 7296 sections 2.1, 2.4 and 2.6.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Iterator
from typing import TypeAlias

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.identity import Identity, may_be_one
from ikev2.core.ike_sa import IkeSa
from ikev2.core.state import WITH_PEER, State
from ikev2.core.types import Role

_Identities: TypeAlias = tuple[Identity | None, Identity | None]
"""Ours and the peer's."""


class SaTable:
    """IKE SAs by the SPI that is ours, oldest first; those that are closed and only answer retransmissions, too."""

    def __init__(self) -> None:
        self._by_spi: dict[bytes, IkeSa] = {}
        self._by_request: dict[bytes, bytes] = {}
        self._request_of: dict[bytes, bytes] = {}
        self._of_identities: dict[_Identities, dict[bytes, IkeSa]] = {}
        self._at_host: dict[str, dict[bytes, IkeSa]] = {}
        self._host_of: dict[bytes, str] = {}
        self._timers: list[tuple[float, int, bytes]] = []
        self._timer_of: dict[bytes, float] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._by_spi)

    def __iter__(self) -> Iterator[IkeSa]:
        return iter(list(self._by_spi.values()))

    def __contains__(self, spi: bytes) -> bool:
        return spi in self._by_spi

    def has_pair(self, spi_i: bytes, spi_r: bytes) -> bool:
        """True when there is an SA of these SPIs, in the order of the IKE header."""
        found = (self._by_spi.get(spi) for spi in (spi_i, spi_r))
        return any(sa is not None and (sa.spi_i, sa.spi_r) == (spi_i, spi_r) for sa in found)

    def add(self, sa: IkeSa, digest: bytes | None = None) -> None:
        """Keep an SA; `digest` is of the request that began it."""
        spi = own_spi(sa)
        self._by_spi[spi] = sa
        self.place(sa)
        if digest is not None:
            self._by_request[digest] = spi
            self._request_of[spi] = digest

    def forget(self, sa: IkeSa) -> None:
        """Drop an SA that is finished."""
        spi = own_spi(sa)
        self._by_spi.pop(spi, None)
        self._timer_of.pop(spi, None)
        self._leave_host(spi)
        digest = self._request_of.pop(spi, None)
        if digest is not None:
            self._by_request.pop(digest, None)
        alike = self._of_identities.get((sa.local_id, sa.peer_id), {})
        if alike.pop(spi, None) is not None and not alike:
            del self._of_identities[sa.local_id, sa.peer_id]

    def place(self, sa: IkeSa) -> None:
        """Note where the peer of an SA that is kept here is by now."""
        spi, host = own_spi(sa), sa.remote.host
        if self._host_of.get(spi) != host:
            self._leave_host(spi)
            self._host_of[spi] = host
            self._at_host.setdefault(host, {})[spi] = sa

    def _leave_host(self, spi: bytes) -> None:
        host = self._host_of.pop(spi, None)
        if host is not None and (there := self._at_host[host]).pop(spi, None) is not None and not there:
            del self._at_host[host]

    def authenticated(self, sa: IkeSa) -> None:
        """Note between whom an established SA is."""
        self._of_identities.setdefault((sa.local_id, sa.peer_id), {})[own_spi(sa)] = sa

    def others_between(self, sa: IkeSa) -> list[IkeSa]:
        """The other established SAs between the same two identities, oldest first."""
        alike = self._of_identities.get((sa.local_id, sa.peer_id), {})
        return [other for other in alike.values() if other is not sa]

    # --- looking up ----------------------------------------------------------------------------------------------

    def by_spi(self, spi: bytes) -> IkeSa | None:
        """The SA whose SPI of ours this is. RFC 7296 section 2.6."""
        return self._by_spi.get(spi)

    def by_request(self, digest: bytes) -> IkeSa | None:
        """The SA that this request has begun: it is known by the whole of it. RFC 7296 section 2.1."""
        spi = self._by_request.get(digest)
        return None if spi is None else self._by_spi.get(spi)

    def established(self, spi_i: bytes, spi_r: bytes) -> IkeSa | None:
        """The established IKE SA of these SPIs, in the order of the IKE header."""
        for spi in (spi_i, spi_r):
            sa = self._by_spi.get(spi)
            if sa is not None and (sa.spi_i, sa.spi_r) == (spi_i, spi_r) and _has_keys(sa):
                return sa
        return None

    def by_peer(self, host: str) -> list[IkeSa]:
        """Established IKE SAs whose peer has this address, or whose Child SAs lead to it; the newest first.

        An SA whose peer itself has the address goes before one that only leads there.
        """
        found = [
            (sa.remote.host == host, sa.established_at or 0.0, serial, sa)
            for serial, sa in enumerate(self._by_spi.values())
            if _has_keys(sa) and (sa.remote.host == host or _leads_to(sa, host))
        ]
        return [sa for *_, sa in sorted(found, key=lambda entry: entry[1:3], reverse=True)]

    def others_behind(self, sa: IkeSa) -> list[IkeSa]:
        """The IKE SAs of other peers that are seen under the address of this one's, behind a NAT.

        What comes of rekeying or reauthenticating, or anew after a crash, is of the same peer.
        """
        return [
            other
            for other in self._at_host.get(sa.remote.host, {}).values()
            if other.established_at is not None
            and other.state is not State.CLOSED
            and other.peer_id is not None
            and (sa.peer_id is None or not other.peer_id.matches(sa.peer_id))
        ]

    def at_host(self, host: str) -> list[IkeSa]:
        """Established IKE SAs whose peer has this address; the newest first, and no other is looked at."""
        found = [sa for sa in reversed(self._at_host.get(host, {}).values()) if _has_keys(sa)]
        return sorted(found, key=lambda sa: sa.established_at or 0.0, reverse=True)

    def is_only_sa(self, sa: IkeSa) -> bool:
        """True when no other SA that may be of this connection's identities is there, or on its way.

        An identity that is not known before the peer says it may be any. RFC 7296 section 2.4.
        """
        wanted = sa.connection
        return not any(
            other is not sa
            and other.state is not State.CLOSED
            and may_be_one(wanted.local_id, other.connection.local_id)
            and may_be_one(wanted.remote_id, other.peer_id or other.connection.remote_id)
            for other in self._by_spi.values()
        )

    def owner(self, child: ChildSaParameters) -> IkeSa | None:
        """The SA that has this Child SA: the one that made it, or one that came of its rekeying."""
        for spi in (child.ike_spi_i, child.ike_spi_r):
            maker = self._by_spi.get(spi)
            if maker is not None and child.spi_in in maker.children:
                return maker
        return next((sa for sa in self._by_spi.values() if child.spi_in in sa.children), None)

    def owner_of_spi(self, spi_in: int) -> IkeSa | None:
        """The SA one of whose Child SAs receives on this SPI."""
        return next((sa for sa in self._by_spi.values() if spi_in in sa.children), None)

    # --- timers --------------------------------------------------------------------------------------------------

    def arm(self, sa: IkeSa) -> None:
        """Note when this SA wants its `handle_timer` called."""
        spi, at = own_spi(sa), sa.next_timer()
        if at is None:
            self._timer_of.pop(spi, None)
        elif self._timer_of.get(spi) != at:
            self._timer_of[spi] = at
            self._serial += 1
            heapq.heappush(self._timers, (at, self._serial, spi))

    def next_timer(self) -> float | None:
        """The next of these times."""
        while self._timers and self._timer_of.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def take_due(self, now: float) -> Iterator[IkeSa]:
        """The SAs whose time has come, one after the other."""
        while self._timers and self._timers[0][0] <= now:
            at, _, spi = heapq.heappop(self._timers)
            sa = self._by_spi.get(spi)
            if sa is not None and self._timer_of.get(spi) == at:
                del self._timer_of[spi]
                yield sa


def own_spi(sa: IkeSa) -> bytes:
    """Of the two SPIs, the one that is ours."""
    return sa.spi_i if sa.role is Role.INITIATOR else sa.spi_r


def _has_keys(sa: IkeSa) -> bool:
    return sa.established_at is not None and sa.state in WITH_PEER and sa.keys is not None


def _leads_to(sa: IkeSa, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError:
        return False
    return any(
        len(ts.start_address) == len(address) and ts.start_address <= address <= ts.end_address
        for child in sa.children.values()
        for ts in child.params.ts_remote
    )
