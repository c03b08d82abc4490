"""The kernel's transmit stamps: its octets, which packet a stamp belongs to, and what results make of them.

RFC 4656 section 4.1.1, RFC 5357 sections 4.1.1 and 4.2: the best possible approximation of the real time of departure.
"""

from __future__ import annotations

import errno
import socket
import statistics
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ippm.core.one_way_sender import OneWayPlan, OneWaySender
from ippm.core.schedule import Slot, SlotType
from ippm.core.session_schedule import SessionSchedule
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.io.batch import walk_control
from ippm.io.clock import SystemClock
from ippm.io.sockopts import SO_TIMESTAMPING
from ippm.io.transmit_stamps import (
    LEAST_ERROR_NS,
    MOST_WAITING,
    OPT_ID,
    OPT_RX_FILTER,
    OPT_TSONLY,
    SAMPLE,
    SOFTWARE,
    TX_SOFTWARE,
    UNMEASURED_ERROR_NS,
    OwnStamps,
    StampOptions,
    TransmitStamps,
    open_transmit_stamps,
    read_transmit_stamp,
)
from ippm.metrics.packet_age import RunningAge, measured_stamps, packet_ages, sent_times
from ippm.report.stamps import KERNEL_ERROR_NS, RECEIVE_ERROR_NS, TRANSMIT_ERROR_NS, StampReport
from ippm.timestamps import ErrorEstimate, ntp_add_ns, ntp_from_timespec

T0 = 0xE0000000_00000000

# Control octets that Linux 6.18 (x86-64) wrote for recvmsg(MSG_ERRQUEUE) with SO_TIMESTAMPNS and SO_TIMESTAMPING on.
GOLDEN_IPV4 = bytes.fromhex(
    "20000000000000000100000023000000672e076b0000000008f7c63200000000"
    "40000000000000000100000025000000672e076b0000000008f7c63200000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "3000000000000000000000000b0000002a000000040000000000000004000000"
    "00000000000000000000000000000000"
)
GOLDEN_IPV6 = bytes.fromhex(
    "20000000000000000100000023000000672e076b000000006143c13500000000"
    "40000000000000000100000025000000672e076b000000006143c13500000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "3c0000000000000029000000190000002a000000040000000000000004000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
)
ERROR_AT = 96 + 16


@pytest.mark.parametrize(
    ("octets", "nanoseconds"), [(GOLDEN_IPV4, 0x32C6F708), (GOLDEN_IPV6, 0x35C14361)], ids=["ipv4", "ipv6"]
)
def test_the_octets_of_the_kernel(octets: bytes, nanoseconds: int) -> None:
    stamp = ntp_from_timespec(0x6B072E67, nanoseconds)
    assert read_transmit_stamp(walk_control(octets, 0, len(octets))) == (4, stamp)


@pytest.mark.parametrize(
    ("offset", "octets"),
    [
        (0, struct.pack("@I", errno.ECONNREFUSED)),
        (4, b"\x02"),  # ICMP
        (8, struct.pack("@I", 1)),  # SCM_TSTAMP_SCHED: given to the queueing discipline, not to the device
    ],
)
def test_what_is_no_transmit_stamp_is_none(offset: int, octets: bytes) -> None:
    at = ERROR_AT + offset
    other = GOLDEN_IPV4[:at] + octets + GOLDEN_IPV4[at + len(octets) :]
    assert read_transmit_stamp(walk_control(other, 0, len(other))) is None


def test_without_a_software_stamp_or_without_its_number_there_is_none() -> None:
    hardware = GOLDEN_IPV4[:48] + bytes(16) + GOLDEN_IPV4[64:]
    assert read_transmit_stamp(walk_control(hardware, 0, len(hardware))) is None
    assert read_transmit_stamp(walk_control(GOLDEN_IPV4, 0, 96)) is None


@given(st.binary(max_size=200))
def test_octets_that_no_kernel_writes_raise_nothing(octets: bytes) -> None:
    read_transmit_stamp(walk_control(octets, 0, len(octets)))


@given(st.integers(0, len(GOLDEN_IPV4)), st.integers(0, len(GOLDEN_IPV4) * 8 - 1))
def test_cut_or_spoilt_octets_raise_nothing(length: int, bit: int) -> None:
    spoilt = bytearray(GOLDEN_IPV4)
    spoilt[bit // 8] ^= 1 << bit % 8
    read_transmit_stamp(walk_control(bytes(spoilt[:length]), 0, length))


class FakeSocket:
    """Counts and stamps as the kernel does: a packet is stamped, and numbered, while TX_SOFTWARE is on."""

    def __init__(self, known: int = (1 << 18) - 1) -> None:
        self.known = known
        self.flags = 0
        self.number = 0
        self.clock = 1000
        self.queue: list[tuple[int, int]] = []

    def setsockopt(self, level: int, name: int, flags: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, SO_TIMESTAMPING)
        if flags & ~self.known:
            raise OSError(errno.EINVAL, "Invalid argument")
        if flags & OPT_ID and not self.flags & OPT_ID:
            self.number = 0
        self.flags = flags

    def send(self, *, stamped: bool = True) -> int:
        """The second at which the packet went."""
        self.clock += 1
        if self.flags & TX_SOFTWARE:
            if stamped:
                self.queue.append((self.number, self.clock))
            self.number += 1
        return self.clock

    def recvmsg(
        self, octets: int, control: int, flags: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        assert (octets, flags) == (0, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        number, second = self.queue.pop(0)
        stamps = struct.pack("@ll32x", second, 0)
        error = struct.pack("@IBBBBII16x", errno.ENOMSG, 4, 0, 0, 0, 0, number)
        return b"", [(socket.SOL_SOCKET, 37, stamps), (socket.IPPROTO_IP, 11, error)], 0, None


def opened(fake: FakeSocket) -> TransmitStamps:
    stamps, refused = open_transmit_stamps(fake)  # type: ignore[arg-type]
    assert stamps is not None
    assert refused == ""
    return stamps


def sent(fake: FakeSocket, stamps: TransmitStamps, keys: range, gap_ns: int = 1_000_000) -> dict[int, int]:
    """Sends packets; when each went."""
    times = {}
    for key in keys:
        stamps.expect(key, key * gap_ns)
        times[key] = ntp_from_timespec(fake.send(), 0)
    return times


def drained(stamps: TransmitStamps) -> dict[int, int]:
    got: dict[int, int] = {}
    stamps.drain(got.__setitem__)
    return got


def test_each_stamp_is_that_of_its_packet() -> None:
    fake = FakeSocket()
    stamps = opened(fake)
    assert fake.flags == TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY | OPT_RX_FILTER
    assert not stamps.doubled
    times = sent(fake, stamps, range(100))
    assert stamps.waiting == 100
    assert drained(stamps) == times
    assert (stamps.waiting, stamps.unmatched) == (0, 0)
    stamps.close()
    assert fake.flags == 0


def test_an_older_kernel_is_asked_for_less() -> None:
    fake = FakeSocket(known=OPT_RX_FILTER - 1)
    stamps = opened(fake)
    assert fake.flags == TX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
    assert stamps.doubled
    assert drained(stamps) == {}


def test_a_kernel_that_refuses_is_not_an_error_and_says_why() -> None:
    assert open_transmit_stamps(FakeSocket(known=0)) == (None, "SO_TIMESTAMPING: Invalid argument")  # type: ignore[arg-type]


def test_stamps_that_the_kernel_lost_shift_no_other() -> None:
    fake = FakeSocket()
    stamps = opened(fake)
    times = {}
    for key in range(10):
        stamps.expect(key, key * 1_000_000)
        times[key] = ntp_from_timespec(fake.send(stamped=key not in (0, 4, 5, 9)), 0)
    assert drained(stamps) == {key: times[key] for key in (1, 2, 3, 6, 7, 8)}
    assert drained(stamps) == {}
    times |= sent(fake, stamps, range(10, 12))
    assert drained(stamps) == {key: times[key] for key in (10, 11)}


@pytest.mark.parametrize("counted", [True, False])
def test_after_a_packet_that_was_not_sent_they_are_counted_anew(counted: bool) -> None:
    """Kernels differ in whether such a packet takes a number."""
    fake = FakeSocket()
    stamps = opened(fake)
    times = sent(fake, stamps, range(3))
    stamps.expect(3, 3_000_000)
    fake.number += counted
    got: dict[int, int] = {}
    stamps.failed(got.__setitem__)
    assert got == times
    fake.send()  # handed over again, without being waited for
    times = sent(fake, stamps, range(4, 8))
    assert drained(stamps) == times
    assert stamps.unmatched == 0


def test_at_high_rates_one_of_64_is_stamped_and_every_one_when_the_rate_falls() -> None:
    fake = FakeSocket()
    stamps = opened(fake)
    times = sent(fake, stamps, range(1, 64 * SAMPLE + 1), gap_ns=20_000)
    got = drained(stamps)
    assert len(got) == SAMPLE + 63
    assert got == {key: times[key] for key in got}
    assert stamps.sampled
    slow = sent(fake, stamps, range(64 * SAMPLE + 1, 66 * SAMPLE + 1), gap_ns=1_000_000)
    got = drained(stamps)
    assert not stamps.sampled
    assert got == slow


def test_stamps_that_are_not_read_are_not_asked_for() -> None:
    """They lie in the buffer that replies need, too."""
    fake = FakeSocket()
    stamps = opened(fake)
    times = sent(fake, stamps, range(3 * MOST_WAITING))
    assert len(fake.queue) == stamps.waiting == MOST_WAITING
    got = drained(stamps)
    assert got == {key: times[key] for key in range(MOST_WAITING)}
    more = sent(fake, stamps, range(3 * MOST_WAITING, 3 * MOST_WAITING + 3))
    assert drained(stamps) == more


def test_at_most_as_many_are_read_as_there_is_time_for() -> None:
    fake = FakeSocket()
    stamps = opened(fake)
    sent(fake, stamps, range(10))
    assert [stamps.drain(lambda _key, _stamp: None, most) for most in (3, 100, 100)] == [3, 7, 0]


def own(fake: FakeSocket, ages: list[int | None], **options: bool) -> tuple[OwnStamps, SystemClock]:
    """Stamps that are all read, with these ages."""
    clock = SystemClock()
    stamps = OwnStamps(fake, StampOptions(**options), clock, lambda key, _stamp: ages[key])  # type: ignore[arg-type]
    for key in range(len(ages)):
        stamps.expect(key, key * 1_000_000)
        fake.send()
    stamps.drain()
    return stamps, clock


@pytest.mark.req("rfc4656-s4.1.2-05")
def test_the_error_estimate_has_the_ages_that_were_measured() -> None:
    stamps, clock = own(FakeSocket(), [10_000] * 20 + [70_000])
    assert stamps.forward == 0
    assert clock.stamp_error_ns == 70_000
    _, clock = own(FakeSocket(), [10])
    assert clock.stamp_error_ns == UNMEASURED_ERROR_NS
    _, clock = own(FakeSocket(), [10] * 20)
    assert clock.stamp_error_ns == LEAST_ERROR_NS
    estimate = ErrorEstimate.from_int(clock.error_estimate)
    assert estimate.multiplier
    assert estimate.error_ns >= clock.state.error_ns + LEAST_ERROR_NS
    assert estimate.synchronized == clock.state.synchronized


def test_stamps_in_packets_are_put_forward_by_the_median_age_when_asked_to() -> None:
    """Of packets whose stamps were put forward, what is measured is what is left of the age."""
    fake, ages = FakeSocket(), [10_000] * 9 + [0, 1_000, -4_000] * 5
    clock = SystemClock()
    stamps = OwnStamps(fake, StampOptions(correct=True), clock, lambda key, _stamp: ages[key])  # type: ignore[arg-type]
    for batch in (range(9), range(9, len(ages))):
        for key in batch:
            stamps.expect(key, key * 1_000_000)
            fake.send()
        stamps.drain()
        assert ntp_add_ns(T0, 10_000) == T0 + stamps.forward
    assert clock.stamp_error_ns == 4_000


def test_a_stamp_that_cannot_be_the_packets_is_counted() -> None:
    stamps, _ = own(FakeSocket(), [None, 5, None])
    assert stamps.mismatched == 2


def test_a_device_that_gives_none_is_told() -> None:
    fake = FakeSocket()
    stamps, _ = own(fake, [])
    for key in range(3):
        stamps.expect(key, key)
        fake.send(stamped=False)
    stamps.drain()
    stamps.close()
    assert stamps.refused == "the device gave none"


def test_the_kernel_is_not_asked_when_it_need_not() -> None:
    fake = FakeSocket()
    stamps, clock = own(fake, [1, 2], transmit=False)
    assert (fake.flags, stamps.waiting, stamps.refused, stamps.drain()) == (0, 0, "", 0)
    assert clock.stamp_error_ns == UNMEASURED_ERROR_NS


@given(st.lists(st.integers(-(10**6), 10**6), min_size=RunningAge.LEAST, max_size=200))
def test_the_running_median_is_that_of_the_last_ages(values: list[int]) -> None:
    ages = RunningAge()
    for value in values:
        ages.add(value)
    last = values[-RunningAge.WINDOW :]
    assert ages.median == statistics.median_high(last)
    assert ages.largest == max(last)
    assert ages.spread == max(abs(value - statistics.median_high(last)) for value in last)


def test_of_too_few_ages_there_is_no_median() -> None:
    ages = RunningAge()
    for _ in range(RunningAge.LEAST - 1):
        ages.add(5)
    assert (ages.median, ages.spread, ages.largest) == (None, None, None)


def test_times_of_sending_are_the_kernels_and_between_them_the_packets_own_put_forward() -> None:
    packets = [ntp_add_ns(T0, number * 1000) for number in range(20)]
    assert sent_times(packets, [0] * 20) is packets
    departures = [ntp_add_ns(stamp, 300) for stamp in packets]
    assert list(sent_times(packets, departures)) == departures
    departures[3] = departures[15] = packets[10] = departures[10] = 0
    found = sent_times(packets, departures)
    assert found[3] == packets[3]  # too little is known by then
    assert found[15] == ntp_add_ns(packets[15], 300)
    assert found[10] == 0
    assert list(packet_ages(packets, departures)) == [300] * 17


PLAN = SenderPlan(bytes(16), 1, None, ("192.0.2.1", 1), ("192.0.2.2", 2), 4, timeout_ns=10**9)


def test_a_departure_is_noted_of_a_packet_that_was_sent_and_at_a_time_that_can_be() -> None:
    session = SessionSender(PLAN)
    session.pack(0, T0, 1)
    session.pack(1, T0, 1)
    assert session.note_departure(0, ntp_add_ns(T0, 7_000)) == 7_000
    assert session.note_departure(1, ntp_add_ns(T0, -10_000)) == -10_000  # the packet's stamp was put forward
    for wrong in (ntp_add_ns(T0, -2_000_000), ntp_add_ns(T0, 1_500_000_000)):
        assert session.note_departure(1, wrong) is None
    assert session.note_departure(2, T0) is None
    assert session.note_departure(99, T0) is None
    assert list(session.records.departure[2:]) == [0, 0]


def test_delays_are_from_the_kernels_time_and_the_reply_is_matched_by_the_packets_own() -> None:
    session = SessionSender(PLAN)
    session.pack(0, T0, 1)
    session.note_departure(0, ntp_add_ns(T0, 7_000))
    stamps = measured_stamps(session.records)
    assert stamps.t1[0] == ntp_add_ns(T0, 7_000)
    assert session.records.t1[0] == T0


def test_a_one_way_sender_keeps_what_it_measures_by_number_of_the_packet() -> None:
    schedule = SessionSchedule((Slot(SlotType.FIXED, 1 << 20),), bytes(16), 4)
    plan = OneWayPlan(bytes(16), 1, None, ("192.0.2.2", 2), schedule, T0, 10**9, measure=True)
    session = OneWaySender(plan)
    session.pack(T0, 1)
    session.was_sent(11)
    session.skip()
    session.pack(T0 + 5, 1)
    session.was_sent(12)
    assert session.note_departure(0, ntp_add_ns(T0, 3_000)) == 3_000
    for sequence in (1, 3, 99):
        assert session.note_departure(sequence, T0) is None
    assert session.note_departure(2, ntp_add_ns(T0, 1_500_000_000)) is None
    assert list(session.stamps) == [T0, 0, T0 + 5]
    assert list(session.departure) == [ntp_add_ns(T0, 3_000), 0, 0]
    assert list(session.late_ns) == [11, 12]


def report(departures: list[int], **more: Any) -> StampReport:
    packets = [ntp_add_ns(T0, number * 1000) for number in range(len(departures))]
    seen = [stamp and ntp_add_ns(packets[number], stamp) for number, stamp in enumerate(departures)]
    return StampReport.of(packets, seen, [1, 2, 3], **more)


def test_the_level_of_accuracy_is_told() -> None:
    kernel = report([200, 300, 400])
    assert (kernel.transmit, kernel.stamped, kernel.error_ns) == ("kernel", 3, KERNEL_ERROR_NS)
    assert kernel.packet_age is not None
    assert (kernel.packet_age.median, kernel.packet_age.p99) == (300, 400)
    mixed = report([200, 0, 300, 2_300])
    assert (mixed.transmit, mixed.stamped, mixed.error_ns) == ("mixed", 3, KERNEL_ERROR_NS + 2_000)
    user = report([0, 0], refused="no")
    assert (user.transmit, user.packet_age, user.error_ns) == ("user", None, TRANSMIT_ERROR_NS)
    assert user.to_dict()["transmit_refused"] == "no"
    assert report([1], receive="user").error_ns == KERNEL_ERROR_NS + RECEIVE_ERROR_NS
    assert kernel.send_error is not None
    assert kernel.send_error.median == 2
