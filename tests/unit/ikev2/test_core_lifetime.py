"""How much an SA may carry until it is rekeyed: a random part less than what is configured. RFC 7296 section 2.8.1."""

from __future__ import annotations

import pytest

from ikev2.core.child_sa import VolumeLimits
from ikev2.core.config import Volume
from ikev2.core.lifetime import draw_limits


class Entropy:
    """Says the same octet over and over."""

    def __init__(self, octet: int) -> None:
        self.octet = octet

    def octets(self, count: int, /) -> bytes:
        return bytes([self.octet]) * count


@pytest.mark.req("rfc7296-s2.8.1-01")
@pytest.mark.parametrize(("octet", "soft"), [(0, 1000), (0x80, 949), (0xFF, 901)])
def test_a_random_part_of_what_is_allowed_is_left_out(octet: int, soft: int) -> None:
    drawn = draw_limits(Volume(1000, 1100, 100), Volume(), Entropy(octet))
    assert abs(drawn.soft_octets - soft) <= 1
    assert drawn.hard_octets == 1100
    assert (drawn.soft_packets, drawn.hard_packets) == (0, 0)


def test_a_limit_of_its_end_alone_has_no_other() -> None:
    assert draw_limits(Volume(), Volume(0, 7, 7), Entropy(0xFF)) == VolumeLimits(0, 0, 0, 7)


def test_never_before_the_first_packet() -> None:
    assert draw_limits(Volume(), Volume(1, 2, 1), Entropy(0xFF)).soft_packets == 1
