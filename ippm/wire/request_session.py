"""Request-Session of OWAMP. RFC 4656 section 3.5."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage, LocalProtocolError
from ippm.iana import Command
from ippm.wire.octets import Address, exactly, fits, pack_address, unpack_address
from ippm.wire.schedule_slot import SLOT, Slot, pack_slots, unpack_slots

_FORMAT = struct.Struct(">B B B B I I H H 16s 16s 16s I Q Q I 8x")
_SLOTS_AT = struct.Struct(">4xI")
MAXIMUM_SLOTS = 1 << 16
"""More slots than this in a Request-Session are not read: 1 MiB is the bound of the message in memory."""


@dataclass(frozen=True, slots=True)
class RequestSession:
    """Request-Session: 96 octets and an HMAC, then 16 octets a schedule slot and another HMAC.

    `conf_sender`: the server is to send, `conf_receiver`: it is to receive. `start_time` and `timeout` are timestamps
    in the NTP format; `type_p` is the Type-P Descriptor. Addresses None are all zeros. `sid` counts only when the
    server does not receive. RFC 4656 section 3.5.
    """

    COMMAND: ClassVar[Command] = Command.REQUEST_SESSION
    OCTETS: ClassVar[int] = _FORMAT.size

    conf_sender: bool
    conf_receiver: bool
    number_of_packets: int
    slots: tuple[Slot, ...]
    sender_port: int = 0
    receiver_port: int = 0
    sender_address: Address | None = None
    receiver_address: Address | None = None
    sid: bytes = bytes(16)
    padding_length: int = 0
    start_time: int = 0
    timeout: int = 0
    type_p: int = 0
    ipvn: int = 4

    @property
    def dscp(self) -> int | None:
        """The DSCP that Type-P asks for, or None when it is not of that form. RFC 4656 section 3.5."""
        return self.type_p >> 24 if self.type_p >> 30 == 0 else None

    @staticmethod
    def slots_octets(first_block: bytes) -> int:
        """The octets of the slots, told by the first block. InvalidMessage when they are more than will be read."""
        (number,) = _SLOTS_AT.unpack_from(first_block)
        if number > MAXIMUM_SLOTS:
            raise InvalidMessage(f"{number} schedule slots: at most {MAXIMUM_SLOTS} are read", accept=4)
        return int(number) * SLOT.size

    @classmethod
    def parse(cls, head: bytes, slots: bytes) -> Self:
        """From the two parts, decrypted, without their HMACs. Raises InvalidMessage."""
        fields = _FORMAT.unpack(exactly(head, cls.OCTETS, "Request-Session"))
        command, version, conf_sender, conf_receiver, number, packets, sender_port, receiver_port = fields[:8]
        sender, receiver, sid, padding, start_time, timeout, type_p = fields[8:]
        if command != cls.COMMAND:
            raise InvalidMessage(f"Command Number {command} is not Request-Session")
        ipvn = version & 0x0F
        return cls(
            conf_sender=conf_sender != 0,  # rfc4656-s3.5-05
            conf_receiver=conf_receiver != 0,
            number_of_packets=packets,
            slots=unpack_slots(exactly(slots, number * SLOT.size, "the schedule slots")),
            sender_port=sender_port,
            receiver_port=receiver_port,
            sender_address=unpack_address(ipvn, sender),
            receiver_address=unpack_address(ipvn, receiver),
            sid=sid,
            padding_length=padding,
            start_time=start_time,
            timeout=timeout,
            type_p=type_p,
            ipvn=ipvn,
        )

    def encode(self) -> tuple[bytes, bytes]:
        """The two parts, not encrypted, without their HMACs. LocalProtocolError when the server is to do nothing."""
        if not (self.conf_sender or self.conf_receiver):  # rfc4656-s3.5-07
            raise LocalProtocolError("a server is asked to send, or to receive, or both")
        head = _FORMAT.pack(
            self.COMMAND,
            self.ipvn & 0x0F,
            self.conf_sender,  # rfc4656-s3.5-04
            self.conf_receiver,
            len(self.slots),
            self.number_of_packets,
            self.sender_port,
            self.receiver_port,
            pack_address(self.sender_address),
            pack_address(self.receiver_address),
            fits("SID", self.sid, 16),
            self.padding_length,
            self.start_time,
            self.timeout,
            self.type_p,
        )
        return head, pack_slots(self.slots)
