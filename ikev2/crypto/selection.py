"""Which of the offered proposals is chosen, and whether what the peer chose was offered.

RFC 7296 sections 2.7, 3.3 and 3.3.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ikev2.crypto.encr import ENCRS
from ikev2.crypto.keywords import AEAD_IDS
from ikev2.errors import InvalidSyntax, NoProposalChosen
from ikev2.iana import EncrId, IntegId, KeId, PayloadType, ProtocolId, TransformType
from ikev2.registration import Registration
from ikev2.wire.payloads.sa import Proposal, Transform

_ENCR, _PRF, _INTEG, _KE, _ESN = (
    TransformType.ENCR,
    TransformType.PRF,
    TransformType.INTEG,
    TransformType.KE,
    TransformType.ESN,
)

# rfc7296-s3.3.3-01: the types that each protocol has, mandatory and optional.
_UNDERSTOOD: dict[ProtocolId, frozenset[TransformType]] = {
    ProtocolId.IKE: frozenset((_ENCR, _PRF, _INTEG, _KE)),
    ProtocolId.ESP: frozenset((_ENCR, _INTEG, _KE, _ESN)),
}
# A type of which the absence means NONE.
_NONE_BY_ABSENCE = {_INTEG: IntegId.NONE, _KE: KeId.NONE}

_Key = tuple[int, int | None]

_Algorithms = tuple[tuple[ProtocolId, tuple[Transform, ...]], ...]
_Question = tuple[_Algorithms, _Algorithms, bool, KeId | None, int]
_Choice = tuple[int, tuple[Transform, ...]]
_CHOICES: dict[_Question, _Choice] = {}
"""What was chosen before, by what was offered and what is configured. Bounded."""
_MOST_CHOICES = 256
_MOST_TRANSFORMS = 64


@dataclass(frozen=True, slots=True)
class _Offer:
    """An offered proposal with its acceptable transforms, by type, then by number and key length."""

    proposal: Proposal
    by_type: dict[TransformType, dict[_Key, Transform]]


def _offer(proposal: Proposal) -> _Offer:
    by_type: dict[TransformType, dict[_Key, Transform]] = {}
    for transform in proposal.transforms:
        of_type = by_type.setdefault(transform.type, {})
        # rfc7296-s3.3.6-08: a transform with an attribute that is not understood is passed over, the others are
        # not. rfc7296-s3.3-07: so is one with an attribute twice.
        if len(transform.attributes) <= 1 and not transform.has_unknown_attributes:
            of_type.setdefault((transform.id, transform.key_bits), transform)
    return _Offer(proposal, by_type)


def _own(proposal: Proposal) -> dict[TransformType, list[_Key]]:
    by_type: dict[TransformType, list[_Key]] = {}
    for transform in proposal.transforms:
        by_type.setdefault(transform.type, []).append((transform.id, transform.key_bits))
    return by_type


def _longer_keys(own: list[_Key], offered: dict[_Key, Transform]) -> list[_Key]:
    """The offered ciphers that are a configured one with a longer key."""
    found = []
    for offered_id, offered_bits in offered:
        for own_id, own_bits in own:
            longer = own_bits is not None and offered_bits is not None and offered_bits > own_bits
            if longer and offered_id == own_id and (EncrId(offered_id), offered_bits) in ENCRS:
                found.append((offered_id, offered_bits))
                break
    return found


def _select_integ(
    own: list[_Key], offered: dict[_Key, Transform] | None, *, aead: bool, ike: bool
) -> tuple[Transform, ...] | None:
    """The integrity algorithm that goes with the cipher: none or one, None when there is no acceptable one."""
    none = (IntegId.NONE, None)
    if aead:
        # rfc7296-s3.3-05: no integrity algorithm, or NONE.
        if offered is None:
            return ()
        return (offered[none],) if none in offered else None  # rfc5282-s8-01
    for key in own:
        # rfc7296-s5-02: never NONE for an IKE SA whose cipher does not authenticate.
        if offered is not None and key in offered and not (ike and key == none):
            return (offered[key],)
    return None


def _select_ke(
    own: list[_Key], offered: dict[_Key, Transform] | None, *, ike: bool, preferred: KeId | None
) -> tuple[Transform, ...] | None:
    """The group: none or one, None when there is no acceptable one."""
    none = (KeId.NONE, None)
    if preferred is not None and (preferred, None) in own:
        own = [(preferred, None), *own]
    for key in own or [none]:
        if key == none:
            # rfc7296-s2.18-03: never for an IKE SA.
            if ike:
                continue
            if offered is None:
                return ()
        if offered is not None and key in offered:
            return (offered[key],)
    return None


def _match(
    configured: Proposal, offer: _Offer, *, longer_keys: bool, preferred_ke: KeId | None
) -> tuple[Transform, ...] | None:
    """One transform of each type that both proposals have, or None."""
    protocol = configured.protocol
    if offer.proposal.protocol != protocol:
        return None
    own, offered = _own(configured), offer.by_type
    # rfc7296-s3.3.6-07: a type that is not understood spoils the proposal, whatever its transforms are.
    if not offered.keys() <= _UNDERSTOOD.get(protocol, frozenset()) | own.keys():
        return None
    ike = protocol == ProtocolId.IKE
    chosen: list[Transform] = []
    for transform_type in own.keys() - {_ENCR, _INTEG, _KE} | (
        _UNDERSTOOD.get(protocol, frozenset()) & {_PRF, _ESN}
    ):
        # rfc7296-s3.3.6-07: a mandatory type that is missing spoils it too.
        found = next((key for key in own.get(transform_type, ()) if key in offered.get(transform_type, ())), None)
        if found is None:
            return None
        chosen.append(offered[transform_type][found])
    ke = _select_ke(own.get(_KE, []), offered.get(_KE), ike=ike, preferred=preferred_ke)
    if ke is None:
        return None
    ciphers = offered.get(_ENCR, {})
    wanted = own.get(_ENCR, [])
    for key in _longer_keys(wanted, ciphers) if longer_keys else wanted:
        if key not in ciphers:
            continue
        integ = _select_integ(own.get(_INTEG, []), offered.get(_INTEG), aead=key[0] in AEAD_IDS, ike=ike)
        if integ is not None:
            picked = {transform.type: transform for transform in (*chosen, *ke, *integ, ciphers[key])}
            # In the order of the offer's types, and the very transforms of the offer: rfc7296-s3.3.6-04.
            # rfc7296-s2.7-04, rfc7296-s2.7-05
            return tuple(picked[transform_type] for transform_type in offered if transform_type in picked)
    return None


def choose_proposal(
    offered: Sequence[Proposal],
    configured: Sequence[Proposal],
    *,
    longer_keys: bool = True,
    preferred_ke: KeId | None = None,
) -> Proposal:
    """The responder's choice: the offered proposal's number and SPI, and exactly one transform of each type.

    The order of `configured` decides, then that of its algorithms; of the groups, `preferred_ke` (the one of the KE
    payload in hand) goes first where both ends have it, which spares an INVALID_KE_PAYLOAD. A combined-mode
    cipher goes with no integrity algorithm or with NONE. When nothing fits exactly, a configured cipher is
    accepted with a longer key, unless `longer_keys` is False.

    NoProposalChosen when nothing fits; InvalidSyntax when the offer does not begin with number one.

    RFC 7296 sections 2.7, 3.3.5 and 3.3.6.
    """
    # rfc7296-s3.3-04, rfc7296-s3.3.1-03
    if offered and offered[0].number != 1:
        raise InvalidSyntax(f"the first proposal has number {offered[0].number}", payload=PayloadType.SA)
    # Number and SPI have no say in the choice: peers that are configured alike offer the same again and again.
    key = (_algorithms(offered), _algorithms(configured), longer_keys, preferred_ke, Registration.changes)
    found = _CHOICES.get(key)
    if found is None:
        found = _choice(offered, configured, longer_keys=longer_keys, preferred_ke=preferred_ke)
        _remember(key, found)
    index, transforms = found
    chosen = offered[index]
    # rfc7296-s3.3.1-05, rfc7296-s3.3.6-01, rfc7296-s3.3.6-03
    return Proposal(chosen.number, chosen.protocol, chosen.spi, transforms)


def _choice(
    offered: Sequence[Proposal], configured: Sequence[Proposal], *, longer_keys: bool, preferred_ke: KeId | None
) -> _Choice:
    """The place of the proposal that is chosen, and one transform of each type; NoProposalChosen."""
    offers = [_offer(proposal) for proposal in offered]
    # rfc7296-s3.3.5-07, rfc7296-s3.3.5-08: the second round.
    for longer in (False, True) if longer_keys else (False,):
        for own in configured:
            for index, offer in enumerate(offers):
                # rfc7296-s3.3.4-06
                transforms = _match(own, offer, longer_keys=longer, preferred_ke=preferred_ke)
                if transforms is not None:
                    return index, transforms
    raise NoProposalChosen("no offered proposal is acceptable")


def _algorithms(proposals: Sequence[Proposal]) -> _Algorithms:
    return tuple([(proposal.protocol, proposal.transforms) for proposal in proposals])


def _remember(key: _Question, choice: _Choice) -> None:
    """Keep a choice among few transforms, all of them known: no peer can make it take much memory."""
    of_offer = [transform for _, transforms in key[0] for transform in transforms]
    if len(of_offer) > _MOST_TRANSFORMS or not all(transform.is_common for transform in of_offer):
        return
    if len(_CHOICES) >= _MOST_CHOICES:
        _CHOICES.clear()
    _CHOICES[key] = choice


def check_choice(chosen: Proposal, offered: Sequence[Proposal]) -> None:
    """The initiator's check: NoProposalChosen, saying why, unless `chosen` is consistent with one offered proposal.

    That is: its number and protocol, and of each transform type exactly one transform, as it was offered. An
    integrity algorithm or group of NONE may be left out; an integrity algorithm of NONE beside a combined-mode
    cipher may be there without having been offered.

    RFC 7296 section 3.3.6.
    """
    # rfc7296-s3.3.6-05, rfc7296-s3.3.1-05
    proposal = next((item for item in offered if item.number == chosen.number), None)
    if proposal is None:
        raise NoProposalChosen(f"proposal {chosen.number} was not offered")
    if proposal.protocol != chosen.protocol:
        raise NoProposalChosen(
            f"proposal {chosen.number} was offered for {proposal.protocol}, not {chosen.protocol}"
        )
    ours = _offer(proposal).by_type
    theirs: dict[TransformType, Transform] = {}
    for transform in chosen.transforms:
        if transform.type in theirs:
            raise NoProposalChosen(f"the peer chose two transforms of type {transform.type}")
        theirs[transform.type] = transform
    cipher = theirs.get(_ENCR)
    aead = cipher is not None and cipher.id in AEAD_IDS
    for transform_type, transform in theirs.items():
        if aead and transform_type == _INTEG and transform.id == IntegId.NONE and not transform.attributes:
            continue
        if ours.get(transform_type, {}).get((transform.id, transform.key_bits)) != transform:
            raise NoProposalChosen(f"the peer chose {transform}, which was not offered")
        if aead and transform_type == _INTEG:
            raise NoProposalChosen("the peer chose an integrity algorithm beside a combined-mode cipher")
    for transform_type, transforms in ours.items():
        if transform_type in theirs or (transform_type == _INTEG and aead):
            continue
        if (_NONE_BY_ABSENCE.get(transform_type), None) not in transforms:
            raise NoProposalChosen(f"the peer chose no transform of type {transform_type}")
