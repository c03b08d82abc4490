"""PRFs and prf+: the rules that published figures do not show."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto.keymat import skeyseed
from ikev2.crypto.prf import PRFS, Prf, prf, prf_by_name
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.crypto.xcbc import aes_cmac, aes_xcbc_mac
from ikev2.errors import LocalProtocolError
from ikev2.iana import PrfId

EVERY = pytest.mark.parametrize("one", PRFS.values(), ids=lambda one: one.name)


@pytest.mark.req("rfc7296-s2.13-04", "rfc7296-s5-01")
@EVERY
def test_every_prf_names_its_preferred_key_size_and_puts_out_128_bits_at_least(one: Prf) -> None:
    preferred = {
        PrfId.HMAC_SHA1: 20,
        PrfId.AES128_XCBC: 16,
        PrfId.HMAC_SHA2_256: 32,
        PrfId.HMAC_SHA2_384: 48,
        PrfId.HMAC_SHA2_512: 64,
        PrfId.AES128_CMAC: 16,
    }
    assert one.key_octets == preferred[one.id]
    assert len(one(b"key", b"data")) == one.output_octets >= 16


@EVERY
@pytest.mark.parametrize("octets", [0, 1, 15, 16, 17, 63, 64, 65, 500])
def test_prf_plus_is_the_concatenation_of_rfc_7296_section_2_13(one: Prf, octets: int) -> None:
    t1 = one(b"key", b"seed\x01")
    t2 = one(b"key", t1 + b"seed\x02")
    t3 = one(b"key", t2 + b"seed\x03")
    out = one.plus(b"key", b"seed", octets)
    assert len(out) == octets
    common = (t1 + t2 + t3)[:octets]
    assert out[: len(common)] == common


@EVERY
def test_prf_plus_ends_at_255_blocks(one: Prf) -> None:
    longest = 255 * one.output_octets
    assert len(one.plus(b"k", b"s", longest)) == longest
    for octets in (longest + 1, -one.output_octets):
        with pytest.raises(LocalProtocolError):
            one.plus(b"k", b"s", octets)


@settings(max_examples=30)
@given(st.sampled_from(list(PRFS.values())), st.binary(max_size=80), st.binary(max_size=80), st.integers(0, 200))
def test_a_shorter_prf_plus_is_a_prefix_of_a_longer_one(one: Prf, key: bytes, seed: bytes, octets: int) -> None:
    assert one.plus(key, seed, 250)[:octets] == one.plus(SecretOctets("k", key), seed, octets)


@settings(max_examples=30)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_aes_prfs_make_a_key_of_any_length_fit(key: bytes, data: bytes) -> None:
    """RFC 4434 section 2 pads a short key and hashes a long one; RFC 4615 section 3 hashes what is not 16 octets."""
    zero = bytes(16)
    xcbc_key = key.ljust(16, b"\x00") if len(key) <= 16 else aes_xcbc_mac(zero, key)
    assert PRFS[PrfId.AES128_XCBC](key, data) == aes_xcbc_mac(xcbc_key, data)
    cmac_key = key if len(key) == 16 else aes_cmac(zero, key)
    assert PRFS[PrfId.AES128_CMAC](key, data) == aes_cmac(cmac_key, data)


@pytest.mark.parametrize("prf_id", [PrfId.AES128_XCBC, PrfId.AES128_CMAC])
def test_skeyseed_of_the_aes_prfs_takes_64_bits_of_each_nonce(prf_id: PrfId) -> None:
    """RFC 7296 section 2.14, RFC 4434 section 1.1, RFC 4615 section 6."""
    one = PRFS[prf_id]
    nonce_i, nonce_r = bytes(range(32)), bytes(range(100, 148))
    assert skeyseed(one, nonce_i, nonce_r, b"g^ir").octets == one(nonce_i[:8] + nonce_r[:8], b"g^ir")


def test_skeyseed_of_the_hmac_prfs_takes_whole_nonces() -> None:
    nonce_i, nonce_r = bytes(range(32)), bytes(range(100, 148))
    seed = skeyseed(PRFS[PrfId.HMAC_SHA2_256], nonce_i, nonce_r, b"g^ir")
    assert seed.octets == hmac.digest(nonce_i + nonce_r, b"g^ir", "sha256")


def test_names_and_numbers() -> None:
    names = ["hmac-sha1", "aes128-xcbc", "hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512", "aes128-cmac"]
    assert [one.name for one in PRFS.values()] == names
    assert all(prf_by_name(one.name) is prf(one.id) is one for one in PRFS.values())
    with pytest.raises(UnknownAlgorithm, match="hmac-sha2-256"):
        prf_by_name("hmac-md5")
    for number in (PrfId.HMAC_MD5, 3, 999):
        with pytest.raises(UnknownAlgorithm):
            prf(number)
