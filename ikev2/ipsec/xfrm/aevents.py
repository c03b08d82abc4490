"""What the kernel tells of the sequence numbers of an SA, and how it is asked to: XFRM_MSG_NEWAE.

Used for one thing: a pair on standby is sent on from the first authentic packet that comes on it, and only the kernel
sees that packet. RFC 7296 section 2.8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import ClassVar, Self

from ikev2.ipsec.xfrm.messages import encode_thresholds
from ikev2.ipsec.xfrm.structs import NO_ADDRESS, SaId


class AeFlag(IntFlag):
    """`XFRM_AE_*`: what a message holds, and why it was sent."""

    REPLAY_THRESHOLD = 1
    REPLAY_VALUE = 2
    LIFETIME_VALUE = 4
    EXPIRY_THRESHOLD = 8
    CAUSE_REPLAY = 16
    CAUSE_EXPIRY = 32
    CAUSE_UPDATE = 64


@dataclass(frozen=True, slots=True)
class ReplayNotice:
    """The sequence number of an SA has moved on.

    ::

        struct xfrm_aevent_id {             /* 48 octets */
            struct xfrm_usersa_id sa_id;
            xfrm_address_t saddr;
            __u32 flags, reqid;
        };
    """

    id: SaId
    flags: AeFlag

    SIZE: ClassVar[int] = 48

    @classmethod
    def parse(cls, body: bytes) -> Self:
        (flags,) = struct.unpack_from("=I", body, SaId.SIZE + 16)
        return cls(SaId.parse(body), AeFlag(flags))


@dataclass(frozen=True, slots=True)
class NoticeRequest:
    """Tell of this SA after so many packets, 0 for never more."""

    id: SaId
    packets: int

    def encode(self) -> bytes:
        flags = AeFlag.REPLAY_THRESHOLD | AeFlag.EXPIRY_THRESHOLD
        return self.id.encode() + NO_ADDRESS + struct.pack("=II", flags, 0) + encode_thresholds(self.packets)
