"""Metrics of streams against the examples in their RFCs, and against their definitions done slowly."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ippm.metrics.delay_variation import inter_packet_delay_variation, packet_delay_variation
from ippm.metrics.histogram import Histogram
from ippm.metrics.loss_pattern import loss_pattern
from ippm.metrics.reordering import reordered, reordering
from ippm.metrics.statistics import DelayStatistics, percentile

MS = 1_000_000


class TestReordering:
    """RFC 4737 section 7."""

    def test_a_single_packet(self) -> None:
        """Section 7.1, table 1: packet 4 has extent 4, late time 62 ms, and is 4-reordered."""
        arrival_ms = [68, 88, 108, 148, 168, 188, 208, 210, 228, 248]
        found = reordering([1, 2, 3, 5, 6, 7, 8, 4, 9, 10], [time * MS for time in arrival_ms])
        assert (found.received, found.reordered) == (10, 1)
        assert found.extents == (4,)
        assert found.late_times_ns == (62 * MS,)
        assert found.n_reordered == (1, 1, 1, 1)
        assert found.degree_ppm(4) == 100_000
        assert found.degree_ppm(5) == 0

    def test_two_packets(self) -> None:
        """Section 7.2: extents 1 and 2, late 1 and 2 ms; 5 is 1-reordered, 6 not n-reordered; one discontinuity."""
        arrival_ms = [68, 88, 108, 128, 188, 189, 190, 208, 228, 248]
        found = reordering([1, 2, 3, 4, 7, 5, 6, 8, 9, 10], [time * MS for time in arrival_ms])
        assert found.extents == (1, 2)
        assert found.late_times_ns == (1 * MS, 2 * MS)
        assert found.n_reordered == (1,)
        assert found.gaps == ()

    def test_three_packets(self) -> None:
        """Section 7.3: extents 4, 5 and 6; late 62, 64 and 68 ms; only packet 4 is n-reordered."""
        arrival_ms = [68, 108, 148, 188, 208, 228, 248, 250, 252, 256, 268]
        found = reordering([1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11], [time * MS for time in arrival_ms])
        assert found.extent_counts == {4: 1, 5: 1, 6: 1}
        assert found.late_times_ns == (62 * MS, 64 * MS, 68 * MS)
        assert found.n_reordered == (1, 1, 1, 1)

    def test_two_discontinuities(self) -> None:
        """Section 7.4: extents 2, 3 and 2, a gap of 7, runs of 5, 0 and 5."""
        found = reordering([1, 2, 3, 6, 7, 4, 5, 8, 9, 10, 12, 13, 11, 14, 15, 16])
        assert found.extents == (2, 3, 2)
        assert found.gaps == (7,)
        assert found.free_runs == (5, 0, 5)
        assert found.late_times_ns is None

    def test_nothing_and_copies(self) -> None:
        assert reordering([]).degree_ppm(1) is None
        found = reordering([0, 2, 2, 1, 1, 3])
        assert (found.received, found.extents) == (4, (1,))

    @given(st.lists(st.integers(0, 30), max_size=30))
    def test_by_the_definitions(self, arrivals: list[int]) -> None:
        found = reordering(arrivals, [7 * index * index for index in range(len(arrivals))])
        s = list(dict.fromkeys(arrivals))
        times = [7 * arrivals.index(number) ** 2 for number in s]
        extents, late, counts = [], [], {}
        for i in range(len(s)):
            earlier = [j for j in range(i) if s[j] > s[i]]
            if earlier:
                extents.append(i - earlier[0])
                late.append(times[i] - times[earlier[0]])
            for n in range(1, i + 1):
                if all(s[j] > s[i] for j in range(i - n, i)):
                    counts[n] = counts.get(n, 0) + 1
        assert found.extents == tuple(extents)
        assert found.late_times_ns == tuple(late)
        assert found.n_reordered == tuple(counts[n] for n in sorted(counts))
        assert found.reordered == reordered(arrivals)


class TestLossPattern:
    """RFC 3357."""

    def test_the_example_of_sections_5_4_3_and_6_5(self) -> None:
        pattern = loss_pattern([2, 5, 7, 9, 10])
        assert pattern.distances == (0, 3, 2, 2, 1)
        assert (pattern.lost, pattern.periods) == (5, 4)
        assert pattern.period_lengths == (1, 1, 1, 2)
        assert pattern.inter_period_lengths == (0, 3, 2, 2)
        assert pattern.noticeable(2) == 3

    def test_the_example_of_section_6_1(self) -> None:
        assert loss_pattern([50, 125, 126, 127]).noticeable(99) == 3
        assert loss_pattern([100, 200, 300, 400, 500]).noticeable(99) == 0
        assert loss_pattern([100, 175, 275, 290, 400]).noticeable(99) == 2

    def test_the_example_of_section_4(self) -> None:
        assert loss_pattern([3, 6, 7, 8, 10, 13, 14, 15]).period_lengths == (1, 3, 1, 3)

    def test_no_loss(self) -> None:
        assert (loss_pattern([]).lost, loss_pattern([]).periods) == (0, 0)


class TestDelayVariation:
    """RFC 3393, RFC 5481."""

    def test_ipdv_of_the_first_example_of_rfc_4737(self) -> None:
        """Its section 7.1, by the order of sending: the column IPDV."""
        delays = [68, 68, 68, 150, 68, 68, 68, 68, 68, 68]
        assert inter_packet_delay_variation(delays) == [0, 0, 82, -82, 0, 0, 0, 0, 0]

    def test_ipdv_is_undefined_beside_a_loss(self) -> None:
        assert inter_packet_delay_variation([5, None, 7, 9, None]) == [2]
        assert inter_packet_delay_variation([]) == []

    @pytest.mark.parametrize(
        ("delays", "ipdv", "pdv"),
        [
            ([20, 10, 20, 25, 20], [-10, 10, 5, -5], [10, 0, 10, 15, 10]),
            (
                [100, 110, 120, 130, 140, 150, 140, 130, 120, 110, 100],
                [10, 10, 10, 10, 10, -10, -10, -10, -10, -10],
                [0, 10, 20, 30, 40, 50, 40, 30, 20, 10, 0],
            ),
            ([3, None, 5, None, 4, None, 3, None, 4, None], [], [0, 2, 1, 0, 1]),
            ([3, 4, None, None, None, None, None, 5, 4, 3], [1, -1, -1], [0, 1, 2, 1, 0]),
            ([4, 4, 4, 4, 9, 9, 9, 9, 9], [0, 0, 0, 5, 0, 0, 0, 0], [0, 0, 0, 0, 5, 5, 5, 5, 5]),
            ([3, 4, 3, 3, None, None, 8, 9, 8], [1, -1, 0, 1, -1], [0, 1, 0, 0, 5, 6, 5]),
        ],
        ids=["figure 1", "figure 2, above", "figure 3", "figure 4", "figure 5", "figure 6"],
    )
    def test_the_figures_of_rfc_5481(self, delays: list[int | None], ipdv: list[int], pdv: list[int]) -> None:
        """What is U in a figure is undefined, and not in the sample (RFC 3393 section 4.1).

        The lower part of figure 2 has an IPDV of -10 from 120 to 100 ms, which is -20.
        """
        assert inter_packet_delay_variation(delays) == ipdv
        assert packet_delay_variation([delay for delay in delays if delay is not None]) == pdv

    def test_pdv_is_above_the_least(self) -> None:
        assert packet_delay_variation([20, 10, 30, 25, 5, 5]) == [15, 5, 25, 20, 0, 0]


class TestHistogram:
    """Quantiles within the bound that is stated."""

    @given(st.lists(st.integers(-(2**50), 2**50), min_size=1), st.integers(1, 1_000_000), st.integers(1, 12))
    @settings(max_examples=300)
    def test_a_quantile_is_off_by_less_than_is_claimed(self, values: list[int], ppm: int, precision: int) -> None:
        histogram = Histogram.of(values, precision)
        ordered = sorted(values)
        exact = ordered[-(-ppm * len(ordered) // 1_000_000) - 1]
        found = histogram.quantile_ppm(ppm)
        assert abs(found - exact) * 2**precision <= abs(exact)
        assert abs(found - exact) * 1_000_000 <= abs(exact) * histogram.relative_error_ppm
        assert (histogram.count, histogram.minimum, histogram.maximum) == (len(values), ordered[0], ordered[-1])
        assert ordered[0] <= found <= ordered[-1]

    @given(st.lists(st.integers(-(2**50), 2**50), min_size=1), st.integers(1, 12))
    @settings(max_examples=300)
    def test_the_median_of_an_even_count_is_between_the_central_two(
        self, values: list[int], precision: int
    ) -> None:
        ordered = sorted(values)
        central = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        off = abs(2 * Histogram.of(values, precision).median() - sum(central))
        assert (off - 1) * 2**precision <= sum(map(abs, central))  # rounded down by a half at most

    def test_statistics_of_two_values_have_their_mean_as_median(self) -> None:
        values = [10_000, 30_000]
        rough = DelayStatistics.of_histogram(Histogram.of(values), sum(values), sum(value**2 for value in values))
        assert abs(rough.median - 20_000) * 1_000_000 <= 20_000 * rough.relative_error_ppm

    @given(st.lists(st.integers(-1000, 1000), min_size=1))
    def test_small_values_are_exact(self, values: list[int]) -> None:
        histogram = Histogram.of(values)
        for percent in (1, 50, 95, 100):
            assert histogram.quantile_ppm(percent * 10_000) == percentile(sorted(values), percent)

    @given(st.lists(st.integers(-(10**12), 10**12)), st.lists(st.integers(-(10**12), 10**12)))
    def test_merging_is_counting_all(self, one: list[int], other: list[int]) -> None:
        merged = Histogram.of(one)
        merged.merge(Histogram.of(other))
        whole = Histogram.of(one + other)
        assert (merged.buckets(), merged.count) == (whole.buckets(), whole.count)
        if whole.count:
            assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)

    @given(st.lists(st.integers(-(2**40), 2**40), min_size=1), st.integers(1, 10))
    def test_buckets_do_not_overlap_and_hold_their_values(self, values: list[int], precision: int) -> None:
        buckets = Histogram.of(values, precision).buckets()
        assert all(before[1] < after[0] for before, after in itertools.pairwise(buckets))
        for value in values:
            assert sum(first <= value <= last for first, last, _ in buckets) == 1
        for first, last, count in buckets:
            assert sum(first <= value <= last for value in values) == count

    def test_what_cannot_be(self) -> None:
        empty = Histogram()
        for action in (
            lambda: empty.minimum,
            lambda: empty.maximum,
            lambda: empty.quantile_ppm(500_000),
            lambda: Histogram.of([1]).quantile_ppm(0),
            lambda: Histogram(0),
            lambda: Histogram.of([1], 5).merge(Histogram.of([1], 6)),
        ):
            with pytest.raises(ValueError, match=r"."):
                action()
