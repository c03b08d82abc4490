"""Published figures of the PRFs and integrity algorithms: RFC 2202, 3566, 4231, 4434, 4494, 4615, 4868."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_support import vectors

from ikev2.crypto.integ import INTEGS
from ikev2.crypto.prf import PRFS, prf_by_name
from ikev2.crypto.xcbc import aes_xcbc_mac
from ikev2.iana import IntegId, PrfId

HMAC_SHA2: list[dict[str, str]] = vectors("rfc4868-hmac-sha2.json")["tests"]
AES_MAC = vectors("aes-mac-prf.json")


@pytest.mark.parametrize("test", HMAC_SHA2, ids=lambda test: test["name"])
def test_hmac_sha2_prfs_give_the_figures_of_rfc_4868(test: dict[str, str]) -> None:
    checked = 0
    for bits in ("256", "384", "512"):
        if expected := test.get(f"prf_sha{bits}"):
            prf = prf_by_name(f"hmac-sha2-{bits}")
            assert prf(bytes.fromhex(test["key"]), bytes.fromhex(test["data"])).hex() == expected
            checked += 1
    assert checked


@pytest.mark.parametrize("test", [test for test in HMAC_SHA2 if "icv" in test], ids=lambda test: test["name"])
def test_hmac_sha2_integrity_gives_the_figures_of_rfc_4868(test: dict[str, str]) -> None:
    wanted = {
        "AUTH256": IntegId.HMAC_SHA2_256_128,
        "AUTH384": IntegId.HMAC_SHA2_384_192,
        "AUTH512": IntegId.HMAC_SHA2_512_256,
    }
    integ = INTEGS[wanted[test["name"].split("-")[0]]]
    key = bytes.fromhex(test["key"])
    assert len(key) == integ.key_octets
    assert integ.tag(key, bytes.fromhex(test["data"])).hex() == test["icv"]


# RFC 2202 section 3, test cases 1 and 2; RFC 2404 truncates to 96 bits.
@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [
        (b"\x0b" * 20, b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
        (b"Jefe", b"what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ],
)
def test_hmac_sha1_gives_the_figures_of_rfc_2202(key: bytes, data: bytes, expected: str) -> None:
    assert PRFS[PrfId.HMAC_SHA1](key, data).hex() == expected
    assert INTEGS[IntegId.HMAC_SHA1_96].tag(key, data).hex() == expected[:24]


@pytest.mark.parametrize("test", AES_MAC["aes_xcbc"], ids=lambda test: test["name"])
def test_aes_xcbc_gives_the_figures_of_rfc_3566_and_rfc_4434(test: dict[str, Any]) -> None:
    key, data = bytes.fromhex(test["key"]), bytes.fromhex(test["data"])
    assert PRFS[PrfId.AES128_XCBC](key, data).hex() == test["out"]
    if len(key) == 16:
        assert aes_xcbc_mac(key, data).hex() == test["out"]
        assert INTEGS[IntegId.AES_XCBC_96].tag(key, data).hex() == test["out"][:24]


@pytest.mark.parametrize("test", AES_MAC["aes_cmac_prf"], ids=lambda test: test["name"])
def test_aes_cmac_prf_gives_the_figures_of_rfc_4615(test: dict[str, Any]) -> None:
    prf = PRFS[PrfId.AES128_CMAC]
    assert prf(bytes.fromhex(test["key"]), bytes.fromhex(test["data"])).hex() == test["out"]


@pytest.mark.parametrize("test", AES_MAC["aes_cmac_96"], ids=lambda test: test["name"])
def test_aes_cmac_96_gives_the_figures_of_rfc_4494(test: dict[str, Any]) -> None:
    integ = INTEGS[IntegId.AES_CMAC_96]
    assert integ.tag(bytes.fromhex(test["key"]), bytes.fromhex(test["data"])).hex() == test["icv"]
