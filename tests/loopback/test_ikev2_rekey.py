"""Rekeying between two endpoints over real UDP sockets, with traffic through the Child SAs meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from ikev2_pair import HOST_A, HOST_B, Pair, until

from ikev2.core.events import ChildSaRekeyed, Event, IkeSaRekeyed
from ikev2.errors import IkeError, LocalProtocolError
from ikev2.io.control import call
from ikev2.io.daemon import Daemon
from ikev2.io.endpoint import Endpoint
from ikev2.ipsec.backend import Backend, BackendEvent, Expire
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.memory import MemoryBackend
from ikev2.ipsec.outer import outer_packet


def packet(source: str, destination: str, number: int) -> bytes:
    addresses = (socket.inet_aton(source), socket.inet_aton(destination))
    return build_header(*addresses, 253, 100) + number.to_bytes(100, "big")


class Traffic:
    """Packets in both directions, whenever `exchange` is called; each must arrive."""

    def __init__(self, a: MemoryBackend, b: MemoryBackend) -> None:
        self.ends = ((a, HOST_A, HOST_B), (b, HOST_B, HOST_A))
        self.received: list[bytes] = []
        a.on_packet = b.on_packet = self.received.append
        self.count = 0

    def at_every_step_of(self, stack: contextlib.AsyncExitStack, *endpoints: Endpoint) -> None:
        """At each event, until the endpoints are stopped."""
        for endpoint in endpoints:
            stack.callback(endpoint.subscribe(lambda event: self.exchange()))

    def exchange(self) -> None:
        for backend, source, destination in self.ends:
            self.count += 1
            sent = packet(source, destination, self.count)
            backend.send_packet(sent)
            assert self.received[-1] == sent


async def both(pair: Pair, stack: contextlib.AsyncExitStack) -> tuple[Endpoint, Endpoint, Traffic]:
    backends = MemoryBackend(pair.network), MemoryBackend(pair.network)
    a, b = pair.endpoint("a", backends[0]), pair.endpoint("b", backends[1])
    await stack.enter_async_context(pair.running(a, b))
    await a.up("lab", 30)
    await until(lambda: b.sa_infos() and b.sa_infos()[0].children)
    traffic = Traffic(*backends)
    traffic.exchange()
    return a, b, traffic


def pairs_of(endpoint: Endpoint) -> set[frozenset[int]]:
    return {frozenset((child.spi_in, child.spi_out)) for info in endpoint.sa_infos() for child in info.children}


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("esp", ["aes256gcm16", "aes128-sha256-ecp256"])
def test_no_packet_is_lost_while_a_child_sa_is_rekeyed(tmp_path: Path, end: str, esp: str) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            a, b, traffic = await both(Pair(tmp_path, child={"esp_proposals": [esp]}), stack)
            traffic.at_every_step_of(stack, a, b)
            before = pairs_of(a)
            await (a if end == "a" else b).rekey("net", 5)
            await until(lambda: pairs_of(a) == pairs_of(b) and len(pairs_of(a)) == 1)
            assert pairs_of(a).isdisjoint(before)
            traffic.exchange()
            assert traffic.count > 6

    asyncio.run(scenario())


def test_rekeying_of_the_ike_sa_leaves_the_child_sa_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            a, b, traffic = await both(Pair(tmp_path), stack)
            traffic.at_every_step_of(stack, a, b)
            children, (old,) = pairs_of(a), a.sa_infos()
            held = b.exporter.open((old.spi_i, old.spi_r))
            await b.rekey("lab", 5)
            await until(lambda: len(a.sa_infos()) == len(b.sa_infos()) == 1)
            (new_a,), (new_b,) = a.sa_infos(), b.sa_infos()
            assert (new_a.spi_i, new_a.spi_r) == (new_b.spi_i, new_b.spi_r) != (old.spi_i, old.spi_r)
            assert (new_b.role.value, new_a.role.value) == ("initiator", "responder")
            assert pairs_of(a) == pairs_of(b) == children
            fresh = a.exporter.open((new_a.spi_i, new_a.spi_r))
            assert fresh.secret(b"IPPM") != held.secret(b"IPPM")
            await a.rekey("net", 5)  # on the new one
            traffic.exchange()

    asyncio.run(scenario())


def test_both_ends_rekey_both_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            a, b, traffic = await both(Pair(tmp_path), stack)
            traffic.at_every_step_of(stack, a, b)
            await asyncio.gather(a.rekey("net", 5), b.rekey("net", 5), return_exceptions=True)
            await until(lambda: pairs_of(a) == pairs_of(b) and len(pairs_of(a)) == 1)
            await asyncio.gather(a.rekey("lab", 5), b.rekey("lab", 5), return_exceptions=True)
            await until(lambda: len(a.sa_infos()) == len(b.sa_infos()) == 1)
            assert a.sa_infos()[0].spi_i == b.sa_infos()[0].spi_i
            traffic.exchange()

    asyncio.run(scenario())


def test_child_that_is_wanted_later_comes_up_on_the_ike_sa_that_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        children = {"net": {}, "more": {"esp_proposals": ["aes128gcm16-curve25519"]}}
        pair = Pair(tmp_path, connection={"children": children})
        a, b = pair.endpoint("a"), pair.endpoint("b")
        async with pair.running(a, b):
            first = await a.up("net", 30)
            info = await a.up("more", 30)
            assert info.spi_i == first.spi_i
            assert [child.name for child in info.children] == ["net", "more"]
            with pytest.raises(LocalProtocolError):
                await a.up("nothing", 30)
            await a.down("more")
            assert [child.name for child in a.sa_infos()[0].children] == ["net"]

    asyncio.run(scenario())


def test_child_that_the_peer_does_not_have_is_refused_with_its_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        more = {"net": {}, "more": {"local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"]}}
        a = Pair(tmp_path, ports=pair.ports, network=pair.network, connection={"children": more}).endpoint("a")
        b = pair.endpoint("b")
        async with pair.running(a, b):
            await a.up("lab", 30)
            with pytest.raises(IkeError, match="TS_UNACCEPTABLE"):
                await a.up("more", 30)
            with pytest.raises(IkeError, match="more: no such SA is up"):
                await a.rekey("more", 5)

    asyncio.run(scenario())


class LimitedBackend(MemoryBackend):
    """Says that limits are reached when the test does."""

    pending: list[BackendEvent]

    def next_event(self) -> BackendEvent | None:
        return self.pending.pop(0) if self.pending else None


@pytest.mark.parametrize("hard", [False, True])
def test_limit_of_the_backend_rekeys_or_ends_a_child_sa(tmp_path: Path, hard: bool) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        backend = LimitedBackend(pair.network)
        backend.pending = []
        a, b = pair.endpoint("a", backend), pair.endpoint("b")
        events: list[Event] = []
        a.subscribe(events.append)
        async with pair.running(a, b):
            await a.up("lab", 30)
            await until(lambda: b.sa_infos() and b.sa_infos()[0].children)
            before = pairs_of(a)
            backend.pending.append(Expire(a.sa_infos()[0].children[0].spi_out, HOST_A, HOST_B, hard=hard))
            a._backend_events()
            if hard:
                await until(lambda: not pairs_of(a) and not pairs_of(b))
            else:
                await until(lambda: pairs_of(a) == pairs_of(b) != before and len(pairs_of(a)) == 1)
                assert [type(event) for event in events].count(ChildSaRekeyed) == 1

    asyncio.run(scenario())


def test_what_the_backend_drops_by_its_selectors_is_told_to_the_peer(tmp_path: Path) -> None:
    """RFC 4301 section 5.2, RFC 7296 section 3.10.1."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            a, b, traffic = await both(Pair(tmp_path, own={"b": {"invalid_selectors": True}}), stack)
            backend, inside = traffic.ends[0][0], packet("203.0.113.9", HOST_B, 1)
            (sending,) = backend._engine.pairs
            backend.network.send(outer_packet(sending, sending.outbound.seal(inside, 4), inside), backend)
            await until(lambda: any("N(INVAL_SEL)" in str(line) for line in a.log.records()))
            assert any("that its selectors do not mean was dropped" in str(line) for line in b.log.records())
            traffic.exchange()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["a", "b"])
def test_a_child_sa_that_has_carried_enough_is_rekeyed_without_loss(tmp_path: Path, end: str) -> None:
    """By what one end counts, in either direction. RFC 4301 section 4.4.2.1."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            limited = {"rekey_packets": 10, "life_packets": 20, "rand_packets": 0}
            a, b, traffic = await both(Pair(tmp_path, own={end: {"children": {"net": limited}}}), stack)
            before = pairs_of(a)
            for _ in range(14):
                traffic.exchange()
            await until(lambda: pairs_of(a) == pairs_of(b) and pairs_of(a).isdisjoint(before))
            for _ in range(9):
                traffic.exchange()
            assert len(pairs_of(a)) == 1

    asyncio.run(scenario())


def test_rekey_by_the_control_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = Pair(tmp_path)
        backends: list[Backend] = [MemoryBackend(pair.network), MemoryBackend(pair.network)]
        daemons = [
            Daemon(pair.configuration(host), backend=backend) for host, backend in zip("ab", backends, strict=True)
        ]
        async with contextlib.AsyncExitStack() as stack:
            for daemon in daemons:
                await daemon.start(stack)
            control = daemons[0].configuration.control_socket

            async def command(name: str, what: str) -> object:
                return await asyncio.to_thread(call, control, name, name=what)

            with pytest.raises(IkeError, match="no such SA is up"):
                await command("rekey", "lab")
            await command("up", "lab")
            events: list[Event] = []
            daemons[0].endpoint.subscribe(events.append)
            assert await command("rekey", "net") == {"name": "net"}
            assert await command("rekey", "lab") == {"name": "lab"}
            kinds = [type(event) for event in events]
            assert kinds.count(ChildSaRekeyed) == kinds.count(IkeSaRekeyed) == 1

    asyncio.run(scenario())
