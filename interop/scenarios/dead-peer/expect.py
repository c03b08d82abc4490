"""One end is stopped or killed as a process: the network is there, nobody answers. RFC 7296 section 2.4."""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, the one falls silent, the other's SAs go."""
    run.bring_up()
    if run.case.variant == "by-us":
        with run.peer.paused():
            wait_until(run.ours.sas, lambda sas: not sas, 15.0, "the end of our IKE SA")
            run.our_log_has("IKE_SA .* (deleted|failed)")
        return
    run.ours.kill()
    run.peer_log_has("sending DPD request")
    run.peer_log_has(r"giving up after \d+ retransmits")
    run.peer.wait_sas(lambda sas: not sas)
    run.checks.append("strongSwan has no SA any more")
