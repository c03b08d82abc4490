"""Both OWAMP-Control roles in one process, and what the server does with a peer that breaks the rules.

RFC 4656 sections 3 and 6.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from ippm_control_peers import SPI_I, SPI_R, CountedEntropy
from owamp_control_peers import (
    CLIENT,
    FIXED_10_MS,
    FROM_SERVER,
    NTP_NOW,
    POISSON_10_MS,
    SECOND,
    SID_OF_CLIENT,
    TO_SERVER,
    Hooks,
    OwampPair,
    Stored,
    deliver,
    finish,
    receiver_of,
    sender_of,
)

from ippm.core.client_connection import ClientState, ControlClientConfig
from ippm.core.control_events import (
    ClientRefused,
    ClientSetUp,
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionDenied,
    SessionRejected,
    Started,
)
from ippm.core.owamp_client import OwampClient, OwampWish
from ippm.core.owamp_events import (
    AllStopped,
    Fetched,
    FetchRefused,
    OwampSession,
    OwampSessionAccepted,
    Owner,
    StopReceived,
)
from ippm.core.schedule import Slot, SlotType
from ippm.core.server_connection import ServerState
from ippm.crypto import NoProvider, PassphraseProvider
from ippm.errors import ConfigurationError, InvalidMessage, LocalProtocolError, RefuseSession, ServerRefused
from ippm.iana import Accept, Mode
from ippm.timestamps import ntp_add_ns
from ippm.wire.request_session import RequestSession
from ippm.wire.skip_ranges import SkipRange
from ippm.wire.stop_descriptions import SessionDescription, StopSessionsWithDescriptions

MODES = [
    Mode.OPEN,
    Mode.AUTHENTICATED,
    Mode.ENCRYPTED,
    Mode.AUTHENTICATED | Mode.IKEV2_DERIVED,
    Mode.ENCRYPTED | Mode.IKEV2_DERIVED,
]
AFTER = ntp_add_ns(NTP_NOW, 100 * SECOND)


def accepted(pair: OwampPair, *wishes: OwampWish) -> list[OwampSession]:
    for wish in wishes:
        pair.client.request_session(wish, pair.now)
    pair.run()
    events = pair.client_events()
    assert all(isinstance(event, OwampSessionAccepted) for event in events), events
    return [event.session for event in events if isinstance(event, OwampSessionAccepted)]


def started(pair: OwampPair, *wishes: OwampWish) -> list[OwampSession]:
    sessions = accepted(pair, *wishes)
    pair.client.start_sessions(pair.now)
    pair.run()
    assert pair.client_events() == [Started(tuple(session.sid for session in sessions))]
    return sessions


def denied(pair: OwampPair, wish: OwampWish) -> int:
    """The Accept of a refused request; the connection stays."""
    pair.client.request_session(wish, pair.now)
    pair.run()
    (event,) = pair.client_events()
    assert isinstance(event, SessionRejected)
    assert isinstance(event.error, ServerRefused)
    assert not pair.server.closed
    return event.error.accept


def raw(pair: OwampPair, *parts: bytes) -> None:
    """Octets that our client would not send, in its own protected stream."""
    for part in parts:
        pair.client._outbox += pair.client._send.seal(part, with_hmac=True)
    pair.run()


@pytest.mark.req("rfc4656-s3.7-01")
@pytest.mark.req("rfc4656-s3.9-03")
@pytest.mark.req("rfc4656-s3.9-08")
@pytest.mark.req("rfc4656-s3.9-10")
@pytest.mark.parametrize("piece", [1 << 20, 7])
@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_a_session_to_the_server_is_fetched_as_it_was_received(mode: Mode, piece: int) -> None:
    """Request-Session, Start-Sessions, test packets, Stop-Sessions both ways, Fetch-Session."""
    pair = OwampPair(mode).set_up()
    (session,) = started(pair, replace(TO_SERVER, slots=POISSON_10_MS, padding_octets=20))
    theirs = pair.hooks.opened[0]
    assert theirs.keys == session.keys
    assert (session.keys is not None) == bool(mode.keyed)
    assert theirs.request == session.request
    sender, receiver = sender_of(session), receiver_of(theirs)
    deliver(sender, receiver, lost=(3, 19), copied=(5,))
    pair.server.session_complete(session.sid, None, pair.now)
    pair.client.stop_sessions([sender.description()], pair.now)
    pair.run(piece)
    stop = next(event for event in pair.server_said if isinstance(event, StopReceived))
    result = receiver.finish(stop.descriptions[session.sid], AFTER)
    finish(receiver, pair.hooks.store[session.sid], result)
    pair.server.session_ended(session.sid)
    assert [type(event) for event in pair.client_events()] == [StopReceived, AllStopped]

    pair.client.fetch_session(session.sid, pair.now)
    pair.run(piece)
    (fetched,) = pair.client_events()
    assert isinstance(fetched, Fetched)
    data = fetched.session
    assert data.request == session.request
    assert (data.finished, data.next_seqno, data.skip_ranges) == (1, 20, ())
    packets = list(data.packets)
    assert [p.sequence_number for p in packets if not p.lost] == [
        n for n in range(20) for _ in range(2 if n == 5 else 1) if n not in (3, 19)
    ]
    assert [p.sequence_number for p in packets if p.lost] == [3, 19]
    schedule = data.schedule
    assert all(p.send_timestamp == session.request.start_time + schedule.offset(p.sequence_number) for p in packets)
    assert {p.ttl for p in packets if not p.lost} == {250}
    assert {(p.ttl, p.send_error, p.receive_timestamp) for p in packets if p.lost} == {(255, 1, 0)}
    assert pair.hooks.store[session.sid].closed == 1


@pytest.mark.req("rfc4656-s3.8-06")
@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_a_session_from_the_server_ends_with_what_the_server_sent(mode: Mode) -> None:
    pair = OwampPair(mode).set_up()
    (session,) = started(pair, FROM_SERVER)
    assert session.sid == SID_OF_CLIENT
    assert session.sender == Endpoint("192.0.2.2", 18761)
    sender, receiver = sender_of(pair.hooks.opened[0]), receiver_of(session)
    sender.skip()
    sender.skip()
    deliver(sender, receiver, lost=(7,))
    pair.server.session_complete(session.sid, sender.description(), pair.now)
    pair.run()
    (stop,) = pair.client_events()
    assert isinstance(stop, StopReceived)
    assert stop.descriptions == {session.sid: SessionDescription(session.sid, 20, (SkipRange(0, 1),))}
    pair.client.stop_sessions([], pair.now)
    pair.run()
    assert pair.client_events() == [AllStopped((session.sid,))]
    assert pair.server.state is ServerState.READY
    stored = Stored(session.request, Owner(None, mode))
    finish(receiver, stored, receiver.finish(stop.descriptions[session.sid], AFTER))
    assert stored.count(0, 19) == 18
    assert stored.count(7, 7) == 1


def test_several_sessions_both_ways_on_one_connection() -> None:
    pair = OwampPair(Mode.ENCRYPTED).set_up()
    other = bytes(15) + b"\x07"
    sessions = started(pair, TO_SERVER, FROM_SERVER, TO_SERVER, replace(FROM_SERVER, sid=other))
    assert len({session.sid for session in sessions}) == 4
    assert len({session.keys for session in sessions}) == 4
    ours = [SessionDescription(s.sid, 20) for s in sessions if not s.server_sends]
    pair.client.stop_sessions(ours, pair.now)
    pair.run()
    assert pair.server.state is ServerState.ACTIVE
    for session in sessions:
        description = SessionDescription(session.sid, 20) if session.server_sends else None
        pair.server.session_complete(session.sid, description, pair.now)
    pair.run()
    stop, done = pair.client_events()
    assert isinstance(stop, StopReceived)
    assert isinstance(done, AllStopped)
    assert set(stop.descriptions) == {SID_OF_CLIENT, other}
    assert pair.client.state is ClientState.READY
    # And once more, on the same connection.
    started(pair, TO_SERVER)


@pytest.mark.req("rfc4656-s3.1-01")
@pytest.mark.parametrize("bit", [16, 128])
def test_ikev2_derived_keys_have_bit_4(bit: int) -> None:
    pair = OwampPair(Mode.AUTHENTICATED | Mode.IKEV2_DERIVED, ikev2_bit=bit)
    pair.run()
    assert pair.to_client[12:16] == struct.pack(">I", 7 | bit)
    assert pair.to_server[:4] == struct.pack(">I", 2 | bit)
    assert pair.to_server[4:20] == SPI_I + SPI_R
    (connected,) = pair.client_events()
    assert isinstance(connected, Connected)
    assert connected.ikev2_derived
    (set_up,) = pair.server_said
    assert isinstance(set_up, ClientSetUp)
    assert (set_up.ikev2_derived, set_up.peer_identity) == (True, "peer.example")
    assert pair.server.owner == Owner("ike:peer.example", Mode.AUTHENTICATED)


@pytest.mark.req("rfc4656-s3.1-11")
@pytest.mark.parametrize("mode", [2, 4, 6, 7, 3, 18, 17, 20])
def test_a_mode_that_was_not_offered_is_refused(mode: int) -> None:
    pair = OwampPair(modes=Mode.OPEN)
    pair.server.data_to_send()
    pair.server.receive_data(struct.pack(">I", mode) + bytes(160), pair.now)
    refused, closed = pair.server_events()
    assert isinstance(refused, ClientRefused)
    assert isinstance(closed, ConnectionClosed)
    if mode not in (17,):
        assert refused.accept == Accept.NOT_SUPPORTED


@pytest.mark.req("rfc4656-s3.1-13")
@pytest.mark.parametrize("mode", [1 | 8, 1 | 128, 1 | 0x80000000])
def test_bits_without_a_meaning_in_owamp_are_ignored(mode: int) -> None:
    pair = OwampPair()
    pair.server.data_to_send()
    pair.server.receive_data(struct.pack(">I", mode) + bytes(160), pair.now)
    (event,) = pair.server_events()
    assert isinstance(event, ClientSetUp)
    assert event.mode == Mode.OPEN


def test_there_is_no_mixed_mode() -> None:
    with pytest.raises(ConfigurationError, match="mixed"):
        OwampClient(
            ControlClientConfig(Mode.MIXED),
            NoProvider(),
            CountedEntropy(),
            local=CLIENT,
            remote=CLIENT,
            now=0,
        )


class TestRequests:
    @pytest.mark.req("rfc4656-s3.5-01")
    @pytest.mark.req("rfc4656-s3.5-10")
    @pytest.mark.req("rfc4656-s3.5-11")
    @pytest.mark.req("rfc4656-s6.5-01")
    @pytest.mark.req("rfc4656-s6.5-03")
    @pytest.mark.parametrize(
        ("change", "accept"),
        [
            ({"count": 1_000_001}, 4),
            ({"count": 0xFFFFFFFF}, 4),
            ({"slots": (Slot(SlotType.FIXED, 0),)}, 4),
            ({"slots": (Slot(SlotType.FIXED, 1),)}, 4),
            ({"slots": (Slot(SlotType.EXPONENTIAL, 1 << 63),)}, 4),
            ({"timeout_ns": 1000 * SECOND}, 4),
            ({"padding_octets": 65001}, 3),
            ({"start_time": ntp_add_ns(NTP_NOW, 90_000 * SECOND)}, 3),
            ({"count": 0}, 3),
        ],
    )
    def test_what_would_take_too_much_is_refused_before_anything_is_opened(
        self, change: dict[str, object], accept: int
    ) -> None:
        pair = OwampPair().set_up()
        assert denied(pair, replace(TO_SERVER, **change)) == accept  # type: ignore[arg-type]
        assert pair.hooks.opened == []
        accepted(pair, TO_SERVER)

    @pytest.mark.req("rfc4656-s6.5-02")
    def test_open_mode_has_its_own_limits(self) -> None:
        pair = OwampPair(open_maximum_packets=19, maximum_packets=20).set_up()
        assert denied(pair, TO_SERVER) == 4
        accepted(OwampPair(Mode.AUTHENTICATED, open_maximum_packets=19, maximum_packets=20).set_up(), TO_SERVER)

    @pytest.mark.req("rfc4656-s6.2-01")
    @pytest.mark.req("rfc4656-s6.2-02")
    @pytest.mark.req("rfc4656-s6.2-03")
    @pytest.mark.parametrize(
        ("sender", "receiver", "direction", "accept"),
        [
            ("192.0.2.2", "198.51.100.1", FROM_SERVER, 3),
            ("198.51.100.1", "192.0.2.1", FROM_SERVER, 3),
            ("198.51.100.1", "192.0.2.2", TO_SERVER, 3),
            ("192.0.2.1", "198.51.100.1", TO_SERVER, 3),
        ],
    )
    def test_others_are_neither_sent_to_nor_spoofed(
        self, sender: str, receiver: str, direction: OwampWish, accept: int
    ) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, direction)
        request = replace(
            session.request,
            sid=bytes(16),
            sender_address=ip_address(sender),
            receiver_address=ip_address(receiver),
        )
        pair.client._requests.append(request)
        raw(pair, *request.encode())
        (event,) = pair.client_events()
        assert isinstance(event, SessionRejected)
        assert isinstance(event.error, ServerRefused)
        assert event.error.accept == accept

    @pytest.mark.req("rfc4656-s3.5-07")
    @pytest.mark.parametrize(("conf_sender", "conf_receiver"), [(0, 0), (1, 1), (7, 9)])
    def test_a_server_sends_or_receives(self, conf_sender: int, conf_receiver: int) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, TO_SERVER)
        head, slots = session.request.encode()
        pair.client._requests.append(session.request)
        raw(pair, head[:2] + bytes([conf_sender, conf_receiver]) + head[4:], slots)
        (event,) = pair.client_events()
        assert isinstance(event, SessionRejected)
        with pytest.raises(LocalProtocolError):
            replace(session.request, conf_receiver=False).encode()

    @pytest.mark.req("rfc4656-s3.5-05")
    def test_any_conf_that_is_not_zero_is_one(self) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, TO_SERVER)
        head, slots = session.request.encode()
        pair.client._requests.append(session.request)
        raw(pair, head[:3] + b"\xff" + head[4:], slots)
        (event,) = pair.client_events()
        assert isinstance(event, OwampSessionAccepted)

    @pytest.mark.req("rfc4656-s3.5-08")
    @pytest.mark.req("rfc4656-s3.5-09")
    @pytest.mark.parametrize(("direction", "refused"), [(FROM_SERVER, True), (TO_SERVER, False)])
    def test_type_p_counts_when_the_server_sends(self, direction: OwampWish, refused: bool) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, direction)
        request = replace(session.request, type_p=0x40010000, sid=bytes(16))
        pair.client._requests.append(request)
        raw(pair, *request.encode())
        (event,) = pair.client_events()
        assert isinstance(event, SessionRejected) == refused

    @pytest.mark.req("rfc4656-s3.5-06")
    def test_the_port_of_what_the_server_configures_is_the_servers(self) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, TO_SERVER)
        request = replace(session.request, receiver_port=1)
        pair.client._requests.append(request)
        raw(pair, *request.encode())
        (event,) = pair.client_events()
        assert isinstance(event, OwampSessionAccepted)
        assert event.session.receiver.port == 18762
        assert [wished.receiver.port for wished in pair.hooks.wished] == [0, 0]

    def test_a_sid_is_not_used_twice(self) -> None:
        pair = OwampPair().set_up()
        accepted(pair, FROM_SERVER)
        assert denied(pair, FROM_SERVER) == 3

    @pytest.mark.parametrize("slots", [(1 << 16) + 1, 0xFFFFFFFF])
    def test_absurd_schedules_are_refused_before_they_are_read(self, slots: int) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, TO_SERVER)
        head, _ = session.request.encode()
        pair.client._requests.append(session.request)
        pair.client._outbox += head[:4] + struct.pack(">I", slots) + head[8:] + bytes(16)
        pair.run()
        (event, *_) = pair.client_events()
        assert isinstance(event, SessionRejected)
        assert isinstance(event.error, ServerRefused)
        assert event.error.accept == 4
        assert pair.closed() is not None

    def test_65536_slots_are_read_and_cycled(self) -> None:
        pair = OwampPair(Mode.ENCRYPTED).set_up()
        slots = tuple(Slot(SlotType.FIXED, (n + 1) << 10) for n in range(1 << 16))
        (session,) = accepted(pair, replace(TO_SERVER, slots=slots, count=70_000))
        assert pair.hooks.opened[0].request.slots == slots
        assert session.request.number_of_packets == 70_000

    def test_an_unknown_slot_type_is_refused(self) -> None:
        pair = OwampPair().set_up()
        (session,) = accepted(pair, TO_SERVER)
        head, slots = session.request.encode()
        pair.client._requests.append(session.request)
        raw(pair, head, b"\x02" + slots[1:])
        (event,) = pair.client_events()
        assert isinstance(event, SessionRejected)
        assert not pair.server.closed

    def test_a_refusal_of_the_surroundings_is_the_answer(self) -> None:
        pair = OwampPair(hooks=Hooks(refusal=RefuseSession(5, "full"))).set_up()
        assert denied(pair, TO_SERVER) == 5

    def test_a_failure_of_the_surroundings_is_an_internal_error(self) -> None:
        class Broken(Hooks):
            def open_owamp_session(self, session: OwampSession, owner: Owner) -> int:
                raise OSError("no")

        assert denied(OwampPair(hooks=Broken()).set_up(), TO_SERVER) == 2

    def test_a_connection_has_a_limit_of_sessions(self) -> None:
        pair = OwampPair(open_sessions_per_connection=2).set_up()
        accepted(pair, TO_SERVER, TO_SERVER)
        assert denied(pair, TO_SERVER) == 5


class TestStop:
    @pytest.mark.req("rfc4656-s3.8-07")
    @pytest.mark.parametrize("which", ["none", "other", "twice", "more"])
    def test_a_stop_that_does_not_account_for_the_sessions_closes_the_connection(self, which: str) -> None:
        pair = OwampPair(Mode.AUTHENTICATED).set_up()
        one, two = started(pair, TO_SERVER, TO_SERVER)
        good, also = SessionDescription(one.sid, 20), SessionDescription(two.sid, 20)
        other = SessionDescription(bytes(16), 20)
        described = {"none": (), "other": (good, other), "twice": (good, good), "more": (good, also, other)}[which]
        raw(pair, StopSessionsWithDescriptions(described).encode())
        closed = pair.closed()
        assert closed is not None
        assert isinstance(closed.error, InvalidMessage)
        assert set(closed.sids) == {one.sid, two.sid}

    @pytest.mark.req("rfc4656-s3.8-01")
    @pytest.mark.parametrize("ranges", [((3, 4), (1, 2)), ((1, 3), (3, 4)), ((4, 3),), ((19, 20),)])
    def test_skip_ranges_out_of_order_make_a_stop_invalid(self, ranges: tuple[tuple[int, int], ...]) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        body = b"\x03\x00\x00\x00" + struct.pack(">I8x16sII", 1, session.sid, 20, len(ranges))
        body += b"".join(struct.pack(">II", *item) for item in ranges)
        raw(pair, body + bytes(-len(body) % 16))
        assert pair.closed() is not None

    def test_an_absurd_number_of_skip_ranges_is_not_waited_for(self) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        raw(pair, b"\x03\x00\x00\x00" + struct.pack(">I8x16sII8x", 1, session.sid, 20, 0x10000000))
        closed = pair.closed()
        assert closed is not None
        assert "Skip Ranges" in closed.reason

    @pytest.mark.req("rfc4656-s3.8-04")
    @pytest.mark.req("rfc4656-s3.8-05")
    def test_our_client_describes_exactly_what_it_sends(self) -> None:
        pair = OwampPair().set_up()
        started(pair, TO_SERVER)
        with pytest.raises(LocalProtocolError):
            pair.client.stop_sessions([], pair.now)
        with pytest.raises(LocalProtocolError):
            pair.client.stop_sessions([SessionDescription(bytes(16), 0)], pair.now)

    def test_a_second_stop_closes_the_connection(self) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        stop = StopSessionsWithDescriptions((SessionDescription(session.sid, 20),)).encode()
        raw(pair, stop, stop)
        assert pair.closed() is not None

    def test_a_stop_without_sessions_is_right_when_nothing_runs(self) -> None:
        pair = OwampPair().set_up()
        raw(pair, b"\x03" + bytes(15))
        assert pair.closed() is None
        raw(pair, b"\x03\x00\x00\x00\x00\x00\x00\x01" + bytes(40))
        assert pair.closed() is not None

    @pytest.mark.parametrize("number", [1, 4, 2])
    def test_while_measuring_the_only_command_is_stop_sessions(self, number: int) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        parts = {1: session.request.encode(), 2: (b"\x02" + bytes(15),), 4: (b"\x04" + bytes(31),)}[number]
        answered = len(pair.to_client)
        raw(pair, *parts)
        assert len(pair.to_client) > answered
        assert pair.to_client[answered] == Accept.NOT_SUPPORTED
        assert pair.server.state is ServerState.ACTIVE

    @pytest.mark.req("rfc4656-s3.8-11")
    def test_stop_waits_until_all_sessions_are_complete(self) -> None:
        pair = OwampPair().set_up()
        one, two = started(pair, TO_SERVER, TO_SERVER)
        said = len(pair.to_client)
        pair.server.session_complete(one.sid, None, pair.now)
        pair.run()
        assert len(pair.to_client) == said
        pair.server.session_complete(two.sid, None, pair.now)
        pair.run()
        assert pair.to_client[said:] == b"\x03" + bytes(31)

    @pytest.mark.req("rfc4656-s3-02")
    def test_servwait_runs_again_when_our_stop_is_out(self) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        assert pair.server.next_timer() is None
        pair.server.session_complete(session.sid, None, pair.now)
        timer = pair.server.next_timer()
        assert timer == pair.now + 900
        pair.server.handle_timer(timer)
        assert pair.closed() is not None

    @pytest.mark.req("rfc4656-s3.8-07")
    def test_our_client_does_not_take_a_stop_that_misses_a_session(self) -> None:
        pair = OwampPair().set_up()
        started(pair, FROM_SERVER)
        pair.client.receive_data(b"\x03" + bytes(31), pair.now)
        (closed,) = pair.client_events()
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, InvalidMessage)


class TestFetch:
    def ended(self, pair: OwampPair, end: int = 1) -> bytes:
        (session,) = started(pair, TO_SERVER)
        sender, receiver = sender_of(session), receiver_of(session)
        deliver(sender, receiver, lost=(4,))
        pair.client.stop_sessions([sender.description()], pair.now)
        pair.server.session_complete(session.sid, None, pair.now)
        pair.run()
        finish(receiver, pair.hooks.store[session.sid], receiver.finish(sender.description(), AFTER))
        pair.hooks.store[session.sid].finished = end
        pair.server.session_ended(session.sid)
        pair.client_events()
        return session.sid

    def fetch(self, pair: OwampPair, sid: bytes, *range_: int) -> object:
        pair.client.fetch_session(sid, pair.now, *range_)
        pair.run()
        (event,) = pair.client_events()
        return event

    @pytest.mark.parametrize("mode", [Mode.OPEN, Mode.ENCRYPTED], ids=repr)
    @pytest.mark.parametrize(("begin", "end", "count"), [(0, 9, 10), (4, 4, 1), (15, 400, 5), (100, 200, 0)])
    def test_a_part_of_a_session(self, mode: Mode, begin: int, end: int, count: int) -> None:
        pair = OwampPair(mode).set_up()
        event = self.fetch(pair, self.ended(pair), begin, end)
        assert isinstance(event, Fetched)
        numbers = [packet.sequence_number for packet in event.session.packets]
        assert len(numbers) == count
        assert all(begin <= number <= end for number in numbers)

    @pytest.mark.req("rfc4656-s3-02")
    def test_servwait_begins_when_the_last_record_has_gone_out(self) -> None:
        pair = OwampPair().set_up()
        sid = self.ended(pair)
        pair.client.fetch_session(sid, pair.now)
        pair.server.receive_data(pair.client.data_to_send(), pair.now)
        parts = 0
        while pair.server.data_to_send():
            parts += 1
            pair.now += 1000.0  # each part takes longer to send than SERVWAIT
            pair.server.handle_timer(pair.now)
            assert not pair.server.closed
        assert parts > 4
        timer = pair.server.next_timer()
        assert timer is not None
        pair.server.handle_timer(max(timer, pair.now))
        assert pair.server.next_timer() == pair.now + 900
        pair.server.handle_timer(pair.now + 900)
        assert pair.server.closed

    @pytest.mark.parametrize("mode", [Mode.OPEN, Mode.ENCRYPTED], ids=repr)
    def test_several_that_do_not_wait_for_one_another(self, mode: Mode) -> None:
        pair = OwampPair(mode).set_up()
        sid = self.ended(pair)
        for begin, end in ((0, 4), (5, 5), (0, 0xFFFFFFFF)):
            pair.client.fetch_session(sid, pair.now, begin, end)
        pair.client.fetch_session(bytes(16), pair.now)
        pair.run()
        events = pair.client_events()
        counts = [len(list(event.session.packets)) for event in events[:3] if isinstance(event, Fetched)]
        assert counts == [5, 1, 20]
        assert isinstance(events[3], FetchRefused)

    @pytest.mark.req("rfc4656-s3.9-01")
    @pytest.mark.req("rfc4656-s3.9-02")
    @pytest.mark.parametrize("end", [0, 2])
    def test_what_has_not_ended_normally_is_not_had_complete(self, end: int) -> None:
        pair = OwampPair().set_up()
        sid = self.ended(pair, end)
        event = self.fetch(pair, sid)
        assert isinstance(event, FetchRefused)
        assert pair.hooks.store[sid].closed == 1
        part = self.fetch(pair, sid, 0, 19)
        assert isinstance(part, Fetched)
        assert len(list(part.session.packets)) == 20

    @pytest.mark.req("rfc4656-s3.9-06")
    @pytest.mark.req("rfc4656-s3.9-07")
    def test_of_a_session_in_progress_neither_next_seqno_nor_skip_ranges_are_told(self) -> None:
        pair = OwampPair().set_up()
        sid = self.ended(pair, 0)
        pair.hooks.store[sid].skip_ranges = (SkipRange(1, 2),)
        event = self.fetch(pair, sid, 0, 5)
        assert isinstance(event, Fetched)
        assert (event.session.finished, event.session.next_seqno, event.session.skip_ranges) == (0, 0, ())

    def test_another_user_gets_nothing(self) -> None:
        pair = OwampPair(Mode.AUTHENTICATED).set_up()
        sid = self.ended(pair)
        users = PassphraseProvider({"alice": "correct horse", "bob": "battery"}, "bob")
        other = OwampPair(
            Mode.AUTHENTICATED, hooks=pair.hooks, client_provider=users, server_provider=users
        ).set_up()
        assert isinstance(self.fetch(other, sid), FetchRefused)
        same = OwampPair(Mode.AUTHENTICATED, hooks=pair.hooks).set_up()
        assert isinstance(self.fetch(same, sid), Fetched)

    @pytest.mark.parametrize("made", [Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED], ids=repr)
    def test_another_mode_gets_nothing(self, made: Mode) -> None:
        pair = OwampPair(made).set_up()
        sid = self.ended(pair)
        for mode in (Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED):
            other = OwampPair(mode, hooks=pair.hooks).set_up()
            assert isinstance(self.fetch(other, sid), Fetched if mode == made else FetchRefused)

    @pytest.mark.req("rfc4656-s3.9-04")
    def test_a_refusal_says_nothing_else(self) -> None:
        pair = OwampPair().set_up()
        answered = len(pair.to_client)
        assert isinstance(self.fetch(pair, bytes(16)), FetchRefused)
        assert pair.to_client[answered:] == b"\x01" + bytes(31)
        raw(pair, b"\x04" + bytes(7) + struct.pack(">II", 5, 4) + bytes(16))
        assert pair.to_client[-32] == Accept.NOT_SUPPORTED

    @pytest.mark.req("rfc4656-s3.9-05")
    def test_our_client_ignores_the_rest_of_a_refusal(self) -> None:
        pair = OwampPair().set_up()
        pair.client.fetch_session(bytes(16), pair.now)
        pair.client.receive_data(b"\x05\x01\xff\xff" + b"\xff" * 12 + bytes(16), pair.now)
        (event,) = pair.client_events()
        assert isinstance(event, FetchRefused)
        assert isinstance(event.error, ServerRefused)
        assert event.error.accept == 5
        assert pair.client.state is ClientState.READY

    @pytest.mark.req("rfc4656-s3.9-09")
    def test_skip_ranges_that_overlap_close_the_connection(self) -> None:
        pair = OwampPair().set_up()
        sid = self.ended(pair)
        request = pair.hooks.store[sid].request
        head, slots = request.encode()
        pair.client.fetch_session(sid, pair.now)
        ack = struct.pack(">BBxxIII", 0, 1, 20, 2, 0)
        skips = struct.pack(">IIII", 1, 3, 3, 4)
        pair.client.receive_data(b"".join(p + bytes(16) for p in (ack, head, slots, skips, b"")), pair.now)
        (closed,) = pair.client_events()
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, InvalidMessage)

    def test_an_absurd_number_of_records_is_not_waited_for(self) -> None:
        pair = OwampPair().set_up()
        sid = self.ended(pair)
        pair.client.fetch_session(sid, pair.now)
        pair.client.receive_data(struct.pack(">BBxxIII", 0, 1, 20, 0, 0xFFFFFFFF) + bytes(16), pair.now)
        (closed,) = pair.client_events()
        assert isinstance(closed, ConnectionClosed)

    def test_a_fetch_waits_until_the_last_records_are_written(self) -> None:
        pair = OwampPair().set_up()
        (session,) = started(pair, TO_SERVER)
        sender, receiver = sender_of(session), receiver_of(session)
        deliver(sender, receiver)
        pair.client.stop_sessions([sender.description()], pair.now)
        pair.server.session_complete(session.sid, None, pair.now)
        pair.run()
        pair.client_events()
        pair.client.fetch_session(session.sid, pair.now)
        pair.client.fetch_session(bytes(16), pair.now)
        pair.run()
        assert pair.client_events() == []
        finish(receiver, pair.hooks.store[session.sid], receiver.finish(sender.description(), AFTER))
        pair.server.session_ended(session.sid)
        pair.run()
        assert [type(event) for event in pair.client_events()] == [Fetched, FetchRefused]

    def test_records_go_out_some_at_a_time(self) -> None:
        pair = OwampPair(Mode.ENCRYPTED).set_up()
        sid = self.ended(pair)
        pair.hooks.store[sid].records_ = pair.hooks.store[sid].records_ * 5000
        pair.client.fetch_session(sid, pair.now)
        pair.server.receive_data(pair.client.data_to_send(), pair.now)
        sizes = []
        while data := pair.server.data_to_send():
            sizes.append(len(data))
            pair.client.receive_data(data, pair.now)
        assert sum(sizes) > 2_500_000
        assert max(sizes) < 30_000
        (event,) = pair.client_events()
        assert isinstance(event, Fetched)
        assert len(event.session.records) == 100_000 * 25


@pytest.mark.req("rfc4656-s6.10-01")
@pytest.mark.req("rfc4656-s6.10-02")
@pytest.mark.req("rfc4656-s6.10-03")
@pytest.mark.parametrize("mode", [Mode.AUTHENTICATED, Mode.ENCRYPTED], ids=repr)
@pytest.mark.parametrize("at", [0, 50, 100, 115, 130, 143])
def test_a_changed_octet_of_a_request_ends_the_connection(mode: Mode, at: int) -> None:
    pair = OwampPair(mode).set_up()
    pair.client.request_session(TO_SERVER, pair.now)
    data = bytearray(pair.client.data_to_send())
    data[at] ^= 1
    pair.server.receive_data(bytes(data), pair.now)
    assert pair.closed() is not None
    assert pair.hooks.opened == []


@pytest.mark.parametrize("command", [0, 5, 6, 7, 9, 200])
def test_an_unknown_command_is_answered_and_ends_the_connection(command: int) -> None:
    pair = OwampPair().set_up()
    answered = len(pair.to_client)
    pair.client._outbox += bytes([command]) + bytes(31)
    pair.run()
    assert pair.to_client[answered] == Accept.NOT_SUPPORTED
    assert pair.closed() is not None


def test_start_without_a_session_is_refused_and_the_connection_stays() -> None:
    pair = OwampPair().set_up()
    raw(pair, b"\x02" + bytes(15))
    assert pair.to_client[-32] == Accept.FAILURE
    assert not pair.server.closed
    assert any(isinstance(event, ClientSetUp) for event in pair.server_said)


def test_sessions_of_a_broken_connection_are_named_in_its_end() -> None:
    pair = OwampPair(Mode.AUTHENTICATED).set_up()
    (session,) = started(pair, TO_SERVER)
    pair.server.receive_eof(pair.now)
    closed = pair.closed()
    assert closed is not None
    assert (closed.sids, closed.error) == ((session.sid,), None)


def test_a_server_refusal_is_told_to_the_log() -> None:
    pair = OwampPair().set_up()
    denied(pair, replace(TO_SERVER, count=0))
    assert any(isinstance(event, SessionDenied) and event.accept == 3 for event in pair.server_said)


def test_a_request_repeats_in_its_octets() -> None:
    request = RequestSession(True, False, 7, FIXED_10_MS, sid=SID_OF_CLIENT)
    assert RequestSession.parse(*request.encode()) == request
