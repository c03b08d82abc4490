"""Configuration payloads: an address on the peer's network is asked for, given, and given back.

    Initiator (IRAC)                            Responder (IRAS)
    HDR, SK {IDi, ..., CP(CFG_REQUEST), SAi2, TSi, TSr}  -->
                                           <--  HDR, SK {IDr, ..., CP(CFG_REPLY), SAr2, TSi, TSr}

Who began the IKE SA asks, whose connection has pools answers: in IKE_AUTH, in CREATE_CHILD_SA, and in INFORMATIONAL,
for who did not get an address at first. Anybody else passes configuration payloads over, and all pass over CFG_SET
and CFG_ACK, as nothing here may be pushed.

A type of address that no pool has is ignored. That leaves nothing of a request for it alone; where the connection
demands an address, INTERNAL_ADDRESS_FAILURE says so, as none can be assigned.

RFC 7296 sections 2.19, 2.20, 3.15 and 4.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ikev2.core.events import AddressesLeased, AddressesReleased, AddressesTaken
from ikev2.core.exchange import AskForAddresses, Inbound
from ikev2.core.pools import IpAddress, IpNetwork, Lease, Peer, PoolConfig, Wish
from ikev2.errors import FailedCpRequired, IkeError, InternalAddressFailure
from ikev2.iana import CpAttributeType, CpType
from ikev2.wire.payloads import Cp, CpAttribute, Notify, Payload

if TYPE_CHECKING:
    from ikev2.core.config import ChildConfig
    from ikev2.core.ike_sa import IkeSa

_ADDRESS = {4: CpAttributeType.INTERNAL_IP4_ADDRESS, 6: CpAttributeType.INTERNAL_IP6_ADDRESS}
_DNS = {4: CpAttributeType.INTERNAL_IP4_DNS, 6: CpAttributeType.INTERNAL_IP6_DNS}
_DHCP = {4: CpAttributeType.INTERNAL_IP4_DHCP, 6: CpAttributeType.INTERNAL_IP6_DHCP}
_ALL_OF = {4: "0.0.0.0/0", 6: "::/0"}
_HOST_PREFIX = 128
"""The prefix length of an IPv6 address that stands for itself."""

SUPPORTED = (
    CpAttributeType.INTERNAL_IP4_ADDRESS,
    CpAttributeType.INTERNAL_IP4_NETMASK,
    CpAttributeType.INTERNAL_IP4_DNS,
    CpAttributeType.INTERNAL_IP4_NBNS,
    CpAttributeType.INTERNAL_IP4_DHCP,
    CpAttributeType.APPLICATION_VERSION,
    CpAttributeType.INTERNAL_IP6_ADDRESS,
    CpAttributeType.INTERNAL_IP6_DNS,
    CpAttributeType.INTERNAL_IP6_DHCP,
    CpAttributeType.INTERNAL_IP4_SUBNET,
    CpAttributeType.SUPPORTED_ATTRIBUTES,
    CpAttributeType.INTERNAL_IP6_SUBNET,
)
"""What SUPPORTED_ATTRIBUTES lists: all of the table in section 3.15.1."""


@dataclass(slots=True)
class CpState:
    """What configuration payloads have brought to an IKE SA; its successors inherit it.

    `asked`: the addresses that our requests ask for, until there are some; `addresses`, `dns` and `subnets`: what we
    got; `leases`: what the peer got.
    """

    asked: tuple[Wish, ...] = ()
    addresses: tuple[IpAddress, ...] = ()
    dns: tuple[IpAddress, ...] = ()
    subnets: tuple[IpNetwork, ...] = ()
    leases: list[Lease] = field(default_factory=list)


# --- what "dynamic" is -------------------------------------------------------------------------------------------


def local_hosts(sa: IkeSa) -> tuple[str, ...]:
    """What `dynamic` is on our side: the addresses that we got, all of a family while we ask, else the outer one.

    RFC 7296 sections 2.9 and 2.19.
    """
    if sa.cp.addresses:
        return tuple(map(str, sa.cp.addresses))
    if is_expected(sa):
        return tuple(dict.fromkeys(_ALL_OF[vip.version] for vip in sa.connection.vips))
    return (sa.local.host,)


def remote_hosts(sa: IkeSa) -> tuple[str, ...]:
    """What `dynamic` is on the peer's side: the addresses that it got from us, else the outer one."""
    return tuple(str(lease.address) for lease in sa.cp.leases) or (sa.remote.host,)


# --- who asks ----------------------------------------------------------------------------------------------------


def is_expected(sa: IkeSa) -> bool:
    """True while we want an address from the peer and have none."""
    return bool(sa.connection.vips) and sa.authenticated_first and not sa.cp.addresses


def request(sa: IkeSa) -> Cp | None:
    """The CFG_REQUEST for the addresses of the connection, None when there is nothing to be asked for.

    An IKE SA that replaces another one asks for the addresses which that one has.
    """
    if not is_expected(sa):
        return None
    held = list(_held_before(sa))
    wishes = []
    for vip in sa.connection.vips:
        again = next((address for address in held if address.version == vip.version), None)
        if again is not None:
            held.remove(again)
        wishes.append(Wish(vip.version, again or vip))
    sa.cp.asked = tuple(wishes)
    attributes = [_asked(wish) for wish in wishes]
    attributes += [CpAttribute(_DNS[version]) for version in sorted({wish.version for wish in wishes})]
    return Cp(CpType.CFG_REQUEST, tuple(attributes))  # rfc7296-s2.19-04, rfc7296-s4-07


def _held_before(sa: IkeSa) -> tuple[IpAddress, ...]:
    old = sa.replaces
    while old is not None and old.heir is not None:
        old = old.heir
    return () if old is None else old.cp.addresses


def _asked(wish: Wish) -> CpAttribute:
    """A request for an address: without a value for any."""
    kind, wanted = _ADDRESS[wish.version], wish.wanted
    if wanted is None:
        return CpAttribute(kind)
    return CpAttribute.of_address(kind, wanted, _HOST_PREFIX if wish.version == 6 else None)


def take(sa: IkeSa, inbound: Inbound) -> None:
    """Take what a CFG_REPLY gives us: as many addresses as were asked for. What is not asked for is passed over.

    Attributes that mean nothing to us are ignored.
    """
    asked, reply = sa.cp.asked, inbound.first(Cp)
    if not asked or reply is None or reply.cp_type != CpType.CFG_REPLY:
        return
    state = sa.cp
    for version in (4, 6):
        wanted = sum(wish.version == version for wish in asked)
        found = [address for address in _addresses(reply, (_ADDRESS[version],)) if is_usable(address)]
        state.addresses += tuple(dict.fromkeys(found))[:wanted]
    if not state.addresses:
        return
    state.asked = ()
    state.dns = tuple(dict.fromkeys(_addresses(reply, _DNS.values())))
    networks = (attribute.network for attribute in reply.attributes)
    state.subnets = tuple(dict.fromkeys(network for network in networks if network is not None))
    sa.add_event(AddressesTaken(sa.info(), tuple(map(str, state.addresses)), tuple(map(str, state.dns))))


def _addresses(cp: Cp, kinds: Iterable[CpAttributeType]) -> Iterator[IpAddress]:
    for attribute in cp.attributes:
        if attribute.type in kinds and attribute.address is not None:  # rfc7296-s3.15.1-06
            yield attribute.address


def is_usable(address: IpAddress) -> bool:
    """Whether a host may have it: an authentic peer is no reason to give up the loopback address."""
    broadcast = address == ipaddress.IPv4Address("255.255.255.255")
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or broadcast)


def ask_later(sa: IkeSa, children: Sequence[ChildConfig], now: float) -> None:
    """There was no address: the IKE SA stays, and we ask again after some minutes. RFC 7296 section 3.15.4."""
    sa.times.retries.append((now + sa.limits.address_retry_s, AskForAddresses(tuple(children))))


# --- who gives ---------------------------------------------------------------------------------------------------


@contextmanager
def granting(sa: IkeSa, inbound: Inbound, *, demanded: bool = True) -> Iterator[list[Payload]]:
    """The payloads that go before those of the Child SA which is made inside of this; without it there is no grant.

    FailedCpRequired when the connection demands an address, the peer has none, and the request asks for none, unless
    `demanded` is False; InternalAddressFailure when there is none. RFC 7296 sections 2.19 and 3.15.4.
    """
    before = tuple(sa.cp.leases)
    try:
        yield answer(sa, inbound, demanded=demanded)
    except IkeError:
        # An error goes without a CFG_REPLY: RFC 7296 appendix C.2.
        for lease in [lease for lease in sa.cp.leases if lease not in before]:
            sa.cp.leases.remove(lease)
            sa.observer.pools.release(lease)
        raise
    granted = tuple(str(lease.address) for lease in sa.cp.leases if lease not in before)
    if granted:
        sa.add_event(AddressesLeased(sa.info(), granted))


def answer(sa: IkeSa, inbound: Inbound, *, demanded: bool = True) -> list[Payload]:
    """The CFG_REPLY to a request's CFG_REQUEST, nothing without one; errors as for `granting`."""
    connection, payload, asked = sa.connection, inbound.first(Cp), None
    if not connection.pools or sa.authenticated_first:
        return []
    if payload is not None and payload.cp_type == CpType.CFG_REQUEST:  # rfc7296-s3.15.1-09, rfc7296-s3.15.1-10
        asked = payload.attributes
    wishes, kinds = _wishes(asked or ()), {attribute.type for attribute in asked or ()}
    if demanded and connection.pools_required and not wishes and not sa.cp.leases:
        raise FailedCpRequired("the peer asks for no address, and has none")  # rfc7296-s2.19-06
    if asked is None:  # rfc7296-s2.19-05
        return []
    given = _assign(sa, wishes)
    if wishes and not given and (connection.pools_required or _has_version(sa, wishes)):
        raise InternalAddressFailure(f"there is no address for {sa.peer_id}")
    # rfc7296-s4-08, rfc7296-s4-09
    return [Cp(CpType.CFG_REPLY, tuple(_reply(sa, kinds, given)))]


def _wishes(asked: Sequence[CpAttribute]) -> list[Wish]:
    """The addresses that a request asks for, each with the one that it suggests."""
    versions = {kind: version for version, kind in _ADDRESS.items()}
    return [
        Wish(versions[attribute.type], attribute.address)
        for attribute in asked
        if attribute.type in versions  # rfc7296-s3.15.1-06
    ]


def _has_version(sa: IkeSa, wishes: Iterable[Wish]) -> bool:
    """True when the pools of the connection have addresses of a family that is asked for."""
    pools = sa.observer.pools.find(sa.connection.pools)
    versions = {part.version for pool in pools for part in pool.ranges}
    return any(wish.version in versions for wish in wishes)


def _assign(sa: IkeSa, wishes: Iterable[Wish]) -> list[Lease]:
    """An address for each wish that can be granted: what the IKE SA holds first. RFC 7296 section 3.15.4."""
    pools, leases, given = sa.observer.pools, sa.cp.leases, list[Lease]()
    if sa.peer_id is None:
        return given
    peer = Peer(sa.peer_id, sa.remote.host, shared=not sa.connection.send_initial_contact)
    for wish in wishes:
        held = [one for one in leases if one not in given and one.address.version == wish.version]
        lease = min(held, key=lambda one, wish=wish: one.address != wish.address, default=None)  # type: ignore[misc]
        if lease is None and len(leases) < sa.limits.internal_addresses:
            lease = pools.acquire(sa.connection.pools, peer, wish, leases)
            if lease is not None:
                leases.append(lease)
        if lease is not None:
            given.append(lease)
    return given


def _reply(sa: IkeSa, kinds: Collection[CpAttributeType], given: Sequence[Lease]) -> Iterator[CpAttribute]:
    """The addresses, and what their pools tell beside them; then what was asked about us, by the types of the request.

    Our version stays our own: the attribute comes back empty. RFC 7296 section 2.20.
    """
    for lease in given:
        version = lease.address.version
        yield CpAttribute.of_address(_ADDRESS[version], lease.address, _HOST_PREFIX if version == 6 else None)
    names = dict.fromkeys(lease.pool for lease in given or sa.cp.leases)
    pools = sa.observer.pools.find(names)
    yield from dict.fromkeys(attribute for pool in pools for attribute in _told(pool))
    # rfc7296-s3.15.1-03
    four = [lease for lease in given if lease.address.version == 4]
    mask = next((pool.netmask for pool in pools if pool.netmask is not None), None)
    if four and mask is not None:
        yield CpAttribute.of_address(CpAttributeType.INTERNAL_IP4_NETMASK, mask)
    if CpAttributeType.APPLICATION_VERSION in kinds:
        yield CpAttribute(CpAttributeType.APPLICATION_VERSION)  # rfc7296-s2.20-01
    if CpAttributeType.SUPPORTED_ATTRIBUTES in kinds:
        yield CpAttribute.of_supported(SUPPORTED)


def _told(pool: PoolConfig) -> Iterator[CpAttribute]:
    yield from (CpAttribute.of_address(_DNS[address.version], address) for address in pool.dns)
    yield from (CpAttribute.of_address(CpAttributeType.INTERNAL_IP4_NBNS, address) for address in pool.nbns)
    yield from (CpAttribute.of_address(_DHCP[address.version], address) for address in pool.dhcp)
    yield from (CpAttribute.of_network(network) for network in pool.subnets)


def answer_alone(sa: IkeSa, inbound: Inbound) -> list[Payload]:
    """The same outside of the making of a Child SA; a refusal is a notify. RFC 7296 sections 2.20 and 3.15.4."""
    try:
        with granting(sa, inbound, demanded=False) as payloads:
            return payloads
    except InternalAddressFailure as error:
        return [Notify(error.notify_type)] if error.notify_type is not None else []


# --- both --------------------------------------------------------------------------------------------------------


def hand_over(old: IkeSa, new: IkeSa) -> None:
    """`new` takes the place of `old`: addresses outlive the rekeying of the IKE SA. RFC 7296 section 3.15.1."""
    if old.cp.addresses or old.cp.leases:
        new.cp, old.cp = old.cp, CpState()


def release(sa: IkeSa) -> None:
    """The IKE SA ends: what the peer got is free again, what we got is not ours any more."""
    state, sa.cp = sa.cp, CpState()
    for lease in state.leases:
        sa.observer.pools.release(lease)
    if state.addresses:
        sa.add_event(AddressesReleased(sa.info(), tuple(map(str, state.addresses))))
