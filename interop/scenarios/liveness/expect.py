"""Checks for liveness. RFC 7296 sections 1.4 and 2.4.

HDR, SK {}  -->
       <--  HDR, SK {}
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, silent, asked, answered, still up."""
    run.bring_up()
    if run.case.variant == "by-us":
        run.peer_log_has(r"parsed INFORMATIONAL request \d+ \[ \]")
        run.our_log_has(r"parsed INFORMATIONAL response \d+ \[ \]")
    else:
        run.peer_log_has("sending DPD request")
        run.peer_log_has(r"parsed INFORMATIONAL response \d+ \[ \]")
    run.established()
    run.datagrams(count=3)
