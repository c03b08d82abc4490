"""What the ESP transform costs, suite by suite, without sockets: `esp_path.py` has whole packet paths.

    python bench/esp.py [--seconds 1.0] [--suites aes128gcm16,aes256-sha256]

Prints packets in a second of CPU, Gbit/s of what is protected, and microseconds of CPU a packet.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for part in (ROOT, ROOT / "tests" / "unit" / "ikev2"):
    sys.path.insert(0, str(part))

SIZES = (64, 1400)
SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512")


def line(what: str, packets: float, octets: int, seconds: float, note: str = "") -> None:
    """One row of figures."""
    rate = packets / seconds
    print(
        f"{what:<44} {rate:>10,.0f} packets/s {rate * octets * 8 / 1e9:>7.3f} Gbit/s {1e6 / rate:>7.2f} us {note}",
        flush=True,
    )


def for_a_while(function: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Call again and again: how often, and in how many seconds."""
    count, begin = 0, time.thread_time()
    while True:
        for _ in range(500):
            function()
        count += 500
        took = time.thread_time() - begin
        if took >= seconds:
            return count, took


def transform(names: list[str], seconds: float) -> None:
    """Whole IP packets through `Engine.protect` and `Engine.unprotect`, tunnel mode."""
    from esp_support import child_pair, udp_packet

    from ikev2.ipsec.sad import Engine

    for name in names:
        for octets in SIZES:
            of_a, of_b = child_pair(name)
            sender, receiver = Engine(), Engine()
            sender.install(of_a)
            receiver.install(of_b)
            packet = udp_packet(data=random.Random(1).randbytes(octets - 28))

            count, took = for_a_while(lambda e=sender, p=packet: e.protect(p), seconds)  # type: ignore[misc]
            line(f"protect    {name:<20} {octets:>5} octets", count, octets, took)

            sealed = [result[1] for result in (sender.protect(packet) for _ in range(100_000)) if result]
            begin = time.thread_time()
            for esp in sealed:
                receiver.unprotect(esp)
            took = time.thread_time() - begin
            assert receiver.counters(of_b).packets_in == len(sealed)
            line(f"unprotect  {name:<20} {octets:>5} octets", len(sealed), octets, took)


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each figure is measured (default 1)")
    parser.add_argument("--suites", default=",".join(SUITES), help="comma-separated")
    arguments = parser.parse_args()
    transform(arguments.suites.split(","), arguments.seconds)


if __name__ == "__main__":
    main()
