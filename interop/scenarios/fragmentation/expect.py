"""Encrypted Fragment payloads, each with an integrity check of its own. RFC 7383 section 2.5.

HDR, SKF(1 of 2) {...}  -->
HDR, SKF(2 of 2) {...}  -->
        <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}

Only what is too long is cut: strongSwan 5.9 takes an INFORMATIONAL request that begins with SKF for one in clear,
and drops it.
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, after strongSwan put our fragments together, or we those of strongSwan; down again."""
    run.bring_up()
    if run.case.variant != "peers":
        run.peer_log_has(r"received fragment #\d+ of [2-9], reassembled fragmented IKE message")
    if run.case.variant != "ours":
        run.peer_log_has(r"splitting IKE message \(\d+ bytes\) into \d+ fragments")
    run.datagrams(count=3)
    run.ours.down("lab")
    run.peer_log_has(r"parsed INFORMATIONAL request \d+ \[ D \]")
    run.gone()
