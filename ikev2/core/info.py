"""Snapshots of the SAs for people and for `list`: no keys, nothing that changes behind the reader's back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ikev2.core.types import Address, Mode, Role
from ikev2.value import value

if TYPE_CHECKING:
    from ikev2.core.child_negotiation import ChildSa
    from ikev2.core.ike_sa import IkeSa


@dataclass(frozen=True, slots=True)
class ChildSaInfo:
    """One Child SA as it stands. Times are the driver's monotonic seconds."""

    name: str
    suite: str
    mode: Mode
    spi_in: int
    spi_out: int
    ts_local: tuple[str, ...]
    ts_remote: tuple[str, ...]
    encap: bool
    installed_at: float

    def to_dict(self, now: float) -> dict[str, object]:
        """The object that `list --json` prints."""
        return {
            "name": self.name,
            "suite": self.suite,
            "mode": str(self.mode),
            "spi_in": f"{self.spi_in:08x}",
            "spi_out": f"{self.spi_out:08x}",
            "ts_local": list(self.ts_local),
            "ts_remote": list(self.ts_remote),
            "encap": self.encap,
            "age_s": int(now - self.installed_at),
        }


@value(frozen=True, slots=True)
class IkeSaInfo:
    """One IKE SA as it stands. `state` is the name that core/transitions.py gives it.

    `local_vips`: the addresses that the peer assigned to us, with its DNS servers and the networks behind it;
    `remote_vips`: those that it got from our pools (RFC 7296 section 2.19).
    """

    name: str
    state: str
    role: Role
    spi_i: bytes
    spi_r: bytes
    suite: str
    prf: str
    auth: str
    local: Address
    remote: Address
    local_id: str
    remote_id: str
    nat_local: bool
    nat_remote: bool
    created_at: float
    established_at: float | None
    children: tuple[ChildSaInfo, ...]
    local_vips: tuple[str, ...] = ()
    remote_vips: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    internal_subnets: tuple[str, ...] = ()

    def to_dict(self, now: float) -> dict[str, object]:
        """The object that `list --json` prints."""
        return {
            "name": self.name,
            "state": self.state,
            "role": str(self.role),
            "spi_i": self.spi_i.hex(),
            "spi_r": self.spi_r.hex(),
            "suite": self.suite,
            "prf": self.prf,
            "auth": self.auth,
            "local": str(self.local),
            "remote": str(self.remote),
            "local_id": self.local_id,
            "remote_id": self.remote_id,
            "nat_local": self.nat_local,
            "nat_remote": self.nat_remote,
            "age_s": int(now - (self.created_at if self.established_at is None else self.established_at)),
            "local_vips": list(self.local_vips),
            "remote_vips": list(self.remote_vips),
            "dns": list(self.dns),
            "internal_subnets": list(self.internal_subnets),
            "children": [child.to_dict(now) for child in self.children],
        }


def ike_sa_info(sa: IkeSa) -> IkeSaInfo:
    """This IKE SA, with its Child SAs, as it stands."""
    suite = sa.suite
    return IkeSaInfo(
        name=sa.connection.name,
        state=str(sa.state),
        role=sa.role,
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        suite="" if suite is None else suite.keyword,
        prf="" if suite is None else suite.prf.name,
        auth=sa.connection.auth,
        local=sa.local,
        remote=sa.remote,
        local_id="" if sa.local_id is None else str(sa.local_id),
        remote_id="" if sa.peer_id is None else str(sa.peer_id),
        nat_local=sa.nat.local,
        nat_remote=sa.nat.remote,
        created_at=sa.created_at,
        established_at=sa.established_at,
        children=tuple(child_sa_info(child) for child in sa.children.values()),
        local_vips=tuple(map(str, sa.cp.addresses)),
        remote_vips=tuple(str(lease.address) for lease in sa.cp.leases),
        dns=tuple(map(str, sa.cp.dns)),
        internal_subnets=tuple(map(str, sa.cp.subnets)),
    )


def child_sa_info(child: ChildSa) -> ChildSaInfo:
    """This Child SA as it stands."""
    params = child.params
    return ChildSaInfo(
        name=params.name,
        suite=params.suite.keyword,
        mode=params.mode,
        spi_in=params.spi_in,
        spi_out=params.spi_out,
        ts_local=tuple(str(ts) for ts in params.ts_local),
        ts_remote=tuple(str(ts) for ts in params.ts_remote),
        encap=params.encap is not None,
        installed_at=child.installed_at,
    )
