"""One IKE SA takes the place of another: what it inherits, and how the old one ends.

The new one has the peer, the identities, the addresses and the time until the next authentication of the old one, and,
once it is settled that it stays, its Child SAs and what was still to be done. Message ids, keys and lifetime are its
own. RFC 7296 sections 2.8 and 2.18.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ikev2.core import cp, lifetime
from ikev2.core.events import IkeSaRekeyed
from ikev2.core.exchange import CheckLiveness, CloseIkeSa, Inbound, RekeyIkeSa
from ikev2.core.purposes import IkeRequest
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.iana import ProtocolId
from ikev2.wire.payloads import Delete

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def successor(old: IkeSa, role: Role, spis: tuple[bytes, bytes], now: float) -> IkeSa:
    """A new IKE SA with the same peer, without keys: who began the rekeying is its initiator. Section 2.18."""
    new = type(old)(
        old.connection,
        role,
        old.entropy,
        old.spi_source,
        local=old.local,
        remote=old.remote,
        limits=old.limits,
        observer=old.observer,
        tracer=old.tracer,
        keylog=old.keylog,
        impairments=old.impairments,
    )
    new.rewriters = old.rewriters
    new.spi_i, new.spi_r = spis
    new.nat = old.nat
    new.local_id, new.peer_id = old.local_id, old.peer_id
    new.authenticated_first = old.authenticated_first
    new.fragmentation.inherit(old.fragmentation)
    new.extensions = dict(old.extensions)
    new.created_at = new.established_at = new.last_inbound_at = now
    new.comes_of_rekeying = True
    lifetime.begin(new, now, authenticated=False)
    new.times.reauth_at, new.times.auth_ends_at = old.times.reauth_at, old.times.auth_ends_at
    new.go(State.ESTABLISHED, f"comes in the place of {old.name}")
    return new


def hand_over(old: IkeSa, new: IkeSa, now: float, *, resume: bool = True) -> None:
    """`new` takes the place of `old`: Child SAs, what was still to be done, and the time until the next AUTH.

    `old` then waits until its Delete has come, or gone. RFC 7296 section 2.8.
    """
    new.predecessor = None
    old.heir = new
    for spi_in, child in old.children.items():
        child.params = replace(child.params, ike_spi_i=new.spi_i, ike_spi_r=new.spi_r)
        new.children[spi_in] = child
    old.children = {}
    cp.hand_over(old, new)
    new.take_over(old)
    old.add_event(IkeSaRekeyed(old.info(), new.info()))
    await_delete(old, "a new IKE SA has its place", now)
    new.observer.touched(old)
    if resume:
        new.resume(now)


def used(new: IkeSa, inbound: Inbound) -> None:
    """The peer uses the IKE SA that came of its exchange: for the peer it is settled that this one stays."""
    old = new.predecessor
    if old is None or any(isinstance(p, Delete) and p.protocol == ProtocolId.IKE for p in inbound.payloads):
        return
    hand_over(old, new, inbound.now, resume=False)  # its own turn goes on: first comes what the peer asks


def settle(old: IkeSa, now: float) -> None:
    """`old` ends while our own request is on its way: forget that, and keep what came of the peer's.

    RFC 7296 sections 2.8.2 and 2.25.2 (rfc7296-s2.25.2-04).
    """
    request = old.purpose_in_flight
    if isinstance(request, IkeRequest) and old.heir is None and request.rival is not None:
        hand_over(old, request.rival, now)


def inherited(task: object) -> bool:
    """Whether what was still to be done on the old IKE SA is to be done on the new one."""
    return not isinstance(task, RekeyIkeSa | CheckLiveness)


def close_soon(sa: IkeSa, reason: str, now: float) -> None:
    """Delete this IKE SA, which another one replaces, as the last thing that is done on it."""
    sa.queue(CloseIkeSa(reason))
    sa.resume(now)


def await_delete(sa: IkeSa, story: str, now: float) -> None:
    """The peer is going to delete this IKE SA: wait for that, but not for ever."""
    if sa.state is not State.CLOSED:
        sa.go(State.REKEYED, story)
        sa.deadline = now + sa.connection.retransmission.total_s
        sa.observer.touched(sa)
