"""CREATE_CHILD_SA for Child SAs: further ones, and make-before-break rekeying.

Initiator                         Responder
HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  -->
                             <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
HDR, SK {D}                  -->
                             <--  HDR, SK {D}
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from sim.craft import give, notify_types, opened, parse, sealed
from sim.network import (
    Delays,
    Host,
    Network,
    Sent,
    assert_joined,
    assert_nothing_left,
    child_config,
    connected,
    pair,
    up,
)

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import Limits
from ikev2.core.events import ChildSaDeleted, ChildSaFailed, ChildSaReady, ChildSaRekeyed
from ikev2.core.types import Mode
from ikev2.crypto.keymat import child_keymat
from ikev2.crypto.suites import numbered, parse_esp_proposal
from ikev2.errors import LocalProtocolError
from ikev2.iana import ExchangeType, IntegId, KeId, NotifyType, PayloadType, ProtocolId, TransformType
from ikev2.wire.payloads import (
    Delete,
    Ke,
    Nonce,
    Notify,
    Payload,
    Proposal,
    Sa,
    TrafficSelector,
    Transform,
    TsI,
    TsR,
)

CREATE = ExchangeType.CREATE_CHILD_SA
PFS = "aes256gcm16-curve25519"


def network_ts(text: str) -> tuple[TrafficSelector, ...]:
    return (TrafficSelector.from_network(ipaddress.ip_network(text)),)


def two_children(**changes: object) -> dict[str, dict[str, object]]:
    """Both ends have "net", made in IKE_AUTH, and "more" between two networks."""
    left, right = network_ts("10.1.0.0/16"), network_ts("10.2.0.0/16")
    more_a = child_config("more", local_ts=left, remote_ts=right, **changes)
    more_b = child_config("more", local_ts=right, remote_ts=left, **changes)
    return {"a": {"children": (child_config(), more_a)}, "b": {"children": (child_config(), more_b)}}


def esp(*keywords: str) -> dict[str, dict[str, object]]:
    """Both ends have the one child "net" with these ESP proposals."""
    child = child_config(esp_proposals=tuple(parse_esp_proposal(keyword) for keyword in keywords))
    return {"a": {"children": (child,)}, "b": {"children": (child,)}}


def the_child(host: Host) -> ChildSaParameters:
    (child,) = host.installed.values()
    return child


def ends(end: str, a: Host, b: Host) -> tuple[Host, Host]:
    return (a, b) if end == "a" else (b, a)


def created(network: Network, since: int) -> list[Sent]:
    return [sent for sent in network.sent[since:] if parse(sent.datagram).header.exchange_type == CREATE]


# --- new Child SAs ---


@pytest.mark.req("rfc7296-s2.8-06")
@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("keyword", ["aes256gcm16", PFS, "aes128-sha256-modp2048"])
def test_further_child_sa_with_and_without_pfs_begun_by_either_end(end: str, keyword: str) -> None:
    network, a, b = connected(**two_children(esp_proposals=(parse_esp_proposal(keyword),)))
    sender, receiver = ends(end, a, b)
    before = len(network.sent)
    sender.manager.make_child(sender.sa, "more", network.now)
    network.run()
    assert len(network.sent) == before + 2
    assert_joined(a, b)
    for host in (a, b):
        assert [child.name for child in host.installed.values()] == ["net", "more"]
        assert host.manager.next_timer() is None
        assert not any(event.standby for event in host.of(ChildSaReady))  # type: ignore[attr-defined]
    request = opened(receiver, network.sent[before].datagram)
    kinds = [payload.payload_type for payload in request]
    pfs = [PayloadType.KE] if keyword != "aes256gcm16" else []
    assert kinds == [PayloadType.SA, PayloadType.NONCE, *pfs, PayloadType.TSi, PayloadType.TSr]


@pytest.mark.req("rfc7296-s2.17-01", "rfc7296-s2.17-01a", "rfc7296-s2.17-02")
@pytest.mark.parametrize("end", ["a", "b"])
def test_keymat_of_a_further_child_sa_is_of_the_nonces_of_its_own_exchange(end: str) -> None:
    network, a, b = connected(**two_children(esp_proposals=(parse_esp_proposal("aes128-sha256"),)))
    sender, receiver = ends(end, a, b)
    before = len(network.sent)
    sender.manager.make_child(sender.sa, "more", network.now)
    network.run()
    nonces = [
        next(p.data for p in opened(reader, sent.datagram) if isinstance(p, Nonce))
        for reader, sent in zip((receiver, sender), network.sent[before:], strict=True)
    ]
    suite, keys = a.sa.need_keys()
    keymat = child_keymat(suite.prf, keys.sk_d, nonces[0], nonces[1], 2 * (16 + 32))
    (child,) = (child for child in sender.installed.values() if child.name == "more")
    assert child.encr_key_out.octets + child.integ_key_out.octets == keymat[:48]
    assert child.encr_key_in.octets + child.integ_key_in.octets == keymat[48:]


@pytest.mark.req("rfc7296-s2.17-01")
def test_with_pfs_the_shared_secret_is_in_keymat() -> None:
    network, a, b = connected(**esp(PFS))
    before = len(network.sent)
    a.manager.rekey_child(the_child(a), network.now)
    network.run()
    nonces = [
        next(p.data for p in opened(reader, sent.datagram) if isinstance(p, Nonce))
        for reader, sent in zip((b, a), network.sent[before : before + 2], strict=True)
    ]
    suite, keys = a.sa.need_keys()
    child = the_child(a)
    without = child_keymat(suite.prf, keys.sk_d, nonces[0], nonces[1], 72)
    assert child.suite.ke is not None
    assert child.encr_key_out.octets != without[:36]
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s1.3-01", "rfc7296-s1.3-02", "rfc7296-s1.3-03")
@pytest.mark.parametrize("end", ["a", "b"])
def test_responder_that_wants_another_group_says_so_and_gets_it(end: str) -> None:
    """HDR, SK {SA, Ni, KEi(31), ..} --> <-- HDR, SK {N(INVALID_KE_PAYLOAD, 19)}; again with KEi(19)"""
    both = child_config(esp_proposals=(parse_esp_proposal("aes256gcm16-curve25519-ecp256"),))
    one = child_config(esp_proposals=(parse_esp_proposal("aes256gcm16-ecp256"),))
    options = {"a": both, "b": one} if end == "a" else {"a": one, "b": both}
    network, a, b = connected(**{name: {"children": (child,)} for name, child in options.items()})
    sender, receiver = ends(end, a, b)
    before = len(network.sent)
    sender.manager.rekey_child(the_child(sender), network.now)
    network.run()
    exchange = created(network, before)
    assert len(exchange) == 4
    groups = [next(p.group for p in opened(receiver, sent.datagram) if isinstance(p, Ke)) for sent in exchange[::2]]
    assert groups == [KeId.CURVE25519, KeId.ECP_256]
    offered = next(p for p in opened(receiver, exchange[0].datagram) if isinstance(p, Sa))
    assert groups[0] in {transform.id for transform in offered.proposals[0].transforms}
    (refusal,) = opened(sender, exchange[1].datagram)
    assert refusal == Notify(NotifyType.INVALID_KE_PAYLOAD, (19).to_bytes(2, "big"))
    assert the_child(a).suite.ke.id == KeId.ECP_256  # type: ignore[union-attr]
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s1.3.1-03")
def test_refused_child_sa_leaves_the_ike_sa_as_it_is() -> None:
    options = two_children()
    options["b"] = {}
    network, a, b = connected(**options)
    a.manager.make_child(a.sa, "more", network.now)
    network.run()
    (failed,) = a.of(ChildSaFailed)
    assert (failed.name, failed.notify_type) == ("more", NotifyType.TS_UNACCEPTABLE)  # type: ignore[attr-defined]
    assert_joined(a, b)
    with pytest.raises(LocalProtocolError):
        a.manager.make_child(a.sa, "nothing", network.now)


def test_no_more_child_sas_than_are_allowed_but_rekeying_is() -> None:
    network, a, b = connected(**two_children(), limits=Limits(child_sas=1))
    a.manager.make_child(a.sa, "more", network.now)
    network.run()
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.NO_ADDITIONAL_SAS  # type: ignore[attr-defined]
    a.manager.rekey_child(the_child(a), network.now)
    network.run()
    assert len(a.of(ChildSaRekeyed)) == 1
    assert_joined(a, b)


def test_spi_that_cannot_be_had_fails_the_child_and_nothing_else() -> None:
    network, a, b = connected(**two_children())
    for sender, blocked, notify_type in ((a, a, None), (a, b, NotifyType.NO_ADDITIONAL_SAS)):
        blocked.spis.problem = LocalProtocolError("no SPI left")
        sender.manager.make_child(sender.sa, "more", network.now)
        network.run()
        blocked.spis.problem = None
        assert sender.of(ChildSaFailed)[-1].notify_type == notify_type  # type: ignore[attr-defined]
        assert_joined(a, b)


# --- rekeying ---


@pytest.mark.req("rfc7296-s1.3.3-01", "rfc7296-s2.8-03", "rfc7296-s2.8-06")
@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("keyword", ["aes256gcm16", PFS])
def test_rekeying_makes_the_new_pair_before_it_breaks_the_old_one(end: str, keyword: str) -> None:
    network, a, b = connected(**esp(keyword))
    sender, receiver = ends(end, a, b)
    old = {host.name: the_child(host) for host in (a, b)}
    before = len(network.sent)
    sender.manager.rekey_child(old[sender.name], network.now)
    network.run()
    assert len(network.sent) == before + 4
    assert_joined(a, b)
    for host in (a, b):
        new = the_child(host)
        assert new.spi_in != old[host.name].spi_in
        assert new.encr_key_in != old[host.name].encr_key_in
        assert (new.ts_local, new.ts_remote) == (old[host.name].ts_local, old[host.name].ts_remote)
        assert new.suite.encr == old[host.name].suite.encr
        assert new.reqid == old[host.name].reqid
        assert host.events[-3:] == [
            ChildSaReady(new, standby=host is receiver),
            ChildSaRekeyed(old[host.name], new),
            ChildSaDeleted(old[host.name], "rekeyed" if host is sender else "the peer deleted it"),
        ]
        assert host.manager.next_timer() is None
    request = opened(receiver, network.sent[before].datagram)
    spi = old[sender.name].spi_in.to_bytes(4, "big")
    assert request[0] == Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=spi)
    assert opened(receiver, network.sent[before + 2].datagram) == (Delete.esp(spi),)
    assert next(p for p in request if isinstance(p, TsI)).selectors == old[sender.name].ts_local
    assert next(p for p in request if isinstance(p, TsR)).selectors == old[sender.name].ts_remote


def test_responder_of_a_rekeying_sends_on_the_old_pair_until_it_is_deleted() -> None:
    """RFC 7296 section 2.8: the initiator is surely ready when it deletes the old pair."""
    network, a, b = connected()
    cut = len(network.sent) + 2
    network.link = lambda sent: (0.01,) if sent.number < cut else ()
    a.manager.rekey_child(the_child(a), network.now)
    network.run(network.now + 0.5)
    assert len(a.installed) == len(b.installed) == 2
    assert [type(event) for event in a.events[-2:]] == [ChildSaReady, ChildSaRekeyed]
    assert b.events[-1] == ChildSaReady(list(b.installed.values())[-1], standby=True)
    assert not b.of(ChildSaRekeyed)
    network.link = lambda sent: (0.01,)
    network.run()
    assert_joined(a, b)


def test_rekeying_again_and_again() -> None:
    network, a, b = connected(**esp(PFS))
    for number in range(6):
        host = (a, b)[number % 2]
        host.manager.rekey_child(the_child(host), network.now)
        network.run()
        assert_joined(a, b)
    a.manager.delete(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)


def test_asking_twice_rekeys_once() -> None:
    network, a, _ = connected()
    child = the_child(a)
    a.manager.rekey_child(child, network.now)
    a.manager.rekey_child(child, network.now)
    network.run()
    assert len(a.of(ChildSaRekeyed)) == 1
    with pytest.raises(LocalProtocolError):
        a.manager.rekey_child(child, network.now)


@pytest.mark.parametrize("end", ["a", "b"])
def test_transport_mode_stays_transport_mode(end: str) -> None:
    child = child_config(mode=Mode.TRANSPORT)
    network, a, b = connected(a={"children": (child,)}, b={"children": (child,)})
    sender, receiver = ends(end, a, b)
    before = len(network.sent)
    sender.manager.rekey_child(the_child(sender), network.now)
    network.run()
    types = notify_types(opened(receiver, network.sent[before].datagram))
    assert types == [NotifyType.REKEY_SA, NotifyType.USE_TRANSPORT_MODE]
    assert the_child(a).mode is the_child(b).mode is Mode.TRANSPORT
    assert_joined(a, b)


def test_selectors_in_use_are_offered_also_when_the_configuration_allows_more() -> None:
    wide = child_config(local_ts=network_ts("0.0.0.0/0"), remote_ts=network_ts("0.0.0.0/0"))
    network, a, b = connected(a={"children": (wide,)})
    before = the_child(a)
    a.manager.rekey_child(before, network.now)
    network.run()
    assert (the_child(a).ts_local, the_child(a).ts_remote) == (before.ts_local, before.ts_remote)
    assert_joined(a, b)


def test_rekeying_into_narrower_selectors_is_refused() -> None:
    """RFC 7296 section 2.9.2: the responder must not narrow what is in use."""
    network, a, b = connected(**two_children())
    a.manager.make_child(a.sa, "more", network.now)
    network.run()
    (child,) = (child for child in a.sa.children.values() if child.params.name == "more")
    from dataclasses import replace

    child.params = replace(child.params, ts_local=network_ts("10.1.2.0/24"))
    a.manager.rekey_child(child.params, network.now)
    network.run()
    (failed,) = a.of(ChildSaFailed)
    assert failed.notify_type == NotifyType.TS_UNACCEPTABLE  # type: ignore[attr-defined]
    assert len(a.sa.children) == len(b.sa.children) == 2


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_any_lost_message_is_made_good(lost: int) -> None:
    network, a, b = connected()
    gone = len(network.sent) + lost - 1

    def link(sent: Sent) -> Delays:
        return () if sent.number == gone else (0.01,)

    network.link = link
    a.manager.rekey_child(the_child(a), network.now)
    network.run()
    assert len(a.of(ChildSaRekeyed)) == len(b.of(ChildSaRekeyed)) == 1
    assert_joined(a, b)


def test_new_pair_that_the_responder_takes_back_at_once_is_not_installed() -> None:
    """The Delete overtakes the response."""
    network, a, b = pair()
    up(network, a, until=5.0)
    old = the_child(a)
    b.refuse_install = "no room"
    response = len(network.sent) + 1
    network.link = lambda sent: (1.0 if sent.number == response else 0.01,)
    a.manager.rekey_child(old, network.now)
    network.run()
    assert the_child(a) == old
    assert_joined(a, b)
    (failed,) = a.of(ChildSaFailed)
    assert "deleted" in failed.reason  # type: ignore[attr-defined]


def test_new_pair_that_the_initiator_cannot_install_leaves_the_old_one() -> None:
    """The old pair is deleted when the new one is installed, and not before: there is no moment without a pair."""
    network, a, b = pair()
    up(network, a, until=5.0)
    old, at_b = the_child(a), the_child(b)
    a.refuse_install = "no room"
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 2.0)
    assert (the_child(a), the_child(b)) == (old, at_b)
    assert_joined(a, b)
    assert not a.of(ChildSaRekeyed)
    (failed,) = a.of(ChildSaFailed)
    assert failed.reason == "no room"  # type: ignore[attr-defined]
    assert len(b.of(ChildSaReady)) == 2
    assert len(b.of(ChildSaDeleted)) == 1
    a.refuse_install = None
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 2.0)
    assert the_child(a) != old
    assert len(a.of(ChildSaRekeyed)) == len(b.of(ChildSaRekeyed)) == 1
    assert_joined(a, b)


def test_delete_of_the_old_pair_waits_until_the_new_one_is_installed() -> None:
    network, a, b = pair()
    up(network, a, until=5.0)
    old = the_child(a)
    network.link = lambda sent: () if sent.sender is b else (0.01,)
    a.manager.rekey_child(old, network.now)
    network.run(network.now + 0.05)
    response = network.sent[-1].datagram
    assert network.sent[-1].sender is b
    a.manager.receive_datagram(response.data, a.address, b.address, network.now)
    assert a.manager.datagrams_to_send() == []
    ready = a.manager.next_event()
    assert isinstance(ready, ChildSaReady)
    assert a.manager.datagrams_to_send() == []
    rekeyed = a.manager.next_event()
    assert rekeyed == ChildSaRekeyed(old, ready.child)
    (delete,) = a.manager.datagrams_to_send()
    assert opened(b, delete)[0] == Delete.esp(old.spi_in.to_bytes(4, "big"))


# --- a group of NONE, and AH beside ESP ---


def asked_again(network: Network, a: Host, b: Host, offer: Sa, *more: Payload) -> tuple[tuple[Payload, ...], bytes]:
    """A asks for a further Child SA with this offer; B's answer, and A's nonce."""
    nonce = Nonce(bytes(range(32)))
    ts_i, ts_r = network_ts("192.0.2.1/32"), network_ts("192.0.2.2/32")
    number = b.sa.responses.expected_id
    give(network, b, sealed(a, CREATE, (offer, nonce, *more, TsI(ts_i), TsR(ts_r)), message_id=number), a.address)
    return opened(a, network.sent[-1].datagram), nonce.data


@pytest.mark.req("rfc7296-s3.3.6-12")
def test_responder_that_chooses_the_group_none_ignores_the_ke_payload_and_sends_none() -> None:
    """HDR, SK {SA(curve25519 or NONE), Ni, KEi, TSi, TSr}  -->  <--  HDR, SK {SA(NONE), Nr, TSi, TSr}"""
    network, a, b = connected()
    (offer,) = numbered([parse_esp_proposal("aes256gcm16-curve25519-modpnone")], b"\0\0\x12\x34")
    before = set(b.installed)
    answer, nonce_i = asked_again(network, a, b, Sa((offer,)), Ke(KeId.CURVE25519, bytes(range(32))))
    (chosen,) = (item.proposals[0] for item in answer if isinstance(item, Sa))
    assert [int(item.id) for item in chosen.of_type(TransformType.KE)] == [KeId.NONE]
    assert not any(isinstance(item, Ke) for item in answer)
    (nonce_r,) = (item.data for item in answer if isinstance(item, Nonce))
    (new,) = (child for spi, child in b.installed.items() if spi not in before)
    suite, keys = b.sa.need_keys()
    keymat = child_keymat(suite.prf, keys.sk_d, nonce_i, nonce_r, new.suite.keymat_octets)  # without g^ir
    assert new.encr_key_in.octets == keymat[: len(new.encr_key_in.octets)]


@pytest.mark.req("rfc7296-s2.17-01b")
def test_of_ah_and_esp_one_protocol_is_chosen_and_keymat_is_all_for_it() -> None:
    """Each proposal has one protocol (section 3.3.1); AH is none of ours, so the second proposal is chosen."""
    network, a, b = connected()
    (esp_offer,) = numbered([parse_esp_proposal("aes256gcm16")], b"\0\0\x12\x34")
    integrity = Transform.of(TransformType.INTEG, IntegId.HMAC_SHA2_256_128)
    ah = Proposal(1, ProtocolId.AH, b"\0\0\x56\x78", (integrity, Transform.of(TransformType.ESN, 0)))
    before = set(b.installed)
    answer, nonce_i = asked_again(network, a, b, Sa((ah, replace(esp_offer, number=2))))
    (chosen,) = (item.proposals[0] for item in answer if isinstance(item, Sa))
    assert (chosen.number, chosen.protocol) == (2, ProtocolId.ESP)
    (nonce_r,) = (item.data for item in answer if isinstance(item, Nonce))
    (new,) = (child for spi, child in b.installed.items() if spi not in before)
    suite, keys = b.sa.need_keys()
    keymat = child_keymat(suite.prf, keys.sk_d, nonce_i, nonce_r, new.suite.keymat_octets)
    assert new.encr_key_in.octets + new.encr_key_out.octets == keymat
    alone, _ = asked_again(network, a, b, Sa((ah,)))
    assert notify_types(alone) == [NotifyType.NO_PROPOSAL_CHOSEN]
