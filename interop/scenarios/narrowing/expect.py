"""TSi and TSr of the response are subsets of those of the request. RFC 7296 section 2.9."""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up with the narrower selectors, and datagrams pass."""
    tunnel = run.bring_up()
    run.same("selectors after narrowing", tunnel.their_child.local_ts, ("192.0.2.2/32",))
    run.same("selectors after narrowing", tunnel.their_child.remote_ts, ("192.0.2.1/32",))
    run.datagrams(count=3)
