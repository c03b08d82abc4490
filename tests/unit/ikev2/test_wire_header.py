"""The IKE header. RFC 7296 section 3.1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.wire.header import HEADER_OCTETS, Header

# Figure 4, field by field
GOLDEN = bytes.fromhex(
    "0102030405060708"  # IKE SA Initiator's SPI
    "1112131415161718"  # IKE SA Responder's SPI
    "2e 20 23 28"  # Next Payload SK, MjVer 2 MnVer 0, IKE_AUTH, Flags R and I
    "00000001"  # Message ID
    "000000e0"  # Length
)
HEADER = Header(
    initiator_spi=bytes.fromhex("0102030405060708"),
    responder_spi=bytes.fromhex("1112131415161718"),
    next_payload=PayloadType.SK,
    exchange_type=ExchangeType.IKE_AUTH,
    message_id=1,
    length=224,
    is_initiator=True,
    is_response=True,
)


def with_octet(position: int, value: int) -> bytes:
    return GOLDEN[:position] + bytes([value]) + GOLDEN[position + 1 :]


@pytest.mark.req("rfc7296-s3.1-05", "rfc7296-s3.1-08")
def test_header_is_the_octets_of_figure_4() -> None:
    assert len(GOLDEN) == HEADER_OCTETS
    assert HEADER.encode() == GOLDEN
    assert Header.parse(GOLDEN) == HEADER


@pytest.mark.parametrize(
    ("flags", "initiator", "version", "response", "reserved"),
    [
        (0x00, False, False, False, 0),
        (0x08, True, False, False, 0),
        (0x10, False, True, False, 0),
        (0x20, False, False, True, 0),
        (0xC7, False, False, False, 0xC7),
        (0xFF, True, True, True, 0xC7),
    ],
)
@pytest.mark.req("rfc7296-s3.1-11", "rfc7296-s3.1-16")
def test_each_flag_bit_is_read_on_its_own(
    flags: int, initiator: bool, version: bool, response: bool, reserved: int
) -> None:
    header = Header.parse(with_octet(19, flags))
    assert (header.is_initiator, header.higher_version, header.is_response, header.reserved_flags) == (
        initiator,
        version,
        response,
        reserved,
    )


@pytest.mark.req("rfc7296-s3.1-10", "rfc7296-s3.1-15", "rfc7296-s3.1-08", "rfc7296-s2.5-07")
def test_what_must_be_zero_is_sent_as_zero_even_from_a_received_header() -> None:
    received = Header.parse(GOLDEN[:17] + bytes([0x2F, 35, 0xFF]) + GOLDEN[20:])
    assert received.minor_version == 15
    sent = received.encode()
    assert sent[17] == 0x20
    assert sent[19] == 0x28


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("initiator", [False, True])
def test_r_and_i_are_sent_as_the_fields_say(response: bool, initiator: bool) -> None:
    octets = replace(HEADER, is_response=response, is_initiator=initiator).encode()
    assert octets[19] == (0x20 if response else 0) | (0x08 if initiator else 0)


@pytest.mark.parametrize("version", [0x00, 0x10, 0x2F, 0x30, 0xF0])
@pytest.mark.req("rfc7296-s3.1-09", "rfc7296-s2.5-01")
def test_any_version_parses(version: int) -> None:
    header = Header.parse(with_octet(17, version))
    assert (header.major_version, header.minor_version) == (version >> 4, version & 15)
    assert replace(header, major_version=2, minor_version=0) == HEADER


def test_a_major_version_is_sent_as_the_field_says() -> None:
    assert replace(HEADER, major_version=3).encode()[17] == 0x30


def test_unknown_exchange_and_payload_types_are_values() -> None:
    header = Header.parse(with_octet(18, 240))
    assert header.exchange_type == 240
    assert not header.exchange_type.known
    assert Header.parse(with_octet(16, 99)).next_payload == 99
    assert Header.parse(header.encode()) == header


@pytest.mark.parametrize("octets", [0, 1, 27])
def test_a_short_header_is_invalid_syntax(octets: int) -> None:
    with pytest.raises(InvalidSyntax) as caught:
        Header.parse(GOLDEN[:octets])
    assert caught.value.offset == octets


def test_parse_looks_at_28_octets_only() -> None:
    assert Header.parse(GOLDEN + b"more") == HEADER


@pytest.mark.parametrize(
    "changes",
    [
        {"initiator_spi": b"short"},
        {"responder_spi": bytes(9)},
        {"message_id": 1 << 32},
        {"message_id": -1},
        {"length": 1 << 32},
        {"major_version": 16},
    ],
)
def test_values_that_do_not_fit_are_our_callers_mistake(changes: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        replace(HEADER, **changes).encode()  # type: ignore[arg-type]


def test_to_send_leaves_the_chain_and_the_length_to_the_message() -> None:
    header = Header.to_send(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, 7, is_initiator=False, is_response=True)
    assert header.next_payload == PayloadType.NO_NEXT_PAYLOAD
    assert header.encode()[16:20] == bytes([0, 0x20, 37, 0x20])
