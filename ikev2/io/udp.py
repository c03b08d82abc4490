"""IKE's UDP sockets: two ports for each local address, the non-ESP marker, NAT keepalives.

One socket is bound to each of the IKE port (500) and the NAT traversal port (4500). A datagram leaves from
the address and the port that its `local` names; `local` of a received one is the address that it was sent to,
also on a socket bound to the wildcard address (IP_PKTINFO).

On the NAT traversal port IKE shares the port with ESP: four zero octets go before each IKE message, and a
datagram of the one octet 0xFF keeps a NAT mapping alive and means nothing else. RFC 3948 section 2 and
RFC 7296 section 2.23.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ikev2.core.types import Address
from ikev2.io.port_sharing import share
from ikev2.ipsec.backend import NON_ESP_MARKER
from ikev2.ipsec.icmp import OnPathMtu, ask_for_errors, read_errors

NAT_KEEPALIVE = b"\xff"
MAX_DATAGRAM_OCTETS = 65535  # rfc7296-s2-01, rfc7296-s2-02
# More than one of these in a row lets the loop do something else in between.
DATAGRAMS_PER_WAKEUP = 64

RECEIVE_BUFFER_OCTETS = 4 << 20
"""The kernel counts some 900 octets and more for each datagram of an IKE_SA_INIT: a few thousand of them."""
DATAGRAM_OVERHEAD_OCTETS = 768
"""What is counted beside the octets of a datagram that waits."""

# Linux's numbers: Python's socket module lacks some of them.
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
# What is larger than the path's MTU, as far as it is known, may be cut by routers, is cut by the kernel, is refused.
_IP_PMTUDISC_DONT = 0
_IP_PMTUDISC_WANT = 1
_IP_PMTUDISC_DO = 2
_UNCUT_OCTETS = 576 - 28
"""What no path is expected to cut: RFC 7383 section 2.5.1."""
_TRIES = 3
"""To send: all but the last may be told of an error of another datagram."""
_DONTFRAG = (socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, struct.pack("@i", 1))
_IN_PKTINFO = struct.Struct("@I4s4s")
_IN6_PKTINFO = struct.Struct("@16sI")
_CONTROL_OCTETS = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(_IN_PKTINFO.size)

OnDatagram: TypeAlias = Callable[[bytes, Address, Address], None]
"""Called with an IKE message (without marker), the local and the remote address."""


@dataclass(slots=True)
class UdpCounters:
    """What came and went on one socket; what was dropped, by reason."""

    received: int = 0
    sent: int = 0
    keepalives: int = 0
    esp: int = 0
    runts: int = 0
    overruns: int = 0
    send_errors: dict[str, int] = field(default_factory=dict)


class IkeSocket:
    """One bound UDP socket for IKE; `nat_traversal` says that it shares its port with ESP.

    `on_path_mtu` has every path MTU that ICMP tells, be it found by reading or by sending, and so has it when another
    reads the socket. Raises OSError when the address or the port cannot be bound.
    """

    def __init__(self, host: str, port: int, *, nat_traversal: bool, on_path_mtu: OnPathMtu | None = None) -> None:
        address = ipaddress.ip_address(host)
        self.nat_traversal = nat_traversal
        self.counters = UdpCounters()
        self.on_esp: Callable[[bytes, Address, Address], None] | None = None
        self.sock = _udp_socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        try:
            self.sock.bind((host, port))
        except OSError:
            self.sock.close()
            raise
        name = self.sock.getsockname()
        self.local = Address(name[0], name[1])
        self._wildcard = address.is_unspecified
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_path_mtu = on_path_mtu
        self._buffer = bytearray(MAX_DATAGRAM_OCTETS)
        self._view = memoryview(self._buffer)
        self._waiting = bytearray(4)

    def start(self, loop: asyncio.AbstractEventLoop, on_datagram: OnDatagram) -> None:
        """Read on `loop`: every IKE message goes to `on_datagram`."""
        self._loop = loop
        loop.add_reader(self.sock.fileno(), self._readable, on_datagram)

    def esp_beside(self) -> socket.socket | None:
        """A socket on the same port to which ESP comes from now on; None where the system has none for us."""
        try:
            other = _udp_socket(self.sock.family)
        except OSError:
            return None
        if share(self.sock, other):
            return other
        other.close()
        return None

    def stop(self) -> None:
        """Stop reading."""
        if self._loop is not None:
            self._loop.remove_reader(self.sock.fileno())
            self._loop = None

    def close(self) -> None:
        """Stop reading and close the socket."""
        self.stop()
        self.sock.close()

    def send(self, message: bytes, local: Address, remote: Address, *, path_mtu_wanted: bool = False) -> bool:
        """Send one IKE message; False (and a counter) when the kernel refused: IKE will retransmit.

        `path_mtu_wanted`: no router shall cut it, but say what fits (DF); and so shall the kernel, when it knows.
        RFC 7296 section 2, RFC 1191.
        """
        # rfc7296-s2-03: IKE on the port that ESP shares begins with four zero octets.
        # rfc7296-s2.23-05
        octets = NON_ESP_MARKER + message if self.nat_traversal else message
        if len(octets) <= _UNCUT_OCTETS:
            return self.send_raw(octets, local, remote)
        if not path_mtu_wanted:
            with self._discovering(_IP_PMTUDISC_DONT):
                return self.send_raw(octets, local, remote)
        with self._discovering(_IP_PMTUDISC_DO):
            refusal = self._refusal(octets, local, remote, whole=True)
        if refusal is None:
            self.counters.sent += 1
            return True
        # Perhaps the path takes less, as has been told by now: what cannot be cut better goes in fragments of IP.
        return self.send_raw(octets, local, remote)

    def send_raw(self, octets: bytes, local: Address, remote: Address) -> bool:
        """Send octets as they are (a keepalive, for one)."""
        error = self._refusal(octets, local, remote)
        if error is not None:
            reason = errno.errorcode.get(error.errno or 0, str(error.errno))
            self.counters.send_errors[reason] = self.counters.send_errors.get(reason, 0) + 1
            return False
        self.counters.sent += 1
        return True

    def _refusal(self, octets: bytes, local: Address, remote: Address, *, whole: bool = False) -> OSError | None:
        """Why the kernel did not send, None when it did; `whole`: nor shall it cut, and EMSGSIZE is an answer."""
        refusal: OSError | None = None
        for _ in range(_TRIES):
            try:
                self._transmit(octets, local, remote, whole)
            except OSError as error:
                # Perhaps the error of an earlier datagram: it is told once, by whatever call comes next.
                read_errors(self.sock, self._on_path_mtu)
                refusal = error
                if whole and error.errno == errno.EMSGSIZE:
                    break
            else:
                return None
        return refusal

    @contextlib.contextmanager
    def _discovering(self, how: int) -> Iterator[None]:
        """Errors are believed only while the socket wants them: it does so at all other times."""
        self._discover(how)
        try:
            yield
        finally:
            self._discover(_IP_PMTUDISC_WANT)

    def _discover(self, how: int) -> None:
        if self.sock.family == socket.AF_INET:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)

    def _transmit(self, octets: bytes, local: Address, remote: Address, whole: bool) -> None:
        ancillary = [_pktinfo(local.host)] if self._wildcard else []
        if whole and self.sock.family == socket.AF_INET6:
            # Said of this datagram alone: userspace ESP leaves from the same socket, on a thread of its own.
            ancillary.append(_DONTFRAG)
        if ancillary:
            self.sock.sendmsg([octets], ancillary, 0, remote)
        else:
            self.sock.sendto(octets, remote)

    def _readable(self, on_datagram: OnDatagram) -> None:
        buffers, view, wildcard, local = [self._buffer], self._view, self._wildcard, self.local
        for number in range(DATAGRAMS_PER_WAKEUP):
            try:
                if wildcard:
                    octets, ancillary, _flags, name = self.sock.recvmsg_into(buffers, _CONTROL_OCTETS)
                    local = Address(_destination(ancillary) or self.local.host, self.local.port)
                else:
                    octets, name = self.sock.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                if not number:  # woken for something else than a datagram
                    read_errors(self.sock, self._on_path_mtu)
                return
            except OSError:
                # An ICMP error of an earlier datagram: IKE's own timers deal with it, unless it is about its length.
                read_errors(self.sock, self._on_path_mtu)
                continue
            self.deliver(bytes(view[:octets]), local, Address(name[0], name[1]), on_datagram)
            # Asked before read: a read of nothing is an exception, which costs more than the question.
            if self._loop is None or not self._more_waits():  # closed by what the datagram did, or all is read
                return

    def _more_waits(self) -> bool:
        """Whether a datagram lies in the socket; one without octets is not seen here, and wakes the loop again."""
        fcntl.ioctl(self.sock, termios.FIONREAD, self._waiting)
        return any(self._waiting)

    def deliver(self, data: bytes, local: Address, remote: Address, on_datagram: OnDatagram) -> None:
        """Tell IKE, ESP and keepalives apart, and hand IKE over.

        rfc7296-s2.23-01, rfc7296-s2.23-02: any source port is as good as 500 and 4500.
        RFC 3948 section 2.2.
        """
        if self.nat_traversal:
            if data == NAT_KEEPALIVE:
                self.counters.keepalives += 1
                return
            if len(data) <= len(NON_ESP_MARKER):
                self.counters.runts += 1
                return
            if not data.startswith(NON_ESP_MARKER):
                self.counters.esp += 1
                if self.on_esp is not None:
                    self.on_esp(data, local, remote)
                return
            data = data[len(NON_ESP_MARKER) :]
        self.counters.received += 1
        on_datagram(data, local, remote)


def _udp_socket(family: int) -> socket.socket:
    """An unbound socket that says to which address a datagram came, and hears of paths that are too narrow. OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        large_receive_buffer(sock)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_WANT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        ask_for_errors(sock)
    except OSError:
        sock.close()
        raise
    return sock


def large_receive_buffer(sock: socket.socket) -> None:
    """Room for what comes while the process is busy, as a flood does: what finds the buffer full is lost.

    As much as the system grants: beyond `net.core.rmem_max` it takes CAP_NET_ADMIN.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_OCTETS)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)


def _pktinfo(host: str) -> tuple[int, int, bytes]:
    """The ancillary message that makes the kernel send from `host`."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, address.packed, bytes(4)))
    return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(address.packed, 0))


def _destination(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The address that a datagram was sent to, from its ancillary data."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(value) >= _IN_PKTINFO.size:
            return socket.inet_ntop(socket.AF_INET, value[8:12])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(value) >= _IN6_PKTINFO.size:
            return socket.inet_ntop(socket.AF_INET6, value[:16])
    return None


def source_address(remote: str, port: int = 500, mark: int | None = None) -> str:
    """The address that the kernel's routes would send from towards `remote`. Raises OSError without a route."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        if mark is not None:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        probe.connect((remote, port))
        name: Any = probe.getsockname()
        return str(name[0])
