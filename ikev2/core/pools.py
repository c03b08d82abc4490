"""Address pools: which identity has which internal address, sans I/O.

- One address has one holder: an identity, and as many of its IKE SAs as share the lease.
- A lease lives while an IKE SA holds it. When the last one lets go, the address is free, and remembered: its identity
  gets it again unless somebody else has needed it meanwhile.
- Asked for by name, an address is given when it is free; an IPv6 address that is not gets its interface identifier
  with another prefix if that is free (RFC 7296 section 3.15.3).
- Else an identity gets what it has or had, then an address that nobody had, then the one that is free the longest.

The first and the last address of an IPv4 network, and the first of an IPv6 network, are nobody's. RFC 7296
sections 2.19 and 3.15.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ikev2.core.identity import Identity
from ikev2.errors import ConfigurationError

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

REMEMBERED = 10_000
"""So many free addresses are remembered for who had them."""

_INTERFACE_IDENTIFIER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Consecutive addresses of one family, both ends included."""

    first: IpAddress
    last: IpAddress

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """`10.9.0.0/24`, `10.9.0.10-10.9.0.20` or one address; ConfigurationError with what would be right."""
        try:
            first, dash, last = (part.strip() for part in text.partition("-"))
            if not dash:
                return cls._of_network(ipaddress.ip_network(text.strip()))
            start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
        except ValueError as error:
            hint = ""
            if "host bits" in str(error):
                hint = f"; the network is {ipaddress.ip_network(text.strip(), strict=False)}"
            raise ConfigurationError(
                f"{text!r} is not a network such as 10.9.0.0/24 or a range such as 10.9.0.10-10.9.0.20{hint}"
            ) from None
        if start.version != end.version or int(start) > int(end):
            raise ConfigurationError(f"{text!r} is a range that ends before it begins")
        return cls(start, end)

    @classmethod
    def _of_network(cls, network: IpNetwork) -> AddressRange:
        first, last = network[0], network[-1]
        if int(last) - int(first) < 2:
            return cls(first, last)
        return cls(first + 1, last - 1 if network.version == 4 else last)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.first.version

    @property
    def size(self) -> int:
        """How many addresses."""
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: IpAddress) -> bool:
        return address.version == self.version and int(self.first) <= int(address) <= int(self.last)

    def overlaps(self, other: AddressRange) -> bool:
        """True when an address is in both."""
        return (
            self.version == other.version
            and int(self.first) <= int(other.last)
            and int(other.first) <= int(self.last)
        )

    def at(self, offset: int) -> IpAddress:
        """The address at an offset from the first."""
        return self.first + offset

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool: its addresses, and what a peer that gets one of them is told beside it. RFC 7296 section 3.15.1."""

    name: str
    ranges: tuple[AddressRange, ...]
    dns: tuple[IpAddress, ...] = ()
    nbns: tuple[IPv4Address, ...] = ()
    dhcp: tuple[IpAddress, ...] = ()
    subnets: tuple[IpNetwork, ...] = ()
    netmask: IPv4Address | None = None

    @property
    def size(self) -> int:
        """How many addresses."""
        return sum(part.size for part in self.ranges)

    def __contains__(self, address: IpAddress) -> bool:
        return any(address in part for part in self.ranges)


@dataclass(slots=True, eq=False)
class Lease:
    """An address and whose it is. `holders`: how many IKE SAs hold it; 0: free, and remembered.

    `remote` is the outer address of who got it: it tells hosts apart that share an identity.
    """

    address: IpAddress
    pool: str
    identity: Identity
    remote: str
    holders: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """One address that a peer asks for. `address` None or unspecified: any; `version`: 4 or 6."""

    version: int
    address: IpAddress | None = None

    @property
    def wanted(self) -> IpAddress | None:
        """The address that is asked for by name."""
        return None if self.address is None or self.address.is_unspecified else self.address


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks: an authenticated identity and the outer address. `shared`: several hosts have this identity."""

    identity: Identity
    remote: str
    shared: bool = False


@dataclass(slots=True)
class AddressPools:
    """All pools of an endpoint."""

    configs: tuple[PoolConfig, ...] = ()
    remembered: int = REMEMBERED
    _leases: dict[IpAddress, Lease] = field(default_factory=dict)
    _of_identity: dict[tuple[int, bytes], list[Lease]] = field(default_factory=dict)
    _free: dict[IpAddress, Lease] = field(default_factory=dict)
    """Leases without holder, the one that is free the longest first."""
    _cursors: dict[AddressRange, int] = field(default_factory=dict)

    def configure(self, configs: Iterable[PoolConfig]) -> None:
        """Take other pools; leases stay while they are held, also of addresses that are in no pool any more."""
        self.configs = tuple(configs)
        for lease in list(self._free.values()):
            if not any(lease.address in config for config in self.configs):
                self._forget(lease)

    def find(self, names: Iterable[str]) -> list[PoolConfig]:
        """The pools of these names, in this order."""
        by_name = {config.name: config for config in self.configs}
        return [by_name[name] for name in names if name in by_name]

    def acquire(self, names: Sequence[str], peer: Peer, wish: Wish, mine: Sequence[Lease] = ()) -> Lease | None:
        """A lease for this peer, held once more now; None when the pools have nothing. `mine` are not given again.

        RFC 7296 sections 2.19, 3.15.1 and 3.15.3.
        """
        pools = self.find(names)
        lease = self._named(pools, peer, wish, mine) or self._again(pools, peer, wish, mine)
        if lease is None:
            found = self._unused(pools, wish.version) or self._longest_free(pools, wish.version)
            if found is None:
                return None
            lease = self._new(found[0], found[1], peer)
        if not lease.holders:
            self._free.pop(lease.address, None)
            lease.remote = peer.remote
        lease.holders += 1
        return lease

    def release(self, lease: Lease) -> None:
        """One IKE SA lets go of a lease."""
        lease.holders -= 1
        if lease.holders > 0:
            return
        self._free[lease.address] = lease
        in_pool = any(lease.address in config for config in self.configs)
        if not in_pool:
            self._forget(lease)
        while len(self._free) > self.remembered:
            self._forget(next(iter(self._free.values())))

    def __iter__(self) -> Iterator[Lease]:
        """All leases, held and remembered, by address."""
        return iter(sorted(self._leases.values(), key=lambda lease: (lease.address.version, int(lease.address))))

    # --- choices -------------------------------------------------------------------------------------------------

    def _named(self, pools: Sequence[PoolConfig], peer: Peer, wish: Wish, mine: Sequence[Lease]) -> Lease | None:
        """The address that is asked for, or its interface identifier in another place, when nobody else has it."""
        if wish.wanted is None:
            return None
        for pool, address in _candidates(pools, wish.wanted):
            lease = self._leases.get(address)
            if lease is None:
                return self._new(pool, address, peer)
            if lease in mine:
                continue
            if lease.holders == 0:
                return lease if _same(lease, peer) else self._new(pool, address, peer)
            # The one that has it may ask anew: it authenticates again, make before break.
            if _same(lease, peer) and (not peer.shared or lease.remote == peer.remote):
                return lease
        return None

    def _again(self, pools: Sequence[PoolConfig], peer: Peer, wish: Wish, mine: Sequence[Lease]) -> Lease | None:
        """What the identity has already, or had; of an identity that several hosts share, only what is free."""
        own = [
            lease
            for lease in self._of_identity.get(peer.identity.key, ())
            if lease not in mine
            and lease.address.version == wish.version
            and any(lease.address in pool for pool in pools)
            and (not lease.holders or not peer.shared)
        ]
        return max(own, key=lambda lease: (lease.holders > 0, lease.remote == peer.remote), default=None)

    def _unused(self, pools: Sequence[PoolConfig], version: int) -> tuple[PoolConfig, IpAddress] | None:
        """An address that nobody has, and nobody is remembered for."""
        for pool in pools:
            for part in pool.ranges:
                if part.version != version:
                    continue
                start = self._cursors.get(part, 0)
                # As many as are taken may come in a row; one more is not.
                for step in range(min(part.size, len(self._leases) + 1)):
                    offset = (start + step) % part.size
                    address = part.at(offset)
                    if address not in self._leases:
                        self._cursors[part] = (offset + 1) % part.size
                        return pool, address
        return None

    def _longest_free(self, pools: Sequence[PoolConfig], version: int) -> tuple[PoolConfig, IpAddress] | None:
        for address in self._free:
            if address.version == version:
                for pool in pools:
                    if address in pool:
                        return pool, address
        return None

    # --- book-keeping --------------------------------------------------------------------------------------------

    def _new(self, pool: PoolConfig, address: IpAddress, peer: Peer) -> Lease:
        """A lease of an address that nobody holds; who is remembered for it is forgotten."""
        before = self._leases.get(address)
        if before is not None:
            self._forget(before)
        lease = Lease(address, pool.name, peer.identity, peer.remote)
        self._leases[address] = lease
        self._of_identity.setdefault(peer.identity.key, []).append(lease)
        return lease

    def _forget(self, lease: Lease) -> None:
        self._leases.pop(lease.address, None)
        self._free.pop(lease.address, None)
        own = self._of_identity.get(lease.identity.key, [])
        if lease in own:
            own.remove(lease)
        if not own:
            self._of_identity.pop(lease.identity.key, None)


def _same(lease: Lease, peer: Peer) -> bool:
    return lease.identity.key == peer.identity.key


def _candidates(pools: Sequence[PoolConfig], wanted: IpAddress) -> Iterator[tuple[PoolConfig, IpAddress]]:
    """The address itself, then its interface identifier behind the prefixes of the pools. RFC 7296 section 3.15.3."""
    yield from ((pool, wanted) for pool in pools if wanted in pool)
    if isinstance(wanted, IPv4Address):
        return
    identifier = int(wanted) & _INTERFACE_IDENTIFIER
    for pool in pools:
        for part in pool.ranges:
            if isinstance(part.first, IPv6Address):
                address = IPv6Address((int(part.first) & ~_INTERFACE_IDENTIFIER) | identifier)
                if address in part and address != wanted:
                    yield pool, address
