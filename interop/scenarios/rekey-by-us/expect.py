"""CREATE_CHILD_SA from us. RFC 7296 sections 1.3.2, 1.3.3, 2.8, 2.17 and 2.18.

HDR, SK {[N(REKEY_SA),] SA, Ni, ...}  -->
                                 <--  HDR, SK {SA, Nr, ...}
HDR, SK {D}  -->
"""

from contextlib import closing

from interop.scenarios.run import Run, Tunnel

SID = bytes(range(0xB0, 0xC0))


def expect(run: Run) -> None:
    """A new SA in place of the old, and datagrams before and after; twice for the Child SA."""
    before = run.bring_up()
    run.datagrams(count=3)
    if run.case.variant.startswith("ike-sa"):
        with closing(run.ours.key(*before.spis)) as handle:
            secret = handle.secret(b"IPPM")
            run.ours.rekey("lab")
            ike_rekeyed(run, before)
            run.same("secret of the old IKE SA, held", handle.secret(b"IPPM"), secret)
        run.ours.down("lab")
        run.gone()
        return
    after = child_rekeyed(run, before)
    if run.case.variant == "child-sa-other-group":
        run.peer_log_has(r"generating CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]")
    if run.case.variant != "child-sa":
        run.peer_log_has(r"parsed CREATE_CHILD_SA request \d+ \[ N\(REKEY_SA\) SA No KE TSi TSr \]")
    child_rekeyed(run, after)


def ike_rekeyed(run: Run, before: Tunnel) -> None:
    """Another IKE SA, of which we are the initiator, has inherited the Child SA."""
    run.peer.wait_sas(lambda sas: len(sas) == 1 and sas[0].spi_i != before.theirs.spi_i)
    after = run.established(role="initiator")
    run.same("ESP SPI before and after", after.their_child.spi_in, before.their_child.spi_in)
    run.datagrams(count=3)
    run.same_secret(after, "rfc7717", run.logged_keys(after).sk["SK_d"], b"IPPM")
    # Message ids count from 0 again.
    run.ours.rekey("net")
    run.peer_log_has(r"parsed CREATE_CHILD_SA request 0 \[ N\(REKEY_SA\)")


def child_rekeyed(run: Run, before: Tunnel) -> Tunnel:
    """The same IKE SA, another Child SA with fresh keys."""
    run.ours.rekey("net")
    run.peer.wait_sas(
        lambda sas: (
            [child.state for child in sas[0].children] == ["INSTALLED"]
            and sas[0].children[0].spi_in != before.their_child.spi_in
        )
    )
    after = run.established()
    run.same("SPIs of the IKE SA before and after", after.spis, before.spis)
    run.datagrams(count=3)
    run.same_secret(after, "keymat-sid", run.logged_keys(after).keymat(), SID)
    return after
