"""Results as CSV (RFC 4180) and as OpenMetrics text (version 1.0.0 of its text format)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ippm.report.one_way import OneWayResult
from ippm.report.result import RunResult

_STATISTICS = ("count", "minimum_ns", "median_ns", "p95_ns", "p99_ns", "p999_ns", "maximum_ns", "mean_ns")
_COUNTS = ("sent", "received", "lost", "duplicates", "reordered", "skipped")
_SAMPLES = {
    RunResult: ("delay", "forward", "backward", "ipdv", "reflector_turnaround"),
    OneWayResult: ("delay", "pdv", "ipdv", "send_error"),
}
_NAMES = {"delay": "round_trip_delay", "forward": "forward_delay", "backward": "backward_delay"}
Result = OneWayResult | RunResult


def csv_table(results: Sequence[Result]) -> str:
    """A line of names and one line a result; nanoseconds, and nothing between the commas where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text)
    for number, result in enumerate(results):
        row = _row(result)
        if not number:
            writer.writerow(row)
        writer.writerow(row.values())
    return text.getvalue()


def _row(result: Result) -> dict[str, Any]:
    fields = result.to_dict()
    source, destination = _ends(result)
    row: dict[str, Any] = {
        "sid": fields["sid"],
        "direction": fields.get("direction", "both"),
        "mode": fields["mode"],
        "path": fields["path"],
        "source_address": source[0],
        "source_port": source[1],
        "destination_address": destination[0],
        "destination_port": destination[1],
        "first_sent_unix_ns": fields["first_sent_unix_ns"],
        "last_sent_unix_ns": fields["last_sent_unix_ns"],
        "payload_octets": result.stream.payload_octets,
        "dscp": result.stream.dscp,
        "schedule": result.stream.schedule_text(),
        "timeout_ns": result.stream.timeout_ns,
        **{name: fields[name] for name in _COUNTS},
        "replicated": fields["duplication"]["replicated"],
        "clocks_synchronized": int(result.clocks_synchronized),
        "clock_error_ns": result.clock_error_ns,
    }
    for sample in _SAMPLES[type(result)]:
        statistics = fields[sample] or {}
        row.update({f"{sample}_{name}": statistics.get(name) for name in _STATISTICS})
    return row


def _ends(result: Result) -> tuple[tuple[str, int], tuple[str, int]]:
    if isinstance(result, RunResult):
        return result.local, result.remote
    return result.sender, result.receiver


def openmetrics(results: Sequence[Result]) -> str:
    """Gauges, since they are of one measurement that is over; the labels tell the results apart.

    Delays have the label `statistic`: a summary of OpenMetrics may not be negative, and a delay between two clocks may.
    """
    families = _Families()
    for result in results:
        _add(families, result)
    return families.text()


class _Families:
    """Metric families, each with its samples together, as the text form wants it."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(
        self, name: str, help_text: str, unit: str, labels: dict[str, str], value: str, kind: str = "gauge"
    ) -> None:
        lines = self._families.setdefault(name, [f"# TYPE {name} {kind}"])
        if len(lines) == 1:
            lines += [f"# UNIT {name} {unit}"] if unit else []
            lines.append(f"# HELP {name} {help_text}")
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{'_info' if kind == 'info' else ''}{{{inside}}} {value}")

    def text(self) -> str:
        lines = [line for family in self._families.values() for line in family]
        return "\n".join([*lines, "# EOF"]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _add(families: _Families, result: Result) -> None:
    fields = result.to_dict()
    (source, _), (destination, _) = _ends(result)
    ways = "two" if isinstance(result, RunResult) else "one"
    labels = {"source": source, "destination": destination, "sid": fields["sid"]}
    stream = result.stream
    about = {
        **labels,
        "mode": fields["mode"],
        "path": fields["path"] or "",
        "ways": ways,
        "payload_octets": "" if stream.payload_octets is None else str(stream.payload_octets),
        "dscp": "" if stream.dscp is None else str(stream.dscp),
        "schedule": stream.schedule_text(),
        "timeout_seconds": seconds(stream.timeout_ns),
    }
    families.add("ippm_session", "The measurement session.", "", about, "1", "info")
    for name in _COUNTS:
        family = f"ippm_{name}_packets"
        families.add(family, f"Packets of the session: {name}.", "packets", labels, str(fields[name]))
    copied = str(fields["duplication"]["replicated"])
    families.add(
        "ippm_replicated_packets", "Packets that arrived more than once (RFC 5560).", "packets", labels, copied
    )
    if result.sent:
        ratio = f"{result.lost / result.sent:.9g}"
        families.add("ippm_loss_ratio", "Packets lost of those sent.", "ratio", labels, ratio)
    for name in _SAMPLES[type(result)]:
        family = f"ippm_{_NAMES.get(name, name) if ways == 'two' else f'one_way_{name}'}_seconds"
        for statistic, value in (fields[name] or {}).items():
            if statistic.endswith("_ns"):
                told = {**labels, "statistic": statistic.removesuffix("_ns")}
                families.add(family, f"Statistics of {name}.".replace("_", " "), "seconds", told, seconds(value))
    _add_clocks(families, fields, labels)
    for name in ("first_sent", "last_sent"):
        if value := fields[f"{name}_unix_ns"]:
            family = f"ippm_{name}_timestamp_seconds"
            help_text = f"When the {name.removesuffix('_sent')} packet was sent, Unix time."
            families.add(family, help_text, "seconds", labels, seconds(value))


def _add_clocks(families: _Families, fields: dict[str, Any], labels: dict[str, str]) -> None:
    ends = {end: state for end, state in fields["clock"].items() if isinstance(state, dict)}
    for end, state in ends.items():
        told = {**labels, "end": end}
        families.add(
            "ippm_clock_synchronized",
            "1 when the clock is synchronized.",
            "",
            told,
            str(int(state["synchronized"])),
        )
        families.add(
            "ippm_clock_error_seconds",
            "The error estimate of the clock.",
            "seconds",
            told,
            seconds(state["error_ns"]),
        )


def seconds(nanoseconds: int) -> str:
    """Nanoseconds as seconds, every digit: -1500000000 is `-1.5`."""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    digits = f"{rest:09d}".rstrip("0")
    return f"{'-' if nanoseconds < 0 else ''}{whole}" + (f".{digits}" if digits else "")
