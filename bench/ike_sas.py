"""Many established IKE SAs in one process: the memory of each, and whether a message costs the same among many.

    python bench/ike_sas.py [--sas 10000] [--messages 2000]

A responder without sockets; at a tenth of the SAs and at all of them: what a handshake costs it, and a liveness
check (an empty INFORMATIONAL request) of an SA picked at random. Medians of CPU time; memory is what Python has
allocated (tracemalloc, in a second pass with a tenth of the SAs) and what the process takes from the system.
Then handshakes again with INITIAL_CONTACT in each, of as many initiators with identities of their own.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import time
import tracemalloc

from ike import A, B, drain, handshake, manager

from ikev2.core.ike_sa import IkeSa
from ikev2.core.manager import SaManager


def resident_octets() -> int:
    """The resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def liveness(initiator: SaManager, responder: SaManager, sa: IkeSa) -> float:
    """One empty request of this initiator's SA and its answer; the responder's CPU seconds."""
    initiator.check_liveness(sa, 0.0)
    (request,) = drain(initiator)
    started = time.process_time()
    responder.receive_datagram(request, B, A, 0.0)
    (answer,) = drain(responder)
    spent = time.process_time() - started
    initiator.receive_datagram(answer, A, B, 0.0)
    drain(initiator)
    return spent


def pair() -> tuple[SaManager, SaManager]:
    """An initiator and a responder."""
    return manager(A, B, ("a.example", "b.example")), manager(B, A, ("b.example", "a.example"))


def with_initial_contact(count: int) -> None:
    """What a handshake costs among many when each peer says that it has no other SA."""
    responder = manager(B, A, ("b.example", None), initial_contact=True)
    spent = []
    for number in range(count):
        initiator = manager(A, B, (f"a{number}.example", "b.example"), initial_contact=True)
        spent.append(handshake(initiator, responder, 0.0))
    if len(responder.sas) != count:
        raise SystemExit(f"{len(responder.sas)} IKE SAs, {count} wanted")
    first, last = statistics.median(spent[: count // 10]), statistics.median(spent[-(count // 10) :])
    print(
        f"with INITIAL_CONTACT: {last * 1e6:,.0f} us of the responder's CPU, {last / first:.2f} of the first tenth"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sas", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=2_000)
    arguments = parser.parse_args()
    initiator, responder = pair()
    handshake(initiator, responder, 0.0)
    gc.collect()
    before = resident_octets()
    first: dict[str, float] = {}
    for count in (arguments.sas // 10, arguments.sas):
        spent = [handshake(initiator, responder, 0.0) for _ in range(count - len(responder.sas))]
        sas = initiator.sas
        if len(responder.sas) != count:
            raise SystemExit(f"{len(responder.sas)} IKE SAs, {count} wanted")
        checks = [liveness(initiator, responder, random.choice(sas)) for _ in range(arguments.messages)]
        figures = {"handshake": statistics.median(spent[-1000:]), "liveness check": statistics.median(checks)}
        first = first or figures
        grown = (resident_octets() - before) / (2 * (count - 1))
        print(
            f"{count:,} IKE SAs, each with a Child SA: {grown / 1024:.1f} KiB of resident memory for each (goal 15)"
        )
        for name, figure in figures.items():
            ratio = figure / first[name]
            print(f"  {name}: {figure * 1e6:,.0f} us of the responder's CPU, {ratio:.2f} of the first")
    del initiator, responder, sas
    gc.collect()
    initiator, responder = pair()
    handshake(initiator, responder, 0.0)
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(arguments.sas // 10):
        handshake(initiator, responder, 0.0)
    gc.collect()
    kept = (tracemalloc.get_traced_memory()[0] - start) / (2 * (arguments.sas // 10))
    print(f"allocated by Python for each: {kept / 1024:.1f} KiB")
    del initiator, responder
    tracemalloc.stop()  # it slows down all that comes after it
    with_initial_contact(arguments.sas)


if __name__ == "__main__":
    main()
