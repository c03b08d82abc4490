"""The result as text for a person, in the manner of twping; delays in milliseconds, from integer nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ippm.metrics.loss_pattern import LossPattern
from ippm.metrics.marking import Marking
from ippm.metrics.reordering import Duplication, Reordering
from ippm.metrics.statistics import DelayStatistics, QuantilesWithLosses
from ippm.metrics.two_way import TwoWayMetrics
from ippm.report.stamps import StampReport
from ippm.timestamps import ClockState

if TYPE_CHECKING:
    from ippm.report.result import RunResult

LINES_SHOWN = 10
"""n-reordering beyond this n is not in texts."""


UNITS = {"n": (1, "ns"), "u": (1_000, "us"), "m": (1_000_000, "ms"), "s": (1_000_000_000, "s")}
"""The letters for units of time: their nanoseconds, and what is printed."""


def format_result(result: RunResult, unit: str = "m") -> str:
    """Some twenty lines, the last with a line end; `unit` is a letter of UNITS."""
    metrics = result.metrics
    percent = loss_percent(metrics.lost, metrics.sent)
    lines = [
        f"--- twping statistics from {endpoint_words(result.local)} to {endpoint_words(result.remote)} ---",
        f"SID:   {result.sid.hex()}",
        f"mode:  {result.mode}"
        + (f", with {result.features}" if result.features else "")
        + (f", path: {result.path}" if result.path else ""),
        f"first: {time_words(result.first_sent_unix_ns)}",
        f"last:  {time_words(result.last_sent_unix_ns)}",
        result.stream.line(unit),
        f"{metrics.sent} sent, {metrics.lost} lost ({percent}), {_duplicates(metrics)}, {metrics.reordered} reordered",
        delay_words("round-trip time", metrics.round_trip, unit),
        *with_losses_words(metrics.round_trip_with_losses, metrics.lost, unit),
        directional_words("send time", metrics.forward, result.clock_error_ns, result.clocks_synchronized, unit),
        directional_words(
            "reflect time", metrics.backward, result.clock_error_ns, result.clocks_synchronized, unit
        ),
        delay_words("reflector processing time", metrics.reflector_turnaround, unit),
        jitter_words("send jitter", metrics.forward, unit),
        jitter_words("reflect jitter", metrics.backward, unit),
        hops_words("send hops", metrics.hops_forward),
        hops_words("reflect hops", metrics.hops_backward),
        *marking_words("send", result.dscp, result.marked_forward),
        *marking_words("reflect", result.dscp, result.marked_backward),
        *reordering_words(metrics.reordering),
        *loss_words(metrics.loss_pattern),
        f"clocks: here {clock_words(result.local_clock, unit)}; there {clock_words(result.peer_clock, unit)}",
        *stamp_words(result.stamps, unit),
    ]
    unusual = {"skipped": result.skipped, "late": result.late, "send failed": result.send_failed}
    for name, count in (unusual | result.rejected).items():
        if count:
            lines.append(f"{name.replace('_', ' ')}: {count}")
    lines += [f"{value} is {name}" for value, name in result.registry_names.items()]
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def _duplicates(metrics: TwoWayMetrics) -> str:
    words = f"{metrics.duplicates} duplicates"
    if metrics.send_duplicates is not None:
        words = f"{metrics.send_duplicates} send duplicates, {metrics.reflect_duplicates} reflect duplicates"
    return words + replicated_words(metrics.duplication)


def replicated_words(duplication: Duplication) -> str:
    """Of how many packets there were copies; nothing where there was none. RFC 5560."""
    return f" of {duplication.replicated} packets" if duplication.copies else ""


def milliseconds(nanoseconds: int) -> str:
    """Nanoseconds as milliseconds with all their digits that matter: 12345678 is `12.346`, 1234 is `0.00123`."""
    return in_unit(nanoseconds, "m")


def in_unit(nanoseconds: int, unit: str) -> str:
    """The same in another unit, a letter of UNITS: 1234 is `1.234` in microseconds."""
    value = nanoseconds / UNITS[unit][0]
    if unit == "n":
        return f"{nanoseconds}"
    return f"{value:.3f}" if abs(value) >= 1 else f"{value:.3g}"


def loss_percent(lost: int, sent: int) -> str:
    return f"{100 * lost / sent:.3f}%" if sent else "-"


def delay_words(name: str, statistics: DelayStatistics | None, unit: str = "m") -> str:
    if statistics is None:
        return f"{name}: no packet was answered"
    values = (statistics.minimum, statistics.median, statistics.p95, statistics.p99, statistics.maximum)
    return f"{name} min/median/p95/p99/max = {'/'.join(in_unit(value, unit) for value in values)} {UNITS[unit][1]}"


def with_losses_words(quantiles: QuantilesWithLosses | None, lost: int, unit: str = "m") -> list[str]:
    """The line for quantiles of all packets sent; none where nothing was lost, as they are those that were told."""
    if quantiles is None or not lost:
        return []
    values = (quantiles.median, quantiles.p95, quantiles.p99)
    words = "/".join("undefined" if value is None else in_unit(value, unit) for value in values)
    return [
        f"  with lost packets as infinitely late (RFC 7679 section 5): median/p95/p99 = {words} {UNITS[unit][1]}"
    ]


def directional_words(
    name: str, statistics: DelayStatistics | None, error_ns: int | None, synchronized: bool, unit: str = "m"
) -> str:
    """A delay between two clocks, with what they say of themselves beside it."""
    words = delay_words(name, statistics, unit)
    if statistics is None or error_ns is None:
        return words
    state = "" if synchronized else "clocks NOT synchronized, "
    return f"{words} ({state}err={in_unit(error_ns, unit)} {UNITS[unit][1]})"


def stamp_words(stamps: StampReport, unit: str = "m") -> list[str]:
    """Who took the stamps of our end, how old packets' own stamps were, and how late packets were sent."""
    name = UNITS[unit][1]
    received = f", received by the {_WHO[stamps.receive]}" if stamps.receive in _WHO else ""
    lines = [
        f"stamps: sent by the {_WHO[stamps.transmit]}{received}, error {in_unit(stamps.error_ns, unit)} {name}"
    ]
    for what, statistics in (
        ("a packet's own stamp was older than its departure by", stamps.packet_age),
        ("sent late by", stamps.send_error),
    ):
        if statistics is not None:
            values = "/".join(
                in_unit(value, unit) for value in (statistics.median, statistics.p99, statistics.maximum)
            )
            lines.append(f"{what} median/p99/max = {values} {name}")
    return lines


_WHO = {"kernel": "kernel", "user": "program", "mixed": "kernel in part"}


def jitter_words(name: str, statistics: DelayStatistics | None, unit: str = "m") -> str:
    if statistics is None:
        return f"{name}: unknown"
    return f"{name} = {in_unit(statistics.p95 - statistics.median, unit)} {UNITS[unit][1]} (P95-P50)"


def percentile_lines(values: Sequence[int], parts_per_million: Sequence[int], unit: str = "m") -> list[str]:
    """Percentiles of the delays of the packets that arrived, after the documentation of owping; none for none."""
    if not parts_per_million:
        return []
    ordered = sorted(values)
    lines = ["Percentiles:"]
    for ppm in parts_per_million:
        words = f"{in_unit(quantile(ordered, ppm), unit)} {UNITS[unit][1]}" if ordered else "nan"
        lines.append(f"\t{ppm / 10_000:.1f}: {words}" if ppm % 1000 == 0 else f"\t{ppm / 10_000:g}: {words}")
    return lines


def quantile(ordered: Sequence[int], ppm: int) -> int:
    """The smallest x with F(x) >= ppm / 1,000,000, of values in ascending order; the least for 0."""
    return ordered[max(0, -(-ppm * len(ordered) // 1_000_000) - 1)]


def hops_words(name: str, hops: tuple[int, int] | None) -> str:
    if hops is None:
        return f"{name}: unknown"
    return f"{name} = {hops[0]} (consistently)" if hops[0] == hops[1] else f"{name} = {hops[0]} to {hops[1]}"


def marking_words(name: str, sent_dscp: int, marked: tuple[Marking, ...] | None) -> list[str]:
    """With which DSCP and ECN packets arrived; no line where that was not monitored."""
    if marked is None:
        return []
    words = [f"DSCP {one.dscp} ECN {one.ecn} in {one.packets}" for one in marked] or ["no packet was answered"]
    return [f"{name} marking (sent with DSCP {sent_dscp} ECN 0): {', '.join(words)}"]


def reordering_words(found: Reordering) -> list[str]:
    """n-reordering in the manner of owping: for each n the share of packets. RFC 4737 section 5."""
    if not found.reordered:
        return ["no reordering"]
    lines = [f"{found.reordered} reordered, extent up to {max(found.extents)}"]
    shown = found.n_reordered[:LINES_SHOWN]
    lines += [f"{n}-reordering = {loss_percent(count, found.received)}" for n, count in enumerate(shown, 1)]
    return lines


def loss_words(pattern: LossPattern) -> list[str]:
    """How losses are spread; no line where there are none. RFC 3357."""
    if not pattern.periods:
        return []
    return [f"loss periods: {pattern.periods}, the longest of {max(pattern.period_lengths)} packets"]


def clock_words(state: ClockState | None, unit: str = "m") -> str:
    if state is None:
        return "unknown"
    word = "synchronized" if state.synchronized else "NOT synchronized"
    return f"{word}, error estimate {in_unit(state.error_ns, unit)} {UNITS[unit][1]}"


def endpoint_words(endpoint: tuple[str, int]) -> str:
    host, port = endpoint
    return f"[{host}]:{port}"


def time_words(unix_ns: int) -> str:
    if not unix_ns:
        return "-"
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
