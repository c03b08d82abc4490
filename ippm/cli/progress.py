"""What is shown of a long run, on stderr when that is a terminal, and gone at its end; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LONG_S = 2.0
"""Shorter runs show nothing."""

REFRESHES_PER_S = 2.0
"""Few, since the program that draws is the one that sends on time."""


@contextmanager
def shown(expected_s: float | None) -> Iterator[None]:
    """While this runs, how much of the expected time has passed; None or a short time shows nothing."""
    console = _terminal()
    if console is None or expected_s is None or expected_s < LONG_S:
        yield
        return
    from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress_bar import ProgressBar

    class Passed(ProgressColumn):
        def render(self, task: Task) -> ProgressBar:
            """The bar, by time: packets are counted when they are all in."""
            total = task.total or 1.0
            return ProgressBar(total, min(task.elapsed or 0.0, total), width=40)

    columns = (
        TextColumn("{task.description}"),
        Passed(),
        TimeElapsedColumn(),
        TextColumn(f"of about {expected_s:.0f} s"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=REFRESHES_PER_S) as progress:
        progress.add_task("measuring", total=expected_s)
        yield


@contextmanager
def counted() -> Iterator[Callable[[dict[str, Any]], None]]:
    """For lines of `--continuous`: what was counted so far, unless the lines themselves go to the terminal."""
    console = _terminal()
    if console is None or sys.stdout.isatty():
        yield lambda line: None
        return
    with console.status("measuring", refresh_per_second=REFRESHES_PER_S) as status:

        def tell(line: dict[str, Any]) -> None:
            total = line["total"]
            ways = [way for way in (total.get("to"), total.get("from")) if way] if "to" in total else [total]
            sent, lost = (sum(way[word] for way in ways) for word in ("sent", "lost"))
            status.update(f"measuring: {sent} sent, {lost} lost")

        yield tell


def _terminal() -> Console | None:
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console
