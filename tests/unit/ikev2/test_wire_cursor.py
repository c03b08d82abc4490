"""The bounds-checked reader."""

from __future__ import annotations

import struct

import pytest

from ikev2.errors import InvalidSyntax
from ikev2.iana import PayloadType
from ikev2.wire.cursor import Cursor


def test_reads_big_endian_numbers_and_octets_in_order() -> None:
    cursor = Cursor(bytes.fromhex("01 0203 04050607 0809 0a"))
    assert (cursor.uint8(), cursor.uint16(), cursor.uint32()) == (1, 0x0203, 0x04050607)
    assert cursor.octets(2) == b"\x08\x09"
    assert cursor.rest() == b"\x0a"
    cursor.expect_end()


def test_unpack_reads_a_whole_layout_or_nothing() -> None:
    layout = struct.Struct("!BH")
    cursor = Cursor(bytes.fromhex("01 0203 0405"))
    assert cursor.unpack(layout) == (1, 0x0203)
    with pytest.raises(InvalidSyntax) as caught:
        cursor.unpack(layout)
    assert caught.value.offset == 3
    assert cursor.rest() == b"\x04\x05"


def test_unpack_stops_at_the_end_of_a_restriction() -> None:
    inner = Cursor(bytes(8)).restrict_to(2).__enter__()
    with pytest.raises(InvalidSyntax):
        inner.unpack(struct.Struct("!BH"))


@pytest.mark.parametrize("read", ["uint8", "uint16", "uint32"])
def test_a_read_past_the_end_names_the_offset_and_the_payload(read: str) -> None:
    cursor = Cursor(b"abc", start=3, payload=PayloadType.KE)
    with pytest.raises(InvalidSyntax) as caught:
        getattr(cursor, read)()
    assert caught.value.offset == 3
    assert caught.value.payload == PayloadType.KE


def test_a_failed_read_consumes_nothing() -> None:
    cursor = Cursor(b"abc")
    with pytest.raises(InvalidSyntax):
        cursor.uint32()
    assert cursor.octets(3) == b"abc"


@pytest.mark.parametrize("count", [-1, 4])
def test_octets_refuses_a_count_that_is_not_there(count: int) -> None:
    with pytest.raises(InvalidSyntax):
        Cursor(b"abc").octets(count)


def test_expect_end_refuses_leftovers() -> None:
    cursor = Cursor(b"abc")
    cursor.skip(2)
    with pytest.raises(InvalidSyntax, match="1 octets too many at octet 2"):
        cursor.expect_end()


def test_restrict_to_raises_when_less_is_consumed() -> None:
    cursor = Cursor(b"abcd")
    with pytest.raises(InvalidSyntax) as caught, cursor.restrict_to(3) as inner:
        inner.skip(1)
    assert caught.value.offset == 1


def test_restrict_to_raises_when_more_is_wanted_though_octets_follow() -> None:
    cursor = Cursor(b"abcd")
    with pytest.raises(InvalidSyntax), cursor.restrict_to(1) as inner:
        inner.uint16()


@pytest.mark.parametrize("count", [-1, 5])
def test_restrict_to_refuses_a_length_beyond_the_data(count: int) -> None:
    with pytest.raises(InvalidSyntax), Cursor(b"abcd").restrict_to(count):
        pytest.fail("the body must not run")


def test_restrict_to_moves_the_outer_cursor_and_keeps_absolute_offsets() -> None:
    cursor = Cursor(b"abcd", start=1)
    with cursor.restrict_to(2) as inner:
        assert inner.position == 1
        assert inner.rest() == b"bc"
    assert cursor.position == 3
    assert cursor.rest() == b"d"
