"""Every payload against octets laid out from the figures of RFC 7296 section 3 and RFC 7383 section 2.5.

Each golden begins with the generic payload header of figure 5: Next Payload, C|RESERVED, Payload Length.
"""

from __future__ import annotations

import ipaddress

import pytest

from ikev2.errors import InvalidSyntax, LocalProtocolError, ProtocolError
from ikev2.iana import (
    AuthMethod,
    CertEncoding,
    CpAttributeType,
    CpType,
    EapCode,
    IdType,
    KeId,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from ikev2.wire.message import encode_payload, parse_payloads
from ikev2.wire.payloads import (
    PAYLOAD_CLASSES,
    Auth,
    Cert,
    CertReq,
    Cp,
    CpAttribute,
    Delete,
    Eap,
    EncryptedFragment,
    IdI,
    IdR,
    Ke,
    Nonce,
    Notify,
    Payload,
    Unknown,
    VendorId,
)

SHA1_A = bytes(range(20))
SHA1_B = bytes(range(20, 40))

GOLDEN: dict[str, tuple[Payload, str]] = {
    # Figure 10: Diffie-Hellman Group Num, RESERVED, Key Exchange Data
    "ke": (Ke(KeId.CURVE25519, b"\xaa" * 4), "00 00 000c  001f 0000  aaaaaaaa"),
    # Figure 11: ID Type, RESERVED, Identification Data
    "idi-ipv4": (IdI(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])), "00 00 000c  01 000000  c0000201"),
    "idr-fqdn": (IdR(IdType.ID_FQDN, b"example.com"), "00 00 0013  02 000000  6578616d706c652e636f6d"),
    "idi-rfc822": (IdI(IdType.ID_RFC822_ADDR, b"a@b.example"), "00 00 0013  03 000000  6140622e6578616d706c65"),
    "idr-ipv6": (
        IdR(IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8000000000000000000000001")),
        "00 00 0018  05 000000  20010db8 00000000 00000000 00000001",
    ),
    "idi-key-id": (IdI(IdType.ID_KEY_ID, b"\x00\x0d"), "00 00 000a  0b 000000  000d"),
    "idi-dn": (IdI(IdType.ID_DER_ASN1_DN, b"\x30\x00"), "00 00 000a  09 000000  3000"),
    "idi-null": (IdI(IdType.ID_NULL, b""), "00 00 0008  0d 000000"),
    # Figure 12: Cert Encoding, Certificate Data
    "cert": (Cert(CertEncoding.X509_SIGNATURE, b"\x30\x03\x02\x01\x05"), "00 00 000a  04 3003020105"),
    "cert-hash-and-url": (
        Cert(CertEncoding.HASH_URL_X509, SHA1_A + b"http://a"),
        "00 00 0021  0c 000102030405060708090a0b0c0d0e0f10111213 687474703a2f2f61",
    ),
    # Figure 13: Cert Encoding, Certification Authority (concatenated SHA-1 hashes)
    "certreq": (
        CertReq.of((SHA1_A, SHA1_B)),
        "00 00 002d  04 000102030405060708090a0b0c0d0e0f10111213 1415161718191a1b1c1d1e1f2021222324252627",
    ),
    # Figure 14: Auth Method, RESERVED, Authentication Data
    "auth": (Auth(AuthMethod.SHARED_KEY_MIC, b"\x55" * 3), "00 00 000b  02 000000  555555"),
    # Figure 15: Nonce Data
    "nonce": (Nonce(bytes(range(16))), "00 00 0014  000102030405060708090a0b0c0d0e0f"),
    # Figure 16: Protocol ID, SPI Size, Notify Message Type, SPI, Notification Data
    "notify-status": (Notify(NotifyType.INITIAL_CONTACT), "00 00 0008  00 00 4000"),
    "notify-data": (Notify(NotifyType.COOKIE, b"\x01\x02"), "00 00 000a  00 00 4006  0102"),
    "notify-group": (Notify(NotifyType.INVALID_KE_PAYLOAD, b"\x00\x1f"), "00 00 000a  00 00 0011  001f"),
    "notify-spi": (
        Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"\xc0\xff\xee\x01"),
        "00 00 000c  03 04 4009  c0ffee01",
    ),
    "notify-ah-spi-data": (
        Notify(NotifyType.INVALID_SELECTORS, b"\x45", ProtocolId.AH, b"\x00\x00\x10\x00"),
        "00 00 000d  02 04 0027  00001000 45",
    ),
    "notify-unknown": (Notify(NotifyType(40999), b"\x07"), "00 00 0009  00 00 a027  07"),
    # Figure 17: Protocol ID, SPI Size, Num of SPIs, SPIs
    "delete-ike": (Delete.ike(), "00 00 0008  01 00 0000"),
    "delete-esp": (
        Delete.esp(b"\x00\x00\x10\x01", b"\x00\x00\x10\x02"),
        "00 00 0010  03 04 0002  00001001 00001002",
    ),
    "delete-ah": (Delete(ProtocolId.AH, 4, (b"\x00\x00\x10\x01",)), "00 00 000c  02 04 0001  00001001"),
    # Figure 18: Vendor ID
    "vendor-id": (VendorId(b"strongSwan"), "00 00 000e  7374726f6e675377616e"),
    # RFC 7383 section 2.5: Fragment Number, Total Fragments, then IV, content, ICV
    "skf": (
        EncryptedFragment(PayloadType.NO_NEXT_PAYLOAD, 2, 3, b"\xee" * 4),
        "00 00 000c  0002 0003  eeeeeeee",
    ),
    # Figures 22 and 23: CFG Type, RESERVED; R|Attribute Type, Length, Value
    "cp-request": (
        Cp(
            CpType.CFG_REQUEST,
            (CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS), CpAttribute(CpAttributeType.INTERNAL_IP4_DNS)),
        ),
        "00 00 0010  01 000000  0001 0000  0003 0000",
    ),
    "cp-reply": (
        Cp(
            CpType.CFG_REPLY,
            (
                CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS, bytes([192, 0, 2, 9])),
                CpAttribute(CpAttributeType.INTERNAL_IP6_ADDRESS, bytes.fromhex("20010db8" + "00" * 11 + "0540")),
            ),
        ),
        "00 00 0025  02 000000  0001 0004 c0000209  0008 0011 20010db8 00000000 00000000 00000005 40",
    ),
    "cp-empty": (Cp(CpType.CFG_ACK), "00 00 0008  04 000000"),
    # Figures 24 and 25: Code, Identifier, Length, Type, Type_Data
    "eap-request": (Eap(EapCode.REQUEST, 7, b"\x01"), "00 00 0009  01 07 0005 01"),
    "eap-response": (Eap(EapCode.RESPONSE, 7, b"\x01me"), "00 00 000b  02 07 0007 01 6d65"),
    "eap-success": (Eap(EapCode.SUCCESS, 8), "00 00 0008  03 08 0004"),
    "eap-failure": (Eap(EapCode.FAILURE, 9), "00 00 0008  04 09 0004"),
    # Section 2.5: a type that nobody knows
    "unknown": (Unknown(PayloadType(201), b"\x01\x02\x03"), "00 00 0007  010203"),
    "unknown-critical": (Unknown(PayloadType(201), b"", critical=True), "00 80 0004"),
}


def octets_of(name: str) -> bytes:
    return bytes.fromhex(GOLDEN[name][1])


def parse_one(payload_type: PayloadType, octets: bytes) -> Payload:
    if payload_type in (PayloadType.SK, PayloadType.SKF):
        return PAYLOAD_CLASSES[payload_type].parse_body(octets[4:])
    (payload,) = parse_payloads(payload_type, octets)
    return payload


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.req("rfc7296-s3.8-03", "rfc7296-s3.15-01", "rfc7296-s3.15.1-01")
def test_a_payload_is_written_as_the_octets_of_its_figure(name: str) -> None:
    payload, _ = GOLDEN[name]
    assert encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD) == octets_of(name)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_payload_is_read_from_the_octets_of_its_figure(name: str) -> None:
    payload, _ = GOLDEN[name]
    assert parse_one(payload.payload_type, octets_of(name)) == payload


@pytest.mark.parametrize("name", [name for name in GOLDEN if name not in ("vendor-id", "unknown")])
def test_no_golden_payload_reads_when_cut_short_unless_its_tail_is_free(name: str) -> None:
    """Cut at every octet with the length field corrected: what still reads is shorter data, never another error."""
    payload, _ = GOLDEN[name]
    octets = octets_of(name)
    for end in range(4, len(octets)):
        cut = octets[:2] + end.to_bytes(2, "big") + octets[4:end]
        try:
            read = parse_one(payload.payload_type, cut)
        except ProtocolError:
            continue
        assert encode_payload(read, PayloadType.NO_NEXT_PAYLOAD) == bytes([0, octets[1]]) + cut[2:]


@pytest.mark.req("rfc7296-s3.2-06", "rfc7296-s3.2-04", "rfc7296-s2.5-07", "rfc7296-s3.12-02")
@pytest.mark.parametrize("payload_class", [VendorId, Nonce])
def test_reserved_bits_and_the_critical_bit_of_a_known_type_are_kept_and_not_sent_again(
    payload_class: type[VendorId] | type[Nonce],
) -> None:
    octets = b"\x00\xff\x00\x14" + bytes(16)
    (payload,) = parse_payloads(payload_class.payload_type, octets)
    assert (payload.critical, payload.reserved) == (True, 0x7F)
    assert encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)[1] == 0


@pytest.mark.req("rfc7296-s3.2-03", "rfc7296-s3.2-07", "rfc7296-s2.5-08")
@pytest.mark.parametrize("name", [name for name in GOLDEN if not name.startswith("unknown")])
def test_the_critical_bit_and_reserved_bits_change_nothing_for_a_known_type(name: str) -> None:
    payload, _ = GOLDEN[name]
    octets = octets_of(name)
    if payload.payload_type == PayloadType.SKF:
        read: Payload = EncryptedFragment.parse_body(octets[4:], critical=True, reserved=0x55)
    else:
        read = parse_one(payload.payload_type, octets[:1] + b"\xd5" + octets[2:])
    assert (read.critical, read.reserved) == (True, 0x55)
    assert read.encode_body() == payload.encode_body()


@pytest.mark.req("rfc7296-s3.2-01", "rfc7296-s3.2-02")
@pytest.mark.parametrize("critical", [False, True])
def test_the_critical_bit_of_an_unknown_type_is_sent_and_read(critical: bool) -> None:
    payload = Unknown(PayloadType(201), b"data", critical=critical)
    octets = encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)
    assert octets[1] == (0x80 if critical else 0)
    assert parse_payloads(PayloadType(201), octets) == (payload,)


@pytest.mark.req("rfc7296-s3.5-02", "rfc7296-s3.8-04", "rfc7296-s3.15-02", "rfc7296-s3.15.1-02", "rfc7296-s2.5-08")
@pytest.mark.parametrize(
    ("name", "positions"),
    [("ke", (6, 7)), ("idi-ipv4", (5, 6, 7)), ("auth", (5, 6, 7)), ("cp-request", (5, 6, 7))],
)
def test_reserved_fields_are_ignored(name: str, positions: tuple[int, ...]) -> None:
    payload, _ = GOLDEN[name]
    octets = bytearray(octets_of(name))
    for position in positions:
        octets[position] = 0xFF
    if name == "cp-request":
        octets[8] |= 0x80  # the R bit of the first attribute
    read = parse_one(payload.payload_type, bytes(octets))
    if isinstance(read, IdI):
        assert (read.id_type, read.data) == (IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1]))
    else:
        assert read == payload


@pytest.mark.req("rfc7296-s3.5-01")
def test_an_identity_keeps_its_reserved_octets_because_auth_is_computed_over_them() -> None:
    identity = IdI.parse_body(bytes.fromhex("01 a1a2a3 c0000201"))
    assert identity.body() == bytes.fromhex("01 a1a2a3 c0000201")
    with pytest.raises(LocalProtocolError):
        encode_payload(identity, PayloadType.NO_NEXT_PAYLOAD)


REFUSED = {
    "ke of three octets": (PayloadType.KE, "00 00 0007  001f00"),
    "id without data or reserved": (PayloadType.IDi, "00 00 0006  0100"),
    "ipv4 id of 5 octets": (PayloadType.IDi, "00 00 000d  01000000 c000020101"),
    "ipv6 id of 4 octets": (PayloadType.IDr, "00 00 000c  05000000 c0000201"),
    "null id with data": (PayloadType.IDi, "00 00 0009  0d000000 00"),
    "cert without encoding": (PayloadType.CERT, "00 00 0004"),
    "hash and url without a url": (PayloadType.CERT, "00 00 0019  0c" + "00" * 20),
    "certreq of 19 octets": (PayloadType.CERTREQ, "00 00 0018  04" + "00" * 19),
    "auth of two octets": (PayloadType.AUTH, "00 00 0006  0200"),
    "notify of three octets": (PayloadType.N, "00 00 0007  000040"),
    "notify with an spi beyond the end": (PayloadType.N, "00 00 000a  03044009 c0ff"),
    "notify about an ike sa with an spi": (PayloadType.N, "00 00 0010  01084000 0102030405060708"),
    "notify about esp with an spi of 8": (PayloadType.N, "00 00 0010  03084009 0102030405060708"),
    "rekey without an spi": (PayloadType.N, "00 00 0008  00004009"),
    "rekey of no protocol": (PayloadType.N, "00 00 000c  00044009 01020304"),
    "delete with an spi short": (PayloadType.D, "00 00 000c  03040002 00001001"),
    "delete with octets left over": (PayloadType.D, "00 00 000d  03040001 00001001 00"),
    "delete of esp with spis of 8": (PayloadType.D, "00 00 0010  03080001 0000100100001001"),
    "delete of esp with spis of none": (PayloadType.D, "00 00 0008  03000000"),
    "delete of ike with an spi": (PayloadType.D, "00 00 0010  01080001 0000100100001001"),
    "delete of 65535 spis of no octets": (PayloadType.D, "00 00 0008  0900ffff"),
    "cp attribute beyond the end": (PayloadType.CP, "00 00 000e  01000000 00010004 c000"),
    "cp ends inside an attribute": (PayloadType.CP, "00 00 000a  01000000 0001"),
    "cp without reserved": (PayloadType.CP, "00 00 0006  0100"),
    "ip4 address of 3 octets": (PayloadType.CP, "00 00 000f  02000000 00010003 c00002"),
    "ip6 address of 16 octets": (PayloadType.CP, "00 00 001c  02000000 00080010" + "00" * 16),
    "ip6 address with a prefix length of 129": (PayloadType.CP, "00 00 001d  02000000 00080011" + "00" * 16 + "81"),
    "supported attributes of 3 octets": (PayloadType.CP, "00 00 000f  02000000 000e0003 000100"),
    "supported attributes with a value in a request": (PayloadType.CP, "00 00 000e  01000000 000e0002 0001"),
    "eap of three octets": (PayloadType.EAP, "00 00 0007  010700"),
    "eap length too small": (PayloadType.EAP, "00 00 0009  01070004 01"),
    "eap length too large": (PayloadType.EAP, "00 00 0009  01070006 01"),
    "eap request without a type": (PayloadType.EAP, "00 00 0008  01070004"),
    "eap success with a type": (PayloadType.EAP, "00 00 0009  03070005 01"),
    "eap of another code with a type": (PayloadType.EAP, "00 00 0009  09070005 01"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.req(
    "rfc7296-s3.10-04", "rfc7296-s3.11-03", "rfc7296-s3.15.1-05", "rfc7296-s3.16-02", "rfc7296-s3.16-03"
)
def test_a_malformed_payload_is_invalid_syntax(name: str) -> None:
    payload_type, octets = REFUSED[name]
    with pytest.raises(InvalidSyntax) as caught:
        parse_payloads(payload_type, bytes.fromhex(octets))
    assert caught.value.payload == payload_type


@pytest.mark.req("rfc7296-s3.9-01")
@pytest.mark.parametrize(("octets", "good"), [(15, False), (16, True), (256, True), (257, False)])
def test_a_nonce_has_16_to_256_octets_in_both_directions(octets: int, good: bool) -> None:
    wire = b"\x00\x00" + (4 + octets).to_bytes(2, "big") + bytes(octets)
    if good:
        assert parse_payloads(PayloadType.NONCE, wire) == (Nonce(bytes(octets)),)
        assert encode_payload(Nonce(bytes(octets)), PayloadType.NO_NEXT_PAYLOAD) == wire
        return
    with pytest.raises(InvalidSyntax):
        parse_payloads(PayloadType.NONCE, wire)
    with pytest.raises(LocalProtocolError):
        encode_payload(Nonce(bytes(octets)), PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.req("rfc7296-s3.5-03", "rfc7296-s3.5-04")
@pytest.mark.parametrize("id_type", [IdType.ID_FQDN, IdType.ID_RFC822_ADDR])
@pytest.mark.parametrize("terminator", [b"\x00", b"\r", b"\n"])
def test_a_name_with_a_terminator_is_neither_read_nor_sent(id_type: IdType, terminator: bytes) -> None:
    identity = IdI(id_type, b"a.example" + terminator)
    with pytest.raises(InvalidSyntax):
        IdI.parse_body(identity.body())
    with pytest.raises(LocalProtocolError):
        encode_payload(identity, PayloadType.NO_NEXT_PAYLOAD)


def test_an_email_identity_may_be_utf8_and_a_domain_name_is_sent_as_ascii() -> None:
    mail = IdI(IdType.ID_RFC822_ADDR, "jürgen@example.com".encode())
    assert IdI.parse_body(mail.body()) == mail
    encode_payload(mail, PayloadType.NO_NEXT_PAYLOAD)
    with pytest.raises(LocalProtocolError):
        encode_payload(IdI(IdType.ID_FQDN, "münchen.example".encode()), PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.req("rfc7296-s3.10-02")
def test_the_protocol_of_a_notify_without_spi_is_sent_as_zero() -> None:
    octets = encode_payload(
        Notify(NotifyType.NO_PROPOSAL_CHOSEN, protocol=ProtocolId.ESP), PayloadType.NO_NEXT_PAYLOAD
    )
    assert octets == bytes.fromhex("00000008 0000000e")


@pytest.mark.req("rfc7296-s3.10-03")
@pytest.mark.parametrize("protocol", [1, 2, 3, 77, 255])
def test_the_protocol_of_a_notify_without_spi_is_ignored(protocol: int) -> None:
    read = Notify.parse_body(bytes([protocol, 0, 0x40, 0x00]))
    assert read == Notify(NotifyType.INITIAL_CONTACT)


@pytest.mark.req("rfc7296-s3.10-01")
@pytest.mark.parametrize("protocol", [ProtocolId.NONE, ProtocolId.IKE, ProtocolId(9)])
def test_a_notify_about_a_child_sa_is_sent_for_ah_or_esp_only(protocol: ProtocolId) -> None:
    notify = Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=protocol, spi=b"abcd")
    with pytest.raises(LocalProtocolError):
        encode_payload(notify, PayloadType.NO_NEXT_PAYLOAD)


DATA_LENGTHS = [
    pytest.param(NotifyType.SET_WINDOW_SIZE, (4,), (0, 3, 5), marks=pytest.mark.req("rfc7296-s2.3-01")),
    pytest.param(NotifyType.COOKIE, (1, 64), (0, 65), marks=pytest.mark.req("rfc7296-s2.6-03")),
    (NotifyType.INVALID_KE_PAYLOAD, (2,), (0, 1, 3)),
    (NotifyType.IPCOMP_SUPPORTED, (3,), (0, 2, 4)),
    (NotifyType.NAT_DETECTION_SOURCE_IP, (20,), (0, 19, 21)),
    (NotifyType.NAT_DETECTION_DESTINATION_IP, (20,), (0, 19, 21)),
]


@pytest.mark.parametrize(("notify_type", "good", "bad"), DATA_LENGTHS)
def test_notification_data_has_the_length_of_its_type(
    notify_type: NotifyType, good: tuple[int, ...], bad: tuple[int, ...]
) -> None:
    for octets in good:
        notify = Notify(notify_type, bytes(octets))
        assert Notify.parse_body(notify.body()) == notify
        encode_payload(notify, PayloadType.NO_NEXT_PAYLOAD)
    for octets in bad:
        notify = Notify(notify_type, bytes(octets))
        with pytest.raises(InvalidSyntax):
            Notify.parse_body(notify.body())
        with pytest.raises(LocalProtocolError):
            encode_payload(notify, PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.parametrize(
    ("number", "error"), [(1, True), (44, True), (8191, True), (16383, True), (16384, False), (65535, False)]
)
def test_error_and_status_notifies_are_told_apart_by_number_known_or_not(number: int, error: bool) -> None:
    assert Notify(NotifyType(number)).is_error is error


@pytest.mark.req("rfc7296-s3.11-01", "rfc7296-s3.11-02")
def test_a_delete_payload_has_one_protocol_and_one_spi_size() -> None:
    with pytest.raises(LocalProtocolError):
        encode_payload(Delete(ProtocolId.ESP, 4, (b"abcd", b"abcdefgh")), PayloadType.NO_NEXT_PAYLOAD)


def test_a_delete_payload_of_an_unknown_protocol_keeps_its_spis() -> None:
    delete = Delete.parse_body(bytes.fromhex("63 02 0003 000100020003"))
    assert delete.spis == (b"\x00\x01", b"\x00\x02", b"\x00\x03")


@pytest.mark.parametrize(
    ("number", "fine"),
    [
        (0, False),
        (1, True),
        (65535, True),
    ],
)
@pytest.mark.req("rfc7383-s2.5-04", "rfc7383-s2.5-05", "rfc7383-s2.5-06", "rfc7383-s2.6-01")
def test_fragment_numbers_run_from_one_to_the_total(number: int, fine: bool) -> None:
    body = number.to_bytes(2, "big") * 2
    if fine:
        assert EncryptedFragment.parse_body(body).total_fragments == number
    else:
        with pytest.raises(InvalidSyntax):
            EncryptedFragment.parse_body(body)
    with pytest.raises(InvalidSyntax):
        EncryptedFragment.parse_body(b"\x00\x05\x00\x04")
    with pytest.raises(LocalProtocolError):
        encode_payload(EncryptedFragment(PayloadType.IDi, 5, 4, b""), PayloadType.IDi)


@pytest.mark.req("rfc7383-s2.5-03")
def test_only_the_first_fragment_names_a_payload_type() -> None:
    encode_payload(EncryptedFragment(PayloadType.IDi, 1, 2, b""), PayloadType.IDi)
    with pytest.raises(LocalProtocolError):
        encode_payload(EncryptedFragment(PayloadType.IDi, 2, 2, b""), PayloadType.IDi)


def test_certreq_lists_its_authorities_for_x509_encodings_only() -> None:
    assert CertReq.of((SHA1_A, SHA1_B)).authorities == (SHA1_A, SHA1_B)
    assert CertReq(CertEncoding.HASH_URL_BUNDLE, SHA1_A).authorities == (SHA1_A,)
    assert CertReq.of(()).authorities == ()
    assert CertReq.parse_body(b"\x01any").authorities == ()


@pytest.mark.req("rfc7296-s3.7-01")
def test_a_certreq_of_an_encoding_without_definition_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        encode_payload(CertReq(CertEncoding.PGP, b""), PayloadType.NO_NEXT_PAYLOAD)


def test_hash_and_url_are_told_apart() -> None:
    assert Cert(CertEncoding.HASH_URL_X509, SHA1_A + b"http://a/b").hash_and_url == (SHA1_A, b"http://a/b")
    assert Cert(CertEncoding.X509_SIGNATURE, b"0").hash_and_url is None


def test_cp_keeps_unknown_attributes_and_their_order() -> None:
    octets = bytes.fromhex("02000000 3fff0003 616263 00010000 3fff0000")
    cp = Cp.parse_body(octets)
    assert [attribute.type for attribute in cp.attributes] == [0x3FFF, 1, 0x3FFF]
    assert cp.body() == octets


def test_cp_attributes_give_their_addresses_prefix_lengths_and_types() -> None:
    four, six = ipaddress.ip_address("192.0.2.9"), ipaddress.ip_address("2001:db8:0:1:2:3:4:5")
    dns = CpAttribute.of_address(CpAttributeType.INTERNAL_IP4_DNS, four)
    assert (dns.value, dns.address, dns.prefix_length) == (four.packed, four, None)
    # the example of section 3.15.3: INTERNAL_IP6_ADDRESS(2001:DB8:0:1:2:3:4:5/64)
    address = CpAttribute.of_address(CpAttributeType.INTERNAL_IP6_ADDRESS, six, 64)
    assert address.value == bytes.fromhex("20010db8000000010002000300040005 40")
    assert (address.address, address.prefix_length) == (six, 64)
    subnet = CpAttribute(CpAttributeType.INTERNAL_IP4_SUBNET, four.packed + b"\xff\xff\xff\x00")
    assert (subnet.address, subnet.prefix_length) == (four, None)
    empty = CpAttribute(CpAttributeType.INTERNAL_IP6_ADDRESS)
    assert (empty.address, empty.prefix_length) == (None, None)
    listing = CpAttribute(CpAttributeType.SUPPORTED_ATTRIBUTES, b"\x00\x01\x00\x08")
    assert listing.supported == (CpAttributeType.INTERNAL_IP4_ADDRESS, CpAttributeType.INTERNAL_IP6_ADDRESS)
    assert listing.address is None
    assert dns.supported == ()


def test_cp_subnets_and_supported_attributes_are_built_and_read() -> None:
    """The examples of section 3.15.2."""
    four, six = ipaddress.ip_network("198.51.100.0/26"), ipaddress.ip_network("2001:db8:2::/48")
    subnet = CpAttribute.of_network(four)
    assert (subnet.type, subnet.value.hex()) == (CpAttributeType.INTERNAL_IP4_SUBNET, "c6336400ffffffc0")
    assert subnet.network == four
    subnet = CpAttribute.of_network(six)
    assert (subnet.type, subnet.value.hex()) == (
        CpAttributeType.INTERNAL_IP6_SUBNET,
        "20010db8000200000000000000000000" + "30",
    )
    assert subnet.network == six
    everything = CpAttribute(CpAttributeType.INTERNAL_IP4_SUBNET, bytes(8))
    assert everything.network == ipaddress.ip_network("0.0.0.0/0")
    host_bits = CpAttribute(CpAttributeType.INTERNAL_IP4_SUBNET, bytes.fromhex("c6336407ffffffc0"))
    assert host_bits.network == four
    for value in ("c6336400ff00ff00", ""):
        assert CpAttribute(CpAttributeType.INTERNAL_IP4_SUBNET, bytes.fromhex(value)).network is None
    assert CpAttribute(CpAttributeType.INTERNAL_IP4_DNS, bytes(4)).network is None
    listing = CpAttribute.of_supported((CpAttributeType.INTERNAL_IP4_ADDRESS, CpAttributeType.INTERNAL_IP6_SUBNET))
    assert listing.value.hex() == "0001000f"


@pytest.mark.req("rfc7296-s3.15.1-02")
@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        (1, {0, 4}), (2, {0, 4}), (3, {0, 4}), (4, {0, 4}), (6, {0, 4}), (8, {0, 17}), (10, {0, 16}), (12, {0, 16}),
        (13, {0, 8}), (15, {0, 17}), (14, {0, 2, 4, 6, 8, 10, 12, 14, 16, 18}), (7, set(range(20))),
        (30000, set(range(20))),
    ],
)  # fmt: skip
def test_cp_attribute_lengths_are_those_of_the_table(kind: int, lengths: set[int]) -> None:
    """Section 3.15.1. The reserved bit changes nothing."""
    for reserved in (0, 0x8000):
        good = set()
        for octets in range(20):
            body = bytes.fromhex("02000000") + (kind | reserved).to_bytes(2, "big") + octets.to_bytes(2, "big")
            try:
                cp = Cp.parse_body(body + bytes(octets))
            except InvalidSyntax:
                continue
            assert [(one.type, len(one.value)) for one in cp.attributes] == [(kind, octets)]
            good.add(octets)
        assert good == lengths


@pytest.mark.req("rfc7296-s3.15.1-04")
def test_a_netmask_with_a_value_is_not_sent_in_a_request_but_read() -> None:
    mask = CpAttribute(CpAttributeType.INTERNAL_IP4_NETMASK, b"\xff\xff\xff\x00")
    address = CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS)
    request = Cp(CpType.CFG_REQUEST, (address, mask))
    with pytest.raises(LocalProtocolError):
        encode_payload(request, PayloadType.NO_NEXT_PAYLOAD)
    assert Cp.parse_body(request.body()) == request
    encode_payload(Cp(CpType.CFG_REPLY, (address, mask)), PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.req("rfc7296-s3.15.1-03")
def test_a_netmask_is_sent_with_an_address_only_and_once() -> None:
    mask = CpAttribute(CpAttributeType.INTERNAL_IP4_NETMASK, b"\xff\xff\xff\x00")
    address = CpAttribute(CpAttributeType.INTERNAL_IP4_ADDRESS, b"\xc0\x00\x02\x01")
    for attributes in ((mask,), (address, mask, mask)):
        with pytest.raises(LocalProtocolError):
            encode_payload(Cp(CpType.CFG_REPLY, attributes), PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.req("rfc7296-s3.16-03", "rfc7296-s3.16-04")
@pytest.mark.parametrize("code", [EapCode.SUCCESS, EapCode.FAILURE, EapCode(77)])
def test_an_eap_message_that_is_no_request_or_response_has_four_octets(code: EapCode) -> None:
    assert Eap(code, 1).message == bytes([code, 1, 0, 4])
    with pytest.raises(LocalProtocolError):
        encode_payload(Eap(code, 1, b"\x01"), PayloadType.NO_NEXT_PAYLOAD)


def test_eap_exposes_its_type_and_its_whole_message() -> None:
    eap = Eap.parse_body(bytes.fromhex("02 07 0007 1a 6d65"))
    assert eap.eap_type == 26
    assert eap.message == bytes.fromhex("02 07 0007 1a 6d65")
    assert Eap(EapCode.SUCCESS, 1).eap_type is None


@pytest.mark.parametrize(
    "payload",
    [
        Ke(KeId(0xFFFF), b"x" * 65536),
        VendorId(b"x" * 65532),
        Auth(AuthMethod(256), b""),
        Eap(EapCode.REQUEST, 256, b"\x01"),
        Notify(NotifyType(1), b"", ProtocolId.ESP, b"x" * 256),
        Delete(ProtocolId(256), 4, ()),
        Cp(CpType(4), (CpAttribute(CpAttributeType.APPLICATION_VERSION, b"x" * 65536),)),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_what_does_not_fit_its_field_is_our_callers_mistake(payload: Payload) -> None:
    with pytest.raises(LocalProtocolError):
        encode_payload(payload, PayloadType.NO_NEXT_PAYLOAD)


def test_the_largest_payload_fits() -> None:
    octets = encode_payload(VendorId(b"x" * 65531), PayloadType.NO_NEXT_PAYLOAD)
    assert octets[2:4] == b"\xff\xff"
    assert parse_payloads(PayloadType.V, octets) == (VendorId(b"x" * 65531),)


@pytest.mark.req("rfc7296-s3.2-05")
def test_every_payload_type_of_the_rfc_has_a_class() -> None:
    assert set(range(33, 49)) | {53} == set(PAYLOAD_CLASSES)


def test_an_unknown_payload_is_made_from_its_type_not_from_a_body() -> None:
    with pytest.raises(LocalProtocolError):
        Unknown.parse_body(b"")
