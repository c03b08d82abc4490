"""The TOML configuration of a host, with swanctl's words, to what the core and the endpoint take.

`load` reads a file; every fault is reported, each on a line of its own with its full path
(`connections.lab.children.net.mode: ...`). Sections: `connections`, `secrets`, `pools`, `dh_groups`, `endpoint` (ours:
backend, sockets, limits) and `measurement`, which belongs to another package and is passed on as it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ikev2.cli.build import Secret, build_connection, build_pool, check_pools, read_secrets
from ikev2.cli.faults import ConfigurationFaults, fault
from ikev2.cli.groups import declare_groups
from ikev2.cli.sections import HostSection
from ikev2.cli.selectors import parse_duration
from ikev2.core.config import ConnectionConfig, Limits, SharedKey
from ikev2.core.pools import PoolConfig
from ikev2.crypto.secret import SecretOctets
from ikev2.errors import ConfigurationError
from ikev2.io.configuration import Configuration, EndpointConfig
from ikev2.io.control import default_path as default_control_socket
from ikev2.io.key_agent import default_path as default_key_agent_socket

__all__ = ["ConfigurationFaults", "connection", "load", "parse", "pool"]

MAX_LABEL_OCTETS = 16


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
        faults += (fault(item, HostSection) for item in error.errors(include_url=False))
        faults += _faults_beside(document, {tuple(item["loc"][:2]) for item in error.errors()}, path)
        raise ConfigurationFaults(faults) from None
    secrets = read_secrets(host, path.parent, faults)
    connections = [build_connection(name, section, secrets, faults) for name, section in host.connections.items()]
    pools = tuple(build_pool(name, section, faults) for name, section in host.pools.items())
    check_pools(host, pools, faults)
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
            endpoint.drop_clear,
            endpoint.log_lines,
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
    secrets = read_secrets(host, path.parent, faults)
    # A secret with a fault may be the one that a connection needs: it serves everybody here.
    secrets += [Secret("", SharedKey((), SecretOctets("", b""))) for top, *_ in faulty if top == "secrets"]
    for name, section in host.connections.items():
        build_connection(name, section, secrets, faults)
    pools = tuple(build_pool(name, section, faults) for name, section in host.pools.items())
    if not any(top == "pools" for top, *_ in faulty):
        check_pools(host, pools, faults)
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
        raise ConfigurationFaults(fault(item, HostSection) for item in error.errors(include_url=False)) from None
    faults: list[str] = []
    key = SharedKey((), SecretOctets(f"PSK of {name}", secret))
    found = build_connection(name, checked, [Secret(name, key)], faults)
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
        raise ConfigurationFaults(fault(item, HostSection) for item in error.errors(include_url=False)) from None
    faults: list[str] = []
    found = build_pool(name, section, faults)
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
