"""Each impairment of the router on packets between two namespaces, IPv4 and IPv6: one seed is one fate.

    alice 10.0.0.2 --- router --- 203.0.113.2 server

What is judged is what the far end received, and the router's own record of when each packet came and left.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from interop.lab.knobs import change
from interop.lab.nat import Nat44, Router
from interop.lab.netns import Lab, why_no_namespaces
from interop.lab.relay import ImpairmentCounters, Impairments, Sighting

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

COUNT, LAST = 200, 0xFFFF
END = LAST.to_bytes(2, "big")
INSIDE = ("10.0.0.0/24", "2001:db8:a::/64")
ADDRESSES = {4: ("10.0.0.2", "203.0.113.2"), 6: ("2001:db8:a::2", "2001:db8:b::2")}
PUBLIC = "203.0.113.5"
FLOAT_NS = 1_000
"""The router reckons in floating-point seconds."""


@contextmanager
def two_networks(*, nat: Nat44 | None = None, seed: int = 7, **knobs: Impairments) -> Iterator[tuple[Lab, Router]]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.link("alice", ["10.0.0.2/24", "2001:db8:a::2/64"], "router", ["10.0.0.1/24", "2001:db8:a::1/64"])
        lab.link("router", ["203.0.113.1/24", "2001:db8:b::1/64"], "server", ["203.0.113.2/24", "2001:db8:b::2/64"])
        for host, gateways in (
            ("alice", ("10.0.0.1", "2001:db8:a::1")),
            ("server", ("203.0.113.1", "2001:db8:b::1")),
        ):
            lab.run(host, ["ip", "route", "add", "default", "via", gateways[0]], check=True)
            lab.run(host, ["ip", "-6", "route", "add", "default", "via", gateways[1]], check=True)
        router = Router(lab.host("router"), INSIDE, nat=nat, seed=seed, clock_ns=time.time_ns, **knobs)
        yield lab, stack.enter_context(router)


@dataclass
class Run:
    """What the far end received, in order, and what the router says of it."""

    received: list[bytes]
    counters: ImpairmentCounters
    record: list[Sighting]

    @property
    def numbers(self) -> list[int]:
        return [int.from_bytes(payload[:2], "big") for payload in self.received]


def send(words: Sequence[str], *, seed: int = 7, version: int = 4, count: int = COUNT, back: bool = False) -> Run:
    """`count` numbered datagrams of 100 octets from alice to the server (`back`: the other way); all that arrive.

    A last one is sent without impairments when everything else has left the router: so nobody has to wait for what
    does not come.
    """
    impaired = change(Impairments(), words)
    knobs = (
        {"forward": Impairments(), "backward": impaired}
        if back
        else {"forward": impaired, "backward": Impairments()}
    )
    source, destination = ADDRESSES[version][::-1] if back else ADDRESSES[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    hosts = ("server", "alice") if back else ("alice", "server")
    with two_networks(seed=seed, **knobs) as (lab, router), ExitStack() as stack:
        sender, receiver = (
            stack.enter_context(lab.call(host, lambda: socket.socket(family, socket.SOCK_DGRAM))) for host in hosts
        )
        sender.bind((source, 7000))
        receiver.bind((destination, 7000))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.settimeout(20)
        for number in range(count):
            sender.sendto(number.to_bytes(2, "big") + bytes(98), (destination, 7000))
        impairer = router.schedule.backward if back else router.schedule.forward
        wait_until_idle(router, lambda: impairer.counters.received >= count)
        counters = impairer.counters
        record = [one for one in router.schedule.record if one.forward != back]
        router.call(lambda: impairer.change(Impairments()))
        sender.sendto(END, (destination, 7000))
        received: list[bytes] = []
        while (payload := receiver.recv(65535)) != END:
            received.append(payload)
    return Run(received, counters, record)


def wait_until_idle(router: Router, came: object) -> None:
    """Until all have come to the router, and nothing is under way in it any more."""
    state: list[bool] = []
    deadline = time.monotonic() + 60
    while True:
        router.call(lambda: state.append(bool(came()) and router.schedule.next_time() is None))  # type: ignore[operator]
        if state[-1]:
            return
        assert time.monotonic() < deadline
        time.sleep(0.005)


def sightings(run: Run) -> tuple[dict[int, int], dict[int, list[int]]]:
    """When each number came to the router, and when it (and its copies) left."""
    came: dict[int, int] = {}
    left: dict[int, list[int]] = {}
    for one in run.record:
        number = int.from_bytes(one.octets[-100:-98], "big")
        if one.left:
            left.setdefault(number, []).append(one.at_ns)
        else:
            came[number] = one.at_ns
    return came, left


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("words", "counter"),
    [
        (["loss=20%"], "lost"),
        (["duplication=20%"], "duplicated"),
        (["reordering=20%", "reorder-by=2"], "reordered"),
        (["corruption=20%", "repair=yes"], "corrupted"),
    ],
)
def test_one_seed_is_one_fate_on_the_wire(words: list[str], counter: str, version: int) -> None:
    one, same, other = (send(words, seed=seed, version=version) for seed in (7, 7, 8))
    assert one.received == same.received
    assert one.received != other.received
    happened = getattr(one.counters, counter)
    assert 0 < happened < COUNT / 2
    counted = Counter(one.numbers)
    if counter == "lost":
        assert len(one.numbers) == COUNT - happened
        assert one.numbers == sorted(counted)
    elif counter == "duplicated":
        assert sorted(counted.values()) == [1] * (COUNT - happened) + [2] * happened
    elif counter == "reordered":
        assert sorted(one.numbers) == list(range(COUNT))
        assert one.numbers != sorted(one.numbers)
    else:
        wrong = [
            octets for number, octets in enumerate(one.received) if octets != number.to_bytes(2, "big") + bytes(98)
        ]
        assert len(one.received) == COUNT
        assert len(wrong) == happened


@pytest.mark.parametrize("back", [False, True])
def test_each_direction_has_its_own(back: bool) -> None:
    run = send(["loss-every=4"], back=back)
    assert run.numbers == [number for number in range(COUNT) if (number + 1) % 4]


def test_corruption_that_is_not_repaired_is_lost_to_the_program() -> None:
    run = send(["corruption-every=5"])
    assert run.numbers == [number for number in range(COUNT) if (number + 1) % 5]
    assert run.counters.corrupted == COUNT // 5


def test_duplicates_and_losses_by_number() -> None:
    run = send(["loss-every=10", "duplication-every=7"])
    expected = [n for n in range(COUNT) for _ in range(2 if (n + 1) % 7 == 0 else 1) if (n + 1) % 10]
    assert run.numbers == expected


def test_delay_holds_every_packet_at_least_so_long() -> None:
    came, left = sightings(send(["delay=30ms"]))
    assert set(came) == set(left) == set(range(COUNT))
    assert all(left[number][0] - came[number] >= 30_000_000 - FLOAT_NS for number in came)


def test_jitter_is_drawn_by_the_seed() -> None:
    """A packet stays at least what was drawn for it: the draws of the same seed, here on a clock that stands still."""
    from interop.lab.relay import Impairer

    wanted = change(Impairments(), ["delay=10ms", "jitter=40ms"])
    came, left = sightings(send(["delay=10ms", "jitter=40ms"], count=100))
    model = Impairer(7, wanted, header_octets=0)
    drawn = [model.schedule(bytes(128), 0.0)[0][0] for _ in range(100)]
    assert max(drawn) > 0.04
    assert min(drawn) < 0.02
    assert all(left[number][0] - came[number] >= drawn[number] * 1e9 - FLOAT_NS for number in range(100))
    order = sorted(range(100), key=lambda number: left[number][0])
    assert order != list(range(100))


def test_a_rate_lets_nothing_through_sooner_than_the_link_could_carry_it() -> None:
    """128 octets at 1 Mbit/s are 1.024 ms; a queue of 2,560 octets has room for 20 of them."""
    run = send(["rate=1Mbit", "queue=2560"])
    came, left = sightings(run)
    assert run.counters.queue_drops > 0
    assert len(run.numbers) == COUNT - run.counters.queue_drops
    assert run.numbers == sorted(run.numbers)
    for place, number in enumerate(run.numbers, 1):
        assert left[number][0] - came[0] >= place * 1_024_000 - FLOAT_NS


def test_only_the_named_packets_are_meant() -> None:
    spared = send(["loss=100%", "only=udp:7001"])
    assert spared.numbers == list(range(COUNT))
    assert spared.counters.spared == COUNT
    assert send(["loss=100%", "only=udp:7000"]).numbers == []


def test_an_mtu_loses_what_is_larger() -> None:
    assert send(["mtu=128"]).numbers == list(range(COUNT))
    narrow = send(["mtu=127"])
    assert narrow.numbers == []
    assert narrow.counters.too_big == COUNT


def test_ports_of_the_nat_are_those_of_the_seed_and_rebinding_gives_new_ones() -> None:
    def ports(seed: int) -> list[int]:
        nat = Nat44(PUBLIC, ("10.0.0.0/24",), seed=seed)
        seen = []
        with two_networks(nat=nat, forward=Impairments()) as (lab, router):
            one = lab.call("alice", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            other = lab.call("server", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with one, other:
                one.bind(("10.0.0.2", 7000))
                other.bind(("203.0.113.2", 7000))
                one.settimeout(20)
                other.settimeout(20)
                for number in range(5):
                    one.sendto(bytes([number]), ("203.0.113.2", 7000))
                    payload, source = other.recvfrom(100)
                    assert (payload, source[0]) == (bytes([number]), PUBLIC)
                    other.sendto(b"back", source)
                    assert one.recv(100) == b"back"
                    seen.append(source[1])
                    if number % 2:
                        router.call(nat.rebind)
        return seen

    first = ports(3)
    assert first[0] == first[1] != first[2] == first[3] != first[4]
    assert ports(3) == first != ports(4)
