"""Which IKE SA serves which peer, and what is done when there is none. RFC 7717 section 5.1; readings A10 and A11."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ikev2.embedding import (
    ChildCounters,
    ConfigurationError,
    ConnectionConfig,
    Identity,
    IkeError,
    IkeSaInfo,
    NoSuchSa,
)

Spis = tuple[bytes, bytes]
Selector = Spis | str
"""What the key exporter is asked for: (SPIi, SPIr), or the peer's address."""


@dataclass(frozen=True, slots=True)
class ChildView:
    """One Child SA with what went through it so far."""

    spi_in: int
    spi_out: int
    counters: ChildCounters


@dataclass(frozen=True, slots=True)
class SaView:
    """One established IKE SA, as much of it as a measurement chooses by and reports. No keys.

    `since` orders SAs: the larger the newer.
    """

    spi_i: bytes
    spi_r: bytes
    remote_id: str
    proposal: str
    auth: str
    since: float
    children: tuple[ChildView, ...] = ()

    @property
    def spis(self) -> Spis:
        """SPIi and SPIr as in the IKE header: SPIi is that of the SA's original initiator (reading A13)."""
        return self.spi_i, self.spi_r

    @classmethod
    def of(cls, info: IkeSaInfo, children: Iterable[ChildView]) -> SaView:
        """Of an endpoint's own snapshot."""
        since = info.established_at or 0.0
        return cls(info.spi_i, info.spi_r, info.remote_id, info.suite, info.auth, since, tuple(children))


@dataclass(frozen=True, slots=True)
class SaChoice:
    """What the caller asked for with `--ike-sa` and `--ike-peer`; by default the exporter chooses by address."""

    spis: Spis | None = None
    peer_identity: str | None = None

    @classmethod
    def parse(cls, ike_sa: str | None, ike_peer: str | None) -> SaChoice:
        """Read the two options. Raises ConfigurationError."""
        if ike_sa is None:
            return cls(None, ike_peer)
        if ike_peer is not None:
            raise ConfigurationError("--ike-sa and --ike-peer exclude each other: the SPIs name one SA already")
        match = re.fullmatch(r"([0-9a-fA-F]{16}):([0-9a-fA-F]{16})", ike_sa)
        if match is None:
            raise ConfigurationError(f"--ike-sa: {ike_sa!r} is not SPIi:SPIr, 16 hex digits each")
        return cls((bytes.fromhex(match[1]), bytes.fromhex(match[2])))

    def selector(self, sas: Callable[[], Sequence[SaView]]) -> Callable[[str], Selector]:
        """For IkeKeyProvider: the SA for a server's address, chosen when the Set-Up-Response is written (A14).

        With neither option the address goes to the exporter, which takes the newest established IKE SA whose peer
        it is or whose Child SA holds it (reading A11).
        """

        def select(server_address: str) -> Selector:
            if self.spis is not None:
                return self.spis
            if self.peer_identity is None:
                return server_address
            return newest_with(self.peer_identity, sas()).spis

        return select


def newest_with(identity: str, sas: Sequence[SaView]) -> SaView:
    """The newest SA whose peer has proved this identity. Raises NoSuchSa."""
    wanted = Identity.parse(identity)
    found = [sa for sa in sas if wanted.matches(Identity.parse(sa.remote_id))]
    if not found:
        raise NoSuchSa(f"no established IKE SA with a peer of identity {identity}")
    return max(enumerate(found), key=lambda entry: (entry[1].since, entry[0]))[1]


def connection_for(connections: Sequence[ConnectionConfig], server: str, address: str) -> str:
    """The connection to bring up for a server, given as it was named and by its address; the file's order decides.

    One whose peer the server is goes before one that has a Child SA leading to it. Raises IkeError when there is none.
    """
    for connection in connections:
        if {server, address} & set(_canonical(connection.remote_addrs)):
            return connection.name
    for connection in connections:
        if any(_leads_to(selector, address) for child in connection.children for selector in child.remote_ts):
            return connection.name
    raise IkeError(
        f"there is no IKE SA with {server}, and no connection whose remote_addrs or remote_ts hold it to bring one up"
    )


def _canonical(addresses: Iterable[str]) -> Iterator[str]:
    """Addresses as the socket layer writes them; names as they are."""
    for text in addresses:
        try:
            yield str(ipaddress.ip_address(text))
        except ValueError:
            yield text


def _leads_to(selector: object, address: str) -> bool:
    """True for a traffic selector with addresses of its own that hold this one; `dynamic` has none."""
    first, last = getattr(selector, "start_ip", None), getattr(selector, "end_ip", None)
    wanted = ipaddress.ip_address(address)
    return bool(
        first is not None and last is not None and first.version == wanted.version and first <= wanted <= last
    )
