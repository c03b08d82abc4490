"""Key material that does not show itself.

Every key that ikev2 holds is a `SecretOctets`: a name and octets, of which `repr()` prints the name and the
length only.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretOctets:
    """Octets that no repr, log line or `dataclasses.asdict` shows.

    `octets` is the value; `len()` its length in octets. Comparison takes constant time; the hash is made of the
    name and the length only, so that a frozen dataclass that holds one can be a key of a dict. Immutable.
    """

    __slots__ = ("name", "octets")

    name: str
    octets: bytes

    def __init__(self, name: str, octets: bytes) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "octets", bytes(octets))

    def __setattr__(self, attribute: str, value: object) -> NoReturn:
        raise AttributeError("SecretOctets cannot change")

    def __delattr__(self, attribute: str) -> NoReturn:
        raise AttributeError("SecretOctets cannot change")

    def __len__(self) -> int:
        return len(self.octets)

    def __bool__(self) -> bool:
        return bool(self.octets)

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self.octets)} octets>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretOctets):
            return NotImplemented
        return hmac.compare_digest(self.octets, other.octets)

    def __hash__(self) -> int:
        return hash((SecretOctets, len(self.octets)))

    # dataclasses.asdict and copy.deepcopy copy what they find: an immutable object is its own copy.
    def __copy__(self) -> SecretOctets:
        return self

    def __deepcopy__(self, memo: object) -> SecretOctets:
        return self

    def __reduce__(self) -> tuple[type[SecretOctets], tuple[str, bytes]]:
        return SecretOctets, (self.name, self.octets)


def octets_of(value: bytes | SecretOctets) -> bytes:
    """The octets of either form in which a function here takes a key."""
    return value.octets if isinstance(value, SecretOctets) else value
