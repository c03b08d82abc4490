"""The payload rules: what each message holds, in RFC arrows, and what is refused. RFC 7296 appendix C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ikev2.errors import InvalidSyntax, UnsupportedCriticalPayload
from ikev2.iana import (
    AuthMethod,
    CertEncoding,
    CpType,
    EapCode,
    EncrId,
    ExchangeType,
    IdType,
    KeId,
    NotifyType,
    PayloadType,
    ProtocolId,
    TransformType,
)
from ikev2.wire import rules as rows
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import (
    Auth,
    Cert,
    CertReq,
    Cp,
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
from ikev2.wire.rules import RULES, check, check_message, protected, variant

INIT, AUTH, CHILD, INFO = (
    ExchangeType.IKE_SA_INIT,
    ExchangeType.IKE_AUTH,
    ExchangeType.CREATE_CHILD_SA,
    ExchangeType.INFORMATIONAL,
)
X25519 = Transform.of(TransformType.KE, KeId.CURVE25519)
GCM = Transform.of(TransformType.ENCR, EncrId.AES_GCM_16, 256)
SA_INIT = Sa((Proposal(1, ProtocolId.IKE, b"", (GCM, X25519)),))
SA_REKEY_IKE = Sa((Proposal(1, ProtocolId.IKE, b"newspi01", (GCM, X25519)),))
SA_ESP = Sa((Proposal(1, ProtocolId.ESP, b"espi", (GCM,)),))
SA_ESP_PFS = Sa((Proposal(1, ProtocolId.ESP, b"espi", (GCM, X25519)),))
KE = Ke(KeId.CURVE25519, b"k" * 32)
NO = Nonce(b"n" * 32)
COOKIE = Notify(NotifyType.COOKIE, b"cookie")
INVALID_KE = Notify(NotifyType.INVALID_KE_PAYLOAD, b"\x00\x1f")
NO_PROP = Notify(NotifyType.NO_PROPOSAL_CHOSEN)
TS_BAD = Notify(NotifyType.TS_UNACCEPTABLE)
REKEY = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"olds")
STATUS = Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
IDI, IDR = IdI(IdType.ID_FQDN, b"i"), IdR(IdType.ID_FQDN, b"r")
MIC = Auth(AuthMethod.SHARED_KEY_MIC, b"m" * 32)
CERT, CERTREQ = Cert(CertEncoding.X509_SIGNATURE, b"0"), CertReq.of((bytes(20),))
TSI, TSR = (TsI((TrafficSelector.from_network("::/0"),)), TsR((TrafficSelector.from_network("::/0"),)))
CP = Cp(CpType.CFG_REQUEST)
EAP = Eap(EapCode.REQUEST, 1, b"\x01")
VID = VendorId(b"v")
NEW = Unknown(PayloadType(200), b"?")
CRITICAL = Unknown(PayloadType(200), b"?", critical=True)

Case = tuple[ExchangeType, str, str, Sequence[Payload]]

MESSAGES: dict[str, Case] = {
    "--> SA KE Ni": (INIT, "request", "normal", (SA_INIT, KE, NO)),
    "--> N(COOKIE) SA KE Ni": (INIT, "request", "normal", (COOKIE, SA_INIT, KE, NO, STATUS, VID, VID)),
    "<-- SA KE Nr": (INIT, "response", "normal", (SA_INIT, KE, NO)),
    "<-- SA KE Nr CERTREQ": (INIT, "response", "normal", (SA_INIT, KE, NO, CERTREQ, CERTREQ)),
    "<-- N(COOKIE)": (INIT, "response", "cookie", (COOKIE,)),
    "<-- N(INVALID_KE_PAYLOAD)": (INIT, "response", "invalid-ke", (INVALID_KE, VID)),
    "<-- N(NO_PROPOSAL_CHOSEN)": (INIT, "response", "error", (NO_PROP,)),
    "<-- N(unknown error)": (INIT, "response", "error", (Notify(NotifyType(8000)),)),
    "<-- N(REDIRECT)": (INIT, "response", "redirect", (Notify(NotifyType.REDIRECT, b"?"),)),
    "--> IDi AUTH SA TSi TSr": (AUTH, "request", "normal", (IDI, MIC, SA_ESP, TSI, TSR)),
    "--> IDi CERT+ CERTREQ+ IDr AUTH CP SA TSi TSr": (
        AUTH,
        "request",
        "normal",
        (IDI, CERT, CERT, CERT, CERT, CERTREQ, IDR, MIC, CP, SA_ESP, TSI, TSR, STATUS),
    ),
    "--> IDi AUTH": (AUTH, "request", "childless", (IDI, MIC)),
    "<-- IDr AUTH SA TSi TSr": (AUTH, "response", "normal", (IDR, MIC, SA_ESP, TSI, TSR)),
    "<-- IDr CERT+ AUTH CP SA TSi TSr": (AUTH, "response", "normal", (IDR, CERT, CERT, MIC, CP, SA_ESP, TSI, TSR)),
    "<-- IDr AUTH": (AUTH, "response", "childless", (IDR, MIC)),
    "<-- IDr AUTH N(error)": (AUTH, "response", "child-error", (IDR, MIC, TS_BAD)),
    "<-- N(AUTHENTICATION_FAILED)": (
        AUTH,
        "response",
        "error",
        (Notify(NotifyType.AUTHENTICATION_FAILED),),
    ),
    "--> IDi SA TSi TSr (EAP)": (AUTH, "request", "eap-first", (IDI, CERTREQ, IDR, CP, SA_ESP, TSI, TSR)),
    "<-- IDr CERT AUTH EAP": (AUTH, "response", "eap-first", (IDR, CERT, MIC, EAP)),
    "<-- IDr EAP": (AUTH, "response", "eap-first", (IDR, EAP)),
    "--> EAP": (AUTH, "request", "eap", (EAP,)),
    "<-- EAP": (AUTH, "response", "eap", (EAP,)),
    "--> AUTH": (AUTH, "request", "eap-last", (MIC,)),
    "<-- AUTH SA TSi TSr": (AUTH, "response", "eap-last", (MIC, CP, SA_ESP, TSI, TSR)),
    "<-- AUTH N(error)": (AUTH, "response", "eap-last-child-error", (MIC, TS_BAD)),
    "--> SA Ni TSi TSr": (CHILD, "request", "new-child", (SA_ESP, NO, TSI, TSR)),
    "--> SA Ni KEi TSi TSr": (CHILD, "request", "new-child", (SA_ESP_PFS, NO, KE, TSI, TSR)),
    "--> N(REKEY_SA) SA Ni KEi TSi TSr": (CHILD, "request", "rekey-child", (REKEY, SA_ESP_PFS, NO, KE, TSI, TSR)),
    "<-- SA Nr TSi TSr": (CHILD, "response", "new-child", (SA_ESP, NO, TSI, TSR)),
    "--> SA Ni KEi": (CHILD, "request", "rekey-ike", (SA_REKEY_IKE, NO, KE)),
    "<-- SA Nr KEr": (CHILD, "response", "rekey-ike", (SA_REKEY_IKE, NO, KE)),
    "<-- N(INVALID_KE_PAYLOAD) in a CREATE_CHILD_SA": (CHILD, "response", "invalid-ke", (INVALID_KE,)),
    "<-- N(TEMPORARY_FAILURE)": (CHILD, "response", "error", (Notify(NotifyType.TEMPORARY_FAILURE),)),
    "--> (liveness)": (INFO, "request", "normal", ()),
    "<-- (liveness)": (INFO, "response", "normal", ()),
    "--> N+ D+ CP": (INFO, "request", "normal", (STATUS, NO_PROP, Delete.esp(b"abcd"), Delete.ike(), CP)),
    "<-- D": (INFO, "response", "normal", (Delete.esp(b"abcd"),)),
    "--> N(INVALID_SPI) in clear": (INFO, "request", "unprotected", (Notify(NotifyType.INVALID_SPI, b"abcd"),)),
    "<-- N(INVALID_IKE_SPI) in clear": (INFO, "response", "unprotected", (Notify(NotifyType.INVALID_IKE_SPI),)),
    "--> (IKE_INTERMEDIATE) KE": (ExchangeType.IKE_INTERMEDIATE, "request", "normal", (KE,)),
    "<-- (IKE_INTERMEDIATE)": (ExchangeType.IKE_INTERMEDIATE, "response", "normal", (STATUS,)),
    "<-- (IKE_INTERMEDIATE) N(error)": (ExchangeType.IKE_INTERMEDIATE, "response", "error", (NO_PROP,)),
    "--> (IKE_FOLLOWUP_KE) KE N(ADDITIONAL_KEY_EXCHANGE)": (
        ExchangeType.IKE_FOLLOWUP_KE,
        "request",
        "normal",
        (KE, Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, b"link")),
    ),
    "<-- (IKE_FOLLOWUP_KE) KE": (ExchangeType.IKE_FOLLOWUP_KE, "response", "normal", (KE,)),
    "<-- (IKE_FOLLOWUP_KE) N(error)": (
        ExchangeType.IKE_FOLLOWUP_KE,
        "response",
        "error",
        (Notify(NotifyType.STATE_NOT_FOUND),),
    ),
}


def in_clear(exchange: ExchangeType, name: str) -> bool:
    return exchange == INIT or name == "unprotected"


def judge(exchange: ExchangeType, direction: str, payloads: Sequence[Payload], *, clear: bool) -> str:
    """The variant that `check_message` finds, for payloads in clear or inside an SK payload."""
    header = Header.to_send(
        b"i" * 8,
        bytes(8) if (exchange, direction) == (INIT, "request") else b"r" * 8,
        exchange,
        0,
        is_initiator=direction == "request",
        is_response=direction == "response",
    )
    if clear:
        return check_message(Message(header, tuple(payloads)))
    first = payloads[0].payload_type if payloads else PayloadType.NO_NEXT_PAYLOAD
    return check_message(Message(header, (Encrypted(first, b"sealed"),)), payloads)


def judge_case(case: Case, payloads: Sequence[Payload]) -> str:
    exchange, direction, name, _ = case
    return judge(exchange, direction, payloads, clear=in_clear(exchange, name))


@pytest.mark.parametrize("arrow", MESSAGES)
def test_every_message_of_appendix_c_passes_under_its_name(arrow: str) -> None:
    case = MESSAGES[arrow]
    assert judge_case(case, case[3]) == case[2]


def test_every_row_of_the_table_is_the_rule_of_some_message_above() -> None:
    proven = {(exchange, direction, name) for exchange, direction, name, _ in MESSAGES.values()}
    # the answer to a rekey is told from the answer to a new Child SA by the request alone
    assert set(RULES) - proven == {(CHILD, "response", "rekey-child")}


@pytest.mark.req("rfc7296-s2.5-15")
@pytest.mark.parametrize("arrow", MESSAGES)
def test_the_order_of_payloads_means_nothing(arrow: str) -> None:
    case = MESSAGES[arrow]
    assert judge_case(case, tuple(reversed(case[3]))) == case[2]


@pytest.mark.req("rfc7296-s2.5-09", "rfc7296-s2.5-12", "rfc7296-s3.12-03", "rfc7296-s3.10.1-03")
@pytest.mark.parametrize("arrow", MESSAGES)
def test_unknown_payloads_vendor_ids_and_status_notifies_are_welcome_everywhere(arrow: str) -> None:
    case = MESSAGES[arrow]
    extra = (NEW, VID, Notify(NotifyType(40960)), NEW)
    assert judge_case(case, (*extra, *case[3], *extra)) == case[2]


@pytest.mark.req("rfc7296-s2.5-10")
@pytest.mark.parametrize("arrow", MESSAGES)
def test_an_unknown_critical_payload_is_refused_everywhere_before_anything_else(arrow: str) -> None:
    case = MESSAGES[arrow]
    for payloads in ((*case[3], CRITICAL), (CRITICAL,), (CRITICAL, NO, NO)):
        with pytest.raises(UnsupportedCriticalPayload) as caught:
            judge_case(case, payloads)
        assert caught.value.notify_data == b"\xc8"


@pytest.mark.req("rfc7296-s3.2-03")
@pytest.mark.parametrize("arrow", MESSAGES)
def test_the_critical_bit_of_known_payloads_is_ignored(arrow: str) -> None:
    case = MESSAGES[arrow]
    assert judge_case(case, tuple(replace(payload, critical=True) for payload in case[3])) == case[2]


@pytest.mark.parametrize("arrow", MESSAGES)
def test_a_payload_too_many_is_refused(arrow: str) -> None:
    case = MESSAGES[arrow]
    rules = RULES[case[0], case[1], case[2]]  # type: ignore[index]
    single = {rule.payload_type for rule in rules if rule.maximum == 1 and rule.notify_type is None}
    for payload in case[3]:
        if payload.payload_type in single:
            with pytest.raises(InvalidSyntax):
                judge_case(case, (*case[3], payload))


@pytest.mark.parametrize("arrow", MESSAGES)
def test_a_mandatory_payload_missing_makes_another_message_or_none(arrow: str) -> None:
    case = MESSAGES[arrow]
    rules = RULES[case[0], case[1], case[2]]  # type: ignore[index]
    for rule in rules:
        if rule.minimum == 0:
            continue
        without = [payload for payload in case[3] if rule.count([payload]) == 0]
        with pytest.raises(InvalidSyntax, match="is missing"):
            check(without, rules)


@pytest.mark.parametrize("arrow", MESSAGES)
def test_payloads_of_other_messages_are_out_of_place(arrow: str) -> None:
    case = MESSAGES[arrow]
    rules = RULES[case[0], case[1], case[2]]  # type: ignore[index]
    allowed = {rule.payload_type for rule in rules} | {PayloadType.N, PayloadType.V}
    for payload in (SA_ESP, KE, IDI, IDR, CERT, CERTREQ, MIC, NO, Delete.ike(), TSI, TSR, CP, EAP):
        if payload.payload_type not in allowed:
            with pytest.raises(InvalidSyntax) as caught:
                check((*case[3], payload), rules)
            assert caught.value.payload == payload.payload_type


@pytest.mark.parametrize("arrow", [arrow for arrow in MESSAGES if MESSAGES[arrow][3]])
def test_a_message_is_encrypted_exactly_when_its_rows_say_so(arrow: str) -> None:
    exchange, direction, name, payloads = MESSAGES[arrow]
    check(payloads, RULES[exchange, direction, name], encrypted=not in_clear(exchange, name))  # type: ignore[index]
    with pytest.raises(InvalidSyntax):
        check(payloads, RULES[exchange, direction, name], encrypted=in_clear(exchange, name))  # type: ignore[index]


def test_an_empty_informational_in_clear_is_no_liveness_check() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INFO, "request", (), clear=True)


def test_an_informational_in_clear_carries_no_delete() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INFO, "request", (Delete.ike(),), clear=True)


def test_an_initial_exchange_is_not_encrypted() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INIT, "request", (SA_INIT, KE, NO), clear=False)


def header_of(exchange: ExchangeType) -> Header:
    return Header.to_send(b"i" * 8, b"r" * 8, exchange, 1, is_initiator=True, is_response=False)


def test_known_payloads_beside_an_encrypted_one_are_refused_and_unknown_ones_ignored() -> None:
    sealed = Encrypted(PayloadType.NO_NEXT_PAYLOAD, b"sealed")
    assert check_message(Message(header_of(INFO), (NEW, sealed)), ()) == "normal"
    with pytest.raises(InvalidSyntax, match="not encrypted"):
        check_message(Message(header_of(INFO), (Delete.ike(), sealed)), ())
    with pytest.raises(UnsupportedCriticalPayload):
        check_message(Message(header_of(INFO), (CRITICAL, sealed)), ())


def test_a_message_still_sealed_is_not_judged() -> None:
    with pytest.raises(InvalidSyntax):
        check_message(Message(header_of(INFO), (EncryptedFragment(PayloadType.D, 1, 1, b"sealed"),)))


def test_protected_gives_the_sealed_payload_or_raises() -> None:
    sealed = Encrypted(PayloadType.D, b"sealed")
    assert protected(Message(header_of(INFO), (NEW, sealed))) is sealed
    with pytest.raises(InvalidSyntax):
        protected(Message(header_of(INFO), (Delete.ike(),)))


def test_an_exchange_without_rows_is_refused() -> None:
    with pytest.raises(InvalidSyntax):
        judge(ExchangeType(241), "request", (), clear=False)


@pytest.mark.req("rfc7296-s3.1-03", "rfc7296-s3.1-04")
def test_the_spis_of_the_first_message_are_the_initiators_alone() -> None:
    header = Header.to_send(b"i" * 8, bytes(8), INIT, 0, is_initiator=True, is_response=False)
    payloads = (SA_INIT, KE, NO)
    assert check_message(Message(header, payloads)) == "normal"
    with pytest.raises(InvalidSyntax):
        check_message(Message(replace(header, responder_spi=b"r" * 8), payloads))
    with pytest.raises(InvalidSyntax):
        check_message(Message(replace(header, initiator_spi=bytes(8)), payloads))


# --- what an SA payload says about itself in its place ---


def numbered(sa: Sa, number: int) -> Sa:
    return Sa((replace(sa.proposals[0], number=number),))


@pytest.mark.req("rfc7296-s3.3-04", "rfc7296-s3.3.1-03")
def test_the_first_proposal_of_an_offer_is_number_one() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INIT, "request", (numbered(SA_INIT, 2), KE, NO), clear=True)
    assert judge(INIT, "response", (numbered(SA_INIT, 2), KE, NO), clear=True) == "normal"


def test_an_answer_holds_one_proposal() -> None:
    one = SA_INIT.proposals[0]
    with pytest.raises(InvalidSyntax):
        judge(INIT, "response", (Sa((one, replace(one, number=2))), KE, NO), clear=True)


@pytest.mark.req("rfc7296-s3.3.1-06")
def test_the_spi_of_an_ike_proposal_is_in_the_header_first_and_in_the_proposal_later() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INIT, "request", (SA_REKEY_IKE, KE, NO), clear=True)
    with pytest.raises(InvalidSyntax):
        judge(CHILD, "request", (SA_INIT, NO, KE), clear=False)


@pytest.mark.req("rfc7296-s3.4-02", "rfc7296-s1.3-01")
def test_the_group_of_ke_is_in_a_proposal() -> None:
    other = Ke(KeId.ECP_256, b"k" * 64)
    for exchange, sa in ((INIT, SA_INIT), (CHILD, SA_REKEY_IKE)):
        with pytest.raises(InvalidSyntax):
            judge(exchange, "request", (sa, other, NO), clear=exchange == INIT)


@pytest.mark.req("rfc7296-s3.4-04")
def test_ke_without_a_group_in_any_proposal_is_refused() -> None:
    none = Sa((replace(SA_ESP.proposals[0], transforms=(GCM, Transform.of(TransformType.KE, KeId.NONE))),))
    for sa in (SA_ESP, none):
        with pytest.raises(InvalidSyntax):
            judge(CHILD, "request", (sa, NO, KE, TSI, TSR), clear=False)
    with pytest.raises(InvalidSyntax):
        judge(CHILD, "request", (none, NO, Ke(KeId.NONE, b"k" * 32), TSI, TSR), clear=False)


@pytest.mark.req("rfc7296-s1.3.2-01")
def test_the_rekey_of_an_ike_sa_has_a_ke_payload() -> None:
    for direction in ("request", "response"):
        with pytest.raises(InvalidSyntax, match="KE is missing"):
            judge(CHILD, direction, (SA_REKEY_IKE, NO), clear=False)


def test_rekey_sa_makes_a_request_the_rekey_of_a_child_sa() -> None:
    payloads = (SA_ESP, NO, TSI, TSR)
    assert variant(CHILD, "request", payloads) == "new-child"
    assert variant(CHILD, "request", (*payloads, REKEY)) == "rekey-child"
    with pytest.raises(InvalidSyntax):
        judge(CHILD, "request", (*payloads, REKEY, REKEY), clear=False)


def test_two_cookies_are_one_too_many() -> None:
    with pytest.raises(InvalidSyntax):
        judge(INIT, "request", (COOKIE, COOKIE, SA_INIT, KE, NO), clear=True)
    with pytest.raises(InvalidSyntax):
        judge(INIT, "response", (COOKIE, COOKIE), clear=True)


@pytest.mark.parametrize("arrow", MESSAGES)
def test_what_was_seen_before_does_not_let_its_like_pass(arrow: str) -> None:
    """The same message twice, then without its first payload, then again: each gets what it would get alone."""
    case = MESSAGES[arrow]
    rows._VARIANTS.clear()
    fresh = _verdict(case, case[3][1:])
    rows._VARIANTS.clear()
    for _ in range(2):
        assert judge_case(case, case[3]) == case[2]
    assert _verdict(case, case[3][1:]) == fresh
    assert judge_case(case, case[3]) == case[2]


def _verdict(case: Case, payloads: Sequence[Payload]) -> str:
    try:
        return judge_case(case, payloads)
    except InvalidSyntax as error:
        return str(error)


def test_a_critical_payload_is_refused_in_a_message_whose_like_was_seen_before() -> None:
    payloads = (SA_INIT, KE, NO, Unknown(PayloadType(200), b""))
    critical = replace(payloads[3], critical=True)
    assert judge(INIT, "request", payloads, clear=True) == "normal"
    with pytest.raises(UnsupportedCriticalPayload):
        judge(INIT, "request", (*payloads[:3], critical), clear=True)


def test_messages_that_were_seen_take_a_bounded_room() -> None:
    payloads = (SA_INIT, KE, NO)
    for number in range(2 * rows._MOST_VARIANTS):
        judge(INIT, "request", (*payloads, Notify(NotifyType(50_000 + number))), clear=True)
        assert len(rows._VARIANTS) <= rows._MOST_VARIANTS
    rows._VARIANTS.clear()
    judge(INIT, "request", (*payloads, *[Notify(NotifyType(50_000))] * rows._MOST_PAYLOADS), clear=True)
    assert not rows._VARIANTS
