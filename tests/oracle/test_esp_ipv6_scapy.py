"""ESP over IPv6, and one family in the other, packet by packet against scapy's own implementation; malformed chains."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ipsec = pytest.importorskip("scapy.layers.ipsec", reason="scapy is not installed")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from scapy.layers.inet import IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    MIP6MH_BU,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    MIP6MH_HoTI,
    PadN,
    defragment6,
    fragment6,
    in6_chksum,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair  # noqa: E402

from ikev2.core.child_sa import ChildSaParameters, UdpEncap  # noqa: E402
from ikev2.core.types import Mode  # noqa: E402
from ikev2.ipsec import ip, ipv6  # noqa: E402
from ikev2.ipsec.backend import DropReason  # noqa: E402
from ikev2.ipsec.fragments import Reassembler  # noqa: E402
from ikev2.ipsec.ipv4 import NO_PORT, MalformedPacket, readdressed  # noqa: E402
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork, esp_of  # noqa: E402
from ikev2.ipsec.outer import outer_packet  # noqa: E402
from ikev2.ipsec.sad import Engine  # noqa: E402
from ikev2.wire.payloads.ts import TrafficSelector  # noqa: E402

A6, B6 = "2001:db8::1", "2001:db8::2"
A4, B4 = "192.0.2.1", "192.0.2.2"
ANY6, ANY4 = (TrafficSelector.from_network("::/0"),), (TrafficSelector.from_network("0.0.0.0/0"),)
SIZES = (0, 1, 3, 16, 100, 1200)

Ends = tuple[ChildSaParameters, ChildSaParameters]


def ends(
    mode: Mode = Mode.TUNNEL, *, name: str = "aes256gcm16", udp: bool = False, outer: int = 6, **more: object
) -> Ends:
    a, b = (A6, B6) if outer == 6 else (A4, B4)
    encap = UdpEncap(4500, 4500) if udp else None
    return child_pair(name, mode=mode, a=a, b=b, encap=encap, **more)  # type: ignore[arg-type]


def oracle_of(child: ChildSaParameters) -> ipsec.SecurityAssociation:
    """What `child` sends, as scapy knows it; ESP in UDP is taken out of its UDP before (scapy does that for IPv4)."""
    cbc = child.integ_key_out is not None
    header = IPv6 if ":" in child.local else IP
    return ipsec.SecurityAssociation(
        ipsec.ESP,
        spi=child.spi_out,
        crypt_algo="AES-CBC" if cbc else "AES-GCM",
        crypt_key=child.encr_key_out.octets,
        auth_algo="SHA2-256-128" if cbc else None,
        auth_key=child.integ_key_out.octets if child.integ_key_out else None,
        tunnel_header=header(src=child.local, dst=child.remote) if child.mode is Mode.TUNNEL else None,
    )


def datagram(
    octets: int = 10, source: str = A6, destination: str = B6, extensions: object = None, **fields: int
) -> bytes:
    ip = IPv6(src=source, dst=destination, **fields) if ":" in source else IP(src=source, dst=destination, **fields)
    chain = ip if extensions is None else ip / extensions
    return bytes(chain / UDP(sport=40000, dport=7) / bytes(octets))


def without_udp(packet: bytes) -> IPv6:
    seen = IPv6(packet)
    assert seen.nh == 17
    checked = IPv6(packet)
    del checked[UDP].chksum
    assert bytes(checked) == packet  # scapy's own checksum
    return IPv6(
        bytes(IPv6(src=seen.src, dst=seen.dst, tc=seen.tc, hlim=seen.hlim, nh=50) / bytes(seen[UDP].payload))
    )


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", ["aes256gcm16", "aes128-sha256"])
def test_scapy_opens_what_we_seal(name: str, mode: Mode, udp: bool) -> None:
    of_a, _ = ends(mode, name=name, udp=udp)
    engine = Engine()
    engine.install(of_a)
    oracle = oracle_of(of_a)
    for octets in SIZES:
        packet = datagram(octets, tc=0xA4, hlim=61)
        result = engine.protect(packet)
        assert result is not None
        sent = outer_packet(*result)
        outer = IPv6(sent)
        assert (outer.tc, outer.plen) == (0xA4, len(sent) - 40)
        inner = oracle.decrypt(without_udp(sent) if udp else outer)
        assert bytes(inner) == packet


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", ["aes256gcm16", "aes128-sha256"])
def test_we_open_what_scapy_seals(name: str, mode: Mode) -> None:
    of_a, of_b = ends(mode, name=name)
    engine = Engine()
    engine.install(of_b)
    oracle = oracle_of(of_a)
    for number, octets in enumerate(SIZES, 1):
        packet = datagram(octets, hlim=61)
        sealed = bytes(oracle.encrypt(IPv6(packet), seq_num=number))
        found = esp_of(sealed)
        assert found is not None
        assert engine.unprotect(found[0], ipv6.traffic_class(sealed), sealed[7]) == packet
    assert engine.counters(of_b).packets_in == len(SIZES)
    assert engine.counters(of_b).errors == {}


@pytest.mark.parametrize("outer", [4, 6])
def test_one_family_in_the_other_and_back(outer: int) -> None:
    of_a, of_b = ends(outer=outer, ts_a=(*ANY4, *ANY6), ts_b=(*ANY4, *ANY6))
    sender, receiver = Engine(), Engine()
    sender.install(of_a)
    receiver.install(of_b)
    oracle = oracle_of(of_a)
    for packet in (datagram(100), datagram(100, "10.0.0.1", "10.0.0.2")):
        result = sender.protect(packet)
        assert result is not None
        sent = outer_packet(*result)
        assert bytes(oracle.decrypt((IPv6 if outer == 6 else IP)(sent))) == packet
        found = esp_of(sent)
        assert found is not None
        assert receiver.unprotect(found[0]) == packet


def test_selectors_of_one_family_do_not_let_the_other_in() -> None:
    """::c000:201 and 192.0.2.1 are one number."""
    of_a, of_b = ends(ts_a=(TrafficSelector.from_network("::c000:201/128"),), ts_b=ANY6)
    sender, receiver = Engine(), Engine()
    sender.install(of_a)
    assert sender.protect(datagram(1, "192.0.2.1", "192.0.2.2")) is None
    assert sender.drops == {DropReason.NO_SA: 1}
    receiver.install(of_b)
    sealed = esp_of(bytes(oracle_of(of_a).encrypt(IP(datagram(1, "192.0.2.1", "192.0.2.2")), seq_num=1)))
    assert sealed is not None
    assert receiver.unprotect(sealed[0]) is None
    assert receiver.counters(of_b).errors == {DropReason.SELECTOR_MISMATCH: 1}


PAD = PadN(optdata=bytes(4))
CHAINS = {
    "hop-by-hop": (IPv6ExtHdrHopByHop(options=[PAD]), 48),
    "routing": (IPv6ExtHdrRouting(type=0, segleft=0, addresses=[B6]), 64),
    "hop-by-hop, destination, routing": (
        IPv6ExtHdrHopByHop(options=[PAD])
        / IPv6ExtHdrDestOpt(options=[PAD])
        / IPv6ExtHdrRouting(type=0, segleft=0, addresses=[B6]),
        40 + 8 + 8 + 24,
    ),
    "destination": (IPv6ExtHdrDestOpt(options=[PAD]), 40),
    "hop-by-hop, destination": (IPv6ExtHdrHopByHop(options=[PAD]) / IPv6ExtHdrDestOpt(options=[PAD]), 48),
}


@pytest.mark.parametrize("chain", list(CHAINS))
def test_esp_goes_behind_what_routers_look_at_and_before_the_rest(chain: str) -> None:
    """RFC 4303 section 3.1.1: after hop-by-hop and routing; destination options for the end go inside."""
    extensions, place = CHAINS[chain]
    packet = datagram(20, extensions=extensions)
    of_a, of_b = ends(Mode.TRANSPORT)
    engine, peer = Engine(), Engine()
    engine.install(of_a)
    peer.install(of_b)
    result = engine.protect(packet)
    assert result is not None
    sent = outer_packet(*result)
    cut = ipv6.chain_of(packet)
    assert cut.cut == place
    assert sent[:4] == packet[:4]
    assert sent[place : place + 4] == of_a.spi_out.to_bytes(4, "big")
    assert sent[cut.cut_name] == 50
    # The kernel takes off what stands before ESP; the rest is as it was.
    opened = peer.unprotect(sent[place:], 0, packet[7])
    assert opened is not None
    assert opened[40:] == packet[place:]
    assert IPv6(opened)[UDP].dport == 7
    assert ipv6.flow_of(packet).destination_port == 7


def test_ports_and_icmp_types_are_seen_behind_extension_headers() -> None:
    of_a, _ = ends(ts_b=(TrafficSelector.from_network(f"{B6}/128", 58, 0x8000, 0x80FF),), ts_a=(
        TrafficSelector.from_network(f"{A6}/128", 58, 0x8000, 0x80FF),))  # fmt: skip
    engine = Engine()
    engine.install(of_a)
    echo = bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrDestOpt(options=[PAD]) / ICMPv6EchoRequest())
    assert engine.protect(echo) is not None
    too_big = bytes(IPv6(src=A6, dst=B6) / ICMPv6PacketTooBig())
    assert engine.protect(too_big) is None


@pytest.mark.parametrize(
    "extensions", [None, IPv6ExtHdrHopByHop(options=[PAD]), CHAINS["hop-by-hop, destination, routing"][0]]
)
def test_scapy_puts_our_fragments_together_and_we_those_of_scapy(extensions: object) -> None:
    packet = datagram(3000, extensions=extensions)
    ours = ipv6.fragments(packet, 1280, 7)
    assert all(len(piece) <= 1280 for piece in ours)
    assert bytes(defragment6([IPv6(piece) for piece in ours])) == packet
    begun = IPv6(src=A6, dst=B6) if extensions is None else IPv6(src=A6, dst=B6) / extensions
    template = begun / IPv6ExtHdrFragment(id=9) / UDP(sport=40000, dport=7) / bytes(3000)
    theirs = [bytes(piece) for piece in fragment6(template, 1280)]
    random.Random(3).shuffle(theirs)
    reassembler = Reassembler()
    assert [reassembler.add(piece) for piece in theirs] == [None] * (len(theirs) - 1) + [packet]


def test_a_later_fragment_has_no_ports_and_goes_in_a_tunnel_as_it_is() -> None:
    later = ipv6.fragments(datagram(3000), 1280, 7)[1]
    flow = ipv6.flow_of(later)
    assert (flow.ip_protocol, flow.source_port, flow.destination_port) == (17, NO_PORT, NO_PORT)
    of_a, _ = ends()
    engine = Engine()
    engine.install(of_a)
    result = engine.protect(later)
    assert result is not None
    assert bytes(oracle_of(of_a).decrypt(IPv6(outer_packet(*result)))) == later


@pytest.mark.parametrize(("outer", "inner", "arrives"), [(3, 1, 3), (3, 2, 3), (3, 0, None), (0, 1, 1), (2, 2, 2)])
def test_congestion_on_the_way_is_handed_on(outer: int, inner: int, arrives: int | None) -> None:
    """RFC 6040 section 4.2, in the Traffic Class."""
    of_a, of_b = ends()
    engine, peer = Engine(), Engine()
    engine.install(of_a)
    peer.install(of_b)
    result = engine.protect(datagram(tc=0xB0 | inner))
    assert result is not None
    opened = peer.unprotect(result[1], 0xB0 | outer)
    assert (None if opened is None else IPv6(opened).tc) == (None if arrives is None else 0xB0 | arrives)


def test_checksums_follow_addresses_through_a_nat_of_ipv6() -> None:
    """TCP, UDP, and ICMPv6, whose checksum is over the addresses, too. RFC 3948 section 3.1.2, RFC 4443 section 2.3."""
    for layer in (TCP(sport=1, dport=2), UDP(sport=1, dport=2), ICMPv6EchoRequest(id=1)):
        before = IPv6(bytes(IPv6(src=A6, dst=B6) / layer / b"octets"))
        after = IPv6(bytes(IPv6(src="2001:db8:ffff::7", dst=B6) / layer / b"octets"))
        old, new = bytes(before)[8:40], bytes(after)[8:40]
        assert readdressed(bytes(before.payload), before.nh, old, new) == bytes(after.payload)


def test_checksums_follow_addresses_behind_extension_headers_and_in_dccp_and_mobility_headers() -> None:
    """RFC 4340 section 9.1, RFC 6275 section 6.1.1; RFC 3948 section 3.1.2."""
    elsewhere = "2001:db8:ffff::7"

    def ends_of(nat: bool, payload: bytes, next_header: int) -> IPv6:
        return IPv6(bytes(IPv6(src=elsewhere if nat else A6, dst=B6, nh=next_header) / payload))

    def dccp(nat: bool) -> bytes:
        head = bytes.fromhex("00010002 04000000 00000000 00000000")
        made = in6_chksum(33, IPv6(src=elsewhere if nat else A6, dst=B6), head)
        return head[:6] + made.to_bytes(2, "big") + head[8:]

    old, new = bytes(ends_of(False, b"", 59))[8:40], bytes(ends_of(True, b"", 59))[8:40]
    assert readdressed(dccp(False), 33, old, new) == dccp(True)
    before, after = (IPv6(bytes(IPv6(src=end, dst=B6) / MIP6MH_BU(seq=7))) for end in (A6, elsewhere))
    assert readdressed(bytes(before.payload), 135, old, new) == bytes(after.payload)

    of_a, of_b = ends(Mode.TRANSPORT, udp=True)
    a, b = Engine(), Engine()
    a.install(replace(of_a, local=elsewhere, ts_local=(TrafficSelector.from_network(f"{elsewhere}/128"),)))
    b.install(replace(of_b, nat_original_remote=elsewhere))
    options = IPv6ExtHdrDestOpt(options=[PAD])
    result = a.protect(datagram(source=elsewhere, extensions=options))
    assert result is not None
    assert b.unprotect(result[1]) == datagram(extensions=options)


def test_the_type_of_a_mobility_header_stands_for_its_ports() -> None:
    """RFC 4301 section 4.4.1.1: in the most significant octet."""
    packet = bytes(IPv6(src=A6, dst=B6) / MIP6MH_BU(seq=7))
    assert (ip.flow_of(packet).ip_protocol, ip.flow_of(packet).source_port) == (135, 0x0500)
    updates = (TrafficSelector.from_network(f"{A6}/128", 135, 0x0500, 0x05FF),)
    engine = Engine()
    engine.install(ends(ts_a=updates, ts_b=(TrafficSelector.from_network(f"{B6}/128", 135),))[0])
    assert engine.protect(packet) is not None
    assert engine.protect(bytes(IPv6(src=A6, dst=B6) / MIP6MH_HoTI())) is None


def test_packet_too_big_quotes_and_has_a_right_checksum() -> None:
    answer = IPv6(ipv6.packet_too_big(datagram(2000), 1400))
    assert (answer.src, answer.dst, answer[ICMPv6PacketTooBig].mtu, len(answer)) == (B6, A6, 1400, 1280)
    again = IPv6(bytes(answer))
    del again[ICMPv6PacketTooBig].cksum
    assert bytes(again) == bytes(answer)


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp"])
@pytest.mark.parametrize("mode", list(Mode))
def test_the_memory_backend_carries_ipv6(mode: Mode, udp: bool) -> None:
    network = MemoryNetwork()
    seen: list[bytes] = []
    network.taps.append(seen.append)
    of_a, of_b = ends(mode, udp=udp)
    a, b = MemoryBackend(network), MemoryBackend(network)
    arrived: list[bytes] = []
    b.on_packet = arrived.append
    a.install(of_a)
    b.install(of_b)
    a.send_packet(datagram(50))
    assert arrived == [datagram(50)]
    assert IPv6(seen[0]).nh == (17 if udp else 50)
    assert a.query(of_a).octets_out == b.query(of_b).octets_in == (98 if mode is Mode.TUNNEL else 58)


@given(st.binary(max_size=200), st.sampled_from([0, 17, 43, 44, 50, 58, 60]))
def test_no_octets_whatever_do_more_than_be_dropped(octets: bytes, next_header: int) -> None:
    of_a, _ = ends(ts_a=ANY6, ts_b=(TrafficSelector.from_network("::/0", 17, 7, 7),))
    engine = Engine()
    engine.install(of_a)
    engine.protect(b"\x60" + octets)
    whole = IPv6(src=A6, dst=B6, nh=next_header, plen=len(octets))
    engine.protect(bytes(whole) + octets)
    engine.protect(bytes(whole)[:39])


def test_a_chain_that_leads_out_of_the_packet_is_malformed() -> None:
    for packet in (
        datagram(extensions=IPv6ExtHdrHopByHop(options=[PAD]))[:44],
        bytes(IPv6(src=A6, dst=B6, nh=0, plen=8)) + bytes((17, 200, 0, 0, 0, 0, 0, 0)),
        bytes(IPv6(src=A6, dst=B6, nh=60, plen=8 * 20)) + bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 20,
    ):
        with pytest.raises(MalformedPacket):
            ipv6.flow_of(packet)
