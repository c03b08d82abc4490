"""CREATE_CHILD_SA for the IKE SA itself: a new one, keyed from the old one, which inherits its Child SAs.

    Initiator                         Responder
    HDR, SK {SA, Ni, KEi}  -->
                                 <--  HDR, SK {SA, Nr, KEr}
    HDR, SK {D}            -->
                                 <--  HDR, SK {}

Who answers hands its Child SAs over at once, who asked when the answer comes; then the one who asked deletes the old
IKE SA. When both ask at once there are two new ones for a while. They wait, without Child SAs, until it is known
which exchange has the lowest of the four nonces: that one has lost, and who began it deletes the IKE SA that it made.
An end that hears only of one of them takes that one: when it uses it, when the peer refuses the other exchange, or
when the peer deletes the old IKE SA.

RFC 7296 sections 1.3.2, 2.8.2, 2.18 and 2.25.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ikev2.core import reauthentication, succession
from ikev2.core.channel import SecureChannel
from ikev2.core.child_negotiation import Nonces
from ikev2.core.events import IkeSaRekeyFailed
from ikev2.core.exchange import AskForAddresses, CloseChildSa, CloseIkeSa, Inbound, RekeyIkeSa
from ikev2.core.exchanges.ike_sa_init import NONCE_OCTETS, ZERO_SPI, ke_groups
from ikev2.core.purposes import ChildRequest, IkeCollision, IkeRequest
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.keymat import derive_ike_keys_rekey
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import IkeSuite, check_choice, choose_proposal, numbered
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import IkeError, InvalidKePayload, InvalidSyntax, NoProposalChosen, TemporaryFailure
from ikev2.iana import ExchangeType, KeId, NotifyType, ProtocolId, TransformType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Proposal, Sa

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def is_wanted(inbound: Inbound) -> bool:
    """True for a request that is about the IKE SA."""
    offered = inbound.first(Sa)
    return offered is not None and offered.proposals[0].protocol == ProtocolId.IKE


def other_group(error: Notify, tried: KeId | None, proposals: Sequence[Proposal]) -> KeId | None:
    """The group that an INVALID_KE_PAYLOAD asks for, when it was offered and is not the answer to one already."""
    if error.notify_type != NotifyType.INVALID_KE_PAYLOAD or len(error.data) != 2 or tried is not None:
        return None
    group = KeId(int.from_bytes(error.data, "big"))
    return group if group in ke_groups(tuple(proposals)) and group in KE_GROUPS else None


# --- initiator ---------------------------------------------------------------------------------------------------


def begin(sa: IkeSa, task: RekeyIkeSa, now: float) -> None:
    """Ask for a new IKE SA. Until it is there nothing else is begun on this one (rfc7296-s1.3.2-02)."""
    suite, _ = sa.need_keys()
    spi = sa.new_spi()
    proposals = numbered(_with_group(sa.connection.proposals), spi)
    groups = [group for group in ke_groups(proposals) if group in KE_GROUPS]
    group = task.group or (suite.ke.id if suite.ke.id in groups else next(iter(groups), None))
    if group is None:
        _failed(sa, "no key exchange group is configured", None)
        return
    pair = KE_GROUPS[group].generate(sa.entropy)  # rfc7296-s2.18-01
    nonce = sa.entropy.octets(NONCE_OCTETS)  # rfc7296-s3.9-02
    payloads = (Sa(proposals), Nonce(nonce), Ke(group, pair.public))  # rfc7296-s1.3.2-01
    sa.go(State.REKEYING, "ask for a new IKE SA in the place of this one")
    sa.send_request(ExchangeType.CREATE_CHILD_SA, payloads, IkeRequest(task, proposals, spi, nonce, pair), now)


def _with_group(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The proposals without the group NONE (rfc7296-s2.18-02)."""
    return [
        replace(
            proposal,
            transforms=tuple(
                transform
                for transform in proposal.transforms
                if (transform.type, transform.id) != (TransformType.KE, KeId.NONE)
            ),
        )
        for proposal in proposals
    ]


def conclude(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Take the new IKE SA, or see what is to be done about the refusal."""
    request = inbound.purpose
    if not isinstance(request, IkeRequest):
        return ()
    if inbound.first(Sa) is None:
        _refused(sa, inbound, request)
        return ()
    sa.busy_since = None
    nonces = Nonces(request.nonce, inbound.required(Nonce).data)
    rival = request.rival
    try:
        new = _take(sa, inbound, request, nonces)
    except IkeError as error:
        give_up(sa, request, str(error), inbound.now)
        return ()
    if rival is not None and request.collision is not None and min(nonces) < request.collision.lowest:
        # rfc7296-s2.8.2-01
        succession.hand_over(sa, rival, inbound.now)
        succession.close_soon(new, "redundant: both ends have rekeyed at once", inbound.now)
        return ()
    succession.hand_over(sa, new, inbound.now)  # rfc7296-s2.8.2-02
    if rival is not None:
        rival.predecessor = None
        succession.await_delete(rival, "redundant: both ends have rekeyed at once", inbound.now)
    succession.close_soon(sa, "rekeyed", inbound.now)  # rfc7296-s2.8-04
    return ()


def give_up(sa: IkeSa, request: IkeRequest, reason: str, now: float) -> None:
    """The peer's answer makes no IKE SA: it may have handed its Child SAs over to one that we do not have.

    What came of the peer's own rekeying stays, else this IKE SA is closed. RFC 7296 section 2.21.3.
    """
    _failed(sa, reason, None)
    if request.rival is not None:
        succession.hand_over(sa, request.rival, now)
    else:
        sa.go(State.ESTABLISHED, "the peer's new IKE SA cannot be taken")
        sa.queue_first(CloseIkeSa(f"rekeying failed: {reason}"))  # rfc6989-s2.5-05


def conclude_late(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """The peer has made an IKE SA, too, when the one of its own exchange is in use already: delete it again."""
    request = inbound.purpose
    if isinstance(request, IkeRequest) and inbound.first(Sa) is not None:
        nonces = Nonces(request.nonce, inbound.required(Nonce).data)
        try:
            new = _take(sa, inbound, request, nonces)
        except IkeError as error:
            sa.tracer.note(f"{sa.name}: {error}")
        else:
            succession.close_soon(new, "redundant: both ends have rekeyed at once", inbound.now)
    return ()


def _take(sa: IkeSa, inbound: Inbound, request: IkeRequest, nonces: Nonces) -> IkeSa:
    """The new IKE SA; NoProposalChosen, InvalidSyntax when the answer is not one to what was offered."""
    if (unknown := inbound.unknown_error) is not None:  # rfc7296-s3.10.1-01
        raise IkeError(f"the peer reports an error that is not known here: {unknown.notify_type}")
    chosen, ke = inbound.required(Sa).proposals[0], inbound.required(Ke)
    check_choice(chosen, request.proposals)
    suite = _suite(chosen)
    if ke.group != suite.ke.id or suite.ke.public_octets != len(request.pair.public):
        raise InvalidSyntax("the responder's KE payload is not of the group that was chosen")
    spi = _peer_spi(chosen)
    if sa.observer.is_taken(request.spi, spi):
        # The peer has begun one with the SPI that we offered, and now chooses the one that it got: both would be one.
        raise NoProposalChosen("an IKE SA has both of these SPIs already")
    shared = request.pair.shared_secret(ke.data)
    return _make(sa, Role.INITIATOR, suite, nonces, shared, (request.spi, spi), inbound.now)


def _refused(sa: IkeSa, inbound: Inbound, request: IkeRequest) -> None:
    sa.go(State.ESTABLISHED, "the peer made no new IKE SA")
    error, rival = inbound.error, request.rival
    if rival is not None:
        # The peer has finished its own rekeying before it heard of ours. RFC 7296 section 2.8.2.
        succession.hand_over(sa, rival, inbound.now)
        return
    if error is not None and error.notify_type == NotifyType.TEMPORARY_FAILURE:
        sa.retry_later(request.task, inbound.now)  # rfc7296-s2.25-02, rfc7296-s2.25-03
        return
    sa.busy_since = None
    group = None if error is None else other_group(error, request.task.group, request.proposals)
    if group is not None:
        sa.queue_first(RekeyIkeSa(group))
        return
    notify_type = None if error is None else error.notify_type
    if notify_type == NotifyType.INVALID_SYNTAX:
        sa.close("the peer found our request malformed", inbound.now, notify_type)  # section 2.21.3
        return
    _failed(sa, f"the peer refused: {notify_type or 'no SA payload'}", notify_type)
    reauthentication.instead_of_rekeying(sa, notify_type, inbound.now)


def _failed(sa: IkeSa, reason: str, notify_type: NotifyType | None) -> None:
    sa.add_event(IkeSaRekeyFailed(sa.info(), reason, notify_type))


# --- responder ---------------------------------------------------------------------------------------------------


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Make the new IKE SA and hand the Child SAs over: TemporaryFailure, NoProposalChosen, InvalidKePayload."""
    if sa.is_closing():
        raise TemporaryFailure("the IKE SA is being closed")
    if sa.is_busy_with_children():  # rfc7296-s2.25.1-08
        raise TemporaryFailure("a Child SA is being made, rekeyed or closed")
    new, payloads, _ = _answer(sa, inbound)
    succession.hand_over(sa, new, inbound.now)
    return payloads


def answer_rekeying(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """The same while our own request is on its way: it is not known yet which of the new IKE SAs will stay."""
    request = sa.purpose_in_flight
    if not is_wanted(inbound) or not isinstance(request, IkeRequest):
        raise TemporaryFailure("the IKE SA is being rekeyed")  # rfc7296-s2.25.2-06, rfc7296-s2.25-01
    if request.rival is not None or sa.is_closing():
        raise TemporaryFailure("the IKE SA is being rekeyed by both ends, or closed")
    new, payloads, lowest = _answer(sa, inbound)
    # rfc7296-s2.25.2-01, rfc7296-s2.25.2-02
    request.collision = IkeCollision(new, lowest)
    new.predecessor = sa
    return payloads


def _answer(sa: IkeSa, inbound: Inbound) -> tuple[IkeSa, tuple[Payload, ...], bytes]:
    offered, ke = inbound.required(Sa).proposals, inbound.required(Ke)
    nonces = Nonces(inbound.required(Nonce).data, sa.entropy.octets(NONCE_OCTETS))
    # rfc7296-s2.18-03: never without a group.
    chosen = choose_proposal(offered, sa.connection.proposals, preferred_ke=ke.group)
    suite = _suite(chosen)
    if ke.group != suite.ke.id:
        raise InvalidKePayload(suite.ke.id)  # rfc7296-s1.3-03
    spi_i, spi_r = _peer_spi(chosen), sa.new_spi()
    pair = suite.ke.generate(sa.entropy)
    new = _make(sa, Role.RESPONDER, suite, nonces, pair.shared_secret(ke.data), (spi_i, spi_r), inbound.now)
    answered = Proposal(chosen.number, chosen.protocol, spi_r, chosen.transforms)
    return new, (Sa((answered,)), Nonce(nonces.r), Ke(suite.ke.id, pair.public)), min(nonces)


# --- both --------------------------------------------------------------------------------------------------------


def is_about_children(purpose: object) -> bool:
    """True when a request of this purpose makes, rekeys or closes a Child SA, or asks for what one needs."""
    return isinstance(purpose, ChildRequest | CloseChildSa | AskForAddresses)


def _suite(chosen: Proposal) -> IkeSuite:
    try:
        return IkeSuite.from_proposal(chosen)
    except UnknownAlgorithm as error:
        raise NoProposalChosen(str(error)) from error


def _peer_spi(chosen: Proposal) -> bytes:
    if chosen.spi == ZERO_SPI or len(chosen.spi) != len(ZERO_SPI):
        raise NoProposalChosen(f"the SPI of an IKE SA is {chosen.spi.hex() or 'missing'}")
    return chosen.spi


def _make(
    old: IkeSa,
    role: Role,
    suite: IkeSuite,
    nonces: Nonces,
    shared: SecretOctets,
    spis: tuple[bytes, bytes],
    now: float,
) -> IkeSa:
    """The new IKE SA: SKEYSEED by the old one's prf and SK_d, message ids from zero (rfc7296-s2.18-04)."""
    old_suite, old_keys = old.need_keys()
    keys = derive_ike_keys_rekey(suite, old_suite.prf, old_keys.sk_d, shared, nonces.i, nonces.r, *spis)
    new = succession.successor(old, role, spis, now)
    new.take_keys(suite, keys, SecureChannel(suite, keys, role, *spis, old.entropy))
    old.observer.adopted(new, now)
    return new
