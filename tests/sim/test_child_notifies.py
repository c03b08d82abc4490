"""What may stand beside a Child SA's payloads: ADDITIONAL_TS_POSSIBLE, and what is asked for and declined."""

from __future__ import annotations

import ipaddress

import pytest
from sim.craft import notify_types, opened
from sim.network import A, B, Network, assert_joined, assert_nothing_left, child_config, connection, pair, up

from ikev2.core.impair import Knob
from ikev2.core.types import Mode
from ikev2.iana import NotifyType
from ikev2.wire.payloads import TrafficSelector

ALL = TrafficSelector.from_network(ipaddress.ip_network("10.0.0.0/8"))


def net(number: int, octets: int = 16) -> TrafficSelector:
    return TrafficSelector.from_network(ipaddress.ip_network(f"10.{number}.0.0/{octets}"))


def answered(*local: tuple[TrafficSelector, ...], asked: tuple[TrafficSelector, ...] = (ALL,)) -> list[NotifyType]:
    """The notifies with which a responder that has these Child SAs answers an initiator that asks for `asked`."""
    children = tuple(child_config(f"net{number}", local_ts=each) for number, each in enumerate(local))
    network, a, b = pair(a={"children": (child_config(remote_ts=asked),)}, b={"children": children})
    up(network, a)
    assert_joined(a, b)
    return notify_types(opened(a, network.sent[3].datagram))


def test_a_responder_that_narrows_says_when_another_child_sa_would_have_the_rest() -> None:
    """HDR, SK {..., SAi2, TSi, TSr}  -->  <--  HDR, SK {..., SAr2, TSi, TSr, N(ADDITIONAL_TS_POSSIBLE)}"""
    assert NotifyType.ADDITIONAL_TS_POSSIBLE in answered((net(1),), (net(2),))


@pytest.mark.parametrize(
    ("local", "asked"),
    [
        pytest.param([(net(1),)], (ALL,), id="there is no other"),
        pytest.param([(net(1), net(2))], (ALL,), id="one has both"),
        pytest.param([(net(1),), (net(2),)], (net(1),), id="nothing is narrowed"),
        pytest.param([(net(1),), (net(1, 24),)], (ALL,), id="the other has less"),
        pytest.param([(net(1),), (net(200),)], (net(0, 12),), id="the other is not asked for"),
    ],
)
def test_otherwise_it_does_not(
    local: list[tuple[TrafficSelector, ...]], asked: tuple[TrafficSelector, ...]
) -> None:
    assert NotifyType.ADDITIONAL_TS_POSSIBLE not in answered(*local, asked=asked)


def test_transport_mode_is_no_other_possibility() -> None:
    tunnel, transport = child_config("tunnel", local_ts=(net(1),)), child_config("transport", mode=Mode.TRANSPORT)
    wide = TrafficSelector.from_network(ipaddress.ip_network("0.0.0.0/0"))
    network, a, b = pair(a={"children": (child_config(remote_ts=(wide,)),)}, b={"children": (tunnel, transport)})
    up(network, a)
    assert_joined(a, b)
    assert notify_types(opened(a, network.sent[3].datagram)) == []


NO_TFC = "add:*:*:*:N(ESP_TFC_PADDING_NOT_SUPPORTED)"
DECLINED = [
    "N(IPCOMP_SUPPORTED)=123402",
    "N(ESP_TFC_PADDING_NOT_SUPPORTED)",
    "N(NON_FIRST_FRAGMENTS_ALSO)",
    "N(SET_WINDOW_SIZE)=00000008",
    "N(ADDITIONAL_TS_POSSIBLE)",
    "N(HTTP_CERT_LOOKUP_SUPPORTED)",
]


@pytest.mark.parametrize("what", DECLINED)
def test_what_is_asked_for_and_not_done_is_not_answered_and_changes_nothing(what: str) -> None:
    """RFC 7296 sections 1.3.1 and 2.22: who does not send the notify back has declined."""
    network = Network()
    a = network.add("a", A, [connection(A, B)], impairments=[Knob.parse(f"add:*:*:*:{what}")])
    b = network.add("b", B, [connection(B, A)])
    sa = up(network, a)
    assert_joined(a, b)
    assert notify_types(opened(a, network.sent[3].datagram)) == []
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
        network.run()
    for sent in network.sent[4:]:
        if sent.sender is b and sent.datagram.data[19] & 0x20:
            assert opened(a, sent.datagram) == ()
    a.manager.delete(sa, network.now)
    network.run()
    assert_nothing_left(a, b)


def padding(network: Network) -> tuple[int, int]:
    """To how many octets a and b pad, by the pair that each installed last."""
    found = [list(host.installed.values())[-1].tfc_padding for host in network.hosts.values()]
    return found[0], found[1]


@pytest.mark.parametrize(
    ("knobs_a", "knobs_b", "expected"),
    [
        ([], [], (1000, 1200)),
        ([NO_TFC], [], (1000, 0)),
        ([], [NO_TFC], (0, 1200)),
        ([NO_TFC], [NO_TFC], (0, 0)),
    ],
)
def test_padding_is_not_for_a_peer_that_says_it_takes_none_and_each_direction_is_decided_by_itself(
    knobs_a: list[str], knobs_b: list[str], expected: tuple[int, int]
) -> None:
    """RFC 7296 section 1.3.1: in IKE_AUTH, and in a rekeying by either end.

    HDR, SK {[N(ESP_TFC_PADDING_NOT_SUPPORTED),] SA, ...}  -->
                                        <--  HDR, SK {[N(ESP_TFC_PADDING_NOT_SUPPORTED),] SA, ...}
    """
    network = Network()
    of_a, of_b = (child_config(tfc_padding=octets) for octets in (1000, 1200))
    ends = (
        ("a", A, connection(A, B, children=(of_a,)), knobs_a),
        ("b", B, connection(B, A, children=(of_b,)), knobs_b),
    )
    a, b = (
        network.add(name, address, [config], impairments=[Knob.parse(knob) for knob in knobs])
        for name, address, config, knobs in ends
    )
    up(network, a)
    assert padding(network) == expected
    for host in (a, b):
        before = set(host.installed)
        host.manager.rekey_child(next(iter(host.installed.values())), network.now)
        network.run()
        assert before.isdisjoint(host.installed)
        assert padding(network) == expected


def test_there_is_no_padding_in_transport_mode() -> None:
    child = child_config(tfc_padding=1000, mode=Mode.TRANSPORT)
    network, a, _ = pair(a={"children": (child,)}, b={"children": (child,)})
    up(network, a)
    assert padding(network) == (0, 0)


@pytest.mark.req("rfc7296-s2.22-03")
def test_of_several_ipcomp_algorithms_none_is_accepted() -> None:
    """RFC 7296 section 2.22: OUI, DEFLATE, LZS and LZJH are offered, each with a CPI of its own."""
    network = Network()
    knobs = [Knob.parse(f"add:IKE_AUTH:request:*:N(IPCOMP_SUPPORTED)=12340{number}") for number in (1, 2, 3, 4)]
    a = network.add("a", A, [connection(A, B)], impairments=knobs)
    b = network.add("b", B, [connection(B, A)])
    up(network, a)
    asked = notify_types(opened(b, network.sent[2].datagram))
    assert asked.count(NotifyType.IPCOMP_SUPPORTED) == 4
    assert notify_types(opened(a, network.sent[3].datagram)) == []
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.22-02")
@pytest.mark.parametrize("what", DECLINED)
def test_what_a_responder_offers_unasked_changes_nothing(what: str) -> None:
    network = Network()
    a = network.add("a", A, [connection(A, B)])
    b = network.add("b", B, [connection(B, A)], impairments=[Knob.parse(f"add:*:response:*:{what}")])
    up(network, a)
    assert_joined(a, b)
    a.manager.check_liveness(a.sa, network.now)
    network.run()
    assert_joined(a, b)
