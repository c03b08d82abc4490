"""The packet loop of the userspace backend: one thread between a TUN device and the sockets that carry ESP.

    host -> TUN -> Engine.protect   -> raw socket (protocol 50), or UDP 4500 -> network
    host <- TUN <- Engine.unprotect <- raw socket (protocol 50), or UDP 4500 <- network

ESP that comes is taken in either form, whatever form the SA sends in (RFC 7296 section 2.23). The thread sleeps in
poll(2) until a descriptor is ready, and an eventfd wakes it for everything else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ikev2.core.types import Address
from ikev2.errors import BackendError
from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.backend import NON_ESP_MARKER, DropReason, OnIke
from ikev2.ipsec.fragments import fragments
from ikev2.ipsec.icmp import OnPathMtu, read_errors
from ikev2.ipsec.ipv4 import FLAG_DF, HEADER_OCTETS, fragmentation_needed
from ikev2.ipsec.outer import inner_mtu, outer_packet, udp
from ikev2.ipsec.routing import SOCKET_MARK
from ikev2.ipsec.sad import Engine, Pair
from ikev2.ipsec.tun import has_ipv6

log = logging.getLogger(__name__)

SO_MARK = getattr(socket, "SO_MARK", 36)
_IP_PKTINFO = 8
_IP_RECVTTL = 12
_IP_RECVTOS = 13
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 51, 52
_IPV6_RECVTCLASS, _IPV6_TCLASS = 66, 67
_IP_MTU = 14
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32

_GONE = (errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENOTSOCK)

_BATCH = 64
_FULL_BUFFER_BATCHES = 160
"""What a full socket buffer holds, in batches: the kernel counts some 800 octets for the smallest packet."""
_KNOWN_SOURCES = 100_000
_RECEIVE_OCTETS = 65536
_SOCKET_BUFFER_OCTETS = 8 << 20
_OUTER_TTL = 64
_ANCILLARY_OCTETS = 128

_pack_head = struct.Struct("!BBHHHBBH").pack
_PKTINFO = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_INT = struct.Struct("=i")


@dataclass(slots=True, eq=False)
class _EncapSocket:
    """The UDP 4500 socket of the caller, and whom IKE datagrams go to; `host` is "" when it is bound to all."""

    sock: socket.socket
    on_ike: OnIke
    host: str
    port: int
    on_path_mtu: OnPathMtu | None = None


class DataPlane:
    """Runs from `start` to `stop`; `attach` and `stop` are called from another thread than its own."""

    def __init__(self, engine: Engine, tun_fd: int, on_event: Callable[[], None]) -> None:
        self._engine = engine
        self._tun_fd = tun_fd
        self._on_event = on_event
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._senders: dict[tuple[bytes, str], socket.socket] = {}
        self._attached: list[_EncapSocket] = []
        self._encaps: dict[tuple[str, int], _EncapSocket] = {}
        self._came_from: dict[bytes, object] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._identification = int.from_bytes(os.urandom(2), "big")
        self._running = False
        self._thread: threading.Thread | None = None
        self._buffer = bytearray(_RECEIVE_OCTETS)
        self._view = memoryview(self._buffer)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._raw = open_esp_socket()
        except BackendError:
            os.close(self._wake_fd)
            raise
        self._raw6 = open_esp6_socket() if has_ipv6() else None

    # --- the other threads' side ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._watch(self._wake_fd, self._woken)
        self._watch(self._tun_fd, self._from_tun)
        self._watch(self._raw.fileno(), self._from_raw)
        if self._raw6 is not None:
            raw6 = self._raw6
            self._watch(raw6.fileno(), lambda: self._from_raw6(raw6))
        self._running = True
        self._thread = threading.Thread(target=self._run, name="ikev2-esp", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close what is its own; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._running = False
            self._wake()
            thread.join()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1
            self._raw.close()
            if self._raw6 is not None:
                self._raw6.close()
            for sender in self._senders.values():
                sender.close()
            self._senders.clear()

    def attach(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        """Read a bound UDP socket from now on."""
        host, port = sock.getsockname()[:2]
        if sock.family == socket.AF_INET:
            for option in (_IP_PKTINFO, _IP_RECVTOS, _IP_RECVTTL):
                sock.setsockopt(socket.IPPROTO_IP, option, 1)
        else:
            for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
                sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        _large_buffers(sock)
        encap = _EncapSocket(sock, on_ike, "" if host in ("0.0.0.0", "::") else host, port, on_path_mtu)
        self._attached.append(encap)
        self._encaps[_place(sock.family, encap.host), port] = encap
        self._calls.append(lambda: self._watch(sock.fileno(), lambda: self._from_encap(encap)))
        self._wake()

    def after_reading(self, call: Callable[[], None]) -> None:
        """Call on the thread when it has read what lies in the sockets now."""

        def read_and_call() -> None:
            self._read_all()
            call()

        self._calls.append(read_and_call)
        self._wake()

    def can_encapsulate(self, remote: str) -> bool:
        """True when there is a UDP socket of the family of `remote`."""
        family = socket.AF_INET6 if ":" in remote else socket.AF_INET
        return any(encap.sock.family == family for encap in self._attached)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    # --- the thread -------------------------------------------------------------------------------------------

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        while self._calls:
            self._calls.popleft()()

    def _run(self) -> None:
        poll, handle, events = self._poll.poll, self._handle, self._engine.events
        while self._running:
            for fd, ready in poll():
                handle(fd, ready)
            if events:
                self._on_event()

    def _handle(self, fd: int, ready: int) -> None:
        handler = self._handlers.get(fd)
        if handler is None:
            return
        try:
            if ready & select.POLLERR:
                self._drain_errors(fd)
            handler()
        except OSError as error:
            self._failed(fd, ready, error)
        except Exception:  # one packet that nobody foresaw does not end all Child SAs
            self._engine.drops[DropReason.MALFORMED] += 1
            log.exception("the ESP loop met a packet that it cannot treat")

    def _read_all(self) -> None:
        """Read what the sockets hold, as far as their buffers go."""
        for _ in range(_FULL_BUFFER_BATCHES):
            ready = [(fd, events) for fd, events in self._poll.poll(0) if fd not in (self._wake_fd, self._tun_fd)]
            if not ready:
                return
            for fd, events in ready:
                self._handle(fd, events)

    def _drain_errors(self, fd: int) -> None:
        """Take ICMP errors that wait for a socket whose owner asked for them: until then it is ready for ever."""
        for encap in self._attached:
            if encap.sock.fileno() == fd:
                read_errors(encap.sock, encap.on_path_mtu)

    def _failed(self, fd: int, ready: int, error: OSError) -> None:
        if ready & (select.POLLNVAL | select.POLLHUP) or error.errno in _GONE:
            # Closed under us, or the device is gone: a descriptor like that is ready for ever.
            self._poll.unregister(fd)
            del self._handlers[fd]
            log.warning("the ESP loop no longer reads descriptor %d: %s", fd, error)
            return
        self._engine.drops[DropReason.SEND] += 1
        log.debug("the ESP loop met %s", error)

    # --- host to network --------------------------------------------------------------------------------------

    def _from_tun(self) -> None:
        read, fd, protect = os.read, self._tun_fd, self._engine.protect
        for _ in range(_BATCH):
            try:
                packet = read(fd, _RECEIVE_OCTETS)
            except BlockingIOError:
                return
            result = protect(packet)
            if result is None:
                continue
            pair, esp, packet = result
            try:
                if len(pair.remote) == 16:
                    self._send6(pair, esp, packet)
                elif pair.child.encap is None:
                    self._send_raw(pair, socket.IPPROTO_ESP, esp, packet)
                else:
                    self._send_raw(pair, socket.IPPROTO_UDP, udp(pair, esp), packet)
            except OSError as error:
                self._not_sent(pair, packet, error)

    def _send_raw(self, pair: Pair, protocol: int, esp: bytes, inner: bytes) -> None:
        """Over IPv4, ESP or ESP in UDP. Raises OSError; EMSGSIZE only for what must not be fragmented."""
        sender = self._senders.get((pair.remote, "")) or self._sender(pair.remote)
        flags, tos = (inner[6] << 8 & FLAG_DF, inner[1]) if inner[0] >> 4 == 4 else (0, ip.tos(inner))
        if pair.tunnel:
            # DS, ECN and DF come from inside (RFC 4301 section 5.1.2.1); the kernel fills the checksum and, for
            # packets that may be fragmented, the identification.
            head = _pack_head(0x45, tos, HEADER_OCTETS + len(esp), 0, flags, _OUTER_TTL, protocol, 0)
            outer = head + pair.local + pair.remote + esp
        else:
            outer = b"%b%c%b%b" % (inner[:9], protocol, inner[10 : (inner[0] & 0x0F) * 4], esp)
        try:
            sender.send(outer)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or flags:
                raise
            self._send_in_fragments(sender, outer)

    def _send6(self, pair: Pair, esp: bytes, inner: bytes) -> None:
        """Over IPv6, ESP or ESP in UDP: the kernel makes header, UDP checksum and, beyond the path's MTU, fragments.

        Only in transport mode with extension headers the packet is made here. Raises OSError.
        """
        host, _, zone = pair.child.remote.partition("%")
        scope = _scope(zone) if zone else 0
        if not pair.tunnel and ipv6.has_extensions(inner):
            sender = self._senders.get((pair.remote, zone)) or self._sender(pair.remote, zone)
            sender.send(outer_packet(pair, esp, inner))
            return
        ancillary = [
            (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(pair.local, scope)),
            (socket.IPPROTO_IPV6, _IPV6_TCLASS, _INT.pack(ip.tos(inner))),
        ]
        if not pair.tunnel:
            # The peer makes the hop limit of the packet out of the outer one's.
            ancillary.append((socket.IPPROTO_IPV6, _IPV6_HOPLIMIT, _INT.pack(inner[7])))
        if pair.child.encap is None:
            if self._raw6 is None:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
            self._raw6.sendmsg((esp,), ancillary, socket.MSG_DONTWAIT, (host, 0, 0, scope))
            return
        port = pair.child.encap.local_port
        encap = self._encaps.get((pair.child.local, port)) or self._encaps.get(("::", port))
        if encap is None:
            raise OSError(errno.ENOTCONN, "no UDP socket for ESP")
        to = (host, pair.child.encap.remote_port, 0, scope)
        try:
            encap.sock.sendmsg((esp,), ancillary, socket.MSG_DONTWAIT, to)
        except OSError:
            # Perhaps the error of an earlier datagram: it is told once, by whatever call comes next.
            read_errors(encap.sock, encap.on_path_mtu)
            encap.sock.sendmsg((esp,), ancillary, socket.MSG_DONTWAIT, to)

    def _send_in_fragments(self, sender: socket.socket, outer: bytes) -> None:
        """The kernel does not cut packets whose header is made here."""
        octets = len(outer)
        if octets > _RECEIVE_OCTETS - 1:
            raise OSError(errno.EMSGSIZE, "an ESP packet longer than an IPv4 packet can be")
        self._identification = self._identification + 1 & 0xFFFF or 1
        whole = b"%b%b%b%b" % (
            outer[:2],
            octets.to_bytes(2, "big"),
            self._identification.to_bytes(2, "big"),
            outer[6:],
        )
        for piece in fragments(whole, sender.getsockopt(socket.IPPROTO_IP, _IP_MTU)):
            sender.send(piece)

    def _sender(self, remote: bytes, zone: str = "") -> socket.socket:
        """A socket that only sends whole packets, connected: the route is looked up once, not per packet."""
        family = socket.AF_INET if len(remote) == 4 else socket.AF_INET6
        sender = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        try:
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
            _large_buffers(sender)
            host = socket.inet_ntop(family, remote)
            sender.connect((host, 0) if family == socket.AF_INET else (host, 0, 0, _scope(zone) if zone else 0))
        except OSError:
            sender.close()
            raise
        self._senders[remote, zone] = sender
        return sender

    def _not_sent(self, pair: Pair, inner: bytes, error: OSError) -> None:
        if error.errno != errno.EMSGSIZE:
            pair.outbound.errors[DropReason.SEND] += 1
            return
        pair.outbound.errors[DropReason.TOO_BIG] += 1
        sender = self._senders.get((pair.remote, ""))
        if sender is not None and len(pair.remote) == 4 and inner[0] >> 4 == 4 and inner[6] << 8 & FLAG_DF:
            # The path is narrower than it was: pad less, and tell the host. RFC 4301 section 8.2.
            mtu = inner_mtu(pair, sender.getsockopt(socket.IPPROTO_IP, _IP_MTU))
            padded = bool(pair.outbound.pad_to)
            pair.limit_padding(mtu)
            if not padded or len(inner) > mtu:
                os.write(self._tun_fd, fragmentation_needed(inner, mtu))

    # --- network to host --------------------------------------------------------------------------------------

    def _from_raw(self) -> None:
        receive, buffer, view = self._raw.recv_into, self._buffer, self._view
        unprotect, write, fd = self._engine.unprotect, os.write, self._tun_fd
        for _ in range(_BATCH):
            try:
                octets = receive(buffer)
            except BlockingIOError:
                return
            start = (buffer[0] & 0x0F) * 4
            packet = unprotect(bytes(view[start:octets]), buffer[1], buffer[8], bytes(view[:start]))
            if packet is not None:
                write(fd, packet)
            elif self._engine.stray_spi:
                local, remote = socket.inet_ntoa(view[16:20]), socket.inet_ntoa(view[12:16])
                self._engine.tell_stray(Address(local, 0), Address(remote, 0))

    def _from_raw6(self, raw: socket.socket) -> None:
        buffer, view = [self._buffer], self._view
        for _ in range(_BATCH):
            try:
                octets, ancillary, _, remote = raw.recvmsg_into(buffer, _ANCILLARY_OCTETS)
            except BlockingIOError:
                return
            packet = self._engine.unprotect(bytes(view[:octets]), *_tos_and_ttl(ancillary))
            if packet is not None:
                os.write(self._tun_fd, packet)
            elif self._engine.stray_spi:
                self._engine.tell_stray(Address(_local_host("", ancillary), 0), Address(remote[0], 0))

    def _from_encap(self, encap: _EncapSocket) -> None:
        buffer, view, came_from = [self._buffer], self._view, self._came_from
        unprotect, write, fd = self._engine.unprotect, os.write, self._tun_fd
        if len(came_from) > _KNOWN_SOURCES:
            came_from.clear()
        for _ in range(_BATCH):
            try:
                octets, ancillary, _, remote = encap.sock.recvmsg_into(
                    buffer, _ANCILLARY_OCTETS, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            data = bytes(view[:octets])
            # Four zero octets, which are no SPI, announce IKE: RFC 3948 section 2.2.
            if data[:4] == NON_ESP_MARKER:
                self._to_ike(encap, data[4:], ancillary, Address(remote[0], remote[1]))
                continue
            if octets < HEADER_OCTETS:
                if data != b"\xff":  # a NAT keepalive: RFC 3948 section 2.3
                    self._engine.drops[DropReason.MALFORMED] += 1
                continue
            tos, ttl = _tos_and_ttl(ancillary)
            # rfc7296-s2.23-06, rfc7296-s2.23-14: the SPI alone says whose packet it is, however it came.
            packet = unprotect(data, tos, ttl)
            if packet is not None:
                if came_from.get(data[:4]) != remote:
                    self._engine.came_from(data[:4], remote[0], remote[1])
                    came_from[data[:4]] = remote
                write(fd, packet)
            elif self._engine.stray_spi:
                local = Address(_local_host(encap.host, ancillary), encap.port)
                self._engine.tell_stray(local, Address(remote[0], remote[1]))

    def _to_ike(
        self, encap: _EncapSocket, data: bytes, ancillary: list[tuple[int, int, bytes]], remote: Address
    ) -> None:
        try:
            encap.on_ike(data, Address(_local_host(encap.host, ancillary), encap.port), remote)
        except Exception:  # whatever IKE makes of it, ESP goes on
            log.exception("the receiver of IKE datagrams failed")


def _local_host(host: str, ancillary: list[tuple[int, int, bytes]]) -> str:
    """The address of ours to which a datagram came: that of the socket, or, where it has none, of the datagram."""
    for level, kind, value in ancillary:
        if host:
            break
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            host = socket.inet_ntoa(_PKTINFO.unpack_from(value)[2])
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            host = socket.inet_ntop(socket.AF_INET6, value[:16])
    return host


def open_esp_socket() -> socket.socket:
    """The socket on which ESP of protocol 50 comes in. Raises BackendError."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ESP)
    except OSError as error:
        raise BackendError(f"a raw socket for ESP cannot be opened: {error.strerror}") from error
    _large_buffers(sock)
    return sock


def open_esp6_socket() -> socket.socket | None:
    """The same for IPv6, on which ESP is sent, too; None where the system has no IPv6."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ESP)
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
        for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
    except OSError:
        return None
    _large_buffers(sock)
    return sock


def _place(family: int, host: str) -> str:
    """Where a socket is found that is bound to `host`, "" for all addresses of its family."""
    return host or ("::" if family == socket.AF_INET6 else "")


def _scope(zone: str) -> int:
    """The number of the interface that a zone names."""
    return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)


def _large_buffers(sock: socket.socket) -> None:
    """Room for the bursts that come while the thread does not run; as much as the system grants."""
    for force, option in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, _SOCKET_BUFFER_OCTETS)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_OCTETS)


def _tos_and_ttl(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    tos, ttl = 0, _OUTER_TTL
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP:
            if kind == socket.IP_TOS:
                tos = value[0]
            elif kind == socket.IP_TTL:
                ttl = _INT.unpack_from(value)[0]
        elif level == socket.IPPROTO_IPV6:
            if kind == _IPV6_TCLASS:
                tos = _INT.unpack_from(value)[0]
            elif kind == _IPV6_HOPLIMIT:
                ttl = _INT.unpack_from(value)[0]
    return tos, ttl
