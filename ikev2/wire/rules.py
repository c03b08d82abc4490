"""Which payloads belong in which message, as data. RFC 7296 sections 1.2 to 1.4, 2.16 and appendix C.

A row says how often a payload type may occur in one variant of a message, and whether it travels encrypted. Three
things hold in every message and are in no row: Notify and Vendor ID payloads may occur any number of times, a payload
of an unknown type is ignored unless it is critical, and the order means nothing (section 2.5).

    RULES[ExchangeType.IKE_AUTH, "response", "child-error"]   the rows
    check(payloads, rows)                                     raises when payloads and rows disagree
    check_message(message, inner)                             finds the variant, checks, and returns its name
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ikev2.errors import InvalidSyntax, UnsupportedCriticalPayload
from ikev2.iana import ExchangeType, KeId, NotifyType, PayloadType, ProtocolId, TransformType
from ikev2.registration import Registration, register_row
from ikev2.wire.header import Header
from ikev2.wire.message import Message
from ikev2.wire.payloads import Encrypted, EncryptedFragment, Ke, Notify, Payload, Sa, Unknown

Direction = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How often `payload_type` may occur; `maximum` None is without limit.

    With `notify_type` the row is about notifies of that type. `any_error` makes it about error notifies of any type.
    """

    payload_type: PayloadType
    minimum: int
    maximum: int | None
    encrypted: bool = True
    notify_type: NotifyType | None = None
    any_error: bool = False

    def __str__(self) -> str:
        if self.any_error:
            return "N(error)"
        return str(self.payload_type) if self.notify_type is None else f"N({self.notify_type})"

    def count(self, payloads: Sequence[Payload]) -> int:
        """How many of `payloads` the row is about."""
        if self.any_error:
            return sum(isinstance(payload, Notify) and payload.is_error for payload in payloads)
        if self.notify_type is not None:
            return sum(
                isinstance(payload, Notify) and payload.notify_type == self.notify_type for payload in payloads
            )
        return [payload.payload_type for payload in payloads].count(self.payload_type)


Rules = tuple[Rule, ...]


def _one(*types: PayloadType, encrypted: bool = True) -> Rules:
    return tuple(Rule(item, 1, 1, encrypted) for item in types)


def _optional(*types: PayloadType, encrypted: bool = True) -> Rules:
    return tuple(Rule(item, 0, 1, encrypted) for item in types)


def _any(*types: PayloadType, encrypted: bool = True) -> Rules:
    return tuple(Rule(item, 0, None, encrypted) for item in types)


def _notify(notify_type: NotifyType, maximum: int | None = 1, *, minimum: int = 1, encrypted: bool = True) -> Rules:
    return (Rule(PayloadType.N, minimum, maximum, encrypted, notify_type),)


def _error(*, encrypted: bool = True) -> Rules:
    return (Rule(PayloadType.N, 1, None, encrypted, any_error=True),)


_P: Final = PayloadType
_CHILD: Final = _one(_P.SA, _P.TSi, _P.TSr)
_CHILD_OFFER: Final = _CHILD + _optional(_P.CP)
_CHILD_ANSWER: Final = _CHILD + _optional(_P.CP)
# rfc7296-s1.3.2-01: KE is optional in the Child SA uses and mandatory in the rekey of the IKE SA
_NEW_CHILD: Final = _CHILD_OFFER + _one(_P.NONCE) + _optional(_P.KE)
_REKEY_IKE: Final = _one(_P.SA, _P.NONCE, _P.KE)

RULES: Final[dict[tuple[ExchangeType, Direction, str], Rules]] = {
    # Appendix C.1. The N(COOKIE) of a request is first in the message when there is one.
    (ExchangeType.IKE_SA_INIT, "request", "normal"): (
        *_one(_P.SA, _P.KE, _P.NONCE, encrypted=False),
        *_notify(NotifyType.COOKIE, minimum=0, encrypted=False),
    ),
    (ExchangeType.IKE_SA_INIT, "response", "normal"): (
        *_one(_P.SA, _P.KE, _P.NONCE, encrypted=False),
        *_any(_P.CERTREQ, encrypted=False),
    ),
    (ExchangeType.IKE_SA_INIT, "response", "cookie"): _notify(NotifyType.COOKIE, encrypted=False),
    (ExchangeType.IKE_SA_INIT, "response", "invalid-ke"): _notify(NotifyType.INVALID_KE_PAYLOAD, encrypted=False),
    # RFC 5685 section 3: the nonce of the request comes back inside the notify
    (ExchangeType.IKE_SA_INIT, "response", "redirect"): _notify(NotifyType.REDIRECT, encrypted=False),
    (ExchangeType.IKE_SA_INIT, "response", "error"): _error(encrypted=False),
    # Appendix C.2
    (ExchangeType.IKE_AUTH, "request", "normal"): (
        *_one(_P.IDi, _P.AUTH),
        *_any(_P.CERT, _P.CERTREQ),
        *_optional(_P.IDr),
        *_CHILD_OFFER,
    ),
    # RFC 6023 section 3
    (ExchangeType.IKE_AUTH, "request", "childless"): (
        *_one(_P.IDi, _P.AUTH),
        *_any(_P.CERT, _P.CERTREQ),
        *_optional(_P.IDr, _P.CP),
    ),
    (ExchangeType.IKE_AUTH, "response", "normal"): (*_one(_P.IDr, _P.AUTH), *_any(_P.CERT), *_CHILD_ANSWER),
    (ExchangeType.IKE_AUTH, "response", "childless"): (*_one(_P.IDr, _P.AUTH), *_any(_P.CERT), *_optional(_P.CP)),
    (ExchangeType.IKE_AUTH, "response", "child-error"): (
        *_one(_P.IDr, _P.AUTH),
        *_any(_P.CERT),
        *_optional(_P.CP),
        *_error(),
    ),
    (ExchangeType.IKE_AUTH, "response", "error"): (*_error(), *_optional(_P.IDr), *_any(_P.CERT)),
    # Appendix C.3: the first exchange, those in the middle, and the last
    (ExchangeType.IKE_AUTH, "request", "eap-first"): (
        *_one(_P.IDi),
        *_any(_P.CERTREQ),
        *_optional(_P.IDr),
        *_CHILD_OFFER,
    ),
    # RFC 5998: with EAP-only authentication the responder sends no AUTH here
    (ExchangeType.IKE_AUTH, "response", "eap-first"): (
        *_one(_P.IDr, _P.EAP),
        *_any(_P.CERT),
        *_optional(_P.AUTH),
    ),
    (ExchangeType.IKE_AUTH, "request", "eap"): _one(_P.EAP),
    (ExchangeType.IKE_AUTH, "response", "eap"): _one(_P.EAP),
    (ExchangeType.IKE_AUTH, "request", "eap-last"): _one(_P.AUTH),
    (ExchangeType.IKE_AUTH, "response", "eap-last"): (*_one(_P.AUTH), *_CHILD_ANSWER),
    (ExchangeType.IKE_AUTH, "response", "eap-last-child-error"): (*_one(_P.AUTH), *_optional(_P.CP), *_error()),
    # Appendix C.4
    (ExchangeType.CREATE_CHILD_SA, "request", "new-child"): (
        *_NEW_CHILD,
        *_notify(NotifyType.REKEY_SA, 0, minimum=0),
    ),
    # rfc7296-s1.3.3-01
    (ExchangeType.CREATE_CHILD_SA, "request", "rekey-child"): (*_NEW_CHILD, *_notify(NotifyType.REKEY_SA)),
    (ExchangeType.CREATE_CHILD_SA, "response", "new-child"): _NEW_CHILD,
    (ExchangeType.CREATE_CHILD_SA, "response", "rekey-child"): _NEW_CHILD,
    # Appendix C.5
    (ExchangeType.CREATE_CHILD_SA, "request", "rekey-ike"): (
        *_REKEY_IKE,
        *_notify(NotifyType.REKEY_SA, 0, minimum=0),
    ),
    (ExchangeType.CREATE_CHILD_SA, "response", "rekey-ike"): _REKEY_IKE,
    (ExchangeType.CREATE_CHILD_SA, "response", "invalid-ke"): _notify(NotifyType.INVALID_KE_PAYLOAD),
    (ExchangeType.CREATE_CHILD_SA, "response", "error"): _error(),
    # Appendix C.6; an empty message is a liveness check
    (ExchangeType.INFORMATIONAL, "request", "normal"): (*_any(_P.D), *_optional(_P.CP)),
    (ExchangeType.INFORMATIONAL, "response", "normal"): (*_any(_P.D), *_optional(_P.CP)),
    # Sections 1.5 and 2.21.4: about messages and packets for which there is no SA
    (ExchangeType.INFORMATIONAL, "request", "unprotected"): _error(encrypted=False),
    (ExchangeType.INFORMATIONAL, "response", "unprotected"): _error(encrypted=False),
    # RFC 9242 section 3; the payloads are those of the extension that uses it, here RFC 9370 section 2.2.2
    (ExchangeType.IKE_INTERMEDIATE, "request", "normal"): _optional(_P.KE),
    (ExchangeType.IKE_INTERMEDIATE, "response", "normal"): _optional(_P.KE),
    (ExchangeType.IKE_INTERMEDIATE, "response", "error"): _error(),
    # RFC 9370 section 2.2.4
    (ExchangeType.IKE_FOLLOWUP_KE, "request", "normal"): (
        *_one(_P.KE),
        *_notify(NotifyType.ADDITIONAL_KEY_EXCHANGE),
    ),
    (ExchangeType.IKE_FOLLOWUP_KE, "response", "normal"): (
        *_one(_P.KE),
        *_notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, minimum=0),
    ),
    (ExchangeType.IKE_FOLLOWUP_KE, "response", "error"): _error(),
}


def register(
    exchange_type: ExchangeType, direction: Direction, rules: Rules, variant: str = "normal"
) -> Registration:
    """Say which payloads a message of a further exchange has. Clash when that is said already.

    An exchange of an extension has two variants at most: "normal" and, of a response with an error notify, "error".
    """
    what = f"the rule for {exchange_type} {direction} {variant}"
    return register_row(RULES, (exchange_type, direction, variant), rules, what)


EVERYWHERE: Final = (PayloadType.N, PayloadType.V)  # rfc7296-s3.10.1-03, rfc7296-s3.12-01, rfc7296-s3.12-03
"""The types that any message may hold."""


def check_unknown(payloads: Iterable[Payload]) -> None:
    """Raise UnsupportedCriticalPayload for the first payload of an unknown type whose critical bit is set."""
    for payload in payloads:
        # rfc7296-s2.5-10, rfc7296-s2.5-12: refuse the critical one, pass over the others
        # rfc7296-s2.5-11, rfc7296-s2.21.2-02, rfc7296-s3.2-03, rfc7296-s3.2-05, rfc7296-s4-03
        if payload.critical and isinstance(payload, Unknown):
            raise UnsupportedCriticalPayload(payload.payload_type)


def check(payloads: Sequence[Payload], rules: Rules, *, encrypted: bool | None = None) -> None:
    """Raise when a message of these payloads does not obey the rows.

    `encrypted`, where given, says how the payloads travelled; rows that want it otherwise are then broken.
    Errors: UnsupportedCriticalPayload before all others, InvalidSyntax for a payload that is missing, too many,
    out of place, or not encrypted as it should be.
    """
    check_unknown(payloads)
    _check_rows(payloads, rules, encrypted=encrypted)


def _check_rows(payloads: Sequence[Payload], rules: Rules, *, encrypted: bool | None) -> None:
    types = [payload.payload_type for payload in payloads]
    if encrypted is not None and payloads:
        for rule in rules:
            if rule.encrypted != encrypted:
                raise InvalidSyntax("the payloads are " + ("encrypted" if encrypted else "not encrypted"))
    for rule in rules:
        by_type = rule.notify_type is None and not rule.any_error
        count = types.count(rule.payload_type) if by_type else rule.count(payloads)
        if count < rule.minimum:
            raise InvalidSyntax(f"{rule} is missing" if count == 0 else f"{count} {rule}, at least {rule.minimum}")
        if rule.maximum is not None and count > rule.maximum:
            raise InvalidSyntax(f"{count} {rule}, at most {rule.maximum}")
    strangers = set(types).difference(EVERYWHERE, [rule.payload_type for rule in rules])
    for payload in payloads if strangers else ():
        # rfc7296-s2.5-09, rfc7296-s4-02
        if payload.payload_type in strangers and not isinstance(payload, Unknown):
            raise InvalidSyntax("a payload out of place", payload=payload.payload_type)


def check_message(message: Message, inner: Sequence[Payload] | None = None) -> str:
    """Check a received message against its rows and return the name of its variant.

    `inner` are the payloads that lay in its SK payload (or in all its SKF payloads); None for a message in clear.
    Errors: as for `check`; InvalidSyntax also for an exchange that has no rows.
    """
    header = message.header
    check_spis(header)
    direction: Direction = "response" if header.is_response else "request"
    clear = message.clear_payloads
    if inner is not None:
        # Only the initial exchange speaks in clear: beside SK nothing else has a meaning.
        check_unknown(clear)
        if known := [item for item in clear if not isinstance(item, Unknown)]:
            raise InvalidSyntax("a payload that is not encrypted", payload=known[0].payload_type)
    elif message.encrypted is not None:
        raise InvalidSyntax("an encrypted payload", payload=message.encrypted.payload_type)
    payloads = clear if inner is None else tuple(inner)
    check_unknown(payloads)
    # The rows speak of types alone: what has the types of a message that obeyed them obeys them, too.
    types = tuple([_type_of(payload) for payload in payloads])
    key = (header.exchange_type, direction, inner is None, types, Registration.changes)
    name = _VARIANTS.get(key)
    if name is None:
        name = variant(header.exchange_type, direction, payloads, protected=inner is not None)
        rules = RULES.get((header.exchange_type, direction, name))
        if rules is None:
            raise InvalidSyntax(f"no such message: {header.exchange_type} {direction}")
        _check_rows(payloads, rules, encrypted=inner is not None)
        _remember(key, name)
    check_offer(payloads, header.exchange_type, direction)
    return name


def _type_of(payload: Payload) -> tuple[int, int]:
    """The types by which the rows tell payloads apart."""
    return payload.payload_type, payload.notify_type if isinstance(payload, Notify) else 0


_Key = tuple[ExchangeType, Direction, bool, tuple[tuple[int, int], ...], int]
_VARIANTS: dict[_Key, str] = {}
"""The variants of messages that were seen before and obey their rows, by the types of their payloads. Bounded."""
_MOST_VARIANTS = 256
_MOST_PAYLOADS = 16


def _remember(key: _Key, name: str) -> None:
    # A CREATE_CHILD_SA is told apart by what its SA payload says, too.
    if key[0] == ExchangeType.CREATE_CHILD_SA or len(key[3]) > _MOST_PAYLOADS:
        return
    if len(_VARIANTS) >= _MOST_VARIANTS:
        _VARIANTS.clear()
    _VARIANTS[key] = name


def check_spis(header: Header) -> None:
    """Check the SPIs of a header against its place in the exchanges. Errors: InvalidSyntax. RFC 7296 section 3.1."""
    # rfc7296-s3.1-03
    if not any(header.initiator_spi):
        raise InvalidSyntax("the initiator's SPI is zero", offset=0)
    # rfc7296-s3.1-04
    if header.exchange_type == ExchangeType.IKE_SA_INIT and not header.is_response and any(header.responder_spi):
        raise InvalidSyntax("a responder's SPI in the first message", offset=8)


def check_offer(payloads: Sequence[Payload], exchange_type: ExchangeType, direction: Direction) -> None:
    """Check what the SA payload says about itself in this place, and the KE payload against it.

    Errors: InvalidSyntax. RFC 7296 sections 3.3, 3.3.1 and 3.4.
    """
    sa = ke = None
    for payload in reversed(payloads):
        if isinstance(payload, Sa):
            sa = payload
        elif isinstance(payload, Ke):
            ke = payload
    if sa is None:
        return
    # rfc7296-s3.3-04
    if direction == "request" and sa.proposals[0].number != 1:
        raise InvalidSyntax(f"the first proposal is number {sa.proposals[0].number}", payload=PayloadType.SA)
    if direction == "response" and len(sa.proposals) != 1:
        raise InvalidSyntax(f"{len(sa.proposals)} proposals in an answer", payload=PayloadType.SA)
    for proposal in sa.proposals:
        if proposal.protocol == ProtocolId.IKE:
            # rfc7296-s3.3.1-06
            octets = 0 if exchange_type == ExchangeType.IKE_SA_INIT else 8
            if len(proposal.spi) != octets:
                raise InvalidSyntax(
                    f"proposal {proposal.number} with an SPI of {len(proposal.spi)} octets", payload=PayloadType.SA
                )
    if ke is None:
        return
    groups = {item.id for proposal in sa.proposals for item in proposal.of_type(TransformType.KE)}
    if exchange_type != ExchangeType.IKE_SA_INIT and not groups - {KeId.NONE}:  # rfc7296-s3.4-04
        raise InvalidSyntax("a KE payload, and no proposal with a group", payload=PayloadType.KE)
    # rfc7296-s3.4-02, rfc7296-s1.3-01
    if ke.group not in groups:
        raise InvalidSyntax(f"{ke.group} is in no proposal", payload=PayloadType.KE)


def variant(
    exchange_type: ExchangeType, direction: Direction, payloads: Sequence[Payload], *, protected: bool = True
) -> str:
    """The name of the variant that a message of these payloads is, or wants to be."""
    if direction == "request" and exchange_type == ExchangeType.IKE_SA_INIT:
        return "normal"  # what a stranger sends is looked at no longer than it must be
    types = Counter([payload.payload_type for payload in payloads])
    notifies = {payload.notify_type for payload in payloads if isinstance(payload, Notify)}
    error = any(notify_type.is_error for notify_type in notifies)
    match exchange_type, direction:
        case ExchangeType.IKE_SA_INIT, "response":
            return _init_response(types, notifies, error)
        case ExchangeType.IKE_AUTH, "request":
            return _auth_request(types)
        case ExchangeType.IKE_AUTH, "response":
            return _auth_response(types, error)
        case ExchangeType.CREATE_CHILD_SA, _:
            return _create_child_sa(direction, types, notifies, error, payloads)
        case ((ExchangeType.IKE_INTERMEDIATE | ExchangeType.IKE_FOLLOWUP_KE), "response"):
            return "error" if error and not types[PayloadType.KE] else "normal"
        case ExchangeType.INFORMATIONAL, _:
            return "normal" if protected else "unprotected"
        case _:
            return "error" if error and (exchange_type, direction, "error") in RULES else "normal"


def _init_response(types: Counter[PayloadType], notifies: set[NotifyType], error: bool) -> str:
    if types[PayloadType.SA]:
        return "normal"
    if NotifyType.COOKIE in notifies:
        return "cookie"
    if NotifyType.INVALID_KE_PAYLOAD in notifies:
        return "invalid-ke"
    if NotifyType.REDIRECT in notifies:
        return "redirect"
    return "error" if error else "normal"


def _auth_request(types: Counter[PayloadType]) -> str:
    if types[PayloadType.EAP]:
        return "eap"
    if not types[PayloadType.IDi]:
        return "eap-last" if types[PayloadType.AUTH] else "normal"
    if not types[PayloadType.AUTH]:
        return "eap-first"
    child = types[PayloadType.SA] + types[PayloadType.TSi] + types[PayloadType.TSr]
    return "normal" if child else "childless"


def _auth_response(types: Counter[PayloadType], error: bool) -> str:
    if types[PayloadType.EAP]:
        return "eap-first" if types[PayloadType.IDr] else "eap"
    child = types[PayloadType.SA] + types[PayloadType.TSi] + types[PayloadType.TSr]
    if not types[PayloadType.AUTH]:
        return "error" if error else "normal"
    if not types[PayloadType.IDr]:
        return "eap-last-child-error" if error and not child else "eap-last"
    if child:
        return "normal"
    return "child-error" if error else "childless"


def _create_child_sa(
    direction: Direction,
    types: Counter[PayloadType],
    notifies: set[NotifyType],
    error: bool,
    payloads: Sequence[Payload],
) -> str:
    if direction == "response" and not types[PayloadType.SA]:
        if NotifyType.INVALID_KE_PAYLOAD in notifies:
            return "invalid-ke"
        return "error" if error else "new-child"
    if NotifyType.REKEY_SA in notifies:
        return "rekey-child"
    sa = next((payload for payload in payloads if isinstance(payload, Sa)), None)
    return "rekey-ike" if sa is not None and sa.proposals[0].protocol == ProtocolId.IKE else "new-child"


def protected(message: Message) -> Encrypted | EncryptedFragment:
    """The SK or SKF payload of a message that has to have one. Errors: InvalidSyntax."""
    if message.encrypted is None:
        raise InvalidSyntax("the message is not encrypted")
    return message.encrypted
