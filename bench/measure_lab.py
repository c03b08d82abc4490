"""What the benchmarks of O/TWAMP share: processes with a UDP socket that tell their CPU time, bare peers, medians.

The bare peers do what any program must (take a datagram, send one), in plain Python with sockets; a ratio to them in
the same run says more than a figure, since the same code varies up to 2.5 times between runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from ippm.core.session_reflector import ReflectorPlan
from ippm.crypto import SessionKeys
from ippm.io.reflector_loop import Reflector
from ippm.io.test_socket import open_test_socket

HOST = "127.0.0.1"
KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
SID = bytes(16)
MODES = {"open": 1, "authenticated": 2, "encrypted": 4}
PERFSONAR = ("owping", "owampd", "twping", "twampd")


def cpu_s() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "load": os.getloadavg()[0],
    }


class Peer:
    """A process with a socket, for the length of a `with`: gives its address; at the end `cpu_s` and `count`.

    `target(pipe, stop, *arguments)` sends its address, works until `stop`, and sends what it did.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._stop = multiprocessing.Event()
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, self._stop, *arguments)
        self._process = multiprocessing.Process(target=target, args=arguments, daemon=True)
        self._process.start()
        self.address: Any = self._pipe.recv()
        self.cpu_s = 0.0
        self.count = 0
        self.more: Any = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.cpu_s, self.count, self.more = self._pipe.recv()
        self._process.join()

    @property
    def us_each(self) -> float:
        """CPU microseconds for each of `count`."""
        return self.cpu_s / self.count * 1e6 if self.count else 0.0


def echo(pipe: Connection, stop: Event) -> None:
    """The bare echo: recvfrom and sendto, nothing else."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((HOST, 0))
    sock.settimeout(0.2)
    pipe.send(sock.getsockname())
    buffer, count = bytearray(65536), 0
    view = memoryview(buffer)
    before = cpu_s()
    while not stop.is_set():
        try:
            while True:
                octets, address = sock.recvfrom_into(buffer)
                sock.sendto(view[:octets], address)
                count += 1
        except TimeoutError:
            continue
    pipe.send((cpu_s() - before, count, None))


def sink(pipe: Connection, stop: Event) -> None:
    """The bare receiver: recv, nothing else."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((HOST, 0))
    sock.settimeout(0.2)
    pipe.send(sock.getsockname())
    buffer, count = bytearray(65536), 0
    before = cpu_s()
    while not stop.is_set():
        try:
            while True:
                sock.recv_into(buffer)
                count += 1
        except TimeoutError:
            continue
    pipe.send((cpu_s() - before, count, None))


def reflector(pipe: Connection, stop: Event, mode: int, io: str = "auto") -> None:
    """A Reflector that answers whoever asks."""
    sock = open_test_socket(HOST)
    loop = Reflector(io=io)
    loop.add_session(ReflectorPlan(SID, mode, KEYS, sock.getsockname(), (HOST, 1), check_peer=False), sock)
    loop.start(SID)
    pipe.send(sock.getsockname())
    before = cpu_s()
    stop.wait()
    used = cpu_s() - before
    pipe.send((used, loop.counters(SID)["reflected"], None))
    loop.close()


def closed_loop(address: tuple[str, int], packet: bytes, seconds: float, window: int = 32) -> float:
    """Replies a second with so many packets under way.

    It asks for replies again and again instead of sleeping, so that no peer pays for waking it up.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.setblocking(False)
        receive, send, buffer = sock.recv_into, sock.send, bytearray(2048)
        for _ in range(window):
            send(packet)
        replies, start = 0, time.perf_counter()
        end, last = start + seconds, start
        while (now := time.perf_counter()) < end:
            try:
                receive(buffer)
            except BlockingIOError:
                if now - last > 1:
                    raise TimeoutError("no reply in a second") from None
                continue
            send(packet)
            replies += 1
            last = now
        return replies / (time.perf_counter() - start)


def bare_sender(address: tuple[str, int], packet: bytes, count: int, *, replies: bool) -> float:
    """CPU microseconds of a packet in a program that only sends, and takes the replies if there are any."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.setblocking(False)
        buffer, before = bytearray(2048), cpu_s()
        for _ in range(count):
            sock.send(packet)
            if replies:
                with contextlib.suppress(BlockingIOError):
                    sock.recv_into(buffer)
        return (cpu_s() - before) / count * 1e6


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each name over the rounds."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def perfsonar() -> Iterator[tuple[str, str]]:
    """perfSONAR's programs that are on the PATH: name and path."""
    for name in PERFSONAR:
        path = shutil.which(name)
        if path is not None:
            yield name, path


def run_perfsonar(name: str, *arguments: str) -> dict[str, Any] | None:
    """One run of a client of perfSONAR: seconds, CPU seconds, what it printed; None where it is not on the PATH."""
    path = dict(perfsonar()).get(name)
    if path is None:
        return None
    children, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {
        "seconds": time.perf_counter() - start, "cpu_s": used, "status": done.returncode,
        "output": done.stdout + done.stderr,
    }  # fmt: skip
