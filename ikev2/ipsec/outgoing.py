"""ESP packets on their way to the network: collected, sent many at a time, and cut or given up where they do not fit.

Over IPv4 the whole packet is made here, so that TOS, DF and TTL are those that RFC 4301 section 5.1.2 wants of each,
and so over IPv6 in a tunnel what must not be cut; else the kernel makes IPv6's header, UDP checksum and, beyond the
path's MTU, fragments. What sendmmsg(2) refuses is sent once more, alone, where the error says what to do.
RFC 4301 section 8.2.1.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping

from ikev2.ipsec import ip, ipv6, mmsg
from ikev2.ipsec.backend import NAT_PORT, DropReason
from ikev2.ipsec.esp import NEXT_HEADER_IPV4, EspDrop
from ikev2.ipsec.esp_sockets import IPV6_HOPLIMIT, IPV6_TCLASS, SO_MARK, EncapSocket, open_packet_socket, scope
from ikev2.ipsec.fragments import fragments
from ikev2.ipsec.icmp import read_errors
from ikev2.ipsec.ipv4 import FLAG_DF, HEADER_OCTETS, MalformedPacket, fragment_offset, fragmentation_needed
from ikev2.ipsec.outer import TTL, UDP_HEADER, inner_mtu, outer_packet
from ikev2.ipsec.pair import Pair
from ikev2.ipsec.routing import SOCKET_MARK

BATCH = 32
"""Packets that wait for one another at most: each delays the first by some 4 us."""
_BATCHED_OCTETS = 16384
"""Longer packets go alone."""
_IP_MTU, _IPV6_MTU, _IPV6_DONTFRAG = 14, 24, 62
_LONGEST = 65535
_KNOWN_DESTINATIONS = 10_000
_KNOWN_SENDERS = 256
_KNOWN_HEADS = 2_000

_pack_head = struct.Struct("!BBHHHBBH").pack
_PKTINFO6 = struct.Struct("=16sI")
_INT = struct.Struct("=i")


class Outgoing:
    """The sending side of the data plane; it belongs to one thread.

    `encaps` are the UDP sockets by bound address ("::" for all of IPv6) and port; `to_host` takes an ICMP message for
    the host itself. Raises OSError when there can be no raw socket.
    """

    def __init__(
        self,
        encaps: Mapping[tuple[str, int], EncapSocket],
        raw6: socket.socket | None,
        to_host: Callable[[bytes], object],
    ) -> None:
        self._encaps = encaps
        self._raw6 = raw6
        self._to_host = to_host
        self._raw = open_packet_socket(socket.AF_INET)
        self._alone: dict[tuple[bytes, str], socket.socket] = {}
        self._batch = mmsg.SendBatch(BATCH, _BATCHED_OCTETS)
        self._whole6 = open_packet_socket(socket.AF_INET6) if raw6 is not None else None
        self._sock = self._raw
        self._waiting: list[tuple[Pair, bytes, bytes]] = []
        self._destinations: dict[bytes, bytes] = {}
        self._destinations6: dict[str, bytes] = {}
        self._known6: dict[tuple[object, ...], tuple[socket.socket, bytes, bytes]] = {}
        self._identification = int.from_bytes(os.urandom(2), "big")

    def close(self) -> None:
        """Close the sockets that are its own."""
        for sock in (self._raw, self._whole6, *self._alone.values()):
            if sock is not None:
                sock.close()
        self._alone.clear()

    def put(self, pair: Pair, esp: bytes, inner: bytes) -> None:
        """Send an ESP packet of a pair with the next `flush` at the latest; `inner` is the packet that it protects."""
        control = b""
        try:
            if len(pair.remote) == 4:
                sock, head = self._raw, _head(pair, len(esp), inner)
                to = self._destinations.get(pair.remote) or self._destination(pair.remote)
            elif self._whole6 is not None and _is_made_here(pair, inner):
                sock, head = self._whole6, _head6(pair, len(esp), inner)
                to = self._destinations6.get(pair.child.remote) or self._destination6(pair)
            elif pair.tunnel or not ipv6.has_extensions(inner):
                sock, to, control, head = *self._to6(pair, inner), b""
            else:
                self._send_alone(pair, esp, inner)
                return
        except OSError:
            pair.outbound.errors[DropReason.SEND] += 1
            return
        batch = self._batch
        if len(head) + len(esp) > batch.octets:
            self._send_alone(pair, esp, inner)
            return
        if sock is not self._sock or batch.waiting == batch.count:
            self.flush()
            self._sock = sock
        batch.add(head, esp, to, control)
        self._waiting.append((pair, esp, inner))

    def put_outside(self, packet: bytes) -> None:
        """Send a packet of the host's as it is, by the way that it would have taken; there may be none any more."""
        to = ip.destination(packet)
        with contextlib.suppress(OSError):
            (self._alone.get((to, "")) or self._sender(to)).send(packet)

    def forget_ways(self) -> None:
        """There are other UDP sockets than before."""
        self._known6.clear()

    def flush(self) -> None:
        """Send what waits."""
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for at in self._batch.send(self._sock.fileno()):
                self._send_alone(*waiting[at])

    def _destination(self, remote: bytes) -> bytes:
        if len(self._destinations) >= _KNOWN_DESTINATIONS:
            self._destinations.clear()
        return self._destinations.setdefault(remote, mmsg.sockaddr(remote))

    def _destination6(self, pair: Pair) -> bytes:
        """Raises OSError."""
        if len(self._destinations6) >= _KNOWN_DESTINATIONS:
            self._destinations6.clear()
        to = mmsg.sockaddr(pair.remote, 0, scope(pair.child.remote.partition("%")[2]))
        return self._destinations6.setdefault(pair.child.remote, to)

    # --- one packet -------------------------------------------------------------------------------------------

    def _send_alone(self, pair: Pair, esp: bytes, inner: bytes) -> None:
        try:
            if len(pair.remote) == 4:
                self._send4(pair, _head(pair, len(esp), inner) + esp, inner)
            else:
                self._send6(pair, esp, inner)
        except OSError as error:
            self._not_sent(pair, esp, inner, error)
        except MalformedPacket:
            pair.outbound.errors[DropReason.MALFORMED] += 1

    def _send4(self, pair: Pair, outer: bytes, inner: bytes) -> None:
        """Raises OSError; EMSGSIZE only for what must not be fragmented."""
        sender = self._alone.get((pair.remote, "")) or self._sender(pair.remote)
        try:
            sender.send(outer)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or outer[6] << 8 & FLAG_DF:
                raise
            self._send_in_fragments(sender, outer)

    def _send6(self, pair: Pair, esp: bytes, inner: bytes, *, whole: bool | None = None) -> None:
        """Raises OSError; EMSGSIZE only for what must not be fragmented, unless `whole` says that it may."""
        host, _, zone = pair.child.remote.partition("%")
        if not pair.tunnel and ipv6.has_extensions(inner):
            sender = self._alone.get((pair.remote, zone)) or self._sender(pair.remote, zone)
            sender.send(outer_packet(pair, esp, inner))
            return
        if whole is None:
            whole = pair.tunnel and pair.keeps_whole(inner)
        if whole and pair.child.encap is None:
            sender = self._alone.get((pair.remote, zone)) or self._sender(pair.remote, zone)
            sender.send(_head6(pair, len(esp), inner) + esp)
            return
        sock, port, index = self._way6(pair)
        messages, to = self._messages6(pair, inner, index, whole=whole), (host, port, 0, index)
        try:
            sock.sendmsg((esp,), messages, socket.MSG_DONTWAIT, to)
        except OSError:
            encap = self._encap(pair)
            # Perhaps the error of an earlier datagram: it is told once, by whatever call comes next.
            read_errors(sock, encap.on_path_mtu if encap is not None else None)
            sock.sendmsg((esp,), messages, socket.MSG_DONTWAIT, to)

    def _way6(self, pair: Pair) -> tuple[socket.socket, int, int]:
        """Over IPv6: the socket, and port and scope to send to. Raises OSError."""
        index = scope(pair.child.remote.partition("%")[2])
        if pair.child.encap is None:
            if self._raw6 is None:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
            return self._raw6, 0, index
        encap = self._encap(pair)
        if encap is None:
            raise OSError(errno.ENOTCONN, "no UDP socket for ESP")
        return encap.sock, pair.child.encap.remote_port, index

    def _encap(self, pair: Pair) -> EncapSocket | None:
        if pair.child.encap is None:
            return None
        port = pair.child.encap.local_port
        return self._encaps.get((pair.child.local, port)) or self._encaps.get(("::", port))

    def _messages6(self, pair: Pair, inner: bytes, index: int, *, whole: bool) -> mmsg.Ancillary:
        """What the kernel shall make the IPv6 header of: our address, DS and ECN; `whole`: that it shall not cut it."""
        messages = [
            (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(pair.local, index)),
            (socket.IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(_tos6(pair, inner))),
        ]
        if whole:
            messages.append((socket.IPPROTO_IPV6, _IPV6_DONTFRAG, _INT.pack(1)))
        if not pair.tunnel:
            # The peer makes the hop limit of the packet out of the outer one's.
            messages.append((socket.IPPROTO_IPV6, IPV6_HOPLIMIT, _INT.pack(inner[7])))
        return messages

    def _to6(self, pair: Pair, inner: bytes) -> tuple[socket.socket, bytes, bytes]:
        """Socket, destination and control messages, remembered. Raises OSError."""
        child = pair.child
        whole = pair.tunnel and pair.keeps_whole(inner)
        key = child.remote, child.local, child.encap, _tos6(pair, inner), -whole if pair.tunnel else inner[7] + 1
        found = self._known6.get(key)
        if found is None:
            sock, port, index = self._way6(pair)
            control = mmsg.control(self._messages6(pair, inner, index, whole=whole))
            if len(self._known6) >= _KNOWN_DESTINATIONS:
                self._known6.clear()
            found = self._known6[key] = sock, mmsg.sockaddr(pair.remote, port, index), control
        return found

    def _sender(self, remote: bytes, zone: str = "") -> socket.socket:
        """A connected socket that sends whole packets: it knows the path's MTU. Raises OSError."""
        family = socket.AF_INET if len(remote) == 4 else socket.AF_INET6
        sender = open_packet_socket(family)
        try:
            host = socket.inet_ntop(family, remote)
            sender.connect((host, 0) if family == socket.AF_INET else (host, 0, 0, scope(zone)))
        except OSError:
            sender.close()
            raise
        if len(self._alone) >= _KNOWN_SENDERS:
            self._alone.pop(next(iter(self._alone))).close()
        self._alone[remote, zone] = sender
        return sender

    # --- what does not fit ------------------------------------------------------------------------------------

    def _send_in_fragments(self, sender: socket.socket, outer: bytes) -> None:
        """The kernel does not cut packets whose header is made here."""
        octets = len(outer)
        if octets > _LONGEST:
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

    def _not_sent(self, pair: Pair, esp: bytes, inner: bytes, error: OSError) -> None:
        """The path is narrower than it was, or there is no way. RFC 4301 section 8.2.1."""
        if error.errno != errno.EMSGSIZE:
            pair.outbound.errors[DropReason.SEND] += 1
            return
        try:
            mtu = inner_mtu(pair, self._path_mtu(pair))
            padded = bool(pair.outbound.pad_to)
            pair.limit_padding(mtu)
            if len(inner) <= ipv6.HEADER_OCTETS:  # a dummy packet, or padding: nobody sent anything that long
                pair.outbound.errors[DropReason.TOO_BIG] += 1
                return
            if inner[0] >> 4 == 6 and pair.tunnel and (mtu < ipv6.LEAST_MTU or not pair.keeps_whole(inner)):
                # No host of IPv6 is told to send so little, nor that its fragments are too long: RFC 8200 section 5.
                self._send_cut(pair, esp, inner)
                return
            if pair.tunnel and not pair.keeps_whole(inner):
                self._send_cut_inside(pair, inner, mtu)
                return
        except OSError:
            padded, mtu = True, 0
        except EspDrop as drop:
            pair.outbound.errors[drop.reason] += 1
            return
        pair.outbound.errors[DropReason.TOO_BIG] += 1
        if mtu and pair.keeps_whole(inner) and (not padded or len(inner) > mtu) and _may_be_answered(inner):
            tell = fragmentation_needed if inner[0] >> 4 == 4 else ipv6.packet_too_big
            self._to_host(tell(inner, mtu))

    def _path_mtu(self, pair: Pair) -> int:
        """What the kernel knows of the path. Raises OSError."""
        if len(pair.remote) == 4:
            return self._alone[pair.remote, ""].getsockopt(socket.IPPROTO_IP, _IP_MTU)
        host, _, zone = pair.child.remote.partition("%")
        # A socket keeps the way that it was connected to: only a new one knows of what has come since.
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, SO_MARK, SOCKET_MARK)
            asking.connect((host, NAT_PORT, 0, scope(zone)))
            return asking.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)

    def _send_cut(self, pair: Pair, esp: bytes, inner: bytes) -> None:
        """In fragments, although the packet inside must not be cut. Raises OSError."""
        if len(pair.remote) == 16:
            self._send6(pair, esp, inner, whole=False)
            return
        head = _head(pair, len(esp), inner)
        may_be_cut = head[:6] + bytes((head[6] & ~(FLAG_DF >> 8),)) + head[7:]
        self._send_in_fragments(self._alone[pair.remote, ""], may_be_cut + esp)

    def _send_cut_inside(self, pair: Pair, inner: bytes, mtu: int) -> None:
        """Cut before ESP, because what goes out must not be. Raises OSError, EspDrop and MalformedPacket."""
        for piece in fragments(inner, mtu):
            esp = pair.outbound.seal(piece, NEXT_HEADER_IPV4)
            self._send4(pair, _head(pair, len(esp), piece) + esp, piece)


def _head(pair: Pair, esp_octets: int, inner: bytes) -> bytes:
    """What stands before an ESP packet over IPv4: the header, and that of UDP; as `outer.outer_packet` has it.

    But for what the kernel fills in: checksum, the length in transport mode and, for packets that may be fragmented,
    the identification. raw(7).
    """
    if not pair.tunnel:
        head, protocol = inner[: (inner[0] & 0x0F) * 4], _protocol(pair)
        return b"%b%c%b%b" % (head[:9], protocol, head[10:], _udp_header(pair, esp_octets))
    # DS, ECN and DF come from inside: RFC 4301 section 5.1.2.1.
    if inner[0] >> 4 == 4:
        shape = esp_octets << 9 | inner[1] << 1 | inner[6] >> 6 & 1
    else:
        shape = esp_octets << 9 | ip.tos(inner) << 1 | (len(inner) <= pair.longest)
    # Taken before the addresses: if the pair moves meanwhile, the head goes into a cache that is gone.
    heads = pair.heads
    return heads.get(shape) or _remember_head(heads, pair, shape)


def _remember_head(heads: dict[int, bytes], pair: Pair, shape: int) -> bytes:
    """The header for packets of this length, TOS and DF: most packets are like one that was sent before."""
    esp_octets, tos = shape >> 9, pair.outer_tos(shape >> 1 & 0xFF)
    flags = FLAG_DF if pair.outer_df(inner=bool(shape & 1)) else 0
    udp = _udp_header(pair, esp_octets)
    octets = HEADER_OCTETS + len(udp) + esp_octets
    head = _pack_head(0x45, tos, octets, 0, flags, TTL, _protocol(pair), 0)
    if len(heads) >= _KNOWN_HEADS:
        heads.clear()
    head = heads[shape] = head + pair.local + pair.remote + udp
    return head


def _is_made_here(pair: Pair, inner: bytes) -> bool:
    """Whether the kernel, which would cut it, gets a packet of IPv6 with its header: not in UDP, for its checksum."""
    return pair.tunnel and pair.child.encap is None and pair.keeps_whole(inner)


def _head6(pair: Pair, esp_octets: int, inner: bytes) -> bytes:
    """The header before an ESP packet over IPv6 in a tunnel; as `outer.outer_packet` has it."""
    shape = esp_octets << 8 | ip.tos(inner)
    # Taken before the addresses: if the pair moves meanwhile, the head goes into a cache that is gone.
    heads = pair.heads
    head = heads.get(shape)
    if head is None:
        tos = pair.outer_tos(shape & 0xFF)
        head = ipv6.build_header(pair.local, pair.remote, socket.IPPROTO_ESP, esp_octets, tos=tos, hop_limit=TTL)
        if len(heads) >= _KNOWN_HEADS:
            heads.clear()
        heads[shape] = head
    return head


def _may_be_answered(packet: bytes) -> bool:
    """Whether an ICMP error may be sent about a packet: never about another one, nor a later fragment.

    RFC 1122 section 3.2.2, RFC 4443 section 2.4.
    """
    if packet[0] >> 4 == 4 and fragment_offset(packet):
        return False
    try:
        return not ip.is_icmp_error(packet)
    except MalformedPacket:
        return False


def _tos6(pair: Pair, inner: bytes) -> int:
    tos = ip.tos(inner)
    return pair.outer_tos(tos) if pair.tunnel else tos


def _protocol(pair: Pair) -> int:
    return socket.IPPROTO_ESP if pair.child.encap is None else socket.IPPROTO_UDP


def _udp_header(pair: Pair, esp_octets: int) -> bytes:
    """Without a checksum: RFC 3948 section 2.1."""
    encap = pair.child.encap
    if encap is None:
        return b""
    return UDP_HEADER.pack(encap.local_port, encap.remote_port, UDP_HEADER.size + esp_octets, 0)
