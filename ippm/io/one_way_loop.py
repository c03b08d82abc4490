"""The Session-Sender's loop of OWAMP: one thread that sends for all sessions, each packet on time.

Every packet is paced and stamped on its own, the stamp taken last (rfc4656-s4.1.1-06). Times are absolute: a late
packet does not make the next one late. RFC 4656 section 4.1.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ippm.core.one_way_sender import POOL_OCTETS, OneWayPlan, OneWaySender
from ippm.errors import LocalProtocolError
from ippm.io.clock import SystemClock, now_ntp
from ippm.io.pacing import SPIN_NS, Waiter, exact_timers, no_collections, spin_until
from ippm.io.realtime import realtime
from ippm.io.sender_loop import is_transient
from ippm.io.test_socket import resolved
from ippm.io.transmit_stamps import DEFAULT_STAMPS, UNMEASURED_ERROR_NS, OwnStamps, StampOptions
from ippm.timestamps import ntp_difference_ns

MARGIN_NS = 50_000_000
"""A sender is complete this long after the Timeout of its last packet, so that the receiver is complete before."""

_IDLE_NS = 1_000_000_000
_STAMP_COST_NS = 8_000
"""What it costs to read a transmit stamp."""


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stream:
    session: OneWaySender
    sock: socket.socket
    start: int = 0
    due: int = 0
    stopped: bool = False
    error: str = ""
    done: bool = False
    stamps: OwnStamps | None = None


@dataclass(frozen=True, slots=True)
class SenderEnding:
    """A session that sends no more: its state, and why it ended early, or nothing."""

    session: OneWaySender = field(repr=False)
    stopped: bool = False
    error: str = ""
    transmit_refused: str = ""


class OneWayLoop:
    """Sends for any number of sessions in a thread of its own, which starts with the first.

    All methods may be called from any thread. `on_ended(sid, ending)` is called from the loop's thread when a session
    is complete, Timeout after its last packet, or at once when it was stopped. `stamps` is for sessions that are
    measured, and for all when their packets' stamps are to be corrected. With `in_realtime` the thread gets precedence
    over all other work: `ippm.io.realtime.check_realtime` says beforehand whether it may.
    """

    def __init__(
        self,
        on_ended: Callable[[bytes, SenderEnding], None],
        clock: SystemClock | None = None,
        *,
        stamps: StampOptions = DEFAULT_STAMPS,
        in_realtime: bool = False,
    ) -> None:
        self._on_ended = on_ended
        self._stamp_options = stamps
        self._in_realtime = in_realtime
        self._clock = clock or SystemClock(UNMEASURED_ERROR_NS)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiter = Waiter(self._wake_fd)
        self._lock = threading.Lock()
        self._streams: dict[bytes, _Stream] = {}
        self._orders: list[tuple[str, bytes]] = []
        self._due: list[tuple[int, int, _Stream]] = []
        self._serial = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    def add_session(self, plan: OneWayPlan, sock: socket.socket) -> None:
        """Takes over a session and its bound socket, which is closed with it. LocalProtocolError for a SID in use."""
        padding = (
            b"" if plan.zero_padding or not plan.padding_octets else os.urandom(plan.padding_octets + POOL_OCTETS)
        )
        session = OneWaySender(plan, padding)
        stream = _Stream(session, sock)
        if plan.measure or self._stamp_options.correct:
            stream.stamps = OwnStamps(sock, self._stamp_options, self._clock, session.note_departure)
        sock.setblocking(True)
        with self._lock:
            if self._closing:
                raise LocalProtocolError("the sender is closed")
            if plan.sid in self._streams:
                raise LocalProtocolError(f"there is a session with SID {plan.sid.hex()} already")
            self._streams[plan.sid] = stream

    def start(self, sid: bytes) -> None:
        """Start-Sessions: send from the session's start time on. LocalProtocolError for an unknown SID."""
        self._order("start", sid)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="owamp-sender", daemon=True)
                self._thread.start()

    def stop(self, sid: bytes) -> None:
        """Send no more; `on_ended` follows. Nothing happens for a session that has ended."""
        with self._lock:
            known = sid in self._streams
            running = self._thread is not None
        if known and running:
            self._order("stop", sid)
        elif known:
            self._end(self._streams[sid], stopped=True)

    def session(self, sid: bytes) -> OneWaySender:
        """The state of a session. LocalProtocolError for an unknown SID."""
        with self._lock:
            try:
                return self._streams[sid].session
            except KeyError:
                raise LocalProtocolError(f"no session has SID {sid.hex()}") from None

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._streams)

    def close(self) -> None:
        """Ends all sessions, closes their sockets and the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for stream in list(self._streams.values()):
            self._end(stream, stopped=True)
        os.close(self._wake_fd)

    def _order(self, what: str, sid: bytes) -> None:
        with self._lock:
            if sid not in self._streams:
                raise LocalProtocolError(f"no session has SID {sid.hex()}")
            self._orders.append((what, sid))
        os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        with exact_timers(), self._precedence():
            while not self._closing:
                if self._orders:
                    self._obey()
                now = time.monotonic_ns()
                if not self._due:
                    self._rest(now, _IDLE_NS)
                    continue
                due, _, stream = self._due[0]
                left = due - now
                if left > SPIN_NS and not self._drain(stream, due):
                    if left > 1_000_000:
                        self._clock.refresh(now)
                    self._rest(now, min(left - SPIN_NS, _IDLE_NS))
                    continue
                if left > SPIN_NS:
                    continue
                if stream.done:
                    heapq.heappop(self._due)
                elif len(self._due) == 1 and not stream.session.ended:
                    heapq.heappop(self._due)
                    with no_collections():
                        self._burst(stream)
                    self._push(stream)
                else:
                    heapq.heappop(self._due)
                    self._one(stream)
                    self._push(stream)

    def _precedence(self) -> contextlib.AbstractContextManager[None]:
        if not self._in_realtime:
            return contextlib.nullcontext()
        return realtime()

    def _drain(self, stream: _Stream, due: int) -> bool:
        """Reads transmit stamps as far as there is time; False when there was none to be read."""
        if stream.stamps is None or not stream.stamps.waiting:
            return False
        left = due - time.monotonic_ns()
        return left > _STAMP_COST_NS and stream.stamps.drain(left // _STAMP_COST_NS) > 0

    def _rest(self, now: int, timeout_ns: int) -> None:
        ready, _ = self._waiter.wait(timeout_ns)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _obey(self) -> None:
        with self._lock:
            orders, self._orders = self._orders, []
        for what, sid in orders:
            stream = self._streams.get(sid)
            if stream is None:
                continue
            if what == "stop":
                self._end(stream, stopped=True)
            elif not stream.start:
                self._begin(stream)

    def _begin(self, stream: _Stream) -> None:
        plan = stream.session.plan
        try:
            stream.sock.connect(resolved(stream.sock.family, *plan.remote))
        except OSError as error:
            stream.error = f"no way to {plan.remote[0]}: {error.strerror}"
        stream.start = time.monotonic_ns() + ntp_difference_ns(plan.start_time, now_ntp())  # rfc4656-s3.7-04
        stream.session.prepare()
        self._push(stream)

    def _push(self, stream: _Stream) -> None:
        """Put a stream where its next packet, or its end, is due."""
        if stream.done:
            return
        session = stream.session
        if session.ended or stream.error:
            end = session.plan.schedule.offset_ns(session.count - 1) + session.plan.timeout_ns + MARGIN_NS
            stream.due = time.monotonic_ns() if stream.error else stream.start + end
        else:
            stream.due = stream.start + session.plan.schedule.offset_ns(session.next_seqno)
        self._serial += 1
        # A stream that is behind its schedule has had its turn: what others have due by now goes first.
        heapq.heappush(self._due, (max(stream.due, time.monotonic_ns()), self._serial, stream))

    def _burst(self, stream: _Stream) -> None:
        """Packets of the only stream that runs, while they follow one another too closely for a sleep."""
        session, plan, start, stamps = stream.session, stream.session.plan, stream.start, stream.stamps
        # After a sleep what comes next is no longer in the caches: it is done once for nothing.
        session.pack(now_ntp(), self._clock.error_estimate)
        prepare, send, offset_ns = session.prepare, self._send, plan.schedule.offset_ns
        now_ns, timeout_ns, due = time.monotonic_ns, plan.timeout_ns, stream.due
        while True:
            spin_until(due)
            late_ns = now_ns() - due
            if late_ns > timeout_ns:
                session.skip()  # rfc4656-s4.1.1-02
            else:
                send(stream, due, late_ns)
            if session.ended or stream.error or stream.done or self._orders or self._closing:
                return
            prepare()
            stream.due = due = start + offset_ns(session.next_seqno)
            left = due - now_ns()
            if left > SPIN_NS:
                return
            if stamps is not None and stamps.waiting and (left > _STAMP_COST_NS or stamps.pressing):
                stamps.drain(1)

    def _one(self, stream: _Stream) -> None:
        """Send the next packet when its time has come, or end the session when there is none."""
        session = stream.session
        if session.ended or stream.error:
            self._end(stream)
            return
        due = stream.due
        spin_until(due)
        late_ns = time.monotonic_ns() - due
        if late_ns > session.plan.timeout_ns:
            session.skip()  # rfc4656-s4.1.1-02
        else:
            self._send(stream, due, late_ns)
        if not session.ended:
            session.prepare()

    def _send(self, stream: _Stream, due: int, late_ns: int) -> None:
        session, stamps, forward = stream.session, stream.stamps, 0
        if stamps is not None:
            stamps.expect(session.next_seqno, due)
            forward = stamps.forward
        try:
            # rfc4656-s4.1.1-06
            stream.sock.send(session.pack(now_ntp() + forward, self._clock.error_estimate))
        except OSError as error:
            if stamps is not None:
                stamps.failed()
            self._not_taken(stream, due, error)
        else:
            session.was_sent(late_ns)

    def _not_taken(self, stream: _Stream, due: int, error: OSError) -> None:
        """The system did not take a packet: it is handed over once more when that may help, or skipped."""
        session = stream.session
        if isinstance(error, ConnectionRefusedError):
            # An ICMP error that an earlier packet caused; this one has not been sent yet.
            try:
                late_ns = time.monotonic_ns() - due
                stream.sock.send(session.pack(now_ntp(), self._clock.error_estimate))
            except OSError as again:
                error = again
            else:
                session.was_sent(late_ns)
                return
        if not is_transient(error):
            stream.error = f"test packets cannot be sent: {error.strerror}"
        session.skip()

    def _end(self, stream: _Stream, *, stopped: bool = False) -> None:
        if stream.done:
            return
        stream.done = True
        session = stream.session
        with self._lock:
            self._streams.pop(session.plan.sid, None)
        refused = ""
        if stream.stamps is not None:
            stream.stamps.drain()
            stream.stamps.close()
            refused = stream.stamps.refused
        stream.sock.close()
        try:
            self._on_ended(session.plan.sid, SenderEnding(session, stopped, stream.error, refused))
        except Exception:
            _log.exception("the callback of session %s failed", session.plan.sid.hex())
