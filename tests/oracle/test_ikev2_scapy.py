"""scapy's IKEv2 dissector as a second opinion: it reads what we write, and we read what it writes.

Known limits of scapy.contrib.ikev2, left out here: transform attributes other than a TV Key Length; EAP and SK as
octets only; traffic selectors shorter than 16 octets; the default length of its IPv6 selector, which is given
explicitly below.
"""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest

from ikev2.iana import (
    AuthMethod,
    CertEncoding,
    CpAttributeType,
    CpType,
    EapCode,
    EncrId,
    EsnId,
    ExchangeType,
    IdType,
    IntegId,
    KeId,
    NotifyType,
    OpenIntEnum,
    PayloadType,
    PrfId,
    ProtocolId,
    TransformType,
    TsType,
)
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import (
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
    TsI,
    TsR,
    Unknown,
    VendorId,
)

scapy = pytest.importorskip("scapy.contrib.ikev2", reason="scapy is not installed")

SPI_I, SPI_R = bytes(range(1, 9)), bytes(range(0xF1, 0xF9))


def ours(payloads: tuple[Payload, ...], *, exchange: ExchangeType = ExchangeType.IKE_AUTH) -> bytes:
    header = Header.to_send(SPI_I, SPI_R, exchange, 5, is_initiator=True, is_response=False)
    return Message(header, payloads).encode()


def layers(octets: bytes) -> list[Any]:
    """The payload layers that scapy finds; a complaint of scapy's is a failure of the test."""
    packet = scapy.IKEv2(octets)
    assert packet.init_SPI == SPI_I
    found = []
    layer = packet.payload
    while layer:
        found.append(layer)
        layer = layer.payload
    return found


def one_layer(payload: Payload) -> Any:
    (layer,) = layers(ours((payload,)))
    assert layer.next_payload == 0
    assert int(layer.flags) == 0
    return layer


def theirs(*payload_layers: Any, exchange: int = 35) -> bytes:
    """A message that scapy builds, with all its lengths and next payload fields."""
    packet = scapy.IKEv2(init_SPI=SPI_I, resp_SPI=SPI_R, exch_type=exchange, flags="Initiator", id=5)
    for layer in payload_layers:
        packet = packet / layer
    return bytes(packet)


def read_one(layer: Any) -> Payload:
    (payload,) = Message.parse(theirs(layer)).payloads
    return payload


# --- the header ---


@pytest.mark.parametrize("exchange", [34, 35, 36, 37, 43])
@pytest.mark.parametrize("initiator", [False, True])
@pytest.mark.parametrize("response", [False, True])
def test_scapy_reads_our_header(exchange: int, initiator: bool, response: bool) -> None:
    header = Header.to_send(
        SPI_I, SPI_R, ExchangeType(exchange), 0x01020304, is_initiator=initiator, is_response=response
    )
    octets = Message(header, (VendorId(b"v"),)).encode()
    packet = scapy.IKEv2(octets)
    assert (packet.init_SPI, packet.resp_SPI) == (SPI_I, SPI_R)
    assert (packet.next_payload, packet.version, packet.exch_type) == (43, 0x20, exchange)
    assert (packet.id, packet.length) == (0x01020304, len(octets))
    assert bool(packet.flags.Initiator) is initiator
    assert bool(packet.flags.Response) is response
    assert not packet.flags.Version


@pytest.mark.parametrize("flags", [0, 0x08, 0x20, 0x28, 0x10, 0xFF])
def test_we_read_scapys_header(flags: int) -> None:
    packet = scapy.IKEv2(init_SPI=SPI_I, resp_SPI=SPI_R, version=0x25, exch_type=37, flags=flags, id=77)
    header = Message.parse(bytes(packet)).header
    assert (header.initiator_spi, header.responder_spi) == (SPI_I, SPI_R)
    assert (header.major_version, header.minor_version) == (2, 5)
    assert (header.exchange_type, header.message_id, header.length) == (37, 77, 28)
    assert header.is_initiator == bool(flags & 0x08)
    assert header.higher_version == bool(flags & 0x10)
    assert header.is_response == bool(flags & 0x20)
    assert header.reserved_flags == flags & 0xC7


# --- SA ---

IKE_TRANSFORMS = (
    Transform.of(TransformType.ENCR, EncrId.AES_CBC, 256),
    Transform.of(TransformType.ENCR, EncrId.AES_GCM_16, 128),
    Transform.of(TransformType.ENCR, EncrId.CHACHA20_POLY1305),
    Transform.of(TransformType.PRF, PrfId.HMAC_SHA2_512),
    Transform.of(TransformType.INTEG, IntegId.HMAC_SHA2_256_128),
    Transform.of(TransformType.KE, KeId.MODP_2048),
    Transform.of(TransformType.KE, KeId.CURVE25519),
)
ESP_TRANSFORMS = (
    Transform.of(TransformType.ENCR, EncrId.AES_GCM_16, 256),
    Transform.of(TransformType.ESN, EsnId.NO_ESN),
)
PROPOSALS = (
    Proposal(1, ProtocolId.IKE, b"", IKE_TRANSFORMS),
    Proposal(2, ProtocolId.IKE, b"12345678", IKE_TRANSFORMS[2:4]),
    Proposal(3, ProtocolId.ESP, b"\xc0\xff\xee\x01", ESP_TRANSFORMS),
    Proposal(4, ProtocolId.AH, b"\x00\x00\x10\x00", ESP_TRANSFORMS[1:]),
)


def as_scapy_reads(proposals: tuple[Proposal, ...]) -> list[tuple[Any, ...]]:
    return [
        (
            proposal.number,
            int(proposal.protocol),
            len(proposal.spi),
            len(proposal.transforms),
            proposal.spi,
            [(int(item.type), int(item.id), item.key_bits) for item in proposal.transforms],
        )
        for proposal in proposals
    ]


def scapy_proposals(layer: Any) -> list[tuple[Any, ...]]:
    found = []
    proposal = layer.prop
    while proposal:
        transforms = []
        transform = proposal.trans
        while transform:
            transforms.append((transform.transform_type, transform.transform_id, transform.key_length))
            transform = transform.payload
        found.append(
            (
                proposal.proposal,
                proposal.proto,
                proposal.SPIsize,
                proposal.trans_nb,
                proposal.SPI,
                transforms,
            )
        )
        proposal = proposal.payload
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_scapy_reads_our_proposals(count: int) -> None:
    layer = one_layer(Sa(PROPOSALS[:count]))
    assert isinstance(layer, scapy.IKEv2_SA)
    assert scapy_proposals(layer) == as_scapy_reads(PROPOSALS[:count])


def build_transforms(transforms: tuple[Transform, ...]) -> Any:
    built = None
    for index, transform in enumerate(transforms):
        fields: dict[str, Any] = {"transform_type": int(transform.type), "transform_id": int(transform.id)}
        if transform.key_bits is not None:
            fields |= {"length": 12, "key_length": transform.key_bits}
        layer = scapy.IKEv2_Transform(next_payload=0 if index == len(transforms) - 1 else 3, **fields)
        built = layer if built is None else built / layer
    return built


def build_proposals(proposals: tuple[Proposal, ...]) -> Any:
    built = None
    for index, proposal in enumerate(proposals):
        layer = scapy.IKEv2_Proposal(
            next_payload=0 if index == len(proposals) - 1 else 2,
            proposal=proposal.number,
            proto=int(proposal.protocol),
            trans_nb=len(proposal.transforms),
            SPI=proposal.spi,
            trans=build_transforms(proposal.transforms),
        )
        built = layer if built is None else built / layer
    return built


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_we_read_scapys_proposals(count: int) -> None:
    assert read_one(scapy.IKEv2_SA(prop=build_proposals(PROPOSALS[:count]))) == Sa(PROPOSALS[:count])


# --- the payloads of plain fields: name of the layer, its fields, our object ---

HASHES = bytes(range(40))
V4_ADDRESS, V6_ADDRESS = ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7")

PLAIN: dict[str, tuple[str, dict[str, Any], Payload]] = {
    "KE": ("IKEv2_KE", {"group": 31, "ke": b"k" * 32}, Ke(KeId.CURVE25519, b"k" * 32)),
    "IDi FQDN": ("IKEv2_IDi", {"IDtype": 2, "ID": b"a.example"}, IdI(IdType.ID_FQDN, b"a.example")),
    "IDi IPv4": ("IKEv2_IDi", {"IDtype": 1, "ID": "192.0.2.7"}, IdI(IdType.ID_IPV4_ADDR, V4_ADDRESS.packed)),
    "IDr IPv6": ("IKEv2_IDr", {"IDtype": 5, "ID": "2001:db8::7"}, IdR(IdType.ID_IPV6_ADDR, V6_ADDRESS.packed)),
    "IDr e-mail": ("IKEv2_IDr", {"IDtype": 3, "ID": b"a@b.example"}, IdR(IdType.ID_RFC822_ADDR, b"a@b.example")),
    "IDr key id": ("IKEv2_IDr", {"IDtype": 11, "ID": b"\x00\x01"}, IdR(IdType.ID_KEY_ID, b"\x00\x01")),
    "CERT hash and URL": (
        "IKEv2_CERT",
        {"cert_encoding": 12, "cert_data": HASHES[:20] + b"http://a"},
        Cert(CertEncoding.HASH_URL_X509, HASHES[:20] + b"http://a"),
    ),
    "CERTREQ": (
        "IKEv2_CERTREQ",
        {"cert_encoding": 4, "cert_authority": HASHES},
        CertReq.of((HASHES[:20], HASHES[20:])),
    ),
    "AUTH": ("IKEv2_AUTH", {"auth_type": 2, "load": b"m" * 32}, Auth(AuthMethod.SHARED_KEY_MIC, b"m" * 32)),
    "Nonce": ("IKEv2_Nonce", {"nonce": HASHES}, Nonce(HASHES)),
    "V": ("IKEv2_VendorID", {"vendorID": b"vendor"}, VendorId(b"vendor")),
    "N": (
        "IKEv2_Notify",
        {"proto": 0, "SPIsize": 0, "type": 16390, "SPI": b"", "notify": b"cookie"},
        Notify(NotifyType.COOKIE, b"cookie"),
    ),
    "N with SPI": (
        "IKEv2_Notify",
        {"proto": 3, "SPIsize": 4, "type": 16393, "SPI": b"olds", "notify": b""},
        Notify(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"olds"),
    ),
    "N with SPI and data": (
        "IKEv2_Notify",
        {"proto": 2, "SPIsize": 4, "type": 39, "SPI": b"olds", "notify": b"packet"},
        Notify(NotifyType.INVALID_SELECTORS, b"packet", ProtocolId.AH, b"olds"),
    ),
    "D IKE": ("IKEv2_Delete", {"proto": 1, "SPIsize": 0, "SPInum": 0, "SPI": []}, Delete.ike()),
    "D ESP": (
        "IKEv2_Delete",
        {"proto": 3, "SPIsize": 4, "SPInum": 2, "SPI": [b"spi1", b"spi2"]},
        Delete.esp(b"spi1", b"spi2"),
    ),
    "SKF": (
        "IKEv2_Encrypted_Fragment",
        {"frag_number": 2, "frag_total": 3, "load": b"sealed"},
        EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, 2, 3, b"sealed"),
    ),
    "SK": ("IKEv2_Encrypted", {"load": b"sealed"}, Encrypted(PayloadType.NO_NEXT_PAYLOAD, b"sealed")),
    "EAP": ("IKEv2_EAP", {"load": bytes.fromhex("0207000601ff")}, Eap(EapCode.RESPONSE, 7, b"\x01\xff")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_scapy_reads_our_payload(name: str) -> None:
    layer_name, fields, payload = PLAIN[name]
    layer = one_layer(payload)
    assert type(layer).__name__ == layer_name
    assert {field: getattr(layer, field) for field in fields} == fields
    assert layer.length == len(ours((payload,))) - 28


@pytest.mark.parametrize("name", PLAIN)
def test_we_read_scapys_payload(name: str) -> None:
    layer_name, fields, payload = PLAIN[name]
    assert read_one(getattr(scapy, layer_name)(next_payload=0, **fields)) == payload


def test_scapy_reads_a_certificate_that_we_carry() -> None:
    """An X.509 certificate goes through unchanged: scapy takes it for one and gives its octets back."""
    from scapy.layers.x509 import X509_Cert

    der = bytes(X509_Cert())
    layer = one_layer(Cert(CertEncoding.X509_SIGNATURE, der))
    assert bytes(layer.cert_data) == der
    assert read_one(scapy.IKEv2_CERT(next_payload=0, cert_encoding=4, cert_data=X509_Cert())) == Cert(
        CertEncoding.X509_SIGNATURE, der
    )


# --- traffic selectors ---

SELECTORS = (
    TrafficSelector.from_network("192.0.2.0/24"),
    TrafficSelector.from_network("198.51.100.66/32", 17, 100, 200),
    TrafficSelector.from_network("2001:db8::/32", 6, 443, 443),
)


def scapy_selector(selector: TrafficSelector) -> Any:
    fields = {
        "IP_protocol_ID": selector.ip_protocol,
        "start_port": selector.start_port,
        "end_port": selector.end_port,
    }
    if selector.ts_type == 7:
        return scapy.IPv4TrafficSelector(
            starting_address_v4=str(selector.start_ip), ending_address_v4=str(selector.end_ip), **fields
        )
    return scapy.IPv6TrafficSelector(
        length=40, starting_address_v6=str(selector.start_ip), ending_address_v6=str(selector.end_ip), **fields
    )


@pytest.mark.parametrize(("ours_class", "layer_name"), [(TsI, "IKEv2_TSi"), (TsR, "IKEv2_TSr")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_scapy_reads_our_traffic_selectors(ours_class: type[TsI], layer_name: str, count: int) -> None:
    layer = one_layer(ours_class(SELECTORS[:count]))
    assert type(layer).__name__ == layer_name
    assert layer.number_of_TSs == count
    assert len(layer.traffic_selector) == count
    for read, selector in zip(layer.traffic_selector, SELECTORS[:count], strict=True):
        assert read.TS_type == selector.ts_type
        assert (read.IP_protocol_ID, read.start_port, read.end_port) == (
            selector.ip_protocol,
            selector.start_port,
            selector.end_port,
        )
        version = "v4" if selector.ts_type == 7 else "v6"
        assert getattr(read, f"starting_address_{version}") == str(selector.start_ip)
        assert getattr(read, f"ending_address_{version}") == str(selector.end_ip)


@pytest.mark.parametrize(("ours_class", "layer_name"), [(TsI, "IKEv2_TSi"), (TsR, "IKEv2_TSr")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_we_read_scapys_traffic_selectors(ours_class: type[TsI], layer_name: str, count: int) -> None:
    layer = getattr(scapy, layer_name)(
        next_payload=0, traffic_selector=[scapy_selector(item) for item in SELECTORS[:count]]
    )
    assert read_one(layer) == ours_class(SELECTORS[:count])


def test_a_selector_type_that_we_keep_as_octets_is_scapys_fibre_channel_selector() -> None:
    built = scapy.EncryptedTrafficSelector(
        IP_protocol_ID=0, starting_address_FC=0x010203, ending_address_FC=0x040506, ending_type=9
    )
    payload = read_one(scapy.IKEv2_TSi(next_payload=0, traffic_selector=[built]))
    assert isinstance(payload, TsI)
    assert payload.selectors[0].start_address == bytes(built)[4:]
    assert bytes(one_layer(payload).traffic_selector[0]) == bytes(built)


# --- configuration ---

CP = Cp(
    CpType.CFG_REPLY,
    (
        CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS, V4_ADDRESS.packed),
        CpAttribute(CpAttributeType.INTERNAL_IP6_DNS, V6_ADDRESS.packed),
        CpAttribute(CpAttributeType.APPLICATION_VERSION, b"some version"),
        CpAttribute(CpAttributeType.INTERNAL_IP4_DHCP, b""),
    ),
)


def test_scapy_reads_our_configuration() -> None:
    layer = one_layer(CP)
    assert layer.CFGType == 2
    assert [(item.type, item.length, item.value) for item in layer.attributes] == [
        (1, 4, "192.0.2.7"),
        (10, 16, "2001:db8::7"),
        (7, 12, b"some version"),
        (6, 0, b""),
    ]


def test_we_read_scapys_configuration() -> None:
    attributes = [
        scapy.ConfigurationAttribute(type=1, length=4, value="192.0.2.7"),
        scapy.ConfigurationAttribute(type=10, length=16, value="2001:db8::7"),
        scapy.ConfigurationAttribute(type=7, value=b"some version"),
        scapy.ConfigurationAttribute(type=6, length=0, value=b""),
    ]
    assert read_one(scapy.IKEv2_CP(next_payload=0, CFGType=2, attributes=attributes)) == CP


# --- whole messages ---


def test_scapy_reads_the_chain_of_our_message() -> None:
    payloads = (
        Sa(PROPOSALS[:1]),
        Ke(KeId.CURVE25519, b"k" * 32),
        Nonce(HASHES),
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(20)),
        CertReq.of((HASHES[:20],)),
        VendorId(b"v"),
    )
    found = layers(ours(payloads, exchange=ExchangeType.IKE_SA_INIT))
    assert [type(layer).__name__ for layer in found] == [
        "IKEv2_SA",
        "IKEv2_KE",
        "IKEv2_Nonce",
        "IKEv2_Notify",
        "IKEv2_Notify",
        "IKEv2_CERTREQ",
        "IKEv2_VendorID",
    ]
    assert [layer.next_payload for layer in found] == [34, 40, 41, 41, 38, 43, 0]


def test_scapy_reads_the_first_payload_type_of_our_encrypted_payload() -> None:
    octets = ours((Encrypted(PayloadType.IDi, b"sealed"),))
    layer = scapy.IKEv2(octets).payload
    assert (type(layer).__name__, layer.next_payload, layer.load) == ("IKEv2_Encrypted", 35, b"sealed")
    packet = scapy.IKEv2(init_SPI=SPI_I, resp_SPI=SPI_R, exch_type=35, next_payload=46) / scapy.IKEv2_Encrypted(
        next_payload=35, load=b"sealed"
    )
    assert Message.parse(bytes(packet)).payloads == (Encrypted(PayloadType.IDi, b"sealed"),)


def test_scapy_sees_the_critical_bit_of_our_unknown_payload() -> None:
    octets = ours((Unknown(PayloadType(201), b"?", critical=True), VendorId(b"v")))
    first, second = layers(octets)
    assert (first.flags.critical, first.load) == (True, b"?")
    assert (second.flags.critical, second.vendorID) == (False, b"v")


def test_messages_of_random_payloads_are_read_alike_in_both_directions() -> None:
    """500 messages, each a random chain of the payloads above: built by us and by scapy, octet for octet the same."""
    generator = random.Random(7296)
    names = [name for name in PLAIN if name not in ("SK", "SKF")]
    for _ in range(500):
        chosen = [PLAIN[generator.choice(names)] for _ in range(generator.randint(1, 8))]
        payloads = tuple(payload for _, _, payload in chosen)
        octets = ours(payloads)
        built = theirs(*(getattr(scapy, layer_name)(**fields) for layer_name, fields, _ in chosen))
        assert built == octets
        assert Message.parse(built).payloads == payloads
        for layer, (layer_name, fields, _) in zip(layers(octets), chosen, strict=True):
            assert type(layer).__name__ == layer_name
            assert {field: getattr(layer, field) for field in fields} == fields


# --- the registries: scapy's numbers against ours ---


def by_number(registry: type[OpenIntEnum]) -> dict[int, str]:
    return {int(member): member.name for member in registry}


def test_notify_types_that_scapy_names_like_us_have_our_numbers() -> None:
    mine = by_number(NotifyType)
    agreed = {number for number, name in scapy.IKEv2NotifyMessageTypes.items() if mine.get(number) == name}
    assert len(agreed) > 60
    for number, name in scapy.IKEv2NotifyMessageTypes.items():
        if name in NotifyType.__members__:
            assert NotifyType[name] == number


@pytest.mark.parametrize(
    ("table", "registry"),
    [
        ("IKEv2ConfigurationAttributeTypes", CpAttributeType),
        ("IKEv2ConfigurationPayloadCFGTypes", CpType),
        ("IKEv2TrafficSelectorTypes", TsType),
        ("IKEv2ExchangeTypes", ExchangeType),
    ],
)
def test_names_and_numbers_are_scapys(table: str, registry: type[OpenIntEnum]) -> None:
    mine = by_number(registry)
    assert {number: mine.get(number) for number in getattr(scapy, table)} == getattr(scapy, table)


@pytest.mark.parametrize(
    ("transform_type", "registry", "without_a_name"),
    [(1, EncrId, {32, 33}), (2, PrfId, {9}), (3, IntegId, set()), (4, KeId, set()), (5, EsnId, set())],
)
def test_every_transform_id_of_scapys_has_a_name_here(
    transform_type: int, registry: type[OpenIntEnum], without_a_name: set[int]
) -> None:
    assert set(scapy.IKEv2TransformAlgorithms[transform_type]) - set(by_number(registry)) == without_a_name


def test_every_other_number_of_scapys_has_a_name_here() -> None:
    assert set(scapy.IKEv2PayloadTypes) - set(by_number(PayloadType)) == {2, 3}
    assert set(scapy.IKEv2AuthenticationTypes) - set(by_number(AuthMethod)) == {0}
    assert set(scapy.IKEv2CertificateEncodings) - set(by_number(CertEncoding)) == set()
