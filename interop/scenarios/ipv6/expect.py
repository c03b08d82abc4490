"""The outer addresses are of IPv6, and what is inside is of either family. RFC 7296 sections 1.3, 2.8 and 3.13.1."""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, datagrams, both SAs rekeyed by who began, datagrams."""
    ends = ("10.1.0.1", "10.2.0.1") if run.case.variant == "ipv4-inside" else ("2001:db8::1", "2001:db8::2")
    before = run.bring_up()
    run.same("our end", before.ours["local"], "[2001:db8::1]:4500")
    run.datagrams(*ends, count=3)
    if run.case.we_initiate:
        run.ours.rekey("net")
        run.ours.rekey("lab")
    else:
        run.peer.rekey(child="net")
        run.peer_log_has(r"parsed CREATE_CHILD_SA response \d+ \[ SA No TSi TSr \]")
        run.peer.rekey(ike="lab")
        run.peer_log_has(r"parsed CREATE_CHILD_SA response \d+ \[ SA No KE \]")
    run.peer.wait_sas(
        lambda sas: (
            len(sas) == 1
            and sas[0].spi_i != before.theirs.spi_i
            and [child.spi_in != before.their_child.spi_in for child in sas[0].children] == [True]
        )
    )
    run.established()
    run.datagrams(*ends, count=3)
