"""Security Association payloads: proposals, transforms, attributes. RFC 7296 section 3.3."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ikev2.errors import InvalidSyntax, LocalProtocolError
from ikev2.iana import (
    AttributeType,
    EncrId,
    EsnId,
    IntegId,
    KeId,
    PayloadType,
    PrfId,
    ProtocolId,
    TransformType,
)
from ikev2.wire.message import encode_payload, parse_payloads
from ikev2.wire.payloads import Proposal, Sa, Transform, TransformAttribute
from ikev2.wire.payloads import sa as sa_payload

ENCR, PRF, INTEG, KE, ESN = (
    TransformType.ENCR,
    TransformType.PRF,
    TransformType.INTEG,
    TransformType.KE,
    TransformType.ESN,
)

# The example of section 3.3: ESP with AES-CBC and two integrity algorithms, or AES-GCM with an ICV of 8 octets.
RFC_EXAMPLE = Sa(
    (
        Proposal(
            1,
            ProtocolId.ESP,
            bytes.fromhex("052357bb"),
            (
                Transform.of(ENCR, EncrId.AES_CBC, 128),
                Transform.of(ENCR, EncrId.AES_CBC, 192),
                Transform.of(ENCR, EncrId.AES_CBC, 256),
                Transform.of(INTEG, IntegId.HMAC_SHA1_96),
                Transform.of(INTEG, IntegId.AES_XCBC_96),
                Transform.of(ESN, EsnId.ESN),
                Transform.of(ESN, EsnId.NO_ESN),
            ),
        ),
        Proposal(
            2,
            ProtocolId.ESP,
            bytes.fromhex("35a1d6f2"),
            (
                Transform.of(ENCR, EncrId.AES_GCM_8, 128),
                Transform.of(ENCR, EncrId.AES_GCM_8, 256),
                Transform.of(ESN, EsnId.ESN),
                Transform.of(ESN, EsnId.NO_ESN),
            ),
        ),
    )
)
RFC_EXAMPLE_OCTETS = bytes.fromhex(
    "00 00 0088"
    # figure 7: Last Substruc 2, RESERVED, Proposal Length, Num, Protocol ID, SPI Size, Num Transforms, SPI
    "02 00 0050  01 03 04 07  052357bb"
    # figure 8: Last Substruc 3, RESERVED, Transform Length, Type, RESERVED, ID, then figure 9: AF=1 and 14, value
    "03 00 000c  01 00 000c  800e 0080"
    "03 00 000c  01 00 000c  800e 00c0"
    "03 00 000c  01 00 000c  800e 0100"
    "03 00 0008  03 00 0002"
    "03 00 0008  03 00 0005"
    "03 00 0008  05 00 0001"
    "00 00 0008  05 00 0000"
    "00 00 0034  02 03 04 04  35a1d6f2"
    "03 00 000c  01 00 0012  800e 0080"
    "03 00 000c  01 00 0012  800e 0100"
    "03 00 0008  05 00 0001"
    "00 00 0008  05 00 0000"
)


def sa_octets(*proposals: str) -> bytes:
    body = bytes.fromhex("".join(proposals))
    return b"\x00\x00" + (4 + len(body)).to_bytes(2, "big") + body


ENCR_ONLY = "00 00 0008  01 00 0003"


def parse(octets: bytes) -> Sa:
    (sa,) = parse_payloads(PayloadType.SA, octets)
    assert isinstance(sa, Sa)
    return sa


def refused(octets: bytes) -> InvalidSyntax:
    with pytest.raises(InvalidSyntax) as caught:
        parse_payloads(PayloadType.SA, octets)
    assert caught.value.payload == PayloadType.SA
    return caught.value


def test_the_example_of_section_3_3_is_written_and_read() -> None:
    assert encode_payload(RFC_EXAMPLE, PayloadType.NO_NEXT_PAYLOAD) == RFC_EXAMPLE_OCTETS
    assert parse(RFC_EXAMPLE_OCTETS) == RFC_EXAMPLE


def test_ids_become_the_open_enum_of_their_transform_type() -> None:
    sa = parse(RFC_EXAMPLE_OCTETS)
    first = sa.proposals[0].transforms[0]
    assert first.id is EncrId.AES_CBC
    assert first.key_bits == 128
    assert Transform(PRF, 5).id is PrfId.HMAC_SHA2_256
    assert Transform(INTEG, 12).id is IntegId.HMAC_SHA2_256_128
    assert Transform(KE, 31).id is KeId.CURVE25519
    assert Transform(TransformType.ADDKE1, 36).id is KeId.ML_KEM_768
    assert Transform(TransformType(240), 7).id == 7
    assert str(Transform(ENCR, 4711).id) == "UNKNOWN_4711"


def test_of_type_keeps_the_order_of_preference() -> None:
    assert [item.key_bits for item in RFC_EXAMPLE.proposals[0].of_type(ENCR)] == [128, 192, 256]
    assert RFC_EXAMPLE.proposals[0].of_type(PRF) == ()


def test_text_forms_name_the_algorithms() -> None:
    proposal = Proposal(1, ProtocolId.IKE, b"", (Transform.of(ENCR, EncrId.AES_CBC, 256), Transform.of(KE, 31)))
    assert str(proposal) == "IKE:ENCR=AES_CBC/256/KE=CURVE25519"


@pytest.mark.req("rfc7296-s3.3.5-03")
def test_key_length_is_a_tv_attribute_in_bits_and_network_order() -> None:
    transform = Transform.of(ENCR, EncrId.AES_CBC, 256)
    assert transform.attributes == (TransformAttribute(AttributeType.KEY_LENGTH, 256),)
    assert transform.attributes[0].encode() == bytes.fromhex("800e 0100")


@pytest.mark.req("rfc7296-s3.3.5-01")
@pytest.mark.parametrize("value", ["0000", "0001 00", "0002 0100"])
def test_key_length_in_the_variable_length_encoding_is_refused(value: str) -> None:
    octets = len(bytes.fromhex(value)) + 2
    refused(sa_octets(f"0000{16 + octets:04x}01010001", f"0000{8 + octets:04x}0100000c", "000e" + value))
    length, data = bytes.fromhex(value)[:2], bytes.fromhex(value)[2:]
    assert len(data) == int.from_bytes(length, "big")
    transform = Transform(ENCR, EncrId.AES_CBC, (TransformAttribute(AttributeType.KEY_LENGTH, data),))
    with pytest.raises(LocalProtocolError):
        encode_payload(Sa((Proposal(1, ProtocolId.IKE, b"", (transform,)),)), PayloadType.NO_NEXT_PAYLOAD)


def test_a_key_length_of_three_octets_is_read_as_the_number_it_is() -> None:
    sa = parse(sa_octets("0000001701010001", "0000000f0100000c", "000e 0003 010000"))
    assert sa.proposals[0].transforms[0].key_bits == 65536


@pytest.mark.req("rfc7296-s3.3.5-02")
def test_tv_and_tlv_attributes_of_unknown_types_keep_their_format() -> None:
    octets = sa_octets("0000001e01010001", "000000160100000c", "8001 0203", "0002 0002 0405", "0003 0000")
    sa = parse(octets)
    assert sa.proposals[0].transforms[0].attributes == (
        TransformAttribute(AttributeType(1), 0x0203),
        TransformAttribute(AttributeType(2), b"\x04\x05"),
        TransformAttribute(AttributeType(3), b""),
    )
    assert sa.proposals[0].transforms[0].has_unknown_attributes
    assert sa.proposals[0].transforms[0].key_bits is None
    assert encode_payload(sa, PayloadType.NO_NEXT_PAYLOAD) == octets


def test_key_length_is_no_unknown_attribute() -> None:
    assert not Transform.of(ENCR, EncrId.AES_CBC, 128).has_unknown_attributes
    assert not Transform.of(ENCR, EncrId.CHACHA20_POLY1305).has_unknown_attributes


@pytest.mark.req("rfc7296-s3.3-07")
def test_two_attributes_of_one_type_are_refused_in_both_directions() -> None:
    error = refused(sa_octets("0000001801010001", "000000100100000c", "800e 0080", "800e 0100"))
    assert "two attributes" in str(error)
    transform = Transform(ENCR, EncrId.AES_CBC, (TransformAttribute(AttributeType.KEY_LENGTH, 128),) * 2)
    with pytest.raises(LocalProtocolError):
        encode_payload(Sa((Proposal(1, ProtocolId.IKE, b"", (transform,)),)), PayloadType.NO_NEXT_PAYLOAD)


@pytest.mark.req("rfc7296-s3.3.1-01", "rfc7296-s3.3.2-01")
def test_reserved_octets_of_proposals_and_transforms_are_sent_as_zero() -> None:
    octets = encode_payload(RFC_EXAMPLE, PayloadType.NO_NEXT_PAYLOAD)
    assert octets[4 + 1] == 0
    assert (octets[16 + 1], octets[16 + 5]) == (0, 0)


@pytest.mark.req("rfc7296-s3.3.1-02", "rfc7296-s3.3.2-02")
@pytest.mark.parametrize("position", [4 + 1, 16 + 1, 16 + 5])
def test_reserved_octets_of_proposals_and_transforms_are_ignored(position: int) -> None:
    octets = bytearray(RFC_EXAMPLE_OCTETS)
    octets[position] = 0xFF
    assert parse(bytes(octets)) == RFC_EXAMPLE


CONSISTENT = sa_octets("0000001801010002", "03000008 01000003", "00000008 02000005")

INCONSISTENT = {
    "no proposal": sa_octets(),
    "a proposal of seven octets": sa_octets("00000007 010100"),
    "a proposal length below its header": sa_octets("00000004 01010001", ENCR_ONLY),
    "a proposal longer than the payload": sa_octets("00000011 01010001", ENCR_ONLY),
    "a proposal shorter than its transforms": sa_octets("0000000f 01010001", ENCR_ONLY),
    "octets after the last proposal": sa_octets("00000010 01010001", ENCR_ONLY, "00"),
    "a last proposal that is not the last": sa_octets(
        "00000010 01010001", ENCR_ONLY, "00000010 02010001", ENCR_ONLY
    ),
    "a proposal that says more follow": sa_octets("02000010 01010001", ENCR_ONLY),
    "a proposal that says a transform follows": sa_octets(
        "03000010 01010001", ENCR_ONLY, "00000010 02010001", ENCR_ONLY
    ),
    "no transform": sa_octets("00000008 01010000"),
    "octets of a transform and a count of none": sa_octets("00000010 01010000", ENCR_ONLY),
    "one transform and a count of two": sa_octets("00000010 01010002", ENCR_ONLY),
    "two transforms and a count of one": sa_octets("00000018 01010001", "03000008 01000003", ENCR_ONLY),
    "a last transform that is not the last": sa_octets("00000018 01010002", ENCR_ONLY, ENCR_ONLY),
    "the last transform says that more follow": sa_octets("00000010 01010001", "03000008 01000003"),
    "a transform that says a proposal follows": sa_octets("00000018 01010002", "02000008 01000003", ENCR_ONLY),
    "a transform of seven octets": sa_octets("0000000f 01010001", "00000007 010000"),
    "a transform length below its header": sa_octets("00000010 01010001", "00000007 01000003"),
    "a transform longer than its proposal": sa_octets("00000010 01010001", "00000009 01000003"),
    "an attribute that ends in its type": sa_octets("00000012 01010001", "0000000a 0100000c 800e"),
    "an attribute that ends in its value": sa_octets("00000013 01010001", "0000000b 0100000c 800e 00"),
    "an attribute longer than its transform": sa_octets("00000015 01010001", "0000000d 0100000c 0001 0002 00"),
    "an spi longer than the proposal": sa_octets("00000010 0101ff01", ENCR_ONLY),
}


@pytest.mark.req("rfc7296-s3.3-02")
@pytest.mark.parametrize("name", INCONSISTENT)
def test_lengths_counts_and_markers_have_to_agree(name: str) -> None:
    assert parse(CONSISTENT).proposals[0].number == 1
    refused(INCONSISTENT[name])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a proposal length below its header", "a proposal of 4 octets in SA at octet 6"),
        ("a transform length below its header", "a transform of 7 octets in SA at octet 14"),
    ],
)
def test_a_length_below_its_own_header_is_named(name: str, text: str) -> None:
    assert str(refused(INCONSISTENT[name])) == text


def test_an_error_names_the_octet_of_the_message() -> None:
    error = refused(sa_octets("00000018 01010002", "03000008 01000003", "01000008 02000005"))
    assert error.offset == 4 + 8 + 8


@pytest.mark.req("rfc7296-s3.3-03", "rfc7296-s3.3.1-04")
@pytest.mark.parametrize("second", [1, 3, 0, 255])
def test_proposal_numbers_go_up_by_one_in_both_directions(second: int) -> None:
    refused(sa_octets("02000010 01010001", ENCR_ONLY, f"00000010 {second:02x}010001", ENCR_ONLY))
    one = Proposal(1, ProtocolId.IKE, b"", (Transform(ENCR, EncrId.TRIPLE_DES),))
    with pytest.raises(LocalProtocolError):
        encode_payload(Sa((one, replace(one, number=second))), PayloadType.NO_NEXT_PAYLOAD)


def test_a_chosen_proposal_may_have_any_number_but_zero() -> None:
    assert parse(sa_octets("00000010 07010001", ENCR_ONLY)).proposals[0].number == 7
    refused(sa_octets("00000010 00010001", ENCR_ONLY))


@pytest.mark.parametrize(
    ("protocol", "good", "bad"),
    [(1, (0, 8), (1, 4, 7, 9)), (2, (4,), (0, 3, 8)), (3, (4,), (0, 3, 8)), (77, (0, 1, 4, 8), ())],
)
def test_an_spi_has_the_size_of_its_protocol(protocol: int, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    def octets(size: int) -> bytes:
        return sa_octets(f"0000{16 + size:04x}01{protocol:02x}{size:02x}01", "5a" * size, ENCR_ONLY)

    for size in good:
        sa = parse(octets(size))
        assert sa.proposals[0].spi == b"\x5a" * size
        assert encode_payload(sa, PayloadType.NO_NEXT_PAYLOAD) == octets(size)
    for size in bad:
        refused(octets(size))


@pytest.mark.parametrize("count", [255, 256])
def test_a_proposal_counts_its_transforms_in_one_octet(count: int) -> None:
    sa = Sa((Proposal(1, ProtocolId.IKE, b"", (Transform(ENCR, 3),) * count),))
    if count == 256:
        with pytest.raises(LocalProtocolError):
            encode_payload(sa, PayloadType.NO_NEXT_PAYLOAD)
    else:
        assert parse(encode_payload(sa, PayloadType.NO_NEXT_PAYLOAD)) == sa


def test_an_offer_that_was_read_before_is_read_alike_and_a_wrong_one_like_it_is_refused() -> None:
    for _ in range(2):
        assert parse(RFC_EXAMPLE_OCTETS) == RFC_EXAMPLE
    octets = bytearray(RFC_EXAMPLE_OCTETS)
    octets[4 + 7] -= 1  # Num Transforms
    assert "says that more follow" in str(refused(bytes(octets)))
    octets[4 + 7] += 2
    assert "before number" in str(refused(bytes(octets)))


def test_offers_that_were_read_take_a_bounded_room() -> None:
    """Neither what is not known nor long lists stay, and of the others no more than a few hundred."""
    sa_payload._COMMON_LISTS.clear()
    unknown = "0000001401010001", "0000000c 01000003 800f0001"
    parse(sa_octets(*unknown))
    count = sa_payload._MOST_IN_LIST + 1
    transforms = ["03000008 01000003"] * (count - 1) + ["00000008 02000005"]
    parse(sa_octets(f"0000{8 + 8 * count:04x}010100{count:02x}", *transforms))
    assert not sa_payload._COMMON_LISTS
    for number in range(2 * sa_payload._MOST_LISTS):
        octets = bytearray(RFC_EXAMPLE_OCTETS)
        octets[16 + 1], octets[16 + 5] = number & 0xFF, number >> 8  # RESERVED: any octet will do
        assert parse(bytes(octets)) == RFC_EXAMPLE
        assert len(sa_payload._COMMON_LISTS) <= sa_payload._MOST_LISTS
