"""INVALID_KE_PAYLOAD names the group. RFC 7296 sections 1.2 and 3.4.

HDR(A,0), SAi1, KEi, Ni  -->
                    <--  HDR(A,0), N(INVALID_KE_PAYLOAD)
HDR(A,0), SAi1, KEi', Ni  -->
                    <--  HDR(A,B), SAr1, KEr, Nr
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Refused once, then up with the responder's group."""
    run.initiate()
    if run.case.we_initiate:
        run.peer_log_has("CURVE_25519 unacceptable, requesting ECP_256")
        run.our_log_has(r"parsed IKE_SA_INIT response 0 \[ N\(INVAL_KE\) \]")
    else:
        run.peer_log_has("peer didn't accept (DH|key exchange) .*CURVE_25519, it requested ECP_256")
    tunnel = run.established()
    run.check("the group is ECP_256", "ECP_256" in tunnel.theirs.suite and tunnel.ours["suite"].endswith("ecp256"))
    run.datagrams(count=3)
