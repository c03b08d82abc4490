"""The sections of the configuration file, in swanctl's words: their keys, of which kind, and the defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ikev2.cli.groups import GroupSection
from ikev2.cli.words import (
    AddressTexts,
    Dscp,
    EspProposals,
    IdentityText,
    IkeProposals,
    Lengths,
    LocalAddresses,
    Netmask,
    NetworkTexts,
    OwnIdentityText,
    PoolRanges,
    Port,
    RemoteAddresses,
    ReplayWindow,
    Seconds,
    Selectors,
    SocketPath,
    Text,
    TfcPadding,
    VirtualAddresses,
    strings,
)
from ikev2.core.config import Limits
from ikev2.io.log import DEFAULT_LINES

DEFAULT_IKE_PROPOSALS = (
    "aes256gcm16-prfsha384-curve25519-ecp384",
    "aes128gcm16-prfsha256-curve25519-ecp256",
    "aes256-sha256-curve25519-ecp256-modp2048",
)
DEFAULT_ESP_PROPOSALS = ("aes256gcm16", "aes128gcm16", "aes256-sha256")
SMALLEST_FRAGMENT_SIZE = 200
"""Octets of an IP datagram that leave room for IPv6, UDP, SKF and some content with every algorithm."""


Amount = Annotated[int, Field(ge=0, lt=1 << 63)]
InterfaceId = Annotated[int, Field(ge=0, le=0xFFFFFFFF)]


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
    start_action: Literal["none", "start", "trap", "trap|start"] = "none"
    replay_window: ReplayWindow = 64
    rekey_time: Seconds = 3600.0
    life_time: Seconds | None = None
    rand_time: Seconds | None = None
    rekey_bytes: Amount = 0
    life_bytes: Amount | None = None
    rand_bytes: Amount | None = None
    rekey_packets: Amount = 0
    life_packets: Amount | None = None
    rand_packets: Amount | None = None
    single_pair: bool = False
    tfc_padding: TfcPadding = 0
    df_bit: Literal["copy", "set", "clear"] = "copy"
    dscp: Dscp = None
    dummy_interval: Seconds = 0.0
    dummy_octets: Lengths = (64, 1024)
    if_id_in: InterfaceId = 0
    if_id_out: InterfaceId = 0
    hw_offload: Literal["no", "yes", "crypto", "packet", "auto"] = "no"
    sa_direction: bool = False


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
    invalid_selectors: bool = False
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
    pools: Annotated[list[Text], BeforeValidator(strings)] = []
    pools_required: bool = True


class SecretSection(_Section):
    """Which file holds the secret of which identities; no `id` means any."""

    id: Annotated[list[IdentityText], BeforeValidator(strings)] = []
    file: Text


class PoolSection(_Section):
    """Internal addresses for peers, and what they are told beside them."""

    addrs: PoolRanges
    dns: AddressTexts = []
    nbns: AddressTexts = []
    dhcp: AddressTexts = []
    subnet: NetworkTexts = []
    netmask: Netmask | None = None


class EndpointSection(_Section):
    """The process itself."""

    backend: Literal["auto", "xfrm", "userspace", "memory", "dry-run"] = "auto"
    control_socket: SocketPath | None = None
    key_agent_socket: SocketPath | None = None
    cookie_threshold: Annotated[int, Field(ge=0)] = Limits().cookie_threshold
    half_open_limit: Annotated[int, Field(ge=1)] = Limits().half_open_limit
    half_open_timeout: Annotated[Seconds, Field(gt=0)] = Limits().half_open_timeout_s
    half_open_per_address: Annotated[int, Field(ge=1)] = Limits().half_open_per_address
    drop_clear: bool = True
    log_lines: Annotated[int, Field(ge=0, le=1_000_000)] = DEFAULT_LINES


class HostSection(_Section):
    """The whole file."""

    dh_groups: dict[str, GroupSection] = {}
    connections: dict[str, ConnectionSection] = {}
    secrets: dict[str, SecretSection] = {}
    pools: dict[str, PoolSection] = {}
    endpoint: EndpointSection = EndpointSection()
    measurement: dict[str, Any] = {}
