"""Limit classes: what a client may take of a server, by who it is or where it comes from.

A class may have a parent; what a session takes counts in its class and in every class above it, and each of them may
refuse it. A session that alone is beyond a limit is refused for good (Accept 4), one for which there is no room now
for the time being (Accept 5). The words are those of perfSONAR's limits files; there is no code of theirs here.
RFC 4656 sections 3.3 and 6.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from ippm.errors import RefuseSession
from ippm.iana import SECURITY_BITS, Accept, Mode

UNITS = {"bandwidth": "bits per second", "disk": "octets", "test_sessions": "sessions"}
"""What is counted, and in what."""


@dataclass(frozen=True, slots=True)
class LimitClass:
    """One class as it is written. A quantity of 0 is no limit; None is what the parent says, or else the default.

    `bandwidth` is in bits per second, `disk` in octets of OWAMP records. `modes` are security modes.
    RFC 4656 section 6.5.
    """

    name: str
    parent: str | None = None
    bandwidth: int = 0
    disk: int = 0
    test_sessions: int = 0
    delete_on_fetch: bool | None = None
    allow_open_mode: bool | None = None
    modes: Mode | None = None

    def limit(self, what: str) -> int:
        """The limit of one of UNITS; 0 is none."""
        return {"bandwidth": self.bandwidth, "disk": self.disk, "test_sessions": self.test_sessions}[what]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the clients of a class, with what it has from those above it; `path` begins with the class."""

    path: tuple[LimitClass, ...]
    modes: Mode
    delete_on_fetch: bool

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.path[0].name


@dataclass(frozen=True, slots=True)
class Limits:
    """The classes, and which client is of which. `default` and every parent are names of `classes`.

    `users` are KeyIDs of passphrases, `identities` IKE identities as ControlSecret has them. RFC 4656 section 6.5.
    """

    classes: Mapping[str, LimitClass]
    default: str
    networks: Mapping[IPv4Network | IPv6Network, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)

    def terms(self, name: str | None) -> Terms:
        """What holds in a class; in the default class for a name that is not known (any more)."""
        found = self.classes.get(name or self.default) or self.classes[self.default]
        path = [found]
        while found.parent is not None:
            found = self.classes[found.parent]
            path.append(found)
        modes = next((one.modes for one in path if one.modes is not None), SECURITY_BITS)
        if next((one.allow_open_mode for one in path if one.allow_open_mode is not None), True) is False:
            modes &= ~Mode.OPEN
        delete = next((one.delete_on_fetch for one in path if one.delete_on_fetch is not None), False)
        return Terms(tuple(path), modes, delete)

    def of_address(self, host: str) -> Terms:
        """What holds for whoever has no user of its own: by the most specific network, else the default."""
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        within = [network for network in self.networks if address.version == network.version and address in network]
        return self.terms(self.networks[max(within, key=lambda network: network.prefixlen)] if within else None)

    def of_user(self, user: str, host: str) -> Terms:
        """What holds for a user with a passphrase; one that has no class of its own is known by its address."""
        return self.terms(self.users[user]) if user in self.users else self.of_address(host)

    def of_identity(self, identity: str | None) -> Terms:
        """What holds for the peer of an IKE SA; the default class for one that is not known (reading A20)."""
        return self.terms(self.identities.get(identity or ""))


class LimitUsage:
    """What is taken of each class's quantities, by all servers that share it, in one thread (the event loop's).

    RFC 4656 section 6.5.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._used: Counter[tuple[str, str]] = Counter()

    def used(self, name: str, what: str) -> int:
        """How much of one of UNITS a class and those below it have taken."""
        return self._used[name, what]

    def take(self, terms: Terms, **amounts: int) -> None:
        """Count all the amounts, or none of them. Raises RefuseSession. RFC 4656 section 3.3."""
        for one in terms.path:
            for what, amount in amounts.items():
                self._check(terms.name, one, what, amount)
        self._count(terms, amounts, 1)

    def add(self, terms: Terms, **amounts: int) -> None:
        """Count what is there already, whatever the limits say."""
        self._count(terms, amounts, 1)

    def give_back(self, terms: Terms, **amounts: int) -> None:
        """Free what was counted."""
        self._count(terms, amounts, -1)

    def _count(self, terms: Terms, amounts: Mapping[str, int], sign: int) -> None:
        for one in terms.path:
            for what, amount in amounts.items():
                self._used[one.name, what] += sign * amount

    def _check(self, name: str, one: LimitClass, what: str, amount: int) -> None:
        """Raises RefuseSession with the class and the limit in its words."""
        limit, used = one.limit(what), self._used[one.name, what]
        if not limit or used + amount <= limit:
            return
        whose = f"class {name}: {what}" + ("" if one.name == name else f" of class {one.name}")
        words = f"{whose} is limited to {limit} {UNITS[what]}"
        if amount > limit:  # rfc4656-s6.5-01
            raise RefuseSession(Accept.PERMANENT_LIMITATION, f"{words}, {amount} are asked for")
        raise RefuseSession(Accept.TEMPORARY_LIMITATION, f"{words}, {used} are taken and {amount} are asked for")
