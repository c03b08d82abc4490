"""What ESP costs: the transform alone, and the userspace backend over a veth pair between two namespaces.

    python bench/esp.py [--seconds 1.0] [--suites aes128gcm16,aes256-sha256] [--no-veth]

Prints packets a second, Gbit/s of what is protected, and microseconds a packet; for the veth also the same traffic
without ESP, in the same run, to compare with. Figures of a shared machine vary: trust ratios.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for part in (ROOT, ROOT / "tests" / "unit" / "ikev2", ROOT / "tests" / "netns"):
    sys.path.insert(0, str(part))

SIZES = (64, 1400)
SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512")
PORT = 5201
A, B = "192.0.2.1", "192.0.2.2"


def line(what: str, packets: float, octets: int, seconds: float, note: str = "") -> None:
    """One row of figures."""
    rate = packets / seconds
    print(
        f"{what:<44} {rate:>10,.0f} packets/s {rate * octets * 8 / 1e9:>7.3f} Gbit/s {1e6 / rate:>7.2f} us {note}",
        flush=True,
    )


def for_a_while(function: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Call again and again: how often, and in how many seconds."""
    count, begin = 0, time.perf_counter()
    while True:
        for _ in range(500):
            function()
        count += 500
        took = time.perf_counter() - begin
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
            begin = time.perf_counter()
            for esp in sealed:
                receiver.unprotect(esp)
            took = time.perf_counter() - begin
            assert receiver.counters(of_b).packets_in == len(sealed)
            line(f"unprotect  {name:<20} {octets:>5} octets", len(sealed), octets, took)


def flood(pid: int, to: str, octets: int, seconds: float) -> int:
    """Datagrams from the namespace of `pid`, as fast as one process sends them."""
    code = (
        "import socket,sys,time\n"
        f"s=socket.socket(2,2);s.connect(({to!r},{PORT}));d=bytes({octets - 28});n=0;e=time.perf_counter()+{seconds}\n"
        "while time.perf_counter()<e:\n"
        "  for _ in range(32):\n"
        "    try: s.send(d)\n"
        "    except OSError: continue\n"
        "    n+=1\n"
        "print(n)\n"
    )
    done = subprocess.run(
        ["nsenter", "-n", "-t", str(pid), sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def sink(pid: int) -> subprocess.Popen[str]:
    """A process in the namespace of `pid` that counts datagrams until a second passes without one."""
    code = (
        "import json,socket,time\n"
        f"s=socket.socket(2,2);s.setsockopt(1,33,1<<25);s.bind(('',{PORT}));print('ready',flush=True)\n"
        "b=bytearray(65536);n=0;s.settimeout(20);f=None\n"
        "try:\n"
        "  while True:\n"
        "    s.recv_into(b)\n"
        "    l=time.perf_counter()\n"
        "    if f is None: f=l;s.settimeout(1)\n"
        "    n+=1\n"
        "except TimeoutError: pass\n"
        "print(json.dumps([n,(l-f) if f else 1]))\n"
    )
    process = subprocess.Popen(
        ["nsenter", "-n", "-t", str(pid), sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def one_way(a_pid: int, b_pid: int, octets: int, seconds: float) -> tuple[int, int, float]:
    """Datagrams sent, datagrams that came, and the seconds between the first and the last that came."""
    receiver = sink(b_pid)
    sent = flood(a_pid, B, octets, seconds)
    assert receiver.stdout is not None
    came, took = json.loads(receiver.stdout.readline())
    receiver.wait()
    return sent, came, max(took, 1e-9)


def veth(names: list[str], seconds: float) -> None:
    """UDP one way between two namespaces: in clear, then through the userspace backend."""
    from userspace_hosts import two_hosts, why_not

    reason = why_not()
    if reason:
        print(f"no namespaces here: {reason}")
        return
    for octets in SIZES:
        with two_hosts() as (a, b):
            sent, came, took = one_way(a.pid, b.pid, octets, seconds)
            clear = came / took
            line(
                f"veth       {'in clear':<20} {octets:>5} octets", came, octets, took, f"of {sent / seconds:,.0f}/s"
            )
        for name in names:
            for udp in (False, True):
                with two_hosts() as (a, b):
                    for host, address, side in ((a, A, "a"), (b, B, "b")):
                        host.open()
                        if udp:
                            host.attach(host=address)
                        host.install(side=side, udp=udp, name=name)
                    before = a.cpu(), b.cpu(), a.query()["packets_out"], b.query()["packets_in"]
                    sent, came, took = one_way(a.pid, b.pid, octets, seconds)
                    after = a.cpu(), b.cpu(), a.query()["packets_out"], b.query()["packets_in"]
                    out, inward = (
                        1e6 * (after[n] - before[n]) / max(after[n + 2] - before[n + 2], 1) for n in (0, 1)
                    )
                    through = f"{name}{' in UDP' if udp else ''}"
                    note = f"of {sent / seconds:,.0f}/s; {came / took / clear:.2f} of clear; CPU us "
                    note += f"{out:.1f} out, {inward:.1f} in"
                    line(f"veth       {through:<20} {octets:>5} octets", came, octets, took, note)


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each figure is measured (default 1)")
    parser.add_argument("--suites", default=",".join(SUITES), help="comma-separated")
    parser.add_argument("--no-veth", action="store_true", help="the transform only")
    arguments = parser.parse_args()
    names = arguments.suites.split(",")
    transform(names, arguments.seconds)
    if not arguments.no_veth:
        veth(names, arguments.seconds)


if __name__ == "__main__":
    main()
