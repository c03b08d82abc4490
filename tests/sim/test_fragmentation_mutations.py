"""Twenty thousand mutated IKE Fragment messages: no exception, no change of an SA or of what it puts together."""

from __future__ import annotations

import random
import struct

import pytest
from sim.craft import parse
from sim.network import A, B, Host, Network, assert_joined, connection, up
from sim.test_fragmentation import AUTH, FILLER, INFO, cut, large, large_pair, sent_by

from ikev2.core.transitions import State
from ikev2.core.types import Address

COUNT = 20_000 // 4
EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three changes, half of them in the SKF payload's header; the Length is mostly right again."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(28, 36) if rng.random() < 0.5 else rng.randrange(16, len(out))
        match rng.randrange(6):
            case 0 | 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at] = rng.choice(EDGES)
            case 3:
                struct.pack_into("!H", out, rng.choice((30, 32, 34)), rng.choice((0, 1, 2, 3, 4, 512, 0xFFFF)))
            case 4 if len(out) > 60:
                del out[rng.randrange(40, len(out)) :]
            case _:
                out += rng.randbytes(rng.randint(1, 20))
    if rng.random() < 0.95:
        struct.pack_into("!I", out, 24, len(out))
        if rng.random() < 0.7:
            struct.pack_into("!H", out, 30, len(out) - 28)
    return bytes(out)


def state_of(host: Host) -> tuple[object, ...]:
    sa = host.manager.sas[0]
    queues = [
        None
        if queue is None
        else (queue.total, dict(queue.contents), queue.octets, queue.expires_at, queue.largest)
        for queue in (sa.fragmentation.request, sa.fragmentation.response)
    ]
    return (
        sa.state,
        sa.requests.next_id,
        sa.requests.in_flight,
        sa.responses.expected_id,
        sa.responses.response,
        sa.fragmentation.size,
        sa.local,
        sa.remote,
        tuple(sa.children),
        sa.last_inbound_at,
        *queues,
    )


def assault(network: Network, target: Host, sender: Address, genuine: list[bytes], seed: int) -> None:
    """Nothing changes and the SA answers nothing."""
    rng = random.Random(seed)
    target.manager.sas[0].last_report_at = network.now  # a changed SPI would be reported (RFC 7296 section 2.21.4)
    before, events = state_of(target), len(target.events)
    done = 0
    while done < COUNT:
        data = mutate(rng, rng.choice(genuine))
        if data in genuine:
            continue
        done += 1
        target.manager.receive_datagram(data, target.address, sender, network.now)
        # Another version or the wrong flags are answered outside of the SA, unprotected, some of them.
        assert all(parse(reply).encrypted is None for reply in target.manager.datagrams_to_send())
    assert state_of(target) == before
    assert len(target.events) == events
    assert target.manager.next_event() is None
    assert target.manager.internal_errors == 0


@pytest.mark.req("rfc7383-s2.6-01", "rfc7383-s2.6-03")
@pytest.mark.parametrize("held", [0, 2], ids=["none here", "some here"])
def test_established_sa(held: int) -> None:
    network, a, b = large_pair()
    up(network, a)
    genuine = list(cut(a, INFO, FILLER))
    for fragment in genuine[:held]:
        b.manager.receive_datagram(fragment, b.address, a.address, network.now)
    assault(network, b, a.address, genuine, held)
    for fragment in genuine[held:]:
        b.manager.receive_datagram(fragment, b.address, a.address, network.now)
    assert b.sa.responses.expected_id == 3
    assert_joined(a, b)


@pytest.mark.req("rfc7383-s2.6-01", "rfc7383-s2.6-03")
def test_half_open_responder() -> None:
    """It has no keys before the first IKE_AUTH fragment; the genuine ones make the SA after all."""
    network, a, b = large_pair(link=lambda sent: (0.01,) if sent.number < 2 else ())
    up(network, a, until=0.5)
    genuine = [datagram.data for datagram in sent_by(network, a, AUTH)]
    assert len(genuine) == 3
    assault(network, b, a.address, genuine, 3)
    network.link = lambda sent: (0.01,)
    network.run(20.0)
    assert_joined(a, b)


@pytest.mark.req("rfc7383-s2.6-01", "rfc7383-s2.6-03")
def test_initiator_that_has_a_part_of_the_response() -> None:
    network = Network(5, lambda sent: () if sent.number == 6 else (0.01,))
    a = network.add("a", A, [connection(A, B, **large(), fragment_size=1280)])
    b = network.add("b", B, [connection(B, A, **large(), fragment_size=1280)])
    up(network, a, until=0.5)
    assert a.sa.state is State.AUTH_SENT
    queue = a.sa.fragmentation.response
    assert queue is not None
    assert list(queue.contents) == [1, 3]
    assault(network, a, b.address, [datagram.data for datagram in sent_by(network, b, AUTH)], 6)
    network.link = lambda sent: (0.01,)
    network.run(20.0)
    assert_joined(a, b)
