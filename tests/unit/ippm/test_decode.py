"""`ippm decode`: captures of any form, streams with everything that TCP does to them, and what is malformed, named."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ippm_captures import Capture, Tap, control_capture, tapped
from ippm_control_peers import (
    CLIENT,
    SERVER,
    SPI_I,
    SPI_R,
    WISH,
    DerivedProvider,
    DerivedSecret,
    Pair,
    SessionAccepted,
    pair_in_mode,
)
from owamp_control_peers import CLIENT as OWAMP_CLIENT
from owamp_control_peers import FROM_SERVER, TO_SERVER, OwampPair
from owamp_control_peers import SERVER as OWAMP_SERVER
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import wrpcap, wrpcapng

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import Endpoint
from ippm.core.key_log import ControlKeys
from ippm.crypto import CbcSender, SessionKeys
from ippm.crypto_packet import seal_reflector, seal_sender
from ippm.decode.capture import DamagedCapture, Frame, read_capture
from ippm.decode.decoder import Decoder, decode_capture, is_greeting
from ippm.decode.messages import Decoded, differences, mode_words
from ippm.errors import ConfigurationError
from ippm.iana import Accept, Mode
from ippm.io.keylog import KeyLogWriter, LoggedKeys
from ippm.timestamps import ntp_from_unix_ns, ptp_from_ntp
from ippm.wire.server_greeting import ServerGreeting
from ippm.wire.set_up_response import SetUpResponse
from ippm.wire.test_packet import ReflectorPacket, SenderPacket

pytestmark = pytest.mark.usefixtures("messages_fit_the_schema")
SCHEMA = Path(__file__).resolve().parents[3] / "share" / "ippm-decode.schema.json"
NAMES = [
    "Server Greeting",
    "Set-Up-Response",
    "Server-Start",
    "Request-TW-Session",
    "Accept-Session",
    "Start-Sessions",
    "Start-Ack",
    "Stop-Sessions",
]
GREETING = ServerGreeting(7, bytes(range(16)), bytes(range(16, 32)), 4096).encode()


def conversation(mode: Mode, keys: Path | None = None) -> Tap:
    """From greeting to Stop-Sessions; the key log of the server, when it is asked for."""
    writer = None if keys is None else KeyLogWriter(keys)
    pair = pair_in_mode(mode, key_log=writer)
    tap = tapped(pair)
    tap.run()
    pair.client.request_session(WISH, pair.now)
    tap.run()
    pair.client.start_sessions(pair.now)
    tap.run()
    pair.client.stop_sessions(pair.now)
    tap.run()
    if writer is not None:
        writer.close()
    return tap


def names(found: list[Decoded]) -> list[str]:
    return [one.name for one in found]


def decoded(capture: Capture, tmp_path: Path, keys: Path | None = None) -> list[Decoded]:
    return list(decode_capture(capture.save(tmp_path / "c.pcap"), keys))


# TCP.


def test_segments_out_of_order_repeated_and_overlapping_are_put_in_order(tmp_path: Path) -> None:
    tap = conversation(Mode.ENCRYPTED, tmp_path / "keys")
    plain = control_capture(CLIENT, SERVER, tap.said, 50)
    wild = Capture(CLIENT, SERVER)
    wild.open_connection()
    for from_client, data in tap.said:
        start = wild.sequences[from_client]
        cuts = [(at, data[at : at + 30]) for at in range(0, len(data), 20)]  # each 10 octets longer than its step
        for at, octets in [*reversed(cuts), *cuts[:2]]:
            wild.tcp(from_client, octets, sequence=start + at)
        wild.sequences[from_client] += len(data)
    one = decoded(plain, tmp_path, tmp_path / "keys")
    other = list(decode_capture(wild.save(tmp_path / "w.pcap"), tmp_path / "keys"))
    assert names(one) == names(other) == NAMES
    assert [found.fields for found in one] == [found.fields for found in other]
    assert not any(found.problems for found in other)


def test_sequence_numbers_go_over_the_end(tmp_path: Path) -> None:
    tap = conversation(Mode.OPEN)
    capture = control_capture(CLIENT, SERVER, tap.said)  # the client's begin 256 before 2**32
    assert sum(len(data) for from_client, data in tap.said if from_client) > 256
    assert names(decoded(capture, tmp_path)) == NAMES


def test_a_segment_that_was_not_captured_is_told_with_what_lies_behind(tmp_path: Path) -> None:
    tap = conversation(Mode.OPEN)
    capture = control_capture(CLIENT, SERVER, tap.said)
    lost = next(n for n, packet in enumerate(capture.packets) if packet.sport == CLIENT.port and len(packet) > 150)
    later = next(
        n
        for n, packet in enumerate(capture.packets)
        if n > lost and packet.sport == CLIENT.port and len(packet) > 80
    )
    del capture.packets[later]
    found = decoded(capture, tmp_path)
    remark, answers = [one for one in found if one.problems]
    assert answers.problems == ["80 octets that answer nothing"]  # Accept-Session and Start-Ack
    assert "the capture lacks 112 octets behind these: what follows cannot be read" in remark.problems
    assert remark.source == CLIENT
    assert remark.offset == 164  # behind the Set-Up-Response


def test_a_connection_whose_beginning_is_not_there_is_named_once(tmp_path: Path) -> None:
    tap = conversation(Mode.OPEN)
    capture = control_capture(CLIENT, SERVER, tap.said)
    del capture.packets[:4]
    found = decoded(capture, tmp_path)
    assert len(found) == 1
    assert found[0].problems == ["the beginning of this connection was not captured: it cannot be read"]


def test_other_tcp_on_other_ports_is_passed_over(tmp_path: Path) -> None:
    capture = Capture(CLIENT, Endpoint(SERVER.host, 8080))
    capture.open_connection()
    capture.tcp(True, b"GET / HTTP/1.1\r\n\r\n" + b"x" * 300)
    capture.tcp(False, b"HTTP/1.1 200 OK\r\n" + b"y" * 300)
    capture.udp(CLIENT, SERVER, b"z" * 50)
    assert decoded(capture, tmp_path) == []


@pytest.mark.parametrize("with_syn", [True, False])
@pytest.mark.parametrize("mode", [Mode.OPEN, Mode.ENCRYPTED, Mode.MIXED], ids=repr)
def test_another_port_is_known_by_the_greeting(mode: Mode, with_syn: bool, tmp_path: Path) -> None:
    tap = conversation(mode, tmp_path / "keys")
    capture = control_capture(CLIENT, Endpoint(SERVER.host, 9999), tap.said)
    if not with_syn:
        del capture.packets[:3]
    found = decoded(capture, tmp_path, tmp_path / "keys")
    assert names(found) == NAMES
    assert {one.origin.protocol for one in found} == {"twamp"}
    assert "mixed" in found[0].fields["mode_words"]  # type: ignore[operator]


def test_the_protocol_is_known_before_anything_is_told_of_it(tmp_path: Path) -> None:
    pair = OwampPair(Mode.ENCRYPTED | Mode.IKEV2_DERIVED)
    tap = tapped(pair)
    tap.run()
    pair.client_events()
    capture = control_capture(OWAMP_CLIENT, Endpoint(OWAMP_SERVER.host, 9999), tap.said)
    response = decoded(capture, tmp_path)[1]
    # Nothing tells: bit 4 is that of IKEv2 in OWAMP, and of session control in TWAMP.
    assert response.origin.protocol is None
    assert "session-control" in response.fields["mode_words"]  # type: ignore[operator]
    capture = control_capture(OWAMP_CLIENT, OWAMP_SERVER, tap.said)
    response = decoded(capture, tmp_path)[1]
    assert response.fields["mode_words"] == ["encrypted", "ikev2-derived"]
    assert response.fields["spi_i"] == "0123456789abcdef"


def test_the_same_ports_again_are_another_connection(tmp_path: Path) -> None:
    tap = conversation(Mode.OPEN)
    capture = control_capture(CLIENT, SERVER, tap.said)
    capture.sequences = {True: 5, False: 7}
    capture.open_connection()
    for from_client, data in tap.said:
        capture.tcp(from_client, data)
    assert names(decoded(capture, tmp_path)) == NAMES * 2


# Captures.


@pytest.mark.parametrize("form", ["pcap", "pcapng", "raw", "vlan", "sll"])
def test_every_form_of_capture(form: str, tmp_path: Path) -> None:
    capture = control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said)
    path = tmp_path / "capture"
    if form == "pcapng":
        wrpcapng(str(path), capture.packets)
    elif form == "raw":
        wrpcap(str(path), [packet[IP] for packet in capture.packets], linktype=101)
    elif form == "vlan":
        framed = []
        for packet in capture.packets:
            framed.append(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=5) / packet[IP])
            framed[-1].time = packet.time
        wrpcap(str(path), framed)
    elif form == "sll":
        cooked = [
            struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800) + bytes(packet[IP]) for packet in capture.packets
        ]
        header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 113)
        records = (struct.pack("<IIII", 1, 2, len(octets), len(octets)) + octets for octets in cooked)
        path.write_bytes(header + b"".join(records))
    else:
        capture.save(path)
    found = list(decode_capture(path))
    assert names(found) == NAMES
    if form in ("pcap", "pcapng"):
        assert found[0].time_ns == 1_700_000_000_003_000_000


def test_ipv6_and_fragments(tmp_path: Path) -> None:
    sender, receiver = Endpoint("2001:db8::1", 18700), Endpoint("2001:db8::2", 18760)
    log = LoggedKeys()
    frames = []
    capture = Capture(sender, receiver)
    client, server = Endpoint("2001:db8::1", 40000), Endpoint("2001:db8::2", 862)
    capture = control_capture(client, server, conversation(Mode.OPEN).said)
    assert names(decoded(capture, tmp_path)) == NAMES
    big = IP(src="192.0.2.1", dst="192.0.2.2", id=7) / UDP(sport=18700, dport=18761) / (b"\1" * 3000)
    for packet in reversed(fragment(big, 800)):
        frames.append(Frame(1, 101, bytes(packet)))
    opened = [Frame(0, 1, bytes(p)) for p in control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said).packets]
    found = list(Decoder(log).decode([*opened, *frames]))
    assert found[-1].name == "Session-Sender packet"
    assert found[-1].octets == 3000


def test_a_capture_that_is_cut_off_is_shown_up_to_there(tmp_path: Path) -> None:
    path = control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said).save(tmp_path / "c.pcap")
    path.write_bytes(path.read_bytes()[:-5])
    messages = decode_capture(path)
    assert [next(messages).name for _ in NAMES[:-1]] == NAMES[:-1]
    with pytest.raises(DamagedCapture, match="cut off in the middle of a packet, at octet"):
        next(messages)


@pytest.mark.parametrize("octets", [b"", b"\0", b"nonsense that is long enough", b"\x0a\x0d\x0d\x0a"])
def test_what_is_no_capture_is_an_error_in_one_line(octets: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(octets)
    with pytest.raises((ConfigurationError, DamagedCapture)):
        list(read_capture(tmp_path / "f"))


# Malformed.


def spoilt(mode: Mode, number: int, spoil: Any, keys: Path) -> Capture:
    """The conversation with one message changed on the wire."""
    said = conversation(mode, keys).said
    from_client, data = said[number]
    said[number] = from_client, spoil(data)
    return control_capture(CLIENT, SERVER, said)


def put(at: int, octets: str) -> Any:
    """Other octets at a place of a message."""
    new = bytes.fromhex(octets)
    return lambda data: data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("number", "spoil", "name", "problem"),
    [
        (0, put(52, "01"), "Server Greeting", "octet 52 is not zero (MBZ): 01"),
        (0, put(48, "00000fff"), "Server Greeting", "octets 48 to 51: Count 4095 is no power of two from 1024 up"),
        (0, put(48, "00000200"), "Server Greeting", "octets 48 to 51: Count 512 is no power of two from 1024 up"),
        (1, put(0, "00010001"), "Set-Up-Response", "octets 0 to 3: not offered: bit 16"),
        (2, put(3, "ff"), "Server-Start", "octet 3 is not zero (MBZ): ff"),
        (3, put(92, "0102"), "Request-TW-Session", "octets 92 to 93 are not zero (MBZ): 0102"),
        (
            3,
            put(89, "0102"),
            "Request-TW-Session",
            "octets 89 to 90 are not zero (MBZ without Reflect Octets): 0102",
        ),
        (3, put(96, "01"), "Request-TW-Session", "octet 96 is not zero (HMAC, MBZ without keys): 01"),
        (3, put(2, "01"), "Request-TW-Session", "conf_sender is 1, and zero in TWAMP"),
        (3, put(20, "0a"), "Request-TW-Session", "octet 20 is not zero (MBZ): 0a"),  # behind an IPv4 address
        (4, put(1, "09"), "Accept-Session", "octet 1 is not zero (MBZ): 09"),
        (5, put(15, "07"), "Start-Sessions", "octet 15 is not zero (MBZ): 07"),
        (6, put(1, "07"), "Start-Ack", "octet 1 is not zero (MBZ): 07"),
        (7, put(8, "0000000000000001"), "Stop-Sessions", "octet 15 is not zero (MBZ): 01"),
    ],
)
def test_what_is_malformed_is_named_with_its_place(
    number: int, spoil: Any, name: str, problem: str, tmp_path: Path
) -> None:
    found = decoded(spoilt(Mode.OPEN, number, spoil, tmp_path / "keys"), tmp_path)
    assert names(found) == NAMES
    assert [(one.name, one.problems) for one in found if one.problems] == [(name, [problem])]


def test_two_security_modes_are_one_too_many(tmp_path: Path) -> None:
    found = decoded(spoilt(Mode.OPEN, 1, put(0, "00000003"), tmp_path / "keys"), tmp_path)
    assert found[1].problems[0] == "octets 0 to 3: 2 security modes are chosen, not one"


def test_an_unknown_command_ends_the_reading_of_its_direction_and_its_answer_is_read(tmp_path: Path) -> None:
    pair = pair_in_mode(Mode.OPEN)
    tap = tapped(pair)
    tap.run()
    unknown = bytes([200]) + bytes(15)
    tap.said.append((True, unknown + bytes(32)))
    pair.server.receive_data(unknown + bytes(32), pair.now)
    tap.said.append((False, pair.server.data_to_send()))
    found = decoded(control_capture(CLIENT, SERVER, tap.said), tmp_path)
    assert names(found)[3:] == ["Command 200", "Accept-Session", "octets that were not read"]
    assert found[3].problems == ["Command Number 200 has no length known: nothing behind it can be read"]
    assert found[4].fields["accept"] == Accept.NOT_SUPPORTED
    assert found[5].problems == ["32 octets behind what could be read"]


@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED], ids=repr)
def test_a_changed_octet_of_a_protected_message_is_a_wrong_hmac(mode: Mode, tmp_path: Path) -> None:
    capture = spoilt(mode, 3, lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], tmp_path / "keys")
    found = decoded(capture, tmp_path, tmp_path / "keys")
    assert names(found) == NAMES
    assert [one.hmac for one in found[3:]] == ["wrong", "verified", "verified", "verified", "verified"]
    assert "the HMAC does not verify: octets 96 to 111" in found[3].problems


def test_without_the_key_what_is_in_clear_is_read_and_the_rest_counted(tmp_path: Path) -> None:
    tap = conversation(Mode.ENCRYPTED)
    capture = control_capture(CLIENT, SERVER, tap.said)
    found = decoded(capture, tmp_path)
    assert names(found) == [*NAMES[:3], *["encrypted octets"] * 5]
    assert [one.octets for one in found[3:]] == [112, 48, 32, 32, 32]
    assert "the key log has no key of this connection" in found[2].problems[0]
    assert {one.decrypted for one in found[2:]} == {False}


def test_keys_of_other_connections_do_not_help(tmp_path: Path) -> None:
    conversation(Mode.ENCRYPTED, tmp_path / "keys")
    pair = pair_in_mode(Mode.ENCRYPTED)
    pair.client._entropy.seed = "another"  # type: ignore[attr-defined]
    tap = tapped(pair)
    tap.run()
    found = decoded(control_capture(CLIENT, SERVER, tap.said), tmp_path, tmp_path / "keys")
    assert "the key log has no key of this connection" in found[2].problems[0]


def test_a_refusal_is_read_and_ends_the_connection(tmp_path: Path) -> None:
    pair = pair_in_mode(Mode.ENCRYPTED)
    pair.client._provider = type(pair.client._provider)({"mallory": "?"})  # type: ignore[attr-defined, call-arg]
    tap = tapped(pair)
    tap.run()
    found = decoded(control_capture(CLIENT, SERVER, tap.said), tmp_path)
    assert names(found) == NAMES[:3]
    assert found[2].fields["accept"] == Accept.FAILURE
    assert found[2].problems == []


def owamp_requests(*wishes: Any) -> Tap:
    pair = OwampPair()
    tap = tapped(pair)
    tap.run()
    for wish in wishes:
        pair.client.request_session(wish, pair.now)
    tap.run()
    return tap


def test_a_schedule_slot_that_is_not_known_does_not_hide_the_request(tmp_path: Path) -> None:
    tap = owamp_requests(TO_SERVER)
    number = next(n for n, (from_client, data) in enumerate(tap.said) if from_client and data[0] == 1)
    data = tap.said[number][1]
    tap.said[number] = True, data[:112] + b"\x09" + data[113:]
    found = decoded(control_capture(OWAMP_CLIENT, OWAMP_SERVER, tap.said), tmp_path)
    request = next(one for one in found if one.name == "Request-Session")
    assert request.problems == ["a schedule slot: 9 is not a valid SlotType"]
    assert request.fields["number_of_packets"] == 20


def test_more_slots_than_are_read(tmp_path: Path) -> None:
    tap = owamp_requests(TO_SERVER, FROM_SERVER)
    number = next(n for n, (from_client, data) in enumerate(tap.said) if from_client and data[0] == 1)
    data = tap.said[number][1]
    tap.said[number] = True, data[:4] + b"\xff\xff\xff\xff" + data[8:]
    found = decoded(control_capture(OWAMP_CLIENT, OWAMP_SERVER, tap.said), tmp_path)
    request = next(one for one in found if one.name == "Request-Session")
    assert "4294967295 schedule slots: at most 65536 are read; nothing behind it can be read" in request.problems[0]


# Test packets.


def with_datagram(octets: bytes, tmp_path: Path, mode: Mode = Mode.OPEN, *, reply: bool = False) -> Decoded:
    """A datagram of the session of the conversation, decoded."""
    tap = conversation(mode, tmp_path / "keys")
    capture = control_capture(CLIENT, SERVER, tap.said)
    here, there = Endpoint(CLIENT.host, 18700), Endpoint(SERVER.host, 18761)
    capture.udp(*((there, here) if reply else (here, there)), octets)
    return decoded(capture, tmp_path, tmp_path / "keys")[-1]


GOOD = struct.pack(">IQH", 5, 0xE0000000_00000000, 0x8A01)


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (GOOD[:13], "too short: 13 octets of 14"),
        (b"", "too short: 0 octets of 14"),
        (GOOD[:-1] + b"\0" + bytes(27), "the Multiplier of error_estimate is zero"),
        (GOOD, "14 octets where 41 were agreed on"),
        (
            GOOD[:-2] + b"\x4a\x01" + bytes(27),
            "the Z bit of error_estimate is set, and PTP timestamps were not agreed",
        ),
    ],
)
def test_what_is_wrong_with_a_test_packet(octets: bytes, problem: str, tmp_path: Path) -> None:
    found = with_datagram(octets, tmp_path)
    assert found.channel == "test"
    assert any(problem in text for text in found.problems)


def test_mbz_octets_of_a_reply(tmp_path: Path) -> None:
    reply = bytearray(struct.pack(">IQH2xQIQH2xB", 5, 1 << 63, 0x8A01, 1 << 63, 5, 1 << 63, 0x8A01, 255))
    reply[15] = 9
    found = with_datagram(bytes(reply), tmp_path, reply=True)
    assert found.problems == ["octet 15 is not zero (MBZ): 09"]
    assert found.fields["sender_ttl"] == 255


def test_a_protected_packet_of_somebody_else_has_a_wrong_hmac(tmp_path: Path) -> None:
    found = with_datagram(bytes(75), tmp_path, Mode.ENCRYPTED)
    assert found.hmac == "wrong"
    assert "the HMAC does not verify" in found.problems


def test_in_authenticated_mode_the_stamps_are_read_without_the_key(tmp_path: Path) -> None:
    tap = conversation(Mode.AUTHENTICATED, tmp_path / "keys")
    logged = (tmp_path / "keys" / "o_twamp_keys").read_text().splitlines()
    only_control = [line for line in logged if not line.startswith("control")]
    (tmp_path / "keys" / "o_twamp_keys").write_text("\n".join(only_control) + "\n")
    capture = Capture(CLIENT, SERVER)
    packet = bytes(16) + struct.pack(">QH6x16s", 0xE0000000_00000000, 0x8A01, bytes(16))
    capture.udp(Endpoint(CLIENT.host, 18700), Endpoint(SERVER.host, 18761), packet)
    (found,) = decoded(capture, tmp_path, tmp_path / "keys")  # the session is known from the key log alone
    assert found.hmac == "wrong"
    capture = control_capture(CLIENT, SERVER, tap.said)
    assert found.fields["timestamp"] == "e000000000000000"


def test_a_sender_behind_a_nat_is_known_by_the_port_of_the_receiver(tmp_path: Path) -> None:
    capture = control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said)
    outside, there = Endpoint("198.51.100.7", 60001), Endpoint(SERVER.host, 18761)
    capture.udp(outside, there, GOOD + bytes(27))
    assert decoded(capture, tmp_path)[-1].name == "Session-Sender packet"


# Small parts.


LIGHT_NS = 1_700_000_000_000_000_000
LIGHT = ntp_from_unix_ns(LIGHT_NS - 3_600_000_000_000)


def light(protocol_port: int, octets: bytes, *, back: bool = False, path: Path) -> list[Decoded]:
    ends = Endpoint("192.0.2.1", 40000), Endpoint("192.0.2.2", protocol_port)
    capture = Capture(CLIENT, SERVER)
    capture.udp(*(reversed(ends) if back else ends), octets)
    return list(decode_capture(capture.save(path / "light.pcap")))


# RFC 8545 section 7: UDP 862 is TWAMP-Test's, 861 OWAMP-Test's; RFC 5357 appendix I has no Control connection.
@pytest.mark.parametrize(("port", "protocol"), [(862, "twamp"), (861, "owamp")])
@pytest.mark.parametrize("ptp", [False, True])
def test_open_packets_on_a_well_known_port_need_no_session(
    port: int, protocol: str, ptp: bool, tmp_path: Path
) -> None:
    stamp, error = (ptp_from_ntp(LIGHT, 37), 0xCA01) if ptp else (LIGHT, 0x8A01)
    (packet,) = light(port, seal_sender(SenderPacket(7, stamp, error, b"abc"), 1, None), path=tmp_path)
    assert (packet.name, packet.origin.protocol) == ("Session-Sender packet", protocol)
    assert (packet.fields["sequence_number"], packet.fields["padding_octets"]) == (7, 3)
    assert packet.fields["timestamp_unix_ns"] == LIGHT_NS - 3_600_000_000_000
    if protocol == "twamp":
        answer = ReflectorPacket(9, LIGHT, 0x8A01, LIGHT, 7, LIGHT, 0x8A01, 255)
        (packet,) = light(port, seal_reflector(answer, 1, None), back=True, path=tmp_path)
        assert (packet.name, packet.fields["sender_sequence_number"]) == ("Session-Reflector packet", 7)


def test_what_has_not_the_stamp_of_its_day_on_a_well_known_port_is_passed_over(tmp_path: Path) -> None:
    for octets in (
        seal_sender(SenderPacket(7, LIGHT, 0x8A01), 4, SessionKeys(bytes(16), bytes(32))),
        seal_sender(SenderPacket(7, LIGHT - (90_000 << 32), 0x8A01), 1, None),
        bytes(100),
        b"short",
    ):
        assert light(862, octets, path=tmp_path) == []
    assert light(863, seal_sender(SenderPacket(7, LIGHT, 0x8A01), 1, None), path=tmp_path) == []


def test_runs_of_octets_that_differ_are_named_once() -> None:
    assert differences(bytes(20), bytes(20)) == []
    assert differences(b"\0\1\2\0\3", bytes(5)) == [
        "octets 1 to 2 are not zero (MBZ): 0102",
        "octet 4 is not zero (MBZ): 03",
    ]
    assert differences(b"\2", b"\1", 10) == ["octet 10 is 02 where 01 would be right"]


def test_bits_of_the_modes_have_the_names_of_their_protocol() -> None:
    assert mode_words(2 | 16, "owamp") == ["authenticated", "ikev2-derived"]
    assert mode_words(8 | 16 | 128, "twamp") == ["mixed", "session-control", "ikev2-derived"]
    assert mode_words(1 << 31 | 1, "twamp") == ["open", "bit 31"]


def test_a_greeting_is_told_from_other_octets() -> None:
    assert is_greeting(GREETING)
    assert not is_greeting(b"SSH-2.0-OpenSSH_9.2p1".ljust(64, b"x"))
    assert not is_greeting(bytes(64))


def test_a_client_that_does_not_wish_to_continue(tmp_path: Path) -> None:
    said = [(False, GREETING), (True, SetUpResponse(0).encode())]
    found = decoded(control_capture(CLIENT, SERVER, said), tmp_path)
    assert names(found) == NAMES[:2]
    assert found[1].problems == []


# The command.


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ippm", "decode", *arguments], capture_output=True, text=True, timeout=120
    )


def fits_the_schema(document: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)


def test_the_schema_knows_what_is_no_message(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dependency group test")
    path = control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said).save(tmp_path / "c.pcap")
    document = json.loads(command(str(path), "--json").stdout)
    fits_the_schema(document)
    for at, change in (
        (3, {"timeout_ns": "2"}),
        (3, {"timeout": 2}),
        (4, {"sid": "00"}),
        (0, {"mode_words": None}),
        (5, {"accept": 0}),
    ):
        broken = json.loads(json.dumps(document))
        broken["messages"][at]["fields"] |= change
        with pytest.raises(jsonschema.ValidationError):
            fits_the_schema(broken)


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    path = control_capture(CLIENT, SERVER, conversation(Mode.ENCRYPTED, tmp_path / "keys").said).save(
        tmp_path / "c.pcap"
    )
    done = command(str(path), "--keys", str(tmp_path / "keys"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert "  Request-TW-Session, HMAC verified\n" in done.stdout
    assert "192.0.2.1:40000 -> 192.0.2.2:862, TWAMP-Control, 112 octets" in done.stdout
    assert "MALFORMED" not in done.stdout
    document = json.loads(command(str(path), "--keys", str(tmp_path / "keys"), "--json").stdout)
    assert [message["name"] for message in document["messages"]] == NAMES
    fits_the_schema(document)
    assert (document["ok"], document["count"], document["with_problems"], document["error"]) == (True, 8, 0, None)
    document = json.loads(command(str(path), "--json").stdout)
    assert document["with_problems"] == 1


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = command(str(tmp_path / "nothing"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No such file" in done.stderr
    path = control_capture(CLIENT, SERVER, conversation(Mode.OPEN).said).save(tmp_path / "c.pcap")
    done = command(str(path), "--keys", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no key log there" in done.stderr
    path.write_bytes(path.read_bytes()[:-5])
    done = command(str(path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Start-Ack" in done.stdout
    document = json.loads(command(str(path), "--json").stdout)
    assert (document["ok"], document["count"]) == (False, 7)
    fits_the_schema(document)
    assert "cut off" in document["error"]


def test_the_key_log_of_a_connection_is_found_by_its_ivs() -> None:
    keys = SessionKeys(bytes(16), bytes(32))
    client_iv, server_iv = b"c" * 16, b"s" * 16
    log = LoggedKeys({(client_iv, server_iv): ControlKeys("owamp", 4, client_iv, server_iv, keys)})
    response = SetUpResponse(4, b"alice".ljust(80, b"\0"), bytes(64), client_iv).encode()
    start = bytes(16) + server_iv + CbcSender(keys, server_iv).seal(bytes(16), with_hmac=False)
    capture = control_capture(
        CLIENT, Endpoint(SERVER.host, 9999), [(False, GREETING), (True, response), (False, start)]
    )
    frames = [Frame(1, 1, bytes(packet)) for packet in capture.packets]
    found = list(Decoder(log).decode(frames))
    assert names(found) == NAMES[:3]
    assert {one.origin.protocol for one in found} == {"owamp"}
    other = replace(log.connections[client_iv, server_iv], server_iv=bytes(16))
    found = list(Decoder(LoggedKeys({(client_iv, bytes(16)): other})).decode(frames))
    assert found[2].decrypted is False


class OwnTestKeys(DerivedSecret):
    """A secret whose Test keys are its own, as the draft derivations of RFC 7717 make them."""

    def test_keys(self, protocol: str, sid: bytes, control_keys: SessionKeys) -> SessionKeys | None:
        return SessionKeys(sid, sid * 2)


class OwnTestKeysProvider(DerivedProvider):
    def for_client(self, server_address: str, protocol: str, *, ikev2_offered: bool = True) -> DerivedSecret:
        spis, secret = next(iter(self.secrets.items()))
        return OwnTestKeys(secret, spis + bytes(64))

    def for_server(self, key_id: bytes, ikev2_derived: bool, client_address: str, protocol: str) -> DerivedSecret:
        return OwnTestKeys(self.secrets[key_id[:16]], key_id)


def test_test_packets_are_read_with_the_keys_in_use_however_they_came(tmp_path: Path) -> None:
    provider = OwnTestKeysProvider({SPI_I + SPI_R: b"a secret of an IKE SA"})
    writer = KeyLogWriter(tmp_path / "keys")
    pair = Pair(ControlClientConfig(Mode.ENCRYPTED, key_log=writer), None, provider, provider)
    tap = tapped(pair)
    tap.run()
    pair.client.request_session(WISH, pair.now)
    tap.run()
    writer.close()
    (session,) = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    assert session.keys == SessionKeys(session.sid, session.sid * 2)
    octets = seal_sender(SenderPacket(3, 1 << 63, 0x8A01, bytes(27)), int(session.mode), session.keys)
    whole = control_capture(CLIENT, SERVER, tap.said)
    alone = Capture(CLIENT, SERVER)
    for capture in (whole, alone):  # with its Control connection, and without it
        capture.udp(session.sender, session.reflector, octets)
        found = decoded(capture, tmp_path, tmp_path / "keys")[-1]
        assert (found.hmac, found.fields["sequence_number"], found.problems) == ("verified", 3, [])
        assert found.fields["sid"] == session.sid.hex()
