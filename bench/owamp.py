"""Costs of OWAMP-Test: whole one-way sessions, each packet paced and stamped on its own, against a bare pair.

    python bench/owamp.py [--seconds 1] [--rounds 3] [--rates 1000 20000 50000 100000] [--modes open ...] [--json]

Sender and receiver are processes of their own; the receiver keeps the records in memory, as a client does. CPU is user
and system time of all threads for each packet that was sent or received. Rounds of ours and of the bare pair (it
sends, it receives) alternate. A packet is sent however late it is, up to TIMEOUT_NS. Where perfSONAR's
owping is on the PATH, it measures to our server in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from measure_lab import (
    HOST,
    KEYS,
    MODES,
    SID,
    Peer,
    bare_sender,
    cpu_s,
    machine,
    run_perfsonar,
    sink,
)

from ippm.core.one_way_sender import OneWayPlan
from ippm.core.session_receiver import ReceiverPlan
from ippm.core.session_schedule import SessionSchedule
from ippm.io.clock import now_ntp
from ippm.io.one_way_loop import OneWayLoop, SenderEnding
from ippm.io.owamp_options import OwampServerOptions
from ippm.io.owamp_server import OwampServer
from ippm.io.pacing import frozen_heap
from ippm.io.receiver_loop import ReceiverLoop
from ippm.io.test_socket import open_test_socket
from ippm.metrics.packet_age import packet_ages, sent_times
from ippm.metrics.statistics import DelayStatistics
from ippm.timestamps import fixed_point_from_ns, ntp_add_ns, ntp_difference_ns
from ippm.wire.packet_record import RECORD
from ippm.wire.schedule_slot import Slot, SlotType
from ippm.wire.stop_descriptions import SessionDescription

Row = dict[str, Any]
TIMEOUT_NS = 5 * 10**9


class Records:
    """A sink that keeps all."""

    def __init__(self) -> None:
        self.octets = bytearray()

    def write(self, records: bytes) -> None:
        """Keep."""
        self.octets += records

    def finish(self, result: object) -> None:
        """Nothing."""

    def discard(self, keep_below: int) -> None:
        """Nothing."""


def schedule_of(rate: int, count: int) -> SessionSchedule:
    """So many packets at this rate."""
    return SessionSchedule([Slot(SlotType.FIXED, fixed_point_from_ns(10**9 // rate))], SID, count)


def receiver(pipe: Connection, stop: Event, mode: int, rate: int, count: int, start_time: int) -> None:
    """A Session-Receiver; at the end (records, what was discarded)."""
    sock, records, finished = open_test_socket(HOST), Records(), threading.Event()
    endings = []

    def ended(_: bytes, ending: Any) -> None:
        endings.append(ending)
        finished.set()

    loop = ReceiverLoop(on_finished=ended)
    plan = ReceiverPlan(SID, mode, KEYS, schedule_of(rate, count), start_time, fixed_point_from_ns(TIMEOUT_NS))
    loop.add_session(plan, sock, records)
    loop.start(SID)
    pipe.send(sock.getsockname())
    before = cpu_s()
    stop.wait()
    used = cpu_s() - before
    loop.finish(SID, SessionDescription(SID, count, ()))
    finished.wait(30)
    loop.close()
    pipe.send((used, endings[0].received, bytes(records.octets)))


def session(name: str, rate: int, seconds: float) -> tuple[Row, int]:
    """One session, and the CPU of the bare pair for as many packets."""
    count, mode = max(10, int(rate * seconds)), MODES[name]
    octets = 14 if mode == 1 else 48
    with Peer(sink) as bare:
        bare_send_us = bare_sender(bare.address, bytes(octets), min(count, 50_000), replies=False)
        time.sleep(0.3)
    start_time = ntp_add_ns(now_ntp(), 1_500_000_000)
    ended, endings = threading.Event(), []

    def on_ended(_: bytes, ending: SenderEnding) -> None:
        endings.append(ending)
        ended.set()

    with Peer(receiver, mode, rate, count, start_time) as ours, frozen_heap():
        loop = OneWayLoop(on_ended)
        plan = OneWayPlan(
            SID, mode, KEYS, ours.address, schedule_of(rate, count), start_time, TIMEOUT_NS, measure=True
        )
        loop.add_session(plan, open_test_socket(HOST))
        before = cpu_s()
        loop.start(SID)
        stream = loop.session(SID)
        while not stream.ended:
            time.sleep(0.05)
        time.sleep(0.3)
        loop.stop(SID)
        ended.wait(10)
        used = cpu_s() - before
        loop.close()
    own = endings[0].session
    return _row(name, rate, own, ours, used, bare_send_us + bare.us_each)


def _row(name: str, rate: int, own: Any, ours: Peer, used: float, bare_us: float) -> tuple[Row, int]:
    sent_at = sent_times(own.stamps, own.departure)
    packet, kernel = [], []
    for sequence, _, _, sent, received, _ in RECORD.iter_unpack(ours.more):
        if received:
            packet.append(ntp_difference_ns(received, sent))
            kernel.append(ntp_difference_ns(received, sent_at[sequence]))
    late, delay, between = DelayStatistics.of(own.late_ns), DelayStatistics.of(packet), DelayStatistics.of(kernel)
    age = DelayStatistics.of(packet_ages(own.stamps, own.departure))
    send_us = used / max(1, own.sent) * 1e6
    skipped = own.count - own.sent
    row = {
        "mode": name, "rate_per_s": rate, "sent": own.sent, "lost": own.sent - ours.count, "skipped": skipped,
        "send_error_median_ns": late and late.median, "send_error_p99_ns": late and late.p99,
        "packet_age_median_ns": age and age.median, "packet_age_p99_ns": age and age.p99,
        "delay_in_packets_median_ns": delay and delay.median, "delay_in_packets_p99_ns": delay and delay.p99,
        "delay_between_kernels_median_ns": between and between.median,
        "delay_between_kernels_p99_ns": between and between.p99,
        "sender_cpu_us": send_us, "receiver_cpu_us": ours.us_each, "bare_cpu_us": bare_us,
        "cpu_ratio": (send_us + ours.us_each) / bare_us,
    }  # fmt: skip
    return row, own.sent - ours.count + skipped


def sessions(seconds: float, rates: list[int], rounds: int, modes: list[str]) -> list[Row]:
    """Of the rounds the one with the fewest packets missing, and what each round missed."""
    out = []
    for name in modes:
        for rate in rates:
            made = sorted((session(name, rate, seconds) for _ in range(rounds)), key=lambda pair: pair[1])
            out.append({**made[0][0], "missing_by_round": [missing for _, missing in made]})
    return out


async def owping(seconds: float) -> Row | None:
    """perfSONAR's owping to a server of ours, where it is on the PATH."""
    server = OwampServer(OwampServerOptions(address=HOST, port=0))
    await server.start()
    try:
        count = str(int(1000 * seconds))
        arguments = ("-c", count, "-i", "0.001f", "-A", "O", "-t", f"{HOST}:{server.port}")
        return await asyncio.to_thread(run_perfsonar, "owping", *arguments)
    finally:
        await server.stop()


def us(nanoseconds: int | None) -> str:
    """Nanoseconds as microseconds."""
    return "-" if nanoseconds is None else f"{nanoseconds / 1e3:.1f}"


def print_text(results: Row) -> None:
    """The figures as a table."""
    print(
        "session       packets/s     sent  lost  skipped  late p50/p99 us  in packets  between kernels  CPU  ratio"
    )
    for row in results["sessions"]:
        print(
            f"  {row['mode']:<14}{row['rate_per_s']:7,}{row['sent']:9,}{row['lost']:6,}{row['skipped']:9,}"
            f"{us(row['send_error_median_ns']):>9}/{us(row['send_error_p99_ns'])}"
            f"{us(row['delay_in_packets_median_ns']):>8}/{us(row['delay_in_packets_p99_ns'])}"
            f"{us(row['delay_between_kernels_median_ns']):>8}/{us(row['delay_between_kernels_p99_ns'])}"
            f"{row['sender_cpu_us']:8.1f}+{row['receiver_cpu_us']:.1f}{row['cpu_ratio']:7.2f}"
            f"  missing {row['missing_by_round']}"
        )
    if results["owping"] is None:
        print("perfSONAR's owping is not on the PATH")
    else:
        print(f"perfSONAR's owping: {results['owping']['output']}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 20_000, 50_000, 100_000])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    results = {
        "machine": machine(),
        "sessions": sessions(options.seconds, options.rates, options.rounds, options.modes),
        "owping": asyncio.run(owping(options.seconds)),
    }
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print_text(results)


if __name__ == "__main__":
    main()
