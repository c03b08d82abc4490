"""The SAD and SPD of the backends that do ESP themselves: IP packets in, ESP packets out, and back. No I/O.

`Engine.protect` takes a packet that the host wants to send and gives the pair it belongs to and its ESP octets
(with the packet itself, which may have been put together from fragments); `Engine.unprotect` takes ESP octets as
they came and gives the IP packet to hand to the host. Both give None for a packet that is dropped, after counting
it. They belong to one thread (the data plane); `install`, `replace`, `delete` and the bypass methods may be called
from another: each changes a table in one step, or builds a new one and swaps it in whole, under a lock, because the
data plane changes the order of the pairs, too: a pair on standby is sent on from the first authentic packet that
comes on it (RFC 7296 section 2.8).
RFC 4301 sections 5.1 and 5.2, RFC 4303 section 3.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
from collections import Counter, OrderedDict, deque

from ikev2.core.child_sa import ChildCounters, ChildSaParameters
from ikev2.core.types import Address
from ikev2.errors import BackendError, IkeError
from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.arriving import FLOW_CACHE, from_transport, from_tunnel
from ikev2.ipsec.backend import SPI_MINIMUM, Bypass, DropReason, Trap
from ikev2.ipsec.esp import NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, EspDrop
from ikev2.ipsec.fragments import Reassembler
from ikev2.ipsec.ipv4 import (
    HEADER_OCTETS,
    Flow,
    MalformedPacket,
    header_octets,
    is_fragment,
    is_plain,
    total_length,
)
from ikev2.ipsec.outer import dummy_packet
from ikev2.ipsec.pair import UDP_HEADER_OCTETS, Pair
from ikev2.ipsec.spd import bypasses
from ikev2.ipsec.telling import Telling
from ikev2.ipsec.traps import TrapTable
from ikev2.ipsec.ways import Ways

log = logging.getLogger(__name__)

_TUNNEL_TTL = 64
_LONGEST = 65535
_SURELY_FITS = _LONGEST - 60 - UDP_HEADER_OCTETS
"""So many octets of ESP fit behind every IPv4 header, and behind IPv6's without extension headers."""

_unpack_spi = struct.Struct("!I").unpack_from


class Engine:
    """SAs, policies and bypasses of one host."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        """Packets that no SA can be blamed for, by DropReason."""
        self.last_drop: DropReason | None = None
        """Why the last packet that was dropped was dropped, for a trace."""
        self._telling = Telling()
        self.events = self._telling.events
        # The newest last: RFC 7296 section 2.8, a rekeyed pair takes over. One that stands by goes before all others.
        self._by_spi: OrderedDict[int, Pair] = OrderedDict()
        self._in_order: tuple[Pair, ...] | None = ()  # the newest first; None: made when a packet wants it
        self._leaving: dict[int, Pair] = {}  # deleted, for what had come before
        self._lock = threading.Lock()  # of these two, for who changes them
        self._bypasses: tuple[Bypass, ...] = ()
        self.traps = TrapTable()
        self._reserved: set[int] = set()
        self._flows: dict[bytes, Pair] = {}
        self._ways = Ways()
        self._reassembler = Reassembler()
        self.outside: deque[bytes] = deque()
        """ICMP errors that came to `protect` for nothing: what they are about goes in clear, and so may they."""
        self.stray_spi = 0
        """The SPI of the last packet, when it was not ours; `tell_stray` takes it."""
        self._wanting_whole: set[int] = set()  # SPIs of pairs that see fragments only put together

    # --- the tables -------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The installed pairs, the newest first. Not within the lock."""
        found = self._in_order
        if found is None:
            # Made once for many changes: a tuple for each would touch every pair that there is.
            with self._lock:
                found = self._in_order = tuple(reversed(self._by_spi.values()))
        return found

    @property
    def bypass_rules(self) -> tuple[Bypass, ...]:
        """The bypasses in force."""
        return self._bypasses

    def allocate_spi(self) -> int:
        """A random SPI that no installed or promised SA has. RFC 4303 section 2.1."""
        while True:
            spi = SPI_MINIMUM + secrets.randbelow((1 << 32) - SPI_MINIMUM)
            if not any(spi in taken for taken in (self._reserved, self._by_spi, self._leaving)):
                self._reserved.add(spi)
                return spi

    def release_spi(self, spi: int) -> None:
        """An SPI that was promised is free again."""
        self._reserved.discard(spi)

    def install(self, child: ChildSaParameters, *, standby: bool = False) -> Pair:
        """Put a pair in front of the others, or, to receive on it only, behind them. Raises BackendError."""
        if child.spi_in in self._by_spi:
            raise BackendError(f"an SA with SPI {child.spi_in:08x} is installed already")
        try:
            pair = Pair.of(child)
        except (IkeError, ValueError) as error:
            raise BackendError(f"Child SA {child.label} cannot be installed: {error}") from error
        if not pair.policy.local or not pair.policy.remote:
            raise BackendError(f"Child SA {child.label} has no selectors of IP addresses on one of its sides")
        self._reserved.discard(child.spi_in)
        pair.standby = standby
        with self._lock:
            self._by_spi[child.spi_in] = pair
            if self._ways.add(pair):
                said = "another peer has the same selectors; answers go where packets came from"
                log.warning("Child SA %s: %s", child.label, said)
            self._by_spi.move_to_end(child.spi_in, last=not standby)
            self._changed()
        self._note_fragments(pair)
        self.traps.answered(child.name)
        return pair

    def activate(self, child: ChildSaParameters) -> None:
        """Put an installed pair in front of the others: from now on it is sent on."""
        pair = self.pair(child)
        if pair is not None:
            self._put_first(pair)

    def _put_first(self, pair: Pair) -> None:
        with self._lock:
            pair.standby = False
            if self._by_spi.get(pair.inbound.spi) is pair:
                self._by_spi.move_to_end(pair.inbound.spi)
                self._changed()

    def replace(self, old: ChildSaParameters, new: ChildSaParameters) -> Pair:
        """Move an installed pair to the addresses of `new`. Raises BackendError when it is not there."""
        pair = self.pair(old)
        if pair is None:
            raise BackendError(f"Child SA {old.label} is not installed")
        with self._lock:
            before = pair.policy, pair.child
            pair.move(new)
            self._ways.add(pair)
            self._ways.remove(*before)
        self._note_fragments(pair)
        self._flows = {}
        return pair

    def delete(self, child: ChildSaParameters, *, leaving: bool = False) -> Pair | None:
        """Take a pair out and return it; None when there is none. One that is `leaving` receives until `forget`."""
        self._reserved.discard(child.spi_in)
        pair = self.pair(child)
        if pair is not None:
            if leaving:
                self._leaving[child.spi_in] = pair
            with self._lock:
                del self._by_spi[child.spi_in]
                self._ways.remove(pair.policy, pair.child)
                self._changed()
            self._wanting_whole.discard(child.spi_in)
        return pair

    def forget(self, spi: int) -> None:
        """What had come for a deleted pair, by its inbound SPI, before it was deleted has been read."""
        self._leaving.pop(spi, None)

    def delete_outbound(self, child: ChildSaParameters) -> None:
        """Send nothing more over a pair, which goes on receiving; what it protects is not sent in clear either."""
        pair = self.pair(child)
        if pair is not None:
            pair.half_closed = True
            self._flows = {}

    def pair(self, child: ChildSaParameters) -> Pair | None:
        """The installed pair of a child."""
        found = self._by_spi.get(child.spi_in)
        return found if found is not None and found.child.spi_out == child.spi_out else None

    def counters(self, child: ChildSaParameters) -> ChildCounters:
        """Its counters. Raises BackendError when it is not installed."""
        pair = self.pair(child)
        if pair is None:
            raise BackendError(f"Child SA {child.label} is not installed")
        return pair.counters()

    def add_bypass(self, bypass: Bypass) -> bool:
        """True when it is new."""
        if bypass in self._bypasses:
            return False
        self._bypasses = (*self._bypasses, bypass)
        self._flows = {}
        return True

    def remove_bypass(self, bypass: Bypass) -> bool:
        """True when it was there."""
        if bypass not in self._bypasses:
            return False
        self._bypasses = tuple(other for other in self._bypasses if other != bypass)
        self._flows = {}
        return True

    def add_trap(self, trap: Trap) -> bool:
        """True when it is new."""
        added = self.traps.add(trap)
        self._flows = {}
        return added

    def remove_trap(self, trap: Trap) -> bool:
        """True when it was there."""
        removed = self.traps.remove(trap)
        self._flows = {}
        return removed

    def clear(self) -> None:
        """Forget everything but the counters of drops."""
        self._bypasses = ()
        self.traps.clear()
        self._reserved.clear()
        self._leaving.clear()
        with self._lock:
            self._by_spi = OrderedDict()
            self._ways.clear()
            self._changed()
        self._wanting_whole.clear()

    def _changed(self) -> None:
        """The pairs, or their order, are others: what was worked out of them goes, this before the cache of flows."""
        self._in_order = None
        self._flows = {}

    def _note_fragments(self, pair: Pair) -> None:
        if not pair.tunnel or pair.policy.looks_at_ports:
            self._wanting_whole.add(pair.inbound.spi)
        else:
            self._wanting_whole.discard(pair.inbound.spi)

    # --- outbound: RFC 4301 section 5.1 -----------------------------------------------------------------------

    def protect(self, packet: bytes) -> tuple[Pair, bytes, bytes] | None:
        """The pair, the ESP packet and the packet inside, for an IP packet on its way out.

        None when it is dropped and counted, when it is a fragment that waits for others, or when it is in `outside`.
        """
        if packet and packet[0] >> 4 == 6:
            return self._protect6(packet)
        try:
            # A header without options, of a whole datagram, is its own key; all others are looked up each time.
            plain = is_plain(packet)
            pair = self._flows.get(packet[9:10] + packet[12:24]) if plain else None
            if pair is None:
                header_octets(packet)
                packet = packet[: total_length(packet)]
                whole = self.whole_datagram(packet)
                if whole is None:
                    return None
                packet, plain = whole, is_plain(whole)
                pair = self._pair_for(packet, packet[9:10] + packet[12:24] if plain else b"")
        except MalformedPacket:
            self._drop(self.drops, DropReason.MALFORMED)
            return None
        if pair is None or pair.half_closed:
            self._not_carried(pair, packet)
            return None
        outbound = pair.outbound
        try:
            if pair.tunnel:
                # The host counted the TTL down when it routed the packet here: RFC 4301 section 5.1.2.1, note 3.
                esp = outbound.seal(packet, NEXT_HEADER_IPV4)
                if len(esp) > _SURELY_FITS:
                    _check_length(pair, len(esp), 0)
                return pair, esp, packet
            if not plain and is_fragment(packet):
                raise EspDrop(DropReason.FRAGMENT, "transport mode takes whole datagrams: RFC 4303 section 3.3.4")
            octets = (packet[0] & 0x0F) * 4
            esp = outbound.seal(packet[octets:], packet[9])
            if len(esp) > _SURELY_FITS:
                _check_length(pair, len(esp), octets - HEADER_OCTETS)
            return pair, esp, packet
        except EspDrop as drop:
            self._drop(outbound.errors, drop.reason)
            if outbound.expired:
                self._telling.limit(pair, hard=True, inbound=False)
            return None
        finally:
            if outbound.soft_limit_reached:
                self._telling.limit(pair, hard=False, inbound=False)

    def _protect6(self, packet: bytes) -> tuple[Pair, bytes, bytes] | None:
        """`protect` for IPv6. RFC 4303 section 3.1.1 says where ESP goes among the extension headers."""
        try:
            whole = self.whole_datagram(ipv6.checked(packet))
            if whole is None:
                return None
            packet = whole
            key = b"" if ipv6.has_extensions(packet) or len(packet) < 44 else packet[6:7] + packet[8:44]
            pair = self._flows.get(key) if key else None
            if pair is None:
                pair = self._pair_for(packet, key)
            chain = ipv6.chain_of(packet) if pair is not None and not pair.tunnel else None
        except MalformedPacket:
            self._drop(self.drops, DropReason.MALFORMED)
            return None
        if pair is None or pair.half_closed:
            self._not_carried(pair, packet)
            return None
        outbound = pair.outbound
        try:
            if chain is None:
                esp = outbound.seal(packet, NEXT_HEADER_IPV6)
                if len(esp) > _SURELY_FITS:
                    _check_length(pair, len(esp), 0)
                return pair, esp, packet
            if chain.fragment_at:
                raise EspDrop(DropReason.FRAGMENT, "transport mode takes whole datagrams: RFC 4303 section 3.3.4")
            esp = outbound.seal(packet[chain.cut :], chain.cut_protocol)
            _check_length(pair, len(esp), chain.cut - ipv6.HEADER_OCTETS)
            return pair, esp, packet
        except EspDrop as drop:
            self._drop(outbound.errors, drop.reason)
            if outbound.expired:
                self._telling.limit(pair, hard=True, inbound=False)
            return None
        finally:
            if outbound.soft_limit_reached:
                self._telling.limit(pair, hard=False, inbound=False)

    def dummy(self, child: ChildSaParameters, octets: int) -> tuple[Pair, bytes, bytes]:
        """A dummy packet of so many octets, or what the path takes, on an installed pair, to be sent as of `protect`.

        Raises BackendError when the pair is not installed, is closing or on standby, or may send nothing more.
        RFC 4303 section 2.6.
        """
        pair = self.pair(child)
        if pair is None or pair.half_closed or pair.standby:
            raise BackendError(f"Child SA {child.label} sends nothing")
        inside = dummy_packet(pair)
        most = pair.most if pair.tunnel else pair.most - len(inside)
        try:
            return pair, pair.outbound.seal_dummy(max(0, min(octets, most))), inside
        except EspDrop as drop:
            raise BackendError(str(drop)) from None

    def whole_datagram(self, packet: bytes) -> bytes | None:
        """The packet, or the datagram that it completes, where policies need whole ones; None while it waits."""
        if self._wanting_whole and ip.is_fragment(packet):
            return self._reassembler.add(packet)
        return packet

    def _pair_for(self, packet: bytes, key: bytes) -> Pair | None:
        """Look a packet up, and remember the pair under `key` if there is one."""
        # Taken before the look-up: if the tables are swapped meanwhile, the result goes into a cache that is gone.
        cache = self._flows
        found = self._pair_that_means(ip.flow_of(packet))
        if found is None:
            return self._pair_about(packet)
        if key:
            if len(cache) >= FLOW_CACHE:
                cache.clear()
            cache[key] = found
        return found

    def pair_for_flow_of(self, packet: bytes) -> Pair | None:
        """The pair that carries a packet, None when there is none. Raises MalformedPacket."""
        return self._pair_that_means(ip.flow_of(packet)) or self._pair_about(packet)

    def _pair_about(self, packet: bytes) -> Pair | None:
        """The pair of a packet that an ICMP error is about, which no policy means itself. RFC 4301 section 6.2."""
        if ip.flow_in_error(packet) is None or self.traps.protects(ip.flow_of(packet)):
            return None
        found = [pair for pair in self.pairs if pair.sends_about(packet)]
        return min(found, key=lambda pair: pair.half_closed, default=None)

    def _pair_that_means(self, flow: Flow) -> Pair | None:
        """The pair whose policy protects the packet and most means it, of several alike the newest.

        A half-closed one only if there is no other; none where a trap means the packet more. RFC 4301 section 4.4.1:
        policies have an order, and here as in the kernel their selectors make it.
        """
        found = [pair for pair in self.pairs if pair.policy.protects(flow)]
        if not found:
            return None
        chosen = found[0]
        if len(found) > 1:
            ranks = [(pair.half_closed, pair.policy.breadth(flow)) for pair in found]
            best = min(ranks)
            alike = [pair for pair, rank in zip(found, ranks, strict=True) if rank == best]
            chosen = self._ways.choose(flow, alike)
        if self.traps.traps:
            trapped = self.traps.breadth(flow)
            if trapped is not None and trapped < chosen.policy.breadth(flow):
                return None
        return chosen

    def passes_outside(self, packet: bytes) -> bool:
        """Whether a bypass lets the packet, in either direction, pass in clear. Raises MalformedPacket."""
        flow = ip.flow_of(packet)
        return any(bypasses(bypass, flow) for bypass in self._bypasses)

    def must_be_protected(self, packet: bytes) -> bool:
        """Whether a packet that came in clear belongs to a policy and so must go. RFC 4301 section 5.2, step 3b."""
        flow = ip.flow_of(packet)
        return any(pair.policy.accepts(flow) for pair in self.pairs) or self.traps.accepts(flow)

    def is_protected(self, packet: bytes) -> bool:
        """Whether a packet on its way out belongs to a Child SA, there or to come. Raises MalformedPacket."""
        return self.pair_for_flow_of(packet) is not None or self.traps.protects(ip.flow_of(packet))

    def _not_carried(self, pair: Pair | None, packet: bytes) -> None:
        """A packet that no Child SA carries is dropped; that of a trap tells. `pair`: one that carries nothing more."""
        if pair is None and self._is_about_nothing_of_ours(packet):
            self.outside.append(packet)
            return
        self._drop(self.drops, DropReason.NO_SA)
        if self.traps.traps and (event := self.traps.met(ip.flow_of(packet))) is not None:
            self.events.append(event)

    def _is_about_nothing_of_ours(self, packet: bytes) -> bool:
        """Whether an ICMP error, itself of no policy, is about a packet that is of none either."""
        about, flow = ip.flow_in_error(packet), ip.flow_of(packet)
        if about is None or self.traps.protects(flow) or any(pair.policy.protects(flow) for pair in self.pairs):
            return False
        return not self.traps.accepts(about) and not any(pair.policy.accepts(about) for pair in self.pairs)

    def came_from(self, spi: bytes, remote: str, remote_port: int) -> None:
        """An authentic packet in UDP came from this address: told when the peer was not there before."""
        pair = self._by_spi.get(int.from_bytes(spi, "big"))
        if pair is not None:
            self._telling.moved(pair, remote, remote_port)

    def tell_stray(self, local: Address, remote: Address) -> None:
        """The packet before was under an SPI that is not ours, and came from there: told once in a while."""
        spi, self.stray_spi = self.stray_spi, 0
        self._telling.stray(spi, local, remote)

    # --- inbound: RFC 4301 section 5.2 ------------------------------------------------------------------------

    def unprotect(self, packet: bytes, tos: int = 0, ttl: int = _TUNNEL_TTL, header: bytes = b"") -> bytes | None:
        """The IP packet inside an ESP packet (from its SPI on); None when it is dropped and counted.

        `tos` and `ttl` are those of the outer header; `header` is that header where it is known (IPv4): transport
        mode makes the packet's header of it, or a new one of tos and ttl between the addresses of the pair.
        """
        spi = _unpack_spi(packet)[0] if len(packet) >= 4 else 0
        pair = self._by_spi.get(spi) or self._leaving.get(spi)
        if pair is None:
            self._drop(self.drops, DropReason.UNKNOWN_SPI)
            self.stray_spi = spi
            return None
        inbound, ways = pair.inbound, self._ways
        payload, next_header = b"", 0
        try:
            payload, next_header = inbound.open(packet)
            if inbound.soft_limit_reached:
                self._telling.limit(pair, hard=False, inbound=True)
            if pair.standby:  # the peer has the pair, too, and is ready to receive on it: RFC 7296 section 2.8
                self._put_first(pair)
            if pair.tunnel:
                found = from_tunnel(pair, payload, next_header, tos)
            else:
                found = from_transport(pair, payload, next_header, tos, ttl, header)
            if ways.contested and ways.note(pair, found):
                self._flows = {}
            return found
        except EspDrop as drop:
            self._drop(inbound.errors, drop.reason)
            if inbound.expired:
                self._telling.limit(pair, hard=True, inbound=True)
            if drop.reason is DropReason.SELECTOR_MISMATCH:
                self._telling.mismatch(pair, payload, next_header)
        except MalformedPacket:
            self._drop(inbound.errors, DropReason.MALFORMED)
        return None

    def _drop(self, counter: Counter[str], reason: DropReason) -> None:
        counter[reason] += 1
        self.last_drop = reason


def _check_length(pair: Pair, esp_octets: int, option_octets: int) -> None:
    """EspDrop for an ESP packet that no IP packet can carry; `option_octets` stand before it, behind the header.

    IPv4's length counts the header, IPv6's does not. RFC 791 section 3.1, RFC 8200 section 3.
    """
    octets = esp_octets + option_octets + (UDP_HEADER_OCTETS if pair.child.encap is not None else 0)
    if octets + (HEADER_OCTETS if len(pair.remote) == 4 else 0) > _LONGEST:
        raise EspDrop(DropReason.TOO_BIG, f"an ESP packet of {esp_octets} octets is longer than IP packets can be")
