"""Impairments of our own sending, for tests and demonstrations: named knobs on named messages.

    drop:IKE_AUTH:request:1             the first IKE_AUTH request that we send is lost
    delay:INFORMATIONAL:request:2:1.5   the second INFORMATIONAL request goes out 1.5 s late
    change:IKE_AUTH:request:1:AUTH@4    the first octet of the AUTH data is wrong, the ICV is right
    critical:IKE_AUTH:*:*               an unknown critical payload in every IKE_AUTH message

`docs/impairments.md` has them all. There are two sorts. Knobs on datagrams act on what goes out, after its protection,
each time that it goes out: retransmissions and fragments count. Knobs on messages act once, when an IKE SA makes the
message: all its transmissions are the same, and the ICV and the AUTH payload cover what is sent.

Knobs act in the order in which they are given, each on what the one before made.
"""

from __future__ import annotations

import difflib
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ikev2.core.impair_message import REWRITES, Draft, MessageImpairment
from ikev2.core.types import Datagram
from ikev2.errors import ConfigurationError, InvalidSyntax
from ikev2.iana import ExchangeType, PayloadType
from ikev2.wire.header import HEADER_OCTETS, Header

FIELDS = {
    "initiator_spi": 0,
    "responder_spi": 8,
    "next_payload": 16,
    "version": 17,
    "exchange_type": 18,
    "flags": 19,
    "message_id": 23,
    "length": 27,
    "payload_length": 31,
    "fragment_number": 33,
    "total_fragments": 35,
    "iv": -2,
    "icv": -1,
}
"""Where `corrupt` finds what is named; the IV lies behind the header of the SK or SKF payload."""

SK_BODY_OFFSET, SKF_BODY_OFFSET = 32, 36


@dataclass(frozen=True, slots=True)
class Delivery:
    """One datagram to send `delay_s` from now."""

    data: bytes
    delay_s: float = 0.0


class Impairment(Protocol):
    """Decides what becomes of a datagram that goes out. One that has `rewrite`, too, is asked about messages before

    their protection (`MessageImpairment`).
    """

    def apply(self, data: bytes) -> list[Delivery] | None:
        """The deliveries in its place (none: lost), or None to leave it alone."""
        ...


# --- datagrams ---------------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _place(text: str) -> int:
    """An offset, or the name of a field."""
    if text in FIELDS:
        return FIELDS[text]
    place = int(text)
    if place < 0:
        raise ValueError(text)
    return place


def _corrupt(data: bytes, place: int) -> list[Delivery]:
    if place >= len(data):
        return [Delivery(data)]
    if place == FIELDS["iv"]:
        place = SKF_BODY_OFFSET if data[16] == PayloadType.SKF else SK_BODY_OFFSET
    place %= len(data)
    return [Delivery(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])]


DATAGRAMS: dict[str, tuple[Callable[[str], object] | None, str | None, Callable[..., list[Delivery]]]] = {
    "drop": (None, None, lambda data, _: []),
    "duplicate": (None, None, lambda data, _: [Delivery(data), Delivery(data)]),
    "delay": (_seconds, "1.0", lambda data, seconds: [Delivery(data, seconds)]),
    "replay": (_count, "1", lambda data, _: [Delivery(data)]),  # and one of the past: see Knob.apply
    "corrupt": (_place, str(HEADER_OCTETS), _corrupt),
    "truncate": (_count, "1", lambda data, octets: [Delivery(data[:-octets])]),
    "extend": (_count, "4", lambda data, octets: [Delivery(data + bytes(octets))]),
    "bad-icv": (None, None, lambda data, _: _corrupt(data, FIELDS["icv"])),
}
"""Action -> how its argument is read (None: it has none), its default (None: it must be given), its work."""

ACTIONS = (*DATAGRAMS, *REWRITES)
DIRECTIONS = {"request": False, "response": True, "*": None}


# --- knobs -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Knob:
    """One `ACTION:EXCHANGE|*:request|response|*:N|*[:ARGUMENT]`. RFC 7296 section 3.1 names the exchanges.

    `exchange`, `is_response` and `ordinal` are None where the knob has a star. It counts what fits, over all IKE SAs
    to which it is given, from 1.
    """

    action: str
    exchange: ExchangeType | None
    is_response: bool | None
    ordinal: int | None
    argument: object
    seen: int = 0
    past: deque[bytes] = field(default_factory=deque, repr=False)

    @classmethod
    def parse(cls, text: str) -> Knob:
        """Read a knob; ConfigurationError that says what is wrong with it."""
        action, *parts = text.split(":", 4)
        what = f"impairment {text!r}"
        if action not in ACTIONS:
            raise ConfigurationError(
                f"{what}: there is no {action!r}{_meant(action, ACTIONS)}: `ikev2 impairments` lists all"
            )
        if len(parts) < 3:
            raise ConfigurationError(f"{what}: write {action}:EXCHANGE:request:1, a star for any of the last three")
        exchange, direction, number = parts[:3]
        if direction not in DIRECTIONS:
            raise ConfigurationError(f"{what}: {direction!r} is not request, response or *")
        if number != "*" and (not number.isdecimal() or int(number) < 1):
            raise ConfigurationError(f"{what}: {number!r} is no number: messages are counted from 1, or all (*)")
        return cls(
            action,
            None if exchange == "*" else _exchange(what, exchange),
            DIRECTIONS[direction],
            None if number == "*" else int(number),
            _argument(text, action, parts[3] if len(parts) == 4 else None),
        )

    def apply(self, data: bytes) -> list[Delivery] | None:
        """Count the datagram when it is of our kind, and do to it what the knob says when it is its turn."""
        if self.action not in DATAGRAMS:
            return None
        try:
            header = Header.parse(data)
        except InvalidSyntax:  # another knob has been here
            return None
        its_turn = self._is_turn_of(header)
        deliveries = DATAGRAMS[self.action][2](data, self.argument) if its_turn else None
        if self.action == "replay" and self._fits(header):
            back = self.argument if isinstance(self.argument, int) else 1
            if deliveries is not None and back <= len(self.past):
                deliveries.append(Delivery(self.past[-back]))
            self.past.append(data)
            while len(self.past) > back:
                self.past.popleft()
        return deliveries

    def rewrite(self, draft: Draft) -> Draft | None:
        """Count the message when it is of our kind, and change it when it is its turn."""
        if self.action not in REWRITES or not self._is_turn_of(draft.header):
            return None
        return REWRITES[self.action][2](draft, self.argument)

    def _fits(self, header: Header) -> bool:
        return self.exchange in (None, header.exchange_type) and self.is_response in (None, header.is_response)

    def _is_turn_of(self, header: Header) -> bool:
        if not self._fits(header):
            return False
        self.seen += 1
        return self.ordinal in (None, self.seen)


def _exchange(what: str, text: str) -> ExchangeType:
    """An exchange by its name, or by its number."""
    if text.isdecimal() and int(text) <= 0xFF:
        return ExchangeType(int(text))
    if text not in ExchangeType.__members__:
        names = tuple(ExchangeType.__members__)
        raise ConfigurationError(f"{what}: there is no exchange {text!r}{_meant(text.upper(), names)}")
    return ExchangeType[text]


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f" (is {close[0]} meant?)" if close else ""


def _argument(text: str, action: str, given: str | None) -> object:
    """What follows the fourth colon, or the action's default."""
    read, default, _ = (DATAGRAMS | REWRITES)[action]
    if read is None:
        if given is not None:
            raise ConfigurationError(f"impairment {text!r}: {action} takes no argument")
        return None
    wanted = default if given is None else given
    if wanted is None:
        raise ConfigurationError(f"impairment {text!r}: {action} needs an argument: see `ikev2 impairments`")
    if wanted == "" and given is None:
        return None
    try:
        return read(wanted)
    except ConfigurationError as error:
        raise ConfigurationError(f"impairment {text!r}: {error}") from None
    except ValueError:
        example = f", such as {default}" if default else ": see `ikev2 impairments`"
        raise ConfigurationError(f"impairment {text!r}: {wanted!r} is not what {action} takes{example}") from None


# --- where they act ----------------------------------------------------------------------------------------------


def impair(impairments: Iterable[Impairment], data: bytes) -> list[Delivery]:
    """What becomes of a datagram: each impairment acts on what the one before made."""
    deliveries = [Delivery(data)]
    for impairment in impairments:
        made = []
        for delivery in deliveries:
            wanted = impairment.apply(delivery.data)
            if wanted is None:
                made.append(delivery)
            else:
                made += [Delivery(each.data, each.delay_s + delivery.delay_s) for each in wanted]
        deliveries = made
    return deliveries


def message_impairments(impairments: Iterable[object]) -> tuple[MessageImpairment, ...]:
    """Those that act on messages before their protection."""
    return tuple(
        impairment
        for impairment in impairments
        if isinstance(impairment, MessageImpairment)
        and not (isinstance(impairment, Knob) and impairment.action not in REWRITES)
    )


class Outlet:
    """Where datagrams leave by way of impairments: now, or when their time has come."""

    def __init__(self, impairments: Sequence[Impairment]) -> None:
        self.impairments = list(impairments)
        self._delayed: list[tuple[float, int, Datagram]] = []
        self._serial = 0

    def send(self, datagram: Datagram, now: float) -> list[Datagram]:
        """What is to be sent in its place at once."""
        if not self.impairments:
            return [datagram]
        due = []
        for delivery in impair(self.impairments, datagram.data):
            out = replace(datagram, data=delivery.data)
            if delivery.delay_s:
                self._serial += 1
                heapq.heappush(self._delayed, (now + delivery.delay_s, self._serial, out))
            else:
                due.append(out)
        return due

    def next_timer(self) -> float | None:
        """When the next delayed datagram is due."""
        return self._delayed[0][0] if self._delayed else None

    def take_due(self, now: float) -> list[Datagram]:
        """The delayed datagrams whose time has come."""
        due = []
        while self._delayed and self._delayed[0][0] <= now:
            due.append(heapq.heappop(self._delayed)[2])
        return due
