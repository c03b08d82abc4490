"""What the second decoder reads, as a list: each Control message and test packet of OWAMP and TWAMP, in each mode.

The list is compared with what the decoder has read of our roles' conversations, and with the codecs that there are: a
pair that is missing, or a message that is new, fails here.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from decoder import owamp_decoder, twamp_decoder
from decoder.twamp_decoder import Control, DecodeError
from ippm_control_peers import WISH, Pair, SessionAccepted, derived_provider, passphrases
from owamp_control_peers import NTP_NOW, SYNCHRONIZED, TO_SERVER, sender_of
from test_owamp_decoder_agrees import conversation

import ippm.wire
from ippm.core.control_client import ControlClientConfig
from ippm.core.server_policy import ControlServerConfig
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import PassphraseProvider
from ippm.errors import RefuseSession
from ippm.iana import FEATURE_BITS, NO_FEATURES, Mode

DERIVED = Mode.IKEV2_DERIVED
TWAMP_MODES = [
    Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED,
    Mode.AUTHENTICATED | DERIVED, Mode.ENCRYPTED | DERIVED, Mode.MIXED | DERIVED,
]  # fmt: skip
OWAMP_MODES = [
    Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.AUTHENTICATED | DERIVED, Mode.ENCRYPTED | DERIVED,
]  # fmt: skip

SET_UP = ["Server-Greeting", "Set-Up-Response", "Server-Start", "Server-Start refused"]
TWAMP_MESSAGES = [
    *SET_UP, "Request-TW-Session", "Accept-Session", "Accept-Session refused", "Start-Sessions", "Start-Ack",
    "Stop-Sessions", "Start-N-Sessions", "Start-N-Ack", "Stop-N-Sessions", "Stop-N-Ack",
]  # fmt: skip
TWAMP_PACKETS = ["sender", "reflector"]
OWAMP_MESSAGES = [
    *SET_UP, "Request-Session", "Accept-Session", "Accept-Session refused", "Start-Sessions", "Start-Ack",
    "Stop-Sessions of the client", "Stop-Sessions of the server", "Fetch-Session", "Fetch-Ack", "Fetch-Ack refused",
]  # fmt: skip
OWAMP_PACKETS = ["packet"]
READ = {
    *product(["twamp"], TWAMP_MESSAGES + TWAMP_PACKETS, TWAMP_MODES),
    *product(["owamp"], OWAMP_MESSAGES + OWAMP_PACKETS, OWAMP_MODES),
}
"""All of it. Open mode has no secret that could be wrong: what is refused there is a mode that was not offered."""

CODECS = {
    "accept_session": {"Accept-Session"},
    "fetch_session": {"Fetch-Session", "Fetch-Ack"},
    "n_sessions": {"Start-N-Sessions", "Start-N-Ack", "Stop-N-Sessions", "Stop-N-Ack"},
    "request_session": {"Request-Session"},
    "request_tw_session": {"Request-TW-Session"},
    "server_greeting": {"Server-Greeting"},
    "server_start": {"Server-Start"},
    "set_up_response": {"Set-Up-Response"},
    "start_ack": {"Start-Ack"},
    "start_sessions": {"Start-Sessions"},
    "stop_descriptions": {"Stop-Sessions of the client", "Stop-Sessions of the server"},
    "stop_sessions": {"Stop-Sessions"},
    "test_packet": {"sender", "reflector", "packet"},
}
PARTS = {"__init__", "layout", "octets", "packet_record", "schedule_slot", "skip_ranges"}
"""Modules of ippm.wire that are no messages: what several have in common, and what is within others."""


def secret_of(mode: Mode) -> bytes | None:
    if not mode.keyed:
        return None
    return b"\x00\n\r shared secret \xff" if mode & DERIVED else b"correct horse"


def pair_of(mode: Mode, features: Mode = NO_FEATURES, **server: object) -> Pair:
    """A pair that has been set up; IKEv2-derived keys are the second bit of `mode`."""
    providers = [None, None]
    if mode.keyed:
        providers = [derived_provider() if mode & DERIVED else passphrases() for _ in range(2)]  # type: ignore[misc]
    config = ControlServerConfig(**{"count": 1024, "features": FEATURE_BITS} | server)  # type: ignore[arg-type]
    pair = Pair(ControlClientConfig(mode.security, features=features), config, *providers)
    pair.run()
    return pair


def ask(pair: Pair) -> bytes:
    pair.client.request_session(WISH, pair.now)
    pair.run()
    return next((event.session.sid for event in pair.client_events() if isinstance(event, SessionAccepted)), b"")


def names(control: Control, *, owamp: bool = False) -> set[str]:
    """What was read, checked: HMACs where there are any, and zeros where zeros must be."""
    found = set()
    for side, messages in (("client", control.client), ("server", control.server)):
        for message in messages:
            assert not any(message.fields.get("mbz", b"")), message
            keyed = control.mode & 14 and message.name not in SET_UP
            assert message.hmac is (True if keyed else None), message
            name = message.name
            if owamp and name == "Stop-Sessions":
                name += f" of the {side}"
            refused = name in ("Accept-Session", "Fetch-Ack", "Server-Start") and message.fields["accept"]
            found.add(f"{name} refused" if refused else name)
    return found


def refused_set_up(mode: Mode) -> tuple[bytes, bytes]:
    """Both directions of a TWAMP set-up that is refused."""
    if not mode.keyed:
        pair = Pair(ControlClientConfig(Mode.OPEN), ControlServerConfig(modes=Mode.ENCRYPTED, count=1024))
        response = Mode.OPEN.to_bytes(4, "big") + bytes(160)
        greeting = pair.server.data_to_send()
        pair.server.receive_data(response, pair.now)
        return response, greeting + pair.server.data_to_send()
    ours = derived_provider() if mode & DERIVED else passphrases()
    other = derived_provider() if mode & DERIVED else PassphraseProvider({"bob": "battery"})
    if mode & DERIVED:
        other.secrets = {bytes(16): b"another"}  # type: ignore[union-attr]
    pair = Pair(ControlClientConfig(mode.security), ControlServerConfig(count=1024), ours, other)
    pair.run()
    return pair.to_server, pair.to_client


def read_of_twamp(mode: Mode) -> set[str]:
    secret = secret_of(mode)
    pair = pair_of(mode)
    ask(pair)
    pair.hooks.refusal = RefuseSession(5, "no room")
    assert ask(pair) == b""
    pair.client.start_sessions(pair.now)
    pair.run()
    pair.client.stop_sessions(pair.now)
    pair.run()
    found = names(twamp_decoder.decode_control(pair.to_server, pair.to_client, secret))
    single = pair_of(mode, Mode.INDIVIDUAL_SESSION_CONTROL)
    ask(single)
    single.client.start_sessions(single.now)
    single.run()
    single.client.stop_sessions(single.now)
    single.run()
    control = twamp_decoder.decode_control(single.to_server, single.to_client, secret)
    assert control.mode == int(mode | Mode.INDIVIDUAL_SESSION_CONTROL)
    found |= names(control)
    found |= names(twamp_decoder.decode_control(*refused_set_up(mode), secret))
    return found | packets_of_twamp(mode, pair, control)


def packets_of_twamp(mode: Mode, pair: Pair, control: Control) -> set[str]:
    """A packet each way of the session, read with the keys that the decoder has found itself."""
    (session,) = pair.hooks.opened
    secret = secret_of(mode)
    keys = None
    if mode.keyed and not mode & Mode.MIXED:
        keys = twamp_decoder.decode_control(pair.to_server, pair.to_client, secret).test_keys(session.sid)
    ends = (session.sender, session.reflector)
    sender = SessionSender(SenderPlan(session.sid, int(session.mode), session.keys, *ends, count=1))
    plan = ReflectorPlan(session.sid, int(session.mode), session.keys, ends[1], ends[0])
    reflector = SessionReflector(plan, lambda: NTP_NOW + 2, SYNCHRONIZED)
    reflector.start(0)
    sender.prepare(0)
    packet = bytes(sender.pack(0, NTP_NOW, SYNCHRONIZED))
    reply = bytes(reflector.handle(packet, 255, NTP_NOW + 1, ends[0]) or b"")
    there = twamp_decoder.decode_test(packet, keys, "sender", int(mode))
    back = twamp_decoder.decode_test(reply, keys, "reflector", int(mode))
    assert (there["timestamp"], there["verified"]) == (NTP_NOW, keys is not None)
    assert (back["sender_timestamp"], back["receive_timestamp"], back["timestamp"]) == (
        NTP_NOW,
        NTP_NOW + 1,
        NTP_NOW + 2,
    )
    assert not any(there.get("mbz", b"") + back["mbz"])
    return {"sender", "reflector"}


def read_of_owamp(mode: Mode) -> set[str]:
    secret = secret_of(mode)
    pair, (to, _) = conversation(mode)
    pair.hooks.refusal = RefuseSession(5, "no room")
    pair.client.request_session(TO_SERVER, pair.now)
    pair.run()
    control = owamp_decoder.decode_control(pair.to_server, pair.to_client, secret)
    found = names(control, owamp=True)
    client, server = refused_set_up(mode)
    if mode & DERIVED:  # the bit has another place in OWAMP
        client = (int(mode.security) | 16).to_bytes(4, "big") + client[4:]
    found |= names(owamp_decoder.decode_control(client, server, secret), owamp=True)
    sender = sender_of(to)
    sender.prepare()
    packet = bytes(sender.pack(NTP_NOW, SYNCHRONIZED))
    keys = control.test_keys(to.sid) if secret else None
    assert owamp_decoder.decode_test(packet, keys, control.mode)["timestamp"] == NTP_NOW
    return found | {"packet"}


@pytest.mark.req("rfc4656-s3.1-20", "rfc5357-s2-01")
@pytest.mark.parametrize("mode", TWAMP_MODES, ids=repr)
def test_twamp(mode: Mode) -> None:
    assert {("twamp", name, mode) for name in read_of_twamp(mode)} == {
        one for one in READ if one[::2] == ("twamp", mode)
    }


@pytest.mark.parametrize("mode", OWAMP_MODES, ids=repr)
def test_owamp(mode: Mode) -> None:
    assert {("owamp", name, mode) for name in read_of_owamp(mode)} == {
        one for one in READ if one[::2] == ("owamp", mode)
    }


def test_every_codec_has_its_messages_in_the_list() -> None:
    modules = {path.stem for path in Path(ippm.wire.__file__).parent.glob("*.py")}
    assert modules == set(CODECS) | PARTS
    listed = {
        name.removesuffix(" refused") for name in TWAMP_MESSAGES + OWAMP_MESSAGES + TWAMP_PACKETS + OWAMP_PACKETS
    }
    assert set().union(*CODECS.values()) == listed


def test_the_decoder_refuses_what_it_cannot_read() -> None:
    pair = pair_of(Mode.ENCRYPTED)
    ask(pair)
    for secret in (None, b"wrong"):
        with pytest.raises(DecodeError):
            twamp_decoder.decode_control(pair.to_server, pair.to_client, secret)
