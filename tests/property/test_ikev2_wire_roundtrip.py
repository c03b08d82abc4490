"""Properties of the IKEv2 codecs: what is sent reads back, and whatever arrives raises nothing but a ProtocolError."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from ikev2_wire_strategies import ANY_PAYLOAD, ENCRYPTED, MESSAGES, PAYLOADS, UINT8

from ikev2.errors import InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import PayloadType
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.message import (
    Message,
    describe,
    encode_payload,
    encode_payloads,
    parse_payloads,
    received_prefix,
    sealed_prefix,
)
from ikev2.wire.payloads import PAYLOAD_CLASSES, Encrypted, EncryptedFragment, Payload
from ikev2.wire.rules import RULES, check, check_message

MUTATED_MESSAGES = 20_000
T = TypeVar("T")


@pytest.mark.parametrize("name", PAYLOADS)
@settings(max_examples=60)
@given(data=st.data())
def test_every_payload_reads_back_as_it_was_sent(name: str, data: st.DataObject) -> None:
    payload = data.draw(PAYLOADS[name])
    octets = encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)
    assert int.from_bytes(octets[2:4], "big") == len(octets)
    (read,) = parse_payloads(payload.payload_type, octets)
    assert read == payload
    assert type(read) is type(payload)
    assert encode_payload(read, PayloadType.NO_NEXT_PAYLOAD) == octets


def test_every_payload_class_has_a_strategy() -> None:
    assert {str(PayloadType(number)) for number in PAYLOAD_CLASSES} - {"SK", "SKF"} == set(PAYLOADS) - {"unknown"}


@settings(max_examples=150)
@given(MESSAGES)
def test_every_message_reads_back_as_it_was_sent(message: Message) -> None:
    octets = message.encode()
    read = Message.parse(octets)
    assert read.payloads == message.payloads
    assert read.header == replace(message.header, next_payload=read.header.next_payload, length=len(octets))
    assert read.encode() == octets
    describe(read)


@settings(max_examples=100)
@given(st.lists(ANY_PAYLOAD, max_size=3), ENCRYPTED)
def test_the_authenticated_prefix_and_the_sealed_body_are_the_message(
    clear: list[Payload], sealed: Encrypted | EncryptedFragment
) -> None:
    header = Header.parse(bytes(17) + b"\x20" + bytes(10))
    prefix = sealed_prefix(header, replace(sealed, body=b""), len(sealed.body), clear)
    data = prefix + sealed.body
    assert data == Message(header, (*clear, sealed)).encode()
    assert received_prefix(data, sealed) == prefix


@pytest.mark.parametrize("name", PAYLOADS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_body_cut_short_raises_only_invalid_syntax(name: str, data: st.DataObject) -> None:
    payload = data.draw(PAYLOADS[name])
    octets = encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)
    end = data.draw(st.integers(0, len(octets) - 1))
    with pytest.raises(InvalidSyntax):
        parse_payloads(payload.payload_type, octets[:end])
    if end >= 4:  # the same cut, with a length that owns up to it: it may read as a shorter payload
        _only_protocol_errors(payload.payload_type, octets[:2] + end.to_bytes(2, "big") + octets[4:end])


@pytest.mark.parametrize("name", PAYLOADS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_raises_only_protocol_errors(name: str, data: st.DataObject) -> None:
    payload = data.draw(PAYLOADS[name])
    octets = bytearray(encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD))
    bit = data.draw(st.integers(0, 8 * len(octets) - 1))
    octets[bit // 8] ^= 0x80 >> bit % 8
    _only_protocol_errors(payload.payload_type, bytes(octets))


@settings(max_examples=300)
@given(UINT8, st.binary(max_size=200))
@example(44, bytes.fromhex("00 00 0008 ff 000000"))
@example(42, bytes.fromhex("00 00 0008 00 00 ffff"))
def test_any_octets_raise_only_protocol_errors(payload_type: int, octets: bytes) -> None:
    _only_protocol_errors(PayloadType(payload_type), octets)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_message_raises_only_protocol_errors(octets: bytes) -> None:
    _only_protocol_errors_of_a_message(octets)
    _only_protocol_errors_of_a_message(octets[:24] + len(octets).to_bytes(4, "big") + octets[28:])


@settings(max_examples=200)
@given(st.sampled_from(sorted(RULES)), st.lists(ANY_PAYLOAD, max_size=8))
def test_the_rules_raise_only_protocol_errors(key: tuple[object, ...], payloads: list[Payload]) -> None:
    with suppress(ProtocolError):
        check(payloads, RULES[key])  # type: ignore[index]


@seed(7296)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.integers(0, 2**32))
def test_twenty_thousand_mutated_messages_raise_only_protocol_errors(message: Message, mutation_seed: int) -> None:
    octets = message.encode()
    generator = random.Random(mutation_seed)
    for _ in range(MUTATED_MESSAGES // 200):
        _only_protocol_errors_of_a_message(mutated(octets, generator))


def mutated(octets: bytes, generator: random.Random) -> bytes:
    """One to four random changes of a message; half of the time its Length is put right again."""
    data = bytearray(octets)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data)) if data else 0
        match generator.randrange(6):
            case 0:
                if data:
                    data[at] ^= 1 << generator.randrange(8)
            case 1:
                data[at : at + 1] = bytes([generator.choice((0, 1, 2, 3, 4, 0x7F, 0x80, 0xFF))])
            case 2:
                del data[at : at + generator.randint(1, 40)]
            case 3:
                data[at:at] = generator.randbytes(generator.randint(1, 40))
            case 4:
                data[at:at] = data[at : at + generator.randint(1, 40)]
            case _:
                data[at : at + 2] = generator.choice((0, 1, 3, 4, 8, 0xFFFF, len(data))).to_bytes(2, "big")
    if generator.random() < 0.5 and len(data) >= HEADER_OCTETS:
        data[24:28] = len(data).to_bytes(4, "big")
    return bytes(data)


def _only_protocol_errors(payload_type: PayloadType, octets: bytes) -> None:
    payloads = _read(octets, lambda: parse_payloads(payload_type, octets))
    if payloads is not None:
        _what_was_read_can_be_written(payloads, octets)


def _only_protocol_errors_of_a_message(octets: bytes) -> None:
    message = _read(octets, lambda: Message.parse(octets))
    if message is not None:
        describe(message)
        _what_was_read_can_be_written(message.payloads, octets[HEADER_OCTETS:])
        with suppress(ProtocolError):
            check_message(message)


def _read(octets: bytes, parse: Callable[[], T]) -> T | None:
    """What `parse` makes of the octets; None for an InvalidSyntax whose offset lies within them."""
    try:
        return parse()
    except InvalidSyntax as error:
        offset = error.offset
    assert offset is None or 0 <= offset <= len(octets)
    return None


def _what_was_read_can_be_written(payloads: tuple[Payload, ...], octets: bytes) -> None:
    """What was accepted breaks a rule of senders, or is written again in as many octets and reads as it did."""
    try:
        first, written = encode_payloads(payloads)
    except LocalProtocolError:
        return
    assert len(written) == len(octets)
    if not any(isinstance(payload, Encrypted | EncryptedFragment) for payload in payloads):
        assert parse_payloads(first, written) == tuple(_as_sent(payload) for payload in payloads)


def _as_sent(payload: Payload) -> Payload:
    """Without the bits that are never sent."""
    critical = payload.critical and payload.payload_type not in PAYLOAD_CLASSES
    return replace(payload, critical=critical, reserved=0)
