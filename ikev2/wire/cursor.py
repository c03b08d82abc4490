"""A bounds-checked reader over octets: every read that would pass the end raises InvalidSyntax with its offset."""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Any

from ikev2.errors import InvalidSyntax
from ikev2.iana import PayloadType


class Cursor:
    """Reads big-endian integers and octets from `data[start:end]`.

    Offsets in errors count from the start of `data`, so a cursor over a whole message names octets of the message.
    `payload`, where given, is named in every error.
    """

    __slots__ = ("_data", "_end", "_payload", "_position")

    def __init__(
        self, data: bytes, *, start: int = 0, end: int | None = None, payload: PayloadType | None = None
    ) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end
        self._payload = payload

    def move(self, start: int, end: int, payload: PayloadType) -> None:
        """Read `data[start:end]` from now on, the body of a `payload`: one cursor serves a whole message."""
        self._position, self._end, self._payload = start, end, payload

    @property
    def position(self) -> int:
        """The offset of the next octet."""
        return self._position

    @property
    def remaining(self) -> int:
        """How many octets are left."""
        return self._end - self._position

    def error(self, message: str, *, at: int | None = None) -> InvalidSyntax:
        """An InvalidSyntax at this position (or at `at`), for the caller to raise."""
        return InvalidSyntax(message, offset=self._position if at is None else at, payload=self._payload)

    def octets(self, count: int) -> bytes:
        """The next `count` octets."""
        position = self._position
        if count < 0 or count > self._end - position:
            raise self.error(f"{count} octets wanted, {self._end - position} left")
        self._position = position + count
        return self._data[position : position + count]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of a fixed layout, which has to be there in full."""
        position = self._position
        if layout.size > self._end - position:
            raise self.error(f"{layout.size} octets wanted, {self._end - position} left")
        self._position = position + layout.size
        return layout.unpack_from(self._data, position)

    def uint8(self) -> int:
        """The next octet as a number."""
        return self.octets(1)[0]

    def uint16(self) -> int:
        """The next two octets as a number."""
        position = self._position
        if self._end - position < 2:
            raise self.error(f"2 octets wanted, {self._end - position} left")
        self._position = position + 2
        return self._data[position] << 8 | self._data[position + 1]

    def uint32(self) -> int:
        """The next four octets as a number."""
        return int.from_bytes(self.octets(4), "big")

    def skip(self, count: int) -> None:
        """Pass over `count` octets: a RESERVED field, whose content is ignored."""
        self.octets(count)

    def peek(self) -> bytes:
        """All octets that are left, without passing over them."""
        return self._data[self._position : self._end]

    def rest(self) -> bytes:
        """All octets that are left."""
        position, self._position = self._position, self._end
        return self._data[position : self._end]

    def expect_end(self) -> None:
        """Raise when octets are left over."""
        if self._position != self._end:
            raise self.error(f"{self.remaining} octets too many")

    def restrict_to(self, count: int, *, payload: PayloadType | None = None) -> Restricted:
        """A cursor over exactly the next `count` octets, which the body of the `with` has to consume in full."""
        return Restricted(self.part(count, payload=payload))

    def part(self, count: int, *, payload: PayloadType | None = None) -> Cursor:
        """The same without the `with`: the caller calls `expect_end` of what it gets."""
        start = self._position
        end = start + count
        if count < 0 or end > self._end:
            raise self.error(f"a length of {count} octets, {self._end - start} left")
        self._position = end
        return Cursor(self._data, start=start, end=end, payload=payload or self._payload)


class Restricted:
    """The context of `Cursor.restrict_to`: leaving it, unless by an error, demands that all was consumed."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Cursor) -> None:
        self._inner = inner

    def __enter__(self) -> Cursor:
        return self._inner

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._inner.expect_end()
