"""When a NAT is reminded of its mapping: after silence of ours, whoever broke it, IKE or ESP. RFC 3948 section 4."""

from __future__ import annotations

import pytest
from sim.network import A, B, connected

from ikev2.core.ike_sa import IkeSa
from ikev2.core.keepalive import Keepalives
from ikev2.core.types import Address

LOCAL, REMOTE = Address(A, 4500), Address(B, 4500)
PATH = (LOCAL, REMOTE)


def behind_nat(**options: object) -> tuple[IkeSa, IkeSa]:
    """An established IKE SA as its two ends have it; a claims to be behind a NAT."""
    _, a, b = connected(a={"encap": True, **options}, b=options)
    return a.sa, b.sa


def spi_of(sa: IkeSa) -> int:
    (spi,) = sa.children
    return spi


@pytest.mark.req("rfc7296-s2.23-11")
def test_after_the_interval_without_a_packet_of_ours_and_then_again() -> None:
    sa, _ = behind_nat()
    keepalives = Keepalives()
    assert [child.spi_in for child in keepalives.follow([sa], 100.0)] == [spi_of(sa)]
    assert keepalives.due({}, 100.0) == []
    assert keepalives.next_timer() == 105.0  # a look at what ESP sends
    keepalives.follow([sa], 119.9)
    assert keepalives.due({}, 119.9) == []
    assert keepalives.next_timer() == 120.0
    assert keepalives.due({}, 120.0) == [PATH]
    assert keepalives.due({}, 139.0) == []
    assert keepalives.due({}, 140.0) == [PATH]


def test_one_more_sa_is_looked_after_from_now_on_and_leaves_the_others_as_they_are() -> None:
    (first, there), (second, _) = behind_nat(), behind_nat(keep_alive_s=8.0)
    second.local = Address(A, 4501)
    keepalives = Keepalives()
    assert keepalives.add(first, 100.0) == 105.0
    assert keepalives.add(there, 100.0) is None  # it is the other end that is behind the NAT
    assert keepalives.add(second, 110.0) == 112.0
    assert keepalives.next_timer() == 105.0
    assert keepalives.due({}, 118.0) == [(second.local, REMOTE)]
    assert keepalives.due({}, 120.0) == [PATH]
    keepalives.add(first, 121.0)  # rekeyed, for one: the path is silent since before
    assert keepalives.due({}, 140.0) == [PATH, (second.local, REMOTE)]
    assert [child.spi_in for child in keepalives.follow([first], 140.0)] == [spi_of(first)]
    assert keepalives.due({}, 160.0) == [PATH]


def test_sa_that_shares_a_path_shares_its_silence_and_has_the_shorter_interval() -> None:
    (first, _), (second, _) = behind_nat(), behind_nat(keep_alive_s=10.0)
    keepalives = Keepalives()
    keepalives.add(first, 0.0)
    assert keepalives.add(second, 6.0) == 2.5
    assert keepalives.due({}, 9.9) == []
    assert keepalives.due({}, 10.0) == [PATH]


def test_what_ike_sends_on_this_path_puts_it_off() -> None:
    sa, _ = behind_nat()
    keepalives = Keepalives()
    keepalives.follow([sa], 0.0)
    keepalives.sent(LOCAL, REMOTE, 15.0)
    keepalives.sent(LOCAL, Address(B, 500), 19.0)
    keepalives.sent(Address(A, 500), REMOTE, 19.0)
    assert keepalives.due({}, 34.9) == []
    assert keepalives.due({}, 35.0) == [PATH]


def test_what_esp_sends_puts_it_off_but_never_beyond_the_interval() -> None:
    sa, _ = behind_nat()
    spi = spi_of(sa)
    keepalives = Keepalives()
    keepalives.follow([sa], 0.0)
    assert keepalives.due({spi: 3}, 5.0) == []
    assert keepalives.due({spi: 7}, 10.0) == []  # sent between 5 and 10: silent since 5 at worst
    assert keepalives.due({spi: 7}, 24.9) == []
    assert keepalives.due({spi: 7}, 25.0) == [PATH]
    keepalives.follow([sa], 30.0)
    assert keepalives.due({}, 30.0) == []  # the backend does not know it any more: nothing was sent


def test_two_ike_sas_on_one_path_have_one_keepalive_at_the_shorter_interval() -> None:
    one, _ = behind_nat(keep_alive_s=10.0)
    other, _ = behind_nat()
    keepalives = Keepalives()
    keepalives.follow([other, one], 0.0)
    assert keepalives.due({}, 10.0) == [PATH]


@pytest.mark.req("rfc7296-s2.23-11")
def test_only_the_end_behind_the_nat_sends_them_and_only_when_it_is_told_to() -> None:
    behind, in_front = behind_nat()
    switched_off, _ = behind_nat(keep_alive_s=0.0)
    _, a, _ = connected()
    keepalives = Keepalives()
    assert keepalives.follow([in_front, switched_off, a.sa], 0.0) == []
    assert keepalives.next_timer() is None
    assert keepalives.due({}, 1000.0) == []
    keepalives.follow([behind], 1000.0)
    assert keepalives.next_timer() == 1005.0
    keepalives.follow([], 1001.0)  # the IKE SA is gone
    assert keepalives.next_timer() is None
