"""IKE_SA_INIT: algorithms, nonces, key exchange values; nothing is authenticated yet. RFC 7296 sections 1.2, 2.6, 2.7.

    Initiator                         Responder
    HDR(SPIi,0), [N(COOKIE),] SAi1, KEi, Ni, N(NAT_DETECTION_*)  -->
                                 <--  HDR(SPIi,SPIr), SAr1, KEr, Nr, N(NAT_DETECTION_*)

or, with a responder that keeps no state yet:
                                 <--  HDR(SPIi,0), N(COOKIE) | N(INVALID_KE_PAYLOAD) | N(error)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ikev2.core import extension, fragmentation, nat, transmission
from ikev2.core.channel import SecureChannel
from ikev2.core.config import Childless, ConnectionConfig
from ikev2.core.exchange import Establish, Ignored, Inbound
from ikev2.core.exchanges import ike_auth
from ikev2.core.types import Address
from ikev2.crypto.ke import KE_GROUPS, KeGroup, KePair
from ikev2.crypto.keymat import derive_ike_keys
from ikev2.crypto.suites import IkeSuite, check_choice, choose_proposal, numbered
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import (
    IkeError,
    InvalidKePayload,
    InvalidSyntax,
    LocalProtocolError,
    NoProposalChosen,
    ProtocolError,
)
from ikev2.iana import ExchangeType, KeId, NotifyType, TransformType
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Proposal, Sa

if TYPE_CHECKING:
    from ikev2.core.child_negotiation import ChildOffer
    from ikev2.core.ike_sa import IkeSa

NONCE_OCTETS = 32
"""At least 16, and half the key of the largest PRF (rfc7296-s2.10-02, rfc7296-s2.10-03)."""

ZERO_SPI = bytes(8)
COOKIES_TAKEN = 4
GROUPS_TAKEN = 4


@dataclass(slots=True)
class Handshake:
    """What lives from IKE_SA_INIT to the end of IKE_AUTH, and no longer.

    `late_answers`: so many transmissions without the cookie may still be answered, each with a cookie of its own.
    """

    group: KeGroup
    pair: KePair
    nonce_i: bytes = b""
    nonce_r: bytes = b""
    request: bytes = b""
    response: bytes = b""
    peer_public: bytes = b""
    proposals: tuple[Proposal, ...] = ()
    cookie: bytes = b""
    cookies_taken: int = 0
    late_answers: int = 0
    groups: list[KeId] = field(default_factory=list)
    failure: Notify | None = None
    childless: bool = False
    child: ChildOffer | None = None


def ke_groups(proposals: tuple[Proposal, ...]) -> list[KeId]:
    """The key exchange groups that these name, most wanted first, each once."""
    groups: dict[KeId, None] = {}
    for proposal in proposals:
        for transform in proposal.transforms:
            if transform.type == TransformType.KE and transform.id != KeId.NONE:
                groups[KeId(transform.id)] = None
    return list(groups)


# --- initiator ---------------------------------------------------------------------------------------------------


def begin(sa: IkeSa, now: float) -> None:
    """Send the first request."""
    proposals = numbered(sa.connection.proposals)
    groups = [group for group in ke_groups(proposals) if group in KE_GROUPS]
    if not groups:
        raise LocalProtocolError(
            f"connection {sa.connection.name} proposes no key exchange group that is implemented"
        )
    group = KE_GROUPS[groups[0]]  # rfc7296-s3.3.6-09, rfc7296-s3.4-03
    sa.handshake = Handshake(
        group=group,
        pair=group.generate(sa.entropy),
        nonce_i=sa.entropy.octets(NONCE_OCTETS),  # rfc7296-s2.10-01, rfc7296-s3.9-02
        proposals=proposals,
        groups=[group.id],
    )
    _send(sa, now)


def _send(sa: IkeSa, now: float) -> None:
    handshake = sa.need_handshake()
    payloads: list[Payload] = []
    if handshake.cookie:
        payloads.append(Notify(NotifyType.COOKIE, handshake.cookie))  # rfc7296-s2.6-04: the first payload
    payloads += (
        Sa(handshake.proposals),  # rfc7296-s1.2-05: the full set, whatever was refused before
        Ke(handshake.group.id, handshake.pair.public),
        Nonce(handshake.nonce_i),
        *nat.detection_notifies(sa.spi_i, ZERO_SPI, sa.local, sa.remote, fake=sa.connection.encap),
        *fragmentation.offer(sa.connection),
        *extension.offers(sa, ExchangeType.IKE_SA_INIT, is_response=False),
    )
    handshake.request = transmission.send_clear_request(
        sa, ExchangeType.IKE_SA_INIT, tuple(payloads), Establish(), now
    )


def conclude(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Take the responder's choice. Whatever is wrong may be forged: then the request stays in flight.

    RFC 7296 sections 2.6.1 and 2.21.1.
    """
    try:
        # rfc7296-s3.10.1-01: an error that is not known fails the request, also beside a choice.
        if inbound.first(Sa) is not None and inbound.unknown_error is None:
            _take_choice(sa, inbound)
        else:
            _take_notify(sa, inbound)
    except (ProtocolError, UnknownAlgorithm) as error:
        raise Ignored(f"IKE_SA_INIT response: {error}") from error
    return ()


def _take_notify(sa: IkeSa, inbound: Inbound) -> None:
    """COOKIE and INVALID_KE_PAYLOAD have a cure; any other error is kept for the time when we give up."""
    handshake = sa.need_handshake()
    cookie = inbound.notify(NotifyType.COOKIE)
    wanted = inbound.notify(NotifyType.INVALID_KE_PAYLOAD)
    if cookie is not None:
        if cookie.data == handshake.cookie:
            raise Ignored("this cookie is in the request already")
        if handshake.cookies_taken >= COOKIES_TAKEN:
            raise Ignored("too many cookies")
        if handshake.late_answers:
            # The request with the first cookie may be answered already, and AUTH is over the request that was.
            handshake.late_answers -= 1
            raise Ignored("a cookie for an earlier transmission of the request, which one came for already")
        handshake.cookie = cookie.data
        handshake.cookies_taken += 1
        request = sa.requests.in_flight
        handshake.late_answers += request.sent - 1 if request is not None else 0
    elif wanted is not None:
        group = _wanted_group(wanted)
        if group not in ke_groups(handshake.proposals) or group not in KE_GROUPS:
            raise Ignored(f"the group wanted, {group}, was not proposed")
        if group == handshake.group.id or len(handshake.groups) >= GROUPS_TAKEN:
            raise Ignored(f"{group} was tried already")
        handshake.group = KE_GROUPS[group]  # rfc7296-s1.2-04, rfc7296-s3.3.6-10
        handshake.pair = handshake.group.generate(sa.entropy)
        handshake.groups.append(group)
    else:
        if inbound.error is not None:
            # rfc7296-s2.4-03, section 2.21.1: not authenticated, so no reason to stop at once.
            handshake.failure = inbound.error
            raise Ignored(f"the peer (or someone) says {inbound.error.notify_type}: keep trying for a while")
        raise Ignored("neither an SA payload nor an error")
    _send(sa, inbound.now)  # rfc7296-s2.6.1-01: a cookie stays in all later requests


def _wanted_group(notify: Notify) -> KeId:
    if len(notify.data) != 2:
        raise InvalidSyntax("INVALID_KE_PAYLOAD without a group")
    return KeId(int.from_bytes(notify.data, "big"))


def _take_choice(sa: IkeSa, inbound: Inbound) -> None:
    handshake = sa.need_handshake()
    proposals = inbound.required(Sa).proposals
    ke, nonce = inbound.required(Ke), inbound.required(Nonce)
    header = inbound.message.header
    if len(proposals) != 1:
        raise InvalidSyntax(f"the responder chose {len(proposals)} proposals")
    check_choice(proposals[0], handshake.proposals)  # rfc7296-s3.3.6-06
    suite = IkeSuite.from_proposal(proposals[0])
    if ke.group != handshake.group.id or suite.ke.id != ke.group:
        raise InvalidSyntax("the responder's KE payload is not of the group that was chosen")
    if header.responder_spi == ZERO_SPI:
        raise InvalidSyntax("the responder chose no SPI")
    if sa.observer.is_taken(sa.spi_i, header.responder_spi):
        raise InvalidSyntax("an IKE SA has both of these SPIs already")
    handshake.childless = inbound.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None
    if (not sa.wanted or sa.connection.childless is Childless.FORCE) and not handshake.childless:
        raise InvalidSyntax("the peer does not do without a Child SA in IKE_AUTH, and none is to be made there")
    shared = handshake.pair.shared_secret(ke.data)
    handshake.failure = None  # whoever said it: there is an answer now
    sa.spi_r = header.responder_spi
    handshake.nonce_r = nonce.data
    handshake.response = inbound.data
    keys = derive_ike_keys(suite, handshake.nonce_i, handshake.nonce_r, shared.octets, sa.spi_i, sa.spi_r)
    sa.take_keys(suite, keys, SecureChannel(suite, keys, sa.role, sa.spi_i, sa.spi_r, sa.entropy))
    _take_nat_state(sa, inbound)
    fragmentation.negotiate(sa, inbound)
    if sa.nat.between and sa.local.port != sa.connection.nat_port:
        # rfc7296-s2.23-04, rfc7296-s2.23-13
        sa.local = Address(sa.local.host, sa.connection.nat_port)
        sa.remote = Address(sa.remote.host, sa.connection.nat_port)
    sa.requests.answered(inbound.message.header.message_id)
    try:
        ike_auth.begin(sa, inbound.now)
    except IkeError as error:
        sa.close(f"IKE_AUTH could not be begun: {error}", inbound.now)


def _take_nat_state(sa: IkeSa, inbound: Inbound) -> None:
    header = inbound.message.header
    found = nat.detect(inbound.notifies, header.initiator_spi, header.responder_spi, inbound.local, inbound.remote)
    sa.nat = found.pretended() if found.supported and sa.connection.encap else found


# --- responder ---------------------------------------------------------------------------------------------------


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Choose and answer; NoProposalChosen, InvalidKePayload, InvalidSyntax. The secret waits for IKE_AUTH."""
    offered = inbound.required(Sa).proposals
    ke, nonce = inbound.required(Ke), inbound.required(Nonce)
    # The group of the KE payload has no say: who forged an INVALID_KE_PAYLOAD must gain nothing by it. Section 1.2.
    connection, chosen, suite = _choose(sa, offered)
    if ke.group != suite.ke.id:
        # rfc7296-s3.4-05
        raise InvalidKePayload(suite.ke.id)  # rfc7296-s1.3-03 in its form for IKE_SA_INIT, section 1.2
    # rfc6989-s2.5-01, rfc6989-s2.5-02: no IKE SA is begun with it. The exchange itself waits for IKE_AUTH.
    suite.ke.check(ke.data)
    header = inbound.message.header
    sa.connection = connection
    sa.spi_i, sa.spi_r = header.initiator_spi, sa.new_spi()
    sa.local, sa.remote = inbound.local, inbound.remote
    sa.handshake = Handshake(
        group=suite.ke,
        pair=suite.ke.generate(sa.entropy),
        nonce_i=nonce.data,
        nonce_r=sa.entropy.octets(NONCE_OCTETS),
        request=inbound.data,
        peer_public=ke.data,
        proposals=(chosen,),
    )
    sa.suite = suite
    found = nat.detect(inbound.notifies, header.initiator_spi, header.responder_spi, inbound.local, inbound.remote)
    sa.nat = found.pretended() if found.supported and connection.encap else found
    never = connection.childless is Childless.NEVER
    # Protocol ID 1 of RFC 6023 section 4 is for the IKE SA, of which RFC 7296 section 3.10 wants 0 by now.
    childless = () if never else (Notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED),)
    return (
        Sa((chosen,)),  # rfc7296-s2.7-01, rfc7296-s2.7-03
        Ke(suite.ke.id, sa.handshake.pair.public),
        Nonce(sa.handshake.nonce_r),
        *nat.detection_notifies(sa.spi_i, sa.spi_r, inbound.local, inbound.remote, fake=connection.encap),
        *childless,
        *fragmentation.negotiate(sa, inbound),
        *extension.offers(sa, ExchangeType.IKE_SA_INIT, is_response=True),
    )


def _choose(sa: IkeSa, offered: tuple[Proposal, ...]) -> tuple[ConnectionConfig, Proposal, IkeSuite]:
    refused: list[tuple[Proposal, ...]] = []
    for connection in sa.candidates:
        if connection.proposals in refused:  # many connections have the same: a stranger's offer is matched once
            continue
        try:
            chosen = choose_proposal(offered, connection.proposals)
            return connection, chosen, IkeSuite.from_proposal(chosen)
        except (NoProposalChosen, UnknownAlgorithm):
            refused.append(connection.proposals)
    raise NoProposalChosen("no connection accepts any of the offered proposals")


def error_reply(inbound: Inbound, error: ProtocolError) -> bytes | None:
    """The unprotected response that refuses an IKE_SA_INIT request and leaves nothing behind. Section 2.21.1."""
    if error.notify_type is None:
        return None
    return clear_reply(inbound.message.header, (Notify(error.notify_type, error.notify_data),))


def clear_reply(request: Header, payloads: tuple[Payload, ...]) -> bytes:
    """An unprotected response with the request's SPIs, Message ID and exchange type (rfc7296-s2.21.4-02)."""
    header = Header.to_send(
        request.initiator_spi,
        request.responder_spi,
        request.exchange_type,
        request.message_id,  # rfc7296-s2.21.4-02
        is_initiator=not request.is_initiator,
        is_response=True,
    )
    return Message(header, payloads).encode()


def derive_late(sa: IkeSa) -> None:
    """At the responder, when IKE_AUTH has come: compute the shared secret and the keys.

    InvalidSyntax when the initiator's public value is none.
    """
    handshake, suite = sa.need_handshake(), sa.suite
    if suite is None:
        raise IkeError("no suite was chosen")
    shared = handshake.pair.shared_secret(handshake.peer_public)
    keys = derive_ike_keys(suite, handshake.nonce_i, handshake.nonce_r, shared.octets, sa.spi_i, sa.spi_r)
    sa.take_keys(suite, keys, SecureChannel(suite, keys, sa.role, sa.spi_i, sa.spi_r, sa.entropy))
