"""Two hosts with an IKE SA between them and a bad path, for a person or a script to play with.

    A 192.0.2.1, 2001:db8:a::1 --- router (impairments, NAT44 if asked for) --- B 198.51.100.2, 2001:db8:b::2

Each host runs `ippm-ipsec host`: an IKE endpoint with O/TWAMP servers. `interop.lab.console` talks to the router.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from binding.init import host_toml, write_psk
from ikev2.errors import IkeError
from ikev2.io.control import call
from ikev2.ipsec.xfrm.state import namespace_name
from interop.lab.console import HOST, SOCKET, USAGE
from interop.lab.knobs import KnobError, change, help_text, words
from interop.lab.leftovers import VARIABLE, LabDirectory
from interop.lab.nat import Nat44, Router
from interop.lab.netns import Lab
from interop.lab.relay import Impairer, Impairments

ROOT = Path(__file__).resolve().parents[2]
CONNECTION = "lab"
UP_S = 60.0
READY = "ready:"


@dataclass(frozen=True, slots=True)
class Place:
    """A host: its name, addresses, network inside the lab, and the router's addresses there."""

    name: str
    address: str
    address6: str
    gateway: str
    gateway6: str
    network: str
    network6: str


A = Place("a", "192.0.2.1", "2001:db8:a::1", "192.0.2.254", "2001:db8:a::fe", "192.0.2.0/24", "2001:db8:a::/64")
B = Place("b", "198.51.100.2", "2001:db8:b::2", "198.51.100.254", "2001:db8:b::fe", "198.51.100.0/24",
          "2001:db8:b::/64")  # fmt: skip
PUBLIC = "198.51.100.99"
"""The NAT's address on B's side."""


@dataclass(frozen=True, slots=True)
class PlaygroundOptions:
    """What the command line asked for. `mapping_s` None: the NAT's mappings live until `rebind`."""

    impairments: Impairments = field(default_factory=Impairments)
    seed: int = 1
    nat: bool = False
    mapping_s: float | None = None
    mode: str = "tunnel"
    backend: str = "auto"


class Playground:
    """The hosts, the router, the endpoints, and the answers to `lab`; a context manager that leaves nothing."""

    def __init__(self, options: PlaygroundOptions, say: Callable[[str], None]) -> None:
        self.options = options
        self.path = Path()
        self._say = say
        self._stack = ExitStack()
        self._nat = (
            Nat44(PUBLIC, (A.network,), seed=options.seed, mapping_s=options.mapping_s) if options.nat else None
        )

    def __enter__(self) -> Self:
        with self._stack as stack:
            directory = stack.enter_context(LabDirectory())
            self.path = directory.path
            self._lab = stack.enter_context(Lab())
            self._cables()
            for place in (A, B):
                directory.note_namespace(self._lab.call(place.name, namespace_name))
            self.router = stack.enter_context(
                Router(self._lab.host("router"), (A.network, A.network6), nat=self._nat, seed=self.options.seed)
            )
            self._write_command()
            for here, there in ((A, B), (B, A)):
                self._write_host(here, there)
            stack.enter_context(_Console(self.path / SOCKET, self.answer))
            for place, log in [(place, self._start(place)) for place in (B, A)]:
                self._await(place, log)
            self._bring_up()
            # A good path until here, so that the hosts come up whatever was asked for.
            self._set(list(self._impairers().values()), self.options.impairments)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, host: str, command: str) -> int:
        """Runs a shell command on host "a" or "b", with this process's streams; its exit status."""
        description = json.loads((self.path / host / HOST).read_text())
        process = self._lab.popen(
            host, ["sh", "-c", command], cwd=self.path / host, env=os.environ | description["environment"]
        )
        status = process.wait()
        return status if status >= 0 else 128 - status

    def introduction(self, place: Place) -> str:
        """What to type first, as the shell of that host says it."""
        here, there = (A, B) if place is A else (B, A)
        peer = f"${there.name.upper()}"
        config = f"{here.name}.toml"
        rows = [
            ("ikev2 list", "the IKE SA and its Child SA"),
            (f"ikev2 rekey {CONNECTION}", f"and down {CONNECTION}, up {CONNECTION}, log -f, stats"),
            ("ikev2 decode ike.pcapng --keys keys", "what the two said, decrypted"),
            (f"ping {peer}", "through the tunnel"),
            (f"ippm-ipsec twping -c {config} {peer}", "there and back, keys from the IKE SA"),
            (f"ippm-ipsec owping -c {config} {peer}", "one way each"),
            ("lab impair delay=20ms loss=1%", "a worse path; lab impair to-b ..."),
            ("lab show, lab clear, lab knobs", "what is done to it; nothing; all there is"),
            ("lab on B COMMAND, lab log, lab help", "on that host; both hosts' logs; this"),
        ]
        if self.options.nat:
            rows.append(("lab rebind", f"the NAT {PUBLIC} before A forgets it all"))
        return "\n".join(
            [
                f"Host {here.name.upper()}: {here.address}, {here.address6}",
                f"Host {there.name.upper()}: {there.address}, {there.address6}, behind a router",
                *(f"  {command:<36} {purpose}" for command, purpose in rows),
                "The lab ends, and nothing of it stays, with both shells or by Ctrl-b d.",
            ]
        )

    # --- making it -----------------------------------------------------------------------------------------------

    def _cables(self) -> None:
        self._say("namespaces, cables and a router")
        for place in (A, B):
            ends = (
                [f"{place.address}/24", f"{place.address6}/64"],
                [f"{place.gateway}/24", f"{place.gateway6}/64"],
            )
            self._lab.link(place.name, ends[0], "router", ends[1])
            self._lab.route(place.name, "default", place.gateway)
            self._lab.route(place.name, "::/0", place.gateway6)

    def _write_command(self) -> None:
        """The command `lab`, and those of the project, which need not be installed."""
        directory = self.path / "bin"
        directory.mkdir()
        modules = {"lab": "interop.lab.console", "ikev2": "ikev2", "ippm": "ippm", "ippm-ipsec": "binding"}
        for name, module in modules.items():
            command = directory / name
            path = f'PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"'
            command.write_text(f'#!/bin/sh\n{path} exec "{sys.executable}" -m {module} "$@"\n')
            command.chmod(0o755)

    def _write_host(self, here: Place, there: Place) -> None:
        """The host's directory: configuration, secret, environment, introduction."""
        directory = self.path / here.name
        directory.mkdir(mode=0o700)
        secret = directory / "lab.psk"
        if here is A:
            write_psk(secret)
        else:
            shutil.copy2(self.path / A.name / secret.name, secret)
        remote = "%any" if self.options.nat and here is B else there.address
        text = host_toml(
            f"{here.name}.example",
            f"{there.name}.example",
            here.address,
            remote,
            secret.name,
            mode=self.options.mode,
        ).replace('path = "bypass"', f'path = "{"tunnel" if self.options.nat else "both"}"')
        if remote == "%any" and self.options.mode == "tunnel":
            # A asks for its own address, which is not the one that B sees.
            text = text.replace('remote_ts = ["dynamic"]', f'remote_ts = ["{there.address}/32"]')
        sockets = '\n[endpoint]\ncontrol_socket = "control"\nkey_agent_socket = "agent"\n'
        (directory / f"{here.name}.toml").write_text(text + sockets)
        environment = {
            VARIABLE: str(self.path),
            "TMPDIR": str(directory),
            "IKEV2_SOCKET": str(directory / "control"),
            "PATH": f"{self.path / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "A": A.address, "B": B.address, "A6": A.address6, "B6": B.address6,
            "PS1": f"{here.name.upper()}$ ",
            "ENV": str(directory / "rc"),
        }  # fmt: skip
        (directory / "introduction").write_text(self.introduction(here) + "\n")
        (directory / "rc").write_text(f"PS1='{here.name.upper()}$ '\ncat '{directory / 'introduction'}'\n")
        bash = shutil.which("bash")
        shell = [bash, "--noprofile", "--rcfile", str(directory / "rc"), "-i"] if bash else ["sh", "-i"]
        namespace = self._lab.host(here.name)
        description = {
            "namespace": f"/proc/{os.getpid()}/fd/{namespace.fd}",
            "environment": environment,
            "shell": shell,
        }
        (directory / HOST).write_text(json.dumps(description))

    def _start(self, place: Place) -> _Log:
        """`ippm-ipsec host` on a host."""
        directory = self.path / place.name
        environment = json.loads((directory / HOST).read_text())["environment"]
        argv = [
            sys.executable, "-m", "binding", "host", "-c", f"{place.name}.toml", "-v",
            "--backend", self.options.backend, "--keylog", "keys", "--pcap", "ike.pcapng",
        ]  # fmt: skip
        process = self._lab.popen(
            place.name, argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env=os.environ | environment | {"PYTHONPATH": _python_path()},
        )  # fmt: skip
        return _Log(process.stdout, directory / "log")

    def _await(self, place: Place, log: _Log) -> None:
        """Until the host serves. IkeError with its last words when it ends before that."""
        for line in log.until_ready():
            if line.startswith("backend "):
                self._say(f"host {place.name.upper()}: {line}")
        if not log.ready:
            raise IkeError(f"host {place.name.upper()} did not start: {log.last or 'it said nothing'}")

    def _bring_up(self) -> None:
        sa = call(self.path / A.name / "control", "up", name=CONNECTION, timeout_s=UP_S)
        self._say(f"IKE SA {sa['spi_i']}:{sa['spi_r']} is up, its Child SA in {self.options.mode} mode")

    # --- the command `lab` ---------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> str:
        """The text that answers a request of `interop.lab.console`. KnobError when it cannot be done."""
        match request.get("do"):
            case "impair":
                chosen = self._chosen(request)
                for impairer, wanted in [(one, change(one.impairments, request["knobs"])) for one in chosen]:
                    self._set([impairer], wanted)
                return self._impairments()
            case "clear":
                self._set(self._chosen(request), Impairments())
                return self._impairments()
            case "show":
                return self._show()
            case "knobs":
                return help_text()
            case "help":
                return self.introduction(A)
            case "rebind" if self._nat is not None:
                self.router.call(self._nat.rebind)
                return "the NAT has forgotten its mappings: the next packet of A gets another port"
            case "rebind":
                raise KnobError("there is no NAT: start the lab with --nat")
            case _:
                raise KnobError(USAGE)

    def _impairers(self) -> dict[str, Impairer]:
        return {"to-b": self.router.schedule.forward, "to-a": self.router.schedule.backward}

    def _chosen(self, request: dict[str, Any]) -> list[Impairer]:
        return [one for name, one in self._impairers().items() if request["where"] in (name, "both")]

    def _set(self, impairers: Sequence[Impairer], wanted: Impairments) -> None:
        def change_them() -> None:
            for impairer in impairers:
                impairer.change(wanted)

        self.router.call(change_them)

    def _impairments(self) -> str:
        return "\n".join(f"{name}: {_path(impairer)}" for name, impairer in self._impairers().items())

    def _show(self) -> str:
        lines = []
        for name, impairer in self._impairers().items():
            counted = [f"{count} {word}" for word, count in asdict(impairer.counters).items() if count]
            lines.append(f"{name}: {_path(impairer)}; {', '.join(counted) or 'no packet yet'}")
        if self._nat is not None:
            ports = sorted(self._nat.ports(A.address).items())
            lines.append(f"NAT {PUBLIC}: UDP ports of A: {', '.join(f'{a} is {b}' for a, b in ports) or 'none'}")
            lines += [f"NAT dropped: {count} {why}" for why, count in self._nat.dropped.items()]
        lines += [f"router dropped: {count} {why}" for why, count in self.router.dropped.items()]
        return "\n".join(lines)


def _path(impairer: Impairer) -> str:
    return " ".join(words(impairer.impairments)) or "a good path"


class _Log:
    """Copies a process's output to a file as it comes, until the process ends."""

    def __init__(self, stream: IO[str] | None, path: Path) -> None:
        assert stream is not None
        self._stream = stream
        self._file = path.open("w", buffering=1)
        self.ready = False
        self.last = ""

    def until_ready(self) -> list[str]:
        """The lines up to that which says that the host serves; what comes later goes to the file alone."""
        lines = []
        for line in self._stream:
            self._file.write(line)
            lines.append(line.rstrip("\n"))
            self.last = lines[-1]
            if line.startswith(READY):
                self.ready = True
                break
        threading.Thread(target=self._copy, name="log", daemon=True).start()
        return lines

    def _copy(self) -> None:
        with self._stream, self._file:
            for line in self._stream:
                self._file.write(line)


class _Console:
    """Answers `interop.lab.console` on a Unix socket; a context manager."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], str]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    reply = {"ok": True, "text": answer(json.loads(self.rfile.readline(65536)))}
                except (KnobError, TimeoutError) as error:
                    reply = {"ok": False, "text": f"lab: {error}"}
                except (ValueError, KeyError):
                    reply = {"ok": False, "text": f"lab: not understood\n{USAGE}"}
                self.wfile.write(json.dumps(reply).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="console", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _python_path() -> str:
    before = os.environ.get("PYTHONPATH")
    return f"{ROOT}:{before}" if before else str(ROOT)
