"""The Session-Sender's loop: one thread that sends on time and, between sends, takes the replies.

One thread and not two: a second one would fight it for the interpreter just when a packet is due. Nothing is lost by
it, since replies are stamped by the kernel when they arrive, not when they are read. Each packet is paced and stamped
on its own, the stamp taken last (rfc4656-s4.1.1-06, rfc5357-s4.1.1-01). The time of a packet is absolute: a late one
does not make the next one late.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable

from ippm.core.session_sender import SenderPlan, SenderRecords, SessionSender
from ippm.io.clock import SystemClock, now_ntp
from ippm.io.pacing import (
    SPIN_NS,
    StopSignal,
    Waiter,
    exact_timers,
    no_collections,
    spin_until,
)
from ippm.io.realtime import realtime
from ippm.io.replies import CONTROL_LEAST_OCTETS, CONTROL_MOST_OCTETS, make_replies
from ippm.io.test_socket import resolved
from ippm.io.transmit_stamps import DEFAULT_STAMPS, OwnStamps, StampOptions
from ippm.timestamps import ntp_difference_ns

LEAD_NS = 200_000
"""From the call to the first packet when the plan says "at once"."""

TAKE_COST_NS = 2_000
"""What it costs to take a reply out of the socket: with less time than this before a packet is due, none is taken."""

READ_COST_NS = 8_000
"""What it costs to look at a reply, or at a transmit stamp."""

MOST_WITHOUT_TAKING = 8
"""After so many packets replies are taken even though no time is left for it."""

MOST_UNREAD_OCTETS = 192 << 20
"""With more octets than this in replies that were taken and not looked at, these are looked at whatever is late."""

UNREAD_OCTETS = 256
"""What such a reply takes beside its own octets, at most."""

STOP_CHECK_NS = 100_000_000
"""How often a stop that cannot wake us up is asked for."""

NO_COLLECTIONS_NS = 600_000_000_000
"""Garbage collection is off during sessions up to this long; beyond it, the rest of the process needs it."""

_TRANSIENT = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EPERM,
        errno.ENOPROTOOPT,
        errno.EPROTO,
        errno.EINTR,
    }
)

_BATCH = 32
_STAMPS_WAIT_NS = 2_000_000
"""How long the transmit stamps of the last packets are waited for, at the end."""


def run_sender(
    plan: SenderPlan,
    sock: socket.socket,
    stop: StopSignal | Callable[[], bool] | None = None,
    clock: SystemClock | None = None,
    *,
    io: str = "auto",
    stamps: StampOptions = DEFAULT_STAMPS,
    in_realtime: bool = False,
) -> SenderRecords:
    """Runs a session to its end in the calling thread, and gives its records.

    It ends Timeout after the last packet, or as soon as every packet is answered, or when `stop` says so (a
    StopSignal ends it at once, a plain callable within 0.1 s). `sock` comes from `open_test_socket`; it is connected to
    `plan.remote` and stays open. `io` is a way of `ippm.io.batch`. OSError only for what makes sending impossible (a
    message too long, no route); ConfigurationError when `in_realtime` is not permitted.
    """
    loop = SenderLoop(SessionSender(plan, padding_of(plan)), sock, stop, clock or SystemClock(), io, stamps)
    lasts_ns = plan.schedule.offset_ns(plan.count - 1) if plan.count else 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(exact_timers())
        if lasts_ns <= NO_COLLECTIONS_NS:
            stack.enter_context(no_collections())
        if in_realtime:
            stack.enter_context(realtime())
        loop.run()
    return loop.session.records


def padding_of(plan: SenderPlan) -> bytes:
    """Octets for the padding of a session's packets, pseudo-random and drawn for it alone."""
    # rfc4656-s4.1.2-08, rfc5357-s4.2.1-06
    return b"" if plan.zero_padding or not plan.padding_octets else os.urandom(plan.padding_octets + 4096)


class SenderLoop:
    """The loop itself; `run` returns at the end of the session."""

    def __init__(
        self,
        session: SessionSender,
        sock: socket.socket,
        stop: StopSignal | Callable[[], bool] | None,
        clock: SystemClock,
        io: str,
        stamps: StampOptions = DEFAULT_STAMPS,
    ) -> None:
        self.session = session
        self._plan = session.plan
        self._sock = sock
        self._stop = stop
        self._clock = clock
        stop_fd = stop.fileno() if isinstance(stop, StopSignal) else -1
        self._slice_ns = STOP_CHECK_NS if stop is not None and stop_fd < 0 else None
        self._waiter = Waiter(sock.fileno(), stop_fd)
        layout = session.plan.layout
        sock.connect(resolved(sock.family, *self._plan.remote))
        sock.setblocking(True)
        self._stamps = OwnStamps(sock, stamps, clock, session.note_departure)
        session.records.transmit_refused = self._stamps.refused
        longest = layout.reflector_octets + layout.reflected_octets
        self._most_unread = MOST_UNREAD_OCTETS // (longest + UNREAD_OCTETS)
        self._replies = make_replies(
            sock,
            io,
            longest,
            CONTROL_MOST_OCTETS if layout.monitored or self._stamps.doubled else CONTROL_LEAST_OCTETS,
        )
        self._since_taken = 0

    def run(self) -> None:
        """Send, and take the replies."""
        start = self._start_ns()
        offset_ns, count = self._plan.schedule.offset_ns, self._plan.count
        sequence = 0
        try:
            while sequence < count:
                due = start + offset_ns(sequence)
                if due - time.monotonic_ns() > SPIN_NS:
                    self.session.prepare(sequence)
                    if not self._wait_until(due, sequence):
                        break
                    self._at_its_time(sequence, due)
                    sequence += 1
                elif self._stop is not None and self._stop():
                    break
                else:
                    sequence = self._burst(sequence, start)
            if sequence < count:
                self.session.records.stopped = True
            else:
                self._wait_for_replies(time.monotonic_ns() + self._plan.timeout_ns)
        finally:
            self._finish()

    def _at_its_time(self, sequence: int, due: int) -> None:
        """A packet whose time has come: sent, or left out when that is further in the past than Timeout."""
        late_ns = time.monotonic_ns() - due
        if late_ns > self._plan.timeout_ns:
            self.session.skip(sequence)  # rfc4656-s4.1.1-02
        else:
            self._send(sequence, due, late_ns)  # rfc4656-s4.1.1-04

    def _burst(self, sequence: int, start: int) -> int:
        """Packets that follow one another too closely for a sleep: the first that does not, or that was not sent.

        What `_wait_until` and `_at_its_time` do, without a call for each step.
        """
        session, stamps, clock, stop, between = self.session, self._stamps, self._clock, self._stop, self._between
        prepare, pack, send, expect = session.prepare, session.pack, self._sock.send, stamps.expect
        offset_ns, count, timeout_ns = self._plan.schedule.offset_ns, self._plan.count, self._plan.timeout_ns
        now_ns, ntp = time.monotonic_ns, now_ntp
        while sequence < count:
            prepare(sequence)
            due = start + offset_ns(sequence)
            left = due - now_ns()
            if left > SPIN_NS or (stop is not None and stop()):
                return sequence
            between(due, left)
            if left > 0:
                spin_until(due)
            late_ns = now_ns() - due
            if late_ns > timeout_ns:
                session.skip(sequence)  # rfc4656-s4.1.1-02
            else:
                expect(sequence, due)
                try:
                    # rfc4656-s4.1.1-04, rfc4656-s4.1.1-06, rfc5357-s4.1.1-01
                    send(pack(sequence, ntp() + stamps.forward, clock.error_estimate, late_ns))
                except OSError as error:
                    self._not_taken(sequence, error)
                self._since_taken += 1
            sequence += 1
        return sequence

    def _start_ns(self) -> int:
        now = time.monotonic_ns()
        if not self._plan.start_time:
            return now + LEAD_NS
        return now + ntp_difference_ns(self._plan.start_time, now_ntp())  # rfc4656-s3.7-05

    def _send(self, sequence: int, due: int, late_ns: int) -> None:
        session, stamps = self.session, self._stamps
        stamps.expect(sequence, due)
        # rfc4656-s4.1.1-06, rfc5357-s4.1.1-01
        datagram = session.pack(sequence, now_ntp() + stamps.forward, self._clock.error_estimate, late_ns)
        try:
            self._sock.send(datagram)
        except OSError as error:
            self._not_taken(sequence, error)
        self._since_taken += 1

    def _not_taken(self, sequence: int, error: OSError) -> None:
        """The system did not take a packet. Raises `error` when it will take none."""
        session = self.session
        self._stamps.failed()
        if isinstance(error, ConnectionRefusedError):
            # An ICMP error that an earlier packet caused; this one has not been sent yet.
            try:
                self._sock.send(session.repack(sequence, now_ntp(), self._clock.error_estimate))
            except OSError as again:
                error = again
            else:
                return
        session.unsent(sequence)
        if not is_transient(error):
            raise error

    def _wait_until(self, due: int, sequence: int) -> bool:
        """Takes replies until a packet is due; False when we are to stop."""
        if self._stop is not None and self._stop():
            return False
        left = due - time.monotonic_ns()
        while left > SPIN_NS:
            if left > 1_000_000:
                self._clock.refresh(time.monotonic_ns())
            if not self._work(due):
                ready, stopped = self._sleep(left - SPIN_NS)
                if stopped:
                    return False
                if ready:
                    self._take(due)
            left = due - time.monotonic_ns()
        self._between(due, left)
        # After a sleep what comes next is no longer in the caches: it is done once for nothing.
        self.session.rehearse(sequence, now_ntp(), self._clock.error_estimate)
        spin_until(due)
        return True

    def _between(self, due: int, left: int) -> None:
        """What is to be done between two packets that follow one another closely: takes replies, and looks at some."""
        since = self._since_taken
        if since >= MOST_WITHOUT_TAKING or (since and left > TAKE_COST_NS):
            self._take(due, at_least=2 * since)
        if left > READ_COST_NS or self._replies.waiting > self._most_unread:
            self._work(due)
        elif self._stamps.pressing:
            self._stamps.drain(1)

    def _work(self, due: int) -> bool:
        """Looks at replies and at stamps as far as there is time; False when there was nothing to do."""
        worked = False
        replies = self._replies
        while replies.waiting and (due - time.monotonic_ns() > READ_COST_NS or replies.waiting > self._most_unread):
            replies.read(self._handle, 1)
            worked = True
        if self._stamps.waiting and due - time.monotonic_ns() > READ_COST_NS:
            most = max(1, (due - time.monotonic_ns()) // READ_COST_NS)
            worked = self._stamps.drain(most) > 0 or worked
        return worked

    def _handle(self, data: memoryview, ttl: int | None, stamp: int | None, dscp_ecn: int | None) -> None:
        if stamp is None:
            stamp = now_ntp()
            self.session.records.user_stamps += 1
        self.session.handle_reply(data, ttl, stamp, dscp_ecn)

    def _wait_for_replies(self, end: int) -> None:
        while True:
            self._read_all()
            left = end - time.monotonic_ns()
            if self.session.outstanding <= 0 or left <= 0:
                return
            ready, stopped = self._sleep(left)
            if stopped:
                self.session.records.stopped = True
                return
            if ready:
                self._take(end)

    def _read_all(self) -> None:
        """Looks at everything that was taken: before anything is said of what was answered."""
        self._replies.read(self._handle)
        if self._stamps.waiting:
            self._stamps.drain()

    def _finish(self) -> None:
        # What has come by now is not called lost.
        with contextlib.suppress(OSError):
            while self._replies.take(_BATCH) and self._replies.waiting < self._most_unread:
                pass
        self._read_all()
        end = time.monotonic_ns() + _STAMPS_WAIT_NS
        while self._stamps.waiting and time.monotonic_ns() < end:
            self._waiter.wait(end - time.monotonic_ns())
            if not self._stamps.drain():
                break
        self._stamps.close()
        self.session.records.transmit_refused = self._stamps.refused

    def _sleep(self, timeout_ns: int) -> tuple[bool, bool]:
        if self._slice_ns is not None:
            timeout_ns = min(timeout_ns, self._slice_ns)
        ready, stopped = self._waiter.wait(timeout_ns)
        if self._waiter.queued and self._stamps.drain(_BATCH):
            ready = self._waiter.readable
        return ready, stopped or (self._stop is not None and self._stop())

    def _take(self, until: int, at_least: int = 0) -> None:
        """Takes what is there: as many as there is time for, and `at_least` so many."""
        self._since_taken = 0
        affordable = (until - time.monotonic_ns()) // TAKE_COST_NS
        wanted = min(_BATCH, max(at_least, affordable, 1))
        try:
            self._replies.take(wanted)
        except OSError as error:
            if not is_transient(error):
                raise


def is_transient(error: OSError) -> bool:
    """True for errors that ICMP messages or full queues cause, after which a session goes on."""
    return error.errno in _TRANSIENT
