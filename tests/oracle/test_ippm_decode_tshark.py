"""`ippm decode` and tshark read the same capture alike, as far as tshark knows TWAMP."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ippm_captures import control_capture, tapped
from ippm_control_peers import CLIENT, SERVER, WISH, SessionAccepted, pair_in_mode

from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.decode.decoder import decode_capture
from ippm.iana import Mode

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

OCTETS = {"challenge": "challenge", "salt": "salt", "iv": "server_iv", "session_id": "sid"}
NUMBERS = {
    "modes": "modes",
    "count": "count",
    "mode": "mode",
    "accept": "accept",
    "ipvn": "ipvn",
    "conf_sender": "conf_sender",
    "conf_receiver": "conf_receiver",
    "number_of_schedule_slots": "number_of_schedule_slots",
    "number_of_packets": "number_of_packets",
    "sender_port": "sender_port",
    "padding_length": "padding_length",
    "type-p": "type_p",
    "numsessions": "number_of_sessions",
}
TEXTS = {"sender_ipv4": "sender_address", "receiver_ipv4": "receiver_address"}


def dissect(path: Path, *more: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *more, "-T", "json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "_ws.malformed" not in done.stdout
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def conversation(path: Path) -> None:
    """Control in open mode, and three packets with their replies."""
    pair = pair_in_mode(Mode.OPEN)
    tap = tapped(pair)
    tap.run()
    pair.client.request_session(WISH, pair.now)
    tap.run()
    (session,) = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    pair.client.start_sessions(pair.now)
    tap.run()
    pair.client.stop_sessions(pair.now)
    tap.run()
    capture = control_capture(CLIENT, SERVER, tap.said)
    plan = {"sid": session.sid, "mode": int(session.mode), "keys": None}
    sender = SessionSender(
        SenderPlan(
            local=session.sender, remote=session.reflector, count=3, schedule=None, padding_octets=27, **plan
        )  # type: ignore[arg-type]
    )
    reflector = SessionReflector(
        ReflectorPlan(local=session.reflector, remote=session.sender, **plan),  # type: ignore[arg-type]
        lambda: 0xE0000000_30000000,
        0x0A07,
    )
    reflector.start(0)
    for number in range(3):
        sender.prepare(number)
        packet = bytes(sender.pack(number, 0xE0000000_10000000 + number, 0x8A01))
        capture.udp(session.sender, session.reflector, packet, ttl=255)
        reply = reflector.handle(packet, 250, 0xE0000000_20000000, tuple(session.sender), None)
        assert reply is not None
        capture.udp(session.reflector, session.sender, bytes(reply), ttl=255)
        reflector.prepare()
    capture.save(path)


def test_control_in_open_mode(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    conversation(path)
    theirs = [layers["twamp.control"] for layers in dissect(path) if "twamp.control" in layers]
    ours = [one for one in decode_capture(path) if one.channel == "control"]
    assert len(ours) == len(theirs) == 8
    compared = 0
    for one, other in zip(ours, theirs, strict=True):
        for names, read in (
            (OCTETS, lambda text: text.replace(":", "")),
            (NUMBERS, lambda text: int(text, 0)),
            (TEXTS, str),
        ):
            for their_name, name in names.items():
                if f"twamp.control.{their_name}" in other and name in one.fields:
                    assert one.fields[name] == read(other[f"twamp.control.{their_name}"]), (one.name, name)
                    compared += 1
    assert compared > 20
    request = theirs[3]
    assert float(request["twamp.control.timeout"]) * 1e9 == ours[3].fields["timeout_ns"]


def test_test_packets_in_open_mode(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    conversation(path)
    theirs = [
        layers["twamp.test"]
        for layers in dissect(path, "-d", "udp.port==18761,twamp.test")
        if "twamp.test" in layers
    ]
    ours = [one for one in decode_capture(path) if one.channel == "test"]
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.fields["sequence_number"] == int(other["twamp.test.seq_number"])
        tree = other["twamp.test.error_estimate_tree"]
        estimate = one.fields["error_estimate"]
        assert isinstance(estimate, dict)
        assert estimate["scale"] == int(tree["twamp.test.error_estimate.scale"])
        assert estimate["multiplier"] == int(tree["twamp.test.error_estimate.multiplier"])
        if one.name == "Session-Reflector packet":
            assert one.fields["sender_sequence_number"] == int(other["twamp.test.sender_seq_number"])
            assert one.fields["sender_ttl"] == int(other["twamp.test.sender_ttl"])
