"""Traffic selectors: what is common, what covers what, and the responder's choice."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.core import narrowing
from ikev2.core.config import DYNAMIC, Dynamic
from ikev2.errors import SinglePairRequired, TsUnacceptable
from ikev2.iana import TsType
from ikev2.wire.payloads import TrafficSelector

UDP, TCP = 17, 6


def ts(text: str, protocol: int = 0, start: int = 0, end: int = 65535) -> TrafficSelector:
    return TrafficSelector.from_network(ipaddress.ip_network(text), protocol, start, end)


def span(first: str, last: str, protocol: int = 0, start: int = 0, end: int = 65535) -> TrafficSelector:
    kind = TsType.TS_IPV4_ADDR_RANGE if "." in first else TsType.TS_IPV6_ADDR_RANGE
    packed = [ipaddress.ip_address(text).packed for text in (first, last)]
    return TrafficSelector(kind, protocol, start, end, packed[0], packed[1])


OPAQUE = {"start": 65535, "end": 0}

INTERSECTIONS = [
    ("same", ts("192.0.2.0/24"), ts("192.0.2.0/24"), ts("192.0.2.0/24")),
    ("subnet", ts("192.0.2.0/24"), ts("192.0.2.64/26"), ts("192.0.2.64/26")),
    ("host in all", ts("0.0.0.0/0"), ts("198.51.100.7/32"), ts("198.51.100.7/32")),
    (
        "overlapping ranges",
        span("192.0.2.10", "192.0.2.20"),
        span("192.0.2.15", "192.0.2.30"),
        span("192.0.2.15", "192.0.2.20"),
    ),
    ("apart", ts("192.0.2.0/24"), ts("198.51.100.0/24"), None),
    ("families", ts("0.0.0.0/0"), ts("::/0"), None),
    ("IPv6", ts("2001:db8::/32"), ts("2001:db8:1::/48"), ts("2001:db8:1::/48")),
    ("protocol of one", ts("192.0.2.0/24", UDP), ts("192.0.2.0/24"), ts("192.0.2.0/24", UDP)),
    ("protocols differ", ts("192.0.2.0/24", UDP), ts("192.0.2.0/24", TCP), None),
    (
        "ports",
        ts("192.0.2.0/24", UDP, 100, 200),
        ts("192.0.2.0/24", UDP, 150, 300),
        ts("192.0.2.0/24", UDP, 150, 200),
    ),
    ("ports apart", ts("192.0.2.0/24", UDP, 100, 200), ts("192.0.2.0/24", UDP, 201, 300), None),
    (
        "any port holds opaque",
        ts("192.0.2.0/24", UDP, **OPAQUE),
        ts("192.0.2.0/24", UDP),
        ts("192.0.2.0/24", UDP, **OPAQUE),
    ),
    ("opaque is no number", ts("192.0.2.0/24", UDP, **OPAQUE), ts("192.0.2.0/24", UDP, 1, 65535), None),
    (
        "opaque and opaque",
        ts("192.0.2.0/24", UDP, **OPAQUE),
        ts("192.0.2.0/24", UDP, **OPAQUE),
        ts("192.0.2.0/24", UDP, **OPAQUE),
    ),
    ("unknown type", TrafficSelector(TsType(200), 0, 0, 0, b"", b"octets"), ts("192.0.2.0/24"), None),
]


@pytest.mark.parametrize(
    ("a", "b", "wanted"), [row[1:] for row in INTERSECTIONS], ids=[row[0] for row in INTERSECTIONS]
)
def test_intersection(a: TrafficSelector, b: TrafficSelector, wanted: TrafficSelector | None) -> None:
    assert narrowing.intersect(a, b) == wanted
    assert narrowing.intersect(b, a) == wanted


COVERS = [
    ("itself", [ts("192.0.2.0/24")], ts("192.0.2.0/24"), True),
    ("part", [ts("192.0.2.0/24")], ts("192.0.2.1/32"), True),
    ("too much", [ts("192.0.2.0/25")], ts("192.0.2.0/24"), False),
    ("two halves", [ts("192.0.2.128/25"), ts("192.0.2.0/25")], ts("192.0.2.0/24"), True),
    ("a hole", [ts("192.0.2.0/25"), span("192.0.2.129", "192.0.2.255")], ts("192.0.2.0/24"), False),
    (
        "halves of which one has other ports",
        [ts("192.0.2.0/25"), ts("192.0.2.128/25", UDP)],
        ts("192.0.2.0/24"),
        False,
    ),
    ("one protocol of all", [ts("192.0.2.0/24")], ts("192.0.2.0/24", UDP, 53, 53), True),
    ("all of one protocol", [ts("192.0.2.0/24", UDP)], ts("192.0.2.0/24"), False),
    ("nothing", [], ts("192.0.2.0/24"), False),
]


@pytest.mark.parametrize(("outer", "inner", "wanted"), [row[1:] for row in COVERS], ids=[row[0] for row in COVERS])
def test_cover(outer: list[TrafficSelector], inner: TrafficSelector, wanted: bool) -> None:
    assert narrowing.covers(outer, [inner]) is wanted


def test_policy_that_allows_all_returns_the_same() -> None:
    offered = [ts("192.0.2.0/24"), ts("198.51.100.0/24", TCP, 80, 80)]
    found = narrowing.narrow(offered, offered[:1], [ts("0.0.0.0/0")], [ts("0.0.0.0/0")])
    assert found == narrowing.Narrowed(tuple(offered), (offered[0],), first_choice=True, whole=True)


@pytest.mark.req("rfc7296-s2.9-02")
def test_the_initiators_first_choice_is_kept() -> None:
    """RFC 7296 section 2.9: TSi (198.51.100.43 udp 1000), (198.51.100.0/24); the policy allows half of the net."""
    first = ts("198.51.100.43/32", UDP, 1000, 1000)
    found = narrowing.narrow(
        [first, ts("198.51.100.0/24")], [ts("192.0.2.0/24")], [ts("198.51.100.0/26")], [ts("192.0.2.0/24")]
    )
    assert found.first_choice
    assert not found.whole
    assert narrowing.covers(found.tsi, [first])
    assert narrowing.covers([ts("198.51.100.0/26")], found.tsi)
    # And where no other selector has it.
    apart = ts("203.0.113.9/32")
    found = narrowing.narrow(
        [apart, ts("198.51.100.0/24")],
        [ts("192.0.2.0/24")],
        [ts("203.0.113.0/24"), ts("198.51.100.0/26")],
        [ts("192.0.2.0/24")],
    )
    assert found.first_choice
    assert narrowing.covers(found.tsi, [apart])


@pytest.mark.req("rfc7296-s2.9-03")
def test_without_the_first_choice_another_acceptable_part_is_taken() -> None:
    found = narrowing.narrow(
        [ts("203.0.113.9/32"), ts("0.0.0.0/0")], [ts("0.0.0.0/0")], [ts("198.51.100.0/24")], [ts("192.0.2.0/24")]
    )
    assert found == narrowing.Narrowed(
        (ts("198.51.100.0/24"),), (ts("192.0.2.0/24"),), first_choice=False, whole=False
    )


@pytest.mark.parametrize("side", [0, 1])
def test_nothing_in_common_on_either_side_is_unacceptable(side: int) -> None:
    policies = [[ts("0.0.0.0/0")], [ts("0.0.0.0/0")]]
    policies[side] = [ts("203.0.113.0/24")]
    with pytest.raises(TsUnacceptable):
        narrowing.narrow([ts("198.51.100.0/24")], [ts("192.0.2.0/24")], policies[0], policies[1])


def test_many_selectors_against_a_large_policy_are_not_compared_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a peer asks for in one message must not keep us busy for seconds; 255 selectors are left, the first ones."""
    contains, compared = narrowing._contains, [0]

    def counting(outer: TrafficSelector, inner: TrafficSelector) -> bool:
        compared[0] += 1
        return contains(outer, inner)

    monkeypatch.setattr(narrowing, "_contains", counting)
    offered = [ts("0.0.0.0/0", 6, port, port) for port in range(1, 256)]
    policy = [ts(f"10.{number}.0.0/16") for number in range(0, 20, 2)]
    found = narrowing.intersect_all(offered, policy)
    assert len(found) == 255
    assert found[:11] == (
        *(ts(f"10.{number}.0.0/16", 6, 1, 1) for number in range(0, 20, 2)),
        ts("10.0.0.0/16", 6, 2, 2),
    )
    assert compared[0] < 255 * 255


def test_selectors_of_unknown_type_are_left_out() -> None:
    strange = TrafficSelector(TsType(200), 0, 0, 0, b"", b"whatever")
    found = narrowing.narrow(
        [strange, ts("192.0.2.0/24")], [ts("192.0.2.0/24")], [ts("0.0.0.0/0")], [ts("0.0.0.0/0")]
    )
    assert found.tsi == (ts("192.0.2.0/24"),)
    with pytest.raises(TsUnacceptable):
        narrowing.narrow([strange], [ts("192.0.2.0/24")], [ts("0.0.0.0/0")], [ts("0.0.0.0/0")])


def test_dynamic_becomes_the_address_with_its_ports() -> None:
    assert narrowing.resolve([DYNAMIC], "192.0.2.7") == (ts("192.0.2.7/32"),)
    assert narrowing.resolve([Dynamic(UDP, 862, 862)], "2001:db8::1") == (ts("2001:db8::1/128", UDP, 862, 862),)
    assert narrowing.resolve([ts("10.0.0.0/8"), DYNAMIC], "192.0.2.7") == (ts("10.0.0.0/8"), ts("192.0.2.7/32"))


@pytest.mark.req("rfc7296-s2.23.1-01")
@pytest.mark.parametrize(
    ("selectors", "wanted"),
    [
        ([ts("192.0.2.1/32")], "192.0.2.1"),
        ([ts("192.0.2.1/32", UDP, 1, 1), ts("192.0.2.1/32", TCP)], "192.0.2.1"),
        ([ts("192.0.2.0/31")], None),
        ([ts("192.0.2.1/32"), ts("192.0.2.2/32")], None),
        ([], None),
    ],
)
def test_transport_mode_wants_one_address(selectors: list[TrafficSelector], wanted: str | None) -> None:
    assert narrowing.single_address(selectors) == wanted


def test_substitution_changes_the_address_alone() -> None:
    before = [ts("10.0.0.1/32", UDP, 5, 6)]
    assert narrowing.substitute(before, "203.0.113.5") == (ts("203.0.113.5/32", UDP, 5, 6),)


# A tiny world, in which sets can be counted: addresses 0 to 15, two protocols, four ports.
_selectors = st.builds(
    lambda low, high, protocol, port_low, port_high: TrafficSelector(
        TsType.TS_IPV4_ADDR_RANGE,
        protocol,
        min(port_low, port_high),
        max(port_low, port_high),
        bytes([0, 0, 0, min(low, high)]),
        bytes([0, 0, 0, max(low, high)]),
    ),
    st.integers(0, 15),
    st.integers(0, 15),
    st.sampled_from([UDP, TCP]),
    st.integers(0, 3),
    st.integers(0, 3),
)


def _points(selectors: tuple[TrafficSelector, ...] | list[TrafficSelector]) -> set[tuple[int, int, int]]:
    return {
        (ts.ip_protocol, port, address)
        for ts in selectors
        for port in range(ts.start_port, ts.end_port + 1)
        for address in range(ts.start_address[3], ts.end_address[3] + 1)
    }


@given(st.lists(_selectors, max_size=4), st.lists(_selectors, max_size=4))
@settings(max_examples=200)
def test_intersection_of_sets_is_that_of_their_points(a: list[TrafficSelector], b: list[TrafficSelector]) -> None:
    assert _points(narrowing.intersect_all(a, b)) == _points(a) & _points(b)


@given(st.lists(_selectors, max_size=4), st.lists(_selectors, min_size=1, max_size=3))
@settings(max_examples=200)
def test_cover_never_claims_too_much(outer: list[TrafficSelector], inner: list[TrafficSelector]) -> None:
    if narrowing.covers(outer, inner):
        assert _points(inner) <= _points(outer)


# --- what is left ---


SUBTRACTIONS = [
    ("nothing in common", [ts("192.0.2.0/24")], [ts("198.51.100.0/24")], [ts("192.0.2.0/24")]),
    ("all", [ts("192.0.2.0/25")], [ts("192.0.2.0/24")], []),
    (
        "one address of RFC 7296 section 2.9.1",
        [ts("198.51.100.0/24")],
        [ts("198.51.100.66/32")],
        [span("198.51.100.0", "198.51.100.65"), span("198.51.100.67", "198.51.100.255")],
    ),
    (
        "a range of ports",
        [ts("192.0.2.1/32", UDP)],
        [ts("192.0.2.1/32", UDP, 862, 863)],
        [ts("192.0.2.1/32", UDP, 0, 861), ts("192.0.2.1/32", UDP, 864, 65535)],
    ),
    (
        "ports of some addresses",
        [ts("192.0.2.0/31", TCP, 1, 10)],
        [ts("192.0.2.0/32", TCP, 5, 20)],
        [ts("192.0.2.1/32", TCP, 1, 10), ts("192.0.2.0/32", TCP, 1, 4)],
    ),
    ("both families", [ts("0.0.0.0/0"), ts("::/0")], [ts("::/0")], [ts("0.0.0.0/0")]),
    ("any protocol but one", [ts("192.0.2.0/24")], [ts("192.0.2.0/24", UDP)], None),
    ("any port but OPAQUE", [ts("192.0.2.0/24", UDP)], [ts("192.0.2.0/24", UDP, **OPAQUE)], None),
    (
        "ports of any protocol",
        [ts("192.0.2.1/32")],
        [TrafficSelector(TsType(7), 0, 5, 5, *[b"\xc0\0\2\1"] * 2)],
        None,
    ),
]


@pytest.mark.parametrize(
    ("a", "b", "wanted"), [case[1:] for case in SUBTRACTIONS], ids=[c[0] for c in SUBTRACTIONS]
)
def test_subtraction(
    a: list[TrafficSelector], b: list[TrafficSelector], wanted: list[TrafficSelector] | None
) -> None:
    left = narrowing.subtract(a, b)
    assert left == (None if wanted is None else tuple(wanted))


@given(st.lists(_selectors, max_size=4), st.lists(_selectors, max_size=4))
@settings(max_examples=200)
def test_subtraction_of_sets_is_that_of_their_points(a: list[TrafficSelector], b: list[TrafficSelector]) -> None:
    left = narrowing.subtract(a, b)
    if left is not None:
        assert _points(left) == _points(a) - _points(b)


def test_what_remains_of_an_offer_is_the_rest_of_one_side_with_all_of_the_other() -> None:
    asked = (ts("10.1.0.0/16"),), (ts("10.0.0.0/8"),)
    got = (ts("10.1.0.0/16"),), (ts("10.0.0.0/9"),)
    assert narrowing.remaining(asked, got) == (((ts("10.1.0.0/16"),), (ts("10.128.0.0/9"),)),)
    assert narrowing.remaining(asked, asked) == ()
    both = (ts("10.1.0.0/17"),), (ts("10.0.0.0/9"),)
    assert narrowing.remaining(asked, both) == (
        ((ts("10.1.0.0/16"),), (ts("10.128.0.0/9"),)),
        ((ts("10.1.128.0/17"),), (ts("10.0.0.0/9"),)),
    )


# --- both sides together ---


@pytest.mark.parametrize(
    ("policy_i", "policy_r"),
    [
        pytest.param([ts("0.0.0.0/0")], [ts("::/0")], id="no packet has addresses of both families"),
        pytest.param([ts("::/0", UDP), ts("0.0.0.0/0", UDP)], [ts("0.0.0.0/0", TCP)], id="nor two protocols"),
    ],
)
def test_sides_that_no_packet_can_match_together_are_unacceptable(
    policy_i: list[TrafficSelector], policy_r: list[TrafficSelector]
) -> None:
    both = [ts("0.0.0.0/0"), ts("::/0")]
    with pytest.raises(TsUnacceptable):
        narrowing.narrow(both, both, policy_i, policy_r)


def test_both_families_are_narrowed_each_by_itself() -> None:
    narrowed = narrowing.narrow(
        [ts("0.0.0.0/0"), ts("::/0")], [ts("0.0.0.0/0"), ts("::/0")],
        [ts("10.1.0.0/16"), ts("2001:db8:1::/48")], [ts("2001:db8:2::/48"), ts("10.2.0.0/16")],
    )  # fmt: skip
    assert narrowed.tsi == (ts("10.1.0.0/16"), ts("2001:db8:1::/48"))
    assert narrowed.tsr == (ts("10.2.0.0/16"), ts("2001:db8:2::/48"))


def test_a_single_pair_is_that_of_the_first_selectors_with_all_that_is_offered_for_it() -> None:
    """The example of RFC 7296 section 2.9: 198.51.100.43 with all ports and IP protocols."""
    offered_i = [ts("198.51.100.43/32", UDP, 1000, 1000), ts("198.51.100.0/24")]
    offered_r = [ts("192.0.2.7/32", UDP, 53, 53), ts("192.0.2.0/24")]
    narrowed = narrowing.narrow(offered_i, offered_r, [ts("198.51.100.0/24")], [ts("192.0.2.0/24")])
    one = narrowing.single_pair(narrowed, offered_i, offered_r)
    assert (one.tsi, one.tsr) == ((ts("198.51.100.43/32"),), (ts("192.0.2.7/32"),))
    assert one.first_choice
    assert not one.whole


@pytest.mark.parametrize("first", [[], [ts("203.0.113.1/32")]])
def test_a_single_pair_that_is_not_named_or_not_allowed_is_required(first: list[TrafficSelector]) -> None:
    offered_i, offered_r = [*first, ts("198.51.100.0/24")], [ts("192.0.2.7/32")]
    narrowed = narrowing.narrow(offered_i, offered_r, [ts("198.51.100.0/24")], [ts("192.0.2.0/24")])
    with pytest.raises(SinglePairRequired):
        narrowing.single_pair(narrowed, offered_i, offered_r)
