"""Security Association payload: proposals, transforms, attributes. RFC 7296 section 3.3."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self, cast

from ikev2.iana import (
    AttributeType,
    EncrId,
    EsnId,
    IntegId,
    KeId,
    OpenIntEnum,
    PayloadType,
    PrfId,
    ProtocolId,
    TransformType,
)
from ikev2.value import value
from ikev2.wire.cursor import Cursor
from ikev2.wire.payloads.base import PlainPayload

LAST_SUBSTRUCTURE = 0
MORE_PROPOSALS = 2
MORE_TRANSFORMS = 3
PROPOSAL_HEADER = struct.Struct("!BBHBBBB")
"""Last Substruc, RESERVED, Proposal Length, Proposal Num, Protocol ID, SPI Size, Num Transforms. Figure 7."""
TRANSFORM_HEADER = struct.Struct("!BBHBBH")
"""Last Substruc, RESERVED, Transform Length, Transform Type, RESERVED, Transform ID. Figure 8."""
ATTRIBUTE_FORMAT_TV = 0x8000

TRANSFORM_IDS: dict[int, type[OpenIntEnum]] = {
    TransformType.ENCR: EncrId,
    TransformType.PRF: PrfId,
    TransformType.INTEG: IntegId,
    TransformType.KE: KeId,
    TransformType.ESN: EsnId,
    **dict.fromkeys(range(TransformType.ADDKE1, TransformType.ADDKE7 + 1), KeId),
}
"""The registry of transform ids of each transform type. RFC 7296 section 3.3.2, RFC 9370 section 2.2.1."""

# rfc7296-s3.3.1-06: the size of the SPI by protocol; zero is for the initial IKE SA negotiation
SPI_OCTETS: dict[int, tuple[int, ...]] = {ProtocolId.IKE: (0, 8), ProtocolId.AH: (4,), ProtocolId.ESP: (4,)}


@dataclass(frozen=True, slots=True)
class TransformAttribute:
    """One attribute of a transform: an int `value` is sent in the TV format, octets in the TLV format.

    RFC 7296 section 3.3.5.
    """

    type: AttributeType
    value: int | bytes

    def __post_init__(self) -> None:
        if type(self.type) is not AttributeType:
            object.__setattr__(self, "type", AttributeType(self.type))

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read one attribute at the cursor."""
        format_and_type = cursor.uint16()
        attribute_type = AttributeType(format_and_type & ~ATTRIBUTE_FORMAT_TV)
        if format_and_type & ATTRIBUTE_FORMAT_TV:
            return cls(attribute_type, cursor.uint16())
        return cls(attribute_type, cursor.octets(cursor.uint16()))

    def encode(self) -> bytes:
        """The attribute's octets."""
        if isinstance(self.value, int):
            return struct.pack("!HH", ATTRIBUTE_FORMAT_TV | self.type, self.value)
        return struct.pack("!HH", self.type, len(self.value)) + self.value

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        # rfc7296-s3.3.5-01: Key Length is of fixed length; TLV only where two octets do not hold the value
        if self.type == AttributeType.KEY_LENGTH and isinstance(self.value, bytes) and len(self.value) <= 2:
            return "a Key Length attribute in the variable-length encoding"
        return None


@dataclass(frozen=True, slots=True)
class Transform:
    """One algorithm. `id` is the open enum of the transform's type where the type is known, else an int.

    RFC 7296 section 3.3.2.
    """

    type: TransformType
    id: int
    attributes: tuple[TransformAttribute, ...] = ()

    def __post_init__(self) -> None:
        if type(self.type) is not TransformType:
            object.__setattr__(self, "type", TransformType(self.type))
        registry = TRANSFORM_IDS.get(self.type)
        if registry is not None and type(self.id) is not registry:
            object.__setattr__(self, "id", registry(self.id))

    def __hash__(self) -> int:
        """Attributes are left to the comparison: few transforms differ in them alone."""
        return hash((self.type, self.id))

    @classmethod
    def of(cls, transform_type: TransformType, transform_id: int, key_bits: int | None = None) -> Self:
        """A transform, with a Key Length attribute when `key_bits` is given."""
        # rfc7296-s3.3.5-03: in bits; network byte order is in TransformAttribute.encode
        attributes = () if key_bits is None else (TransformAttribute(AttributeType.KEY_LENGTH, key_bits),)
        return cls(transform_type, transform_id, attributes)

    @property
    def key_bits(self) -> int | None:
        """The value of the Key Length attribute, in bits, or None where there is none."""
        for attribute in self.attributes:
            if attribute.type == AttributeType.KEY_LENGTH:
                value = attribute.value
                return value if isinstance(value, int) else int.from_bytes(value, "big")
        return None

    @property
    def is_common(self) -> bool:
        """True when its type and number are known, with no attribute but perhaps a Key Length that AES has."""
        if not (self.type.known and isinstance(self.id, OpenIntEnum) and self.id.known):
            return False
        return not self.attributes or (len(self.attributes) == 1 and self.attributes[0] in _COMMON_ATTRIBUTES)

    @property
    def has_unknown_attributes(self) -> bool:
        """True when some attribute is not one we understand, which makes the transform unacceptable.

        RFC 7296 section 3.3.6.
        """
        return any(not attribute.type.known for attribute in self.attributes)

    @classmethod
    def read(cls, cursor: Cursor) -> tuple[Self, bool]:
        """Read one transform at the cursor, and whether it says that more follow."""
        start = cursor.position
        last, _, length, transform_type, _, transform_id = cursor.unpack(TRANSFORM_HEADER)  # rfc7296-s3.3.2-02
        if last not in (LAST_SUBSTRUCTURE, MORE_TRANSFORMS):
            raise cursor.error(f"Last Substruc {last} in a transform is neither 0 nor 3", at=start)
        if length < TRANSFORM_HEADER.size:
            raise cursor.error(f"a transform of {length} octets", at=start + 2)
        inner = cursor.part(length - TRANSFORM_HEADER.size)
        key = (transform_type, transform_id, inner.peek())
        found = _COMMON.get(key)
        if found is not None:
            return cast("Self", found), last == MORE_TRANSFORMS
        attributes = []
        while inner.remaining:
            attributes.append(TransformAttribute.read(inner))
        transform = cls(transform_type, transform_id, tuple(attributes))
        if transform.is_common:
            _COMMON[key] = transform
        return transform, last == MORE_TRANSFORMS

    def encode(self, *, last: bool) -> bytes:
        """The transform's octets; `last` is whether no transform follows in its proposal."""
        attributes = b"".join(attribute.encode() for attribute in self.attributes)
        more = LAST_SUBSTRUCTURE if last else MORE_TRANSFORMS
        # rfc7296-s3.3.2-01: RESERVED is zero
        return (
            TRANSFORM_HEADER.pack(more, 0, TRANSFORM_HEADER.size + len(attributes), self.type, 0, int(self.id))
            + attributes
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        if not self.attributes:
            return None
        types = [attribute.type for attribute in self.attributes]
        # rfc7296-s3.3-07
        if len(set(types)) != len(types):
            return f"a {self.type} transform has two attributes of one type"
        return next((found for attribute in self.attributes if (found := attribute.problem)), None)

    def __str__(self) -> str:
        key_bits = self.key_bits
        return f"{self.type}={self.id!s}" + (f"/{key_bits}" if key_bits is not None else "")


_COMMON_ATTRIBUTES = tuple(TransformAttribute(AttributeType.KEY_LENGTH, bits) for bits in (128, 192, 256))
_COMMON: dict[tuple[int, int, bytes], Transform] = {}
"""Transforms that were read before, by type, number and attributes as they came: every peer offers the same few.

Only those of known algorithms are kept, so that no peer can make it grow.
"""
_COMMON_LISTS: dict[tuple[int, bytes], tuple[Transform, ...]] = {}
"""The transforms of proposals that were read before and are sound, by their count and octets. Bounded."""
_MOST_LISTS = 256
_MOST_IN_LIST = 32


@lru_cache(64)
def _encoded(transforms: tuple[Transform, ...]) -> bytes:
    """The octets of a proposal's transforms: an endpoint sends the same few."""
    final = len(transforms) - 1
    return b"".join([transform.encode(last=index == final) for index, transform in enumerate(transforms)])


@value(frozen=True, slots=True)
class Proposal:
    """One proposal: an OR of the transforms within a type, an AND over the types.

    `number` is 1 to 255, `spi` the sender's SPI of the SA to be (empty in the initial IKE SA negotiation).

    RFC 7296 section 3.3.1.
    """

    number: int
    protocol: ProtocolId
    spi: bytes
    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        if type(self.protocol) is not ProtocolId:
            object.__setattr__(self, "protocol", ProtocolId.of(self.protocol))

    def of_type(self, transform_type: TransformType) -> tuple[Transform, ...]:
        """The transforms of one type, in the order of preference."""
        return tuple(transform for transform in self.transforms if transform.type == transform_type)

    @classmethod
    def read(cls, cursor: Cursor) -> tuple[Self, bool]:
        """Read one proposal at the cursor, and whether it says that more follow."""
        start = cursor.position
        # rfc7296-s3.3.1-02
        last, _, length, number, protocol, spi_octets, count = cursor.unpack(PROPOSAL_HEADER)
        if last not in (LAST_SUBSTRUCTURE, MORE_PROPOSALS):
            raise cursor.error(f"Last Substruc {last} in a proposal is neither 0 nor 2", at=start)
        if length < PROPOSAL_HEADER.size:
            raise cursor.error(f"a proposal of {length} octets", at=start + 2)
        inner = cursor.part(length - PROPOSAL_HEADER.size)
        spi = inner.octets(spi_octets)
        key = (count, inner.peek())
        known = _COMMON_LISTS.get(key)
        if known is not None:
            return cls(number, protocol, spi, known), last == MORE_PROPOSALS
        transforms = []
        more = count > 0
        # rfc7296-s3.3-02: the count, the Last Substruc fields and the length have to tell the same story
        for _ in range(count):
            if not more:
                raise inner.error(f"a last transform before number {count}")
            transform, more = Transform.read(inner)
            transforms.append(transform)
        if more:
            raise inner.error(f"transform number {count} of {count} says that more follow")
        inner.expect_end()
        if count <= _MOST_IN_LIST and all(transform.is_common for transform in transforms):
            if len(_COMMON_LISTS) >= _MOST_LISTS:
                _COMMON_LISTS.clear()
            _COMMON_LISTS[key] = tuple(transforms)
        return cls(number, protocol, spi, tuple(transforms)), last == MORE_PROPOSALS

    def encode(self, *, last: bool) -> bytes:
        """The proposal's octets; `last` is whether no proposal follows."""
        transforms = _encoded(self.transforms)
        # rfc7296-s3.3.1-01: RESERVED is zero
        return (
            PROPOSAL_HEADER.pack(
                LAST_SUBSTRUCTURE if last else MORE_PROPOSALS,
                0,
                PROPOSAL_HEADER.size + len(self.spi) + len(transforms),
                self.number,
                self.protocol,
                len(self.spi),
                len(self.transforms),
            )
            + self.spi
            + transforms
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        if self.number == 0:
            return "proposal number 0"
        allowed = SPI_OCTETS.get(self.protocol)
        if allowed is not None and len(self.spi) not in allowed:
            return f"an SPI of {len(self.spi)} octets for {self.protocol}"
        if not self.transforms:
            return f"proposal {self.number} has no transform"
        for transform in self.transforms:
            if transform.attributes and (found := transform.problem) is not None:
                return found
        return None

    def __str__(self) -> str:
        return f"{self.protocol}:" + "/".join(str(transform) for transform in self.transforms)


@value(frozen=True, slots=True)
class Sa(PlainPayload):
    """The SA payload: the proposals in order of preference, or the one that was chosen.

    RFC 7296 section 3.3.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the proposals up to the end of the payload."""
        proposals = []
        more = True
        # rfc7296-s3.3-02
        while more:
            proposal, more = Proposal.read(cursor)
            proposals.append(proposal)
        return cls(tuple(proposals))

    def encode_body(self) -> bytes:
        """The proposals' octets."""
        final = len(self.proposals) - 1
        return b"".join(proposal.encode(last=index == final) for index, proposal in enumerate(self.proposals))

    def problem(self, *, sending: bool) -> str | None:
        """One proposal at least, numbered without gaps, each of them sound."""
        if not self.proposals:
            return "no proposal"
        first = self.proposals[0].number
        for index, proposal in enumerate(self.proposals):
            # rfc7296-s3.3-03, rfc7296-s3.3.1-04
            if proposal.number != first + index:
                return f"proposal number {proposal.number} where {first + index} is due"
            if (found := proposal.problem) is not None:
                return found
        return None
