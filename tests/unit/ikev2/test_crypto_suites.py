"""Proposals in strongSwan's keywords: read, rendered, and made into suites."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto.encr import ENCRS
from ikev2.crypto.integ import INTEGS
from ikev2.crypto.ke import KE_GROUPS
from ikev2.crypto.suites import (
    KEYWORDS,
    EspSuite,
    IkeSuite,
    numbered,
    parse_esp_proposal,
    parse_ike_proposal,
    proposal_keyword,
    transform_keyword,
    without_ke,
)
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import ConfigurationError
from ikev2.iana import AttributeType, EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType
from ikev2.wire.payloads.sa import Proposal, Sa, Transform, TransformAttribute

ENCR, PRF, INTEG, KE, ESN = (
    TransformType.ENCR,
    TransformType.PRF,
    TransformType.INTEG,
    TransformType.KE,
    TransformType.ESN,
)


def listed(proposal: Proposal) -> list[tuple[TransformType, int, int | None]]:
    return [(transform.type, transform.id, transform.key_bits) for transform in proposal.transforms]


@pytest.mark.req("rfc7296-s3.3.4-05")
@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (
            "aes256gcm16-prfsha384-curve25519",
            [(ENCR, EncrId.AES_GCM_16, 256), (PRF, PrfId.HMAC_SHA2_384, None), (KE, KeId.CURVE25519, None)],
        ),
        (
            "aes128-sha256-modp2048",
            [
                (ENCR, EncrId.AES_CBC, 128),
                (PRF, PrfId.HMAC_SHA2_256, None),
                (INTEG, IntegId.HMAC_SHA2_256_128, None),
                (KE, KeId.MODP_2048, None),
            ],
        ),
        (
            "aes192-sha1-prfsha512-ecp384-ecp256",
            [
                (ENCR, EncrId.AES_CBC, 192),
                (PRF, PrfId.HMAC_SHA2_512, None),
                (INTEG, IntegId.HMAC_SHA1_96, None),
                (KE, KeId.ECP_384, None),
                (KE, KeId.ECP_256, None),
            ],
        ),
        # The integrity algorithm beside a combined mode only names the PRF, as in strongSwan.
        (
            "aes128gcm16-sha384-ecp256",
            [(ENCR, EncrId.AES_GCM_16, 128), (PRF, PrfId.HMAC_SHA2_384, None), (KE, KeId.ECP_256, None)],
        ),
        (
            " ChaCha20Poly1305-PRFSHA256-X25519 ",
            [(ENCR, EncrId.CHACHA20_POLY1305, None), (PRF, PrfId.HMAC_SHA2_256, None), (KE, KeId.CURVE25519, None)],
        ),
    ],
)
def test_ike_proposals_are_read_as_strongswan_reads_them(
    keywords: str, expected: list[tuple[TransformType, int, int | None]]
) -> None:
    proposal = parse_ike_proposal(keywords)
    assert listed(proposal) == expected
    assert (proposal.number, proposal.protocol, proposal.spi) == (1, ProtocolId.IKE, b"")


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ("aes256gcm16", [(ENCR, EncrId.AES_GCM_16, 256), (ESN, EsnId.NO_ESN, None)]),
        ("aes256gcm128", [(ENCR, EncrId.AES_GCM_16, 256), (ESN, EsnId.NO_ESN, None)]),
        ("aes256gcm", [(ENCR, EncrId.AES_GCM_16, 256), (ESN, EsnId.NO_ESN, None)]),
        ("aes128ccm96", [(ENCR, EncrId.AES_CCM_12, 128), (ESN, EsnId.NO_ESN, None)]),
        (
            "aes-sha2_256-x25519-esn-noesn",
            [
                (ENCR, EncrId.AES_CBC, 128),
                (INTEG, IntegId.HMAC_SHA2_256_128, None),
                (KE, KeId.CURVE25519, None),
                (ESN, EsnId.ESN, None),
                (ESN, EsnId.NO_ESN, None),
            ],
        ),
        ("null-sha1", [(ENCR, EncrId.NULL, None), (INTEG, IntegId.HMAC_SHA1_96, None), (ESN, EsnId.NO_ESN, None)]),
        (
            "aes128gcm16-ecp256-modpnone",
            [
                (ENCR, EncrId.AES_GCM_16, 128),
                (KE, KeId.ECP_256, None),
                (KE, KeId.NONE, None),
                (ESN, EsnId.NO_ESN, None),
            ],
        ),
    ],
)
def test_esp_proposals_are_read_as_strongswan_reads_them(
    keywords: str, expected: list[tuple[TransformType, int, int | None]]
) -> None:
    proposal = parse_esp_proposal(keywords)
    assert listed(proposal) == expected
    assert (proposal.number, proposal.protocol, proposal.spi) == (1, ProtocolId.ESP, b"")


@pytest.mark.req("rfc7296-s3.3-08")
def test_key_sizes_are_alternative_transforms_of_one_attribute_each() -> None:
    proposal = parse_ike_proposal("aes128-aes256-sha256-modp2048")
    ciphers = proposal.of_type(ENCR)
    assert [transform.key_bits for transform in ciphers] == [128, 256]
    assert [len(transform.attributes) for transform in ciphers] == [1, 1]
    assert {transform.attributes[0].type for transform in ciphers} == {AttributeType.KEY_LENGTH}


@pytest.mark.req("rfc7296-s3.3.5-04", "rfc7296-s2.13-01")
def test_a_key_length_goes_with_ciphers_of_several_lengths_only() -> None:
    for keyword, transform in KEYWORDS.items():
        fixed = (EncrId.CHACHA20_POLY1305, EncrId.CHACHA20_POLY1305_IIV, EncrId.NULL)
        variable = transform.type == ENCR and transform.id not in fixed
        assert bool(transform.attributes) is variable, keyword


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ("aes128-sha256", "key exchange group is missing"),
        ("aes128gcm16-curve25519", "PRF is missing"),
        ("aes128-curve25519", "integrity algorithm is missing"),
        ("sha256-curve25519", "encryption algorithm is missing"),
        ("aes128-aes128gcm16-sha256-curve25519", "proposals of their own"),
        ("aes128-sha256-curve25519-esn", "are for ESP"),
        ("aes128-sha256-curve25520", "unknown algorithm 'curve25520'; is 'curve25519' meant"),
        ("des-md5-modp1024", "unknown algorithm 'des'"),
        ("", "unknown algorithm ''"),
        ("aes128--sha256-curve25519", "unknown algorithm ''"),
    ],
)
def test_what_cannot_be_an_ike_proposal_is_refused_in_one_line(keywords: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        parse_ike_proposal(keywords)
    assert "\n" not in str(caught.value)
    assert repr(keywords) in str(caught.value)


@pytest.mark.req("rfc7296-s2.18-02")
def test_an_ike_proposal_without_key_exchange_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be without a key exchange"):
        parse_ike_proposal("aes128-sha256-modp2048-modpnone")


@pytest.mark.req("rfc7296-s5-02")
def test_an_ike_proposal_without_encryption_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be without encryption"):
        parse_ike_proposal("null-sha256-modp2048")


@pytest.mark.parametrize("cipher", ["aes128gmac", "aes128gcm16iiv", "aes128ccm8iiv", "chacha20poly1305iiv"])
def test_ciphers_of_esp_alone_are_refused_for_an_ike_sa(cipher: str) -> None:
    """RFC 8750 section 7: IKE messages have nothing that an IV could be made of. GMAC (RFC 4543) hides nothing."""
    with pytest.raises(ConfigurationError, match=f"{cipher} is for ESP only"):
        parse_ike_proposal(f"{cipher}-prfsha256-curve25519")
    esp = parse_esp_proposal(cipher)
    prf_and_group = parse_ike_proposal("aes128gcm16-prfsha256-curve25519").transforms[1:]
    with pytest.raises(UnknownAlgorithm, match=f"{cipher} is not for IKE"):
        IkeSuite.from_proposal(Proposal(1, ProtocolId.IKE, b"", (esp.transforms[0], *prf_and_group)))


@pytest.mark.parametrize(
    ("keyword", "number", "bits", "octets"),
    [
        ("aes128gmac", 21, 128, 20),  # RFC 4543 section 5.3: 128, 192 and 256 bits, each with a salt of four octets
        ("aes192gmac", 21, 192, 28),
        ("aes256gmac", 21, 256, 36),
        ("aes128ccm8iiv", 29, 128, 19),  # RFC 4309 section 7.1
        ("aes256ccm8iiv", 29, 256, 35),
        ("aes128gcm16iiv", 30, 128, 20),  # RFC 4106 section 8.1
        ("aes256gcm16iiv", 30, 256, 36),
        ("chacha20poly1305iiv", 31, None, 36),  # RFC 7634 section 2
    ],
)
def test_ciphers_of_esp_alone_have_the_numbers_and_key_lengths_of_their_rfcs(
    keyword: str, number: int, bits: int | None, octets: int
) -> None:
    """RFC 4543 section 8, RFC 8750 section 8: all else is as with an explicit IV."""
    proposal = parse_esp_proposal(keyword)
    assert proposal.of_type(ENCR)[0].key_bits == bits
    assert proposal.of_type(ENCR)[0].id == number
    assert proposal.of_type(INTEG) == ()
    suite = EspSuite.from_proposal(proposal)
    assert suite.keyword == keyword
    assert suite.keymat_octets == 2 * octets


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ("aes128", "integrity algorithm is missing"),
        ("null", "integrity algorithm is missing"),
        ("aes128-aes256gcm16-sha256", "proposals of their own"),
        ("aes128gcm16-prfsha256", "a PRF is for IKE"),
        ("esn", "encryption algorithm is missing"),
    ],
)
def test_what_cannot_be_an_esp_proposal_is_refused_in_one_line(keywords: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        parse_esp_proposal(keywords)
    assert "\n" not in str(caught.value)


@pytest.mark.req("rfc7296-s3.3-05", "rfc7296-s3.3-06", "rfc5282-s8-02")
def test_combined_modes_are_offered_without_integrity_algorithm() -> None:
    assert parse_ike_proposal("aes128gcm16-sha256-ecp256").of_type(INTEG) == ()
    assert parse_esp_proposal("chacha20poly1305-sha256").of_type(INTEG) == ()


IKE_CIPHERS = [row for row in ENCRS.values() if row.for_ike]


@pytest.mark.parametrize(
    ("cipher", "integ"),
    [
        (cipher.keyword, integ.keyword)
        for cipher, integ in itertools.product(IKE_CIPHERS, INTEGS.values())
        if not cipher.is_aead or integ.id == IntegId.HMAC_SHA1_96
    ],
)
def test_suites_render_as_they_are_read(cipher: str, integ: str) -> None:
    for prf, group in itertools.product(("", "-prfsha512", "-prfaescmac"), ("modp3072", "curve25519")):
        text = f"{cipher}-{integ}{prf}-{group}"
        suite = IkeSuite.from_proposal(parse_ike_proposal(text))
        assert IkeSuite.from_proposal(parse_ike_proposal(suite.keyword)) == suite
        if suite.integ is not None:
            # A PRF that the integrity algorithm names by itself is left out.
            assert suite.keyword == text.replace(f"-prf{integ}", "")
    for tail in ("", "-esn", "-ecp256", "-ecp384-esn"):
        esp = EspSuite.from_proposal(parse_esp_proposal(f"{cipher}-{integ}{tail}"))
        assert EspSuite.from_proposal(parse_esp_proposal(esp.keyword)) == esp
        assert esp.keyword.endswith(tail)
        assert str(esp) == esp.keyword


KEYWORD_LISTS = st.lists(st.sampled_from(sorted(KEYWORDS)), min_size=1, max_size=8)


@settings(max_examples=200)
@given(KEYWORD_LISTS)
def test_any_readable_proposal_renders_to_an_equal_one_and_survives_the_wire(keywords: list[str]) -> None:
    for parse in (parse_ike_proposal, parse_esp_proposal):
        try:
            proposal = parse("-".join(keywords))
        except ConfigurationError:
            continue
        assert parse(proposal_keyword(proposal)) == proposal
        payload = Sa(numbered([proposal, proposal], b"" if parse is parse_ike_proposal else b"\0\0\1\0"))
        assert Sa.parse_body(payload.body()) == payload


def test_unknown_transforms_render_as_numbers() -> None:
    assert transform_keyword(Transform.of(KE, 36)) == "ke_36"
    assert transform_keyword(Transform.of(ENCR, 99, 256)) == "encr_99_256"
    odd = Transform(ENCR, EncrId.CHACHA20_POLY1305, (TransformAttribute(AttributeType(99), 1),))
    assert transform_keyword(odd) == "encr_28"


@pytest.mark.req("rfc7296-s3.3-01", "rfc7296-s3.3-03", "rfc7296-s3.3-04", "rfc7296-s3.3.1-03")
def test_an_offer_is_numbered_from_one_in_the_order_of_preference() -> None:
    proposals = [parse_esp_proposal(text) for text in ("aes256gcm16", "aes128gcm16", "aes128-sha256")]
    offer = numbered(proposals, b"SPI1")
    assert [proposal.number for proposal in offer] == [1, 2, 3]
    assert [proposal.transforms for proposal in offer] == [proposal.transforms for proposal in proposals]
    assert {proposal.spi for proposal in offer} == {b"SPI1"}


def test_proposals_of_ike_auth_have_no_groups() -> None:
    assert without_ke(parse_esp_proposal("aes256gcm16-ecp256-modpnone")) == parse_esp_proposal("aes256gcm16")


def test_suites_of_incomplete_or_ambiguous_proposals_are_refused() -> None:
    whole = parse_ike_proposal("aes128-sha256-modp2048")
    for missing in (ENCR, PRF, INTEG, KE):
        transforms = tuple(transform for transform in whole.transforms if transform.type != missing)
        with pytest.raises(UnknownAlgorithm):
            IkeSuite.from_proposal(Proposal(1, ProtocolId.IKE, b"", transforms))
    with pytest.raises(UnknownAlgorithm):
        IkeSuite.from_proposal(parse_ike_proposal("aes128-aes256-sha256-modp2048"))
    with pytest.raises(UnknownAlgorithm):
        EspSuite.from_proposal(Proposal(1, ProtocolId.ESP, b"", (Transform.of(ENCR, EncrId.AES_GCM_16, 128),)))
    with pytest.raises(UnknownAlgorithm):
        EspSuite.from_proposal(parse_esp_proposal("aes128gcm16-esn-noesn"))
    for bad in ((ENCR, 99), (PRF, 1), (KE, 36)):
        transforms = tuple(Transform.of(*bad) if item.type == bad[0] else item for item in whole.transforms)
        with pytest.raises(UnknownAlgorithm):
            IkeSuite.from_proposal(Proposal(1, ProtocolId.IKE, b"", transforms))


@pytest.mark.req("rfc7296-s5-02")
def test_no_ike_suite_without_encryption_or_integrity() -> None:
    def ike(*transforms: Transform) -> Proposal:
        prf, ke = Transform.of(PRF, PrfId.HMAC_SHA2_256), Transform.of(KE, KeId.CURVE25519)
        return Proposal(1, ProtocolId.IKE, b"", (*transforms, prf, ke))

    none = Transform.of(INTEG, IntegId.NONE)
    with pytest.raises(UnknownAlgorithm):
        IkeSuite.from_proposal(ike(Transform.of(ENCR, EncrId.AES_CBC, 128), none))
    null = Transform.of(ENCR, EncrId.NULL)
    with pytest.raises(UnknownAlgorithm):
        IkeSuite.from_proposal(ike(null, Transform.of(INTEG, IntegId.HMAC_SHA2_256_128)))
    # NONE beside a combined mode is tolerated.
    assert IkeSuite.from_proposal(ike(Transform.of(ENCR, EncrId.AES_GCM_16, 128), none)).integ is None


def test_ke_none_and_integ_none_of_esp_are_none() -> None:
    proposal = Proposal(
        1,
        ProtocolId.ESP,
        b"",
        (
            Transform.of(ENCR, EncrId.AES_GCM_16, 128),
            Transform.of(INTEG, IntegId.NONE),
            Transform.of(KE, KeId.NONE),
            Transform.of(ESN, EsnId.ESN),
        ),
    )
    suite = EspSuite.from_proposal(proposal)
    assert (suite.integ, suite.ke, suite.esn) == (None, None, True)
    assert suite.keyword == "aes128gcm16-esn"


def test_every_group_has_its_keyword() -> None:
    for group in KE_GROUPS.values():
        assert IkeSuite.from_proposal(parse_ike_proposal(f"aes128-sha256-{group.name}")).ke is group
