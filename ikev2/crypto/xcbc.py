"""AES-XCBC-MAC and AES-CMAC with 128-bit keys, and the key rules under which they are PRFs.

RFC 3566, RFC 4434, RFC 4493, RFC 4615.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

BLOCK_OCTETS = 16
_ZERO_BLOCK = bytes(BLOCK_OCTETS)


def _encrypt_ecb(key: bytes, blocks: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)  # noqa: S305


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def aes_xcbc_mac(key: bytes, data: bytes) -> bytes:
    """AES-XCBC-MAC of `data` under a key of 16 octets: 16 octets, not truncated.

    RFC 3566 section 4.
    """
    derived = _encrypt_ecb(key, b"\x01" * 16 + b"\x02" * 16 + b"\x03" * 16)
    key1, key2, key3 = derived[:16], derived[16:32], derived[32:]
    # The last block, complete or not, is never empty unless the whole message is.
    cut = max(len(data) - 1, 0) // BLOCK_OCTETS * BLOCK_OCTETS
    last = data[cut:]
    whole = len(last) == BLOCK_OCTETS
    last = _xor(last, key2) if whole else _xor((last + b"\x80").ljust(BLOCK_OCTETS, b"\x00"), key3)
    encryptor = Cipher(algorithms.AES(key1), modes.CBC(_ZERO_BLOCK)).encryptor()
    return encryptor.update(data[:cut] + last)[-BLOCK_OCTETS:]


def aes_cmac(key: bytes, data: bytes) -> bytes:
    """AES-CMAC of `data` under a key of 16 octets: 16 octets, not truncated.

    RFC 4493 section 2.4.
    """
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def aes_xcbc_prf_128(key: bytes, data: bytes) -> bytes:
    """AES-XCBC-PRF-128: a key of any length is padded with zeros, or hashed, to 16 octets.

    RFC 4434 section 2.
    """
    if len(key) < BLOCK_OCTETS:
        key = key.ljust(BLOCK_OCTETS, b"\x00")  # rfc4434-s2-02
    elif len(key) > BLOCK_OCTETS:  # rfc4434-s2-01
        key = aes_xcbc_mac(_ZERO_BLOCK, key)  # rfc4434-s2-03
    return aes_xcbc_mac(key, data)


def aes_cmac_prf_128(key: bytes, data: bytes) -> bytes:
    """AES-CMAC-PRF-128: a key of any length but 16 octets is hashed to 16 octets.

    RFC 4615 section 3.
    """
    if len(key) != BLOCK_OCTETS:
        key = aes_cmac(_ZERO_BLOCK, key)
    return aes_cmac(key, data)
