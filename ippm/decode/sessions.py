"""Test packets: which session a datagram belongs to, and what it says.

RFC 4656 section 4.1.2, RFC 5357 section 4.2.1, RFC 6038 section 5, RFC 7750 section 2.2, RFC 8186 section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from ippm.core.control_events import Endpoint
from ippm.core.key_log import TestKeys
from ippm.crypto import SessionKeys
from ippm.crypto_packet import REFLECTOR_COVERED, SENDER_COVERED, decrypt_unverified
from ippm.decode.messages import (
    HMAC_OCTETS,
    Decoded,
    Fields,
    Origin,
    differences,
    estimate_fields,
    not_zero,
    stamp_fields,
)
from ippm.decode.packets import UdpDatagram
from ippm.errors import InvalidMessage
from ippm.iana import OWAMP_PORT, TWAMP_PORT, Mode
from ippm.timestamps import DEFAULT_UTC_OFFSET_S, PTP_FLAG, ntp_from_ptp, unix_ns_from_ntp
from ippm.wire.test_packet import (
    REFLECTOR_OPEN,
    REFLECTOR_OPEN_MONITORED,
    REFLECTOR_SECURED,
    SENDER_OPEN,
    SENDER_SECURED,
    PacketLayout,
    PacketMode,
    ReflectorPacket,
    SenderPacket,
    check_length,
)

_NO_SID = bytes(16)
_A_DAY_NS = 86_400_000_000_000
SENDER_NAME = "Session-Sender packet"
REFLECTOR_NAME = "Session-Reflector packet"


@lru_cache(256)
def _layout(mode: int, reflected_octets: int) -> PacketLayout:
    return PacketLayout.of(mode, reflected_octets)


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a Test session. `mode` has the bits of TWAMP; `padding_octets` None: not known."""

    sid: bytes
    mode: Mode
    sender: Endpoint
    receiver: Endpoint
    origin: Origin
    keys: SessionKeys | None = field(default=None, repr=False)
    padding_octets: int | None = None
    reflected_octets: int = 0
    server_octets: int = 0

    @classmethod
    def logged(cls, entry: TestKeys) -> Session:
        """A session as a key log has it."""
        mode = Mode(entry.modes)
        if entry.protocol == "owamp":
            mode &= Mode.AUTHENTICATED | Mode.ENCRYPTED
        return cls(entry.sid, mode, entry.sender, entry.receiver, Origin(entry.protocol), entry.keys)

    @property
    def layout(self) -> PacketLayout:
        """Where the parts of its packets lie."""
        return _layout(int(self.mode), self.reflected_octets)


class Sessions:
    """All sessions; the newest of those with the same ports is meant."""

    def __init__(self, logged: Iterable[TestKeys] = ()) -> None:
        self._by_ends: dict[tuple[Endpoint, Endpoint], Session] = {}
        self._by_receiver: dict[Endpoint, Session] = {}
        for entry in logged:
            self.add(Session.logged(entry))

    def add(self, session: Session) -> None:
        """A session was agreed on."""
        self._by_ends[session.sender, session.receiver] = session
        self._by_receiver[session.receiver] = session

    def decode(self, datagram: UdpDatagram, time_ns: int) -> Decoded | None:
        """The test packet in a datagram; None when it belongs to no session that is known.

        A sender behind a NAT is known by the receiver's port alone, and so is one of TWAMP Light to its reflector.
        """
        ends = datagram.source, datagram.destination
        session = self._by_ends.get(ends)
        if session is not None:
            return _decode(session, "sender", datagram, time_ns)
        session = self._by_ends.get((ends[1], ends[0]))
        if session is not None and session.origin.protocol == "twamp":
            return _decode(session, "reflector", datagram, time_ns)
        session = self._at(ends[1])
        if session is not None:
            return _decode(session, "sender", datagram, time_ns)
        session = self._at(ends[0])
        if session is not None and session.origin.protocol == "twamp":
            return _decode(session, "reflector", datagram, time_ns)
        return _on_a_well_known_port(datagram, time_ns)

    def _at(self, receiver: Endpoint) -> Session | None:
        """The session that is received there, on this address or on all addresses of the host."""
        everywhere = ("::",) if ":" in receiver.host else ("0.0.0.0", "::")
        places = receiver, *(Endpoint(host, receiver.port) for host in everywhere)
        return next((session for place in places if (session := self._by_receiver.get(place))), None)


def _on_a_well_known_port(datagram: UdpDatagram, time_ns: int) -> Decoded | None:
    """A packet of no session that is known, as TWAMP Light has none: of open mode, when it has the stamp of its day.

    What is protected has other octets there. RFC 8545 section 7, RFC 5357 appendix I.
    """
    if len(datagram.data) < SENDER_OPEN.size:
        return None
    stamp = int.from_bytes(datagram.data[4:12])
    if datagram.data[12] & (PTP_FLAG >> 8):
        stamp = ntp_from_ptp(stamp, DEFAULT_UTC_OFFSET_S)
    if abs(unix_ns_from_ntp(stamp) - time_ns) > _A_DAY_NS:
        return None
    source, destination = datagram.source, datagram.destination
    for protocol, port in (("twamp", TWAMP_PORT), ("owamp", OWAMP_PORT)):
        if destination.port == port:
            session = Session(_NO_SID, Mode.OPEN, source, destination, Origin(protocol))
            return _decode(session, "sender", datagram, time_ns)
    if source.port == TWAMP_PORT:
        session = Session(_NO_SID, Mode.OPEN, destination, source, Origin("twamp"))
        return _decode(session, "reflector", datagram, time_ns)
    return None


@dataclass(slots=True)
class _Reading:
    """What is found in one datagram."""

    fields: Fields
    problems: list[str]
    decrypted: bool | None = None
    hmac: Literal["verified", "wrong"] | None = None


def _decode(
    session: Session, direction: Literal["sender", "reflector"], datagram: UdpDatagram, time_ns: int
) -> Decoded:
    found = _Reading({"sid": session.sid.hex(), "ttl": datagram.ttl, "dscp_ecn": datagram.dscp_ecn}, [])
    if len(datagram.data) < datagram.octets:
        found.problems.append(f"only {len(datagram.data)} of its {datagram.octets} octets were captured")
    try:
        if direction == "sender":
            _read_sender(session, datagram, found)
        else:
            _read_reflector(session, datagram.data, found)
    except InvalidMessage as error:
        found.problems.append(str(error))
    return Decoded(
        time_ns,
        datagram.source,
        datagram.destination,
        session.origin,
        "test",
        SENDER_NAME if direction == "sender" else REFLECTOR_NAME,
        datagram.octets,
        fields=found.fields,
        decrypted=found.decrypted,
        hmac=found.hmac,
        problems=found.problems,
    )


def _clear(session: Session, data: bytes, hmac_at: int, found: _Reading) -> bytes | None:
    """The clear text, None where nothing can be read without the key."""
    mode = session.layout.mode
    if session.keys is not None:
        clear, verified = decrypt_unverified(data, hmac_at, mode, session.keys)
        found.decrypted, found.hmac = True, "verified" if verified else "wrong"
        if not verified:
            found.problems.append("the HMAC does not verify")
        return clear
    check_length(data, hmac_at + HMAC_OCTETS)
    found.decrypted = False
    return data if mode is PacketMode.AUTHENTICATED else None


def _read_sender(session: Session, datagram: UdpDatagram, found: _Reading) -> None:
    layout, data = session.layout, datagram.data
    if layout.mode is PacketMode.OPEN:
        packet = _sender_open(data)
        found.problems += differences(data, packet.encode_open())
    else:
        clear = _clear(session, data, SENDER_COVERED, found)
        if clear is None:
            return
        packet = _sender_secured(clear)
        if found.decrypted:
            found.problems += differences(clear, packet.encode_secured())
    _number(found, "sequence_number", packet.sequence_number)
    _stamp(found, layout.ptp, "", packet.timestamp, packet.error_estimate)
    fixed, padding_at = layout.mode.sender_octets, layout.sender_octets
    found.problems += not_zero(data[fixed:padding_at], fixed, "MBZ of Symmetrical Size")
    padding = data[padding_at:]
    found.fields["padding_octets"] = max(0, datagram.octets - padding_at)
    if session.server_octets:
        found.fields["server_octets"] = padding[:2].hex()
        if int.from_bytes(padding[:2], "big") != session.server_octets:
            found.problems.append(f"{padding[:2].hex()} where Server octets {session.server_octets:04x} are due")
    if layout.reflected_octets:
        found.fields["to_be_reflected"] = padding[: layout.reflected_octets].hex()
    agreed = session.padding_octets
    if agreed is not None and datagram.octets != padding_at + agreed:
        found.problems.append(f"{datagram.octets} octets where {padding_at + agreed} were agreed on")


def _read_reflector(session: Session, data: bytes, found: _Reading) -> None:
    layout = session.layout
    if layout.mode is PacketMode.OPEN:
        packet = _reflector_open(data, monitored=layout.monitored)
        found.problems += differences(data, packet.encode_open())
    else:
        clear = _clear(session, data, REFLECTOR_COVERED, found)
        if clear is None:
            return
        packet = _reflector_secured(clear, monitored=layout.monitored)
        if found.decrypted:
            found.problems += differences(clear, packet.encode_secured())
    _number(found, "sequence_number", packet.sequence_number)
    _stamp(found, layout.ptp, "", packet.timestamp, packet.error_estimate)
    in_ptp = bool(packet.error_estimate & PTP_FLAG)
    found.fields |= stamp_fields("receive_timestamp", packet.receive_timestamp, ptp=in_ptp)
    found.fields["sender_sequence_number"] = packet.sender_sequence_number
    _stamp(found, layout.ptp, "sender_", packet.sender_timestamp, packet.sender_error_estimate)
    found.fields["sender_ttl"] = packet.sender_ttl
    if packet.sender_dscp_ecn is not None:
        found.fields["sender_dscp_ecn"] = packet.sender_dscp_ecn
    found.fields["padding_octets"] = len(packet.padding)
    if layout.reflected_octets:
        found.fields["reflected"] = packet.padding[: layout.reflected_octets].hex()
        if len(packet.padding) < layout.reflected_octets:
            found.problems.append(
                f"{len(packet.padding)} octets of padding where {layout.reflected_octets} are reflected"
            )


# The layouts, read without the checks of who has to act on a packet: a Multiplier of zero is shown.


def _sender_open(data: bytes) -> SenderPacket:
    check_length(data, SENDER_OPEN.size)
    sequence, stamp, estimate = SENDER_OPEN.unpack_from(data)
    return SenderPacket(sequence, stamp, estimate, data[SENDER_OPEN.size :])


def _sender_secured(data: bytes) -> SenderPacket:
    sequence, stamp, estimate, hmac = SENDER_SECURED.unpack_from(data)
    return SenderPacket(sequence, stamp, estimate, data[SENDER_SECURED.size :], hmac)


def _reflector_open(data: bytes, *, monitored: bool) -> ReflectorPacket:
    layout = REFLECTOR_OPEN_MONITORED if monitored else REFLECTOR_OPEN
    check_length(data, layout.size)
    first, t3, error, t2, sequence, t1, sender_error, ttl, *rest = layout.unpack_from(data)
    packet = ReflectorPacket(first, t3, error, t2, sequence, t1, sender_error, ttl, data[layout.size :])
    return replace(packet, sender_dscp_ecn=rest[0]) if monitored else packet


def _reflector_secured(data: bytes, *, monitored: bool) -> ReflectorPacket:
    first, t3, error, t2, sequence, t1, sender_error, ttl, dscp_ecn, hmac = REFLECTOR_SECURED.unpack_from(data)
    padding = data[REFLECTOR_SECURED.size :]
    packet = ReflectorPacket(first, t3, error, t2, sequence, t1, sender_error, ttl, padding, hmac)
    return replace(packet, sender_dscp_ecn=dscp_ecn) if monitored else packet


def _number(found: _Reading, name: str, value: int) -> None:
    """The first block of an authenticated packet is encrypted: without the key there is no number."""
    if found.decrypted is not False:
        found.fields[name] = value


def _stamp(found: _Reading, ptp: bool, prefix: str, stamp: int, estimate: int) -> None:
    found.fields |= stamp_fields(f"{prefix}timestamp", stamp, ptp=bool(estimate & PTP_FLAG))
    found.fields[f"{prefix}error_estimate"] = estimate_fields(estimate)
    if not estimate & 0xFF:
        found.problems.append(f"the Multiplier of {prefix}error_estimate is zero")
    if bool(estimate & PTP_FLAG) != ptp:
        what = "set, and PTP timestamps were not" if estimate & PTP_FLAG else "clear, and PTP timestamps were"
        found.problems.append(f"the Z bit of {prefix}error_estimate is {what} agreed on")
