"""The states of an IKE SA. RFC 7296 names none: these follow its exchanges."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The states of an IKE SA; core/transitions.py says what leads from one to the other.

    REKEYING: our request for a new IKE SA is on its way; REKEYED: a new one has its place, and this one waits to be
    deleted.
    """

    IDLE = "IDLE"
    INIT_SENT = "INIT_SENT"
    HALF_OPEN = "HALF_OPEN"
    AUTH_SENT = "AUTH_SENT"
    ESTABLISHED = "ESTABLISHED"
    REKEYING = "REKEYING"
    REKEYED = "REKEYED"
    DELETING = "DELETING"
    CLOSED = "CLOSED"


WITH_PEER = (State.ESTABLISHED, State.REKEYING, State.REKEYED, State.DELETING)
"""The peer is authenticated, and there are keys."""
