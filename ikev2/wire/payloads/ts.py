"""Traffic Selector payloads, TSi and TSr. RFC 7296 section 3.13."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ClassVar, Self

from ikev2.errors import LocalProtocolError
from ikev2.iana import PayloadType, TsType
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

SELECTOR_HEADER_OCTETS = 4
SELECTOR_HEADER = struct.Struct("!BBH")
"""TS Type, IP Protocol ID, Selector Length. Figure 20."""
SELECTOR_PORTS = struct.Struct("!HH")
"""Start Port, End Port. Figure 20."""
MAX_PORT = 65535
ADDRESS_OCTETS = {TsType.TS_IPV4_ADDR_RANGE: 4, TsType.TS_IPV6_ADDR_RANGE: 16}

PROTOCOL_NAMES = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    89: "ospf",
    132: "sctp",
    135: "mobility-header",
    136: "udplite",
}


@value(frozen=True, slots=True)
class TrafficSelector:
    """One range of addresses, ports and a protocol (0: any).

    Types 7 and 8 use all fields, addresses as 4 or 16 octets. A selector of another type is octets: `ip_protocol` is
    its second octet and `start_address` all that follows its length; the other fields are zero and empty.

    RFC 7296 section 3.13.1.
    """

    ts_type: TsType
    ip_protocol: int
    start_port: int
    end_port: int
    start_address: bytes
    end_address: bytes

    @classmethod
    def from_network(
        cls,
        ip_network: IPv4Network | IPv6Network | str,
        ip_protocol: int = 0,
        start_port: int = 0,
        end_port: int = MAX_PORT,
    ) -> Self:
        """All addresses of a network (or of its text form, `192.0.2.0/24`).

        Errors: LocalProtocolError for a range of ports without a protocol, or one that runs backwards.
        """
        if type(ip_network) is str:
            first, last = _network(ip_network)
        else:
            network = ipaddress.ip_network(ip_network)
            first, last = network[0].packed, network[-1].packed
        # rfc7296-s3.13.1-01, rfc7296-s3.13.1-02, rfc7296-s3.13.1-03
        if ip_protocol == 0 and (start_port, end_port) != (0, MAX_PORT):
            raise LocalProtocolError(f"ports {start_port}-{end_port} need a protocol")
        if start_port > end_port and (start_port, end_port) != (MAX_PORT, 0):
            raise LocalProtocolError(f"ports {start_port}-{end_port} run backwards")
        ts_type = TsType.TS_IPV4_ADDR_RANGE if len(first) == 4 else TsType.TS_IPV6_ADDR_RANGE
        return cls(ts_type, ip_protocol, start_port, end_port, first, last)

    @property
    def is_address_range(self) -> bool:
        """True for the types whose fields are addresses and ports; only those can be narrowed or matched."""
        return self.ts_type in ADDRESS_OCTETS

    @property
    def start_ip(self) -> IPv4Address | IPv6Address:
        """The first address. Errors: ValueError for a type that has none."""
        return ipaddress.ip_address(self.start_address)

    @property
    def end_ip(self) -> IPv4Address | IPv6Address:
        """The last address. Errors: ValueError for a type that has none."""
        return ipaddress.ip_address(self.end_address)

    @property
    def is_opaque(self) -> bool:
        """True when the ports are OPAQUE: start 65535, end 0. RFC 7296 section 3.13.1."""
        return self.start_port == MAX_PORT and self.end_port == 0

    @property
    def any_port(self) -> bool:
        """True when all ports are in the range."""
        return self.start_port == 0 and self.end_port == MAX_PORT

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read one selector at the cursor."""
        start = cursor.position
        number, ip_protocol, length = cursor.unpack(SELECTOR_HEADER)
        ts_type = TsType.of(number)
        if length < SELECTOR_HEADER_OCTETS:
            raise cursor.error(f"a traffic selector of {length} octets", at=start + 2)
        inner = cursor.part(length - SELECTOR_HEADER_OCTETS)
        octets = ADDRESS_OCTETS.get(ts_type)
        if octets is None:
            return cls(ts_type, ip_protocol, 0, 0, inner.rest(), b"")
        start_port, end_port = inner.unpack(SELECTOR_PORTS)
        selector = cls(ts_type, ip_protocol, start_port, end_port, inner.octets(octets), inner.octets(octets))
        inner.expect_end()
        return selector

    def encode(self) -> bytes:
        """The selector's octets."""
        ports = SELECTOR_PORTS.pack(self.start_port, self.end_port) if self.is_address_range else b""
        rest = ports + self.start_address + self.end_address
        return SELECTOR_HEADER.pack(self.ts_type, self.ip_protocol, SELECTOR_HEADER_OCTETS + len(rest)) + rest

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None: addresses of the type's length, ranges that begin before they end.

        Ports for protocol 0, which the RFC forbids the sender, are no problem here: there are peers that mean "this
        port of any protocol", and what they offered has to be answered in kind.
        """
        octets = ADDRESS_OCTETS.get(self.ts_type)
        if octets is None:
            return None
        if len(self.start_address) != octets or len(self.end_address) != octets:
            return f"{self.ts_type} with addresses that are not of {octets} octets"
        if self.start_address > self.end_address:
            return f"a range of addresses from {self.start_ip} to {self.end_ip}"
        # rfc7296-s3.13.1-04: OPAQUE is the one range that runs backwards
        if self.start_port > self.end_port and not self.is_opaque:
            return f"a range of ports from {self.start_port} to {self.end_port}"
        return None

    def __str__(self) -> str:
        if not self.is_address_range:
            return f"{self.ts_type}({(bytes([self.ip_protocol]) + self.start_address).hex()})"
        try:
            addresses = _addresses(self.start_address, self.end_address)
        except ValueError:
            return f"{self.ts_type}({self.start_address.hex()}-{self.end_address.hex()})"
        return addresses + self._upper_layer()

    def _upper_layer(self) -> str:
        if self.ip_protocol == 0 and self.any_port:
            return ""
        protocol = PROTOCOL_NAMES.get(self.ip_protocol, str(self.ip_protocol)) if self.ip_protocol else ""
        if self.any_port:
            return f"[{protocol}]"
        if self.is_opaque:
            return f"[{protocol}/OPAQUE]"
        if self.ip_protocol in (1, 58):
            return f"[{protocol}/{_icmp(self.start_port, self.end_port)}]"
        if self.start_port == self.end_port:
            return f"[{protocol}/{self.start_port}]"
        return f"[{protocol}/{self.start_port}-{self.end_port}]"


@lru_cache(256)
def _network(text: str) -> tuple[bytes, bytes]:
    """The first and the last address of a network: every handshake asks for the same few."""
    network = ipaddress.ip_network(text)
    return network[0].packed, network[-1].packed


@lru_cache(256)
def _addresses(start: bytes, end: bytes) -> str:
    """A network's text where the range is one, else `first..last`. Errors: ValueError."""
    first, last = ipaddress.ip_address(start), ipaddress.ip_address(end)
    span = int(last) - int(first) + 1
    if span > 0 and span & (span - 1) == 0 and int(first) % span == 0:
        return f"{first}/{first.max_prefixlen - (span.bit_length() - 1)}"
    return f"{first}..{last}"


def _icmp(start: int, end: int) -> str:
    """Type and code, which share the port field: type in the upper octet."""

    def one(port: int) -> str:
        return f"{port >> 8}" + (f"({port & 0xFF})" if port & 0xFF else "")

    if start == end or (start & 0xFF == 0 and end == start | 0xFF):
        return one(start)
    return f"{one(start)}-{one(end)}"


@dataclass(frozen=True, slots=True)
class Ts(PlainPayload):
    """Traffic selectors of one side: a packet matches when it matches at least one. RFC 7296 section 3.13."""

    selectors: tuple[TrafficSelector, ...]

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        count = cursor.uint8()
        cursor.skip(3)  # rfc7296-s3.13-02
        return cls(tuple(TrafficSelector.read(cursor) for _ in range(count)))

    def encode_body(self) -> bytes:
        """Number of TSs, RESERVED, selectors."""
        # rfc7296-s3.13-01
        return (
            len(self.selectors).to_bytes(1, "big")
            + bytes(3)
            + b"".join(selector.encode() for selector in self.selectors)
        )

    def problem(self, *, sending: bool) -> str | None:
        """One selector at least, each of them sound."""
        if not self.selectors:
            return "no traffic selector"
        return next((found for selector in self.selectors if (found := selector.problem)), None)


@value(frozen=True, slots=True)
class TsI(Ts):
    """The selectors of the initiator's side. RFC 7296 section 3.13."""

    payload_type: ClassVar[PayloadType] = PayloadType.TSi


@value(frozen=True, slots=True)
class TsR(Ts):
    """The selectors of the responder's side. RFC 7296 section 3.13."""

    payload_type: ClassVar[PayloadType] = PayloadType.TSr
