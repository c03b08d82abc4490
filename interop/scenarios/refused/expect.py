"""AUTHENTICATION_FAILED and NO_PROPOSAL_CHOSEN. RFC 7296 sections 1.2 and 2.21."""

from interop.scenarios.run import Run

NOTIFY = {
    "wrong-psk": ("AUTHENTICATION_FAILED", r"N\(AUTH_FAILED\)"),
    "unknown-identity": ("AUTHENTICATION_FAILED", r"N\(AUTH_FAILED\)"),
    "no-ike-proposal": ("NO_PROPOSAL_CHOSEN", r"N\(NO_PROP\)"),
}


def expect(run: Run) -> None:
    """Refused with the right words, nothing left."""
    name, notify = NOTIFY[run.case.variant]
    words = run.refused()
    run.check(f"the initiator names {name}", name in words)
    run.peer_log_has(notify)
    run.gone()
