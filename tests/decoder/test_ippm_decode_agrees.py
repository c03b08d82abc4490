"""`ippm decode` and the second decoder read the same capture alike: every message, every field, in every mode.

`ippm decode` has the key log of a role, the second decoder has the secret.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import test_owamp_decoder_agrees as owamp
from decoder import owamp_decoder, twamp_decoder
from ippm_captures import Capture, Tap, control_capture, tapped
from ippm_control_peers import CLIENT, SERVER, WISH, SessionAccepted, pair_in_mode
from owamp_control_peers import CLIENT as OWAMP_CLIENT
from owamp_control_peers import SERVER as OWAMP_SERVER
from owamp_control_peers import OwampPair
from test_twamp_decoder_agrees import SECRETS
from test_twamp_decoder_features import COMBINATIONS, POOL, SERVER_OCTETS, T1, T2, T3

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import Endpoint, TestSession
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.decode.decoder import decode_capture
from ippm.decode.messages import Decoded
from ippm.iana import FEATURE_BITS, NO_FEATURES, Mode
from ippm.io.keylog import KeyLogWriter

pytestmark = pytest.mark.usefixtures("messages_fit_the_schema")
SENDER_NAME, REFLECTOR_NAME = "Session-Sender packet", "Session-Reflector packet"


def hexed(value: object) -> object:
    """A value of the second decoder as JSON has it."""
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    return [hexed(one) for one in value] if isinstance(value, list) else value


SAME_NAME = frozenset(
    {"modes", "challenge", "salt", "count", "mode", "key_id", "token", "client_iv", "accept", "server_iv", "ipvn"}
    | {
        "sender_port",
        "receiver_port",
        "sid",
        "padding_length",
        "type_p",
        "port",
        "sids",
        "begin",
        "end",
        "finished",
    }
    | {"next_seqno"}
)
RENAMED = {
    "schedule_slots": "number_of_schedule_slots",
    "packets": "number_of_packets",
    "padding_to_reflect": "length_of_padding_to_reflect",
}


def assert_same_fields(ours: Decoded, theirs: twamp_decoder.Message) -> None:
    """All fields that both name, and those that one of them has in another form."""
    seen = ours.fields
    for name, value in theirs.fields.items():
        if name in SAME_NAME and name in seen:
            assert seen[name] == hexed(value), (ours.name, name)
        elif name in RENAMED and RENAMED[name] in seen:
            assert seen[RENAMED[name]] == value, (ours.name, name)
        elif name in ("sender_address", "receiver_address"):
            assert seen[name] == str(ip_address(value)), (ours.name, name)
        elif name == "start_time":
            assert seen[name] == f"{value:016x}"
        elif name == "timeout":
            assert abs(int(str(seen["timeout_ns"])) - value * 10**9 / 2**32) < 1
        elif name == "conf_sender" or name == "conf_receiver":
            assert bool(seen[name]) == bool(value)
    named = {"sid", "port", "count", "mode", "server_iv", "packets", "begin", "sids", "padding_length"}
    assert not (named & set(theirs.fields) - set(seen) - {"packets"}), ours.name


def assert_same_control(
    found: list[Decoded], control: twamp_decoder.Control, client: Endpoint, keyed: bool
) -> None:
    """Name, place in the stream, fields and HMAC of every message of both directions."""
    said = [one for one in found if one.channel == "control"]
    for theirs, ours in (
        (control.client, [one for one in said if one.source == client]),
        (control.server, [one for one in said if one.source != client]),
    ):
        assert [(one.name.replace(" ", "-"), one.offset) for one in ours] == [(m.name, m.offset) for m in theirs]
        for one, message in zip(ours, theirs, strict=True):
            assert_same_fields(one, message)
            assert one.problems == []
            assert one.hmac == ("verified" if keyed and message.hmac else None)
        ends = [one.offset + one.octets for one in ours]
        assert ends[:-1] == [one.offset for one in ours][1:]  # no octet is left out


def twamp_conversation(
    mode: Mode, keys: Path, *, features: Mode = NO_FEATURES, sessions: int = 1
) -> tuple[Any, Tap, list[TestSession]]:
    """From greeting to the last stop, with the key log of the client in `keys`."""
    pair = pair_in_mode(mode, features=features and FEATURE_BITS, server_octets=SERVER_OCTETS if features else 0)
    writer = KeyLogWriter(keys)
    pair.client.config = ControlClientConfig(mode.security, features=features, key_log=writer)
    tap = tapped(pair)
    tap.run()
    for number in range(sessions):
        reflected = 20 if features & Mode.REFLECT_OCTETS else 0
        sender = Endpoint(WISH.sender.host, WISH.sender.port + number)
        wish = replace(WISH, sender=sender, padding_octets=100, reflected_octets=reflected)
        pair.client.request_session(wish, pair.now)
    tap.run()
    accepted = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    pair.client.start_sessions(pair.now)
    tap.run()
    pair.client.stop_sessions(pair.now)
    tap.run()
    writer.close()
    assert len(accepted) == sessions
    return pair, tap, accepted


@pytest.mark.parametrize("octets", [1400, 7])
@pytest.mark.parametrize("mode", SECRETS, ids=repr)
def test_twamp_control_in_every_mode(mode: Mode, octets: int, tmp_path: Path) -> None:
    pair, tap, _ = twamp_conversation(mode, tmp_path / "keys", sessions=2)
    path = control_capture(CLIENT, SERVER, tap.said, octets).save(tmp_path / "c.pcap")
    control = twamp_decoder.decode_control(pair.to_server, pair.to_client, SECRETS[mode])
    found = list(decode_capture(path, tmp_path / "keys"))
    assert_same_control(found, control, CLIENT, bool(mode.keyed))
    assert {one.origin.protocol for one in found} == {"twamp"}


@pytest.mark.parametrize("security", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED], ids=repr)
@pytest.mark.parametrize("more", [*COMBINATIONS[1:5], FEATURE_BITS], ids=repr)
def test_twamp_control_with_features(security: Mode, more: Mode, tmp_path: Path) -> None:
    pair, tap, accepted = twamp_conversation(security, tmp_path / "keys", features=more, sessions=2)
    path = control_capture(CLIENT, SERVER, tap.said).save(tmp_path / "c.pcap")
    control = twamp_decoder.decode_control(pair.to_server, pair.to_client, SECRETS[security])
    found = list(decode_capture(path, tmp_path / "keys"))
    assert_same_control(found, control, CLIENT, bool(security.keyed))
    answers = [one for one in found if one.name == "Accept-Session"]
    assert [one.fields["sid"] for one in answers] == [session.sid.hex() for session in accepted]
    reflects = bool(more & Mode.REFLECT_OCTETS)
    assert all(one.fields.get("server_octets") == (SERVER_OCTETS if reflects else None) for one in answers)
    names = {one.name for one in found}
    if more & Mode.INDIVIDUAL_SESSION_CONTROL:
        assert {"Start-N-Sessions", "Start-N-Ack", "Stop-N-Sessions", "Stop-N-Ack"} <= names


@pytest.mark.parametrize("features", COMBINATIONS, ids=repr)
@pytest.mark.parametrize("security", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED], ids=repr)
def test_twamp_test_packets_with_features(security: Mode, features: Mode, tmp_path: Path) -> None:
    _, tap, (session,) = twamp_conversation(security, tmp_path / "keys", features=features)
    capture = control_capture(CLIENT, SERVER, tap.said)
    reflected = 20 if features & Mode.REFLECT_OCTETS else 0
    datagrams = exchange(session, reflected, capture)
    found = decode_capture(capture.save(tmp_path / "c.pcap"), tmp_path / "keys")
    packets = [one for one in found if one.channel == "test"]
    assert [one.name for one in packets] == [SENDER_NAME, REFLECTOR_NAME] * 3
    keys = None if session.keys is None else (session.keys.aes, session.keys.hmac)
    mode = int(security | features)
    for one, (direction, octets) in zip(packets, datagrams, strict=True):
        theirs = twamp_decoder.decode_features(
            twamp_decoder.decode_test(octets, keys, direction, mode), direction, mode, reflected
        )
        assert_same_packet(one, theirs)
        assert one.problems == []
        assert one.fields["sid"] == session.sid.hex()
        assert one.fields["dscp_ecn"] == 46 << 2
        estimate = one.fields["error_estimate"]
        assert isinstance(estimate, dict)
        assert estimate["format"] == ("ptp" if features & Mode.PTP_TIMESTAMPS else "ntp")
        if direction == "sender" and reflected:
            assert one.fields["server_octets"] == f"{SERVER_OCTETS:04x}"


def exchange(session: TestSession, reflected: int, capture: Capture) -> list[tuple[str, bytes]]:
    """Three packets and their replies, into the capture."""
    plan = {"sid": session.sid, "mode": int(session.mode), "keys": session.keys, "reflected_octets": reflected}
    sender = SessionSender(
        SenderPlan(
            local=session.sender,
            remote=session.reflector,
            count=3,
            schedule=None,  # type: ignore[arg-type]
            padding_octets=session.padding_octets,
            server_octets=session.server_octets,
            **plan,  # type: ignore[arg-type]
        ),
        POOL,
    )
    reflector = SessionReflector(
        ReflectorPlan(local=session.reflector, remote=session.sender, **plan),  # type: ignore[arg-type]
        lambda: T3,
        0x0A07,
    )
    reflector.start(0)
    datagrams = []
    for number in range(3):
        sender.prepare(number)
        packet = bytes(sender.pack(number, T1 + number, 0x8A01))
        capture.udp(session.sender, session.reflector, packet, tos=46 << 2, ttl=255)
        reply = reflector.handle(packet, 250, T2 + number, tuple(session.sender), 46 << 2)
        assert reply is not None
        capture.udp(session.reflector, session.sender, bytes(reply), tos=46 << 2, ttl=255)
        datagrams += [("sender", packet), ("reflector", bytes(reply))]
        reflector.prepare()
    return datagrams


def assert_same_packet(ours: Decoded, theirs: dict[str, Any]) -> None:
    """The fields of a test packet."""
    seen = ours.fields
    for name in ("sequence_number", "sender_sequence_number", "sender_ttl", "sender_dscp_ecn"):
        assert seen.get(name) == theirs.get(name), name
    for name in ("timestamp", "receive_timestamp", "sender_timestamp"):
        if name in theirs:
            assert seen[name] == f"{theirs[name]:016x}", name
    for name in ("error_estimate", "sender_error_estimate"):
        if name in theirs:
            estimate = seen[name]
            assert isinstance(estimate, dict)
            assert (estimate["synchronized"], estimate["scale"], estimate["multiplier"]) == (
                bool(theirs[name]["s"]),
                theirs[name]["scale"],
                theirs[name]["multiplier"],
            )
            assert estimate["format"] == ("ptp" if theirs[name]["z"] else "ntp")
    if "reflected" in theirs:
        mine = seen["to_be_reflected" if ours.name == SENDER_NAME else "reflected"]
        assert mine == theirs["reflected"].hex()
    assert ours.hmac == ("verified" if theirs["verified"] else None)


@pytest.mark.parametrize(("mode", "secret"), owamp.MODES, ids=[repr(mode) for mode, _ in owamp.MODES])
def test_owamp_control_in_every_mode(
    mode: Mode, secret: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = KeyLogWriter(tmp_path / "keys")
    taps: list[Tap] = []

    def watched(mode: Mode) -> OwampPair:
        pair = OwampPair(mode, key_log=writer)
        taps.append(tapped(pair))
        return pair

    monkeypatch.setattr(owamp, "OwampPair", watched)
    pair, (to, back) = owamp.conversation(mode)
    path = control_capture(OWAMP_CLIENT, OWAMP_SERVER, taps[0].said).save(tmp_path / "c.pcap")
    control = owamp_decoder.decode_control(pair.to_server, pair.to_client, secret)
    found = list(decode_capture(path, tmp_path / "keys"))
    data = ("Request-Session of the fetched session", "Skip Ranges", "packet records")
    whole = [one for one in found if one.name not in data]
    assert not any(one.problems for one in found)
    assert {one.hmac for one in found if one.name in data} == {"verified" if mode.keyed else None}
    assert_same_messages(whole, control, keyed=bool(mode.keyed))
    check_fetched([one for one in found if one.name in data], control)
    check_descriptions(whole, control)
    assert [one.fields["sid"] for one in whole if one.name == "Request-Session"] == [
        bytes(16).hex(),
        back.sid.hex(),
    ]
    assert to.sid.hex() in {one.fields.get("sid") for one in whole if one.name == "Accept-Session"}


def assert_same_messages(whole: list[Decoded], control: twamp_decoder.Control, *, keyed: bool) -> None:
    """The same as of TWAMP; the parts of a fetch are messages of their own here."""
    for theirs, ours in (
        (control.client, [one for one in whole if one.source == OWAMP_CLIENT]),
        (control.server, [one for one in whole if one.source == OWAMP_SERVER]),
    ):
        assert [(one.name.replace(" ", "-"), one.offset) for one in ours] == [(m.name, m.offset) for m in theirs]
        for one, message in zip(ours, theirs, strict=True):
            assert_same_fields(one, message)
            assert one.hmac == ("verified" if keyed and message.hmac else None)
            if "slots" in message.fields:
                slots = one.fields["slots"]
                assert isinstance(slots, list)
                kinds = {0: "exponential", 1: "fixed"}
                assert [slot["slot_type"] for slot in slots] == [kinds[kind] for kind, _ in message.fields["slots"]]


def check_fetched(data: list[Decoded], control: twamp_decoder.Control) -> None:
    """The records and Skip Ranges of each fetch that was accepted."""
    fetches = [m.fields for m in control.server if m.name == "Fetch-Ack" and not m.fields["accept"]]
    assert len(data) == 3 * len(fetches)
    for fetch, request, skips, records in zip(fetches, data[::3], data[1::3], data[2::3], strict=True):
        assert request.fields["sid"] == fetch["request"]["sid"].hex()
        ranges = skips.fields["skip_ranges"]
        assert isinstance(ranges, list)
        assert [(one["first"], one["last"]) for one in ranges] == fetch["skips"]
        rows = records.fields["records"]
        assert isinstance(rows, list)
        assert [
            (row["sequence_number"], row["send_timestamp"], row["receive_timestamp"], row["ttl"]) for row in rows
        ] == [(one["seq"], f"{one['send']:016x}", f"{one['receive']:016x}", one["ttl"]) for one in fetch["records"]]


def check_descriptions(whole: list[Decoded], control: twamp_decoder.Control) -> None:
    """What each Stop-Sessions says of its sessions."""
    stops = [m.fields["sessions"] for m in control.client + control.server if m.name == "Stop-Sessions"]
    said_by_us = sorted(
        (one for one in whole if one.name == "Stop-Sessions"), key=lambda one: one.source.port == 861
    )
    ours = [one.fields["descriptions"] for one in said_by_us]
    assert len(ours) == len(stops) == 2
    for seen, said in zip(ours, stops, strict=True):
        assert isinstance(seen, list)
        assert [(one["sid"], one["next_seqno"]) for one in seen] == [
            (d["sid"].hex(), d["next_seqno"]) for d in said
        ]
        assert [[(r["first"], r["last"]) for r in one["skip_ranges"]] for one in seen] == [d["skips"] for d in said]
