"""X.500 distinguished names: from a line of text to DER, back again, and one against another.

The text is strongSwan's: `C=CH, O=Example, CN=a.example`, or `/C=CH/O=Example/CN=a.example`. Values become
PrintableString where that has all their characters, else UTF8String; e-mail addresses and domain components IA5String
(RFC 5280 appendix A). RFC 7296 section 3.5 (ID_DER_ASN1_DN).
"""

from __future__ import annotations

import string
from typing import NamedTuple

from ikev2.errors import InvalidSyntax

SEQUENCE, SET, OID, UTF8, PRINTABLE, IA5 = 0x30, 0x31, 0x06, 0x0C, 0x13, 0x16
_TEXT_TAGS = {UTF8: "utf-8", PRINTABLE: "ascii", IA5: "ascii"}
_PRINTABLE = frozenset(string.ascii_letters + string.digits + " '()+,-./:=?")
_EMAIL = "1.2.840.113549.1.9.1"
_IA5 = (_EMAIL, "0.9.2342.19200300.100.1.25")

_TYPES = {
    "CN": "2.5.4.3",
    "S": "2.5.4.4",
    "SN": "2.5.4.5",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "T": "2.5.4.12",
    "D": "2.5.4.13",
    "N": "2.5.4.41",
    "G": "2.5.4.42",
    "I": "2.5.4.43",
    "dnQualifier": "2.5.4.46",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "E": _EMAIL,
    "Email": _EMAIL,
    "emailAddress": _EMAIL,
}
"""The short names of attribute types that strongSwan reads, too; the first one of a type is printed."""

_TYPE_OF = {name.lower(): dotted for name, dotted in _TYPES.items()}
_NAME_OF = {dotted: name for name, dotted in reversed(_TYPES.items())}


class Rdn(NamedTuple):
    """One attribute of a name. `set_start` is True for the first one of its relative distinguished name."""

    oid: bytes
    tag: int
    value: bytes
    set_start: bool


def wrap(tag: int, content: bytes) -> bytes:
    """A DER element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def unwrap(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag and the content of the element at the start, and what follows it. InvalidSyntax when it is cut off."""
    if len(data) < 2:
        raise InvalidSyntax("a DER element is cut off")
    length, at = data[1], 2
    if length & 0x80:
        octets = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + octets], "big"), 2 + octets
        if not 1 <= octets <= 4 or len(data) < at or length < 0x80 or data[2] == 0:
            raise InvalidSyntax("the length of a DER element is not DER")
    if len(data) < at + length:
        raise InvalidSyntax("a DER element is cut off")
    return data[0], data[at : at + length], data[at + length :]


def encode_oid(dotted: str) -> bytes:
    """The content of an OBJECT IDENTIFIER."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = b""
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(groups))
    return encoded


_NAME_OF_OID = {encode_oid(dotted): name for dotted, name in _NAME_OF.items()}
_EMAIL_OID = encode_oid(_EMAIL)


def read(der: bytes) -> list[Rdn]:
    """The attributes of a name in DER. InvalidSyntax when it is none."""
    tag, sets, rest = unwrap(der)
    if tag != SEQUENCE or rest:
        raise InvalidSyntax("a distinguished name is one SEQUENCE")
    found = []
    while sets:
        tag, attributes, sets = unwrap(sets)
        if tag != SET or not attributes:
            raise InvalidSyntax("a relative distinguished name is a SET of attributes")
        first = True
        while attributes:
            tag, attribute, attributes = unwrap(attributes)
            kind, oid, value = unwrap(attribute)
            if tag != SEQUENCE or kind != OID:
                raise InvalidSyntax("an attribute of a name is a type and a value")
            value_tag, octets, rest = unwrap(value)
            if rest:
                raise InvalidSyntax("an attribute of a name has one value")
            found.append(Rdn(oid, value_tag, octets, first))
            first = False
    return found


def from_text(text: str) -> bytes:
    """The DER of a name in text. ValueError, in words, when it is none."""
    separator = "/" if text.startswith("/") else ","
    parts = [part.strip() for part in text.removeprefix("/").split(separator)]
    encoded = b""
    for part in parts:
        name, equals, value = part.partition("=")
        dotted = _TYPE_OF.get(name.strip().lower())
        if not equals or dotted is None:
            raise ValueError(f"{part!r} is not an attribute such as CN=a.example ({', '.join(_TYPES)} are known)")
        value = value.strip()
        tag = PRINTABLE if _PRINTABLE.issuperset(value) or value == "*" else UTF8
        if dotted in _IA5:
            if not value.isascii():
                raise ValueError(f"{part!r} has to be ASCII")
            tag = IA5
        octets = value.encode("utf-8", "surrogatepass")
        encoded += wrap(SET, wrap(SEQUENCE, wrap(OID, encode_oid(dotted)) + wrap(tag, octets)))
    return wrap(SEQUENCE, encoded)


def to_text(der: bytes) -> str | None:
    """The text that `from_text` makes these octets of, None when there is none."""
    try:
        parts = []
        for rdn in read(der):
            value = rdn.value.decode(_TEXT_TAGS[rdn.tag])
            parts.append(f"{_NAME_OF_OID[rdn.oid]}={value}")
        text = ", ".join(parts)
        return text if text.isprintable() and from_text(text) == der else None
    except (InvalidSyntax, KeyError, ValueError):
        return None


def wildcards(pattern: bytes, der: bytes) -> int | None:
    """How many attributes of the pattern match by their value `*` alone; None when the name does not match.

    Attribute by attribute in order, as strongSwan's strict matching: PrintableString and e-mail addresses without
    case, everything else octet for octet.
    """
    if pattern == der:
        return 0
    try:
        wanted, given = read(pattern), read(der)
    except InvalidSyntax:
        return None
    if len(wanted) != len(given):
        return None
    count = 0
    for one, other in zip(wanted, given, strict=True):
        if (one.oid, one.set_start) != (other.oid, other.set_start):
            return None
        if one.value == b"*":
            count += 1
        elif not _same_value(one, other):
            return None
    return count


def _same_value(one: Rdn, other: Rdn) -> bool:
    if one.tag == other.tag and (one.tag == PRINTABLE or (one.tag == IA5 and one.oid == _EMAIL_OID)):
        return one.value.lower() == other.value.lower()
    return one.value == other.value
