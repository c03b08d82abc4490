"""What this kernel can do, found by really trying: a harmless SA between two loopback addresses, taken out again.

A kernel may have ESP and lack an algorithm of it, or have it as a module that is loaded when it is asked for; only an
attempt tells. RFC 4301 section 4.4.2.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from ikev2.crypto.encr import ENCRS
from ikev2.crypto.integ import INTEGS
from ikev2.iana import EncrId, IntegId, TransformType
from ikev2.ipsec.xfrm import plan
from ikev2.ipsec.xfrm.algorithms import AEAD_NAMES, AUTH_NAMES, CRYPT_NAMES
from ikev2.ipsec.xfrm.attributes import Algorithm
from ikev2.ipsec.xfrm.cleaner import unless_absent
from ikev2.ipsec.xfrm.kernel import XfrmError, XfrmSocket
from ikev2.ipsec.xfrm.messages import Sa
from ikev2.ipsec.xfrm.structs import SaInfo
from ikev2.ipsec.xfrm.uapi import SaFlag, SaMode
from ikev2.wire.payloads import Transform

_LOCAL, _REMOTE = "127.0.0.77", "127.0.0.78"
_REQID = plan.kernel_reqid(plan.MAXIMUM_INSTANCE, 0)  # of an instance hardly ever taken: cleaned after a crash
_NOT_ABOUT_ALGORITHMS = frozenset({errno.EPERM, errno.EPROTONOSUPPORT})
_USUAL_CIPHERS = ((EncrId.AES_CBC, 128), (EncrId.NULL, None))
_USUAL_INTEGRITY = (IntegId.HMAC_SHA2_256_128, IntegId.HMAC_SHA1_96)


class KernelProbe:
    """Tries transforms of ESP in the network namespace of its socket, each name of the kernel once."""

    def __init__(self, kernel: XfrmSocket) -> None:
        self._kernel = kernel
        self._found: dict[str, bool] = {}
        self._has_esp = False

    def esp(self) -> None:
        """Install an SA and take it out; XfrmError says what is missing."""
        aead, crypt = _aead(EncrId.AES_GCM_16, 128), _crypt(EncrId.AES_CBC, 128)
        try:
            self._install(aead=aead)
            self._found[aead.name] = True
        except XfrmError:
            # A kernel may lack GCM only; and without ESP this is the clearer refusal.
            self._install(crypt=crypt, auth=_auth(IntegId.HMAC_SHA2_256_128))
            self._found[aead.name] = False
        self._has_esp = True

    def has(self, transform: Transform) -> bool:
        """Whether a Child SA can have this cipher or integrity algorithm; transforms of other types are not its own.

        Raises XfrmError when the kernel has no ESP, or does not let us.
        """
        if transform.type not in (TransformType.ENCR, TransformType.INTEG):
            return True
        if not self._has_esp:
            self.esp()  # without ESP an algorithm may seem to be what is missing
        if transform.type == TransformType.ENCR:
            return self._has_cipher(EncrId(transform.id), transform.key_bits)
        return transform.id == IntegId.NONE or self._has_integrity(IntegId(transform.id))

    def _has_cipher(self, encr_id: EncrId, key_bits: int | None) -> bool:
        name = AEAD_NAMES.get(encr_id) or CRYPT_NAMES.get(encr_id)
        if name is None or (encr_id, key_bits) not in ENCRS:
            return False
        # One name of the kernel stands for several lengths of the key and the ICV.
        if name not in self._found:
            if encr_id in AEAD_NAMES:
                found = self._takes(aead=_aead(encr_id, key_bits))
            else:
                crypt = _crypt(encr_id, key_bits)
                found = any(self._takes(crypt=crypt, auth=_auth(integ_id)) for integ_id in _USUAL_INTEGRITY)
            self._found[name] = found
        return self._found[name]

    def _has_integrity(self, integ_id: IntegId) -> bool:
        name = AUTH_NAMES.get(integ_id)
        if name is None or integ_id not in INTEGS:
            return False
        if name not in self._found:
            auth = _auth(integ_id)
            self._found[name] = any(self._takes(crypt=_crypt(*cipher), auth=auth) for cipher in _USUAL_CIPHERS)
        return self._found[name]

    def _takes(
        self, *, aead: Algorithm | None = None, crypt: Algorithm | None = None, auth: Algorithm | None = None
    ) -> bool:
        try:
            self._install(aead=aead, crypt=crypt, auth=auth)
        except XfrmError as error:
            if error.errno in _NOT_ABOUT_ALGORITHMS or "type not found" in error.detail:
                raise
            return False
        return True

    def _install(
        self, *, aead: Algorithm | None = None, crypt: Algorithm | None = None, auth: Algorithm | None = None
    ) -> None:
        """Reserve an SPI, complete it to an ESP SA, and delete that."""
        larval = self._kernel.allocate_spi(plan.spi_request(_LOCAL, _REMOTE, _REQID)).info
        info = SaInfo(
            larval.source, larval.destination, larval.spi, larval.reqid, SaMode.TUNNEL, flags=SaFlag.AF_UNSPEC
        )
        sa = Sa(info)
        try:
            self._kernel.update_sa(replace(sa, aead=aead, crypt=crypt, auth=auth))
        finally:
            unless_absent(lambda: self._kernel.delete_sa(info.id))


def _aead(encr_id: EncrId, key_bits: int | None) -> Algorithm:
    encr = ENCRS[encr_id, key_bits]
    return Algorithm(AEAD_NAMES[encr_id], os.urandom(encr.key_octets + encr.salt_octets), 8 * encr.icv_octets)


def _crypt(encr_id: EncrId, key_bits: int | None) -> Algorithm:
    encr = ENCRS[encr_id, key_bits]
    return Algorithm(CRYPT_NAMES[encr_id], os.urandom(encr.key_octets + encr.salt_octets))


def _auth(integ_id: IntegId) -> Algorithm:
    integ = INTEGS[integ_id]
    return Algorithm(AUTH_NAMES[integ_id], os.urandom(integ.key_octets), 8 * integ.icv_octets)
