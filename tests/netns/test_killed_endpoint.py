"""An endpoint that dies at any moment (kill -9) leaves nothing that its next start does not clean up.

alice 192.0.2.1 --- 192.0.2.2 server, both with the userspace backend; alice is killed while it negotiates, installs,
rekeys or deletes, is started again, and has a new Child SA that carries traffic. RFC 7296 section 2.4.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import WAIT_S, exchange, only_sa

from interop.lab.netns import Lab, why_no_namespaces
from interop.peers.ours import Ours
from interop.peers.strongswan import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(180),
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

ALICE, SERVER = "192.0.2.1", "192.0.2.2"
POINTS = 5
"""Moments at which alice is killed, in each of the four actions."""
SPAN_S = 0.08
"""About what an action takes; the moments lie within it."""


@dataclass
class Hosts:
    lab: Lab
    alice: Ours
    server: Ours

    def traces(self) -> tuple[str, str, str]:
        """What of an endpoint is in alice's host: rules, routes, devices."""
        rules = [line for family in ("-4", "-6") for line in self.said(f"ip {family} rule").splitlines()]
        return (
            "\n".join(line for line in rules if "proto 73" in line),
            self.said("ip route show table all proto 73"),
            " ".join(word for word in self.said("ip -o link").split() if word.startswith("ikesp")),
        )

    def said(self, command: str) -> str:
        done = self.lab.run("alice", command.split(), capture_output=True, text=True)
        return str(done.stdout)

    def server_has_one_sa(self) -> None:
        """INITIAL_CONTACT took those of the dead endpoint away; what was half open ends by its own timer."""

        def one(sas: list[dict[str, Any]]) -> bool:
            up = [sa for sa in sas if sa["state"] != "HALF_OPEN"]
            return [(sa["state"], len(sa["children"])) for sa in up] == [("ESTABLISHED", 1)]

        wait_until(self.server.sas, one, WAIT_S, "one established IKE SA with one Child SA")

    def traffic_passes(self) -> None:
        with contextlib.ExitStack() as stack:
            socks = []
            for host, address in (("alice", ALICE), ("server", SERVER)):
                sock = self.lab.call(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stack.enter_context(sock)
                sock.bind((address, 0))
                sock.settimeout(5)
                socks.append(sock)
            exchange(socks[0], socks[1])


def document(host: str, local: str, peer: str, remote: str) -> dict[str, object]:
    settings = {
        "local_addrs": [local],
        "remote_addrs": [remote],
        "proposals": ["aes256gcm16-prfsha256-curve25519"],
        "retransmit_timeout": "500ms",
        "retransmit_base": 1.4,
        "local": {"id": f"{host}.example"},
        "remote": {"id": f"{peer}.example"},
        "children": {"net": {"esp_proposals": ["aes256gcm16"]}},
    }
    return {"connections": {"lab": settings}, "endpoint": {"backend": "userspace"}}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    psk = f"0x{secrets.token_hex(32)}"
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.link("alice", f"{ALICE}/24", "server", f"{SERVER}/24")
        server = Ours(lab.host("server"), tmp_path / "server", document("server", SERVER, "alice", ALICE), psk)
        alice = Ours(lab.host("alice"), tmp_path / "alice", document("alice", ALICE, "server", SERVER), psk)
        stack.enter_context(server)
        stack.enter_context(alice)
        yield Hosts(lab, alice, server)


ACTIONS: dict[str, Callable[[Ours], object]] = {
    "negotiating and installing": lambda alice: alice.up("lab"),
    "rekeying the Child SA": lambda alice: alice.rekey("net"),
    "rekeying the IKE SA": lambda alice: alice.rekey("lab"),
    "deleting": lambda alice: alice.down("lab"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_next_start_cleans_up_and_works(hosts: Hosts, action: str) -> None:
    rng = random.Random(action)
    alice = hosts.alice
    fresh = hosts.traces()
    for _ in range(POINTS):
        if action != "negotiating and installing":
            alice.up("lab")

        def act() -> None:
            with contextlib.suppress(Exception):  # its end hangs up
                ACTIONS[action](alice)

        acting = threading.Thread(target=act)
        acting.start()
        moment = rng.uniform(0, SPAN_S)
        time.sleep(moment)  # the moment is the point of the test
        alice.kill()
        acting.join()
        assert hosts.traces()[0], "the rules of the dead endpoint are there: there is something to clean up"
        alice.start()
        assert hosts.traces() == fresh, f"killed after {moment:.3f} s"
        alice.up("lab")
        only_sa(alice)
        hosts.server_has_one_sa()
        hosts.traffic_passes()
        assert only_sa(alice)["children"][0]["packets_in"] == 1, f"killed after {moment:.3f} s"
        alice.down("lab")
    alice.stop()
    assert hosts.traces() == ("", "", "")
