"""`ippm-ipsec twping` beside `ikev2 run`, and a server whose IKE daemon is strongSwan. RFC 7717 sections 5.1 to 5.4."""

import json
import sys

from interop.peers.strongswan import ROOT
from interop.scenarios.run import Mismatch, Run

PACKETS = 20


def expect(run: Run) -> None:
    """Up, measured with equal keys, all of it through the tunnel."""
    tunnel = run.bring_up()
    before = run.counters()
    with run.oracle_server():
        argv = [sys.executable, "-m", "binding", "twping", "192.0.2.2", "-c", str(run.ours.config_path)]
        argv += ["-A", run.case.variant[0].upper(), "--path", "tunnel", "-n", str(PACKETS), "-i", "0.01", "--json"]
        done = run.hosts.run("a", argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Mismatch(f"twping ends with {done.returncode}: {done.stderr[-500:]}")
    [measured] = json.loads(done.stdout)["runs"]
    result = measured["result"]
    run.same("packets sent and lost", (result["sent"], result["lost"]), (PACKETS, 0))
    run.same("mode", measured["mode"], run.case.variant)
    if run.case.variant != "open":
        ike = measured["ike"]
        run.same("KeyID: SPIi and SPIr", (ike["spi_i"], ike["spi_r"]), tuple(spi.hex() for spi in tunnel.spis))
    after = run.counters()
    for side, name in enumerate(("our", "strongSwan's")):
        for way in ("in", "out"):
            more = after[side][f"packets_{way}"] - before[side][f"packets_{way}"]
            run.check(f"{name} Child SA counted at least {PACKETS} packets {way}", more >= PACKETS)
