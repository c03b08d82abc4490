"""The IKE endpoint that runs on this machine already (`ippm-ipsec host`, `ikev2 run`), seen from another process.

Its control socket tells which SAs there are and brings one up; its key agent gives the keys. Neither SK_d nor KEYMAT
crosses those sockets. RFC 7717 section 5.1; reading A31 in docs/rfc7717.md.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from binding.policy import ChildView, SaView
from ikev2.embedding import ChildCounters, Configuration, ConnectionConfig, IkeError, KeyAgentClient, control_call

ANSWER_S = 10.0
"""How long a local endpoint may take to answer a question."""

UP_S = 120.0
"""How long it may take to bring an IKE SA up: longer than its own retransmissions go on."""

WITH_KEYS = frozenset({"ESTABLISHED", "REKEYING", "REKEYED", "DELETING"})
"""States in which an IKE SA has keys: its key agent gives them out."""


def runs_at(path: Path) -> bool:
    """Whether an endpoint answers at a control socket. Raises IkeError when there is one that is not for us."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_S)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return False
            raise IkeError(f"{path}: {error.strerror or error}") from None
    return True


class RunningHost:
    """An IkeSide (binding.measurement) in another process. Raises IkeError when it goes away."""

    def __init__(self, file: Configuration) -> None:
        self._control = file.control_socket
        self._file = file
        self._exporter = KeyAgentClient(file.key_agent_socket)

    @property
    def backend_name(self) -> str:
        """Which backend carries the Child SAs."""
        return str(self._list()["backend"])

    @property
    def exporter(self) -> KeyAgentClient:
        """Where key handles come from."""
        return self._exporter

    @property
    def connections(self) -> Sequence[ConnectionConfig]:
        """Those of our file that the endpoint has, too."""
        there = self._list()["connections"]
        return [connection for connection in self._file.endpoint.connections if connection.name in there]

    def sas(self) -> list[SaView]:
        """The established IKE SAs."""
        try:
            return [_view(sa) for sa in self._list()["ike_sas"] if sa["state"] in WITH_KEYS]
        except (KeyError, TypeError, ValueError):
            raise IkeError(f"{self._control}: the endpoint's answer makes no sense") from None

    async def up(self, name: str) -> None:
        """Bring a connection up. Raises IkeError with the endpoint's reason."""
        await asyncio.to_thread(control_call, self._control, "up", name=name, timeout_s=UP_S)

    def _list(self) -> dict[str, Any]:
        answer = control_call(self._control, "list", timeout_s=ANSWER_S)
        if not isinstance(answer, dict):
            raise IkeError(f"{self._control}: the endpoint's answer makes no sense")
        return answer


def _view(sa: dict[str, Any]) -> SaView:
    return SaView(
        bytes.fromhex(sa["spi_i"]),
        bytes.fromhex(sa["spi_r"]),
        str(sa["remote_id"]),
        str(sa["suite"]),
        str(sa["auth"]),
        -float(sa["age_s"]),
        tuple(_child(child) for child in sa["children"]),
    )


def _child(child: dict[str, Any]) -> ChildView:
    packets_in, octets_in, packets_out, octets_out = (
        int(child[word]) for word in ("packets_in", "octets_in", "packets_out", "octets_out")
    )
    counters = ChildCounters(packets_in, octets_in, packets_out, octets_out)
    return ChildView(int(child["spi_in"], 16), int(child["spi_out"], 16), counters)
