"""The payloads of IKEv2, one module each. RFC 7296 sections 3.3 to 3.16, RFC 7383 section 2.5."""

from __future__ import annotations

from ikev2.iana import PayloadType
from ikev2.registration import Registration, register_row
from ikev2.wire.payloads.auth import Auth
from ikev2.wire.payloads.base import GENERIC_HEADER_OCTETS, MAX_PAYLOAD_OCTETS, Payload, PlainPayload
from ikev2.wire.payloads.cert import Cert, CertReq
from ikev2.wire.payloads.cp import Cp, CpAttribute
from ikev2.wire.payloads.delete import Delete
from ikev2.wire.payloads.eap import Eap
from ikev2.wire.payloads.encrypted import Encrypted, EncryptedFragment
from ikev2.wire.payloads.identification import Id, IdI, IdR
from ikev2.wire.payloads.ke import Ke
from ikev2.wire.payloads.nonce import Nonce
from ikev2.wire.payloads.notify import Notify
from ikev2.wire.payloads.sa import Proposal, Sa, Transform, TransformAttribute
from ikev2.wire.payloads.ts import TrafficSelector, Ts, TsI, TsR
from ikev2.wire.payloads.unknown import Unknown
from ikev2.wire.payloads.vendor_id import VendorId

PAYLOAD_CLASSES: dict[int, type[Payload]] = {
    cls.payload_type: cls
    for cls in (
        *(Sa, Ke, IdI, IdR, Cert, CertReq, Auth, Nonce, Notify, Delete, VendorId),
        *(TsI, TsR, Encrypted, EncryptedFragment, Cp, Eap),
    )
}
"""The class of each payload type that we understand; any other type is an `Unknown`."""


def register(payload_class: type[Payload]) -> Registration:
    """Read the payloads of a further type with this class. Clash when its type has a class."""
    kind = payload_class.payload_type
    return register_row(PAYLOAD_CLASSES, int(kind), payload_class, f"a class for payload type {kind}")


__all__ = [
    "GENERIC_HEADER_OCTETS",
    "MAX_PAYLOAD_OCTETS",
    "PAYLOAD_CLASSES",
    "Auth",
    "Cert",
    "CertReq",
    "Cp",
    "CpAttribute",
    "Delete",
    "Eap",
    "Encrypted",
    "EncryptedFragment",
    "Id",
    "IdI",
    "IdR",
    "Ke",
    "Nonce",
    "Notify",
    "Payload",
    "PayloadType",
    "PlainPayload",
    "Proposal",
    "Sa",
    "TrafficSelector",
    "Transform",
    "TransformAttribute",
    "Ts",
    "TsI",
    "TsR",
    "Unknown",
    "VendorId",
    "register",
]
