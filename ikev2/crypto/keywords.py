"""Proposals as people write them: strongSwan's keywords, read and rendered.

`aes256gcm16-prfsha384-curve25519` is one proposal; several algorithms of one type in it are alternatives. What
strongSwan does where a type is missing is done here: the integrity algorithm of an IKE proposal also names its
PRF, a combined-mode cipher takes no integrity algorithm, and ESP is without extended sequence numbers.

RFC 7296 section 3.3.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ikev2.crypto.encr import ENCRS
from ikev2.crypto.integ import INTEGS, Integ
from ikev2.crypto.ke import KE_GROUPS, KeGroup
from ikev2.crypto.prf import PRFS, Prf
from ikev2.errors import ConfigurationError
from ikev2.iana import EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType
from ikev2.registration import Clash, Registration, register_rows
from ikev2.wire.payloads.sa import Proposal, Transform

AEAD_IDS = frozenset(row.id for row in ENCRS.values() if row.is_aead)
"""The combined-mode ciphers."""
ESP_ONLY_IDS = frozenset(row.id for row in ENCRS.values() if not row.for_ike)
"""The ciphers that an IKE SA cannot have."""

_INTEG_TO_PRF = {
    IntegId.HMAC_SHA1_96: PrfId.HMAC_SHA1,
    IntegId.AES_XCBC_96: PrfId.AES128_XCBC,
    IntegId.AES_CMAC_96: PrfId.AES128_CMAC,
    IntegId.HMAC_SHA2_256_128: PrfId.HMAC_SHA2_256,
    IntegId.HMAC_SHA2_384_192: PrfId.HMAC_SHA2_384,
    IntegId.HMAC_SHA2_512_256: PrfId.HMAC_SHA2_512,
}
_NO_ESN = Transform.of(TransformType.ESN, EsnId.NO_ESN)
_TYPE_ORDER = (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE, TransformType.ESN)


def _keyword_table() -> dict[str, Transform]:
    """The keyword that is rendered for a transform comes before its other spellings."""
    table = {row.keyword: Transform.of(TransformType.ENCR, row.id, row.key_bits) for row in ENCRS.values()}
    table |= {integ.keyword: Transform.of(TransformType.INTEG, integ.id) for integ in INTEGS.values()}
    for integ_id, prf_id in _INTEG_TO_PRF.items():
        if prf_id in PRFS:
            table["prf" + INTEGS[integ_id].keyword] = Transform.of(TransformType.PRF, prf_id)
    table |= {group.name: Transform.of(TransformType.KE, group.id) for group in KE_GROUPS.values()}
    table["modpnone"] = Transform.of(TransformType.KE, KeId.NONE)
    table["noesn"] = _NO_ESN
    table["esn"] = Transform.of(TransformType.ESN, EsnId.ESN)
    aliases = {"aes": "aes128", "sha": "sha1", "sha2_256": "sha256", "sha2_384": "sha384", "sha2_512": "sha512"}
    aliases |= {"x25519": "curve25519", "x448": "curve448"}
    for bits in (128, 192, 256):
        for mode in ("gcm", "ccm"):
            aliases |= {f"aes{bits}{mode}{icv * 8}": f"aes{bits}{mode}{icv}" for icv in (8, 12, 16)}
            aliases[f"aes{bits}{mode}"] = f"aes{bits}{mode}16"
    return table | {alias: table[keyword] for alias, keyword in aliases.items()}


KEYWORDS: dict[str, Transform] = _keyword_table()
"""Every keyword that a proposal may have, with its transform."""

_RENDERED: dict[tuple[TransformType, int, int | None], str] = {}
for _keyword, _transform in KEYWORDS.items():
    _RENDERED.setdefault((_transform.type, _transform.id, _transform.key_bits), _keyword)


def learn(keyword: str, transform: Transform) -> None:
    """Take a further keyword."""
    KEYWORDS[keyword] = transform
    _RENDERED.setdefault((transform.type, transform.id, transform.key_bits), keyword)


def register_prf(prf: Prf, keyword: str) -> Registration:
    """Offer and take a further PRF, as `keyword` in proposals. Clash when its number or keyword is taken."""
    return register_rows(*_keyword_rows(keyword, TransformType.PRF, prf.id), (PRFS, prf.id, prf, f"PRF {prf.id}"))


def register_integ(integ: Integ, prf_id: PrfId | None = None) -> Registration:
    """Offer and take a further integrity algorithm for IKE SAs; a proposal without a PRF gets `prf_id` with it.

    Clash when its number or keyword is taken. ESP does not use it: crypto/esp.py has algorithms of its own.
    """
    rows = (*_keyword_rows(integ.keyword, TransformType.INTEG, integ.id), (INTEGS, integ.id, integ, f"{integ.id}"))
    if prf_id is None:
        return register_rows(*rows)
    return register_rows(*rows, (_INTEG_TO_PRF, integ.id, prf_id, f"the PRF of {integ.id}"))


def register_ke(group: KeGroup) -> Registration:
    """Offer and take a further key exchange method. Clash when its number or keyword (its name) is taken."""
    row = (KE_GROUPS, group.id, group, f"key exchange group {group.id}")
    return register_rows(*_keyword_rows(group.name, TransformType.KE, group.id), row)


_Rows = tuple[tuple[dict[Any, Any], Any, Any, str], ...]


def _keyword_rows(keyword: str, transform_type: TransformType, number: int) -> _Rows:
    if "-" in keyword or keyword != keyword.lower() or not keyword:
        raise Clash(f"the keyword {keyword!r} cannot stand in a proposal: it is in lower case, without a hyphen")
    transform = Transform.of(transform_type, number)
    return (
        (KEYWORDS, keyword, transform, f"the keyword {keyword}"),
        (_RENDERED, (transform_type, number, None), keyword, f"a keyword for {transform}"),
    )


def _read(text: str, protocol: ProtocolId) -> dict[TransformType, list[Transform]]:
    """The transforms that the keywords name, by type; no transform twice."""
    found: dict[TransformType, list[Transform]] = {transform_type: [] for transform_type in _TYPE_ORDER}
    for keyword in text.strip().lower().split("-"):
        transform = KEYWORDS.get(keyword)
        if transform is None:
            close = difflib.get_close_matches(keyword, KEYWORDS, n=1)
            hint = f"; is {close[0]!r} meant?" if close else ""
            raise ConfigurationError(f"{protocol} proposal {text!r}: unknown algorithm {keyword!r}{hint}")
        if transform not in found[transform.type]:
            found[transform.type].append(transform)  # rfc7296-s3.3-08
    return found


def _settle_integrity(found: dict[TransformType, list[Transform]], what: str) -> None:
    """Combined modes lose the integrity algorithms, which are only there to name a PRF; the others need one."""
    aead = {transform.id in AEAD_IDS for transform in found[TransformType.ENCR]}
    if not aead:
        raise ConfigurationError(f"{what}: an encryption algorithm is missing, such as aes256gcm16")
    if len(aead) > 1:
        raise ConfigurationError(f"{what}: combined-mode and other ciphers have to be in proposals of their own")
    if aead == {True}:
        # rfc7296-s3.3-05, rfc7296-s3.3-06: no integrity algorithm, rather than one of NONE.
        found[TransformType.INTEG] = []  # rfc5282-s8-02
    elif not found[TransformType.INTEG]:
        raise ConfigurationError(f"{what}: an integrity algorithm is missing, such as sha256")


def _proposal(protocol: ProtocolId, found: dict[TransformType, list[Transform]]) -> Proposal:
    # rfc7296-s3.3.1-03
    return Proposal(1, protocol, b"", tuple(transform for of_type in _TYPE_ORDER for transform in found[of_type]))


def parse_ike_proposal(text: str) -> Proposal:
    """An IKE proposal (number 1, no SPI) of keywords: `aes256gcm16-prfsha384-curve25519`, `aes128-sha256-modp2048`.

    ConfigurationError, in one line, for an unknown keyword or a set that cannot be an IKE SA.
    """
    what = f"IKE proposal {text!r}"
    found = _read(text, ProtocolId.IKE)
    if found[TransformType.ESN]:
        raise ConfigurationError(f"{what}: esn and noesn are for ESP")
    if any(transform.id == EncrId.NULL for transform in found[TransformType.ENCR]):
        # rfc7296-s5-02
        raise ConfigurationError(f"{what}: an IKE SA cannot be without encryption")
    for transform in found[TransformType.ENCR]:
        if transform.id in ESP_ONLY_IDS:
            # RFC 4543 section 3, RFC 8750 section 7
            raise ConfigurationError(f"{what}: {transform_keyword(transform)} is for ESP only")
    if any(transform.id == KeId.NONE for transform in found[TransformType.KE]):
        # rfc7296-s2.18-02
        raise ConfigurationError(f"{what}: an IKE SA cannot be without a key exchange")
    if not found[TransformType.PRF]:
        # All IntegIds of RFCs have a PRF.
        found[TransformType.PRF] = [
            Transform.of(TransformType.PRF, _INTEG_TO_PRF[IntegId(transform.id)])
            for transform in found[TransformType.INTEG]
            if IntegId(transform.id) in _INTEG_TO_PRF
        ]
    _settle_integrity(found, what)
    if not found[TransformType.PRF]:
        raise ConfigurationError(f"{what}: a PRF is missing, such as prfsha256")
    if not found[TransformType.KE]:
        raise ConfigurationError(f"{what}: a key exchange group is missing, such as curve25519")
    return _proposal(ProtocolId.IKE, found)  # rfc7296-s3.3.4-05


def parse_esp_proposal(text: str) -> Proposal:
    """An ESP proposal (number 1, no SPI yet) of keywords: `aes256gcm16`, `aes128-sha256-esn-noesn`.

    ConfigurationError, in one line, for an unknown keyword or a set that cannot be an ESP SA.
    """
    what = f"ESP proposal {text!r}"
    found = _read(text, ProtocolId.ESP)
    if found[TransformType.PRF]:
        raise ConfigurationError(f"{what}: a PRF is for IKE")
    _settle_integrity(found, what)
    if not found[TransformType.ESN]:
        found[TransformType.ESN] = [_NO_ESN]
    return _proposal(ProtocolId.ESP, found)


def transform_keyword(transform: Transform) -> str:
    """The keyword of a transform; for one without, its type and number."""
    found = _RENDERED.get((transform.type, transform.id, transform.key_bits))
    if found is not None and not transform.has_unknown_attributes:
        return found
    bits = "" if transform.key_bits is None else f"_{transform.key_bits}"
    return f"{transform.type.name.lower()}_{int(transform.id)}{bits}"


def proposal_keyword(proposal: Proposal) -> str:
    """The keywords of a proposal, joined by hyphens; the PRF and `noesn` left out where reading adds them again."""
    left_out: set[tuple[TransformType, int]] = {(TransformType.INTEG, IntegId.NONE)}
    if proposal.of_type(TransformType.ESN) == (_NO_ESN,):
        left_out.add((TransformType.ESN, EsnId.NO_ESN))
    prfs = [transform.id for transform in proposal.of_type(TransformType.PRF)]
    if prfs == [_INTEG_TO_PRF.get(IntegId(item.id)) for item in proposal.of_type(TransformType.INTEG)]:
        left_out.update((TransformType.PRF, prf_id) for prf_id in prfs)
    kept = [item for item in proposal.transforms if (item.type, item.id) not in left_out]
    # As people write them: cipher, integrity algorithm, PRF, group.
    order = {TransformType.ENCR: 0, TransformType.INTEG: 1, TransformType.PRF: 2}
    return "-".join(
        transform_keyword(item) for item in sorted(kept, key=lambda item: order.get(item.type, item.type))
    )


def numbered(proposals: Iterable[Proposal], spi: bytes = b"") -> tuple[Proposal, ...]:
    """The proposals as an offer: numbered from one in the order of preference, all with the SPI of the SA to be."""
    # rfc7296-s3.3-01, rfc7296-s3.3-03, rfc7296-s3.3-04, rfc7296-s3.3.1-03
    return tuple(replace(proposal, number=number, spi=spi) for number, proposal in enumerate(proposals, 1))


def without_ke(proposal: Proposal) -> Proposal:
    """The proposal as IKE_AUTH carries it: without key exchange groups. RFC 7296 section 1.2."""
    kept = tuple(transform for transform in proposal.transforms if transform.type != TransformType.KE)
    return replace(proposal, transforms=kept)
