"""Two peers with windows above one: every order in which requests, responses and actions can pass one another.

Each end acts, on two Child SAs at once where it can, and of the messages under way in either direction any may arrive
next. Exhaustive to a depth (steps: actions and messages; the constants below), whatever follows goes its usual way;
then with a message lost or doubled; then at random, with seeds, windows of different sizes, loss and more actions.
In every state in which nobody has asked for a deletion each line of Child SAs has a pair on which either end can send
and the other receives; at the end both agree, and nothing is left over (tests/sim/interleaving.py).

RFC 7296 sections 2.3, 2.8, 2.8.1, 2.8.2 and 2.25.
"""

from __future__ import annotations

import itertools

import pytest
from sim.interleaving import (
    ACTIONS,
    REKEYS,
    Action,
    chaos,
    check_alive,
    explore,
    make_child,
    name_of,
)

DEPTH = 6
DEPTH_WITH_A_FAULT = 4
DEPTH_OF_THREE = 5

PAIRS = list(itertools.combinations_with_replacement(ACTIONS, 2))


def ids(pair: tuple[Action, Action]) -> str:
    return "-".join(map(name_of, pair))


@pytest.mark.req("rfc7296-s2.3-03", "rfc7296-s2.8.1-02", "rfc7296-s2.8.2-02")
@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_every_order_of_two_actions_on_two_child_sas_each(pair: tuple[Action, Action]) -> None:
    explore(1, [("a", pair[0]), ("b", pair[1])], DEPTH, window=3, children=2, overtaking=True)


@pytest.mark.req("rfc7296-s2.1-02", "rfc7296-s2.1-06")
@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_every_order_with_one_message_lost_or_doubled(pair: tuple[Action, Action]) -> None:
    options = {"faults": 1, "window": 3, "children": 2, "overtaking": True}
    explore(2, [("b", pair[0]), ("a", pair[1])], DEPTH_WITH_A_FAULT, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("third", [*REKEYS, make_child], ids=name_of)
@pytest.mark.parametrize("first", [*REKEYS, make_child], ids=name_of)
def test_every_order_of_three_actions(first: Action, third: Action) -> None:
    actions = [("a", first), ("a", third), ("b", first)]
    explore(3, actions, DEPTH_OF_THREE, window=2, overtaking=True)


@pytest.mark.req("rfc7296-s2.3-04")
@pytest.mark.parametrize("block", range(4))
def test_rekeying_and_making_at_random_never_leaves_a_gap(block: int) -> None:
    most = 0
    for seed in range(2000 + 40 * block, 2000 + 40 * block + 40):
        actions = REKEYS if seed % 2 else (*REKEYS, make_child)
        most = max(most, chaos(seed, actions, windows=(1, 2, 4), children=3))
    assert most >= 3


@pytest.mark.parametrize("block", range(4))
def test_whatever_both_ends_do_with_windows_they_agree_at_the_end(block: int) -> None:
    most = 0
    for seed in range(3000 + 40 * block, 3000 + 40 * block + 40):
        most = max(most, chaos(seed, (*ACTIONS, check_alive), windows=(1, 2, 4), children=3))
    assert most >= 3
