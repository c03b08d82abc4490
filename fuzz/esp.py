"""ESP in userspace whose peer is the fuzzer: it has the keys and seals anything; the host sends anything, too.

The first octet chooses the Child SA, then come steps, each with its length: a payload that the peer seals, octets that
came as they are, a packet that the host sends. After each step

- what is handed to the host is a whole IP packet of its version and length, between addresses of the selectors;
- what is not is counted under a name, once;
- what is sent opens at the peer, and holds what was given.

RFC 4303 section 3, RFC 4301 section 5.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "unit" / "ikev2"))

from esp_support import child_pair, everything, udp_packet

from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.types import Mode
from ikev2.ipsec.esp import EspDrop
from ikev2.ipsec.pair import Pair
from ikev2.ipsec.sad import Engine
from ikev2.wire.payloads.ts import TrafficSelector

__all__ = ["children", "esp_engine", "udp_packet"]

ENCAP = UdpEncap(4500, 4500)
STEPS_MAX = 32
FOUR, SIX = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")


@functools.cache
def children() -> tuple[tuple[ChildSaParameters, ChildSaParameters], ...]:
    """Both ends of each kind of Child SA."""
    nets = everything("10.1.0.0/16"), everything("10.2.0.0/16")
    nets6 = everything("2001:db8:1::/48"), everything("2001:db8:2::/48")
    udp = tuple((TrafficSelector.from_network(host, 17, 7, 7),) for host in FOUR)
    a, b = child_pair("null-sha256", mode=Mode.TRANSPORT, a=FOUR[0], b=FOUR[1], encap=ENCAP)
    behind_nat = replace(a, nat_original_local="198.51.100.7"), replace(b, nat_original_remote="198.51.100.7")
    return (
        child_pair("aes128gcm16", a=FOUR[0], b=FOUR[1]),
        child_pair("aes128-sha256", a=FOUR[0], b=FOUR[1], ts_a=nets[0], ts_b=nets[1], tfc_padding=300),
        child_pair("aes128gcm16", a=FOUR[0], b=FOUR[1], ts_a=udp[0], ts_b=udp[1], encap=ENCAP),
        child_pair("aes128gcm16", a=SIX[0], b=SIX[1], ts_a=nets6[0], ts_b=nets6[1], esn=True, replay_window=0),
        child_pair("aes128gcm16", a=FOUR[0], b=FOUR[1], ts_a=nets6[0], ts_b=nets6[1]),
        child_pair("chacha20poly1305", mode=Mode.TRANSPORT, a=FOUR[0], b=FOUR[1], ts_a=udp[0], ts_b=udp[1]),
        child_pair("aes128gcm16", mode=Mode.TRANSPORT, a=SIX[0], b=SIX[1]),
        behind_nat,
    )


def esp_engine(data: bytes) -> None:
    """A Child SA, then steps."""
    if not data:
        return
    ours, theirs = children()[data[0] % len(children())]
    engine, peer = Engine(), Pair.of(theirs)
    engine.install(ours)
    at = 1
    for _ in range(STEPS_MAX):
        if at + 3 > len(data):
            break
        what, octets = data[at], int.from_bytes(data[at + 1 : at + 3], "big") % 2048
        content, at = data[at + 3 : at + 3 + octets], at + 3 + octets
        match what & 3:
            case 0:
                next_header = what >> 2 if what & 0x80 else (4, 41, 17, 59)[what >> 2 & 3]
                _receive(engine, peer.outbound.seal(content, next_header))
            case 1:
                _receive(engine, theirs.spi_out.to_bytes(4, "big") + content)
            case 2:
                _receive(engine, content)
            case _:
                _send(engine, peer, content)


def _receive(engine: Engine, esp: bytes) -> None:
    pair = engine.pairs[0]
    passed, dropped = pair.inbound.packets, _dropped(engine)
    packet = engine.unprotect(esp, tos=esp[-1] if esp else 0)
    if packet is None:
        assert _dropped(engine) == dropped + 1, "dropped, and counted nowhere or twice"
        return
    assert (pair.inbound.packets, _dropped(engine)) == (passed + 1, dropped)
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        assert int.from_bytes(packet[4:6], "big") + 40 == len(packet)
    else:
        assert packet[0] >> 4 == 4
        assert len(packet) >= 20
        assert int.from_bytes(packet[2:4], "big") == len(packet)
    if not pair.tunnel:
        assert pair.remote in packet[:40]


def _send(engine: Engine, peer: Pair, packet: bytes) -> None:
    made = engine.protect(packet)
    if made is None:
        return
    pair, esp, inner = made
    assert pair is engine.pairs[0]
    try:
        payload, _ = peer.inbound.open(esp)
    except EspDrop as drop:
        raise AssertionError(f"the peer cannot open what was sent: {drop}") from drop
    if pair.tunnel:
        assert payload[: len(inner)] == inner
    else:
        assert inner.endswith(payload)


def _dropped(engine: Engine) -> int:
    """Packets received that did not come through, by whatever name."""
    return sum(engine.pairs[0].inbound.errors.values()) + sum(engine.drops.values())
