"""Traps of the backends that do ESP themselves: which traffic asks for a Child SA, and how often it is told.

RFC 4301 section 4.4.1, RFC 7296 section 2.9.
"""

from __future__ import annotations

import ipaddress
import time

from ikev2.ipsec.backend import Acquire, Trap
from ikev2.ipsec.ipv4 import NO_PORT, TYPED, Flow
from ikev2.ipsec.spd import Policy, selectors_of

TELL_INTERVAL_S = 1.0
"""How often the traffic of one trap is worth an event: a negotiation takes less, and may have failed after that."""


class TrapTable:
    """The traps of one host. It belongs to two threads: each change swaps in a new table."""

    def __init__(self) -> None:
        self._traps: dict[Trap, Policy] = {}
        self._told_at: dict[Trap, float] = {}

    @property
    def traps(self) -> tuple[Trap, ...]:
        """Those that are laid."""
        return tuple(self._traps)

    def add(self, trap: Trap) -> bool:
        """True when it is new."""
        if trap in self._traps:
            return False
        self._traps = self._traps | {trap: policy_of(trap)}
        return True

    def remove(self, trap: Trap) -> bool:
        """True when it was there."""
        if trap not in self._traps:
            return False
        self._traps = {other: policy for other, policy in self._traps.items() if other != trap}
        self._told_at.pop(trap, None)
        return True

    def clear(self) -> None:
        """Take up all."""
        self._traps, self._told_at = {}, {}

    def answered(self, name: str) -> None:
        """There is a Child SA of this name: the next packet without one is worth an event at once."""
        for trap in self.traps:
            if trap.name == name:
                self._told_at.pop(trap, None)

    def protects(self, flow: Flow) -> bool:
        """Whether a packet on its way out is of one, and so must not go in clear."""
        return any(policy.protects(flow) for policy in self._traps.values())

    def breadth(self, flow: Flow) -> tuple[int, int, bool] | None:
        """That of the trap that most means the flow; None when it is of no trap."""
        found = (policy.breadth(flow) for policy in self._traps.values() if policy.protects(flow))
        return min(found, default=None)

    def accepts(self, flow: Flow) -> bool:
        """Whether a packet that came is of one, and so must not have come in clear."""
        return any(policy.accepts(flow) for policy in self._traps.values())

    def met(self, flow: Flow) -> Acquire | None:
        """What a packet without a Child SA has to tell; None when it is of no trap, or that trap has just told."""
        found = [(policy.breadth(flow), trap) for trap, policy in self._traps.items() if policy.protects(flow)]
        for _, trap in sorted(found, key=lambda one: one[0])[:1]:
            now = time.monotonic()
            if now - self._told_at.get(trap, float("-inf")) < TELL_INTERVAL_S:
                return None
            self._told_at[trap] = now
            address = ipaddress.IPv6Address if flow.version == 6 else ipaddress.IPv4Address
            ports = flow.source_port, flow.destination_port
            if TYPED in ports:
                ports = divmod(flow.source_port, 256)
            return Acquire(
                trap.reqid,
                trap.local,
                trap.remote,
                flow.ip_protocol,
                str(address(flow.source)),
                str(address(flow.destination)),
                *(0 if port == NO_PORT else port for port in ports),
            )
        return None


def policy_of(trap: Trap) -> Policy:
    """The traffic of a trap."""
    return Policy(selectors_of(trap.ts_local), selectors_of(trap.ts_remote))
