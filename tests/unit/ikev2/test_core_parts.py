"""The small parts of the core: identities, connections, cookies, NAT digests, windows, limits, impairments."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.network import (
    A,
    B,
    Network,
    SeededEntropy,
    assert_joined,
    assert_nothing_left,
    connection,
    pair,
    up,
)

from ikev2.core import nat
from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.config import Limits, Retransmission
from ikev2.core.cookie import CookieJar
from ikev2.core.halfopen import HalfOpenTable, TokenBucket
from ikev2.core.impair import Knob
from ikev2.core.info import IkeSaInfo
from ikev2.core.types import Address
from ikev2.core.window import Requests, Responses
from ikev2.crypto.keymat import IkeKeys
from ikev2.crypto.suites import IkeSuite
from ikev2.errors import ConfigurationError
from ikev2.iana import ExchangeType, NotifyType
from ikev2.wire.payloads import Notify

SPI_I, SPI_R = bytes(range(8)), bytes(range(8, 16))

# --- configuration ---


@pytest.mark.parametrize(
    ("remote_addrs", "host", "wanted"),
    [
        (("192.0.2.2",), "192.0.2.2", True),
        (("192.0.2.2",), "192.0.2.3", False),
        (("%any",), "2001:db8::9", True),
        (("198.51.100.0/24", "192.0.2.2"), "198.51.100.77", True),
        (("peer.example",), "192.0.2.2", False),
    ],
)
def test_connection_serves_its_addresses(remote_addrs: tuple[str, ...], host: str, wanted: bool) -> None:
    assert connection(A, B, remote_addrs=remote_addrs).serves(A, host) is wanted


# --- cookies ---


def test_cookie_is_known_again_until_the_secret_has_changed_twice() -> None:
    jar = CookieJar(SeededEntropy(1), secret_s=60.0)
    cookie = jar.bake(b"n" * 32, A, SPI_I, 10.0)
    assert jar.holds(cookie, b"n" * 32, A, SPI_I, 10.0)
    assert jar.holds(cookie, b"n" * 32, A, SPI_I, 75.0)
    younger = jar.bake(b"n" * 32, A, SPI_I, 75.0)
    assert younger != cookie
    assert younger[0] != cookie[0]
    assert jar.holds(cookie, b"n" * 32, A, SPI_I, 100.0)
    assert not jar.holds(cookie, b"n" * 32, A, SPI_I, 140.0)
    idle = jar.bake(b"n" * 32, A, SPI_I, 1000.0)
    assert not jar.holds(idle, b"n" * 32, A, SPI_I, 1121.0)


@pytest.mark.parametrize("change", range(4))
def test_cookie_is_for_one_nonce_address_and_spi(change: int) -> None:
    jar = CookieJar(SeededEntropy(1), secret_s=60.0)
    args: list[tuple[bytes, str, bytes]] = [(b"n" * 32, A, SPI_I), (b"m" * 32, A, SPI_I), (b"n" * 32, B, SPI_I)]
    args.append((b"n" * 32, A, SPI_R))
    cookie = jar.bake(*args[0], now=1.0)
    assert jar.holds(cookie, *args[change], now=1.0) is (change == 0)


@given(st.binary(max_size=64))
def test_octets_that_are_no_cookie_are_none(cookie: bytes) -> None:
    jar = CookieJar(SeededEntropy(2), secret_s=60.0)
    jar.bake(b"n" * 32, A, SPI_I, 1.0)
    assert not jar.holds(cookie, b"n" * 32, A, SPI_I, 1.0)


# --- NAT detection ---


def test_detection_digest_is_sha1_of_spis_address_and_port() -> None:
    wanted = hashlib.sha1(SPI_I + SPI_R + bytes([192, 0, 2, 1]) + (500).to_bytes(2, "big")).digest()
    assert nat.detection_digest(SPI_I, SPI_R, Address("192.0.2.1", 500)) == wanted
    six = hashlib.sha1(SPI_I + SPI_R + bytes.fromhex("fe80" + "0" * 27 + "1") + b"\x11\x94").digest()
    assert nat.detection_digest(SPI_I, SPI_R, Address("fe80::1%eth0", 4500)) == six


def test_one_of_several_source_digests_suffices_and_each_kind_counts_by_itself() -> None:
    local, remote = Address(A, 500), Address(B, 500)
    source, destination = nat.detection_notifies(SPI_I, SPI_R, remote, local, fake=False)
    other = Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20))
    assert nat.detect([other, source, destination], SPI_I, SPI_R, local, remote) == nat.NatState(True, False, False)
    assert nat.detect([other, destination], SPI_I, SPI_R, local, remote) == nat.NatState(True, False, True)
    assert nat.detect([source], SPI_I, SPI_R, local, remote) == nat.NatState(True, False, False)
    assert nat.detect([], SPI_I, SPI_R, local, remote) == nat.NatState()
    moved = Address("203.0.113.1", 500)
    assert nat.detect([source, destination], SPI_I, SPI_R, moved, remote) == nat.NatState(True, True, False)


# --- windows ---


@pytest.mark.req("rfc7296-s2.1-03", "rfc7296-s2.3-06")
def test_request_is_kept_until_it_is_answered_or_given_up() -> None:
    requests = Requests(Retransmission(timeout_s=1.0, base=2.0, tries=2), SeededEntropy(1))
    requests.start(ExchangeType.INFORMATIONAL, (b"octets",), "why", 0.0)
    assert requests.in_flight is not None
    assert requests.in_flight.again_at == 1.0
    assert requests.due(requests.in_flight, 2, 1.0) == (b"octets",)
    assert requests.in_flight.again_at == 3.0
    assert requests.due(requests.in_flight, 2, 3.0) == (b"octets",)
    assert requests.due(requests.in_flight, 2, 7.0) is None
    assert requests.answered(0) == "why"
    assert (requests.in_flight, requests.next_id) == (None, 1)


def test_jitter_shortens_by_at_most_its_share_and_comes_from_entropy() -> None:
    def first(seed: int) -> float:
        requests = Requests(Retransmission(timeout_s=1.0, jitter=0.25), SeededEntropy(seed))
        requests.start(ExchangeType.INFORMATIONAL, (b"",), None, 0.0)
        assert requests.in_flight is not None
        return requests.in_flight.again_at

    times = [first(seed) for seed in range(50)]
    assert all(0.75 <= at <= 1.0 for at in times)
    assert len(set(times)) == 50
    assert first(7) == first(7)


def test_only_the_last_request_repeats_and_only_octet_for_octet() -> None:
    responses = Responses()
    assert responses.repeated(0xFFFF_FFFF, b"") is None
    responses.remember(0, b"request", (b"response",))
    found = responses.repeated(0, b"request")
    assert found is not None
    assert found.data == (b"response",)
    assert responses.repeated(0, b"Request") is None
    assert responses.repeated(1, b"request") is None


def take(responses: Responses, *ids: int) -> None:
    for number in ids:
        assert responses.is_new(number)
        responses.remember(number, b"request %d" % number, (b"response %d" % number,))


@pytest.mark.req("rfc7296-s2.1-04", "rfc7296-s2.1-05", "rfc7296-s2.3-07")
def test_response_is_kept_until_a_request_comes_that_is_a_window_later() -> None:
    responses = Responses()
    responses.declare(3)
    take(responses, 0, 1, 2)
    assert sorted(responses.kept) == [0, 1, 2]
    take(responses, 4)  # it is only sent when 1 and all before are answered
    assert sorted(responses.kept) == [2, 4]
    take(responses, 3)
    assert sorted(responses.kept) == [2, 3, 4]
    assert responses.expected_id == 5
    assert responses.repeated(1, b"request 1") is None
    assert not responses.is_new(1)


@pytest.mark.req("rfc7296-s2.3-08", "rfc7296-s2.3-09")
def test_requests_are_new_once_each_within_the_window_in_any_order() -> None:
    responses = Responses(expected_id=10)
    responses.declare(4)
    assert [number for number in range(20) if responses.is_new(number)] == [10, 11, 12, 13]
    take(responses, 13, 11)
    assert [number for number in range(20) if responses.is_new(number)] == [10, 12]
    assert [number for number in range(20) if responses.is_beyond(number)] == [14, 15, 16, 17, 18, 19]
    take(responses, 10)
    assert [number for number in range(20) if responses.is_new(number)] == [12, 14, 15]
    assert not responses.is_latest(12)
    assert responses.is_latest(14)


@pytest.mark.req("rfc7296-s2.3-02", "rfc7296-s2.3-04", "rfc7296-s2.3-05")
def test_request_waits_for_all_responses_up_to_a_window_before_it() -> None:
    """X waits for all up to X - N, though N - 1 of them are answered already. RFC 7296 section 2.3."""
    requests = Requests(Retransmission(), SeededEntropy(1))
    requests.widen(3)
    for number in range(3):
        assert requests.has_room
        requests.start(ExchangeType.INFORMATIONAL, (b"",), number, 0.0)
    assert not requests.has_room
    for number in (2, 1):
        assert requests.answered(number) == number
        assert not requests.has_room
    requests.answered(0)
    assert requests.has_room
    requests.widen(2)
    assert requests.window == 3


def test_every_request_has_its_own_timer() -> None:
    requests = Requests(Retransmission(timeout_s=1.0, base=2.0), SeededEntropy(1), window=2)
    requests.start(ExchangeType.INFORMATIONAL, (b"first",), None, 0.0)
    requests.start(ExchangeType.INFORMATIONAL, (b"second",), None, 0.5)
    assert requests.next_timer() == 1.0
    (first,) = requests.late(1.2)
    assert requests.due(first, 5, 1.2) == (b"first",)
    assert requests.next_timer() == 1.5
    (second,) = requests.late(1.5)
    assert second.data == (b"second",)
    requests.answered(second.message_id)
    assert requests.next_timer() == 1.2 + 2.0


def test_first_request_keeps_its_id_however_often_it_is_made_anew() -> None:
    requests = Requests(Retransmission(), SeededEntropy(1))
    for attempt in range(3):
        requests.start_over(ExchangeType.IKE_SA_INIT, (b"%d" % attempt,), None, float(attempt))
        assert list(requests.outstanding) == [0]
    requests.answered(0)
    assert requests.next_id == 1


def test_total_time_of_a_request() -> None:
    assert Retransmission(timeout_s=1.0, base=2.0, tries=2).total_s == 7.0


# --- limits ---


def test_half_open_table_counts_each_sa_once() -> None:
    table = HalfOpenTable(Limits(cookie_threshold=2, half_open_limit=3, half_open_per_address=2))
    for _ in range(2):
        table.set(b"1", A, half_open=True)
    assert (len(table), table.wants_cookies, table.has_room(A)) == (1, False, True)
    table.set(b"2", A, half_open=True)
    assert (table.wants_cookies, table.has_room(A), table.has_room(B)) == (True, False, True)
    table.set(b"3", B, half_open=True)
    assert not table.has_room("192.0.2.9")
    for spi in (b"1", b"2", b"3", b"4"):
        table.set(spi, "", half_open=False)
    assert (len(table), table.has_room(A)) == (0, True)


def test_bucket_gives_its_rate() -> None:
    bucket = TokenBucket(2.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]


@pytest.mark.req("rfc7296-s2.6-02")
def test_flood_of_first_requests_is_bounded_in_memory_and_in_key_exchanges() -> None:
    limits = Limits(cookie_threshold=5, half_open_limit=8, half_open_per_address=3)
    network, _, b = pair(limits=limits, b={"remote_addrs": ("%any",)})
    for number in range(300):
        one = Network(number).add("x", A, [connection(A, B)])
        one.manager.initiate("lab", None, one.address, 0.0)
        (request,) = one.manager.datagrams_to_send()
        source = Address(f"198.51.100.{number % 100}", 500)
        b.manager.receive_datagram(request.data, b.address, source, network.now)
        (reply,) = b.manager.datagrams_to_send() or [None]
        if number >= 5 and reply is not None:
            assert len(reply.data) < len(request.data)
    assert b.manager.half_open_count == b.manager.remembered == 5
    network.run()
    assert_nothing_left(b)


def test_one_address_has_no_more_than_its_share() -> None:
    limits = Limits(cookie_threshold=100, half_open_per_address=3)
    network, _, b = pair(limits=limits, b={"remote_addrs": ("%any",)})
    for number in range(10):
        one = Network(number).add("x", A, [connection(A, B)])
        one.manager.initiate("lab", None, one.address, 0.0)
        (request,) = one.manager.datagrams_to_send()
        b.manager.receive_datagram(request.data, b.address, Address(A, 500 + number), network.now)
    assert b.manager.half_open_count == 3
    network.run()
    assert_nothing_left(b)


# --- impairments ---


@pytest.mark.parametrize(
    "text",
    [
        "drop",
        "lose:IKE_AUTH:request:1",
        "drop:IKE:request:1",
        "drop:IKE_AUTH:both:1",
        "drop:IKE_AUTH:request:0",
        "drop:IKE_AUTH:request:x",
        "delay:IKE_AUTH:request:1:-3",
        "drop:IKE_AUTH:request:1:2:3",
    ],
)
def test_knob_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="impairment"):
        Knob.parse(text)


@pytest.mark.parametrize(
    ("knob", "datagrams"),
    [
        ("drop:IKE_AUTH:request:1", 1),
        ("duplicate:IKE_SA_INIT:request:*", 2),
        ("delay:IKE_AUTH:request:1:0.5", 1),
        ("corrupt:IKE_AUTH:request:1:40", 2),
    ],
)
def test_knob_acts_on_its_message_and_the_sa_comes_up_all_the_same(knob: str, datagrams: int) -> None:
    network = Network()
    a = network.add("a", A, [connection(A, B)], impairments=[Knob.parse(knob)])
    b = network.add("b", B, [connection(B, A)])
    up(network, a)
    assert_joined(a, b)
    kind = 34 if "INIT" in knob else 35
    assert len([sent for sent in network.sent if sent.sender is a and sent.datagram.data[18] == kind]) == datagrams


# --- the manager ---


class Log:
    """A key log that keeps what it is told."""

    def __init__(self) -> None:
        self.ike: list[tuple[IkeSaInfo, IkeSuite, IkeKeys]] = []
        self.children: list[ChildSaParameters] = []

    def ike_sa(self, info: IkeSaInfo, suite: IkeSuite, keys: IkeKeys) -> None:
        self.ike.append((info, suite, keys))

    def child_sa(self, params: ChildSaParameters) -> None:
        self.children.append(params)


def test_key_log_hears_of_both_kinds_of_keys_once() -> None:
    logs = {A: Log(), B: Log()}
    network = Network()
    a = network.add("a", A, [connection(A, B)], keylog=logs[A])
    network.add("b", B, [connection(B, A)], keylog=logs[B])
    up(network, a)
    for log in logs.values():
        ((info, suite, keys),) = log.ike
        assert info.spi_r != bytes(8)
        assert suite.keyword == "aes256gcm16-prfsha256-curve25519"
        assert keys.sk_d == a.sa.need_keys()[1].sk_d
        assert len(log.children) == 1


def test_find_is_for_established_sas_and_in_the_order_of_the_header() -> None:
    network, a, b = pair()
    up(network, a)
    sa = a.sa
    assert a.manager.find(sa.spi_i, sa.spi_r) is sa
    assert a.manager.find(sa.spi_r, sa.spi_i) is None
    assert b.manager.find(sa.spi_i, sa.spi_r) is b.sa
    assert b.manager.find(sa.spi_i, bytes(8)) is None
    assert a.manager.find_by_peer(B) == [sa]
    assert a.manager.find_by_peer("192.0.2.99") == []
    assert a.manager.find_by_peer("no address") == []


def test_info_has_what_a_listing_needs_and_no_key() -> None:
    network, a, _ = pair()
    up(network, a)
    listing = a.sa.info().to_dict(network.now)
    assert listing["state"] == "ESTABLISHED"
    assert listing["local_id"] == f"host-{A}"
    (child,) = listing["children"]  # type: ignore[misc]
    assert child["suite"] == "aes256gcm16"
    assert child["ts_local"] == [f"{A}/32"]
    assert "sk_" not in str(listing)


def test_internal_error_costs_one_datagram_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network, a, b = pair()
    up(network, a)

    def broken(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(b.sa, "receive_datagram", broken)
    b.manager.receive_datagram(network.sent[2].datagram.data, b.address, a.address, network.now)
    assert b.manager.internal_errors == 1
    assert_joined(a, b)
