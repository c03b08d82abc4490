"""Both ends rekey and delete at once, and the network does what it likes: at the end they agree, and nothing leaks.

Exhaustive for two actions and every order in which they and the datagrams can happen, to a depth; then with each
datagram lost, doubled or late; then at random, with seeds. RFC 7296 sections 2.8.1, 2.8.2 and 2.25.
"""

from __future__ import annotations

import pytest
from sim.interleaving import (
    ACTIONS,
    REKEYS,
    Action,
    assert_agreed,
    chaos,
    check_alive,
    explore,
    name_of,
    rekey_child,
    rekey_ike,
)
from sim.network import Host, Network, connected

from ikev2.core.channel import SecureChannel
from ikev2.core.events import ChildSaDeleted, ChildSaReady
from ikev2.core.types import Role
from ikev2.iana import ExchangeType
from ikev2.wire.message import Message
from ikev2.wire.payloads import Nonce


def test_no_state_is_left_out_by_following_one_of_two_orders_that_come_to_the_same() -> None:
    """What is pruned from the orders below: far fewer are followed, and every state is seen."""
    for actions in ((rekey_child, rekey_ike), (rekey_ike, rekey_ike), (rekey_child, rekey_child)):
        both = [("a", actions[0]), ("b", actions[1])]
        every: set[object] = set()
        seen: set[object] = set()
        assert explore(1, both, 20, prune=False, seen=every) >= 2 * explore(1, both, 20, seen=seen)
        assert seen == every


@pytest.mark.parametrize("of_b", ACTIONS, ids=name_of)
@pytest.mark.parametrize("of_a", ACTIONS, ids=name_of)
def test_every_order_of_two_actions_and_their_messages(of_a: Action, of_b: Action) -> None:
    """Whole: no depth cuts it."""
    for seed in (1, 2):
        assert explore(seed, [("a", of_a), ("b", of_b)], 20) >= 3


@pytest.mark.parametrize("of_b", ACTIONS, ids=name_of)
@pytest.mark.parametrize("of_a", ACTIONS, ids=name_of)
def test_every_order_with_one_message_lost_doubled_or_overtaken(of_a: Action, of_b: Action) -> None:
    explore(3, [("a", of_a), ("b", of_b)], 5, faults=1)


@pytest.mark.parametrize("of_b", REKEYS, ids=name_of)
@pytest.mark.parametrize("of_a", REKEYS, ids=name_of)
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


@pytest.mark.parametrize("block", range(4))
def test_rekeying_at_random_never_leaves_a_gap(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        chaos(seed, REKEYS)


@pytest.mark.parametrize("block", range(4))
def test_whatever_both_ends_do_they_agree_at_the_end(block: int) -> None:
    for seed in range(1000 + 50 * block, 1000 + 50 * block + 50):
        chaos(seed, (*ACTIONS, check_alive))
