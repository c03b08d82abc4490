"""OpenIKED in a network namespace: its own iked, its own control socket, its own log, one temporary directory.

    with OpenIked(hosts.host("b"), directory, [Policy(...)], psk) as peer:
        peer.active()                   # begins what its active policies say
        peer.reset("a.example")         # deletes the IKE SAs with this peer

iked puts its SAs into the kernel by PF_KEY, so it wants a kernel with af_key and ESP. What PF_KEY and iked have in
common on Linux is AES-CBC with HMAC-SHA1, HMAC-SHA2-384 and HMAC-SHA2-512; PF_KEY's SHA2-256 is truncated to 96 bits.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ikev2.io.netns import Namespace
from interop.lab.packages import skip_reason
from interop.peers.started import Started
from interop.peers.strongswan import READY_S, ROOT, WAIT_S, PeerError, end, find, wait_until

IKE_AUTH = {"sha1": "hmac-sha1", "sha256": "hmac-sha2-256", "sha384": "hmac-sha2-384", "sha512": "hmac-sha2-512"}
CIPHERS = {
    "aes128": "aes-128",
    "aes192": "aes-192",
    "aes256": "aes-256",
    "aes128gcm16": "aes-128-gcm",
    "aes256gcm16": "aes-256-gcm",
    "aes128gcm12": "aes-128-gcm-12",
    "aes256gcm12": "aes-256-gcm-12",
}
GROUPS = {
    "curve25519": "curve25519",
    **{f"modp{bits}": f"modp{bits}" for bits in (2048, 3072, 4096, 6144, 8192)},
    **{f"ecp{bits}": f"ecp{bits}" for bits in (256, 384, 521)},
    **{f"ecp{bits}bp": f"brainpool{bits}" for bits in (224, 256, 384, 512)},
}
"""Our keywords and iked's."""


def why_not() -> str | None:
    """Why OpenIKED cannot run here; None when it can (in a kernel with af_key)."""
    return skip_reason("iked", "ikectl")


def transforms(proposal: str) -> str:
    """A proposal of ours, of one algorithm of each kind, in iked's words. ValueError for what it does not have."""
    words = []
    for word in proposal.split("-"):
        if word in CIPHERS:
            words.append(f"enc {CIPHERS[word]}")
        elif word in IKE_AUTH:
            words.append(f"auth {IKE_AUTH[word]}")
        elif word in GROUPS:
            words.append(f"group {GROUPS[word]}")
        elif word.removeprefix("prf") in IKE_AUTH:
            words.append(f"prf {IKE_AUTH[word.removeprefix('prf')]}")
        elif word in ("esn", "noesn"):
            words.append(word)
        else:
            raise ValueError(f"iked has no {word}")
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Policy:
    """One `ikev2` policy; proposals are in our words. `active`: it is begun by `OpenIked.active`.

    `lifetime` is that of Child SAs, `ikelifetime` that of IKE SAs, in iked's words; empty: its own.
    """

    name: str
    local: str
    peer: str
    srcid: str
    dstid: str
    mode: str
    ike: str
    esp: str
    active: bool = False
    lifetime: str = ""
    ikelifetime: str = ""
    source: str = ""
    destination: str = ""

    def render(self, psk: str) -> str:
        """As it stands in iked.conf."""
        ike = transforms(self.ike)
        esp = transforms(self.esp)
        if not re.search(r"\bprf ", ike):
            ike += " prf " + IKE_AUTH[next(word for word in self.ike.split("-") if word in IKE_AUTH)]
        lines = [
            f'ikev2 "{self.name}" {"active" if self.active else "passive"} {self.mode} esp',
            f"inet{'6' if ':' in self.local else ''}",
            f"from {self.source or self.local} to {self.destination or self.peer}",
            f"local {self.local} peer {self.peer}",
            f"ikesa {ike}",
            f"childsa {esp}" + ("" if "esn" in esp else " noesn"),
            f"srcid {self.srcid} dstid {self.dstid}",
            *([f"ikelifetime {self.ikelifetime}"] if self.ikelifetime else []),
            *([f"lifetime {self.lifetime}"] if self.lifetime else []),
            f'psk "{psk}"',
        ]
        return " \\\n\t".join(lines) + "\n"


class OpenIked(Started):
    """iked in a namespace: a context manager. `settings` are the words behind `set`, one each."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        policies: Sequence[Policy],
        psk: str,
        settings: Sequence[str] = ("nomobike", "fragmentation"),
    ) -> None:
        self.namespace = namespace
        self.log_path = directory / "iked.log"
        self._directory = directory
        self._conf = directory / "iked.conf"
        self._socket = directory / "iked.sock"
        self._policies = tuple(policies)
        self._psk = psk
        self._settings = tuple(settings)
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start iked in passive mode and wait until it can be asked something."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._conf.touch(mode=0o600)
        lines = [f"set {word}\n" for word in self._settings]
        self._conf.write_text("".join([*lines, *(policy.render(self._psk) for policy in self._policies)]))
        argv = [find("iked"), "-d", "-vv", "-S", "-f", str(self._conf), "-s", str(self._socket)]
        with self.log_path.open("ab") as log:
            self._process = self.namespace.popen(argv, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        # The last of what its IKE process is told; before that it answers with half a configuration, or late.
        wait_until(self._ready, bool, READY_S, "iked's configuration")

    def stop(self) -> None:
        """End iked: it takes its SAs and policies out of the kernel."""
        process, self._process = self._process, None
        end(process)

    def active(self) -> None:
        """Begin what the active policies say, and again what fails."""
        self.ikectl("active")

    def passive(self) -> None:
        """Begin nothing any more."""
        self.ikectl("passive")

    def established(self) -> set[str]:
        """The policies of which there has been an IKE SA, by its log."""
        return set(re.findall(r": established peer .* policy '(\S+)' as ", self.log()))

    def reset(self, identity: str) -> None:
        """Delete the IKE SAs with the peer of this identity."""
        self.ikectl("reset", "id", identity)

    def show(self) -> str:
        """iked's view of its SAs and flows."""
        return self.ikectl("show", "sa")

    def ikectl(self, *arguments: str) -> str:
        """Any ikectl command; its output. PeerError when it fails."""
        argv = [find("ikectl"), "-s", str(self._socket), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)
        if done.returncode != 0:
            raise PeerError(f"ikectl {' '.join(arguments)}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise PeerError(f"iked has ended: {self.log()[-1000:]}")
        return "config_getmode: mode active -> passive" in self.log()
