"""Runs inside the guest: the xfrm backend at both ends of a veth pair, over the kernel's own ESP.

Prints one JSON object a line: {"case", "ok", "error", "seconds"}. Not a test module: `test_uml_xfrm.py` boots the
guest once, runs this, and looks at the lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/ikev2")]

from pyroute2 import IPRoute  # noqa: E402
from xfrm_support import child_pair  # noqa: E402

from ikev2.core.child_sa import PAD_TO_MTU, ChildSaParameters, HwOffload, KernelOptions, UdpEncap, VolumeLimits  # noqa: E402
from ikev2.core.types import Mode  # noqa: E402
from ikev2.errors import BackendError  # noqa: E402
from ikev2.io.netns import TwoHosts  # noqa: E402
from ikev2.ipsec.backend import Acquire, Bypass, Expire, PeerMoved  # noqa: E402
from ikev2.ipsec.probe import choose_backend  # noqa: E402
from ikev2.ipsec.xfrm.algorithms import AEAD_NAMES, AUTH_NAMES, CRYPT_NAMES  # noqa: E402
from ikev2.ipsec.xfrm.attributes import ReplayLegacy  # noqa: E402
from ikev2.ipsec.xfrm.backend import XfrmBackend  # noqa: E402
from ikev2.ipsec.xfrm.kernel import XfrmSocket  # noqa: E402
from ikev2.ipsec.xfrm.messages import Sa  # noqa: E402
from ikev2.ipsec.xfrm.plan import LAST_PACKETS  # noqa: E402
from ikev2.ipsec.xfrm.structs import LifetimeCurrent, SaId  # noqa: E402
from ikev2.ipsec.xfrm.uapi import GROUP_MIGRATE, XfrmMsg  # noqa: E402
from ikev2.ipsec.xfrm.words import sa_words  # noqa: E402
from ikev2.wire.payloads.ts import TrafficSelector  # noqa: E402

A, B = "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
A_MOVED = "192.0.2.11"
ECHO_PORT = 7007
CLEAR_PORT = 18700
PACKETS = 3
ETH_P_ALL = 3

T = TypeVar("T")
Case = Callable[["Lab"], None]


class Lab:
    """Two hosts, an open backend on each, and a tap on each interface."""

    def __init__(self, hosts: TwoHosts, state: Path) -> None:
        self.hosts = hosts
        self.state = state
        self.taps = {host: hosts.call(host, lambda host=host: self._open_tap(host)) for host in "ab"}
        self.backends: dict[str, XfrmBackend] = {}

    @staticmethod
    def _open_tap(host: str) -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        tap.bind((TwoHosts.interface(host), ETH_P_ALL))
        tap.setblocking(False)
        return tap

    def open(self) -> None:
        for host in "ab":
            self.backends[host] = XfrmBackend(self.state)
            self.call(host, self.backends[host].open)

    def close(self) -> None:
        for host, backend in self.backends.items():
            self.call(host, backend.close)
        self.backends.clear()

    def call(self, host: str, function: Callable[[], T]) -> T:
        return self.hosts.call(host, function)

    def install(
        self, pair: tuple[ChildSaParameters, ChildSaParameters], *, standby: str = ""
    ) -> tuple[ChildSaParameters, ChildSaParameters]:
        """Each end's inbound SPI comes from its kernel, as in life; one host may have the pair on standby."""
        first, second = pair
        spi_a = self.call("a", lambda: self.backends["a"].allocate_spi(first.local, first.remote))
        spi_b = self.call("b", lambda: self.backends["b"].allocate_spi(second.local, second.remote))
        first, second = replace(first, spi_in=spi_a, spi_out=spi_b), replace(second, spi_in=spi_b, spi_out=spi_a)
        for host, child in (("a", first), ("b", second)):
            backend = self.backends[host]
            install = backend.install_standby if host == standby else backend.install
            self.call(host, lambda put=install, one=child: put(one))
        return first, second

    def udp(self, host: str, address: str, port: int = 0) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, port))
            sock.settimeout(5)
            return sock

        return self.call(host, make)

    def exchange(self, a: str = A, b: str = B, port: int = ECHO_PORT, *, count: int = PACKETS) -> int:
        """UDP there and back; how many came back."""
        with self.udp("a", a) as client, self.udp("b", b, port) as server:
            back = 0
            for number in range(count):
                client.sendto(b"there %d" % number, (b, port))
                try:
                    data, sender = server.recvfrom(2048)
                    server.sendto(b"back " + data, sender)
                    client.recvfrom(2048)
                except TimeoutError:
                    return back
                back += 1
        return back

    def frames(self, host: str, kinds: tuple[int, ...] = (0x0800,)) -> list[bytes]:
        """Ethernet frames with an IPv4 packet (or of other `kinds`) that the host has sent since the last call.

        Only what goes out: a tap also sees what the kernel takes out of a tunnel, as if it came from the wire.
        """
        seen = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, protocol, kind, _, _) = self.taps[host].recvfrom(4096)
                if kind == socket.PACKET_OUTGOING and protocol in kinds:
                    seen.append(frame)
        return seen

    def drain(self) -> list[bytes]:
        """IP packets that either host has sent since the last call, A's first."""
        return [frame[14:] for host in "ab" for frame in self.frames(host, (0x0800, 0x86DD))]

    def ip(self, host: str, *words: str) -> str:
        text: str = self.hosts.run(host, ["ip", *words], capture_output=True, text=True).stdout
        return text


def protocols(packets: list[bytes]) -> list[str]:
    """What each packet is on the wire: esp, esp-in-udp, udp/PORT, other."""
    found = []
    for packet in packets:
        version = packet[0] >> 4
        protocol, rest = (packet[9], packet[20:]) if version == 4 else (packet[6], packet[40:])
        if protocol == 50:
            found.append("esp")
        elif protocol == 17:
            source, destination = int.from_bytes(rest[:2]), int.from_bytes(rest[2:4])
            found.append("esp-in-udp" if 4500 in (source, destination) else f"udp/{min(source, destination)}")
        elif (version, protocol) not in {(6, 58), (6, 0)}:  # neighbour discovery, multicast listener reports
            found.append(f"ip-{protocol}")
    return found


def nothing_left(lab: Lab) -> None:
    for host in "ab":
        with lab.call(host, XfrmSocket) as kernel:
            assert kernel.dump_sas() == [], f"SAs left on {host}: {kernel.dump_sas()}"
            assert kernel.dump_policies() == [], f"policies left on {host}: {kernel.dump_policies()}"


def protected(keyword: str, mode: Mode, *, encap: bool = False, v6: bool = False, inner6: bool = False) -> Case:
    """Traffic passes, only as ESP, and both ends' counters and `ip -s xfrm state` say the same number."""

    def case(lab: Lab) -> None:
        a, b = (A6, B6) if v6 else (A, B)
        inner_a, inner_b = (A6, B6) if inner6 else (a, b)
        selectors = (TrafficSelector.from_network(inner_a),), (TrafficSelector.from_network(inner_b),)
        pair = child_pair(keyword, mode, a=a, b=b, ts_a=selectors[0], ts_b=selectors[1], encap=encap)
        with contextlib.ExitStack() as stack:
            if encap:
                for host, address in (("a", a), ("b", b)):
                    sock = stack.enter_context(lab.udp(host, address, 4500))
                    lab.call(host, lambda s=sock, h=host: lab.backends[h].prepare_ike_socket(s, encap=True))
            first, second = lab.install(pair)
            lab.drain()
            assert lab.exchange(inner_a, inner_b) == PACKETS, "packets lost"
            seen = set(protocols(lab.drain()))
            assert seen == {"esp-in-udp" if encap else "esp"}, f"on the wire: {seen}"
            counted_a, counted_b = lab.backends["a"].query(first), lab.backends["b"].query(second)
            for counted in (counted_a, counted_b):
                # over IPv6 in tunnel mode neighbour discovery of the inner addresses may be inside, too
                assert counted.packets_in >= PACKETS, counted
                assert counted.packets_out >= PACKETS, counted
                assert counted.errors == {}, counted
            assert counted_a.octets_out == counted_b.octets_in, (counted_a, counted_b)
            text = lab.ip("a", "-s", "xfrm", "state", "list", "spi", f"{first.spi_out:#x}")
            said = re.search(r"(\d+)\(bytes\), (\d+)\(packets\)\n\s+add", text)
            assert said is not None, text
            assert (int(said[1]), int(said[2])) == (counted_a.octets_out, counted_a.packets_out), text
            for host, child in (("a", first), ("b", second)):
                lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
        nothing_left(lab)

    return case


def padded(tfc_padding: int, expected: int) -> Case:
    """The kernel pads to the length wanted, or to the path's; every ESP packet is as long, and the other end cuts."""

    def case(lab: Lab) -> None:
        first, second = child_pair("aes128gcm16")
        pair = lab.install((replace(first, tfc_padding=tfc_padding), replace(second, tfc_padding=tfc_padding)))
        lab.drain()
        assert lab.exchange() == PACKETS
        lengths = {len(packet) for packet in lab.drain() if packet[9] == 50}
        assert lengths == {expected}, lengths
        with lab.call("a", XfrmSocket) as kernel:
            said = {sa.info.spi: sa.tfc_padding for sa in kernel.dump_sas()}
        assert said == {pair[0].spi_in: 0, pair[0].spi_out: tfc_padding}, said
        for host, child in (("a", pair[0]), ("b", pair[1])):
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
        nothing_left(lab)

    return case


def probe_finds_the_kernels_esp(lab: Lab) -> None:
    chosen, reason = lab.call("a", choose_backend)
    assert chosen is XfrmBackend, reason
    nothing_left(lab)


def probe_finds_each_algorithm(lab: Lab) -> None:
    """`ip` is the judge; modules that cannot be loaded are missing, and there once they can."""
    away = {"ccm": "rfc4309(ccm(aes))", "xcbc": "xcbc(aes)"}
    rules = Path("/etc/modprobe.d/lab.conf")
    rules.parent.mkdir(exist_ok=True)
    rules.write_text("".join(f"install {module} /bin/false\n" for module in away))
    try:
        assert kernel_names(lab) == (ALL_NAMES - set(away.values()), set(away.values()))
    finally:
        rules.unlink()
    for name in away.values():
        icv, words = ("128", "aead") if "ccm" in name else ("96", "auth-trunc")
        key = "0x" + "11" * (19 if "ccm" in name else 16)
        null = [] if "ccm" in name else ["enc", "ecb(cipher_null)", ""]
        ends = ["src", "127.0.0.1", "dst", "127.0.0.2", "proto", "esp", "spi", "0x7777"]
        done = lab.hosts.run(
            "a",
            ["ip", "xfrm", "state", "add", *ends, "mode", "tunnel", words, name, key, icv, *null],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (name, done.stderr)
        lab.ip("a", "xfrm", "state", "delete", *ends)
    assert kernel_names(lab) == (ALL_NAMES, set())


ALL_NAMES = {*AEAD_NAMES.values(), *CRYPT_NAMES.values(), *AUTH_NAMES.values()}


def kernel_names(lab: Lab) -> tuple[set[str], set[str]]:
    """The kernel's names of the transforms that `ikev2 algorithms --kernel` finds and does not find."""
    argv = [sys.executable, "-m", "ikev2", "algorithms", "--kernel", "--json"]
    done = lab.hosts.run("a", argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for row in json.loads(done.stdout):
        names = {"ENCR": {**AEAD_NAMES, **CRYPT_NAMES}, "INTEG": dict(AUTH_NAMES)}.get(row["type"], {})
        if row["number"] in names:
            found[row["kernel"]].add(names[row["number"]])
        else:
            assert not row["kernel"], row
    return found[True], found[False]


def bypass_leaves_in_clear(lab: Lab) -> None:
    pair = lab.install(child_pair(mode=Mode.TRANSPORT))
    for host, local, remote in (("a", A, B), ("b", B, A)):
        bypass = Bypass(17, (18688, 18751), local, remote)
        lab.call(host, lambda h=host, w=bypass: lab.backends[h].add_bypass(w))
    lab.drain()
    assert lab.exchange(port=CLEAR_PORT) == PACKETS
    assert set(protocols(lab.drain())) == {f"udp/{CLEAR_PORT}"}
    assert lab.exchange() == PACKETS
    assert set(protocols(lab.drain())) == {"esp"}
    assert lab.backends["a"].query(pair[0]).packets_out == PACKETS
    for host, local, remote in (("a", A, B), ("b", B, A)):
        bypass = Bypass(17, (18688, 18751), local, remote)
        lab.call(host, lambda h=host, w=bypass: lab.backends[h].remove_bypass(w))
    assert lab.exchange(port=CLEAR_PORT) == PACKETS
    assert set(protocols(lab.drain())) == {"esp"}


def ike_passes_in_clear(lab: Lab) -> None:
    lab.install(child_pair(mode=Mode.TRANSPORT))
    lab.drain()
    assert lab.exchange(port=500) == PACKETS
    assert set(protocols(lab.drain())) == {"udp/500"}


def clear_packets_are_refused(lab: Lab) -> None:
    lab.install(child_pair(mode=Mode.TRANSPORT))
    lab.call("a", lab.backends.pop("a").close)  # A talks in clear from here on, B has its policies
    lab.drain()
    assert lab.exchange(count=1) == 0
    assert f"udp/{ECHO_PORT}" in protocols(lab.drain()), "the packet did not reach B"


def replayed_and_forged_packets_are_counted(lab: Lab) -> None:
    _, second = lab.install(child_pair())
    lab.drain()
    assert lab.exchange() == PACKETS
    esp = lab.frames("a")
    assert len(esp) == PACKETS
    # A new sequence number, so that the ICV is what is wrong.
    at = 14 + 20 + 4
    forged = esp[-1][:at] + (1000).to_bytes(4, "big") + esp[-1][at + 4 :]
    before = lab.backends["b"].query(second).packets_in
    for frame in (esp[0], forged):
        lab.taps["a"].send(frame)
    counted = lab.backends["b"].query(second)
    assert counted.errors == {"replay": 1, "integrity": 1}, counted
    assert counted.packets_in == before == PACKETS


def congestion_marks_cross_the_tunnel(lab: Lab) -> None:
    """ECT is copied outside; CE comes back in when the packet is ECN-capable, else nothing changes.

    RFC 7296 section 2.24, RFC 4301 section 5.1.2.1 with its footnote 6.
    """
    lab.install(child_pair())
    assert lab.exchange(count=1) == 1
    (known,) = lab.frames("a")

    def divert(link_address: str) -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="veth-a")[0]
            netlink.neigh("replace", dst=B, lladdr=link_address, ifindex=index)

    # What A itself sends goes to a station that is not there; B gets the copy that the test has marked.
    lab.call("a", lambda: divert("02:00:00:00:00:99"))
    with contextlib.ExitStack() as stack, lab.udp("a", A) as client, lab.udp("b", B, ECHO_PORT) as server:
        stack.callback(lab.call, "a", lambda: divert(known[:6].hex(":")))
        server.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        for inside, on_the_way, arrives in ((2, 2, 2), (1, 1, 1), (2, 3, 3), (0, 0, 0), (0, 3, 0)):
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, inside)
            client.sendto(b"marked", (B, ECHO_PORT))
            (frame,) = lab.frames("a")
            assert frame[15] & 3 == inside, "the outer header has another mark"
            lab.taps["a"].send(known[:6] + with_ecn(frame, on_the_way)[6:])
            lab.frames("a")  # that one
            _, ancillary, _, _ = server.recvmsg(100, 100)
            assert ancillary[0][2][0] & 3 == arrives, (inside, on_the_way, ancillary)


def with_ecn(frame: bytes, mark: int) -> bytes:
    """The frame with another ECN field in its IPv4 header, and the checksum made good."""
    header = bytearray(frame[14:34])
    header[1] = header[1] & 0xFC | mark
    header[10:12] = b"\0\0"
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (0xFFFF - (total & 0xFFFF) - (total >> 16)).to_bytes(2, "big")
    return frame[:14] + bytes(header) + frame[34:]


def a_rekeyed_pair_takes_over(lab: Lab) -> None:
    old = lab.install(child_pair(seed=1))
    assert lab.exchange() == PACKETS
    new = lab.install(child_pair("aes256gcm16", seed=2))
    assert lab.exchange() == PACKETS
    for host, old_child, new_child in (("a", old[0], new[0]), ("b", old[1], new[1])):
        backend = lab.backends[host]
        assert backend.query(old_child).packets_out == PACKETS
        assert backend.query(new_child).packets_out == PACKETS
        lab.call(host, lambda h=host, c=old_child: lab.backends[h].delete(c))
    assert lab.exchange() == PACKETS
    for host, child in (("a", new[0]), ("b", new[1])):
        assert lab.backends[host].query(child).packets_in == 2 * PACKETS
        lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def moved(migrates: bool) -> Case:
    """The kernel moves a pair by MIGRATE, and says so to who listens; or it is taken out and put in."""

    def case(lab: Lab) -> None:
        told = {host: lab.call(host, lambda: XfrmSocket(GROUP_MIGRATE)) for host in "ab"}
        with told["a"], told["b"]:
            a_moved_pair_keeps_its_sequence_numbers(lab, by_hand=not migrates)
            for host, notices in told.items():
                kinds = []
                while found := notices.receive_notices():
                    kinds += [message.type for message in found]
                wanted = [XfrmMsg.MIGRATE] * (2 * 3 if migrates else 0)
                assert kinds == wanted, (host, kinds)  # in, fwd and out of two pairs

    return case


def a_moved_pair_keeps_its_sequence_numbers(lab: Lab, *, by_hand: bool) -> None:
    for keyword in ("aes128gcm16", "aes128gcm16-esn"):
        first, second = lab.install(child_pair(keyword))
        others = lab.install(child_pair(keyword, seed=9)) if by_hand else None
        if others is not None:
            for host, child in (("a", first), ("b", second)):
                lab.call(host, lambda h=host, c=child: lab.backends[h].activate(c))
        assert lab.exchange() == PACKETS
        moved_a, moved_b = replace(first, local=A_MOVED), replace(second, remote=A_MOVED)
        lab.call("a", lambda a=first, m=moved_a: lab.backends["a"].update_address(a, m))
        lab.call("b", lambda b=second, m=moved_b: lab.backends["b"].update_address(b, m))
        lab.drain()
        assert lab.exchange() == PACKETS
        esp = [packet for packet in lab.drain() if packet[9] == 50]
        sources = {packet[12:16] for packet in esp}
        assert sources == {socket.inet_aton(A_MOVED), socket.inet_aton(B)}
        numbers = [int.from_bytes(p[24:28]) for p in esp if p[12:16] == socket.inet_aton(A_MOVED)]
        assert numbers == [PACKETS + 1 + n for n in range(PACKETS)], numbers
        assert lab.backends["a"].query(moved_a).packets_out == 2 * PACKETS
        for host, child in (("a", moved_a), ("b", moved_b)):
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
        if others is not None:
            for host, child in (("a", others[0]), ("b", others[1])):
                lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def a_pair_in_udp_is_moved_to_another_port(lab: Lab) -> None:
    """By MIGRATE: the addresses stay, the ports of both SAs change."""
    with contextlib.ExitStack() as stack:
        for host, address, port in (("a", A, 4500), ("a", A, 4501), ("b", B, 4500)):
            sock = stack.enter_context(lab.udp(host, address, port))
            lab.call(host, lambda s=sock, h=host: lab.backends[h].prepare_ike_socket(s, encap=True))
        first, second = lab.install(child_pair("aes128gcm16", encap=True))
        assert lab.exchange() == PACKETS
        moved_a, moved_b = replace(first, encap=UdpEncap(4501, 4500)), replace(second, encap=UdpEncap(4500, 4501))
        told = stack.enter_context(lab.call("b", lambda: XfrmSocket(GROUP_MIGRATE)))
        lab.call("a", lambda: lab.backends["a"].update_address(first, moved_a))
        lab.call("b", lambda: lab.backends["b"].update_address(second, moved_b))
        assert [message.type for message in told.receive_notices()] == [XfrmMsg.MIGRATE]
        lab.drain()
        assert lab.exchange() == PACKETS
        sent = {packet[20:24] for packet in lab.drain() if packet[9] == 17}
        assert sent == {struct.pack("!HH", 4501, 4500), struct.pack("!HH", 4500, 4501)}, sent
        counted = lab.backends["b"].query(moved_b)
        assert (counted.packets_in, counted.packets_out) == (2 * PACKETS, 2 * PACKETS), counted
        for host, child in (("a", moved_a), ("b", moved_b)):
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def the_first_packet_on_standby_makes_it_the_one_that_is_sent_on(lab: Lab) -> None:
    """B has a new pair on standby; A sends on its new pair, and B answers on it from then on."""
    for keyword in ("aes128gcm16", "aes128-sha256-esn"):
        old = lab.install(child_pair(keyword, seed=1))
        assert lab.exchange() == PACKETS
        new = lab.install(child_pair(keyword, seed=2), standby="b")
        backend = lab.backends["b"]
        # A still sends on the old pair when told so: B stays there, too.
        lab.call("a", lambda one=old[0]: lab.backends["a"].activate(one))
        assert lab.exchange() == PACKETS
        assert backend.next_event() is None
        assert backend.query(new[1]).packets_out == 0
        lab.call("a", lambda one=new[0]: lab.backends["a"].activate(one))
        assert lab.exchange(count=1) == 1
        assert backend.query(new[1]).packets_in == 1
        assert select.select([backend.event_fd()], [], [], 5)[0], "the kernel tells of the first packet"
        assert lab.call("b", backend.next_event) is None
        assert lab.exchange() == PACKETS
        counted = backend.query(new[1])
        assert (counted.packets_in, counted.packets_out) == (PACKETS + 1, PACKETS), counted
        assert not select.select([backend.event_fd()], [], [], 0)[0], "and of no other"
        for pair in (old, new):
            for host, child in (("a", pair[0]), ("b", pair[1])):
                lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def options_of_the_kernel_are_what_ip_shows(lab: Lab) -> None:
    """The number of the interface on SAs and policies; a cipher that no device does is done in software."""
    options = KernelOptions(7, 8, HwOffload.AUTO)
    first, _ = lab.install(tuple(replace(one, kernel=options) for one in child_pair()))  # type: ignore[arg-type]
    states = lab.ip("a", "xfrm", "state")
    blocks = {part.split("spi ")[1][:10]: part for part in states.split("src ") if "spi " in part}
    assert "if_id 0x7" in blocks[f"{first.spi_in:#010x}"], states
    assert "if_id 0x8" in blocks[f"{first.spi_out:#010x}"], states
    policies = lab.ip("a", "xfrm", "policy")
    assert (policies.count("if_id 0x7"), policies.count("if_id 0x8")) == (2, 1), policies
    assert "offload" not in policies
    packet = replace(child_pair(seed=4)[0], spi_in=0x3000A, kernel=KernelOptions(hw_offload=HwOffload.PACKET))
    try:
        lab.call("a", lambda: lab.backends["a"].install(packet))
        refusal = ""
    except BackendError as error:
        refusal = str(error)
    assert "cannot install the SA" in refusal, refusal


def limits_end_an_sa(lab: Lab) -> None:
    """With the packet after so many the kernel says so, soft and then hard, and takes the SA away."""
    limits = VolumeLimits(soft_packets=3, hard_packets=5)
    first, second = child_pair()
    first, second = lab.install((replace(first, limits=limits), second))
    text = lab.ip("a", "-s", "xfrm", "state", "list", "spi", f"{first.spi_out:#x}")
    assert re.search(r"limit: soft 3\(packets\), hard 5\(packets\)", text), text
    backend = lab.backends["a"]
    assert lab.exchange(count=3) == 3
    assert lab.call("a", backend.next_event) is None
    assert lab.exchange(count=1) == 1
    said = {event_of(lab, "a") for _ in range(2)}
    assert said == {
        Expire(spi, A, B, hard=False, inbound=spi == first.spi_in) for spi in (first.spi_in, first.spi_out)
    }
    with contextlib.suppress(OSError):  # the kernel refuses to send the last of these
        lab.exchange(count=4)
    event = event_of(lab, "a")
    assert event == Expire(first.spi_out, A, B, hard=True, inbound=False), event
    with lab.call("a", XfrmSocket) as kernel:
        assert first.spi_out not in {sa.info.spi for sa in kernel.dump_sas()}
    by_octets = VolumeLimits(soft_octets=1000, hard_octets=100_000)
    third = lab.install(tuple(replace(one, limits=by_octets, reqid=9) for one in child_pair(seed=7)))  # type: ignore[arg-type]
    with lab.udp("a", A) as client:
        for _ in range(3):
            client.sendto(bytes(600), (B, ECHO_PORT))
    while (event := event_of(lab, "a")).spi != third[0].spi_out:
        assert not event.hard, event
    assert event == Expire(third[0].spi_out, A, B, hard=False, inbound=False), event
    for host, pair in (("a", (first, third[0])), ("b", (second, third[1]))):
        for child in pair:
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def sequence_numbers_run_out(lab: Lab) -> None:
    """Without ESN the kernel says in time that they will, and sends nothing under a number that was there before."""
    pair = lab.install(child_pair())
    assert lab.exchange(count=1) == 1
    with lab.call("a", XfrmSocket) as kernel:
        sent = kernel.get_sa(SaId(ip_address(B), pair[0].spi_out))
        for number, passes in ((LAST_PACKETS, True), (0xFFFFFFFF, False)):
            kernel.delete_sa(sent.info.id)
            moved_on = LifetimeCurrent(packets=number, add_time=sent.info.current.add_time)
            kernel.new_sa(replace(sent, current=moved_on, replay_legacy=ReplayLegacy(number, 0, 0)))
            lab.drain()
            with lab.udp("a", A) as client, contextlib.suppress(OSError):
                client.sendto(b"one more", (B, ECHO_PORT))
            seen = [frame[14:] for frame in lab.frames("a")]
            assert [packet[24:28] for packet in seen] == ([(number + 1).to_bytes(4)] if passes else []), seen
            event = event_of(lab, "a")
            assert event == Expire(pair[0].spi_out, A, B, hard=False, inbound=False), event
    for host, child in zip("ab", pair, strict=True):
        lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def not_its_traffic(mode: Mode) -> Case:
    """What comes on an SA and is not of its selectors is dropped, also where no policy of the host is about it."""

    def case(lab: Lab) -> None:
        any_port, one_port = (
            TrafficSelector.from_network(B, 17, *ports) for ports in ((0, 0xFFFF), (ECHO_PORT,) * 2)
        )
        wide, _ = child_pair(mode=mode, ts_b=(any_port,))
        _, narrow = child_pair(mode=mode, ts_b=(one_port,))
        pair = lab.install((wide, narrow))
        assert lab.exchange() == PACKETS
        lab.drain()
        assert lab.exchange(port=ECHO_PORT + 1, count=1) == 0
        assert protocols(lab.drain()) == ["esp"]
        assert lab.call("b", lab.backends["b"].drops) == {"selector-mismatch": 1}
        assert lab.backends["a"].drops() == {}
        for host, child in zip("ab", pair, strict=True):
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
        nothing_left(lab)

    return case


def between_link_local_addresses(lab: Lab) -> None:
    """A zone says on which link a peer is; the kernel's SAs have none."""
    a, b = "fe80::a", "fe80::b"
    on_a, on_b = (f"%{TwoHosts.interface(host)}" for host in "ab")
    for host, address in (("a", a), ("b", b)):
        lab.ip(host, "address", "add", f"{address}/64", "dev", TwoHosts.interface(host), "nodad")
    selectors = (TrafficSelector.from_network(a),), (TrafficSelector.from_network(b),)
    first, second = child_pair(mode=Mode.TRANSPORT, a=a, b=b, ts_a=selectors[0], ts_b=selectors[1])
    pair = lab.install(
        (replace(first, local=a + on_a, remote=b + on_a), replace(second, local=b + on_b, remote=a + on_b))
    )
    lab.drain()
    with lab.udp("a", "::") as client, lab.udp("b", "::", ECHO_PORT) as server:
        there = (b, ECHO_PORT, 0, lab.call("a", lambda: socket.if_nametoindex(TwoHosts.interface("a"))))
        client.sendto(b"there", there)
        assert server.recv(2048) == b"there"
    assert protocols(lab.drain()) == ["esp"]
    for host, child in zip("ab", pair, strict=True):
        lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def event_of(lab: Lab, host: str) -> Expire:
    """The next event of a limit."""
    backend = lab.backends[host]
    deadline = time.monotonic() + 60
    while (event := lab.call(host, backend.next_event)) is None:
        assert select.select([backend.event_fd()], [], [], deadline - time.monotonic())[0], "no event"
    assert isinstance(event, Expire), event
    return event


def windows_of_all_sizes(lab: Lab) -> None:
    """A packet as far behind as the window is long is taken, one further is late; 0 takes what comes again."""
    for keyword in ("aes128gcm16", "aes128gcm16-esn"):
        for window in (32, 33, 1024, 4096):
            pair = lab.install(child_pair(keyword, replay_window=window))
            with lab.call("b", XfrmSocket) as kernel:
                sas = {sa.info.spi: sa for sa in kernel.dump_sas()}
                sa = sas[pair[1].spi_in]
                has = sa.info.replay_window if sa.replay_esn is None else sa.replay_esn.window
                assert has == window, (window, sa)
                lab.drain()
                assert lab.exchange(count=1) == 1
                (known,) = lab.frames("a")
                # As if so many had come meanwhile: the first is just inside the window, then just outside.
                for top, late in ((window, False), (window + 1, True)):
                    now = kernel.get_sa(sa.info.id)
                    kernel.delete_sa(sa.info.id)
                    kernel.new_sa(received(now, top))
                    lab.taps["a"].send(known)
                    counted = lab.backends["b"].query(pair[1])
                    # With ESN it counts as one of the next 2**32, and has the wrong ICV: RFC 4303 appendix A.
                    reason = "integrity" if keyword.endswith("esn") else "replay"
                    assert counted.errors == ({reason: 1} if late else {}), (window, top, counted)
            for host, child in zip("ab", pair, strict=True):
                lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    pair = lab.install(child_pair(replay_window=0))
    lab.drain()
    assert lab.exchange(count=1) == 1
    (known,) = lab.frames("a")
    lab.taps["a"].send(known)
    counted = lab.backends["b"].query(pair[1])
    assert (counted.packets_in, counted.errors) == (2, {}), counted
    for host, child in zip("ab", pair, strict=True):
        lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def received(sa: Sa, top: int) -> Sa:
    """The SA as after `top` packets, of which none but the last has come; its counters of refusals at zero."""
    info = replace(sa.info, late_packets=0, replayed_packets=0)
    if sa.replay_esn is not None:
        words = len(sa.replay_esn.bitmap)
        return replace(sa, info=info, replay_esn=replace(sa.replay_esn, input=top, bitmap=(0,) * words))
    assert sa.replay_legacy is None or sa.info.replay_window <= 32
    return replace(sa, info=info, replay_legacy=ReplayLegacy(0, top, 1))


def drops_are_counted_by_reason(lab: Lab) -> None:
    """What belongs to no SA: ESP under an unknown SPI, packets in clear, packets without an SA."""
    pair = lab.install(child_pair(mode=Mode.TRANSPORT))
    assert lab.exchange(count=1) == 1
    (known,) = lab.frames("a")
    assert lab.backends["b"].drops() == {}
    lab.taps["a"].send(known[:34] + (0x777777).to_bytes(4, "big") + known[38:])
    assert lab.call("b", lab.backends["b"].drops) == {"unknown-spi": 1}
    with lab.call("a", XfrmSocket) as kernel:
        for sa in kernel.dump_sas():
            if sa.info.spi == pair[0].spi_out:
                kernel.delete_sa(sa.info.id)
    lab.exchange(count=1)
    assert lab.call("a", lab.backends["a"].drops) == {"no-sa": 1}
    lab.call("a", lab.backends.pop("a").close)
    lab.exchange(count=1)
    assert lab.call("b", lab.backends["b"].drops) == {"unknown-spi": 1, "not-protected": 1}


def a_peer_behind_a_nat_that_comes_from_another_port_is_told(lab: Lab) -> None:
    """A's ESP in UDP comes from port 4501 all at once, as after a rebinding: B's kernel says so, and B follows."""
    first, second = child_pair("aes128gcm16", encap=True)
    with contextlib.ExitStack() as stack:
        for host, address, port in (("a", A, 4500), ("a", A, 4501), ("b", B, 4500)):
            sock = stack.enter_context(lab.udp(host, address, port))
            lab.call(host, lambda s=sock, h=host: lab.backends[h].prepare_ike_socket(s, encap=True))
        first, second = lab.install((first, second))
        assert lab.exchange() == PACKETS
        assert lab.backends["b"].next_event() is None
        moved_a = replace(first, encap=UdpEncap(4501, 4500))
        lab.call("a", lambda: lab.backends["a"].update_address(first, moved_a))
        with lab.udp("a", A) as client, lab.udp("b", B, ECHO_PORT) as server:
            client.sendto(b"from another port", (B, ECHO_PORT))
            assert server.recv(2048) == b"from another port"
        event = lab.backends["b"].next_event()
        assert event == PeerMoved(second.spi_in, A, 4501), event
        moved_b = replace(second, encap=UdpEncap(4500, 4501))
        lab.call("b", lambda: lab.backends["b"].update_address(second, moved_b))
        assert lab.exchange() == PACKETS
        assert lab.backends["b"].next_event() is None
        for host, child in (("a", moved_a), ("b", moved_b)):
            lab.call(host, lambda h=host, c=child: lab.backends[h].delete(c))
    nothing_left(lab)


def a_packet_without_an_sa_makes_an_acquire(lab: Lab) -> None:
    first, _ = lab.install(child_pair(reqid=77))
    with lab.call("a", XfrmSocket) as kernel:
        for sa in kernel.dump_sas():
            if sa.info.spi == first.spi_out:
                kernel.delete_sa(sa.info.id)
    lab.exchange(count=1)
    event = lab.backends["a"].next_event()
    assert isinstance(event, Acquire), event
    assert (event.reqid, event.local, event.remote, event.ip_protocol) == (77, A, B, 17), event
    assert event.destination_port == ECHO_PORT, event


def a_taken_spi_is_refused_and_left_alone(lab: Lab) -> None:
    first, _ = child_pair()
    with lab.call("a", XfrmSocket) as kernel:
        other = XfrmBackend(lab.state)
        lab.call("a", other.open)
        lab.call("a", lambda: other.install(first))
        before = kernel.dump_sas()
        try:
            lab.call("a", lambda: lab.backends["a"].install(replace(first, reqid=9)))
            refusal = ""
        except BackendError as error:
            refusal = str(error)
        assert "already there" in refusal
        assert {sa.info.id for sa in kernel.dump_sas()} == {sa.info.id for sa in before}
        lab.call("a", other.close)
    nothing_left(lab)


def a_killed_process_leaves_nothing_for_long(lab: Lab) -> None:
    argv = [sys.executable, __file__, "install-and-wait", str(lab.state)]
    child = lab.hosts.popen("a", argv, stdout=-1, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with lab.call("a", XfrmSocket) as kernel:
        assert len(kernel.dump_sas()) == 3  # a pair, and a larval one
        assert len(kernel.dump_policies()) > 4
        fresh = XfrmBackend(lab.state)
        lab.call("a", fresh.open)
        assert kernel.dump_sas() == []
        assert kernel.dump_policies() == []
        lab.call("a", fresh.close)
    assert not [path for path in lab.state.iterdir() if f"-{os.stat('/proc/self/ns/net').st_ino}-" in path.name]


def install_and_wait(state: Path) -> None:
    backend = XfrmBackend(state)
    backend.open()
    backend.allocate_spi(A, B)
    backend.install(child_pair()[0])
    backend.add_bypass(Bypass(17, (18688, 18751), A, B))
    print("ready", flush=True)
    signal.pause()


def ip_reads_our_words_as_the_same_sa(lab: Lab) -> None:
    """What `words` prints, given to iproute2, makes the SA that our own octets make."""
    lab.close()
    for keyword, mode in (
        ("aes128gcm16", Mode.TUNNEL),
        ("aes256-sha256", Mode.TRANSPORT),
        ("aes128-sha512-esn", Mode.TUNNEL),
        ("chacha20poly1305", Mode.TRANSPORT),  # with a selector of one host and one port at each end
    ):
        backend = XfrmBackend(lab.state)
        lab.call("a", backend.open)
        with lab.call("a", XfrmSocket) as kernel:
            for window in (32, 64):
                first, _ = child_pair(keyword, mode, replay_window=window)
                lab.call("a", lambda b=backend, c=first: b.install(c))
                ours = {sa.info.spi: sa for sa in kernel.dump_sas()}
                lab.call("a", lambda b=backend, c=first: b.delete(c))
                for sa in ours.values():
                    done = lab.hosts.run("a", ["sh", "-c", sa_words(sa)], capture_output=True, text=True)
                    assert done.returncode == 0, (sa_words(sa), done.stderr)
                theirs = {sa.info.spi: sa for sa in kernel.dump_sas()}
                for spi, sa in ours.items():
                    mine, other = (replace(x, info=_timeless(x)) for x in (sa, theirs[spi]))
                    assert mine == other, (mine, other)
                kernel.flush_sas()
        lab.call("a", backend.close)
    lab.open()


def _timeless(sa: object) -> object:
    info = sa.info  # type: ignore[attr-defined]
    return replace(info, current=replace(info.current, add_time=0))


CASES: dict[str, Case] = {
    "probe": probe_finds_the_kernels_esp,
    "probe-algorithms": probe_finds_each_algorithm,
    "tunnel-gcm128": protected("aes128gcm16", Mode.TUNNEL),
    "tunnel-gcm256-encap": protected("aes256gcm16", Mode.TUNNEL, encap=True),
    "tunnel-chacha": protected("chacha20poly1305", Mode.TUNNEL),
    # Outer IPv4 header, SPI and sequence number, IV, 1000 octets and trailer in fours, ICV: 20 + 8 + 8 + 1004 + 16.
    "tunnel-padded": padded(1000, 1056),
    # 1500 less the same headers, in fours: 1448 with the trailer.
    "tunnel-padded-to-mtu": padded(PAD_TO_MTU, 1500),
    "tunnel-gmac128": protected("aes128gmac", Mode.TUNNEL),
    "transport-gmac256-esn": protected("aes256gmac-esn", Mode.TRANSPORT),
    "tunnel-cbc128-sha256": protected("aes128-sha256", Mode.TUNNEL),
    "tunnel-cbc256-sha512-encap": protected("aes256-sha512", Mode.TUNNEL, encap=True),
    "tunnel-cbc128-sha1-esn": protected("aes128-sha1-esn", Mode.TUNNEL),
    "tunnel-ipv6-in-ipv4": protected("aes128gcm16", Mode.TUNNEL, inner6=True),
    "transport-gcm128": protected("aes128gcm16", Mode.TRANSPORT),
    "transport-gcm128-esn": protected("aes128gcm16-esn", Mode.TRANSPORT),
    "transport-chacha-encap": protected("chacha20poly1305", Mode.TRANSPORT, encap=True),
    "transport-cbc192-sha384": protected("aes192-sha384", Mode.TRANSPORT),
    "transport-cbc128-sha256-encap": protected("aes128-sha256", Mode.TRANSPORT, encap=True),
    "transport-ipv6": protected("aes128gcm16", Mode.TRANSPORT, v6=True),
    "bypass": bypass_leaves_in_clear,
    "ike-bypass": ike_passes_in_clear,
    "inbound-policy": clear_packets_are_refused,
    "replay-and-forgery": replayed_and_forged_packets_are_counted,
    "ecn": congestion_marks_cross_the_tunnel,
    "rekey": a_rekeyed_pair_takes_over,
    "moved": moved(migrates=True),
    "moved-by-hand": moved(migrates=False),
    "moved-ports": a_pair_in_udp_is_moved_to_another_port,
    "limits": limits_end_an_sa,
    "sequence-numbers": sequence_numbers_run_out,
    "transport-selectors": not_its_traffic(Mode.TRANSPORT),
    "tunnel-selectors": not_its_traffic(Mode.TUNNEL),
    "transport-link-local": between_link_local_addresses,
    "windows": windows_of_all_sizes,
    "drops": drops_are_counted_by_reason,
    "standby": the_first_packet_on_standby_makes_it_the_one_that_is_sent_on,
    "kernel-options": options_of_the_kernel_are_what_ip_shows,
    "mapping": a_peer_behind_a_nat_that_comes_from_another_port_is_told,
    "acquire": a_packet_without_an_sa_makes_an_acquire,
    "taken-spi": a_taken_spi_is_refused_and_left_alone,
    "killed": a_killed_process_leaves_nothing_for_long,
    "ip-xfrm-words": ip_reads_our_words_as_the_same_sa,
}


@contextlib.contextmanager
def laboratory() -> Iterator[Lab]:
    addresses_a = (f"{A}/24", f"{A_MOVED}/24", f"{A6}/64")
    with tempfile.TemporaryDirectory() as state, TwoHosts(addresses_a, (f"{B}/24", f"{B6}/64")) as hosts:
        yield Lab(hosts, Path(state))


def main(names: list[str]) -> int:
    failed = 0
    with laboratory() as lab:
        for name in names or CASES:
            began = time.monotonic()
            error = ""
            try:
                lab.open()
                CASES[name](lab)
            except Exception:
                error = traceback.format_exc()
                failed += 1
            finally:
                lab.close()
            try:
                nothing_left(lab)
            except AssertionError as left:
                error += f"\nafter close: {left}"
            seconds = round(time.monotonic() - began, 2)
            print(json.dumps({"case": name, "ok": not error, "error": error, "seconds": seconds}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["install-and-wait"]:
        install_and_wait(Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
