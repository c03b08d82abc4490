"""Peers whose Child SAs have the same selectors: to whom the server's packets go.

    ari  10.1.2.3 -- NAT 192.0.2.1:1001 --+
                                           +-- server 198.51.100.2
    bob  10.1.2.4 -- NAT 192.0.2.1:1002 --+

RFC 3948 sections 5.1 and 5.2.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from esp_support import child_pair, everything, udp_packet

from ikev2.core.child_sa import ChildSaParameters, UdpEncap
from ikev2.core.types import Mode
from ikev2.ipsec.ipv4 import build_header
from ikev2.ipsec.sad import Engine

SERVER, NAT, INSIDE = "198.51.100.2", "192.0.2.1", "10.1.2.3"


class Client:
    """Its engine, and both ends of its Child SA; in a tunnel the address inside is `INSIDE`, for all of them."""

    def __init__(self, number: int, mode: Mode) -> None:
        self.inside = INSIDE if mode is Mode.TUNNEL else NAT
        encap = UdpEncap(1000 + number, 4500)
        self.own, self.servers = child_pair(
            mode=mode, a=NAT, b=SERVER, ts_a=everything(f"{self.inside}/32"), encap=encap,
            spis=(0x1000 * number, 0x1000 * number + 1), seed=number,
        )  # fmt: skip
        self.servers = replace(self.servers, encap=UdpEncap(4500, 1000 + number))
        self.engine = Engine()
        self.engine.install(self.own)

    def rekeyed(self, number: int) -> tuple[ChildSaParameters, ChildSaParameters]:
        return tuple(  # type: ignore[return-value]
            replace(child, spi_in=child.spi_in + number, spi_out=child.spi_out + number)
            for child in (self.own, self.servers)
        )

    def sends(self, server: Engine, port: int, own: ChildSaParameters | None = None) -> None:
        """A datagram from this port to port 7 of the server arrives there."""
        pair = self.engine.pair(own or self.own)
        assert pair is not None
        packet = udp_packet(self.inside, SERVER, (port, 7))
        esp = pair.outbound.seal(packet if pair.tunnel else packet[20:], 4 if pair.tunnel else 17)
        assert server.unprotect(esp) == packet


def goes_to(server: Engine, client: Client, port: int) -> int:
    """The SPI under which the server answers to a port."""
    sealed = server.protect(udp_packet(SERVER, client.inside, (7, port)))
    assert sealed is not None
    return sealed[0].child.spi_out


@pytest.fixture(params=list(Mode), ids=str)
def world(request: pytest.FixtureRequest) -> tuple[Engine, Client, Client]:
    server, ari, bob = Engine(), Client(1, request.param), Client(2, request.param)
    server.install(ari.servers)
    server.install(bob.servers)
    return server, ari, bob


def test_answers_go_back_to_whom_the_flow_came_from(world: tuple[Engine, Client, Client]) -> None:
    server, ari, bob = world
    for _ in range(2):
        ari.sends(server, 5001)
        bob.sends(server, 5002)
        for client, port in ((ari, 5001), (bob, 5002), (ari, 5001)):
            assert goes_to(server, client, port) == client.own.spi_in
    assert goes_to(server, ari, 5003) == bob.own.spi_in, "nobody has sent from there: the newest"


def test_the_log_says_that_two_peers_have_the_same_selectors(caplog: pytest.LogCaptureFixture) -> None:
    server, ari, bob = Engine(), Client(1, Mode.TUNNEL), Client(2, Mode.TUNNEL)
    server.install(ari.servers)
    server.install(ari.rekeyed(0x20)[1])
    assert not caplog.records
    server.install(bob.servers)
    assert [record.message for record in caplog.records] == [
        "Child SA test{00002001}: another peer has the same selectors; answers go where packets came from"
    ]


def test_a_rekeyed_pair_keeps_the_flows_of_its_peer(world: tuple[Engine, Client, Client]) -> None:
    server, ari, bob = world
    ari.sends(server, 5001)
    bob.sends(server, 5002)
    own, servers = ari.rekeyed(0x20)
    ari.engine.install(own)
    server.install(servers)
    assert goes_to(server, ari, 5001) == own.spi_in
    server.delete(ari.servers)
    assert goes_to(server, ari, 5001) == own.spi_in
    assert goes_to(server, bob, 5002) == bob.own.spi_in


def test_a_flow_follows_a_peer_to_its_new_mapping_and_ends_with_it(world: tuple[Engine, Client, Client]) -> None:
    server, ari, bob = world
    ari.sends(server, 5001)
    moved = replace(ari.servers, encap=UdpEncap(4500, 1009))
    server.replace(ari.servers, moved)
    assert goes_to(server, ari, 5001) == ari.own.spi_in
    server.delete(moved)
    assert goes_to(server, ari, 5001) == bob.own.spi_in
    server.delete(bob.servers)
    assert not server._ways.contested
    assert not server._ways._peers


def test_an_answer_to_a_ping_goes_back_too(world: tuple[Engine, Client, Client]) -> None:
    server, ari, _ = world
    ends = [bytes(map(int, address.split("."))) for address in (ari.inside, SERVER)]
    ping = build_header(*ends, 1, 8) + bytes((8, 0, 0, 0, 0, 9, 0, 1))
    pong = build_header(*reversed(ends), 1, 8) + bytes((0, 0, 0, 0, 0, 9, 0, 1))
    pair = ari.engine.pair(ari.own)
    assert pair is not None
    assert server.unprotect(pair.outbound.seal(*((ping, 4) if pair.tunnel else (ping[20:], 1)))) == ping
    sealed = server.protect(pong)
    assert sealed is not None
    assert sealed[0].child == ari.servers


def test_many_flows_take_bounded_memory(world: tuple[Engine, Client, Client]) -> None:
    server, ari, _ = world
    for port in range(1024, 1024 + 4200):
        ari.sends(server, port)
    assert len(server._ways._of) == 4096
    assert goes_to(server, ari, 5200) == ari.own.spi_in
