"""OWAMP-Test and TWAMP-Test packets: the layouts, with no cryptography in them.

Two layouts per role. `open` is the one of unauthenticated mode. `secured` is the one of authenticated and of
encrypted mode, which differ only in what is done to its octets (see `ippm.crypto_packet`); this module reads and
writes it in clear text. All MBZ octets are written as zero and ignored when read.
Where padding begins, and how much of it comes back, is the business of `PacketLayout`.
RFC 4656 section 4.1.2, RFC 5357 section 4.2.1, RFC 6038 section 5, RFC 7750 section 2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from ippm.errors import InvalidMessage
from ippm.iana import Mode

SENDER_OPEN = struct.Struct(">IQH")
"""Sequence Number, Timestamp, Error Estimate: 14 octets."""

SENDER_SECURED = struct.Struct(">I12xQH6x16s")
"""Sequence Number | MBZ 12 || Timestamp, Error Estimate, MBZ 6 || HMAC: 48 octets."""

REFLECTOR_OPEN = struct.Struct(">IQH2xQIQH2xB")  # rfc6038-s5.2.1-01, rfc6038-s5.2.3-02
"""Sequence Number, Timestamp, Error Estimate, MBZ 2, Receive Timestamp, Sender Sequence Number, Sender
Timestamp, Sender Error Estimate, MBZ 2, Sender TTL: 41 octets."""

REFLECTOR_OPEN_MONITORED = struct.Struct(">IQH2xQIQH2xBB2x")
"""The same with S-DSCP-ECN and MBZ 2 behind Sender TTL: 44 octets. RFC 7750 figure 2."""

REFLECTOR_SECURED = struct.Struct(">I12xQH6xQ8xI12xQH6xBB14x16s")
"""Sequence Number | MBZ 12 || Timestamp, Error Estimate, MBZ 6 || Receive Timestamp, MBZ 8 || Sender Sequence
Number, MBZ 12 || Sender Timestamp, Sender Error Estimate, MBZ 6 || Sender TTL, S-DSCP-ECN (else zero), MBZ 14 || HMAC:
112 octets. RFC 7750 figure 3.

The 104 of RFC 5357 section 4.2.1 is a mistake in its text (verified erratum 5045): its own figure has 112."""

HMAC_OCTETS = 16


class PacketMode(IntEnum):
    """How test packets are protected. RFC 4656 section 4.1.2."""

    OPEN = 1
    AUTHENTICATED = 2
    ENCRYPTED = 4

    @classmethod
    def of(cls, mode: int) -> Self:
        """The packet mode of a TWAMP-Modes word; in mixed mode test packets are open. RFC 5618 section 2."""
        if mode & cls.ENCRYPTED:
            return cls(cls.ENCRYPTED)
        if mode & cls.AUTHENTICATED:
            return cls(cls.AUTHENTICATED)
        # rfc5618-s4.1.2-01, rfc5618-s4.2-01
        return cls(cls.OPEN)  # rfc5618-s3.1-04, rfc5618-s4.1.2-02, rfc5618-s4.2-02

    @property
    def sender_octets(self) -> int:
        """The length of a Session-Sender packet without padding."""
        return SENDER_OPEN.size if self is PacketMode.OPEN else SENDER_SECURED.size

    @property
    def reflector_octets(self) -> int:
        """The length of a Session-Reflector packet without padding."""
        return REFLECTOR_OPEN.size if self is PacketMode.OPEN else REFLECTOR_SECURED.size


_SYMMETRICAL_MBZ = 27
_SYMMETRICAL_MBZ_MONITORED = 28
"""In unauthenticated mode, by RFC 6038 section 5.1.4; with S-DSCP-ECN by RFC 7750 figure 4, which leaves the reply,
4 octets longer since figure 2, two octets longer than the packet: these are taken from the padding."""


@dataclass(frozen=True, slots=True)
class PacketLayout:
    """Where the parts of a session's packets lie. `reflected_octets` of the padding come back unchanged.

    `sender_octets` and `reflector_octets` are what stands before the padding, MBZ octets of Symmetrical Size counted;
    `truncated_octets` of the padding are cut off for the reply to be as long as the packet.
    RFC 5357 section 4.2.1, RFC 6038 sections 5.1 and 5.2, RFC 7750 section 2.2.
    """

    mode: PacketMode
    sender_octets: int
    reflector_octets: int
    truncated_octets: int
    reflected_octets: int = 0
    monitored: bool = False
    ptp: bool = False

    @classmethod
    def of(cls, mode: int, reflected_octets: int = 0, tw_auth_pad: int = 64) -> Self:
        """The layout of a TWAMP-Modes word; `reflected_octets` counts only with Reflect Octets.

        With a `tw_auth_pad` of 56 (by the text of RFC 6038, not by the figures) replies of a keyed mode are 8 octets
        longer than their packets.
        """
        packet_mode = PacketMode.of(mode)
        is_open = packet_mode is PacketMode.OPEN
        monitored = bool(mode & Mode.DSCP_ECN_MONITORING)
        sender, reflector = packet_mode.sender_octets, packet_mode.reflector_octets
        if monitored and is_open:
            reflector = REFLECTOR_OPEN_MONITORED.size
        truncated = reflector - sender if is_open else symmetric_padding_octets(mode, tw_auth_pad)
        if mode & Mode.SYMMETRICAL_SIZE:  # rfc6038-s3-02
            open_mbz = _SYMMETRICAL_MBZ_MONITORED if monitored else _SYMMETRICAL_MBZ
            mbz = open_mbz if is_open else truncated
            # rfc6038-s5.1.4-01, rfc6038-s5.1.5-01, rfc6038-s5.2-02, rfc6038-s5.2.3-01
            sender, truncated = sender + mbz, truncated - mbz
        return cls(
            packet_mode,
            sender,
            reflector,
            truncated,
            reflected_octets if mode & Mode.REFLECT_OCTETS else 0,  # rfc6038-s3-01, rfc6038-s5.1.2-01
            monitored,
            bool(mode & Mode.PTP_TIMESTAMPS),
        )

    @property
    def least_padding_octets(self) -> int:
        """The padding with which the reply is as long as the packet and holds what is to be reflected."""
        return self.truncated_octets + self.reflected_octets


def symmetric_padding_octets(mode: int, tw_auth_pad: int = 64) -> int:
    """The padding with which a sender's packet is as long as the reply to it.

    27 in unauthenticated mode. RFC 5357 section 4.1.2 says 56 for the others, which follows from the mistaken 104;
    the figures need 64. `tw_auth_pad` (64 or 56) takes the one or the other.
    """
    if tw_auth_pad not in (56, 64):
        raise ValueError("tw_auth_pad is 64 (by the figures) or 56 (by the text of RFC 5357 section 4.1.2)")
    return 27 if PacketMode.of(mode) is PacketMode.OPEN else tw_auth_pad


@dataclass(frozen=True, slots=True)
class SenderPacket:
    """What a Session-Sender sends; also the OWAMP-Test packet. Stamps are NTP, error estimates their 16 bits.

    RFC 4656 section 4.1.2.
    """

    sequence_number: int
    timestamp: int
    error_estimate: int
    padding: bytes = b""
    hmac: bytes = bytes(HMAC_OCTETS)

    def encode_open(self) -> bytes:
        """The octets of unauthenticated mode."""
        # rfc5357-s4.2.1-12
        return SENDER_OPEN.pack(self.sequence_number, self.timestamp, self.error_estimate) + self.padding

    def encode_secured(self) -> bytes:
        """The octets of authenticated and encrypted modes, in clear text."""
        fixed = SENDER_SECURED.pack(self.sequence_number, self.timestamp, self.error_estimate, self.hmac)
        return fixed + self.padding

    @classmethod
    def parse_open(cls, data: bytes) -> Self:
        """Reads a packet of unauthenticated mode. InvalidMessage when short, or when Multiplier is zero."""
        check_length(data, SENDER_OPEN.size)
        sequence_number, timestamp, error_estimate = SENDER_OPEN.unpack_from(data)
        packet = cls(sequence_number, timestamp, error_estimate, data[SENDER_OPEN.size :])
        check_multiplier(packet.error_estimate)
        return packet

    @classmethod
    def parse_secured(cls, data: bytes) -> Self:
        """Reads the clear text of a packet of authenticated or encrypted mode. InvalidMessage as `parse_open`."""
        check_length(data, SENDER_SECURED.size)
        sequence_number, timestamp, error_estimate, hmac = SENDER_SECURED.unpack_from(data)
        check_multiplier(error_estimate)
        return cls(sequence_number, timestamp, error_estimate, data[SENDER_SECURED.size :], hmac)


@dataclass(frozen=True, slots=True)
class ReflectorPacket:
    """What a Session-Reflector sends. Stamps are NTP, error estimates their 16 bits.

    `sender_dscp_ecn` is S-DSCP-ECN, None where it is not monitored. RFC 5357 section 4.2.1, RFC 7750 section 2.2.1.
    """

    sequence_number: int
    timestamp: int
    error_estimate: int
    receive_timestamp: int
    sender_sequence_number: int
    sender_timestamp: int
    sender_error_estimate: int
    sender_ttl: int
    padding: bytes = b""
    hmac: bytes = bytes(HMAC_OCTETS)
    sender_dscp_ecn: int | None = None

    def encode_open(self) -> bytes:
        """The octets of unauthenticated mode."""
        if self.sender_dscp_ecn is None:
            return REFLECTOR_OPEN.pack(*self._fields()) + self.padding
        return REFLECTOR_OPEN_MONITORED.pack(*self._fields(), self.sender_dscp_ecn) + self.padding

    def encode_secured(self) -> bytes:
        """The octets of authenticated and encrypted modes, in clear text."""
        return REFLECTOR_SECURED.pack(*self._fields(), self.sender_dscp_ecn or 0, self.hmac) + self.padding

    def _fields(self) -> tuple[int, ...]:
        return (
            self.sequence_number,
            self.timestamp,
            self.error_estimate,
            self.receive_timestamp,
            self.sender_sequence_number,
            self.sender_timestamp,
            self.sender_error_estimate,
            self.sender_ttl,
        )

    @classmethod
    def parse_open(cls, data: bytes, *, monitored: bool = False) -> Self:
        """Reads a packet of unauthenticated mode. InvalidMessage when short, or when a Multiplier is zero."""
        layout = REFLECTOR_OPEN_MONITORED if monitored else REFLECTOR_OPEN
        check_length(data, layout.size)
        fields: tuple[int, ...] = layout.unpack_from(data)
        packet = cls._of(fields[:8], data[layout.size :], fields[8] if monitored else None)
        check_multiplier(packet.error_estimate)
        return packet

    @classmethod
    def parse_secured(cls, data: bytes, *, monitored: bool = False) -> Self:
        """Reads the clear text of a packet of authenticated or encrypted mode. InvalidMessage as `parse_open`."""
        check_length(data, REFLECTOR_SECURED.size)
        *fields, dscp_ecn, hmac = REFLECTOR_SECURED.unpack_from(data)
        packet = cls._of(fields, data[REFLECTOR_SECURED.size :], dscp_ecn if monitored else None, hmac)
        check_multiplier(packet.error_estimate)
        return packet

    @classmethod
    def _of(
        cls, fields: Sequence[int], padding: bytes, dscp_ecn: int | None, hmac: bytes = bytes(HMAC_OCTETS)
    ) -> Self:
        first, t3, error, t2, sequence, t1, sender_error, ttl = fields
        return cls(first, t3, error, t2, sequence, t1, sender_error, ttl, padding, hmac, dscp_ecn)


def check_length(data: bytes | bytearray | memoryview, octets: int) -> None:
    """InvalidMessage when a datagram is shorter than its fixed part."""
    if len(data) < octets:
        raise InvalidMessage(f"too short: {len(data)} octets of {octets}")


def check_multiplier(error_estimate: int) -> None:
    """InvalidMessage when the Multiplier of an Error Estimate is zero: the packet is corrupt."""
    if not error_estimate & 0xFF:  # rfc4656-s4.1.2-06
        raise InvalidMessage("Multiplier is zero")
