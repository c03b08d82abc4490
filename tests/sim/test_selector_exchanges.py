"""Traffic selectors over several exchanges: the rest is asked for, a single pair is asked for, rekeying never narrows.

    Initiator                         Responder
    HDR, SK {..., SAi2, TSi, TSr}  -->
                                 <--  HDR, SK {..., SAr2, TSi, TSr, N(ADDITIONAL_TS_POSSIBLE)}
    HDR, SK {SA, Ni, TSi', TSr'}   -->
                                 <--  HDR, SK {SA, Nr, TSi', TSr'}

RFC 7296 sections 2.9, 2.9.1 and 2.9.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sim.craft import notify_types, opened, parse
from sim.network import A, B, Host, Network, assert_joined, child_config, pair, up
from sim.test_ike_auth import AUTH_EXCHANGE, net, swap, tampered, ts, without

from ikev2.core.config import DYNAMIC, Limits, TsSpec
from ikev2.core.events import ChildSaDeleted, ChildSaFailed, ChildSaRekeyed
from ikev2.core.types import Mode
from ikev2.crypto.suites import parse_esp_proposal
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Notify, Payload, Sa, TrafficSelector, TsI, TsR

__all__ = ["net"]

CREATE = ExchangeType.CREATE_CHILD_SA
PAIR = NotifyType.SINGLE_PAIR_REQUIRED
MORE = NotifyType.ADDITIONAL_TS_POSSIBLE
Selectors = tuple[TrafficSelector, ...]


def remotes(host: Host) -> list[str]:
    """What the Child SAs of a host are for, at the far end."""
    return sorted(", ".join(str(ts) for ts in child.ts_remote) for child in host.installed.values())


def asked(network: Network, sender: Host, reader: Host, since: int = 0) -> list[tuple[Selectors, Selectors]]:
    """TSi and TSr of each request of a host for a Child SA."""
    found = []
    for sent in network.sent[since:]:
        header = parse(sent.datagram).header
        if sent.sender is sender and not header.is_response and header.exchange_type in (CREATE, AUTH_EXCHANGE):
            inner = opened(reader, sent.datagram)
            tsi = [payload.selectors for payload in inner if isinstance(payload, TsI)]
            tsr = [payload.selectors for payload in inner if isinstance(payload, TsR)]
            found += list(zip(tsi, tsr, strict=True))
    return found


# --- ADDITIONAL_TS_POSSIBLE ---------------------------------------------------------------------------------------


def test_the_initiator_asks_for_what_was_left_out_and_is_said_to_be_possible() -> None:
    """The responder wants two tunnels where the initiator asked for one."""
    wide = child_config(remote_ts=(ts("10.0.0.0/8"),))
    parts = tuple(child_config(f"part{n}", local_ts=(ts(f"10.{n}.0.0/16"),)) for n in (1, 2, 3))
    network, a, b = pair(a={"children": (wide,)}, b={"children": parts})
    up(network, a)
    assert_joined(a, b)
    assert remotes(a) == ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]
    assert {child.name for child in a.installed.values()} == {"net"}
    assert sorted(child.name for child in b.installed.values()) == ["part1", "part2", "part3"]
    requests = asked(network, a, b)
    assert len(requests) == 3
    assert [str(ts) for ts in requests[1][1]] == ["10.0.0.0/16", "10.2.0.0..10.255.255.255"]
    assert a.of(ChildSaFailed) == []


def test_without_that_notify_the_initiator_is_content_with_a_part() -> None:
    wide = child_config(remote_ts=(ts("10.0.0.0/8"),))
    network, a, b = pair(a={"children": (wide,)}, b={"children": (child_config(local_ts=(ts("10.1.0.0/16"),)),)})
    up(network, a)
    assert_joined(a, b)
    assert len(asked(network, a, b)) == 1


def test_a_responder_that_says_so_for_ever_ends_at_the_limit_of_child_sas() -> None:
    """Each answer gives one more address; what it costs us is bounded."""
    wide = child_config(remote_ts=(ts("10.0.0.0/24"),))
    parts = tuple(child_config(f"part{n}", local_ts=(ts(f"10.0.0.{n}/32"),)) for n in range(20))
    network, a, b = pair(a={"children": (wide,)}, b={"children": parts}, limits=Limits(child_sas=5))
    up(network, a)
    assert_joined(a, b)
    assert len(a.installed) == 5


def test_a_part_is_rekeyed_as_that_part() -> None:
    wide = child_config(remote_ts=(ts("10.0.0.0/8"),))
    parts = tuple(child_config(f"part{n}", local_ts=(ts(f"10.{n}.0.0/16"),)) for n in (1, 2))
    network, a, b = pair(a={"children": (wide,)}, b={"children": parts})
    up(network, a)
    for child in list(a.installed.values()):
        a.manager.rekey_child(child, network.now)
        network.run(network.now + 10)
    assert_joined(a, b)
    assert len(a.of(ChildSaRekeyed)) == 2
    assert remotes(a) == ["10.1.0.0/16", "10.2.0.0/16"]


# --- SINGLE_PAIR_REQUIRED -----------------------------------------------------------------------------------------


PER_PAIR = child_config(local_ts=(ts("192.0.2.0/24"),), remote_ts=(ts("0.0.0.0/0"),), single_pair=True)


def test_a_responder_with_a_child_sa_for_each_pair_refuses_ranges_and_gets_the_pair_of_the_ike_sa() -> None:
    """HDR, SK {IDr, AUTH, N(SINGLE_PAIR_REQUIRED)}, then CREATE_CHILD_SA for the two addresses."""
    wide = child_config(local_ts=(ts("192.0.2.0/28"),), remote_ts=(ts("192.0.2.0/24"),))
    network, a, b = pair(a={"children": (wide,)}, b={"children": (PER_PAIR,)})
    up(network, a)
    assert PAIR in notify_types(opened(a, network.sent[3].datagram))
    assert_joined(a, b)
    assert asked(network, a, b)[1] == ((ts(f"{A}/32"),), (ts(f"{B}/32"),))
    assert remotes(a) == [f"{B}/32"]
    assert a.of(ChildSaFailed) == []


def test_a_pair_that_is_named_first_is_taken() -> None:
    """RFC 7296 section 2.9: the very specific first selectors say which pair it is."""
    first = child_config(
        local_ts=(ts("198.51.100.43/32"), ts("198.51.100.0/24")),
        remote_ts=(ts("192.0.2.7/32"), ts("192.0.2.0/24")),
    )
    network, a, b = pair(a={"children": (first,)}, b={"children": (PER_PAIR,)})
    up(network, a)
    assert_joined(a, b)
    (child,) = b.installed.values()
    assert (child.ts_local, child.ts_remote) == ((ts("192.0.2.7/32"),), (ts("198.51.100.43/32"),))
    assert notify_types(opened(a, network.sent[3].datagram)) == []


def test_one_of_several_addresses_that_the_configuration_names_will_do() -> None:
    children = (child_config(local_ts=(ts("10.0.0.0/8"), ts("10.0.0.9/32")), remote_ts=(ts("192.0.2.0/24"),)),)
    network, a, _b = pair(a={"children": children}, b={"children": (PER_PAIR,)})
    up(network, a)
    (child,) = a.installed.values()
    assert (child.ts_local, child.ts_remote) == ((ts("10.0.0.9/32"),), (ts(f"{B}/32"),))


def test_who_has_no_single_address_to_ask_for_gives_up_at_once() -> None:
    wide = child_config(local_ts=(ts("10.0.0.0/8"),), remote_ts=(ts("192.0.2.0/24"),))
    network, a, b = pair(a={"children": (wide,)}, b={"children": (PER_PAIR,)})
    up(network, a)
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == PAIR
    assert len(asked(network, a, b)) == 1
    assert a.sa.state == b.sa.state


def test_a_pair_that_is_refused_for_not_being_a_pair_is_not_asked_for_again(
    net: Callable[..., tuple[Network, Host, Host]],
) -> None:
    network, a, b = net()
    tampered(network, b, AUTH_EXCHANGE, lambda items: (*without(items, Sa, TsI, TsR), Notify(PAIR)))
    up(network, a)
    assert len(a.of(ChildSaFailed)) == 1
    assert len(asked(network, a, b)) == 1


@pytest.mark.req("rfc7296-s2.9-03")
def test_where_a_part_fits_another_child_sa_it_is_narrowed_and_not_refused() -> None:
    part = child_config("part", local_ts=(ts("192.0.2.128/25"),), remote_ts=(ts("0.0.0.0/0"),))
    wide = child_config(local_ts=(ts("192.0.2.0/28"),), remote_ts=(ts("192.0.2.0/24"),))
    network, a, _b = pair(a={"children": (wide,)}, b={"children": (PER_PAIR, part)})
    up(network, a)
    assert remotes(a) == ["192.0.2.128/25"]


# --- section 2.9.1 ------------------------------------------------------------------------------------------------


def test_an_offer_leaves_out_what_goes_through_another_child_sa_in_another_way() -> None:
    """The example of RFC 7296 section 2.9.1: one host of the network with its own algorithm."""
    strong = (parse_esp_proposal("aes256-sha256"),)
    all_b = child_config("all", remote_ts=(ts("198.51.100.0/24"),), start_action="start")
    one_b = child_config("one", remote_ts=(ts("198.51.100.66/32"),), esp_proposals=strong, start_action="start")
    far = child_config("far", local_ts=(ts("198.51.100.0/24"),), esp_proposals=(*all_b.esp_proposals, *strong))
    network, a, b = pair(a={"children": (all_b, one_b)}, b={"children": (far,)})
    up(network, a)
    assert_joined(a, b)
    assert remotes(a) == ["198.51.100.0..198.51.100.65, 198.51.100.67..198.51.100.255", "198.51.100.66/32"]


def udp(text: str) -> TrafficSelector:
    return replace(ts(text), ip_protocol=17)


@pytest.mark.parametrize(
    ("mode", "local", "remote"),
    [
        pytest.param(Mode.TUNNEL, DYNAMIC, ts("198.51.100.66/32"), id="in the same way"),
        pytest.param(Mode.TRANSPORT, DYNAMIC, ts("198.51.0.0/16"), id="not a part of it"),
        pytest.param(Mode.TRANSPORT, DYNAMIC, udp("198.51.100.66/32"), id="one protocol of it"),
        pytest.param(Mode.TRANSPORT, udp(f"{A}/32"), ts("198.51.100.66/32"), id="a corner of it"),
    ],
)
def test_what_goes_the_same_way_or_cannot_be_said_is_not_left_out(
    mode: Mode, local: TsSpec, remote: TrafficSelector
) -> None:
    all_b = child_config("all", local_ts=(DYNAMIC,), remote_ts=(ts("198.51.100.0/24"),))
    other = child_config("one", mode=mode, local_ts=(local,), remote_ts=(remote,))
    far = child_config("far", local_ts=(ts("0.0.0.0/0"),))
    network, a, b = pair(a={"children": (all_b, other)}, b={"children": (far,)})
    up(network, a)
    assert_joined(a, b)
    assert remotes(a) == ["198.51.100.0/24"]


# --- section 2.9.2 ------------------------------------------------------------------------------------------------


@pytest.mark.req("rfc7296-s2.9.2-02", "rfc7296-s2.9.2-04", "rfc7296-s2.8-03")
@pytest.mark.parametrize("end", ["a", "b"])
def test_rekeying_asks_for_the_selectors_in_use_and_for_nothing_else(end: str) -> None:
    """Neither more than was agreed, nor the addresses of a packet before them."""
    wide = child_config(remote_ts=(ts("10.0.0.0/8"), ts("2001:db8::/32")), local_ts=(ts("0.0.0.0/0"),))
    far = child_config(local_ts=(ts("10.1.0.0/16"),), remote_ts=(ts("198.51.100.0/24"),))
    network, a, b = pair(a={"children": (wide,)}, b={"children": (far,)})
    up(network, a)
    host, other = (a, b) if end == "a" else (b, a)
    (child,) = host.installed.values()
    since = len(network.sent)
    host.manager.rekey_child(child, network.now)
    network.run(network.now + 10)
    assert asked(network, host, other, since) == [(child.ts_local, child.ts_remote)]
    (new,) = host.installed.values()
    assert (new.ts_local, new.ts_remote) == (child.ts_local, child.ts_remote)
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.9.2-01")
@pytest.mark.parametrize("kind", [TsI, TsR])
def test_an_initiator_takes_no_narrower_selectors_than_those_in_use(
    net: Callable[..., tuple[Network, Host, Host]], kind: type[TsI] | type[TsR]
) -> None:
    """The new pair is deleted at the peer, the old one goes on."""
    children = {"children": (child_config(local_ts=(ts("10.0.0.0/8"),), remote_ts=(ts("10.0.0.0/8"),)),)}
    network, a, b = net(a=children, b=children)
    up(network, a)

    def narrower(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        return swap(payloads, kind((ts("10.0.0.0/9"),))) if any(isinstance(p, Sa) for p in payloads) else payloads

    tampered(network, b, CREATE, narrower)
    (old,) = a.installed.values()
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 10)
    assert list(a.installed.values()) == [old]
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == NotifyType.TS_UNACCEPTABLE
    assert len(b.of(ChildSaDeleted)) == 1
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.9.2-01", "rfc7296-s2.9.2-03")
@pytest.mark.parametrize("mode", list(Mode))
def test_a_responder_refuses_rather_than_to_narrow_what_is_in_use(
    net: Callable[..., tuple[Network, Host, Host]], mode: Mode
) -> None:
    """A request for less than the Child SA has: TS_UNACCEPTABLE, and the old pair stays."""
    udp, one = replace(ts(f"{A}/32"), ip_protocol=17), child_config(mode=mode)
    network, a, b = net(a={"children": (one,)}, b={"children": (one,)})
    up(network, a)
    (old,) = a.installed.values()
    tampered(network, a, CREATE, lambda payloads: swap(payloads, TsI((udp,))))
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 10)
    assert list(a.installed.values()) == [old]
    assert NotifyType.TS_UNACCEPTABLE in [failed.notify_type for failed in a.of(ChildSaFailed)]  # type: ignore[attr-defined]
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.9.2-02")
def test_a_superset_is_narrowed_to_what_is_in_use_and_allowed(
    net: Callable[..., tuple[Network, Host, Host]],
) -> None:
    far = child_config(local_ts=(ts("10.1.0.0/16"),), remote_ts=(ts("0.0.0.0/0"),))
    network, a, b = net(a={"children": (child_config(remote_ts=(ts("10.0.0.0/8"),)),)}, b={"children": (far,)})
    up(network, a)
    (old,) = b.installed.values()
    tampered(network, a, CREATE, lambda payloads: swap(payloads, TsR((ts("10.0.0.0/8"),))))
    (mine,) = a.installed.values()
    a.manager.rekey_child(mine, network.now)
    network.run(network.now + 10)
    (new,) = (child for child in b.of(ChildSaRekeyed))
    assert new.new.ts_local == old.ts_local == (ts("10.1.0.0/16"),)  # type: ignore[attr-defined]
