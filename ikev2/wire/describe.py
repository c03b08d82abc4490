"""Payloads in one line, in the words of strongSwan's log: `[ SA KE No N(NATD_S_IP) N(NATD_D_IP) ]`."""

from __future__ import annotations

from collections.abc import Iterable

from ikev2.iana import CpAttributeType, CpType, EapCode, NotifyType, PayloadType
from ikev2.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
    Delete,
    Eap,
    EncryptedFragment,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    Payload,
    Sa,
    TsI,
    TsR,
    Unknown,
)

PAYLOAD_NAMES = {payload_type: str(payload_type) for payload_type in PayloadType} | {PayloadType.NONCE: "No"}
"""The word for each payload type."""

NOTIFY_NAMES = {
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD: "CRIT",
    NotifyType.INVALID_IKE_SPI: "INVAL_IKE_SPI",
    NotifyType.INVALID_MAJOR_VERSION: "INVAL_MAJOR",
    NotifyType.INVALID_SYNTAX: "INVAL_SYN",
    NotifyType.INVALID_MESSAGE_ID: "INVAL_MID",
    NotifyType.INVALID_SPI: "INVAL_SPI",
    NotifyType.NO_PROPOSAL_CHOSEN: "NO_PROP",
    NotifyType.INVALID_KE_PAYLOAD: "INVAL_KE",
    NotifyType.AUTHENTICATION_FAILED: "AUTH_FAILED",
    NotifyType.SINGLE_PAIR_REQUIRED: "SINGLE_PAIR",
    NotifyType.NO_ADDITIONAL_SAS: "NO_ADD_SAS",
    NotifyType.INTERNAL_ADDRESS_FAILURE: "INT_ADDR_FAIL",
    NotifyType.FAILED_CP_REQUIRED: "FAIL_CP_REQ",
    NotifyType.TS_UNACCEPTABLE: "TS_UNACCEPT",
    NotifyType.INVALID_SELECTORS: "INVAL_SEL",
    NotifyType.UNACCEPTABLE_ADDRESSES: "UNACCEPT_ADDR",
    NotifyType.UNEXPECTED_NAT_DETECTED: "UNEXPECT_NAT",
    NotifyType.USE_ASSIGNED_HOA: "ASSIGNED_HoA",
    NotifyType.TEMPORARY_FAILURE: "TEMP_FAIL",
    NotifyType.CHILD_SA_NOT_FOUND: "NO_CHILD_SA",
    NotifyType.INITIAL_CONTACT: "INIT_CONTACT",
    NotifyType.SET_WINDOW_SIZE: "SET_WINSIZE",
    NotifyType.ADDITIONAL_TS_POSSIBLE: "ADD_TS_POSS",
    NotifyType.IPCOMP_SUPPORTED: "IPCOMP_SUP",
    NotifyType.NAT_DETECTION_SOURCE_IP: "NATD_S_IP",
    NotifyType.NAT_DETECTION_DESTINATION_IP: "NATD_D_IP",
    NotifyType.USE_TRANSPORT_MODE: "USE_TRANSP",
    NotifyType.HTTP_CERT_LOOKUP_SUPPORTED: "HTTP_CERT_LOOK",
    NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED: "ESP_TFC_PAD_N",
    NotifyType.NON_FIRST_FRAGMENTS_ALSO: "NON_FIRST_FRAG",
    NotifyType.MOBIKE_SUPPORTED: "MOBIKE_SUP",
    NotifyType.ADDITIONAL_IP4_ADDRESS: "ADD_4_ADDR",
    NotifyType.ADDITIONAL_IP6_ADDRESS: "ADD_6_ADDR",
    NotifyType.NO_ADDITIONAL_ADDRESSES: "NO_ADD_ADDR",
    NotifyType.UPDATE_SA_ADDRESSES: "UPD_SA_ADDR",
    NotifyType.NO_NATS_ALLOWED: "NO_NATS",
    NotifyType.AUTH_LIFETIME: "AUTH_LFT",
    NotifyType.MULTIPLE_AUTH_SUPPORTED: "MULT_AUTH",
    NotifyType.ANOTHER_AUTH_FOLLOWS: "AUTH_FOLLOWS",
    NotifyType.REDIRECT_SUPPORTED: "REDIR_SUP",
    NotifyType.REDIRECT: "REDIR",
    NotifyType.REDIRECTED_FROM: "REDIR_FROM",
    NotifyType.TICKET_LT_OPAQUE: "TKT_LT_OPAK",
    NotifyType.TICKET_REQUEST: "TKT_REQ",
    NotifyType.TICKET_ACK: "TKT_ACK",
    NotifyType.TICKET_NACK: "TKT_NACK",
    NotifyType.TICKET_OPAQUE: "TKT_OPAK",
    NotifyType.USE_WESP_MODE: "WESP_MODE",
    NotifyType.ROHC_SUPPORTED: "ROHC_SUP",
    NotifyType.EAP_ONLY_AUTHENTICATION: "EAP_ONLY",
    NotifyType.CHILDLESS_IKEV2_SUPPORTED: "CHDLESS_SUP",
    NotifyType.QUICK_CRASH_DETECTION: "CRASH_DET",
    NotifyType.IKEV2_MESSAGE_ID_SYNC_SUPPORTED: "MSG_ID_SYN_SUP",
    NotifyType.IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED: "RPL_CTR_SYN_SUP",
    NotifyType.IKEV2_MESSAGE_ID_SYNC: "MSG_ID_SYN",
    NotifyType.IPSEC_REPLAY_COUNTER_SYNC: "RPL_CTR_SYN",
    NotifyType.SECURE_PASSWORD_METHODS: "SEC_PASSWD",
    NotifyType.PSK_PERSIST: "PSK_PST",
    NotifyType.PSK_CONFIRM: "PSK_CFM",
    NotifyType.ERX_SUPPORTED: "ERX_SUP",
    NotifyType.IFOM_CAPABILITY: "IFOM_CAP",
    NotifyType.SENDER_REQUEST_ID: "SENDER_REQ_ID",
    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED: "FRAG_SUP",
    NotifyType.SIGNATURE_HASH_ALGORITHMS: "HASH_ALG",
    NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED: "IKE_INT_SUP",
    NotifyType.ADDITIONAL_KEY_EXCHANGE: "ADD_KE",
    NotifyType.PPK_IDENTITY: "PPK_ID",
    NotifyType.NO_PPK_AUTH: "NO_PPK",
}
"""Where the word is not the name of the notify type."""

CP_NAMES = {CpType.CFG_REQUEST: "CPRQ", CpType.CFG_REPLY: "CPRP", CpType.CFG_SET: "CPS", CpType.CFG_ACK: "CPA"}
CP_ATTRIBUTE_NAMES = {
    CpAttributeType.INTERNAL_IP4_ADDRESS: "ADDR",
    CpAttributeType.INTERNAL_IP4_NETMASK: "MASK",
    CpAttributeType.INTERNAL_IP4_DNS: "DNS",
    CpAttributeType.INTERNAL_IP4_NBNS: "NBNS",
    CpAttributeType.INTERNAL_IP4_DHCP: "DHCP",
    CpAttributeType.APPLICATION_VERSION: "VER",
    CpAttributeType.INTERNAL_IP6_ADDRESS: "ADDR6",
    CpAttributeType.INTERNAL_IP6_DNS: "DNS6",
    CpAttributeType.INTERNAL_IP6_DHCP: "DHCP6",
    CpAttributeType.INTERNAL_IP4_SUBNET: "SUBNET",
    CpAttributeType.SUPPORTED_ATTRIBUTES: "SUP",
    CpAttributeType.INTERNAL_IP6_SUBNET: "SUBNET6",
}
EAP_NAMES = {EapCode.REQUEST: "REQ", EapCode.RESPONSE: "RES", EapCode.SUCCESS: "SUCC", EapCode.FAILURE: "FAIL"}
EAP_TYPE_NAMES = {1: "ID", 2: "NOTIFICATION", 3: "NAK", 4: "MD5", 13: "TLS", 21: "TTLS", 25: "PEAP", 26: "MSCHAPV2"}

_ONE_WORD: dict[type[Payload], str] = {
    one: PAYLOAD_NAMES[one.payload_type] for one in (Sa, Ke, IdI, IdR, Cert, CertReq, Auth, Nonce, Delete, TsI, TsR)
}
"""The payloads of which the type is all there is to say."""


def describe_payload(payload: Payload) -> str:
    """One payload in a word or two."""
    word = _ONE_WORD.get(type(payload))
    if word is not None:
        return word
    match payload:
        case Notify(notify_type=notify_type):
            return f"N({NOTIFY_NAMES.get(notify_type) or notify_type})"
        case EncryptedFragment(fragment_number=number, total_fragments=total):
            return f"EF({number}/{total})"
        case Cp(cp_type=cp_type, attributes=attributes):
            words = (CP_ATTRIBUTE_NAMES.get(item.type, f"({int(item.type)})") for item in attributes)
            inside = " ".join(words)
            return CP_NAMES.get(cp_type, f"CP{int(cp_type)}") + (f"({inside})" if inside else "")
        case Eap(code=code, eap_type=eap_type):
            word = f"EAP/{EAP_NAMES.get(code, str(int(code)))}"
            return word if eap_type is None else f"{word}/{EAP_TYPE_NAMES.get(eap_type, str(eap_type))}"
        case Unknown(payload_type=payload_type):
            return f"({int(payload_type)})"
        case _:
            return PAYLOAD_NAMES[payload.payload_type]


def describe_payloads(payloads: Iterable[Payload]) -> str:
    """All payloads: `[ SA KE No ]`, or `[ ]` when there are none."""
    return " ".join(("[", *(describe_payload(payload) for payload in payloads), "]"))
