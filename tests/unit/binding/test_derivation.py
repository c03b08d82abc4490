"""The key chain, checked step by step against hashlib, hmac and the bare AES primitive."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from binding.cli import main
from binding.derivation import (
    Derivation,
    control_context,
    fingerprint,
    key_id,
    session_test_keys,
    split_key_id,
    token_key,
)
from ikev2.embedding import prf_by_name

SK_D = bytes(range(32))
KEYMAT = bytes(range(0x80, 0x80 + 72))
SPI_I = bytes.fromhex("c0c1c2c3c4c5c6c7")
SPI_R = bytes.fromhex("d0000a0d00d5d6d7")
SALT = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
CHALLENGE = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
AES = bytes(range(0x10, 0x20))
HMAC = bytes(range(0x20, 0x40))
SID = bytes.fromhex("2872979303ab47eeac028dab3829dab2")


def prf256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus256(key: bytes, seed: bytes, octets: int) -> bytes:
    """RFC 7296 section 2.13: T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n)."""
    out = block = b""
    number = 0
    while len(out) < octets:
        number += 1
        block = prf256(key, block + seed + bytes([number]))
        out += block
    return out[:octets]


def aes_cbc(key: bytes, plain: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(plain) + encryptor.finalize()


def derive(*arguments: str) -> dict[str, str]:
    result = CliRunner().invoke(main, ["derive", "--json", *arguments])
    assert result.exit_code == 0, result.output
    answer: dict[str, str] = json.loads(result.stdout)
    return answer


TOKEN_INPUTS = (
    "--salt", SALT.hex(), "--count", "1024", "--challenge", CHALLENGE.hex(),
    "--aes-session-key", AES.hex(), "--hmac-session-key", HMAC.hex(), "--sid", SID.hex(),
)  # fmt: skip


@pytest.mark.req("rfc7717-s5.1-02")
def test_rfc7717_secret_is_prf_of_sk_d_and_the_four_ascii_octets() -> None:
    answer = derive("--derivation", "rfc7717", "--sk-d", SK_D.hex())
    assert answer == {
        "derivation": "rfc7717",
        "prf": "hmac-sha2-256",
        "shared_secret": prf256(SK_D, bytes.fromhex("4950504d")).hex(),
    }


@pytest.mark.req("rfc7717-s5.3-02", "rfc7717-s5.3-03", "rfc7717-s5.3-04", "rfc7717-s5.3-05")
def test_key_id_is_spi_i_then_spi_r_then_64_zero_octets() -> None:
    assert key_id(SPI_I, SPI_R) == SPI_I + SPI_R + bytes(64)
    answer = derive("--derivation", "rfc7717", "--spi-i", SPI_I.hex(), "--spi-r", SPI_R.hex())
    assert answer["key_id"] == (SPI_I + SPI_R + bytes(64)).hex()


def test_keymat_sid_key_id_carries_the_servers_esp_spi() -> None:
    assert key_id(SPI_I, SPI_R, 0x01020304) == SPI_I + SPI_R + bytes.fromhex("01020304") + bytes(60)


@pytest.mark.req("rfc7717-s5.3-06")
def test_the_tail_of_a_key_id_is_not_looked_at() -> None:
    spi_i, spi_r, _ = split_key_id(SPI_I + SPI_R + b"\xff" * 64)
    assert (spi_i, spi_r) == (SPI_I, SPI_R)


def test_rfc7717_chain_down_to_the_test_keys() -> None:
    answer = derive("--derivation", "rfc7717", "--sk-d", SK_D.hex(), *TOKEN_INPUTS)
    secret = prf256(SK_D, b"IPPM")
    key = hashlib.pbkdf2_hmac("sha1", secret, SALT, 1024, 16)
    assert answer["token_key"] == key.hex()
    assert answer["token"] == aes_cbc(key, CHALLENGE + AES + HMAC).hex()
    # RFC 4656 section 4.1.2: the SID is the key that encrypts the Control keys.
    ecb = Cipher(algorithms.AES(SID), modes.ECB()).encryptor()
    assert answer["test_aes_key"] == (ecb.update(AES) + ecb.finalize()).hex()
    assert answer["test_hmac_key"] == aes_cbc(SID, HMAC).hex()


def test_keymat_sid_chain_down_to_the_test_keys() -> None:
    answer = derive(
        "--derivation", "keymat-sid", "--keymat", KEYMAT.hex(), "--spi-i", SPI_I.hex(), "--spi-r", SPI_R.hex(),
        *TOKEN_INPUTS,
    )  # fmt: skip
    control = prf256(KEYMAT, SPI_I + SPI_R)
    test = prf256(KEYMAT, SID)
    stream = prf_plus256(test, b"TWAMP-Test" + SID, 48)
    assert answer["control_secret"] == control.hex()
    assert answer["test_secret"] == test.hex()
    assert answer["token_key"] == hashlib.pbkdf2_hmac("sha1", control, SALT, 1024, 16).hex()
    assert answer["test_aes_key"] == stream[:16].hex()
    assert answer["test_hmac_key"] == stream[16:].hex()
    assert "shared_secret" not in answer
    assert "key_id" not in answer  # octets 16 to 19 would need the ESP SPI


def test_skd_sid_differs_from_keymat_sid_in_the_key_only() -> None:
    arguments = ("--spi-i", SPI_I.hex(), "--spi-r", SPI_R.hex(), "--sid", SID.hex())
    with_sk_d = derive("--derivation", "skd-sid", "--sk-d", KEYMAT.hex(), *arguments)
    with_keymat = derive("--derivation", "keymat-sid", "--keymat", KEYMAT.hex(), *arguments)
    for name in ("control_secret", "test_secret", "test_aes_key", "test_hmac_key"):
        assert with_sk_d[name] == with_keymat[name]


def test_owamp_and_twamp_test_keys_differ() -> None:
    prf = prf_by_name("hmac-sha2-256")
    secret = prf256(KEYMAT, SID)
    owamp = session_test_keys(prf, secret, SID, "owamp")
    assert owamp.aes == prf_plus256(secret, b"OWAMP-Test" + SID, 48)[:16]
    assert owamp != session_test_keys(prf, secret, SID, "twamp")


def test_two_key_experiment_uses_the_control_keys_for_test() -> None:
    answer = derive("--derivation", "rfc7717", "--sk-d", SK_D.hex(), "--key-count", "2", *TOKEN_INPUTS)
    assert (answer["test_aes_key"], answer["test_hmac_key"]) == (AES.hex(), HMAC.hex())


@pytest.mark.parametrize("derivation", ["keymat-sid", "skd-sid"])
def test_two_key_experiment_has_no_test_secret(derivation: str) -> None:
    root = ("--keymat", KEYMAT.hex()) if derivation == "keymat-sid" else ("--sk-d", SK_D.hex())
    answer = derive("--derivation", derivation, *root, "--key-count", "2", *TOKEN_INPUTS)
    assert (answer["test_aes_key"], answer["test_hmac_key"]) == (AES.hex(), HMAC.hex())
    assert "test_secret" not in answer


def test_keymat_sid_key_id_of_the_command() -> None:
    spis = ("--spi-i", SPI_I.hex(), "--spi-r", SPI_R.hex(), "--esp-spi", "c0000001")
    answer = derive("--derivation", "keymat-sid", *spis)
    assert answer["key_id"] == (SPI_I + SPI_R + bytes.fromhex("c0000001") + bytes(60)).hex()


def test_label_of_the_command_takes_the_place_of_ippm() -> None:
    answer = derive("--sk-d", SK_D.hex(), "--label", "LAB")
    assert answer["shared_secret"] == prf256(SK_D, b"LAB").hex()


def test_text_names_a_draft_form_as_an_unverified_reading() -> None:
    result = CliRunner().invoke(main, ["derive", "--derivation", "skd-sid", "--sk-d", SK_D.hex()])
    assert "skd-sid (unverified reading)" in result.stdout


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("hmac-sha1", "sha1"),
        ("hmac-sha2-256", "sha256"),
        ("hmac-sha2-384", "sha384"),
        ("hmac-sha2-512", "sha512"),
    ],
)
def test_the_secret_is_the_whole_output_of_the_negotiated_prf(name: str, digest: str) -> None:
    answer = derive("--derivation", "rfc7717", "--prf", name, "--sk-d", SK_D.hex())
    assert answer["shared_secret"] == hmac.new(SK_D, b"IPPM", digest).hexdigest()


def test_token_key_rules() -> None:
    secret = bytes([0, 10, 13]) + bytes(range(29))
    assert token_key(secret, SALT, 1024) == hashlib.pbkdf2_hmac("sha1", secret, SALT, 1024, 16)
    assert token_key(secret, SALT, 1024, encoding="hex") == hashlib.pbkdf2_hmac(
        "sha1", secret.hex().encode(), SALT, 1024, 16
    )
    assert token_key(secret, SALT, 1024, rule="truncate16") == secret[:16]
    with pytest.raises(ValueError, match="Count"):
        token_key(secret, SALT, 0)


def test_contexts() -> None:
    identifier = key_id(SPI_I, SPI_R, 7)
    assert control_context(Derivation.RFC7717, identifier) == b"IPPM"
    assert control_context(Derivation.KEYMAT_SID, identifier) == SPI_I + SPI_R
    assert control_context(Derivation.SKD_SID, identifier) == SPI_I + SPI_R


def test_draft_forms_are_marked_as_unverified_readings() -> None:
    assert "unverified reading" in Derivation.KEYMAT_SID.described
    assert "unverified reading" in Derivation.SKD_SID.described
    assert "unverified" not in Derivation.RFC7717.described


def test_fingerprint_depends_on_name_and_octets_and_shows_no_key() -> None:
    one = fingerprint("token_key", AES)
    assert one != fingerprint("test_aes", AES)
    assert one != fingerprint("token_key", HMAC)
    assert AES.hex() not in one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sk-d", "zz"], "--sk-d"),
        (["--sk-d", ""], "--sk-d"),
        (["--derivation", "keymat-sid", "--keymat", " "], "--keymat"),
        (["--salt", "00"], "--salt"),
        (["--spi-i", SPI_I.hex()], "--spi-r"),
        (["--derivation", "keymat-sid", "--sk-d", SK_D.hex()], "--keymat"),
        (["--keymat", KEYMAT.hex()], "--sk-d"),
        (["--prf", "hmac-md4"], "hmac-md4"),
        (["--count", "0"], "--count"),
        (["--count", str(1 << 32)], "--count"),
        (["--label", ""], "--label"),
        (["--label", "x" * 17], "--label"),
        (["--esp-spi", "c0000001"], "--esp-spi"),
    ],
)
def test_derive_refuses_inputs_that_do_not_fit_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["derive", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
