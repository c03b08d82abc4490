"""Writes the first inputs of `ikev2_endpoint` and `owamp_server`: what a genuine peer says. `python fuzz/seeds.py`

The octets inside the Encrypted payloads of two endpoints of ours are noted as an input gives them: the fuzzer begins
with conversations that go all the way, and changes them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from owamp_control_peers import FROM_SERVER, TO_SERVER, OwampPair  # noqa: E402
from sim import network as sim  # noqa: E402

from fuzz import endpoint  # noqa: E402
from ikev2.core.channel import SecureChannel  # noqa: E402
from ikev2.core.types import Address, Role  # noqa: E402
from ikev2.errors import LocalProtocolError  # noqa: E402
from ikev2.wire.message import Message, received_prefix  # noqa: E402
from ippm.core.owamp_client import OwampWish  # noqa: E402
from ippm.core.owamp_events import OwampSessionAccepted  # noqa: E402
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


def main() -> None:
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
