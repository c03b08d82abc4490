"""Behind a NAT with ports, in either direction. RFC 7296 section 2.23, RFC 3948.

198.51.100.1 (ours) --- [NAT 203.0.113.5] --- 203.0.113.2 (strongSwan)
198.51.100.1 (ours) --- [198.51.100.5 NAT] --- 203.0.113.2 (strongSwan)
"""

from interop.peers.strongswan import wait_until
from interop.scenarios.cases import BY_NAT
from interop.scenarios.run import RECEIVE_S, Run


def expect(run: Run) -> None:
    """Up on 4500, datagrams; after the NAT has forgotten all, again, once the end behind it has sent something."""
    side = run.case.nat
    behind = BY_NAT[side][side]
    tunnel = run.bring_up()
    run.same("the port of the end behind the NAT", {500, 4500}, set(run.nat.ports(behind)))
    outside = run.nat.ports(behind)[4500]
    seen = f"{BY_NAT[side]['seen']}:{outside}"
    if side == "ours":
        run.same(
            "our view of the NAT", (tunnel.ours["nat_local"], tunnel.ours["remote"]), (True, "203.0.113.2:4500")
        )
        run.same("strongSwan's view of us", tunnel.theirs.remote, seen)
    else:
        run.same("our view of the NAT", tunnel.ours["nat_local"], False)
        run.same("our view of strongSwan", (tunnel.ours["nat_remote"], tunnel.ours["remote"]), (True, seen))
    run.datagrams("10.1.0.1", "10.2.0.1")
    if side == "ours":
        wait_until(lambda: run.nat.keepalives, lambda kept: kept[(behind, 4500)] > 2, RECEIVE_S, "keepalives")
        run.check("our keepalives pass the NAT", True)
    run.rebind()
    if side == "ours":
        run.ours.rekey("net")  # strongSwan follows IKE messages only
    else:
        run.datagram_of_peer("10.1.0.1", "10.2.0.1")
        run.our_log_has("moved to")
    tunnel = run.established()
    moved = f"{BY_NAT[side]['seen']}:{run.nat.ports(behind)[4500]}"
    run.check("the mapping is another one", moved != seen)
    run.same(
        "where the end behind the NAT is seen now",
        tunnel.theirs.remote if side == "ours" else tunnel.ours["remote"],
        moved,
    )
    run.datagrams("10.1.0.1", "10.2.0.1")
