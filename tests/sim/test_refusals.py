"""A Child SA, or its rekeying, is refused or comes to nothing: what is given back, and what is made instead.

    Initiator                         Responder
    HDR, SK {N(REKEY_SA), SA, Ni, TSi, TSr}  -->
                                 <--  HDR, SK {N(NO_ADDITIONAL_SAS)}  or  HDR, SK {N(CHILD_SA_NOT_FOUND)}

RFC 7296 sections 1.3.1, 2.8, 2.25 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sim.craft import give, parse, sealed
from sim.interleaving import assert_agreed, assert_no_gap, next_time
from sim.network import Host, Network, assert_nothing_left, child_config, connected, pair, up
from sim.test_windows import Reader

from ikev2.core.config import Limits
from ikev2.core.events import (
    ChildSaDeleted,
    ChildSaFailed,
    ChildSaReady,
    IkeSaDeleted,
    IkeSaEstablished,
    IkeSaRekeyFailed,
)
from ikev2.core.exchange import Inbound
from ikev2.core.ike_sa import IkeSa
from ikev2.core.state import State
from ikev2.core.transitions import TRANSITIONS
from ikev2.core.types import Role
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal
from ikev2.errors import LocalProtocolError, NoAdditionalSas
from ikev2.iana import ExchangeType, NotifyType, ProtocolId
from ikev2.wire.payloads import Delete, Nonce, Notify, Payload

CREATE, INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL


# --- SPIs that were allocated and not used ---


class Counted:
    """What a host's backend has been asked for, and what it got back."""

    def __init__(self, host: Host) -> None:
        self.given: list[int] = []
        self.back: list[int] = []
        allocate, release = host.spis.allocate_spi, host.spis.release_spi

        def allocate_spi(local: str, remote: str) -> int:
            self.given.append(allocate(local, remote))
            return self.given[-1]

        def release_spi(spi: int, local: str, remote: str) -> None:
            assert (local, remote) == (host.host, "192.0.2.2" if host.host == "192.0.2.1" else "192.0.2.1")
            self.back.append(spi)
            release(spi, local, remote)

        host.spis.allocate_spi, host.spis.release_spi = allocate_spi, release_spi  # type: ignore[method-assign]


TWO = {"children": (child_config(), child_config("more"))}
OTHER_ALGORITHMS = {"children": (child_config(esp_proposals=(parse_esp_proposal("aes128-sha256"),)),)}


@pytest.mark.parametrize(
    ("of_b", "lets_in"),
    [
        ({"psk": SecretOctets("PSK", b"another")}, False),
        ({"remote_id": None, "local_id": None}, False),
        (OTHER_ALGORITHMS, True),
    ],
    ids=["refused", "another responder than we want", "no Child SA"],
)
def test_spi_of_ike_auth_is_given_back(of_b: dict[str, object], lets_in: bool) -> None:
    network, a, b = pair(b=of_b)
    counted = Counted(a)
    up(network, a)
    assert bool(a.of(IkeSaEstablished)) is lets_in
    assert len(counted.given) == 1
    assert counted.back == counted.given
    assert not b.spis.reserved


def test_spi_of_ike_auth_that_is_never_answered_is_given_back() -> None:
    network, a, _ = pair(link=lambda sent: () if sent.number > 1 else (0.01,))
    counted = Counted(a)
    up(network, a)
    assert counted.back == counted.given != []
    assert_nothing_left(a)


def refused(network: Network, a: Host, b: Host) -> None:
    a.manager.make_child(a.sa, "more", network.now)  # B has no such
    network.run()


def no_spi_there(network: Network, a: Host, b: Host) -> None:
    b.spis.problem = LocalProtocolError("no SPI left")
    a.manager.make_child(a.sa, "net", network.now)
    network.run()


def never_answered(network: Network, a: Host, b: Host) -> None:
    network.link = lambda sent: ()
    a.manager.make_child(a.sa, "net", network.now)
    network.run()
    assert a.manager.sas == []


def ike_sa_deleted_meanwhile(network: Network, a: Host, b: Host) -> None:
    network.link = lambda sent: () if sent.sender is a and not parse(sent.datagram).header.is_response else (0.01,)
    a.manager.make_child(a.sa, "net", network.now)
    b.manager.delete(b.sa, network.now)
    network.run(network.now + 1)
    assert a.manager.sas == []


def malformed_response(network: Network, a: Host, b: Host) -> None:
    network.link = lambda sent: ()
    a.manager.make_child(a.sa, "net", network.now)
    network.flush(a)
    bad = sealed(b, CREATE, (Nonce(bytes(16)), Nonce(bytes(16))), message_id=2, is_response=True)
    give(network, a, bad, b.address)


def nothing_of_what_was_offered(network: Network, a: Host, b: Host) -> None:
    """B agrees to something else: it has its half already, and is told to delete it."""
    network.link = lambda sent: ()
    a.manager.make_child(a.sa, "net", network.now)
    network.flush(a)
    give(network, b, network.sent[-1].datagram.data, a.address)
    response = Reader(a.sa).read(network.sent[-1])
    network.link = lambda sent: (0.01,)
    notify = (*response, Notify(NotifyType.USE_TRANSPORT_MODE))
    give(network, a, sealed(b, CREATE, notify, message_id=2, is_response=True), b.address)
    network.run()
    assert len(b.installed) == 1


def busy_then_not(network: Network, a: Host, b: Host) -> None:
    """TEMPORARY_FAILURE: the second attempt has another SPI."""
    b.sa.is_closing_child = lambda child: network.now < 7  # type: ignore[method-assign]
    (child,) = a.installed.values()
    a.manager.rekey_child(child, network.now)
    network.run()


def deleted_before_it_was_heard_of(network: Network, a: Host, b: Host) -> None:
    network.link = lambda sent: ()
    a.manager.make_child(a.sa, "net", network.now)
    network.flush(a)
    give(network, b, network.sent[-1].datagram.data, a.address)
    response = network.sent[-1].datagram.data
    new = max(b.installed)
    give(network, a, sealed(b, INFO, (Delete.esp(new.to_bytes(4, "big")),), message_id=0), b.address)
    give(network, a, response, b.address)


@pytest.mark.parametrize(
    "way",
    [
        refused,
        no_spi_there,
        never_answered,
        ike_sa_deleted_meanwhile,
        malformed_response,
        nothing_of_what_was_offered,
        busy_then_not,
        deleted_before_it_was_heard_of,
    ],
    ids=lambda way: way.__name__.replace("_", " "),
)
def test_spi_of_a_child_sa_that_comes_to_nothing_is_given_back(way: Callable[[Network, Host, Host], None]) -> None:
    network, a, b = connected(a=TWO, b={"children": (child_config(),)})
    if way is refused:
        network, a, b = connected(
            a={
                "children": (
                    child_config(),
                    child_config("more", esp_proposals=(parse_esp_proposal("aes128-sha1"),)),
                )
            }
        )
    counted = Counted(a)
    way(network, a, b)
    assert counted.given
    ready = {event.child.spi_in for event in a.of(ChildSaReady)}  # type: ignore[attr-defined]
    assert counted.back == [spi for spi in counted.given if spi not in ready]
    assert counted.back
    assert not a.spis.reserved


def test_spi_of_a_pair_that_cannot_be_installed_is_given_back() -> None:
    network, a, b = connected()
    counted = Counted(b)
    b.refuse_install = "the system refuses"
    a.manager.make_child(a.sa, "net", network.now)
    network.run()
    assert counted.back == counted.given
    assert len(counted.back) == 1
    assert len(a.installed) == len(b.installed) == 1
    assert_agreed(a, b)


# --- CHILD_SA_NOT_FOUND ---


@pytest.mark.req("rfc7296-s2.25-06", "rfc7296-s2.25-05")
@pytest.mark.parametrize("window", [1, 4])
def test_child_sa_that_the_peer_does_not_have_goes_in_silence_and_is_made_from_scratch(window: int) -> None:
    network, a, b = connected(a={"window_size": window}, b={"window_size": window})
    (lost,) = b.sa.children.values()
    b.sa.remove_child(lost, "forgotten")
    (child,) = a.installed.values()
    reader = Reader(b.sa)
    before = len(network.sent)
    a.manager.rekey_child(child, network.now)
    network.run()
    asked = [sent for sent in network.sent[before:] if sent.sender is a]
    assert [parse(sent.datagram).header.exchange_type for sent in asked] == [CREATE, CREATE]  # no Delete
    told = [[one.notify_type for one in reader.read(sent) if isinstance(one, Notify)] for sent in asked]
    assert [NotifyType.REKEY_SA in types for types in told] == [True, False]
    (deleted,) = a.of(ChildSaDeleted)
    assert deleted.child == child  # type: ignore[attr-defined]
    assert len(a.installed) == 1
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s2.25-06")
def test_child_sa_that_the_peer_does_not_have_is_not_made_anew_when_it_was_to_be_closed() -> None:
    network, a, b = connected()
    (lost,) = b.sa.children.values()
    b.sa.remove_child(lost, "forgotten")
    (child,) = a.installed.values()
    a.manager.rekey_child(child, network.now)
    a.manager.delete_child(child, network.now)
    network.run()
    assert a.installed == b.installed == {}
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s2.25-06")
def test_child_sa_that_the_peer_has_deleted_meanwhile_is_not_made_anew() -> None:
    """It does not exist here any more either, and nobody wants another one."""
    network, a, b = connected()
    network.link = lambda sent: ()
    (child,) = a.installed.values()
    a.manager.rekey_child(child, network.now)
    network.flush(a)
    give(network, a, sealed(b, INFO, (Delete.esp(child.spi_out.to_bytes(4, "big")),), message_id=0), b.address)
    not_found = Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=ProtocolId.ESP, spi=child.spi_in.to_bytes(4, "big"))
    before = len(network.sent)
    give(network, a, sealed(b, CREATE, (not_found,), message_id=2, is_response=True), b.address)
    assert len(network.sent) == before
    assert a.installed == {}


# --- NO_ADDITIONAL_SAS ---


def refuse(sa: IkeSa, inbound: Inbound) -> tuple[Payload, ...]:
    raise NoAdditionalSas("a minimal implementation")


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody makes any further SA on an IKE SA, nor one in the place of another (RFC 7296 section 4)."""
    key = (State.ESTABLISHED, CREATE, Role.RESPONDER)
    monkeypatch.setitem(TRANSITIONS, key, replace(TRANSITIONS[key], handler=refuse))


def run_without_gap(network: Network, a: Host, b: Host) -> None:
    while (at := next_time(network, a, b)) is not None:
        network.run(at)
        assert at < 10_000
        assert_no_gap(a, b)


@pytest.mark.req("rfc7296-s4-06")
@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("what", ["child", "ike"])
def test_rekeying_that_a_minimal_peer_refuses_is_done_from_scratch(minimal: None, what: str, end: str) -> None:
    """The new IKE SA has its Child SA before the old one goes: the traffic does not stop."""
    network, a, b = connected()
    host = a if end == "a" else b
    old = (host.sa.spi_i, host.sa.spi_r)
    if what == "child":
        (child,) = host.installed.values()
        host.manager.rekey_child(child, network.now)
    else:
        host.manager.rekey(host.sa, network.now)
    run_without_gap(network, a, b)
    assert (host.sa.spi_i, host.sa.spi_r) != old
    assert len(a.installed) == len(b.installed) == 1
    (deleted,) = host.of(IkeSaDeleted)
    assert deleted.reason == "authenticated anew"  # type: ignore[attr-defined]
    (failed,) = host.of(ChildSaFailed if what == "child" else IkeSaRekeyFailed)
    assert failed.notify_type == NotifyType.NO_ADDITIONAL_SAS  # type: ignore[attr-defined]
    assert_agreed(a, b)


@pytest.mark.req("rfc7296-s4-06", "rfc7296-s2.8-02")
def test_peer_that_refuses_the_same_again_is_not_asked_for_ever() -> None:
    """Two Child SAs, and the peer allows one on each IKE SA: the old IKE SA stays, and there is one attempt."""
    network, a, b = connected(a=TWO, b=TWO, limits=Limits(child_sas=100))
    a.manager.make_child(a.sa, "more", network.now)
    network.run()
    b.manager.limits = replace(b.manager.limits, child_sas=0)
    b.sa.limits = b.manager.limits
    for child in list(a.installed.values()):
        a.manager.rekey_child(child, network.now)
    network.run()
    assert len(a.of(IkeSaEstablished)) == 2
    assert any("stays" in line for line in a.tracer.lines)
    assert len(a.manager.sas) == 2
    assert_agreed(a, b)


# --- Child SAs that look alike ---


@pytest.mark.req("rfc7296-s2.8-05")
def test_child_sa_with_the_same_traffic_selectors_as_another_is_no_reason_to_delete_that() -> None:
    network, a, b = connected()
    for host in (a, b):
        host.manager.make_child(host.sa, "net", network.now)
        network.run()
    selectors = {(child.ts_local, child.ts_remote) for child in a.installed.values()}
    assert len(selectors) == 1
    assert len(a.installed) == len(b.installed) == 3
    first = next(iter(a.installed.values()))
    a.manager.rekey_child(first, network.now)
    network.run()
    assert [event.child for event in a.of(ChildSaDeleted)] == [first]  # type: ignore[attr-defined]
    assert len(a.installed) == 3
    assert_agreed(a, b)
