"""Runs that were kept in files, as series of delays: saved OWAMP sessions, the lines of `owping -R` and `twping -R`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ippm.core.fetched_session import FetchedSession
from ippm.errors import ConfigurationError, InvalidMessage
from ippm.report.packets import delay_ns, first_copies, synchronized
from ippm.timestamps import MASK_64, ns_from_fixed_point, ntp_difference_ns

WAYS = ("round-trip", "forward", "backward")
_ONE_WAY, _TWO_WAY = 8, 16
_SAVED = b"OWAMPfs"


@dataclass(frozen=True, slots=True)
class SavedRun:
    """`delays` are nanoseconds in the order of sending, None for a lost packet; `metric` names them.

    `synchronized`: both clocks were in all packets, or no delay depends on that. `conditions` is what is known of how
    it was measured, by name: runs are comparable as far as these agree.
    """

    name: str
    metric: str
    delays: tuple[int | None, ...] = field(repr=False)
    synchronized: bool
    conditions: Mapping[str, str]

    @property
    def sent(self) -> int:
        """Packets that came or were lost."""
        return len(self.delays)

    @property
    def lost(self) -> int:
        """Packets without a delay."""
        return sum(delay is None for delay in self.delays)


def read_run(name: str, octets: bytes, way: str = "round-trip") -> SavedRun:
    """The run of a file; `way` is one of WAYS, for two-way lines. Raises ConfigurationError, with the line."""
    if octets.startswith(_SAVED):
        try:
            return _of_session(name, FetchedSession.decode(octets))
        except InvalidMessage as error:
            raise ConfigurationError(f"{name}: {error}") from None
    return _of_lines(name, octets, way)


def _of_session(name: str, session: FetchedSession) -> SavedRun:
    packets = sorted(first_copies(session), key=lambda packet: packet.sequence_number)
    request = session.request
    conditions = {
        "sender": str(request.sender_address),
        "receiver": str(request.receiver_address),
        "padding octets": str(request.padding_length),
        "DSCP": str(request.dscp),
        "timeout": f"{ns_from_fixed_point(request.timeout)} ns",
        "schedule": ", ".join(
            f"{slot.slot_type.name.lower()} {ns_from_fixed_point(slot.parameter)} ns" for slot in request.slots[:8]
        ),
    }
    return SavedRun(
        name,
        "one-way delay",
        tuple(None if packet.lost else delay_ns(packet) for packet in packets),
        all(synchronized(packet) for packet in packets if not packet.lost),
        conditions,
    )


@dataclass(frozen=True, slots=True)
class _Crossing:
    """Eight fields of a line: a packet on one way. The receive time of a lost packet is 0."""

    number: int
    sent: int
    received: int
    synchronized: bool


def _of_lines(name: str, octets: bytes, way: str) -> SavedRun:
    there: dict[int, _Crossing] = {}
    back: dict[int, _Crossing | None] = {}
    two_way = False
    for number, fields in _fields(name, octets):
        if len(fields) not in (_ONE_WAY, _TWO_WAY):
            raise ConfigurationError(
                f"{name}, line {number}: {len(fields)} fields; a saved session (-d), or the lines of owping -R "
                f"({_ONE_WAY} fields) or twping -R ({_TWO_WAY}), are read"
            )
        try:
            crossing = _crossing(fields[:_ONE_WAY])
            reply = _crossing(fields[_ONE_WAY:]) if len(fields) == _TWO_WAY else None
        except ValueError as error:
            raise ConfigurationError(f"{name}, line {number}: {error}") from None
        two_way = two_way or reply is not None
        known = there.get(crossing.number)
        if known and known.received and crossing.received and known.sent != crossing.sent:
            raise ConfigurationError(
                f"{name}, line {number}: another packet {crossing.number} than before: keep each direction in a file "
                "of its own (owping -t or -f)"
            )
        if known is None or not known.received:  # the first copy counts
            there[crossing.number], back[crossing.number] = crossing, reply
    if not there:
        raise ConfigurationError(f"{name}: no packet in it")
    numbers = sorted(there)
    if not two_way:
        delays = [_delay(there[one]) for one in numbers]
        clocks = all(there[one].synchronized for one in numbers if there[one].received)
        return SavedRun(name, "one-way delay", tuple(delays), clocks, {})
    pairs = [(there[one], back[one]) for one in numbers]
    clocks = way == "round-trip" or all(one.synchronized for one, reply in pairs if reply is not None)
    return SavedRun(name, f"{way} delay", tuple(_two_way(pairs, way)), clocks, {})


def _two_way(pairs: Iterable[tuple[_Crossing, _Crossing | None]], way: str) -> Iterator[int | None]:
    for there, back in pairs:
        if back is None:
            yield None
        elif way == "forward":
            yield _delay(there)
        elif way == "backward":
            yield _delay(back)
        else:
            # (T4 - T1) - (T3 - T2), as reports have it.
            yield ntp_difference_ns(back.received, there.sent) - ntp_difference_ns(back.sent, there.received)


def _fields(name: str, octets: bytes) -> Iterator[tuple[int, list[str]]]:
    try:
        text = octets.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{name}: neither a saved session (owping -d, fetch -o) nor the lines of owping -R or twping -R"
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.split()


def _crossing(fields: list[str]) -> _Crossing:
    """Of the eight fields. ValueError with a sentence."""
    number, sent, send_sync, _, received, receive_sync, _, _ = fields
    for what, value in (("a sequence number", number), ("a stamp", sent), ("a stamp", received)):
        if not value.isdecimal() or int(value) > MASK_64:
            raise ValueError(f"{value!r} is not {what}")
    return _Crossing(int(number), int(sent), int(received), send_sync == receive_sync == "1")


def _delay(crossing: _Crossing) -> int | None:
    return ntp_difference_ns(crossing.received, crossing.sent) if crossing.received else None
