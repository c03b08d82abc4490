"""Messages under the protection of one IKE SA: seal and open the Encrypted payload. RFC 7296 section 3.14."""

from __future__ import annotations

from ikev2.core.types import Role
from ikev2.crypto.entropy import Entropy
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.suites import IkeSuite
from ikev2.errors import IntegrityError
from ikev2.iana import ExchangeType
from ikev2.wire.header import Header
from ikev2.wire.message import Message, encode_payloads, parse_payloads, received_prefix, sealed_prefix
from ikev2.wire.payloads import Encrypted, Payload


class SecureChannel:
    """Both directions of one IKE SA. `role` is ours as of the original initiator or responder."""

    __slots__ = ("_entropy", "_inbound", "_outbound", "_role", "_spi_i", "_spi_r")

    def __init__(
        self, suite: IkeSuite, keys: IkeKeys, role: Role, spi_i: bytes, spi_r: bytes, entropy: Entropy
    ) -> None:
        integ_key_i = keys.sk_ai if suite.integ is not None else None
        integ_key_r = keys.sk_ar if suite.integ is not None else None
        from_initiator = SkCipher(suite.encr, suite.integ, keys.sk_ei, integ_key_i)
        from_responder = SkCipher(suite.encr, suite.integ, keys.sk_er, integ_key_r)
        ours, theirs = from_initiator, from_responder
        if role is Role.RESPONDER:
            ours, theirs = theirs, ours
        self._outbound, self._inbound = ours, theirs
        self._role, self._spi_i, self._spi_r, self._entropy = role, spi_i, spi_r, entropy

    def seal(
        self, exchange: ExchangeType, message_id: int, payloads: tuple[Payload, ...], *, is_response: bool
    ) -> bytes:
        """A whole message with these payloads inside its Encrypted payload."""
        first, plaintext = encode_payloads(payloads, response=is_response)
        cipher = self._outbound
        header = Header.to_send(
            self._spi_i,
            self._spi_r,
            exchange,
            message_id,
            is_initiator=self._role is Role.INITIATOR,  # rfc7296-s3.1-17, rfc7296-s3.1-18
            is_response=is_response,  # rfc7296-s3.1-12, rfc7296-s3.1-13
        )
        aad = sealed_prefix(header, Encrypted(first, b""), cipher.sealed_octets(len(plaintext)))
        return aad + cipher.seal(aad, plaintext, cipher.new_iv(self._entropy))

    def open(self, data: bytes, message: Message) -> tuple[Payload, ...]:
        """The payloads inside; IntegrityError when there is nothing authentic, InvalidSyntax after a good ICV."""
        sealed = message.encrypted
        if not isinstance(sealed, Encrypted):
            raise IntegrityError("the message is not encrypted")
        plaintext = self._inbound.open(received_prefix(data, sealed), sealed.body)
        return parse_payloads(sealed.first_payload, plaintext)
