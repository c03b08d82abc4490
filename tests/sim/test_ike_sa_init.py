"""IKE_SA_INIT: retries with another group or a cookie, refusals, and what a forger cannot do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from sim.craft import clear, give, last_sent, notify_types, parse, unknown
from sim.network import (
    A,
    B,
    Delays,
    Host,
    Network,
    Sent,
    assert_joined,
    assert_nothing_left,
    connection,
    pair,
    proposals,
    up,
)

from ikev2.core.config import Limits
from ikev2.core.events import IkeSaEstablished, IkeSaFailed
from ikev2.core.types import Address, Datagram
from ikev2.iana import ExchangeType, KeId, NotifyType
from ikev2.wire.message import Message
from ikev2.wire.payloads import Ke, Nonce, Notify, Payload, Sa

INIT = ExchangeType.IKE_SA_INIT
STRANGER = Address("198.51.100.66", 500)
ALWAYS_COOKIES = Limits(cookie_threshold=0)


def init_requests(network: Network, host: Host) -> list[Message]:
    """The IKE_SA_INIT requests that a host sent, each once."""
    found = {
        sent.datagram.data: parse(sent.datagram)
        for sent in network.sent
        if sent.sender is host and sent.datagram.data[18] == INIT and not sent.datagram.data[19] & 0x20
    }
    return list(found.values())


def first(message: Message, kind: type) -> Payload:
    return next(payload for payload in message.payloads if isinstance(payload, kind))


GROUPS = {"proposals": proposals("aes256gcm16-prfsha256-ecp384-curve25519-ecp256")}
ONLY_ECP256 = {"proposals": proposals("aes256gcm16-prfsha256-ecp256")}


@pytest.mark.req("rfc7296-s1.2-04", "rfc7296-s1.2-05", "rfc7296-s3.1-04", "rfc7296-s3.4-03", "rfc7296-s3.4-05")
@pytest.mark.req("rfc7296-s3.3.6-09", "rfc7296-s3.3.6-10", "rfc7296-s3.3.6-11")
def test_initiator_retries_with_the_wanted_group_and_its_full_proposals() -> None:
    """--> SAi1, KEi(ecp384); <-- N(INVALID_KE_PAYLOAD, ecp256); --> SAi1, KEi(ecp256); <-- SAr1, KEr, Nr"""
    network, a, b = pair(a=GROUPS, b=ONLY_ECP256)
    up(network, a)
    assert_joined(a, b)
    one, two = init_requests(network, a)
    assert [first(message, Ke).group for message in (one, two)] == [KeId.ECP_384, KeId.ECP_256]
    assert first(one, Sa) == first(two, Sa)
    assert first(one, Nonce) == first(two, Nonce)
    assert one.header.initiator_spi == two.header.initiator_spi
    assert (two.header.message_id, two.header.responder_spi) == (0, bytes(8))
    refusal = parse(network.sent[1].datagram)
    assert notify_types(refusal.payloads) == [NotifyType.INVALID_KE_PAYLOAD]
    assert refusal.header.responder_spi == bytes(8)


@pytest.mark.req("rfc7296-s2.6-02", "rfc7296-s2.6-03", "rfc7296-s2.6-04")
def test_cookie_goes_first_and_all_else_is_unchanged() -> None:
    """--> SAi1, KEi, Ni; <-- N(COOKIE); --> N(COOKIE), SAi1, KEi, Ni; <-- SAr1, KEr, Nr"""
    network, a, b = pair(limits=ALWAYS_COOKIES)
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.015)
    assert b.manager.remembered == 0
    (cookie,) = parse(network.sent[1].datagram).payloads
    assert isinstance(cookie, Notify)
    assert 1 <= len(cookie.data) <= 64
    network.run()
    assert_joined(a, b)
    one, two = init_requests(network, a)
    assert two.payloads[0] == cookie
    assert two.payloads[1:] == one.payloads
    assert replace(two.header, length=0, next_payload=one.header.next_payload) == replace(one.header, length=0)


@pytest.mark.req("rfc7296-s2.6.1-01", "rfc7296-s2.6.1-02")
def test_cookie_then_group_keeps_the_cookie() -> None:
    """RFC 7296 section 2.6.1: the shorter exchange."""
    network, a, b = pair(a=GROUPS, b=ONLY_ECP256, limits=ALWAYS_COOKIES)
    up(network, a)
    assert_joined(a, b)
    assert len(init_requests(network, a)) == 3
    assert len(network.sent) == 8


@pytest.mark.req("rfc7296-s2.6.1-02")
def test_responder_that_wants_a_new_cookie_for_every_request_is_served() -> None:
    """The longer exchange: a responder whose cookie covers the whole request."""
    network, a, b = pair(a=GROUPS, b=ONLY_ECP256, limits=ALWAYS_COOKIES)
    jar = b.manager._strangers.cookies
    plain_bake, plain_holds = jar.bake, jar.holds
    seen: list[bytes] = []

    def link(sent: Sent) -> Delays:
        if sent.sender is a and sent.datagram.data[18] == INIT:
            seen.append(bytes(first(parse(sent.datagram), Ke).data))
        return (0.01,)

    network.link = link
    jar.bake = lambda nonce, *rest: plain_bake(nonce + seen[-1], *rest)  # type: ignore[method-assign]
    jar.holds = lambda cookie, nonce, *rest: plain_holds(cookie, nonce + seen[-1], *rest)  # type: ignore[method-assign]
    up(network, a)
    assert_joined(a, b)
    assert len(init_requests(network, a)) == 4


@pytest.mark.req("rfc7296-s2.6-05")
def test_wrong_cookie_counts_as_none() -> None:
    network, a, b = pair(limits=ALWAYS_COOKIES)
    a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    request = parse(network.sent[0].datagram)
    for cookie in (b"x", bytes(33), bytes(64)):
        forged = Message(request.header, (Notify(NotifyType.COOKIE, cookie), *request.payloads)).encode()
        give(network, b, forged, a.address)
        (answer,) = parse(last_sent(network)).payloads
        assert notify_types((answer,)) == [NotifyType.COOKIE]
        assert b.manager.remembered == 0


def test_cookie_of_another_address_or_spi_or_nonce_is_not_taken() -> None:
    network, a, b = pair(b={"remote_addrs": ("%any",)}, limits=ALWAYS_COOKIES)
    a.manager.initiate("lab", None, a.address, 0.0)
    network.run(0.015)
    request, (cookie,) = parse(network.sent[0].datagram), parse(network.sent[1].datagram).payloads
    good = Message(request.header, (cookie, *request.payloads)).encode()
    give(network, b, good, STRANGER)
    assert b.manager.remembered == 0
    other_spi = replace(request.header, initiator_spi=b"\x22" * 8)
    give(network, b, Message(other_spi, (cookie, *request.payloads)).encode(), a.address)
    assert b.manager.remembered == 0
    other_nonce = tuple(Nonce(bytes(32)) if isinstance(item, Nonce) else item for item in request.payloads)
    give(network, b, Message(request.header, (cookie, *other_nonce)).encode(), a.address)
    assert b.manager.remembered == 0
    give(network, b, good, a.address)
    assert b.manager.remembered == 1


def test_under_the_threshold_no_cookie_is_asked_for_and_from_it_on_one_is() -> None:
    limits = Limits(cookie_threshold=3, half_open_per_address=100)
    network, a, b = pair(limits=limits, b={"remote_addrs": ("%any",)}, link=lambda sent: ())
    for number in range(5):
        one = Network(number).add("x", A, [connection(A, B)])
        one.manager.initiate("lab", None, one.address, 0.0)
        (datagram,) = one.manager.datagrams_to_send()
        give(network, b, datagram.data, a.address)
    kinds = [NotifyType.COOKIE in notify_types(parse(sent.datagram).payloads) for sent in network.sent]
    assert kinds == [False, False, False, True, True]
    assert b.manager.half_open_count == 3


@pytest.mark.parametrize(
    "notify_type", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_SYNTAX, NotifyType(1234)]
)
@pytest.mark.req("rfc7296-s2.4-03")
def test_unauthenticated_error_does_not_kill_the_attempt(notify_type: NotifyType) -> None:
    """A forger's error comes first; the genuine responder still wins."""
    network, a, b = pair(link=lambda sent: (0.2,))
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    forged = clear(INIT, (Notify(notify_type),), spi_i=sa.spi_i, is_initiator=False, is_response=True)
    network.inject(Datagram(forged, b.address, a.address), 0.1)
    network.run()
    assert_joined(a, b)
    assert a.of(IkeSaFailed) == []


def test_no_common_proposal_fails_with_that_reason_after_some_tries() -> None:
    network, a, b = pair(b={"proposals": proposals("aes128-sha256-modp2048")})
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == NotifyType.NO_PROPOSAL_CHOSEN
    assert len([sent for sent in network.sent if sent.sender is a]) == 1 + 2
    assert_nothing_left(a, b)


def test_nobody_there_fails_after_all_tries() -> None:
    network, a, b = pair(link=lambda sent: ())
    up(network, a)
    assert len(network.sent) == 1 + 5
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type is None
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7296-s2.4-06")
def test_retransmission_times_grow_exponentially() -> None:
    times: list[float] = []

    network, a, _ = pair()
    network.link = lambda sent: times.append(network.now) or ()
    up(network, a)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([1.0, 1.5, 2.25, 3.375, 5.0625])


FORGED_RESPONSES = [
    (
        "group that was not proposed",
        (Notify(NotifyType.INVALID_KE_PAYLOAD, int(KeId.MODP_2048).to_bytes(2, "big")),),
    ),
    ("group in hand", (Notify(NotifyType.INVALID_KE_PAYLOAD, int(KeId.CURVE25519).to_bytes(2, "big")),)),
    ("empty", ()),
    ("version", (Notify(NotifyType.INVALID_MAJOR_VERSION),)),
    ("critical", (unknown(critical=True), Notify(NotifyType.COOKIE, b"c"))),
    ("nonce alone", (Nonce(bytes(32)),)),
]


@pytest.mark.parametrize("payloads", [row[1] for row in FORGED_RESPONSES], ids=[row[0] for row in FORGED_RESPONSES])
def test_forged_response_that_makes_no_sense_changes_nothing(payloads: tuple[Payload, ...]) -> None:
    network, a, b = pair(link=lambda sent: (0.2,))
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    forged = clear(INIT, payloads, spi_i=sa.spi_i, is_initiator=False, is_response=True)
    network.inject(Datagram(forged, b.address, a.address), 0.1)
    network.run()
    assert_joined(a, b)
    assert len(init_requests(network, a)) == 1


def test_forged_cookies_and_groups_cost_a_bounded_number_of_requests() -> None:
    network, a, _ = pair(
        a={"proposals": proposals("aes256gcm16-prfsha256-curve25519-ecp256-ecp384")}, link=lambda sent: ()
    )
    sa = a.manager.initiate("lab", None, a.address, 0.0)
    network.flush(a)
    for number in range(200):
        groups = (KeId.ECP_256, KeId.ECP_384, KeId.CURVE25519)
        notify = (
            Notify(NotifyType.COOKIE, number.to_bytes(2, "big"))
            if number % 2
            else Notify(NotifyType.INVALID_KE_PAYLOAD, int(groups[number // 2 % 3]).to_bytes(2, "big"))
        )
        give(
            network,
            a,
            clear(INIT, (notify,), spi_i=sa.spi_i, is_initiator=False, is_response=True),
            Address(B, 500),
        )
    assert len(network.sent) <= 1 + 4 + 4


@pytest.mark.parametrize("change", ["proposal", "two proposals", "group", "no spi", "short public value"])
def test_responders_choice_that_was_not_offered_is_not_taken(change: str) -> None:
    """The genuine response, tampered with, comes first."""
    network, a, b = pair()

    def tamper(sent: Sent) -> Delays:
        if sent.sender is not b or sent.datagram.data[18] != INIT:
            return (0.01,)
        message = parse(sent.datagram)
        sa, ke = first(message, Sa), first(message, Ke)
        assert isinstance(sa, Sa)
        assert isinstance(ke, Ke)
        header = message.header
        (chosen,) = sa.proposals
        if change == "proposal":
            sa = Sa((replace(proposals("aes128gcm16-prfsha256-curve25519")[0], number=1),))  # type: ignore[type-var]
        elif change == "two proposals":
            sa = Sa((chosen, replace(chosen, number=2)))
        elif change == "group":
            ke = Ke(KeId.ECP_256, bytes(64))
        elif change == "no spi":
            header = replace(header, responder_spi=bytes(8))
        else:
            ke = Ke(ke.group, ke.data[:-1])
        payloads = tuple(sa if isinstance(p, Sa) else ke if isinstance(p, Ke) else p for p in message.payloads)
        forged = Message(header, payloads).encode()
        network.inject(replace(sent.datagram, data=forged), 0.01)
        return (0.02,)

    network.link = tamper
    up(network, a)
    assert_joined(a, b)


@pytest.mark.req("rfc7296-s3.3.6-06")
def test_a_choice_that_was_not_offered_never_becomes_an_ike_sa() -> None:
    """The exchange ends for want of a response that makes sense: no IKE_AUTH, and the reason is told."""
    network, a, b = pair()

    def other_choice(sent: Sent) -> Delays:
        if sent.sender is not b:
            return (0.01,)
        message = parse(sent.datagram)
        other = Sa((replace(proposals("aes128gcm16-prfsha256-curve25519")[0], number=1),))  # type: ignore[type-var]
        payloads = tuple(other if isinstance(item, Sa) else item for item in message.payloads)
        network.inject(replace(sent.datagram, data=Message(message.header, payloads).encode()), 0.01)
        return ()

    network.link = other_choice
    up(network, a)
    assert len(a.of(IkeSaFailed)) == 1
    assert {sent.datagram.data[18] for sent in network.sent if sent.sender is a} == {INIT}
    assert a.manager.sas == []


@pytest.mark.req("rfc7296-s2.5-04")
def test_version_2_is_the_only_one_that_is_spoken() -> None:
    """Between the lowest and the highest version here there is no other: of the sixteen, one is answered in kind."""
    genuine = pair()
    sa = genuine[1].manager.initiate("lab", None, genuine[1].address, 0.0)
    (request,) = genuine[1].manager.datagrams_to_send()
    assert sa.state is not None
    spoken = []
    for major in range(16):
        network, _a, b = pair()
        data = bytearray(request.data)
        data[17] = major << 4
        give(network, b, bytes(data), genuine[1].address)
        answers = [parse(sent.datagram) for sent in network.sent]
        if any(isinstance(payload, Sa) for answer in answers for payload in answer.payloads):
            spoken.append(major)
        elif major > 2:
            assert [notify_types(answer.payloads) for answer in answers] == [[NotifyType.INVALID_MAJOR_VERSION]]
        else:
            assert answers == []
    assert spoken == [2]


@pytest.mark.req("rfc7296-s3.3.4-08")
def test_a_suite_that_every_implementation_has_is_refused_where_it_is_not_configured() -> None:
    """RFC 8247 has AES-CBC with HMAC-SHA2-256 and group 14 as MUST: local policy has the last word."""
    network, a, b = pair(
        a={"proposals": proposals("aes128-sha256-modp2048")},
        b={"proposals": proposals("aes256gcm16-prfsha512-ecp384")},
    )
    up(network, a)
    (failed,) = a.of(IkeSaFailed)
    assert isinstance(failed, IkeSaFailed)
    assert failed.notify_type == NotifyType.NO_PROPOSAL_CHOSEN
    assert b.manager.remembered == 0


@pytest.mark.req("rfc7296-s2.5-02", "rfc7296-s2.5-03", "rfc7296-s3.1-07")
def test_higher_major_version_is_dropped_and_answered_with_ours() -> None:
    network, a, b = pair()
    data = bytearray(clear(INIT, (Nonce(bytes(32)),)))
    data[17] = 0x30
    give(network, b, bytes(data), a.address)
    message = parse(last_sent(network))
    assert notify_types(message.payloads) == [NotifyType.INVALID_MAJOR_VERSION]
    assert message.header.major_version == 2
    assert (message.header.exchange_type, message.header.is_response) == (INIT, True)
    assert b.manager.remembered == 0
    data[19] |= 0x20  # a response: never answered
    give(network, b, bytes(data), a.address)
    data[19] &= ~0x20
    data[17] = 0x10  # IKEv1
    give(network, b, bytes(data), a.address)
    assert len(network.sent) == 1


@pytest.mark.req(
    "rfc7296-s2.5-01", "rfc7296-s2.5-05", "rfc7296-s2.5-08", "rfc7296-s3.1-09", "rfc7296-s3.1-11", "rfc7296-s3.1-16"
)
def test_minor_version_reserved_bits_and_version_flag_are_ignored() -> None:
    network, a, b = pair()

    def futurize(datagram: Datagram) -> Datagram:
        # Only in the first request, which no ICV protects; AUTH covers it, so the initiator signs what it sent.
        data = bytearray(datagram.data)
        if data[18] == INIT and not data[19] & 0x20:
            data[17] = 0x27
            data[19] |= 0xC7 | 0x10
        return replace(datagram, data=bytes(data))

    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    give(network, b, futurize(datagram).data, a.address)
    message = parse(last_sent(network))
    assert isinstance(first(message, Ke), Ke)
    assert (message.header.major_version, message.header.minor_version) == (2, 0)
    assert (message.header.reserved_flags, message.header.higher_version) == (0, False)


@pytest.mark.req("rfc7296-s2.5-09", "rfc7296-s2.5-12", "rfc7296-s2.5-15")
def test_unknown_payloads_are_skipped_and_any_order_is_taken() -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    message = parse(datagram)
    shuffled = (unknown(), *reversed(message.payloads), unknown(150))
    give(network, b, Message(message.header, shuffled).encode(), a.address)
    assert first(parse(last_sent(network)), Ke)
    assert b.manager.half_open_count == 1


@pytest.mark.req("rfc7296-s2.5-10", "rfc7296-s2.5-11")
def test_unknown_critical_payload_is_refused_with_its_type() -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    message = parse(datagram)
    give(network, b, Message(message.header, (*message.payloads, unknown(201, critical=True))).encode(), a.address)
    (notify,) = parse(last_sent(network)).payloads
    assert notify == Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([201]))
    assert b.manager.remembered == 0


@pytest.mark.parametrize("missing", [Sa, Ke, Nonce])
def test_request_without_a_mandatory_payload_is_invalid_syntax(missing: type) -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    message = parse(datagram)
    kept = tuple(payload for payload in message.payloads if not isinstance(payload, missing))
    give(network, b, Message(message.header, kept).encode(), a.address)
    assert notify_types(parse(last_sent(network)).payloads) == [NotifyType.INVALID_SYNTAX]
    assert b.manager.remembered == 0


@pytest.mark.req("rfc7296-s2.1-02")
def test_repeated_first_request_gets_the_same_response_and_no_second_sa() -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    for _ in range(3):
        give(network, b, datagram.data, a.address)
    assert len({sent.datagram.data for sent in network.sent}) == 1
    assert b.manager.remembered == 1


@pytest.mark.req("rfc7296-s2.1-02", "rfc7296-s2.1-05")
def test_first_request_again_after_ike_auth_is_ignored() -> None:
    network, a, b = pair()
    up(network, a)
    before = len(network.sent)
    give(network, b, network.sent[0].datagram.data, a.address)
    assert len(network.sent) == before
    assert b.manager.remembered == 1


def test_two_peers_with_the_same_spi_behind_one_address_are_told_apart() -> None:
    """RFC 7296 section 2.1: the initiator's SPI and address do not suffice."""
    network, a, b = pair()
    for seed in (1, 2):
        one = Network(seed).add("x", A, [connection(A, B)])
        one.manager.new_ike_spi = lambda: b"\x77" * 8  # type: ignore[method-assign]
        one.manager.initiate("lab", None, one.address, 0.0)
        (datagram,) = one.manager.datagrams_to_send()
        give(network, b, datagram.data, a.address)
    assert b.manager.half_open_count == 2


@pytest.mark.req("rfc7296-s2.6-01", "rfc7296-s3.1-03")
def test_spis_are_unique_and_not_zero() -> None:
    network, a, _ = pair(link=lambda sent: ())
    fixed = iter([bytes(8), b"\x01" * 8, b"\x01" * 8, b"\x02" * 8])
    plain = a.manager._entropy.octets
    a.manager._entropy.octets = lambda count: next(fixed) if count == 8 else plain(count)  # type: ignore[method-assign]
    made = [a.manager.initiate("lab", None, a.address, network.now).spi_i for _ in range(2)]
    assert made == [b"\x01" * 8, b"\x02" * 8]


@pytest.mark.req("rfc7296-s2.11-01", "rfc7296-s2.11-02", "rfc7296-s2.11-03", "rfc7296-s2.23-02", "rfc7296-s2.23-03")
def test_request_from_any_port_is_answered_to_that_port_from_the_address_that_it_reached() -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    give(network, b, datagram.data, Address(A, 31337))
    answer = last_sent(network)
    assert (answer.local, answer.remote) == (Address(B, 500), Address(A, 31337))


@pytest.mark.req("rfc7296-s2.10-02", "rfc7296-s2.10-03")
def test_nonces_have_32_octets_half_of_the_largest_prf_key() -> None:
    network, a, _ = pair()
    up(network, a)
    nonces = [first(parse(network.sent[n].datagram), Nonce) for n in (0, 1)]
    assert [len(nonce.data) for nonce in nonces] == [32, 32]
    assert nonces[0] != nonces[1]


def test_established_event_only_comes_after_both_proofs() -> None:
    """A responder that knows no PSK can lead an initiator into IKE_AUTH, no further."""
    from ikev2.crypto.secret import SecretOctets

    network, a, b = pair(b={"psk": SecretOctets("PSK", b"another")})
    up(network, a)
    assert a.of(IkeSaEstablished) == b.of(IkeSaEstablished) == []


def test_cookie_that_comes_twice_makes_one_more_request() -> None:
    """The network doubles every datagram: each IKE_SA_INIT request still goes out once."""
    network, a, b = pair(limits=ALWAYS_COOKIES, link=lambda sent: (0.01, 0.011))
    up(network, a)
    assert_joined(a, b)
    of_a = [sent for sent in network.sent if sent.sender is a and sent.datagram.data[18] == INIT]
    assert len(of_a) == 2


def test_second_cookie_for_a_repeated_request_leaves_the_request_that_auth_covers() -> None:
    """The path takes longer than the first timeout, and the responder changes its secret between the two requests."""
    limits = Limits(cookie_threshold=0, cookie_secret_s=0.9)
    network, a, b = pair(limits=limits, link=lambda sent: (0.6,))
    up(network, a)
    answers = [parse(sent.datagram).payloads for sent in network.sent if sent.sender is b]
    cookies = [payloads[0] for payloads in answers if NotifyType.COOKIE in notify_types(payloads)]
    assert len(set(cookies)) == 2
    _, with_cookie = init_requests(network, a)
    assert with_cookie.payloads[0] == cookies[0]
    assert_joined(a, b)


def test_late_cookie_that_never_comes_costs_one_repetition_and_no_more() -> None:
    """The first request is lost, and the cookie for the second is of no use: the next that comes is not a late one."""
    network, a, b = pair(limits=ALWAYS_COOKIES)
    of_a: list[Sent] = []

    def link(sent: Sent) -> Delays:
        if sent.sender is a:
            of_a.append(sent)
            if len(of_a) == 3:
                b.manager._strangers.cookies._secrets.clear()
        return () if len(of_a) == 1 else (0.01,)

    network.link = link
    up(network, a)
    _, useless, useful = init_requests(network, a)
    assert useless.payloads[0] != useful.payloads[0]
    assert [sent.datagram.data[18] for sent in of_a[:5]] == [INIT] * 5
    assert of_a[5].datagram.data[18] == ExchangeType.IKE_AUTH
    assert_joined(a, b)


@pytest.mark.parametrize("change", [-1, 1])
def test_public_value_of_a_wrong_length_is_invalid_syntax_and_leaves_nothing(change: int) -> None:
    network, a, b = pair()
    a.manager.initiate("lab", None, a.address, 0.0)
    (datagram,) = a.manager.datagrams_to_send()
    message = parse(datagram)
    payloads = tuple(
        Ke(payload.group, (payload.data + b"x")[: len(payload.data) + change])
        if isinstance(payload, Ke)
        else payload
        for payload in message.payloads
    )
    give(network, b, Message(message.header, payloads).encode(), a.address)
    assert notify_types(parse(last_sent(network)).payloads) == [NotifyType.INVALID_SYNTAX]
    assert b.manager.remembered == 0
