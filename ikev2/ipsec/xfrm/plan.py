"""What the kernel shall hold for a Child SA or a bypass: pure functions, the same for the kernel and for a dry run.

How ours is told from everything else: SAs and templates carry a reqid `0x77` | instance (8 bits) | the child's
reqid (16 bits); bypass policies carry the priority `0x7700` | instance. The instance numbers the processes that use
XFRM in one network namespace. The kernel takes the policy with the smallest priority that matches, so a bypass
(0x77nn) wins over every child policy (0x50000 and up), and of those the most specific.
RFC 4301 section 4.4.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ikev2.core.child_sa import ChildSaParameters, VolumeLimits
from ikev2.core.types import Mode
from ikev2.ipsec.backend import SPI_MINIMUM, Bypass, Trap
from ikev2.ipsec.xfrm.algorithms import kernel_algorithms
from ikev2.ipsec.xfrm.attributes import Encap, Offload, ReplayEsn
from ikev2.ipsec.xfrm.messages import Policy, Sa, SpiRequest
from ikev2.ipsec.xfrm.selectors import FULL_MASK, Flow, PortBlock, flows, hull
from ikev2.ipsec.xfrm.structs import IpAddress, IpNetwork, LifetimeConfig, PolicyInfo, SaInfo, Selector, Template
from ikev2.ipsec.xfrm.uapi import ANY_SPI, XFRM_INF, OffloadFlag, PolicyDirection, SaDirection, SaFlag, SaMode

IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58
NO_PROTOCOL = 255
"""Reserved by IANA: no packet has it."""
NEIGHBOUR_DISCOVERY_TYPES = (135, 136)

REQID_BASE = 0x77000000
REQID_MASK = 0xFF000000
BYPASS_PRIORITY = 0x7700
CHILD_PRIORITY = 0x60000
MAXIMUM_INSTANCE = 0xFF
LEGACY_WINDOW = 32
ESN_OUTBOUND_WINDOW = 1
LAST_PACKETS = 0xFF00_0000
"""Without ESN an SA is to be rekeyed before its sequence numbers, of 32 bits, are used up. RFC 4303 section 3.3.3."""

_MODES = {Mode.TUNNEL: SaMode.TUNNEL, Mode.TRANSPORT: SaMode.TRANSPORT}


def address_of(host: str) -> IpAddress:
    """An address for the kernel, which has no zones in its SAs and policies."""
    return ipaddress.ip_address(host.partition("%")[0])


def kernel_reqid(instance: int, reqid: int) -> int:
    """The reqid in the kernel for a child's reqid of one instance."""
    return REQID_BASE | instance << 16 | reqid & 0xFFFF


def instance_of_reqid(reqid: int) -> int | None:
    """Whose reqid it is; None when it is not ours."""
    return reqid >> 16 & 0xFF if reqid & REQID_MASK == REQID_BASE else None


def bypass_priority(instance: int) -> int:
    """The priority of this instance's bypass policies."""
    return BYPASS_PRIORITY | instance


def instance_of_policy(policy: Policy) -> int | None:
    """Whose policy it is; None when it is not ours."""
    for template in policy.templates:
        return instance_of_reqid(template.reqid)
    if policy.is_bypass and policy.info.priority & ~0xFF == BYPASS_PRIORITY:
        return policy.info.priority & 0xFF
    return None


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """Both SAs of a pair, and the policies that lead traffic into them."""

    inbound: Sa
    outbound: Sa
    policies: tuple[Policy, ...]


def spi_request(local: str, remote: str, reqid: int) -> SpiRequest:
    """ALLOCSPI for packets from `remote` to `local`. RFC 4303 section 2.1: the receiver chooses."""
    info = SaInfo(address_of(remote), address_of(local), 0, reqid, SaMode.TUNNEL)
    return SpiRequest(info, SPI_MINIMUM, 0xFFFFFFFF, SaDirection.IN)


def _sa(child: ChildSaParameters, reqid: int, *, inbound: bool, offload: Offload | None) -> Sa:
    local, remote = address_of(child.local), address_of(child.remote)
    encr_key = child.encr_key_in if inbound else child.encr_key_out
    integ_key = child.integ_key_in if inbound else child.integ_key_out
    aead, crypt, auth = kernel_algorithms(child.suite, encr_key, integ_key)
    # NOECN stays clear: the kernel's default is the full-functionality option (rfc7296-s2.24-01).
    flags = SaFlag(0)  # rfc7296-s2.24-02
    if child.mode is Mode.TUNNEL:
        flags |= SaFlag.AF_UNSPEC
    window = child.replay_window if inbound else 0
    replay: ReplayEsn | None = None
    if child.suite.esn:
        flags |= SaFlag.ESN
        # The kernel takes no ESN without a window, outbound, too; and with none where it knows that it is outbound.
        if inbound:
            replay = ReplayEsn.of_window(window or LEGACY_WINDOW)
        else:
            replay = ReplayEsn(0, ()) if child.kernel.sa_direction else ReplayEsn.of_window(ESN_OUTBOUND_WINDOW)
    elif window > LEGACY_WINDOW:
        replay = ReplayEsn.of_window(window)
    encap: Encap | None = None
    if child.encap is not None:
        ports = (child.encap.local_port, child.encap.remote_port)
        encap = Encap(*(reversed(ports) if inbound else ports))
    info = SaInfo(
        source=remote if inbound else local,
        destination=local if inbound else remote,
        spi=child.spi_in if inbound else child.spi_out,
        reqid=reqid,
        mode=_MODES[child.mode],
        flags=flags,
        replay_window=window if replay is None else 0,
        selector=_carried(child, inbound=inbound),
        lifetime=_lifetime(child.limits, counted=child.suite.esn or inbound),
    )
    padding = child.tfc_padding if child.mode is Mode.TUNNEL and not inbound else 0
    direction = SaDirection.IN if inbound else SaDirection.OUT
    if offload is not None and inbound:
        offload = replace(offload, flags=offload.flags | OffloadFlag.INBOUND)
    return Sa(
        info,
        aead=aead,
        crypt=crypt,
        auth=auth,
        encap=encap,
        replay_esn=replay,
        tfc_padding=padding,
        if_id=child.kernel.if_id_in if inbound else child.kernel.if_id_out,
        direction=direction if child.kernel.sa_direction else None,
        offload=offload,
        notice_after=0,
    )


def _carried(child: ChildSaParameters, *, inbound: bool) -> Selector:
    """What an SA may carry: in a tunnel the policies say that, but transport mode goes by where none is.

    RFC 4301 section 5.2, step 5.
    """
    if child.mode is Mode.TUNNEL:
        return Selector()
    direction = PolicyDirection.IN if inbound else PolicyDirection.OUT
    blocks = flows(child.ts_local, child.ts_remote, outbound=not inbound)
    if not blocks:  # of messages of which that side sends none
        blocks = [Flow(_host(child.local), _host(child.remote), NO_PROTOCOL)]
    return hull(blocks, address_of(child.local).version, direction)


def _lifetime(limits: VolumeLimits, *, counted: bool) -> LifetimeConfig:
    """What the kernel counts; times are IKE's own matter. `counted`: its sequence numbers outlast every limit."""
    octets = limits.soft_octets or XFRM_INF, limits.hard_octets or XFRM_INF
    soft = limits.soft_packets or XFRM_INF
    return LifetimeConfig(*octets, soft if counted else min(soft, LAST_PACKETS), limits.hard_packets or XFRM_INF)


def _policies(
    protected: ChildSaParameters | Trap, reqid: int, *, spi_out: int = ANY_SPI, offload: Offload | None = None
) -> Iterable[Policy]:
    """In, forward and out; out comes last, so that nothing is sent before everything is there.

    The template of OUT names the SPI, so a rekeyed pair takes over with its policy, not before; that of IN does not,
    so packets of either pair are welcome (RFC 7296 section 2.8: both are in use until the old one is deleted).
    """
    local, remote = address_of(protected.local), address_of(protected.remote)
    mode = _MODES[protected.mode]
    into = Template(remote, local, reqid, mode)
    out = Template(local, remote, reqid, mode, spi=spi_out)
    directions = [PolicyDirection.IN, PolicyDirection.OUT]
    if mode is SaMode.TUNNEL:
        directions.insert(1, PolicyDirection.FWD)
    whole = offload if offload is not None and OffloadFlag.PACKET in offload.flags else None
    for direction in directions:
        outbound = direction is PolicyDirection.OUT
        template = out if outbound else into
        if_id = protected.kernel.if_id_out if outbound else protected.kernel.if_id_in
        for flow in flows(protected.ts_local, protected.ts_remote, outbound=outbound):
            info = PolicyInfo(flow.selector(direction), direction, CHILD_PRIORITY - flow.specificity)
            # The kernel offloads no policy of what it forwards.
            yield Policy(info, (template,), if_id, None if direction is PolicyDirection.FWD else whole)


def plan_child(child: ChildSaParameters, reqid: int, *, offload: Offload | None = None) -> ChildPlan:
    """Everything for one pair under the kernel's `reqid`; BackendError when XFRM cannot express it.

    `offload` names the device that shall do ESP, or its cipher, of both SAs.
    """
    return ChildPlan(
        inbound=_sa(child, reqid, inbound=True, offload=offload),
        outbound=_sa(child, reqid, inbound=False, offload=offload),
        policies=tuple(_policies(child, reqid, spi_out=child.spi_out, offload=offload)),
    )


def plan_trap(trap: Trap, reqid: int) -> tuple[Policy, ...]:
    """The policies of traffic that asks for a Child SA; under `reqid` there never is an SA."""
    return tuple(_policies(trap, reqid))


def moved_sa(planned: Sa, current: Sa) -> Sa:
    """The planned SA with the sequence numbers, window and counters that `current` has now.

    An SA that starts again at 1 under the same key would repeat the IVs of the combined-mode ciphers.
    RFC 4106 section 2.
    """
    if current.replay_esn is not None:
        info = replace(planned.info, replay_window=0)
        return replace(planned, info=info, replay_esn=current.replay_esn, current=current.info.current)
    return replace(planned, replay_legacy=current.replay_legacy, current=current.info.current)


def _host(address: str) -> IpNetwork:
    return ipaddress.ip_network(address_of(address))


def _allow(flows_allowed: Iterable[Flow], priority: int) -> tuple[Policy, ...]:
    return tuple(
        Policy(PolicyInfo(flow.selector(direction), direction, priority))
        for flow in flows_allowed
        for direction in (PolicyDirection.IN, PolicyDirection.OUT)
    )


def _either_port(local: IpNetwork, remote: IpNetwork, protocol: int, block: PortBlock) -> tuple[Flow, Flow]:
    """Our port or the peer's in the block: two flows, because a selector asks for both of its ports."""
    return (
        Flow(local, remote, protocol, local_port=block),
        Flow(local, remote, protocol, remote_port=block),
    )


def ike_bypass(local: str, remote: str, ports: Iterable[int], priority: int) -> tuple[Policy, ...]:
    """IKE between two addresses passes outside every tunnel; over IPv6 neighbour discovery does as well.

    Neighbour discovery inside the SA that needs it would never start. RFC 4301 sections 4.4.1 and 5.1.
    """
    here, there = _host(local), _host(remote)
    allowed: list[Flow] = []
    for port in sorted(set(ports)):
        allowed.extend(_either_port(here, there, IPPROTO_UDP, (port, FULL_MASK)))
    if here.version == 6:
        allowed.extend(
            Flow(here, there, IPPROTO_ICMPV6, local_port=(kind, FULL_MASK)) for kind in NEIGHBOUR_DISCOVERY_TYPES
        )
    return _allow(allowed, priority)


def measurement_bypass(bypass: Bypass, priority: int) -> tuple[Policy, ...]:
    """Traffic with either port in the range passes outside: two selectors per direction, one mask each."""
    block = (bypass.ports[0], bypass.mask)
    return _allow(_either_port(_host(bypass.local), _host(bypass.remote), bypass.ip_protocol, block), priority)
