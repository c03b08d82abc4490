"""Key exchange methods (transform type 4).

The private key is made of the injected entropy, so that a handshake can be replayed; it is used for one exchange
only and never given out. Public values are checked as RFC 6989 asks; a bad one is InvalidSyntax.

RFC 7296 section 3.4, RFC 3526, RFC 5903, RFC 6954, RFC 6989, RFC 8031.
"""

from __future__ import annotations

from typing import Protocol

from ikev2.crypto.ecp import EcpGroup
from ikev2.crypto.entropy import Entropy
from ikev2.crypto.modp import ModpGroup
from ikev2.crypto.montgomery import MontgomeryGroup
from ikev2.crypto.plain_ecp import PlainEcpGroup
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.iana import KeId

__all__ = ["KE_GROUPS", "KeGroup", "KePair", "ke_group"]


class KePair(Protocol):
    """One end's key pair of one exchange."""

    @property
    def public(self) -> bytes:
        """The Key Exchange Data of our KE payload."""
        ...

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """g^ir, of the peer's Key Exchange Data; InvalidSyntax when that is no valid public value of the group."""
        ...


class KeGroup(Protocol):
    """A key exchange group: its number, strongSwan's keyword as `name`, and the length of its public values."""

    @property
    def id(self) -> KeId:
        """The transform ID."""
        ...

    @property
    def name(self) -> str:
        """The keyword in proposals: `modp2048`, `ecp256`, `curve25519`."""
        ...

    @property
    def public_octets(self) -> int:
        """The exact length of a public value in octets."""
        ...

    def check(self, public: bytes) -> None:
        """The checks of a public value that cost little; InvalidSyntax. RFC 6989 section 2."""
        ...

    def generate(self, entropy: Entropy) -> KePair:
        """A fresh key pair."""
        ...


_GROUPS: tuple[KeGroup, ...] = (
    *(ModpGroup(number) for number in (14, 15, 16, 17, 18)),
    *(EcpGroup(number) for number in (19, 20, 21)),
    PlainEcpGroup(),
    *(EcpGroup(number) for number in (28, 29, 30)),
    *(MontgomeryGroup(number) for number in (31, 32)),
)

KE_GROUPS: dict[KeId, KeGroup] = {group.id: group for group in _GROUPS}
"""The implemented groups by number."""


def ke_group(group_id: int) -> KeGroup:
    """The group of this number; UnknownAlgorithm when it is not implemented."""
    found = KE_GROUPS.get(KeId(group_id))
    if found is None:
        raise UnknownAlgorithm(f"key exchange group {group_id} is not implemented")
    return found
