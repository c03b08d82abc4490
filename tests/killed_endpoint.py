"""An endpoint that is killed (kill -9) while it negotiates, rekeys or deletes, and started again: for any backend.

RFC 7296 section 2.4: the peer hears nothing, and INITIAL_CONTACT tells it later.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interop.peers.ours import Ours
from interop.peers.strongswan import wait_until

POINTS = 5
"""Moments at which it is killed, in each of the actions."""

ACTIONS: dict[str, Callable[[Ours], object]] = {
    "negotiating and installing": lambda alice: alice.up("lab"),
    "rekeying the Child SA": lambda alice: alice.rekey("net"),
    "rekeying the IKE SA": lambda alice: alice.rekey("lab"),
    "deleting": lambda alice: alice.down("lab"),
}


@dataclass
class Scene:
    """Alice is killed, the server is not. `traces`: what of an endpoint is on alice's host; `traffic` passes or raises.

    `span_s` is about what an action takes: the moments lie within it.
    """

    alice: Ours
    server: Ours
    traces: Callable[[], object]
    traffic: Callable[[], None]
    span_s: float
    wait_s: float

    def server_has_one_sa(self) -> None:
        """INITIAL_CONTACT took those of the dead endpoint away; what was half open ends by its own timer."""

        def one(sas: list[dict[str, Any]]) -> bool:
            up = [sa for sa in sas if sa["state"] != "HALF_OPEN"]
            return [(sa["state"], len(sa["children"])) for sa in up] == [("ESTABLISHED", 1)]

        wait_until(self.server.sas, one, self.wait_s, "one established IKE SA with one Child SA")


def settings(host: str, local: str, peer: str, remote: str) -> dict[str, object]:
    """The connection of one end."""
    return {
        "local_addrs": [local],
        "remote_addrs": [remote],
        "proposals": ["aes256gcm16-prfsha256-curve25519"],
        "retransmit_timeout": "500ms",
        "retransmit_base": 1.4,
        "local": {"id": f"{host}.example"},
        "remote": {"id": f"{peer}.example"},
        "children": {"net": {"esp_proposals": ["aes256gcm16"]}},
    }


def kill_at_moments(scene: Scene, action: str) -> list[object]:
    """At each moment: kill, start, compare with a fresh start, bring up, send. What each death had left."""
    rng = random.Random(action)
    alice = scene.alice
    fresh = scene.traces()
    left = []
    for _ in range(POINTS):
        if action != "negotiating and installing":
            alice.up("lab")

        def act() -> None:
            with contextlib.suppress(Exception):  # its end hangs up
                ACTIONS[action](alice)

        acting = threading.Thread(target=act)
        acting.start()
        moment = rng.uniform(0, scene.span_s)
        time.sleep(moment)  # the moment is the point of the test
        alice.kill()
        acting.join()
        left.append(scene.traces())
        alice.start()
        assert scene.traces() == fresh, f"killed after {moment:.3f} s"
        alice.up("lab")
        scene.server_has_one_sa()
        scene.traffic()
        (sa,) = alice.sas()
        assert [child["packets_in"] for child in sa["children"]] == [1], f"killed after {moment:.3f} s"
        alice.down("lab")
    return left
