"""The userspace data planes of `ikev2 run` and of strongSwan (kernel-libipsec) on the same packets, in turn.

    python bench/esp_path.py [--rounds 3] [--seconds 1.0] [--without-charon] [--suite aes128gcm16]

Two hosts in namespaces of this script's own, joined by a veth pair: the same daemon on both, one Child SA in tunnel
mode between them, brought up by IKE. Needs root, /dev/net/tun and, for the peer, charon-systemd. Three figures of each:

    out    UDP datagrams into the tunnel as fast as they come; host A's daemon has one core, the sender has the other,
           and what leaves goes to a link address that nobody has. Packets are counted at the interface.
    in     ESP packets that such a run made and a packet socket kept, sent to host B as fast as they go; host B's
           daemon has one core, the sender has the other. Packets are counted at the TUN device.
    whole  a sender, both daemons and a receiver share the cores as the system lets them: the highest rate of which
           the receiver gets 99 of 100.

CPU a packet is that of all threads of the daemon, from /proc/PID/task/*/schedstat; beside it what AES-GCM alone takes
for such a packet in this process. Figures of a shared machine vary: rounds alternate, and the median is given.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ikev2.io.netns import Namespace, TwoHosts
from interop.peers.ours import Ours
from interop.peers.strongswan import StrongSwan
from interop.runner import why_not_here

SIZES = (64, 1400)
A, B, PORT = "192.0.2.1", "192.0.2.2", 5201
IKE = "aes128gcm16-prfsha256-x25519"
PSK_HEX = "0x" + b"a pre-shared key of this bench".hex()
IDS = {"a": "a.example", "b": "b.example"}
NOBODY = "02:00:00:00:00:99"
SOL_UDP, UDP_SEGMENT = 17, 103
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
SO_RCVBUFFORCE = 33
KEPT_PACKETS = 60_000
SILENCE_S = 0.3
LOSS = 0.01

SENDER = f"""
import os, socket, sys, time
to, octets, rate, seconds, cpu = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
if cpu >= 0: os.sched_setaffinity(0, {{cpu}})
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((to, {PORT}))
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
burst = 16
s.setsockopt({SOL_UDP}, {UDP_SEGMENT}, octets - 28)
data = bytes(octets - 28) * burst
sent, begin = 0, time.perf_counter()
end = begin + seconds
while True:
    now = time.perf_counter()
    if now >= end: break
    if rate:
        ahead = begin + sent / rate - now
        if ahead > 0:
            if ahead > 2e-4: time.sleep(ahead - 1e-4)
            continue
    try: s.send(data)
    except OSError: continue
    sent += burst
print(sent)
"""

SINK = f"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, {SO_RCVBUFFORCE}, 1 << 25)
s.bind(("", {PORT}))
s.settimeout(0.5)
print("ready", flush=True)
buffer, came = bytearray(65536), 0
while True:
    try:
        s.recv_into(buffer)
        came += 1
    except TimeoutError:
        if came: break
print(came)
"""

INJECTOR = f"""
import os, socket, struct, sys, time
os.sched_setaffinity(0, {{int(sys.argv[3])}})
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind((sys.argv[1], 0))
s.setsockopt({SOL_PACKET}, {PACKET_QDISC_BYPASS}, 1)
data = open(sys.argv[2], "rb").read()
frames, at = [], 0
while at < len(data):
    octets = int.from_bytes(data[at:at + 2], "big")
    frames.append(data[at + 2:at + 2 + octets])
    at += 2 + octets
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
for frame in frames:
    try: s.send(frame)
    except OSError: pass
print(len(frames), time.perf_counter() - begin)
"""


class Quiet(StrongSwan):
    """charon that logs errors only."""

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid


class Daemon(Ours):
    """`ikev2 run`."""

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid


@dataclass
class Lab:
    """Two hosts with a Child SA between them; `pids` are those of the daemons, `tun` the device's name on B."""

    hosts: TwoHosts
    pids: tuple[int, int]
    tun: str


@contextmanager
def ours(directory: Path, suite: str, *, encap: bool) -> Iterator[Lab]:
    """`ikev2 run` on both hosts."""
    with TwoHosts((f"{A}/24",), (f"{B}/24",)) as hosts, ExitStack() as stack:
        ends = []
        for here, there in (("b", "a"), ("a", "b")):
            addresses = {"a": A, "b": B}
            document = {
                "connections": {
                    "bench": {
                        "local_addrs": [addresses[here]],
                        "remote_addrs": [addresses[there]],
                        "proposals": [IKE],
                        "local": {"auth": "psk", "id": IDS[here]},
                        "remote": {"auth": "psk", "id": IDS[there]},
                        "encap": encap,
                        "children": {"net": {"esp_proposals": [suite]}},
                    }
                },
                "endpoint": {"backend": "userspace"},
            }
            ends.append(stack.enter_context(Daemon(hosts.host(here), directory / here, document, PSK_HEX)))
        b, a = ends
        a.up("bench")
        yield Lab(hosts, (a.pid, b.pid), "ikesp0")


@contextmanager
def charon(directory: Path, suite: str) -> Iterator[Lab]:
    """charon with kernel-libipsec on both hosts."""
    with TwoHosts((f"{A}/24",), (f"{B}/24",)) as hosts, ExitStack() as stack:
        ends = []
        for here, there in (("b", "a"), ("a", "b")):
            addresses = {"a": A, "b": B}
            (directory / here).mkdir(parents=True)
            quiet = {"path": str(directory / here / "charon.log"), "default": 0}
            end = stack.enter_context(Quiet(hosts.host(here), directory / here, {"filelog": {"file": quiet}}))
            connection: dict[str, Any] = {
                "version": 2,
                "local_addrs": addresses[here],
                "remote_addrs": addresses[there],
                "proposals": IKE,
                "local": {"auth": "psk", "id": IDS[here]},
                "remote": {"auth": "psk", "id": IDS[there]},
                "children": {"net": {"esp_proposals": suite, "mode": "tunnel"}},
            }
            secret = {"id-a": IDS["a"], "id-b": IDS["b"], "secret": PSK_HEX}
            end.load({"bench": connection}, {"ike-bench": secret})
            ends.append(end)
        b, a = ends
        a.initiate("net")
        yield Lab(hosts, (a.pid, b.pid), "ipsec0")


# --- what is measured -------------------------------------------------------------------------------------------------


def cpu_ns(pid: int) -> int:
    """The nanoseconds that all threads of a process have run."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def pin(pid: int, cpus: set[int]) -> None:
    """Let all threads of a process run on these cores only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(task.name), cpus)


def counted(namespace: Namespace, interface: str, *, sent: bool) -> int:
    """Packets that an interface has received or sent."""
    text = namespace.call(lambda: Path("/proc/thread-self/net/dev").read_text())
    fields = (
        next(line for line in text.splitlines() if line.strip().startswith(f"{interface}:")).split(":")[1].split()
    )
    return int(fields[9 if sent else 1])


def send(namespace: Namespace, octets: int, rate: float, seconds: float, cpu: int) -> int:
    """Datagrams sent in packets of `octets`, at `rate` a second or, with 0, as fast as they go."""
    argv = [sys.executable, "-c", SENDER, B, str(octets), str(rate), str(seconds), str(cpu)]
    done = namespace.run(argv, capture_output=True, text=True, check=True)
    return int(done.stdout)


def link_address(namespace: Namespace, interface: str) -> str:
    """The link address of an interface."""
    shown = namespace.run(["ip", "-o", "link", "show", interface], capture_output=True, text=True, check=True)
    return str(shown.stdout.split("link/ether ")[1].split()[0])


@contextmanager
def nobody_listens(lab: Lab) -> Iterator[str]:
    """What A sends to B goes to a link address that nobody has; gives B's own."""
    a, b = lab.hosts.host("a"), lab.hosts.host("b")
    own = link_address(b, "veth-b")
    command = ["ip", "neigh", "replace", B, "dev", "veth-a", "lladdr"]
    a.run([*command, NOBODY], check=True)
    try:
        yield own
    finally:
        a.run([*command, own], check=True)


Figure = tuple[float, float]
"""Packets a second, and microseconds of the daemon's CPU a packet."""


def out(lab: Lab, octets: int, seconds: float) -> Figure:
    """Host A's daemon on one core of its own."""
    a, pid = lab.hosts.host("a"), lab.pids[0]
    pin(pid, {0})
    with nobody_listens(lab):
        send(a, octets, 0, 0.2, 1)
        packets, cpu = counted(a, "veth-a", sent=True), cpu_ns(pid)
        send(a, octets, 0, seconds, 1)
        packets, cpu = counted(a, "veth-a", sent=True) - packets, cpu_ns(pid) - cpu
    return packets / seconds, cpu / 1e3 / packets


def kept(lab: Lab, octets: int, path: Path) -> None:
    """ESP packets on their way to B, kept in a file as frames that B's interface takes."""
    a = lab.hosts.host("a")
    pin(lab.pids[0], {0, 1})
    with nobody_listens(lab) as own, path.open("wb") as file:
        sock = a.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)))
        with sock:
            a.call(lambda: sock.bind(("veth-a", 0x0003)))
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
            sock.settimeout(10)
            argv = [sys.executable, "-c", SENDER, B, str(octets), "20000", "60", "-1"]
            sender = a.popen(argv, stdout=subprocess.DEVNULL)
            link = bytes.fromhex(own.replace(":", ""))
            count = 0
            while count < KEPT_PACKETS:
                frame = sock.recv(2048)
                if len(frame) > octets and frame[23] in (17, 50):
                    # No UDP checksum: what is there was left for the interface to fill in. RFC 3948 section 2.1.
                    rest = frame[6:40] + b"\0\0" + frame[42:] if frame[23] == 17 else frame[6:]
                    file.write(struct.pack("!H", len(frame)) + link + rest)
                    count += 1
            sender.kill()
            sender.wait()
            # A later number must not come before those that are kept: they would be replays.
            sent = -1
            while sent != (sent := counted(a, "veth-a", sent=True)):
                time.sleep(SILENCE_S)


def inward(lab: Lab, octets: int, directory: Path) -> Figure:
    """Host B's daemon on one core of its own."""
    a, b, pid = lab.hosts.host("a"), lab.hosts.host("b"), lab.pids[1]
    path = directory / "frames"
    kept(lab, octets, path)
    pin(pid, {0})
    listener = b.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with listener:
        b.call(lambda: listener.bind(("", PORT)))
        argv = [sys.executable, "-c", INJECTOR, "veth-a", str(path), "1"]
        injector = a.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert injector.stdin is not None
        assert injector.stdout is not None
        injector.stdout.readline()
        packets, cpu = counted(b, lab.tun, sent=False), cpu_ns(pid)
        begin = time.perf_counter()
        injector.stdin.write("\n")
        injector.stdin.flush()
        injector.stdout.readline()
        # What lies in B's socket by now counts, too.
        last, took = packets, time.perf_counter() - begin
        while time.perf_counter() - begin < took + SILENCE_S:
            now = counted(b, lab.tun, sent=False)
            if now != last:
                last, took = now, time.perf_counter() - begin
            time.sleep(0.002)
        packets, cpu = last - packets, cpu_ns(pid) - cpu
        injector.wait()
    path.unlink()
    return packets / took, cpu / 1e3 / max(packets, 1)


def whole(lab: Lab, octets: int, seconds: float) -> tuple[float, float, float]:
    """The highest rate with little loss, and both daemons' CPU a packet at it, in microseconds."""
    for pid in lab.pids:
        pin(pid, {0, 1})
    best, failed, rate = (0.0, 0.0, 0.0), 0, 10_000.0
    while failed < 2 and rate < 400_000:
        a, b = lab.hosts.host("a"), lab.hosts.host("b")
        sink = b.popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
        assert sink.stdout is not None
        sink.stdout.readline()
        before = [cpu_ns(pid) for pid in lab.pids]
        sent = send(a, octets, rate, seconds, -1)
        after = [cpu_ns(pid) for pid in lab.pids]
        came = int(sink.stdout.readline())
        sink.wait()
        if came >= (1 - LOSS) * sent and sent >= 0.9 * rate * seconds:
            used = [(late - early) / 1e3 / came for early, late in zip(before, after, strict=True)]
            best, failed = (came / seconds, *used), 0
        else:
            failed += 1
        rate *= 1.2
    return best


def gcm_us(octets: int) -> float:
    """AES-GCM-128 alone over a packet of so many octets, microseconds; the fastest of some tries."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    seal, nonce, data, header = AESGCM(bytes(16)).encrypt, bytes(12), bytes(octets + 4), bytes(8)
    found = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(2000):
            seal(nonce, data, header)
        found.append((time.perf_counter() - begin) / 2000)
    return 1e6 * min(found)


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """The figures of one implementation and one size, a round each."""

    out: list[Figure] = field(default_factory=list)
    inward: list[Figure] = field(default_factory=list)
    whole: list[tuple[float, float, float]] = field(default_factory=list)


def middle(figures: Sequence[tuple[float, ...]], at: int) -> float:
    """The median of one column."""
    return statistics.median(row[at] for row in figures)


def report(octets: int, found: dict[str, Rows], gcm: float) -> None:
    """The medians, and how far apart the rounds were."""
    print(f"\n{octets} octets; AES-GCM alone {gcm:.2f} us")
    for name, rows in found.items():
        for what, figures in (("out", rows.out), ("in", rows.inward)):
            rate, cpu = middle(figures, 0), middle(figures, 1)
            rates = " ".join(f"{row[0]:,.0f}" for row in figures)
            print(
                f"  {name:14} {what:5} {rate:>9,.0f}/s {rate * octets * 8e-9:6.3f} Gbit/s  "
                f"{cpu:6.2f} us CPU, AES-GCM {100 * gcm / cpu:3.0f} %   ({rates})"
            )
        rate = middle(rows.whole, 0)
        rates = " ".join(f"{row[0]:,.0f}" for row in rows.whole)
        print(
            f"  {name:14} whole {rate:>9,.0f}/s {rate * octets * 8e-9:6.3f} Gbit/s  "
            f"{middle(rows.whole, 1):6.2f} us CPU out, {middle(rows.whole, 2):.2f} in   ({rates})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each figure is measured (default 1)")
    parser.add_argument("--suite", default="aes128gcm16")
    parser.add_argument("--without-charon", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--nice", type=int, default=0, help="of all that is measured; below 0 beside other work")
    arguments = parser.parse_args()
    os.setpriority(os.PRIO_PROCESS, 0, arguments.nice)
    with contextlib.suppress(OSError):  # sched(7): where sessions share the cores, this is their nice value
        Path("/proc/self/autogroup").write_text(str(arguments.nice))
    reason = why_not_here()
    if reason is not None and not arguments.without_charon:
        raise SystemExit(f"charon cannot run here: {reason}")
    labs: dict[str, Any] = {
        "ikev2": lambda directory: ours(directory, arguments.suite, encap=False),
        "ikev2 in UDP": lambda directory: ours(directory, arguments.suite, encap=True),
    }
    if not arguments.without_charon:
        labs["charon in UDP"] = lambda directory: charon(directory, arguments.suite)
    print(f"load average {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="esp-path-") as base:
        found = {octets: {name: Rows() for name in labs} for octets in arguments.sizes}
        for number in range(arguments.rounds):
            for name, make in labs.items():
                with make(Path(base) / f"{name}-{number}") as lab:
                    for octets in arguments.sizes:
                        rows = found[octets][name]
                        rows.out.append(out(lab, octets, arguments.seconds))
                        rows.inward.append(inward(lab, octets, Path(base)))
                        rows.whole.append(whole(lab, octets, arguments.seconds))
            print(f"round {number + 1} done, load average {os.getloadavg()[0]:.1f}", flush=True)
        for octets in arguments.sizes:
            report(octets, found[octets], gcm_us(octets))


if __name__ == "__main__":
    main()
