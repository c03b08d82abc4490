"""A thread that no other work on the machine holds up: SCHED_FIFO, and memory that is not paged out.

The kernel takes the processor from real-time threads that use more than 95 % of it, for 50 ms in every second. A sender
spins for SPIN_NS before each packet, so this is for sessions whose packets are farther apart than that.
sched(7), mlockall(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator

from ippm.errors import ConfigurationError
from ippm.io.pacing import SPIN_NS

PRIORITY = 10
LEAST_INTERVAL_NS = 100_000
"""The least time between packets, in the mean: the rest of it beside the spin leaves the kernel its share."""

_MCL_CURRENT = 1
_MCL_FUTURE = 2

_lock = threading.Lock()
_holders = 0
_libc = ctypes.CDLL(None, use_errno=True)


def check_realtime(interval_ns: float) -> None:
    """Raises ConfigurationError when it is not permitted, or when packets, in the mean, are too close for a sleep."""
    if round(interval_ns) < LEAST_INTERVAL_NS:  # 100 us are a little less in 32.32 fixed point
        raise ConfigurationError(
            f"--realtime: packets {interval_ns / 1e3:.4g} us apart: at least {LEAST_INTERVAL_NS / 1e3:g} us are "
            f"needed, since {SPIN_NS / 1e3:g} us before each packet are spun away"
        )
    with realtime():
        pass


@contextlib.contextmanager
def realtime() -> Iterator[None]:
    """The calling thread under SCHED_FIFO, and the process locked into memory. Raises ConfigurationError."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        raise _refused("sched_setscheduler", error, "CAP_SYS_NICE, or a limit of `ulimit -r`") from None
    try:
        with _locked_memory():
            yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


@contextlib.contextmanager
def _locked_memory() -> Iterator[None]:
    """The process's memory stays where it is, for as long as any thread wants it to."""
    global _holders
    with _lock:
        if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) < 0:
            code = ctypes.get_errno()
            raise _refused("mlockall", OSError(code, os.strerror(code)), "CAP_IPC_LOCK, or `ulimit -l unlimited`")
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                _libc.munlockall()


def _refused(call: str, error: OSError, needed: str) -> ConfigurationError:
    return ConfigurationError(f"--realtime: {call}: {error.strerror}: run as root, or with {needed}")
