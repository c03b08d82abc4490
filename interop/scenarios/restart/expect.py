"""The first IKE_AUTH request carries N(INITIAL_CONTACT). RFC 7296 section 2.4."""

from interop.scenarios.run import Run


def expect(run: Run) -> None:
    """Up, killed, up again; strongSwan has one IKE SA."""
    before = run.bring_up()
    run.ours.kill()
    run.ours.start()
    after = run.bring_up()
    run.peer_log_has("destroying duplicate IKE_SA for peer 'a.example', received INITIAL_CONTACT")
    run.check("it is another IKE SA", before.spis != after.spis)
    run.datagrams(count=3)
