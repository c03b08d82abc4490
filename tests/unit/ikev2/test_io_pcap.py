"""Captures: headers made for datagrams, pcapng written and read, an interface captured."""

from __future__ import annotations

import contextlib
import socket
import stat
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ikev2.core.types import Address
from ikev2.errors import ConfigurationError
from ikev2.io.frames import UdpDatagram, checksum, find_udp, udp_packet
from ikev2.io.pcap import (
    LINKTYPE_ETHERNET,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_RAW,
    CapturedPacket,
    InterfaceCapture,
    PcapWriter,
    read_capture,
)

A, B = Address("192.0.2.1", 500), Address("192.0.2.2", 4500)


def test_the_checksum_of_rfc_1071s_example() -> None:
    # RFC 1071 section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2
    assert checksum(b"\x01") == 0xFFFF ^ 0x0100


@pytest.mark.parametrize("hosts", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
@given(payload=st.binary(max_size=300), ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
@settings(max_examples=50)
def test_a_made_packet_verifies_and_is_found_again(
    hosts: tuple[str, str], payload: bytes, ports: tuple[int, int]
) -> None:
    packet = udp_packet(hosts[0], ports[0], hosts[1], ports[1], payload)
    assert find_udp(packet) == UdpDatagram(hosts[0], ports[0], hosts[1], ports[1], payload)
    if packet[0] >> 4 == 4:
        assert checksum(packet[:20]) == 0
        pseudo = packet[12:20] + struct.pack("!BBH", 0, 17, len(packet) - 20)
        assert checksum(pseudo + packet[20:]) == 0
    else:
        pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, 17)
        assert checksum(pseudo + packet[40:]) == 0


@given(st.binary(max_size=80))
@settings(max_examples=200)
def test_find_udp_never_raises(octets: bytes) -> None:
    find_udp(octets)
    for version in (0x45, 0x60):
        find_udp(bytes([version]) + octets)


def test_a_fragment_or_another_protocol_is_no_datagram() -> None:
    packet = bytearray(udp_packet(*A, *B, b"payload"))
    packet[6] = 0x20
    assert find_udp(bytes(packet)) is None
    packet[6], packet[9] = 0, 6
    assert find_udp(bytes(packet)) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ike.pcapng"
    with PcapWriter(path) as writer:
        ethernet = writer.add_interface("eth0", LINKTYPE_ETHERNET)
        writer.datagram(b"one", A, B, outbound=True, time_ns=1_700_000_000_123_456_789)
        writer.datagram(b"three", A, B, outbound=False, time_ns=1_700_000_001_000_000_001)
        writer.packet(ethernet, 5, b"\x00" * 12 + b"\x08\x00" + b"rest", comment="a comment")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second, third = read_capture(path)
    assert first.time_ns == 1_700_000_000_123_456_789
    assert find_udp(first.ip_packet() or b"") == UdpDatagram(A.host, A.port, B.host, B.port, b"one")
    assert find_udp(second.ip_packet() or b"") == UdpDatagram(B.host, B.port, A.host, A.port, b"three")
    assert (third.link_type, third.ip_packet()) == (LINKTYPE_ETHERNET, b"rest")
    writer.packet(0, 0, b"after close it is dropped")


def test_the_older_format_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "old.pcap"
    for order, magic, fraction, time_ns in (
        ("<", 0xA1B2C3D4, 7, 5_000_007_000),
        (">", 0xA1B23C4D, 7, 5_000_000_007),
    ):
        header = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, LINKTYPE_RAW)
        path.write_bytes(header + struct.pack(order + "IIII", 5, fraction, 3, 3) + b"abc")
        assert list(read_capture(path)) == [CapturedPacket(time_ns, LINKTYPE_RAW, b"abc")]


def test_link_layers() -> None:
    assert CapturedPacket(0, LINKTYPE_ETHERNET, bytes(12) + b"\x81\x00\x00\x01\x08\x00ip").ip_packet() == b"ip"
    assert CapturedPacket(0, LINKTYPE_ETHERNET, bytes(12) + b"\x08\x06arp").ip_packet() is None
    assert CapturedPacket(0, LINKTYPE_LINUX_SLL, bytes(14) + b"\x08\x00ip").ip_packet() == b"ip"
    assert CapturedPacket(0, 9999, b"?").ip_packet() is None


@given(cut=st.integers(0, 400), flip=st.integers(0, 400), value=st.integers(1, 255))
@settings(max_examples=150)
def test_a_damaged_file_raises_nothing_but_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("pcap") / "damaged.pcapng"
    with PcapWriter(path) as writer:
        writer.datagram(b"payload", A, B, outbound=True, time_ns=1)
    octets = bytearray(path.read_bytes())
    octets[flip % len(octets)] ^= value
    path.write_bytes(octets[: max(1, len(octets) - cut)])
    with contextlib.suppress(ConfigurationError):
        list(read_capture(path))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        list(read_capture(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigurationError, match="neither a pcap nor a pcapng file"):
        list(read_capture(tmp_path / "text"))
    with pytest.raises(ConfigurationError, match="cannot write a capture"):
        PcapWriter(tmp_path / "no" / "directory")


def test_an_interface_is_captured_and_the_thread_ends(tmp_path: Path) -> None:
    path = tmp_path / "lo.pcapng"
    with PcapWriter(path) as writer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        try:
            capture = InterfaceCapture(writer, "lo")
        except ConfigurationError as error:
            pytest.skip(str(error))
        before = threading.active_count()
        capture.start()
        sock.sendto(b"seen on the interface", sock.getsockname())
        sock.recv(100)
        capture.stop()
        assert threading.active_count() == before
        found = [find_udp(packet.ip_packet() or b"") for packet in read_flushed(writer)]
        payloads = [one.payload for one in found if one is not None]
        assert payloads.count(b"seen on the interface") == 1


class WatchedWriter(PcapWriter):
    """Says when it was flushed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.flushed = threading.Event()

    def flush(self) -> None:
        super().flush()
        self.flushed.set()


def test_a_capture_that_goes_on_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "lo.pcapng"
    with WatchedWriter(path) as writer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        try:
            capture = InterfaceCapture(writer, "lo")
        except ConfigurationError as error:
            pytest.skip(str(error))
        capture.start()
        sock.sendto(b"seen while it goes on", sock.getsockname())
        try:
            while b"seen while it goes on" not in path.read_bytes():
                assert writer.flushed.wait(60)  # more than this packet may pass lo
                writer.flushed.clear()
        finally:
            capture.stop()


def read_flushed(writer: PcapWriter) -> list[CapturedPacket]:
    writer.flush()
    return list(read_capture(writer.path))


def test_an_interface_that_is_not_there(tmp_path: Path) -> None:
    with (
        PcapWriter(tmp_path / "x") as writer,
        pytest.raises(ConfigurationError, match=r"(cannot capture on|CAP_NET_RAW)"),
    ):
        InterfaceCapture(writer, "nosuch0")
