"""How long the command takes to start: `ippm --help`, and until the first probe of `ippm light send` arrives.

    python bench/startup.py [--times 10] [--json]

Against a bare interpreter (`python -c pass`) and one that imports asyncio and cryptography, in turn. Wall and CPU
time; medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import time
from typing import Any

from measure_lab import HOST, machine, medians

MODULES = "import asyncio, cryptography.hazmat.primitives.ciphers"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python, asyncio and cryptography": ["-c", MODULES],
    "ippm --help": ["-m", "ippm", "--help"],
    "ippm twping --help": ["-m", "ippm", "twping", "--help"],
}
FIRST_PROBE = "ippm light send, first probe"


def run(arguments: list[str]) -> dict[str, float]:
    """Milliseconds of one run."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}


def first_probe() -> dict[str, float]:
    """Milliseconds from the start of the program until its first packet is there; the CPU is that of the whole run."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(30)
        port = sock.getsockname()[1]
        arguments = ["-m", "ippm", "light", "send", "-c", "1", "-L", "0.05", "-Q", f"{HOST}:{port}"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments])
        sock.recv(2048)
        wall = time.perf_counter() - start
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*COMMANDS, FIRST_PROBE)}
    for _ in range(options.times):
        for name, arguments in COMMANDS.items():
            rows[name].append(run(arguments))
        rows[FIRST_PROBE].append(first_probe())
    results: dict[str, Any] = {name: medians(of) for name, of in rows.items()}
    if options.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=1))
        return
    bare = results["python -c pass"]
    print(f"load {machine()['load']:.1f}{'':28}wall ms   CPU ms   CPU of the bare interpreter's")
    for name, row in results.items():
        print(f"{name:36}{row['wall_ms']:8.0f}{row['cpu_ms']:9.0f}{row['cpu_ms'] / bare['cpu_ms']:9.1f}")


if __name__ == "__main__":
    main()
