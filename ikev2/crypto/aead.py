"""Every protection of the Encrypted payload in the shape of an AEAD: encrypt and decrypt with associated data.

RFC 3602, RFC 5282, RFC 5930, RFC 7296 section 3.14, RFC 7634.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from ikev2.crypto.encr import Encr, EncrKind
from ikev2.crypto.integ import Integ
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import InvalidSyntax, LocalProtocolError

_GCM_TAG_OCTETS = 16
_CTR_FIRST_BLOCK = b"\x00\x00\x00\x01"


class Aead(Protocol):
    """What cryptography's AEAD classes do; `nonce` is the salt followed by the IV that the message carries."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        """The ciphertext followed by the tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        """The plaintext; cryptography's InvalidTag when the tag does not verify."""
        ...


class _ShortTagGcm:
    """AES-GCM with a tag of 8 or 12 octets, which AESGCM does not make. RFC 5282 section 3."""

    __slots__ = ("_algorithm", "_icv")

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._algorithm = algorithms.AES(key)
        self._icv = icv_octets

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        encryptor = Cipher(self._algorithm, modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(associated_data)
        return encryptor.update(data) + encryptor.finalize() + encryptor.tag[: self._icv]

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        cut = len(data) - self._icv
        mode = modes.GCM(nonce, data[cut:], min_tag_length=self._icv)
        decryptor = Cipher(self._algorithm, mode).decryptor()
        decryptor.authenticate_additional_data(associated_data)
        return decryptor.update(data[:cut]) + decryptor.finalize()


class _EncryptThenMac:
    """AES-CBC or AES-CTR, then an ICV over associated data, IV and ciphertext. RFC 7296 section 3.14."""

    __slots__ = ("_algorithm", "_block", "_ctr", "_integ", "_integ_key", "_salt_octets")

    def __init__(self, encr: Encr, key: bytes, integ: Integ, integ_key: bytes) -> None:
        self._algorithm = algorithms.AES(key)
        self._ctr = encr.kind is EncrKind.CTR
        self._block = encr.block_octets
        self._salt_octets = encr.salt_octets
        self._integ = integ
        self._integ_key = integ_key

    def _cipher(self, nonce: bytes) -> Cipher[modes.CBC] | Cipher[modes.CTR]:
        if self._ctr:
            # RFC 5930 section 2: nonce, IV and a block counter that begins at one.
            return Cipher(self._algorithm, modes.CTR(nonce + _CTR_FIRST_BLOCK))
        return Cipher(self._algorithm, modes.CBC(nonce))

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        ciphertext = self._cipher(nonce).encryptor().update(data)
        # rfc7296-s3.14-08: the ICV is computed over what is sent, not over the plaintext.
        return ciphertext + self._integ.tag(
            self._integ_key, associated_data + nonce[self._salt_octets :] + ciphertext
        )

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        cut = len(data) - self._integ.icv_octets
        ciphertext = data[:cut]
        covered = associated_data + nonce[self._salt_octets :] + ciphertext
        self._integ.verify(self._integ_key, covered, data[cut:])
        if cut % self._block:
            raise InvalidSyntax("the ciphertext is not a whole number of blocks")
        return self._cipher(nonce).decryptor().update(ciphertext)


def make_aead(
    encr: Encr, integ: Integ | None, key: SecretOctets, integ_key: SecretOctets | None
) -> tuple[Aead, bytes]:
    """The cipher and the salt that its nonces begin with; LocalProtocolError when algorithms and keys do not fit.

    `key` has the salt at its end; `integ` and `integ_key` are None (or of no octets) for combined modes.
    """
    if len(key) != encr.keymat_octets:
        raise LocalProtocolError(f"{encr.keyword} takes {encr.keymat_octets} octets of key, not {len(key)}")
    if not encr.for_ike:
        raise UnknownAlgorithm(f"{encr.keyword} does not protect messages here")
    raw_key, salt = key.octets[: encr.key_octets], key.octets[encr.key_octets :]
    if encr.is_aead:
        if integ is not None:
            raise LocalProtocolError(f"{encr.keyword} takes no integrity algorithm")
        return _combined(encr, raw_key), salt
    if integ is None:
        raise LocalProtocolError(f"{encr.keyword} needs an integrity algorithm")
    if integ_key is None or len(integ_key) != integ.key_octets:
        raise LocalProtocolError(f"{integ.keyword} takes {integ.key_octets} octets of key")
    return _EncryptThenMac(encr, raw_key, integ, integ_key.octets), salt


def _combined(encr: Encr, key: bytes) -> Aead:
    if encr.kind is EncrKind.GCM:
        return AESGCM(key) if encr.icv_octets == _GCM_TAG_OCTETS else _ShortTagGcm(key, encr.icv_octets)
    if encr.kind is EncrKind.CCM:
        return AESCCM(key, encr.icv_octets)
    return ChaCha20Poly1305(key)
