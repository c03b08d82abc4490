"""The second decoder reads every OWAMP-Control message and test packet that our roles make, in every mode."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from decoder import owamp_decoder
from decoder.owamp_decoder import DecodeError, decode_control, decode_test, send_offsets
from decoder.twamp_decoder import Control
from owamp_control_peers import (
    FROM_SERVER,
    NTP_NOW,
    POISSON_10_MS,
    SECOND,
    SID_OF_CLIENT,
    SYNCHRONIZED,
    TO_SERVER,
    OwampPair,
    deliver,
    finish,
    receiver_of,
    sender_of,
)

from ippm.core.owamp_events import OwampSession, OwampSessionAccepted
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_schedule import SessionSchedule
from ippm.iana import Mode
from ippm.timestamps import ntp_add_ns

MODES = [
    (Mode.OPEN, None),
    (Mode.AUTHENTICATED, b"correct horse"),
    (Mode.ENCRYPTED, b"correct horse"),
    (Mode.AUTHENTICATED | Mode.IKEV2_DERIVED, b"\x00\n\r shared secret \xff"),
    (Mode.ENCRYPTED | Mode.IKEV2_DERIVED, b"\x00\n\r shared secret \xff"),
]
SLOTS = (*POISSON_10_MS, Slot(SlotType.FIXED, 0), Slot(SlotType.FIXED, 1 << 24))
AFTER = ntp_add_ns(NTP_NOW, 100 * SECOND)


def test_imports_nothing_of_this_project() -> None:
    tree = ast.parse(Path(owamp_decoder.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names <= {"__future__", "typing", "decoder"}


def conversation(mode: Mode) -> tuple[OwampPair, list[OwampSession]]:
    """Two sessions, one each way, with packets skipped, lost and copied; then a whole fetch, a part, and a refusal."""
    pair = OwampPair(mode).set_up()
    wishes = (replace(TO_SERVER, slots=SLOTS, padding_octets=11), replace(FROM_SERVER, slots=SLOTS[1:]))
    for wish in wishes:
        pair.client.request_session(wish, pair.now)
    pair.run()
    sessions = [event.session for event in pair.client_events() if isinstance(event, OwampSessionAccepted)]
    to, back = sessions
    pair.client.start_sessions(pair.now)
    pair.run()
    sender, receiver = sender_of(to), receiver_of(pair.hooks.opened[0])
    for _ in range(3):
        sender.skip()
    deliver(sender, receiver, lost=(5,), copied=(6,))
    other = sender_of(pair.hooks.opened[1])
    deliver(other, receiver_of(back))
    pair.server.session_complete(to.sid, None, pair.now)
    pair.server.session_complete(back.sid, other.description(), pair.now)
    pair.client.stop_sessions([sender.description()], pair.now)
    pair.run()
    finish(receiver, pair.hooks.store[to.sid], receiver.finish(sender.description(), AFTER))
    pair.server.session_ended(to.sid)
    for sid, begin, end in ((to.sid, 0, 0xFFFFFFFF), (to.sid, 4, 6), (bytes(16), 0, 0xFFFFFFFF)):
        pair.client.fetch_session(sid, pair.now, begin, end)
        pair.run()
    return pair, sessions


@pytest.mark.req("rfc4656-s3.1-20")
@pytest.mark.req("rfc4656-s3.1-22")
@pytest.mark.req("rfc4656-s3.5-02")
@pytest.mark.req("rfc4656-s3.5-04")
@pytest.mark.req("rfc4656-s3.8-02")
@pytest.mark.parametrize(("mode", "secret"), MODES, ids=[repr(mode) for mode, _ in MODES])
def test_every_control_message(mode: Mode, secret: bytes | None) -> None:
    pair, (to, back) = conversation(mode)
    control = decode_control(pair.to_server, pair.to_client, secret)
    assert control.mode == int(mode.security) | (16 if mode & Mode.IKEV2_DERIVED else 0)
    assert [m.name for m in control.client] == [
        "Set-Up-Response", "Request-Session", "Request-Session", "Start-Sessions", "Stop-Sessions",
        "Fetch-Session", "Fetch-Session", "Fetch-Session",
    ]  # fmt: skip
    assert [m.name for m in control.server] == [
        "Server-Greeting", "Server-Start", "Accept-Session", "Accept-Session", "Start-Ack", "Stop-Sessions",
        "Fetch-Ack", "Fetch-Ack", "Fetch-Ack",
    ]  # fmt: skip
    verified = None if mode & Mode.OPEN else True
    assert {m.hmac for m in control.client[1:] + control.server[2:]} == {verified}
    assert not any(any(m.fields.get("mbz", b"")) for m in control.client + control.server)
    if mode & Mode.OPEN:
        assert_open_hmacs_are_zero(pair)
    check_requests(control, to, back)
    check_stops(control, to, back)
    check_fetches(control, to)


def assert_open_hmacs_are_zero(pair: OwampPair) -> None:
    """In open mode the HMAC fields have the semantics of MBZ. RFC 4656 section 3.2."""
    assert pair.to_server[164 + 96 : 164 + 112] == bytes(16)
    assert pair.to_client[112 + 32 : 112 + 48] == bytes(16)


def check_requests(control: Control, to: OwampSession, back: OwampSession) -> None:
    one, two = control.client[1].fields, control.client[2].fields
    assert (one["conf_sender"], one["conf_receiver"], two["conf_sender"], two["conf_receiver"]) == (0, 1, 1, 0)
    assert (one["ipvn"], one["packets"], one["padding_length"], one["type_p"]) == (4, 20, 11, 46 << 24)
    assert one["sender_address"] == two["receiver_address"] == bytes([192, 0, 2, 1])
    assert one["receiver_address"] == two["sender_address"] == bytes([192, 0, 2, 2])
    assert not any(one["address_rest"])
    assert one["slots"] == [(int(slot.slot_type), slot.parameter) for slot in SLOTS]
    assert two["sid"] == SID_OF_CLIENT == back.sid
    accepted, other = control.server[2].fields, control.server[3].fields
    assert (accepted["accept"], accepted["port"], accepted["sid"]) == (0, to.receiver.port, to.sid)
    assert (other["accept"], other["port"], other["sid"]) == (0, back.sender.port, bytes(16))


def check_stops(control: Control, to: OwampSession, back: OwampSession) -> None:
    ours, theirs = control.client[4].fields, control.server[5].fields
    assert ours["sessions"] == [{"sid": to.sid, "next_seqno": 20, "skips": [(0, 2)]}]
    assert theirs["sessions"] == [{"sid": back.sid, "next_seqno": 20, "skips": []}]


def check_fetches(control: Control, to: OwampSession) -> None:
    whole, part, refused = (message.fields for message in control.server[6:])
    assert (whole["accept"], whole["finished"], whole["next_seqno"], whole["skips"]) == (0, 1, 20, [(0, 2)])
    request = whole["request"]
    assert (request["sender_port"], request["receiver_port"]) == (to.sender.port, to.receiver.port)
    assert (request["sid"], request["slots"]) == (to.sid, control.client[1].fields["slots"])
    numbers = [record["seq"] for record in whole["records"]]
    assert numbers == [3, 4, 6, 6, *range(7, 20), 5]
    offsets = send_offsets(request["slots"], to.sid, 20)
    for record in whole["records"]:
        assert record["send"] == request["start_time"] + offsets[record["seq"]]
        lost = record["seq"] == 5
        assert record["ttl"] == (255 if lost else 250)
        assert record["send_error"] == (1 if lost else SYNCHRONIZED)
        assert record["receive_error"] == SYNCHRONIZED
        assert (record["receive"] == 0) == lost
    assert [record["seq"] for record in part["records"]] == [4, 6, 6, 5]
    assert refused["accept"] == 1
    assert not any(refused["rest"])


@pytest.mark.parametrize(("mode", "secret"), MODES, ids=[repr(mode) for mode, _ in MODES])
def test_every_test_packet(mode: Mode, secret: bytes | None) -> None:
    pair, (to, _) = conversation(mode)
    control = decode_control(pair.to_server, pair.to_client, secret)
    keys = control.test_keys(to.sid) if secret else None
    sender = sender_of(to)
    for n in range(5):
        sender.prepare()
        data = bytes(sender.pack(NTP_NOW + n, SYNCHRONIZED))
        sender.was_sent()
        fields = decode_test(data, keys, control.mode)
        assert (fields["seq"], fields["timestamp"], fields["error"]) == (n, NTP_NOW + n, SYNCHRONIZED)
        assert len(fields["padding"]) == 11
        assert not any(fields.get("mbz", b""))
        if keys:
            with pytest.raises(DecodeError):
                decode_test(data, control.test_keys(bytes(16)), control.mode)


@pytest.mark.parametrize("at", [170, 300, 330, 420, 500])
def test_a_changed_octet_is_noticed(at: int) -> None:
    pair, _ = conversation(Mode.ENCRYPTED)
    changed = bytearray(pair.to_server)
    changed[at] ^= 1
    with pytest.raises(DecodeError):
        decode_control(bytes(changed), pair.to_client, b"correct horse")


@pytest.mark.req("rfc4656-s5.1-01")
@pytest.mark.req("rfc4656-s5.2-01")
@pytest.mark.req("rfc4656-s5.2-02")
@pytest.mark.req("rfc4656-sA-01")
@pytest.mark.req("rfc4656-sA-02")
@pytest.mark.parametrize("sid", [bytes(16), SID_OF_CLIENT, bytes(range(16))])
def test_both_compute_the_same_schedule(sid: bytes) -> None:
    slots = (Slot(SlotType.EXPONENTIAL, 1 << 32), Slot(SlotType.FIXED, 12345), Slot(SlotType.EXPONENTIAL, 1 << 20))
    ours = SessionSchedule(slots, sid, 3000)
    theirs = send_offsets([(int(slot.slot_type), slot.parameter) for slot in slots], sid, 3000)
    assert [ours.offset(n) for n in range(3000)] == theirs
