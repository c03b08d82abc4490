"""What becomes of a message of the peer: found in the transition table, opened, checked, handled, answered.

RFC 7296 sections 2.1 to 2.3, 2.21 and 2.23.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ikev2.core import extension, fragmentation, succession, suspicion, tracing, transmission, window_size
from ikev2.core.channel import SecureChannel
from ikev2.core.child_sa import UdpEncap
from ikev2.core.events import Answered, ChildSaMoved
from ikev2.core.exchange import Ask, CloseIkeSa, Ignored, Inbound
from ikev2.core.exchanges import ike_sa_init, rekey_ike_sa
from ikev2.core.exchanges.ike_sa_init import ZERO_SPI
from ikev2.core.purposes import ChildRequest, IkeRequest
from ikev2.core.state import WITH_PEER, State
from ikev2.core.transitions import TRANSITIONS, Transition, is_own
from ikev2.core.types import Address, Role
from ikev2.core.window import RequestInFlight
from ikev2.errors import InvalidSyntax, ProtocolError
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.header import MAJOR_VERSION, Header
from ikev2.wire.message import Message, parse_payloads
from ikev2.wire.payloads import Encrypted, EncryptedFragment, Notify, Payload
from ikev2.wire.rules import check_message

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def _leave_alone(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    return ()


ASKED = Transition("the peer has answered what the driver asked", (), _leave_alone, ())
"""What becomes of the response to a request of the driver's own making: in any state, whatever is in it.

An exchange of an extension has rows of its own, which see to it before the driver is told.
"""


def receive_request(sa: IkeSa, inbound: Inbound) -> None:
    """Take a request: once, and its repetitions by sending the same response again."""
    header = inbound.message.header
    _check_header(sa, header)
    kept = sa.responses.repeated(header.message_id, inbound.data) or fragmentation.repeated(sa, inbound)
    if kept is not None:
        fragmentation.shrink_response(sa, kept, inbound)
        tracing.repeated_response(sa, header.message_id)
        # rfc7296-s2.1-01, rfc7296-s2.1-02
        transmission.send_back(sa, kept.data, inbound)
        return
    # rfc7296-s2.1-05, rfc7296-s2.3-08, rfc7296-s2.3-09
    if not sa.responses.is_new(header.message_id):
        _report_beyond(sa, inbound)
        raise Ignored(f"request {header.message_id} where {sa.responses.expected_id} is expected")
    row = TRANSITIONS.get((sa.state, header.exchange_type, Role.RESPONDER))
    if row is not None and not row.protected:
        _answer_clear(sa, row, inbound)
        return
    if sa.state is not State.HALF_OPEN and sa.state not in WITH_PEER:
        raise Ignored(f"no {header.exchange_type} request in state {sa.state}")
    if sa.state is State.HALF_OPEN and row is None:
        raise Ignored(f"{header.exchange_type} before IKE_AUTH")  # rfc7296-s1-02, rfc7296-s1.4-01, rfc7296-s1-01
    if inbound.message.encrypted is None:
        raise Ignored("an unprotected request")
    if sa.channel is None:
        _derive_late(sa, inbound.now)
    if isinstance(inbound.message.encrypted, EncryptedFragment):
        whole = _reassemble(sa, inbound)
        if whole is None:
            return
        inbound = whole
    _answer_protected(sa, row, inbound)


def _report_beyond(sa: IkeSa, inbound: Inbound) -> None:
    """Tell a peer that sends more requests than we have promised to keep, in a request of ours, and not too often.

    What lies before the window may be a replay, and is not worth a word. RFC 7296 section 2.3.
    """
    header, channel = inbound.message.header, sa.channel
    may_report = sa.responses.is_beyond(header.message_id) and suspicion.may_report(sa, inbound.now)
    if not may_report or channel is None or not isinstance(inbound.message.encrypted, Encrypted):
        return
    try:
        channel.open(inbound.data, inbound.message)
    except ProtocolError:
        return
    number = header.message_id.to_bytes(4, "big")
    suspicion.report(sa, Notify(NotifyType.INVALID_MESSAGE_ID, number), inbound.now)  # rfc7296-s2.3-10


def _answer_clear(sa: IkeSa, row: Transition, inbound: Inbound) -> None:
    """IKE_SA_INIT: refuse and keep nothing, or answer and be half-open for a while."""
    tracing.received(sa, inbound)
    try:
        _check_rules(row, inbound.message, None)
        extension.hear(sa, inbound)
        payloads = row.handler(sa, inbound)
    except ProtocolError as error:
        sa.tracer.note(f"{inbound.remote}: {error}")
        reply = ike_sa_init.error_reply(inbound, error)
        if reply is not None:
            transmission.send_back(sa, (reply,), inbound)
        return
    sa.created_at = inbound.now
    response = transmission.clear_message(sa, inbound.message.header.exchange_type, payloads, is_response=True)
    sa.need_handshake().response = response
    sa.responses.remember(inbound.message.header.message_id, inbound.data, (response,))
    sa.deadline = inbound.now + sa.limits.half_open_timeout_s
    transmission.send_back(sa, (response,), inbound)
    sa.go(row.leads_to[0], row.story)


def _reassemble(sa: IkeSa, inbound: Inbound) -> Inbound | None:
    """Collect a fragment; who sends more than there may be is not worth an IKE SA (rfc7383-s5-02)."""
    try:
        whole = fragmentation.collect(sa, inbound)
    except fragmentation.ReassemblyOverflow as error:
        if sa.state is State.ESTABLISHED:
            sa.delete(inbound.now, str(error))  # rfc7383-s5-02
        else:
            sa.close(str(error), inbound.now)
        raise
    tracing.fragment(sa, inbound)
    return whole


def _open(channel: SecureChannel, inbound: Inbound) -> Inbound:
    """The message with what was sealed in it; IntegrityError, InvalidSyntax."""
    sealed = inbound.message.encrypted
    if inbound.content is None or sealed is None:
        return inbound.opened(channel.open(inbound.data, inbound.message))
    return inbound.opened(parse_payloads(sealed.first_payload, inbound.content))


def _answer_protected(sa: IkeSa, row: Transition | None, inbound: Inbound) -> None:
    """Open, handle, respond: from the good ICV on, everything gets a response (rfc7296-s2.21.3-01)."""
    header, channel = inbound.message.header, sa.channel
    if channel is None:
        raise Ignored("there are no keys")
    payloads: tuple[Payload, ...]
    before = sa.state
    try:
        inbound = _open(channel, inbound)
        tracing.received(sa, inbound)
        _authentic(sa, inbound)
        if row is None:
            # rfc7296-s3.10.1-04
            raise InvalidSyntax(f"{header.exchange_type} has no place in state {sa.state}")
        _check_rules(row, inbound.message, inbound.payloads)
        if sa.predecessor is not None:
            succession.used(sa, inbound)
        extension.hear(sa, inbound)
        payloads = row.handler(sa, inbound)
    except ProtocolError as error:
        if error.notify_type is None:
            raise
        payloads = _error_payloads(sa, error)
    window_size.take(sa, inbound)  # also with a request that is refused
    payloads = window_size.announced(sa, payloads)
    plain = channel.prepare(header.exchange_type, header.message_id, payloads, is_response=True)
    tracing.sent(sa, header.exchange_type, header.message_id, payloads, is_response=True)
    response = fragmentation.seal_response(sa, channel, plain, inbound)
    kept = plain if fragmentation.may_shrink(sa, channel, plain) else None
    sa.responses.remember(header.message_id, inbound.data, response, kept)
    sa.fragmentation.requests.pop(header.message_id, None)
    transmission.send_back(sa, response, inbound)  # rfc7296-s1.4-04, rfc7296-s2.21.3-01, rfc7296-s4-05
    if sa.close_after is not None:
        reason, notify_type = sa.close_after
        sa.close(reason, inbound.now, notify_type, linger=True)
    elif row is not None and sa.state is before:
        sa.go(row.leads_to[0], row.story)


def _error_payloads(sa: IkeSa, error: ProtocolError) -> tuple[Payload, ...]:
    """What tells the peer of its mistake, and whether the SA survives it. RFC 7296 section 2.21."""
    sa.tracer.note(f"{sa.name}: {error}")
    notify_type = error.notify_type or NotifyType.INVALID_SYNTAX
    if sa.state is State.HALF_OPEN or isinstance(error, InvalidSyntax):
        sa.close_after_response(str(error), notify_type)  # rfc7296-s2.21.2-03, rfc6989-s2.5-03, rfc6989-s2.5-04
    return (Notify(notify_type, error.notify_data),)


def receive_response(sa: IkeSa, inbound: Inbound) -> None:
    """Take the response to our request in flight; any other changes nothing."""
    message, header = inbound.message, inbound.message.header
    _check_header(sa, header)
    in_flight = sa.requests.outstanding.get(header.message_id)
    key = (sa.state, header.exchange_type, Role.INITIATOR)
    row = TRANSITIONS.get(key)
    asked = in_flight is not None and isinstance(in_flight.purpose, Ask) and (row is None or is_own(key))
    if asked:
        row = ASKED
    if in_flight is None or row is None or in_flight.exchange != header.exchange_type:
        _take_hint(sa, inbound)
        raise Ignored(f"no request is waiting for {header.exchange_type} response {header.message_id}")
    if not row.protected:
        tracing.received(sa, inbound)
        _check_rules(row, message, None)
        known = dict(sa.extensions)
        try:
            extension.hear(sa, inbound)
            row.handler(sa, inbound)
        finally:
            if sa.keys is None:
                sa.extensions = known  # it may be forged: what it says counts when it is the one that is taken
        if sa.keys is not None:
            sa.go(row.leads_to[0], row.story)
        return
    channel = sa.channel
    if message.encrypted is None or channel is None:
        _take_hint(sa, inbound)
        raise Ignored("an unprotected response")
    if isinstance(message.encrypted, EncryptedFragment):
        whole = _reassemble(sa, inbound)
        if whole is None:
            return
        inbound = whole
    try:
        inbound = _open(channel, inbound)
        tracing.received(sa, inbound)
        if not asked:
            _check_rules(row, inbound.message, inbound.payloads)
        extension.hear(sa, inbound)
    except ProtocolError as error:
        if error.notify_type is None:
            raise
        _authentic(sa, inbound)
        _malformed_response(sa, in_flight, error, inbound.now)
        return
    _authentic(sa, inbound)
    before = sa.state
    fragmentation.answered(sa, in_flight)
    purpose = sa.requests.answered(header.message_id)
    row.handler(sa, replace(inbound, purpose=purpose))
    if isinstance(purpose, Ask):
        sa.add_event(Answered(sa.info(), purpose, header.message_id, inbound.payloads))
    window_size.take(sa, inbound)
    if not asked and sa.state is before and not sa.is_closing():
        sa.go(row.leads_to[0], row.story)


def _malformed_response(sa: IkeSa, request: RequestInFlight, error: ProtocolError, now: float) -> None:
    """An authentic response that makes no sense: the peers' states differ, close. RFC 7296 section 2.21."""
    sa.requests.answered(request.message_id)
    if isinstance(request.purpose, ChildRequest):
        sa.release_spi(request.purpose.offer.spi_in)
    sa.tracer.note(f"{sa.name}: malformed response: {error}")
    if sa.state is State.DELETING:
        sa.close(f"malformed response: {error}", now)
    elif sa.state is State.AUTH_SENT:
        sa.fail(f"malformed response: {error}", error.notify_type)
        sa.queue_first(CloseIkeSa(str(error), error.notify_type))
    elif isinstance(request.purpose, IkeRequest) and sa.state is State.REKEYING:
        rekey_ike_sa.give_up(sa, request.purpose, f"malformed response: {error}", now)
    else:
        sa.queue_first(CloseIkeSa(f"malformed response: {error}"))


def _check_header(sa: IkeSa, header: Header) -> None:
    if header.major_version != MAJOR_VERSION:
        raise Ignored(f"version {header.major_version}.{header.minor_version}")
    if header.is_initiator is not (sa.role is Role.RESPONDER):
        raise Ignored("the Initiator flag is wrong")
    if sa.state is State.IDLE:
        return
    if header.initiator_spi != sa.spi_i or (sa.spi_r != ZERO_SPI and header.responder_spi != sa.spi_r):
        # A repeated IKE_SA_INIT request still has no responder SPI.
        repeated = header.exchange_type == ExchangeType.IKE_SA_INIT and header.responder_spi == ZERO_SPI
        if header.initiator_spi != sa.spi_i or not repeated:
            raise Ignored("the SPIs are not of this IKE SA")


def _check_rules(row: Transition, message: Message, inner: tuple[Payload, ...] | None) -> None:
    variant = check_message(message, inner)
    if variant not in row.variants:
        raise InvalidSyntax(f"{message.header.exchange_type} of the kind {variant!r} has no place here")


def _authentic(sa: IkeSa, inbound: Inbound) -> None:
    """A fresh authentic message has come: the peer lives, and we see its address. RFC 7296 section 2.23."""
    sa.last_inbound_at = inbound.now
    header = inbound.message.header
    if header.is_response or sa.responses.is_latest(header.message_id):
        follow(sa, inbound.local, inbound.remote)


def follow(sa: IkeSa, local: Address, remote: Address) -> None:
    """Go with the peer to where its last authentic message or packet came from, when a NAT is before it and none
    before us. RFC 7296 section 2.23.
    """
    moved = (local, remote) != (sa.local, sa.remote)
    if not moved or sa.state in (State.HALF_OPEN, State.CLOSED) or not sa.nat.remote or sa.nat.local:
        return  # rfc7296-s2.23-19
    sa.tracer.note(f"{sa.name}: the peer is at {remote} now, no longer at {sa.remote}")
    sa.local, sa.remote = local, remote  # rfc7296-s2.23-16, rfc7296-s2.23-17, rfc7296-s2.23-18
    for child in sa.children.values():
        old = child.params
        encap = None if old.encap is None else UdpEncap(local.port, remote.port)
        child.params = replace(old, local=local.host, remote=remote.host, encap=encap)
        sa.add_event(ChildSaMoved(old, child.params))


def _take_hint(sa: IkeSa, inbound: Inbound) -> None:
    """An unprotected INVALID_IKE_SPI: no reason to change anything, but to ask. RFC 7296 section 2.21.4."""
    if sa.state is not State.ESTABLISHED or inbound.message.encrypted is not None:
        return
    for payload in inbound.message.payloads:
        if isinstance(payload, Notify) and payload.notify_type == NotifyType.INVALID_IKE_SPI:
            suspicion.hint(sa, inbound.now)
            return


def _derive_late(sa: IkeSa, now: float) -> None:
    try:
        ike_sa_init.derive_late(sa)
    except ProtocolError as error:
        sa.close(f"the initiator's KE value: {error}", now)
        raise Ignored(str(error)) from error
