"""The TOML configuration of a host, with swanctl's words, to what the core and the endpoint take.

`load` reads a file; every fault is reported, each on a line of its own with its full path
(`connections.lab.children.net.mode: ...`). Sections: `connections`, `secrets`, `endpoint` (ours: backend, sockets,
limits) and `measurement`, which belongs to another package and is passed on as it is.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ikev2.cli.groups import GroupSection, declare_groups
from ikev2.cli.secrets import read_secret
from ikev2.cli.selectors import parse_duration, parse_selector
from ikev2.core import cp
from ikev2.core.config import ChildConfig, Childless, ConnectionConfig, Lifetime, Limits, Retransmission, SharedKey
from ikev2.core.identity import Identity, PeerIdentity, may_be_one, parse_peer, quality
from ikev2.core.pools import AddressRange, PoolConfig
from ikev2.core.types import Mode
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.errors import ConfigurationError, IkeError
from ikev2.io.configuration import Configuration, EndpointConfig
from ikev2.io.control import default_path as default_control_socket
from ikev2.io.key_agent import default_path as default_key_agent_socket
from ikev2.wire.payloads import Proposal

DEFAULT_IKE_PROPOSALS = (
    "aes256gcm16-prfsha384-curve25519-ecp384",
    "aes128gcm16-prfsha256-curve25519-ecp256",
    "aes256-sha256-curve25519-ecp256-modp2048",
)
DEFAULT_ESP_PROPOSALS = ("aes256gcm16", "aes128gcm16", "aes256-sha256")
MAX_LABEL_OCTETS = 16
OVER_SHARE = 0.1
SMALLEST_FRAGMENT_SIZE = 200
"""Octets of an IP datagram that leave room for IPv6, UDP, SKF and some content with every algorithm."""

_SECRET_WORDS = frozenset(("secret", "psk", "password", "passphrase", "key", "shared_secret"))


class ConfigurationFaults(ConfigurationError):
    """All that is wrong with a configuration: one line each, with its full path."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(_printable(fault) for fault in faults)
        super().__init__("\n".join(self.faults))


def _printable(text: str) -> str:
    """One line that cannot steer a terminal, whatever a key or a value of the file holds."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    """A pydantic validator of one of our parsers, which keeps the text."""

    def check(text: str) -> str:
        try:
            parse(text)
        except IkeError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(check)


def _strings(value: object) -> object:
    """swanctl's lists are texts with commas; TOML's own are welcome, too."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _duration(value: object) -> float:
    try:
        return parse_duration(value)  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _local_address(text: str) -> None:
    if text != "%any" and not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an IP address of this host or %any")


def _remote_address(text: str) -> None:
    if text == "%any" or _parses(ipaddress.ip_network, text):
        return
    if not text or "/" in text or not text.isprintable() or any(character.isspace() for character in text):
        raise ConfigurationError(f"{text!r} is not an address, a network, a host's name or %any")


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _virtual_address(text: str) -> None:
    if not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an address to ask for: 0.0.0.0 and :: stand for any")
    if not cp.is_usable(ipaddress.ip_address(text)) and not ipaddress.ip_address(text).is_unspecified:
        raise ConfigurationError(f"{text!r} is an address that no host can have")


def _address(text: str) -> None:
    if not _parses(ipaddress.ip_address, text):
        raise ConfigurationError(f"{text!r} is not an IP address")


def _network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        hint = ""
        if "host bits" in str(error):
            hint = f"; the network is {ipaddress.ip_network(text, strict=False)}"
        raise ConfigurationError(f"{text!r} is not a network such as 10.2.0.0/24{hint}") from None


def _netmask(text: str) -> None:
    if not _parses(lambda mask: ipaddress.IPv4Network(f"0.0.0.0/{mask}"), text) or "." not in text:
        raise ConfigurationError(f"{text!r} is not an IPv4 netmask such as 255.255.255.0")


def _socket_path(text: str) -> None:
    if not text or "\0" in text:
        raise ConfigurationError(f"{text!r} is not the name of a socket")


def _own_identity(text: str) -> Identity | None:
    """Our identity; None, for %any, is our address."""
    return None if text == "%any" else Identity.parse(text)


Seconds = Annotated[float, BeforeValidator(_duration)]
Port = Annotated[int, Field(ge=1, le=65535)]
_Text = Annotated[str, Field(strict=True)]
LocalAddresses = Annotated[
    list[Annotated[_Text, _checked(_local_address)]], BeforeValidator(_strings), Field(min_length=1)
]
RemoteAddresses = Annotated[
    list[Annotated[_Text, _checked(_remote_address)]], BeforeValidator(_strings), Field(min_length=1)
]
IkeProposals = Annotated[
    list[Annotated[_Text, _checked(parse_ike_proposal)]], BeforeValidator(_strings), Field(min_length=1)
]
EspProposals = Annotated[
    list[Annotated[_Text, _checked(parse_esp_proposal)]], BeforeValidator(_strings), Field(min_length=1)
]
Selectors = Annotated[
    list[Annotated[_Text, _checked(parse_selector)]], BeforeValidator(_strings), Field(min_length=1)
]
OwnIdentityText = Annotated[_Text, _checked(_own_identity)]
IdentityText = Annotated[_Text, _checked(parse_peer)]
VirtualAddresses = Annotated[
    list[Annotated[_Text, _checked(_virtual_address)]],
    BeforeValidator(_strings),
    Field(max_length=Limits().internal_addresses),
]
PoolRanges = Annotated[
    list[Annotated[_Text, _checked(AddressRange.parse)]], BeforeValidator(_strings), Field(min_length=1)
]
AddressTexts = Annotated[list[Annotated[_Text, _checked(_address)]], BeforeValidator(_strings)]
NetworkTexts = Annotated[list[Annotated[_Text, _checked(_network)]], BeforeValidator(_strings)]
SocketPath = Annotated[_Text, _checked(_socket_path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LocalSection(_Section):
    """`local` of a connection."""

    auth: Literal["psk"] = "psk"
    id: OwnIdentityText = "%any"


class RemoteSection(_Section):
    """`remote` of a connection; its `id` may stand for many."""

    auth: Literal["psk"] = "psk"
    id: IdentityText = "%any"


class ChildSection(_Section):
    """One Child SA of a connection."""

    mode: Literal["tunnel", "transport"] = "tunnel"
    local_ts: Selectors = ["dynamic"]
    remote_ts: Selectors = ["dynamic"]
    esp_proposals: EspProposals = list(DEFAULT_ESP_PROPOSALS)
    start_action: Literal["none", "start"] = "none"
    replay_window: Annotated[int, Field(ge=0, le=4096)] = 64
    rekey_time: Seconds = 3600.0
    life_time: Seconds | None = None
    rand_time: Seconds | None = None
    single_pair: bool = False


class ConnectionSection(_Section):
    """One connection: swanctl's words, charon's for retransmission and keepalives, ours for our own ports."""

    version: Literal[2] = 2
    local_addrs: LocalAddresses = ["%any"]
    remote_addrs: RemoteAddresses = ["%any"]
    proposals: IkeProposals = list(DEFAULT_IKE_PROPOSALS)
    local: LocalSection = LocalSection()
    remote: RemoteSection = RemoteSection()
    children: dict[str, ChildSection] = {}
    dpd_delay: Seconds = 0.0
    rekey_time: Seconds = 4 * 3600.0
    reauth_time: Seconds = 0.0
    over_time: Seconds | None = None
    rand_time: Seconds | None = None
    childless: Literal["allow", "force", "never"] = "allow"
    encap: bool = False
    unique: Literal["no", "never"] = "no"
    fragmentation: Literal["yes", "no", "force"] = "yes"
    fragment_size: Annotated[int, Field(ge=SMALLEST_FRAGMENT_SIZE, le=65535)] | None = None
    window_size: Annotated[int, Field(ge=1, le=256)] = 1
    retransmit_timeout: Annotated[Seconds, Field(gt=0)] = 2.0
    retransmit_base: Annotated[float, Field(ge=1, le=10, strict=False)] = 1.8
    retransmit_tries: Annotated[int, Field(ge=1, le=30)] = 5
    retransmit_jitter: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.0
    ike_port: Port = 500
    nat_port: Port = 4500
    remote_port: Port | None = None
    keep_alive: Seconds = 20.0
    vips: VirtualAddresses = []
    pools: Annotated[list[_Text], BeforeValidator(_strings)] = []
    pools_required: bool = True


class SecretSection(_Section):
    """Which file holds the secret of which identities; no `id` means any."""

    id: Annotated[list[IdentityText], BeforeValidator(_strings)] = []
    file: _Text


class PoolSection(_Section):
    """Internal addresses for peers, and what they are told beside them."""

    addrs: PoolRanges
    dns: AddressTexts = []
    nbns: AddressTexts = []
    dhcp: AddressTexts = []
    subnet: NetworkTexts = []
    netmask: Annotated[_Text, _checked(_netmask)] | None = None


class EndpointSection(_Section):
    """The process itself."""

    backend: Literal["auto", "xfrm", "userspace", "memory", "dry-run"] = "auto"
    control_socket: SocketPath | None = None
    key_agent_socket: SocketPath | None = None
    cookie_threshold: Annotated[int, Field(ge=0)] = Limits().cookie_threshold
    half_open_limit: Annotated[int, Field(ge=1)] = Limits().half_open_limit
    half_open_timeout: Annotated[Seconds, Field(gt=0)] = Limits().half_open_timeout_s
    half_open_per_address: Annotated[int, Field(ge=1)] = Limits().half_open_per_address


class HostSection(_Section):
    """The whole file."""

    dh_groups: dict[str, GroupSection] = {}
    connections: dict[str, ConnectionSection] = {}
    secrets: dict[str, SecretSection] = {}
    pools: dict[str, PoolSection] = {}
    endpoint: EndpointSection = EndpointSection()
    measurement: dict[str, Any] = {}


def load(path: Path) -> Configuration:
    """Read and check a configuration file.

    Raises ConfigurationFaults with every fault that was found. Relative file names in it are relative to it.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationFaults([f"{path}: {error.strerror}"]) from None
    except ValueError as error:  # TOMLDecodeError, not UTF-8, a number of thousands of digits
        raise ConfigurationFaults([f"{path}: not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigurationFaults([f"{path}: not TOML that anybody means: its brackets are too deep"]) from None
    return parse(document, path)


def parse(document: Mapping[str, Any], path: Path) -> Configuration:
    """Check a configuration that is read already; `path` is where it came from."""
    faults = declare_groups(document)
    try:
        host = HostSection.model_validate(document)
    except ValidationError as error:
        faults += (_fault(item, document) for item in error.errors(include_url=False))
        faults += _faults_beside(document, {tuple(item["loc"][:2]) for item in error.errors()}, path)
        raise ConfigurationFaults(faults) from None
    secrets = _read_secrets(host, path.parent, faults)
    connections = [_connection(name, section, secrets, faults) for name, section in host.connections.items()]
    pools = tuple(_pool(name, section, faults) for name, section in host.pools.items())
    _check_pools(host, pools, faults)
    endpoint = host.endpoint
    configuration = Configuration(
        path,
        EndpointConfig(
            tuple(connection for connection in connections if connection is not None),
            Limits(
                cookie_threshold=endpoint.cookie_threshold,
                half_open_limit=endpoint.half_open_limit,
                half_open_timeout_s=endpoint.half_open_timeout,
                half_open_per_address=endpoint.half_open_per_address,
            ),
            _label(host.measurement, faults),
            _sa_grace(host.measurement, faults),
            pools,
        ),
        endpoint.backend,
        path.parent / endpoint.control_socket if endpoint.control_socket else default_control_socket(),
        path.parent / endpoint.key_agent_socket if endpoint.key_agent_socket else default_key_agent_socket(),
        host.measurement,
    )
    if faults:
        raise ConfigurationFaults(faults)
    return configuration


def _faults_beside(document: Mapping[str, Any], faulty: set[tuple[Any, ...]], path: Path) -> list[str]:
    """What is wrong in the sections that the models accept, when they do not accept the `faulty` ones."""
    rest = {
        top: {name: part for name, part in section.items() if (top, name) not in faulty}
        for top, section in document.items()
        if (top,) not in faulty and isinstance(section, Mapping)
    }
    try:
        host = HostSection.model_validate(rest)
    except ValidationError:
        return []
    faults: list[str] = []
    secrets = _read_secrets(host, path.parent, faults)
    # A secret with a fault may be the one that a connection needs: it serves everybody here.
    secrets += [_Secret("", SharedKey((), SecretOctets("", b""))) for top, *_ in faulty if top == "secrets"]
    for name, section in host.connections.items():
        _connection(name, section, secrets, faults)
    pools = tuple(_pool(name, section, faults) for name, section in host.pools.items())
    if not any(top == "pools" for top, *_ in faulty):
        _check_pools(host, pools, faults)
    _label(host.measurement, faults)
    _sa_grace(host.measurement, faults)
    return faults


def connection(
    name: str = "test",
    *,
    psk: bytes | str,
    local_id: str = "%any",
    remote_id: str = "%any",
    **words: Any,
) -> ConnectionConfig:
    """A connection in the words of the configuration file: `connection(local_addrs="192.0.2.1", psk="...", ...)`.

    `psk` is the secret itself, which a file never has; the identities are the addresses (ours) and anybody's (the
    peer's) when they are not given. Without `children` there is one, `net`, with the defaults. Raises
    ConfigurationFaults with the path of each fault.
    """
    secret = psk.encode() if isinstance(psk, str) else psk
    if not secret:
        raise ConfigurationFaults(["psk: is empty"])
    section = {
        "children": {"net": {}},
        **words,
        "local": {"auth": "psk", "id": local_id},
        "remote": {"auth": "psk", "id": remote_id},
    }
    document = {"connections": {name: section}}
    try:
        checked = HostSection.model_validate(document).connections[name]
    except ValidationError as error:
        raise ConfigurationFaults(_fault(item, document) for item in error.errors(include_url=False)) from None
    faults: list[str] = []
    key = SharedKey((), SecretOctets(f"PSK of {name}", secret))
    found = _connection(name, checked, [_Secret(name, key)], faults)
    if faults or found is None:
        raise ConfigurationFaults(faults)
    return found


def pool(name: str, addrs: str | list[str], **words: Any) -> PoolConfig:
    """A pool in the words of the configuration file: `pool("road", "10.9.0.0/24", dns=["10.2.0.53"])`.

    Raises ConfigurationFaults with the path of each fault.
    """
    document = {"pools": {name: {"addrs": addrs, **words}}}
    try:
        section = HostSection.model_validate(document).pools[name]
    except ValidationError as error:
        raise ConfigurationFaults(_fault(item, document) for item in error.errors(include_url=False)) from None
    faults: list[str] = []
    found = _pool(name, section, faults)
    if faults:
        raise ConfigurationFaults(faults)
    return found


def _label(measurement: Mapping[str, Any], faults: list[str]) -> bytes:
    """RFC 7717's "IPPM", or what experiments put there: the side that holds SK_d fixes it, never who asks for a key."""
    label = measurement.get("label", "IPPM")
    if not isinstance(label, str) or not label.isascii() or not 1 <= len(label) <= MAX_LABEL_OCTETS:
        faults.append(f"measurement.label: must be 1 to {MAX_LABEL_OCTETS} ASCII characters")
        return b"IPPM"
    return label.encode()


def _sa_grace(measurement: Mapping[str, Any], faults: list[str]) -> float:
    try:
        return parse_duration(measurement.get("sa_grace", 60.0))
    except ConfigurationError as error:
        faults.append(f"measurement.sa_grace: {error}")
        return 60.0


@dataclass(frozen=True, slots=True)
class _Secret:
    name: str
    key: SharedKey


def _read_secrets(host: HostSection, directory: Path, faults: list[str]) -> list[_Secret]:
    secrets = []
    for name, section in host.secrets.items():
        try:
            octets = read_secret(directory / section.file, f"PSK of {name}")
        except ConfigurationError as error:
            faults.append(f"secrets.{name}.file: {error}")
            octets = SecretOctets(f"PSK of {name}", b"")
        secrets.append(_Secret(name, SharedKey(tuple(parse_peer(text) for text in section.id), octets)))
    return secrets


def _connection(
    name: str, section: ConnectionSection, secrets: list[_Secret], faults: list[str]
) -> ConnectionConfig | None:
    where = f"connections.{name}"
    if section.ike_port == section.nat_port:
        faults.append(f"{where}.nat_port: is the same as ike_port: IKE and ESP in UDP need a port each")
    _check_times(where, section, faults)
    _check_inner(where, section, faults)
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
        local_id=_own_identity(section.local.id),
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


def _pool(name: str, section: PoolSection, faults: list[str]) -> PoolConfig:
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


def _check_pools(host: HostSection, pools: Iterable[PoolConfig], faults: list[str]) -> None:
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
                there = _suggestion(text, host.pools) or f": add [pools.{text}] with addrs"
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


def _numbered(proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """Proposals count from 1 in the order of preference. RFC 7296 section 3.3.1."""
    return tuple(replace(proposal, number=number) for number, proposal in enumerate(proposals, 1))


def _secret_for(section: ConnectionSection, secrets: list[_Secret]) -> _Secret | None:
    """The secret that names most of the two identities, as strongSwan picks it; one without `id` serves anybody."""
    local, remote = _own_identity(section.local.id), parse_peer(section.remote.id)

    def named(secret: _Secret, wanted: PeerIdentity | None) -> int:
        if wanted is None:
            return 0
        if isinstance(wanted, Identity):
            return max((quality(one, wanted) for one in secret.key.identities if one is not None), default=0)
        return any(one is not None and may_be_one(wanted, one) for one in secret.key.identities)

    best: tuple[tuple[int, int], _Secret] | None = None
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


def _keys_of_many(section: ConnectionSection, secrets: list[_Secret]) -> tuple[SharedKey, ...]:
    """All secrets, where the peer may be one of many: which one it is, its identity says."""
    if isinstance(parse_peer(section.remote.id), Identity):
        return ()
    return tuple(secret.key for secret in secrets)


def _fault(error: Any, document: Mapping[str, Any]) -> str:
    """One fault as a line: its path, what is wrong, what would be right. Never the value of a secret."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown_key(location)}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    if location[0] == "secrets" and location[-1] != "id":
        return f"{where}: must be the name of a file"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    if error["type"] == "literal_error":
        given = error["input"]
        words = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"{where}: {given!r} is not one of {', '.join(words)}{_suggestion(str(given), words)}"
    message = error["msg"]
    plain = _PLAIN.get(error["type"])
    return f"{where}: {plain or message.replace('Input should be', 'must be')}"


_PLAIN = {
    "string_type": "must be a text in quotes",
    "list_type": "must be a list of texts",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "dict_type": "must be a section",
    "model_type": "must be a section",
    "too_short": "must not be empty",
}


def _unknown_key(location: list[str]) -> str:
    if location[0] == "secrets" and location[-1] in _SECRET_WORDS:
        return "a secret does not belong into this file: write it to a file of mode 0600 and name that with file = "
    return "unknown key" + _suggestion(location[-1], _keys_at(location[:-1]))


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _keys_at(location: list[str]) -> list[str]:
    """The keys that a section knows, found by walking the models along the path."""
    kind: Any = HostSection
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = None if field is None else field.annotation
        else:
            kind = next((one for one in reversed(get_args(kind)) if isinstance(one, type)), None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
