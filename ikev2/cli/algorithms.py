"""What is implemented, with the keyword of each algorithm and what RFC 8247 (IKE) and RFC 8221 (ESP) say of it.

Algorithms that those two do not name are at MAY (RFC 8247 section 1, RFC 8221 section 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from ikev2.crypto.encr import ENCRS, Encr
from ikev2.crypto.integ import INTEGS
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.prf import PRFS
from ikev2.iana import EncrId, IntegId, KeId, PrfId, TransformType
from ikev2.ipsec.xfrm.kernel import XfrmSocket
from ikev2.ipsec.xfrm.probe import KernelProbe
from ikev2.wire.payloads import Transform

# Of 128 and 256 bits; 192 remain at MAY, and AES-CCM-8 with any other than 128: RFC 8247 section 2.1, RFC 8221
# section 5.
_KEY_LENGTH_MATTERS = frozenset((EncrId.AES_CBC, EncrId.AES_GCM_16))
_ENCR_IKE = {
    EncrId.AES_CBC: "MUST",  # rfc8247-s2.1-01
    EncrId.CHACHA20_POLY1305: "SHOULD",  # rfc8247-s2.1-02
    EncrId.AES_GCM_16: "SHOULD",  # rfc8247-s2.1-03
    EncrId.AES_CCM_8: "SHOULD (IoT)",  # rfc8247-s2.1-04
    EncrId.NULL: "MUST NOT",
}
_ENCR_ESP = {
    EncrId.NULL: "MUST",  # rfc8221-s5-07
    EncrId.AES_CBC: "MUST",  # rfc8221-s5-08
    EncrId.AES_CCM_8: "SHOULD (IoT)",  # rfc8221-s5-09
    EncrId.AES_GCM_16: "MUST",  # rfc8221-s5-10
    EncrId.CHACHA20_POLY1305: "SHOULD",  # rfc8221-s5-11
}
_PRF = {
    PrfId.HMAC_SHA2_256: "MUST",  # rfc8247-s2.2-01
    PrfId.HMAC_SHA2_512: "SHOULD+",  # rfc8247-s2.2-02
    PrfId.HMAC_SHA1: "MUST-",  # rfc8247-s2.2-03
    PrfId.AES128_XCBC: "SHOULD (IoT)",  # rfc8247-s2.2-04
    PrfId.HMAC_MD5: "MUST NOT",
}
_INTEG_IKE = {
    IntegId.HMAC_SHA2_256_128: "MUST",  # rfc8247-s2.3-01, rfc8221-s6-07
    IntegId.HMAC_SHA2_512_256: "SHOULD",  # rfc8247-s2.3-02, rfc8221-s6-08
    IntegId.HMAC_SHA1_96: "MUST-",  # rfc8247-s2.3-03, rfc8221-s6-03
    IntegId.AES_XCBC_96: "SHOULD (IoT)",  # rfc8247-s2.3-04
}
_INTEG_ESP = {**_INTEG_IKE, IntegId.AES_XCBC_96: "SHOULD (IoT), else MAY"}  # rfc8221-s6-06
_KE = {
    KeId.MODP_2048: "MUST",  # rfc8247-s2.4-01
    KeId.ECP_256: "SHOULD",  # rfc8247-s2.4-02
    KeId.MODP_1536: "SHOULD NOT",
    KeId.MODP_1024: "SHOULD NOT",
    KeId.MODP_768: "MUST NOT",
    KeId.MODP_1024_160: "MUST NOT",
    KeId.MODP_2048_224: "SHOULD NOT",
    KeId.MODP_2048_256: "SHOULD NOT",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm. `ike` and `esp` are its level in RFC 8247 and RFC 8221; empty where it cannot be used.

    `kernel`: whether ESP of this kernel has it; None: not tried, or not of ESP.
    """

    type: str
    number: int
    name: str
    keyword: str
    key_bits: int | None
    ike: str
    esp: str
    kernel: bool | None = None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def kernel_rows() -> Iterator[Row]:
    """The same, each cipher and integrity algorithm tried in this kernel. Raises BackendError when it has no ESP."""
    with XfrmSocket() as kernel:
        probe = KernelProbe(kernel)
        probe.esp()
        for row in rows():
            if row.type in _OF_ESP and row.esp:
                row = replace(row, kernel=probe.has(Transform.of(_OF_ESP[row.type], row.number, row.key_bits)))
            yield row


_OF_ESP = {"ENCR": TransformType.ENCR, "INTEG": TransformType.INTEG}


def _level(levels: dict[EncrId, str], encr: Encr) -> str:
    if encr.id in _KEY_LENGTH_MATTERS and encr.key_bits == 192:
        return "MAY"
    if encr.id == EncrId.AES_CCM_8 and encr.key_bits != 128:
        return "MAY"
    return levels.get(encr.id, "MAY")


def rows() -> Iterator[Row]:
    """Every algorithm that is implemented, by transform type and number."""
    for encr in sorted(ENCRS.values(), key=lambda row: (row.id, row.key_bits or 0)):
        ike = _level(_ENCR_IKE, encr) if encr.for_ike else ""
        yield Row("ENCR", encr.id, encr.id.name, encr.keyword, encr.key_bits, ike, _level(_ENCR_ESP, encr))
    integ_keyword = dict.fromkeys(PRFS, "")
    integ_keyword |= {PrfId[name]: f"prf{word}" for name, word in _PRF_KEYWORDS.items() if PrfId[name] in PRFS}
    for prf_id, prf in sorted(PRFS.items()):
        yield Row("PRF", prf_id, prf.name, integ_keyword[prf_id], None, _PRF.get(prf_id, "MAY"), "")
    for integ_id, integ in sorted(INTEGS.items()):
        ike, esp = _INTEG_IKE.get(integ_id, "MAY"), _INTEG_ESP.get(integ_id, "MAY")
        yield Row("INTEG", integ_id, integ_id.name, integ.keyword, None, ike, esp)
    for group_id, group in sorted(KE_GROUPS.items()):
        level = _KE.get(group_id, "MAY")
        yield Row("KE", group_id, group_id.name, group.name, None, level, level)


_PRF_KEYWORDS = {
    "HMAC_SHA1": "sha1",
    "AES128_XCBC": "aesxcbc",
    "AES128_CMAC": "aescmac",
    "HMAC_SHA2_256": "sha256",
    "HMAC_SHA2_384": "sha384",
    "HMAC_SHA2_512": "sha512",
}
