"""Selectors of Child SAs at the edges: transport mode's single addresses, and as many as one payload holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim.craft import give, last_sent, notify_types, opened, sealed
from sim.network import A, B, assert_joined, child_config, pair, up
from sim.test_ike_auth import AUTH_EXCHANGE, half_open, swap, ts

from ikev2.core.events import ChildSaFailed, IkeSaFailed
from ikev2.core.transitions import State
from ikev2.core.types import Mode
from ikev2.crypto.suites import parse_esp_proposal
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Sa, TrafficSelector, TsI, TsR

TRANSPORT = child_config(mode=Mode.TRANSPORT)
ANYBODY = child_config(mode=Mode.TRANSPORT, local_ts=(ts("0.0.0.0/0"),), remote_ts=(ts("0.0.0.0/0"),))


@pytest.mark.req("rfc7296-s2.23.1-01", "rfc7296-s2.23.1-03", "rfc7296-s2.23.1-04")
def test_transport_mode_offers_the_addresses_of_the_ike_sa_of_a_wide_policy() -> None:
    network, a, b = pair(a={"children": (ANYBODY,)}, b={"children": (ANYBODY,)})
    up(network, a)
    assert_joined(a, b)
    (child,) = a.installed.values()
    assert (child.ts_local, child.ts_remote) == ((ts(f"{A}/32"),), (ts(f"{B}/32"),))


def test_transport_mode_for_an_address_that_is_not_of_the_ike_sa_cannot_begin() -> None:
    stranger = child_config(mode=Mode.TRANSPORT, remote_ts=(ts("198.51.100.0/24"),))
    network, a, _b = pair(a={"children": (stranger,)})
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert "transport mode" in failed.reason


@pytest.mark.parametrize(
    "asked",
    [
        (TsI((ts("198.51.100.7/32"),)), TsR((ts(f"{B}/32"),))),
        (TsI((ts(f"{A}/32"),)), TsR((ts("198.51.100.7/32"),))),
        (TsI((ts(f"{A}/32"), ts("198.51.100.7/32"))), TsR((ts(f"{B}/32"),))),
        (TsI((ts(f"{A}/32"),)), TsR((ts("192.0.2.0/24"),))),
    ],
)
def test_responder_gives_transport_mode_to_the_addresses_of_the_ike_sa_only(asked: tuple[TsI, TsR]) -> None:
    """Otherwise a peer could have its host-to-host policy laid over the traffic with somebody else."""
    network, a, b, genuine = half_open(a={"children": (TRANSPORT,)}, b={"children": (ANYBODY,)})
    give(network, b, sealed(a, AUTH_EXCHANGE, swap(genuine, *asked), message_id=1), a.address)
    assert b.sa.state is State.ESTABLISHED
    assert b.installed == {}
    assert NotifyType.TS_UNACCEPTABLE in notify_types(opened(a, last_sent(network)))


def test_answer_has_no_more_selectors_than_one_payload_counts() -> None:
    """The number of selectors is one octet: 255 offered ones that all meet two of ours make 510."""
    offered = tuple(TrafficSelector.from_network("0.0.0.0/0", number) for number in range(1, 256))
    two = child_config(local_ts=(ts("198.51.100.0/24"), ts("203.0.113.0/24")))
    network, a, b, genuine = half_open(b={"children": (two,), "fragmentation": "no"})
    give(network, b, sealed(a, AUTH_EXCHANGE, swap(genuine, TsR(offered)), message_id=1), a.address)
    (child,) = b.installed.values()
    answer = opened(a, last_sent(network))
    (tsr,) = (payload for payload in answer if isinstance(payload, TsR))
    assert len(tsr.selectors) == 255
    assert child.ts_local == tsr.selectors
    assert tsr.selectors[0] == TrafficSelector.from_network("198.51.100.0/24", 1)


def test_reserved_spi_in_an_offer_costs_the_child_sa_and_not_the_ike_sa() -> None:
    """INVALID_SYNTAX beside IDr and AUTH would say that there is no IKE SA: RFC 7296 section 2.21.2."""
    network, a, b, genuine = half_open()
    reserved = Sa((replace(parse_esp_proposal("aes256gcm16"), number=1, spi=b"\0\0\0\xff"),))
    give(network, b, sealed(a, AUTH_EXCHANGE, swap(genuine, reserved), message_id=1), a.address)
    assert notify_types(opened(a, last_sent(network))) == [NotifyType.NO_PROPOSAL_CHOSEN]
    assert b.sa.state is State.ESTABLISHED
    assert len(b.of(ChildSaFailed)) == 1
