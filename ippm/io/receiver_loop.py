"""The Session-Receiver's loop: one thread that records for all sessions, each on a socket of its own.

A record's receive time is the kernel's stamp, so nothing is lost by reading late. What was read is handed to the
session's sink at once: no record waits in a buffer of ours. RFC 4656 section 4.2.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ippm.core.session_receiver import ReceiverPlan, ReceiverResult, SessionReceiver
from ippm.io.channel_loop import ChannelLoop
from ippm.io.clock import SystemClock, now_ntp
from ippm.io.transmit_stamps import LEAST_ERROR_NS
from ippm.timestamps import ntp_difference_ns
from ippm.wire.stop_descriptions import SessionDescription

_BATCH = 256
_IDLE_NS = 1_000_000_000
_WAITING = 1 << 15
"""More packets than the receive buffer of a socket holds: who sends on and on is not served on and on."""

_log = logging.getLogger(__name__)


class RecordSink(Protocol):
    """Where the records of one session go. Called from the loop's thread. Errors of it end the session as invalid."""

    def write(self, records: bytes) -> None:
        """Whole records, in the order of arrival."""
        ...

    def finish(self, result: ReceiverResult) -> None:
        """The session has ended: records from `keep_below` on go; then, by `write` before this call, the lost ones."""
        ...

    def discard(self, keep_below: int) -> None:
        """Take back the records of packets from `keep_below` on."""
        ...


@dataclass(slots=True)
class _Channel:
    session: SessionReceiver
    sock: socket.socket
    sink: RecordSink
    complete_at: int = 0
    told: bool = False
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended: its result, and what was discarded, by name."""

    result: ReceiverResult
    received: int
    counters: dict[str, int]


class ReceiverLoop(ChannelLoop[_Channel]):
    """Records any number of sessions in a thread of its own, which starts with the first.

    All methods may be called from any thread. `on_complete(sid)` is called from the loop's thread when Timeout has
    passed after the last packet of a session that runs, `on_finished(sid, ending)` when a session has been finished.
    """

    ROLE = "receiver"
    THREAD = "owamp-receiver"

    def __init__(
        self,
        on_complete: Callable[[bytes], None] | None = None,
        on_finished: Callable[[bytes, Ending], None] | None = None,
        clock: SystemClock | None = None,
        io: str = "auto",
    ) -> None:
        super().__init__(clock or SystemClock(LEAST_ERROR_NS), io)
        self._on_complete = on_complete
        self._on_finished = on_finished
        self._orders: list[tuple[bytes, SessionDescription | ReceiverResult | None]] = []

    def add_session(self, plan: ReceiverPlan, sock: socket.socket, sink: RecordSink) -> None:
        """Takes over a session and its bound socket, which is closed with it. LocalProtocolError for a SID in use."""
        self._add(plan.sid, _Channel(SessionReceiver(plan, self._clock.error_estimate), sock, sink))

    def start(self, sid: bytes) -> None:
        """Start-Sessions: from now on the end of the session is watched. LocalProtocolError for an unknown SID."""
        self._channel(sid).complete_at = 1
        self._wake()

    def finish(self, sid: bytes, description: SessionDescription | ReceiverResult | None) -> None:
        """Ends a session: by what its sender sent, with None when the connection broke, or with a result as it is.

        `on_finished` follows. Nothing happens for a SID that is not known. RFC 4656 section 3.8.
        """
        with self._lock:
            self._orders.append((sid, description))
        self._wake()

    def _abandon(self, channel: _Channel) -> None:
        self._end(channel, None)

    def _obey(self) -> None:
        with self._lock:
            orders, self._orders = self._orders, []
        for sid, order in orders:
            channel = self._by_sid.get(sid)
            if channel is not None:
                self._serve(channel, _WAITING)  # what has arrived already counts
                self._end(channel, order)

    def _handle_timers(self, now: int) -> int:
        """Tells which sessions are complete; gives the monotonic time of the next thing to do."""
        self._clock.refresh(now)
        next_at = now + _IDLE_NS
        for channel in list(self._channels.values()):
            channel.session.error_estimate = self._clock.error_estimate
            if not channel.complete_at or channel.told:
                continue
            if channel.complete_at == 1:
                stamp = now_ntp()
                complete = channel.session.complete_at(stamp)
                if complete is None:
                    continue
                channel.complete_at = max(2, now + ntp_difference_ns(complete, stamp))
            if channel.complete_at <= now:
                channel.told = True
                if self._on_complete is not None:
                    self._on_complete(channel.session.plan.sid)
            else:
                next_at = min(next_at, channel.complete_at)
        return next_at

    def _serve(self, channel: _Channel, limit: int = _BATCH) -> None:
        """Records what has arrived on one socket, `limit` at most so that others get their turn."""
        sock, session, receiver = channel.sock, channel.session, self._receiver
        handle, taken = session.handle, 0
        while taken < limit:
            try:
                count = receiver.receive(sock)
            except OSError:
                # An ICMP error of an earlier packet.
                session.counters["receive_errors"] = session.counters.get("receive_errors", 0) + 1
                taken += 1
                continue
            for number in range(count):
                stamp, ttl = receiver.stamp_and_ttl(number)
                if stamp is None:
                    stamp = now_ntp()
                    session.counters["user_stamps"] = session.counters.get("user_stamps", 0) + 1
                handle(receiver.datagram(number), ttl, stamp)
            taken += count
            if count < receiver.batch:
                break
        records = session.take_records()
        if records:
            self._write(channel, records)

    def _write(self, channel: _Channel, records: bytes) -> None:
        if channel.failed:
            return
        try:
            channel.sink.write(records)
        except Exception as error:
            channel.failed = f"the records could not be kept: {error}"
            _log.error("session %s: %s", channel.session.plan.sid.hex(), channel.failed)

    def _end(self, channel: _Channel, order: SessionDescription | ReceiverResult | None) -> None:
        session = channel.session
        sid = session.plan.sid
        result = order if isinstance(order, ReceiverResult) else session.finish(order, now_ntp())
        if channel.failed:
            result = session.invalid(channel.failed)
        try:
            if session.highest >= result.keep_below:
                channel.sink.discard(result.keep_below)
            for records in session.lost_records(result):
                channel.sink.write(records)
            channel.sink.finish(result)
        except Exception as error:
            result = session.invalid(f"the records could not be kept: {error}")
            _log.error("session %s: %s", sid.hex(), result.reason)
        with self._lock:
            self._epoll.unregister(channel.sock.fileno())
            del self._channels[channel.sock.fileno()]
            del self._by_sid[sid]
        channel.sock.close()
        if self._on_finished is not None:
            try:
                self._on_finished(sid, Ending(result, session.received, dict(session.counters)))
            except Exception:
                _log.exception("the callback of session %s failed", sid.hex())
