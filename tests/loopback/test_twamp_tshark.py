"""tshark as a second reader of what the two roles say to each other."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ippm_control_peers import CLIENT, SERVER, WISH, pair_in_mode
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from ippm.iana import Mode

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


def conversation(mode: Mode, path: Path) -> None:
    """Both roles from greeting to Stop-Sessions, each message in a segment of its own, as a capture."""
    pair = pair_in_mode(mode)
    sequence = {True: 1000, False: 2000}
    packets: list[Any] = []

    def segment(from_client: bool, octets: bytes, flags: str = "PA") -> None:
        source, target = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
        tcp = TCP(
            sport=source.port,
            dport=target.port,
            flags=flags,
            seq=sequence[from_client],
            ack=0 if flags == "S" else sequence[not from_client],
        )
        packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        packet = packet / IP(src=source.host, dst=target.host) / tcp / octets
        packet.time = 1_700_000_000 + len(packets) / 1000
        packets.append(packet)
        sequence[from_client] += len(octets) + (flags in ("S", "SA"))

    def carry() -> None:
        while True:
            down = pair.server.data_to_send()
            if down:
                segment(False, down)
                pair.client.receive_data(down, pair.now)
            up = pair.client.data_to_send()
            if up:
                segment(True, up)
                pair.server.receive_data(up, pair.now)
            if not up and not down:
                return

    segment(True, b"", "S")
    segment(False, b"", "SA")
    segment(True, b"", "A")
    carry()
    pair.client.request_session(WISH, pair.now)
    carry()
    pair.client.start_sessions(pair.now)
    carry()
    pair.client.stop_sessions(pair.now)
    carry()
    wrpcap(str(path), packets)


def dissect(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["tshark", "-r", str(path), "-T", "json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def test_unauthenticated_control_is_dissected_field_by_field(tmp_path: Path) -> None:
    capture = tmp_path / "control.pcap"
    conversation(Mode.OPEN, capture)
    layers = [packet for packet in dissect(capture) if "twamp.control" in packet]
    messages = [packet["twamp.control"] for packet in layers]
    assert len(messages) == 8
    assert not [packet for packet in layers if "_ws.malformed" in packet]
    greeting, response, start, request, accept, start_sessions, start_ack, stop = messages
    assert int(greeting["twamp.control.modes"], 0) == 15
    assert int(greeting["twamp.control.count"]) == 1024
    assert int(response["twamp.control.mode"], 0) == 1
    assert int(start["twamp.control.accept"]) == 0
    assert int(request["twamp.control.command"]) == 5
    assert int(request["twamp.control.sender_port"]) == 18700
    assert request["twamp.control.sender_ipv4"] == CLIENT.host
    assert int(request["twamp.control.padding_length"]) == 27
    assert int(accept["twamp.control.receiver_port"]) == 18761
    assert int(start_sessions["twamp.control.command"]) == 2
    assert int(start_ack["twamp.control.accept"]) == 0
    assert int(stop["twamp.control.numsessions"]) == 1


def test_the_set_up_of_a_keyed_mode_is_dissected(tmp_path: Path) -> None:
    """After Server-Start everything is ciphertext, which tshark does not know: only the set-up is looked at."""
    capture = tmp_path / "control.pcap"
    conversation(Mode.ENCRYPTED | Mode.IKEV2_DERIVED, capture)
    layers = [packet for packet in dissect(capture) if "twamp.control" in packet][:3]
    greeting, response, start = (packet["twamp.control"] for packet in layers)
    assert not [packet for packet in layers if "_ws.malformed" in packet]
    assert int(greeting["twamp.control.modes"], 0) == 15 | 128
    assert int(response["twamp.control.mode"], 0) == 4 | 128
    assert int(start["twamp.control.accept"]) == 0
