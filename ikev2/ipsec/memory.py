"""Both hosts in one process: real ESP octets, no privilege, no thread, nothing that depends on time.

    network = MemoryNetwork()
    a, b = MemoryBackend(network), MemoryBackend(network)
    b.on_packet = print
    a.install(child_of_a); b.install(child_of_b)
    a.send_packet(an IPv4 packet)              # protected, carried as ESP, opened, handed to b.on_packet

What is put on the network is delivered before the outermost `send_packet` returns, in the order sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from ikev2.core.child_sa import ChildCounters, ChildSaParameters
from ikev2.errors import BackendError
from ikev2.ipsec import ip, ipv4, ipv6
from ikev2.ipsec.backend import (
    NAT_PORT,
    NON_ESP_MARKER,
    Backend,
    BackendEvent,
    Bypass,
    DropReason,
    ProbeResult,
    Trap,
)
from ikev2.ipsec.ipv4 import MalformedPacket
from ikev2.ipsec.outer import UDP_HEADER, outer_packet
from ikev2.ipsec.sad import Engine
from ikev2.ipsec.spd import is_ike

OnPacket = Callable[[bytes], None]
Impairment = Callable[[bytes], list[bytes]]
"""What arrives in place of a packet: none, the same, several, others."""


class MemoryNetwork:
    """Carries IP packets between the backends that are attached to it under their addresses.

    `impairment` may drop, double or change packets on the way; `taps` see every packet as it was sent. A network
    belongs to one thread.
    """

    def __init__(self, impairment: Impairment | None = None) -> None:
        self.impairment = impairment
        self.taps: list[OnPacket] = []
        self._attached: dict[bytes, list[MemoryBackend]] = {}
        self._queue: deque[tuple[bytes, MemoryBackend]] = deque()
        self._delivering = False

    def attach(self, address: str, backend: MemoryBackend) -> None:
        """Deliver packets for `address` to `backend`; more than one backend may share an address."""
        there = self._attached.setdefault(ip.packed(address), [])
        if backend not in there:
            there.append(backend)

    def detach(self, backend: MemoryBackend) -> None:
        """Deliver nothing more to `backend`."""
        for there in self._attached.values():
            if backend in there:
                there.remove(backend)

    def send(self, packet: bytes, sender: MemoryBackend) -> None:
        """Put a packet on the network."""
        for tap in self.taps:
            tap(packet)
        for arriving in [packet] if self.impairment is None else self.impairment(packet):
            self._queue.append((arriving, sender))
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue:
                self._deliver(*self._queue.popleft())
        finally:
            self._delivering = False

    def _deliver(self, packet: bytes, sender: MemoryBackend) -> None:
        receivers = [backend for backend in self._attached.get(ip.destination(packet), ()) if backend is not sender]
        # Where backends share an address, the one that knows the SPI is meant.
        meant = [backend for backend in receivers if backend.knows(packet)] or receivers
        for backend in meant[:1]:
            backend.receive(packet)


_default_network = MemoryNetwork()


class MemoryBackend(Backend):
    """ESP between two backends of one process. `on_packet` gets every IP packet that the host may see."""

    name: ClassVar[str] = "memory"
    makes_outer_headers: ClassVar[bool] = True

    def __init__(self, network: MemoryNetwork | None = None, addresses: tuple[str, ...] = ()) -> None:
        self.network = network if network is not None else _default_network
        self.on_packet: OnPacket = _discard
        self._addresses = addresses
        self.addresses: set[str] = set()
        self._engine = Engine()
        self._event_fd = -1

    @classmethod
    def probe(cls) -> ProbeResult:
        return ProbeResult(cls.name, True, "works everywhere, and carries packets inside this process only")

    def open(self) -> None:
        if self._event_fd < 0:
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for address in self._addresses:
            self.network.attach(address, self)

    def close(self) -> None:
        self.network.detach(self)
        self.addresses.clear()
        self._engine.clear()
        if self._event_fd >= 0:
            os.close(self._event_fd)
            self._event_fd = -1

    def allocate_spi(self, local: str, remote: str) -> int:
        return self._engine.allocate_spi()

    def release_spi(self, spi: int, local: str, remote: str) -> None:
        self._engine.release_spi(spi)

    def install(self, child: ChildSaParameters) -> None:
        self._engine.install(child)
        self.network.attach(child.local, self)

    def install_standby(self, child: ChildSaParameters) -> None:
        self._engine.install(child, standby=True)
        self.network.attach(child.local, self)

    def activate(self, child: ChildSaParameters) -> None:
        self._engine.activate(child)

    def update_address(self, old: ChildSaParameters, new: ChildSaParameters) -> None:
        self._engine.replace(old, new)
        self.network.attach(new.local, self)

    def delete(self, child: ChildSaParameters) -> None:
        self._engine.delete(child)

    def delete_outbound(self, child: ChildSaParameters) -> None:
        self._engine.delete_outbound(child)

    def query(self, child: ChildSaParameters) -> ChildCounters:
        return self._engine.counters(child)

    def drops(self) -> dict[str, int]:
        return dict(self._engine.drops)

    def add_bypass(self, bypass: Bypass) -> None:
        self._engine.add_bypass(bypass)

    def remove_bypass(self, bypass: Bypass) -> None:
        self._engine.remove_bypass(bypass)

    def add_trap(self, trap: Trap) -> None:
        self._engine.add_trap(trap)
        self.network.attach(trap.local, self)

    def remove_trap(self, trap: Trap) -> None:
        self._engine.remove_trap(trap)

    def prepare_ike_socket(self, sock: socket.socket, *, encap: bool = False) -> None:
        """Nothing to do: the sockets of the system are not on this network."""

    def add_address(self, address: str) -> None:
        """What is sent here may come from any address: it is only noted."""
        self.addresses.add(address)

    def remove_address(self, address: str) -> None:
        self.addresses.discard(address)

    def next_event(self) -> BackendEvent | None:
        if not self._engine.events and self._event_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        return self._engine.events.popleft() if self._engine.events else None

    def event_fd(self) -> int | None:
        return self._event_fd if self._event_fd >= 0 else None

    def _signal(self) -> None:
        if self._engine.events and self._event_fd >= 0:
            os.eventfd_write(self._event_fd, 1)

    # --- packets ----------------------------------------------------------------------------------------------

    def send_packet(self, packet: bytes) -> None:
        """Send as the host would: protected where a policy says so, in clear where a bypass or no policy does.

        Raises BackendError for octets that are no IP packet; drops are counted.
        """
        try:
            packet = ip.checked(packet)
            whole = self._engine.whole_datagram(packet)
            if whole is None:
                return
            packet = whole
            if (
                not self._engine.is_protected(packet)
                or self._engine.passes_outside(packet)
                or is_ike(ip.flow_of(packet))
            ):
                self.network.send(packet, self)
                return
        except MalformedPacket as error:
            raise BackendError(f"what is to be sent is no IP packet: {error}") from error
        result = self._engine.protect(packet)
        self._signal()
        if result is not None:
            self.network.send(outer_packet(*result), self)

    def knows(self, packet: bytes) -> bool:
        """Whether a packet is ESP for one of the SAs here."""
        found = esp_of(packet)
        spi = int.from_bytes(found[0][:4], "big") if found else 0
        return any(pair.inbound.spi == spi for pair in self._engine.pairs)

    def receive(self, packet: bytes) -> None:
        """Take a packet from the network: open it, or check that it may come in clear. RFC 4301 section 5.2."""
        found = esp_of(packet)
        if found is not None:
            if ip.is_fragment(
                ip.checked(packet)
            ):  # what comes here has not been put together: RFC 4303 section 3.4.1
                self._engine.drops[DropReason.FRAGMENT] += 1
                return
            esp, header = found
            ttl = packet[8] if packet[0] >> 4 == 4 else packet[7]
            inner = self._engine.unprotect(esp, ip.tos(packet), ttl, header)
            self._signal()
            if inner is not None:
                self.on_packet(inner)
            return
        try:
            outside = self._engine.passes_outside(packet) or is_ike(ip.flow_of(packet))
            if not outside and self._engine.must_be_protected(packet):
                self._engine.drops[DropReason.CLEAR] += 1
                return
        except MalformedPacket:
            self._engine.drops[DropReason.MALFORMED] += 1
            return
        self.on_packet(packet)


def esp_of(packet: bytes) -> tuple[bytes, bytes] | None:
    """The ESP packet, raw or in UDP 4500, inside an IP packet, and the IPv4 header; None when it holds none."""
    try:
        packet = ip.checked(packet)
        if packet[0] >> 4 == 6:
            chain = ipv6.chain_of(packet)
            protocol, header, payload = chain.upper, b"", packet[chain.offset :]
        else:
            octets = ipv4.header_octets(packet)
            protocol, header, payload = packet[9], packet[:octets], packet[octets:]
    except MalformedPacket:
        return None
    if protocol == socket.IPPROTO_ESP:
        return payload, header
    if protocol != socket.IPPROTO_UDP or len(payload) < UDP_HEADER.size + 4:
        return None
    source_port, destination_port, _, _ = UDP_HEADER.unpack_from(payload)
    payload = payload[UDP_HEADER.size :]
    # rfc7296-s2.23-06, rfc7296-s2.23-14
    if NAT_PORT not in (source_port, destination_port) or payload[:4] == NON_ESP_MARKER:
        return None
    return payload, header


def _discard(packet: bytes) -> None:
    """What a host without anybody listening does."""
