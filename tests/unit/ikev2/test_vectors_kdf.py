"""Published figures of the key derivation of IKEv2: NIST CAVP, NIST ACVP, OpenSSL's self-test."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_support import vectors

from ikev2.crypto.keymat import child_keymat, derive_ike_keys, derive_ike_keys_rekey, skeyseed, skeyseed_rekey
from ikev2.crypto.prf import Prf, prf_by_name
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import IkeSuite, parse_ike_proposal

CAVP = vectors("kdf-cavp.json")["vectors"]
CAVP_SHA1 = {
    name: bytes.fromhex(value[2:])
    for name, value in vectors("kdf-cavp-sha1.json")["hmac_sha1_kdf"].items()
    if value.startswith("0x")
}
ACVP = [*vectors("kdf-acvp.json")["tests"], vectors("kdf-openssl-sha256.json")]
HASH_TO_PRF = {
    "SHA-1": "hmac-sha1",
    "SHA2-256": "hmac-sha2-256",
    "SHA2-384": "hmac-sha2-384",
    "PRF_HMAC_SHA2_256": "hmac-sha2-256",
    "PRF_HMAC_SHA2_384": "hmac-sha2-384",
    "PRF_HMAC_SHA2_512": "hmac-sha2-512",
}


def suite(prf: Prf) -> IkeSuite:
    keyword = {"hmac-sha1": "prfsha1"}.get(prf.name, "prf" + prf.name.replace("hmac-sha2-", "sha"))
    return IkeSuite.from_proposal(parse_ike_proposal(f"aes128-sha1-{keyword}-curve25519"))


def concatenated(keys: Any) -> bytes:
    """The seven keys in the order of RFC 7296 section 2.14."""
    order = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")
    return b"".join(getattr(keys, name).octets for name in order)


@pytest.mark.parametrize("test", CAVP["prf"], ids=lambda test: test["name"])
def test_skeyseed_of_cavp(test: dict[str, str]) -> None:
    prf = prf_by_name(HASH_TO_PRF[test["prf"]])
    nonces = bytes.fromhex(test["salt"])
    half = len(nonces) // 2
    seed = skeyseed(prf, nonces[:half], nonces[half:], bytes.fromhex(test["key"]))
    assert seed.octets.hex() == test["out"]


@pytest.mark.parametrize("test", CAVP["prf+"], ids=lambda test: test["name"])
def test_prf_plus_of_cavp(test: dict[str, str]) -> None:
    prf = prf_by_name(HASH_TO_PRF[test["prf"]])
    expected = bytes.fromhex(test["out"])
    key, salt = bytes.fromhex(test["key"]), bytes.fromhex(test["salt"])
    assert prf.plus(key, salt, len(expected)) == expected


@pytest.mark.req("rfc7296-s2.14-01", "rfc7296-s2.13-03")
def test_ike_keys_of_cavp_sha1() -> None:
    v, prf = CAVP_SHA1, prf_by_name("hmac-sha1")
    assert skeyseed(prf, v["ni"], v["nr"], v["gir"]).octets == v["skeyseed"]
    keys = derive_ike_keys(suite(prf), v["ni"], v["nr"], v["gir"], v["spii"], v["spir"])
    # 3 keys of 20 octets (the prf's preferred length), 2 of HMAC-SHA1-96, 2 of AES-128.
    assert concatenated(keys) == v["dkm"]
    assert keys.sk_d.octets == v["dkm"][:20]
    assert keys.sk_pr.octets == v["dkm"][112:132]
    assert skeyseed_rekey(prf, keys.sk_d, v["gir_new"], v["ni"], v["nr"]).octets == v["skeyseed_rekey"]


@pytest.mark.parametrize("test", ACVP, ids=lambda test: f"{test['hashAlg']}-{test.get('tcId', 'openssl')}")
def test_all_derivations_of_acvp(test: dict[str, Any]) -> None:
    prf = prf_by_name(HASH_TO_PRF[test["hashAlg"]])
    names = ("nInit", "nResp", "gir", "girNew", "spiInit", "spiResp")
    nonce_i, nonce_r, shared, shared_new, spi_i, spi_r = (bytes.fromhex(test[name]) for name in names)
    expected = {name: bytes.fromhex(value) for name, value in test["expected"].items()}

    assert skeyseed(prf, nonce_i, nonce_r, shared).octets == expected["sKeySeed"]

    stream = expected["derivedKeyingMaterial"]
    keys = derive_ike_keys(suite(prf), nonce_i, nonce_r, SecretOctets("g^ir", shared), spi_i, spi_r)
    mine = concatenated(keys)
    common = min(len(mine), len(stream))
    assert mine[:common] == stream[:common]
    seed = nonce_i + nonce_r + spi_i + spi_r
    assert prf.plus(expected["sKeySeed"], seed, len(stream)) == stream

    sk_d = SecretOctets("SK_d", stream[: prf.output_octets])
    child = expected["derivedKeyingMaterialChild"]
    assert child_keymat(prf, sk_d, nonce_i, nonce_r, len(child)) == child
    child_dh = expected["derivedKeyingMaterialDh"]
    assert child_keymat(prf, sk_d, nonce_i, nonce_r, len(child_dh), shared_new) == child_dh
    assert skeyseed_rekey(prf, sk_d, shared_new, nonce_i, nonce_r).octets == expected["sKeySeedReKey"]


def test_rekeyed_ike_keys_use_the_old_prf_for_skeyseed_and_the_new_one_for_the_rest() -> None:
    """SKEYSEED = prf(SK_d (old), ...) with the prf of the old SA (section 2.18); figures of CAVP with SHA-1."""
    v, old = CAVP_SHA1, prf_by_name("hmac-sha1")
    sk_d = SecretOctets("SK_d", v["dkm"][:20])
    new = suite(prf_by_name("hmac-sha2-256"))
    keys = derive_ike_keys_rekey(new, old, sk_d, v["gir_new"], v["ni"], v["nr"], v["spii"], v["spir"])
    seed = v["ni"] + v["nr"] + v["spii"] + v["spir"]
    stream = new.prf.plus(v["skeyseed_rekey"], seed, 3 * 32 + 2 * 20 + 2 * 16)
    assert concatenated(keys) == stream
    assert len(keys.sk_d) == len(keys.sk_pi) == len(keys.sk_pr) == 32
