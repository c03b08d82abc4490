"""What comes for no SA of ours: who is told, how, and how often.

    ESP, unknown SPI  -->  <--  HDR, SK {N(INVALID_SPI)}     when there is an IKE SA with that address
                           <--  HDR(0, 0), N(INVALID_SPI)    when there is none

RFC 7296 sections 1.5 and 2.21.4.
"""

from __future__ import annotations

import pytest
from sim.craft import clear, give, notify_types, opened, parse, sealed
from sim.network import A, B, Host, Network, assert_joined, connected, connection, pair, up
from sim.test_informational import snapshot

from ikev2.core import sa_table
from ikev2.core.config import Identity, Limits
from ikev2.core.events import PeerAlive
from ikev2.core.suspicion import IN_FLIGHT_S, REPORT_INTERVAL_S, invalid_selectors
from ikev2.core.types import Address
from ikev2.iana import ExchangeType, NotifyType, PayloadType
from ikev2.wire.payloads import Encrypted, Notify

INFO = ExchangeType.INFORMATIONAL
STRAY = 0xDEADBEEF
ELSEWHERE = Address("198.51.100.9", 500)


def stray(network: Network, host: Host, remote: Address, spi: int = STRAY, *, in_udp: bool = False) -> None:
    host.manager.stray_esp(spi, host.address, remote, network.now, in_udp=in_udp)
    network.flush(host)


@pytest.mark.req("rfc7296-s2.21.4-08", "rfc7296-s2.21.4-10", "rfc7296-s3.10-02")
def test_esp_of_an_unknown_spi_is_reported_over_the_ike_sa_with_its_sender() -> None:
    network, a, b = connected()
    before, installed = len(network.sent), dict(b.installed)
    stray(network, a, b.address)
    network.run(network.now + 5)
    request, response = network.sent[before:]
    assert parse(request.datagram).header.exchange_type == INFO
    assert opened(b, request.datagram) == (Notify(NotifyType.INVALID_SPI, b"\xde\xad\xbe\xef"),)
    assert opened(a, response.datagram) == ()
    assert b.installed == installed
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.21.4-08", "rfc7296-s2.4-05")
def test_reports_are_limited_in_rate() -> None:
    network, a, b = connected()
    before = len(network.sent)
    for number in range(500):
        stray(network, a, b.address, STRAY + number)
    network.run(network.now + REPORT_INTERVAL_S / 2)
    stray(network, a, b.address)
    network.run(network.now + REPORT_INTERVAL_S)
    assert len(network.sent) == before + 2
    stray(network, a, b.address)
    network.run(network.now + 1)
    assert len(network.sent) == before + 4


@pytest.mark.parametrize("wanted", [True, False])
def test_packets_against_the_selectors_of_their_child_sa_are_reported_where_the_connection_wants_that(
    wanted: bool,
) -> None:
    """RFC 4301 section 5.2, RFC 7296 section 3.10.1: not too often, and it changes nothing."""
    network, a, b = pair(a={"invalid_selectors": wanted})
    up(network, a, until=5.0)
    (child,) = a.installed.values()
    before, installed = len(network.sent), dict(b.installed)
    for _ in range(100):
        a.manager.wrong_selectors(child.spi_in, b"E" + bytes(100), network.now)
        a.manager.wrong_selectors(STRAY, b"E" + bytes(100), network.now)
    network.run(network.now + REPORT_INTERVAL_S / 2)
    sent = network.sent[before:]
    assert len(sent) == (2 if wanted else 0)
    if wanted:
        (notify,) = opened(b, sent[0].datagram)
        assert notify == invalid_selectors(child.spi_in, b"E" + bytes(67))
    assert b.installed == installed
    assert_joined(a, b)


def test_packets_that_are_still_in_flight_for_a_child_sa_that_is_gone_are_not_suspicious() -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    a.manager.delete_child(child, network.now)
    network.run(network.now + 1)
    before = len(network.sent)
    stray(network, a, b.address, child.spi_in)
    assert len(network.sent) == before
    network.now += IN_FLIGHT_S
    stray(network, a, b.address, child.spi_in)
    assert len(network.sent) == before + 1


def test_spi_that_is_ours_is_not_suspicious_even_when_the_data_plane_has_not_got_it_yet() -> None:
    network, a, b = connected()
    before = len(network.sent)
    stray(network, a, b.address, next(iter(a.installed)))
    assert len(network.sent) == before


def test_where_a_nat_is_between_the_port_counts_as_well() -> None:
    """RFC 7296 section 2.21.4: "IP address (and port, if NAT traversal is used)": two peers may share the address."""
    network, a, b = pair(b={"encap": True})
    up(network, a, until=5.0)
    assert b.sa.nat.between
    here, there = b.sa.local, b.sa.remote
    before = len(network.sent)
    b.manager.stray_esp(STRAY, here, Address(A, there.port + 1), network.now, in_udp=True)
    network.flush(b)
    (unprotected,) = network.sent[before:]
    assert parse(unprotected.datagram).encrypted is None
    b.manager.stray_esp(STRAY, here, there, network.now, in_udp=True)
    network.flush(b)
    assert notify_types(opened(a, network.sent[-1].datagram)) == [NotifyType.INVALID_SPI]


def test_without_an_ike_sa_the_sender_gets_an_unprotected_message_of_no_exchange() -> None:
    """RFC 7296 section 1.5: zero SPIs, Initiator flag 1, Response flag 0, to where the packet came from."""
    network, a, _b = pair()
    came_from = Address("198.51.100.9", 40123)
    stray(network, a, came_from, in_udp=True)
    (sent,) = network.sent
    assert (sent.datagram.local, sent.datagram.remote) == (a.address, came_from)
    message = parse(sent.datagram)
    header = message.header
    assert (header.initiator_spi, header.responder_spi) == (bytes(8), bytes(8))
    assert (header.is_initiator, header.is_response, header.message_id) == (True, False, 0)
    assert (header.exchange_type, header.major_version, header.minor_version) == (INFO, 2, 0)
    assert message.payloads == (Notify(NotifyType.INVALID_SPI, b"\xde\xad\xbe\xef"),)


@pytest.mark.req("rfc7296-s2.4-05")
def test_unprotected_messages_about_spis_are_limited_in_rate() -> None:
    network, a, _b = pair(limits=Limits(unprotected_replies_per_s=10.0))
    for number in range(500):
        stray(network, a, ELSEWHERE, STRAY + number)
    assert len(network.sent) == 10


@pytest.mark.req("rfc7296-s1.5-01", "rfc7296-s2.21.4-05", "rfc7296-s2.21.4-06")
@pytest.mark.parametrize("spi", [bytes(8), b"\x77" * 8])
def test_an_unprotected_invalid_spi_is_never_answered(spi: bytes) -> None:
    """Zero SPIs or random ones: two nodes that tell each other of unknown SPIs would go on for ever."""
    network, a, b = connected()
    before, sent = (snapshot(a), snapshot(b)), len(network.sent)
    data = clear(INFO, (Notify(NotifyType.INVALID_SPI, b"\1\2\3\4"),), spi_i=spi)
    for host in (a, b):
        for sender in (a.address, b.address, ELSEWHERE):
            give(network, host, data, sender)
    assert (snapshot(a), snapshot(b)) == before
    assert len(network.sent) == sent


@pytest.mark.req("rfc7296-s2.21.4-07", "rfc7296-s2.4-05")
def test_an_unprotected_invalid_spi_is_a_hint_to_ask_whether_the_peer_lives() -> None:
    network, a, b = connected()
    network.run(60.0)
    hint = clear(INFO, (Notify(NotifyType.INVALID_SPI, b"\1\2\3\4"),), spi_i=bytes(8))
    give(network, a, hint, ELSEWHERE)  # from somebody with whom there is nothing
    for _ in range(20):
        give(network, a, hint, b.address)
    network.run(70.0)
    assert len(a.of(PeerAlive)) == 1
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.21.4-09", "rfc7296-s2.21.4-10")
def test_request_of_an_unknown_ike_sa_is_reported_over_the_one_that_there_is() -> None:
    """Also the unprotected INVALID_IKE_SPI goes: whoever sent it may have forgotten the other one."""
    network, a, b = connected()
    before = len(network.sent)
    data = clear(INFO, (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(64)),), spi_r=b"\x55" * 8, message_id=9)
    for _ in range(20):
        give(network, b, data, a.address)
    protected = [sent for sent in network.sent[before:] if parse(sent.datagram).encrypted is not None]
    clear_ones = [sent for sent in network.sent[before:] if parse(sent.datagram).encrypted is None]
    assert [opened(a, sent.datagram) for sent in protected] == [(Notify(NotifyType.INVALID_IKE_SPI),)]
    assert all(parse(sent.datagram).header.is_response for sent in clear_ones)
    network.run(network.now + 5)
    assert_joined(a, b)


def test_request_of_an_unknown_ike_sa_from_elsewhere_is_not_reported() -> None:
    network, a, b = connected()
    before = len(network.sent)
    data = clear(INFO, (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(64)),), spi_r=b"\x55" * 8, message_id=9)
    give(network, b, data, ELSEWHERE)
    (sent,) = network.sent[before:]
    assert parse(sent.datagram).payloads == (Notify(NotifyType.INVALID_IKE_SPI),)
    assert a.sa.state == b.sa.state


def test_no_report_while_the_ike_sa_is_being_closed() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    a.manager.delete(a.sa, network.now)
    network.flush(a)
    before = len(network.sent)
    stray(network, a, b.address)
    assert len(network.sent) == before


def test_a_report_waits_for_the_window() -> None:
    """One request is in flight at most; the report comes after it. RFC 7296 section 2.3."""
    network, a, b = connected()
    a.manager.check_liveness(a.sa, network.now)
    network.flush(a)
    before = len(network.sent)
    stray(network, a, b.address)
    assert len(network.sent) == before
    network.run(network.now + 5)
    assert any(
        notify_types(opened(b, sent.datagram)) == [NotifyType.INVALID_SPI]
        for sent in network.sent[before:]
        if sent.sender is a
    )


def test_what_comes_for_no_sa_costs_the_same_however_many_sas_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forges such messages and packets must not make us look at all SAs. RFC 7296 section 2.4."""
    network = Network()
    b = network.add("b", B, [connection(B, "%any", remote_id=None)])
    hosts = []
    for number in range(1, 13):
        there = f"198.51.100.{number}"
        own = connection(there, B, local_id=Identity.parse(f"fqdn:host-{number}"))
        hosts.append(network.add(f"a{number}", there, [own]))
        up(network, hosts[-1], until=network.now + 1)
    assert len(b.manager.sas) == len(hosts)
    looked_at: list[str] = []
    has_keys = sa_table._has_keys
    monkeypatch.setattr(sa_table, "_has_keys", lambda sa: looked_at.append(sa.remote.host) or has_keys(sa))
    forged = clear(INFO, (Encrypted(PayloadType.NO_NEXT_PAYLOAD, bytes(40)),), spi_r=b"\x99" * 8)
    hint = clear(INFO, (Notify(NotifyType.INVALID_SPI, b"\1\2\3\4"),), spi_i=bytes(8))
    for message in (forged, hint):
        give(network, b, message, ELSEWHERE._replace(host="203.0.113.1"))
    stray(network, b, ELSEWHERE._replace(host="203.0.113.1"))
    assert looked_at == []
    give(network, b, forged, hosts[4].address)
    assert set(looked_at) == {hosts[4].host}


def test_an_ike_sa_is_found_where_its_peer_has_moved_to_and_no_longer_where_it_was() -> None:
    network, a, b = pair(a={"encap": True}, b={"remote_addrs": ("%any",)})
    up(network, a, until=5.0)
    sa, before = b.sa, len(network.sent)
    was, there = sa.remote, Address("203.0.113.7", 40000)
    give(network, b, sealed(a, INFO, ()), there)
    assert sa.remote == there
    b.manager.stray_esp(STRAY, sa.local, there, network.now, in_udp=True)
    network.flush(b)
    assert network.sent[-1].datagram.remote == there
    assert parse(network.sent[-1].datagram).encrypted is not None
    b.manager.stray_esp(STRAY, sa.local, was, network.now, in_udp=True)
    network.flush(b)
    assert parse(network.sent[-1].datagram).encrypted is None
    assert len(network.sent) == before + 3
