"""Configuration payload. RFC 7296 section 3.15."""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ClassVar, Self

from ikev2.iana import CpAttributeType, CpType, PayloadType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

ATTRIBUTE_RESERVED_BIT = 0x8000

ATTRIBUTE_OCTETS: dict[int, tuple[int, ...]] = {
    CpAttributeType.INTERNAL_IP4_ADDRESS: (0, 4),
    CpAttributeType.INTERNAL_IP4_NETMASK: (0, 4),
    CpAttributeType.INTERNAL_IP4_DNS: (0, 4),
    CpAttributeType.INTERNAL_IP4_NBNS: (0, 4),
    CpAttributeType.INTERNAL_IP4_DHCP: (0, 4),
    CpAttributeType.INTERNAL_IP6_ADDRESS: (0, 17),
    CpAttributeType.INTERNAL_IP6_DNS: (0, 16),
    CpAttributeType.INTERNAL_IP6_DHCP: (0, 16),
    CpAttributeType.INTERNAL_IP4_SUBNET: (0, 8),
    CpAttributeType.INTERNAL_IP6_SUBNET: (0, 17),
}
"""Lengths by attribute type, from the table of section 3.15.1.

The table gives INTERNAL_IP6_SUBNET no empty form, though "multiple sub-networks MAY be requested"; it is read here
as its IPv4 sibling.
"""

ADDRESS_OCTETS: dict[int, int] = {
    number: 16 if "IP6" in CpAttributeType(number).name else 4 for number in ATTRIBUTE_OCTETS
}
"""The octets of the address with which a value begins."""

WITH_PREFIX_LENGTH = frozenset({CpAttributeType.INTERNAL_IP6_ADDRESS, CpAttributeType.INTERNAL_IP6_SUBNET})


@dataclass(frozen=True, slots=True)
class CpAttribute:
    """One configuration attribute. RFC 7296 section 3.15.1."""

    type: CpAttributeType
    value: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", CpAttributeType(self.type))

    @classmethod
    def of_address(
        cls, attribute_type: CpAttributeType, address: IPv4Address | IPv6Address, prefix_length: int | None = None
    ) -> Self:
        """An attribute that holds an address, with its prefix length for the two IPv6 types that have one."""
        prefix = b"" if prefix_length is None else prefix_length.to_bytes(1, "big")
        return cls(attribute_type, address.packed + prefix)

    @classmethod
    def of_network(cls, network: IPv4Network | IPv6Network) -> Self:
        """INTERNAL_IP4_SUBNET (an address and a netmask) or INTERNAL_IP6_SUBNET (an address and a prefix length)."""
        if isinstance(network, IPv4Network):
            return cls(CpAttributeType.INTERNAL_IP4_SUBNET, network.network_address.packed + network.netmask.packed)
        return cls.of_address(CpAttributeType.INTERNAL_IP6_SUBNET, network.network_address, network.prefixlen)

    @classmethod
    def of_supported(cls, types: Iterable[CpAttributeType]) -> Self:
        """The SUPPORTED_ATTRIBUTES of a reply."""
        return cls(CpAttributeType.SUPPORTED_ATTRIBUTES, b"".join(kind.to_bytes(2, "big") for kind in types))

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address at the start of the value; None where the type has none or the value is empty."""
        octets = ADDRESS_OCTETS.get(self.type)
        if octets is None or len(self.value) < octets:
            return None
        return ipaddress.ip_address(self.value[:octets])

    @property
    def prefix_length(self) -> int | None:
        """The prefix length of an INTERNAL_IP6_ADDRESS or INTERNAL_IP6_SUBNET that has a value, else None."""
        return self.value[16] if self.type in WITH_PREFIX_LENGTH and len(self.value) == 17 else None

    @property
    def network(self) -> IPv4Network | IPv6Network | None:
        """The sub-network of an INTERNAL_IP4_SUBNET or INTERNAL_IP6_SUBNET that has a value, else None.

        Host bits are cleared; None also for a netmask with holes, which no prefix can say.
        """
        if self.type == CpAttributeType.INTERNAL_IP4_SUBNET and len(self.value) == 8:
            mask = int.from_bytes(self.value[4:], "big")
            holes = ~mask & 0xFFFFFFFF
            if holes & (holes + 1):
                return None
            return IPv4Network((self.value[:4], mask.bit_count()), strict=False)
        if self.type == CpAttributeType.INTERNAL_IP6_SUBNET and self.prefix_length is not None:
            return IPv6Network((self.value[:16], min(self.prefix_length, 128)), strict=False)
        return None

    @property
    def supported(self) -> tuple[CpAttributeType, ...]:
        """The attribute types that a SUPPORTED_ATTRIBUTES lists; empty for other types."""
        if self.type != CpAttributeType.SUPPORTED_ATTRIBUTES:
            return ()
        pairs = range(0, len(self.value) - 1, 2)
        return tuple(CpAttributeType(int.from_bytes(self.value[at : at + 2], "big")) for at in pairs)

    @property
    def problem(self) -> str | None:
        """What is wrong with its value, or None."""
        allowed = ATTRIBUTE_OCTETS.get(self.type)
        if allowed is not None and len(self.value) not in allowed:
            return f"{self.type} of {len(self.value)} octets"
        if self.type == CpAttributeType.SUPPORTED_ATTRIBUTES and len(self.value) % 2:
            return f"{self.type} of {len(self.value)} octets"
        prefix_length = self.prefix_length
        if prefix_length is not None and prefix_length > 128:
            return f"{self.type} with a prefix length of {prefix_length}"
        return None


@dataclass(frozen=True, slots=True)
class Cp(PlainPayload):
    """A configuration request, reply, set or acknowledgement. RFC 7296 section 3.15."""

    payload_type: ClassVar[PayloadType] = PayloadType.CP
    cp_type: CpType
    attributes: tuple[CpAttribute, ...] = ()

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the body at the cursor."""
        cp_type = CpType(cursor.uint8())
        cursor.skip(3)  # rfc7296-s3.15-02
        attributes = []
        while cursor.remaining:
            attribute_type = cursor.uint16() & ~ATTRIBUTE_RESERVED_BIT  # rfc7296-s3.15.1-02
            attributes.append(CpAttribute(CpAttributeType(attribute_type), cursor.octets(cursor.uint16())))
        return cls(cp_type, tuple(attributes))

    def encode_body(self) -> bytes:
        """Type, RESERVED, attributes."""
        # rfc7296-s3.15-01, rfc7296-s3.15.1-01
        return (
            self.cp_type.to_bytes(1, "big")
            + bytes(3)
            + b"".join(
                struct.pack("!HH", attribute.type & ~ATTRIBUTE_RESERVED_BIT, len(attribute.value)) + attribute.value
                for attribute in self.attributes
            )
        )

    def problem(self, *, sending: bool) -> str | None:
        """The attributes have the lengths of the table, and a request holds what a request may hold."""
        types = Counter(attribute.type for attribute in self.attributes)
        is_request = self.cp_type == CpType.CFG_REQUEST
        for attribute in self.attributes:
            if (found := attribute.problem) is not None:
                return found
            # rfc7296-s3.15.1-05
            if is_request and attribute.type == CpAttributeType.SUPPORTED_ATTRIBUTES and attribute.value:
                return f"a {attribute.type} with a value in a request"
            # rfc7296-s3.15.1-04
            if (
                sending
                and is_request
                and attribute.type == CpAttributeType.INTERNAL_IP4_NETMASK
                and attribute.value
            ):
                return f"a {attribute.type} with a value in a request"
        # rfc7296-s3.15.1-03
        netmasks = types[CpAttributeType.INTERNAL_IP4_NETMASK]
        if sending and netmasks and (netmasks > 1 or not types[CpAttributeType.INTERNAL_IP4_ADDRESS]):
            return f"{netmasks} INTERNAL_IP4_NETMASK to {types[CpAttributeType.INTERNAL_IP4_ADDRESS]} addresses"
        return None
