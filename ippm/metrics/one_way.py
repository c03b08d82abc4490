"""All metrics of a one-way session, from its packet records.

One-way delay is RFC 7679, loss RFC 7680 and 3357, delay variation RFC 3393 and 5481, reordering RFC 4737, duplication
RFC 5560. A packet that came more than once counts once, with the delay of its first copy. A copy is told by its
Sequence Number: that of a packet of the session that came before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ippm.core.fetched_session import FetchedSession
from ippm.metrics import reordering
from ippm.metrics.delay_variation import inter_packet_delay_variation, packet_delay_variation
from ippm.metrics.loss_pattern import LossPattern, loss_pattern
from ippm.metrics.reordering import Duplication, Reordering
from ippm.metrics.statistics import DelayStatistics, QuantilesWithLosses, ascending
from ippm.metrics.two_way import worst_clock
from ippm.timestamps import ClockState, first_and_last, ntp_difference_ns, unix_ns_from_ntp
from ippm.wire.packet_record import RECORD


@dataclass(frozen=True, slots=True)
class OneWayMetrics:
    """Counts are packets; delays are DelayStatistics in nanoseconds, None when no packet arrived.

    `sent` counts packets that came or were lost; those that were sent so late that neither is known do not count.
    `delay_with_losses` are quantiles of all packets sent (RFC 7679 section 5). The clock states are the worst that each
    end claimed in the session. The first and the last packet sent may be lost ones: these count with their presumed
    send times (RFC 4656 section 3.9).
    """

    sent: int
    received: int
    duplicates: int
    reordered: int
    skipped: int
    delay: DelayStatistics | None
    pdv: DelayStatistics | None
    hops: tuple[int, int] | None
    sender_clock: ClockState | None
    receiver_clock: ClockState | None
    first_sent_unix_ns: int
    last_sent_unix_ns: int
    ipdv: DelayStatistics | None
    reordering: Reordering
    loss_pattern: LossPattern
    ttl_changes: int
    delay_with_losses: QuantilesWithLosses | None
    duplication: Duplication

    @property
    def lost(self) -> int:
        """Packets that were sent and did not come within Timeout. RFC 7680 section 2."""
        return self.sent - self.received


def one_way_metrics(session: FetchedSession) -> OneWayMetrics:
    """The metrics of a session."""
    arrivals: list[int] = []
    first: dict[int, tuple[int, int, int]] = {}
    lost: dict[int, int] = {}
    send_errors: set[int] = set()
    receive_errors: set[int] = set()
    for sequence, send_error, receive_error, sent, received, ttl in RECORD.iter_unpack(session.records):
        if not received:
            lost[sequence] = sent
            continue
        arrivals.append(sequence)
        send_errors.add(send_error)
        receive_errors.add(receive_error)
        if sequence not in first:
            first[sequence] = sent, received, ttl
    delays = [ntp_difference_ns(received, sent) for sent, received, _ in first.values()]
    ttls = {ttl for _, _, ttl in first.values()}
    really_lost = sorted(lost.keys() - first.keys())
    in_order = sorted(first.keys() | set(really_lost))
    departures = first_and_last(first[number][0] if number in first else lost[number] for number in in_order)
    first_sent, last_sent = map(unix_ns_from_ntp, departures) if in_order else (0, 0)
    delay_of = dict(zip(first, delays, strict=True))
    copies = len(arrivals) - len(first)
    ordered = ascending(delays)
    of_delay = DelayStatistics.of(ordered)
    return OneWayMetrics(
        sent=len(first) + len(really_lost),
        received=len(first),
        duplicates=copies,
        reordered=reordering.reordered(arrivals),
        skipped=sum(last - begin + 1 for begin, last in session.skip_ranges),
        delay=of_delay,
        pdv=DelayStatistics.of(packet_delay_variation(delays)),
        hops=(255 - max(ttls), 255 - min(ttls)) if ttls else None,
        sender_clock=_worst(send_errors),
        receiver_clock=_worst(receive_errors),
        first_sent_unix_ns=first_sent,
        last_sent_unix_ns=last_sent,
        ipdv=DelayStatistics.of(inter_packet_delay_variation(delay_of.get(number) for number in in_order)),
        reordering=reordering.reordering(arrivals),
        # Sequence numbers of packets that were never sent are no gap between losses.
        loss_pattern=loss_pattern(place for place, number in enumerate(in_order) if number not in first),
        ttl_changes=sum(
            before != after for before, after in pairwise(first[number][2] for number in sorted(first))
        ),
        delay_with_losses=QuantilesWithLosses.beside(of_delay, ordered, len(really_lost)),
        duplication=Duplication(len(first), copies, reordering.replicated(arrivals) if copies else 0),
    )


def _worst(error_estimates: Iterable[int]) -> ClockState | None:
    return worst_clock(error_estimates)
