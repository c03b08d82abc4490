"""IKE fragmentation, RFC 7383: large IKE_AUTH messages over a network that loses, doubles, reorders and forges.

HDR(MID=1), SKF(NextPld=IDi, Frag#=1, TotalFrags=m) {...}  -->
...
HDR(MID=1), SKF(NextPld=0, Frag#=m, TotalFrags=m) {...}  -->
                                      <--  HDR(MID=1), SKF(NextPld=IDr, Frag#=1, TotalFrags=m) {...}
                                      <--  ...
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from sim.craft import give, last_sent, notify_types, parse, sealed
from sim.network import (
    FAST,
    A,
    B,
    Host,
    Link,
    Network,
    Sent,
    assert_joined,
    assert_nothing_left,
    connected,
    connection,
    pair,
    perfect,
    proposals,
    up,
)

from ikev2.core.config import Identity, Limits, Retransmission
from ikev2.core.events import IkeSaDeleted, IkeSaEstablished, IkeSaFailed, PeerAlive
from ikev2.core.fragmentation import PROBE_RETRANSMISSIONS
from ikev2.core.transitions import State
from ikev2.core.types import Datagram
from ikev2.errors import IntegrityError
from ikev2.iana import AuthMethod, ExchangeType, IdType, NotifyType, PayloadType
from ikev2.wire.message import sealed_prefix
from ikev2.wire.payloads import (
    Auth,
    EncryptedFragment,
    Notify,
    Payload,
    VendorId,
)

AUTH, INFO, INIT = ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL, ExchangeType.IKE_SA_INIT
UDP4 = 28


def large(octets: int = 3000) -> dict[str, object]:
    """A connection whose IKE_AUTH message of this end has a long identity in it."""
    return {"local_id": Identity(IdType.ID_KEY_ID, bytes(range(256)) * (octets // 256)), "remote_id": None}


def large_pair(
    seed: int = 0, link: Link = perfect, octets: int = 3000, *, b_large: bool = True, **changes: object
) -> tuple[Network, Host, Host]:
    changes = {"fragment_size": 1280, **changes}
    mine = {**large(octets), **changes}
    other = {**(large(octets) if b_large else {"remote_id": None}), **changes}
    return pair(seed, link, a=mine, b=other)


def skf(datagram: Datagram | bytes) -> EncryptedFragment | None:
    payload = parse(datagram).encrypted
    return payload if isinstance(payload, EncryptedFragment) else None


def numbers(datagram: Datagram | bytes) -> tuple[int, int] | None:
    payload = skf(datagram)
    return None if payload is None else (payload.fragment_number, payload.total_fragments)


def sent_by(network: Network, host: Host, exchange: ExchangeType = AUTH) -> list[Datagram]:
    return [sent.datagram for sent in network.sent if sent.sender is host and sent.datagram.data[18] == exchange]


def cut(
    sender: Host,
    exchange: ExchangeType,
    payloads: tuple[Payload, ...],
    octets: int = 400,
    *,
    message_id: int | None = None,
    is_response: bool = False,
) -> tuple[bytes, ...]:
    """Authentic IKE Fragment messages of at most so many octets, in the name of this host's one SA."""
    sa = sender.sa
    assert sa.channel is not None
    number = sa.requests.next_id if message_id is None else message_id
    plain = sa.channel.prepare(exchange, number, payloads, is_response=is_response)
    return sa.channel.seal_fragments(plain, octets)


FILLER = (Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED), VendorId(bytes(1500)))
"""An INFORMATIONAL request that asks for nothing and is long."""


def answers(network: Network, host: Host) -> list[Datagram]:
    """What the host sends from now on, without letting it arrive."""
    network.flush(host)
    return [sent.datagram for sent in network.sent if sent.sender is host]


# --- negotiation, section 2.3 and 2.4 ---


@pytest.mark.req("rfc7383-s2.3-01", "rfc7383-s2.3-02", "rfc7383-s2.3-03")
def test_both_ends_say_that_they_do_it() -> None:
    network, a, b = large_pair()
    up(network, a)
    for host in (a, b):
        (init,) = sent_by(network, host, INIT)
        (said,) = [
            payload
            for payload in parse(init).payloads
            if isinstance(payload, Notify) and payload.notify_type == NotifyType.IKEV2_FRAGMENTATION_SUPPORTED
        ]
        assert (said.protocol, said.spi, said.data) == (0, b"", b"")
        assert bytes.fromhex("0000402e") in init.data
    assert_joined(a, b)


@pytest.mark.req("rfc7383-s2.4-01")
@pytest.mark.parametrize(
    ("of_a", "of_b"), [("no", "yes"), ("yes", "no"), ("no", "force"), ("force", "no"), ("no", "no")]
)
def test_it_is_not_used_unless_both_ends_said_so(of_a: str, of_b: str) -> None:
    """Not by the initiator, not by the responder; and a responder that is not asked does not speak of it."""
    network, a, b = pair(a={**large(), "fragmentation": of_a}, b={**large(), "fragmentation": of_b})
    up(network, a)
    assert_joined(a, b)
    assert [skf(sent.datagram) for sent in network.sent] == [None] * 4
    said = NotifyType.IKEV2_FRAGMENTATION_SUPPORTED in notify_types(parse(network.sent[1].datagram).payloads)
    assert not said
    assert not a.sa.fragmentation.negotiated
    assert not b.sa.fragmentation.negotiated


@pytest.mark.req("rfc7383-s2.4-01")
def test_fragments_that_were_not_negotiated_are_dropped() -> None:
    network, a, b = connected(a={"fragmentation": "no"})
    before = b.manager.sas[0].dropped
    for fragment in cut(a, INFO, FILLER):
        give(network, b, fragment, a.address)
    assert b.sa.dropped == before + len(cut(a, INFO, FILLER))
    assert b.sa.responses.expected_id == 2
    assert b.sa.fragmentation.request is None


# --- sending, sections 2.5 and 2.5.1 ---


@pytest.mark.req("rfc7383-s2.5-01", "rfc7383-s2.5-02", "rfc7383-s2.5-03", "rfc7383-s2.5-04", "rfc7383-s2.5.1-01")
@pytest.mark.parametrize("size", [200, 300, 576, 1280, 1500])
@pytest.mark.parametrize(
    "suite",
    ["aes256gcm16-prfsha256-curve25519", "aes128-sha512-prfsha512-ecp256", "chacha20poly1305-prfsha256-ecp256"],
)
def test_a_large_message_goes_in_fragments_that_fit(size: int, suite: str) -> None:
    network, a, b = large_pair(fragment_size=size, proposals=proposals(suite))
    up(network, a)
    assert_joined(a, b)
    for host in (a, b):
        fragments = sent_by(network, host)
        total = len(fragments)
        assert total >= 3
        assert [numbers(fragment) for fragment in fragments] == [(number, total) for number in range(1, total + 1)]
        assert all(len(fragment.data) + UDP4 <= size for fragment in fragments)
        # None is so small that the next one's octets would have fitted in it.
        assert all(len(fragment.data) + UDP4 > size - 17 for fragment in fragments[:-1])
        first, *others = [skf(fragment) for fragment in fragments]
        assert first is not None
        assert first.first_payload == (PayloadType.IDi if host is a else PayloadType.IDr)
        assert all(other is not None and other.first_payload == 0 for other in others)
        assert all(len(parse(fragment).payloads) == 1 for fragment in fragments)


@pytest.mark.req("rfc7383-s2.5-07")
def test_headers_of_fragments_differ_in_length_alone() -> None:
    network, a, _ = large_pair()
    up(network, a)
    headers = {fragment.data[:24] for fragment in sent_by(network, a)}
    (header,) = headers
    assert header[:16] == a.sa.spi_i + a.sa.spi_r
    assert header[16:] == bytes([PayloadType.SKF, 0x20, AUTH, 0x08, 0, 0, 0, 1])
    assert all(int.from_bytes(each.data[24:28], "big") == len(each.data) for each in sent_by(network, a))


@pytest.mark.req("rfc7383-s2.5.1-03", "rfc7383-s2.5.1-04")
@pytest.mark.parametrize(
    ("hosts", "encap", "overhead", "size"),
    [
        ((A, B), False, 28, 576),
        ((A, B), True, 28 + 4, 576),
        (("2001:db8::1", "2001:db8::2"), False, 48, 1280),
        (("2001:db8::1", "2001:db8::2"), True, 48 + 4, 1280),
    ],
    ids=["IPv4", "IPv4 with the non-ESP marker", "IPv6", "IPv6 with the non-ESP marker"],
)
def test_the_size_is_that_of_the_ip_datagram_and_the_recommended_one(
    hosts: tuple[str, str], encap: bool, overhead: int, size: int
) -> None:
    network = Network()
    a = network.add("a", hosts[0], [connection(*hosts, **large(), encap=encap)])
    b = network.add("b", hosts[1], [connection(*reversed(hosts), **large(), encap=encap)])
    up(network, a)
    assert_joined(a, b)
    for host in (a, b):
        sizes = [len(fragment.data) + overhead for fragment in sent_by(network, host)]
        assert size - 1 <= max(sizes) <= size


@pytest.mark.req("rfc7383-s2.4-04")
def test_small_messages_go_whole() -> None:
    network, a, b = connected()
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
    a.manager.delete_child(next(iter(a.installed.values())), network.now)
    network.run()
    assert a.sa.fragmentation.negotiated
    assert [skf(sent.datagram) for sent in network.sent] == [None] * len(network.sent)


def test_force_sends_everything_in_fragments_even_in_one() -> None:
    network, a, b = connected(a={"fragmentation": "force", "fragment_size": 300}, b={"fragmentation": "force"})
    b.manager.check_liveness(b.sa, network.now)
    network.run()
    protected = [sent.datagram for sent in network.sent if sent.datagram.data[18] != INIT]
    assert all(skf(datagram) is not None for datagram in protected)
    assert [numbers(datagram) for datagram in protected[-2:]] == [(1, 1), (1, 1)]
    assert b.of(PeerAlive)
    assert_joined(a, b)


@pytest.mark.req("rfc7383-s2.4-05")
def test_a_response_goes_in_the_form_of_its_request_and_no_larger() -> None:
    network, a, b = large_pair(b_large=False)
    up(network, a)
    assert len(sent_by(network, a)) == 3
    assert [numbers(datagram) for datagram in sent_by(network, b)] == [(1, 1)]
    # The other way: a small request has a large response.
    network, a, b = pair(a={"remote_id": None}, b={**large(1536), "fragment_size": 1280})
    up(network, a)
    assert [numbers(datagram) for datagram in sent_by(network, a)] == [None]
    assert [numbers(datagram) for datagram in sent_by(network, b)] == [(1, 2), (2, 2)]


def test_fragments_of_a_response_are_no_larger_than_those_of_the_request_but_not_tiny() -> None:
    for size, largest in ((700, 700), (200, 576)):
        network, a, b = pair(a={**large(), "fragment_size": size}, b={**large(), "fragment_size": 1400})
        up(network, a)
        assert_joined(a, b)
        sizes = [len(datagram.data) + UDP4 for datagram in sent_by(network, b)]
        assert largest - 1 <= max(sizes) <= largest


@pytest.mark.req("rfc7383-s2.5.3-01", "rfc7383-s2.5.3-02", "rfc7383-s2.5-01")
@pytest.mark.parametrize("octets", [10, 200, 320, 1000])
def test_unprotected_payloads_go_in_the_first_fragment(octets: int) -> None:
    """No exchange has them; of 320 octets the first fragment has no content, of 1000 it is too long, but is there."""

    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    clear = VendorId(bytes(octets))
    plain = channel.prepare(INFO, a.sa.requests.next_id, FILLER, is_response=False)
    plain = replace(plain, clear=(clear,))
    assert channel.whole_octets(plain) == len(channel.seal_whole(plain))
    first, *others = fragments = channel.seal_fragments(plain, 400)
    assert parse(first).clear_payloads == (clear,)
    assert [numbers(fragment) for fragment in fragments] == [(n + 1, len(fragments)) for n in range(len(fragments))]
    assert all(parse(other).clear_payloads == () for other in others)
    assert all(len(other) <= 400 for other in others)
    assert octets == 1000 or len(first) <= 400
    for fragment in fragments:
        give(network, b, fragment, a.address)
    # It is put together with them, and refused, because INFORMATIONAL has none.
    assert b.tracer.lines.count("in INFORMATIONAL request 2 [ V N(ESP_TFC_PAD_N) V ]") == 1
    assert len(sent_by(network, b, INFO)) >= 1


def test_unprotected_payloads_in_another_fragment_are_not_taken() -> None:

    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    plain = channel.prepare(INFO, 2, FILLER, is_response=False)
    first, *_ = channel.seal_fragments(plain, 400)
    total = numbers(first)
    assert total is not None
    odd = channel._seal(
        plain, EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, 2, total[1], b""), b"x", (VendorId(b"x"),)
    )
    give(network, b, first, a.address)
    give(network, b, odd, a.address)
    assert b.sa.fragmentation.request is not None
    assert list(b.sa.fragmentation.request.contents) == [1]
    with pytest.raises(IntegrityError):
        channel.open_fragment(first, EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, 1, 1, bytes(40)))
    assert replace(plain, clear=()) == plain


# --- loss, duplication, reordering ---


FRAGMENTS_OF_A_LARGE_HANDSHAKE = 2 + 3 + 3


def test_a_large_handshake_has_as_many_messages_as_the_tests_below_go_through() -> None:
    network, a, b = large_pair()
    up(network, a)
    assert_joined(a, b)
    assert len(network.sent) == FRAGMENTS_OF_A_LARGE_HANDSHAKE


@pytest.mark.parametrize("delays", [(), (0.01, 0.01), (0.01, 3.0), (0.5,), (5.0,)], ids=lambda delays: str(delays))
@pytest.mark.parametrize("number", range(FRAGMENTS_OF_A_LARGE_HANDSHAKE))
def test_no_single_fragment_matters(number: int, delays: tuple[float, ...]) -> None:
    network, a, b = large_pair(link=lambda sent: delays if sent.number == number else (0.01,))
    up(network, a)
    assert_joined(a, b)
    for host in (a, b):
        assert len(host.of(IkeSaEstablished)) == 1
        assert host.sa.fragmentation.request is None
        assert host.sa.fragmentation.response is None
    a.manager.delete(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fragments_may_come_in_any_order(order: tuple[int, ...]) -> None:
    """Both of the request (numbers 2 to 4) and of the response (5 to 7)."""
    network, a, b = large_pair(link=lambda sent: (0.01 + 0.1 * order[(sent.number - 2) % 3],))
    up(network, a)
    assert_joined(a, b)
    assert len(network.sent) == FRAGMENTS_OF_A_LARGE_HANDSHAKE


def test_all_fragments_are_sent_again_and_are_the_same() -> None:
    network, a, b = large_pair(link=lambda sent: () if sent.number == 3 else (0.01,))
    up(network, a)
    assert_joined(a, b)
    fragments = [datagram.data for datagram in sent_by(network, a)]
    assert len(fragments) == 6
    assert fragments[:3] == fragments[3:]


@pytest.mark.parametrize("seed", range(40))
def test_chaos_of_fragments_ends_clean(seed: int) -> None:
    rng = random.Random(f"fragments {seed}")
    loss = rng.choice([0.05, 0.15, 0.25])

    def link(sent: Sent) -> list[float]:
        copies = 0 if rng.random() < loss else 2 if rng.random() < 0.2 else 1
        return [rng.uniform(0.001, 1.5) for _ in range(copies)]

    network, a, b = large_pair(seed, link, fragment_size=rng.choice([600, 1280]), dpd_delay_s=30.0)
    up(network, a, until=60.0)
    came_up = bool(a.of(IkeSaEstablished))
    for host in (a, b):
        for sa in host.manager.sas:
            host.manager.delete(sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    assert came_up or a.of(IkeSaFailed)


# --- receiving, section 2.6 ---


@pytest.mark.req("rfc7383-s2.6-02", "rfc7383-s2.6.1-01")
def test_a_fragment_that_is_here_already_is_dropped() -> None:
    network, a, b = connected()
    first, second, *_ = cut(a, INFO, FILLER)
    again, *_ = cut(a, INFO, FILLER)
    give(network, b, first, a.address)
    queue = b.sa.fragmentation.request
    assert queue is not None
    octets, expires_at, dropped = queue.octets, queue.expires_at, b.sa.dropped
    for copy in (first, again):
        give(network, b, copy, a.address)
    assert b.sa.fragmentation.request is queue
    assert (queue.octets, queue.expires_at, list(queue.contents)) == (octets, expires_at, [1])
    assert queue.first_data == first
    assert b.sa.dropped == dropped + 2
    give(network, b, second, a.address)
    assert list(queue.contents) == [1, 2]


@pytest.mark.req("rfc7383-s2.6-03")
def test_a_forged_fragment_is_dropped_and_keeps_no_place() -> None:
    """In each place, before the genuine one; the genuine ones make the message all the same."""
    network, a, b = connected()
    fragments = cut(a, INFO, FILLER)
    for fragment in fragments:
        for at in (0, 30, len(fragment) // 2, len(fragment) - 1):
            forged = bytearray(fragment)
            forged[at] ^= 0x01
            before = b.sa.fragmentation.request
            held = None if before is None else dict(before.contents)
            give(network, b, bytes(forged), a.address)
            assert b.sa.fragmentation.request is before
            assert held is None or before is None or before.contents == held
        give(network, b, fragment, a.address)
    assert b.sa.responses.expected_id == 3
    assert b.sa.fragmentation.request is None


@pytest.mark.req("rfc7383-s2.6-03", "rfc7383-s2.6-04")
def test_a_forged_fragment_of_a_larger_set_discards_nothing() -> None:
    network, a, b = connected()
    first, *others = cut(a, INFO, FILLER)
    give(network, b, first, a.address)
    forged = bytearray(others[0])
    forged[34:36] = (200).to_bytes(2, "big")
    give(network, b, bytes(forged), a.address)
    assert b.sa.fragmentation.request is not None
    assert list(b.sa.fragmentation.request.contents) == [1]
    for fragment in others:
        give(network, b, fragment, a.address)
    assert b.sa.responses.expected_id == 3


@pytest.mark.req("rfc7383-s2.6-01", "rfc7383-s2.6-04")
def test_a_fragment_of_a_larger_set_starts_the_reassembly_over() -> None:
    network, a, b = connected()
    large_ones, small_ones = cut(a, INFO, FILLER, 800), cut(a, INFO, FILLER, 300)
    assert 1 < len(large_ones) < len(small_ones)
    give(network, b, large_ones[0], a.address)
    give(network, b, small_ones[1], a.address)
    queue = b.sa.fragmentation.request
    assert queue is not None
    assert (queue.total, list(queue.contents)) == (len(small_ones), [2])
    # From now on the larger fragments are too late.
    for fragment in large_ones:
        give(network, b, fragment, a.address)
    assert b.sa.responses.expected_id == 2
    assert list(queue.contents) == [2]
    for fragment in small_ones:
        give(network, b, fragment, a.address)
    assert b.sa.responses.expected_id == 3


@pytest.mark.req("rfc7383-s2.6-01")
@pytest.mark.parametrize(("number", "total"), [(0, 4), (1, 0), (0, 0), (5, 4), (0xFFFF, 4)])
def test_numbers_that_cannot_be_are_dropped(number: int, total: int) -> None:
    """With a good ICV even: these octets are sealed as they are."""
    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    plain = channel.prepare(INFO, 2, FILLER, is_response=False)

    cipher = channel._outbound
    aad = bytearray(
        sealed_prefix(plain.header, EncryptedFragment(PayloadType.V, 1, 1, b""), cipher.sealed_octets(10))
    )
    aad[-4:] = number.to_bytes(2, "big") + total.to_bytes(2, "big")
    odd = bytes(aad) + cipher.seal(bytes(aad), bytes(10), cipher.new_iv(a.sa.entropy))
    dropped = b.sa.dropped
    give(network, b, odd, a.address)
    assert b.sa.dropped == dropped + 1
    assert b.sa.fragmentation.request is None
    assert b.sa.responses.expected_id == 2


@pytest.mark.req("rfc7383-s2.6-05", "rfc7383-s2.6-06")
def test_an_incomplete_request_is_forgotten_in_time_and_nothing_else_happens() -> None:
    policy = Retransmission(timeout_s=1.0, base=1.5, tries=4)
    network, a, b = connected(b={"retransmission": policy})
    first, *others = cut(a, INFO, FILLER)
    give(network, b, first, a.address)
    began = network.now
    network.run(began + policy.total_s - 0.01)
    assert b.sa.fragmentation.request is not None
    network.run(began + policy.total_s + 0.01)
    assert b.sa.fragmentation.request is None
    assert b.sa.state is State.ESTABLISHED
    assert b.manager.next_timer() is None
    for fragment in others:
        give(network, b, fragment, a.address)
    assert b.sa.responses.expected_id == 2  # the first one is missing now
    give(network, b, first, a.address)
    assert b.sa.responses.expected_id == 3


@pytest.mark.req("rfc7383-s2.6-05")
def test_an_incomplete_response_goes_with_its_request() -> None:
    """The response's second fragment never arrives: the initiator sends again, then gives up, and keeps nothing."""
    network, a, _ = large_pair(
        link=lambda sent: () if sent.sender.name == "b" and (numbers(sent.datagram) or (0,))[0] == 2 else (0.01,)
    )
    sa = up(network, a, until=1.0)
    assert sa.fragmentation.response is not None
    network.run()
    assert sa.state is State.CLOSED
    assert sa.fragmentation.response is None
    assert a.of(IkeSaFailed)


@pytest.mark.req("rfc7383-s2.6.1-02", "rfc7383-s2.6.1-03")
def test_after_the_response_only_the_first_fragment_brings_it_again() -> None:
    network, a, b = connected()
    fragments = cut(a, INFO, FILLER)
    for fragment in fragments:
        give(network, b, fragment, a.address)
    (response,) = sent_by(network, b, INFO)
    for fragment in fragments[1:]:
        give(network, b, fragment, a.address)
    assert sent_by(network, b, INFO) == [response]
    give(network, b, fragments[0], a.address)
    assert sent_by(network, b, INFO) == [response, response]
    assert b.sa.responses.expected_id == 3


@pytest.mark.req("rfc7383-s2.6.1-02", "rfc7383-s2.6.1-03")
def test_the_first_fragment_cut_anew_brings_the_response_again_when_it_is_authentic() -> None:
    network, a, b = connected()
    for fragment in cut(a, INFO, FILLER, 800):
        give(network, b, fragment, a.address)
    first, second, *_ = cut(a, INFO, FILLER, 300)
    forged = bytearray(first)
    forged[-1] ^= 1
    for fragment in (bytes(forged), second):
        give(network, b, fragment, a.address)
    assert len(sent_by(network, b, INFO)) == 1
    give(network, b, first, a.address)
    assert len(sent_by(network, b, INFO)) == 2
    assert b.sa.fragmentation.request is None


def test_a_whole_message_ends_the_reassembly_of_the_same() -> None:
    network, a, b = connected()
    give(network, b, cut(a, INFO, FILLER)[0], a.address)
    give(network, b, sealed(a, INFO, FILLER), a.address)
    assert b.sa.responses.expected_id == 3
    assert b.sa.fragmentation.request is None
    assert b.manager.next_timer() is None


def waiting() -> tuple[Network, Host, Host]:
    """a has asked whether b lives, and nothing arrives any more but what is given."""
    network, a, b = connected()
    network.link = lambda sent: ()
    a.manager.check_liveness(a.sa, network.now)
    network.flush(a)
    return network, a, b


def test_a_whole_response_ends_the_reassembly_of_the_same() -> None:
    network, a, b = waiting()
    give(network, a, cut(b, INFO, FILLER, message_id=2, is_response=True)[0], b.address)
    assert a.sa.fragmentation.response is not None
    give(network, a, sealed(b, INFO, (), message_id=2, is_response=True), b.address)
    assert a.of(PeerAlive)
    assert a.sa.fragmentation.response is None
    assert a.manager.next_timer() is None


def test_fragments_of_a_response_do_not_mix_with_those_of_the_one_before() -> None:
    """The first one was malformed in the end: a deletes the IKE SA, and takes the fragments of that answer."""
    network, a, b = waiting()
    old = cut(b, INFO, FILLER, 400, message_id=2, is_response=True)
    new = cut(b, INFO, FILLER, 800, message_id=3, is_response=True)
    give(network, a, old[0], b.address)
    give(network, a, sealed(b, INFO, (Auth(AuthMethod(2), b"x"),) * 2, message_id=2, is_response=True), b.address)
    assert a.sa.state is State.DELETING
    for fragment in new:
        give(network, a, fragment, b.address)
    assert a.manager.sas == []


def test_fragments_of_another_message_id_or_exchange_do_not_mix() -> None:
    network, a, b = connected()
    fragments, later = cut(a, INFO, FILLER), cut(a, INFO, FILLER, message_id=3)
    other = cut(a, ExchangeType.CREATE_CHILD_SA, FILLER)
    give(network, b, fragments[0], a.address)
    for fragment in (*later, *other[1:]):
        give(network, b, fragment, a.address)
    assert b.sa.fragmentation.request is not None
    assert list(b.sa.fragmentation.request.contents) == [1]
    assert b.sa.responses.expected_id == 2


def test_content_that_is_none_is_answered_with_invalid_syntax_when_it_is_whole() -> None:
    """Fragments are authentic, together they are no payloads: RFC 7296 section 2.21.3 holds."""

    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    plain = channel.prepare(INFO, 2, FILLER, is_response=False)
    plain = replace(plain, content=b"\xff" * 700)
    for fragment in channel.seal_fragments(plain, 300):
        give(network, b, fragment, a.address)
    assert b.of(IkeSaDeleted)
    answer = skf(last_sent(network))
    assert answer is not None
    content = channel.open_fragment(last_sent(network).data, answer)
    assert content[4:8] == bytes.fromhex("00000007")  # N(INVALID_SYNTAX)


# --- bounds, section 5 ---


@pytest.mark.req("rfc7383-s5-01", "rfc7383-s5-02")
@pytest.mark.parametrize("first", [0, 1])
def test_who_sends_more_than_a_message_may_have_loses_the_ike_sa(first: int) -> None:
    network, a, b = connected(limits=Limits(reassembly_octets=4000))
    fragments = cut(a, INFO, (VendorId(bytes(60_000)),), 1000)
    kept = []
    for fragment in fragments[first:]:
        give(network, b, fragment, a.address)
        sas = b.manager.sas
        kept.append(sas[0].fragmentation.request.octets if sas and sas[0].fragmentation.request else 0)
        if not kept[-1]:
            break
    assert max(kept) <= 4000
    assert len(kept) == 5
    network.run()
    assert b.of(IkeSaDeleted)
    assert "fragments" in str(b.of(IkeSaDeleted)[0])
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7383-s5-01", "rfc7383-s5-02")
def test_a_half_open_initiator_that_sends_too_many_fragments_is_forgotten() -> None:
    network, a, b = large_pair(octets=12_000, link=lambda sent: (0.01,))
    b.manager.limits = Limits(reassembly_octets=4000, half_open_timeout_s=30.0)
    up(network, a, until=10.0)
    assert b.manager.sas == []
    assert b.manager.half_open_count == 0
    network.run()
    assert_nothing_left(a, b)


@pytest.mark.req("rfc7383-s5-03")
def test_no_more_than_64_kilobytes_are_kept_and_half_a_thousand_fragments() -> None:
    limits = Limits()
    assert limits.reassembly_octets <= 65536
    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    plain = channel.prepare(INFO, 2, (VendorId(bytes(60_000)),), is_response=False)
    many = channel.seal_fragments(plain, 28 + 8 + 8 + 16 + 1 + 20)
    assert len(many) > limits.reassembly_fragments
    for fragment in many:
        give(network, b, fragment, a.address)
    assert b.sa.fragmentation.request is None
    assert b.sa.dropped == len(many)


@pytest.mark.parametrize("total", [513, 10_000, 0xFFFF])
def test_a_set_of_very_many_fragments_is_not_begun(total: int) -> None:
    network, a, b = connected()
    channel = a.sa.channel
    assert channel is not None
    plain = channel.prepare(INFO, 2, FILLER, is_response=False)
    for number in (1, 2, total):
        first = PayloadType.V if number == 1 else PayloadType.NO_NEXT_PAYLOAD
        give(network, b, channel._seal(plain, EncryptedFragment(first, number, total, b""), b"x"), a.address)
    assert b.sa.fragmentation.request is None


# --- path MTU, section 2.5.2 ---


def narrow(octets: int, *senders: str) -> Link:
    """A path that lets no IP datagram pass that is longer; for the messages of these senders only, if any."""
    blocked = senders or ("a", "b")

    def link(sent: Sent) -> tuple[float, ...]:
        too_long = len(sent.datagram.data) + UDP4 > octets and sent.datagram.data[18] != INIT
        return () if too_long and sent.sender.name in blocked else (0.01,)

    return link


def sizes(fragments: list[Datagram]) -> list[int]:
    return [len(fragment.data) + UDP4 for fragment in fragments]


@pytest.mark.req("rfc7383-s2.5.2-02", "rfc7383-s2.5.2-03", "rfc7383-s2.5.2-07", "rfc7383-s2.4-02")
def test_fragments_that_get_no_answer_are_cut_smaller_and_smaller() -> None:
    """1500, 1280, 576 octets: after two retransmissions each, with more fragments each time, timers from the start."""
    network, a, b = large_pair(link=narrow(600), octets=5120, fragment_size=1500)
    times: list[tuple[float, tuple[int, int] | None, int]] = []
    inner = network.link

    def watched(sent: Sent) -> tuple[float, ...]:
        if sent.sender is a and sent.datagram.data[18] == AUTH:
            times.append((network.now, numbers(sent.datagram), len(sent.datagram.data) + UDP4))
        return tuple(inner(sent))

    network.link = watched
    up(network, a)
    assert_joined(a, b)
    begun = [(at, number) for at, number, _ in times if number is not None and number[0] == 1]
    totals = [number[1] for _, number in begun]
    assert totals == [totals[0]] * 3 + [totals[3]] * 3 + [totals[6]]
    assert totals[0] < totals[3] < totals[6]
    largest = {total: max(size for _, number, size in times if number and number[1] == total) for total in totals}
    assert list(largest.values()) == [1500, 1280, 576]
    gaps = [round(later[0] - earlier[0], 3) for earlier, later in itertools.pairwise(begun)]
    assert gaps == [1.0, 1.5, 2.25, 1.0, 1.5, 2.25]
    # What got through is the size from now on, at either end.
    assert a.sa.fragmentation.size == 576


@pytest.mark.req("rfc7383-s2.5.2-02")
def test_an_unfragmented_request_that_gets_no_answer_goes_in_fragments() -> None:
    network, a, b = large_pair(link=narrow(600), octets=768)
    up(network, a)
    assert_joined(a, b)
    sent = [numbers(datagram) for datagram in sent_by(network, a)]
    assert sent[: 1 + PROBE_RETRANSMISSIONS] == [None] * 3
    assert sent[3:5] == [(1, 2), (2, 2)]
    assert all(size <= 576 for size in sizes(sent_by(network, a)[3:]))
    assert all(size <= 600 for size in sizes(sent_by(network, b)))


@pytest.mark.req("rfc7383-s2.5.2-01", "rfc7383-s2.4-03")
def test_each_exchange_starts_with_what_got_through_and_probes_anew() -> None:
    network, a, b = large_pair(link=narrow(1300), octets=5120, fragment_size=1500)
    up(network, a)
    assert a.sa.fragmentation.size == 1280
    network.sent.clear()
    ask_at_length(a)
    a.manager.check_liveness(a.sa, network.now)
    network.run()
    assert max(sizes(sent_by(network, a, INFO))) == 1280
    assert len(sent_by(network, a, INFO)) == 2
    # The path becomes narrower.
    network.link = narrow(600)
    network.sent.clear()
    a.manager.check_liveness(a.sa, network.now)
    network.run()
    assert max(sizes(sent_by(network, a, INFO)[:2])) == 1280
    assert max(sizes(sent_by(network, a, INFO)[-2:])) <= 576
    assert a.sa.fragmentation.size == 576
    assert len(a.of(PeerAlive)) == 2
    assert_joined(a, b)


def ask_at_length(host: Host) -> None:
    """Let this host's liveness checks be long, so that they are fragmented."""
    sa = host.sa
    plain = sa.send_request

    def send_request(exchange: ExchangeType, payloads: tuple[Payload, ...], purpose: object, now: float) -> None:
        plain(exchange, (*payloads, *FILLER), purpose, now)

    sa.send_request = send_request  # type: ignore[method-assign]


@pytest.mark.req("rfc7383-s2.5.2-04")
def test_at_the_smallest_size_the_request_goes_on_until_the_usual_end() -> None:
    network, a, _ = large_pair(link=narrow(400))
    sa = up(network, a)
    firsts = [number for datagram in sent_by(network, a) if (number := numbers(datagram)) and number[0] == 1]
    smallest = firsts[-1]
    assert firsts == [firsts[0]] * (1 + PROBE_RETRANSMISSIONS) + [smallest] * (1 + FAST.tries)
    assert sa.state is State.CLOSED
    assert a.of(IkeSaFailed)


@pytest.mark.req("rfc7383-s2.5.2-07")
def test_a_smaller_size_that_makes_no_more_fragments_is_passed_over() -> None:
    network, a, _ = large_pair(link=narrow(100), octets=512, fragment_size=700)
    up(network, a)
    totals = [number[1] for datagram in sent_by(network, a) if (number := numbers(datagram))]
    assert set(totals) == {2}
    assert max(sizes(sent_by(network, a))) <= 700
    assert len({datagram.data for datagram in sent_by(network, a)}) == 2  # never cut again


@pytest.mark.req("rfc7383-s2.4-02")
def test_a_response_that_does_not_arrive_is_cut_smaller_when_its_request_keeps_coming() -> None:
    network, a, b = pair(link=narrow(600, "b"), a={"remote_id": None}, b={**large(768), "fragment_size": 1280})
    up(network, a)
    assert_joined(a, b)
    assert len(sent_by(network, a)) == 1 + PROBE_RETRANSMISSIONS
    responses = [numbers(datagram) for datagram in sent_by(network, b)]
    assert responses == [None, None, (1, 2), (2, 2)]


def test_a_response_follows_its_request_to_smaller_fragments() -> None:
    """Both too large for the path, but the request only is lost at first: then the response is cut like the request."""
    network, a, b = large_pair(link=narrow(600))
    up(network, a)
    assert_joined(a, b)
    assert max(sizes(sent_by(network, b))) <= 576


# --- what ICMP says of the path, section 2.5.2 ---


@pytest.mark.req("rfc7383-s2.5.2-05", "rfc7383-s2.5.2-06", "rfc7383-s2.5.2-07", "rfc7383-s2.5.2-03")
def test_what_icmp_calls_too_large_is_cut_to_the_size_it_names_at_once() -> None:
    """The probe of 1500 octets is not sent again: in its place go more fragments, and the timers start over."""
    network, a, b = large_pair(link=narrow(1000), octets=5120, fragment_size=1500)
    up(network, a, until=0.5)
    probe = [numbers(datagram) for datagram in sent_by(network, a)]
    a.manager.note_path_mtu(B, 1000, network.now)
    network.run(0.51)
    again = sent_by(network, a)[len(probe) :]
    assert sizes(again)[0] == 1000
    assert max(sizes(again)) == 1000
    assert len(again) > len(probe)
    assert {number[1] for datagram in again if (number := numbers(datagram))} == {len(again)}
    assert a.sa.next_timer() == pytest.approx(0.5 + FAST.delay_s(1))
    network.run()
    assert_joined(a, b)
    assert len(sent_by(network, a)) == len(probe) + len(again)  # nothing of it was sent a third time
    assert a.sa.fragmentation.size == 1000


@pytest.mark.req("rfc7383-s2.5.1-02")
@pytest.mark.parametrize(
    ("configured", "told", "used"), [(0, 1400, 1400), (0, 400, 400), (1280, 1400, 1280), (1280, 700, 700)]
)
def test_what_is_known_of_the_path_is_used_from_the_first_message_on(configured: int, told: int, used: int) -> None:
    network, a, b = large_pair(fragment_size=configured)
    a.manager.note_path_mtu(B, told, 0.0)
    up(network, a)
    assert_joined(a, b)
    assert max(sizes(sent_by(network, a))) == used


def test_after_ten_minutes_what_was_known_is_not_known_any_more() -> None:
    network, a, _ = large_pair(fragment_size=0)
    a.manager.note_path_mtu(B, 1400, 0.0)
    network.now = 600.0
    up(network, a)
    assert max(sizes(sent_by(network, a))) == 576


@pytest.mark.req("rfc7383-s2.5.1-02", "rfc7383-s2.4-02")
def test_a_response_that_icmp_called_too_large_is_cut_when_its_request_comes_again() -> None:
    network, a, b = pair(link=narrow(1000, "b"), a={"remote_id": None}, b={**large(2048), "fragment_size": 4000})
    up(network, a, until=0.5)
    b.manager.note_path_mtu(A, 1000, network.now)
    network.run()
    assert_joined(a, b)
    assert len(sent_by(network, a)) == 2  # once again, and its response got through
    assert [numbers(datagram) for datagram in sent_by(network, b)] == [None, (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("told", [1500, 9000, 0, -1])
def test_icmp_that_names_no_smaller_size_changes_nothing(told: int) -> None:
    network, a, b = large_pair(link=narrow(600), octets=5120, fragment_size=1500)
    up(network, a, until=0.5)
    sent = len(network.sent)
    a.manager.note_path_mtu(B, told, network.now)
    a.manager.note_path_mtu("198.51.100.7", 700, network.now)
    network.run(0.6)
    assert len(network.sent) == sent
    network.run()
    assert_joined(a, b)


def test_icmp_that_anybody_can_forge_makes_neither_tiny_fragments_nor_work_without_end() -> None:
    network, a, _ = large_pair(link=narrow(1), fragment_size=1500)
    up(network, a, until=0.5)
    a.manager.note_path_mtu(B, 68, network.now)
    network.run(0.6)
    assert max(sizes(sent_by(network, a)[-2:])) == 200
    before = len(sent_by(network, a))
    for number in range(1000):
        a.manager.note_path_mtu(B, 1499 - number, network.now)
    network.run(0.7)
    assert len(sent_by(network, a)) == before


def test_no_ipv6_path_is_taken_for_narrower_than_1280_octets() -> None:
    hosts = ("2001:db8::1", "2001:db8::2")
    network = Network()
    a = network.add("a", hosts[0], [connection(*hosts, **large())])
    network.add("b", hosts[1], [connection(*reversed(hosts), **large())])
    a.manager.note_path_mtu(hosts[1], 600, 0.0)
    up(network, a)
    assert max(len(datagram.data) + 48 for datagram in sent_by(network, a)) == 1280


def test_only_what_could_go_in_fragments_of_ours_asks_routers_not_to_cut_it() -> None:
    network, a, b = large_pair(fragment_size=600)
    up(network, a)
    assert_joined(a, b)
    asked = {sent.datagram.data[18]: sent.datagram.path_mtu_wanted for sent in network.sent}
    assert asked == {INIT: False, AUTH: True}
    network, a, _ = large_pair(fragmentation="no")
    up(network, a)
    assert not any(sent.datagram.path_mtu_wanted for sent in network.sent)


# --- what happens to everything else ---


def test_a_fragmented_life_leaves_nothing(  # deletes and liveness checks in fragments, from either end
) -> None:
    network, a, b = large_pair(fragmentation="force", fragment_size=200)
    up(network, a)
    for host in (a, b):
        host.manager.check_liveness(host.sa, network.now)
        network.run()
    a.manager.delete_child(next(iter(a.installed.values())), network.now)
    network.run()
    b.manager.delete(b.sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    assert all(skf(sent.datagram) is not None for sent in network.sent if sent.datagram.data[18] != INIT)


def test_a_lingering_sa_answers_the_first_fragment_of_the_delete_again() -> None:
    network, a, b = connected(a={"fragmentation": "force"}, b={"fragmentation": "force"})
    network.link = lambda sent: () if sent.sender is b and len(sent_by(network, b, INFO)) == 1 else (0.01,)
    a.manager.delete(a.sa, network.now)
    network.run()
    assert_nothing_left(a, b)
    assert len(sent_by(network, a, INFO)) == 2
    assert len(a.of(IkeSaDeleted)) == 1
    (deleted,) = a.of(IkeSaDeleted)
    assert "answer" not in str(deleted)


def test_the_log_tells_of_fragments_as_strongswan_does() -> None:
    network, a, b = large_pair()
    up(network, a)
    assert any("splitting IKE message" in line and "into 3 fragments" in line for line in a.tracer.lines)
    assert [line for line in b.tracer.lines if "EF(" in line] == [
        f"in IKE_AUTH request 1 [ EF({number}/3) ]" for number in (1, 2, 3)
    ]
    assert any(line.startswith("in IKE_AUTH request 1 [ IDi ") for line in b.tracer.lines)
