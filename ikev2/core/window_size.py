"""SET_WINDOW_SIZE: how many requests of the peer we keep state for, said once on each IKE SA, and what the peer says.

Our first protected message on an IKE SA says it, whether request or response: on one that was authenticated that is
IKE_AUTH, on one that comes of rekeying, where the window is one again, whatever comes first. A response is sent again
until the peer has it, so it is never lost. A window of one goes without saying.

RFC 7296 sections 1.3.2, 2.3 and 3.10.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.exchange import Inbound
from ikev2.core.state import WITH_PEER, State
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Notify, Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def announced(sa: IkeSa, payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """The payloads of a protected message of ours, with our window size when the peer has not been told it yet.

    From here on requests are taken within that window. A peer that is refused, or failed, is told nothing.
    """
    size = sa.connection.window_size
    refused = sa.failed or sa.close_after is not None or sa.state is State.HALF_OPEN
    if sa.responses.window >= size or refused:
        return payloads
    sa.responses.declare(size)
    return (*payloads, Notify(NotifyType.SET_WINDOW_SIZE, size.to_bytes(4, "big")))  # rfc7296-s2.3-01


def take(sa: IkeSa, inbound: Inbound) -> None:
    """Heed what an authenticated peer says of its window; it never gets smaller. RFC 7296 section 2.3."""
    notify = inbound.notify(NotifyType.SET_WINDOW_SIZE)
    if notify is not None and sa.state in WITH_PEER:
        sa.requests.widen(int.from_bytes(notify.data, "big"))
