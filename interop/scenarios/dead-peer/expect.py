"""strongSwan is stopped as a process: the network is there, nobody answers. RFC 7296 section 2.4."""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, the peer falls silent, our SAs go."""
    run.bring_up()
    with run.peer.paused():
        wait_until(run.ours.sas, lambda sas: not sas, 15.0, "the end of our IKE SA")
        run.our_log_has("IKE_SA .* (deleted|failed)")
