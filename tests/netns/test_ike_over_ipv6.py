"""Two endpoints of ours over IPv6, IKE and ESP: `ikev2 run` on either host; tshark reads the capture with the key log.

    alice 2001:db8::1 ===== 2001:db8::2 server

RFC 7296, RFC 4303, RFC 3948 over RFC 8200.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import exchange, only_sa

from interop.lab.netns import Lab, why_no_namespaces
from interop.peers.ours import Capture, Ours

pytestmark = [
    pytest.mark.netns,
    pytest.mark.tshark,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

ALICE, SERVER = "2001:db8::1", "2001:db8::2"


def dissected(capture: Path, keys: Path, home: Path) -> list[dict[str, Any]]:
    """The layers of each packet of the capture, decrypted with the key log."""
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(keys), "HOME": str(home)}
    argv = ["tshark", "-r", str(capture), "-o", "udp.check_checksum:TRUE", "-T", "json", "--no-duplicate-keys"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, timeout=120)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


@pytest.mark.parametrize("encap", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_ike_and_esp_over_ipv6_as_tshark_sees_them(tmp_path: Path, mode: str, encap: bool) -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        interface, _ = lab.link("alice", f"{ALICE}/64", "server", f"{SERVER}/64")
        psk = f"0x{secrets.token_hex(32)}"
        running: dict[str, Ours] = {}
        for host, local, remote in (("server", SERVER, ALICE), ("alice", ALICE, SERVER)):
            other = "server" if host == "alice" else "alice"
            connection = {
                "local_addrs": [local],
                "remote_addrs": [remote],
                "proposals": ["aes256gcm16-prfsha256-curve25519"],
                "encap": encap,
                "local": {"id": f"{host}.example"},
                "remote": {"id": f"{other}.example"},
                "children": {"net": {"mode": mode, "esp_proposals": ["aes256gcm16"]}},
            }
            document = {"connections": {"lab": connection}, "endpoint": {"backend": "userspace"}}
            capture = Capture(interface, tmp_path / "host.pcapng") if host == "alice" else None
            ours = Ours(lab.host(host), tmp_path / host, document, psk, capture=capture)
            running[host] = stack.enter_context(ours)
        alice, server = running["alice"], running["server"]
        alice.up("lab")
        here, there = only_sa(alice), only_sa(server)
        port = 4500 if encap else 500
        assert (here["local"], here["remote"]) == (f"[{ALICE}]:{port}", f"[{SERVER}]:{port}")
        assert here["children"][0]["encap"] is there["children"][0]["encap"] is encap
        socks = []
        for host, address in (("alice", ALICE), ("server", SERVER)):
            sock = lab.call(host, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            stack.enter_context(sock)
            sock.bind((address, 0))
            sock.settimeout(30)
            socks.append(sock)
        for _ in range(5):
            exchange(*socks)
        mine, theirs = only_sa(alice)["children"][0], only_sa(server)["children"][0]
        octets = 5 * ((40 if mode == "tunnel" else 0) + 8 + 200)
        assert (
            (mine["packets_out"], mine["octets_out"]) == (theirs["packets_in"], theirs["octets_in"]) == (5, octets)
        )
        assert (
            (mine["packets_in"], mine["octets_in"]) == (theirs["packets_out"], theirs["octets_out"]) == (5, octets)
        )
        alice.rekey("net")
        alice.rekey("lab")
        exchange(*socks)
        alice.down("lab")
    packets = dissected(tmp_path / "host.pcapng", tmp_path / "alice" / "keys", tmp_path)
    esp = [layers for layers in packets if "esp" in layers]
    assert len(esp) == 12
    for layers in esp:
        assert ("udp" in layers["frame"]["frame.protocols"].split("esp")[0]) is encap
        assert '"esp.icv_good": "1"' in json.dumps(layers["esp"])
        assert '"data.len": "200"' in json.dumps(layers)
    text = json.dumps(packets)
    assert "Malformed" not in text
    assert "isakmp.enc.decrypted" in text
