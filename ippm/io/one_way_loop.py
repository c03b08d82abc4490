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
from ippm.io.sender_loop import is_transient
from ippm.io.test_socket import resolved
from ippm.timestamps import ntp_difference_ns

MARGIN_NS = 50_000_000
"""A sender is complete this long after the Timeout of its last packet, so that the receiver is complete before."""

_IDLE_NS = 1_000_000_000
_QUIET_NS = 600_000_000_000

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


@dataclass(frozen=True, slots=True)
class SenderEnding:
    """A session that sends no more: its state, and why it ended early, or nothing."""

    session: OneWaySender = field(repr=False)
    stopped: bool = False
    error: str = ""


class OneWayLoop:
    """Sends for any number of sessions in a thread of its own, which starts with the first.

    All methods may be called from any thread. `on_ended(sid, ending)` is called from the loop's thread when a session
    is complete, Timeout after its last packet, or at once when it was stopped.
    """

    def __init__(self, on_ended: Callable[[bytes, SenderEnding], None], clock: SystemClock | None = None) -> None:
        self._on_ended = on_ended
        self._clock = clock or SystemClock()
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
        stream = _Stream(OneWaySender(plan, padding), sock)
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
        with exact_timers():
            while not self._closing:
                if self._orders:
                    self._obey()
                now = time.monotonic_ns()
                if not self._due:
                    self._rest(now, _IDLE_NS)
                    continue
                due, _, stream = self._due[0]
                left = due - now
                if left > SPIN_NS:
                    if left > 1_000_000:
                        self._clock.refresh(now)
                    self._rest(now, min(left - SPIN_NS, _IDLE_NS))
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
        session, schedule, start = stream.session, stream.session.plan.schedule, stream.start
        while True:
            self._one(stream)
            if session.ended or stream.error or stream.done or self._orders or self._closing:
                return
            stream.due = start + schedule.offset_ns(session.next_seqno)
            if stream.due - time.monotonic_ns() > SPIN_NS:
                return

    def _one(self, stream: _Stream) -> None:
        """Send the next packet when its time has come, or end the session when there is none."""
        session = stream.session
        if session.ended or stream.error:
            self._end(stream)
            return
        due = stream.due
        spin_until(due)
        if time.monotonic_ns() - due > session.plan.timeout_ns:
            session.skip()  # rfc4656-s4.1.1-02
        else:
            self._send(stream, due)
        if not session.ended:
            session.prepare()

    def _send(self, stream: _Stream, due: int) -> None:
        session = stream.session
        late_ns = 0
        for _ in range(2):
            if session.plan.measure:
                late_ns = time.monotonic_ns() - due
            try:
                stream.sock.send(session.pack(now_ntp(), self._clock.error_estimate))  # rfc4656-s4.1.1-06
            except ConnectionRefusedError:
                # An ICMP error that an earlier packet caused; this one has not been sent yet.
                continue
            except OSError as error:
                if not is_transient(error):
                    stream.error = f"test packets cannot be sent: {error.strerror}"
                break
            session.was_sent(late_ns)
            return
        session.skip()

    def _end(self, stream: _Stream, *, stopped: bool = False) -> None:
        if stream.done:
            return
        stream.done = True
        session = stream.session
        with self._lock:
            self._streams.pop(session.plan.sid, None)
        stream.sock.close()
        try:
            self._on_ended(session.plan.sid, SenderEnding(session, stopped, stream.error))
        except Exception:
            _log.exception("the callback of session %s failed", session.plan.sid.hex())
