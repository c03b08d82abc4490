"""One host of the namespace tests: a process in a network namespace of its own that does what it is told.

Lines of JSON come in, `{"do": NAME, ...arguments}`, and one line goes out for each: `{"result": ...}` or
`{"error": text}`. When standard input ends, the host takes its backend down and ends.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))

from esp_support import child_pair, udp_packet

from ikev2.core.child_sa import ChildSaParameters, DfBit, Dummies, TunnelHeader, UdpEncap
from ikev2.core.types import Mode
from ikev2.io.pcap import PcapWriter
from ikev2.ipsec.backend import Bypass, Trap, UnknownSpi
from ikev2.ipsec.fragments import fragments
from ikev2.ipsec.ipv4 import ones_complement_sum
from ikev2.ipsec.nftables import NftSocket
from ikev2.ipsec.routing import SOCKET_MARK
from ikev2.ipsec.tun import TunDevice
from ikev2.ipsec.userspace import UserspaceBackend
from ikev2.wire.payloads.ts import TrafficSelector

REPLY_TIMEOUT_S = 30.0
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD


class Capture:
    """What an interface sends and receives of IPv4, or of IPv6, until `stop`."""

    def __init__(self, interface: str, ethertype: int = ETH_P_IP) -> None:
        self._ethertype = ethertype
        self.packets: list[bytes] = []
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        self._sock.bind((interface, 0x0003))
        self._sock.settimeout(0.1)
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # After `stop`, one more round without an answer: everything seen before it is taken.
        while self._take() or self._running:
            pass

    def _take(self) -> bool:
        try:
            data, address = self._sock.recvfrom(65536)
        except TimeoutError:
            return False
        if address[1] == self._ethertype:
            self.packets.append(data)
        return True

    def stop(self) -> list[bytes]:
        self._running = False
        self._thread.join()
        self._sock.close()
        return self.packets


class Host:
    """The commands."""

    def __init__(self) -> None:
        self.backend = UserspaceBackend()
        self.children: dict[str, ChildSaParameters] = {}
        self.ike: list[tuple[bytes, tuple[str, int], tuple[str, int]]] = []
        self.ike_came = threading.Condition()
        self.encap: socket.socket | None = None
        self.capture: Capture | None = None
        self.released = threading.Event()
        self.behind: TunDevice | None = None
        self.listener: socket.socket | None = None

    def run(self, command: str) -> str:
        """A command of the system."""
        done = subprocess.run(command.split(), capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def sysctl(self, name: str, value: str | None = None) -> str:
        path = Path("/proc/sys", *name.split("."))
        if value is not None:
            path.write_text(value)
        return path.read_text().strip()

    def open(self, trace: str | None = None, drops_clear: bool = True) -> str:
        """`trace` is the file that every packet before and after ESP is written to."""
        if trace is not None:
            self.backend = UserspaceBackend(trace=PcapWriter(Path(trace)))
        self.backend.drops_clear = drops_clear
        self.backend.open()
        return self.backend.device

    def probe(self) -> list[object]:
        result = self.backend.probe()
        return [result.ok, result.reason]

    def close(self) -> None:
        self.backend.close()
        if self.encap is not None:
            self.encap.close()
            self.encap = None

    def attach(self, host: str) -> None:
        self.encap = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.encap.bind((host, 4500))
        self.backend.attach_encap_socket(self.encap, self._on_ike)

    def _on_ike(self, data: bytes, local: Any, remote: Any) -> None:
        with self.ike_came:
            self.ike.append((data, tuple(local), tuple(remote)))
            self.ike_came.notify()

    def send_ike(self, data: str, to: str) -> None:
        assert self.encap is not None
        self.encap.sendto(bytes(4) + bytes.fromhex(data), (to, 4500))

    def send_udp(self, data: str, to: str, port: int) -> None:
        """Octets as they are, from the UDP 4500 socket."""
        assert self.encap is not None
        self.encap.sendto(bytes.fromhex(data), (to, port))

    def send_esp(self, data: str, to: str) -> None:
        """Octets as they are, as IP protocol 50, beside every SA."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP) as raw:
            raw.sendto(bytes.fromhex(data), (to, 0))

    def send_all_esp(self, data: list[str], to: str) -> None:
        """The same for many packets."""
        for packet in data:
            self.send_esp(packet, to)

    def after_dropping(self, packets: int) -> None:
        """Wait until so many packets have been dropped, of whatever SA or of none."""
        end = time.monotonic() + REPLY_TIMEOUT_S
        while time.monotonic() < end:
            counted = self.query()
            if sum(counted["errors"].values()) + sum(counted["drops"].values()) >= packets:
                return
            time.sleep(0.01)
        raise RuntimeError(f"fewer than {packets} packets were dropped: {self.query()}")

    def stray(self) -> list[object]:
        """Wait for word of ESP under an unknown SPI: the SPI, our address and the sender's."""
        poll, end = select.poll(), time.monotonic() + REPLY_TIMEOUT_S
        poll.register(self.backend.event_fd(), select.POLLIN)
        while time.monotonic() < end and poll.poll(1000 * (end - time.monotonic())):
            while (event := self.backend.next_event()) is not None:
                if isinstance(event, UnknownSpi):
                    return [f"{event.spi:08x}", list(event.local), list(event.remote)]
        raise RuntimeError("nothing was told of")

    def unreachable_error(self, to: str, port: int) -> None:
        """Have an ICMP error come for the UDP 4500 socket, which asks to be told of errors."""
        assert self.encap is not None
        self.encap.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        with contextlib.suppress(OSError):
            self.encap.sendto(b"\xff", (to, port))

    def error_after_poll(self, to: str, port: int) -> None:
        """An ICMP error that comes when the backend's thread has seen that there is something else to read."""
        assert self.encap is not None
        self.hold()
        self.unreachable_error(to, port)
        waiting = select.poll()
        waiting.register(self.encap, 0)
        assert waiting.poll(1000 * REPLY_TIMEOUT_S)
        plane, met = self.backend._opened(), threading.Event()
        plane._calls.append(lambda: plane._handle(self.encap.fileno(), select.POLLIN))
        plane._calls.append(met.set)
        self.release()
        assert met.wait(REPLY_TIMEOUT_S)

    def becomes_quiet(self) -> bool:
        """Whether nothing is left at the UDP 4500 socket: what is ready for ever keeps a loop busy for ever."""
        assert self.encap is not None
        poll, end = select.poll(), time.monotonic() + REPLY_TIMEOUT_S
        poll.register(self.encap, select.POLLIN)
        while poll.poll(0):
            if time.monotonic() > end:
                return False
        return True

    def wait_ike(self) -> list[Any]:
        with self.ike_came:
            assert self.ike_came.wait_for(lambda: bool(self.ike), REPLY_TIMEOUT_S)
            data, local, remote = self.ike.pop(0)
        return [data.hex(), list(local), list(remote)]

    def install(self, side: str, key: str = "one", **options: Any) -> None:
        self.children[key] = self._child(side, **options)
        self.backend.install(self.children[key])

    def update(self, side: str, key: str = "one", **options: Any) -> None:
        new = self._child(side, **options)
        self.backend.update_address(self.children[key], new)
        self.children[key] = new

    def _child(self, side: str, **options: Any) -> ChildSaParameters:
        options["mode"] = Mode(options.get("mode", "tunnel"))
        if options.pop("udp", False):
            options["encap"] = UdpEncap(4500, 4500)
        for name in ("ts_a", "ts_b"):
            if name in options:
                options[name] = tuple(TrafficSelector.from_network(*entry) for entry in options[name])
        if "spis" in options:
            options["spis"] = tuple(options["spis"])
        header = TunnelHeader(DfBit(options.pop("df", "copy")), options.pop("dscp", None))
        dummies = Dummies(*options.pop("dummies", (0.0, (0, 0))))
        return replace(child_pair(**options)[side == "b"], header=header, dummies=dummies)

    def delete(self, key: str = "one") -> None:
        self.backend.delete(self.children.pop(key))

    def query(self, key: str = "one") -> dict[str, Any]:
        counters = self.backend.query(self.children[key])
        return {
            "packets_in": counters.packets_in,
            "octets_in": counters.octets_in,
            "packets_out": counters.packets_out,
            "octets_out": counters.octets_out,
            "errors": counters.errors,
            "drops": self.backend.drops(),
        }

    def after_sending(self, packets: int, key: str = "one") -> None:
        """Wait until so many packets have gone out on a pair."""
        end = time.monotonic() + REPLY_TIMEOUT_S
        while self.backend.query(self.children[key]).packets_out < packets and time.monotonic() < end:
            os.sched_yield()
        # The thread counts before it sends: what it is asked to do next comes after.
        sent = threading.Event()
        self.backend._opened().after_reading(sent.set)
        sent.wait(REPLY_TIMEOUT_S)

    def kernel_requests(self) -> int:
        """How often the backend has asked the kernel about, or for, links, addresses, rules and routes."""
        return self.backend.kernel_requests

    def bypass(self, ip_protocol: int, first: int, last: int, local: str, remote: str, add: bool = True) -> None:
        bypass = Bypass(ip_protocol, (first, last), local, remote)
        (self.backend.add_bypass if add else self.backend.remove_bypass)(bypass)

    def udp_echo(self, host: str, port: int) -> None:
        """A thread that answers datagrams with (address it saw, TTL, data)."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, port))

        def serve() -> None:
            while True:
                data, remote = sock.recvfrom(65536)
                sock.sendto(data, remote)

        threading.Thread(target=serve, daemon=True).start()

    def udp_ask(self, to: str, port: int, octets: int, local_port: int = 0, tos: int = 0) -> list[Any]:
        """Send one datagram, wait for the echo: who answered, how many octets, from which address of ours."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", local_port))
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            sock.settimeout(REPLY_TIMEOUT_S)
            sock.connect((to, port))
            sock.send(bytes(octets))
            return [sock.getpeername()[0], len(sock.recv(65536)), sock.getsockname()[0]]

    def udp_send(self, to: str, port: int, octets: int, local_port: int = 0, cut: bool = False) -> str:
        """Send one datagram and wait for nothing; the error, if there was one at once. `cut`: without DF."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(("", local_port))
            if cut:
                sock.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
            try:
                sock.sendto(bytes(octets), (to, port))
            except OSError as error:
                return str(error)
        return ""

    def udp_whole(self, to: str, port: int, octets: int) -> list[int]:
        """Send whole datagrams (DF) until one is answered, each as large as the path is said to take.

        Two figures: the MTU that the host was told, and the octets of the answer.
        """
        family, level, discover, mtu, own = socket.AF_INET, socket.IPPROTO_IP, 10, 14, 28
        if ":" in to:
            family, level, discover, mtu, own = socket.AF_INET6, socket.IPPROTO_IPV6, 23, 24, 48
        with contextlib.ExitStack() as stack:
            end = time.monotonic() + REPLY_TIMEOUT_S
            while time.monotonic() < end:
                sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                sock.setsockopt(level, discover, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
                sock.connect((to, port))
                sock.settimeout(0.2)
                octets = min(octets, sock.getsockopt(level, mtu) - own)
                with contextlib.suppress(OSError):
                    sock.send(bytes(octets))
                    return [sock.getsockopt(level, mtu), len(sock.recv(65536))]
        raise RuntimeError(f"no answer, at last to {octets} octets")

    def forward_udp(self, source: str, to: str, port: int, octets: int, mtu: int) -> int:
        """Have a datagram come from a network behind this host, in fragments of `mtu` octets; how many there were."""
        if self.behind is None:
            self.behind = TunDevice("behind")
            self.run("ip link set behind up")
            self.run(f"ip addr add {source.rpartition('.')[0]}.1/24 dev behind")
            self.sysctl("net.ipv4.conf.behind.rp_filter", "0")
        whole = udp_packet(source, to, (40000, port), bytes(octets))
        pieces = fragments(whole, mtu)
        for piece in pieces:
            os.write(self.behind.fd, piece)
        return len(pieces)

    def hold(self) -> None:
        """Keep the backend's thread from reading until `release`, as a busy machine does."""
        held = threading.Event()
        self.released = threading.Event()

        def wait() -> None:
            held.set()
            self.released.wait(REPLY_TIMEOUT_S)

        plane = self.backend._opened()
        plane._calls.append(wait)
        plane._wake()
        held.wait(REPLY_TIMEOUT_S)

    def release(self) -> None:
        """Let the thread go on."""
        self.released.set()

    def listen(self, host: str, port: int) -> None:
        """A UDP socket whose datagrams `heard` takes."""
        self.listener = listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((host, port))
        listener.settimeout(REPLY_TIMEOUT_S)

    def heard_nothing(self) -> bool:
        """Whether no datagram is there for `heard`."""
        assert self.listener is not None
        return not select.select([self.listener], [], [], 0)[0]

    def send_packets(self, packets: list[str]) -> None:
        """Whole IP packets as they are, header and all, beside every SA and every rule."""
        for packet in map(bytes.fromhex, packets):
            family, version6 = (socket.AF_INET6, True) if packet[0] >> 4 == 6 else (socket.AF_INET, False)
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, SOCKET_MARK)
                at = socket.inet_ntop(family, packet[24:40] if version6 else packet[16:20])
                raw.sendto(packet, (at, 0))

    def refused_by(self, to: str, port: int, local_port: int) -> str:
        """The error that a datagram to a port where nobody listens comes back as."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", local_port))
            sock.settimeout(REPLY_TIMEOUT_S)
            sock.connect((to, port))
            sock.send(b"?")
            try:
                sock.recv(100)
            except OSError as error:
                return type(error).__name__
        return ""

    def tables(self) -> list[str]:
        """The tables of nftables in this namespace."""
        nftables = NftSocket()
        try:
            return nftables.tables()
        finally:
            nftables.close()

    def dropped_in_clear(self) -> int:
        """What the table that is there has counted, be its maker alive or dead."""
        nftables = NftSocket()
        try:
            return nftables.packets("ikesp0", "refused")
        finally:
            nftables.close()

    def empty_nftables(self) -> None:
        """As `nft flush ruleset` does where a table cannot be ours alone."""
        table = self.backend._clear
        assert table._socket is not None
        table._socket.delete_table(self.backend.device)

    def trap(self, side: str, **options: Any) -> None:
        child = self._child(side, **options)
        self.backend.add_trap(
            Trap("lab", 1, child.mode, child.local, child.remote, child.ts_local, child.ts_remote)
        )

    def heard(self) -> int:
        """The octets of the next datagram."""
        assert self.listener is not None
        return len(self.listener.recv(65536))

    def tcp_serve(self, host: str, port: int) -> None:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()

    def tcp_ask(self, to: str, port: int, octets: int, local_port: int = 0) -> int:
        with socket.create_connection((to, port), REPLY_TIMEOUT_S, source_address=("", local_port)) as sock:
            threading.Thread(target=sock.sendall, args=(bytes(octets),), daemon=True).start()
            came = 0
            while came < octets:
                data = sock.recv(65536)
                if not data:
                    break
                came += len(data)
            return came

    def tcp_refused(self, to: str, port: int, local_port: int) -> bool:
        """Whether the connection attempt is answered with a reset."""
        try:
            socket.create_connection((to, port), REPLY_TIMEOUT_S, source_address=("", local_port)).close()
        except ConnectionRefusedError:
            return True
        return False

    def ping(self, to: str) -> list[int]:
        """One echo request through a raw socket: [ICMP type of the reply, its TTL]."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(REPLY_TIMEOUT_S)
            sock.connect((to, 0))
            body = struct.pack("!BBHHH", 8, 0, 0, 4711, 1) + b"echo"
            checksum = 0xFFFF ^ ones_complement_sum(body)
            sock.send(body[:2] + struct.pack("!H", checksum) + body[4:])
            while True:
                packet = sock.recv(2048)
                icmp = packet[(packet[0] & 0x0F) * 4 :]
                if icmp[0] == 0:
                    return [icmp[0], packet[8]]

    def capture_start(self, interface: str, ipv6: bool = False) -> None:
        self.capture = Capture(interface, ETH_P_IPV6 if ipv6 else ETH_P_IP)

    def real_checksums(self, interface: str) -> None:
        """Have the kernel make transport checksums itself, so that a capture shows them (ETHTOOL_STXCSUM)."""
        value = array.array("B", struct.pack("=II", 0x17, 0))
        request = struct.pack("16sQ8x", interface.encode(), value.buffer_info()[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, 0x8946, request)  # SIOCETHTOOL

    def ask_with_options(self, to: str, port: int, octets: int) -> int:
        """A datagram with a Hop-by-Hop and a Destination Options header (PadN); the octets of the echo."""
        options = bytes((17, 0, 1, 4, 0, 0, 0, 0))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(REPLY_TIMEOUT_S)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, options)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
            sock.connect((to, port))
            sock.send(bytes(octets))
            return len(sock.recv(65536))

    def capture_stop(self) -> list[str]:
        assert self.capture is not None
        return [packet.hex() for packet in self.capture.stop()]


def main() -> None:
    host = Host()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(host, command.pop("do"))(**command)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    host.close()


if __name__ == "__main__":
    main()
