"""One Child SA pair, as a backend installs it.

RFC 7296 sections 1.3 and 2.17, RFC 4301 section 4.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ikev2.core.types import Mode, Role
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite
from ikev2.value import value
from ikev2.wire.payloads import TrafficSelector

PAD_TO_MTU = 0xFFFFFFFF
"""`tfc_padding` that makes every packet as long as the path takes."""


@value(frozen=True, slots=True)
class UdpEncap:
    """ESP inside UDP: our port and the peer's. RFC 3948, RFC 7296 section 2.23."""

    local_port: int
    remote_port: int


class HwOffload(StrEnum):
    """Whether a network device does a part of ESP: the cipher, or all of it; `AUTO` takes what is there."""

    NO = "no"
    CRYPTO = "crypto"
    PACKET = "packet"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """What only the Linux kernel's IPsec can be told of a Child SA.

    `if_id_in` and `if_id_out`: its SAs and policies are those of an XFRM interface (0: of none); `sa_direction`: each
    SA says which way it is for, and the kernel (6.10 and later) uses it for no other.
    """

    if_id_in: int = 0
    if_id_out: int = 0
    hw_offload: HwOffload = HwOffload.NO
    sa_direction: bool = False


NO_KERNEL_OPTIONS = KernelOptions()


class DfBit(StrEnum):
    """What becomes of Don't Fragment in the header outside, where both headers are of IPv4. RFC 4301 section 8.1."""

    COPY = "copy"
    SET = "set"
    CLEAR = "clear"


@value(frozen=True, slots=True)
class TunnelHeader:
    """How the header outside a tunnel is made of the one inside; `dscp` None: copied, else always that.

    RFC 4301 section 5.1.2.
    """

    df: DfBit = DfBit.COPY
    dscp: int | None = None


COPIED_HEADER = TunnelHeader()


@value(frozen=True, slots=True)
class Dummies:
    """Dummy packets that we send: on average so often, 0 for never, each of a random length within these octets.

    RFC 4303 section 2.6.
    """

    interval_s: float = 0.0
    octets: tuple[int, int] = (0, 0)


NO_DUMMIES = Dummies()


@value(frozen=True, slots=True)
class VolumeLimits:
    """How much each SA of a pair may carry: `soft` until the backend says so, `hard` until it is gone; 0: any amount.

    RFC 4301 section 4.4.2.1.
    """

    soft_octets: int = 0
    hard_octets: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


NO_LIMITS = VolumeLimits()


@value(frozen=True, slots=True)
class ChildSaParameters:
    """All that a backend needs to install both directions of one Child SA and its policies.

    `local` and `remote` are the outer addresses; `spi_in` is the SPI on which we receive. Encryption keys have
    their salt at the end; `integ_key_*` is None with combined-mode ciphers. `nat_original_local` and
    `nat_original_remote` are the addresses before translation, for the checksums of transport mode (RFC 3948
    section 3.1.2), None when there is no NAT. Packets inside a tunnel are padded to `tfc_padding` octets, as far as the
    path's MTU allows (RFC 4303 section 2.7); 0: not at all, as when the peer does not take that.
    RFC 7296 section 2.17.
    """

    name: str
    ike_spi_i: bytes
    ike_spi_r: bytes
    suite: EspSuite
    mode: Mode
    role: Role
    local: str
    remote: str
    spi_in: int
    spi_out: int
    encr_key_in: SecretOctets
    integ_key_in: SecretOctets | None
    encr_key_out: SecretOctets
    integ_key_out: SecretOctets | None
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]
    encap: UdpEncap | None = None
    replay_window: int = 64
    reqid: int = 0
    nat_original_local: str | None = None
    nat_original_remote: str | None = None
    tfc_padding: int = 0
    kernel: KernelOptions = NO_KERNEL_OPTIONS
    limits: VolumeLimits = NO_LIMITS
    header: TunnelHeader = COPIED_HEADER
    dummies: Dummies = NO_DUMMIES

    @property
    def label(self) -> str:
        """`name{spi_in}`: how logs and listings name this pair."""
        return f"{self.name}{{{self.spi_in:08x}}}"


@dataclass(frozen=True, slots=True)
class ChildCounters:
    """What a backend counted for one pair; `errors` by reason (replay, icv, ...)."""

    packets_in: int = 0
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0
    errors: dict[str, int] = field(default_factory=dict)
