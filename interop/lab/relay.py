"""Impairments in user space, for kernels without netem and for tests with a clock of their own.

`Impairer` is the sans-IO core: a datagram goes in, what arrives, and when, comes out. `Relay` puts one between two
UDP endpoints, `Router` of interop/lab/nat.py between two networks. With one seed and one sequence of datagrams the
result is the same on every machine. interop/lab/knobs.py has the words for all of it.

    python -m interop.lab.relay --listen 192.0.2.3:4500 --to 192.0.2.2:4500 --seed 7 delay=20ms loss=10%
"""

from __future__ import annotations

import argparse
import heapq
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from interop.lab.packet import Selection, flip_bit

MAXIMUM_DATAGRAM = 65535
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Impairments:
    """What happens on the way. Probabilities are 0 to 1 and per datagram, times are seconds.

    `jitter_s` is added evenly from 0 up, which reorders by itself once it exceeds the datagrams' distance. A
    reordered datagram is held back by `reorder_by_s` more, or, with `reorder_by`, until so many others have arrived
    after it was sent (or `hold_s` has passed). A corrupted one has one bit flipped, behind the IP header; with
    `repair` in what TCP or UDP carry, and their checksum is made right again. `rate` is octets a
    second of the link (None: without limit), with a queue of `queue_octets` in front of it that drops its tail.
    `mtu` (None: without limit) is the largest IP datagram that gets through; larger ones are lost in silence, as
    where both IP fragments and ICMP errors are filtered.

    `loss_every` = N loses the Nth, the 2Nth ... datagram, without any chance; the others ending in `_every` likewise.
    `only` names the IP packets that are impaired and counted (`udp`, `esp`, `tcp:862`, `50`); None: all.
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
    loss_every: int | None = None
    duplication_every: int | None = None
    reordering_every: int | None = None
    corruption_every: int | None = None
    reorder_by: int | None = None
    hold_s: float = 1.0
    repair: bool = False
    only: str | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "corruption"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, from 0 to 1")
        if min(self.delay_s, self.jitter_s, self.reorder_by_s, self.hold_s) < 0:
            raise ValueError("a time is not negative")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("a rate is not negative, and not zero")
        counts = ("loss_every", "duplication_every", "reordering_every", "corruption_every", "reorder_by", "mtu")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is a number from 1 up")
        if self.only is not None:
            Selection.parse(self.only)


@dataclass(slots=True)
class ImpairmentCounters:
    """What was done to how many datagrams. `queue_drops`: the rate's queue had no room; `too_big`: above the MTU.

    `received` are all, `spared` among them those that `only` does not name.
    """

    received: int = 0
    spared: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    queue_drops: int = 0
    too_big: int = 0


@dataclass(slots=True)
class _Held:
    """A datagram, or it and its copy, that others are to overtake."""

    arrivals: list[tuple[float, bytes]]
    to_pass: int
    until: float


class Impairer:
    """One direction of a path. `now` is any clock that does not go back, in seconds.

    `header_octets` are those of IP and UDP in front of each datagram: 0 where they are part of it.
    """

    def __init__(self, seed: int, impairments: Impairments | None = None, *, header_octets: int = 28) -> None:
        self._header_octets = header_octets
        self.counters = ImpairmentCounters()
        self._random = random.Random(seed)
        self._link_free_at = 0.0
        self._held: list[_Held] = []
        self.change(Impairments() if impairments is None else impairments)

    def change(self, impairments: Impairments) -> None:
        """Others from the next datagram on, which is the first that the `_every` of these count."""
        if impairments.only is not None and self._header_octets:
            raise ValueError("`only` is for whole IP packets; this relay carries what UDP carries")
        self.impairments = impairments
        self._selection = None if impairments.only is None else Selection.parse(impairments.only)
        self._number = 0

    def schedule(self, datagram: bytes, now: float) -> list[tuple[float, bytes]]:
        """(when, octets) of everything that arrives because of this datagram, in the order of the draws.

        Each datagram costs the same number of draws whatever happens to it, so changing one probability leaves the
        fate of the others as it was. What was held back follows the datagram that was the last to overtake it.
        """
        counters = self.counters
        counters.received += 1
        if self._selection is not None and not self._selection.takes(datagram):
            counters.spared += 1
            return [(now, datagram)]
        wanted = self.impairments
        self._number += 1
        loss, duplication, reordering, corruption, jitter, second_jitter, place = (
            self._random.random() for _ in range(7)
        )
        if loss < wanted.loss or self._is_nth(wanted.loss_every):
            counters.lost += 1
            return []
        if wanted.mtu is not None and self._header_octets + len(datagram) > wanted.mtu:
            counters.too_big += 1
            return []
        sent_at = self._through_the_link(len(datagram), now)
        if sent_at is None:
            counters.queue_drops += 1
            return []
        octets = datagram
        if datagram and (corruption < wanted.corruption or self._is_nth(wanted.corruption_every)):
            counters.corrupted += 1
            octets = flip_bit(datagram, place, whole=not self._header_octets, repair=wanted.repair)
        arrivals = [(sent_at + wanted.delay_s + jitter * wanted.jitter_s, octets)]
        if duplication < wanted.duplication or self._is_nth(wanted.duplication_every):
            counters.duplicated += 1
            arrivals.append((sent_at + wanted.delay_s + second_jitter * wanted.jitter_s, octets))
        if reordering < wanted.reordering or self._is_nth(wanted.reordering_every):
            counters.reordered += 1
            if wanted.reorder_by is not None:
                self._held.append(_Held(arrivals, wanted.reorder_by, now + wanted.hold_s))
                return []
            arrivals = [(when + wanted.reorder_by_s, copy) for when, copy in arrivals]
        return arrivals + self._overtaken(arrivals[0][0])

    def next_release(self) -> float | None:
        """When `expired` has something at the latest; None when nothing is held back."""
        return min((held.until for held in self._held), default=None)

    def expired(self, now: float) -> list[tuple[float, bytes]]:
        """What was held back for `hold_s` without being overtaken by as many as it should have been."""
        done = [held for held in self._held if held.until <= now]
        self._held = [held for held in self._held if held.until > now]
        return [(max(when, held.until), octets) for held in done for when, octets in held.arrivals]

    def _is_nth(self, every: int | None) -> bool:
        return every is not None and self._number % every == 0

    def _overtaken(self, when: float) -> list[tuple[float, bytes]]:
        """What follows a datagram that arrives at `when`, after it has passed all that are held back."""
        for held in self._held:
            held.to_pass -= 1
        done = [held for held in self._held if not held.to_pass]
        self._held = [held for held in self._held if held.to_pass]
        return [(max(own, when), octets) for held in done for own, octets in held.arrivals]

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


@dataclass(order=True, slots=True)
class _Arrival:
    when: float
    number: int
    octets: bytes = field(compare=False)
    forward: bool = field(compare=False)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A datagram that came to the relay, or left it: in which direction, when, by the clock of the record."""

    forward: bool
    left: bool
    at_ns: int
    octets: bytes = field(repr=False)


class Schedule:
    """What is under way in both directions of a path, by time of arrival: sans-IO, as a relay or a test drives it.

    Two datagrams for one moment arrive in the order in which they were put in. With `clock_ns` there is a `record`:
    a stamp of that clock for each datagram when it is put in, and when it is given out.
    """

    def __init__(
        self,
        seed: int,
        forward: Impairments | None = None,
        backward: Impairments | None = None,
        *,
        header_octets: int = 28,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        """`backward` None: the same impairments both ways, each way with fortunes of its own."""
        self.forward = Impairer(seed, forward, header_octets=header_octets)
        self.backward = Impairer(seed + 1, forward if backward is None else backward, header_octets=header_octets)
        self.record: list[Sighting] = []
        self._clock_ns = clock_ns
        self._heap: list[_Arrival] = []
        self._number = 0

    def stamp(self) -> int:
        """The time by the clock of the record; 0 without one."""
        return 0 if self._clock_ns is None else self._clock_ns()

    def put(self, datagram: bytes, now: float, *, forward: bool, at_ns: int | None = None) -> None:
        """A datagram enters the path at one of its ends.

        `at_ns` is a `stamp` that was taken before `now` was read: then the record never has a datagram leave sooner
        after it came than its impairments let it.
        """
        if self._clock_ns is not None:
            came_at = self._clock_ns() if at_ns is None else at_ns
            self.record.append(Sighting(forward, False, came_at, datagram))
        impairer = self.forward if forward else self.backward
        self._push(impairer.schedule(datagram, now), forward)

    def next_time(self) -> float | None:
        """When the next datagram arrives; None when nothing is under way."""
        times = [self.forward.next_release(), self.backward.next_release()]
        if self._heap:
            times.append(self._heap[0].when)
        return min((when for when in times if when is not None), default=None)

    def due(self, now: float) -> list[tuple[bytes, bool]]:
        """(octets, forward) of what has arrived by `now`, in order."""
        self._push(self.forward.expired(now), True)
        self._push(self.backward.expired(now), False)
        arrived: list[tuple[bytes, bool]] = []
        while self._heap and self._heap[0].when <= now:
            arrival = heapq.heappop(self._heap)
            arrived.append((arrival.octets, arrival.forward))
            if self._clock_ns is not None:
                self.record.append(Sighting(arrival.forward, True, self._clock_ns(), arrival.octets))
        return arrived

    def _push(self, arrivals: Sequence[tuple[float, bytes]], forward: bool) -> None:
        for when, octets in arrivals:
            self._number += 1
            heapq.heappush(self._heap, _Arrival(when, self._number, octets, forward))


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
    from interop.lab.knobs import KnobError, change, help_text

    parser = argparse.ArgumentParser(
        prog="python -m interop.lab.relay",
        description="A bad path between two hosts.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--to", type=_endpoint, required=True, metavar="HOST:PORT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("knobs", nargs="*", metavar="KNOB=VALUE")
    given = parser.parse_args(arguments)
    try:
        impairments = change(Impairments(), given.knobs)
        relay = Relay(given.listen, given.to, seed=given.seed, forward=impairments)
    except (KnobError, ValueError) as error:
        parser.error(str(error))
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
