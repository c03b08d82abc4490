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
from ippm.io.batch import make_receiver
from ippm.io.clock import SystemClock, now_ntp
from ippm.io.pacing import SPIN_NS, StopSignal, Waiter, exact_timers, no_collections, spin_until
from ippm.io.test_socket import resolved
from ippm.timestamps import ntp_difference_ns

LEAD_NS = 200_000
"""From the call to the first packet when the plan says "at once"."""

RECEIVE_COST_NS = 6_000
"""With less time than this before a packet is due, no reply is read."""

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


def run_sender(
    plan: SenderPlan,
    sock: socket.socket,
    stop: StopSignal | Callable[[], bool] | None = None,
    clock: SystemClock | None = None,
    *,
    io: str = "auto",
) -> SenderRecords:
    """Runs a session to its end in the calling thread, and gives its records.

    It ends Timeout after the last packet, or as soon as every packet is answered, or when `stop` says so (a
    StopSignal ends it at once, a plain callable within 0.1 s). `sock` comes from `open_test_socket`; it is connected to
    `plan.remote` and stays open. `io` is a way of `ippm.io.batch`. OSError only for what makes sending impossible (a
    message too long, no route).
    """
    loop = SenderLoop(SessionSender(plan, padding_of(plan)), sock, stop, clock or SystemClock(), io)
    lasts_ns = plan.schedule.offset_ns(plan.count - 1) if plan.count else 0
    with exact_timers(), no_collections() if lasts_ns <= NO_COLLECTIONS_NS else contextlib.nullcontext():
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
    ) -> None:
        self.session = session
        self._plan = session.plan
        self._sock = sock
        self._stop = stop
        self._clock = clock
        stop_fd = stop.fileno() if isinstance(stop, StopSignal) else -1
        self._slice_ns = STOP_CHECK_NS if stop is not None and stop_fd < 0 else None
        self._waiter = Waiter(sock.fileno(), stop_fd)
        self._receiver = make_receiver(io)
        self._monitored = session.plan.layout.monitored
        sock.connect(resolved(sock.family, *self._plan.remote))
        sock.setblocking(True)

    def run(self) -> None:
        """Send, and take the replies."""
        start = self._start_ns()
        offset_ns = self._plan.schedule.offset_ns
        for sequence in range(self._plan.count):
            self.session.prepare(sequence)
            due = start + offset_ns(sequence)
            if not self._wait_until(due):
                self.session.records.stopped = True
                return
            if time.monotonic_ns() - due > self._plan.timeout_ns:
                self.session.skip(sequence)  # rfc4656-s4.1.1-02
            else:
                self._send(sequence)  # rfc4656-s4.1.1-04
        self._wait_for_replies(time.monotonic_ns() + self._plan.timeout_ns)

    def _start_ns(self) -> int:
        now = time.monotonic_ns()
        if not self._plan.start_time:
            return now + LEAD_NS
        return now + ntp_difference_ns(self._plan.start_time, now_ntp())  # rfc4656-s3.7-05

    def _send(self, sequence: int) -> None:
        session = self.session
        # rfc4656-s4.1.1-06, rfc5357-s4.1.1-01
        datagram = session.pack(sequence, now_ntp(), self._clock.error_estimate)
        try:
            self._sock.send(datagram)
        except ConnectionRefusedError:
            # An ICMP error that an earlier packet caused; this one has not been sent yet.
            with contextlib.suppress(ConnectionRefusedError):
                self._sock.send(session.repack(sequence, now_ntp(), self._clock.error_estimate))
                return
            session.unsent(sequence)
        except OSError as error:
            session.unsent(sequence)
            if not is_transient(error):
                raise

    def _wait_until(self, due: int) -> bool:
        """Takes replies until a packet is due; False when we are to stop."""
        if self._stop is not None and self._stop():
            return False
        left = due - time.monotonic_ns()
        while left > SPIN_NS:
            if left > 1_000_000:
                self._clock.refresh(time.monotonic_ns())
            ready, stopped = self._sleep(left - SPIN_NS)
            if stopped:
                return False
            if ready:
                self._receive(due - RECEIVE_COST_NS, _BATCH)
            left = due - time.monotonic_ns()
        # At high rates there is no sleep between packets: take what has come, always a few when many are outstanding.
        if self.session.outstanding > 0:
            self._receive(due - RECEIVE_COST_NS, _BATCH, at_least=2 if self.session.outstanding > _BATCH else 0)
        spin_until(due)
        return True

    def _wait_for_replies(self, end: int) -> None:
        while self.session.outstanding > 0:
            left = end - time.monotonic_ns()
            if left <= 0:
                return
            ready, stopped = self._sleep(left)
            if stopped:
                self.session.records.stopped = True
                return
            if ready:
                self._receive(end, _BATCH)

    def _sleep(self, timeout_ns: int) -> tuple[bool, bool]:
        if self._slice_ns is not None:
            timeout_ns = min(timeout_ns, self._slice_ns)
        ready, stopped = self._waiter.wait(timeout_ns)
        return ready, stopped or (self._stop is not None and self._stop())

    def _receive(self, until: int, limit: int, at_least: int = 0) -> None:
        """Reads what is there: at most `limit` datagrams, and beyond `at_least` only while there is time."""
        receiver, handle, records = self._receiver, self.session.handle_reply, self.session.records
        taken = 0
        while taken < limit:
            affordable = (until - time.monotonic_ns()) // RECEIVE_COST_NS + 1
            wanted = min(limit - taken, max(at_least - taken, affordable))
            if wanted <= 0:
                return
            try:
                count = receiver.receive(self._sock, wanted)
            except OSError as error:
                if not is_transient(error):
                    raise
                taken += 1
                continue
            for number in range(count):
                stamp, ttl = receiver.stamp_and_ttl(number)
                if stamp is None:
                    stamp = now_ntp()
                    records.user_stamps += 1
                dscp_ecn = receiver.dscp_ecn(number) if self._monitored else None
                handle(receiver.datagram(number), ttl, stamp, dscp_ecn)
            if count < min(wanted, receiver.batch):
                return
            taken += count


def is_transient(error: OSError) -> bool:
    """True for errors that ICMP messages or full queues cause, after which a session goes on."""
    return error.errno in _TRANSIENT
