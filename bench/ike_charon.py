"""The CPU that a responder takes for one PSK handshake: `ikev2 run` and strongSwan's charon in the same run.

    python bench/ike_charon.py [--handshakes 200] [--rounds 2] [--at-once 30] [--log]

Two hosts in namespaces of this script's own; needs root, /dev/net/tun and charon-systemd. One initiator, on sockets,
makes IKE SAs one after another, and then as many in groups that begin at once; the CPU time, user and system, of the
responder's process with all its threads is read from /proc/PID/stat (to 10 ms) before and after. Both responders have
the same algorithms and ESP in userspace over a TUN device, no cookies (charon: dos_protection = no), and logs that say
nothing of a handshake (charon: level 0; ours: log_lines = 0), or with --log what both keep of it unless told otherwise
(charon: level 1, to a file; ours: 10,000 lines in memory). Once with a Child SA in each and once without (RFC 6023),
which leaves the data planes out. Rounds alternate; medians. Printed, too: what the cryptographic primitives alone take,
timed in this process as in `ike.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ike import ESP, IKE, primitives
from ike_lab import INITIATOR, INITIATOR_ID, PSK_HEX, RESPONDER, RESPONDER_ID, Caller, cpu_s, our_responder

from ikev2.io.netns import Namespace, TwoHosts
from interop.peers.strongswan import StrongSwan
from interop.runner import why_not_here

LIMITS: dict[str, Any] = {
    "cookie_threshold": 1_000_000,
    "half_open_limit": 1_000_000,
    "half_open_per_address": 1_000_000,
}
"""So that each initiator is answered at once, whatever was before."""


class Charon(StrongSwan):
    """charon, of which the process is known."""

    @property
    def pid(self) -> int:
        """Its process."""
        if self._process is None:
            raise SystemExit("charon does not run")
        return self._process.pid


@contextmanager
def charon(namespace: Namespace, directory: Path, *, with_child: bool, with_log: bool = False) -> Iterator[int]:
    """charon as the responder."""
    log = {"path": str(directory / "charon.log"), "default": int(with_log)}
    settings = {"dos_protection": False, "filelog": {"file": log}}
    child = {"esp_proposals": ESP, "local_ts": "dynamic", "remote_ts": "dynamic", "mode": "tunnel"}
    connection: dict[str, Any] = {
        "version": 2,
        "local_addrs": RESPONDER,
        "remote_addrs": INITIATOR,
        "proposals": IKE,
        "unique": "never",
        "childless": "allow",
        "local": {"auth": "psk", "id": RESPONDER_ID},
        "remote": {"auth": "psk", "id": INITIATOR_ID},
        "children": {"net": child},
    }
    with Charon(namespace, directory, settings) as peer:
        secret = {"id-a": INITIATOR_ID, "id-b": RESPONDER_ID, "secret": PSK_HEX}
        peer.load({"bench": connection}, {"ike-bench": secret})
        yield peer.pid


@contextmanager
def ours(namespace: Namespace, directory: Path, *, with_child: bool, with_log: bool = False) -> Iterator[int]:
    """`ikev2 run` as the responder."""
    log: dict[str, Any] = {} if with_log else {"log_lines": 0}
    with our_responder(namespace, directory, with_child=with_child, **LIMITS, **log) as process:
        yield process.pid


@dataclass(frozen=True)
class Taken:
    """CPU milliseconds of the responder for one handshake, and handshakes a second: one after another, and at once."""

    alone_ms: float
    alone_rate: float
    at_once_ms: float
    at_once_rate: float


def measure(responder: Any, directory: Path, handshakes: int, at_once: int, **how: bool) -> Taken:
    """One round with a fresh responder."""
    with TwoHosts((f"{INITIATOR}/24",), (f"{RESPONDER}/24",)) as hosts:
        namespace = hosts.host("b")
        with (
            responder(namespace, directory, **how) as pid,
            closing(Caller(hosts.host("a"), with_child=how["with_child"])) as caller,
        ):
            for _ in range(20):
                caller.handshake(10.0)
            before = cpu_s(pid)
            took = sum(caller.handshake(10.0)[0] for _ in range(handshakes))
            between = cpu_s(pid)
            groups = -(-handshakes // at_once)
            took_at_once = sum(caller.handshakes(at_once, 10.0) for _ in range(groups))
            after = cpu_s(pid)
            number = groups * at_once
            return Taken(
                1e3 * (between - before) / handshakes,
                handshakes / took,
                1e3 * (after - between) / number,
                number / took_at_once,
            )


def report(found: dict[str, list[Taken]], what: str, of: Callable[[Taken], tuple[float, float]]) -> float:
    """The figures of one way of asking; our median."""
    cpu = {name: statistics.median(of(one)[0] for one in rows) for name, rows in found.items()}
    for name, rows in found.items():
        rate = statistics.median(of(one)[1] for one in rows)
        each = " ".join(f"{of(one)[0]:.2f}" for one in rows)
        print(f"  {name:7} {cpu[name]:6.2f} ms of CPU a handshake ({each}), {rate:,.0f}/s {what}")
    print(f"  ikev2 / charon {cpu['ikev2'] / cpu['charon']:.2f} {what}")
    return cpu["ikev2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handshakes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=30)
    parser.add_argument("--log", action="store_true", help="both keep their log")
    arguments = parser.parse_args()
    if (reason := why_not_here()) is not None:
        raise SystemExit(f"charon cannot run here: {reason}")
    with tempfile.TemporaryDirectory(prefix="ike-charon-") as base:
        for with_child in (True, False):
            found: dict[str, list[Taken]] = {"ikev2": [], "charon": []}
            for number in range(arguments.rounds):
                for name, responder in (("ikev2", ours), ("charon", charon)):
                    directory = Path(base) / f"{name}-{with_child}-{number}"
                    found[name].append(
                        measure(
                            responder,
                            directory,
                            arguments.handshakes,
                            arguments.at_once,
                            with_child=with_child,
                            with_log=arguments.log,
                        )
                    )
            print(f"responder, PSK, {IKE}, " + (f"Child SA {ESP}" if with_child else "no Child SA"))
            alone = report(found, "one after another", lambda one: (one.alone_ms, one.alone_rate))
            together = report(found, f"{arguments.at_once} at once", lambda one: (one.at_once_ms, one.at_once_rate))
            crypto = 1e3 * primitives(300)
            print(
                f"  the primitives of ikev2 alone {crypto:.2f} ms: {100 * crypto / alone:.0f} % of it one after "
                f"another, {100 * crypto / together:.0f} % of it at once"
            )


if __name__ == "__main__":
    main()
