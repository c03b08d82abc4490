"""The responder's part of negotiating a Child SA: which of the configured ones it is, and what of the offer is taken.

Used by IKE_AUTH and by CREATE_CHILD_SA. RFC 7296 sections 1.2, 1.3.1, 2.9 and 2.23.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ikev2.core import cp, narrowing
from ikev2.core.child_negotiation import (
    ChildSa,
    ChildSecrets,
    Nonces,
    Originals,
    check_scope,
    make_child_sa,
    peer_spi,
    substituted,
    suite_of,
    tfc_padding_of,
)
from ikev2.core.config import ChildConfig
from ikev2.core.exchange import Inbound
from ikev2.core.narrowing import Selectors
from ikev2.core.types import Mode, Role
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, choose_proposal
from ikev2.errors import (
    InvalidKePayload,
    NoProposalChosen,
    ProtocolError,
    SinglePairRequired,
    TsUnacceptable,
)
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Proposal, Sa, TsI, TsR

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


def answer(
    sa: IkeSa, inbound: Inbound, nonces: Nonces, *, replaces: ChildSa | None = None
) -> tuple[ChildSa, list[Payload]]:
    """Make the Child SA that the initiator asks for: NoProposalChosen, TsUnacceptable, InvalidKePayload; before that
    give it an address, if it asks for one: FailedCpRequired, InternalAddressFailure.

    In CREATE_CHILD_SA, where the request has a nonce, our nonce and KE payload are among the payloads. `replaces` is
    the Child SA that it rekeys.
    """
    with cp.granting(sa, inbound, demanded=replaces is None) as configuration:
        child, payloads = _answer(sa, inbound, nonces, replaces)
    return child, [*configuration, *payloads]  # rfc7296-s2.19-02


def _answer(sa: IkeSa, inbound: Inbound, nonces: Nonces, replaces: ChildSa | None) -> tuple[ChildSa, list[Payload]]:
    offered = inbound.required(Sa).proposals
    tsi, tsr = inbound.required(TsI).selectors, inbound.required(TsR).selectors
    asks_transport = inbound.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    configs = sa.connection.children if replaces is None else (replaces.config,)
    # One with the right traffic selectors and the wrong algorithms must not hide another one.
    in_auth = inbound.first(Nonce) is None
    fitting: Sequence[ChildConfig] = configs
    if len(configs) > 1:
        fitting = [config for config in configs if _has_proposal(config, offered, in_auth=in_auth)] or configs
    config, narrowed, originals = _choose_config(sa, fitting, tsi, tsr, asks_transport=asks_transport)
    if replaces is not None:
        check_scope(sa, replaces, local=narrowed.tsr, remote=narrowed.tsi)
    suite, chosen, keying, shared = _answer_suite(sa, inbound, offered, config, nonces)
    spi_out = peer_spi(chosen)
    spi_in = sa.reserve_spi()
    child = make_child_sa(
        sa,
        config,
        suite,
        (spi_in, spi_out),
        (narrowed.tsr, narrowed.tsi),
        Role.RESPONDER,
        ChildSecrets(nonces, shared),
        originals,
        None if replaces is None else replaces.params.reqid,
        tfc_padding=tfc_padding_of(config, inbound),
    )
    # rfc7296-s2.7-02
    answer_proposal = Proposal(chosen.number, chosen.protocol, spi_in.to_bytes(4, "big"), chosen.transforms)
    payloads: list[Payload] = []
    if config.mode is Mode.TRANSPORT:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))  # rfc7296-s1.3.1-01
    payloads += [Sa((answer_proposal,)), *keying, TsI(narrowed.tsi), TsR(narrowed.tsr)]
    if replaces is None and not narrowed.whole and _others_possible(sa, config, narrowed, inbound):
        payloads.append(Notify(NotifyType.ADDITIONAL_TS_POSSIBLE))
    return child, payloads


def _answer_suite(
    sa: IkeSa, inbound: Inbound, offered: Sequence[Proposal], config: ChildConfig, nonces: Nonces
) -> tuple[EspSuite, Proposal, list[Payload], SecretOctets | None]:
    """Choose algorithms; in CREATE_CHILD_SA also our nonce and KE payload, and the shared secret for PFS."""
    if inbound.first(Nonce) is None:
        chosen = choose_proposal(offered, config.auth_proposals)
        return suite_of(chosen), chosen, [], None
    ke = inbound.first(Ke)
    chosen = choose_proposal(offered, config.esp_proposals, preferred_ke=None if ke is None else ke.group)
    suite = suite_of(chosen)
    keying: list[Payload] = [Nonce(nonces.r)]
    if suite.ke is None:
        return suite, chosen, keying, None
    if ke is None or ke.group != suite.ke.id:
        raise InvalidKePayload(suite.ke.id)  # rfc7296-s1.3-03
    pair = suite.ke.generate(sa.entropy)
    keying.append(Ke(suite.ke.id, pair.public))
    return suite, chosen, keying, pair.shared_secret(ke.data)


def _has_proposal(config: ChildConfig, offered: Sequence[Proposal], *, in_auth: bool) -> bool:
    """True when this Child SA can take one of the proposals."""
    try:
        choose_proposal(offered, config.auth_proposals if in_auth else config.esp_proposals)
    except NoProposalChosen:
        return False
    return True


def _choose_config(
    sa: IkeSa, configs: Iterable[ChildConfig], tsi: Selectors, tsr: Selectors, *, asks_transport: bool
) -> tuple[ChildConfig, narrowing.Narrowed, Originals]:
    """The one of these Child SAs that suits best: its mode, then the initiator's first selectors.

    Who asks for transport mode may get tunnel mode; who asks for tunnel mode never gets transport mode.
    RFC 7296 sections 1.3.1 and 2.9.
    """
    best: tuple[tuple[int, int, int], ChildConfig, narrowing.Narrowed, Originals] | None = None
    problem: ProtocolError | None = None
    wrong_mode = False
    for config in configs:
        transport = config.mode is Mode.TRANSPORT
        if transport and not asks_transport:
            wrong_mode = True
            continue
        originals = Originals()
        asked_i, asked_r = tsi, tsr
        try:
            if transport:
                # rfc7296-s2.23-15
                originals = Originals(narrowing.single_address(tsr), narrowing.single_address(tsi))
                asked_r, asked_i = substituted(sa, local=tsr, remote=tsi)
            narrowed = _narrow(sa, config, asked_i, asked_r)
            if transport and sa.nat.remote:
                _refuse_conflict(sa, narrowed)
        except SinglePairRequired as error:
            problem = error
            continue
        except TsUnacceptable as error:
            problem = problem or error
            continue
        rank = (transport != asks_transport, not narrowed.first_choice, not narrowed.whole)
        if best is None or rank < best[0]:
            best = (rank, config, narrowed, originals)
    if best is not None:
        return best[1:]
    if problem is None and wrong_mode:
        raise NoProposalChosen("only transport mode is configured, and the peer did not ask for it")
    raise problem or TsUnacceptable("no Child SA is configured")


def _refuse_conflict(sa: IkeSa, narrowed: narrowing.Narrowed) -> None:
    """Transport mode with two hosts behind one NAT, whose traffic is the same as seen from here: only the first has it.

    Raises TsUnacceptable. RFC 3948 section 5.2: conflicting connections MUST be disallowed, or handled otherwise.
    """
    for other in sa.observer.others_behind(sa):
        for child in other.children.values():
            there = child.params
            if (
                there.mode is Mode.TRANSPORT
                and narrowing.intersect_all(narrowed.tsi, there.ts_remote)
                and narrowing.intersect_all(narrowed.tsr, there.ts_local)
            ):
                raise TsUnacceptable(
                    f"{other.peer_id} is behind the same NAT and has this traffic in transport mode"
                )


def _narrow(sa: IkeSa, config: ChildConfig, tsi: Selectors, tsr: Selectors) -> narrowing.Narrowed:
    """What this Child SA's policy allows of what the initiator asks for; TsUnacceptable when that is nothing,
    SinglePairRequired when it has to be a pair of addresses and no such is asked for first.
    """
    narrowed = narrowing.narrow(
        tsi,
        tsr,
        narrowing.resolve(config.remote_ts, *cp.remote_hosts(sa)),
        narrowing.resolve(config.local_ts, *cp.local_hosts(sa)),
    )
    return narrowing.single_pair(narrowed, tsi, tsr) if config.single_pair else narrowed


def _others_possible(sa: IkeSa, taken: ChildConfig, narrowed: narrowing.Narrowed, inbound: Inbound) -> bool:
    """True when another Child SA of the connection would have allowed traffic that this one does not.

    RFC 7296 section 2.9, ADDITIONAL_TS_POSSIBLE.
    """
    tsi, tsr = inbound.required(TsI).selectors, inbound.required(TsR).selectors
    for config in sa.connection.children:
        if config is taken or config.mode is Mode.TRANSPORT:
            continue
        try:
            other = _narrow(sa, config, tsi, tsr)
        except (TsUnacceptable, SinglePairRequired):
            continue
        if not (narrowing.covers(narrowed.tsi, other.tsi) and narrowing.covers(narrowed.tsr, other.tsr)):
            return True
    return False
