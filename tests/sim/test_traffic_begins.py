"""A Child SA that is begun by a packet: its protocol and ports go first, and the rest of what is configured after them.

    HDR, SK {..., SAi2, TSi(packet, configured), TSr(packet, configured)}  -->

RFC 7296 sections 2.9 and 2.23.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sim.network import A, B, Host, Network, assert_joined, child_config, pair, up
from sim.test_ike_auth import AUTH_EXCHANGE, net, swap, tampered, ts
from sim.test_selector_exchanges import asked

from ikev2.core.events import ChildSaFailed
from ikev2.core.types import Mode
from ikev2.wire.payloads import TrafficSelector, TsI, TsR

__all__ = ["net"]

PACKET = (TrafficSelector.from_network(A, 17, 40001, 40001), TrafficSelector.from_network(B, 17, 862, 862))
WHOLE = ((ts(f"{A}/32"),), (ts(f"{B}/32"),))


@pytest.mark.req("rfc7296-s2.9-01")
@pytest.mark.parametrize("mode", list(Mode))
def test_the_packets_selectors_go_first_with_the_ike_sa_and_on_one_that_is_there(mode: Mode) -> None:
    network, a, b = pair(a={"children": (child_config(mode=mode),)}, b={"children": (child_config(mode=mode),)})
    sa = a.manager.initiate("lab", None, a.address, network.now, child="net", packet=PACKET)
    network.run(network.now + 5)
    a.manager.make_child(sa, "net", network.now, packet=PACKET)
    network.run(network.now + 5)
    assert_joined(a, b)
    wanted = tuple((packet, *whole) for packet, whole in zip(PACKET, WHOLE, strict=True))
    assert asked(network, a, b) == [wanted, wanted]
    for child in a.installed.values():
        assert (child.ts_local, child.ts_remote) == WHOLE


@pytest.mark.req("rfc7296-s2.23.1-02", "rfc7296-s2.23.1-07")
def test_transport_mode_asks_with_the_packets_protocol_and_ports_first() -> None:
    """All TSi entries have the one address of the IKE SA, all TSr entries the other one."""
    child = child_config(mode=Mode.TRANSPORT)
    network, a, b = pair(a={"children": (child,)}, b={"children": (child,)})
    a.manager.initiate("lab", None, a.address, network.now, child="net", packet=PACKET)
    network.run(network.now + 5)
    ((tsi, tsr),) = asked(network, a, b)
    assert (tsi[0], tsr[0]) == PACKET
    assert {(one.start_address, one.end_address) for one in tsi} == {(tsi[0].start_address,) * 2}
    assert {(one.start_address, one.end_address) for one in tsr} == {(tsr[0].start_address,) * 2}


def test_a_responder_that_takes_the_first_choice_only_gets_a_child_sa_of_that() -> None:
    narrow = child_config(local_ts=(PACKET[1],), remote_ts=(ts("0.0.0.0/0"),))
    network, a, b = pair(b={"children": (narrow,)})
    a.manager.initiate("lab", None, a.address, network.now, child="net", packet=PACKET)
    network.run(network.now + 5)
    assert_joined(a, b)
    (child,) = a.installed.values()
    assert child.ts_remote == PACKET[1:]


def test_what_a_responder_says_twice_is_one_selector(net: Callable[..., tuple[Network, Host, Host]]) -> None:
    """strongSwan and others may answer with the packet's selectors beside those that hold them."""
    network, a, b = net()
    tampered(
        network,
        b,
        AUTH_EXCHANGE,
        lambda items: swap(items, TsI((PACKET[0], *WHOLE[0])), TsR((PACKET[1], *WHOLE[1]))),
    )
    a.manager.initiate("lab", None, a.address, network.now, child="net", packet=PACKET)
    network.run(network.now + 5)
    (child,) = a.installed.values()
    assert (child.ts_local, child.ts_remote) == WHOLE
    assert a.of(ChildSaFailed) == []


def test_a_packet_that_is_not_of_what_is_configured_is_left_out() -> None:
    network, a, b = pair()
    other = (replace(PACKET[0], start_address=bytes(4), end_address=bytes(4)), PACKET[1])
    a.manager.initiate("lab", None, a.address, network.now, child="net", packet=other)
    network.run(network.now + 5)
    assert asked(network, a, b) == [WHOLE]


def test_without_a_packet_nothing_goes_first() -> None:
    network, a, b = pair()
    up(network, a)
    assert asked(network, a, b) == [WHOLE]
