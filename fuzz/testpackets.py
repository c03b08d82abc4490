"""Test packets of the fuzzer, to a Session-Reflector, a Session-Sender and a Session-Receiver, in every mode.

The first octet chooses mode and features; then packets, each with its length. In the modes with keys the fuzzer's
packets are also sealed by the session's own protection, so that what is inside is reached. A reply is never longer
than RFC 5357 section 4.2.1 has it, and counts add up. RFC 4656 section 4, RFC 5357 section 4, RFC 6038 section 5.
"""

from __future__ import annotations

from ippm.core.schedule import FixedSchedule, Slot, SlotType
from ippm.core.session_receiver import ReceiverPlan, SessionReceiver
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_schedule import SessionSchedule
from ippm.core.session_sender import SenderPlan, SessionSender
from ippm.crypto import SessionKeys
from ippm.crypto_packet import TestProtection
from ippm.iana import Mode
from ippm.wire.packet_record import RECORD_OCTETS
from ippm.wire.test_packet import PacketLayout

SID = bytes(range(16))
NOW = 0xE0000000_00000000
KEYS = SessionKeys(bytes(16), bytes(32))
SECURITY = (Mode.OPEN, Mode.AUTHENTICATED, Mode.ENCRYPTED, Mode.MIXED)
FEATURES = (Mode.REFLECT_OCTETS, Mode.SYMMETRICAL_SIZE, Mode.DSCP_ECN_MONITORING, Mode.PTP_TIMESTAMPS)
PACKETS_MAX = 24
COUNT = 16
"""Packets of the sender's session, and of the receiver's."""


def test_packets(data: bytes) -> None:
    """Mode, then packets."""
    if not data:
        return
    mode = SECURITY[data[0] & 3]
    for number, bit in enumerate(FEATURES):
        if data[0] >> 2 + number & 1:
            mode |= bit
    keys = KEYS if mode & (Mode.AUTHENTICATED | Mode.ENCRYPTED) else None
    reflected = 12 if mode & Mode.REFLECT_OCTETS else 0
    layout = PacketLayout.of(mode, reflected, 64)
    local, remote = ("192.0.2.2", 18760), ("192.0.2.1", 18700)
    reflector = SessionReflector(
        ReflectorPlan(SID, mode, keys, local, remote, reflected_octets=reflected), lambda: NOW, 0x0A01
    )
    reflector.start(0)
    sender = SessionSender(
        SenderPlan(
            SID, mode, keys, remote, local, COUNT, FixedSchedule(1_000_000), padding_octets=40,
            reflected_octets=reflected,
        )
    )  # fmt: skip
    for sequence in range(COUNT):
        sender.prepare(sequence)
        sender.pack(sequence, NOW, 0x0A01)
    slots = (Slot(SlotType.FIXED, 1 << 22),)
    receiver = SessionReceiver(
        ReceiverPlan(SID, int(mode) & 7 or Mode.OPEN, keys, SessionSchedule(slots, SID, COUNT), NOW, 1 << 33),
        0x0A01,
    )
    protection = TestProtection.of(mode, keys)
    at = received = 0
    for _ in range(PACKETS_MAX):
        if at + 3 > len(data):
            break
        what, octets = data[at], int.from_bytes(data[at + 1 : at + 3], "big") % 2048
        packet, at = data[at + 3 : at + 3 + octets], at + 3 + octets
        if what & 4 and len(packet) >= 16:
            packet = _sealed(protection, layout, packet)
        reply = reflector.handle(packet, None, NOW, remote, what)
        if reply is not None:
            assert len(reply) == max(len(packet), layout.reflector_octets + reflected)
            sender.handle_reply(bytes(reply), 255, NOW, what)
        reflector.prepare()
        sender.handle_reply(packet, 255, NOW, what)
        received += receiver.handle(packet, 255, NOW)
    assert reflector.counters["reflected"] <= reflector.counters["received"]
    assert len(receiver.take_records()) == received * RECORD_OCTETS
    records = sender.records
    assert records.received + records.duplicates == len(records.arrivals)
    assert records.received <= COUNT


def _sealed(protection: TestProtection, layout: PacketLayout, octets: bytes) -> bytes:
    """A packet whose fields are the octets, as a genuine sender protects them; what follows is its padding."""
    made = bytearray(layout.sender_octets)
    sequence, stamp, error = (
        int.from_bytes(octets[:4], "big") % (2 * COUNT),
        int.from_bytes(octets[4:12], "big"),
        int.from_bytes(octets[12:14], "big"),
    )
    protection.prepare(sequence)
    protection.pack_sender_into(made, sequence, stamp, error)
    return bytes(made) + octets[16:]


test_packets.__test__ = False  # type: ignore[attr-defined]  # it is no test of pytest
