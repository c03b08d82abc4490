"""A run that a signal ends: with what there is the first time, at once the second time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ippm.errors import ConnectionFailed
from ippm.io.pacing import StopSignal

T = TypeVar("T")


async def until_interrupted(
    run: Callable[[StopSignal], Coroutine[Any, Any, T]], *, until_terminated: bool = False
) -> T:
    """What `run` gives; SIGINT (and SIGTERM when `until_terminated`) sets the stop that `run` is called with.

    The second signal cancels it: KeyboardInterrupt is raised then. Only the main thread hears signals.
    """
    stop = StopSignal()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(run(stop))
    interrupts = 0

    def interrupt() -> None:
        """The first time: stop sending, and report what there is. The second time: end at once."""
        nonlocal interrupts
        interrupts += 1
        stop.set()
        if interrupts > 1:
            task.cancel()

    signals = [signal.SIGINT, *([signal.SIGTERM] if until_terminated else [])]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    for one in signals:
        loop.add_signal_handler(one, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for one in signals:
            loop.remove_signal_handler(one)
        stop.close()


async def unless_stopped(stop: StopSignal | None, waiting: Coroutine[Any, Any, T]) -> T:
    """What `waiting` gives, for waits before there is anything to measure.

    Raises ConnectionFailed, and cancels it, when `stop` is set first.
    """
    if stop is None:
        return await waiting
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(waiting)
    watched = os.dup(stop.fileno())  # somebody else may watch the signal itself
    loop.add_reader(watched, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        ours = asyncio.current_task()
        if not stop() or (ours is not None and ours.cancelling()):
            raise
        raise ConnectionFailed("interrupted before the measurement began") from None
    finally:
        loop.remove_reader(watched)
        os.close(watched)
