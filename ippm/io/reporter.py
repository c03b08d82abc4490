"""A thread that makes and reports the lines of a measurement without an end, so that neither delays a packet."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

from ippm.errors import IppmError
from ippm.io.pacing import StopSignal

MOST_WAITING = 64
"""Items that wait to be reported; beyond these they are dropped and counted."""

Item = TypeVar("Item", contravariant=True)


class Lines(Protocol[Item]):
    """Makes the lines."""

    def line(self, item: Item) -> dict[str, Any]:
        """The line of one item."""
        ...

    def end(self, error: str | None, periods_dropped: int) -> dict[str, Any]:
        """The last line."""
        ...


class Reporter(Generic[Item]):
    """Calls `report` with each line; what it raises ends the measurement by way of `stop`, and is raised by `close`.

    `stop` is the one that was given, or one of its own, which lasts until `close`.
    """

    def __init__(
        self, lines: Lines[Item], report: Callable[[dict[str, Any]], None], stop: StopSignal | None
    ) -> None:
        self._lines = lines
        self._report = report
        self._own_stop = stop is None
        self.stop = StopSignal() if stop is None else stop
        self._waiting: queue.Queue[Item | None] = queue.Queue(MOST_WAITING)
        self._raised: BaseException | None = None
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="ippm-report", daemon=True)
        self._thread.start()

    def take(self, item: Item) -> None:
        """Report an item, when its turn comes; drop it when too many wait."""
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def close(self, error: str | None) -> None:
        """Report what waits, and the end. Raises what `report` raised."""
        self._waiting.put(None)
        self._thread.join()
        if self._own_stop:
            self.stop.close()
        if self._raised is None:
            self._report(self._lines.end(error, self._dropped))
        else:
            raise self._raised

    @contextlib.asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """While this measures; then what waits is reported, and the end, with the error that ended it, if one did."""
        error: str | None = None
        try:
            yield
        except IppmError as raised:
            error = str(raised)
            raise
        except asyncio.CancelledError:
            error = "interrupted"
            raise
        finally:
            await asyncio.to_thread(self.close, error)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._raised is not None:
                continue
            try:
                self._report(self._lines.line(item))
            except Exception as error:
                self._raised = error
                self.stop.set()
