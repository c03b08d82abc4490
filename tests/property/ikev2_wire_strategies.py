"""Hypothesis strategies for IKEv2 payloads and messages that may be sent."""

from __future__ import annotations

from hypothesis import strategies as st

from ikev2.iana import (
    AttributeType,
    AuthMethod,
    CertEncoding,
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
    TsType,
)
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import (
    PAYLOAD_CLASSES,
    Auth,
    Cert,
    CertReq,
    Cp,
    CpAttribute,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    Payload,
    Proposal,
    Sa,
    TrafficSelector,
    Transform,
    TransformAttribute,
    TsI,
    TsR,
    Unknown,
    VendorId,
)
from ikev2.wire.payloads.cp import ATTRIBUTE_OCTETS, WITH_PREFIX_LENGTH
from ikev2.wire.payloads.notify import DATA_OCTETS

UINT8 = st.integers(0, 0xFF)
UINT16 = st.integers(0, 0xFFFF)
OCTETS = st.binary(max_size=64)


def _attribute_value(attribute_type: int) -> st.SearchStrategy[int | bytes]:
    if attribute_type == AttributeType.KEY_LENGTH:
        return st.one_of(UINT16, st.binary(min_size=3, max_size=5))
    return st.one_of(UINT16, st.binary(max_size=12))


ATTRIBUTES = st.lists(
    st.sampled_from([14, 0, 1, 15, 0x7FFF]).flatmap(
        lambda number: _attribute_value(number).map(lambda value: TransformAttribute(AttributeType(number), value))
    ),
    max_size=3,
    unique_by=lambda attribute: int(attribute.type),
).map(tuple)
TRANSFORMS = st.builds(Transform, UINT8.map(TransformType), UINT16, ATTRIBUTES)
PROTOCOL_AND_SPI = st.one_of(
    st.tuples(st.just(ProtocolId.IKE), st.sampled_from([b"", b"12345678"])),
    st.tuples(st.sampled_from([ProtocolId.AH, ProtocolId.ESP]), st.binary(min_size=4, max_size=4)),
    st.tuples(st.integers(4, 255).map(ProtocolId), st.binary(max_size=16)),
)


@st.composite
def sa_payloads(draw: st.DrawFn) -> Sa:
    first = draw(st.integers(1, 250))
    count = draw(st.integers(1, 4))
    return Sa(
        tuple(
            Proposal(
                first + index,
                *draw(PROTOCOL_AND_SPI),
                draw(st.lists(TRANSFORMS, min_size=1, max_size=5).map(tuple)),
            )
            for index in range(count)
        )
    )


def _identity_data(id_type: int) -> st.SearchStrategy[bytes]:
    match id_type:
        case IdType.ID_IPV4_ADDR:
            return st.binary(min_size=4, max_size=4)
        case IdType.ID_IPV6_ADDR:
            return st.binary(min_size=16, max_size=16)
        case IdType.ID_NULL:
            return st.just(b"")
        case IdType.ID_FQDN | IdType.ID_RFC822_ADDR:
            return st.text(st.characters(codec="ascii", exclude_characters="\0\r\n")).map(str.encode)
        case _:
            return OCTETS


IDENTITY = UINT8.flatmap(lambda number: st.tuples(st.just(IdType(number)), _identity_data(number)))
CERTREQ = st.sampled_from([CertEncoding.X509_SIGNATURE, CertEncoding.HASH_URL_X509]).flatmap(
    lambda encoding: st.integers(0, 3).map(lambda count: CertReq(encoding, bytes(range(20)) * count))
)


@st.composite
def notify_payloads(draw: st.DrawFn) -> Notify:
    notify_type = NotifyType(draw(st.one_of(st.sampled_from(sorted(NotifyType)), UINT16)))
    least, most = DATA_OCTETS.get(notify_type, (0, 40))
    data = draw(st.binary(min_size=least, max_size=most))
    if notify_type == NotifyType.REKEY_SA or draw(st.booleans()):
        protocol = draw(st.sampled_from([ProtocolId.AH, ProtocolId.ESP]))
        return Notify(notify_type, data, protocol, draw(st.binary(min_size=4, max_size=4)))
    return Notify(notify_type, data)


@st.composite
def delete_payloads(draw: st.DrawFn) -> Delete:
    protocol = draw(st.one_of(st.sampled_from([1, 2, 3]), UINT8))
    if protocol == ProtocolId.IKE:
        return Delete.ike()
    size = 4 if protocol in (2, 3) else draw(st.integers(1, 9))
    spis = draw(st.lists(st.binary(min_size=size, max_size=size), max_size=5))
    return Delete(ProtocolId(protocol), size, tuple(spis))


@st.composite
def traffic_selectors(draw: st.DrawFn) -> TrafficSelector:
    ts_type = TsType(draw(st.one_of(st.sampled_from([7, 8]), UINT8)))
    protocol = draw(UINT8)
    if ts_type not in (TsType.TS_IPV4_ADDR_RANGE, TsType.TS_IPV6_ADDR_RANGE):
        return TrafficSelector(ts_type, protocol, 0, 0, draw(OCTETS), b"")
    size = 4 if ts_type == TsType.TS_IPV4_ADDR_RANGE else 16
    addresses = sorted(draw(st.lists(st.binary(min_size=size, max_size=size), min_size=2, max_size=2)))
    ports = [0, 65535] if protocol == 0 else sorted(draw(st.lists(UINT16, min_size=2, max_size=2)))
    if protocol and draw(st.integers(0, 9)) == 0:
        ports = [65535, 0]
    return TrafficSelector(ts_type, protocol, ports[0], ports[1], addresses[0], addresses[1])


SELECTORS = st.lists(traffic_selectors(), min_size=1, max_size=4).map(tuple)


@st.composite
def cp_payloads(draw: st.DrawFn) -> Cp:
    numbers = [*CpAttributeType, CpAttributeType(0), CpAttributeType(0x7FFF)]
    not_sent_alone = (CpAttributeType.INTERNAL_IP4_NETMASK, CpAttributeType.SUPPORTED_ATTRIBUTES)
    attributes = []
    for number in draw(st.lists(st.sampled_from([item for item in numbers if item not in not_sent_alone]))):
        sizes = ATTRIBUTE_OCTETS.get(number)
        size = draw(st.sampled_from(sizes)) if sizes else draw(st.integers(0, 20))
        value = draw(st.binary(min_size=size, max_size=size))
        if number in WITH_PREFIX_LENGTH and value:
            value = value[:16] + bytes([draw(st.integers(0, 128))])
        attributes.append(CpAttribute(number, value))
    return Cp(CpType(draw(UINT8)), tuple(attributes))


EAPS = st.one_of(
    st.builds(
        Eap,
        st.sampled_from([EapCode.REQUEST, EapCode.RESPONSE]),
        UINT8,
        st.binary(min_size=1, max_size=64),
    ),
    st.builds(Eap, st.sampled_from([EapCode.SUCCESS, EapCode.FAILURE, EapCode(99)]), UINT8),
)
UNKNOWN_TYPES = UINT8.filter(lambda number: number and number not in PAYLOAD_CLASSES).map(PayloadType)

PAYLOADS: dict[str, st.SearchStrategy[Payload]] = {
    "SA": sa_payloads(),
    "KE": st.builds(Ke, UINT16.map(KeId), OCTETS),
    "IDi": IDENTITY.map(lambda pair: IdI(*pair)),
    "IDr": IDENTITY.map(lambda pair: IdR(*pair)),
    "CERT": st.builds(Cert, UINT8.map(CertEncoding), st.binary(min_size=21, max_size=64)),
    "CERTREQ": CERTREQ,
    "AUTH": st.builds(Auth, UINT8.map(AuthMethod), OCTETS),
    "NONCE": st.builds(Nonce, st.binary(min_size=16, max_size=256)),
    "N": notify_payloads(),
    "D": delete_payloads(),
    "V": st.builds(VendorId, OCTETS),
    "TSi": SELECTORS.map(TsI),
    "TSr": SELECTORS.map(TsR),
    "CP": cp_payloads(),
    "EAP": EAPS,
    "unknown": st.builds(Unknown, UNKNOWN_TYPES, OCTETS, critical=st.booleans()),
}
ANY_PAYLOAD = st.one_of(*PAYLOADS.values())

PAYLOAD_TYPES = UINT8.map(PayloadType)
FRAGMENT_NUMBERS = st.integers(1, 0xFFFF).flatmap(
    lambda total: st.integers(1, total).map(lambda number: (number, total))
)
ENCRYPTED = st.one_of(
    st.builds(Encrypted, PAYLOAD_TYPES, OCTETS),
    st.builds(
        lambda first, numbers, body: EncryptedFragment(
            first if numbers[0] == 1 else PayloadType.NO_NEXT_PAYLOAD, *numbers, body
        ),
        PAYLOAD_TYPES,
        FRAGMENT_NUMBERS,
        OCTETS,
    ),
)

HEADERS = st.builds(
    Header.to_send,
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
    UINT8.map(ExchangeType),
    st.integers(0, 0xFFFFFFFF),
    is_initiator=st.booleans(),
    is_response=st.just(False),
)
MESSAGES = st.builds(
    lambda header, payloads, sealed: Message(header, (*payloads, *sealed)),
    HEADERS,
    st.lists(ANY_PAYLOAD, max_size=6),
    st.lists(ENCRYPTED, max_size=1),
)
