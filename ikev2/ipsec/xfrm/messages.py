"""Typed XFRM netlink messages: what is sent to the kernel, and what it answers.

A message is a netlink header, a fixed C structure (`structs.py`) and attributes. Everything here is plain
`struct` packing: more than ten thousand SAs a second, where generic attribute classes make hundreds.
XFRMA_MARK has no place here: an SA with a mark drops the packets that carry none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from ikev2.ipsec.xfrm.attributes import Algorithm, Encap, Offload, ReplayEsn, ReplayLegacy
from ikev2.ipsec.xfrm.structs import (
    IpAddress,
    LifetimeCurrent,
    PolicyId,
    PolicyInfo,
    SaId,
    SaInfo,
    Selector,
    Template,
    family_of,
    parse_address,
)
from ikev2.ipsec.xfrm.uapi import SaDirection, Xfrma, XfrmMsg

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U8 = struct.Struct("=B")
_U32 = struct.Struct("=I")

HEADER_OCTETS = _HEADER.size
ATTRIBUTE_TYPE_MASK = 0x3FFF


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One netlink message as it came: `struct nlmsghdr { __u32 len; __u16 type, flags; __u32 seq, pid; }`."""

    type: int
    flags: int
    sequence: int
    port_id: int
    body: bytes


def encode_message(message_type: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole netlink message, padded to 4 octets; the port id is the kernel's to fill."""
    length = HEADER_OCTETS + len(body)
    return _HEADER.pack(length, message_type, flags, sequence, 0) + body + bytes(-length & 3)


def parse_messages(data: bytes) -> Iterator[NetlinkMessage]:
    """The messages of one datagram from the kernel; stops at the first that is cut short."""
    offset = 0
    while offset + HEADER_OCTETS <= len(data):
        length, message_type, flags, sequence, port_id = _HEADER.unpack_from(data, offset)
        if length < HEADER_OCTETS or offset + length > len(data):
            return
        yield NetlinkMessage(message_type, flags, sequence, port_id, data[offset + HEADER_OCTETS : offset + length])
        offset += (length + 3) & ~3


def encode_attribute(attribute: int, payload: bytes) -> bytes:
    """`struct nlattr { __u16 nla_len, nla_type; }` and the payload, padded to 4 octets."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, attribute) + payload + bytes(-length & 3)


def parse_attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """The attributes from `offset` on; of two of one type the last counts."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, attribute = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[attribute & ATTRIBUTE_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


@dataclass(frozen=True, slots=True)
class Sa:
    """An SA: `xfrm_usersa_info` and its attributes, as in NEWSA, UPDSA and the answer to GETSA.

    One direction only. Either `aead`, or `crypt` with `auth`. `tfc_padding`: to how many octets the kernel pads, the
    path's MTU allowing; 0 for not at all (RFC 4303 section 2.7). `notice_after`: after so many packets the kernel
    tells of the sequence number (NEWAE), 0 for never; None for the namespace's sysctl. RFC 4301 section 4.4.2.
    """

    info: SaInfo
    aead: Algorithm | None = None
    crypt: Algorithm | None = None
    auth: Algorithm | None = None
    encap: Encap | None = None
    replay_esn: ReplayEsn | None = None
    replay_legacy: ReplayLegacy | None = None
    current: LifetimeCurrent | None = None
    tfc_padding: int = 0
    if_id: int = 0
    direction: SaDirection | None = None
    offload: Offload | None = None
    notice_after: int | None = None

    def encode(self) -> bytes:
        parts = [self.info.encode()]
        for kind, algorithm in (
            (Xfrma.ALG_AEAD, self.aead),
            (Xfrma.ALG_AUTH_TRUNC, self.auth),
            (Xfrma.ALG_CRYPT, self.crypt),
        ):
            if algorithm is not None:
                parts.append(encode_attribute(kind, algorithm.encode()))
        for kind, value in (
            (Xfrma.ENCAP, self.encap),
            (Xfrma.REPLAY_ESN_VAL, self.replay_esn),
            (Xfrma.REPLAY_VAL, self.replay_legacy),
            (Xfrma.LTIME_VAL, self.current),
            (Xfrma.OFFLOAD_DEV, self.offload),
        ):
            if value is not None:
                parts.append(encode_attribute(kind, value.encode()))
        for kind, number in ((Xfrma.TFCPAD, self.tfc_padding), (Xfrma.IF_ID, self.if_id)):
            if number:
                parts.append(encode_attribute(kind, _U32.pack(number)))
        if self.direction is not None:
            parts.append(encode_attribute(Xfrma.SA_DIR, _U8.pack(self.direction)))
        if self.notice_after is not None:
            parts.append(encode_thresholds(self.notice_after))
        return b"".join(parts)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        found = parse_attributes(body, SaInfo.SIZE)
        get = found.get

        def algorithm(kind: Xfrma, *, with_icv: bool) -> Algorithm | None:
            octets = get(kind)
            return None if octets is None else Algorithm.parse(octets, with_icv=with_icv)

        encap, esn, legacy = get(Xfrma.ENCAP), get(Xfrma.REPLAY_ESN_VAL), get(Xfrma.REPLAY_VAL)
        offload, direction = get(Xfrma.OFFLOAD_DEV), get(Xfrma.SA_DIR)
        return cls(
            info=SaInfo.parse(body),
            aead=algorithm(Xfrma.ALG_AEAD, with_icv=True),
            crypt=algorithm(Xfrma.ALG_CRYPT, with_icv=False),
            auth=algorithm(Xfrma.ALG_AUTH_TRUNC, with_icv=True),
            encap=None if encap is None else Encap.parse(encap),
            replay_esn=None if esn is None else ReplayEsn.parse(esn),
            replay_legacy=None if legacy is None else ReplayLegacy.parse(legacy),
            tfc_padding=_U32.unpack(get(Xfrma.TFCPAD, bytes(4)))[0],
            if_id=_U32.unpack(get(Xfrma.IF_ID, bytes(4)))[0],
            direction=None if direction is None else SaDirection(direction[0]),
            offload=None if offload is None else Offload.parse(offload),
        )


def encode_thresholds(packets: int) -> bytes:
    """XFRMA_REPLAY_THRESH and XFRMA_ETIMER_THRESH: tell after so many packets (0: never), and never for mere age."""
    after = encode_attribute(Xfrma.REPLAY_THRESH, _U32.pack(packets))
    return after + encode_attribute(Xfrma.ETIMER_THRESH, bytes(4))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: `xfrm_userpolicy_info` and its templates. RFC 4301 section 4.4.1."""

    info: PolicyInfo
    templates: tuple[Template, ...] = ()
    if_id: int = 0
    offload: Offload | None = None

    @property
    def id(self) -> PolicyId:
        return PolicyId(self.info.selector, self.info.direction, if_id=self.if_id)

    @property
    def is_bypass(self) -> bool:
        """True when it lets packets pass without an SA."""
        return not self.templates and self.info.action == 0

    def encode(self) -> bytes:
        parts = [self.info.encode()]
        if self.templates:
            parts.append(encode_attribute(Xfrma.TMPL, b"".join(template.encode() for template in self.templates)))
        if self.if_id:
            parts.append(encode_attribute(Xfrma.IF_ID, _U32.pack(self.if_id)))
        if self.offload is not None:
            parts.append(encode_attribute(Xfrma.OFFLOAD_DEV, self.offload.encode()))
        return b"".join(parts)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        found = parse_attributes(body, PolicyInfo.SIZE)
        templates, offload = found.get(Xfrma.TMPL, b""), found.get(Xfrma.OFFLOAD_DEV)
        offsets = range(0, len(templates) - Template.SIZE + 1, Template.SIZE)
        return cls(
            PolicyInfo.parse(body),
            tuple(Template.parse(templates, offset) for offset in offsets),
            _U32.unpack(found.get(Xfrma.IF_ID, bytes(4)))[0],
            None if offload is None else Offload.parse(offload),
        )


@dataclass(frozen=True, slots=True)
class SpiRequest:
    """Asks for an SPI in a range; the kernel makes a larval SA of `info` and answers with it.

    ::

        struct xfrm_userspi_info {          /* 232 octets */
            struct xfrm_usersa_info info;
            __u32 min, max;
        };
    """

    info: SaInfo
    minimum: int = 0x100
    maximum: int = 0xFFFFFFFF
    direction: SaDirection | None = None

    SIZE: ClassVar[int] = 232

    def encode(self) -> bytes:
        wanted = self.info.encode() + struct.pack("=II", self.minimum, self.maximum)
        return (
            wanted if self.direction is None else wanted + encode_attribute(Xfrma.SA_DIR, _U8.pack(self.direction))
        )


@dataclass(frozen=True, slots=True)
class SaFlush:
    """`struct xfrm_usersa_flush { __u8 proto; }`; 255 is every IPsec protocol."""

    protocol: int = 255

    def encode(self) -> bytes:
        return bytes([self.protocol])


@dataclass(frozen=True, slots=True)
class ExpireNotice:
    """A limit of an SA was reached.

    ::

        struct xfrm_user_expire { struct xfrm_usersa_info state; __u8 hard; };      /* 232 octets */
    """

    info: SaInfo
    hard: bool

    @classmethod
    def parse(cls, body: bytes) -> Self:
        (hard,) = struct.unpack_from("=B", body, SaInfo.SIZE)
        return cls(SaInfo.parse(body), bool(hard))


@dataclass(frozen=True, slots=True)
class MappingNotice:
    """An authentic packet of an SA with ESP in UDP came from another address or port than the SA has.

    ::

        struct xfrm_user_mapping {          /* 64 octets */
            struct xfrm_usersa_id id;
            __u32 reqid;
            xfrm_address_t old_saddr, new_saddr;
            __be16 old_sport, new_sport;
        };
    """

    id: SaId
    source: IpAddress
    source_port: int

    @classmethod
    def parse(cls, body: bytes) -> Self:
        sa_id = SaId.parse(body)
        at = SaId.SIZE + 4 + 16
        (port,) = struct.unpack_from("!H", body, at + 16 + 2)
        return cls(sa_id, parse_address(body[at : at + 16], family_of(sa_id.destination)), port)


@dataclass(frozen=True, slots=True)
class AcquireNotice:
    """A packet met a policy whose SA is missing. An SA that is installed with its `sequence` is what it waits for.

    ::

        struct xfrm_user_acquire {          /* 280 octets */
            struct xfrm_id id;
            xfrm_address_t saddr;
            struct xfrm_selector sel;       /* of the packet */
            struct xfrm_userpolicy_info policy;
            __u32 aalgos, ealgos, calgos, seq;
        };
    """

    source: IpAddress
    destination: IpAddress
    selector: Selector
    policy: PolicyInfo
    templates: tuple[Template, ...] = field(default=())
    sequence: int = 0

    @classmethod
    def parse(cls, body: bytes) -> Self:
        selector = Selector.parse(body, 40)
        templates = parse_attributes(body, 280).get(Xfrma.TMPL, b"")
        offsets = range(0, len(templates) - Template.SIZE + 1, Template.SIZE)
        found = tuple(Template.parse(templates, offset) for offset in offsets)
        # The outer family is the template's: in a 4-in-6 tunnel the packet's is another.
        (family,) = struct.unpack_from("=H", templates, 24) if found else (selector.family,)
        return cls(
            source=parse_address(body[24:40], family),
            destination=parse_address(body[:16], family),
            selector=selector,
            policy=PolicyInfo.parse(body, 96),
            templates=found,
            sequence=struct.unpack_from("=I", body, 276)[0],
        )


class Request(Protocol):
    """What is sent to the kernel behind the netlink header."""

    def encode(self) -> bytes:
        """Its octets."""
        ...


__all__ = [
    "AcquireNotice",
    "ExpireNotice",
    "MappingNotice",
    "NetlinkMessage",
    "Policy",
    "Request",
    "Sa",
    "SaFlush",
    "SpiRequest",
    "XfrmMsg",
    "encode_attribute",
    "encode_message",
    "parse_attributes",
    "parse_messages",
]
