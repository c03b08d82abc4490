"""Order and length of the keys, and the shared key AUTH, against the formulas written out by hand."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from ikev2.crypto.keymat import child_keymat, derive_ike_keys, psk_auth, signed_octets
from ikev2.crypto.prf import PRFS
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite, IkeSuite, parse_esp_proposal, parse_ike_proposal
from ikev2.errors import LocalProtocolError
from ikev2.iana import PrfId

NONCE_I, NONCE_R = b"i" * 32, b"r" * 40
SPI_I, SPI_R = b"SPIiiiii", b"SPIrrrrr"
SHA256 = PRFS[PrfId.HMAC_SHA2_256]

IKE_SUITES = [
    "aes256gcm16-prfsha384-curve25519",
    "aes128ccm8-prfsha1-ecp256",
    "chacha20poly1305-prfsha512-curve25519",
    "aes192-sha512-prfsha256-modp2048",
    "aes128ctr-aescmac-ecp384",
    "aes256-aesxcbc-ecp384",
]


def hmac_plus(key: bytes, seed: bytes, octets: int, digest: str) -> bytes:
    """prf+ of an HMAC PRF, written out."""
    out = block = b""
    number = 0
    while len(out) < octets:
        number += 1
        block = hmac.new(key, block + seed + bytes([number]), digest).digest()
        out += block
    return out[:octets]


@pytest.mark.req("rfc7296-s2.14-01", "rfc7296-s2.13-03", "rfc5282-s7.1-01", "rfc5282-s7.1-02")
@pytest.mark.parametrize("keyword", IKE_SUITES)
def test_ike_keys_have_the_lengths_that_the_suite_asks_for(keyword: str) -> None:
    suite = IkeSuite.from_proposal(parse_ike_proposal(keyword))
    keys = derive_ike_keys(suite, NONCE_I, NONCE_R, b"g^ir", SPI_I, SPI_R)
    assert len(keys.sk_d) == len(keys.sk_pi) == len(keys.sk_pr) == suite.prf.key_octets
    assert len(keys.sk_ei) == len(keys.sk_er) == suite.encr.key_octets + suite.encr.salt_octets
    assert len(keys.sk_ai) == len(keys.sk_ar) == (suite.integ.key_octets if suite.integ else 0)
    assert [getattr(keys, name).name for name in keys.__slots__] == [
        "SK_d",
        "SK_ai",
        "SK_ar",
        "SK_ei",
        "SK_er",
        "SK_pi",
        "SK_pr",
    ]


def test_ike_keys_are_taken_in_the_order_of_section_2_14() -> None:
    suite = IkeSuite.from_proposal(parse_ike_proposal("aes192-sha512-prfsha256-modp2048"))
    keys = derive_ike_keys(suite, NONCE_I, NONCE_R, b"g^ir", SPI_I, SPI_R)
    seed = hmac.digest(NONCE_I + NONCE_R, b"g^ir", "sha256")
    stream = hmac_plus(seed, NONCE_I + NONCE_R + SPI_I + SPI_R, 3 * 32 + 2 * 64 + 2 * 24, "sha256")
    expected = {}
    for name, octets in (
        ("sk_d", 32),
        ("sk_ai", 64),
        ("sk_ar", 64),
        ("sk_ei", 24),
        ("sk_er", 24),
        ("sk_pi", 32),
        ("sk_pr", 32),
    ):
        expected[name], stream = stream[:octets], stream[octets:]
    assert {name: getattr(keys, name).octets for name in expected} == expected


@pytest.mark.req("rfc7296-s2.17-01", "rfc7296-s2.17-01a", "rfc7296-s2.17-02", "rfc7296-s2.17-03")
def test_child_keys_are_taken_initiator_first_and_encryption_before_integrity() -> None:
    suite = EspSuite.from_proposal(parse_esp_proposal("aes128-sha256"))
    assert suite.keymat_octets == 2 * (16 + 32)
    keymat = child_keymat(SHA256, SecretOctets("SK_d", b"d" * 32), NONCE_I, NONCE_R, suite.keymat_octets)
    assert keymat == hmac_plus(b"d" * 32, NONCE_I + NONCE_R, 96, "sha256")
    keys = suite.split_keymat(keymat)
    assert keys.encr_i.octets == keymat[:16]
    assert keys.integ_i.octets == keymat[16:48]
    assert keys.encr_r.octets == keymat[48:64]
    assert keys.integ_r.octets == keymat[64:]


@pytest.mark.req("rfc7296-s2.17-01a")
def test_child_keys_of_a_combined_mode_end_with_the_salt() -> None:
    suite = EspSuite.from_proposal(parse_esp_proposal("aes256gcm16"))
    keymat = bytes(range(72))
    assert suite.keymat_octets == 72
    keys = suite.split_keymat(keymat)
    assert keys.encr_i.octets == keymat[:36]
    assert keys.encr_r.octets == keymat[36:]
    assert len(keys.integ_i) == len(keys.integ_r) == 0


def test_child_keymat_with_a_new_key_exchange_has_it_in_front() -> None:
    sk_d = SecretOctets("SK_d", b"d" * 32)
    expected = hmac_plus(b"d" * 32, b"g^ir" + NONCE_I + NONCE_R, 80, "sha256")
    assert child_keymat(SHA256, sk_d, NONCE_I, NONCE_R, 80, b"g^ir") == expected
    assert child_keymat(SHA256, sk_d, NONCE_I, NONCE_R, 80, SecretOctets("g^ir", b"g^ir")) == expected


def test_keymat_of_another_length_is_our_callers_mistake() -> None:
    suite = EspSuite.from_proposal(parse_esp_proposal("aes256gcm16"))
    for octets in (0, 71, 73):
        with pytest.raises(LocalProtocolError):
            suite.split_keymat(bytes(octets))


@pytest.mark.req("rfc7296-s2.15-02")
def test_shared_key_auth_is_that_of_section_2_15() -> None:
    psk = b"\x00a shared secret of 64 ASCII characters and more, without its end \x00"
    message, id_body, sk_p = b"IKE_SA_INIT", b"\x02\x00\x00\x00a.example", b"p" * 32
    signed = signed_octets(SHA256, message, NONCE_R, SecretOctets("SK_pi", sk_p), id_body)
    assert signed == message + NONCE_R + hmac.digest(sk_p, id_body, "sha256")
    pad = hmac.digest(psk, b"Key Pad for IKEv2", "sha256")
    assert psk_auth(SHA256, SecretOctets("psk", psk), signed) == hmac.digest(pad, signed, "sha256")
    assert psk_auth(SHA256, psk, signed) != psk_auth(SHA256, psk + b"\x00", signed)


def test_a_shared_secret_longer_than_a_block_is_hashed_first() -> None:
    """RFC 2104 section 2, which HMAC does for the prf."""
    psk = b"s" * 100
    assert psk_auth(SHA256, psk, b"m") == psk_auth(SHA256, hashlib.sha256(psk).digest(), b"m")
