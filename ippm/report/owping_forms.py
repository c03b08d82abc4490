"""Results as lines for programs, after the documentation of owping: raw (`-R`), summary (`-M`), and `-v`.

Raw, a line a packet: sequence number, send time, 1 when the sender's clock is synchronized, its error in seconds,
receive time, the receiver's two, TTL. Times are NTP stamps as decimal integers of 20 digits; the receive time of a lost
packet is 0. The summary has a tab between name and value; seconds, except for NTP stamps and LOSS_TIMEOUT, which is
32.32 fixed point. Its percentiles come from a histogram: bucket b holds the delays up to b widths, rounded away from
zero, and lost packets count as late beyond all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ippm.core.session_sender import SenderPlan, SenderRecords
from ippm.report.one_way import OneWayResult
from ippm.report.packets import (
    clock_error_s,
    crossings,
    delay_ns,
    error_s,
    first_copies,
    synchronized,
)
from ippm.report.result import RunResult
from ippm.report.text import UNITS, endpoint_words
from ippm.timestamps import ErrorEstimate, first_and_last, fixed_point_from_ns
from ippm.wire.packet_record import PacketRecord

VERSION = "3.00"
"""Of the summary, whose names these are."""


def raw_one_way(result: OneWayResult) -> Iterator[str]:
    """A line for each record, in the order of the records: copies too."""
    return map(_raw, result.measured.packets)


def raw_two_way(records: SenderRecords) -> Iterator[str]:
    """A line for each packet: the eight fields of the way there, then those of the way back.

    There is no description of owping's for two ways: this is ours. A lost packet has the first eight only.
    """
    for there, back in crossings(records):
        yield _raw(there) if back is None else f"{_raw(there)} {_raw(back)}"


def _raw(packet: PacketRecord) -> str:
    send, receive = packet.send_error, packet.receive_error
    return (
        f"{packet.sequence_number} {packet.send_timestamp:020d} {_synchronized(send)} {error_s(send):g} "
        f"{packet.receive_timestamp:020d} {_synchronized(receive)} {error_s(receive):g} {packet.ttl}"
    )


def _synchronized(error_estimate: int) -> int:
    return int(ErrorEstimate.from_int(error_estimate).synchronized)


def lines_one_way(result: OneWayResult, unit: str = "m") -> Iterator[str]:
    """A line for each record: delay and error, in `unit`."""
    for packet in result.measured.packets:
        if packet.lost:
            yield f"seq_no={packet.sequence_number:<10} *LOST*"
            continue
        clocks = "unsync"
        if synchronized(packet):
            clocks = f"sync, err={_short(clock_error_s(packet) * 1e9, unit)}"
        yield f"seq_no={packet.sequence_number:<10} delay={_short(delay_ns(packet), unit)}\t({clocks})"


def lines_two_way(records: SenderRecords, unit: str = "m") -> Iterator[str]:
    """A line for each packet: both ways, the round trip without the reflector's time, that time, the error."""
    for there, back in crossings(records):
        if back is None:
            yield f"seq_no={there.sequence_number:<10} *LOST*"
            continue
        error_ns = (clock_error_s(there) + clock_error_s(back)) * 1e9
        yield (
            f"seq_no={there.sequence_number:<10} fwd_delay={_short(delay_ns(there), unit)} "
            f"bck_delay={_short(delay_ns(back), unit)} delay={_short(delay_ns(there) + delay_ns(back), unit)} "
            f"proc_delay={_short(_in_reflector(there, back), unit)}\t(err={_short(error_ns, unit)})"
        )


def _short(nanoseconds: float, unit: str) -> str:
    factor, name = UNITS[unit]
    return f"{nanoseconds / factor:.3g} {name}"


def _in_reflector(there: PacketRecord, back: PacketRecord) -> int:
    return delay_ns(PacketRecord(0, 0, 0, there.receive_timestamp, back.send_timestamp, 0))


def machine_one_way(result: OneWayResult, width_ns: int) -> str:
    """The summary of a one-way session. The times are those of the first and of the last packet sent."""
    session, metrics = result.measured, result.metrics
    request = session.request
    packets = first_copies(session)
    head = _head(
        session.sid, result.sender, result.receiver, [packet.send_timestamp for packet in packets], request.dscp
    )
    lines = [
        *head,
        f"LOSS_TIMEOUT\t{request.timeout}",
        f"PACKET_PADDING\t{request.padding_length}",
        f"SESSION_PACKET_COUNT\t{request.number_of_packets}",
        f"SAMPLE_PACKET_COUNT\t{request.number_of_packets}",
        f"BUCKET_WIDTH\t{width_ns / 1e9:g}",
        f"SESSION_FINISHED\t{int(session.finished == 1)}",
        f"SENT\t{metrics.sent}",
        f"SYNC\t{int(all(map(synchronized, packets)))}",
        f"MAXERR\t{max(map(clock_error_s, packets), default=0.0):g}",
        f"DUPS\t{metrics.duplicates}",
        f"LOST\t{metrics.lost}",
    ]
    arrived = [packet for packet in packets if not packet.lost]
    samples = {"": [delay_ns(packet) for packet in arrived]}
    lines += [*_delays(samples, None, metrics.sent, width_ns), *_buckets(samples, width_ns)]
    lines += [*_ttls(packet.ttl for packet in arrived), "", "<NREORDERING>"]
    counts = metrics.reordering.n_reordered
    lines += [f"\t{n}\t{count}" for n, count in enumerate(counts, 1)] or ["\t1\t0"]
    return "\n".join([*lines, "</NREORDERING>"]) + "\n"


def machine_two_way(result: RunResult, plan: SenderPlan, records: SenderRecords, width_ns: int) -> str:
    """The summary of a two-way session; `_FWD` is the way there, `_BCK` back, `_PROC` the time in the reflector.

    SYNC is of what arrived. TTLs are those with which packets arrived at the reflector.
    """
    metrics = result.metrics
    packets = list(crossings(records))
    both = [(there, back) for there, back in packets if back is not None]
    errors = [(clock_error_s(there), clock_error_s(back)) for there, back in both]
    head = _head(
        result.sid, result.local, result.remote, [there.send_timestamp for there, _ in packets], result.dscp
    )
    lines = [
        *head,
        f"LOSS_TIMEOUT\t{fixed_point_from_ns(result.timeout_ns)}",
        f"PACKET_PADDING\t{plan.padding_octets}",
        f"SESSION_PACKET_COUNT\t{plan.count}",
        f"SAMPLE_PACKET_COUNT\t{plan.count}",
        f"BUCKET_WIDTH\t{width_ns / 1e9:g}",
        f"SESSION_FINISHED\t{int(not records.stopped)}",
        f"SENT\t{metrics.sent}",
        f"SYNC\t{int(all(synchronized(there) and synchronized(back) for there, back in both))}",
        f"MAXERR\t{max((sum(pair) for pair in errors), default=0.0):g}",
        f"MAXERR_FWD\t{max((forward for forward, _ in errors), default=0.0):g}",
        f"MAXERR_BCK\t{max((backward for _, backward in errors), default=0.0):g}",
        f"DUPS\t{metrics.duplicates}",
        f"LOST\t{metrics.lost}",
    ]
    samples = {
        "": [delay_ns(there) + delay_ns(back) for there, back in both],
        "_FWD": [delay_ns(there) for there, _ in both],
        "_BCK": [delay_ns(back) for _, back in both],
    }
    turns = [_in_reflector(there, back) for there, back in both]
    lines += [*_delays(samples, turns, metrics.sent, width_ns), *_buckets(samples, width_ns)]
    return "\n".join([*lines, *_ttls(there.ttl for there, _ in both), ""]) + "\n"


def _head(
    sid: bytes, sender: tuple[str, int], receiver: tuple[str, int], stamps: Sequence[int], dscp: int | None
) -> list[str]:
    lines = [f"SUMMARY\t{VERSION}", f"SID\t{sid.hex()}"]
    for name, (host, port) in (("FROM", sender), ("TO", receiver)):
        lines += [f"{name}_HOST\t{host}", f"{name}_ADDR\t{host}", f"{name}_PORT\t{port}"]
    first, last = first_and_last(stamps)
    lines += [f"START_TIME\t{first:020d}", f"END_TIME\t{last:020d}"]
    return lines if dscp is None else [*lines, f"DSCP\t0x{dscp:02x}"]


def bucket(value_ns: int, width_ns: int) -> int:
    """The bucket of a delay: in widths, rounded away from zero."""
    return -(-value_ns // width_ns) if value_ns >= 0 else value_ns // width_ns


def _delays(samples: dict[str, list[int]], turns: list[int] | None, sent: int, width_ns: int) -> Iterator[str]:
    """MIN, MEDIAN, MAX and PDV of each sample; what is undefined has no line."""
    ends = {**samples, **({} if turns is None else {"_PROC": turns})}
    yield from (f"MIN{name}\t{min(values) / 1e9:g}" for name, values in ends.items() if values)
    medians = {name: _percentile(values, 50, sent, width_ns) for name, values in samples.items()}
    yield from (f"MEDIAN{name}\t{value / 1e9:g}" for name, value in medians.items() if value is not None)
    yield from (f"MAX{name}\t{max(values) / 1e9:g}" for name, values in ends.items() if values)
    for name, values in samples.items():
        high, median = _percentile(values, 95, sent, width_ns), medians[name]
        if high is not None and median is not None:
            yield f"PDV{name}\t{(high - median) / 1e9:g}"


def _percentile(values: Sequence[int], percent: int, sent: int, width_ns: int) -> int | None:
    """The border of the bucket in which it lies; None when it lies among the packets that did not come."""
    wanted, counted = percent * sent, 0
    for number, count in sorted(Counter(bucket(value, width_ns) for value in values).items()):
        counted += count
        if 100 * counted >= wanted:
            return number * width_ns
    return None


def _buckets(samples: dict[str, list[int]], width_ns: int) -> list[str]:
    counts = [Counter(bucket(value, width_ns) for value in values) for values in samples.values()]
    numbers = sorted(set().union(*counts))
    if not numbers:
        return []
    rows = ["\t".join(["", str(number), *(str(count[number]) for count in counts)]) for number in numbers]
    return ["<BUCKETS>", *rows, "</BUCKETS>"]


def _ttls(ttls: Iterable[int]) -> list[str]:
    counts = Counter(ttls)
    if not counts:
        return []
    rows = [f"\t{ttl}\t{counts[ttl]}" for ttl in sorted(counts)]
    return [f"MINTTL\t{min(counts)}", f"MAXTTL\t{max(counts)}", "<TTLBUCKETS>", *rows, "</TTLBUCKETS>"]


def heading(result: OneWayResult | RunResult) -> str:
    """The line before the lines of `-v`."""
    if isinstance(result, RunResult):
        return f"--- twping packets from {endpoint_words(result.local)} to {endpoint_words(result.remote)} ---"
    return f"--- owping packets from {endpoint_words(result.sender)} to {endpoint_words(result.receiver)} ---"
