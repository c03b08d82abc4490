"""Messages under the protection of one IKE SA: seal and open Encrypted and Encrypted Fragment payloads.

RFC 7296 section 3.14, RFC 7383 section 2.5.
"""

from __future__ import annotations

from dataclasses import replace

from ikev2.core.impair_message import MessageImpairment, Tampering, rewritten
from ikev2.core.types import Role
from ikev2.crypto.entropy import Entropy
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.suites import IkeSuite
from ikev2.errors import IntegrityError, LocalProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.value import value
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.message import Message, encode_payloads, parse_payloads, received_prefix, sealed_prefix
from ikev2.wire.payloads import GENERIC_HEADER_OCTETS, Encrypted, EncryptedFragment, Payload

FRAGMENT_NUMBERS_OCTETS = 4
MAX_FRAGMENT_NUMBER = 0xFFFF


@value(frozen=True, slots=True)
class Plain:
    """A message before its protection: the header to be, and the content of its Encrypted payload.

    `first` is the type of the first payload in `content`; `clear` are payloads that go unprotected, which no exchange
    has so far. Fragments are cut from it again and again when smaller ones are needed. RFC 7383 section 2.5.
    """

    header: Header
    first: PayloadType
    content: bytes
    clear: tuple[Payload, ...] = ()
    tampering: Tampering | None = None


class SecureChannel:
    """Both directions of one IKE SA. `role` is ours as of the original initiator or responder.

    `rewriters` are asked about every message before it is protected.
    """

    __slots__ = ("_entropy", "_inbound", "_outbound", "_role", "_spi_i", "_spi_r", "rewriters")

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
        self.rewriters: tuple[MessageImpairment, ...] = ()

    def seal(
        self, exchange: ExchangeType, message_id: int, payloads: tuple[Payload, ...], *, is_response: bool
    ) -> bytes:
        """A whole message with these payloads inside its Encrypted payload."""
        return self.seal_whole(self.prepare(exchange, message_id, payloads, is_response=is_response))

    def prepare(
        self, exchange: ExchangeType, message_id: int, payloads: tuple[Payload, ...], *, is_response: bool
    ) -> Plain:
        """The message that is to be sealed. LocalProtocolError when a payload holds what the RFC forbids."""
        header = Header.to_send(
            self._spi_i,
            self._spi_r,
            exchange,
            message_id,
            is_initiator=self._role is Role.INITIATOR,  # rfc7296-s3.1-17, rfc7296-s3.1-18
            is_response=is_response,  # rfc7296-s3.1-12, rfc7296-s3.1-13
        )
        draft = rewritten(self.rewriters, header, payloads) if self.rewriters else None
        if draft is not None:
            return Plain(header, *draft.chain(), tampering=draft.tampering)
        return Plain(header, *encode_payloads(payloads, response=is_response))

    def whole_octets(self, plain: Plain) -> int:
        """The length of `seal_whole(plain)`."""
        before = HEADER_OCTETS + _octets(plain.clear) + GENERIC_HEADER_OCTETS
        return before + self._outbound.sealed_octets(len(plain.content))

    def seal_whole(self, plain: Plain) -> bytes:
        """The message with one Encrypted payload."""
        if plain.tampering is not None and plain.tampering.unprotected:
            length = HEADER_OCTETS + len(plain.content)
            header = replace(plain.header, next_payload=plain.first, length=length)
            return plain.tampering.patched(header.encode() + plain.content)
        return self._seal(plain, Encrypted(plain.first, b""), plain.content, plain.clear)

    def fragment_count(self, plain: Plain, message_octets: int) -> int:
        """In how many IKE Fragment messages of at most `message_octets` the message goes."""
        return len(self._cut(plain, message_octets))

    def seal_fragments(self, plain: Plain, message_octets: int) -> tuple[bytes, ...]:
        """The message as IKE Fragment messages of at most `message_octets` each. RFC 7383 section 2.5.

        LocalProtocolError when these would be more than can be numbered.
        """
        chunks = self._cut(plain, message_octets)
        if len(chunks) > MAX_FRAGMENT_NUMBER:
            raise LocalProtocolError(f"{len(plain.content)} octets do not fit in {MAX_FRAGMENT_NUMBER} fragments")
        first = EncryptedFragment(plain.first, 1, len(chunks), b"")  # rfc7383-s2.5-02
        fragments = [self._seal(plain, first, chunks[0], plain.clear)]  # rfc7383-s2.5.3-01, rfc7383-s2.5.3-02
        for number, chunk in enumerate(chunks[1:], 2):
            # rfc7383-s2.5-03, rfc7383-s2.5-07
            other = EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, number, len(chunks), b"")
            fragments.append(self._seal(plain, other, chunk))
        return tuple(fragments)

    def open(self, data: bytes, message: Message) -> tuple[Payload, ...]:
        """The payloads inside; IntegrityError when there is nothing authentic, InvalidSyntax after a good ICV."""
        sealed = message.encrypted
        if not isinstance(sealed, Encrypted):
            raise IntegrityError("the message is not encrypted")
        plaintext = self._inbound.open(received_prefix(data, sealed), sealed.body)
        return parse_payloads(sealed.first_payload, plaintext)

    def open_fragment(self, data: bytes, sealed: EncryptedFragment) -> bytes:
        """The content of one fragment; IntegrityError when it is not authentic, InvalidSyntax for its padding."""
        return self._inbound.open(received_prefix(data, sealed), sealed.body)

    def _seal(
        self,
        plain: Plain,
        sealed: Encrypted | EncryptedFragment,
        content: bytes,
        clear: tuple[Payload, ...] = (),
    ) -> bytes:
        cipher, tampering = self._outbound, plain.tampering
        if tampering is None:
            aad = sealed_prefix(plain.header, sealed, cipher.sealed_octets(len(content)), clear)
            return aad + cipher.seal(aad, content, cipher.new_iv(self._entropy))
        padded = tampering.padded(content, cipher.encr.block_octets)
        aad = sealed_prefix(plain.header, sealed, cipher.sealed_octets(len(padded) - 1), clear)
        aad = tampering.patched(aad)
        return aad + cipher.seal_padded(aad, padded, cipher.new_iv(self._entropy))

    def _cut(self, plain: Plain, message_octets: int) -> list[bytes]:
        """The contents of the fragments; the first one is short, or empty, where unprotected payloads take its room."""
        before = HEADER_OCTETS + GENERIC_HEADER_OCTETS + FRAGMENT_NUMBERS_OCTETS
        room = max(1, self._outbound.plaintext_octets(message_octets - before))
        end = room
        if plain.clear:
            end = max(0, self._outbound.plaintext_octets(message_octets - before - _octets(plain.clear)))
        content = plain.content
        return [content[:end], *(content[at : at + room] for at in range(end, len(content), room))]


def _octets(payloads: tuple[Payload, ...]) -> int:
    return len(encode_payloads(payloads)[1]) if payloads else 0
