"""An OWAMP client that breaks each rule in turn, at our server over loopback, in every mode.

To each breach the right Accept value or a clean end; a session of somebody else beside it is whole afterwards, and
nothing is raised in the server. RFC 4656 sections 3, 4 and 6.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from adversary_peers import (
    NAMES,
    OTHER_SECRET,
    OWAMP_MODES,
    SECRET,
    HealthyOwamp,
    OwampSession,
    ServerThread,
    connected,
    owamp_server,
    serving,
    set_up,
    short_buffers,
    udp,
)
from decoder.fake_peer import (
    CLIENT_IV,
    SECOND,
    FakeClient,
    description,
    fetch_session,
    is_keyed,
    n_sessions,
    request_session,
    request_tw_session,
    sender_packet,
    set_up_response,
    slot,
    start_sessions,
    stop_sessions,
)
from decoder.owamp_decoder import decode_test
from decoder.twamp_decoder import hmac_sha1_128

from ippm.iana import Mode
from ippm.io.clock import now_ntp

KEYED_MODES = [mode for mode in OWAMP_MODES if is_keyed(mode)]
every_mode = pytest.mark.parametrize("mode", OWAMP_MODES, ids=NAMES.get)
keyed_mode = pytest.mark.parametrize("mode", KEYED_MODES, ids=NAMES.get)
MILLISECOND = SECOND // 1000
SID = bytes.fromhex("7f000001e0000000000000005eed5eed")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with serving(owamp_server()) as thread:
        yield thread


@pytest.fixture(autouse=True)
def beside(request: pytest.FixtureRequest) -> Iterator[None]:
    """A session of somebody else on the same server, before and after."""
    if "server" not in request.fixturenames:
        yield
        return
    thread = request.getfixturevalue("server")
    healthy = HealthyOwamp(thread)
    yield
    healthy.whole()
    thread.nothing_is_left()


def request(**fields: object) -> bytes:
    return request_session(**({"port": 9, "start_time": now_ntp()} | fields))  # type: ignore[arg-type]


def accept_of(client: FakeClient, slots: list[bytes] | None = None, **fields: object) -> int:
    """The answer to a Request-Session; when it is a refusal all else in it is zero."""
    made = [slot(MILLISECOND)] if slots is None else slots
    client.request(request(**({"slots": len(made)} | fields)), b"".join(made))
    answer = client.accept_session()
    if answer["accept"]:
        assert (answer["port"], answer["sid"]) == (0, bytes(16))
    return int(answer["accept"])


class TestSetUp:
    @pytest.mark.parametrize(
        ("offered", "chosen"), [(one, other) for one in OWAMP_MODES for other in (1, 2, 4, 8) if one != other]
    )
    def test_a_mode_that_was_not_offered_gets_accept_3_or_the_end(self, offered: int, chosen: int) -> None:
        with serving(owamp_server(modes=Mode(offered))) as thread:
            healthy = HealthyOwamp(thread, offered)
            client = connected(thread, chosen)
            assert client.greeting["modes"] == offered
            if chosen == 8:  # there is no such mode in OWAMP: what is left of the field is zero
                client.send(client.response())
            else:
                assert client.set_up() == 3
            assert client.ended()
            healthy.whole()

    @pytest.mark.parametrize("modes", [3, 5, 6, 7])
    def test_several_modes_at_once_get_accept_3(self, server: ServerThread, modes: int) -> None:
        client = connected(server, modes)
        assert client.set_up() == 3
        assert client.ended()

    @keyed_mode
    def test_a_wrong_secret_a_strange_key_id_and_a_foreign_challenge_get_accept_1(
        self, server: ServerThread, mode: int
    ) -> None:
        for client in (connected(server, mode, secret=b"wrong"), connected(server, mode, key_id=b"mallory")):
            assert client.set_up() == 1
            assert client.ended()
        client = connected(server, mode)
        assert client.set_up(client.response(token=client.token(challenge=b"x" * 16))) == 1
        assert client.ended()

    def test_mode_zero_ends_it_without_an_answer(self, server: ServerThread) -> None:
        client = connected(server, 1)
        client.send(set_up_response(0))
        assert client.ended()


class TestCommands:
    @every_mode
    def test_every_length_that_is_too_short_ends_without_a_session(self, server: ServerThread, mode: int) -> None:
        for octets in (1, 15, 16, 95, 96, 111, 112, 127, 128, 143):
            client = set_up(server, mode)
            whole = client.sealer.message(request()) + client.sealer.message(slot(MILLISECOND))
            client.send(whole[:octets])
            client.half_close()
            assert client.ended()

    @every_mode
    def test_what_follows_a_whole_request_is_no_command(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        octets = client.sealer.message(request()) + client.sealer.message(slot(MILLISECOND))
        client.send(octets + client.sealer.blocks(bytes(16)))
        assert client.accept_session()["accept"] == 0
        assert client.accept_session()["accept"] == 3
        assert client.ended()

    @keyed_mode
    def test_reordered_blocks_and_wrong_hmacs_open_nothing(self, server: ServerThread, mode: int) -> None:
        for at in (16, 48, 80, 96, 112):
            client = set_up(server, mode)
            octets = client.sealer.message(request()) + client.sealer.message(slot(MILLISECOND))
            client.send(octets[:at] + octets[at + 16 : at + 32] + octets[at : at + 16] + octets[at + 32 :])
            client.half_close()
            assert client.ended()
        for part in (0, 1):
            client = set_up(server, mode)
            wrong = [None, None]
            wrong[part] = b"\x01" * 16  # type: ignore[call-overload]
            client.send(client.sealer.message(request(), wrong[0]) + client.sealer.message(slot(1), wrong[1]))
            assert client.ended()

    @keyed_mode
    def test_the_slots_of_another_request_do_not_fit(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        first = client.sealer.message(request()), client.sealer.message(slot(MILLISECOND))
        client.send(first[0] + first[1])
        assert client.accept_session()["accept"] == 0
        client.send(client.sealer.message(request()) + first[1])
        assert client.ended()

    @keyed_mode
    def test_a_stream_under_another_iv_opens_nothing(self, server: ServerThread, mode: int) -> None:
        for at in (1, 4, 15):  # the Command Number stays what it is
            client = connected(server, mode)
            other = bytearray(CLIENT_IV)
            other[at] ^= 1
            assert client.set_up(sealed_with=bytes(other)) == 0
            client.request(request(), slot(MILLISECOND))
            client.half_close()
            client.rest()
            assert client.sealer.keys is not None
        server.until(lambda: server.server.sessions == 1)

    @every_mode
    def test_what_must_be_zero_and_is_not_is_ignored(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        slots = [slot(0, mbz=b"\xff" * 7)] * 3 + [slot(4 * SECOND)]
        session = OwampSession(client, 3, unused=15, last=b"\xff" * 8, slots=slots, sid=b"\xff" * 16)
        client.command(start_sessions(mbz=b"\xff" * 15))
        assert client.start_ack() == 0
        session.send(0, 1, 2)
        client.command(stop_sessions(1, mbz=b"\xff" * 10) + session.description)
        assert client.stop_of_server() == []
        client.command(fetch_session(session.sid, mbz=b"\xff" * 7))
        fetched = client.fetched()
        assert isinstance(fetched, dict)
        assert fetched["numbers"] == [0, 1, 2]
        client.close()

    @keyed_mode
    @pytest.mark.parametrize("blocks", [1, 2, 9])
    def test_a_replayed_block_or_command_ends_the_connection(
        self, server: ServerThread, mode: int, blocks: int
    ) -> None:
        client = set_up(server, mode)
        octets = client.sealer.message(request()) + client.sealer.message(slot(MILLISECOND))
        client.send(octets)
        assert client.accept_session()["accept"] == 0
        client.send(octets[-16 * blocks :])
        client.half_close()
        client.rest()
        server.until(lambda: server.server.sessions == 1)

    @every_mode
    @pytest.mark.parametrize("command", [0, 5, 6, 7, 8, 10, 99, 255])
    def test_an_unknown_command_gets_accept_3_and_the_end(
        self, server: ServerThread, mode: int, command: int
    ) -> None:
        client = set_up(server, mode)
        octets = request_tw_session(sender_port=9) if command == 5 else n_sessions(command, [SID])
        client.command(octets)
        assert client.accept_session()["accept"] == 3
        assert client.ended()

    @every_mode
    def test_what_cannot_be_served_is_never_answered_with_silence(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        hour = 3600 * SECOND
        for wrong, accept in (
            ({"ipvn": 0}, 3),
            ({"ipvn": 6}, 3),
            ({"conf": (0, 0)}, 3),
            ({"conf": (1, 1)}, 3),
            ({"sender_port": 0}, 3),
            ({"packets": 0}, 3),
            ({"packets": 0xFFFFFFFF}, 4),
            ({"padding": 0xFFFFFFFF}, 3),
            ({"timeout": 0xFFFFFFFFFFFFFFFF}, 4),
            ({"start_time": now_ntp() + 48 * hour}, 3),
            ({"start_time": now_ntp() - hour}, 3),
            ({"start_time": 0}, 3),
            ({"sender_address": bytes([192, 0, 2, 1])}, 3),
            ({"receiver_address": bytes([192, 0, 2, 1])}, 3),
            ({"conf": (1, 0), "type_p": 0xFFFFFFFF, "receiver_port": 9}, 3),
            ({"conf": (1, 0)}, 3),
        ):
            assert accept_of(client, **wrong) == accept, wrong
        assert accept_of(client, []) == 3
        assert accept_of(client, [slot(SECOND, kind=2)]) == 3
        assert accept_of(client) == 0
        client.close()

    @every_mode
    @pytest.mark.parametrize("server_sends", [False, True])
    def test_an_absurd_rate_gets_accept_4(self, server: ServerThread, mode: int, server_sends: bool) -> None:
        client = set_up(server, mode)
        who = {"server_sends": server_sends, "sid": SID}
        for slots in ([slot(0)], [slot(1)], [slot(0, kind=0)], [slot(1 << 12, kind=0)], [slot(0), slot(1)]):
            assert accept_of(client, slots, packets=100_000, **who) == 4
        assert accept_of(client, [slot(0xFFFFFFFFFFFFFFFF)], packets=1000, **who) == 4
        assert accept_of(client, [slot(SECOND >> 10)], packets=2, padding=65_000, **who) == 4
        client.close()

    @every_mode
    @pytest.mark.parametrize(("slots", "limit"), [(0x10001, 2_000_000), (0xFFFFFFFF, 2_000_000)])
    def test_an_absurd_number_of_slots_gets_accept_4_before_it_is_read(
        self, server: ServerThread, mode: int, slots: int, limit: int
    ) -> None:
        client = set_up(server, mode)
        tracemalloc.start()
        try:
            client.command(request(slots=slots))
            assert client.accept_session()["accept"] == 4
            assert client.ended()
            assert tracemalloc.get_traced_memory()[1] < limit
        finally:
            tracemalloc.stop()

    @every_mode
    @pytest.mark.parametrize(
        "stop", ["none", "strange", "twice", "beyond", "overlap", "many ranges", "many sessions"]
    )
    def test_a_stop_that_does_not_account_for_the_session_ends_the_connection(
        self, server: ServerThread, mode: int, stop: str
    ) -> None:
        client = set_up(server, mode)
        session = OwampSession(client).start()
        session.send(0, 1)
        octets = {
            "none": stop_sessions(0),
            "strange": stop_sessions(1) + description(SID, 2),
            "twice": stop_sessions(2) + 2 * description(session.sid, 2),
            "beyond": stop_sessions(1) + description(session.sid, 5, [(4, 9)]),
            "overlap": stop_sessions(1) + description(session.sid, 9, [(4, 6), (6, 7)]),
            "many ranges": stop_sessions(1) + description(session.sid, 9, count=0xFFFFFFFF),
            "many sessions": stop_sessions(0xFFFFFFFF),
        }[stop]
        client.command(octets)
        assert client.ended()

    @every_mode
    def test_a_connection_has_a_limit_of_sessions(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        for _ in range(16):
            assert accept_of(client) == 0
        assert accept_of(client) == 5
        client.close()


class TestSids:
    @every_mode
    def test_a_sid_that_is_in_use_gets_accept_3(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        ours = OwampSession(client)
        other = set_up(server, mode)
        with udp() as sock:
            wish = {"server_sends": True, "port": sock.getsockname()[1], "sender_port": 0}
            assert accept_of(client, **(wish | {"sid": SID, "receiver_port": wish["port"]})) == 0
            for who in (client, other):
                for sid in (SID, ours.sid):
                    assert accept_of(who, **(wish | {"sid": sid, "receiver_port": wish["port"]})) == 3
        client.close()

    @every_mode
    def test_the_data_of_others_is_not_fetched(self, server: ServerThread, mode: int) -> None:
        mine = OwampSession(set_up(server, mode), 5).start()
        mine.send(0, 1, 2, 3, 4)
        mine.stop()
        server.until(lambda: server.server.sessions == 1)
        for other in OWAMP_MODES:
            for key_id, secret in ((b"alice", SECRET), (b"bob", OTHER_SECRET)):
                if other == mode and (key_id == b"alice" or mode == 1):
                    continue
                client = set_up(server, other, key_id=key_id, secret=secret)
                for sid in (mine.sid, SID, bytes(16)):
                    client.command(fetch_session(sid))
                    assert client.fetched() == 1
        assert mine.numbers() == [0, 1, 2, 3, 4]

    @every_mode
    def test_partial_ranges(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        session = OwampSession(client, 9).start()
        session.send(0, 1, 2, 5, 4, 5, 8)
        session.stop()
        server.until(lambda: server.server.sessions == 1)
        for begin, end, numbers in (
            (0, 0, [0]),
            (2, 5, [2, 5, 4, 5, 3]),
            (6, 7, [6, 7]),
            (8, 0xFFFFFFFF, [8]),
            (9, 20, []),
            (0xFFFFFFFF, 0xFFFFFFFF, []),
        ):
            client.command(fetch_session(session.sid, begin, end))
            fetched = client.fetched()
            assert isinstance(fetched, dict)
            assert (fetched["numbers"], fetched["next_seqno"]) == (numbers, 10)
        client.command(fetch_session(session.sid, 5, 4))
        assert client.fetched() == 3
        client.close()


class TestTestPackets:
    """What is no packet of the session leaves no record, and the session goes on to its end."""

    def whole(self, session: OwampSession, *, again: tuple[int, ...] = ()) -> None:
        """Its other packets come; then the records are there, each packet once but those of `again`."""
        session.send(*range(10))
        session.stop()
        assert sorted(session.numbers()) == sorted([*range(10), *again])

    @every_mode
    def test_short_and_empty_datagrams(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        for octets in range(14 if session.keys is None else 48):
            session.sock.sendto(session.packet(1)[:octets], session.remote)
        self.whole(session)

    @every_mode
    def test_a_long_one_counts_once(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        session.sock.sendto(session.packet(3, padding=bytes(65_000)), session.remote)
        self.whole(session, again=(3,))

    @every_mode
    def test_one_packet_beyond_the_session_or_with_multiplier_zero_ends_nothing(
        self, server: ServerThread, mode: int
    ) -> None:
        session = OwampSession(set_up(server, mode)).start()
        for sequence in (11, 12, 1 << 31, 0xFFFFFFFF):
            session.sock.sendto(session.packet(sequence), session.remote)
        for error in (0, 0x8000, 0x3F00):
            session.sock.sendto(session.packet(1, error=error), session.remote)
        self.whole(session)

    @every_mode
    def test_packets_of_another_time(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        start, minute = session.start_time, 60 * SECOND
        for stamp in (0, 1, 0xFFFFFFFFFFFFFFFF, start, start - minute, start + 31 * SECOND, start + minute):
            session.sock.sendto(session.packet(1, stamp=stamp), session.remote)
        self.whole(session)

    @every_mode
    def test_control_octets_are_no_test_packet(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        session = OwampSession(client).start()
        clear = [request(), start_sessions(), stop_sessions(1), fetch_session(SID)]
        for octets in clear:
            session.sock.sendto(octets + bytes(16), session.remote)
        if session.keys:
            # What is sealed here never goes out by TCP: the stream of the connection is another.
            other = set_up(server, mode)
            for octets in clear:
                session.sock.sendto(other.sealer.message(octets), session.remote)
            session.sock.sendto(client.response(), session.remote)
        self.whole(session)

    @every_mode
    def test_packets_of_one_session_are_nothing_in_another(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        one, two = OwampSession(client), OwampSession(client)
        client.command(start_sessions())
        assert client.start_ack() == 0
        one.sock.sendto(two.packet(1), two.remote)
        if one.keys:
            two.sock.sendto(one.packet(1), two.remote)
        for session in (one, two):
            session.send(*range(10))
        client.command(stop_sessions(2) + one.description + two.description)
        assert client.stop_of_server() == []
        assert one.numbers() == two.numbers() == list(range(10))

    @keyed_mode
    def test_wrong_hmac_wrong_iv_and_wrong_keys(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        assert session.client.keys is not None
        assert hmac_sha1_128(session.client.keys[1], b"") != bytes(16)
        for packet in (
            session.packet(1, hmac=bytes(16)),
            session.packet(1, iv=b"\1" + bytes(15)),
            sender_packet(mode, session.client.keys, 1, now_ntp()),
            sender_packet(6 - mode, session.keys, 1, now_ntp()),
            sender_packet(1, None, 1, now_ntp(), padding=bytes(34)),
        ):
            session.sock.sendto(packet, session.remote)
        self.whole(session)

    @every_mode
    def test_replayed_reordered_and_with_mbz(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        packet = session.packet(7, mbz=b"\xff" * 18)
        for _ in range(3):
            session.sock.sendto(packet, session.remote)
        self.whole(session, again=(7, 7, 7))

    @every_mode
    def test_a_stranger_is_not_recorded(self, server: ServerThread, mode: int) -> None:
        session = OwampSession(set_up(server, mode)).start()
        with udp() as stranger:
            stranger.sendto(session.packet(1), session.remote)
        self.whole(session)

    @every_mode
    def test_what_a_server_sends_is_not_steered_by_what_is_sent_to_it(
        self, server: ServerThread, mode: int
    ) -> None:
        client = set_up(server, mode)
        with udp() as sock:
            port = sock.getsockname()[1]
            head = request_session(
                server_sends=True, port=port, sid=SID, packets=20, start_time=now_ntp(), timeout=SECOND // 10
            )
            client.request(head, slot(2 * MILLISECOND))
            answer = client.accept_session()
            assert (answer["accept"], answer["sid"]) == (0, bytes(16))
            client.command(start_sessions())
            assert client.start_ack() == 0
            keys = client.test_keys(SID)
            numbers = []
            for n in range(20):
                data, where = sock.recvfrom(2048)
                numbers.append(decode_test(data, keys, mode)["seq"])
                sock.sendto(data, where)
                sock.sendto(bytes(n), where)
        assert numbers == list(range(20))
        assert client.stop_of_server() == [(SID, 20, 0)]
        client.command(stop_sessions(0))
        assert accept_of(client) == 0


class TestTcp:
    @every_mode
    @pytest.mark.parametrize("how", ["half_close", "close", "reset"])
    @pytest.mark.parametrize("when", ["greeted", "within a command", "requested", "active", "stopped"])
    def test_a_connection_that_ends_anywhere_takes_its_sessions_with_it(
        self, server: ServerThread, mode: int, how: str, when: str
    ) -> None:
        client = connected(server, mode)
        if when != "greeted":
            assert client.set_up() == 0
        if when == "within a command":
            client.send(client.sealer.message(request()) + client.sealer.blocks(b""))
        elif when != "greeted":
            session = OwampSession(client)
            if when != "requested":
                session.start().send(0, 1, 2)
            if when == "stopped":
                session.stop()
        getattr(client, how)()
        if how == "half_close":
            assert client.ended()
            client.close()
        server.until(lambda: server.server.connections == 1 and server.server.sessions == 1)

    @every_mode
    def test_a_slow_writer_is_served_octet_by_octet(self, server: ServerThread, mode: int) -> None:
        client = connected(server, mode)
        for octet in client.response():
            client.send(bytes([octet]))
        assert client.server_start() == 0
        for octet in client.sealer.message(request()) + client.sealer.message(slot(MILLISECOND)):
            client.send(bytes([octet]))
        assert client.accept_session()["accept"] == 0

    @every_mode
    def test_a_writer_that_never_ends_a_message_is_left(self, mode: int) -> None:
        with serving(owamp_server(servwait_s=0.2, setup_wait_s=0.2)) as thread:
            healthy = HealthyOwamp(thread)
            client = connected(thread, mode)
            client.send(client.response()[:100])
            assert client.ended()
            client = set_up(thread, mode)
            client.send(
                client.sealer.message(request(slots=0x10000)) + client.sealer.blocks(slot(MILLISECOND) * 100)
            )
            assert client.ended()
            healthy.whole()

    @every_mode
    def test_a_reader_that_never_reads_costs_no_memory_and_holds_up_nobody(self, mode: int) -> None:
        """It asks for the same records again and again, and takes none."""
        with serving(owamp_server(mark_callback=short_buffers)) as thread:
            healthy = HealthyOwamp(thread)
            client = FakeClient(thread.address, mode, SECRET, b"alice", buffers=4096)
            thread.clients.append(client)
            assert client.set_up() == 0
            session = OwampSession(client, 20_000, slots=[slot(4 * SECOND // 20_000)]).start()
            session.stop()
            thread.until(lambda: thread.server.sessions == 1)
            commands = b"".join(client.sealer.message(fetch_session(session.sid)) for _ in range(3000))
            tracemalloc.start()
            try:
                sent = client.send_until_stuck(commands)
                assert tracemalloc.get_traced_memory()[1] < 3_000_000
            finally:
                tracemalloc.stop()
            assert sent < len(commands) // 2
            healthy.whole()
            client.reset()
            thread.until(lambda: thread.server.connections == 0)
