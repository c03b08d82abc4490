"""How many TWAMP sessions one server carries at once, and what each costs. Run: python bench/twamp_sessions.py

    python bench/twamp_sessions.py [--sessions 5000] [--per-connection 100] [--rounds 3]

A server in a process of its own; every session is requested, started, and gets one packet in each round. Memory is what
the server's process takes from the system; CPU is its own, user and system together.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import time
from multiprocessing.connection import Connection

from ippm import TwampServer, TwpingOptions
from ippm.core.control_client import SessionWish
from ippm.core.control_events import Endpoint, TestSession
from ippm.io.clock import now_ntp
from ippm.io.descriptors import raise_descriptor_limit
from ippm.io.options import ServerOptions
from ippm.io.twamp_client import TwampClient

HOST = "127.0.0.1"
PORTS = (20000, 31999)


def resident_octets() -> int:
    """The resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def server_process(pipe: Connection, sessions: int, per_connection: int) -> None:
    """A server with limits that let this many in; answers each word with (resident octets, CPU seconds)."""

    async def serve() -> None:
        connections = sessions // per_connection + 1
        server = TwampServer(
            ServerOptions(
                address=HOST, port=0, test_ports=PORTS, maximum_sessions=sessions, maximum_open_sessions=sessions,
                open_sessions_per_connection=per_connection, maximum_connections=connections,
                connections_per_address=connections,
            )
        )  # fmt: skip
        await server.start()
        pipe.send(server.port)
        while await asyncio.to_thread(pipe.recv):
            pipe.send((resident_octets(), time.process_time(), server.sessions))
        await server.stop()

    raise_descriptor_limit()
    asyncio.run(serve())


async def measure(pipe: Connection, sessions: int, per_connection: int, rounds: int) -> None:
    """The client's side, and the figures."""
    port = pipe.recv()

    def ask() -> tuple[int, float, int]:
        pipe.send(True)
        answer: tuple[int, float, int] = pipe.recv()
        return answer

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind((HOST, 0))
    wish = SessionWish(Endpoint(HOST, int(sock.getsockname()[1])), timeout_ns=2_000_000_000)
    options = TwpingOptions(HOST, port=port, local_address=HOST)
    resident, cpu, _ = ask()
    began = time.perf_counter()
    clients: list[TwampClient] = []
    made: list[TestSession] = []
    for number in range(sessions):
        if number % per_connection == 0:
            clients.append(await TwampClient.connect(options))
        made.append(await clients[-1].request_session(wish))
    for client in clients:
        await client.start_sessions()
    spent = time.perf_counter() - began
    full, full_cpu, count = ask()
    print(f"{count} sessions on {len(clients)} connections: {spent:.2f} s to request and start all of them")
    print(
        f"server: {(full - resident) / sessions / 1000:.1f} kB and {(full_cpu - cpu) / sessions * 1e6:.0f} us each"
    )
    for sequence in range(rounds):
        began, (_, cpu, _) = time.perf_counter(), ask()
        answered = await asyncio.to_thread(round_trip, sock, made, sequence)
        spent = time.perf_counter() - began
        used = ask()[1] - cpu
        print(f"round {sequence}: {answered} of {sessions} answered in {spent:.2f} s, server CPU {used:.2f} s")
    for client in clients:
        await client.close()
    sock.close()
    pipe.send(False)


def round_trip(sock: socket.socket, sessions: list[TestSession], sequence: int) -> int:
    """A packet of each session, 64 on their way at most; how many were answered."""
    answered = waiting = 0
    sock.settimeout(0.5)
    for number, session in enumerate(sessions, 1):
        packet = sequence.to_bytes(4, "big") + now_ntp().to_bytes(8, "big") + b"\x80\x01" + bytes(27)
        sock.sendto(packet, (HOST, session.reflector.port))
        waiting += 1
        while waiting and (waiting >= 64 or number == len(sessions)):
            try:
                sock.recv(100)
                answered += 1
            except TimeoutError:
                return answered
            waiting -= 1
    return answered


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--per-connection", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=server_process, args=(theirs, options.sessions, options.per_connection), daemon=True
    )
    process.start()
    asyncio.run(measure(ours, options.sessions, options.per_connection, options.rounds))
    process.join()


if __name__ == "__main__":
    main()
