"""Known shapes answer as the parser and the rules do: ten thousand mutated first requests to two endpoints.

Both have the same entropy, so that their cookies are the same. RFC 7296 section 2.6.
"""

from __future__ import annotations

import random
import struct

import pytest
from sim.craft import clear, parse
from sim.network import IKE_PROPOSAL, A, B, Host, Network, connection
from test_ikev2_core_mutations import mutate

from ikev2.core.config import Limits
from ikev2.core.shapes import SHAPES_KEPT, KnownShapes, shape_of
from ikev2.core.types import Address
from ikev2.crypto.suites import numbered, parse_ike_proposal
from ikev2.iana import ExchangeType, KeId, NotifyType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Sa, Unknown, VendorId

PROPOSALS = numbered((parse_ike_proposal(IKE_PROPOSAL), parse_ike_proposal("aes128-sha256-modp2048")))
FIRST: tuple[Payload, ...] = (
    Sa(PROPOSALS),
    Ke(KeId.CURVE25519, b"k" * 32),
    Nonce(b"n" * 32),
    Notify(NotifyType.NAT_DETECTION_SOURCE_IP, b"s" * 20),
    Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, b"d" * 20),
    Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),
)


class Forgetful(KnownShapes):
    """Knows nothing: every request goes through the parser."""

    def accept(self, data: bytes) -> None:
        """Nothing is kept."""


def responder() -> Host:
    """One that always wants a cookie and answers as often as it is asked."""
    limits = Limits(cookie_threshold=0, unprotected_replies_per_s=1e9)
    return Network(1).add("b", B, [connection(B, "%any", remote_id=None)], limits=limits)


def answers(host: Host, data: bytes) -> tuple[list[tuple[bytes, Address]], int]:
    """What a datagram is answered with, and how many were dropped so far."""
    host.manager.receive_datagram(data, Address(B, 500), Address(A, 500), 1.0)
    return [(sent.data, sent.remote) for sent in host.manager.datagrams_to_send()], host.manager.dropped


def requests() -> list[bytes]:
    """First requests of several kinds."""
    others: list[tuple[Payload, ...]] = [
        FIRST,
        (*FIRST, VendorId(b"somebody")),
        (*FIRST, Unknown(200, b"whatever")),
        (*FIRST[:3], Notify(NotifyType.SET_WINDOW_SIZE, bytes(4))),
        (Notify(NotifyType.COOKIE, b"c" * 20), *FIRST),
        (FIRST[2], FIRST[1], FIRST[0]),
    ]
    return [clear(ExchangeType.IKE_SA_INIT, payloads) for payloads in others]


@pytest.mark.req("rfc7296-s2.6-02")
@pytest.mark.parametrize("seed", range(4))
def test_known_shapes_answer_as_the_parser_does(seed: int) -> None:
    rng, genuine = random.Random(seed), requests()
    knowing, parsing = responder(), responder()
    parsing.manager._strangers.shapes = Forgetful()
    quick = 0
    for _ in range(2_500):
        data = rng.choice(genuine)
        if rng.random() < 0.8:
            data = mutate(rng, data, genuine)
        if len(data) > 28:
            data = rng.randbytes(8) + data[8:]
        quick += len(data) > 28 and knowing.manager._strangers.shapes.nonce_of(data) is not None
        assert answers(knowing, data) == answers(parsing, data)
    assert quick > 500
    assert len(parsing.manager._strangers.shapes) == 0


def test_requests_of_one_shape_differ_in_spi_public_value_nonce_and_digests_only() -> None:
    one = clear(ExchangeType.IKE_SA_INIT, FIRST)
    other = clear(
        ExchangeType.IKE_SA_INIT,
        (
            FIRST[0],
            Ke(KeId.CURVE25519, b"K" * 32),
            Nonce(b"N" * 32),
            Notify(NotifyType.NAT_DETECTION_SOURCE_IP, b"S" * 20),
            Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, b"D" * 20),
            FIRST[5],
        ),
        spi_i=b"another.",
    )
    first, second = shape_of(one), shape_of(other)
    assert first is not None
    assert second is not None
    assert first[0] == second[0]
    assert (first[1], second[1]) == (b"n" * 32, b"N" * 32)
    for payloads in (
        (Sa(PROPOSALS[:1]), *FIRST[1:]),
        (FIRST[0], Ke(KeId.MODP_2048, b"k" * 32), *FIRST[2:]),
        (*FIRST[:2], Nonce(b"n" * 33), *FIRST[3:]),
        FIRST[:5],
        (FIRST[1], FIRST[0], *FIRST[2:]),
    ):
        different = shape_of(clear(ExchangeType.IKE_SA_INIT, payloads))
        assert different is not None
        assert different[0] != first[0]


def test_request_with_a_cookie_has_no_shape() -> None:
    assert shape_of(clear(ExchangeType.IKE_SA_INIT, (Notify(NotifyType.COOKIE, b"c" * 20), *FIRST))) is None


def test_header_bits_that_are_ignored_still_make_another_shape() -> None:
    data = bytearray(clear(ExchangeType.IKE_SA_INIT, FIRST))
    known = KnownShapes()
    known.accept(bytes(data))
    assert known.nonce_of(bytes(data)) == b"n" * 32
    data[19] |= 0x80
    assert known.nonce_of(bytes(data)) is None


def test_few_shapes_are_kept_and_the_oldest_goes_first() -> None:
    known = KnownShapes()
    kept = [
        clear(ExchangeType.IKE_SA_INIT, (*FIRST, VendorId(bytes(number + 1)))) for number in range(SHAPES_KEPT + 1)
    ]
    for data in kept:
        known.accept(data)
    assert len(known) == SHAPES_KEPT
    assert known.nonce_of(kept[0]) is None
    assert known.nonce_of(kept[1]) == b"n" * 32


def test_long_or_endless_requests_have_no_shape() -> None:
    assert shape_of(clear(ExchangeType.IKE_SA_INIT, (*FIRST, VendorId(bytes(2048))))) is None
    assert shape_of(clear(ExchangeType.IKE_SA_INIT, (*FIRST, *[VendorId(b"")] * 20))) is None
    data = bytearray(clear(ExchangeType.IKE_SA_INIT, FIRST))
    struct.pack_into("!H", data, 30, 0)  # the first payload says that it has no octets
    assert shape_of(bytes(data)) is None


def test_cookie_of_the_quick_way_is_taken_back() -> None:
    host = responder()
    for number in range(3):
        spi = bytes([number + 1]) * 8
        (((reply, _),), _) = answers(host, clear(ExchangeType.IKE_SA_INIT, FIRST, spi_i=spi))
        message = parse(reply)
        assert (message.header.initiator_spi, message.header.responder_spi) == (spi, bytes(8))
        (cookie,) = message.payloads
        (((answer, _),), _) = answers(host, clear(ExchangeType.IKE_SA_INIT, (cookie, *FIRST), spi_i=spi))
        assert any(isinstance(payload, Sa) for payload in parse(answer).payloads)
    assert len(host.manager._strangers.shapes) == 1
