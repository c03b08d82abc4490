"""The one line about a message, in the words of strongSwan's log."""

from __future__ import annotations

import pytest

from ikev2.iana import (
    AuthMethod,
    CpAttributeType,
    CpType,
    EapCode,
    ExchangeType,
    IdType,
    KeId,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ikev2.wire.describe import NOTIFY_NAMES, describe_payload
from ikev2.wire.header import Header
from ikev2.wire.message import Message, describe
from ikev2.wire.payloads import (
    Auth,
    Cp,
    CpAttribute,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    IdR,
    Ke,
    Nonce,
    Notify,
    Payload,
    Proposal,
    Sa,
    TrafficSelector,
    Transform,
    TsI,
    TsR,
    Unknown,
    VendorId,
)

SA = Sa((Proposal(1, ProtocolId.IKE, b"", (Transform(TransformType.KE, 31),)),))


def header(exchange: ExchangeType, message_id: int, *, is_response: bool) -> Header:
    return Header.to_send(b"i" * 8, bytes(8), exchange, message_id, is_initiator=True, is_response=is_response)


def test_an_ike_sa_init_request() -> None:
    message = Message(
        header(ExchangeType.IKE_SA_INIT, 0, is_response=False),
        (
            SA,
            Ke(KeId.CURVE25519, b""),
            Nonce(bytes(32)),
            Notify(NotifyType.NAT_DETECTION_SOURCE_IP),
            Notify(NotifyType.NAT_DETECTION_DESTINATION_IP),
            Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),
            Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS),
            Notify(NotifyType.COOKIE),
            VendorId(b""),
        ),
    )
    assert (
        describe(message)
        == "IKE_SA_INIT request 0 [ SA KE No N(NATD_S_IP) N(NATD_D_IP) N(FRAG_SUP) N(HASH_ALG) N(COOKIE) V ]"
    )


def test_what_lay_in_an_encrypted_payload_is_named_in_its_place() -> None:
    message = Message(
        header(ExchangeType.IKE_AUTH, 1, is_response=True),
        (VendorId(b""), Encrypted(PayloadType.IDr, b"sealed")),
    )
    everything = TrafficSelector.from_network("0.0.0.0/0")
    inner = (
        IdR(IdType.ID_FQDN, b"r"),
        Auth(AuthMethod.SHARED_KEY_MIC, b""),
        SA,
        TsI((everything,)),
        TsR((everything,)),
    )
    assert describe(message) == "IKE_AUTH response 1 [ V SK ]"
    assert describe(message, inner) == "IKE_AUTH response 1 [ V IDr AUTH SA TSi TSr ]"


def test_an_empty_message() -> None:
    message = Message(
        header(ExchangeType.INFORMATIONAL, 2, is_response=False), (Encrypted(PayloadType.NO_NEXT_PAYLOAD, b""),)
    )
    assert describe(message, ()) == "INFORMATIONAL request 2 [ ]"


def test_an_unknown_exchange() -> None:
    assert describe(Message(header(ExchangeType(200), 0, is_response=False), ())) == "UNKNOWN_200 request 0 [ ]"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (Delete.ike(), "D"),
        (EncryptedFragment(PayloadType.IDi, 1, 5, b""), "EF(1/5)"),
        (Notify(NotifyType.TS_UNACCEPTABLE), "N(TS_UNACCEPT)"),
        (Notify(NotifyType(40000)), "N(UNKNOWN_40000)"),
        (Cp(CpType.CFG_REQUEST), "CPRQ"),
        (
            Cp(
                CpType.CFG_REPLY,
                (
                    CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS),
                    CpAttribute(CpAttributeType.INTERNAL_IP4_DNS),
                    CpAttribute(CpAttributeType(99)),
                ),
            ),
            "CPRP(ADDR DNS (99))",
        ),
        (Eap(EapCode.REQUEST, 1, b"\x1a"), "EAP/REQ/MSCHAPV2"),
        (Eap(EapCode.RESPONSE, 1, b"\xfe"), "EAP/RES/254"),
        (Eap(EapCode.SUCCESS, 1), "EAP/SUCC"),
        (Eap(EapCode(9), 1), "EAP/9"),
        (Unknown(PayloadType(201), b""), "(201)"),
        (Unknown(PayloadType.PS, b""), "(54)"),
    ],
)
def test_a_payload_in_a_word(payload: Payload, text: str) -> None:
    assert describe_payload(payload) == text


def test_no_two_notify_types_have_one_name() -> None:
    names = [NOTIFY_NAMES.get(item, str(item)) for item in NotifyType]
    assert len(set(names)) == len(names)
