"""The Session-Sender of a session without an end, sans-IO: records by period, each given away when it is complete.

A packet belongs to the period in which it was sent. A period is complete Timeout (and `LINGER_NS`, for replies that
have come and were not read yet) after its end: only then is it known what of it was lost. So the records of as many
periods are kept as Timeout is long, and one more; nothing else grows with the time that the session runs.
Time is the caller's: nanoseconds since the start of the session on a clock that never goes back.

RFC 5357 section 3.5 does not tell the server how many packets a session has, and section 3.8 ends it when the
Control-Client wants; so one session serves until its sequence numbers are used up (32 bits, RFC 4656 section 4.1.2).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ippm.core.session_sender import SenderPlan, SenderRecords, SessionSender
from ippm.errors import LocalProtocolError

LINGER_NS = 100_000_000
"""How long a period is kept beyond Timeout, so that replies are taken that wait in the socket."""

_GROWTH = 64


@dataclass(frozen=True, slots=True)
class Period:
    """The packets that were sent in one period. `index` counts periods from 0, those without a packet too.

    Element *i* of `records` is the packet with the Sequence Number `first_sequence + i`. `start_ns` and `end_ns` are
    since the start of the session; of the last period `end_ns` is when sending stopped.
    """

    index: int
    start_ns: int
    end_ns: int
    first_sequence: int
    records: SenderRecords = field(repr=False)


class RollingSender(SessionSender):
    """A SessionSender that is told the time (`tick`) and gives back periods that are complete."""

    def __init__(self, plan: SenderPlan, padding_source: bytes = b"", *, period_ns: int) -> None:
        if period_ns <= 0:
            raise LocalProtocolError("a period is longer than nothing")
        super().__init__(plan, padding_source, SenderRecords(0))
        self.period_ns = period_ns
        self._open: deque[Period] = deque([Period(0, 0, period_ns, 0, self.records)])
        self._next_sequence = 0

    @property
    def open_periods(self) -> int:
        """How many periods have records here."""
        return len(self._open)

    @property
    def completes_at(self) -> int:
        """The elapsed time at which `tick` gives away the next period."""
        return self._open[0].end_ns + self.plan.timeout_ns + LINGER_NS

    def tick(self, elapsed_ns: int) -> list[Period]:
        """What packets are sent from now on belongs to the period of this time; what became complete by now."""
        while elapsed_ns >= self._open[-1].end_ns:
            last = self._open[-1]
            refused = self.records.transmit_refused
            self.records = SenderRecords(0)
            self.records.transmit_refused = refused
            self._open.append(
                Period(last.index + 1, last.end_ns, last.end_ns + self.period_ns, self._next_sequence, self.records)
            )
        keep_ns = self.plan.timeout_ns + LINGER_NS
        complete = []
        while self._open[0].end_ns + keep_ns <= elapsed_ns:
            complete.append(self._give_away())
        return complete

    def finish(self, elapsed_ns: int) -> list[Period]:
        """What is left, at the end; the last period ends now if not before."""
        left = []
        while self._open:
            period = self._give_away()
            if period.start_ns < elapsed_ns or period.records.count or not period.index:
                end_ns = max(period.start_ns, min(period.end_ns, elapsed_ns))
                left.append(Period(period.index, period.start_ns, end_ns, period.first_sequence, period.records))
        return left

    def _give_away(self) -> Period:
        period = self._open.popleft()
        used = self._next_sequence - period.first_sequence
        if self._open:
            used = self._open[0].first_sequence - period.first_sequence
        period.records.shrink(used)
        # What is lost is not waited for any longer.
        self._sent -= period.records.sent
        self._received -= period.records.received
        return period

    def skip(self, sequence: int) -> None:
        """Notes that a packet is not sent: its time is further in the past than Timeout."""
        records, index = self._new_element(sequence)
        records.skipped.append(index)  # rfc4656-s4.1.1-03

    def _new_element(self, sequence: int) -> tuple[SenderRecords, int]:
        period = self._open[-1]
        index = sequence - period.first_sequence
        if index >= period.records.count:
            period.records.grow(max(_GROWTH, period.records.count, index + 1 - period.records.count))
        self._next_sequence = max(self._next_sequence, sequence + 1)
        return period.records, index

    def _element(self, sequence: int) -> tuple[SenderRecords, int] | None:
        for period in reversed(self._open):
            index = sequence - period.first_sequence
            if index >= 0:
                known = index < period.records.count and period.records.t1[index]
                return (period.records, index) if known else None
        return None
