"""What a demo must show, checked by others' eyes: tshark, scapy's capture reader, the second TWAMP decoder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoder.twamp_decoder import decode_control, decode_test, keymat_sid_control_secret, keymat_sid_test_keys
from scapy.layers.inet import IP, TCP, UDP
from scapy.utils import PcapNgReader

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = 20


@dataclass(frozen=True)
class Demo:
    """One run of the demo: its JSON and its report folder."""

    document: dict[str, Any]
    report: Path


def kernel_has_esp() -> bool:
    """Whether this kernel takes an ESP SA, by iproute2 in a network namespace of its own."""
    command = (
        "ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x100 mode tunnel "
        "aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f01020304 128"
    )
    return subprocess.run(["unshare", "-n", "sh", "-c", command], capture_output=True, check=False).returncode == 0


def run_demo(report: Path, *arguments: str, prefix: tuple[str, ...] = (), python: str = sys.executable,
             environment: dict[str, str] | None = None, cwd: Path = ROOT) -> Demo:  # fmt: skip
    """Run `ippm-ipsec demo --json` and read what it printed. Fails with its whole output when it failed."""
    command = [*prefix, python, "-m", "binding", "demo", "--json", "--count", str(COUNT), "--report", str(report)]
    done = subprocess.run(
        [*command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    logs = "".join(path.read_text() for path in report.glob("*/log.txt") if os.access(path, os.R_OK))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    # A guest has one stream for both outputs: the document is what begins with a brace on a line of its own.
    return Demo(json.loads(done.stdout[done.stdout.index("{\n") :]), report)


def check_document(document: dict[str, Any], backend: str) -> None:
    """The three measurements and the refusal, as docs/cli.md says."""
    assert document["ok"] is True
    assert document["backend"] == backend
    assert document["reason"]
    runs = document["runs"]
    assert [(run["mode"], run["derivation"], run["path"], run["keys_equal"]) for run in runs] == [
        ("authenticated", "keymat-sid", "bypass", True),
        ("encrypted", "rfc7717", "bypass", True),
        ("open", None, "tunnel", None),
    ]
    for run in runs:
        result = run["result"]
        assert run["protocol"] == "twamp"
        assert result["sent"] == COUNT
        assert result["lost"] == 0
        delay = result["delay"]
        names = ("minimum_ns", "median_ns", "p95_ns", "p99_ns", "maximum_ns")
        assert sorted(delay[name] for name in names) == [delay[name] for name in names]
        assert delay["minimum_ns"] > 0
        assert result["clock"]["local"]["error_ns"] > 0
        assert run["ike"]["auth"] == "psk"
        assert run["child_sa"]["backend"] == backend
    for run in runs[:2]:
        assert (run["child_sa"]["packets_out"], run["child_sa"]["packets_in"]) == (0, 0)
    assert runs[2]["child_sa"]["packets_out"] >= COUNT
    assert runs[2]["child_sa"]["packets_in"] >= COUNT
    assert [refusal["accept"] for refusal in document["refusals"]] == [6]
    assert "\n" not in document["refusals"][0]["message"]


def tshark(report: Path, role: str, *arguments: str, home: Path) -> str:
    """tshark over one host's capture, with that host's key log as its configuration."""
    keys = home / f"keys-{role}"
    if not keys.exists():
        shutil.copytree(report / role / "keys", keys)
    command = ["tshark", "-r", str(report / role / "host.pcapng"), *arguments]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(keys), "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return done.stdout


def check_tshark(demo: Demo, home: Path) -> None:
    """With the key log, tshark reads inside IKE_AUTH and inside ESP, finds every ICV right and nothing malformed."""
    for role in ("a", "b"):
        # Protected TWAMP-Control outside ESP is no food for tshark's dissector of it, which takes it for clear text.
        ours = ("-d", f"udp.port=={demo.document['runs'][2]['result']['remote']['port']},twamp.test")
        assert tshark(demo.report, role, *ours, "-Y", "_ws.malformed && (isakmp || esp)", home=home) == ""
        inner = tshark(demo.report, role, *ours, "-Y", "esp && twamp.test", home=home).splitlines()
        assert len(inner) == 2 * COUNT
        commands = tshark(demo.report, role, "-Y", "esp && twamp.control", home=home)
        for name in ("Request Session", "Accept Session", "Start Sessions ACK", "Stop Session"):
            assert name in commands
        inside = tshark(
            demo.report, role, "-Y", "isakmp.exchangetype == 35", "-T", "fields", "-e", "isakmp.id.data.fqdn",
            "-e", "isakmp.ts.start_ipv4", home=home,
        ).replace(",", " ").split()  # fmt: skip
        assert "a.example" in inside
        assert "b.example" in inside
        assert any("192.0.2.1" in word for word in inside)
        icvs = tshark(demo.report, role, "-Y", "esp", "-T", "fields", "-e", "esp.icv_good", home=home).split()
        assert len(icvs) >= 2 * COUNT
        assert set(icvs) <= {"1", "True"}
        within = tshark(demo.report, role, "-Y", "esp && udp && !(udp.port == 4500)", home=home).splitlines()
        assert len(within) >= 2 * COUNT


def packets(path: Path) -> list[Any]:
    """The IPv4 packets of a capture, in order."""
    with PcapNgReader(str(path)) as reader:
        return [packet[IP] for packet in reader if IP in packet]


def control_streams(capture: list[Any], server_port: int) -> list[tuple[bytes, bytes]]:
    """(client octets, server octets) of each TCP connection with the server's port, by sequence number."""
    streams: dict[tuple[int, int], dict[bool, dict[int, bytes]]] = defaultdict(lambda: {True: {}, False: {}})
    generation: dict[int, int] = defaultdict(int)
    for packet in capture:
        if TCP not in packet or server_port not in (packet[TCP].sport, packet[TCP].dport):
            continue
        segment = packet[TCP]
        octets = bytes(segment.payload)[: packet.len - packet.ihl * 4 - segment.dataofs * 4]
        from_client = segment.dport == server_port
        client_port = segment.sport if from_client else segment.dport
        if from_client and segment.flags.S:
            generation[client_port] += 1
        if octets:
            streams[client_port, generation[client_port]][from_client].setdefault(segment.seq, octets)
    return [
        tuple(b"".join(sides[side][seq] for seq in sorted(sides[side])) for side in (True, False))  # type: ignore[misc]
        for sides in streams.values()
    ]


def child_keymat(demo: Demo) -> bytes:
    """KEYMAT of the Child SA from the key log's esp_sa: initiator to responder first (RFC 7296 section 2.17)."""
    keys: dict[str, bytes] = {}
    with (demo.report / "a" / "keys" / "esp_sa").open(newline="") as file:
        for row in csv.reader(file):
            keys[row[1]] = bytes.fromhex(row[5].removeprefix("0x"))
    initiator, responder = (demo.document["ike_sa"][side].rpartition(":")[0] for side in ("local", "remote"))
    return keys[initiator] + keys[responder]


def logged_secret(report: Path, derivation: str) -> tuple[bytes, str, bytes]:
    """(KeyID, prf name, secret) of the Control connection of a derivation, from the O/TWAMP key log."""
    for line in (report / "a" / "keys" / "o_twamp_secrets").read_text().splitlines():
        kind, identifier, name, prf, secret = line.split()
        if kind == "control" and name == derivation:
            return bytes.fromhex(identifier), prf, bytes.fromhex(secret)
    raise AssertionError(f"no Control secret of {derivation} in the key log")


def check_second_decoder(demo: Demo) -> None:
    """The decoder that imports nothing of ours reads the protected Control and Test traffic of the capture."""
    capture = packets(demo.report / "a" / "host.pcapng")
    key_id, prf, secret = logged_secret(demo.report, "keymat-sid")
    keymat = child_keymat(demo)
    assert secret == keymat_sid_control_secret(prf, keymat, key_id)
    (stream,) = control_streams(capture, 8620)
    check_session(capture, stream, secret, 2, lambda sid: keymat_sid_test_keys(prf, keymat, sid))
    key_id, prf, secret = logged_secret(demo.report, "rfc7717")
    assert key_id[16:] == bytes(64)
    stream = next(pair for pair in control_streams(capture, 862) if int.from_bytes(pair[0][:4], "big") == 0x84)
    check_session(capture, stream, secret, 4, None)


def check_session(capture: list[Any], stream: tuple[bytes, bytes], secret: bytes, mode: int, keys_of: Any) -> None:
    """One Control connection and the test packets of its session."""
    control = decode_control(*stream, secret)
    assert control.names[:3] == ["Server-Greeting", "Set-Up-Response", "Request-TW-Session"]
    messages = {message.name: message for message in [*control.client, *control.server]}
    assert messages["Set-Up-Response"].fields["mode"] == 0x80 | mode
    assert messages["Server-Start"].fields["accept"] == 0
    for name in ("Request-TW-Session", "Accept-Session", "Start-Sessions", "Start-Ack", "Stop-Sessions"):
        assert messages[name].hmac is True
    (sid,) = control.sids
    port = messages["Accept-Session"].fields["port"]
    keys = keys_of(sid) if keys_of else control.test_keys(sid)
    sent = [bytes(packet[UDP].payload) for packet in capture if UDP in packet and packet[UDP].dport == port]
    replies = [bytes(packet[UDP].payload) for packet in capture if UDP in packet and packet[UDP].sport == port]
    assert [decode_test(data, keys, "sender", mode)["sequence_number"] for data in sent] == list(range(COUNT))
    answers = [decode_test(data, keys, "reflector", mode) for data in replies]
    assert [answer["sender_sequence_number"] for answer in answers] == list(range(COUNT))
    assert all(answer["timestamp"] != answer["receive_timestamp"] for answer in answers)
