"""CREATE_CHILD_SA for Child SAs: a further one, or one in the place of another.

    Initiator                         Responder
    HDR, SK {[N(REKEY_SA),] [N(USE_TRANSPORT_MODE),] SA, Ni, [KEi,] TSi, TSr}  -->
                                 <--  HDR, SK {[N(USE_TRANSPORT_MODE),] SA, Nr, [KEr,] TSi, TSr}
                              or <--  HDR, SK {N(error)}

Make before break: the initiator of a rekeying sends on the new pair as soon as it has it, and then deletes the old
one; the responder keeps sending on the old pair until that Delete comes. When both ends rekey the same pair at once,
the exchange with the lowest of the four nonces has lost, and who began it deletes what it made.

RFC 7296 sections 1.3.1, 1.3.3, 2.8, 2.8.1 and 2.25.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ikev2.core import child_answer, child_offer, cp, reauthentication
from ikev2.core.child_negotiation import ChildSa, Nonces
from ikev2.core.events import ChildSaFailed
from ikev2.core.exchange import CloseChildSa, CloseIkeSa, Inbound, MakeChildSa, RekeyChildSa
from ikev2.core.exchanges import rekey_ike_sa
from ikev2.core.exchanges.ike_sa_init import NONCE_OCTETS, ke_groups
from ikev2.core.purposes import ChildCollision, ChildRequest
from ikev2.crypto.ke import KE_GROUPS, KePair
from ikev2.errors import IkeError, InvalidKePayload, InvalidSyntax, NoAdditionalSas, ProtocolError, TemporaryFailure
from ikev2.iana import ExchangeType, KeId, NotifyType, PayloadType, ProtocolId
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Sa

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


UNWANTED = "deleted here while it was being rekeyed"

# --- initiator ---------------------------------------------------------------------------------------------------


def begin(sa: IkeSa, task: MakeChildSa | RekeyChildSa, now: float) -> None:
    """Ask for a Child SA; nothing when the one to be replaced is gone, or has been replaced meanwhile."""
    old: ChildSa | None = None
    if isinstance(task, RekeyChildSa):
        old = sa.children.get(task.spi_in)
        if old is None:
            return
        if sa.is_closing_child(old) or sa.replacement_of(old) is not None:
            old.rekeying = False
            return
        if old.standby_for is not None:
            sa.postpone(task, now)  # the peer may not have it yet
            return
    config = task.config if isinstance(task, MakeChildSa) else old.config  # type: ignore[union-attr]
    nonce = sa.entropy.octets(NONCE_OCTETS)  # rfc7296-s2.10-01, rfc7296-s3.9-02
    keying: list[Payload] = [Nonce(nonce)]
    pair: KePair | None = None
    group = _group(task, old, ke_groups(config.esp_proposals))
    if group is not None:
        # rfc7296-s1.3-01, rfc7296-s1.3-02
        pair = KE_GROUPS[group].generate(sa.entropy)
        keying.append(Ke(group, pair.public))
    try:
        selectors, packet = (task.selectors, task.packet) if isinstance(task, MakeChildSa) else (None, None)
        offered, payloads = child_offer.offer(
            sa, config, keying=keying, replaces=old, selectors=selectors, packet=packet
        )
    except IkeError as error:
        _failed(sa, config.name, old, str(error), None)
        return
    if old is not None:
        spi = old.params.spi_in.to_bytes(4, "big")
        payloads.insert(0, Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=spi))  # rfc7296-s1.3.3-01
    reqid = None if old is None else old.params.reqid
    request = ChildRequest(task, offered, nonce, pair, reqid)
    sa.send_request(ExchangeType.CREATE_CHILD_SA, tuple(payloads), request, now)


def _group(task: MakeChildSa | RekeyChildSa, old: ChildSa | None, groups: list[KeId]) -> KeId | None:
    """The group of our KE payload: what the peer wants, what the old Child SA has, or the first; None: no PFS."""
    if task.group is not None:
        return task.group
    if old is not None and old.params.suite.ke is not None and old.params.suite.ke.id in groups:
        return old.params.suite.ke.id
    return next((group for group in groups if group in KE_GROUPS), None)


def conclude(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Take the Child SA, or see what is to be done about the refusal."""
    request = inbound.purpose
    if isinstance(request, ChildRequest):
        _conclude(sa, inbound, request)
        sa.release_spi(request.offer.spi_in)
    return ()


def _conclude(sa: IkeSa, inbound: Inbound, request: ChildRequest) -> None:
    old = None if request.rekeys is None else sa.children.get(request.rekeys)
    if old is not None:
        old.rekeying = False
    if request.offer.asks_address:
        cp.take(sa, inbound)
    if inbound.first(Sa) is None:
        _refused(sa, inbound, request, old)
        return
    sa.busy_since = None
    unknown = inbound.unknown_error
    if unknown is not None:
        # rfc7296-s3.10.1-01: whatever there is beside it. The peer may have its half.
        reason = f"the peer reports an error that is not known here: {unknown.notify_type}"
        _failed(sa, request.offer.config.name, old, reason, unknown.notify_type)
        sa.delete_unwanted(request.offer.spi_in, reason)
        return
    nonces = Nonces(request.nonce, inbound.required(Nonce).data)
    try:
        child = child_offer.accept(
            sa, request.offer, inbound, nonces, pair=request.pair, reqid=request.reqid, replaces=old
        )
    except IkeError as error:
        # The peer has its half already.
        notify_type = error.notify_type if isinstance(error, ProtocolError) else None
        _failed(sa, request.offer.config.name, old, str(error), notify_type)
        if isinstance(error, InvalidSyntax) and error.payload == PayloadType.KE:
            sa.queue_first(CloseIkeSa(str(error)))  # rfc6989-s2.5-05
        else:
            sa.delete_unwanted(request.offer.spi_in, str(error))
        return
    if child.params.spi_out in request.deleted:
        _failed(sa, request.offer.config.name, old, "the peer has deleted it already", None)
        return
    if old is None and request.collision is None:
        sa.add_child(child, inbound.now)
        if isinstance(request.task, MakeChildSa):
            sa.queue(*child_offer.further(sa, request.offer, child, inbound))
    else:
        _replace(sa, request, old, child, nonces, inbound.now)


def _replace(
    sa: IkeSa, request: ChildRequest, old: ChildSa | None, child: ChildSa, nonces: Nonces, now: float
) -> None:
    """The new pair is here: delete the old one, or, when the peer's own rekeying has won, the new one."""
    rival = None if request.collision is None else sa.children.get(request.collision.spi_in)
    unwanted = old is not None and sa.is_closing_child(old)
    # Octet by octet, and a nonce that ends first is lower: that is how Python compares. RFC 7296 section 2.8.1.
    if rival is not None and request.collision is not None and min(nonces) < request.collision.lowest:
        # rfc7296-s2.8.1-02, rfc7296-s2.8.1-03
        sa.add_child(child, now, standby_for=rival.params.spi_in)
        child.closing = True
        sa.queue_first(CloseChildSa(child.params.spi_in, "redundant: both ends have rekeyed at once"))
        if unwanted:
            sa.queue(CloseChildSa(rival.params.spi_in, UNWANTED))
        return
    if old is not None:
        sa.add_replacement(child, old, now)
    else:
        sa.add_child(child, now)
    if rival is not None:
        rival.standby_for = child.params.spi_in  # the peer deletes it
    if unwanted:
        sa.queue(CloseChildSa(child.params.spi_in, UNWANTED))


def _refused(sa: IkeSa, inbound: Inbound, request: ChildRequest, old: ChildSa | None) -> None:
    error = inbound.error
    notify_type = None if error is None else error.notify_type
    if error is None or notify_type is None:
        _failed(sa, request.offer.config.name, old, "the peer made no Child SA", None)
        return
    if request.rekeys is not None and old is None:
        return  # deleted by the peer meanwhile: nothing to rekey any more
    if notify_type == NotifyType.TEMPORARY_FAILURE:
        if old is not None:
            old.rekeying = True
        sa.retry_later(request.task, inbound.now)  # rfc7296-s2.25-02, rfc7296-s2.25-03
        return
    sa.busy_since = None
    group = rekey_ike_sa.other_group(error, request.task.group, request.offer.proposals)
    if group is not None:
        sa.queue_first(replace(request.task, group=group))
        return
    if notify_type == NotifyType.INVALID_SYNTAX:
        sa.close("the peer found our request malformed", inbound.now, notify_type)  # section 2.21.3
        return
    if notify_type == NotifyType.CHILD_SA_NOT_FOUND and old is not None:
        if request.collision is None:
            # rfc7296-s2.25-06: and no Delete goes out; nothing is made when it was to be closed here anyway.
            if not sa.is_closing_child(old):
                sa.queue_first(MakeChildSa(old.config))
            sa.remove_child(old, "the peer does not have it")
        return
    instead = None if request.rekeys is not None else child_offer.instead(sa, request.offer, notify_type)
    if instead is not None:
        sa.queue_first(instead)
        return
    _failed(sa, request.offer.config.name, old, f"the peer refused: {notify_type}", notify_type)
    if old is not None:
        reauthentication.instead_of_rekeying(sa, notify_type, inbound.now)


def _failed(sa: IkeSa, name: str, old: ChildSa | None, reason: str, notify_type: NotifyType | None) -> None:
    """There is no new Child SA; the IKE SA stays (rfc7296-s1.3.1-03)."""
    if old is not None:
        old.rekeying, old.rekey_failed = False, True
    sa.add_event(ChildSaFailed(sa.info(), name, reason, notify_type))


# --- responder ---------------------------------------------------------------------------------------------------


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Make what the peer asks for: NoAdditionalSas, TemporaryFailure, and all that negotiating can raise."""
    if rekey_ike_sa.is_wanted(inbound):
        return rekey_ike_sa.answer(sa, inbound)
    rekey = inbound.notify(NotifyType.REKEY_SA)
    old: ChildSa | None = None
    if rekey is not None:
        old = sa.child_by_spi_out(int.from_bytes(rekey.spi, "big")) if rekey.protocol == ProtocolId.ESP else None
        if old is None and sa.child_requests():
            # It may be the one that the peer has made for us, and of which we are going to hear.
            raise TemporaryFailure("a Child SA is being made")
        if old is None:
            # rfc7296-s2.25-05, rfc7296-s2.25.1-04
            return (Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=rekey.protocol, spi=rekey.spi),)
        if sa.is_closing_child(old):  # rfc7296-s2.25.1-01
            raise TemporaryFailure("the Child SA to rekey is being closed")
    if len(sa.children) >= sa.limits.child_sas * (1 if old is None else 2):
        raise NoAdditionalSas(f"this IKE SA has {len(sa.children)} Child SAs already")
    nonces = Nonces(inbound.required(Nonce).data, sa.entropy.octets(NONCE_OCTETS))
    name = sa.connection.name if old is None else old.params.name
    try:
        child, payloads = child_answer.answer(sa, inbound, nonces, replaces=old)
    except InvalidKePayload:
        raise
    except ProtocolError as error:
        sa.add_event(ChildSaFailed(sa.info(), name, str(error), error.notify_type))
        raise
    except IkeError as error:
        sa.add_event(ChildSaFailed(sa.info(), name, str(error), NotifyType.NO_ADDITIONAL_SAS))
        raise NoAdditionalSas(str(error)) from error
    # rfc7296-s2.8-06: it is there before the response goes.
    sa.add_child(child, inbound.now, standby_for=None if old is None else old.params.spi_in)
    for request in sa.child_requests():
        if old is not None and request.rekeys == old.params.spi_in:
            # rfc7296-s2.25.1-02, rfc7296-s2.25.1-03
            request.collision = ChildCollision(child.params.spi_in, min(nonces))
    return tuple(payloads)


def answer_closing(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Refuse for the time that the IKE SA is being closed, or replaced (rfc7296-s2.25.2-03, rfc7296-s2.8.2-03)."""
    raise TemporaryFailure("the IKE SA is being closed")  # rfc7296-s2.8.2-03, rfc7296-s2.25.2-03
