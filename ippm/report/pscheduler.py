"""A one-way result as an object after the schema of pScheduler's latency test.

`max-clock-error` is in milliseconds; the keys of `histogram-latency` are delays divided by the bucket width, to two
decimals; the stamps of `raw-packets` are NTP's, their clock errors seconds, which the schema does not say.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ippm.report.one_way import OneWayResult
from ippm.report.packets import clock_error_s, delay_ns, error_s, first_copies
from ippm.timestamps import ErrorEstimate
from ippm.wire.packet_record import PacketRecord


def latency_result(result: OneWayResult, width_ns: int, *, raw: bool = False) -> dict[str, Any]:
    """The object; `raw` adds the packets that arrived, copies too, in the order of arrival."""
    metrics = result.metrics
    arrived = [packet for packet in first_copies(result.measured) if not packet.lost]
    latency = Counter(hundredths(delay_ns(packet), width_ns) for packet in arrived)
    ttls = Counter(packet.ttl for packet in arrived)
    made: dict[str, Any] = {
        "schema": 1,
        "succeeded": True,
        "packets-sent": metrics.sent,
        "packets-received": metrics.received,
        "packets-lost": metrics.lost,
        "packets-duplicated": metrics.duplicates,
        "packets-reordered": metrics.reordered,
        "max-clock-error": round(1000 * max(map(clock_error_s, arrived), default=0.0), 6),
        "histogram-latency": {f"{key / 100:.2f}": latency[key] for key in sorted(latency)},
        "histogram-ttl": {str(ttl): ttls[ttl] for ttl in sorted(ttls)},
    }
    if raw:
        made["raw-packets"] = [_raw(packet) for packet in result.measured.packets if not packet.lost]
    return made


def hundredths(value_ns: int, width_ns: int) -> int:
    """A delay in hundredths of the bucket width, to the nearest."""
    return (200 * value_ns + width_ns) // (2 * width_ns)


def _raw(packet: PacketRecord) -> dict[str, Any]:
    made: dict[str, Any] = {"seq-num": packet.sequence_number}
    ends = (
        ("src", packet.send_timestamp, packet.send_error),
        ("dst", packet.receive_timestamp, packet.receive_error),
    )
    for end, stamp, error in ends:
        made[f"{end}-ts"] = stamp
        made[f"{end}-clock-sync"] = ErrorEstimate.from_int(error).synchronized
        made[f"{end}-clock-err"] = error_s(error)
    return {**made, "ip-ttl": packet.ttl}
