"""Whole conversations drawn at random, every message sealed as it must be, against a model that says the right answer.

The servers of both protocols in every mode: whatever a client sends in whatever state gets the answer of the tables in
RFC 4656 section 3 and RFC 5357 section 3, in whatever pieces it comes. The clients: whatever a server answers in
whatever state is taken, or ends the connection with an error. Nothing is raised, and what waits is bounded.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from adversary_peers import OWAMP_MODES, SECRET, TWAMP_MODES
from decoder.fake_peer import (
    CLIENT_IV,
    SECOND,
    Opener,
    Sealer,
    accept_session,
    description,
    fetch_ack,
    fetch_session,
    is_keyed,
    n_sessions,
    request_session,
    request_tw_session,
    set_up_response,
    slot,
    start_ack,
    start_sessions,
    stop_sessions,
)
from decoder.twamp_decoder import SESSION_CONTROL, cbc_encrypt, decode_greeting, derive_token_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ippm_control_peers import CLIENT, SERVER, CountedEntropy
from ippm_control_peers import Hooks as TwampHooks
from owamp_control_peers import NTP_NOW
from owamp_control_peers import Hooks as OwampHooks
from test_fake_server import Talk, fetched, record

from ippm.core.control_events import ConnectionClosed
from ippm.core.owamp_policy import OwampServerConfig
from ippm.core.owamp_server import OwampServer
from ippm.core.server import ControlServer
from ippm.core.server_connection import ServerState
from ippm.core.server_policy import ControlServerConfig
from ippm.crypto import PassphraseProvider
from ippm.errors import IppmError, LocalProtocolError
from ippm.wire.stop_descriptions import SessionDescription

KEYS = bytes(range(16)), bytes(range(32))
SID = bytes(range(16))
MOST_WAITING = 200


@dataclass
class Conversation:
    """A server role, and a client that seals by hand. `expect` is the answers that are due; `closed` what must be."""

    mode: int
    server: Any
    pieces: int
    expected: list[bytes | str] = field(default_factory=list)
    closed: bool = False
    now: float = 0.0

    def __post_init__(self) -> None:
        greeting = decode_greeting(self.server.data_to_send())
        keyed = is_keyed(self.mode)
        response = set_up_response(self.mode)
        if keyed:
            key = derive_token_key(SECRET, greeting["salt"], greeting["count"])
            token = cbc_encrypt(key, bytes(16), greeting["challenge"] + KEYS[0] + KEYS[1])
            response = set_up_response(self.mode, b"alice", token, CLIENT_IV)
        self.give(response)
        start = self.server.data_to_send()
        assert start[15] == 0
        self.sealer = Sealer(KEYS if keyed else None, CLIENT_IV)
        self.opener = Opener(KEYS if keyed else None, start[16:32])
        if keyed:
            self.opener.blocks(start[32:48])

    def give(self, octets: bytes) -> None:
        size = max(1, len(octets) // self.pieces)
        for at in range(0, len(octets), size):
            self.server.receive_data(octets[at : at + size], self.now)
            assert len(self.server._inbox) <= MOST_WAITING or self.server.closed
        while self.server.next_event() is not None:
            pass

    def say(self, *parts: bytes) -> None:
        self.give(b"".join(self.sealer.message(part) for part in parts))

    def answer(self) -> bytes:
        """What the server says, all of it; each message's HMAC verifies in `take`."""
        octets = b""
        while some := self.server.data_to_send():
            octets += some
        return octets

    def take(self, octets: bytes, count: int) -> tuple[bytes, bytes]:
        """A message of so many octets, and what follows it."""
        clear = self.opener.blocks(octets[:count])
        self.opener.check(octets[count : count + 16])
        return clear, octets[count + 16 :]

    def accepts(self, count: int, *values: int) -> None:
        """One message for each value: its Accept, and nothing after it."""
        octets = self.answer()
        for value in values:
            clear, octets = self.take(octets, count)
            assert clear[0] == value
        assert octets == b""


BAD_TW = [
    ({"ipvn": 6}, 3), ({"conf": (0, 1)}, 3), ({"slots": 1}, 3), ({"sender_port": 0}, 3), ({"type_p": 1 << 31}, 3),
    ({"padding": 1 << 31}, 3), ({"timeout": 1 << 63}, 4), ({"sender_address": b"\xc0\x00\x02\x63"}, 3),
]  # fmt: skip
# Most steps keep the connection: with more that end it, no conversation would be long enough.
TWAMP_STEPS = st.sampled_from(
    12 * ["request", "start", "stop", "ended"]
    + ["owamp request", "fetch", "n", "expired", "timer", "wrong stop", 0, 6, 8, 10, 77, 255, *BAD_TW]
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    mode=st.sampled_from(TWAMP_MODES),
    steps=st.lists(TWAMP_STEPS, min_size=10, max_size=30),
    pieces=st.integers(1, 40),
)
def test_a_twamp_server_gives_the_right_answer_in_every_state(mode: int, steps: list[Any], pieces: int) -> None:
    hooks = TwampHooks()
    server = ControlServer(
        ControlServerConfig(count=1024), PassphraseProvider({"alice": SECRET}), hooks, CountedEntropy("server"),
        local=SERVER, remote=CLIENT, now=0.0,
    )  # fmt: skip
    talk = Conversation(mode, server, pieces)
    requested: list[bytes] = []
    started: list[bytes] = []
    over: list[bytes] = []
    live = 0
    for step in steps:
        active = bool(started)
        if step == "request":
            talk.say(request_tw_session(sender_port=9))
            full = live >= 16
            talk.accepts(32, 3 if active else 5 if full else 0)
            if not active and not full:
                requested.append(hooks.opened[-1].sid)
                live += 1
        elif isinstance(step, tuple):
            talk.say(request_tw_session(**({"sender_port": 9} | step[0])))
            talk.accepts(32, 3 if active else step[1])
        elif step == "start":
            talk.say(start_sessions())
            talk.accepts(16, 3 if active else 0 if requested else 1)
            if not active:
                started, requested = requested, []
        elif step == "stop":
            talk.say(stop_sessions(len(started)))
            assert talk.answer() == b""
            over += started
            started = []
        elif step == "owamp request":
            talk.say(request_session(port=9), slot(SECOND))
            talk.accepts(32, 3)
        elif step == "fetch":
            talk.say(fetch_session(SID))
            talk.accepts(32, 3)
        elif step == "n":
            talk.say(n_sessions(7, requested or [SID]))
            talk.accepts(32, 3)
        elif step == "ended" and over:
            server.session_ended(over.pop())
            live -= 1
        elif step == "expired" and started:
            server.session_expired(started[0], talk.now)
        elif step == "timer":
            talk.now += 1.0
            server.handle_timer(talk.now)
        elif step == "wrong stop" or (isinstance(step, int) and step not in (1, 2, 3, 4, 5, 7, 9)):
            talk.say(stop_sessions(len(started) + 1) if step == "wrong stop" else bytes([step]) + bytes(111))
            if step == "wrong stop":
                assert talk.answer() == b""
            else:
                talk.accepts(32, 3)
            assert server.closed
            break
        assert not server.closed
        assert server.state is (ServerState.ACTIVE if started else ServerState.READY)
    talk.say(start_sessions())
    server.receive_eof(talk.now)
    assert server.closed
    assert server.next_timer() is None


BAD_OW = [
    ({"ipvn": 6}, 3), ({"conf": (1, 1)}, 3), ({"conf": (0, 0)}, 3), ({"packets": 0}, 3), ({"packets": 1 << 31}, 4),
    ({"padding": 1 << 31}, 3), ({"timeout": 1 << 63}, 4), ({"start_time": 0}, 3), ({"sender_port": 0}, 3),
    ({"receiver_address": b"\xc0\x00\x02\x63"}, 3),
]  # fmt: skip
OWAMP_STEPS = st.sampled_from(
    12 * ["to", "from", "start", "stop", "complete", "fetch"]
    + ["strange fetch", "kind", "rate", "wrong stop", 0, 5, 6, 7, 77, 255, *BAD_OW]
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    mode=st.sampled_from(OWAMP_MODES),
    steps=st.lists(OWAMP_STEPS, min_size=10, max_size=30),
    pieces=st.integers(1, 40),
)
def test_an_owamp_server_gives_the_right_answer_in_every_state(mode: int, steps: list[Any], pieces: int) -> None:
    hooks = OwampHooks()
    server = OwampServer(
        OwampServerConfig(count=1024), PassphraseProvider({"alice": SECRET}), hooks, CountedEntropy("server"),
        local=SERVER, remote=CLIENT, now=0.0,
    )  # fmt: skip
    talk = Conversation(mode, server, pieces)
    requested: dict[bytes, bool] = {}
    started: dict[bytes, bool] = {}
    complete: set[bytes] = set()
    done: list[bytes] = []
    sent = got = False
    number = live = 0

    def ask(slots: bytes = slot(SECOND // 10), **fields: Any) -> None:
        right = {"port": 9, "start_time": NTP_NOW + SECOND, "timeout": SECOND}
        talk.say(request_session(**(right | fields)), slots)

    for step in steps:
        active = bool(started)
        if step in ("to", "from"):
            sends = step == "from"
            number += 1
            sid = number.to_bytes(16, "big")
            ask(server_sends=sends, sid=sid)
            value = 3 if active else 5 if live >= 16 else 0
            octets, rest = talk.take(talk.answer(), 32)
            assert (octets[0], rest) == (value, b"")
            if value == 0:
                requested[sid if sends else octets[4:20]] = sends
                live += 1
        elif isinstance(step, tuple):
            ask(**step[0])
            talk.accepts(32, 3 if active else step[1])
        elif step == "kind":
            ask(slot(SECOND, kind=9))
            talk.accepts(32, 3)
        elif step == "rate":
            ask(slot(1), packets=1000)
            talk.accepts(32, 3 if active else 4)
        elif step == "start":
            talk.say(start_sessions())
            talk.accepts(16, 3 if active else 0 if requested else 1)
            if not active and requested:
                started, requested, sent, got = requested, {}, False, False
        elif step in ("fetch", "strange fetch"):
            known = step == "fetch" and bool(done)
            talk.say(fetch_session(done[0] if known else SID, 0, 100))
            octets, rest = talk.take(talk.answer(), 16)
            assert octets[0] == (3 if active else 0 if known else 1)
            assert (len(rest) > 0) is (known and not active)
            if rest:
                for count in (96, 16, 0, 0):
                    _, rest = talk.take(rest, count)
                assert rest == b""
        elif step == "complete":
            waiting = [sid for sid in started if sid not in complete]
            if not waiting or sent:
                continue
            complete.add(waiting[0])

            server.session_complete(
                waiting[0], SessionDescription(waiting[0], 10) if started[waiting[0]] else None, talk.now
            )
            if complete >= set(started):
                sent = True
                ours = sorted(sid for sid, sends in started.items() if sends)
                octets, rest = talk.take(talk.answer(), 16 + 32 * len(ours))
                assert (octets[0], int.from_bytes(octets[4:8], "big"), rest) == (3, len(ours), b"")
                assert sorted(octets[at : at + 16] for at in range(16, len(octets), 32)) == ours
        elif step == "stop":
            theirs = [sid for sid, sends in started.items() if not sends]
            talk.say(stop_sessions(len(theirs)) + b"".join(description(sid, 10) for sid in theirs))
            assert talk.answer() == b""
            if got and active:
                assert server.closed
                break
            got = active
        elif step == "wrong stop" or (isinstance(step, int) and step not in (1, 2, 3, 4)):
            talk.say(stop_sessions(1) + description(SID, 1) if step == "wrong stop" else bytes([step]) + bytes(111))
            if step == "wrong stop":
                assert talk.answer() == b""
            else:
                talk.accepts(32, 3)
            assert server.closed
            break
        if sent and got:
            for sid in started:
                server.session_ended(sid)
                live -= 1
            done += [sid for sid, sends in started.items() if not sends]
            started, complete, sent, got = {}, set(), False, False
            while server.next_event() is not None:
                pass
        assert not server.closed
        assert server.state is (ServerState.ACTIVE if started else ServerState.READY)
    talk.say(start_sessions())
    server.receive_eof(talk.now)
    assert server.closed
    assert server.next_timer() is None


ANSWERS = [
    accept_session(0, 9001, SID), accept_session(0, 9001, SID[::-1]), accept_session(0, 0, SID), accept_session(3),
    accept_session(255, 1, SID), start_ack(0), start_ack(1), stop_sessions(0), stop_sessions(1) + description(SID, 3),
    stop_sessions(0xFFFFFFFF), fetch_ack(1), fetch_ack(0, records=3), fetch_ack(0, records=0xFFFFFFFF), b"",
    request_session(port=9, sid=SID), slot(SECOND), bytes(32), b"\xff" * 48, n_sessions(8, [SID]),
    n_sessions(10, [SID]), n_sessions(8, [], 0xFFFFFFFF),
]  # fmt: skip
CLIENT_STEPS = st.one_of(
    st.sampled_from(["request", "start", "stop", "fetch", "timer"]),
    st.sampled_from(ANSWERS),
    st.binary(max_size=80).map(lambda octets: octets + bytes(-len(octets) % 16)),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    protocol=st.sampled_from(["twamp", "owamp"]),
    mode=st.sampled_from(TWAMP_MODES),
    individual=st.booleans(),
    steps=st.lists(CLIENT_STEPS, max_size=20),
    whole=st.booleans(),
)
def test_a_client_takes_what_a_server_says_or_ends_with_an_error(
    protocol: str, mode: int, individual: bool, steps: list[Any], whole: bool
) -> None:
    if protocol == "owamp" and mode == 8:
        mode = 4
    features = SESSION_CONTROL if individual and protocol == "twamp" else 0
    talk = Talk(protocol, mode, features=features).set_up()
    client, events = talk.client, []
    for step in steps:
        if isinstance(step, str):
            # What our own user may not do now is our user's mistake, and changes nothing.
            with contextlib.suppress(LocalProtocolError):
                if step == "request":
                    talk.ask(server_sends=whole)
                elif step == "start":
                    client.start_sessions(1000.0)
                elif step == "stop" and protocol == "twamp":
                    client.stop_sessions(1000.0)
                elif step == "stop":
                    client.stop_sessions([], 1000.0)
                elif step == "fetch" and protocol == "owamp":
                    client.fetch_session(SID, 1000.0)
                elif step == "timer":
                    client.handle_timer(1001.0)
            client.data_to_send()
        else:
            talk.give(talk.server.answer(step) if whole or not step else talk.server.sealer.blocks(step))
        events += talk.events()
        assert len(client._inbox) < 4096 or client.closed
    closings = [event for event in events if isinstance(event, ConnectionClosed)]
    assert len(closings) == int(client.closed)
    assert all(isinstance(event.error, IppmError) for event in closings)
    if client.closed:
        assert client.next_timer() is None
        assert client.data_to_send() == b""


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(OWAMP_MODES),
    numbers=st.lists(st.integers(0, 40), max_size=30),
    begin=st.integers(0, 30),
    end=st.integers(0, 40),
    spoil=st.sampled_from([None, 0, 1, 2, 3, 4]),
)
def test_what_is_fetched_is_of_the_range_or_an_error(
    mode: int, numbers: list[int], begin: int, end: int, spoil: int | None
) -> None:
    talk = Talk("owamp", mode).set_up().fetching(begin, end)
    fetched(talk, [record(n) for n in numbers], sid=bytes.fromhex("c0000202e0000000000000005eed5eed"), spoil=spoil)
    (event,) = talk.events()
    right = all(begin <= n <= min(end, 19) for n in numbers)
    broken = spoil is not None and mode != 1
    assert isinstance(event, ConnectionClosed) is (broken or not right)
