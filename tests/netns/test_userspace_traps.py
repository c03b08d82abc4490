"""A packet begins the Child SA that is to carry it (`start_action = "trap"`), over the userspace backend.

alice 192.0.2.1 --- 192.0.2.2 server. The kernel's traps are proved in tests/uml. RFC 4301 section 4.4.1, RFC 7296
section 2.9.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import WAIT_S, exchange, only_sa

from interop.lab.netns import Lab, why_no_namespaces
from interop.peers.ours import Ours
from interop.peers.strongswan import wait_until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(120),
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

ALICE, SERVER = "192.0.2.1", "192.0.2.2"


def document(host: str, local: str, peer: str, remote: str, start_action: str) -> dict[str, object]:
    child = {"esp_proposals": ["aes256gcm16"], "start_action": start_action}
    settings = {
        "local_addrs": [local],
        "remote_addrs": [remote],
        "proposals": ["aes256gcm16-prfsha256-curve25519"],
        "local": {"id": f"{host}.example"},
        "remote": {"id": f"{peer}.example"},
        "children": {"net": child},
    }
    return {"connections": {"lab": settings}, "endpoint": {"backend": "userspace"}}


def test_a_packet_begins_the_child_sa_and_again_when_that_is_gone(tmp_path: Path) -> None:
    psk = f"0x{secrets.token_hex(32)}"
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.link("alice", f"{ALICE}/24", "server", f"{SERVER}/24")
        server = stack.enter_context(
            Ours(lab.host("server"), tmp_path / "server", document("server", SERVER, "alice", ALICE, "none"), psk)
        )
        alice = stack.enter_context(
            Ours(lab.host("alice"), tmp_path / "alice", document("alice", ALICE, "server", SERVER, "trap"), psk)
        )
        socks = []
        for host, address in (("alice", ALICE), ("server", SERVER)):
            sock = stack.enter_context(lab.call(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            sock.bind((address, 0))
            sock.settimeout(WAIT_S)
            socks.append(sock)
        (trap,) = alice.traps()
        assert (trap["name"], trap["connection"], trap["ts_remote"]) == ("net", "lab", [f"{SERVER}/32"])
        for _ in range(2):
            socks[0].sendto(b"knock", socks[1].getsockname())
            wait_until(alice.sas, lambda sas: bool(sas and sas[0]["children"]), WAIT_S, "a Child SA by traffic")
            assert alice.stats()["backend_drops"]["no-sa"] >= 1
            exchange(socks[0], socks[1])  # nothing else is waiting there: the knock did not arrive
            assert only_sa(alice)["children"][0]["packets_out"] == 1
            server.down("lab")
            wait_until(alice.sas, lambda sas: not sas, WAIT_S, "no IKE SA")
