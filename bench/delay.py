"""The delay that is reported on an idle path, and how exactly packets are sent: 1,000 a second, one way.

    python bench/delay.py [--seconds 5] [--rounds 3] [--rate 1000] [--json]

As root over a veth pair between two namespaces of this script's own, else over the loopback interface. In packets: from
the program's stamp in the packet to the kernel's receive stamp, as a receiver that has nothing else reports it. Between
kernels: from the kernel's transmit stamp, as our sender reports it. Late: the sending less the schedule. Once as usual,
once with --correct-stamps, once with --realtime where it is permitted; and a bare pair (sleep, stamp, send; recvmsg
with the kernel's stamp) in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from measure_lab import SID, machine, medians
from owamp import Records, schedule_of

from ikev2.io.netns import TwoHosts
from interop.lab.netns import why_no_namespaces
from ippm.core.one_way_sender import OneWayPlan
from ippm.core.session_receiver import ReceiverPlan
from ippm.errors import ConfigurationError
from ippm.io.clock import now_ntp
from ippm.io.one_way_loop import OneWayLoop, SenderEnding
from ippm.io.pacing import exact_timers, frozen_heap
from ippm.io.realtime import check_realtime
from ippm.io.receiver_loop import ReceiverLoop
from ippm.io.sockopts import SO_TIMESTAMPNS, TIMESPEC
from ippm.io.test_socket import open_test_socket
from ippm.io.transmit_stamps import StampOptions
from ippm.metrics.packet_age import sent_times
from ippm.metrics.statistics import DelayStatistics
from ippm.timestamps import fixed_point_from_ns, ntp_add_ns, ntp_difference_ns
from ippm.wire.packet_record import RECORD
from ippm.wire.stop_descriptions import SessionDescription

Row = dict[str, float]
Sockets = Callable[[], tuple[socket.socket, socket.socket]]
TIMEOUT_NS = 500_000_000
_STAMP = struct.Struct("!Q")


@contextlib.contextmanager
def path() -> Iterator[tuple[str, Sockets]]:
    """What the path is, and a pair of sockets on it: one that sends, one that receives."""
    if why_no_namespaces() is not None:
        yield "loopback", lambda: (open_test_socket("127.0.0.1"), open_test_socket("127.0.0.1"))
        return
    with TwoHosts() as hosts:
        yield (
            "veth",
            lambda: (
                hosts.call("a", lambda: open_test_socket(hosts.address_a)),
                hosts.call("b", lambda: open_test_socket(hosts.address_b)),
            ),
        )


def in_a_process(work: Callable[[Any], None]) -> tuple[Any, Any]:
    """A process that has this one's sockets, and a pipe to it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    return process, ours


def ours(sockets: Sockets, rate: int, count: int, stamps: StampOptions, *, realtime: bool) -> Row:
    """A session of ours."""
    sending, receiving = sockets()
    address = receiving.getsockname()[:2]
    start_time = ntp_add_ns(now_ntp(), 500_000_000)

    def receive(pipe: Any) -> None:
        records, finished = Records(), threading.Event()
        loop = ReceiverLoop(on_finished=lambda _sid, _ending: finished.set())
        plan = ReceiverPlan(SID, 1, None, schedule_of(rate, count), start_time, fixed_point_from_ns(TIMEOUT_NS))
        loop.add_session(plan, receiving, records)
        loop.start(SID)
        pipe.recv()
        loop.finish(SID, SessionDescription(SID, count, ()))
        finished.wait(10)
        pipe.send(bytes(records.octets))

    process, pipe = in_a_process(receive)
    ended, endings = threading.Event(), []

    def on_ended(_: bytes, ending: SenderEnding) -> None:
        endings.append(ending)
        ended.set()

    with frozen_heap():
        loop = OneWayLoop(on_ended, stamps=stamps, in_realtime=realtime)
        plan = OneWayPlan(SID, 1, None, address, schedule_of(rate, count), start_time, TIMEOUT_NS, measure=True)
        loop.add_session(plan, sending)
        loop.start(SID)
        ended.wait()
        loop.close()
    pipe.send(True)
    octets = pipe.recv()
    process.join()
    receiving.close()
    own = endings[0].session
    sent_at = sent_times(own.stamps, own.departure)
    records = [row for row in RECORD.iter_unpack(octets) if row[4]]
    return {
        "lost": own.count - len(records),
        **spread("in_packets", [ntp_difference_ns(row[4], row[3]) for row in records]),
        **spread("between_kernels", [ntp_difference_ns(row[4], sent_at[row[0]]) for row in records]),
        **spread("late", list(own.late_ns)),
    }


def bare(sockets: Sockets, rate: int, count: int) -> Row:
    """A program that sleeps, stamps and sends, and one that receives with the kernel's stamp."""
    sending, receiving = sockets()
    sending.connect(receiving.getsockname())

    def receive(pipe: Any) -> None:
        receiving.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiving.settimeout(1)
        delays = []
        with contextlib.suppress(TimeoutError):
            while len(delays) < count:
                octets, ancillary, _, _ = receiving.recvmsg(64, 256)
                for level, kind, data in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                        seconds, nanoseconds = TIMESPEC.unpack_from(data)
                        delays.append(seconds * 10**9 + nanoseconds - _STAMP.unpack(octets)[0])
        pipe.send(delays)

    process, pipe = in_a_process(receive)
    late, start = [], time.monotonic_ns() + 300_000_000
    with exact_timers():
        for number in range(count):
            due = start + number * 10**9 // rate
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
            late.append(time.monotonic_ns() - due)
            sending.send(_STAMP.pack(time.time_ns()))
    delays = pipe.recv()
    process.join()
    sending.close()
    receiving.close()
    return {"lost": count - len(delays), **spread("in_packets", delays), **spread("late", late)}


def spread(name: str, values: list[int]) -> Row:
    """Median and 99th percentile."""
    found = DelayStatistics.of(values)
    return {} if found is None else {f"{name}_median_ns": found.median, f"{name}_p99_ns": found.p99}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count = int(options.seconds * options.rate)
    kinds: dict[str, Callable[[Sockets], Row]] = {
        "bare": lambda sockets: bare(sockets, options.rate, count),
        "ours": lambda sockets: ours(sockets, options.rate, count, StampOptions(), realtime=False),
        "corrected": lambda sockets: ours(sockets, options.rate, count, StampOptions(correct=True), realtime=False),
    }
    with contextlib.suppress(ConfigurationError):
        check_realtime(1e9 / options.rate)
        kinds["realtime"] = lambda sockets: ours(sockets, options.rate, count, StampOptions(), realtime=True)
    rows: dict[str, list[Row]] = {name: [] for name in kinds}
    with path() as (name, sockets):
        for _ in range(options.rounds):
            for kind, run in kinds.items():
                rows[kind].append(run(sockets))
    results = {kind: medians(of) for kind, of in rows.items()}
    if options.json:
        print(json.dumps({"machine": machine(), "path": name, "results": results}, indent=1))
        return
    print(f"{name}, {options.rate}/s, load {os.getloadavg()[0]:.1f}; microseconds, p50/p99, medians of the rounds")
    print(
        f"{'':12}{'in packets':>18}{'between kernels':>20}{'late':>20}   lost   of the bare pair: in packets, late"
    )
    for kind, row in results.items():
        cells = "".join(
            f"{row[f'{what}_median_ns'] / 1e3:10.1f}/{row[f'{what}_p99_ns'] / 1e3:<9.1f}"
            if f"{what}_median_ns" in row
            else " " * 20
            for what in ("in_packets", "between_kernels", "late")
        )
        ratios = [
            row[f"{what}_median_ns"] / results["bare"][f"{what}_median_ns"] for what in ("in_packets", "late")
        ]
        print(f"{kind:12}{cells}{row['lost']:6.0f}   {ratios[0]:.2f}, {ratios[1]:.3f}")


if __name__ == "__main__":
    main()
