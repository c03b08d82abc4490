"""100,000 datagrams that a stranger, or a broken path, may send to a Session-Reflector: no one changes anything.

In the keyed modes only what verifies is answered. In every mode a reply is never longer than the packet plus what
the reflector's own format needs, and the session goes on answering the genuine sender afterwards.
"""

from __future__ import annotations

import random

import pytest

from ippm.core.session_reflector import ReflectorPlan, ReflectorState, SessionReflector
from ippm.crypto import SessionKeys
from ippm.crypto_packet import open_reflector, seal_sender
from ippm.wire.test_packet import SenderPacket

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
OTHER = SessionKeys(bytes(range(1, 17)), bytes(range(51, 83)))
PEER = ("192.0.2.1", 18700)
STAMP = 0xE0000000_10000000
COUNTS = {1: 40_000, 2: 30_000, 4: 30_000}
REFLECTOR_OCTETS = {1: 41, 2: 112, 4: 112}
PROTECTED_OCTETS = {2: 16, 4: 32}


def mutated(rng: random.Random, genuine: bytes) -> bytes:
    """A genuine packet with bits flipped, octets lost, added or replaced, or plain noise."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    octets = bytearray(genuine)
    if kind == 1:
        return bytes(octets[: rng.randrange(len(octets))])
    if kind == 2:
        return bytes(octets) + rng.randbytes(rng.randrange(1, 1400))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(octets))
        octets[at] ^= 1 << rng.randrange(8)
    if kind == 3:
        at = rng.randrange(len(octets))
        octets[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
    return bytes(octets)


@pytest.mark.parametrize("mode", [1, 2, 4])
def test_no_datagram_ends_or_confuses_a_session(mode: int) -> None:
    rng = random.Random(mode)
    plan = ReflectorPlan(sid=bytes(16), mode=mode, keys=KEYS, local=("192.0.2.2", 18760), remote=PEER)
    session = SessionReflector(plan, lambda: STAMP + 1, 0x8A01)
    session.start(0)
    genuine = [seal_sender(SenderPacket(n, STAMP, 0x0503, bytes(rng.randrange(30))), mode, KEYS) for n in range(50)]
    genuine.append(seal_sender(SenderPacket(7, STAMP, 0x0503, b""), mode, OTHER))
    answered = 0
    for _ in range(COUNTS[mode]):
        packet = mutated(rng, rng.choice(genuine))
        reply = session.handle(packet, rng.choice((None, 1, 255)), STAMP, PEER)
        if reply is None:
            continue
        answered += 1
        assert len(reply) <= max(len(packet), REFLECTOR_OCTETS[mode])
        if mode in PROTECTED_OCTETS:
            covered = PROTECTED_OCTETS[mode]
            assert any(packet[:covered] == sent[:covered] for sent in genuine[:-1])
    assert session.state is ReflectorState.STARTED
    assert session.counters["received"] == COUNTS[mode]
    assert session.counters["reflected"] == answered
    last = session.handle(seal_sender(SenderPacket(99, STAMP, 0x0503, b""), mode, KEYS), 64, STAMP, PEER)
    assert last is not None
    fields = open_reflector(bytes(last), mode, KEYS)
    assert (fields.sender_sequence_number, fields.sequence_number) == (99, answered)
