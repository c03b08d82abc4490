"""Rules and routes of the host as data, and as the octets of `linux/fib_rules.h` and `linux/rtnetlink.h`.

Everything of ours is marked with a protocol number, and so found again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from ikev2.ipsec.xfrm.messages import encode_attribute

OUR_PROTOCOL = 0x49
"""The `proto` that `ip rule` and `ip route` show for what is ours (73)."""

AF_INET, AF_INET6 = 2, 10

_FR_ACT_TO_TBL = 1
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 1, 2, 3, 6, 10, 15, 16
_FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 21, 22, 23, 24
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_LAST_METRIC = 0xFFFFFFFF
_DEVICE_METRIC = 100

_FIB_RULE_HDR = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags."""
_RTMSG = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
_U32 = struct.Struct("=I").pack
_PORTS = struct.Struct("=HH").pack

IpNetwork = IPv4Network | IPv6Network
Ports = tuple[int, int]


ICMP_ERRORS: dict[int, tuple[int, tuple[Ports, ...]]] = {
    4: (1, ((0x0300, 0x04FF), (0x0B00, 0x0CFF))),
    6: (58, ((0x0100, 0x04FF),)),
}
"""By IP version: ICMP's protocol, and where its errors lie as `destination_ports`: the type times 256 plus the code.

The kernel keeps type and code of what it sends itself where it keeps the destination port of other protocols (union
flowi_uli of `include/net/flow.h`), so that a rule can tell errors from echoes; of what it forwards it keeps neither.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One `ip rule`; None in a field: any. Ports are first and last. `from_here`: only what this host sends itself."""

    priority: int
    table: int
    source: IpNetwork | None = None
    destination: IpNetwork | None = None
    ip_protocol: int | None = None
    source_ports: Ports | None = None
    destination_ports: Ports | None = None
    mark: int | None = None
    from_here: bool = False

    def encode(self) -> bytes:
        """struct fib_rule_hdr and its attributes, to add the rule and to delete it."""
        source, destination = self.source, self.destination
        octets = _FIB_RULE_HDR.pack(
            _family(source or destination),
            destination.prefixlen if destination is not None else 0,
            source.prefixlen if source is not None else 0,
            0,
            0,
            0,
            0,
            _FR_ACT_TO_TBL,
            0,
        )
        octets += encode_attribute(_FRA_PRIORITY, _U32(self.priority))
        octets += encode_attribute(_FRA_TABLE, _U32(self.table))
        octets += encode_attribute(_FRA_PROTOCOL, bytes((OUR_PROTOCOL,)))
        if source is not None:
            octets += encode_attribute(_FRA_SRC, source.network_address.packed)
        if destination is not None and destination.prefixlen:
            octets += encode_attribute(_FRA_DST, destination.network_address.packed)
        if self.ip_protocol is not None:
            octets += encode_attribute(_FRA_IP_PROTO, bytes((self.ip_protocol,)))
        if self.source_ports is not None:
            octets += encode_attribute(_FRA_SPORT_RANGE, _PORTS(*self.source_ports))
        if self.destination_ports is not None:
            octets += encode_attribute(_FRA_DPORT_RANGE, _PORTS(*self.destination_ports))
        if self.from_here:
            octets += encode_attribute(_FRA_IIFNAME, b"lo\0")
        if self.mark is not None:
            octets += encode_attribute(_FRA_FWMARK, _U32(self.mark))
            octets += encode_attribute(_FRA_FWMASK, _U32(0xFFFFFFFF))
        return octets


@dataclass(frozen=True, slots=True)
class Route:
    """One `ip route` in a table of ours: through the device (and a gateway), or unreachable when there is none.

    Every route through the device has an unreachable one behind it: when a crash takes the device away, what was to
    be protected is not sent in clear. RFC 4301 section 5.1.
    """

    destination: IpNetwork
    table: int
    device_index: int | None
    preferred_source: str | None = None
    gateway: str | None = None

    @property
    def place(self) -> tuple[IpNetwork, int, bool]:
        """What tells it from other routes in the kernel: another with the same place takes its place."""
        return self.destination, self.table, self.device_index is None

    def encode(self, *, deleting: bool = False) -> bytes:
        """struct rtmsg and its attributes; a deletion is of whatever route has the place."""
        unreachable, destination = self.device_index is None, self.destination
        scope = _SCOPE_UNIVERSE
        if deleting:
            scope = _SCOPE_NOWHERE
        elif not unreachable and self.gateway is None and destination.version == 4:
            scope = _SCOPE_LINK
        octets = _RTMSG.pack(
            _family(destination),
            destination.prefixlen,
            0,
            0,
            0,
            OUR_PROTOCOL,
            scope,
            _RTN_UNREACHABLE if unreachable else _RTN_UNICAST,
            0,
        )
        octets += encode_attribute(_RTA_TABLE, _U32(self.table))
        octets += encode_attribute(_RTA_PRIORITY, _U32(_LAST_METRIC if unreachable else _DEVICE_METRIC))
        octets += encode_attribute(_RTA_DST, destination.network_address.packed)
        if self.device_index is not None:
            octets += encode_attribute(_RTA_OIF, _U32(self.device_index))
            if self.gateway is not None and not deleting:
                octets += encode_attribute(_RTA_GATEWAY, ip_address(self.gateway).packed)
            if self.preferred_source is not None and not deleting:
                octets += encode_attribute(_RTA_PREFSRC, ip_address(self.preferred_source).packed)
        return octets


Wanted = Rule | Route


def _family(network: IpNetwork | None) -> int:
    return AF_INET6 if network is not None and network.version == 6 else AF_INET
