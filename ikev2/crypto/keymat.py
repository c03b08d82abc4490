"""Keying material: SKEYSEED, the seven keys of the IKE SA, KEYMAT of Child SAs, and the shared key AUTH.

RFC 7296 sections 2.14, 2.15, 2.17 and 2.18.
"""

from __future__ import annotations

from ikev2.crypto.prf import Prf
from ikev2.crypto.secret import SecretOctets, octets_of
from ikev2.crypto.suites import IkeSuite
from ikev2.value import value

KEY_PAD = b"Key Pad for IKEv2"
"""17 ASCII characters without a null terminator. RFC 7296 section 2.15."""


@value(frozen=True, slots=True)
class IkeKeys:
    """The seven keys of an IKE SA; sk_ai and sk_ar have no octets with a combined-mode cipher, sk_ei and sk_er
    end with its salt.

    RFC 7296 section 2.14.
    """

    sk_d: SecretOctets
    sk_ai: SecretOctets
    sk_ar: SecretOctets
    sk_ei: SecretOctets
    sk_er: SecretOctets
    sk_pi: SecretOctets
    sk_pr: SecretOctets


def skeyseed(prf: Prf, nonce_i: bytes, nonce_r: bytes, shared: bytes | SecretOctets) -> SecretOctets:
    """SKEYSEED = prf(Ni | Nr, g^ir); of 64 bits of each nonce only for AES128-XCBC and AES128-CMAC.

    RFC 7296 section 2.14.
    """
    take = prf.nonce_key_octets
    return SecretOctets("SKEYSEED", prf(nonce_i[:take] + nonce_r[:take], octets_of(shared)))


def skeyseed_rekey(
    prf_old: Prf, sk_d_old: SecretOctets, shared: bytes | SecretOctets, nonce_i: bytes, nonce_r: bytes
) -> SecretOctets:
    """SKEYSEED of an IKE SA that replaces another: prf(SK_d (old), g^ir (new) | Ni | Nr), with the prf of the old
    SA.

    RFC 7296 section 2.18.
    """
    return SecretOctets("SKEYSEED", prf_old(sk_d_old, octets_of(shared) + nonce_i + nonce_r))


def expand_ike_keys(
    suite: IkeSuite, seed: SecretOctets, nonce_i: bytes, nonce_r: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr).

    RFC 7296 section 2.14.
    """
    # rfc7296-s2.13-03, rfc7296-s2.14-01: SK_d, SK_pi and SK_pr have the preferred key length of the prf.
    prf_key = suite.prf.key_octets
    integ_key = 0 if suite.integ is None else suite.integ.key_octets
    encr_key = suite.encr.keymat_octets
    names = ("SK_d", "SK_ai", "SK_ar", "SK_ei", "SK_er", "SK_pi", "SK_pr")
    lengths = (prf_key, integ_key, integ_key, encr_key, encr_key, prf_key, prf_key)
    stream = suite.prf.plus(seed, nonce_i + nonce_r + spi_i + spi_r, sum(lengths))
    keys = []
    start = 0
    for name, length in zip(names, lengths, strict=True):
        keys.append(SecretOctets(name, stream[start : start + length]))
        start += length
    return IkeKeys(*keys)


def derive_ike_keys(
    suite: IkeSuite, nonce_i: bytes, nonce_r: bytes, shared: bytes | SecretOctets, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """The keys of an IKE SA that IKE_SA_INIT made; nonces without their payload header, SPIs of 8 octets.

    RFC 7296 section 2.14.
    """
    seed = skeyseed(suite.prf, nonce_i, nonce_r, shared)
    return expand_ike_keys(suite, seed, nonce_i, nonce_r, spi_i, spi_r)


def derive_ike_keys_rekey(
    suite_new: IkeSuite,
    prf_old: Prf,
    sk_d_old: SecretOctets,
    shared: bytes | SecretOctets,
    nonce_i: bytes,
    nonce_r: bytes,
    spi_i: bytes,
    spi_r: bytes,
) -> IkeKeys:
    """The keys of an IKE SA that CREATE_CHILD_SA made: SKEYSEED by the old SA's prf, the rest by the new one's.

    RFC 7296 section 2.18.
    """
    seed = skeyseed_rekey(prf_old, sk_d_old, shared, nonce_i, nonce_r)
    return expand_ike_keys(suite_new, seed, nonce_i, nonce_r, spi_i, spi_r)


def child_keymat(
    prf: Prf,
    sk_d: SecretOctets,
    nonce_i: bytes,
    nonce_r: bytes,
    octets: int,
    shared: bytes | SecretOctets | None = None,
) -> bytes:
    """KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr); nonces of IKE_SA_INIT for the first Child SA, else of the
    exchange.

    RFC 7296 section 2.17.
    """
    seed = nonce_i + nonce_r
    return prf.plus(sk_d, seed if shared is None else octets_of(shared) + seed, octets)


def signed_octets(
    prf: Prf, message: bytes, other_nonce: bytes, sk_p: bytes | SecretOctets, id_body: bytes
) -> bytes:
    """What AUTH covers: our first message as sent | the other's nonce | prf(SK_p, our ID payload without its
    header).

    RFC 7296 section 2.15.
    """
    return message + other_nonce + prf(sk_p, id_body)


def psk_auth(prf: Prf, psk: bytes | SecretOctets, signed: bytes) -> bytes:
    """AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>).

    RFC 7296 section 2.15.
    """
    # rfc7296-s2.15-02: neither the secret nor the pad gets a null terminator.
    return prf(prf(psk, KEY_PAD), signed)
