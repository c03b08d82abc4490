"""ESP packet by packet against scapy's own implementation, in both directions, for every transform and mode."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ipsec = pytest.importorskip("scapy.layers.ipsec", reason="scapy is not installed")
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.packet import Padding  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair, everything, udp_packet  # noqa: E402

from ikev2.core.child_sa import ChildSaParameters, UdpEncap  # noqa: E402
from ikev2.core.types import Mode  # noqa: E402
from ikev2.crypto.secret import SecretOctets  # noqa: E402
from ikev2.ipsec.memory import esp_of  # noqa: E402
from ikev2.ipsec.outer import outer_packet  # noqa: E402
from ikev2.ipsec.sad import Engine  # noqa: E402

# Ours: scapy's names of encryption and integrity.
ORACLE = {
    "aes128gcm16": ("AES-GCM", None),
    "aes256gcm16": ("AES-GCM", None),
    "aes128ccm16": ("AES-CCM", None),
    "aes192ccm12": ("AES-CCM", None),
    "aes256ccm8": ("AES-CCM", None),
    "chacha20poly1305": ("CHACHA20-POLY1305", None),
    "aes128-sha256": ("AES-CBC", "SHA2-256-128"),
    "aes256-sha384": ("AES-CBC", "SHA2-384-192"),
    "aes256-sha512": ("AES-CBC", "SHA2-512-256"),
    "aes128-sha1": ("AES-CBC", "HMAC-SHA1-96"),
    "aes128ctr-sha256": ("AES-CTR", "SHA2-256-128"),
    "aes256-aescmac": ("AES-CBC", "AES-CMAC-96"),
    "null-sha256": ("NULL", "SHA2-256-128"),
    "aes128gmac": ("AES-NULL-GMAC", None),
    "aes192gmac": ("AES-NULL-GMAC", None),
    "aes256gmac": ("AES-NULL-GMAC", None),
}
# scapy knows their ICV of 16 octets only.
SHORT_GCM = {"aes192gcm12": 12, "aes128gcm8": 8}
ICV_OCTETS = {"aes192ccm12": 12, "aes256ccm8": 8}
"""Where it is not what scapy takes by itself."""
SIZES = (0, 1, 2, 3, 13, 16, 100, 1200)

every_case = pytest.mark.parametrize(
    ("name", "mode", "esn", "encap"),
    [
        pytest.param(name, mode, esn, encap, id=f"{name}-{mode}{'-esn' * esn}{'-udp' * encap}")
        for name in ORACLE
        for mode in Mode
        for esn, encap in ((False, False), (True, False), (False, True))
    ],
)


def scapy_sa(child: ChildSaParameters, name: str) -> ipsec.SecurityAssociation:
    """What `child` sends, as scapy knows it."""
    crypt, auth = ORACLE.get(name, ("AES-GCM", None))
    tunnel = IP(src=child.local, dst=child.remote) if child.mode is Mode.TUNNEL else None
    nat = UDP(sport=child.encap.local_port, dport=child.encap.remote_port) if child.encap else None
    return ipsec.SecurityAssociation(
        ipsec.ESP,
        spi=child.spi_out,
        crypt_algo=crypt,
        crypt_key=child.encr_key_out.octets,
        crypt_icv_size=ICV_OCTETS.get(name),
        auth_algo=auth,
        auth_key=child.integ_key_out.octets if child.integ_key_out else None,
        tunnel_header=tunnel,
        nat_t_header=nat,
        esn_en=child.suite.esn,
    )


def made(name: str, mode: Mode, esn: bool, encap: bool) -> tuple[ChildSaParameters, ChildSaParameters]:
    return child_pair(name, mode=mode, esn=esn, encap=UdpEncap(4500, 4500) if encap else None)


@every_case
def test_scapy_opens_what_we_seal(name: str, mode: Mode, esn: bool, encap: bool) -> None:
    of_a, _ = made(name, mode, esn, encap)
    engine = Engine()
    engine.install(of_a)
    oracle = scapy_sa(of_a, name)
    for octets in SIZES:
        packet = udp_packet(data=bytes(octets), ttl=63)
        result = engine.protect(packet)
        assert result is not None
        sent = outer_packet(*result)
        assert len(IP(sent)) == len(sent)
        assert bytes(oracle.decrypt(IP(sent))) == packet


@every_case
def test_we_open_what_scapy_seals(name: str, mode: Mode, esn: bool, encap: bool) -> None:
    of_a, of_b = made(name, mode, esn, encap)
    engine = Engine()
    engine.install(of_b)
    oracle = scapy_sa(of_a, name)
    for number, octets in enumerate(SIZES, 1):
        packet = udp_packet(data=bytes(octets), ttl=63)
        # scapy begins at sequence number 1 and pads with 1, 2, 3, ... as RFC 4303 section 2.4 says.
        sealed = bytes(oracle.encrypt(IP(packet), seq_num=number, esn=0))
        found = esp_of(sealed)
        assert found is not None
        esp, header = found
        assert engine.unprotect(esp, sealed[1], sealed[8], header) == packet
    assert engine.counters(of_b).packets_in == len(SIZES)
    assert engine.counters(of_b).errors == {}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", SHORT_GCM)
def test_a_short_icv_of_gcm_is_the_beginning_of_the_one_that_scapy_makes(name: str, mode: Mode) -> None:
    """RFC 4106 section 6, SP 800-38D section 7.1: with the same IV, octet for octet, but for the end of the tag."""
    of_a, of_b = child_pair(name, mode=mode)
    a, b = Engine(), Engine()
    a.install(of_a)
    b.install(of_b)
    oracle = scapy_sa(of_a, name)
    for number, octets in enumerate(SIZES, 1):
        packet = udp_packet(data=bytes(octets), ttl=63)
        sealed = bytes(oracle.encrypt(IP(packet), seq_num=number, iv=number.to_bytes(8, "big")))
        found = esp_of(sealed)
        assert found is not None
        esp, header = found
        ours = a.protect(packet)
        assert ours is not None
        assert ours[1] == esp[: len(esp) - 16 + SHORT_GCM[name]]
        assert b.unprotect(ours[1], sealed[1], sealed[8], header) == packet


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("encap", [False, True], ids=["", "udp"])
@pytest.mark.parametrize("name", ORACLE)
def test_scapy_finds_the_packet_and_behind_it_the_padding_that_makes_all_alike(
    name: str, encap: bool, inner: int
) -> None:
    """RFC 4303 section 2.7: the length that the packet says of itself stays, so the receiver knows where it ends."""
    made_a, made_b = child_pair(
        name,
        encap=UdpEncap(4500, 4500) if encap else None,
        **({} if inner == 4 else {"ts_a": everything("2001:db8::1"), "ts_b": everything("2001:db8::2")}),
    )
    a, b = Engine(), Engine()
    of_a = replace(made_a, tfc_padding=1000)
    a.install(of_a)
    b.install(made_b)
    oracle = scapy_sa(of_a, name)
    lengths = set()
    for octets in (*SIZES[:-1], 900):
        if inner == 4:
            packet = udp_packet(data=bytes(octets), ttl=63)
        else:
            packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=7) / bytes(octets))
        result = a.protect(packet)
        assert result is not None
        sent = outer_packet(*result)
        lengths.add(len(sent))
        opened = oracle.decrypt(IP(sent))
        assert bytes(opened)[: len(packet)] == packet
        assert bytes(opened)[len(packet) :] == bytes(1000 - len(packet))
        assert b.unprotect(result[1]) == packet
    assert len(lengths) == 1
    # What is longer than that passes as it is.
    if inner == 4:
        packet = udp_packet(data=bytes(1100))
        result = a.protect(packet)
        assert result is not None
        assert bytes(oracle.decrypt(IP(outer_packet(*result)))) == packet


@pytest.mark.parametrize("name", ORACLE)
def test_what_scapy_pads_is_cut_to_the_length_that_the_packet_says(name: str) -> None:
    """RFC 4303 section 2.7: no requirements for the padding's value; here it is random."""
    of_a, of_b = child_pair(name)
    engine = Engine()
    engine.install(of_b)
    oracle = scapy_sa(of_a, name)
    for number, octets in enumerate((0, 1, 7, 255, 256, 900), 1):
        packet = udp_packet(data=b"inside")
        padded = IP(packet) / Padding(random.Random(octets).randbytes(octets))
        esp, header = esp_of(bytes(oracle.encrypt(padded, seq_num=number))) or (b"", b"")
        assert engine.unprotect(esp, 0, 64, header) == packet
    assert engine.counters(of_b).errors == {}


@pytest.mark.parametrize("name", ORACLE)
@pytest.mark.parametrize("octets", [0, 1, 20, 1000])
def test_scapy_sees_a_dummy_packet_by_its_next_header_and_ours_are_dropped_in_silence(
    name: str, octets: int
) -> None:
    """RFC 4303 section 2.6: next header 59; the payload may be anything, and the drop is no error of the SA's."""
    of_a, of_b = child_pair(name)
    a, b = Engine(), Engine()
    a.install(of_a)
    b.install(of_b)
    oracle = scapy_sa(of_a, name)
    pair, esp, inside = a.dummy(of_a, octets)
    outer = outer_packet(pair, esp, inside)
    signed = ipsec.ESP(esp[: -oracle.auth_algo.icv_size] if oracle.auth_key else esp)
    plain = oracle.crypt_algo.decrypt(oracle, signed, oracle.crypt_key, oracle.crypt_icv_size)
    assert (plain.nh, len(plain.data)) == (59, octets)
    assert IP(outer).proto == 50
    assert b.unprotect(esp) is None
    assert b.counters(of_b).errors == {"dummy": 1}
    assert not b.drops
    # It has its sequence number like any other, and the next one passes.
    assert b.unprotect(esp) is None
    assert b.counters(of_b).errors == {"dummy": 1, "replay": 1}
    result = a.protect(udp_packet())
    assert result is not None
    assert b.unprotect(result[1]) == udp_packet()


# Those that scapy has with an explicit IV.
EXPLICIT = {
    "aes128ccm8iiv": ("AES-CCM", 8),
    "aes256gcm16iiv": ("AES-GCM", 16),
    "chacha20poly1305iiv": ("CHACHA20-POLY1305", 16),
}


@pytest.mark.parametrize("first", [0, 0xFFFFFFFD], ids=["first", "at-2**32"])
@pytest.mark.parametrize("esn", [False, True], ids=["", "esn"])
@pytest.mark.parametrize("name", EXPLICIT)
def test_a_packet_with_an_implicit_iv_is_one_with_that_iv_left_out(name: str, esn: bool, first: int) -> None:
    """RFC 8750 section 4: put the sequence number in as IV, and scapy opens the packet of RFC 4106, 4309, 7634."""
    of_a, of_b = child_pair(name, esn=esn)
    a, b = Engine(), Engine()
    pair = a.install(of_a)
    b.install(of_b).inbound.window.top = first
    pair.outbound.sequence = first
    crypt, icv_octets = EXPLICIT[name]
    oracle = ipsec.SecurityAssociation(
        ipsec.ESP,
        spi=of_a.spi_out,
        crypt_algo=crypt,
        crypt_key=of_a.encr_key_out.octets,
        crypt_icv_size=icv_octets,
        tunnel_header=IP(src=of_a.local, dst=of_a.remote),
        esn_en=esn,
    )
    for sequence in range(first + 1, first + (6 if esn else 3)):
        packet = udp_packet(data=bytes(sequence & 0xFF))
        result = a.protect(packet)
        assert result is not None
        _, esp, _ = result
        padded = -(len(packet) + 2) % 4 + len(packet) + 2
        assert len(esp) == 8 + padded + icv_octets, "no octet of an IV"
        explicit = esp[:8] + sequence.to_bytes(8, "big") + esp[8:]
        outer = bytes(IP(src=of_a.local, dst=of_a.remote, proto=50) / explicit)
        opened = oracle.decrypt(IP(outer), esn_en=esn, esn=sequence >> 32)
        assert bytes(opened) == packet
        assert b.unprotect(esp) == packet
        # And the other way: what scapy makes with that IV, without it.
        oracle.seq_num = sequence & 0xFFFFFFFF  # given as an argument, scapy takes 0 for no number
        iv = sequence.to_bytes(8, "big")
        theirs = oracle.encrypt(IP(packet), iv=iv, esn_en=esn, esn=sequence >> 32)
        made = bytes(theirs)[20:]
        assert made[:8] + made[16:] == esp


@pytest.mark.req("rfc7296-s2.22-04")
def test_nothing_is_compressed_though_the_peer_would_take_it() -> None:
    """Both ends have said IPCOMP_SUPPORTED (DEFLATE); scapy finds the packet as it was, and no IPComp header (108)."""
    from sim.network import A, B, Network, connection, up

    from ikev2.core.impair import Knob

    network = Network()
    knob = Knob.parse("add:IKE_AUTH:*:*:N(IPCOMP_SUPPORTED)=123402")
    a = network.add("a", A, [connection(A, B)], impairments=[knob])
    b = network.add("b", B, [connection(B, A)], impairments=[knob])
    up(network, a)
    (child,) = a.installed.values()
    assert len(b.installed) == 1
    engine = Engine()
    engine.install(child)
    inner = udp_packet(data=bytes(1000))
    protected = engine.protect(inner)
    assert protected is not None
    pair, esp, _ = protected
    assert len(esp) > len(inner)
    plain = scapy_sa(child, "aes256gcm16").decrypt(IP(outer_packet(pair, esp, inner)))
    assert bytes(plain) == inner


@pytest.mark.req("rfc7296-s2.13-02")
@pytest.mark.parametrize("octet", [0x00, 0x01, 0x80, 0xFF])
@pytest.mark.parametrize("name", ORACLE)
def test_every_octets_are_a_key_of_every_cipher(name: str, octet: int) -> None:
    """None of them has weak or malformed keys (as DES has, by parity): what KEYMAT gives is taken as it is."""
    made, _ = child_pair(name)

    def filled(key: SecretOctets) -> SecretOctets:
        return SecretOctets("key", bytes([octet]) * len(key.octets))

    integ = None if made.integ_key_out is None else filled(made.integ_key_out)
    child = replace(made, encr_key_out=filled(made.encr_key_out), integ_key_out=integ)
    engine = Engine()
    engine.install(child)
    packet = udp_packet(data=bytes(100))
    result = engine.protect(packet)
    assert result is not None
    assert bytes(scapy_sa(child, name).decrypt(IP(outer_packet(*result)))) == packet
