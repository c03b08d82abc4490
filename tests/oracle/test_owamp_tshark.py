"""tshark reads our unauthenticated OWAMP-Test packets as we mean them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from owamp_control_peers import NTP_NOW, TO_SERVER, OwampPair, sender_of
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap

from ippm.core.owamp_events import OwampSessionAccepted
from ippm.iana import Mode

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]


def test_packets_of_a_session(tmp_path: Path) -> None:
    pair = OwampPair(Mode.OPEN).set_up()
    pair.client.request_session(TO_SERVER, pair.now)
    pair.run()
    (event,) = pair.client_events()
    assert isinstance(event, OwampSessionAccepted)
    session = event.session
    sender = sender_of(session)
    packets = []
    for n in range(3):
        sender.prepare()
        data = bytes(sender.pack(NTP_NOW + (n << 32), 0x8A21))
        sender.was_sent()
        ip = IP(src=session.sender.host, dst=session.receiver.host, ttl=255)
        packets.append(ip / UDP(sport=session.sender.port, dport=session.receiver.port) / data)
    path = tmp_path / "owamp.pcap"
    wrpcap(str(path), packets)
    decode_as = f"udp.port=={session.receiver.port},owamp.test"
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), "-d", decode_as, "-T", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "_ws.malformed" not in done.stdout
    layers = [packet["_source"]["layers"]["owamp.test"] for packet in json.loads(done.stdout)]
    assert [layer["twamp.test.seq_number"] for layer in layers] == ["0", "1", "2"]
    estimates = [layer["twamp.test.error_estimate_tree"] for layer in layers]
    assert {tree["twamp.test.error_estimate.s"] for tree in estimates} <= {"1", True}
    assert {int(tree["twamp.test.error_estimate.scale"]) for tree in estimates} == {10}
    assert {int(tree["twamp.test.error_estimate.multiplier"]) for tree in estimates} == {0x21}
    # tshark 4.0 has the timestamp under a name, 4.4 in the text of the layer only.
    assert all("2019" in json.dumps(layer) for layer in layers)
