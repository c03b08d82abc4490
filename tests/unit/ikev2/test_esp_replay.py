"""The replay window against a model: the set of all numbers that ever came."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikev2.ipsec.replay import ReplayWindow

# Steps around the highest number so far: mostly within the window, sometimes far beyond it.
STEPS = st.lists(st.one_of(st.integers(-70, 5), st.integers(-5, 130), st.integers(0, 1 << 40)), max_size=120)


class Model:
    """RFC 4303 section 3.4.3 in a sentence: new, and right of the window's left edge."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    def check(self, sequence: int) -> bool:
        top = max(self.seen, default=0)
        return sequence > 0 and sequence not in self.seen and sequence > top - self.size


@given(STEPS, st.sampled_from([1, 32, 64, 128]))
def test_the_window_passes_what_the_model_passes(steps: list[int], size: int) -> None:
    window, model = ReplayWindow(size), Model(size)
    for step in steps:
        sequence = window.top + step
        assert window.check(sequence) == model.check(sequence)
        if window.check(sequence):
            window.update(sequence)
            model.seen.add(sequence)
            assert window.top == max(model.seen)


@given(STEPS)
def test_without_a_window_every_number_passes(steps: list[int]) -> None:
    """Zero, too: a sender that knows of no replay protection may let its count roll over. RFC 4303 section 3.3.3."""
    window = ReplayWindow(0)
    for step in [*steps, -(1 << 40)]:
        sequence = max(window.top + step, 0)
        assert window.check(sequence)
        window.update(sequence)
    assert not window.check(-1)


def test_without_a_window_a_packet_that_is_late_by_all_numbers_costs_no_memory() -> None:
    """Whoever has recorded the first packet of such an SA can send it at any time."""
    window = ReplayWindow(0)
    window.update(0xFFFFFFFF)
    tracemalloc.start()
    window.update(1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000


def test_behind_the_last_of_64_bits_there_is_no_number() -> None:
    window = ReplayWindow(64)
    window.update((1 << 64) - 1)
    assert window.extended(5) < 0
    assert not window.check(window.extended(5))
    assert window.extended(0xFFFFFFF0) == (1 << 64) - 16


@given(st.integers(64, 1 << 50), st.integers(-63, (1 << 31) - 1))
def test_the_high_bits_are_recovered_within_the_window_and_half_a_space_ahead(top: int, offset: int) -> None:
    window = ReplayWindow(64)
    window.update(top)
    sequence = top + offset
    assert window.extended(sequence & 0xFFFFFFFF) == sequence


def test_a_number_from_before_the_first_subspace_is_no_number() -> None:
    window = ReplayWindow(64)
    window.update(3)
    assert window.extended(0xFFFFFFFF) < 0
    assert not window.check(window.extended(0xFFFFFFFF))


def test_a_check_alone_changes_nothing() -> None:
    window = ReplayWindow(64)
    window.update(10)
    assert all(window.check(1000) for _ in range(3))
    assert window.top == 10


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        ReplayWindow(-1)
