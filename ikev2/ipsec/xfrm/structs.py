"""The C structures of `linux/xfrm.h`, packed and unpacked: one frozen dataclass for each.

Every class has `SIZE` (octets in the kernel's ABI on a 64-bit machine), `encode()` and `parse()`. Integers are in
host order except where the header says `__be16` and `__be32`. A short buffer raises `struct.error`: the kernel is
the only peer here, and `kernel.py` turns that into a `BackendError`.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import ClassVar, Self

from ikev2.ipsec.xfrm.uapi import (
    ALL_ALGORITHMS,
    ANY_SPI,
    XFRM_INF,
    PolicyAction,
    PolicyDirection,
    SaFlag,
    SaMode,
    Xfrma,
)

AF_UNSPEC = 0
AF_INET = 2
AF_INET6 = 10

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_ADDRESS = bytes(16)


def family_of(address: IpAddress | IpNetwork) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def encode_address(address: IpAddress) -> bytes:
    """`xfrm_address_t`: 16 octets, an IPv4 address in the first four."""
    return address.packed.ljust(16, b"\0")


def parse_address(octets: bytes, family: int) -> IpAddress:
    """The reverse of `encode_address`; anything that is not AF_INET6 is read as IPv4."""
    if family == AF_INET6:
        return ipaddress.IPv6Address(octets)
    return ipaddress.IPv4Address(octets[:4])


def _parse_network(octets: bytes, prefix: int, family: int) -> IpNetwork:
    if family == AF_INET6:
        return ipaddress.IPv6Network((octets, min(prefix, 128)), strict=False)
    return ipaddress.IPv4Network((octets[:4], min(prefix, 32)), strict=False)


@dataclass(frozen=True, slots=True)
class Selector:
    """Which packets a policy, or an SA in transport mode, is about.

    ::

        struct xfrm_selector {              /* 56 octets */
            xfrm_address_t daddr, saddr;
            __be16 dport, dport_mask, sport, sport_mask;
            __u16  family;
            __u8   prefixlen_d, prefixlen_s, proto;
            int    ifindex;
            uid_t  user;
        };

    A port matches when `(port & mask) == (wanted & mask)`; mask 0 is any port. For ICMP the source port is the
    type and the destination port the code. `source` None is any address, of the family `any_family`.
    """

    source: IpNetwork | None = None
    destination: IpNetwork | None = None
    protocol: int = 0
    source_port: int = 0
    source_port_mask: int = 0
    destination_port: int = 0
    destination_port_mask: int = 0
    any_family: int = AF_UNSPEC
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    SIZE: ClassVar[int] = 56
    _HEAD: ClassVar[struct.Struct] = struct.Struct("!16s16sHHHH")
    _TAIL: ClassVar[struct.Struct] = struct.Struct("=HBBB3xiI")

    def __hash__(self) -> int:
        """Kept, because tables ask for it several times, and that of a network is dear."""
        if not self._hash:
            ends = (self.source, self.destination, self.protocol, self.source_port, self.destination_port)
            object.__setattr__(self, "_hash", hash(ends) or 1)
        return self._hash

    @property
    def family(self) -> int:
        return self.any_family if self.source is None else family_of(self.source)

    def encode(self) -> bytes:
        source, destination = self.source, self.destination
        head = self._HEAD.pack(
            NO_ADDRESS if destination is None else encode_address(destination.network_address),
            NO_ADDRESS if source is None else encode_address(source.network_address),
            self.destination_port,
            self.destination_port_mask,
            self.source_port,
            self.source_port_mask,
        )
        return head + self._TAIL.pack(
            self.family,
            0 if destination is None else destination.prefixlen,
            0 if source is None else source.prefixlen,
            self.protocol,
            0,
            0,
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        daddr, saddr, dport, dmask, sport, smask = cls._HEAD.unpack_from(data, offset)
        family, prefix_d, prefix_s, protocol, _, _ = cls._TAIL.unpack_from(data, offset + cls._HEAD.size)
        if family == AF_UNSPEC:
            return cls(None, None, protocol, sport, smask, dport, dmask)
        source = _parse_network(saddr, prefix_s, family)
        destination = _parse_network(daddr, prefix_d, family)
        return cls(source, destination, protocol, sport, smask, dport, dmask)


@dataclass(frozen=True, slots=True)
class LifetimeConfig:
    """Limits of an SA or policy: octets and packets, soft then hard; seconds, 0 for none.

    ::

        struct xfrm_lifetime_cfg {          /* 64 octets */
            __u64 soft_byte_limit, hard_byte_limit, soft_packet_limit, hard_packet_limit;
            __u64 soft_add_expires_seconds, hard_add_expires_seconds;
            __u64 soft_use_expires_seconds, hard_use_expires_seconds;
        };
    """

    soft_octets: int = XFRM_INF
    hard_octets: int = XFRM_INF
    soft_packets: int = XFRM_INF
    hard_packets: int = XFRM_INF
    soft_add_s: int = 0
    hard_add_s: int = 0
    soft_use_s: int = 0
    hard_use_s: int = 0

    SIZE: ClassVar[int] = 64
    _FORM: ClassVar[struct.Struct] = struct.Struct("=8Q")

    def encode(self) -> bytes:
        return self._FORM.pack(
            self.soft_octets,
            self.hard_octets,
            self.soft_packets,
            self.hard_packets,
            self.soft_add_s,
            self.hard_add_s,
            self.soft_use_s,
            self.hard_use_s,
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        return cls(*cls._FORM.unpack_from(data, offset))


@dataclass(frozen=True, slots=True)
class LifetimeCurrent:
    """What an SA has done so far; times are seconds since 1970 of the kernel's clock.

    ::

        struct xfrm_lifetime_cur { __u64 bytes, packets, add_time, use_time; };     /* 32 octets */
    """

    octets: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0

    SIZE: ClassVar[int] = 32
    _FORM: ClassVar[struct.Struct] = struct.Struct("=4Q")

    def encode(self) -> bytes:
        return self._FORM.pack(self.octets, self.packets, self.add_time, self.use_time)

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        return cls(*cls._FORM.unpack_from(data, offset))


@dataclass(frozen=True, slots=True)
class SaId:
    """Names one SA.

    ::

        struct xfrm_usersa_id {             /* 24 octets; the body of GETSA and DELSA */
            xfrm_address_t daddr;
            __be32 spi;
            __u16  family;
            __u8   proto;
        };
    """

    destination: IpAddress
    spi: int
    protocol: int = 50

    SIZE: ClassVar[int] = 24

    def encode(self) -> bytes:
        return (
            encode_address(self.destination)
            + struct.pack("!I", self.spi)
            + struct.pack("=HBx", family_of(self.destination), self.protocol)
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        (spi,) = struct.unpack_from("!I", data, offset + 16)
        family, protocol = struct.unpack_from("=HB", data, offset + 20)
        return cls(parse_address(data[offset : offset + 16], family), spi, protocol)


def encode_id(destination: IpAddress | None, spi: int, protocol: int) -> bytes:
    """`struct xfrm_id { xfrm_address_t daddr; __be32 spi; __u8 proto; }`: 24 octets."""
    octets = NO_ADDRESS if destination is None else encode_address(destination)
    return octets + struct.pack("!IB3x", spi, protocol)


@dataclass(frozen=True, slots=True)
class SaInfo:
    """The fixed part of an SA: body of NEWSA and UPDSA, and the answer to GETSA and ALLOCSPI.

    ::

        struct xfrm_usersa_info {           /* 224 octets */
            struct xfrm_selector     sel;
            struct xfrm_id           id;
            xfrm_address_t           saddr;
            struct xfrm_lifetime_cfg lft;
            struct xfrm_lifetime_cur curlft;
            struct xfrm_stats { __u32 replay_window, replay, integrity_failed; } stats;
            __u32 seq, reqid;
            __u16 family;
            __u8  mode, replay_window, flags;
        };
    """

    source: IpAddress
    destination: IpAddress
    spi: int
    reqid: int
    mode: SaMode
    protocol: int = 50
    flags: SaFlag = SaFlag(0)  # noqa: RUF009 (an IntFlag is immutable)
    replay_window: int = 0
    selector: Selector = field(default_factory=Selector)
    lifetime: LifetimeConfig = field(default_factory=LifetimeConfig)
    current: LifetimeCurrent = field(default_factory=LifetimeCurrent)
    late_packets: int = 0
    replayed_packets: int = 0
    integrity_failures: int = 0
    sequence: int = 0

    SIZE: ClassVar[int] = 224
    _STATS: ClassVar[struct.Struct] = struct.Struct("=IIIIIHBBB7x")

    @property
    def id(self) -> SaId:
        return SaId(self.destination, self.spi, self.protocol)

    def encode(self) -> bytes:
        return b"".join(
            (
                self.selector.encode(),
                encode_id(self.destination, self.spi, self.protocol),
                encode_address(self.source),
                self.lifetime.encode(),
                self.current.encode(),
                self._STATS.pack(
                    self.late_packets,
                    self.replayed_packets,
                    self.integrity_failures,
                    self.sequence,
                    self.reqid,
                    family_of(self.destination),
                    self.mode,
                    self.replay_window,
                    self.flags,
                ),
            )
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        late, replayed, failures, sequence, reqid, family, mode, window, flags = cls._STATS.unpack_from(
            data, offset + 192
        )
        spi, protocol = struct.unpack_from("!IB", data, offset + 72)
        return cls(
            source=parse_address(data[offset + 80 : offset + 96], family),
            destination=parse_address(data[offset + 56 : offset + 72], family),
            spi=spi,
            reqid=reqid,
            mode=_mode(mode),
            protocol=protocol,
            flags=SaFlag(flags),
            replay_window=window,
            selector=Selector.parse(data, offset),
            lifetime=LifetimeConfig.parse(data, offset + 96),
            current=LifetimeCurrent.parse(data, offset + 160),
            late_packets=late,
            replayed_packets=replayed,
            integrity_failures=failures,
            sequence=sequence,
        )


def _mode(value: int) -> SaMode:
    """BEET and the like, which are never ours, count as transport: no outer header of their own is told apart."""
    return SaMode.TUNNEL if value == SaMode.TUNNEL else SaMode.TRANSPORT


@dataclass(frozen=True, slots=True)
class Template:
    """Which SA a policy wants.

    ::

        struct xfrm_user_tmpl {             /* 64 octets */
            struct xfrm_id id;
            __u16          family;
            xfrm_address_t saddr;
            __u32          reqid;
            __u8           mode, share, optional;
            __u32          aalgos, ealgos, calgos;
        };
    """

    source: IpAddress
    destination: IpAddress
    reqid: int
    mode: SaMode
    spi: int = ANY_SPI
    protocol: int = 50
    optional: bool = False

    SIZE: ClassVar[int] = 64
    _TAIL: ClassVar[struct.Struct] = struct.Struct("=H2x16sIBBBxIII")

    def encode(self) -> bytes:
        return encode_id(self.destination, self.spi, self.protocol) + self._TAIL.pack(
            family_of(self.destination),
            encode_address(self.source),
            self.reqid,
            self.mode,
            0,
            self.optional,
            ALL_ALGORITHMS,
            ALL_ALGORITHMS,
            ALL_ALGORITHMS,
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        spi, protocol = struct.unpack_from("!IB", data, offset + 16)
        family, saddr, reqid, mode, _, optional, _, _, _ = cls._TAIL.unpack_from(data, offset + 24)
        return cls(
            source=parse_address(saddr, family),
            destination=parse_address(data[offset : offset + 16], family),
            reqid=reqid,
            mode=_mode(mode),
            spi=spi,
            protocol=protocol,
            optional=bool(optional),
        )


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """The fixed part of a policy: body of NEWPOLICY and UPDPOLICY, and the answer to GETPOLICY.

    ::

        struct xfrm_userpolicy_info {       /* 168 octets */
            struct xfrm_selector     sel;
            struct xfrm_lifetime_cfg lft;
            struct xfrm_lifetime_cur curlft;
            __u32 priority;                 /* the smallest number that matches decides */
            __u32 index;
            __u8  dir, action, flags, share;
        };
    """

    selector: Selector
    direction: PolicyDirection
    priority: int = 0
    action: PolicyAction = PolicyAction.ALLOW
    index: int = 0
    flags: int = 0
    lifetime: LifetimeConfig = field(default_factory=LifetimeConfig)
    current: LifetimeCurrent = field(default_factory=LifetimeCurrent)

    SIZE: ClassVar[int] = 168
    _TAIL: ClassVar[struct.Struct] = struct.Struct("=IIBBBB4x")

    def encode(self) -> bytes:
        return b"".join(
            (
                self.selector.encode(),
                self.lifetime.encode(),
                self.current.encode(),
                self._TAIL.pack(self.priority, self.index, self.direction, self.action, self.flags, 0),
            )
        )

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        priority, index, direction, action, flags, _ = cls._TAIL.unpack_from(data, offset + 152)
        return cls(
            selector=Selector.parse(data, offset),
            direction=PolicyDirection(direction),
            priority=priority,
            action=PolicyAction.BLOCK if action else PolicyAction.ALLOW,
            index=index,
            flags=flags,
            lifetime=LifetimeConfig.parse(data, offset + 56),
            current=LifetimeCurrent.parse(data, offset + 120),
        )


@dataclass(frozen=True, slots=True)
class PolicyId:
    """Names one policy by its selector and list.

    ::

        struct xfrm_userpolicy_id {         /* 64 octets; the body of GETPOLICY and DELPOLICY */
            struct xfrm_selector sel;
            __u32 index;
            __u8  dir;
        };

    One of an XFRM interface is named by that, too: the attribute XFRMA_IF_ID follows, `{ __u16 8, 31; __u32 if_id; }`.
    """

    selector: Selector
    direction: PolicyDirection
    index: int = 0
    if_id: int = 0

    SIZE: ClassVar[int] = 64
    _IF_ID: ClassVar[struct.Struct] = struct.Struct("=HHI")

    def encode(self) -> bytes:
        named = self.selector.encode() + struct.pack("=IB3x", self.index, self.direction)
        return named + self._IF_ID.pack(self._IF_ID.size, Xfrma.IF_ID, self.if_id) if self.if_id else named

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Self:
        index, direction = struct.unpack_from("=IB", data, offset + 56)
        if_id = 0
        if len(data) >= offset + cls.SIZE + cls._IF_ID.size:
            _, attribute, value = cls._IF_ID.unpack_from(data, offset + cls.SIZE)
            if_id = value if attribute == Xfrma.IF_ID else 0
        return cls(Selector.parse(data, offset), PolicyDirection(direction), index, if_id)
