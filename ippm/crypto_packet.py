"""Protection of test packets: what authenticated and encrypted mode do to the octets.

| mode | encrypted | HMAC covers | never protected |
| --- | --- | --- | --- |
| authenticated | the first block, AES-ECB | the first block | all the rest, stamps included |
| encrypted, sender | 32 octets, AES-CBC, IV zero | the same 32 octets | padding |
| encrypted, reflector | 96 octets, AES-CBC, IV zero | the same 96 octets | padding |

The HMAC (HMAC-SHA1, first 16 octets) is over the plaintext, is made before encryption, and is not encrypted.
Both directions of a session share the two keys, so in authenticated mode who sees a request can forge a reply.

`seal_*` and `open_*` are the readable form of this. `TestProtection` does the same on buffers that are used again
and again, with contexts that live as long as the session: one AES key schedule a session, none a packet. A running
CBC context starts from a zero IV again when its running IV, the last ciphertext block, is XORed
into the first block.
RFC 4656 section 4.1.2, RFC 5357 section 4.2.1, RFC 7750 section 2.2.1.
"""

from __future__ import annotations

import hmac as python_hmac
import struct
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from ippm.errors import IntegrityError, InvalidMessage, LocalProtocolError
from ippm.iana import Mode
from ippm.wire.test_packet import (
    HMAC_OCTETS,
    REFLECTOR_OPEN,
    REFLECTOR_OPEN_MONITORED,
    REFLECTOR_SECURED,
    SENDER_OPEN,
    SENDER_SECURED,
    PacketMode,
    ReflectorPacket,
    SenderPacket,
    check_length,
)

BLOCK = 16
SENDER_COVERED = 32
REFLECTOR_COVERED = 96
_ZERO_IV = bytes(BLOCK)

Buffer = bytearray | memoryview
Octets = bytes | bytearray | memoryview
SenderFields = tuple[int, int, int]
"""sequence_number, timestamp, error_estimate."""
ReflectorFields = tuple[int, int, int, int, int, int, int, int, int]
"""sequence_number, timestamp, error_estimate, receive_timestamp, sender_sequence_number, sender_timestamp,
sender_error_estimate, sender_ttl, sender_dscp_ecn (zero where it is not monitored)."""


class PacketKeys(Protocol):
    """The two keys of a test session: `ippm.crypto.SessionKeys`."""

    @property
    def aes(self) -> bytes:
        """16 octets."""

    @property
    def hmac(self) -> bytes:
        """32 octets."""


# The readable form.


def _covered(mode: PacketMode, octets: int) -> int:
    return BLOCK if mode is PacketMode.AUTHENTICATED else octets


def seal_clear(clear: bytes, hmac_at: int, mode: PacketMode, keys: PacketKeys) -> bytes:
    """The datagram of a protected mode, of its clear text whose HMAC field counts for nothing.

    `hmac_at` is SENDER_COVERED or REFLECTOR_COVERED. RFC 4656 section 4.1.2.
    """
    covered = _covered(mode, hmac_at)
    tag = python_hmac.digest(keys.hmac, clear[:covered], "sha1")[:HMAC_OCTETS]  # rfc5357-s4.2-04: before encryption
    # One block under CBC with a zero IV is the same as ECB.
    encryptor = Cipher(algorithms.AES(keys.aes), modes.CBC(_ZERO_IV)).encryptor()
    sealed = encryptor.update(clear[:covered])
    # rfc5357-s4.2.1-04, -08, -09: neither the HMAC nor the padding is encrypted
    return sealed + clear[covered:hmac_at] + tag + clear[hmac_at + HMAC_OCTETS :]


def decrypt_unverified(data: bytes, hmac_at: int, mode: PacketMode, keys: PacketKeys) -> tuple[bytes, bool]:
    """The clear text of a datagram of a protected mode, and whether its HMAC is right: for whoever only looks.

    `hmac_at` is SENDER_COVERED or REFLECTOR_COVERED. InvalidMessage when it is short. RFC 4656 section 4.1.2.
    """
    check_length(data, hmac_at + HMAC_OCTETS)
    covered = _covered(mode, hmac_at)
    decryptor = Cipher(algorithms.AES(keys.aes), modes.CBC(_ZERO_IV)).decryptor()
    clear = decryptor.update(data[:covered])
    tag = python_hmac.digest(keys.hmac, clear, "sha1")[:HMAC_OCTETS]
    return clear + data[covered:], python_hmac.compare_digest(tag, data[hmac_at : hmac_at + HMAC_OCTETS])


def _open(data: bytes, hmac_at: int, mode: PacketMode, keys: PacketKeys) -> bytes:
    clear, verified = decrypt_unverified(data, hmac_at, mode, keys)
    if not verified:
        raise IntegrityError("HMAC does not verify")
    return clear


def seal_sender(packet: SenderPacket, mode: int, keys: PacketKeys | None) -> bytes:
    """The datagram of a Session-Sender packet. RFC 4656 section 4.1.2."""
    packet_mode = PacketMode.of(mode)
    if packet_mode is PacketMode.OPEN:
        return packet.encode_open()
    clear = replace(packet, hmac=bytes(HMAC_OCTETS)).encode_secured()
    return seal_clear(clear, SENDER_COVERED, packet_mode, _needed(keys))


def open_sender(data: bytes, mode: int, keys: PacketKeys | None) -> SenderPacket:
    """Reads and verifies a Session-Sender packet: InvalidMessage, IntegrityError. RFC 4656 section 4.1.2."""
    packet_mode = PacketMode.of(mode)
    if packet_mode is PacketMode.OPEN:
        return SenderPacket.parse_open(data)
    return SenderPacket.parse_secured(_open(data, SENDER_COVERED, packet_mode, _needed(keys)))


def seal_reflector(packet: ReflectorPacket, mode: int, keys: PacketKeys | None) -> bytes:
    """The datagram of a Session-Reflector packet. RFC 5357 section 4.2.1."""
    packet_mode = PacketMode.of(mode)
    if packet_mode is PacketMode.OPEN:
        return packet.encode_open()
    clear = replace(packet, hmac=bytes(HMAC_OCTETS)).encode_secured()
    return seal_clear(clear, REFLECTOR_COVERED, packet_mode, _needed(keys))


def open_reflector(data: bytes, mode: int, keys: PacketKeys | None) -> ReflectorPacket:
    """Reads and verifies a Session-Reflector packet: InvalidMessage, IntegrityError. RFC 5357 section 4.2.1."""
    packet_mode, monitored = PacketMode.of(mode), bool(mode & Mode.DSCP_ECN_MONITORING)
    if packet_mode is PacketMode.OPEN:
        return ReflectorPacket.parse_open(data, monitored=monitored)
    clear = _open(data, REFLECTOR_COVERED, packet_mode, _needed(keys))
    return ReflectorPacket.parse_secured(clear, monitored=monitored)


def _needed(keys: PacketKeys | None) -> PacketKeys:
    if keys is None:
        raise LocalProtocolError("authenticated and encrypted mode need session keys")
    return keys


# The fast form.


class TestProtection(ABC):
    """Packs and unpacks the test packets of one session, in one mode, with nothing made anew for a packet.

    Not for use by two threads at once. `pack_*_into` writes the fixed part only: padding is the caller's.
    `unpack_*` takes the whole datagram and raises InvalidMessage (short; Multiplier zero) or IntegrityError.
    Make one with `TestProtection.of`.
    """

    __test__ = False  # not a test case of pytest

    mode: PacketMode

    @staticmethod
    def of(mode: int, keys: PacketKeys | None = None) -> TestProtection:
        """The protection of a TWAMP-Modes word. LocalProtocolError when the mode needs keys and there are none."""
        packet_mode, monitored = PacketMode.of(mode), bool(mode & Mode.DSCP_ECN_MONITORING)
        if packet_mode is PacketMode.OPEN:
            return OpenMonitoredProtection() if monitored else OpenProtection()
        if packet_mode is PacketMode.AUTHENTICATED:
            return AuthenticatedProtection(_needed(keys), monitored=monitored)
        return EncryptedProtection(_needed(keys), monitored=monitored)

    @property
    def sender_octets(self) -> int:
        """The length of a Session-Sender packet without padding."""
        return self.mode.sender_octets

    @property
    def reflector_octets(self) -> int:
        """The length of a Session-Reflector packet without padding."""
        return self.mode.reflector_octets

    @abstractmethod
    def pack_sender_into(self, buffer: Buffer, sequence: int, timestamp: int, error_estimate: int) -> None:
        """Writes a Session-Sender packet at the start of `buffer`."""

    @abstractmethod
    def unpack_sender(self, data: Octets) -> SenderFields:
        """Reads and verifies a Session-Sender packet."""

    @abstractmethod
    def pack_reflector_into(
        self,
        buffer: Buffer,
        sequence: int,
        timestamp: int,
        error_estimate: int,
        receive_timestamp: int,
        sender: SenderFields,
        sender_ttl: int,
        sender_dscp_ecn: int = 0,
    ) -> None:
        """Writes a Session-Reflector packet at the start of `buffer`."""

    @abstractmethod
    def unpack_reflector(self, data: Octets) -> ReflectorFields:
        """Reads and verifies a Session-Reflector packet."""

    def prepare(self, sequence: int) -> None:  # noqa: B027
        """Does beforehand what can be done for the packet with this sequence number before its stamp is known."""


class OpenProtection(TestProtection):
    """Unauthenticated mode: neither encryption nor authentication (rfc5357-s4.2.1-12)."""

    mode = PacketMode.OPEN

    def pack_sender_into(self, buffer: Buffer, sequence: int, timestamp: int, error_estimate: int) -> None:
        """Writes 14 octets."""
        # rfc5357-s4.2.1-12
        SENDER_OPEN.pack_into(buffer, 0, sequence, timestamp, error_estimate)  # rfc5357-s4.2.1-12

    def unpack_sender(self, data: Octets) -> SenderFields:
        """Reads 14 octets."""
        if len(data) < 14:
            raise InvalidMessage("too short")
        fields: SenderFields = SENDER_OPEN.unpack_from(data)
        if not fields[2] & 0xFF:  # rfc4656-s4.1.2-06
            raise InvalidMessage("Multiplier is zero")
        return fields

    def pack_reflector_into(
        self,
        buffer: Buffer,
        sequence: int,
        timestamp: int,
        error_estimate: int,
        receive_timestamp: int,
        sender: SenderFields,
        sender_ttl: int,
        sender_dscp_ecn: int = 0,
    ) -> None:
        """Writes 41 octets."""
        REFLECTOR_OPEN.pack_into(
            buffer, 0, sequence, timestamp, error_estimate, receive_timestamp, *sender, sender_ttl
        )

    def unpack_reflector(self, data: Octets) -> ReflectorFields:
        """Reads 41 octets."""
        if len(data) < 41:
            raise InvalidMessage("too short")
        fields: ReflectorFields = (*REFLECTOR_OPEN.unpack_from(data), 0)
        if not fields[2] & 0xFF:
            raise InvalidMessage("Multiplier is zero")
        return fields


class OpenMonitoredProtection(OpenProtection):
    """Unauthenticated mode with DSCP and ECN Monitoring. RFC 7750 figure 2."""

    @property
    def reflector_octets(self) -> int:
        """44."""
        return REFLECTOR_OPEN_MONITORED.size

    def pack_reflector_into(
        self,
        buffer: Buffer,
        sequence: int,
        timestamp: int,
        error_estimate: int,
        receive_timestamp: int,
        sender: SenderFields,
        sender_ttl: int,
        sender_dscp_ecn: int = 0,
    ) -> None:
        """Writes 44 octets."""
        REFLECTOR_OPEN_MONITORED.pack_into(
            buffer, 0, sequence, timestamp, error_estimate, receive_timestamp, *sender, sender_ttl, sender_dscp_ecn
        )

    def unpack_reflector(self, data: Octets) -> ReflectorFields:
        """Reads 44 octets."""
        if len(data) < 44:
            raise InvalidMessage("too short")
        fields: ReflectorFields = REFLECTOR_OPEN_MONITORED.unpack_from(data)
        if not fields[2] & 0xFF:
            raise InvalidMessage("Multiplier is zero")
        return fields


class _Keyed(TestProtection):
    """What both keyed modes share: the HMAC context, copied for each packet."""

    def __init__(self, keys: PacketKeys, *, monitored: bool = False) -> None:
        self._not_monitored = () if monitored else (0,)
        """What stands for S-DSCP-ECN in the fields of a reply whose layout has none: the octet is MBZ there."""
        self._hmac = HMAC(keys.hmac, hashes.SHA1())  # noqa: S303  HMAC-SHA1 is what RFC 4656 section 3.2 names

    def _tag(self, data: Octets) -> bytes:
        context = self._hmac.copy()
        context.update(data)
        return context.finalize()[:HMAC_OCTETS]


_FIRST_BLOCK = struct.Struct(">I12x")
_STAMP_AND_ERROR = struct.Struct(">QH6x")
_REPLY_MIDDLE = struct.Struct(">QH6xQ8xI12xQH6xBB14x")
_REPLY_CLEAR = struct.Struct(">QH6xQ8xI12xQH6xB")
_REPLY_CLEAR_MONITORED = struct.Struct(">QH6xQ8xI12xQH6xBB")


class AuthenticatedProtection(_Keyed):
    """The first block under AES-ECB and the HMAC; everything after it is clear text.

    The first block and its HMAC depend on the sequence number alone, so `prepare` makes them before the packet's
    time comes, and only the stamps are written at the last moment.
    """

    mode = PacketMode.AUTHENTICATED

    def __init__(self, keys: PacketKeys, *, monitored: bool = False) -> None:
        super().__init__(keys, monitored=monitored)
        self._clear = _REPLY_CLEAR_MONITORED if monitored else _REPLY_CLEAR
        cipher = Cipher(algorithms.AES(keys.aes), modes.ECB())  # noqa: S305  one block: RFC 4656 section 4.1.2
        self._encryptor: CipherContext = cipher.encryptor()
        self._decryptor: CipherContext = cipher.decryptor()
        self._prepared_sequence = -1
        self._prepared_block = b""
        self._prepared_tag = b""

    def prepare(self, sequence: int) -> None:
        """Makes the first block and the HMAC of the packet with this sequence number."""
        block = _FIRST_BLOCK.pack(sequence)
        self._prepared_tag = self._tag(block)  # rfc5357-s4.2-04: the HMAC first
        self._prepared_block = self._encryptor.update(block)
        self._prepared_sequence = sequence

    def pack_sender_into(self, buffer: Buffer, sequence: int, timestamp: int, error_estimate: int) -> None:
        """Writes 48 octets."""
        if sequence != self._prepared_sequence:
            self.prepare(sequence)
        buffer[0:16] = self._prepared_block
        buffer[32:48] = self._prepared_tag
        _STAMP_AND_ERROR.pack_into(buffer, 16, timestamp, error_estimate)

    def unpack_sender(self, data: Octets) -> SenderFields:
        """Reads and verifies 48 octets."""
        if len(data) < 48:
            raise InvalidMessage("too short")
        sequence = self._first_block(data, 32)
        timestamp, error_estimate = _STAMP_AND_ERROR.unpack_from(data, 16)
        if not error_estimate & 0xFF:  # rfc4656-s4.1.2-06
            raise InvalidMessage("Multiplier is zero")
        return sequence, timestamp, error_estimate

    def pack_reflector_into(
        self,
        buffer: Buffer,
        sequence: int,
        timestamp: int,
        error_estimate: int,
        receive_timestamp: int,
        sender: SenderFields,
        sender_ttl: int,
        sender_dscp_ecn: int = 0,
    ) -> None:
        """Writes 112 octets."""
        if sequence != self._prepared_sequence:
            self.prepare(sequence)
        buffer[0:16] = self._prepared_block
        buffer[96:112] = self._prepared_tag
        _REPLY_MIDDLE.pack_into(
            buffer, 16, timestamp, error_estimate, receive_timestamp, *sender, sender_ttl, sender_dscp_ecn
        )

    def unpack_reflector(self, data: Octets) -> ReflectorFields:
        """Reads and verifies 112 octets."""
        if len(data) < 112:
            raise InvalidMessage("too short")
        sequence = self._first_block(data, 96)
        fields: ReflectorFields = (sequence, *self._clear.unpack_from(data, 16), *self._not_monitored)
        if not fields[2] & 0xFF:
            raise InvalidMessage("Multiplier is zero")
        return fields

    def _first_block(self, data: Octets, hmac_at: int) -> int:
        block = self._decryptor.update(data[:16])
        if not python_hmac.compare_digest(self._tag(block), data[hmac_at : hmac_at + 16]):  # rfc4656-s4.2-07c
            raise IntegrityError("HMAC does not verify")
        return int.from_bytes(block[:4], "big")


class _CbcFromZero:
    """AES-CBC with a zero IV for every message, on one context that is never made anew.

    The running IV of the context, the last ciphertext block, is XORed away from the first block.
    """

    def __init__(self, aes_key: bytes) -> None:
        cipher = Cipher(algorithms.AES(aes_key), modes.CBC(_ZERO_IV))
        self._encryptor: CipherContext = cipher.encryptor()
        self._decryptor: CipherContext = cipher.decryptor()
        self._encrypt_running = 0
        self._decrypt_running = 0

    def encrypt(self, clear: bytes) -> bytes:
        first = int.from_bytes(clear[:16], "big") ^ self._encrypt_running
        sealed = self._encryptor.update(first.to_bytes(16, "big") + clear[16:])
        self._encrypt_running = int.from_bytes(sealed[-16:], "big")
        return sealed

    def decrypt(self, sealed: Octets) -> bytes:
        clear = self._decryptor.update(sealed)
        first = int.from_bytes(clear[:16], "big") ^ self._decrypt_running
        self._decrypt_running = int.from_bytes(sealed[-16:], "big")
        return first.to_bytes(16, "big") + clear[16:]


_SENDER_CLEAR = struct.Struct(">I12xQH6x")
_REFLECTOR_CLEAR = struct.Struct(">I12xQH6xQ8xI12xQH6xBB14x")
_REFLECTOR_CLEAR_PLAIN = struct.Struct(">I12xQH6xQ8xI12xQH6xB15x")


class EncryptedProtection(_Keyed):
    """32 (sender) or 96 (reflector) octets under AES-CBC with a zero IV, and the HMAC over their plaintext."""

    mode = PacketMode.ENCRYPTED

    def __init__(self, keys: PacketKeys, *, monitored: bool = False) -> None:
        super().__init__(keys, monitored=monitored)
        self._clear = _REFLECTOR_CLEAR if monitored else _REFLECTOR_CLEAR_PLAIN
        self._cbc = _CbcFromZero(keys.aes)

    def pack_sender_into(self, buffer: Buffer, sequence: int, timestamp: int, error_estimate: int) -> None:
        """Writes 48 octets."""
        clear = _SENDER_CLEAR.pack(sequence, timestamp, error_estimate)
        buffer[32:48] = self._tag(clear)  # rfc5357-s4.2-04: the HMAC first
        buffer[0:32] = self._cbc.encrypt(clear)

    def unpack_sender(self, data: Octets) -> SenderFields:
        """Reads and verifies 48 octets."""
        if len(data) < 48:
            raise InvalidMessage("too short")
        fields: SenderFields = _SENDER_CLEAR.unpack(self._open(data, 32))
        if not fields[2] & 0xFF:  # rfc4656-s4.1.2-06
            raise InvalidMessage("Multiplier is zero")
        return fields

    def pack_reflector_into(
        self,
        buffer: Buffer,
        sequence: int,
        timestamp: int,
        error_estimate: int,
        receive_timestamp: int,
        sender: SenderFields,
        sender_ttl: int,
        sender_dscp_ecn: int = 0,
    ) -> None:
        """Writes 112 octets. rfc5357-s4.2.1-13: stamps, then HMAC, then encryption."""
        clear = _REFLECTOR_CLEAR.pack(
            sequence, timestamp, error_estimate, receive_timestamp, *sender, sender_ttl, sender_dscp_ecn
        )
        buffer[96:112] = self._tag(clear)  # rfc5357-s4.2.1-13, rfc5357-s4.2.1-13
        buffer[0:96] = self._cbc.encrypt(clear)

    def unpack_reflector(self, data: Octets) -> ReflectorFields:
        """Reads and verifies 112 octets."""
        if len(data) < 112:
            raise InvalidMessage("too short")
        fields: ReflectorFields = (*self._clear.unpack(self._open(data, 96)), *self._not_monitored)
        if not fields[2] & 0xFF:
            raise InvalidMessage("Multiplier is zero")
        return fields

    def _open(self, data: Octets, covered: int) -> bytes:
        clear = self._cbc.decrypt(data[:covered])
        if not python_hmac.compare_digest(self._tag(clear), data[covered : covered + 16]):  # rfc4656-s4.2-07c
            raise IntegrityError("HMAC does not verify")
        return clear


def aes_counter_blocks(key: bytes, first: int, count: int, step: int) -> bytes:
    """AES-ECB of the 16-octet counters `first`, `first + step`, ...: algorithm Unif. RFC 4656 section 5.3."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(b"".join((first + step * i).to_bytes(16, "big") for i in range(count)))


assert SENDER_SECURED.size == SENDER_COVERED + HMAC_OCTETS  # noqa: S101
assert REFLECTOR_SECURED.size == REFLECTOR_COVERED + HMAC_OCTETS  # noqa: S101
