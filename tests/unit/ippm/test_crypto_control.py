"""Secrets, the Token, the streams and the Test keys. RFC 4656 sections 3.1, 3.2, 3.4, 4.1.2; RFC 5357 section 3.2."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ippm.crypto import (
    CbcReceiver,
    CbcSender,
    NoProvider,
    OpenReceiver,
    OpenSender,
    PassphraseProvider,
    SessionKeys,
    open_token,
    pad_key_id,
    pbkdf2_token_key,
    seal_token,
    test_session_keys,
)
from ippm.errors import ConfigurationError, IntegrityError, NoSecret

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6070.json").read_text())
KEYS = SessionKeys(bytes(range(16)), bytes(range(16, 48)))
IV = bytes(range(100, 116))
CHALLENGE = bytes(range(200, 216))


def cbc(key: bytes, iv: bytes, plain: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(plain) + encryptor.finalize()


@pytest.mark.parametrize("case", VECTORS["pbkdf2_hmac_sha1"], ids=lambda case: f"{case['count']}/{case['octets']}")
def test_pbkdf2_as_in_rfc_6070(case: dict[str, str]) -> None:
    """The first 16 octets are the same whatever length is asked for: one block of PBKDF2 has 20."""
    key = pbkdf2_token_key(bytes.fromhex(case["password"]), bytes.fromhex(case["salt"]), int(case["count"]))
    assert len(key) == 16
    assert key == bytes.fromhex(case["key"])[:16]


@pytest.mark.req("rfc4656-s3.1-15")
def test_the_token_is_cbc_with_a_zero_iv_of_challenge_and_both_keys() -> None:
    token = seal_token(b"k" * 16, CHALLENGE, KEYS)
    assert token == cbc(b"k" * 16, bytes(16), CHALLENGE + KEYS.aes + KEYS.hmac)
    assert open_token([b"k" * 16], token, CHALLENGE) == (0, KEYS)


def test_a_token_is_opened_with_the_key_that_fits() -> None:
    token = seal_token(b"k" * 16, CHALLENGE, KEYS)
    assert open_token([b"a" * 16, b"k" * 16, b"b" * 16], token, CHALLENGE) == (1, KEYS)
    with pytest.raises(IntegrityError):
        open_token([b"a" * 16], token, CHALLENGE)
    with pytest.raises(IntegrityError):
        open_token([b"k" * 16], token, bytes(16))
    with pytest.raises(IntegrityError):
        open_token([], token, CHALLENGE)


def test_a_stream_is_one_cbc_with_an_hmac_over_what_came_since_the_last() -> None:
    """The Server-Start's last block has no HMAC of its own: the one of the next message covers it."""
    sender = CbcSender(KEYS, IV)
    start_time, first, second = b"s" * 16, b"1" * 32, b"2" * 16
    sent = sender.seal(start_time, with_hmac=False) + sender.seal(first, with_hmac=True)
    sent += sender.seal(second, with_hmac=True)

    def mac(octets: bytes) -> bytes:
        return hmac.new(KEYS.hmac, octets, hashlib.sha1).digest()[:16]

    assert sent == cbc(KEYS.aes, IV, start_time + first + mac(start_time + first) + second + mac(second))

    receiver = CbcReceiver(KEYS, IV)
    plain = receiver.decrypt(sent[:16])
    receiver.cover(plain)
    plain = receiver.decrypt(sent[16:64])
    receiver.verify(plain[:32], plain[32:])
    plain = receiver.decrypt(sent[64:])
    receiver.verify(plain[:16], plain[16:])


@pytest.mark.req("rfc4656-s6.10-01")
@pytest.mark.parametrize("bit", [0, 100, 127, 128, 200, 255])
def test_a_changed_bit_fails_the_hmac(bit: int) -> None:
    sent = bytearray(CbcSender(KEYS, IV).seal(b"m" * 16, with_hmac=True))
    sent[bit // 8] ^= 1 << bit % 8
    receiver = CbcReceiver(KEYS, IV)
    plain = receiver.decrypt(bytes(sent))
    with pytest.raises(IntegrityError):
        receiver.verify(plain[:16], plain[16:])


def test_open_mode_has_zeros_for_an_hmac_and_ignores_what_comes() -> None:
    assert OpenSender().seal(b"m" * 16, with_hmac=True) == b"m" * 16 + bytes(16)
    assert OpenSender().seal(b"m" * 16, with_hmac=False) == b"m" * 16
    receiver = OpenReceiver()
    assert receiver.decrypt(b"x" * 16) == b"x" * 16
    receiver.verify(b"x" * 16, b"y" * 16)


def test_test_keys_are_the_control_keys_encrypted_under_the_sid() -> None:
    """RFC 4656 section 4.1.2: one ECB block, and two CBC blocks with IV zero, the SID being the key."""
    sid = bytes(range(50, 66))
    keys = test_session_keys(KEYS, sid)
    ecb = Cipher(algorithms.AES(sid), modes.ECB()).encryptor()
    assert keys.aes == ecb.update(KEYS.aes)
    assert keys.hmac == cbc(sid, bytes(16), KEYS.hmac)


def test_no_key_is_in_a_repr() -> None:
    text = repr(KEYS)
    assert "aes" not in text
    assert "\\x01\\x02" not in text
    provider = PassphraseProvider({"alice": "correct horse"})
    secret = provider.for_client("192.0.2.2", "twamp")
    assert "horse" not in repr(provider) + repr(secret)
    assert "alice" in repr(secret)


def test_session_keys_have_their_sizes_and_compare() -> None:
    with pytest.raises(ValueError, match="16 and 32"):
        SessionKeys(bytes(32), bytes(16))
    assert SessionKeys(KEYS.aes, KEYS.hmac) == KEYS
    assert SessionKeys(KEYS.aes, bytes(32)) != KEYS
    assert KEYS != "keys"
    assert len({KEYS, SessionKeys(KEYS.aes, KEYS.hmac)}) == 1


class TestPassphrases:
    """PassphraseProvider and NoProvider."""

    @pytest.mark.req("rfc4656-s3.1-16", "rfc5357-s3.1-08")
    @pytest.mark.parametrize("passphrase", ["a\nb", "a\rb", "a\r\n", b"\n"])
    def test_a_passphrase_with_a_newline_is_refused(self, passphrase: str | bytes) -> None:
        with pytest.raises(ConfigurationError, match="newline"):
            PassphraseProvider({"alice": passphrase})

    @pytest.mark.req("rfc5357-s3.1-07")
    @pytest.mark.parametrize("passphrase", ["na\u00efve", b"caf\xc3\xa9", b"\x80", b"\xff" * 16])
    def test_a_passphrase_that_is_not_ascii_is_refused(self, passphrase: str | bytes) -> None:
        with pytest.raises(ConfigurationError, match="'alice' is not ASCII"):
            PassphraseProvider({"alice": passphrase})
        assert PassphraseProvider({"alice": bytes(range(0x20, 0x7F))}).for_client("", "twamp")

    def test_all_80_octets_of_the_key_id_are_compared(self) -> None:
        provider = PassphraseProvider({"alice": "a"})
        assert provider.for_server(pad_key_id(b"alice"), False, "", "twamp").key_id == b"alice".ljust(80, b"\0")
        with pytest.raises(NoSecret, match="unknown KeyID") as caught:
            provider.for_server(b"alice".ljust(79, b"\0") + b"x", False, "", "twamp")
        assert caught.value.accept == 1

    def test_an_ikev2_derived_key_is_asked_for_in_vain(self) -> None:
        for provider in (PassphraseProvider({"alice": "a"}), NoProvider()):
            assert not provider.offers_ikev2
            with pytest.raises(NoSecret) as caught:
                provider.for_server(bytes(80), True, "", "twamp")
            assert caught.value.accept == 6

    def test_a_client_must_say_which_of_several_it_is(self) -> None:
        two = {"alice": "a", "bob": "b"}
        with pytest.raises(NoSecret, match="which of 2"):
            PassphraseProvider(two).for_client("", "twamp")
        assert PassphraseProvider(two, "bob").for_client("", "twamp").key_id[:4] == b"bob\0"
        with pytest.raises(NoSecret, match="'carol'"):
            PassphraseProvider(two, "carol").for_client("", "twamp")

    def test_a_key_id_that_is_no_text_is_shown_in_hexadecimal(self) -> None:
        with pytest.raises(NoSecret, match="unknown KeyID ff01"):
            PassphraseProvider({"alice": "a"}).for_server(b"\xff\x01".ljust(80, b"\0"), False, "", "twamp")

    def test_a_key_id_has_1_to_80_octets(self) -> None:
        for wrong in ("", "x" * 81):
            with pytest.raises(ConfigurationError, match="1 to 80"):
                PassphraseProvider({wrong: "a"})
