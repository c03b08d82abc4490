"""How large an IP datagram may be on the way to a peer, as ICMP errors tell: kept for a while, not believed blindly.

RFC 1191 sections 3 and 6.3, RFC 8201 section 4, RFC 7383 section 2.5.2.
"""

from __future__ import annotations

from collections import OrderedDict

from ikev2.core.halfopen import TokenBucket

KNOWN_FOR_S = 600.0
"""After so long a path may have become wider: RFC 1191 section 6.3 proposes ten minutes."""
LEAST_IPV4 = 200
"""Less is not believed: it would only make a great many fragments."""
LEAST_IPV6 = 1280
"""No IPv6 path takes less. RFC 8201 section 4."""
_REMEMBERED = 1024


class PathMtus:
    """The path MTU of the peers of one endpoint, in octets of the IP datagram; errors beyond `per_s` are ignored."""

    def __init__(self, per_s: float) -> None:
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._allowed = TokenBucket(per_s)

    def note(self, host: str, octets: int, now: float) -> int:
        """Take what an ICMP error said; what it is worth, 0 when nothing."""
        if octets <= 0 or not self._allowed.take(now):  # RFC 1191 section 5: old routers say nothing
            return 0
        octets = max(octets, LEAST_IPV6 if ":" in host else LEAST_IPV4)
        self._known[host] = (octets, now)
        self._known.move_to_end(host)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return octets

    def get(self, host: str, now: float) -> int:
        """What is known of the way to `host`; 0: nothing."""
        octets, at = self._known.get(host, (0, 0.0))
        return octets if now - at < KNOWN_FOR_S else 0
