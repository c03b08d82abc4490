"""How a table of the package takes rows from outside, and gives them back: for drafts and experiments.

Every `register` gives a Registration. It is undone by `undo()`, or at the end of a `with`. A row that is there already
is a Clash: what an RFC says is not for an extension to change.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Clash(ValueError):
    """A name, number or row is taken already."""


class Registration:
    """Something that was added, until it is undone. To undo it twice does nothing.

    `changes` counts what was added and taken back in this process: what was worked out of the tables before holds as
    long as the count stays the same.
    """

    changes: ClassVar[int] = 0

    def __init__(self, *undo: Callable[[], object]) -> None:
        self._undo = list(undo)
        Registration.changes += 1

    def undo(self) -> None:
        """Take it back."""
        Registration.changes += 1
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def register_row(table: MutableMapping[K, V], key: K, row: V, what: str) -> Registration:
    """Add a row to a table. Clash when there is one under this key; `what` names it there."""
    return register_rows((table, key, row, what))


def register_rows(*rows: tuple[MutableMapping[Any, Any], Any, Any, str]) -> Registration:
    """Add rows to several tables, or, with a Clash, to none."""
    for table, key, _, what in rows:
        if key in table:
            raise Clash(f"{what} is there already")
    for table, key, row, _ in rows:
        table[key] = row
    return Registration(*(partial(table.pop, key, None) for table, key, _, _ in rows))
