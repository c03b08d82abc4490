"""When an SA is to be rekeyed, authenticated anew, tried again or given up: the times of one IKE SA.

A rekey time has a random part, so that both ends seldom begin at once (rfc7296-s2.8.1-01). What has lasted too long is
not used any more: it goes here at once, and the peer is told (rfc7296-s2.8-01).

RFC 7296 sections 2.8 and 2.25, RFC 4478.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ikev2.core.child_sa import VolumeLimits
from ikev2.core.config import Lifetime, Volume
from ikev2.core.exchange import CloseIkeSa, Task
from ikev2.core.state import State
from ikev2.crypto.entropy import Entropy

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

AUTH_LIFETIME_SHARE = 0.9
"""Of the time that AUTH_LIFETIME gives, we authenticate anew after this share. RFC 4478 section 2."""
AUTH_LIFETIME_MINIMUM_S = 10.0
"""A peer does not get us to authenticate more often than that. RFC 4478 section 5."""


@dataclass(slots=True)
class Times:
    """The times of an IKE SA, None for never: to rekey, to end, to authenticate anew, to end without that.

    `retries` are what a peer was too busy for, each with the time from which it may be asked again.
    """

    soft_at: float | None = None
    hard_at: float | None = None
    reauth_at: float | None = None
    auth_ends_at: float | None = None
    retries: list[tuple[float, Task]] = field(default_factory=list)


def draw(lifetime: Lifetime, entropy: Entropy, now: float) -> tuple[float | None, float | None]:
    """When to rekey an SA that begins now, and when it ends; a share of the first is random."""
    if not lifetime.rekey_s:
        return None, None
    early = lifetime.rand_s * _share(entropy) if lifetime.rand_s else 0.0  # rfc7296-s2.8.1-01
    return now + max(0.0, lifetime.rekey_s - early), now + lifetime.rekey_s + lifetime.over_s


def draw_limits(octets: Volume, packets: Volume, entropy: Entropy) -> VolumeLimits:
    """How much an SA may carry; a share of what it carries until it is rekeyed is random."""

    def soft(volume: Volume) -> int:
        early = int(volume.rand * _share(entropy)) if volume.rekey and volume.rand else 0  # rfc7296-s2.8.1-01
        return max(1, volume.rekey - early) if volume.rekey else 0

    return VolumeLimits(soft(octets), octets.life, soft(packets), packets.life)


def _share(entropy: Entropy) -> float:
    return int.from_bytes(entropy.octets(4), "big") / float(2**32)


def begin(sa: IkeSa, now: float, *, authenticated: bool) -> None:
    """The IKE SA is there: with a new authentication, or in the place of another, whose time for that goes on."""
    connection, times = sa.connection, sa.times
    times.soft_at, times.hard_at = draw(connection.lifetime, sa.entropy, now)
    if authenticated and connection.reauth_s:
        lifetime = connection.lifetime
        times.auth_ends_at = now + connection.reauth_s + lifetime.over_s
        if sa.authenticated_first:
            early = lifetime.rand_s * _share(sa.entropy) if lifetime.rand_s else 0.0
            times.reauth_at = now + max(0.0, connection.reauth_s - early)


def limit_authentication(sa: IkeSa, lifetime_s: float, now: float) -> None:
    """The peer says AUTH_LIFETIME; only who began the IKE SA heeds it. RFC 4478 section 2."""
    if sa.authenticated_first:
        at = now + max(AUTH_LIFETIME_MINIMUM_S, AUTH_LIFETIME_SHARE * lifetime_s)
        sa.times.reauth_at = at if sa.times.reauth_at is None else min(at, sa.times.reauth_at)


def retry_later(sa: IkeSa, task: Task, now: float) -> None:
    """The peer has no time for this now: ask again after a while, or see that it never has (rfc7296-s2.25-04)."""
    if sa.busy_since is None:
        sa.busy_since = now
    elif now - sa.busy_since >= sa.limits.busy_limit_s:
        # rfc7296-s2.25-04
        sa.queue_first(CloseIkeSa("the peer is busy for too long: both ends' states differ"))
        return
    postpone(sa, task, now)


def postpone(sa: IkeSa, task: Task, now: float) -> None:
    """Do this after a while, of which a part is random."""
    wait_s = sa.limits.busy_retry_s * (1 + _share(sa.entropy))
    sa.times.retries.append((now + wait_s, task))


def next_timer(sa: IkeSa) -> float | None:
    """The next of these times."""
    if sa.state not in (State.ESTABLISHED, State.REKEYING):
        return None
    times = sa.times
    found = [times.soft_at, times.hard_at, times.reauth_at, times.auth_ends_at]
    found += [at for at, _ in times.retries]
    for child in sa.children.values():
        found += [child.soft_at, child.hard_at]
    return min([at for at in found if at is not None], default=None)


def handle_timer(sa: IkeSa, now: float) -> None:
    """Begin whatever is due."""
    if sa.state not in (State.ESTABLISHED, State.REKEYING):
        return
    times = sa.times
    if _due(times.hard_at, now) or _due(times.auth_ends_at, now):
        what = "lifetime of the IKE SA" if _due(times.hard_at, now) else "time until the next authentication"
        sa.expire(now, f"the {what} is over")
        return
    for child in list(sa.children.values()):
        if _due(child.hard_at, now):
            sa.expire_child(child.params, now)
        elif _due(child.soft_at, now):
            child.soft_at = None
            sa.rekey_child(child.params, now)
    if _due(times.soft_at, now):
        times.soft_at = None
        sa.rekey(now)
    if _due(times.reauth_at, now):
        times.reauth_at = None
        sa.observer.reauthenticate(sa, now)
    due = [task for at, task in times.retries if at <= now]
    if due:
        times.retries = [(at, task) for at, task in times.retries if at > now]
        sa.queue(*due)


def _due(at: float | None, now: float) -> bool:
    return at is not None and at <= now
