"""What both ends of the negotiation of a Child SA have: offer and result, keys and addresses.

`child_offer` is the initiator's part, `child_answer` the responder's. RFC 7296 sections 1.3.1, 2.9, 2.17 and 2.23.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ikev2.core import lifetime, narrowing
from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.config import ChildConfig
from ikev2.core.exchange import Inbound
from ikev2.core.narrowing import Selectors
from ikev2.core.types import Mode, Role
from ikev2.crypto.keymat import child_keymat
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import (
    NoProposalChosen,
    TsUnacceptable,
)
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Proposal, TrafficSelector

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


class ChildSecrets(NamedTuple):
    """What KEYMAT is made of beside SK_d: the nonces, and g^ir for PFS."""

    nonces: Nonces
    shared: SecretOctets | None = None


class Originals(NamedTuple):
    """Addresses before translation, as transport mode needs them. RFC 7296 section 2.23.1."""

    local: str | None = None
    remote: str | None = None


def check_scope(sa: IkeSa, replaces: ChildSa, *, local: Selectors, remote: Selectors) -> None:
    """TsUnacceptable when the new selectors would be narrower than those in use. RFC 7296 section 2.9.2."""
    old_local, old_remote = replaces.params.ts_local, replaces.params.ts_remote
    if replaces.params.mode is Mode.TRANSPORT:
        # It is between the addresses of the IKE SA, wherever these are by now.
        old_local = narrowing.substitute(old_local, sa.local.host)
        old_remote = narrowing.substitute(old_remote, sa.remote.host)
    # rfc7296-s2.9.2-01, rfc7296-s2.9.2-03
    if not (narrowing.covers(local, old_local) and narrowing.covers(remote, old_remote)):
        raise TsUnacceptable("the new traffic selectors are narrower than those of the Child SA in use")


def substituted(sa: IkeSa, *, local: Selectors, remote: Selectors) -> tuple[Selectors, Selectors]:
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
    hosts = host_of(sa.local.host), host_of(sa.remote.host)
    # rfc7296-s2.23.1-03, rfc7296-s2.23.1-04
    if (narrowing.single_address(local), narrowing.single_address(remote)) != hosts:
        raise TsUnacceptable("transport mode is between the addresses of the IKE SA only")
    return local, remote


def host_of(text: str) -> str:
    """An address in the form that selectors print."""
    return str(ipaddress.ip_address(text.partition("%")[0]))


def suite_of(chosen: Proposal) -> EspSuite:
    """The suite of a proposal with one transform of each type; NoProposalChosen for one that is not known here."""
    try:
        return EspSuite.from_proposal(chosen)
    except UnknownAlgorithm as error:
        raise NoProposalChosen(str(error)) from error


def peer_spi(chosen: Proposal) -> int:
    """The SPI on which the peer receives; NoProposalChosen for one that ESP cannot have. RFC 4303 section 2.1."""
    spi = int.from_bytes(chosen.spi, "big")
    if len(chosen.spi) != 4 or spi < 256:
        # Not InvalidSyntax, which is fatal to the IKE SA: RFC 7296 sections 2.21.2 and 2.21.3.
        raise NoProposalChosen(f"the SPI of a Child SA is {chosen.spi.hex() or 'missing'}")
    return spi


def make_child_sa(
    sa: IkeSa,
    config: ChildConfig,
    suite: EspSuite,
    spis: tuple[int, int],
    selectors: tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]],
    role: Role,
    secrets: ChildSecrets,
    originals: Originals,
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
        limits=lifetime.draw_limits(config.octets, config.packets, sa.entropy),
        header=config.header,
        dummies=config.dummies,
    )
    return ChildSa(config, params, SecretOctets("KEYMAT", keymat))


def tfc_padding_of(config: ChildConfig, inbound: Inbound) -> int:
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
