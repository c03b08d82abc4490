"""Moving a pair to other outer addresses in the kernel, with its sequence numbers: XFRM_MSG_MIGRATE.

One request for each policy: the kernel gives its template other addresses, makes copies of the SAs that the template
leads to, and deletes the originals. No packet meets a policy without an SA, as it may while both are replaced by hand.
RFC 4555 section 3.5, RFC 7296 section 2.23.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.types import Mode
from ikev2.ipsec.xfrm.attributes import Encap
from ikev2.ipsec.xfrm.messages import Policy, encode_attribute
from ikev2.ipsec.xfrm.plan import ChildPlan
from ikev2.ipsec.xfrm.structs import IpAddress, PolicyId, encode_address, family_of, parse_address
from ikev2.ipsec.xfrm.uapi import PolicyDirection, SaMode, Xfrma


@dataclass(frozen=True, slots=True)
class Migration:
    """From which outer addresses to which the SAs and templates under a reqid move.

    ::

        struct xfrm_user_migrate {          /* 76 octets */
            xfrm_address_t old_daddr, old_saddr, new_daddr, new_saddr;
            __u8  proto, mode;
            __u16 reserved;
            __u32 reqid;
            __u16 old_family, new_family;
        };
    """

    old_source: IpAddress
    old_destination: IpAddress
    new_source: IpAddress
    new_destination: IpAddress
    reqid: int
    mode: SaMode
    protocol: int = 50

    SIZE: ClassVar[int] = 76

    def encode(self) -> bytes:
        families = family_of(self.old_destination), family_of(self.new_destination)
        addresses = (self.old_destination, self.old_source, self.new_destination, self.new_source)
        tail = struct.pack("=BB2xIHH", self.protocol, self.mode, self.reqid, *families)
        return b"".join(map(encode_address, addresses)) + tail

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        protocol, mode, reqid, old, new = struct.unpack_from("=BB2xIHH", data, offset + 64)
        parts = [data[offset + at : offset + at + 16] for at in (0, 16, 32, 48)]
        return cls(
            parse_address(parts[1], old),
            parse_address(parts[0], old),
            parse_address(parts[3], new),
            parse_address(parts[2], new),
            reqid,
            SaMode(mode),
            protocol,
        )


@dataclass(frozen=True, slots=True)
class MigrateRequest:
    """Move one policy and its SAs; `encap` are the UDP ports that they have then."""

    policy: PolicyId
    migration: Migration
    encap: Encap | None = None

    def encode(self) -> bytes:
        # The attribute XFRMA_IF_ID of the policy, if any, stands behind the fixed part already.
        body = self.policy.encode() + encode_attribute(Xfrma.MIGRATE, self.migration.encode())
        return body if self.encap is None else body + encode_attribute(Xfrma.ENCAP, self.encap.encode())


def can_migrate(old: ChildSaParameters, new: ChildSaParameters) -> bool:
    """Whether the kernel's way does for a move.

    Not in transport mode, whose selectors hold the addresses; nor out of UDP, which a copy keeps; nor from a device
    that does ESP, which a copy is not given to.
    """
    return old.mode is Mode.TUNNEL and (new.encap is not None or old.encap is None) and old.kernel == new.kernel


def migrate_requests(before: ChildPlan, after: ChildPlan) -> list[MigrateRequest]:
    """A request for each policy: what comes in first, so that the peer is not kept waiting."""
    return [_request(policy, before, after) for policy in before.policies]


def _request(policy: Policy, before: ChildPlan, after: ChildPlan) -> MigrateRequest:
    outbound = policy.info.direction is PolicyDirection.OUT
    old, new = (before.outbound, after.outbound) if outbound else (before.inbound, after.inbound)
    migration = Migration(
        old.info.source,
        old.info.destination,
        new.info.source,
        new.info.destination,
        old.info.reqid,
        old.info.mode,
    )
    return MigrateRequest(policy.id, migration, new.encap)
