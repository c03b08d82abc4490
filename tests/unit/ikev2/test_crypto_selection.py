"""Which proposal a responder chooses, and which choice an initiator accepts. RFC 7296 sections 2.7 and 3.3.6."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.crypto import selection
from ikev2.crypto.encr import ENCRS
from ikev2.crypto.keywords import KEYWORDS
from ikev2.crypto.suites import (
    EspSuite,
    IkeSuite,
    check_choice,
    choose_proposal,
    numbered,
    parse_esp_proposal,
    parse_ike_proposal,
    proposal_keyword,
)
from ikev2.crypto.unknown import UnknownAlgorithm
from ikev2.errors import InvalidSyntax, NoProposalChosen, ProtocolError
from ikev2.iana import AttributeType, EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType
from ikev2.wire.payloads.sa import Proposal, Transform, TransformAttribute

ENCR, PRF, INTEG, KE, ESN = (
    TransformType.ENCR,
    TransformType.PRF,
    TransformType.INTEG,
    TransformType.KE,
    TransformType.ESN,
)
INTEG_NONE = Transform.of(INTEG, IntegId.NONE)
KE_NONE = Transform.of(KE, KeId.NONE)


def ike(*texts: str) -> tuple[Proposal, ...]:
    return numbered([parse_ike_proposal(text) for text in texts])


def esp(*texts: str, spi: bytes = b"spi1") -> tuple[Proposal, ...]:
    return numbered([parse_esp_proposal(text) for text in texts], spi)


def with_transforms(proposal: Proposal, *more: Transform, without: tuple[TransformType, ...] = ()) -> Proposal:
    kept = tuple(transform for transform in proposal.transforms if transform.type not in without)
    return replace(proposal, transforms=kept + more)


@pytest.mark.req("rfc7296-s3.3.6-01", "rfc7296-s3.3.6-03", "rfc7296-s3.3.1-05")
def test_one_proposal_and_one_transform_of_each_type_is_chosen() -> None:
    offered = ike(
        "aes256-sha512-modp4096",
        "aes256gcm16-aes128gcm16-prfsha384-prfsha256-ecp256-curve25519",
        "aes128-sha1-modp2048",
    )
    configured = ike("aes128gcm16-prfsha256-curve25519-ecp256", "aes128-sha1-modp2048")
    chosen = choose_proposal(offered, configured)
    assert chosen.number == 2
    assert proposal_keyword(chosen) == "aes128gcm16-prfsha256-curve25519"
    assert {transform.type for transform in chosen.transforms} == {ENCR, PRF, KE}
    check_choice(chosen, offered)


@pytest.mark.req("rfc7296-s3.3.1-05")
@pytest.mark.parametrize(
    ("configured", "offered", "chosen"),
    [
        ("aes128gcm16iiv-aes128gcm16", "aes128gcm16iiv-aes128gcm16", "aes128gcm16iiv"),
        ("aes128gcm16", "aes128gcm16iiv-aes128gcm16", "aes128gcm16"),
        ("aes128gcm16iiv-aes128gcm16", "aes128gcm16", "aes128gcm16"),
        ("aes128gcm16iiv-aes128gcm16", "aes256gcm16iiv", "aes256gcm16iiv"),
    ],
)
def test_an_implicit_iv_is_an_algorithm_of_its_own_beside_the_explicit_one(
    configured: str, offered: str, chosen: str
) -> None:
    """RFC 8750 sections 5 and 6: for a peer without it, the same cipher with its IV is offered beside it."""
    assert proposal_keyword(choose_proposal(esp(offered), esp(configured))) == chosen
    with pytest.raises(NoProposalChosen):
        choose_proposal(esp("aes128gcm16iiv"), esp("aes128gcm16"))


def test_the_number_and_the_spi_are_those_of_the_offer() -> None:
    chosen = choose_proposal(esp("aes256gcm16", "aes128gcm16", spi=b"\1\2\3\4"), esp("aes128gcm16", spi=b""))
    assert (chosen.number, chosen.spi, chosen.protocol) == (2, b"\1\2\3\4", ProtocolId.ESP)


def test_the_configured_order_decides() -> None:
    offered = ike("aes128gcm16-prfsha256-curve25519", "aes256gcm16-prfsha256-ecp256-curve25519")
    first = choose_proposal(offered, ike("aes256gcm16-prfsha256-curve25519", "aes128gcm16-prfsha256-curve25519"))
    assert first.number == 2
    assert proposal_keyword(first) == "aes256gcm16-prfsha256-curve25519"
    assert choose_proposal(offered, ike("aes128gcm16-aes256gcm16-prfsha256-curve25519")).number == 1


def test_the_group_of_the_ke_payload_in_hand_is_preferred_where_both_have_it() -> None:
    offered = ike("aes128gcm16-prfsha256-ecp256-curve25519")
    configured = ike("aes128gcm16-prfsha256-curve25519-ecp256")
    for preferred, group in (
        (None, KeId.CURVE25519),
        (KeId.ECP_256, KeId.ECP_256),
        (KeId.MODP_2048, KeId.CURVE25519),
        (KeId.NONE, KeId.CURVE25519),
    ):
        chosen = choose_proposal(offered, configured, preferred_ke=preferred)
        assert chosen.of_type(KE) == (Transform.of(KE, group),)


@pytest.mark.req("rfc7296-s3.3.4-06", "rfc7296-s3.3.4-07")
@pytest.mark.parametrize(
    "offered",
    [
        "aes256gcm16-prfsha256-ecp256",
        "aes128gcm16-prfsha256-curve25519",
        "aes256gcm16-prfsha384-curve25519",
        "aes256-sha256-curve25519",
        "aes256gcm8-prfsha256-curve25519",
        "chacha20poly1305-prfsha256-curve25519",
    ],
)
def test_what_is_not_configured_is_not_chosen(offered: str) -> None:
    with pytest.raises(NoProposalChosen):
        choose_proposal(ike(offered), ike("aes256gcm16-prfsha256-curve25519"))


def test_nothing_offered_or_configured_is_nothing_chosen() -> None:
    for offered, configured in (((), ike("aes128-sha1-ecp256")), (ike("aes128-sha1-ecp256"), ()), ((), ())):
        with pytest.raises(NoProposalChosen):
            choose_proposal(offered, configured)


def test_protocols_do_not_mix() -> None:
    with pytest.raises(NoProposalChosen):
        choose_proposal([replace(esp("aes128gcm16")[0], protocol=ProtocolId.AH)], esp("aes128gcm16"))
    with pytest.raises(NoProposalChosen):
        choose_proposal(esp("aes128gcm16"), ike("aes128gcm16-prfsha256-ecp256"))
    with pytest.raises(NoProposalChosen):
        choose_proposal([replace(esp("aes128gcm16")[0], protocol=ProtocolId(77))], esp("aes128gcm16"))


@pytest.mark.req("rfc7296-s3.3-04")
@pytest.mark.parametrize("number", [0, 2, 255])
def test_an_offer_that_does_not_begin_with_one_is_invalid_syntax(number: int) -> None:
    offered = [replace(ike("aes128-sha1-ecp256")[0], number=number)]
    with pytest.raises(InvalidSyntax):
        choose_proposal(offered, ike("aes128-sha1-ecp256"))


class TestKeyLengths:
    @pytest.mark.req("rfc7296-s3.3.5-05", "rfc7296-s3.3.5-06")
    def test_a_proposal_of_aes_without_key_length_is_rejected(self) -> None:
        (configured,) = ike("aes128gcm16-prfsha256-ecp256")
        bare = with_transforms(configured, Transform.of(ENCR, EncrId.AES_GCM_16), without=(ENCR,))
        with pytest.raises(NoProposalChosen):
            choose_proposal([bare], [configured])

    @pytest.mark.req("rfc7296-s3.3.5-04")
    def test_a_key_length_on_a_cipher_of_one_length_is_not_accepted(self) -> None:
        (configured,) = ike("chacha20poly1305-prfsha256-ecp256")
        odd = with_transforms(configured, Transform.of(ENCR, EncrId.CHACHA20_POLY1305, 256), without=(ENCR,))
        with pytest.raises(NoProposalChosen):
            choose_proposal([odd], [configured])

    @pytest.mark.req("rfc7296-s3.3.5-07", "rfc7296-s3.3.5-08")
    def test_a_longer_key_than_configured_is_accepted_when_nothing_fits_exactly(self) -> None:
        configured = ike("aes128gcm16-prfsha256-ecp256")
        chosen = choose_proposal(ike("aes256gcm16-prfsha256-ecp256"), configured)
        assert proposal_keyword(chosen) == "aes256gcm16-prfsha256-ecp256"
        exact = choose_proposal(ike("aes256gcm16-aes128gcm16-prfsha256-ecp256"), configured)
        assert proposal_keyword(exact) == "aes128gcm16-prfsha256-ecp256"
        with pytest.raises(NoProposalChosen):
            choose_proposal(ike("aes256gcm16-prfsha256-ecp256"), configured, longer_keys=False)

    def test_a_longer_key_that_is_not_implemented_is_not_accepted(self) -> None:
        (configured,) = ike("aes128gcm16-prfsha256-ecp256")
        for bits in (129, 512, 65535):
            odd = with_transforms(configured, Transform.of(ENCR, EncrId.AES_GCM_16, bits), without=(ENCR,))
            with pytest.raises(NoProposalChosen):
                choose_proposal([odd], [configured])

    @pytest.mark.req("rfc7296-s3.3-07")
    def test_a_transform_with_two_key_lengths_is_passed_over(self) -> None:
        (configured,) = ike("aes128gcm16-prfsha256-ecp256")
        twice = (
            TransformAttribute(AttributeType.KEY_LENGTH, 128),
            TransformAttribute(AttributeType.KEY_LENGTH, 256),
        )
        odd = with_transforms(configured, Transform(ENCR, EncrId.AES_GCM_16, twice), without=(ENCR,))
        with pytest.raises(NoProposalChosen):
            choose_proposal([odd], [configured])


class TestWhatIsNotUnderstood:
    @pytest.mark.req("rfc7296-s3.3.6-08")
    def test_a_transform_with_an_unknown_attribute_is_passed_over_and_its_type_goes_on(self) -> None:
        (configured,) = ike("aes128gcm16-prfsha256-ecp256")
        attributes = (
            TransformAttribute(AttributeType.KEY_LENGTH, 128),
            TransformAttribute(AttributeType(999), b"\0\0\0"),
        )
        odd = Transform(ENCR, EncrId.AES_GCM_16, attributes)
        with pytest.raises(NoProposalChosen):
            choose_proposal([with_transforms(configured, odd, without=(ENCR,))], [configured])
        odd_prf = Transform(PRF, PrfId.HMAC_SHA2_256, (TransformAttribute(AttributeType(999), 1),))
        with pytest.raises(NoProposalChosen):
            choose_proposal([with_transforms(configured, odd_prf, without=(PRF,))], [configured])
        both = Proposal(1, ProtocolId.IKE, b"", (odd, odd_prf, *configured.transforms))
        assert choose_proposal([both], [configured]).transforms == configured.transforms

    @pytest.mark.req("rfc7296-s3.3.6-08")
    def test_an_unknown_algorithm_is_passed_over_and_its_type_goes_on(self) -> None:
        (configured,) = ike("aes128-sha256-ecp256")
        unknown = [
            Transform.of(of_type, 1234, 128 if of_type == ENCR else None) for of_type in (ENCR, PRF, INTEG, KE)
        ]
        offered = Proposal(1, ProtocolId.IKE, b"", (*unknown, *configured.transforms))
        assert set(choose_proposal([offered], [configured]).transforms) == set(configured.transforms)

    @pytest.mark.req("rfc7296-s3.3.6-07")
    @pytest.mark.parametrize("unknown", [200, ESN, TransformType.ADDKE1])
    def test_an_unknown_transform_type_spoils_its_proposal_and_no_other(self, unknown: int) -> None:
        (configured,) = ike("aes128gcm16-prfsha256-ecp256")
        spoilt = with_transforms(configured, Transform.of(TransformType(unknown), 0))
        with pytest.raises(NoProposalChosen):
            choose_proposal([spoilt], [configured])
        assert choose_proposal([spoilt, replace(configured, number=2)], [configured]).number == 2

    @pytest.mark.req("rfc7296-s3.3.6-07")
    @pytest.mark.parametrize("missing", [ENCR, PRF, INTEG, KE])
    def test_a_mandatory_type_that_is_missing_spoils_an_ike_proposal_and_no_other(
        self, missing: TransformType
    ) -> None:
        (configured,) = ike("aes128-sha256-ecp256")
        spoilt = with_transforms(configured, without=(missing,))
        with pytest.raises(NoProposalChosen):
            choose_proposal([spoilt], [configured])
        assert choose_proposal([spoilt, replace(configured, number=2)], [configured]).number == 2

    @pytest.mark.req("rfc7296-s3.3.6-07")
    @pytest.mark.parametrize("missing", [ENCR, INTEG, ESN])
    def test_a_mandatory_type_that_is_missing_spoils_an_esp_proposal(self, missing: TransformType) -> None:
        (configured,) = esp("aes128-sha256")
        with pytest.raises(NoProposalChosen):
            choose_proposal([with_transforms(configured, without=(missing,))], [configured])

    @pytest.mark.req("rfc7296-s3.3.3-01")
    @pytest.mark.parametrize("none", [INTEG_NONE, KE_NONE])
    def test_an_optional_type_is_understood_where_the_configuration_has_none_of_it(self, none: Transform) -> None:
        """Section 3.3.3: beside a combined-mode cipher INTEG is optional, and so is the group of ESP."""
        found = [esp("aes128gcm16")[0]] + ([ike("aes128gcm16-prfsha256-ecp256")[0]] if none == INTEG_NONE else [])
        for configured in found:
            assert not configured.of_type(none.type)
            chosen = choose_proposal([with_transforms(configured, none)], [configured])
            assert set(chosen.transforms) >= set(configured.transforms)

    def test_a_prf_in_an_esp_proposal_spoils_it(self) -> None:
        (configured,) = esp("aes128gcm16")
        with pytest.raises(NoProposalChosen):
            choose_proposal([with_transforms(configured, Transform.of(PRF, 5))], [configured])


class TestIntegrity:
    @pytest.mark.req("rfc7296-s3.3-05", "rfc5282-s8-01")
    def test_none_beside_a_combined_mode_is_tolerated_and_returned(self) -> None:
        for (configured,) in (ike("aes128gcm16-prfsha256-ecp256"), esp("aes128gcm16")):
            offered = with_transforms(configured, INTEG_NONE)
            chosen = choose_proposal([offered], [configured])
            assert INTEG_NONE in chosen.transforms
            assert len(chosen.transforms) == len(offered.transforms)
            check_choice(chosen, [offered])

    @pytest.mark.req("rfc7296-s3.3-05", "rfc5282-s8-01")
    def test_another_algorithm_beside_a_combined_mode_is_not_acceptable(self) -> None:
        (configured,) = esp("aes128gcm16")
        offered = with_transforms(configured, Transform.of(INTEG, IntegId.HMAC_SHA2_256_128))
        with pytest.raises(NoProposalChosen):
            choose_proposal([offered], [configured])

    def test_of_a_mixed_offer_the_cipher_is_chosen_that_has_its_integrity(self) -> None:
        """Not a legal offer, but its AES-CBC half is a complete set."""
        combined, plain = esp("aes128gcm16", "aes128-sha256")
        mixed = with_transforms(replace(plain, number=1), *combined.of_type(ENCR))
        assert proposal_keyword(choose_proposal([mixed], [combined, plain])) == "aes128-sha256"

    @pytest.mark.req("rfc7296-s5-02")
    def test_an_ike_sa_without_integrity_is_never_chosen_even_if_configured(self) -> None:
        (whole,) = ike("aes128-sha256-ecp256")
        unprotected = with_transforms(whole, INTEG_NONE, without=(INTEG,))
        with pytest.raises(NoProposalChosen):
            choose_proposal([unprotected], [unprotected])


class TestGroups:
    @pytest.mark.req("rfc7296-s2.18-03")
    def test_none_is_never_chosen_for_an_ike_sa_even_if_configured(self) -> None:
        (whole,) = ike("aes128-sha256-ecp256")
        none = with_transforms(whole, KE_NONE, without=(KE,))
        for configured in ([whole], [none], [none, whole]):
            with pytest.raises(NoProposalChosen):
                choose_proposal([none], configured)
        both = with_transforms(whole, KE_NONE)
        assert choose_proposal([both], [both]).of_type(KE) == whole.of_type(KE)

    @pytest.mark.parametrize(
        ("offered", "configured", "chosen"),
        [
            ("aes128gcm16", "aes128gcm16", None),
            ("aes128gcm16-modpnone", "aes128gcm16", KeId.NONE),
            ("aes128gcm16-ecp256-modpnone", "aes128gcm16", KeId.NONE),
            ("aes128gcm16", "aes128gcm16-ecp256-modpnone", None),
            ("aes128gcm16-ecp256-modpnone", "aes128gcm16-modpnone-ecp256", KeId.NONE),
            ("aes128gcm16-modpnone-ecp256", "aes128gcm16-ecp256-modpnone", KeId.ECP_256),
            ("aes128gcm16-ecp256", "aes128gcm16-ecp256", KeId.ECP_256),
        ],
    )
    def test_esp_goes_without_a_group_where_both_ends_may(
        self, offered: str, configured: str, chosen: KeId | None
    ) -> None:
        proposal = choose_proposal(esp(offered), esp(configured))
        assert proposal.of_type(KE) == (() if chosen is None else (Transform.of(KE, chosen),))
        check_choice(proposal, esp(offered))

    @pytest.mark.parametrize(
        ("offered", "configured"),
        [
            ("aes128gcm16-ecp256", "aes128gcm16"),
            ("aes128gcm16", "aes128gcm16-ecp256"),
            ("aes128gcm16-modpnone", "aes128gcm16-ecp256"),
            ("aes128gcm16-ecp256", "aes128gcm16-ecp384"),
        ],
    )
    def test_esp_does_not_go_where_one_end_insists(self, offered: str, configured: str) -> None:
        with pytest.raises(NoProposalChosen):
            choose_proposal(esp(offered), esp(configured))


@pytest.mark.req("rfc7296-s3.3.6-04")
def test_the_very_transforms_of_the_offer_are_returned() -> None:
    (configured,) = ike("aes128gcm16-prfsha256-ecp256")
    # Key Length in four octets: odd, and to be returned as it came.
    long_form = Transform(
        ENCR, EncrId.AES_GCM_16, (TransformAttribute(AttributeType.KEY_LENGTH, (128).to_bytes(4, "big")),)
    )
    offered = with_transforms(configured, long_form, without=(ENCR,))
    assert long_form in choose_proposal([offered], [configured]).transforms


def test_extended_sequence_numbers_are_chosen_by_the_configured_order() -> None:
    for text, expected in (("esn-noesn", EsnId.ESN), ("noesn-esn", EsnId.NO_ESN), ("esn", EsnId.ESN)):
        chosen = choose_proposal(esp("aes128gcm16-noesn-esn"), esp(f"aes128gcm16-{text}"))
        assert chosen.of_type(ESN) == (Transform.of(ESN, expected),)
    with pytest.raises(NoProposalChosen):
        choose_proposal(esp("aes128gcm16"), esp("aes128gcm16-esn"))


class TestTheInitiatorsCheck:
    OFFERED = (
        *ike("aes256gcm16-aes128gcm16-prfsha256-ecp256-curve25519"),
        replace(parse_ike_proposal("aes128-sha256-modp2048"), number=2),
    )
    GOOD = choose_proposal(OFFERED, ike("aes128gcm16-prfsha256-curve25519"))

    def refused(self, chosen: Proposal) -> None:
        with pytest.raises(NoProposalChosen):
            check_choice(chosen, self.OFFERED)

    def test_a_choice_of_the_offer_is_accepted(self) -> None:
        check_choice(self.GOOD, self.OFFERED)
        check_choice(replace(parse_ike_proposal("aes128-sha256-modp2048"), number=2), self.OFFERED)

    @pytest.mark.req("rfc7296-s3.3.1-05", "rfc7296-s3.3.6-05")
    def test_the_number_has_to_match(self) -> None:
        for number in (0, 2, 3):
            self.refused(replace(self.GOOD, number=number))

    @pytest.mark.req("rfc7296-s3.3.6-05")
    def test_the_protocol_has_to_match(self) -> None:
        self.refused(replace(self.GOOD, protocol=ProtocolId.ESP))

    @pytest.mark.req("rfc7296-s3.3.6-05")
    @pytest.mark.parametrize(
        "foreign",
        [
            Transform.of(ENCR, EncrId.AES_GCM_16, 192),
            Transform.of(ENCR, EncrId.AES_GCM_16),
            Transform.of(ENCR, EncrId.AES_CBC, 128),
            Transform.of(PRF, PrfId.HMAC_SHA1),
            Transform.of(KE, KeId.MODP_2048),
            Transform.of(KE, KeId.NONE),
            Transform.of(KE, KeId.ECP_256, 128),
            Transform.of(INTEG, IntegId.HMAC_SHA2_256_128),
            Transform.of(ESN, EsnId.NO_ESN),
            Transform.of(TransformType(99), 0),
        ],
        ids=str,
    )
    def test_what_was_not_offered_is_refused(self, foreign: Transform) -> None:
        self.refused(with_transforms(self.GOOD, foreign, without=(foreign.type,)))

    @pytest.mark.req("rfc7296-s3.3.6-04", "rfc7296-s3.3.6-05")
    def test_attributes_have_to_come_back_unmodified(self) -> None:
        long_form = Transform(
            ENCR, EncrId.AES_GCM_16, (TransformAttribute(AttributeType.KEY_LENGTH, (128).to_bytes(4, "big")),)
        )
        self.refused(with_transforms(self.GOOD, long_form, without=(ENCR,)))
        more = Transform(ENCR, EncrId.AES_GCM_16, (*self.GOOD.of_type(ENCR)[0].attributes,) * 2)
        self.refused(with_transforms(self.GOOD, more, without=(ENCR,)))

    @pytest.mark.req("rfc7296-s3.3.6-05")
    def test_two_transforms_of_a_type_or_none_are_refused(self) -> None:
        for transform in self.GOOD.transforms:
            self.refused(with_transforms(self.GOOD, transform))
            self.refused(with_transforms(self.GOOD, without=(transform.type,)))
        self.refused(with_transforms(self.GOOD, Transform.of(KE, KeId.ECP_256)))
        self.refused(self.OFFERED[0])

    def test_none_beside_a_combined_mode_is_tolerated(self) -> None:
        check_choice(with_transforms(self.GOOD, INTEG_NONE), self.OFFERED)
        (offered,) = esp("aes128gcm16")
        check_choice(offered, [with_transforms(offered, INTEG_NONE)])

    @pytest.mark.req("rfc7296-s5-02")
    def test_none_beside_another_cipher_is_refused(self) -> None:
        chosen = replace(parse_ike_proposal("aes128-sha256-modp2048"), number=2)
        self.refused(with_transforms(chosen, INTEG_NONE, without=(INTEG,)))
        self.refused(with_transforms(chosen, without=(INTEG,)))

    @pytest.mark.req("rfc7296-s3.3-05", "rfc5282-s8-01")
    def test_an_integrity_algorithm_beside_a_combined_mode_is_refused_even_if_offered(self) -> None:
        mixed = with_transforms(parse_esp_proposal("aes128-sha256"), Transform.of(ENCR, EncrId.AES_GCM_16, 128))
        check_choice(parse_esp_proposal("aes128-sha256"), [mixed])
        with pytest.raises(NoProposalChosen):
            check_choice(with_transforms(parse_esp_proposal("aes128gcm16"), *mixed.of_type(INTEG)), [mixed])

    def test_a_group_may_only_be_left_out_where_none_was_offered(self) -> None:
        plain = esp("aes128gcm16")[0]
        check_choice(plain, esp("aes128gcm16-ecp256-modpnone"))
        with pytest.raises(NoProposalChosen):
            check_choice(plain, esp("aes128gcm16-ecp256"))


IKE_TEXTS = [
    f"{cipher}-{prf}-{group}"
    for cipher, prf, group in itertools.product(
        ("aes128gcm16", "aes256gcm16-aes128gcm16", "aes128-sha256", "chacha20poly1305"),
        ("prfsha256", "prfsha384-prfsha256"),
        ("curve25519", "ecp256-curve25519"),
    )
]


@pytest.mark.parametrize("offered", IKE_TEXTS)
@pytest.mark.parametrize("configured", IKE_TEXTS)
def test_each_pair_agrees_when_every_type_has_something_in_common_and_only_then(
    offered: str, configured: str
) -> None:
    ours, theirs = parse_ike_proposal(configured), parse_ike_proposal(offered)
    common = all(set(ours.of_type(one)) & set(theirs.of_type(one)) for one in (ENCR, PRF, KE)) and (
        set(ours.of_type(INTEG)) == set(theirs.of_type(INTEG))
    )
    if common:
        chosen = choose_proposal([theirs], [ours], longer_keys=False)
        assert set(chosen.transforms) <= set(ours.transforms) & set(theirs.transforms)
        check_choice(chosen, [theirs])
        IkeSuite.from_proposal(chosen)
    else:
        with pytest.raises(NoProposalChosen):
            choose_proposal([theirs], [ours], longer_keys=False)


TRANSFORMS = st.builds(
    Transform,
    st.sampled_from([*TransformType]),
    st.integers(0, 40),
    st.lists(
        st.builds(
            TransformAttribute,
            st.sampled_from([AttributeType.KEY_LENGTH, AttributeType(7)]),
            st.sampled_from([0, 128, 192, 256, b"", b"\x00\x80"]),
        ),
        max_size=2,
    ).map(tuple),
)
OFFERS = st.lists(st.lists(TRANSFORMS, max_size=8).map(tuple), max_size=4)
CONFIGURED = [
    *ike("aes128gcm16-prfsha256-curve25519", "aes128-sha1-modp2048-ecp256"),
    *esp("aes128gcm16-esn-noesn", "aes128-sha256-modpnone", "null-sha1"),
]


@settings(max_examples=200)
@given(OFFERS, st.sampled_from([ProtocolId.IKE, ProtocolId.ESP, ProtocolId.AH]), st.data())
def test_whatever_is_offered_the_choice_is_a_suite_or_a_protocol_error(
    offers: list[tuple[Transform, ...]], protocol: ProtocolId, data: st.DataObject
) -> None:
    good = data.draw(st.lists(st.sampled_from(CONFIGURED), max_size=2))
    bodies = [*offers, *(proposal.transforms for proposal in good)]
    order = data.draw(st.permutations(bodies))
    offered = [Proposal(number, protocol, b"", transforms) for number, transforms in enumerate(order, 1)]
    try:
        chosen = choose_proposal(offered, CONFIGURED)
    except ProtocolError:
        return
    check_choice(chosen, offered)
    (EspSuite if protocol == ProtocolId.ESP else IkeSuite).from_proposal(chosen)


@settings(max_examples=100)
@given(st.lists(TRANSFORMS, max_size=6).map(tuple), st.integers(0, 3))
def test_whatever_is_chosen_the_check_accepts_or_raises_a_protocol_error(
    transforms: tuple[Transform, ...], number: int
) -> None:
    try:
        check_choice(Proposal(number, ProtocolId.IKE, b"", transforms), TestTheInitiatorsCheck.OFFERED)
    except ProtocolError:
        return
    IkeSuite.from_proposal(Proposal(number, ProtocolId.IKE, b"", transforms))


@pytest.mark.req("rfc7296-s2.7-05")
@pytest.mark.parametrize("own", ["aes256-sha1", "aes128-sha1", "aes128-aes256-sha1"])
def test_the_rfcs_own_example_of_an_esp_offer_gives_one_cipher_and_one_integrity_algorithm(own: str) -> None:
    """ENCR_3DES, ENCR_AES with 128 and 256 bits, AUTH_HMAC_MD5, AUTH_HMAC_SHA: RFC 7296 section 2.7."""
    example = with_transforms(
        esp("aes128-sha1")[0],
        Transform.of(ENCR, EncrId.TRIPLE_DES),
        Transform.of(ENCR, EncrId.AES_CBC, 128),
        Transform.of(ENCR, EncrId.AES_CBC, 256),
        Transform.of(INTEG, IntegId.HMAC_MD5_96),
        Transform.of(INTEG, IntegId.HMAC_SHA1_96),
        without=(ENCR, INTEG),
    )
    chosen = choose_proposal([example], esp(own))
    assert len(chosen.of_type(ENCR)) == len(chosen.of_type(INTEG)) == 1
    assert chosen.of_type(ENCR)[0] in example.of_type(ENCR)
    assert chosen.of_type(INTEG) == (Transform.of(INTEG, IntegId.HMAC_SHA1_96),)


@pytest.mark.req("rfc7296-s3.14-02")
@pytest.mark.parametrize("protocol", [ProtocolId.IKE, ProtocolId.ESP])
def test_a_cipher_that_has_no_specification_is_never_negotiated(protocol: ProtocolId) -> None:
    """Of all numbers that there can be, those of the table, each with its document, and no other."""
    template = (ike("aes256-sha256-curve25519") if protocol == ProtocolId.IKE else esp("aes256-sha256"))[0]
    documents = {2410: (11,), 3602: (12,), 3686: (13,), 4309: (14, 15, 16), 4106: (18, 19, 20)}
    documents |= {4543: (21,), 7634: (28,), 8750: (29, 30, 31)}
    known = {number for numbers in documents.values() for number in numbers}
    assert known == {row.id for row in ENCRS.values()}
    for number in [number for number in range(1, 0x10000) if number < 300 or number % 97 == 0]:
        if number in known:
            continue
        for key_bits in (None, 128):
            offer = with_transforms(template, Transform.of(ENCR, EncrId(number), key_bits), without=(ENCR,))
            with pytest.raises(NoProposalChosen):
                choose_proposal((offer,), (template,))
            with pytest.raises(UnknownAlgorithm):
                (IkeSuite if protocol == ProtocolId.IKE else EspSuite).from_proposal(offer)


@pytest.mark.req("rfc7296-s3-01")
def test_what_the_rfc_marks_as_unspecified_is_in_no_proposal() -> None:
    """RFC 7296 section 3.3.2: ENCR_DES_IV64, ENCR_DES_IV32, AUTH_DES_MAC and AUTH_KPDK_MD5 have no specification."""
    unspecified = {(ENCR, 1), (ENCR, 9), (INTEG, 3), (INTEG, 4)}
    assert unspecified.isdisjoint((transform.type, int(transform.id)) for transform in KEYWORDS.values())


@pytest.mark.req("rfc7296-s3.3.5-03a")
@pytest.mark.parametrize("number", [4, 7], ids=["ENCR_RC5", "ENCR_BLOWFISH"])
def test_ciphers_with_a_default_key_length_are_not_negotiated_with_or_without_one(number: int) -> None:
    template = esp("aes256-sha256")[0]
    for key_bits in (None, 128):
        offer = with_transforms(template, Transform.of(ENCR, EncrId(number), key_bits), without=(ENCR,))
        with pytest.raises(NoProposalChosen):
            choose_proposal((offer,), esp("aes256-sha256", "aes128gcm16"))
        with pytest.raises(UnknownAlgorithm):
            EspSuite.from_proposal(offer)


def test_an_offer_that_was_answered_before_is_answered_with_its_own_number_and_spi() -> None:
    own = parse_esp_proposal("aes256gcm16")
    for spi in (b"1111", b"2222"):
        first = replace(parse_esp_proposal("aes128gcm16"), spi=spi)
        second = replace(own, number=2, spi=spi)
        chosen = choose_proposal((first, second), (own,))
        assert (chosen.number, chosen.spi, chosen.transforms) == (2, spi, own.transforms)
        assert choose_proposal((replace(own, spi=spi),), (own,)).number == 1


def test_what_is_configured_otherwise_is_chosen_otherwise() -> None:
    offer = (parse_ike_proposal("aes128gcm16-aes256gcm16-prfsha256-curve25519"),)
    for name, bits in (("aes128gcm16", 128), ("aes256gcm16", 256), ("aes128gcm16", 128)):
        chosen = choose_proposal(offer, (parse_ike_proposal(f"{name}-prfsha256-curve25519"),))
        assert chosen.of_type(TransformType.ENCR)[0].key_bits == bits


def test_choices_that_are_remembered_take_a_bounded_room() -> None:
    own = parse_ike_proposal("aes128gcm16-prfsha256-curve25519")
    known = [Transform.of(TransformType.KE, group) for group in KeId if group != KeId.CURVE25519]
    foreign = Transform.of(TransformType.ENCR, 60_000)
    for count in range(2 * selection._MOST_CHOICES):
        more = tuple(one for place, one in enumerate(known) if count >> place & 1)
        choose_proposal((replace(own, transforms=own.transforms + more),), (own,))
        assert len(selection._CHOICES) <= selection._MOST_CHOICES
    selection._CHOICES.clear()
    choose_proposal((replace(own, transforms=(*own.transforms, foreign)),), (own,))
    many = own.transforms * selection._MOST_TRANSFORMS
    choose_proposal((replace(own, transforms=many),), (own,))
    assert not selection._CHOICES  # neither of what is not known, nor of long lists
