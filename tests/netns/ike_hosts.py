"""Endpoints of ours behind and in front of a router in user space: `ikev2 run` with the userspace backend.

alice 10.0.0.2 ---+
                  nat 203.0.113.1 (public 203.0.113.5) --- server 203.0.113.2
bob   10.0.1.2 ---+
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.lab.nat import Nat44, Router
from interop.lab.netns import Lab
from interop.peers.ours import Ours
from interop.peers.strongswan import wait_until

ALICE, BOB, SERVER, PUBLIC = "10.0.0.2", "10.0.1.2", "203.0.113.2", "203.0.113.5"
INSIDE = ("10.0.0.0/24", "10.0.1.0/24")
WAIT_S = 45.0


@dataclass
class Site:
    """The hosts, and the router between them."""

    lab: Lab
    router: Router
    directory: Path
    psk: str
    stack: ExitStack

    @property
    def nat(self) -> Nat44:
        assert self.router.nat is not None
        return self.router.nat

    def run(self, host: str, connection: dict[str, Any], child: dict[str, Any] | None = None) -> Ours:
        """`ikev2 run` on a host until the end of the test. Its identity is HOST.example."""
        settings = {
            "proposals": ["aes256gcm16-prfsha256-curve25519"],
            "retransmit_timeout": "500ms",
            "retransmit_base": 1.4,
            "children": {"net": {"esp_proposals": ["aes256gcm16"]} | (child or {})},
            "local": {"id": f"{host}.example"},
        } | connection
        document = {"connections": {"lab": settings}, "endpoint": {"backend": "userspace"}}
        ours = Ours(self.lab.host(host), self.directory / host, document, self.psk)
        return self.stack.enter_context(ours)

    def client(self, host: str, child: dict[str, Any] | None = None, **connection: Any) -> Ours:
        """An initiator behind the router."""
        local = {"alice": ALICE, "bob": BOB}[host]
        base = {"local_addrs": [local], "remote_addrs": [SERVER], "remote": {"id": "server.example"}}
        return self.run(host, base | connection, child)

    def server(self, child: dict[str, Any] | None = None, **connection: Any) -> Ours:
        """A responder for anybody."""
        return self.run("server", {"local_addrs": [SERVER], "remote_addrs": ["%any"]} | connection, child)

    def udp(self, host: str, address: str) -> socket.socket:
        """A UDP socket on a host, for the length of the test."""
        sock = self.lab.call(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.stack.enter_context(sock)
        sock.bind((address, 0))
        sock.settimeout(WAIT_S)
        return sock


@contextmanager
def site(directory: Path, *, nat: Nat44 | None, **router: Any) -> Iterator[Site]:
    """Hosts and router, without endpoints so far."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.link("alice", f"{ALICE}/24", "nat", "10.0.0.1/24")
        lab.link("bob", f"{BOB}/24", "nat", "10.0.1.1/24")
        lab.link("nat", "203.0.113.1/24", "server", f"{SERVER}/24")
        lab.route("alice", "default", "10.0.0.1")
        lab.route("bob", "default", "10.0.1.1")
        lab.route("server", "10.0.0.0/16", "203.0.113.1")
        running = stack.enter_context(Router(lab.host("nat"), INSIDE, nat=nat, **router))
        yield Site(lab, running, directory, f"0x{secrets.token_hex(32)}", stack)


def exchange(one: socket.socket, other: socket.socket, data: bytes = bytes(200)) -> None:
    """A datagram from one to the other, and its answer back to where the other saw it come from."""
    one.sendto(data, other.getsockname())
    got, source = other.recvfrom(65535)
    assert got == data
    other.sendto(got, source)
    assert one.recvfrom(65535) == (data, other.getsockname())


def only_sa(ours: Ours) -> dict[str, Any]:
    """The one established IKE SA of an endpoint, as soon as it is there with its child."""
    sas = wait_until(
        ours.sas,
        lambda found: [sa["state"] for sa in found] == ["ESTABLISHED"] and len(found[0]["children"]) == 1,
        WAIT_S,
        "one IKE SA with one Child SA",
    )
    return sas[0]
