"""A bounds-checked reader over octets: every read that would pass the end raises InvalidSyntax with its offset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    def _integer(self, count: int) -> int:
        return int.from_bytes(self.octets(count), "big")

    def uint8(self) -> int:
        """The next octet as a number."""
        return self._integer(1)

    def uint16(self) -> int:
        """The next two octets as a number."""
        return self._integer(2)

    def uint32(self) -> int:
        """The next four octets as a number."""
        return self._integer(4)

    def skip(self, count: int) -> None:
        """Pass over `count` octets: a RESERVED field, whose content is ignored."""
        self.octets(count)

    def rest(self) -> bytes:
        """All octets that are left."""
        return self.octets(self.remaining)

    def expect_end(self) -> None:
        """Raise when octets are left over."""
        if self.remaining:
            raise self.error(f"{self.remaining} octets too many")

    @contextmanager
    def restrict_to(self, count: int, *, payload: PayloadType | None = None) -> Iterator[Cursor]:
        """A cursor over exactly the next `count` octets, which the body of the `with` has to consume in full."""
        if count < 0 or count > self.remaining:
            raise self.error(f"a length of {count} octets, {self.remaining} left")
        inner = Cursor(
            self._data, start=self._position, end=self._position + count, payload=payload or self._payload
        )
        yield inner
        inner.expect_end()
        self._position += count
