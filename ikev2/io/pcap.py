"""Captures: a pcapng writer, a reader of pcap and pcapng, and a capture of one interface.

`PcapWriter` writes the datagrams that IKE sends and receives with IP and UDP headers made for them, so a capture
needs no privilege; `InterfaceCapture` (AF_PACKET, privileged) adds what really passes an interface.
The format is draft-ietf-opsawg-pcapng; the reader also knows the older pcap.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ikev2.core.types import Address
from ikev2.errors import ConfigurationError, DamagedCapture
from ikev2.io.frames import udp_packet

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_LINUX_SLL2 = 276
LINKTYPE_IPV6 = 229

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPTION_COMMENT = 1
_OPTION_INTERFACE_NAME = 2
_OPTION_INTERFACE_RESOLUTION = 9
_OPTION_PACKET_FLAGS = 2
_INBOUND = 1
_OUTBOUND = 2
_NANOSECONDS = 9
_MAX_BLOCK_OCTETS = 16 << 20

_ETH_P_ALL = 3
_ARPHRD_NONE = 0xFFFE
_ARPHRD_PPP = 512
_PACKET_OUTGOING = 4
_SO_RCVBUF_OCTETS = 4 << 20


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """A packet of a capture file: when (Unix time in ns), of what link type, which octets."""

    time_ns: int
    link_type: int
    data: bytes

    def ip_packet(self) -> bytes | None:
        """The IP packet in it, None when it carries none."""
        if self.link_type in (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6):
            return self.data
        if self.link_type == LINKTYPE_ETHERNET:
            offset, ether_type = 14, self.data[12:14]
            if ether_type == b"\x81\x00":
                offset, ether_type = 18, self.data[16:18]
            return self.data[offset:] if ether_type in (b"\x08\x00", b"\x86\xdd") else None
        if self.link_type == LINKTYPE_LINUX_SLL:
            return self.data[16:] if self.data[14:16] in (b"\x08\x00", b"\x86\xdd") else None
        if self.link_type == LINKTYPE_LINUX_SLL2:  # what `tcpdump -i any` writes
            return self.data[20:] if self.data[:2] in (b"\x08\x00", b"\x86\xdd") else None
        return None


class PcapWriter:
    """Writes a pcapng file (mode 0600); its methods may be called from any thread.

    Raises ConfigurationError when the file cannot be made.
    """

    def __init__(self, path: Path, application: str = "ikev2") -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot write a capture there: {error.strerror}") from None
        self.path = path
        self.packets = 0
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._lock = threading.Lock()
        self._interfaces = 0
        self._datagrams: int | None = None
        self._esp: dict[bool, int] = {}
        header = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        self._block(_SECTION_HEADER, header + _options((4, application.encode())))

    def add_interface(self, name: str, link_type: int) -> int:
        """Describe an interface; the number is for `packet`."""
        options = _options(
            (_OPTION_INTERFACE_NAME, name.encode()), (_OPTION_INTERFACE_RESOLUTION, bytes([_NANOSECONDS]))
        )
        with self._lock:
            self._block(_INTERFACE_DESCRIPTION, struct.pack("<HHI", link_type, 0, 0) + options)
            self._interfaces += 1
            return self._interfaces - 1

    def packet(
        self, interface: int, time_ns: int, data: bytes, *, outbound: bool | None = None, comment: str = ""
    ) -> None:
        """Write one packet; `time_ns` is Unix time. After close() it is dropped."""
        options = []
        if comment:
            options.append((_OPTION_COMMENT, comment.encode()))
        if outbound is not None:
            options.append((_OPTION_PACKET_FLAGS, struct.pack("<I", _OUTBOUND if outbound else _INBOUND)))
        body = struct.pack(
            "<IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data)
        ) + _padded(data)
        with self._lock:
            if self._file.closed:
                return
            self._block(_ENHANCED_PACKET, body + _options(*options))
            self.packets += 1

    def datagram(
        self, data: bytes, local: Address, remote: Address, *, outbound: bool, time_ns: int | None = None
    ) -> None:
        """Write a UDP datagram (with its marker, if any) under headers made for it."""
        if self._datagrams is None:
            self._datagrams = self.add_interface("ike", LINKTYPE_RAW)
        source, destination = (local, remote) if outbound else (remote, local)
        packet = udp_packet(source.host, source.port, destination.host, destination.port, data, self.packets)
        self.packet(self._datagrams, time_ns if time_ns is not None else time.time_ns(), packet, outbound=outbound)

    def esp_packet(self, packet: bytes, *, inside: bool, outbound: bool, comment: str) -> None:
        """Write an IP packet of an ESP trace: interface `esp-inside` or `esp-outside`. After close() it is dropped."""
        if not self._esp:
            names = {True: "esp-inside", False: "esp-outside"}
            self._esp = {key: self.add_interface(name, LINKTYPE_RAW) for key, name in names.items()}
        self.packet(self._esp[inside], time.time_ns(), packet, outbound=outbound, comment=comment)
        self.flush()

    def close(self) -> None:
        """Write what is buffered and close the file."""
        with self._lock:
            self._file.close()

    def flush(self) -> None:
        """Make what was written so far visible to readers of the file."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _block(self, kind: int, body: bytes) -> None:
        total = struct.pack("<I", 12 + len(body))
        self._file.write(struct.pack("<I", kind) + total + body + total)


class InterfaceCapture:
    """Copies what passes one interface into a PcapWriter, in a thread of its own.

    Raises ConfigurationError when the interface does not exist or the privilege (CAP_NET_RAW) is missing.
    """

    def __init__(self, writer: PcapWriter, interface: str) -> None:
        self.interface = interface
        self.dropped = 0
        self._writer = writer
        try:
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except PermissionError:
            raise ConfigurationError(f"capturing on {interface} needs the CAP_NET_RAW capability") from None
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SO_RCVBUF_OCTETS)
            self._sock.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._sock.close()
            raise ConfigurationError(f"cannot capture on {interface}: {error.strerror}") from None
        hardware_type = self._sock.getsockname()[3]
        self._loopback = interface == "lo"
        raw = hardware_type in (_ARPHRD_NONE, _ARPHRD_PPP)
        self._number = writer.add_interface(interface, LINKTYPE_RAW if raw else LINKTYPE_ETHERNET)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=f"capture-{interface}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take what the kernel still holds, end the thread and close the socket."""
        if self._thread.is_alive():
            os.write(self._wake_write, b"\0")
            self._thread.join()
        self._sock.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        self._sock.setblocking(False)
        while True:
            readable, _, _ = select.select([self._sock.fileno(), self._wake_read], [], [])
            self._drain()
            self._writer.flush()
            if self._wake_read in readable:
                return

    def _drain(self) -> None:
        # Bounded: a flood must not keep stop() from ending the thread.
        for _ in range(4096):
            try:
                data, name = self._sock.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:  # the interface went down: nothing more will come until it is up
                self.dropped += 1
                return
            outbound = name[2] == _PACKET_OUTGOING
            if self._loopback and outbound:
                continue  # each packet on lo is seen twice
            self._writer.packet(self._number, time.time_ns(), data, outbound=outbound)


def read_capture(path: Path) -> Iterator[CapturedPacket]:
    """The packets of a pcap or pcapng file, in the file's order.

    Raises ConfigurationError for a file that is neither, and DamagedCapture, after what comes before, for one that is
    cut off.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    with file:
        magic = file.read(4)
        if magic == struct.pack("<I", _SECTION_HEADER):
            yield from _read_pcapng(path, file)
        elif magic in _PCAP_MAGICS:
            yield from _read_pcap(path, file, *_PCAP_MAGICS[magic])
        else:
            raise ConfigurationError(f"{path}: neither a pcap nor a pcapng file")


_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}


def _read_pcap(path: Path, file: BinaryIO, order: str, unit_ns: int) -> Iterator[CapturedPacket]:
    link_type = struct.unpack(order + "16xI", _exactly(path, file, 20))[0] & 0x0FFFFFFF
    while header := file.read(16):
        if len(header) < 16:
            raise DamagedCapture(f"{path}: cut off in the middle of a packet")
        seconds, fraction, length, _original = struct.unpack(order + "IIII", header)
        if length > _MAX_BLOCK_OCTETS:
            raise DamagedCapture(f"{path}: a packet of {length} octets: the file is damaged")
        yield CapturedPacket(seconds * 10**9 + fraction * unit_ns, link_type, _exactly(path, file, length))


def _read_pcapng(path: Path, file: BinaryIO) -> Iterator[CapturedPacket]:
    order = "<"
    interfaces: list[tuple[int, int, int]] = []  # link type, time units a second, snap length
    kind_octets: bytes = struct.pack("<I", _SECTION_HEADER)
    while kind_octets:
        if len(kind_octets) < 4:
            raise DamagedCapture(f"{path}: cut off in the middle of a block")
        length_octets = _exactly(path, file, 4)
        head = b""
        if kind_octets == struct.pack("<I", _SECTION_HEADER):
            head = _exactly(path, file, 4)
            order = "<" if struct.unpack("<I", head)[0] == _BYTE_ORDER_MAGIC else ">"
            interfaces = []
        kind, total = struct.unpack(order + "I", kind_octets)[0], struct.unpack(order + "I", length_octets)[0]
        if not 12 + len(head) <= total <= _MAX_BLOCK_OCTETS or total % 4:
            raise DamagedCapture(f"{path}: a block of {total} octets: the file is damaged")
        body = head + _exactly(path, file, total - 8 - len(head))[:-4]
        if kind == _INTERFACE_DESCRIPTION and len(body) >= 8:
            interfaces.append(_interface(body, order))
        elif kind == _ENHANCED_PACKET and len(body) >= 20:
            number, high, low, captured = struct.unpack_from(order + "IIII", body)
            if number >= len(interfaces) or 20 + captured > len(body):
                raise DamagedCapture(f"{path}: a damaged packet block")
            link_type, units, _snap = interfaces[number]
            yield CapturedPacket(((high << 32) | low) * 10**9 // units, link_type, body[20 : 20 + captured])
        elif kind == _SIMPLE_PACKET and interfaces and len(body) >= 4:
            link_type, _units, snap = interfaces[0]
            original = struct.unpack_from(order + "I", body)[0]
            yield CapturedPacket(0, link_type, body[4 : 4 + (min(original, snap) if snap else original)])
        kind_octets = file.read(4)


def _interface(body: bytes, order: str) -> tuple[int, int, int]:
    link_type, _reserved, snap = struct.unpack_from(order + "HHI", body)
    units, offset = 10**6, 8
    while offset + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, offset)
        if code == _OPTION_INTERFACE_RESOLUTION and length == 1 and offset + 4 < len(body):
            exponent = body[offset + 4]
            units = 1 << (exponent & 0x7F) if exponent & 0x80 else 10 ** min(exponent, 18)
        offset += 4 + (length + 3) // 4 * 4
    return link_type, units, snap


def _exactly(path: Path, file: BinaryIO, octets: int) -> bytes:
    data = file.read(octets)
    if len(data) != octets:
        raise DamagedCapture(f"{path}: cut off in the middle of a packet")
    return data


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    if not options:
        return b""
    return b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options) + bytes(4)
