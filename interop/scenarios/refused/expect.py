"""AUTHENTICATION_FAILED and NO_PROPOSAL_CHOSEN, from the responder in its response, from the initiator afterwards.

HDR, SK {IDi, AUTH, ...}  -->
                     <--  HDR, SK {N(AUTHENTICATION_FAILED)}          the responder refuses
                     <--  HDR, SK {IDr, AUTH, ...}
HDR, SK {N(AUTHENTICATION_FAILED)}  -->                               the initiator refuses, INFORMATIONAL

RFC 7296 sections 1.2 and 2.21.2.
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Refused with the right words, nothing left."""
    words = run.refused()
    if run.case.variant == "no-ike-proposal":
        run.check("the initiator names NO_PROPOSAL_CHOSEN", "NO_PROPOSAL_CHOSEN" in words)
        run.peer_log_has(r"IKE_SA_INIT response 0 \[ N\(NO_PROP\) \]")
    elif run.case.variant == "we-are-unknown" and not run.case.we_initiate:
        run.peer_log_has(r"INFORMATIONAL request \d+ \[ N\(AUTH_FAILED\) \]")
    else:
        run.check("the initiator names AUTHENTICATION_FAILED", "AUTHENTICATION_FAILED" in words)
        run.peer_log_has(r"IKE_AUTH response 1 \[ N\(AUTH_FAILED\) \]")
    run.gone()
