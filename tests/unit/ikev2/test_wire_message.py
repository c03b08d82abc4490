"""Whole messages: the chain of payloads, the lengths, and what surrounds an Encrypted payload. RFC 7296 section 3."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import (
    AuthMethod,
    EncrId,
    ExchangeType,
    IdType,
    KeId,
    NotifyType,
    PayloadType,
    PrfId,
    ProtocolId,
    TransformType,
)
from ikev2.wire.header import Header
from ikev2.wire.message import (
    MAX_PAYLOADS,
    Message,
    encode_payload,
    encode_payloads,
    parse_payloads,
    received_prefix,
    sealed_prefix,
)
from ikev2.wire.payloads import (
    Auth,
    Encrypted,
    EncryptedFragment,
    IdI,
    Ke,
    Nonce,
    Notify,
    Proposal,
    Sa,
    Transform,
    Unknown,
    VendorId,
)

SPI_I = bytes.fromhex("c0ffee0000000001")
HEADER = Header.to_send(SPI_I, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_initiator=True, is_response=False)

# A whole IKE_SA_INIT request, laid out from figures 4, 6 to 9, 10, 15 and 16
GOLDEN = bytes.fromhex(
    "c0ffee0000000001 0000000000000000  21 20 22 08  00000000  00000090"
    "22 00 0028"  # SA, then KE
    "00 00 0024  01 01 00 03  03 00 000c 01 00 0014 800e 0100  03 00 0008 02 00 0006  00 00 0008 04 00 001f"
    "28 00 0028  001f 0000"  # KE, then Nonce
    "4242424242424242424242424242424242424242424242424242424242424242"
    "29 00 0014  000102030405060708090a0b0c0d0e0f"  # Nonce, then Notify
    "2b 00 0008  00 00 402e"  # N(IKEV2_FRAGMENTATION_SUPPORTED), then Vendor ID
    "00 00 0008  746f7921"
)
PAYLOADS = (
    Sa(
        (
            Proposal(
                1,
                ProtocolId.IKE,
                b"",
                (
                    Transform.of(TransformType.ENCR, EncrId.AES_GCM_16, 256),
                    Transform.of(TransformType.PRF, PrfId.HMAC_SHA2_384),
                    Transform.of(TransformType.KE, KeId.CURVE25519),
                ),
            ),
        )
    ),
    Ke(KeId.CURVE25519, b"\x42" * 32),
    Nonce(bytes(range(16))),
    Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),
    VendorId(b"toy!"),
)


def with_length(octets: bytes) -> bytes:
    return octets[:24] + len(octets).to_bytes(4, "big") + octets[28:]


@pytest.mark.req("rfc7383-s2.3-01", "rfc7383-s2.3-02", "rfc7383-s2.3-03")
def test_a_message_is_written_with_its_chain_and_lengths() -> None:
    assert Message(HEADER, PAYLOADS).encode() == GOLDEN


def test_a_message_is_read_back() -> None:
    message = Message.parse(GOLDEN)
    assert message.payloads == PAYLOADS
    assert message.header == replace(HEADER, next_payload=PayloadType.SA, length=len(GOLDEN))
    assert message.encrypted is None
    assert message.clear_payloads == PAYLOADS


def test_a_message_without_payloads_is_its_header() -> None:
    empty = Message(HEADER, ()).encode()
    assert len(empty) == 28
    assert empty[16] == 0
    assert Message.parse(empty).payloads == ()


@pytest.mark.parametrize("difference", [-29, -28, -1, 1, 1 << 16])
def test_the_header_length_has_to_be_the_messages(difference: int) -> None:
    length = max(len(GOLDEN) + difference, 0)
    with pytest.raises(InvalidSyntax) as caught:
        Message.parse(GOLDEN[:24] + length.to_bytes(4, "big") + GOLDEN[28:])
    assert caught.value.offset == 24


def test_a_message_cut_anywhere_is_invalid_syntax() -> None:
    for end in range(len(GOLDEN)):
        with pytest.raises(InvalidSyntax):
            Message.parse(GOLDEN[:end])
        if end >= 28:
            with pytest.raises(InvalidSyntax):
                Message.parse(with_length(GOLDEN[:end]))


def test_octets_after_the_last_payload_are_invalid_syntax() -> None:
    with pytest.raises(InvalidSyntax) as caught:
        Message.parse(with_length(GOLDEN + b"\x00"))
    assert caught.value.offset == len(GOLDEN)


def test_octets_after_an_empty_chain_are_invalid_syntax() -> None:
    with pytest.raises(InvalidSyntax):
        parse_payloads(PayloadType.NO_NEXT_PAYLOAD, b"\x00")


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_payload_length_below_its_own_header_is_invalid_syntax_and_not_an_endless_loop(length: int) -> None:
    octets = with_length(HEADER.encode()[:16] + bytes([43]) + HEADER.encode()[17:] + bytes([43, 0, 0, length]))
    with pytest.raises(InvalidSyntax) as caught:
        Message.parse(octets)
    assert caught.value.offset == 30


def test_a_payload_that_names_another_after_it_needs_that_other() -> None:
    with pytest.raises(InvalidSyntax) as caught:
        parse_payloads(PayloadType.V, bytes.fromhex("2b 00 0004"))
    assert caught.value.offset == 4


def test_an_error_inside_a_payload_names_the_octet_of_the_message_and_the_payload() -> None:
    broken = bytearray(GOLDEN)
    broken[28 + 4 + 8] = 9  # Last Substruc of the first transform
    with pytest.raises(InvalidSyntax) as caught:
        Message.parse(bytes(broken))
    assert (caught.value.offset, caught.value.payload) == (40, PayloadType.SA)


@pytest.mark.req("rfc7296-s2.5-09")
def test_payloads_of_unknown_types_are_kept_where_they_lie_and_the_others_are_read() -> None:
    payloads = (
        Unknown(PayloadType(1), b""),
        PAYLOADS[2],
        Unknown(PayloadType(255), b"\x00\xff", critical=True),
        PAYLOADS[4],
    )
    octets = Message(HEADER, payloads).encode()
    assert Message.parse(octets).payloads == payloads


@pytest.mark.req("rfc7296-s2.5-13")
def test_a_response_with_a_critical_payload_is_not_sent() -> None:
    payload = Unknown(PayloadType(201), b"", critical=True)
    Message(HEADER, (payload,)).encode()
    with pytest.raises(LocalProtocolError):
        Message(replace(HEADER, is_response=True), (payload,)).encode()
    with pytest.raises(LocalProtocolError):
        encode_payloads((payload,), response=True)


def test_more_payloads_than_any_exchange_needs_are_refused() -> None:
    many = (VendorId(b""),) * MAX_PAYLOADS
    first, octets = encode_payloads(many)
    assert parse_payloads(first, octets) == many
    first, octets = encode_payloads((*many, VendorId(b"")))
    with pytest.raises(InvalidSyntax, match="more than 256 payloads"):
        parse_payloads(first, octets)


# --- the Encrypted payload ---

SEALED = bytes.fromhex(
    "c0ffee0000000001 1111111111111111  2e 20 23 08  00000001  00000028  23 00 000c  a0a1a2a3a4a5a6a7"
)


def test_an_encrypted_payload_names_the_first_payload_inside() -> None:
    message = Message.parse(SEALED)
    assert message.payloads == (Encrypted(PayloadType.IDi, bytes(range(0xA0, 0xA8))),)
    assert message.encrypted is message.payloads[0]
    assert message.clear_payloads == ()
    assert message.encode() == SEALED


def test_an_encrypted_payload_may_be_empty_of_payloads() -> None:
    octets = SEALED[:28] + b"\x00" + SEALED[29:]
    assert Message.parse(octets).payloads == (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(range(0xA0, 0xA8))),)


def test_clear_payloads_may_stand_before_an_encrypted_one() -> None:
    sealed = Encrypted(PayloadType.IDi, b"sealed")
    octets = Message(HEADER, (VendorId(b"v"), sealed)).encode()
    message = Message.parse(octets)
    assert message.clear_payloads == (VendorId(b"v"),)
    assert message.encrypted == sealed
    assert octets[28] == PayloadType.SK


@pytest.mark.req("rfc7296-s3.1-01", "rfc7296-s3.14-01", "rfc7383-s2.5-01")
@pytest.mark.parametrize(
    "sealed", [Encrypted(PayloadType.V, b"sealed"), EncryptedFragment(PayloadType.V, 1, 1, b"sealed")]
)
def test_nothing_follows_an_encrypted_payload_in_either_direction(sealed: Encrypted | EncryptedFragment) -> None:
    with pytest.raises(LocalProtocolError):
        Message(HEADER, (sealed, VendorId(b"v"))).encode()
    octets = Message(HEADER, (sealed,)).encode()
    with pytest.raises(InvalidSyntax) as caught:
        Message.parse(with_length(octets + encode_payload(VendorId(b"v"), PayloadType.NO_NEXT_PAYLOAD)))
    assert caught.value.offset == len(octets)


@pytest.mark.req("rfc7296-s3.1-02")
@pytest.mark.parametrize("sealed", [Encrypted(PayloadType.V, b"x"), EncryptedFragment(PayloadType.V, 1, 1, b"x")])
def test_an_encrypted_payload_is_not_read_inside_another(sealed: Encrypted | EncryptedFragment) -> None:
    first, octets = encode_payloads((VendorId(b"v"), sealed))
    with pytest.raises(InvalidSyntax):
        parse_payloads(first, octets)
    with pytest.raises(InvalidSyntax):
        parse_payloads(sealed.payload_type, octets[5:])


@pytest.mark.parametrize("clear", [(), (VendorId(b"before"),)])
@pytest.mark.parametrize("sealed", [Encrypted(PayloadType.IDi, b""), EncryptedFragment(PayloadType.IDi, 1, 3, b"")])
def test_the_authenticated_prefix_is_the_message_up_to_the_iv(
    sealed: Encrypted | EncryptedFragment, clear: tuple[VendorId, ...]
) -> None:
    body = bytes(range(100))
    prefix = sealed_prefix(HEADER, sealed, len(body), clear)
    data = prefix + body
    assert data == Message(HEADER, (*clear, replace(sealed, body=body))).encode()
    received = Message.parse(data).encrypted
    assert received == replace(sealed, body=body)
    assert received is not None
    assert received_prefix(data, received) == prefix


@pytest.mark.req("rfc7383-s2.5-02", "rfc7383-s2.5-03")
def test_the_first_fragment_alone_names_the_first_inner_payload() -> None:
    first = sealed_prefix(HEADER, EncryptedFragment(PayloadType.IDi, 1, 2, b""), 10)
    second = sealed_prefix(HEADER, EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, 2, 2, b""), 10)
    assert (first[16], first[28], first[32:36]) == (53, 35, b"\x00\x01\x00\x02")
    assert (second[16], second[28], second[32:36]) == (53, 0, b"\x00\x02\x00\x02")


@pytest.mark.req("rfc7383-s2.5-07")
def test_the_header_of_a_fragment_is_the_messages_but_for_next_payload_and_length() -> None:
    header = Header.to_send(SPI_I, b"r" * 8, ExchangeType.IKE_AUTH, 77, is_initiator=True, is_response=True)
    whole = sealed_prefix(header, Encrypted(PayloadType.IDi, b""), 1000)
    assert whole[:16] + whole[17:24] == header.encode()[:16] + header.encode()[17:24]
    for number in (1, 2, 3):
        first = PayloadType.IDi if number == 1 else PayloadType.NO_NEXT_PAYLOAD
        fragment = sealed_prefix(header, EncryptedFragment(first, number, 3, b""), 400)
        assert fragment[:16] + fragment[17:24] == whole[:16] + whole[17:24]
        assert int.from_bytes(fragment[24:28], "big") == len(fragment) + 400


def test_a_sealed_payload_too_long_for_its_length_field_is_our_callers_mistake() -> None:
    sealed_prefix(HEADER, Encrypted(PayloadType.IDi, b""), 65531)
    with pytest.raises(LocalProtocolError):
        sealed_prefix(HEADER, Encrypted(PayloadType.IDi, b""), 65532)


def test_inner_payloads_are_read_with_offsets_into_the_plaintext() -> None:
    first, octets = encode_payloads((IdI(IdType.ID_FQDN, b"a.example"), Auth(AuthMethod.SHARED_KEY_MIC, b"m" * 32)))
    assert first == PayloadType.IDi
    assert [payload.payload_type for payload in parse_payloads(first, octets)] == [
        PayloadType.IDi,
        PayloadType.AUTH,
    ]
    with pytest.raises(InvalidSyntax) as caught:
        parse_payloads(first, octets[:-1])
    assert caught.value.offset == 21
