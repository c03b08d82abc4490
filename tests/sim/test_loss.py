"""Loss, duplication, reordering and delay of any message: one SA at each end, or a clean failure.

Every message of a whole life (IKE_SA_INIT, IKE_AUTH, liveness from either end, Child SA delete, IKE SA delete) is
dropped, doubled and delayed in turn; then seeded chaos.
"""

from __future__ import annotations

import random

import pytest
from sim.network import Delays, Host, Link, Network, Sent, assert_joined, assert_nothing_left, pair, up

from ikev2.core.config import Limits
from ikev2.core.events import ChildSaDeleted, ChildSaReady, IkeSaDeleted, IkeSaEstablished, IkeSaFailed
from ikev2.core.transitions import State

MESSAGES_OF_A_LIFE = 12


def live_a_life(network: Network, a: Host, b: Host) -> None:
    """Connect, ask each other, delete the Child SA, delete the IKE SA, with time to repair in between."""
    up(network, a, until=20.0)
    if len(a.manager.sas) == 1 and a.sa.state is State.ESTABLISHED:
        for step in (
            lambda: a.manager.check_liveness(a.sa, network.now),
            lambda: b.manager.sas and b.manager.check_liveness(b.manager.sas[0], network.now),
            lambda: a.installed and a.manager.delete_child(next(iter(a.installed.values())), network.now),
            lambda: b.manager.sas and b.manager.delete(b.manager.sas[0], network.now),
        ):
            step()
            network.run(network.now + 20)
    network.run(network.now + 400)


def assert_clean(host: Host) -> None:
    """What came up went down again: every event has its counterpart."""
    assert len(host.of(ChildSaReady)) == len(host.of(ChildSaDeleted))
    assert len(host.of(IkeSaEstablished)) == len(host.of(IkeSaDeleted))


def delayed_after(number: int, delays: Delays) -> Link:
    return lambda sent: delays if sent.number == number else (0.01,)


def test_a_life_has_as_many_messages_as_the_tests_below_go_through() -> None:
    network, a, b = pair()
    live_a_life(network, a, b)
    assert len(network.sent) == MESSAGES_OF_A_LIFE
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.1-06", "rfc7296-s2.3-07")
@pytest.mark.parametrize(
    "delays", [(), (0.01, 0.01), (0.01, 0.5), (0.01, 3.0), (0.01, 90.0), (5.0,)], ids=lambda delays: str(delays)
)
@pytest.mark.parametrize("number", range(MESSAGES_OF_A_LIFE))
def test_no_single_message_matters(number: int, delays: Delays) -> None:
    """Dropped, doubled at once, doubled late, doubled after everything, delayed: the life goes on."""
    network, a, b = pair(link=delayed_after(number, delays))
    live_a_life(network, a, b)
    for host in (a, b):
        assert len(host.of(IkeSaEstablished)) == 1
        assert len(host.of(ChildSaReady)) == 1
        assert host.of(IkeSaFailed) == []
        assert_clean(host)
    assert_nothing_left(a, b)


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(1, 8))
def test_no_two_messages_matter(first: int, second: int) -> None:
    lost = {first, first + second}
    network, a, b = pair(link=lambda sent: () if sent.number in lost else (0.01,))
    live_a_life(network, a, b)
    for host in (a, b):
        assert len(host.of(IkeSaEstablished)) == 1
        assert_clean(host)
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.4-04", "rfc7296-s2.4-09")
@pytest.mark.parametrize("last", range(MESSAGES_OF_A_LIFE))
def test_link_that_breaks_for_good_leaves_nothing_at_the_end_that_speaks(last: int) -> None:
    """From message `last` on nothing arrives. Who waits for an answer gives up; a responder without one asks."""
    network, a, b = pair(
        link=lambda sent: (0.01,) if sent.number < last else (), a={"dpd_delay_s": 60.0}, b={"dpd_delay_s": 60.0}
    )
    live_a_life(network, a, b)
    for host in (a, b):
        assert_clean(host)
    assert_nothing_left(a, b)


def chaos(seed: int) -> Link:
    rng = random.Random(f"link {seed}")
    loss, double, spread = rng.choice([0.1, 0.3, 0.5]), rng.choice([0.0, 0.3]), rng.choice([0.05, 1.0, 4.0])

    def link(sent: Sent) -> Delays:
        copies = 0 if rng.random() < loss else 2 if rng.random() < double else 1
        return [rng.uniform(0.001, spread) for _ in range(copies)]

    return link


def run_chaos(seed: int) -> tuple[Network, Host, Host]:
    changes: dict[str, object] = {"dpd_delay_s": 30.0}
    network, a, b = pair(seed, chaos(seed), a=changes, b=changes, limits=Limits(half_open_per_address=50))
    if seed % 4 == 0:
        b.manager.initiate("lab", None, b.address, 0.0)
    live_a_life(network, a, b)
    return network, a, b


@pytest.mark.parametrize("block", range(20))
def test_chaos_ends_clean(block: int) -> None:
    """400 seeds; every fourth has both ends begin at once. At these rates of loss most come up all the same."""
    came_up = 0
    for seed in range(block * 20, block * 20 + 20):
        network, a, b = run_chaos(seed)
        for host in (a, b):
            for sa in host.manager.sas:
                host.manager.delete(sa, network.now)
        network.run()
        for host in (a, b):
            assert_clean(host)
        assert_nothing_left(a, b)
        came_up += bool(a.of(IkeSaEstablished) and b.of(IkeSaEstablished))
    assert came_up >= 14


@pytest.mark.req("rfc7296-s2.1-07", "rfc7296-s2.2-01")
def test_retransmissions_are_bitwise_identical() -> None:
    """In chaos, every datagram of one sender, exchange, direction and message id has the same octets."""
    for seed in (3, 7, 11):
        network, _, _ = run_chaos(seed)
        seen: dict[tuple[str, bytes, int, bytes], set[bytes]] = {}
        repeated = 0
        for sent in network.sent:
            data = sent.datagram.data
            key = (sent.sender.name, data[:16], data[18] << 8 | data[19], data[20:24])
            repeated += data in seen.get(key, ())
            seen.setdefault(key, set()).add(data)
        assert repeated
        assert all(len(octets) == 1 for octets in seen.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_seed_same_octets(seed: int) -> None:
    first, second = run_chaos(seed)[0], run_chaos(seed)[0]
    assert [sent.datagram for sent in first.sent] == [sent.datagram for sent in second.sent]
    assert first.now == second.now
    other = run_chaos(seed + 100)[0]
    assert first.sent[0].datagram.data != other.sent[0].datagram.data


@pytest.mark.req("rfc7296-s2.3-03")
def test_requests_that_cross_are_both_answered() -> None:
    network, a, b = pair()
    up(network, a, until=5.0)
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
    network.run(10.0)
    assert_joined(a, b)
    assert len(network.sent) == 8
