"""A decoded message or packet, and how the fields of the wire's own classes become its fields.

What is malformed is found by writing each message anew from what was read of it: octets that come out otherwise are
MBZ octets that are not zero, or values that the field cannot have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeVar

from ippm.core.control_events import Endpoint
from ippm.errors import LocalProtocolError, ProtocolError
from ippm.iana import OWAMP_IKEV2_DERIVED, Accept, Mode, feature_words
from ippm.timestamps import DEFAULT_UTC_OFFSET_S, ErrorEstimate, ns_from_fixed_point, ntp_from_ptp, unix_ns_from_ntp

Fields = dict[str, object]
Message = TypeVar("Message")
HMAC_OCTETS = 16
STAMPS = frozenset({"start_time", "send_timestamp", "receive_timestamp", "timestamp", "sender_timestamp"})
DURATIONS = frozenset({"timeout", "parameter"})
ESTIMATES = frozenset({"error_estimate", "sender_error_estimate", "send_error", "receive_error"})


@dataclass(slots=True)
class Origin:
    """The connection or session that something belongs to: its protocol, which may come to be known later."""

    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One message of Control, one packet of Test, or a remark about octets that cannot be read.

    `offset` is where it begins in the octets of its direction (Control) and `octets` how long it is on the wire, HMACs
    counted. `hmac` says what became of its HMACs: None where it has none, or no key is known. `decrypted` is None where
    there was nothing to decrypt. `problems` say what is malformed, and where, each in a sentence. What depends on the
    protocol is added to `fields` and `problems` when that is known.
    """

    time_ns: int
    source: Endpoint
    destination: Endpoint
    origin: Origin
    channel: Literal["control", "test"]
    name: str
    octets: int
    offset: int = 0
    fields: Fields = field(default_factory=dict)
    decrypted: bool | None = None
    hmac: Literal["verified", "wrong"] | None = None
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "time_ns": self.time_ns,
            "source": place(self.source),
            "destination": place(self.destination),
            "protocol": self.origin.protocol,
            "channel": self.channel,
            "name": self.name,
            "offset": self.offset,
            "octets": self.octets,
            "decrypted": self.decrypted,
            "hmac": self.hmac,
            "problems": self.problems,
            "fields": self.fields,
        }


def place(endpoint: Endpoint) -> str:
    """ADDRESS:PORT, an IPv6 address in brackets."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# From the wire's classes to fields.


def fields_of(message: object, leave_out: Sequence[str] = ()) -> Fields:
    """The fields of one of `ippm.wire`'s dataclasses, by their names in the figures."""
    made: Fields = {}
    for one in dataclasses.fields(message):  # type: ignore[arg-type]
        if one.name in leave_out:
            continue
        value = getattr(message, one.name)
        if one.name in STAMPS:
            made |= stamp_fields(one.name, value)
        elif one.name in DURATIONS:
            made[f"{one.name}_ns"] = ns_from_fixed_point(value)
        elif one.name in ESTIMATES:
            made[one.name] = estimate_fields(value)
        else:
            made[one.name] = _plain(value)
    return made


def stamp_fields(name: str, value: int, *, ptp: bool = False) -> Fields:
    """A timestamp as it is, and as Unix time; None for one of all zeros. `ptp`: in the format of RFC 8186."""
    # How far TAI is ahead of UTC no packet says.
    stamp = ntp_from_ptp(value, DEFAULT_UTC_OFFSET_S) if ptp else value
    return {name: f"{value:016x}", f"{name}_unix_ns": unix_ns_from_ntp(stamp) if value else None}


def estimate_fields(value: int) -> Fields:
    """An Error Estimate of 16 bits. RFC 4656 section 4.1.2; Z is RFC 8186 section 2.3."""
    estimate = ErrorEstimate.from_int(value)
    return {
        "synchronized": estimate.synchronized,
        "format": "ptp" if estimate.z else "ntp",
        "scale": estimate.scale,
        "multiplier": estimate.multiplier,
        "error_ns": estimate.error_ns,
    }


def mode_words(bits: int, protocol: str | None) -> list[str]:
    """The bits of a Modes or Mode field by name; those that are not known by their value.

    RFC 4656 section 3.1, RFC 5357 section 3.1; RFC 7717 section 7 and RFC 7718 section 3.2.4 for IKEv2.
    """
    security = Mode.OPEN | Mode.AUTHENTICATED | Mode.ENCRYPTED
    names = {int(bit): bit.word for bit in Mode if bit & security}
    if protocol == "owamp":
        names[OWAMP_IKEV2_DERIVED] = "ikev2-derived"
    else:
        names[int(Mode.MIXED)] = Mode.MIXED.word
        names[int(Mode.IKEV2_DERIVED)] = "ikev2-derived"
        names |= {int(bit): feature_words(bit) for bit in Mode if bit.features}
    return [names.get(bit, f"bit {bit.bit_length() - 1}") for bit in _bits(bits)]


def _bits(value: int) -> Iterator[int]:
    return (1 << number for number in range(32) if value >> number & 1)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Accept):
        return int(value)
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    return value


# What is malformed.


def examine(
    octets: bytes, parse: Callable[[bytes], Message], encode: Callable[[Message], bytes], at: int = 0
) -> tuple[Message, list[str]] | tuple[None, list[str]]:
    """The message in these octets, None when there is none, and what is wrong with it.

    `at` is where the octets lie in their message.
    """
    try:
        message = parse(octets)
    except ProtocolError as error:
        return None, [str(error)]
    try:
        again = encode(message)
    except LocalProtocolError as error:
        return message, [str(error)]
    return message, differences(octets, again, at)


def differences(octets: bytes, again: bytes, at: int = 0) -> list[str]:
    """Where octets are not what they would be if written by us, in runs."""
    if octets == again:
        return []
    found = []
    start: int | None = None
    for index in range(len(octets) + 1):
        differs = index < len(octets) and (index >= len(again) or octets[index] != again[index])
        if differs and start is None:
            start = index
        elif not differs and start is not None:
            found.append(_run(octets[start:index], again[start:index], at + start))
            start = None
    return found


def not_zero(octets: bytes, at: int, what: str) -> list[str]:
    """A sentence when octets that must be zero are not: from the first to the last that is not."""
    left = len(octets) - len(octets.lstrip(b"\0"))
    run = octets.strip(b"\0")
    return [f"{_span(at + left, len(run))} not zero ({what}): {shown(run)}"] if run else []


def _run(octets: bytes, again: bytes, at: int) -> str:
    if not any(again):
        return f"{_span(at, len(octets))} not zero (MBZ): {shown(octets)}"
    return f"{_span(at, len(octets))} {shown(octets)} where {shown(again)} would be right"


def _span(at: int, octets: int) -> str:
    return f"octet {at} is" if octets == 1 else f"octets {at} to {at + octets - 1} are"


def shown(octets: bytes) -> str:
    """The first sixteen octets in hexadecimal."""
    return octets[:16].hex() + ("..." if len(octets) > 16 else "")
