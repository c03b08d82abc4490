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
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ikev2.core.child_sa import ChildSaParameters
from ikev2.core.types import Address
from ikev2.errors import BackendError
from ikev2.ipsec import mmsg
from ikev2.ipsec.backend import NON_ESP_MARKER, DropReason, OnIke
from ikev2.ipsec.dummies import DummySchedule
from ikev2.ipsec.esp_sockets import (
    EncapSocket,
    local_host,
    open_esp6_socket,
    open_esp_socket,
    tos_and_ttl,
)
from ikev2.ipsec.icmp import OnPathMtu, read_errors
from ikev2.ipsec.ipv4 import HEADER_OCTETS
from ikev2.ipsec.outgoing import BATCH, Outgoing
from ikev2.ipsec.sad import Engine
from ikev2.ipsec.trace import EspTrace, arrived
from ikev2.ipsec.tun import has_ipv6

log = logging.getLogger(__name__)

_GONE = (errno.EBADF, errno.EBADFD, errno.ENODEV, errno.ENOTSOCK)

_FULL_BUFFER_BATCHES = 320
"""What a full socket buffer holds, in batches: the kernel counts some 800 octets for the smallest packet."""
_KNOWN_SOURCES = 100_000
_KNOWN_ARRIVALS = 10_000
_LONGEST = 65536


class _Arrival(NamedTuple):
    """Beside the octets of a datagram: from where, to which address of ours, with what DS and ECN, what TTL."""

    remote: Address
    local_host: str
    tos: int
    ttl: int


class DataPlane:
    """Runs from `start` to `stop`; `attach` and `stop` are called from another thread than its own.

    Raises BackendError when the sockets cannot be made.
    """

    def __init__(
        self, engine: Engine, tun_fd: int, on_event: Callable[[], None], trace: EspTrace | None = None
    ) -> None:
        self._engine = engine
        self._trace = trace
        self._tun_fd = tun_fd
        self._on_event = on_event
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._attached: list[EncapSocket] = []
        self._families: set[int] = set()
        self._encaps: dict[tuple[str, int], EncapSocket] = {}
        self._came_from: dict[bytes, Address] = {}
        self._arrivals: dict[str, dict[bytes, _Arrival]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._running = False
        self._thread: threading.Thread | None = None
        self._dummies = DummySchedule()
        self._received = mmsg.ReceiveBatch(BATCH)
        with contextlib.ExitStack() as stack:
            self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            stack.callback(os.close, self._wake_fd)
            self._raw = stack.enter_context(open_esp_socket())
            self._raw6 = open_esp6_socket() if has_ipv6() else None
            if self._raw6 is not None:
                stack.enter_context(self._raw6)
            try:
                self._outgoing = Outgoing(self._encaps, self._raw6, lambda packet: os.write(tun_fd, packet))
            except OSError as error:
                raise BackendError(f"a raw socket to send ESP cannot be opened: {error.strerror}") from error
            stack.pop_all()

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
            self._outgoing.close()

    def attach(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        """Read a bound UDP socket from now on."""
        encap = EncapSocket.of(sock, on_ike, on_path_mtu)
        self._attached.append(encap)
        self._families.add(sock.family)
        self._encaps[_place(sock.family, encap.host), encap.port] = encap
        self._calls.append(self._outgoing.forget_ways)
        self._calls.append(lambda: self._watch(sock.fileno(), lambda: self._from_encap(encap)))
        self._wake()

    def after_reading(self, call: Callable[[], None]) -> None:
        """Call on the thread when it has read what lies in the sockets now."""

        def read_and_call() -> None:
            self._read_all()
            call()

        self._calls.append(read_and_call)
        self._wake()

    def send_dummies(self, child: ChildSaParameters) -> None:
        """Send dummy packets on an installed pair from now on, as often as it says. RFC 4303 section 2.6."""
        self._calls.append(lambda: self._dummies.add(child, time.monotonic()))
        self._wake()

    def stop_dummies(self, spi_in: int) -> None:
        """Send no more of them on the pair of this inbound SPI."""
        self._calls.append(lambda: self._dummies.drop(spi_in))
        self._wake()

    def can_encapsulate(self, remote: str) -> bool:
        """True when there is a UDP socket of the family of `remote`."""
        return (socket.AF_INET6 if ":" in remote else socket.AF_INET) in self._families

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
        poll, handle, events, dummies = self._poll.poll, self._handle, self._engine.events, self._dummies
        while self._running:
            for fd, ready in poll(dummies.wait_ms(time.monotonic()) if dummies else None):
                handle(fd, ready)
            if dummies:
                self._send_dummies()
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
        if self._raw6 is not None and self._raw6.fileno() == fd:
            read_errors(self._raw6, None)

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
        read, fd, protect, put = os.read, self._tun_fd, self._engine.protect, self._outgoing.put
        trace, outside = self._trace, self._engine.outside
        try:
            for _ in range(BATCH):
                packet = read(fd, _LONGEST)
                result = protect(packet)
                if trace is not None:
                    trace.sent(packet, result)
                if result is not None:
                    put(*result)
                elif outside:
                    self._outgoing.put_outside(outside.popleft())
        except BlockingIOError:
            pass
        finally:
            self._outgoing.flush()

    def _send_dummies(self) -> None:
        for child, octets in self._dummies.due(time.monotonic()):
            try:
                result = self._engine.dummy(child, octets)
            except BackendError:
                continue  # on standby, or about to go
            if self._trace is not None:
                self._trace.dummy(*result)
            self._outgoing.put(*result)
        self._outgoing.flush()

    # --- network to host --------------------------------------------------------------------------------------

    def _from_raw(self) -> None:
        batch, unprotect, write, fd = self._received, self._engine.unprotect, os.write, self._tun_fd
        for outer in batch.datagrams(batch.receive(self._raw.fileno())):
            start = (outer[0] & 0x0F) * 4
            packet = unprotect(outer[start:], outer[1], outer[8], outer[:start])
            if self._trace is not None:
                self._trace.came(outer, outer[start:], packet)
            if packet is not None:
                write(fd, packet)
            elif self._engine.stray_spi:
                local, remote = socket.inet_ntoa(outer[16:20]), socket.inet_ntoa(outer[12:16])
                self._engine.tell_stray(Address(local, 0), Address(remote, 0))

    def _from_raw6(self, raw: socket.socket) -> None:
        batch, unprotect, write, fd = self._received, self._engine.unprotect, os.write, self._tun_fd
        known = self._arrivals.setdefault("", {})
        try:
            count = batch.receive(raw.fileno())
        except OSError as error:
            if error.errno in _GONE:
                raise
            read_errors(raw, None)  # one that came after the poll: nothing is dropped by it
            return
        for data, meta in zip(batch.datagrams(count), batch.metas(count), strict=True):
            came = known.get(meta) or self._arrival("", meta)
            packet = unprotect(data, came.tos, came.ttl)
            if self._trace is not None:
                remote = Address(came.remote.host, 0)
                outer = arrived(data, remote, Address(came.local_host, 0), came.tos, came.ttl)
                self._trace.came(outer, data, packet)
            if packet is not None:
                write(fd, packet)
            elif self._engine.stray_spi:
                self._engine.tell_stray(Address(came.local_host, 0), Address(came.remote.host, 0))

    def _from_encap(self, encap: EncapSocket) -> None:
        batch, unprotect, write, fd = self._received, self._engine.unprotect, os.write, self._tun_fd
        came_from, known = self._came_from, self._arrivals.setdefault(encap.host, {})
        if len(came_from) > _KNOWN_SOURCES:
            came_from.clear()
        try:
            count = batch.receive(encap.sock.fileno())
        except OSError as error:
            if error.errno in _GONE:
                raise
            # An ICMP error, for a datagram of ours, that came after the poll: nothing is dropped by it.
            read_errors(encap.sock, encap.on_path_mtu)
            return
        for data, meta in zip(batch.datagrams(count), batch.metas(count), strict=True):
            came = known.get(meta) or self._arrival(encap.host, meta)
            remote, _, tos, ttl = came
            spi = data[:4]
            # Four zero octets, which are no SPI, announce IKE: RFC 3948 section 2.2.
            if spi == NON_ESP_MARKER:
                self._to_ike(encap, data[4:], came)
                continue
            if len(data) < HEADER_OCTETS:
                if data != b"\xff":  # a NAT keepalive: RFC 3948 section 2.3
                    self._engine.drops[DropReason.MALFORMED] += 1
                continue
            # rfc7296-s2.23-06, rfc7296-s2.23-14: the SPI alone says whose packet it is, however it came.
            packet = unprotect(data, tos, ttl)
            if self._trace is not None:
                outer = arrived(data, remote, Address(came.local_host, encap.port), tos, ttl)
                self._trace.came(outer, data, packet)
            if packet is not None:
                if came_from.get(spi) != remote:
                    self._engine.came_from(spi, *remote)
                    came_from[spi] = remote
                write(fd, packet)
            elif self._engine.stray_spi:
                self._engine.tell_stray(Address(came.local_host, encap.port), remote)

    def _arrival(self, host: str, meta: bytes) -> _Arrival:
        """What the octets beside a datagram say, at a socket bound to `host`; they are remembered for the next one."""
        ancillary = mmsg.ancillary(meta)
        found = _Arrival(Address(*mmsg.sender(meta)), local_host(host, ancillary), *tos_and_ttl(ancillary))
        known = self._arrivals.setdefault(host, {})
        if len(known) >= _KNOWN_ARRIVALS:
            known.clear()
        known[meta] = found
        return found

    def _to_ike(self, encap: EncapSocket, data: bytes, came: _Arrival) -> None:
        try:
            encap.on_ike(data, Address(came.local_host, encap.port), came.remote)
        except Exception:  # whatever IKE makes of it, ESP goes on
            log.exception("the receiver of IKE datagrams failed")


def _place(family: int, host: str) -> str:
    """Where a socket is found that is bound to `host`, "" for all addresses of its family."""
    return host or ("::" if family == socket.AF_INET6 else "")
