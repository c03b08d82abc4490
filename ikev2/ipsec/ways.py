"""On which pair a flow came, where several peers have Child SAs of the same selectors: its answers go back on it.

Two clients behind one NAT in transport mode, or two with one address of a private network in tunnels, cannot be told
apart by what is sent to them, so what they sent last decides. RFC 3948 sections 5.1 and 5.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from ikev2.core.child_sa import ChildSaParameters
from ikev2.ipsec import ip
from ikev2.ipsec.ipv4 import Flow
from ikev2.ipsec.pair import Pair
from ikev2.ipsec.spd import Policy

_KNOWN_FLOWS = 4096

_Key: TypeAlias = tuple[int, int, int, int, int]
_Peer: TypeAlias = tuple[str, int]


class Ways:
    """Which peers have which selectors; `contested` while some are of several, and only then is there more to know."""

    def __init__(self) -> None:
        self.contested = False
        self._peers: dict[Policy, Counter[_Peer]] = {}
        self._shared = 0
        self._of: dict[_Key, Pair] = {}

    def add(self, pair: Pair) -> bool:
        """A pair is there: whether another peer has its selectors already."""
        peers = self._peers.setdefault(pair.policy, Counter())
        before = len(peers)
        peers[_peer(pair.child)] += 1
        self._count(before, len(peers))
        return len(peers) > 1

    def remove(self, policy: Policy, child: ChildSaParameters) -> None:
        """What a pair was when it was added is no more: it is gone, or another."""
        peers, peer = self._peers[policy], _peer(child)
        before = len(peers)
        peers[peer] -= 1
        if not peers[peer]:
            del peers[peer]
        self._count(before, len(peers))
        if not peers:
            del self._peers[policy]

    def clear(self) -> None:
        """There is no pair any more."""
        self._peers.clear()
        self._of = {}
        self._shared, self.contested = 0, False

    def _count(self, before: int, after: int) -> None:
        self._shared += (after > 1) - (before > 1)
        self.contested = self._shared > 0
        if not self.contested:
            self._of = {}

    def note(self, pair: Pair, packet: bytes) -> bool:
        """A packet came on a pair: whether those of its flow came on another one until now. Raises MalformedPacket."""
        flow = ip.flow_of(packet)
        key = _key(flow, flow.destination, flow.source, flow.destination_port, flow.source_port)
        ways = self._of
        if ways.get(key) is pair:
            return False
        if len(ways) >= _KNOWN_FLOWS:
            ways.pop(next(iter(ways)), None)
        ways[key] = pair
        return True

    def choose(self, flow: Flow, pairs: Sequence[Pair]) -> Pair:
        """Of pairs with the same selectors, the first of the peer that the flow came from; the first of all else."""
        way = self._of.get(_key(flow, flow.source, flow.destination, flow.source_port, flow.destination_port))
        if way is None:
            return pairs[0]
        peer = _peer(way.child)
        return next((pair for pair in pairs if _peer(pair.child) == peer), pairs[0])


def _peer(child: ChildSaParameters) -> _Peer:
    encap = child.encap
    return child.remote, encap.remote_port if encap is not None else 0


def _key(flow: Flow, source: int, destination: int, source_port: int, destination_port: int) -> _Key:
    """Types of messages are no ports: request and answer have others."""
    if min(source_port, destination_port) < 0:
        source_port = destination_port = 0
    return flow.ip_protocol, source, destination, source_port, destination_port
