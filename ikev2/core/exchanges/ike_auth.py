"""IKE_AUTH: each end proves who it is over what was sent in IKE_SA_INIT, and the first Child SA is made.

    Initiator                         Responder
    HDR, SK {IDi, [N(INITIAL_CONTACT),] [IDr,] AUTH, [N(USE_TRANSPORT_MODE),] SAi2, TSi, TSr}  -->
                                 <--  HDR, SK {IDr, AUTH, [N(USE_TRANSPORT_MODE),] SAr2, TSi, TSr}

RFC 7296 sections 1.2, 2.15 and 2.21.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikev2.core import child_answer, child_offer, cp, extension
from ikev2.core.auth import prover_for, verifier_for
from ikev2.core.child_negotiation import ChildOffer, Nonces
from ikev2.core.config import Childless, ConnectionConfig
from ikev2.core.events import ChildSaFailed
from ikev2.core.exchange import CloseIkeSa, CloseReplaced, Establish, Inbound, MakeChildSa
from ikev2.core.exchanges.informational import FATAL_NOTIFIES, take_auth_lifetime
from ikev2.core.identity import Identity, quality
from ikev2.core.types import Address, Role
from ikev2.crypto.keymat import signed_octets
from ikev2.crypto.suites import choose_proposal, numbered
from ikev2.errors import (
    AuthenticationFailed,
    IkeError,
    InvalidSyntax,
    NoAdditionalSas,
    NoProposalChosen,
    ProtocolError,
)
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Auth, Id, IdI, IdR, Notify, Payload, Proposal, Sa, TsI, TsR

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def _own_identity(connection: ConnectionConfig, local: Address) -> Identity:
    return connection.local_id or Identity.of_address(local.host)


def _expected_identity(sa: IkeSa) -> Identity:
    """Whom an initiator takes the responder for before it has said so: the one that is configured, or its address."""
    wanted = sa.connection.remote_id
    return wanted if isinstance(wanted, Identity) else Identity.of_address(sa.remote.host)


def _our_octets(sa: IkeSa, id_body: bytes) -> bytes:
    """What our AUTH payload covers: our first message, the peer's nonce, our MACed ID. RFC 7296 section 2.15."""
    suite, keys = sa.need_keys()
    handshake = sa.need_handshake()
    if sa.role is Role.INITIATOR:
        return signed_octets(suite.prf, handshake.request, handshake.nonce_r, keys.sk_pi.octets, id_body)
    return signed_octets(suite.prf, handshake.response, handshake.nonce_i, keys.sk_pr.octets, id_body)


def _peer_octets(sa: IkeSa, id_body: bytes) -> bytes:
    """What the peer's AUTH payload covers. RFC 7296 section 2.15."""
    suite, keys = sa.need_keys()
    handshake = sa.need_handshake()
    if sa.role is Role.INITIATOR:
        return signed_octets(suite.prf, handshake.response, handshake.nonce_i, keys.sk_pr.octets, id_body)
    return signed_octets(suite.prf, handshake.request, handshake.nonce_r, keys.sk_pi.octets, id_body)


def _heeds_initial_contact(sa: IkeSa, inbound: Inbound) -> bool:
    """Whether the peer has started anew; never for an identity that several hosts share. RFC 7296 section 2.4."""
    # rfc7296-s2.4-01
    return sa.connection.send_initial_contact and inbound.notify(NotifyType.INITIAL_CONTACT) is not None


def _nonces(sa: IkeSa) -> Nonces:
    handshake = sa.need_handshake()
    return Nonces(handshake.nonce_i, handshake.nonce_r)


# --- initiator ---------------------------------------------------------------------------------------------------


def begin(sa: IkeSa, now: float) -> None:
    """Prove who we are and ask for the connection's first Child SA."""
    connection, handshake = sa.connection, sa.need_handshake()
    sa.local_id = _own_identity(connection, sa.local)
    id_i = IdI(sa.local_id.id_type, sa.local_id.data)
    payloads: list[Payload] = [id_i]
    if connection.send_initial_contact and sa.observer.is_only_sa(sa):  # rfc7296-s2.4-01
        payloads.append(Notify(NotifyType.INITIAL_CONTACT))  # rfc7296-s2.4-02
    if isinstance(connection.remote_id, Identity):
        payloads.append(IdR(connection.remote_id.id_type, connection.remote_id.data))
    prover = prover_for(connection, sa.need_keys()[0].prf, sa.local_id, _expected_identity(sa))
    payloads += prover.prove(_our_octets(sa, id_i.body()))
    if sa.wanted and connection.childless is not Childless.FORCE:
        handshake.child, child_payloads = child_offer.offer(sa, sa.wanted[0], packet=sa.packet)
        payloads += child_payloads
    elif (request := cp.request(sa)) is not None:
        payloads.append(request)  # RFC 6023 section 3
    payloads += extension.offers(sa, ExchangeType.IKE_AUTH, is_response=False)
    sa.send_request(ExchangeType.IKE_AUTH, tuple(payloads), Establish(), now)


def conclude(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Verify the responder, then take the Child SA or note why there is none."""
    auth, id_r = inbound.first(Auth), inbound.first(IdR)
    if auth is None and inbound.error is not None:
        # Not authenticated, but from whom we exchanged keys with. RFC 7296 section 1.2.
        notify_type = inbound.error.notify_type
        sa.close(f"the peer refused: {notify_type}", inbound.now, notify_type)
        return ()
    try:
        if auth is None or id_r is None:
            raise InvalidSyntax("an IKE_AUTH response without IDr or AUTH")
        peer_id = Identity(id_r.id_type, id_r.data)
        wanted = sa.connection.remote_id
        if wanted is not None and not wanted.matches(peer_id):  # rfc7296-s1.2-03
            raise AuthenticationFailed(f"the peer is {peer_id}, we want {wanted}")
        own = sa.local_id or _own_identity(sa.connection, sa.local)
        verifier = verifier_for(sa.connection, sa.need_keys()[0].prf, own, peer_id)
        verifier.verify(inbound, _peer_octets(sa, id_r.body()))  # rfc7296-s1.2-02
    except ProtocolError as error:
        sa.fail(str(error), error.notify_type)
        sa.queue_first(CloseIkeSa(str(error), error.notify_type))
        return ()
    if _failed_entirely(sa, inbound):
        return ()
    sa.peer_id = peer_id
    sa.establish(inbound.now, initial_contact=_heeds_initial_contact(sa, inbound))
    cp.take(sa, inbound)
    _take_child(sa, inbound)
    take_auth_lifetime(sa, inbound)
    if cp.is_expected(sa):
        cp.ask_later(sa, sa.wanted, inbound.now)
    else:
        if sa.need_handshake().child is None:
            sa.queue(*(MakeChildSa(config, packet=sa.packet) for config in sa.wanted[:1]))
        sa.queue(*(MakeChildSa(config) for config in sa.wanted[1:]))
    if sa.replaces is not None:
        sa.queue(CloseReplaced())  # RFC 7296 section 2.8.3: when all of the others are there
    sa.end_handshake()
    return ()


def _failed_entirely(sa: IkeSa, inbound: Inbound) -> bool:
    """Whether an error notify beside a good proof leaves no IKE SA: the fatal ones, and all that we do not know.

    RFC 7296 sections 2.21.2 and 3.10.1.
    """
    for notify_type in (notify.notify_type for notify in inbound.notifies if notify.is_error):
        if notify_type in FATAL_NOTIFIES:
            sa.close(f"the peer refused: {notify_type}", inbound.now, notify_type)
            return True
        if not notify_type.known:  # rfc7296-s3.10.1-01
            reason = f"the peer reports an error that is not known here: {notify_type}"
            sa.fail(reason, notify_type)
            sa.queue_first(CloseIkeSa(reason))
            return True
    return False


def _take_child(sa: IkeSa, inbound: Inbound) -> None:
    """The Child SA that was asked for, or what is done without it."""
    offered = sa.need_handshake().child
    if offered is not None:
        _take_offered(sa, offered, inbound)
        sa.release_spi(offered.spi_in)


def _take_offered(sa: IkeSa, offered: ChildOffer, inbound: Inbound) -> None:
    if inbound.first(Sa) is None:
        # rfc7296-s2.21.2-04, rfc7296-s1.3.1-03: the IKE SA stays.
        error = inbound.error
        reason = "the peer made no Child SA" if error is None else f"the peer refused: {error.notify_type}"
        notify_type = None if error is None else error.notify_type
        instead = child_offer.instead(sa, offered, notify_type)
        if instead is not None:
            sa.queue(instead)
            return
        sa.add_event(ChildSaFailed(sa.info(), offered.config.name, reason, notify_type))
        return
    try:
        child = child_offer.accept(sa, offered, inbound, _nonces(sa))
        sa.add_child(child, inbound.now)
        sa.queue(*child_offer.further(sa, offered, child, inbound))
    except IkeError as error:
        # The peer has its half already: delete the pair. RFC 7296 section 2.21.
        notify_type = error.notify_type if isinstance(error, ProtocolError) else None
        sa.add_event(ChildSaFailed(sa.info(), offered.config.name, str(error), notify_type))
        sa.delete_unwanted(offered.spi_in, str(error))


# --- responder ---------------------------------------------------------------------------------------------------


def answer(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    """Verify the initiator and answer; AuthenticationFailed when it is not who it says, or nobody that we know."""
    id_i = inbound.required(IdI)
    if inbound.first(Auth) is None:
        raise AuthenticationFailed("the initiator wants EAP, which is not configured")
    connection = _find_connection(sa, inbound, id_i)
    peer_id = Identity(id_i.id_type, id_i.data)
    own = _own_identity(connection, inbound.local)
    prf = sa.need_keys()[0].prf
    verifier = verifier_for(connection, prf, own, peer_id)
    verifier.verify(inbound, _peer_octets(sa, id_i.body()))  # rfc7296-s1.2-02, rfc7296-s2.21.2-01
    sa.connection = connection
    sa.local_id, sa.peer_id = own, peer_id
    sa.local, sa.remote = inbound.local, inbound.remote
    id_r = IdR(sa.local_id.id_type, sa.local_id.data)
    prover = prover_for(connection, prf, own, peer_id)
    payloads: list[Payload] = [id_r, *prover.prove(_our_octets(sa, id_r.body()))]
    sa.establish(inbound.now, initial_contact=_heeds_initial_contact(sa, inbound))
    payloads += _answer_child(sa, inbound)
    if connection.reauth_s:
        payloads.append(Notify(NotifyType.AUTH_LIFETIME, int(connection.reauth_s).to_bytes(4, "big")))  # RFC 4478
    payloads += extension.offers(sa, ExchangeType.IKE_AUTH, is_response=True)
    sa.end_handshake()
    return tuple(payloads)


def _find_connection(sa: IkeSa, inbound: Inbound, id_i: Id) -> ConnectionConfig:
    """The connection of these identities, among those that accept the suite that was chosen.

    First come those whose own identity is the IDr that the initiator asks for; then the addresses decide, then the
    identities, the more specific the better; then the order of the configuration. An IDr that is nobody's is answered
    with ours: the initiator decides. RFC 7296 section 1.2.
    """
    suite = sa.need_keys()[0]
    asked = inbound.first(IdR)
    peer_id = Identity(id_i.id_type, id_i.data)
    found: list[tuple[tuple[bool, int, int], ConnectionConfig]] = []
    for connection in sa.candidates:
        if connection is not sa.connection and not _accepts(connection, sa.need_handshake().proposals):
            continue
        fits = quality(connection.remote_id, peer_id)
        if not fits:  # rfc7296-s1.2-03
            continue
        own = _own_identity(connection, inbound.local)
        is_asked = asked is None or own.matches(Identity(asked.id_type, asked.data))
        address = connection.address_quality(inbound.local.host, inbound.remote.host)
        found.append(((is_asked, address, fits), connection))
    if not found:
        raise AuthenticationFailed(f"no connection for the peer {peer_id} with {suite.keyword}")
    return max(found, key=lambda entry: entry[0])[1]


def _accepts(connection: ConnectionConfig, chosen: tuple[Proposal, ...]) -> bool:
    try:
        choose_proposal(numbered(chosen), connection.proposals)
    except NoProposalChosen:
        return False
    return True


def _answer_child(sa: IkeSa, inbound: Inbound) -> list[Payload]:
    """The Child SA's payloads, or the notify that says why there is none. The IKE SA stays either way."""
    if inbound.first(Sa) is None and inbound.first(TsI) is None and inbound.first(TsR) is None:
        if sa.connection.childless is Childless.NEVER:
            raise InvalidSyntax("an IKE_AUTH request without a Child SA, which is not configured")  # RFC 6023
        return cp.answer_alone(sa, inbound)
    if sa.connection.childless is Childless.FORCE:
        reason = "no Child SA is made in IKE_AUTH here"
        sa.add_event(ChildSaFailed(sa.info(), sa.connection.name, reason, NotifyType.NO_ADDITIONAL_SAS))
        return [Notify(NotifyType.NO_ADDITIONAL_SAS)]
    try:
        child, payloads = child_answer.answer(sa, inbound, _nonces(sa))
    except ProtocolError as error:  # rfc7296-s1.3.1-03
        notify_type = error.notify_type or NotifyType.NO_PROPOSAL_CHOSEN
        sa.add_event(ChildSaFailed(sa.info(), sa.connection.name, str(error), notify_type))
        return [Notify(notify_type, error.notify_data)]
    except IkeError as error:
        sa.add_event(ChildSaFailed(sa.info(), sa.connection.name, str(error), NotifyType.NO_ADDITIONAL_SAS))
        return [Notify(NoAdditionalSas.notify_type)]
    sa.add_child(child, inbound.now)
    return payloads
