"""Internal addresses between two endpoints over real UDP sockets: the host gets them, uses them, gives them back.

The configurations are those of examples/road-client.toml and examples/road-gateway.toml, on loopback.
RFC 7296 sections 2.19 and 3.15.
"""

from __future__ import annotations

import asyncio
import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ikev2_pair import HOST_A, HOST_B, Pair, until

from ikev2.core.events import AddressesTaken, Event
from ikev2.errors import BackendError, IkeError
from ikev2.io.daemon import Daemon
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.memory import MemoryBackend

EXAMPLES = Path(__file__).parents[2] / "examples"
ADDRESS = "10.9.0.10"
BOTH = {ADDRESS, "2001:db8:9::1"}


def example(name: str) -> dict[str, Any]:
    return tomllib.loads((EXAMPLES / name).read_text())


def road(directory: Path, **gateway: Any) -> Pair:
    """Host a is the client, host b the gateway."""
    own = {"a": example("road-client.toml"), "b": example("road-gateway.toml")}
    changed = {
        host: {key: value for key, value in document["connections"]["road"].items() if not key.endswith("_addrs")}
        for host, document in own.items()
    }
    changed["a"]["children"]["net"]["start_action"] = "none"
    return Pair(directory, own=changed, sections={"b": {"pools": own["b"]["pools"] | gateway}})


def packet(source: str, destination: str) -> bytes:
    return build_header(socket.inet_aton(source), socket.inet_aton(destination), 253, 100) + bytes(100)


def test_client_sends_from_its_address_and_the_gateway_sends_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = road(tmp_path)
        backend_a, backend_b = MemoryBackend(pair.network), MemoryBackend(pair.network)
        a, b = pair.endpoint("a", backend_a), pair.endpoint("b", backend_b)
        at_a, at_b, events = list[bytes](), list[bytes](), list[Event]()
        backend_a.on_packet, backend_b.on_packet = at_a.append, at_b.append
        a.subscribe(events.append)
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            assert set(info.local_vips) == backend_a.addresses == BOTH
            assert backend_b.addresses == set()
            assert info.dns == ("10.2.0.53", "2001:db8:2::53")
            assert info.internal_subnets == ("10.2.0.0/16", "2001:db8:2::/48")
            (taken,) = (event for event in events if isinstance(event, AddressesTaken))
            assert taken.dns == info.dns
            (child_a,) = info.children
            assert child_a.ts_local == (f"{ADDRESS}/32", "2001:db8:9::1/128")
            backend_a.send_packet(packet(ADDRESS, "10.2.0.1"))
            backend_b.send_packet(packet("10.2.0.1", ADDRESS))
            assert at_b == [packet(ADDRESS, "10.2.0.1")]
            assert at_a == [packet("10.2.0.1", ADDRESS)]
            # Somebody else's address is not protected as if it were ours.
            backend_a.send_packet(packet("10.9.0.11", "10.2.0.1"))
            assert a.child_counters(child_a.spi_in).packets_out == 1
            await a.rekey("lab", 5)
            assert backend_a.addresses == BOTH
            await a.down("lab")
            assert backend_a.addresses == set()

    asyncio.run(scenario())


def test_list_shows_addresses_servers_and_leases(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = road(tmp_path)
        a = Daemon(pair.configuration("a"), backend=MemoryBackend(pair.network))
        b = Daemon(pair.configuration("b"), backend=MemoryBackend(pair.network))
        import contextlib

        async with contextlib.AsyncExitStack() as stack:
            await b.start(stack)
            await a.start(stack)
            up = await a.up("lab")
            (ours,), (theirs,) = a.list_sas()["ike_sas"], b.list_sas()["ike_sas"]
            assert set(up["local_vips"]) == set(ours["local_vips"]) == set(theirs["remote_vips"]) == BOTH
            assert (ours["remote_vips"], theirs["local_vips"]) == ([], [])
            assert ours["dns"] == ["10.2.0.53", "2001:db8:2::53"]
            assert ours["internal_subnets"] == ["10.2.0.0/16", "2001:db8:2::/48"]
            lease = {"address": ADDRESS, "identity": "client.example", "online": True, "ike_sas": 1}
            assert b.list_sas()["pools"]["four"] == {"size": 191, "online": 1, "leases": [lease]}
            assert b.list_sas()["pools"]["six"]["size"] == 2**64 - 1
            assert a.list_sas()["pools"] == {}
            await a.down("lab")
            await until(lambda: not b.list_sas()["ike_sas"])
            offline = lease | {"online": False, "ike_sas": 0}
            assert b.list_sas()["pools"]["four"] == {"size": 191, "online": 0, "leases": [offline]}
            said = [record.text for record in (*a.log.records(), *b.log.records())]
            assert (
                f"installing new virtual IP {ADDRESS} 2001:db8:9::1, DNS servers 10.2.0.53 2001:db8:2::53" in said
            )
            assert f"assigning virtual IP {ADDRESS} 2001:db8:9::1 to peer 'client.example'" in said
            assert f"virtual IP {ADDRESS} 2001:db8:9::1 given back" in said

    asyncio.run(scenario())


def test_empty_pool_is_told_to_who_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = road(tmp_path)
        pair.own["b"]["pools"] = ["one"]
        pair.sections["b"]["pools"] = {"one": {"addrs": "10.9.0.7"}}
        b = pair.endpoint("b")
        from ikev2.core.identity import Identity
        from ikev2.core.pools import Peer, Wish

        somebody = Peer(Identity.parse("somebody.example"), HOST_B)
        assert b.manager.pools.acquire(["one"], somebody, Wish(4)) is not None
        a = pair.endpoint("a", MemoryBackend(pair.network))
        async with pair.running(b, a):
            with pytest.raises(IkeError, match="Child SA net: the peer refused: INTERNAL_ADDRESS_FAILURE"):
                await a.up("lab", 30)
            (info,) = a.sa_infos()
            assert (info.state, info.children, info.local_vips) == ("ESTABLISHED", (), ())

    asyncio.run(scenario())


def test_address_that_the_system_refuses_does_not_cost_the_others(tmp_path: Path) -> None:
    class NoIpv6(MemoryBackend):
        def add_address(self, address: str) -> None:
            if ":" in address:
                raise BackendError("no IPv6 here")
            super().add_address(address)

    async def scenario() -> None:
        pair = road(tmp_path)
        backend = NoIpv6(pair.network)
        a, b = pair.endpoint("a", backend), pair.endpoint("b")
        async with pair.running(a, b):
            info = await a.up("lab", 30)
            assert backend.addresses == {ADDRESS}
            assert len(info.children) == 1
            assert "no IPv6 here" in [record.text for record in a.log.records()]
            await a.down("lab")
            assert backend.addresses == set()

    asyncio.run(scenario())


def test_other_pools_after_a_reload_leave_who_has_an_address_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = road(tmp_path)
        backend = MemoryBackend(pair.network)
        a, b = pair.endpoint("a", backend), pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            pair.sections["b"]["pools"]["four"] = {"addrs": "10.8.0.0/24"}
            await b.reload(pair.configuration("b").endpoint)
            assert b.sa_infos()[0].remote_vips == (ADDRESS, "2001:db8:9::1")
            await a.down("lab")
            await until(lambda: not b.sa_infos())
            info = await a.up("lab", 30)
            assert set(info.local_vips) == {"10.8.0.1", "2001:db8:9::1"}
            assert info.local.host == HOST_A

    asyncio.run(scenario())
