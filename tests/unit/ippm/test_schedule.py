"""Send schedules and the exponential deviates. RFC 4656 sections 3.6 and 5, appendix B."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from ippm.core.control_events import Endpoint, TestSession
from ippm.core.schedule import (
    FixedSchedule,
    Slot,
    SlotSchedule,
    SlotType,
    exponential_deviates,
    poisson_schedule,
    slot_offsets,
)
from ippm.errors import LocalProtocolError
from ippm.iana import Mode
from ippm.io.light import LightSender
from ippm.io.options import TwpingOptions
from ippm.io.owamp_client import slots_of
from ippm.io.owamp_options import OwpingOptions
from ippm.io.twamp_client import sender_plan
from ippm.timestamps import ns_from_fixed_point

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc4656-appB-exponential.json").read_text())[
    "vectors"
]


@pytest.mark.req("rfc4656-s6.4-01")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["sid"])
def test_the_first_deviates_of_each_sid(vector: dict[str, object]) -> None:
    deviates = islice(exponential_deviates(bytes.fromhex(str(vector["sid"]))), 16)
    assert [f"{deviate:016x}" for deviate in deviates] == vector["first16"]


@pytest.mark.req("rfc4656-s5.1-01", "rfc4656-s5.2-01", "rfc4656-s5.2-02", "rfc4656-sA-01", "rfc4656-sA-02")
@pytest.mark.req("rfc4656-sB-01", "rfc4656-sB-02")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["sid"])
def test_the_sum_of_a_million_deviates(vector: dict[str, object]) -> None:
    total = sum(islice(exponential_deviates(bytes.fromhex(str(vector["sid"]))), 1_000_000))
    assert f"{total:016x}" == vector["sum"]
    assert total / 2**32 == pytest.approx(vector["sum_seconds"], abs=1e-6)


def test_slots_go_round_and_each_waits_before_its_packet() -> None:
    slots = [Slot(SlotType.FIXED, 1 << 32), Slot(SlotType.FIXED, 0), Slot(SlotType.FIXED, 1 << 31)]
    offsets = list(islice(slot_offsets(slots, bytes(16)), 5))
    assert offsets == [1 << 32, 1 << 32, 3 << 31, 5 << 31, 5 << 31]
    assert [SlotSchedule(slots, bytes(16), 5).offset_ns(i) for i in range(3)] == [10**9, 10**9, 1_500_000_000]


def test_a_poisson_stream_has_the_mean_that_was_asked_for() -> None:
    sid = bytes.fromhex(VECTORS[0]["sid"])
    schedule = poisson_schedule(10_000_000, sid, 16)
    first = int(VECTORS[0]["first16"][0], 16) * 10_000_000 >> 32
    assert abs(schedule.offset_ns(0) - first) <= 1
    assert schedule.offset_ns(15) > schedule.offset_ns(14) > 0


def test_a_periodic_stream() -> None:
    schedule = FixedSchedule(250)
    assert [schedule.offset_ns(i) for i in range(4)] == [0, 250, 500, 750]
    with pytest.raises(LocalProtocolError):
        FixedSchedule(-1)
    with pytest.raises(LocalProtocolError):
        next(slot_offsets([], bytes(16)))


# As floats these times a thousand million are below the whole number: 129999.99999999999, 1000999999.9999999.
@pytest.mark.parametrize(("seconds", "ns"), [(0.00013, 130_000), (1.001, 1_001_000_000), (0.00399, 3_990_000)])
def test_seconds_are_the_nearest_nanosecond(seconds: float, ns: int) -> None:
    (slot,) = slots_of(OwpingOptions("192.0.2.1", schedule=((False, seconds),)))
    assert ns_from_fixed_point(slot.parameter) == ns
    light = LightSender("192.0.2.1", interval_s=seconds, timeout_s=seconds).plan(
        ("192.0.2.2", 1), ("192.0.2.1", 862)
    )
    assert (light.schedule, light.timeout_ns) == (FixedSchedule(ns), ns)
    ends = Endpoint("192.0.2.2", 1), Endpoint("192.0.2.1", 862)
    session = TestSession(bytes(16), Mode.OPEN, None, *ends, 0, 0, ns, 0)
    assert sender_plan(TwpingOptions("192.0.2.1", interval_s=seconds), session).schedule == FixedSchedule(ns)
