"""What a host's configuration is once it has been read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ikev2.core.config import ConnectionConfig, Limits
from ikev2.core.pools import PoolConfig
from ikev2.io.log import DEFAULT_LINES


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """What an Endpoint is told: whom to talk to, how much a stranger may cost.

    `label` and `sa_grace_s` are the key exporter's: RFC 7717's "IPPM", and how long an SA that is gone still serves.
    `pools` are the internal addresses that the connections' pools name (RFC 7296 section 2.19). `drop_clear`: what
    arrives in clear although a Child SA protects it is dropped, where a backend has the choice (RFC 4301 section 5.2).
    `log_lines` is how many lines of the log are kept in memory, 0 for none.
    """

    connections: tuple[ConnectionConfig, ...]
    limits: Limits = field(default_factory=Limits)
    label: bytes = b"IPPM"
    sa_grace_s: float = 60.0
    pools: tuple[PoolConfig, ...] = ()
    drop_clear: bool = True
    log_lines: int = DEFAULT_LINES


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked configuration file. `measurement` is passed on unread: it belongs to another package."""

    path: Path
    endpoint: EndpointConfig
    backend: str
    control_socket: Path
    key_agent_socket: Path
    measurement: Mapping[str, Any]
