"""The impairment relay: its core on a virtual clock, and the sockets around it on loopback."""

from __future__ import annotations

import socket
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from interop.lab.packages import Tool, missing, skip_reason
from interop.lab.relay import Impairer, Impairments, Relay, Schedule, Sighting
from interop.lab.relay import main as relay_main


def run(
    impairments: Impairments, *, seed: int = 7, count: int = 1000
) -> tuple[Impairer, list[tuple[float, bytes]]]:
    impairer = Impairer(seed, impairments)
    arrivals: list[tuple[float, bytes]] = []
    for number in range(count):
        arrivals += impairer.schedule(number.to_bytes(4, "big"), number * 0.01)
    return impairer, sorted(arrivals)


def test_without_impairments_everything_arrives_at_once_and_unchanged() -> None:
    assert Impairer(1).schedule(b"abc", 5.0) == [(5.0, b"abc")]


def test_one_seed_is_one_fate() -> None:
    harsh = Impairments(0.02, 0.05, loss=0.2, duplication=0.2, reordering=0.1, corruption=0.1)
    assert run(harsh)[1] == run(harsh)[1]
    assert run(harsh)[1] != run(harsh, seed=8)[1]


@pytest.mark.parametrize(
    ("name", "counter"),
    [("loss", "lost"), ("duplication", "duplicated"), ("reordering", "reordered"), ("corruption", "corrupted")],
)
def test_each_impairment_happens_about_as_often_as_asked(name: str, counter: str) -> None:
    impairer, _ = run(Impairments(**{name: 0.3}))
    assert 240 <= getattr(impairer.counters, counter) <= 360
    assert impairer.counters.received == 1000
    others = {"lost", "duplicated", "reordered", "corrupted", "queue_drops"} - {counter}
    assert all(getattr(impairer.counters, other) == 0 for other in others)
    always, _ = run(Impairments(**{name: 1.0}))
    assert getattr(always.counters, counter) == 1000


def test_datagrams_above_the_mtu_are_lost_in_silence_with_their_headers_counted() -> None:
    impairer = Impairer(1, Impairments(mtu=600))
    assert impairer.schedule(bytes(572), 0.0) == [(0.0, bytes(572))]
    assert impairer.schedule(bytes(573), 0.0) == []
    assert impairer.counters.too_big == 1
    whole_packets = Impairer(1, Impairments(mtu=600), header_octets=0)
    assert whole_packets.schedule(bytes(600), 0.0) == [(0.0, bytes(600))]
    assert whole_packets.schedule(bytes(601), 0.0) == []


def test_one_probability_does_not_change_the_others_fate() -> None:
    plain = {octets for _, octets in run(Impairments(loss=0.2))[1]}
    with_duplicates = {octets for _, octets in run(Impairments(loss=0.2, duplication=0.5))[1]}
    assert plain == with_duplicates


def test_a_reordered_datagram_is_overtaken() -> None:
    impairer, arrivals = run(Impairments(reordering=0.05, reorder_by_s=0.025))
    order = [int.from_bytes(octets, "big") for _, octets in arrivals]
    assert sorted(order) == list(range(1000))
    overtaken = sum(1 for before, after in pairwise(order) if before > after)
    assert 0 < overtaken <= impairer.counters.reordered


def test_corruption_flips_one_bit() -> None:
    for number, (_, octets) in enumerate(sorted(run(Impairments(corruption=1.0), count=200)[1])):
        difference = int.from_bytes(octets, "big") ^ number
        assert difference.bit_count() == 1


def test_a_rate_spaces_datagrams_and_its_queue_drops_the_tail() -> None:
    impairer = Impairer(1, Impairments(rate=1000.0, queue_octets=300, delay_s=1.0))
    times = [impairer.schedule(bytes(100), 0.0) for _ in range(5)]
    assert [arrival[0][0] for arrival in times[:3]] == pytest.approx([1.1, 1.2, 1.3])
    assert times[3:] == [[], []]
    assert impairer.counters.queue_drops == 2
    assert impairer.schedule(bytes(100), 10.0)[0][0] == pytest.approx(11.1)


@settings(max_examples=60)
@given(st.integers(), st.floats(0, 1), st.floats(0, 0.5), st.binary(max_size=40))
def test_nothing_arrives_before_its_delay(seed: int, probability: float, delay: float, data: bytes) -> None:
    harsh = Impairments(delay, 0.1, probability, probability, probability, corruption=probability)
    for when, octets in Impairer(seed, harsh).schedule(data, 3.0):
        assert when >= 3.0 + delay
        assert len(octets) == len(data)


@pytest.mark.parametrize(
    "wrong",
    [{"loss": 1.5}, {"corruption": -0.1}, {"delay_s": -1.0}, {"hold_s": -1.0}, {"rate": 0.0}, {"loss_every": 0},
     {"reorder_by": 0}, {"mtu": 0}],
)  # fmt: skip
def test_impossible_impairments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"probability|negative|from 1 up"):
        Impairments(**wrong)  # type: ignore[arg-type]


# decisions by number


def numbers(arrivals: list[tuple[float, bytes]]) -> list[int]:
    """Those that arrived, in order; `Schedule` keeps the order of equal times, as a stable sort does."""
    return [int.from_bytes(octets, "big") for _, octets in sorted(arrivals, key=lambda arrival: arrival[0])]


def sent_in_turn(impairer: Impairer, count: int) -> list[tuple[float, bytes]]:
    """The numbers from 1 to `count`, a hundredth of a second apart."""
    arrivals: list[tuple[float, bytes]] = []
    for number in range(1, count + 1):
        arrivals += impairer.schedule(number.to_bytes(4, "big"), number * 0.01)
    return arrivals


def test_each_tenth_is_lost_and_no_other_whatever_the_seed() -> None:
    for seed in range(3):
        impairer = Impairer(seed, Impairments(loss_every=10))
        assert numbers(sent_in_turn(impairer, 100)) == [n for n in range(1, 101) if n % 10]
        assert impairer.counters.lost == 10


def test_each_seventh_arrives_twice() -> None:
    impairer = Impairer(1, Impairments(duplication_every=7, delay_s=0.05))
    assert numbers(sent_in_turn(impairer, 21)) == sorted([*range(1, 22), 7, 14, 21])
    assert impairer.counters.duplicated == 3


def test_each_fifth_has_a_bit_turned() -> None:
    impairer = Impairer(1, Impairments(corruption_every=5))
    wrong = [n for n, seen in enumerate(numbers(sent_in_turn(impairer, 20)), 1) if seen != n]
    assert wrong == [5, 10, 15, 20]


@pytest.mark.parametrize("extent", [1, 2, 5])
def test_each_tenth_is_overtaken_by_exactly_so_many(extent: int) -> None:
    impairer = Impairer(1, Impairments(reordering_every=10, reorder_by=extent, delay_s=0.03))
    order = numbers(sent_in_turn(impairer, 40 + extent))
    expected: list[int] = []
    for number in range(1, 41 + extent):
        if number % 10:
            expected.append(number)
        if number > extent and not (number - extent) % 10:
            expected.append(number - extent)
    assert order == expected
    assert impairer.counters.reordered == 4
    assert impairer.next_release() is None


def test_the_copy_of_a_reordered_datagram_comes_with_it() -> None:
    impairer = Impairer(1, Impairments(reordering_every=3, duplication_every=3, reorder_by=1))
    assert numbers(sent_in_turn(impairer, 4)) == [1, 2, 4, 3, 3]


def test_what_nothing_overtakes_is_let_go_after_its_time() -> None:
    schedule = Schedule(1, Impairments(reordering=1.0, reorder_by=2, hold_s=0.5, delay_s=0.1))
    schedule.put(b"alone", 3.0, forward=True)
    assert schedule.next_time() == 3.5
    assert schedule.due(3.4) == []
    assert schedule.due(3.5) == [(b"alone", True)]
    assert schedule.next_time() is None


def test_lost_datagrams_overtake_nothing() -> None:
    impairer = Impairer(1, Impairments(reordering_every=3, reorder_by=2, loss_every=4))
    assert numbers(sent_in_turn(impairer, 7)) == [1, 2, 5, 7, 3]


def test_changed_impairments_count_from_the_next_datagram_on() -> None:
    impairer = Impairer(1, Impairments(loss_every=4))
    before = numbers(sent_in_turn(impairer, 3))
    impairer.change(Impairments(loss_every=2))
    assert (before, numbers(sent_in_turn(impairer, 4))) == ([1, 2, 3], [1, 3])


def test_a_record_has_each_datagram_as_it_came_and_as_it_left() -> None:
    now = iter(range(1000, 2000, 100))
    schedule = Schedule(1, Impairments(duplication=1.0, delay_s=0.5), clock_ns=lambda: next(now))
    schedule.put(b"x", 0.0, forward=True)
    schedule.due(0.5)
    assert schedule.record == [
        Sighting(True, False, 1000, b"x"),
        Sighting(True, True, 1100, b"x"),
        Sighting(True, True, 1200, b"x"),
    ]


def test_a_stamp_from_before_is_what_the_record_has() -> None:
    schedule = Schedule(1, clock_ns=lambda: 5000)
    schedule.put(b"x", 0.0, forward=True, at_ns=4000)
    assert schedule.record == [Sighting(True, False, 4000, b"x")]
    assert (schedule.stamp(), Schedule(1).stamp()) == (5000, 0)


# whole packets


def udp_packet(payload: bytes = bytes(range(40)), port: int = 4500, version: int = 4) -> bytes:
    head = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    return bytes(head / UDP(sport=1000, dport=port) / payload)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("only", "taken"),
    [("udp", True), ("17", True), ("udp:4500", True), ("udp:1000", True), ("udp:500", False), ("tcp", False),
     ("esp", False)],
)  # fmt: skip
def test_only_the_named_packets_are_impaired_and_counted(only: str, taken: bool, version: int) -> None:
    impairer = Impairer(1, Impairments(loss=1.0, only=only), header_octets=0)
    packet = udp_packet(version=version)
    assert impairer.schedule(packet, 1.0) == ([] if taken else [(1.0, packet)])
    assert (impairer.counters.lost, impairer.counters.spared) == (int(taken), int(not taken))


def test_a_relay_of_datagrams_cannot_tell_packets_apart() -> None:
    with pytest.raises(ValueError, match="whole IP packets"):
        Impairer(1, Impairments(only="udp"))


@pytest.mark.parametrize("wrong", ["sctps", "300", "udp:", "udp:70000", "esp:4500", ""])
def test_what_is_no_selection_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="only="):
        Impairments(only=wrong)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("octets", [40, 41])
@pytest.mark.parametrize("repair", [False, True])
def test_corruption_of_a_packet_spares_its_header_and_repairs_its_checksum(
    octets: int, repair: bool, version: int
) -> None:
    packet = udp_packet(bytes(range(octets)), version=version)
    header = len(packet) - octets - 8
    impairer = Impairer(3, Impairments(corruption=1.0, repair=repair), header_octets=0)
    for _ in range(200):
        ((_, seen),) = impairer.schedule(packet, 1.0)
        assert seen[:header] == packet[:header]
        again = (IP if version == 4 else IPv6)(seen)
        fits = bytes(again)
        del again[UDP].chksum
        assert (bytes(again) == fits) == repair
        if repair:
            assert seen[header : header + 6] == packet[header : header + 6]
            difference = int.from_bytes(seen[header + 8 :], "big") ^ int.from_bytes(packet[header + 8 :], "big")
            assert difference.bit_count() == 1


def test_a_schedule_delivers_in_order_of_arrival_and_keeps_directions_apart() -> None:
    schedule = Schedule(1, Impairments(delay_s=0.5), Impairments(delay_s=0.1))
    schedule.put(b"there", 0.0, forward=True)
    schedule.put(b"back", 0.0, forward=False)
    assert schedule.next_time() == pytest.approx(0.1)
    assert schedule.due(0.05) == []
    assert schedule.due(1.0) == [(b"back", False), (b"there", True)]
    assert schedule.next_time() is None


def test_datagrams_of_one_moment_keep_their_order() -> None:
    schedule = Schedule(1)
    for number in range(50):
        schedule.put(bytes([number]), 1.0, forward=True)
    assert [octets[0] for octets, _ in schedule.due(1.0)] == list(range(50))


def test_the_relay_carries_both_directions_between_sockets() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for sock in (server, client):
            sock.settimeout(20)
            sock.bind(("127.0.0.1", 0))
        relay = Relay(("127.0.0.1", 0), server.getsockname(), seed=3, forward=Impairments(duplication=1.0))
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            client.sendto(b"ping", relay.address)
            seen = [server.recvfrom(100) for _ in range(2)]
            assert [octets for octets, _ in seen] == [b"ping", b"ping"]
            server.sendto(b"pong", seen[0][1])
            assert client.recvfrom(100) == (b"pong", relay.address)
        finally:
            relay.stop()
            thread.join()
            relay.close()
        assert relay.schedule.forward.counters.duplicated == 1
        assert relay.schedule.backward.counters.received == 1


def test_a_wrong_endpoint_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        relay_main(["--listen", "nowhere", "--to", "127.0.0.1:1"])
    assert "'nowhere' is not HOST:PORT" in capsys.readouterr().err


def test_a_wrong_knob_of_the_relay_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (("delay=soon", "'soon' is no value of delay"), ("only=udp", "whole IP packets")):
        with pytest.raises(SystemExit):
            relay_main(["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", word])
        assert said in capsys.readouterr().err


def test_missing_tools_are_named_with_their_packages() -> None:
    assert Tool("sh", "dash", "shell").found is not None
    assert Tool("/no/such/file", "nothing", "").found is None
    assert all(tool.found is None for tool in missing())
    reason = skip_reason()
    assert reason is None or "apt-get install" in reason
