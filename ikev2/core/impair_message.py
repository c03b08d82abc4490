"""Messages that are wrong on purpose and protected all the same: what a knob may do before the ICV is made.

A `Draft` is a message on its way to the channel. Its payloads are `Raw`: types and octets, so that nothing of what the
codecs refuse to send stands in the way. What is to be wrong about the header, the padding or the protection is noted
in a `Tampering`, which the channel applies when all lengths are known: the ICV covers what is sent.

RFC 7296 sections 3.1, 3.2 and 3.14.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from ikev2.errors import ConfigurationError
from ikev2.iana import NotifyType, PayloadType
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.message import CRITICAL_BIT, GENERIC_HEADER
from ikev2.wire.payloads import Payload

SPI_R_OFFSET, NEXT_PAYLOAD_OFFSET, VERSION_OFFSET, EXCHANGE_OFFSET = 8, 16, 17, 18
FLAGS_OFFSET, MESSAGE_ID_OFFSET, LENGTH_OFFSET = 19, 20, 24
UNKNOWN_PAYLOAD_TYPE = 200
MAX_PAD_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Raw:
    """One payload as its type and the octets of its body. `length_error` is added to its Payload Length."""

    payload_type: PayloadType
    body: bytes
    critical: bool = False
    length_error: int = 0
    reserved: int = 0

    @classmethod
    def of(cls, payload: Payload) -> Raw:
        """The payload as it would be sent."""
        return cls(payload.payload_type, payload.encode_body(), payload.critical)

    @property
    def notify_type(self) -> int | None:
        """The type of a notify, None for any other payload."""
        return int.from_bytes(self.body[2:4], "big") if self.payload_type == PayloadType.N else None


@dataclass(frozen=True, slots=True)
class Tampering:
    """What is wrong beside the payloads: octets of the header (`patches`: offset, octets), the Length, the padding.

    `length_error` is added to the Length; `bad_padding`: a Pad Length that exceeds the payload; `padding_octets`: at
    least so much good padding; `unprotected`: no Encrypted payload around what should be in one.
    """

    patches: tuple[tuple[int, bytes], ...] = ()
    length: int | None = None
    length_error: int = 0
    bad_padding: bool = False
    padding_octets: int = 0
    unprotected: bool = False

    def patched(self, octets: bytes) -> bytes:
        """The message, or its beginning up to the IV, with the header as it is to be."""
        out = bytearray(octets)
        length = int.from_bytes(out[LENGTH_OFFSET:HEADER_OCTETS], "big") if self.length is None else self.length
        struct.pack_into("!I", out, LENGTH_OFFSET, (length + self.length_error) & 0xFFFF_FFFF)
        for offset, wrong in self.patches:
            out[offset : offset + len(wrong)] = wrong
        return bytes(out)

    def padded(self, content: bytes, block_octets: int) -> bytes:
        """The content with padding and Pad Length, right or wrong."""
        pad_octets = self.padding_octets + -(len(content) + 1 + self.padding_octets) % block_octets
        if self.bad_padding:
            return content + bytes(pad_octets) + bytes([MAX_PAD_LENGTH])
        return content + bytes(pad_octets) + bytes([min(pad_octets, MAX_PAD_LENGTH)])


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before its protection, if it has one."""

    header: Header
    payloads: tuple[Raw, ...]
    tampering: Tampering = Tampering()

    @classmethod
    def of(cls, header: Header, payloads: Sequence[Payload]) -> Draft:
        """A message with nothing wrong."""
        return cls(header, tuple(Raw.of(payload) for payload in payloads))

    def chain(self) -> tuple[PayloadType, bytes]:
        """The type of the first payload and the octets of all, without a check of anything."""
        types = [payload.payload_type for payload in self.payloads] + [PayloadType.NO_NEXT_PAYLOAD]
        octets = b"".join(
            GENERIC_HEADER.pack(
                following,
                (CRITICAL_BIT if payload.critical else 0) | payload.reserved,
                (GENERIC_HEADER.size + len(payload.body) + payload.length_error) & 0xFFFF,
            )
            + payload.body
            for payload, following in zip(self.payloads, types[1:], strict=True)
        )
        return types[0], octets

    def encode_clear(self) -> bytes:
        """The whole message without protection."""
        first, octets = self.chain()
        header = replace(self.header, next_payload=first, length=HEADER_OCTETS + len(octets))
        return self.tampering.patched(header.encode() + octets)

    def tamper(self, **changes: object) -> Draft:
        """The same with more wrong about it."""
        return replace(self, tampering=replace(self.tampering, **changes))  # type: ignore[arg-type]

    def patch(self, offset: int, octets: bytes) -> Draft:
        """The same with these octets in the header."""
        return self.tamper(patches=(*self.tampering.patches, (offset, octets)))


@runtime_checkable
class MessageImpairment(Protocol):
    """Decides what becomes of a message that an IKE SA is about to protect and send."""

    def rewrite(self, draft: Draft) -> Draft | None:
        """The draft in its place, or None to leave it alone."""
        ...


def rewritten(
    impairments: Sequence[MessageImpairment], header: Header, payloads: Sequence[Payload]
) -> Draft | None:
    """The message after all impairments; None when none of them wants anything of it."""
    draft = Draft.of(header, payloads)
    touched = False
    for impairment in impairments:
        wanted = impairment.rewrite(draft)
        if wanted is not None:
            draft, touched = wanted, True
    return draft if touched else None


# --- arguments ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selected:
    """Which payloads a knob means: those of a type, or the notifies of one. `value` is what follows the type."""

    payload_type: PayloadType
    notify_type: int | None = None
    value: int = 0
    data: bytes = b""

    def __call__(self, payload: Raw) -> bool:
        """True for a payload that is meant."""
        return payload.payload_type == self.payload_type and self.notify_type in (None, payload.notify_type)


def parse_selected(text: str) -> Selected:
    """`AUTH`, `200`, `N(COOKIE)`, `N(16500)`, with `@OFFSET`, `+N`, `-N` or `=HEX` behind it."""
    name, data = text.partition("=")[::2]
    value = 0
    for sign, factor in (("@", 1), ("+", 1), ("-", -1)):
        head, found, tail = name.partition(sign)
        if found and tail.isdecimal():
            name, value = head, factor * int(tail)
    notify_type = None
    if name.upper().startswith("N(") and name.endswith(")"):
        notify_type, name = int(_number(name[2:-1], NotifyType)), "N"
    return Selected(PayloadType(_number(name, PayloadType)), notify_type, value, bytes.fromhex(data))


def _number(text: str, kind: type[PayloadType] | type[NotifyType]) -> int:
    if text.isdecimal() and int(text) <= (0xFF if kind is PayloadType else 0xFFFF):
        return int(text)
    for member in kind:
        if member.name.lower() == text.lower():
            return int(member)
    raise ConfigurationError(f"there is no {kind.__name__} {text!r}")


def parse_relative(text: str) -> tuple[bool, int]:
    """`+1`, `-1` (relative), `7` (absolute): whether it is relative, and the number."""
    return text[:1] in ("+", "-"), int(text)


def parse_version(text: str) -> int:
    """`3.0` to the octet 0x30."""
    major, _, minor = text.partition(".")
    version = int(major) << 4 | int(minor or "0")
    if not 0 <= version <= 0xFF or int(minor or "0") > 15:
        raise ValueError(text)
    return version


def parse_spi(text: str) -> bytes:
    """16 hex digits."""
    spi = bytes.fromhex(text)
    if len(spi) != SPI_R_OFFSET:
        raise ValueError(text)
    return spi


def parse_octet(text: str) -> int:
    """A number of one octet."""
    number = int(text, 0)
    if not 0 <= number <= 0xFF:
        raise ValueError(text)
    return number


def parse_padding(text: str) -> int:
    """0 to 240 octets: with the rest of a block the Pad Length still has room for it."""
    number = int(text)
    if not 0 <= number <= MAX_PAD_LENGTH - 15:
        raise ValueError(text)
    return number


# --- what knobs do -----------------------------------------------------------------------------------------------


def _omit(draft: Draft, meant: Selected) -> Draft:
    return replace(draft, payloads=tuple(payload for payload in draft.payloads if not meant(payload)))


def _add(draft: Draft, wanted: Selected) -> Draft:
    return replace(draft, payloads=(*draft.payloads, _made(wanted)))


def _critical(draft: Draft, wanted: Selected) -> Draft:
    return replace(draft, payloads=(*draft.payloads, replace(_made(wanted), critical=True)))


def _made(wanted: Selected) -> Raw:
    body = wanted.data
    if wanted.notify_type is not None:
        body = struct.pack("!BBH", 0, 0, wanted.notify_type) + body
    return Raw(wanted.payload_type, body)


def _repeat(draft: Draft, meant: Selected) -> Draft:
    return replace(
        draft, payloads=tuple(p for payload in draft.payloads for p in (payload,) * (1 + meant(payload)))
    )


def _reorder(draft: Draft, meant: Selected | None) -> Draft:
    if meant is None:
        return replace(draft, payloads=draft.payloads[::-1])
    first = tuple(payload for payload in draft.payloads if not meant(payload))
    return replace(draft, payloads=first + tuple(payload for payload in draft.payloads if meant(payload)))


def _each(change: Callable[[Raw, Selected], Raw]) -> Callable[[Draft, Selected], Draft]:
    def apply(draft: Draft, meant: Selected) -> Draft:
        return replace(
            draft,
            payloads=tuple(change(payload, meant) if meant(payload) else payload for payload in draft.payloads),
        )

    return apply


def _changed(payload: Raw, meant: Selected) -> Raw:
    at = min(meant.value, max(0, len(payload.body) - 1))
    wrong = meant.data or bytes(octet ^ 0xFF for octet in payload.body[at : at + 1])
    return replace(payload, body=payload.body[:at] + wrong + payload.body[at + len(wrong) :])


def _message_id(draft: Draft, argument: tuple[bool, int]) -> Draft:
    relative, number = argument
    number += draft.header.message_id if relative else 0
    return draft.patch(MESSAGE_ID_OFFSET, struct.pack("!I", number & 0xFFFF_FFFF))


def _length(draft: Draft, argument: tuple[bool, int]) -> Draft:
    relative, number = argument
    return draft.tamper(length_error=number) if relative else draft.tamper(length=number & 0xFFFF_FFFF)


def _spi(draft: Draft, offset: int, spi: bytes | None) -> Draft:
    genuine = draft.header.responder_spi if offset else draft.header.initiator_spi
    return draft.patch(offset, bytes(octet ^ 0xFF for octet in genuine) if spi is None else spi)


Rewrite = Callable[[Draft, object], Draft]

REWRITES: dict[str, tuple[Callable[[str], object] | None, str | None, Callable[..., Draft]]] = {
    "omit": (parse_selected, None, _omit),
    "add": (parse_selected, str(UNKNOWN_PAYLOAD_TYPE), _add),
    "critical": (parse_selected, str(UNKNOWN_PAYLOAD_TYPE), _critical),
    "repeat": (parse_selected, None, _repeat),
    "reorder": (parse_selected, "", _reorder),
    "change": (parse_selected, None, _each(_changed)),
    "cut": (
        parse_selected,
        None,
        _each(lambda payload, meant: replace(payload, body=payload.body[: meant.value])),
    ),
    "critical-bit": (parse_selected, None, _each(lambda payload, _: replace(payload, critical=True))),
    "reserved-bits": (parse_selected, None, _each(lambda payload, _: replace(payload, reserved=0x7F))),
    "payload-length": (
        parse_selected,
        None,
        _each(lambda payload, meant: replace(payload, length_error=meant.value or 4)),
    ),
    "spi-i": (parse_spi, "", lambda draft, spi: _spi(draft, 0, spi)),
    "spi-r": (parse_spi, "", lambda draft, spi: _spi(draft, SPI_R_OFFSET, spi)),
    "next-payload": (
        parse_octet,
        str(UNKNOWN_PAYLOAD_TYPE),
        lambda draft, octet: draft.patch(NEXT_PAYLOAD_OFFSET, bytes([octet])),
    ),
    "version": (parse_version, "3.0", lambda draft, version: draft.patch(VERSION_OFFSET, bytes([version]))),
    "exchange": (parse_octet, "255", lambda draft, octet: draft.patch(EXCHANGE_OFFSET, bytes([octet]))),
    "flags": (
        parse_octet,
        "0x08",
        lambda draft, octet: draft.patch(FLAGS_OFFSET, bytes([draft.header.flags ^ octet])),
    ),
    "message-id": (parse_relative, "+1", _message_id),
    "length": (parse_relative, "+4", _length),
    "bad-padding": (None, None, lambda draft, _: draft.tamper(bad_padding=True)),
    "padding": (parse_padding, "32", lambda draft, octets: draft.tamper(padding_octets=octets)),
    "unprotected": (None, None, lambda draft, _: draft.tamper(unprotected=True)),
}
"""Action -> how its argument is read (None: it has none), its default (None: it must be given; "": none), its work."""
