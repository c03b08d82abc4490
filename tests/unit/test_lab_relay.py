"""The impairment relay: its core on a virtual clock, and the sockets around it on loopback."""

from __future__ import annotations

import socket
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.lab.packages import Tool, missing, skip_reason
from interop.lab.relay import Impairer, Impairments, Relay, Schedule
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


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"corruption": -0.1}, {"delay_s": -1.0}, {"rate": 0.0}])
def test_impossible_impairments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"probability|negative"):
        Impairments(**wrong)


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


def test_missing_tools_are_named_with_their_packages() -> None:
    assert Tool("sh", "dash", "shell").found is not None
    assert Tool("/no/such/file", "nothing", "").found is None
    assert all(tool.found is None for tool in missing())
    reason = skip_reason()
    assert reason is None or "apt-get install" in reason
