"""Two endpoints over a perfect network: the plain exchanges."""

from __future__ import annotations

import pytest
from sim.network import assert_joined, assert_nothing_left, connected, pair, up

from ikev2.core.events import ChildSaDeleted, ChildSaReady, IkeSaDeleted, IkeSaEstablished, PeerAlive


@pytest.mark.req("rfc7296-s4-04")
def test_four_messages_make_an_ike_sa_and_a_child_sa() -> None:
    """HDR, SAi1, KEi, Ni --> <-- HDR, SAr1, KEr, Nr; HDR, SK {IDi, AUTH, SAi2, TSi, TSr} --> <-- ..."""
    network, a, b = pair()
    up(network, a)
    assert_joined(a, b)
    assert len(network.sent) == 4
    for host in (a, b):
        assert [type(event) for event in host.events] == [IkeSaEstablished, ChildSaReady]
        assert host.manager.next_timer() is None
        assert host.manager.half_open_count == 0


@pytest.mark.req("rfc7296-s1.4.1-03", "rfc7296-s2.4-09", "rfc7296-s2.12-01")
def test_deleting_the_ike_sa_leaves_nothing_at_either_end() -> None:
    network, a, b = connected()
    sa = a.sa
    a.manager.delete(sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    assert sa.keys is None
    for host in (a, b):
        assert [type(event) for event in host.events][-2:] == [ChildSaDeleted, IkeSaDeleted]


def test_liveness_check_is_answered() -> None:
    network, a, b = connected()
    b.manager.check_liveness(b.sa, network.now)
    network.run()
    assert [type(event) for event in b.events][-1] is PeerAlive
    assert_joined(a, b)
