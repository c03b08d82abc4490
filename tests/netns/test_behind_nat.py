"""A real NAT between two hosts: detection, port 4500, ESP in UDP, keepalives, rebinding.

IP 10.0.0.2:500    --> [NAT: 203.0.113.5:p] --> 203.0.113.2:500     IKE_SA_INIT
IP 10.0.0.2:4500   --> [NAT: 203.0.113.5:q] --> 203.0.113.2:4500    all that follows, and ESP

RFC 7296 section 2.23, RFC 3948.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import ALICE, BOB, INSIDE, PUBLIC, SERVER, WAIT_S, Site, exchange, only_sa, site

from interop.lab.nat import Nat44
from interop.lab.netns import why_no_namespaces
from interop.peers.strongswan import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

INNER_A, INNER_B, INNER_SERVER = "10.9.0.1", "10.9.1.1", "10.8.0.1"
CLIENT_CHILD = {"local_ts": [f"{INNER_A}/32"], "remote_ts": [f"{INNER_SERVER}/32"]}
SERVER_CHILD = {"local_ts": [f"{INNER_SERVER}/32"], "remote_ts": ["10.9.0.0/16"]}


@pytest.fixture
def behind_nat(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, nat=Nat44(PUBLIC, INSIDE, seed=7)) as found:
        for host, address in (("alice", INNER_A), ("bob", INNER_B), ("server", INNER_SERVER)):
            found.lab.run(host, ["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
        yield found


def counters(sa: dict[str, object]) -> dict[str, int]:
    (child,) = sa["children"]  # type: ignore[misc]
    return {name: child[name] for name in ("packets_in", "packets_out", "octets_in", "octets_out")}  # type: ignore[has-type]


def same_counters(one: dict[str, object], other: dict[str, object]) -> None:
    a, b = counters(one), counters(other)
    assert (a["packets_out"], a["octets_out"]) == (b["packets_in"], b["octets_in"])
    assert (a["packets_in"], a["octets_in"]) == (b["packets_out"], b["octets_out"])


@pytest.mark.req(
    "rfc7296-s2.23-01",
    "rfc7296-s2.23-03",
    "rfc7296-s2.23-04",
    "rfc7296-s2.23-05",
    "rfc7296-s2.23-07",
    "rfc7296-s2.23-10",
    "rfc7296-s2.23-12",
    "rfc7296-s2.23-13",
)
def test_initiator_behind_a_nat_is_up_on_4500_and_only_esp_in_udp_carries_traffic(behind_nat: Site) -> None:
    packets: list[bytes] = []
    behind_nat.router.taps.append(packets.append)
    server = behind_nat.server(SERVER_CHILD)
    alice = behind_nat.client("alice", CLIENT_CHILD)
    alice.up("lab")
    here, there = only_sa(alice), only_sa(server)
    ports = behind_nat.nat.ports(ALICE)
    assert set(ports) == {500, 4500}
    assert (here["local"], here["remote"]) == (f"{ALICE}:4500", f"{SERVER}:4500")
    assert (there["local"], there["remote"]) == (f"{SERVER}:4500", f"{PUBLIC}:{ports[4500]}")
    assert (here["nat_local"], here["nat_remote"]) == (True, False)
    assert (there["nat_local"], there["nat_remote"]) == (False, True)
    assert here["children"][0]["encap"]
    assert there["children"][0]["encap"]
    of_ike = len(packets)
    one, other = behind_nat.udp("alice", INNER_A), behind_nat.udp("server", INNER_SERVER)
    for _ in range(10):
        exchange(one, other)
    same_counters(only_sa(alice), only_sa(server))
    assert counters(only_sa(alice))["packets_out"] == 10
    esp = packets[of_ike:]
    assert len(esp) == 20
    for packet in esp:
        assert packet[9] == 17
        assert 4500 in (int.from_bytes(packet[20:22], "big"), int.from_bytes(packet[22:24], "big"))
        assert packet[28:32] != bytes(4)  # an SPI, not the marker of IKE


@pytest.mark.req("rfc7296-s2.23-16", "rfc7296-s2.23-17", "rfc7296-s2.23-18")
@pytest.mark.parametrize("first", ["esp", "ike"])
def test_after_a_rebinding_the_next_packet_from_inside_brings_the_server_along(
    behind_nat: Site, first: str
) -> None:
    server = behind_nat.server(SERVER_CHILD)
    alice = behind_nat.client("alice", CLIENT_CHILD)
    alice.up("lab")
    one, other = behind_nat.udp("alice", INNER_A), behind_nat.udp("server", INNER_SERVER)
    exchange(one, other)
    before = behind_nat.nat.ports(ALICE)[4500]
    behind_nat.router.call(behind_nat.nat.rebind)
    if first == "ike":
        alice.rekey("net")
    else:
        one.sendto(b"from a new mapping", other.getsockname())
        assert other.recv(65535) == b"from a new mapping"
    server.wait_log("moved to")
    after = behind_nat.nat.ports(ALICE)[4500]
    assert after != before
    assert only_sa(server)["remote"] == f"{PUBLIC}:{after}"
    exchange(other, one)
    exchange(one, other)
    server.rekey("net")  # a request of the server's own goes to the new mapping, too
    exchange(other, one)
    assert behind_nat.nat.ports(ALICE)[4500] == after


@pytest.mark.req("rfc7296-s2.23-16")
def test_liveness_of_the_server_survives_a_rebinding(behind_nat: Site) -> None:
    """The server's own INFORMATIONAL requests go into the void until the keepalive-less client asks by itself."""
    server = behind_nat.server(SERVER_CHILD, dpd_delay="1s", retransmit_tries=8)
    alice = behind_nat.client("alice", CLIENT_CHILD, dpd_delay="1500ms", retransmit_tries=8)
    alice.up("lab")
    only_sa(server)
    behind_nat.router.call(behind_nat.nat.rebind)
    server.wait_log("moved to")
    wait_until(lambda: behind_nat.nat.ports(ALICE), lambda ports: 4500 in ports, WAIT_S)
    assert only_sa(server)["remote"] == f"{PUBLIC}:{behind_nat.nat.ports(ALICE)[4500]}"
    assert only_sa(alice)["spi_i"] == only_sa(server)["spi_i"]


@pytest.mark.req("rfc7296-s2.23-11")
def test_keepalives_hold_a_mapping_that_would_time_out(behind_nat: Site) -> None:
    """The server, silent for longer than the mapping lives without use, still reaches the client."""
    server = behind_nat.server(SERVER_CHILD, keep_alive="300ms")
    alice = behind_nat.client("alice", CLIENT_CHILD, keep_alive="300ms")
    behind_nat.nat.mapping_s = 1.5
    alice.up("lab")
    only_sa(server)
    before = behind_nat.nat.ports(ALICE)[4500]
    kept = behind_nat.nat.keepalives
    wait_until(lambda: kept[(ALICE, 4500)], lambda count: count >= 8, WAIT_S)
    one, other = behind_nat.udp("alice", INNER_A), behind_nat.udp("server", INNER_SERVER)
    exchange(other, one)
    assert behind_nat.nat.ports(ALICE)[4500] == before
    assert set(kept) == {(ALICE, 4500)}
    assert server.stats()["io"].get("nat_keepalives_sent", 0) == 0
    assert alice.stats()["io"]["nat_keepalives_sent"] >= 8


def test_without_keepalives_such_a_mapping_is_gone(behind_nat: Site) -> None:
    server = behind_nat.server(SERVER_CHILD)
    alice = behind_nat.client("alice", CLIENT_CHILD, keep_alive=0)
    alice.up("lab")
    only_sa(server)
    behind_nat.router.call(lambda: setattr(behind_nat.nat, "mapping_s", 0.0))
    other = behind_nat.udp("server", INNER_SERVER)
    other.sendto(b"nobody is there", (INNER_A, 7))
    wait_until(lambda: behind_nat.nat.dropped["no-mapping"], lambda count: count > 0, WAIT_S)


def test_two_initiators_behind_one_nat(behind_nat: Site) -> None:
    """Both use port 4500 inside; the server tells them apart by the ports outside, and answers each where it is."""
    server = behind_nat.server(SERVER_CHILD)
    alice = behind_nat.client("alice", CLIENT_CHILD)
    bob = behind_nat.client("bob", {"local_ts": [f"{INNER_B}/32"], "remote_ts": [f"{INNER_SERVER}/32"]})
    alice.up("lab")
    bob.up("lab")
    sas = wait_until(server.sas, lambda found: sum(len(sa["children"]) for sa in found) == 2, WAIT_S)
    outside = {behind_nat.nat.ports(host)[4500] for host in (ALICE, BOB)}
    assert {sa["remote"] for sa in sas} == {f"{PUBLIC}:{port}" for port in outside}
    a, b = behind_nat.udp("alice", INNER_A), behind_nat.udp("bob", INNER_B)
    other = behind_nat.udp("server", INNER_SERVER)
    for _ in range(5):
        exchange(a, other)
        exchange(b, other)
        exchange(other, a)
        exchange(other, b)
    by_id = {sa["remote_id"]: sa for sa in server.sas()}
    for host, ours in (("alice", alice), ("bob", bob)):
        same_counters(only_sa(ours), by_id[f"{host}.example"])
        assert counters(only_sa(ours))["packets_out"] == 10
    behind_nat.router.call(behind_nat.nat.rebind)
    for number, one in enumerate((a, b), 1):
        one.sendto(b"from a new mapping", other.getsockname())
        assert other.recv(65535) == b"from a new mapping"
        wait_until(lambda: server.log().count("moved to"), lambda count, wanted=number: count == wanted, WAIT_S)
    exchange(other, a)
    exchange(other, b)


@pytest.mark.req(
    "rfc7296-s2.23-15", "rfc7296-s2.23.1-03", "rfc7296-s2.23.1-04", "rfc7296-s2.23.1-05", "rfc7296-s2.23.1-06"
)
def test_transport_mode_behind_a_nat_with_right_checksums(behind_nat: Site) -> None:
    """The kernels verify UDP checksums that were made over addresses on the other side of the NAT."""
    server = behind_nat.server({"mode": "transport"})
    alice = behind_nat.client("alice", {"mode": "transport"})
    alice.up("lab")
    here, there = only_sa(alice), only_sa(server)
    assert (here["children"][0]["mode"], there["children"][0]["mode"]) == ("transport", "transport")
    assert there["children"][0]["ts_remote"] == [f"{PUBLIC}/32"]
    assert here["children"][0]["ts_local"] == [f"{ALICE}/32"]
    one, other = behind_nat.udp("alice", ALICE), behind_nat.udp("server", SERVER)
    for _ in range(5):
        one.sendto(b"data", other.getsockname())
        got, source = other.recvfrom(65535)
        assert (got, source) == (b"data", (PUBLIC, one.getsockname()[1]))
        other.sendto(b"answer", source)
        assert one.recvfrom(65535) == (b"answer", other.getsockname())
    same_counters(only_sa(alice), only_sa(server))
    assert counters(only_sa(alice))["packets_out"] == 5
