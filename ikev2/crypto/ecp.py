"""Groups 19, 20 and 21: ECP groups, public values x | y, shared secret x.

RFC 5903, RFC 6989 section 2.3.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ikev2.crypto.entropy import Entropy
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import InvalidSyntax
from ikev2.iana import KeId, PayloadType

_UNCOMPRESSED = b"\x04"
# FIPS 186-5 appendix A.2.1: 64 bits more than the order has make the bias of the reduction negligible.
_EXTRA_OCTETS = 8

_ROWS: dict[int, tuple[str, ec.EllipticCurve, int]] = {
    19: (
        "ecp256",
        ec.SECP256R1(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    20: (
        "ecp384",
        ec.SECP384R1(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    21: (
        "ecp521",
        ec.SECP521R1(),
        (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
    ),
}


class EcpGroup:
    """A random ECP group of RFC 5903."""

    __slots__ = ("_curve", "_order", "_scalar_octets", "id", "name", "public_octets")

    def __init__(self, number: int) -> None:
        self.id = KeId(number)
        self.name, self._curve, self._order = _ROWS[number]
        self._scalar_octets = (self._order.bit_length() + 7) // 8 + _EXTRA_OCTETS
        self.public_octets = 2 * ((self._curve.key_size + 7) // 8)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def generate(self, entropy: Entropy) -> EcpPair:
        """A fresh key pair, of eight octets of entropy more than the order of the group has."""
        candidate = int.from_bytes(entropy.octets(self._scalar_octets), "big")
        return self.pair(candidate % (self._order - 1) + 1)

    def pair(self, private: int) -> EcpPair:
        """The key pair of a given private key, 0 < private < order."""
        return EcpPair(self, ec.derive_private_key(private, self._curve))

    def exchange(self, private: ec.EllipticCurvePrivateKey, peer_public: bytes) -> bytes:
        """The x coordinate of the shared point; InvalidSyntax for what is no point of the curve."""
        if len(peer_public) != self.public_octets:
            message = f"a {self.name} public value of {len(peer_public)} octets"
            raise InvalidSyntax(message, payload=PayloadType.KE)
        try:
            # RFC 6989 section 2.3: the library checks the ranges and the equation of the curve.
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, _UNCOMPRESSED + peer_public)
        except ValueError:
            raise InvalidSyntax(f"a public value that is not on {self.name}", payload=PayloadType.KE) from None
        return private.exchange(ec.ECDH(), peer)


class EcpPair:
    """One end's key pair of one exchange."""

    __slots__ = ("_group", "_key", "public")

    def __init__(self, group: EcpGroup, key: ec.EllipticCurvePrivateKey) -> None:
        self._group = group
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """The shared secret of this and the peer's public value. RFC 5903 section 7."""
        return SecretOctets("g^ir", self._group.exchange(self._key, peer_public))
