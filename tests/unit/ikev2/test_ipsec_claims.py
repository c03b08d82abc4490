"""Rules and routes counted: a change of one owner costs what it changes, and nothing of another's goes with it."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from ikev2.ipsec.claims import Claims
from ikev2.ipsec.rules import Route, Rule, Wanted

NET, OTHER = IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")
RULE, SECOND_RULE = Rule(18710, 254, destination=NET), Rule(18720, 18700, destination=NET)


def route(source: str | None, network: IPv4Network = NET) -> Route:
    return Route(network, 18700, 7, source)


def test_rule_comes_with_its_first_owner_and_goes_with_its_last() -> None:
    claims = Claims()
    assert claims.want("one", [RULE]) == ({RULE}, set())
    assert claims.want("two", [RULE, SECOND_RULE]) == ({SECOND_RULE}, set())
    assert claims.want("one", []) == (set(), set())
    assert claims.want("two", []) == (set(), {RULE, SECOND_RULE})


def test_first_route_to_a_destination_is_in_force_and_the_next_takes_its_place() -> None:
    claims = Claims()
    first, second = route("10.0.0.1"), route("10.0.0.2")
    assert claims.want("one", [first]) == ({first}, set())
    assert claims.want("two", [second]) == (set(), set())
    assert claims.want("one", []) == ({second}, {first})
    assert claims.want("two", []) == (set(), {second})


def test_unreachable_route_stands_beside_the_one_through_the_device() -> None:
    claims = Claims()
    behind = Route(NET, 18700, None)
    assert claims.want("one", [route(None), behind]) == ({route(None), behind}, set())


def test_owner_that_wants_something_else_exchanges_only_what_differs() -> None:
    claims = Claims()
    claims.want("one", [RULE, route("10.0.0.1")])
    moved = route("10.0.0.9")
    assert claims.want("one", [RULE, moved]) == ({moved}, {route("10.0.0.1")})
    assert claims.of("one") == (RULE, moved)
    assert claims.of("nobody") == ()


ITEMS: list[Wanted] = [RULE, SECOND_RULE, *(route(s, n) for s in (None, "10.0.0.1") for n in (NET, OTHER))]
wishes = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(ITEMS), max_size=4, unique_by=lambda i: hash(i)))
)


@given(wishes)
def test_what_is_in_force_is_always_what_somebody_wants_and_one_route_to_a_place(
    wanted: list[tuple[str, list[Wanted]]],
) -> None:
    claims, in_force, of = Claims(), set[Wanted](), dict[str, list[Wanted]]()
    for owner, items in wanted:
        places: set[object] = set()
        # An owner itself wants one route to a place.
        items = [i for i in items if isinstance(i, Rule) or not (i.place in places or places.add(i.place))]  # type: ignore[func-returns-value]
        of[owner] = items
        add, remove = claims.want(owner, items)
        assert not add & in_force
        assert remove <= in_force
        in_force = (in_force | add) - remove
        everything = {item for each in of.values() for item in each}
        assert in_force <= everything
        assert {item for item in everything if isinstance(item, Rule)} <= in_force
        routes = [item.place for item in in_force if isinstance(item, Route)]
        assert sorted(map(str, set(routes))) == sorted(map(str, routes))
        assert set(routes) == {item.place for item in everything if isinstance(item, Route)}
