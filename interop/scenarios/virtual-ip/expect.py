"""Internal addresses. RFC 7296 sections 2.19 and 3.15.

HDR, SK {IDi, AUTH, CP(CFG_REQUEST), SA, TSi, TSr}  -->
                                               <--  HDR, SK {IDr, AUTH, CP(CFG_REPLY), SA, TSi, TSr}
                                               <--  HDR, SK {IDr, AUTH, N(INTERNAL_ADDRESS_FAILURE)}    other-family
                                               <--  HDR, SK {IDr, AUTH, N(FAILED_CP_REQUIRED)}          not-asked
"""

import ipaddress

from interop.peers.strongswan import WAIT_S, wait_until
from interop.scenarios.run import Run

REFUSALS = {
    "other-family": ("INTERNAL_ADDRESS_FAILURE", r"INT_ADDR_FAIL"),
    "not-asked": ("FAILED_CP_REQUIRED", r"FAIL_CP_REQ"),
}
ADDRESSES = {
    "we-ask": "10.9.0.1",
    "we-ask-by-value": "10.8.0.1",  # strongSwan's pools count up, whatever a new peer suggests
    "we-ask-ipv6": "2001:db8:9::1",
    "peer-asks": "10.9.0.1",
    "peer-asks-ipv6": "2001:db8:9::1",
    "peer-asks-by-value": "10.8.0.77",
}


def expect(run: Run) -> None:
    """An address, datagrams from it and to it, the same after rekeying; or none, and the word for that."""
    if run.case.variant in REFUSALS:
        _refused(run)
        return
    address = ADDRESSES[run.case.variant]
    _up(run, address)
    _datagrams(run, address)
    run.ours.rekey("lab")
    run.ours.rekey("net")
    run.peer_log_has(r"parsed CREATE_CHILD_SA request \d+ \[ N\(REKEY_SA\)")
    run.peer.wait_sas(lambda sas: len(sas) == 1 and len(sas[0].children) == 1)
    _addresses(run, address)
    _datagrams(run, address)
    run.ours.down("lab")
    run.gone()
    run.check("the address is on neither host", address not in _shown(run, "a") + _shown(run, "b"))
    if run.case.we_initiate:
        run.check("strongSwan's lease is offline", not run.peer.list_leases()[address].online)


def _up(run: Run, address: str) -> None:
    run.bring_up()
    _addresses(run, address)
    if run.case.we_initiate:
        run.peer_log_has(r"parsed IKE_AUTH request 1 \[ IDi.* AUTH CPRQ\(ADDR6? DNS6?\) SA TSi TSr")
        run.check("the address is on our host", f"{_network(address)} " in _shown(run, "a"))
        lease = run.peer.list_leases()[address]
        run.same("who has the lease, says strongSwan", (lease.identity, lease.online), ("a.example", True))
        if run.case.variant == "we-ask":
            run.same("DNS servers", run.ours.sas()[0]["dns"], ["10.2.0.53"])
            run.same("networks of the gateway", run.ours.sas()[0]["internal_subnets"], ["10.2.0.0/24"])
    else:
        run.peer_log_has(r"parsed IKE_AUTH response 1 \[ IDr AUTH CPRP\(ADDR.*\) SA TSi TSr")
        run.peer_log_has(rf"installing new virtual IP {address}")
        run.our_log_has(rf"assigning virtual IP {address} to peer 'b.example'")


def _addresses(run: Run, address: str) -> None:
    """Both ends list it, as theirs or the other's, and the selectors are made of it."""
    (ours,) = wait_until(run.ours.sas, lambda sas: len(sas) == 1, WAIT_S)
    (theirs,) = run.peer.list_sas()
    if run.case.we_initiate:
        mine, other, selectors = ours["local_vips"], theirs.remote_vips, theirs.children[0].remote_ts
    else:
        mine, other, selectors = ours["remote_vips"], theirs.local_vips, theirs.children[0].local_ts
    run.same("virtual addresses", tuple(mine), other)
    run.same("virtual address", mine, [address])
    run.same("selectors of who has it", selectors, (_network(address),))


def _datagrams(run: Run, address: str) -> None:
    six = ":" in address
    if run.case.we_initiate:
        run.datagrams(address, "2001:db8:2::1" if six else "10.2.0.1", count=3)
    else:
        run.datagrams("2001:db8:1::1" if six else "10.1.0.1", address, count=3)


def _refused(run: Run) -> None:
    """The IKE SA is made, the Child SA is not."""
    word, logged = REFUSALS[run.case.variant]
    run.refused()
    if run.case.we_initiate:
        run.our_log_has(rf"CHILD_SA net failed: the peer refused: {word}")
        run.peer_log_has(rf"generating IKE_AUTH response 1 \[ IDr AUTH N\({logged}\)")
        (sa,) = run.ours.sas()
        run.same("our IKE SA", (sa["state"], sa["children"], sa["local_vips"]), ("ESTABLISHED", [], []))
        return
    run.our_log_has(r"IKE_SA lab\S* established")
    run.peer_log_has(rf"parsed IKE_AUTH response 1 \[ IDr AUTH N\({logged}\) \]")


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address))


def _shown(run: Run, host: str) -> str:
    return str(run.hosts.run(host, ["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout)
