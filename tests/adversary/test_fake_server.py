"""A server that breaks each rule in turn, at our two Control-Clients, in every mode.

Nothing is raised at a client for what its peer sends: the connection ends with an error that says why, or the refusal
is an event and the connection stays. RFC 4656 section 3, RFC 5357 section 3, RFC 5938 section 3.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from adversary_peers import NAMES, OWAMP_MODES, SECRET, TWAMP_MODES
from decoder.fake_peer import (
    SECOND,
    SERVER_IV,
    FakeServer,
    accept_session,
    description,
    fetch_ack,
    is_keyed,
    n_sessions,
    request_session,
    slot,
    start_ack,
    stop_sessions,
)
from decoder.twamp_decoder import SESSION_CONTROL
from ippm_control_peers import CLIENT, SERVER, CountedEntropy

from ippm.core.control_client import ControlClient, ControlClientConfig, SessionWish
from ippm.core.control_events import (
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionAccepted,
    SessionRejected,
    Started,
)
from ippm.core.owamp_client import OwampClient, OwampWish
from ippm.core.owamp_events import Fetched, FetchRefused, OwampSessionAccepted, StopReceived
from ippm.core.schedule import Slot, SlotType
from ippm.crypto import NoProvider, PassphraseProvider
from ippm.errors import (
    ConnectionFailed,
    IntegrityError,
    InvalidMessage,
    IppmError,
    ServerRefused,
    UnacceptableCount,
    UnexpectedMessage,
)
from ippm.iana import Mode

NOW = 1000.0
SID = bytes.fromhex("c0000202e0000000000000005eed5eed")
OTHER = bytes(range(16))
BOTH = [("twamp", mode) for mode in TWAMP_MODES] + [("owamp", mode) for mode in OWAMP_MODES]
IDS = [f"{protocol}-{NAMES[mode]}" for protocol, mode in BOTH]
both = pytest.mark.parametrize(("protocol", "mode"), BOTH, ids=IDS)
both_keyed = pytest.mark.parametrize(
    ("protocol", "mode"),
    [pair for pair in BOTH if is_keyed(pair[1])],
    ids=[name for name, pair in zip(IDS, BOTH, strict=True) if is_keyed(pair[1])],
)
owamp = pytest.mark.parametrize("mode", OWAMP_MODES, ids=NAMES.get)
owamp_keyed = pytest.mark.parametrize("mode", OWAMP_MODES[1:], ids=NAMES.get)


@dataclass
class Talk:
    """Our client, and the octets of a fake server for it."""

    protocol: str
    mode: int
    features: int = 0
    count: int = 1024

    def __post_init__(self) -> None:
        provider = PassphraseProvider({"alice": SECRET}) if is_keyed(self.mode) else NoProvider()
        config = ControlClientConfig(Mode(self.mode), features=Mode(self.features))
        role: Callable[..., Any] = ControlClient if self.protocol == "twamp" else OwampClient
        self.client = role(config, provider, CountedEntropy("client"), local=CLIENT, remote=SERVER, now=NOW)
        self.server = FakeServer(15 | self.features, SECRET, count=self.count)

    def give(self, octets: bytes, piece: int = 1 << 20) -> None:
        for at in range(0, len(octets), piece):
            self.client.receive_data(octets[at : at + piece], NOW)

    def events(self) -> list[Any]:
        found = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found

    def set_up(self, **start: Any) -> Talk:
        self.give(self.server.greeting())
        self.server.take_response(self.client.data_to_send())
        self.give(self.server.server_start(**start))
        if not self.client.closed:
            (event,) = self.events()
            assert isinstance(event, Connected)
        return self

    def ask(self, *, server_sends: bool = False) -> None:
        """Our user wants a session."""
        if self.protocol == "twamp":
            self.client.request_session(SessionWish(Endpoint(CLIENT.host, 9000)), NOW)
        else:
            slots = (Slot(SlotType.FIXED, SECOND // 100),)
            wish = OwampWish(Endpoint(CLIENT.host, 9000), server_sends, 20, slots, 0xE000000000000000, OTHER)
            self.client.request_session(wish, NOW)

    def request(self, *, server_sends: bool = False) -> None:
        """The client asks for a session; its octets are right."""
        self.ask(server_sends=server_sends)
        octets = self.client.data_to_send()
        head = self.server.take(octets[:112])
        assert head[0] == (5 if self.protocol == "twamp" else 1)
        if len(octets) > 112:
            self.server.take(octets[112:])

    def accepted(self, *, server_sends: bool = False) -> Talk:
        self.request(server_sends=server_sends)
        self.give(self.server.answer(accept_session(0, 9001, SID)))
        (event,) = self.events()
        assert isinstance(event, SessionAccepted | OwampSessionAccepted)
        return self

    def started(self, *, server_sends: bool = False) -> Talk:
        self.accepted(server_sends=server_sends)
        self.client.start_sessions(NOW)
        self.server.take(self.client.data_to_send())
        self.give(self.server.answer(start_ack(0)))
        (event,) = self.events()
        assert isinstance(event, Started)
        return self

    def fetching(self, begin: int = 0, end: int = 0xFFFFFFFF) -> Talk:
        self.client.fetch_session(SID, NOW, begin, end)
        self.server.take(self.client.data_to_send())
        return self

    def error(self) -> IppmError:
        """Why the connection ended, as the one thing that is told."""
        (event,) = self.events()
        assert isinstance(event, ConnectionClosed)
        assert self.client.closed
        assert isinstance(event.error, IppmError)
        assert "\n" not in str(event.error)
        return event.error


class TestSetUp:
    @both
    def test_no_mode_and_another_mode(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode)
        talk.give(talk.server.greeting(modes=0))
        assert isinstance(talk.error(), ServerRefused)
        talk = Talk(protocol, mode)
        talk.give(talk.server.greeting(modes=0xFFFFFFFF & ~mode & ~128))
        assert isinstance(talk.error(), ConnectionFailed)
        assert talk.client.data_to_send() == b""

    @both_keyed
    @pytest.mark.parametrize("count", [0, 1, 1000, 1023, 1025, 3 * 1024, 65_536, 1 << 31, 0xFFFFFFFF])
    def test_an_absurd_count_is_refused_before_anything_is_derived(
        self, protocol: str, mode: int, count: int
    ) -> None:
        talk = Talk(protocol, mode, count=count)
        talk.give(talk.server.greeting())
        assert isinstance(talk.error(), UnacceptableCount)
        assert talk.client.data_to_send() == b""

    @both
    def test_mbz_and_unknown_bits_are_ignored_and_octets_may_come_one_by_one(
        self, protocol: str, mode: int
    ) -> None:
        talk = Talk(protocol, mode)
        modes = 0xFFFFFFFF & ~128 & (~16 if protocol == "owamp" else 0xFFFFFFFF)
        talk.give(talk.server.greeting(modes=modes, mbz=b"\xff" * 12), 1)
        response = talk.server.take_response(talk.client.data_to_send())
        assert response["mode"] == mode
        start = bytearray(talk.server.server_start(start_time=0xE000000000000000))
        start[:15] = b"\xff" * 15
        talk.give(bytes(start), 1)
        (event,) = talk.events()
        assert isinstance(event, Connected)
        assert event.server_start_time == 0xE000000000000000

    @both
    @pytest.mark.parametrize("accept", [1, 2, 3, 4, 5, 6, 7, 255])
    def test_a_refused_set_up(self, protocol: str, mode: int, accept: int) -> None:
        talk = Talk(protocol, mode).set_up(accept=accept)
        assert isinstance(talk.error(), ServerRefused)

    @both
    def test_a_server_that_ends_anywhere(self, protocol: str, mode: int) -> None:
        for octets in (0, 1, 63, 64, 65, 111):
            talk = Talk(protocol, mode)
            talk.give(talk.server.greeting()[:octets])
            if octets >= 64:
                talk.server.take_response(talk.client.data_to_send())
                talk.give(talk.server.server_start()[: octets - 64])
            talk.client.receive_eof(NOW)
            assert isinstance(talk.error(), ConnectionFailed)

    @both
    def test_a_server_that_says_nothing(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode)
        talk.give(talk.server.greeting()[:63], 1)
        assert talk.client.next_timer() == NOW + 30
        talk.client.handle_timer(NOW + 30)
        assert isinstance(talk.error(), ConnectionFailed)

    @both_keyed
    def test_a_stream_under_another_iv_fails_its_first_hmac(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up(sealed_with=SERVER_IV[::-1])
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 9001, SID)))
        assert isinstance(talk.error(), IntegrityError)


class TestAnswers:
    @both_keyed
    def test_a_wrong_hmac_swapped_blocks_and_a_replayed_answer(self, protocol: str, mode: int) -> None:
        for spoil in ("hmac", "swap"):
            talk = Talk(protocol, mode).set_up()
            talk.request()
            wrong = b"\0" * 16 if spoil == "hmac" else None
            octets = talk.server.answer(accept_session(0, 9001, SID), wrong)
            if spoil == "swap":
                octets = octets[16:32] + octets[:16] + octets[32:]
            talk.give(octets)
            assert isinstance(talk.error(), IntegrityError)
        talk = Talk(protocol, mode).set_up()
        talk.request()
        octets = talk.server.answer(accept_session(0, 9001, SID))
        talk.give(octets)
        talk.events()
        talk.request()
        talk.give(octets)
        assert isinstance(talk.error(), IntegrityError)

    @both
    def test_mbz_is_ignored(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up()
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 9001, SID, last=b"\xff" * 12, mbz=255)), 1)
        assert isinstance(talk.events()[0], SessionAccepted | OwampSessionAccepted)
        talk.client.start_sessions(NOW)
        talk.give(talk.server.answer(start_ack(0, mbz=b"\xff" * 15)), 1)
        assert isinstance(talk.events()[0], Started)

    @both
    @pytest.mark.parametrize("accept", [1, 2, 3, 4, 5, 6, 99, 255])
    def test_a_refused_session_is_an_event_and_the_connection_stays(
        self, protocol: str, mode: int, accept: int
    ) -> None:
        talk = Talk(protocol, mode).set_up()
        talk.request()
        talk.give(talk.server.answer(accept_session(accept, 9001, SID)))
        (event,) = talk.events()
        assert isinstance(event, SessionRejected)
        talk.started()

    @both
    def test_a_sid_that_is_given_twice_ends_it(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up().accepted()
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 9002, SID)))
        assert isinstance(talk.error(), InvalidMessage)

    @both
    def test_port_zero_ends_it(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up()
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 0, SID)))
        assert isinstance(talk.error(), InvalidMessage)

    @both
    def test_what_is_too_long_too_early_or_not_asked_for_ends_it(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up()
        talk.give(talk.server.answer(accept_session(0, 9001, SID)))
        assert isinstance(talk.error(), UnexpectedMessage)
        talk = Talk(protocol, mode).set_up()
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 9001, SID)) + talk.server.sealer.blocks(bytes(16)))
        assert isinstance(talk.events()[-1].error, UnexpectedMessage)  # type: ignore[attr-defined]
        assert talk.client.closed

    @both
    def test_an_answer_that_is_too_short_and_the_end(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up()
        talk.request()
        talk.give(talk.server.answer(accept_session(0, 9001, SID))[:-1])
        talk.client.receive_eof(NOW)
        assert isinstance(talk.error(), ConnectionFailed)

    @both
    def test_a_refused_start_and_a_wrong_answer_to_it(self, protocol: str, mode: int) -> None:
        for accept in (1, 3, 255):
            talk = Talk(protocol, mode).set_up().accepted()
            talk.client.start_sessions(NOW)
            talk.give(talk.server.answer(start_ack(accept)))
            assert isinstance(talk.error(), ServerRefused)

    @both
    def test_the_server_ends_within_a_measurement(self, protocol: str, mode: int) -> None:
        talk = Talk(protocol, mode).set_up().started()
        talk.client.receive_eof(NOW)
        (event,) = talk.events()
        assert isinstance(event, ConnectionClosed)
        assert event.sids == (SID,)

    @pytest.mark.parametrize("mode", TWAMP_MODES, ids=NAMES.get)
    @pytest.mark.parametrize(
        "answer",
        [
            n_sessions(10, [SID]),
            n_sessions(8, [OTHER]),
            n_sessions(8, [SID, SID]),
            n_sessions(8, []),
            n_sessions(8, [SID], count=4097),
            n_sessions(8, [SID], count=0xFFFFFFFF),
            n_sessions(255, [SID]),
        ],
    )
    def test_acknowledgements_that_cannot_be(self, mode: int, answer: bytes) -> None:
        talk = Talk("twamp", mode, features=SESSION_CONTROL).set_up().accepted()
        talk.client.start_sessions(NOW)
        talk.give(talk.server.answer(answer))
        assert isinstance(talk.error(), InvalidMessage | UnexpectedMessage)


class TestStop:
    @owamp
    @pytest.mark.parametrize(
        "stop",
        [
            stop_sessions(0),
            stop_sessions(1) + description(SID, 20),
            stop_sessions(2) + description(OTHER, 20) * 2,
            stop_sessions(0xFFFFFFFF),
            stop_sessions(1) + description(OTHER, 20, count=12),
            stop_sessions(1) + description(OTHER, 20, count=0xFFFFFFFF),
            stop_sessions(1) + description(OTHER, 20, [(3, 2)]),
            stop_sessions(1) + description(OTHER, 20, [(3, 5), (5, 6)]),
            stop_sessions(1) + description(OTHER, 5, [(3, 5)]),
            b"\x04" + stop_sessions(1)[1:] + description(OTHER, 20),
        ],
    )
    def test_a_stop_that_does_not_account_for_its_session(self, mode: int, stop: bytes) -> None:
        talk = Talk("owamp", mode).set_up().started(server_sends=True)
        talk.give(talk.server.answer(stop))
        assert isinstance(talk.error(), InvalidMessage | UnexpectedMessage)

    @owamp
    def test_mbz_in_a_stop_and_a_second_one(self, mode: int) -> None:
        talk = Talk("owamp", mode).set_up().started(server_sends=True)
        stop = stop_sessions(1, mbz=b"\xff" * 10) + description(OTHER, 20, [(0, 4)])
        talk.give(talk.server.answer(stop), 1)
        (event,) = talk.events()
        assert isinstance(event, StopReceived)
        talk.give(talk.server.answer(stop))
        assert isinstance(talk.error(), UnexpectedMessage)

    @owamp_keyed
    def test_a_wrong_hmac_in_a_stop(self, mode: int) -> None:
        talk = Talk("owamp", mode).set_up().started(server_sends=True)
        talk.give(talk.server.answer(stop_sessions(1) + description(OTHER, 20), b"\0" * 16))
        assert isinstance(talk.error(), IntegrityError)


def record(sequence: int, *, ttl: int = 255) -> bytes:
    """25 octets. RFC 4656 section 3.9."""
    return sequence.to_bytes(4, "big") + b"\x8a\x20" * 2 + (0xE0000001 << 32).to_bytes(8, "big") * 2 + bytes([ttl])


def fetched(
    talk: Talk,
    given: list[bytes],
    *,
    sid: bytes = SID,
    slots: int = 1,
    packets: int = 20,
    ranges: bytes = b"",
    spoil: int | None = None,
    **ack: int,
) -> None:
    """The whole answer to Fetch-Session; `spoil` is the part whose HMAC is wrong."""
    octets = b"".join(given)
    parts = [
        fetch_ack(0, **({"records": len(given), "skips": len(ranges) // 8, "next_seqno": 20} | ack)),
        request_session(port=9000, sid=sid, slots=slots, packets=packets),
        slot(SECOND // 100) * min(slots, 10),
        ranges + bytes(-len(ranges) % 16),
        octets + bytes(-len(octets) % 16),
    ]
    for number, part in enumerate(parts):
        talk.give(talk.server.answer(part, b"\0" * 16 if number == spoil else None), 777)


class TestFetch:
    @owamp
    @pytest.mark.parametrize("sid", [SID, bytes(16)], ids=["as used", "as requested"])
    def test_the_data_is_that_of_the_sid_that_was_asked_for(self, mode: int, sid: bytes) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        fetched(talk, [record(n) for n in (0, 2, 1, 19)], sid=sid)
        (event,) = talk.events()
        assert isinstance(event, Fetched)
        assert event.session.sid == SID
        assert [packet.sequence_number for packet in event.session.packets] == [0, 2, 1, 19]

    @owamp
    def test_another_session_than_the_one_that_was_asked_for(self, mode: int) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        fetched(talk, [record(0)], sid=OTHER)
        assert isinstance(talk.error(), InvalidMessage)

    @owamp
    @pytest.mark.parametrize("numbers", [[4], [8], [5, 6, 0xFFFFFFFF]])
    def test_records_of_packets_that_were_not_asked_for(self, mode: int, numbers: list[int]) -> None:
        talk = Talk("owamp", mode).set_up().fetching(5, 7)
        fetched(talk, [record(n) for n in numbers])
        assert isinstance(talk.error(), InvalidMessage)

    @owamp
    def test_records_of_packets_that_the_session_has_not(self, mode: int) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        fetched(talk, [record(20)])
        assert isinstance(talk.error(), InvalidMessage)

    @owamp
    @pytest.mark.parametrize(
        ("field", "value"), [("records", 0xFFFFFFFF), ("skips", 0xFFFFFFFF), ("slots", 0xFFFFFFFF)]
    )
    def test_absurd_numbers_are_not_waited_for(self, mode: int, field: str, value: int) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        fetched(talk, [], **{field: value})
        assert isinstance(talk.error(), InvalidMessage)

    @owamp
    @pytest.mark.parametrize("skips", [[(3, 2)], [(3, 4), (4, 5)], [(6, 7), (1, 2)], [(15, 20)]])
    def test_skip_ranges_that_cannot_be(self, mode: int, skips: list[tuple[int, int]]) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        octets = b"".join(first.to_bytes(4, "big") + last.to_bytes(4, "big") for first, last in skips)
        fetched(talk, [], ranges=octets)
        assert isinstance(talk.error(), InvalidMessage)

    @owamp_keyed
    @pytest.mark.parametrize("part", range(5))
    def test_a_wrong_hmac_in_any_part(self, mode: int, part: int) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        fetched(talk, [record(0)], spoil=part)
        assert isinstance(talk.error(), IntegrityError)

    @owamp
    @pytest.mark.parametrize("accept", [1, 3, 255])
    def test_a_refusal_is_an_event_and_the_connection_stays(self, mode: int, accept: int) -> None:
        talk = Talk("owamp", mode).set_up().fetching()
        talk.give(talk.server.answer(fetch_ack(accept, 255, 255, 255, 255)))
        (event,) = talk.events()
        assert isinstance(event, FetchRefused)
        talk.accepted()

    def test_many_records_are_in_memory_once(self) -> None:
        talk = Talk("owamp", 1).set_up().fetching()
        count = 200_000
        octets = b"".join(record(n) for n in range(count))
        parts = (
            fetch_ack(0, records=count, next_seqno=count),
            request_session(port=9000, sid=SID, packets=count),
            slot(SECOND // 100),
            b"",
        )
        for part in parts:
            talk.give(talk.server.answer(part))
        last = octets + bytes(-len(octets) % 16) + bytes(16)
        tracemalloc.start()
        try:
            talk.give(last, 65_536)
            (event,) = talk.events()
            assert tracemalloc.get_traced_memory()[1] < 2.5 * len(octets)
        finally:
            tracemalloc.stop()
        assert isinstance(event, Fetched)
        assert event.session.records == octets
