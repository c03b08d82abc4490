"""RFC 6023: IKE_AUTH without SA and traffic selectors. RFC 7717 section 5.1 needs SK_d only.

HDR, SK {IDi, [IDr,] AUTH}  -->
                       <--  HDR, SK {IDr, AUTH}
HDR, SK {SA, Ni, TSi, TSr}  -->                       what we have configured comes in an exchange of its own
                       <--  HDR, SK {SA, Nr, TSi, TSr}
"""

from interop.peers.strongswan import wait_until
from interop.scenarios.run import RECEIVE_S, Run, Tunnel


def expect(run: Run) -> None:
    """IKE SA up alone, secret equal."""
    if run.case.we_initiate:
        tunnel = run.bring_up()
        run.peer_log_has(r"parsed IKE_AUTH request 1 \[ IDi N\(INIT_CONTACT\) IDr AUTH \]")
        run.peer_log_has(r"parsed CREATE_CHILD_SA request 2 \[ SA No TSi TSr \]")
        run.datagrams(count=3)
    else:
        run.peer.initiate_ike("lab")
        run.our_log_has(r"generating IKE_AUTH response 1 \[ IDr AUTH \]")
        [theirs] = run.peer.wait_sas(lambda sas: [sa.state for sa in sas] == ["ESTABLISHED"])
        [ours] = wait_until(run.ours.sas, lambda sas: [sa["state"] for sa in sas] == ["ESTABLISHED"], RECEIVE_S)
        tunnel = Tunnel(ours, theirs)
        run.check("there is no Child SA", not ours["children"] and not theirs.children)
    run.same_secret(tunnel, "rfc7717", run.logged_keys(tunnel).sk["SK_d"], b"IPPM")
