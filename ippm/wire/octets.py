"""What the codecs of Control messages share: exact lengths, and addresses in their 16-octet fields."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from ippm.errors import InvalidMessage, LocalProtocolError

Address = IPv4Address | IPv6Address


def exactly(data: bytes, octets: int, name: str) -> bytes:
    """`data` when it has `octets` octets. Raises InvalidMessage."""
    if len(data) != octets:
        raise InvalidMessage(f"{name} has {len(data)} octets, not {octets}")
    return bytes(data)


def fits(name: str, value: bytes, octets: int) -> bytes:
    """A field that our caller gives, when it has `octets` octets. Raises LocalProtocolError."""
    if len(value) != octets:
        raise LocalProtocolError(f"{name} has {len(value)} octets, not {octets}")
    return value


def pack_address(address: Address | None) -> bytes:
    """An address in 16 octets, an IPv4 one followed by zeros; None is all zeros. RFC 4656 section 3.5."""
    return bytes(16) if address is None else address.packed.ljust(16, b"\0")  # rfc4656-s3.5-02


def unpack_address(ipvn: int, field: bytes) -> Address | None:
    """The address in a 16-octet field, None when it is zero. Of an IPv4 one the last 12 octets are ignored.

    RFC 4656 section 3.5, RFC 5357 section 3.5.
    """
    octets = field if ipvn == 6 else field[:4]  # rfc4656-s3.5-03
    return ip_address(octets) if any(octets) else None
