"""What an adversary on the path can do to ESP packets of an engine: nothing comes out, and every packet is counted.

Its means: change, cut, lengthen, double, delay and lose packets. RFC 4303 sections 3.4.2 to 3.4.4 and appendix A.
"""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address

import pytest
from esp_support import SUITES, child_pair, udp_packet

from ikev2.core.types import Mode
from ikev2.ipsec.backend import DropReason
from ikev2.ipsec.esp import OutboundEspSa
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.sad import Engine
from ikev2.wire.payloads.ts import TrafficSelector

NAMES = sorted(SUITES)
WINDOWS = (0, 32, 64, 1024, 4096)
BORDER = 1 << 32

every_name = pytest.mark.parametrize("name", NAMES)
every_mode = pytest.mark.parametrize("mode", list(Mode))


class Victim:
    """An engine that receives, the sender's half of the SA, and what came of each packet."""

    def __init__(self, name: str = "aes128gcm16", **options: object) -> None:
        of_a, self.child = child_pair(name, **options)  # type: ignore[arg-type]
        self.engine, sender = Engine(), Engine()
        self.sender: OutboundEspSa = sender.install(of_a).outbound
        self.window = self.engine.install(self.child).inbound.window
        self.tunnel = of_a.mode is Mode.TUNNEL
        self.arrived: list[bytes] = []

    def sealed(self, packet: bytes) -> bytes:
        """The packet as the peer would send it."""
        return self.sender.seal(packet, 4) if self.tunnel else self.sender.seal(packet[20:], 17)

    def offer(self, esp: bytes, header: bytes = b"") -> str:
        """Give it a packet: the name under which it was counted, "" when it passed."""
        before = self.counts()
        got = self.engine.unprotect(esp, 0, 64, header)
        counted = self.counts() - before
        if got is not None:
            assert not counted
            self.arrived.append(got)
            return ""
        assert counted.total() == 1, f"counted {counted}"
        return next(iter(counted))

    def counts(self) -> Counter[str]:
        """All drops, of the SA and of none."""
        return self.engine.drops + Counter(self.engine.counters(self.child).errors)

    @property
    def passed(self) -> int:
        """What the SA says has passed."""
        return self.engine.counters(self.child).packets_in


@every_name
@every_mode
def test_each_bit_that_is_flipped_is_refused_and_counted_and_the_packet_itself_still_passes(
    name: str, mode: Mode
) -> None:
    victim = Victim(name, mode=mode)
    packet = udp_packet()
    esp = victim.sealed(packet)
    found = Counter[str]()
    for bit in range(8 * len(esp)):
        changed = bytearray(esp)
        changed[bit // 8] ^= 0x80 >> bit % 8
        reason = victim.offer(bytes(changed))
        assert reason, f"bit {bit} of {len(esp)} octets"
        # The SPI's bits lead to no SA; one bit of the sequence number makes it 0, which never comes.
        expected = DropReason.UNKNOWN_SPI if bit < 32 else DropReason.REPLAY if bit == 63 else DropReason.INTEGRITY
        assert reason == expected, bit
        found[reason] += 1
    assert (victim.arrived, victim.passed, victim.window.top) == ([], 0, 0)
    assert found == victim.counts()
    assert victim.offer(esp) == ""
    assert (len(victim.arrived), victim.passed) == (1, 1)


@every_name
def test_a_packet_cut_at_any_octet_or_made_longer_is_refused_and_counted(name: str) -> None:
    victim = Victim(name)
    esp = victim.sealed(udp_packet())
    forged = [esp[:octets] for octets in range(len(esp))]
    forged += [esp + bytes(more) for more in (*range(1, 65), 1500, 65535 - 20 - len(esp))]
    forged += [esp + esp, esp[:8] + bytes(65535 - 28), esp[:8]]
    reasons = Counter(victim.offer(packet) for packet in forged)
    assert reasons.keys() <= {DropReason.UNKNOWN_SPI, DropReason.MALFORMED, DropReason.INTEGRITY}
    assert (victim.arrived, victim.passed, victim.window.top) == ([], 0, 0)
    assert victim.offer(esp) == ""


@every_name
def test_a_packet_under_another_spi_is_refused_whoever_has_that(name: str) -> None:
    """The SPI of nobody; the SPI of another SA of ours, which has other keys."""
    victim = Victim(name)
    _, other = child_pair(name, spis=(0x3003, 0x4004), seed=2)
    victim.engine.install(other)
    esp = victim.sealed(udp_packet())
    assert victim.offer(bytes.fromhex("deadbeef") + esp[4:]) == DropReason.UNKNOWN_SPI
    assert victim.engine.unprotect(other.spi_in.to_bytes(4, "big") + esp[4:]) is None
    assert victim.engine.counters(other).errors == {DropReason.INTEGRITY: 1}
    assert victim.offer(esp) == ""


def test_of_256_next_headers_a_tunnel_takes_those_of_ip_only() -> None:
    victim = Victim()
    found = {number: victim.offer(victim.sender.seal(udp_packet(), number)) for number in range(256)}
    expected = dict.fromkeys(range(256), str(DropReason.NEXT_HEADER))
    expected |= {4: "", 41: DropReason.MALFORMED, 59: DropReason.DUMMY}  # inside is IPv4, not IPv6
    assert found == expected
    assert victim.arrived == [udp_packet()]


def test_of_256_next_headers_transport_mode_takes_those_of_its_selectors_only() -> None:
    victim = Victim(mode=Mode.TRANSPORT, ts_a=UDP_ONLY_A, ts_b=UDP_ONLY_B)
    found = {number: victim.offer(victim.sender.seal(udp_packet()[20:], number)) for number in range(256)}
    expected = dict.fromkeys(range(256), str(DropReason.SELECTOR_MISMATCH))
    assert found == expected | {17: "", 59: DropReason.DUMMY}
    assert len(victim.arrived) == 1


@pytest.mark.parametrize(
    ("source", "destination"),
    [("203.0.113.9", "192.0.2.2"), ("192.0.2.1", "203.0.113.9"), ("192.0.2.2", "192.0.2.1")],
)
def test_an_outer_header_between_other_addresses_makes_no_packet_of_transport_mode(
    source: str, destination: str
) -> None:
    """The ICV does not cover it, so the selectors have to hold for the addresses that come. RFC 4301 section 5.2."""
    victim = Victim(mode=Mode.TRANSPORT)
    for ends, expected in (((source, destination), DropReason.SELECTOR_MISMATCH), (("192.0.2.1", "192.0.2.2"), "")):
        esp = victim.sealed(udp_packet())
        header = build_header(*(IPv4Address(end).packed for end in ends), 50, len(esp))
        assert victim.offer(esp, header) == expected
    assert victim.arrived == [udp_packet()]


def later_fragment(units: int) -> bytes:
    """One that does not show its ports, so many eights of octets behind the beginning of its datagram."""
    return udp_packet(data=bytes(24), flags=units)


@pytest.mark.parametrize(("units", "passes"), [(1, False), (15, False), (16, True), (100, True)])
def test_on_an_sa_for_what_shows_no_ports_a_fragment_that_could_lie_over_ports_is_refused(
    units: int, passes: bool
) -> None:
    """Put together with the first one, of another SA, it would change its ports. RFC 4301 section 7.2, appendix D.3."""
    opaque = [(TrafficSelector.from_network(host, 17, 0xFFFF, 0),) for host in ("192.0.2.1/32", "192.0.2.2/32")]
    victim = Victim(ts_a=opaque[0], ts_b=opaque[1])
    assert victim.offer(victim.sealed(later_fragment(units))) == ("" if passes else DropReason.FRAGMENT)


@pytest.mark.parametrize("units", [1, 16])
def test_a_later_fragment_passes_any_ports_and_never_some(units: int) -> None:
    """RFC 4301 sections 7.1 and 7.3."""
    assert Victim().offer(Victim().sealed(later_fragment(units))) == ""
    some = Victim(ts_a=UDP_ONLY_A, ts_b=(TrafficSelector.from_network("192.0.2.2/32", 17, 7, 7),))
    assert some.offer(some.sealed(later_fragment(units))) == DropReason.SELECTOR_MISMATCH


# --- replay and order ----------------------------------------------------------------------------------------------


class Reference:
    """The receiver of RFC 4303 section 3.4.3 that knows every packet's whole number, and remembers them all.

    `esn`: a number left of the window is taken for one of the next subspace (appendix A2.2), where its ICV is wrong.
    """

    def __init__(self, window: int, top: int, *, esn: bool) -> None:
        self.window, self.top, self.esn = window, top, esn
        self.seen = {top}

    def verdict(self, sequence: int) -> str:
        reach = self.window or (32 if self.esn else self.top + 1)
        if sequence <= self.top - reach:
            return DropReason.INTEGRITY if self.esn else DropReason.REPLAY
        if self.window and sequence in self.seen:
            return DropReason.REPLAY
        self.seen.add(sequence)
        self.top = max(self.top, sequence)
        return ""


def disturbed(packets: list[int], rng: random.Random, reach: int) -> list[int]:
    """The numbers with a tenth lost, a fifth doubled and all of them late by anything up to a bit over `reach`."""
    kept = [number for number in packets if rng.random() > 0.1]
    copies = [number for number in kept for _ in range(1 + (rng.random() < 0.2))]
    late = {0.7: 3, 0.95: max(reach // 2, 3), 1.0: reach + reach // 4 + 5}

    def arrival(number: int) -> float:
        dice = rng.random()
        return number + rng.uniform(0, next(most for share, most in late.items() if dice <= share))

    return [number for _, number in sorted((arrival(number), number) for number in copies)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["aes128gcm16", "aes128-sha256", "aes128gmac", "aes256gcm16iiv"])
@pytest.mark.parametrize("esn", [False, True], ids=["", "esn"])
@pytest.mark.parametrize("window", WINDOWS)
def test_lost_doubled_and_late_packets_pass_or_not_as_a_second_receiver_has_it(
    window: int, esn: bool, name: str, seed: int
) -> None:
    """With ESN across 2**32, without in the middle of the numbers; the count of every name agrees, too."""
    rng = random.Random(f"{window} {esn} {name} {seed}")
    count = 400 + 2 * window
    first = (BORDER if esn else BORDER // 2) - count // 2
    victim = Victim(name, esn=esn, replay_window=window)
    victim.sender.sequence = first
    victim.window.update(first)
    reference = Reference(window, first, esn=esn)
    numbers = range(first + 1, first + count)
    sealed = {number: victim.sealed(udp_packet(data=number.to_bytes(8, "big"))) for number in numbers}
    expected, passed = Counter[str](), []
    for number in disturbed(list(sealed), rng, window or 32):
        verdict = reference.verdict(number)
        assert victim.offer(sealed[number]) == verdict, (number - BORDER, reference.top - BORDER)
        if verdict:
            expected[verdict] += 1
        else:
            passed.append(number)
        assert victim.window.top == reference.top
    assert victim.counts() == expected
    assert [int.from_bytes(packet[28:36], "big") for packet in victim.arrived] == passed
    assert victim.passed == len(passed)
    if window:
        assert len(set(passed)) == len(passed)


@pytest.mark.parametrize("esn", [False, True], ids=["", "esn"])
@pytest.mark.parametrize("window", WINDOWS[1:])
def test_the_window_ends_where_it_says(window: int, esn: bool) -> None:
    """The last number inside passes once, the first outside never: with ESN on both sides of 2**32."""
    tops: tuple[int, ...] = (BORDER - 1, 2 * window)
    if esn:
        tops = (BORDER - 1, BORDER, BORDER + 1, BORDER + window - 1, BORDER + window)
    for top in tops:
        victim = Victim(esn=esn, replay_window=window)
        numbers = [top - window, top - window + 1, top - 1, top]
        sealed = {}
        for number in numbers:
            victim.sender.sequence = number - 1
            sealed[number] = victim.sealed(udp_packet())
        outside = DropReason.INTEGRITY if esn else DropReason.REPLAY
        assert victim_at(victim, top - 1 - window, sealed[top]) == ""
        assert victim.offer(sealed[numbers[0]]) == outside
        assert victim.offer(sealed[numbers[1]]) == ""
        assert victim.offer(sealed[numbers[1]]) == DropReason.REPLAY
        assert victim.offer(sealed[top - 1]) == ""
        assert victim.offer(sealed[top]) == DropReason.REPLAY
        assert victim.window.top == top


def victim_at(victim: Victim, before: int, esp: bytes) -> str:
    """Offer a packet to a receiver that has come as far as `before`."""
    victim.window.update(before)
    return victim.offer(esp)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_forged_packet_from_beyond_2_to_the_32_moves_nothing(window: int) -> None:
    """The low half of a number just left of the window stands for 2**32 more: without a right ICV it stays a guess."""
    victim = Victim(esn=True, replay_window=window)
    top = 3 * BORDER + 5000
    victim.window.update(top)
    victim.sender.sequence = top
    good = victim.sealed(udp_packet())
    rng = random.Random(window)
    for low in (0, 1, 5000 - (window or 32), 0x7FFFFFFF, 0xFFFFFFFF):
        forged = good[:4] + low.to_bytes(4, "big") + rng.randbytes(len(good) - 8)
        assert victim.offer(forged) in (DropReason.INTEGRITY, DropReason.REPLAY)
        assert victim.window.top == top
    assert victim.offer(good) == ""
    assert victim.window.top == top + 1


def test_random_octets_under_our_spi_never_pass() -> None:
    rng = random.Random(4303)
    for name in NAMES:
        victim = Victim(name)
        spi = victim.child.spi_in.to_bytes(4, "big")
        for _ in range(300):
            assert victim.offer(spi + rng.randbytes(rng.randrange(0, 200)))
        assert (victim.arrived, victim.passed, victim.window.top) == ([], 0, 0)
        assert victim.counts().total() == 300


def _udp_only(address: str) -> tuple[TrafficSelector, ...]:
    return (TrafficSelector.from_network(address, 17),)


UDP_ONLY_A, UDP_ONLY_B = _udp_only("192.0.2.1"), _udp_only("192.0.2.2")
