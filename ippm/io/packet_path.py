"""TWAMP between two hosts of one process, over a path that carries whole IPv4 packets instead of sockets.

The sans-IO roles are the ones that the sockets drive. Control octets travel in TCP segments (in order, never lost: the
path is this process), test packets in UDP datagrams, both with right headers, so that the path's owner may protect,
bypass or capture them by address and port as it would real traffic.
RFC 5357 sections 3 and 4; RFC 9293 section 3.1 and RFC 768 for the headers.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ippm.core.control_client import ControlClient, ControlClientConfig
from ippm.core.control_events import (
    Connected,
    ConnectionClosed,
    Endpoint,
    SessionAccepted,
    SessionRejected,
    SessionsStarted,
    Started,
    TestSession,
)
from ippm.core.key_log import KeyLog
from ippm.core.server import ControlServer
from ippm.core.server_policy import ControlServerConfig
from ippm.core.session_reflector import ReflectorPlan, SessionReflector
from ippm.core.session_sender import SessionSender
from ippm.crypto import KeyProvider, NoProvider
from ippm.errors import ConnectionFailed, LocalProtocolError
from ippm.io.clock import clock_state, now_ntp
from ippm.io.entropy import SystemEntropy
from ippm.io.options import TwpingOptions
from ippm.io.twamp_client import sender_plan, session_wish
from ippm.report.result import RunResult

TCP: Final = 6
UDP: Final = 17
TTL: Final = 255
SEGMENT_OCTETS: Final = 1200
_PSH_ACK: Final = 0x18
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")


class PacketEnd(Protocol):
    """One end of the path: takes packets to send, and gives each packet that arrives to `on_packet`."""

    on_packet: Callable[[bytes], None]

    def send_packet(self, packet: bytes) -> None:
        """Send a whole IPv4 packet."""
        ...


def internet_checksum(octets: bytes) -> int:
    """The ones' complement sum of RFC 1071."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4_packet(source: Endpoint, destination: Endpoint, protocol: int, segment: bytes) -> bytes:
    """An IPv4 packet around a TCP or UDP segment whose checksum field is zero; both checksums are filled in."""
    addresses = ipaddress.IPv4Address(source.host).packed, ipaddress.IPv4Address(destination.host).packed
    pseudo = b"".join(addresses) + struct.pack("!BBH", 0, protocol, len(segment))
    at = 16 if protocol == TCP else 6
    checksum = internet_checksum(pseudo + segment) or 0xFFFF
    segment = segment[:at] + checksum.to_bytes(2, "big") + segment[at + 2 :]
    header = _IPV4.pack(0x45, 0, 20 + len(segment), 0, 0x4000, TTL, protocol, 0, *addresses)
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + segment


@dataclass(frozen=True, slots=True)
class Segment:
    """What a packet of the path carries."""

    protocol: int
    source: Endpoint
    destination: Endpoint
    ttl: int
    data: bytes


def parse_segment(packet: bytes) -> Segment | None:
    """The TCP or UDP segment of an IPv4 packet; None for anything else, or a packet that is too short."""
    if len(packet) < 28 or packet[0] >> 4 != 4:
        return None
    octets = (packet[0] & 0x0F) * 4
    source, destination = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
    data = packet[octets : int.from_bytes(packet[2:4], "big")]
    protocol = packet[9]
    if protocol not in (TCP, UDP) or len(data) < (20 if protocol == TCP else 8):
        return None
    ports = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
    head = (data[12] >> 4) * 4 if protocol == TCP else 8
    return Segment(protocol, Endpoint(source, ports[0]), Endpoint(destination, ports[1]), packet[8], data[head:])


class _Wire:
    """Control octets of one direction, as TCP segments."""

    def __init__(self, end: PacketEnd, source: Endpoint, destination: Endpoint) -> None:
        self._end, self._source, self._destination = end, source, destination
        self.sent = 1
        self.received = 1

    def send(self, octets: bytes) -> None:
        for start in range(0, len(octets), SEGMENT_OCTETS):
            piece = octets[start : start + SEGMENT_OCTETS]
            head = _TCP.pack(
                self._source.port, self._destination.port, self.sent, self.received, 5 << 4, _PSH_ACK, 65535, 0, 0
            )
            self.sent = (self.sent + len(piece)) & 0xFFFFFFFF
            self._end.send_packet(ipv4_packet(self._source, self._destination, TCP, head + piece))


class PacketSession:
    """One TWAMP session, both ends, over two packet ends. Use: `run()` once.

    `client` and `server` are the addresses and Control ports of both; `sender_port` and `reflector_port` are the
    ports of the test packets. `server_hmac_counter` names packets whose HMAC is wrong.
    """

    def __init__(
        self,
        options: TwpingOptions,
        near: PacketEnd,
        far: PacketEnd,
        *,
        client: Endpoint,
        server: Endpoint,
        sender_port: int,
        reflector_port: int,
        client_keys: KeyProvider | None = None,
        server_keys: KeyProvider | None = None,
        server_key_log: KeyLog | None = None,
    ) -> None:
        self._options = options
        self._near, self._far = near, far
        self._sender_at = Endpoint(client.host, sender_port)
        self._reflector_port = reflector_port
        near.on_packet, far.on_packet = self._at_client, self._at_server
        entropy = SystemEntropy()
        now = time.monotonic()
        config = ControlClientConfig(
            mode=options.security,
            require_ikev2=options.require_ikev2,
            maximum_count=options.maximum_count,
            key_log=options.key_log,
        )
        self._client = ControlClient(
            config, client_keys or NoProvider(), entropy, local=client, remote=server, now=now
        )
        self._server = ControlServer(
            ControlServerConfig(key_log=server_key_log),
            server_keys or NoProvider(),
            self,
            entropy,
            local=server,
            remote=client,
            now=now,
        )
        self._to_server = _Wire(near, client, server)
        self._to_client = _Wire(far, server, client)
        self._reflectors: dict[bytes, SessionReflector] = {}
        self._sender: SessionSender | None = None

    # What the server role asks of its surroundings.

    def ntp_time(self) -> int:
        """The time of day as an NTP timestamp."""
        return now_ntp()

    def open_session(self, session: TestSession) -> int:
        """Make the session's reflector; there is no port to be had from a system."""
        plan = ReflectorPlan(
            sid=session.sid, mode=int(session.mode), keys=session.keys,
            local=(session.reflector.host, self._reflector_port), remote=(session.sender.host, session.sender.port),
            timeout_ns=session.timeout_ns, dscp=session.dscp,
        )  # fmt: skip
        self._reflectors[session.sid] = SessionReflector(plan, now_ntp, clock_state().error_estimate().to_int())
        return self._reflector_port

    # The run.

    def run(self) -> RunResult:
        """Greeting to Stop-Sessions, with every test packet in between. Raises IppmError."""
        try:
            self._expect(Connected)
            self._client.request_session(session_wish(self._options, self._sender_at), time.monotonic())
            session = self._session()
            self._client.start_sessions(time.monotonic())
            self._expect(Started)
            plan = sender_plan(self._options, session)
            clock = clock_state()
            self._sender = SessionSender(plan)
            start_ns = time.monotonic_ns()
            for sequence in range(plan.count):
                pause_ns = start_ns + plan.schedule.offset_ns(sequence) - time.monotonic_ns()
                if pause_ns > 0:
                    time.sleep(pause_ns / 1e9)
                self._send_test(sequence, clock.error_estimate().to_int())
            self._client.stop_sessions(time.monotonic())
            self._pump()
            return RunResult.of(plan, self._sender.records, clock, path=self._options.path)
        finally:
            self._client.close()
            self._server.close()

    def _session(self) -> TestSession:
        answer = self._expect(SessionAccepted, SessionRejected)
        if isinstance(answer, SessionRejected):
            raise answer.error
        if not isinstance(answer, SessionAccepted):
            raise LocalProtocolError("no answer to Request-TW-Session")
        return answer.session

    def _send_test(self, sequence: int, error_estimate: int) -> None:
        if self._sender is None:
            raise LocalProtocolError("no session is accepted")
        self._sender.prepare(sequence)
        data = bytes(self._sender.pack(sequence, now_ntp(), error_estimate))
        destination = Endpoint(self._server.local.host, self._reflector_port)
        head = _UDP.pack(self._sender_at.port, destination.port, 8 + len(data), 0)
        self._near.send_packet(ipv4_packet(self._sender_at, destination, UDP, head + data))

    def _at_server(self, packet: bytes) -> None:
        received = now_ntp()
        segment = parse_segment(packet)
        if segment is None:
            return
        if segment.protocol == TCP:
            self._to_client.received += len(segment.data)
            self._server.receive_data(segment.data, time.monotonic())
            return
        for reflector in self._reflectors.values():
            reply = reflector.handle(
                segment.data, segment.ttl, received, (segment.source.host, segment.source.port)
            )
            if reply is not None:
                head = _UDP.pack(segment.destination.port, segment.source.port, 8 + len(reply), 0)
                back = ipv4_packet(segment.destination, segment.source, UDP, head + bytes(reply))
                self._far.send_packet(back)
                reflector.prepare()

    def _at_client(self, packet: bytes) -> None:
        received = now_ntp()
        segment = parse_segment(packet)
        if segment is None:
            return
        if segment.protocol == TCP:
            self._to_server.received += len(segment.data)
            self._client.receive_data(segment.data, time.monotonic())
        elif self._sender is not None:
            self._sender.records.user_stamps += 1
            self._sender.handle_reply(segment.data, segment.ttl, received)

    def _pump(self) -> None:
        """Carry Control octets both ways until neither side has more, and do what the server's events say."""
        while True:
            to_client, to_server = self._server.data_to_send(), self._client.data_to_send()
            self._to_client.send(to_client)
            self._to_server.send(to_server)
            while (event := self._server.next_event()) is not None:
                if isinstance(event, SessionsStarted):
                    for sid in event.sids:
                        self._reflectors[sid].start(time.monotonic_ns())
            if not to_client and not to_server:
                return

    def _expect(self, *kinds: type[object]) -> object:
        """The client's next event. Raises the error of a connection that closed, or ConnectionFailed."""
        self._pump()
        event = self._client.next_event()
        if isinstance(event, kinds):
            return event
        if isinstance(event, ConnectionClosed):
            raise event.error or ConnectionFailed(event.reason)
        raise ConnectionFailed("the server did not answer")
