"""The Session-Reflector, without sockets: what it answers, with what, and what it drops. RFC 5357 section 4.2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ippm.core.session_reflector import (
    DEFAULT_REFWAIT_NS,
    PaddingRule,
    ReflectorPlan,
    ReflectorState,
    SessionReflector,
)
from ippm.crypto import SessionKeys
from ippm.crypto_packet import open_reflector, seal_sender
from ippm.wire.test_packet import ReflectorPacket, SenderPacket

KEYS = SessionKeys(bytes(range(16)), bytes(range(50, 82)))
PEER = ("192.0.2.1", 18700)
LOCAL = ("192.0.2.2", 18760)
T1, T2, T3 = 0xE0000000_10000000, 0xE0000000_20000000, 0xE0000000_30000000
MODES = [1, 2, 4]


def clock() -> Iterator[int]:
    stamp = T3
    while True:
        yield stamp
        stamp += 1 << 20


def reflector(mode: int = 1, *, start: bool = True, **plan: object) -> SessionReflector:
    ticks = clock()
    options: dict[str, object] = {"sid": bytes(16), "mode": mode, "keys": KEYS, "local": LOCAL, "remote": PEER}
    session = SessionReflector(ReflectorPlan(**{**options, **plan}), lambda: next(ticks), 0x8A01)  # type: ignore[arg-type]
    if start:
        session.start(0)
    return session


def request(mode: int, sequence: int = 0, padding: bytes = b"") -> bytes:
    return seal_sender(SenderPacket(sequence, T1, 0x0503, padding), mode, KEYS)


def answered(session: SessionReflector, mode: int, packet: bytes, ttl: int | None = 63) -> ReflectorPacket:
    reply = session.handle(packet, ttl, T2, PEER)
    assert reply is not None
    return open_reflector(bytes(reply), mode, KEYS)


@pytest.mark.req("rfc5357-s4.2.1-01", "rfc5357-s4.2-01", "rfc5357-s4.2-02", "rfc5357-s4.2-06", "rfc5357-s4.2.1-13")
@pytest.mark.parametrize("mode", MODES)
def test_a_reply_carries_the_request_the_arrival_and_a_later_departure(mode: int) -> None:
    session = reflector(mode)
    reply = answered(session, mode, request(mode, 7))
    assert reply.sequence_number == 0
    assert reply.sender_sequence_number == 7
    assert reply.sender_timestamp == T1
    assert reply.sender_error_estimate == 0x0503
    assert reply.receive_timestamp == T2
    assert reply.timestamp == T3 != reply.receive_timestamp
    assert reply.error_estimate == 0x8A01
    assert reply.sender_ttl == 63


@pytest.mark.parametrize("mode", MODES)
def test_the_reflector_numbers_its_own_packets(mode: int) -> None:
    session = reflector(mode)
    for own, sequence in enumerate((5, 3, 3, 0xFFFFFFFF)):
        reply = answered(session, mode, request(mode, sequence))
        assert (reply.sequence_number, reply.sender_sequence_number) == (own, sequence)
        if own % 2:
            session.prepare()


@pytest.mark.req("rfc5357-s2-02")
def test_the_mbz_fields_of_an_open_reply_are_zero_and_ignored() -> None:
    session = reflector()
    reply = session.handle(request(1), 64, T2, PEER)
    assert reply is not None
    octets = bytearray(reply)
    assert octets[14:16] == octets[38:40] == bytes(2)
    octets[14:16] = octets[38:40] = b"\xff\xff"
    assert open_reflector(bytes(octets), 1, KEYS) == open_reflector(bytes(reply), 1, KEYS)


@pytest.mark.req("rfc5357-s4.2-03")
def test_a_ttl_that_could_not_be_read_is_255() -> None:
    assert answered(reflector(), 1, request(1), None).sender_ttl == 255


@pytest.mark.req("rfc5357-s4.2.1-10", "rfc5357-s4.2.1-11")
@pytest.mark.parametrize(("mode", "sender", "own"), [(1, 14, 41), (2, 48, 112), (4, 48, 112)])
def test_the_padding_makes_both_ways_equally_long(mode: int, sender: int, own: int) -> None:
    session = reflector(mode)
    needed = own - sender
    for octets in (0, 1, needed - 1, needed, needed + 1, needed + 50, 1400):
        padding = bytes(1 + i % 255 for i in range(octets))
        packet = request(mode, 0, padding)
        reply = session.handle(packet, 64, T2, PEER)
        assert reply is not None
        assert len(reply) == max(own, len(packet))
        assert bytes(reply[own:]) == padding[: len(reply) - own]


@pytest.mark.req("rfc5357-s4.2.1-07")
def test_padding_of_zeros_when_asked_for() -> None:
    session = reflector(padding=PaddingRule.ZERO)
    reply = session.handle(request(1, 0, b"\xff" * 100), 64, T2, PEER)
    assert reply is not None
    assert bytes(reply[41:]) == bytes(73)


@pytest.mark.parametrize("mode", MODES)
def test_a_short_packet_after_a_long_one_never_sends_stale_octets(mode: int) -> None:
    """A receive buffer that is used again, as the loop does."""
    session = reflector(mode)
    buffer = bytearray(2000)

    def arrive(packet: bytes) -> memoryview | None:
        buffer[: len(packet)] = packet
        return session.handle(memoryview(buffer)[: len(packet)], 64, T2, PEER)

    assert arrive(request(mode, 0, b"secret of another packet" * 20)) is not None
    short = arrive(request(mode, 1))
    assert short is not None
    assert b"secret" not in bytes(short)
    middle = arrive(request(mode, 2, b"\x01" * 90))
    assert middle is not None
    assert b"secret" not in bytes(middle)
    for octets in (0, 1, 13):
        assert arrive(request(mode, 3)[:octets]) is None
    assert session.counters == {"received": 6, "reflected": 3, "too_short": 3}


@pytest.mark.req("rfc4656-s4.2-01", "rfc5357-s4.2-08")
@pytest.mark.parametrize("mode", [2, 4])
def test_what_fails_its_hmac_is_dropped_and_counted(mode: int) -> None:
    session = reflector(mode, hmac_counter="hmac_mismatch (key_count differs?)")
    broken = bytearray(request(mode))
    broken[0] ^= 1
    assert session.handle(broken, 64, T2, PEER) is None
    assert session.handle(request(6 - mode), 64, T2, PEER) is None
    assert session.counters == {"received": 2, "reflected": 0, "hmac_mismatch (key_count differs?)": 2}
    assert answered(session, mode, request(mode)).sequence_number == 0


@pytest.mark.req("rfc4656-s4.1.2-06")
def test_a_zero_multiplier_is_dropped_and_counted() -> None:
    session = reflector()
    assert session.handle(seal_sender(SenderPacket(0, T1, 0x8A00), 1, None), 64, T2, PEER) is None
    assert session.counters["zero_multiplier"] == 1


@pytest.mark.parametrize("address", [("192.0.2.9", 18700), ("192.0.2.1", 18701)])
def test_other_addresses_are_not_answered_unless_configured(address: tuple[str, int]) -> None:
    session = reflector()
    assert session.handle(request(1), 64, T2, address) is None
    assert session.counters["other_address"] == 1
    assert reflector(check_peer=False).handle(request(1), 64, T2, address) is not None


def test_an_ipv6_peer_may_be_written_in_any_way() -> None:
    session = reflector(remote=("2001:DB8:0::1", 18700))
    assert session.handle(request(1), 64, T2, ("2001:db8::1", 18700, 0, 0)) is not None  # type: ignore[arg-type]


def test_the_zone_of_a_link_local_peer_is_no_part_of_its_address() -> None:
    """The socket layer gives it as a number beside the address; the socket is bound in that zone anyway."""
    for zone in ("%eth0", "%3", ""):
        session = reflector(remote=("fe80::1" + zone, 18700))
        assert session.handle(request(1), 64, T2, ("fe80::1", 18700, 0, 3)) is not None  # type: ignore[arg-type]


def test_nothing_is_answered_before_the_start() -> None:
    session = reflector(start=False)
    assert session.handle(request(1), 64, T2, PEER) is None
    assert session.counters["not_started"] == 1
    session.start(0)
    assert session.handle(request(1), 64, T2, PEER) is not None
    assert session.state is ReflectorState.STARTED


@pytest.mark.req("rfc5357-s4.2-07", "rfc5357-s4.2-08", "rfc5938-s4.2-02", "rfc5938-s4.2-03")
def test_after_the_stop_packets_are_answered_for_timeout_and_then_ignored() -> None:
    session = reflector(timeout_ns=2_000)
    session.stop(10_000)
    assert session.next_timer() == 12_000
    session.handle_timer(11_999)
    assert session.handle(request(1), 64, T2, PEER) is not None
    session.handle_timer(12_000)
    assert session.state is ReflectorState.CLOSED
    assert session.next_timer() is None
    assert session.handle(request(1), 64, T2, PEER) is None
    assert session.counters == {"received": 2, "reflected": 1, "after_stop": 1}


@pytest.mark.req("rfc5357-s3.5-09", "rfc5357-s3.5-10", "rfc5357-s3.5-11", "rfc5357-s3.8-06")
def test_what_counts_after_the_stop_is_when_a_packet_arrived_not_when_it_is_read() -> None:
    session = reflector(timeout_ns=2_000)
    assert not session.arrived_too_late(1 << 60)
    session.stop(10_000)
    assert not session.arrived_too_late(11_999)
    assert session.arrived_too_late(12_000)
    assert session.state is ReflectorState.STOPPING
    assert session.counters == {"received": 1, "reflected": 0, "after_stop": 1}


@pytest.mark.req("rfc5357-s4.2-09", "rfc5938-s3.6-03", "rfc5938-s4.2-04")
def test_a_silent_session_is_given_up_after_refwait() -> None:
    assert DEFAULT_REFWAIT_NS == 900 * 10**9
    session = reflector()
    first = session.next_timer()
    assert first == 900 * 10**9
    assert session.handle(request(1), 64, T2, PEER) is not None
    session.handle_timer(first)
    assert session.state is ReflectorState.STARTED
    session.handle_timer(2 * 900 * 10**9 - 1)
    assert session.state is ReflectorState.STARTED
    session.handle_timer(2 * 900 * 10**9)
    assert session.state is ReflectorState.CLOSED
    assert session.counters["refwait_expired"] == 1


def test_a_stop_before_the_start_and_a_close() -> None:
    session = reflector(start=False)
    session.stop(0)
    assert session.state is ReflectorState.CLOSED
    session.start(1)
    assert session.state is ReflectorState.CLOSED
    other = reflector()
    other.close()
    assert other.handle(request(1), 64, T2, PEER) is None


def test_the_plan_does_not_show_its_keys() -> None:
    session = reflector(2)
    assert "keys" not in repr(session.plan)
    assert KEYS.aes.hex() not in repr(session.plan)
