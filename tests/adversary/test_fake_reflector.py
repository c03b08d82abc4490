"""A reflector and a one-way sender that break each rule in turn, at our clients over loopback, in every mode.

What is no reply, or no packet, of the session is counted by name and changes nothing: the session beside it in the same
socket is whole at its end. RFC 5357 section 4.1, RFC 4656 section 4.2.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from adversary_peers import LOCAL, NAMES, OWAMP_MODES, TWAMP_MODES, provider, udp
from decoder.fake_peer import (
    SECOND,
    FakeServer,
    Keys,
    Wire,
    accept_session,
    description,
    fetch_ack,
    reflector_packet,
    request_session,
    sender_packet,
    slot,
    start_ack,
    stop_sessions,
)
from decoder.owamp_decoder import send_offsets
from decoder.twamp_decoder import decode_test

from ippm.errors import IppmError
from ippm.io.clock import now_ntp
from ippm.io.options import TwpingOptions
from ippm.io.owamp_client import OwampRun, run_owping
from ippm.io.owamp_options import OwpingOptions
from ippm.io.twamp_client import run_twping
from ippm.report.one_way import format_one_way
from ippm.report.owping_forms import (
    lines_one_way,
    lines_two_way,
    machine_one_way,
    machine_two_way,
    raw_one_way,
    raw_two_way,
)
from ippm.report.pscheduler import latency_result
from ippm.report.tables import csv_table, openmetrics
from ippm.report.text import format_result

COUNT = 20
SID = bytes.fromhex("7f000001e0000000000000005eed5eed")
SECRET = b"correct horse"
Behaviour = Callable[["FakeReflector", dict[str, Any], int], list[bytes]]


class FakeReflector:
    """Answers each packet with what its behaviour makes of it; numbers its own replies."""

    def __init__(self, mode: int, keys: Keys | None, behaviour: Behaviour) -> None:
        self.mode = mode
        self.keys = keys
        self.behaviour = behaviour
        self.number = 0
        self.kept: list[bytes] = []

    def answers(self, packet: bytes) -> list[bytes]:
        fields = decode_test(packet, self.keys, "sender", self.mode)
        return self.behaviour(self, fields, now_ntp())

    def reply(self, fields: dict[str, Any], now: int, **change: Any) -> bytes:
        """The right reply, but for what is changed."""
        estimate = fields["error_estimate"]
        error = estimate["s"] << 15 | estimate["scale"] << 8 | estimate["multiplier"]
        sender = change.pop("sender", (fields["sequence_number"], fields["timestamp"], error))
        values = {"sequence": self.number, "stamp": now + (SECOND >> 20), "received": now} | change
        keys = values.pop("keys", self.keys)
        self.number += 1
        return reflector_packet(values.pop("mode", self.mode), keys, sender=sender, **values)


@contextmanager
def twamp_peer(mode: int, behaviour: Behaviour) -> Iterator[int]:
    """A TWAMP server for one session; its TCP port. What goes wrong in it is raised at the end."""

    def serve(wire: Wire) -> None:
        server = FakeServer(15, SECRET)
        wire.send(server.greeting())
        server.take_response(wire.take(164))
        wire.send(server.server_start())
        assert server.take(wire.take(112))[0] == 5
        with udp() as sock:
            wire.send(server.answer(accept_session(0, sock.getsockname()[1], SID)))
            assert server.take(wire.take(32))[0] == 2
            wire.send(server.answer(start_ack()))
            reflector = FakeReflector(mode, server.test_keys(SID), behaviour)
            while wire.sock not in select.select([sock, wire.sock], [], [], 30)[0]:
                packet, client = sock.recvfrom(65536)
                for answer in reflector.answers(packet):
                    sock.sendto(answer, client)
            assert server.take(wire.take(32))[0] == 3

    with listening(serve) as port:
        yield port


@contextmanager
def listening(serve: Callable[[Wire], None]) -> Iterator[int]:
    faults: list[BaseException] = []

    def run() -> None:
        try:
            sock, _ = listener.accept()
            wire = Wire(sock)
            try:
                serve(wire)
            finally:
                wire.close()
        except BaseException as fault:
            faults.append(fault)

    with socket.create_server((LOCAL, 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)
    if faults:
        raise faults[0]


def twping(port: int, mode: int, **options: Any) -> tuple[Any, Any]:
    """The result and the records of one run, which every form can show. It ends with the last reply, or Timeout."""
    wanted = {"count": COUNT, "interval_s": 0.001, "timeout_s": 20, "mode": NAMES[mode], "local_address": LOCAL}
    ran = asyncio.run(run_twping(TwpingOptions(LOCAL, port, **(wanted | options)), provider()))
    result = ran.result
    json.dumps(result.to_dict())
    assert format_result(result)
    assert csv_table([result])
    assert openmetrics([result])
    assert machine_two_way(result, ran.plan, ran.records, 100_000)
    assert len([*raw_two_way(ran.records), *lines_two_way(ran.records)]) > COUNT
    return result, ran.records


def right(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
    return [reflector.reply(fields, now)]


def playing_again(times: int) -> Behaviour:
    """The reply before this one so many times again, then this one."""

    def behaviour(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
        before = reflector.kept[-1:] * times
        reflector.kept.append(reflector.reply(fields, now))
        return [*before, reflector.kept[-1]]

    return behaviour


def after(*wrong: Callable[[FakeReflector, dict[str, Any], int], bytes]) -> Behaviour:
    """Each of the wrong ones, and then the right one."""

    def behaviour(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
        made = [one(reflector, fields, now) for one in wrong]
        return [*made, reflector.reply(fields, now)]

    return behaviour


def sender_fields(fields: dict[str, Any], *, number: int = 0, stamp: int = 0) -> tuple[int, int, int]:
    return fields["sequence_number"] + number & 0xFFFFFFFF, fields["timestamp"] + stamp, 0x8A20


Wrong = Callable[[FakeReflector, dict[str, Any], int], bytes]
ALL, KEYED = tuple(TWAMP_MODES), (2, 4)
WRONG: dict[str, tuple[Wrong, tuple[int, ...]]] = {
    "empty": (lambda r, f, now: b"", ALL),
    "short": (lambda r, f, now: r.reply(f, now)[: 40 if r.keys is None else 111], ALL),
    "its packet": (lambda r, f, now: sender_packet(r.mode, r.keys, f["sequence_number"], f["timestamp"]), ALL),
    "another stamp": (lambda r, f, now: r.reply(f, now, sender=sender_fields(f, stamp=1)), ALL),
    "beyond the session": (lambda r, f, now: r.reply(f, now, sender=sender_fields(f, number=1 << 31)), ALL),
    "not sent yet": (lambda r, f, now: r.reply(f, now, sender=sender_fields(f, number=COUNT)), ALL),
    "multiplier zero": (lambda r, f, now: r.reply(f, now, error=0x8000), ALL),
    "control octets": (lambda r, f, now: stop_sessions(1) + bytes(200), KEYED),
    "wrong HMAC": (lambda r, f, now: r.reply(f, now, hmac=bytes(16)), KEYED),
    "keys of another session": (lambda r, f, now: r.reply(f, now, keys=(bytes(16), bytes(32))), KEYED),
    "open mode": (lambda r, f, now: r.reply(f, now, mode=1, keys=None, padding=bytes(71)), KEYED),
    "the other keyed mode": (lambda r, f, now: r.reply(f, now, mode=6 - r.mode), KEYED),
}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, (_, modes) in WRONG.items() for mode in modes], ids=str
)
def test_what_is_no_reply_is_counted_and_the_session_is_whole(name: str, mode: int) -> None:
    with twamp_peer(mode, after(WRONG[name][0])) as port:
        result, _ = twping(port, mode)
    assert (result.sent, result.lost, result.duplicates) == (COUNT, 0, 0)
    assert sum(result.rejected.values()) == COUNT


@pytest.mark.parametrize("mode", TWAMP_MODES, ids=NAMES.get)
class TestReplies:
    def test_everything_wrong_at_once(self, mode: int) -> None:
        wrong = [make for make, modes in WRONG.values() if mode in modes]
        with twamp_peer(mode, after(*wrong)) as port:
            result, _ = twping(port, mode)
        assert (result.sent, result.lost, result.duplicates) == (COUNT, 0, 0)
        assert sum(result.rejected.values()) == COUNT * len(wrong)

    def test_long_replies_and_mbz(self, mode: int) -> None:
        def behaviour(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
            return [reflector.reply(fields, now, padding=bytes(60_000), error=0xFFFF, ttl=0)]

        with twamp_peer(mode, behaviour) as port:
            result, _ = twping(port, mode)
        assert (result.lost, result.rejected) == (0, {})

    def test_replies_that_are_played_again_are_copies(self, mode: int) -> None:
        with twamp_peer(mode, playing_again(2)) as port:
            result, _ = twping(port, mode)
        assert (result.lost, result.duplicates) == (0, 2 * (COUNT - 1))

    def test_a_flood_of_copies_is_bounded(self, mode: int) -> None:
        with twamp_peer(mode, playing_again(300)) as port:
            result, records = twping(port, mode)
        assert result.lost == 0
        assert result.duplicates == COUNT // 4 + 1000 == len(records.arrivals) - COUNT
        assert result.rejected == {"copies_beyond_room": 300 * (COUNT - 1) - result.duplicates}

    def test_replies_in_the_reverse_order(self, mode: int) -> None:
        def behaviour(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
            reflector.kept.insert(0, reflector.reply(fields, now))
            return reflector.kept if len(reflector.kept) == COUNT else []

        with twamp_peer(mode, behaviour) as port:
            result, records = twping(port, mode)
        assert (result.lost, result.reordered) == (0, COUNT - 1)
        assert list(records.arrivals) == list(range(COUNT))[::-1]

    def test_no_reply_at_all(self, mode: int) -> None:
        with twamp_peer(mode, lambda reflector, fields, now: []) as port:
            result, _ = twping(port, mode, timeout_s=0.3)
        assert (result.sent, result.lost) == (COUNT, COUNT)

    @pytest.mark.parametrize("stamp", [0, 1, 1 << 63, 0xFFFFFFFFFFFFFFFF])
    def test_absurd_stamps_of_the_reflector_are_shown_and_harm_no_form(self, mode: int, stamp: int) -> None:
        def behaviour(reflector: FakeReflector, fields: dict[str, Any], now: int) -> list[bytes]:
            return [reflector.reply(fields, now, stamp=stamp, received=stamp ^ 0xFF, sequence=0xFFFFFFFF)]

        with twamp_peer(mode, behaviour) as port:
            result, _ = twping(port, mode)
        assert result.lost == 0


# One way.


@contextmanager
def owamp_peer(
    mode: int, *, send: Callable[..., list[bytes]] | None = None, records: list[bytes] | None = None
) -> Iterator[int]:
    """An OWAMP server for one session: it sends what `send` makes, or gives `records` for what it has received."""

    def serve(wire: Wire) -> None:
        server = FakeServer(7, SECRET)
        wire.send(server.greeting())
        server.take_response(wire.take(164))
        wire.send(server.server_start())
        head = server.take(wire.take(112))
        slots = server.take(wire.take(16 * int.from_bytes(head[4:8], "big") + 16))
        sid = head[48:64] if head[2] else SID
        with udp() as sock:
            wire.send(server.answer(accept_session(0, sock.getsockname()[1], bytes(16) if head[2] else SID)))
            assert server.take(wire.take(32))[0] == 2
            wire.send(server.answer(start_ack()))
            if send is not None:
                start = int.from_bytes(head[68:76], "big")
                offsets = send_offsets([(slots[0], int.from_bytes(slots[8:16], "big"))], sid, COUNT)
                for packet in send(mode, server.test_keys(sid), [start + offset for offset in offsets]):
                    sock.sendto(packet, (LOCAL, int.from_bytes(head[14:16], "big")))
                assert server.take(wire.take(32))[0] == 3
                wire.send(server.answer(stop_sessions(1) + description(sid, COUNT)))
                return
            stop = server.take(wire.take(16 + 32 + 16))
            assert (stop[0], stop[16:32]) == (3, SID)
            wire.send(server.answer(stop_sessions(0)))
            assert server.take(wire.take(48))[0] == 4
            octets = b"".join(records or [])
            for part in (
                fetch_ack(0, next_seqno=COUNT, records=len(records or [])),
                request_session(port=9, sid=SID, packets=COUNT, start_time=int.from_bytes(head[68:76], "big")),
                slot(SECOND // 1000),
                b"",
                octets + bytes(-len(octets) % 16),
            ):
                wire.send(server.answer(part))

    with listening(serve) as port:
        yield port


def owping(port: int, mode: int, *, from_server: bool) -> OwampRun:
    """One run, which every form can show. The first packets are due at once: nobody waits for the schedule."""
    options = OwpingOptions(
        LOCAL, port, NAMES[mode], to_server=not from_server, from_server=from_server, count=COUNT, interval_s=0.0001,
        exponential=False, timeout_s=1.0, start_delay_s=0.0, local_address=LOCAL,
    )  # fmt: skip
    ran = asyncio.run(run_owping(options, provider()))
    for result in ran.results:
        json.dumps(result.to_dict())
        assert format_one_way(result)
        assert csv_table([result])
        assert openmetrics([result])
        assert machine_one_way(result, 100_000)
        json.dumps(latency_result(result, 100_000, raw=True))
        assert all(isinstance(line, str) for line in (*raw_one_way(result), *lines_one_way(result)))
    return ran


def packets(mode: int, keys: Keys | None, times: list[int], **fields: Any) -> list[bytes]:
    return [sender_packet(mode, keys, n, now_ntp(), **fields) for n in range(len(times))]


@pytest.mark.parametrize("mode", OWAMP_MODES, ids=NAMES.get)
class TestOneWay:
    def whole(self, ran: OwampRun) -> dict[str, int]:
        assert ran.errors == ()
        (result,) = ran.results
        assert (result.sent, result.lost) == (COUNT, 0)
        return result.rejected

    def test_what_is_no_packet_is_counted_and_the_session_is_whole(self, mode: int) -> None:
        def send(mode: int, keys: Keys | None, times: list[int]) -> list[bytes]:
            right = packets(mode, keys, times)
            wrong = [
                b"",
                *(right[0][:octets] for octets in (1, 13 if keys is None else 47)),
                sender_packet(mode, keys, COUNT, now_ntp()),
                sender_packet(mode, keys, 0xFFFFFFFF, now_ntp()),
                sender_packet(mode, keys, 1, now_ntp(), error=0x8000),
                sender_packet(mode, keys, 1, 0),
                sender_packet(mode, keys, 1, now_ntp() - 10 * SECOND),
                sender_packet(mode, keys, 1, now_ntp() + SECOND),
            ]
            if keys:
                wrong += [
                    sender_packet(mode, keys, 1, now_ntp(), hmac=bytes(16)),
                    sender_packet(mode, keys, 1, now_ntp(), iv=b"\1" * 16),
                    sender_packet(mode, (bytes(16), bytes(32)), 1, now_ntp()),
                    sender_packet(6 - mode, keys, 1, now_ntp()),
                    stop_sessions(1) + bytes(100),
                ]
            return [*wrong, *right]

        with owamp_peer(mode, send=send) as port:
            rejected = self.whole(owping(port, mode, from_server=True))
        assert sum(rejected.values()) == (9 if mode == 1 else 14)

    def test_long_reordered_and_replayed_packets(self, mode: int) -> None:
        def send(mode: int, keys: Keys | None, times: list[int]) -> list[bytes]:
            made = packets(mode, keys, times, padding=bytes(30_000), mbz=b"\xff" * 18)
            return made[::-1] + made[:3]

        with owamp_peer(mode, send=send) as port:
            ran = owping(port, mode, from_server=True)
        self.whole(ran)
        (result,) = ran.results
        assert (result.metrics.reordered, result.duplicates) == (COUNT - 1, 3)

    def test_no_packet_at_all(self, mode: int) -> None:
        with owamp_peer(mode, send=lambda mode, keys, times: []) as port:
            ran = owping(port, mode, from_server=True)
        assert ran.errors == ()

    def test_fetched_records_that_make_no_sense_harm_no_form(self, mode: int) -> None:
        stamps = (0, 1, 1 << 63, (1 << 64) - 1, 0xE000000000000000)
        made = []
        for n, (sent, got) in enumerate((sent, got) for sent in stamps for got in stamps):
            errors, times = bytes([0, n, 255, 0]), sent.to_bytes(8, "big") + got.to_bytes(8, "big")
            made.append((n % COUNT).to_bytes(4, "big") + errors + times + bytes([n]))
        with owamp_peer(mode, records=made) as port:
            ran = owping(port, mode, from_server=False)
        assert ran.errors == ()
        assert ran.to_server is not None
        assert ran.to_server.records == b"".join(made)


def test_a_server_that_is_none_is_an_error_in_one_line() -> None:
    for octets in (
        b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(100),
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9,
        b"\xff" * 500,
    ):

        def serve(wire: Wire, octets: bytes = octets) -> None:
            wire.send(octets)
            wire.half_close()
            wire.rest()

        with listening(serve) as port, pytest.raises(IppmError) as raised:
            asyncio.run(run_twping(TwpingOptions(LOCAL, port, mode="encrypted"), provider()))
        assert "\n" not in str(raised.value)
