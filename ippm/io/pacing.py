"""Waiting until an absolute time: sleep to shortly before it, then spin.

A sleep alone is some 60 us late and more; the spin costs `SPIN_NS` of a core per packet. Sleeping is ppoll(2), which
takes nanoseconds where Python's poll takes milliseconds, and which ends early when a reply or a stop arrives.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import select
import time
from collections.abc import Callable, Iterator

SPIN_NS = 70_000
_KEEP_NS = 8_000
PR_SET_TIMERSLACK = 29
PR_GET_TIMERSLACK = 30

_libc = ctypes.CDLL(None, use_errno=True)


class _PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class Waiter:
    """ppoll(2) on a socket and, when there is one, an event descriptor that says "stop"."""

    def __init__(self, fd: int, stop_fd: int = -1) -> None:
        self._fds = (_PollFd * 2)(_PollFd(fd, select.POLLIN, 0), _PollFd(stop_fd, select.POLLIN, 0))
        self._count = 2 if stop_fd >= 0 else 1
        self._timeout = _Timespec()
        self._timeout_ref = ctypes.byref(self._timeout)
        self._ppoll = _libc.ppoll
        self.queued = False
        """True when the last `wait` ended with an error of the socket, or something in its error queue."""
        self.readable = False
        """True when the last `wait` ended with a datagram in the socket."""

    def wait(self, timeout_ns: int) -> tuple[bool, bool]:
        """Sleeps at most `timeout_ns`; (something to receive or an error, stop)."""
        self.queued = self.readable = False
        timeout_ns = max(0, timeout_ns)
        self._timeout.tv_sec, self._timeout.tv_nsec = divmod(timeout_ns, 1_000_000_000)
        ready = self._ppoll(self._fds, self._count, self._timeout_ref, None)
        if ready < 0:
            code = ctypes.get_errno()
            if code == errno.EINTR:
                return False, False
            raise OSError(code, os.strerror(code))
        if ready == 0:
            return False, False
        self.queued = bool(self._fds[0].revents & select.POLLERR)
        self.readable = bool(self._fds[0].revents & select.POLLIN)
        return self._fds[0].revents != 0, self._count == 2 and self._fds[1].revents != 0


def spin_until(due_ns: int, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
    """Burns time until CLOCK_MONOTONIC reaches `due_ns`.

    Until the last microseconds it offers the interpreter to other threads (a reflector in the same process, say), which
    would else wait for the 5 ms after which it is taken from a thread that spins. The processor it keeps: a sleep of
    no time at all gives it away, for 100 us in the mean on a busy machine.
    """
    release = select.select
    now = monotonic_ns()
    while now < due_ns - _KEEP_NS:
        release((), (), (), 0)
        now = monotonic_ns()
    while now < due_ns:
        now = monotonic_ns()


class StopSignal:
    """Tells a loop in another thread to end; `fileno` lets it wake up for it (eventfd(2))."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._set = False

    def set(self) -> None:
        """Asks the loop to end."""
        self._set = True
        os.eventfd_write(self._fd, 1)

    def __call__(self) -> bool:
        """True when the loop has been asked to end."""
        return self._set

    def fileno(self) -> int:
        """Readable once `set` was called."""
        return self._fd

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def exact_timers() -> Iterator[None]:
    """The calling thread's sleeps end when they should: a timer slack of 1 ns instead of 50 us. prctl(2)."""
    before = _libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
    _libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
    try:
        yield
    finally:
        if before > 0:
            _libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(before), 0, 0, 0)


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """No garbage collection (6 to 118 ms each) while packets are timed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Collects garbage now, and what is left is not looked at again while this lasts: before the first packet."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
