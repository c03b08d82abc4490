"""A hundred thousand mutated datagrams: no exception, no change of an SA, bounded memory.

The corpus is what two genuine endpoints sent; mutations flip bits, cut, extend, splice, set fields to their edges and
repair the Length field so that the message gets past it. Seeds are fixed.
"""

from __future__ import annotations

import random
import struct

import pytest
from sim.network import PSK, A, B, Host, Network, connected, connection, pair, proposals, up

from ikev2.core.config import Limits
from ikev2.core.exchanges import ike_sa_init
from ikev2.core.transitions import State
from ikev2.core.types import Address
from ikev2.iana import ExchangeType, PayloadType
from ikev2.wire.message import Message, encode_payloads, parse_payloads

TOTAL = 100_000
EDGES = (0, 1, 2, 4, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)
SMALL = Limits(cookie_threshold=8, half_open_limit=40, half_open_per_address=30)
ESTABLISHED_COUNT, HALF_OPEN_COUNT, INITIATOR_COUNT = 60_000, 30_000, 10_000


def corpus() -> list[bytes]:
    """Every datagram of some lives, with cookies, other groups, and deletes."""
    found: list[bytes] = []
    for seed, changes, limits in (
        (1, {}, None),
        (2, {"proposals": proposals("aes128-sha256-ecp256", "aes256gcm16-prfsha384-curve25519")}, None),
        (3, {"encap": True}, Limits(cookie_threshold=0)),
    ):
        network, a, b = pair(seed, a=changes, b=changes, limits=limits)
        up(network, a, until=5.0)
        b.manager.check_liveness(b.sa, network.now)
        network.run(10.0)
        a.manager.delete(a.sa, network.now)
        network.run()
        found += [sent.datagram.data for sent in network.sent]
    return found


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to three mutations; nine times in ten the Length field is made right again."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(out)) if out else 0
        match rng.choice((0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7)):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at] = rng.choice(EDGES)
            case 2:
                del out[at:]
            case 3:
                out += rng.randbytes(rng.randint(1, 40))
            case 4:
                other = rng.choice(others)
                out[at:] = other[min(at, len(other)) :]
            case 5 if len(out) > 40:
                # A payload's length field, or what stands in its place.
                place = rng.randrange(28, len(out) - 4)
                struct.pack_into("!H", out, place, rng.choice((0, 1, 3, 4, 5, 8, 0xFFFF, rng.randrange(300))))
            case 6:
                del out[at : at + rng.randint(1, 12)]
            case _ if len(out) > 28:
                out[rng.choice((16, 17, 18, 19, 20, 23))] = rng.randrange(256)
    if rng.random() < 0.9 and len(out) >= 28:
        struct.pack_into("!I", out, 24, len(out))
    return bytes(out)


def retarget(rng: random.Random, data: bytes, spis: list[tuple[bytes, bytes]], flags: int = 0x08) -> bytes:
    """Mostly: give the message the SPIs of an SA that is there, the flags that its peer sets, a version and a message

    id that fit, so that it gets past the first checks.
    """
    if len(data) < 28 or rng.random() < 0.2:
        return data
    spi_i, spi_r = rng.choice(spis)
    out = bytearray(data)
    if data[18] == ExchangeType.IKE_SA_INIT and rng.random() < 0.7:
        out[0:16] = (rng.randbytes(8) if rng.random() < 0.7 else spi_i) + bytes(8)
        out[20:24] = bytes(4)
    else:
        out[0:16] = spi_i + spi_r
        struct.pack_into("!I", out, 20, rng.choice((0, 1, 1, 2, 2, 2, 3)))
    if rng.random() < 0.9:
        out[17] = 0x20
        out[19] = flags
    return bytes(out)


def state_of(host: Host, index: int = 0) -> tuple[object, ...]:
    sa = host.manager.sas[index]
    return (
        sa.state,
        sa.keys,
        sa.spi_i,
        sa.spi_r,
        sa.requests.next_id,
        sa.requests.in_flight,
        sa.responses.expected_id,
        sa.responses.response,
        sa.local,
        sa.remote,
        sa.nat,
        tuple(sa.children),
        sa.children and next(iter(sa.children.values())).params,
        tuple(host.installed),
        host.events[:2],
        sa.peer_id,
        sa.last_inbound_at,
    )


def assault(network: Network, target: Host, seed: int, count: int, spis: list[tuple[bytes, bytes]]) -> None:
    rng = random.Random(seed)
    sources = [Address(f"198.51.100.{n}", rng.choice((500, 4500, 1024 + n))) for n in range(1, 60)]
    sources += [Address(A, 500), Address(B, 500)]
    known = corpus()
    for number in range(count):
        data = rng.randbytes(rng.randint(0, 200)) if number % 20 == 0 else mutate(rng, rng.choice(known), known)
        data = retarget(rng, data, spis)
        target.manager.receive_datagram(data, target.address, rng.choice(sources), network.now)
        replies = target.manager.datagrams_to_send()
        assert len(replies) <= 1
        # No more octets out than in, but for what an IKE_SA_INIT response has: no amplifier.
        assert sum(len(reply.data) for reply in replies) <= max(len(data), 28) + 120
    assert target.manager.internal_errors == 0


@pytest.mark.req("rfc7296-s2.4-03")
def test_established_sa_survives_sixty_thousand_mutations() -> None:
    network = Network()
    a = network.add("a", A, [connection(A, B)])
    b = network.add("b", B, [connection(B, "%any", remote_id=None)], SMALL)
    up(network, a, until=5.0)
    b.sa.last_report_at = network.now  # a changed SPI would be reported (RFC 7296 section 2.21.4)
    before = state_of(b)
    spis = [(a.sa.spi_i, a.sa.spi_r)]
    assault(network, b, 7, ESTABLISHED_COUNT, spis)
    assert state_of(b) == before
    assert b.manager.remembered <= 1 + SMALL.half_open_limit
    assert b.manager.half_open_count <= SMALL.half_open_limit
    # And it still works.
    a.manager.check_liveness(a.sa, network.now)
    network.run(network.now + 5)
    a.manager.delete(a.sa, network.now)
    network.run()
    assert b.manager.remembered == 0
    assert b.manager.next_timer() is None


def test_half_open_sa_survives_thirty_thousand_mutations_and_completes() -> None:
    network = Network(link=lambda sent: (0.01,) if sent.number < 2 else ())
    a = network.add("a", A, [connection(A, B)])
    b = network.add("b", B, [connection(B, "%any", remote_id=None)], SMALL)
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.1)
    ike_sa_init.derive_late(b.sa)
    before = state_of(b)
    assault(network, b, 8, HALF_OPEN_COUNT, [(sa.spi_i, sa.spi_r)])
    assert state_of(b) == before
    assert b.manager.half_open_count <= SMALL.half_open_limit
    network.link = lambda sent: (0.01,)
    network.run(5.0)
    assert sa.state is State.ESTABLISHED
    assert len(b.installed) == 1


def test_initiator_survives_ten_thousand_mutations_in_each_state() -> None:
    for cut, state in ((1, State.INIT_SENT), (2, State.AUTH_SENT)):
        network, a, b = pair(link=lambda sent, cut=cut: (0.01,) if sent.number < cut else ())  # type: ignore[misc]
        sa = a.manager.initiate("lab", None, a.address, 0.0)
        network.run(0.1)
        assert sa.state is state
        before = sa.requests.in_flight
        rng = random.Random(9)
        known = corpus()
        for _ in range(INITIATOR_COUNT // 2):
            data = retarget(rng, mutate(rng, rng.choice(known), known), [(sa.spi_i, sa.spi_r)], 0x20)
            a.manager.receive_datagram(data, a.address, b.address, network.now)
            a.manager.datagrams_to_send()
        assert a.manager.internal_errors == 0
        assert sa.state in (State.INIT_SENT, State.AUTH_SENT)
        if state is State.AUTH_SENT:
            assert sa.requests.in_flight is before
            network.link = lambda sent: (0.01,)
            network.run(20.0)
            assert sa.state is State.ESTABLISHED


def test_authentic_but_malformed_content_never_raises() -> None:
    """Who has the keys may send any octets inside SK: answered or dropped, at worst the SA is closed."""
    rng = random.Random(10)
    network, a, b = connected()
    payload_sets = [
        encode_payloads(Message.parse(data).payloads) for data in corpus() if data[18] == ExchangeType.IKE_SA_INIT
    ]
    for _ in range(1500):
        if not b.manager.sas or not a.manager.sas or b.sa.state is not State.ESTABLISHED:
            network, a, b = connected(rng.randrange(1 << 30))
        first, octets = rng.choice(payload_sets)
        inner = mutate(rng, octets, [octets for _, octets in payload_sets])
        sa = a.sa
        assert sa.channel is not None
        data = _seal_octets(a, PayloadType(rng.choice((first, rng.randrange(256)))), inner, rng)
        b.manager.receive_datagram(data, b.address, a.address, network.now)
        network.flush(b)
        sa.requests.next_id = b.manager.sas[0].responses.expected_id if b.manager.sas else 0
        assert b.manager.internal_errors == 0


def _seal_octets(host: Host, first: PayloadType, plaintext: bytes, rng: random.Random) -> bytes:
    from ikev2.wire.header import Header
    from ikev2.wire.message import sealed_prefix
    from ikev2.wire.payloads import Encrypted

    sa = host.sa
    assert sa.channel is not None
    cipher = sa.channel._outbound
    exchange = rng.choice((ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_AUTH))
    header = Header.to_send(sa.spi_i, sa.spi_r, exchange, sa.requests.next_id, is_initiator=True, is_response=False)
    aad = sealed_prefix(header, Encrypted(first, b""), cipher.sealed_octets(len(plaintext)))
    return aad + cipher.seal(aad, plaintext, cipher.new_iv(sa.entropy))


def test_the_corpus_is_what_it_should_be() -> None:
    known = corpus()
    assert len(known) > 20
    assert {data[18] for data in known} == {34, 35, 37}
    assert ESTABLISHED_COUNT + HALF_OPEN_COUNT + INITIATOR_COUNT == TOTAL
    assert PSK not in b"".join(known)
    assert parse_payloads(*encode_payloads(Message.parse(known[0]).payloads))
