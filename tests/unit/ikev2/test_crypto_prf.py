"""PRFs and prf+: the rules that published figures do not show."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto.keymat import derive_ike_keys, psk_auth, skeyseed, skeyseed_rekey
from ikev2.crypto.prf import PRFS, Prf, prf, prf_by_name
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import IkeSuite, parse_ike_proposal
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.crypto.xcbc import aes_cmac, aes_xcbc_mac
from ikev2.errors import LocalProtocolError
from ikev2.iana import PrfId

PRF_KEYWORD = {PrfId.AES128_XCBC: "prfaesxcbc", PrfId.AES128_CMAC: "prfaescmac"}
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


@pytest.mark.req("rfc4434-s2-01", "rfc4434-s2-02", "rfc4434-s2-03", "rfc4615-s3-03", "rfc4615-s3-04")
@settings(max_examples=30)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_aes_prfs_make_a_key_of_any_length_fit(key: bytes, data: bytes) -> None:
    """RFC 4434 section 2 pads a short key and hashes a long one; RFC 4615 section 3 hashes what is not 16 octets."""
    zero = bytes(16)
    xcbc_key = key.ljust(16, b"\x00") if len(key) <= 16 else aes_xcbc_mac(zero, key)
    assert PRFS[PrfId.AES128_XCBC](key, data) == aes_xcbc_mac(xcbc_key, data)
    cmac_key = key if len(key) == 16 else aes_cmac(zero, key)
    assert PRFS[PrfId.AES128_CMAC](key, data) == aes_cmac(cmac_key, data)


@pytest.mark.req("rfc4434-s1.1-01", "rfc4615-s3-01")
@pytest.mark.parametrize("prf_id", [PrfId.AES128_XCBC, PrfId.AES128_CMAC])
def test_skeyseed_of_the_aes_prfs_takes_64_bits_of_each_nonce(prf_id: PrfId) -> None:
    """RFC 7296 section 2.14, RFC 4434 section 1.1, RFC 4615 section 6."""
    one = PRFS[prf_id]
    nonce_i, nonce_r = bytes(range(32)), bytes(range(100, 148))
    assert skeyseed(one, nonce_i, nonce_r, b"g^ir").octets == one(nonce_i[:8] + nonce_r[:8], b"g^ir")
    # All the octets of the nonces go into the keys that come of it, and into SKEYSEED of a rekeying (section 2.18).
    suite = IkeSuite.from_proposal(parse_ike_proposal(f"aes128gcm16-{PRF_KEYWORD[prf_id]}-curve25519"))
    spis = (b"SPIiiiii", b"SPIrrrrr")
    keys = derive_ike_keys(suite, nonce_i, nonce_r, b"g^ir", *spis)
    seed = one(nonce_i[:8] + nonce_r[:8], b"g^ir")
    assert keys.sk_d.octets == one.plus(seed, nonce_i + nonce_r + b"".join(spis), 16)
    assert skeyseed_rekey(one, keys.sk_d, b"new", nonce_i, nonce_r).octets == one(
        keys.sk_d, b"new" + nonce_i + nonce_r
    )


@pytest.mark.req("rfc4434-s1.1-02", "rfc4615-s3-02")
@pytest.mark.parametrize("octets", [1, 10, 16, 18, 64, 300])
@pytest.mark.parametrize("prf_id", PRF_KEYWORD)
def test_a_psk_of_any_length_authenticates_with_the_aes_prfs(prf_id: PrfId, octets: int) -> None:
    """RFC 7296 section 2.15: prf(prf(Shared Secret, pad), signed), its inner key made to fit."""
    psk, zero = bytes(range(octets % 256)) + bytes(octets - octets % 256), bytes(16)
    if prf_id == PrfId.AES128_XCBC:
        mac, key = aes_xcbc_mac, psk.ljust(16, b"\x00") if octets <= 16 else aes_xcbc_mac(zero, psk)
    else:
        mac, key = aes_cmac, psk if octets == 16 else aes_cmac(zero, psk)
    assert psk_auth(PRFS[prf_id], psk, b"signed") == mac(mac(key, b"Key Pad for IKEv2"), b"signed")


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
