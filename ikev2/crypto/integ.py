"""Integrity algorithms (transform type 3).

RFC 7296 section 3.3.2, RFC 2404, RFC 3566, RFC 4494, RFC 4868.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from ikev2.crypto.secret import SecretOctets, octets_of
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.crypto.xcbc import aes_cmac, aes_xcbc_mac
from ikev2.errors import IntegrityError
from ikev2.iana import IntegId


@dataclass(frozen=True, slots=True)
class Integ:
    """An integrity algorithm: `tag(key, data)` is the ICV, truncated to `icv_octets`.

    `digest` is hashlib's name of the hash for the HMAC algorithms, None for the others.

    RFC 7296 section 3.3.2.
    """

    id: IntegId
    keyword: str
    key_octets: int
    icv_octets: int
    function: Callable[[bytes, bytes], bytes] = field(repr=False, compare=False)
    digest: str | None = None

    def tag(self, key: bytes | SecretOctets, data: bytes) -> bytes:
        """The ICV of `data`: `icv_octets` octets."""
        return self.function(octets_of(key), data)[: self.icv_octets]

    def verify(self, key: bytes | SecretOctets, data: bytes, icv: bytes) -> None:
        """Raises IntegrityError when `icv` is not the ICV of `data`; compares in constant time."""
        if not hmac.compare_digest(self.tag(key, data), icv):
            raise IntegrityError("the ICV does not verify")


def _hmac_integ(integ_id: IntegId, keyword: str, key_octets: int, icv_octets: int) -> Integ:
    one_shot = hmac.digest

    def function(key: bytes, data: bytes) -> bytes:
        return one_shot(key, data, keyword)

    return Integ(integ_id, keyword, key_octets, icv_octets, function, digest=keyword)


INTEGS: dict[IntegId, Integ] = {
    integ.id: integ
    for integ in (
        _hmac_integ(IntegId.HMAC_SHA1_96, "sha1", 20, 12),
        Integ(IntegId.AES_XCBC_96, "aesxcbc", 16, 12, aes_xcbc_mac),
        Integ(IntegId.AES_CMAC_96, "aescmac", 16, 12, aes_cmac),
        _hmac_integ(IntegId.HMAC_SHA2_256_128, "sha256", 32, 16),
        _hmac_integ(IntegId.HMAC_SHA2_384_192, "sha384", 48, 24),
        _hmac_integ(IntegId.HMAC_SHA2_512_256, "sha512", 64, 32),
    )
}
"""The implemented integrity algorithms by number."""


def integ(integ_id: int) -> Integ:
    """The integrity algorithm of this number; UnknownAlgorithm when it is not implemented."""
    found = INTEGS.get(IntegId(integ_id))
    if found is None:
        raise UnknownAlgorithm(f"integrity algorithm {integ_id} is not implemented")
    return found
