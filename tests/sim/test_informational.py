"""INFORMATIONAL and what comes under an established IKE SA: deletes, notifies, liveness, refusals."""

from __future__ import annotations

import pytest
from sim.craft import clear, clear_of, give, last_sent, notify_types, opened, parse, sealed, unknown
from sim.network import A, B, Delays, Host, Network, Sent, assert_joined, assert_nothing_left, connected, pair, up

from ikev2.core.config import Limits
from ikev2.core.events import ChildSaDeleted, ChildSaHalfClosed, IkeSaDeleted, PeerAlive
from ikev2.core.ike_sa import IkeSa
from ikev2.core.transitions import State
from ikev2.core.types import Address
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType, NotifyType, PayloadType, ProtocolId
from ikev2.wire.payloads import Delete, Encrypted, Ke, Nonce, Notify, Payload, Sa, VendorId

INFO = ExchangeType.INFORMATIONAL
CREATE = ExchangeType.CREATE_CHILD_SA


def ask(
    network: Network, sender: Host, receiver: Host, *payloads: Payload, exchange: ExchangeType = INFO
) -> tuple[Payload, ...]:
    """An authentic request that the sender's core does not know of, and what the response holds."""
    data = sealed(sender, exchange, payloads)
    sender.sa.requests.next_id += 1
    before = len(network.sent)
    give(network, receiver, data, sender.address)
    assert len(network.sent) == before + 1
    return opened(sender, last_sent(network))


@pytest.mark.req("rfc7296-s1.4-04")
@pytest.mark.parametrize(
    "payloads",
    [
        (),
        (Notify(NotifyType(40960)),),
        (Notify(NotifyType(9999)),),
        (Notify(NotifyType.SET_WINDOW_SIZE, b"\0\0\0\4"),),
        (unknown(),),
        (VendorId(b"x"), unknown(199)),
        (Delete(ProtocolId.AH, 4, (b"abcd",)),),
        (Delete.esp(b"none"),),
    ],
    ids=str,
)
def test_whatever_is_not_understood_is_answered_with_an_empty_response(payloads: tuple[Payload, ...]) -> None:
    network, a, b = connected()
    assert ask(network, a, b, *payloads) == ()
    assert ask(network, b, a, *payloads) == ()
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s1.4.1-01", "rfc7296-s1.4.1-02", "rfc7296-s1.4.1-03", "rfc7296-s2.4-08")
@pytest.mark.parametrize("end", ["a", "b"])
def test_child_delete_names_the_senders_inbound_spi_and_gets_the_other_half(end: str) -> None:
    network, a, b = connected()
    sender, receiver = (a, b) if end == "a" else (b, a)
    (child,) = sender.installed.values()
    sender.manager.delete_child(child, network.now)
    network.run()
    request, response = network.sent[-2].datagram, network.sent[-1].datagram
    assert opened(receiver, request) == (Delete.esp(child.spi_in.to_bytes(4, "big")),)
    assert opened(sender, response) == (Delete.esp(child.spi_out.to_bytes(4, "big")),)
    assert a.installed == b.installed == {}
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s1.4.1-04", "rfc7296-s1.4.1-05", "rfc7296-s2.25.1-05")
def test_child_deletes_that_cross_are_answered_without_delete_payloads() -> None:
    network, a, b = connected()
    for host in (a, b):
        host.manager.delete_child(next(iter(host.installed.values())), network.now)
    network.run()
    requests, responses = network.sent[-4:-2], network.sent[-2:]
    assert all(not parse(sent.datagram).header.is_response for sent in requests)
    for sent in responses:
        reader = a if sent.sender is b else b
        assert opened(reader, sent.datagram) == ()
    for host in (a, b):
        kinds = [type(event) for event in host.events[-2:]]
        assert kinds == [ChildSaHalfClosed, ChildSaDeleted]
    assert a.installed == b.installed == {}
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.25.1-07")
def test_delete_of_a_child_that_is_not_there_gets_no_delete() -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    assert (
        ask(network, a, b, Delete.esp(child.spi_out.to_bytes(4, "big"))) == ()
    )  # B's own inbound SPI: not A's to name
    assert len(b.installed) == 1


@pytest.mark.req("rfc7296-s2.25.2-05")
def test_ike_sa_deletes_that_cross() -> None:
    network, a, b = connected()
    for host in (a, b):
        host.manager.delete(host.sa, network.now)
    network.run(network.now + 0.015)
    # The requests have come, and no response yet: each end has forgotten its own.
    for host in (a, b):
        assert len(host.of(IkeSaDeleted)) == 1
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.21.4-01", "rfc7296-s2.21.4-05", "rfc7296-s3.1-14")
def test_a_response_under_unknown_spis_is_answered_by_nobody() -> None:
    network, a, b = connected()
    before = len(network.sent)
    for initiator in (True, False):
        spis = {"spi_i": b"\x11" * 8, "spi_r": b"\x22" * 8, "is_initiator": initiator}
        give(network, b, clear(ExchangeType.INFORMATIONAL, (), is_response=True, **spis), a.address)  # type: ignore[arg-type]
    assert len(network.sent) == before
    assert b.sa.state is State.ESTABLISHED


def test_deleting_twice_sends_one_delete() -> None:
    network, a, b = connected()
    sa = a.sa
    before = len(network.sent)
    a.manager.delete(sa, network.now)
    a.manager.delete(sa, network.now)
    network.run()
    assert len(network.sent) == before + 2
    a.manager.delete(sa, network.now)
    assert_nothing_left(a, b)


def test_child_that_is_not_there_is_the_callers_mistake() -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    a.manager.delete_child(child, network.now)
    network.run()
    with pytest.raises(LocalProtocolError):
        a.manager.delete_child(child, network.now)
    with pytest.raises(LocalProtocolError):
        a.manager.initiate("nothing", None, a.address, network.now)
    assert b.installed == {}


def test_delete_asked_for_during_the_handshake_waits_for_its_end() -> None:
    network, a, b = pair()
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.025)
    assert sa.state is State.AUTH_SENT
    a.manager.delete(sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    assert len(b.of(IkeSaDeleted)) == 1


@pytest.mark.req("rfc7296-s2.3-02", "rfc7296-s2.3-04", "rfc7296-s2.3-05")
def test_one_request_at_a_time_the_others_wait() -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    a.manager.check_liveness(a.sa, network.now)
    a.manager.delete_child(child, network.now)
    a.manager.delete(a.sa, network.now)
    network.flush(a)
    assert len([sent for sent in network.sent if sent.sender is a]) == 2 + 1
    network.run()
    ids = [parse(sent.datagram).header.message_id for sent in network.sent if sent.sender is a]
    assert ids == [0, 1, 2, 3]
    assert_nothing_left(a, b)


# --- liveness ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("rfc7296-s2.4-04")
def test_dead_peer_is_noticed_and_only_then() -> None:
    cut = {"at": float("inf")}
    network, a, b = pair(a={"dpd_delay_s": 10.0})
    network.link = lambda sent: (0.01,) if network.now < cut["at"] else ()
    up(network, a, until=65.0)
    assert len(a.of(PeerAlive)) == 6
    assert_joined(a, b)
    cut["at"] = 65.0
    network.run(200.0)
    (deleted,) = a.of(IkeSaDeleted)
    assert isinstance(deleted, IkeSaDeleted)
    assert deleted.reason == "the peer does not answer"
    assert a.manager.next_timer() is None
    assert a.installed == {}


def test_traffic_of_a_child_sa_puts_the_liveness_check_off() -> None:
    network, a, _ = pair(a={"dpd_delay_s": 10.0})
    up(network, a, until=5.0)
    for second in range(6, 60, 3):
        a.sa.note_inbound_traffic(float(second))
        a.manager.handle_timer(network.now)
        network.run(float(second))
    assert a.of(PeerAlive) == []


@pytest.mark.req("rfc7296-s2.4-04")
def test_driver_is_asked_about_traffic_before_an_sa_asks_its_peer_and_about_no_other_sa() -> None:
    asked: list[IkeSa] = []

    def before_timer(sa: IkeSa) -> None:
        asked.append(sa)
        if network.now < 60:
            sa.note_inbound_traffic(network.now)

    network, a, b = pair(a={"dpd_delay_s": 10.0}, before_timer=before_timer)
    quiet = up(network, b, until=1.0)
    noisy = up(network, a, until=2.0)
    assert noisy.connection.dpd_delay_s
    network.run(59.0)
    assert a.of(PeerAlive) == []
    assert len(asked) == 5 * 2  # both of A's SAs have the delay, none of B's
    assert {sa.spi_i for sa in asked} == {quiet.spi_i, noisy.spi_i}
    assert all(sa in a.manager.sas for sa in asked)
    network.run(65.0)
    assert len(a.of(PeerAlive)) == 2


# --- what is wrong with a request of an authentic peer ---


@pytest.mark.req("rfc7296-s2.21.3-01")
@pytest.mark.parametrize(
    ("exchange", "payloads"),
    [
        (INFO, (Nonce(bytes(32)),)),
        (CREATE, (Nonce(bytes(32)),)),
        (ExchangeType.IKE_AUTH, ()),
        (ExchangeType(77), ()),
    ],
)
def test_malformed_request_is_answered_with_invalid_syntax_and_is_fatal(
    exchange: ExchangeType, payloads: tuple[Payload, ...]
) -> None:
    network, a, b = connected()
    answer = ask(network, a, b, *payloads, exchange=exchange)
    assert notify_types(answer) == [NotifyType.INVALID_SYNTAX]
    assert b.manager.sas == []
    assert b.installed == {}


def test_peer_that_finds_our_request_malformed_ends_the_sa_here_too() -> None:
    network, a, b = connected()
    a.manager.check_liveness(a.sa, network.now)
    (request,) = a.manager.datagrams_to_send()
    number = parse(request).header.message_id
    give(
        network,
        a,
        sealed(b, INFO, (Notify(NotifyType.INVALID_SYNTAX),), message_id=number, is_response=True),
        b.address,
    )
    assert a.manager.sas == []


@pytest.mark.req("rfc7296-s2.5-10", "rfc7296-s2.5-11")
def test_unknown_critical_payload_is_refused_and_the_sa_stays() -> None:
    network, a, b = connected()
    assert ask(network, a, b, unknown(222, critical=True)) == (
        Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([222])),
    )
    assert_joined(a, b)


def test_authentication_failed_right_after_ike_auth_ends_the_sa_without_a_delete_but_later_it_does_not() -> None:
    """RFC 7296 section 2.21.2: only in the INFORMATIONAL exchange immediately following IKE_AUTH."""
    network, a, b = connected()
    assert ask(network, a, b, Notify(NotifyType.AUTHENTICATION_FAILED)) == ()
    assert b.manager.sas == []
    network, a, b = connected()
    assert ask(network, a, b) == ()
    assert ask(network, a, b, Notify(NotifyType.AUTHENTICATION_FAILED)) == ()
    assert_joined(a, b)


# --- CREATE_CHILD_SA ---


def new_child(a: Host, *more: Payload) -> tuple[Payload, ...]:
    from sim.network import ESP_PROPOSAL

    from ikev2.core import narrowing
    from ikev2.core.config import DYNAMIC
    from ikev2.crypto.suites import numbered, parse_esp_proposal
    from ikev2.wire.payloads import TsI, TsR

    proposals = numbered([parse_esp_proposal(ESP_PROPOSAL)], b"\x01\x02\x03\x04")
    own, other = narrowing.resolve([DYNAMIC], A), narrowing.resolve([DYNAMIC], B)
    return (*more, Sa(proposals), Nonce(bytes(32)), TsI(own), TsR(other))


def test_more_child_sas_than_are_allowed_are_refused_with_no_additional_sas() -> None:
    network, a, b = connected(limits=Limits(child_sas=1))
    assert notify_types(ask(network, a, b, *new_child(a), exchange=CREATE)) == [NotifyType.NO_ADDITIONAL_SAS]
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.25-05", "rfc7296-s2.25.1-04")
def test_rekey_of_a_child_that_is_not_there_is_child_sa_not_found_with_its_spi() -> None:
    network, a, b = connected()
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"gone")
    assert ask(network, a, b, *new_child(a, rekey), exchange=CREATE) == (
        Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=ProtocolId.ESP, spi=b"gone"),
    )


@pytest.mark.req("rfc7296-s2.25.1-01")
def test_rekey_of_a_child_that_we_close_is_temporary_failure() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    (child,) = b.installed.values()
    b.manager.delete_child(child, network.now)
    network.flush(b)
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=child.spi_out.to_bytes(4, "big"))
    assert notify_types(ask(network, a, b, *new_child(a, rekey), exchange=CREATE)) == [NotifyType.TEMPORARY_FAILURE]


@pytest.mark.req("rfc7296-s2.25.2-03")
def test_request_for_an_sa_while_we_close_the_ike_sa_is_temporary_failure() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    b.manager.delete(b.sa, network.now)
    network.flush(b)
    assert notify_types(ask(network, a, b, *new_child(a), exchange=CREATE)) == [NotifyType.TEMPORARY_FAILURE]
    assert b.sa.state is State.DELETING


# --- what is not authentic ---


def snapshot(host: Host) -> tuple[object, ...]:
    sa = host.sa
    return (
        sa.state,
        sa.keys,
        sa.requests.next_id,
        sa.requests.in_flight,
        sa.responses.expected_id,
        sa.local,
        sa.remote,
        tuple(sa.children),
        tuple(host.installed),
        len(host.events),
        host.manager.next_timer(),
    )


@pytest.mark.req(
    "rfc7296-s1.5-01", "rfc7296-s2.4-03", "rfc7296-s2.21.4-01", "rfc7296-s2.21.4-05", "rfc7296-s2.21.4-06"
)
def test_unprotected_messages_never_change_an_established_sa_nor_are_answered() -> None:
    network, a, b = connected()
    before = snapshot(a), snapshot(b)
    sent = len(network.sent)
    bodies = [
        (),
        (Delete.ike(),),
        (Notify(NotifyType.INVALID_IKE_SPI),),
        (Notify(NotifyType.AUTHENTICATION_FAILED),),
        (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(64)),),
    ]
    for host in (a, b):
        for body in bodies:
            for exchange in (*list(ExchangeType)[:4], ExchangeType(99)):
                for number in (0, 1, 2, 3):
                    for response in (False, True):
                        data = clear_of(
                            host,
                            exchange,
                            body,
                            message_id=number,
                            is_initiator=host is b,
                            is_response=response,
                        )
                        give(network, host, data, Address(A if host is b else B, 500))
    assert (snapshot(a), snapshot(b)) == before
    assert len(network.sent) == sent


@pytest.mark.req("rfc7296-s2.4-05", "rfc7296-s2.21.4-07")
def test_hint_that_the_peer_has_forgotten_us_makes_us_ask_now_and_then() -> None:
    network, a, b = connected()
    hint = clear_of(
        a, INFO, (Notify(NotifyType.INVALID_IKE_SPI),), message_id=9, is_initiator=False, is_response=True
    )
    give(network, a, hint, b.address)
    assert a.of(PeerAlive) == []  # B has just been heard
    network.run(60.0)
    for _ in range(20):
        give(network, a, hint, b.address)
    network.run(70.0)
    assert len(a.of(PeerAlive)) == 1
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.21.4-02", "rfc7296-s2.21.4-03", "rfc7296-s2.21.4-04")
def test_request_under_an_unknown_spi_gets_an_unprotected_invalid_ike_spi() -> None:
    _network, a, _b = connected()
    data = sealed(a, INFO, (), message_id=7)
    stranger = Address("198.51.100.9", 4501)
    forgetful = pair(seed=5)[1]
    forgetful.manager.receive_datagram(data, forgetful.address, stranger, 0.0)
    (answer,) = forgetful.manager.datagrams_to_send()
    message = parse(answer)
    assert message.payloads == (Notify(NotifyType.INVALID_IKE_SPI),)
    assert (answer.local, answer.remote) == (forgetful.address, stranger)
    request = parse(data).header
    assert (message.header.initiator_spi, message.header.responder_spi) == (
        request.initiator_spi,
        request.responder_spi,
    )
    assert (message.header.message_id, message.header.exchange_type) == (7, INFO)
    assert message.header.is_response
    assert not message.header.is_initiator
    assert message.encrypted is None


@pytest.mark.req("rfc7296-s2.4-05")
def test_answers_outside_an_sa_are_limited_in_rate() -> None:
    network, _, b = pair(limits=Limits(unprotected_replies_per_s=10.0))
    for number in range(500):
        sealed_by_nobody = Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(64))
        data = clear(INFO, (sealed_by_nobody,), spi_r=b"\x55" * 8, message_id=number)
        give(network, b, data, Address("198.51.100.9", 500))
    assert len(network.sent) == 10
    network.now += 0.5
    for _ in range(500):
        give(network, b, data, Address("198.51.100.9", 500))
    assert len(network.sent) == 15


@pytest.mark.req("rfc7296-s2.3-08", "rfc7296-s2.3-09", "rfc7296-s2.1-05")
def test_message_ids_outside_the_window_are_not_acknowledged() -> None:
    network, a, b = connected()
    b.sa.last_report_at = network.now  # what is said of it in a request of ours: test_notifies.py
    before = snapshot(b), len(network.sent)
    for number in (0, 1, 3, 4, 1000, 0xFFFF_FFFF):
        give(network, b, sealed(a, INFO, (Delete.ike(),), message_id=number), a.address)
    assert (snapshot(b), len(network.sent)) == before


@pytest.mark.req("rfc7296-s2.1-01", "rfc7296-s2.1-02", "rfc7296-s2.1-04")
def test_repeated_request_is_answered_the_same_and_acted_on_once() -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    a.manager.delete_child(child, network.now)
    network.run(network.now + 1)
    request, response = network.sent[-2].datagram, network.sent[-1].datagram
    events = len(b.events)
    for _ in range(3):
        give(network, b, request.data, a.address)
        assert last_sent(network).data == response.data
    assert len(b.events) == events
    sent = len(network.sent)
    network.run(network.now + 100)
    assert len(network.sent) == sent  # no response on its own


def test_response_to_a_deletion_is_repeated_for_a_while_after_the_sa_is_gone() -> None:
    lost = {"left": 3}

    def link(sent: Sent) -> Delays:
        message = parse(sent.datagram)
        if message.header.exchange_type == INFO and message.header.is_response and lost["left"]:
            lost["left"] -= 1
            return ()
        return (0.01,)

    network, a, b = pair(link=link)
    up(network, a, until=5.0)
    a.manager.delete(a.sa, network.now)
    network.run()
    assert lost["left"] == 0
    (deleted,) = a.of(IkeSaDeleted)
    assert isinstance(deleted, IkeSaDeleted)
    assert deleted.reason == "deleted here"
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.2-02")
def test_sa_whose_message_ids_are_used_up_is_closed() -> None:
    network, a, b = connected()
    for sa, other in ((a.sa, b.sa),):
        sa.requests.next_id = 0xFFFF_FFF0
        other.responses.expected_id = 0xFFFF_FFF0
    a.manager.check_liveness(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)


def test_no_key_in_repr_or_trace() -> None:
    _network, a, b = connected()
    keys = a.sa.keys
    assert keys is not None
    secrets = [value.octets.hex() for value in (keys.sk_d, keys.sk_ei, keys.sk_er, keys.sk_pi) if len(value)]
    text = repr(keys) + repr(a.events) + repr(a.sa.info()) + "".join(a.tracer.lines + b.tracer.lines)
    for secret in secrets:
        assert secret not in text
    assert repr(bytes.fromhex(secrets[0]))[2:-1] not in text


def test_ke_payload_out_of_place_in_informational_is_malformed() -> None:
    from ikev2.iana import KeId

    network, a, b = connected()
    assert notify_types(ask(network, a, b, Ke(KeId.CURVE25519, bytes(32)))) == [NotifyType.INVALID_SYNTAX]


def test_old_response_is_no_answer_to_a_new_request() -> None:
    network, a, b = connected()
    a.manager.check_liveness(a.sa, network.now)
    network.run(network.now + 1)
    old = last_sent(network)
    network.link = lambda sent: ()
    (child,) = a.installed.values()
    a.manager.delete_child(child, network.now)
    network.flush(a)
    in_flight = a.sa.requests.in_flight
    give(network, a, old.data, b.address)
    assert a.sa.requests.in_flight is in_flight
    assert child.spi_in in a.installed


@pytest.mark.req("rfc7296-s3.1-17", "rfc7296-s3.1-18")
def test_messages_that_are_reflected_are_not_taken() -> None:
    """The Initiator flag says whose they are: our own come back and change nothing."""
    network, a, b = connected()
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
        (request,) = host.manager.datagrams_to_send()
        before = snapshot(host)
        assert bool(request.data[19] & 0x08) is (host is a)
        host.sa.responses.expected_id = request.data[23]
        host.sa.receive_datagram(request.data, host.address, request.remote, network.now)
        assert host.sa.dropped == 1
        host.sa.responses.expected_id = before[4]  # type: ignore[assignment]
        assert snapshot(host) == before
