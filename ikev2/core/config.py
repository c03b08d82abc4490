"""What the core is told: connections, their Child SAs, limits. Plain values, checked by whoever read them.

The words are swanctl's. RFC 7296 sections 2.4, 2.6, 2.9 and 3.5.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from ikev2.core.child_sa import (
    COPIED_HEADER,
    NO_DUMMIES,
    NO_KERNEL_OPTIONS,
    Dummies,
    KernelOptions,
    TunnelHeader,
)
from ikev2.core.identity import Identity as Identity
from ikev2.core.identity import PeerIdentity, quality
from ikev2.core.types import Mode
from ikev2.crypto.keywords import without_ke
from ikev2.crypto.secret import SecretOctets
from ikev2.wire.payloads import Proposal, TrafficSelector


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A traffic selector whose address is that of the IKE SA: `dynamic`, `dynamic[udp/862]`."""

    ip_protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    def __str__(self) -> str:
        return "dynamic" if not self.ip_protocol else f"dynamic[{self.ip_protocol}/{self.start_port}]"


DYNAMIC = Dynamic()

TsSpec = TrafficSelector | Dynamic
"""What a configuration names as traffic: a range of addresses, or the address of the IKE SA."""


@dataclass(frozen=True, slots=True)
class Retransmission:
    """When a request is sent again: after timeout_s * base**n for n = 0 .. tries, then the SA has failed.

    `jitter` takes up to that share off each delay. `error_tries`: how many more times an IKE_SA_INIT request
    is sent after an error notify, which anybody could have forged. RFC 7296 sections 2.1, 2.4 and 2.21.1.
    """

    timeout_s: float = 2.0
    base: float = 1.8
    tries: int = 5
    jitter: float = 0.0
    error_tries: int = 2

    def delay_s(self, sent: int) -> float:
        """How long to wait after the request went out for the `sent`-th time (1 = the original)."""
        return float(self.timeout_s * self.base ** (sent - 1))  # rfc7296-s2.4-06

    @property
    def total_s(self) -> float:
        """From the first transmission to giving up."""
        return sum(self.delay_s(sent) for sent in range(1, self.tries + 2))


class Childless(StrEnum):
    """IKE SAs without a Child SA made in IKE_AUTH: taken, wanted, or refused. RFC 6023 section 3."""

    ALLOW = "allow"
    FORCE = "force"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long an SA lasts: it is rekeyed after `rekey_s` less a random part of `rand_s`, gone `over_s` after that.

    `rekey_s` 0: it lasts for ever. RFC 7296 sections 2.8 and 2.8.1.
    """

    rekey_s: float = 0.0
    over_s: float = 0.0
    rand_s: float = 0.0


ENDLESS = Lifetime()


@dataclass(frozen=True, slots=True)
class Volume:
    """How much a Child SA carries in either direction: it is rekeyed after `rekey` less a random part of `rand`, and
    gone after `life`; 0 is without a limit. RFC 4301 section 4.4.2.1.
    """

    rekey: int = 0
    life: int = 0
    rand: int = 0


UNLIMITED = Volume()


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """One Child SA of a connection; `single_pair`: one for each pair of addresses.

    `auth_proposals` are the `esp_proposals` as IKE_AUTH carries them: without groups. `tfc_padding`: the length, in
    octets, to which packets in a tunnel are padded unless the peer does not take that (RFC 4303 section 2.7).
    `octets` and `packets`: how much it carries until it is replaced.
    `start_action`: "none", "start" (by itself), "trap" (when there is traffic for it) or "trap|start".
    RFC 7296 sections 1.2, 1.3.1 and 2.9.
    """

    name: str
    mode: Mode = Mode.TUNNEL
    local_ts: tuple[TsSpec, ...] = (DYNAMIC,)
    remote_ts: tuple[TsSpec, ...] = (DYNAMIC,)
    esp_proposals: tuple[Proposal, ...] = ()
    start_action: str = "none"
    replay_window: int = 64
    lifetime: Lifetime = ENDLESS
    single_pair: bool = False
    tfc_padding: int = 0
    kernel: KernelOptions = NO_KERNEL_OPTIONS
    octets: Volume = UNLIMITED
    packets: Volume = UNLIMITED
    header: TunnelHeader = COPIED_HEADER
    dummies: Dummies = NO_DUMMIES
    auth_proposals: tuple[Proposal, ...] = field(init=False, repr=False, compare=False)

    @property
    def starts(self) -> bool:
        """Whether it is begun by itself."""
        return "start" in self.start_action

    @property
    def traps(self) -> bool:
        """Whether traffic begins it."""
        return "trap" in self.start_action

    def __post_init__(self) -> None:
        object.__setattr__(self, "auth_proposals", tuple(without_ke(proposal) for proposal in self.esp_proposals))


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A secret and the identities, of either end, that it is for; none: anybody's. RFC 7296 section 2.15."""

    identities: tuple[PeerIdentity | None, ...]
    octets: SecretOctets

    def quality(self, local: Identity, peer: Identity) -> tuple[int, int]:
        """How well it is for this pair: the peer counts first; (0, 0) for not at all.

        One that names several others, and not this peer, is theirs.
        """
        if not self.identities:
            return 1, 1
        best = [max(quality(accepted, end) for accepted in self.identities) for end in (peer, local)]
        if not best[0] and len(self.identities) > 1:
            return 0, 0
        return best[0], best[1]


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One peer, or one group of peers, that we may have an IKE SA with.

    `remote_addrs` may hold "%any" (and `local_addrs` too); `local_id` None is our address; `remote_id` None is
    any identity that has the PSK. Where the peer may be one of many, `shared_keys` are asked for the secret of its
    identity; without any it is `psk`. `encap` makes us claim to be behind a NAT, so that ESP travels in UDP.
    `keep_alive_s`: after so much silence of ours a NAT before us is reminded (RFC 3948 section 4); 0 is never.
    `remote_port`: where the peer's IKE is called, 0 for `ike_port`; any other port is taken for one that it shares
    with ESP, so that we begin on `nat_port` (RFC 7296 section 2.23).
    `dpd_delay_s` 0 is no liveness check. `send_initial_contact`: say INITIAL_CONTACT when it is true,
    and heed it: False for an identity that several hosts share (rfc7296-s2.4-01).
    `reauth_s` (0: never): after that time who began the IKE SA authenticates anew; the other end says so in
    AUTH_LIFETIME and closes the SA after `reauth_s` and the `over_s` of `lifetime` (RFC 4478).
    `fragmentation`: "yes" for messages whose IP datagram would exceed `fragment_size` octets (0: what is known of
    the path, or what RFC 7383 recommends), "force" for every protected message, whatever its length, "no" for none;
    never without the peer's consent (RFC 7383).
    `invalid_selectors`: tell the peer of packets against the selectors of their Child SA (RFC 4301 section 5.2).
    `window_size`: how many requests the peer may send before it has our responses (RFC 7296 section 2.3).
    `vips`: the addresses to ask the peer for when we begin the IKE SA, unspecified ones for any; `pools`: where the
    peer's come from when it begins, which it has to ask for with `pools_required` (section 2.19).
    `local_auth`, `remote_auth`: how we, and how the peer has to, prove who it is: a method of core/auth.py.
    """

    name: str
    local_addrs: tuple[str, ...]
    remote_addrs: tuple[str, ...]
    proposals: tuple[Proposal, ...]
    local_id: Identity | None
    remote_id: PeerIdentity | None
    psk: SecretOctets
    children: tuple[ChildConfig, ...] = ()
    retransmission: Retransmission = field(default_factory=Retransmission)
    dpd_delay_s: float = 0.0
    encap: bool = False
    ike_port: int = 500
    nat_port: int = 4500
    remote_port: int = 0
    keep_alive_s: float = 20.0
    send_initial_contact: bool = True
    lifetime: Lifetime = ENDLESS
    reauth_s: float = 0.0
    childless: Childless = Childless.ALLOW
    fragmentation: str = "yes"
    fragment_size: int = 0
    invalid_selectors: bool = False
    shared_keys: tuple[SharedKey, ...] = ()
    window_size: int = 1
    vips: tuple[IPv4Address | IPv6Address, ...] = ()
    pools: tuple[str, ...] = ()
    pools_required: bool = True
    local_auth: str = "psk"
    remote_auth: str = "psk"

    @property
    def auth(self) -> str:
        """How both prove who they are, in a word, or two (ours first) when they do it differently."""
        same = self.local_auth == self.remote_auth
        return self.local_auth if same else f"{self.local_auth}/{self.remote_auth}"

    @property
    def first_ports(self) -> tuple[int, int]:
        """Our port and the peer's when we begin: both of IKE alone, or both of IKE and ESP. RFC 7296 section 2.23."""
        remote_port = self.remote_port or self.ike_port
        return (self.ike_port if remote_port == self.ike_port else self.nat_port), remote_port

    def serves(self, local: str, remote: str) -> bool:
        """True when an IKE SA between these two addresses may belong to this connection."""
        return self.address_quality(local, remote) > 0

    def address_quality(self, local: str, remote: str) -> int:
        """How well the addresses of this connection name these two: 0 not at all, the peer's counts twice.

        A host is more than a network, that is more the longer its prefix is, and least is "%any".
        """
        ours, theirs = _address_quality(self.local_addrs, local), _address_quality(self.remote_addrs, remote)
        return 2 * theirs + ours if ours and theirs else 0

    def psk_for(self, local: Identity, peer: Identity) -> SecretOctets | None:
        """The secret that is the most specific one for these two identities, None when there is none."""
        if not self.shared_keys:
            return self.psk
        best = max(self.shared_keys, key=lambda key: key.quality(local, peer))
        return best.octets if any(best.quality(local, peer)) else None


_HOST_QUALITY = 130


@lru_cache(1024)
def _address_quality(addresses: tuple[str, ...], host: str) -> int:
    if host in addresses:
        return _HOST_QUALITY
    best = 1 if not addresses or "%any" in addresses else 0
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return best
    for text in addresses:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        if wanted in network:
            best = max(best, _HOST_QUALITY if network.num_addresses == 1 else 1 + network.prefixlen)
    return best


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a peer that has proved nothing may cost us. RFC 7296 sections 2.4, 2.6 and 2.21.4.

    `cookie_threshold`: half-open SAs from which on a cookie is asked for; `half_open_limit`: from which on new
    ones are ignored; `unprotected_replies_per_s`: answers to messages outside an IKE SA; `linger_s`: how long
    an SA that is gone still answers retransmissions of its last request; `child_sas`: of one IKE SA, from which on
    new ones are refused; `busy_retry_s`: how long to wait at least after a TEMPORARY_FAILURE, `busy_limit_s`: how
    long a peer may go on with it until its IKE SA is closed (section 2.25); `internal_addresses`: how many an IKE SA
    may get, `address_retry_s`: how long to wait before asking again (section 3.15.4); `reassembly_octets` and
    `reassembly_fragments`: the most that is kept of an incomplete message (RFC 7383 section 5).
    """

    cookie_threshold: int = 10
    half_open_limit: int = 1000
    half_open_timeout_s: float = 30.0
    half_open_per_address: int = 20
    ike_sa_limit: int = 100_000
    unprotected_replies_per_s: float = 10.0
    cookie_secret_s: float = 60.0
    linger_s: float = 60.0
    child_sas: int = 100
    busy_retry_s: float = 5.0
    busy_limit_s: float = 180.0
    internal_addresses: int = 8
    address_retry_s: float = 300.0
    reassembly_octets: int = 65536  # rfc7383-s5-03
    reassembly_fragments: int = 512
