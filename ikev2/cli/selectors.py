"""Traffic selectors and times as swanctl writes them: `dynamic`, `192.0.2.0/24[udp/862]`, `30s`.

RFC 7296 sections 2.9 and 3.13.1 (selectors).
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from ikev2.core.config import Dynamic
from ikev2.errors import ConfigurationError
from ikev2.iana import TsType
from ikev2.wire.payloads.ts import PROTOCOL_NAMES, TrafficSelector

if TYPE_CHECKING:
    from ikev2.core.config import TsSpec

_SELECTOR = re.compile(r"(?P<addresses>[^\[\]\s]+)\s*(?:\[(?P<protocol>[^/\[\]]*)(?:/(?P<ports>[^\[\]]*))?\])?")
_PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
_MOBILITY_HEADER = 135
_WITH_TYPES = (1, 58, _MOBILITY_HEADER)
"""ICMP, ICMPv6, and the Mobility Header of IPv6: their message type is in the upper octet of the port."""
_WITH_PORTS = (6, 17, 33, 132, 136, *_WITH_TYPES)
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d|)")
_LONGEST_S = 10 * 366 * 86400.0
_UNIT_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_selector(text: str) -> TsSpec:
    """A traffic selector, or `dynamic`. Raises ConfigurationError with what would be right."""
    match = _SELECTOR.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"{text!r} is not a traffic selector such as dynamic, 192.0.2.0/24 or 192.0.2.1[udp/862]"
        )
    protocol = _protocol(text, match["protocol"])
    start_port, end_port = _ports(text, match["ports"], protocol)
    if (start_port, end_port) != (0, 65535) and not protocol:
        # rfc7296-s3.13.1-01: without a protocol there are no ports.
        raise ConfigurationError(f"{text!r} has ports but no protocol: write [tcp/...] or [udp/...]")
    if (start_port, end_port) != (0, 65535) and protocol not in _WITH_PORTS:
        # rfc7296-s3.13.1-01, rfc7296-s3.13.1-02: where ports are not defined, there are none.
        raise ConfigurationError(f"{text!r} has ports, which {match['protocol']} does not have")
    if match["addresses"] == "dynamic":
        return Dynamic(protocol, start_port, end_port)
    first, last = _addresses(text, match["addresses"])
    kind = TsType.TS_IPV4_ADDR_RANGE if first.version == 4 else TsType.TS_IPV6_ADDR_RANGE
    return TrafficSelector(kind, protocol, start_port, end_port, first.packed, last.packed)


def _addresses(
    text: str, addresses: str
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ipaddress.IPv4Address | ipaddress.IPv6Address]:
    first, dash, last = addresses.partition("-")
    try:
        if not dash:
            network = ipaddress.ip_network(addresses)
            return network[0], network[-1]
        start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
    except ValueError as error:
        hint = ""
        if "host bits" in str(error):
            hint = f"; the network is {ipaddress.ip_network(addresses, strict=False)}"
        raise ConfigurationError(f"{text!r} is not an address, a network or a range of addresses{hint}") from None
    if start.version != end.version or start.packed > end.packed:
        raise ConfigurationError(f"{text!r} is a range that ends before it begins")
    return start, end


def _protocol(text: str, word: str | None) -> int:
    if not word or word in ("any", "0"):
        return 0
    if word in _PROTOCOL_NUMBERS:
        return _PROTOCOL_NUMBERS[word]
    if word.isdecimal() and int(word) < 256:
        return int(word)
    raise ConfigurationError(f"{text!r}: {word!r} is not a protocol such as tcp, udp or 47")


def _ports(text: str, word: str | None, protocol: int) -> tuple[int, int]:
    """The range of ports. Where the field holds a type (and for ICMP a code), a number below 256 is a type with any
    code, a greater one is type and code. RFC 7296 section 3.13.1.
    """
    if not word or word == "any":
        return 0, 65535
    if word == "opaque":
        return 65535, 0
    first, dash, last = word.partition("-")
    try:
        start, end = int(first), int(last if dash else first)
    except ValueError:
        raise ConfigurationError(f"{text!r}: {word!r} is not a port or a range of ports") from None
    if not 0 <= start <= end <= 65535:
        raise ConfigurationError(f"{text!r}: {word!r} is not a range of ports between 0 and 65535")
    if protocol in _WITH_TYPES:
        codes = 0 if protocol == _MOBILITY_HEADER else 0xFF
        start, end = start << 8 if start < 256 else start, end << 8 | codes if end < 256 else end
        if start > end:
            raise ConfigurationError(f"{text!r}: {word!r} is a range of types that ends before it begins")
    return start, end


def parse_duration(value: float | str) -> float:
    """Seconds from a number or `500ms`, `30s`, `5m`, `1h`, `1d`. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigurationError("a time is a number of seconds or a text such as 30s, 5m, 1h")
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ConfigurationError(f"{value!r} is not a time such as 30s, 5m, 1h")
    seconds = float(match["number"]) * _UNIT_S[match["unit"]]
    if seconds > _LONGEST_S:
        raise ConfigurationError(f"a time of {seconds:.0f} s is longer than ten years")
    return seconds
