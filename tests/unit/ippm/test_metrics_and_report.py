"""Metrics on records whose answers are known, and the reports made of them."""

from __future__ import annotations

import json
import math
import statistics as python_statistics
from collections.abc import Collection, Container
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ippm.core.fetched_session import FetchedSession
from ippm.core.schedule import FixedSchedule
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.io.light import LightRun
from ippm.metrics import DelayStatistics, two_way_metrics
from ippm.metrics.delay_variation import packet_delay_variation
from ippm.metrics.one_way import OneWayMetrics, one_way_metrics
from ippm.metrics.registry import StreamParameters, one_way_registry_names, registry_names
from ippm.metrics.reordering import Duplication, duplicates, reordered, reordering, replicated
from ippm.metrics.statistics import QuantilesWithLosses, median, percentile
from ippm.report import RunResult, format_result
from ippm.report.text import milliseconds
from ippm.timestamps import ClockState, ErrorEstimate, ntp_add_ns, unix_ns_from_ntp
from ippm.wire.packet_record import PacketRecord
from ippm.wire.request_session import RequestSession
from ippm.wire.schedule_slot import Slot, SlotType
from ippm.wire.skip_ranges import SkipRange

T0 = 0xE0000000_00000000
OFFSET_NS = 7_000_000_000  # of the reflector's clock
SYNCHRONIZED = ClockState(True, 1_000, "adjtimex")


def records(
    count: int = 10,
    answered: list[int] | None = None,
    *,
    forward: int = 2_000_000,
    backward: int = 3_000_000,
    turn: int = 40_000,
    synchronized: bool = True,
) -> SenderRecords:
    """Packets 10 ms apart; those in `answered` came back, in that order; delays grow by 1 us a packet."""
    made = SenderRecords(count)
    error = ErrorEstimate.from_ns(5_000, synchronized=synchronized).to_int()
    for sequence in range(count):
        made.t1[sequence] = ntp_add_ns(T0, sequence * 10_000_000)
    for own, sequence in enumerate(range(count) if answered is None else answered):
        t1 = made.t1[sequence]
        extra = sequence * 1_000
        made.t2[sequence] = ntp_add_ns(t1, forward + extra + OFFSET_NS)
        made.t3[sequence] = ntp_add_ns(t1, forward + extra + OFFSET_NS + turn)
        made.t4[sequence] = ntp_add_ns(t1, forward + extra + turn + backward)
        made.reflector_error[sequence] = error
        made.reflector_sequence[sequence] = own
        made.reflector_ttl[sequence], made.reply_ttl[sequence] = 252, 251
        made.arrivals.append(sequence)
        made.arrival_reflector_sequence.append(own)
    return made


def plan(mode: int = 1, **more: object) -> SenderPlan:
    options: dict[str, object] = {
        "sid": bytes(range(16)),
        "mode": mode,
        "keys": None,
        "local": ("192.0.2.1", 18700),
        "remote": ("2001:db8::2", 18760),
        "count": 10,
    }
    return SenderPlan(**{**options, **more})  # type: ignore[arg-type]


# RFC 2330 section 11.3: its own example.
def test_percentiles_as_in_the_framework() -> None:
    ordered = sorted([-2, 7, 7, 4, 18, -5])
    assert percentile(ordered, 50) == 4
    assert percentile(ordered, 25) == -2
    assert percentile(ordered, 100) == 18
    assert percentile(ordered, 16) == -5
    assert median(ordered) == 5
    assert median([3]) == 3
    assert median([1, 2, 9]) == 2
    for bad in (
        lambda: percentile([], 50),
        lambda: percentile([1], 0),
        lambda: percentile([1], 101),
        lambda: median([]),
    ):
        with pytest.raises(ValueError):
            bad()


# RFC 7679 sections 5.1 and 5.2, RFC 2681 sections 4.1 and 4.2: Stream1 with one undefined of five, Stream2 of four.
def test_the_statistics_of_the_delay_rfcs() -> None:
    stream_1, stream_2 = QuantilesWithLosses.of([100, 110, 90, 500], 1), QuantilesWithLosses.of([100, 110, 90], 1)
    assert stream_1 == QuantilesWithLosses(5, 110, None, None, None)
    assert stream_2 == QuantilesWithLosses(4, 105, None, None, None)
    # Of those that arrived it is another: this is what reports call delay.
    arrived = DelayStatistics.of([100, 110, 90])
    assert arrived is not None
    assert (arrived.median, arrived.minimum) == (100, 90)
    assert QuantilesWithLosses.of([], 0) is None
    assert QuantilesWithLosses.of([], 3) == QuantilesWithLosses(3, None, None, None, None)


@given(
    st.lists(st.integers(-(10**12), 10**12), max_size=60),
    st.integers(0, 60),
    st.integers(1, 60),
)
def test_lost_packets_are_infinitely_late(values: list[int], lost: int, exact_limit: int) -> None:
    everything = sorted([*values, *[math.inf] * lost])
    found = QuantilesWithLosses.of(values, lost, exact_limit)
    if not everything:
        assert found is None
        return
    assert found is not None
    assert found.count == len(everything)
    assert found.relative_error_ppm == (977 if len(values) > exact_limit else 0)
    middle = len(everything) // 2
    central = everything[middle : middle + 1] if len(everything) % 2 else everything[middle - 1 : middle + 1]
    statistics = DelayStatistics.of(values, exact_limit)
    assert QuantilesWithLosses.beside(statistics, values, 0) == QuantilesWithLosses.of(values, 0, exact_limit)
    edges = {95: found.p95, 99: found.p99, 99.9: found.p999}
    wanted = {p: everything[math.ceil(len(everything) * p / 100) - 1] for p in edges}
    for name, value in edges.items():
        assert (value is None) == (wanted[name] == math.inf)
        if value is not None:
            assert abs(value - wanted[name]) * 1_000_000 <= found.relative_error_ppm * abs(wanted[name])
    assert (found.median is None) == (math.inf in central)
    if found.median is not None and not found.relative_error_ppm:
        assert found.median == sum(map(int, central)) // len(central)


def test_a_report_has_both_readings_of_a_lost_packets_delay() -> None:
    """2 of 10 are lost: the 95th percentile of all packets lies among them, that of those that arrived does not."""
    result = RunResult.of(plan(), records(answered=[0, 1, 2, 3, 4, 5, 6, 7]), SYNCHRONIZED)
    as_dict = json.loads(json.dumps(result.to_dict()))
    assert (as_dict["delay"]["p95_ns"], as_dict["delay"]["median_ns"]) == (5_007_000, 5_003_500)
    assert as_dict["delay_with_losses"] == {
        "count": 10, "median_ns": 5_004_500, "p95_ns": None, "p99_ns": None, "p999_ns": None, "quantile_error_ppm": 0,
    }  # fmt: skip
    assert as_dict["round_trip_total_with_losses"]["median_ns"] == 5_044_500
    assert "infinitely late (RFC 7679 section 5): median/p95/p99 = 5.005/undefined/undefined ms" in format_result(
        result
    )
    assert "infinitely late" not in format_result(RunResult.of(plan(), records(), SYNCHRONIZED))
    metrics = one_way({3, 4})
    assert metrics.delay_with_losses == QuantilesWithLosses(10, metrics.delay_with_losses.median, None, None, None)  # type: ignore[union-attr]


# RFC 5560 section 5.3, cases 1 to 4 and 2c; nothing is undefined.
@pytest.mark.parametrize(
    ("arrivals", "fraction_ppm", "replicated_rate_ppm"),
    [
        ([1, 2, 3, 4], 0, 0),
        ([1, 1, 2, 2, 3, 3, 4, 4], 1_000_000, 1_000_000),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4], 2_000_000, 1_000_000),
        ([1, 1, 1, 2, 3, 3, 3, 4], 1_000_000, 500_000),
        ([1, 2, 3, 4, 4, 3, 2, 1], 1_000_000, 1_000_000),
        ([], None, None),
    ],
)
def test_duplication(arrivals: list[int], fraction_ppm: int | None, replicated_rate_ppm: int | None) -> None:
    found = Duplication(len(set(arrivals)), duplicates(arrivals), replicated(arrivals))
    assert (found.fraction_ppm, found.replicated_rate_ppm) == (fraction_ppm, replicated_rate_ppm)
    assert "count" not in found.to_dict()


def test_copies_of_replies_are_told_by_packet() -> None:
    made = records()
    made.arrivals.extend([3, 3, 7])
    made.arrival_reflector_sequence.extend([3, 3, 7])
    made.reflect_duplicates = 3
    result = RunResult.of(plan(), made, SYNCHRONIZED)
    assert result.to_dict()["duplication"] == {
        "replicated": 2, "fraction_ppm": 300_000, "replicated_rate_ppm": 200_000,
    }  # fmt: skip
    assert "3 reflect duplicates of 2 packets" in format_result(result)


# RFC 4737 section 3.6: copies are no reordering, neither as such nor n-reordering, whatever comes between.
def test_copies_are_not_n_reordered() -> None:
    for arrivals in ([1, 2, 3, 2], [1, 2, 3, 4, 5, 1, 1], [2, 2, 2]):
        found = reordering(arrivals)
        assert (found.reordered, found.n_reordered, found.received) == (0, (), len(set(arrivals)))
    # 2 is overtaken by 3 and 4; the copy of 3 between does not make it 3-reordered.
    assert reordering([1, 3, 4, 3, 2]).n_reordered == (1, 1)


# RFC 6673 section 4.4.
@pytest.mark.parametrize(("turn_ns", "told"), [(999_000_000, False), (1_000_000_001, True)])
def test_a_reflector_that_takes_more_than_a_second_is_named(turn_ns: int, told: bool) -> None:
    notes = RunResult.of(plan(4), records(turn=turn_ns), SYNCHRONIZED).notes
    assert any("RFC 6673 section 4.4" in note for note in notes) is told


def test_that_no_packet_was_in_time_is_said() -> None:
    made = SenderRecords(3)
    made.skipped = [0, 1, 2]
    assert any("no packet was sent in time" in note for note in RunResult.of(plan(), made, SYNCHRONIZED).notes)


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_with_enough_at_or_below_it(values: list[int], percent: int) -> None:
    ordered = sorted(values)
    x = percentile(ordered, percent)
    assert sum(value <= x for value in values) * 100 >= percent * len(values)
    assert all(sum(v <= y for v in values) * 100 < percent * len(values) for y in values if y < x)


def test_statistics_of_a_sample() -> None:
    statistics = DelayStatistics.of(range(1, 201))
    assert statistics == DelayStatistics(200, 1, 100, 190, 198, 200, 200, 100, standard_deviation=57)
    assert statistics is not None
    assert statistics.to_dict() == {
        "count": 200,
        "minimum_ns": 1,
        "median_ns": 100,
        "p95_ns": 190,
        "p99_ns": 198,
        "p999_ns": 200,
        "maximum_ns": 200,
        "mean_ns": 100,
        "standard_deviation_ns": 57,
        "quantile_error_ppm": 0,
    }
    assert DelayStatistics.of([]) is None


def test_beyond_the_limit_of_exact_quantiles_the_error_is_stated() -> None:
    """A million values are sorted; of more a histogram is made."""
    values = [1_000_000 + 7 * number for number in range(5000)]
    exact, rough = DelayStatistics.of(values), DelayStatistics.of(iter(values), exact_limit=4999)
    assert exact is not None
    assert rough is not None
    assert DelayStatistics.of(values, exact_limit=5000) == exact
    assert (exact.relative_error_ppm, rough.relative_error_ppm) == (0, 977)
    for name in ("count", "minimum", "maximum", "mean"):
        assert getattr(exact, name) == getattr(rough, name)
    for name in ("median", "p95", "p99", "p999"):
        off = abs(getattr(exact, name) - getattr(rough, name))
        assert off * 1_000_000 <= rough.relative_error_ppm * getattr(exact, name)


def test_ipdv_and_ttl_changes_of_a_session() -> None:
    made = records(answered=[0, 1, 2, 4, 5, 7])
    made.reflector_ttl[4] = made.reflector_ttl[5] = 250
    made.reply_ttl[7] = 1
    metrics = two_way_metrics(made)
    # Delays grow by 1 us a packet; only neighbours in the order of sending count.
    assert metrics.forward_ipdv == DelayStatistics(3, *[1_000] * 7)
    assert metrics.backward_ipdv == DelayStatistics(3, *[0] * 7)
    assert metrics.round_trip_ipdv == DelayStatistics(3, *[1_000] * 7)
    assert (metrics.ttl_changes_forward, metrics.ttl_changes_backward) == (2, 1)
    assert metrics.loss_pattern.period_lengths == (1, 1, 2)
    made.t1[3] = 0  # never sent: the packets around it are neighbours, and it is not lost
    metrics = two_way_metrics(made)
    assert metrics.forward_ipdv is not None
    assert (metrics.forward_ipdv.count, metrics.forward_ipdv.maximum) == (4, 2_000)
    assert metrics.loss_pattern.period_lengths == (1, 2)


def test_a_clock_that_gets_worse_while_the_session_runs_is_told() -> None:
    made = records()
    fine = ErrorEstimate.from_ns(21_000, synchronized=True).to_int()
    for number in range(10):
        made.sender_error[number] = fine
    assert RunResult.of(plan(), made, SYNCHRONIZED).local_clock == SYNCHRONIZED
    made.sender_error[7] = ErrorEstimate.from_ns(5_000_000, synchronized=True).to_int()
    grown = RunResult.of(plan(), made, SYNCHRONIZED)
    assert grown.clocks_synchronized
    assert 5_000_000 <= grown.local_clock.error_ns <= 5_040_000
    assert grown.clock_error_ns is not None
    assert grown.clock_error_ns >= 5_000_000 + 5_000
    made.sender_error[8] = ErrorEstimate.from_ns(16_000_000_000, synchronized=False).to_int()
    lost = RunResult.of(plan(), made, SYNCHRONIZED)
    assert not lost.clocks_synchronized
    assert lost.local_clock.error_ns >= 16_000_000_000
    assert any("not both synchronized" in note for note in lost.notes)


def test_a_reply_that_came_late_was_not_lost_on_the_way_back() -> None:
    """The reflector's replies 2 and 3 are missing: one came after Timeout, one did not come."""
    made = records(answered=[0, 1, 2, 3, 4, 5])
    for number in (2, 3):
        made.t4[number] = 0
        del made.arrivals[made.arrivals.index(number)]
        del made.arrival_reflector_sequence[made.arrival_reflector_sequence.index(number)]
    assert two_way_metrics(made).lost_backward_at_least == 2
    made.late = 1
    assert two_way_metrics(made).lost_backward_at_least == 1
    made.late = 9
    assert two_way_metrics(made).lost_backward_at_least == 0


def test_a_packet_that_was_never_sent_does_not_cut_a_loss_period_in_two() -> None:
    """Of 0 to 9, 4 to 6 did not come back and 5 was not sent: f(P(i-1)) of RFC 3357 section 4 is that of packet 4."""
    made = records(answered=[0, 1, 2, 3, 7, 8, 9])
    made.t1[5] = 0
    pattern = two_way_metrics(made).loss_pattern
    assert (pattern.lost, pattern.period_lengths, pattern.distances) == (2, (2,), (0, 1))


def one_way(lost: Container[int], *, skipped: Collection[int] = (), start: int = T0) -> OneWayMetrics:
    """Packets 0 to 9, 10 ms apart and 2 ms under way."""
    error = ErrorEstimate.from_ns(5_000, synchronized=True).to_int()
    octets = bytearray()
    for number in range(10):
        sent = ntp_add_ns(start, number * 10_000_000)
        if number in lost:
            octets += PacketRecord.of_lost(number, sent, error).encode()
        elif number not in skipped:
            octets += PacketRecord(number, error, error, sent, ntp_add_ns(sent, 2_000_000), 250).encode()
    request = RequestSession(False, True, 10, (Slot(SlotType.FIXED, 1 << 25),), sid=bytes(range(16)))
    skips = tuple(SkipRange(number, number) for number in sorted(skipped))
    return one_way_metrics(FetchedSession(request, 1, 10, skips, bytes(octets)))


def test_one_way_losses_around_a_packet_that_was_never_sent_are_one_period() -> None:
    metrics = one_way({4, 6}, skipped={5})
    assert (metrics.sent, metrics.lost, metrics.skipped) == (9, 2, 1)
    assert (metrics.loss_pattern.period_lengths, metrics.loss_pattern.distances) == ((2,), (0, 1))


def test_the_first_and_the_last_packet_sent_may_be_lost_ones() -> None:
    first = unix_ns_from_ntp(T0)
    for lost in (set(), {0, 9}, set(range(10))):
        metrics = one_way(lost)
        assert metrics.first_sent_unix_ns == first
        assert abs(metrics.last_sent_unix_ns - first - 90_000_000) <= 1
    nothing = one_way(set(), skipped=set(range(10)))
    assert (nothing.first_sent_unix_ns, nothing.last_sent_unix_ns) == (0, 0)


def test_a_part_of_a_session_has_the_skip_ranges_that_lie_in_it() -> None:
    """The answer to Fetch-Session has those of the whole session. RFC 4656 section 3.9."""
    request = RequestSession(False, True, 20, (Slot(SlotType.FIXED, 1 << 25),), sid=bytes(16))
    whole = FetchedSession(request, 1, 20, (SkipRange(2, 4), SkipRange(8, 8), SkipRange(12, 19)), b"")
    assert whole.part(0, 0xFFFFFFFF) == whole
    assert whole.part(3, 13).skip_ranges == (SkipRange(3, 4), SkipRange(8, 8), SkipRange(12, 13))
    assert whole.part(5, 7).skip_ranges == ()
    assert one_way_metrics(whole.part(4, 8)).skipped == 2
    assert FetchedSession.decode(whole.part(3, 13).encode()) == whole.part(3, 13)


def test_a_one_way_session_across_the_change_of_era_ends_after_it_begins() -> None:
    """From 45 ms before 7 February 2036, 06:28:16 UTC."""
    era_1_s = (1 << 32) - 2_208_988_800
    metrics = one_way(set(), start=ntp_add_ns(0, -45_000_000))
    assert abs(metrics.first_sent_unix_ns - (era_1_s * 10**9 - 45_000_000)) <= 1
    assert abs(metrics.last_sent_unix_ns - (era_1_s * 10**9 + 45_000_000)) <= 1
    assert metrics.delay is not None
    assert abs(metrics.delay.maximum - 2_000_000) <= 1


# RFC 4737 section 3.3; the third to fifth are the examples of its sections 5.4, 7.1 and 7.2.
@pytest.mark.parametrize(
    ("arrivals", "count"),
    [
        ([], 0),
        ([0, 1, 2, 3], 0),
        ([1, 2, 3, 7, 8, 9, 4, 5, 6], 3),
        ([1, 2, 3, 5, 6, 7, 8, 4, 9, 10], 1),
        ([1, 2, 3, 4, 7, 5, 6, 8, 9, 10], 2),
        ([0, 2, 1], 1),
        ([4, 3, 2, 1, 0], 4),
        ([0, 5, 6, 7], 0),
        ([0, 1, 1, 0, 2], 0),
        ([0, 2, 2, 1, 1], 1),
    ],
)
def test_reordered_packets(arrivals: list[int], count: int) -> None:
    assert reordered(arrivals) == count
    assert duplicates(arrivals) == len(arrivals) - len(set(arrivals))


def test_delays_of_a_session_do_not_mix_with_the_reflectors_time_or_clock() -> None:
    metrics = two_way_metrics(records())
    assert metrics.round_trip == DelayStatistics(
        10, 5_000_000, 5_004_500, 5_009_000, 5_009_000, 5_009_000, 5_009_000, 5_004_500, standard_deviation=2_872
    )
    assert metrics.round_trip_total is not None
    assert metrics.round_trip_total.minimum == 5_040_000
    assert metrics.forward is not None
    assert metrics.forward.minimum == 2_000_000 + OFFSET_NS
    assert metrics.backward is not None
    assert metrics.backward.minimum == 3_000_000 - OFFSET_NS
    assert metrics.forward_pdv == DelayStatistics(
        10, 0, 4_500, 9_000, 9_000, 9_000, 9_000, 4_500, standard_deviation=2_872
    )
    assert metrics.backward_pdv is not None
    assert metrics.backward_pdv.maximum == 0
    assert metrics.reflector_turnaround == DelayStatistics(10, *[40_000] * 7)
    assert (metrics.sent, metrics.lost, metrics.duplicates, metrics.reordered) == (10, 0, 0, 0)
    assert (metrics.hops_forward, metrics.hops_backward) == ((3, 3), (4, 4))
    assert packet_delay_variation([]) == []


def test_loss_and_reordering_by_direction() -> None:
    made = records(answered=[0, 2, 1, 5])
    metrics = two_way_metrics(made)
    assert (metrics.sent, metrics.received, metrics.lost) == (10, 4, 6)
    assert (metrics.reordered, metrics.reordered_forward, metrics.reordered_backward) == (1, 1, 0)
    assert metrics.lost_backward_at_least == 0
    for at, own in enumerate((1, 4, 3, 9)):  # the reflector sent ten replies; four came, two of them swapped
        made.arrival_reflector_sequence[at] = own
    metrics = two_way_metrics(made)
    assert metrics.lost_backward_at_least == 6
    assert metrics.reordered_backward == 1
    assert metrics.reordered_forward == 0


def test_a_session_without_any_reply() -> None:
    result = RunResult.of(plan(), records(answered=[]), SYNCHRONIZED)
    assert (result.sent, result.lost) == (10, 10)
    assert (
        result.round_trip is result.forward is result.backward is result.peer_clock is result.clock_error_ns is None
    )
    assert not result.clocks_synchronized
    as_dict = json.loads(json.dumps(result.to_dict()))
    assert as_dict["delay"] is None
    assert as_dict["clock"]["peer"] is None
    text = format_result(result)
    assert "10 sent, 10 lost (100.000%)" in text
    assert "no packet was answered" in text


def test_the_clocks_stand_beside_directional_delays() -> None:
    result = RunResult.of(plan(), records(), SYNCHRONIZED)
    assert result.clocks_synchronized
    assert result.peer_clock is not None
    assert 5_000 <= result.peer_clock.error_ns <= 5_100
    assert result.clock_error_ns == 1_000 + 20_000 + result.peer_clock.error_ns
    assert not any("not both synchronized" in note for note in result.notes)
    # Both say that they are synchronized, and their stamps say that they are not.
    assert "clocks differ by 7.000 s, within 2.500 ms: the server's is ahead" in result.notes
    for made, local in (
        (records(synchronized=False), SYNCHRONIZED),
        (records(), ClockState(False, 16 * 10**9, "adjtimex")),
    ):
        result = RunResult.of(plan(), made, local)
        assert not result.clocks_synchronized
        assert any("clocks that are not both synchronized" in note for note in result.notes)
        assert result.to_dict()["clock"]["both_synchronized"] is False
        assert "NOT synchronized" in format_result(result)


def test_the_worst_state_of_the_peer_counts() -> None:
    made = records()
    made.reflector_error[4] = ErrorEstimate.from_ns(10**9, synchronized=False).to_int()
    peer = two_way_metrics(made).peer_clock
    assert peer is not None
    assert not peer.synchronized
    assert peer.error_ns >= 10**9


@pytest.mark.parametrize(
    ("mode", "note"),
    [(1, "packets neither authenticated nor encrypted"), (2, "timestamps not authenticated"), (4, None)],
)
def test_what_the_mode_does_not_protect_is_said(mode: int, note: str | None) -> None:
    result = RunResult.of(plan(mode), records(), SYNCHRONIZED)
    assert [said for said in result.notes if not said.startswith("clocks differ")] == ([note] if note else [])
    assert result.mode == {1: "open", 2: "authenticated", 4: "encrypted"}[mode]


def test_a_reflector_whose_stamps_are_equal_is_named() -> None:
    result = RunResult.of(plan(4), records(turn=0), SYNCHRONIZED)
    assert any("equal in every packet" in note for note in result.notes)


def test_the_json_has_integers_with_units_and_every_count() -> None:
    made = records(answered=[0, 2, 1, 5])
    made.send_duplicates, made.reflect_duplicates, made.late = 1, 2, 3
    made.rejected["too_short"] = 4
    made.skipped.append(9)
    made.stopped = True
    made.user_stamps = 2
    result = RunResult.of(plan(2, dscp=46, padding_octets=64), made, SYNCHRONIZED, path="bypass")
    as_dict = json.loads(json.dumps(result.to_dict()))
    assert (as_dict["sent"], as_dict["lost"], as_dict["duplicates"], as_dict["reordered"]) == (10, 6, 3, 1)
    assert set(as_dict["delay"]) == {
        "count", "minimum_ns", "median_ns", "p95_ns", "p99_ns", "p999_ns", "maximum_ns", "mean_ns",
        "standard_deviation_ns", "quantile_error_ppm",
    }  # fmt: skip
    assert all(isinstance(value, int) for value in as_dict["delay"].values())
    assert (as_dict["path"], as_dict["mode"], as_dict["dscp"]) == ("bypass", "authenticated", 46)
    assert as_dict["payload_octets"] == 112
    assert as_dict["stamps"] == {
        "local_transmit": "user", "local_receive": "mixed", "transmit_stamped": 0, "error_ns": 120_000,
        "packet_age": None, "transmit_refused": None,
    }  # fmt: skip
    assert as_dict["rejected"] == {"too_short": 4}
    assert as_dict["reordering"] == {
        "reordered": 1,
        "extent_maximum": 1,
        "extent_counts": {"1": 1},
        "n_reordered": [1],
        "gap_minimum": None,
        "free_runs": 1,
    }
    assert as_dict["loss_pattern"] == {
        "periods": 2,
        "longest_period": 4,
        "period_lengths": {"2": 1, "4": 1},
        "shortest_between": 2,
    }
    assert as_dict["first_sent_unix_ns"] == (0xE0000000 - 2_208_988_800) * 10**9
    text = format_result(result)
    for expected in (
        "path: bypass",
        "late: 3",
        "too short: 4",
        "1 reordered, extent up to 1\n1-reordering = 25.000%\n",
        "loss periods: 2, the longest of 4 packets\n",
        "skipped: 1",
        "[2001:db8::2]:18760",
        "stopped before",
    ):
        assert expected in text


# RFC 3432 section 3: the start is random; RFC 8912 section 4.3.2 has control exchanges make it so.
def test_no_registered_name_without_a_random_start() -> None:
    stream = plan(padding_octets=86, schedule=FixedSchedule(20_000_000), timeout_ns=3_000_000_000)
    result = RunResult.of(stream, records(), SYNCHRONIZED)
    assert set(result.registry_names) == {"round_trip_total.p95_ns", "lost"}
    assert replace(result, random_start=False).registry_names == {}
    assert LightRun(stream, records(), SYNCHRONIZED).result.registry_names == {}


def test_registered_names_only_for_the_registered_stream() -> None:
    stream = StreamParameters(100, 20_000_000, 3_000_000_000)
    assert set(registry_names(stream)) == {"round_trip_total.p95_ns", "lost"}
    assert registry_names(StreamParameters(200, 20_000_000, 3_000_000_000))
    # One way: the names as RFC 8912 sections 7.1.2 and 8.1.2 have them.
    second = 1_000_000_000
    poisson = StreamParameters(250, None, 3 * second, poisson_mean_ns=second, longest_ns=30 * second)
    assert one_way_registry_names(poisson) == {
        "delay.p95_ns": "OWDelay_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Seconds_95Percentile",
        "delay.mean_ns": "OWDelay_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Seconds_Mean",
        "delay.minimum_ns": "OWDelay_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Seconds_Min",
        "delay.maximum_ns": "OWDelay_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Seconds_Max",
        "delay.standard_deviation_ns": "OWDelay_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Seconds_StdDev",
        "lost": "OWLoss_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_Percent_LossRatio",
    }
    periodic = one_way_registry_names(StreamParameters(142, 20_000_000, 3 * second))
    assert periodic["lost"] == "OWLoss_Active_IP-UDP-Periodic20m-Payload142B_RFC8912sec8_Percent_LossRatio"
    assert (
        periodic["delay.p95_ns"] == "OWDelay_Active_IP-UDP-Periodic20m-Payload142B_RFC8912sec8_Seconds_95Percentile"
    )
    for change in (
        {"payload_octets": 142}, {"timeout_ns": 2 * second}, {"poisson_mean_ns": second - 1}, {"dscp": 46},
        {"longest_ns": 30 * second + 1},
    ):  # fmt: skip
        assert one_way_registry_names(replace(poisson, **change)) == {}
    for other in (
        StreamParameters(101, 20_000_000, 3_000_000_000),
        StreamParameters(100, 10_000_000, 3_000_000_000),
        StreamParameters(100, None, 3_000_000_000),
        StreamParameters(100, 20_000_000, 2_000_000_000),
        StreamParameters(100, 20_000_000, 3_000_000_000, dscp=46),
    ):
        assert registry_names(other) == {}
    registered = plan(schedule=FixedSchedule(20_000_000), timeout_ns=3_000_000_000, padding_octets=86)
    result = RunResult.of(registered, records(), SYNCHRONIZED)
    assert "RTDelay_Active_IP-UDP-Periodic_RFC8912sec4_Seconds_95Percentile" in format_result(result)


def test_milliseconds_keep_their_digits() -> None:
    assert [milliseconds(n) for n in (0, 1_234, 12_345_678, -2_500_000)] == ["0", "0.00123", "12.346", "-2.500"]


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50))
def test_the_standard_deviation_is_that_of_the_population(values: list[int]) -> None:
    """RFC 8912 section 7.4.2.5; the same of values that only a histogram counted."""
    found = DelayStatistics.of(values)
    assert found is not None
    assert found.standard_deviation == pytest.approx(python_statistics.pstdev(values), abs=1)
    counted = DelayStatistics.of(values, exact_limit=1)
    assert counted is not None
    assert counted.standard_deviation == found.standard_deviation
