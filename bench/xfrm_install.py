"""How long SAs take into the kernel, and out of it. Run: python bench/xfrm_install.py [--sas 10000] [--pairs 1000]

In a namespace of this script's own where this kernel has ESP; else in a User-Mode Linux guest that it boots, whose one
CPU pays some 60 times as much for a system call as the machine itself: its figures are the worst case.

- as messages alone: NEWSA for every SA, one request after the other;
- as the backend does it: pairs, each of another peer: an SPI from the kernel, both SAs, eleven policies (three of the
  pair, eight that let IKE pass), the state file; then every pair deleted; then a crash with all of them in the kernel,
  and the next start that cleans up.

Wall clock and CPU time, user and system.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "ikev2"))

from xfrm_support import child_pair

from ikev2.core.child_sa import ChildSaParameters
from ikev2.io.netns import Namespace
from ikev2.ipsec.xfrm import plan
from ikev2.ipsec.xfrm.backend import XfrmBackend
from ikev2.ipsec.xfrm.kernel import XfrmSocket
from ikev2.wire.payloads.ts import TrafficSelector
from interop.lab.uml import GuestOptions, run_in_guest, why_not

ROOT = Path(__file__).resolve().parents[1]
IN_GUEST = "--in-guest"


def child(number: int) -> ChildSaParameters:
    """The host's end of one Child SA, with a peer and a network of its own."""
    high, low = divmod(number, 250)
    return child_pair(
        "aes256gcm16",
        b=f"198.{18 + high // 250}.{high % 250}.{1 + low}",
        ts_b=(TrafficSelector.from_network(f"10.{high}.{low}.0/24"),),
        spi_a=0x100000 + number,
        spi_b=0x200000 + number,
        reqid=1 + number,
        seed=number,
    )[0]


@contextmanager
def measured(what: str, sas: int) -> Iterator[None]:
    wall, cpu = time.monotonic(), time.process_time()
    yield
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(f"  {what}: {wall:.2f} s, {sas / wall:,.0f} SAs/s, CPU {cpu:.2f} s", flush=True)


def messages_alone(sas: int) -> None:
    children = [child(number) for number in range(sas // 2)]
    planned = [plan.plan_child(one, plan.kernel_reqid(0, one.reqid)) for one in children]
    with XfrmSocket() as kernel:
        with measured(f"{sas} SAs as messages alone", sas):
            for one in planned:
                kernel.new_sa(one.inbound)
                kernel.new_sa(one.outbound)
        with measured("  listed", sas):
            found = len(kernel.dump_sas())
        if found != sas:
            raise SystemExit(f"{found} SAs are there, not {sas}")
        with measured("  flushed", sas):
            kernel.flush_sas()


def policies_alone(pairs: int) -> None:
    """What any kernel with XFRM can do, also one without ESP: SPIs, policies and the state file of so many pairs."""
    children = [child(number) for number in range(pairs)]
    with tempfile.TemporaryDirectory() as state:
        backend = XfrmBackend(Path(state))
        backend.open()
        with measured(f"SPIs and policies of {pairs} pairs, without their SAs", 2 * pairs):
            for one in children:
                backend.allocate_spi(one.local, one.remote)
                planned = plan.plan_child(one, plan.kernel_reqid(backend.instance, one.reqid))
                backend._policy_table.add((*backend._ike_policies(one), *planned.policies))
        with measured("  removed at the end", 2 * pairs):
            backend.close()


def the_backend(pairs: int) -> None:
    sas = 2 * pairs
    children = [child(number) for number in range(pairs)]
    with tempfile.TemporaryDirectory() as state:
        backend = XfrmBackend(Path(state))
        backend.open()
        with measured(f"{pairs} pairs by the backend, with SPIs, policies and state file", sas):
            for number, one in enumerate(children):
                children[number] = replace(one, spi_in=backend.allocate_spi(one.local, one.remote))
                backend.install(children[number])
        with measured("  deleted", sas):
            for one in children:
                backend.delete(one)
        for one in children:
            backend.install(one)
        # As kill -9: what holds the number goes with the process, the file and the kernel's tables stay.
        lock = backend._lock
        assert lock is not None
        lock.release()
        fresh = XfrmBackend(Path(state))
        with measured("  found and removed by the next start", sas):
            fresh.open()
        fresh.close()
        backend._children.clear()
        backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sas", type=int, default=10_000, help="as messages alone")
    parser.add_argument("--pairs", type=int, default=1000, help="by the backend")
    parser.add_argument(IN_GUEST, dest="in_guest", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with Namespace("install") as namespace:
        probe = namespace.call(XfrmBackend.probe)
        if probe.ok:
            where = "the guest" if arguments.in_guest else "this kernel"
            print(f"AES-256-GCM in {where}:", flush=True)
            namespace.call(lambda: messages_alone(arguments.sas))
            namespace.call(lambda: policies_alone(arguments.pairs))
            namespace.call(lambda: the_backend(arguments.pairs))
            return
        if arguments.in_guest:
            raise SystemExit(probe.reason)
        print(f"{probe.reason}\nWhat there is in this kernel:", flush=True)
        namespace.call(lambda: policies_alone(arguments.pairs))
    if (reason := why_not()) is not None:
        raise SystemExit(f"no guest: {reason}")
    options = GuestOptions(memory="1G", prewarm=True, timeout_s=300, working_directory=ROOT)
    argv = [
        sys.executable,
        str(Path(__file__)),
        IN_GUEST,
        "--sas",
        str(arguments.sas),
        "--pairs",
        str(arguments.pairs),
    ]
    raise SystemExit(run_in_guest(argv, options, stream=sys.stdout.buffer).status)


if __name__ == "__main__":
    main()
