"""CREATE_CHILD_SA: further Child SAs and rekeying, which are refused for now. RFC 7296 sections 1.3 and 2.25.

Initiator                         Responder
HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] [TSi, TSr]}  -->
                             <--  HDR, SK {N(NO_ADDITIONAL_SAS)}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.exchange import Inbound
from ikev2.errors import NoAdditionalSas, TemporaryFailure
from ikev2.iana import NotifyType, ProtocolId
from ikev2.wire.payloads import Notify, Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Refuse: CHILD_SA_NOT_FOUND for a Child SA that is not there, TEMPORARY_FAILURE for one that we close,

    NO_ADDITIONAL_SAS otherwise.
    """
    rekey = inbound.notify(NotifyType.REKEY_SA)
    if rekey is not None:
        child = sa.child_by_spi_out(int.from_bytes(rekey.spi, "big")) if rekey.protocol == ProtocolId.ESP else None
        if child is None:  # rfc7296-s2.25-05, rfc7296-s2.25.1-04
            return (Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=rekey.protocol, spi=rekey.spi),)
        if child.closing:  # rfc7296-s2.25.1-01
            raise TemporaryFailure("the Child SA to rekey is being closed")
    raise NoAdditionalSas("no further SA is made on this IKE SA")


def answer_closing(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Refuse for the time that we close the IKE SA (rfc7296-s2.25.2-03)."""
    raise TemporaryFailure("the IKE SA is being closed")
