"""The whole path, and RFC 7717's secret against an IKE daemon that is not ours.

strongSwan's log has SK_d and the Child SA keys; HMAC over them is computed by the runner with Python's own library.
RFC 7717 section 5.1, RFC 7296 sections 2.14 and 2.17.
"""

from interop.scenarios.run import Run

SID = bytes(range(0xA0, 0xB0))


def expect(run: Run) -> None:
    """Up, datagrams, keys, down."""
    tunnel = run.bring_up()
    run.datagrams()
    keys = run.logged_keys(tunnel)
    run.same_secret(tunnel, "rfc7717", keys.sk["SK_d"], b"IPPM")
    run.same_secret(tunnel, "skd-sid", keys.sk["SK_d"], SID)
    for server_is_local in (False, True):
        run.same_secret(tunnel, "keymat-sid", keys.keymat(), SID, server_is_local=server_is_local)
