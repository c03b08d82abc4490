"""Impairments in user space, for kernels without netem and for tests with a clock of their own.

`Impairer` is the sans-IO core: a datagram goes in, what arrives, and when, comes out. `Relay` puts one between two
UDP endpoints. With one seed and one sequence of datagrams the result is the same on every machine.

    python -m interop.lab.relay --listen 192.0.2.3:4500 --to 192.0.2.2:4500 --delay 0.02 --loss 0.1 --seed 7
"""

from __future__ import annotations

import argparse
import heapq
import random
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

MAXIMUM_DATAGRAM = 65535
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Impairments:
    """What happens on the way. Probabilities are 0 to 1 and per datagram, times are seconds.

    `jitter_s` is added evenly from 0 up, which reorders by itself once it exceeds the datagrams' distance. A
    reordered datagram is held back by `reorder_by_s` more. A corrupted one has one bit flipped. `rate` is octets a
    second of the link (None: without limit), with a queue of `queue_octets` in front of it that drops its tail.
    `mtu` (None: without limit) is the largest IP datagram that gets through; larger ones are lost in silence, as
    where both IP fragments and ICMP errors are filtered.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reorder_by_s: float = 0.05
    corruption: float = 0.0
    rate: float | None = None
    queue_octets: int = 64_000
    mtu: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "corruption"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, from 0 to 1")
        if min(self.delay_s, self.jitter_s, self.reorder_by_s) < 0 or (self.rate is not None and self.rate <= 0):
            raise ValueError("delays are not negative, and a rate is positive")


@dataclass(slots=True)
class ImpairmentCounters:
    """What was done to how many datagrams. `queue_drops`: the rate's queue had no room; `too_big`: above the MTU."""

    received: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    queue_drops: int = 0
    too_big: int = 0


class Impairer:
    """One direction of a path. `now` is any clock that does not go back, in seconds.

    `header_octets` are those of IP and UDP in front of each datagram: 0 where they are part of it.
    """

    def __init__(self, seed: int, impairments: Impairments | None = None, *, header_octets: int = 28) -> None:
        self._header_octets = header_octets
        self.impairments = Impairments() if impairments is None else impairments
        self.counters = ImpairmentCounters()
        self._random = random.Random(seed)
        self._link_free_at = 0.0

    def schedule(self, datagram: bytes, now: float) -> list[tuple[float, bytes]]:
        """(when, octets) of everything that arrives because of this datagram, in the order of the draws.

        Each datagram costs the same number of draws whatever happens to it, so changing one probability leaves the
        fate of the others as it was.
        """
        wanted, counters = self.impairments, self.counters
        loss, duplication, reordering, corruption, jitter, second_jitter, place = (
            self._random.random() for _ in range(7)
        )
        counters.received += 1
        if loss < wanted.loss:
            counters.lost += 1
            return []
        if wanted.mtu is not None and self._header_octets + len(datagram) > wanted.mtu:
            counters.too_big += 1
            return []
        sent_at = self._through_the_link(len(datagram), now)
        if sent_at is None:
            counters.queue_drops += 1
            return []
        arrives_at = sent_at + wanted.delay_s + jitter * wanted.jitter_s
        if reordering < wanted.reordering:
            counters.reordered += 1
            arrives_at += wanted.reorder_by_s
        octets = datagram
        if corruption < wanted.corruption and datagram:
            counters.corrupted += 1
            octets = _flip_bit(datagram, int(place * 8 * len(datagram)))
        arrivals = [(arrives_at, octets)]
        if duplication < wanted.duplication:
            counters.duplicated += 1
            arrivals.append((sent_at + wanted.delay_s + second_jitter * wanted.jitter_s, octets))
        return arrivals

    def _through_the_link(self, size: int, now: float) -> float | None:
        """When its last octet has left; None when the queue before the link is full."""
        if self.impairments.rate is None:
            return now
        begins = max(now, self._link_free_at)
        waiting = (begins - now) * self.impairments.rate
        if waiting + size > self.impairments.queue_octets:
            return None
        self._link_free_at = begins + size / self.impairments.rate
        return self._link_free_at


def _flip_bit(datagram: bytes, bit: int) -> bytes:
    changed = bytearray(datagram)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@dataclass(order=True, slots=True)
class _Arrival:
    when: float
    number: int
    octets: bytes = field(compare=False)
    forward: bool = field(compare=False)


class Schedule:
    """What is under way in both directions of a path, by time of arrival: sans-IO, as a relay or a test drives it.

    Two datagrams for one moment arrive in the order in which they were put in.
    """

    def __init__(
        self,
        seed: int,
        forward: Impairments | None = None,
        backward: Impairments | None = None,
        *,
        header_octets: int = 28,
    ) -> None:
        """`backward` None: the same impairments both ways, each way with fortunes of its own."""
        self.forward = Impairer(seed, forward, header_octets=header_octets)
        self.backward = Impairer(seed + 1, forward if backward is None else backward, header_octets=header_octets)
        self._heap: list[_Arrival] = []
        self._number = 0

    def put(self, datagram: bytes, now: float, *, forward: bool) -> None:
        """A datagram enters the path at one of its ends."""
        impairer = self.forward if forward else self.backward
        for when, octets in impairer.schedule(datagram, now):
            self._number += 1
            heapq.heappush(self._heap, _Arrival(when, self._number, octets, forward))

    def next_time(self) -> float | None:
        """When the next datagram arrives; None when nothing is under way."""
        return self._heap[0].when if self._heap else None

    def due(self, now: float) -> list[tuple[bytes, bool]]:
        """(octets, forward) of what has arrived by `now`, in order."""
        arrived: list[tuple[bytes, bool]] = []
        while self._heap and self._heap[0].when <= now:
            arrival = heapq.heappop(self._heap)
            arrived.append((arrival.octets, arrival.forward))
        return arrived


class Relay:
    """Stands between a client and `target`: the client sends to `address`, and has the answers from there.

    The last one that sent to `address` is the client, as behind a NAT. Sockets are opened in the network namespace
    of the thread that makes the relay; `run` serves until `stop` is called from another thread.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        target: tuple[str, int],
        *,
        seed: int,
        forward: Impairments | None = None,
        backward: Impairments | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        header_octets = 48 if family == socket.AF_INET6 else 28
        self.schedule = Schedule(seed, forward, backward, header_octets=header_octets)
        self._near = socket.socket(family, socket.SOCK_DGRAM)
        self._far = socket.socket(family, socket.SOCK_DGRAM)
        self._wake_in, self._wake_out = socket.socketpair()
        try:
            self._near.bind(listen)
            self._far.connect(target)
        except OSError:
            self.close()
            raise
        for sock in (self._near, self._far, self._wake_in):
            sock.setblocking(False)
        self._client: tuple[str, int] | None = None
        self._running = True

    @property
    def address(self) -> tuple[str, int]:
        """Where the client shall send to."""
        host, port = self._near.getsockname()[:2]
        return host, port

    def run(self) -> None:
        """Relays until `stop`."""
        with selectors.DefaultSelector() as selector:
            for sock in (self._near, self._far, self._wake_in):
                selector.register(sock, selectors.EVENT_READ)
            while self._running:
                when = self.schedule.next_time()
                selector.select(_IDLE_S if when is None else max(0.0, when - time.monotonic()))
                self._receive()
                self._deliver()

    def stop(self) -> None:
        """Ends `run`; may be called from any thread, and from a signal handler."""
        self._running = False
        self._wake_out.send(b"\0")

    def close(self) -> None:
        for sock in (self._near, self._far, self._wake_in, self._wake_out):
            sock.close()

    def _receive(self) -> None:
        for sock, forward in ((self._near, True), (self._far, False)):
            while True:
                try:
                    datagram, sender = sock.recvfrom(MAXIMUM_DATAGRAM)
                except OSError:  # nothing more, or the far end's port is closed (ICMP)
                    break
                if forward:
                    self._client = sender
                self.schedule.put(datagram, time.monotonic(), forward=forward)

    def _deliver(self) -> None:
        for octets, forward in self.schedule.due(time.monotonic()):
            try:
                if forward:
                    self._far.send(octets)
                elif self._client is not None:
                    self._near.sendto(octets, self._client)
            except OSError:
                continue  # a full buffer or a closed port: a path loses packets


def _endpoint(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the head of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m interop.lab.relay", description="A bad path between two hosts."
    )
    parser.add_argument("--listen", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--to", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--seed", type=int, default=1)
    for name in ("delay", "jitter"):
        parser.add_argument(f"--{name}", type=float, default=0.0, metavar="SECONDS")
    for name in ("loss", "duplication", "reordering", "corruption"):
        parser.add_argument(f"--{name}", type=float, default=0.0, metavar="PROBABILITY")
    parser.add_argument("--mtu", type=int, metavar="OCTETS", help="the largest IP datagram that gets through")
    given = parser.parse_args(arguments)
    impairments = Impairments(
        delay_s=given.delay,
        jitter_s=given.jitter,
        loss=given.loss,
        duplication=given.duplication,
        reordering=given.reordering,
        corruption=given.corruption,
        mtu=given.mtu,
    )
    relay = Relay(given.listen, given.to, seed=given.seed, forward=impairments)
    print(f"relay on {relay.address[0]}:{relay.address[1]}", flush=True)
    try:
        relay.run()
    except KeyboardInterrupt:
        pass
    finally:
        relay.close()
        print(f"forward {relay.schedule.forward.counters}, backward {relay.schedule.backward.counters}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
