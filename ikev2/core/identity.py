"""Identities: what the ID payloads carry, how a person writes it, and what a configuration accepts of a peer.

The text is strongSwan's. Without a prefix: an IP address, a name with `=` (a distinguished name), `@name` (FQDN),
`@@user@name`, `user@name` (mail address), `@#HEX` (opaque octets), else an FQDN. With one, what follows it is the text,
or `#` and the octets in hex: `ipv4:`, `ipv6:`, `fqdn:`, `dns:`, `email:`, `rfc822:`, `userfqdn:`, `asn1dn:`, `asn1gn:`,
`xmppaddr:`, `keyid:`, `{TYPE}:`. A pattern is `*.example.org`, `*@example.org`, a network or a range of addresses (also
`ipv4net:`, `ipv4range:`, `ipv6net:`, `ipv6range:`), or a distinguished name with `*` for a value. `%any` is anybody.

What strongSwan would take for opaque octets because it makes no sense of it is refused here: write `keyid:`.

RFC 7296 section 3.5.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ikev2.core import distinguished_name as dn
from ikev2.errors import ConfigurationError, InvalidSyntax
from ikev2.iana import IdType
from ikev2.value import value
from ikev2.wire.payloads import IdI

EXACT = 1000
ANYBODY = 1
_WILDCARD = 300
"""How well something matches: the more specific, the more. A suffix or a range is worth its length, too."""

_TEXT_TYPES = (IdType.ID_FQDN, IdType.ID_RFC822_ADDR)
_ADDRESS_TYPES = {
    4: IdType.ID_IPV4_ADDR,
    6: IdType.ID_IPV6_ADDR,  # rfc7296-s3.5-08
}
_ANY_WORDS = frozenset(("%any", "%any6", "*", "0.0.0.0", "::", "0::0"))
_PLAIN_NAME = re.compile(r"[a-z0-9_-]*[a-z_][a-z0-9_-]*(\.[a-z0-9_-]+)*", re.IGNORECASE)
_XMPP_ADDRESS = "1.3.6.1.5.5.7.8.5"
_GENERAL_NAME_TAGS = (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)
"""Of the alternatives of a GeneralName: RFC 5280 section 4.2.1.6."""

_PREFIXES = {
    "ipv4": IdType.ID_IPV4_ADDR,
    "ipv6": IdType.ID_IPV6_ADDR,
    "rfc822": IdType.ID_RFC822_ADDR,
    "email": IdType.ID_RFC822_ADDR,
    "userfqdn": IdType.ID_RFC822_ADDR,
    "fqdn": IdType.ID_FQDN,
    "dns": IdType.ID_FQDN,
    "asn1dn": IdType.ID_DER_ASN1_DN,
    "asn1gn": IdType.ID_DER_ASN1_GN,
    "xmppaddr": IdType.ID_DER_ASN1_GN,
    "keyid": IdType.ID_KEY_ID,  # rfc7296-s3.5-05, rfc7296-s3.5-06, rfc7296-s3.5-07, rfc7296-s4-10b, rfc7296-s3.5-10
}
_RANGE_PREFIXES = {"ipv4net": 4, "ipv4range": 4, "ipv6net": 6, "ipv6range": 6}
_PREFIX = re.compile(r"(?P<word>[a-z0-9]+|\{\d{1,3}\}):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


@value(frozen=True, slots=True)
class Identity:
    """An identity as the ID payloads carry it. RFC 7296 section 3.5."""

    id_type: IdType
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read one identity; ConfigurationError when it is none, a pattern, or nothing that an ID payload may hold."""
        found = parse_peer(text)
        if not isinstance(found, Identity):
            raise ConfigurationError(f"identity {text!r} stands for many: one is wanted here, such as a.example")
        return found

    @classmethod
    def of_address(cls, host: str) -> Identity:
        """The identity that an IP address is."""
        address = ipaddress.ip_address(host.partition("%")[0])
        return cls(_ADDRESS_TYPES[address.version], address.packed)

    @property
    def key(self) -> tuple[int, bytes]:
        """The same for names and mail addresses that differ in case only, and for the same octets."""
        return self.id_type, self.data.lower() if self.id_type in _TEXT_TYPES else self.data

    def quality(self, other: Identity) -> int:
        """EXACT when `other` is this identity, else 0; names and mail addresses compare without case."""
        if self.id_type != other.id_type:
            return 0
        if self.id_type in _TEXT_TYPES:
            return EXACT * (self.data.lower() == other.data.lower())
        if self.id_type == IdType.ID_DER_ASN1_DN:
            same = b"*" not in self.data and dn.wildcards(self.data, other.data) == 0
            return EXACT * (same or self.data == other.data)
        return EXACT * (self.data == other.data)

    def matches(self, other: Identity) -> bool:
        """True when `other` is this identity."""
        return self.quality(other) > 0

    def __str__(self) -> str:
        """The text that `parse` makes this identity of, in characters that cannot steer a terminal."""
        text = self._plain_text()
        if text is None:
            return f"{_name_of(self.id_type)}:#{self.data.hex()}"
        return text

    def _plain_text(self) -> str | None:
        if self.id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR):
            if len(self.data) != (4 if self.id_type == IdType.ID_IPV4_ADDR else 16):
                return None
            text = str(ipaddress.ip_address(self.data))
            return text if text not in _ANY_WORDS else None
        if self.id_type == IdType.ID_DER_ASN1_DN:
            text = dn.to_text(self.data) or ""
        elif self.id_type in (*_TEXT_TYPES, IdType.ID_KEY_ID):
            text = self.data.decode("utf-8", "replace")
            if self.id_type == IdType.ID_FQDN and _PLAIN_NAME.fullmatch(text):
                return text
        else:
            return None
        return next((one for one in (text, f"{_name_of(self.id_type)}:{text}") if self._is_read_from(one)), None)

    def _is_read_from(self, text: str) -> bool:
        if not text.isprintable():
            return False
        try:
            return parse_peer(text) == self
        except ConfigurationError:
            return False


def _name_of(id_type: IdType) -> str:
    names = (word for word, one in _PREFIXES.items() if one == id_type and word not in ("rfc822", "xmppaddr"))
    return next(names, f"{{{int(id_type)}}}")


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """Many identities: all that end in some way, all addresses of a range, all names of a form.

    `first` and `last` are the range for addresses; else `first` is the end of the name, or the DER of a name in which
    the value `*` stands for any, and `last` is empty.
    """

    id_type: IdType
    first: bytes
    last: bytes
    text: str

    def quality(self, other: Identity) -> int:
        """How well an identity matches, 0 for not at all: the more that is said of it, the better."""
        if self.id_type != other.id_type:
            return 0
        if self.id_type == IdType.ID_DER_ASN1_DN:
            count = dn.wildcards(self.first, other.data)
            return 0 if count is None else max(_WILDCARD, EXACT - 10 * count)
        if self.id_type in _TEXT_TYPES:
            fits = len(other.data) > len(self.first) and other.data.lower().endswith(self.first.lower())
            return (_WILDCARD + min(len(self.first), 255)) * fits
        if len(other.data) != len(self.first) or not self.first <= other.data <= self.last:
            return 0
        span = int.from_bytes(self.last, "big") - int.from_bytes(self.first, "big")
        return _WILDCARD + 128 - span.bit_length()

    def matches(self, other: Identity) -> bool:
        """True when `other` is one of them."""
        return self.quality(other) > 0

    def __str__(self) -> str:
        return self.text


PeerIdentity = Identity | IdentityPattern
"""What a configuration accepts of a peer; None, where it may be, is anybody."""


def quality(accepted: PeerIdentity | None, identity: Identity) -> int:
    """How well an identity is what is accepted: 0 not at all, ANYBODY, up to EXACT."""
    return ANYBODY if accepted is None else accepted.quality(identity)


def may_be_one(one: PeerIdentity | None, other: PeerIdentity | None) -> bool:
    """True when the two may stand for the same identity."""
    if isinstance(one, Identity) and other is not None:
        return other.matches(one)
    if isinstance(other, Identity) and one is not None:
        return one.matches(other)
    return True


def parse_peer(text: str) -> PeerIdentity | None:
    """Read what a configuration accepts: one identity, a pattern, or None for anybody. ConfigurationError."""
    if not text:
        raise ConfigurationError("an identity is empty: write an address, a name, user@name or keyid:NAME")
    if text in _ANY_WORDS:
        return None
    match = _PREFIX.fullmatch(text)
    if match is not None:
        found = _with_prefix(text, match["word"].lower(), match["rest"])
        if found is not None:
            return found
    if "=" in text:
        return _named(text, IdType.ID_DER_ASN1_DN, text)
    if text.startswith("@#"):
        return Identity(IdType.ID_KEY_ID, _hex(text, text[2:]))
    if text.startswith("@@"):
        return _named(text, IdType.ID_RFC822_ADDR, text[2:])
    if text.startswith("@"):
        return _named(text, IdType.ID_FQDN, text[1:])
    if "@" in text:
        return _named(text, IdType.ID_RFC822_ADDR, text)  # rfc7296-s3.5-09
    address = _addresses(text)
    if address is not None:
        return address
    if ":" in text:
        raise ConfigurationError(
            f"identity {text!r} is no IPv6 address, and no prefix is known: write keyid:{text}?"
        )
    return _named(text, IdType.ID_FQDN, text)


def _with_prefix(text: str, word: str, rest: str) -> PeerIdentity | None:
    """What follows a prefix of ours; None when the word is none."""
    if word in _RANGE_PREFIXES:
        pattern = _addresses(rest)
        if pattern is None or pattern.id_type != _ADDRESS_TYPES[_RANGE_PREFIXES[word]]:
            raise ConfigurationError(f"identity {text!r}: {rest!r} is no network or range of IPv{word[3]}")
        return pattern
    if word.startswith("{"):
        number = int(word[1:-1])
        if not 0 < number < 256:
            raise ConfigurationError(f"identity {text!r}: a type is a number from 1 to 255")
        octets = _hex(text, rest[1:]) if rest.startswith("#") else rest.encode("utf-8", "surrogatepass")
        return _checked(text, Identity(IdType(number), octets))
    id_type = _PREFIXES.get(word)
    if id_type is None:
        return None
    if word == "xmppaddr":
        name = dn.wrap(dn.UTF8, rest.encode("utf-8", "surrogatepass"))
        content = dn.wrap(dn.OID, dn.encode_oid(_XMPP_ADDRESS)) + dn.wrap(0xA0, name)
        return Identity(id_type, dn.wrap(0xA0, content))
    if rest.startswith("#"):
        return _checked(text, Identity(id_type, _hex(text, rest[1:])))
    if id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR):
        try:
            address = ipaddress.ip_address(rest)
        except ValueError:
            address = None
        if address is None or _ADDRESS_TYPES[address.version] != id_type:
            raise ConfigurationError(f"identity {text!r}: {rest!r} is no address of {word}")
        return Identity(id_type, address.packed)
    return _named(text, id_type, rest)


def _named(text: str, id_type: IdType, name: str) -> PeerIdentity:
    """A name of some type, or a pattern of such names."""
    if not name:
        raise ConfigurationError(f"identity {text!r}: the name is empty")
    if id_type == IdType.ID_DER_ASN1_DN:
        try:
            der = dn.from_text(name)
        except ValueError as error:
            raise ConfigurationError(f"identity {text!r}: {error}; octets of any kind are keyid:{text}") from None
        if any(rdn.value == b"*" for rdn in dn.read(der)):
            return IdentityPattern(id_type, der, b"", text)
        return Identity(id_type, der)
    if id_type == IdType.ID_DER_ASN1_GN:
        raise ConfigurationError(f"identity {text!r}: a GeneralName is given as asn1gn:# and its DER in hex")
    if id_type in _TEXT_TYPES and name.startswith("*"):
        _checked(text, Identity(id_type, name.encode("utf-8", "surrogatepass")))
        if "*" in name[1:] or len(name) == 1:
            raise ConfigurationError(f"identity {text!r}: one * at the start of a longer name is a pattern")
        return IdentityPattern(id_type, name[1:].encode("utf-8"), b"", text)
    return _checked(text, Identity(id_type, name.encode("utf-8", "surrogatepass")))


def _checked(text: str, identity: Identity) -> Identity:
    """The identity, when an ID payload may hold it. ConfigurationError in one line."""
    # rfc7296-s3.5-03, rfc7296-s3.5-04
    complaint = IdI(identity.id_type, identity.data).problem(sending=True)
    if complaint is None and identity.id_type == IdType.ID_DER_ASN1_DN:
        complaint = _der_complaint(identity.data)
    if complaint is None and identity.id_type == IdType.ID_DER_ASN1_GN:
        complaint = _general_name_complaint(identity.data)
    if complaint is not None:
        raise ConfigurationError(f"identity {text!r}: {complaint}; octets of any kind are keyid:#HEX")
    return identity


def _der_complaint(data: bytes) -> str | None:
    try:
        dn.read(data)
    except InvalidSyntax as error:
        return str(error)
    return None


def _general_name_complaint(data: bytes) -> str | None:
    try:
        tag, _, rest = dn.unwrap(data)
    except InvalidSyntax as error:
        return str(error)
    return None if tag in _GENERAL_NAME_TAGS and not rest else "that is not the DER of one GeneralName"


def _hex(text: str, digits: str) -> bytes:
    try:
        octets = bytes.fromhex(digits)
    except ValueError:
        octets = b""
    if not octets:
        raise ConfigurationError(f"identity {text!r}: what follows # must be octets in hex")
    return octets


def _addresses(text: str) -> PeerIdentity | None:
    """One address, a network or a range; None when it is none of these."""
    first, dash, last = text.partition("-")
    try:
        if dash:
            ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
        elif "/" in text:
            network = ipaddress.ip_network(text, strict=False)
            ends = network[0], network[-1]
        else:
            return Identity.of_address(text) if "%" not in text else None
    except ValueError:
        return None
    if ends[0].version != ends[1].version or ends[0].packed > ends[1].packed:
        raise ConfigurationError(f"identity {text!r} is a range that ends before it begins")
    return IdentityPattern(_ADDRESS_TYPES[ends[0].version], ends[0].packed, ends[1].packed, text)
