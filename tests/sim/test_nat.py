"""NAT between the hosts: found from the digests, IKE floats to port 4500, ESP is told to travel in UDP."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim.craft import parse
from sim.network import A, B, Host, Network, assert_joined, assert_nothing_left, child_config, connection, pair, up

from ikev2.core import nat
from ikev2.core.child_sa import UdpEncap
from ikev2.core.config import Dynamic, Identity
from ikev2.core.events import ChildSaFailed, ChildSaMoved, ChildSaReady
from ikev2.core.types import Address, Datagram, Mode
from ikev2.iana import NotifyType
from ikev2.wire.payloads import Notify, TrafficSelector

PUBLIC = "203.0.113.5"


class Nat:
    """Translates A's address to PUBLIC and its ports to others, and back."""

    def __init__(self) -> None:
        self.offset = 20000

    def __call__(self, datagram: Datagram) -> Datagram:
        if datagram.local.host == A:
            return replace(datagram, local=Address(PUBLIC, datagram.local.port + self.offset))
        if datagram.remote.host == PUBLIC:
            return replace(datagram, remote=Address(A, datagram.remote.port - self.offset))
        return datagram


def behind_nat(**children: object) -> tuple[Network, Host, Host, Nat]:
    """A is behind a NAT; B, the responder, is not. The selectors name A's inner network."""
    inner = (TrafficSelector.from_network("10.1.0.0/16"),)
    child_a = child_config(local_ts=inner, **children)
    child_b = child_config(remote_ts=(TrafficSelector.from_network("10.0.0.0/8"),), **children)
    network = Network()
    a = network.add("a", A, [connection(A, B, children=(child_a,))])
    b = network.add(
        "b", B, [connection(B, "%any", remote_id=Identity.parse(f"fqdn:host-{A}"), children=(child_b,))]
    )
    nat = Nat()
    network.translate = nat
    return network, a, b, nat


@pytest.mark.req(
    "rfc7296-s2.23-01",
    "rfc7296-s2.23-04",
    "rfc7296-s2.23-07",
    "rfc7296-s2.23-10",
    "rfc7296-s2.23-12",
    "rfc7296-s2.23-13",
)
def test_initiator_behind_nat_floats_to_4500_and_both_encapsulate() -> None:
    network, a, b, _ = behind_nat()
    up(network, a)
    assert_joined(a, b)
    ports = [(sent.datagram.local.port, sent.datagram.remote.port) for sent in network.sent]
    assert ports == [(500, 500), (500, 20500), (4500, 4500), (4500, 24500)]
    assert (a.sa.nat.local, a.sa.nat.remote) == (True, False)
    assert (b.sa.nat.local, b.sa.nat.remote) == (False, True)
    (child_a,), (child_b,) = a.installed.values(), b.installed.values()
    assert child_a.encap == UdpEncap(4500, 4500)
    assert child_b.encap == UdpEncap(4500, 24500)
    assert (child_b.local, child_b.remote) == (B, PUBLIC)


@pytest.mark.req("rfc7296-s2.23-09")
def test_both_detection_notifies_are_in_both_messages() -> None:
    network, a, _ = pair()
    up(network, a)
    for number in (0, 1):
        types = {
            item.notify_type for item in parse(network.sent[number].datagram).payloads if isinstance(item, Notify)
        }
        assert {NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP} <= types


def test_without_a_nat_nothing_floats_and_nothing_is_encapsulated() -> None:
    network, a, b = pair()
    up(network, a)
    assert {sent.datagram.local.port for sent in network.sent} == {500}
    for host in (a, b):
        (child,) = host.installed.values()
        assert child.encap is None
        assert not host.sa.nat.between


@pytest.mark.parametrize("end", ["a", "b"])
def test_either_end_can_force_encapsulation(end: str) -> None:
    network, a, b = pair(**{end: {"encap": True}})
    up(network, a)
    assert_joined(a, b)
    assert [sent.datagram.remote.port for sent in network.sent] == [500, 500, 4500, 4500]
    for host in (a, b):
        (child,) = host.installed.values()
        assert child.encap == UdpEncap(4500, 4500)


def test_peer_without_nat_traversal_is_left_in_peace() -> None:
    """No detection notifies in the response: no float, even behind a NAT."""
    network, a, b, _ = behind_nat()
    plain = nat.detection_notifies
    network.link = lambda sent: (0.01,)
    try:
        nat.detection_notifies = lambda *args, **flags: () if args[1] != bytes(8) else plain(*args, **flags)  # type: ignore[assignment]
        up(network, a)
    finally:
        nat.detection_notifies = plain
    assert_joined(a, b)
    assert a.sa.local.port == 500
    assert not a.sa.nat.supported


@pytest.mark.req("rfc7296-s2.23-16", "rfc7296-s2.23-17", "rfc7296-s2.23-18")
def test_new_mapping_is_followed_when_an_authentic_request_comes_from_it() -> None:
    network, a, b, nat = behind_nat()
    up(network, a, until=5.0)
    nat.offset = 30000
    a.manager.check_liveness(a.sa, network.now)
    network.run(10.0)
    assert b.sa.remote == Address(PUBLIC, 34500)
    (moved,) = b.of(ChildSaMoved)
    assert isinstance(moved, ChildSaMoved)
    assert moved.new.encap == UdpEncap(4500, 34500)
    assert next(iter(b.installed.values())) == moved.new
    b.manager.check_liveness(b.sa, network.now)
    network.run(15.0)
    assert network.sent[-2].datagram.remote == Address(PUBLIC, 34500)
    a.manager.delete(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.23-19")
def test_host_behind_a_nat_does_not_follow_and_nobody_follows_a_replay() -> None:
    network, a, b, _ = behind_nat()
    up(network, a, until=5.0)
    b.manager.check_liveness(b.sa, network.now)
    network.run(10.0)
    request = network.sent[-2]
    assert request.sender is b
    a.manager.check_liveness(a.sa, network.now)
    network.run(15.0)
    of_a = network.sent[-2].datagram
    elsewhere = Address("198.51.100.99", 9999)
    a.manager.receive_datagram(request.datagram.data, Address(A, 4500), elsewhere, network.now)
    b.manager.receive_datagram(of_a.data, Address(B, 4500), elsewhere, network.now)
    assert a.sa.remote == Address(B, 4500)
    assert b.sa.remote == Address(PUBLIC, 24500)
    b.manager.check_liveness(b.sa, network.now)
    (fresh,) = [item for item in b.manager.datagrams_to_send() if item.remote.host == PUBLIC]
    a.manager.receive_datagram(fresh.data, Address(A, 4500), elsewhere, network.now)
    assert a.sa.remote == Address(B, 4500)


@pytest.mark.req(
    "rfc7296-s2.23-15", "rfc7296-s2.23.1-03", "rfc7296-s2.23.1-04", "rfc7296-s2.23.1-05", "rfc7296-s2.23.1-06"
)
def test_transport_mode_through_nat_substitutes_addresses_and_keeps_the_originals() -> None:
    """RFC 7296 section 2.23.1: IP1 behind a NAT as IPN1; the responder sees IPN1, the initiator IP1."""
    child = child_config(mode=Mode.TRANSPORT)
    network = Network()
    a = network.add("a", A, [connection(A, B, children=(child,))])
    b = network.add("b", B, [connection(B, "%any", remote_id=Identity.parse(f"fqdn:host-{A}"), children=(child,))])
    network.translate = Nat()
    up(network, a)
    (child_a,), (child_b,) = a.installed.values(), b.installed.values()
    assert child_a.mode is child_b.mode is Mode.TRANSPORT
    one = TrafficSelector.from_network
    assert (child_a.ts_local, child_a.ts_remote) == ((one(f"{A}/32"),), (one(f"{B}/32"),))
    assert (child_b.ts_local, child_b.ts_remote) == ((one(f"{B}/32"),), (one(f"{PUBLIC}/32"),))
    assert (child_b.nat_original_local, child_b.nat_original_remote) == (B, A)
    assert (child_a.nat_original_local, child_a.nat_original_remote) == (PUBLIC, B)


@pytest.mark.req("rfc7296-s2.23-16", "rfc7296-s2.23-17", "rfc7296-s2.23-18")
def test_ike_and_all_child_sas_follow_where_esp_comes_from() -> None:
    """Not only IKE messages are validated packets: the next request of B goes to where ESP came from."""
    network, a, b, nat = behind_nat()
    up(network, a, until=5.0)
    nat.offset = 30000
    (child,) = b.installed.values()
    b.manager.peer_moved(child, Address(PUBLIC, 34500), network.now)
    network.run(network.now)
    (moved,) = b.of(ChildSaMoved)
    assert isinstance(moved, ChildSaMoved)
    assert moved.new.encap == UdpEncap(4500, 34500)
    b.manager.check_liveness(b.sa, network.now)
    network.run(10.0)
    assert [sent.datagram.remote for sent in network.sent[-2:]] == [Address(PUBLIC, 34500), Address(B, 4500)]
    assert b.sa.requests.in_flight is None
    b.manager.peer_moved(moved.new, Address(PUBLIC, 34500), network.now)
    network.run(11.0)
    assert len(b.of(ChildSaMoved)) == 1


@pytest.mark.req("rfc7296-s2.23-19")
def test_behind_a_nat_esp_from_elsewhere_moves_nothing() -> None:
    network, a, _, _ = behind_nat()
    up(network, a, until=5.0)
    (child,) = a.installed.values()
    a.manager.peer_moved(child, Address("198.51.100.99", 9999), network.now)
    network.run(10.0)
    assert a.sa.remote == Address(B, 4500)
    assert a.of(ChildSaMoved) == []


@pytest.mark.req("rfc7296-s2.23-10", "rfc7296-s2.23-12")
@pytest.mark.parametrize(
    ("kind", "local", "remote"),
    [(NotifyType.NAT_DETECTION_SOURCE_IP, False, True), (NotifyType.NAT_DETECTION_DESTINATION_IP, True, False)],
)
def test_each_detection_payload_is_checked_if_present(kind: NotifyType, local: bool, remote: bool) -> None:
    here, there = Address(B, 500), Address(PUBLIC, 20500)
    wrong = Notify(kind, nat.detection_digest(bytes(8), bytes(8), Address(A, 1)))
    found = nat.detect([wrong], bytes(8), bytes(8), here, there)
    assert found == nat.NatState(supported=True, local=local, remote=remote)


@pytest.mark.req("rfc7296-s2.23-10")
def test_one_of_several_source_payloads_that_fits_is_enough() -> None:
    """A sender with several attachments tells all of them: there is a NAT when none fits."""
    here, there = Address(B, 500), Address(A, 500)
    digests = [nat.detection_digest(b"i" * 8, bytes(8), Address(host, 500)) for host in (PUBLIC, "192.0.2.9", A)]
    notifies = [Notify(NotifyType.NAT_DETECTION_SOURCE_IP, digest) for digest in digests]
    assert not nat.detect(notifies, b"i" * 8, bytes(8), here, there).remote
    assert nat.detect(notifies[:2], b"i" * 8, bytes(8), here, there).remote


def test_an_initiator_that_began_on_4500_stays_there_behind_a_nat() -> None:
    """RFC 7296 section 2.23: port 4500 for both IKE and ESP even at the beginning."""
    network, a, b, _ = behind_nat()
    a.manager.connections[0] = replace(a.manager.connections[0], remote_port=4500)
    a.manager.initiate("lab", None, Address(A, 4500), network.now)
    network.run(5.0)
    assert_joined(a, b)
    ports = [(sent.datagram.local.port, sent.datagram.remote.port) for sent in network.sent]
    assert ports == [(4500, 4500), (4500, 24500)] * 2
    (child_a,), (child_b,) = a.installed.values(), b.installed.values()
    assert (child_a.encap, child_b.encap) == (UdpEncap(4500, 4500), UdpEncap(4500, 24500))


@pytest.mark.req("rfc7296-s2.23-04", "rfc7296-s2.23-07")
def test_a_peer_on_a_port_of_its_own_keeps_it() -> None:
    """A static NAT before B maps 203.0.113.5:9999 to 192.0.2.2:4500: A begins from 4500 and goes on there."""
    network = Network()
    a = network.add("a", A, [connection(A, PUBLIC, remote_id=Identity.parse(f"fqdn:host-{B}"), remote_port=9999)])
    child = child_config(local_ts=(TrafficSelector.from_network(f"{PUBLIC}/32"),))
    b = network.add("b", B, [connection(B, A, children=(child,))])

    def static(datagram: Datagram) -> Datagram:
        if datagram.remote == Address(PUBLIC, 9999):
            return replace(datagram, remote=Address(B, 4500))
        return replace(datagram, local=Address(PUBLIC, 9999)) if datagram.local == Address(B, 4500) else datagram

    network.translate = static
    a.manager.initiate("lab", None, Address(A, 4500), network.now)
    network.run(5.0)
    assert_joined(a, b)
    assert {sent.datagram.remote for sent in network.sent} == {Address(PUBLIC, 9999), Address(A, 4500)}
    assert (a.sa.nat.local, a.sa.nat.remote) == (False, True)
    assert (b.sa.nat.local, b.sa.nat.remote) == (True, False)
    assert next(iter(a.installed.values())).encap == UdpEncap(4500, 9999)


@pytest.mark.req("rfc7296-s2.23-04", "rfc7296-s2.23-07")
def test_ipv6_behind_a_nat_floats_and_encapsulates_as_well() -> None:
    """NPTv6, or a NAT66: the digests are over sixteen octets of address."""
    inside, outside, server = "2001:db8:1::1", "2001:db8:ffff::7", "2001:db8:2::2"
    network = Network()
    child = child_config(remote_ts=(TrafficSelector.from_network("2001:db8::/32"),))
    a = network.add("a", inside, [connection(inside, server)])
    b = network.add(
        "b",
        server,
        [connection(server, "%any", remote_id=Identity.parse(f"fqdn:host-{inside}"), children=(child,))],
    )

    def translate(datagram: Datagram) -> Datagram:
        if datagram.local.host == inside:
            return replace(datagram, local=Address(outside, datagram.local.port + 20000))
        if datagram.remote.host == outside:
            return replace(datagram, remote=Address(inside, datagram.remote.port - 20000))
        return datagram

    network.translate = translate
    up(network, a)
    assert_joined(a, b)
    assert (a.sa.nat.local, b.sa.nat.remote) == (True, True)
    assert next(iter(b.installed.values())).encap == UdpEncap(4500, 24500)


@pytest.mark.req("rfc7296-s2.23-19")
def test_with_a_nat_on_both_sides_nobody_follows() -> None:
    network, a, b, nat = behind_nat()
    up(network, a, until=5.0)
    b.sa.nat = replace(b.sa.nat, local=True)
    nat.offset = 30000
    a.manager.check_liveness(a.sa, network.now)
    network.run(10.0)
    assert b.sa.remote == Address(PUBLIC, 24500)
    assert b.of(ChildSaMoved) == []


# --- RFC 3948 section 5.2: two hosts behind one NAT, in transport mode with one server ---

OTHER = "192.0.2.9"


class SharedNat(Nat):
    """A second host behind the NAT has the ports from 40000 on."""

    def __call__(self, datagram: Datagram) -> Datagram:
        if datagram.local.host == OTHER:
            return replace(datagram, local=Address(PUBLIC, datagram.local.port + 40000))
        if datagram.remote.host == PUBLIC and datagram.remote.port > 40000:
            return replace(datagram, remote=Address(OTHER, datagram.remote.port - 40000))
        return super().__call__(datagram)


def shared(first: Dynamic, second: Dynamic) -> tuple[Network, Host, Host, Host]:
    """Ari, Bob and the server; what each of the two wants to say to the server in transport mode."""
    network = Network()
    hosts = [
        network.add(
            name, host, [connection(host, B, children=(child_config(mode=Mode.TRANSPORT, remote_ts=(ts,)),))]
        )
        for name, host, ts in (("ari", A, first), ("bob", OTHER, second))
    ]
    any_of = connection(B, "%any", remote_id=None, children=(child_config(mode=Mode.TRANSPORT),))
    server = network.add("server", B, [any_of])
    network.translate = SharedNat()
    for host in hosts:
        up(network, host, until=network.now + 5)
    return network, hosts[0], hosts[1], server


def test_a_second_host_behind_the_nat_with_the_same_traffic_is_refused() -> None:
    network, ari, bob, server = shared(Dynamic(), Dynamic())
    (failed,) = bob.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == NotifyType.TS_UNACCEPTABLE
    assert len(server.installed) == len(ari.installed) == 1
    assert len(server.manager.sas) == 2  # his IKE SA stays
    # Who is there already may rekey, and come again.
    ari.manager.rekey_child(next(iter(ari.installed.values())), network.now)
    ari.manager.rekey(ari.sa, network.now)
    network.run(network.now + 5)
    assert len(server.installed) == len(ari.installed) == 1
    assert ari.of(ChildSaFailed) == []


def test_different_traffic_of_two_hosts_behind_the_nat_is_no_conflict() -> None:
    _, ari, bob, server = shared(Dynamic(17, 0, 65535), Dynamic(6, 0, 65535))
    assert bob.of(ChildSaFailed) == ari.of(ChildSaFailed) == []
    assert len(server.installed) == 2


def test_once_the_first_is_gone_the_second_gets_it() -> None:
    network, ari, bob, server = shared(Dynamic(), Dynamic())
    ari.manager.delete(ari.sa, network.now)
    network.run(network.now + 5)
    bob.manager.make_child(bob.sa, "net", network.now)
    network.run(network.now + 5)
    (child,) = server.installed.values()
    assert child.encap == UdpEncap(4500, 44500)


def test_who_asks_for_transport_mode_gets_a_tunnel_with_the_original_selectors_where_only_that_is_allowed() -> None:
    """RFC 7296 section 2.23.1: the substitution is undone. Who wants nothing but transport mode deletes it again."""
    network = Network()
    a = network.add("a", A, [connection(A, B, children=(child_config(mode=Mode.TRANSPORT),))])
    tunnel = child_config(remote_ts=(TrafficSelector.from_network(f"{A}/32"),))
    b = network.add("b", B, [connection(B, "%any", remote_id=Identity.parse(f"host-{A}"), children=(tunnel,))])
    network.translate = Nat()
    up(network, a)
    (ready,) = b.of(ChildSaReady)
    assert isinstance(ready, ChildSaReady)
    assert ready.child.mode is Mode.TUNNEL
    assert ready.child.ts_remote == (TrafficSelector.from_network(f"{A}/32"),)
    assert ready.child.nat_original_remote is None
    assert a.installed == b.installed == {}


def test_the_first_one_may_come_again_while_the_server_still_has_its_old_ike_sa() -> None:
    network, ari, _, server = shared(Dynamic(), Dynamic())
    ari.manager.initiate("lab", None, Address(A, 500), network.now)
    network.run(network.now + 5)
    assert ari.of(ChildSaFailed) == []
    assert len(server.installed) == 2
