"""Whole messages: the header and the chain of payloads behind it. RFC 7296 sections 3.1 and 3.2."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Final

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.describe import describe_payloads
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.payloads import (
    GENERIC_HEADER_OCTETS,
    MAX_PAYLOAD_OCTETS,
    PAYLOAD_CLASSES,
    Encrypted,
    EncryptedFragment,
    Payload,
    Unknown,
)

GENERIC_HEADER = struct.Struct("!BBH")
CRITICAL_BIT = 0x80
MAX_PAYLOADS = 256
"""More payloads than this are refused: none of the exchanges comes near it, and reading them costs our time."""
_SEALED: Final = (Encrypted, EncryptedFragment)


@value(frozen=True, slots=True)
class Message:
    """An IKE message. An SK or SKF payload in it is still sealed; `parse_payloads` reads what was inside.

    RFC 7296 section 3.1.
    """

    header: Header
    payloads: tuple[Payload, ...]
    encrypted: Encrypted | EncryptedFragment | None = field(init=False, repr=False, compare=False)
    """The SK or SKF payload, which is always the last, or None."""

    def __post_init__(self) -> None:
        last = self.payloads[-1] if self.payloads else None
        object.__setattr__(self, "encrypted", last if isinstance(last, _SEALED) else None)

    @classmethod
    def parse(cls, data: bytes, header: Header | None = None) -> Message:
        """The message that is exactly `data`; `header` is its header, where that was read already.

        An unknown payload is kept as `Unknown`, critical or not. Errors: InvalidSyntax, with an offset into `data`.
        """
        if header is None:
            header = Header.parse(data)
        if header.length != len(data):
            raise InvalidSyntax(f"Length says {header.length} octets, the message has {len(data)}", offset=24)
        return cls(header, _read_payloads(header.next_payload, data, HEADER_OCTETS, allow_encrypted=True))

    def encode(self) -> bytes:
        """The message's octets, with the Next Payload chain and all lengths filled in.

        Errors: LocalProtocolError when a payload holds what the RFC forbids or what does not fit.
        """
        first, body = encode_payloads(self.payloads, response=self.header.is_response)
        return self.header.encode_with(first, HEADER_OCTETS + len(body)) + body

    @property
    def clear_payloads(self) -> tuple[Payload, ...]:
        """The payloads that are not inside SK or SKF."""
        return self.payloads[:-1] if self.encrypted is not None else self.payloads


def parse_payloads(first: PayloadType, data: bytes) -> tuple[Payload, ...]:
    """The payloads in `data`, of which `first` is the type of the first: what an SK payload held, or a clear chain.

    Errors: InvalidSyntax, with an offset into `data`; also for an SK or SKF payload, which cannot lie inside another.
    """
    return _read_payloads(first, data, 0, allow_encrypted=False)


def encode_payloads(payloads: Sequence[Payload], *, response: bool = False) -> tuple[PayloadType, bytes]:
    """The type of the first payload and the octets of the whole chain; `response` is whether a response holds it.

    Errors: LocalProtocolError when a payload holds what the RFC forbids or what does not fit.
    """
    chunks: list[bytes] = []
    following = PayloadType.NO_NEXT_PAYLOAD
    for payload in reversed(payloads):
        # rfc7296-s2.5-13
        if payload.critical and response and isinstance(payload, Unknown):
            raise LocalProtocolError("a critical payload in a response")
        next_payload = following
        if isinstance(payload, _SEALED):
            # rfc7296-s3.14-01, rfc7383-s2.5-01
            if chunks:
                raise LocalProtocolError(f"{payload.payload_type} is not the last payload")  # rfc7296-s3.1-01
            next_payload = payload.first_payload
        chunks.append(encode_payload(payload, next_payload))
        following = payload.payload_type
    chunks.reverse()
    return following, b"".join(chunks)


def encode_payload(payload: Payload, next_payload: PayloadType) -> bytes:
    """One payload with its generic header. Errors: LocalProtocolError. RFC 7296 section 3.2."""
    complaint = payload.problem(sending=True)
    if complaint is not None:
        raise LocalProtocolError(f"{payload.payload_type}: {complaint}")
    try:
        body = payload.encode_body()
    except (struct.error, OverflowError) as error:
        raise LocalProtocolError(f"{payload.payload_type}: a value does not fit its field: {error}") from error
    return generic_header(payload, next_payload, len(body)) + body


def generic_header(payload: Payload, next_payload: PayloadType, body_octets: int) -> bytes:
    """The generic payload header of `payload` before a body of `body_octets`. RFC 7296 section 3.2."""
    length = GENERIC_HEADER_OCTETS + body_octets
    if length > MAX_PAYLOAD_OCTETS:
        raise LocalProtocolError(f"{payload.payload_type}: a payload of {length} octets")
    # rfc7296-s3.2-02, rfc7296-s3.2-04, rfc7296-s3.2-06, rfc7296-s3.12-02: RESERVED is zero, and so is the critical
    # bit of every type that the RFC defines, even where a received payload is sent again
    # rfc7296-s2.5-07, rfc7296-s3.2-01
    bits = CRITICAL_BIT if payload.critical and isinstance(payload, Unknown) else 0
    return GENERIC_HEADER.pack(next_payload, bits, length)


def sealed_prefix(
    header: Header,
    sealed: Encrypted | EncryptedFragment,
    sealed_octets: int,
    clear_payloads: Sequence[Payload] = (),
) -> bytes:
    """The octets of a message up to the IV: the additional authenticated data of the SK or SKF to be.

    `sealed` has an empty body; `sealed_octets` is the length that its body will have. The message is this prefix
    followed by the sealed body.

    RFC 7296 section 3.14, RFC 5282 section 5.1, RFC 7383 section 2.5.
    """
    empty = replace(sealed, body=b"") if sealed.body else sealed
    first, octets = encode_payloads((*clear_payloads, empty), response=header.is_response)
    # The chain's last payload is the sealed one: redo its generic header, where the length counts the body.
    head = sealed.encode_body() if isinstance(sealed, EncryptedFragment) else b""
    before = octets[: len(octets) - GENERIC_HEADER_OCTETS - len(head)]
    tail = generic_header(sealed, sealed.first_payload, len(head) + sealed_octets) + head
    length = HEADER_OCTETS + len(before) + len(tail) + sealed_octets
    return header.encode_with(first, length) + before + tail


def received_prefix(data: bytes, sealed: Encrypted | EncryptedFragment) -> bytes:
    """The additional authenticated data of the SK or SKF payload that ends the message `data`."""
    return data[: len(data) - len(sealed.body)]


def _read_payloads(first: PayloadType, data: bytes, start: int, *, allow_encrypted: bool) -> tuple[Payload, ...]:
    at, end = start, len(data)
    payloads: list[Payload] = []
    payload_type, unpack, body = first, GENERIC_HEADER.unpack_from, Cursor(data)
    while payload_type != PayloadType.NO_NEXT_PAYLOAD:
        if len(payloads) == MAX_PAYLOADS:
            raise InvalidSyntax(f"more than {MAX_PAYLOADS} payloads", offset=at)
        left = end - at - GENERIC_HEADER_OCTETS
        if left < 0:
            raise InvalidSyntax(f"{GENERIC_HEADER_OCTETS} octets wanted, {end - at} left", offset=at)
        following, bits, length = unpack(data, at)
        octets = length - GENERIC_HEADER_OCTETS
        if octets < 0:
            raise InvalidSyntax(f"a payload of {length} octets", offset=at + 2, payload=payload_type)
        if octets > left:
            raise InvalidSyntax(f"a length of {octets} octets, {left} left", offset=end - left)
        payload_class = PAYLOAD_CLASSES.get(payload_type)
        body.move(at + GENERIC_HEADER_OCTETS, at + length, payload_type)
        payload: Payload
        payload = Unknown(payload_type, body.rest()) if payload_class is None else payload_class.read(body)
        body.expect_end()
        next_payload = PayloadType.of(following)
        if isinstance(payload, _SEALED):
            # rfc7296-s3.1-02
            if not allow_encrypted:
                raise InvalidSyntax("an encrypted payload inside another", offset=at, payload=payload_type)
            payload = payload.before(next_payload)
            next_payload = PayloadType.NO_NEXT_PAYLOAD  # rfc7296-s3.14-01: what follows it is left over, an error
        payloads.append(payload.received(bits >= CRITICAL_BIT, bits & ~CRITICAL_BIT))
        payload_type = next_payload
        at += length
    if at != end:
        raise InvalidSyntax(f"{end - at} octets too many", offset=at)
    return tuple(payloads)


def describe(message: Message, inner: Sequence[Payload] | None = None) -> str:
    """One line about a message: `IKE_AUTH response 1 [ IDr AUTH SA TSi TSr ]`.

    `inner` are the payloads that lay in the message's SK payload: they are named in its place.
    """
    header = message.header
    payloads = message.payloads if inner is None else (*message.clear_payloads, *inner)
    return describe_exchange(header.exchange_type, header.message_id, payloads, is_response=header.is_response)


def describe_exchange(
    exchange: ExchangeType, message_id: int, payloads: Sequence[Payload], *, is_response: bool
) -> str:
    """The same line of the parts of a message."""
    direction = "response" if is_response else "request"
    return f"{exchange} {direction} {message_id} {describe_payloads(payloads)}"
