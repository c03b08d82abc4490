"""What every Child SA backend can do: the one interface between IKE and the octets of ESP.

A backend is driven from one thread (the event loop of `ikev2.io`); one that has a thread of its own guards itself.
The order is always: `open`, `allocate_spi`, `install`, ..., `delete`, `close`. `close` takes away everything that
the backend put into the system, and is safe to call twice or after a failed `open`.
RFC 4301 section 4.4: the SPD and the SAD are what a backend keeps.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from ikev2.core.child_sa import NO_KERNEL_OPTIONS, ChildCounters, ChildSaParameters, KernelOptions
from ikev2.core.types import Address, Mode
from ikev2.errors import BackendError, LocalProtocolError
from ikev2.ipsec.icmp import OnPathMtu
from ikev2.wire.payloads import TrafficSelector, Transform

IKE_PORT = 500
NAT_PORT = 4500
DEFAULT_BYPASS_PORTS = (18688, 18751)

NON_ESP_MARKER = b"\0\0\0\0"
"""Four zero octets before an IKE message on UDP 4500. RFC 3948 section 2.2."""

SPI_MINIMUM = 0x100
"""SPIs 1 to 255 are reserved by IANA, and 0 never goes onto the wire. RFC 4303 section 2.1."""

OnIke = Callable[[bytes, Address, Address], None]
"""Takes an IKE datagram without its marker, its local address and its remote address."""


class DropReason(StrEnum):
    """Why a packet was dropped: keys of `ChildCounters.errors` and `Backend.drops()`. RFC 4303 section 3.4."""

    REPLAY = "replay"
    INTEGRITY = "integrity"
    MALFORMED = "malformed"
    PADDING = "padding"
    NEXT_HEADER = "next-header"
    SELECTOR_MISMATCH = "selector-mismatch"
    UNKNOWN_SPI = "unknown-spi"
    SEQUENCE_OVERFLOW = "sequence-overflow"
    LIFETIME = "lifetime"
    NO_SA = "no-sa"
    FRAGMENT = "fragment"
    TOO_BIG = "too-big"
    SEND = "send-error"
    ECN = "ecn"
    CLEAR = "not-protected"
    DUMMY = "dummy"


@dataclass(frozen=True, slots=True)
class Bypass:
    """Traffic of two hosts that leaves and enters outside the tunnel.

    `ports` are (first, last); a packet matches when either its local or its remote port lies in that range. The
    range is aligned to its size, a power of two, so that one mask says it. RFC 4301 section 4.4.1 (BYPASS).
    """

    ip_protocol: int
    ports: tuple[int, int]
    local: str
    remote: str

    def __post_init__(self) -> None:
        first, last = self.ports
        size = last - first + 1
        if not (0 < first <= last <= 0xFFFF) or size & (size - 1) or first % size:
            raise LocalProtocolError(
                f"bypass ports {first}-{last} are not a range of a power of two aligned to its size"
            )
        if self.ip_protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            raise LocalProtocolError(f"a bypass is for TCP (6) or UDP (17), not for protocol {self.ip_protocol}")

    @property
    def mask(self) -> int:
        """The 16-bit mask that together with `ports[0]` says the range, as an XFRM selector wants it."""
        return 0xFFFF & ~(self.ports[1] - self.ports[0])


@dataclass(frozen=True, slots=True)
class Trap:
    """Traffic that is to have a Child SA as soon as there is any: PROTECT, before an SA is there.

    `name` is that of the Child SAs that it asks for; `reqid` tells its Acquire from those of others. What it matches,
    and no Child SA carries, is dropped, never sent in clear. RFC 4301 section 4.4.1 (PROTECT), RFC 7296 section 2.9.
    """

    name: str
    reqid: int
    mode: Mode
    local: str
    remote: str
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]
    kernel: KernelOptions = NO_KERNEL_OPTIONS


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What `Backend.probe` found; `reason` is a sentence for a person in either case."""

    name: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Expire:
    """A Child SA reached a limit; soft (rekey it) or hard (it is gone). RFC 4301 section 4.4.2.1."""

    spi: int
    local: str
    remote: str
    hard: bool
    inbound: bool = True


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet met a PROTECT policy without an SA: one is wanted. RFC 7296 section 2.9.

    `reqid` is that of a Trap, or of a Child SA whose outbound SA is gone; for ICMP the ports are type and code.
    """

    reqid: int
    local: str
    remote: str
    ip_protocol: int = 0
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """A fresh authentic ESP packet in UDP came from where the peer was not before. RFC 7296 section 2.23.

    `spi` is that on which we receive. Told once for each change, and only of SAs with a replay window: an old packet
    from elsewhere must not move anything.
    """

    spi: int
    remote: str
    remote_port: int


@dataclass(frozen=True, slots=True)
class UnknownSpi:
    """ESP came under an SPI that is not ours; ports are those of UDP, 0 without it. Told of not every packet.

    RFC 7296 sections 1.5 and 2.21.4.
    """

    spi: int
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class WrongSelectors:
    """A packet came on an SA, by our SPI, whose selectors do not mean it, and was dropped. Told of not every packet.

    RFC 4301 section 5.2, step 5.
    """

    spi: int
    packet: bytes


BackendEvent = Expire | Acquire | PeerMoved | UnknownSpi | WrongSelectors


class Backend(ABC):
    """What happens to Child SAs once IKE has agreed on them.

    Methods raise `BackendError` with a sentence when the system refuses, and `LocalProtocolError` when the caller
    asks for nonsense.
    """

    name: ClassVar[str]
    takes_kernel_options: ClassVar[bool] = False
    """Whether it heeds the `kernel` of a Child SA."""
    drops_clear: bool = True
    """Whether what arrives in clear although a policy protects it is dropped, where that is for the backend to choose.

    To be set before `open`. RFC 4301 section 5.2 wants it dropped.
    """
    makes_outer_headers: ClassVar[bool] = False
    """Whether it heeds its `header`."""
    sends_dummies: ClassVar[bool] = False
    """Whether it heeds its `dummies`."""
    wants_encap_socket: bool = False
    """True: `attach_encap_socket` is to be called with the UDP 4500 socket, and the caller no longer reads it."""

    @classmethod
    @abstractmethod
    def probe(cls) -> ProbeResult:
        """Try, in this network namespace, whether the backend would work; leaves nothing behind, never raises."""

    @abstractmethod
    def open(self) -> None:
        """Take what the backend needs, and clean what a crashed run of ours left behind."""

    def carries(self, transform: Transform) -> bool:
        """Whether a Child SA of this open backend can have a transform that is implemented for negotiation."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Remove everything that is ours: SAs, policies, rules, routes, devices, threads."""

    @abstractmethod
    def allocate_spi(self, local: str, remote: str) -> int:
        """An SPI for packets that come from `remote` to `local`, unused and above 255. RFC 4303 section 2.1."""

    @abstractmethod
    def release_spi(self, spi: int, local: str, remote: str) -> None:
        """Take back what `allocate_spi` gave when no Child SA has come of it; nothing when it is gone. Never raises."""

    @abstractmethod
    def install(self, child: ChildSaParameters) -> None:
        """Put in both SAs of the pair and their policies; what is sent uses the SA installed last.

        `child.spi_in` came from `allocate_spi`. Between two outer addresses the first install also makes the
        policies that let IKE itself (UDP 500 and 4500) pass. A failed install leaves nothing of the child behind.
        When an SA has carried what `child.limits` says, an Expire is told once for the soft limit and once for the
        hard one.
        """

    def install_standby(self, child: ChildSaParameters) -> None:
        """Put in a pair that is to replace another: it receives, but what is sent still uses the other one.

        A backend that cannot tell the two apart sends on it at once, which RFC 7296 section 2.8 allows.
        """
        self.install(child)

    def activate(self, child: ChildSaParameters) -> None:  # noqa: B027
        """What is sent uses this installed pair from now on. RFC 7296 section 2.8."""

    @abstractmethod
    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        """Move an installed pair to other outer addresses or ports; keys, SPIs and sequence numbers stay.

        RFC 4555 section 3.5, RFC 7296 section 2.23.
        """

    @abstractmethod
    def delete(self, child: ChildSaParameters) -> None:
        """Take both SAs out, and the policies when no other pair uses them. Unknown pairs are no error."""

    @abstractmethod
    def delete_outbound(self, child: ChildSaParameters) -> None:
        """Take only the sending SA out, before `delete` takes the rest: both ends are deleting the pair at once.

        The policies stay, so its traffic is dropped unless another pair serves it, and never sent in clear. Unknown
        pairs are no error. RFC 7296 section 1.4.1.
        """

    @abstractmethod
    def query(self, child: ChildSaParameters) -> ChildCounters:
        """The counters of an installed pair.

        `octets_*` count what ESP protects, as Linux's XFRM does: the inner IP packet in tunnel mode, the payload
        behind the IP header in transport mode; without ESP header, padding and ICV. `errors` is keyed by the
        values of `DropReason`, and holds packets of this SA only.
        """

    def drops(self) -> dict[str, int]:
        """Packets dropped that belong to no installed SA, by `DropReason`."""
        return {}

    @abstractmethod
    def add_bypass(self, bypass: Bypass) -> None:
        """Let traffic pass outside the tunnel; adding the same twice is no error."""

    @abstractmethod
    def remove_bypass(self, bypass: Bypass) -> None:
        """Take an `add_bypass` back; an unknown one is no error."""

    def add_trap(self, trap: Trap) -> None:
        """Tell an Acquire for traffic that no Child SA carries yet; adding the same twice is no error.

        It stays while Child SAs of its traffic come and go, and yields to them.
        """
        raise BackendError(f"the {self.name} backend cannot begin a Child SA when traffic asks for it")

    def remove_trap(self, trap: Trap) -> None:  # noqa: B027
        """Take an `add_trap` back; an unknown one is no error."""

    @abstractmethod
    def prepare_ike_socket(self, sock: socket.socket, *, encap: bool = False) -> None:
        """Make a bound IKE socket leave and enter outside every tunnel; `encap` for the one on UDP 4500."""

    def attach_encap_socket(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        """Take over reading the bound UDP 4500 socket, and its errors (only when `wants_encap_socket`).

        ESP in UDP is the backend's; an IKE datagram goes, without its marker, to `on_ike` on a thread of the
        backend, and what ICMP says of the path's MTU to `on_path_mtu`. Sending IKE on the socket stays with the
        caller, and so does closing it, after `close`.
        RFC 3948 section 2.
        """
        raise LocalProtocolError(f"the {self.name} backend does not read the UDP {NAT_PORT} socket")

    @abstractmethod
    def add_address(self, address: str) -> None:
        """Make an internal address one of this host's, with the routes from it that the Child SAs with it want.

        Before the first Child SA with it is installed. RFC 7296 section 2.19.
        """

    @abstractmethod
    def remove_address(self, address: str) -> None:
        """Take an `add_address` back; an unknown one is no error."""

    def next_event(self) -> BackendEvent | None:
        """The next event, or None when there is none now."""
        return None

    def event_fd(self) -> int | None:
        """A descriptor that is readable while `next_event` has something; None when there are never events."""
        return None
