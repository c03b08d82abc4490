"""NTP and PTP timestamps, and the Error Estimate. RFC 4656 section 4.1.2, RFC 8186 section 2."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ippm.io.clock import TIME_ERROR, UNKNOWN_ERROR_NS, SystemClock, clock_state, now_ntp, state_of_timex
from ippm.timestamps import (
    ClockState,
    ErrorEstimate,
    first_and_last,
    fixed_point_from_ns,
    ns_from_fixed_point,
    ntp_add_ns,
    ntp_difference_ns,
    ntp_from_ptp,
    ntp_from_timespec,
    ntp_from_unix_ns,
    ptp_from_ntp,
    unix_ns_from_ntp,
)

BEGIN_1968 = -61_505_152 * 10**9  # the first stamp whose first bit is set
END_2100 = 4_100_000_000 * 10**9


def test_the_unix_epoch_is_2208988800_seconds_after_1900() -> None:
    assert ntp_from_unix_ns(0) == 2_208_988_800 << 32
    assert ntp_from_unix_ns(500_000_000) == (2_208_988_800 << 32) | 0x80000000
    assert ntp_from_timespec(1, 250_000_000) == (2_208_988_801 << 32) | 0x40000000


def test_era_1_begins_on_7_february_2036() -> None:
    last = 2_085_978_495 * 10**9
    assert ntp_from_unix_ns(last) >> 32 == 0xFFFFFFFF
    assert ntp_from_unix_ns(last + 10**9) == 0
    assert unix_ns_from_ntp(0) == last + 10**9
    assert ntp_difference_ns(ntp_from_unix_ns(last + 10**9), ntp_from_unix_ns(last)) == 10**9


def test_the_clock_goes_on_in_era_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 2_085_978_496 * 10**9 + 500_000_000)
    assert now_ntp() == 0x80000000
    monkeypatch.setattr("time.time_ns", lambda: 2_085_978_495 * 10**9)
    assert now_ntp() == 0xFFFFFFFF_00000000


def test_the_first_and_the_last_of_stamps_on_both_sides_of_the_change_of_era() -> None:
    before, after = 0xFFFFFFFF_80000000, 0x00000000_80000000
    assert first_and_last([before, after]) == first_and_last([after, before]) == (before, after)
    assert first_and_last([after, before - 1, after + 1, before]) == (before - 1, after + 1)
    assert first_and_last([5]) == (5, 5)
    assert first_and_last([]) == (0, 0)


@given(st.integers(BEGIN_1968, END_2100))
@settings(max_examples=200)
def test_a_nanosecond_survives_the_ntp_format(unix_ns: int) -> None:
    stamp = ntp_from_unix_ns(unix_ns)
    assert 0 <= stamp < 1 << 64
    assert unix_ns_from_ntp(stamp) == unix_ns
    assert ntp_from_timespec(*divmod(unix_ns, 10**9)) == stamp


@given(st.integers(BEGIN_1968, END_2100), st.integers(-(10**18), 10**18))
@settings(max_examples=200)
def test_differences_are_signed_and_right_to_the_nanosecond(unix_ns: int, delta: int) -> None:
    earlier, later = ntp_from_unix_ns(unix_ns), ntp_from_unix_ns(unix_ns + delta)
    assert abs(ntp_difference_ns(later, earlier) - delta) <= 1
    assert ntp_difference_ns(earlier, earlier) == 0
    assert abs(ntp_difference_ns(ntp_add_ns(earlier, delta), earlier) - delta) <= 1


@given(st.integers(0, 10**15))
def test_a_duration_survives_fixed_point(nanoseconds: int) -> None:
    assert ns_from_fixed_point(fixed_point_from_ns(nanoseconds)) == nanoseconds


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        fixed_point_from_ns(-1)


@given(st.integers(0, 4_294_967_295 * 10**9), st.integers(0, 60))
def test_ptp_is_seconds_and_nanoseconds_of_tai(unix_ns: int, utc_offset_s: int) -> None:
    stamp = ptp_from_ntp(ntp_from_unix_ns(unix_ns), utc_offset_s)
    seconds, nanoseconds = divmod(unix_ns, 10**9)
    assert stamp >> 32 == (seconds + utc_offset_s) % 2**32
    assert 0 <= nanoseconds - (stamp & 0xFFFFFFFF) <= 1  # an NTP stamp is rounded down


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**9 - 1), st.integers(0, 60))
def test_a_ptp_stamp_survives_ntp(seconds: int, nanoseconds: int, utc_offset_s: int) -> None:
    stamp = seconds << 32 | nanoseconds
    assert ptp_from_ntp(ntp_from_ptp(stamp, utc_offset_s), utc_offset_s) == stamp


def test_one_moment_in_both_formats() -> None:
    """2026-11-25 00:00:00.25 UTC, computed by hand: 1795564800 s since 1970, 37 leap seconds."""
    ntp = (1_795_564_800 + 2_208_988_800) << 32 | 1 << 30
    assert ptp_from_ntp(ntp, 37) == 1_795_564_837 << 32 | 250_000_000


@pytest.mark.req("rfc4656-s4.1.2-05")
@given(st.integers(0, 10**13), st.booleans())
@settings(max_examples=300)
def test_an_error_is_never_understated_and_multiplier_never_zero(error_ns: int, synchronized: bool) -> None:
    estimate = ErrorEstimate.from_ns(error_ns, synchronized=synchronized)
    assert estimate.multiplier > 0
    assert estimate.is_valid
    assert estimate.error_ns >= error_ns
    assert estimate.error_ns <= error_ns + error_ns // 100 + 2
    assert ErrorEstimate.from_int(estimate.to_int()) == estimate


def test_the_formula_of_the_error_estimate() -> None:
    estimate = ErrorEstimate(True, 10, 3)
    assert estimate.to_int() == 0x8A03
    assert estimate.error_ns == -(-3 * 2**10 * 10**9 // 2**32)
    assert ErrorEstimate.from_ns(10**15, synchronized=False).scale <= 63


@pytest.mark.req("rfc4656-s4.1.2-04")
def test_the_z_bit_is_written_as_zero_and_ignored_when_read() -> None:
    for error_ns in (0, 1000, 16 * 10**9):
        assert not ErrorEstimate.from_ns(error_ns, synchronized=True).to_int() & 0x4000
    with_z = ErrorEstimate.from_int(0xCA03)
    assert (with_z.synchronized, with_z.error_ns) == (True, ErrorEstimate.from_int(0x8A03).error_ns)
    assert with_z.to_int() == 0xCA03


@pytest.mark.parametrize(("scale", "multiplier"), [(64, 1), (-1, 1), (0, 256), (0, -1)])
def test_fields_that_do_not_fit_are_refused(scale: int, multiplier: int) -> None:
    with pytest.raises(ValueError, match="fit"):
        ErrorEstimate(False, scale, multiplier)


@pytest.mark.req("rfc4656-s4.1.2-02", "rfc4656-s4.1.2-03")
def test_the_s_bit_follows_the_kernel() -> None:
    synchronized = state_of_timex(0, 0, 1500)
    assert synchronized == ClockState(True, 1_500_000, "adjtimex")
    assert synchronized.error_estimate().to_int() & 0x8000
    for state in (state_of_timex(TIME_ERROR, 0x40, 16_000_000), state_of_timex(0, 0x40, 10)):
        assert not state.synchronized
        assert not state.error_estimate().to_int() & 0x8000
    assert state_of_timex(0, 0, 0).error_ns == UNKNOWN_ERROR_NS


def test_the_state_in_a_packet_reads_back() -> None:
    state = ClockState(True, 1_500_000, "adjtimex")
    read = ClockState.from_error_estimate(state.error_estimate().to_int())
    assert read.synchronized
    assert 1_500_000 <= read.error_ns <= 1_520_000
    assert read.source == "packet"
    assert state.to_dict() == {"synchronized": True, "error_ns": 1_500_000, "source": "adjtimex"}


def test_this_system_has_a_state_and_a_clock() -> None:
    state = clock_state()
    assert state.error_ns > 0
    clock = SystemClock()
    assert ErrorEstimate.from_int(clock.error_estimate).is_valid
    assert ntp_difference_ns(now_ntp(), now_ntp()) <= 0
    clock.refresh(2**62)
    assert clock.state.error_ns > 0
