"""What a stranger on the path, or off it, gets for its trouble."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim.craft import clear, give, notify_types, parse
from sim.network import IKE_PROPOSAL, A, B, Network, assert_joined, connection, pair, proposals, up

from ikev2.core.config import Limits
from ikev2.core.events import IkeSaEstablished
from ikev2.core.exchanges import ike_sa_init
from ikev2.core.strangers import COOKIES_FOR_S
from ikev2.core.types import Address
from ikev2.crypto.suites import parse_ike_proposal
from ikev2.iana import ExchangeType, KeId, NotifyType
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Sa

OFFER = Sa((replace(parse_ike_proposal(IKE_PROPOSAL), number=1),))
NOT_CONFIGURED: tuple[Payload, ...] = (
    Sa((replace(parse_ike_proposal("aes128-sha256-modp2048"), number=1),)),
    Ke(KeId.MODP_2048, bytes(256)),
    Nonce(bytes(32)),
)
INIT = ExchangeType.IKE_SA_INIT
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


def test_requests_that_are_refused_bring_on_cookies_as_half_open_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave nothing half-open, and cost more than to ask for a cookie. RFC 7296 section 2.6."""
    network, a, b = pair()
    looked_at: list[object] = []
    choose = ike_sa_init.choose_proposal
    monkeypatch.setattr(
        ike_sa_init, "choose_proposal", lambda *args, **more: looked_at.append(args) or choose(*args, **more)
    )
    answers = []
    for number in range(100):
        give(network, b, clear(INIT, NOT_CONFIGURED, spi_i=(number + 1).to_bytes(8, "big")), a.address)
        answers += notify_types(parse(network.sent[-1].datagram).payloads)
    assert answers == [NotifyType.NO_PROPOSAL_CHOSEN] * 10 + [NotifyType.COOKIE] * 90
    assert len(looked_at) == 10
    assert b.manager.remembered == 0
    up(network, a, until=0.5)
    assert_joined(a, b)  # who is where it says gets through
    network.run(COOKIES_FOR_S + 1)
    give(network, b, clear(INIT, NOT_CONFIGURED, spi_i=b"\x99" * 8), a.address)
    assert notify_types(parse(network.sent[-1].datagram).payloads) == [NotifyType.NO_PROPOSAL_CHOSEN]


def test_an_offer_is_matched_once_with_what_many_connections_have(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    same = [connection(B, "%any", name=f"one{number}") for number in range(50)]
    b = network.add(
        "b", B, [*same, connection(B, "%any", name="other", proposals=proposals("aes128-sha256-ecp256"))]
    )
    matched: list[object] = []
    choose = ike_sa_init.choose_proposal
    monkeypatch.setattr(
        ike_sa_init, "choose_proposal", lambda *args, **more: matched.append(args) or choose(*args, **more)
    )
    give(network, b, clear(INIT, NOT_CONFIGURED), Address(A, 500))
    assert notify_types(parse(network.sent[-1].datagram).payloads) == [NotifyType.NO_PROPOSAL_CHOSEN]
    assert len(matched) == 2
