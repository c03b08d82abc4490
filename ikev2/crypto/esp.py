"""Packet ciphers of ESP: encryption and integrity of one packet, on contexts that live as long as the SA.

A cipher is made once per SA and direction. AEAD ciphers take the 64-bit sequence number as their IV, which can
never repeat under one key (RFC 4106 section 3.1, RFC 4543 section 3.1, RFC 7634 section 2); it is carried in the
packet or, with an implicit IV, left out (RFC 8750). CBC runs one chained context over the whole
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

from ikev2.crypto.integ import INTEGS, Integ
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


class ImplicitIvCipher(AeadEspCipher):
    """The same ciphers with the sequence number, which both ends know, for the IV: packets do not carry one.

    Neither end of an SA ever takes a sequence number twice, so that no nonce comes twice. RFC 8750 section 4.
    """

    iv_octets = 0

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        """The packet without an IV. RFC 8750 section 4."""
        iv = _pack_u64(sequence)
        aad = header[:4] + iv if self._esn else header
        return header + self._encrypt(self._salt + iv, plaintext, aad)

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        """The plaintext; without extended sequence numbers the high half of the IV is zero. RFC 8750 section 4."""
        iv = _pack_u32(sequence_high) + packet[4:ESP_HEADER_OCTETS]
        aad = bytes(packet[:4]) + iv if self._esn else packet[:ESP_HEADER_OCTETS]
        try:
            return self._decrypt(self._salt + iv, packet[ESP_HEADER_OCTETS:], aad)
        except InvalidTag:
            raise IntegrityError("the ICV of an ESP packet does not verify") from None


class GmacEspCipher(EspCipher):
    """AES-GMAC: nothing is encrypted; header, IV, payload and trailer are the associated data of GCM.

    The list of section 3.3 does not name the IV, figure 4 of section 3.5 has it among the associated data; the latter
    is done here, as the Linux kernel does it. RFC 4543 section 3.
    """

    iv_octets = 8
    icv_octets = 16
    alignment = 4

    def __init__(self, key: bytes, salt: bytes, *, esn: bool = False) -> None:
        aead = AESGCM(key)
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._salt = salt
        self._esn = esn

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        """Header, IV, the plaintext as it is, and the tag over them. RFC 4543 section 3.3."""
        iv = _pack_u64(sequence)
        aad_header = header[:4] + iv if self._esn else header
        tag = self._encrypt(self._salt + iv, b"", aad_header + iv + plaintext)
        return header + iv + plaintext + tag

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        """What lies between IV and tag, once the tag has been verified. RFC 4543 sections 3.3 and 3.4."""
        start, end = ESP_HEADER_OCTETS + self.iv_octets, len(packet) - self.icv_octets
        aad = packet[:end]
        if self._esn:
            aad = bytes(packet[:4]) + _pack_u32(sequence_high) + packet[4:end]
        try:
            self._decrypt(self._salt + packet[ESP_HEADER_OCTETS:start], packet[end:], aad)
        except InvalidTag:
            raise IntegrityError("the ICV of an ESP packet does not verify") from None
        return bytes(packet[start:end])


class _Mac(Protocol):
    icv_octets: int

    def tag(self, *parts: Buffer) -> bytes: ...


class _Hmac:
    """HMAC with its key prepared once, truncated. RFC 2404, RFC 4868 section 2.6."""

    def __init__(self, algorithm: HashAlgorithm, key: bytes, icv_octets: int) -> None:
        self._keyed = HMAC(key, algorithm)
        self.icv_octets = icv_octets

    def tag(self, *parts: Buffer) -> bytes:
        mac = self._keyed.copy()
        for part in parts:
            mac.update(part)
        return mac.finalize()[: self.icv_octets]


class _AesMac:
    """AES-XCBC-MAC-96 and AES-CMAC-96, one call per packet. RFC 3566, RFC 4494."""

    def __init__(self, algorithm: Integ, key: bytes) -> None:
        self._algorithm = algorithm
        self._key = key
        self.icv_octets = algorithm.icv_octets

    def tag(self, *parts: Buffer) -> bytes:
        return self._algorithm.tag(self._key, b"".join(parts))


class _Cbc:
    """AES-CBC on one chained context per direction of use. RFC 3602."""

    iv_octets = _BLOCK_OCTETS
    alignment = _BLOCK_OCTETS

    def __init__(self, key: bytes, random_octets: Callable[[int], bytes] = os.urandom) -> None:
        # The context's own first IV never leaves this process.
        cipher = Cipher(algorithms.AES(key), modes.CBC(bytes(_BLOCK_OCTETS)))
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
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

    def encrypt(self, sequence: int, plaintext: Buffer) -> bytes:
        # The random block comes out as the IV, and what follows is chained to it.
        return self._encrypt(self._random_block() + plaintext)

    def decrypt(self, body: Buffer) -> bytes:
        # The block that the IV decrypts to hangs on the packet before, and is thrown away.
        return self._decrypt(body)[_BLOCK_OCTETS:]


class _Ctr:
    """AES-CTR; the counter block is nonce, IV and a count that begins at 1. RFC 3686 section 4."""

    iv_octets = 8
    alignment = 4

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._key = algorithms.AES(key)
        self._nonce = nonce

    def _apply(self, iv: bytes, data: Buffer) -> bytes:
        block = self._nonce + iv + b"\0\0\0\x01"
        return Cipher(self._key, modes.CTR(block)).encryptor().update(data)

    def encrypt(self, sequence: int, plaintext: Buffer) -> bytes:
        iv = _pack_u64(sequence)
        return iv + self._apply(iv, plaintext)

    def decrypt(self, body: Buffer) -> bytes:
        return self._apply(bytes(body[: self.iv_octets]), body[self.iv_octets :])


class _Null:
    """No encryption, for looking at packets. RFC 2410."""

    iv_octets = 0
    alignment = 4

    def encrypt(self, sequence: int, plaintext: Buffer) -> bytes:
        return bytes(plaintext)

    def decrypt(self, body: Buffer) -> bytes:
        return bytes(body)


class MacEspCipher(EspCipher):
    """An encryption (`_Cbc`, `_Ctr`, `_Null`) with an integrity algorithm of its own: encrypt, then MAC."""

    def __init__(self, cipher: _Cbc | _Ctr | _Null, mac: _Mac, *, esn: bool = False) -> None:
        self.iv_octets = cipher.iv_octets
        self.alignment = cipher.alignment
        self.icv_octets = mac.icv_octets
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._tag = mac.tag
        self._esn = esn

    def seal(self, header: bytes, sequence: int, plaintext: Buffer) -> bytes:
        signed = header + self._encrypt(sequence, plaintext)
        if self._esn:
            return signed + self._tag(signed, _pack_u32(sequence >> 32))
        return signed + self._tag(signed)

    def open(self, packet: Buffer, sequence_high: int) -> bytes:
        end = len(packet) - self.icv_octets
        signed = packet[:end]
        tag = self._tag(signed, _pack_u32(sequence_high)) if self._esn else self._tag(signed)
        if not hmac.compare_digest(tag, packet[end:]):
            raise IntegrityError("the ICV of an ESP packet does not verify")
        return self._decrypt(packet[ESP_HEADER_OCTETS:end])


class _ShortGcm:
    """AES-GCM with an ICV of 8 or 12 octets, one context per packet. RFC 4106 section 6."""

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._key = algorithms.AES(key)
        self._sealer = AESGCM(key)
        self._icv_octets = icv_octets

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        sealed = self._sealer.encrypt(nonce, data, associated_data)
        return sealed[: len(sealed) - _GCM_TAG_OCTETS + self._icv_octets]

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> bytes:
        end = len(data) - self._icv_octets
        mode = modes.GCM(bytes(nonce), bytes(data[end:]), min_tag_length=self._icv_octets)
        opener = Cipher(self._key, mode).decryptor()
        opener.authenticate_additional_data(associated_data or b"")
        return opener.update(data[:end]) + opener.finalize()


_HASHES: dict[str, type[HashAlgorithm]] = {"sha1": SHA1, "sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
_GCM_TAG_OCTETS = 16
_GCM_SALT_OCTETS = 4
_CCM_SALT_OCTETS = 3
_CTR_NONCE_OCTETS = 4
_GCM_ICV_OCTETS = {EncrId.AES_GCM_8: 8, EncrId.AES_GCM_12: 12, EncrId.AES_GCM_16: 16, EncrId.AES_GCM_16_IIV: 16}
_CCM_ICV_OCTETS = {EncrId.AES_CCM_8: 8, EncrId.AES_CCM_12: 12, EncrId.AES_CCM_16: 16, EncrId.AES_CCM_8_IIV: 8}
_CHACHA20 = frozenset((EncrId.CHACHA20_POLY1305, EncrId.CHACHA20_POLY1305_IIV))
_IMPLICIT_IV = frozenset((EncrId.AES_CCM_8_IIV, EncrId.AES_GCM_16_IIV, EncrId.CHACHA20_POLY1305_IIV))
_COMBINED = _CHACHA20 | _GCM_ICV_OCTETS.keys() | _CCM_ICV_OCTETS.keys() | {EncrId.NULL_AUTH_AES_GMAC}
_AES_KEY_OCTETS = (16, 24, 32)


def esp_cipher(
    encr: EncrId, key: bytes, integ_id: IntegId | None = None, integ_key: bytes = b"", *, esn: bool = False
) -> EspCipher:
    """The packet cipher of one direction.

    `key` is the keying material of the direction with the salt of an AEAD, or the nonce of AES-CTR, at its end, as
    RFC 7296 section 2.17 and RFC 4106 section 8.1 take it. Raises LocalProtocolError when ESP here does not know
    the algorithms, or a key has another length than theirs; the text never holds a key.
    """
    if encr in _COMBINED:
        if integ_id not in (None, IntegId.NONE):
            raise LocalProtocolError(f"ESP with {encr} takes no integrity algorithm, {integ_id} was given")
        return _aead_cipher(encr, key, esn=esn)
    if encr == EncrId.AES_CBC:
        _check_aes_key(encr, len(key))
        return MacEspCipher(_Cbc(key), _mac(integ_id, integ_key), esn=esn)
    if encr == EncrId.AES_CTR:
        _check_aes_key(encr, len(key) - _CTR_NONCE_OCTETS)
        ctr = _Ctr(key[:-_CTR_NONCE_OCTETS], key[-_CTR_NONCE_OCTETS:])
        return MacEspCipher(ctr, _mac(integ_id, integ_key), esn=esn)
    if encr == EncrId.NULL:
        return MacEspCipher(_Null(), _mac(integ_id, integ_key), esn=esn)
    raise LocalProtocolError(f"ESP with {encr} is not implemented")


def _mac(integ_id: IntegId | None, key: bytes) -> _Mac:
    if integ_id is None or integ_id not in INTEGS:
        raise LocalProtocolError(f"ESP needs an integrity algorithm here, {integ_id} was given")
    algorithm = INTEGS[integ_id]
    if len(key) != algorithm.key_octets:
        raise LocalProtocolError(f"the key of {integ_id} is {algorithm.key_octets} octets, not {len(key)}")
    if algorithm.digest is None:
        return _AesMac(algorithm, key)
    return _Hmac(_HASHES[algorithm.digest](), key, algorithm.icv_octets)


def _aead_cipher(encr: EncrId, key: bytes, *, esn: bool) -> EspCipher:
    salt_octets = _CCM_SALT_OCTETS if encr in _CCM_ICV_OCTETS else _GCM_SALT_OCTETS
    secret, salt = key[:-salt_octets], key[-salt_octets:]
    make = ImplicitIvCipher if encr in _IMPLICIT_IV else AeadEspCipher
    if encr in _CHACHA20:
        if len(secret) != 32:
            raise LocalProtocolError(f"the key of {encr} with its salt is 36 octets, not {len(key)}")
        return make(ChaCha20Poly1305(secret), salt, _GCM_TAG_OCTETS, esn=esn)
    _check_aes_key(encr, len(secret))
    if encr == EncrId.NULL_AUTH_AES_GMAC:
        return GmacEspCipher(secret, salt, esn=esn)
    if encr in _CCM_ICV_OCTETS:
        icv_octets = _CCM_ICV_OCTETS[encr]
        return make(AESCCM(secret, tag_length=icv_octets), salt, icv_octets, esn=esn)
    icv_octets = _GCM_ICV_OCTETS[encr]
    aead: _Aead = AESGCM(secret) if icv_octets == _GCM_TAG_OCTETS else _ShortGcm(secret, icv_octets)
    return make(aead, salt, icv_octets, esn=esn)


def _check_aes_key(encr: EncrId, octets: int) -> None:
    if octets not in _AES_KEY_OCTETS:
        raise LocalProtocolError(f"the key of {encr} is 16, 24 or 32 octets without salt, not {octets}")
