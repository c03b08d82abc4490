"""Mixed mode, both protocols of one connection read by the second decoder: Control encrypted, Test unauthenticated.

    client                      server
      <- Modes with bit 3          |
      Mode 8, Token ->             |
      <- Accept 0                  |    from here on RFC 5618 sections 3 and 4 hold
      Request-TW-Session ->        |    encrypted, HMAC
      Session-Sender packet ->     |    14 octets in clear, padding
      <- Session-Reflector packet  |    41 octets in clear, padding

RFC 5618.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from decoder.twamp_decoder import decode_control, decode_test
from ippm_control_peers import WISH, Connected, ConnectionClosed, Pair, SessionAccepted, pair_in_mode, passphrases

from ippm.core.control_client import ControlClientConfig
from ippm.core.control_events import SessionDenied, TestSession
from ippm.core.server_policy import ControlServerConfig
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.errors import ConnectionFailed
from ippm.iana import Accept, Mode
from ippm.wire.request_tw_session import RequestTwSession

T1, T2, T3 = 0xE0000000_10000000, 0xE0000000_20000000, 0xE0000000_30000000
PADDING = bytes(at % 251 for at in range(5000))


def accepted(mode: Mode) -> tuple[Pair, TestSession, TestSession]:
    """A connection in a mode, and its session as each end has it."""
    pair = pair_in_mode(mode)
    pair.run()
    pair.client.request_session(replace(WISH, padding_octets=40), pair.now)
    pair.run()
    (session,) = [event.session for event in pair.client_events() if isinstance(event, SessionAccepted)]
    (opened,) = pair.hooks.opened
    return pair, session, opened


def packets(session: TestSession, opened: TestSession, sequences: tuple[int, ...]) -> list[tuple[bytes, bytes]]:
    """What the sender of one end and the reflector of the other send for these sequence numbers."""
    sender = SessionSender(
        SenderPlan(
            sid=session.sid,
            mode=int(session.mode),
            keys=session.keys,
            local=session.sender,
            remote=session.reflector,
            count=100,
            schedule=None,  # type: ignore[arg-type]
            padding_octets=session.padding_octets,
        ),
        PADDING,
    )
    reflector = SessionReflector(
        ReflectorPlan(
            sid=opened.sid,
            mode=int(opened.mode),
            keys=opened.keys,
            local=opened.reflector,
            remote=opened.sender,
        ),
        lambda: T3,
        0x0A07,
    )
    reflector.start(0)
    made = []
    for number in sequences:
        sender.prepare(number)
        packet = bytes(sender.pack(number, T1 + number, 0x8A01))
        reply = reflector.handle(packet, 250, T2 + number, tuple(session.sender))
        assert reply is not None
        made.append((packet, bytes(reply)))
        reflector.prepare()
    return made


@pytest.mark.req("rfc5618-s1-01", "rfc5618-s4-01")
def test_once_the_server_accepts_all_four_roles_work_in_mixed_mode() -> None:
    pair, session, opened = accepted(Mode.MIXED)
    made = packets(session, opened, (0, 1))
    control = decode_control(pair.to_server, pair.to_client, b"correct horse")
    # Section 3: Control-Client and Server, every message of theirs encrypted and with a right HMAC.
    assert control.client[0].fields["mode"] == 8
    assert control.server[1].fields["accept"] == 0
    assert [message.hmac for message in control.client[1:] + control.server[2:]] == [True, True]
    # Section 4: Session-Sender and Session-Reflector, in clear, without any HMAC.
    assert session.keys is None
    assert opened.keys is None
    for packet, reply in made:
        assert decode_test(packet, None, "sender", 8)["verified"] is False
        assert decode_test(reply, None, "reflector", 8)["sender_timestamp"] >= T1


@pytest.mark.req("rfc5618-s4.1.2-01", "rfc5618-s4.2-01")
def test_packets_of_both_directions_are_octet_by_octet_those_of_unauthenticated_mode() -> None:
    numbers = (0, 1, 3, 2)
    _, *mixed = accepted(Mode.MIXED)
    _, *unauthenticated = accepted(Mode.OPEN)
    made = packets(*mixed, numbers)
    assert made == packets(*unauthenticated, numbers)
    for count, (number, (packet, reply)) in enumerate(zip(numbers, made, strict=True)):
        sent = decode_test(packet, None, "sender", 8)
        # RFC 4656 section 4.1.2 and RFC 5357 section 4.1.2.
        assert (sent["sequence_number"], sent["timestamp"]) == (number, T1 + number)
        assert sent["error_estimate"] == {"s": 1, "z": 0, "scale": 10, "multiplier": 1}
        assert len(packet) == 14 + 40
        # RFC 5357 section 4.2: a reply to each packet, with its own number, and all that the section has it copy.
        came = decode_test(reply, None, "reflector", 8)
        assert came["sequence_number"] == count
        assert came["sender_sequence_number"] == number
        stamps = (came["sender_timestamp"], came["receive_timestamp"], came["timestamp"])
        assert stamps == (T1 + number, T2 + number, T3)
        assert came["sender_error_estimate"] == sent["error_estimate"]
        assert came["sender_ttl"] == 250
        assert not any(came["mbz"])
        assert len(reply) == len(packet)  # 27 octets of the padding are cut off
        assert reply[41:] == packet[14 : 14 + 13]


@pytest.mark.req("rfc5618-s4.1.2-01a")
def test_no_send_schedule_is_asked_for_and_none_is_taken() -> None:
    pair, _, _ = accepted(Mode.MIXED)
    request = decode_control(pair.to_server, pair.to_client, b"correct horse").client[1].fields
    assert (request["schedule_slots"], request["packets"]) == (0, 0)
    with_slots = RequestTwSession(18700, 0, ipvn=4, number_of_schedule_slots=1)
    pair.server_events()
    pair.server.receive_data(pair.client._send.seal(with_slots.encode(), with_hmac=True), pair.now)
    pair.run()
    (denied,) = [event for event in pair.server_events() if isinstance(event, SessionDenied)]
    assert denied.accept == Accept.NOT_SUPPORTED
    assert "schedule slots" in denied.reason


def test_a_server_that_does_not_offer_bit_3_is_left_without_a_word() -> None:
    pair = Pair(
        ControlClientConfig(Mode.MIXED),
        ControlServerConfig(count=1024, modes=Mode.OPEN | Mode.ENCRYPTED),
        passphrases(),
        passphrases(),
    )
    pair.run()
    (closed,) = pair.client_events()
    assert isinstance(closed, ConnectionClosed)
    assert isinstance(closed.error, ConnectionFailed)
    assert pair.to_server == b""


def test_a_connection_in_mixed_mode_says_so() -> None:
    pair = pair_in_mode(Mode.MIXED)
    pair.run()
    (connected,) = pair.client_events()
    assert isinstance(connected, Connected)
    assert connected.mode == Mode.MIXED
