"""The trace of the userspace backend: every packet before and after ESP, in one pcapng file.

tshark reads the file, a packet socket on the link says what really went out and came, and scapy's ESP layer opens
what is outside: it must be what is inside.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ikev2"))
from esp_support import child_pair
from userspace_hosts import A6, B6, A, B, two_hosts, why_not

from ikev2.core.types import Mode
from ikev2.io.netns import TwoHosts
from ikev2.io.pcap import read_capture
from interop.peers.ours import Ours

_reason = why_not() or ("" if shutil.which("tshark") else "tshark is not installed")
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(_reason), reason=_reason)]

_PROTOCOLS = (17, 50)


@dataclass
class Traced:
    """One packet of the trace: where, which way, with what words, and its octets."""

    interface: str
    inbound: bool
    comment: str
    data: bytes


def read(path: Path) -> list[Traced]:
    """The trace as tshark has it; the octets by our own reader, in the same order."""
    fields = ("frame.interface_name", "frame.packet_flags_direction", "frame.comment")
    argv = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    packets = list(read_capture(path))
    assert len(rows) == len(packets)
    return [
        Traced(interface, int(direction, 0) == 1, comment, packet.data)
        for (interface, direction, comment), packet in zip(rows, packets, strict=True)
    ]


def comparable(packet: bytes) -> bytes:
    """Without what no socket tells: identification, DF and checksum of an IPv4 header, the flow label of IPv6."""
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes(3) + packet[4:]
    return packet[:4] + bytes(4) + packet[8:10] + bytes(2) + packet[12:]


def opened(packet: bytes, mode: Mode, *, from_a: bool, addresses: tuple[str, str]) -> bytes:
    """What scapy finds in an outside packet."""
    children = child_pair(mode=mode, a=addresses[0], b=addresses[1])
    child = children[0 if from_a else 1]
    layer = IPv6 if ":" in addresses[0] else IP
    association = SecurityAssociation(
        ESP, spi=child.spi_out, crypt_algo="AES-GCM", crypt_key=child.encr_key_out.octets,
        tunnel_header=layer(src=child.local, dst=child.remote) if mode is Mode.TUNNEL else None,
    )  # fmt: skip
    outer = layer(packet)
    if UDP in outer:
        esp = ESP(bytes(outer[UDP].payload))
        if layer is IP:
            outer = (
                IP(src=outer.src, dst=outer.dst, proto=50, ttl=outer.ttl, tos=outer.tos, flags=outer.flags) / esp
            )
        else:
            outer = IPv6(src=outer.src, dst=outer.dst, nh=50, hlim=outer.hlim, tc=outer.tc) / esp
        outer = layer(bytes(outer))
    return bytes(association.decrypt(outer))


@pytest.mark.parametrize("addresses", [(A, B), (A6, B6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("udp", [False, True], ids=["esp", "udp4500"])
@pytest.mark.parametrize("mode", list(Mode))
def test_what_is_outside_is_on_the_link_and_opens_to_what_is_inside(
    mode: Mode, udp: bool, addresses: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "trace.pcapng"
    here, there = addresses
    with two_hosts() as (a, b):
        a.open(trace=str(path))
        b.open()
        for host, side, address in ((a, "a", here), (b, "b", there)):
            if udp:
                host.attach(host=address)
            host.install(side=side, udp=udp, mode=mode.value, a=here, b=there)
            host.real_checksums(interface="v0")
        b.udp_echo(host=there, port=7)
        a.capture_start(interface="v0", ipv6=":" in here)
        assert a.udp_ask(to=there, port=7, octets=500, tos=0x28)[1] == 500
        link = [bytes.fromhex(packet) for packet in a.capture_stop()]
        a.close()
    seen = read(path)
    names = [(one.interface, one.inbound) for one in seen]
    assert names == [("esp-inside", False), ("esp-outside", False), ("esp-outside", True), ("esp-inside", True)]
    assert [one.comment for one in seen] == ["SPI 00002002 sequence number 1"] * 2 + [
        "SPI 00001001 sequence number 1"
    ] * 2
    on_link = [comparable(packet) for packet in link if packet[9 if packet[0] >> 4 == 4 else 6] in _PROTOCOLS]
    assert [comparable(seen[1].data), comparable(seen[2].data)] == on_link
    for outside, inside, from_a in ((seen[1], seen[0], True), (seen[2], seen[3], False)):
        found = opened(outside.data, mode, from_a=from_a, addresses=addresses)
        assert comparable(found) == comparable(inside.data)


@pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")
def test_the_command_traces_what_wireshark_decrypts_with_the_key_log(tmp_path: Path) -> None:
    """`ikev2 run --pcap-esp --keylog` at both ends: IKE, and ESP whose inside tshark finds in the outside."""
    path = tmp_path / "trace.pcapng"
    psk = "0x" + secrets.token_hex(16)
    with TwoHosts() as hosts, ExitStack() as stack:
        ends = {}
        for here, there in (("b", "a"), ("a", "b")):
            addresses = {"a": hosts.address_a, "b": hosts.address_b}
            connection = {
                "local_addrs": [addresses[here]],
                "remote_addrs": [addresses[there]],
                "local": {"id": f"{here}.example"},
                "remote": {"id": f"{there}.example"},
                "children": {"net": {"esp_proposals": ["aes128gcm16"]}},
            }
            document = {"connections": {"lab": connection}, "endpoint": {"backend": "userspace"}}
            options = ("--pcap", str(path), "--pcap-esp") if here == "a" else ()
            ends[here] = stack.enter_context(
                Ours(hosts.host(here), tmp_path / here, document, psk, options=options)
            )
        ends["a"].up("lab")
        done = hosts.run("a", ["ping", "-c", "2", "-i", "0.2", hosts.address_b], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"WARNING: {path} gets in clear what ESP protects" in ends["a"].log_path.read_text()
    argv = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for field in ("frame.interface_name", "esp.sequence", "icmp.type", "icmp.seq"):
        argv += ["-e", field]
    keys = os.environ | {"WIRESHARK_CONFIG_DIR": str(tmp_path / "a" / "keys")}
    rows = subprocess.run(argv, env=keys, capture_output=True, text=True, check=True).stdout.splitlines()
    assert rows[0].startswith("ike|")
    assert [row for row in rows if row.startswith("esp-")] == [
        row
        for number in (1, 2)
        for row in (
            f"esp-inside||8|{number}",
            f"esp-outside|{number}|8|{number}",
            f"esp-outside|{number}|0|{number}",
            f"esp-inside||0|{number}",
        )
    ]


def test_what_was_dropped_has_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    with two_hosts() as (a, b):
        a.open(trace=str(path))
        b.open()
        a.install(side="a")
        b.install(side="b")
        b.udp_echo(host=B, port=7)
        a.capture_start(interface="v0")
        a.udp_ask(to=B, port=7, octets=100)
        answer = next(
            packet
            for packet in map(bytes.fromhex, a.capture_stop())
            if packet[9] == 50 and packet[20:24] == b"\0\0\x10\x01"
        )
        flipped = answer[20:24] + (2).to_bytes(4, "big") + answer[28:]
        b.send_all_esp(data=["0000ffff00000001" + "00" * 40, answer[20:].hex(), flipped.hex()], to=A)
        a.after_dropping(packets=3)
        a.close()
    dropped = [(one.interface, one.inbound, one.comment) for one in read(path)[4:]]
    assert dropped == [
        ("esp-outside", True, "SPI 0000ffff sequence number 1: dropped: unknown-spi"),
        ("esp-outside", True, "SPI 00001001 sequence number 1: dropped: replay"),
        ("esp-outside", True, "SPI 00001001 sequence number 2: dropped: integrity"),
    ]
