"""Fragments: cut, put together in any order, and what does not fit together."""

from __future__ import annotations

import random

import pytest
from esp_support import udp_packet
from hypothesis import given
from hypothesis import strategies as st

from ikev2.ipsec import ipv6
from ikev2.ipsec.fragments import Reassembler, fragments
from ikev2.ipsec.ipv4 import MalformedPacket, build_header, ones_complement_sum


@given(st.integers(1, 5000), st.integers(28, 1600), st.randoms(use_true_random=False))
def test_what_is_cut_is_put_together_in_any_order(octets: int, mtu: int, rng: random.Random) -> None:
    packet = udp_packet(data=rng.randbytes(octets))
    pieces = fragments(packet, mtu)
    assert all(len(piece) <= mtu and ones_complement_sum(piece[:20]) == 0xFFFF for piece in pieces)
    rng.shuffle(pieces)
    reassembler = Reassembler()
    assert [reassembler.add(piece) for piece in pieces] == [None] * (len(pieces) - 1) + [packet]


def test_fragments_are_cut_again() -> None:
    packet = udp_packet(data=bytes(range(256)) * 10)
    twice = [small for large in fragments(packet, 1000) for small in fragments(large, 300)]
    reassembler = Reassembler()
    assert [reassembler.add(piece) for piece in twice][-1] == packet


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40), st.booleans()), max_size=12))
def test_pieces_that_overlap_make_no_datagram(pieces: list[tuple[int, int, bool]]) -> None:
    reassembler = Reassembler()
    covered: set[int] = set()
    for offset, octets, more in pieces:
        field = offset | (0x2000 if more else 0)
        packet = udp_packet(data=bytes(40), flags=field)[: 20 + octets]
        packet = packet[:2] + len(packet).to_bytes(2, "big") + packet[4:]
        span = set(range(8 * offset, 8 * offset + octets))
        try:
            whole = reassembler.add(packet)
        except MalformedPacket:
            covered.clear()
            continue
        if whole is not None:
            assert not span & covered
            assert covered | span == set(range(len(whole) - 20))
            covered.clear()
        else:
            covered |= span


def test_only_so_many_unfinished_datagrams_are_kept() -> None:
    reassembler = Reassembler(limit=4)
    pieces = [fragments(udp_packet(source=f"192.0.2.{n}", data=bytes(112)), 76) for n in range(1, 6)]
    for first, _, _ in pieces:
        assert reassembler.add(first) is None
    assert reassembler.given_up == 1
    assert reassembler.add(pieces[4][1]) is None
    assert reassembler.add(pieces[4][2]) is not None
    assert [reassembler.add(piece) for piece in pieces[0][1:]] == [None, None]


def fragment(family: int, options: int, at: int, octets: int, *, more: bool) -> bytes:
    """One fragment of `octets` at `at`, behind so many octets of options or extension headers."""
    if family == 4:
        header = bytearray(build_header(bytes(4), bytes(4), 17, options + octets, flags=at // 8 | more << 13))
        header[0] += options // 4
        return bytes(header) + bytes((1,)) * options + bytes(octets)
    ahead = bytes((ipv6.FRAGMENT, options // 8 - 1, 1, options - 4)) + bytes(options - 4) if options else b""
    head = ipv6.build_header(bytes(16), bytes(16), 0 if ahead else ipv6.FRAGMENT, len(ahead) + 8 + octets)
    return head + ahead + bytes((17, 0)) + (at | more).to_bytes(2, "big") + bytes(4) + bytes(octets)


@pytest.mark.parametrize("family", [4, 6])
def test_a_first_header_longer_than_the_last_makes_no_datagram_that_is_too_long(family: int) -> None:
    """Each fragment is within bounds; with the first one's header the whole is not."""
    reassembler = Reassembler()
    pieces = [fragment(family, 40, 0, 32000, more=True), fragment(family, 0, 32000, 32000, more=True)]
    assert [reassembler.add(piece) for piece in pieces] == [None, None]
    last = 65535 - (20 if family == 4 else 40) - 64000
    with pytest.raises(MalformedPacket):
        reassembler.add(fragment(family, 0, 64000, last, more=False))
    with pytest.raises(MalformedPacket):
        reassembler.add(pieces[0])


@pytest.mark.parametrize("family", [4, 6])
def test_of_a_datagram_whose_fragments_overlap_nothing_passes_that_comes_later(family: int) -> None:
    """The pieces that follow would make a whole one. RFC 8200 section 4.5, RFC 5722."""
    reassembler = Reassembler()
    first, last = fragment(family, 0, 0, 64, more=True), fragment(family, 0, 64, 8, more=False)
    assert reassembler.add(first) is None
    with pytest.raises(MalformedPacket):
        reassembler.add(fragment(family, 0, 56, 24, more=True))
    for piece in (first, last):
        with pytest.raises(MalformedPacket):
            reassembler.add(piece)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("at", "octets"), [(0, 16), (8, 8), (0, 8)], ids=["longer", "within", "shorter"])
def test_pieces_that_overlap_are_refused_before_the_datagram_is_complete(family: int, at: int, octets: int) -> None:
    reassembler = Reassembler()
    assert reassembler.add(fragment(family, 0, 0, 24, more=True)) is None
    with pytest.raises(MalformedPacket):
        reassembler.add(fragment(family, 0, at, octets, more=True))


@pytest.mark.parametrize("family", [4, 6])
def test_two_ends_of_one_datagram_are_refused(family: int) -> None:
    reassembler = Reassembler()
    assert reassembler.add(fragment(family, 0, 64, 8, more=False)) is None
    with pytest.raises(MalformedPacket):
        reassembler.add(fragment(family, 0, 32, 8, more=False))


@pytest.mark.parametrize("family", [4, 6])
def test_a_fragment_that_came_twice_is_one(family: int) -> None:
    reassembler = Reassembler()
    first, last = fragment(family, 0, 0, 64, more=True), fragment(family, 0, 64, 8, more=False)
    assert [reassembler.add(piece) for piece in (last, first)][1] is not None
    assert [reassembler.add(piece) for piece in (first, first)] == [None, None]
    assert reassembler.add(last) is not None
    assert [reassembler.add(piece) for piece in (last, last)] == [None, None]
    assert reassembler.add(first) is not None


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_unfinished_after_a_minute_does_not_meet_a_later_datagram_of_its_number(family: int) -> None:
    now = [0.0]
    reassembler = Reassembler(clock=lambda: now[0])
    first, last = fragment(family, 0, 0, 64, more=True), fragment(family, 0, 64, 8, more=False)
    assert reassembler.add(first) is None
    now[0] = 59.0
    assert reassembler.add(last) is not None
    assert reassembler.add(first) is None
    now[0] = 120.0
    assert reassembler.add(last) is None
    assert reassembler.given_up == 1


def test_an_ipv6_packet_whole_in_one_fragment_has_nothing_to_do_with_others_of_its_number() -> None:
    """RFC 8200 section 4.5, RFC 6946 section 4."""
    reassembler = Reassembler()
    first, last = fragment(6, 0, 0, 64, more=True), fragment(6, 0, 64, 8, more=False)
    assert reassembler.add(first) is None
    alone = reassembler.add(fragment(6, 0, 0, 16, more=False))
    assert alone == ipv6.build_header(bytes(16), bytes(16), 17, 16) + bytes(16)
    whole = reassembler.add(last)
    assert whole is not None
    assert len(whole) == 40 + 72


def test_later_fragments_have_the_options_that_are_to_be_copied() -> None:
    """RFC 791 section 3.1: Router Alert has the copied flag, Record Route has not."""
    record_route, router_alert = bytes.fromhex("07 07 04 00000000 01"), bytes.fromhex("94 04 0000")
    header = bytearray(build_header(bytes(4), bytes(4), 17, 12 + 600))
    header[0] += 3
    packet = bytes(header) + record_route + router_alert + bytes(range(200)) * 3
    pieces = fragments(packet, 232)
    assert [piece[20 : 4 * (piece[0] & 15)] for piece in pieces] == [
        record_route + router_alert,
        router_alert,
        router_alert,
    ]
    assert all(ones_complement_sum(piece[: 4 * (piece[0] & 15)]) == 0xFFFF for piece in pieces)
    reassembler = Reassembler()
    whole = [reassembler.add(piece) for piece in pieces][-1]
    assert whole is not None
    assert whole[20:] == packet[20:]
    assert fragments(pieces[1], 100)[1][20:24] == router_alert


def test_an_option_that_leads_out_of_the_header_is_malformed() -> None:
    header = bytearray(build_header(bytes(4), bytes(4), 17, 4 + 600))
    header[0] += 1
    with pytest.raises(MalformedPacket):
        fragments(bytes(header) + bytes.fromhex("07050400") + bytes(600), 232)


def test_an_mtu_without_room_is_refused() -> None:
    with pytest.raises(MalformedPacket):
        fragments(udp_packet(), 27)
