"""How the messages of one IKE SA go out: requests, which are kept and sent again until they are answered; responses.

RFC 7296 sections 2.1, 2.4 and 2.11, RFC 7383 section 2.5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core import fragmentation, tracing, window_size
from ikev2.core.exchange import Inbound
from ikev2.core.fragmentation import PROBE_RETRANSMISSIONS
from ikev2.core.impair_message import rewritten
from ikev2.core.types import Role
from ikev2.core.window import RequestInFlight
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def send_clear_request(
    sa: IkeSa, exchange: ExchangeType, payloads: tuple[Payload, ...], purpose: object, now: float
) -> bytes:
    """Send an unprotected request; its octets, which AUTH will cover."""
    data = clear_message(sa, exchange, payloads, is_response=False)
    sa.requests.start_over(exchange, (data,), purpose, now)
    sa.post((data,), sa.local, sa.remote, now)
    return data


def send_request(
    sa: IkeSa, exchange: ExchangeType, payloads: tuple[Payload, ...], purpose: object, now: float
) -> None:
    """Send a protected request and keep it until it is answered. LocalProtocolError when there are no keys."""
    if sa.channel is None:
        raise LocalProtocolError("there are no keys yet")
    message_id = sa.requests.next_id
    payloads = window_size.announced(sa, payloads)
    plain = sa.channel.prepare(exchange, message_id, payloads, is_response=False)
    tracing.sent(sa, exchange, message_id, payloads, is_response=False)
    data = fragmentation.seal_request(sa, sa.channel, plain)
    kept = plain if fragmentation.may_shrink(sa, sa.channel, plain) else None
    sa.requests.start(exchange, data, purpose, now, kept)
    sa.post(data, sa.local, sa.remote, now)


def send_back(sa: IkeSa, data: tuple[bytes, ...], inbound: Inbound) -> None:
    """Send a response to where its request came from (rfc7296-s2.11-02, rfc7296-s2.11-03, rfc7296-s2.23-03)."""
    sa.post(data, inbound.local, inbound.remote, inbound.now)


def clear_message(sa: IkeSa, exchange: ExchangeType, payloads: tuple[Payload, ...], *, is_response: bool) -> bytes:
    """The octets of an unprotected message of this SA, with message id 0."""
    header = Header.to_send(
        sa.spi_i,
        sa.spi_r,
        exchange,
        0,
        is_initiator=sa.role is Role.INITIATOR,
        is_response=is_response,
    )
    tracing.sent(sa, exchange, 0, payloads, is_response=is_response)
    draft = rewritten(sa.rewriters, header, payloads) if sa.rewriters else None
    return Message(header, payloads).encode() if draft is None else draft.encode_clear()


def send_late(sa: IkeSa, now: float) -> None:
    """Whose response is late is sent again, each request by its own timer; or the peer is given up."""
    for request in sa.requests.late(now):
        if not _send_again(sa, request, now):
            return


def _send_again(sa: IkeSa, request: RequestInFlight, now: float) -> bool:
    """Send this request again; False when the peer was given up instead, and the IKE SA is closed."""
    if _send_smaller(sa, request, now):
        return True
    policy = sa.connection.retransmission
    failure = sa.handshake.failure if sa.handshake is not None else None
    tries = policy.tries if failure is None else min(policy.tries, policy.error_tries)
    data = sa.requests.due(request, tries, now)
    if data is not None:
        tracing.repeated_request(sa, request.message_id, request.sent - 1)
        # rfc7296-s2.1-06, rfc7296-s2.1-07, rfc7296-s2.2-01
        sa.post(data, sa.local, sa.remote, now)
        return True
    # rfc7296-s2.4-04
    if failure is None:
        sa.close("the peer does not answer", now)
    else:
        sa.close(f"the peer refused: {failure.notify_type}", now, failure.notify_type)
    return False


def _send_smaller(sa: IkeSa, request: RequestInFlight, now: float) -> bool:
    """After some retransmissions, send a large request in smaller fragments (rfc7383-s2.5.2-02)."""
    policy = sa.connection.retransmission
    if request.sent <= min(PROBE_RETRANSMISSIONS, policy.tries):
        return False
    return _send_cut(sa, request, fragmentation.smaller(sa, request.plain, request.data, sa.local), now)


def note_path_mtu(sa: IkeSa, octets: int, now: float) -> None:
    """The path to the peer takes no more than `octets`: what is under way in larger datagrams goes again, at once.

    rfc7383-s2.5.1-02, rfc7383-s2.5.2-05, rfc7383-s2.5.2-06.
    """
    sa.fragmentation.path_mtu = octets
    for request in sa.requests.outstanding.values():
        # rfc7383-s2.5.2-05, rfc7383-s2.5.2-06
        _send_cut(sa, request, fragmentation.fitting(sa, request.plain, request.data, sa.local, octets), now)


def _send_cut(sa: IkeSa, request: RequestInFlight, cut: tuple[int, tuple[bytes, ...]] | None, now: float) -> bool:
    if cut is None:
        return False  # rfc7383-s2.5.2-04
    size, data = cut
    sa.requests.restart(request, data, size, now)  # rfc7383-s2.5.2-01
    sa.post(data, sa.local, sa.remote, now)
    return True
