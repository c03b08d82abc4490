"""What the endpoint says about itself: lines in strongSwan's phrasing, kept in a ring, followed by listeners.

Every line has a subsystem as charon has them: NET datagrams, ENC messages, IKE and CHD the two kinds of SA, CFG,
KNL the Child SA backend, LIB the rest. No line ever holds a key: nothing here is given one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ikev2.core.types import Address

DEFAULT_LINES = 10_000


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of the log; `time_ns` is Unix time, `number` counts from 1."""

    number: int
    time_ns: int
    subsystem: str
    text: str

    def __str__(self) -> str:
        seconds, rest = divmod(self.time_ns, 10**9)
        clock = time.strftime("%H:%M:%S", time.localtime(seconds))
        return f"{clock}.{rest // 1_000_000:03d} [{self.subsystem}] {self.text}"

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"number": self.number, "time_ns": self.time_ns, "subsystem": self.subsystem, "text": self.text}


Listener: TypeAlias = Callable[[LogRecord], None]


class LogRing:
    """The last `lines` lines, and those who want to hear of new ones. It is the core's tracer, too.

    With 0 lines kept and nobody who listens no line is made at all: `heard` is False then.
    """

    def __init__(self, lines: int = DEFAULT_LINES) -> None:
        # The fields of LogRecord: made of them when somebody wants to see the line.
        self._lines: deque[tuple[int, int, str, str]] = deque(maxlen=lines)
        self._listeners: list[Listener] = []
        self._number = 0
        self.heard = lines > 0
        """Whether a line would be kept, or go to anybody: who asks need not make one."""

    def log(self, subsystem: str, text: str) -> None:
        """Add a line. Control characters in it, which may come from a peer, are shown, not obeyed."""
        if not self.heard:
            return
        self._number += 1
        line = (self._number, time.time_ns(), subsystem, _printable(text))
        self._lines.append(line)
        for listener in tuple(self._listeners):
            listener(LogRecord(*line))

    def records(self, last: int | None = None) -> list[LogRecord]:
        """The newest `last` lines (or all that are kept), oldest first."""
        lines = list(self._lines)
        return [LogRecord(*line) for line in (lines if last is None else lines[max(0, len(lines) - last) :])]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each new line, until the function returned is called."""
        self._listeners.append(listener)
        self.heard = True

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
            self.heard = bool(self._listeners or self._lines.maxlen)

        return unsubscribe

    def message(self, direction: str, line: str, local: Address, remote: Address) -> None:
        """The core parsed or made a message."""
        self.log("ENC", f"{'parsed' if direction == 'in' else 'generating'} {line}")

    def transition(self, ike_sa: str, before: str, after: str, story: str) -> None:
        """An IKE SA went from one state to another."""
        if not self.heard:
            return
        self.log("IKE", f"IKE_SA {ike_sa} state change: {before} => {after}: {story}")

    def note(self, text: str) -> None:
        """Anything else that the core has to say."""
        self.log("IKE", text)

    def datagram(self, *, outbound: bool, octets: int, local: Address, remote: Address) -> None:
        """A datagram left or came."""
        source, destination = (local, remote) if outbound else (remote, local)
        verb = "sending" if outbound else "received"
        self.log(
            "NET",
            f"{verb} packet: from {source.host}[{source.port}] to {destination.host}[{destination.port}] "
            f"({octets} bytes)",
        )


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
