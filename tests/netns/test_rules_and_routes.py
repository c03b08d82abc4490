"""The octets of rules and routes: what the kernel makes of them is what it makes of iproute2's words for the same."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from ikev2.io.netns import Namespace, TwoHosts, probe_namespaces
from ikev2.ipsec.routing import SOCKET_MARK
from ikev2.ipsec.rtnetlink import RouteAnswer, RouteSocket
from ikev2.ipsec.rules import Route, Rule

_probe = probe_namespaces()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(not _probe.ok, reason=_probe.reason)]

TABLE = 18703
DEVICE = {"a": "veth-a", "b": "veth-b"}

RULES = [
    (Rule(18720, TABLE, destination=ip_network("10.1.0.0/16")), "to 10.1.0.0/16"),
    (
        Rule(18721, TABLE, source=ip_network("0.0.0.0/32"), destination=ip_network("10.2.3.4/32")),
        "from 0.0.0.0/32 to 10.2.3.4/32",
    ),
    (
        Rule(18722, TABLE, ip_network("192.0.2.0/24"), ip_network("10.0.0.0/8"), 17, (1, 65534), (4500, 4500)),
        "from 192.0.2.0/24 to 10.0.0.0/8 ipproto udp sport 1-65534 dport 4500",
    ),
    (
        Rule(18723, 254, destination=ip_network("0.0.0.0/0"), mark=SOCKET_MARK),
        f"fwmark {SOCKET_MARK:#x}/0xffffffff",
    ),
    (Rule(18724, 254, destination=ip_network("10.3.0.0/16"), ip_protocol=50), "to 10.3.0.0/16 ipproto esp"),
]
RULES6 = [
    (Rule(18720, TABLE, destination=ip_network("2001:db8:1::/48")), "to 2001:db8:1::/48"),
    (Rule(18721, TABLE, destination=ip_network("2001:db8:2::/48"), from_here=True), "to 2001:db8:2::/48 iif lo"),
    (
        Rule(18722, TABLE, ip_network("2001:db8::1/128"), ip_network("2001:db8:3::/48"), 6, None, (80, 90)),
        "from 2001:db8::1/128 to 2001:db8:3::/48 ipproto tcp dport 80-90",
    ),
    (Rule(18723, 254, destination=ip_network("::/0"), mark=SOCKET_MARK), f"fwmark {SOCKET_MARK:#x}/0xffffffff"),
]


def routes(index: int, host: str) -> list[tuple[Route, str]]:
    """For host "a" or "b", whose interface has that index."""
    device, last = DEVICE[host], {"a": 1, "b": 2}[host]
    return [
        (
            Route(ip_network("10.1.0.0/16"), TABLE, index, f"192.0.2.{last}"),
            f"10.1.0.0/16 dev {device} metric 100 scope link src 192.0.2.{last}",
        ),
        (Route(ip_network("10.1.0.0/16"), TABLE, None), "unreachable 10.1.0.0/16 metric 4294967295"),
        (Route(ip_network("0.0.0.0/0"), TABLE, index), f"0.0.0.0/0 dev {device} metric 100 scope link"),
        (
            Route(ip_network("10.4.0.0/16"), TABLE, index, None, "192.0.2.9"),
            f"10.4.0.0/16 via 192.0.2.9 dev {device} metric 100",
        ),
    ]


def routes6(index: int, host: str) -> list[tuple[Route, str]]:
    device, last = DEVICE[host], {"a": 1, "b": 2}[host]
    return [
        (
            Route(ip_network("2001:db8:1::/48"), TABLE, index, f"2001:db8::{last}"),
            f"2001:db8:1::/48 dev {device} metric 100 src 2001:db8::{last}",
        ),
        (Route(ip_network("2001:db8:1::/48"), TABLE, None), "unreachable 2001:db8:1::/48 metric 4294967295"),
        (
            Route(ip_network("2001:db8:4::/48"), TABLE, index, None, "2001:db8::9"),
            f"2001:db8:4::/48 via 2001:db8::9 dev {device} metric 100",
        ),
    ]


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts(("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.2/24", "2001:db8::2/64")) as both:
        for name, device in DEVICE.items():
            # An address is no source before its uniqueness has been looked into.
            both.run(
                name, ["ip", "-6", "addr", "change", f"2001:db8::{'ab'.index(name) + 1}/64", "dev", device, "nodad"]
            )
        yield both


def ip(host: Namespace, *words: str) -> Any:
    done = host.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
    return json.loads(done.stdout) if "-j" in words and done.stdout.strip() else []


def index_of(host: Namespace, device: str) -> int:
    return int(ip(host, "-j", "link", "show", device)[0]["ifindex"])


@pytest.mark.parametrize(("family", "forms"), [("-4", RULES), ("-6", RULES6)], ids=["IPv4", "IPv6"])
def test_rules_are_those_of_iproute2(hosts: TwoHosts, family: str, forms: list[tuple[Rule, str]]) -> None:
    a, b = hosts.host("a"), hosts.host("b")
    before = ip(a, family, "-d", "-j", "rule", "show")
    sock = a.call(RouteSocket)
    ours = [rule for rule, _ in forms]
    assert sock.add(ours) == [0] * len(ours)
    for rule, words in forms:
        ip(b, family, "rule", "add", "priority", str(rule.priority), *words.split(),
           "table", str(rule.table), "protocol", "73")  # fmt: skip
    shown = ip(a, family, "-d", "-j", "rule", "show")
    assert shown == ip(b, family, "-d", "-j", "rule", "show")
    assert len(shown) == len(before) + len(forms)
    assert sock.add(ours[:1]) == [errno.EEXIST]
    assert sock.delete(ours[::-1]) == [0] * len(ours)
    assert ip(a, family, "-d", "-j", "rule", "show") == before
    assert sock.delete(ours[:1]) == [errno.ENOENT]
    sock.close()


@pytest.mark.parametrize(("family", "forms"), [("-4", routes), ("-6", routes6)], ids=["IPv4", "IPv6"])
def test_routes_are_those_of_iproute2(hosts: TwoHosts, family: str, forms: Any) -> None:
    a, b = hosts.host("a"), hosts.host("b")
    sock = a.call(RouteSocket)
    ours = [route for route, _ in forms(index_of(a, "veth-a"), "a")]
    assert sock.add(ours) == [0] * len(ours)
    for _, words in forms(index_of(b, "veth-b"), "b"):
        ip(b, family, "route", "add", *words.split(), "table", str(TABLE), "proto", "73")
    mine, theirs = (
        json.dumps(ip(host, family, "-d", "-j", "route", "show", "table", str(TABLE))) for host in (a, b)
    )
    for here, there in (("veth-a", "veth-b"), ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")):
        mine = mine.replace(f'"{here}"', f'"{there}"')
    assert mine == theirs
    assert len(json.loads(mine)) == len(ours)
    # Another source in the same place takes that of the first, and a deletion is of whatever is there.
    other = Route(ours[0].destination, TABLE, ours[0].device_index)
    assert sock.add([other]) == [0]
    assert len(ip(a, family, "-j", "route", "show", "table", str(TABLE))) == len(ours)
    assert sock.delete([other, *ours[1:]]) == [0] * len(ours)
    assert ip(a, family, "-j", "route", "show", "table", str(TABLE)) == []
    sock.close()


def test_what_is_refused_is_named_and_the_rest_is_done(hosts: TwoHosts) -> None:
    a = hosts.host("a")
    sock = a.call(RouteSocket)
    many = [Route(ip_network(f"10.{number}.0.0/16"), TABLE, None) for number in range(200)]
    nowhere = Route(ip_network("10.250.0.0/16"), TABLE, 4711)
    answers = sock.add([*many[:100], nowhere, *many[100:]])
    assert answers == [0] * 100 + [errno.ENODEV] + [0] * 100
    assert len(ip(a, "-j", "route", "show", "table", str(TABLE))) == len(many)
    assert sock.delete(many) == [0] * len(many)
    sock.close()


def test_ways_and_links_are_those_of_iproute2(hosts: TwoHosts) -> None:
    a = hosts.host("a")
    ip(a, "route", "add", "198.51.100.0/24", "via", "192.0.2.9", "mtu", "1300")
    ip(a, "route", "add", "default", "via", "192.0.2.8", "table", "7")
    ip(a, "rule", "add", "fwmark", str(SOCKET_MARK), "lookup", "7")
    sock = a.call(RouteSocket)
    index = index_of(a, "veth-a")
    for host, mark, expected in (
        ("192.0.2.2", 0, RouteAnswer(index, None, 0)),
        ("198.51.100.7", 0, RouteAnswer(index, "192.0.2.9", 1300)),
        ("203.0.113.1", SOCKET_MARK, RouteAnswer(index, "192.0.2.8", 0)),
        ("2001:db8::2", 0, RouteAnswer(index, None, 0)),
    ):
        family = "-6" if ":" in host else "-4"
        (shown,) = ip(a, family, "-j", "route", "get", host, *(["mark", str(mark)] if mark else []))
        found = sock.route_to(host, mark)
        assert found == expected
        assert (shown["dev"], shown.get("gateway")) == ("veth-a", found.gateway)
    assert sock.link(index) == ("veth-a", 1500)
    with pytest.raises(OSError, match="unreachable"):
        sock.route_to("203.0.113.1")
    with pytest.raises(OSError, match="No such device"):
        sock.link(4711)
    sock.close()
