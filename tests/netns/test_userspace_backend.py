"""Two hosts in namespaces of their own, each with a userspace backend in its own process.

    a 192.0.2.1  TUN -- ESP --  v0 ===== v0  -- ESP -- TUN  192.0.2.2 b

Inner and outer addresses are the same. Keys are made by hand.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair, udp_packet
from userspace_hosts import A6, B6, A, B, HostError, RemoteHost, two_hosts, why_not

from ikev2.core.child_sa import PAD_TO_MTU
from ikev2.ipsec.sad import Engine

UDP, TCP, ESP, ICMP = 17, 6, 50, 1

_reason = why_not()
_reason_user = why_not(user_namespace=True)
pytestmark = pytest.mark.netns
needs_root = pytest.mark.skipif(bool(_reason), reason=_reason)

Hosts = tuple[RemoteHost, RemoteHost]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if _reason:
        pytest.skip(_reason)
    with two_hosts() as both:
        for host in both:
            host.open()
        yield both


def install(hosts: Hosts, **options: object) -> None:
    hosts[0].install(side="a", **options)
    hosts[1].install(side="b", **options)


def protocols(packets: list[str]) -> set[int]:
    return {bytes.fromhex(packet)[9] for packet in packets}


def ports(packet: str) -> tuple[int, int]:
    octets = bytes.fromhex(packet)
    return int.from_bytes(octets[20:22], "big"), int.from_bytes(octets[22:24], "big")


@pytest.mark.parametrize(
    "user_namespace",
    [
        pytest.param(False, marks=needs_root, id="root"),
        pytest.param(True, marks=pytest.mark.skipif(bool(_reason_user), reason=_reason_user), id="userns"),
    ],
)
@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_traffic_of_all_kinds_passes_and_only_esp_is_seen(mode: str, udp: bool, user_namespace: bool) -> None:
    with two_hosts(user_namespace=user_namespace) as (a, b):
        assert (a.open(), b.open()) == ("ikesp0", "ikesp0")
        if udp:
            a.attach(host=A)
            b.attach(host="0.0.0.0")
        install((a, b), mode=mode, udp=udp)
        b.udp_echo(host=B, port=7)
        b.tcp_serve(host=B, port=7)
        a.capture_start(interface="v0")

        assert a.ping(to=B)[0] == b.ping(to=A)[0] == 0
        assert a.udp_ask(to=B, port=7, octets=1000) == [B, 1000, A]
        before = a.query()
        assert a.tcp_ask(to=B, port=7, octets=300_000) == 300_000

        seen = a.capture_stop()
        assert protocols(seen) == {UDP if udp else ESP}
        if udp:
            assert {ports(packet) for packet in seen} == {(4500, 4500)}
        # Two echo requests with their replies, one datagram with its answer; the kernel's own count of octets.
        header = 20 if mode == "tunnel" else 0
        octets = 2 * (header + 12) + header + 8 + 1000
        assert (before["packets_out"], before["octets_out"]) == (3, octets)
        assert (before["packets_in"], before["octets_in"]) == (3, octets)
        for one, other in ((a.query(), b.query()), (b.query(), a.query())):
            assert one["errors"] == one["drops"] == {}
            assert one["packets_out"] == other["packets_in"] > 3
            assert one["octets_out"] == other["octets_in"] > 300_000


def test_closing_takes_everything_away(hosts: Hosts) -> None:
    a, b = hosts
    install(hosts)
    a.bypass(ip_protocol=UDP, first=18688, last=18751, local=A, remote=B)
    assert "proto 73" in a.run(command="ip rule")
    assert "ikesp0" in a.run(command="ip route show table 18700")
    a.close()
    assert "proto 73" not in a.run(command="ip rule")
    assert a.run(command="ip route show table all proto 73") == ""
    assert "ikesp" not in a.run(command="ip link")
    b.close()
    assert a.ping(to=B)[0] == 0  # in clear, as before
    a.close()
    assert a.open() == "ikesp0"


def test_deleting_the_last_pair_takes_its_policy_away(hosts: Hosts) -> None:
    a = hosts[0]
    install(hosts)
    install(hosts, key="two", spis=(0x3001, 0x3002), seed=2)
    assert a.ping(to=B)[0] == 0
    assert a.query(key="two")["packets_out"] == 1
    for host in hosts:
        host.delete(key="two")
    assert a.ping(to=B)[0] == 0
    assert a.query()["packets_out"] == 1
    for host in hosts:
        host.delete()
    a.capture_start(interface="v0")
    assert a.ping(to=B)[0] == 0
    assert protocols(a.capture_stop()) == {ICMP}
    assert "lookup 18700" not in a.run(command="ip rule")


def test_a_bypass_passes_in_clear_and_the_rest_in_the_tunnel(hosts: Hosts) -> None:
    a, b = hosts
    install(hosts)
    for ip_protocol in (UDP, TCP):
        a.bypass(ip_protocol=ip_protocol, first=18688, last=18751, local=A, remote=B)
        b.bypass(ip_protocol=ip_protocol, first=18688, last=18751, local=B, remote=A)
    b.udp_echo(host=B, port=7)
    b.tcp_serve(host=B, port=862)
    a.capture_start(interface="v0")
    assert a.udp_ask(to=B, port=7, octets=100, local_port=18700) == [B, 100, A]
    assert a.tcp_ask(to=B, port=862, octets=1000, local_port=18701) == 1000
    # The kernel's own answers (SYN-ACK above, RST here) take the same way.
    assert a.tcp_refused(to=B, port=9, local_port=18702)
    seen = a.capture_stop()
    assert protocols(seen) == {UDP, TCP}
    assert all(set(ports(packet)) & set(range(18688, 18752)) for packet in seen)
    assert (a.query()["packets_out"], b.query()["packets_out"]) == (0, 0)

    a.capture_start(interface="v0")
    assert a.udp_ask(to=B, port=7, octets=100, local_port=18752) == [B, 100, A]
    assert a.tcp_refused(to=B, port=9, local_port=18687)
    assert protocols(a.capture_stop()) == {ESP}

    for host, local, remote in ((a, A, B), (b, B, A)):
        host.bypass(ip_protocol=UDP, first=18688, last=18751, local=local, remote=remote, add=False)
    a.capture_start(interface="v0")
    a.udp_ask(to=B, port=7, octets=100, local_port=18700)
    assert protocols(a.capture_stop()) == {ESP}


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("name", ["aes256gcm16", "aes256-sha512", "chacha20poly1305"])
def test_full_packets_fit_the_outer_mtu(hosts: Hosts, name: str, mode: str, udp: bool) -> None:
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, name=name, mode=mode, udp=udp)
    b.udp_echo(host=B, port=7)
    mtu = int(a.run(command="ip -o link show ikesp0").split("mtu ")[1].split()[0])
    a.capture_start(interface="v0")
    assert a.udp_ask(to=B, port=7, octets=mtu - 28) == [B, mtu - 28, A]
    sizes = {len(bytes.fromhex(packet)) for packet in a.capture_stop()}
    block = 16 if "sha" in name else 4
    assert len(sizes) == 1
    assert 1500 - block < sizes.pop() <= 1500


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize(("mode", "packets"), [("tunnel", 5), ("transport", 1)])
def test_a_datagram_over_the_mtu_arrives(hosts: Hosts, mode: str, packets: int, udp: bool) -> None:
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, mode=mode, udp=udp)
    b.udp_echo(host=B, port=7)
    assert a.udp_ask(to=B, port=7, octets=6000) == [B, 6000, A]
    assert (a.query()["packets_out"], a.query()["packets_in"]) == (packets, packets)


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("name", ["aes256gcm16", "aes256-sha512"])
def test_what_the_host_is_told_of_a_narrower_path_fits_it(hosts: Hosts, name: str, mode: str, udp: bool) -> None:
    """RFC 4301 section 8.2.1: the path's MTU less all that ESP, and UDP around it, adds."""
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, name=name, mode=mode, udp=udp)
    b.udp_echo(host=B, port=7)
    a.run(command=f"ip route add {B}/32 dev v0 mtu 1280")
    a.capture_start(interface="v0")
    mtu, octets = a.udp_whole(to=B, port=7, octets=1400)
    largest = max(len(bytes.fromhex(packet)) for packet in a.capture_stop())
    assert octets == mtu - 28
    assert 1280 - (16 if "sha" in name else 4) < largest <= 1280


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_datagram_that_no_esp_packet_can_carry_does_not_stop_the_loop(hosts: Hosts, mode: str, udp: bool) -> None:
    """The largest datagram there is, put together from its fragments because the selectors look at ports."""
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, mode=mode, udp=udp, ts_b=[[f"{B}/32", UDP, 7, 7]])
    b.udp_echo(host=B, port=7)
    assert a.udp_send(to=B, port=7, octets=65507) == ""
    assert a.udp_ask(to=B, port=7, octets=100) == [B, 100, A]
    assert a.query()["errors"] == {"too-big": 1}


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
def test_what_came_before_a_pair_was_deleted_reaches_the_host(hosts: Hosts, udp: bool) -> None:
    """A peer goes on sending on a rekeyed pair until it hears of the deletion; that may not have been read yet."""
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, udp=udp)
    b.listen(host=B, port=9)
    b.hold()
    assert a.udp_send(to=B, port=9, octets=100) == ""
    a.after_sending(packets=1)
    b.install(side="b", key="two", udp=udp, spis=[0x3001, 0x3002], seed=2)
    b.delete()
    b.release()
    assert b.heard() == 100


@pytest.mark.req("rfc7296-s2.23-06")
@pytest.mark.req("rfc7296-s2.23-14")
def test_esp_in_udp_is_taken_by_an_sa_that_sends_without_and_the_other_way_round(hosts: Hosts) -> None:
    a, b = hosts
    a.attach(host=A)
    b.attach(host=B)
    a.install(side="a", udp=True)
    b.install(side="b")
    a.capture_start(interface="v0")
    assert a.ping(to=B)[0] == 0
    assert protocols(a.capture_stop()) == {UDP, ESP}


@pytest.mark.parametrize("listen", [B, "0.0.0.0"])
def test_ike_on_port_4500_is_handed_on_without_its_marker(hosts: Hosts, listen: str) -> None:
    a, b = hosts
    a.attach(host=A)
    b.attach(host=listen)
    install(hosts, udp=True)
    a.send_ike(data="00112233445566778899", to=B)
    assert b.wait_ike() == ["00112233445566778899", [B, 4500], [A, 4500]]
    assert a.ping(to=B)[0] == 0
    assert a.query()["packets_out"] == 1


def test_ike_over_ipv6_is_handed_on_too(hosts: Hosts) -> None:
    a, _ = hosts
    a.attach(host="::")
    a.send_ike(data="0011223344", to="::1")
    assert a.wait_ike() == ["0011223344", ["::1", 4500], ["::1", 4500]]


def test_keepalives_and_rubbish_on_port_4500_do_no_harm(hosts: Hosts) -> None:
    a, b = hosts
    a.attach(host=A)
    b.attach(host=B)
    install(hosts, udp=True)
    for data in ("ff", "", "00", "00000000", "0102030405", "00001001" + "00" * 40, "0badf00d" + "00" * 40):
        a.send_udp(data=data, to=B, port=4500)
    assert b.wait_ike()[0] == ""
    assert a.ping(to=B)[0] == 0
    assert b.query()["errors"] == {}
    assert b.query()["drops"] == {"malformed": 3, "unknown-spi": 2}


@pytest.mark.req("rfc7296-s2.21.4-08")
@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
def test_esp_of_an_unknown_spi_is_told_of_with_both_addresses(hosts: Hosts, udp: bool) -> None:
    """From the raw socket without ports, from the UDP socket with them: there the answer has to go."""
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host="0.0.0.0")
        a.send_udp(data="0badf00d" + "00" * 40, to=B, port=4500)
    else:
        a.send_esp(data="0badf00d" + "00" * 40, to=B)
    port = 4500 if udp else 0
    assert b.stray() == ["0badf00d", [B, port], [A, port]]


@pytest.mark.parametrize("name", ["aes256gcm16", "aes128-sha256", "aes128gmac", "chacha20poly1305iiv"])
def test_nothing_that_is_not_authentic_reaches_the_device(hosts: Hosts, name: str) -> None:
    """Every bit flipped, every cut, and the packet itself twice: the device has one packet, and all else is counted."""
    a, b = hosts
    b.install(side="b", name=name)
    of_a, _ = child_pair(name)
    engine = Engine()
    engine.install(of_a)
    inside = udp_packet(A, B)
    sealed = engine.protect(inside)
    assert sealed is not None
    esp = sealed[1]
    forged = [esp[:octets] for octets in range(8, len(esp))]
    for bit in range(8 * len(esp)):
        changed = bytearray(esp)
        changed[bit // 8] ^= 0x80 >> bit % 8
        forged.append(bytes(changed))
    b.capture_start(interface="ikesp0")
    a.send_all_esp(data=[packet.hex() for packet in forged], to=B)
    b.after_dropping(packets=len(forged))
    a.send_all_esp(data=[esp.hex()] * 2, to=B)
    b.after_dropping(packets=len(forged) + 1)
    # What the host itself sends to the device, such as an ICMP error, has its own address as its source.
    arrived = [packet for packet in map(bytes.fromhex, b.capture_stop()) if packet[12:16] == inside[12:16]]
    assert arrived == [inside]
    counted = b.query()
    assert counted["packets_in"] == 1
    assert counted["errors"].keys() <= {"integrity", "replay", "malformed"}
    assert counted["errors"]["replay"] == 2  # one of the bits makes it number 0
    assert counted["drops"] == {"unknown-spi": 32}
    assert sum(counted["errors"].values()) + 32 == len(forged) + 1


def test_an_error_of_the_socket_does_not_stop_the_loop(hosts: Hosts) -> None:
    a, b = hosts
    a.attach(host=A)
    b.attach(host=B)
    install(hosts, udp=True)
    a.unreachable_error(to=B, port=4599)
    assert a.ping(to=B)[0] == 0
    assert a.becomes_quiet()


def test_an_error_that_is_met_while_reading_is_no_drop(hosts: Hosts) -> None:
    a, b = hosts
    a.attach(host=A)
    b.attach(host=B)
    a.error_after_poll(to=B, port=4599)
    assert a.becomes_quiet()
    install(hosts, udp=True)
    assert a.ping(to=B)[0] == 0
    assert a.query()["drops"] == {}


def test_a_pair_moves_to_other_addresses(hosts: Hosts) -> None:
    a, b = hosts
    b.run(command="ip addr add 192.0.2.3/24 dev v0")
    install(hosts)
    assert a.ping(to=B)[0] == 0
    ts = [[B + "/32"]]
    a.update(side="a", b="192.0.2.3", ts_b=ts)
    b.update(side="b", b="192.0.2.3", ts_b=ts)
    a.capture_start(interface="v0")
    assert a.ping(to=B)[0] == 0
    ends = {bytes.fromhex(packet)[12:20].hex() for packet in a.capture_stop()}
    assert ends == {"c0000201c0000203", "c0000203c0000201"}
    assert a.query()["packets_out"] == 2


def test_a_policy_for_one_protocol_and_port_leaves_the_rest_alone(hosts: Hosts) -> None:
    a, b = hosts
    install(hosts, ts_a=[[A + "/32", UDP]], ts_b=[[B + "/32", UDP, 7, 7]])
    b.udp_echo(host=B, port=7)
    b.udp_echo(host=B, port=8)
    a.capture_start(interface="v0")
    assert a.udp_ask(to=B, port=7, octets=10) == [B, 10, A]
    assert protocols(a.capture_stop()) == {ESP}
    a.capture_start(interface="v0")
    assert a.udp_ask(to=B, port=8, octets=10) == [B, 10, A]
    assert a.ping(to=B)[0] == 0
    assert protocols(a.capture_stop()) == {UDP, ICMP}


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_an_icmp_error_about_what_is_protected_is_protected_and_others_pass_as_ever(
    hosts: Hosts, mode: str
) -> None:
    """It quotes what was protected. RFC 4301 section 6.2."""
    a, b = hosts
    install(hosts, mode=mode, ts_a=[[A + "/32", UDP]], ts_b=[[B + "/32", UDP, 7, 7]])
    a.capture_start(interface="v0")
    for port in (7, 8):  # nobody listens there
        with pytest.raises(HostError, match="refused"):
            a.udp_ask(to=B, port=port, octets=10)
    assert a.ping(to=B)[0] == 0
    seen = [bytes.fromhex(packet) for packet in a.capture_stop()]
    errors = [packet for packet in seen if packet[9] == ICMP and packet[20] == 3]
    assert [int.from_bytes(packet[50:52], "big") for packet in errors] == [8]
    assert [packet[9] for packet in seen].count(ESP) == 2
    assert a.query()["packets_in"] == b.query()["packets_out"] == 1
    assert a.query()["drops"] == b.query()["drops"] == {}


def test_fragments_from_a_network_behind_do_not_leave_in_clear(hosts: Hosts) -> None:
    """A fragment shows the host's rules no ports. RFC 4301 section 7."""
    a, b = hosts
    a.sysctl(name="net.ipv4.ip_forward", value="1")
    a.run(command=f"ip route add 10.2.0.0/16 via {B}")
    install(hosts, ts_a=[["10.1.0.0/16", UDP]], ts_b=[["10.2.0.0/16", UDP, 7, 7]])
    b.run(command="ip addr add 10.2.0.5/32 dev lo")
    b.listen(host="10.2.0.5", port=7)
    a.capture_start(interface="v0")
    for octets, mtu, pieces in ((100, 1500, 1), (1000, 576, 2)):
        assert a.forward_udp(source="10.1.0.5", to="10.2.0.5", port=7, octets=octets, mtu=mtu) == pieces
        assert b.heard() == octets
    # Another port of the same protocol has no SA: it is dropped, not sent in clear.
    a.forward_udp(source="10.1.0.5", to="10.2.0.5", port=8, octets=100, mtu=1500)
    a.forward_udp(source="10.1.0.5", to="10.2.0.5", port=7, octets=200, mtu=1500)
    assert b.heard() == 200
    assert protocols(a.capture_stop()) == {ESP}
    assert a.query()["drops"] == {"no-sa": 1}


def test_networks_behind_both_hosts(hosts: Hosts) -> None:
    a, b = hosts
    for host, address in ((a, "10.1.0.1"), (b, "10.2.0.1")):
        host.run(command=f"ip addr add {address}/16 dev lo")
    install(hosts, ts_a=[["10.1.0.0/16"]], ts_b=[["10.2.0.0/16"]])
    b.udp_echo(host="10.2.0.1", port=7)
    a.capture_start(interface="v0")
    assert a.udp_ask(to="10.2.0.1", port=7, octets=10) == ["10.2.0.1", 10, "10.1.0.1"]
    assert protocols(a.capture_stop()) == {ESP}
    assert a.ping(to=B)[0] == 0
    assert a.query()["packets_out"] == 1


@pytest.mark.parametrize("value", ["0", "1", "2"])
@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
def test_any_check_of_sources_lets_the_tunnel_work(hosts: Hosts, value: str, udp: bool) -> None:
    a, b = hosts
    for host in hosts:
        host.close()
        for name in ("all", "default", "v0"):
            host.sysctl(name=f"net.ipv4.conf.{name}.rp_filter", value=value)
        host.open()
        if udp:
            host.attach(host="0.0.0.0")
    install(hosts, udp=udp)
    for host, local, remote in ((a, A, B), (b, B, A)):
        host.bypass(ip_protocol=UDP, first=18688, last=18751, local=local, remote=remote)
    b.udp_echo(host=B, port=7)
    assert a.ping(to=B)[0] == 0
    assert a.udp_ask(to=B, port=7, octets=10) == [B, 10, A]
    assert a.udp_ask(to=B, port=7, octets=10, local_port=18700) == [B, 10, A]
    assert a.query()["packets_in"] == 2
    a.close()
    assert a.sysctl(name="net.ipv4.conf.v0.rp_filter") == value


def test_after_a_crash_nothing_leaks_and_the_next_run_cleans_up() -> None:
    if _reason:
        pytest.skip(_reason)
    with two_hosts() as (a, _):
        # A process beside a's, in a's namespace, that dies.
        crashing = RemoteHost("nsenter", "-n", "-t", str(a.pid))
        try:
            crashing.open()
            crashing.install(side="a")
        finally:
            crashing.kill()
        a.capture_start(interface="v0")
        with pytest.raises(HostError, match="No route to host"):
            a.ping(to=B)
        assert UDP not in protocols(a.capture_stop())
        assert "lookup 18700" in a.run(command="ip rule")
        a.open()
        assert "lookup 18700" not in a.run(command="ip rule")
        assert a.run(command="ip route show table all proto 73") == ""
        assert a.ping(to=B)[0] == 0


def test_a_second_backend_in_the_namespace_leaves_the_first_alone(hosts: Hosts) -> None:
    a, _ = hosts
    install(hosts)
    second = RemoteHost("nsenter", "-n", "-t", str(a.pid))
    try:
        assert second.open() == "ikesp1"
        assert a.ping(to=B)[0] == 0
        second.close()
        assert a.ping(to=B)[0] == 0
        assert a.query()["packets_out"] == 2
    finally:
        second.kill()


def test_a_failed_install_leaves_nothing_behind(hosts: Hosts) -> None:
    a, _ = hosts
    before = a.run(command="ip rule")
    with pytest.raises(HostError, match="4500"):
        a.install(side="a", udp=True)
    with pytest.raises(HostError, match="route"):
        a.install(side="a", b="203.0.113.9")
    assert a.run(command="ip rule") == before
    assert a.run(command="ip route show table all proto 73") == ""


def test_an_address_that_came_later_is_used_by_the_pairs_that_are_there(hosts: Hosts) -> None:
    a, b = hosts
    b.run(command="ip addr add 10.2.0.1/16 dev lo")
    install(hosts, ts_a=[["10.1.0.0/16"]], ts_b=[["10.2.0.0/16"]])
    assert "src 10.1" not in a.run(command="ip route show table 18700")
    a.run(command="ip addr add 10.1.0.1/16 dev lo")
    install(hosts, key="two", spis=(0x3001, 0x3002), ts_a=[["10.3.0.0/16"]], ts_b=[["10.4.0.0/16"]])
    assert "10.2.0.0/16 dev ikesp0 proto 73 scope link src 10.1.0.1" in a.run(
        command="ip route show table 18700"
    ).replace(" metric 100", "")
    b.udp_echo(host="10.2.0.1", port=7)
    assert a.udp_ask(to="10.2.0.1", port=7, octets=10) == ["10.2.0.1", 10, "10.1.0.1"]
    assert a.query()["packets_out"] == 1


def test_a_way_that_became_narrower_counts_for_the_next_pair(hosts: Hosts) -> None:
    a, _ = hosts
    install(hosts)
    before = int(a.run(command="ip -o link show ikesp0").split("mtu ")[1].split()[0])
    a.run(command="ip link set v0 mtu 1300")
    install(hosts, key="two", spis=(0x3001, 0x3002), seed=2)
    assert int(a.run(command="ip -o link show ikesp0").split("mtu ")[1].split()[0]) == before - 200


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
def test_packets_padded_to_the_mtu_are_all_of_its_length_and_of_the_new_one_when_the_way_gets_narrower(
    hosts: Hosts, udp: bool
) -> None:
    a, b = hosts
    if udp:
        a.attach(host=A)
        b.attach(host=B)
    install(hosts, udp=udp, tfc_padding=PAD_TO_MTU)
    b.udp_echo(host=B, port=7)
    a.capture_start(interface="v0")
    for octets in (0, 1, 100, 1400):
        assert a.udp_ask(to=B, port=7, octets=octets) == [B, octets, A]
    assert {len(bytes.fromhex(packet)) for packet in a.capture_stop()} == {1500}
    for host in hosts:
        host.run(command="ip link set v0 mtu 1300")
    # Too long by their padding alone: the first of either host is lost, and the next has less.
    for host in hosts:
        a.udp_send(to=B, port=7, octets=1)
        host.after_dropping(packets=1)
    a.capture_start(interface="v0")
    for octets in (0, 1, 100):
        assert a.udp_ask(to=B, port=7, octets=octets) == [B, octets, A]
    assert {len(bytes.fromhex(packet)) for packet in a.capture_stop()} == {1300}
    assert a.query()["errors"] == b.query()["errors"] == {"too-big": 1}


@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("ends", [(A, B), (A6, B6)], ids=["ipv4", "ipv6"])
def test_dummy_packets_go_while_there_is_nothing_to_send_and_end_with_their_pair(
    hosts: Hosts, ends: tuple[str, str], mode: str, udp: bool
) -> None:
    """RFC 4303 section 2.6."""
    a, b = hosts
    for host, own in zip(hosts, ends, strict=True):
        if udp:
            host.attach(host=own)
    a.capture_start(interface="v0", ipv6=ends == (A6, B6))
    a.install(side="a", mode=mode, udp=udp, a=ends[0], b=ends[1], dummies=[0.01, [100, 2000]])
    b.install(side="b", mode=mode, udp=udp, a=ends[0], b=ends[1])
    end = time.monotonic() + 20
    while b.query()["errors"].get("dummy", 0) < 20:
        assert time.monotonic() < end
    assert set(b.query()["errors"]) == {"dummy"}
    b.udp_echo(host=ends[1], port=7)
    assert a.udp_ask(to=ends[1], port=7, octets=10)[:2] == [ends[1], 10]
    a.delete()
    sent = [bytes.fromhex(packet) for packet in a.capture_stop()]
    lengths = {len(packet) for packet in sent if ends == (A, B) or packet[6] in (ESP, UDP)}
    assert len(lengths) > 5
    assert max(lengths) <= 1500


def test_many_pairs_ask_the_kernel_for_what_is_new_only(hosts: Hosts) -> None:
    """A pair that shares its rules, routes and peer with others changes nothing in the kernel."""
    a, _ = hosts
    a.install(side="a", key="0")
    a.install(side="a", key="1", spis=(0x3001, 0x4001))  # the MTU, set for the first, is announced once
    rules, routes = a.run(command="ip rule"), a.run(command="ip route show table all proto 73")
    asked = a.kernel_requests()
    for number in range(2, 40):
        a.install(side="a", key=str(number), spis=(0x3000 + number, 0x4000 + number), seed=number)
    assert a.kernel_requests() == asked
    assert a.run(command="ip rule") == rules
    for number in range(39):
        a.delete(key=str(number))
    assert a.kernel_requests() == asked
    assert a.run(command="ip rule") == rules
    assert a.run(command="ip route show table all proto 73") == routes
    a.delete(key="39")
    assert "lookup 18700" not in a.run(command="ip rule")


def test_probe_says_yes_and_leaves_nothing(hosts: Hosts) -> None:
    a, _ = hosts
    before = a.run(command="ip link")
    assert a.probe() == [True, "a TUN device and a raw socket for ESP can be opened"]
    assert a.run(command="ip link") == before
