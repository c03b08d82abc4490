"""A handshake whose IKE_AUTH does not fit the path: fragments of RFC 7383, with ICMP's help and without.

    alice 10.0.0.2 --- router --- 203.0.113.2 server          the router passes no IP datagram above N octets

The IP fragments into which a host or router would cut such a message are lost, which is why RFC 7383 is there.
RFC 7383 sections 2.5.1 and 2.5.2.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ike_hosts import ALICE, SERVER, WAIT_S, Site, only_sa, site

from ikev2.core.config import ConnectionConfig
from ikev2.core.types import Address
from ikev2.crypto.secret import SecretOctets
from ikev2.io.sockets import SocketSet
from ikev2.io.udp import IkeSocket
from ikev2.ipsec.backend import OnIke
from ikev2.ipsec.icmp import OnPathMtu, read_errors
from ikev2.ipsec.memory import MemoryBackend
from interop.lab.netns import Lab, why_no_namespaces
from interop.lab.relay import Impairments
from interop.peers.ours import Ours

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(why_no_namespaces() is not None, reason=f"{why_no_namespaces()}"),
]

NETWORKS = [f"10.{number}.0.0/16" for number in range(1, 121)]
"""So many selectors that IKE_AUTH has more than 2,000 octets."""
AUTH, MARKER = 35, bytes(4)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Callable[..., tuple[Site, Ours, Ours, list[bytes]]]]:
    with ExitStack() as stack:

        def make(mtu: int, *, tell: bool, **connection: Any) -> tuple[Site, Ours, Ours, list[bytes]]:
            limits = Impairments(mtu=mtu)
            found = stack.enter_context(
                site(tmp_path, nat=None, forward=limits, tell_mtu=tell, drop_fragments=True)
            )
            packets: list[bytes] = []
            found.router.taps.append(packets.append)
            child = {"mode": "tunnel"}
            server = found.server(child | {"local_ts": ["10.200.0.0/16"], "remote_ts": NETWORKS}, **connection)
            alice = found.client(
                "alice", child | {"local_ts": NETWORKS, "remote_ts": ["10.200.0.0/16"]}, **connection
            )
            return found, alice, server, packets

        yield make


def auth_requests(packets: list[bytes]) -> list[bytes]:
    """The UDP datagrams from alice, without IP fragments, that are of IKE_AUTH; the IP packets."""
    return [
        packet
        for packet in packets
        if packet[12] == 10 and packet[9] == 17 and not int.from_bytes(packet[6:8], "big") & 0x3FFF
        and packet[28 + 18] == AUTH
    ]  # fmt: skip


def total_fragments(packet: bytes) -> int:
    return int.from_bytes(packet[28 + 28 + 6 : 28 + 28 + 8], "big")


@pytest.mark.req("rfc7383-s2.5.1-02", "rfc7383-s2.5.2-05", "rfc7383-s2.5.2-06", "rfc7383-s2.5.2-07")
@pytest.mark.parametrize("port", [None, 4500], ids=["500", "4500"])
def test_the_size_that_icmp_names_is_taken_at_once(narrow: Any, port: int | None) -> None:
    """Fragments of 1400 octets, ICMP "fragmentation needed" with 1000: the next ones have 1000, before any timer."""
    options = {"fragment_size": 1400} | ({} if port is None else {"remote_port": port})
    found, alice, server, packets = narrow(1000, tell=True, retransmit_timeout="20s", **options)
    alice.up("lab")
    assert only_sa(alice)["spi_r"] == only_sa(server)["spi_r"]
    assert alice.stats()["io"]["path_mtu_told"] >= 1
    assert found.router.dropped["told"] >= 1
    lengths = [len(packet) for packet in packets if packet[12] == 10 and packet[9] == 17]
    assert max(lengths) == 1400
    last = [length for length in lengths if length > 600][-1]
    assert last <= 1000
    alice.wait_log("the path to 203.0.113.2 takes IP datagrams of 1000 octets")
    assert "no answer" not in alice.log()


class IdleBackend(MemoryBackend):
    """A backend whose thread, which reads the socket of ESP and IKE, does not get its turn."""

    wants_encap_socket = True

    def __init__(self) -> None:
        super().__init__()
        self.attached: list[tuple[socket.socket, OnPathMtu | None]] = []

    def attach_encap_socket(self, sock: socket.socket, on_ike: OnIke, on_path_mtu: OnPathMtu | None = None) -> None:
        self.attached.append((sock, on_path_mtu))


@pytest.mark.req("rfc7383-s2.5.1-02")
@pytest.mark.parametrize("nat_traversal", [False, True], ids=["500", "4500"])
def test_what_icmp_says_between_two_fragments_is_heard(tmp_path: Path, nat_traversal: bool) -> None:
    """The kernel tells an error once, to the call that comes first: here that which sends the next fragment."""
    told: list[tuple[str, int]] = []
    connection = ConnectionConfig("lab", (ALICE,), (SERVER,), (), None, None, SecretOctets("PSK", b"secret"))

    async def send_two() -> None:
        backend = IdleBackend()
        sockets = SocketSet(backend, lambda *came: None, lambda host, octets: told.append((host, octets)))
        sockets.bind([connection], asyncio.get_running_loop())
        sock = next(one for one in sockets.all() if one.nat_traversal is nat_traversal)
        try:
            remote = Address(SERVER, sock.local.port)
            assert sock.send(bytes(1300), sock.local, remote, path_mtu_wanted=True)
            waiting = select.poll()
            for one in (sock.sock, *(beside for beside, _ in backend.attached)):
                waiting.register(one, 0)
            ((ready, event),) = waiting.poll(WAIT_S * 1000)
            assert event == select.POLLERR
            assert sock.send(bytes(700), sock.local, remote, path_mtu_wanted=True)
            # Of two sockets on one port the kernel takes either, the same for the same two ends.
            for beside, on_path_mtu in backend.attached:
                if beside.fileno() == ready:
                    read_errors(beside, on_path_mtu)
                    await asyncio.sleep(0)
        finally:
            sockets.close()

    with site(tmp_path, nat=None, forward=Impairments(mtu=1000), tell_mtu=True) as found:
        found.lab.call("alice", lambda: asyncio.run(send_two()))
    assert told == [(SERVER, 1000)]


@pytest.mark.req("rfc7383-s2.5.1-02", "rfc7383-s2.5.2-05")
@pytest.mark.parametrize("port", [None, 4500], ids=["500", "4500"])
def test_the_size_that_the_system_knows_is_taken_at_once(narrow: Any, port: int | None) -> None:
    """ICMP told it while another endpoint ran: the router never sees a datagram of more than 1000 octets again.

    Nor does it see fragments of IP get through, as those are lost here.
    """
    options = {"fragment_size": 1400} | ({} if port is None else {"remote_port": port})
    found, alice, server, packets = narrow(1000, tell=True, retransmit_timeout="20s", **options)
    alice.up("lab")
    told = found.router.dropped["told"]
    assert told >= 1
    alice.stop()
    packets.clear()
    alice.start()
    alice.up("lab")
    assert only_sa(alice)["spi_r"] == only_sa(server)["spi_r"]
    assert alice.stats()["io"]["path_mtu_told"] >= 1
    assert found.router.dropped["told"] == told
    assert max(len(packet) for packet in packets) <= 1000


@pytest.mark.parametrize(
    ("one", "other", "bits"), [(ALICE, "10.0.0.3", 24), ("2001:db8::1", "2001:db8::2", 64)], ids=["v4", "v6"]
)
def test_what_is_too_large_for_the_link_is_told_and_goes_in_fragments_of_ip(
    one: str, other: str, bits: int
) -> None:
    """It may be a message that IKE cannot cut better, such as one to a peer that does not take fragments."""
    told: list[tuple[str, int]] = []
    with Lab() as lab, ExitStack() as stack:
        lab.link("alice", f"{one}/{bits}", "server", f"{other}/{bits}", mtu=1280)

        def opened(host: str, address: str) -> IkeSocket:
            def on_path_mtu(host: str, octets: int) -> None:
                told.append((host, octets))

            made = lab.call(host, lambda: IkeSocket(address, 0, nat_traversal=False, on_path_mtu=on_path_mtu))
            stack.callback(made.close)
            return made

        alice, server = opened("alice", one), opened("server", other)
        for size in (1280, 1280 - 28 if bits == 24 else 1280 - 48):
            assert alice.send(bytes(size), alice.local, server.local, path_mtu_wanted=True)
            waiting = select.poll()
            waiting.register(server.sock, select.POLLIN)
            assert waiting.poll(WAIT_S * 1000)
            assert len(server.sock.recv(65535)) == size
        assert (alice.counters.sent, alice.counters.send_errors) == (2, {})
    assert told == [(other, 1280)]


@pytest.mark.req("rfc7383-s2.5.2-02", "rfc7383-s2.5.2-03", "rfc7383-s2.5.2-07", "rfc7383-s2.4-02")
def test_without_icmp_smaller_and_smaller_fragments_are_tried(narrow: Any) -> None:
    found, alice, server, packets = narrow(
        600, tell=False, fragment_size=1400, retransmit_timeout="250ms", retransmit_tries=8
    )
    alice.up("lab")
    assert only_sa(alice)["spi_r"] == only_sa(server)["spi_r"]
    sizes: dict[int, int] = {}
    for packet in auth_requests(packets):
        sizes[total_fragments(packet)] = max(len(packet), sizes.get(total_fragments(packet), 0))
    # 1280 octets would make no more fragments than 1400.
    first, second, *_ = sizes.values()  # a slow server is sent even smaller ones
    assert first == 1400
    assert 500 < second <= 576
    assert list(sizes) == sorted(sizes)
    assert found.router.schedule.forward.counters.too_big > 2


@pytest.mark.req("rfc7383-s2.5.1-04", "rfc7383-s2.5.1-01")
def test_the_recommended_size_gets_through_at_the_first_try(narrow: Any) -> None:
    found, alice, server, packets = narrow(576, tell=False, retransmit_timeout="20s")
    alice.up("lab")
    assert only_sa(alice)["spi_r"] == only_sa(server)["spi_r"]
    assert max(len(packet) for packet in auth_requests(packets)) in range(570, 577)
    assert found.router.schedule.forward.counters.too_big == 0
    assert found.router.dropped["fragment"] == 0


def test_without_ike_fragments_such_a_handshake_does_not_come_up(narrow: Any) -> None:
    """What the other tests here would be worth otherwise."""
    _, alice, _, _ = narrow(
        1000, tell=False, fragmentation="no", retransmit_timeout="50ms", retransmit_base=1, retransmit_tries=2
    )
    with pytest.raises(Exception, match="does not answer"):
        alice.up("lab")
