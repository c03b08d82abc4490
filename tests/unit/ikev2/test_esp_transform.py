"""The ESP transform, one SA at a time: what passes, and what is dropped under which name."""

from __future__ import annotations

import random

import pytest
from esp_support import SUITES, child_pair, suite, udp_packet
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto.esp import EspCipher, esp_cipher
from ikev2.crypto.integ import integ
from ikev2.errors import LocalProtocolError
from ikev2.iana import EncrId, IntegId
from ikev2.ipsec.backend import DropReason
from ikev2.ipsec.esp import (
    NEXT_HEADER_IPV4,
    NEXT_HEADER_NONE,
    EspDrop,
    InboundEspSa,
    OutboundEspSa,
    inner_octets_that_fit,
)
from ikev2.ipsec.pair import Pair

NAMES = sorted(SUITES)
SPI = 0x12345678


def cipher_of(name: str, *, esn: bool = False) -> EspCipher:
    """A cipher with keys that depend on the name only: two of them open each other's packets."""
    chosen = suite(name, esn=esn)
    rng = random.Random(name)
    key = rng.randbytes(chosen.encr.key_octets + chosen.encr.salt_octets)
    integ_id, integ_key = IntegId.NONE, b""
    if chosen.integ is not None:
        integ_id, integ_key = chosen.integ.id, rng.randbytes(chosen.integ.key_octets)
    return esp_cipher(chosen.encr.id, key, integ_id, integ_key, esn=esn)


def sa_pair(name: str, *, esn: bool = False, sequence: int = 0) -> tuple[OutboundEspSa, InboundEspSa]:
    """Both ends of one SA."""
    out = OutboundEspSa(SPI, cipher_of(name, esn=esn), esn=esn, sequence=sequence)
    inbound = InboundEspSa(SPI, cipher_of(name, esn=esn), esn=esn)
    if sequence:
        inbound.window.update(sequence)
    return out, inbound


def drop_reason(sa: InboundEspSa, packet: bytes) -> DropReason | None:
    """The name under which a packet is dropped; None when it passes."""
    try:
        sa.open(packet)
    except EspDrop as drop:
        return drop.reason
    return None


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=200), next_header=st.sampled_from([1, 4, 6, 17, 255]), esn=st.booleans())
@settings(max_examples=40)
def test_what_is_sealed_opens(name: str, data: bytes, next_header: int, esn: bool) -> None:
    out, inbound = sa_pair(name, esn=esn)
    for number in (1, 2, 3):
        packet = out.seal(data, next_header)
        assert packet[:8] == SPI.to_bytes(4, "big") + number.to_bytes(4, "big")
        assert inbound.open(packet) == (data, next_header)
    assert (out.packets, out.octets) == (inbound.packets, inbound.octets) == (3, 3 * len(data))


@pytest.mark.parametrize("name", NAMES)
def test_ciphertext_ends_on_a_boundary_of_four_octets_and_of_the_block(name: str) -> None:
    out, _ = sa_pair(name)
    for octets in range(64):
        packet = out.seal(bytes(octets), 4)
        body = len(packet) - out.cipher.overhead_octets
        assert body % max(4, out.cipher.alignment) == 0
        assert octets + 2 <= body < octets + 2 + out.cipher.alignment


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_payload_that_fits_fits_and_one_octet_more_does_not(name: str) -> None:
    out, _ = sa_pair(name)
    for outer in (576, 1480, 1481, 1490):
        fits = inner_octets_that_fit(outer, out.cipher)
        assert len(out.seal(bytes(fits), 4)) <= outer < len(out.seal(bytes(fits + 1), 4))


@pytest.mark.parametrize("name", NAMES)
def test_no_iv_comes_twice(name: str) -> None:
    out, _ = sa_pair(name)
    octets = out.cipher.iv_octets
    if octets:
        assert len({out.seal(b"the same", 4)[8 : 8 + octets] for _ in range(600)}) == 600


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_is_refused_and_leaves_the_window_alone(name: str) -> None:
    out, inbound = sa_pair(name)
    packet = out.seal(udp_packet(), NEXT_HEADER_IPV4)
    for bit in range(32, 8 * len(packet)):  # the SPI's own bits lead to another SA, or to none
        changed = bytearray(packet)
        changed[bit // 8] ^= 0x80 >> bit % 8
        assert drop_reason(inbound, bytes(changed)) in (DropReason.INTEGRITY, DropReason.REPLAY), bit
        assert inbound.window.top == 0
    assert inbound.open(packet)[1] == NEXT_HEADER_IPV4


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_of_the_spi_is_refused_by_the_icv_of_this_sa(name: str) -> None:
    out, inbound = sa_pair(name)
    packet = out.seal(udp_packet(), NEXT_HEADER_IPV4)
    for bit in range(32):
        changed = bytearray(packet)
        changed[bit // 8] ^= 0x80 >> bit % 8
        assert drop_reason(inbound, bytes(changed)) is DropReason.INTEGRITY


@pytest.mark.parametrize("name", NAMES)
def test_every_truncated_and_every_longer_packet_is_refused(name: str) -> None:
    out, inbound = sa_pair(name)
    packet = out.seal(udp_packet(), NEXT_HEADER_IPV4)
    for octets in range(len(packet)):
        assert drop_reason(inbound, packet[:octets]) in (DropReason.MALFORMED, DropReason.INTEGRITY)
    for more in range(1, 20):
        assert drop_reason(inbound, packet + bytes(more)) in (DropReason.MALFORMED, DropReason.INTEGRITY)


@pytest.mark.parametrize("name", ["aes128gcm16", "aes128-sha256"])
def test_a_packet_that_comes_again_is_a_replay(name: str) -> None:
    out, inbound = sa_pair(name)
    packets = [out.seal(b"data", 4) for _ in range(70)]
    assert drop_reason(inbound, packets[69]) is None
    assert drop_reason(inbound, packets[69]) is DropReason.REPLAY
    assert drop_reason(inbound, packets[6]) is None  # the left edge of 64
    assert drop_reason(inbound, packets[5]) is DropReason.REPLAY


@pytest.mark.parametrize("name", ["aes128gcm16", "aes128-sha256", "null-sha256"])
def test_sequence_numbers_never_cycle(name: str) -> None:
    out, inbound = sa_pair(name, sequence=0xFFFFFFFE)
    last = out.seal(b"last", 4)
    assert last[4:8] == b"\xff\xff\xff\xff"
    assert out.soft_limit_reached
    for _ in range(3):
        with pytest.raises(EspDrop) as caught:
            out.seal(b"one more", 4)
        assert caught.value.reason is DropReason.SEQUENCE_OVERFLOW
    assert (out.sequence, out.packets) == (0xFFFFFFFF, 1)
    assert inbound.open(last) == (b"last", 4)


def test_the_soft_limit_comes_while_there_is_time() -> None:
    out, _ = sa_pair("aes128gcm16", sequence=0xFFFFFFFF - (1 << 24) - 1)
    out.seal(b"", 4)
    assert not out.soft_limit_reached
    out.seal(b"", 4)
    assert out.soft_limit_reached


@pytest.mark.parametrize("name", NAMES)
def test_extended_sequence_numbers_go_on_past_32_bits_and_are_protected(name: str) -> None:
    out, inbound = sa_pair(name, esn=True, sequence=0xFFFFFFF0)
    packets = [out.seal(bytes([n]), 4) for n in range(32)]
    assert packets[20][4:8] == (5).to_bytes(4, "big")
    for number in (3, 20, 10, 31):  # across the border and back
        assert inbound.open(packets[number]) == (bytes([number]), 4)
    assert inbound.window.top == 0xFFFFFFF0 + 32
    _, elsewhere = sa_pair(name, esn=True)
    assert drop_reason(elsewhere, packets[20]) is DropReason.INTEGRITY  # taken for number 5 of subspace 0


def with_trailer(plaintext: bytes) -> tuple[bytes, InboundEspSa]:
    """A packet with the plaintext as it is, trailer included, and the SA that opens it."""
    cipher = cipher_of("aes128gcm16")
    header = SPI.to_bytes(4, "big") + (1).to_bytes(4, "big")
    return cipher.seal(header, 1, plaintext), InboundEspSa(SPI, cipher_of("aes128gcm16"))


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        (bytes.fromhex("0102 0204"), None),
        (bytes.fromhex("01020304 0202 0204"), DropReason.PADDING),
        (bytes.fromhex("00000000 0000 0204"), DropReason.PADDING),
        (bytes.fromhex("0102 0304"), DropReason.PADDING),
        (bytes.fromhex("0102 ff04"), DropReason.PADDING),
    ],
    ids=["right", "one-off", "zeros", "longer-than-the-packet", "far-longer"],
)
def test_padding_is_looked_at(plaintext: bytes, reason: DropReason | None) -> None:
    packet, inbound = with_trailer(plaintext)
    assert drop_reason(inbound, packet) is reason


def test_up_to_255_octets_of_padding_are_taken() -> None:
    packet, inbound = with_trailer(b"abc" + bytes(range(1, 256)) + b"\xff\x04")
    assert inbound.open(packet) == (b"abc", 4)


def test_an_authentic_packet_of_broken_blocks_is_dropped_and_spoils_no_other() -> None:
    """CBC runs one context per direction: half a block in it would shift all that comes."""
    of_a, of_b = child_pair("aes128-sha256")
    out, inbound = Pair.of(of_a).outbound, Pair.of(of_b).inbound
    good = [out.seal(b"data", 4) for _ in range(2)]
    assert of_a.integ_key_out is not None
    signed = good[0][:-16] + bytes(3)
    broken = signed + integ(IntegId.HMAC_SHA2_256_128).tag(of_a.integ_key_out, signed)
    assert drop_reason(inbound, broken) is DropReason.MALFORMED
    assert [inbound.open(packet) for packet in good] == [(b"data", 4)] * 2


def test_a_dummy_packet_is_dropped_by_its_next_header() -> None:
    out, inbound = sa_pair("aes128gcm16")
    assert drop_reason(inbound, out.seal(bytes(40), NEXT_HEADER_NONE)) is DropReason.DUMMY
    assert inbound.packets == 0


def test_both_directions_of_a_pair_use_their_own_keys() -> None:
    of_a, of_b = child_pair("aes128gcm16")
    a, b = Pair.of(of_a), Pair.of(of_b)
    packet = a.outbound.seal(b"data", 4)
    assert b.inbound.open(packet) == (b"data", 4)
    assert drop_reason(a.inbound, packet) is DropReason.INTEGRITY


@pytest.mark.parametrize(
    ("encr", "key", "integ", "integ_key"),
    [
        (EncrId.AES_GCM_16, bytes(19), None, b""),
        (EncrId.AES_GCM_16, bytes(20), IntegId.HMAC_SHA2_256_128, bytes(32)),
        (EncrId.CHACHA20_POLY1305, bytes(35), None, b""),
        (EncrId.AES_CBC, bytes(16), None, b""),
        (EncrId.AES_CBC, bytes(16), IntegId.HMAC_SHA2_256_128, bytes(31)),
        (EncrId.AES_CBC, bytes(15), IntegId.HMAC_SHA2_256_128, bytes(32)),
        (EncrId.NULL, b"", IntegId.NONE, b""),
        (EncrId.TRIPLE_DES, bytes(24), IntegId.HMAC_SHA2_256_128, bytes(32)),
        (EncrId(999), bytes(16), IntegId.HMAC_SHA2_256_128, bytes(32)),
    ],
)
def test_wrong_algorithms_and_key_lengths_are_refused(
    encr: EncrId, key: bytes, integ: IntegId | None, integ_key: bytes
) -> None:
    with pytest.raises(LocalProtocolError):
        esp_cipher(encr, key, integ, integ_key)


@pytest.mark.parametrize("name", NAMES)
def test_no_key_shows_in_a_repr(name: str) -> None:
    of_a, _ = child_pair(name)
    shown = repr(Pair.of(of_a))
    for key in (of_a.encr_key_in, of_a.encr_key_out, of_a.integ_key_in, of_a.integ_key_out):
        if key is not None and len(key):
            assert key.octets.hex() not in shown
            assert repr(key.octets)[2:-1] not in shown
