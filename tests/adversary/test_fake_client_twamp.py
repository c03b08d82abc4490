"""A TWAMP client that breaks each rule in turn, at our server over loopback, in every mode.

To each breach the right Accept value or a clean end; a session of somebody else beside it is whole afterwards, and
nothing is raised in the server. RFC 5357 section 3, RFC 4656 sections 3 and 6, RFC 5938 section 3.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from adversary_peers import (
    NAMES,
    SECRET,
    TWAMP_MODES,
    HealthyTwamp,
    ServerThread,
    TwampSession,
    connected,
    serving,
    set_up,
    short_buffers,
    twamp_server,
    udp,
)
from decoder.fake_peer import (
    CLIENT_IV,
    FakeClient,
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
from decoder.twamp_decoder import OPEN, SESSION_CONTROL, hmac_sha1_128

from ippm.iana import Mode
from ippm.io.clock import now_ntp

KEYED_MODES = [mode for mode in TWAMP_MODES if is_keyed(mode)]
every_mode = pytest.mark.parametrize("mode", TWAMP_MODES, ids=NAMES.get)
keyed_mode = pytest.mark.parametrize("mode", KEYED_MODES, ids=NAMES.get)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with serving(twamp_server()) as thread:
        yield thread


@pytest.fixture(autouse=True)
def beside(request: pytest.FixtureRequest) -> Iterator[None]:
    """A session of somebody else on the same server, before and after."""
    if "server" not in request.fixturenames:
        yield
        return
    thread = request.getfixturevalue("server")
    healthy = HealthyTwamp(thread)
    yield
    healthy.whole()
    thread.nothing_is_left()


def request(**fields: object) -> bytes:
    return request_tw_session(**({"sender_port": 9} | fields))  # type: ignore[arg-type]


class TestSetUp:
    @pytest.mark.parametrize(
        ("offered", "chosen"), [(one, other) for one in TWAMP_MODES for other in TWAMP_MODES if one != other]
    )
    def test_a_mode_that_was_not_offered_gets_accept_3(self, offered: int, chosen: int) -> None:
        with serving(twamp_server(modes=Mode(offered))) as thread:
            healthy = HealthyTwamp(thread, offered)
            client = connected(thread, chosen)
            assert client.greeting["modes"] & 15 == offered
            assert client.set_up() == 3
            assert client.ended()
            healthy.whole()

    @pytest.mark.parametrize("modes", [3, 5, 6, 7, 10, 12, 15])
    def test_several_modes_at_once_get_accept_3(self, server: ServerThread, modes: int) -> None:
        client = connected(server, modes)
        assert client.set_up() == 3
        assert client.ended()

    def test_bit_7_that_was_not_offered_gets_accept_3(self, server: ServerThread) -> None:
        client = connected(server, 4 | 128)
        assert client.greeting["modes"] & 128 == 0
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

    @keyed_mode
    def test_a_whole_connection_played_again_gets_accept_1_and_nothing_else(
        self, server: ServerThread, mode: int
    ) -> None:
        first = connected(server, mode)
        response = first.response()
        assert first.set_up(response) == 0
        command = first.command(request())
        assert first.accept_session()["accept"] == 0
        first.close()
        again = connected(server, mode)
        again.send(response + command)
        assert again.server_start() == 1
        assert again.ended()

    @every_mode
    def test_half_a_response_and_the_end(self, server: ServerThread, mode: int) -> None:
        client = connected(server, mode)
        client.send(client.response()[:-1])
        client.half_close()
        assert client.ended()

    def test_mode_zero_ends_it_without_an_answer(self, server: ServerThread) -> None:
        client = connected(server, 1)
        client.send(set_up_response(0))
        assert client.ended()


class TestCommands:
    @every_mode
    def test_every_length_that_is_too_short_ends_without_a_session(self, server: ServerThread, mode: int) -> None:
        for octets in (1, 15, 16, 17, 95, 96, 111):
            client = set_up(server, mode)
            client.send(client.sealer.message(request())[:octets])
            client.half_close()
            assert client.ended()

    @every_mode
    def test_a_message_that_is_too_long_is_answered_and_its_rest_is_no_command(
        self, server: ServerThread, mode: int
    ) -> None:
        client = set_up(server, mode)
        client.send(client.sealer.message(request()) + client.sealer.blocks(bytes(16)))
        assert client.accept_session()["accept"] == 0
        assert client.accept_session()["accept"] == 3
        assert client.ended()

    @keyed_mode
    def test_reordered_blocks_open_nothing(self, server: ServerThread, mode: int) -> None:
        for at in range(0, 96, 16):
            client = set_up(server, mode)
            octets = client.sealer.message(request())
            swapped = octets[:at] + octets[at + 16 : at + 32] + octets[at : at + 16] + octets[at + 32 :]
            client.send(swapped)
            client.half_close()
            assert_no_session(client)

    @every_mode
    def test_messages_out_of_order_are_refused_and_the_connection_stays(
        self, server: ServerThread, mode: int
    ) -> None:
        client = set_up(server, mode)
        client.command(start_sessions())
        assert client.start_ack() != 0
        session = TwampSession(client).start()
        client.command(request())
        assert client.accept_session()["accept"] == 3
        client.command(start_sessions())
        assert client.start_ack() == 3
        session.ping(2)
        session.close()
        client.close()

    @keyed_mode
    def test_a_wrong_hmac_opens_nothing(self, server: ServerThread, mode: int) -> None:
        for bit in (0, 7, 127):
            client = set_up(server, mode)
            right = hmac_sha1_128(client.keys[1], request()) if client.keys else b""
            wrong = (int.from_bytes(right, "big") ^ 1 << bit).to_bytes(16, "big")
            client.send(client.sealer.message(request(), wrong))
            assert client.ended()

    def test_in_open_mode_the_hmac_means_nothing(self, server: ServerThread) -> None:
        client = set_up(server, OPEN)
        client.command(request(), b"\xff" * 16)
        assert client.accept_session()["accept"] == 0
        client.close()

    @keyed_mode
    def test_a_stream_under_another_iv_opens_nothing(self, server: ServerThread, mode: int) -> None:
        for at in (0, 1, 4, 15):
            client = connected(server, mode)
            other = bytearray(CLIENT_IV)
            other[at] ^= 1
            assert client.set_up(sealed_with=bytes(other)) == 0
            client.command(request())
            client.half_close()
            assert_no_session(client)

    @every_mode
    def test_what_must_be_zero_and_is_not_is_ignored(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        session = TwampSession(client, unused=15, last=b"\xff" * 8)
        client.command(start_sessions(mbz=b"\xff" * 15))
        assert client.start_ack() == 0
        session.ping(2)
        client.command(stop_sessions(1, mbz=b"\xff" * 10))
        session.close()
        client.half_close()
        assert client.ended()

    @keyed_mode
    @pytest.mark.parametrize("blocks", [1, 7])
    def test_a_replayed_block_or_command_ends_the_connection(
        self, server: ServerThread, mode: int, blocks: int
    ) -> None:
        client = set_up(server, mode)
        octets = client.command(request())
        assert client.accept_session()["accept"] == 0
        client.send(octets[-16 * blocks :])
        client.half_close()
        assert_no_session(client)

    @every_mode
    @pytest.mark.parametrize("command", [0, 6, 8, 10, 11, 99, 255])
    def test_an_unknown_command_gets_accept_3_and_the_end(
        self, server: ServerThread, mode: int, command: int
    ) -> None:
        client = set_up(server, mode)
        client.command(request(command=command))
        assert client.accept_session()["accept"] == 3
        assert client.ended()

    @every_mode
    def test_what_cannot_be_served_is_never_answered_with_silence(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        for wrong, accept in (
            ({"ipvn": 0}, 3),
            ({"ipvn": 15}, 3),
            ({"ipvn": 6}, 3),
            ({"conf": (1, 0)}, 3),
            ({"conf": (0, 255)}, 3),
            ({"slots": 0xFFFFFFFF}, 3),
            ({"sender_port": 0}, 3),
            ({"type_p": 0xFFFFFFFF}, 3),
            ({"padding": 0xFFFFFFFF}, 3),
            ({"timeout": 0xFFFFFFFFFFFFFFFF}, 4),
            ({"sender_address": bytes([192, 0, 2, 1])}, 3),
            ({"receiver_address": bytes([192, 0, 2, 1])}, 3),
        ):
            client.command(request(**wrong))
            answer = client.accept_session()
            assert (answer["accept"], answer["port"], answer["sid"]) == (accept, 0, bytes(16)), wrong
        TwampSession(client, packets=0xFFFFFFFF).close()
        client.close()

    @every_mode
    def test_a_command_of_owamp_gets_accept_3_and_an_absurd_number_of_slots_is_not_read(
        self, server: ServerThread, mode: int
    ) -> None:
        client = set_up(server, mode)
        client.request(request_session(port=9, slots=1), slot(1 << 20))
        assert client.accept_session()["accept"] == 3
        tracemalloc.start()
        try:
            client.send(client.sealer.blocks(request_session(port=9, slots=0xFFFFFFFF)))
            assert client.accept_session()["accept"] == 3
            assert client.ended()
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()

    @every_mode
    @pytest.mark.parametrize("number", [0, 2, 0xFFFFFFFF])
    def test_a_stop_for_another_number_of_sessions_ends_it(
        self, server: ServerThread, mode: int, number: int
    ) -> None:
        client = set_up(server, mode)
        session = TwampSession(client).start()
        client.command(stop_sessions(number))
        assert client.ended()
        session.close()

    @every_mode
    def test_a_connection_has_a_limit_of_sessions(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        for _ in range(16):
            client.command(request())
            assert client.accept_session()["accept"] == 0
        client.command(request())
        assert client.accept_session()["accept"] == 5
        client.close()


class TestSids:
    @every_mode
    def test_the_sid_of_a_request_is_ignored_so_none_is_used_twice(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        first = TwampSession(client)
        second = TwampSession(client, sid=first.sid)
        assert second.sid != first.sid
        client.command(start_sessions())
        assert client.start_ack() == 0
        first.ping(2)
        second.ping(2)
        client.close()

    @every_mode
    def test_sids_of_somebody_else_are_neither_started_nor_stopped(self, server: ServerThread, mode: int) -> None:
        theirs = TwampSession(set_up(server, mode | SESSION_CONTROL))
        client = set_up(server, mode | SESSION_CONTROL)
        mine = TwampSession(client)
        for start, ack in ((7, 8), (9, 10)):
            client.command(n_sessions(start, [theirs.sid, mine.sid, mine.sid]))
            done, refused = client.n_ack(), client.n_ack()
            assert (done["command"], done["accept"], done["sids"]) == (ack, 0, [mine.sid])
            assert (refused["command"], refused["accept"]) == (ack, 1)
            assert refused["sids"] == [theirs.sid, mine.sid]
        theirs.client.command(n_sessions(7, [theirs.sid]))
        assert theirs.client.n_ack()["accept"] == 0
        theirs.ping(2)
        theirs.client.close()
        client.close()

    @every_mode
    @pytest.mark.parametrize("count", [4097, 0xFFFFFFFF])
    def test_an_absurd_number_of_sids_is_not_read(self, server: ServerThread, mode: int, count: int) -> None:
        client = set_up(server, mode | SESSION_CONTROL)
        client.send(client.sealer.blocks(n_sessions(7, [], count)))
        assert client.accept_session()["accept"] == 4
        assert client.ended()


class TestTestPackets:
    """What is no packet of the session is not answered, and the session goes on."""

    @every_mode
    def test_short_and_empty_datagrams_are_not_reflected(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        session.ping(2)
        session.sock.sendto(session.packet(7, padding=b"secret" * 20), session.remote)
        assert b"secret" in session.sock.recv(2048)
        for octets in range(14 if session.keys is None else 48):
            session.sock.sendto(session.packet(1)[:octets], session.remote)
        assert session.silent()
        session.ping(2)
        session.client.close()

    @every_mode
    def test_a_long_one_comes_back_with_its_own_octets_alone(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        for octets in (8000, 0, 65000, 3):
            packet = session.packet(5, padding=bytes([octets % 251]) * octets)
            session.sock.sendto(packet, session.remote)
            reply = session.sock.recv(65536)
            assert len(reply) == max(len(packet), 41 if session.keys is None else 112)
            assert set(session.read(reply)["padding"]) <= {octets % 251}
        session.client.close()

    @every_mode
    def test_multiplier_zero_is_not_answered(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        for error in (0, 0x8000, 0x3F00):
            session.sock.sendto(session.packet(1, error=error), session.remote)
        assert session.silent()
        session.ping(2)
        session.client.close()

    @every_mode
    def test_control_octets_are_no_test_packet(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        session = TwampSession(client).start()
        octets = [start_sessions() + bytes(16), stop_sessions(1) + bytes(16)]
        if session.keys:
            sealed = [client.sealer.message(clear) for clear in (start_sessions(), stop_sessions(1), request())]
            octets += [*sealed, b"".join(sealed), request() + bytes(16), client.response()]
        for one in octets:
            session.sock.sendto(one, session.remote)
        assert session.silent()
        session.ping(2)
        client.close()

    @every_mode
    def test_packets_of_one_session_are_nothing_in_another(self, server: ServerThread, mode: int) -> None:
        client = set_up(server, mode)
        one, two = TwampSession(client), TwampSession(client)
        client.command(start_sessions())
        assert client.start_ack() == 0
        if one.keys:
            two.sock.sendto(one.packet(1), two.remote)
            assert two.silent()
        one.sock.sendto(two.packet(1), two.remote)
        two.ping(2)
        one.ping(2)
        client.close()

    @pytest.mark.parametrize("mode", [2, 4], ids=NAMES.get)
    def test_wrong_hmac_wrong_iv_and_wrong_keys(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        control = (session.client.keys or (b"", b""))[0], (session.client.keys or (b"", b""))[1]
        for packet in (
            session.packet(1, hmac=bytes(16)),
            session.packet(1, iv=b"\1" + bytes(15)),
            sender_packet(mode, control, 1, now_ntp()),
            sender_packet(6 - mode, session.keys, 1, now_ntp()),
            sender_packet(1, None, 1, now_ntp(), padding=bytes(34)),
        ):
            session.sock.sendto(packet, session.remote)
        assert session.silent()
        session.ping(2)
        session.client.close()

    @every_mode
    def test_wrong_mbz_is_ignored(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        session.sock.sendto(session.packet(3, mbz=b"\xff" * 18, error=0xFFFF), session.remote)
        reply = session.read(session.sock.recv(2048))
        assert reply["sender_sequence_number"] == 3
        assert not any(reply["mbz"])
        session.client.close()

    @every_mode
    def test_packets_replayed_and_out_of_order_are_answered_each_with_a_number_of_its_own(
        self, server: ServerThread, mode: int
    ) -> None:
        session = TwampSession(set_up(server, mode)).start()
        packets = [session.packet(n) for n in range(4)]
        for n in (3, 1, 1, 0xFFFFFFFF, 0):
            packet = packets[n] if n < 4 else session.packet(n)
            session.sock.sendto(packet, session.remote)
        replies = [session.read(session.sock.recv(2048)) for _ in range(5)]
        assert [reply["sender_sequence_number"] for reply in replies] == [3, 1, 1, 0xFFFFFFFF, 0]
        assert [reply["sequence_number"] for reply in replies] == list(range(5))
        session.client.close()

    @every_mode
    def test_a_stranger_gets_nothing(self, server: ServerThread, mode: int) -> None:
        session = TwampSession(set_up(server, mode)).start()
        with udp() as stranger:
            stranger.sendto(session.packet(1), session.remote)
            session.ping(2)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(2048)
        session.client.close()

    @every_mode
    def test_before_the_start_and_after_the_timeout_nothing_is_answered(
        self, server: ServerThread, mode: int
    ) -> None:
        client = set_up(server, mode)
        session = TwampSession(client, timeout=1)
        session.sock.sendto(session.packet(1), session.remote)
        server.until(lambda: server.counters(session.sid).get("not_started") == 1)
        session.start()
        session.ping(2)
        client.command(stop_sessions(1))
        server.until(lambda: server.server.sessions == 1)
        session.sock.sendto(session.packet(9), session.remote)
        session.sock.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionRefusedError)):
            session.sock.recv(2048)
        client.close()


class TestTcp:
    @every_mode
    @pytest.mark.parametrize("how", ["half_close", "close", "reset"])
    @pytest.mark.parametrize(
        "when", ["greeted", "within a response", "ready", "within a command", "requested", "active"]
    )
    def test_a_connection_that_ends_anywhere_takes_its_sessions_with_it(
        self, server: ServerThread, mode: int, how: str, when: str
    ) -> None:
        client = connected(server, mode)
        if when == "within a response":
            client.send(client.response()[:50])
        elif when != "greeted":
            assert client.set_up() == 0
        session = None
        if when == "within a command":
            client.send(client.sealer.message(request())[:40])
        elif when in ("requested", "active"):
            session = TwampSession(client, timeout=1 << 39)
        if session and when == "active":
            session.start()
            session.ping(1)
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
        for octet in client.sealer.message(request()):
            client.send(bytes([octet]))
        assert client.accept_session()["accept"] == 0
        client.close()

    @every_mode
    def test_a_writer_that_never_ends_a_message_is_left(self, mode: int) -> None:
        with serving(twamp_server(servwait_s=0.2, setup_wait_s=0.2)) as thread:
            healthy = HealthyTwamp(thread)
            client = connected(thread, mode)
            client.send(client.response()[:100])
            assert client.ended()
            client = set_up(thread, mode)
            client.send(client.sealer.message(request())[:100])
            assert client.ended()
            healthy.session.ping(3)

    @every_mode
    def test_a_reader_that_never_reads_is_not_read_either(self, mode: int) -> None:
        """Back-pressure: what it sends fills the kernel's buffers, not our memory."""
        with serving(twamp_server(mark_callback=short_buffers)) as thread:
            healthy = HealthyTwamp(thread)
            client = FakeClient(thread.address, mode, SECRET, b"alice", buffers=4096)
            assert client.set_up() == 0
            commands = b"".join(client.sealer.message(start_sessions()) for _ in range(4000))
            assert client.send_until_stuck(commands) < len(commands) // 2
            healthy.whole()
            client.reset()
            thread.until(lambda: thread.server.connections == 0)

    def test_one_address_cannot_take_every_connection(self) -> None:
        with serving(twamp_server(connections_per_address=3)) as thread:
            healthy = HealthyTwamp(thread)
            taken = [connected(thread, 1) for _ in range(2)]
            late = FakeClient(thread.address, 1)
            assert late.greeting["modes"] == 0
            assert late.ended()
            healthy.session.ping(3)
            for client in taken:
                client.close()


def assert_no_session(client: FakeClient) -> None:
    """The connection ends; before that there may be a refusal, never an acceptance."""
    octets = client.rest()
    if octets:
        client.opener.covered, clear = b"", client.opener.covered + client.opener._decrypt(octets)
        assert clear[16 if client.keys and len(clear) > 48 else 0] != 0
