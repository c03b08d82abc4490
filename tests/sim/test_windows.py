"""Windows above one: what is said of them, how many requests are under way, and in what order they may come.

    Initiator                         Responder
    HDR, SK {IDi, ..., N(SET_WINDOW_SIZE)}  -->
                                 <--  HDR, SK {IDr, ..., N(SET_WINDOW_SIZE)}
    HDR(MID=2), SK {...}  -->
    HDR(MID=3), SK {...}  -->
    HDR(MID=4), SK {...}  -->
                                 <--  HDR(MID=4), SK {...}
                                 <--  HDR(MID=2), SK {...}
                                 <--  HDR(MID=3), SK {...}

RFC 7296 sections 1.3.2, 2.1, 2.2, 2.3 and 2.25.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sim.craft import give, parse, sealed
from sim.interleaving import PATIENT, assert_agreed, assert_no_gap, lines_of, next_time
from sim.network import FAST, Host, Network, Sent, assert_nothing_left, child_config, connected, pair, up

from ikev2.core.config import Lifetime
from ikev2.core.events import (
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaReady,
    ChildSaRekeyed,
    IkeSaDeleted,
    IkeSaFailed,
    IkeSaRekeyed,
    PeerAlive,
)
from ikev2.core.ike_sa import IkeSa
from ikev2.core.nat import NatState
from ikev2.core.state import State
from ikev2.core.types import Address
from ikev2.crypto.secret import SecretOctets
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Delete, Notify, Payload

INIT, AUTH, CREATE, INFO = (
    ExchangeType.IKE_SA_INIT,
    ExchangeType.IKE_AUTH,
    ExchangeType.CREATE_CHILD_SA,
    ExchangeType.INFORMATIONAL,
)


def wide(of_a: int = 4, of_b: int = 4, **options: object) -> tuple[Network, Host, Host]:
    """A pair whose ends keep state for so many requests."""
    return connected(a={"window_size": of_a}, b={"window_size": of_b}, **options)  # type: ignore[arg-type]


def make_children(network: Network, host: Host, count: int) -> None:
    for _ in range(count):
        host.manager.make_child(host.sa, "net", network.now)
    network.flush(host)


def requests_of(network: Network, host: Host, since: int = 0) -> list[Sent]:
    return [
        sent for sent in network.sent[since:] if sent.sender is host and not parse(sent.datagram).header.is_response
    ]


def ids(sent: list[Sent]) -> list[int]:
    return [parse(one.datagram).header.message_id for one in sent]


class Reader:
    """Reads what an IKE SA sends, or gets, also when it has forgotten its keys."""

    def __init__(self, sa: IkeSa) -> None:
        assert sa.channel is not None
        self.channel = sa.channel

    def read(self, sent: Sent) -> tuple[Payload, ...]:
        return self.channel.open(sent.datagram.data, parse(sent.datagram))


def window_notifies(payloads: tuple[Payload, ...]) -> list[bytes]:
    return [
        payload.data
        for payload in payloads
        if isinstance(payload, Notify) and payload.notify_type == NotifyType.SET_WINDOW_SIZE
    ]


# --- what is said ---


@pytest.mark.req("rfc7296-s2.3-01")
def test_each_end_says_its_window_in_ike_auth_in_four_octets_big_endian() -> None:
    network, a, b = wide(of_a=4, of_b=0x0102)
    request, response = network.sent[2:4]
    assert parse(request.datagram).header.exchange_type == AUTH
    assert window_notifies(Reader(b.sa).read(request)) == [b"\0\0\0\4"]
    assert window_notifies(Reader(a.sa).read(response)) == [b"\0\0\1\2"]
    assert (a.sa.requests.window, a.sa.responses.window) == (0x0102, 4)
    assert (b.sa.requests.window, b.sa.responses.window) == (4, 0x0102)


def test_a_window_of_one_goes_without_saying() -> None:
    network, a, b = wide(of_a=1, of_b=3)
    assert window_notifies(Reader(b.sa).read(network.sent[2])) == []
    assert window_notifies(Reader(a.sa).read(network.sent[3])) == [b"\0\0\0\3"]
    assert (a.sa.requests.window, b.sa.requests.window) == (3, 1)


def test_who_is_not_let_in_is_told_no_window() -> None:
    network, a, b = pair(b={"window_size": 8, "remote_id": None, "psk": SecretOctets("PSK", b"quite another")})
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.025)
    reader = Reader(a.sa)
    network.run()
    refusal = next(sent for sent in network.sent if sent.sender is b and parse(sent.datagram).encrypted is not None)
    (notify,) = reader.read(refusal)
    assert isinstance(notify, Notify)
    assert notify.notify_type == NotifyType.AUTHENTICATION_FAILED


@pytest.mark.parametrize(("said", "then"), [(0, 4), (1, 4), (3, 4), (4, 4), (9, 9)])
def test_window_may_grow_and_never_shrinks(said: int, then: int) -> None:
    network, a, b = wide()
    notify = Notify(NotifyType.SET_WINDOW_SIZE, said.to_bytes(4, "big"))
    give(network, a, sealed(b, INFO, (notify,)), b.address)
    assert a.sa.requests.window == then
    assert a.sa.responses.window == 4


def test_window_that_a_peer_states_in_a_response_counts_as_well() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    a.manager.check_liveness(a.sa, network.now)
    network.flush(a)
    notify = Notify(NotifyType.SET_WINDOW_SIZE, b"\0\0\0\5")
    give(network, a, sealed(b, INFO, (notify,), message_id=2, is_response=True), b.address)
    assert a.sa.requests.window == 5


def test_window_that_a_peer_states_in_a_request_that_is_refused_counts_as_well() -> None:
    """The first request on a new IKE SA is the one that says it, and may be answered with TEMPORARY_FAILURE."""
    network, a, b = wide()
    a.manager.rekey(a.sa, network.now)
    network.run(network.now + 1)
    b.sa.is_closing_child = lambda child: network.now < 8  # type: ignore[method-assign]
    for child in list(a.installed.values()):
        a.manager.rekey_child(child, network.now)
    network.run(network.now + 1)
    assert parse(network.sent[-1].datagram).header.exchange_type == CREATE
    assert (a.sa.requests.window, b.sa.requests.window) == (4, 4)
    network.run()
    assert_agreed(a, b)


# --- how many are under way ---


@pytest.mark.req("rfc7296-s2.3-02", "rfc7296-s2.3-04", "rfc7296-s2.3-05")
@pytest.mark.parametrize("window", [1, 2, 4])
def test_never_more_requests_than_the_peer_has_promised_to_keep(window: int) -> None:
    """Its own window does not matter. Nothing comes back, so all that may go are sent, again and again."""
    network, a, _ = wide(of_a=9, of_b=window)
    network.link = lambda sent: ()
    before = len(network.sent)
    make_children(network, a, 6)
    assert ids(requests_of(network, a, before)) == list(range(2, 2 + window))
    network.run(network.now + 3)
    assert set(ids(requests_of(network, a, before))) == set(range(2, 2 + window))
    assert len(a.sa.requests.outstanding) == window


@pytest.mark.req("rfc7296-s2.3-05")
def test_request_x_waits_for_the_response_to_x_less_window() -> None:
    network, a, b = wide(of_b=3)
    held: list[Sent] = []

    def link(sent: Sent) -> tuple[float, ...]:
        if parse(sent.datagram).header.is_response and parse(sent.datagram).header.message_id == 2:
            held.append(sent)
            return ()
        return (0.01,)

    network.link = link
    before = len(network.sent)
    make_children(network, a, 6)
    network.run(network.now + 0.5)
    assert ids(requests_of(network, a, before)) == [2, 3, 4]  # 3 and 4 are answered, 5 waits for 2 all the same
    assert list(a.sa.requests.outstanding) == [2]
    network.inject(held[0].datagram)
    network.run(network.now + 0.5)
    assert sorted(set(ids(requests_of(network, a, before)))) == list(range(2, 8))
    assert len(a.of(ChildSaReady)) == len(b.of(ChildSaReady)) == 7


@pytest.mark.req("rfc7296-s2.3-02")
def test_window_is_one_until_the_initial_exchanges_are_complete() -> None:
    """Further Child SAs are wanted from the start: they go at once after IKE_AUTH, and none before."""
    children = tuple(child_config(f"net{number}", start_action="start") for number in range(4))
    network, a, b = pair(a={"children": children, "window_size": 4}, b={"window_size": 4})
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.035)
    assert ids(requests_of(network, a)) == [0, 1]
    network.run(0.045)
    assert ids(requests_of(network, a)) == [0, 1, 2, 3, 4]
    assert [parse(sent.datagram).header.exchange_type for sent in requests_of(network, a)][2:] == [CREATE] * 3
    network.run(5)
    assert len(a.installed) == len(b.installed) == 4


@pytest.mark.req("rfc7296-s2.3-06", "rfc7296-s2.1-03", "rfc7296-s2.1-07", "rfc7296-s2.2-01")
def test_every_request_is_sent_again_by_its_own_timer_octet_for_octet() -> None:
    network, a, _ = wide()
    network.link = lambda sent: ()
    began = network.now
    before = len(network.sent)
    make_children(network, a, 1)
    network.run(began + 0.4)
    make_children(network, a, 1)
    network.run(began + 1.2)
    assert ids(requests_of(network, a, before)) == [2, 3, 2]
    network.run(began + 1.41)
    assert ids(requests_of(network, a, before)) == [2, 3, 2, 3]
    network.run(began + 8)
    octets = {number: set() for number in (2, 3)}  # type: dict[int, set[bytes]]
    for sent in requests_of(network, a, before):
        octets[parse(sent.datagram).header.message_id].add(sent.datagram.data)
    assert [len(one) for one in octets.values()] == [1, 1]


@pytest.mark.req("rfc7296-s2.1-06", "rfc7296-s2.4-04")
def test_one_request_of_several_that_is_never_answered_ends_the_ike_sa() -> None:
    network, a, _ = wide()
    network.link = lambda sent: () if parse(sent.datagram).header.message_id == 3 else (0.01,)
    make_children(network, a, 3)
    network.run(network.now + FAST.total_s + 1)
    assert a.manager.sas == []
    (deleted,) = a.of(IkeSaDeleted)
    assert deleted.reason == "the peer does not answer"  # type: ignore[attr-defined]
    assert a.installed == {}


# --- in any order ---


@pytest.mark.req("rfc7296-s2.3-03")
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_requests_that_pass_one_another_are_each_answered_once(order: tuple[int, ...]) -> None:
    network, a, b = wide()
    network.link = lambda sent: ()
    before = len(network.sent)
    make_children(network, a, 3)
    sent = requests_of(network, a, before)
    for index in order:
        give(network, b, sent[index].datagram.data, a.address)
    responses = [one for one in network.sent[before:] if one.sender is b]
    assert ids(responses) == [2 + index for index in order]
    assert len(b.installed) == 4
    events = len(b.events)
    for index in range(3):  # rfc7296-s2.1-02
        give(network, b, sent[index].datagram.data, a.address)
    again = [one for one in network.sent[before:] if one.sender is b][3:]
    by_id = {parse(one.datagram).header.message_id: one.datagram.data for one in responses}
    assert [one.datagram.data for one in again] == [by_id[2], by_id[3], by_id[4]]
    assert len(b.events) == events
    for one in reversed(responses):
        give(network, a, one.datagram.data, b.address)
    network.link = lambda sent: (0.01,)
    network.run()
    assert len(a.installed) == 4
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s2.1-04", "rfc7296-s2.1-05", "rfc7296-s2.3-07")
def test_response_is_kept_until_a_request_shows_that_it_came() -> None:
    """With a window of 3 request 5 is sent only when 2 is answered: then, and not before, its response is forgotten."""
    network, a, b = wide(of_b=3)
    network.link = lambda sent: ()
    payloads: list[bytes] = []

    def ask(number: int) -> None:
        payloads.append(sealed(a, INFO, (), message_id=number))
        give(network, b, payloads[-1], a.address)

    def answers(number: int) -> bool:
        before = len(network.sent)
        give(network, b, payloads[number - 2], a.address)
        return len(network.sent) > before

    for number in (2, 3, 4):
        ask(number)
    assert [answers(number) for number in (2, 3, 4)] == [True, True, True]
    ask(5)
    assert [answers(number) for number in (2, 3, 4, 5)] == [False, True, True, True]
    ask(6)
    ask(7)
    assert [answers(number) for number in range(2, 8)] == [False, False, False, True, True, True]
    assert len(b.sa.responses.kept) == 3


@pytest.mark.req("rfc7296-s2.3-08", "rfc7296-s2.3-09")
def test_what_lies_outside_of_the_window_is_neither_answered_nor_acted_on() -> None:
    network, a, b = wide(of_b=3)
    b.sa.last_report_at = network.now  # what is said of it in a request of ours: test_notifies.py
    before = len(network.sent)
    for number in (0, 1, 5, 6, 1000, 0xFFFF_FFFF):
        give(network, b, sealed(a, INFO, (Delete.ike(),), message_id=number), a.address)
    assert len(network.sent) == before
    assert b.sa.state is State.ESTABLISHED
    give(network, b, sealed(a, INFO, (), message_id=4), a.address)
    give(network, b, sealed(a, INFO, (Delete.ike(),), message_id=4), a.address)  # 4 again, with other octets
    assert len(network.sent) == before + 1
    assert b.sa.state is State.ESTABLISHED
    give(network, b, sealed(a, INFO, (), message_id=2), a.address)
    assert len(network.sent) == before + 2


def test_first_message_that_comes_again_after_ike_auth_is_ignored_whatever_the_window() -> None:
    """RFC 7296 section 2.1: the three cases of a repeated IKE_SA_INIT request."""
    network, a, b = wide(of_b=8)
    before = len(network.sent)
    give(network, b, network.sent[0].datagram.data, a.address)
    assert len(network.sent) == before
    give(network, b, network.sent[2].datagram.data, a.address)
    assert [one.datagram.data for one in network.sent[before:]] == [network.sent[3].datagram.data]


def test_request_that_was_overtaken_does_not_bring_an_old_address_back() -> None:
    """RFC 7296 section 2.23: the peer is where the newest of its messages came from."""
    network, a, b = wide()
    b.sa.nat = NatState(True, False, True)
    old, new = Address("198.51.100.1", 4500), Address("198.51.100.1", 5500)
    first, second = (sealed(a, INFO, (), message_id=number) for number in (2, 3))
    give(network, b, second, new)
    assert b.sa.remote == new
    give(network, b, first, old)
    assert b.sa.remote == new
    assert network.sent[-1].datagram.remote == old  # the response goes where its request came from


# --- what waits for its turn ---


def rekey_ike(network: Network, host: Host) -> None:
    host.manager.rekey(host.sa, network.now)


def close_ike(network: Network, host: Host) -> None:
    host.manager.delete(host.sa, network.now)


@pytest.mark.req("rfc7296-s2.25.1-08", "rfc7296-s2.8-04")
@pytest.mark.parametrize("action", [rekey_ike, close_ike], ids=["rekey", "close"])
def test_ike_sa_is_replaced_or_closed_only_when_nothing_else_is_under_way(
    action: Callable[[Network, Host], None],
) -> None:
    network, a, b = wide()
    before = len(network.sent)
    make_children(network, a, 2)
    action(network, a)
    if action is rekey_ike:
        make_children(network, a, 1)
    network.flush(a)
    assert ids(requests_of(network, a, before)) == [2, 3]
    old = a.sa
    network.run(network.now + 0.015)
    network.run(network.now + 0.01)
    assert ids(requests_of(network, a, before)) == [2, 3, 4]
    assert list(old.requests.outstanding) == [4]
    network.run()
    if action is close_ike:
        assert_nothing_left(a, b)
    else:
        assert len(a.installed) == 4
        assert_agreed(a, b)


@pytest.mark.req("rfc7296-s1.3.2-02")
@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("asker", ["who rekeys", "who is asked"])
def test_no_child_sa_is_asked_for_on_an_ike_sa_that_is_being_replaced(asker: str, window: int) -> None:
    """Once a request to rekey the IKE SA was sent, or came: what is wanted then is done on the new one."""
    network, a, b = wide(window, window)
    old = {host.name: host.sa for host in (a, b)}
    host, until = (a, 0.005) if asker == "who rekeys" else (b, 0.015)
    before = len(network.sent)
    a.manager.rekey(a.sa, network.now)
    network.flush(a)
    network.run(network.now + until)
    assert old[host.name].state in (State.REKEYING, State.REKEYED)
    for sa in host.manager.sas:
        if sa.state in (State.REKEYING, State.ESTABLISHED):
            host.manager.make_child(sa, "net", network.now)
            for child in list(sa.children.values()):
                host.manager.rekey_child(child.params, network.now)
            break
    network.flush(host)
    network.run()
    spis = (old["a"].spi_i, old["a"].spi_r)
    on_old = [sent for sent in network.sent[before:] if parse(sent.datagram).header.initiator_spi == spis[0]]
    exchanges = [parse(sent.datagram).header.exchange_type for sent in on_old]
    assert exchanges == [CREATE, CREATE, INFO, INFO]
    assert len(a.installed) == 2
    assert len(a.of(ChildSaReady)) == 3  # the first, another one, and the one in the place of the first
    assert_agreed(a, b)


def test_child_sas_of_different_lines_are_rekeyed_and_closed_at_once() -> None:
    network, a, b = wide()
    make_children(network, a, 2)
    network.run(network.now + 1)
    first, second, third = (child.params for child in a.sa.children.values())
    before = len(network.sent)
    a.manager.rekey_child(first, network.now)
    a.manager.rekey_child(second, network.now)
    a.manager.delete_child(third, network.now)
    network.flush(a)
    assert ids(requests_of(network, a, before)) == [4, 5, 6]
    network.run()
    assert len(a.installed) == 2
    assert_agreed(a, b)


def test_child_sa_is_not_closed_while_its_rekeying_is_under_way() -> None:
    """It is closed after that, and so is what came of it."""
    network, a, b = wide()
    (child,) = (child.params for child in a.sa.children.values())
    before = len(network.sent)
    a.manager.rekey_child(child, network.now)
    a.manager.delete_child(child, network.now)
    network.flush(a)
    assert ids(requests_of(network, a, before)) == [2]
    network.run()
    assert ids(requests_of(network, a, before)) == [2, 3, 4]
    assert a.installed == b.installed == {}
    assert_agreed(a, b)


def test_requests_about_one_line_of_child_sas_go_one_after_the_other() -> None:
    """The new pair is rekeyed in turn only when the Delete of the old one is answered."""
    network, a, b = wide()
    (child,) = (child.params for child in a.sa.children.values())
    before = len(network.sent)
    a.manager.rekey_child(child, network.now)
    network.run(network.now + 0.025)
    assert ids(requests_of(network, a, before)) == [2, 3]
    new = next(child.params for child in a.sa.children.values() if not child.closing)
    a.manager.rekey_child(new, network.now)
    network.flush(a)
    assert ids(requests_of(network, a, before)) == [2, 3]
    network.run()
    assert ids(requests_of(network, a, before)) == [2, 3, 4, 5]
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s2.2-02")
def test_message_ids_that_run_out_end_the_ike_sa_with_requests_under_way() -> None:
    network, a, b = wide()
    a.sa.requests.next_id = b.sa.responses.expected_id = 0xFFFF_FFEE
    make_children(network, a, 4)
    before = network.sent[-2].number
    assert ids(requests_of(network, a, before)) == [0xFFFF_FFEE, 0xFFFF_FFEF]
    network.run()
    assert ids(requests_of(network, a, before))[2:] == [0xFFFF_FFF0]
    assert_nothing_left(a, b)


def test_any_outstanding_request_is_a_liveness_check() -> None:
    network, a, _ = connected(a={"window_size": 4, "dpd_delay_s": 10.0}, b={"window_size": 4})
    network.run(network.now + 100)
    assert len(a.of(PeerAlive)) in (9, 10)
    network.link = lambda sent: ()
    before = len(network.sent)
    make_children(network, a, 3)
    network.run(network.now + 15)
    assert INFO not in {parse(sent.datagram).header.exchange_type for sent in network.sent[before:]}


# --- after rekeying ---


@pytest.mark.req("rfc7296-s2.3-02", "rfc7296-s2.3-04")
def test_new_ike_sa_begins_with_a_window_of_one_until_the_peer_says_more() -> None:
    network, a, b = wide()
    a.manager.rekey(a.sa, network.now)
    network.run(network.now + 1)
    for host in (a, b):
        assert (host.sa.requests.window, host.sa.responses.window) == (1, 1)
        assert host.sa.requests.next_id == 0
    before = len(network.sent)
    make_children(network, a, 3)
    assert ids(requests_of(network, a, before)) == [0]
    network.run(network.now + 0.025)
    assert ids(requests_of(network, a, before)) == [0, 1, 2]
    assert window_notifies(Reader(b.sa).read(requests_of(network, a, before)[0])) == [b"\0\0\0\4"]
    network.run()
    assert len(a.installed) == 4
    assert (a.sa.requests.window, b.sa.requests.window) == (4, 4)
    said = [
        window_notifies(Reader(b.sa if sent.sender is a else a.sa).read(sent)) for sent in network.sent[before:]
    ]
    assert sum(map(len, said)) == 2  # once each
    assert_agreed(a, b)


# --- with fragments ---


def large() -> dict[str, object]:
    return {"window_size": 4, "fragmentation": "force", "fragment_size": 200}


def test_fragments_of_several_requests_are_put_together_side_by_side() -> None:
    """RFC 7383 section 2.6: a queue for each message id, and nothing else mixes them."""
    network, a, b = connected(a=large(), b=large())
    network.link = lambda sent: ()
    before = len(network.sent)
    make_children(network, a, 3)
    by_id: dict[int, list[Sent]] = {}
    for sent in requests_of(network, a, before):
        by_id.setdefault(parse(sent.datagram).header.message_id, []).append(sent)
    assert sorted(by_id) == [2, 3, 4]
    assert all(len(fragments) > 1 for fragments in by_id.values())
    for turn in range(max(map(len, by_id.values()))):
        for number in (4, 2, 3):
            if turn < len(by_id[number]):
                give(network, b, by_id[number][turn].datagram.data, a.address)
    assert len(b.installed) == 4
    assert b.sa.fragmentation.requests == {}
    responses = [sent for sent in network.sent[before:] if sent.sender is b]
    for sent in reversed(responses):
        give(network, a, sent.datagram.data, b.address)
    assert len(a.installed) == 4
    assert a.sa.fragmentation.responses == {}
    network.link = lambda sent: (0.01,)
    network.run()
    assert_agreed(a, b)


@pytest.mark.req("rfc7383-s2.6.1-01", "rfc7383-s2.6.1-03")
def test_first_fragment_of_any_kept_request_brings_its_response_again() -> None:
    network, a, b = connected(a=large(), b=large())
    network.link = lambda sent: ()
    before = len(network.sent)
    make_children(network, a, 2)
    sent = requests_of(network, a, before)
    for one in sent:
        give(network, b, one.datagram.data, a.address)
    responses = [one.datagram.data for one in network.sent[before:] if one.sender is b]
    by_id: dict[int, list[bytes]] = {2: [], 3: []}
    for data in responses:
        by_id[parse(data).header.message_id].append(data)
    for number in (2, 3):
        for one in sent:
            if parse(one.datagram).header.message_id == number:
                start = len(network.sent)
                give(network, b, one.datagram.data, a.address)
                again = [each.datagram.data for each in network.sent[start:]]
                number_of = parse(one.datagram).encrypted.fragment_number  # type: ignore[union-attr]
                assert again == (by_id[number] if number_of == 1 else [])


# --- loss ---


@pytest.mark.parametrize("lost", range(12))
def test_no_message_of_several_exchanges_at_once_matters(lost: int) -> None:
    network, a, b = wide()
    begin = len(network.sent)
    network.link = lambda sent: () if sent.number - begin == lost else (0.01,)
    make_children(network, a, 3)
    make_children(network, b, 3)
    network.run()
    assert len(a.installed) == len(b.installed) == 7
    assert not a.of(ChildSaFailed)
    assert not b.of(ChildSaFailed)
    assert not a.of(ChildSaDeleted)
    assert_agreed(a, b)


def test_children_of_both_ends_at_once_with_different_windows() -> None:
    for of_a, of_b in ((1, 5), (5, 1), (2, 3)):
        network, a, b = wide(of_a, of_b)
        make_children(network, a, 5)
        make_children(network, b, 5)
        network.run()
        assert len(a.installed) == 11
        assert_agreed(a, b)


def test_up_with_a_window_needs_no_further_message() -> None:
    network, a, b = pair(a={"window_size": 7}, b={"window_size": 7})
    up(network, a)
    assert len(network.sent) == 4
    assert_agreed(a, b)


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_lifetimes_of_several_child_sas_with_windows_leave_no_gap(loss: float) -> None:
    """An hour in which both ends rekey everything when its time comes, often together, and ask for signs of life."""
    lasts = Lifetime(rekey_s=100.0, over_s=60.0, rand_s=5.0)
    options: dict[str, object] = {
        "window_size": 4,
        "children": (child_config(lifetime=lasts),),
        "lifetime": Lifetime(rekey_s=330.0, over_s=120.0, rand_s=20.0),
        "dpd_delay_s": 7.0,
        "retransmission": PATIENT,
    }
    rng = random.Random(1)
    network, a, b = connected(a=options, b=options)
    make_children(network, a, 3)
    network.run(network.now + 1)
    lines = lines_of(a, b)
    network.link = lambda sent: (0.02 * rng.random(),) if rng.random() >= loss else ()
    most = 0
    while (at := next_time(network, a, b)) is not None and at < 3600:
        network.run(at)
        assert_no_gap(a, b, lines)
        most = max(most, *(len(sa.requests.outstanding) for host in (a, b) for sa in host.manager.sas))
    assert len(a.installed) == len(b.installed) == 4
    assert len(a.of(IkeSaRekeyed)) >= 8
    assert len(a.of(ChildSaRekeyed)) + len(b.of(ChildSaRekeyed)) >= 4 * 30
    assert most >= 2
    assert not a.of(IkeSaFailed)
    assert a.spis.reserved == b.spis.reserved == set()
