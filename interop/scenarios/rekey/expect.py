"""What an implementation without CREATE_CHILD_SA owes its peer. RFC 7296 sections 1.3 and 2.21.3, RFC 7717 5.1.

HDR, SK {[N(REKEY_SA),] SA, Ni, ...}  -->
                                 <--  HDR, SK {N(NO_ADDITIONAL_SAS)}
HDR, SK {D}  -->                                 and IKE_SA_INIT again, from port 4500
"""

from contextlib import closing

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Refused, a new tunnel in its place; the secret of the old one is held."""
    before = run.bring_up()
    with closing(run.ours.key(*before.spis)) as handle:
        secret = handle.secret(b"IPPM")
        if run.case.variant == "ike-sa":
            run.peer.rekey(ike="lab")
        else:
            run.peer.rekey(child="net")
        run.peer_log_has(r"parsed CREATE_CHILD_SA response \d+ \[ N\(NO_ADD_SAS\) \]")
        run.peer_log_has("starting reauthentication")
        run.peer.wait_sas(lambda sas: len(sas) == 1 and sas[0].spi_i != before.theirs.spi_i)
        after = run.established(role="responder")
        run.datagrams(count=3)
        run.same("secret of the old IKE SA, held", handle.secret(b"IPPM"), secret)
        run.same_secret(after, "rfc7717", run.logged_keys(after).sk["SK_d"], b"IPPM")
