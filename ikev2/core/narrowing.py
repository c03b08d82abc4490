"""Traffic selectors as sets: intersection, cover, narrowing, and "dynamic" made concrete.

A selector is a product of a protocol, a port range and an address range; protocol 0 is any. A port range 65535-0 is
OPAQUE, which "any port" includes. RFC 7296 sections 2.9, 2.23.1 and 3.13.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ikev2.core.config import Dynamic, TsSpec
from ikev2.errors import SinglePairRequired, TsUnacceptable
from ikev2.iana import TsType
from ikev2.value import value
from ikev2.wire.payloads import TrafficSelector

_ANY_PORT = (0, 65535)
_OPAQUE = (65535, 0)
_KNOWN = (TsType.TS_IPV4_ADDR_RANGE, TsType.TS_IPV6_ADDR_RANGE)
_MOST = 255
"""As many selectors as a payload counts in its one octet. RFC 7296 section 3.13."""

Selectors = tuple[TrafficSelector, ...]
Product = tuple[Selectors, Selectors]
"""TSi and TSr: the traffic between any address of the one and any of the other."""


@value(frozen=True, slots=True)
class Narrowed:
    """What both policies allow. `first_choice`: the initiator's first selectors are inside; `whole`: nothing is cut."""

    tsi: tuple[TrafficSelector, ...]
    tsr: tuple[TrafficSelector, ...]
    first_choice: bool
    whole: bool


def resolve(specs: Iterable[TsSpec], *hosts: str) -> tuple[TrafficSelector, ...]:
    """Replace "dynamic" by the addresses of the IKE SA, which may be networks. RFC 7296 section 2.9."""
    found: list[TrafficSelector] = []
    for spec in specs:
        if isinstance(spec, Dynamic):
            found += [
                TrafficSelector.from_network(
                    host.partition("%")[0], spec.ip_protocol, spec.start_port, spec.end_port
                )
                for host in hosts
            ]
        else:
            found.append(spec)
    return tuple(found)


def intersect(a: TrafficSelector, b: TrafficSelector) -> TrafficSelector | None:
    """The traffic in both, None when there is none or a type is not known to us."""
    if a == b and a.ts_type in _KNOWN:
        return a
    if a.ts_type != b.ts_type or a.ts_type not in _KNOWN:
        return None
    if a.ip_protocol and b.ip_protocol and a.ip_protocol != b.ip_protocol:
        return None
    ports = _intersect_ports((a.start_port, a.end_port), (b.start_port, b.end_port))
    start = max(a.start_address, b.start_address)
    end = min(a.end_address, b.end_address)
    if ports is None or start > end:
        return None
    return TrafficSelector(a.ts_type, a.ip_protocol or b.ip_protocol, *ports, start, end)


def intersect_all(
    offered: Sequence[TrafficSelector], policy: Sequence[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """The traffic in both sets, in the order offered, without selectors that another one holds already.

    Of more than 255 the first ones: a responder may always narrow. RFC 7296 sections 2.9 and 3.13.
    """
    found: list[TrafficSelector] = []
    for selector in offered:
        for allowed in policy:
            if len(found) == _MOST:  # and no further: what is compared grows with the square of it
                return tuple(found)
            common = intersect(selector, allowed)
            if common is None or any(_contains(kept, common) for kept in found):
                continue
            found = [kept for kept in found if not _contains(common, kept)]
            found.append(common)
    return tuple(found)


def covers(outer: Sequence[TrafficSelector], inner: Iterable[TrafficSelector]) -> bool:
    """True when every selector of `inner` lies within `outer`, which may hold it in adjoining pieces."""
    return all(_covered(outer, selector) for selector in inner)


def narrow(
    offered_i: Sequence[TrafficSelector],
    offered_r: Sequence[TrafficSelector],
    policy_i: Sequence[TrafficSelector],
    policy_r: Sequence[TrafficSelector],
) -> Narrowed:
    """The responder's choice; TsUnacceptable when nothing is common.

    Because every part of TSi goes with every part of TSr, all that the policy allows of both fits in one SA, and
    with it the initiator's first choices when the policy allows them (rfc7296-s2.9-02, rfc7296-s2.9-03).
    Selectors of unknown type are left out. RFC 7296 section 2.9.
    """
    tsi = intersect_all(offered_i, policy_i)
    tsr = intersect_all(offered_r, policy_r)
    if not has_traffic(tsi, tsr):
        raise TsUnacceptable("no part of the offered traffic selectors is allowed here")
    whole = covers(tsi, offered_i) and covers(tsr, offered_r)
    return Narrowed(tsi, tsr, whole or (covers(tsi, offered_i[:1]) and covers(tsr, offered_r[:1])), whole)


def has_traffic(tsi: Iterable[TrafficSelector], tsr: Sequence[TrafficSelector]) -> bool:
    """True when a packet can match both sides: its two addresses are of one family, and it has one protocol."""
    return any(
        i.ts_type == r.ts_type and (i.ip_protocol == r.ip_protocol or 0 in (i.ip_protocol, r.ip_protocol))
        for i in tsi
        for r in tsr
    )


def single_pair(
    narrowed: Narrowed, offered_i: Sequence[TrafficSelector], offered_r: Sequence[TrafficSelector]
) -> Narrowed:
    """What of this is between two single addresses: the only ones, or those of the initiator's first selectors.

    SinglePairRequired when these name no addresses, or none that are allowed here. RFC 7296 section 2.9.
    """
    tsi, tsr = _of_one_address(narrowed.tsi, offered_i), _of_one_address(narrowed.tsr, offered_r)
    if not has_traffic(tsi, tsr):
        raise SinglePairRequired("each pair of addresses needs a Child SA of its own, and none is named first")
    return Narrowed(tsi, tsr, narrowed.first_choice, whole=covers(tsi, offered_i) and covers(tsr, offered_r))


def _of_one_address(allowed: Selectors, offered: Sequence[TrafficSelector]) -> Selectors:
    host = single_address(allowed) or single_address(offered[:1])
    return () if host is None else intersect_all(allowed, resolve((Dynamic(),), host))


def subtract(
    selectors: Iterable[TrafficSelector], taken: Iterable[TrafficSelector]
) -> tuple[TrafficSelector, ...] | None:
    """The traffic in the first set that is not in the second; None when no selectors can say what that is.

    There is none for "any protocol but one", for "any port but OPAQUE", nor room for more than 255.
    """
    left = list(selectors)
    for piece in taken:
        rest: list[TrafficSelector] = []
        for selector in left:
            parts = _without(selector, piece)
            if parts is None:
                return None
            rest += parts
        left = rest
    return tuple(left) if len(left) <= _MOST else None


def remaining(offered: Product, taken: Product) -> tuple[Product, ...]:
    """What was asked for and is not in what came of it, as far as selectors can say it: no, one or two products."""
    rest_i, rest_r = subtract(offered[0], taken[0]), subtract(offered[1], taken[1])
    found = ((offered[0], rest_r or ()), (rest_i or (), taken[1]))
    return tuple(product for product in found if has_traffic(*product))


def _without(a: TrafficSelector, b: TrafficSelector) -> list[TrafficSelector] | None:
    """What is left of one selector when another one is taken away."""
    common = intersect(a, b)
    if common is None:
        return [a]
    if common.ip_protocol != a.ip_protocol:
        return None
    parts: list[TrafficSelector] = []
    if a.start_address < common.start_address:
        parts.append(replace(a, end_address=_beside(common.start_address, -1)))
    if common.end_address < a.end_address:
        parts.append(replace(a, start_address=_beside(common.end_address, 1)))
    ports, taken = (a.start_port, a.end_port), (common.start_port, common.end_port)
    if ports == taken:
        return parts
    if taken == _OPAQUE or a.ip_protocol == 0:
        return None
    if ports[0] < taken[0]:
        parts.append(replace(common, start_port=ports[0], end_port=taken[0] - 1))
    if taken[1] < ports[1]:
        parts.append(replace(common, start_port=taken[1] + 1, end_port=ports[1]))
    return parts


def _beside(address: bytes, step: int) -> bytes:
    return (int.from_bytes(address, "big") + step).to_bytes(len(address), "big")


def single_address(selectors: Sequence[TrafficSelector]) -> str | None:
    """The one address that all of these name, None when they name more: transport mode wants one.

    RFC 7296 section 2.23.1.
    """
    hosts = {(ts.ts_type, ts.start_address, ts.end_address) for ts in selectors}
    if len(hosts) != 1:
        return None
    ts_type, start, end = hosts.pop()
    return str(ipaddress.ip_address(start)) if start == end and ts_type in _KNOWN else None


def substitute(selectors: Sequence[TrafficSelector], host: str) -> tuple[TrafficSelector, ...]:
    """The same selectors with another address, as transport mode through NAT needs. RFC 7296 section 2.23.1."""
    address = ipaddress.ip_address(host.partition("%")[0])
    kind = TsType.TS_IPV4_ADDR_RANGE if address.version == 4 else TsType.TS_IPV6_ADDR_RANGE
    return tuple(
        replace(ts, ts_type=kind, start_address=address.packed, end_address=address.packed) for ts in selectors
    )


def _intersect_ports(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    if _OPAQUE in (a, b):
        return _OPAQUE if {a, b} <= {_OPAQUE, _ANY_PORT} else None
    start, end = max(a[0], b[0]), min(a[1], b[1])
    return (start, end) if start <= end else None


def _contains(outer: TrafficSelector, inner: TrafficSelector) -> bool:
    return _contains_but_addresses(outer, inner) and (
        outer.start_address <= inner.start_address and inner.end_address <= outer.end_address
    )


def _contains_but_addresses(outer: TrafficSelector, inner: TrafficSelector) -> bool:
    if outer.ts_type != inner.ts_type or outer.ip_protocol not in (0, inner.ip_protocol):
        return False
    ports = (inner.start_port, inner.end_port)
    return _intersect_ports((outer.start_port, outer.end_port), ports) == ports


def _covered(outer: Sequence[TrafficSelector], inner: TrafficSelector) -> bool:
    if inner.ts_type in _KNOWN and inner in outer:
        return True
    pieces = sorted(
        (int.from_bytes(piece.start_address, "big"), int.from_bytes(piece.end_address, "big"))
        for piece in outer
        if _contains_but_addresses(piece, inner)
    )
    at = int.from_bytes(inner.start_address, "big")
    last = int.from_bytes(inner.end_address, "big")
    for start, end in pieces:
        if start > at:
            return False
        at = max(at, end + 1)
        if at > last:
            return True
    return False
