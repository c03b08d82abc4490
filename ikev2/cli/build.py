"""What the sections of the configuration come to: connections, Child SAs and pools as the core takes them.

What no model can see, because it is between two words or two sections, is checked here; faults are added to a list,
each with its full path.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ikev2.cli.faults import suggestion
from ikev2.cli.secrets import read_secret
from ikev2.cli.sections import ChildSection, ConnectionSection, HostSection, PoolSection
from ikev2.cli.selectors import parse_selector
from ikev2.cli.words import own_identity
from ikev2.core.child_sa import NO_DUMMIES, DfBit, Dummies, HwOffload, KernelOptions, TunnelHeader
from ikev2.core.config import (
    ChildConfig,
    Childless,
    ConnectionConfig,
    Lifetime,
    Retransmission,
    SharedKey,
    Volume,
)
from ikev2.core.identity import Identity, PeerIdentity, may_be_one, parse_peer, quality
from ikev2.core.pools import AddressRange, PoolConfig
from ikev2.core.types import Mode
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.errors import ConfigurationError
from ikev2.wire.payloads import Proposal

OVER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Secret:
    """A section of `secrets`, with what its file holds."""

    name: str
    key: SharedKey


def read_secrets(host: HostSection, directory: Path, faults: list[str]) -> list[Secret]:
    """All secrets; one whose file cannot be read is empty, and a fault."""
    secrets = []
    for name, section in host.secrets.items():
        try:
            octets = read_secret(directory / section.file, f"PSK of {name}")
        except ConfigurationError as error:
            faults.append(f"secrets.{name}.file: {error}")
            octets = SecretOctets(f"PSK of {name}", b"")
        secrets.append(Secret(name, SharedKey(tuple(parse_peer(text) for text in section.id), octets)))
    return secrets


def build_connection(
    name: str, section: ConnectionSection, secrets: list[Secret], faults: list[str]
) -> ConnectionConfig | None:
    """One connection with the secret that serves it; None when none does."""
    where = f"connections.{name}"
    if section.ike_port == section.nat_port:
        faults.append(f"{where}.nat_port: is the same as ike_port: IKE and ESP in UDP need a port each")
    _check_times(where, section, faults)
    _check_inner(where, section, faults)
    _check_traps(where, section, faults)
    faults += [
        f"{where}.children.{name}.tfc_padding: packets are padded in tunnel mode only"  # RFC 4303 section 2.7
        for name, child in section.children.items()
        if child.tfc_padding and child.mode == "transport"
    ]
    faults += [
        f"{where}.children.{name}.{word}: transport mode has no header of its own outside"  # RFC 4301 section 5.1.2
        for name, child in section.children.items()
        for word, said in (("df_bit", child.df_bit != "copy"), ("dscp", child.dscp is not None))
        if said and child.mode == "transport"
    ]
    secret = _secret_for(section, secrets)
    if secret is None:
        wanted = " and ".join(text for text in (section.local.id, section.remote.id) if text != "%any")
        faults.append(
            f"{where}: no secret serves it: add a [secrets.{name}] with a file"
            + (f" and an id list that names {wanted}" if wanted else "")
        )
        return None
    return ConnectionConfig(
        name=name,
        local_addrs=tuple(section.local_addrs),
        remote_addrs=tuple(section.remote_addrs),
        proposals=_numbered(parse_ike_proposal(text) for text in section.proposals),
        local_id=own_identity(section.local.id),
        remote_id=parse_peer(section.remote.id),
        psk=secret.key.octets,
        shared_keys=_keys_of_many(section, secrets),
        children=tuple(_child(child, part) for child, part in section.children.items()),
        retransmission=Retransmission(
            section.retransmit_timeout, section.retransmit_base, section.retransmit_tries, section.retransmit_jitter
        ),
        dpd_delay_s=section.dpd_delay,
        encap=section.encap,
        send_initial_contact=section.unique != "never",
        fragmentation=section.fragmentation,
        fragment_size=section.fragment_size or 0,
        invalid_selectors=section.invalid_selectors,
        window_size=section.window_size,
        lifetime=_ike_lifetime(section),
        reauth_s=section.reauth_time,
        local_auth=section.local.auth,
        remote_auth=section.remote.auth,
        childless=Childless(section.childless),
        ike_port=section.ike_port,
        nat_port=section.nat_port,
        remote_port=section.remote_port or 0,
        keep_alive_s=section.keep_alive,
        vips=tuple(ipaddress.ip_address(text) for text in section.vips),
        pools=tuple(section.pools),
        pools_required=section.pools_required,
    )


def _check_inner(where: str, section: ConnectionSection, faults: list[str]) -> None:
    """Transport mode has no inner addresses. RFC 7296 sections 1.1.2 and 2.19."""
    if not section.vips and not section.pools:
        return
    what = "vips asks for" if section.vips else "pools gives"
    faults += [
        f"{where}.children.{name}.mode: transport mode is between the outer addresses, "
        f"and {what} inner ones: write tunnel"
        for name, child in section.children.items()
        if child.mode == "transport"
    ]


def _check_traps(where: str, section: ConnectionSection, faults: list[str]) -> None:
    """What traffic is to begin is known before it comes: the peer, and the addresses on this side."""
    for name, child in section.children.items():
        if "trap" not in child.start_action:
            continue
        at = f"{where}.children.{name}.start_action"
        if not any(host != "%any" and "/" not in host for host in section.remote_addrs):
            faults.append(f"{at}: trap begins with a peer: name its address in remote_addrs")
        if section.vips and any(text.startswith("dynamic") for text in child.local_ts):
            faults.append(f"{at}: trap needs to know the address, which vips asks for: write local_ts, or start")


def build_pool(name: str, section: PoolSection, faults: list[str]) -> PoolConfig:
    """One pool; NBNS servers are of IPv4 only (RFC 7296 section 3.15.1)."""
    for position, text in enumerate(section.nbns):
        if ":" in text:
            faults.append(f"pools.{name}.nbns.{position}: {text!r} is not an IPv4 address")
    ranges = tuple(AddressRange.parse(text) for text in section.addrs)
    if section.netmask is not None and all(part.version == 6 for part in ranges):
        faults.append(f"pools.{name}.netmask: goes with IPv4 addresses only")
    return PoolConfig(
        name,
        ranges,
        dns=tuple(ipaddress.ip_address(text) for text in section.dns),
        nbns=tuple(ipaddress.IPv4Address(text) for text in section.nbns if ":" not in text),
        dhcp=tuple(ipaddress.ip_address(text) for text in section.dhcp),
        subnets=tuple(ipaddress.ip_network(text) for text in section.subnet),
        netmask=None if section.netmask is None else ipaddress.IPv4Address(section.netmask),
    )


def check_pools(host: HostSection, pools: Iterable[PoolConfig], faults: list[str]) -> None:
    """An address is in one pool only; a connection names pools that are there."""
    before: list[tuple[str, AddressRange]] = []
    for pool in pools:
        for position, part in enumerate(pool.ranges):
            where = f"pools.{pool.name}.addrs.{position}"
            faults += [
                f"{where}: {part} overlaps {there} ({other})" for there, other in before if part.overlaps(other)
            ]
            before.append((where, part))
    for name, connection in host.connections.items():
        for position, text in enumerate(connection.pools):
            if text not in host.pools:
                there = suggestion(text, host.pools) or f": add [pools.{text}] with addrs"
                faults.append(f"connections.{name}.pools.{position}: there is no pool {text!r}{there}")


def _check_times(where: str, section: ConnectionSection, faults: list[str]) -> None:
    """An SA ends after it is to be rekeyed, and is not rekeyed as soon as it is there. RFC 7296 section 2.8."""
    if section.rand_time is not None and 0 < section.rekey_time <= section.rand_time:
        faults.append(f"{where}.rand_time: must be less than rekey_time ({section.rekey_time:g} s)")
    if section.rand_time is not None and 0 < section.reauth_time <= section.rand_time:
        faults.append(f"{where}.rand_time: must be less than reauth_time ({section.reauth_time:g} s)")
    for name, child in section.children.items():
        if child.life_time is not None and child.rekey_time and child.life_time <= child.rekey_time:
            faults.append(
                f"{where}.children.{name}.life_time: must be more than rekey_time ({child.rekey_time:g} s)"
            )
        if child.rand_time is not None and 0 < child.rekey_time <= child.rand_time:
            faults.append(
                f"{where}.children.{name}.rand_time: must be less than rekey_time ({child.rekey_time:g} s)"
            )
        for unit in ("bytes", "packets"):
            rekey, life, rand = (getattr(child, f"{word}_{unit}") for word in ("rekey", "life", "rand"))
            if life and rekey and life <= rekey:
                faults.append(f"{where}.children.{name}.life_{unit}: must be more than rekey_{unit} ({rekey})")
            if rand is not None and 0 < rekey <= rand:
                faults.append(f"{where}.children.{name}.rand_{unit}: must be less than rekey_{unit} ({rekey})")


def _child(name: str, section: ChildSection) -> ChildConfig:
    return ChildConfig(
        name=name,
        mode=Mode(section.mode),
        local_ts=tuple(parse_selector(text) for text in section.local_ts),
        remote_ts=tuple(parse_selector(text) for text in section.remote_ts),
        esp_proposals=_numbered(parse_esp_proposal(text) for text in section.esp_proposals),
        start_action=section.start_action,
        replay_window=section.replay_window,
        lifetime=_child_lifetime(section),
        single_pair=section.single_pair,
        tfc_padding=section.tfc_padding,
        header=TunnelHeader(DfBit(section.df_bit), section.dscp),
        dummies=Dummies(section.dummy_interval, section.dummy_octets) if section.dummy_interval else NO_DUMMIES,
        octets=_volume(section.rekey_bytes, section.life_bytes, section.rand_bytes),
        packets=_volume(section.rekey_packets, section.life_packets, section.rand_packets),
        kernel=KernelOptions(
            section.if_id_in,
            section.if_id_out,
            HwOffload("crypto" if section.hw_offload == "yes" else section.hw_offload),
            section.sa_direction,
        ),
    )


def _ike_lifetime(section: ConnectionSection) -> Lifetime:
    """swanctl's defaults: a tenth of the longer time for `over_time`, and that for `rand_time`."""
    over_s = section.over_time
    if over_s is None:
        over_s = OVER_SHARE * max(section.rekey_time, section.reauth_time)
    return Lifetime(section.rekey_time, over_s, over_s if section.rand_time is None else section.rand_time)


def _child_lifetime(section: ChildSection) -> Lifetime:
    """swanctl's defaults: `life_time` is a tenth longer than `rekey_time`, `rand_time` what lies between the two."""
    over_s = (
        OVER_SHARE * section.rekey_time if section.life_time is None else section.life_time - section.rekey_time
    )
    return Lifetime(section.rekey_time, over_s, over_s if section.rand_time is None else section.rand_time)


def _volume(rekey: int, life: int | None, rand: int | None) -> Volume:
    """swanctl's defaults: `life_` is a tenth more than `rekey_`, `rand_` what lies between the two."""
    most = rekey + rekey // 10 if life is None else life
    return Volume(rekey, most, max(0, most - rekey) if rand is None else rand)


def _numbered(proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """Proposals count from 1 in the order of preference. RFC 7296 section 3.3.1."""
    return tuple(replace(proposal, number=number) for number, proposal in enumerate(proposals, 1))


def _secret_for(section: ConnectionSection, secrets: list[Secret]) -> Secret | None:
    """The secret that names most of the two identities, as strongSwan picks it; one without `id` serves anybody."""
    local, remote = own_identity(section.local.id), parse_peer(section.remote.id)

    def named(secret: Secret, wanted: PeerIdentity | None) -> int:
        if wanted is None:
            return 0
        if isinstance(wanted, Identity):
            return max((quality(one, wanted) for one in secret.key.identities if one is not None), default=0)
        return any(one is not None and may_be_one(wanted, one) for one in secret.key.identities)

    best: tuple[tuple[int, int], Secret] | None = None
    for secret in secrets:
        score = named(secret, remote), named(secret, local)
        anybody = not secret.key.identities or None in secret.key.identities
        if not anybody and not any(score):
            continue
        if not anybody and remote is not None and not score[0] and len(secret.key.identities) > 1:
            continue  # it names others, and this peer is not one of them
        if best is None or score > best[0]:
            best = (score, secret)
    return None if best is None else best[1]


def _keys_of_many(section: ConnectionSection, secrets: list[Secret]) -> tuple[SharedKey, ...]:
    """All secrets, where the peer may be one of many: which one it is, its identity says."""
    if isinstance(parse_peer(section.remote.id), Identity):
        return ()
    return tuple(secret.key for secret in secrets)
