"""Sessions of 1,000,000 packets from end to end, without sockets: exact quantiles, files, and a bound for memory.

One way: Session-Sender, Session-Receiver, the server's files, Fetch-Session through both roles, and the report. Two
ways: Session-Sender, Session-Reflector, and the report. With sockets: bench/million.py.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path

from owamp_control_peers import NTP_NOW, SECOND, SYNCHRONIZED, TO_SERVER, Hooks, OwampPair, receiver_of, sender_of

from ippm.core.owamp_events import Fetched, OwampSession, OwampSessionAccepted, Owner
from ippm.core.owamp_server import with_port
from ippm.core.schedule import FixedSchedule, Slot, SlotType
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.io.session_store import SessionFile, SessionStore, StoredFile
from ippm.metrics.statistics import EXACT_LIMIT, DelayStatistics
from ippm.report.one_way import OneWayResult
from ippm.report.result import RunResult
from ippm.timestamps import ClockState, ntp_add_ns, ntp_difference_ns

COUNT = 1_000_000
MEBIBYTES = 600
"""What one session may add to the process: some 600 octets a packet, metrics and all."""
LOST = range(5, COUNT, 1000)


def delay_ns(number: int) -> int:
    """Between 1 and 2 ms, each value about as often as the others, in no order."""
    return 1_000_000 + number * 7_919 % 1_000_003


def resident_mebibytes() -> int:
    """The most that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def check(statistics: DelayStatistics | None, delays: list[int]) -> None:
    """Every quantile is one of the values, to the nanosecond that an NTP stamp keeps."""
    assert statistics is not None
    ordered = sorted(delays)
    assert (statistics.count, statistics.relative_error_ppm) == (len(ordered), 0)
    assert abs(statistics.minimum - ordered[0]) <= 1
    assert abs(statistics.maximum - ordered[-1]) <= 1
    assert abs(statistics.p95 - ordered[-(-len(ordered) * 95 // 100) - 1]) <= 1
    assert abs(statistics.p99 - ordered[-(-len(ordered) * 99 // 100) - 1]) <= 1


@dataclass
class FileHooks(Hooks):
    """A server's surroundings with the files of a real server."""

    files: SessionStore | None = None
    sink: SessionFile | None = None

    def open_owamp_session(self, session: OwampSession, owner: Owner) -> int:
        assert self.files is not None
        self.opened.append(with_port(session, 18761))
        self.sink = self.files.create(self.opened[-1], owner)
        return 18761

    def fetch(self, sid: bytes, owner: Owner) -> StoredFile:  # type: ignore[override]
        assert self.files is not None
        return self.files.open(sid, owner)


def test_one_way(tmp_path: Path) -> None:
    before = resident_mebibytes()
    hooks = FileHooks(files=SessionStore(tmp_path, octets=1 << 30, open_octets=1 << 30))
    pair = OwampPair(hooks=hooks).set_up()
    slots = (Slot(SlotType.FIXED, (1 << 32) // 100_000),)
    pair.client.request_session(replace(TO_SERVER, count=COUNT, slots=slots), pair.now)
    pair.run()
    (session,) = (event.session for event in pair.client_events() if isinstance(event, OwampSessionAccepted))
    pair.client.start_sessions(pair.now)
    pair.run()
    pair.client_events()
    sender, receiver, sink = sender_of(session), receiver_of(hooks.opened[0]), hooks.sink
    assert sink is not None
    start, offset = session.request.start_time, sender.plan.schedule.offset
    for number in range(COUNT):
        sent = start + offset(number)
        sender.prepare()
        data = sender.pack(sent, SYNCHRONIZED)
        sender.was_sent()
        if number not in LOST:
            assert receiver.handle(data, 250, ntp_add_ns(sent, delay_ns(number)))
        if number % 4096 == 0:
            sink.write(receiver.take_records())
    pair.client.stop_sessions([sender.description()], pair.now)
    pair.server.session_complete(session.sid, None, pair.now)
    pair.run()
    result = receiver.finish(sender.description(), ntp_add_ns(NTP_NOW, 100 * SECOND))
    sink.write(receiver.take_records())
    for records in receiver.lost_records(result):
        sink.write(records)
    sink.finish(result)
    pair.server.session_ended(session.sid)
    pair.client_events()

    pair.to_client = b""
    pair.client.fetch_session(session.sid, pair.now)
    for octets in (pair.client.data_to_send(),):
        pair.server.receive_data(octets, pair.now)
    while some := pair.server.data_to_send():
        pair.client.receive_data(some, pair.now)
    (fetched,) = pair.client_events()
    assert isinstance(fetched, Fetched)
    report = OneWayResult.of(fetched.session, "to", "open")
    assert (report.sent, report.lost, report.duplicates) == (COUNT, len(LOST), 0)
    check(report.delay, [delay_ns(number) for number in range(COUNT) if number not in LOST])
    assert report.to_dict()["delay"]["quantile_error_ppm"] == 0
    assert resident_mebibytes() - before < MEBIBYTES


def test_two_ways() -> None:
    before = resident_mebibytes()
    ends = {"local": ("192.0.2.1", 18700), "remote": ("192.0.2.2", 18761)}
    plan = SenderPlan(bytes(16), 1, None, **ends, count=COUNT, schedule=FixedSchedule(10_000))  # type: ignore[arg-type]
    sender = SessionSender(plan)
    now = NTP_NOW
    reflector = SessionReflector(
        ReflectorPlan(bytes(16), 1, None, ends["remote"], ends["local"]),
        lambda: ntp_add_ns(now, 500_000),
        SYNCHRONIZED,
    )
    reflector.start(0)
    for number in range(COUNT):
        now = ntp_add_ns(NTP_NOW, number * 10_000)
        packet = sender.pack(number, now, SYNCHRONIZED)
        if number in LOST:
            continue
        reply = reflector.handle(packet, 255, ntp_add_ns(now, 400_000), ends["local"])
        assert reply is not None
        assert sender.handle_reply(reply, 255, ntp_add_ns(now, delay_ns(number)))
    report = RunResult.of(plan, sender.records, ClockState(True, 1000, "test"))
    assert (report.sent, report.lost, report.duplicates) == (COUNT, len(LOST), 0)
    # 0.1 ms of it are the reflector's own time.
    check(report.round_trip, [delay_ns(number) - 100_000 for number in range(COUNT) if number not in LOST])
    assert report.to_dict()["delay"]["quantile_error_ppm"] == 0
    assert resident_mebibytes() - before < MEBIBYTES


def test_beyond_a_million_a_histogram_is_made_and_its_error_stated() -> None:
    exact = DelayStatistics.of(range(EXACT_LIMIT))
    rough = DelayStatistics.of(range(EXACT_LIMIT + 1))
    assert exact is not None
    assert rough is not None
    assert (exact.relative_error_ppm, exact.p99) == (0, 989_999)
    assert 0 < rough.relative_error_ppm < 1000
    assert abs(rough.median - 500_000) <= 500_000 * rough.relative_error_ppm / 1_000_000
    assert (rough.minimum, rough.maximum, rough.count) == (0, EXACT_LIMIT, EXACT_LIMIT + 1)
    assert ntp_difference_ns(ntp_add_ns(NTP_NOW, delay_ns(1)), NTP_NOW) == delay_ns(1)
