"""Layouts and protection of test packets, octet by octet. RFC 4656 section 4.1.2, RFC 5357 section 4.2.1."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ippm.crypto import SessionKeys
from ippm.crypto_packet import (
    TestProtection,
    open_reflector,
    open_sender,
    seal_reflector,
    seal_sender,
)
from ippm.errors import IntegrityError, InvalidMessage, LocalProtocolError
from ippm.iana import Mode
from ippm.wire.test_packet import PacketMode, ReflectorPacket, SenderPacket, symmetric_padding_octets

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
SENDER = SenderPacket(0x01020304, 0xE1E2E3E4_F1F2F3F4, 0x8A05, b"padding")
REFLECTOR = ReflectorPacket(
    0x0A0B0C0D,
    0xE1E2E3E4_F1F2F3F4,
    0x8A05,
    0xC1C2C3C4_D1D2D3D4,
    0x01020304,
    0xA1A2A3A4_B1B2B3B4,
    0x0706,
    0xFE,
    b"padding",
)
KEYED = [Mode.AUTHENTICATED, Mode.ENCRYPTED]
ALL = [Mode.OPEN, *KEYED]


def ecb(block: bytes) -> bytes:
    return Cipher(algorithms.AES(KEYS.aes), modes.ECB()).encryptor().update(block)


def cbc(clear: bytes) -> bytes:
    return Cipher(algorithms.AES(KEYS.aes), modes.CBC(bytes(16))).encryptor().update(clear)


def tag(clear: bytes) -> bytes:
    return hmac.digest(KEYS.hmac, clear, "sha1")[:16]


SENDER_CLEAR = bytes.fromhex("01020304" + "00" * 12 + "e1e2e3e4f1f2f3f4" + "8a05" + "00" * 6)
REFLECTOR_CLEAR = bytes.fromhex(
    "0a0b0c0d" + "00" * 12  # Sequence Number, MBZ
    + "e1e2e3e4f1f2f3f4" + "8a05" + "00" * 6  # Timestamp, Error Estimate, MBZ
    + "c1c2c3c4d1d2d3d4" + "00" * 8  # Receive Timestamp, MBZ
    + "01020304" + "00" * 12  # Sender Sequence Number, MBZ
    + "a1a2a3a4b1b2b3b4" + "0706" + "00" * 6  # Sender Timestamp, Sender Error Estimate, MBZ
    + "fe" + "00" * 15  # Sender TTL, MBZ
)  # fmt: skip


MBZ_SENDER = [*range(4, 16), *range(26, 32)]
MBZ_REFLECTOR = [*MBZ_SENDER, *range(40, 48), *range(52, 64), *range(74, 80), *range(81, 96)]


@pytest.mark.req("rfc5357-s4.2.1-12")
def test_unauthenticated_packets_octet_by_octet() -> None:
    assert seal_sender(SENDER, Mode.OPEN, None).hex() == "01020304e1e2e3e4f1f2f3f48a05" + b"padding".hex()
    assert seal_reflector(REFLECTOR, Mode.OPEN, None).hex() == (
        "0a0b0c0de1e2e3e4f1f2f3f48a050000c1c2c3c4d1d2d3d401020304a1a2a3a4b1b2b3b407060000fe" + b"padding".hex()
    )


@pytest.mark.req("rfc5357-s4.2-04", "rfc5357-s4.2.1-04", "rfc5357-s4.2.1-08", "rfc5357-s4.2.1-09")
def test_authenticated_packets_octet_by_octet() -> None:
    first = SENDER_CLEAR[:16]
    assert seal_sender(SENDER, Mode.AUTHENTICATED, KEYS) == (
        ecb(first) + SENDER_CLEAR[16:] + tag(first) + b"padding"
    )
    first = REFLECTOR_CLEAR[:16]
    assert seal_reflector(REFLECTOR, Mode.AUTHENTICATED, KEYS) == (
        ecb(first) + REFLECTOR_CLEAR[16:] + tag(first) + b"padding"
    )


@pytest.mark.req("rfc5357-s4.2-04", "rfc5357-s4.2.1-04", "rfc5357-s4.2.1-08", "rfc5357-s4.2.1-09")
def test_encrypted_packets_octet_by_octet() -> None:
    assert seal_sender(SENDER, Mode.ENCRYPTED, KEYS) == cbc(SENDER_CLEAR) + tag(SENDER_CLEAR) + b"padding"
    assert seal_reflector(REFLECTOR, Mode.ENCRYPTED, KEYS) == (
        cbc(REFLECTOR_CLEAR) + tag(REFLECTOR_CLEAR) + b"padding"
    )


def test_lengths_and_padding_are_those_of_the_figures() -> None:
    for mode, sender, reflector, padding in ((1, 14, 41, 27), (2, 48, 112, 64), (4, 48, 112, 64), (8, 14, 41, 27)):
        protection = TestProtection.of(mode, KEYS)
        assert (protection.sender_octets, protection.reflector_octets) == (sender, reflector)
        assert symmetric_padding_octets(mode) == padding == reflector - sender
    assert symmetric_padding_octets(2, 56) == 56
    with pytest.raises(ValueError, match="tw_auth_pad"):
        symmetric_padding_octets(2, 60)
    assert PacketMode.of(Mode.ENCRYPTED | Mode.IKEV2_DERIVED) is PacketMode.ENCRYPTED
    assert PacketMode.of(Mode.MIXED | Mode.IKEV2_DERIVED) is PacketMode.OPEN


@pytest.mark.parametrize("mode", ALL)
def test_the_readable_codec_reads_what_it_wrote(mode: Mode) -> None:
    sender = open_sender(seal_sender(SENDER, mode, KEYS), mode, KEYS)
    assert (sender.sequence_number, sender.timestamp, sender.error_estimate, sender.padding) == (
        SENDER.sequence_number,
        SENDER.timestamp,
        SENDER.error_estimate,
        SENDER.padding,
    )
    reflector = open_reflector(seal_reflector(REFLECTOR, mode, KEYS), mode, KEYS)
    assert reflector._fields() == REFLECTOR._fields()
    assert reflector.padding == b"padding"


@pytest.mark.parametrize("mode", ALL)
def test_the_contexts_live_on_from_packet_to_packet(mode: Mode) -> None:
    protection = TestProtection.of(mode, KEYS)
    buffer = bytearray(112)
    for sequence in (0, 1, 2, 2, 1, 0xFFFFFFFF):
        packet = SenderPacket(sequence, 77 + sequence, 0x8101)
        protection.pack_sender_into(buffer, sequence, 77 + sequence, 0x8101)
        assert bytes(buffer[: protection.sender_octets]) == seal_sender(packet, mode, KEYS)
        assert protection.unpack_sender(memoryview(buffer)) == (sequence, 77 + sequence, 0x8101)


@pytest.mark.req("rfc5357-s4.2.1-14")
@pytest.mark.parametrize("mode", KEYED)
def test_the_key_schedule_is_set_up_once_a_session(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    protection = TestProtection.of(mode, KEYS)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a new cipher or HMAC for a packet")

    monkeypatch.setattr("ippm.crypto_packet.Cipher", refused)
    monkeypatch.setattr("ippm.crypto_packet.HMAC", refused)
    buffer = bytearray(112)
    for sequence in range(3):
        protection.pack_sender_into(buffer, sequence, 1, 0x0101)
        protection.unpack_sender(buffer)
        protection.pack_reflector_into(buffer, sequence, 1, 0x0101, 1, (1, 1, 1), 255)
        protection.unpack_reflector(buffer)


@pytest.mark.req("rfc5357-s2-02")
@pytest.mark.parametrize("mode", KEYED)
def test_mbz_octets_and_the_z_bit_are_ignored_when_read(mode: Mode) -> None:
    """A peer that sets them gets the same treatment, as long as its HMAC is right."""
    covered = 16 if mode is Mode.AUTHENTICATED else None
    encrypt = ecb if covered else cbc
    for clear, mbz in ((SENDER_CLEAR, MBZ_SENDER), (REFLECTOR_CLEAR, MBZ_REFLECTOR)):
        noisy = bytearray(clear)
        for at in mbz:
            noisy[at] = 0xA5
        noisy[24] |= 0x40  # Z
        part = bytes(noisy[:covered])
        packet = encrypt(part) + noisy[len(part) :] + tag(part)
        protection = TestProtection.of(mode, KEYS)
        if clear is SENDER_CLEAR:
            assert protection.unpack_sender(packet) == (0x01020304, 0xE1E2E3E4_F1F2F3F4, 0xCA05)
            assert open_sender(packet, mode, KEYS).timestamp == SENDER.timestamp
        else:
            fields = protection.unpack_reflector(packet)
            assert fields[0] == REFLECTOR.sequence_number
            assert fields[3:] == protection.unpack_reflector(seal_reflector(REFLECTOR, mode, KEYS))[3:]


@pytest.mark.req("rfc4656-s4.1.2-06")
@pytest.mark.parametrize("mode", ALL)
def test_a_zero_multiplier_makes_a_packet_corrupt(mode: Mode) -> None:
    protection = TestProtection.of(mode, KEYS)
    sender = seal_sender(SenderPacket(1, 2, 0x8A00), mode, KEYS)
    reflector = seal_reflector(ReflectorPacket(1, 2, 0x8A00, 3, 4, 5, 0x0101, 255), mode, KEYS)
    for read in (
        lambda: protection.unpack_sender(sender),
        lambda: open_sender(sender, mode, KEYS),
        lambda: protection.unpack_reflector(reflector),
        lambda: open_reflector(reflector, mode, KEYS),
    ):
        with pytest.raises(InvalidMessage, match="Multiplier"):
            read()


@pytest.mark.parametrize("mode", ALL)
def test_every_short_packet_is_refused(mode: Mode) -> None:
    protection = TestProtection.of(mode, KEYS)
    sender, reflector = (
        seal_sender(SenderPacket(1, 2, 3), mode, KEYS),
        seal_reflector(ReflectorPacket(1, 2, 3, 4, 5, 6, 7, 8), mode, KEYS),
    )
    for octets in range(len(sender)):
        with pytest.raises(InvalidMessage, match="too short"):
            protection.unpack_sender(sender[:octets])
        with pytest.raises(InvalidMessage, match="too short"):
            open_sender(sender[:octets], mode, KEYS)
    for octets in range(len(reflector)):
        with pytest.raises(InvalidMessage, match="too short"):
            protection.unpack_reflector(reflector[:octets])
        with pytest.raises(InvalidMessage, match="too short"):
            open_reflector(reflector[:octets], mode, KEYS)


@pytest.mark.parametrize("mode", KEYED)
def test_keys_are_needed_and_not_shown(mode: Mode) -> None:
    with pytest.raises(LocalProtocolError):
        TestProtection.of(mode, None)
    with pytest.raises(LocalProtocolError):
        seal_sender(SENDER, mode, None)
    other = SessionKeys(KEYS.aes, bytes(32))
    with pytest.raises(IntegrityError):
        TestProtection.of(mode, other).unpack_sender(seal_sender(SENDER, mode, KEYS))
    assert KEYS.aes.hex() not in repr(TestProtection.of(mode, KEYS))


def test_in_authenticated_mode_a_reply_can_be_made_from_a_request() -> None:
    """What the mode does not give: both ways share the keys and the HMAC covers the number alone. See the notes."""
    request = seal_sender(SenderPacket(5, 0x1111, 0x0101), Mode.AUTHENTICATED, KEYS)
    genuine = seal_reflector(ReflectorPacket(5, 0x2222, 0x0101, 3, 5, 0x1111, 1, 255), Mode.AUTHENTICATED, KEYS)
    forged = request[:16] + genuine[16:96] + request[32:48]
    assert open_reflector(forged, Mode.AUTHENTICATED, KEYS).sender_sequence_number == 5
    assert forged == genuine
