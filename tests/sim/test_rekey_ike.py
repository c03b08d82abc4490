"""CREATE_CHILD_SA for the IKE SA itself.

Initiator                         Responder
HDR, SK {SA, Ni, KEi}  -->
                             <--  HDR, SK {SA, Nr, KEr}
HDR, SK {D}            -->
                             <--  HDR, SK {}
"""

from __future__ import annotations

import pytest
from sim.craft import give, notify_types, parse
from sim.network import (
    Delays,
    Host,
    Network,
    Sent,
    assert_joined,
    assert_nothing_left,
    connected,
    pair,
    proposals,
    up,
)

from ikev2.core.channel import Plain, SecureChannel
from ikev2.core.events import (
    ChildSaDeleted,
    IkeSaDeleted,
    IkeSaRekeyed,
    IkeSaRekeyFailed,
    PeerAlive,
)
from ikev2.core.exporter import KeyExporter
from ikev2.core.ike_sa import IkeSa
from ikev2.core.state import State
from ikev2.core.types import Datagram, Role
from ikev2.crypto.keymat import derive_ike_keys_rekey
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType, KeId, NotifyType, PayloadType, ProtocolId, TransformType
from ikev2.wire.payloads import Delete, Ke, Nonce, Notify, Payload, Proposal, Sa, Transform

CREATE = ExchangeType.CREATE_CHILD_SA
INFO = ExchangeType.INFORMATIONAL


def ends(end: str, a: Host, b: Host) -> tuple[Host, Host]:
    return (a, b) if end == "a" else (b, a)


def read(sa: IkeSa, datagram: Datagram) -> tuple[Payload, ...]:
    """What is in a message to this end of an IKE SA whose channel was kept."""
    assert sa.channel is not None
    return sa.channel.open(datagram.data, parse(datagram))


class Keeper:
    """Opens messages of an IKE SA also when it is closed."""

    def __init__(self, sa: IkeSa) -> None:
        assert sa.channel is not None
        self.channel = sa.channel

    def read(self, datagram: Datagram) -> tuple[Payload, ...]:
        return self.channel.open(datagram.data, parse(datagram))


@pytest.mark.req("rfc7296-s2.8-04", "rfc7296-s2.18-04", "rfc7296-s2.18-01", "rfc7296-s1.3.2-01")
@pytest.mark.parametrize("end", ["a", "b"])
def test_rekeying_moves_the_child_sas_and_deletes_the_old_ike_sa(end: str) -> None:
    network, a, b = connected()
    sender, receiver = ends(end, a, b)
    old, keeper = sender.sa, Keeper(receiver.sa)
    spis, keys = (old.spi_i, old.spi_r), old.keys
    children = {host.name: dict(host.installed) for host in (a, b)}
    before = len(network.sent)
    sender.manager.rekey(old, network.now)
    network.run(network.now + 3.0)
    assert len(network.sent) == before + 4
    assert_joined(a, b)
    new = sender.sa
    assert new is not old
    assert (new.role, receiver.sa.role) == (Role.INITIATOR, Role.RESPONDER)
    assert {new.spi_i, new.spi_r}.isdisjoint(spis)
    assert keys is not None
    assert new.keys is not None
    assert new.keys.sk_d != keys.sk_d
    assert (new.requests.next_id, new.responses.expected_id) == (0, 0)
    assert (new.local_id, new.peer_id) == (old.local_id, old.peer_id)
    for host in (a, b):
        assert host.installed == children[host.name]
        kinds = [type(event) for event in host.events]
        assert kinds[-2:] == [IkeSaRekeyed, IkeSaDeleted]
        assert ChildSaDeleted not in kinds
        for child in host.sa.children.values():
            assert (child.params.ike_spi_i, child.params.ike_spi_r) == (new.spi_i, new.spi_r)
    request = keeper.read(network.sent[before].datagram)
    assert [p.payload_type for p in request] == [PayloadType.SA, PayloadType.NONCE, PayloadType.KE]
    assert keeper.read(network.sent[before + 2].datagram) == (Delete.ike(),)
    # The new one works in both directions, from message id 0 on.
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
        network.run(network.now + 3.0)
        assert parse(network.sent[-1].datagram).header.message_id == 0
        assert type(host.events[-1]) is PeerAlive
    network.run()
    for host in (a, b):
        assert host.manager.remembered == 1
        assert host.manager.next_timer() is None


@pytest.mark.req("rfc7296-s2.18-01")
def test_skeyseed_is_made_with_the_old_prf_and_the_old_sk_d() -> None:
    """The new IKE SA has another prf: the old one's makes SKEYSEED."""
    one, two = "aes256gcm16-prfsha256-curve25519", "aes128gcm16-prfsha512-curve25519"
    network, a, b = pair(a={"proposals": proposals(one)}, b={"proposals": proposals(one, two)})
    old = up(network, a)
    from dataclasses import replace

    old.connection = replace(old.connection, proposals=proposals(two))  # type: ignore[arg-type]
    keepers = (Keeper(b.sa), Keeper(old))
    old_suite, old_keys = old.need_keys()
    shared = []
    before = len(network.sent)
    a.manager.rekey(old, network.now)
    request = old.purpose_in_flight
    secret_of = request.pair.shared_secret  # type: ignore[attr-defined]
    network.run()
    request_payloads, response_payloads = (
        keeper.read(sent.datagram) for keeper, sent in zip(keepers, network.sent[before:], strict=False)
    )
    ni, nr = (next(p.data for p in ps if isinstance(p, Nonce)) for ps in (request_payloads, response_payloads))
    ke = next(p for p in response_payloads if isinstance(p, Ke))
    shared.append(secret_of(ke.data))
    suite, keys = a.sa.need_keys()
    assert (old_suite.prf.name, suite.prf.name) == ("hmac-sha2-256", "hmac-sha2-512")
    expected = derive_ike_keys_rekey(suite, old_suite.prf, old_keys.sk_d, shared[0], ni, nr, a.sa.spi_i, a.sa.spi_r)
    assert keys == expected
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s1.3-03")
def test_group_that_the_responder_wants_is_used_in_the_second_try() -> None:
    one = {"proposals": proposals("aes256gcm16-prfsha256-curve25519-ecp256")}
    network, a, b = pair(a=one, b=one)
    up(network, a)
    from dataclasses import replace

    b.sa.connection = replace(b.sa.connection, proposals=proposals("aes256gcm16-prfsha256-ecp256"))  # type: ignore[arg-type]
    a.manager.rekey(a.sa, network.now)
    network.run()
    assert a.sa.suite is not None
    assert a.sa.suite.ke.id == KeId.ECP_256
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.18-02", "rfc7296-s2.18-03")
def test_group_none_is_neither_proposed_nor_accepted() -> None:
    from dataclasses import replace

    network, a, b = connected()
    none = Transform.of(TransformType.KE, KeId.NONE)
    (proposal,) = a.sa.connection.proposals
    with_none = replace(proposal, transforms=(*proposal.transforms, none))
    a.sa.connection = replace(a.sa.connection, proposals=(with_none,))
    keeper = Keeper(b.sa)
    before = len(network.sent)
    a.manager.rekey(a.sa, network.now)
    network.run()
    offered = next(p for p in keeper.read(network.sent[before].datagram) if isinstance(p, Sa))
    assert none not in offered.proposals[0].transforms
    assert_joined(a, b)
    # The other end, for its part, does not choose it.
    only_none = tuple(t for t in proposal.transforms if t.type != TransformType.KE)
    offer = Proposal(1, ProtocolId.IKE, b"spi of a", (*only_none, none))
    assert a.sa.channel is not None
    for payloads in (
        (Sa((offer,)), Nonce(bytes(32))),
        (Sa((offer,)), Nonce(bytes(32)), Ke(KeId.NONE, b"x")),
        (Sa((offer,)), Nonce(bytes(32)), Ke(KeId.CURVE25519, bytes(32))),
    ):
        network, a, b = connected()
        data = a.sa.channel.seal(CREATE, a.sa.requests.next_id, payloads, is_response=False)
        give(network, b, data, a.address)
        assert not b.of(IkeSaRekeyed)


def test_refusal_leaves_everything_as_it_is() -> None:
    from dataclasses import replace

    network, a, b = connected()
    b.sa.connection = replace(b.sa.connection, proposals=proposals("aes128-sha256-modp2048"))  # type: ignore[arg-type]
    a.manager.rekey(a.sa, network.now)
    network.run()
    (failed,) = a.of(IkeSaRekeyFailed)
    assert failed.notify_type == NotifyType.NO_PROPOSAL_CHOSEN  # type: ignore[attr-defined]
    assert a.sa.state is b.sa.state is State.ESTABLISHED
    assert_joined(a, b)


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ["a", "b"])
def test_any_lost_message_is_made_good(end: str, lost: int) -> None:
    network, a, b = connected()
    sender, _ = ends(end, a, b)
    gone = len(network.sent) + lost - 1

    def link(sent: Sent) -> Delays:
        return () if sent.number == gone else (0.01,)

    network.link = link
    sender.manager.rekey(sender.sa, network.now)
    network.run()
    assert_joined(a, b)
    for host in (a, b):
        assert len(host.of(IkeSaRekeyed)) == 1
        assert host.manager.remembered == 1


def test_what_was_to_be_done_is_done_on_the_new_ike_sa() -> None:
    """Both ends have work in their queues when the IKE SA is replaced."""
    network, a, b = connected()
    a.manager.rekey(a.sa, network.now)
    a.manager.rekey_child(next(iter(a.installed.values())), network.now)
    old = a.sa
    network.run()
    assert a.sa is not old
    assert a.sa.requests.next_id == 2
    assert_joined(a, b)


def test_delete_asked_for_while_rekeying_deletes_the_new_one_as_well() -> None:
    network, a, b = connected()
    sa = a.sa
    a.manager.rekey(sa, network.now)
    network.flush(a)
    a.manager.delete(sa, network.now)
    network.run()
    assert_nothing_left(a, b)


def test_old_ike_sa_that_the_peer_forgets_to_delete_is_deleted_here() -> None:
    network, a, b = connected()
    a.manager.rekey(a.sa, network.now)
    network.flush(a)
    network.run(network.now + 0.015)
    assert {sa.state for sa in b.manager.sas} == {State.REKEYED, State.ESTABLISHED}
    for sa in a.manager.sas:
        sa.requests.outstanding.clear()  # A forgets that it asked
    network.run()
    assert [sa.state for sa in b.manager.sas] == [State.ESTABLISHED]


def test_only_an_ike_sa_with_a_peer_can_be_rekeyed() -> None:
    _, a, _ = pair()
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    with pytest.raises(LocalProtocolError):
        a.manager.rekey(sa, 0.0)


# --- the exporter ---


def test_secret_of_the_new_ike_sa_differs_and_old_handles_live_on() -> None:
    network, a, b = connected()
    exporters = {host.name: KeyExporter(host.manager) for host in (a, b)}
    old_spis = (a.sa.spi_i, a.sa.spi_r)
    held = exporters["a"].open(old_spis)
    before = held.secret(b"IPPM")
    b.manager.rekey(b.sa, network.now)
    network.run(network.now + 3.0)
    new_spis = (a.sa.spi_i, a.sa.spi_r)
    after = {name: exporter.open(new_spis).secret(b"IPPM") for name, exporter in exporters.items()}
    assert after["a"] == after["b"] != before
    assert held.secret(b"IPPM") == before
    # Whoever asks for the old SPIs now is served from the cache, for a while; by address it is the new one.
    assert exporters["b"].open(old_spis).secret(b"IPPM") == before
    assert (exporters["a"].open(b.host).spi_i, exporters["a"].open(b.host).spi_r) == new_spis
    handle = exporters["a"].open(new_spis, "keymat-sid")
    assert handle.child_spi in {child.spi_out for child in a.installed.values()}
    network.run(network.now + 100)
    with pytest.raises(Exception, match="no established IKE SA"):
        exporters["b"].open(old_spis)


# --- section 2.25.2 ---


def ask(
    network: Network, sender: Host, receiver: Host, sa: IkeSa, exchange: ExchangeType, *payloads: Payload
) -> tuple[Payload, ...]:
    """An authentic request that the sender's core does not know of, and what the response holds."""
    assert sa.channel is not None
    lost = sa.requests.in_flight
    number = sa.requests.next_id if lost is None else lost.message_id
    data = sa.channel.seal(exchange, number, payloads, is_response=False)
    sa.requests.next_id = number + 1
    before = len(network.sent)
    give(network, receiver, data, sender.address)
    responses = [sent.datagram for sent in network.sent[before:] if parse(sent.datagram).header.is_response]
    return read(sa, responses[0])


@pytest.mark.req("rfc7296-s2.25.2-06", "rfc7296-s2.25-01")
def test_child_sa_wanted_while_we_rekey_the_ike_sa_is_temporary_failure() -> None:
    from sim.test_informational import new_child

    network, a, b = connected()
    network.link = lambda sent: ()
    b.manager.rekey(b.sa, network.now)
    network.flush(b)
    (child,) = a.installed.values()
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=child.spi_in.to_bytes(4, "big"))
    for payloads in (new_child(a), new_child(a, rekey)):
        assert notify_types(ask(network, a, b, a.sa, CREATE, *payloads)) == [NotifyType.TEMPORARY_FAILURE]
    assert b.sa.state is State.REKEYING


@pytest.mark.req("rfc7296-s2.25.2-07")
def test_delete_of_a_child_sa_while_we_rekey_the_ike_sa_is_answered_as_usual() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    b.manager.rekey(b.sa, network.now)
    network.flush(b)
    (child,) = a.installed.values()
    spi = child.spi_in.to_bytes(4, "big")
    assert ask(network, a, b, a.sa, INFO, Delete.esp(spi)) == (Delete.esp(child.spi_out.to_bytes(4, "big")),)
    assert b.installed == {}


@pytest.mark.req("rfc7296-s2.25.2-04")
def test_delete_of_the_ike_sa_while_we_rekey_it_ends_our_rekeying() -> None:
    network, a, b = connected()
    network.link = lambda sent: ()
    b.manager.rekey(b.sa, network.now)
    network.flush(b)
    assert ask(network, a, b, a.sa, INFO, Delete.ike()) == ()
    assert b.manager.sas == []
    assert b.installed == {}
    sent = len(network.sent)
    network.run()
    assert len([one for one in network.sent[sent:] if one.sender is b]) == 0


@pytest.mark.req("rfc7296-s2.25.1-08", "rfc7296-s2.25-02", "rfc7296-s2.25-03")
@pytest.mark.parametrize("what", ["rekey", "delete"])
def test_rekeying_of_the_ike_sa_waits_while_the_peer_works_on_a_child_sa(what: str) -> None:
    network, a, b = connected()
    (child,) = a.installed.values()
    if what == "rekey":
        a.manager.rekey_child(child, network.now)
    else:
        a.manager.delete_child(child, network.now)
    network.flush(a)
    b.manager.rekey(b.sa, network.now)
    network.flush(b)
    keeper, old = Keeper(b.sa), b.sa
    before = len(network.sent)
    network.run(network.now + 4.9)
    answers = [
        keeper.read(sent.datagram)
        for sent in network.sent[before:]
        if sent.sender is a and parse(sent.datagram).header.is_response
    ]
    assert notify_types(answers[0]) == [NotifyType.TEMPORARY_FAILURE]
    # Nothing more for at least the time to wait, then it works.
    assert b.sa is old
    assert old.state is State.ESTABLISHED
    network.run()
    assert b.sa is not old
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.25-04")
def test_peer_that_is_busy_for_minutes_is_given_up() -> None:
    network, a, b = connected()
    b.sa.is_busy_with_children = lambda: True  # type: ignore[method-assign]
    a.manager.rekey(a.sa, network.now)
    network.run()
    assert 180 <= network.now < 300
    assert_nothing_left(a, b)
    assert "busy" in a.of(IkeSaDeleted)[0].reason  # type: ignore[attr-defined]


@pytest.mark.req("rfc7296-s2.8.2-03")
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_rekeying_of_an_ike_sa_that_has_been_replaced_is_temporary_failure(role: str) -> None:
    network, a, b = connected()
    asked, asking = (a, b) if role == "initiator" else (b, a)
    old = {host.name: host.sa for host in (a, b)}
    offer = Sa((Proposal(1, ProtocolId.IKE, b"spi of x", old["a"].connection.proposals[0].transforms),))
    payloads = (offer, Nonce(bytes(32)), Ke(KeId.CURVE25519, bytes([9]) + bytes(31)))
    a.manager.rekey(a.sa, network.now)
    before = len(network.sent)
    # Cut off before the Delete of the old one arrives.
    network.link = lambda sent: (0.01,) if sent.number < before + 2 else ()
    network.flush(a)
    network.run(network.now + 0.1)
    assert old[asked.name].state is (State.DELETING if asked is a else State.REKEYED)
    answer = ask(network, asking, asked, old[asking.name], CREATE, *payloads)
    assert notify_types(answer) == [NotifyType.TEMPORARY_FAILURE]


@pytest.mark.req("rfc7296-s2.25.1-06")
def test_delete_of_a_child_sa_that_we_rekey_is_answered_with_a_delete() -> None:
    network, a, b = connected()
    (child,) = b.installed.values()
    network.link = lambda sent: ()
    b.manager.rekey_child(child, network.now)
    network.flush(b)
    answer = ask(network, a, b, a.sa, INFO, Delete.esp(child.spi_out.to_bytes(4, "big")))
    assert answer == (Delete.esp(child.spi_in.to_bytes(4, "big")),)
    assert b.installed == {}


@pytest.mark.parametrize("crossing", [False, True])
def test_malformed_answer_to_a_rekeying_does_not_leave_the_ike_sa_waiting_for_ever(
    monkeypatch: pytest.MonkeyPatch, crossing: bool
) -> None:
    """It is authentic, so that no other will come: the IKE SA is deleted, or that of the peer's exchange stays."""
    network, a, b = connected()
    plain, channel = SecureChannel.prepare, b.sa.channel

    def prepare(
        self: SecureChannel, kind: ExchangeType, number: int, payloads: tuple[Payload, ...], **flags: bool
    ) -> Plain:
        if self is channel and kind == CREATE and flags["is_response"]:
            payloads = tuple(payload for payload in payloads if not isinstance(payload, Nonce))
        return plain(self, kind, number, payloads, **flags)

    monkeypatch.setattr(SecureChannel, "prepare", prepare)
    old = a.sa
    a.manager.rekey(old, network.now)
    if crossing:
        b.manager.rekey(b.sa, network.now)
    network.run(network.now + 3.0)
    assert len(a.of(IkeSaRekeyFailed)) == 1
    assert len(a.of(IkeSaRekeyed)) == crossing
    assert old.state is State.CLOSED if not crossing else old.state in (State.REKEYED, State.CLOSED)
    assert any(event.ike_sa.spi_i == old.spi_i for event in b.of(IkeSaDeleted)) is not crossing  # type: ignore[attr-defined]
    assert a.manager.internal_errors == b.manager.internal_errors == 0
