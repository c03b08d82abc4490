"""Costs of TWAMP-Test: codecs, the reflector against a bare echo, and whole two-way sessions.

    python bench/twamp.py [--seconds 1] [--rounds 3] [--rates 1000 20000 50000 100000] [--modes open ...] [--json]

Everything is measured in this run on this machine; rounds of ours and of the bare echo alternate; medians. The ratio to
the bare echo, in CPU a packet, is the figure that travels. Sender and reflector are processes of their own. A packet is
sent however late it is, up to TIMEOUT_NS. Where perfSONAR's twping is on the PATH, it measures to our server in this
run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from measure_lab import (
    HOST,
    KEYS,
    MODES,
    SID,
    Peer,
    bare_sender,
    closed_loop,
    cpu_s,
    echo,
    machine,
    medians,
    reflector,
    run_perfsonar,
)

from ippm.core.schedule import FixedSchedule
from ippm.core.session_sender import SenderPlan
from ippm.crypto_packet import TestProtection, seal_sender
from ippm.io.clock import clock_state, now_ntp
from ippm.io.pacing import frozen_heap
from ippm.io.sender_loop import run_sender
from ippm.io.test_socket import open_test_socket
from ippm.report import RunResult
from ippm.wire.test_packet import SenderPacket

Row = dict[str, Any]
TIMEOUT_NS = 5 * 10**9
PADDING = {"open": 27, "authenticated": 64, "encrypted": 64}


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


def packet_of(name: str) -> bytes:
    """A packet of a session in this mode."""
    return seal_sender(SenderPacket(1, now_ntp(), 0x8A01, bytes(PADDING[name])), MODES[name], KEYS)


def reflectors(seconds: float, rounds: int, modes: list[str]) -> dict[str, dict[str, float]]:
    """The reflector in each mode and a bare echo with packets of the same length, in turn."""
    out = {}
    for name in modes:
        mode, packet, rows = MODES[name], packet_of(name), []
        for _ in range(rounds):
            with Peer(echo) as bare:
                bare_rate = closed_loop(bare.address, packet, seconds)
            with Peer(reflector, mode) as ours:
                rate = closed_loop(ours.address, packet, seconds)
            rows.append(
                {
                    "replies_per_s": rate,
                    "echo_per_s": bare_rate,
                    "cpu_us": ours.us_each,
                    "echo_cpu_us": bare.us_each,
                    "cpu_ratio": ours.us_each / bare.us_each,
                    "one_core_per_s": 1e6 / ours.us_each,
                }
            )
        out[name] = medians(rows)
    return out


def session(name: str, rate: int, seconds: float) -> tuple[Row, float]:
    """One two-way session, and the CPU of the bare pair for as many packets."""
    count = max(10, int(rate * seconds))
    with Peer(echo) as bare:
        bare_us = bare_sender(bare.address, packet_of(name), min(count, 50_000), replies=True)
    bare_us += bare.us_each
    with Peer(reflector, MODES[name]) as ours, open_test_socket(HOST) as sock, frozen_heap():
        plan = SenderPlan(
            SID, MODES[name], KEYS, sock.getsockname(), ours.address, count, FixedSchedule(10**9 // rate), 0,
            PADDING[name], TIMEOUT_NS,
        )  # fmt: skip
        before = cpu_s()
        records = run_sender(plan, sock)
        used = cpu_s() - before
    result = RunResult.of(plan, records, clock_state())
    late, age, trip = result.stamps.send_error, result.stamps.packet_age, result.round_trip
    row = {
        "mode": name, "rate_per_s": rate, "sent": result.sent, "lost": result.lost, "skipped": result.skipped,
        "send_error_median_ns": late.median if late else None, "send_error_p99_ns": late.p99 if late else None,
        "packet_age_median_ns": age.median if age else None, "packet_age_p99_ns": age.p99 if age else None,
        "round_trip_median_ns": trip.median if trip else None, "round_trip_p99_ns": trip.p99 if trip else None,
        "sender_cpu_us": used / max(1, result.sent) * 1e6, "reflector_cpu_us": ours.us_each, "bare_cpu_us": bare_us,
        "cpu_ratio": (used / max(1, result.sent) * 1e6 + ours.us_each) / bare_us,
    }  # fmt: skip
    return row, result.lost + result.skipped


def sessions(seconds: float, rates: list[int], rounds: int, modes: list[str]) -> list[Row]:
    """Whole two-way sessions: of the rounds the one with the fewest packets missing, and what each round missed."""
    out = []
    for name in modes:
        for rate in rates:
            made = sorted((session(name, rate, seconds) for _ in range(rounds)), key=lambda pair: pair[1])
            out.append({**made[0][0], "missing_by_round": [missing for _, missing in made]})
    return out


def twping(seconds: float) -> Row | None:
    """perfSONAR's twping to a server of ours, where it is on the PATH."""
    from ippm.io.options import ServerOptions
    from ippm.io.twamp_server import TwampServer

    async def run() -> Row | None:
        import asyncio

        server = TwampServer(ServerOptions(address=HOST, port=0))
        await server.start()
        try:
            count = str(int(1000 * seconds))
            return await asyncio.to_thread(
                run_perfsonar, "twping", "-c", count, "-i", "0.001f", "-A", "O", f"{HOST}:{server.port}"
            )
        finally:
            await server.stop()

    import asyncio

    return asyncio.run(run())


def us(nanoseconds: int | None) -> str:
    """Nanoseconds as microseconds."""
    return "-" if nanoseconds is None else f"{nanoseconds / 1e3:.1f}"


def print_text(results: Row) -> None:
    """The figures as tables."""
    print("codec, microseconds      pack sender  pack reflector  unpack sender  unpack reflector")
    for name, row in results["codecs"].items():
        print(f"  {name:<20}" + "".join(f"{value:15.2f}" for value in row.values()))
    print("reflector             replies/s  echo/s   CPU us  echo's  ratio  one core of its own")
    for name, row in results["reflector"].items():
        print(
            f"  {name:<18}{row['replies_per_s']:11,.0f}{row['echo_per_s']:9,.0f}{row['cpu_us']:8.1f}"
            f"{row['echo_cpu_us']:8.1f}{row['cpu_ratio']:7.2f}{row['one_core_per_s']:12,.0f}/s"
        )
    print(
        "session         packets/s     sent  lost  skipped  late p50/p99 us  age p50/p99  trip p50/p99  CPU  ratio"
    )
    for row in results["sessions"]:
        print(
            f"  {row['mode']:<14}{row['rate_per_s']:9,}{row['sent']:9,}{row['lost']:6,}{row['skipped']:9,}"
            f"{us(row['send_error_median_ns']):>9}/{us(row['send_error_p99_ns'])}"
            f"{us(row['packet_age_median_ns']):>8}/{us(row['packet_age_p99_ns'])}"
            f"{us(row['round_trip_median_ns']):>8}/{us(row['round_trip_p99_ns'])}"
            f"{row['sender_cpu_us']:8.1f}+{row['reflector_cpu_us']:.1f}{row['cpu_ratio']:7.2f}"
            f"  missing {row['missing_by_round']}"
        )
    if results["twping"] is None:
        print("perfSONAR's twping is not on the PATH")
    else:
        print(f"perfSONAR's twping: {results['twping']['output']}")


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
        "codecs": {name: codec(mode, min(options.seconds, 1.0)) for name, mode in MODES.items()},
        "reflector": reflectors(min(options.seconds, 2.0), options.rounds, options.modes),
        "sessions": sessions(options.seconds, options.rates, options.rounds, options.modes),
        "twping": twping(min(options.seconds, 5.0)),
    }
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print_text(results)


if __name__ == "__main__":
    main()
