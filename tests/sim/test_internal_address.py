"""Internal addresses by configuration payloads.

    a (IRAC)                                               b (IRAS)
    HDR, SK {IDi, AUTH, CP(CFG_REQUEST), SAi2, TSi, TSr}  -->
                                      <--  HDR, SK {IDr, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr}

RFC 7296 sections 2.19, 2.20, 3.15 and 4.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from sim.craft import give, last_sent, notify_types, opened, parse, sealed
from sim.network import (
    A,
    B,
    Host,
    Network,
    assert_joined,
    assert_nothing_left,
    child_config,
    connection,
    pair,
    up,
)
from sim.test_ike_auth import half_open

from ikev2.core.config import Childless, ConnectionConfig, Lifetime, Limits
from ikev2.core.events import (
    AddressesLeased,
    AddressesReleased,
    AddressesTaken,
    ChildSaFailed,
    ChildSaReady,
    IkeSaRekeyed,
)
from ikev2.core.identity import Identity
from ikev2.core.pools import AddressRange, Peer, PoolConfig, Wish
from ikev2.core.state import State
from ikev2.crypto.secret import SecretOctets
from ikev2.iana import CpAttributeType, CpType, ExchangeType, NotifyType, PayloadType
from ikev2.wire.payloads import Cp, CpAttribute, Notify, Payload, Sa, TrafficSelector, TsI

AUTH, INFORMATIONAL = ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL
KIND = CpAttributeType


def ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def ts(text: str) -> TrafficSelector:
    return TrafficSelector.from_network(text)


def pool(*ranges: str, name: str = "road", **changes: object) -> PoolConfig:
    return replace(PoolConfig(name, tuple(map(AddressRange.parse, ranges))), **changes)  # type: ignore[arg-type]


ROAD = pool("10.9.0.0/24")
BEHIND = child_config(local_ts=(ts("10.2.0.0/24"),))
TO_BEHIND = child_config(remote_ts=(ts("10.2.0.0/24"),))


def asking(*vips: str, **changes: object) -> dict[str, object]:
    wanted = tuple(map(ip, vips or ("0.0.0.0",)))
    return {"vips": wanted, "children": (TO_BEHIND,), **changes}


def giving(**changes: object) -> dict[str, object]:
    return {"pools": ("road",), "children": (BEHIND,), **changes}


def lab(
    *pools: PoolConfig,
    a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
    limits: Limits | None = None,
) -> tuple[Network, Host, Host]:
    """Host a asks, host b gives, nothing is up yet."""
    return pair(
        a=asking() if a is None else a, b=giving() if b is None else b, pools=pools or (ROAD,), limits=limits
    )


def joined(*pools: PoolConfig, **options: object) -> tuple[Network, Host, Host]:
    network, a, b = lab(*pools, **options)  # type: ignore[arg-type]
    up(network, a, until=5.0)
    assert_joined(a, b)
    return network, a, b


def client(network: Network, host: str, identity: str = "", **changes: object) -> Host:
    """One more host that asks b for an address; b has `everybody`."""
    config = connection(host, B, **{**asking(), "local_id": Identity.parse(identity or f"host-{host}"), **changes})
    return network.add(host, host, [config])


def everybody(**changes: object) -> ConnectionConfig:
    """The connection of a server that knows nobody by name."""
    options = giving(remote_addrs=("%any",), remote_id=None) | changes
    return connection(B, "%any", **options)


def server(network: Network, *pools: PoolConfig, **changes: object) -> Host:
    return network.add("b", B, [everybody(**changes)], None, pools=pools or (ROAD,))


def messages(network: Network, a: Host, b: Host) -> list[tuple[Payload, ...]]:
    """What was inside the protected messages, in the order of sending."""
    return [
        opened(b if sent.sender is a else a, sent.datagram)
        for sent in network.sent
        if sent.datagram.data[18] != ExchangeType.IKE_SA_INIT
    ]


def cp_of(payloads: tuple[Payload, ...]) -> Cp:
    (found,) = (payload for payload in payloads if isinstance(payload, Cp))
    return found


def asked_alone(
    network: Network, a: Host, b: Host, *attributes: CpAttribute, kind: CpType = CpType.CFG_REQUEST
) -> tuple[Payload, ...]:
    """The payloads with which b answers an INFORMATIONAL request of a."""
    give(network, b, sealed(a, INFORMATIONAL, (Cp(kind, attributes),)), a.address)
    return opened(a, last_sent(network))


# --- the exchange ----------------------------------------------------------------------------------------------------


@pytest.mark.req(
    "rfc7296-s2.19-01", "rfc7296-s2.19-02", "rfc7296-s2.19-04", "rfc7296-s4-07", "rfc7296-s4-08", "rfc7296-s4-09"
)
def test_address_is_asked_for_and_given_in_ike_auth_before_the_sa_payload() -> None:
    network, a, b = joined()
    request, response = messages(network, a, b)
    for payloads, kind in ((request, CpType.CFG_REQUEST), (response, CpType.CFG_REPLY)):
        order = [payload.payload_type for payload in payloads]
        assert order.index(PayloadType.CP) < order.index(PayloadType.SA)
        assert order.index(PayloadType.CP) > order.index(PayloadType.AUTH)
        assert cp_of(payloads).cp_type == kind
    assert cp_of(request).attributes == (CpAttribute(KIND.INTERNAL_IP4_ADDRESS), CpAttribute(KIND.INTERNAL_IP4_DNS))
    assert cp_of(response).attributes == (CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip("10.9.0.1")),)


def test_dynamic_selectors_are_the_whole_family_first_and_then_the_address_at_both_ends() -> None:
    network, a, b = joined()
    request, response = messages(network, a, b)
    asked = [payload for payload in request if isinstance(payload, TsI)]
    answered = [payload for payload in response if isinstance(payload, TsI)]
    assert asked[0].selectors == (ts("0.0.0.0/0"),)
    assert answered[0].selectors == (ts("10.9.0.1/32"),)
    (at_a,), (at_b,) = a.installed.values(), b.installed.values()
    assert (at_a.ts_local, at_a.ts_remote) == ((ts("10.9.0.1/32"),), (ts("10.2.0.0/24"),))
    assert (at_b.ts_local, at_b.ts_remote) == ((ts("10.2.0.0/24"),), (ts("10.9.0.1/32"),))


def test_driver_hears_of_the_address_before_the_child_sa_and_of_its_end_after_it() -> None:
    network, a, b = joined()
    (taken,) = a.of(AddressesTaken)
    assert taken.addresses == ("10.9.0.1",)  # type: ignore[attr-defined]
    assert a.events.index(taken) < a.events.index(a.of(ChildSaReady)[0])  # type: ignore[arg-type]
    assert a.addresses == {"10.9.0.1": 1}
    (leased,) = b.of(AddressesLeased)
    assert leased.addresses == ("10.9.0.1",)  # type: ignore[attr-defined]
    assert b.of(AddressesTaken) == []
    a.manager.delete(a.sa, network.now)
    network.run()
    (released,) = a.of(AddressesReleased)
    kinds = [type(event).__name__ for event in a.events[-3:]]
    assert kinds == ["ChildSaDeleted", "AddressesReleased", "IkeSaDeleted"]
    assert released.addresses == ("10.9.0.1",)  # type: ignore[attr-defined]
    assert_nothing_left(a, b)


def test_both_families_servers_and_networks_come_in_one_reply() -> None:
    four = pool(
        "10.9.0.10-10.9.0.20",
        name="four",
        dns=(ip("10.2.0.53"),),
        subnets=(ipaddress.ip_network("10.2.0.0/24"),),
        nbns=(ip("10.2.0.54"),),
        dhcp=(ip("10.2.0.55"),),
        netmask=ip("255.255.255.0"),
    )
    six = pool(
        "2001:db8:9::/64",
        name="six",
        dns=(ip("2001:db8:2::53"),),
        subnets=(ipaddress.ip_network("2001:db8:2::/48"),),
    )
    children_a = (child_config(remote_ts=(ts("10.2.0.0/24"), ts("2001:db8:2::/48"))),)
    children_b = (child_config(local_ts=(ts("10.2.0.0/24"), ts("2001:db8:2::/48"))),)
    network, a, b = joined(
        four,
        six,
        a=asking("0.0.0.0", "::", children=children_a),
        b=giving(pools=("four", "six"), children=children_b),
    )
    assert a.addresses == {"10.9.0.10": 1, "2001:db8:9::1": 1}
    info = a.sa.info()
    assert info.local_vips == ("10.9.0.10", "2001:db8:9::1")
    assert info.dns == ("10.2.0.53", "2001:db8:2::53")
    assert info.internal_subnets == ("10.2.0.0/24", "2001:db8:2::/48")
    assert b.sa.info().remote_vips == info.local_vips
    (child,) = a.installed.values()
    assert child.ts_local == (ts("10.9.0.10/32"), ts("2001:db8:9::1/128"))
    reply = cp_of(messages(network, a, b)[1])
    assert reply.problem(sending=True) is None
    values = {attribute.type: attribute.value for attribute in reply.attributes}
    assert values[KIND.INTERNAL_IP6_ADDRESS] == ip("2001:db8:9::1").packed + b"\x80"
    assert values[KIND.INTERNAL_IP4_NETMASK] == b"\xff\xff\xff\x00"
    assert values[KIND.INTERNAL_IP4_SUBNET] == bytes.fromhex("0a020000ffffff00")
    assert values[KIND.INTERNAL_IP4_NBNS] == ip("10.2.0.54").packed
    assert values[KIND.INTERNAL_IP4_DHCP] == ip("10.2.0.55").packed


def test_wanted_address_is_asked_for_by_its_value_and_given_when_it_is_free() -> None:
    network, a, b = joined(a=asking("10.9.0.77"))
    request, response = messages(network, a, b)
    wanted = CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip("10.9.0.77"))
    assert cp_of(request).attributes[0] == wanted
    assert cp_of(response).attributes[0] == wanted
    assert a.addresses == {"10.9.0.77": 1}


@pytest.mark.parametrize("wanted", ["10.8.0.77", "10.9.0.0", "10.9.0.255"])
def test_wanted_address_that_no_pool_has_is_replaced_by_another(wanted: str) -> None:
    _, a, _ = joined(a=asking(wanted))
    assert a.addresses == {"10.9.0.1": 1}


def test_wanted_ipv6_address_that_no_pool_has_keeps_its_interface_identifier() -> None:
    """RFC 7296 section 3.15.3."""
    six = pool("2001:db8:9::/64")
    child_a, child_b = (
        child_config(remote_ts=(ts("2001:db8:2::/48"),)),
        child_config(local_ts=(ts("2001:db8:2::/48"),)),
    )
    _, a, _ = joined(six, a=asking("2001:db8:ffff::1:2:3", children=(child_a,)), b=giving(children=(child_b,)))
    assert a.addresses == {"2001:db8:9::1:2:3": 1}


def test_several_addresses_are_given_when_as_many_are_asked_for() -> None:
    _, a, b = joined(a=asking("0.0.0.0", "0.0.0.0"))
    assert a.addresses == {"10.9.0.1": 1, "10.9.0.2": 1}
    (child,) = b.installed.values()
    assert child.ts_remote == (ts("10.9.0.1/32"), ts("10.9.0.2/32"))


def test_what_can_be_assigned_of_several_addresses_is_assigned() -> None:
    """RFC 7296 section 3.15.4: the responder replies with the successful addresses only."""
    _, a, _ = joined(pool("10.9.0.7-10.9.0.7"), a=asking("0.0.0.0", "0.0.0.0"))
    assert a.addresses == {"10.9.0.7": 1}


def test_type_of_address_that_no_pool_has_is_ignored() -> None:
    """RFC 7296 section 3.15.4."""
    _, a, _ = joined(a=asking("::", "0.0.0.0"))
    assert a.addresses == {"10.9.0.1": 1}


def test_one_ike_sa_gets_no_more_addresses_than_the_limit() -> None:
    _, a, b = joined(limits=Limits(internal_addresses=3), a=asking(*["0.0.0.0"] * 10))
    assert len(a.addresses) == 3
    assert len(list(b.manager.pools)) == 3


# --- whose address it is ---------------------------------------------------------------------------------------------


def test_each_identity_has_its_own_address_and_gets_the_same_again() -> None:
    network = Network()
    b = server(network)
    first, second = client(network, "192.0.2.11"), client(network, "192.0.2.12")
    for host in (first, second):
        up(network, host, until=network.now + 5)
    assert (set(first.addresses), set(second.addresses)) == ({"10.9.0.1"}, {"10.9.0.2"})
    for host in (first, second):
        host.manager.delete(host.sa, network.now)
    network.run(network.now + 5)
    assert [lease.holders for lease in b.manager.pools] == [0, 0]
    for host in (second, first):
        up(network, host, until=network.now + 5)
    assert (set(first.addresses), set(second.addresses)) == ({"10.9.0.1"}, {"10.9.0.2"})


def test_address_of_an_ike_sa_that_is_gone_goes_to_another_when_nothing_else_is_left() -> None:
    network = Network()
    server(network, pool("10.9.0.7-10.9.0.7"))
    first, second = client(network, "192.0.2.11"), client(network, "192.0.2.12")
    up(network, first, until=network.now + 5)
    first.manager.delete(first.sa, network.now)
    network.run(network.now + 5)
    up(network, second, until=network.now + 5)
    assert (first.addresses, second.addresses) == ({}, {"10.9.0.7": 1})


def test_wanted_address_that_another_has_is_not_given() -> None:
    network = Network()
    server(network)
    first, second = client(network, "192.0.2.11"), client(network, "192.0.2.12", vips=(ip("10.9.0.1"),))
    for host in (first, second):
        up(network, host, until=network.now + 5)
    assert (set(first.addresses), set(second.addresses)) == ({"10.9.0.1"}, {"10.9.0.2"})


def test_host_that_starts_anew_gets_its_address_again() -> None:
    network, _, b = joined()
    del network.hosts[A]
    again = network.add("again", A, [connection(A, B, **asking())])
    up(network, again, until=network.now + 5)
    assert again.addresses == {"10.9.0.1": 1}
    assert len(b.manager.sas) == 1  # INITIAL_CONTACT
    assert [lease.holders for lease in b.manager.pools] == [1]


def test_hosts_that_share_an_identity_have_an_address_each() -> None:
    network = Network()
    server(network, send_initial_contact=False)
    hosts = [client(network, f"192.0.2.1{n}", "everyman.example", send_initial_contact=False) for n in (1, 2)]
    for host in hosts:
        up(network, host, until=network.now + 5)
    assert [set(host.addresses) for host in hosts] == [{"10.9.0.1"}, {"10.9.0.2"}]


def test_address_outlives_the_rekeying_of_the_ike_sa() -> None:
    network, a, b = joined()
    for rekeying in (a, b):
        rekeying.manager.rekey(rekeying.sa, network.now)
        network.run(network.now + 10)
        assert_joined(a, b)
        assert a.addresses == {"10.9.0.1": 1}
        assert a.sa.info().local_vips == b.sa.info().remote_vips == ("10.9.0.1",)
        assert [lease.holders for lease in b.manager.pools] == [1]
    assert len(a.of(IkeSaRekeyed)) == 2
    assert a.of(AddressesReleased) == []
    # A Child SA that is made or rekeyed on the new IKE SA has the address, without another configuration payload.
    (child,) = a.installed.values()
    a.manager.rekey_child(child, network.now)
    network.run(network.now + 10)
    (child,) = a.installed.values()
    assert child.ts_local == (ts("10.9.0.1/32"),)
    assert len(a.of(AddressesTaken)) == 1
    a.manager.delete(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)


def test_address_outlives_reauthentication_make_before_break() -> None:
    lifetime = Lifetime(0, 100)
    network, a, b = lab(a=asking(reauth_s=1000.0, lifetime=lifetime))
    up(network, a, until=500.0)
    first = a.sa.spi_i
    network.run(1500.0)
    assert_joined(a, b)
    assert a.sa.spi_i != first
    assert len(a.of(AddressesTaken)) == 2
    assert a.addresses == {"10.9.0.1": 1}
    assert [(str(lease.address), lease.holders) for lease in b.manager.pools] == [("10.9.0.1", 1)]


def test_reauthentication_asks_for_the_address_by_its_value() -> None:
    """Several hosts may have the identity: by the address the server knows which one authenticates anew."""
    network = Network()
    b = server(network, send_initial_contact=False)
    lifetime = Lifetime(0, 100)
    options = {"send_initial_contact": False, "reauth_s": 1000.0, "lifetime": lifetime}
    hosts = [client(network, f"192.0.2.1{n}", "everyman.example", **options) for n in (1, 2)]
    for host in hosts:
        up(network, host, until=network.now + 5)
    before = [dict(host.addresses) for host in hosts]
    network.run(1500.0)
    assert [host.addresses for host in hosts] == before
    assert [len(host.of(AddressesTaken)) for host in hosts] == [2, 2]
    assert [lease.holders for lease in b.manager.pools] == [1, 1]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.req("rfc7296-s2.19-06", "rfc7296-s2.21.2-04")
def test_connection_that_demands_an_address_refuses_the_child_sa_and_keeps_the_ike_sa() -> None:
    network, a, b = lab(a={"children": (TO_BEHIND,)})
    up(network, a, until=5.0)
    response = messages(network, a, b)[1]
    (notify,) = (payload for payload in response if isinstance(payload, Notify))
    assert (notify.notify_type, notify.data) == (NotifyType.FAILED_CP_REQUIRED, b"")
    assert {PayloadType.IDr, PayloadType.AUTH} <= {payload.payload_type for payload in response}
    assert (a.sa.state, b.sa.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert a.installed == b.installed == {}
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.FAILED_CP_REQUIRED  # type: ignore[attr-defined]
    # So does it when the Child SA is asked for later.
    a.manager.make_child(a.sa, "net", network.now)
    network.run(network.now + 5)
    assert notify_types(messages(network, a, b)[3]) == [NotifyType.FAILED_CP_REQUIRED]
    assert b.installed == {}
    assert list(b.manager.pools) == []


def test_request_without_an_address_is_none_where_one_is_demanded() -> None:
    network, a, b, genuine = half_open(a={"children": (TO_BEHIND,)}, b=giving(), pools=(ROAD,))
    request = Cp(CpType.CFG_REQUEST, (CpAttribute(KIND.INTERNAL_IP4_DNS),))
    give(network, b, sealed(a, AUTH, (request, *genuine), message_id=1), a.address)
    assert notify_types(opened(a, last_sent(network))) == [NotifyType.FAILED_CP_REQUIRED]


@pytest.mark.req("rfc7296-s2.19-05")
def test_connection_that_does_not_demand_an_address_makes_the_child_sa_without() -> None:
    network, a, b = lab(a={"children": (TO_BEHIND,)}, b=giving(pools_required=False))
    up(network, a, until=5.0)
    assert len(b.installed) == 1
    (child,) = b.installed.values()
    assert child.ts_remote == (ts(f"{A}/32"),)
    assert [
        payload for payloads in messages(network, a, b) for payload in payloads if isinstance(payload, Cp)
    ] == []


@pytest.mark.req("rfc7296-s2.21.2-04")
def test_empty_pool_costs_the_child_sa_and_not_the_ike_sa() -> None:
    """RFC 7296 section 3.15.4: INTERNAL_ADDRESS_FAILURE, no Child SA, and the IKE SA is made."""
    network = Network()
    b = server(network, pool("10.9.0.7-10.9.0.7"))
    first, second = client(network, "192.0.2.11"), client(network, "192.0.2.12")
    up(network, first, until=network.now + 5)
    begun = len(network.sent)
    sa = up(network, second, until=network.now + 5)
    response = opened(second, network.sent[begun + 3].datagram)
    assert notify_types(response) == [NotifyType.INTERNAL_ADDRESS_FAILURE]
    assert not any(isinstance(payload, Cp | Sa) for payload in response)
    assert sa.state is State.ESTABLISHED
    assert second.installed == {}
    assert second.addresses == {}
    (failed,) = second.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.INTERNAL_ADDRESS_FAILURE  # type: ignore[attr-defined]
    assert [lease.holders for lease in b.manager.pools] == [1]


def test_initiator_without_an_address_asks_again_after_minutes_and_then_makes_its_child_sas() -> None:
    """RFC 7296 section 3.15.4: the configuration payload again, as a separate INFORMATIONAL exchange."""
    network = Network()
    b = server(network, pool("10.9.0.7-10.9.0.7"), children=(BEHIND,))
    first = client(network, "192.0.2.11")
    second = client(
        network, "192.0.2.12", children=(TO_BEHIND, replace(TO_BEHIND, name="more", start_action="start"))
    )
    up(network, first, until=network.now + 5)
    up(network, second, until=network.now + 5)
    sent = len(network.sent)
    network.run(network.now + 290)
    assert len(network.sent) == sent  # "likely several minutes"
    network.run(network.now + 20)
    assert notify_types(opened(second, last_sent(network))) == [NotifyType.INTERNAL_ADDRESS_FAILURE]
    assert second.sa.state is State.ESTABLISHED
    first.manager.delete(first.sa, network.now)
    network.run(network.now + 310)
    assert second.addresses == {"10.9.0.7": 1}
    assert sorted(child.name for child in second.installed.values()) == ["more", "net"]
    assert {child.ts_local for child in second.installed.values()} == {(ts("10.9.0.7/32"),)}
    assert len(b.installed) == 2


def test_address_that_is_asked_for_while_the_peer_rekeys_the_ike_sa_is_not_lost() -> None:
    """It would come over an IKE SA that is replaced: the peer waits, as for the making of a Child SA."""
    network = Network()
    b = server(network, pool("10.9.0.7-10.9.0.7"), children=(BEHIND,))
    first = client(network, "192.0.2.11")
    second = client(network, "192.0.2.12", children=(TO_BEHIND,))
    up(network, first, until=network.now + 5)
    up(network, second, until=network.now + 5)
    first.manager.delete(first.sa, network.now)
    perfect = network.link
    network.link = lambda sent: () if sent.sender is second else perfect(sent)
    while not second.sa.requests.outstanding:
        network.run(network.now + 1)
    (sa,) = (sa for sa in b.manager.sas if sa.remote.host == second.host)
    b.manager.rekey(sa, network.now)
    network.run(network.now + 0.1)
    network.link = perfect
    network.run(network.now + 60)
    assert second.addresses == {"10.9.0.7": 1}
    assert {child.ts_local for child in second.installed.values()} == {(ts("10.9.0.7/32"),)}
    assert len(b.installed) == 1
    assert len(b.of(IkeSaRekeyed)) == 1


def test_child_sa_that_is_asked_for_meanwhile_asks_for_the_address_itself() -> None:
    """RFC 7296 section 2.19: in any request to create a Child SA."""
    network = Network()
    b = server(network, pool("10.9.0.7-10.9.0.7"))
    first, second = client(network, "192.0.2.11"), client(network, "192.0.2.12")
    up(network, first, until=network.now + 5)
    up(network, second, until=network.now + 5)
    second.manager.make_child(second.sa, "net", network.now)
    network.run(network.now + 5)
    request, response = (sent.datagram for sent in network.sent[-2:])
    assert notify_types(opened(second, response)) == [NotifyType.INTERNAL_ADDRESS_FAILURE]
    (at_b,) = (sa for sa in b.manager.sas if sa.spi_i == second.sa.spi_i)
    assert at_b.channel is not None
    order = [payload.payload_type for payload in at_b.channel.open(request.data, parse(request))]
    assert order[:2] == [PayloadType.CP, PayloadType.SA]
    first.manager.delete(first.sa, network.now)
    network.run(network.now + 5)
    second.manager.make_child(second.sa, "net", network.now)
    network.run(network.now + 5)
    assert second.addresses == {"10.9.0.7": 1}
    assert len(second.installed) == 1
    network.run(network.now + 400)  # what was to be done later has been done
    assert len(second.installed) == 1


def test_child_sa_that_fails_gives_the_address_back() -> None:
    """RFC 7296 appendix C.2: an error goes without a CFG_REPLY."""
    network, a, b = lab(a=asking(children=(child_config(remote_ts=(ts("10.77.0.0/24"),)),)))
    up(network, a, until=5.0)
    response = messages(network, a, b)[1]
    assert notify_types(response) == [NotifyType.TS_UNACCEPTABLE]
    assert not any(isinstance(payload, Cp) for payload in response)
    assert all(lease.holders == 0 for lease in b.manager.pools)
    assert b.of(AddressesLeased) == []


def test_response_without_an_address_is_an_error_for_who_requires_one() -> None:
    """RFC 7296 section 3.15.4. The responder knows nothing of configuration payloads and makes the Child SA."""
    network, a, b = lab(b={"children": (BEHIND,)}, a=asking(children=(TO_BEHIND,)))
    network.hosts[B].manager.connections = [
        connection(B, A, children=(child_config(local_ts=(ts("10.2.0.0/24"),), remote_ts=(ts("0.0.0.0/0"),)),))
    ]
    up(network, a, until=5.0)
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.INTERNAL_ADDRESS_FAILURE  # type: ignore[attr-defined]
    assert a.installed == b.installed == {}
    assert (a.sa.state, b.sa.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert len(b.of(ChildSaReady)) == 1  # it had its half


# --- what a strange peer says ----------------------------------------------------------------------------------------


def reply_from_strangers(
    *attributes: CpAttribute, tsi: str = "10.9.0.5/32", a: dict[str, object] | None = None
) -> tuple[Network, Host, Host]:
    """The IKE_AUTH response of a responder that says what we want it to."""
    network, host_a, host_b = lab(a=a or asking())

    def tampering(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        changed: list[Payload] = []
        for payload in payloads:
            if isinstance(payload, Cp):
                changed.append(Cp(CpType.CFG_REPLY, attributes))
            elif isinstance(payload, TsI):
                changed.append(TsI((ts(tsi),)))
            else:
                changed.append(payload)
        return tuple(changed)

    def link(sent: object) -> tuple[float, ...]:
        data = sent.datagram.data  # type: ignore[attr-defined]
        if data[18] != AUTH or sent.sender is host_a:  # type: ignore[attr-defined]
            return (0.01,)
        forged = sealed(host_b, AUTH, tampering(opened(host_a, sent.datagram)), message_id=1, is_response=True)  # type: ignore[attr-defined]
        network.inject(replace(sent.datagram, data=forged), 0.01)  # type: ignore[attr-defined]
        return ()

    network.link = link
    host_a.manager.initiate("lab", None, host_a.address, 0.0)
    network.run(2.0)
    return network, host_a, host_b


FIVE = CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip("10.9.0.5"))


@pytest.mark.req("rfc7296-s3.15.1-06")
def test_attributes_that_mean_nothing_to_us_are_ignored_in_a_reply() -> None:
    strange = (CpAttribute(CpAttributeType(30000), b"who knows"), CpAttribute(KIND.P_CSCF_IP4_ADDRESS, bytes(4)))
    _, a, _ = reply_from_strangers(*strange, FIVE, *strange)
    assert a.addresses == {"10.9.0.5": 1}
    assert len(a.installed) == 1


def test_more_addresses_than_were_asked_for_are_not_taken() -> None:
    six = CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip("10.9.0.6"))
    other = CpAttribute.of_address(KIND.INTERNAL_IP6_ADDRESS, ip("2001:db8::6"), 64)
    _, a, _ = reply_from_strangers(FIVE, six, other)
    assert a.addresses == {"10.9.0.5": 1}


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_address_that_no_host_can_have_is_not_taken(address: str) -> None:
    _, a, _ = reply_from_strangers(
        CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip(address)), tsi=f"{address}/32"
    )
    assert a.addresses == {}
    assert a.installed == {}
    assert a.sa.state is State.ESTABLISHED


def test_child_sa_for_more_than_the_assigned_address_is_not_taken() -> None:
    _, a, _ = reply_from_strangers(FIVE, tsi="10.9.0.0/24")
    assert a.installed == {}
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.TS_UNACCEPTABLE  # type: ignore[attr-defined]


def test_reply_that_nobody_asked_for_changes_nothing() -> None:
    network, a, b = joined(a={"children": (TO_BEHIND,)}, b=giving(pools_required=False))
    reply = Cp(CpType.CFG_REPLY, (FIVE,))
    give(network, a, sealed(b, INFORMATIONAL, (reply,)), b.address)
    assert opened(b, last_sent(network)) == ()
    assert a.addresses == {}
    assert a.sa.info().local_vips == ()


# --- INFORMATIONAL ---------------------------------------------------------------------------------------------------


def test_address_can_be_asked_for_in_informational() -> None:
    network, a, b = joined()
    (reply,) = asked_alone(network, a, b, CpAttribute(KIND.INTERNAL_IP4_ADDRESS))
    assert isinstance(reply, Cp)
    # It is the one that the IKE SA has.
    assert reply == Cp(CpType.CFG_REPLY, (CpAttribute.of_address(KIND.INTERNAL_IP4_ADDRESS, ip("10.9.0.1")),))
    assert [lease.holders for lease in b.manager.pools] == [1]


@pytest.mark.req("rfc7296-s2.20-01", "rfc7296-s3.15.1-05")
def test_version_comes_back_empty_and_the_supported_attributes_are_those_of_the_table() -> None:
    network, a, b = joined()
    attributes = [
        CpAttribute(kind) for kind in (KIND.APPLICATION_VERSION, KIND.SUPPORTED_ATTRIBUTES, CpAttributeType(30000))
    ]
    (reply,) = asked_alone(network, a, b, *attributes)
    assert isinstance(reply, Cp)
    version, supported = reply.attributes
    assert version == CpAttribute(KIND.APPLICATION_VERSION, b"")
    assert sorted(supported.supported) == [1, 2, 3, 4, 6, 7, 8, 10, 12, 13, 14, 15]


@pytest.mark.req("rfc7296-s3.15.1-09", "rfc7296-s3.15.1-10")
@pytest.mark.parametrize("kind", [CpType.CFG_SET, CpType.CFG_ACK, CpType.CFG_REPLY, CpType(200)])
def test_what_is_pushed_is_not_taken_by_who_has_pools_either(kind: CpType) -> None:
    network, a, b = joined()
    assert asked_alone(network, a, b, FIVE, kind=kind) == ()
    assert b.sa.state is State.ESTABLISHED
    assert [str(lease.address) for lease in b.manager.pools] == ["10.9.0.1"]
    assert b.addresses == {}


def test_refusal_in_informational_is_a_notify() -> None:
    network, a, b = joined(a={"children": (TO_BEHIND,)}, b=giving(pools_required=False))
    b.manager.pools.configure([pool("10.9.0.7-10.9.0.7")])
    somebody = Peer(Identity.parse("somebody.example"), "192.0.2.9")
    assert b.manager.pools.acquire(["road"], somebody, Wish(4)) is not None
    assert notify_types(asked_alone(network, a, b, CpAttribute(KIND.INTERNAL_IP4_ADDRESS))) == [
        NotifyType.INTERNAL_ADDRESS_FAILURE
    ]


def test_who_began_the_ike_sa_gives_no_addresses() -> None:
    network, a, b = joined(a=asking(pools=("road",)))
    give(
        network,
        a,
        sealed(b, INFORMATIONAL, (Cp(CpType.CFG_REQUEST, (CpAttribute(KIND.INTERNAL_IP4_ADDRESS),)),)),
        b.address,
    )
    assert opened(b, last_sent(network)) == ()


# --- without a Child SA ----------------------------------------------------------------------------------------------


def test_address_comes_without_a_child_sa_too() -> None:
    """RFC 6023 section 3; the Child SA that is made later has the address."""
    network, a, b = lab(a=asking(childless=Childless.FORCE), b=giving())
    up(network, a, until=5.0)
    request, response = messages(network, a, b)[:2]
    assert not any(isinstance(payload, Sa) for payload in (*request, *response))
    assert cp_of(request).cp_type == CpType.CFG_REQUEST
    assert a.addresses == {"10.9.0.1": 1}
    (child,) = a.installed.values()
    assert child.ts_local == (ts("10.9.0.1/32"),)
    assert [
        payload for payloads in messages(network, a, b)[2:] for payload in payloads if isinstance(payload, Cp)
    ] == []


# --- both ends, and what comes later ---------------------------------------------------------------------------------


def test_gateway_makes_a_child_sa_to_the_address_that_it_gave() -> None:
    network, a, b = joined(
        a=asking(children=(TO_BEHIND, replace(TO_BEHIND, name="back"))),
        b=giving(children=(BEHIND, replace(BEHIND, name="back"))),
    )
    b.manager.make_child(b.sa, "back", network.now)
    network.run(network.now + 5)
    assert_joined(a, b)
    assert len(a.installed) == 2
    assert {child.ts_local for child in a.installed.values()} == {(ts("10.9.0.1/32"),)}


def test_nobody_gets_an_address_before_it_has_proved_who_it_is() -> None:
    network, a, b = lab(a=asking(psk=SecretOctets("PSK", b"another secret")))
    up(network, a, until=5.0)
    assert list(b.manager.pools) == []
    assert a.addresses == {}


def test_address_of_a_responder_that_has_not_proved_who_it_is_is_not_taken() -> None:
    """The response is from whom we exchanged keys with, and its AUTH payload is not of the key that we know."""
    network, a, _ = lab(a=asking(remote_id=Identity.parse("somebody.example")))
    up(network, a, until=5.0)
    assert a.of(AddressesTaken) == []
    assert a.addresses == {}
    assert a.installed == {}


def test_two_child_sas_that_ask_at_once_share_the_address() -> None:
    """With a window of several requests both are on their way before either is answered."""
    network = Network()
    children = (TO_BEHIND, replace(TO_BEHIND, name="more", remote_ts=(ts("10.3.0.0/24"),)))
    here = (BEHIND, replace(BEHIND, name="more", local_ts=(ts("10.3.0.0/24"),)))
    b = server(network, pool("10.9.0.7-10.9.0.7"), children=here, window_size=4)
    first = client(network, "192.0.2.11")
    second = client(network, "192.0.2.12", children=children, window_size=4)
    up(network, first, until=network.now + 5)
    up(network, second, until=network.now + 5)
    first.manager.delete(first.sa, network.now)
    network.run(network.now + 5)
    for name in ("net", "more"):
        second.manager.make_child(second.sa, name, network.now)
    network.run(network.now + 5)
    assert second.addresses == {"10.9.0.7": 1}
    assert sorted(child.name for child in second.installed.values()) == ["more", "net"]
    assert [lease.holders for lease in b.manager.pools] == [1]
    assert len(second.of(AddressesTaken)) == 1
