"""A responder under forged IKE_SA_INIT requests from random addresses: does a genuine initiator get through?

    python bench/ike_flood.py [--rate 10000] [--seconds 10] [--udp]

In one process without sockets: forged requests are due at the given rate in real time and wait, as in a socket's
buffer, in a queue of --queue datagrams; what finds it full is lost, genuine or not. A genuine initiator begins
every second with charon's retransmission (first after 2 s). Printed: what was handled and lost, the CPU of one
forged request, when each genuine initiator had its IKE SA (goal 2 s), how the memory grew.

With --udp also for `ikev2 run` in a namespace of this script's own (needs root): a second process sends the
forged requests from a raw socket, and this one is the genuine initiator.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

from ike import ESP, IKE, A, B, Spis, SystemOctets, manager
from ike_lab import INITIATOR, RESPONDER, Caller, cpu_s, our_responder, resident_octets

from ikev2.core.config import ChildConfig, ConnectionConfig, Identity, Limits
from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager
from ikev2.core.state import State
from ikev2.core.types import Address, Datagram
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.io.netns import TwoHosts, probe_namespaces

SPI_OCTETS = 8
UDP_HEADER = struct.Struct("!HHHH")
IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")


def forged_request() -> bytes:
    """An IKE_SA_INIT request that any responder with our proposal would take up; vary its SPI for another."""
    stranger = manager(A, B, ("a.example", "b.example"))
    stranger.initiate("bench", B, A, 0.0)
    (datagram,) = stranger.datagrams_to_send()
    return datagram.data


def random_host() -> str:
    """An address of 10.0.0.0/8."""
    return ".".join(map(str, (10, *os.urandom(3))))


def responder() -> SaManager:
    """A responder that anybody may call, with the limits that it has by default."""
    connection = ConnectionConfig(
        name="bench", local_addrs=(B.host,), remote_addrs=("%any",), proposals=(parse_ike_proposal(IKE),),
        local_id=Identity.parse("b.example"), remote_id=Identity.parse("a.example"),
        psk=SecretOctets("psk", b"a pre-shared key of this bench"), send_initial_contact=False,
        children=(ChildConfig("net", esp_proposals=(parse_esp_proposal(ESP),)),),
    )  # fmt: skip
    return SaManager((connection,), SystemOctets(), Spis(), Limits())


class Genuine:
    """Initiators of one address, one beginning every second."""

    def __init__(self) -> None:
        self.manager = manager(A, B, ("a.example", "b.example"))
        self.begun: list[tuple[float, IkeSa]] = []
        self.took: dict[int, float] = {}

    def turn(self, now: float) -> list[Datagram]:
        """What they send now."""
        self.manager.handle_timer(now)
        while self.manager.next_event() is not None:
            pass
        for number, (since, sa) in enumerate(self.begun):
            if number not in self.took and sa.state is State.ESTABLISHED:
                self.took[number] = now - since
        return self.manager.datagrams_to_send()

    def begin(self, now: float) -> None:
        """One more."""
        self.begun.append((now, self.manager.initiate("bench", B, A, now)))

    def story(self) -> str:
        """How many got through, and how long it took them."""
        return story(list(self.took.values()), len(self.begun))


def story(took: list[float], begun: int) -> str:
    """How many of the genuine initiators got through, and how long it took them."""
    if not took:
        return f"genuine initiators: none of {begun} got through"
    return (
        f"genuine initiators: {len(took)} of {begun} got through, after {statistics.median(took) * 1e3:,.1f} ms in "
        f"the median, {max(took) * 1e3:,.1f} ms at most (goal 2,000)"
    )


def in_process(rate: float, seconds: float, room: int) -> None:
    """The flood without sockets."""
    side, genuine = responder(), Genuine()
    tail = forged_request()[SPI_OCTETS:]
    hosts = [random_host() for _ in range(50_000)]
    queue: deque[tuple[bytes, Address]] = deque()
    gc.collect()
    before = resident_octets(os.getpid())
    due = lost = handled = 0
    spent = 0.0
    started = now = time.monotonic()
    while now < started + seconds:
        now = time.monotonic()
        if len(genuine.begun) < now - started - 0.5:
            genuine.begin(now)
        arrivals: list[tuple[bytes, Address]] = []
        while due < (now - started) * rate and due < rate * seconds:
            arrivals.append((os.urandom(SPI_OCTETS) + tail, Address(hosts[due % len(hosts)], 500)))
            due += 1
        for datagram in genuine.turn(now):
            arrivals.insert(random.randint(0, len(arrivals)), (datagram.data, A))
        lost += max(0, len(arrivals) + len(queue) - room)
        queue.extend(arrivals[: max(0, room - len(queue))])
        begin = time.process_time()
        for _ in range(min(16, len(queue))):
            data, remote = queue.popleft()
            side.receive_datagram(data, B, remote, now)
            handled += 1
        side.handle_timer(now)
        while side.next_event() is not None:
            pass
        answers = side.datagrams_to_send()
        spent += time.process_time() - begin
        for datagram in answers:
            if datagram.remote == A:
                genuine.manager.receive_datagram(datagram.data, A, B, now)
    grown = resident_octets(os.getpid()) - before
    print(f"in one process, {rate:,.0f} forged requests/s for {seconds:.0f} s:")
    print(
        f"  handled {handled / seconds:,.0f}/s, lost before that {lost / seconds:,.0f}/s; "
        f"{1e6 * spent / handled:.0f} us of CPU each, one core is full at {handled / spent:,.0f}/s"
    )
    print(f"  {genuine.story()}")
    print(
        f"  {side.half_open_count} half-open IKE SAs, {side.remembered} in all; "
        f"resident memory grew by {grown / 1024:,.0f} KiB"
    )


def send_forged(rate: float, seconds: float) -> None:
    """The flooding process: IPv4 with a source address of its own choice, without a UDP checksum."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    request = forged_request()
    target = socket.inet_aton(RESPONDER)
    udp = UDP_HEADER.pack(500, 500, UDP_HEADER.size + len(request), 0)
    length = IPV4_HEADER.size + len(udp) + len(request)
    sent = 0
    started = now = time.monotonic()
    while now < started + seconds:
        now = time.monotonic()
        while sent < (now - started) * rate:
            source = b"\x0a" + os.urandom(3)
            # The kernel fills in the checksum of the IP header.
            header = IPV4_HEADER.pack(0x45, 0, length, 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
            sock.sendto(header + udp + os.urandom(SPI_OCTETS) + request[SPI_OCTETS:], (RESPONDER, 0))
            sent += 1
        select.select((), (), (), 0.0005)
    print(f"{sent / seconds:.0f}")


def over_udp(rate: float, seconds: float) -> None:
    """The flood against `ikev2 run`."""
    probe = probe_namespaces()
    if not probe.ok:
        raise SystemExit(probe.reason)
    with (
        tempfile.TemporaryDirectory(prefix="ike-flood-") as base,
        TwoHosts((f"{INITIATOR}/24",), (f"{RESPONDER}/24",)) as hosts,
        our_responder(hosts.host("b"), Path(base), with_child=False, remote="%any") as process,
        closing(Caller(hosts.host("a"), with_child=False)) as caller,
    ):
        hosts.run("b", ["ip", "route", "add", "default", "via", INITIATOR])
        caller.handshake(10.0)
        alone = caller.handshake(10.0)[0]
        memory, cpu = resident_octets(process.pid), cpu_s(process.pid)
        argv = [sys.executable, __file__, "--forge", "--rate", str(rate), "--seconds", str(seconds)]
        flood: subprocess.Popen[Any] = hosts.popen("a", argv, stdout=subprocess.PIPE, text=True)
        time.sleep(1.5)
        took = []
        started = time.monotonic()
        while flood.poll() is None and time.monotonic() < started + 2 * seconds:
            took.append(caller.handshake(30.0)[0])
            time.sleep(0.2)
        flood.wait(10)
        grown, used = resident_octets(process.pid) - memory, cpu_s(process.pid) - cpu
        sent = (flood.stdout.read() if flood.stdout else "").strip()
        print(f"`ikev2 run` over UDP, {float(sent):,.0f} forged requests/s sent for {seconds:.0f} s:")
        print(f"  {story(took, len(took))}; {alone * 1e3:.1f} ms without the flood")
        print(f"  {used:.1f} s of CPU, resident memory grew by {grown / 1024:,.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--queue", type=int, default=256, help="datagrams that a socket's buffer holds")
    parser.add_argument("--udp", action="store_true", help="also for `ikev2 run` in a namespace")
    parser.add_argument("--forge", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.forge:
        send_forged(arguments.rate, arguments.seconds)
        return
    in_process(arguments.rate, arguments.seconds, arguments.queue)
    if arguments.udp:
        over_udp(arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
