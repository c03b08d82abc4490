"""Every knob: its octets are wrong in just the way that its name says, and our own peer answers as RFC 7296 wants.

Each test runs the same seed twice, with the knob and without: what differs between the octets of the two runs is the
knob's work.
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sim.network import A, B, Host, Network, Sent, assert_joined, assert_nothing_left, connection, up

from ikev2.core.events import IkeSaDeleted, IkeSaEstablished, IkeSaFailed, PeerAlive
from ikev2.core.ike_sa import IkeSa
from ikev2.core.impair import ACTIONS, FIELDS, Delivery, Knob, impair
from ikev2.core.impair_message import REWRITES, Draft, Raw
from ikev2.core.types import Role
from ikev2.crypto.suites import parse_ike_proposal
from ikev2.errors import ConfigurationError, ProtocolError
from ikev2.iana import ExchangeType, NotifyType, PayloadType
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Notify

INIT, AUTH, INFO = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL
SK_BODY = 32

Piece = tuple[int, int, bytes]
"""A payload as it stands in a chain: type, the octet with the critical bit, body."""


def pieces(first: int, octets: bytes) -> list[Piece]:
    """The chain of payloads, read without a check of anything."""
    found, at = [], 0
    while first and at + 4 <= len(octets):
        following, bits, length = struct.unpack_from("!BBH", octets, at)
        found.append((first, bits, octets[at + 4 : at + max(length, 4)]))
        first, at = following, at + max(length, 4)
    return found


@dataclass
class Run:
    """One life of two hosts, with what a's messages held."""

    network: Network
    a: Host
    b: Host
    plain: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def sent(self, host: Host, exchange: ExchangeType, *, is_response: bool = False) -> list[Sent]:
        return [
            sent
            for sent in self.network.sent
            if sent.sender is host
            and sent.datagram.data[18] == exchange
            and bool(sent.datagram.data[19] & 0x20) is is_response
        ]

    def of_sender(self, host: Host, number: int = 0) -> list[Sent]:
        return [sent for sent in self.network.sent if sent.sender is host][number:]

    @property
    def refusal(self) -> NotifyType | None:
        """The notify with which a's IKE SA failed."""
        (failed,) = self.a.of(IkeSaFailed)
        assert isinstance(failed, IkeSaFailed)
        return failed.notify_type


def life(*knobs: str, suite: str | None = None, own: bool = False, **changes: object) -> Run:
    """a, spoiled, begins an IKE SA; where it comes up each end asks whether the other lives."""
    network = Network(7)
    changes = dict(changes) if suite is None else {**changes, "proposals": (parse_ike_proposal(suite),)}
    parsed = [Knob.parse(knob) for knob in knobs]
    a = network.add("a", A, [connection(A, B, **changes)], impairments=[] if own else parsed)
    b = network.add("b", B, [connection(B, A, **changes)])
    run = Run(network, a, b)

    def link(sent: Sent) -> tuple[float, ...]:
        data, mine = sent.datagram.data, sent.sender is a
        if data[16] != PayloadType.SK:
            run.plain[sent.number] = (data[16], data[HEADER_OCTETS:])
        elif a.manager.sas and (channel := a.sa.channel) is not None:
            cipher = channel._outbound if mine else channel._inbound
            # What was spoiled after its protection cannot be opened.
            with contextlib.suppress(ProtocolError):
                run.plain[sent.number] = (data[28], cipher.open(data[:SK_BODY], data[SK_BODY:]))
        return (0.01,)

    network.link = link
    a.manager.initiate("lab", None, a.address, 0.0, impairments=parsed if own else ())
    network.run(5.0)
    for host in (a, b):
        if len(host.manager.sas) == 1 and host.sa.established_at is not None:
            host.manager.check_liveness(host.sa, network.now)
            network.run(network.now + 60)
    network.run(network.now + 120)
    assert a.manager.internal_errors == b.manager.internal_errors == 0
    return run


def finish(run: Run) -> None:
    """Whatever happened, both ends come to rest with nothing left."""
    for host in (run.a, run.b):
        for sa in host.manager.sas:
            host.manager.delete(sa, run.network.now)
    run.network.run()
    assert_nothing_left(run.a, run.b)


CONTROL = life()


def first_of(run: Run, exchange: ExchangeType, *, is_response: bool = False) -> Sent:
    return run.sent(run.a, exchange, is_response=is_response)[0]


def test_the_control_run_is_a_plain_life() -> None:
    assert_joined(CONTROL.a, CONTROL.b)
    assert len(CONTROL.network.sent) == 8
    assert all(host.of(PeerAlive) for host in (CONTROL.a, CONTROL.b))
    assert life().network.sent[-1].datagram == CONTROL.network.sent[-1].datagram


# --- datagrams ---


@pytest.mark.req("rfc7296-s2.1-06")
def test_drop() -> None:
    run = life("drop:IKE_AUTH:request:1")
    assert_joined(run.a, run.b)
    assert first_of(run, AUTH).datagram.data == first_of(CONTROL, AUTH).datagram.data
    assert len(run.sent(run.a, AUTH)) == 1  # the first one did not leave
    finish(run)


def test_drop_all() -> None:
    run = life("drop:IKE_AUTH:*:*")
    assert run.sent(run.a, AUTH) == []
    assert run.refusal is None
    finish(run)


@pytest.mark.req("rfc7296-s2.1-01", "rfc7296-s2.1-02")
def test_duplicate() -> None:
    """The response is the same one, twice."""
    run = life("duplicate:IKE_AUTH:request:1")
    first, second = run.sent(run.a, AUTH)
    assert first.datagram == second.datagram
    one, two = run.sent(run.b, AUTH, is_response=True)
    assert one.datagram == two.datagram
    assert_joined(run.a, run.b)
    assert len(run.b.of(IkeSaEstablished)) == 1
    finish(run)


def test_delay() -> None:
    times: list[float] = []
    network = Network(7)
    a = network.add("a", A, [connection(A, B)], impairments=[Knob.parse("delay:IKE_SA_INIT:request:1:0.7")])
    b = network.add("b", B, [connection(B, A)])
    network.link = lambda sent: times.append(network.now) or (0.01,)
    up(network, a)
    assert_joined(a, b)
    assert times[0] == 0.7
    assert len(network.sent) == 4


@pytest.mark.req("rfc7296-s2.3-08", "rfc7296-s2.3-09")
def test_replay() -> None:
    """The second request of a is followed by its first, which changes nothing and is not answered."""
    run = life("replay:*:request:2")
    data = [sent.datagram.data for sent in run.of_sender(run.a)]
    assert data[2] == data[0]
    assert data[1] == first_of(CONTROL, AUTH).datagram.data
    assert_joined(run.a, run.b)
    run = life("replay:*:*:4:2")
    data = [sent.datagram.data for sent in run.of_sender(run.a)]
    assert len(data) == 5
    assert data[4] == data[1]
    assert_joined(run.a, run.b)
    assert len(run.b.of(IkeSaEstablished)) == 1


@pytest.mark.parametrize("name", FIELDS)
def test_corrupt_changes_one_octet_of_the_field(name: str) -> None:
    """A protected message whose octets changed on the way is dropped; the next transmission is as it should be."""
    run = life(f"corrupt:IKE_AUTH:request:1:{name}")
    genuine = first_of(CONTROL, AUTH).datagram.data
    spoiled = run.of_sender(run.a, 1)[0].datagram.data
    (at,) = [at for at in range(len(genuine)) if genuine[at] != spoiled[at]]
    where = {"icv": len(genuine) - 1, "iv": SK_BODY}
    assert at == where.get(name, FIELDS[name])
    assert spoiled[at] == genuine[at] ^ 0xFF
    assert len(spoiled) == len(genuine)
    assert run.of_sender(run.a, 2)[0].datagram.data == genuine
    assert_joined(run.a, run.b)
    finish(run)


def test_corrupt_of_an_iv_in_a_fragment() -> None:
    run = life("corrupt:IKE_AUTH:request:1:iv", fragmentation="force")
    genuine, spoiled = (each.of_sender(each.a, 1)[0].datagram.data for each in (life(fragmentation="force"), run))
    assert [at for at in range(len(genuine)) if genuine[at] != spoiled[at]] == [36]


def test_corrupt_beyond_the_end_changes_nothing() -> None:
    assert len(life("corrupt:*:*:*:60000").network.sent) == len(CONTROL.network.sent)


@pytest.mark.parametrize(
    ("knob", "change"), [("truncate:IKE_AUTH:request:1:5", -5), ("extend:IKE_AUTH:request:1:3", 3)]
)
def test_datagram_that_is_not_as_long_as_its_header_says_is_dropped(knob: str, change: int) -> None:
    run = life(knob)
    genuine = first_of(CONTROL, AUTH).datagram.data
    spoiled, again = (sent.datagram.data for sent in run.of_sender(run.a, 1)[:2])
    assert len(spoiled) == len(genuine) + change
    assert spoiled[: len(genuine) - 5] == genuine[: len(genuine) - 5]
    assert again == genuine
    assert_joined(run.a, run.b)


def test_bad_icv() -> None:
    run = life("bad-icv:INFORMATIONAL:request:*")
    genuine = first_of(CONTROL, INFO).datagram.data
    spoiled = [sent.datagram.data for sent in run.sent(run.a, INFO)]
    assert spoiled[0] == genuine[:-1] + bytes([genuine[-1] ^ 0xFF])
    assert len(set(spoiled)) == 1
    assert run.sent(run.b, INFO, is_response=True) == []
    (deleted,) = run.a.of(IkeSaDeleted)
    assert "does not answer" in str(deleted)


# --- headers ---

HEADER_CASES = [
    ("spi-i:{}:request:1", slice(0, 8)),
    ("spi-r:{}:request:1:0102030405060708", slice(8, 16)),
    ("next-payload:{}:request:1", slice(16, 17)),
    ("version:{}:request:1", slice(17, 18)),
    ("exchange:{}:request:1", slice(18, 19)),
    ("flags:{}:request:1", slice(19, 20)),
    ("message-id:{}:request:1", slice(20, 24)),
    ("length:{}:request:1", slice(24, 28)),
]

VALUES = {
    "spi-r": bytes.fromhex("0102030405060708"),
    "next-payload": b"\xc8",
    "version": b"\x30",
    "exchange": b"\xff",
    "flags": b"\0",
}


@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
@pytest.mark.parametrize(("knob", "place"), HEADER_CASES, ids=[case[0].split(":")[0] for case in HEADER_CASES])
def test_header_knobs_change_their_field_alone(knob: str, place: slice, exchange: ExchangeType) -> None:
    """In IKE_AUTH under a good ICV, which covers the wrong header."""
    run = life(knob.format(exchange))
    number = 0 if exchange == INIT else 1
    genuine, spoiled = (each.of_sender(each.a)[number].datagram.data for each in (CONTROL, run))
    assert genuine[place] != spoiled[place]
    end = SK_BODY if exchange == AUTH else None
    assert genuine[: place.start] == spoiled[: place.start]
    # Behind the header: the same octets, but for those that the ICV changes.
    assert genuine[place.stop : end] == spoiled[place.stop : end]
    assert len(genuine) == len(spoiled)
    action = knob.split(":")[0]
    if action in VALUES:
        assert spoiled[place] == VALUES[action]
    if action == "message-id":
        assert spoiled[place] == (number + 1).to_bytes(4, "big")
    if action == "length":
        assert int.from_bytes(spoiled[place], "big") == len(genuine) + 4
    if action == "spi-i":
        assert spoiled[place] == bytes(octet ^ 0xFF for octet in genuine[place])
    if exchange == AUTH:
        assert spoiled[-16:] != genuine[-16:]
        content = opened(run, spoiled)
        assert content == CONTROL.plain[2][1]
    finish(run)


def opened(run: Run, data: bytes) -> bytes:
    """What is inside under the ICV of the octets as they are; the control run has the same keys."""
    channel = CONTROL.a.sa.channel
    assert channel is not None
    return channel._outbound.open(data[:SK_BODY], data[SK_BODY:])


def test_header_knobs_take_values() -> None:
    def spoiled(knob: str) -> bytes:
        return life(knob).network.sent[0].datagram.data

    assert spoiled("message-id:IKE_SA_INIT:request:1:7")[20:24] == bytes([0, 0, 0, 7])
    assert spoiled("message-id:IKE_SA_INIT:request:1:-1")[20:24] == bytes([255] * 4)
    assert spoiled("length:IKE_SA_INIT:request:1:28")[24:28] == bytes([0, 0, 0, 28])
    assert spoiled("version:IKE_SA_INIT:request:1:2.7")[17] == 0x27
    assert spoiled("exchange:IKE_SA_INIT:request:1:240")[18] == 240
    assert spoiled("flags:IKE_SA_INIT:request:1:0x30")[19] == 0x38
    assert spoiled("spi-i:IKE_SA_INIT:request:1:1112131415161718")[:8] == bytes(range(0x11, 0x19))


@pytest.mark.req("rfc7296-s2.5-02", "rfc7296-s3.1-07")
@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
def test_peer_answers_a_higher_version_with_invalid_major_version(exchange: ExchangeType) -> None:
    run = life(f"version:{exchange}:request:1")
    answer = Message.parse(run.sent(run.b, exchange, is_response=True)[0].datagram.data)
    assert [payload.notify_type for payload in answer.payloads if isinstance(payload, Notify)] == [
        NotifyType.INVALID_MAJOR_VERSION
    ]
    assert not run.b.of(IkeSaEstablished)


@pytest.mark.req("rfc7296-s2.5-01", "rfc7296-s3.1-09", "rfc7296-s3.1-11", "rfc7296-s3.1-16")
@pytest.mark.parametrize("knob", ["version:*:*:*:2.9", "flags:*:*:*:0x17", "flags:*:*:*:0xc0"])
def test_peer_ignores_the_minor_version_and_the_flags_that_mean_nothing(knob: str) -> None:
    """All messages of a life have them; IKE_AUTH covers IKE_SA_INIT as it was sent."""
    run = life(knob.replace("0x17", "0x10"))
    assert_joined(run.a, run.b)
    assert run.a.of(PeerAlive)
    assert run.b.of(PeerAlive)


@pytest.mark.parametrize(
    ("knob", "answered"),
    [
        ("spi-i:IKE_AUTH:request:1", None),
        ("spi-r:IKE_AUTH:request:1", NotifyType.INVALID_IKE_SPI),
        ("message-id:IKE_AUTH:request:1", None),
        ("message-id:IKE_AUTH:request:1:0", None),
        ("exchange:IKE_AUTH:request:1:37", None),
        ("exchange:IKE_AUTH:request:1", None),
        ("flags:IKE_AUTH:request:1:0x20", None),
        ("length:IKE_AUTH:request:1", None),
        ("length:IKE_AUTH:request:1:27", None),
        ("next-payload:IKE_AUTH:request:1", None),
        ("unprotected:IKE_AUTH:request:1", None),
        ("message-id:IKE_SA_INIT:request:1", None),
        ("spi-r:IKE_SA_INIT:request:1:0102030405060708", None),
        ("flags:IKE_SA_INIT:request:1", None),
        ("length:IKE_SA_INIT:request:1", None),
        ("exchange:IKE_SA_INIT:request:1:240", None),
        ("unprotected:INFORMATIONAL:request:1", None),
        ("message-id:INFORMATIONAL:request:1", None),
        ("spi-r:INFORMATIONAL:request:1", NotifyType.INVALID_IKE_SPI),
    ],
)
def test_peer_drops_what_cannot_be_its_business(knob: str, answered: NotifyType | None) -> None:
    """No answer, or an unprotected INVALID_IKE_SPI; a, which sends the same again and again, gives up."""
    run = life(knob)
    exchange = ExchangeType[knob.split(":")[1]]
    answers = run.of_sender(run.b)[{INIT: 0, AUTH: 1, INFO: 2}[exchange] :]
    answers = [sent for sent in answers if sent.datagram.data[18] != INFO or sent.datagram.data[19] & 0x20]
    assert bool(answers) is (answered is not None)
    for sent in answers:
        (notify,) = Message.parse(sent.datagram.data).payloads
        assert isinstance(notify, Notify)
        assert notify.notify_type == answered
    assert run.a.of(IkeSaFailed) or run.a.of(IkeSaDeleted)
    if exchange != INFO:
        assert not run.b.of(IkeSaEstablished)
    finish(run)


def test_unprotected_sends_the_payloads_as_they_are() -> None:
    run = life("unprotected:IKE_AUTH:request:1")
    spoiled = run.of_sender(run.a, 1)[0].datagram.data
    assert spoiled[16] == PayloadType.IDi
    assert spoiled[HEADER_OCTETS:] == CONTROL.plain[2][1]
    assert Message.parse(spoiled).encrypted is None


# --- payloads ---


def changed(knob: str, exchange: ExchangeType = AUTH) -> tuple[list[Piece], list[Piece], Run]:
    """The payloads of a's first request of an exchange without and with the knob."""
    run = life(knob)
    number = {INIT: 0, AUTH: 2}[exchange]
    return pieces(*CONTROL.plain[number]), pieces(*run.plain[number]), run


def refused_with(run: Run, notify_type: NotifyType) -> None:
    assert run.refusal == notify_type
    assert not run.b.of(IkeSaEstablished)
    finish(run)


@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
def test_omit(exchange: ExchangeType) -> None:
    name, number = {INIT: ("NONCE", 40), AUTH: ("IDi", 35)}[exchange]
    genuine, spoiled, run = changed(f"omit:{exchange}:request:1:{name}", exchange)
    assert spoiled == [piece for piece in genuine if piece[0] != number]
    assert len(spoiled) == len(genuine) - 1
    refused_with(run, NotifyType.INVALID_SYNTAX)


@pytest.mark.req("rfc7296-s2.21.2-01")
def test_omit_the_proof() -> None:
    _, spoiled, run = changed("omit:IKE_AUTH:request:1:AUTH")
    assert 39 not in [piece[0] for piece in spoiled]
    refused_with(run, NotifyType.AUTHENTICATION_FAILED)


def test_omit_one_notify() -> None:
    genuine, spoiled, run = changed("omit:IKE_SA_INIT:request:1:N(NAT_DETECTION_SOURCE_IP)", INIT)
    (gone,) = [piece for piece in genuine if piece not in spoiled]
    assert gone[2][2:4] == NotifyType.NAT_DETECTION_SOURCE_IP.to_bytes(2, "big")
    assert_joined(run.a, run.b)


@pytest.mark.req("rfc7296-s2.5-09", "rfc7296-s2.5-12")
@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
@pytest.mark.parametrize(
    ("argument", "piece"),
    [
        ("", (200, 0, b"")),
        (":201=0102", (201, 0, b"\x01\x02")),
        (":N(16500)=ff", (41, 0, bytes.fromhex("00004074ff"))),
        (":V=00", (43, 0, b"\0")),
    ],
)
def test_add_what_the_peer_does_not_know_and_skips(exchange: ExchangeType, argument: str, piece: Piece) -> None:
    genuine, spoiled, run = changed(f"add:{exchange}:request:1{argument}", exchange)
    assert spoiled == [*genuine, piece]
    assert_joined(run.a, run.b)
    finish(run)


@pytest.mark.req("rfc7296-s2.5-10", "rfc7296-s2.5-11", "rfc7296-s2.21.2-02", "rfc7296-s2.21.2-03")
@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
@pytest.mark.parametrize(("argument", "number"), [("", 200), (":255=00", 255)])
def test_critical(exchange: ExchangeType, argument: str, number: int) -> None:
    genuine, spoiled, run = changed(f"critical:{exchange}:request:1{argument}", exchange)
    assert spoiled == [*genuine, (number, 0x80, b"\0" if argument else b"")]
    response = run.plain[1 if exchange == INIT else 3]
    ((kind, _, body),) = pieces(*response)
    assert kind == PayloadType.N
    assert body == bytes([0, 0, 0, 1, number])
    refused_with(run, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)


@pytest.mark.req("rfc7296-s2.21.3-01", "rfc7296-s2.5-10")
def test_critical_in_an_established_sa_is_answered_and_the_sa_goes_on() -> None:
    run = life("critical:INFORMATIONAL:request:1")
    (answer, *_) = run.sent(run.b, INFO, is_response=True)
    assert pieces(*run.plain[answer.number]) == [(41, 0, bytes([0, 0, 0, 1, 200]))]
    assert_joined(run.a, run.b)


def test_critical_in_a_response_closes_the_sa() -> None:
    """The initiator of the exchange cannot take the response, and the peers' states differ then."""
    run = life("critical:INFORMATIONAL:response:1")
    (response, *_) = run.sent(run.a, INFO, is_response=True)
    assert pieces(*run.plain[response.number]) == [(200, 0x80, b"")]
    assert run.b.of(IkeSaDeleted)
    finish(run)


@pytest.mark.req("rfc7296-s3.2-03", "rfc7296-s3.2-05")
@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
def test_critical_bit_of_payloads_that_the_peer_knows(exchange: ExchangeType) -> None:
    genuine, spoiled, run = changed(f"critical-bit:{exchange}:request:1:SA", exchange)
    assert spoiled == [(kind, 0x80 if kind == 33 else 0, body) for kind, _, body in genuine]
    assert_joined(run.a, run.b)


@pytest.mark.req("rfc7296-s3.2-07")
def test_reserved_bits() -> None:
    genuine, spoiled, run = changed("reserved-bits:IKE_AUTH:request:1:TSi")
    assert spoiled == [(kind, 0x7F if kind == 44 else 0, body) for kind, _, body in genuine]
    assert_joined(run.a, run.b)


@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
def test_repeat(exchange: ExchangeType) -> None:
    name, number = {INIT: ("KE", 34), AUTH: ("SA", 33)}[exchange]
    genuine, spoiled, run = changed(f"repeat:{exchange}:request:1:{name}", exchange)
    (twice,) = [piece for piece in genuine if piece[0] == number]
    at = genuine.index(twice)
    assert spoiled == [*genuine[:at], twice, *genuine[at:]]
    refused_with(run, NotifyType.INVALID_SYNTAX)


@pytest.mark.req("rfc7296-s2.5-15")
@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
def test_reorder(exchange: ExchangeType) -> None:
    genuine, spoiled, run = changed(f"reorder:{exchange}:request:1", exchange)
    assert spoiled == genuine[::-1]
    assert_joined(run.a, run.b)
    genuine, spoiled, run = changed(f"reorder:{exchange}:request:1:SA", exchange)
    assert [kind for kind, *_ in spoiled] == [kind for kind, *_ in genuine if kind != 33] + [33]
    assert_joined(run.a, run.b)


@pytest.mark.req("rfc7296-s2.21.2-01")
@pytest.mark.parametrize(("argument", "at"), [("AUTH@4", 4), ("AUTH@35", 35), ("IDi@6", 6)])
def test_change_an_octet(argument: str, at: int) -> None:
    genuine, spoiled, run = changed(f"change:IKE_AUTH:request:1:{argument}")
    ((before, after),) = [(one, two) for one, two in zip(genuine, spoiled, strict=True) if one != two]
    assert before[:2] == after[:2]
    assert [index for index in range(len(before[2])) if before[2][index] != after[2][index]] == [at]
    assert after[2][at] == before[2][at] ^ 0xFF
    refused_with(run, NotifyType.AUTHENTICATION_FAILED)


def test_change_to_given_octets() -> None:
    """A KE payload of a group that the SA payload does not name."""
    genuine, spoiled, run = changed("change:IKE_SA_INIT:request:1:KE=0001", INIT)
    assert spoiled[1][2] == b"\0\x01" + genuine[1][2][2:]
    ((_, _, body),) = pieces(*run.plain[1])
    assert body == bytes([0, 0, 0, 7])
    refused_with(run, NotifyType.INVALID_SYNTAX)


def test_cut() -> None:
    genuine, spoiled, run = changed("cut:IKE_SA_INIT:request:1:NONCE@8", INIT)
    assert [len(body) for kind, _, body in spoiled if kind == 40] == [8]
    assert len(genuine) == len(spoiled)
    refused_with(run, NotifyType.INVALID_SYNTAX)


@pytest.mark.parametrize("exchange", [INIT, AUTH], ids=str)
@pytest.mark.parametrize(("argument", "error"), [("SA", 4), ("SA+1000", 1000), ("SA-2", -2)])
def test_payload_length(exchange: ExchangeType, argument: str, error: int) -> None:
    run = life(f"payload-length:{exchange}:request:1:{argument}")
    number = {INIT: 0, AUTH: 2}[exchange]
    genuine, spoiled = CONTROL.plain[number][1], run.plain[number][1]
    places = [at for at in range(len(genuine)) if genuine[at] != spoiled[at]]
    start = places[-1] - 1
    lengths = [int.from_bytes(octets[start : start + 2], "big") for octets in (genuine, spoiled)]
    assert lengths[1] == lengths[0] + error
    assert len(spoiled) == len(genuine)
    refused_with(run, NotifyType.INVALID_SYNTAX)


# --- protection ---

SUITES = ["aes256gcm16-prfsha256-curve25519", "aes128-sha256-ecp256", "chacha20poly1305-prfsha256-ecp256"]


@pytest.mark.parametrize("suite", SUITES)
def test_bad_padding(suite: str) -> None:
    """A Pad Length that exceeds the content, under a good ICV: INVALID_SYNTAX."""
    run = life("bad-padding:INFORMATIONAL:request:1", suite=suite)
    sent = run.sent(run.a, INFO)[0]
    assert sent.number not in run.plain  # even its sender's cipher finds no content
    channel = run.a.events and life(suite=suite).a.sa.channel
    assert channel
    data = sent.datagram.data
    padded = channel._outbound._aead.decrypt(
        channel._outbound._salt + data[SK_BODY : SK_BODY + channel._outbound.iv_octets],
        data[SK_BODY + channel._outbound.iv_octets :],
        data[:SK_BODY],
    )
    assert padded[-1] == 255
    answer = run.sent(run.b, INFO, is_response=True)[0]
    assert pieces(*run.plain[answer.number]) == [(41, 0, bytes([0, 0, 0, 7]))]
    assert run.b.of(IkeSaDeleted)
    finish(run)


def test_bad_padding_of_a_long_message() -> None:
    run = life("bad-padding:IKE_AUTH:request:1")
    refused_with(run, NotifyType.INVALID_SYNTAX)


@pytest.mark.req("rfc7296-s3.14-07")
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("octets", [1, 32, 240])
def test_more_padding_than_needed(suite: str, octets: int) -> None:
    run = life(f"padding:*:*:*:{octets}", suite=suite)
    plain = life(suite=suite)
    assert_joined(run.a, run.b)
    assert len(run.network.sent) == len(plain.network.sent)
    pairs = zip(run.network.sent, plain.network.sent, strict=True)
    grown = [len(one.datagram.data) - len(two.datagram.data) for one, two in pairs]
    assert grown[0] == grown[1] == 0
    assert all(octets - 16 <= growth <= octets + 16 for growth in (grown[2], grown[4]))
    assert grown[3] == 0


def test_knobs_act_on_messages_that_go_in_fragments() -> None:
    run = life("critical:IKE_AUTH:request:1", fragmentation="force", fragment_size=200)
    assert len(run.sent(run.a, AUTH)) >= 2
    refused_with(run, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    run = life("drop:IKE_AUTH:request:2", fragmentation="force", fragment_size=200)
    assert_joined(run.a, run.b)


# --- counting and order ---


def test_a_knob_on_messages_counts_messages_and_spoils_all_transmissions() -> None:
    """The second INFORMATIONAL request of a is its answer's: the first is asked with a good one."""
    run = life("message-id:INFORMATIONAL:request:1:+9")
    spoiled = {sent.datagram.data for sent in run.sent(run.a, INFO)}
    assert len(run.sent(run.a, INFO)) == 6
    assert len(spoiled) == 1


def test_knobs_act_in_order_each_on_what_the_one_before_made() -> None:
    knobs = [Knob.parse("duplicate:*:*:*"), Knob.parse("corrupt:*:*:2:19"), Knob.parse("delay:*:*:1:2")]
    data = CONTROL.network.sent[0].datagram.data
    assert impair(knobs, data) == [
        Delivery(data, 2.0),
        Delivery(data[:19] + bytes([data[19] ^ 0xFF]) + data[20:]),
    ]
    assert impair([Knob.parse("drop:*:*:1"), Knob.parse("duplicate:*:*:1")], data) == []
    assert impair([Knob.parse("truncate:*:*:*:4000")], data) == [Delivery(b"")]
    # What is no message any more is nothing for the next one.
    cut = Knob.parse(f"truncate:*:*:*:{len(data) - 20}")
    assert impair([cut, Knob.parse("drop:*:*:*")], data) == [Delivery(data[:20])]


def test_a_knob_of_one_ike_sa_leaves_the_others_alone() -> None:
    run = life("drop:IKE_AUTH:request:1", "critical:INFORMATIONAL:request:1", own=True)
    assert len(run.sent(run.a, AUTH)) == 1
    (answer, *_) = run.sent(run.b, INFO, is_response=True)
    assert pieces(*run.plain[answer.number]) == [(41, 0, bytes([0, 0, 0, 1, 200]))]
    assert run.a.manager.impairments == []
    assert_joined(run.a, run.b)


def test_an_ike_sa_on_its_own_delays_by_itself() -> None:
    network = Network(7)
    host = network.add("a", A, [connection(A, B)])
    manager = host.manager
    sa = IkeSa(
        manager.connections[0],
        Role.INITIATOR,
        manager._entropy,
        host.spis,
        local=host.address,
        remote=host.address,
        impairments=[Knob.parse("delay:IKE_SA_INIT:request:1:0.3"), Knob.parse("omit:IKE_SA_INIT:request:1:N")],
    )
    sa.initiate(0.0)
    assert sa.datagrams_to_send() == []
    assert sa.next_timer() == 0.3
    sa.handle_timer(0.3)
    (datagram,) = sa.datagrams_to_send()
    message = Message.parse(datagram.data)
    assert [payload.payload_type for payload in message.payloads] == [33, 34, 40]


def test_a_rekeyed_ike_sa_has_the_knobs_of_the_old_one() -> None:
    network = Network(7)
    a = network.add("a", A, [connection(A, B)])
    network.add("b", B, [connection(B, A)])
    a.manager.initiate("lab", None, a.address, 0.0, impairments=[Knob.parse("critical:INFORMATIONAL:request:2")])
    network.run(5.0)
    old = a.sa
    a.manager.rekey(old, network.now)
    network.run(15.0)
    assert a.sa is not old
    assert a.sa.impairments == old.impairments
    a.manager.check_liveness(a.sa, network.now)
    network.run(30.0)
    assert "in INFORMATIONAL response 0 [ N(CRIT) ]" in a.tracer.lines


def test_anything_with_rewrite_is_an_impairment_of_messages() -> None:
    """A person's own: here a notify that no registry has."""

    class Own:
        def apply(self, data: bytes) -> list[Delivery] | None:
            return None

        def rewrite(self, draft: Draft) -> Draft | None:
            return Draft(draft.header, (*draft.payloads, Raw(PayloadType.N, bytes.fromhex("0000ffff"))))

    network = Network(7)
    a = network.add("a", A, [connection(A, B)], impairments=[Own()])
    b = network.add("b", B, [connection(B, A)])
    up(network, a)
    assert_joined(a, b)
    assert sum("UNKNOWN_65535" in line or "65535" in line for line in b.tracer.lines) == 2


# --- words ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("explode:IKE_AUTH:request:1", "there is no 'explode': `ikev2 impairments` lists all"),
        ("drop:IKE_AUTH:request", "write drop:EXCHANGE:request:1, a star for any of the last three"),
        ("drop:IKE_AUTH:both:1", "'both' is not request, response or *"),
        ("drop:IKE:request:1", "there is no exchange 'IKE'"),
        ("drop:IKE_AUTH:request:0", "counted from 1"),
        ("drop:IKE_AUTH:request:x", "counted from 1"),
        ("drop:IKE_AUTH:request:²", "counted from 1"),
        ("drop:IKE_AUTH:request:1:2", "takes no argument"),
        ("omit:IKE_AUTH:request:1", "needs an argument"),
        ("omit:IKE_AUTH:request:1:FOO", "there is no PayloadType 'FOO'"),
        ("omit:IKE_AUTH:request:1:300", "there is no PayloadType '300'"),
        ("add:IKE_AUTH:request:1:N(FOO)", "there is no NotifyType 'FOO'"),
        ("add:IKE_AUTH:request:1:200=xyz", "is not what add takes"),
        ("version:IKE_AUTH:request:1:16", "is not what version takes"),
        ("version:IKE_AUTH:request:1:2.16", "is not what version takes"),
        ("spi-r:IKE_AUTH:request:1:00", "is not what spi-r takes"),
        ("corrupt:IKE_AUTH:request:1:nonsense", "is not what corrupt takes"),
        ("corrupt:IKE_AUTH:request:1:-3", "is not what corrupt takes"),
        ("delay:IKE_AUTH:request:1:-1", "is not what delay takes"),
        ("delay:IKE_AUTH:request:1:inf", "is not what delay takes"),
        ("delay:IKE_AUTH:request:1:nan", "is not what delay takes"),
        ("replay:IKE_AUTH:request:1:0", "is not what replay takes"),
        ("padding:IKE_AUTH:request:1:256", "is not what padding takes"),
        ("flags:IKE_AUTH:request:1:256", "is not what flags takes"),
        ("message-id:IKE_AUTH:request:1:one", "is not what message-id takes"),
    ],
)
def test_knob_that_makes_no_sense_says_why(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(problem)) as caught:
        Knob.parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


DOCUMENT = Path(__file__).parents[3] / "docs" / "impairments.md"


def test_the_document_has_every_action_and_its_examples_are_knobs() -> None:
    text = DOCUMENT.read_text("utf-8")
    words, _, expectations = text.partition("## What to expect")
    rows = re.findall(r"^\| `([a-z-]+)[^`]*` \|", words, re.M)
    assert sorted(rows) == sorted(ACTIONS)
    examples = re.findall(r"--impair '?([^\s'`]+)'?", text)
    examples += re.findall(r"^\| `([^`]*)` \|", expectations, re.M)
    assert len(examples) >= 15
    for example in examples:
        Knob.parse(example)
    for name in FIELDS:
        assert f"`{name}`" in text


def test_every_action_is_tested_here() -> None:
    text = Path(__file__).read_text("utf-8")
    for action in ACTIONS:
        assert re.search(rf"""["']{action}:""", text), action


def test_header_is_parsed_once_per_knob_and_never_raises() -> None:
    for action in REWRITES:
        needs = {"spi-i", "spi-r", "reorder", "bad-padding", "unprotected"}
        argument = "" if action in needs or REWRITES[action][1] else ":AUTH"
        knob = Knob.parse(f"{action}:*:*:*{argument}")
        assert knob.apply(b"") is None
        draft = Draft(Header.parse(bytes(28)), ())
        made = knob.rewrite(draft)
        assert made is not None
        made.chain()
        made.encode_clear()
    for action in set(ACTIONS) - set(REWRITES):
        knob = Knob.parse(f"{action}:*:*:*")
        assert knob.rewrite(Draft(Header.parse(bytes(28)), ())) is None
        assert knob.apply(b"short") is None
