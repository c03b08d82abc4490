"""The result of a two-way session: one model, from which every form of report is made.

Directional delays never stand without the state of both clocks beside them, and what the mode does not protect is said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from ippm.core.schedule import FixedSchedule
from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.iana import Mode, feature_words
from ippm.metrics.loss_pattern import LossPattern
from ippm.metrics.marking import Marking, markings
from ippm.metrics.registry import StreamParameters, registry_names
from ippm.metrics.reordering import Reordering
from ippm.metrics.statistics import QUANTILE_DEFINITION, DelayStatistics, QuantilesWithLosses
from ippm.metrics.two_way import TwoWayMetrics, two_way_metrics, worst_clock
from ippm.report.stamps import NO_STAMP_REPORT, TRANSMIT_ERROR_NS, StampReport
from ippm.report.stream import StreamWords
from ippm.timestamps import ClockState, ErrorEstimate, unix_ns_from_ntp
from ippm.wire.schedule_slot import Slot
from ippm.wire.test_packet import PacketMode

N_REORDERING_SHOWN = 100
"""n-reordering beyond this n is not in reports."""

NOTE_AUTHENTICATED = "timestamps not authenticated"
NOTE_OPEN = "packets neither authenticated nor encrypted"
NOTE_CLOCKS = "forward and backward delays contain the offset between clocks that are not both synchronized"
NOTE_USER_STAMPS = "some replies were stamped by the program, not by the kernel"
NOTE_NO_TRANSMIT_STAMPS = "packets were not stamped by the kernel when it sent them: T1 is the program's"
NOTE_STOPPED = "stopped before its end"
NOTE_SKIPPED_ALL = "no packet was sent in time: all were late by more than Timeout"
SLOW_REFLECTOR_NS = 1_000_000_000
"""A reflector answers within a second. RFC 6673 section 4.4."""
NOTE_REFLECTOR_STAMPS = "the reflector's receive and transmit stamps are equal in every packet"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a session measured. `mode` is a word; `path` is the caller's word for the way (tunnel, bypass), or None.

    `first_sent_unix_ns` and `last_sent_unix_ns` are the sender's stamps; 0 when nothing was sent. `stamps` says who
    took T1 and T4, and what they are worth. `schedule` are the slots that are gone round, `random_start`
    is whether control exchanges before made the start unpredictable (RFC 3432 section 3, RFC 8912 section 4.3.2).
    `features` are words; `marked_forward` and `marked_backward` say with which DSCP and ECN packets arrived, None where
    that is not monitored.
    """

    sid: bytes
    mode: str
    local: tuple[str, int]
    remote: tuple[str, int]
    metrics: TwoWayMetrics
    local_clock: ClockState
    peer_clock: ClockState | None
    payload_octets: int
    interval_ns: int | None
    timeout_ns: int
    dscp: int = 0
    path: str | None = None
    first_sent_unix_ns: int = 0
    last_sent_unix_ns: int = 0
    skipped: int = 0
    late: int = 0
    send_failed: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    stamps: StampReport = NO_STAMP_REPORT
    features: str = ""
    marked_forward: tuple[Marking, ...] | None = None
    marked_backward: tuple[Marking, ...] | None = None
    notes: tuple[str, ...] = ()
    schedule: tuple[Slot, ...] = ()
    random_start: bool = True

    @classmethod
    def of(
        cls,
        plan: SenderPlan,
        records: SenderRecords,
        local_clock: ClockState,
        *,
        path: str | None = None,
        mode: str | None = None,
    ) -> Self:
        """The result of a session that has ended. `mode` overrides the word (mixed mode has open packets).

        `local_clock` is the state of our clock when the session began; what its packets said later may be worse.
        """
        local_clock = _worst_local(local_clock, records)
        metrics = two_way_metrics(records, numbered=plan.numbered_replies)
        packet_mode = PacketMode.of(plan.mode)
        sent = [t1 for t1 in records.t1 if t1]
        layout = plan.layout
        forward, backward = (
            markings(octet for octet, t4 in zip(octets, records.t4, strict=True) if t4)
            if layout.monitored
            else None
            for octets in (records.reflector_dscp_ecn, records.reply_dscp_ecn)
        )
        return cls(
            sid=plan.sid,
            mode=mode or packet_mode.name.lower(),
            local=plan.local,
            remote=plan.remote,
            metrics=metrics,
            local_clock=local_clock,
            peer_clock=metrics.peer_clock,
            payload_octets=layout.sender_octets + plan.padding_octets,
            interval_ns=plan.schedule.interval_ns if isinstance(plan.schedule, FixedSchedule) else None,
            timeout_ns=plan.timeout_ns,
            dscp=plan.dscp,
            path=path,
            first_sent_unix_ns=unix_ns_from_ntp(sent[0]) if sent else 0,
            last_sent_unix_ns=unix_ns_from_ntp(sent[-1]) if sent else 0,
            skipped=len(records.skipped),
            late=records.late,
            send_failed=records.send_failed,
            rejected=dict(records.rejected),
            stamps=stamp_report(records),
            features=feature_words(Mode(plan.mode)),
            marked_forward=forward,
            marked_backward=backward,
            notes=tuple(_notes(packet_mode, metrics, records, local_clock)),
            schedule=tuple(plan.schedule.slots),
        )

    @property
    def sent(self) -> int:
        """Packets sent."""
        return self.metrics.sent

    @property
    def lost(self) -> int:
        """Packets that were not answered within Timeout."""
        return self.metrics.lost

    @property
    def duplicates(self) -> int:
        """Replies beyond the first for a packet."""
        return self.metrics.duplicates

    @property
    def reordered(self) -> int:
        """Packets whose reply came out of order."""
        return self.metrics.reordered

    @property
    def round_trip(self) -> DelayStatistics | None:
        """Round-trip delay without the time in the reflector, nanoseconds."""
        return self.metrics.round_trip

    @property
    def forward(self) -> DelayStatistics | None:
        """One-way delay to the reflector, nanoseconds; read it with `clocks_synchronized`."""
        return self.metrics.forward

    @property
    def backward(self) -> DelayStatistics | None:
        """One-way delay from the reflector, nanoseconds; read it with `clocks_synchronized`."""
        return self.metrics.backward

    @property
    def clocks_synchronized(self) -> bool:
        """True when both ends say that their clock is synchronized to UTC."""
        return self.local_clock.synchronized and self.peer_clock is not None and self.peer_clock.synchronized

    @property
    def clock_error_ns(self) -> int | None:
        """The sum of both ends' errors: how far off a directional delay may be when both are synchronized.

        Here that of the clock and of the stamps; there the error estimate, which has both.
        """
        if self.peer_clock is None:
            return None
        return self.local_clock.error_ns + self.stamps.error_ns + self.peer_clock.error_ns

    @property
    def stream(self) -> StreamWords:
        """What was sent, for the reports."""
        return StreamWords(self.payload_octets, self.dscp, self.schedule, self.timeout_ns)

    @property
    def registry_names(self) -> dict[str, str]:
        """The names of RFC 8912 that apply to this stream."""
        if not self.random_start:
            return {}
        return registry_names(StreamParameters(self.payload_octets, self.interval_ns, self.timeout_ns, self.dscp))

    def to_dict(self) -> dict[str, Any]:
        """The `result` of the JSON reports: integers, units in the names; statistics of nothing are null.

        `delay` is the round trip without the time in the reflector.
        """
        metrics = self.metrics
        return {
            "sent": metrics.sent,
            "received": metrics.received,
            "lost": metrics.lost,
            "lost_backward_at_least": metrics.lost_backward_at_least,
            "duplicates": metrics.duplicates,
            "send_duplicates": metrics.send_duplicates,
            "reflect_duplicates": metrics.reflect_duplicates,
            "reordered": metrics.reordered,
            "reordered_forward": metrics.reordered_forward,
            "reordered_backward": metrics.reordered_backward,
            "skipped": self.skipped,
            "late": self.late,
            "send_failed": self.send_failed,
            "rejected": dict(self.rejected),
            "delay": statistics_dict(metrics.round_trip),
            "round_trip_total": statistics_dict(metrics.round_trip_total),
            "delay_with_losses": with_losses_dict(metrics.round_trip_with_losses),
            "round_trip_total_with_losses": with_losses_dict(metrics.round_trip_total_with_losses),
            "forward": statistics_dict(metrics.forward),
            "backward": statistics_dict(metrics.backward),
            "forward_pdv": statistics_dict(metrics.forward_pdv),
            "backward_pdv": statistics_dict(metrics.backward_pdv),
            "ipdv": statistics_dict(metrics.round_trip_ipdv),
            "forward_ipdv": statistics_dict(metrics.forward_ipdv),
            "backward_ipdv": statistics_dict(metrics.backward_ipdv),
            "duplication": metrics.duplication.to_dict(),
            "reordering": reordering_dict(metrics.reordering),
            "loss_pattern": loss_pattern_dict(metrics.loss_pattern),
            "reflector_turnaround": statistics_dict(metrics.reflector_turnaround),
            "quantiles": QUANTILE_DEFINITION,
            "clock": {
                "local": self.local_clock.to_dict(),
                "peer": None if self.peer_clock is None else self.peer_clock.to_dict(),
                "both_synchronized": self.clocks_synchronized,
                "error_ns": self.clock_error_ns,
            },
            "stamps": self.stamps.to_dict(),
            "send_error": statistics_dict(self.stamps.send_error),
            "mode": self.mode,
            "path": self.path,
            "sid": self.sid.hex(),
            "local": {"address": self.local[0], "port": self.local[1]},
            "remote": {"address": self.remote[0], "port": self.remote[1]},
            "payload_octets": self.payload_octets,
            "interval_ns": self.interval_ns,
            "schedule": self.stream.schedule_dicts(),
            "timeout_ns": self.timeout_ns,
            "dscp": self.dscp,
            "features": self.features.split(", ") if self.features else [],
            "marking_forward": _marking_dicts(self.marked_forward),
            "marking_backward": _marking_dicts(self.marked_backward),
            "hops_forward": metrics.hops_forward and list(metrics.hops_forward),
            "hops_backward": metrics.hops_backward and list(metrics.hops_backward),
            "ttl_changes_forward": metrics.ttl_changes_forward,
            "ttl_changes_backward": metrics.ttl_changes_backward,
            "first_sent_unix_ns": self.first_sent_unix_ns,
            "last_sent_unix_ns": self.last_sent_unix_ns,
            "registry_names": self.registry_names,
            "notes": list(self.notes),
        }


def _worst_local(clock: ClockState, records: SenderRecords) -> ClockState:
    """The state of our clock, or what our packets claimed of it while the session ran where that is worse.

    Their Error Estimates have the error of their stamps in them, too: what is said is never too little.
    """
    claimed = worst_clock(error for error, t1 in zip(records.sender_error, records.t1, strict=True) if t1 and error)
    if claimed is None:
        return clock
    at_first = ErrorEstimate.from_ns(clock.error_ns + TRANSMIT_ERROR_NS, synchronized=clock.synchronized)
    if claimed.error_ns <= at_first.error_ns and claimed.synchronized >= clock.synchronized:
        return clock
    synchronized = clock.synchronized and claimed.synchronized
    return ClockState(synchronized, max(clock.error_ns, claimed.error_ns), clock.source)


def _marking_dicts(marked: tuple[Marking, ...] | None) -> list[dict[str, int]] | None:
    return None if marked is None else [one.to_dict() for one in marked]


def stamp_report(records: SenderRecords) -> StampReport:
    """What the stamps of the records are worth."""
    late = (late_ns for late_ns, t1 in zip(records.send_error_ns, records.t1, strict=True) if t1)
    return StampReport.of(
        records.t1,
        records.departure,
        late,
        receive=_receive_stamps(records),
        refused=records.transmit_refused,
    )


def _receive_stamps(records: SenderRecords) -> str:
    if not records.user_stamps:
        return "kernel"
    return "user" if records.user_stamps >= len(records.arrivals) else "mixed"


def reordering_dict(found: Reordering) -> dict[str, Any]:
    """Reordering as in the JSON reports: counts of packets by extent, and for n = 1, 2, ... RFC 4737."""
    return {
        "reordered": found.reordered,
        "extent_maximum": max(found.extents, default=None),
        "extent_counts": {str(extent): count for extent, count in found.extent_counts.items()},
        "n_reordered": list(found.n_reordered[:N_REORDERING_SHOWN]),
        "gap_minimum": min(found.gaps, default=None),
        "free_runs": len(found.free_runs),
    }


def loss_pattern_dict(pattern: LossPattern) -> dict[str, Any]:
    """Losses as in the JSON reports: how many periods have which length, and what lies between them. RFC 3357."""
    lengths = Counter(pattern.period_lengths)
    return {
        "periods": pattern.periods,
        "longest_period": max(lengths, default=None),
        "period_lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "shortest_between": min(pattern.inter_period_lengths[1:], default=None),
    }


def statistics_dict(statistics: DelayStatistics | None) -> dict[str, int] | None:
    """Statistics as in the JSON reports; those of nothing are None."""
    return None if statistics is None else statistics.to_dict()


def with_losses_dict(quantiles: QuantilesWithLosses | None) -> dict[str, int | None] | None:
    """Quantiles with losses as in the JSON reports; those of nothing are None."""
    return None if quantiles is None else quantiles.to_dict()


def one_way_clock_note(minimum_ns: int) -> list[str]:
    """Of a one-way delay, what it says of the clocks for certain: no packet comes before it is sent."""
    if minimum_ns > -_CLOCKS_DIFFER_NS:
        return []
    return [
        f"clocks differ by at least {-minimum_ns / 1e9:.3f} s: packets arrived before they were sent; "
        "the sender's is ahead"
    ]


def two_way_clock_note(forward_ns: int, backward_ns: int) -> list[str]:
    """The same of the least delay each way, with half their difference as an estimate."""
    if min(forward_ns, backward_ns) > -_CLOCKS_DIFFER_NS:
        return []
    offset_ns = (forward_ns - backward_ns) / 2
    whose = "server" if offset_ns > 0 else "client"
    margin_ms = (forward_ns + backward_ns) / 2e6
    return [f"clocks differ by {abs(offset_ns) / 1e9:.3f} s, within {margin_ms:.3f} ms: the {whose}'s is ahead"]


_CLOCKS_DIFFER_NS = 1_000_000


def _notes(mode: PacketMode, metrics: TwoWayMetrics, records: SenderRecords, local_clock: ClockState) -> list[str]:
    notes = []
    if mode is PacketMode.AUTHENTICATED:
        notes.append(NOTE_AUTHENTICATED)
    elif mode is PacketMode.OPEN:
        notes.append(NOTE_OPEN)
    peer = metrics.peer_clock
    if peer is not None and not (peer.synchronized and local_clock.synchronized):
        notes.append(NOTE_CLOCKS)
    if metrics.forward is not None and metrics.backward is not None:
        notes += two_way_clock_note(metrics.forward.minimum, metrics.backward.minimum)
    if metrics.reflector_turnaround is not None and metrics.reflector_turnaround.maximum == 0:
        notes.append(NOTE_REFLECTOR_STAMPS)
    if metrics.reflector_turnaround is not None and metrics.reflector_turnaround.maximum > SLOW_REFLECTOR_NS:
        notes.append(
            f"the reflector took up to {metrics.reflector_turnaround.maximum / 1e9:.3f} s for a reply; 1 s is the most "
            "that RFC 6673 section 4.4 has: it may be overloaded"
        )
    if records.skipped and not metrics.sent:
        notes.append(NOTE_SKIPPED_ALL)
    if records.user_stamps:
        notes.append(NOTE_USER_STAMPS)
    if records.transmit_refused:
        notes.append(f"{NOTE_NO_TRANSMIT_STAMPS} ({records.transmit_refused})")
    if records.stopped:
        notes.append(NOTE_STOPPED)
    return notes
