"""The Session-Reflector's loop: one thread that serves all sessions, each on a socket of its own.

T2 is the kernel's receive stamp; T3 is read last, just before the reply is handed to the kernel. RFC 5357 section 4.2.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from ippm.core.session_reflector import ReflectorPlan, ReflectorState, SessionReflector
from ippm.errors import LocalProtocolError
from ippm.io.channel_loop import ChannelLoop
from ippm.io.clock import SystemClock, now_ntp
from ippm.io.transmit_stamps import UNMEASURED_ERROR_NS, OwnStamps, StampOptions
from ippm.timestamps import MASK_64, ntp_difference_ns

_BATCH = 64
_IDLE_S = 1.0
_MOST_AGE_NS = 10_000_000
_SLOW = 1 << 32
"""A second, NTP. RFC 6673 section 4.4."""
_AHEAD = 1 << 63

_log = logging.getLogger(__name__)

ClosedCallback = Callable[[bytes, dict[str, int]], None]


class _Channel:
    """A session and its socket."""

    __slots__ = ("session", "sock", "stamps")

    def __init__(self, session: SessionReflector, sock: socket.socket, stamps: OwnStamps | None = None) -> None:
        self.session = session
        self.sock = sock
        self.stamps = stamps


class Reflector(ChannelLoop[_Channel]):
    """Reflects for any number of sessions in a thread of its own, which starts with the first session.

    All methods may be called from any thread. `on_closed(sid, counters)` is called from the reflector's thread when a
    session ends by Timeout after its stop, or by REFWAIT. `io` is a way of `ippm.io.batch`. With `correct_stamps` T3 is
    put forward by the median age that the last replies' T3 had when the kernel sent them.
    """

    ROLE = "reflector"
    THREAD = "twamp-reflector"

    def __init__(
        self,
        clock: SystemClock | None = None,
        on_closed: ClosedCallback | None = None,
        io: str = "auto",
        *,
        correct_stamps: bool = False,
    ) -> None:
        super().__init__(clock or SystemClock(UNMEASURED_ERROR_NS), io)
        self._correct_stamps = correct_stamps
        self._on_closed = on_closed
        self._finished: dict[bytes, dict[str, int]] = {}

    def add_session(self, plan: ReflectorPlan, sock: socket.socket) -> None:
        """Takes over a session and its bound socket (from `open_test_socket`), which is closed with the session.

        Packets are dropped until `start`. LocalProtocolError for a SID that is already there, or after `close`.
        """
        if not self._correct_stamps:
            self._add(plan.sid, _Channel(SessionReflector(plan, now_ntp, self._clock.error_estimate), sock))
            return
        stamps = OwnStamps(sock, StampOptions(correct=True), self._clock, _age_of)
        session = SessionReflector(plan, lambda: now_ntp() + stamps.forward, self._clock.error_estimate)
        self._add(plan.sid, _Channel(session, sock, stamps))

    def start(self, sid: bytes) -> None:
        """Start-Sessions. LocalProtocolError for an unknown SID."""
        self._channel(sid).session.start(time.monotonic_ns())
        self._wake()

    def stop(self, sid: bytes) -> dict[str, int]:
        """Stop-Sessions: the session goes on for its Timeout, then closes by itself. Gives the counters so far."""
        with self._lock:
            channel = self._by_sid.get(sid)
        if channel is None:
            return self.counters(sid)
        channel.session.stop(time.monotonic_ns())
        self._wake()
        return dict(channel.session.counters)

    def abort(self, sid: bytes) -> dict[str, int]:
        """Ends a session at once, without its Timeout: a control connection that broke."""
        with self._lock:
            channel = self._by_sid.get(sid)
        if channel is None:
            return self.counters(sid)
        channel.session.close()
        self._wake()
        return dict(channel.session.counters)

    def counters(self, sid: bytes) -> dict[str, int]:
        """The counters of a session, also of one that has ended (once). LocalProtocolError for an unknown SID."""
        with self._lock:
            channel = self._by_sid.get(sid)
            if channel is not None:
                return dict(channel.session.counters)
            if sid in self._finished:
                return self._finished.pop(sid)
        raise LocalProtocolError(f"no session has SID {sid.hex()}")

    def _abandon(self, channel: _Channel) -> None:
        channel.session.close()
        channel.sock.close()

    def _handle_timers(self, now: int) -> int:
        """Ends what is over; gives the monotonic time of the next thing to do."""
        self._clock.refresh(now)
        next_at = now + int(_IDLE_S * 1e9)
        for channel in list(self._channels.values()):
            session = channel.session
            session.error_estimate = self._clock.error_estimate
            due = session.next_timer()
            if due is not None and due <= now:
                if session.state is ReflectorState.STOPPING:
                    self._serve(channel)  # what came in time and has not been read yet: rfc5357-s3.5-10
                session.handle_timer(now)
                due = session.next_timer()
            if session.state is ReflectorState.CLOSED:
                self._remove(channel)
            elif due is not None:
                next_at = min(next_at, due)
        return next_at

    def _remove(self, channel: _Channel) -> None:
        sid = channel.session.plan.sid
        counters = dict(channel.session.counters)
        with self._lock:
            fd = channel.sock.fileno()
            self._epoll.unregister(fd)
            del self._channels[fd]
            del self._by_sid[sid]
            self._finished[sid] = counters
            while len(self._finished) > 1024:
                del self._finished[next(iter(self._finished))]
        channel.sock.close()
        if self._on_closed is not None:
            try:
                self._on_closed(sid, dict(counters))
            except Exception:
                # The other sessions go on whatever the owner of this one does.
                _log.exception("the callback of session %s failed", sid.hex())

    def _slow(self, session: SessionReflector) -> None:
        """A reply took more than a second: an operator is to know it, once a session. RFC 6673 section 4.4."""
        counters = session.counters
        if not counters.get("slow_batches"):
            _log.warning(
                "session %s: a packet was answered more than a second after it came (RFC 6673 section 4.4): "
                "this host is overloaded",
                session.plan.sid.hex(),
            )
        counters["slow_batches"] = counters.get("slow_batches", 0) + 1

    def _serve(self, channel: _Channel) -> None:
        """Answers what has arrived on one socket, a batch at most so that others get their turn."""
        sock, session, receiver = channel.sock, channel.session, self._receiver
        handle, send, prepare, counters = session.handle, sock.sendto, session.prepare, session.counters
        monitored, read = session.monitored, receiver.item
        stamps = channel.stamps
        if stamps is not None:
            stamps.drain(_BATCH)  # also those that nobody waits for: they would wake us up again and again
        taken = 0
        while taken < _BATCH:
            try:
                count = receiver.receive(sock)
            except OSError:
                # An ICMP error of an earlier reply.
                counters["receive_errors"] = counters.get("receive_errors", 0) + 1
                taken += 1
                continue
            if not count:
                return
            taken += count
            for number in range(count):
                packet, stamp, ttl, address = read(number)
                if stamp is None:
                    stamp = now_ntp()
                    counters["user_stamps"] = counters.get("user_stamps", 0) + 1
                if session.state is ReflectorState.STOPPING:
                    age_ns = max(0, ntp_difference_ns(now_ntp(), stamp))
                    if session.arrived_too_late(time.monotonic_ns() - age_ns):
                        continue
                # Only the octets of this datagram: what an earlier one left behind is never seen.
                dscp_ecn = receiver.dscp_ecn(number) if monitored else None
                reply = handle(packet, ttl, stamp, address, dscp_ecn)
                if reply is None:
                    continue
                # The first of a batch has waited longest.
                if not number and _SLOW < (session.sent_at - stamp) & MASK_64 < _AHEAD:
                    self._slow(session)
                if stamps is not None:
                    stamps.expect(session.sent_at, time.monotonic_ns())
                try:
                    send(reply, address)
                except OSError:
                    if stamps is not None:
                        stamps.failed()
                    counters["send_failed"] = counters.get("send_failed", 0) + 1
                prepare()
            if 1 < receiver.batch > count:
                return


def _age_of(sent_at: int, stamp: int) -> int | None:
    """How old T3 was when the kernel sent the reply, nanoseconds; None for what cannot be."""
    age_ns = ntp_difference_ns(stamp, sent_at)
    return age_ns if abs(age_ns) < _MOST_AGE_NS else None
