"""What installing and deleting a Child SA costs the userspace backend when several hundred are there.

    python bench/userspace_install.py [--pairs 500]        # root, /dev/net/tun

In a namespace of this script's own. Once all pairs are of one peer and one network, which share their rules and
routes, and once each is of another peer and another network. Medians of CPU time, user and system, of all threads,
over the first 50 and the last 50: their ratio says how the cost grows with what is there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "ikev2"))

from esp_support import child_pair

from ikev2.core.child_sa import ChildSaParameters
from ikev2.io.netns import TwoHosts, probe_namespaces
from ikev2.ipsec.userspace import UserspaceBackend
from ikev2.wire.payloads.ts import TrafficSelector

LOCAL = "192.0.2.1"
SAMPLE = 50


def child(number: int, *, own_peer: bool) -> ChildSaParameters:
    """The host's end of one Child SA."""
    high, low = divmod(number, 250)
    peer = f"198.51.{100 + high}.{1 + low}" if own_peer else "192.0.2.2"
    network = f"10.{high}.{low}.0/24" if own_peer else "10.0.0.0/8"
    return child_pair(
        "aes256gcm16",
        b=peer,
        ts_b=(TrafficSelector.from_network(network),),
        spis=(0x10000 + number, 0x20000 + number),
        seed=number,
    )[0]


def measure(pairs: int, *, own_peer: bool) -> None:
    """Install all, delete all, print."""
    children = [child(number, own_peer=own_peer) for number in range(pairs)]
    backend = UserspaceBackend()
    backend.open()
    try:
        figures: dict[str, list[float]] = {"install": [], "delete": []}
        backend.install(children[0])
        for one in children[1:]:
            started = time.process_time()
            backend.install(one)
            figures["install"].append(time.process_time() - started)
        for one in children[1:]:
            started = time.process_time()
            backend.delete(one)
            figures["delete"].append(time.process_time() - started)
    finally:
        backend.close()
    print(f"{pairs} pairs, " + ("each of another peer and network" if own_peer else "of one peer and one network"))
    for name, spent in figures.items():
        first, last = (statistics.median(part) * 1e3 for part in (spent[:SAMPLE], spent[-SAMPLE:]))
        print(
            f"  {name}: {first:.3f} ms the first {SAMPLE}, {last:.3f} ms the last {SAMPLE}, ratio {last / first:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    arguments = parser.parse_args()
    probe = probe_namespaces()
    if not probe.ok:
        raise SystemExit(probe.reason)
    with TwoHosts((f"{LOCAL}/24",), ("192.0.2.2/24",)) as hosts:
        hosts.run("a", ["ip", "route", "add", "default", "via", "192.0.2.2"])
        for own_peer in (False, True):
            hosts.call("a", lambda own_peer=own_peer: measure(arguments.pairs, own_peer=own_peer))


if __name__ == "__main__":
    main()
