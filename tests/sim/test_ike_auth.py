"""IKE_AUTH: who proves what, what fails the IKE SA, and what fails only the Child SA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sim.craft import clear_of, give, last_sent, notify_types, opened, parse, sealed, unknown
from sim.network import (
    A,
    B,
    Host,
    Network,
    SeededEntropy,
    assert_joined,
    assert_nothing_left,
    child_config,
    connection,
    pair,
    proposals,
    up,
)

from ikev2.core.config import ConnectionConfig, Identity, SharedKey
from ikev2.core.events import ChildSaFailed, ChildSaReady, IkeSaDeleted, IkeSaEstablished, IkeSaFailed
from ikev2.core.identity import parse_peer
from ikev2.core.transitions import State
from ikev2.core.types import Mode
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal
from ikev2.errors import BackendError
from ikev2.iana import AuthMethod, EapCode, ExchangeType, IdType, NotifyType
from ikev2.wire.payloads import Auth, Delete, Eap, IdI, IdR, Notify, Payload, Sa, TrafficSelector, TsI, TsR

AUTH_EXCHANGE = ExchangeType.IKE_AUTH
OTHER_PSK = SecretOctets("PSK", b"not the same secret")


def half_open(**options: object) -> tuple[Network, Host, Host, tuple[Payload, ...]]:
    """Both ends have done IKE_SA_INIT; also what A's IKE_AUTH request holds, which B has not seen."""
    network, a, b = pair(link=lambda sent: (0.01,) if sent.number < 2 else (), **options)  # type: ignore[arg-type]
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.5)
    assert (a.sa.state, b.sa.state) == (State.AUTH_SENT, State.HALF_OPEN)
    request = network.sent[-1].datagram
    from ikev2.core.exchanges import ike_sa_init

    ike_sa_init.derive_late(b.sa)
    return network, a, b, opened(b, request)


def tampered(
    network: Network,
    sender: Host,
    exchange: ExchangeType,
    change: Callable[[tuple[Payload, ...]], tuple[Payload, ...]],
) -> None:
    """Let a host send other payloads than it means to, under its own keys, in messages of one exchange."""
    from ikev2.core.channel import Plain, SecureChannel

    plain = SecureChannel.prepare

    def prepare(
        self: SecureChannel, kind: ExchangeType, number: int, payloads: tuple[Payload, ...], **flags: bool
    ) -> Plain:
        mine = sender.manager.sas and sender.sa.channel is self
        return plain(self, kind, number, change(payloads) if mine and kind == exchange else payloads, **flags)

    network.patch.setattr(SecureChannel, "prepare", prepare)  # type: ignore[attr-defined]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Network, Host, Host]]:
    def make(**options: object) -> tuple[Network, Host, Host]:
        network, a, b = pair(**options)  # type: ignore[arg-type]
        network.patch = monkeypatch  # type: ignore[attr-defined]
        return network, a, b

    return make


def only(kind: type, payloads: tuple[Payload, ...]) -> Payload:
    return next(payload for payload in payloads if isinstance(payload, kind))


def swap(payloads: tuple[Payload, ...], *replacements: Payload) -> tuple[Payload, ...]:
    by_type = {type(payload): payload for payload in replacements}
    return tuple(by_type.get(type(payload), payload) for payload in payloads)


def without(payloads: tuple[Payload, ...], *kinds: type) -> tuple[Payload, ...]:
    return tuple(payload for payload in payloads if not isinstance(payload, kinds))


# --- authentication -----------------------------------------------------------------------------------------------


@pytest.mark.req("rfc7296-s1.2-02", "rfc7296-s2.21.2-01")
def test_wrong_psk_is_authentication_failed_and_leaves_nothing() -> None:
    network, a, b = pair(b={"psk": OTHER_PSK})
    up(network, a)
    for host in (a, b):
        (failed,) = host.of(IkeSaFailed)
        assert isinstance(failed, IkeSaFailed)
        assert failed.notify_type == NotifyType.AUTHENTICATION_FAILED
        assert host.of(IkeSaEstablished) == []
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s1.2-02")
def test_initiator_refuses_a_responder_that_does_not_know_the_psk(
    net: Callable[..., tuple[Network, Host, Host]],
) -> None:
    """The responder takes our proof but has none itself: N(AUTHENTICATION_FAILED) in INFORMATIONAL, both clean."""
    network, a, b = net()
    tampered(network, b, AUTH_EXCHANGE, lambda payloads: swap(payloads, Auth(AuthMethod.SHARED_KEY_MIC, bytes(32))))
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == NotifyType.AUTHENTICATION_FAILED
    assert a.of(IkeSaEstablished) == a.of(ChildSaReady) == []
    assert len(b.of(IkeSaDeleted)) == 1
    assert_nothing_left(a, b)


@pytest.mark.parametrize("tamper", ["method", "mac", "identity"])
def test_every_part_of_the_initiators_proof_counts(
    net: Callable[..., tuple[Network, Host, Host]], tamper: str
) -> None:
    network, a, b = net(b={"remote_id": None})

    def change(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        auth = only(Auth, payloads)
        assert isinstance(auth, Auth)
        if tamper == "method":
            return swap(payloads, Auth(AuthMethod.RSA_DIGITAL_SIGNATURE, auth.data))
        if tamper == "mac":
            return swap(payloads, Auth(auth.method, auth.data[:-1] + bytes([auth.data[-1] ^ 1])))
        return swap(payloads, IdI(IdType.ID_FQDN, b"somebody.else"))

    tampered(network, a, AUTH_EXCHANGE, change)
    up(network, a)
    assert b.of(IkeSaEstablished) == []
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s1.2-03")
def test_identity_that_the_psk_is_not_for_is_refused() -> None:
    for end in ("a", "b"):
        network, a, b = pair(**{end: {"remote_id": Identity.parse("somebody.else")}})
        up(network, a)
        assert a.of(ChildSaReady) == []
        assert len(a.of(IkeSaFailed)) == 1
        assert_nothing_left(a, b)


def test_connection_is_chosen_by_identity_after_the_address() -> None:
    """Two peers behind one address: each is served by the connection of its identity, with its own PSK."""
    network = Network()
    shared = {"remote_addrs": ("%any",), "local_id": Identity.parse("gateway")}
    one = connection(B, A, name="one", remote_id=Identity.parse("one"), psk=SecretOctets("PSK", b"1"), **shared)
    two = connection(B, A, name="two", remote_id=Identity.parse("two"), psk=SecretOctets("PSK", b"2"), **shared)
    b = network.add("b", B, [one, two])
    for name, psk in (("two", b"2"), ("one", b"1")):
        own = connection(
            A, B, local_id=Identity.parse(name), remote_id=Identity.parse("gateway"), psk=SecretOctets("PSK", psk)
        )
        a = network.add(f"a-{name}", A, [own])
        up(network, a)
        assert len(a.manager.sas) == 1
        assert b.manager.sas[-1].connection.name == name
        assert str(b.manager.sas[-1].peer_id) == name


# --- which connection it is ---------------------------------------------------------------------------------------


def many(*changes: dict[str, object]) -> list[ConnectionConfig]:
    """Connections of B, each with its own PSK, which has the connection's name."""
    found = []
    for change in changes:
        name = str(change["name"])
        psk = SecretOctets("PSK", name.encode())
        found.append(connection(B, A, **{"remote_id": None, "local_id": GATEWAY, "psk": psk, **change}))
    return found


GATEWAY = Identity.parse("gateway")
ORDERS = {
    "an address before a network before anybody": (
        [{"name": "any", "remote_addrs": ("%any",)}, {"name": "net", "remote_addrs": ("192.0.2.0/24",)},
         {"name": "host"}, {"name": "wide", "remote_addrs": ("192.0.0.0/8",)}], "host"),
    "the longer prefix": (
        [{"name": "wide", "remote_addrs": ("192.0.0.0/8",)},
         {"name": "net", "remote_addrs": ("192.0.2.0/24",)}], "net"),
    "our own address": (
        [{"name": "any", "local_addrs": ("%any",)}, {"name": "ours"}], "ours"),
    "the address before the identity": (
        [{"name": "id", "remote_addrs": ("%any",), "remote_id": Identity.parse("a.b.example")},
         {"name": "host"}], "host"),
    "an identity before a pattern before anybody": (
        [{"name": "any"}, {"name": "short", "remote_id": parse_peer("*.example")},
         {"name": "long", "remote_id": parse_peer("*.b.example")},
         {"name": "exact", "remote_id": Identity.parse("A.B.Example")}], "exact"),
    "the more specific pattern": (
        [{"name": "any"}, {"name": "short", "remote_id": parse_peer("*.example")},
         {"name": "long", "remote_id": parse_peer("*.b.example")}], "long"),
    "IDr before all": (
        [{"name": "host", "local_id": Identity.parse("another"), "remote_id": Identity.parse("a.b.example")},
         {"name": "asked", "remote_addrs": ("%any",)}], "asked"),
    "the order of the configuration": ([{"name": "first"}, {"name": "second"}], "first"),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDERS)
def test_the_most_specific_connection_is_chosen(case: str) -> None:
    """By the IDr that is asked for, by the addresses, by IDi, by the order of the configuration."""
    changes, wanted = ORDERS[case]
    psk = SecretOctets("PSK", wanted.encode())
    for order in (changes, changes[::-1]) if "order" not in case else (changes,):
        network = Network()
        own = connection(A, B, local_id=Identity.parse("a.b.example"), remote_id=GATEWAY, psk=psk)
        a, b = network.add("a", A, [own]), network.add("b", B, many(*order))
        up(network, a)
        assert_joined(a, b)
        assert b.sa.connection.name == wanted


def test_an_idr_that_is_nobodys_is_answered_with_ours_and_the_initiator_decides() -> None:
    """RFC 7296 section 1.2: the responder might use some other IDr, and the initiator can close the SA."""
    network, a, b = pair(a={"remote_id": Identity.parse("somebody.else")})
    up(network, a)
    assert len(b.of(IkeSaEstablished)) == 1
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == NotifyType.AUTHENTICATION_FAILED
    assert_nothing_left(a, b)


def test_a_pattern_is_not_sent_as_idr_and_accepts_who_matches_it() -> None:
    for identity, joined in (("gw.example.org", True), ("gw.example.com", False)):
        network, a, b = pair(
            a={"remote_id": parse_peer("*.example.org")},
            b={"local_id": Identity.parse(identity), "remote_id": None},
        )
        up(network, a)
        assert bool(a.manager.sas) is joined
        if joined:
            assert not any(isinstance(item, IdR) for item in opened(b, network.sent[2].datagram))
            assert str(a.sa.peer_id) == identity


def test_each_identity_of_a_group_has_its_own_secret() -> None:
    """One connection for `*.example.org`; the secret is the one that names the peer most closely."""
    keys = (
        SharedKey((parse_peer("one.example.org"), GATEWAY), SecretOctets("PSK", b"1")),
        SharedKey((parse_peer("two.example.org"),), SecretOctets("PSK", b"2")),
        SharedKey((parse_peer("*.example.org"),), SecretOctets("PSK", b"3")),
    )
    group = connection(B, A, local_id=GATEWAY, remote_id=parse_peer("*.example.org"), shared_keys=keys)
    for name, psk, joined in [
        ("one", b"1", True), ("two", b"2", True), ("three", b"3", True), ("one", b"2", False), ("three", b"1", False),
    ]:  # fmt: skip
        network = Network()
        own = connection(
            A, B, local_id=Identity.parse(f"{name}.example.org"), remote_id=GATEWAY, psk=SecretOctets("PSK", psk)
        )
        a, b = network.add("a", A, [own]), network.add("b", B, [group])
        up(network, a)
        assert bool(a.manager.sas) is joined, name
        if not joined:
            assert_nothing_left(a, b)


def test_an_identity_without_a_secret_is_refused_as_one_with_a_wrong_secret_is() -> None:
    keys = (SharedKey((Identity.parse("one.example.org"), GATEWAY), SecretOctets("PSK", b"1")),)
    network, a, b = pair(b={"remote_id": None, "shared_keys": keys, "local_id": Identity.parse("elsewhere")})
    up(network, a)
    for host in (a, b):
        (failed,) = host.of(IkeSaFailed)
        assert isinstance(failed, IkeSaFailed)
        assert failed.notify_type == NotifyType.AUTHENTICATION_FAILED
    assert_nothing_left(a, b)


def test_eap_is_refused_when_it_is_not_configured() -> None:
    """RFC 7296 section 2.16: an initiator without AUTH wants EAP. Section 2.21.2: AUTHENTICATION_FAILED, no IKE SA."""
    network, a, b, payloads = half_open()
    give(network, b, sealed(a, AUTH_EXCHANGE, without(payloads, Auth), message_id=1), a.address)
    assert opened(a, last_sent(network)) == (Notify(NotifyType.AUTHENTICATION_FAILED),)
    assert b.manager.sas == []
    network.run(network.now + 1)
    (failed,) = b.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == NotifyType.AUTHENTICATION_FAILED


@pytest.mark.parametrize("with_auth", [False, True])
def test_an_initiator_that_is_asked_for_eap_makes_no_ike_sa(
    net: Callable[..., tuple[Network, Host, Host]], with_auth: bool
) -> None:
    """HDR, SK {IDr, [AUTH,] EAP} in the place of the last message: nobody asked for EAP, and none is answered."""
    network, a, b = net()
    eap = Eap(EapCode.REQUEST, 1, b"\x01")

    def change(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        kept = (IdR, Auth) if with_auth else (IdR,)
        return (*(item for item in payloads if isinstance(item, kept)), eap)

    tampered(network, b, AUTH_EXCHANGE, change)
    up(network, a, until=10.0)
    assert len(a.of(IkeSaFailed)) == 1
    assert a.of(IkeSaEstablished) == a.of(ChildSaReady) == []
    assert a.manager.sas == []
    assert [sent.datagram.data[18] for sent in network.sent if sent.sender is a].count(AUTH_EXCHANGE) == 1


@pytest.mark.req("rfc7296-s2.21.2-02", "rfc7296-s2.21.2-03", "rfc7296-s2.5-10", "rfc7296-s2.5-11", "rfc7296-s4-03")
def test_critical_payload_in_ike_auth_gets_that_notify_alone_and_no_ike_sa() -> None:
    network, a, b, genuine = half_open()
    give(network, b, sealed(a, AUTH_EXCHANGE, (*genuine, unknown(177, critical=True)), message_id=1), a.address)
    assert opened(a, last_sent(network)) == (Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([177])),)
    assert b.of(IkeSaEstablished) == []
    assert b.manager.sas == []


@pytest.mark.req("rfc7296-s2.21.2-02", "rfc7296-s2.21.2-03")
@pytest.mark.parametrize("missing", [IdI, TsI, TsR, Sa])
def test_malformed_ike_auth_gets_invalid_syntax_alone_and_no_ike_sa(missing: type) -> None:
    network, a, b, genuine = half_open()
    give(network, b, sealed(a, AUTH_EXCHANGE, without(genuine, missing), message_id=1), a.address)
    assert notify_types(opened(a, last_sent(network))) == [NotifyType.INVALID_SYNTAX]
    assert b.of(IkeSaEstablished) == []
    assert b.manager.sas == []


@pytest.mark.req("rfc7296-s1-01", "rfc7296-s1-02", "rfc7296-s1.4-01")
@pytest.mark.parametrize("exchange", [ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA, ExchangeType(99)])
def test_no_other_exchange_before_ike_auth_is_complete(exchange: ExchangeType) -> None:
    network, a, b, _ = half_open()
    for number in (0, 1, 2):
        give(network, b, sealed(a, exchange, (Delete.ike(),), message_id=number), a.address)
        give(network, a, sealed(b, exchange, (Delete.ike(),), message_id=number), b.address)
    assert (a.sa.state, b.sa.state) == (State.AUTH_SENT, State.HALF_OPEN)


def test_unauthenticated_ike_auth_changes_nothing_and_costs_no_key_exchange() -> None:
    network, a, b, genuine = half_open()
    b.sa.keys = b.sa.channel = None
    give(network, b, clear_of(a, AUTH_EXCHANGE, genuine, message_id=1), a.address)
    assert b.sa.keys is None
    good = sealed(a, AUTH_EXCHANGE, genuine, message_id=1)
    give(network, b, good[:-1] + bytes([good[-1] ^ 1]), a.address)
    assert b.sa.state is State.HALF_OPEN
    give(network, b, good, a.address)
    assert b.sa.state is State.ESTABLISHED


def test_public_value_that_is_none_ends_the_half_open_sa() -> None:
    network, a, b, genuine = half_open()
    sa = b.sa
    sa.keys = sa.channel = None
    sa.need_handshake().peer_public = bytes(32)
    give(network, b, sealed(a, AUTH_EXCHANGE, genuine, message_id=1), a.address)
    assert_nothing_left(b)


def test_half_open_sa_is_forgotten_after_its_time() -> None:
    network, a, b, _ = half_open()
    network.run(31.0)
    assert b.manager.remembered == 0
    network.run()
    assert_nothing_left(a, b)


# --- the Child SA ---------------------------------------------------------------------------------------------------


def ts(text: str) -> TrafficSelector:
    return TrafficSelector.from_network(text)


CHILD_FAILURES = [
    (
        NotifyType.NO_PROPOSAL_CHOSEN,
        {"children": (child_config(esp_proposals=(parse_esp_proposal("aes128-sha256"),)),)},
    ),
    (NotifyType.TS_UNACCEPTABLE, {"children": (child_config(local_ts=(ts("203.0.113.0/24"),)),)}),
    (NotifyType.TS_UNACCEPTABLE, {"children": ()}),
    (NotifyType.NO_PROPOSAL_CHOSEN, {"children": (child_config(mode=Mode.TRANSPORT),)}),
]


@pytest.mark.req("rfc7296-s1.3.1-03", "rfc7296-s2.21.2-04")
@pytest.mark.parametrize(("notify_type", "changes"), CHILD_FAILURES)
def test_child_failure_leaves_the_ike_sa_up(notify_type: NotifyType, changes: dict[str, object]) -> None:
    network, a, b = pair(b=changes)
    up(network, a)
    assert_joined(a, b)
    assert a.installed == b.installed == {}
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == notify_type
    assert failed.name == "net"
    assert len(a.of(IkeSaEstablished)) == 1


@pytest.mark.req("rfc7296-s1.3.1-03")
def test_backend_that_gives_no_spi_leaves_the_ike_sa_up() -> None:
    network, a, b = pair()
    b.spis.problem = BackendError("no more SPIs")
    up(network, a)
    assert_joined(a, b)
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.notify_type == NotifyType.NO_ADDITIONAL_SAS


def test_initiator_whose_backend_gives_no_spi_fails_cleanly() -> None:
    network, a, b = pair()
    a.spis.problem = BackendError("no more SPIs")
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert "no more SPIs" in failed.reason
    assert_nothing_left(a, b)


@pytest.mark.parametrize("end", ["a", "b"])
def test_child_that_cannot_be_installed_is_deleted_at_the_peer_too(end: str) -> None:
    network, a, b = pair()
    (a if end == "a" else b).refuse_install = "the kernel has no ESP"
    up(network, a)
    assert a.installed == b.installed == {}
    assert_joined(a, b)
    refused = a if end == "a" else b
    (failed,) = refused.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert failed.reason == "the kernel has no ESP"


def test_childless_ike_sa() -> None:
    """RFC 6023: no Child SA configured at the initiator, IKE_AUTH without SA, TSi, TSr."""
    network, a, b = pair(a={"children": ()})
    up(network, a)
    assert_joined(a, b)
    assert a.installed == {}
    assert a.of(ChildSaFailed) == b.of(ChildSaFailed) == []


@pytest.mark.req("rfc7296-s1.2-06")
def test_proposals_in_ike_auth_have_no_group() -> None:
    with_group = (parse_esp_proposal("aes256gcm16-curve25519"),)
    children = {"children": (child_config(esp_proposals=with_group),)}
    network, a, b, payloads = half_open(a=children, b=children)
    sa = only(Sa, payloads)
    assert isinstance(sa, Sa)
    from ikev2.iana import TransformType

    assert all(transform.type != TransformType.KE for proposal in sa.proposals for transform in proposal.transforms)
    give(network, b, network.sent[-1].datagram.data, a.address)
    assert len(b.installed) == 1


@pytest.mark.req("rfc7296-s1.3.1-01")
def test_transport_mode_is_agreed_by_notify_in_both_messages() -> None:
    children = {"children": (child_config(mode=Mode.TRANSPORT),)}
    network, a, b = pair(a=children, b=children)
    up(network, a)
    assert_joined(a, b)
    for host in (a, b):
        (child,) = host.installed.values()
        assert child.mode is Mode.TRANSPORT
        assert child.nat_original_local is None
    for number in (2, 3):
        reader = b if number == 2 else a
        types = notify_types(opened(reader, network.sent[number].datagram))
        assert NotifyType.USE_TRANSPORT_MODE in types


@pytest.mark.req("rfc7296-s1.3.1-02")
def test_initiator_that_wants_transport_mode_deletes_a_tunnel_mode_child() -> None:
    network, a, b = pair(a={"children": (child_config(mode=Mode.TRANSPORT),)})
    up(network, a)
    assert_joined(a, b)
    assert a.installed == b.installed == {}
    assert a.of(ChildSaReady) == []
    assert len(b.of(ChildSaReady)) == 1
    (failed,) = a.of(ChildSaFailed)
    assert isinstance(failed, ChildSaFailed)
    assert "transport" in failed.reason


BAD_CHILDREN: dict[str, Callable[[tuple[Payload, ...]], tuple[Payload, ...]]] = {
    "wider selectors": lambda payloads: swap(payloads, TsI((ts("0.0.0.0/0"),))),
    "other algorithm": lambda payloads: swap(
        payloads, Sa((replace(parse_esp_proposal("aes128gcm16"), number=1, spi=b"\x12\x34\x56\x78"),))
    ),
    "reserved SPI": lambda payloads: swap(
        payloads, Sa((replace(parse_esp_proposal("aes256gcm16"), number=1, spi=bytes(4)),))
    ),
    "transport mode unasked": lambda payloads: (*payloads, Notify(NotifyType.USE_TRANSPORT_MODE)),
}


@pytest.mark.req("rfc7296-s3.3.6-06")
@pytest.mark.parametrize("kind", BAD_CHILDREN)
def test_child_that_was_not_offered_is_not_installed_and_is_deleted(
    net: Callable[..., tuple[Network, Host, Host]], kind: str
) -> None:
    network, a, b = net()

    def change(payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
        return BAD_CHILDREN[kind](payloads) if any(isinstance(item, TsR) for item in payloads) else payloads

    tampered(network, b, AUTH_EXCHANGE, change)
    up(network, a)
    assert a.of(ChildSaReady) == []
    assert len(a.of(ChildSaFailed)) == 1
    assert a.installed == b.installed == {}
    assert a.sa.state is b.sa.state is State.ESTABLISHED


def test_narrowed_selectors_are_those_of_both() -> None:
    wide, narrow = (
        child_config(remote_ts=(ts("198.51.100.0/24"),)),
        child_config(local_ts=(ts("198.51.100.64/26"),)),
    )
    network, a, b = pair(a={"children": (wide,)}, b={"children": (narrow,)})
    up(network, a)
    assert_joined(a, b)
    (child,) = a.installed.values()
    assert child.ts_remote == (ts("198.51.100.64/26"),)


def test_responder_picks_the_child_configuration_that_fits() -> None:
    first = child_config("first", local_ts=(ts("203.0.113.0/24"),))
    second = child_config("second", local_ts=(ts("198.51.100.0/24"),))
    network, a, b = pair(
        a={"children": (child_config(remote_ts=(ts("198.51.100.0/25"),)),)}, b={"children": (first, second)}
    )
    up(network, a)
    (child,) = b.installed.values()
    assert child.name == "second"


# --- INITIAL_CONTACT ------------------------------------------------------------------------------------------------


@pytest.mark.req("rfc7296-s2.4-02", "rfc7296-s2.4-04")
def test_initial_contact_of_a_peer_that_has_restarted_clears_its_old_sa() -> None:
    network, a, b = pair()
    up(network, a, until=5.0)
    old = b.sa.spi_i
    reborn = network.add("a again", A, [connection(A, B)])
    reborn.manager._entropy = SeededEntropy("reborn")
    up(network, reborn, until=20.0)
    assert_joined(reborn, b)
    assert b.sa.spi_i != old
    assert len(b.of(IkeSaDeleted)) == 1


@pytest.mark.req("rfc7296-s2.4-04")
def test_initial_contact_clears_what_came_of_a_rekeying_too_and_no_sa_of_another_peer() -> None:
    network, a, b = pair()
    b.manager.connections.append(connection(B, "192.0.2.3", name="c", remote_id=Identity.parse("c")))
    other = network.add("c", "192.0.2.3", [connection("192.0.2.3", B, local_id=Identity.parse("c"))])
    kept = up(network, other, until=network.now + 5)
    up(network, a, until=network.now + 5)
    a.manager.rekey(a.sa, network.now)
    network.run(network.now + 5)
    rekeyed = a.sa.spi_i
    assert {sa.spi_i for sa in b.manager.sas} == {kept.spi_i, rekeyed}
    reborn = network.add("a again", A, [connection(A, B)])
    reborn.manager._entropy = SeededEntropy("reborn")
    new = up(network, reborn, until=network.now + 5)
    assert {sa.spi_i for sa in b.manager.sas} == {kept.spi_i, new.spi_i}
    for sa in b.manager.sas:
        b.manager.delete(sa, network.now)
    network.run()
    assert b.manager.remembered == 0
    assert b.manager._table.others_between(new) == []  # nothing is left of those that are gone


def test_initial_contact_is_not_said_when_there_is_another_sa_and_not_when_switched_off() -> None:
    for changes, wanted in (({}, [True, False]), ({"send_initial_contact": False}, [False, False])):
        network, a, b = pair(a=changes)
        said = []
        for _ in range(2):
            up(network, a, until=network.now + 10)
            said.append("N(INIT_CONTACT)" in [line for line in a.tracer.lines if "out IKE_AUTH" in line][-1])
        assert said == wanted
        assert len(a.manager.sas) == len(b.manager.sas) == 2


def test_initial_contact_is_not_said_by_a_connection_with_anybody_beside_one_with_this_peer() -> None:
    """Whom it meets is not known when it speaks: the SA with the same peer would be dropped there."""
    network = Network()
    named, anybody = connection(A, B), connection(A, B, name="anybody", remote_id=None)
    a = network.add("a", A, [named, anybody])
    b = network.add("b", B, [connection(B, A)])
    for name in ("lab", "anybody"):
        up(network, a, name, until=network.now + 5)
    assert len(a.manager.sas) == len(b.manager.sas) == 2
    other = network.add("c", "192.0.2.3", [connection("192.0.2.3", B, local_id=Identity.parse("c"))])
    b.manager.connections.append(connection(B, "192.0.2.3", name="c", remote_id=Identity.parse("c")))
    up(network, other, until=network.now + 5)
    assert "N(INIT_CONTACT)" in next(line for line in other.tracer.lines if "out IKE_AUTH" in line)


@pytest.mark.req("rfc7296-s2.4-01")
def test_hosts_that_share_an_identity_neither_say_nor_heed_initial_contact() -> None:
    network = Network()
    shared = {"remote_addrs": ("%any",), "remote_id": Identity.parse("crowd"), "send_initial_contact": False}
    b = network.add("b", B, [connection(B, A, **shared)])
    hosts = []
    for number, said in ((1, False), (2, False), (3, True)):
        host = f"198.51.100.{number}"
        mine = connection(host, B, local_id=Identity.parse("crowd"), send_initial_contact=said)
        hosts.append(network.add(f"host {number}", host, [mine]))
        up(network, hosts[-1], until=network.now + 5)
    said = ["N(INIT_CONTACT)" in " ".join(host.tracer.lines) for host in hosts]
    assert said == [False, False, True]
    assert len(b.manager.sas) == 3


def test_both_ends_begin_at_once_and_neither_drops_what_the_other_keeps() -> None:
    network, a, b = pair()
    for host in (a, b):
        host.manager.initiate("lab", None, host.address, 0.0)
    network.run()
    assert {sa.spi_i for sa in a.manager.sas} == {sa.spi_i for sa in b.manager.sas}
    assert len(a.manager.sas) == 2
    assert len(a.installed) == len(b.installed) == 2


def test_initial_contact_that_arrives_late_spares_what_came_up_meanwhile() -> None:
    """A says INITIAL_CONTACT, the network holds it back, B brings up another SA before it arrives."""
    network, a, b = pair(link=lambda sent: (3.0,) if sent.number == 2 else (0.01,))
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.025)
    b.manager.initiate("lab", None, b.address, network.now)
    network.run()
    assert {sa.spi_i for sa in a.manager.sas} == {sa.spi_i for sa in b.manager.sas}
    assert len(a.manager.sas) == 2


# --- suites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword",
    [
        "aes128-sha1-prfsha1-modp2048",
        "aes256-sha512-prfsha512-ecp256",
        "aes192ctr-sha256-prfsha256-ecp521",
        "chacha20poly1305-prfsha384-ecp384",
        "aes128ccm16-prfaescmac-curve448",
    ],
)
def test_handshake_with_other_algorithms(keyword: str) -> None:
    changes: dict[str, object] = {"proposals": proposals(keyword)}
    network, a, b = pair(a=changes, b=changes)
    up(network, a)
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s2.7-01", "rfc7296-s2.7-03", "rfc7296-s2.7-04")
def test_one_of_several_proposals_is_chosen_with_one_transform_of_each_type() -> None:
    network, a, b = pair(
        a={
            "proposals": proposals(
                "aes256-aes128-sha512-sha256-curve25519-ecp256", "aes256gcm16-prfsha256-curve25519"
            )
        }
    )
    up(network, a)
    assert_joined(a, b)
    answer = parse(network.sent[1].datagram)
    sa = only(Sa, answer.payloads)
    assert isinstance(sa, Sa)
    (chosen,) = sa.proposals
    assert chosen.number == 2
    assert len({transform.type for transform in chosen.transforms}) == len(chosen.transforms)


@pytest.mark.req("rfc7296-s1-01")
def test_no_other_exchange_before_ike_sa_init_is_complete() -> None:
    network, a, b = pair(link=lambda sent: ())
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    before = sa.requests.in_flight
    for exchange in (ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA):
        for response in (False, True):
            give(
                network,
                a,
                clear_of(a, exchange, (Delete.ike(),), is_initiator=False, is_response=response),
                b.address,
            )
    assert (sa.state, sa.requests.in_flight) == (State.INIT_SENT, before)
    assert len(network.sent) == 1
