"""A router in user space, with a NAT in it or without: NAT44 with ports, that forgets and changes its mappings.

    with Lab() as lab:
        lab.link("alice", "10.0.0.2/24", "nat", "10.0.0.1/24")
        lab.link("nat", "203.0.113.1/24", "server", "203.0.113.2/24")
        lab.route("alice", "default", "10.0.0.1")
        nat = Nat44("203.0.113.5", ("10.0.0.0/24",), seed=7)
        with Router(lab.host("nat"), ("10.0.0.0/24",), nat=nat) as router:
            ...
            router.call(nat.rebind)

All that the router's cables bring goes through a TUN device to this process and back: no netfilter is needed. The
knobs: `Nat44(seed, mapping_s)` and `rebind`, the impairments of interop/lab/relay.py, and `tell_mtu`. The NAT is for
IPv4 only; IPv6 is forwarded beside it.

RFC 3022 section 4.1, RFC 4787 sections 4 to 6.
"""

from __future__ import annotations

import ipaddress
import os
import random
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2 import IPRoute

from ikev2.io.netns import Namespace
from ikev2.ipsec import ip, ipv6
from ikev2.ipsec.fragments import Reassembler
from ikev2.ipsec.ipv4 import (
    FLAG_DF,
    MalformedPacket,
    build_header,
    fragmentation_needed,
    header_octets,
    readdressed,
    total_length,
)
from ikev2.ipsec.tun import TunDevice, has_ipv6
from interop.lab.relay import Impairments, Schedule

_WITH_PORTS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_LOWEST_PORT, _HIGHEST_PORT = 20000, 60000
_PORTS = _HIGHEST_PORT - _LOWEST_PORT + 1
_TABLE, _PRIORITY = 100, 100
_NTF_PROXY = 8
_DEVICE = "path0"

End = tuple[str, int]


@dataclass(slots=True)
class Mapping:
    """What the NAT keeps for one port of a host inside; `remotes` are those it has sent to."""

    inside: End
    port: int
    used_at: float
    remotes: set[End] = field(default_factory=set)


class Nat44:
    """The translation, sans I/O. One port outside for each port inside (endpoint-independent mapping), open to whom
    something was sent (address- and port-dependent filtering).

    `mapping_s`: what nothing inside has used for so long is forgotten (None: never). The ports are drawn with `seed`,
    none twice until all have been used; a packet that finds none free is dropped. `keepalives` counts the datagrams of
    the one octet 0xFF from each end inside.
    """

    def __init__(self, public: str, inside: Sequence[str], *, seed: int, mapping_s: float | None = None) -> None:
        self.public = public
        self.mapping_s = mapping_s
        self.dropped: Counter[str] = Counter()
        self.keepalives: Counter[End] = Counter()
        self._networks = [ipaddress.ip_network(text) for text in inside]
        self._random = random.Random(seed)
        self._by_inside: dict[tuple[int, End], Mapping] = {}
        self._by_port: dict[tuple[int, int], Mapping] = {}
        self._spent: set[int] = set()

    def is_inside(self, address: str) -> bool:
        """Whether an address is of a host behind the NAT."""
        return any(ipaddress.ip_address(address) in network for network in self._networks)

    def ports(self, host: str) -> dict[int, int]:
        """Port inside -> port outside, of one host, UDP only."""
        return {
            mapping.inside[1]: mapping.port
            for (protocol, inside), mapping in self._by_inside.items()
            if protocol == socket.IPPROTO_UDP and inside[0] == host
        }

    def rebind(self) -> None:
        """Forget every mapping, as a NAT that is started anew: the next packet from inside gets another port."""
        self._by_inside.clear()
        self._by_port.clear()

    def translate(self, packet: bytes, now: float) -> bytes | None:
        """The packet as it leaves on the other side; None when it is dropped and counted. A whole IPv4 datagram."""
        start = header_octets(packet)
        protocol = packet[9]
        if protocol not in _WITH_PORTS or len(packet) < start + 8:
            self.dropped[f"protocol-{protocol}"] += 1
            return None
        self._expire(now)
        source = (socket.inet_ntoa(packet[12:16]), int.from_bytes(packet[start : start + 2], "big"))
        destination = (socket.inet_ntoa(packet[16:20]), int.from_bytes(packet[start + 2 : start + 4], "big"))
        if self.is_inside(source[0]):
            if protocol == socket.IPPROTO_UDP and packet[start + 8 : total_length(packet)] == b"\xff":
                self.keepalives[source] += 1
            mapping = self._mapping(protocol, source, now)
            if mapping is None:
                self.dropped["no-port"] += 1
                return None
            mapping.used_at = now
            mapping.remotes.add(destination)
            return _readdressed(packet, (self.public, mapping.port), destination)
        known = self._by_port.get((protocol, destination[1])) if destination[0] == self.public else None
        if known is None or source not in known.remotes:
            self.dropped["no-mapping"] += 1
            return None
        return _readdressed(packet, source, known.inside)

    def _mapping(self, protocol: int, inside: End, now: float) -> Mapping | None:
        """The mapping of a port inside, a new one if need be; None when every port is in use."""
        found = self._by_inside.get((protocol, inside))
        if found is None:
            if len(self._spent) == _PORTS:
                self._spent = {mapping.port for mapping in self._by_inside.values()}
                if len(self._spent) == _PORTS:
                    return None
            while (port := self._random.randint(_LOWEST_PORT, _HIGHEST_PORT)) in self._spent:
                continue
            self._spent.add(port)
            found = Mapping(inside, port, now)
            self._by_inside[protocol, inside] = self._by_port[protocol, port] = found
        return found

    def _expire(self, now: float) -> None:
        if self.mapping_s is None:
            return
        for key, mapping in list(self._by_inside.items()):
            if now - mapping.used_at > self.mapping_s:
                del self._by_inside[key], self._by_port[key[0], mapping.port]


def _readdressed(packet: bytes, source: End, destination: End) -> bytes:
    """The packet with other addresses and ports, its checksums made right. RFC 3022 section 4.1."""
    start = header_octets(packet)
    payload = packet[start : total_length(packet)]
    ends = socket.inet_aton(source[0]), socket.inet_aton(destination[0])
    ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    payload = readdressed(payload, packet[9], packet[12:20] + payload[:4], b"".join(ends) + ports)
    header = build_header(
        *ends,
        packet[9],
        len(payload),
        tos=packet[1],
        ttl=packet[8],
        identification=int.from_bytes(packet[4:6], "big"),
        flags=int.from_bytes(packet[6:8], "big") & FLAG_DF,
    )
    return header + ports + payload[4:]


class Router:
    """Forwards what its host's cables bring, through the NAT and the impairments; a context manager.

    `inside` are the networks whose packets go forward. `tell_mtu`: a packet that is too large for the impairments'
    MTU and must not be fragmented is answered with ICMP (RFC 1191, RFC 8201). What else is too large is lost in
    silence. `drop_fragments`: so is every IP fragment. `clock_ns`: `schedule.record` says by this clock when each
    packet came and left; a packet that the NAT translated is there as it left the NAT.
    """

    def __init__(
        self,
        namespace: Namespace,
        inside: Sequence[str],
        *,
        nat: Nat44 | None = None,
        seed: int = 1,
        forward: Impairments | None = None,
        backward: Impairments | None = None,
        tell_mtu: bool = False,
        drop_fragments: bool = False,
        clock_ns: Callable[[], int] | None = None,
    ) -> None:
        self.nat = nat
        self.schedule = Schedule(seed, forward, backward, header_octets=0, clock_ns=clock_ns)
        self.dropped: Counter[str] = Counter()
        self.taps: list[Callable[[bytes], None]] = []
        self._namespace = namespace
        self._inside = [ipaddress.ip_network(text) for text in inside]
        self._tell_mtu, self._drop_fragments = tell_mtu, drop_fragments
        self._reassembler = Reassembler()
        self._calls: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._running = True
        self._tun = namespace.call(lambda: TunDevice(_DEVICE))
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    # --- life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._namespace.call(self._configure)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._wake_out.send(b"\0")
        self._thread.join()
        self._namespace.call(self._restore)
        self._tun.close()
        self._wake_in.close()
        self._wake_out.close()

    def call(self, function: Callable[[], None]) -> None:
        """Runs a function between two packets, and waits until it has."""
        done = threading.Event()
        self._calls.append((function, done))
        self._wake_out.send(b"\0")
        if not done.wait(10):
            raise TimeoutError("the router does not run")

    def _configure(self) -> None:
        for name in ("ip_forward", "conf/all/rp_filter", f"conf/{_DEVICE}/rp_filter", "conf/default/rp_filter"):
            Path("/proc/sys/net/ipv4", name).write_text("1" if name == "ip_forward" else "0")
        with_ipv6 = has_ipv6()
        if with_ipv6:
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            self._tun.with_ipv6()
        with IPRoute() as netlink:
            tun = netlink.link_lookup(ifname=_DEVICE)[0]
            netlink.link("set", index=tun, state="up")
            netlink.route("add", dst="0.0.0.0/0", oif=tun, table=_TABLE)
            if with_ipv6:
                netlink.route("add", dst="::/0", oif=tun, table=_TABLE, family=socket.AF_INET6)
            for link in netlink.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if name in ("lo", _DEVICE):
                    continue
                Path("/proc/sys/net/ipv4/conf", name, "rp_filter").write_text("0")
                Path("/proc/sys/net/ipv4/conf", name, "send_redirects").write_text("0")
                netlink.rule("add", priority=_PRIORITY, table=_TABLE, iifname=name)
                if with_ipv6:
                    netlink.rule("add", priority=_PRIORITY, table=_TABLE, iifname=name, family=socket.AF_INET6)
                if self.nat is not None:
                    # The hosts outside ask for the public address by ARP.
                    netlink.neigh("add", dst=self.nat.public, ifindex=link["index"], flags=_NTF_PROXY)

    def _restore(self) -> None:
        """The routes go with the device; a router in the same place can be another next time."""
        with IPRoute() as netlink:
            netlink.flush_rules(priority=_PRIORITY)
            for link in netlink.get_links():
                if self.nat is not None and link.get_attr("IFLA_IFNAME") not in ("lo", _DEVICE):
                    netlink.neigh("del", dst=self.nat.public, ifindex=link["index"], flags=_NTF_PROXY)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._tun.fd, select.POLLIN)
        poll.register(self._wake_in, select.POLLIN)
        while self._running:
            when = self.schedule.next_time()
            wait_ms = None if when is None else max(0.0, when - time.monotonic()) * 1000
            for fd, _ in poll.poll(wait_ms):
                if fd == self._tun.fd:
                    self._receive()
                else:
                    self._wake_in.recv(4096)
            while self._calls:
                function, done = self._calls.popleft()
                function()
                done.set()
            for packet, _ in self.schedule.due(time.monotonic()):
                self._write(packet)

    def _receive(self) -> None:
        while True:
            try:
                packet = os.read(self._tun.fd, 65536)
            except BlockingIOError:
                return
            try:
                self._take(packet)
            except MalformedPacket:
                self.dropped["malformed"] += 1

    def _take(self, packet: bytes) -> None:
        at_ns = self.schedule.stamp()
        for tap in self.taps:
            tap(packet)
        is_v4 = ip.version(packet) == 4
        source = ipaddress.ip_address(packet[12:16] if is_v4 else packet[8:24])
        if (
            source.is_link_local
            or source.is_unspecified
            or ipaddress.ip_address(ip.destination(packet)).is_multicast
        ):
            return  # neighbours' own business, which no router forwards
        forward = any(source in network for network in self._inside)
        fragment = ip.is_fragment(packet)
        if fragment and self._drop_fragments:
            self.dropped["fragment"] += 1
            return
        mtu = (self.schedule.forward if forward else self.schedule.backward).impairments.mtu
        if self._tell_mtu and mtu is not None and len(packet) > mtu and ip.must_not_be_cut(packet):
            self.dropped["told"] += 1
            self._write(fragmentation_needed(packet, mtu) if is_v4 else ipv6.packet_too_big(packet, mtu))
            return
        if self.nat is None or not is_v4:
            self.schedule.put(packet, time.monotonic(), forward=forward, at_ns=at_ns)
            return
        whole = self._reassembler.add(packet) if fragment else packet
        translated = None if whole is None else self.nat.translate(whole, time.monotonic())
        if translated is not None:
            self.schedule.put(translated, time.monotonic(), forward=forward, at_ns=at_ns)

    def _write(self, packet: bytes) -> None:
        try:
            os.write(self._tun.fd, packet)
        except OSError:
            self.dropped["write"] += 1
