"""tshark reads our unauthenticated TWAMP-Test packets as we mean them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

SENDER, REFLECTOR = ("192.0.2.1", 18700), ("192.0.2.2", 18760)
T1, T2, T3 = 0xEC000000_40000000, 0xEC000000_80000000, 0xEC000000_C0000000


def udp_in_ipv4(source: tuple[str, int], target: tuple[str, int], payload: bytes, ttl: int) -> bytes:
    """An IPv4 packet; the UDP checksum is left out (zero)."""
    addresses = b"".join(bytes(map(int, host.split("."))) for host, _ in (source, target))
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, ttl, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return header[:10] + checksum.to_bytes(2, "big") + header[12:] + udp


def pcap(packets: list[bytes]) -> bytes:
    """A capture file of raw IP packets."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for number, packet in enumerate(packets):
        out += struct.pack("<IIII", 1_700_000_000, number, len(packet), len(packet)) + packet
    return out


def tshark(path: Path, *arguments: str) -> list[str]:
    # Without the Control connection the dissector reads every packet by the reflector's layout.
    command = ["tshark", "-n", "-r", str(path), "-d", f"udp.port=={REFLECTOR[1]},twamp.test", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    sender = SessionSender(SenderPlan(bytes(16), 1, None, SENDER, REFLECTOR, 3, padding_octets=27))
    stamps = iter([T3, T3 + 1, T3 + 2])
    plan = ReflectorPlan(bytes(16), 1, None, REFLECTOR, SENDER)
    reflector = SessionReflector(plan, lambda: next(stamps), 0x0A07)
    reflector.start(0)
    packets = []
    for sequence in range(3):
        sender.prepare(sequence)
        request = bytes(sender.pack(sequence, T1 + sequence, 0x8A01))
        reply = reflector.handle(request, 61, T2 + sequence, SENDER)
        assert reply is not None
        packets += [
            udp_in_ipv4(SENDER, REFLECTOR, request, 255),
            udp_in_ipv4(REFLECTOR, SENDER, bytes(reply), 255),
        ]
    path = tmp_path / "twamp.pcap"
    path.write_bytes(pcap(packets))
    return path


def test_nothing_is_malformed(capture: Path) -> None:
    assert tshark(capture, "-Y", "_ws.malformed") == []
    assert len(tshark(capture, "-Y", "twamp.test")) == 6


def test_the_fields_of_a_reply(capture: Path) -> None:
    names = [
        "seq_number",
        "error_estimate",
        "error_estimate.multiplier",
        "error_estimate.scale",
        "sender_seq_number",
        "sender_ttl",
    ]
    wanted = [argument for name in names for argument in ("-e", f"twamp.test.{name}")]
    rows = tshark(capture, "-Y", f"udp.srcport=={REFLECTOR[1]}", "-T", "fields", *wanted)
    assert len(rows) == 3
    for number, row in enumerate(rows):
        assert dict(zip(names, row.split("\t"), strict=True)) == {
            "seq_number": str(number),
            "error_estimate": str(0x0A07),
            "error_estimate.multiplier": "7,1",  # the reflector's, and the sender's that it copied
            "error_estimate.scale": "10,10",
            "sender_seq_number": str(number),
            "sender_ttl": "61",
        }


def test_the_stamps_of_a_reply(capture: Path) -> None:
    reply = f"udp.srcport=={REFLECTOR[1]} && twamp.test.sender_seq_number == 0"
    lines = [line.strip() for line in tshark(capture, "-V", "-Y", reply)]
    # 0xEC000000 seconds after 1900, and three quarters, a half, a quarter of a second.
    for line in (
        "Timestamp: Jun 20, 2025 15:42:56.750000000 UTC",
        "Receive Timestamp: Jun 20, 2025 15:42:56.500000000 UTC",
        "Sender Timestamp: Jun 20, 2025 15:42:56.250000000 UTC",
    ):
        assert line in lines
