"""The MTU of the device that all Child SAs share."""

from __future__ import annotations

from ikev2.ipsec.inner_mtus import InnerMtus


def test_the_least_of_all_pairs_counts_as_long_as_its_pair_is_there() -> None:
    mtus = InnerMtus()
    assert mtus.least(1500) == 1500
    for spi, octets in ((1, 1438), (2, 1400), (3, 1400)):
        mtus.note(spi, octets, carries_ipv6=False)
    assert mtus.least(1500) == 1400
    mtus.forget(2)
    assert mtus.least(1500) == 1400
    mtus.forget(3)
    assert mtus.least(1500) == 1438


def test_a_pair_that_moves_to_another_path_counts_once() -> None:
    mtus = InnerMtus()
    mtus.note(1, 900, carries_ipv6=True)
    mtus.note(1, 1300, carries_ipv6=False)
    assert mtus.least(1500) == 1300
    mtus.note(1, 900, carries_ipv6=False)
    assert mtus.least(1500) == 900
    mtus.forget(1)
    mtus.forget(1)
    assert mtus.least(1500) == 1500


def test_with_ipv6_there_is_room_for_1280_octets() -> None:
    """RFC 8200 section 5: a link of IPv6 takes 1280 octets; Linux takes IPv6 off one that does not."""
    mtus = InnerMtus()
    mtus.note(1, 600, carries_ipv6=False)
    mtus.note(2, 1400, carries_ipv6=True)
    assert mtus.least(1500) == 1280
    mtus.forget(2)
    assert mtus.least(1500) == 600
    mtus.note(3, 1400, carries_ipv6=True)
    mtus.clear()
    assert mtus.least(1000) == 1000
