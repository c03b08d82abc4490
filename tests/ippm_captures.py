"""Captures for tests of `ippm decode`: conversations of the sans-IO roles, as scapy puts them into a pcap file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import wrpcap

from ippm.core.control_events import Endpoint

START_S = 1_700_000_000


@dataclass
class Capture:
    """Packets in the order in which they go over the wire; TCP with its sequence numbers."""

    client: Endpoint
    server: Endpoint
    packets: list[Packet] = field(default_factory=list)
    sequences: dict[bool, int] = field(default_factory=lambda: {True: 0xFFFFFF00, False: 2000})

    def add(self, packet: Packet) -> None:
        """Behind an Ethernet header, a millisecond after the one before."""
        framed = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet
        framed.time = START_S + len(self.packets) / 1000
        self.packets.append(framed)

    def tcp(self, from_client: bool, octets: bytes = b"", flags: str = "PA", sequence: int | None = None) -> None:
        """A segment; without `sequence` it is the next one of its direction."""
        source, target = (self.client, self.server) if from_client else (self.server, self.client)
        at = self.sequences[from_client] if sequence is None else sequence
        segment = TCP(sport=source.port, dport=target.port, flags=flags, seq=at & 0xFFFFFFFF)
        self.add(self._ip(source, target) / segment / octets)
        if sequence is None:
            self.sequences[from_client] += len(octets) + (flags in ("S", "SA"))

    def udp(self, source: Endpoint, target: Endpoint, octets: bytes, **ip: Any) -> None:
        """A datagram."""
        self.add(self._ip(source, target, **ip) / UDP(sport=source.port, dport=target.port) / octets)

    def open_connection(self) -> None:
        """The three segments before the first octet."""
        self.tcp(True, flags="S")
        self.tcp(False, flags="SA")
        self.tcp(True, flags="A")

    def save(self, path: Path) -> Path:
        """As a pcap file."""
        wrpcap(str(path), self.packets)
        return path

    @staticmethod
    def _ip(source: Endpoint, target: Endpoint, **ip: Any) -> Packet:
        if ":" in source.host:
            return IPv6(src=source.host, dst=target.host, **ip)
        return IP(src=source.host, dst=target.host, **ip)


@dataclass
class Tap:
    """Between the two roles of a pair: both directions, in the order in which the roles wrote them."""

    pair: Any
    said: list[tuple[bool, bytes]] = field(default_factory=list)

    def run(self, piece: int = 1 << 20) -> None:
        """What `pair.run` does, and keeps what goes over."""
        client, server, now = self.pair.client, self.pair.server, self.pair.now
        while True:
            down = server.data_to_send()
            if down:
                self.said.append((False, down))
                self.pair.to_client += down
                for at in range(0, len(down), piece):
                    client.receive_data(down[at : at + piece], now)
                continue
            up = client.data_to_send()
            if not up:
                return
            self.said.append((True, up))
            self.pair.to_server += up
            for at in range(0, len(up), piece):
                server.receive_data(up[at : at + piece], now)
                if hasattr(self.pair, "server_said"):
                    self.pair.server_events()


def tapped(pair: Any) -> Tap:
    """Have a pair's `run` keep what goes over."""
    tap = Tap(pair)
    pair.run = tap.run
    return tap


def in_segments(said: Iterable[tuple[bool, bytes]], octets: int) -> Iterator[tuple[bool, bytes]]:
    """The same in segments of so many octets."""
    for from_client, data in said:
        for at in range(0, len(data), octets):
            yield from_client, data[at : at + octets]


def control_capture(
    client: Endpoint, server: Endpoint, said: Sequence[tuple[bool, bytes]], octets: int = 1400
) -> Capture:
    """A capture of a connection from its first segment on."""
    capture = Capture(client, server)
    capture.open_connection()
    for from_client, data in in_segments(said, octets):
        capture.tcp(from_client, data)
    return capture
