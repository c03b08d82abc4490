"""A handle on the secret is held over the deletion, as an O/TWAMP session does. RFC 7296 section 1.4.1, RFC 7717 5.1.

HDR, SK {D}  -->
        <--  HDR, SK {}
"""

from contextlib import closing

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, deleted, gone at both; the secret stays."""
    tunnel = run.bring_up()
    with closing(run.ours.key(*tunnel.spis)) as handle:
        secret = handle.secret(b"IPPM")
        if run.case.variant == "by-us":
            run.ours.down("lab")
            run.peer_log_has(r"received DELETE for IKE_SA lab")
            run.peer_log_has(r"generating INFORMATIONAL response \d+ \[ \]")
        else:
            run.peer.terminate(ike="lab")
            run.our_log_has("the peer deleted the IKE SA")
            run.peer_log_has(r"parsed INFORMATIONAL response \d+ \[ \]")
        run.gone()
        run.same("secret of the handle held over the deletion", handle.secret(b"IPPM"), secret)
    with closing(run.ours.key(*tunnel.spis)) as late:
        run.same("secret of a handle opened soon after the deletion", late.secret(b"IPPM"), secret)
