"""Test packets, whatever is in them: round trip, the fast codec equal to the readable one, flipped bits refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ippm.crypto import SessionKeys
from ippm.crypto_packet import TestProtection, open_reflector, open_sender, seal_reflector, seal_sender
from ippm.errors import IntegrityError, InvalidMessage
from ippm.iana import Mode
from ippm.wire.test_packet import ReflectorPacket, SenderPacket

u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
error = u16.filter(lambda value: value & 0xFF)
keys = st.builds(SessionKeys, aes=st.binary(min_size=16, max_size=16), hmac=st.binary(min_size=32, max_size=32))
padding = st.binary(max_size=80)
senders = st.builds(
    SenderPacket, sequence_number=u32, timestamp=u64, error_estimate=error, padding=padding, hmac=st.just(bytes(16))
)
reflectors = st.builds(
    ReflectorPacket,
    sequence_number=u32,
    timestamp=u64,
    error_estimate=error,
    receive_timestamp=u64,
    sender_sequence_number=u32,
    sender_timestamp=u64,
    sender_error_estimate=u16,
    sender_ttl=u8,
    padding=padding,
    hmac=st.just(bytes(16)),
)
modes = st.sampled_from([1, 2, 4])


@given(st.lists(senders, min_size=1, max_size=4), modes, keys)
@settings(max_examples=100, deadline=None)
def test_sender_packets_round_trip_and_both_codecs_agree(
    packets: list[SenderPacket], mode: int, keys: SessionKeys
) -> None:
    protection = TestProtection.of(mode, keys)
    for packet in packets:
        fields = (packet.sequence_number, packet.timestamp, packet.error_estimate)
        sealed = seal_sender(packet, mode, keys)
        buffer = bytearray(protection.sender_octets) + packet.padding
        buffer[: protection.sender_octets] = b"\xff" * protection.sender_octets
        protection.pack_sender_into(buffer, *fields)
        assert bytes(buffer) == sealed
        assert protection.unpack_sender(sealed) == fields
        opened = open_sender(sealed, mode, keys)
        assert (opened.sequence_number, opened.timestamp, opened.error_estimate) == fields
        assert opened.padding == packet.padding


@given(st.lists(reflectors, min_size=1, max_size=4), modes, keys, st.none() | st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_reflector_packets_round_trip_and_both_codecs_agree(
    packets: list[ReflectorPacket], mode: int, keys: SessionKeys, dscp_ecn: int | None
) -> None:
    mode |= 0 if dscp_ecn is None else Mode.DSCP_ECN_MONITORING
    protection = TestProtection.of(mode, keys)
    for plain in packets:
        packet = replace(plain, sender_dscp_ecn=dscp_ecn)
        fields = packet._fields()
        sealed = seal_reflector(packet, mode, keys)
        buffer = bytearray(b"\xff" * protection.reflector_octets) + packet.padding
        protection.pack_reflector_into(buffer, *fields[:4], fields[4:7], fields[7], dscp_ecn or 0)  # type: ignore[arg-type]
        assert bytes(buffer) == sealed
        assert protection.unpack_reflector(sealed) == (*fields, dscp_ecn or 0)
        opened = open_reflector(sealed, mode, keys)
        assert (opened._fields(), opened.sender_dscp_ecn) == (fields, dscp_ecn)
        assert opened.padding == packet.padding


def protected(mode: int, hmac_at: int) -> list[int]:
    """The octets in which a flipped bit must be noticed: what is covered, and the HMAC itself."""
    return [*range(16 if mode == 2 else hmac_at), *range(hmac_at, hmac_at + 16)]


@pytest.mark.req("rfc4656-s4.2-07c", "rfc4656-s4.2-01")
@given(senders, st.sampled_from([2, 4]), keys, st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_in_a_protected_octet_of_a_request_is_refused(
    packet: SenderPacket, mode: int, keys: SessionKeys, data: st.DataObject
) -> None:
    sealed = bytearray(seal_sender(packet, mode, keys))
    sealed[data.draw(st.sampled_from(protected(mode, 32)))] ^= 1 << data.draw(st.integers(0, 7))
    protection = TestProtection.of(mode, keys)
    with pytest.raises(IntegrityError):
        protection.unpack_sender(sealed)
    with pytest.raises(IntegrityError):
        open_sender(bytes(sealed), mode, keys)
    good = seal_sender(packet, mode, keys)
    assert protection.unpack_sender(good)[0] == packet.sequence_number


@given(reflectors, st.sampled_from([2, 4]), keys, st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_in_a_protected_octet_of_a_reply_is_refused(
    packet: ReflectorPacket, mode: int, keys: SessionKeys, data: st.DataObject
) -> None:
    sealed = bytearray(seal_reflector(packet, mode, keys))
    sealed[data.draw(st.sampled_from(protected(mode, 96)))] ^= 1 << data.draw(st.integers(0, 7))
    protection = TestProtection.of(mode, keys)
    with pytest.raises(IntegrityError):
        protection.unpack_reflector(sealed)
    good = seal_reflector(packet, mode, keys)
    assert protection.unpack_reflector(good)[4] == packet.sender_sequence_number


@given(reflectors, keys, st.integers(16, 95))
@settings(max_examples=50, deadline=None)
def test_what_authenticated_mode_does_not_cover(packet: ReflectorPacket, keys: SessionKeys, at: int) -> None:
    """Octets 16 to 95 of a reply: the stamps, the Error Estimates, the sender's fields, the TTL."""
    sealed = bytearray(seal_reflector(packet, 2, keys))
    sealed[at] ^= 0x80
    try:
        fields = TestProtection.of(2, keys).unpack_reflector(sealed)
    except InvalidMessage:
        assert at == 25  # a Multiplier that became zero
    else:
        assert fields[0] == packet.sequence_number


@given(st.binary(max_size=150), modes, keys)
@settings(max_examples=150, deadline=None)
def test_octets_from_the_network_raise_protocol_errors_only(octets: bytes, mode: int, keys: SessionKeys) -> None:
    protection = TestProtection.of(mode, keys)
    for unpack in (protection.unpack_sender, protection.unpack_reflector):
        try:
            unpack(octets)
        except (InvalidMessage, IntegrityError):
            continue
