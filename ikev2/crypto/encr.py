"""Encryption algorithms (transform type 1): what each one's numbers are, and what makes its ciphers.

RFC 7296 section 3.3.2, RFC 3602, RFC 4543, RFC 5282, RFC 5930, RFC 7634, RFC 8750.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.iana import EncrId


class EncrKind(Enum):
    """The construction behind an encryption algorithm, for those that make ciphers of it."""

    NULL = "null"
    CBC = "cbc"
    CTR = "ctr"
    GCM = "gcm"
    CCM = "ccm"
    CHACHA20_POLY1305 = "chacha20poly1305"
    GMAC = "gmac"


@dataclass(frozen=True, slots=True)
class Encr:
    """An encryption algorithm with its key length: all lengths in octets.

    `key_octets` is the cipher's own key; `salt_octets` more are taken from the keying material behind it (RFC 5282
    section 7.1). `iv_octets` is what each message carries, 0 where the sequence number of ESP stands for it (RFC
    8750); `icv_octets` the tag of an AEAD, 0 for the others, which need an integrity algorithm. `key_bits` is the
    Key Length attribute, None where the key length is fixed and the attribute is not allowed. `for_ike` False: for
    Child SAs only.

    RFC 7296 sections 3.3.2 and 3.3.5.
    """

    id: EncrId
    kind: EncrKind
    keyword: str
    key_bits: int | None
    key_octets: int
    salt_octets: int
    iv_octets: int
    icv_octets: int
    block_octets: int
    for_ike: bool = True

    @property
    def is_aead(self) -> bool:
        """True for combined modes, which take no integrity algorithm."""
        return self.icv_octets > 0

    @property
    def keymat_octets(self) -> int:
        """What one direction takes from the keying material: key and salt."""
        return self.key_octets + self.salt_octets


def _implicit_iv(
    encr_id: EncrId, kind: EncrKind, keyword: str, key_bits: int | None, salt_octets: int, icv_octets: int
) -> Encr:
    """A cipher whose packets carry no IV: for ESP only, as a Message ID of IKE may come twice. RFC 8750 section 7."""
    key_octets = 32 if key_bits is None else key_bits // 8
    return Encr(encr_id, kind, keyword, key_bits, key_octets, salt_octets, 0, icv_octets, 1, for_ike=False)


def _table() -> list[Encr]:
    rows = [
        # rfc7296-s3.3.5-04: ChaCha20 has one key length, so no attribute (RFC 7634 section 4).
        Encr(EncrId.CHACHA20_POLY1305, EncrKind.CHACHA20_POLY1305, "chacha20poly1305", None, 32, 4, 8, 16, 1),
        # rfc7296-s5-02: never for the IKE SA (RFC 2410).
        # rfc8247-s2.1-06
        Encr(EncrId.NULL, EncrKind.NULL, "null", None, 0, 0, 0, 0, 1, for_ike=False),
        _implicit_iv(EncrId.CHACHA20_POLY1305_IIV, EncrKind.CHACHA20_POLY1305, "chacha20poly1305iiv", None, 4, 16),
    ]
    for bits in (128, 192, 256):  # rfc5282-s7.3-02
        key = bits // 8
        rows.append(Encr(EncrId.AES_CBC, EncrKind.CBC, f"aes{bits}", bits, key, 0, 16, 0, 16))
        rows.append(Encr(EncrId.AES_CTR, EncrKind.CTR, f"aes{bits}ctr", bits, key, 4, 8, 0, 1))  # rfc5930-s2-01
        # rfc5282-s3.2-01, rfc5282-s3.2-02, rfc5282-s3.2-03, rfc5282-s3.2-04
        for gcm, ccm, icv in (
            (EncrId.AES_GCM_8, EncrId.AES_CCM_8, 8),
            (EncrId.AES_GCM_12, EncrId.AES_CCM_12, 12),
            (EncrId.AES_GCM_16, EncrId.AES_CCM_16, 16),
        ):
            # rfc5282-s3.1-01, rfc5282-s4-01, rfc5282-s7.1-02
            rows.append(Encr(gcm, EncrKind.GCM, f"aes{bits}gcm{icv}", bits, key, 4, 8, icv, 1))
            # rfc5282-s4-02, rfc5282-s7.1-02
            rows.append(Encr(ccm, EncrKind.CCM, f"aes{bits}ccm{icv}", bits, key, 3, 8, icv, 1))
        # RFC 4543 section 3: a combined mode that does not encrypt; section 5.4: a salt of four octets.
        gmac = EncrId.NULL_AUTH_AES_GMAC
        rows.append(Encr(gmac, EncrKind.GMAC, f"aes{bits}gmac", bits, key, 4, 8, 16, 1, for_ike=False))
        rows.append(_implicit_iv(EncrId.AES_GCM_16_IIV, EncrKind.GCM, f"aes{bits}gcm16iiv", bits, 4, 16))
        rows.append(_implicit_iv(EncrId.AES_CCM_8_IIV, EncrKind.CCM, f"aes{bits}ccm8iiv", bits, 3, 8))
    return rows


# rfc7296-s3.3.5-05: AES is in the table with a key length only, so a transform without the attribute is not found.
# rfc7296-s2.13-01
ENCRS: dict[tuple[EncrId, int | None], Encr] = {(row.id, row.key_bits): row for row in _table()}
"""The implemented encryption algorithms by number and Key Length attribute in bits (None: no attribute)."""


def encr(encr_id: int, key_bits: int | None = None) -> Encr:
    """The encryption algorithm of this number and Key Length attribute; UnknownAlgorithm when not implemented."""
    found = ENCRS.get((EncrId(encr_id), key_bits))
    if found is None:
        length = "without a key length" if key_bits is None else f"with a key of {key_bits} bits"
        raise UnknownAlgorithm(f"encryption algorithm {encr_id} {length} is not implemented")
    return found
