"""What the loops of the Session-Receiver and the Session-Reflector share: one thread, and a socket for each session."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

from ippm.errors import LocalProtocolError
from ippm.io.batch import make_receiver
from ippm.io.clock import SystemClock


class SessionChannel(Protocol):
    """A session and its socket."""

    sock: socket.socket


Channel = TypeVar("Channel", bound=SessionChannel)


class ChannelLoop(ABC, Generic[Channel]):
    """Waits for packets of any number of sessions in a thread of its own, which starts with the first.

    `ROLE` is what its errors call it, `THREAD` the name of the thread. All methods without an underscore may be called
    from any thread. `io` is a way of `ippm.io.batch`.
    """

    ROLE: ClassVar[str]
    THREAD: ClassVar[str]

    def __init__(self, clock: SystemClock | None, io: str) -> None:
        self._clock = clock or SystemClock()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._lock = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._by_sid: dict[bytes, Channel] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._receiver = make_receiver(io)

    @abstractmethod
    def _serve(self, channel: Channel) -> None:
        """Acts on what has arrived on one socket, a batch at most so that others get their turn."""

    @abstractmethod
    def _handle_timers(self, now: int) -> int:
        """Does what is due; gives the monotonic time of the next thing to do."""

    @abstractmethod
    def _abandon(self, channel: Channel) -> None:
        """Ends a session, and closes its socket, because the loop is closed."""

    def _obey(self) -> None:
        """Does what was asked for before `_wake`."""

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._by_sid)

    def close(self) -> None:
        """Ends all sessions at once, closes their sockets and the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for channel in list(self._channels.values()):
            self._abandon(channel)
        self._channels.clear()
        self._by_sid.clear()
        self._epoll.close()
        os.close(self._wake_fd)

    def _add(self, sid: bytes, channel: Channel) -> None:
        """Takes over a channel. LocalProtocolError for a SID that is already there, or after `close`."""
        sock = channel.sock
        sock.setblocking(False)
        with self._lock:
            if self._closing:
                raise LocalProtocolError(f"the {self.ROLE} is closed")
            if sid in self._by_sid:
                raise LocalProtocolError(f"there is a session with SID {sid.hex()} already")
            self._by_sid[sid] = channel
            self._channels[sock.fileno()] = channel
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.THREAD, daemon=True)
                self._thread.start()

    def _channel(self, sid: bytes) -> Channel:
        with self._lock:
            try:
                return self._by_sid[sid]
            except KeyError:
                raise LocalProtocolError(f"no session has SID {sid.hex()}") from None

    def _wake(self) -> None:
        if not self._closing or self._thread is not None:
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        next_at = 0
        while not self._closing:
            timeout_s = max(0.0, (next_at - time.monotonic_ns()) / 1e9)
            for fd, _ in self._epoll.poll(timeout_s, 256):
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                    self._obey()
                    next_at = 0
                    continue
                channel = self._channels.get(fd)
                if channel is not None:
                    self._serve(channel)
            now = time.monotonic_ns()
            if now >= next_at:
                next_at = self._handle_timers(now)
