"""IDi and IDr of the types of RFC 7296 section 3.5. strongSwan takes an identity for the same in the same type only.

HDR, SK {IDi, [IDr,] AUTH, ...}  -->
                            <--  HDR, SK {IDr, AUTH, ...}
"""

from interop.scenarios.run import Run

TYPES = {
    "email": ("ID_RFC822_ADDR", "ID_RFC822_ADDR"),
    "key-id": ("ID_KEY_ID", "ID_KEY_ID"),
    "ipv4": ("ID_IPV4_ADDR", "ID_IPV4_ADDR"),
    "ipv6": ("ID_IPV6_ADDR", "ID_IPV6_ADDR"),
    "fqdn-and-email": ("ID_FQDN", "ID_RFC822_ADDR"),
    "pattern": ("ID_FQDN", "ID_FQDN"),
    "distinguished-name": ("ID_DER_ASN1_DN", "ID_DER_ASN1_DN"),
    "distinguished-name-pattern": ("ID_DER_ASN1_DN", "ID_DER_ASN1_DN"),
}
"""Ours and strongSwan's."""


def expect(run: Run) -> None:
    """Up, and both ends list the same two identities; the types are looked at in what was sent."""
    tunnel = run.bring_up()
    # Octets each end writes in its own way, and the list of `swanctl --raw` ends a name at a space.
    if run.case.variant != "key-id" and not run.case.variant.startswith("distinguished-name"):
        run.same("our identity", tunnel.ours["local_id"], tunnel.theirs.remote_id)
        run.same("strongSwan's identity", tunnel.ours["remote_id"], tunnel.theirs.local_id)
    ours, theirs = TYPES[run.case.variant]
    types = (ours, theirs) if run.case.we_initiate else (theirs, ours)
    run.sent_identities(*types)
    run.datagrams(count=3)
