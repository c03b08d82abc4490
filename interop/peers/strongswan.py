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
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from ikev2.io.netns import Namespace
from interop.lab.packages import skip_reason

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
READY_S = 20.0
WAIT_S = 15.0
POLL_S = 0.05
_STOP_S = 5.0


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
            lines.append(f"{pad}{key} = {text}\n")
    return "".join(lines)


def parse_raw(text: str) -> dict[str, Any]:
    """What `swanctl --raw` prints, `name {key=value list=[a b] section {...}}`, as nested dictionaries."""
    tokens = re.findall(r"[{}\[\]]|[^\s{}\[\]=]+=(?=\[)|[^\s{}\[\]=]+=[^\s{}\[\]]*|[^\s{}\[\]]+", text)
    position = 0

    def section() -> dict[str, Any]:
        nonlocal position
        found: dict[str, Any] = {}
        while position < len(tokens) and tokens[position] != "}":
            key, _, value = tokens[position].partition("=")
            position += 1
            following = tokens[position] if position < len(tokens) else ""
            if following == "{" and not value:
                position += 1
                found[key] = section()
                position += 1
            elif following == "[" and not value:
                end = tokens.index("]", position)
                found[key] = tokens[position + 1 : end]
                position = end + 1
            else:
                found[key] = value
        return found

    return section()


@dataclass(frozen=True, slots=True)
class ChildSaState:
    """A Child SA as strongSwan lists it; its counters are of inner octets and packets."""

    name: str
    state: str
    mode: str
    encap: bool
    spi_in: int
    spi_out: int
    local_ts: tuple[str, ...]
    remote_ts: tuple[str, ...]
    packets_in: int
    octets_in: int
    packets_out: int
    octets_out: int


@dataclass(frozen=True, slots=True)
class IkeSaState:
    """An IKE SA as strongSwan lists it. `unique_id` is the number in its log."""

    name: str
    unique_id: int
    state: str
    initiator: bool
    spi_i: bytes
    spi_r: bytes
    suite: tuple[str, ...]
    children: tuple[ChildSaState, ...]


@dataclass(slots=True)
class LoggedKeys:
    """The keys of one IKE SA as strongSwan logged them.

    `sk` has SK_d, SK_ai ... by name, the last value of each; `children` the four keys of each Child SA by the names
    encr_i, integ_i, encr_r, integ_r, with the salt at the end of encr_* for AEAD.
    """

    sk: dict[str, bytes] = field(default_factory=dict)
    children: list[dict[str, bytes]] = field(default_factory=list)

    def keymat(self, child: int = -1) -> bytes:
        """The keying octets of a Child SA in the order in which they were taken. RFC 7296 section 2.17."""
        keys = self.children[child]
        return b"".join(keys.get(name, b"") for name in _KEYMAT_ORDER)

    def __repr__(self) -> str:
        return f"<LoggedKeys {', '.join(self.sk)}; {len(self.children)} Child SAs>"


_KEYMAT_ORDER = ("encr_i", "integ_i", "encr_r", "integ_r")
_CHILD_KEYS = {
    "encryption initiator key": "encr_i",
    "integrity initiator key": "integ_i",
    "encryption responder key": "encr_r",
    "integrity responder key": "integ_r",
}
_DUMP = re.compile(
    r"^\d+\[\w+\] <(?:[^|>]*\|)?(?P<sa>\d+)> (?P<what>(?:Sk_|SK_)\w+ (?:secret|key)|(?:encryption|integrity) "
    r"(?:initiator|responder) key) => (?P<octets>\d+) bytes @ "
)
_DUMP_LINE = re.compile(r"^\d+\[\w+\] <[^>]*> +\d+: (?P<hex>(?:[0-9A-F]{2} )+)")


def parse_keys(log: str) -> dict[int, LoggedKeys]:
    """The keys in a log of level 4, by the IKE SA's unique id."""
    found: dict[int, LoggedKeys] = {}
    for sa, what, octets in _dumps(log.splitlines()):
        keys = found.setdefault(sa, LoggedKeys())
        if what not in _CHILD_KEYS:
            keys.sk[what.split()[0].replace("Sk_", "SK_")] = octets
            continue
        name = _CHILD_KEYS[what]
        if not keys.children or name in keys.children[-1]:
            keys.children.append({})
        keys.children[-1][name] = octets
    return found


def _dumps(lines: list[str]) -> Iterator[tuple[int, str, bytes]]:
    """The hex dumps of keys in a log: whose, what, octets."""
    for number, line in enumerate(lines):
        head = _DUMP.match(line)
        if head is None:
            continue
        wanted = int(head["octets"])
        octets = b""
        prefix = line.partition(" ")[0]
        for following in lines[number + 1 :]:
            if len(octets) >= wanted:
                break
            # Other threads may log in between.
            row = _DUMP_LINE.match(following) if following.startswith(prefix) else None
            if row is not None:
                octets += bytes.fromhex(row["hex"])
        yield int(head["sa"]), head["what"], octets[:wanted]


class StrongSwan:
    """charon-systemd in a namespace: a context manager. `settings` are merged into charon's own section."""

    def __init__(self, namespace: Namespace, directory: Path, settings: Section | None = None) -> None:
        self.namespace = namespace
        self.directory = directory
        self.log_path = directory / "charon.log"
        self._settings = settings or {}
        self._conf = directory / "strongswan.conf"
        self._uri = f"unix://{directory / 'vici'}"
        self._swanctl = skip_path("swanctl")
        self._process: subprocess.Popen[Any] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start charon and wait until it says that it is ready."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_path.touch(mode=0o600)
        self._conf.write_text(render(self._strongswan_conf()))
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ready:
            path = self.directory / "notify"
            path.unlink(missing_ok=True)
            ready.bind(str(path))
            with (self.directory / "charon.stderr").open("wb") as errors:
                self._process = self.namespace.popen(
                    [skip_path("charon-systemd")],
                    env=self._environment() | {"NOTIFY_SOCKET": str(path)},
                    stdout=errors,
                    stderr=errors,
                )
            wait_ready(ready, self._process, "charon-systemd", self.log)

    def stop(self) -> None:
        """End charon: it deletes its SAs and removes its TUN device and routes."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

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

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- commands ------------------------------------------------------------------------------------------------

    def load(self, connections: Section, secrets: Section) -> None:
        """Replace all connections and secrets by these, in swanctl.conf's words. SAs that are up stay."""
        path = self.directory / "swanctl.conf"
        path.touch(mode=0o600)
        path.write_text(render({"connections": connections, "secrets": secrets}))
        # --load-all alone does not unload what the file no longer has when it fails half way.
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
        lines = self.swanctl("--list-sas", "--raw").splitlines()
        # A line is `list-sa event {NAME {...}}`.
        events = (parse_raw(line.partition("{")[2]) for line in lines if line.startswith("list-sa event"))
        return [_ike_sa(name, content) for event in events for name, content in event.items()]

    def wait_sas(self, ready: Callable[[list[IkeSaState]], bool], timeout_s: float = WAIT_S) -> list[IkeSaState]:
        """The SAs as soon as `ready` says so of them; PeerError with the last of them when it does not."""
        return wait_until(self.list_sas, ready, timeout_s)

    def swanctl(self, *arguments: str) -> str:
        """Any swanctl command; its output. PeerError when it fails."""
        argv = [self._swanctl, *arguments, "--uri", self._uri]
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
        return "".join(line + "\n" for line in self.log(since).splitlines() if _tellable(line))

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

    # --- parts ---------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        return os.environ | {"STRONGSWAN_CONF": str(self._conf), "SWANCTL_DIR": str(self.directory)}

    def _strongswan_conf(self) -> Section:
        log: Section = {
            "path": str(self.log_path),
            "flush_line": True,
            "ike_name": True,
            "default": 1,
        } | dict.fromkeys(("ike", "chd"), 4)
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
        } | dict(self._settings)
        return {"charon-systemd": charon, "swanctl": {"load": "random openssl pem pkcs1"}}


def skip_path(program: str) -> str:
    """Where a program is; also in the sbin directories, which are not on everybody's path."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin") or program


def wait_ready(ready: socket.socket, process: subprocess.Popen[Any], name: str, log: Callable[[], str]) -> None:
    """Wait for READY=1 on a service manager's notification socket. PeerError when the process ends before it."""
    deadline = time.monotonic() + READY_S
    ready.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            if b"READY=1" in ready.recv(4096):
                return
        except TimeoutError:
            if process.poll() is not None:
                raise PeerError(f"{name} ended with {process.returncode}: {log()[-2000:]}") from None
    raise PeerError(f"{name} was not ready in {READY_S:.0f} s: {log()[-2000:]}")


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
    return "\n".join(line for line in log.splitlines()[-200:] if _tellable(line))[-3000:]


def _tellable(line: str) -> bool:
    """True for a log line without dump, or announcement of one."""
    return "=> " not in line and not re.search(r"\] (<[^>]*> )?\s*\d+: [0-9A-F]{2} ", line)


def _ike_sa(name: str, content: Mapping[str, Any]) -> IkeSaState:
    suite = tuple(
        str(content[key])
        for key in ("encr-alg", "encr-keysize", "integ-alg", "prf-alg", "dh-group")
        if content.get(key)
    )
    return IkeSaState(
        name=name,
        unique_id=int(content["uniqueid"]),
        state=content["state"],
        initiator=content.get("initiator") == "yes",
        spi_i=bytes.fromhex(content["initiator-spi"]),
        spi_r=bytes.fromhex(content["responder-spi"]),
        suite=suite,
        children=tuple(_child_sa(child) for child in content.get("child-sas", {}).values()),
    )


def _child_sa(content: Mapping[str, Any]) -> ChildSaState:
    return ChildSaState(
        name=content["name"],
        state=content["state"],
        mode=content["mode"],
        encap=content.get("encap") == "yes",
        spi_in=int(content.get("spi-in", "0"), 16),
        spi_out=int(content.get("spi-out", "0"), 16),
        local_ts=tuple(content.get("local-ts", ())),
        remote_ts=tuple(content.get("remote-ts", ())),
        packets_in=int(content.get("packets-in", 0)),
        octets_in=int(content.get("bytes-in", 0)),
        packets_out=int(content.get("packets-out", 0)),
        octets_out=int(content.get("bytes-out", 0)),
    )
