"""When dummy packets are due, and what they may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from esp_support import child_pair, udp_packet

from ikev2.core.child_sa import Dummies, UdpEncap
from ikev2.core.types import Mode
from ikev2.errors import BackendError
from ikev2.ipsec.dummies import DummySchedule
from ikev2.ipsec.outer import outer_packet
from ikev2.ipsec.sad import Engine


def child(spi: int, interval_s: float, octets: tuple[int, int] = (64, 1024)) -> object:
    return replace(child_pair(spis=(spi, spi + 1))[0], dummies=Dummies(interval_s, octets))


def test_each_pair_has_its_own_moments_between_nothing_and_twice_its_interval() -> None:
    shares = iter([0.5, 0.25, 1.0, 0.0, 1.0, 0.0])
    schedule = DummySchedule(lambda low, high: low + next(shares) * (high - low))
    assert not schedule
    assert schedule.wait_ms(100.0) is None
    slow, fast = child(0x1001, 10.0), child(0x2001, 2.0, (100, 200))
    schedule.add(slow, 100.0)  # type: ignore[arg-type]
    schedule.add(fast, 100.0)  # type: ignore[arg-type]
    assert schedule.wait_ms(100.0) == 1000
    assert schedule.due(100.9) == []
    assert schedule.due(101.0) == [(fast, 100)]  # its next one is 4 s later
    assert schedule.wait_ms(101.0) == 4000
    assert schedule.due(105.0) == [(fast, 100)]
    schedule.drop(0x2001)
    assert schedule.wait_ms(105.5) == 4500
    schedule.drop(0x1001)
    schedule.drop(0x1001)
    assert not schedule
    assert schedule.due(1000.0) == []


def test_lengths_are_of_the_whole_range_and_moments_differ() -> None:
    schedule = DummySchedule()
    one = child(0x1001, 1.0, (64, 67))
    schedule.add(one, 0.0)  # type: ignore[arg-type]
    found = [octets for now in range(0, 1000, 2) for _, octets in schedule.due(float(now))]
    assert len(found) >= 499
    assert set(found) == {64, 65, 66, 67}


@pytest.mark.parametrize("encap", [None, UdpEncap(4500, 4500)], ids=["esp", "udp"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("ends", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")], ids=["ipv4", "ipv6"])
def test_a_dummy_packet_is_never_longer_than_the_path_takes(
    ends: tuple[str, str], mode: Mode, encap: UdpEncap | None
) -> None:
    of_a, of_b = child_pair(mode=mode, encap=encap, a=ends[0], b=ends[1])
    a, b = Engine(), Engine()
    a.install(of_a).limit(1300)
    b.install(of_b)
    for octets in (0, 1000, 5000):
        pair, esp, inside = a.dummy(of_a, octets)
        most = 1300 - (0 if mode is Mode.TUNNEL else len(inside))
        assert pair.outbound.octets == min(octets, most)
        pair.outbound.octets = 0
        assert outer_packet(pair, esp, inside).endswith(esp)
        assert b.unprotect(esp) is None
    assert b.counters(of_b).errors == {"dummy": 3}


def test_a_pair_that_does_not_send_sends_no_dummies() -> None:
    of_a, _ = child_pair()
    engine = Engine()
    with pytest.raises(BackendError, match="sends nothing"):
        engine.dummy(of_a, 10)
    engine.install(of_a, standby=True)
    with pytest.raises(BackendError, match="sends nothing"):
        engine.dummy(of_a, 10)
    engine.activate(of_a)
    engine.dummy(of_a, 10)
    engine.delete_outbound(of_a)
    with pytest.raises(BackendError, match="sends nothing"):
        engine.dummy(of_a, 10)
    assert engine.protect(udp_packet()) is None
