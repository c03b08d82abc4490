"""Groups 31 and 32: X25519 and X448.

RFC 8031, RFC 7748.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ikev2.crypto.entropy import Entropy
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import InvalidSyntax
from ikev2.iana import KeId, PayloadType

_Private = X25519PrivateKey | X448PrivateKey

_ROWS: dict[int, tuple[str, int, Callable[[bytes], _Private]]] = {
    31: ("curve25519", 32, X25519PrivateKey.from_private_bytes),
    32: ("curve448", 56, X448PrivateKey.from_private_bytes),
}


class MontgomeryGroup:
    """X25519 or X448; public values are used as they come, non-canonical ones too.

    RFC 8031 section 3.2.
    """

    __slots__ = ("_load_private", "id", "name", "public_octets")

    def __init__(self, number: int) -> None:
        self.id = KeId(number)
        self.name, self.public_octets, self._load_private = _ROWS[number]

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def generate(self, entropy: Entropy) -> MontgomeryPair:
        """A fresh key pair: the private key is `public_octets` octets of entropy."""
        return self.pair(entropy.octets(self.public_octets))

    def pair(self, private: bytes) -> MontgomeryPair:
        """The key pair of a given private key."""
        return MontgomeryPair(self, self._load_private(private))

    def check(self, public: bytes) -> None:
        """InvalidSyntax for another length; a point of small order shows in the exchange. RFC 8031 section 4."""
        if len(public) != self.public_octets:
            message = f"a {self.name} public value of {len(public)} octets"
            raise InvalidSyntax(message, payload=PayloadType.KE)

    def exchange(self, private: _Private, peer_public: bytes) -> bytes:
        """The function of RFC 7748 section 6; InvalidSyntax for a wrong length or an all-zero result."""
        self.check(peer_public)
        try:
            # RFC 7748 section 6.1, RFC 8031 section 4: the library refuses a point of small order (all-zero
            # output).
            if isinstance(private, X25519PrivateKey):
                return private.exchange(X25519PublicKey.from_public_bytes(peer_public))
            return private.exchange(X448PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise InvalidSyntax(f"a {self.name} public value of small order", payload=PayloadType.KE) from None


class MontgomeryPair:
    """One end's key pair of one exchange."""

    __slots__ = ("_group", "_key", "public")

    def __init__(self, group: MontgomeryGroup, key: _Private) -> None:
        self._group = group
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """The shared secret of this and the peer's public value."""
        return SecretOctets("g^ir", self._group.exchange(self._key, peer_public))
