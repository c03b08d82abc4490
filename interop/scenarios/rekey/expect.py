"""CREATE_CHILD_SA from strongSwan. RFC 7296 sections 1.3.2, 1.3.3 and 2.18, RFC 7717 section 5.1.

HDR, SK {[N(REKEY_SA),] SA, Ni, ...}  -->
                                 <--  HDR, SK {SA, Nr, ...}
HDR, SK {D}  -->
"""

from contextlib import closing

from interop.scenarios.run import Run, Tunnel

SID = bytes(range(0xB0, 0xC0))


def expect(run: Run) -> None:
    """A new SA in place of the old, with keys that both ends know; the secret of the old one is held."""
    before = run.bring_up()
    with closing(run.ours.key(*before.spis)) as handle:
        secret = handle.secret(b"IPPM")
        rekey_ike = run.case.variant == "ike-sa"
        if rekey_ike:
            run.peer.rekey(ike="lab")
        else:
            run.peer.rekey(child="net")
        run.peer_log_has(r"parsed CREATE_CHILD_SA response \d+ \[ SA No ")
        if rekey_ike:
            ike_rekeyed(run, before)
        else:
            child_rekeyed(run, before)
        run.same("secret of the old IKE SA, held", handle.secret(b"IPPM"), secret)


def ike_rekeyed(run: Run, before: Tunnel) -> None:
    """Another IKE SA, which has inherited the Child SA; its SK_d gives another secret."""
    run.peer.wait_sas(lambda sas: len(sas) == 1 and sas[0].spi_i != before.theirs.spi_i)
    after = run.established(role="responder")
    run.same("ESP SPI before and after", after.their_child.spi_in, before.their_child.spi_in)
    run.datagrams(count=3)
    # strongSwan 5.9 logs the new keys while it still works on the old IKE SA, 6.0 under the new one's number.
    sk_d = run.logged_keys(after if run.has_logged_keys(after) else before).sk["SK_d"]
    run.same_secret(after, "rfc7717", sk_d, b"IPPM")
    run.ours.down("lab")
    # Its message ids count from 0 again.
    run.peer_log_has(r"parsed INFORMATIONAL request 0 \[ D \]")
    run.gone()


def child_rekeyed(run: Run, before: Tunnel) -> None:
    """The same IKE SA, another Child SA with fresh keys."""
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
