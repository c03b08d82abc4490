"""Virtual addresses on hosts of their own: what the host has, which way it sends, and what a crash leaves.

    a (client) 192.0.2.1 --------- 192.0.2.2 b (gateway) 10.2.0.1

The userspace backend carries traffic; beside the kernel's ESP, which this machine may not have, only addresses, rules
and routes are looked at. RFC 7296 section 2.19.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ikev2.errors import BackendError
from ikev2.io.netns import TwoHosts
from ikev2.ipsec.virtual_ip import VirtualAddresses
from ikev2.wire.payloads import TrafficSelector
from interop.lab.netns import why_no_namespaces
from interop.peers.ours import Ours
from interop.peers.strongswan import wait_until

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/ikev2"))

from esp_support import child_pair  # noqa: E402

REASON = why_no_namespaces() or ("" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun")
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(REASON), reason=f"{REASON}")]

WAIT_S = 45.0
INSIDE, INSIDE6 = "10.2.0.1", "2001:db8:2::1"
ADDRESS, ADDRESS6 = "10.9.0.10", "2001:db8:9::1"
MARKER = b"a datagram that nobody on the way may read"


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    inside = (f"{INSIDE}/24", f"{INSIDE6}/64")
    with TwoHosts(("192.0.2.1/24", "2001:db8::1/64"), ("192.0.2.2/24", "2001:db8::2/64", *inside)) as made:
        yield made


def shown(hosts: TwoHosts, host: str, *command: str) -> str:
    return str(hosts.run(host, ["ip", *command], capture_output=True, text=True, check=True).stdout)


def document(host: str, **changes: Any) -> dict[str, Any]:
    local, remote = ("client", "gateway") if host == "a" else ("gateway", "client")
    connection = {
        "remote_addrs": ["192.0.2.2" if host == "a" else "192.0.2.1"],
        "local": {"id": f"{local}.example"},
        "remote": {"id": f"{remote}.example"},
        "retransmit_timeout": "500ms",
        "retransmit_tries": 3,
    }
    child = {("remote_ts" if host == "a" else "local_ts"): ["10.2.0.0/24", "2001:db8:2::/64"]}
    connection |= {"vips": ["0.0.0.0", "::"]} if host == "a" else {"pools": ["road"]}
    found: dict[str, Any] = {"connections": {"lab": connection | changes | {"children": {"net": child}}}}
    if host == "b":
        found["pools"] = {"road": {"addrs": [f"{ADDRESS}-10.9.0.20", "2001:db8:9::/64"], "dns": ["10.2.0.53"]}}
    return found | {"endpoint": {"backend": "userspace"}}


@contextlib.contextmanager
def running(hosts: TwoHosts, directory: Path, **client: Any) -> Iterator[tuple[Ours, Ours]]:
    psk = f"0x{secrets.token_hex(32)}"
    with (
        Ours(hosts.host("b"), directory / "b", document("b"), psk) as b,
        Ours(hosts.host("a"), directory / "a", document("a", **client), psk) as a,
    ):
        yield a, b


def asked(hosts: TwoHosts, inside: str = INSIDE) -> str:
    """Send a datagram from an unbound socket of a to what is behind b, and one back; the address that it came from."""
    family = socket.AF_INET6 if ":" in inside else socket.AF_INET

    def make(host: str, address: str) -> socket.socket:
        sock = hosts.call(host, lambda: socket.socket(family, socket.SOCK_DGRAM))
        sock.bind((address, 0))
        sock.settimeout(WAIT_S)
        return sock

    with make("a", "") as client, make("b", inside) as server:
        client.sendto(MARKER, server.getsockname())
        data, source = server.recvfrom(100)
        assert data == MARKER
        server.sendto(MARKER[::-1], source)
        assert client.recvfrom(100) == (MARKER[::-1], server.getsockname())
        return str(source[0])


def until_local(hosts: TwoHosts) -> None:
    """The kernel makes the route to an IPv6 address of its own in a work queue: until then nothing comes to it."""
    wait_until(
        lambda: shown(hosts, "a", "-6", "route", "show", "table", "local"),
        lambda routes: f"local {ADDRESS6} " in routes,
        WAIT_S,
        "the route to our address",
    )


def tap(hosts: TwoHosts) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind((TwoHosts.interface("a"), 3))
        sock.setblocking(False)
        return sock

    return hosts.call("a", make)


def frames(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(65536))
    return found


def ours_left(hosts: TwoHosts) -> str:
    """What of ours is in the host's addresses, rules and routes."""
    found = shown(hosts, "a", "-o", "addr", "show").splitlines()
    found += shown(hosts, "a", "rule").splitlines() + shown(hosts, "a", "-6", "rule").splitlines()
    found += shown(hosts, "a", "route", "show", "table", "all", "proto", "73").splitlines()
    found += shown(hosts, "a", "-6", "route", "show", "table", "all", "proto", "73").splitlines()
    return "\n".join(
        line
        for line in found
        if "proto 73" in line or "ikevip" in line or "ikesp" in line or "10.9." in line or "db8:9:" in line
    )


def test_client_has_its_address_sends_from_it_and_gives_it_back(hosts: TwoHosts, tmp_path: Path) -> None:
    with running(hosts, tmp_path) as (a, b), tap(hosts) as sock:
        a.up("lab")
        addresses = shown(hosts, "a", "-o", "addr", "show", "dev", "ikesp0")
        assert f"inet {ADDRESS}/32 " in addresses
        assert f"inet6 {ADDRESS6}/128 " in addresses
        frames(sock)
        assert asked(hosts) == ADDRESS
        until_local(hosts)
        assert asked(hosts, INSIDE6) == ADDRESS6
        seen = frames(sock)
        assert seen
        assert not any(MARKER in frame or MARKER[::-1] in frame for frame in seen)
        (ours,), (theirs,) = a.sas(), b.sas()
        assert (ours["local_vips"], ours["dns"]) == ([ADDRESS, ADDRESS6], ["10.2.0.53"])
        assert theirs["remote_vips"] == [ADDRESS, ADDRESS6]
        (child_a,), (child_b,) = ours["children"], theirs["children"]
        for one, other in ((child_a, child_b), (child_b, child_a)):
            # Two headers and the datagram, in either family.
            assert (one["packets_out"], one["octets_out"]) == (2, 28 + 48 + 2 * len(MARKER))
            assert (other["packets_in"], other["octets_in"]) == (2, 28 + 48 + 2 * len(MARKER))
        # What is not for the networks behind the gateway goes its own way.
        assert "src 192.0.2.1 " in shown(hosts, "a", "route", "get", "192.0.2.2")
        a.rekey("lab")
        a.rekey("net")
        assert asked(hosts) == ADDRESS
        until_local(hosts)
        assert asked(hosts, INSIDE6) == ADDRESS6
        a.down("lab")
        left = shown(hosts, "a", "addr")
        assert ADDRESS not in left
        assert ADDRESS6 not in left
        wait_until(b.sas, lambda sas: not sas, WAIT_S)
    assert ours_left(hosts) == ""


def test_address_stays_while_the_client_authenticates_anew(hosts: TwoHosts, tmp_path: Path) -> None:
    with running(hosts, tmp_path, reauth_time="2s", over_time="30s", rand_time=0) as (a, b):
        first = a.up("lab")["spi_i"]
        wait_until(a.sas, lambda sas: len(sas) == 1 and sas[0]["spi_i"] != first, WAIT_S)
        wait_until(b.sas, lambda sas: len(sas) == 1, WAIT_S)
        assert f"inet {ADDRESS}/32 " in shown(hosts, "a", "-o", "addr", "show", "dev", "ikesp0")
        assert asked(hosts) == ADDRESS
        assert "given back" in a.log()  # by the old IKE SA; the new one has it


def test_crash_takes_the_address_and_the_next_run_the_rest(hosts: TwoHosts, tmp_path: Path) -> None:
    with running(hosts, tmp_path) as (a, _):
        a.up("lab")
        a.kill()
        assert ADDRESS not in shown(hosts, "a", "addr")
        assert ADDRESS6 not in shown(hosts, "a", "addr")
        a.start()
        assert "10.2.0.0/24" not in ours_left(hosts)
        assert "2001:db8:2::/64" not in ours_left(hosts)
        a.up("lab")  # INITIAL_CONTACT: the gateway forgets the old IKE SA
        assert a.sas()[0]["local_vips"] == [ADDRESS, ADDRESS6]
        assert asked(hosts) == ADDRESS
        until_local(hosts)
        assert asked(hosts, INSIDE6) == ADDRESS6


# --- beside the kernel's ESP -----------------------------------------------------------------------------------------


def network(text: str) -> tuple[TrafficSelector, ...]:
    return (TrafficSelector.from_network(text),)


FOUR = child_pair(ts_a=network(f"{ADDRESS}/32"), ts_b=network("10.2.0.0/24"))[0]
SIX = child_pair(
    a="2001:db8::1", b="2001:db8::2", ts_a=network("2001:db8:9::7/128"), ts_b=network("2001:db8:2::/48")
)[0]


@pytest.fixture
def addresses(hosts: TwoHosts) -> Iterator[VirtualAddresses]:
    made = VirtualAddresses()
    yield made
    hosts.call("a", made.close)
    assert ours_left(hosts) == ""


def route_to(hosts: TwoHosts, destination: str, *more: str) -> str:
    return shown(hosts, "a", "-o", "route", "get", destination, *more)


@pytest.mark.parametrize(
    ("child", "address", "inside"), [(FOUR, ADDRESS, "10.2.0.1"), (SIX, "2001:db8:9::7", "2001:db8:2::1")]
)
def test_what_a_child_sa_carries_is_sent_from_the_address(
    hosts: TwoHosts, addresses: VirtualAddresses, child: Any, address: str, inside: str
) -> None:
    hosts.call("a", lambda: addresses.add(address))
    assert address in shown(hosts, "a", "-o", "addr", "show", "dev", "ikevip0")
    hosts.call("a", lambda: addresses.settle([child]))
    assert re.search(rf"dev veth-a table 18740 .*src {address} ", route_to(hosts, inside))
    # The peer's own address, and whatever else, as before.
    assert "table 18740" not in route_to(hosts, child.remote)
    hosts.call("a", lambda: addresses.settle([]))
    assert "proto 73" not in ours_left(hosts)
    assert address in shown(hosts, "a", "addr")
    hosts.call("a", lambda: addresses.remove(address))
    assert ours_left(hosts) == ""


def test_everything_through_the_gateway_leaves_the_link_alone(hosts: TwoHosts, addresses: VirtualAddresses) -> None:
    """0.0.0.0/0 and ::/0 as remote selectors, and a router on the link."""
    shown(hosts, "a", "route", "add", "default", "via", "192.0.2.2")
    shown(hosts, "a", "-6", "route", "add", "default", "via", "2001:db8::2")
    four = replace(FOUR, ts_remote=network("0.0.0.0/0"))
    six = replace(SIX, ts_remote=network("::/0"))
    for address in (ADDRESS, "2001:db8:9::7"):
        hosts.call("a", lambda address=address: addresses.add(address))  # type: ignore[misc]
    hosts.call("a", lambda: addresses.settle([four, six]))
    assert f"src {ADDRESS} " in route_to(hosts, "198.51.100.1")
    assert "src 2001:db8:9::7 " in route_to(hosts, "2001:db8:ffff::1")
    assert "table 18740" in route_to(hosts, "198.51.100.1", "from", ADDRESS)
    assert "table 18740" not in route_to(hosts, "198.51.100.1", "from", "192.0.2.1")
    for peer in ("192.0.2.2", "2001:db8::2"):
        assert "table 18740" not in route_to(hosts, peer)
    assert "table 18740" not in route_to(hosts, "ff02::1", "oif", "veth-a")


def test_refused_address_takes_nothing_from_the_system(hosts: TwoHosts, addresses: VirtualAddresses) -> None:
    with pytest.raises(BackendError, match=r"the address ff02::1 cannot be set"):
        hosts.call("a", lambda: addresses.add("ff02::1"))
    assert ours_left(hosts) == ""


def test_rules_and_routes_of_a_crashed_run_are_found(hosts: TwoHosts, addresses: VirtualAddresses) -> None:
    script = (
        "import sys, time; sys.path.insert(0, 'tests/unit/ikev2'); sys.path.insert(0, 'tests/netns')\n"
        "from test_virtual_addresses import FOUR, SIX, ADDRESS\n"
        "from ikev2.ipsec.virtual_ip import VirtualAddresses\n"
        "made = VirtualAddresses()\n"
        "made.add(ADDRESS); made.add('2001:db8:9::7'); made.settle([FOUR, SIX])\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    process = hosts.popen("a", [sys.executable, "-c", script], cwd=ROOT, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert "ikevip" not in shown(hosts, "a", "addr")  # the addresses went with the device
    assert "lookup 18740" in ours_left(hosts)
    hosts.call("a", addresses.clean)
    assert ours_left(hosts) == ""
    # Another one that runs is left alone.
    hosts.call("a", lambda: addresses.add(ADDRESS))
    hosts.call("a", lambda: addresses.settle([FOUR]))
    hosts.call("a", VirtualAddresses().clean)
    assert "lookup 18740" in ours_left(hosts)
    assert ADDRESS in shown(hosts, "a", "addr", "show", "dev", "ikevip0")
