"""What the tracer is told of the messages of one IKE SA: described only when somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core.exchange import Inbound
from ikev2.core.tracer import is_heard
from ikev2.iana import ExchangeType
from ikev2.wire.message import describe, describe_exchange
from ikev2.wire.payloads import Payload

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def received(sa: IkeSa, inbound: Inbound) -> None:
    """A message has come, and was opened."""
    if is_heard(sa.tracer):
        inner = None if inbound.message.encrypted is None else inbound.payloads
        sa.tracer.message("in", describe(inbound.message, inner), inbound.local, inbound.remote)


def fragment(sa: IkeSa, inbound: Inbound) -> None:
    """A fragment has come, and was kept. RFC 7383 section 2.6."""
    if is_heard(sa.tracer):
        sa.tracer.message("in", describe(inbound.message), inbound.local, inbound.remote)


def sent(
    sa: IkeSa, exchange: ExchangeType, message_id: int, payloads: tuple[Payload, ...], *, is_response: bool
) -> None:
    """A message goes out."""
    if is_heard(sa.tracer):
        line = describe_exchange(exchange, message_id, payloads, is_response=is_response)
        sa.tracer.message("out", line, sa.local, sa.remote)


def repeated_request(sa: IkeSa, message_id: int, times: int) -> None:
    """A request goes out once more: for the first time, the second, ... RFC 7296 section 2.1."""
    if is_heard(sa.tracer):
        sa.tracer.note(f"{sa.name}: retransmit {times} of request with message ID {message_id}")


def repeated_response(sa: IkeSa, message_id: int) -> None:
    """A request came once more, and gets the same response. RFC 7296 section 2.1."""
    if is_heard(sa.tracer):
        sa.tracer.note(f"{sa.name}: received retransmit of request with ID {message_id}, retransmitting response")
