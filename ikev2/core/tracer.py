"""The trace of what the core does, for logs: messages, transitions, notes. Never a key."""

from __future__ import annotations

from typing import Protocol

from ikev2.core.types import Address


class Tracer(Protocol):
    """Takes lines; must not raise. `direction` is "in" or "out".

    One with an attribute `heard` that is False, for now or for ever, is not told of messages.
    """

    def message(self, direction: str, line: str, local: Address, remote: Address) -> None:
        """One message, described as `IKE_AUTH response 1 [ IDr AUTH SA TSi TSr ]`."""
        ...

    def transition(self, ike_sa: str, before: str, after: str, story: str) -> None:
        """An IKE SA went from one state to another; `story` is the row of the transition table."""
        ...

    def note(self, text: str) -> None:
        """Anything else that a person may want to know, e.g. why a message was dropped."""
        ...


def is_heard(tracer: Tracer) -> bool:
    """Whether a line about a message would go to anybody."""
    return bool(getattr(tracer, "heard", True))


class NullTracer:
    """Says nothing."""

    heard = False

    def message(self, direction: str, line: str, local: Address, remote: Address) -> None:
        """Nothing."""

    def transition(self, ike_sa: str, before: str, after: str, story: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class ListTracer:
    """Keeps lines, for tests and for showing an exchange."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, direction: str, line: str, local: Address, remote: Address) -> None:
        """Keeps `in IKE_SA_INIT request 0 [ SA KE No ]`."""
        self.lines.append(f"{direction} {line}")

    def transition(self, ike_sa: str, before: str, after: str, story: str) -> None:
        """Keeps `IDLE -> INIT_SENT: story`."""
        self.lines.append(f"{before} -> {after}: {story}")

    def note(self, text: str) -> None:
        """Keeps the text."""
        self.lines.append(text)
