"""RFC 7634 appendix B: a whole IKE message under ChaCha20-Poly1305."""

from __future__ import annotations

from crypto_support import vectors

from ikev2.crypto.encr import encr
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.iana import EncrId, ExchangeType, NotifyType, PayloadType
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
