"""The IKE messages of a capture, decrypted where a key log has their keys.

An IKE message is recognised by what it is (version 2, a Length that fits), not by its port alone: tests use
others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ikev2.core.config import Identity
from ikev2.core.types import Address
from ikev2.crypto.protect import SkCipher
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import IkeError, ProtocolError
from ikev2.iana import ExchangeType, PayloadType
from ikev2.io.decode_text import message_lines
from ikev2.io.frames import UdpDatagram, find_udp
from ikev2.io.keylog import LoggedIkeSa, read_ike_table
from ikev2.io.pcap import read_capture
from ikev2.ipsec.backend import NON_ESP_MARKER
from ikev2.ipsec.fragments import Reassembler
from ikev2.ipsec.ipv4 import HEADER_OCTETS as IPV4_HEADER_OCTETS
from ikev2.ipsec.ipv4 import MalformedPacket
from ikev2.wire.header import HEADER_OCTETS, Header
from ikev2.wire.message import Message, describe, parse_payloads, received_prefix
from ikev2.wire.payloads import Encrypted, EncryptedFragment, IdI, IdR, Payload

IKE_PORTS = frozenset((500, 4500))

_Fragments = dict[tuple[bytes, bytes, int, int, int], dict[int, tuple[PayloadType, bytes]]]
"""SPIs, flags, Message ID and Total Fragments -> Fragment Number -> first payload and content."""


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """One message of a capture. `inner` are the decrypted payloads; `problem` says why there are none.

    A fragmented message has them at the fragment that completes it.
    """

    time_ns: int
    source: Address
    destination: Address
    header: Header
    message: Message | None
    inner: tuple[Payload, ...] | None
    problem: str | None

    @property
    def payloads(self) -> tuple[Payload, ...]:
        """The payloads in clear and the decrypted ones; those of a fragmented message at its last fragment."""
        if self.message is None:
            return ()
        return self.message.payloads if self.inner is None else (*self.message.clear_payloads, *self.inner)

    @property
    def summary(self) -> str:
        """`IKE_AUTH response 1 [ IDr AUTH SA TSi TSr ]`; `[ ? ]` for what does not parse."""
        if self.message is not None:
            return describe(self.message, self.inner)
        kind = "response" if self.header.is_response else "request"
        return f"{self.header.exchange_type} {kind} {self.header.message_id} [ ? ]"

    def lines(self) -> Iterator[str]:
        """The message as text: who to whom, the line of the log, each payload."""
        return message_lines(self)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        header = self.header
        return {
            "time_ns": self.time_ns,
            "source": str(self.source),
            "destination": str(self.destination),
            "initiator_spi": header.initiator_spi.hex(),
            "responder_spi": header.responder_spi.hex(),
            "exchange": str(header.exchange_type),
            "message_id": header.message_id,
            "response": header.is_response,
            "from_initiator": header.is_initiator,
            "octets": header.length,
            "decrypted": self.inner is not None,
            "problem": self.problem,
            "summary": self.summary,
            "payloads": [{"type": item.payload_type.name, **_fields(item)} for item in self.payloads],
        }


def decode_capture(path: Path, keys: Path | None = None) -> list[DecodedMessage]:
    """Every IKE message of a pcap or pcapng file, in order.

    Raises ConfigurationError for a file that cannot be read; a message that does not parse is in the list with the
    reason.
    """
    return list(decode_packets(path, keys))


def decode_packets(path: Path, keys: Path | None = None) -> Iterator[DecodedMessage]:
    """The same one after the other: of a capture that is cut off, what comes before the error."""
    decoder = Decoder(read_ike_table(keys) if keys is not None else ())
    time_s = 0.0
    reassembler = Reassembler(clock=lambda: time_s)
    for packet in read_capture(path):
        time_s = packet.time_ns / 1e9
        ip_packet = packet.ip_packet()
        datagram = None if ip_packet is None else _udp(ip_packet, reassembler)
        if datagram is None:
            continue
        source = Address(datagram.source, datagram.source_port)
        destination = Address(datagram.destination, datagram.destination_port)
        if (message := decoder.decode(packet.time_ns, source, destination, datagram.payload)) is not None:
            yield message


def _udp(packet: bytes, reassembler: Reassembler) -> UdpDatagram | None:
    """The UDP datagram in an IP packet, or the one that this fragment of IPv4 completes."""
    if len(packet) < IPV4_HEADER_OCTETS or packet[0] >> 4 != 4 or not int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return find_udp(packet)
    try:
        whole = reassembler.add(packet)
    except MalformedPacket:
        return None
    return None if whole is None else find_udp(whole)


class Decoder:
    """Reads datagrams one after the other; it remembers fragments until their message is complete."""

    def __init__(self, logged: Iterable[LoggedIkeSa] = ()) -> None:
        self._keys = {(sa.spi_i, sa.spi_r): sa for sa in logged}
        self._seen = {spi_i for spi_i, _ in self._keys}
        self._fragments: _Fragments = {}

    def decode(self, time_ns: int, source: Address, destination: Address, data: bytes) -> DecodedMessage | None:
        """The IKE message in a UDP payload, None when it is something else."""
        octets = self._ike_octets(data, source, destination)
        if octets is None:
            return None
        header = Header.parse(octets)
        self._seen.add(header.initiator_spi)
        try:
            message = Message.parse(octets)
        except ProtocolError as error:
            return DecodedMessage(time_ns, source, destination, header, None, None, f"malformed: {error}")
        inner, problem = None, None
        sealed = message.encrypted
        sa = self._keys.get((header.initiator_spi, header.responder_spi))
        if sealed is not None and sa is not None:
            try:
                content = _open(sa, header, received_prefix(octets, sealed), sealed.body)
                if isinstance(sealed, Encrypted):
                    inner = parse_payloads(sealed.first_payload, content)
                else:
                    inner = _put_together(header, sealed, content, self._fragments)
            except IkeError as error:
                problem = f"cannot be decrypted: {error}"
        elif sealed is not None and self._keys:
            problem = "no key of this IKE SA in the key log"
        return DecodedMessage(time_ns, source, destination, header, message, inner, problem)

    def _ike_octets(self, data: bytes, source: Address, destination: Address) -> bytes | None:
        """The IKE message in a UDP payload, with or without the marker of RFC 3948; None when it is something else.

        On other ports than IKE's own it is one of an exchange that has a name, or of an IKE SA that was seen before.
        """
        for octets in (data, data.removeprefix(NON_ESP_MARKER)):
            if len(octets) < HEADER_OCTETS or octets[17] >> 4 < 2 or octets[:8] == bytes(8):
                continue
            expected = bool(IKE_PORTS & {source.port, destination.port}) or octets[:8] in self._seen
            expected = expected or (octets[17] >> 4 == 2 and ExchangeType(octets[18]).known)
            if expected and int.from_bytes(octets[24:28], "big") == len(octets):
                return octets
        return None


def _put_together(
    header: Header, sealed: EncryptedFragment, content: bytes, fragments: _Fragments
) -> tuple[Payload, ...] | None:
    """The payloads of the whole message with the fragment that completes it, None before and for repetitions.

    RFC 7383 section 2.6.
    """
    key = (header.initiator_spi, header.responder_spi, header.flags, header.message_id, sealed.total_fragments)
    found = fragments.setdefault(key, {})
    known = len(found)
    found[sealed.fragment_number] = (sealed.first_payload, content)
    if len(found) == known or len(found) < sealed.total_fragments:
        return None
    parts = [found[number] for number in range(1, sealed.total_fragments + 1)]
    return parse_payloads(parts[0][0], b"".join(part for _, part in parts))


def _open(sa: LoggedIkeSa, header: Header, aad: bytes, body: bytes) -> bytes:
    key, integ_key = (sa.keys.ei, sa.keys.ai) if header.is_initiator else (sa.keys.er, sa.keys.ar)
    integ_secret = SecretOctets("SK_a", integ_key) if sa.integ is not None else None
    return SkCipher(sa.encr, sa.integ, SecretOctets("SK_e", key), integ_secret).open(aad, body)


def _fields(payload: Payload) -> dict[str, object]:
    """A payload's own fields as JSON has them: octets in hex, code points by name."""
    skipped = ("critical", "reserved")
    readable: dict[str, object] = {}
    if isinstance(payload, IdI | IdR):
        readable = {"identity": str(Identity(payload.id_type, payload.data))}
    return readable | {
        field.name: _plain(getattr(payload, field.name))
        for field in dataclasses.fields(payload)
        if field.name not in skipped
    }


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, IntEnum):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        text = str(value) if type(value).__str__ is not object.__str__ else None
        return text or {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
