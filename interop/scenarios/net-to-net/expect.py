"""Tunnel mode between security gateways. RFC 7296 section 1.1.1, RFC 4303 section 3.1.2."""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, and datagrams between the inner addresses."""
    run.bring_up()
    run.datagrams("10.1.0.1", "10.2.0.1", octets=1300)
