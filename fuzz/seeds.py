"""Writes the first inputs of most targets: what a genuine peer says. `python fuzz/seeds.py`

The octets inside the Encrypted payloads of two endpoints of ours are noted as an input gives them: the fuzzer begins
with conversations that go all the way, and changes them.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import tempfile
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ippm_control_peers import WISH, Pair  # noqa: E402
from owamp_control_peers import (  # noqa: E402
    FROM_SERVER,
    NTP_NOW,
    SECOND,
    TO_SERVER,
    OwampPair,
    deliver,
    finish,
    receiver_of,
    sender_of,
)
from sim import network as sim  # noqa: E402

from fuzz import endpoint  # noqa: E402
from fuzz.clients import FEATURES  # noqa: E402
from fuzz.esp import children, udp_packet  # noqa: E402
from ikev2.core.channel import SecureChannel  # noqa: E402
from ikev2.core.types import Address, Role  # noqa: E402
from ikev2.core.types import Mode as ChildMode  # noqa: E402
from ikev2.errors import LocalProtocolError  # noqa: E402
from ikev2.io.pcap import PcapWriter  # noqa: E402
from ikev2.wire.message import Message, received_prefix  # noqa: E402
from ippm.core.client_connection import ControlClientConfig  # noqa: E402
from ippm.core.owamp_client import OwampWish  # noqa: E402
from ippm.core.owamp_events import OwampSessionAccepted  # noqa: E402
from ippm.core.server_policy import ControlServerConfig  # noqa: E402
from ippm.iana import FEATURE_BITS, Mode  # noqa: E402
from ippm.timestamps import ntp_add_ns  # noqa: E402
from ippm.wire.skip_ranges import SkipRange  # noqa: E402
from ippm.wire.stop_descriptions import SessionDescription  # noqa: E402

Channels = dict[tuple[bytes, bytes], SecureChannel]
Act = Callable[[sim.Host, float], None]


def actions() -> list[tuple[str, Act]]:
    """What the peer may begin with: nothing, or one exchange or two."""
    return [
        ("quiet", lambda host, now: None),
        ("rekey", lambda host, now: host.manager.rekey(host.manager.sas[0], now)),
        ("more", lambda host, now: host.manager.make_child(host.manager.sas[0], "more", now)),
        ("rekey-child", lambda host, now: host.manager.rekey_child(next(iter(host.installed.values())), now)),
        ("delete-child", lambda host, now: host.manager.delete_child(next(iter(host.installed.values())), now)),
        ("alive", lambda host, now: host.manager.check_liveness(host.manager.sas[0], now)),
        ("delete", lambda host, now: host.manager.delete(host.manager.sas[0], now)),
    ]


def record(index: int, act: Act) -> bytes:
    """The input that does in situation `index` what the peer does after `act`."""
    network, target = endpoint.SITUATIONS[index]()
    (peer,) = (host for host in network.hosts.values() if host is not target)
    steps = bytearray([index])
    channels: Channels = {}
    receive = target.manager.receive_datagram

    def noted(data: bytes, local: Address, remote: Address, now: float) -> None:
        for host in (peer, target):
            for sa in host.manager.sas:
                if sa.keys is not None and sa.suite is not None:
                    role = sa.role if host is target else _other(sa.role)
                    ends = (sa.spi_i, sa.spi_r)
                    channels[ends] = SecureChannel(sa.suite, sa.keys, role, *ends, sim.SeededEntropy(2))
        steps.extend(step(target, data, channels))
        receive(data, local, remote, now)

    target.manager.receive_datagram = noted  # type: ignore[method-assign]
    try:
        act(peer, network.now)
    except (LocalProtocolError, IndexError, StopIteration):
        return b""
    network.run(network.now + 4.0)
    return bytes(steps)


def step(target: sim.Host, data: bytes, channels: Channels) -> bytes:
    """One datagram as a step of an input."""
    message = Message.parse(data)
    header, sealed = message.header, message.encrypted
    sas = target.manager.sas
    at = next((i for i, sa in enumerate(sas) if sa.spi_i == header.initiator_spi), 0)
    control = (endpoint.RESPONSE if header.is_response else 0) | min(at, 3)
    base = 0
    if sas:
        base = endpoint._expected(sas[at], response=header.is_response)
    number = (header.message_id - base) % 256
    exchange = endpoint.EXCHANGES.index(header.exchange_type)
    if sealed is None:
        content, kind, first = data[28:], endpoint.CLEAR, data[16]
    else:
        channel = channels[header.initiator_spi, header.responder_spi]
        content = channel._inbound.open(received_prefix(data, sealed), sealed.body)
        kind, first = endpoint.SEALED, int(sealed.first_payload)
    return bytes([kind, control, number, exchange, first]) + len(content).to_bytes(2, "big") + content


def _other(role: Role) -> Role:
    return Role.RESPONDER if role is Role.INITIATOR else Role.INITIATOR


def owamp_talk(*wishes: OwampWish, stop: bool = True) -> bytes:
    """What a client says that asks for these sessions, starts and stops them, and fetches the first."""
    pair, said = OwampPair(), bytearray()
    receive = pair.server.receive_data

    def noted(data: bytes, now: float) -> None:
        for at in range(0, len(data), 64):
            piece = data[at : at + 64]
            said.extend(bytes([len(piece) - 1]) + piece)
        receive(data, now)

    pair.server.receive_data = noted  # type: ignore[method-assign]
    pair.set_up()
    for wish in wishes:
        pair.client.request_session(wish, pair.now)
    pair.run()
    sids = [event.session.sid for event in pair.client_events() if isinstance(event, OwampSessionAccepted)]
    if wishes:
        pair.client.start_sessions(pair.now)
        pair.run()
    if stop and wishes:
        ours = [sid for wish, sid in zip(wishes, sids, strict=True) if not wish.server_sends]
        for wish, sid in zip(wishes, sids, strict=True):
            pair.server.session_complete(
                sid, SessionDescription(sid, 1, ()) if wish.server_sends else None, pair.now
            )
        pair.client.stop_sessions([SessionDescription(sid, 20, (SkipRange(3, 5),)) for sid in ours], pair.now)
        pair.run()
        pair.client.fetch_session(sids[0], pair.now)
        pair.run()
    return bytes(said)


def write(target: str, seed: bytes) -> None:
    directory = ROOT / "fuzz" / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


def in_pieces(data: bytes) -> bytes:
    """Octets as `clients.pieces` takes them."""
    return b"".join(
        bytes([len(piece) - 1]) + piece for at in range(0, len(data), 64) if (piece := data[at : at + 64])
    )


class Said:
    """What the server of a pair says, turn by turn: no piece holds an answer to what was not asked yet."""

    def __init__(self, pair: Pair | OwampPair) -> None:
        self.pair = pair
        self.pieces = b""
        self._at = 0

    def turn(self) -> None:
        """Carry all there is, both ways."""
        self.pair.run()
        self.pieces += in_pieces(self.pair.to_client[self._at :])
        self._at = len(self.pair.to_client)


def twamp_server_talk(features: int) -> bytes:
    """What a server says to a client that wants these features (bits of `clients.FEATURES`)."""
    wanted = Mode(0)
    for number, bit in enumerate(FEATURES):
        if features >> number & 1:
            wanted |= bit
    pair = Pair(ControlClientConfig(features=wanted), ControlServerConfig(count=1024, features=FEATURE_BITS))
    said = Said(pair)
    said.turn()
    for _ in range(2):
        pair.client.request_session(WISH, pair.now)
    said.turn()
    pair.client.start_sessions(pair.now)
    said.turn()
    pair.client.stop_sessions(pair.now)
    said.turn()
    return bytes([features]) + said.pieces


def owamp_server_talk() -> bytes:
    """What a server says to a client that has a session each way and fetches one."""
    pair = OwampPair()
    said = Said(pair)
    said.turn()
    pair.client.request_session(TO_SERVER, pair.now)
    pair.client.request_session(FROM_SERVER, pair.now)
    said.turn()
    events = [event for event in pair.client_events() if isinstance(event, OwampSessionAccepted)]
    pair.client.start_sessions(pair.now)
    said.turn()
    sender, receiver = sender_of(events[0].session), receiver_of(events[0].session)
    deliver(sender, receiver, lost=(4,), copied=(5,))
    for event in events:
        sid = event.session.sid
        description = SessionDescription(sid, 20, ()) if event.session.server_sends else None
        pair.server.session_complete(sid, description, pair.now)
    pair.client.stop_sessions([sender.description()], pair.now)
    said.turn()
    sid = events[0].session.sid
    after = ntp_add_ns(NTP_NOW, 10 * SECOND)
    finish(receiver, pair.hooks.store[sid], receiver.finish(sender.description(), after))
    pair.server.session_ended(sid)
    pair.client.fetch_session(sid, pair.now)
    said.turn()
    return said.pieces


def steps(*parts: tuple[int, bytes]) -> bytes:
    """Steps of `esp_engine` and `test_packets`: a number, and octets behind their length."""
    return b"".join(bytes([what]) + len(content).to_bytes(2, "big") + content for what, content in parts)


def write_esp() -> None:
    """A packet each way for each kind of Child SA, and a few that are out of place."""
    four, six = udp_packet(), bytes.fromhex("6000000000083b40") + bytes(32) + bytes(8)
    for number, (ours, _) in enumerate(children()):
        hosts = [str(ip_address(one.start_address)) for one in (ours.ts_local[0], ours.ts_remote[0])]
        is_six = ":" in hosts[0]
        out = udp6(*hosts) if is_six else udp_packet(*hosts, (7, 7))
        back = udp6(*reversed(hosts)) if is_six else udp_packet(*reversed(hosts), (7, 7))
        tunnel = ours.mode is ChildMode.TUNNEL
        kind = (1 if is_six else 0) if tunnel else 2
        inside = back if tunnel else back[40 if is_six else 20 :]
        write("esp_engine", bytes([number]) + steps((kind << 2, inside), (3, out), (1, inside), (2, inside)))
        write(
            "esp_engine", bytes([number]) + steps((0, four), (4, six), (3, four), (3, six), (0x80 | 59 << 1, b""))
        )


def udp6(source: str, destination: str) -> bytes:
    """An IPv6 UDP packet; its checksum is not looked at."""
    ends = b"".join(ip_address(host).packed for host in (source, destination))
    return bytes.fromhex("60000000000c1140") + ends + bytes.fromhex("00070007000c0000") + b"data"


def write_test_packets() -> None:
    """Packets for each mode and each feature."""
    packet = (3).to_bytes(4, "big") + (0xE0000000_00000000).to_bytes(8, "big") + bytes.fromhex("0a010000")
    for first in range(64):
        write("test_packets", bytes([first]) + steps((0, packet), (4, packet + bytes(range(60))), (0, packet * 8)))


def write_captures() -> None:
    """IKE_SA_INIT in a pcap file of each byte order, and in a pcapng file."""
    datagram = bytes(8) + b"\x11" * 8 + bytes.fromhex("2120220800000000") + bytes.fromhex("0000001c")
    udp = bytes.fromhex("01f401f4") + (8 + len(datagram)).to_bytes(2, "big") + bytes(2) + datagram
    packet = bytes.fromhex("45000000000000004011000ac0000201c0000202") + udp
    packet = packet[:2] + len(packet).to_bytes(2, "big") + packet[4:]
    for magic, order in ((b"\xd4\xc3\xb2\xa1", "<"), (b"\xa1\xb2\x3c\x4d", ">")):
        head = magic + struct.pack(order + "HHIIII", 2, 4, 0, 0, 65535, 101)
        write("ikev2_capture", head + struct.pack(order + "IIII", 1, 2, len(packet), len(packet)) + packet)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "seed.pcapng"
        with PcapWriter(path) as writer:
            writer.datagram(
                datagram, Address("192.0.2.1", 500), Address("192.0.2.2", 500), outbound=True, time_ns=1
            )
        write("ikev2_capture", path.read_bytes())


def main() -> None:
    for features in (0, *(1 << number for number in range(len(FEATURES))), (1 << len(FEATURES)) - 1):
        write("twamp_client", twamp_server_talk(features))
    write("owamp_client", owamp_server_talk())
    write_esp()
    write_test_packets()
    write_captures()
    for wishes in ((), (TO_SERVER,), (FROM_SERVER,), (TO_SERVER, FROM_SERVER)):
        for stop in (True, False):
            write("owamp_server", owamp_talk(*wishes, stop=stop))
    for index in range(len(endpoint.SITUATIONS)):
        for _, act in actions():
            if seed := record(index, act):
                write("ikev2_endpoint", seed)
    for number in range(8):
        for index in (0, 1):
            seed = bytes([index, endpoint.ACT, number, endpoint.WAIT, 1, endpoint.WAIT, 3])
            write("ikev2_endpoint", seed)


if __name__ == "__main__":
    main()
