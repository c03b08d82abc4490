"""Pseudorandom functions (transform type 2) and prf+.

RFC 7296 sections 2.13 and 3.3.2, RFC 2104, RFC 4434, RFC 4615, RFC 4868.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ikev2.crypto.secret import SecretOctets, octets_of
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.crypto.xcbc import aes_cmac_prf_128, aes_xcbc_prf_128
from ikev2.errors import LocalProtocolError
from ikev2.iana import PrfId

_PLUS_BLOCKS_MAXIMUM = 255
_IPAD, _OPAD = (bytes(octet ^ pad for octet in range(256)) for pad in (0x36, 0x5C))
"""Key octets XORed with ipad and opad. RFC 2104 section 2."""


class _Hash(Protocol):
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Prf:
    """A pseudorandom function: `prf(key, data)` is its whole output.

    `key_octets` is the preferred key length, which SK_d, SK_pi and SK_pr have (RFC 7296 section 2.14).
    `nonce_key_octets` is how much of each nonce keys SKEYSEED: None for all of it.

    RFC 7296 section 2.13.
    """

    id: PrfId
    name: str
    key_octets: int
    output_octets: int
    function: Callable[[bytes, bytes], bytes] = field(repr=False, compare=False)
    nonce_key_octets: int | None = None

    def __call__(self, key: bytes | SecretOctets, data: bytes) -> bytes:
        """prf(key, data): `output_octets` octets."""
        return self.function(octets_of(key), data)  # rfc4434-s1.1-02, rfc4615-s3-02

    def plus(self, key: bytes | SecretOctets, seed: bytes, octets: int) -> bytes:
        """The first `octets` octets of prf+(key, seed).

        T1 = prf(K, S | 0x01), T2 = prf(K, T1 | S | 0x02), ... LocalProtocolError beyond 255 blocks.

        RFC 7296 section 2.13.
        """
        blocks = -(-octets // self.output_octets)
        # The counter is one octet: prf+ is not defined beyond 255 times the size of the prf's output.
        if not 0 <= blocks <= _PLUS_BLOCKS_MAXIMUM:
            raise LocalProtocolError(f"prf+ with {self.name} cannot give {octets} octets")
        function, raw_key = self.function, octets_of(key)
        block, out = b"", bytearray()
        for number in range(1, blocks + 1):
            block = function(raw_key, b"%b%b%c" % (block, seed, number))
            out += block
        return bytes(out[:octets])


def _hmac(new: Callable[[bytes], _Hash], block_octets: int) -> Callable[[bytes, bytes], bytes]:
    """HMAC of RFC 2104 section 2 on a hash: for messages of IKE's length in half the time of `hmac.digest`."""

    def function(key: bytes, data: bytes) -> bytes:
        padded = (key if len(key) <= block_octets else new(key).digest()).ljust(block_octets, b"\0")
        return new(padded.translate(_OPAD) + new(padded.translate(_IPAD) + data).digest()).digest()

    return function


# rfc7296-s2.13-03, rfc7296-s2.13-04: every PRF here names its preferred key size.
# rfc7296-s5-01: none has an output under 128 bits.
PRFS: dict[PrfId, Prf] = {
    prf.id: prf
    for prf in (
        Prf(PrfId.HMAC_SHA1, "hmac-sha1", 20, 20, _hmac(hashlib.sha1, 64)),
        Prf(PrfId.AES128_XCBC, "aes128-xcbc", 16, 16, aes_xcbc_prf_128, nonce_key_octets=8),  # rfc4434-s1.1-01
        Prf(PrfId.HMAC_SHA2_256, "hmac-sha2-256", 32, 32, _hmac(hashlib.sha256, 64)),
        Prf(PrfId.HMAC_SHA2_384, "hmac-sha2-384", 48, 48, _hmac(hashlib.sha384, 128)),
        Prf(PrfId.HMAC_SHA2_512, "hmac-sha2-512", 64, 64, _hmac(hashlib.sha512, 128)),
        Prf(PrfId.AES128_CMAC, "aes128-cmac", 16, 16, aes_cmac_prf_128, nonce_key_octets=8),  # rfc4615-s3-01
    )
}
"""The implemented PRFs by number."""


def prf(prf_id: int) -> Prf:
    """The PRF of this number; UnknownAlgorithm when it is not implemented."""
    found = PRFS.get(PrfId(prf_id))
    if found is None:
        raise UnknownAlgorithm(f"PRF {prf_id} is not implemented")
    return found


def prf_by_name(name: str) -> Prf:
    """The PRF of this name (`hmac-sha2-256`); UnknownAlgorithm, with the list of names, when there is none."""
    for found in PRFS.values():
        if found.name == name:
            return found
    raise UnknownAlgorithm(f"no PRF is named {name!r}; there are {', '.join(one.name for one in PRFS.values())}")
