"""Names of the IANA Performance Metrics Registry that a measurement may carry. RFC 8912 sections 4 and 5.

A registered metric fixes the stream: its interval, its payload, its Timeout. A result gets the name only when every
fixed parameter holds; otherwise it is a metric of the same kind, and has no name there.
"""

from __future__ import annotations

from dataclasses import dataclass

RT_DELAY_P95 = "RTDelay_Active_IP-UDP-Periodic_RFC8912sec4_Seconds_95Percentile"
RT_LOSS_RATIO = "RTLoss_Active_IP-UDP-Periodic_RFC8912sec4_Percent_LossRatio"
OW_PDV_P95 = "OWPDV_Active_IP-UDP-Periodic_RFC8912sec5_Seconds_95Percentile"

_INTERVAL_NS = 20_000_000
_TMAX_NS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class StreamParameters:
    """What the registry fixes of a stream. `interval_ns` is None for a stream that is not periodic."""

    payload_octets: int
    interval_ns: int | None
    timeout_ns: int
    dscp: int = 0
    ttl: int = 255


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
