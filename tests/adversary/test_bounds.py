"""What a client may cost a server: memory, disk and the turns of others, whatever it asks for.

RFC 4656 section 6.5.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest
from adversary_peers import (
    LOCAL,
    HealthyOwamp,
    OwampSession,
    ServerThread,
    owamp_server,
    serving,
    set_up,
    udp,
)
from decoder.fake_peer import (
    SECOND,
    FakeClient,
    description,
    fetch_session,
    request_session,
    slot,
    start_sessions,
    stop_sessions,
)

from ippm.core.one_way_sender import OneWayPlan
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_schedule import SessionSchedule
from ippm.io.clock import now_ntp
from ippm.io.one_way_loop import OneWayLoop, SenderEnding
from ippm.io.session_store import of_range
from ippm.io.test_socket import open_test_socket

MOST_SLOTS = 1 << 16
LONG = b"".join(slot(SECOND // 1000 + n % 7) for n in range(MOST_SLOTS))
SHORT = slot(SECOND // 1000)


def ask(client: FakeClient, slots: bytes, packets: int = 10, **fields: int) -> tuple[int, bytes]:
    """Accept and SID of a Request-Session that starts now."""
    times = {"start_time": now_ntp(), "timeout": 4 * SECOND} | fields
    client.request(request_session(slots=len(slots) // 16, port=9, packets=packets, **times), slots)
    answer = client.accept_session()
    return answer["accept"], answer["sid"]


def whole_session(client: FakeClient, slots: bytes, packets: int, skips: list[tuple[int, int]]) -> bytes:
    """From request to both Stop-Sessions, without a packet."""
    accept, sid = ask(client, slots, packets)
    assert accept == 0
    client.command(start_sessions())
    assert client.start_ack() == 0
    client.command(stop_sessions(1) + description(sid, packets, skips))
    assert client.stop_of_server() == []
    return sid


def settled(thread: ServerThread) -> int:
    """Octets of memory in use once no session is left, and no cycle that only waits for its collection."""
    thread.until(lambda: thread.server.sessions == 0)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class TestMemory:
    @pytest.mark.req("rfc4656-s6.5-01")
    @pytest.mark.parametrize("mode", [1, 4])
    def test_all_schedules_together_have_a_limit_and_a_short_one_is_always_taken(self, mode: int) -> None:
        options = {"schedule_slots": 3 * MOST_SLOTS, "open_schedule_slots": 3 * MOST_SLOTS}
        with serving(owamp_server(**options)) as thread:
            first, second = set_up(thread, mode), set_up(thread, mode)
            # The seal of the fake peer is slow: in encrypted mode smaller schedules, and as many more.
            slots = LONG if mode == 1 else LONG[: len(LONG) // 8]
            sessions = 3 * MOST_SLOTS * 16 // len(slots)
            for n in range(sessions):
                assert ask((first, second)[n % 2], slots)[0] == 0
            for client in (first, second):
                assert ask(client, slots)[0] == 5
                assert ask(client, SHORT)[0] == 0
            first.close()
            thread.until(lambda: thread.server.sessions == sessions // 2 + 1)
            assert ask(second, slots)[0] == 0

    def test_an_ended_session_leaves_next_to_nothing_in_memory_however_long_its_schedule_was(self) -> None:
        with serving(owamp_server()) as thread:
            client = set_up(thread, 1)
            tracemalloc.start()
            try:
                whole_session(client, LONG, 10, [])
                before = settled(thread)
                sids = [whole_session(client, LONG, 10, []) for _ in range(3)]
                assert settled(thread) - before < 1_000_000
            finally:
                tracemalloc.stop()
            client.command(fetch_session(sids[0]))
            assert isinstance(client.fetched(), dict)

    def test_an_ended_session_leaves_next_to_nothing_in_memory_however_many_its_skip_ranges_are(self) -> None:
        with serving(owamp_server()) as thread:
            client = set_up(thread, 1)
            skips = [(n, n) for n in range(0, 60_000, 2)]
            tracemalloc.start()
            try:
                whole_session(client, SHORT, 60_000, skips)
                before = settled(thread)
                sids = [whole_session(client, SHORT, 60_000, skips) for _ in range(3)]
                assert settled(thread) - before < 1_000_000
            finally:
                tracemalloc.stop()
            client.command(fetch_session(sids[0], 1, 1))
            fetched = client.fetched()
            assert isinstance(fetched, dict)
            assert fetched["skips"] == 30_000

    def test_skip_ranges_have_a_limit_for_all_sessions_of_a_stop_together(self) -> None:
        with serving(owamp_server()) as thread:
            client = set_up(thread, 1)
            slots, packets = slot(SECOND // 100_000), 600_000
            sids = [ask(client, slots, packets)[1] for _ in range(2)]
            client.command(start_sessions())
            assert client.start_ack() == 0
            most = [(2 * n, 2 * n) for n in range(1 << 18)]
            octets = stop_sessions(2) + description(sids[0], packets, most)
            client.send(octets + description(sids[1], packets, count=1))
            assert client.ended()


class TestDisk:
    @pytest.mark.req("rfc4656-s6.5-01", "rfc4656-s3.3-01")
    def test_many_sessions_without_a_record_take_room_too(self) -> None:
        with serving(owamp_server(open_disk_octets=120_000)) as thread:
            client = set_up(thread, 1)
            made = 0
            while True:
                accept, sid = ask(client, SHORT, 1)
                if accept:
                    break
                client.command(start_sessions())
                assert client.start_ack() == 0
                client.command(stop_sessions(1) + description(sid, 0))
                assert client.stop_of_server() == []
                thread.until(lambda: thread.server.sessions == 0)
                made += 1
            # One in progress takes 25 octets for each of 1,001 records and its description: eight blocks of 4,096.
            assert (accept, made) == (5, (120_000 - 8 * 4096) // 8192 + 1)

    @pytest.mark.parametrize("mode", [1, 4])
    def test_one_packet_played_again_and_again_neither_fills_the_disk_nor_ends_the_session(self, mode: int) -> None:
        with serving(owamp_server()) as thread:
            session = OwampSession(set_up(thread, mode)).start()
            packet = session.packet(3)
            for n in range(3000):
                session.sock.sendto(packet, session.remote)
                if n % 500 == 499:
                    # The next is in the file: those before have been read.
                    session.send(n // 500)
                    thread.until(lambda n=n: recorded(thread, session.sid, n // 500))  # type: ignore[misc]
            session.send(*range(6, 10))
            session.stop()
            numbers = session.numbers()
            # 11 packets: room for 1,002 copies. Packet 3 is a copy, too, when its turn comes.
            assert numbers.count(3) == 1 + 1002
            assert sorted(set(numbers)) == list(range(10))


def recorded(thread: ServerThread, sid: bytes, number: int) -> bool:
    directory = thread.server.directory  # type: ignore[union-attr]
    records = (directory / f"{sid.hex()}.records").read_bytes()
    return bool(of_range(records[: len(records) // 25 * 25], number, number))


class TestTurns:
    def test_a_client_that_asks_without_end_does_not_hold_up_the_others(self) -> None:
        """Others are served between any two of its answers."""
        with serving(owamp_server()) as thread:
            client = set_up(thread, 1)
            sid = whole_session(client, slot(SECOND // 200_000), 100_000, [(0, 99_999)])
            thread.until(lambda: thread.server.sessions == 0)
            path = thread.server.directory / f"{sid.hex()}.records"  # type: ignore[union-attr]
            path.write_bytes(b"".join(n.to_bytes(4, "big") + bytes(21) for n in range(100_000)))
            fetches = 80
            client.send(b"".join(client.sealer.message(fetch_session(sid, 5, 6)) for _ in range(fetches)))
            client.fetched()
            healthy = HealthyOwamp(thread)
            healthy.whole()
            client.sock.setblocking(False)
            octets = b""
            try:
                while some := client.sock.recv(1 << 20):
                    octets += some
            except BlockingIOError:
                pass
            answer = 32 + 112 + 32 + 16 + 80  # Fetch-Ack, Request-Session, its slot, no Skip Ranges, two records
            assert len(octets) < (fetches - 1) * answer
            client.reset()

    def test_a_sender_that_is_far_behind_its_schedule_does_not_hold_up_the_others(self) -> None:
        """A session whose million packets are all due at once, beside one of five packets."""
        ended: dict[bytes, SenderEnding] = {}
        done = threading.Event()

        def on_ended(sid: bytes, ending: SenderEnding) -> None:
            ended[sid] = ending
            if sid == b"h" * 16:
                done.set()

        loop = OneWayLoop(on_ended)
        with udp() as target:
            remote = (LOCAL, target.getsockname()[1])

            def plan(sid: bytes, count: int, start_time: int, timeout_ns: int) -> OneWayPlan:
                schedule = SessionSchedule((Slot(SlotType.FIXED, 1000),), sid, count)
                return OneWayPlan(sid, 1, None, remote, schedule, start_time, timeout_ns)

            greedy = plan(b"g" * 16, 3_000_000, now_ntp() - SECOND, 900_000_000_000)
            loop.add_session(greedy, open_test_socket(LOCAL))
            loop.start(greedy.sid)
            sequence = int.from_bytes(target.recv(2048)[:4], "big")
            healthy = plan(b"h" * 16, 5, now_ntp() + SECOND // 1000, 1_000_000)
            loop.add_session(healthy, open_test_socket(LOCAL))
            loop.start(healthy.sid)
            assert done.wait(60)
            loop.close()
        assert sequence >= 0
        assert ended[healthy.sid].session.next_seqno == 5
        assert ended[greedy.sid].session.next_seqno < 3_000_000


def test_the_records_of_a_range() -> None:
    records = b"".join(n.to_bytes(4, "big") + bytes([n]) * 21 for n in (3, 1, 2, 2, 9, 0))
    for begin in range(11):
        for end in range(11):
            expected = [n for n in (3, 1, 2, 2, 9, 0) if begin <= n <= end]
            assert list(of_range(records, begin, end)[4::25]) == expected
    assert of_range(b"", 0, 9) == b""
