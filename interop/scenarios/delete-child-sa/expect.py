"""Each end names the SPI on which it receives; the response names the other one. RFC 7296 section 1.4.1.

HDR, SK {D}  -->
        <--  HDR, SK {D}
"""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import RECEIVE_S, Run


def expect(run: Run) -> None:
    """Up, the Child SA deleted, the IKE SA still there."""
    tunnel = run.bring_up()
    if run.case.variant == "by-us":
        run.ours.down("net")
        run.peer_log_has(rf"received DELETE for ESP CHILD_SA with SPI {tunnel.their_child.spi_out:08x}")
        run.peer_log_has(r"generating INFORMATIONAL response \d+ \[ D \]")
    else:
        run.peer.terminate(child="net")
        run.peer_log_has(rf"received DELETE for ESP CHILD_SA with SPI {tunnel.their_child.spi_out:08x}")
        run.peer_log_has(r"parsed INFORMATIONAL response \d+ \[ D \]")
    theirs = run.peer.wait_sas(lambda sas: len(sas) == 1 and not sas[0].children)
    ours = wait_until(run.ours.sas, lambda sas: len(sas) == 1 and not sas[0]["children"], RECEIVE_S)
    run.checks.append("neither end has the Child SA")
    run.check("the IKE SA is established at both", (ours[0]["state"], theirs[0].state) == ("ESTABLISHED",) * 2)
    run.same("its SPIs", (ours[0]["spi_i"], ours[0]["spi_r"]), tuple(spi.hex() for spi in tunnel.spis))
