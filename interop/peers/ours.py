"""Our own endpoint, as a foreign implementation sees it: `ikev2 run` as a process in a namespace.

It is steered by what any user has: a TOML file, the control socket, the key agent's socket, signals.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ikev2.io.control import call
from ikev2.io.key_agent import KeyAgentClient, RemoteKeyHandle
from ikev2.io.netns import Namespace
from interop.peers.started import Started
from interop.peers.strongswan import WAIT_S, end, start_and_wait, wait_until

Document: TypeAlias = Mapping[str, Any]


def to_toml(document: Document, path: tuple[str, ...] = ()) -> str:
    """A document of tables, texts, numbers, booleans and lists of texts as TOML."""
    values = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in document.items() if isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]\n"] if path and (values or not tables) else []
    # A JSON text, number, boolean or list of texts is one in TOML, too.
    lines += [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    return "".join([*lines, *(to_toml(value, (*path, key)) for key, value in tables.items())])


@dataclass(frozen=True, slots=True)
class Capture:
    """What of the host is captured: the interface, into this file."""

    interface: str
    path: Path


class Ours(Started):
    """`ikev2 run` in a namespace: a context manager. Everything it writes is in `directory`."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        document: Document,
        psk: str,
        *,
        impairments: Sequence[str] = (),
        capture: Capture | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`document` is the configuration without secrets and sockets; `psk` is hexadecimal after 0x.

        `options` are further words for `ikev2 run`.
        """
        self.namespace = namespace
        self.directory = directory
        self.log_path = directory / "ours.log"
        self.keys_path = directory / "keys"
        self.config_path = directory / "ours.toml"
        self._document = document
        self._psk = psk
        self._impairments = tuple(impairments)
        self._capture = capture
        self._options = tuple(options)
        self._control = directory / "control"
        self._agent = directory / "agent"
        self._process: subprocess.Popen[Any] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = self.directory / "lab.psk"
        secret.touch(mode=0o600)
        secret.write_text(self._psk + "\n")
        given = self._document.get("endpoint", {})
        document = {
            **self._document,
            "secrets": {"lab": {"file": secret.name}},
            "endpoint": {"control_socket": self._control.name, "key_agent_socket": self._agent.name} | given,
        }
        self.config_path.write_text(to_toml(document))
        argv = [
            sys.executable,
            "-m",
            "ikev2",
            "run",
            "-c",
            str(self.config_path),
            "-v",
            "--keylog",
            str(self.keys_path),
        ]
        if self._capture is not None:
            argv += ["--pcap", str(self._capture.path), "--pcap-interface", self._capture.interface]
        for knob in self._impairments:
            argv += ["--impair", knob]
        argv += self._options
        with self.log_path.open("ab") as log:
            self._process = start_and_wait(self.namespace, argv, self.directory, self.log, os.environ, log)

    def stop(self) -> int | None:
        """End it with SIGTERM, upon which it deletes its SAs; its exit status, None when it did not run."""
        process, self._process = self._process, None
        return end(process)

    def kill(self) -> None:
        """End it as a power failure does: the peer hears nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    # --- commands ------------------------------------------------------------------------------------------------

    def up(self, name: str) -> dict[str, Any]:
        """`ikev2 up`; the IKE SA as `ikev2 list --json` has it. IkeError with the reason when it is refused."""
        result: dict[str, Any] = call(self._control, "up", name=name, timeout_s=2 * WAIT_S)
        return result

    def down(self, name: str) -> None:
        """`ikev2 down`: a connection, or a child."""
        call(self._control, "down", name=name, timeout_s=2 * WAIT_S)

    def rekey(self, name: str) -> None:
        """`ikev2 rekey`: a connection, or a child."""
        call(self._control, "rekey", name=name, timeout_s=2 * WAIT_S)

    def sas(self) -> list[dict[str, Any]]:
        """The IKE SAs as `ikev2 list --json` has them."""
        result: list[dict[str, Any]] = call(self._control, "list", timeout_s=WAIT_S)["ike_sas"]
        return result

    def traps(self) -> list[dict[str, Any]]:
        """What waits for traffic, as `ikev2 list --json` has it."""
        result: list[dict[str, Any]] = call(self._control, "list", timeout_s=WAIT_S)["traps"]
        return result

    def stats(self) -> dict[str, Any]:
        """What `ikev2 stats --json` prints."""
        result: dict[str, Any] = call(self._control, "stats", timeout_s=WAIT_S)
        return result

    def key(
        self,
        spi_i: bytes,
        spi_r: bytes,
        derivation: str = "rfc7717",
        *,
        child_spi: int | None = None,
        server_is_local: bool = False,
    ) -> RemoteKeyHandle:
        """A handle from the key agent."""
        client = KeyAgentClient(self._agent)
        return client.open((spi_i, spi_r), derivation, child_spi=child_spi, server_is_local=server_is_local)

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, pattern: str, timeout_s: float = WAIT_S) -> str:
        """The log as soon as `pattern` is in it."""
        return wait_until(
            self.log, lambda text: re.search(pattern, text) is not None, timeout_s, f"log {pattern!r}"
        )
