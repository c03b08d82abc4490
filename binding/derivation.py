"""The key chain from an IKEv2 SA to the keys of O/TWAMP, as pure functions.

Three derivations of what stands in the passphrase's place:

- `rfc7717`: `prf(SK_d, "IPPM")`, one secret for the Control connection; the Test keys follow from the Control
  session keys as in RFC 4656 section 4.1.2.
- `keymat-sid` and `skd-sid`: the form `PRF{KEYMAT, Session ID}` that draft-bi-ippm-ipsec-00 proposed in 2012. The
  text of that draft was not available: these are unverified readings, and say so wherever they are named.

What the secret is derived *from* (SK_d, KEYMAT) never comes here: `ikev2` computes `prf(K, context)` behind a key
handle. This module names the contexts and does what follows the secret.

RFC 7717 section 5, RFC 4656 sections 3.1 and 4.1.2.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final, Literal, Protocol

from ippm import SessionKeys

KEY_ID_OCTETS: Final = 80
SID_OCTETS: Final = 16
AES_KEY_OCTETS: Final = 16
HMAC_KEY_OCTETS: Final = 32

IPPM_LABEL: Final = b"IPPM"
"""The string of RFC 7717 section 5.1: four ASCII octets, no NUL (reading A5)."""

TEST_LABELS: Final = {"owamp": b"OWAMP-Test", "twamp": b"TWAMP-Test"}

TokenKeyRule = Literal["pbkdf2", "truncate16"]
SecretEncoding = Literal["raw", "hex"]


class Derivation(StrEnum):
    """How the secret of an O/TWAMP Control connection comes out of an IKE SA."""

    RFC7717 = "rfc7717"
    KEYMAT_SID = "keymat-sid"
    SKD_SID = "skd-sid"

    @property
    def per_session(self) -> bool:
        """True when Test keys come from a secret of their own, bound to the Session ID."""
        return self is not Derivation.RFC7717

    @property
    def described(self) -> str:
        """How it is named to a person."""
        if self is Derivation.RFC7717:
            return "rfc7717"
        return f"{self.value} (unverified reading)"


class PrfPlus(Protocol):
    """What is needed of a PRF here: RFC 7296 section 2.13's prf+ (`ikev2` has the implementations)."""

    def plus(self, key: bytes, seed: bytes, octets: int) -> bytes: ...


def key_id(spi_i: bytes, spi_r: bytes, esp_spi: int | None = None) -> bytes:
    """The 80-octet KeyID: SPIi | SPIr | zero; with `keymat-sid`, octets 16 to 19 are the server's inbound ESP SPI.

    RFC 7717 section 5.3. Raises ValueError for SPIs that are not 8 octets.
    """
    if len(spi_i) != 8 or len(spi_r) != 8:
        raise ValueError("SPIi and SPIr are 8 octets each")
    # rfc7717-s5.3-02, rfc7717-s5.3-03, rfc7717-s5.3-04: the first 16 octets carry SPIi and SPIr.
    head = spi_i + spi_r
    if esp_spi is not None:
        head += esp_spi.to_bytes(4, "big")
    # rfc7717-s5.3-05: the remaining bits are zero.
    return head.ljust(KEY_ID_OCTETS, b"\0")


def split_key_id(value: bytes) -> tuple[bytes, bytes, int]:
    """SPIi, SPIr and the ESP SPI of a KeyID (0 when there is none). The rest is ignored.

    RFC 7717 section 5.3 (rfc7717-s5.3-06: the first 16 octets are read and the remaining ones ignored; octets 16 to
    19 are looked at with `keymat-sid` only). Raises ValueError for a KeyID that is not 80 octets.
    """
    if len(value) != KEY_ID_OCTETS:
        raise ValueError("a KeyID is 80 octets")
    return value[:8], value[8:16], int.from_bytes(value[16:20], "big")


def control_context(derivation: Derivation, key_id_octets: bytes, label: bytes = IPPM_LABEL) -> bytes:
    """The context of the Control secret: the label (RFC 7717 section 5.1), or KeyID[0:16] for the draft forms."""
    if derivation is Derivation.RFC7717:
        return label
    return key_id_octets[:SID_OCTETS]


def token_key(
    secret: bytes,
    salt: bytes,
    count: int,
    *,
    rule: TokenKeyRule = "pbkdf2",
    encoding: SecretEncoding = "raw",
) -> bytes:
    """The 16-octet key that encrypts the Token.

    The secret takes the passphrase's place in PBKDF2-HMAC-SHA1 (RFC 4656 section 3.1, reading A2 of RFC 7717) as raw
    octets, or as lower-case hex digits (reading A3); `truncate16` takes the secret's own first 16 octets instead.
    Raises ValueError for a Count of 0, or a secret too short to truncate.
    """
    if rule == "truncate16":
        if len(secret) < AES_KEY_OCTETS:
            raise ValueError("the secret is shorter than 16 octets")
        return secret[:AES_KEY_OCTETS]
    if count < 1:
        raise ValueError("Count is at least 1")
    octets = secret.hex().encode("ascii") if encoding == "hex" else secret
    return hashlib.pbkdf2_hmac("sha1", octets, salt, count, AES_KEY_OCTETS)


def session_test_keys(prf: PrfPlus, test_secret: bytes, sid: bytes, protocol: str) -> SessionKeys:
    """The Test session keys of the draft forms: the first 16 and the next 32 octets of prf+(S_t, L | SID).

    L is `OWAMP-Test` or `TWAMP-Test` in ASCII, without a NUL. It replaces RFC 4656 section 4.1.2's derivation.
    Raises ValueError for a SID that is not 16 octets, or an unknown protocol.
    """
    if len(sid) != SID_OCTETS:
        raise ValueError("a Session ID is 16 octets")
    if protocol not in TEST_LABELS:
        raise ValueError(f"protocol is owamp or twamp, not {protocol!r}")
    stream = prf.plus(test_secret, TEST_LABELS[protocol] + sid, AES_KEY_OCTETS + HMAC_KEY_OCTETS)
    return SessionKeys(aes=stream[:AES_KEY_OCTETS], hmac=stream[AES_KEY_OCTETS:])


def fingerprint(name: str, octets: bytes) -> str:
    """16 hex digits that let two ends compare a key without showing it."""
    return hashlib.sha256(b"ippm-ipsec fingerprint\0" + name.encode() + b"\0" + octets).hexdigest()[:16]
