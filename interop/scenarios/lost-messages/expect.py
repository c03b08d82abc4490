"""Our own messages are spoiled on the way out. RFC 7296 section 2.1."""

from interop.scenarios.run import Run

PEER_SEES = {
    "auth-request-twice": "(received retransmit of|ignoring) request with ID 1",
    "init-response": "retransmit 1 of request with message ID 0",
    "auth-response": "retransmit 1 of request with message ID 1",
    "auth-response-corrupt": "retransmit 1 of request with message ID 1",
}
FIRST_TIMEOUT_MS = 490


def expect(run: Run) -> None:
    """Up in spite of it, with one IKE SA and one Child SA at either end."""
    run.bring_up()
    seen = PEER_SEES.get(run.case.variant)
    if seen is not None:
        run.peer_log_has(seen)
    else:
        run.check("it took our retransmission timeout", run.figures["initiate_ms"] > FIRST_TIMEOUT_MS)
    run.datagrams(count=3)
