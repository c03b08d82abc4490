"""The fake peer imports nothing of this project, and what it makes is what the second decoder reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from decoder import fake_peer
from decoder.fake_peer import Opener, Sealer, reflector_packet, sender_packet
from decoder.twamp_decoder import decode_test

KEYS = bytes(range(16)), bytes(range(32))
STAMP = 0xE000000112345678


def test_imports_nothing_of_this_project() -> None:
    tree = ast.parse(Path(fake_peer.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names <= {"__future__", "contextlib", "decoder", "socket", "typing"}


@pytest.mark.parametrize("mode", [1, 2, 4])
def test_packets_are_read_by_the_second_decoder(mode: int) -> None:
    fields = decode_test(sender_packet(mode, KEYS, 7, STAMP, padding=b"pad"), KEYS, "sender", mode)
    assert (fields["sequence_number"], fields["timestamp"], fields["padding"]) == (7, STAMP, b"pad")
    packet = reflector_packet(mode, KEYS, 3, STAMP + 2, STAMP + 1, (7, STAMP, 0x8A20), ttl=9, padding=b"pad")
    fields = decode_test(packet, KEYS, "reflector", mode)
    assert (fields["sequence_number"], fields["timestamp"], fields["receive_timestamp"]) == (
        3,
        STAMP + 2,
        STAMP + 1,
    )
    assert (fields["sender_sequence_number"], fields["sender_timestamp"]) == (7, STAMP)
    assert (fields["sender_ttl"], fields["padding"]) == (9, b"pad")


@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "keyed"])
def test_a_stream_goes_there_and_back(keys: tuple[bytes, bytes] | None) -> None:
    sealer, opener = Sealer(keys, bytes(16)), Opener(keys, bytes(16))
    for clear in (b"a" * 32, b"b" * 16, b""):
        octets = sealer.message(clear)
        assert opener.blocks(octets[:-16]) == clear
        opener.check(octets[-16:])
    wrong = sealer.message(b"c" * 16, hmac=b"x" * 16)
    opener.blocks(wrong[:-16])
    if keys:
        with pytest.raises(AssertionError):
            opener.check(wrong[-16:])
