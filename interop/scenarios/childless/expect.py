"""RFC 6023: IKE_AUTH without SA and traffic selectors. RFC 7717 section 5.1 needs SK_d only."""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import RECEIVE_S, Run, Tunnel


def expect(run: Run) -> None:
    """IKE SA up alone, secret equal."""
    run.peer.initiate_ike("lab")
    [theirs] = run.peer.wait_sas(lambda sas: [sa.state for sa in sas] == ["ESTABLISHED"])
    [ours] = wait_until(run.ours.sas, lambda sas: [sa["state"] for sa in sas] == ["ESTABLISHED"], RECEIVE_S)
    tunnel = Tunnel(ours, theirs)
    run.check("there is no Child SA", not ours["children"] and not theirs.children)
    run.same_secret(tunnel, "rfc7717", run.logged_keys(tunnel).sk["SK_d"], b"IPPM")
