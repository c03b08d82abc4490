"""What arrives in clear although a Child SA, or a trap, protects it is dropped: a table of nftables of our own.

The table has the name of the TUN device. Its first chain hangs before everything else of the host. What comes out of
the device has been under ESP, and goes on; so does what may come outside every tunnel: ESP itself, IKE, bypasses, what
IPv6 needs to find its neighbours, and errors of ICMP (RFC 4301 section 5.2 step 3c leaves those to the host). Of the
rest, what matches the selectors of a Child SA, seen from the peer, is counted and dropped. Later fragments go on: they
show no ports, and without the first one nothing comes of them.

    in            interfaces of ours accept, jump outside, jump protected
    outside       what goes on; sets `from4`, `to4`, `from6`, `to6` of peers and UDP ports of theirs and ours
    protected     what has to come under ESP: goto refused
    refused       counter, drop

After a crash the table stays, as the unreachable routes do: nothing passes for protected that is not. The next start
takes it away. Since Linux 6.9 it belongs to our socket, and `nft flush ruleset` leaves it alone.
RFC 4301 sections 4.4.1.1 and 5.2.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ikev2.errors import BackendError
from ikev2.ipsec import nftables as nft
from ikev2.ipsec.nftables import BaseChain, Header, Meta, NftSocket, TableFlag, Verdict
from ikev2.ipsec.rules import Ports, Rule
from ikev2.ipsec.spd import Policy, Selector

log = logging.getLogger(__name__)

_PRE_ROUTING = 0
_BEFORE_ALL = -500
"""Before connections are tracked (-200), fragments put together for that (-400), and raw tables (-300)."""

_IN, _OUTSIDE, _PROTECTED, _REFUSED = "in", "outside", "protected", "refused"

_DCCP, _MOBILITY, _UDPLITE, _ICMPV6 = 33, 135, 136, 58
_PORTED = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, _DCCP, socket.IPPROTO_SCTP, _UDPLITE)
_TYPED = (socket.IPPROTO_ICMP, _ICMPV6, _MOBILITY)

_ICMP_ERRORS = ((3, 3), (11, 12))
_ICMPV6_ERRORS = (1, 4)
_ICMPV6_NEIGHBOURS = (133, 136)
_FRAGMENT_HEADER = 44

_NFPROTO = {4: 2, 6: 10}
_ADDRESS = {4: (12, 16, 4), 6: (8, 24, 16)}
"""Where in a header source and destination lie, and their octets."""
_LAST_ADDRESS = {4: 2**32 - 1, 6: 2**128 - 1}

_SETS = tuple(
    nft.SetOf(f"{way}{version}", octets + 4, (kind, 13))
    for version, octets, kind in ((4, 4, 7), (6, 16, 8))
    for way in ("from", "to")
)
"""An address and a port in four octets; 7, 8 and 13 are nft's ipv4_addr, ipv6_addr and inet_service."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Arriving:
    """Packets that arrive, by what their headers say; None: any. Both ends of a range belong to it.

    Of ICMP the source ports are type times 256 plus code, of mobility headers type times 256. `but_not`: protocols that
    it is not about.
    """

    version: int | None = None
    source: Range | None = None
    destination: Range | None = None
    ip_protocol: int | None = None
    source_ports: Ports | None = None
    destination_ports: Ports | None = None
    but_not: tuple[int, ...] = ()

    def expressions(self) -> list[bytes]:
        """What nftables asks of a packet, cheapest and rarest first."""
        found: list[bytes] = []
        if self.version is not None:
            found += [nft.meta(Meta.NFPROTO), nft.equal(bytes((_NFPROTO[self.version],)))]
            *offsets, octets = _ADDRESS[self.version]
            for offset, addresses in zip(offsets, (self.source, self.destination), strict=True):
                if addresses is not None and addresses != (0, _LAST_ADDRESS[self.version]):
                    found.append(nft.payload(Header.NETWORK, offset, octets))
                    found.append(nft.between(*(address.to_bytes(octets, "big") for address in addresses)))
        if self.ip_protocol is not None:
            found += [nft.meta(Meta.L4PROTO), nft.equal(bytes((self.ip_protocol,)))]
        for ip_protocol in self.but_not:
            found += [nft.meta(Meta.L4PROTO), nft.equal(bytes((ip_protocol,)), negated=True)]
        for offset, ports in ((0, self.source_ports), (2, self.destination_ports)):
            if ports is not None:
                found += self._ports(offset, ports)
        return found

    def _ports(self, offset: int, ports: Ports) -> list[bytes]:
        if self.ip_protocol == _MOBILITY:
            first, last = -(-ports[0] // 256), ports[1] // 256
            return [nft.payload(Header.TRANSPORT, 2, 1), nft.between(bytes((first,)), bytes((last,)))]
        return [
            nft.payload(Header.TRANSPORT, offset, 2),
            nft.between(*(port.to_bytes(2, "big") for port in ports)),
        ]

    @property
    def element(self) -> nft.Element | None:
        """Its place in one of the sets: one port of UDP, of one peer; None when it takes a rule."""
        ports = (self.source_ports, self.destination_ports)
        port = next((one for one in ports if one is not None), None)
        if self.version is None or self.source is None or port is None or None not in ports:
            return None
        if self.ip_protocol != socket.IPPROTO_UDP or self.destination is not None:
            return None
        if self.source[0] != self.source[1] or port[0] != port[1]:
            return None
        address = self.source[0].to_bytes(_ADDRESS[self.version][2], "big")
        way = "from" if self.source_ports is not None else "to"
        return f"{way}{self.version}", address + port[0].to_bytes(2, "big") + bytes(2)


ESP = Arriving(ip_protocol=socket.IPPROTO_ESP)


def mirrored(rule: Rule) -> Arriving:
    """The other direction of what a rule of the host keeps outside: from where it leads to."""
    source = None if rule.destination is None else rule.destination
    return Arriving(
        None if source is None else source.version,
        None if source is None else (int(source.network_address), int(source.broadcast_address)),
        None,
        rule.ip_protocol,
        rule.destination_ports,
        rule.source_ports,
    )


def to_socket(sock: socket.socket) -> Arriving:
    """Whatever comes to the port of a bound UDP socket."""
    port = sock.getsockname()[1]
    return Arriving(ip_protocol=socket.IPPROTO_UDP, destination_ports=(port, port))


def protected(policy: Policy) -> list[Arriving]:
    """What has to come under ESP by a policy, nothing else among it. RFC 4301 section 4.4.1."""
    found: dict[Arriving, None] = {}
    for there in policy.remote:
        for here in policy.local:
            if there.version == here.version and (
                not there.ip_protocol or not here.ip_protocol or there.ip_protocol == here.ip_protocol
            ):
                found |= dict.fromkeys(_protected(there, here))
    return list(found)


def _protected(there: Selector, here: Selector) -> Iterator[Arriving]:
    ip_protocol = there.ip_protocol or here.ip_protocol
    whole = Arriving(
        there.version,
        (there.first_address, there.last_address),
        (here.first_address, here.last_address),
        ip_protocol or None,
    )
    if there.any_port and here.any_port:
        yield whole
        return
    others = (*_PORTED, *_TYPED)
    # Of protocols with ports, packets that show none (OPAQUE) are later fragments, which go on.
    if ip_protocol not in others and all(end.opaque or end.any_port for end in (there, here)):
        yield whole if ip_protocol else replace(whole, but_not=others)
    for one in (ip_protocol,) if ip_protocol else others:
        if one in _PORTED and not (there.opaque or here.opaque):
            yield replace(whole, ip_protocol=one, source_ports=_said(there), destination_ports=_said(here))
        elif one in _TYPED and not there.opaque and _has_type(one, there):
            # A type is what its sender's selector says. RFC 4301 section 4.4.1.3.
            yield replace(whole, ip_protocol=one, source_ports=_said(there))


def _said(selector: Selector) -> Ports | None:
    return None if selector.any_port else (selector.first_port, selector.last_port)


def _has_type(ip_protocol: int, selector: Selector) -> bool:
    """Whether a type of a mobility header lies in the range: its lower octet is 0."""
    return ip_protocol != _MOBILITY or -(-selector.first_port // 256) <= selector.last_port // 256


def _always_outside() -> Iterator[list[bytes]]:
    """What goes on whatever the policies are, and what is in the sets, in the expressions of nftables."""
    yield ESP.expressions()
    yield [
        nft.meta(Meta.NFPROTO),
        nft.equal(bytes((_NFPROTO[4],))),
        nft.payload(Header.NETWORK, 6, 2),
        nft.masked(b"\x1f\xff"),
        nft.equal(bytes(2), negated=True),
    ]
    yield [nft.extension(_FRAGMENT_HEADER, 2, 2), nft.masked(b"\xff\xf8"), nft.equal(bytes(2), negated=True)]
    for ip_protocol, kinds in (
        *((socket.IPPROTO_ICMP, kinds) for kinds in _ICMP_ERRORS),
        (_ICMPV6, _ICMPV6_ERRORS),
        (_ICMPV6, _ICMPV6_NEIGHBOURS),
    ):
        yield [
            nft.meta(Meta.L4PROTO),
            nft.equal(bytes((ip_protocol,))),
            nft.payload(Header.TRANSPORT, 0, 1),
            nft.between(*(bytes((kind,)) for kind in kinds)),
        ]

    for one in _SETS:
        source, _, octets = _ADDRESS[version := int(one.name[-1])]
        yield [
            *Arriving(version, ip_protocol=socket.IPPROTO_UDP).expressions(),
            nft.payload(Header.NETWORK, source, octets),
            nft.payload(Header.TRANSPORT, 0 if one.name.startswith("from") else 2, 2, word=octets // 4),
            nft.in_set(one.name),
        ]


_Kept = tuple[bool, Arriving]
"""Whether it goes on, and what it is."""


class ClearTraffic:
    """The table of one backend, and who wants what in it. Where the kernel has no nftables, it says so and is none."""

    def __init__(self) -> None:
        self._socket: NftSocket | None = None
        self._device_prefix = self._table = ""
        self._of: dict[Hashable, tuple[_Kept, ...]] = {}
        self._users: Counter[_Kept] = Counter()
        self._handles: dict[_Kept, int] = {}

    def open(self, device_prefix: str, instance: int) -> None:
        """Make the table of this instance's device, and take away those whose device is gone."""
        table = f"{device_prefix}{instance}"
        sock = None
        try:
            sock = NftSocket()
            self._clean(sock, device_prefix, table)
            self._make(sock, device_prefix, table)
        except OSError as error:
            log.warning(
                "what arrives in clear although a Child SA protects it is not dropped (RFC 4301 section 5.2): "
                "nftables cannot be used: %s",
                error.strerror,
            )
            if sock is not None:
                sock.close()
            return
        self._socket, self._device_prefix, self._table = sock, device_prefix, table

    @staticmethod
    def clean(device_prefix: str, instance: int) -> None:
        """Take away the tables of devices that are gone, and of this instance's, whose backend makes none."""
        with contextlib.suppress(OSError):
            sock = NftSocket()
            try:
                ClearTraffic._clean(sock, device_prefix, f"{device_prefix}{instance}")
            finally:
                sock.close()

    @staticmethod
    def _clean(sock: NftSocket, device_prefix: str, own: str) -> None:
        for table in sock.tables():
            if table == own:
                sock.delete_table(table)
            elif table.startswith(device_prefix) and table[len(device_prefix) :].isdecimal():
                try:
                    socket.if_nametoindex(table)  # of a running process
                except OSError:
                    with contextlib.suppress(OSError):  # of one that runs without its device
                        sock.delete_table(table)

    @staticmethod
    def _make(sock: NftSocket, device_prefix: str, table: str) -> None:
        try:
            sock.add_table(table, TableFlag.OURS_AND_STAYS)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            sock.add_table(table, TableFlag.NONE)
        try:
            chains = [(name, None) for name in (_REFUSED, _PROTECTED, _OUTSIDE)]
            sock.add_chains(table, [*chains, (_IN, BaseChain(_PRE_ROUTING, _BEFORE_ALL))])
            sock.add_sets(table, _SETS)
            accept = nft.verdict(Verdict.ACCEPT)
            interface = nft.meta(Meta.IIFNAME)
            sock.change(
                table,
                [
                    (_REFUSED, [nft.counter(), nft.verdict(Verdict.DROP)]),
                    *((_OUTSIDE, [*expressions, accept]) for expressions in _always_outside()),
                    (_IN, [interface, nft.equal(device_prefix.encode()), accept]),
                    (_IN, [interface, nft.equal(b"lo".ljust(16, b"\0")), accept]),
                    (_IN, [nft.verdict(Verdict.JUMP, _OUTSIDE)]),
                    (_IN, [nft.verdict(Verdict.JUMP, _PROTECTED)]),
                ],
            )
        except OSError:
            sock.delete_table(table)
            raise

    def close(self) -> None:
        """Take the table away; a second call does nothing."""
        sock, self._socket = self._socket, None
        self._of.clear()
        self._users.clear()
        self._handles.clear()
        if sock is None:
            return
        try:
            sock.delete_table(self._table)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise BackendError(f"the table {self._table} of nftables stays: {error.strerror}") from error
        finally:
            sock.close()

    def want(self, owner: Hashable, outside: Iterable[Arriving] = (), refused: Iterable[Arriving] = ()) -> None:
        """What an owner wants from now on: `outside` goes on, and of the rest `refused` is dropped.

        Raises BackendError; what was wanted before is then wanted still.
        """
        if self._socket is None:
            return
        new = tuple(dict.fromkeys([*((True, one) for one in outside), *((False, one) for one in refused)]))
        old = self._of.get(owner, ())
        added = [one for one in new if one not in self._users]
        removed = [one for one in old if self._users[one] == 1 and one not in new]
        if added or removed:
            self._change(self._socket, added, removed)
        self._users.update(new)
        for one in old:
            self._users[one] -= 1
            if not self._users[one]:
                del self._users[one]
        if new:
            self._of[owner] = new
        else:
            self._of.pop(owner, None)

    def _change(self, sock: NftSocket, added: Sequence[_Kept], removed: Sequence[_Kept]) -> None:
        try:
            try:
                self._tell(sock, added, removed)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                # Somebody has emptied the host's nftables.
                with contextlib.suppress(OSError):
                    sock.delete_table(self._table)
                self._make(sock, self._device_prefix, self._table)
                self._handles.clear()
                self._tell(sock, [*(one for one in self._users if one not in removed), *added], ())
        except OSError as error:
            raise BackendError(
                f"the table {self._table} of nftables cannot be changed: {error.strerror}"
            ) from error

    def _tell(self, sock: NftSocket, added: Sequence[_Kept], removed: Sequence[_Kept]) -> None:
        rules = [one for one in added if _element(one) is None]
        handles = sock.change(
            self._table,
            [_rule(one) for one in rules],
            [(_chain(one), self._handles[one]) for one in removed if one in self._handles],
            [element for one in added if (element := _element(one)) is not None],
            [element for one in removed if (element := _element(one)) is not None],
        )
        for one in removed:
            self._handles.pop(one, None)
        self._handles.update(zip(rules, handles, strict=True))

    def dropped(self) -> int:
        """How many packets came in clear that must not."""
        if self._socket is None:
            return 0
        try:
            return self._socket.packets(self._table, _REFUSED)
        except OSError:
            return 0


def _element(one: _Kept) -> nft.Element | None:
    return one[1].element if one[0] else None


def _rule(one: _Kept) -> tuple[str, list[bytes]]:
    goes_on, what = one
    end = nft.verdict(Verdict.ACCEPT) if goes_on else nft.verdict(Verdict.GOTO, _REFUSED)
    return _chain(one), [*what.expressions(), end]


def _chain(one: _Kept) -> str:
    return _OUTSIDE if one[0] else _PROTECTED
