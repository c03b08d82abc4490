"""How long a command is, once its first block of 16 octets is there.

A command is one or more parts, each of which ends with an HMAC.
RFC 4656 section 3, RFC 5357 section 3.5, RFC 5938 section 3.
"""

from __future__ import annotations

import struct

from ippm.errors import InvalidMessage
from ippm.iana import Command
from ippm.wire.n_sessions import NSessions
from ippm.wire.request_tw_session import RequestTwSession
from ippm.wire.start_sessions import StartSessions
from ippm.wire.stop_sessions import StopSessions

BLOCK_OCTETS = 16
MAXIMUM_SCHEDULE_SLOTS = 1024
"""More slots than this in a Request-Session are not read: the bound of a message in memory."""


def command_parts(first_block: bytes) -> tuple[int, ...]:
    """The octets of each part of a command, without HMACs, the first block counted.

    Raises InvalidMessage when the Command Number has no known length, or the length is out of bounds.
    """
    command = first_block[0]
    if command == Command.REQUEST_TW_SESSION:
        return (RequestTwSession.OCTETS,)
    if command == Command.START_SESSIONS:
        return (StartSessions.OCTETS,)
    if command == Command.STOP_SESSIONS:
        return (StopSessions.OCTETS,)
    if command in (Command.START_N_SESSIONS, Command.STOP_N_SESSIONS):
        return (NSessions.octets(first_block),)
    if command == Command.FETCH_SESSION:
        return (32,)
    if command == Command.REQUEST_SESSION:
        (slots,) = struct.unpack_from(">I", first_block, 4)
        if slots <= MAXIMUM_SCHEDULE_SLOTS:
            return (96, 16 * slots)
    raise InvalidMessage(f"Command Number {command} has no length known here")
