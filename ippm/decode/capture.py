"""The packets of a capture file: pcap, and pcapng.

draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ippm.errors import ConfigurationError, IppmError

LINKTYPE_NULL = 0
LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
LINKTYPE_LOOP = 108
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_IPV6 = 229
LINKTYPE_LINUX_SLL2 = 276

_SECTION_HEADER = 0x0A0D0D0A
_SECTION_OCTETS = struct.pack("<I", _SECTION_HEADER)
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
_OPTION_RESOLUTION = 9
_OPTION_OFFSET = 14
_MAXIMUM_OCTETS = 16 << 20
"""No packet and no block is longer; a file that says so is damaged."""

_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""The first four octets -> byte order, and the unit of the fraction of a second in nanoseconds."""

_IP_TYPES = (b"\x08\x00", b"\x86\xdd")
_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")


class DamagedCapture(IppmError):
    """A capture ends in the middle of a packet, or says lengths that cannot be; what comes before is good."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A packet of a capture file: when (Unix time in ns), of what link type, which octets."""

    time_ns: int
    link_type: int
    data: bytes

    def ip_packet(self) -> bytes | None:
        """The IP packet in it; None when it carries none, or is of a link type that is not known here."""
        kind, data = self.link_type, self.data
        if kind in (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6):
            return data
        if kind in (LINKTYPE_NULL, LINKTYPE_LOOP):
            return data[4:]
        if kind == LINKTYPE_LINUX_SLL:
            return data[16:] if data[14:16] in _IP_TYPES else None
        if kind == LINKTYPE_LINUX_SLL2:
            return data[20:] if data[:2] in _IP_TYPES else None
        if kind != LINKTYPE_ETHERNET:
            return None
        at = 12
        while data[at : at + 2] in _VLAN_TYPES:
            at += 4
        return data[at + 2 :] if data[at : at + 2] in _IP_TYPES else None


def read_capture(path: Path) -> Iterator[Frame]:
    """The packets of a file, in its order.

    Raises ConfigurationError for a file that cannot be read or is no capture, DamagedCapture where the file ends in
    the middle of a packet or makes no sense.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    with file:
        try:
            magic = file.read(4)
            if magic == _SECTION_OCTETS:
                yield from _Pcapng(path, file).packets()
            elif magic in _PCAP_MAGICS:
                yield from _read_pcap(path, file, *_PCAP_MAGICS[magic])
            else:
                raise ConfigurationError(f"{path}: neither a pcap nor a pcapng file")
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None


def _exactly(path: Path, file: BinaryIO, octets: int) -> bytes:
    data = file.read(octets)
    if len(data) != octets:
        raise DamagedCapture(f"{path}: cut off in the middle of a packet, at octet {file.tell()}")
    return data


def _read_pcap(path: Path, file: BinaryIO, order: str, unit_ns: int) -> Iterator[Frame]:
    link_type = struct.unpack(order + "16xI", _exactly(path, file, 20))[0] & 0x0FFFFFFF
    while header := file.read(16):
        if len(header) < 16:
            raise DamagedCapture(f"{path}: cut off in the middle of a packet, at octet {file.tell()}")
        seconds, fraction, length, _original = struct.unpack(order + "IIII", header)
        if length > _MAXIMUM_OCTETS:
            raise DamagedCapture(f"{path}: a packet of {length} octets at octet {file.tell() - 16}: damaged")
        yield Frame(seconds * 10**9 + fraction * unit_ns, link_type, _exactly(path, file, length))


@dataclass(frozen=True, slots=True)
class _Interface:
    """What an Interface Description Block says: units a second, seconds to add, and the snap length (0: none)."""

    link_type: int
    units: int = 10**6
    offset_s: int = 0
    snap_octets: int = 0

    def time_ns(self, high: int, low: int) -> int:
        return ((high << 32) | low) * 10**9 // self.units + self.offset_s * 10**9


class _Pcapng:
    """Blocks, one after the other; a section begins anew with its byte order and its interfaces."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._order = "<"
        self._interfaces: list[_Interface] = []

    def packets(self) -> Iterator[Frame]:
        kind_octets = _SECTION_OCTETS
        while kind_octets:
            if len(kind_octets) < 4:
                raise DamagedCapture(f"{self._path}: cut off in the middle of a block")
            frame = self._block(kind_octets)
            if frame is not None:
                yield frame
            kind_octets = self._file.read(4)

    def _block(self, kind_octets: bytes) -> Frame | None:
        start = self._file.tell() - 4
        length_octets = _exactly(self._path, self._file, 4)
        head = b""
        if kind_octets == _SECTION_OCTETS:
            head = _exactly(self._path, self._file, 4)
            self._order = "<" if struct.unpack("<I", head)[0] == _BYTE_ORDER_MAGIC else ">"
            self._interfaces = []
        kind: int = struct.unpack(self._order + "I", kind_octets)[0]
        total: int = struct.unpack(self._order + "I", length_octets)[0]
        if not 12 + len(head) <= total <= _MAXIMUM_OCTETS or total % 4:
            raise DamagedCapture(f"{self._path}: a block of {total} octets at octet {start}: damaged")
        body = head + _exactly(self._path, self._file, total - 8 - len(head))[:-4]
        if kind == _INTERFACE_DESCRIPTION and len(body) >= 8:
            self._interfaces.append(self._interface(body))
        elif kind == _ENHANCED_PACKET:
            return self._enhanced(body, start)
        elif kind == _SIMPLE_PACKET and self._interfaces and len(body) >= 4:
            (original,) = struct.unpack_from(self._order + "I", body)
            snap = self._interfaces[0].snap_octets or original
            return Frame(0, self._interfaces[0].link_type, body[4 : 4 + min(original, snap)])
        return None

    def _enhanced(self, body: bytes, start: int) -> Frame:
        if len(body) >= 20:
            number, high, low, captured = struct.unpack_from(self._order + "IIII", body)
            if number < len(self._interfaces) and 20 + captured <= len(body):
                interface = self._interfaces[number]
                return Frame(interface.time_ns(high, low), interface.link_type, body[20 : 20 + captured])
        raise DamagedCapture(f"{self._path}: a damaged packet block at octet {start}")

    def _interface(self, body: bytes) -> _Interface:
        link_type, _reserved, snap = struct.unpack_from(self._order + "HHI", body)
        units, offset_s, at = 10**6, 0, 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, at)
            value = body[at + 4 : at + 4 + length]
            if code == _OPTION_RESOLUTION and len(value) == length == 1:
                units = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** min(value[0], 18)
            elif code == _OPTION_OFFSET and len(value) == length == 8:
                (offset_s,) = struct.unpack(self._order + "q", value)
            at += 4 + (length + 3) // 4 * 4
        return _Interface(link_type, units, offset_s, snap)
