"""The initiator's part of negotiating a Child SA: what is asked for, and what is taken of the answer.

Used by IKE_AUTH and by CREATE_CHILD_SA. RFC 7296 sections 1.2, 1.3.1, 2.9 and 2.23.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ikev2.core import cp, narrowing
from ikev2.core.child_negotiation import (
    ChildOffer,
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
from ikev2.core.config import DYNAMIC, ChildConfig
from ikev2.core.exchange import Inbound, MakeChildSa, PacketSelectors
from ikev2.core.narrowing import Selectors
from ikev2.core.types import Mode, Role
from ikev2.crypto.ke import KePair
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, check_choice, numbered
from ikev2.errors import (
    InternalAddressFailure,
    InvalidSyntax,
    LocalProtocolError,
    NoProposalChosen,
    TsUnacceptable,
)
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Ke, Notify, Payload, Sa, TsI, TsR

if TYPE_CHECKING:
    from ikev2.core.ike_sa import IkeSa


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
    suite = suite_of(proposals[0])
    config = offered.config
    transport = inbound.notify(NotifyType.USE_TRANSPORT_MODE) is not None
    if transport != (config.mode is Mode.TRANSPORT):
        # rfc7296-s1.3.1-02: transport mode or nothing. Nor may the peer use it when we did not ask for it.
        raise NoProposalChosen(f"the peer does not agree to {config.mode} mode")
    tsi, tsr = inbound.required(TsI).selectors, inbound.required(TsR).selectors
    originals = Originals()
    if transport:
        originals = Originals(narrowing.single_address(tsi), narrowing.single_address(tsr))
        tsi, tsr = substituted(sa, local=tsi, remote=tsr)
    if not narrowing.covers(offered.tsi, tsi) or not narrowing.covers(offered.tsr, tsr):
        raise TsUnacceptable("the peer's traffic selectors are not within those that we offered")
    if replaces is not None:
        check_scope(sa, replaces, local=tsi, remote=tsr)
    # A responder may repeat the selectors of the packet beside others that hold them.
    tsi, tsr = narrowing.intersect_all(tsi, tsi), narrowing.intersect_all(tsr, tsr)
    secrets = ChildSecrets(nonces, _accepted_ke(suite, inbound.first(Ke), pair))
    spi_out = peer_spi(proposals[0])
    return make_child_sa(
        sa,
        config,
        suite,
        (offered.spi_in, spi_out),
        (tsi, tsr),
        Role.INITIATOR,
        secrets,
        originals,
        reqid,
        tfc_padding=tfc_padding_of(config, inbound),
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
