"""Both ends rekey and delete at once, and the network does what it likes: at the end they agree, and nothing leaks.

Exhaustive for two actions and every order in which they and the datagrams can happen, to a depth; then with each
datagram lost, doubled or late; then at random, with seeds. RFC 7296 sections 2.8.1, 2.8.2 and 2.25.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from sim.network import Host, Network, Sent, connected

from ikev2.core.channel import SecureChannel
from ikev2.core.config import Retransmission
from ikev2.core.events import ChildSaDeleted, ChildSaReady
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.iana import ExchangeType
from ikev2.wire.message import Message
from ikev2.wire.payloads import Nonce

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


PATIENT = Retransmission(timeout_s=1.0, base=1.2, tries=20)
"""So that no peer is given up because of loss."""
REKEYS = (rekey_child, rekey_ike)
ACTIONS = (rekey_child, rekey_ike, delete_child, delete_ike, make_child)


def assert_no_gap(a: Host, b: Host) -> None:
    """What either end sends on now, the other accepts."""
    for sender, receiver in ((a, b), (b, a)):
        assert sender.sending, "nothing to send on"
        child = sender.installed[sender.sending[0]]
        assert child.spi_out in receiver.installed, f"{sender.name} sends on what {receiver.name} does not have"


def assert_agreed(a: Host, b: Host) -> None:
    """At rest: the same IKE SAs and Child SAs at both ends, nothing under way, nothing left over."""
    assert {(sa.spi_i, sa.spi_r) for sa in a.manager.sas} == {(sa.spi_i, sa.spi_r) for sa in b.manager.sas}
    for host, other in ((a, b), (b, a)):
        assert host.manager.internal_errors == 0
        assert not host.spis.reserved
        assert host.manager.next_timer() is None
        assert host.manager.remembered == len(host.manager.sas)
        found = set()
        for sa in host.manager.sas:
            assert sa.state is State.ESTABLISHED
            assert sa.requests.in_flight is None
            assert not sa.tasks
            assert not sa.unwanted_spis
            assert sa.predecessor is None
            for child in sa.children.values():
                assert not child.closing
                assert not child.rekeying
                assert child.standby_for is None
                assert (child.params.ike_spi_i, child.params.ike_spi_r) == (sa.spi_i, sa.spi_r)
            found |= set(sa.children)
            theirs = other.manager.find(sa.spi_i, sa.spi_r)
            assert theirs is not None
            assert {c.params.spi_in: c.params.spi_out for c in sa.children.values()} == {
                c.params.spi_out: c.params.spi_in for c in theirs.children.values()
            }
        assert set(host.installed) == found == set(host.sending)


class Steered:
    """A pair of hosts whose every step is chosen: an action of an end, or the next datagram in one direction.

    With `faults` left it may also be the second datagram, the first one twice, or its loss, and then the time at
    which something is sent again.
    """

    def __init__(self, seed: int, actions: Sequence[tuple[str, Action]], *, rekeys_only: bool, faults: int) -> None:
        self.network, self.a, self.b = connected(seed)
        self.queues: dict[str, deque[Sent]] = {"a": deque(), "b": deque()}
        self.actions = list(actions)
        self.rekeys_only = rekeys_only
        self.faults = faults
        self.lost = 0
        self.network.link = self._hold

    def _hold(self, sent: Sent) -> tuple[float, ...]:
        self.queues[sent.sender.name].append(sent)
        return ()

    def choices(self) -> list[Callable[[], None]]:
        """What could happen next."""
        found: list[Callable[[], None]] = [partial(self._act, entry) for entry in self.actions]
        for queue in self.queues.values():
            if queue:
                found.append(partial(self._deliver, queue))
                if self.faults:
                    found += [partial(self._lose, queue), partial(self._double, queue)]
            if self.faults and len(queue) > 1:
                found.append(partial(self._overtake, queue))
        if self.lost and self._timers():
            found.append(self._wait)
        return found

    def take(self, choice: Callable[[], None]) -> None:
        choice()
        if self.rekeys_only:
            assert_no_gap(self.a, self.b)

    def _act(self, entry: tuple[str, Action]) -> None:
        self.actions.remove(entry)
        host = self.a if entry[0] == "a" else self.b
        entry[1](self.network, host)
        self.network.flush(host)

    def _deliver(self, queue: deque[Sent]) -> None:
        self._give(queue.popleft())

    def _lose(self, queue: deque[Sent]) -> None:
        self.faults -= 1
        self.lost += 1
        queue.popleft()

    def _double(self, queue: deque[Sent]) -> None:
        self.faults -= 1
        self._give(queue[0])

    def _overtake(self, queue: deque[Sent]) -> None:
        self.faults -= 1
        queue[0], queue[1] = queue[1], queue[0]
        self._deliver(queue)

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
        run_to_rest(self.network, self.a, self.b, rekeys_only=self.rekeys_only)


def next_time(network: Network, a: Host, b: Host) -> float | None:
    """When something happens next."""
    times = [at for host in (a, b) if (at := host.manager.next_timer()) is not None]
    return min([*times, *(entry[0] for entry in network._queue[:1])], default=None)


def run_to_rest(network: Network, a: Host, b: Host, *, rekeys_only: bool) -> None:
    while (at := next_time(network, a, b)) is not None:
        network.run(at)
        assert at < 10_000
        if rekeys_only:
            assert_no_gap(a, b)
    assert_agreed(a, b)
    if rekeys_only:
        assert len(a.manager.sas) == 1
        assert len(a.installed) == 1


def explore(seed: int, actions: Sequence[tuple[str, Action]], depth: int, faults: int = 0) -> int:
    """Every order of the first `depth` steps; how many there are."""
    rekeys_only = all(action in REKEYS for _, action in actions)
    prefixes: list[list[int]] = [[]]
    runs = 0
    while prefixes:
        prefix = prefixes.pop()
        pair = Steered(seed, actions, rekeys_only=rekeys_only, faults=faults)
        taken: list[int] = []
        for step in range(depth):
            choices = pair.choices()
            if not choices:
                break
            index = prefix[step] if step < len(prefix) else 0
            if step >= len(prefix):
                prefixes += [[*taken, other] for other in range(1, len(choices))]
            taken.append(index)
            pair.take(choices[index])
        try:
            pair.finish()
        except AssertionError as error:
            raise AssertionError(f"steps {taken} of {[(n, f.__name__) for n, f in actions]}: {error}") from error
        runs += 1
    return runs


def _name(action: Action) -> str:
    return action.__name__


@pytest.mark.parametrize("of_b", ACTIONS, ids=_name)
@pytest.mark.parametrize("of_a", ACTIONS, ids=_name)
def test_every_order_of_two_actions_and_their_messages(of_a: Action, of_b: Action) -> None:
    """Whole: no depth cuts it."""
    for seed in (1, 2):
        assert explore(seed, [("a", of_a), ("b", of_b)], 20) >= 8


@pytest.mark.parametrize("of_b", ACTIONS, ids=_name)
@pytest.mark.parametrize("of_a", ACTIONS, ids=_name)
def test_every_order_with_one_message_lost_doubled_or_overtaken(of_a: Action, of_b: Action) -> None:
    explore(3, [("a", of_a), ("b", of_b)], 5, faults=1)


@pytest.mark.parametrize("of_b", REKEYS, ids=_name)
@pytest.mark.parametrize("of_a", REKEYS, ids=_name)
def test_every_order_of_three_rekeyings(of_a: Action, of_b: Action) -> None:
    for third in REKEYS:
        explore(4, [("a", of_a), ("a", third), ("b", of_b)], 6)


# --- who wins ---


def nonces_of(network: Network, since: int, channels: dict[str, SecureChannel]) -> dict[str, list[bytes]]:
    """The nonces of the CREATE_CHILD_SA exchange that each end began."""
    found: dict[str, list[bytes]] = {"a": [], "b": []}
    for sent in network.sent[since:]:
        message = Message.parse(sent.datagram.data)
        if message.header.exchange_type != ExchangeType.CREATE_CHILD_SA:
            continue
        other = "b" if sent.sender.name == "a" else "a"
        payloads = channels[other].open(sent.datagram.data, message)
        began = other if message.header.is_response else sent.sender.name
        found[began] += [payload.data for payload in payloads if isinstance(payload, Nonce)]
    return found


def collide(seed: int, action: Action) -> tuple[Network, Host, Host, dict[str, list[bytes]]]:
    """Both ends do the same at the same moment; the network and the nonces of both exchanges."""
    network, a, b = connected(seed)
    channels = {host.name: host.sa.channel for host in (a, b)}
    before = len(network.sent)
    for host in (a, b):
        action(network, host)
    network.run(network.now + 3)
    nonces = nonces_of(network, before, channels)  # type: ignore[arg-type]
    assert [len(nonces[name]) for name in "ab"] == [2, 2]
    return network, a, b, nonces


@pytest.mark.req("rfc7296-s2.8.1-02", "rfc7296-s2.8.1-03", "rfc7296-s2.25.1-02", "rfc7296-s2.25.1-03")
@pytest.mark.parametrize("seed", range(8))
def test_child_sa_of_the_exchange_with_the_lowest_nonce_is_deleted_by_who_made_it(seed: int) -> None:
    """Figure of RFC 7296 section 2.8.1: req1, req2, resp2, resp1; D of the old pair, D of the redundant one."""
    network, a, b, nonces = collide(seed, rekey_child)
    loser, winner = (a, b) if min(nonces["a"]) < min(nonces["b"]) else (b, a)
    assert_agreed(a, b)
    for host in (a, b):
        # Three pairs were there; the one that stays is what the winner asked for.
        assert len(host.of(ChildSaReady)) == 3
        (stays,) = host.installed.values()
        assert stays.role is (Role.INITIATOR if host is winner else Role.RESPONDER)
    reasons = {host.name: [event.reason for event in host.of(ChildSaDeleted)] for host in (a, b)}  # type: ignore[attr-defined]
    assert "rekeyed" in reasons[winner.name]
    assert any("redundant" in reason for reason in reasons[loser.name])
    assert network.now < 10


@pytest.mark.req("rfc7296-s2.8.2-01", "rfc7296-s2.8.2-02", "rfc7296-s2.25.2-01", "rfc7296-s2.25.2-02")
@pytest.mark.parametrize("seed", range(8))
def test_ike_sa_of_the_exchange_with_the_lowest_nonce_goes_and_the_other_inherits(seed: int) -> None:
    network, a, b, nonces = collide(seed, rekey_ike)
    winner = b if min(nonces["a"]) < min(nonces["b"]) else a
    for host in (a, b):
        assert len(host.manager.sas) == 1
        assert host.sa.role is (Role.INITIATOR if host is winner else Role.RESPONDER)
        assert len(host.sa.children) == len(host.installed) == 1
        assert not host.of(ChildSaDeleted)
    network.run()
    assert_agreed(a, b)


# --- at random ---


def chaos(seed: int, actions: Sequence[Action], *, rekeys_only: bool) -> None:
    """Random actions of both ends at random times over a network that loses, doubles and reorders."""
    rng = random.Random(seed)
    network, a, b = connected(seed, a={"retransmission": PATIENT}, b={"retransmission": PATIENT})
    loss = rng.choice((0.0, 0.05, 0.2))

    def link(sent: Sent) -> tuple[float, ...]:
        copies = 2 if rng.random() < 0.1 else 1
        return tuple(rng.choice((0.01, 0.1, 0.7)) * rng.random() for _ in range(copies) if rng.random() >= loss)

    network.link = link
    for _ in range(rng.randrange(2, 10)):
        host = rng.choice((a, b))
        rng.choice(actions)(network, host)
        network.flush(host)
        until = network.now + rng.choice((0.0, 0.02, 0.3, 2.0, 12.0)) * rng.random()
        while (at := next_time(network, a, b)) is not None and at <= until:
            network.run(at)
            if rekeys_only:
                assert_no_gap(a, b)
        network.run(until)
    network.link = lambda sent: (0.01,)
    run_to_rest(network, a, b, rekeys_only=rekeys_only)


@pytest.mark.parametrize("block", range(4))
def test_rekeying_at_random_never_leaves_a_gap(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        chaos(seed, REKEYS, rekeys_only=True)


@pytest.mark.parametrize("block", range(4))
def test_whatever_both_ends_do_they_agree_at_the_end(block: int) -> None:
    for seed in range(1000 + 50 * block, 1000 + 50 * block + 50):
        chaos(seed, (*ACTIONS, check_alive), rekeys_only=False)
