"""The NAT of the lab, sans I/O, on a virtual clock; scapy says whether headers and checksums are right."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP

from interop.lab import nat as nat_module
from interop.lab.nat import Nat44

INSIDE, OTHER, PUBLIC, SERVER = "10.0.0.2", "10.0.0.3", "203.0.113.5", "203.0.113.2"


def nat(**options: float) -> Nat44:
    return Nat44(PUBLIC, ("10.0.0.0/24",), seed=7, **options)  # type: ignore[arg-type]


def datagram(
    source: str = INSIDE, sport: int = 4500, destination: str = SERVER, dport: int = 4500, **ip: int
) -> bytes:
    return bytes(IP(src=source, dst=destination, **ip) / UDP(sport=sport, dport=dport) / b"octets")


def correct(packet: bytes) -> IP:
    """The packet as scapy reads it; its checksums are those that scapy computes."""
    seen = IP(packet)
    again = IP(packet)
    del again.chksum
    del again[seen.payload.name].chksum
    assert bytes(again) == packet
    return seen


def test_out_and_back_with_another_port_and_right_checksums() -> None:
    box = nat()
    out = correct(box.translate(datagram(tos=3, id=77, flags="DF"), 0.0) or b"")  # type: ignore[arg-type]
    assert (out.src, out.dst, out[UDP].dport, bytes(out[UDP].payload)) == (PUBLIC, SERVER, 4500, b"octets")
    assert (out.tos, out.id, str(out.flags)) == (3, 77, "DF")
    assert box.ports(INSIDE) == {4500: out[UDP].sport}
    assert out[UDP].sport != 4500
    back = correct(box.translate(datagram(SERVER, 4500, PUBLIC, out[UDP].sport), 1.0) or b"")
    assert (back.src, back.dst, back[UDP].sport, back[UDP].dport) == (SERVER, INSIDE, 4500, 4500)


def test_tcp_too_and_a_udp_checksum_of_zero_stays_zero() -> None:
    box = nat()
    packet = bytes(IP(src=INSIDE, dst=SERVER) / TCP(sport=1025, dport=862, flags="S"))
    assert correct(box.translate(packet, 0.0) or b"")[TCP].dport == 862
    without = bytes(IP(src=INSIDE, dst=SERVER) / UDP(sport=4500, dport=4500, chksum=0) / b"ESP")
    assert IP(box.translate(without, 0.0))[UDP].chksum == 0


def test_a_mapping_is_of_the_inner_port_whoever_the_remote_is_and_each_host_has_its_own() -> None:
    box = nat()
    ports = {
        IP(box.translate(datagram(source, 4500, remote, dport), 0.0))[UDP].sport
        for source in (INSIDE, OTHER)
        for remote, dport in ((SERVER, 4500), (SERVER, 500), ("198.51.100.1", 4500))
    }
    assert ports == {box.ports(INSIDE)[4500], box.ports(OTHER)[4500]}
    assert len(ports) == 2


def test_only_who_was_sent_to_may_answer() -> None:
    box = nat()
    port = IP(box.translate(datagram(), 0.0))[UDP].sport
    for source, sport, destination, dport in (
        ("198.51.100.1", 4500, PUBLIC, port),
        (SERVER, 4501, PUBLIC, port),
        (SERVER, 4500, PUBLIC, port + 1),
        (SERVER, 4500, "203.0.113.6", port),
    ):
        assert box.translate(datagram(source, sport, destination, dport), 0.0) is None
    assert box.dropped == {"no-mapping": 4}


def test_use_from_inside_keeps_a_mapping_and_use_from_outside_does_not() -> None:
    """RFC 4787 section 4.3, REQ-6."""
    box = nat(mapping_s=10.0)
    port = IP(box.translate(datagram(), 0.0))[UDP].sport
    assert IP(box.translate(datagram(), 10.0))[UDP].sport == port
    assert box.translate(datagram(SERVER, 4500, PUBLIC, port), 20.0) is not None
    assert box.translate(datagram(SERVER, 4500, PUBLIC, port), 20.1) is None
    assert IP(box.translate(datagram(), 20.2))[UDP].sport != port


def test_rebinding_gives_ports_that_were_never_used_and_closes_the_old_ones() -> None:
    box = nat()
    ports = []
    for _ in range(50):
        ports.append(IP(box.translate(datagram(), 0.0))[UDP].sport)
        box.rebind()
    assert len(set(ports)) == 50
    assert box.translate(datagram(SERVER, 4500, PUBLIC, ports[-1]), 0.0) is None


def test_ports_that_are_free_again_come_again_when_all_have_been_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_module, "_PORTS", 8)
    monkeypatch.setattr(nat_module, "_HIGHEST_PORT", nat_module._LOWEST_PORT + 7)
    box = nat(mapping_s=10.0)
    ports = {IP(box.translate(datagram(sport=1000 + number), 0.0))[UDP].sport for number in range(8)}
    assert len(ports) == 8
    assert box.translate(datagram(sport=1008), 1.0) is None
    assert box.dropped == {"no-port": 1}
    assert IP(box.translate(datagram(sport=1000), 9.0))[UDP].sport in ports
    assert IP(box.translate(datagram(sport=1008), 11.0))[UDP].sport in ports


def test_one_seed_is_one_sequence_of_ports() -> None:
    def first_ports(seed: int) -> list[int]:
        box = Nat44(PUBLIC, ("10.0.0.0/24",), seed=seed)
        return [IP(box.translate(datagram(sport=number), 0.0))[UDP].sport for number in (500, 4500, 1024)]

    assert first_ports(1) == first_ports(1) != first_ports(2)


@pytest.mark.parametrize(
    "packet", [bytes(IP(src=INSIDE, dst=SERVER, proto=50) / bytes(40)), bytes(IP(src=INSIDE, dst=SERVER) / ICMP())]
)
def test_what_has_no_ports_does_not_get_through(packet: bytes) -> None:
    """ESP itself among it: what RFC 3948 is for."""
    box = nat()
    assert box.translate(packet, 0.0) is None
    assert box.dropped == {f"protocol-{packet[9]}": 1}


def test_keepalives_are_counted_by_who_sent_them() -> None:
    box = nat()
    packet = bytes(IP(src=INSIDE, dst=SERVER) / UDP(sport=4500, dport=4500) / b"\xff")
    assert box.translate(packet, 0.0) is not None
    assert box.keepalives == {(INSIDE, 4500): 1}
