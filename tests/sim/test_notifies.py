"""Notifies that somebody does not know, or that do not go together with the rest of their message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sim.craft import clear, give, last_sent, opened, parse, sealed
from sim.interleaving import assert_agreed
from sim.network import Host, Network, assert_joined, assert_nothing_left, connected, pair, up
from sim.test_ike_auth import AUTH_EXCHANGE, half_open, net, tampered
from sim.test_windows import Reader

from ikev2.core import extension
from ikev2.core.channel import Plain, SecureChannel
from ikev2.core.events import ChildSaFailed, IkeSaDeleted, IkeSaEstablished, IkeSaFailed, IkeSaRekeyFailed
from ikev2.core.transitions import State
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Auth, Notify, Payload

__all__ = ["net"]

UNKNOWN_ERROR = NotifyType(8191)
PRIVATE_ERROR = NotifyType(16383)
UNKNOWN_STATUS = NotifyType(40959)
PRIVATE_STATUS = NotifyType(65535)

FATAL = (NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)


def added(*types: NotifyType) -> Callable[[tuple[Payload, ...]], tuple[Payload, ...]]:
    def change(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        return (*payloads, *(Notify(notify_type, b"data") for notify_type in types))

    return change


@pytest.mark.req("rfc7296-s3.10.1-02")
@pytest.mark.parametrize("exchange", [ExchangeType.IKE_SA_INIT, AUTH_EXCHANGE])
def test_notifies_that_nobody_knows_are_ignored_in_requests(
    net: Callable[..., tuple[Network, Host, Host]], exchange: ExchangeType
) -> None:
    network, a, b = net()
    types = (UNKNOWN_ERROR, PRIVATE_ERROR, UNKNOWN_STATUS, PRIVATE_STATUS)
    if exchange == AUTH_EXCHANGE:
        tampered(network, a, exchange, added(*types))
    else:
        from ikev2.core import nat

        plain = nat.detection_notifies
        network.patch.setattr(  # type: ignore[attr-defined]
            nat,
            "detection_notifies",
            lambda *args, **flags: (
                *plain(*args, **flags),
                *(Notify(kind) for kind in (types if args[1] == bytes(8) else ())),
            ),
        )
    up(network, a)
    assert_joined(a, b)
    assert len(a.installed) == 1


@pytest.mark.req("rfc7296-s3.10.1-02", "rfc7296-s1.4-04", "rfc7296-s4-05")
def test_notifies_that_nobody_knows_are_ignored_in_informational_requests() -> None:
    network, a, b = connected()
    payloads = tuple(Notify(kind) for kind in (UNKNOWN_ERROR, PRIVATE_ERROR, UNKNOWN_STATUS, PRIVATE_STATUS))
    give(network, b, sealed(a, ExchangeType.INFORMATIONAL, payloads), a.address)
    assert opened(a, last_sent(network)) == ()
    assert b.sa.state is State.ESTABLISHED
    assert len(b.installed) == 1


@pytest.mark.req("rfc7296-s3.10.1-02")
def test_status_that_nobody_knows_is_ignored_in_a_response(
    net: Callable[..., tuple[Network, Host, Host]],
) -> None:
    network, a, b = net()
    tampered(network, b, AUTH_EXCHANGE, added(UNKNOWN_STATUS, PRIVATE_STATUS))
    up(network, a)
    assert_joined(a, b)
    assert len(a.installed) == 1


@pytest.mark.req("rfc7296-s3.10.1-01")
@pytest.mark.parametrize("notify_type", [UNKNOWN_ERROR, PRIVATE_ERROR])
def test_error_that_nobody_knows_fails_the_whole_ike_auth(
    net: Callable[..., tuple[Network, Host, Host]], notify_type: NotifyType
) -> None:
    """Also beside a proof and a Child SA that would do; the peer is told with a Delete payload."""
    network, a, b = net()
    tampered(network, b, AUTH_EXCHANGE, added(notify_type))
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == notify_type
    assert a.of(IkeSaEstablished) == []
    assert len(b.of(IkeSaDeleted)) == 1
    assert_nothing_left(a, b)


@pytest.mark.parametrize("notify_type", FATAL)
def test_error_that_ends_the_ike_sa_does_so_beside_a_good_proof(
    net: Callable[..., tuple[Network, Host, Host]], notify_type: NotifyType
) -> None:
    """RFC 7296 section 2.21.2: these leave no IKE SA at the responder, so there is nobody to send a Delete to."""
    network, a, b = net()
    tampered(
        network,
        b,
        AUTH_EXCHANGE,
        lambda payloads: (*(item for item in payloads if isinstance(item, Auth) or item.payload_type == 36),
                          Notify(notify_type)),
    )  # fmt: skip
    up(network, a, until=10.0)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == notify_type
    assert_nothing_left(a)
    assert [sent for sent in network.sent if sent.sender is a][2:] == []


def test_error_that_was_forged_before_the_genuine_answer_leaves_no_trace() -> None:
    """What was said in IKE_SA_INIT neither shortens the patience in IKE_AUTH nor is its reason."""
    network, a, b = pair(link=lambda sent: (0.01,) if sent.number < 2 else ())
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    forged = clear(
        ExchangeType.IKE_SA_INIT,
        (Notify(NotifyType.NO_PROPOSAL_CHOSEN),),
        spi_i=sa.spi_i,
        is_initiator=False,
        is_response=True,
    )
    give(network, a, forged, b.address)
    network.run(300)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type is None
    requests = [sent for sent in network.sent if sent.sender is a and sent.datagram.data[18] == AUTH_EXCHANGE]
    assert len(requests) == 1 + a.manager.connections[0].retransmission.tries


@pytest.mark.req("rfc7296-s2.3-10", "rfc7296-s2.3-08", "rfc7296-s2.3-09")
def test_requests_beyond_the_window_are_reported_once_in_a_while_in_a_request_of_ours() -> None:
    """HDR(MID=3), SK {}  -->
    <--  HDR(MID=0), SK {N(INVALID_MESSAGE_ID)=00000003}
    """
    network, a, b = connected()
    reader, before = Reader(a.sa), len(network.sent)
    for number in (3, 4, 77, 0xFFFFFFFF):
        give(network, b, sealed(a, ExchangeType.INFORMATIONAL, (), message_id=number), a.address)
    network.run(network.now + 5)
    (request, response) = network.sent[before:]
    assert not parse(request.datagram).header.is_response
    assert parse(request.datagram).header.exchange_type == ExchangeType.INFORMATIONAL
    assert reader.read(request) == (Notify(NotifyType.INVALID_MESSAGE_ID, b"\0\0\0\3"),)
    assert response.sender is a
    network.run(network.now + 6)
    for number in (78, 79):
        give(network, b, sealed(a, ExchangeType.INFORMATIONAL, (), message_id=number), a.address)
    network.run(network.now + 60)
    assert reader.read(network.sent[before + 2]) == (Notify(NotifyType.INVALID_MESSAGE_ID, b"\0\0\0\x4e"),)
    assert len(network.sent) == before + 4
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s2.3-10")
def test_what_was_answered_long_ago_or_is_a_forgery_is_not_reported() -> None:
    network, a, b = connected()
    before = len(network.sent)
    give(network, b, sealed(a, ExchangeType.INFORMATIONAL, (), message_id=0), a.address)
    forged = bytearray(sealed(a, ExchangeType.INFORMATIONAL, (), message_id=77))
    forged[-1] ^= 1
    give(network, b, bytes(forged), a.address)
    network.run(network.now + 60)
    assert len(network.sent) == before


@pytest.mark.req("rfc7296-s3.1-14")
def test_nobody_answers_a_response() -> None:
    network, a, b, genuine = half_open()
    before = len(network.sent)
    for exchange in (ExchangeType.IKE_SA_INIT, AUTH_EXCHANGE, ExchangeType.INFORMATIONAL, ExchangeType(77)):
        for number in (0, 1, 2):
            give(network, b, sealed(a, exchange, genuine, message_id=number, is_response=True), a.address)
            give(network, b, clear(exchange, is_response=True, message_id=number), a.address)
    assert len(network.sent) == before


@pytest.mark.req("rfc7296-s3.10.1-01")
@pytest.mark.parametrize("notify_type", [UNKNOWN_ERROR, PRIVATE_ERROR])
@pytest.mark.parametrize("rekeying", [False, True])
def test_error_that_nobody_knows_fails_the_whole_create_child_sa(
    monkeypatch: pytest.MonkeyPatch, notify_type: NotifyType, rekeying: bool
) -> None:
    """Also beside a Child SA that would do, of which the peer has its half: that is deleted again there."""
    network, a, b = connected()
    network.patch = monkeypatch  # type: ignore[attr-defined]
    before = dict(a.installed)
    tampered(network, b, ExchangeType.CREATE_CHILD_SA, added(notify_type))
    if rekeying:
        a.manager.rekey_child(next(iter(before.values())), network.now)
    else:
        a.manager.make_child(a.sa, "net", network.now)
    network.run(network.now + 10)
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == notify_type
    assert a.installed == before
    assert_joined(a, b)
    assert a.spis.reserved == set()


@pytest.mark.req("rfc7296-s3.10.1-01")
def test_error_that_nobody_knows_fails_the_rekeying_of_the_ike_sa(monkeypatch: pytest.MonkeyPatch) -> None:
    network, a, b = connected()
    plain, channel = SecureChannel.prepare, b.sa.channel

    def prepare(
        self: SecureChannel, kind: ExchangeType, number: int, payloads: tuple[Payload, ...], **flags: bool
    ) -> Plain:
        return plain(self, kind, number, added(UNKNOWN_ERROR)(payloads) if self is channel else payloads, **flags)

    monkeypatch.setattr(SecureChannel, "prepare", prepare)
    a.manager.rekey(a.sa, network.now)
    network.run(network.now + 10)
    assert len(a.of(IkeSaRekeyFailed)) == 1
    assert a.manager.sas == []
    assert a.installed == {}


@pytest.mark.req("rfc7296-s3.10.1-01")
def test_error_that_nobody_knows_fails_ike_sa_init_beside_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be forged, so that the initiator goes on for a while; then that is the reason."""
    network, a, b = pair()
    init, said = ExchangeType.IKE_SA_INIT, (Notify(UNKNOWN_ERROR),)
    monkeypatch.setattr(
        extension, "offers", lambda sa, exchange, is_response: said * (is_response and exchange == init)
    )
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == UNKNOWN_ERROR
    assert a.of(IkeSaEstablished) == []
    assert_nothing_left(a, b)
