"""Every state x exchange x role: the table says what can happen, and nothing else does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.craft import clear, give
from sim.network import A, B, Host, Network, pair

from ikev2.core.channel import SecureChannel
from ikev2.core.exchanges import ike_sa_init
from ikev2.core.ike_sa import IkeSa
from ikev2.core.state import WITH_PEER, State
from ikev2.core.transitions import TRANSITIONS
from ikev2.core.types import Address, Role
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Delete, Nonce, Notify, Payload
from ikev2.wire.rules import RULES

EXCHANGES = (*ExchangeType, ExchangeType(200))
BODIES: tuple[tuple[Payload, ...], ...] = (
    (),
    (Delete.ike(),),
    (Delete.esp(b"\xc0\0\0\1"),),
    (Nonce(bytes(32)),),
    (Notify(NotifyType.AUTHENTICATION_FAILED),),
    (Notify(NotifyType.INVALID_SYNTAX),),
    (Notify(NotifyType.NO_PROPOSAL_CHOSEN),),
    (Notify(NotifyType.COOKIE, b"cookie"),),
)


def test_rows_name_variants_that_the_payload_rules_have_and_states_that_exist() -> None:
    for (_, exchange, role), row in TRANSITIONS.items():
        direction = "request" if role is Role.RESPONDER else "response"
        for variant in row.variants:
            assert (exchange, direction, variant) in RULES
        assert row.leads_to
        assert len(set(row.leads_to)) == len(row.leads_to)
        assert row.story


def test_every_state_can_be_reached_and_left() -> None:
    ours = {State.IDLE, State.INIT_SENT, State.REKEYING}
    reached = ours | {state for row in TRANSITIONS.values() for state in row.leads_to}
    assert reached == set(State)
    assert {state for state, _, _ in TRANSITIONS} == set(State) - {State.CLOSED}


def test_only_ike_sa_init_goes_unprotected() -> None:
    for (_, exchange, _), row in TRANSITIONS.items():
        assert row.protected is (exchange is not ExchangeType.IKE_SA_INIT)


def in_state(state: State) -> tuple[Network, Host, Host, IkeSa, SecureChannel | None]:
    """An SA of host A in this state (B for HALF_OPEN), and the channel of its peer if there are keys."""
    network, a, b = pair(link=lambda sent: (0.01,) if state not in CUT or sent.number < CUT[state] else ())
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.1)
    if state is State.HALF_OPEN:
        ike_sa_init.derive_late(b.sa)
        return network, b, a, b.sa, sa.channel
    if state in (State.DELETING, State.REKEYING):
        network.link = lambda sent: ()
        (a.manager.delete if state is State.DELETING else a.manager.rekey)(sa, network.now)
        network.flush(a)
    if state is State.REKEYED:
        # B asks for a new IKE SA, and does not get to know that it has one.
        b.manager.rekey(b.sa, network.now)
        network.flush(b)
        network.link = lambda sent: ()
        network.run(0.2)
    peer = b.manager.sas[0].channel if b.manager.sas else None
    if state is State.AUTH_SENT:
        ike_sa_init.derive_late(b.sa)
        peer = b.sa.channel
    if state is State.CLOSED:
        # Closed by the peer, so that it lingers.
        b.manager.delete(b.sa, network.now)
        peer = b.sa.channel
        network.run(1.0)
    assert sa.state is state
    return network, a, b, sa, peer


CUT = {State.INIT_SENT: 1, State.AUTH_SENT: 2, State.HALF_OPEN: 2}
STATES = [state for state in State if state is not State.IDLE]


def message_for(
    sa: IkeSa, channel: SecureChannel | None, exchange: ExchangeType, role: Role, body: tuple[Payload, ...]
) -> bytes:
    """A message that is next in turn for the SA in this role: authentic when there are keys."""
    is_response = role is Role.INITIATOR
    in_flight = sa.requests.in_flight
    number = sa.responses.expected_id
    if is_response:
        number = in_flight.message_id if in_flight is not None else sa.requests.next_id
    if channel is None or exchange is ExchangeType.IKE_SA_INIT:
        return clear(
            exchange,
            body,
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            message_id=number,
            is_initiator=sa.role is Role.RESPONDER,
            is_response=is_response,
        )
    return channel.seal(exchange, number, body, is_response=is_response)


def allowed(state: State, exchange: ExchangeType, role: Role, *, authentic: bool) -> set[State]:
    """The states that this message may lead to."""
    row = TRANSITIONS.get((state, exchange, role))
    if row is None:
        refused = authentic and role is Role.RESPONDER and state in WITH_PEER
        return {state, State.CLOSED} if refused else {state}
    # Malformed content: the SA is closed, or being closed. RFC 7296 section 2.21.
    malformed = {State.CLOSED, State.DELETING} if authentic and row.protected else set()
    return {state, *row.leads_to} | malformed


@pytest.mark.parametrize("state", STATES)
def test_every_exchange_in_every_state_leads_where_the_table_says(state: State) -> None:
    for exchange, role, body in itertools.product(EXCHANGES, Role, BODIES):
        network, host, other, sa, channel = in_state(state)
        data = message_for(sa, channel, exchange, role, body)
        before_keys, before_next = sa.keys, sa.requests.next_id
        give(network, host, data, other.address)
        authentic = channel is not None and exchange is not ExchangeType.IKE_SA_INIT
        assert sa.state in allowed(state, exchange, role, authentic=authentic), (exchange, role, body)
        assert host.manager.internal_errors == 0
        if (state, exchange, role) not in TRANSITIONS and sa.state is state:
            assert sa.keys is before_keys
            assert sa.requests.next_id == before_next


Step = Callable[[Network, Host, Host], None]


def _act(index: int) -> Step:
    def with_sa(host: Host, action: Callable[[IkeSa], None]) -> None:
        for sa in host.manager.sas[:1]:
            action(sa)

    def rekey(host: Host, sa: IkeSa, now: float) -> None:
        if sa.state is State.ESTABLISHED:
            host.manager.rekey(sa, now)

    return (
        lambda network, a, b: network.run(network.now + 0.3),
        lambda network, a, b: network.run(network.now + 40),
        lambda network, a, b: with_sa(a, lambda sa: a.manager.check_liveness(sa, network.now)),
        lambda network, a, b: with_sa(b, lambda sa: b.manager.check_liveness(sa, network.now)),
        lambda network, a, b: with_sa(a, lambda sa: a.manager.delete(sa, network.now)),
        lambda network, a, b: with_sa(b, lambda sa: b.manager.delete(sa, network.now)),
        lambda network, a, b: [a.manager.delete_child(child, network.now) for child in list(a.installed.values())][
            :0
        ],
        lambda network, a, b: [b.manager.delete_child(child, network.now) for child in list(b.installed.values())][
            :0
        ],
        lambda network, a, b: a.manager.initiate("lab", None, a.address, network.now),
        lambda network, a, b: b.manager.initiate("lab", None, b.address, network.now),
        lambda network, a, b: with_sa(a, lambda sa: rekey(a, sa, network.now)),
        lambda network, a, b: with_sa(b, lambda sa: rekey(b, sa, network.now)),
        lambda network, a, b: [a.manager.rekey_child(child, network.now) for child in list(a.installed.values())][
            :0
        ],
        lambda network, a, b: [b.manager.rekey_child(child, network.now) for child in list(b.installed.values())][
            :0
        ],
    )[index]  # type: ignore[return-value]


@given(st.lists(st.integers(0, 13), max_size=12), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_order_of_local_actions_comes_to_rest_with_nothing_half_done(
    actions: list[int], loss: int, rng: object
) -> None:
    network, a, b = pair(link=lambda sent: () if rng.random() < loss / 10 else (rng.uniform(0.01, 1),))  # type: ignore[attr-defined]
    for index in actions:
        _act(index)(network, a, b)
        for host in (a, b):
            network.flush(host)
    network.link = lambda sent: (0.01,)
    network.run(network.now + 600)
    for host in (a, b):
        assert host.manager.internal_errors == 0
        assert host.manager.next_timer() is None
        for sa in host.manager.sas:
            assert sa.state is State.ESTABLISHED
            assert sa.requests.in_flight is None
            assert {child.params.spi_in for child in sa.children.values()} <= set(host.installed)
        assert len(host.installed) == sum(len(sa.children) for sa in host.manager.sas)
    assert {Address(A, 500), Address(B, 500)} == {a.address, b.address}
