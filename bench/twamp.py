"""Costs of TWAMP-Test: codecs, the reflector against a bare echo, and whole sessions. Run: python bench/twamp.py

Everything is measured in this run on this machine; the ratio to the bare echo is the figure that travels.
`--seconds S` per measurement, `--json` for one JSON document. Reflector and sender are processes of their own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from ippm.core.schedule import FixedSchedule
from ippm.core.session_reflector import ReflectorPlan
from ippm.core.session_sender import SenderPlan
from ippm.crypto import SessionKeys
from ippm.crypto_packet import TestProtection, seal_sender
from ippm.io.clock import clock_state, now_ntp
from ippm.io.reflector_loop import Reflector
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import open_test_socket
from ippm.metrics.statistics import DelayStatistics
from ippm.report import RunResult
from ippm.timestamps import ntp_difference_ns
from ippm.wire.test_packet import SenderPacket

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
SID = bytes(16)
HOST = "127.0.0.1"
MODES = {"open": 1, "authenticated": 2, "encrypted": 4}
WINDOW = 32


def per_call_us(function: Callable[[], object], seconds: float) -> float:
    """Microseconds of one call: the best of five runs."""
    count, best = 2000, float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            function()
        best = min(best, (time.perf_counter() - start) / count)
        if best * count < seconds / 20:
            count *= 2
    return best * 1e6


def codecs(seconds: float) -> dict[str, dict[str, float]]:
    """What packing and unpacking cost in each mode."""
    return {name: codec(mode, seconds) for name, mode in MODES.items()}


def codec(mode: int, seconds: float) -> dict[str, float]:
    """Microseconds for each of the four operations of one mode."""
    protection = TestProtection.of(mode, KEYS)
    request, reply = bytearray(48), bytearray(112)
    protection.pack_sender_into(request, 1, 2, 3)
    protection.pack_reflector_into(reply, 1, 2, 3, 4, (5, 6, 7), 8)
    numbers = itertools.cycle(range(1 << 16))
    operations: dict[str, Callable[[], object]] = {
        "pack_sender_us": lambda: protection.pack_sender_into(request, next(numbers), 2, 3),
        "pack_reflector_us": lambda: protection.pack_reflector_into(reply, next(numbers), 2, 3, 4, (5, 6, 7), 8),
        "unpack_sender_us": lambda: protection.unpack_sender(request),
        "unpack_reflector_us": lambda: protection.unpack_reflector(reply),
    }
    return {name: per_call_us(operation, seconds) for name, operation in operations.items()}


def echo_process(pipe: Connection, stop: Event) -> None:
    """The bare echo: recvfrom and sendto, nothing else."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    sock.settimeout(0.2)
    pipe.send(sock.getsockname())
    buffer = bytearray(65536)
    view = memoryview(buffer)
    while not stop.is_set():
        try:
            while True:
                octets, address = sock.recvfrom_into(buffer)
                sock.sendto(view[:octets], address)
        except TimeoutError:
            continue


def reflector_process(pipe: Connection, stop: Event, mode: int) -> None:
    """A Reflector that answers whoever asks."""
    sock = open_test_socket(HOST)
    reflector = Reflector()
    reflector.add_session(ReflectorPlan(SID, mode, KEYS, sock.getsockname(), (HOST, 1), check_peer=False), sock)
    reflector.start(SID)
    pipe.send(sock.getsockname())
    stop.wait()
    reflector.close()


class Peer:
    """A process with a UDP socket, for the length of a `with`."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self.stop = multiprocessing.Event()
        ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=target, args=(theirs, self.stop, *arguments), daemon=True)
        self.process.start()
        self.address = ours.recv()

    def __enter__(self) -> tuple[str, int]:
        return self.address

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.process.join()


def closed_loop(address: tuple[str, int], packet: bytes, seconds: float) -> float:
    """Replies a second with WINDOW packets under way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.settimeout(1)
        buffer = bytearray(2048)
        for _ in range(WINDOW):
            sock.send(packet)
        replies, end = 0, time.perf_counter() + seconds
        start = time.perf_counter()
        while time.perf_counter() < end:
            for _ in range(256):
                sock.recv_into(buffer)
                sock.send(packet)
            replies += 256
        return replies / (time.perf_counter() - start)


def reflector_rates(seconds: float) -> dict[str, dict[str, float]]:
    """The reflector in each mode, and its ratio to the bare echo with packets of the same length."""
    out = {}
    for name, mode in MODES.items():
        packet = seal_sender(SenderPacket(1, now_ntp(), 0x8A01, bytes(27 if mode == 1 else 64)), mode, KEYS)
        with Peer(echo_process) as address:
            echo = closed_loop(address, packet, seconds)
        with Peer(reflector_process, mode) as address:
            rate = closed_loop(address, packet, seconds)
        out[name] = {"replies_per_s": rate, "echo_per_s": echo, "ratio": rate / echo}
    return out


def sessions(seconds: float, rates: list[int]) -> list[dict[str, Any]]:
    """Whole two-way sessions: what is lost, how late packets are sent, what delay is reported."""
    out = []
    for name, mode in MODES.items():
        for rate in rates:
            with Peer(reflector_process, mode) as address, open_test_socket(HOST) as sock:
                interval = 1_000_000_000 // rate
                count = max(10, int(rate * seconds))
                padding = 27 if mode == 1 else 64
                plan = SenderPlan(
                    SID, mode, KEYS, sock.getsockname(), address, count, FixedSchedule(interval), 0, padding, 10**9
                )
                records = run_sender(plan, sock)
            first = records.t1[0]
            late = DelayStatistics.of(
                ntp_difference_ns(t1, first) - interval * index for index, t1 in enumerate(records.t1) if t1
            )
            result = RunResult.of(plan, records, clock_state())
            assert late is not None
            out.append(
                {
                    "mode": name,
                    "rate_per_s": rate,
                    "sent": result.sent,
                    "lost": result.lost,
                    "send_error_median_ns": late.median,
                    "send_error_p99_ns": late.p99,
                    "round_trip_median_ns": result.round_trip.median if result.round_trip else None,
                    "round_trip_p99_ns": result.round_trip.p99 if result.round_trip else None,
                    "forward_median_ns": result.forward.median if result.forward else None,
                }
            )
    return out


def print_text(results: dict[str, Any]) -> None:
    """The figures as tables."""
    print("codec, microseconds      pack sender  pack reflector  unpack sender  unpack reflector")
    for name, row in results["codecs"].items():
        print(f"  {name:<20}" + "".join(f"{value:15.2f}" for value in row.values()))
    print("reflector               replies/s      bare echo/s    ratio")
    for name, row in results["reflector"].items():
        print(f"  {name:<20}{row['replies_per_s']:12,.0f}{row['echo_per_s']:17,.0f}{row['ratio']:9.2f}")
    print("sessions        packets/s     sent   lost   send error p50/p99 us   round trip p50/p99 us")
    for row in results["sessions"]:
        print(
            f"  {row['mode']:<14}{row['rate_per_s']:9,}{row['sent']:9,}{row['lost']:7,}"
            f"{row['send_error_median_ns'] / 1e3:12.1f} /{row['send_error_p99_ns'] / 1e3:9.1f}"
            f"{(row['round_trip_median_ns'] or 0) / 1e3:12.1f} /{(row['round_trip_p99_ns'] or 0) / 1e3:9.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 20_000, 50_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    results = {
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0], "kernel": os.uname().release},
        "codecs": codecs(options.seconds),
        "reflector": reflector_rates(options.seconds),
        "sessions": sessions(options.seconds, options.rates),
    }
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print_text(results)


if __name__ == "__main__":
    main()
