"""Identities: read as strongSwan reads them, printed so that they are read again, and one matched against another."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from hypothesis import given
from hypothesis import strategies as st

from ikev2.core import distinguished_name as dn
from ikev2.core.identity import EXACT, Identity, IdentityPattern, may_be_one, parse_peer, quality
from ikev2.errors import ConfigurationError, InvalidSyntax, ProtocolError
from ikev2.iana import IdType
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads import IdI

V4, V6 = b"\xc0\0\2\1", bytes.fromhex("20010db8" + "0" * 23 + "1")
DN = "C=CH, O=Example, CN=a.example"
DN_DER = bytes.fromhex(
    "3033310b3009060355040613024348"  # C=CH
    "3110300e060355040a13074578616d706c65"  # O=Example
    "311230100603550403130" "9612e6578616d706c65"  # CN=a.example
)  # fmt: skip
EMAIL_NAME = b"\x81\x0fcarol@a.example"
"""A GeneralName: rfc822Name [1] IA5String."""


@pytest.mark.req("rfc7296-s3.5-07")
@pytest.mark.parametrize(
    ("text", "id_type", "data"),
    [
        ("192.0.2.1", IdType.ID_IPV4_ADDR, V4),
        ("ipv4:192.0.2.1", IdType.ID_IPV4_ADDR, V4),
        ("ipv4:#c0000201", IdType.ID_IPV4_ADDR, V4),
        ("ipv4:0.0.0.0", IdType.ID_IPV4_ADDR, bytes(4)),
        ("2001:db8::1", IdType.ID_IPV6_ADDR, V6),
        ("ipv6:2001:db8::1", IdType.ID_IPV6_ADDR, V6),
        ("ipv6:::", IdType.ID_IPV6_ADDR, bytes(16)),
        ("a.example", IdType.ID_FQDN, b"a.example"),
        ("@a.example", IdType.ID_FQDN, b"a.example"),
        ("@192.0.2.1", IdType.ID_FQDN, b"192.0.2.1"),
        ("fqdn:a.example", IdType.ID_FQDN, b"a.example"),
        ("dns:a.example", IdType.ID_FQDN, b"a.example"),
        ("FQDN:#612e62", IdType.ID_FQDN, b"a.b"),
        ("carol@a.example", IdType.ID_RFC822_ADDR, b"carol@a.example"),
        ("@@carol@a.example", IdType.ID_RFC822_ADDR, b"carol@a.example"),
        ("email:carol@a.example", IdType.ID_RFC822_ADDR, b"carol@a.example"),
        ("rfc822:carol", IdType.ID_RFC822_ADDR, b"carol"),
        ("userfqdn:carol", IdType.ID_RFC822_ADDR, b"carol"),
        ("k\u00f6nig@a.example", IdType.ID_RFC822_ADDR, "k\u00f6nig@a.example".encode()),
        ("keyid:00ff", IdType.ID_KEY_ID, b"00ff"),
        ("keyid:#00ff", IdType.ID_KEY_ID, b"\0\xff"),
        ("@#00ff", IdType.ID_KEY_ID, b"\0\xff"),
        (DN, IdType.ID_DER_ASN1_DN, DN_DER),
        ("/C=CH/O=Example/CN=a.example", IdType.ID_DER_ASN1_DN, DN_DER),
        ("asn1dn:" + DN, IdType.ID_DER_ASN1_DN, DN_DER),
        ("asn1dn:#" + DN_DER.hex(), IdType.ID_DER_ASN1_DN, DN_DER),
        ("asn1gn:#" + EMAIL_NAME.hex(), IdType.ID_DER_ASN1_GN, EMAIL_NAME),
        ("{11}:#00ff", IdType.ID_KEY_ID, b"\0\xff"),
        ("{201}:abc", IdType(201), b"abc"),
    ],
)
def test_identity_is_read_as_strongswan_does(text: str, id_type: IdType, data: bytes) -> None:
    identity = Identity.parse(text)
    assert (identity.id_type, identity.data) == (id_type, data)
    assert Identity.parse(str(identity)) == identity


def test_an_xmpp_address_is_an_other_name() -> None:
    """RFC 6120 section 13.7.1.4, RFC 5280: [0] { OID, [0] EXPLICIT UTF8String }."""
    identity = Identity.parse("xmppaddr:carol@a.example")
    (name,) = [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x0c\x0fcarol@a.example")]
    extension = x509.SubjectAlternativeName([name]).public_bytes()
    assert identity.id_type == IdType.ID_DER_ASN1_GN
    assert extension[2:] == identity.data


PRINTABLE, IA5, UTF8 = _ASN1Type.PrintableString, _ASN1Type.IA5String, _ASN1Type.UTF8String
NAMES = {
    DN: [("2.5.4.6", "CH", PRINTABLE), ("2.5.4.10", "Example", PRINTABLE), ("2.5.4.3", "a.example", PRINTABLE)],
    "DC=example, CN=Carol, E=carol@a.example": [
        ("0.9.2342.19200300.100.1.25", "example", IA5),
        ("2.5.4.3", "Carol", PRINTABLE),
        ("1.2.840.113549.1.9.1", "carol@a.example", IA5),
    ],
    "O=B\u00fccher, CN=x@y": [("2.5.4.10", "B\u00fccher", UTF8), ("2.5.4.3", "x@y", UTF8)],
    "OU=" + "x" * 60 + ", OU=" + "y" * 64 + ", OU=" + "z" * 64: [
        ("2.5.4.11", "x" * 60, PRINTABLE),
        ("2.5.4.11", "y" * 64, PRINTABLE),
        ("2.5.4.11", "z" * 64, PRINTABLE),
    ],
}


@pytest.mark.parametrize("text", NAMES)
def test_a_distinguished_name_is_encoded_as_another_encoder_does(text: str) -> None:
    identity = Identity.parse(text)
    attributes = [x509.NameAttribute(x509.ObjectIdentifier(o), v, _type=kind) for o, v, kind in NAMES[text]]
    assert identity == Identity(IdType.ID_DER_ASN1_DN, x509.Name(attributes).public_bytes())
    assert str(identity) == text


NO_IDENTITIES = """
keyid:#xyz keyid: keyid:# @ @@ @# fqdn: ipv4:a.example ipv4:2001:db8::1 ipv6:192.0.2.1 ipv4:#c00002 asn1dn:#3000ff
asn1dn:#0400 asn1gn:carol asn1gn:#0c0161 X=1 CN=a,b foo:bar {0}:a {300}:a E=b\u00fccher *.*.example **
ipv4net:2001:db8::/32 ipv6net:192.0.2.0/24 192.0.2.9-192.0.2.1 192.0.2.1-2001:db8::1
"""


@pytest.mark.parametrize("text", ["", *NO_IDENTITIES.split()])
def test_identity_that_is_none_says_what_would_be(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_peer(text)


@pytest.mark.req("rfc7296-s3.5-03", "rfc7296-s3.5-04")
@pytest.mark.parametrize(
    "text",
    [
        "b\u00fccher.example", "@b\u00fccher.example", "a\0b", "a.example\n", "a\rb", "carol\0@a.example", "a\ud800",
        "fqdn:#6100", "email:#6100", "fqdn:a\nb", "*.exa\0mple",
    ],
)  # fmt: skip
def test_identity_that_no_payload_may_hold_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_peer(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["%any", "*", "0.0.0.0", "::", "*.example.org", "192.0.2.0/24", "CN=*"])
def test_what_stands_for_many_is_not_one_identity(text: str) -> None:
    with pytest.raises(ConfigurationError, match="stands for many"):
        Identity.parse(text)


def test_identity_of_a_peer_cannot_steer_the_terminal_that_shows_it() -> None:
    assert str(Identity(IdType.ID_FQDN, b"\x1b[2Ja.example\x07")) == "fqdn:#1b5b324a612e6578616d706c6507"
    assert str(Identity(IdType.ID_RFC822_ADDR, "a\u202eb@c".encode())).startswith("email:#61e280ae")


def test_a_peer_cannot_name_itself_so_that_its_name_is_read_as_a_pattern() -> None:
    for identity in (Identity(IdType.ID_FQDN, b"*.example.org"), Identity(IdType.ID_FQDN, b"*")):
        assert str(identity).startswith("fqdn:#")
    everybody = Identity(IdType.ID_DER_ASN1_DN, dn.from_text("CN=*"))
    assert not everybody.matches(Identity.parse("CN=a.example"))
    assert everybody.matches(everybody)


@given(st.sampled_from([*IdType, IdType(200)]), st.binary(max_size=40))
def test_any_identity_of_a_peer_can_be_printed(id_type: IdType, data: bytes) -> None:
    assert str(Identity(id_type, data)).isprintable()


@given(
    st.sampled_from([*IdType, IdType(200)]),
    st.binary(min_size=1, max_size=20) | st.text(min_size=1).map(str.encode),
)
def test_what_a_payload_may_hold_is_read_again_as_it_was_printed(id_type: IdType, data: bytes) -> None:
    identity = Identity(id_type, data)
    try:
        again = Identity.parse(str(identity))
    except ConfigurationError:
        sound = IdI(id_type, data).problem(sending=True) is None
        assert not sound or id_type in (IdType.ID_DER_ASN1_DN, IdType.ID_DER_ASN1_GN)
    else:
        assert again == identity


# --- matching ---


MATCHES = [
    ("a.example", "A.Example", True),
    ("a.example", "b.example", False),
    ("a.example", "keyid:a.example", False),
    ("a.example", "email:a.example", False),
    ("keyid:a", "keyid:A", False),
    ("*.example.org", "a.example.org", True),
    ("*.example.org", "A.B.EXAMPLE.ORG", True),
    ("*.example.org", "example.org", False),
    ("*.example.org", "fqdn:.example.org", False),
    ("*.example.org", "email:a@b.example.org", False),
    ("*@example.org", "carol@example.org", True),
    ("*@example.org", "carol@sub.example.org", False),
    ("email:*@example.org", "carol@example.org", True),
    ("192.0.2.0/24", "192.0.2.77", True),
    ("192.0.2.0/24", "192.0.3.1", False),
    ("192.0.2.0/24", "fqdn:192.0.2.77", False),
    ("ipv4range:192.0.2.5-192.0.2.9", "192.0.2.9", True),
    ("192.0.2.5-192.0.2.9", "192.0.2.10", False),
    ("ipv6net:2001:db8::/32", "2001:db8::7", True),
    ("2001:db8::/32", "2001:db9::7", False),
    ("C=CH, O=Example, CN=*", DN, True),
    ("C=CH, O=*, CN=*", DN, True),
    ("C=*, CN=*", DN, False),
    ("O=Example, C=CH, CN=*", DN, False),
    ("C=CH, O=example, CN=A.EXAMPLE", DN, True),
    ("C=CH, O=Example, CN=b.example", DN, False),
    ("%any", "keyid:whoever", True),
    ("*", "a.example", True),
]


@pytest.mark.parametrize(("accepted", "given_", "wanted"), MATCHES, ids=[f"{a} {b}" for a, b, _ in MATCHES])
def test_matching_is_strongswans(accepted: str, given_: str, wanted: bool) -> None:
    assert (quality(parse_peer(accepted), Identity.parse(given_)) > 0) is wanted


def test_the_more_specific_the_better() -> None:
    for peer, patterns in [
        ("a.b.example.org", ("a.b.example.org", "*.b.example.org", "*.example.org", "*")),
        ("192.0.2.7", ("192.0.2.7", "192.0.2.0/28", "192.0.2.0-192.0.2.99", "192.0.0.0/16", "%any")),
        (DN, (DN, "C=CH, O=Example, CN=*", "C=CH, O=*, CN=*", "%any")),
    ]:
        ranks = [quality(parse_peer(pattern), Identity.parse(peer)) for pattern in patterns]
        assert ranks[0] == EXACT
        assert ranks == sorted(set(ranks), reverse=True)


def test_two_patterns_may_be_one_and_two_names_are_not() -> None:
    assert may_be_one(parse_peer("*.example.org"), parse_peer("*.example.com"))
    assert may_be_one(None, parse_peer("a.example"))
    assert may_be_one(parse_peer("*.example.org"), parse_peer("a.example.org"))
    assert not may_be_one(parse_peer("a.example.com"), parse_peer("*.example.org"))
    assert not may_be_one(parse_peer("a.example"), parse_peer("b.example"))


def test_a_pattern_keeps_its_text() -> None:
    pattern = parse_peer("ipv4net:192.0.2.0/24")
    assert isinstance(pattern, IdentityPattern)
    assert str(pattern) == "192.0.2.0/24"


@given(st.binary(max_size=60))
def test_octets_that_are_no_name_are_none_and_match_nothing(data: bytes) -> None:
    try:
        dn.read(data)
    except InvalidSyntax:
        assert dn.to_text(data) is None
        assert dn.wildcards(dn.from_text("CN=*"), data) is None


# --- NAIs ---


@pytest.mark.req("rfc7296-s3.5-09", "rfc7296-s3.5-10")
@pytest.mark.parametrize(
    ("text", "id_type", "nai"),
    [
        ("joe@example.com", IdType.ID_RFC822_ADDR, b"joe@example.com"),
        ("home.example!joe@visited.example", IdType.ID_RFC822_ADDR, b"home.example!joe@visited.example"),
        ("@@@example.com", IdType.ID_RFC822_ADDR, b"@example.com"),
        ("keyid:joe", IdType.ID_KEY_ID, b"joe"),
    ],
)
def test_a_network_access_identifier_has_the_type_that_its_realm_asks_for(
    text: str, id_type: IdType, nai: bytes
) -> None:
    """With a realm ID_RFC822_ADDR, whatever its syntax; without one ID_KEY_ID, which the prefix says."""
    identity = Identity.parse(text)
    assert (identity.id_type, identity.data) == (id_type, nai)
    body = IdI(id_type, nai).body()
    read = IdI.read(Cursor(body))
    assert read.problem(sending=False) is None
    assert Identity(read.id_type, read.data).matches(identity)


def test_the_errors_of_der_are_the_peers() -> None:
    assert issubclass(InvalidSyntax, ProtocolError)
    for broken in (b"", b"\x30", b"\x30\x05\x31", b"\x30\x80", b"\x30\x81\x01\0", b"\x30\x85\0\0\0\0\0", b"\x31\0"):
        with pytest.raises(InvalidSyntax):
            dn.read(broken)
