"""What an extension adds to the tables is there while it is registered, and nothing is left of it afterwards."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest

from ikev2 import Knob, Peer, connection, events, roundtrip
from ikev2.core import extension, transitions
from ikev2.core.state import State
from ikev2.core.types import Role
from ikev2.crypto import keywords
from ikev2.crypto.integ import INTEGS, Integ
from ikev2.crypto.ke import KE_GROUPS, KeGroup
from ikev2.crypto.keywords import parse_ike_proposal, proposal_keyword, register_integ, register_ke, register_prf
from ikev2.crypto.prf import PRFS, Prf, prf_by_name
from ikev2.crypto.suites import IkeSuite
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import ConfigurationError, InvalidSyntax, NoProposalChosen
from ikev2.iana import ExchangeType, IntegId, KeId, NotifyType, PayloadType, PrfId
from ikev2.registration import Clash, Registration
from ikev2.wire import payloads, rules
from ikev2.wire.cursor import Cursor
from ikev2.wire.header import Header
from ikev2.wire.message import Message, encode_payloads, parse_payloads
from ikev2.wire.payloads import notify

PING = ExchangeType(241)
FAKE = Prf(PrfId(1025), "fake", 32, 32, PRFS[PrfId.HMAC_SHA2_256].function)
FAKE_INTEG = Integ(IntegId(1025), "fakemac", 32, 16, INTEGS[IntegId.HMAC_SHA2_256_128].function)
ROW = transitions.Transition("a story", ("normal",), lambda sa, inbound: (), (State.ESTABLISHED,))


class OtherGroup:
    """X25519 under a number and a name of its own."""

    id = KeId(1025)
    name = "othergroup"
    public_octets = 32

    def generate(self, entropy: Any) -> Any:
        return KE_GROUPS[KeId.CURVE25519].generate(entropy)

    def check(self, public: bytes) -> None:
        KE_GROUPS[KeId.CURVE25519].check(public)


GROUP: KeGroup = OtherGroup()


@dataclass(frozen=True, slots=True)
class Color(payloads.PlainPayload):
    """A payload of one octet."""

    payload_type: ClassVar[PayloadType] = PayloadType(201)
    value: int

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        return cls(cursor.uint8())

    def encode_body(self) -> bytes:
        return bytes([self.value])


def tables() -> list[Any]:
    """Copies of everything that takes rows."""
    return [
        *(dict(kind.__members__) for kind in (ExchangeType, NotifyType, PayloadType, PrfId)),
        *(dict(table) for table in (PRFS, INTEGS, KE_GROUPS, keywords.KEYWORDS, keywords._RENDERED)),
        *(dict(table) for table in (keywords._INTEG_TO_PRF, notify.DATA_OCTETS, payloads.PAYLOAD_CLASSES)),
        *(dict(table) for table in (rules.RULES, transitions.TRANSITIONS, extension._EXTENSIONS)),
    ]


def registrations() -> list[Registration]:
    return [
        ExchangeType.register("PING", PING),
        NotifyType.register("PING_SUPPORTED", 40970),
        PayloadType.register("COLOR", 201),
        PrfId.register("FAKE", 1025),
        register_prf(FAKE, "prffake"),
        register_integ(FAKE_INTEG, PrfId.HMAC_SHA2_256),
        register_ke(GROUP),
        notify.register_data_octets(NotifyType(40970), 1, 1),
        payloads.register(Color),
        rules.register(PING, "request", ()),
        transitions.register(State.ESTABLISHED, PING, Role.RESPONDER, ROW),
        extension.register(extension.Extension("ping")),
    ]


def test_all_is_as_before_when_it_is_undone() -> None:
    before = tables()
    made = registrations()
    assert tables() != before
    for registration in made:
        registration.undo()
        registration.undo()
    assert tables() == before
    for registration in made:
        with registration:
            pass
    assert tables() == before


def test_what_is_there_already_stays_as_it_is() -> None:
    made = registrations()
    with_all = tables()
    try:
        attempts: list[Any] = [
            lambda: ExchangeType.register("PING", 242),
            lambda: ExchangeType.register("PONG", PING),
            lambda: ExchangeType.register("IKE_AUTH", 250),
            lambda: ExchangeType.register("IKE_AUTH_TOO", 35),
            lambda: NotifyType.register("is_error", 40999),
            lambda: register_prf(FAKE, "prfother"),
            lambda: register_prf(Prf(PrfId(1026), "other", 32, 32, FAKE.function), "prfsha256"),
            lambda: register_prf(Prf(PrfId.HMAC_SHA1, "other", 32, 32, FAKE.function), "prfother"),
            lambda: register_prf(Prf(PrfId(1026), "other", 32, 32, FAKE.function), "prf-other"),
            lambda: register_integ(FAKE_INTEG),
            lambda: register_ke(GROUP),
            lambda: notify.register_data_octets(NotifyType.COOKIE, 0, 100),
            lambda: payloads.register(payloads.Nonce),
            lambda: rules.register(ExchangeType.IKE_AUTH, "request", ()),
            lambda: transitions.register(State.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.RESPONDER, ROW),
            lambda: extension.register(extension.Extension("ping")),
        ]
        for attempt in attempts:
            with pytest.raises(Clash):
                attempt()
            assert tables() == with_all
    finally:
        for registration in made:
            registration.undo()


def test_a_name_is_as_good_as_one_of_an_rfc_and_goes_again() -> None:
    with ExchangeType.register("PING", PING):
        named = ExchangeType(241)
        assert (str(named), named.known, ExchangeType["PING"], named.name) == ("PING", True, named, "PING")
        assert getattr(ExchangeType, "PING") is named  # noqa: B009
        assert named in list(ExchangeType)
        assert pickle.loads(pickle.dumps(named)) is copy.copy(named) is named
        assert Knob.parse("drop:PING:request:1").exchange == 241
    assert (str(ExchangeType(241)), ExchangeType(241).known) == ("UNKNOWN_241", False)
    assert not hasattr(ExchangeType, "PING")
    with pytest.raises(ConfigurationError, match="there is no exchange 'PING'"):
        Knob.parse("drop:PING:request:1")
    assert Knob.parse("drop:241:request:1").exchange == 241


def test_algorithms_are_offered_chosen_and_used() -> None:
    words = "aes256-fakemac-othergroup"
    with register_integ(FAKE_INTEG, FAKE.id), register_prf(FAKE, "prffake"), register_ke(GROUP):
        assert proposal_keyword(parse_ike_proposal(words)) == words
        assert prf_by_name("fake") is FAKE
        ours = connection(psk="x", local_addrs="192.0.2.1", remote_addrs="192.0.2.2", proposals=words)
        theirs = connection(psk="x", local_addrs="192.0.2.2", remote_addrs="192.0.2.1", proposals=words)
        a, b = Peer(ours), Peer(theirs)
        a.initiate()
        roundtrip(a, b)
        info = a.event(events.IkeSaEstablished).ike_sa
        assert (info.suite, info.prf) == (words, "fake")
        suite, _ = b.sa.need_keys()
        assert (suite.integ, suite.prf, suite.ke) == (FAKE_INTEG, FAKE, GROUP)
    with pytest.raises(ConfigurationError, match="unknown algorithm 'fakemac'"):
        parse_ike_proposal(words)
    with pytest.raises(UnknownAlgorithm):
        prf_by_name("fake")


def test_a_suite_is_forgotten_with_its_algorithm() -> None:
    with PrfId.register("FAKE", FAKE.id):  # its number keeps the name
        with register_prf(FAKE, "prffake"):
            proposal = parse_ike_proposal("aes256gcm16-prffake-curve25519")
            assert IkeSuite.from_proposal(proposal) is IkeSuite.from_proposal(proposal)
        with pytest.raises(UnknownAlgorithm):
            IkeSuite.from_proposal(proposal)


def test_an_integrity_algorithm_without_a_prf_asks_for_one() -> None:
    with register_integ(FAKE_INTEG), pytest.raises(ConfigurationError, match="a PRF is missing"):
        parse_ike_proposal("aes256-fakemac-curve25519")


def test_a_payload_is_read_and_written_by_its_class() -> None:
    first, octets = encode_payloads([Color(7)])
    assert isinstance(parse_payloads(first, octets)[0], payloads.Unknown)
    with payloads.register(Color):
        assert parse_payloads(first, octets) == (Color(7),)
        with pytest.raises(InvalidSyntax):
            parse_payloads(first, octets[:3] + b"\x06" + octets[4:] + b"\0")
    assert isinstance(parse_payloads(first, octets)[0], payloads.Unknown)


def test_the_data_of_a_notify_has_the_length_that_was_registered() -> None:
    body = payloads.Notify(NotifyType(40970), b"toolong").encode_body()
    assert payloads.Notify.parse_body(body).data == b"toolong"
    with (
        notify.register_data_octets(NotifyType(40970), 1, 1),
        pytest.raises(InvalidSyntax, match="7 octets of data"),
    ):
        payloads.Notify.parse_body(body)


def test_an_extension_that_finds_a_message_wrong_refuses_it() -> None:
    """What `hear` raises is answered as what a handler raises: here INVALID_SYNTAX, which ends the IKE SA."""

    def hear(sa: Any, inbound: Any) -> None:
        if inbound.notify(NotifyType(40970)):
            raise InvalidSyntax("not that one")

    a, b = (
        Peer(connection(psk="x", local_addrs=local, remote_addrs=remote))
        for local, remote in (("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1"))
    )
    with extension.register(extension.Extension("picky", hear=hear)):
        a.initiate()
        roundtrip(a, b)
        a.ask(ExchangeType.INFORMATIONAL, payloads.Notify(NotifyType(40970)))
        roundtrip(a, b)
    assert a.event(events.Answered).notify(NotifyType.INVALID_SYNTAX) is not None
    assert b.manager.sas == []


def _two_ends() -> tuple[Peer, Peer]:
    a, b = (
        Peer(connection(psk="x", local_addrs=local, remote_addrs=remote))
        for local, remote in (("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1"))
    )
    return a, b


def test_what_a_forged_first_response_says_of_an_extension_is_forgotten() -> None:
    """Whoever sees our first request can answer it before the peer does. RFC 7296 section 2.4."""

    def hear(sa: Any, inbound: Any) -> None:
        if inbound.notify(NotifyType(40970)):
            sa.extensions["ping"] = 1

    a, b = _two_ends()
    with extension.register(extension.Extension("ping", hear=hear)):
        sa = a.initiate()
        header = Header.to_send(
            sa.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_initiator=False, is_response=True
        )
        refusal = payloads.Notify(NotifyType.NO_PROPOSAL_CHOSEN)
        forged = Message(header, (refusal, payloads.Notify(NotifyType(40970)))).encode()
        a.manager.receive_datagram(forged, sa.local, sa.remote, a.now)
        assert sa.extensions == {}
        roundtrip(a, b)
    assert a.event(events.IkeSaEstablished)
    assert (a.sa.extensions, b.sa.extensions) == ({}, {})


def test_a_response_that_an_extension_refuses_is_not_waited_for_again() -> None:
    """Whatever the error that it raises: the response is authentic, and no other will come. Section 2.21."""

    def hear(sa: Any, inbound: Any) -> None:
        if inbound.message.header.is_response and inbound.purpose is None and sa.established_at is not None:
            raise NoProposalChosen("not with me")

    a, b = _two_ends()
    a.initiate()
    roundtrip(a, b)
    with extension.register(extension.Extension("picky", hear=hear)):
        a.ask(ExchangeType.INFORMATIONAL)
        roundtrip(a, b)
    assert a.event(events.IkeSaDeleted)
    assert a.manager.sas == []


def test_what_an_extension_knows_of_an_ike_sa_is_inherited_by_the_one_in_its_place() -> None:
    a, b = (
        Peer(connection(psk="x", local_addrs=local, remote_addrs=remote))
        for local, remote in (("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1"))
    )
    a.initiate()
    roundtrip(a, b)
    a.sa.extensions["ping"] = 1
    a.manager.rekey(a.sa, a.now)
    roundtrip(a, b)
    assert a.event(events.IkeSaRekeyed)
    assert a.sa.extensions == {"ping": 1}
    assert b.sa.extensions == {}


def test_an_error_response_of_a_further_exchange_is_a_variant_of_its_own() -> None:
    error = (rules.Rule(PayloadType.N, 1, None, any_error=True),)
    answer = (payloads.Notify(NotifyType.INVALID_SYNTAX),)
    assert rules.variant(PING, "response", answer) == "normal"
    with rules.register(PING, "response", error, "error"):
        assert rules.variant(PING, "response", answer) == "error"
        assert rules.variant(PING, "response", ()) == "normal"
