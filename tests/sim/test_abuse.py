"""What a stranger on the path, or off it, gets for its trouble."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim.craft import clear, give, parse
from sim.network import IKE_PROPOSAL, A, B, Network, connection, pair

from ikev2.core.config import Limits
from ikev2.core.events import IkeSaEstablished
from ikev2.core.types import Address
from ikev2.crypto.suites import parse_ike_proposal
from ikev2.iana import ExchangeType, KeId, NotifyType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Sa

OFFER = Sa((replace(parse_ike_proposal(IKE_PROPOSAL), number=1),))
WELL_FORMED: tuple[Payload, ...] = (OFFER, Ke(KeId.CURVE25519, bytes(32)), Nonce(bytes(16)))


def test_messages_that_are_sent_back_to_their_sender_make_no_sa() -> None:
    """Somebody on the path returns all that A sends: A has the PSK, and would prove it to itself."""
    network = Network()
    a = network.add("a", A, [connection(A, "%any", remote_id=None)])
    a.manager.initiate("lab", Address(B, 500), a.address, 0.0)
    for _ in range(20):
        for datagram in a.manager.datagrams_to_send():
            a.manager.receive_datagram(datagram.data, datagram.local, datagram.remote, network.now)
    network.flush(a)
    assert a.of(IkeSaEstablished) == []


@pytest.mark.req("rfc7296-s2.6-02")
@pytest.mark.parametrize("missing", range(3))
def test_cookie_is_for_what_could_begin_an_sa_only(missing: int) -> None:
    """A cookie is longer than a header: whoever forges source addresses shall not gain by it."""
    network, a, b = pair(limits=Limits(cookie_threshold=0))
    payloads = tuple(item for number, item in enumerate(WELL_FORMED) if number != missing)
    for number, content in enumerate(((), payloads)):
        give(network, b, clear(ExchangeType.IKE_SA_INIT, content, spi_i=bytes([number + 1] * 8)), a.address)
    assert network.sent == []
    request = clear(ExchangeType.IKE_SA_INIT, WELL_FORMED)
    give(network, b, request, a.address)
    (sent,) = network.sent
    (cookie,) = parse(sent.datagram).payloads
    assert isinstance(cookie, Notify)
    assert cookie.notify_type == NotifyType.COOKIE
    assert len(sent.datagram.data) < len(request)
