"""Address pools: whatever is asked for and given back in whatever order, no address has two holders."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ikev2.core.identity import Identity
from ikev2.core.pools import AddressPools, AddressRange, Lease, Peer, PoolConfig, Wish
from ikev2.errors import ConfigurationError

NAMES = ("four", "more", "six")
IDENTITIES = [Identity.parse(f"host{number}.example") for number in range(5)]
REMOTES = ("192.0.2.1", "192.0.2.2")


def pools(**changes: object) -> AddressPools:
    configs = (
        PoolConfig("four", (AddressRange.parse("10.9.0.0/30"),)),
        PoolConfig("more", (AddressRange.parse("10.9.0.8-10.9.0.10"), AddressRange.parse("10.9.1.1"))),
        PoolConfig("six", (AddressRange.parse("2001:db8::/126"),)),
    )
    return AddressPools(configs, **changes)  # type: ignore[arg-type]


wanted = st.one_of(
    st.none(),
    st.integers(0, 12).map(lambda last: ipaddress.IPv4Address((10 << 24) + (9 << 16) + last)),
    st.integers(0, 4).map(lambda last: ipaddress.IPv6Address((0x20010DB8 << 96) + last)),
    st.integers(0, 4).map(ipaddress.IPv6Address),
)


class Pools(RuleBasedStateMachine):
    """IKE SAs come and go: each holds what it was given, and one more may hold the same for the same identity."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = pools(remembered=4)
        self.sas: list[tuple[Peer, list[Lease]]] = []

    @rule(
        identity=st.sampled_from(IDENTITIES),
        remote=st.sampled_from(REMOTES),
        shared=st.booleans(),
        wishes=st.lists(st.tuples(st.sampled_from([4, 6]), wanted), min_size=1, max_size=3),
        names=st.permutations(NAMES),
    )
    def establish(
        self,
        identity: Identity,
        remote: str,
        shared: bool,
        wishes: list[tuple[int, ipaddress.IPv4Address | ipaddress.IPv6Address | None]],
        names: list[str],
    ) -> None:
        peer = Peer(identity, remote, shared)
        mine: list[Lease] = []
        for version, address in wishes:
            suggested = address if address is not None and address.version == version else None
            held = {lease.address: lease for _, leases in self.sas for lease in leases}
            given_ = {lease.address for lease in mine}
            room = any(
                part.version == version and part.at(offset) not in held | dict.fromkeys(given_)
                for pool in self.pools.configs
                for part in pool.ranges
                for offset in range(part.size)
            )
            lease = self.pools.acquire(names, peer, Wish(version, suggested), mine)
            assert lease is not None or not room
            if lease is None:
                continue
            assert lease.address.version == version
            assert lease.address not in given_
            assert any(lease.address in pool for pool in self.pools.configs)
            other = held.get(lease.address)
            assert other is None or other is lease
            named_is_free = suggested in held or suggested in given_
            if (
                suggested is not None
                and any(suggested in pool for pool in self.pools.configs)
                and not named_is_free
            ):
                assert lease.address == suggested
            mine.append(lease)
        self.sas.append((peer, mine))

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.sas:
            _, leases = self.sas.pop(data.draw(st.integers(0, len(self.sas) - 1)))
            for lease in leases:
                self.pools.release(lease)

    @rule(names=st.lists(st.sampled_from(NAMES), unique=True))
    def reload(self, names: list[str]) -> None:
        """Other pools: who holds an address keeps it."""
        self.pools.configure([config for config in pools().configs if config.name in names])
        self.pools.configure(pools().configs)

    @invariant()
    def one_holder(self) -> None:
        holders: dict[object, set[object]] = {}
        count: dict[object, int] = {}
        for peer, leases in self.sas:
            for lease in leases:
                holders.setdefault(lease.address, set()).add(peer.identity)
                count[lease.address] = count.get(lease.address, 0) + 1
        assert all(len(identities) == 1 for identities in holders.values())
        listed = {lease.address: lease for lease in self.pools}
        assert {address: lease.holders for address, lease in listed.items() if lease.holders} == count
        assert sum(lease.holders == 0 for lease in listed.values()) <= 4


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.integers(0, 2**32 - 1), st.integers(8, 32))
def test_network_without_its_first_and_last_address(start: int, prefix: int) -> None:
    network = ipaddress.IPv4Network((start, prefix), strict=False)
    found = AddressRange.parse(str(network))
    if prefix >= 31:
        assert (found.first, found.last) == (network[0], network[-1])
    else:
        assert (found.first, found.last) == (network[1], network[-2])
    assert found.size == len(list(network.hosts())) if prefix >= 24 else found.size == network.num_addresses - 2


@given(st.text(max_size=20))
def test_any_text_is_a_range_or_a_fault_in_one_line(text: str) -> None:
    try:
        found = AddressRange.parse(text)
    except ConfigurationError as fault:
        lines = str(fault).splitlines()
        assert len(lines) == 1
    else:
        assert found.size >= 1
        assert AddressRange.parse(str(found)) == found


def test_large_ipv6_pool_costs_nothing() -> None:
    found = AddressPools((PoolConfig("six", (AddressRange.parse("2001:db8::/32"),)),))
    addresses = set()
    for number in range(500):
        lease = found.acquire(["six"], Peer(Identity.parse(f"n{number}.example"), "192.0.2.1"), Wish(6))
        assert lease is not None
        addresses.add(lease.address)
    assert len(addresses) == 500
    assert min(addresses) == ipaddress.ip_address("2001:db8::1")


def test_interface_identifier_is_kept_behind_another_prefix() -> None:
    """RFC 7296 section 3.15.3; a requestor may supply the low-order octets alone (section 3.15.1)."""
    found = AddressPools((PoolConfig("six", (AddressRange.parse("2001:db8:0:1::/64"),)),))
    for text, expected in (
        ("::5", "::5"),
        ("2001:db8:ffff::77", "::77"),
        ("2001:db8:0:1::88", "::88"),
        ("::5", "::1"),
    ):
        name = Identity.parse(f"host{text.replace(':', '-')}{expected.replace(':', '-')}.example")
        lease = found.acquire(["six"], Peer(name, "192.0.2.1"), Wish(6, ipaddress.ip_address(text)))
        assert lease is not None
        assert lease.address == ipaddress.ip_address("2001:db8:0:1" + expected)


def test_address_that_is_no_longer_in_a_pool_goes_when_its_ike_sa_does() -> None:
    found = pools()
    peer = Peer(IDENTITIES[0], "192.0.2.1")
    lease = found.acquire(["four"], peer, Wish(4))
    assert lease is not None
    found.configure([PoolConfig("four", (AddressRange.parse("10.8.0.0/24"),))])
    assert [one.address for one in found] == [lease.address]
    other = found.acquire(["four"], Peer(IDENTITIES[1], "192.0.2.1"), Wish(4, lease.address))
    assert other is not None
    assert str(other.address) == "10.8.0.1"
    found.release(lease)
    assert lease.address not in {one.address for one in found}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.9.0.1/24", "the network is 10.9.0.0/24"),
        ("10.9.0.9-10.9.0.1", "ends before it begins"),
        ("10.9.0.1-2001:db8::1", "ends before it begins"),
        ("dynamic", "is not a network such as"),
        ("", "is not a network such as"),
    ],
)
def test_fault_in_a_range_says_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        AddressRange.parse(text)
