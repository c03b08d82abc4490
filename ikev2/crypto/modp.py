"""Groups 14 to 18, and those that an administrator declares: MODP groups.

They are by cryptography where it has finite-field Diffie-Hellman, else by `pow()`.

cryptography has announced that finite-field Diffie-Hellman will go. `pow()` is NOT CONSTANT TIME: with it,
somebody who measures precisely how long we take may learn of a private exponent; each one is used for one
exchange only. Prefer groups 19 and 31.

RFC 3526, RFC 6989 section 2.1, RFC 7296 section 3.4.
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

from cryptography.exceptions import UnsupportedAlgorithm

from ikev2.crypto.entropy import Entropy
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import InvalidSyntax
from ikev2.iana import KeId, PayloadType

_dh: ModuleType | None
try:
    from cryptography.hazmat.primitives.asymmetric import dh as _dh_module
except ImportError:  # the announced removal
    _dh = None
else:
    _dh = _dh_module

# Said once, in the documentation of this module.
warnings.filterwarnings("ignore", message="Diffie-Hellman over finite fields", module=r"ikev2\.crypto\.modp")

GENERATOR = 2

# Number: bits of the prime, the constant of its definition, and bits of the exponent: the larger estimate of RFC
# 3526 section 8.
_ROWS = {
    14: (2048, 124476, 320),
    15: (3072, 1690314, 420),
    16: (4096, 240904, 480),
    17: (6144, 929484, 540),
    18: (8192, 4743158, 620),
}


EXPONENT_BITS = {bits: exponent_bits for bits, _, exponent_bits in _ROWS.values()}
"""Bits of the exponent for a prime of that many bits."""


def _inverse_tangent(inverse: int, one: int) -> int:
    """`one` times the arc tangent of 1/inverse."""
    power = one // inverse
    total, square, divisor, sign = power, inverse * inverse, 1, 1
    while power:
        power //= square
        divisor += 2
        sign = -sign
        total += sign * (power // divisor)
    return total


def _pi(bits: int) -> int:
    """Pi times 2^bits, rounded down. Machin's formula, with 64 bits to spare."""
    one = 1 << (bits + 64)
    return (16 * _inverse_tangent(5, one) - 4 * _inverse_tangent(239, one)) >> 64


@cache
def prime(number: int) -> int:
    """The prime of the group: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + c). RFC 3526."""
    bits, constant, _ = _ROWS[number]
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((_pi(bits - 130) + constant) << 64)


class ModpGroup:
    """A MODP group of RFC 3526: generator 2, safe prime."""

    __slots__ = ("_exponent_octets", "id", "name", "public_octets")

    def __init__(self, number: int) -> None:
        bits, _, exponent_bits = _ROWS[number]
        self.id = KeId(number)
        self.name = f"modp{bits}"
        self.public_octets = bits // 8
        self._exponent_octets = (exponent_bits + 7) // 8

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def prime(self) -> int:
        """The prime modulus."""
        return prime(self.id)

    @property
    def generator(self) -> int:
        """The generator."""
        return GENERATOR

    def generate(self, entropy: Entropy) -> ModpPair:
        """A fresh key pair, its exponent (of 320 to 620 bits for those of RFC 3526) with the highest bit set."""
        octets = entropy.octets(self._exponent_octets)
        return self.pair(int.from_bytes(octets, "big") | 1 << (8 * self._exponent_octets - 1))

    def pair(self, private: int) -> ModpPair:
        """The key pair of a given exponent."""
        return ModpPair(self, private)

    def check(self, public: bytes) -> None:
        """InvalidSyntax for what is no public value of the group."""
        self.public_number(public)

    def public_number(self, public: bytes) -> int:
        """The number that the Key Exchange Data holds; InvalidSyntax when it is no public value."""
        # rfc7296-s3.4-01: exactly as long as the prime.
        if len(public) != self.public_octets:
            message = f"a {self.name} public value of {len(public)} octets"
            raise InvalidSyntax(message, payload=PayloadType.KE)
        number = int.from_bytes(public, "big")
        # rfc6989-s2.1-01: 1 < r < p-1.
        if not 1 < number < self.prime - 1:
            raise InvalidSyntax(f"a {self.name} public value out of range", payload=PayloadType.KE)
        return number


class DeclaredModpGroup(ModpGroup):
    """A MODP group with a safe prime of somebody's own. RFC 7296 section 3.3.4."""

    __slots__ = ("_generator", "_prime")

    def __init__(self, name: str, number: int, prime: int, generator: int, exponent_bits: int) -> None:
        self.id = KeId(number)
        self.name = name
        self.public_octets = (prime.bit_length() + 7) // 8
        self._exponent_octets = (exponent_bits + 7) // 8
        self._prime, self._generator = prime, generator

    @property
    def prime(self) -> int:
        """The prime modulus."""
        return self._prime

    @property
    def generator(self) -> int:
        """The generator."""
        return self._generator

    @property
    def parameters(self) -> tuple[str, int, int, int]:
        """What makes it this group and no other: keyword, modulus, generator, octets of the exponent."""
        return self.name, self._prime, self._generator, self._exponent_octets


class ModpPair:
    """One end's key pair of one exchange."""

    __slots__ = ("_group", "_key", "_private", "public")

    def __init__(self, group: ModpGroup, private: int) -> None:
        self._group = group
        self._private = private
        self._key = _library_key(group, private)
        # rfc7296-s3.4-01: zeros in front, up to the length of the prime.
        self.public = self._power(group.generator)

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """The shared secret of this and the peer's public value, as long as the prime. RFC 7296 section 2.14."""
        return SecretOctets("g^ir", self._power(self._group.public_number(peer_public)))

    def _power(self, base: int) -> bytes:
        """base^private mod p, zeros in front."""
        group = self._group
        if self._key is not None and _dh is not None:
            numbers = _dh.DHParameterNumbers(group.prime, group.generator)
            try:
                power: bytes = self._key.exchange(_dh.DHPublicNumbers(base, numbers).public_key())
                return power.rjust(group.public_octets, b"\x00")  # rfc7296-s3.4-01
            except ValueError:  # a library that refuses what RFC 3526 allows
                self._key = None
        return pow(base, self._private, group.prime).to_bytes(group.public_octets, "big")


def _library_key(group: ModpGroup, private: int):  # type: ignore[no-untyped-def]  # the class may be gone
    """The library's key object of an exponent, or None when the library has no finite-field Diffie-Hellman."""
    if _dh is None:
        return None
    try:
        numbers = _dh.DHParameterNumbers(group.prime, group.generator)
        # The library wants a public value beside the exponent and does not look at it in an exchange; the true
        # one is then the exchange with the generator, which spares a pow() of our own.
        return _dh.DHPrivateNumbers(private, _dh.DHPublicNumbers(4, numbers)).private_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
