"""TWAMP Light over loopback: the reflector without state, the sender without Control. RFC 5357 appendix I."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from decoder.twamp_decoder import decode_test

from ippm.core.control_events import Endpoint
from ippm.crypto_packet import seal_sender
from ippm.decode.packets import UdpDatagram
from ippm.decode.sessions import Sessions
from ippm.errors import ConfigurationError, IppmError
from ippm.iana import Mode
from ippm.io.keylog import KeyLogWriter, read_key_log
from ippm.io.light import LightAgreement, LightReflector, LightSender, light_keys, run_light_sender
from ippm.metrics.marking import Marking
from ippm.wire.test_packet import SenderPacket

KEYS = light_keys("alice", b"correct horse")
PACKET_KEYS = (KEYS.aes, KEYS.hmac)
STAMP = 0xE0000000_10000000
SCHEMA = Path(__file__).resolve().parents[2] / "share" / "ippm.schema.json"
COMMAND = [sys.executable, "-m", "ippm", "light"]


def exchange(sock: socket.socket, packet: bytes, port: int) -> bytes | None:
    sock.sendto(packet, ("127.0.0.1", port))
    try:
        return sock.recv(65536)
    except TimeoutError:
        return None


@contextmanager
def peer(wait_s: float = 20.0, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(wait_s)
        sock.bind(("127.0.0.1", port))
        yield sock


@pytest.mark.req("rfc5357-sI-06")
def test_the_keys_of_a_passphrase_are_those_that_the_documentation_says() -> None:
    import hashlib

    octets = hashlib.pbkdf2_hmac("sha1", b"correct horse", b"TWAMP-Lightalice", 32768, 48)
    assert (KEYS.aes, KEYS.hmac) == (octets[:16], octets[16:])
    assert light_keys("bob", b"correct horse").aes != KEYS.aes


@pytest.mark.req("rfc5357-sI-01", "rfc5357-sI-06", "rfc5357-sI-05")
@pytest.mark.parametrize("mode", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED])
def test_a_reply_has_the_number_of_its_packet_whoever_sends(mode: Mode) -> None:
    keys = KEYS if mode.keyed else None
    with LightReflector("127.0.0.1", 0, LightAgreement(mode, keys)) as reflector, peer() as one, peer() as other:
        for sequence, sock in ((7, one), (7, other), (3, one), (0xFFFFFFFF, other)):
            reply = exchange(sock, seal_sender(SenderPacket(sequence, STAMP, 0x8A01), mode, keys), reflector.port)
            assert reply is not None
            fields = decode_test(reply, PACKET_KEYS if keys else None, "reflector", int(mode))
            assert fields["sequence_number"] == fields["sender_sequence_number"] == sequence
            assert fields["sender_timestamp"] == STAMP
            assert fields["timestamp"] > fields["receive_timestamp"]
        assert reflector.counters == {"received": 4, "reflected": 4}


@pytest.mark.req("rfc5357-sI-05")
def test_a_packet_under_other_keys_is_dropped() -> None:
    with (
        LightReflector("127.0.0.1", 0, LightAgreement(Mode.ENCRYPTED, KEYS)) as reflector,
        peer(0.1) as sock,
    ):
        other = light_keys("alice", b"wrong horse")
        assert exchange(sock, seal_sender(SenderPacket(0, STAMP, 0x8A01), 4, other), reflector.port) is None
        assert exchange(sock, seal_sender(SenderPacket(0, STAMP, 0x8A01), 1, None), reflector.port) is None
        sock.settimeout(20)
        assert exchange(sock, seal_sender(SenderPacket(0, STAMP, 0x8A01), 4, KEYS), reflector.port) is not None
        assert reflector.counters == {"received": 3, "reflected": 1, "hmac_mismatch": 1, "too_short": 1}


def test_two_reflectors_do_not_answer_each_other() -> None:
    """Somebody sends the one a packet in the name of the other."""
    with LightReflector("127.0.0.1", 0) as reflector:
        with LightReflector("127.0.0.2", reflector.port) as other, peer() as sock:
            assert other.port == reflector.port
            packet = seal_sender(SenderPacket(0, STAMP, 0x8A01), 1, None)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
                forged.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                forged.bind(("127.0.0.3", reflector.port))
                forged.settimeout(0.1)
                forged.sendto(packet, ("127.0.0.1", reflector.port))
                with pytest.raises(TimeoutError):
                    forged.recv(100)
            assert exchange(sock, packet, reflector.port) is not None
        assert reflector.counters == {"received": 2, "reflected": 1, "not_allowed": 1}


def test_only_networks_that_are_allowed_are_answered() -> None:
    with (
        LightReflector(
            "127.0.0.1", 0, allow=(ip_network("127.0.0.1/32"), ip_network("2001:db8::/32"))
        ) as reflector,
        peer() as inside,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside,
    ):
        outside.bind(("127.0.0.9", 0))
        outside.settimeout(0.1)
        packet = seal_sender(SenderPacket(0, STAMP, 0x8A01), 1, None)
        assert exchange(outside, packet, reflector.port) is None
        assert exchange(inside, packet, reflector.port) is not None
        assert reflector.counters["not_allowed"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("mode", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED])
def test_a_measurement(mode: Mode, host: str) -> None:
    features = Mode.DSCP_ECN_MONITORING | Mode.SYMMETRICAL_SIZE | Mode.REFLECT_OCTETS | Mode.PTP_TIMESTAMPS
    agreement = LightAgreement(mode | features, KEYS if mode.keyed else None, reflected_octets=8)
    with LightReflector(host, 0, agreement, dscp=12) as reflector:
        options = LightSender(host, reflector.port, agreement, count=5, interval_s=0.001, padding=20, dscp=46)
        result = run_light_sender(options).result
    assert (result.sent, result.lost, result.duplicates, result.rejected) == (5, 0, 0, {})
    assert result.marked_forward == (Marking(46, 0, 5),)
    assert result.marked_backward == (Marking(12, 0, 5),)
    # Replies without numbers of their own do not tell one way from the other.
    document = result.to_dict()
    for name in ("lost_backward_at_least", "send_duplicates", "reordered_forward", "reordered_backward"):
        assert document[name] is None


def test_what_cannot_be_agreed_on() -> None:
    for wrong in (
        {"mode": Mode.MIXED},
        {"mode": Mode.OPEN | Mode.AUTHENTICATED},
        {"mode": Mode.AUTHENTICATED},
        {"mode": Mode.OPEN | Mode.INDIVIDUAL_SESSION_CONTROL},
        {"reflected_octets": 3},
    ):
        with pytest.raises(ConfigurationError):
            LightAgreement(**wrong)  # type: ignore[arg-type]
    short = LightAgreement(Mode.OPEN | Mode.REFLECT_OCTETS, reflected_octets=3)
    with pytest.raises(ConfigurationError, match="padding = 29: at least 30"):
        run_light_sender(LightSender("127.0.0.1", 9, short, padding=29))
    with LightReflector("127.0.0.1", 0) as reflector, pytest.raises(IppmError, match="port"):
        LightReflector("127.0.0.1", reflector.port)


def test_a_port_where_nobody_is_is_loss() -> None:
    with peer() as sock:
        port = sock.getsockname()[1]
    result = run_light_sender(LightSender("127.0.0.1", port, count=3, interval_s=0.001, timeout_s=0.05)).result
    assert (result.sent + result.send_failed + result.skipped, result.lost) == (3, result.sent)


@contextmanager
def reflecting(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [*COMMAND, "reflect", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.fullmatch(r"TWAMP Light reflector on 127\.0\.0\.1 port (\d+)\n", process.stdout.readline())
        assert match
        try:
            yield match[1], process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def send(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "send", "-c", "3", "-i", "0.001f", "-L", "0.3", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_on_the_command_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys.pfs"
    keys.write_text("alice 636f7272656374\n")
    keys.chmod(0o600)
    agreed = ["-A", "E", "-u", "alice", "-k", str(keys), "--feature", "dscp-ecn"]
    with reflecting(*agreed) as (port, process):
        done = send(*agreed, "-D", "10", f"127.0.0.1:{port}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "mode:  encrypted, with dscp-ecn\n" in done.stdout
        assert "3 sent, 0 lost (0.000%), 0 duplicates, 0 reordered" in done.stdout
        document = json.loads(send(*agreed, "--json", f"127.0.0.1:{port}").stdout)
        assert (document["protocol"], document["result"]["lost"]) == ("twamp-light", 0)
        lossy = send("--max-loss", "50", f"127.0.0.1:{port}")
        assert (lossy.returncode, lossy.stderr) == (3, "ippm: 3 of 3 packets lost: more than 50 %\n")
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
        assert (process.returncode, said, errors) == (0, "received 9, reflected 6, too short 3\n", "")


# RFC 7679 section 4.5: the sequence of times is pseudo-random; RFC 2330 section 11.1.1: it is not to be foreseen.
def test_no_two_runs_have_the_same_intervals() -> None:
    options = LightSender("192.0.2.2", count=20, exponential=True)
    ends = ("192.0.2.1", 18700), ("192.0.2.2", 862)
    plans = [options.plan(*ends) for _ in range(3)]
    assert len({tuple(plan.schedule.offset_ns(number) for number in range(20)) for plan in plans}) == 3
    assert len({plan.sid for plan in plans}) == 3


def test_every_form_of_the_result(tmp_path: Path) -> None:
    with reflecting() as (port, _):
        where = f"127.0.0.1:{port}", "-L", "20"
        assert send("-v", "-n", "u", "-a", "50", *where).stdout.count("seq_no=") == 3
        assert len(send("-R", *where).stdout.splitlines()) == 3
        assert "SENT\t3\n" in send("-M", *where).stdout
        assert send("--format", "csv", *where).stdout.splitlines()[1].count(",") > 40
        assert send("--format", "openmetrics", *where).stdout.endswith("# EOF\n")
        refused = send("--format", "pscheduler", *where)
        assert (refused.returncode, refused.stdout) == (2, "")
        slow = send("--max-delay", "0", *where)
        assert slow.returncode == 3
        assert "median round-trip time" in slow.stderr
        document = json.loads(send("--json", *where).stdout)
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator({**schema, "anyOf": [{"$ref": "#/$defs/light"}]}).validate(document)


# RFC 7680 section 4.1, RFC 6673 section 6.1: the ratio of an empty sample is undefined.
def test_nothing_sent_is_not_within_a_threshold_of_loss() -> None:
    with reflecting() as (port, _):
        done = send("-L", "0", "--max-loss", "100", f"127.0.0.1:{port}")
        assert (done.returncode, done.stderr) == (3, "ippm: no packet was sent, so no loss is known\n")
        assert "note: no packet was sent in time" in done.stdout


def test_impairments_of_packets_and_of_replies() -> None:
    with reflecting("--impair", "duplicate:test:1") as (port, _):
        document = json.loads(send("--impair", "drop:test:3", "--json", "-L", "3", f"127.0.0.1:{port}").stdout)[
            "result"
        ]
        assert (document["sent"], document["lost"], document["duplicates"]) == (3, 1, 1)
        # The kernel's stamps of sending would be given to other packets.
        assert document["stamps"]["local_transmit"] == "user"


@pytest.mark.parametrize("role", ["send", "reflect"])
def test_a_knob_on_control_has_no_meaning(role: str) -> None:
    place = ["127.0.0.1"] if role == "send" else ["--listen", "127.0.0.1:0"]
    command = [*COMMAND, role, "--impair", "hmac:start-sessions:1", *place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "ippm: impairment 'hmac:start-sessions:1': there is no Control connection, only MESSAGE test has a meaning"
    )


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED])
def test_either_ends_key_log_opens_a_capture(tmp_path: Path, mode: Mode, listen: str) -> None:
    """The packets as they went, with the log of the sender and with that of the reflector, whatever it listens on."""
    agreement = LightAgreement(mode, KEYS)
    logs = {end: KeyLogWriter(tmp_path / end) for end in ("sender", "reflector")}
    with LightReflector(listen, 0, agreement, key_log=logs["reflector"]) as reflector:
        options = LightSender(
            "127.0.0.1", reflector.port, agreement, count=1, timeout_s=20.0, key_log=logs["sender"]
        )
        run = run_light_sender(options)
        packet = seal_sender(SenderPacket(7, STAMP, 0x8A01), mode, KEYS)
        with peer() as sock:
            reply = exchange(sock, packet, reflector.port)
            theirs = Endpoint("127.0.0.1", sock.getsockname()[1])
    assert reply is not None
    assert run.result.lost == 0
    reflected = Endpoint("127.0.0.1", reflector.port)
    for end in logs:
        sessions = Sessions(read_key_log(tmp_path / end).sessions.values())
        there = sessions.decode(UdpDatagram(theirs, reflected, len(packet), packet, 255, 0), 0)
        back = sessions.decode(UdpDatagram(reflected, theirs, len(reply), reply, 255, 0), 0)
        assert there is not None
        assert back is not None
        assert (there.name, there.hmac, there.fields["sequence_number"]) == ("Session-Sender packet", "verified", 7)
        assert (back.name, back.hmac, back.problems) == ("Session-Reflector packet", "verified", [])
        elsewhere = Endpoint("127.0.0.1", reflector.port + 1)
        assert sessions.decode(UdpDatagram(theirs, elsewhere, len(packet), packet, 255, 0), 0) is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("reflect", "--listen", "host.example"), "--listen host.example: an address of this host is wanted"),
        (("reflect", "--listen", "127.0.0.1:0", "--allow", "x"), "--allow x: an address or a network is wanted: "),
        (("send", "-A", "A", "127.0.0.1"), "-A A: needs a passphrase: -u NAME -k FILE"),
        (("send", "-A", "M", "127.0.0.1"), "-A M: needs a passphrase"),
        (
            ("send", "--feature", "session-control", "127.0.0.1"),
            "feature: session-control needs a Control connection",
        ),
        (("send", "-4", "-6", "127.0.0.1"), "-4 and -6 exclude each other"),
        (("send", "-B", "nosuch", "127.0.0.1"), "interface nosuch: No such device"),
        (("reflect", "-B", "nosuch", "--listen", "127.0.0.1:0"), "interface nosuch: No such device"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], error: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ippm: {error}")
    assert done.stderr.count("\n") == 1
