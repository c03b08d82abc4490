"""Group 27, brainpoolP224r1, in plain integers, because cryptography does not have this curve.

NOT CONSTANT TIME: Python's integers are not, so somebody who measures precisely how long we take may learn of a
private exponent; each one is used for one exchange only, and the sequence of additions does not depend on it. For peers
that have nothing better; prefer groups 19 and 31.

RFC 5639 section 3.3, RFC 6954, RFC 6989 section 2.3. The addition is algorithm 1 of Renes, Costello and Batina,
"Complete addition formulas for prime order elliptic curves" (EUROCRYPT 2016): it has no exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ikev2.crypto.entropy import Entropy
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import InvalidSyntax
from ikev2.iana import KeId, PayloadType

Point: TypeAlias = tuple[int, int, int]
"""X, Y, Z: the affine point (X/Z, Y/Z), or the point at infinity with Z = 0."""

_INFINITY: Point = (0, 1, 0)
# FIPS 186-5 appendix A.2.1: 64 bits more than the order has make the bias of the reduction negligible.
_EXTRA_OCTETS = 8


@dataclass(frozen=True, slots=True)
class Curve:
    """y^2 = x^3 + a*x + b over the field of the prime p; `order` is the prime order of its generator (x, y)."""

    p: int
    a: int
    b: int
    x: int
    y: int
    order: int

    def has(self, x: int, y: int) -> bool:
        """True for a point of the curve in its only form: both coordinates below p. RFC 6989 section 2.3."""
        return x < self.p and y < self.p and (y * y - (x * x * x + self.a * x + self.b)) % self.p == 0

    def add(self, one: Point, other: Point) -> Point:
        """The sum of any two points, of equal ones and of the point at infinity, too."""
        p, a, b3 = self.p, self.a, 3 * self.b
        x1, y1, z1 = one
        x2, y2, z2 = other
        t0, t1, t2 = x1 * x2 % p, y1 * y2 % p, z1 * z2 % p
        t3 = ((x1 + y1) * (x2 + y2) - t0 - t1) % p
        t4 = ((x1 + z1) * (x2 + z2) - t0 - t2) % p
        t5 = ((y1 + z1) * (y2 + z2) - t1 - t2) % p
        z = (a * t4 + b3 * t2) % p
        x, z = t1 - z, t1 + z
        w = (3 * t0 + a * t2) % p
        v = (b3 * t4 + a * (t0 - a * t2)) % p
        return (t3 * x - t5 * v) % p, (x * z + w * v) % p, (t5 * z + t3 * w) % p

    def multiply(self, scalar: int, x: int, y: int) -> tuple[int, int]:
        """`scalar` times the point (x, y), 0 < scalar < order: a double and an addition for each bit of the order."""
        none, some = _INFINITY, (x, y, 1)
        for bit in range(self.order.bit_length() - 1, -1, -1):
            both = self.add(none, some)
            if scalar >> bit & 1:
                none, some = both, self.add(some, some)
            else:
                none, some = self.add(none, none), both
        inverse = pow(none[2], -1, self.p)
        return none[0] * inverse % self.p, none[1] * inverse % self.p


BRAINPOOL_P224R1 = Curve(
    p=0xD7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF,
    a=0x68A5E62CA9CE6C1C299803A6C1530B514E182AD8B0042A59CAD29F43,
    b=0x2580F63CCFE44138870713B1A92369E33E2135D266DBB372386C400B,
    x=0x0D9029AD2C7E5CF4340823B2A87DC68C9E4CE3174C1E6EFDEE12C07D,
    y=0x58AA56F772C0726F24C6B89E4ECDAC24354B9E99CAA3F6D3761402CD,
    order=0xD7C134AA264366862A18302575D0FB98D116BC4B6DDEBCA3A5A7939F,
)
"""RFC 5639 section 3.3."""


class PlainEcpGroup:
    """Group 27, or (in tests) another number for another curve."""

    __slots__ = ("_coordinate_octets", "curve", "id", "name", "public_octets")

    def __init__(
        self, number: int = KeId.BRAINPOOL_P224R1, name: str = "ecp224bp", curve: Curve = BRAINPOOL_P224R1
    ) -> None:
        self.id = KeId(number)
        self.name = name
        self.curve = curve
        self._coordinate_octets = (curve.p.bit_length() + 7) // 8
        self.public_octets = 2 * self._coordinate_octets

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def generate(self, entropy: Entropy) -> PlainEcpPair:
        """A fresh key pair, of eight octets of entropy more than the order of the group has."""
        order = self.curve.order
        candidate = int.from_bytes(entropy.octets((order.bit_length() + 7) // 8 + _EXTRA_OCTETS), "big")
        return self.pair(candidate % (order - 1) + 1)

    def pair(self, private: int) -> PlainEcpPair:
        """The key pair of a given private key, 0 < private < order."""
        return PlainEcpPair(self, private)

    def check(self, public: bytes) -> None:
        """InvalidSyntax for what is no point of the curve."""
        self.point(public)

    def octets(self, coordinate: int) -> bytes:
        """A coordinate, with zeros in front: rfc6954-s2.3-01."""
        return coordinate.to_bytes(self._coordinate_octets, "big")

    def point(self, public: bytes) -> tuple[int, int]:
        """The peer's point; InvalidSyntax for what is none of the curve."""
        # rfc6954-s2.3-02
        if len(public) != self.public_octets:
            raise InvalidSyntax(f"a {self.name} public value of {len(public)} octets", payload=PayloadType.KE)
        x = int.from_bytes(public[: self._coordinate_octets], "big")
        y = int.from_bytes(public[self._coordinate_octets :], "big")
        # rfc6989-s2.3-01, rfc6954-s3-01
        if not self.curve.has(x, y):
            raise InvalidSyntax(f"a public value that is not on {self.name}", payload=PayloadType.KE)
        return x, y


class PlainEcpPair:
    """One end's key pair of one exchange."""

    __slots__ = ("_group", "_private", "public")

    def __init__(self, group: PlainEcpGroup, private: int) -> None:
        self._group = group
        self._private = private
        x, y = group.curve.multiply(private, group.curve.x, group.curve.y)
        # rfc6954-s2.3-02: x | y.
        self.public = group.octets(x) + group.octets(y)

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """The x coordinate of the shared point. RFC 6954 section 2.3."""
        x, _ = self._group.curve.multiply(self._private, *self._group.point(peer_public))
        # rfc6954-s2.3-03, rfc6954-s2.3-04
        return SecretOctets("g^ir", self._group.octets(x))
