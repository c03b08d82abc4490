"""An endpoint that dies at any moment (kill -9) leaves nothing that its next start does not clean up.

alice 192.0.2.1 --- 192.0.2.2 server, both with the userspace backend; alice is killed while it negotiates, installs,
rekeys or deletes, is started again, and has a new Child SA that carries traffic. RFC 7296 section 2.4.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_endpoint import ACTIONS, Scene, kill_at_moments, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import WAIT_S, exchange

from ikev2.ipsec.nftables import NftSocket
from interop.lab.netns import Lab, why_no_namespaces
from interop.peers.ours import Ours

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(180),
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

ALICE, SERVER = "192.0.2.1", "192.0.2.2"


def traces(lab: Lab) -> tuple[str, str, str]:
    """What of an endpoint is in alice's host: rules, routes, devices and tables of nftables."""

    def said(command: str) -> str:
        return str(lab.run("alice", command.split(), capture_output=True, text=True).stdout)

    rules = [line for family in ("-4", "-6") for line in said(f"ip {family} rule").splitlines()]
    nftables = lab.call("alice", NftSocket)
    try:
        tables = nftables.tables()
    finally:
        nftables.close()
    return (
        "\n".join(line for line in rules if "proto 73" in line),
        said("ip route show table all proto 73"),
        " ".join([*(word for word in said("ip -o link").split() if word.startswith("ikesp")), *tables]),
    )


def traffic_passes(lab: Lab) -> None:
    with contextlib.ExitStack() as stack:
        socks = []
        for host, address in (("alice", ALICE), ("server", SERVER)):
            sock = lab.call(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            stack.enter_context(sock)
            sock.bind((address, 0))
            sock.settimeout(WAIT_S)
            socks.append(sock)
        exchange(socks[0], socks[1])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    psk = f"0x{secrets.token_hex(32)}"
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.link("alice", f"{ALICE}/24", "server", f"{SERVER}/24")
        ends = []
        for host, local, peer, remote in (("alice", ALICE, "server", SERVER), ("server", SERVER, "alice", ALICE)):
            document = {
                "connections": {"lab": settings(host, local, peer, remote)},
                "endpoint": {"backend": "userspace"},
            }
            ends.append(stack.enter_context(Ours(lab.host(host), tmp_path / host, document, psk)))
        yield Scene(ends[0], ends[1], lambda: traces(lab), lambda: traffic_passes(lab), 0.08, WAIT_S)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_next_start_cleans_up_and_works(scene: Scene, action: str) -> None:
    for left in kill_at_moments(scene, action):
        assert left[0], "the rules of the dead endpoint are there: there is something to clean up"  # type: ignore[index]
        assert left[2] == "ikesp0", "and its table, but not its device"  # type: ignore[index]
    scene.alice.stop()
    assert scene.traces() == ("", "", "")
