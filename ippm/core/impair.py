"""Impairments of our own sending, for tests of another implementation: named knobs on named messages and test packets.

    hmac:request-tw-session:1      the first Request-TW-Session has a wrong HMAC, and is encrypted as it should be
    mode:set-up-response:1:4       the first Set-Up-Response chooses mode 4, offered or not
    mbz:accept-session:*           an MBZ octet of each Accept-Session is not zero, under a right HMAC
    drop:test:3                    the third test packet that we send is lost

`docs/impairments-ippm.md` has them all. Knobs on Control messages act before the protection, so that what they make
is as well protected as any other message, unless they are about the protection. Test packets are opened, changed and
protected anew. A message is counted from 1 over all connections and sessions of the process; knobs act in the order
in which they are given. RFC 4656 sections 3 and 4, RFC 5357 sections 3 and 4.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from ippm.crypto import SessionKeys
from ippm.crypto_packet import REFLECTOR_COVERED, SENDER_COVERED, decrypt_unverified, seal_clear
from ippm.errors import ConfigurationError, InvalidMessage
from ippm.wire.test_packet import PacketLayout, PacketMode

TEST = "test"
MBZ_AT = {
    "server-greeting": 52,
    "server-start": 0,
    "request-session": 88,
    "request-tw-session": 92,
    "accept-session": 1,
    "start-sessions": 1,
    "start-ack": 1,
    "stop-sessions": 2,
    "fetch-session": 1,
    "fetch-ack": 2,
    "start-n-sessions": 2,
    "start-n-ack": 2,
    "stop-n-sessions": 2,
    "stop-n-ack": 2,
}
"""The first MBZ octet of each message that has one. RFC 4656 section 3, RFC 5357 section 3, RFC 5938 section 3."""

MODE_AT = {"server-greeting": 12, "set-up-response": 0}
ACCEPT_AT = {
    "server-start": 15,
    "accept-session": 0,
    "start-ack": 0,
    "stop-sessions": 1,
    "fetch-ack": 0,
    "start-n-ack": 1,
    "stop-n-ack": 1,
}
IV_AT = {"set-up-response": 148, "server-start": 16}
COUNT_AT = {"server-greeting": 48}
WITHOUT_HMAC = ("server-greeting", "set-up-response", "server-start")
"""The messages before the first HMAC. RFC 4656 section 3.1."""

PARTS = ("schedule-slots", "skip-ranges", "packet-records")
"""Parts of messages with an HMAC of their own: of Request-Session, and of the answer to Fetch-Session."""

MESSAGES = tuple(dict.fromkeys((*MBZ_AT, *IV_AT, *PARTS)))
BLOCK = 16

Protect = Callable[[bytes, bool], bytes]
"""The octets of a message that goes out: its body, and whether its HMAC is to be wrong."""


@dataclass(slots=True)
class Draft:
    """A Control message on its way. `name` is one of MESSAGES."""

    name: str
    body: bytes
    copies: int = 1
    wrong_hmac: bool = False
    after: list[Callable[[bytes], bytes]] = field(default_factory=list)


# --- arguments -----------------------------------------------------------------------------------------------------


def _number(text: str) -> int:
    value = int(text, 0)
    if not 0 <= value < 1 << 32:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _change(text: str) -> tuple[int, bytes]:
    """`OFFSET`, or `OFFSET=HEX`; no octets mean one with all bits turned."""
    offset, _, octets = text.partition("=")
    place = int(offset)
    if place < 0:
        raise ValueError(text)
    return place, bytes.fromhex(octets)


def _put(octets: bytes, at: int, new: bytes) -> bytes:
    """Other octets at a place; `new` empty turns all bits of the one there."""
    if at >= len(octets):
        return octets
    new = new or bytes([octets[at] ^ 0xFF])
    return octets[:at] + new[: len(octets) - at] + octets[at + len(new) :]


# --- Control messages ----------------------------------------------------------------------------------------------


def _field(places: dict[str, int], octets: int) -> Callable[[Draft, int], None]:
    def act(draft: Draft, value: int) -> None:
        if draft.name in places:
            new = (value & ((1 << 8 * octets) - 1)).to_bytes(octets)
            draft.body = _put(draft.body, places[draft.name], new)

    return act


def _mbz(draft: Draft, _: object) -> None:
    if draft.name in MBZ_AT:
        draft.body = _put(draft.body, MBZ_AT[draft.name], b"\xff")


def _iv(draft: Draft, _: object) -> None:
    if draft.name in IV_AT:
        at = IV_AT[draft.name]
        draft.body = _put(draft.body, at, bytes(octet ^ 0xFF for octet in draft.body[at : at + BLOCK]))


def _change_body(draft: Draft, change: tuple[int, bytes]) -> None:
    draft.body = _put(draft.body, *change)


def _hmac(draft: Draft, _: object) -> None:
    draft.wrong_hmac = True


def _drop(draft: Draft, _: object) -> None:
    draft.copies = 0


def _duplicate(draft: Draft, _: object) -> None:
    draft.copies += 1


def _replay(draft: Draft, _: object) -> None:
    draft.after.append(lambda octets: octets * 2)


def _short(draft: Draft, blocks: int) -> None:
    draft.body = draft.body[: -blocks * BLOCK]


def _long(draft: Draft, blocks: int) -> None:
    draft.body += bytes(blocks * BLOCK)


def _truncate(draft: Draft, octets: int) -> None:
    draft.after.append(lambda sent: sent[:-octets])


def _extend(draft: Draft, octets: int) -> None:
    draft.after.append(lambda sent: sent + bytes(octets))


def _corrupt(draft: Draft, change: tuple[int, bytes]) -> None:
    draft.after.append(lambda sent: _put(sent, *change))


# --- test packets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PacketContext:
    """What is known of the session whose packets go out. `reply`: they are a Session-Reflector's."""

    mode: int
    keys: SessionKeys | None
    reply: bool = False
    reflected_octets: int = 0

    @property
    def layout(self) -> PacketLayout:
        """Where the parts of its packets lie."""
        return PacketLayout.of(self.mode, self.reflected_octets)

    @property
    def secured(self) -> bool:
        """True when its packets are protected."""
        return self.layout.mode is not PacketMode.OPEN and self.keys is not None

    @property
    def hmac_at(self) -> int:
        """Where the HMAC is in a protected packet."""
        return REFLECTOR_COVERED if self.reply else SENDER_COVERED


@dataclass(frozen=True, slots=True)
class Delivery:
    """One datagram to send `delay_s` from now."""

    data: bytes
    delay_s: float = 0.0


def _in_clear(data: bytes, context: PacketContext, act: Callable[[bytes], bytes]) -> bytes:
    """A packet with its clear text changed, protected anew."""
    keys, mode = context.keys, context.layout.mode
    if keys is None or not context.secured:
        return act(data)
    try:
        clear, _ = decrypt_unverified(data, context.hmac_at, mode, keys)
    except InvalidMessage:  # another knob has been here
        return data
    return seal_clear(act(clear), context.hmac_at, mode, keys)


def _packet_mbz(data: bytes, context: PacketContext, _: object) -> list[Delivery]:
    """The first MBZ octet; in open mode a sender's packet has none."""
    if not context.secured and not context.reply:
        return [Delivery(data)]
    at = 4 if context.secured else 14
    return [Delivery(_in_clear(data, context, lambda clear: _put(clear, at, b"\xff")))]


def _packet_hmac(data: bytes, context: PacketContext, _: object) -> list[Delivery]:
    return [Delivery(_put(data, context.hmac_at, b"") if context.secured else data)]


def _packet_change(data: bytes, context: PacketContext, change: tuple[int, bytes]) -> list[Delivery]:
    return [Delivery(_in_clear(data, context, lambda clear: _put(clear, *change)))]


def _sequence(data: bytes, context: PacketContext, number: int) -> list[Delivery]:
    return [Delivery(_in_clear(data, context, lambda clear: _put(clear, 0, number.to_bytes(4))))]


def _multiplier(data: bytes, context: PacketContext, _: object) -> list[Delivery]:
    at = 25 if context.secured else 13
    return [Delivery(_in_clear(data, context, lambda clear: _put(clear, at, b"\0")))]


CONTROL_ACTIONS: dict[str, tuple[Callable[[str], object] | None, str | None, Callable[..., None]]] = {
    "hmac": (None, None, _hmac),
    "iv": (None, None, _iv),
    "mbz": (None, None, _mbz),
    "mode": (_number, "0x40000000", _field(MODE_AT, 4)),
    "accept": (_number, "1", _field(ACCEPT_AT, 1)),
    "count": (_number, "1023", _field(COUNT_AT, 4)),
    "change": (_change, "0", _change_body),
    "short": (_count, "1", _short),
    "long": (_count, "1", _long),
    "drop": (None, None, _drop),
    "duplicate": (None, None, _duplicate),
    "replay": (None, None, _replay),
    "truncate": (_count, "1", _truncate),
    "extend": (_count, "16", _extend),
    "corrupt": (_change, "0", _corrupt),
}
"""Action -> how its argument is read (None: it has none), its default, what it does to a Control message."""

PACKET_ACTIONS: dict[str, tuple[Callable[[str], object] | None, str | None, Callable[..., list[Delivery]]]] = {
    "hmac": (None, None, _packet_hmac),
    "mbz": (None, None, _packet_mbz),
    "sequence": (_number, "0xffffffff", _sequence),
    "multiplier": (None, None, _multiplier),
    "change": (_change, "0", _packet_change),
    "truncate": (_count, "1", lambda data, _, octets: [Delivery(data[:-octets])]),
    "extend": (_count, "16", lambda data, _, octets: [Delivery(data + bytes(octets))]),
    "corrupt": (_change, "0", lambda data, _, change: [Delivery(_put(data, *change))]),
    "drop": (None, None, lambda *_: []),
    "duplicate": (None, None, lambda data, *_: [Delivery(data), Delivery(data)]),
    "delay": (_seconds, "1.0", lambda data, _, seconds: [Delivery(data, seconds)]),
    "stale": (None, None, lambda data, *_: [Delivery(data)]),  # the one before: see Knob.packet
}
"""The same of a test packet."""


# --- knobs ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Knob:
    """One `ACTION:MESSAGE|control|*:N|*[:ARGUMENT]`; MESSAGE is one of MESSAGES, or `test`. It counts what fits."""

    action: str
    message: str
    ordinal: int | None
    argument: object
    text: str
    seen: int = 0
    former: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Knob:
        """Read a knob; ConfigurationError that says what is wrong with it."""
        action, *parts = text.split(":", 3)
        what = f"impairment {text!r}"
        actions = (*CONTROL_ACTIONS, *(name for name in PACKET_ACTIONS if name not in CONTROL_ACTIONS))
        if action not in actions:
            meant = _meant(action, actions)
            raise ConfigurationError(f"{what}: there is no {action!r}{meant}: `ippm impairments` lists all")
        if len(parts) < 2:
            raise ConfigurationError(f"{what}: write {action}:MESSAGE:1, or * for each of them")
        message, number = parts[:2]
        table = PACKET_ACTIONS if message == TEST else CONTROL_ACTIONS
        if message not in (*MESSAGES, "control", TEST):
            meant = _meant(message, (*MESSAGES, TEST))
            raise ConfigurationError(f"{what}: there is no message {message!r}{meant}")
        if action not in table:
            kind = "test packets" if message == TEST else "Control messages"
            raise ConfigurationError(f"{what}: {action} is not for {kind}: `ippm impairments` lists all")
        if number != "*" and (not number.isdecimal() or int(number) < 1):
            raise ConfigurationError(f"{what}: {number!r} is no number: they are counted from 1, or all (*)")
        places = {"mbz": MBZ_AT, "mode": MODE_AT, "accept": ACCEPT_AT, "iv": IV_AT, "count": COUNT_AT}.get(action)
        if message != TEST and places is not None and message not in (*places, "control"):
            raise ConfigurationError(f"{what}: {message} has none; these have: {', '.join(places)}")
        if action == "hmac" and message in WITHOUT_HMAC:
            raise ConfigurationError(f"{what}: {message} has no HMAC")
        read, default, _ = table[action]
        argument = _argument(what, action, read, default, parts[2] if len(parts) == 3 else None)
        return cls(action, message, None if number == "*" else int(number), argument, text)

    def control(self, draft: Draft) -> None:
        """Count the message when it is of our kind, and change it when it is its turn."""
        if self.message in (draft.name, "control") and self._is_turn():
            CONTROL_ACTIONS[self.action][2](draft, self.argument)

    def packet(self, data: bytes, context: PacketContext) -> list[Delivery] | None:
        """Count a test packet, and give what goes out in its place; None to leave it alone."""
        if self.message != TEST:
            return None
        former, self.former = self.former, data
        if not self._is_turn():
            return None
        if self.action == "stale" and former is not None:
            return [Delivery(former)]
        return PACKET_ACTIONS[self.action][2](data, context, self.argument)

    def _is_turn(self) -> bool:
        self.seen += 1
        return self.ordinal in (None, self.seen)


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (is {close[0]} meant?)" if close else ""


def _argument(
    what: str, action: str, read: Callable[[str], object] | None, default: str | None, given: str | None
) -> object:
    if read is None:
        if given is not None:
            raise ConfigurationError(f"{what}: {action} takes no argument")
        return None
    wanted = default if given is None else given
    try:
        return read(str(wanted))
    except ValueError:
        raise ConfigurationError(f"{what}: {wanted!r} is not what {action} takes, such as {default}") from None


class Impairments:
    """The knobs of one process, which its connections and sessions share.

    Control messages are made in one thread; who calls `packet` in several lets one in at a time.
    """

    def __init__(self, knobs: Iterable[Knob]) -> None:
        self.knobs = tuple(knobs)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Of knobs as they are written. Raises ConfigurationError."""
        return cls(Knob.parse(text) for text in texts)

    def control(self, name: str, body: bytes, protect: Protect) -> bytes:
        """What goes out for a Control message."""
        draft = Draft(name, body)
        for knob in self.knobs:
            knob.control(draft)
        sent = b""
        for _ in range(draft.copies):
            octets = protect(draft.body, draft.wrong_hmac)
            for act in draft.after:
                octets = act(octets)
            sent += octets
        return sent

    def packet(self, data: bytes, context: PacketContext) -> list[Delivery]:
        """What goes out for a test packet."""
        deliveries = [Delivery(data)]
        for knob in self.knobs:
            made = []
            for delivery in deliveries:
                wanted = knob.packet(delivery.data, context)
                if wanted is None:
                    made.append(delivery)
                else:
                    made += [Delivery(one.data, one.delay_s + delivery.delay_s) for one in wanted]
            deliveries = made
        return deliveries

    @property
    def touches_packets(self) -> bool:
        """True when a knob is about test packets."""
        return any(knob.message == TEST for knob in self.knobs)
