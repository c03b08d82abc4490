"""What is said when the clocks of two hosts differ, and when nothing can be said. RFC 4656 sections 3.5 and 3.7."""

from __future__ import annotations

from dataclasses import replace

import pytest
from owamp_control_peers import FROM_SERVER, NTP_NOW, POISSON_10_MS, SECOND, TO_SERVER, OwampPair

from ippm.core.control_events import SessionDenied, SessionRejected
from ippm.core.owamp_client import OwampWish
from ippm.core.owamp_events import OwampSessionAccepted
from ippm.errors import ServerRefused
from ippm.iana import Accept
from ippm.report.result import one_way_clock_note, two_way_clock_note
from ippm.timestamps import ntp_add_ns


def asked(wish: OwampWish, ahead_ns: int) -> tuple[object, list[object]]:
    """The answer to a request whose start lies so far ahead of the server's clock, and what the server says."""
    pair = OwampPair().set_up()
    pair.client.request_session(replace(wish, start_time=ntp_add_ns(NTP_NOW, ahead_ns)), pair.now)
    pair.run()
    (answer,) = pair.client_events()
    return answer, [event for event in pair.server_said if isinstance(event, SessionDenied)]


@pytest.mark.parametrize("wish", [TO_SERVER, FROM_SERVER, replace(TO_SERVER, slots=POISSON_10_MS)])
def test_a_session_that_is_over_before_it_begins_is_refused(wish: OwampWish) -> None:
    """20 packets in 0.2 s and a Timeout of 2 s: 3.2 s in the past nothing of it is left."""
    answer, said = asked(wish, -3_200_000_000)
    assert isinstance(answer, SessionRejected)
    assert isinstance(answer.error, ServerRefused)
    assert answer.error.accept == Accept.NOT_SUPPORTED
    words = "the Start Time is 3.2 s in the past, and so is the whole session; do the clocks differ?"
    assert said == [SessionDenied(Accept.NOT_SUPPORTED, words)]


def test_a_start_in_the_past_is_no_fault_as_long_as_a_packet_can_count() -> None:
    answer, said = asked(TO_SERVER, -2 * SECOND)
    assert isinstance(answer, OwampSessionAccepted)
    assert said == []


def test_a_start_that_is_too_far_ahead_says_how_far() -> None:
    _, said = asked(TO_SERVER, 100_000 * SECOND)
    words = "the Start Time is 100000.0 s in the future, at most 86400 s are allowed; do the clocks differ?"
    assert said == [SessionDenied(Accept.NOT_SUPPORTED, words)]


def test_packets_that_arrive_before_they_are_sent_give_the_clocks_away() -> None:
    words = "clocks differ by at least 3.200 s: packets arrived before they were sent; the sender's is ahead"
    assert one_way_clock_note(-3_200_000_000) == [words]
    assert one_way_clock_note(3_200_000_000) == []  # as well a long way
    assert one_way_clock_note(-999_999) == []


def test_both_ways_tell_by_how_much_and_whose_is_ahead() -> None:
    """The server's clock is 3.2 s ahead, the way there takes 30 ms and the way back 10 ms."""
    assert two_way_clock_note(3_230_000_000, -3_190_000_000) == [
        "clocks differ by 3.210 s, within 20.000 ms: the server's is ahead"
    ]
    assert two_way_clock_note(-3_170_000_000, 3_210_000_000) == [
        "clocks differ by 3.190 s, within 20.000 ms: the client's is ahead"
    ]
    assert two_way_clock_note(30_000_000, 10_000_000) == []
