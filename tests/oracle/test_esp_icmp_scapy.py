"""ICMP errors about what Child SAs carry, made by scapy: on which pair they go, and which are let in.

    host A (behind a) ---- a ==== Child SA for UDP port 7 of B's side ==== b ---- router ---- host B (behind b)

RFC 4301 section 6.2.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scapy.layers.inet6", reason="scapy is not installed")
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    PadN,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair

from ikev2.core.types import Mode
from ikev2.ipsec.backend import Acquire, DropReason, Trap
from ikev2.ipsec.outgoing import _may_be_answered
from ikev2.ipsec.sad import Engine
from ikev2.wire.payloads.ts import TrafficSelector

UDP_PROTOCOL = 17
NETWORKS = {4: ("10.1.0.0/16", "10.2.0.0/16"), 6: ("2001:db8:1::/48", "2001:db8:2::/48")}
HOSTS = {4: ("10.1.0.5", "10.2.0.6"), 6: ("2001:db8:1::5", "2001:db8:2::6")}
ROUTERS = {4: "198.51.100.1", 6: "2001:db8:ffff::1"}
GATEWAYS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
ERRORS = {
    "unreachable": (lambda: ICMP(type=3, code=3), lambda: ICMPv6DestUnreach(code=4)),
    "too-big": (lambda: ICMP(type=3, code=4, nexthopmtu=1300), lambda: ICMPv6PacketTooBig(mtu=1300)),
    "time-exceeded": (lambda: ICMP(type=11), lambda: ICMPv6TimeExceeded()),
    "parameter-problem": (lambda: ICMP(type=12), lambda: ICMPv6ParamProblem()),
}
both_families = pytest.mark.parametrize("family", [4, 6])


class Gateways:
    """a and b with their engines, and a Child SA for UDP to port 7 behind b."""

    def __init__(self, family: int, mode: Mode = Mode.TUNNEL) -> None:
        self.header = IP if family == 4 else IPv6
        a, b = GATEWAYS[family]
        networks = NETWORKS[family] if mode is Mode.TUNNEL else (a, b)
        self.here, self.there = HOSTS[family] if mode is Mode.TUNNEL else (a, b)
        ts_a = (TrafficSelector.from_network(networks[0], UDP_PROTOCOL),)
        ts_b = (TrafficSelector.from_network(networks[1], UDP_PROTOCOL, 7, 7),)
        self.of_a, self.of_b = child_pair(mode=mode, a=a, b=b, ts_a=ts_a, ts_b=ts_b)
        self.a, self.b = Engine(), Engine()
        self.a.install(self.of_a)
        self.b.install(self.of_b)

    def sent(self, port: int = 7, upper: object = None) -> object:
        """What the host behind a has sent to the one behind b."""
        return self.header(src=self.here, dst=self.there) / (upper or UDP(sport=40000, dport=port) / bytes(64))

    def error(self, message: object, about: object, source: str, destination: str = "", quoted: int = 512) -> bytes:
        """An error about that, from `source` to whom has sent it."""
        return bytes(
            self.header(src=source, dst=destination or self.here) / message / bytes(about)[:quoted]  # type: ignore[call-overload]
        )

    def crosses(self, packet: bytes) -> str:
        """Send from b to a: the reason why not, "" when it arrived as it was, "in clear" when no Child SA is asked."""
        sealed = self.b.protect(packet)
        if self.b.outside:
            assert sealed is None
            assert self.b.outside.popleft() == packet
            return "in clear"
        if sealed is None:
            return str(self.b.last_drop)
        assert sealed[0].child == self.of_b
        arrived = self.a.unprotect(sealed[1])
        if arrived is None:
            return str(self.a.last_drop)
        assert bytes(arrived)[-40:] == packet[-40:]
        return ""


def message_of(kind: str, family: int) -> object:
    return ERRORS[kind][family == 6]()


@both_families
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("mode", list(Mode))
def test_an_error_goes_with_what_it_is_about_though_the_selectors_do_not_mean_it(
    mode: Mode, kind: str, family: int
) -> None:
    hosts = Gateways(family, mode)
    source = ROUTERS[family] if mode is Mode.TUNNEL else hosts.there
    assert hosts.crosses(hosts.error(message_of(kind, family), hosts.sent(), source)) == ""
    assert hosts.a.counters(hosts.of_a).errors == {}


@both_families
def test_a_quote_that_ends_behind_the_ports_is_enough(family: int) -> None:
    hosts = Gateways(family)
    octets = (20 if family == 4 else 40) + 8
    assert (
        hosts.crosses(hosts.error(message_of("unreachable", family), hosts.sent(), ROUTERS[family], quoted=octets))
        == ""
    )


@pytest.mark.parametrize(
    ("family", "octets"),
    [*((4, octets) for octets in (0, 4, 19, 20, 23)), *((6, octets) for octets in (0, 39, 40, 43))],
)
def test_a_quote_that_shows_no_ports_belongs_to_no_policy_with_ports(family: int, octets: int) -> None:
    hosts = Gateways(family)
    packet = hosts.error(message_of("unreachable", family), hosts.sent(), ROUTERS[family], quoted=octets)
    whole_header = octets >= (20 if family == 4 else 40)
    assert hosts.crosses(packet) == ("in clear" if whole_header else DropReason.NO_SA)


@both_families
def test_an_error_about_what_no_policy_carries_does_not_go_into_the_child_sa(family: int) -> None:
    hosts = Gateways(family)
    backwards = hosts.header(src=hosts.there, dst=hosts.here) / UDP(sport=7, dport=40000)
    for about, outcome in (
        (hosts.sent(8), "in clear"),
        (hosts.sent(upper=TCP(sport=40000, dport=7)), "in clear"),
        (backwards, DropReason.NO_SA),
    ):
        packet = hosts.error(message_of("unreachable", family), about, ROUTERS[family])
        assert hosts.crosses(packet) == outcome


@both_families
@pytest.mark.parametrize("mode", list(Mode))
def test_a_peer_cannot_say_of_what_another_carries_that_it_is_unreachable(mode: Mode, family: int) -> None:
    """Its own policy would let it; what arrives is held against the pair on which it came, and counted."""
    hosts = Gateways(family, mode)
    wide = [(TrafficSelector.from_network("0.0.0.0/0" if family == 4 else "::/0"),)] * 2
    hosts.b.delete(hosts.of_b)
    hosts.of_b = replace(hosts.of_b, ts_local=wide[0], ts_remote=wide[1])
    hosts.b.install(hosts.of_b)
    source = ROUTERS[family] if mode is Mode.TUNNEL else hosts.there
    elsewhere = hosts.header(src=hosts.here, dst="203.0.113.7" if family == 4 else "2001:db8:7::7")
    echo = ICMPv6EchoRequest() if family == 6 else ICMP(type=8)
    forged = [
        hosts.error(message_of("unreachable", family), elsewhere / UDP(sport=40000, dport=7) / bytes(64), source),
        hosts.error(message_of("unreachable", family), hosts.sent(8), source),
        bytes(hosts.header(src=source, dst=hosts.here) / echo / bytes(hosts.sent())),
    ]
    for packet in forged:
        assert hosts.crosses(packet) == DropReason.SELECTOR_MISMATCH
    assert hosts.a.counters(hosts.of_a).errors == {DropReason.SELECTOR_MISMATCH: len(forged)}
    assert hosts.crosses(hosts.error(message_of("unreachable", family), hosts.sent(), source)) == ""


@both_families
def test_an_error_to_somebody_else_than_the_sender_is_not_let_in(family: int) -> None:
    hosts = Gateways(family)
    other = "10.9.0.9" if family == 4 else "2001:db8:9::9"
    packet = hosts.error(message_of("unreachable", family), hosts.sent(), ROUTERS[family], destination=other)
    assert hosts.crosses(packet) == DropReason.NO_SA
    pair = hosts.b.pair(hosts.of_b)
    assert pair is not None
    assert hosts.a.unprotect(pair.outbound.seal(packet, 4 if family == 4 else 41)) is None
    assert hosts.a.last_drop == DropReason.SELECTOR_MISMATCH


@both_families
def test_one_error_that_passed_lets_no_other_pass_that_begins_alike(family: int) -> None:
    """Protocol, addresses, type, code and checksum are the same: what was looked up for one is not for the other."""
    hosts = Gateways(family)
    good = hosts.error(message_of("unreachable", family), hosts.sent(), ROUTERS[family])
    assert hosts.crosses(good) == ""
    checksum_at = 22 if family == 4 else 42
    bad = bytearray(hosts.error(message_of("unreachable", family), hosts.sent(8), ROUTERS[family]))
    bad[checksum_at : checksum_at + 2] = good[checksum_at : checksum_at + 2]
    assert hosts.crosses(bytes(bad)) == "in clear"
    pair = hosts.b.pair(hosts.of_b)
    assert pair is not None
    assert hosts.a.unprotect(pair.outbound.seal(bytes(bad), 4 if family == 4 else 41)) is None


def test_ports_are_seen_behind_the_extension_headers_of_a_quoted_packet() -> None:
    hosts = Gateways(6)
    options = IPv6ExtHdrDestOpt(options=[PadN(otype=1, optdata=bytes(4))])
    about = IPv6(src=hosts.here, dst=hosts.there) / options / UDP(sport=40000, dport=7) / bytes(64)
    assert hosts.crosses(hosts.error(ICMPv6DestUnreach(), about, ROUTERS[6])) == ""
    cut = hosts.error(ICMPv6DestUnreach(), about, ROUTERS[6], quoted=44)
    assert hosts.crosses(cut) == DropReason.NO_SA


@both_families
def test_where_a_policy_means_the_error_itself_that_decides(family: int) -> None:
    """A pair for ICMP, or a trap for it: the quote is not looked at."""
    hosts = Gateways(family)
    icmp = 1 if family == 4 else 58
    sides = [(TrafficSelector.from_network("0.0.0.0/0" if family == 4 else "::/0", icmp),)] * 2
    packet = hosts.error(message_of("unreachable", family), hosts.sent(), ROUTERS[family])
    a, b = GATEWAYS[family]
    trap = Trap("icmp", 9, Mode.TUNNEL, b, a, sides[0], sides[1])
    hosts.b.add_trap(trap)
    assert hosts.crosses(packet) == DropReason.NO_SA
    event = hosts.b.events.popleft()
    assert isinstance(event, Acquire)
    assert event.reqid == 9
    hosts.b.remove_trap(trap)
    of_a, of_b = child_pair(a=a, b=b, ts_a=sides[0], ts_b=sides[1], spis=(0x3003, 0x4004), seed=2)
    hosts.a.install(of_a)
    hosts.b.install(of_b)
    sealed = hosts.b.protect(packet)
    assert sealed is not None
    assert sealed[0].child == of_b
    assert hosts.a.unprotect(sealed[1]) == packet


@pytest.mark.parametrize("kind", ERRORS)
@both_families
def test_no_error_is_sent_about_an_error_nor_about_a_later_fragment(family: int, kind: str) -> None:
    """RFC 1122 section 3.2.2, RFC 4443 section 2.4."""
    hosts = Gateways(family)
    assert _may_be_answered(bytes(hosts.sent()))  # type: ignore[call-overload]
    for quoted in (0, 512):
        error = hosts.error(message_of(kind, family), hosts.sent(), ROUTERS[family], quoted=quoted)
        assert not _may_be_answered(error)
    echo = ICMP(type=8) if family == 4 else ICMPv6EchoRequest()
    assert _may_be_answered(bytes(hosts.header(src=hosts.here, dst=hosts.there) / echo))
    if family == 4:
        first, later = (
            bytes(IP(src=hosts.here, dst=hosts.there, flags="MF", frag=at) / bytes(64)) for at in (0, 8)
        )
        assert _may_be_answered(first)
        assert not _may_be_answered(later)
