"""How long the set-up of a Control connection takes: from connecting until sessions can be requested.

    python bench/control.py [--times 200] [--rounds 3] [--json]

Client and server are processes of their own on the loopback interface. Keyed set-ups have a passphrase; what PBKDF2
takes for the server's Count is timed apart, in the same run, and subtracted once for each end. The bare peer connects
over TCP, and exchanges as many octets in as many turns. Rounds alternate; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from measure_lab import HOST, Peer, cpu_s, machine, medians, run_perfsonar

from ippm import OwampServer, TwampServer, TwpingOptions
from ippm.crypto import PassphraseProvider
from ippm.io.options import ServerOptions
from ippm.io.owamp_client import OwampTcpClient
from ippm.io.owamp_options import OwampServerOptions, OwpingOptions
from ippm.io.twamp_client import TwampClient

COUNT = 1024
PASSPHRASES = {"bench": b"a passphrase of this benchmark"}
TURNS = ((64, 164), (48, 0))
"""Octets to the client and back: Server-Greeting, Set-Up-Response, Server-Start. RFC 4656 section 3.1."""


def servers(pipe: Connection, stop: Event) -> None:
    """Both servers, for open and keyed modes."""

    async def serve() -> None:
        provider = PassphraseProvider(PASSPHRASES)
        two_way = TwampServer(ServerOptions(address=HOST, port=0, count=COUNT), provider)
        one_way = OwampServer(OwampServerOptions(address=HOST, port=0, count=COUNT), provider)
        await two_way.start()
        await one_way.start()
        pipe.send((two_way.port, one_way.port))
        before = cpu_s()
        await asyncio.to_thread(stop.wait)
        pipe.send((cpu_s() - before, 1, None))
        await two_way.stop()
        await one_way.stop()

    asyncio.run(serve())


def bare(pipe: Connection, stop: Event) -> None:
    """A TCP server that says as much in as many turns."""
    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(0.2)
        pipe.send(listening.getsockname()[1])
        before = cpu_s()
        while not stop.is_set():
            try:
                sock, _ = listening.accept()
            except TimeoutError:
                continue
            with sock:
                for octets, wanted in TURNS:
                    sock.sendall(bytes(octets))
                    while wanted > 0:
                        wanted -= len(sock.recv(4096))
                sock.recv(1)
        pipe.send((cpu_s() - before, 1, None))


def bare_us(port: int, times: int) -> float:
    """Median microseconds."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        with socket.create_connection((HOST, port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octets, answer in TURNS:
                left = octets
                while left > 0:
                    left -= len(sock.recv(4096))
                if answer:
                    sock.sendall(bytes(answer))
            spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e6


async def set_up_us(connect: Callable[[], Any], times: int) -> float:
    """Median microseconds."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        client = await connect()
        spent.append(time.perf_counter() - start)
        await client.close()
    return statistics.median(spent) * 1e6


def pbkdf2_us(times: int) -> float:
    """What PBKDF2 takes for COUNT, median microseconds. RFC 4656 section 3.1."""
    spent = []
    for number in range(times):
        start = time.perf_counter()
        hashlib.pbkdf2_hmac("sha1", PASSPHRASES["bench"], number.to_bytes(16, "big"), COUNT, 16)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e6


def measure(times: int) -> dict[str, float]:
    """One round."""
    keys = PassphraseProvider(PASSPHRASES, "bench")
    row: dict[str, float] = {}
    with Peer(bare) as peer:
        row["bare_us"] = bare_us(peer.address, times)
    with Peer(servers) as peer:
        two_way, one_way = peer.address
        for name, mode, provider in (("open", "open", None), ("keyed", "encrypted", keys)):
            ping, owping = (
                TwpingOptions(HOST, port=two_way, mode=mode),
                OwpingOptions(HOST, port=one_way, mode=mode),
            )
            twamp = lambda: TwampClient.connect(ping, provider)  # noqa: B023, E731
            owamp = lambda: OwampTcpClient.connect(owping, provider)  # noqa: B023, E731
            row[f"twamp_{name}_us"] = asyncio.run(set_up_us(twamp, times))
            row[f"owamp_{name}_us"] = asyncio.run(set_up_us(owamp, times))
    row["pbkdf2_us"] = pbkdf2_us(times)
    for protocol in ("twamp", "owamp"):
        row[f"{protocol}_keyed_beyond_pbkdf2_us"] = row[f"{protocol}_keyed_us"] - 2 * row["pbkdf2_us"]
    return row


def perfsonar() -> dict[str, Any] | None:
    """A run of perfSONAR's twping with one packet against our server, where it is on the PATH."""
    with Peer(servers) as peer:
        return run_perfsonar("twping", "-c", "1", "-A", "O", f"{HOST}:{peer.address[0]}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    row = medians([measure(options.times) for _ in range(options.rounds)])
    peer = perfsonar()
    if options.json:
        print(json.dumps({"machine": machine(), "results": row, "twping": peer}, indent=1))
        return
    print(
        f"set-up of a Control connection, Count {COUNT}, load {machine()['load']:.1f}: milliseconds, of the bare turns"
    )
    for name, value in row.items():
        print(f"  {name.removesuffix('_us').replace('_', ' '):30}{value / 1e3:8.3f}{value / row['bare_us']:8.2f}")
    print("perfSONAR's twping is not on the PATH" if peer is None else f"perfSONAR's twping: {peer['output']}")


if __name__ == "__main__":
    main()
