"""Published figures of the ciphers: RFC 7634 appendix B, a whole IKE message; RFC 3602 and RFC 3686."""

from __future__ import annotations

import pytest
from crypto_support import vectors

from ikev2.crypto.encr import encr
from ikev2.crypto.integ import integ
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.iana import EncrId, ExchangeType, IntegId, NotifyType, PayloadType
from ikev2.wire.message import Message, parse_payloads
from ikev2.wire.payloads import Encrypted, Notify

V = {name: bytes.fromhex(value) for name, value in vectors("rfc7634-appendix-b.json").items() if name != "source"}
CIPHER = SkCipher(encr(EncrId.CHACHA20_POLY1305), None, SecretOctets("SK_ei", V["key"] + V["salt"]))


def test_sealing_gives_the_message_of_rfc_7634() -> None:
    # The plaintext of the RFC ends with its Pad Length of zero.
    plaintext = V["plaintext"][:-1]
    body = CIPHER.seal(V["aad"], plaintext, V["iv"])
    assert body == V["iv"] + V["ciphertext"] + V["tag"]
    assert len(body) == CIPHER.sealed_octets(len(plaintext))
    assert V["aad"] + body == V["ike_message"]


def test_opening_the_message_of_rfc_7634_gives_its_notification() -> None:
    message = Message.parse(V["ike_message"])
    assert message.header.exchange_type == ExchangeType.INFORMATIONAL
    assert not message.header.is_response
    assert not message.header.is_initiator
    assert message.header.message_id == 9
    (sealed,) = message.payloads
    assert isinstance(sealed, Encrypted)
    plaintext = CIPHER.open(V["ike_message"][: -len(sealed.body)], sealed.body)
    (payload,) = parse_payloads(sealed.first_payload, plaintext)
    assert payload.payload_type == PayloadType.N
    assert isinstance(payload, Notify)
    assert payload.notify_type == NotifyType.SET_WINDOW_SIZE
    assert payload.data == (10).to_bytes(4, "big")
    assert message.encode() == V["ike_message"]


AES = vectors("aes-ciphers.json")


@pytest.mark.parametrize("test", [*AES["aes_ctr"], *AES["aes_cbc"]], ids=lambda test: test["name"])
def test_aes_with_an_integrity_algorithm_begins_with_the_published_ciphertext(test: dict[str, str]) -> None:
    """The figures have no Pad Length, which comes behind their plaintext and changes nothing before it."""
    key = SecretOctets("SK_ei", bytes.fromhex(test["key"]))
    in_ctr = test["name"].startswith("ctr")
    algorithm = encr(EncrId.AES_CTR, 8 * (len(key) - 4)) if in_ctr else encr(EncrId.AES_CBC, 8 * len(key))
    cipher = SkCipher(algorithm, integ(IntegId.HMAC_SHA2_256_128), key, SecretOctets("SK_ai", bytes(32)))
    body = cipher.seal(b"", bytes.fromhex(test["plaintext"]), bytes.fromhex(test["iv"]))
    assert body.hex().startswith(test["iv"] + test["ciphertext"])
