"""docs/states.md is what tools/states.py makes of the transition tables, and the tables are what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sim.network import A, B, Host, Network, connection, pair

from ikev2.core.state import State
from ikev2.core.transitions import LOCAL, TRANSITIONS
from ikev2.core.types import Role
from ikev2.iana import ExchangeType

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")


def test_the_page_is_current() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "states.py")], capture_output=True, text=True, check=True, timeout=120
    )
    assert made.stdout == PAGE, "run: python tools/states.py --write docs/states.md"


def test_the_diagram_has_every_state_and_the_table_every_row() -> None:
    diagram = PAGE.split("```mermaid")[1].split("```")[0]
    assert all(str(state) in diagram for state in State)
    assert len(re.findall(r"^\| [A-Z_]+ \| [A-Z_]+ re", PAGE, re.M)) == len(TRANSITIONS)


def life(loss: tuple[int, ...]) -> tuple[Network, Host, Host]:
    """A life with all that can happen by itself: rekeying by either end and by both, and closing."""
    network, a, b = pair(link=lambda sent: () if sent.number in loss else (0.01,))
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(30)
    for hosts in ((a,), (b,), (a, b)):
        for host in hosts:
            for sa in host.manager.sas[:1]:
                if sa.state is State.ESTABLISHED:
                    host.manager.rekey(sa, network.now)
        network.run(network.now + 60)
    for sa in a.manager.sas:
        a.manager.delete(sa, network.now)
    network.run(network.now + 300)
    return network, a, b


def refused() -> tuple[Network, Host, Host]:
    """An initiator that finds another secret in the response than its own."""
    network = Network()
    a = network.add("a", A, [connection(A, B)])
    b = network.add("b", B, [connection(B, A, local_id=None)])
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(300)
    return network, a, b


@pytest.mark.parametrize(
    "loss", [(), (1,), (3,), (5,), (6,), (7,), (8,), tuple(range(3, 100)), tuple(range(5, 100))]
)
def test_what_happens_is_in_the_tables(loss: tuple[int, ...]) -> None:
    seen = changes(*life(loss)[1:])
    assert seen <= allowed()
    assert len(seen) >= 3


def test_a_life_goes_through_most_of_the_tables() -> None:
    seen = changes(*refused()[1:])
    for loss in ((), (5,), (6,), (7,), tuple(range(5, 100))):
        seen |= changes(*life(loss)[1:])
    assert set(LOCAL) <= seen
    assert {after for _, after in seen} == set(State) - {State.IDLE}


def changes(*hosts: Host) -> set[tuple[State, State]]:
    """What the tracers heard: `BEFORE -> AFTER: story`."""
    found = [re.match(r"([A-Z_]+) -> ([A-Z_]+): ", line) for host in hosts for line in host.tracer.lines]
    return {(State(match[1]), State(match[2])) for match in found if match}


def allowed() -> set[tuple[State, State]]:
    """Rows of the table, our own actions, malformed content (closing), and the time that is over."""
    rows = {(before, after) for (before, _, _), row in TRANSITIONS.items() for after in row.leads_to}
    return rows | set(LOCAL) | {(state, State.CLOSED) for state in State}


def test_a_change_that_no_table_has_would_be_seen() -> None:
    assert (State.INIT_SENT, State.ESTABLISHED) not in allowed()
    assert (State.CLOSED, State.ESTABLISHED) not in allowed()
    assert (State.HALF_OPEN, ExchangeType.INFORMATIONAL, Role.RESPONDER) not in TRANSITIONS
