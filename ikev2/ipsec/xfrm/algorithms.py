"""From a negotiated ESP suite to the names that the kernel gives its algorithms.

The kernel's names are those of its crypto API; the table is `xfrm_algo.c`'s, cut down to what IKEv2 negotiates.
RFC 4106, 4309, 3686, 4543, 7634, 2404, 4868, 3566, 4494.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import EspSuite
from ikev2.errors import BackendError
from ikev2.iana import EncrId, IntegId, TransformType
from ikev2.ipsec.xfrm.attributes import Algorithm
from ikev2.wire.payloads import Transform

AEAD_NAMES: Mapping[EncrId, str] = MappingProxyType(
    {
        EncrId.AES_GCM_8: "rfc4106(gcm(aes))",
        EncrId.AES_GCM_12: "rfc4106(gcm(aes))",
        EncrId.AES_GCM_16: "rfc4106(gcm(aes))",
        EncrId.AES_CCM_8: "rfc4309(ccm(aes))",
        EncrId.AES_CCM_12: "rfc4309(ccm(aes))",
        EncrId.AES_CCM_16: "rfc4309(ccm(aes))",
        EncrId.CHACHA20_POLY1305: "rfc7539esp(chacha20,poly1305)",
        EncrId.NULL_AUTH_AES_GMAC: "rfc4543(gcm(aes))",
    }
)

CRYPT_NAMES: Mapping[EncrId, str] = MappingProxyType(
    {
        EncrId.AES_CBC: "cbc(aes)",
        EncrId.AES_CTR: "rfc3686(ctr(aes))",
        EncrId.NULL: "ecb(cipher_null)",
    }
)

AUTH_NAMES: Mapping[IntegId, str] = MappingProxyType(
    {
        IntegId.HMAC_SHA1_96: "hmac(sha1)",
        IntegId.HMAC_SHA2_256_128: "hmac(sha256)",
        IntegId.HMAC_SHA2_384_192: "hmac(sha384)",
        IntegId.HMAC_SHA2_512_256: "hmac(sha512)",
        IntegId.AES_XCBC_96: "xcbc(aes)",
        IntegId.AES_CMAC_96: "cmac(aes)",
    }
)


def kernel_has(transform: Transform) -> bool:
    """Whether kernels have a name for a cipher or an integrity algorithm: not for an implicit IV (RFC 8750)."""
    if transform.type == TransformType.ENCR:
        return transform.id in AEAD_NAMES or transform.id in CRYPT_NAMES
    return transform.type != TransformType.INTEG or transform.id == IntegId.NONE or transform.id in AUTH_NAMES


def kernel_algorithms(
    suite: EspSuite, encr_key: SecretOctets, integ_key: SecretOctets | None
) -> tuple[Algorithm | None, Algorithm | None, Algorithm | None]:
    """(AEAD, encryption, integrity) of one direction; BackendError when the kernel has no name for one of them."""
    encr, integ = suite.encr, suite.integ
    wanted = encr.key_octets + encr.salt_octets
    if len(encr_key) != wanted:
        raise BackendError(f"{encr.keyword} takes a key of {wanted} octets with its salt, not {len(encr_key)}")
    if encr.is_aead:
        name = AEAD_NAMES.get(encr.id)
        if name is None:
            raise BackendError(f"the xfrm backend has no {encr.keyword}")
        return Algorithm(name, encr_key.octets, 8 * encr.icv_octets), None, None
    name = CRYPT_NAMES.get(encr.id)
    if name is None:
        raise BackendError(f"the xfrm backend has no {encr.keyword}")
    crypt = Algorithm(name, encr_key.octets)
    if integ is None or integ_key is None:
        raise BackendError(f"{encr.keyword} in ESP needs an integrity algorithm and its key")
    auth_name = AUTH_NAMES.get(integ.id)
    if auth_name is None:
        raise BackendError(f"the xfrm backend has no {integ.keyword}")
    if len(integ_key) != integ.key_octets:
        raise BackendError(f"{integ.keyword} takes a key of {integ.key_octets} octets, not {len(integ_key)}")
    return None, crypt, Algorithm(auth_name, integ_key.octets, 8 * integ.icv_octets)
