"""What the core is told: connections, their Child SAs, limits. Plain values, checked by whoever read them.

The words are swanctl's. RFC 7296 sections 2.4, 2.6, 2.9 and 3.5.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum

from ikev2.core.types import Mode
from ikev2.crypto.keywords import without_ke
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import ConfigurationError
from ikev2.iana import IdType
from ikev2.wire.payloads import IdI, Proposal, TrafficSelector

_TEXT_TYPES = (IdType.ID_FQDN, IdType.ID_RFC822_ADDR)


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity as the ID payloads carry it. RFC 7296 section 3.5."""

    id_type: IdType
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read an identity as strongSwan does; ConfigurationError when no ID payload may hold it, or its hex is bad.

        An IP address, `@name` (FQDN), `user@name` (mail address), `keyid:HEX` (opaque octets), else an FQDN.
        """
        if not text:
            raise ConfigurationError("an identity is empty: write an address, a name, user@name or keyid:HEX")
        if text.startswith("keyid:"):
            try:
                octets = bytes.fromhex(text[6:])
            except ValueError:
                octets = b""
            if not octets:
                raise ConfigurationError(f"identity {text!r}: what follows keyid: must be hex octets")
            return cls(IdType.ID_KEY_ID, octets)
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            pass
        else:
            kind = IdType.ID_IPV4_ADDR if address.version == 4 else IdType.ID_IPV6_ADDR
            return cls(kind, address.packed)
        name = text.removeprefix("@")
        id_type = IdType.ID_RFC822_ADDR if "@" in text and name == text else IdType.ID_FQDN
        return cls._of_name(id_type, name)

    @classmethod
    def _of_name(cls, id_type: IdType, name: str) -> Identity:
        data = name.encode("utf-8", "surrogatepass")
        # rfc7296-s3.5-03, rfc7296-s3.5-04
        complaint = IdI(id_type, data).problem(sending=True) if name else "the name is empty"
        if complaint is not None:
            raise ConfigurationError(f"identity {name!r}: {complaint}; octets of any kind are keyid:HEX")
        return cls(id_type, data)

    @classmethod
    def of_address(cls, host: str) -> Identity:
        """The identity that an IP address is."""
        return cls.parse(host)

    def matches(self, other: Identity) -> bool:
        """True when `other` is this identity; names and mail addresses compare without case."""
        if self.id_type != other.id_type:
            return False
        if self.id_type in _TEXT_TYPES:
            return self.data.lower() == other.data.lower()
        return self.data == other.data

    def __str__(self) -> str:
        if self.id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR) and len(self.data) in (4, 16):
            return str(ipaddress.ip_address(self.data))
        if self.id_type in _TEXT_TYPES:
            return _printable(self.data.decode("utf-8", "backslashreplace"))
        if self.id_type == IdType.ID_KEY_ID:
            return f"keyid:{self.data.hex()}"
        return f"{self.id_type}:{self.data.hex()}"


def _printable(text: str) -> str:
    """The text with what could steer a terminal escaped: a peer chose it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


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
class ChildConfig:
    """One Child SA of a connection; `single_pair`: one for each pair of addresses.

    `auth_proposals` are the `esp_proposals` as IKE_AUTH carries them: without groups.
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
    auth_proposals: tuple[Proposal, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "auth_proposals", tuple(without_ke(proposal) for proposal in self.esp_proposals))


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One peer, or one group of peers, that we may have an IKE SA with.

    `remote_addrs` may hold "%any" (and `local_addrs` too); `local_id` None is our address; `remote_id` None is
    any identity that has the PSK. `encap` makes us claim to be behind a NAT, so that ESP travels in UDP.
    `keep_alive_s`: after so much silence of ours a NAT before us is reminded (RFC 3948 section 4); 0 is never.
    `remote_port`: where the peer's IKE is called, 0 for `ike_port`; any other port is taken for one that it shares
    with ESP, so that we begin on `nat_port` (RFC 7296 section 2.23).
    `dpd_delay_s` 0 is no liveness check. `send_initial_contact`: say INITIAL_CONTACT when it is true,
    and heed it: False for an identity that several hosts share (rfc7296-s2.4-01).
    `reauth_s` (0: never): after that time who began the IKE SA authenticates anew; the other end says so in
    AUTH_LIFETIME and closes the SA after `reauth_s` and the `over_s` of `lifetime` (RFC 4478).
    `fragmentation`: "yes" for messages whose IP datagram would exceed `fragment_size` octets, "force" for every
    protected message, whatever its length, "no" for none; never without the peer's consent (RFC 7383).
    """

    name: str
    local_addrs: tuple[str, ...]
    remote_addrs: tuple[str, ...]
    proposals: tuple[Proposal, ...]
    local_id: Identity | None
    remote_id: Identity | None
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
    fragment_size: int = 1280

    @property
    def first_ports(self) -> tuple[int, int]:
        """Our port and the peer's when we begin: both of IKE alone, or both of IKE and ESP. RFC 7296 section 2.23."""
        remote_port = self.remote_port or self.ike_port
        return (self.ike_port if remote_port == self.ike_port else self.nat_port), remote_port

    def serves(self, local: str, remote: str) -> bool:
        """True when an IKE SA between these two addresses may belong to this connection."""
        return _holds(self.local_addrs, local) and _holds(self.remote_addrs, remote)


def _holds(addresses: tuple[str, ...], host: str) -> bool:
    if not addresses or "%any" in addresses or host in addresses:
        return True
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return False
    for text in addresses:
        try:
            if wanted in ipaddress.ip_network(text, strict=False):
                return True
        except ValueError:
            continue
    return False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a peer that has proved nothing may cost us. RFC 7296 sections 2.4, 2.6 and 2.21.4.

    `cookie_threshold`: half-open SAs from which on a cookie is asked for; `half_open_limit`: from which on new
    ones are ignored; `unprotected_replies_per_s`: answers to messages outside an IKE SA; `linger_s`: how long
    an SA that is gone still answers retransmissions of its last request; `child_sas`: of one IKE SA, from which on
    new ones are refused; `busy_retry_s`: how long to wait at least after a TEMPORARY_FAILURE, `busy_limit_s`: how
    long a peer may go on with it until its IKE SA is closed (section 2.25); `reassembly_octets` and
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
    reassembly_octets: int = 65536
    reassembly_fragments: int = 512
