"""Runs inside the guest: `ikev2 run` over the kernel's ESP is killed at 20 moments, and started again.

Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test module: `test_uml_killed.py` boots the
guest once, runs this, and looks at the lines.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from killed_endpoint import ACTIONS, POINTS, Scene, kill_at_moments, settings  # noqa: E402

from ikev2.io.netns import TwoHosts  # noqa: E402
from ikev2.ipsec.xfrm.kernel import XfrmSocket  # noqa: E402
from ikev2.ipsec.xfrm.state import default_directory, namespace_name  # noqa: E402
from interop.peers.ours import Ours  # noqa: E402

ALICE, SERVER = "192.0.2.1", "192.0.2.2"
WAIT_S = 45.0
SPAN_S = 0.3
"""About what an action takes in the guest."""


def traces(hosts: TwoHosts) -> tuple[object, ...]:
    """SAs, policies and state files of alice's host."""

    def look() -> tuple[object, ...]:
        with XfrmSocket() as kernel:
            files = default_directory().glob(f"xfrm-{namespace_name()}-*")
            return (
                sorted(f"{sa.info.spi:08x} reqid {sa.info.reqid:08x}" for sa in kernel.dump_sas()),
                sorted(f"{one.info.direction.name} {one.info.priority}" for one in kernel.dump_policies()),
                sorted(path.name for path in files),
            )

    return hosts.call("a", look)


def traffic_passes(hosts: TwoHosts) -> None:
    with contextlib.ExitStack() as stack:
        socks = []
        for host, address in (("a", ALICE), ("b", SERVER)):
            sock = stack.enter_context(hosts.call(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            sock.bind((address, 0))
            sock.settimeout(WAIT_S)
            socks.append(sock)
        for sender, receiver in (socks, socks[::-1]):
            sender.sendto(b"alive", receiver.getsockname())
            assert receiver.recvfrom(100) == (b"alive", sender.getsockname())


def left_over(scene: Scene, action: str) -> None:
    """Most moments leave something to clean up; all of them a state file."""
    left = [one for one in kill_at_moments(scene, action) if isinstance(one, tuple)]
    assert len(left) == POINTS
    assert all(files for _, _, files in left), left
    if action != "deleting":
        assert any(sas and (policies or action.startswith("neg")) for sas, policies, _ in left), left


def nothing_at_the_end(scene: Scene) -> None:
    scene.alice.up("lab")
    scene.alice.stop()
    assert scene.traces() == ([], [], [])


CASES: dict[str, Callable[[Scene], None]] = {
    **{action: lambda scene, action=action: left_over(scene, action) for action in ACTIONS},  # type: ignore[misc]
    "nothing of ours is left at the end": nothing_at_the_end,
}


def main(names: list[str]) -> int:
    failed = 0
    psk = f"0x{secrets.token_hex(32)}"
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = stack.enter_context(TwoHosts((f"{ALICE}/24",), (f"{SERVER}/24",)))
        ends = []
        for host, name, local, peer, remote in (
            ("a", "alice", ALICE, "server", SERVER),
            ("b", "server", SERVER, "alice", ALICE),
        ):
            document = {
                "connections": {"lab": settings(name, local, peer, remote)},
                "endpoint": {"backend": "xfrm"},
            }
            ends.append(stack.enter_context(Ours(hosts.host(host), directory / name, document, psk)))
        scene = Scene(ends[0], ends[1], lambda: traces(hosts), lambda: traffic_passes(hosts), SPAN_S, WAIT_S)
        for name in names or CASES:
            began, error = time.monotonic(), ""
            try:
                CASES[name](scene)
            except Exception:
                error = traceback.format_exc() + ends[0].log()[-3000:]
                failed += 1
            seconds = round(time.monotonic() - began, 2)
            print(json.dumps({"case": name, "ok": not error, "error": error, "seconds": seconds}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
