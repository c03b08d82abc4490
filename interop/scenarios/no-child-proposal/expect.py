"""NO_PROPOSAL_CHOSEN and TS_UNACCEPTABLE beside a good AUTH. RFC 7296 sections 1.2 and 2.21.2.

HDR, SK {IDi, AUTH, SAi2, TSi, TSr}  -->
                     <--  HDR, SK {IDr, AUTH, N(NO_PROPOSAL_CHOSEN)}
"""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import RECEIVE_S, Run

NOTIFY = {
    "esp": (r"N\(NO_PROP\)", "NO_PROPOSAL_CHOSEN"),
    "selectors": (r"N\(TS_UNACCEPT\)", "TS_UNACCEPTABLE"),
}


def expect(run: Run) -> None:
    """Refused by name; both ends have the same IKE SA, and no Child SA."""
    notify, name = NOTIFY[run.case.variant]
    run.check(f"the initiator names {name}", name in run.refused())
    run.peer_log_has(rf"IKE_AUTH response 1 \[ IDr AUTH {notify} \]")
    [theirs] = run.peer.wait_sas(lambda sas: [sa.state for sa in sas] == ["ESTABLISHED"])
    [ours] = wait_until(run.ours.sas, lambda sas: [sa["state"] for sa in sas] == ["ESTABLISHED"], RECEIVE_S)
    run.same("SPIs of the IKE SA", (ours["spi_i"], ours["spi_r"]), (theirs.spi_i.hex(), theirs.spi_r.hex()))
    run.check("neither has a Child SA", not ours["children"] and not theirs.children)
