"""Request-TW-Session. RFC 5357 section 3.5, RFC 6038 section 4.2."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ippm.errors import InvalidMessage
from ippm.iana import Command
from ippm.wire.octets import Address, exactly, fits, pack_address, unpack_address

_FORMAT = struct.Struct(">B B B B I I H H 16s 16s 16s I Q Q I H H 4x")


@dataclass(frozen=True, slots=True)
class RequestTwSession:
    """Request-TW-Session: 96 octets and an HMAC. Addresses None mean those of the Control connection.

    `start_time` and `timeout` are timestamps in the NTP format; `type_p` is the Type-P Descriptor.
    A non-zero Conf-Sender, Conf-Receiver, slot or packet number is a value here: the server answers it.
    `octets_to_be_reflected` (two octets) and `length_of_padding_to_reflect` have a meaning with Reflect Octets only.
    RFC 5357 section 3.5, RFC 4656 section 3.5, RFC 6038 section 4.2.
    """

    COMMAND: ClassVar[Command] = Command.REQUEST_TW_SESSION
    OCTETS: ClassVar[int] = _FORMAT.size

    sender_port: int
    receiver_port: int
    sender_address: Address | None = None
    receiver_address: Address | None = None
    padding_length: int = 0
    start_time: int = 0
    timeout: int = 0
    type_p: int = 0
    ipvn: int = 4
    conf_sender: int = 0
    conf_receiver: int = 0
    number_of_schedule_slots: int = 0
    number_of_packets: int = 0
    sid: bytes = bytes(16)
    octets_to_be_reflected: int = 0
    length_of_padding_to_reflect: int = 0

    @property
    def dscp(self) -> int | None:
        """The DSCP that Type-P asks for, or None when it is not of that form. RFC 4656 section 3.5."""
        return self.type_p >> 24 if self.type_p >> 30 == 0 else None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From exactly 96 octets, decrypted, without the HMAC. Raises InvalidMessage."""
        (
            command,
            version,
            conf_sender,
            conf_receiver,
            slots,
            packets,
            sender_port,
            receiver_port,
            sender,
            receiver,
            sid,
            padding,
            start_time,
            timeout,
            type_p,
            to_be_reflected,
            padding_to_reflect,
        ) = _FORMAT.unpack(exactly(data, cls.OCTETS, "Request-TW-Session"))
        if command != cls.COMMAND:
            raise InvalidMessage(f"Command Number {command} is not Request-TW-Session")
        ipvn = version & 0x0F
        return cls(
            sender_port=sender_port,
            receiver_port=receiver_port,
            sender_address=unpack_address(ipvn, sender),
            receiver_address=unpack_address(ipvn, receiver),
            padding_length=padding,
            start_time=start_time,
            timeout=timeout,
            type_p=type_p,
            ipvn=ipvn,
            conf_sender=conf_sender,
            conf_receiver=conf_receiver,
            number_of_schedule_slots=slots,
            number_of_packets=packets,
            sid=sid,
            octets_to_be_reflected=to_be_reflected,
            length_of_padding_to_reflect=padding_to_reflect,
        )

    def encode(self) -> bytes:
        """96 octets, not encrypted, without the HMAC."""
        return _FORMAT.pack(
            self.COMMAND,
            self.ipvn & 0x0F,
            self.conf_sender,
            self.conf_receiver,
            self.number_of_schedule_slots,
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
            self.octets_to_be_reflected,  # rfc6038-s4.2-01
            self.length_of_padding_to_reflect,  # rfc6038-s4.2-03
        )
