"""strongSwan in a network namespace: its own charon, its own vici socket, its own log, one temporary directory.

    with TwoHosts() as hosts, StrongSwan(hosts.host("b"), directory) as peer:
        peer.load(connections, secrets)               # swanctl.conf, as nested mappings
        peer.initiate("net")
        peer.list_sas()

charon runs without systemd and without the kernel's ESP: kernel-libipsec is a data plane in userspace over a TUN
device. It knows tunnel mode only, no ESN, and sends ESP always in UDP on port 4500 (RFC 3948).

At log level 4 strongSwan writes SK_d, the other SK_* and the Child SA keys to its log: the oracle against which the
exported secrets are compared. The keys lie in that directory (mode 0700) and nowhere else.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from ikev2.io.netns import Namespace
from interop.lab.packages import skip_reason
from interop.peers.started import Started
from interop.peers.strongswan_text import (
    IkeSaState,
    LeaseState,
    LoggedKeys,
    parse_keys,
    parse_leases,
    parse_sas,
    tellable,
)

Section: TypeAlias = Mapping[str, Any]
"""Sections, texts, numbers, booleans and lists of texts by name."""
T = TypeVar("T")

LIBIPSEC = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"
PLUGINS = (
    "random nonce openssl kdf hmac sha1 sha2 aes gcm chapoly curve25519 pem pkcs1 "
    "kernel-libipsec kernel-netlink socket-default vici"
)
MARK = "0x42"
"""Set on what charon sends itself, so that IKE and ESP do not go into the tunnel."""
READY_S = 60.0
WAIT_S = 45.0
POLL_S = 0.05
ROOT = Path(__file__).resolve().parents[2]


class PeerError(Exception):
    """The foreign implementation did not do what it was told; the text has its own words."""


def why_not() -> str | None:
    """Why strongSwan cannot run here; None when it can."""
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return skip_reason("charon-systemd", "swanctl", LIBIPSEC)


def render(section: Section, indent: int = 0) -> str:
    """A nested mapping in the syntax of strongswan.conf and swanctl.conf."""
    pad = "  " * indent
    lines = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            lines.append(f"{pad}{key} {{\n{render(value, indent + 1)}{pad}}}\n")
        elif isinstance(value, bool):
            lines.append(f"{pad}{key} = {'yes' if value else 'no'}\n")
        else:
            text = ",".join(value) if isinstance(value, list) else str(value)
            text = f'"{text}"' if "#" in text else text
            lines.append(f"{pad}{key} = {text}\n")
    return "".join(lines)


class Swanctl:
    """What can be asked of a charon that runs with this directory, from any process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory / "charon.log"
        self._conf = directory / "strongswan.conf"
        self.vici_path = directory / "vici"
        self._uri = f"unix://{self.vici_path}"
        self._program = find("swanctl")

    # --- commands ------------------------------------------------------------------------------------------------

    def load(self, connections: Section, secrets: Section, pools: Section | None = None) -> None:
        """Replace all connections, secrets and pools by these, in swanctl.conf's words. SAs that are up stay."""
        path = self.directory / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(render({"connections": connections, "secrets": secrets, "pools": pools or {}}))
        # --clear: the secrets of the case before are forgotten.
        self.swanctl("--load-all", "--clear", "--noprompt", "--file", str(path))

    def initiate(self, child: str, timeout_s: float = WAIT_S) -> str:
        """Bring a Child SA up, and the IKE SA for it; strongSwan's log of it. PeerError when it fails."""
        return self.swanctl("--initiate", "--child", child, "--timeout", str(int(timeout_s)))

    def initiate_ike(self, ike: str, timeout_s: float = WAIT_S) -> str:
        """Bring an IKE SA up by its name without asking for a Child SA (`childless = force`)."""
        return self.swanctl("--initiate", "--ike", ike, "--timeout", str(int(timeout_s)))

    def terminate(
        self, *, ike: str | None = None, child: str | None = None, force: bool = False, timeout_s: float = WAIT_S
    ) -> str:
        """Take an IKE SA or a Child SA down by its name; with `force` without waiting for the peer."""
        which = ("--child", child) if child is not None else ("--ike", ike or "")
        options = ("--force",) if force else ()
        return self.swanctl("--terminate", *which, *options, "--timeout", str(int(timeout_s)))

    def terminate_id(self, unique_id: int) -> None:
        """Forget an IKE SA, also a half-open one, without waiting for the peer."""
        self.swanctl("--terminate", "--ike-id", str(unique_id), "--force")

    def rekey(self, *, ike: str | None = None, child: str | None = None) -> str:
        """Start a rekeying; returns at once."""
        return self.swanctl("--rekey", *(("--child", child) if child is not None else ("--ike", ike or "")))

    def list_sas(self) -> list[IkeSaState]:
        """Every IKE SA with its Child SAs and their counters."""
        return parse_sas(self.swanctl("--list-sas", "--raw"))

    def list_leases(self) -> dict[str, LeaseState]:
        """Who has which address of its pools, online or remembered, by address."""
        return parse_leases(self.swanctl("--list-pools", "--leases", "--raw"))

    def wait_sas(self, ready: Callable[[list[IkeSaState]], bool], timeout_s: float = WAIT_S) -> list[IkeSaState]:
        """The SAs as soon as `ready` says so of them; PeerError with the last of them when it does not."""
        return wait_until(self.list_sas, ready, timeout_s)

    def swanctl(self, *arguments: str) -> str:
        """Any swanctl command; its output. PeerError when it fails."""
        argv = [self._program, *arguments, "--uri", self._uri]
        done = subprocess.run(
            argv, env=self._environment(), capture_output=True, text=True, timeout=2 * WAIT_S, check=False
        )
        if done.returncode != 0:
            raise PeerError(f"swanctl {' '.join(arguments)}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    # --- the log -------------------------------------------------------------------------------------------------

    def log_position(self) -> int:
        """Where the log ends now: an argument for the functions below."""
        return self.log_path.stat().st_size

    def log(self, since: int = 0) -> str:
        """The log from a position on. It holds keys."""
        with self.log_path.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace")

    def story(self, since: int = 0) -> str:
        """The log without dumps and key material: what may go into a report."""
        return "".join(line + "\n" for line in self.log(since).splitlines() if tellable(line))

    def wait_log(self, pattern: str, since: int, timeout_s: float = WAIT_S) -> str:
        """The log from `since` on as soon as `pattern` is in it."""
        return wait_until(
            lambda: self.log(since),
            lambda text: re.search(pattern, text) is not None,
            timeout_s,
            f"log {pattern!r}",
        )

    def log_secrets(self, since: int = 0) -> dict[int, LoggedKeys]:
        """The keys of the IKE SAs made since a position, by unique id."""
        return parse_keys(self.log(since))

    def _environment(self) -> dict[str, str]:
        return os.environ | {"STRONGSWAN_CONF": str(self._conf), "SWANCTL_DIR": str(self.directory)}


class StrongSwan(Swanctl, Started):
    """charon-systemd in a namespace: a context manager. `settings` are merged into charon's own section."""

    def __init__(
        self, namespace: Namespace, directory: Path, settings: Section | None = None, *, log_level: int = 4
    ) -> None:
        """`log_level` is that of IKE and Child SAs; keys are in the log from 4 on."""
        super().__init__(directory)
        self.namespace = namespace
        self._log_level = log_level
        self._settings = settings or {}
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start charon and wait until it says that it is ready."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_path.touch(mode=0o600)
        self._conf.write_text(render(self._strongswan_conf(self._settings)))
        with (self.directory / "charon.stderr").open("wb") as errors:
            self._process = start_and_wait(
                self.namespace, [find("charon-systemd")], self.directory, self.log, self._environment(), errors
            )

    def change_settings(self, settings: Section) -> None:
        """Other settings than those of the start, for IKE SAs that are made from now on."""
        self._conf.write_text(render(self._strongswan_conf(settings)))
        self.swanctl("--reload-settings")

    def stop(self) -> None:
        """End charon: it deletes its SAs and removes its TUN device and routes."""
        process, self._process = self._process, None
        end(process)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """charon stands still: alive for the kernel, dead for its peers."""
        process = self._process
        if process is None:
            raise PeerError("charon does not run")
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _strongswan_conf(self, settings: Section) -> Section:
        log: Section = {
            "path": str(self.log_path),
            "flush_line": True,
            "ike_name": True,
            "default": 1,
        } | dict.fromkeys(("ike", "chd"), self._log_level)
        charon: Section = {
            "load": PLUGINS,
            "plugins": {
                "vici": {"socket": self._uri},
                "kernel-netlink": {"fwmark": f"!{MARK}"},
                "socket-default": {"fwmark": MARK},
                "kernel-libipsec": {"allow_peer_ts": True},
            },
            "journal": {"default": -1},
            "filelog": {"file": log},
        } | dict(settings)
        return {"charon-systemd": charon, "swanctl": {"load": "random openssl pem pkcs1"}}


def find(program: str) -> str:
    """Where a program is; also in the sbin directories, which are not on everybody's path."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin") or program


def start_and_wait(
    namespace: Namespace,
    argv: Sequence[str],
    directory: Path,
    log: Callable[[], str],
    environment: Mapping[str, str],
    output: IO[bytes],
) -> subprocess.Popen[Any]:
    """A process that has said READY=1 to its service manager, which is us. PeerError when it ends before that.

    `directory` is for the notification socket, `log` for the words of the error.
    """
    deadline = time.monotonic() + READY_S
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ready:
        path = directory / "notify"
        path.unlink(missing_ok=True)
        ready.bind(str(path))
        ready.settimeout(0.2)
        env = dict(environment) | {"NOTIFY_SOCKET": str(path)}
        process = namespace.popen(argv, cwd=ROOT, env=env, stdout=output, stderr=output)
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in ready.recv(4096):
                    return process
            except TimeoutError:
                if process.poll() is not None:
                    break
    process.kill()
    process.wait()
    raise PeerError(f"{' '.join(argv)} did not become ready: {_excerpt(log())}")


def end(process: subprocess.Popen[Any] | None, timeout_s: float = 10.0) -> int | None:
    """SIGTERM, then SIGKILL; the exit status, None without a process."""
    if process is None:
        return None
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def wait_until(look: Callable[[], T], good: Callable[[T], bool], timeout_s: float, what: str = "") -> T:
    """Look again and again until what is seen is good. PeerError with the last view after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if good(seen):
            return seen
        if time.monotonic() > deadline:
            view = _excerpt(seen) if isinstance(seen, str) else repr(seen)
            raise PeerError(f"{what or 'what was waited for'} did not come in {timeout_s:.0f} s; last seen: {view}")
        time.sleep(POLL_S)


def _excerpt(log: str) -> str:
    return "\n".join(line for line in log.splitlines()[-200:] if tellable(line))[-1500:]
