"""Two hosts over the memory backend: the whole way of a packet, with real ESP octets.

a --(IP packet)--> protect --(ESP on the network)--> unprotect --(IP packet)--> b
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from esp_support import SUITES, child_pair, everything, udp_packet

from ikev2.core.child_sa import ChildSaParameters, DfBit, TunnelHeader, UdpEncap, VolumeLimits
from ikev2.core.types import Address, Mode
from ikev2.crypto.esp import esp_cipher
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import BackendError
from ikev2.iana import TsType
from ikev2.ipsec import ipv6
from ikev2.ipsec.backend import Acquire, Bypass, DropReason, Expire, Trap, UnknownSpi, WrongSelectors
from ikev2.ipsec.esp import OutboundEspSa
from ikev2.ipsec.fragments import fragments
from ikev2.ipsec.ipv4 import build_header, ones_complement_sum
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork, esp_of
from ikev2.ipsec.outer import outer_packet
from ikev2.ipsec.outgoing import _head
from ikev2.ipsec.sad import Engine
from ikev2.ipsec.telling import TELL_INTERVAL_S
from ikev2.wire.payloads.ts import TrafficSelector

A, B = "192.0.2.1", "192.0.2.2"
UDP, ESP = 17, 50


class World:
    """Hosts a and b, what each was handed, and what the network saw."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.seen: list[bytes] = []
        self.network.taps.append(self.seen.append)
        self.a = MemoryBackend(self.network, (A,))
        self.b = MemoryBackend(self.network, (B,))
        self.at_a: list[bytes] = []
        self.at_b: list[bytes] = []
        self.a.on_packet, self.b.on_packet = self.at_a.append, self.at_b.append
        self.a.open()
        self.b.open()

    def install(self, children: tuple[ChildSaParameters, ChildSaParameters]) -> None:
        self.a.install(children[0])
        self.b.install(children[1])


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("encap", [None, UdpEncap(4500, 4500)], ids=["esp", "udp"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", sorted(SUITES))
def test_packets_pass_both_ways_and_only_esp_is_seen(
    world: World, name: str, mode: Mode, encap: UdpEncap | None
) -> None:
    of_a, of_b = child_pair(name, mode=mode, encap=encap)
    world.install((of_a, of_b))
    there, back = udp_packet(data=b"a secret", ttl=61), udp_packet(B, A, (7, 40000), b"an answer")
    world.a.send_packet(there)
    world.b.send_packet(back)
    assert (world.at_b, world.at_a) == ([there], [back])
    for packet in world.seen:
        assert packet[9] == (UDP if encap else ESP)
        assert esp_of(packet) is not None
        if not name.startswith("null") and not name.endswith("gmac"):
            assert b"a secret" not in packet
    octets = len(there) if mode is Mode.TUNNEL else len(there) - 20
    counters = world.b.query(of_b)
    assert (counters.packets_in, counters.octets_in, counters.packets_out) == (1, octets, 1)
    assert world.a.query(of_a).octets_out == octets
    assert counters.errors == world.b.drops() == {}


def test_a_tunnel_header_copies_ds_ecn_and_df_and_has_a_ttl_of_its_own(world: World) -> None:
    world.install(child_pair())
    world.a.send_packet(udp_packet(tos=0xB9, ttl=3, flags=0x4000))
    world.a.send_packet(udp_packet(tos=0, ttl=3))
    first, second = world.seen
    assert (first[1], first[6:8], first[8]) == (0xB9, b"\x40\x00", 64)
    assert (second[1], second[6:8]) == (0, b"\0\0")
    assert ones_complement_sum(first[:20]) == 0xFFFF
    assert [packet[8] for packet in world.at_b] == [3, 3]


@pytest.mark.parametrize("dscp", [None, 0, 46])
@pytest.mark.parametrize("inner_df", [False, True])
@pytest.mark.parametrize("df", list(DfBit))
def test_a_pair_may_have_df_and_ds_of_its_own_outside(
    world: World, df: DfBit, inner_df: bool, dscp: int | None
) -> None:
    """ECN is copied all the same, and nothing of it comes in. RFC 4301 sections 5.1.2 and 8.1, RFC 6040 section 4.1."""
    of_a, of_b = child_pair()
    world.install((replace(of_a, header=TunnelHeader(df, dscp)), of_b))
    packet = udp_packet(tos=0x28 | 2, flags=0x4000 if inner_df else 0)
    world.a.send_packet(packet)
    sent = world.seen[0]
    assert sent[1] == (0x28 if dscp is None else dscp << 2) | 2
    assert bool(sent[6] & 0x40) is {"copy": inner_df, "set": True, "clear": False}[df]
    assert _head(world.a._engine.pairs[0], len(sent) - 20, packet)[:10] == sent[:10]
    assert ones_complement_sum(sent[:20]) == 0xFFFF
    assert world.at_b == [packet]


@pytest.mark.parametrize("df", list(DfBit))
def test_ipv6_inside_ipv4_is_not_cut_unless_it_came_in_fragments(df: DfBit) -> None:
    """RFC 4301 section 8.2.1, case 3."""
    of_a, _ = child_pair(ts_a=everything("::/0"), ts_b=everything("::/0"))
    engine = Engine()
    pair = engine.install(replace(of_a, header=TunnelHeader(df)))
    for octets, whole in ((100, True), (pair.longest - 40, True), (pair.longest - 39, False)):
        inner = ipv6.build_header(bytes(16), bytes(16), 17, octets) + bytes(octets)
        sealed = engine.protect(inner)
        assert sealed is not None
        expected = df is DfBit.SET or (whole and df is DfBit.COPY)
        assert bool(outer_packet(*sealed)[6] & 0x40) is expected
        assert bool(_head(pair, len(sealed[1]), inner)[6] & 0x40) is expected


def test_a_transport_header_stays_but_for_protocol_length_and_checksum(world: World) -> None:
    world.install(child_pair(mode=Mode.TRANSPORT))
    packet = udp_packet(tos=0xB8, ttl=255, flags=0x4000)
    world.a.send_packet(packet)
    (sent,) = world.seen
    assert (sent[1], sent[4:9], sent[9], sent[12:20]) == (0xB8, packet[4:9], ESP, packet[12:20])
    assert ones_complement_sum(sent[:20]) == 0xFFFF
    assert world.at_b == [packet]


def test_transport_mode_takes_options_along(world: World) -> None:
    world.install(child_pair(mode=Mode.TRANSPORT))
    plain = udp_packet()
    head = bytearray(b"\x46" + plain[1:20] + b"\x01\x01\x01\x00")
    head[2:4] = (len(plain) + 4).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = (0xFFFF ^ ones_complement_sum(bytes(head))).to_bytes(2, "big")
    packet = bytes(head) + plain[20:]
    world.a.send_packet(packet)
    assert world.at_b == [packet]


@pytest.mark.parametrize("mode", list(Mode))
def test_fragments_pass_a_tunnel_as_they_are_and_transport_mode_put_together(world: World, mode: Mode) -> None:
    world.install(child_pair(mode=mode))
    packet = udp_packet(data=bytes(3000))
    pieces = fragments(packet, 1500)
    for piece in pieces:
        world.a.send_packet(piece)
    assert world.at_b == (pieces if mode is Mode.TUNNEL else [packet])


def test_a_selector_with_ports_gets_fragments_put_together(world: World) -> None:
    world.install(child_pair(ts_b=(TrafficSelector.from_network("192.0.2.2/32", UDP, 7, 7),)))
    packet = udp_packet(data=bytes(3000))
    for piece in reversed(fragments(packet, 576)):
        world.a.send_packet(piece)
    assert world.at_b == [packet]


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [  # Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3: the whole of RFC 6040's figure 4
        *[(0, 0, 0), (0, 2, 0), (0, 1, 0), (0, 3, None)],
        *[(2, 0, 2), (2, 2, 2), (2, 1, 1), (2, 3, 3)],
        *[(1, 0, 1), (1, 2, 1), (1, 1, 1), (1, 3, 3)],
        *[(3, 0, 3), (3, 2, 3), (3, 1, 3), (3, 3, 3)],
    ],
)
def test_congestion_on_the_way_is_handed_on(world: World, inner: int, outer: int, expected: int | None) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.network.impairment = lambda packet: [packet[:1] + bytes((outer,)) + packet[2:]]
    world.a.send_packet(udp_packet(tos=inner))
    if expected is None:
        assert world.at_b == []
        assert world.b.query(of_b).errors == {DropReason.ECN: 1}
    else:
        (arrived,) = world.at_b
        assert arrived == udp_packet(tos=expected)


def test_a_packet_without_a_policy_passes_in_clear(world: World) -> None:
    world.install(child_pair(ts_b=(TrafficSelector.from_network("192.0.2.2/32", UDP, 7, 7),)))
    packet = udp_packet(ports=(40000, 8))
    world.a.send_packet(packet)
    assert world.seen == world.at_b == [packet]


def test_a_bypass_passes_in_clear_both_ways_until_it_is_removed(world: World) -> None:
    world.install(child_pair())
    bypass = Bypass(UDP, (18688, 18751), A, B)
    mirror = Bypass(UDP, (18688, 18751), B, A)
    for _ in range(2):
        world.a.add_bypass(bypass)
    world.b.add_bypass(mirror)
    there, back = udp_packet(ports=(18700, 7)), udp_packet(B, A, (7, 18700))
    world.a.send_packet(there)
    world.b.send_packet(back)
    assert world.seen == [there, back]
    assert (world.at_b, world.at_a) == ([there], [back])
    world.a.remove_bypass(bypass)
    world.a.remove_bypass(bypass)
    world.a.send_packet(there)
    assert world.seen[2][9] == ESP


def test_ike_never_goes_into_the_tunnel(world: World) -> None:
    world.install(child_pair())
    packet = udp_packet(ports=(500, 500))
    world.a.send_packet(packet)
    assert world.seen == world.at_b == [packet]


def test_what_should_have_been_protected_and_was_not_is_dropped(world: World) -> None:
    _, of_b = child_pair()
    world.b.install(of_b)
    world.a.send_packet(udp_packet())  # a has no policy yet
    assert world.at_b == []
    assert world.b.drops() == {DropReason.CLEAR: 1}


def test_an_inner_packet_outside_the_selectors_is_dropped_and_counted(world: World) -> None:
    of_a, of_b = child_pair()
    wide = replace(of_a, ts_local=(TrafficSelector.from_network("0.0.0.0/0"),))
    world.install((wide, of_b))
    world.a.send_packet(udp_packet(source="198.51.100.9"))
    world.a.send_packet(udp_packet())
    assert world.at_b == [udp_packet()]
    assert world.b.query(of_b).errors == {DropReason.SELECTOR_MISMATCH: 1}


@pytest.mark.parametrize("mode", list(Mode))
def test_a_packet_outside_the_selectors_is_told_with_its_start_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    now = [100.0]
    monkeypatch.setattr("ikev2.ipsec.telling.time.monotonic", lambda: now[0])
    of_a, of_b = child_pair(mode=mode, ts_b=(TrafficSelector.from_network("192.0.2.2/32", UDP, 7, 7),))
    sender, engine = Engine(), Engine()
    outbound = sender.install(of_a).outbound
    engine.install(of_b)
    for port in (8, 9, 7):
        packet = udp_packet(ports=(40000, port))
        engine.unprotect(outbound.seal(*((packet, 4) if mode is Mode.TUNNEL else (packet[20:], UDP))))
    (event,) = engine.events
    assert isinstance(event, WrongSelectors)
    assert (event.spi, event.packet[12:24]) == (of_b.spi_in, udp_packet(ports=(40000, 8))[12:24])
    now[0] += TELL_INTERVAL_S
    packet = udp_packet(ports=(40000, 8), data=bytes(500))
    engine.unprotect(outbound.seal(*((packet, 4) if mode is Mode.TUNNEL else (packet[20:], UDP))))
    assert len(engine.events) == 2
    assert len(engine.events[1].packet) == 128  # type: ignore[union-attr]


def test_a_transport_payload_outside_the_selectors_is_dropped_and_counted(world: World) -> None:
    to_echo = (TrafficSelector.from_network("192.0.2.2/32", UDP, 7, 7),)
    of_a, of_b = child_pair(mode=Mode.TRANSPORT, ts_b=to_echo)
    wide = replace(of_a, ts_remote=(TrafficSelector.from_network("192.0.2.2/32"),))
    world.install((wide, of_b))
    for port in (7, 8, 7):
        world.a.send_packet(udp_packet(ports=(40000, port)))
    assert world.at_b == [udp_packet(ports=(40000, 7))] * 2
    assert world.b.query(of_b).errors == {DropReason.SELECTOR_MISMATCH: 1}


def test_what_carries_an_unknown_spi_is_dropped_and_counted(world: World) -> None:
    of_a, _ = child_pair()
    world.a.install(of_a)
    world.a.send_packet(udp_packet())
    assert world.b.drops() == {DropReason.UNKNOWN_SPI: 1}


def test_a_packet_of_an_unknown_spi_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is for RFC 7296 section 2.21.4; a flood of such packets is not one of events."""
    now = [100.0]
    monkeypatch.setattr("ikev2.ipsec.telling.time.monotonic", lambda: now[0])
    engine = Engine()
    here, there = Address(A, 0), Address(B, 0)
    for spi in (0x1234, 0x5678):
        assert engine.unprotect(spi.to_bytes(4, "big") + bytes(40)) is None
        engine.tell_stray(here, there)
        engine.tell_stray(here, there)
    assert list(engine.events) == [UnknownSpi(0x1234, here, there)]
    now[0] += TELL_INTERVAL_S
    engine.unprotect(b"\0\0\0\xff" + bytes(40))
    engine.tell_stray(here, there)
    engine.unprotect(b"\0\0\x56\x78" + bytes(40))
    engine.tell_stray(here, there)
    assert [event.spi for event in engine.events if isinstance(event, UnknownSpi)] == [0x1234, 0x5678]


def test_a_packet_doubled_on_the_way_arrives_once(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.network.impairment = lambda packet: [packet, packet]
    world.a.send_packet(udp_packet())
    assert world.at_b == [udp_packet()]
    assert world.b.query(of_b).errors == {DropReason.REPLAY: 1}


def test_a_packet_changed_on_the_way_does_not_arrive(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.network.impairment = lambda packet: [packet[:-1] + bytes((packet[-1] ^ 1,))]
    world.a.send_packet(udp_packet())
    assert world.at_b == []
    assert world.b.query(of_b).errors == {DropReason.INTEGRITY: 1}


@pytest.mark.parametrize("encap", [None, UdpEncap(4500, 4500)], ids=["esp", "udp"])
def test_esp_in_pieces_that_nobody_put_together_is_dropped_and_counted(
    world: World, encap: UdpEncap | None
) -> None:
    """RFC 4303 section 3.4.1."""
    of_a, of_b = child_pair(encap=encap)
    world.install((of_a, of_b))
    world.network.impairment = lambda packet: fragments(packet, 576)[:1]
    world.a.send_packet(udp_packet(data=bytes(1000)))
    assert (world.at_b, world.b.drops()) == ([], {DropReason.FRAGMENT: 1})
    assert world.b.query(of_b).errors == {}


def sealed_by_a(of_a: ChildSaParameters, payload: bytes, next_header: int) -> bytes:
    """A packet of a's SA whose payload is anything."""
    cipher = esp_cipher(of_a.suite.encr.id, of_a.encr_key_out.octets)
    return OutboundEspSa(of_a.spi_out, cipher).seal(payload, next_header)


@pytest.mark.parametrize(
    ("payload", "next_header", "reason"),
    [
        (udp_packet(), 17, DropReason.NEXT_HEADER),
        (udp_packet(), 41, DropReason.MALFORMED),
        (udp_packet(), 50, DropReason.NEXT_HEADER),
        (udp_packet(), 59, DropReason.DUMMY),
        (b"", 4, DropReason.MALFORMED),
        (udp_packet()[:19], 4, DropReason.MALFORMED),
        (udp_packet()[:-1], 4, DropReason.MALFORMED),
        (b"\x65" + udp_packet()[1:], 4, DropReason.MALFORMED),
        (b"\x44" + udp_packet()[1:], 4, DropReason.MALFORMED),
    ],
)
def test_an_authentic_packet_with_a_wrong_inside_is_dropped(
    payload: bytes, next_header: int, reason: DropReason
) -> None:
    of_a, of_b = child_pair()
    engine = Engine()
    engine.install(of_b)
    assert engine.unprotect(sealed_by_a(of_a, payload, next_header)) is None
    assert engine.counters(of_b).errors == {reason: 1}


def test_padding_behind_the_inner_packet_is_cut_off() -> None:
    of_a, of_b = child_pair()
    engine = Engine()
    engine.install(of_b)
    assert engine.unprotect(sealed_by_a(of_a, udp_packet() + bytes(100), 4)) == udp_packet()


@pytest.mark.parametrize("octets", range(12))
def test_short_octets_are_an_unknown_spi_or_malformed(octets: int) -> None:
    of_a, of_b = child_pair()
    engine = Engine()
    engine.install(of_b)
    assert engine.unprotect(sealed_by_a(of_a, udp_packet(), 4)[:octets]) is None
    assert sum(engine.drops.values()) + sum(engine.counters(of_b).errors.values()) == 1


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(20), udp_packet()[:-1], b"\x60" + bytes(59)])
def test_octets_that_are_no_packet_are_not_protected(packet: bytes) -> None:
    of_a, _ = child_pair()
    engine = Engine()
    engine.install(of_a)
    assert engine.protect(packet) is None
    assert engine.drops == {DropReason.MALFORMED: 1}
    with pytest.raises(BackendError):
        MemoryBackend(MemoryNetwork()).send_packet(packet)


def test_a_packet_without_an_sa_is_dropped_and_not_sent(world: World) -> None:
    of_a, _ = child_pair()
    engine = Engine()
    engine.install(of_a)
    assert engine.protect(udp_packet(destination="192.0.2.99")) is None
    assert engine.drops == {DropReason.NO_SA: 1}


@pytest.mark.parametrize("encap", [None, UdpEncap(4500, 4500)], ids=["esp", "udp"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("family", [4, 6])
def test_what_no_ip_packet_can_carry_is_dropped_and_counted(
    family: int, mode: Mode, encap: UdpEncap | None
) -> None:
    """The largest ESP packet of an IP packet is sent, one octet more inside is too many."""
    ends = (A, B) if family == 4 else ("2001:db8::1", "2001:db8::2")
    of_a, _ = child_pair("null-sha256", mode=mode, a=ends[0], b=ends[1], encap=encap)
    room = 65535 - 8 * (encap is not None) - 20 * (family == 4)
    # SPI, sequence number and ICV; padding to four octets, with its length and the next header.
    payload = (room - 8 - 16) // 4 * 4 - 2
    header = 20 if family == 4 else 40
    engine = Engine()
    engine.install(of_a)
    for more in (0, 1):
        octets = payload + more - (header if mode is Mode.TUNNEL else 0)
        ip_ends = [ipaddress.ip_address(end).packed for end in ends]
        make = build_header if family == 4 else ipv6.build_header
        if header + octets - (40 if family == 6 else 0) > 65535:
            continue  # no such packet comes from the host
        result = engine.protect(make(*ip_ends, 99, octets) + bytes(octets))
        if more:
            assert result is None
            assert engine.counters(of_a).errors == {DropReason.TOO_BIG: 1}
        else:
            assert result is not None
            assert len(outer_packet(*result)) > 65500


def test_the_pair_installed_last_sends_and_the_older_one_still_receives(world: World) -> None:
    old, new = child_pair(), child_pair(spis=(0x3001, 0x3002), seed=2)
    world.install(old)
    world.a.send_packet(udp_packet())
    world.b.install(new[1])
    world.a.send_packet(udp_packet())  # a does not have the new pair yet
    world.a.install(new[0])
    world.a.send_packet(udp_packet())
    spis = [int.from_bytes(packet[20:24], "big") for packet in world.seen]
    assert spis == [0x2002, 0x2002, 0x3002]
    world.a.delete(old[0])
    world.b.delete(old[1])
    world.a.send_packet(udp_packet())
    assert len(world.at_b) == 4
    assert world.b.query(new[1]).packets_in == 2


def test_a_pair_on_standby_is_sent_on_from_the_first_packet_that_comes_on_it(world: World) -> None:
    """RFC 7296 section 2.8: an authentic message on the other half of the pair shows that the peer is ready."""
    old, new = child_pair(), child_pair(spis=(0x3001, 0x3002), seed=2)
    world.install(old)
    world.b.install_standby(new[1])
    back = udp_packet(B, A, (7, 40000))
    world.b.send_packet(back)
    world.a.install(new[0])
    forged = esp_packet(0x3002)
    world.network.send(forged, world.a)
    world.b.send_packet(back)
    world.a.send_packet(udp_packet())
    world.b.send_packet(back)
    spis = [int.from_bytes(packet[20:24], "big") for packet in world.seen]
    assert spis == [0x1001, 0x3002, 0x1001, 0x3002, 0x3001]
    assert len(world.at_a) == 3


def esp_packet(spi: int) -> bytes:
    """ESP of a whole many octets from a to b that nobody has sealed."""
    octets = spi.to_bytes(4, "big") + bytes((0, 0, 0, 1)) + bytes(64)
    return build_header(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)), ESP, len(octets)) + octets


def test_what_came_before_a_deletion_is_still_opened_until_it_has_been_read() -> None:
    of_a, of_b = child_pair()
    a, b = Engine(), Engine()
    a.install(of_a)
    b.install(of_b)
    sealed = [result[1] for result in (a.protect(udp_packet()), a.protect(udp_packet())) if result is not None]
    b.delete(of_b, leaving=True)
    assert b.pairs == ()
    assert b.protect(udp_packet(B, A)) is None
    assert b.unprotect(sealed[0]) == udp_packet()
    b.forget(of_b.spi_in)
    assert b.unprotect(sealed[1]) is None
    assert b.drops == {DropReason.NO_SA: 1, DropReason.UNKNOWN_SPI: 1}


def test_after_the_new_pair_is_deleted_the_old_one_sends_again(world: World) -> None:
    old, new = child_pair(), child_pair(spis=(0x3001, 0x3002), seed=2)
    world.install(old)
    world.install(new)
    world.a.send_packet(udp_packet())
    world.a.delete(new[0])
    world.a.send_packet(udp_packet())
    assert [int.from_bytes(packet[20:24], "big") for packet in world.seen] == [0x3002, 0x2002]


def test_a_deleted_pair_neither_sends_nor_receives(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.b.delete(of_b)
    world.b.delete(of_b)
    world.a.send_packet(udp_packet())
    assert world.at_b == []
    assert world.b.drops() == {DropReason.UNKNOWN_SPI: 1}
    with pytest.raises(BackendError, match="not installed"):
        world.b.query(of_b)


def test_moving_a_pair_keeps_its_sequence_numbers_and_counters(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.a.send_packet(udp_packet())
    encap = UdpEncap(4500, 34567)
    world.a.update_address(of_a, replace(of_a, remote="198.51.100.2", encap=encap))
    world.b.update_address(of_b, replace(of_b, local="198.51.100.2", encap=UdpEncap(34567, 4500)))
    world.a.send_packet(udp_packet())
    assert world.at_b == [udp_packet()] * 2
    sent = world.seen[1]
    assert (sent[9], sent[16:20], sent[20:24]) == (UDP, bytes((198, 51, 100, 2)), bytes.fromhex("1194 8707"))
    assert sent[32:36] == (2).to_bytes(4, "big")
    assert world.b.query(of_b).packets_in == 2


@pytest.mark.req("rfc7296-s2.23-06")
@pytest.mark.req("rfc7296-s2.23-14")
def test_esp_is_taken_raw_and_in_udp_whatever_the_sa_sends(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((replace(of_a, encap=UdpEncap(4500, 4500)), of_b))
    world.a.send_packet(udp_packet())
    world.b.send_packet(udp_packet(B, A))
    assert [packet[9] for packet in world.seen] == [UDP, ESP]
    assert (world.at_b, world.at_a) == ([udp_packet()], [udp_packet(B, A)])


def test_transport_mode_through_a_nat_puts_the_checksum_right(world: World) -> None:
    """a is 10.0.0.1 behind a NAT that shows it as 192.0.2.1; its UDP checksum is over 10.0.0.1."""
    behind = child_pair(
        mode=Mode.TRANSPORT,
        a="10.0.0.1",
        ts_a=(TrafficSelector.from_network("10.0.0.1/32"),),
        encap=UdpEncap(4500, 4500),
    )[0]
    of_b = replace(child_pair(mode=Mode.TRANSPORT, encap=UdpEncap(4500, 4500))[1], nat_original_remote="10.0.0.1")
    engine_a, engine_b = Engine(), Engine()
    engine_a.install(behind)
    engine_b.install(of_b)
    packet = udp_packet(source="10.0.0.1")
    result = engine_a.protect(packet)
    assert result is not None
    translated = build_header(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)), UDP, 8)
    found = esp_of(outer_packet(*result))
    assert found is not None
    arrived = engine_b.unprotect(found[0], header=translated)
    assert arrived is not None
    assert arrived[20:] == udp_packet()[20:]
    assert arrived == udp_packet()


def test_spis_are_above_255_and_differ() -> None:
    backend = MemoryBackend(MemoryNetwork())
    spis = [backend.allocate_spi(A, B) for _ in range(200)]
    assert len(set(spis)) == 200
    assert all(256 <= spi < 1 << 32 for spi in spis)


def test_an_spi_that_was_given_back_may_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ikev2.ipsec import sad

    backend = MemoryBackend(MemoryNetwork())
    drawn = iter([5, 5, 6, 5])
    monkeypatch.setattr(sad.secrets, "randbelow", lambda below: next(drawn))
    assert [backend.allocate_spi(A, B) for _ in range(2)] == [0x105, 0x106]
    backend.release_spi(0x105, A, B)
    backend.release_spi(0x105, A, B)
    assert backend.allocate_spi(A, B) == 0x105


def test_a_pair_is_installed_once_and_with_algorithms_that_exist(world: World) -> None:
    of_a, _ = child_pair()
    world.a.install(of_a)
    with pytest.raises(BackendError, match="installed already"):
        world.a.install(of_a)
    short = replace(child_pair(spis=(0x5001, 0x5002))[0], encr_key_out=SecretOctets("encr", bytes(3)))
    with pytest.raises(BackendError, match="octets"):
        world.b.install(short)
    fibre = (TrafficSelector(TsType.TS_FC_ADDR_RANGE, 0, 0, 0, b"octets", b""),)
    with pytest.raises(BackendError, match="no selectors of IP"):
        world.b.install(replace(child_pair(spis=(0x6001, 0x6002))[0], ts_remote=fibre))
    with pytest.raises(BackendError, match="not installed"):
        world.b.query(short)


def test_the_end_of_the_sequence_numbers_is_announced_once(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.a._engine.pairs[0].outbound.sequence = 0xFFFFFFFF - 3
    assert world.a.next_event() is None
    for _ in range(5):
        world.a.send_packet(udp_packet())
    assert world.a.next_event() == Expire(of_a.spi_out, A, B, hard=False, inbound=False)
    assert world.a.next_event() == Expire(of_a.spi_out, A, B, hard=True, inbound=False)
    assert world.a.next_event() is None
    assert world.a.query(of_a).errors == {DropReason.SEQUENCE_OVERFLOW: 2}
    assert len(world.at_b) == 3


# A packet of 32 octets in a tunnel is 36 to AES-GCM, with trailer and padding; padded to 100 it is 104.
@pytest.mark.parametrize("padding", [0, 100])
@pytest.mark.parametrize("sending", [True, False], ids=["sender", "receiver"])
@pytest.mark.parametrize("unit", ["packets", "octets"])
def test_an_sa_that_has_carried_what_it_may_is_announced_and_carries_no_more(
    world: World, unit: str, sending: bool, padding: int
) -> None:
    """Each limit is told once, with the packet after it was reached. RFC 4301 section 4.4.2.1."""
    octets = 104 if padding else 36
    limits = VolumeLimits(soft_packets=2, hard_packets=4)
    if unit == "octets":
        limits = VolumeLimits(soft_octets=octets + 1, hard_octets=3 * octets + 1)
    of_a, of_b = child_pair(tfc_padding=padding)
    world.install((replace(of_a, limits=limits), of_b) if sending else (of_a, replace(of_b, limits=limits)))
    limited, child, spi = (world.a, of_a, of_a.spi_out) if sending else (world.b, of_b, of_b.spi_in)
    ends = (A, B) if sending else (B, A)
    told = []
    for count in range(1, 8):
        world.a.send_packet(udp_packet(data=bytes(4)))
        told += [(count, event) for event in iter(limited.next_event, None)]
    assert told == [
        (3, Expire(spi, *ends, hard=False, inbound=not sending)),
        (5, Expire(spi, *ends, hard=True, inbound=not sending)),
    ]
    assert len(world.at_b) == 4
    assert limited.query(child).errors == {DropReason.LIFETIME: 3}
    assert (world.a.query(of_a).packets_out, world.b.query(of_b).packets_in) == (4 if sending else 7, 4)
    world.b.send_packet(udp_packet(B, A))
    assert world.at_a == [udp_packet(B, A)]  # the SA of the other direction has its own count


def test_forged_packets_do_not_use_up_an_sa_and_dummies_do(world: World) -> None:
    of_a, of_b = child_pair()
    of_b = replace(of_b, limits=VolumeLimits(hard_packets=3))
    world.install((of_a, of_b))
    engine, sender = world.b._engine, Engine()
    sender.install(of_a)
    for _ in range(5):
        sealed = sender.protect(udp_packet())
        assert sealed is not None
        assert engine.unprotect(sealed[1][:-1] + bytes((sealed[1][-1] ^ 1,))) is None
    for _ in range(3):
        assert engine.unprotect(sender.dummy(of_a, 40)[1]) is None
    assert engine.unprotect(sender.dummy(of_a, 40)[1]) is None
    assert world.b.query(of_b).errors == {DropReason.INTEGRITY: 5, DropReason.DUMMY: 3, DropReason.LIFETIME: 1}


def test_a_closed_backend_receives_nothing(world: World) -> None:
    world.b.close()
    world.b.close()
    world.a.send_packet(udp_packet())
    assert world.at_b == []


def test_backends_that_share_an_address_are_told_apart_by_spi() -> None:
    network = MemoryNetwork()
    backends = [MemoryBackend(network) for _ in range(4)]
    got: list[list[bytes]] = [[], [], [], []]
    loop = "127.0.0.1"
    for number, backend in enumerate(backends):
        backend.on_packet = got[number].append
    pairs = [child_pair(a=loop, b=loop, spis=spis, seed=spis[0]) for spis in ((0x111, 0x222), (0x333, 0x444))]
    for number, pair in enumerate(pairs):
        backends[2 * number].install(pair[0])
        backends[2 * number + 1].install(pair[1])
    packet = udp_packet(loop, loop)
    backends[2].send_packet(packet)
    assert got == [[], [], [], [packet]]


@pytest.mark.req("rfc7296-s1.4.1-04")
def test_a_half_closed_pair_receives_and_sends_nothing_neither_in_clear(world: World) -> None:
    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.a.send_packet(udp_packet())
    world.a.delete_outbound(of_a)
    world.a.send_packet(udp_packet())
    world.b.send_packet(udp_packet(B, A, (7, 40000)))
    assert (len(world.at_b), len(world.at_a)) == (1, 1)
    assert world.a.drops() == {DropReason.NO_SA: 1}
    assert all(packet[9] == ESP for packet in world.seen)


def test_another_pair_serves_the_traffic_of_a_half_closed_one(world: World) -> None:
    old, new = child_pair(), child_pair(spis=(0x1003, 0x2004), seed=2)
    world.install(old)
    world.install(new)
    world.a.send_packet(udp_packet())
    world.a.delete_outbound(new[0])
    world.a.send_packet(udp_packet())
    assert world.b.query(new[1]).packets_in == world.b.query(old[1]).packets_in == 1


@pytest.mark.req("rfc7296-s1.4.1-06")
def test_the_spi_of_a_half_closed_pair_is_not_given_again(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    from ikev2.ipsec import sad

    of_a, of_b = child_pair()
    world.install((of_a, of_b))
    world.a.delete_outbound(of_a)
    drawn = iter([of_a.spi_in - 0x100, of_a.spi_in - 0x100, 7])
    monkeypatch.setattr(sad.secrets, "randbelow", lambda below: next(drawn))
    assert world.a.allocate_spi(A, B) == 0x107
    world.b.send_packet(udp_packet(B, A, (7, 40000)))
    assert len(world.at_a) == 1


def test_traffic_of_a_trap_is_dropped_and_told_until_a_child_sa_carries_it(world: World) -> None:
    children = child_pair()
    child = children[0]
    trap = Trap(child.name, 77, child.mode, A, B, child.ts_local, child.ts_remote)
    world.a.add_trap(trap)
    packet = udp_packet(A, B, (40001, 862))
    for _ in range(3):
        world.a.send_packet(packet)
    assert world.seen == [], "nothing of it went in clear"
    assert world.a.drops() == {DropReason.NO_SA: 3}
    assert world.a.next_event() == Acquire(77, A, B, 17, A, B, 40001, 862)
    assert world.a.next_event() is None, "told once while it is answered"
    world.b.send_packet(udp_packet(B, A, (862, 40001)))
    assert world.a.drops()[DropReason.CLEAR] == 1, "nor is it taken in clear"
    world.install(children)
    world.a.send_packet(packet)
    assert world.at_b == [packet]
    world.a.delete(child)
    world.a.send_packet(packet)
    assert world.at_b == [packet], "the trap is there again"
    world.a.remove_trap(trap)
    world.a.send_packet(packet)
    assert world.seen[-1] == packet


NARROWER = {
    "addresses": ((TrafficSelector.from_network("192.0.2.0/24"),), (TrafficSelector.from_network("192.0.2.2/31"),)),
    "ports": ((TrafficSelector.from_network(f"{A}/32"),), (TrafficSelector.from_network(f"{B}/32", UDP, 7, 7),)),
    "protocol": ((TrafficSelector.from_network(f"{A}/32"),), (TrafficSelector.from_network(f"{B}/32", UDP),)),
}
WIDE = (TrafficSelector.from_network("192.0.2.0/24"),), (TrafficSelector.from_network("192.0.2.0/24"),)


@pytest.mark.parametrize("newest", ["narrow", "wide"])
@pytest.mark.parametrize("kind", NARROWER)
def test_of_pairs_that_overlap_the_one_that_means_the_packet_sends_whichever_is_newer(
    world: World, kind: str, newest: str
) -> None:
    """Else every rekey would change which one it is. RFC 4301 section 4.4.1: policies have an order."""
    host_to_host = child_pair()[0]
    wide_ts = WIDE if kind == "addresses" else (host_to_host.ts_local, host_to_host.ts_remote)
    wide = child_pair(ts_a=wide_ts[0], ts_b=wide_ts[1])
    narrow = child_pair(ts_a=NARROWER[kind][0], ts_b=NARROWER[kind][1], spis=(0x3003, 0x4004), seed=2)
    for children in (wide, narrow) if newest == "narrow" else (narrow, wide):
        world.install(children)
    world.a.send_packet(udp_packet())
    assert world.at_b == [udp_packet()]
    assert (world.a.query(narrow[0]).packets_out, world.a.query(wide[0]).packets_out) == (1, 0)
    tcp = udp_packet()[:9] + b"\x06" + udp_packet()[10:]
    world.a.send_packet(tcp)
    assert world.a.query(wide[0]).packets_out == (0 if kind == "addresses" else 1)


def test_traffic_of_a_trap_within_the_selectors_of_a_pair_waits_for_its_own_child_sa(world: World) -> None:
    wide = child_pair(ts_a=WIDE[0], ts_b=WIDE[1])
    world.install(wide)
    world.a.send_packet(udp_packet())
    own, others = (
        Trap(f"of {port}", port, Mode.TUNNEL, A, B, wide[0].ts_local, NARROWER["ports"][1]) for port in (7, 8)
    )
    others = replace(others, ts_remote=WIDE[1])
    for trap in (others, own):
        world.a.add_trap(trap)
    world.a.send_packet(udp_packet())
    assert len(world.at_b) == 1
    event = world.a.next_event()
    assert isinstance(event, Acquire)
    assert event.reqid == own.reqid
    world.a.send_packet(udp_packet(ports=(40000, 8)))
    assert len(world.at_b) == 2
    world.a.remove_trap(own)
    world.a.send_packet(udp_packet())
    assert len(world.at_b) == 3
