"""Lifetimes: rekeying in time, expiry when that does not work, authentication anew, and IKE SAs without Child SAs.

RFC 7296 sections 2.8 and 2.8.3, RFC 4478, RFC 6023.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sim.craft import give, last_sent, opened
from sim.interleaving import assert_no_gap
from sim.network import (
    Host,
    Network,
    assert_joined,
    assert_nothing_left,
    child_config,
    connected,
    pair,
    proposals,
    up,
)
from sim.test_rekey_child import network_ts, two_children

from ikev2.core.config import Childless, Lifetime
from ikev2.core.events import (
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaRekeyed,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaFailed,
    IkeSaRekeyed,
    IkeSaRekeyFailed,
)
from ikev2.core.lifetime import draw
from ikev2.core.state import State
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Notify

HOUR = Lifetime(rekey_s=3600, over_s=360, rand_s=360)


def assert_pair_at_both_ends(a: Host, b: Host) -> None:
    """There is a pair that both ends have."""
    assert any(child.spi_out in b.installed for child in a.installed.values())


def run_without_gap(
    network: Network, a: Host, b: Host, until: float, check: Callable[[Host, Host], None] = assert_no_gap
) -> None:
    """Let time pass, and see at every step that what either end sends on is there at the other."""
    while True:
        times = [at for host in (a, b) if (at := host.manager.next_timer()) is not None]
        times += [entry[0] for entry in network._queue[:1]]
        if not times or min(times) > until:
            break
        network.run(min(times))
        check(a, b)
    network.run(until)


@pytest.mark.req("rfc7296-s2.8.1-01")
def test_time_to_rekey_is_drawn_and_the_end_is_not() -> None:
    class Counting:
        def __init__(self) -> None:
            self.value = 0

        def octets(self, count: int, /) -> bytes:
            self.value += 0x4000_0000
            return (self.value % 2**32).to_bytes(count, "big")

    entropy = Counting()
    drawn = [draw(HOUR, entropy, 100.0) for _ in range(4)]
    assert {hard for _, hard in drawn} == {100.0 + 3960}
    assert sorted(soft for soft, _ in drawn if soft is not None) == [3430.0, 3520.0, 3610.0, 3700.0]
    assert draw(Lifetime(), entropy, 0.0) == (None, None)


@pytest.mark.req("rfc7296-s2.8.1-01", "rfc7296-s2.8-01")
@pytest.mark.parametrize("ends", ["a", "b", "ab"])
def test_child_sas_and_ike_sas_are_rekeyed_in_time_for_days_without_a_gap(ends: str) -> None:
    limited: dict[str, object] = {
        "children": (child_config(lifetime=HOUR),),
        "lifetime": Lifetime(rekey_s=4 * 3600, over_s=1440, rand_s=1440),
    }
    network, a, b = connected(**dict.fromkeys(ends, limited))
    run_without_gap(network, a, b, 86_400.0)
    assert_joined(a, b)
    rekeyed = max(len(host.of(ChildSaRekeyed)) for host in (a, b))
    assert 24 <= rekeyed <= 30
    assert 6 <= len(a.of(IkeSaRekeyed)) <= 7
    for host in (a, b):
        assert all(event.reason != "its lifetime is over" for event in host.of(ChildSaDeleted))  # type: ignore[attr-defined]
        assert not host.of(ChildSaFailed)


@pytest.mark.req("rfc7296-s2.8-01")
def test_child_sa_that_is_over_goes_at_once_and_the_peer_is_told() -> None:
    limited = {"children": (child_config(lifetime=Lifetime(rekey_s=100, over_s=10)),)}
    network, a, b = connected(a=limited)
    gone = a.sa.established_at
    assert gone is not None
    (child,) = a.sa.children.values()
    child.rekeying = True  # as if that took for ever
    network.link = lambda sent: ()
    network.run(gone + 111)
    assert a.installed == {}
    assert a.events[-1] == ChildSaDeleted(child.params, "its lifetime is over")
    network.link = lambda sent: (0.01,)
    network.run()
    assert b.installed == {}
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.8-02")
def test_child_sa_that_the_peer_does_not_rekey_takes_the_ike_sa_with_it_when_it_is_over() -> None:
    limited = {"children": (child_config(lifetime=Lifetime(rekey_s=100, over_s=10)),)}
    network, a, b = connected(a=limited)
    b.sa.connection = b.sa.connection.__class__(
        **{
            **{name: getattr(b.sa.connection, name) for name in b.sa.connection.__slots__},
            "children": (),
        }
    )
    (theirs,) = b.sa.children.values()
    theirs.config = child_config(local_ts=network_ts("10.9.0.0/16"))
    network.run()
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.TS_UNACCEPTABLE  # type: ignore[attr-defined]
    assert "could not be rekeyed" in a.of(IkeSaDeleted)[0].reason  # type: ignore[attr-defined]
    assert network.now >= 110
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.8-01", "rfc7296-s2.8-02")
def test_ike_sa_that_the_peer_does_not_rekey_is_closed_when_it_is_over() -> None:
    from dataclasses import replace

    network, a, b = connected(a={"lifetime": Lifetime(rekey_s=100, over_s=10)})
    b.sa.connection = replace(b.sa.connection, proposals=proposals("aes128-sha256-modp2048"))  # type: ignore[arg-type]
    network.run(109)
    assert len(a.of(IkeSaRekeyFailed)) == 1
    assert_joined(a, b)
    network.link = lambda sent: ()
    network.run(111)
    assert a.installed == {}  # at once, though the peer does not answer
    network.link = lambda sent: (0.01,)
    network.run()
    assert_nothing_left(a, b)


# --- authentication anew ---


@pytest.mark.parametrize("children", ["one", "two"])
def test_reauthentication_makes_the_new_ike_sa_before_it_breaks_the_old_one(children: str) -> None:
    """IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA for further Child SAs, and then the old one is deleted."""
    options: dict[str, dict[str, object]] = two_children() if children == "two" else {"a": {}, "b": {}}
    options["a"]["reauth_s"] = 1000.0
    options["a"]["lifetime"] = Lifetime(over_s=100)
    network, a, b = connected(**options)
    old = a.sa
    if children == "two":
        a.manager.make_child(old, "more", network.now)
        network.run(network.now + 5)
    names = sorted(child.name for child in a.installed.values())
    run_without_gap(network, a, b, 1010.0, assert_pair_at_both_ends)
    assert old.state is State.CLOSED
    assert a.sa is not old
    assert sorted(child.name for child in a.installed.values()) == names
    assert_joined(a, b)
    kinds = [type(event) for event in a.events]
    assert kinds.count(IkeSaEstablished) == 2
    assert a.of(IkeSaDeleted)[0].reason == "authenticated anew"  # type: ignore[attr-defined]
    assert b.of(IkeSaDeleted)


def test_reauthentication_that_fails_is_tried_again_and_the_old_ike_sa_lasts_to_its_end() -> None:
    network, a, b = connected(a={"reauth_s": 1000.0, "lifetime": Lifetime(over_s=200)})
    b.manager.connections.clear()
    run_without_gap(network, a, b, 1190.0)
    assert len(a.of(IkeSaFailed)) >= 2
    network.run(1203.0)
    assert a.installed == {}
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.parametrize("how", ["in IKE_AUTH", "in INFORMATIONAL"])
def test_auth_lifetime_of_the_responder_is_heeded(how: str) -> None:
    """RFC 4478 section 2: <-- HDR, SK {IDr, AUTH, SAr2, TSi, TSr, N(AUTH_LIFETIME)}"""
    options = {"b": {"reauth_s": 600.0, "lifetime": Lifetime(over_s=60)}} if how == "in IKE_AUTH" else {}
    network, a, b = connected(**options)
    old = a.sa
    if how == "in INFORMATIONAL":
        assert b.sa.channel is not None
        said = Notify(NotifyType.AUTH_LIFETIME, (600).to_bytes(4, "big"))
        data = b.sa.channel.seal(ExchangeType.INFORMATIONAL, 0, (said,), is_response=False)
        give(network, a, data, b.address)
    network.run(530)
    assert a.sa is old
    run_without_gap(network, a, b, 560, assert_pair_at_both_ends)
    assert old.state is State.CLOSED
    assert_joined(a, b)


def test_responder_ends_what_is_not_authenticated_anew_in_time() -> None:
    network, a, b = connected(b={"reauth_s": 600.0, "lifetime": Lifetime(over_s=60)})
    a.sa.times.reauth_at = None  # an initiator that does not know AUTH_LIFETIME
    network.run(650)
    assert_joined(a, b)
    network.run()
    assert "authentication" in b.of(IkeSaDeleted)[0].reason  # type: ignore[attr-defined]
    assert_nothing_left(a, b)


def test_time_of_the_authentication_goes_on_when_the_ike_sa_is_rekeyed() -> None:
    network, a, b = connected(b={"reauth_s": 600.0, "lifetime": Lifetime(over_s=60)})
    b.manager.rekey(b.sa, network.now)
    network.run(530)
    rekeyed = a.sa
    assert len(a.of(IkeSaRekeyed)) == 1
    run_without_gap(network, a, b, 560, assert_pair_at_both_ends)
    assert rekeyed.state is State.CLOSED
    assert len(a.of(IkeSaEstablished)) == 2
    assert_joined(a, b)


def test_auth_lifetime_is_nothing_to_the_responder() -> None:
    network, a, b = connected()
    assert a.sa.channel is not None
    said = Notify(NotifyType.AUTH_LIFETIME, bytes(4))
    data = a.sa.channel.seal(ExchangeType.INFORMATIONAL, a.sa.requests.next_id, (said,), is_response=False)
    give(network, b, data, a.address)
    assert opened(a, last_sent(network)) == ()
    assert b.manager.next_timer() is None


# --- without Child SAs, RFC 6023 ---


@pytest.mark.parametrize("childless", [Childless.ALLOW, Childless.FORCE])
def test_ike_sa_without_child_sa_when_none_is_configured(childless: Childless) -> None:
    network, a, b = pair(a={"children": (), "childless": childless}, b={"childless": childless})
    up(network, a)
    assert a.sa.state is b.sa.state is State.ESTABLISHED
    assert a.installed == b.installed == {}


def test_forced_childless_initiator_makes_its_child_sas_by_create_child_sa() -> None:
    network, a, b = pair(a={"childless": Childless.FORCE})
    up(network, a)
    assert len(network.sent) == 6
    assert_joined(a, b)
    assert len(a.installed) == 1


def test_responder_that_never_goes_without_does_not_say_so_and_refuses() -> None:
    network, a, b = pair(a={"children": ()}, b={"childless": Childless.NEVER})
    up(network, a)
    assert "does not do without a Child SA" in "\n".join(a.tracer.lines)
    assert_nothing_left(a, b)


def test_forced_childless_responder_makes_no_child_sa_in_ike_auth() -> None:
    network, a, b = pair(b={"childless": Childless.FORCE})
    up(network, a)
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.NO_ADDITIONAL_SAS  # type: ignore[attr-defined]
    a.manager.make_child(a.sa, "net", network.now)
    network.run()
    assert len(a.installed) == 1
    assert_joined(a, b)
