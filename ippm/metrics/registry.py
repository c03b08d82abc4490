"""Names of the IANA Performance Metrics Registry that a measurement may carry. RFC 8912 sections 4, 5, 7 and 8.

A registered metric fixes the stream: its interval, its payload, its Timeout. A result gets the name only when every
fixed parameter holds; otherwise it is a metric of the same kind, and has no name there.

Sections 7 and 8 have the sender's format of RFC 5357 section 4.1.2 as their payload, which is that of OWAMP: the names
apply to the one-way sessions of both protocols. The values are in seconds and per cent there, in nanoseconds and counts
in our reports.
"""

from __future__ import annotations

from dataclasses import dataclass

RT_DELAY_P95 = "RTDelay_Active_IP-UDP-Periodic_RFC8912sec4_Seconds_95Percentile"
RT_LOSS_RATIO = "RTLoss_Active_IP-UDP-Periodic_RFC8912sec4_Percent_LossRatio"
OW_PDV_P95 = "OWPDV_Active_IP-UDP-Periodic_RFC8912sec5_Seconds_95Percentile"

OW_POISSON = "OW{}_Active_IP-UDP-Poisson-Payload250B_RFC8912sec7_{}"
OW_PERIODIC = "OW{}_Active_IP-UDP-Periodic20m-Payload142B_RFC8912sec8_{}"
_OW_VALUES = {
    "delay.p95_ns": ("Delay", "Seconds_95Percentile"),
    "delay.mean_ns": ("Delay", "Seconds_Mean"),
    "delay.minimum_ns": ("Delay", "Seconds_Min"),
    "delay.maximum_ns": ("Delay", "Seconds_Max"),
    "delay.standard_deviation_ns": ("Delay", "Seconds_StdDev"),
    "lost": ("Loss", "Percent_LossRatio"),
}

_INTERVAL_NS = 20_000_000
POISSON_MEAN_NS = 1_000_000_000
_POISSON_TRUNC_NS = 30_000_000_000
_TMAX_NS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class StreamParameters:
    """What the registry fixes of a stream. `interval_ns` is None for a stream that is not periodic.

    `poisson_mean_ns` is None for one that is not a Poisson stream; of such, `longest_ns` is the longest interval.
    """

    payload_octets: int
    interval_ns: int | None
    timeout_ns: int
    dscp: int = 0
    ttl: int = 255
    poisson_mean_ns: int | None = None
    longest_ns: int = 0


def registry_names(stream: StreamParameters) -> dict[str, str]:
    """Registered names by the name of the value in our results; empty when a fixed parameter differs.

    The registered round-trip delay is T4 - T1, with the reflector's time. RFC 8912 sections 4.2.2, 4.3.2, 5.2.2, 5.3.2.
    """
    periodic = stream.interval_ns == _INTERVAL_NS and stream.timeout_ns == _TMAX_NS
    if not periodic or stream.dscp != 0 or stream.ttl != 255:
        return {}
    if stream.payload_octets == 100:
        return {"round_trip_total.p95_ns": RT_DELAY_P95, "lost": RT_LOSS_RATIO}
    if stream.payload_octets == 200:
        return {"forward_pdv.p95_ns": OW_PDV_P95, "backward_pdv.p95_ns": OW_PDV_P95}
    return {}


def one_way_registry_names(stream: StreamParameters) -> dict[str, str]:
    """Registered names of a one-way session by the name of the value; empty when a fixed parameter differs.

    An interval longer than Trunc, 30 s, would be cut to it in the registered stream, and is not in ours.
    RFC 8912 sections 7.2.2, 7.3.2, 8.2.2, 8.3.2.
    """
    if stream.timeout_ns != _TMAX_NS or stream.dscp != 0 or stream.ttl != 255:
        return {}
    if stream.interval_ns == _INTERVAL_NS and stream.payload_octets == 142:
        pattern = OW_PERIODIC
    elif (
        stream.poisson_mean_ns == POISSON_MEAN_NS
        and stream.longest_ns <= _POISSON_TRUNC_NS
        and stream.payload_octets == 250
    ):
        pattern = OW_POISSON
    else:
        return {}
    return {value: pattern.format(*words) for value, words in _OW_VALUES.items()}
