"""ESP in UDP though there is no NAT: an end claims to be behind one. RFC 7296 section 2.23.

The data plane of strongSwan in user space claims it always, so that its own end is seen behind a NAT in any case.
"""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up on 4500, ESP in UDP, and who claimed what is seen."""
    tunnel = run.bring_up()
    claimed = run.case.variant != "begun-on-4500"
    run.same("we claim to be behind a NAT", tunnel.ours["nat_local"], claimed)
    run.same("our port", tunnel.ours["local"], "192.0.2.1:4500")
    run.same("strongSwan's port", tunnel.ours["remote"], "192.0.2.2:4500")
    run.check("ESP is in UDP", tunnel.our_child["encap"])
    run.same("strongSwan sees us behind a NAT", tunnel.theirs.nat_remote, claimed)
    run.datagrams()
