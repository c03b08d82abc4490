"""What the stamps of a result are worth: who took them, how far they may be from the events, and how old packets were.

Three levels of accuracy: stamps of the program at both ends of the wait (`user`), receive stamps of the kernel, and
transmit stamps of the kernel, too. Where only some packets have a transmit stamp (`mixed`, at high rates), the others'
own stamps are put forward by the running median age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ippm.metrics.packet_age import packet_ages
from ippm.metrics.statistics import DelayStatistics

KERNEL_ERROR_NS = 1_000
"""A software stamp of the kernel is taken as the packet passes the driver; what is beyond that is not known."""

TRANSMIT_ERROR_NS = 20_000
"""A program's transmit stamp, where the kernel does not say how old it was: measured on an idle path, with a margin."""

RECEIVE_ERROR_NS = 100_000
"""A program's receive stamp: the time until it was scheduled is in it. Of a program that waits on an idle machine."""


@dataclass(frozen=True, slots=True)
class StampReport:
    """`transmit` and `receive` are `kernel`, `user`, or `mixed`. `stamped` counts packets with a transmit stamp.

    `error_ns` is how far the stamps of our end may be from the events, beside the error of the clock. `packet_age` is
    how old the stamp in a packet was when the kernel sent it; `send_error` is how much later than scheduled the
    program sent it; nanoseconds. `refused` says why the kernel stamped nothing.
    """

    transmit: str = "user"
    receive: str = "kernel"
    stamped: int = 0
    error_ns: int = TRANSMIT_ERROR_NS
    packet_age: DelayStatistics | None = None
    send_error: DelayStatistics | None = None
    refused: str = ""

    @classmethod
    def of(
        cls,
        packet_stamps: Sequence[int],
        departures: Sequence[int],
        send_errors: Iterable[int],
        *,
        receive: str = "kernel",
        refused: str = "",
    ) -> Self:
        """Of the stamps in packets and the kernel's transmit stamps of the same packets, NTP, 0 for none."""
        ages = DelayStatistics.of(packet_ages(packet_stamps, departures))
        sent = len(packet_stamps) - sum(not stamp for stamp in packet_stamps)
        stamped = 0 if ages is None else ages.count
        transmit = "user" if not stamped else "kernel" if stamped == sent else "mixed"
        error_ns = TRANSMIT_ERROR_NS
        if ages is not None:
            error_ns = KERNEL_ERROR_NS
            if transmit == "mixed":
                error_ns += max(ages.p99 - ages.median, ages.median - ages.minimum)
        if receive in ("user", "mixed"):
            error_ns += RECEIVE_ERROR_NS
        return cls(transmit, receive, stamped, error_ns, ages, DelayStatistics.of(send_errors), refused)

    def to_dict(self) -> dict[str, Any]:
        """The `stamps` of a JSON report of which we are the sender."""
        return {
            "local_transmit": self.transmit,
            "local_receive": self.receive,
            "transmit_stamped": self.stamped,
            "error_ns": self.error_ns,
            "packet_age": None if self.packet_age is None else self.packet_age.to_dict(),
            "transmit_refused": self.refused or None,
        }


NO_STAMP_REPORT = StampReport()
