"""SET_WINDOW_SIZE towards a peer with a window of one. RFC 7296 section 2.3.

HDR, SK {IDi, ..., N(SET_WINDOW_SIZE)}  -->
                                 <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up with the notify in IKE_AUTH, rekeyed by strongSwan, where it comes again on the new IKE SA; down again."""
    before = run.bring_up()
    kind = "request" if run.case.we_initiate else "response"
    run.peer_log_has(rf"parsed IKE_AUTH {kind} 1 \[ .*N\(SET_WINSIZE\)")
    run.peer.rekey(ike="lab")
    run.peer.wait_sas(lambda sas: len(sas) == 1 and sas[0].spi_i != before.theirs.spi_i)
    run.established(role="responder")
    run.datagrams(count=3)
    run.ours.down("lab")
    run.peer_log_has(r"parsed INFORMATIONAL request 0 \[ D N\(SET_WINSIZE\) \]")
    run.gone()
