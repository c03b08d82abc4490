"""Which IKE SA serves which peer, and what is done when there is none. RFC 7717 section 5.1; readings A10 and A11."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ikev2 import ConfigurationError, IkeError, IkeSaInfo

Selector = tuple[bytes, bytes] | str
"""What the key exporter is asked for: (SPIi, SPIr), or the peer's address."""


@dataclass(frozen=True, slots=True)
class SaChoice:
    """What the caller asked for with `--ike-sa` and `--ike-peer`; by default the exporter chooses by address."""

    spis: tuple[bytes, bytes] | None = None
    peer_identity: str | None = None

    @classmethod
    def parse(cls, ike_sa: str | None, ike_peer: str | None) -> SaChoice:
        """Read the two options. Raises ConfigurationError."""
        if ike_sa is None:
            return cls(None, ike_peer)
        match = re.fullmatch(r"([0-9a-fA-F]{16}):([0-9a-fA-F]{16})", ike_sa)
        if match is None:
            raise ConfigurationError(f"--ike-sa: {ike_sa!r} is not SPIi:SPIr, 16 hex digits each")
        return cls((bytes.fromhex(match[1]), bytes.fromhex(match[2])), ike_peer)

    def selector(self, infos: Callable[[], Sequence[IkeSaInfo]]) -> Callable[[str], Selector]:
        """For IkeKeyProvider: the SA for a server's address.

        With neither option the address goes to the exporter, which takes the newest established IKE SA whose peer
        it is or whose Child SA holds it (reading A11).
        """

        def select(server_address: str) -> Selector:
            if self.spis is not None:
                return self.spis
            if self.peer_identity is None:
                return server_address
            found = [
                info for info in infos() if info.remote_id == self.peer_identity and info.established_at is not None
            ]
            if not found:
                raise IkeError(f"no IKE SA with a peer of identity {self.peer_identity}")
            newest = max(found, key=lambda info: info.established_at or 0.0)
            return newest.spi_i, newest.spi_r

        return select


def connection_for(connections: Sequence[tuple[str, Sequence[str]]], server: str) -> str:
    """The connection to bring up for a server: (name, remote addresses) pairs in the file's order.

    Raises IkeError when none names the server.
    """
    for name, remotes in connections:
        if server in remotes:
            return name
    raise IkeError(
        f"there is no IKE SA with {server}, and no connection whose remote_addrs hold it to bring one up"
    )
