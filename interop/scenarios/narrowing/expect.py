"""TSi and TSr of the response are subsets of those of the request. RFC 7296 section 2.9.

Ours are the first, strongSwan's the second; addresses and ports between which datagrams then pass are the third.
"""

from interop.scenarios.run import Run

HOSTS = (("192.0.2.1", "192.0.2.2", 0, 0),)
ADDRESSES = (("192.0.2.1/32",), ("192.0.2.2/32",), HOSTS)
SEVERAL = (
    ("10.1.0.0/24", "192.0.2.1/32"),
    ("10.2.0.0/24", "192.0.2.2/32"),
    (*HOSTS, ("10.1.0.1", "10.2.0.1", 0, 0), ("192.0.2.1", "10.2.0.1", 0, 0)),
)
PORTS = (
    ("192.0.2.1/32[udp/6666]",),
    ("192.0.2.2/32[udp/7777]",),
    (("192.0.2.1", "192.0.2.2", 6666, 7777),),
)
PROTOCOL = (("192.0.2.1/32[udp]",), ("192.0.2.2/32[udp]",), HOSTS)
EXPECTED = {"more": ADDRESSES, "several": SEVERAL, "port": PORTS, "protocol": PROTOCOL}


def expect(run: Run) -> None:
    """Up with the narrower selectors, and datagrams pass."""
    tunnel = run.bring_up()
    ours, theirs, pairs = EXPECTED[run.case.variant.rpartition("-")[2]]
    run.same("our selectors after narrowing", tunnel.their_child.remote_ts, ours)
    run.same("strongSwan's selectors after narrowing", tunnel.their_child.local_ts, theirs)
    for our_address, peer_address, our_port, peer_port in pairs:
        run.datagrams(our_address, peer_address, count=3, our_port=our_port, peer_port=peer_port)
