"""Each message of TWAMP-Control against octets typed from the figures. RFC 4656 section 3, RFC 5357 section 3."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from ippm.errors import InvalidMessage, LocalProtocolError
from ippm.iana import Accept, Mode
from ippm.wire.accept_session import AcceptSession
from ippm.wire.layout import MAXIMUM_SCHEDULE_SLOTS, command_parts
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.server_start import ServerStart
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.start_ack import StartAck
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions

CHALLENGE = "00112233445566778899aabbccddeeff"
SALT = "f0e0d0c0b0a090807060504030201000"
SID = "c0000202e0000000800000000badcafe"

GREETING = bytes.fromhex(
    "000000000000000000000000"  # Unused
    "0000008f"  # Modes: 1 2 4 8, and 128
    + CHALLENGE
    + SALT
    + "00001000"  # Count
    + "000000000000000000000000"  # MBZ
)
SET_UP_RESPONSE = bytes.fromhex(
    "00000082"  # Mode: authenticated, IKEv2Derived
    "0123456789abcdef"  # KeyID: SPIi
    "fedcba9876543210"  # SPIr
    + "00" * 64
    + "a5" * 64  # Token
    + "5a" * 16  # Client-IV
)
SERVER_START = bytes.fromhex(
    "000000000000000000000000000000"  # MBZ
    "00"  # Accept
    "101112131415161718191a1b1c1d1e1f"  # Server-IV
    "e000000080000000"  # Start-Time
    "0000000000000000"  # MBZ
)
REQUEST = bytes.fromhex(
    "05"  # Request-TW-Session
    "04"  # MBZ, IPVN
    "00"  # Conf-Sender
    "00"  # Conf-Receiver
    "00000000"  # Number of Schedule Slots
    "00000000"  # Number of Packets
    "490c"  # Sender Port
    "4948"  # Receiver Port
    "c0000201"
    + "00" * 12  # Sender Address
    + "c0000202"
    + "00" * 12  # Receiver Address
    + "00" * 16  # SID
    + "0000001b"  # Padding Length
    "e000000100000000"  # Start Time
    "0000000280000000"  # Timeout
    "2e000000"  # Type-P Descriptor: DSCP 46
    "0000000000000000"  # MBZ
)
REQUEST_IPV6 = bytes.fromhex(
    "05060000" + "00" * 8 + "490c0000"
    "20010db8000000000000000000000001"
    "20010db8000000000000000000000002" + "00" * 16 + "00000000" + "00" * 16 + "00000000" + "00" * 8
)
ACCEPT_SESSION = bytes.fromhex("00004949" + SID + "00" * 12)
START_SESSIONS = bytes.fromhex("02" + "00" * 15)
START_ACK = bytes.fromhex("03" + "00" * 15)
STOP_SESSIONS = bytes.fromhex("03010000000000020000000000000000")

GOLDEN = [
    (
        GREETING,
        ServerGreeting(
            Mode.OPEN | Mode.AUTHENTICATED | Mode.ENCRYPTED | Mode.MIXED | Mode.IKEV2_DERIVED,
            bytes.fromhex(CHALLENGE),
            bytes.fromhex(SALT),
            4096,
        ),
    ),
    (
        SET_UP_RESPONSE,
        SetUpResponse(
            Mode.AUTHENTICATED | Mode.IKEV2_DERIVED,
            bytes.fromhex("0123456789abcdeffedcba9876543210") + bytes(64),
            b"\xa5" * 64,
            b"\x5a" * 16,
        ),
    ),
    (SERVER_START, ServerStart(Accept.OK, bytes(range(16, 32)), 0xE000000080000000)),
    (
        REQUEST,
        RequestTwSession(
            sender_port=18700,
            receiver_port=18760,
            sender_address=IPv4Address("192.0.2.1"),
            receiver_address=IPv4Address("192.0.2.2"),
            padding_length=27,
            start_time=0xE000000100000000,
            timeout=0x0000000280000000,
            type_p=46 << 24,
        ),
    ),
    (
        REQUEST_IPV6,
        RequestTwSession(
            sender_port=18700,
            receiver_port=0,
            sender_address=IPv6Address("2001:db8::1"),
            receiver_address=IPv6Address("2001:db8::2"),
            ipvn=6,
        ),
    ),
    (ACCEPT_SESSION, AcceptSession(Accept.OK, 18761, bytes.fromhex(SID))),
    (START_SESSIONS, StartSessions()),
    (START_ACK, StartAck(Accept.NOT_SUPPORTED)),
    (STOP_SESSIONS, StopSessions(2, Accept.FAILURE)),
]
IDS = [
    "Server Greeting",
    "Set-Up-Response",
    "Server-Start",
    "Request-TW-Session",
    "Request-TW-Session IPv6",
    "Accept-Session",
    "Start-Sessions",
    "Start-Ack",
    "Stop-Sessions",
]


@pytest.mark.parametrize(("octets", "message"), GOLDEN, ids=IDS)
@pytest.mark.req("rfc4656-s3.1-20", "rfc4656-s3.1-22", "rfc4656-s3.5-02")
def test_the_octets_of_the_figure(octets: bytes, message: ServerGreeting) -> None:
    assert message.encode() == octets
    assert type(message).parse(octets) == message


@pytest.mark.parametrize(
    ("kind", "octets"),
    [(ServerGreeting, 64), (SetUpResponse, 164), (ServerStart, 48), (RequestTwSession, 96), (AcceptSession, 32),
     (StartSessions, 16), (StartAck, 16), (StopSessions, 16)],
)  # fmt: skip
def test_the_length_of_the_figure_and_no_other(kind: type[ServerGreeting], octets: int) -> None:
    assert octets == kind.OCTETS
    for wrong in (0, octets - 1, octets + 1):
        with pytest.raises(InvalidMessage, match=f"has {wrong} octets, not {octets}"):
            kind.parse(bytes(wrong))


@pytest.mark.req("rfc4656-s3.1-21", "rfc4656-s3.1-23", "rfc4656-s3.5-03")
@pytest.mark.parametrize(
    ("octets", "kind", "mbz"),
    [
        (GREETING, ServerGreeting, [*range(12), *range(52, 64)]),
        (SERVER_START, ServerStart, [*range(15), *range(40, 48)]),
        (REQUEST, RequestTwSession, [*range(20, 32), *range(36, 48), *range(92, 96)]),
        (ACCEPT_SESSION, AcceptSession, [1, *range(24, 32)]),
        (START_SESSIONS, StartSessions, range(1, 16)),
        (START_ACK, StartAck, range(1, 16)),
        (STOP_SESSIONS, StopSessions, [2, 3, *range(8, 16)]),
    ],
)
def test_mbz_fields_are_ignored(octets: bytes, kind: type[ServerGreeting], mbz: list[int]) -> None:
    changed = bytearray(octets)
    for at in mbz:
        changed[at] = 0xFF
    assert kind.parse(bytes(changed)) == kind.parse(octets)


def test_the_mbz_bits_beside_ipvn_are_ignored() -> None:
    assert RequestTwSession.parse(REQUEST[:1] + b"\xf4" + REQUEST[2:]) == RequestTwSession.parse(REQUEST)


def test_zero_addresses_are_none() -> None:
    request = RequestTwSession.parse(REQUEST[:16] + bytes(32) + REQUEST[48:])
    assert request.sender_address is None
    assert request.receiver_address is None


def test_type_p_is_a_dscp_only_when_its_first_two_bits_are_zero() -> None:
    assert RequestTwSession.parse(REQUEST).dscp == 46
    phb = REQUEST[:84] + b"\x40\x00\x00\x00" + REQUEST[88:]
    assert RequestTwSession.parse(phb).dscp is None


@pytest.mark.parametrize("kind", [RequestTwSession, StartSessions, StopSessions])
def test_another_command_number_is_an_error(kind: type[StartSessions]) -> None:
    with pytest.raises(InvalidMessage, match="Command Number 9"):
        kind.parse(b"\x09" + bytes(kind.OCTETS - 1))


def test_a_field_of_the_wrong_size_is_our_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="Challenge has 15 octets, not 16"):
        ServerGreeting(1, bytes(15), bytes(16), 1024).encode()
    with pytest.raises(LocalProtocolError):
        SetUpResponse(2, key_id=b"alice").encode()


@pytest.mark.req("rfc4656-s3.3-02")
def test_an_accept_value_that_is_not_registered_means_1() -> None:
    assert Accept(200) == 200
    assert Accept(200).interpreted is Accept.FAILURE
    assert Accept(200).words == Accept.FAILURE.words
    assert Accept(6).words == "the server cannot find the IKEv2 SA"
    assert [Accept(n).interpreted for n in range(6)] == list(range(6))


def test_figure_3_of_rfc_7717_is_too_short_a_message() -> None:
    with pytest.raises(InvalidMessage, match="112 octets, not 164"):
        SetUpResponse.parse(bytes(4 + 80 + 16 + 12))


def test_the_token_is_not_in_a_repr() -> None:
    assert "a5a5" not in repr(SetUpResponse.parse(SET_UP_RESPONSE))
    assert "\\xa5" not in repr(SetUpResponse.parse(SET_UP_RESPONSE))


def test_the_length_of_a_command_follows_from_its_first_block() -> None:
    assert command_parts(REQUEST[:16]) == (96,)
    assert command_parts(START_SESSIONS) == (16,)
    assert command_parts(STOP_SESSIONS) == (16,)
    assert command_parts(b"\x04" + bytes(15)) == (32,)
    assert command_parts(b"\x01\x04\x00\x00\x00\x00\x00\x03" + bytes(8)) == (96, 48)
    for command in (b"\x07", b"\x09"):
        assert command_parts(command + bytes(11) + b"\0\0\0\x02") == (48,)
        with pytest.raises(InvalidMessage):
            command_parts(command + bytes(11) + b"\0\0\x10\x01")
    with pytest.raises(InvalidMessage):
        command_parts(b"\x01\x04\x00\x00" + (MAXIMUM_SCHEDULE_SLOTS + 1).to_bytes(4, "big") + bytes(8))
    for unknown in (0, 6, 8, 10, 11, 255):
        with pytest.raises(InvalidMessage, match=f"Command Number {unknown} "):
            command_parts(bytes([unknown]) + bytes(15))


def test_modes_as_words_and_letters() -> None:
    assert Mode.of_words("OAE") == 7
    assert Mode.of_words("open") == 1
    assert Mode.of_words("mixed") == 8
    assert Mode.of_word("unauthenticated") is Mode.OPEN
    assert Mode(4 | 128).word == "encrypted"
    assert Mode(0).word == "none"
    assert Mode.of_words("OAEM").strictest is Mode.ENCRYPTED
    for wrong in ("", "X", "OX", "secure"):
        with pytest.raises(ValueError, match=r"O, A, E, M|security mode"):
            Mode.of_words(wrong)
