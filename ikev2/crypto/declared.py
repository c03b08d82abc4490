"""MODP groups that an administrator declares: modulus, generator, length of the exponent, and a transform ID for them.

The ID is of the range for private use; the modulus is a safe prime, so that the checks of RFC 6989 section 2.1 hold for
it as for those of RFC 3526. A group stays declared for the life of the process, and its ID and keyword are its own.

RFC 7296 section 3.3.4.
"""

from __future__ import annotations

import re
import secrets

from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.keywords import KEYWORDS, learn
from ikev2.crypto.modp import EXPONENT_BITS, DeclaredModpGroup
from ikev2.errors import ConfigurationError
from ikev2.iana import TransformType
from ikev2.wire.payloads.sa import Transform

PRIVATE_USE = range(1024, 65536)
"""Transform IDs of type 4 that IANA leaves to private use."""
SHORTEST_BITS, LONGEST_BITS = 2048, 8192
SHORTEST_EXPONENT_BITS = 256
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ROUNDS = 8


def declare_modp_group(
    name: str, transform_id: int, prime: int, generator: int = 2, exponent_bits: int | None = None
) -> DeclaredModpGroup:
    """Make a group known under its keyword and its transform ID. ConfigurationError for one that will not do.

    `exponent_bits` None takes what RFC 3526 section 8 has for a modulus of that length. Declaring the same once more
    changes nothing.
    """
    bits = prime.bit_length()
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no keyword: it has letters, digits and _, and begins with a letter")
    if transform_id not in PRIVATE_USE:
        raise ConfigurationError(f"transform_id {transform_id} is not for private use: take one from 1024 to 65535")
    if not SHORTEST_BITS <= bits <= LONGEST_BITS:
        raise ConfigurationError(f"a modulus of {bits} bits: {SHORTEST_BITS} to {LONGEST_BITS} are accepted")
    if not 1 < generator < prime - 1:
        raise ConfigurationError("the generator has to lie between 1 and the modulus less one")
    if exponent_bits is None:
        exponent_bits = next(length for most, length in sorted(EXPONENT_BITS.items()) if bits <= most)
    if not SHORTEST_EXPONENT_BITS <= exponent_bits < bits:
        raise ConfigurationError(
            f"exponent_bits {exponent_bits}: has to be {SHORTEST_EXPONENT_BITS} at least and less than the modulus has"
        )
    group = DeclaredModpGroup(name, transform_id, prime, generator, exponent_bits)  # rfc7296-s3.3.4-03
    known = KE_GROUPS.get(group.id)
    if isinstance(known, DeclaredModpGroup) and known.parameters == group.parameters:
        return known
    if known is not None or name in KEYWORDS:
        taken = f"transform_id {transform_id}" if known is not None else f"{name!r}"
        raise ConfigurationError(
            f"{taken} is another group's already: a change needs a new ID and name, or a restart"
        )
    if not is_safe_prime(prime):
        raise ConfigurationError("the modulus is not a safe prime: both p and (p-1)/2 have to be prime")
    KE_GROUPS[group.id] = group
    learn(name, Transform.of(TransformType.KE, group.id))  # rfc7296-s3.3.4-04
    return group


def is_safe_prime(number: int) -> bool:
    """True when the number and half of it are prime, but for a chance that is none with numbers of this length."""
    return number % 4 == 3 and _is_prime(number) and _is_prime(number >> 1)


def _is_prime(number: int) -> bool:
    """Miller-Rabin with random bases, so that nobody can choose an odd number that passes."""
    if number < 9:
        return number in (3, 5, 7)
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for _ in range(_ROUNDS):
        base = secrets.randbelow(number - 3) + 2
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
