"""tshark reads unauthenticated test packets of TWAMP and OWAMP, and every TWAMP-Control message that it knows.

The packets are those of our roles; the numbers in them are read back field by field, and nothing is malformed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ippm_control_peers import CLIENT, SERVER, WISH, SessionAccepted, pair_in_mode
from owamp_control_peers import NTP_NOW, SYNCHRONIZED
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from ippm.core.one_way_sender import OneWayPlan, OneWaySender
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_schedule import SessionSchedule
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.errors import RefuseSession
from ippm.iana import Mode

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


class Capture:
    """Segments and datagrams between the client and the server, in the order in which they are added."""

    def __init__(self) -> None:
        self.packets: list[Any] = []
        self.sequence = {True: 1000, False: 2000}

    def _add(self, from_client: bool, above: Any) -> None:
        source, target = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
        packet = (
            Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=source.host, dst=target.host) / above
        )
        packet.time = 1_700_000_000 + len(self.packets) / 1000
        self.packets.append(packet)

    def tcp(self, from_client: bool, octets: bytes, flags: str = "PA") -> None:
        source, target = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
        acknowledged = 0 if flags == "S" else self.sequence[not from_client]
        segment = TCP(
            sport=source.port, dport=target.port, flags=flags, seq=self.sequence[from_client], ack=acknowledged
        )
        self._add(from_client, segment / octets)
        self.sequence[from_client] += len(octets) + (flags in ("S", "SA"))

    def udp(self, from_client: bool, ports: tuple[int, int], octets: bytes) -> None:
        self._add(from_client, UDP(sport=ports[0], dport=ports[1]) / octets)

    def dissect(self, path: Path, *options: str) -> list[dict[str, Any]]:
        wrpcap(str(path), self.packets)
        done = subprocess.run(
            ["tshark", "-r", str(path), "-T", "json", *options],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        layers = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
        assert not [packet for packet in layers if "_ws.malformed" in packet or "malformed" in str(packet).lower()]
        return layers


def test_control_and_test_packets_of_one_session(tmp_path: Path) -> None:
    pair, capture = pair_in_mode(Mode.OPEN), Capture()

    def carry() -> None:
        while True:
            down, up = pair.server.data_to_send(), pair.client.data_to_send()
            if down:
                capture.tcp(False, down)
                pair.client.receive_data(down, pair.now)
            if up:
                capture.tcp(True, up)
                pair.server.receive_data(up, pair.now)
            if not up and not down:
                return

    capture.tcp(True, b"", "S")
    capture.tcp(False, b"", "SA")
    capture.tcp(True, b"", "A")
    carry()
    pair.client.request_session(WISH, pair.now)
    carry()
    (session,) = (event.session for event in pair.client_events() if isinstance(event, SessionAccepted))
    pair.hooks.refusal = RefuseSession(5, "no room")
    pair.client.request_session(WISH, pair.now)
    carry()
    pair.client.start_sessions(pair.now)
    carry()
    ends = (session.sender, session.reflector)
    sender = SessionSender(SenderPlan(session.sid, 1, None, *ends, count=3, padding_octets=WISH.padding_octets))
    reflector = SessionReflector(
        ReflectorPlan(session.sid, 1, None, ends[1], ends[0]), lambda: NTP_NOW + (3 << 32), 0x0503
    )
    reflector.start(0)
    for n in range(3):
        packet = bytes(sender.pack(n, NTP_NOW + (n << 32), SYNCHRONIZED))
        capture.udp(True, (session.sender.port, session.reflector.port), packet)
        reply = bytes(reflector.handle(packet, 63, NTP_NOW + (2 << 32), ends[0]) or b"")
        capture.udp(False, (session.reflector.port, session.sender.port), reply)
    pair.client.stop_sessions(pair.now)
    carry()

    layers = capture.dissect(tmp_path / "twamp.pcap")
    control = [packet["twamp.control"] for packet in layers if "twamp.control" in packet]
    assert len(control) == 10
    accepts = [int(message["twamp.control.accept"]) for message in control if "twamp.control.accept" in message]
    assert accepts[:3] == [0, 0, 5]
    test = [packet["twamp.test"] for packet in layers if "twamp.test" in packet]
    assert len(test) == 6
    for n in range(3):
        there, back = test[2 * n], test[2 * n + 1]
        assert int(there["twamp.test.seq_number"]) == int(back["twamp.test.sender_seq_number"]) == n
        assert there["twamp.test.timestamp"] == back["twamp.test.sender_timestamp"]
        assert int(there["twamp.test.error_estimate"], 0) == SYNCHRONIZED
        assert int(back["twamp.test.sender_error_estimate"], 0) == SYNCHRONIZED
        assert int(back["twamp.test.seq_number"]) == n
        assert int(back["twamp.test.error_estimate"], 0) == 0x0503
        assert int(back["twamp.test.sender_ttl"]) == 63
        assert int(back["twamp.test.mbz1"], 0) == int(back["twamp.test.mbz2"], 0) == 0
    # The clock of the figure: seconds since 1900, read by somebody else.
    assert "2019" in test[0]["twamp.test.timestamp"]


def test_one_way_packets(tmp_path: Path) -> None:
    capture = Capture()
    schedule = SessionSchedule((Slot(SlotType.FIXED, 1 << 32),), bytes(16), 3)
    plan = OneWayPlan(bytes(16), 1, None, (SERVER.host, 18760), schedule, NTP_NOW, 10**9, padding_octets=9)
    sender = OneWaySender(plan, bytes(5000))
    for n in range(3):
        sender.prepare()
        capture.udp(True, (18700, 18760), bytes(sender.pack(NTP_NOW + n, SYNCHRONIZED)))
        sender.was_sent()
    layers = capture.dissect(tmp_path / "owamp.pcap", "-d", "udp.port==18760,owamp.test")
    test = [packet["owamp.test"] for packet in layers if "owamp.test" in packet]
    assert [int(packet["twamp.test.seq_number"]) for packet in test] == [0, 1, 2]
    assert {int(packet["twamp.test.error_estimate"], 0) for packet in test} == {SYNCHRONIZED}
    assert {len(packet["twamp.test.padding"].split(":")) for packet in test} == {9}
