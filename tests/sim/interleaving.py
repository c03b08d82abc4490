"""Every order in which two ends can act and their messages arrive: chosen step by step, without repeating oneself.

Two hosts are steered: a step is an action of one end, or the delivery, loss or doubling of one message. Steps at
different ends that could both have come first change nothing for each other, so of their two orders only one is
followed further; but every state in between is looked at. After the last chosen step all else goes its usual way until
nothing is left to do, and then both ends must agree, and nothing may be left over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from sim.network import Host, Network, Sent, connected

from ikev2.core.config import Retransmission
from ikev2.core.state import State

Action = Callable[[Network, Host], None]


def rekey_child(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        for child in list(sa.children.values()):
            host.manager.rekey_child(child.params, network.now)


def rekey_ike(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        if sa.state is State.ESTABLISHED:
            host.manager.rekey(sa, network.now)


def delete_child(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        for child in list(sa.children.values()):
            host.manager.delete_child(child.params, network.now)


def delete_ike(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        host.manager.delete(sa, network.now)


def make_child(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        if sa.state is State.ESTABLISHED:
            host.manager.make_child(sa, "net", network.now)


def check_alive(network: Network, host: Host) -> None:
    for sa in host.manager.sas:
        host.manager.check_liveness(sa, network.now)


def name_of(action: Action) -> str:
    return action.__name__


PATIENT = Retransmission(timeout_s=1.0, base=1.2, tries=20)
"""So that no peer is given up because of loss."""
REKEYS = (rekey_child, rekey_ike)
ACTIONS = (rekey_child, rekey_ike, delete_child, delete_ike, make_child)
DELETIONS = (delete_child, delete_ike)

Lines = dict[str, set[int]]
"""Of each end the reqids of the Child SAs that it must always have: a line goes on through all rekeyings."""


def lines_of(*hosts: Host) -> Lines:
    return {host.name: {child.reqid for child in host.installed.values()} for host in hosts}


def assert_no_gap(a: Host, b: Host, lines: Lines | None = None) -> None:
    """What either end sends on now, in each of its lines of Child SAs, the other accepts."""
    wanted = lines_of(a, b) if lines is None else lines
    for sender, receiver in ((a, b), (b, a)):
        assert sender.sending, "nothing to send on"
        for reqid in wanted[sender.name]:
            spi_in = next((spi for spi in sender.sending if sender.installed[spi].reqid == reqid), None)
            assert spi_in is not None, f"{sender.name} has nothing to send on"
            spi_out = sender.installed[spi_in].spi_out
            assert spi_out in receiver.installed, f"{sender.name} sends on what {receiver.name} does not have"


def assert_agreed(a: Host, b: Host) -> None:
    """At rest: the same IKE SAs and Child SAs at both ends, nothing under way, nothing left over."""
    assert {(sa.spi_i, sa.spi_r) for sa in a.manager.sas} == {(sa.spi_i, sa.spi_r) for sa in b.manager.sas}
    for host, other in ((a, b), (b, a)):
        assert host.manager.internal_errors == 0
        assert not host.spis.reserved
        assert host.manager.next_timer() is None
        assert host.manager.next_event() is None
        assert host.manager.datagrams_to_send() == []
        assert host.manager.remembered == len(host.manager.sas)
        assert host.manager.half_open_count == 0
        found = set()
        for sa in host.manager.sas:
            assert sa.state is State.ESTABLISHED
            assert not sa.requests.outstanding
            assert len(sa.responses.kept) <= sa.responses.window <= sa.connection.window_size
            assert not sa.fragmentation.requests
            assert not sa.fragmentation.responses
            assert not sa.tasks
            assert not sa.times.retries
            assert not sa.unwanted_spis
            assert sa.predecessor is None
            assert sa.heir is None
            assert sa.deadline is None
            for child in sa.children.values():
                assert not child.closing
                assert not child.rekeying
                assert child.standby_for is None
                assert (child.params.ike_spi_i, child.params.ike_spi_r) == (sa.spi_i, sa.spi_r)
            found |= set(sa.children)
            theirs = other.manager.find(sa.spi_i, sa.spi_r)
            assert theirs is not None
            assert sa.requests.next_id == theirs.responses.expected_id
            assert sa.requests.window == theirs.responses.window
            assert {c.params.spi_in: c.params.spi_out for c in sa.children.values()} == {
                c.params.spi_out: c.params.spi_in for c in theirs.children.values()
            }
        assert set(host.installed) == found == set(host.sending)


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that could happen next, at one end ("": at both); `key` tells whether it is the same one later."""

    end: str
    key: Hashable
    take: Callable[[], None]


class Steered:
    """A pair of hosts whose every step is chosen.

    With `overtaking` any message of a queue may be delivered, not only the first. With `faults` left a message may also
    be lost, or come twice, or be overtaken, and then time may pass until something is sent again.
    """

    def __init__(
        self,
        seed: int,
        actions: Sequence[tuple[str, Action]],
        *,
        faults: int = 0,
        window: int = 1,
        children: int = 1,
        overtaking: bool = False,
    ) -> None:
        options: dict[str, object] = {"window_size": window}
        self.network, self.a, self.b = connected(seed, a=options, b=options)
        for _ in range(children - 1):
            make_child(self.network, self.a)
            self.network.run(self.network.now + 1)
        self.children = children
        self.lines = lines_of(self.a, self.b)
        self.queues: dict[str, list[Sent]] = {"a": [], "b": []}
        self.actions = list(enumerate(actions))
        self.keeps_all = not any(action in DELETIONS for _, action in actions)
        self.only_rekeys = all(action in REKEYS for _, action in actions)
        self.overtaking = overtaking
        self.faults = faults
        self.lost = 0
        self.seen: set[Hashable] | None = None
        self.network.link = self._hold

    def _hold(self, sent: Sent) -> tuple[float, ...]:
        self.queues[sent.sender.name].append(sent)
        return ()

    def choices(self) -> list[Choice]:
        """What could happen next."""
        found = [Choice(end, ("act", number), partial(self._act, number)) for number, (end, _) in self.actions]
        for name, queue in self.queues.items():
            end = "b" if name == "a" else "a"
            reach = len(queue) if self.overtaking else 2 if self.faults else 1
            for index, sent in enumerate(queue[:reach]):
                free = index == 0 or self.overtaking
                found.append(Choice(end, ("deliver", sent.number), partial(self._deliver, queue, sent, free=free)))
                if self.faults and free:
                    found.append(Choice(end, ("lose", sent.number), partial(self._lose, queue, sent)))
                    found.append(Choice(end, ("double", sent.number), partial(self._double, sent)))
        if self.lost and self._timers():
            found.append(Choice("", ("wait",), self._wait))
        return found

    def take(self, choice: Choice) -> None:
        choice.take()
        self.look()

    def look(self) -> None:
        """Whatever may be asked of any state."""
        if self.seen is not None:
            self.seen.add(tuple((tuple(host.sending), *map(str, host.tracer.lines)) for host in (self.a, self.b)))
        if self.keeps_all:
            assert_no_gap(self.a, self.b, self.lines)

    def _act(self, number: int) -> None:
        (entry,) = (entry for entry in self.actions if entry[0] == number)
        self.actions.remove(entry)
        end, action = entry[1]
        host = self.a if end == "a" else self.b
        action(self.network, host)
        self.network.flush(host)

    def _deliver(self, queue: list[Sent], sent: Sent, *, free: bool) -> None:
        self.faults -= not free
        queue.remove(sent)
        self._give(sent)

    def _lose(self, queue: list[Sent], sent: Sent) -> None:
        self.faults -= 1
        self.lost += 1
        queue.remove(sent)

    def _double(self, sent: Sent) -> None:
        self.faults -= 1
        self._give(sent)

    def _timers(self) -> list[float]:
        return [at for host in (self.a, self.b) if (at := host.manager.next_timer()) is not None]

    def _wait(self) -> None:
        self.lost -= 1
        self.network.run(min(self._timers()))

    def _give(self, sent: Sent) -> None:
        datagram = sent.datagram
        receiver = self.network.hosts[datagram.remote.host]
        receiver.manager.receive_datagram(datagram.data, datagram.remote, datagram.local, self.network.now)
        self.network.flush(receiver)

    def finish(self) -> None:
        """Everything else in the order in which it comes, then time until all is quiet."""
        self.faults = self.lost = 0
        while choices := self.choices():
            self.take(choices[0])
        self.network.link = lambda sent: (0.01,)
        run_to_rest(self.network, self.a, self.b, self.look)
        if self.only_rekeys:
            assert len(self.a.manager.sas) == 1
            assert len(self.a.installed) == self.children


def next_time(network: Network, a: Host, b: Host) -> float | None:
    """When something happens next."""
    times = [at for host in (a, b) if (at := host.manager.next_timer()) is not None]
    return min([*times, *(entry[0] for entry in network._queue[:1])], default=None)


def run_to_rest(network: Network, a: Host, b: Host, look: Callable[[], None]) -> None:
    while (at := next_time(network, a, b)) is not None:
        network.run(at)
        assert at < 10_000
        look()
    assert_agreed(a, b)


def explore(
    seed: int,
    actions: Sequence[tuple[str, Action]],
    depth: int,
    *,
    faults: int = 0,
    window: int = 1,
    children: int = 1,
    overtaking: bool = False,
    prune: bool = True,
    seen: set[Hashable] | None = None,
) -> int:
    """Every order of the first `depth` steps; how many there are. `seen` gets the states in between."""
    options = {"faults": faults, "window": window, "children": children, "overtaking": overtaking}
    prefixes: list[list[int]] = [[]]
    runs = 0
    while prefixes:
        prefix = prefixes.pop()
        taken: list[int] = []
        try:
            pair = Steered(seed, actions, **options)  # type: ignore[arg-type]
            pair.seen = seen
            runs += _one_run(pair, prefix, depth, taken, prefixes, prune=prune)
        except AssertionError as error:
            named = [(end, name_of(action)) for end, action in actions]
            raise AssertionError(f"seed {seed}, {options}: steps {taken} of {named}: {error}") from error
    return runs


def _one_run(
    pair: Steered, prefix: list[int], depth: int, taken: list[int], prefixes: list[list[int]], *, prune: bool
) -> bool:
    """Follow one order, and note what else could have been done; False when another one comes to the same."""
    last: Choice | None = None
    before: set[Hashable] = set()
    for step in range(depth):
        choices = pair.choices()
        # What could have gone before the last step, at the other end, is followed in that order.
        fresh = [
            index
            for index, choice in enumerate(choices)
            if not (prune and last is not None and last.end == "b" and choice.end == "a" and choice.key in before)
        ]
        if not choices:
            break
        if step < len(prefix):
            index = prefix[step]
        elif fresh:
            index = fresh[0]
            prefixes += [[*taken, other] for other in fresh[1:]]
        else:
            return False
        before = {choice.key for choice in choices}
        last = choices[index]
        taken.append(index)
        pair.take(last)
    pair.finish()
    return True


# --- at random ---


def chaos(seed: int, actions: Sequence[Action], *, windows: tuple[int, ...] = (1,), children: int = 1) -> int:
    """Random actions of both ends at random times over a network that loses, doubles and reorders.

    The most requests that one end had under way at once.
    """
    rng = random.Random(seed)
    of_a, of_b = ({"retransmission": PATIENT, "window_size": rng.choice(windows)} for _ in "ab")
    network, a, b = connected(seed, a=of_a, b=of_b)
    for _ in range(rng.randrange(children)):
        make_child(network, a)
        network.run(network.now + 1)
    lines = lines_of(a, b)
    keeps_all = not any(action in DELETIONS for action in actions)
    loss = rng.choice((0.0, 0.05, 0.2))
    most = 0

    def link(sent: Sent) -> tuple[float, ...]:
        copies = 2 if rng.random() < 0.1 else 1
        return tuple(rng.choice((0.01, 0.1, 0.7)) * rng.random() for _ in range(copies) if rng.random() >= loss)

    def look() -> None:
        nonlocal most
        for host in (a, b):
            for sa in host.manager.sas:
                requests = sa.requests
                most = max(most, len(requests.outstanding))
                if requests.in_flight is not None:
                    assert requests.next_id - requests.in_flight.message_id <= requests.window
        if keeps_all:
            assert_no_gap(a, b, lines)

    network.link = link
    for _ in range(rng.randrange(2, 10)):
        host = rng.choice((a, b))
        rng.choice(actions)(network, host)
        network.flush(host)
        look()
        until = network.now + rng.choice((0.0, 0.02, 0.3, 2.0, 12.0)) * rng.random()
        while (at := next_time(network, a, b)) is not None and at <= until:
            network.run(at)
            look()
        network.run(until)
    network.link = lambda sent: (0.01,)
    run_to_rest(network, a, b, look)
    if all(action in REKEYS for action in actions):
        assert len(a.manager.sas) == 1
        assert {name: len(reqids) for name, reqids in lines.items()} == dict.fromkeys("ab", len(a.installed))
    return most
