"""Every packet before and after ESP, with what became of it, for whoever wants to see them.

Inside are the packets that the host sends and gets; outside those that carry ESP. Where the kernel makes a header or
takes it away (identification and checksum of IPv4, fragments, the flow label of IPv6; of what comes in UDP or over
IPv6 all but addresses, ports, DS, ECN and TTL), one made for the trace stands in its place.
"""

from __future__ import annotations

import socket
from typing import Protocol

from ikev2.core.types import Address
from ikev2.crypto.esp import ESP_HEADER_OCTETS
from ikev2.ipsec import ip, ipv4, ipv6
from ikev2.ipsec.outer import UDP_HEADER, outer_packet
from ikev2.ipsec.pair import Pair
from ikev2.ipsec.sad import Engine


class PacketSink(Protocol):
    """Takes the packets of a trace; called on the thread of the data plane."""

    def esp_packet(self, packet: bytes, *, inside: bool, outbound: bool, comment: str) -> None:
        """One IP packet, and in words what was done with it."""


class EspTrace:
    """What a data plane calls after each packet when there is a trace."""

    def __init__(self, engine: Engine, sink: PacketSink) -> None:
        self._engine = engine
        self._sink = sink

    def sent(self, packet: bytes, result: tuple[Pair, bytes, bytes] | None) -> None:
        """A packet of the host, and what `Engine.protect` made of it."""
        if result is None:
            otherwise = "goes in clear" if self._engine.outside else "waits for its fragments"
            self._sink.esp_packet(packet, inside=True, outbound=True, comment=self._dropped(otherwise))
            return
        pair, esp, inner = result
        comment = _name(esp)
        self._sink.esp_packet(inner, inside=True, outbound=True, comment=comment)
        self._sink.esp_packet(outer_packet(pair, esp, inner), inside=False, outbound=True, comment=comment)

    def dummy(self, pair: Pair, esp: bytes, inner: bytes) -> None:
        """A dummy packet that is sent."""
        packet = outer_packet(pair, esp, inner)
        self._sink.esp_packet(packet, inside=False, outbound=True, comment=f"{_name(esp)}: dummy")

    def came(self, outer: bytes, esp: bytes, packet: bytes | None) -> None:
        """A packet of the network, the ESP packet in it, and what `Engine.unprotect` made of that."""
        name = _name(esp)
        if packet is None:
            name = f"{name}: {self._dropped('nothing came of it')}"
        self._sink.esp_packet(outer, inside=False, outbound=False, comment=name)
        if packet is not None:
            self._sink.esp_packet(packet, inside=True, outbound=False, comment=name)

    def _dropped(self, otherwise: str) -> str:
        reason, self._engine.last_drop = self._engine.last_drop, None
        return f"dropped: {reason}" if reason is not None else otherwise


def arrived(data: bytes, remote: Address, local: Address, tos: int, ttl: int) -> bytes:
    """The packet in which a socket's datagram came: that of UDP where there are ports, of ESP where there are none."""
    source, destination = ip.packed(remote.host), ip.packed(local.host)
    protocol = socket.IPPROTO_ESP
    if remote.port:
        protocol = socket.IPPROTO_UDP
        data = UDP_HEADER.pack(remote.port, local.port, UDP_HEADER.size + len(data), 0) + data
    if len(source) == 4:
        return ipv4.build_header(source, destination, protocol, len(data), tos=tos, ttl=ttl) + data
    if remote.port:
        checksum = ipv6.upper_checksum(source, destination, protocol, data)
        data = data[:6] + checksum.to_bytes(2, "big") + data[8:]
    return ipv6.build_header(source, destination, protocol, len(data), tos=tos, hop_limit=ttl) + data


def _name(esp: bytes) -> str:
    if len(esp) < ESP_HEADER_OCTETS:
        return f"{len(esp)} octets of no ESP packet"
    return f"SPI {esp[:4].hex()} sequence number {int.from_bytes(esp[4:ESP_HEADER_OCTETS], 'big')}"
