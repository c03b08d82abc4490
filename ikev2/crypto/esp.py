"""Packet ciphers of ESP: encryption and integrity of one packet, on contexts that live as long as the SA.

A cipher is made once per SA and direction. AEAD ciphers take the 64-bit sequence number as their IV, which can
never repeat under one key (RFC 4106 section 3.1, RFC 7634 section 2). CBC runs one chained context over the whole
SA: a fresh random block goes in before every plaintext, and the block that comes out is the IV of that packet, as
unpredictable as RFC 3602 section 3 wants it, without a context of its own per packet.
RFC 4303 sections 2, 3.3 and 3.4.
"""

from __future__ import annotations

import hmac
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC

from ikev2.errors import IntegrityError, LocalProtocolError
from ikev2.iana import EncrId, IntegId

ESP_HEADER_OCTETS = 8
"""SPI and sequence number. RFC 4303 section 2."""

_pack_u64 = struct.Struct("!Q").pack
_pack_u32 = struct.Struct("!I").pack

_BLOCK_OCTETS = 16
_POOL_BLOCKS = 256

Buffer = bytes | bytearray | memoryview


class _Aead(Protocol):
    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...
    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes: ...


class EspCipher(ABC):
    """Seals and opens ESP packets of one SA in one direction; it knows nothing of padding or replay."""

    iv_octets: int
    icv_octets: int
    alignment: int
    """Plaintext with its trailer is a multiple of this: the block size, and never under 4. RFC 4303 section 2.4."""

    @abstractmethod
    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        """The whole ESP packet: `header` (SPI, low 32 bits of `sequence`), IV, ciphertext, ICV."""

    @abstractmethod
    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        """The plaintext with its trailer. Raises IntegrityError.

        The caller has checked that the packet holds header, IV, ICV and at least one block between them.
        `sequence_high` counts with extended sequence numbers only. RFC 4303 section 3.4.4.
        """

    @property
    def overhead_octets(self) -> int:
        """Octets of a packet that are neither payload nor padding nor the two octets of the trailer."""
        return ESP_HEADER_OCTETS + self.iv_octets + self.icv_octets

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AeadEspCipher(EspCipher):
    """AES-GCM (RFC 4106), AES-CCM (RFC 4309) and ChaCha20-Poly1305 (RFC 7634): salt, then an IV of 8 octets."""

    iv_octets = 8
    alignment = 4

    def __init__(self, aead: _Aead, salt: bytes, icv_octets: int, *, esn: bool = False) -> None:
        self.icv_octets = icv_octets
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._salt = salt
        self._esn = esn

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        return self.seal_with_iv(header, sequence, _pack_u64(sequence), plaintext)

    def seal_with_iv(self, header: bytes, sequence: int, iv: bytes, plaintext: Buffer) -> bytes:
        """As `seal`, with an IV of the caller's: it must never repeat under this key."""
        aad = header[:4] + _pack_u64(sequence) if self._esn else header
        return header + iv + self._encrypt(self._salt + iv, plaintext, aad)

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        aad = packet[:8] if not self._esn else bytes(packet[:4]) + _pack_u32(sequence_high) + bytes(packet[4:8])
        try:
            return self._decrypt(self._salt + packet[8:16], packet[16:], aad)
        except InvalidTag:
            raise IntegrityError("the ICV of an ESP packet does not verify") from None


class _Mac:
    """HMAC with its key prepared once; `tag` is over header, body, and the high sequence bits with ESN."""

    def __init__(self, algorithm: HashAlgorithm, key: bytes, icv_octets: int) -> None:
        self._keyed = HMAC(key, algorithm)
        self.icv_octets = icv_octets

    def tag(self, *parts: Buffer) -> bytes:
        mac = self._keyed.copy()
        for part in parts:
            mac.update(part)
        return mac.finalize()[: self.icv_octets]


class CbcHmacEspCipher(EspCipher):
    """AES-CBC (RFC 3602) with a truncated HMAC (RFC 2404, RFC 4868), encrypt then MAC."""

    iv_octets = _BLOCK_OCTETS
    alignment = _BLOCK_OCTETS

    def __init__(
        self, key: bytes, mac: _Mac, *, esn: bool = False, random_octets: Callable[[int], bytes] = os.urandom
    ) -> None:
        # One chained context per direction of use: its own first IV never leaves this process.
        cipher = Cipher(algorithms.AES(key), modes.CBC(bytes(_BLOCK_OCTETS)))
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._mac = mac
        self.icv_octets = mac.icv_octets
        self._esn = esn
        self._random_octets = random_octets
        self._pool = b""
        self._pool_at = 0

    def _random_block(self) -> bytes:
        at = self._pool_at
        if at == len(self._pool):
            self._pool = self._random_octets(_POOL_BLOCKS * _BLOCK_OCTETS)
            at = 0
        self._pool_at = at + _BLOCK_OCTETS
        return self._pool[at : at + _BLOCK_OCTETS]

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        # The random block comes out as the IV, and what follows is chained to it.
        signed = header + self._encrypt(self._random_block() + plaintext)
        if self._esn:
            return signed + self._mac.tag(signed, _pack_u32(sequence >> 32))
        return signed + self._mac.tag(signed)

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        end = len(packet) - self.icv_octets
        signed = packet[:end]
        tag = self._mac.tag(signed, _pack_u32(sequence_high)) if self._esn else self._mac.tag(signed)
        if not hmac.compare_digest(tag, packet[end:]):
            raise IntegrityError("the ICV of an ESP packet does not verify")
        # The block that the IV decrypts to hangs on the packet before, and is thrown away.
        return self._decrypt(packet[ESP_HEADER_OCTETS:end])[_BLOCK_OCTETS:]


class NullHmacEspCipher(EspCipher):
    """No encryption (RFC 2410) with a truncated HMAC: for looking at packets."""

    iv_octets = 0
    alignment = 4

    def __init__(self, mac: _Mac, *, esn: bool = False) -> None:
        self._mac = mac
        self.icv_octets = mac.icv_octets
        self._esn = esn

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        signed = header + plaintext
        if self._esn:
            return signed + self._mac.tag(signed, _pack_u32(sequence >> 32))
        return signed + self._mac.tag(signed)

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        end = len(packet) - self.icv_octets
        signed = packet[:end]
        tag = self._mac.tag(signed, _pack_u32(sequence_high)) if self._esn else self._mac.tag(signed)
        if not hmac.compare_digest(tag, packet[end:]):
            raise IntegrityError("the ICV of an ESP packet does not verify")
        return bytes(signed[ESP_HEADER_OCTETS:])


_HMACS: dict[IntegId, tuple[type[HashAlgorithm], int, int]] = {
    # hash, key octets, ICV octets: RFC 2404 and RFC 4868 section 2.6
    IntegId.HMAC_SHA1_96: (SHA1, 20, 12),
    IntegId.HMAC_SHA2_256_128: (SHA256, 32, 16),
    IntegId.HMAC_SHA2_384_192: (SHA384, 48, 24),
    IntegId.HMAC_SHA2_512_256: (SHA512, 64, 32),
}

_GCM_SALT_OCTETS = 4
_CCM_SALT_OCTETS = 3
_CCM_ICV_OCTETS = {EncrId.AES_CCM_8: 8, EncrId.AES_CCM_12: 12, EncrId.AES_CCM_16: 16}
_AES_KEY_OCTETS = (16, 24, 32)


def esp_cipher(
    encr: EncrId, key: bytes, integ: IntegId | None = None, integ_key: bytes = b"", *, esn: bool = False
) -> EspCipher:
    """The packet cipher of one direction.

    `key` is the keying material of the direction with the salt of an AEAD at its end, as RFC 7296 section 2.17 and
    RFC 4106 section 8.1 take it. Raises LocalProtocolError when ESP here does not know the algorithms, or a key has
    another length than theirs; the text never holds a key.
    """
    if encr in (EncrId.AES_GCM_16, EncrId.CHACHA20_POLY1305) or encr in _CCM_ICV_OCTETS:
        if integ not in (None, IntegId.NONE):
            raise LocalProtocolError(f"ESP with {encr} takes no integrity algorithm, {integ} was given")
        return _aead_cipher(encr, key, esn=esn)
    if integ is None or integ not in _HMACS:
        raise LocalProtocolError(f"ESP with {encr} needs an HMAC, {integ} was given")
    algorithm, key_octets, icv_octets = _HMACS[integ]
    if len(integ_key) != key_octets:
        raise LocalProtocolError(f"the key of {integ} is {key_octets} octets, not {len(integ_key)}")
    mac = _Mac(algorithm(), integ_key, icv_octets)
    if encr == EncrId.NULL:
        return NullHmacEspCipher(mac, esn=esn)
    if encr != EncrId.AES_CBC:
        raise LocalProtocolError(f"ESP with {encr} is not implemented")
    _check_aes_key(encr, len(key))
    return CbcHmacEspCipher(key, mac, esn=esn)


def _aead_cipher(encr: EncrId, key: bytes, *, esn: bool) -> EspCipher:
    salt_octets = _CCM_SALT_OCTETS if encr in _CCM_ICV_OCTETS else _GCM_SALT_OCTETS
    secret, salt = key[:-salt_octets], key[-salt_octets:]
    if encr == EncrId.CHACHA20_POLY1305:
        if len(secret) != 32:
            raise LocalProtocolError(f"the key of {encr} with its salt is 36 octets, not {len(key)}")
        return AeadEspCipher(ChaCha20Poly1305(secret), salt, 16, esn=esn)
    _check_aes_key(encr, len(secret))
    if encr == EncrId.AES_GCM_16:
        return AeadEspCipher(AESGCM(secret), salt, 16, esn=esn)
    icv_octets = _CCM_ICV_OCTETS[encr]
    return AeadEspCipher(AESCCM(secret, tag_length=icv_octets), salt, icv_octets, esn=esn)


def _check_aes_key(encr: EncrId, octets: int) -> None:
    if octets not in _AES_KEY_OCTETS:
        raise LocalProtocolError(f"the key of {encr} is 16, 24 or 32 octets without salt, not {octets}")
