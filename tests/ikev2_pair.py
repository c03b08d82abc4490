"""Two IKE endpoints in one process on loopback addresses and high ports, over the in-memory backend."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ikev2.cli.config import parse
from ikev2.io.configuration import Configuration
from ikev2.io.endpoint import Endpoint
from ikev2.ipsec.backend import Backend
from ikev2.ipsec.memory import MemoryBackend, MemoryNetwork

HOST_A, HOST_B = "127.0.0.1", "127.0.0.2"
PSK = b"a secret that nobody would guess"


def free_ports(count: int = 2) -> list[int]:
    """UDP ports that are free on both hosts."""
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            first = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            second = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind((HOST_A, 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind((HOST_B, port))
                ports.append(port)
    return ports


@dataclass
class Pair:
    """What the two configurations have in common; `connection` and `child` go into both.

    `own` is for the connection of one host, `sections` for its whole file.
    """

    directory: Path
    connection: dict[str, Any] = field(default_factory=dict)
    child: dict[str, Any] = field(default_factory=dict)
    psk_b: bytes = PSK
    ports: list[int] = field(default_factory=free_ports)
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def configuration(self, host: str) -> Configuration:
        """The configuration of host "a" or "b"."""
        local, remote = (HOST_A, HOST_B) if host == "a" else (HOST_B, HOST_A)
        other = "b" if host == "a" else "a"
        secret = self.directory / f"{host}.psk"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_bytes(PSK if host == "a" else self.psk_b)
        document = {
            "connections": {
                "lab": {
                    "local_addrs": [local],
                    "remote_addrs": [remote],
                    "local": {"auth": "psk", "id": f"{host}.example"},
                    "remote": {"auth": "psk", "id": f"{other}.example"},
                    "ike_port": self.ports[0],
                    "nat_port": self.ports[1],
                    "retransmit_timeout": 5,
                    "children": {"net": dict(self.child)},
                    **self.connection,
                    **self.own.get(host, {}),
                }
            },
            "secrets": {"lab": {"file": secret.name}},
            "endpoint": {"control_socket": f"control.{host}", "key_agent_socket": f"keys.{host}"},
            **self.sections.get(host, {}),
        }
        return parse(document, self.directory / f"{host}.toml")

    def endpoint(self, host: str, backend: Backend | None = None, **arguments: Any) -> Endpoint:
        """The endpoint of a host, not started."""
        return Endpoint(self.configuration(host).endpoint, backend or MemoryBackend(self.network), **arguments)

    @contextlib.asynccontextmanager
    async def running(self, *endpoints: Endpoint) -> AsyncIterator[None]:
        """Start these, and stop them at the end."""
        async with contextlib.AsyncExitStack() as stack:
            for endpoint in endpoints:
                await endpoint.start()
                stack.push_async_callback(endpoint.stop)
            yield


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Let the loop run until `condition()` holds; a test that waits in vain fails."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
