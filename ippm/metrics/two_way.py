"""All metrics of a two-way session, from its records. RFC 5357; each metric names its own RFC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ippm.core.session_sender import SenderRecords
from ippm.metrics import delay, reordering
from ippm.metrics.delay_variation import inter_packet_delay_variation, packet_delay_variation
from ippm.metrics.loss_pattern import LossPattern, loss_pattern
from ippm.metrics.packet_age import measured_stamps
from ippm.metrics.reordering import Duplication, Reordering
from ippm.metrics.statistics import DelayStatistics, QuantilesWithLosses, ascending
from ippm.timestamps import ClockState


@dataclass(frozen=True, slots=True)
class TwoWayMetrics:
    """Counts are packets; delays are DelayStatistics in nanoseconds, None when no packet was answered.

    T1 is the time of sending as well as it is known: the kernel's transmit stamp where there is one.

    `lost`: sent and not answered within Timeout (RFC 7680 section 2, RFC 6673). `lost_backward_at_least`: replies that
    the reflector is known to have sent (its numbers tell) and that did not come, late ones apart; the rest was lost on
    the way there, was late, or is not known. Copies made on the way there are answered under numbers of their own: such
    an answer that is lost counts, too. `reordered`: of the whole way; `reordered_forward`: as the reflector saw
    them; `reordered_backward`: of its replies. What only the reflector's own numbers could tell is None where it has
    none (TWAMP Light).
    `reordering` (RFC 4737) and `loss_pattern` (RFC 3357) are of the whole way; IPDV is RFC 3393's, of packets that were
    sent one after the other; TTL changes are counted between packets in the order of sending.
    `round_trip_with_losses` and `round_trip_total_with_losses` are quantiles of all packets sent (RFC 2681 section 4).
    `duplication` counts replies beyond the first for a packet, wherever they were copied (RFC 5560).
    `peer_clock` is the worst state that the reflector claimed in its packets.
    """

    sent: int
    received: int
    lost: int
    lost_backward_at_least: int | None
    duplicates: int
    send_duplicates: int | None
    reflect_duplicates: int | None
    reordered: int
    reordered_forward: int | None
    reordered_backward: int | None
    round_trip: DelayStatistics | None
    round_trip_total: DelayStatistics | None
    forward: DelayStatistics | None
    backward: DelayStatistics | None
    forward_pdv: DelayStatistics | None
    backward_pdv: DelayStatistics | None
    reflector_turnaround: DelayStatistics | None
    hops_forward: tuple[int, int] | None
    hops_backward: tuple[int, int] | None
    peer_clock: ClockState | None
    round_trip_ipdv: DelayStatistics | None
    forward_ipdv: DelayStatistics | None
    backward_ipdv: DelayStatistics | None
    reordering: Reordering
    loss_pattern: LossPattern
    ttl_changes_forward: int
    ttl_changes_backward: int
    round_trip_with_losses: QuantilesWithLosses | None
    round_trip_total_with_losses: QuantilesWithLosses | None
    duplication: Duplication


def two_way_metrics(records: SenderRecords, *, numbered: bool = True) -> TwoWayMetrics:
    """The metrics of a session that has ended; `numbered`: the reflector numbered its replies."""
    sent, received = records.sent, records.received
    stamps = measured_stamps(records)
    forward, backward, round_trip = delay.forward(stamps), delay.backward(stamps), delay.round_trip(stamps)
    numbers = records.arrival_reflector_sequence
    distinct = set(numbers)
    # A reply that came late has a number, too, and which one is not kept.
    missing = max(0, max(distinct, default=-1) + 1 - len(distinct) - records.late)
    pairs = zip(numbers, records.arrivals, strict=True)
    answers = (t4 for t1, t4 in zip(records.t1, records.t4, strict=True) if t1)
    # Sequence numbers of packets that were never sent are no gap between losses.
    lost = (place for place, t4 in enumerate(answers) if not t4)
    ordered, total = ascending(round_trip), ascending(delay.round_trip_total(stamps))
    of_round_trip, of_total = DelayStatistics.of(ordered), DelayStatistics.of(total)
    replicated = reordering.replicated(records.arrivals) if records.duplicates else 0
    return TwoWayMetrics(
        sent=sent,
        received=received,
        lost=sent - received,
        lost_backward_at_least=min(sent - received, missing) if numbered else None,
        duplicates=records.duplicates,
        send_duplicates=records.send_duplicates if numbered else None,
        reflect_duplicates=records.reflect_duplicates if numbered else None,
        reordered=reordering.reordered(records.arrivals),
        reordered_forward=reordering.reordered(reordering.arrival_order(pairs)) if numbered else None,
        reordered_backward=reordering.reordered(numbers) if numbered else None,
        round_trip=of_round_trip,
        round_trip_total=of_total,
        forward=DelayStatistics.of(forward),
        backward=DelayStatistics.of(backward),
        forward_pdv=DelayStatistics.of(packet_delay_variation(forward)),
        backward_pdv=DelayStatistics.of(packet_delay_variation(backward)),
        reflector_turnaround=DelayStatistics.of(delay.reflector_turnaround(stamps)),
        hops_forward=_hops(records.reflector_ttl, records),
        hops_backward=_hops(records.reply_ttl, records),
        peer_clock=worst_clock(error for error, t4 in zip(records.reflector_error, records.t4, strict=True) if t4),
        round_trip_ipdv=_ipdv(records, round_trip),
        forward_ipdv=_ipdv(records, forward),
        backward_ipdv=_ipdv(records, backward),
        reordering=reordering.reordering(records.arrivals),
        loss_pattern=loss_pattern(lost),
        ttl_changes_forward=_changes(records.reflector_ttl, records),
        ttl_changes_backward=_changes(records.reply_ttl, records),
        round_trip_with_losses=QuantilesWithLosses.beside(of_round_trip, ordered, sent - received),
        round_trip_total_with_losses=QuantilesWithLosses.beside(of_total, total, sent - received),
        duplication=Duplication(received, records.duplicates, replicated),
    )


def _ipdv(records: SenderRecords, delays: Sequence[int]) -> DelayStatistics | None:
    """IPDV of the delays of the answered packets, which lie between those that were not."""
    answered = iter(delays)
    # What was never sent is no loss: the packet sent just before counts.
    by_number = (next(answered) if t4 else None for t1, t4 in zip(records.t1, records.t4, strict=True) if t1)
    return DelayStatistics.of(inter_packet_delay_variation(by_number))


def _changes(ttls: Sequence[int], records: SenderRecords) -> int:
    """How often the TTL of an answered packet was another than that of the one before."""
    seen = [ttl for ttl, t4 in zip(ttls, records.t4, strict=True) if t4]
    return sum(before != after for before, after in pairwise(seen))


def worst_clock(error_estimates: Iterable[int]) -> ClockState | None:
    """The worst of the states that Error Estimates claim: synchronized only if all are; the largest error."""
    states = [ClockState.from_error_estimate(value) for value in set(error_estimates)]
    if not states:
        return None
    return ClockState(
        all(state.synchronized for state in states), max(state.error_ns for state in states), "packet"
    )


def _hops(ttls: Sequence[int], records: SenderRecords) -> tuple[int, int] | None:
    """The fewest and most hops on a way, from TTLs that started at 255; None when nothing arrived."""
    seen = {ttl for ttl, t4 in zip(ttls, records.t4, strict=True) if t4}
    return (255 - max(seen), 255 - min(seen)) if seen else None
