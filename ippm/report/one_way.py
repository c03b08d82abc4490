"""The result of a one-way session: one model, from which every form of report is made.

A one-way delay never stands without the state of both clocks beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ippm.core.fetched_session import FetchedSession
from ippm.iana import Mode
from ippm.metrics.one_way import OneWayMetrics, one_way_metrics
from ippm.metrics.packet_age import sent_times
from ippm.metrics.registry import POISSON_MEAN_NS, StreamParameters, one_way_registry_names
from ippm.metrics.statistics import QUANTILE_DEFINITION, DelayStatistics
from ippm.report.result import (
    NOTE_AUTHENTICATED,
    NOTE_NO_TRANSMIT_STAMPS,
    NOTE_OPEN,
    NOTE_STOPPED,
    loss_pattern_dict,
    one_way_clock_note,
    reordering_dict,
    statistics_dict,
    with_losses_dict,
)
from ippm.report.stamps import StampReport
from ippm.report.stream import StreamWords
from ippm.report.text import (
    UNITS,
    clock_words,
    delay_words,
    endpoint_words,
    hops_words,
    in_unit,
    jitter_words,
    loss_percent,
    loss_words,
    reordering_words,
    replicated_words,
    stamp_words,
    time_words,
    with_losses_words,
)
from ippm.timestamps import ns_from_fixed_point
from ippm.wire.packet_record import RECORD
from ippm.wire.schedule_slot import SlotType
from ippm.wire.test_packet import PacketMode

UNKNOWN_MODE = "unknown"

NOTE_CLOCKS = "delays contain the offset between clocks that are not both synchronized"
NOTE_UNFINISHED = "the session had not ended normally when its records were read"
NOTE_SKIPPED_ALL = "no packet was sent in time: do the clocks of the two hosts differ by more than Timeout?"


@dataclass(frozen=True, slots=True)
class OwnSending:
    """What a sender knows of its session, by Sequence Number: the packets' stamps, and the kernel's, NTP, 0 for none.

    `late_ns` is how late packets were sent, of those that were.
    """

    stamps: Sequence[int]
    departures: Sequence[int]
    late_ns: Sequence[int]

    def measured(self, session: FetchedSession) -> FetchedSession:
        """The session with the times of sending as well as they are known; other packets' records stay as they are."""
        if not any(self.departures):
            return session
        sent_at = sent_times(self.stamps, self.departures)
        records = bytearray()
        for sequence, send_error, receive_error, sent, received, ttl in RECORD.iter_unpack(session.records):
            if sequence < len(self.stamps) and self.stamps[sequence] == sent:
                sent = sent_at[sequence]
            records += RECORD.pack(sequence, send_error, receive_error, sent, received, ttl)
        return replace(session, records=bytes(records))


@dataclass(frozen=True, slots=True)
class OneWayResult:
    """What a session measured. `direction` is `to` or `from` (the server), `path` the caller's word.

    `mode` is a word: `open`, `authenticated`, `encrypted`, or `unknown` of a saved session that does not say.

    `session` is the data as the receiver has it. Where we were the sender, `stamps` says what we know of the sending,
    and `measured` is the data with the kernel's transmit stamps for send times. RFC 4656, RFC 7679, RFC 7680.
    """

    direction: str
    mode: str
    session: FetchedSession = field(repr=False)
    measured: FetchedSession = field(repr=False)
    metrics: OneWayMetrics
    stamps: StampReport | None = None
    path: str | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        session: FetchedSession,
        direction: str,
        mode: str,
        *,
        path: str | None = None,
        own: OwnSending | None = None,
        transmit_refused: str = "",
        rejected: dict[str, int] | None = None,
        stopped: bool = False,
    ) -> Self:
        """The result of a session's data; `own` is what we know of it as its sender."""
        measured, stamps = session, None
        if own is not None:
            measured = own.measured(session)
            stamps = StampReport.of(
                own.stamps, own.departures, own.late_ns, receive="record", refused=transmit_refused
            )
        metrics = one_way_metrics(measured)
        notes = []
        if mode in ("authenticated", "open"):
            notes.append(NOTE_AUTHENTICATED if mode == "authenticated" else NOTE_OPEN)
        clocks = metrics.sender_clock, metrics.receiver_clock
        if any(clock is not None and not clock.synchronized for clock in clocks):
            notes.append(NOTE_CLOCKS)
        if metrics.delay is not None:
            notes += one_way_clock_note(metrics.delay.minimum)
        if session.finished != 1:
            notes.append(NOTE_UNFINISHED)
        if metrics.skipped and not metrics.sent:
            notes.append(NOTE_SKIPPED_ALL)
        if transmit_refused:
            notes.append(f"{NOTE_NO_TRANSMIT_STAMPS} ({transmit_refused})")
        if stopped:
            notes.append(NOTE_STOPPED)
        return cls(direction, mode, session, measured, metrics, stamps, path, rejected or {}, tuple(notes))

    @property
    def sent(self) -> int:
        """Packets sent."""
        return self.metrics.sent

    @property
    def lost(self) -> int:
        """Packets that did not come within Timeout."""
        return self.metrics.lost

    @property
    def duplicates(self) -> int:
        """Copies beyond the first of a packet."""
        return self.metrics.duplicates

    @property
    def delay(self) -> DelayStatistics | None:
        """One-way delay, nanoseconds; read it with `clocks_synchronized`."""
        return self.metrics.delay

    @property
    def clocks_synchronized(self) -> bool:
        """True when both ends say that their clock is synchronized to UTC."""
        sender, receiver = self.metrics.sender_clock, self.metrics.receiver_clock
        return sender is not None and sender.synchronized and receiver is not None and receiver.synchronized

    @property
    def clock_error_ns(self) -> int | None:
        """The sum of both ends' error estimates: how far off a delay may be when both clocks are synchronized.

        That of the sender is the one in its packets, which has the error of their stamps.
        """
        sender, receiver = self.metrics.sender_clock, self.metrics.receiver_clock
        return None if sender is None or receiver is None else sender.error_ns + receiver.error_ns

    @property
    def sender(self) -> tuple[str, int]:
        """Address and port of the sender."""
        request = self.session.request
        return str(request.sender_address), request.sender_port

    @property
    def receiver(self) -> tuple[str, int]:
        """Address and port of the receiver."""
        request = self.session.request
        return str(request.receiver_address), request.receiver_port

    def saved(self) -> bytes:
        """The octets of a file that keeps the session's data."""
        return self.session.encode(Mode.of_word(self.mode) if self.mode != UNKNOWN_MODE else 0)

    @property
    def payload_octets(self) -> int | None:
        """The UDP payload of each test packet; None when the mode is not known."""
        if self.mode == UNKNOWN_MODE:
            return None
        return PacketMode[self.mode.upper()].sender_octets + self.session.request.padding_length

    @property
    def stream(self) -> StreamWords:
        """What was sent, for the reports."""
        request = self.session.request
        return StreamWords(self.payload_octets, request.dscp, request.slots, ns_from_fixed_point(request.timeout))

    @property
    def registry_names(self) -> dict[str, str]:
        """The names of RFC 8912 that apply to this session's stream, by the name of the value in `to_dict`."""
        request, octets = self.session.request, self.payload_octets
        if octets is None:
            return {}
        interval_ns = mean_ns = None
        longest_ns = 0
        if len(request.slots) == 1:
            parameter_ns = ns_from_fixed_point(request.slots[0].parameter)
            if request.slots[0].slot_type is SlotType.FIXED:
                interval_ns = parameter_ns
            else:
                mean_ns = parameter_ns
                if mean_ns == POISSON_MEAN_NS:  # else it does not matter
                    longest_ns = _longest_interval_ns(self.session)
        return one_way_registry_names(
            StreamParameters(
                octets,
                interval_ns,
                ns_from_fixed_point(request.timeout),
                0 if request.dscp == 0 else -1,
                poisson_mean_ns=mean_ns,
                longest_ns=longest_ns,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """The `result` of the JSON reports: integers, units in the names; statistics of nothing are null."""
        metrics, request = self.metrics, self.session.request
        return {
            "direction": self.direction,
            "sent": metrics.sent,
            "received": metrics.received,
            "lost": metrics.lost,
            "duplicates": metrics.duplicates,
            "reordered": metrics.reordered,
            "skipped": metrics.skipped,
            "rejected": dict(self.rejected),
            "delay": statistics_dict(metrics.delay),
            "delay_with_losses": with_losses_dict(metrics.delay_with_losses),
            "pdv": statistics_dict(metrics.pdv),
            "ipdv": statistics_dict(metrics.ipdv),
            "duplication": metrics.duplication.to_dict(),
            "reordering": reordering_dict(metrics.reordering),
            "loss_pattern": loss_pattern_dict(metrics.loss_pattern),
            "send_error": statistics_dict(self.stamps.send_error if self.stamps else None),
            "quantiles": QUANTILE_DEFINITION,
            "clock": {
                "sender": None if metrics.sender_clock is None else metrics.sender_clock.to_dict(),
                "receiver": None if metrics.receiver_clock is None else metrics.receiver_clock.to_dict(),
                "both_synchronized": self.clocks_synchronized,
                "error_ns": self.clock_error_ns,
            },
            "stamps": _stamps_dict(self.stamps),
            "mode": self.mode,
            "path": self.path,
            "sid": self.session.sid.hex(),
            "sender": {"address": self.sender[0], "port": self.sender[1]},
            "receiver": {"address": self.receiver[0], "port": self.receiver[1]},
            "payload_octets": self.payload_octets,
            "schedule": self.stream.schedule_dicts(),
            "schedule_slots": len(request.slots),
            "timeout_ns": ns_from_fixed_point(request.timeout),
            "dscp": request.dscp,
            "hops": metrics.hops and list(metrics.hops),
            "ttl_changes": metrics.ttl_changes,
            "finished": self.session.finished,
            "next_seqno": self.session.next_seqno,
            "first_sent_unix_ns": metrics.first_sent_unix_ns,
            "last_sent_unix_ns": metrics.last_sent_unix_ns,
            "registry_names": self.registry_names,
            "notes": list(self.notes),
        }


def format_one_way(result: OneWayResult, unit: str = "m") -> str:
    """A dozen lines in the manner of owping, the last with a line end; `unit` is a letter of `text.UNITS`."""
    metrics = result.metrics
    percent = loss_percent(metrics.lost, metrics.sent)
    lines = [
        f"--- owping statistics from {endpoint_words(result.sender)} to {endpoint_words(result.receiver)} ---",
        f"SID:   {result.session.sid.hex()}",
        f"mode:  {result.mode}" + (f", path: {result.path}" if result.path else ""),
        f"first: {time_words(metrics.first_sent_unix_ns)}",
        f"last:  {time_words(metrics.last_sent_unix_ns)}",
        result.stream.line(unit),
        f"{metrics.sent} sent, {metrics.lost} lost ({percent}), {metrics.duplicates} duplicates"
        + replicated_words(metrics.duplication),
        _delay(metrics.delay, result.clock_error_ns, unit),
        *with_losses_words(metrics.delay_with_losses, metrics.lost, unit),
    ]
    if metrics.delay is not None:
        lines.append(jitter_words("one-way jitter", metrics.delay, unit))
    lines += [
        hops_words("hops", metrics.hops),
        *reordering_words(metrics.reordering),
        *loss_words(metrics.loss_pattern),
        f"clocks: sender {clock_words(metrics.sender_clock, unit)}; "
        f"receiver {clock_words(metrics.receiver_clock, unit)}",
    ]
    if result.stamps is not None:
        lines += stamp_words(result.stamps, unit)
    if metrics.skipped:
        lines.append(f"not sent: {metrics.skipped}")
    lines += [f"{name.replace('_', ' ')}: {count}" for name, count in result.rejected.items() if count]
    lines += [f"{value} is {name}" for value, name in result.registry_names.items()]
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def _stamps_dict(stamps: StampReport | None) -> dict[str, Any]:
    if stamps is None:
        return {
            "transmit": "packet", "receive": "record",
            "transmit_stamped": 0, "error_ns": None, "packet_age": None, "transmit_refused": None,
        }  # fmt: skip
    fields = stamps.to_dict()
    fields.pop("local_receive")
    return {"transmit": fields.pop("local_transmit"), "receive": "record", **fields}


def _delay(statistics: DelayStatistics | None, error_ns: int | None, unit: str) -> str:
    if statistics is None:
        return "one-way delay: no packet arrived"
    error = "unknown" if error_ns is None else f"{in_unit(error_ns, unit)} {UNITS[unit][1]}"
    return f"{delay_words('one-way delay', statistics, unit)} (err={error})"


def _longest_interval_ns(session: FetchedSession) -> int:
    schedule, count = session.schedule, session.request.number_of_packets
    before = longest = 0
    for number in range(count):
        offset = schedule.offset_ns(number)
        longest, before = max(longest, offset - before), offset
    return longest
