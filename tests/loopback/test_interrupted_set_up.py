"""An interrupt ends a client that waits for a server which says nothing, the first time already."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ippm import (
    ConnectionFailed,
    OwpingOptions,
    StopSignal,
    TwpingOptions,
    owping,
    run_continuous,
    run_continuous_owping,
    run_twping,
)
from ippm.io.interrupt import unless_stopped

Measure = Callable[[int, StopSignal, list[dict[str, Any]]], Coroutine[Any, Any, object]]
FOR_EVER = {"response_wait_s": 3600.0, "connect_wait_s": 3600.0}


def two_way(port: int, stop: StopSignal, _: object) -> Coroutine[Any, Any, object]:
    return run_twping(TwpingOptions("127.0.0.1", port, **FOR_EVER), stop=stop)


def one_way(port: int, stop: StopSignal, _: object) -> Coroutine[Any, Any, object]:
    return owping(OwpingOptions("127.0.0.1", port, **FOR_EVER), stop=stop)


def without_end(port: int, stop: StopSignal, lines: list[dict[str, Any]]) -> Coroutine[Any, Any, object]:
    return run_continuous(TwpingOptions("127.0.0.1", port, **FOR_EVER), report=lines.append, stop=stop)


def one_way_without_end(port: int, stop: StopSignal, lines: list[dict[str, Any]]) -> Coroutine[Any, Any, object]:
    return run_continuous_owping(OwpingOptions("127.0.0.1", port, **FOR_EVER), report=lines.append, stop=stop)


@pytest.mark.parametrize("measure", [two_way, one_way, without_end, one_way_without_end])
def test_a_server_that_says_nothing(measure: Measure) -> None:
    async def scenario() -> list[dict[str, Any]]:
        stop, lines = StopSignal(), list[dict[str, Any]]()
        left = asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stop.set()
            assert await reader.read() == b""
            left.set()
            writer.close()

        async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectionFailed, match="interrupted before the measurement began"):
                await measure(port, stop, lines)
            await left.wait()  # the connection was closed
        stop.close()
        return lines

    lines = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert [line["ok"] for line in lines] == ([False] if "without_end" in measure.__name__ else [])


def test_what_is_there_is_given_and_another_watcher_of_the_signal_stays() -> None:
    async def scenario() -> None:
        stop, seen = StopSignal(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(stop.fileno(), seen.set)
        before = len(os.listdir("/proc/self/fd"))

        async def soon() -> int:
            return 7

        assert await unless_stopped(stop, soon()) == 7
        assert await unless_stopped(None, soon()) == 7
        assert len(os.listdir("/proc/self/fd")) == before
        stop.set()
        await seen.wait()
        loop.remove_reader(stop.fileno())
        stop.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_who_cancels_the_wait_is_told_so() -> None:
    async def scenario() -> None:
        stop = StopSignal()
        waiting = asyncio.create_task(unless_stopped(stop, asyncio.Event().wait()))
        await asyncio.sleep(0)
        stop.set()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stop.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
