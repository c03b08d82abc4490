"""Negotiating one Child SA inside an exchange: offer, answer, accept; keys and addresses come out.

Used by IKE_AUTH and by CREATE_CHILD_SA. RFC 7296 sections 1.3.1, 2.9, 2.17 and 2.23.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ikev2.core import cp, narrowing
from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.config import DYNAMIC, ChildConfig
from ikev2.core.exchange import Inbound, MakeChildSa, PacketSelectors
from ikev2.core.narrowing import Selectors
from ikev2.core.types import Mode, Role
from ikev2.crypto.ke import KePair
from ikev2.crypto.keymat import child_keymat
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, check_choice, choose_proposal, numbered
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import (
    InternalAddressFailure,
    InvalidKePayload,
    InvalidSyntax,
    LocalProtocolError,
    NoProposalChosen,
    ProtocolError,
    SinglePairRequired,
    TsUnacceptable,
)
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Proposal, Sa, TrafficSelector, TsI, TsR

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


class Nonces(NamedTuple):
    """Ni and Nr of the exchange that keys the Child SA. RFC 7296 section 2.17."""

    i: bytes
    r: bytes


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we asked for, to compare with what we get; with `asks_address` its selectors depend on a CFG_REPLY."""

    config: ChildConfig
    spi_in: int
    proposals: tuple[Proposal, ...]
    tsi: Selectors
    tsr: Selectors
    asks_address: bool = False


@dataclass(slots=True)
class ChildSa:
    """A Child SA of ours: its parameters, KEYMAT as taken, and what becomes of it.

    `closing`: we have sent, or are about to send, a Delete for it; `rekeying`: we have it in mind, or in hand, to
    replace it, `rekey_failed`: that was refused; `standby_for`: the inbound SPI of the pair on which we send until the
    peer has deleted that; `soft_at`, `hard_at`: when it is to be rekeyed, and when it ends.
    """

    config: ChildConfig
    params: ChildSaParameters
    keymat: SecretOctets
    installed_at: float = 0.0
    closing: bool = False
    rekeying: bool = False
    rekey_failed: bool = False
    standby_for: int | None = None
    soft_at: float | None = None
    hard_at: float | None = None


class _Secrets(NamedTuple):
    """What KEYMAT is made of beside SK_d: the nonces, and g^ir for PFS."""

    nonces: Nonces
    shared: SecretOctets | None = None


class _Originals(NamedTuple):
    """Addresses before translation, as transport mode needs them. RFC 7296 section 2.23.1."""

    local: str | None = None
    remote: str | None = None


# --- initiator ---------------------------------------------------------------------------------------------------


def offer(
    sa: IkeSa,
    config: ChildConfig,
    *,
    keying: Sequence[Payload] = (),
    replaces: ChildSa | None = None,
    selectors: narrowing.Product | None = None,
    packet: PacketSelectors | None = None,
) -> tuple[ChildOffer, list[Payload]]:
    """The payloads that ask for a Child SA.

    `keying` are the nonce and, for PFS, the KE payload of CREATE_CHILD_SA; IKE_AUTH has none. `replaces` is the
    Child SA to be rekeyed: the new one shall have its traffic selectors (RFC 7296 section 2.9.2). `selectors` are
    asked for in the place of the configured ones; those of the `packet` for which it is wanted go first.
    """
    if replaces is not None and config.mode is Mode.TUNNEL:
        # rfc7296-s2.8-03, rfc7296-s2.9.2-02, rfc7296-s2.9.2-04
        tsi, tsr = replaces.params.ts_local, replaces.params.ts_remote
    elif selectors is not None:
        tsi, tsr = selectors
    else:
        tsi, tsr = _wanted_selectors(sa, config)
    spi_in = sa.reserve_spi()
    spi = spi_in.to_bytes(4, "big")
    # rfc7296-s1.2-06: no group in IKE_AUTH, where there is no KE payload.
    wanted = config.esp_proposals if keying else config.auth_proposals
    proposals = numbered(wanted, spi)
    request = cp.request(sa) if replaces is None else None
    payloads: list[Payload] = [] if request is None else [request]  # rfc7296-s2.19-01, rfc7296-s2.19-02
    if config.mode is Mode.TRANSPORT:
        payloads.append(Notify(NotifyType.USE_TRANSPORT_MODE))
    first = _first_selectors(packet, tsi, tsr)
    payloads += [Sa(proposals), *keying, TsI((*first[0], *tsi)), TsR((*first[1], *tsr))]
    return ChildOffer(config, spi_in, proposals, tsi, tsr, asks_address=request is not None), payloads


def _first_selectors(packet: PacketSelectors | None, tsi: Selectors, tsr: Selectors) -> tuple[Selectors, Selectors]:
    """The selectors of the packet for which the Child SA is wanted, when it is of what is asked for.

    RFC 7296 sections 2.9 and 2.23.1.
    """
    # rfc7296-s2.9-01, rfc7296-s2.23.1-02, rfc7296-s2.23.1-07
    if packet is None or not (narrowing.covers(tsi, packet[:1]) and narrowing.covers(tsr, packet[1:])):
        return (), ()
    # Where a list is no more than the packet, it is there already.
    return tuple(packet[:1]) if packet[0] not in tsi else (), tuple(packet[1:]) if packet[1] not in tsr else ()


def _wanted_selectors(sa: IkeSa, config: ChildConfig) -> tuple[Selectors, Selectors]:
    """TSi and TSr of our offer: in transport mode what the configuration allows of the IKE SA's two addresses.

    LocalProtocolError when that is nothing. RFC 7296 sections 2.9.1 and 2.23.1.
    """
    tsi = narrowing.resolve(config.local_ts, *cp.local_hosts(sa))
    tsr = narrowing.resolve(config.remote_ts, *cp.remote_hosts(sa))
    if config.mode is Mode.TRANSPORT:
        # rfc7296-s2.23.1-01, rfc7296-s2.23.1-03, rfc7296-s2.23.1-04
        tsi = narrowing.intersect_all(tsi, narrowing.resolve((DYNAMIC,), sa.local.host))
        tsr = narrowing.intersect_all(tsr, narrowing.resolve((DYNAMIC,), sa.remote.host))
        if not tsi or not tsr:
            raise LocalProtocolError(
                f"child {config.name}: transport mode is between {sa.local.host} and {sa.remote.host}, "
                "which its traffic selectors do not hold"
            )
    return _without_others(sa, config, tsi, tsr)


def _without_others(sa: IkeSa, config: ChildConfig, tsi: Selectors, tsr: Selectors) -> tuple[Selectors, Selectors]:
    """The same without the traffic that is to go through another Child SA of the connection, in another way.

    Otherwise the peer could send on this one what we take from the other one only. Where the two differ on both sides
    no selectors can say that, and nothing is taken out. RFC 7296 section 2.9.1.
    """
    for other in sa.connection.children:
        if other is config or (other.mode, other.esp_proposals) == (config.mode, config.esp_proposals):
            continue
        other_i = narrowing.resolve(other.local_ts, *cp.local_hosts(sa))
        other_r = narrowing.resolve(other.remote_ts, *cp.remote_hosts(sa))
        if not (narrowing.covers(tsi, other_i) and narrowing.covers(tsr, other_r)):
            continue
        if narrowing.covers(other_i, tsi):
            tsr = narrowing.subtract(tsr, other_r) or tsr
        elif narrowing.covers(other_r, tsr):
            tsi = narrowing.subtract(tsi, other_i) or tsi
    return tsi, tsr


def further(sa: IkeSa, offered: ChildOffer, child: ChildSa, inbound: Inbound) -> list[MakeChildSa]:
    """What is to be asked for because the responder has made only a part: the rest, when it says that it may have it.

    RFC 7296 section 2.9, ADDITIONAL_TS_POSSIBLE.
    """
    if inbound.notify(NotifyType.ADDITIONAL_TS_POSSIBLE) is None or child.params.mode is not Mode.TUNNEL:
        return []
    if len(sa.children) >= sa.limits.child_sas:
        return []
    if offered.asks_address:
        offered = _with_addresses(sa, offered)
    rest = narrowing.remaining((offered.tsi, offered.tsr), (child.params.ts_local, child.params.ts_remote))
    return [MakeChildSa(offered.config, selectors=selectors) for selectors in rest]


def instead(sa: IkeSa, offered: ChildOffer, refusal: NotifyType | None) -> MakeChildSa | None:
    """What is to be asked for in the place of what was refused: with SINGLE_PAIR_REQUIRED, a pair of addresses.

    That of the IKE SA, or else the first single addresses that the configuration names; None when there are none, or
    when they were refused already. RFC 7296 section 2.9.
    """
    if refusal != NotifyType.SINGLE_PAIR_REQUIRED:
        return None
    tsi = _one_address(offered.tsi, cp.local_hosts(sa)[0])
    tsr = _one_address(offered.tsr, cp.remote_hosts(sa)[0])
    if not narrowing.has_traffic(tsi, tsr):
        return None
    if narrowing.covers(tsi, offered.tsi) and narrowing.covers(tsr, offered.tsr):
        return None
    return MakeChildSa(offered.config, selectors=(tsi, tsr))


def _one_address(selectors: Selectors, host: str) -> Selectors:
    """The part of these that is about this host, or else about the first host that is named by itself."""
    own = narrowing.intersect_all(selectors, narrowing.resolve((DYNAMIC,), host))
    if own:
        return own
    named = next((one for ts in selectors if (one := narrowing.single_address((ts,))) is not None), None)
    return () if named is None else narrowing.intersect_all(selectors, narrowing.resolve((DYNAMIC,), named))


def accept(
    sa: IkeSa,
    offered: ChildOffer,
    inbound: Inbound,
    nonces: Nonces,
    *,
    pair: KePair | None = None,
    reqid: int | None = None,
    replaces: ChildSa | None = None,
) -> ChildSa:
    """The Child SA that the responder made; NoProposalChosen, TsUnacceptable, InvalidSyntax when it is not what
    was offered, or when transport mode was refused.

    `pair` is the one of our KE payload, `reqid` that of the Child SA `replaces`, which this one replaces.
    """
    if offered.asks_address:
        offered = _with_addresses(sa, offered)
    proposals = inbound.required(Sa).proposals
    check_choice(proposals[0], offered.proposals)  # rfc7296-s3.3.6-06
    suite = _suite(proposals[0])
    config = offered.config
    transport = inbound.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if transport != (config.mode is Mode.TRANSPORT):
        # rfc7296-s1.3.1-02: transport mode or nothing. Nor may the peer use it when we did not ask for it.
        raise NoProposalChosen(f"the peer does not agree to {config.mode} mode")
    tsi, tsr = inbound.required(TsI).selectors, inbound.required(TsR).selectors
    originals = _Originals()
    if transport:
        originals = _Originals(narrowing.single_address(tsi), narrowing.single_address(tsr))
        tsi, tsr = _substituted(sa, local=tsi, remote=tsr)
    if not narrowing.covers(offered.tsi, tsi) or not narrowing.covers(offered.tsr, tsr):
        raise TsUnacceptable("the peer's traffic selectors are not within those that we offered")
    if replaces is not None:
        _check_scope(sa, replaces, local=tsi, remote=tsr)
    # A responder may repeat the selectors of the packet beside others that hold them.
    tsi, tsr = narrowing.intersect_all(tsi, tsi), narrowing.intersect_all(tsr, tsr)
    secrets = _Secrets(nonces, _accepted_ke(suite, inbound.first(Ke), pair))
    spi_out = _peer_spi(proposals[0])
    return _make(
        sa,
        config,
        suite,
        (offered.spi_in, spi_out),
        (tsi, tsr),
        Role.INITIATOR,
        secrets,
        originals,
        reqid,
        tfc_padding=_tfc_padding(config, inbound),
    )


def _with_addresses(sa: IkeSa, offered: ChildOffer) -> ChildOffer:
    """The offer as it is meant now that the addresses are known; InternalAddressFailure when there are none.

    RFC 7296 sections 2.19 and 3.15.4.
    """
    if cp.is_expected(sa):
        raise InternalAddressFailure("the peer assigned no address")
    allowed = narrowing.resolve(offered.config.local_ts, *cp.local_hosts(sa))
    return replace(offered, tsi=narrowing.intersect_all(offered.tsi, allowed))


def _accepted_ke(suite: EspSuite, ke: Ke | None, pair: KePair | None) -> SecretOctets | None:
    """The shared secret when the responder chose a group; InvalidSyntax unless its KE payload is of that group."""
    if suite.ke is None:
        return None
    if ke is None or pair is None or ke.group != suite.ke.id:
        raise InvalidSyntax(f"the responder chose {suite.ke.id}, and its KE payload does not go with that")
    return pair.shared_secret(ke.data)


# --- responder ---------------------------------------------------------------------------------------------------


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
        _check_scope(sa, replaces, local=narrowed.tsr, remote=narrowed.tsi)
    suite, chosen, keying, shared = _answer_suite(sa, inbound, offered, config, nonces)
    spi_out = _peer_spi(chosen)
    spi_in = sa.reserve_spi()
    child = _make(
        sa,
        config,
        suite,
        (spi_in, spi_out),
        (narrowed.tsr, narrowed.tsi),
        Role.RESPONDER,
        _Secrets(nonces, shared),
        originals,
        None if replaces is None else replaces.params.reqid,
        tfc_padding=_tfc_padding(config, inbound),
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
        return _suite(chosen), chosen, [], None
    ke = inbound.first(Ke)
    chosen = choose_proposal(offered, config.esp_proposals, preferred_ke=None if ke is None else ke.group)
    suite = _suite(chosen)
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
) -> tuple[ChildConfig, narrowing.Narrowed, _Originals]:
    """The one of these Child SAs that suits best: its mode, then the initiator's first selectors.

    Who asks for transport mode may get tunnel mode; who asks for tunnel mode never gets transport mode.
    RFC 7296 sections 1.3.1 and 2.9.
    """
    best: tuple[tuple[int, int, int], ChildConfig, narrowing.Narrowed, _Originals] | None = None
    problem: ProtocolError | None = None
    wrong_mode = False
    for config in configs:
        transport = config.mode is Mode.TRANSPORT
        if transport and not asks_transport:
            wrong_mode = True
            continue
        originals = _Originals()
        asked_i, asked_r = tsi, tsr
        try:
            if transport:
                # rfc7296-s2.23-15
                originals = _Originals(narrowing.single_address(tsr), narrowing.single_address(tsi))
                asked_r, asked_i = _substituted(sa, local=tsr, remote=tsi)
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


# --- both --------------------------------------------------------------------------------------------------------


def _check_scope(sa: IkeSa, replaces: ChildSa, *, local: Selectors, remote: Selectors) -> None:
    """TsUnacceptable when the new selectors would be narrower than those in use. RFC 7296 section 2.9.2."""
    old_local, old_remote = replaces.params.ts_local, replaces.params.ts_remote
    if replaces.params.mode is Mode.TRANSPORT:
        # It is between the addresses of the IKE SA, wherever these are by now.
        old_local = narrowing.substitute(old_local, sa.local.host)
        old_remote = narrowing.substitute(old_remote, sa.remote.host)
    # rfc7296-s2.9.2-01, rfc7296-s2.9.2-03
    if not (narrowing.covers(local, old_local) and narrowing.covers(remote, old_remote)):
        raise TsUnacceptable("the new traffic selectors are narrower than those of the Child SA in use")


def _substituted(sa: IkeSa, *, local: Selectors, remote: Selectors) -> tuple[Selectors, Selectors]:
    """Selectors of transport mode with the addresses that we see; TsUnacceptable unless each names one address, and
    that of the IKE SA: a peer has no say about traffic with anybody else.

    RFC 7296 section 2.23.1.
    """
    if narrowing.single_address(local) is None or narrowing.single_address(remote) is None:
        raise TsUnacceptable("transport mode takes exactly one address on either side")  # rfc7296-s2.23.1-01
    if sa.nat.local:
        local = narrowing.substitute(local, sa.local.host)
    if sa.nat.remote:
        remote = narrowing.substitute(remote, sa.remote.host)
    hosts = _host(sa.local.host), _host(sa.remote.host)
    # rfc7296-s2.23.1-03, rfc7296-s2.23.1-04
    if (narrowing.single_address(local), narrowing.single_address(remote)) != hosts:
        raise TsUnacceptable("transport mode is between the addresses of the IKE SA only")
    return local, remote


def _host(text: str) -> str:
    """An address in the form that selectors print."""
    return str(ipaddress.ip_address(text.partition("%")[0]))


def _suite(chosen: Proposal) -> EspSuite:
    try:
        return EspSuite.from_proposal(chosen)
    except UnknownAlgorithm as error:
        raise NoProposalChosen(str(error)) from error


def _peer_spi(chosen: Proposal) -> int:
    spi = int.from_bytes(chosen.spi, "big")
    if len(chosen.spi) != 4 or spi < 256:
        # Not InvalidSyntax, which is fatal to the IKE SA: RFC 7296 sections 2.21.2 and 2.21.3.
        raise NoProposalChosen(f"the SPI of a Child SA is {chosen.spi.hex() or 'missing'}")
    return spi


def _make(
    sa: IkeSa,
    config: ChildConfig,
    suite: EspSuite,
    spis: tuple[int, int],
    selectors: tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]],
    role: Role,
    secrets: _Secrets,
    originals: _Originals,
    reqid: int | None,
    *,
    tfc_padding: int,
) -> ChildSa:
    """Take the keys (rfc7296-s2.17-01) and put everything together. `spis` and `selectors` are (ours, the peer's).

    A Child SA that replaces another has its reqid: the policies that lead to it stay as they are.
    """
    ike_suite, ike_keys = sa.need_keys()
    nonces, shared = secrets
    # rfc7296-s2.17-01
    keymat = child_keymat(ike_suite.prf, ike_keys.sk_d, nonces.i, nonces.r, suite.keymat_octets, shared)
    keys = suite.split_keymat(keymat)
    ours, theirs = (keys.encr_i, keys.integ_i), (keys.encr_r, keys.integ_r)
    if role is Role.RESPONDER:
        ours, theirs = theirs, ours
    behind_nat = config.mode is Mode.TRANSPORT and sa.nat.between
    params = ChildSaParameters(
        name=config.name,
        ike_spi_i=sa.spi_i,
        ike_spi_r=sa.spi_r,
        suite=suite,
        mode=config.mode,
        role=role,
        local=sa.local.host,
        remote=sa.remote.host,
        spi_in=spis[0],
        spi_out=spis[1],
        encr_key_in=theirs[0],
        integ_key_in=theirs[1] if suite.integ is not None else None,
        encr_key_out=ours[0],
        integ_key_out=ours[1] if suite.integ is not None else None,
        ts_local=tuple(selectors[0]),
        ts_remote=tuple(selectors[1]),
        encap=_encapsulation(sa),
        replay_window=config.replay_window,
        reqid=sa.observer.next_reqid() if reqid is None else reqid,
        nat_original_local=originals.local if behind_nat else None,
        nat_original_remote=originals.remote if behind_nat else None,
        tfc_padding=tfc_padding,
        kernel=config.kernel,
    )
    return ChildSa(config, params, SecretOctets("KEYMAT", keymat))


def _tfc_padding(config: ChildConfig, inbound: Inbound) -> int:
    """The length to pad to: none in transport mode, nor for a peer that said that it does not take padding.

    What the one end says holds for what the other sends, so that each direction is decided by itself.
    RFC 7296 section 1.3.1, RFC 4303 section 2.7.
    """
    declined = inbound.notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED) is not None
    return 0 if declined or config.mode is Mode.TRANSPORT else config.tfc_padding


def _encapsulation(sa: IkeSa) -> UdpEncap | None:
    """ESP in UDP where there is a NAT (rfc7296-s2.23-07), but never on port 500 (rfc7296-s2.23-05)."""
    plain_port = sa.connection.ike_port
    if not sa.nat.between or (sa.local.port == plain_port and plain_port != sa.connection.nat_port):
        return None
    return UdpEncap(sa.local.port, sa.remote.port)  # rfc7296-s2.23-07
