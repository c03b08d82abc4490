"""What a role tells of its keys when somebody asked for a key log: a listener outside of the state machine.

RFC 4656 sections 3.1 and 4.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ippm.core.control_events import Endpoint
from ippm.crypto import SessionKeys


@dataclass(frozen=True, slots=True)
class ControlKeys:
    """The keys of one Control connection. `modes` is the Mode field of its Set-Up-Response; no key shows in `repr`.

    RFC 4656 section 3.1.
    """

    protocol: str
    modes: int
    client_iv: bytes
    server_iv: bytes
    keys: SessionKeys


@dataclass(frozen=True, slots=True)
class TestKeys:
    """The keys of one Test session, as they are used, however they were derived, and where its packets go.

    `sender` is the Session-Sender; `receiver` the Session-Receiver or Session-Reflector. RFC 4656 section 4.1.2.
    """

    __test__ = False

    protocol: str
    modes: int
    sid: bytes
    sender: Endpoint
    receiver: Endpoint
    keys: SessionKeys


class KeyLog(Protocol):
    """Takes the keys of each connection and session once, when they are known; must not raise."""

    def control(self, entry: ControlKeys) -> None:
        """A Control connection is set up."""
        ...

    def test(self, entry: TestKeys) -> None:
        """A Test session in a mode with keys was agreed on."""
        ...
