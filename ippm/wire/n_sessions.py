"""Start-N-Sessions, Start-N-Ack, Stop-N-Sessions and Stop-N-Ack: control of single sessions. RFC 5938 section 3.

one block: Command Number, Accept (in the acknowledgements), MBZ, Number of Sessions
one block: a SID, as many as that number says
one block: the HMAC
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage, LocalProtocolError
from ippm.iana import Accept, Command
from ippm.wire.octets import exactly, fits

_HEAD = struct.Struct(">B B 10x I")
SID_OCTETS = 16
MAXIMUM_SIDS = 4096
"""More SIDs than this in a message are not read: 64 KiB is the bound of the message in memory."""


@dataclass(frozen=True, slots=True)
class NSessions:
    """One of the four messages, by its `command`: 16 octets, 16 for each of `sids`, and an HMAC.

    `accept` is MBZ in the two commands. RFC 5938 sections 3.2 to 3.5.
    """

    COMMANDS: ClassVar[tuple[Command, ...]] = (Command.START_N_SESSIONS, Command.STOP_N_SESSIONS)
    ACKS: ClassVar[tuple[Command, ...]] = (Command.START_N_ACK, Command.STOP_N_ACK)

    command: Command
    sids: tuple[bytes, ...]
    accept: Accept = Accept.OK

    @staticmethod
    def octets(first_block: bytes) -> int:
        """How long the message is, without its HMAC, told by its first block. InvalidMessage when that is too much."""
        number = _HEAD.unpack_from(first_block)[2]
        if number > MAXIMUM_SIDS:
            raise InvalidMessage(f"{number} SIDs: at most {MAXIMUM_SIDS} are read", accept=4)
        return _HEAD.size + int(number) * SID_OCTETS

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the whole message, decrypted, without the HMAC. Raises InvalidMessage."""
        if len(data) < _HEAD.size:
            raise InvalidMessage(f"a message about N sessions has {len(data)} octets")
        number, accept, _ = _HEAD.unpack_from(data)
        command = Command(number)
        if command not in cls.COMMANDS + cls.ACKS:
            raise InvalidMessage(f"Command Number {number} is not about N sessions")
        exactly(data, cls.octets(data), str(command))  # rfc5938-s3.2-04, rfc5938-s3.4-05
        # rfc5938-s3.2-02, rfc5938-s3.3-02, rfc5938-s3.4-03, rfc5938-s3.5-03
        sids = tuple(data[at : at + SID_OCTETS] for at in range(_HEAD.size, len(data), SID_OCTETS))
        return cls(command, sids, Accept(accept) if command in cls.ACKS else Accept.OK)  # rfc5938-s1-02

    def encode(self) -> bytes:
        """Whole blocks, not encrypted, without the HMAC. LocalProtocolError without a SID."""
        if not self.sids or len(self.sids) > MAXIMUM_SIDS:
            # rfc5938-s3.2-03, rfc5938-s3.3-03, rfc5938-s3.4-01, rfc5938-s3.4-04, rfc5938-s3.5-04
            raise LocalProtocolError(f"{self.command} is about one session or more, not {len(self.sids)}")
        accept = self.accept if self.command in self.ACKS else 0
        # rfc5938-s3.2-08, rfc5938-s3.3-04, rfc5938-s3.4-08, rfc5938-s3.5-05
        head = _HEAD.pack(self.command, accept, len(self.sids))
        return head + b"".join(fits("SID", sid, SID_OCTETS) for sid in self.sids)
