"""INFORMATIONAL: deletes, notifies, and the empty message that asks whether the peer lives. RFC 7296 section 1.4.

Initiator                         Responder
HDR, SK {[N,] [D,] [CP,] ...}  -->
                             <--  HDR, SK {[N,] [D,] [CP,] ...}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ikev2.core import cp, lifetime
from ikev2.core.events import ChildSaHalfClosed, PeerAlive
from ikev2.core.exchange import (
    AskForAddresses,
    CheckLiveness,
    CloseChildSa,
    CloseIkeSa,
    Inbound,
    MakeChildSa,
    Report,
    Task,
)
from ikev2.core.types import Role
from ikev2.iana import ExchangeType, NotifyType, ProtocolId
from ikev2.wire.payloads import Delete, Notify, Payload

if TYPE_CHECKING:
    from ikev2.core.config import ChildConfig
    from ikev2.core.ike_sa import IkeSa

FATAL_NOTIFIES = (
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
    NotifyType.INVALID_SYNTAX,
    NotifyType.AUTHENTICATION_FAILED,
)
"""In, or right after, IKE_AUTH these close the IKE SA without a Delete payload. RFC 7296 section 2.21.2."""

FIRST_ID_AFTER_AUTH = 2


def begin(sa: IkeSa, task: Task, now: float) -> None:
    """Send the request that a task needs; nothing when its Child SA is gone meanwhile."""
    payloads: tuple[Payload, ...]
    match task:
        case CloseIkeSa(notify_type=None):
            payloads = (Delete.ike(),)  # rfc7296-s2.4-09
        case CloseIkeSa(notify_type=NotifyType() as notify_type):
            payloads = (Notify(notify_type),)
        case CloseChildSa(spi_in):
            child = sa.children.get(spi_in)
            if child is not None:
                child.closing = True
            elif spi_in not in sa.unwanted_spis:
                return
            sa.unwanted_spis.discard(spi_in)
            payloads = (Delete.esp(spi_in.to_bytes(4, "big")),)  # rfc7296-s2.4-08, rfc7296-s1.4.1-02
        case AskForAddresses(children):
            request = cp.request(sa)
            if request is None:
                _make_missing(sa, children)
                return
            payloads = (request,)
        case Report(notify):
            payloads = (notify,)  # rfc7296-s2.21.4-08, rfc7296-s2.21.4-09
        case _:
            payloads = ()
    sa.send_request(ExchangeType.INFORMATIONAL, payloads, task, now)  # rfc7296-s1.4-02, rfc7296-s1.4-03


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Do what the peer asks; the response has the other halves of deleted Child SAs, and the answer to a CFG_REQUEST.

    Whatever is not understood is ignored, and answered all the same (rfc7296-s1.4-04).
    """
    fatal = next((notify for notify in inbound.notifies if notify.notify_type in FATAL_NOTIFIES), None)
    after_auth = sa.role is Role.RESPONDER and not sa.comes_of_rekeying
    if fatal is not None and after_auth and inbound.message.header.message_id == FIRST_ID_AFTER_AUTH:
        sa.close_after_response(
            f"the initiator refused our IKE_AUTH response: {fatal.notify_type}", fatal.notify_type
        )
        return ()
    take_auth_lifetime(sa, inbound)
    deletes = [payload for payload in inbound.payloads if isinstance(payload, Delete)]
    if any(delete.protocol == ProtocolId.IKE for delete in deletes):
        # rfc7296-s2.25.2-05: also when we are closing it: our own request is forgotten.
        sa.close_after_response("the peer deleted the IKE SA")  # rfc7296-s2.25.2-04
        return ()
    answered = [
        spi_in
        for delete in deletes
        if delete.protocol == ProtocolId.ESP
        for spi in delete.spis
        if (spi_in := _delete_child(sa, int.from_bytes(spi, "big"))) is not None
    ]
    configuration = cp.answer_alone(sa, inbound)
    return (*(payload for payload in (Delete.esp(*answered),) if answered), *configuration)


def take_auth_lifetime(sa: IkeSa, inbound: Inbound) -> None:
    """Heed an AUTH_LIFETIME. RFC 4478 section 2."""
    notify = inbound.notify(NotifyType.AUTH_LIFETIME)
    if notify is not None and len(notify.data) == 4:
        lifetime.limit_authentication(sa, int.from_bytes(notify.data, "big"), inbound.now)


def _delete_child(sa: IkeSa, spi_out: int) -> bytes | None:
    """Close the pair whose outgoing SPI the peer names; our inbound SPI, for the response.

    RFC 7296 section 1.4.1.
    """
    child = sa.child_by_spi_out(spi_out)
    if child is None:
        for request in sa.child_requests():
            request.deleted.add(spi_out)
        return None  # rfc7296-s2.25.1-07
    if child.closing:  # rfc7296-s2.25.1-05
        # rfc7296-s1.4.1-04, rfc7296-s1.4.1-05: both delete at once.
        sa.add_event(ChildSaHalfClosed(child.params))
        return None
    sa.remove_child(child, "the peer deleted it")  # rfc7296-s1.4.1-03
    return child.params.spi_in.to_bytes(4, "big")  # rfc7296-s2.25.1-06, rfc7296-s2.25.2-07


def _make_missing(sa: IkeSa, children: Iterable[ChildConfig]) -> None:
    """Now that there is an address: the Child SAs that waited for it."""
    there = {child.config.name for child in sa.children.values()}
    sa.queue(*(MakeChildSa(config) for config in children if config.name not in there))


def conclude(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """The peer has answered: finish what our request was for."""
    task = inbound.purpose
    error = inbound.error
    if isinstance(task, CloseIkeSa):
        sa.close(task.reason, inbound.now)
    elif error is not None and error.notify_type == NotifyType.INVALID_SYNTAX:
        sa.close("the peer found our request malformed", inbound.now, error.notify_type)  # section 2.21.3
    elif isinstance(task, CloseChildSa):
        child = sa.children.get(task.spi_in)
        if child is not None:
            sa.remove_child(child, task.reason)  # rfc7296-s1.4.1-01
    elif isinstance(task, AskForAddresses):
        cp.take(sa, inbound)
        if cp.is_expected(sa):
            cp.ask_later(sa, task.children, inbound.now)
        else:
            _make_missing(sa, task.children)
    elif isinstance(task, CheckLiveness):
        sa.add_event(PeerAlive(sa.info()))
    return ()
