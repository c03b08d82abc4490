"""A router between two hosts whose further link is narrow: what ESP makes of the ICMP errors that it sends.

    a 192.0.2.1 -- v0 == r0 -- router -- r1 == v0 -- 198.51.100.1 b

The router is a Linux kernel that forwards; it answers what does not fit and must not be cut. RFC 4301 section 8.2.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from userspace_hosts import RemoteHost, why_not

_reason = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(_reason), reason=_reason)]

A, B = "192.0.2.1", "198.51.100.1"
PORT = 7


@contextmanager
def routed() -> Iterator[tuple[RemoteHost, RemoteHost, RemoteHost]]:
    """Hosts a and b, and the router between them; links of 1500 octets."""
    with ExitStack() as stack:
        a, router, b = hosts = [RemoteHost("unshare", "-n") for _ in range(3)]
        for host in hosts:
            stack.callback(host.kill)
            host.run(command="ip link set lo up")
        for end, far, address, near in ((a, "r0", A, "192.0.2.254"), (b, "r1", B, "198.51.100.254")):
            end.run(command=f"ip link add v0 type veth peer name {far} netns {router.pid}")
            end.run(command=f"ip addr add {address}/24 dev v0")
            end.run(command="ip link set v0 up")
            router.run(command=f"ip addr add {near}/24 dev {far}")
            router.run(command=f"ip link set {far} up")
            end.run(command=f"ip route add default via {near}")
        router.sysctl(name="net.ipv4.ip_forward", value="1")
        # Each answer counts: the kernel gives one a second to one host by default.
        router.sysctl(name="net.ipv4.icmp_ratelimit", value="0")
        yield a, router, b


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_router_that_says_how_narrow_the_way_is_is_believed_each_time(mode: str, udp: bool) -> None:
    with routed() as (a, router, b):
        for host, side, address in ((a, "a", A), (b, "b", B)):
            host.open()
            if udp:
                host.attach(host=address)
            host.install(side=side, mode=mode, udp=udp, a=A, b=B)
        b.udp_echo(host=B, port=PORT)
        assert a.udp_ask(to=B, port=PORT, octets=1300) == [B, 1300, A]
        for mtu in (1300, 1000):
            router.run(command=f"ip link set r1 mtu {mtu}")
            b.run(command=f"ip link set v0 mtu {mtu}")
            told, answered = a.udp_whole(to=B, port=PORT, octets=1350)
            overhead = 20 * (mode == "tunnel") + 8 * udp + 8 + 8 + 2 + 16
            assert mtu - overhead - 3 <= told <= mtu - overhead
            assert answered == told - 28
        # What may be cut is, however long it is.
        assert a.udp_ask(to=B, port=PORT, octets=4000) == [B, 4000, A]
