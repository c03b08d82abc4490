"""The small words that every part of the core shares: addresses, datagrams, roles, the source of SPIs."""

from __future__ import annotations

import ipaddress
from enum import Enum, StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from ikev2.value import value


class Address(NamedTuple):
    """An IP address in its text form and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(1024)
def host_octets(host: str) -> bytes:
    """The 4 or 16 octets of an IP address in its text form, with or without a zone; ValueError for any other text."""
    return ipaddress.ip_address(host.partition("%")[0]).packed


@value(frozen=True, slots=True)
class Datagram:
    """One IKE message to send: octets from the IKE header on, without the non-ESP marker of port 4500.

    `path_mtu_wanted`: a router that finds it too large shall say so and not cut it, because we can cut it better.
    """

    data: bytes
    local: Address
    remote: Address
    path_mtu_wanted: bool = False


class Role(Enum):
    """Who began: the IKE SA (original initiator) or one exchange. RFC 7296 section 2.2."""

    INITIATOR = "initiator"
    RESPONDER = "responder"

    def __str__(self) -> str:
        return self.value

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


class Mode(StrEnum):
    """The mode of a Child SA. RFC 4301 section 4.1."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


class ChildSpiSource(Protocol):
    """Where the SPIs of Child SAs come from: the backend, which knows what the system uses already."""

    def allocate_spi(self, local: str, remote: str) -> int:
        """A fresh SPI (256 to 2**32 - 1) on which `local` will receive from `remote`."""
        ...

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        """Take an SPI back of which no Child SA has come. Must not raise, nor mind one that is not known any more."""
        ...
