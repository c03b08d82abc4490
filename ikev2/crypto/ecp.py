"""Groups 19 to 21 and 28 to 30: NIST's and the Brainpool curves, public values x | y, shared secret x.

Group 27 (brainpoolP224r1), which the library does not have, is in `plain_ecp`.

RFC 5903, RFC 6954, RFC 6989 section 2.3.
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
    # Orders: q of RFC 5639 section 3.
    28: (
        "ecp256bp",
        ec.BrainpoolP256R1(),
        0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    ),
    29: (
        "ecp384bp",
        ec.BrainpoolP384R1(),
        0x8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B31F166E6CAC0425A7CF3AB6AF6B7FC3103B883202E9046565,
    ),
    30: (
        "ecp512bp",
        ec.BrainpoolP512R1(),
        0xAADD9DB8DBE9C48B3FD4E6AE33C9FC07CB308DB3B3C9D20ED6639CCA70330870553E5C414CA92619418661197FAC10471DB1D381085DDADDB58796829CA90069,
    ),
}


class EcpGroup:
    """An ECP group of RFC 5903 or RFC 6954."""

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

    def check(self, public: bytes) -> None:
        """InvalidSyntax for what is no point of the curve."""
        self.point(public)

    def point(self, peer_public: bytes) -> ec.EllipticCurvePublicKey:
        """The peer's public value as the library has it; InvalidSyntax for what is no point of the curve."""
        # rfc6954-s2.3-02
        if len(peer_public) != self.public_octets:
            message = f"a {self.name} public value of {len(peer_public)} octets"
            raise InvalidSyntax(message, payload=PayloadType.KE)
        try:
            # RFC 6989 section 2.3 (rfc6989-s2.3-01, rfc6954-s3-01): the library checks the ranges and the equation
            # of the curve.
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, _UNCOMPRESSED + peer_public)
        except ValueError:
            raise InvalidSyntax(f"a public value that is not on {self.name}", payload=PayloadType.KE) from None


class EcpPair:
    """One end's key pair of one exchange."""

    __slots__ = ("_group", "_key", "public")

    def __init__(self, group: EcpGroup, key: ec.EllipticCurvePrivateKey) -> None:
        self._group = group
        self._key = key
        # rfc6954-s2.3-01
        self.public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def shared_secret(self, peer_public: bytes) -> SecretOctets:
        """The shared secret of this and the peer's public value. RFC 5903 section 7."""
        return SecretOctets("g^ir", self._key.exchange(ec.ECDH(), self._group.point(peer_public)))
