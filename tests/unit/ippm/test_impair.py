"""Each knob of `ippm --impair` does what its line says, as `ippm decode`, the second decoder or the peer tells."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from decoder.twamp_decoder import DecodeError, decode_control, decode_test
from ippm_captures import control_capture, tapped
from ippm_control_peers import CLIENT, SERVER, WISH, ConnectionClosed, Pair, pair_in_mode
from owamp_control_peers import TO_SERVER, OwampPair

from ippm.cli.impairment_table import ROWS
from ippm.cli.main import cli
from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import ClientRefused, SessionDenied
from ippm.core.impair import CONTROL_ACTIONS, MESSAGES, PACKET_ACTIONS, Delivery, Impairments, Knob, PacketContext
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import SessionKeys
from ippm.crypto_packet import seal_reflector, seal_sender
from ippm.decode.capture import Frame
from ippm.decode.decoder import Decoder
from ippm.decode.messages import Decoded
from ippm.errors import ConfigurationError, IntegrityError, InvalidMessage, ServerRefused
from ippm.iana import Accept, Mode
from ippm.io.keylog import LoggedKeys
from ippm.wire.test_packet import ReflectorPacket, SenderPacket

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "impairments-ippm.md"
KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))


class Logged(LoggedKeys):
    """A key log in memory."""

    def control(self, entry: Any) -> None:
        self.connections[entry.client_iv, entry.server_iv] = entry

    def test(self, entry: Any) -> None:
        self.sessions[entry.protocol, entry.sid] = entry


def impaired(*knobs: str) -> Impairments:
    return Impairments(Knob.parse(knob) for knob in knobs)


def conversation(
    mode: Mode = Mode.ENCRYPTED, *, client: tuple[str, ...] = (), server: tuple[str, ...] = ()
) -> tuple[Pair, list[Decoded]]:
    """As far as a connection comes with these knobs, and what is read of it with the keys."""
    log = Logged()
    pair = pair_in_mode(mode, impairments=impaired(*server), key_log=log)
    pair.client.config = ControlClientConfig(mode.security, impairments=impaired(*client))
    tap = tapped(pair)
    tap.run()
    for ask in (
        lambda: pair.client.request_session(WISH, pair.now),
        lambda: pair.client.start_sessions(pair.now),
        lambda: pair.client.stop_sessions(pair.now),
    ):
        if pair.client.closed:
            break
        try:
            ask()
        except Exception:
            break
        tap.run()
    frames = [Frame(n, 1, bytes(p)) for n, p in enumerate(control_capture(CLIENT, SERVER, tap.said).packets)]
    return pair, list(Decoder(log).decode(frames))


def closed(role: Any) -> ConnectionClosed:
    events = []
    while (event := role.next_event()) is not None:
        events.append(event)
    return next(event for event in events if isinstance(event, ConnectionClosed))


# Control.

MODES = [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED]


@pytest.mark.parametrize("mode", MODES, ids=repr)
@pytest.mark.parametrize(
    ("knob", "by_client", "name", "problem"),
    [
        ("mbz:server-greeting:1", False, "Server Greeting", "octet 52 is not zero (MBZ): ff"),
        ("mode:server-greeting:1:0x4000000f", False, "Server Greeting", None),
        ("count:server-greeting:1", False, "Server Greeting", "octets 48 to 51: Count 1023 is no power of two"),
        ("mode:set-up-response:1:0x80000008", True, "Set-Up-Response", "octets 0 to 3: not offered: bit 31"),
        ("mbz:server-start:1", False, "Server-Start", "octet 0 is not zero (MBZ): ff"),
        ("mbz:request-tw-session:1", True, "Request-TW-Session", "octet 92 is not zero (MBZ): ff"),
        ("change:request-tw-session:1:2=01", True, "Request-TW-Session", "conf_sender is 1, and zero in TWAMP"),
        ("mbz:accept-session:*", False, "Accept-Session", "octet 1 is not zero (MBZ): ff"),
        ("mbz:start-sessions:1", True, "Start-Sessions", "octet 1 is not zero (MBZ): ff"),
        ("mbz:start-ack:1", False, "Start-Ack", "octet 1 is not zero (MBZ): ff"),
        ("mbz:stop-sessions:1", True, "Stop-Sessions", "octet 2 is not zero (MBZ): ff"),
    ],
)
def test_what_is_changed_before_the_protection_is_under_a_right_hmac(
    knob: str, by_client: bool, name: str, problem: str | None, mode: Mode
) -> None:
    _, found = conversation(mode, **{"client" if by_client else "server": (knob,)})
    message = next(one for one in found if one.name == name)
    if problem is not None:
        assert any(problem in text for text in message.problems), message.problems
    assert message.hmac != "wrong"
    if name == "Server Greeting" and problem is None:
        assert "bit 30" in message.fields["mode_words"]  # type: ignore[operator]


@pytest.mark.parametrize("mode", MODES, ids=repr)
@pytest.mark.parametrize("message", ["request-tw-session", "start-sessions"])
def test_a_wrong_hmac_of_ours_ends_the_connection_at_the_server(message: str, mode: Mode) -> None:
    pair, found = conversation(mode, client=(f"hmac:{message}:1",))
    wrong = next(one for one in found if one.name.lower() == message)
    if mode is Mode.OPEN:
        assert "(HMAC, MBZ without keys)" in wrong.problems[0]  # ignored by the server: RFC 4656 section 3.2
        return
    assert wrong.hmac == "wrong"
    assert isinstance(closed(pair.server).error, IntegrityError)


def test_a_wrong_hmac_of_the_server_ends_the_connection_at_the_client() -> None:
    pair, _ = conversation(server=("hmac:accept-session:1",))
    assert isinstance(closed(pair.client).error, IntegrityError)


@pytest.mark.parametrize(("knob", "by_client"), [("iv:set-up-response:1", True), ("iv:server-start:1", False)])
def test_an_iv_that_is_sent_and_not_used(knob: str, by_client: bool) -> None:
    pair, _ = conversation(**{"client" if by_client else "server": (knob,)})
    with pytest.raises(DecodeError):
        decode_control(pair.to_server, pair.to_client, b"correct horse")
    reader = pair.server if by_client else pair.client
    # Only the first block depends on the IV: the HMAC of the message tells, or the command has no length.
    assert isinstance(closed(reader).error, IntegrityError | InvalidMessage)


def test_a_mode_that_was_not_offered_is_refused_with_accept_3() -> None:
    pair, _ = conversation(Mode.OPEN, client=("mode:set-up-response:1:4",), server=())
    refused = next(event for event in pair.server_events() if isinstance(event, ClientRefused))
    assert refused.accept == Accept.FAILURE  # mode 4 was offered, but there is no Token in it
    pair = Pair(
        ControlClientConfig(Mode.OPEN, impairments=impaired("mode:set-up-response:1:8")),
        ControlServerConfig(count=1024, modes=Mode.OPEN),
    )
    pair.run()
    refused = next(event for event in pair.server_events() if isinstance(event, ClientRefused))
    assert refused.accept == Accept.NOT_SUPPORTED


@pytest.mark.parametrize("value", [1, 2, 3, 4, 5, 6, 99])
def test_an_accept_of_ours_reaches_the_client_as_it_is(value: int) -> None:
    pair, found = conversation(server=(f"accept:start-ack:1:{value}",))
    error = closed(pair.client).error
    assert isinstance(error, ServerRefused)
    assert error.accept == value
    assert next(one for one in found if one.name == "Start-Ack").fields["accept"] == value


def test_a_long_message_has_its_hmac_where_none_is_looked_for() -> None:
    pair, found = conversation(client=("long:request-tw-session:1:2",))
    request = next(one for one in found if one.name == "Request-TW-Session")
    assert request.hmac == "wrong"
    assert isinstance(closed(pair.server).error, IntegrityError)
    assert len(pair.to_server) == 164 + 96 + 16 + 32


def test_a_short_message_is_waited_for() -> None:
    pair, found = conversation(client=("short:request-tw-session:1",))
    assert not pair.server.closed
    assert pair.server.next_timer() is not None  # SERVWAIT
    assert found[-1].problems == ["80 octets of a message that is not whole"]
    assert len(pair.to_server) == 164 + 96


def test_what_is_dropped_is_not_missed_by_the_protection() -> None:
    pair, found = conversation(client=("drop:request-tw-session:1",))
    assert "Request-TW-Session" not in [one.name for one in found]
    pair.client._awaited.clear()
    pair.client.request_session(WISH, pair.now)
    pair.run()
    control = decode_control(pair.to_server, pair.to_client, b"correct horse")
    assert [message.name for message in control.client] == ["Set-Up-Response", "Request-TW-Session"]
    assert control.client[1].hmac


def test_duplicate_is_protected_twice_and_replay_is_not() -> None:
    _, found = conversation(client=("duplicate:request-tw-session:1",))
    asked = [one.hmac for one in found if one.name == "Request-TW-Session"]
    assert asked == ["verified", "verified"]
    pair, found = conversation(client=("replay:request-tw-session:1",))
    assert [one.hmac for one in found if one.source == CLIENT][1] == "verified"
    assert closed(pair.server).error is not None  # the second copy is no message in this stream


@pytest.mark.parametrize(
    ("knob", "octets"), [("truncate:stop-sessions:1:5", 27), ("extend:stop-sessions:1:16", 48)]
)
def test_octets_that_are_missing_or_more_behind_the_protection(knob: str, octets: int) -> None:
    pair, found = conversation(client=(knob,))
    before = 164 + 112 + 32
    assert len(pair.to_server) == before + octets
    assert any("octets" in text for one in found for text in one.problems) or octets == 48


def test_corrupt_octets_are_those_of_the_ciphertext() -> None:
    plain, _ = conversation()
    spoilt, _ = conversation(client=("corrupt:start-sessions:1:3=abcd",))
    at = 164 + 112 + 3
    assert spoilt.to_server[at : at + 2] == bytes.fromhex("abcd")
    assert spoilt.to_server[:at] == plain.to_server[:at]


def test_knobs_count_over_all_connections_and_go_in_their_order() -> None:
    shared = impaired("accept:accept-session:2:5", "mbz:control:1")
    outcomes = []
    for _ in range(3):
        pair = pair_in_mode(Mode.OPEN, impairments=shared)
        pair.run()
        pair.client.request_session(WISH, pair.now)
        pair.run()
        outcomes.append(pair.to_client[112])
    assert outcomes == [0, 5, 0]
    assert shared.knobs[1].seen == 9


def test_parts_of_owamp_messages_have_names_of_their_own() -> None:
    pair = OwampPair(Mode.ENCRYPTED)
    pair.client.config = replace(pair.client.config, impairments=impaired("change:schedule-slots:1:0=09"))
    pair.set_up()
    pair.client.request_session(TO_SERVER, pair.now)
    pair.run()
    (denied,) = [event for event in pair.server_said if isinstance(event, SessionDenied)]
    assert "a schedule slot" in denied.reason


def test_without_knobs_nothing_is_changed() -> None:
    plain = pair_in_mode(Mode.ENCRYPTED)
    plain.run()
    pair, _ = conversation(client=("mbz:fetch-session:*",), server=("drop:test:*",))
    assert pair.to_server.startswith(plain.to_server)
    assert pair.to_client.startswith(plain.to_client)


# Test packets.

T = 0xE0000000_00000001
SENDER = SenderPacket(5, T, 0x8A01, b"padding!" * 4)
REPLY = ReflectorPacket(5, T, 0x8A01, T + 1, 9, T + 2, 0x8B01, 250, b"padding!" * 2)


def packet(mode: Mode, *, reply: bool) -> tuple[bytes, PacketContext]:
    keys = KEYS if mode.keyed else None
    octets = seal_reflector(REPLY, int(mode), keys) if reply else seal_sender(SENDER, int(mode), keys)
    return octets, PacketContext(int(mode), keys, reply=reply)


def read(octets: bytes, mode: Mode, *, reply: bool) -> dict[str, Any]:
    keys = (KEYS.aes, KEYS.hmac) if mode.keyed else None
    return decode_test(octets, keys, "reflector" if reply else "sender", int(mode))


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("mode", MODES[:3], ids=repr)
def test_a_packet_is_changed_under_a_right_hmac(mode: Mode, reply: bool) -> None:
    octets, context = packet(mode, reply=reply)
    (sent,) = impaired("sequence:test:1:77").packet(octets, context)
    fields = read(sent.data, mode, reply=reply)
    assert fields["sequence_number"] == 77
    assert fields["timestamp"] == T
    (sent,) = impaired("mbz:test:1").packet(octets, context)
    assert any(read(sent.data, mode, reply=reply).get("mbz", b"")) == (mode.keyed != 0 or reply)
    (sent,) = impaired("multiplier:test:1").packet(octets, context)
    with pytest.raises(DecodeError, match="Multiplier is zero"):
        read(sent.data, mode, reply=reply)
    (sent,) = impaired("change:test:1:2=ff").packet(octets, context)
    assert read(sent.data, mode, reply=reply)["sequence_number"] == 0xFF05


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("mode", MODES[:3], ids=repr)
def test_a_wrong_hmac_of_a_packet(mode: Mode, reply: bool) -> None:
    octets, context = packet(mode, reply=reply)
    (sent,) = impaired("hmac:test:1").packet(octets, context)
    if not mode.keyed:
        assert sent.data == octets  # there is none
        return
    with pytest.raises(DecodeError, match="HMAC does not verify"):
        read(sent.data, mode, reply=reply)
    assert sum(one != other for one, other in zip(sent.data, octets, strict=True)) == 1


def test_what_becomes_of_packets_as_a_whole() -> None:
    octets, context = packet(Mode.OPEN, reply=False)
    assert impaired("drop:test:1").packet(octets, context) == []
    assert impaired("duplicate:test:*").packet(octets, context) == [Delivery(octets), Delivery(octets)]
    assert impaired("delay:test:1:0.25").packet(octets, context) == [Delivery(octets, 0.25)]
    assert impaired("truncate:test:1:40").packet(octets, context) == [Delivery(octets[:-40])]
    assert impaired("extend:test:1:4").packet(octets, context) == [Delivery(octets + bytes(4))]
    assert impaired("corrupt:test:1:0=0102").packet(octets, context) == [Delivery(b"\1\2" + octets[2:])]
    assert impaired("duplicate:test:1", "delay:test:2:3").packet(octets, context) == [
        Delivery(octets),
        Delivery(octets, 3.0),
    ]
    stale = impaired("stale:test:2")
    assert stale.packet(b"one", context) == [Delivery(b"one")]
    assert stale.packet(b"two", context) == [Delivery(b"one")]
    assert stale.packet(b"three", context) == [Delivery(b"three")]


def test_a_packet_that_another_knob_has_cut_is_not_opened() -> None:
    octets, context = packet(Mode.ENCRYPTED, reply=False)
    assert impaired("truncate:test:1:70", "mbz:test:1").packet(octets, context) == [Delivery(octets[:-70])]
    assert struct.unpack(">I", octets[:4])[0] != 5


# What a person writes.


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("hmca:test:1", "there is no 'hmca' (is hmac meant?): `ippm impairments` lists all"),
        ("hmac", "write hmac:MESSAGE:1, or * for each of them"),
        ("hmac:start-session:1", "there is no message 'start-session' (is start-sessions meant?)"),
        ("hmac:test:0", "'0' is no number: they are counted from 1, or all (*)"),
        ("hmac:test:²", "'²' is no number: they are counted from 1, or all (*)"),
        ("hmac:test:x", "'x' is no number"),
        ("hmac:test:1:7", "hmac takes no argument"),
        ("iv:test:1", "iv is not for test packets"),
        ("stale:start-ack:1", "stale is not for Control messages"),
        ("iv:start-ack:1", "start-ack has none; these have: set-up-response, server-start"),
        ("mbz:set-up-response:1", "set-up-response has none; these have: server-greeting"),
        ("accept:server-greeting:1", "server-greeting has none; these have:"),
        ("hmac:server-greeting:1", "server-greeting has no HMAC"),
        ("hmac:set-up-response:1", "set-up-response has no HMAC"),
        ("hmac:server-start:*", "server-start has no HMAC"),
        ("short:start-ack:1:0", "'0' is not what short takes, such as 1"),
        ("change:start-ack:1:x", "'x' is not what change takes, such as 0"),
        ("change:start-ack:1:1=z", "'1=z' is not what change takes"),
        ("delay:test:1:-1", "'-1' is not what delay takes, such as 1.0"),
        ("mode:set-up-response:1:0x100000000", "is not what mode takes"),
    ],
)
def test_a_knob_that_is_none_is_told_in_one_line(text: str, what: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Knob.parse(text)
    assert str(caught.value).startswith(f"impairment {text!r}: ")
    assert what in str(caught.value)


def test_the_command_lists_what_there_is_as_the_documentation_does() -> None:
    documented = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert documented == [(row.knob, row.text) for row in ROWS]
    assert {row.action for row in ROWS if row.acts_on == "control"} == set(CONTROL_ACTIONS)
    assert {row.action for row in ROWS if row.acts_on == "test"} == set(PACKET_ACTIONS)
    result = CliRunner().invoke(cli, ["impairments"])
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 120 or "server-greeting" in result.output
    document = json.loads(CliRunner().invoke(cli, ["impairments", "--json"]).output)
    assert document["messages"] == [*MESSAGES, "test"]
    assert [row["action"] for row in document["knobs"]] == [row.action for row in ROWS]


def test_every_message_and_default_is_understood() -> None:
    for row in ROWS:
        message = "test" if row.acts_on == "test" else "control"
        assert Knob.parse(f"{row.action}:{message}:*").ordinal is None
    for message in MESSAGES:
        assert Knob.parse(f"drop:{message}:1").message == message
