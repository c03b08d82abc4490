"""What traffic that wants a Child SA begins: an IKE SA or a Child SA on one that is there, once, for which packet.

RFC 7296 sections 1.3.1 and 2.9.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sim.network import A, B, Host, Network, assert_joined, child_config, pair, up

from ikev2.core.types import Mode
from ikev2.io.log import LogRing
from ikev2.io.traps import Traps, packet_selectors
from ikev2.ipsec.backend import Acquire
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork
from ikev2.wire.payloads import TrafficSelector

PORTS = (40001, 862)


class Trapped:
    """Host a with a trap for its child, over a simulated network."""

    def __init__(self, **changes: object) -> None:
        child = child_config(start_action="trap", **changes)
        self.network, self.a, self.b = pair(
            a={"children": (child,)}, b={"children": (replace(child, start_action="none"),)}
        )
        self.log = LogRing()
        self.backend = MemoryBackend(MemoryNetwork())
        self.traps = Traps(self.backend, self.a.manager, self.log)
        asyncio.run(self.traps.settle(self.a.manager.connections))
        (self.trap,) = self.backend._engine.traps.traps
        self.event = Acquire(self.trap.reqid, A, B, 17, A, B, *PORTS)

    def spring(self, event: Acquire | None = None) -> None:
        self.traps.spring(event or self.event, self.network.now)

    def run(self) -> None:
        self.network.run(self.network.now + 5)

    @property
    def ends(self) -> tuple[Network, Host, Host]:
        return self.network, self.a, self.b


@pytest.mark.parametrize("mode", list(Mode))
def test_traffic_begins_the_ike_sa_with_its_child_sa(mode: Mode) -> None:
    trapped = Trapped(mode=mode)
    trapped.spring()
    trapped.run()
    _, a, b = trapped.ends
    assert_joined(a, b)
    assert [child.name for child in a.installed.values()] == ["net"]
    assert any("traffic from 192.0.2.1 to 192.0.2.2 wants net" in record.text for record in trapped.log.records())


def test_what_is_on_its_way_is_not_begun_again() -> None:
    trapped = Trapped()
    trapped.spring()
    trapped.spring()
    assert len(trapped.a.manager.sas) == 1
    trapped.run()
    assert len(trapped.a.installed) == 1
    trapped.a.manager.delete_child(next(iter(trapped.a.installed.values())), trapped.network.now)
    trapped.run()
    assert not trapped.a.installed
    trapped.spring()
    trapped.spring()
    trapped.run()
    assert len(trapped.a.installed) == 1, "one CREATE_CHILD_SA, on the IKE SA that is there"
    assert_joined(trapped.a, trapped.b)


def test_an_ike_sa_that_is_closing_is_not_used() -> None:
    trapped = Trapped()
    sa = up(trapped.network, trapped.a)
    trapped.a.manager.delete(sa, trapped.network.now)
    trapped.spring()
    trapped.run()
    assert_joined(trapped.a, trapped.b)
    assert trapped.a.sa is not sa


def test_an_ike_sa_that_the_peer_began_is_as_good() -> None:
    trapped = Trapped()
    up(trapped.network, trapped.b)
    trapped.a.manager.delete_child(next(iter(trapped.a.installed.values())), trapped.network.now)
    trapped.run()
    trapped.spring()
    trapped.run()
    assert_joined(trapped.a, trapped.b)
    assert len(trapped.a.installed) == 1


def test_an_acquire_of_somebody_else_begins_nothing() -> None:
    trapped = Trapped()
    trapped.spring(replace(trapped.event, reqid=1))
    assert trapped.a.manager.sas == []
    assert any("bring it up with `ikev2 up`" in record.text for record in trapped.log.records())


def test_traps_follow_the_configuration() -> None:
    trapped = Trapped()
    (connection,) = trapped.a.manager.connections
    asyncio.run(trapped.traps.settle([connection]))
    assert trapped.backend._engine.traps.traps == (trapped.trap,), "what is as it was stays"
    wider = replace(
        connection, children=(child_config(start_action="trap|start", remote_ts=(ts_of("192.0.2.0/24"),)),)
    )
    asyncio.run(trapped.traps.settle([wider]))
    (changed,) = trapped.backend._engine.traps.traps
    assert changed.ts_remote == (ts_of("192.0.2.0/24"),)
    trapped.traps.take_up_all()
    assert trapped.backend._engine.traps.traps == ()


def ts_of(network: str) -> TrafficSelector:
    return TrafficSelector.from_network(network)


@pytest.mark.parametrize(
    ("protocol", "ports", "wanted"),
    [
        (17, (40001, 862), ((40001, 40001), (862, 862))),
        (1, (8, 0), ((0, 65535), (0, 65535))),
        (58, (128, 0), ((0, 65535), (0, 65535))),
        (47, (0, 0), ((0, 65535), (0, 65535))),
        (47, (0x1234, 0x5678), ((0, 65535), (0, 65535))),  # the kernel has the key of GRE there
        (135, (5, 0), ((0, 65535), (0, 65535))),  # and the type of a mobility header
        (132, (5000, 6000), ((5000, 5000), (6000, 6000))),
        (0, (0, 0), ((0, 65535), (0, 65535))),
    ],
)
def test_the_selectors_of_a_packet(
    protocol: int, ports: tuple[int, int], wanted: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    found = packet_selectors(Acquire(1, A, B, protocol, A, B, *ports))
    assert found is not None
    assert [(one.ip_protocol, (one.start_port, one.end_port)) for one in found] == [
        (protocol, wanted[0]),
        (protocol, wanted[1]),
    ]


@pytest.mark.parametrize(("source", "destination"), [("", ""), ("0.0.0.0", B), (A, "::")])
def test_a_packet_that_is_not_named_has_none(source: str, destination: str) -> None:
    assert packet_selectors(Acquire(1, A, B, 17, source, destination, *PORTS)) is None
