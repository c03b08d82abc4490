"""A new IKE SA, authenticated anew, takes the place of an old one: all of it is made again, then the old one goes.

RFC 7296 section 2.8.3, RFC 4478.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.state import State
from ikev2.core.types import Address
from ikev2.iana import NotifyType

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa

REAUTH_RETRY_S = 60.0
"""How long to wait after an authentication that did not succeed while the SA that it was to replace still lives."""


def instead_of_rekeying(old: IkeSa, notify_type: NotifyType | None, now: float) -> None:
    """The peer makes no more SAs on this IKE SA, not even in the place of others: replace all of it from scratch.

    Only where the peer can be called, and once: what it refuses anew it will go on refusing, and then the IKE SA ends
    with the lifetime of what could not be rekeyed (rfc7296-s2.8-02). RFC 7296 section 4.
    """
    reachable = old.authenticated_first or not old.nat.remote
    if notify_type == NotifyType.NO_ADDITIONAL_SAS and reachable and not old.tried_anew:
        old.tried_anew = True
        old.observer.reauthenticate(old, now)  # rfc7296-s4-06


def endpoints(old: IkeSa) -> tuple[Address, Address]:
    """Between which addresses the new IKE SA is begun: IKE_SA_INIT goes from and to the ports of every beginning."""
    local_port, remote_port = old.connection.first_ports
    return Address(old.local.host, local_port), Address(old.remote.host, remote_port)


def begin(old: IkeSa, new: IkeSa, now: float) -> None:
    """Begin `new`, which is to have a Child SA for every one that `old` has."""
    new.replaces = old
    new.wanted = tuple({child.config.name: child.config for child in old.children.values()}.values())
    new.initiate(now)


def finish(new: IkeSa, now: float) -> IkeSa | None:
    """Delete what `new` replaces, when it has all of its Child SAs; the one that is deleted."""
    old, new.replaces = new.replaces, None
    while old is not None and old.heir is not None:
        old = old.heir
    if old is None or old.state is State.CLOSED:
        return None
    missing = _child_names(old) - _child_names(new)
    if missing:
        new.tracer.note(f"{old.name} stays: {new.name} has no {', '.join(sorted(missing))}")
        return None
    old.delete(now, "authenticated anew")
    return old


def failed(new: IkeSa, now: float) -> IkeSa | None:
    """`new` closes: when it did not come up, try again, as long as the old one lives; the old one."""
    old = new.replaces
    if old is None or new.established_at is not None:
        return None
    old.times.reauth_at = now + REAUTH_RETRY_S
    return old


def _child_names(sa: IkeSa) -> set[str]:
    return {child.config.name for child in sa.children.values()}
