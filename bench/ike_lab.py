"""What the IKE benches share: `ikev2 run` as a responder in a namespace, and an initiator on blocking sockets."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ike import ESP, IKE, Spis, SystemOctets

from ikev2.core.config import ChildConfig, Childless, ConnectionConfig, Identity, Limits
from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager
from ikev2.core.state import State
from ikev2.core.types import Address
from ikev2.crypto.secret import SecretOctets
from ikev2.crypto.suites import parse_esp_proposal, parse_ike_proposal
from ikev2.io.netns import Namespace
from interop.peers.ours import to_toml
from interop.peers.strongswan import end, start_and_wait

INITIATOR, RESPONDER = "192.0.2.1", "192.0.2.2"
INITIATOR_ID, RESPONDER_ID = "a.example", "b.example"
PSK_HEX = "0x" + b"a pre-shared key of this bench".hex()
NON_ESP_MARKER = bytes(4)
MARKED_PORT = 4500


def cpu_s(pid: int) -> float:
    """The CPU seconds, user and system, that a process has used with all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_octets(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Caller:
    """An initiator in a namespace: one SaManager on two blocking sockets, one handshake after the other.

    There is no backend: Child SAs are negotiated, and nothing is installed at this end.
    """

    def __init__(self, namespace: Namespace, *, with_child: bool) -> None:
        connection = ConnectionConfig(
            name="bench", local_addrs=(INITIATOR,), remote_addrs=(RESPONDER,), proposals=(parse_ike_proposal(IKE),),
            local_id=Identity.parse(INITIATOR_ID), remote_id=Identity.parse(RESPONDER_ID),
            psk=SecretOctets("psk", bytes.fromhex(PSK_HEX[2:])), send_initial_contact=False,
            children=(ChildConfig("net", esp_proposals=(parse_esp_proposal(ESP),)),) if with_child else (),
            childless=Childless.ALLOW if with_child else Childless.FORCE,
        )  # fmt: skip
        self.manager = SaManager((connection,), SystemOctets(), Spis(), Limits())
        self._sockets = {port: namespace.call(lambda port=port: _bound(port)) for port in (500, MARKED_PORT)}

    def close(self) -> None:
        """Close the sockets; the responder is not told."""
        for sock in self._sockets.values():
            sock.close()

    def handshake(self, timeout_s: float) -> tuple[float, IkeSa]:
        """Make one IKE SA; the seconds it took. SystemExit when it does not come up."""
        started = time.monotonic()
        sa = self.manager.initiate("bench", Address(RESPONDER, 500), Address(INITIATOR, 500), started)
        while time.monotonic() < started + timeout_s:
            self._turn(started + timeout_s)
            if sa.state is State.ESTABLISHED:
                return time.monotonic() - started, sa
            if sa.state is State.CLOSED:
                break
        raise SystemExit(f"the handshake failed in state {sa.state}")

    def handshakes(self, count: int, timeout_s: float) -> float:
        """Make so many IKE SAs at once; the seconds it took. SystemExit when they do not all come up."""
        started = time.monotonic()
        ends = Address(RESPONDER, 500), Address(INITIATOR, 500)
        sas = [self.manager.initiate("bench", *ends, started) for _ in range(count)]
        self._send()
        sockets = list(self._sockets.values())
        while any(sa.state is not State.ESTABLISHED for sa in sas):
            if time.monotonic() > started + timeout_s:
                raise SystemExit(f"not all of {count} handshakes came up")
            for sock in select.select(sockets, (), (), 0.5)[0]:
                self._receive(sock)
            self.manager.handle_timer(time.monotonic())
            self._send()
        return time.monotonic() - started

    def _send(self) -> None:
        while self.manager.next_event() is not None:
            pass
        for datagram in self.manager.datagrams_to_send():
            octets = NON_ESP_MARKER + datagram.data if datagram.local.port == MARKED_PORT else datagram.data
            self._sockets[datagram.local.port].sendto(octets, datagram.remote)

    def _turn(self, deadline: float) -> None:
        self._send()
        if any(sa.state not in (State.ESTABLISHED, State.CLOSED) for sa in self.manager.sas[-1:]):
            now = time.monotonic()
            timer = self.manager.next_timer()
            wait = max(0.0, min(deadline, deadline if timer is None else timer) - now)
            for sock in select.select(list(self._sockets.values()), (), (), wait)[0]:
                self._receive(sock)
        self.manager.handle_timer(time.monotonic())

    def _receive(self, sock: socket.socket) -> None:
        data, source = sock.recvfrom(65535)
        port = sock.getsockname()[1]
        if port == MARKED_PORT:
            if not data.startswith(NON_ESP_MARKER):
                return
            data = data[len(NON_ESP_MARKER) :]
        local, remote = Address(INITIATOR, port), Address(source[0], source[1])
        self.manager.receive_datagram(data, local, remote, time.monotonic())
        self._send()


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((INITIATOR, port))
    return sock


@contextmanager
def our_responder(
    namespace: Namespace, directory: Path, *, with_child: bool, remote: str = INITIATOR, **endpoint: Any
) -> Iterator[subprocess.Popen[Any]]:
    """`ikev2 run` in a namespace, with the log in memory or, by `log_lines=0`, with none; ended on leaving."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = directory / "bench.psk"
    secret.touch(mode=0o600)
    secret.write_text(PSK_HEX + "\n")
    child = {"esp_proposals": [ESP]}
    connection: dict[str, Any] = {
        "local_addrs": [RESPONDER],
        "remote_addrs": [remote],
        "proposals": [IKE],
        "local": {"auth": "psk", "id": RESPONDER_ID},
        "remote": {"auth": "psk", "id": INITIATOR_ID},
        "encap": with_child,
        "children": {"net": child} if with_child else {},
    }
    document = {
        "connections": {"bench": connection},
        "secrets": {"bench": {"file": secret.name}},
        "endpoint": {"backend": "userspace", "control_socket": "control", "key_agent_socket": "agent"} | endpoint,
    }
    (directory / "bench.toml").write_text(to_toml(document))
    argv = [sys.executable, "-m", "ikev2", "run", "-c", str(directory / "bench.toml")]
    log = directory / "log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = start_and_wait(
            namespace, argv, directory, lambda: log.read_text(errors="replace"), os.environ, output
        )
        stack.callback(end, process)
        yield process
