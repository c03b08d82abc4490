"""What arrives in clear: which of it a policy names, in the terms of nftables, against the SPD's own word.

The kernel reads the expressions in tests/netns/test_clear_traffic.py. RFC 4301 sections 4.4.1.1 and 5.2.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikev2.errors import BackendError
from ikev2.ipsec import clear_traffic
from ikev2.ipsec.clear_traffic import Arriving, ClearTraffic, mirrored, protected
from ikev2.ipsec.ipv4 import NO_PORT, Flow
from ikev2.ipsec.ipv4 import TYPED as TYPED_PORT
from ikev2.ipsec.nftables import BaseChain, Element, SetOf, TableFlag
from ikev2.ipsec.rules import Rule
from ikev2.ipsec.spd import Policy, Selector

PORTED, TYPED = (6, 17, 33, 132, 136), (1, 58, 135)
HERE, THERE = Arriving(ip_protocol=17, source_ports=(1, 1)), Arriving(ip_protocol=6, source_ports=(1, 1))


def names(arriving: Arriving, packet: Flow) -> bool:
    """Whether a packet is meant, as the docstring of Arriving says it."""
    addresses = ((arriving.source, packet.source), (arriving.destination, packet.destination))
    ports = ((arriving.source_ports, packet.source_port), (arriving.destination_ports, packet.destination_port))
    return (
        arriving.version in (None, packet.version)
        and all(wanted is None or wanted[0] <= address <= wanted[1] for wanted, address in addresses)
        and arriving.ip_protocol in (None, packet.ip_protocol)
        and packet.ip_protocol not in arriving.but_not
        and all(wanted is None or wanted[0] <= port <= wanted[1] for wanted, port in ports)
    )


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    version = draw(st.sampled_from((4, 6)))
    addresses = sorted(draw(st.lists(st.integers(0, 4), min_size=2, max_size=2)))
    ports = draw(st.sampled_from(((0, 65535), (65535, 0), (0, 0), (7, 9), (0x0800, 0x08FF), (0x0501, 0x0600))))
    return Selector(draw(st.sampled_from((0, 6, 17, 1, 47, 135))), addresses[0], addresses[1], *ports, version)


@st.composite
def packets(draw: st.DrawFn) -> Flow:
    """Whole packets: those with ports show them."""
    ip_protocol = draw(st.sampled_from((*PORTED, *TYPED, 47, 4)))
    numbers = st.sampled_from((0, 7, 8, 9, 10, 0x0500, 0x0600, 0x0700, 0x0800, 0x08FF, 0x0900, 65535))
    source_port, destination_port = draw(numbers), draw(numbers)
    if ip_protocol in TYPED:
        source_port, destination_port = source_port & 0xFF00 if ip_protocol == 135 else source_port, TYPED_PORT
    elif ip_protocol not in PORTED:
        source_port = destination_port = NO_PORT
    ends = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    return Flow(*ends, ip_protocol, source_port, destination_port, draw(st.sampled_from((4, 6))))


@given(st.lists(selectors(), min_size=1, max_size=2), st.lists(selectors(), min_size=1, max_size=2), packets())
def test_what_must_not_come_in_clear_is_what_a_child_sa_would_take(
    local: list[Selector], remote: list[Selector], packet: Flow
) -> None:
    policy = Policy(tuple(local), tuple(remote))
    assert any(names(one, packet) for one in protected(policy)) == policy.accepts(packet)


def test_what_is_led_outside_may_come_from_there() -> None:
    rule = Rule(1, 254, destination=ip_network("192.0.2.2"), ip_protocol=17, source_ports=(18688, 18751))
    peer = 0xC0000202
    assert mirrored(rule) == Arriving(4, (peer, peer), None, 17, None, (18688, 18751))


class FakeNftables:
    """As `NftSocket`, over a dictionary; `refuses` is the error of the next change of rules."""

    def __init__(self) -> None:
        self.there: dict[str, dict[int, str]] = {}
        self.flags: dict[str, TableFlag] = {}
        self.unknown_flags = False
        self.elements: set[Element] = set()
        self.refuses = 0
        self.made = 0

    def __call__(self) -> FakeNftables:
        return self

    def close(self) -> None:
        pass

    def tables(self) -> list[str]:
        return list(self.there)

    def add_table(self, name: str, flags: TableFlag) -> None:
        if flags and self.unknown_flags:
            raise OSError(errno.EOPNOTSUPP, "not known")
        self.there[name], self.flags[name] = {}, flags
        self.elements = set()

    def delete_table(self, name: str) -> None:
        if name not in self.there:
            raise OSError(errno.ENOENT, "gone")
        del self.there[name]

    def add_chains(self, table: str, chains: Sequence[tuple[str, BaseChain | None]]) -> None:
        pass

    def add_sets(self, table: str, sets: Sequence[SetOf]) -> None:
        pass

    def change(
        self,
        table: str,
        added: Sequence[tuple[str, Sequence[bytes]]],
        removed: Sequence[tuple[str, int]] = (),
        elements: Sequence[Element] = (),
        gone: Sequence[Element] = (),
    ) -> list[int]:
        if self.refuses:
            number, self.refuses = self.refuses, 0
            raise OSError(number, os.strerror(number))
        if table not in self.there:
            raise OSError(errno.ENOENT, "gone")
        for _, handle in removed:
            del self.there[table][handle]
        for element in gone:
            self.elements.remove(element)
        assert not self.elements & set(elements)
        self.elements |= set(elements)
        handles = range(self.made, self.made + len(added))
        self.made += len(added)
        self.there[table].update(zip(handles, (chain for chain, _ in added), strict=True))
        return list(handles)

    def of(self, chain: str) -> int:
        return list(self.there["ikesp0"].values()).count(chain)


@pytest.fixture
def nftables(monkeypatch: pytest.MonkeyPatch) -> FakeNftables:
    fake = FakeNftables()
    monkeypatch.setattr(clear_traffic, "NftSocket", fake)
    return fake


@pytest.fixture
def table(nftables: FakeNftables) -> ClearTraffic:
    made = ClearTraffic()
    made.open("ikesp", 0)
    return made


def test_what_several_want_stays_until_the_last_one_goes(table: ClearTraffic, nftables: FakeNftables) -> None:
    always = nftables.of("outside")
    table.want("a", outside=[HERE], refused=[HERE, THERE])
    table.want("b", outside=[HERE], refused=[THERE, THERE])
    assert (nftables.of("outside"), nftables.of("protected")) == (always + 1, 2)
    table.want("a")
    assert (nftables.of("outside"), nftables.of("protected")) == (always + 1, 1)
    table.want("b", refused=[HERE])
    assert (nftables.of("outside"), nftables.of("protected")) == (always, 1)
    table.want("b")
    assert (nftables.of("outside"), nftables.of("protected")) == (always, 0)
    table.close()
    table.close()
    assert nftables.there == {}


def test_one_udp_port_of_one_peer_is_an_element_and_no_rule(table: ClearTraffic, nftables: FakeNftables) -> None:
    always = nftables.of("outside")
    peer, peer6 = (0xC0000202, 0xC0000202), (1, 1)
    theirs = Arriving(4, peer, ip_protocol=17, source_ports=(500, 500))
    ours = Arriving(6, peer6, ip_protocol=17, destination_ports=(4500, 4500))
    others = [
        Arriving(4, peer, ip_protocol=6, source_ports=(500, 500)),
        Arriving(4, peer, ip_protocol=17, source_ports=(500, 501)),
        Arriving(4, (1, 2), ip_protocol=17, source_ports=(500, 500)),
        Arriving(4, peer, ip_protocol=17, source_ports=(500, 500), destination_ports=(1, 1)),
        Arriving(4, peer, peer, ip_protocol=17, source_ports=(500, 500)),
    ]
    table.want("a", outside=[theirs, ours, *others], refused=[theirs])
    table.want("b", outside=[theirs])
    assert nftables.elements == {
        ("from4", bytes.fromhex("c000020201f40000")),
        ("to6", bytes(15) + bytes.fromhex("0111940000")),
    }
    assert (nftables.of("outside"), nftables.of("protected")) == (always + len(others), 1)
    table.want("a")
    assert nftables.elements == {("from4", bytes.fromhex("c000020201f40000"))}
    del nftables.there["ikesp0"]
    table.want("c", outside=[ours])
    assert len(nftables.elements) == 2
    table.want("b")
    table.want("c")
    assert nftables.elements == set()


def test_a_refused_change_leaves_what_was_there(table: ClearTraffic, nftables: FakeNftables) -> None:
    table.want("a", refused=[HERE])
    nftables.refuses = errno.ENOMEM
    with pytest.raises(BackendError, match="nftables cannot be changed: Cannot allocate memory"):
        table.want("a", refused=[THERE])
    table.want("a", refused=[HERE])
    assert nftables.of("protected") == 1
    table.want("a")
    assert nftables.of("protected") == 0


def test_a_table_that_was_emptied_is_made_again_with_all_that_is_wanted(
    table: ClearTraffic, nftables: FakeNftables
) -> None:
    table.want("a", refused=[HERE])
    del nftables.there["ikesp0"]
    table.want("b", refused=[THERE])
    assert nftables.of("protected") == 2
    del nftables.there["ikesp0"]
    table.want("b")
    assert nftables.of("protected") == 1
    del nftables.there["ikesp0"]
    table.close()


def test_an_older_kernel_gets_a_table_that_is_not_ours_alone(nftables: FakeNftables) -> None:
    nftables.unknown_flags = True
    ClearTraffic().open("ikesp", 0)
    assert nftables.flags == {"ikesp0": TableFlag.NONE}


def test_tables_of_dead_devices_go_and_others_stay(nftables: FakeNftables, monkeypatch: pytest.MonkeyPatch) -> None:
    nftables.there = {name: {} for name in ("ikesp0", "ikesp1", "ikesp2", "filter", "ikespy")}

    def index(name: str) -> int:
        if name != "ikesp2":
            raise OSError(errno.ENODEV, "gone")
        return 7

    monkeypatch.setattr(socket, "if_nametoindex", index)
    ClearTraffic().open("ikesp", 0)
    assert sorted(nftables.there) == ["filter", "ikesp0", "ikesp2", "ikespy"]


def test_a_table_that_belongs_to_another_is_no_reason_to_do_without(
    nftables: FakeNftables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that has lost its device, and is alive: its table is its own."""
    nftables.there = {"ikesp1": {}, "ikesp2": {}}
    delete = nftables.delete_table

    def refuse(name: str) -> None:
        if name == "ikesp1":
            raise OSError(errno.EPERM, "not yours")
        delete(name)

    monkeypatch.setattr(nftables, "delete_table", refuse)
    ClearTraffic().open("ikesp", 0)
    assert sorted(nftables.there) == ["ikesp0", "ikesp1"]


def test_a_kernel_without_nftables_is_said_in_one_line_and_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> None:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(clear_traffic, "NftSocket", absent)
    table = ClearTraffic()
    with caplog.at_level(logging.INFO):
        table.open("ikesp", 0)
        table.want("a", refused=[HERE])
        table.close()
    assert [record.getMessage() for record in caplog.records] == [
        "what arrives in clear although a Child SA protects it is not dropped (RFC 4301 section 5.2): "
        "nftables cannot be used: Protocol not supported"
    ]
    assert table.dropped() == 0
