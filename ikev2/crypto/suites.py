"""The algorithms that one SA uses, once a proposal is chosen; and the front door to proposals.

RFC 7296 sections 2.14, 2.17 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ikev2.crypto.encr import Encr, encr
from ikev2.crypto.integ import Integ, integ
from ikev2.crypto.ke import KeGroup, ke_group
from ikev2.crypto.keywords import (
    KEYWORDS,
    numbered,
    parse_esp_proposal,
    parse_ike_proposal,
    proposal_keyword,
    transform_keyword,
    without_ke,
)
from ikev2.crypto.prf import Prf, prf
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.selection import check_choice, choose_proposal
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import LocalProtocolError
from ikev2.iana import EsnId, IntegId, KeId, ProtocolId, TransformType
from ikev2.registration import Registration
from ikev2.wire.payloads.sa import Proposal, Transform

__all__ = [
    "KEYWORDS",
    "ChildKeys",
    "EspSuite",
    "IkeSuite",
    "check_choice",
    "choose_proposal",
    "numbered",
    "parse_esp_proposal",
    "parse_ike_proposal",
    "proposal_keyword",
    "transform_keyword",
    "without_ke",
]


def _single(proposal: Proposal, transform_type: TransformType) -> Transform | None:
    """The one transform of a type, None when there is none; UnknownAlgorithm when there are more."""
    found = proposal.of_type(transform_type)
    if len(found) > 1:
        raise UnknownAlgorithm(f"proposal {proposal.number} has {len(found)} transforms of type {transform_type}")
    return found[0] if found else None


def _mandatory(proposal: Proposal, transform_type: TransformType) -> Transform:
    found = _single(proposal, transform_type)
    if found is None:
        raise UnknownAlgorithm(f"proposal {proposal.number} has no transform of type {transform_type}")
    return found


def _cipher(proposal: Proposal) -> tuple[Encr, Integ | None]:
    """The cipher and its integrity algorithm; UnknownAlgorithm when one of them lacks or has one too many."""
    transform = _mandatory(proposal, TransformType.ENCR)
    cipher = encr(transform.id, transform.key_bits)
    found = _single(proposal, TransformType.INTEG)
    integrity = None if found is None or found.id == IntegId.NONE else integ(found.id)
    if cipher.is_aead != (integrity is None):
        raise UnknownAlgorithm(f"{cipher.keyword} {'with' if integrity else 'without'} an integrity algorithm")
    return cipher, integrity


def _cipher_transforms(cipher: Encr, integrity: Integ | None) -> list[Transform]:
    transforms = [Transform.of(TransformType.ENCR, cipher.id, cipher.key_bits)]
    if integrity is not None:
        transforms.append(Transform.of(TransformType.INTEG, integrity.id))
    return transforms


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """The algorithms of an IKE SA; `integ` is None beside a combined-mode cipher.

    RFC 7296 section 3.3.3.
    """

    encr: Encr
    integ: Integ | None
    prf: Prf
    ke: KeGroup

    @classmethod
    def from_proposal(cls, proposal: Proposal) -> Self:
        """The suite of a chosen proposal; UnknownAlgorithm when it is not one complete set that is implemented."""
        key = (cls, proposal.number, proposal.transforms, Registration.changes)
        found = _SUITES.get(key)
        if isinstance(found, cls):
            return found
        cipher, integrity = _cipher(proposal)
        if not cipher.for_ike:
            raise UnknownAlgorithm(f"{cipher.keyword} is not for IKE")  # rfc7296-s5-02
        suite = cls(
            cipher,
            integrity,
            prf(_mandatory(proposal, TransformType.PRF).id),
            ke_group(_mandatory(proposal, TransformType.KE).id),
        )
        _remember(key, suite)
        return suite

    def to_proposal(self, number: int = 1, spi: bytes = b"") -> Proposal:
        """The proposal that offers this suite alone."""
        first, *rest = _cipher_transforms(self.encr, self.integ)
        prf_transform = Transform.of(TransformType.PRF, self.prf.id)
        ke_transform = Transform.of(TransformType.KE, self.ke.id)
        return Proposal(number, ProtocolId.IKE, spi, (first, prf_transform, *rest, ke_transform))

    @property
    def keyword(self) -> str:
        """As in a configuration: `aes256gcm16-prfsha384-curve25519`."""
        return _keyword(self)

    def __str__(self) -> str:
        return self.keyword


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """The keys of a pair of Child SAs: `i` protects what the initiator of the exchange sends, `r` what the
    responder does.

    encr keys end with the salt; integ keys have no octets beside a combined-mode cipher.

    RFC 7296 section 2.17.
    """

    encr_i: SecretOctets
    integ_i: SecretOctets
    encr_r: SecretOctets
    integ_r: SecretOctets


@dataclass(frozen=True, slots=True)
class EspSuite:
    """The algorithms of a pair of ESP SAs; `ke` is None when KEYMAT comes from SK_d and the nonces alone.

    RFC 7296 section 3.3.3.
    """

    encr: Encr
    integ: Integ | None
    esn: bool = False
    ke: KeGroup | None = None

    @classmethod
    def from_proposal(cls, proposal: Proposal) -> Self:
        """The suite of a chosen proposal; UnknownAlgorithm when it is not one complete set that is implemented."""
        key = (cls, proposal.number, proposal.transforms, Registration.changes)
        found = _SUITES.get(key)
        if isinstance(found, cls):
            return found
        cipher, integrity = _cipher(proposal)
        group = _single(proposal, TransformType.KE)
        suite = cls(
            cipher,
            integrity,
            _mandatory(proposal, TransformType.ESN).id == EsnId.ESN,
            None if group is None or group.id == KeId.NONE else ke_group(group.id),
        )
        _remember(key, suite)
        return suite

    def to_proposal(self, number: int = 1, spi: bytes = b"") -> Proposal:
        """The proposal that offers this suite alone."""
        transforms = _cipher_transforms(self.encr, self.integ)
        if self.ke is not None:
            transforms.append(Transform.of(TransformType.KE, self.ke.id))
        transforms.append(Transform.of(TransformType.ESN, EsnId.ESN if self.esn else EsnId.NO_ESN))
        return Proposal(number, ProtocolId.ESP, spi, tuple(transforms))

    @property
    def keyword(self) -> str:
        """As in a configuration: `aes256gcm16`, `aes128-sha256-curve25519-esn`."""
        return _keyword(self)

    def __str__(self) -> str:
        return self.keyword

    @property
    def integ_key_octets(self) -> int:
        """What one direction's integrity key takes of KEYMAT."""
        return 0 if self.integ is None else self.integ.key_octets

    @property
    def keymat_octets(self) -> int:
        """What both directions take of KEYMAT."""
        return 2 * (self.encr.keymat_octets + self.integ_key_octets)

    def split_keymat(self, keymat: bytes) -> ChildKeys:
        """The keys, in the order of RFC 7296 section 2.17; LocalProtocolError unless `keymat_octets` long."""
        if len(keymat) != self.keymat_octets:
            raise LocalProtocolError(
                f"{self.keyword} takes {self.keymat_octets} octets of KEYMAT, not {len(keymat)}"
            )
        encr_octets = self.encr.keymat_octets
        half = len(keymat) // 2
        # rfc7296-s2.17-01a: initiator to responder first. rfc7296-s2.17-02, rfc7296-s2.17-03: encryption key first.
        return ChildKeys(
            SecretOctets("ESP encryption key i", keymat[:encr_octets]),
            SecretOctets("ESP integrity key i", keymat[encr_octets:half]),
            SecretOctets("ESP encryption key r", keymat[half : half + encr_octets]),
            SecretOctets("ESP integrity key r", keymat[half + encr_octets :]),
        )


_Key = tuple[type, int, tuple[Transform, ...], int]
_SUITES: dict[_Key, IkeSuite | EspSuite] = {}
"""The suites of proposals that were chosen before: an endpoint has few. Bounded."""
_MOST_SUITES = 256


def _remember(key: _Key, suite: IkeSuite | EspSuite) -> None:
    if len(_SUITES) >= _MOST_SUITES:
        _SUITES.clear()
    if all(transform.is_common for transform in key[2]):
        _SUITES[key] = suite


def _keyword(suite: IkeSuite | EspSuite) -> str:
    """A suite's keyword; every SA tells its own."""
    integ = None if suite.integ is None else suite.integ.keyword
    last = suite.prf.name if isinstance(suite, IkeSuite) else suite.esn
    key = (suite.encr.keyword, integ, suite.ke, last)
    found = _KEYWORDS.get(key)
    if found is None:
        found = _KEYWORDS[key] = proposal_keyword(suite.to_proposal())
    return found


_KEYWORDS: dict[tuple[str, str | None, KeGroup | None, str | bool], str] = {}
"""The keywords of suites. There are no more than combinations of implemented algorithms, of which few are used."""
